//! What a restarted daemon must treat as having happened while it was away.

use super::world::World;
use crate::model::event::Event;
use crate::model::ids::SessionId;
use crate::model::session::{Exit, SessionState};

/// What a daemon found when it looked, before it did anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// This boot; an identity recorded under another one is void.
    pub boot_id: String,
    /// Sessions on record whose host does not hold its lock, with what it left.
    pub ended: Vec<(SessionId, Exit)>,
}

/// The events to take in first, in this order. Everything else that was under
/// way is derived again by [`super::due`].
pub fn recover(world: &World, observed: &Observed) -> Vec<Event> {
    let Some(run) = &world.run else { return Vec::new() };
    let ended = |id: &SessionId| observed.ended.iter().find(|(other, _)| other == id).map(|(_, exit)| *exit);
    run.live_sessions()
        .filter_map(|session| {
            let exit = match &session.state {
                SessionState::Planned | SessionState::Ended { .. } => return None,
                SessionState::Live { host, .. } | SessionState::Ending { host, .. } => {
                    let void = host.boot_id != observed.boot_id;
                    ended(&session.id).or(void.then_some(Exit::Lost))?
                }
            };
            Some(Event::SessionEnded { session: session.id.clone(), exit })
        })
        .collect()
}
