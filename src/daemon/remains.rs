//! What a session that is over left behind: its last measurement, and a handoff
//! written from outside for the session that goes on.

use crate::agent;
use crate::base::layout::Layout;
use crate::git::Git;
use crate::host::control;
use crate::model::event::Event;
use crate::model::handoff::Handoff;
use crate::model::ids::{Oid, SessionId};
use crate::model::limits::{HANDOFF_LIST_MAX, LEFTOVERS_NAMED};
use crate::model::session::Exit;

/// Where a session works: `ground.json` in its folder, so that its work can be looked at
/// without asking anybody.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct WorkPlace {
    pub worktree: std::path::PathBuf,
    pub base: Oid,
}

impl WorkPlace {
    pub fn of(layout: &Layout, session: &SessionId) -> Option<WorkPlace> {
        serde_json::from_slice(&fs_err::read(layout.ground(session)).ok()?).ok()
    }
}

/// What happened at the end of a session, in order: the processes that outlived it, its last measurement,
/// what it left, its end. Afterwards none of its processes is there.
pub(super) fn at_the_end(layout: &Layout, git: Option<&Git>, session: SessionId, exit: Exit) -> Vec<Event> {
    let dir = layout.session(&session);
    let end = match agent::gave_up(&dir, exit) {
        Some(why) => Event::SessionGaveUp { session: session.clone(), exit, why },
        None => Event::SessionEnded { session: session.clone(), exit },
    };
    let mut events = Vec::new();
    let processes = processes_left(layout, &session, exit);
    if !processes.is_empty() {
        events.push(Event::ProcessesLeft { session: session.clone(), processes });
    }
    let Some(traces) = agent::traces(&dir) else {
        events.push(end);
        return events;
    };
    if let Some(usage) = traces.usage {
        events.push(Event::SessionMeasured { session: session.clone(), usage });
    }
    if let Some(git) = git {
        let opening =
            format!("Session `{session}` is over ({exit}) and left no handoff: this is what can be seen of it.");
        let remains = Box::new(seen_from_outside(layout, git, &session, opening, traces.last_words));
        events.push(Event::SessionLeft { session, remains });
    }
    events.push(end);
    events
}

/// What outlived the session, by name and pid. Its host has ended it, or it is ended here.
fn processes_left(layout: &Layout, session: &SessionId, exit: Exit) -> Vec<String> {
    let dir = layout.session(session);
    let mut left = match exit {
        Exit::Lost => control::kill_survivors(&dir, &layout.project, session.as_str()),
        _ => control::wait_end(&dir).map(|record| record.leftovers).unwrap_or_default(),
    };
    if left.len() > LEFTOVERS_NAMED {
        let more = left.split_off(LEFTOVERS_NAMED).len();
        left.push(format!("and {more} more"));
    }
    left
}

/// A handoff from git and the last words of the transcript.
pub fn seen_from_outside(
    layout: &Layout,
    git: &Git,
    session: &SessionId,
    opening: String,
    last_words: Option<String>,
) -> Handoff {
    let mut handoff = Handoff { status: opening, ..Handoff::default() };
    if let Some(words) = last_words {
        let quoted: Vec<String> = words.lines().map(|line| format!("> {line}")).collect();
        handoff.status.push_str(&format!("\n\nThe agent's last words, as it wrote them:\n\n{}", quoted.join("\n")));
    }
    fill_in(&mut handoff, layout, git, session);
    handoff
}

/// Adds what git knows: commits, changed files, uncommitted work.
pub fn fill_in(handoff: &mut Handoff, layout: &Layout, git: &Git, session: &SessionId) {
    let Some(place) = WorkPlace::of(layout, session) else { return };
    if let Ok(history) = git.since(&place.worktree, &place.base, HANDOFF_LIST_MAX) {
        (handoff.commits, handoff.files) = (history.commits, history.files);
    }
    if let Ok(status) = git.status(&place.worktree) {
        handoff.uncommitted = status.dirty.into_iter().take(HANDOFF_LIST_MAX).collect();
    }
}
