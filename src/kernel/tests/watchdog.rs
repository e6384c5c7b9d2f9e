//! Sessions that say nothing: suspected first, ended only while somebody awake looks, and never
//! when nobody can tell.

use std::time::Duration;

use super::*;
use crate::model::effect::Answer;
pub use crate::model::event::Doing;
use crate::model::event::Pulse;
use crate::model::session::{Activity, SessionState, Suspicion};

const A1: &str = "a.1";

impl Sim {
    /// Somebody looks at a session, a minute after the last time.
    pub(super) fn looked(&mut self, session: &str, doing: Doing, sign_at: Option<Timestamp>) -> &mut Sim {
        self.pulse(session, Pulse { sign_at, doing, awake: Duration::from_secs(60), person_at: None })
    }
    fn pulse(&mut self, session: &str, pulse: Pulse) -> &mut Sim {
        let session = SessionId::new(session).unwrap();
        self.send(Event::SessionSeen { session, pulse })
    }
    fn a1(&self) -> crate::model::session::Session {
        self.world.run.as_ref().unwrap().sessions[&SessionId::new(A1).unwrap()].clone()
    }
    fn suspicion(&self) -> Option<Suspicion> {
        self.a1().suspect
    }
    fn lives(&self) -> bool {
        matches!(self.a1().state, SessionState::Live { .. })
    }
    /// As the daemon does: at every deadline, and at least once a minute, until `end`. Every look
    /// sees what `sees` says; a clock that agrees says how long ago the last one was.
    fn watch_until(&mut self, end: Timestamp, mut sees: impl FnMut(Timestamp) -> Pulse) -> Watched {
        let mut watched = Watched::default();
        let begin = self.now;
        let mut last = None;
        while self.now < end && self.lives() {
            let tick = self.now + jiff::SignedDuration::from_secs(60);
            let next = super::super::next_deadline(&self.world, self.now);
            self.now = next.filter(|at| *at < tick).unwrap_or(tick);
            self.effects.clear();
            self.send(Event::Schedule);
            if self.effects.iter().any(|effect| matches!(effect, Effect::LookAtSession { .. })) {
                let awake =
                    last.map_or(Duration::ZERO, |last: Timestamp| self.now.duration_since(last).try_into().unwrap());
                last = Some(self.now);
                watched.looks += 1;
                let pulse = Pulse { awake, ..sees(self.now) };
                self.pulse(A1, pulse);
            }
            let passed = (self.now.as_second() - begin.as_second()) / 60;
            if self.suspicion().is_some() {
                watched.suspected.get_or_insert(passed);
            }
            if !self.lives() {
                watched.ended = Some(passed);
            }
        }
        watched
    }
}

/// What became of a session, in minutes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Watched {
    suspected: Option<i64>,
    ended: Option<i64>,
    looks: u32,
}

fn working(sign_at: Option<Timestamp>) -> Pulse {
    Pulse { sign_at, doing: Doing::Working, awake: Duration::ZERO, person_at: None }
}

fn in_hours(sim: &Sim, hours: i64) -> Timestamp {
    sim.now + jiff::SignedDuration::from_hours(hours)
}

fn one_session() -> Sim {
    let mut sim = Sim::new(vec![spec("a", &[], claude())]);
    sim.schedule().hosted(A1);
    sim
}

#[test]
fn a_silent_session_is_suspected_before_it_is_ended() {
    // What it does, whether it has answered, when it is suspected, when it is ended (minutes).
    for (doing, has_answered, suspected, ended) in [
        (Doing::Working, false, Some(2), Some(30)),
        (Doing::Working, true, Some(10), Some(30)),
        (Doing::TurnOver, true, Some(2), Some(6)),
        (Doing::Background, true, Some(60), Some(240)),
        (Doing::ToolOpen, true, None, None),
        (Doing::AsksPerson, true, None, None),
        (Doing::Unknown, false, None, None),
    ] {
        let mut sim = one_session();
        let sign_at = has_answered.then_some(sim.now);
        let end = in_hours(&sim, 12);
        let watched = sim.watch_until(end, |_| Pulse { doing, ..working(sign_at) });
        assert_eq!((watched.suspected, watched.ended), (suspected, ended), "{doing:?} {has_answered}");
        assert!(watched.looks > 1 && watched.looks < 500, "{watched:?}");
    }
}

#[test]
fn the_limits_are_those_of_the_document() {
    let document = include_str!("../../../doc/sessions.md");
    for row in [
        "| the model has not answered at all | 2 minutes | 30 minutes |",
        "| the model was asked and says nothing more | 10 minutes | 30 minutes |",
        "| its turn is over, nothing was submitted | 1 minute | 5 minutes |",
        "| its turn is over, something runs in its background | 1 hour | 4 hours |",
    ] {
        assert!(document.contains(row), "doc/sessions.md has not: {row}");
    }
}

#[test]
fn a_sign_of_life_takes_the_suspicion_away() {
    let mut sim = one_session();
    sim.now += jiff::SignedDuration::from_secs(700);
    sim.looked(A1, Doing::Working, None);
    let suspicion = sim.suspicion().unwrap();
    assert_eq!(suspicion.why, "no answer from the model");
    assert!(suspicion.ends_at > sim.now);
    let stage = &sim.world.run.as_ref().unwrap().stages[&id("a")];
    let next = super::super::next_step(sim.world.run.as_ref().unwrap(), stage).unwrap();
    assert!(next == "loom attach a" || next == "loom logs a", "{next}");
    let now = sim.now;
    sim.looked(A1, Doing::Working, Some(now));
    assert_eq!(sim.suspicion(), None);
}

