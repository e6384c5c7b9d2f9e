//! The command line: arguments in, a request to the loop, words out. Every
//! failure ends here as a [`failure::Failure`], which decides the exit code.

mod args;
mod commands;
mod complete;
pub mod failure;
mod hook;
mod place;
mod playground;
mod show;
mod story;
mod ui;

use std::ffi::OsString;

use clap::Parser;

/// Runs the command line and returns the exit code.
pub fn main(arguments: &[OsString]) -> u8 {
    // Hooks run on every tool call: nothing else is set up for them.
    if let [verb, event, ..] = arguments
        && verb == "hook"
    {
        return hook::main(event);
    }
    // So is the plain status: describing all commands to clap takes longer than the answer.
    let is_completion = std::env::var_os("COMPLETE").is_some();
    if let [verb] = arguments
        && verb == "status"
        && !is_completion
    {
        return commands::plain_status().map_or_else(|failure| ui::failure(&failure), ui::code);
    }
    clap_complete::CompleteEnv::with_factory(args::command).complete();
    let name = OsString::from("loom");
    let arguments = match args::Args::try_parse_from(std::iter::once(&name).chain(arguments)) {
        Ok(arguments) => arguments,
        Err(error) => return ui::usage(&error),
    };
    match commands::run(arguments) {
        Ok(code) => ui::code(code),
        Err(failure) => ui::failure(&failure),
    }
}
