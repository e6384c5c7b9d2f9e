//! Layer 1: decisions. Pure functions of the world, an event and the time.
//!
//! `step` says which facts an event makes true; `World::apply` folds them;
//! `due` says which effects the world calls for. Because effects are derived
//! from the world and not from the event, a daemon that died in the middle
//! simply derives them again: `recover` only has to say what ended meanwhile.

mod amend;
mod attention;
mod baseline;
pub mod budget;
mod context;
mod dispute;
mod draft;
mod due;
mod end;
mod gates;
pub mod lane;
mod questions;
mod queue;
mod recover;
mod request;
mod rules;
mod schedule;
mod step;
pub mod text;
mod watchdog;
pub mod world;

#[cfg(test)]
mod tests;

pub use amend::{Amendment, Consequence, StageAmendment, amendment};
pub use attention::attention;
pub use baseline::is_unproven;
pub use draft::Step;
pub use due::{due, is_quiet, next_deadline};
pub use recover::{Observed, recover};
pub use request::unknown_stage;
pub use rules::{Violation, rules};
pub use schedule::{base_next, is_sandboxed, look_at_refs, next_step};
pub use step::step;
pub use world::World;
