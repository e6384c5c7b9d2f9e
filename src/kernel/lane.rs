//! The lane of a backend: one account and one server behind all its sessions. A
//! usage limit or an outage stops the lane once, for all of them; when its
//! pause is over one session probes it before the others go on.

use std::time::Duration;

use jiff::Timestamp;

use super::context::after;
use super::draft::Draft;
use super::world::{Run, Stage, World};
use super::{budget, gates};
use crate::model::budget::OnLimit;
use crate::model::fact::Fact;
use crate::model::gate::{Gate, GateSubject};
use crate::model::ids::SessionId;
use crate::model::limits::{BACKOFF_FIRST, BACKOFF_MAX, LANE_DECAY};
use crate::model::plan::BackendKind;
use crate::model::session::LaneCause;
use crate::model::stage::StageState;

/// A lane that was stopped at least once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    /// None: it is open again.
    pub parked: Option<Parked>,
    /// Stops in a row; decides the pause. Forgotten after a while without one.
    pub times: u32,
    /// When it was stopped last.
    pub at: Timestamp,
}

/// Why nothing of a lane starts, and until when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    pub cause: LaneCause,
    /// In the client's words.
    pub text: String,
    pub until: Timestamp,
    /// The one session that tries whether it works again.
    pub probe: Option<SessionId>,
}

impl Lane {
    /// The lane after one more stop.
    pub(super) fn stopped(before: Option<&Lane>, parked: Parked, at: Timestamp) -> Lane {
        Lane { parked: Some(parked), times: before.map_or(0, |lane| lane.times_at(at)) + 1, at }
    }
    /// Until when nothing starts, but for one session then. A pause that began in the future is
    /// over: the clock was set back since.
    fn pause_ends(&self, now: Timestamp) -> Option<Timestamp> {
        self.parked.as_ref().filter(|_| self.at <= now).map(|parked| parked.until)
    }
    fn is_probed(&self) -> bool {
        self.parked.as_ref().is_some_and(|parked| parked.probe.is_some())
    }
    /// Stops in a row that still count.
    fn times_at(&self, now: Timestamp) -> u32 {
        if now > after(self.at, LANE_DECAY) { 0 } else { self.times }
    }
}

/// A session met a limit or an outage: its lane stops, once for all who meet it.
pub(super) fn stop(world: &World, run: &Run, stage: &Stage, met: &Met, draft: &mut Draft) {
    let backend = stage.spec.agent.kind();
    let lane = run.lanes.get(&backend);
    let parked = lane.and_then(|lane| lane.parked.as_ref());
    let is_probe = parked.is_some_and(|parked| parked.probe.as_ref() == stage.state.lease());
    let known_until = parked.filter(|_| !is_probe).map(|parked| parked.until);
    if known_until.is_some_and(|known| met.until.is_none_or(|until| until <= known)) {
        return;
    }
    let times = lane.map_or(0, |lane| lane.times_at(draft.now));
    let until =
        met.until.filter(|until| *until > draft.now).unwrap_or_else(|| after(draft.now, pause(world, run, times)));
    draft.fact(Fact::LaneParked { backend, cause: met.cause, text: met.text.clone(), until });
    if met.cause == LaneCause::Limit {
        by_policy(world, run, backend, until, draft);
    }
}

/// What the operator wants to happen at a usage limit, beyond waiting for its end.
fn by_policy(world: &World, run: &Run, backend: BackendKind, until: Timestamp, draft: &mut Draft) {
    match budget::on_limit(world, run) {
        OnLimit::Resume => {}
        OnLimit::Ask if limit_gate(run, backend).is_some() => {}
        OnLimit::Ask => drop(gates::open(world, GateSubject::Limit { backend, until }, draft)),
        OnLimit::Stop if run.paused.is_some() => {}
        OnLimit::Stop => draft.fact(Fact::PlanPaused {
            why: format!("the usage limit of `{backend}` is reached until {until:.0}, and `on_limit` is `stop`"),
        }),
    }
}

