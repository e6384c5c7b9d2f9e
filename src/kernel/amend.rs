//! A new version of the plan while it runs: what changes for each stage, what is
//! refused, and what has to be proven again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::dispute;
use super::draft::Draft;
use super::world::{Run, Stage};
use crate::model::check::Check;
use crate::model::event::{Entry, PlanSource, RequestId};
use crate::model::fact::{Fact, StageChange};
use crate::model::ids::StageId;
use crate::model::plan::{Plan, StageSpec};
use crate::model::refusal::Refusal;
use crate::model::session::EndReason;
use crate::model::stage::{Phase, StageState};

/// What a new version of the plan changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Amendment {
    /// Fields of the plan itself, as plans name them.
    pub plan_fields: Vec<&'static str>,
    /// Stages that are added, removed or changed; in the order of the new plan, removed ones last.
    pub stages: Vec<(StageId, StageAmendment)>,
}

/// What a new version of the plan means for one stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageAmendment {
    /// What is different, as plans name it; empty where only something else of the plan is.
    pub fields: Vec<&'static str>,
    pub dependencies_added: Vec<StageId>,
    pub dependencies_removed: Vec<StageId>,
    pub consequence: Consequence,
}

/// What becomes of a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    /// It is new.
    Added,
    /// It goes; work that it has is put aside.
    Removed,
    /// It has landed: what landed stays, so the stage stays.
    CannotBeRemoved,
    /// A session holds it: it has to be skipped before it can be removed.
    StillRuns,
    /// The new version holds from now on.
    FromNowOn,
    /// Its attempt goes on as it began; the next one follows the new version.
    NextAttempt,
    /// Its session ends, and a new one follows the new version.
    Restarted,
    /// It has landed, and is proven again on the plan branch; what fails starts over.
    ProvenAgain,
    /// It has landed, and starts over from the plan branch.
    StartsOver,
    /// It has landed, and nothing that proves it is different.
    StaysLanded,
    /// The check that its agent says is wrong is another one: its commit is proven again.
    DisputeSettled,
}

impl Amendment {
    pub fn is_empty(&self) -> bool {
        self.plan_fields.is_empty() && self.stages.is_empty()
    }

    fn refused(&self) -> impl Iterator<Item = (&StageId, Consequence)> {
        let is_refused = |what: Consequence| matches!(what, Consequence::CannotBeRemoved | Consequence::StillRuns);
        self.stages.iter().map(|(id, change)| (id, change.consequence)).filter(move |(_, what)| is_refused(*what))
    }
}

/// Compares a plan with the one that is carried out. `restart`: stages that follow it at once.
pub fn amendment(run: &Run, plan: &Plan, restart: &[StageId]) -> Amendment {
    let mut all = Amendment { plan_fields: plan_fields(&run.plan, plan), stages: Vec::new() };
    let again = if proves_differently(&run.plan, plan) { run.newest_landing() } else { None };
    for spec in &plan.stages {
        let is_told = restart.contains(&spec.id);
        let change = match run.stages.get(&spec.id) {
            None => StageAmendment {
                fields: Vec::new(),
                dependencies_added: spec.dependencies.clone(),
                dependencies_removed: Vec::new(),
                consequence: Consequence::Added,
            },
            Some(stage) => {
                let fields = stage_fields(stage.newest_spec(), spec);
                let settles = dispute::settled_by(run, stage, plan, spec).is_some();
                if fields.is_empty() && !is_told && !settles && again.as_ref() != Some(&spec.id) {
                    continue;
                }
                let is_again = again.as_ref() == Some(&spec.id) || is_proven_differently(stage.newest_spec(), spec);
                let less = |a: &StageSpec, b: &StageSpec| -> Vec<StageId> {
                    a.dependencies.iter().filter(|id| !b.dependencies.contains(id)).cloned().collect()
                };
                StageAmendment {
                    fields,
                    dependencies_added: less(spec, stage.newest_spec()),
                    dependencies_removed: less(stage.newest_spec(), spec),
                    consequence: match settles {
                        true => Consequence::DisputeSettled,
                        false => consequence(stage, is_told, is_again),
                    },
                }
            }
        };
        all.stages.push((spec.id.clone(), change));
    }
    let kept: BTreeSet<&StageId> = plan.stages.iter().map(|spec| &spec.id).collect();
    for (id, stage) in run.stages.iter().filter(|(id, _)| !kept.contains(id)) {
        let is_live = run.live_sessions().any(|session| session.stage == *id);
        let consequence = match &stage.state {
            StageState::Merged { .. } => Consequence::CannotBeRemoved,
            StageState::Running { .. } | StageState::Verifying { .. } => Consequence::StillRuns,
            _ if is_live => Consequence::StillRuns,
            _ => Consequence::Removed,
        };
        let change = StageAmendment {
            fields: Vec::new(),
            dependencies_added: Vec::new(),
            dependencies_removed: Vec::new(),
            consequence,
        };
        all.stages.push((id.clone(), change));
    }
    all
}

