//! The merge queue: verdicts and landings.

use std::collections::BTreeSet;

use super::draft::Draft;
use super::end::{Cause, attempt_failed, block};
use super::gates;
use super::text;
use super::world::{BaseEntry, PlanEnd, Run, Stage, World};
use crate::model::event::{AloneVerdict, Entry, Proof};
use crate::model::fact::{Fact, SessionChange, StageChange};
use crate::model::gate::GateSubject;
use crate::model::ids::{Oid, StageId};
use crate::model::judge::Touched;
use crate::model::limits::RETURNS_MAX;
use crate::model::plan::Landing;
use crate::model::session::{Activity, EndReason, SessionState};
use crate::model::stage::{BlockCode, BlockReason, CheckResult, Failure, Phase, Since, StageState, Work};

impl BaseEntry {
    pub fn commit(&self) -> Option<&Oid> {
        match self {
            BaseEntry::Absent => None,
            BaseEntry::Queued { commit }
            | BaseEntry::Proving { commit, .. }
            | BaseEntry::Landing { commit, .. }
            | BaseEntry::Rejected { commit, .. } => Some(commit),
        }
    }
}

pub(super) fn proved(world: &World, run: &Run, entry: &Entry, tip: &Oid, proof: &Proof, draft: &mut Draft) {
    let id = match entry {
        Entry::Base => return base_proved(run, tip, proof, draft),
        Entry::Again { stage } => return proved_again(run, stage, tip, proof, draft),
        Entry::Stage { stage } => stage,
    };
    let Some(stage) = run.stages.get(id) else { return };
    let StageState::Verifying { commit, phase: Phase::Proving { tip: asked }, .. } = &stage.state else { return };
    if asked != tip {
        return;
    }
    match proof {
        Proof::Passed { landing, tree, checks, judges, changes_nothing } => {
            draft.stage(
                id,
                StageChange::Proven {
                    tip: tip.clone(),
                    landing: landing.clone(),
                    tree: tree.clone(),
                    checks: checks.clone(),
                    judges: judges.clone(),
                    changes_nothing: *changes_nothing,
                },
            );
            if stage.approved.as_ref() != Some(commit)
                && let Some(subject) = needs_person(world, stage, commit, judges, *changes_nothing)
            {
                let gate = gates::open(world, subject, draft);
                draft.stage(id, StageChange::Gated { gate });
                draft.end_lease(run, stage, EndReason::Done);
            }
        }
        Proof::Stopped => draft.stage(id, StageChange::Requeued),
        Proof::Failed { checks, alone, work } => red(world, run, stage, checks, (*alone, work.as_deref()), draft),
        Proof::Conflict { files } => {
            draft.stage(
                id,
                StageChange::Blocked {
                    reason: BlockReason {
                        code: BlockCode::MergeConflict,
                        text: format!(
                            "it conflicts with the plan branch in {}; resolve it with `git merge {}` in \
                             .worktrees/{id}, commit, then `loom merge {id}`",
                            text::some_files(files),
                            run.plan.branch()
                        ),
                        files: files.clone(),
                    },
                },
            );
            draft.end_lease(run, stage, EndReason::Done);
        }
        Proof::Broken { why } => {
            draft.stage(
                id,
                StageChange::Blocked {
                    reason: block(BlockCode::ProofFailed, format!("the proof could not be run: {why}")),
                },
            );
            draft.end_lease(run, stage, EndReason::Done);
        }
    }
}

/// Why what is proven does not land by itself.
fn needs_person(
    world: &World,
    stage: &Stage,
    commit: &Oid,
    judges: &[Touched],
    changes_nothing: bool,
) -> Option<GateSubject> {
    let (id, commit) = (stage.spec.id.clone(), commit.clone());
    if !judges.is_empty() {
        return Some(GateSubject::Judges { stage: id, commit, files: judges.to_vec() });
    }
    if changes_nothing && !stage.spec.stage_type.may_change_nothing() {
        return Some(GateSubject::EmptyDiff { stage: id, commit });
    }
    let lands = stage.spec.auto_merge && !world.options.no_merge;
    (!lands).then_some(GateSubject::Land { stage: id, commit })
}

/// A red verdict goes back into the session that waits for it, else to a new attempt.
fn red(
    world: &World,
    run: &Run,
    stage: &Stage,
    checks: &[CheckResult],
    (alone, work): (AloneVerdict, Option<&Work>),
    draft: &mut Draft,
) {
    let tip = run.tip.as_ref().map_or("the plan branch", Oid::short);
    let mut text = text::verdict(checks, tip);
    if alone == AloneVerdict::PassesAlone {
        text.push_str("; the commit passes alone, so it is the combination with what landed meanwhile");
    }
    let failure = Failure {
        attempt: stage.attempts,
        text,
        checks: checks.iter().filter(|check| !check.holds()).cloned().collect(),
        commit: match &stage.state {
            StageState::Verifying { commit, .. } => Some(commit.clone()),
            _ => None,
        },
        since: work.and_then(|work| since(stage, checks, work)),
    };
    let session = stage.state.lease().and_then(|id| run.sessions.get(id));
    match session {
        // An idle client has no hook left that could tell it: its conversation is resumed instead.
        Some(session)
            if matches!(session.state, SessionState::Live { .. })
                && session.activity != Activity::Idle
                && session.returns < RETURNS_MAX =>
        {
            draft.fact(Fact::session(&session.id, SessionChange::Returned));
            draft.stage(&stage.spec.id, StageChange::Returned { failure });
        }
        _ => {
            draft.end_lease(run, stage, EndReason::Done);
            attempt_failed(world, stage, Cause::Work(failure), draft);
        }
    }
}

