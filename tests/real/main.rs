//! Loom against the real Claude Code client, with a scripted Messages API on
//! loopback in place of the model: no account, and no network after the
//! client's package is installed. What these tests pin down are facts about
//! the client that Loom relies on.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod api;
mod client;
mod deadline;
mod http;
mod install;
mod project;
mod pty;

mod budget;
mod hangs;
mod headless;
mod interactive;
mod kills;
mod limits;
mod plans;
mod sandbox;
mod spending;
mod trouble;
