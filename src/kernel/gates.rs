//! Questions to a person: when one is opened, and what its answer does.

use super::budget;
use super::draft::Draft;
use super::end::block;
use super::text;
use super::world::{BaseEntry, Run, World};
use crate::model::effect::Effect;
use crate::model::event::{GateTarget, RefsSeen, RequestId};
use crate::model::fact::{Fact, StageChange};
use crate::model::gate::{Gate, GateSubject};
use crate::model::ids::{GateId, Oid};
use crate::model::refusal::Refusal;
use crate::model::stage::{BlockCode, Phase, StageState};

/// Opens a gate and returns its id.
pub(super) fn open(world: &World, subject: GateSubject, draft: &mut Draft) -> GateId {
    let drafted = draft.facts().iter().filter(|fact| matches!(fact, Fact::GateOpened { .. })).count();
    let gate = GateId(world.gates_opened + 1 + u32::try_from(drafted).unwrap_or(u32::MAX));
    let question = question(&subject);
    draft.fact(Fact::GateOpened { gate, subject, question });
    gate
}

fn question(subject: &GateSubject) -> String {
    match subject {
        GateSubject::EmptyDiff { stage, commit } => {
            format!("stage `{stage}` was submitted at {} and changes nothing: accept that?", commit.short())
        }
        GateSubject::Land { stage, commit } => {
            format!("stage `{stage}` is proven at {}: land it?", commit.short())
        }
        GateSubject::Judges { stage, commit, files } => format!(
            "stage `{stage}` is proven at {} and changed files that judge: {}. See them with `loom stage review {stage}`; land it?",
            commit.short(),
            text::touched(files)
        ),
        GateSubject::Dispute { stage, check, .. } => super::dispute::question(stage, check),
        GateSubject::Programs { changed, .. } => format!(
            "programs on PATH are not those that `loom run` started with: {}. Approve takes them as they are",
            changed.join(", ")
        ),
        GateSubject::PlanBranchMoved { expected, actual } => format!(
            "the plan branch was left at {} and is {}: approve takes it as it is, reject puts it back (and keeps the other commit)",
            expected.short(),
            actual.as_ref().map_or("gone".to_owned(), |actual| format!("at {}", actual.short())),
        ),
        GateSubject::BaseBranchMoved { expected, actual } => format!(
            "the base branch moved from {} to {} in a way that Loom did not make and that is no plain new commit of yours: approve takes it as it is",
            expected.short(),
            actual.short()
        ),
        GateSubject::MergeBase { actual } => format!(
            "the base branch has new commits up to {} and the plan has no `acceptance` to prove the merge with: merge them unproven?",
            actual.short()
        ),
        GateSubject::Budget { stage, reached } => {
            format!("stage `{stage}` has used up its budget: {reached}. Approve grants as much again")
        }
        GateSubject::PlanBudget { reached } => {
            format!("the plan has used up its budget: {reached}. Approve grants as much again, reject pauses the plan")
        }
        GateSubject::Limit { backend, until } => format!(
            "the usage limit of `{backend}` is reached: does the plan go on when it is lifted, at {until:.0}? Reject pauses the plan"
        ),
        GateSubject::RepositoryConfig { .. } => {
            "`.git/config`, a hook, `.git/info/attributes` or `.git/objects/info/alternates` changed since `loom init`: approve the change, or undo it and reject".to_owned()
        }
    }
}