fn consequence(stage: &Stage, is_told: bool, is_again: bool) -> Consequence {
    match &stage.state {
        StageState::Merged { .. } if is_told => Consequence::StartsOver,
        StageState::Merged { .. } if is_again => Consequence::ProvenAgain,
        StageState::Merged { .. } => Consequence::StaysLanded,
        StageState::Running { .. } if is_told => Consequence::Restarted,
        StageState::Running { .. } | StageState::Verifying { .. } => Consequence::NextAttempt,
        StageState::Blocked { .. } if is_told => Consequence::Restarted,
        _ => Consequence::FromNowOn,
    }
}

/// Fields of the plan that differ, as plans name them.
fn plan_fields(old: &Plan, new: &Plan) -> Vec<&'static str> {
    let pairs = [
        ("title", old.title != new.title),
        ("prose", old.overview != new.overview),
        ("max_parallel", old.max_parallel != new.max_parallel),
        ("acceptance", old.acceptance != new.acceptance),
        ("landing", old.landing != new.landing),
        ("protected", old.protected != new.protected),
        ("change_impact", old.change_impact != new.change_impact),
        ("budget", old.budget != new.budget),
        ("on_limit", old.on_limit != new.on_limit),
    ];
    pairs.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

/// Fields of a stage that differ, as plans name them.
fn stage_fields(old: &StageSpec, new: &StageSpec) -> Vec<&'static str> {
    let (was, is) = (&old.criteria, &new.criteria);
    let pairs = [
        ("name", old.name != new.name),
        ("description", old.description != new.description),
        ("dependencies", old.dependencies != new.dependencies),
        ("acceptance", old.checks != new.checks),
        ("artifacts", was.artifacts != is.artifacts),
        ("wiring", was.wiring != is.wiring),
        ("wiring_tests", was.wiring_tests != is.wiring_tests),
        ("dead_code_check", was.dead_code != is.dead_code),
        ("before_stage", was.before != is.before),
        ("after_stage", was.after != is.after),
        ("regression_test", was.regression_test != is.regression_test),
        ("setup", old.setup != new.setup),
        ("teardown", old.teardown != new.teardown),
        ("files", old.files != new.files),
        ("working_dir", old.working_dir != new.working_dir),
        ("stage_type", old.stage_type != new.stage_type),
        ("agent", old.agent != new.agent),
        ("max_retries", old.max_retries != new.max_retries),
        ("priority", old.priority != new.priority),
        ("hold", old.hold != new.hold),
        ("timeout", old.timeout_secs != new.timeout_secs),
        ("auto_merge", old.auto_merge != new.auto_merge),
        ("parallel_group", old.parallel_group != new.parallel_group),
        ("context_budget", old.context_budget != new.context_budget),
        ("budget", old.budget != new.budget),
        ("advice", old.advice != new.advice),
    ];
    pairs.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

/// Whether what was proven under one version is not proven under the other.
pub(super) fn is_proven_differently(old: &StageSpec, new: &StageSpec) -> bool {
    // What holds before a stage says nothing about what has landed.
    let after = |spec: &StageSpec| crate::model::check::Criteria { before: Vec::new(), ..spec.criteria.clone() };
    old.checks != new.checks || old.working_dir != new.working_dir || old.setup != new.setup || after(old) != after(new)
}

/// The same for what the plan asks of every stage.
pub(super) fn proves_differently(old: &Plan, new: &Plan) -> bool {
    old.acceptance != new.acceptance || old.change_impact != new.change_impact
}

pub(super) fn apply_plan(
    run: &Run,
    id: RequestId,
    (plan, source, restart): (&Plan, &PlanSource, &[StageId]),
    draft: &mut Draft,
) -> Result<(), Refusal> {
    let change = amendment(run, plan, restart);
    check(run, plan, restart, &change)?;
    if change.is_empty() && run.source.sha256 == source.sha256 {
        draft.done(id, format!("plan `{}` is loaded like this already; nothing changed", plan.id));
        return Ok(());
    }
    let removed: Vec<_> = change
        .stages
        .iter()
        .filter(|(_, change)| change.consequence == Consequence::Removed)
        .filter_map(|(id, _)| run.stages.get_key_value(id))
        .filter(|(_, stage)| stage.attempts > 0)
        .map(|(id, stage)| (id.clone(), super::due::worktrees(run, id, stage)))
        .collect();
    if !removed.is_empty() {
        draft.fact(Fact::PlanReplaced { leftovers: removed });
    }
    draft.fact(Fact::PlanAmended { plan: Box::new(plan.clone()), source: source.clone() });
    for (id, change) in &change.stages {
        let Some(stage) = run.stages.get(id) else { continue };
        match change.consequence {
            Consequence::Restarted => {
                draft.end_lease(run, stage, EndReason::Withdrawn);
                draft.stage(id, StageChange::Readied { retry_at: None });
            }
            Consequence::DisputeSettled => dispute::settle(run, stage, draft),
            Consequence::StartsOver => {
                draft.stage(id, StageChange::Reset { reason: "the plan changed".to_owned() });
            }
            _ => {}
        }
    }
    let counts = counts(&change);
    let version = run.version + 1;
    draft.done(id, format!("plan `{}` is at version {version}: {counts}", plan.id));
    Ok(())
}

