//! The shell around the kernel: the dispatcher owns the world, the executor
//! touches everything else, the server lets clients in, the keeper restarts.

pub mod audit;
mod base;
pub mod boot;
mod checkout;
pub mod dispatcher;
pub mod doctor;
pub mod executor;
mod keeper;
mod land;
mod look;
mod notifier;
pub mod remains;
pub mod report;
pub mod rights;
pub mod sandbox;
mod server;
mod setup;
mod start;
pub mod turn;
mod verify;

pub use boot::{BootError, Opened, ReadOnly};
pub use keeper::{Kept, keep};
pub use notifier::Errand;
pub use verify::{Held, VerifyError, passing_without, verify_bundle, verify_stage};
