//! A new version of the plan while it runs.

use std::sync::Arc;

use super::*;
use crate::kernel::amend::{Amendment, Consequence, amendment};

/// The plan of [`states`] with another check for `a`.
pub(super) fn new_plan(restart: &[&str]) -> Request {
    let mut plan = Sim::new(vec![spec("a", &[], claude()), spec("b", &["a"], command())]).world.run.unwrap().plan;
    stage(&mut plan, "a").checks = [Check::command("make new")].into();
    plan.acceptance = vec![Check::command("make all")];
    Request::ApplyPlan {
        plan: Box::new(plan),
        source: PlanSource { path: "plan.md".to_owned(), sha256: "1".to_owned() },
        restart: restart.iter().map(|name| id(name)).collect(),
    }
}

/// Runs the proof that is due: it answers what it was asked when it began, whatever the plan
/// has become meanwhile.
#[derive(Default)]
pub(super) struct Prover(Option<(Entry, Oid, Vec<Check>)>);

impl Prover {
    pub(super) fn look(&mut self, world: &World) {
        let asked = due(world).into_iter().find_map(|effect| match effect {
            Effect::Prove(prove) => Some((prove.entry, prove.tip, prove.checks)),
            _ => None,
        });
        let is_same =
            |one: &(Entry, Oid, Vec<Check>)| asked.as_ref().is_some_and(|new| (&new.0, &new.1) == (&one.0, &one.1));
        if !self.0.as_ref().is_some_and(is_same) {
            self.0 = asked;
        }
    }
    pub(super) fn answer(&self, event: &Event) -> Event {
        let mut event = event.clone();
        if let (Event::Proved { entry, proof, .. }, Some((of, _, asked))) = (&mut event, &self.0)
            && let Proof::Passed { checks, .. } = proof
            && entry == of
        {
            let passed = |check: &Check| CheckResult { command: check.command.clone(), ..check_result(true) };
            *checks = asked.iter().map(passed).collect();
        }
        event
    }
}

/// The plan that is carried out, changed.
fn changed(sim: &Sim, change: impl FnOnce(&mut Plan)) -> Plan {
    let mut plan = sim.world.run.as_ref().unwrap().plan.clone();
    change(&mut plan);
    plan
}

fn request(plan: Plan, restart: &[&str]) -> Request {
    let source = PlanSource { path: "plan.md".to_owned(), sha256: "1".to_owned() };
    Request::ApplyPlan { plan: Box::new(plan), source, restart: restart.iter().map(|name| id(name)).collect() }
}

fn amended(sim: &mut Sim, restart: &[&str], change: impl FnOnce(&mut Plan)) {
    let plan = changed(sim, change);
    sim.ask(request(plan, restart));
}

fn refused(sim: &Sim, restart: &[&str], change: impl FnOnce(&mut Plan)) -> String {
    let asked =
        Event::Request { id: RequestId(1), caller: Caller::Operator, request: request(changed(sim, change), restart) };
    step(&sim.world, &asked, sim.now).unwrap_err().what
}

fn stage<'p>(plan: &'p mut Plan, name: &str) -> &'p mut StageSpec {
    Arc::make_mut(plan.stages.iter_mut().find(|stage| stage.id == id(name)).unwrap())
}

fn told(sim: &Sim, name: &str) -> String {
    sim.world.run.as_ref().unwrap().stages[&id(name)].spec.description.clone()
}

/// What becomes of each stage, in one line.
fn summary(all: &Amendment) -> String {
    let stages = all.stages.iter().map(|(id, stage)| format!("{id}: {}", stage.consequence.as_str()));
    stages.collect::<Vec<_>>().join("; ")
}

/// `a` has landed.
fn landed() -> Sim {
    let mut sim = Sim::new(vec![spec("a", &[], command()), spec("b", &["a"], command())]);
    sim.until_verifying("a").land("a", oid(20));
    sim
}

fn proved_again(sim: &mut Sim, name: &str, proof: Proof) {
    let tip = sim.world.run.as_ref().unwrap().tip.clone().unwrap();
    let entry = Entry::Again { stage: id(name) };
    let mut prover = Prover::default();
    prover.look(&sim.world);
    sim.send(prover.answer(&Event::Proved { entry, tip, proof, kept: None, evidence: Vec::new(), baseline: None }));
}

#[test]
fn a_stage_that_waits_follows_the_new_version_and_one_that_runs_does_not() {
    let mut sim = Sim::new(vec![spec("a", &[], command()), spec("b", &["a"], command())]);
    sim.schedule().hosted("a.1");
    amended(&mut sim, &[], |plan| {
        stage(plan, "a").description = "new".to_owned();
        stage(plan, "b").description = "new".to_owned();
    });
    assert_eq!((told(&sim, "a").as_str(), told(&sim, "b").as_str()), ("", "new"));
    assert_eq!(sim.world.run.as_ref().unwrap().version, 2);
    sim.ended("a.1", Exit::Code { code: 1 });
    assert_eq!(told(&sim, "a"), "new", "its next attempt does");
}

