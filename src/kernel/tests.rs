//! The kernel without any outside: events in, facts out.

mod amend;
mod attention;
mod baseline;
mod budget;
mod landing;
mod order;
mod sessions;
mod watchdog;

use jiff::Timestamp;

use super::world::World;
use super::{due, is_quiet, rules, step};
use crate::model::check::{Check, Criteria};
use crate::model::effect::Effect;
use crate::model::event::{
    AloneVerdict, Caller, Entry, Event, GateTarget, Ground, Inspection, PlanSource, Proof, RefsSeen, Request,
    RequestId, RunOptions, StartFailure,
};
use crate::model::fact::{Fact, StageChange};
use crate::model::gate::GateSubject;
use crate::model::ids::{GateId, Oid, PlanId, SessionId, StageId};
use crate::model::judge::Touched;
use crate::model::plan::{Advice, Agent, BackendKind, Landing, Plan, Priority, StageSpec, StageType};
use crate::model::refusal::RefusalKind;
use crate::model::sandbox::Sandbox;
use crate::model::session::{Activity, EndReason, Exit, GaveUp, HostIdentity, Preparing};
use crate::model::stage::{BlockCode, CheckResult, Phase, StageState, StateKind};
use crate::model::usage::Usage;

fn id(text: &str) -> StageId {
    StageId::new(text).unwrap()
}

fn oid(n: u8) -> Oid {
    Oid::new(format!("{n:040x}")).unwrap()
}

fn spec(name: &str, after: &[&str], agent: Agent) -> StageSpec {
    StageSpec {
        id: id(name),
        name: format!("Do {name}"),
        description: String::new(),
        dependencies: after.iter().map(|name| id(name)).collect(),
        checks: [Check::command("true")].into(),
        files: Vec::new(),
        working_dir: ".".to_owned(),
        stage_type: StageType::Standard,
        agent,
        max_retries: 1,
        priority: Priority::P2,
        hold: false,
        timeout_secs: None,
        auto_merge: true,
        criteria: Criteria::default(),
        setup: Vec::new(),
        teardown: Vec::new(),
        parallel_group: None,
        context_budget: 65,
        budget: crate::model::budget::Budget::default(),
        advice: Advice::default(),
        sandbox: Sandbox::default(),
    }
}

fn command() -> Agent {
    Agent::Command { run: "make".to_owned() }
}

fn claude() -> Agent {
    Agent::Claude { mode: crate::model::plan::AgentMode::Interactive, model: None, effort: None }
}

/// A world that events are sent through.
struct Sim {
    world: World,
    now: Timestamp,
    facts: Vec<Fact>,
    effects: Vec<Effect>,
}

