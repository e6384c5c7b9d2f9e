//! Budgets (R16), and what a usage limit of the account means.

use std::sync::Arc;

use super::*;
use crate::kernel::budget;
use crate::model::budget::{Budget, OnLimit};
use crate::model::effect::Answer;
use crate::model::event::Defaults;
use crate::model::session::{SessionEnd, SessionState};

const LATER: i64 = 3_600;

fn tokens(cap: u64) -> Budget {
    Budget { tokens: Some(cap), ..Budget::default() }
}

fn sessions(cap: u32) -> Budget {
    Budget { sessions: Some(cap), ..Budget::default() }
}

/// Two stages that need not wait for each other, with changes to the plan.
fn two(change: impl FnOnce(&mut Plan)) -> Sim {
    let mut sim = Sim::new(vec![spec("a", &[], claude()), spec("b", &[], claude())]);
    change(&mut sim.world.run.as_mut().unwrap().plan);
    let run = sim.world.run.as_mut().unwrap();
    for spec in run.plan.stages.clone() {
        let id = spec.id.clone();
        run.stages.get_mut(&id).unwrap().spec = spec;
    }
    sim
}

impl Sim {
    fn run(&self) -> &crate::kernel::world::Run {
        self.world.run.as_ref().unwrap()
    }
    fn uses(&mut self, session: &str, output: u64) -> Answer {
        let session = SessionId::new(session).unwrap();
        let usage = Usage { context: 1_000, window: 200_000, output, cache_read: 9_000_000, ..Usage::default() };
        let request = Request::Measured { session: session.clone(), usage, hears: true };
        self.send(Event::Request { id: RequestId(9), caller: Caller::Agent { session }, request });
        let answer = self.effects.iter().rev().find_map(|effect| match effect {
            Effect::Reply { request: RequestId(9), answer } => Some(answer.clone()),
            _ => None,
        });
        answer.unwrap()
    }
    /// The session ends its turn over and over, until it is ended, and is over.
    fn leaves(&mut self, session: &str) -> &mut Sim {
        let id = SessionId::new(session).unwrap();
        let is_live = |sim: &Sim| matches!(sim.run().sessions[&id].state, SessionState::Live { .. });
        for _ in 0..9 {
            if is_live(self) {
                let request = Request::TurnEnded { session: id.clone(), waits: false };
                self.send(Event::Request { id: RequestId(9), caller: Caller::Agent { session: id.clone() }, request });
            }
        }
        assert!(!is_live(self), "it never ends");
        self.ended(session, Exit::Code { code: 0 })
    }
    fn answers(&mut self, target: GateTarget, approved: bool) -> &mut Sim {
        let reason = String::new();
        self.ask(match approved {
            true => Request::Approve { subject: target, reason },
            false => Request::Reject { subject: target, reason },
        })
    }
    fn question(&self) -> String {
        self.run().open_gates().map(|gate| gate.question.clone()).collect::<Vec<_>>().join(" | ")
    }
    fn gate(&self) -> GateTarget {
        GateTarget::Gate { gate: self.run().open_gates().next().expect("a gate is open").id }
    }
    fn working(&self) -> Vec<&str> {
        self.run().live_sessions().map(|session| session.id.as_str()).collect()
    }
}

#[test]
fn a_session_at_the_cap_leaves_what_it_has_and_goes_on_after_a_persons_word() {
    let mut sim = two(|plan| Arc::make_mut(&mut plan.stages[0]).budget = tokens(100_000));
    sim.schedule().hosted("a.1").hosted("b.1");
    assert!(matches!(sim.uses("a.1", 99_999), Answer::Done { .. }), "cache reads count");
    let Answer::Advice { text } = sim.uses("a.1", 123_000) else { panic!("it was not told") };
    assert!(text.contains("the budget of this stage is used up: 123 k of 100 k tokens"), "{text}");
    assert!(text.contains("loom handoff") && text.contains("A person decides"), "{text}");
    assert!(matches!(sim.uses("a.1", 123_500), Answer::Done { .. }), "it is told twice");

    let conversation = sim.run().sessions[&SessionId::new("a.1").unwrap()].conversation.clone();
    sim.leaves("a.1").schedule();
    assert!(matches!(sim.state("a"), StageState::Gated { commit: None, .. }), "{:?}", sim.state("a"));
    assert_eq!(sim.working(), ["b.1"], "another stage has to do with it");
    assert_eq!(sim.question(), "stage `a` has used up its budget: 123 k of 100 k tokens. Approve grants as much again");
    sim.schedule();
    assert_eq!(sim.run().open_gates().count(), 1, "it is asked twice");

    sim.answers(GateTarget::Stage { stage: id("a") }, true).schedule();
    assert_eq!(sim.working(), ["a.2", "b.1"]);
    let session = &sim.run().sessions[&SessionId::new("a.2").unwrap()];
    assert!(session.resumes && session.conversation == conversation, "the conversation is lost: {session:?}");
    assert_eq!((sim.run().stages[&id("a")].attempts, session.attempt), (1, 1), "an attempt is used up");
    // The second helping begins where the first was left.
    sim.hosted("a.2");
    assert!(matches!(sim.uses("a.2", 90_000), Answer::Done { .. }));
    assert!(matches!(sim.uses("a.2", 100_000), Answer::Advice { .. }));
}

