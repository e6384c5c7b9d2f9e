//! Loom carries out plans with coding agents.
//!
//! ```text
//! layer 4  cli                                      faces: clients of the loop
//! layer 3  daemon · client                          the shell
//! layer 2  base · journal · views · planfile · git  adapters: one outside thing each
//!          agent · host · checks · guard · terminal · wire
//!          config · notify
//! layer 1  kernel                                   decisions: pure
//! layer 0  model                                    values
//! ```
//!
//! `tests/tidy.rs` fails on an import that goes up or sideways.

pub mod agent;
pub mod base;
pub mod checks;
pub mod cli;
pub mod client;
pub mod config;
pub mod daemon;
pub mod git;
pub mod guard;
pub mod host;
pub mod journal;
pub mod kernel;
pub mod model;
pub mod notify;
pub mod planfile;
pub mod terminal;
pub mod views;
pub mod wire;
