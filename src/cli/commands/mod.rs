//! One file a command; this one only hands over.

mod amend;
mod attach;
mod audit;
mod chaos;
mod completions;
mod config;
mod demo;
mod doctor;
mod graph;
mod handoff;
mod init;
mod notify;
mod plan;
mod run;
mod sandbox;
mod sessions;
mod signal;
mod stage;
mod status;
mod stop;
mod suggest;
mod undo;
mod verify;

use super::args::{Args, Command, Plan};
use super::failure::Failure;
use super::place::Place;
use crate::model::event::Request;

/// `loom status`, without more words.
pub fn plain_status() -> Result<u8, Failure> {
    status::plain(&Place::find(None)?)
}

pub fn run(args: Args) -> Result<u8, Failure> {
    let place = || Place::find(args.directory.as_ref());
    match args.command {
        Command::Init(args) => init::run(&place()?, &args),
        Command::Run(args) => run::run(&place()?, &args),
        Command::Status(args) => status::run(&place()?, &args),
        Command::Stop(args) => stop::run(&place()?, &args),
        Command::Resume(args) => place()?.ask(Request::Resume { stage: args.stage }),
        Command::Merge(super::args::Merge { stage: None }) => place()?.follow(),
        Command::Merge(args) => place()?.ask(Request::Merge { stage: args.stage }),
        Command::Attach(args) => attach::attach(&place()?, &args),
        Command::Logs(args) => attach::logs(&place()?, &args),
        Command::Graph(args) => graph::run(place, &args),
        Command::Stage(verb) => stage::run(&place()?, verb),
        Command::Signal(args) => signal::run(&place()?, &args),
        Command::Handoff(args) => handoff::run(&place()?, *args),
        Command::Verify(args) => verify::run(&place()?, &args),
        Command::Plan(Plan::Verify(args)) => plan::verify(&args),
        Command::Plan(Plan::Diff(args)) => amend::diff(&place()?, &args),
        Command::Plan(Plan::Apply(args)) => amend::apply(&place()?, &args),
        Command::Sandbox(verb) => sandbox::run(&place()?, &verb),
        Command::Sessions(verb) => sessions::run(&place()?, verb),
        Command::Config(args) => config::run(&place()?, &args),
        Command::Audit(args) => audit::run(&place()?, &args),
        Command::Doctor(args) => doctor::run(&place()?, &args),
        Command::Undo(args) => undo::run(&place()?, &args),
        Command::Demo(args) => demo::run(&args),
        Command::Chaos(args) => chaos::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Daemon(args) => run::daemon(&place()?, &args),
        Command::Notify => notify::run(&place()?),
        Command::Keeper(args) => run::keeper(&place()?, &args),
    }
}