impl Sim {
    /// Loads a plan and makes its branch.
    fn new(stages: Vec<StageSpec>) -> Sim {
        let mut sim =
            Sim { world: World::default(), now: Timestamp::UNIX_EPOCH, facts: Vec::new(), effects: Vec::new() };
        let plan = Plan {
            id: PlanId::new("plan").unwrap(),
            title: "Plan".to_owned(),
            overview: String::new(),
            stages: stages.into_iter().map(Into::into).collect(),
            max_parallel: Some(4),
            acceptance: Vec::new(),
            landing: Landing::End,
            protected: Vec::new(),
            change_impact: None,
            budget: crate::model::budget::Budget::default(),
            on_limit: None,
        };
        sim.ask(Request::LoadPlan {
            plan: Box::new(plan),
            source: PlanSource { path: "plan.md".to_owned(), sha256: "0".to_owned() },
            ground: Ground {
                base_branch: "main".to_owned(),
                base_commit: oid(1),
                config: "c".to_owned(),
                nonce: "n".to_owned(),
            },
            clean: false,
        });
        sim.send(Event::PlanBranchMade { commit: oid(1) });
        sim
    }
    fn send(&mut self, event: Event) -> &mut Sim {
        match step(&self.world, &event, self.now) {
            Ok(step) => {
                for fact in &step.facts {
                    self.world.apply(fact, self.now);
                }
                self.facts.extend(step.facts);
                self.effects.extend(step.effects);
            }
            Err(refusal) => panic!("{event:?}: {refusal}: {:?}", refusal.why),
        }
        self
    }
    fn ask(&mut self, request: Request) -> &mut Sim {
        self.send(Event::Request { id: RequestId(1), caller: Caller::Operator, request })
    }
    fn schedule(&mut self) -> &mut Sim {
        for _ in 0..4 {
            self.send(Event::Schedule);
        }
        self
    }
    fn state(&self, name: &str) -> &StageState {
        &self.world.run.as_ref().unwrap().stages[&id(name)].state
    }
    fn hosted(&mut self, session: &str) -> &mut Sim {
        self.send(Event::SessionHosted {
            session: SessionId::new(session).unwrap(),
            host: host(),
            token_sha256: "t".to_owned(),
        })
    }
    fn ended(&mut self, session: &str, exit: Exit) -> &mut Sim {
        self.send(Event::SessionEnded { session: SessionId::new(session).unwrap(), exit })
    }
    fn inspected(&mut self, name: &str, n: u32, head: Oid) -> &mut Sim {
        self.send(Event::Inspected {
            stage: id(name),
            session: SessionId::of(&id(name), n),
            request: None,
            inspection: Inspection::Clean { head, changes_nothing: false },
        })
    }
    fn proved(&mut self, name: &str, proof: Proof) -> &mut Sim {
        let tip = self.world.run.as_ref().unwrap().tip.clone().unwrap();
        self.send(Event::Proved {
            entry: Entry::Stage { stage: id(name) },
            tip,
            proof,
            kept: None,
            evidence: Vec::new(),
            baseline: None,
        })
    }
    /// From started to proven.
    fn until_verifying(&mut self, name: &str) -> &mut Sim {
        self.schedule().hosted(&format!("{name}.1")).ended(&format!("{name}.1"), Exit::Code { code: 0 });
        self.inspected(name, 1, oid(7)).schedule()
    }
    /// Lands what is being proven.
    fn land(&mut self, name: &str, landing: Oid) -> &mut Sim {
        let tip = self.world.run.as_ref().unwrap().tip.clone().unwrap();
        self.proved(name, green(&landing));
        self.send(Event::Landed { entry: Entry::Stage { stage: id(name) }, tip, landing })
    }
}

fn host() -> HostIdentity {
    HostIdentity { pid: 1, start_ticks: 1, boot_id: "b".to_owned() }
}

fn check_result(passed: bool) -> CheckResult {
    CheckResult {
        command: "true".to_owned(),
        passed,
        why: (!passed).then(|| "exit status 1, expected 0".to_owned()),
        exit: Some(i32::from(!passed)),
        duration_ms: 1,
        ..CheckResult::default()
    }
}

fn green(landing: &Oid) -> Proof {
    Proof::Passed {
        landing: landing.clone(),
        tree: oid(9),
        checks: vec![check_result(true)],
        judges: Vec::new(),
        changes_nothing: false,
    }
}

fn red() -> Proof {
    Proof::Failed { checks: vec![check_result(false)], alone: AloneVerdict::SameTree, work: None }
}

#[test]
fn a_stage_goes_from_ready_to_merged() {
    let mut sim = Sim::new(vec![spec("a", &[], command()), spec("b", &["a"], command())]);
    sim.until_verifying("a");
    assert!(matches!(sim.state("b"), StageState::Waiting));
    sim.land("a", oid(20)).schedule();
    assert!(matches!(sim.state("a"), StageState::Merged { .. }));
    assert!(matches!(sim.state("b"), StageState::Running { .. }));
    let base = sim.world.run.as_ref().unwrap().stages[&id("b")].base.clone();
    assert_eq!(base, Some(oid(20)), "a dependent starts from what its dependency landed");
}

#[test]
fn a_red_verdict_starts_the_next_attempt_until_there_are_none_left() {
    let mut sim = Sim::new(vec![spec("a", &[], command())]);
    sim.until_verifying("a").proved("a", red()).schedule();
    assert!(matches!(sim.state("a"), StageState::Running { session } if session.as_str() == "a.2"));
    sim.hosted("a.2").ended("a.2", Exit::Code { code: 0 }).inspected("a", 2, oid(8)).schedule();
    sim.proved("a", red()).schedule();
    assert!(matches!(sim.state("a"), StageState::Blocked { reason } if reason.code == BlockCode::ChecksFailed));
    assert!(is_quiet(&sim.world));
    sim.ask(Request::Retry { stage: id("a"), context: None }).schedule();
    assert!(matches!(sim.state("a"), StageState::Running { .. }), "a person gives new attempts");
}

