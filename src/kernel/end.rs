//! How sessions end, and what that means for their stage.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::draft::Draft;
use super::world::{Run, Stage, World};
use super::{context, gates, lane, text, watchdog};
use crate::model::effect::{Answer, Effect};
use crate::model::event::{Inspection, RequestId};
use crate::model::fact::{Fact, SessionChange, StageChange};
use crate::model::gate::GateSubject;
use crate::model::ids::{Oid, SessionId, StageId};
use crate::model::limits::{BACKOFF_FIRST, BACKOFF_MAX};
use crate::model::plan::Agent;
use crate::model::refusal::{Refusal, RefusalKind};
use crate::model::session::{EndReason, Exit, GaveUp, LaneCause, Session, SessionEnd, SessionState};
use crate::model::stage::{BlockCode, BlockReason, Failure, StageState};

pub(super) fn session_ended(world: &World, run: &Run, id: &SessionId, exit: Exit, draft: &mut Draft) {
    let Some(session) = run.sessions.get(id).filter(|session| !session.is_over()) else { return };
    let Some(stage) = run.stages.get(&session.stage) else { return };
    let holds_lease = stage.state.lease() == Some(id);
    if holds_lease && submits_by_exit(stage, session, exit) {
        // The session stays on record until its tree was looked at: a daemon that dies
        // in between finds it again and looks again.
        draft.effect(inspect(run, stage, session, None));
        return;
    }
    draft.session_over(id, end_of(session, stage, exit), exit);
    if !matches!(&stage.state, StageState::Running { .. }) || !holds_lease {
        return;
    }
    match &session.state {
        SessionState::Ending { why: EndReason::Stopped, .. } => {
            draft.stage(&session.stage, StageChange::Readied { retry_at: None });
        }
        SessionState::Ending { why: EndReason::HandingOff, .. } => context::handed_off(world, stage, session, draft),
        SessionState::Ending { why: EndReason::Hung, .. } => {
            let why = watchdog::epitaph(session, draft.now);
            attempt_failed(world, stage, Cause::Crash(why), draft);
        }
        SessionState::Ending { why: EndReason::Killed, .. } => {
            draft.stage(&session.stage, StageChange::Blocked { reason: killed(id) });
        }
        _ if exit == Exit::NeverStarted => draft.stage(&session.stage, StageChange::Readied { retry_at: None }),
        SessionState::Ending { .. } => {
            let cause = Cause::Work(failure(stage, "the session ended without a submission"));
            attempt_failed(world, stage, cause, draft);
        }
        _ => attempt_failed(world, stage, cause_of(stage, exit), draft),
    }
}

/// What outlived a session, for whoever wonders what it had started.
pub(super) fn processes_left(run: &Run, id: &SessionId, processes: &[String], draft: &mut Draft) {
    if run.sessions.get(id).is_some_and(|session| !session.is_over() && session.left != processes) {
        draft.fact(Fact::session(id, SessionChange::ProcessesLeft { processes: processes.to_vec() }));
    }
}

/// As [`session_ended`], for a client that said why; what it says counts while it had the stage
/// and nobody had asked it to end.
pub(super) fn session_gave_up(
    world: &World,
    run: &Run,
    id: &SessionId,
    (exit, why): (Exit, &GaveUp),
    draft: &mut Draft,
) {
    let session = run.sessions.get(id).filter(|session| matches!(session.state, SessionState::Live { .. }));
    let stage = session.and_then(|session| run.stages.get(&session.stage));
    let stage = stage.filter(|stage| matches!(&stage.state, StageState::Running { session } if session == id));
    let Some(stage) = stage else { return session_ended(world, run, id, exit, draft) };
    if let (GaveUp::ContextFull, Some(session)) = (why, run.sessions.get(id)) {
        draft.session_over(id, SessionEnd::HandedOff, exit);
        context::handed_off(world, stage, session, draft);
        return;
    }
    let end = match why {
        GaveUp::Limit { .. } => SessionEnd::RateLimited,
        GaveUp::NotLoggedIn | GaveUp::Refused { .. } => SessionEnd::Blocked,
        _ => SessionEnd::Crashed,
    };
    draft.session_over(id, end, exit);
    gave_up(world, run, stage, why, draft);
}

