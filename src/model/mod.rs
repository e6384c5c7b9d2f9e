//! Layer 0: values. No I/O, no clock, no threads.

pub mod anchor;
pub mod attention;
pub mod baseline;
pub mod budget;
pub mod check;
pub mod effect;
pub mod event;
pub mod fact;
pub mod gate;
pub mod handoff;
pub mod ids;
pub mod judge;
pub mod limits;
pub mod plan;
pub mod refusal;
pub mod sandbox;
pub mod session;
pub mod stage;
pub mod terminal;
pub mod usage;
