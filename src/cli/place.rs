//! Where a command was started, and how it asks for something there.

use std::path::PathBuf;

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
    pub fn ask(&self, request: Request) -> Result<u8, Failure> {
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