/// Refs are input, not truth: compares them with what Loom left behind.
pub(super) fn refs_seen(world: &World, run: &Run, refs: &RefsSeen, draft: &mut Draft) {
    let Some(tip) = &run.tip else { return };
    let is_stale = refs.asked_base != run.base || refs.asked_tip.as_ref().is_some_and(|asked| asked != tip);
    if is_stale {
        // Loom itself has moved a branch since: what was seen says nothing of now.
        draft.effect(super::schedule::look_at_refs(run));
        return;
    }
    if refs.asked_tip.is_some() && refs.plan_tip.as_ref() != Some(tip) && !is_landing(run) {
        let subject = GateSubject::PlanBranchMoved { expected: tip.clone(), actual: refs.plan_tip.clone() };
        if !run.open_gates().any(|gate| matches!(gate.subject, GateSubject::PlanBranchMoved { .. })) {
            open(world, subject, draft);
        }
        return;
    }
    let Some(base) = refs.base_tip.as_ref().filter(|base| **base != run.base) else { return };
    // A follow under way moves the base branch itself.
    let follows = run.following.as_ref().is_some_and(|(_, to)| to == base);
    // While commits of the branch land, newer ones wait: what is on its way must not be forgotten.
    if matches!(run.base_entry, BaseEntry::Landing { .. }) {
        return;
    }
    if follows || run.open_gates().any(|gate| matches!(gate.subject, GateSubject::BaseBranchMoved { .. })) {
        return;
    }
    if refs.base_is_in_plan {
        draft.fact(Fact::BaseFollowed { commit: base.clone() });
    } else if refs.base_is_forward && !refs.base_has_stage_work {
        draft.fact(Fact::BaseMoved { commit: base.clone() });
        if run.plan.acceptance.is_empty() {
            open(world, GateSubject::MergeBase { actual: base.clone() }, draft);
        }
    } else {
        open(world, GateSubject::BaseBranchMoved { expected: run.base.clone(), actual: base.clone() }, draft);
    }
}

/// While the plan branch is being moved, it may be at either end.
fn is_landing(run: &Run) -> bool {
    matches!(run.base_entry, BaseEntry::Landing { .. })
        || run
            .stages
            .values()
            .any(|stage| matches!(stage.state, StageState::Verifying { phase: Phase::Landing { .. }, .. }))
}

pub(super) fn config_seen(world: &World, run: &Run, fingerprint: &str, draft: &mut Draft) {
    let is_asked = run.open_gates().any(|gate| matches!(gate.subject, GateSubject::RepositoryConfig { .. }));
    if run.ground.config != fingerprint && !is_asked {
        let subject =
            GateSubject::RepositoryConfig { expected: run.ground.config.clone(), actual: fingerprint.to_owned() };
        open(world, subject, draft);
    }
}

pub(super) fn programs_seen(world: &World, run: &Run, fingerprint: &str, changed: &[String], draft: &mut Draft) {
    let is_asked = run.open_gates().any(|gate| matches!(gate.subject, GateSubject::Programs { .. }));
    if world.programs.as_deref() != Some(fingerprint) && !is_asked {
        open(world, GateSubject::Programs { fingerprint: fingerprint.to_owned(), changed: changed.to_vec() }, draft);
    }
}

/// An answer to a gate.
pub(super) struct Reply<'a> {
    pub(super) target: &'a GateTarget,
    pub(super) approved: bool,
    pub(super) reason: &'a str,
}

pub(super) fn answer(run: &Run, request: RequestId, reply: &Reply, draft: &mut Draft) -> Result<(), Refusal> {
    let gate = find(run, reply.target)?;
    if let (true, GateSubject::Dispute { stage, check, .. }) = (reply.approved, &gate.subject) {
        return Err(super::dispute::not_by_approval(run, stage, check));
    }
    draft.fact(Fact::GateAnswered { gate: gate.id, approved: reply.approved, reason: reply.reason.to_owned() });
    let word = if reply.approved { "approved" } else { "rejected" };
    if reply.approved {
        approved(run, gate, draft);
    } else {
        rejected(run, gate, reply.reason, draft);
    }
    draft.done(request, format!("{word} {}: {}", gate.id, gate.question));
    Ok(())
}