fn check(run: &Run, plan: &Plan, restart: &[StageId], change: &Amendment) -> Result<(), Refusal> {
    if plan.id != run.plan.id {
        let what = format!("this is plan `{}`, and plan `{}` is carried out", plan.id, run.plan.id);
        return Err(Refusal::user(what).hint(format!("loom init {}", run.source.path)));
    }
    if run.end != super::world::PlanEnd::Open {
        let what = format!("plan `{}` is complete: there is nothing left to change", plan.id);
        return Err(Refusal::user(what).hint("write a new plan, then loom init doc/plans/<new plan>.md"));
    }
    if let Some((id, _)) = &run.again {
        return Err(Refusal::user(format!("stage `{id}` is being proven again with version {}", run.version))
            .because("another version would make that proof worthless while it runs")
            .hint("loom status"));
    }
    if let Some(unknown) = restart.iter().find(|id| plan.stage(id).is_none()) {
        return Err(Refusal::user(format!("there is no stage `{unknown}` in this version of the plan")));
    }
    let verifying =
        |id: &&StageId| run.stages.get(*id).is_some_and(|stage| matches!(stage.state, StageState::Verifying { .. }));
    if let Some(id) = restart.iter().find(verifying) {
        return Err(Refusal::user(format!("stage `{id}` cannot be restarted: it is being proven"))
            .because("its attempt goes on as it began; without `--restart` the next one follows the new version")
            .hint("loom status"));
    }
    match change.refused().next() {
        Some((id, Consequence::CannotBeRemoved)) => {
            Err(Refusal::user(format!("stage `{id}` has landed and cannot be removed from the plan"))
                .because("what it changed is on the plan branch, and other stages may rely on it")
                .hint("keep the stage, and add another one that takes its work back"))
        }
        Some((id, _)) => Err(Refusal::user(format!("stage `{id}` is at work and cannot be removed from the plan"))
            .hint(format!("loom stage skip {id} --reason \"…\"   (its work is kept), then apply again"))),
        None => Ok(()),
    }
}

/// One sentence about what happens.
fn counts(change: &Amendment) -> String {
    let mut by: BTreeMap<&'static str, usize> = BTreeMap::new();
    for (_, stage) in &change.stages {
        *by.entry(stage.consequence.as_str()).or_default() += 1;
    }
    if by.is_empty() {
        return "no stage changes".to_owned();
    }
    let parts: Vec<String> = by.into_iter().map(|(what, n)| format!("{n} {what}")).collect();
    parts.join(", ")
}

impl Consequence {
    /// Its name for programs.
    pub fn id(self) -> &'static str {
        match self {
            Consequence::Added => "added",
            Consequence::Removed => "removed",
            Consequence::CannotBeRemoved => "cannot-be-removed",
            Consequence::StillRuns => "still-runs",
            Consequence::FromNowOn => "from-now-on",
            Consequence::NextAttempt => "next-attempt",
            Consequence::Restarted => "restarted",
            Consequence::ProvenAgain => "proven-again",
            Consequence::StartsOver => "starts-over",
            Consequence::StaysLanded => "stays-landed",
            Consequence::DisputeSettled => "dispute-settled",
        }
    }
    /// Its name for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Consequence::Added => "added",
            Consequence::Removed => "removed",
            Consequence::CannotBeRemoved => "landed, cannot be removed",
            Consequence::StillRuns => "at work, cannot be removed",
            Consequence::FromNowOn => "changed from now on",
            Consequence::NextAttempt => "changed from the next attempt on",
            Consequence::Restarted => "restarted",
            Consequence::ProvenAgain => "proven again",
            Consequence::StartsOver => "started over",
            Consequence::StaysLanded => "landed, nothing to prove again",
            Consequence::DisputeSettled => "the disputed check is another one, proven again",
        }
    }
}