#[test]
fn a_stage_that_is_told_to_restart_gets_a_new_session_with_the_new_version() {
    let mut sim = Sim::new(vec![spec("a", &[], command())]);
    sim.schedule().hosted("a.1");
    amended(&mut sim, &["a"], |plan| stage(plan, "a").description = "new".to_owned());
    assert_eq!(told(&sim, "a"), "new");
    sim.ended("a.1", Exit::UnixSignal { signal: 15 }).schedule();
    assert!(matches!(sim.state("a"), StageState::Running { session } if session.as_str() == "a.2"));
}

#[test]
fn a_landing_with_new_checks_is_proven_again_where_the_plan_branch_is() {
    let mut sim = landed();
    amended(&mut sim, &[], |plan| stage(plan, "a").checks = [Check::command("new")].into());
    sim.schedule();
    let asked = due(&sim.world).into_iter().find_map(|effect| match effect {
        Effect::Prove(prove) => Some(prove),
        _ => None,
    });
    let asked = asked.expect("a proof is due");
    assert_eq!((asked.entry, asked.tip, asked.commit), (Entry::Again { stage: id("a") }, oid(20), oid(20)));
    assert_eq!((asked.checks, asked.proven), (vec![Check::command("new")], None));
    proved_again(&mut sim, "a", green(&oid(30)));
    let run = sim.world.run.as_ref().unwrap();
    assert!(matches!(sim.state("a"), StageState::Merged { .. }));
    assert_eq!((run.tip.clone(), run.queue.len(), run.again.clone()), (Some(oid(20)), 0, None));
}

#[test]
fn a_landing_whose_new_checks_fail_starts_over_and_is_told_why() {
    let mut sim = landed();
    amended(&mut sim, &[], |plan| stage(plan, "a").checks = [Check::command("new")].into());
    sim.schedule();
    proved_again(&mut sim, "a", red());
    let run = sim.world.run.as_ref().unwrap();
    let a = &run.stages[&id("a")];
    assert_eq!((&a.state, a.removing, run.queue.len()), (&StageState::Waiting, true, 0));
    assert!(a.note.as_deref().unwrap().contains("does not hold"), "{:?}", a.note);
    assert_eq!(run.again, None);
}

#[test]
fn a_proof_that_could_not_be_run_again_waits_for_a_person() {
    let mut sim = landed();
    amended(&mut sim, &[], |plan| stage(plan, "a").checks = [Check::command("new")].into());
    sim.schedule();
    proved_again(&mut sim, "a", Proof::Broken { why: "disk full".to_owned() });
    assert!(sim.world.run.as_ref().unwrap().stages[&id("a")].held);
}

#[test]
fn what_is_being_proven_lands_with_its_own_version_and_is_proven_again() {
    let mut sim = Sim::new(vec![spec("a", &[], command())]);
    sim.until_verifying("a");
    amended(&mut sim, &[], |plan| {
        stage(plan, "a").checks = [Check::command("new")].into();
        plan.acceptance = vec![Check::command("all")];
    });
    sim.land("a", oid(20)).schedule();
    let run = sim.world.run.as_ref().unwrap();
    assert_eq!(run.active_entry(), Some(Entry::Again { stage: id("a") }));
    assert_ne!(run.end, crate::kernel::world::PlanEnd::Completed, "the plan is not over before");
    proved_again(&mut sim, "a", green(&oid(30)));
    let run = sim.world.run.as_ref().unwrap();
    assert_eq!((run.queue.len(), run.stages[&id("a")].checks.len()), (0, 2), "by its own new check and the plan's");
}

#[test]
fn what_did_not_land_is_proven_by_the_new_version() {
    let mut sim = Sim::new(vec![spec("a", &[], command())]);
    sim.until_verifying("a");
    amended(&mut sim, &[], |plan| plan.acceptance = vec![Check::command("all")]);
    let asked = |sim: &Sim| {
        let mut prover = Prover::default();
        prover.look(&sim.world);
        prover.0.unwrap().2
    };
    assert_eq!(asked(&sim), [Check::command("true")], "what runs is not asked for more");
    sim.proved("a", green(&oid(20)));
    sim.send(Event::LandRefused { entry: Entry::Stage { stage: id("a") }, moved: true, why: "x".to_owned() });
    sim.schedule();
    assert_eq!(asked(&sim), [Check::command("true"), Check::command("all")]);
    assert_eq!(sim.world.run.as_ref().unwrap().stages[&id("a")].proven, None);
}

