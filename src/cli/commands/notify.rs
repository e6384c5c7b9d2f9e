//! `loom notify`, internal: carries notifications out of the daemon's way.

use std::io::Read;

use super::run::log_to;
use crate::cli::failure::{Failure, exit};
use crate::cli::place::Place;
use crate::daemon::Errand;
use crate::notify;

pub fn run(place: &Place) -> Result<u8, Failure> {
    // The daemon's end, and its terminal's, is not this one's.
    let _ = rustix::process::setsid();
    log_to(place)?;
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let errand: Errand = serde_json::from_str(&text)
        .map_err(|error| Failure::new(exit::USAGE, "this is started by Loom's daemon").because(error.to_string()))?;
    for notification in &errand.notifications {
        for trouble in notify::send(&errand.channels, notification) {
            tracing::warn!("{trouble}");
        }
    }
    Ok(exit::OK)
}
