//! When a stage's base is looked at, and what is kept of it.

use super::*;
use crate::model::baseline::{Baseline, Before, OnBase};
use crate::model::check::{ChangeImpact, ImpactPolicy, Policy};

impl Sim {
    /// Its checks fail on the base.
    pub(super) fn base_looked(&mut self, name: &str) -> &mut Sim {
        let base = self.world.run.as_ref().unwrap().stages[&id(name)].base.clone().unwrap();
        let checks = vec![Before { key: "k".to_owned(), result: check_result(false) }];
        let baseline = Baseline { base, tree: oid(8), environment: "e".to_owned(), checks };
        self.send(Event::BaseLooked {
            stage: id(name),
            baseline: Some(Box::new(baseline)),
            kept: None,
            evidence: Vec::new(),
        })
    }

    fn looks(&self) -> Vec<String> {
        let of = |effect| match effect {
            Effect::LookAtBase(look) => Some(look.stage.to_string()),
            _ => None,
        };
        due(&self.world).into_iter().filter_map(of).collect()
    }

    fn wait(&mut self, seconds: i64) -> &mut Sim {
        self.now = Timestamp::from_second(self.now.as_second() + seconds).unwrap();
        self.schedule()
    }
}

#[test]
fn a_base_is_looked_at_when_the_session_has_worked_for_a_while() {
    let mut sim = Sim::new(vec![spec("a", &[], command()), spec("b", &[], command())]);
    sim.schedule().hosted("a.1").hosted("b.1");
    assert_eq!(sim.looks(), [""; 0]);
    let deadline = super::super::next_deadline(&sim.world, sim.now).unwrap();
    assert_eq!(deadline.as_second() - sim.now.as_second(), 1);
    sim.wait(1);
    assert_eq!(sim.looks(), ["a"], "one after the other");
    // It made way for others, or the daemon died: it is derived again.
    sim.send(Event::BaseLooked { stage: id("a"), baseline: None, kept: None, evidence: Vec::new() });
    assert_eq!(sim.looks(), ["a"]);
    sim.base_looked("a");
    assert_eq!(sim.looks(), ["b"]);
    assert_eq!(super::super::next_deadline(&sim.world, sim.now), None);
    // A proof goes first, and takes what is known with it.
    sim.ended("a.1", Exit::Code { code: 0 }).inspected("a", 1, oid(7)).schedule();
    assert_eq!(sim.looks(), [""; 0]);
    let known = due(&sim.world).into_iter().find_map(|effect| match effect {
        Effect::Prove(prove) => prove.baseline,
        _ => None,
    });
    assert_eq!(known.unwrap().checks.len(), 1);
    sim.land("a", oid(20)).schedule();
    assert_eq!(sim.looks(), ["b"]);
    sim.ask(Request::Reset { stage: id("b"), reason: "x".to_owned() }).schedule();
    assert_eq!(sim.looks(), [""; 0]);
}

#[test]
fn what_is_said_of_another_base_is_not_kept() {
    let mut sim = Sim::new(vec![spec("a", &[], command())]);
    sim.schedule().hosted("a.1");
    let baseline = Baseline { base: oid(99), tree: oid(8), environment: "e".to_owned(), checks: Vec::new() };
    let baseline = Some(Box::new(baseline));
    sim.send(Event::BaseLooked { stage: id("a"), baseline, kept: None, evidence: Vec::new() });
    assert_eq!(sim.world.run.as_ref().unwrap().stages[&id("a")].baseline, None);
}

#[test]
fn stages_for_which_it_makes_no_difference_are_not_looked_at() {
    let mut looks_only = spec("a", &[], command());
    looks_only.checks = [].into();
    looks_only.criteria.artifacts.push("a.txt".to_owned());
    let evidence = StageSpec { stage_type: StageType::IntegrationVerify, ..spec("b", &[], command()) };
    let mut sim = Sim::new(vec![looks_only, evidence]);
    sim.schedule().hosted("a.1").hosted("b.1").wait(5);
    assert_eq!(sim.looks(), [""; 0]);
}

#[test]
fn only_an_old_failure_that_the_plan_warns_of_lands() {
    let warned = Check { policy: Policy::Warn, ..Check::command("true") };
    for (checks, base, expected) in [
        (vec![warned.clone()], OnBase::SameFailure, Ok(())),
        (vec![warned], OnBase::Failed, Err("R2")),
        (vec![Check::command("true")], OnBase::SameFailure, Err("R2")),
    ] {
        let mut sim = Sim::new(vec![StageSpec { checks: checks.into(), ..spec("a", &[], command()) }]);
        sim.until_verifying("a");
        let result = CheckResult { base: Some(base), tolerated: true, ..check_result(false) };
        let proven = StageChange::Proven {
            tip: oid(1),
            landing: oid(20),
            tree: oid(9),
            checks: vec![result],
            judges: Vec::new(),
            changes_nothing: false,
        };
        let said = rules(&sim.world, &[Fact::stage(&id("a"), proven)]).map_err(|violation| violation.rule);
        assert_eq!(said, expected);
    }
}

#[test]
fn a_proof_without_the_plans_comparison_does_not_count() {
    let mut sim = Sim::new(vec![spec("a", &[], command())]);
    let impact = |policy| ChangeImpact {
        baseline_command: "make".to_owned(),
        compare_command: None,
        failure_patterns: Vec::new(),
        policy,
    };
    let required = |sim: &mut Sim, policy| {
        let run = sim.world.run.as_mut().unwrap();
        run.plan.change_impact = Some(impact(policy));
        run.required(&run.stages[&id("a")]).map(std::borrow::Cow::into_owned).collect::<Vec<_>>()
    };
    assert_eq!(required(&mut sim, ImpactPolicy::Skip), ["true"]);
    assert_eq!(required(&mut sim, ImpactPolicy::Fail), ["true", "change impact `make`"]);
}

#[test]
fn a_stage_is_unproven_when_nothing_of_its_own_failed_before() {
    let result =
        |command: &str, base| CheckResult { command: command.to_owned(), base: Some(base), ..check_result(true) };
    let unproven = |checks: Vec<Check>, results: &[CheckResult]| {
        let mut sim = Sim::new(vec![StageSpec { checks: checks.into(), ..spec("a", &[], command()) }]);
        sim.world.run.as_mut().unwrap().plan.acceptance.push(Check::command("all"));
        let run = sim.world.run.as_ref().unwrap();
        super::super::is_unproven(run, &run.stages[&id("a")], results)
    };
    let own = || vec![Check::command("one")];
    let guard = || vec![Check { guard: true, ..Check::command("one") }];
    let (passed, failed) = (OnBase::Passed, OnBase::Failed);
    assert!(unproven(own(), &[result("one", passed), result("all", passed)]));
    assert!(!unproven(own(), &[result("one", failed), result("all", passed)]));
    assert!(!unproven(own(), &[result("one", passed), result("all", failed)]), "what it mended of the plan's counts");
    assert!(!unproven(guard(), &[result("one", passed), result("all", passed)]));
    assert!(unproven(guard(), &[result("one", passed), result("artifact `a`", passed)]));
    assert!(!unproven(own(), &[CheckResult { base: None, ..result("one", passed) }]), "nobody has looked");
}
