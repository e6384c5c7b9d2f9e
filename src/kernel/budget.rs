//! What a plan may use: how many sessions at once, how much of a budget is left, and what a usage
//! limit of the account means. A session is admitted before it starts; one that works is asked
//! to leave what it has.

use std::collections::BTreeMap;

use super::draft::Draft;
use super::gates;
use super::world::{Run, Stage, World};
use crate::model::budget::{Budget, OnLimit, Spent};
use crate::model::fact::{Fact, StageChange};
use crate::model::gate::GateSubject;
use crate::model::ids::StageId;
use crate::model::limits::PARALLEL_DEFAULT;
use crate::model::session::{Session, SessionEnd, SessionState};
use crate::model::stage::StageState;

/// Sessions at once: the command line, else the plan, else the operator's setting.
pub fn max_parallel(world: &World, run: &Run) -> u32 {
    let options = &world.options;
    options.max_parallel.or(run.plan.max_parallel).or(options.defaults.max_parallel).unwrap_or(PARALLEL_DEFAULT)
}

/// What happens at a usage limit, by the same order.
pub fn on_limit(world: &World, run: &Run) -> OnLimit {
    let options = &world.options;
    options.on_limit.or(run.plan.on_limit).or(options.defaults.on_limit).unwrap_or_default()
}

/// The budget of the plan.
pub fn of_plan(world: &World, run: &Run) -> Budget {
    run.plan.budget.or(world.options.defaults.budget)
}

/// The budget of a stage. A newer version of the plan counts at once.
pub fn of_stage(world: &World, stage: &Stage) -> Budget {
    stage.newest_spec().budget.or(world.options.defaults.stage_budget)
}

/// What all sessions of a stage, or of the plan, have used.
pub fn spent(run: &Run, stage: Option<&StageId>) -> Spent {
    let of = run.sessions.values().filter(|session| stage.is_none_or(|stage| session.stage == *stage));
    of.filter(|session| counts(session)).fold(Spent::default(), |spent, session| spent.plus(session.usage))
}

/// What every stage has used.
pub fn spent_by_stage(run: &Run) -> BTreeMap<&StageId, Spent> {
    let mut all: BTreeMap<&StageId, Spent> = BTreeMap::new();
    for session in run.sessions.values().filter(|session| counts(session)) {
        let spent = all.entry(&session.stage).or_default();
        *spent = spent.plus(session.usage);
    }
    all
}

fn counts(session: &Session) -> bool {
    !matches!(session.state, SessionState::Ended { end: SessionEnd::NeverStarted, .. })
}

/// Why a session that works has to leave what it has: a budget of tokens or money is used up,
/// with `session` as it is given.
pub(super) fn capped(world: &World, run: &Run, stage: &Stage, session: &Session) -> Option<String> {
    let (own, all) = (of_stage(world, stage).of_work(), of_plan(world, run).of_work());
    if own.is_empty() && all.is_empty() {
        return None;
    }
    let spent = |stage: Option<&StageId>| {
        let others = run.sessions.values().filter(|other| other.id != session.id && counts(other));
        let of = others.filter(|other| stage.is_none_or(|stage| other.stage == *stage));
        of.fold(Spent::default().plus(session.usage), |spent, other| spent.plus(other.usage))
    };
    let by_stage = own.reached_by(spent(Some(&session.stage)).since(stage.helping));
    let by_plan = || all.reached_by(spent(None).since(run.helping));
    by_stage
        .map(|reached| format!("the budget of this stage is used up: {reached}"))
        .or_else(|| by_plan().map(|reached| format!("the budget of the plan is used up: {reached}")))
}

/// Whether a person is asked for more of the plan's budget.
pub(super) fn is_asked(run: &Run) -> bool {
    run.open_gates().any(|gate| matches!(gate.subject, GateSubject::PlanBudget { .. }))
}

/// Closes questions about budgets that are larger now.
pub(super) fn settle(world: &World, run: &Run, draft: &mut Draft) {
    for gate in run.open_gates() {
        let (budget, spent, stage) = match &gate.subject {
            GateSubject::PlanBudget { .. } => (of_plan(world, run), spent(run, None).since(run.helping), None),
            GateSubject::Budget { stage, .. } => {
                let Some(stage) = run.stages.get(stage) else { continue };
                let id = &stage.spec.id;
                (of_stage(world, stage), spent(run, Some(id)).since(stage.helping), Some(id))
            }
            _ => continue,
        };
        if budget.reached_by(spent).is_none() {
            let reason = "the budget is larger now".to_owned();
            draft.fact(Fact::GateAnswered { gate: gate.id, approved: true, reason });
            if let Some(stage) = stage.filter(|id| is_gated(run, id)) {
                draft.stage(stage, StageChange::Readied { retry_at: None });
            }
        }
    }
}

fn is_gated(run: &Run, id: &StageId) -> bool {
    run.stages.get(id).is_some_and(|stage| matches!(stage.state, StageState::Gated { .. }))
}

/// The admission check (R16). Takes out of `ready` what may not start, asks a person about it,
/// and says how many sessions the plan's budget has left.
pub(super) fn affordable(world: &World, run: &Run, ready: &mut Vec<&Stage>, draft: &mut Draft) -> usize {
    let plan = of_plan(world, run);
    let is_free = plan.is_empty() && ready.iter().all(|stage| of_stage(world, stage).is_empty());
    if is_free || ready.is_empty() {
        return usize::MAX;
    }
    let by_stage = spent_by_stage(run);
    ready.retain(|stage| {
        let id = &stage.spec.id;
        let spent = by_stage.get(id).copied().unwrap_or_default().since(stage.helping);
        let Some(reached) = of_stage(world, stage).reached_by(spent) else { return true };
        let gate = gates::open(world, GateSubject::Budget { stage: id.clone(), reached }, draft);
        draft.stage(id, StageChange::Gated { gate });
        false
    });
    // A session that ends has not said yet what it has cost.
    let is_unpaid = plan.cost_microusd.is_some()
        && run.live_sessions().any(|session| matches!(session.state, SessionState::Ending { .. }));
    if ready.is_empty() || is_unpaid || is_asked(run) {
        return 0;
    }
    let spent = spent(run, None).since(run.helping);
    if let Some(reached) = plan.reached_by(spent) {
        gates::open(world, GateSubject::PlanBudget { reached }, draft);
        return 0;
    }
    plan.sessions.map_or(usize::MAX, |cap| cap.saturating_sub(spent.sessions) as usize)
}