#[test]
fn a_red_verdict_goes_back_into_a_living_session() {
    let mut sim = Sim::new(vec![spec("a", &[], claude())]);
    sim.schedule().hosted("a.1");
    let agent = Caller::Agent { session: SessionId::new("a.1").unwrap() };
    for n in 0..3 {
        sim.send(Event::Request {
            id: RequestId(2),
            caller: agent.clone(),
            request: Request::Submit { stage: id("a") },
        });
        sim.send(Event::Inspected {
            stage: id("a"),
            session: SessionId::new("a.1").unwrap(),
            request: Some(RequestId(2)),
            inspection: Inspection::Clean { head: oid(30 + n), changes_nothing: false },
        });
        sim.schedule().proved("a", red());
        assert!(matches!(sim.state("a"), StageState::Running { session } if session.as_str() == "a.1"), "return {n}");
    }
    let attempts = sim.world.run.as_ref().unwrap().stages[&id("a")].attempts;
    assert_eq!(attempts, 1, "returns are not attempts");
}

#[test]
fn a_crash_waits_longer_each_time() {
    let mut stage = spec("a", &[], command());
    stage.max_retries = 3;
    let mut sim = Sim::new(vec![stage]);
    let mut pauses = Vec::new();
    for n in 1..=3 {
        sim.schedule().hosted(&format!("a.{n}")).ended(&format!("a.{n}"), Exit::UnixSignal { signal: 9 });
        let StageState::Ready { retry_at: Some(at) } = sim.state("a").clone() else { panic!("{:?}", sim.state("a")) };
        pauses.push(at.as_second() - sim.now.as_second());
        sim.now = at;
    }
    assert!(pauses[0] >= 30 && pauses[1] >= 60 && pauses[2] >= 120, "{pauses:?}");
}

#[test]
fn a_clock_that_jumps_holds_nothing_up() {
    const DAY: i64 = 86_400;
    for (days, starts) in [(0, false), (-10, true), (3650, true)] {
        let mut sim = Sim::new(vec![spec("a", &[], command())]);
        sim.now = Timestamp::from_second(100 * DAY).unwrap();
        sim.schedule().hosted("a.1").ended("a.1", Exit::UnixSignal { signal: 9 });
        sim.now = Timestamp::from_second(sim.now.as_second() + 1 + days * DAY).unwrap();
        let deadline = super::next_deadline(&sim.world, sim.now);
        assert_eq!(deadline.is_some(), !starts, "{days} days: {deadline:?}");
        sim.schedule();
        assert_eq!(matches!(sim.state("a"), StageState::Running { .. }), starts, "{days} days: {:?}", sim.state("a"));
    }
}

#[test]
fn a_process_of_another_boot_is_lost_and_one_that_is_unclear_is_left_alone() {
    let mut sim = Sim::new(vec![spec("a", &[], command())]);
    sim.schedule().hosted("a.1");
    let recorded = sim.world.run.as_ref().unwrap().sessions.values().next().unwrap().host().unwrap().boot_id.clone();
    let observed = |boot_id: &str| super::Observed { boot_id: boot_id.to_owned(), ended: Vec::new() };
    // Neither seen alive nor seen dead.
    assert_eq!(super::recover(&sim.world, &observed(&recorded)), Vec::new());
    let events = super::recover(&sim.world, &observed("another boot"));
    let lost = Event::SessionEnded { session: SessionId::new("a.1").unwrap(), exit: Exit::Lost };
    assert_eq!(events, vec![lost.clone()]);
    sim.send(lost);
    let run = sim.world.run.as_ref().unwrap();
    assert!(matches!(run.stages[&id("a")].state, StageState::Ready { retry_at: Some(_) }));
    sim.now = Timestamp::from_second(sim.now.as_second() + 3600).unwrap();
    sim.schedule();
    let folder = &sim.world.run.as_ref().unwrap().sessions[&SessionId::new("a.2").unwrap()].worktree;
    assert_eq!(folder, "a.2", "what may still run keeps its folder to itself");
}

