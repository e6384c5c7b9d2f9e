//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

/// Long enough for a loaded machine; a test that meets it has failed.
pub const LONG: Duration = Duration::from_secs(30);

/// Asks until there is an answer; `what` is told when there is none in time.
#[track_caller]
pub fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LONG;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within {LONG:?}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}
