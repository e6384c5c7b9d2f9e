//! The rules: predicates over the candidate world, evaluated in the commit.
//! Only the stages and sessions that the candidate facts name are looked at.

use std::collections::BTreeMap;

use super::world::{Run, Stage, World};
use crate::model::fact::{Fact, SessionChange, StageChange};
use crate::model::ids::{SessionId, StageId};
use crate::model::stage::{CheckResult, Phase, StageState, StateKind};

/// A step that would break a rule; its id is API.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rule}: {text}")]
pub struct Violation {
    pub rule: &'static str,
    pub text: String,
}

fn violation(rule: &'static str, text: impl Into<String>) -> Violation {
    Violation { rule, text: text.into() }
}

/// Evaluates every rule on `facts`, in order, on top of `world`.
///
/// # Errors
/// The first rule that the facts break; then none of them is recorded.
pub fn rules(world: &World, facts: &[Fact]) -> Result<(), Violation> {
    let Some(run) = &world.run else { return Ok(()) };
    let mut touched: BTreeMap<StageId, Stage> = BTreeMap::new();
    let mut ended: Vec<&SessionId> = Vec::new();
    let mut answered = Vec::new();
    for fact in facts {
        match fact {
            Fact::PlanLoaded { .. } => return Ok(()),
            Fact::Stage { stage: id, change } => {
                let known = run.stages.get(id).ok_or_else(|| violation("R1", format!("there is no stage `{id}`")))?;
                let stage = touched.entry(id.clone()).or_insert_with(|| known.clone());
                check_stage(run, stage, change, &ended)?;
                stage.apply(change, jiff::Timestamp::UNIX_EPOCH);
            }
            Fact::Session { session, change: SessionChange::Ended { .. } | SessionChange::Ending { .. } } => {
                ended.push(session);
            }
            Fact::Session { session, change: SessionChange::Hosted { .. } } => check_fence(run, session)?,
            Fact::GateAnswered { gate, .. } => {
                let open = run.gates.get(gate).is_some_and(|gate| gate.answer.is_none());
                if !open || answered.contains(&gate) {
                    return Err(violation("R13", format!("gate {gate} is not open")));
                }
                answered.push(gate);
            }
            _ => {}
        }
    }
    Ok(())
}

/// R8: only the newest session of a stage may act for it.
fn check_fence(run: &Run, session: &SessionId) -> Result<(), Violation> {
    let newest = run.stages.get(&session.stage()).map_or(0, |stage| stage.sessions);
    if *session == SessionId::of(&session.stage(), newest) {
        Ok(())
    } else {
        Err(violation("R8", format!("session `{session}` is not the newest of its stage")))
    }
}

fn check_stage(run: &Run, stage: &Stage, change: &StageChange, ended: &[&SessionId]) -> Result<(), Violation> {
    let id = &stage.spec.id;
    if !is_legal(&stage.state, change) {
        return Err(violation(
            "R1",
            format!("stage `{id}` is {} and cannot take {change:?}", stage.state.kind().as_str()),
        ));
    }
    match change {
        StageChange::Started { session, .. } | StageChange::Continued { session } => {
            if !run.dependencies_met(&stage.spec) {
                return Err(violation("R10", format!("stage `{id}` starts before its dependencies are merged")));
            }
            let other = run.live_sessions().find(|other| other.stage == *id && !ended.contains(&&other.id));
            if let Some(other) = other {
                return Err(violation("R7", format!("stage `{id}` already has the live session `{}`", other.id)));
            }
            if *session != SessionId::of(id, stage.sessions + 1) {
                return Err(violation("R8", format!("session `{session}` has a stale fencing number")));
            }
            if matches!(change, StageChange::Started { .. }) && stage.tries > stage.spec.max_retries {
                return Err(violation("R16", format!("stage `{id}` has used up its attempts")));
            }
        }
        StageChange::Proven { checks, .. } => {
            if checks.is_empty() && stage.approved.is_none() {
                return Err(violation("R15", format!("stage `{id}` is proven by nothing")));
            }
            let holds = |check: &&CheckResult| check.passed || run.tolerates(stage, check);
            if let Some(check) = checks.iter().find(|check| !holds(check)) {
                return Err(violation("R2", format!("stage `{id}` has the failed check `{}`", check.command)));
            }
            let mut required = run.required(stage);
            if let Some(missing) = required.find(|want| !checks.iter().any(|got| got.command == **want)) {
                return Err(violation("R18", format!("stage `{id}` was not judged by {missing}")));
            }
        }
        StageChange::ProvenAgain { checks, .. } => {
            let holds = |check: &CheckResult| check.passed || run.tolerates(stage, check);
            if checks.is_empty() || !checks.iter().all(holds) {
                return Err(violation("R2", format!("stage `{id}` is proven again by checks that did not pass")));
            }
            let mut required = run.required(stage);
            if let Some(missing) = required.find(|want| !checks.iter().any(|got| got.command == **want)) {
                return Err(violation("R18", format!("stage `{id}` was not judged again by {missing}")));
            }
        }
        StageChange::Landed { landed } => match &stage.state {
            StageState::Verifying { phase: Phase::Landing { landing, .. }, commit, .. } if landing == landed => {
                if stage.approved.as_ref() != Some(commit) {
                    lands_by_itself(stage)?;
                }
            }
            _ => return Err(violation("R2", format!("stage `{id}` lands a commit that was not proven"))),
        },
        StageChange::Skipped { reason, .. } | StageChange::Reset { reason } if reason.is_empty() => {
            return Err(violation("R12", format!("stage `{id}` is overridden without a reason")));
        }
        _ => {}
    }
    Ok(())
}