/// The client of a running stage gave up: blocked where only a person can help, else another
/// attempt after a pause.
pub(super) fn gave_up(world: &World, run: &Run, stage: &Stage, why: &GaveUp, draft: &mut Draft) {
    match why {
        GaveUp::NotLoggedIn => {
            let reason = block(
                BlockCode::NotLoggedIn,
                "Claude Code lost its login: run `claude`, then `/login` in it, then `loom stage retry`",
            );
            draft.fact(Fact::BackendParked { backend: stage.spec.agent.kind(), reason: reason.clone() });
            draft.stage(&stage.spec.id, StageChange::Blocked { reason });
        }
        GaveUp::Limit { until } => {
            let text = "the account's usage limit is reached".to_owned();
            pause(world, run, stage, lane::Met { cause: LaneCause::Limit, text, until: *until }, draft);
        }
        GaveUp::Unavailable { text } => {
            let text = format!("the model cannot be reached: {}", text::one_line(text));
            pause(world, run, stage, lane::Met { cause: LaneCause::Outage, text, until: None }, draft);
        }
        GaveUp::Refused { text } => {
            let text = format!("the model's server refuses every session like this one: {}", text::one_line(text));
            draft.stage(&stage.spec.id, StageChange::Blocked { reason: block(BlockCode::AgentRefused, text) });
        }
        GaveUp::ContextFull => {
            attempt_failed(world, stage, Cause::Crash("the conversation is too long to go on".to_owned()), draft)
        }
        GaveUp::Failed { text } => {
            let cause = Cause::Crash(format!("the client gave up: {}", text::one_line(text)));
            attempt_failed(world, stage, cause, draft);
        }
    }
}

/// It has to do with no session: the lane stops, and the same conversation goes on when it is open again.
fn pause(world: &World, run: &Run, stage: &Stage, met: lane::Met, draft: &mut Draft) {
    lane::stop(world, run, stage, &met, draft);
    draft.stage(&stage.spec.id, StageChange::Paused { why: met.text, resumes: true, retry_at: None });
}

/// A `command` session submits by exiting with 0.
fn submits_by_exit(stage: &Stage, session: &Session, exit: Exit) -> bool {
    matches!(stage.spec.agent, Agent::Command { .. })
        && exit.is_success()
        && matches!(session.state, SessionState::Live { .. })
        && matches!(stage.state, StageState::Running { .. })
}

fn end_of(session: &Session, stage: &Stage, exit: Exit) -> SessionEnd {
    match &session.state {
        SessionState::Ending { why: EndReason::Done, .. } => SessionEnd::Submitted,
        SessionState::Ending { why: EndReason::Blocked, .. } => SessionEnd::Blocked,
        SessionState::Ending { why: EndReason::HandingOff, .. } => SessionEnd::HandedOff,
        SessionState::Ending { why: EndReason::LimitMet, .. } => SessionEnd::RateLimited,
        SessionState::Ending { why: EndReason::Hung, .. } => SessionEnd::Hung,
        SessionState::Ending { .. } => SessionEnd::Killed,
        _ if exit == Exit::TimedOut => SessionEnd::TimedOut,
        _ if exit == Exit::NeverStarted => SessionEnd::NeverStarted,
        _ if !matches!(stage.state, StageState::Running { .. }) => SessionEnd::Submitted,
        _ => SessionEnd::Crashed,
    }
}

fn cause_of(stage: &Stage, exit: Exit) -> Cause {
    match (&stage.spec.agent, exit) {
        (Agent::Command { run }, Exit::Code { .. }) => {
            Cause::Work(failure(stage, format!("`{}` ended with {exit}", text::short_command(run))))
        }
        (_, Exit::Code { code: 0 }) => Cause::Work(failure(stage, "the session ended without a submission")),
        _ => Cause::Crash(format!("the session ended with {exit}")),
    }
}

