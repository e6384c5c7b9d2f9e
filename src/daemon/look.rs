//! Looks at a session from outside: its client's records, its processes, and
//! whether a person is at its terminal.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::base::{clock, process};
use crate::host::control::{self, Liveness};
use crate::host::spec::HostFolder;
use crate::host::tree;
use crate::model::event::{Doing, Pulse};
use crate::model::ids::SessionId;
use crate::model::limits::CLOCKS_DRIFT;

/// When each session was looked at last, by two clocks.
#[derive(Debug, Default)]
pub(super) struct Looks(Mutex<BTreeMap<SessionId, Look>>);

/// The monotonic clock stands still while the machine sleeps; the other one may be set.
#[derive(Debug, Clone, Copy)]
struct Look {
    awake: Instant,
    wall: Timestamp,
}

impl Looks {
    /// How long the machine was awake since the last look at this session; zero where the two
    /// clocks do not agree on it, or there was none.
    pub(super) fn awake(&self, session: &SessionId) -> Duration {
        let now = Look { awake: Instant::now(), wall: clock::now() };
        let Ok(mut looks) = self.0.lock() else { return Duration::ZERO };
        looks.insert(session.clone(), now).map_or(Duration::ZERO, |before| awake_between(before, now))
    }
}

fn awake_between(before: Look, now: Look) -> Duration {
    let awake = now.awake.saturating_duration_since(before.awake);
    let agrees =
        Duration::try_from(now.wall.duration_since(before.wall)).is_ok_and(|wall| wall.abs_diff(awake) <= CLOCKS_DRIFT);
    if agrees { awake } else { Duration::ZERO }
}

/// What can be seen of the session whose host has the folder `dir`.
pub(super) fn look(dir: &Path, since: Timestamp, awake: Duration) -> Pulse {
    let unknown = Pulse { sign_at: None, doing: Doing::Unknown, awake, person_at: person_at(dir) };
    let folder = HostFolder::new(dir);
    let (Liveness::Alive, Ok(record)) = (control::is_alive(dir), control::read_record(&folder)) else {
        return unknown;
    };
    let pids = tree::descendants(record.host.pid);
    let is_stopped = |pid: &u32| process::stat(*pid).is_some_and(|stat| stat.is_stopped);
    // Whoever stopped it wants to go on with it.
    if is_stopped(&record.host.pid) || pids.iter().any(is_stopped) {
        return unknown;
    }
    match crate::agent::sign_of_life(dir, since, &pids) {
        Some((sign_at, doing)) => Pulse { sign_at, doing, ..unknown },
        None => unknown,
    }
}

/// When a person was at the terminal of this host last.
fn person_at(dir: &Path) -> Option<Timestamp> {
    let file = HostFolder::new(dir).person();
    let text = fs_err::read_to_string(&file).ok()?;
    if text == "attached" {
        return Some(clock::now());
    }
    fs_err::metadata(&file).and_then(|meta| meta.modified()).ok().and_then(|at| Timestamp::try_from(at).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_slept_and_a_clock_that_was_set_watched_nobody() {
        let start = Look { awake: Instant::now(), wall: Timestamp::UNIX_EPOCH };
        let later = |awake: u64, wall: i64| Look {
            awake: start.awake + Duration::from_secs(awake),
            wall: start.wall + jiff::SignedDuration::from_secs(wall),
        };
        for (awake, wall, watched) in
            [(60, 60, 60), (60, 63, 60), (60, 8 * 3600, 0), (60, -3600, 0), (60, 0, 0), (0, 0, 0)]
        {
            assert_eq!(awake_between(start, later(awake, wall)), Duration::from_secs(watched), "{awake} {wall}");
        }
    }
}