/// What the new version does to the world.
impl Run {
    pub(super) fn amend(&mut self, plan: &Plan, source: &PlanSource, fences: &BTreeMap<StageId, u32>) {
        let old = std::mem::replace(&mut self.plan, plan.clone());
        self.source = source.clone();
        self.version += 1;
        let all_differently = proves_differently(&old, plan);
        let mut again: Vec<StageId> =
            if all_differently { self.newest_landing().into_iter().collect() } else { Vec::new() };
        self.stages.retain(|id, _| plan.stage(id).is_some());
        self.queue.retain(|entry| entry.stage().is_none_or(|stage| plan.stage(stage).is_some()));
        for spec in &plan.stages {
            let Some(stage) = self.stages.get_mut(&spec.id) else {
                let mut stage = Stage::new(spec.clone());
                stage.sessions = fences.get(&spec.id).copied().unwrap_or(0);
                self.stages.insert(spec.id.clone(), stage);
                continue;
            };
            if all_differently {
                stage.proven = None;
                if stage.is_being_landed() && stage.asked.is_none() {
                    stage.asked = Some(old.acceptance.clone());
                }
            }
            if *stage.newest_spec() != **spec {
                let differs = is_proven_differently(stage.newest_spec(), spec);
                stage.next_spec = Some(Arc::clone(spec));
                if stage.adopt() && differs {
                    again.push(spec.id.clone());
                }
            }
        }
        for id in again {
            self.prove_again(&id);
        }
        let early = |run: &Run, stage: &Stage| {
            matches!(stage.state, StageState::Ready { .. }) && !run.dependencies_met(&stage.spec)
        };
        let early: Vec<StageId> =
            self.stages.iter().filter(|(_, stage)| early(self, stage)).map(|(id, _)| id.clone()).collect();
        for id in early {
            if let Some(stage) = self.stages.get_mut(&id) {
                stage.state = StageState::Waiting;
            }
        }
    }

    /// Puts a stage that has landed, or is about to, behind what the queue is busy with.
    pub(super) fn prove_again(&mut self, id: &StageId) {
        let entry = Entry::Again { stage: id.clone() };
        let lands = self.stages.get(id).is_some_and(|stage| match &stage.state {
            StageState::Merged { .. } => true,
            _ => stage.is_being_landed(),
        });
        if lands && !self.queue.contains(&entry) {
            let own = Entry::Stage { stage: id.clone() };
            let active = self.active_entry();
            let is_before = |other: &Entry| *other == own || Some(other) == active.as_ref();
            let at = self.queue.iter().rposition(is_before).map_or(0, |last| last + 1);
            self.queue.insert(at, entry);
        }
    }

    /// The stage that the newest thing on the plan branch came from, or is about to come from.
    pub(super) fn newest_landing(&self) -> Option<StageId> {
        let landing = self.stages.iter().find(|(_, stage)| stage.is_being_landed());
        let landed = self.stages.iter().filter(|(_, stage)| matches!(stage.state, StageState::Merged { .. }));
        let newest = landed.max_by_key(|(_, stage)| stage.ended_at);
        landing.or(newest).map(|(id, _)| id.clone())
    }

    pub(super) fn drop_again(&mut self, id: &StageId) {
        let entry = Entry::Again { stage: id.clone() };
        if self.queue.contains(&entry)
            && let Some(stage) = self.stages.get_mut(id)
        {
            // What it was proven by is not what proves it now.
            stage.proven = None;
        }
        self.queue.retain(|other| *other != entry);
        self.again.take_if(|(stage, _)| stage == id);
    }

    /// What the plan asks of a stage: until it has landed, what its proof began with.
    pub(super) fn acceptance_of<'a>(&'a self, stage: &'a Stage) -> &'a [Check] {
        stage.asked.as_deref().unwrap_or(&self.plan.acceptance)
    }
}

impl Stage {
    /// The version that the newest plan has.
    pub fn newest_spec(&self) -> &StageSpec {
        self.next_spec.as_deref().unwrap_or(&self.spec)
    }

    /// Whether its proof has begun and it has not landed.
    pub(super) fn is_being_landed(&self) -> bool {
        matches!(&self.state, StageState::Verifying { phase, .. } if *phase != Phase::Queued)
    }

    /// Takes the newest version over unless an attempt is under way. Returns whether a landing
    /// is to be proven again because of it.
    pub(super) fn adopt(&mut self) -> bool {
        if matches!(self.state, StageState::Running { .. } | StageState::Verifying { .. }) {
            return false;
        }
        let Some(next) = self.next_spec.take() else { return false };
        let old = std::mem::replace(&mut self.spec, next);
        if old.hold != self.spec.hold && !self.state.is_final() {
            self.held = self.spec.hold;
        }
        let differs = is_proven_differently(&old, &self.spec);
        if differs {
            self.proven = None;
        }
        differs && matches!(self.state, StageState::Merged { .. })
    }
}