fn find<'a>(run: &'a Run, target: &GateTarget) -> Result<&'a Gate, Refusal> {
    let gate = match target {
        GateTarget::Gate { gate } => run.gates.get(gate),
        GateTarget::Stage { stage } => {
            let known = run.stages.get(stage).ok_or_else(|| super::request::unknown_stage(run, stage.as_str()))?;
            match &known.state {
                StageState::Gated { gate, .. } => run.gates.get(gate),
                other => {
                    return Err(Refusal::user(format!(
                        "stage `{stage}` has no open gate: it is {}",
                        other.kind().as_str()
                    ))
                    .hint("loom status"));
                }
            }
        }
    };
    match gate {
        Some(gate) if run.open_gates().any(|open| open.id == gate.id) => Ok(gate),
        Some(gate) if gate.answer.is_none() => {
            Err(Refusal::user(format!("gate `{}` is no longer asked: its stage went on", gate.id)).hint("loom status"))
        }
        Some(gate) => Err(Refusal::user(format!("gate `{}` is already answered", gate.id)).hint("loom status")),
        None => Err(Refusal::user("there is no such gate").hint("loom status")),
    }
}

fn approved(run: &Run, gate: &Gate, draft: &mut Draft) {
    match &gate.subject {
        GateSubject::EmptyDiff { stage, commit }
        | GateSubject::Land { stage, commit }
        | GateSubject::Judges { stage, commit, .. } => {
            draft.stage(stage, StageChange::Approved { commit: commit.clone() });
        }
        // Refused before: only a new version of the plan settles it.
        GateSubject::Dispute { .. } => {}
        GateSubject::PlanBranchMoved { actual: Some(actual), .. } => {
            draft.fact(Fact::TipAccepted { commit: actual.clone() });
        }
        GateSubject::PlanBranchMoved { actual: None, expected } => restore(run, None, expected, draft),
        // It was asked because the plan branch does not have it.
        GateSubject::BaseBranchMoved { actual, .. } => {
            draft.fact(Fact::BaseMoved { commit: actual.clone() });
        }
        GateSubject::MergeBase { .. } | GateSubject::Limit { .. } => {}
        GateSubject::Budget { stage, .. } => {
            draft.fact(Fact::BudgetGranted { stage: Some(stage.clone()), spent: budget::spent(run, Some(stage)) });
            draft.stage(stage, StageChange::Readied { retry_at: None });
        }
        GateSubject::PlanBudget { .. } => {
            draft.fact(Fact::BudgetGranted { stage: None, spent: budget::spent(run, None) });
        }
        GateSubject::Programs { fingerprint, .. } => {
            draft.fact(Fact::ProgramsAccepted { fingerprint: fingerprint.clone() });
        }
        GateSubject::RepositoryConfig { actual, .. } => {
            draft.fact(Fact::ConfigAccepted { fingerprint: actual.clone() });
        }
    }
}

fn rejected(run: &Run, gate: &Gate, reason: &str, draft: &mut Draft) {
    match &gate.subject {
        GateSubject::PlanBudget { reached } => {
            draft.fact(Fact::PlanPaused { why: format!("a person stopped it at its budget: {reached}") });
        }
        GateSubject::Limit { backend, .. } => {
            draft.fact(Fact::PlanPaused { why: format!("a person stopped it at the usage limit of `{backend}`") });
        }
        GateSubject::EmptyDiff { stage, .. }
        | GateSubject::Land { stage, .. }
        | GateSubject::Judges { stage, .. }
        | GateSubject::Budget { stage, .. } => {
            let text = if reason.is_empty() {
                "a person rejected it".to_owned()
            } else {
                format!("a person rejected it: {reason}")
            };
            draft.stage(stage, StageChange::Blocked { reason: block(BlockCode::Rejected, text) });
        }
        GateSubject::Dispute { stage, check, .. } => super::dispute::rejected(stage, check, reason, draft),
        GateSubject::PlanBranchMoved { actual, expected } => restore(run, actual.as_ref(), expected, draft),
        GateSubject::MergeBase { actual } => {
            draft.fact(Fact::BaseRejected {
                commit: actual.clone(),
                text: "a person decided not to merge the base branch's new commits".to_owned(),
            });
        }
        GateSubject::BaseBranchMoved { .. } | GateSubject::RepositoryConfig { .. } | GateSubject::Programs { .. } => {}
    }
}

fn restore(run: &Run, actual: Option<&Oid>, expected: &Oid, draft: &mut Draft) {
    draft.effect(Effect::RestorePlanBranch {
        branch: run.plan.branch(),
        actual: actual.cloned(),
        expected: expected.clone(),
    });
}
