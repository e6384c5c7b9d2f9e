//! What a person is told of, and that one cause is one thing.

use super::watchdog::Doing;
use super::*;
use crate::kernel::attention;
use crate::model::attention::{Attention, AttentionKind};
use crate::model::budget::{Budget, OnLimit};

impl Sim {
    fn says(&self, session: &str, activity: Activity, asks: Option<&str>) -> Event {
        let session = SessionId::new(session).unwrap();
        let request = Request::Activity { session: session.clone(), activity, asks: asks.map(str::to_owned) };
        Event::Request { id: RequestId(3), caller: Caller::Agent { session }, request }
    }
    fn gives_up(&mut self, session: &str, why: GaveUp) -> &mut Sim {
        let session = SessionId::new(session).unwrap();
        self.send(Event::SessionGaveUp { session, exit: Exit::Code { code: 1 }, why }).schedule()
    }
}

/// Two sessions at work.
fn two(policy: OnLimit) -> Sim {
    let mut sim = Sim::new(vec![spec("a", &[], claude()), spec("b", &[], claude()), spec("c", &["a"], claude())]);
    sim.world.run.as_mut().unwrap().plan.on_limit = Some(policy);
    sim.schedule().hosted("a.1").hosted("b.1");
    sim
}

fn one(sim: &Sim) -> Attention {
    let all = attention(&sim.world);
    let [only] = all.as_slice() else { panic!("{all:#?}") };
    only.clone()
}

#[test]
fn a_session_that_waits_is_told_until_it_goes_on() {
    let mut sim = two(OnLimit::Resume);
    assert_eq!(attention(&sim.world), []);
    let ask = sim.says("a.1", Activity::WaitingForPerson, Some("Which letter?"));
    sim.send(ask);
    let asked = one(&sim);
    assert_eq!((asked.kind, asked.text.as_str()), (AttentionKind::Waiting, "stage `a` asks: Which letter?"));
    assert_eq!((asked.next.as_str(), asked.stages.as_slice()), ("loom attach a", &[id("a")][..]));
    let works = sim.says("a.1", Activity::Working, None);
    assert_eq!(attention(&sim.send(works).world), []);
    let other = sim.says("a.1", Activity::WaitingForPerson, Some("Which number?"));
    sim.send(other);
    assert_ne!(one(&sim).key, asked.key, "another question is another thing");
    let idle = sim.says("a.1", Activity::Idle, None);
    sim.send(idle);
    assert_eq!(one(&sim).text, "stage `a` is idle at its prompt");
}

#[test]
fn a_session_that_may_hang_is_told_once_until_it_goes_on() {
    let mut sim = two(OnLimit::Resume);
    sim.now += jiff::SignedDuration::from_secs(700);
    sim.looked("a.1", Doing::Working, None);
    let hangs = one(&sim);
    assert_eq!((hangs.kind, hangs.stages.as_slice()), (AttentionKind::Hanging, &[id("a")][..]));
    assert!(hangs.text.starts_with("stage `a` may hang: no answer from the model, quiet since "), "{hangs:?}");
    assert!(hangs.next == "loom attach a" || hangs.next == "loom logs a", "{hangs:?}");
    sim.now += jiff::SignedDuration::from_secs(60);
    sim.looked("a.1", Doing::Working, None);
    assert_eq!(one(&sim).key, hangs.key, "it is told again");
    let now = sim.now;
    sim.looked("a.1", Doing::Working, Some(now));
    assert_eq!(attention(&sim.world), []);
    // Who is idle at its prompt was told of already.
    let idle = sim.says("a.1", Activity::Idle, None);
    sim.send(idle);
    sim.now += jiff::SignedDuration::from_secs(700);
    sim.looked("a.1", Doing::TurnOver, Some(now));
    assert_eq!(one(&sim).kind, AttentionKind::Waiting);
}

