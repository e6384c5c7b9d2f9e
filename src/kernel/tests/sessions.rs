//! Sessions that end before their stage does.

use super::watchdog::Doing;
use super::*;
use crate::kernel::next_step;
use crate::model::effect::Answer;
use crate::model::handoff::{Author, Handoff, Lists};
use crate::model::limits::{HANDOFF_TURN, HANDOFFS_MAX};
use crate::model::session::{SessionEnd, SessionState};
use crate::model::usage::{Usage, Zone};

fn used(percent: u64) -> Usage {
    Usage { context: percent * 2_000, window: 200_000, output: 1, ..Usage::default() }
}

fn said() -> Handoff {
    let lists = Lists { warnings: vec!["beware".to_owned()], ..Lists::default() };
    Handoff { status: "half".to_owned(), lists, ..Handoff::default() }
}

impl Sim {
    /// What the agent of a session asks for, and the answer.
    pub(super) fn agent(&mut self, session: &str, request: Request) -> Answer {
        let caller = Caller::Agent { session: SessionId::new(session).unwrap() };
        self.send(Event::Request { id: RequestId(7), caller, request });
        let answers = self.effects.iter().rev().find_map(|effect| match effect {
            Effect::Reply { request: RequestId(7), answer } => Some(answer.clone()),
            _ => None,
        });
        answers.unwrap()
    }
    fn measured(&mut self, session: &str, percent: u64) -> Answer {
        let usage = used(percent);
        self.agent(session, Request::Measured { session: SessionId::new(session).unwrap(), usage, hears: true })
    }
    fn stage_of(&self, name: &str) -> &crate::kernel::world::Stage {
        &self.world.run.as_ref().unwrap().stages[&id(name)]
    }
    fn end_of(&self, session: &str) -> Option<SessionEnd> {
        let session = &self.world.run.as_ref().unwrap().sessions[&SessionId::new(session).unwrap()];
        match session.state {
            SessionState::Ended { end, .. } => Some(end),
            _ => None,
        }
    }
    fn later(&mut self, pause: std::time::Duration) -> &mut Sim {
        self.now = self.now.checked_add(jiff::SignedDuration::try_from(pause).unwrap()).unwrap();
        self
    }
}

fn one() -> Sim {
    let mut sim = Sim::new(vec![spec("a", &[], claude()), spec("b", &["a"], claude())]);
    sim.schedule().hosted("a.1").base_looked("a");
    sim
}

#[test]
fn an_agent_is_told_once_in_each_zone() {
    let mut sim = one();
    for (percent, expected) in [(10, None), (49, None), (50, Some("Get ready")), (51, None), (64, None)] {
        let told = match sim.measured("a.1", percent) {
            Answer::Advice { text } => Some(text),
            _ => None,
        };
        assert_eq!(told.is_some(), expected.is_some(), "{percent}: {told:?}");
        assert!(expected.is_none_or(|words| told.unwrap().contains(words)), "{percent}");
    }
    let Answer::Advice { text } = sim.measured("a.1", 66) else { panic!("red was not told") };
    assert!(text.contains("loom handoff") && text.contains("loom stage complete a"), "{text}");
    assert!(matches!(sim.measured("a.1", 67), Answer::Done { .. }));
    let facts = sim.facts.len();
    sim.measured("a.1", 67);
    assert_eq!(sim.facts.len(), facts, "what is known already is not recorded again");
}

#[test]
fn a_status_line_reports_and_is_told_nothing() {
    let mut sim = one();
    let session = SessionId::new("a.1").unwrap();
    let answer = sim.agent("a.1", Request::Measured { session, usage: used(90), hears: false });
    assert!(matches!(answer, Answer::Done { .. }));
    assert!(matches!(sim.measured("a.1", 90), Answer::Advice { .. }), "the agent still has to be told");
}

#[test]
fn a_handed_off_session_is_followed_by_one_of_the_same_attempt() {
    let mut sim = one();
    sim.measured("a.1", 70);
    let handoff = Request::Handoff { stage: id("a"), handoff: Box::new(said()) };
    assert!(matches!(sim.agent("a.1", handoff), Answer::Done { .. }));
    let ended = Request::TurnEnded { session: SessionId::new("a.1").unwrap(), waits: false };
    assert!(matches!(sim.agent("a.1", ended), Answer::TurnMayEnd));
    sim.ended("a.1", Exit::UnixSignal { signal: 15 }).schedule();
    assert_eq!(sim.end_of("a.1"), Some(SessionEnd::HandedOff));
    let stage = sim.stage_of("a");
    assert_eq!((stage.attempts, stage.tries, stage.sessions, stage.handoffs), (1, 1, 2, 1));
    assert_eq!(stage.lists.warnings, ["beware"]);
    let next = &sim.world.run.as_ref().unwrap().sessions[&SessionId::new("a.2").unwrap()];
    let first = &sim.world.run.as_ref().unwrap().sessions[&SessionId::new("a.1").unwrap()];
    assert!(!next.resumes && next.conversation != first.conversation && next.attempt == 1);
}