/// Why an attempt is over without landing.
pub(super) enum Cause {
    /// The work is not good enough: the next attempt starts at once.
    Work(Failure),
    /// The session broke: the next attempt waits a little longer each time.
    Crash(String),
}

/// The next attempt, or blocked when there are none left.
pub(super) fn attempt_failed(world: &World, stage: &Stage, cause: Cause, draft: &mut Draft) {
    let id = stage.spec.id.clone();
    let (failure, retry_at) = match cause {
        Cause::Work(failure) => (failure, None),
        Cause::Crash(text) => (failure(stage, text), Some(retry_at(world, stage, draft.now))),
    };
    let used_up = stage.tries > stage.spec.max_retries;
    let before = last_verdict(stage).filter(|_| failure.checks.is_empty());
    let before = before.map_or_else(String::new, |verdict| format!("; before that: {}", verdict.text));
    let reason = BlockReason {
        code: if failure.checks.is_empty() { BlockCode::AttemptsUsedUp } else { BlockCode::ChecksFailed },
        text: format!("{}; {} used up{before}", failure.text, text::attempts(stage.tries)),
        files: Vec::new(),
    };
    draft.stage(&id, StageChange::Failed { failure, retry_at });
    if used_up {
        draft.stage(&id, StageChange::Blocked { reason });
    }
}

/// The newest attempt that was judged: it says what is wrong with the work, also when a later one
/// ended for another reason.
fn last_verdict(stage: &Stage) -> Option<&Failure> {
    stage.failures.iter().rev().find(|failure| !failure.checks.is_empty())
}

/// `first · 2ⁿ`, capped, plus up to a quarter that depends on the stage alone, so
/// that stages that crashed together do not come back together.
fn retry_at(world: &World, stage: &Stage, now: Timestamp) -> Timestamp {
    let first = world.options.backoff_ms.map_or(BACKOFF_FIRST, Duration::from_millis);
    let pause = first.saturating_mul(1 << stage.crashes.min(16)).min(BACKOFF_MAX);
    let spread: u32 =
        stage.spec.id.as_str().bytes().fold(7, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    let pause = pause + pause / 4 * (spread % 100) / 100;
    now.checked_add(SignedDuration::try_from(pause).unwrap_or(SignedDuration::ZERO)).unwrap_or(now)
}

pub(super) fn failure(stage: &Stage, text: impl Into<String>) -> Failure {
    Failure { attempt: stage.attempts, text: text.into(), ..Failure::default() }
}

/// Why a stage whose session a person killed does not go on by itself.
pub(super) fn killed(session: &SessionId) -> BlockReason {
    block(BlockCode::ByPerson, format!("a person killed session `{session}`"))
}

pub(super) fn block(code: BlockCode, text: impl Into<String>) -> BlockReason {
    BlockReason { code, text: text.into(), files: Vec::new() }
}

/// The effect that looks at what a session wants to submit.
pub(super) fn inspect(run: &Run, stage: &Stage, session: &Session, request: Option<RequestId>) -> Effect {
    Effect::Inspect {
        stage: stage.spec.id.clone(),
        session: session.id.clone(),
        worktree: session.worktree.clone(),
        base: stage.base.clone().unwrap_or_else(|| run.base.clone()),
        request,
    }
}

/// The outcome of an inspection.
pub(super) struct Inspected<'a> {
    pub(super) stage: &'a StageId,
    pub(super) session: &'a SessionId,
    pub(super) request: Option<RequestId>,
    pub(super) inspection: &'a Inspection,
}

