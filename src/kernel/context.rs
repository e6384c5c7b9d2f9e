//! The context budget of a session: what it is told when, its handoff, and how
//! another session takes over.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::budget;
use super::draft::Draft;
use super::end::{Cause, attempt_failed, failure};
use super::world::{Run, Stage, World};
use crate::model::fact::{Fact, SessionChange, StageChange};
use crate::model::handoff::{Author, Handoff, Written};
use crate::model::ids::SessionId;
use crate::model::limits::{CONTEXT_BUDGET_MAX, HANDOFF_TURN, HANDOFFS_MAX};
use crate::model::refusal::{Refusal, RefusalKind};
use crate::model::session::{EndReason, Session, SessionState};
use crate::model::stage::StageState;
use crate::model::usage::{Usage, Zone};

/// Records a measurement, and what the agent is told because of it: once in each zone.
pub(super) fn measured(
    (world, run): (&World, &Run),
    stage: &Stage,
    session: &Session,
    (usage, hears): (&Usage, bool),
    draft: &mut Draft,
) -> Option<String> {
    let now = Session { usage: Some(*usage), ..session.clone() };
    let capped = budget::capped(world, run, stage, &now);
    // At the cap the agent leaves what it has, as at the end of its context budget.
    let zone = if capped.is_some() { Zone::Red } else { Zone::of(usage.percent(), stage.spec.context_budget) };
    let works = matches!((&stage.state, &session.state),
        (StageState::Running { session: lease }, SessionState::Live { .. }) if *lease == session.id);
    let is_news = hears && works && zone > session.told.map_or(Zone::Green, |(told, _)| told);
    if is_news || session.usage.is_none_or(|known| known.is_far_from(usage)) {
        draft.fact(Fact::session(&session.id, SessionChange::Measured { usage: *usage }));
    }
    if !is_news {
        return None;
    }
    draft.fact(Fact::session(&session.id, SessionChange::Told { zone }));
    Some(match zone {
        Zone::Red => hand_off_now(stage, &now, capped.as_deref()),
        _ => prepare(stage, usage),
    })
}

/// A last measurement, of a session that has ended or is about to.
pub(super) fn noted(run: &Run, id: &SessionId, usage: &Usage, draft: &mut Draft) {
    let session = run.sessions.get(id).filter(|session| !session.is_over());
    if session.is_some_and(|session| session.usage != Some(*usage)) {
        draft.fact(Fact::session(id, SessionChange::Measured { usage: *usage }));
    }
}

fn prepare(stage: &Stage, usage: &Usage) -> String {
    format!(
        "Loom: {} % of your context window is used; at {} % another session takes over from you. Get ready: commit what \
         works, and keep in mind what it has to know. You need not stop now.",
        usage.percent(),
        stage.spec.context_budget.min(CONTEXT_BUDGET_MAX),
    )
}

/// What an agent reads that has to hand off.
pub(super) fn hand_off_now(stage: &Stage, session: &Session, capped: Option<&str>) -> String {
    let percent = session.usage.map_or(stage.spec.context_budget, |usage| usage.percent());
    let why = match capped {
        Some(capped) => format!("{capped}. A person decides whether the work goes on."),
        None => format!(
            "your context budget is used up ({} % or more of the window). Another session goes on with this stage.",
            percent.min(stage.spec.context_budget)
        ),
    };
    format!(
        "Loom: {why} Do this now and nothing else:\n\
         1. Commit what works (`git add …`, `git commit`).\n\
         2. Run `loom handoff` with this on its standard input, in your own words:\n\n{}\n\n\
         3. End your turn.\n\
         If the work is done already, run `loom stage complete {}` instead.",
        include_str!("handoff.md").trim_end(),
        stage.spec.id,
    )
}

pub(super) fn hands_off(session: &Session) -> bool {
    session.told.is_some_and(|(zone, _)| zone == Zone::Red)
}