#[test]
fn a_rejected_budget_blocks_the_stage_and_a_retry_asks_again() {
    let mut sim = two(|plan| Arc::make_mut(&mut plan.stages[0]).budget = sessions(1));
    sim.schedule().hosted("a.1").ended("a.1", Exit::Code { code: 0 }).schedule();
    assert!(sim.question().contains("1 of 1 session"), "{}", sim.question());
    sim.answers(GateTarget::Stage { stage: id("a") }, false).schedule();
    assert!(
        matches!(sim.state("a"), StageState::Blocked { reason } if reason.code == BlockCode::Rejected),
        "{:?}",
        sim.state("a")
    );
    sim.ask(Request::Retry { stage: id("a"), context: None }).schedule();
    assert!(matches!(sim.state("a"), StageState::Gated { .. }), "{:?}", sim.state("a"));
    assert!(!sim.working().contains(&"a.2"));
}

#[test]
fn the_plans_sessions_are_counted_before_they_start() {
    let mut sim = two(|plan| plan.budget = sessions(1));
    sim.schedule();
    assert_eq!(sim.working(), ["a.1"], "two at once slip through");
    assert_eq!(
        sim.question(),
        "the plan has used up its budget: 1 of 1 session. Approve grants as much again, reject pauses the plan"
    );
    assert!(sim.run().landing_gate().is_none(), "what is done does not land");
    let gate = sim.gate();
    sim.answers(gate, true).schedule();
    assert_eq!(sim.working(), ["a.1", "b.1"]);
    assert_eq!(sim.run().open_gates().count(), 0, "{}", sim.question());
}

#[test]
fn the_plans_tokens_stop_every_session_and_a_no_pauses_the_plan() {
    let mut sim = two(|plan| plan.budget = tokens(100_000));
    sim.schedule().hosted("a.1").hosted("b.1");
    assert!(matches!(sim.uses("a.1", 60_000), Answer::Done { .. }));
    let Answer::Advice { text } = sim.uses("b.1", 50_000) else { panic!("the sum is not looked at") };
    assert!(text.contains("the budget of the plan is used up: 110 k of 100 k tokens"), "{text}");
    assert!(matches!(sim.uses("a.1", 60_001), Answer::Advice { .. }));
    sim.leaves("a.1").leaves("b.1").schedule();
    assert_eq!(sim.run().open_gates().count(), 1, "{}", sim.question());
    assert!(is_quiet(&sim.world), "nothing goes on without a person");

    let gate = sim.gate();
    sim.answers(gate, false).schedule();
    assert!(sim.working().is_empty() && is_quiet(&sim.world));
    assert!(sim.run().paused.as_deref().unwrap().contains("a person stopped it at its budget"));
    sim.send(Event::DaemonStarted { options: RunOptions { restarted: true, ..RunOptions::default() } }).schedule();
    assert!(sim.run().paused.is_some() && sim.working().is_empty(), "a crash started it again");
    sim.send(Event::DaemonStarted { options: RunOptions::default() }).schedule();
    assert!(sim.run().paused.is_none() && sim.working().is_empty());
    assert!(sim.question().contains("the plan has used up its budget"), "it is not asked again");
}