pub(super) fn inspected(world: &World, run: &Run, outcome: &Inspected, draft: &mut Draft) {
    let Some(stage) = run.stages.get(outcome.stage) else { return };
    let is_current = match &stage.state {
        StageState::Running { session } => session == outcome.session,
        StageState::Blocked { .. } => outcome.request.is_some(),
        _ => false,
    };
    if !is_current {
        if let Some(request) = outcome.request {
            let refusal = Refusal::user(format!("stage `{}` is no longer waiting for this submission", outcome.stage));
            draft.reply(request, Answer::Refused { refusal });
        }
        return;
    }
    match outcome.request {
        Some(request) => submission_by_request(stage, outcome, request, draft),
        None => submission_by_exit(world, stage, outcome, draft),
    }
}

fn submission_by_exit(world: &World, stage: &Stage, outcome: &Inspected, draft: &mut Draft) {
    let exit = Exit::Code { code: 0 };
    draft.session_over(outcome.session, SessionEnd::Submitted, exit);
    let why = match outcome.inspection {
        Inspection::Clean { head, changes_nothing } => {
            submit(world, stage, head, *changes_nothing, draft);
            return;
        }
        Inspection::Stopped { .. } => {
            draft.stage(outcome.stage, StageChange::Readied { retry_at: None });
            return;
        }
        Inspection::Dirty { files } => format!("the run left uncommitted work: {}", text::some_files(files)),
        Inspection::Unfit { why } => why.clone(),
    };
    attempt_failed(world, stage, Cause::Work(failure(stage, why)), draft);
}

fn submit(world: &World, stage: &Stage, head: &Oid, changes_nothing: bool, draft: &mut Draft) {
    draft.stage(&stage.spec.id, StageChange::Submitted { commit: head.clone() });
    let needs_person = changes_nothing && !stage.spec.stage_type.may_change_nothing();
    if needs_person && stage.approved.as_ref() != Some(head) {
        let subject = GateSubject::EmptyDiff { stage: stage.spec.id.clone(), commit: head.clone() };
        let gate = gates::open(world, subject, draft);
        draft.stage(&stage.spec.id, StageChange::Gated { gate });
    }
}

fn submission_by_request(stage: &Stage, outcome: &Inspected, request: RequestId, draft: &mut Draft) {
    let id = outcome.stage;
    let refusal = match outcome.inspection {
        Inspection::Clean { head, changes_nothing: false } => {
            submit_for(stage, head, request, draft);
            return;
        }
        Inspection::Clean { head, changes_nothing: true } if stage.spec.stage_type.may_change_nothing() => {
            submit_for(stage, head, request, draft);
            return;
        }
        Inspection::Clean { .. } => Refusal::new(RefusalKind::Work, format!("stage `{id}` has nothing to submit"))
            .because("its commit has the same tree as the commit it started from")
            .hint("commit your work, then run `loom stage complete` again")
            .hint(format!("loom stage block {id} --reason \"why it cannot be done\"")),
        Inspection::Dirty { files } => {
            Refusal::new(RefusalKind::Work, format!("stage `{id}` has uncommitted work in {}", text::some_files(files)))
                .because("only what is committed can be proven and landed")
                .hint("git add the files that belong to the work, git commit, then run `loom stage complete` again")
        }
        Inspection::Unfit { why } => {
            Refusal::new(RefusalKind::Work, format!("stage `{id}` cannot be submitted")).because(why.clone())
        }
        Inspection::Stopped { why } => {
            Refusal::new(RefusalKind::Waiting, format!("stage `{id}` cannot be submitted now"))
                .because(why.clone())
                .hint("loom status")
        }
    };
    // Nobody works on it any more: another session can.
    let refusal = match stage.state {
        StageState::Blocked { .. } => refusal.hint(format!("loom stage retry {id}")),
        _ => refusal,
    };
    draft.reply(request, Answer::Refused { refusal });
}

fn submit_for(stage: &Stage, head: &Oid, request: RequestId, draft: &mut Draft) {
    draft.stage(&stage.spec.id, StageChange::Submitted { commit: head.clone() });
    draft.reply(request, Answer::Submitted { commit: head.clone() });
}
