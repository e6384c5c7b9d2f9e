//! Is a session that says nothing still at work? Looked at when it has been
//! silent for a while; suspected first, ended only when it stays silent, and
//! never when nobody can tell or a person is at it.
//!
//! The clock on the wall makes suspicious, and no more: a machine that slept or a clock
//! that was set makes every session look silent. Ended is who was silent while somebody
//! awake looked, again and again.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::context::after;
use super::draft::Draft;
use super::world::{Run, World};
use crate::model::effect::Effect;
use crate::model::event::{Doing, Pulse};
use crate::model::fact::{Fact, SessionChange};
use crate::model::ids::SessionId;
use crate::model::limits::{
    AFTER_TURN, AFTER_TURN_END, BACKGROUND_END, BACKGROUND_WAIT, FIRST_BYTE, IDLE, IDLE_END, LOOK_AGAIN, PERSON_STAYS,
};
use crate::model::plan::BackendKind;
use crate::model::session::{Activity, EndReason, Session, SessionState, Suspicion};
use crate::model::stage::StageState;

/// How long a session may be silent, by what it is doing.
struct Patience {
    suspect: Duration,
    end: Duration,
}

impl Patience {
    /// None: it may be silent for ever.
    fn with(world: &World, doing: Doing, has_answered: bool) -> Option<Patience> {
        let (suspect, end) = match doing {
            Doing::Unknown | Doing::ToolOpen | Doing::AsksPerson => return None,
            Doing::Working if !has_answered => (FIRST_BYTE, IDLE_END),
            Doing::Working => (IDLE, IDLE_END),
            Doing::TurnOver => (AFTER_TURN, AFTER_TURN_END),
            Doing::Background => (BACKGROUND_WAIT, BACKGROUND_END),
        };
        Some(Patience { suspect: scaled(world, suspect), end: scaled(world, end) })
    }
}

/// Tests shorten all limits together.
fn scaled(world: &World, limit: Duration) -> Duration {
    match world.options.watch_ms {
        Some(idle) => limit.mul_f64(Duration::from_millis(idle).div_duration_f64(IDLE)),
        None => limit,
    }
}

/// The sessions that are to be looked at, and when.
fn watched(run: &Run) -> impl Iterator<Item = (&Session, Timestamp)> {
    run.live_sessions().filter_map(|session| {
        let at = session.look_at?;
        let stage = run.stages.get(&session.stage)?;
        let works = matches!(&stage.state, StageState::Running { session: lease } if *lease == session.id)
            && matches!(session.state, SessionState::Live { .. })
            && session.backend == BackendKind::Claude;
        works.then_some((session, at))
    })
}

pub(super) fn deadlines(run: &Run) -> impl Iterator<Item = Timestamp> {
    watched(run).map(|(_, at)| at)
}

/// When a session that has just begun is looked at first.
pub(super) fn first_look(world: &World, now: Timestamp) -> Timestamp {
    after(now, scaled(world, FIRST_BYTE))
}

/// Its turn is over without a submission: it is looked at soon.
pub(super) fn turn_over(world: &World, id: &SessionId, draft: &mut Draft) {
    looked(id, after(draft.now, scaled(world, AFTER_TURN)), None, draft);
}

/// Looks at the sessions whose time has come. A look that is lost is made again soon.
pub(super) fn look(world: &World, run: &Run, draft: &mut Draft) {
    // No look is ever planned for later than this: the clock was set back since.
    let farthest = after(draft.now, scaled(world, BACKGROUND_WAIT));
    let is_due = |at: Timestamp| at <= draft.now || at > farthest;
    let due: Vec<&Session> = watched(run).filter(|(_, at)| is_due(*at)).map(|(session, _)| session).collect();
    for session in due {
        looked(&session.id, after(draft.now, scaled(world, LOOK_AGAIN)), session.suspect.clone(), draft);
        draft.effect(Effect::LookAtSession { session: session.id.clone(), since: session.started_at });
    }
}

/// What was seen of a session.
pub(super) fn seen(world: &World, run: &Run, id: &SessionId, pulse: &Pulse, draft: &mut Draft) {
    let Some(session) = watched(run).map(|(session, _)| session).find(|session| session.id == *id) else { return };
    let now = draft.now;
    let is_attended = pulse.person_at.is_some_and(|at| now < after(at, scaled(world, PERSON_STAYS)));
    let doing = match (session.activity, pulse.doing) {
        (Activity::WaitingForPerson, _) => Doing::AsksPerson,
        _ if is_attended => Doing::AsksPerson,
        (Activity::Background, Doing::TurnOver) => Doing::Background,
        (_, doing) => doing,
    };
    let Some(patience) = Patience::with(world, doing, pulse.sign_at.is_some()) else {
        return looked(id, after(now, scaled(world, IDLE)), None, draft);
    };
    let since = pulse.sign_at.unwrap_or(session.started_at).max(session.started_at).min(now);
    let silent = span(since, now);
    if silent < patience.suspect {
        return looked(id, after(since, patience.suspect), None, draft);
    }
    let why = doing.as_str(pulse.sign_at.is_some());
    let before = session.suspect.as_ref().filter(|before| before.since == since && before.why == why);
    let again = scaled(world, LOOK_AGAIN);
    // However long nobody looked, it counts as two looks at most.
    let watched_ms = before.map_or(0, |before| before.watched_ms + millis(pulse.awake.min(again * 2)));
    let to_watch = (patience.end - patience.suspect).saturating_sub(Duration::from_millis(watched_ms));
    let left = to_watch.max(patience.end.saturating_sub(silent));
    let ends_at = after(now, if before.is_some() { left } else { left.max(again) });
    let suspicion = Suspicion { why: why.to_owned(), since, ends_at, watched_ms };
    looked(id, ends_at.min(after(now, again)).max(after(now, again / 4)), Some(suspicion), draft);
    if ends_at <= now {
        draft.end_session(run, id, EndReason::Hung);
    }
}

fn span(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What became of a session that was ended for its silence.
pub(super) fn epitaph(session: &Session, now: Timestamp) -> String {
    match &session.suspect {
        Some(suspicion) => {
            let silent = now.duration_since(suspicion.since).max(SignedDuration::ZERO);
            format!("the session hung: {} for {} s", suspicion.why, silent.as_secs())
        }
        None => "the session hung".to_owned(),
    }
}

fn looked(id: &SessionId, look_at: Timestamp, suspect: Option<Suspicion>, draft: &mut Draft) {
    draft.fact(Fact::session(id, SessionChange::Looked { look_at, suspect }));
}
