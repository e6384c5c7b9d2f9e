//! The baseline: when a stage's checks are run on its base, what is kept of it, and what it
//! says about a stage.

use jiff::Timestamp;

use super::context::after;
use super::draft::Draft;
use super::world::{Run, Stage, World};
use crate::model::baseline::{Baseline, Look, OnBase};
use crate::model::check::{ChangeImpact, ImpactPolicy, Policy};
use crate::model::effect::Effect;
use crate::model::fact::StageChange;
use crate::model::ids::StageId;
use crate::model::limits::BASELINE_AFTER;
use crate::model::stage::{CheckResult, StageState};

impl Run {
    /// The comparison of a whole suite that this stage's proof makes. One that was begun for an
    /// earlier version of the plan makes none: it is proven again anyway.
    pub fn impact_of(&self, stage: &Stage) -> Option<&ChangeImpact> {
        let impact = self.plan.change_impact.as_ref().filter(|_| stage.asked.is_none());
        impact.filter(|impact| impact.policy != ImpactPolicy::Skip)
    }

    /// Whether what its checks do on the base can make a difference to this stage.
    pub fn needs_baseline(&self, stage: &Stage) -> bool {
        let spec = &stage.spec;
        if self.impact_of(stage).is_some() {
            return true;
        }
        let checks = self.checks_of(stage);
        if spec.stage_type.may_change_nothing() {
            return checks.iter().any(|check| check.policy == Policy::Warn);
        }
        !checks.is_empty() || spec.criteria.commands().next().is_some()
    }

    /// Stages whose session works on a base that nobody has looked at.
    fn unseen(&self) -> impl Iterator<Item = (&StageId, &Stage)> {
        self.stages.iter().filter(|(_, stage)| {
            matches!(stage.state, StageState::Running { .. })
                && stage.baseline.as_ref().is_none_or(|known| Some(&known.base) != stage.base.as_ref())
        })
    }
}

/// When a session has worked for long enough that its stage's base is looked at meanwhile.
fn wanted_at(run: &Run, stage: &Stage) -> Option<Timestamp> {
    run.lease_of(stage)
        .filter(|session| session.host().is_some())
        .map(|session| after(session.started_at, BASELINE_AFTER))
}

pub(super) fn deadlines(run: &Run) -> impl Iterator<Item = Timestamp> {
    run.unseen()
        .filter(|(_, stage)| !stage.wants_baseline && run.needs_baseline(stage))
        .filter_map(|(_, stage)| wanted_at(run, stage))
}

pub(super) fn want(run: &Run, draft: &mut Draft) {
    for (id, stage) in run.unseen().filter(|(_, stage)| !stage.wants_baseline) {
        if wanted_at(run, stage).is_some_and(|at| at <= draft.now) && run.needs_baseline(stage) {
            draft.stage(id, StageChange::BaselineWanted);
        }
    }
}

/// The base that is looked at next, while nothing is proven and nothing lands.
pub(super) fn due(world: &World, run: &Run) -> Option<Effect> {
    if run.landing_gate().is_some() {
        return None;
    }
    let (_, stage) = run.unseen().find(|(_, stage)| stage.wants_baseline)?;
    let spec = &stage.spec;
    Some(Effect::LookAtBase(Box::new(Look {
        stage: spec.id.clone(),
        base: stage.base.clone()?,
        checks: run.checks_of(stage),
        criteria: spec.criteria.clone(),
        impact: run.impact_of(stage).cloned(),
        setup: super::due::setup_of(spec).into_iter().collect(),
        working_dir: spec.working_dir.clone(),
        kept: world.kept.clone(),
        programs: world.programs.clone(),
        plan_path: run.source.path.clone(),
        plan_sha256: run.source.sha256.clone(),
        known: stage.baseline.as_deref().cloned(),
    })))
}

/// A base was looked at. One that is no longer the stage's says nothing.
pub(super) fn looked(run: &Run, id: &StageId, baseline: Option<&Baseline>, draft: &mut Draft) {
    let (Some(stage), Some(baseline)) = (run.stages.get(id), baseline) else { return };
    let is_over = matches!(stage.state, StageState::Waiting | StageState::Skipped { .. });
    if !is_over && stage.base.as_ref() == Some(&baseline.base) && stage.baseline.as_deref() != Some(baseline) {
        draft.stage(id, StageChange::BaselineTaken { baseline: Box::new(baseline.clone()) });
    }
}

/// Whether nothing that passed says anything about the stage: all of it passed before it too,
/// and its plan does not say that it should.
pub fn is_unproven(run: &Run, stage: &Stage, results: &[CheckResult]) -> bool {
    let spec = &stage.spec;
    let is_guard = |result: &CheckResult| {
        let own = spec.checks.iter().chain(&spec.criteria.after).find(|check| check.command == result.command);
        match own {
            Some(check) => check.guard,
            // What the plan asks of every stage, and of unused code, holds before and after.
            None => {
                run.acceptance_of(stage).iter().any(|check| check.command == result.command)
                    || spec.criteria.dead_code.as_ref().is_some_and(|dead| dead.command == result.command)
                    || run.impact_of(stage).is_some_and(|impact| impact.label() == result.command)
            }
        }
    };
    let failed_before = |result: &CheckResult| result.passed && result.base == Some(OnBase::Failed);
    let mut own = results.iter().filter(|result| !is_guard(result)).peekable();
    !spec.stage_type.may_change_nothing()
        && !results.iter().any(failed_before)
        && own.peek().is_some()
        && own.all(|result| result.passed && result.base == Some(OnBase::Passed))
}
