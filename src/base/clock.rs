//! The only place that reads the wall clock.

use jiff::Timestamp;

/// The time now, to be given to the kernel as an input.
#[expect(clippy::disallowed_methods, reason = "this is the one reader of the clock")]
pub fn now() -> Timestamp {
    Timestamp::now()
}