#[test]
fn a_question_goes_with_its_stage() {
    for request in [
        Request::Reset { stage: id("a"), reason: "again".to_owned() },
        Request::Skip { stage: id("a"), reason: "not needed".to_owned(), go_on: true },
    ] {
        let budget = Budget { sessions: Some(1), ..Budget::default() };
        let mut sim = Sim::new(vec![StageSpec { budget, ..spec("a", &[], claude()) }, spec("b", &["a"], claude())]);
        sim.schedule().hosted("a.1").gives_up("a.1", GaveUp::Unavailable { text: "529".to_owned() });
        sim.now += jiff::SignedDuration::from_secs(3_600);
        sim.schedule();
        let asked = one(&sim);
        assert_eq!((asked.kind, asked.next.as_str()), (AttentionKind::Gated, "loom stage approve a"));
        sim.ask(request);
        assert_eq!((attention(&sim.world), sim.world.run.as_ref().unwrap().open_gates().count()), (Vec::new(), 0));
    }
}

#[test]
fn stages_that_are_blocked_by_one_cause_are_one_thing() {
    let mut sim = two(OnLimit::Resume);
    sim.gives_up("a.1", GaveUp::NotLoggedIn);
    let first = one(&sim);
    sim.gives_up("b.1", GaveUp::NotLoggedIn);
    let both = one(&sim);
    assert_eq!((both.key.as_str(), both.stages.as_slice()), (first.key.as_str(), &[id("a"), id("b")][..]));
    assert_eq!((both.kind, both.next.as_str()), (AttentionKind::Blocked, "claude"));

    let mut sim = two(OnLimit::Resume);
    for session in ["a.1", "b.1"] {
        sim.gives_up(session, GaveUp::Refused { text: "no such model".to_owned() });
    }
    let keys: Vec<String> = attention(&sim.world).into_iter().map(|attention| attention.key).collect();
    assert_eq!(keys.len(), 2, "what each of them was refused for is its own: {keys:?}");
}

#[test]
fn a_limit_is_told_once_under_every_policy_and_an_outage_never() {
    for (policy, words, next) in [
        (OnLimit::Resume, "everything goes on by itself then", "loom status"),
        (OnLimit::Ask, "does the plan go on when it is lifted", "loom stage approve g1"),
        (OnLimit::Stop, "the plan is paused", "loom run"),
    ] {
        let mut sim = two(policy);
        let until = sim.now.checked_add(jiff::SignedDuration::from_secs(900)).unwrap();
        sim.gives_up("a.1", GaveUp::Limit { until: Some(until) });
        let first = one(&sim);
        sim.gives_up("b.1", GaveUp::Limit { until: Some(until) });
        assert_eq!(one(&sim), first, "{policy:?}");
        assert_eq!((first.kind, first.next.as_str()), (AttentionKind::Limit, next));
        assert!(first.text.contains(words), "{first:?}");
    }
    let mut sim = two(OnLimit::Ask);
    sim.gives_up("a.1", GaveUp::Unavailable { text: "529".to_owned() });
    assert_eq!(attention(&sim.world), []);
}

#[test]
fn a_no_at_a_limit_is_known_to_who_said_it() {
    let mut sim = two(OnLimit::Ask);
    sim.gives_up("a.1", GaveUp::Limit { until: None }).gives_up("b.1", GaveUp::Limit { until: None });
    let gate = sim.world.run.as_ref().unwrap().open_gates().next().unwrap().id;
    sim.ask(Request::Reject { subject: GateTarget::Gate { gate }, reason: String::new() });
    assert_eq!(attention(&sim.world), []);
}

#[test]
fn a_question_and_a_hold_of_the_plan_are_told_and_a_hold_of_a_person_is_not() {
    let held = StageSpec { hold: true, ..spec("a", &[], command()) };
    let mut sim = Sim::new(vec![held, spec("b", &["a"], command())]);
    sim.schedule();
    assert_eq!((one(&sim).next.as_str(), one(&sim).kind), ("loom stage release a", AttentionKind::Gated));
    sim.ask(Request::Release { stage: id("a") });
    assert_eq!(attention(&sim.world), []);
    sim.schedule().hosted("a.1").ask(Request::Hold { stage: id("b") });
    assert_eq!(attention(&sim.world), []);
    sim.send(Event::ConfigSeen { fingerprint: "other".to_owned() });
    assert_eq!((one(&sim).next.as_str(), one(&sim).stages.len()), ("loom stage approve g1", 0));
}