#[test]
fn a_world_is_the_fold_of_its_facts() {
    let mut sim = Sim::new(vec![spec("a", &[], command()), spec("b", &["a"], claude())]);
    sim.until_verifying("a").land("a", oid(20)).schedule().hosted("b.1");
    let mut again = World::default();
    for fact in &sim.facts {
        let json = serde_json::to_string(fact).unwrap();
        again.apply(&serde_json::from_str(&json).unwrap(), sim.now);
    }
    assert_eq!(again, sim.world);
    assert_eq!(due(&again), due(&sim.world));
}

/// Every state a stage can be in, with a world around it.
fn states() -> Vec<(&'static str, Sim)> {
    let two = || vec![spec("a", &[], claude()), spec("b", &["a"], command())];
    let with = |name, change: &dyn Fn(&mut Sim)| {
        let mut sim = Sim::new(two());
        change(&mut sim);
        (name, sim)
    };
    let agent = || Caller::Agent { session: SessionId::new("a.1").unwrap() };
    let submit = |sim: &mut Sim| {
        sim.schedule().hosted("a.1");
        sim.send(Event::Request { id: RequestId(2), caller: agent(), request: Request::Submit { stage: id("a") } });
        sim.send(Event::Inspected {
            stage: id("a"),
            session: SessionId::new("a.1").unwrap(),
            request: Some(RequestId(2)),
            inspection: Inspection::Clean { head: oid(7), changes_nothing: false },
        });
    };
    vec![
        with("waiting", &|_| {}),
        with("ready", &|sim| {
            sim.ask(Request::Hold { stage: id("a") }).schedule();
        }),
        with("running, planned", &|sim| {
            sim.schedule();
        }),
        with("running, hosted", &|sim| {
            sim.schedule().hosted("a.1");
        }),
        with("running, ending", &|sim| {
            sim.schedule().hosted("a.1").ask(Request::KillSession { session: SessionId::new("a.1").unwrap() });
        }),
        with("verifying, queued", &|sim| submit(sim)),
        with("verifying, proving", &|sim| {
            submit(sim);
            sim.schedule();
        }),
        with("verifying, landing", &|sim| {
            submit(sim);
            sim.schedule().proved("a", green(&oid(20)));
        }),
        with("gated", &|sim| {
            sim.world.options.no_merge = true;
            submit(sim);
            sim.schedule().proved("a", green(&oid(20)));
        }),
        with("running, told a red verdict", &|sim| {
            submit(sim);
            sim.schedule().proved("a", red());
        }),
        with("gated, a check is disputed", &|sim| {
            submit(sim);
            sim.schedule().proved("a", red());
            let request = Request::Dispute { stage: id("a"), check: 1, reason: "x".to_owned() };
            sim.send(Event::Request { id: RequestId(3), caller: agent(), request });
        }),
        with("blocked", &|sim| {
            sim.schedule().hosted("a.1").ask(Request::Block { stage: id("a"), reason: "x".to_owned() });
        }),
        with("merged", &|sim| {
            submit(sim);
            sim.schedule().land("a", oid(20));
        }),
        with("merged, being proven again", &|sim| {
            submit(sim);
            sim.schedule().land("a", oid(20));
            sim.ask(amend::new_plan(&[])).schedule();
        }),
        with("skipped", &|sim| {
            sim.ask(Request::Skip { stage: id("a"), reason: "x".to_owned(), go_on: false });
        }),
    ]
}