#[test]
fn each_cap_comes_from_the_plan_or_from_the_operator() {
    let mut sim = two(|plan| plan.budget = sessions(7));
    sim.world.options.defaults = Defaults {
        max_parallel: Some(1),
        on_limit: Some(OnLimit::Ask),
        budget: Budget { cost_microusd: Some(5), ..sessions(1) },
        stage_budget: tokens(3),
    };
    let run = sim.run();
    assert_eq!(budget::of_plan(&sim.world, run), Budget { cost_microusd: Some(5), ..sessions(7) });
    assert_eq!(budget::of_stage(&sim.world, &run.stages[&id("a")]), tokens(3));
    assert_eq!((budget::max_parallel(&sim.world, run), budget::on_limit(&sim.world, run)), (4, OnLimit::Ask));
    let mut sim = two(|plan| (plan.max_parallel, plan.on_limit) = (None, Some(OnLimit::Stop)));
    let of = |sim: &Sim| (budget::max_parallel(&sim.world, sim.run()), budget::on_limit(&sim.world, sim.run()));
    assert_eq!(of(&sim), (4, OnLimit::Stop));
    sim.world.options.defaults.max_parallel = Some(9);
    sim.world.options.on_limit = Some(OnLimit::Resume);
    assert_eq!(of(&sim), (9, OnLimit::Resume));
    sim.world.options.max_parallel = Some(2);
    assert_eq!(of(&sim).0, 2);
}

/// Both sessions meet the limit.
fn limited(policy: OnLimit) -> Sim {
    let mut sim = two(|plan| plan.on_limit = Some(policy));
    sim.schedule().hosted("a.1").hosted("b.1");
    let until = sim.now.checked_add(jiff::SignedDuration::from_secs(LATER)).unwrap();
    for session in ["a.1", "b.1"] {
        let (session, why) = (SessionId::new(session).unwrap(), GaveUp::Limit { until: Some(until) });
        sim.send(Event::SessionGaveUp { session, exit: Exit::Code { code: 1 }, why }).schedule();
    }
    assert!(sim.working().is_empty());
    assert!(
        sim.run()
            .sessions
            .values()
            .all(|session| matches!(session.state, SessionState::Ended { end: SessionEnd::RateLimited, .. }))
    );
    sim
}

fn lifted(sim: &mut Sim) -> &mut Sim {
    sim.now = sim.now.checked_add(jiff::SignedDuration::from_secs(LATER + 1)).unwrap();
    sim.schedule()
}

#[test]
fn at_a_limit_it_goes_on_by_itself_or_a_person_is_asked_once() {
    let mut sim = limited(OnLimit::Resume);
    assert_eq!((sim.run().open_gates().count(), is_quiet(&sim.world)), (0, false));
    assert_eq!(lifted(&mut sim).working(), ["a.2"], "one session probes");

    let mut sim = limited(OnLimit::Ask);
    assert_eq!(sim.run().open_gates().count(), 1, "{}", sim.question());
    assert!(sim.question().contains("at 1970-01-01T01:00:00Z"), "{}", sim.question());
    assert!(is_quiet(&sim.world), "the daemon need not wait");
    assert!(lifted(&mut sim).working().is_empty(), "it does not wait for the answer");
    let gate = sim.gate();
    assert_eq!(sim.answers(gate, true).schedule().working(), ["a.2"]);

    let mut sim = limited(OnLimit::Ask);
    let gate = sim.gate();
    sim.answers(gate, true).schedule();
    assert!(sim.working().is_empty() && !is_quiet(&sim.world), "an early yes still waits for the reset");
    assert_eq!(lifted(&mut sim).working(), ["a.2"]);

    let mut sim = limited(OnLimit::Ask);
    let gate = sim.gate();
    sim.answers(gate, false).schedule();
    assert!(lifted(&mut sim).working().is_empty() && is_quiet(&sim.world), "a no is no answer");
    sim.ask(Request::Resume { stage: id("a") }).schedule();
    assert_eq!(sim.working(), ["a.2", "b.2"], "a person who does not wait is not asked");
}

#[test]
fn at_a_limit_the_plan_stops_when_it_is_told_to() {
    let mut sim = limited(OnLimit::Stop);
    assert!(sim.run().paused.as_deref().unwrap().contains("`on_limit` is `stop`"));
    assert_eq!(sim.run().open_gates().count(), 0);
    assert!(is_quiet(&sim.world) && lifted(&mut sim).working().is_empty());
    sim.send(Event::DaemonStarted { options: RunOptions { restarted: true, ..RunOptions::default() } }).schedule();
    assert!(sim.working().is_empty(), "a crash started it again");
    sim.send(Event::DaemonStarted { options: RunOptions::default() }).schedule();
    assert_eq!(sim.working(), ["a.2"]);
}

#[test]
fn an_answer_by_way_of_resume_closes_the_question() {
    let mut sim = limited(OnLimit::Ask);
    sim.ask(Request::Resume { stage: id("b") }).schedule();
    assert_eq!((sim.run().open_gates().count(), sim.working()), (0, vec!["a.2", "b.2"]));
}