#[test]
fn who_writes_no_handoff_in_time_is_ended_and_loom_writes_it() {
    let mut sim = one();
    sim.measured("a.1", 70);
    let deadlines: Vec<_> = crate::kernel::context::deadlines(sim.world.run.as_ref().unwrap()).collect();
    assert_eq!(deadlines, [crate::kernel::context::after(sim.now, HANDOFF_TURN)]);
    sim.schedule();
    let live = |sim: &Sim| {
        matches!(
            sim.world.run.as_ref().unwrap().sessions[&SessionId::new("a.1").unwrap()].state,
            SessionState::Live { .. }
        )
    };
    assert!(live(&sim));
    sim.later(HANDOFF_TURN).schedule();
    assert!(!live(&sim));
    let remains = Handoff { status: "seen".to_owned(), ..Handoff::default() };
    sim.send(Event::SessionLeft { session: SessionId::new("a.1").unwrap(), remains: Box::new(remains) });
    sim.ended("a.1", Exit::UnixSignal { signal: 15 }).schedule();
    let written = sim.stage_of("a").handoff.clone().unwrap();
    assert_eq!((written.by, written.number, written.handoff.status.as_str()), (Author::Loom, 1, "seen"));
    assert_eq!(sim.stage_of("a").sessions, 2);
}

#[test]
fn an_agents_own_words_are_kept_over_what_is_seen_from_outside() {
    let mut sim = one();
    sim.agent("a.1", Request::Handoff { stage: id("a"), handoff: Box::new(said()) });
    sim.send(Event::SessionLeft { session: SessionId::new("a.1").unwrap(), remains: Box::default() });
    assert_eq!(sim.stage_of("a").handoff.as_ref().unwrap().by, Author::Agent);
    assert!(matches!(sim.state("a"), StageState::Running { .. }), "a handoff before the budget ends nothing");
    let empty = Event::Request {
        id: RequestId(8),
        caller: Caller::Agent { session: SessionId::new("a.1").unwrap() },
        request: Request::Handoff { stage: id("a"), handoff: Box::default() },
    };
    let refusal = step(&sim.world, &empty, sim.now).unwrap_err();
    assert!(refusal.what.contains("says nothing"), "{refusal}");
}

#[test]
fn a_stage_that_only_hands_off_comes_to_its_end() {
    let mut sim = Sim::new(vec![spec("a", &[], claude())]);
    for n in 1..=100 {
        sim.schedule();
        let session = format!("a.{n}");
        if sim.state("a").lease().is_none() {
            break;
        }
        sim.hosted(&session).measured(&session, 99);
        sim.later(HANDOFF_TURN).schedule().ended(&session, Exit::UnixSignal { signal: 15 });
    }
    let StageState::Blocked { reason } = sim.state("a") else { panic!("{:?}", sim.state("a")) };
    assert!(reason.text.contains("handed off"), "{}", reason.text);
    assert_eq!(sim.stage_of("a").sessions, 2 * (HANDOFFS_MAX + 1), "two attempts");
}

#[test]
fn a_conversation_that_is_too_long_is_not_resumed() {
    let mut sim = one();
    let why = GaveUp::ContextFull;
    sim.send(Event::SessionGaveUp { session: SessionId::new("a.1").unwrap(), exit: Exit::Code { code: 1 }, why });
    assert_eq!(sim.end_of("a.1"), Some(SessionEnd::HandedOff));
    assert!(sim.stage_of("a").resume.is_none());
    sim.schedule().hosted("a.2");
    let turn = Request::TurnFailed { session: SessionId::new("a.2").unwrap(), why: GaveUp::ContextFull };
    sim.agent("a.2", turn);
    assert!(matches!(sim.state("a"), StageState::Running { .. }), "until its tree is gone");
    sim.ended("a.2", Exit::UnixSignal { signal: 15 }).schedule();
    assert_eq!((sim.end_of("a.2"), sim.stage_of("a").attempts), (Some(SessionEnd::HandedOff), 1));
}