/// R4 and R5: what lands only when a person has said so.
fn lands_by_itself(stage: &Stage) -> Result<(), Violation> {
    let id = &stage.spec.id;
    if let Some(file) = stage.judges.first() {
        return Err(violation("R4", format!("stage `{id}` changed `{}`, which judges it", file.path)));
    }
    if stage.changes_nothing && !stage.spec.stage_type.may_change_nothing() {
        return Err(violation("R5", format!("stage `{id}` changes nothing")));
    }
    Ok(())
}

/// R1, the transition table: which change may happen in which state.
pub(super) fn is_legal(state: &StageState, change: &StageChange) -> bool {
    use StateKind::{Blocked, Gated, Merged, Ready, Running, Skipped, Verifying, Waiting};
    let from: &[StateKind] = match change {
        StageChange::Readied { .. } => &[Waiting, Ready, Running, Gated, Blocked],
        StageChange::Started { .. } => &[Ready],
        StageChange::Continued { .. } => &[Ready],
        StageChange::Paused { .. } => &[Running, Gated],
        StageChange::Disputed { .. } => &[Running],
        StageChange::HandoffWritten { .. } => &[Running, Verifying],
        StageChange::BeforeHeld { .. } => &[Running],
        StageChange::Submitted { .. } => &[Running, Blocked, Gated],
        StageChange::ProofStarted { .. } | StageChange::Requeued | StageChange::Proven { .. } => &[Verifying],
        StageChange::Returned { .. } | StageChange::Landed { .. } => &[Verifying],
        StageChange::Failed { .. } => &[Running, Verifying],
        StageChange::ProofAgainStarted { .. } | StageChange::ProvenAgain { .. } => &[Merged],
        StageChange::BaselineWanted => &[Running],
        StageChange::BaselineTaken { .. } => &[Ready, Running, Verifying, Gated, Blocked, Merged],
        StageChange::Gated { .. } => &[Ready, Verifying],
        StageChange::Approved { .. } => &[Gated],
        StageChange::Blocked { .. } => &[Waiting, Ready, Running, Verifying, Gated, Blocked],
        StageChange::Skipped { .. } => &[Waiting, Ready, Running, Gated, Blocked, Skipped],
        StageChange::Reset { .. } => &[Waiting, Ready, Running, Gated, Blocked, Merged, Skipped],
        StageChange::Held | StageChange::Released | StageChange::Noted { .. } => {
            &[Waiting, Ready, Running, Verifying, Gated, Blocked]
        }
    };
    if !from.contains(&state.kind()) {
        return false;
    }
    match (change, state) {
        (StageChange::ProofStarted { .. }, StageState::Verifying { phase, .. }) => *phase == Phase::Queued,
        (StageChange::Proven { .. }, StageState::Verifying { phase, .. }) => matches!(phase, Phase::Proving { .. }),
        (StageChange::Landed { .. }, StageState::Verifying { phase, .. }) => matches!(phase, Phase::Landing { .. }),
        (StageChange::Returned { .. }, StageState::Verifying { session, .. }) => session.is_some(),
        _ => true,
    }
}