#[test]
fn a_machine_that_slept_begins_to_look_anew() {
    // Asleep for eight hours after five minutes, or after it was suspected for long.
    for (awake_before, slept) in [(5, 8 * 60), (28, 8 * 60), (28, 365 * 24 * 60)] {
        let mut sim = one_session();
        let sign = sim.now;
        let before = sim.now + jiff::SignedDuration::from_mins(awake_before);
        sim.watch_until(before, |_| working(Some(sign)));
        assert!(sim.lives(), "{awake_before}");
        sim.now += jiff::SignedDuration::from_mins(slept);
        // The first look after it cannot tell how long it was: the second is no proof either.
        sim.send(Event::Schedule);
        sim.pulse(A1, Pulse { awake: Duration::ZERO, ..working(Some(sign)) });
        assert!(sim.lives(), "{awake_before} {slept}");
        let left = if awake_before < 10 { 20 } else { 1 };
        let woke = sim.now;
        let watched = sim.watch_until(woke + jiff::SignedDuration::from_hours(2), |_| working(Some(sign)));
        assert!(watched.ended.unwrap() >= left, "{awake_before} {slept}: {watched:?}");
    }
}

#[test]
fn a_jump_of_the_clock_ends_nobody_who_works() {
    for jump in [jiff::SignedDuration::from_hours(30 * 24), jiff::SignedDuration::from_hours(-30 * 24)] {
        let mut sim = one_session();
        sim.now += jiff::SignedDuration::from_hours(24 * 60);
        let start = sim.now;
        sim.watch_until(start + jiff::SignedDuration::from_mins(8), |now| working(Some(now)));
        sim.now += jump;
        let jumped = sim.now;
        // Its records carry the old time for a while.
        let watched = sim.watch_until(jumped + jiff::SignedDuration::from_mins(15), |_| working(Some(start)));
        assert_eq!(watched.ended, None, "{jump:?}");
        let later = sim.now;
        let watched = sim.watch_until(later + jiff::SignedDuration::from_hours(10), |now| working(Some(now)));
        assert_eq!(watched.ended, None, "{jump:?}");
        assert!(watched.looks > 10, "it is still looked at: {jump:?} {watched:?}");
    }
}

#[test]
fn nobody_looks_for_long_and_that_counts_as_two_looks() {
    let mut sim = one_session();
    let sign = sim.now;
    sim.watch_until(sign + jiff::SignedDuration::from_mins(12), |_| working(Some(sign)));
    assert!(sim.suspicion().is_some());
    // Frozen with all its clocks running, as a container is.
    sim.now += jiff::SignedDuration::from_hours(5);
    sim.send(Event::Schedule);
    sim.pulse(A1, Pulse { awake: Duration::from_secs(5 * 3600), ..working(Some(sign)) });
    assert!(sim.lives());
    let thawed = sim.now;
    let watched = sim.watch_until(thawed + jiff::SignedDuration::from_hours(2), |_| working(Some(sign)));
    assert!(watched.ended.is_some_and(|minutes| minutes >= 14), "{watched:?}");
}

#[test]
fn who_is_under_a_persons_hands_is_not_ended() {
    let mut sim = one_session();
    let sign = sim.now;
    let end = in_hours(&sim, 3);
    // Attached all the time.
    let watched =
        sim.watch_until(end, |now| Pulse { doing: Doing::TurnOver, person_at: Some(now), ..working(Some(sign)) });
    assert_eq!((watched.suspected, watched.ended), (None, None));
    // The person left: half an hour is theirs still.
    let left = sim.now;
    let end = in_hours(&sim, 3);
    let watched =
        sim.watch_until(end, |_| Pulse { doing: Doing::TurnOver, person_at: Some(left), ..working(Some(sign)) });
    assert!(watched.suspected.is_some_and(|minutes| (30..45).contains(&minutes)), "{watched:?}");
    assert!(watched.ended.is_some());
}

#[test]
fn who_waits_for_its_background_is_not_idle() {
    let mut sim = one_session();
    let session = SessionId::new(A1).unwrap();
    assert!(matches!(sim.agent(A1, Request::TurnEnded { session: session.clone(), waits: true }), Answer::TurnMayEnd));
    assert_eq!(sim.a1().activity, Activity::Background);
    sim.agent(A1, Request::Activity { session, activity: Activity::Idle, asks: None });
    let sign = sim.now;
    let end = in_hours(&sim, 12);
    let watched = sim.watch_until(end, |_| Pulse { doing: Doing::TurnOver, ..working(Some(sign)) });
    assert_eq!((watched.suspected, watched.ended), (Some(60), Some(240)));
}

#[test]
fn a_submission_of_a_session_that_is_being_ended_counts() {
    let mut sim = one_session();
    for _ in 0..60 {
        sim.now += jiff::SignedDuration::from_secs(60);
        sim.looked(A1, Doing::Working, None);
    }
    assert!(!sim.lives());
    let agent = Caller::Agent { session: SessionId::new(A1).unwrap() };
    sim.send(Event::Request { id: RequestId(2), caller: agent, request: Request::Submit { stage: id("a") } });
    sim.send(Event::Inspected {
        stage: id("a"),
        session: SessionId::new(A1).unwrap(),
        request: Some(RequestId(2)),
        inspection: Inspection::Clean { head: oid(8), changes_nothing: false },
    });
    sim.ended(A1, Exit::UnixSignal { signal: 15 });
    assert!(matches!(sim.state("a"), StageState::Verifying { .. }), "{:?}", sim.state("a"));
}
