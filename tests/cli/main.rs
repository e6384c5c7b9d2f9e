//! Loom as its users see it: the real binary, real git, real processes.
#![expect(clippy::disallowed_methods, reason = "tests drive processes and files as a user would")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![expect(clippy::print_stdout, reason = "a long test says what it did")]

mod amend;
mod bad_input;
mod baseline;
mod budgets;
mod by_hand;
mod chaos;
mod cheats;
mod compat;
mod config;
mod criteria;
mod dispute;
mod doctor;
mod env;
mod examples;
mod graph;
mod history;
mod host;
mod keeps;
mod landing;
mod notify;
mod operator;
mod output;
mod plans;
mod proof;
mod repositories;
mod rights;
mod setup;
mod suggest;
mod survive;
mod terminals;