/// Takes an agent's handoff in, or sends it back once: says what happens now.
pub(super) fn handoff(
    stage: &Stage,
    session: &Session,
    handoff: &Handoff,
    draft: &mut Draft,
) -> Result<String, Refusal> {
    let id = &stage.spec.id;
    if handoff.says_nothing() {
        return Err(Refusal::new(RefusalKind::Work, format!("the handoff of stage `{id}` says nothing"))
            .because("the next session knows only the code and what you write here")
            .hint("loom handoff < notes.md   (## Status, ## Done, ## Decisions, ## Open work, ## Next steps …)")
            .hint("loom handoff --status \"where it stands\" --next \"what to do first\""));
    }
    write(stage, session, Author::Agent, handoff, draft);
    Ok(match hands_off(session) && matches!(stage.state, StageState::Running { .. }) {
        true => "your handoff is kept. End your turn now: another session goes on with it".to_owned(),
        false => {
            format!("your handoff is kept: the next session of `{id}` and its dependents read it. Go on with your work")
        }
    })
}

fn write(stage: &Stage, session: &Session, by: Author, handoff: &Handoff, draft: &mut Draft) {
    let number = stage.handoff.as_ref().map_or(1, |written| written.number + 1);
    let written = Written { number, session: session.id.clone(), by, handoff: handoff.clone() };
    draft.stage(&stage.spec.id, StageChange::HandoffWritten { written: Box::new(written) });
}

/// Loom writes the handoff of a session that did not, from what can be seen from outside.
pub(super) fn left(run: &Run, id: &SessionId, remains: &Handoff, draft: &mut Draft) {
    let Some(session) = run.sessions.get(id).filter(|session| !session.is_over()) else { return };
    let Some(stage) = run.stages.get(&session.stage) else { return };
    let has_lease = matches!(&stage.state, StageState::Running { session } if session == id);
    let wrote = stage.handoff.as_ref().is_some_and(|written| written.session == *id && written.by == Author::Agent);
    if !has_lease || wrote {
        return;
    }
    let mut handoff = remains.clone();
    let failed = stage.checks.iter().filter(|check| !check.holds());
    handoff.open.extend(failed.map(|check| format!("the check `{}` failed in the last verdict", check.command)));
    let known = stage.handoff.as_ref().filter(|written| written.session == *id).map(|written| &written.handoff);
    if known != Some(&handoff) {
        write(stage, session, Author::Loom, &handoff, draft);
    }
}

/// Its session handed off, or is too long to go on: another one continues the attempt.
pub(super) fn handed_off(world: &World, stage: &Stage, session: &Session, draft: &mut Draft) {
    let is_full = |usage: Usage| Zone::of(usage.percent(), stage.spec.context_budget) == Zone::Red;
    let capped = world.run.as_ref().and_then(|run| budget::capped(world, run, stage, session));
    if let Some(why) = capped.filter(|_| !session.usage.is_some_and(is_full)) {
        draft.stage(&stage.spec.id, StageChange::Paused { why, resumes: true, retry_at: None });
        return;
    }
    if stage.handoffs >= HANDOFFS_MAX {
        let text =
            format!("it was handed off {} times without being submitted: split it into smaller stages", HANDOFFS_MAX);
        attempt_failed(world, stage, Cause::Work(failure(stage, text)), draft);
        return;
    }
    let used = session.usage.map(|usage| format!(" at {} % of its context window", usage.percent()));
    let why = format!("session `{}` handed off{}", session.id, used.unwrap_or_default());
    draft.stage(&stage.spec.id, StageChange::Paused { why, resumes: false, retry_at: None });
}

/// Ends the sessions whose time to hand off is over.
pub(super) fn end_overdue(run: &Run, draft: &mut Draft) {
    for (session, at) in overdue(run) {
        if at <= draft.now {
            draft.end_session(run, &session.id, EndReason::HandingOff);
        }
    }
}

/// When sessions that were asked for their handoff are ended without it.
pub(super) fn deadlines(run: &Run) -> impl Iterator<Item = Timestamp> {
    overdue(run).map(|(_, at)| at)
}

fn overdue(run: &Run) -> impl Iterator<Item = (&Session, Timestamp)> {
    run.live_sessions().filter_map(|session| {
        let (zone, at) = session.told?;
        let stage = run.stages.get(&session.stage)?;
        let works = matches!(&stage.state, StageState::Running { session: lease } if *lease == session.id)
            && matches!(session.state, SessionState::Live { .. });
        (works && zone == Zone::Red).then(|| (session, after(at, HANDOFF_TURN)))
    })
}

/// `at + pause`; `at` where that is beyond all time.
pub(super) fn after(at: Timestamp, pause: Duration) -> Timestamp {
    at.checked_add(SignedDuration::try_from(pause).unwrap_or(SignedDuration::ZERO)).unwrap_or(at)
}
