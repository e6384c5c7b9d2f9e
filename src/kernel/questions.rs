//! Questions that more than one part of Loom asks the world. Nothing here changes it.

use std::borrow::Cow;

use super::world::{BaseEntry, Run, Stage};
use crate::model::baseline::OnBase;
use crate::model::check::{Check, ImpactPolicy, Policy};
use crate::model::event::Entry;
use crate::model::gate::{Gate, GateSubject};
use crate::model::plan::StageSpec;
use crate::model::session::Session;
use crate::model::stage::{CheckResult, Phase, StageState};

impl Run {
    /// Whether everything this stage depends on lets it start.
    pub fn dependencies_met(&self, spec: &StageSpec) -> bool {
        spec.dependencies.iter().all(|id| self.stages.get(id).is_some_and(|stage| stage.state.lets_dependents_start()))
    }
    /// The checks that decide about a stage: its own, then the plan's.
    pub fn checks_of(&self, stage: &Stage) -> Vec<Check> {
        stage.spec.checks.iter().chain(self.acceptance_of(stage)).cloned().collect()
    }
    /// The names of all results that a verdict about a stage has.
    pub fn required<'a>(&'a self, stage: &'a Stage) -> impl Iterator<Item = Cow<'a, str>> {
        let spec = &stage.spec;
        let checks = spec.checks.iter().chain(self.acceptance_of(stage));
        let commands = checks.map(|check| check.command.as_str()).chain(spec.criteria.commands());
        let impact = self.impact_of(stage).map(|impact| Cow::Owned(impact.label()));
        commands.map(Cow::Borrowed).chain(impact).chain(spec.criteria.labels().map(Cow::Owned))
    }
    /// Whether the plan only warns of a failure of this result that it names.
    pub fn tolerates(&self, stage: &Stage, result: &CheckResult) -> bool {
        let spec = &stage.spec;
        let warns = |check: &Check| check.command == result.command && check.policy == Policy::Warn;
        let checks = spec.checks.iter().chain(&spec.criteria.after).chain(self.acceptance_of(stage));
        let is_old = result.base == Some(OnBase::SameFailure) && checks.into_iter().any(warns);
        let impact = self.impact_of(stage).filter(|impact| impact.policy == ImpactPolicy::Warn);
        result.tolerated && (is_old || impact.is_some_and(|impact| impact.label() == result.command))
    }
    /// Sessions whose process may still run.
    pub fn live_sessions(&self) -> impl Iterator<Item = &Session> {
        self.sessions.values().filter(|session| !session.is_over())
    }
    /// Sessions that take a place among `max_parallel`: not those that are only ending.
    pub fn busy_sessions(&self) -> usize {
        self.stages.values().filter(|stage| stage.state.lease().is_some()).count()
    }
    /// The session that holds the stage's lease.
    pub fn lease_of(&self, stage: &Stage) -> Option<&Session> {
        stage.state.lease().and_then(|id| self.sessions.get(id))
    }
    pub fn open_gates(&self) -> impl Iterator<Item = &Gate> {
        // A stage that was reset, skipped or taken out of the plan asks nothing any more.
        let is_asked = |gate: &&Gate| match gate.subject.stage().map(|stage| self.stages.get(stage)) {
            None => true,
            Some(stage) => stage
                .is_some_and(|stage| matches!(&stage.state, StageState::Gated { gate: open, .. } if *open == gate.id)),
        };
        self.gates.values().filter(|gate| gate.answer.is_none()).filter(is_asked)
    }
    /// The open gate that stops all landing, if there is one.
    pub fn landing_gate(&self) -> Option<&Gate> {
        self.open_gates().find(|gate| gate.subject.stops_landing())
    }
    /// Whether a gate with this subject is open.
    pub fn asks(&self, subject: &GateSubject) -> bool {
        self.open_gates().any(|gate| gate.subject == *subject)
    }
    pub fn is_complete(&self) -> bool {
        self.stages.values().all(|stage| stage.state.is_final())
    }
    /// What the merge queue is busy with.
    pub fn active_entry(&self) -> Option<Entry> {
        if matches!(self.base_entry, BaseEntry::Proving { .. } | BaseEntry::Landing { .. }) {
            return Some(Entry::Base);
        }
        if let Some((stage, _)) = &self.again {
            return Some(Entry::Again { stage: stage.clone() });
        }
        self.stages.iter().find_map(|(id, stage)| match &stage.state {
            StageState::Verifying { phase: Phase::Proving { .. } | Phase::Landing { .. }, .. } => {
                Some(Entry::Stage { stage: id.clone() })
            }
            _ => None,
        })
    }
}