/// What is different from the verdict before, by check and, where they have names, by failure.
fn since(stage: &Stage, checks: &[CheckResult], work: &Work) -> Option<Since> {
    let before = stage.failures.iter().rev().find(|failure| failure.commit.is_some())?;
    let named = |checks: &[CheckResult]| -> BTreeSet<String> {
        let failed = checks.iter().filter(|check| !check.holds());
        let names = failed.flat_map(|check| match check.failures.as_slice() {
            [] => vec![format!("`{}`", text::short_command(&check.command))],
            failures => failures.iter().map(|name| format!("`{name}`")).collect(),
        });
        names.collect()
    };
    let (was, is) = (named(&before.checks), named(checks));
    Some(Since {
        still: was.intersection(&is).cloned().collect(),
        new: is.difference(&was).cloned().collect(),
        fixed: was.difference(&is).cloned().collect(),
        work: work.clone(),
    })
}

/// A landing that was looked at again with new checks. What fails starts over from the plan
/// branch; where the proof could not be run, it waits for a person before it does.
fn proved_again(run: &Run, id: &StageId, tip: &Oid, proof: &Proof, draft: &mut Draft) {
    if run.again.as_ref() != Some(&(id.clone(), tip.clone())) {
        return;
    }
    let text = match proof {
        // The daemon is on its way out; the next one runs it.
        Proof::Stopped => return,
        Proof::Passed { checks, .. } => {
            draft.stage(id, StageChange::ProvenAgain { tip: tip.clone(), checks: checks.clone() });
            return;
        }
        Proof::Failed { checks, .. } => text::verdict(checks, tip.short()),
        Proof::Conflict { files } => format!("it conflicts with the plan branch in {}", text::some_files(files)),
        Proof::Broken { why } => format!("the proof could not be run: {why}"),
    };
    let reason = format!("it had landed, and the plan's new version does not hold: {text}");
    draft.stage(id, StageChange::Reset { reason: reason.clone() });
    if matches!(proof, Proof::Broken { .. }) {
        draft.stage(id, StageChange::Held);
    }
    draft.stage(id, StageChange::Noted { text: reason });
}

fn base_proved(run: &Run, tip: &Oid, proof: &Proof, draft: &mut Draft) {
    let BaseEntry::Proving { commit, tip: asked } = &run.base_entry else { return };
    if asked != tip {
        return;
    }
    let text = match proof {
        Proof::Stopped => {
            draft.fact(Fact::BaseRequeued);
            return;
        }
        Proof::Passed { landing, tree, checks, .. } => {
            draft.fact(Fact::BaseProven {
                commit: commit.clone(),
                tip: tip.clone(),
                landing: landing.clone(),
                tree: tree.clone(),
                checks: checks.clone(),
            });
            return;
        }
        Proof::Failed { checks, .. } => text::verdict(checks, tip.short()),
        Proof::Conflict { files } => format!(
            "they conflict with the plan branch in {}: `git merge {}` on the base branch settles it, then `loom merge`",
            text::some_files(files),
            run.plan.branch()
        ),
        Proof::Broken { why } => format!("the proof could not be run: {why}"),
    };
    draft.fact(Fact::BaseRejected { commit: commit.clone(), text });
}

pub(super) fn landed(run: &Run, entry: &Entry, tip: &Oid, landing: &Oid, draft: &mut Draft) {
    match entry {
        Entry::Again { .. } => {}
        Entry::Base => {
            if let BaseEntry::Landing { commit, tip: old, landing: new } = &run.base_entry
                && (old, new) == (tip, landing)
            {
                draft.fact(Fact::BaseMerged { commit: commit.clone(), landed: landing.clone() });
                // Newer commits have waited for this.
                draft.effect(super::schedule::look_at_refs(run));
                if run.end != PlanEnd::Open && run.plan.landing != Landing::Manual && run.following.is_none() {
                    draft.fact(Fact::FollowStarted { from: run.base.clone(), to: landing.clone() });
                }
            }
        }
        Entry::Stage { stage: id } => {
            let Some(stage) = run.stages.get(id) else { return };
            if let StageState::Verifying { phase: Phase::Landing { tip: old, landing: new }, .. } = &stage.state
                && (old, new) == (tip, landing)
            {
                draft.end_lease(run, stage, EndReason::Done);
                draft.stage(id, StageChange::Landed { landed: landing.clone() });
            }
        }
    }
}

/// The plan branch did not move. When somebody else moved it: back to the queue, and
/// looking at the refs says why; otherwise a person has to see to it.
pub(super) fn land_refused(run: &Run, entry: &Entry, moved: bool, why: &str, draft: &mut Draft) {
    match (entry, &run.base_entry) {
        (Entry::Base, BaseEntry::Landing { .. }) if moved => draft.fact(Fact::BaseRequeued),
        (Entry::Base, BaseEntry::Landing { commit, .. }) => {
            draft.fact(Fact::BaseRejected { commit: commit.clone(), text: why.to_owned() });
        }
        (Entry::Base | Entry::Again { .. }, _) => {}
        (Entry::Stage { stage: id }, _) => {
            let Some(stage) = run.stages.get(id) else { return };
            if !matches!(stage.state, StageState::Verifying { phase: Phase::Landing { .. }, .. }) {
                return;
            }
            if moved {
                draft.stage(id, StageChange::Requeued);
            } else {
                draft.end_lease(run, stage, EndReason::Done);
                draft.stage(id, StageChange::Blocked { reason: block(BlockCode::ProofFailed, why) });
            }
        }
    }
    draft.effect(super::schedule::look_at_refs(run));
}