/// Every event about stage `a` and its session `a.1`.
fn events() -> Vec<(&'static str, Event)> {
    let a = || id("a");
    let session = || SessionId::new("a.1").unwrap();
    let reason = || "x".to_owned();
    let operator = |request| Event::Request { id: RequestId(9), caller: Caller::Operator, request };
    let agent = |request| Event::Request { id: RequestId(9), caller: Caller::Agent { session: session() }, request };
    let entry = || Entry::Stage { stage: a() };
    let again = || Entry::Again { stage: a() };
    let inspected =
        |inspection| Event::Inspected { stage: a(), session: session(), request: Some(RequestId(9)), inspection };
    let proved =
        |proof| Event::Proved { entry: entry(), tip: oid(1), proof, kept: None, evidence: Vec::new(), baseline: None };
    let proved_again =
        |proof| Event::Proved { entry: again(), tip: oid(20), proof, kept: None, evidence: Vec::new(), baseline: None };
    vec![
        ("submit (agent)", agent(Request::Submit { stage: a() })),
        ("submit (person)", operator(Request::Submit { stage: a() })),
        ("block (agent)", agent(Request::Block { stage: a(), reason: reason() })),
        ("block (person)", operator(Request::Block { stage: a(), reason: reason() })),
        ("dispute", agent(Request::Dispute { stage: a(), check: 1, reason: reason() })),
        ("retry", operator(Request::Retry { stage: a(), context: None })),
        ("reset", operator(Request::Reset { stage: a(), reason: reason() })),
        ("hold", operator(Request::Hold { stage: a() })),
        ("release", operator(Request::Release { stage: a() })),
        ("skip", operator(Request::Skip { stage: a(), reason: reason(), go_on: true })),
        ("approve", operator(Request::Approve { subject: GateTarget::Stage { stage: a() }, reason: reason() })),
        ("reject", operator(Request::Reject { subject: GateTarget::Stage { stage: a() }, reason: reason() })),
        ("merge", operator(Request::Merge { stage: Some(a()) })),
        ("kill session", operator(Request::KillSession { session: session() })),
        ("stop --kill", operator(Request::Stop { kill: true })),
        ("preparing", Event::Preparing { session: session(), what: Preparing::SetUp }),
        ("set up", Event::SetUp { session: session(), duration_ms: 7 }),
        ("base holds", Event::BeforeHeld { session: session(), checks: vec![check_result(true)] }),
        ("teardown failed", Event::TeardownFailed { stage: a(), why: reason() }),
        ("turn ended", agent(Request::TurnEnded { session: session(), waits: false })),
        ("turn failed", agent(Request::TurnFailed { session: session(), why: GaveUp::Limit { until: None } })),
        ("login lost", agent(Request::TurnFailed { session: session(), why: GaveUp::NotLoggedIn })),
        ("idle", agent(Request::Activity { session: session(), activity: Activity::Idle, asks: None })),
        ("plan changed", operator(amend::new_plan(&[]))),
        ("plan changed, restart", operator(amend::new_plan(&["a"]))),
        ("schedule", Event::Schedule),
        ("daemon started", Event::DaemonStarted { options: RunOptions::default() }),
        ("session hosted", Event::SessionHosted { session: session(), host: host(), token_sha256: "t".to_owned() }),
        (
            "start failed for good",
            Event::StartFailed {
                session: session(),
                why: StartFailure::Permanent {
                    code: BlockCode::NotLoggedIn,
                    backend: BackendKind::Claude,
                    text: reason(),
                },
            },
        ),
        ("start interrupted", Event::StartFailed { session: session(), why: StartFailure::Interrupted }),
        ("session exits 0", Event::SessionEnded { session: session(), exit: Exit::Code { code: 0 } }),
        ("session killed", Event::SessionEnded { session: session(), exit: Exit::UnixSignal { signal: 9 } }),
        (
            "session gave up",
            Event::SessionGaveUp {
                session: session(),
                exit: Exit::Code { code: 1 },
                why: GaveUp::Failed { text: reason() },
            },
        ),
        (
            "gave up without a login",
            Event::SessionGaveUp { session: session(), exit: Exit::Code { code: 1 }, why: GaveUp::NotLoggedIn },
        ),
        ("session timed out", Event::SessionEnded { session: session(), exit: Exit::TimedOut }),
        ("session lost", Event::SessionEnded { session: session(), exit: Exit::Lost }),
        ("session never started", Event::SessionEnded { session: session(), exit: Exit::NeverStarted }),
        ("inspected: clean", inspected(Inspection::Clean { head: oid(7), changes_nothing: false })),
        ("inspected: nothing", inspected(Inspection::Clean { head: oid(7), changes_nothing: true })),
        ("inspected: dirty", inspected(Inspection::Dirty { files: vec!["f".to_owned()] })),
        ("inspected: unfit", inspected(Inspection::Unfit { why: reason() })),
        ("proved: green", proved(green(&oid(20)))),
        ("proved: red", proved(red())),
        ("proved: conflict", proved(Proof::Conflict { files: vec!["f".to_owned()] })),
        ("proved: broken", proved(Proof::Broken { why: reason() })),
        ("proved again: green", proved_again(green(&oid(30)))),
        ("proved again: red", proved_again(red())),
        ("landed", Event::Landed { entry: entry(), tip: oid(1), landing: oid(20) }),
        ("land refused: moved", Event::LandRefused { entry: entry(), moved: true, why: reason() }),
        ("land refused: held", Event::LandRefused { entry: entry(), moved: false, why: reason() }),
    ]
}