/// The open question whether a lane goes on after its limit.
pub fn limit_gate(run: &Run, backend: BackendKind) -> Option<&Gate> {
    run.open_gates()
        .find(|gate| matches!(&gate.subject, GateSubject::Limit { backend: other, .. } if *other == backend))
}

/// What a session met.
pub(super) struct Met {
    pub(super) cause: LaneCause,
    pub(super) text: String,
    /// When it is over, if anybody said so.
    pub(super) until: Option<Timestamp>,
}

/// `first · 2ⁿ`, capped, plus up to a quarter that depends on the run alone, so that
/// several projects of one account do not come back together.
fn pause(world: &World, run: &Run, times: u32) -> Duration {
    let first = world.options.backoff_ms.map_or(BACKOFF_FIRST, Duration::from_millis);
    let pause = first.saturating_mul(1 << times.min(16)).min(BACKOFF_MAX);
    let spread: u32 = run.ground.nonce.bytes().fold(7, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
    pause + pause / 4 * (spread % 100) / 100
}

/// Why a stage of this backend may not start now.
pub(super) fn is_closed(run: &Run, backend: BackendKind, now: Timestamp) -> bool {
    let is_asked = limit_gate(run, backend).is_some();
    is_asked
        || run
            .lanes
            .get(&backend)
            .is_some_and(|lane| lane.is_probed() || lane.pause_ends(now).is_some_and(|until| until > now))
}

/// The next session of this backend is the one that probes it.
pub(super) fn needs_probe(run: &Run, backend: BackendKind) -> bool {
    run.lanes.get(&backend).is_some_and(|lane| lane.parked.is_some())
}

/// Opens the lanes whose probe works, or came to an end that has nothing to do with the lane.
pub(super) fn open_probed(run: &Run, draft: &mut Draft) {
    for (backend, lane) in &run.lanes {
        let Some(probe) = lane.parked.as_ref().and_then(|parked| parked.probe.as_ref()) else { continue };
        let is_awaited = run.sessions.get(probe).is_some_and(|session| {
            let holds_its_stage = run.stages.get(&session.stage).is_some_and(
                |stage| matches!(&stage.state, StageState::Running { session: lease } if *lease == session.id),
            );
            holds_its_stage && !session.is_over() && session.usage.is_none() && session.reminders == 0
        });
        if !is_awaited {
            draft.fact(Fact::LaneFreed { backend: *backend, forget: false });
        }
    }
}

/// A person does not wait: the lane is tried at once.
pub(super) fn open_by_person(run: &Run, backend: BackendKind, draft: &mut Draft) {
    if needs_probe(run, backend) {
        draft.fact(Fact::LaneFreed { backend, forget: true });
    }
    if let Some(gate) = limit_gate(run, backend) {
        draft.fact(Fact::GateAnswered { gate: gate.id, approved: true, reason: "loom resume".to_owned() });
    }
    if run.paused.is_some() {
        draft.fact(Fact::PlanResumed);
    }
}

/// When the pauses of lanes end.
pub(super) fn deadlines(run: &Run, now: Timestamp) -> impl Iterator<Item = Timestamp> {
    run.lanes.values().filter(|lane| !lane.is_probed()).filter_map(move |lane| lane.pause_ends(now))
}

impl Run {
    /// Folds a fact about a lane.
    pub(super) fn apply_lane(&mut self, fact: &Fact, at: Timestamp) {
        match fact {
            Fact::LaneParked { backend, cause, text, until } => {
                let parked = Parked { cause: *cause, text: text.clone(), until: *until, probe: None };
                let lane = Lane::stopped(self.lanes.get(backend), parked, at);
                self.lanes.insert(*backend, lane);
            }
            Fact::LaneProbed { backend, session } => {
                if let Some(parked) = self.lanes.get_mut(backend).and_then(|lane| lane.parked.as_mut()) {
                    parked.probe = Some(session.clone());
                }
            }
            Fact::LaneFreed { backend, forget: true } => {
                self.lanes.remove(backend);
            }
            Fact::LaneFreed { backend, .. } => {
                if let Some(lane) = self.lanes.get_mut(backend) {
                    lane.parked = None;
                }
            }
            _ => {}
        }
    }
}