#[test]
fn a_red_verdict_gives_a_session_its_time_again() {
    let mut sim = one();
    sim.measured("a.1", 70);
    sim.agent("a.1", Request::Submit { stage: id("a") });
    let inspection = Inspection::Clean { head: oid(7), changes_nothing: false };
    let (stage, session) = (id("a"), SessionId::new("a.1").unwrap());
    sim.send(Event::Inspected { stage, session, request: Some(RequestId(7)), inspection }).schedule();
    sim.later(HANDOFF_TURN).proved("a", red()).schedule();
    assert!(matches!(sim.state("a"), StageState::Running { .. }));
    assert!(matches!(sim.measured("a.1", 71), Answer::Advice { .. }));
    let told = sim.world.run.as_ref().unwrap().sessions[&SessionId::new("a.1").unwrap()].told;
    assert_eq!(told, Some((Zone::Red, sim.now)));
}

fn gave_up(session: &str, why: GaveUp) -> Event {
    Event::SessionGaveUp { session: SessionId::new(session).unwrap(), exit: Exit::Code { code: 1 }, why }
}

fn two() -> Sim {
    let mut sim = Sim::new(vec![spec("a", &[], claude()), spec("b", &[], claude()), spec("c", &[], command())]);
    sim.schedule().hosted("a.1").hosted("b.1").hosted("c.1").base_looked("a").base_looked("b").base_looked("c");
    sim
}

fn lane_facts(sim: &Sim) -> Vec<&'static str> {
    let name = |fact: &Fact| match fact {
        Fact::LaneParked { .. } => Some("parked"),
        Fact::LaneProbed { .. } => Some("probed"),
        Fact::LaneFreed { .. } => Some("freed"),
        _ => None,
    };
    sim.facts.iter().filter_map(name).collect()
}

#[test]
fn a_limit_met_while_the_clock_was_ahead_stops_nothing_once_it_is_right() {
    let mut sim = two();
    let begin = sim.now;
    sim.later(std::time::Duration::from_secs(10 * 86_400));
    let until = sim.now.checked_add(jiff::SignedDuration::from_mins(20)).unwrap();
    sim.send(gave_up("a.1", GaveUp::Limit { until: Some(until) })).schedule();
    let deadlines =
        |sim: &Sim| -> Vec<_> { crate::kernel::lane::deadlines(sim.world.run.as_ref().unwrap(), sim.now).collect() };
    assert_eq!(deadlines(&sim), [until]);
    sim.now = begin;
    assert_eq!(deadlines(&sim), []);
    sim.schedule();
    assert_eq!(lane_facts(&sim), ["parked", "probed"]);
    assert!(matches!(sim.state("a"), StageState::Running { .. }), "{:?}", sim.state("a"));
}

#[test]
fn a_limit_stops_the_lane_once_and_one_session_tries_first() {
    let mut sim = two();
    let until = sim.now.checked_add(jiff::SignedDuration::from_mins(20)).unwrap();
    let conversation = |sim: &Sim, id: &str| {
        sim.world.run.as_ref().unwrap().sessions[&SessionId::new(id).unwrap()].conversation.clone()
    };
    let (of_a, of_b) = (conversation(&sim, "a.1"), conversation(&sim, "b.1"));
    sim.send(gave_up("a.1", GaveUp::Limit { until: Some(until) })).schedule();
    sim.send(gave_up("b.1", GaveUp::Limit { until: Some(until) })).schedule();
    assert_eq!(lane_facts(&sim), ["parked"]);
    assert_eq!(sim.end_of("a.1"), Some(SessionEnd::RateLimited));
    assert!(matches!(sim.state("c"), StageState::Running { .. }), "others go on");
    assert_eq!(super::super::next_deadline(&sim.world, sim.now), Some(until));
    assert!(!is_quiet(&sim.world));
    sim.later(std::time::Duration::from_secs(1_200)).schedule();
    assert_eq!(sim.stage_of("a").sessions + sim.stage_of("b").sessions, 3, "only one tries");
    assert_eq!(conversation(&sim, "a.2"), of_a);
    // The probe meets it again: a longer pause, and still nobody else.
    sim.hosted("a.2").send(gave_up("a.2", GaveUp::Limit { until: None })).schedule();
    sim.later(std::time::Duration::from_secs(90)).schedule().hosted("a.3").measured("a.3", 1);
    sim.schedule();
    assert_eq!(lane_facts(&sim), ["parked", "probed", "parked", "probed", "freed"]);
    assert_eq!(conversation(&sim, "b.2"), of_b);
    for stage in ["a", "b"] {
        assert_eq!((sim.stage_of(stage).attempts, sim.stage_of(stage).tries), (1, 1), "an attempt was used up");
    }
}