/// One line about what a step does to stage `a` and its session.
fn outcome(sim: &Sim, event: &Event) -> String {
    let done = match step(&sim.world, event, sim.now) {
        Err(refusal) => return format!("refused: {}", refusal.what),
        Ok(done) => done,
    };
    let mut world = sim.world.clone();
    let mut parts = Vec::new();
    for fact in &done.facts {
        world.apply(fact, sim.now);
        parts.push(match fact {
            Fact::Stage { stage, change } => format!("{stage} {}", tag(change, "change")),
            Fact::Session { session, change } => format!("{session} {}", tag(change, "change")),
            other => tag(other, "fact"),
        });
    }
    for effect in &done.effects {
        match effect {
            Effect::Reply { answer, .. } => parts.push(format!("reply {}", tag(answer, "answer"))),
            Effect::EndSession { why: EndReason::Done, .. } => parts.push("end the session".to_owned()),
            Effect::LookAtRefs { .. } | Effect::OpenBarrier { .. } => {}
            other => parts.push(format!("{other:?}").split([' ', '(', '{']).next().unwrap_or_default().to_lowercase()),
        }
    }
    if parts.is_empty() {
        return "·".to_owned();
    }
    let before = sim.state("a").kind();
    let after = world.run.as_ref().unwrap().stages[&id("a")].state.kind();
    let arrow = if before == after { String::new() } else { format!(" ⇒ {}", after.as_str()) };
    format!("{}{arrow}", parts.join(", "))
}

fn tag(value: &impl serde::Serialize, name: &str) -> String {
    serde_json::to_value(value).unwrap()[name].as_str().unwrap().to_owned()
}

#[test]
fn the_transition_matrix() {
    let mut table = String::new();
    for (state, sim) in states() {
        table.push_str(&format!("{state}\n"));
        let mut prover = amend::Prover::default();
        prover.look(&sim.world);
        for (name, event) in events() {
            table.push_str(&format!("    {name:<24} {}\n", outcome(&sim, &prover.answer(&event))));
        }
    }
    insta::assert_snapshot!("transitions", table);
}

#[test]
fn no_sequence_of_events_breaks_a_rule_or_gets_stuck_in_a_loop() {
    // A walk over all events in a random order: every accepted step keeps the rules
    // (step itself evaluates them) and the world stays the fold of its facts.
    for seed in 0..300_u64 {
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random
        };
        let mut states = states();
        let start = usize::try_from(seed).unwrap() % states.len();
        let (_, mut sim) = states.swap_remove(start);
        let mut again = sim.world.clone();
        sim.facts.clear();
        let mut prover = amend::Prover::default();
        let events = events();
        for _ in 0..60 {
            let (name, event) = &events[usize::try_from(next() % events.len() as u64).unwrap()];
            prover.look(&sim.world);
            match step(&sim.world, &prover.answer(event), sim.now) {
                Ok(step) => {
                    for fact in &step.facts {
                        sim.world.apply(fact, sim.now);
                    }
                    sim.facts.extend(step.facts);
                }
                Err(refusal) => {
                    assert_ne!(
                        refusal.kind,
                        crate::model::refusal::RefusalKind::Internal,
                        "seed {seed}: {name}: {refusal}: {:?}",
                        refusal.why
                    );
                }
            }
        }
        for fact in &sim.facts {
            again.apply(fact, sim.now);
        }
        assert_eq!(again, sim.world, "seed {seed}");
        let run = sim.world.run.as_ref().unwrap();
        let live = run.live_sessions().filter(|session| session.stage == id("a")).count();
        assert!(live <= 1, "seed {seed}: {live} live sessions");
        assert!(run.open_gates().all(|gate| gate.id <= GateId(sim.world.gates_opened)), "seed {seed}");
    }
}