#[test]
fn new_checks_of_the_plan_prove_the_newest_landing_again() {
    let mut sim = landed();
    let plan = changed(&sim, |plan| plan.acceptance = vec![Check::command("all")]);
    let run = sim.world.run.as_ref().unwrap();
    assert_eq!(summary(&amendment(run, &plan, &[])), "a: proven again");
    sim.ask(request(plan, &[]));
    assert_eq!(sim.world.run.as_ref().unwrap().queue, [Entry::Again { stage: id("a") }]);
}

#[test]
fn a_queued_stage_lands_only_after_what_is_proven_again() {
    let mut sim = landed();
    sim.until_verifying("b");
    amended(&mut sim, &[], |plan| stage(plan, "a").checks = [Check::command("new")].into());
    let queue = &sim.world.run.as_ref().unwrap().queue;
    // What is being proven already goes first.
    assert_eq!(*queue, [Entry::Stage { stage: id("b") }, Entry::Again { stage: id("a") }]);
}

#[test]
fn a_stage_can_be_removed_unless_it_works_or_has_landed() {
    let sim = landed();
    assert_eq!(
        refused(&sim, &[], |plan| plan.stages.retain(|stage| stage.id == id("b"))),
        "stage `a` has landed and cannot be removed from the plan"
    );
    let mut sim = Sim::new(vec![spec("a", &[], command()), spec("b", &[], command())]);
    let without = |plan: &mut Plan| plan.stages.retain(|stage| stage.id == id("b"));
    sim.schedule().hosted("a.1");
    assert_eq!(refused(&sim, &[], without), "stage `a` is at work and cannot be removed from the plan");
    sim.ask(Request::Skip { stage: id("a"), reason: "x".to_owned(), go_on: true });
    sim.ended("a.1", Exit::UnixSignal { signal: 15 });
    amended(&mut sim, &[], without);
    assert!(!sim.world.run.as_ref().unwrap().stages.contains_key(&id("a")));
    assert_eq!(sim.world.leftovers[&id("a")], ["a"]);
    assert!(
        due(&sim.world).iter().any(|effect| matches!(effect, Effect::RemoveStage { stage, .. } if *stage == id("a")))
    );
}

#[test]
fn a_new_dependency_holds_a_stage_that_has_not_started() {
    let mut sim = Sim::new(vec![spec("a", &[], command()), spec("b", &[], command())]);
    sim.ask(Request::Hold { stage: id("b") }).schedule();
    amended(&mut sim, &[], |plan| {
        stage(plan, "b").dependencies = vec![id("a"), id("c")];
        plan.stages.push(spec("c", &[], command()).into());
    });
    assert_eq!(sim.state("b"), &StageState::Waiting);
    sim.ask(Request::Release { stage: id("b") }).schedule();
    assert_eq!(sim.state("b"), &StageState::Waiting);
    assert!(matches!(sim.state("c"), StageState::Running { .. }), "what is new starts");
}

#[test]
fn every_consequence_is_said_before() {
    let mut sim = landed();
    sim.schedule();
    let plan = changed(&sim, |plan| {
        stage(plan, "a").name = "Other".to_owned();
        stage(plan, "b").checks = [].into();
        plan.stages.push(spec("c", &["b"], command()).into());
        plan.max_parallel = Some(2);
    });
    let run = sim.world.run.as_ref().unwrap();
    let say = |restart: &[&str]| {
        let restart: Vec<StageId> = restart.iter().map(|name| id(name)).collect();
        summary(&amendment(run, &plan, &restart))
    };
    assert_eq!(say(&[]), "a: landed, nothing to prove again; b: changed from the next attempt on; c: added");
    assert_eq!(say(&["a", "b"]), "a: started over; b: restarted; c: added");
    assert_eq!(amendment(run, &plan, &[]).plan_fields, ["max_parallel"]);
    assert_eq!(amendment(run, &run.plan, &[]), Amendment::default());
    assert_eq!(Consequence::Added.id(), "added");
}

#[test]
fn only_a_person_changes_the_plan_and_only_this_one() {
    let sim = landed();
    let plan = changed(&sim, |plan| plan.max_parallel = Some(2));
    let asked = Event::Request {
        id: RequestId(1),
        caller: Caller::Agent { session: SessionId::new("b.1").unwrap() },
        request: request(plan, &[]),
    };
    let refusal = step(&sim.world, &asked, sim.now).unwrap_err();
    assert_eq!(refusal.kind, crate::model::refusal::RefusalKind::Rights);
    assert_eq!(
        refused(&sim, &[], |plan| plan.id = PlanId::new("other").unwrap()),
        "this is plan `other`, and plan `plan` is carried out"
    );
    assert_eq!(refused(&sim, &["x"], |_| {}), "there is no stage `x` in this version of the plan");
}
