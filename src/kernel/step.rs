//! The one transition function.

use jiff::Timestamp;

use super::draft::{Draft, Step};
use super::world::{PlanEnd, Run, World};
use super::{baseline, context, end, gates, queue, request, rules, schedule, watchdog};
use crate::model::effect::Effect;
use crate::model::event::{Entry, Event, EvidenceRef, StartFailure};
use crate::model::fact::{Fact, SessionChange, StageChange};
use crate::model::ids::{Oid, SessionId};
use crate::model::plan::{Agent, AgentMode};
use crate::model::refusal::{Refusal, RefusalKind};
use crate::model::session::{Exit, SessionEnd, SessionState};
use crate::model::stage::StageState;
use crate::model::terminal::Terminal;

/// Decides what `event` means. Pure: same inputs, same answer.
///
/// # Errors
/// A refusal says what is wrong with a request, or which rule the step would break.
pub fn step(world: &World, event: &Event, now: Timestamp) -> Result<Step, Refusal> {
    let mut draft = Draft::at(now);
    decide(world, event, &mut draft)?;
    rules::rules(world, draft.facts()).map_err(|violation| {
        Refusal::new(RefusalKind::Internal, "the step is refused by a rule").because(violation.to_string())
    })?;
    Ok(draft.into_step())
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
            let change = SessionChange::Hosted { host: host.clone(), token_sha256: token_sha256.clone() };
            session_hosted(world, run, session, change, draft);
        }
        Event::StartFailed { session, why } => start_failed(world, run, session, why, draft),
        Event::SessionEnded { session, exit } => end::session_ended(world, run, session, *exit, draft),
        Event::SessionGaveUp { session, exit, why } => {
            end::session_gave_up(world, run, session, (*exit, why), draft);
        }
        Event::SessionSeen { session, pulse } => watchdog::seen(world, run, session, pulse, draft),
        Event::ProcessesLeft { session, processes } => end::processes_left(run, session, processes, draft),
        Event::SessionMeasured { session, usage } => context::noted(run, session, usage, draft),
        Event::SessionLeft { session, remains } => context::left(run, session, remains, draft),
        Event::Inspected { stage, session, request, inspection } => {
            end::inspected(world, run, &end::Inspected { stage, session, request: *request, inspection }, draft);
        }
        Event::Proved { entry, tip, proof, kept, evidence, baseline } => {
            left_behind(world, kept.as_ref(), evidence, draft);
            if let Entry::Stage { stage } = entry {
                baseline::looked(run, stage, baseline.as_deref(), draft);
            }
            queue::proved(world, run, entry, tip, proof, draft);
        }
        Event::BaseLooked { stage, baseline, kept, evidence } => {
            left_behind(world, kept.as_ref(), evidence, draft);
            baseline::looked(run, stage, baseline.as_deref(), draft);
        }
        Event::ProgramsSeen { fingerprint, changed } => gates::programs_seen(world, run, fingerprint, changed, draft),
        Event::Landed { entry, tip, landing } => queue::landed(run, entry, tip, landing, draft),
        Event::LandRefused { entry, moved, why } => queue::land_refused(run, entry, *moved, why, draft),
        Event::BaseFollowed { commit } => base_followed(run, commit, draft),
        // Commits of the user's own that came in between have ended the follow already.
        Event::BaseStayed { .. } if run.following.is_none() => {}
        Event::BaseStayed { why } => draft.fact(Fact::BaseStayed { why: why.clone() }),
        Event::StageRemoved { stage, rescued } => {
            draft.fact(Fact::StageRemoved { stage: stage.clone(), rescued: rescued.clone() });
        }
        Event::WorktreesTidied { stages, rescued } => {
            draft.fact(Fact::WorktreesTidied { stages: stages.clone(), rescued: rescued.clone() });
        }
        Event::PlanCleaned { rescued } => {
            if !rescued.is_empty() {
                draft.fact(Fact::Rescued { refs: rescued.clone() });
            }
            if run.end == PlanEnd::Completed {
                draft.fact(Fact::PlanCleaned);
            }
        }
        around => around_the_agent(run, around, draft),
    }
    Ok(())
}

/// What is left of checks that ran, whatever they said.
fn left_behind(world: &World, kept: Option<&String>, evidence: &[EvidenceRef], draft: &mut Draft) {
    for evidence in evidence {
        draft.fact(Fact::EvidenceKept { evidence: evidence.clone() });
    }
    if let Some(sha256) = kept.filter(|kept| world.kept.as_ref() != Some(kept)) {
        draft.fact(Fact::CachesKept { sha256: sha256.clone() });
    }
}

/// A follow of a plan that was replaced meanwhile, or that commits of the user's have ended, is
/// seen when the refs are looked at.
fn base_followed(run: &Run, commit: &Oid, draft: &mut Draft) {
    if run.following.as_ref().is_some_and(|(_, to)| to == commit) {
        draft.fact(Fact::BaseFollowed { commit: commit.clone() });
    }
}

/// What comes before the agent of a session, as long as somebody waits for it, and after it.
fn around_the_agent(run: &Run, event: &Event, draft: &mut Draft) {
    let is_planned =
        |id: &SessionId| run.sessions.get(id).is_some_and(|session| session.state == SessionState::Planned);
    match event {
        Event::Preparing { session, what } if is_planned(session) => {
            draft.fact(Fact::session(session, SessionChange::Preparing { what: *what }));
        }
        Event::SetUp { session, duration_ms } if is_planned(session) => {
            draft.fact(Fact::session(session, SessionChange::SetUp { duration_ms: *duration_ms }));
        }
        Event::BeforeHeld { session, checks } => {
            let stage = session.stage();
            let state = run.stages.get(&stage).map(|stage| &stage.state);
            if matches!(state, Some(StageState::Running { session: lease }) if lease == session) && is_planned(session)
            {
                draft.stage(&stage, StageChange::BeforeHeld { checks: checks.clone() });
            }
        }
        Event::TeardownFailed { stage, why } => {
            draft.fact(Fact::TeardownFailed { stage: stage.clone(), why: why.clone() });
        }
        _ => {}
    }
}

fn session_hosted(world: &World, run: &Run, session: &SessionId, change: SessionChange, draft: &mut Draft) {
    if run.sessions.get(session).is_some_and(|session| session.host().is_none() && !session.is_over()) {
        draft.fact(Fact::session(session, change));
        let look_at = watchdog::first_look(world, draft.now);
        draft.fact(Fact::session(session, SessionChange::Looked { look_at, suspect: None }));
        draft.effect(Effect::OpenBarrier { session: session.clone(), viewer: viewer(world, run, session) });
    }
}

fn start_failed(world: &World, run: &Run, session: &SessionId, why: &StartFailure, draft: &mut Draft) {
    let Some(known) = run.sessions.get(session).filter(|session| !session.is_over()) else { return };
    let Some(stage) = run.stages.get(&known.stage) else { return };
    draft.session_over(session, SessionEnd::NeverStarted, Exit::NeverStarted);
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

/// Only what runs in a terminal can be shown in one.
fn viewer(world: &World, run: &Run, session: &SessionId) -> Terminal {
    match run.stages.get(&session.stage()).map(|stage| &stage.spec.agent) {
        Some(Agent::Claude { mode: AgentMode::Interactive, .. }) => world.options.terminal,
        _ => Terminal::None,
    }
}