/// One request of every kind, about stage `a` and its session. The match has no `_`: a new
/// kind of request does not compile until it is in the table.
fn every_request() -> Vec<Request> {
    let (stage, session, reason) = (id("a"), SessionId::new("a.1").unwrap(), "x".to_owned());
    let subject = GateTarget::Stage { stage: stage.clone() };
    let loaded = LoadedPlan::default();
    let all = vec![
        Request::LoadPlan { plan: loaded.plan, source: loaded.source, ground: loaded.ground, clean: true },
        Request::Submit { stage: stage.clone() },
        Request::Block { stage: stage.clone(), reason: reason.clone() },
        Request::Retry { stage: stage.clone(), context: None },
        Request::Resume { stage: stage.clone() },
        Request::Reset { stage: stage.clone(), reason: reason.clone() },
        Request::Hold { stage: stage.clone() },
        Request::Release { stage: stage.clone() },
        Request::Skip { stage: stage.clone(), reason: reason.clone(), go_on: true },
        Request::Approve { subject: subject.clone(), reason: reason.clone() },
        Request::Reject { subject, reason },
        Request::Merge { stage: Some(stage) },
        Request::KillSession { session: session.clone() },
        Request::Stop { kill: true },
        Request::TurnEnded { session: session.clone(), waits: false },
        Request::TurnFailed { session: session.clone(), why: GaveUp::NotLoggedIn },
        Request::Activity { session: session.clone(), activity: Activity::Idle, asks: None },
        Request::Measured { session: session.clone(), usage: Usage::default(), hears: true },
        Request::Handoff { stage: id("a"), handoff: Box::default() },
        Request::Compacting { session, remains: Box::default() },
        Request::Waits { stage: id("a"), asks: None },
        amend::new_plan(&[]),
        Request::Dispute { stage: id("a"), check: 1, reason: "x".to_owned() },
    ];
    let number = |request: &Request| match request {
        Request::LoadPlan { .. } => 0,
        Request::Submit { .. } => 1,
        Request::Block { .. } => 2,
        Request::Retry { .. } => 3,
        Request::Resume { .. } => 4,
        Request::Reset { .. } => 5,
        Request::Hold { .. } => 6,
        Request::Release { .. } => 7,
        Request::Skip { .. } => 8,
        Request::Approve { .. } => 9,
        Request::Reject { .. } => 10,
        Request::Merge { .. } => 11,
        Request::KillSession { .. } => 12,
        Request::Stop { .. } => 13,
        Request::TurnEnded { .. } => 14,
        Request::TurnFailed { .. } => 15,
        Request::Activity { .. } => 16,
        Request::Measured { .. } => 17,
        Request::Handoff { .. } => 18,
        Request::Compacting { .. } => 19,
        Request::Waits { .. } => 20,
        Request::ApplyPlan { .. } => 21,
        Request::Dispute { .. } => 22,
    };
    assert!(all.iter().enumerate().all(|(at, request)| number(request) == at));
    all
}

struct LoadedPlan {
    plan: Box<Plan>,
    source: PlanSource,
    ground: Ground,
}

impl Default for LoadedPlan {
    fn default() -> Self {
        let sim = Sim::new(vec![spec("a", &[], command())]);
        let run = sim.world.run.unwrap();
        LoadedPlan { plan: Box::new(run.plan), source: run.source, ground: run.ground }
    }
}

#[test]
fn every_role_may_do_what_the_table_of_rights_says() {
    use crate::model::event::Right;
    let session = |name: &str| Caller::Agent { session: SessionId::new(name).unwrap() };
    // `a.1` holds the lease of `a`, `b.1` another one, `z.1` is nobody's.
    let roles = [
        ("operator", Caller::Operator),
        ("holder", session("a.1")),
        ("another", session("b.1")),
        ("another epoch", session("a.7")),
        ("nobody's", session("z.1")),
    ];
    for request in every_request() {
        for (role, caller) in &roles {
            let mut sim = Sim::new(vec![spec("a", &[], claude()), spec("b", &[], claude())]);
            sim.schedule().hosted("a.1").hosted("b.1");
            let event = Event::Request { id: RequestId(1), caller: caller.clone(), request: request.clone() };
            let answer = step(&sim.world, &event, sim.now);
            let is_refused =
                answer.as_ref().is_err_and(|refusal| refusal.kind == crate::model::refusal::RefusalKind::Rights);
            let may = match request.right() {
                Right::Operator => *role == "operator",
                Right::Stage => matches!(*role, "operator" | "holder"),
                Right::Session => *role == "holder",
            };
            assert_eq!(!is_refused, may, "{role}: {request:?}: {answer:?}");
            // What is not their right leaves no trace at all.
            assert!(may || answer.is_err(), "{role}: {request:?}");
        }
    }
}
