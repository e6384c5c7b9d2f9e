//! One file a command; this one only hands over.

mod attach;
mod completions;
mod demo;
mod init;
mod plan;
mod run;
mod sessions;
mod signal;
mod stage;
mod status;
mod stop;
mod undo;

use std::path::PathBuf;

use super::args::{Args, Command};
use super::failure::{Failure, exit};
use super::ui;
use crate::base::layout::Layout;
use crate::client;
use crate::git::Git;
use crate::model::effect::Answer;
use crate::model::event::Request;
use crate::wire::status::PhaseOfPlan;

/// Where a command was started.
pub struct Place {
    pub git: Git,
    pub layout: Layout,
}

impl Place {
    /// The project around `dir`, or around the current folder.
    pub fn find(dir: Option<&PathBuf>) -> Result<Place, Failure> {
        let here = match dir {
            Some(dir) => dir.clone(),
            None => std::env::current_dir()?,
        };
        let git = Git::find(&here)?;
        let layout = Layout::new(&git.project);
        Ok(Place { git, layout })
    }

    /// Sends a request and prints what it means.
    fn ask(&self, request: Request) -> Result<u8, Failure> {
        if let Answer::Done { text } = client::request(&self.layout, request)? {
            ui::note(text);
        }
        let status = client::status(&self.layout)?;
        if !status.daemon.running && status.phase == PhaseOfPlan::Stopped {
            ui::note("Next: loom run");
        }
        Ok(exit::OK)
    }
}

pub fn run(args: Args) -> Result<u8, Failure> {
    let place = || Place::find(args.directory.as_ref());
    match args.command {
        Command::Init(args) => init::run(&place()?, &args),
        Command::Run(args) => run::run(&place()?, &args),
        Command::Status(args) => status::run(&place()?, &args),
        Command::Stop(args) => stop::run(&place()?, &args),
        Command::Resume(args) => place()?.ask(Request::Resume { stage: args.stage }),
        Command::Merge(args) => place()?.ask(Request::Merge { stage: args.stage }),
        Command::Attach(args) => attach::attach(&place()?, &args),
        Command::Logs(args) => attach::logs(&place()?, &args),
        Command::Stage(verb) => stage::run(&place()?, verb),
        Command::Signal(args) => signal::run(&place()?, &args),
        Command::Plan(verb) => plan::run(verb),
        Command::Sessions(verb) => sessions::run(&place()?, verb),
        Command::Undo(args) => undo::run(&place()?, &args),
        Command::Demo(args) => demo::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Daemon(args) => run::daemon(&place()?, &args),
        Command::Keeper(args) => run::keeper(&place()?, &args),
    }
}