#[test]
fn a_person_need_not_wait_for_a_limit() {
    let mut sim = two();
    sim.send(gave_up("a.1", GaveUp::Limit { until: None })).schedule();
    assert!(matches!(sim.state("a"), StageState::Ready { .. }));
    sim.ask(Request::Resume { stage: id("a") }).schedule();
    assert_eq!(sim.stage_of("a").state.lease().unwrap().as_str(), "a.2");
    assert_eq!(sim.stage_of("a").attempts, 1);
}

#[test]
fn pauses_grow_and_are_forgotten() {
    let mut sim = Sim::new(vec![spec("a", &[], claude())]);
    let mut pauses = Vec::new();
    for n in 1..=8 {
        let session = format!("a.{n}");
        sim.schedule().hosted(&session);
        if n == 8 {
            sim.later(std::time::Duration::from_secs(7_200));
        }
        sim.send(gave_up(&session, GaveUp::Unavailable { text: "529".to_owned() })).schedule();
        let until = super::super::next_deadline(&sim.world, sim.now).unwrap();
        let pause = until.duration_since(sim.now).as_secs();
        pauses.push(pause);
        sim.later(std::time::Duration::from_secs(u64::try_from(pause).unwrap() + 1));
    }
    assert!(pauses[..6].windows(2).all(|pair| pair[0] < pair[1]), "{pauses:?}");
    assert!(pauses.iter().all(|pause| (30..=1_125).contains(pause)), "{pauses:?}");
    assert_eq!(pauses[7], pauses[0], "a long time without one makes the next the first again: {pauses:?}");
}

/// Without a login a stage is blocked and its backend parked; then the stage is ready again by
/// something else than a new daemon.
fn ready_without_a_login(then: Request) -> Sim {
    let mut sim = two();
    sim.send(gave_up("a.1", GaveUp::NotLoggedIn)).ended("b.1", Exit::UnixSignal { signal: 9 });
    sim.ended("c.1", Exit::UnixSignal { signal: 9 }).ask(then);
    sim.effects.clear();
    sim.send(Event::StageRemoved { stage: id("a"), rescued: Vec::new() }).schedule();
    sim
}

#[test]
fn a_lost_login_is_told_when_no_stage_is_blocked_by_it() {
    let mut sim = ready_without_a_login(Request::Reset { stage: id("a"), reason: "x".to_owned() });
    sim.later(std::time::Duration::from_secs(60)).schedule();
    for stage in ["a", "b"] {
        assert!(matches!(sim.state(stage), StageState::Ready { .. }), "{:?}", sim.state(stage));
        let next = next_step(sim.world.run.as_ref().unwrap(), sim.stage_of(stage));
        assert_eq!(next.as_deref(), Some("claude"));
    }
    sim.ask(Request::Retry { stage: id("b"), context: None }).schedule();
    for stage in ["a", "b"] {
        assert!(matches!(sim.state(stage), StageState::Running { .. }), "{:?}", sim.state(stage));
    }
}

#[test]
fn a_retry_means_that_the_login_is_there_whatever_the_stage_is_blocked_by() {
    let mut sim = ready_without_a_login(Request::Block { stage: id("a"), reason: "x".to_owned() });
    sim.ask(Request::Retry { stage: id("a"), context: None }).schedule();
    assert!(matches!(sim.state("a"), StageState::Running { .. }), "{:?}", sim.state("a"));
}

#[test]
fn a_question_is_kept_over_the_notification_that_follows_it() {
    let mut sim = one();
    let session = SessionId::new("a.1").unwrap();
    let waits = |asks: Option<&str>| Request::Activity {
        session: session.clone(),
        activity: Activity::WaitingForPerson,
        asks: asks.map(str::to_owned),
    };
    let asks = |sim: &Sim| sim.world.run.as_ref().unwrap().sessions[&SessionId::new("a.1").unwrap()].asks.clone();
    sim.agent("a.1", waits(Some("Which letter?")));
    sim.agent("a.1", waits(None));
    assert_eq!(asks(&sim).as_deref(), Some("Which letter?"));
    sim.agent("a.1", Request::Activity { session: session.clone(), activity: Activity::Working, asks: None });
    assert_eq!(asks(&sim), None);
    sim.ask(Request::Waits { stage: id("a"), asks: Some("the key of the door".to_owned()) });
    assert_eq!(asks(&sim).as_deref(), Some("the key of the door"));
    sim.ask(Request::Waits { stage: id("a"), asks: None });
    assert_eq!(asks(&sim), None);
}

