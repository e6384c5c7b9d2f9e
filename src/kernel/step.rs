//! The one transition function, and the draft that its parts fill in.

use jiff::Timestamp;

use super::world::{Run, Stage, World};
use super::{end, gates, queue, request, rules, schedule};
use crate::model::effect::{Answer, Effect};
use crate::model::event::{Event, RequestId, StartFailure};
use crate::model::fact::{Fact, SessionChange, StageChange};
use crate::model::ids::{SessionId, StageId};
use crate::model::refusal::{Refusal, RefusalKind};
use crate::model::session::EndReason;
use crate::model::stage::StageState;

/// What an event makes true, and what is to be done at once because of it.
/// Effects that follow from the world alone come from [`super::due`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "facts that are not recorded did not happen"]
pub struct Step {
    pub facts: Vec<Fact>,
    pub effects: Vec<Effect>,
}

/// Decides what `event` means. Pure: same inputs, same answer.
///
/// # Errors
/// A refusal says what is wrong with a request, or which rule the step would break.
pub fn step(world: &World, event: &Event, now: Timestamp) -> Result<Step, Refusal> {
    let mut draft = Draft { now, step: Step::default() };
    decide(world, event, &mut draft)?;
    rules::rules(world, &draft.step.facts).map_err(|violation| {
        Refusal::new(RefusalKind::Internal, "the step is refused by a rule").because(violation.to_string())
    })?;
    Ok(draft.step)
}

fn decide(world: &World, event: &Event, draft: &mut Draft) -> Result<(), Refusal> {
    if let Event::Request { id, caller, request } = event {
        return request::decide(world, *id, caller, request, draft);
    }
    if let Event::DaemonStarted { options } = event {
        draft.fact(Fact::DaemonStarted { options: options.clone() });
    }
    let Some(run) = &world.run else { return Ok(()) };
    match event {
        Event::Request { .. } => {}
        Event::DaemonStarted { options } => schedule::daemon_started(run, options, draft),
        Event::Schedule => schedule::schedule(world, run, draft),
        Event::RefsSeen { refs } => gates::refs_seen(world, run, refs, draft),
        Event::ConfigSeen { fingerprint } => gates::config_seen(world, run, fingerprint, draft),
        Event::PlanBranchMade { commit } => {
            if run.tip.is_none() {
                draft.fact(Fact::PlanBranchMade { commit: commit.clone() });
            }
        }
        Event::SessionHosted { session, host, token_sha256 } => {
            if run.sessions.get(session).is_some_and(|session| session.host().is_none() && !session.is_over()) {
                let change = SessionChange::Hosted { host: host.clone(), token_sha256: token_sha256.clone() };
                draft.fact(Fact::session(session, change));
                draft.effect(Effect::OpenBarrier { session: session.clone() });
            }
        }
        Event::StartFailed { session, why } => start_failed(world, run, session, why, draft),
        Event::SessionEnded { session, exit } => end::session_ended(world, run, session, *exit, draft),
        Event::Inspected { stage, session, request, inspection } => {
            end::inspected(world, run, &end::Inspected { stage, session, request: *request, inspection }, draft);
        }
        Event::Proved { entry, tip, proof } => queue::proved(world, run, entry, tip, proof, draft),
        Event::Landed { entry, tip, landing } => queue::landed(run, entry, tip, landing, draft),
        Event::LandRefused { entry, moved, why } => queue::land_refused(run, entry, *moved, why, draft),
        Event::BaseFollowed { commit } => draft.fact(Fact::BaseFollowed { commit: commit.clone() }),
        // Commits of the user's own that came in between have ended the follow already.
        Event::BaseStayed { .. } if run.following.is_none() => {}
        Event::BaseStayed { why } => draft.fact(Fact::BaseStayed { why: why.clone() }),
        Event::StageRemoved { stage, rescued } => {
            draft.fact(Fact::StageRemoved { stage: stage.clone(), rescued: rescued.clone() });
        }
        Event::PlanCleaned { rescued } => {
            if !rescued.is_empty() {
                draft.fact(Fact::Rescued { refs: rescued.clone() });
            }
            draft.fact(Fact::PlanCleaned);
        }
        Event::EffectFailed { .. } => {}
    }
    Ok(())
}

fn start_failed(world: &World, run: &Run, session: &SessionId, why: &StartFailure, draft: &mut Draft) {
    let Some(known) = run.sessions.get(session).filter(|session| !session.is_over()) else { return };
    let Some(stage) = run.stages.get(&known.stage) else { return };
    draft.session_over(
        session,
        crate::model::session::SessionEnd::NeverStarted,
        crate::model::session::Exit::NeverStarted,
    );
    if !matches!(&stage.state, StageState::Running { session: lease } if lease == session) {
        return;
    }
    match why {
        StartFailure::Interrupted => draft.stage(&known.stage, StageChange::Readied { retry_at: None }),
        StartFailure::Passing { text } => end::attempt_failed(world, stage, end::Cause::Crash(text.clone()), draft),
        StartFailure::Permanent { code, backend, text } => {
            let reason = crate::model::stage::BlockReason { code: *code, text: text.clone(), files: Vec::new() };
            if code.parks_the_backend() {
                draft.fact(Fact::BackendParked { backend: *backend, reason: reason.clone() });
            }
            draft.stage(&known.stage, StageChange::Blocked { reason });
        }
    }
}

/// Collects facts and effects in order.
pub(super) struct Draft {
    pub(super) now: Timestamp,
    step: Step,
}

impl Draft {
    pub(super) fn fact(&mut self, fact: Fact) {
        self.step.facts.push(fact);
    }
    pub(super) fn stage(&mut self, stage: &StageId, change: StageChange) {
        self.fact(Fact::stage(stage, change));
    }
    pub(super) fn effect(&mut self, effect: Effect) {
        self.step.effects.push(effect);
    }
    pub(super) fn reply(&mut self, request: RequestId, answer: Answer) {
        self.effect(Effect::Reply { request, answer });
    }
    pub(super) fn done(&mut self, request: RequestId, text: impl Into<String>) {
        self.reply(request, Answer::Done { text: text.into() });
    }
    /// Ends the session that holds the stage's lease, if one lives.
    pub(super) fn end_lease(&mut self, run: &Run, stage: &Stage, why: EndReason) {
        if let Some(session) = stage.state.lease() {
            self.end_session(run, session, why);
        }
    }
    pub(super) fn end_session(&mut self, run: &Run, id: &SessionId, why: EndReason) {
        use crate::model::session::SessionState;
        match run.sessions.get(id).map(|session| &session.state) {
            Some(SessionState::Live { .. }) => self.fact(Fact::session(id, SessionChange::Ending { why })),
            Some(SessionState::Planned) => self.session_over(
                id,
                crate::model::session::SessionEnd::NeverStarted,
                crate::model::session::Exit::NeverStarted,
            ),
            _ => {}
        }
    }
    pub(super) fn session_over(
        &mut self,
        id: &SessionId,
        end: crate::model::session::SessionEnd,
        exit: crate::model::session::Exit,
    ) {
        self.fact(Fact::session(id, SessionChange::Ended { end, exit }));
    }
}