/// One row of the table in `doc/sessions.md`.
fn row(what: &str, happens: impl Fn(&mut Sim)) -> String {
    let mut sim = one();
    happens(&mut sim);
    let end =
        sim.end_of("a.1").map_or("-".to_owned(), |end| serde_json::to_value(end).unwrap().as_str().unwrap().to_owned());
    sim.schedule();
    let lane_stops = sim.world.run.as_ref().unwrap().lanes.values().any(|lane| lane.parked.is_some());
    let pauses = matches!(sim.state("a"), StageState::Ready { retry_at: Some(_) });
    let then = match sim.state("a") {
        StageState::Blocked { reason } => format!("blocked, `{}`", reason.code.as_str()),
        _ if lane_stops => "all of its backend wait, then one tries".to_owned(),
        _ if pauses => "goes on after a pause".to_owned(),
        _ => "goes on at once".to_owned(),
    };
    if matches!(sim.state("a"), StageState::Ready { .. }) {
        sim.later(std::time::Duration::from_secs(60)).schedule();
    }
    let run = sim.world.run.as_ref().unwrap();
    let next = run.sessions.get(&SessionId::new("a.2").unwrap());
    let conversation = match next {
        None => "",
        Some(next) if next.resumes => "the same",
        Some(_) => "a new one, with the handoff",
    };
    let uses_up = next.map_or("", |_| if sim.stage_of("a").tries > 1 { "yes" } else { "no" });
    format!("| {what} | `{end}` | {then} | {conversation} | {uses_up} |")
}

#[test]
fn the_table_of_ends_is_what_happens() {
    let exits = |exit: Exit| {
        move |sim: &mut Sim| {
            sim.ended("a.1", exit);
        }
    };
    let gives_up = |why: GaveUp| {
        move |sim: &mut Sim| {
            sim.send(gave_up("a.1", why.clone()));
        }
    };
    let text = || "x".to_owned();
    let session = || SessionId::new("a.1").unwrap();
    let rows = [
        row("its context budget is used up", |sim| {
            sim.measured("a.1", 90);
            sim.later(HANDOFF_TURN).schedule().ended("a.1", Exit::UnixSignal { signal: 15 });
        }),
        row("the conversation is too long", gives_up(GaveUp::ContextFull)),
        row("it crashes, or its client is killed", exits(Exit::UnixSignal { signal: 9 })),
        row("its host is killed, or the machine goes down", exits(Exit::Lost)),
        row("its `timeout` is over", exits(Exit::TimedOut)),
        row("it hangs", |sim| {
            for _ in 0..100 {
                sim.later(std::time::Duration::from_secs(60)).looked("a.1", Doing::Working, None);
            }
            sim.ended("a.1", Exit::UnixSignal { signal: 15 });
        }),
        row("it ends without a submission", exits(Exit::Code { code: 0 })),
        row("the client gives up", gives_up(GaveUp::Failed { text: text() })),
        row("a usage limit", gives_up(GaveUp::Limit { until: None })),
        row("the server is overloaded, broken or not to be reached", gives_up(GaveUp::Unavailable { text: text() })),
        row("the login is lost", gives_up(GaveUp::NotLoggedIn)),
        row("the server refuses it: no credit, no such model", gives_up(GaveUp::Refused { text: text() })),
        row("the agent blocks its stage", |sim| {
            sim.agent("a.1", Request::Block { stage: id("a"), reason: "x".to_owned() });
            sim.ended("a.1", Exit::UnixSignal { signal: 15 });
        }),
        row("a person kills it", |sim| {
            sim.ask(Request::KillSession { session: session() }).ended("a.1", Exit::UnixSignal { signal: 15 });
        }),
        row("`loom stop --kill`, at the next `loom run`", |sim| {
            sim.ask(Request::Stop { kill: true }).ended("a.1", Exit::UnixSignal { signal: 15 });
        }),
    ];
    let doc = include_str!("../../../doc/sessions.md");
    let missing: Vec<&String> = rows.iter().filter(|row| !doc.contains(row.as_str())).collect();
    assert!(
        missing.is_empty(),
        "doc/sessions.md lacks:\n{}",
        missing.iter().map(|row| format!("{row}\n")).collect::<String>()
    );
}
