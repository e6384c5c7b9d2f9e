//! Where a command was started, and how it asks for something there.

use std::path::PathBuf;

use super::failure::{Failure, exit};
use super::ui;
use crate::base::layout::Layout;
use crate::client;
use crate::git::Git;
use crate::model::effect::Answer;
use crate::model::event::Request;
use crate::model::refusal::{Refusal, RefusalKind};
use crate::wire::status::{PhaseOfPlan, Status};

/// Where a command was started.
pub struct Place {
    /// The folder itself; it may be in a linked worktree of the project.
    pub here: PathBuf,
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
        Ok(Place { here, git, layout })
    }

    /// Sends a request and prints what it means.
    pub fn ask(&self, request: Request) -> Result<u8, Failure> {
        if let Answer::Done { text } = client::request(&self.layout, request)? {
            ui::note(text);
        }
        say_next(&client::status(&self.layout)?);
        Ok(exit::OK)
    }

    /// `loom merge` without a stage: waits until the base branch has followed, or stays.
    pub fn follow(&self) -> Result<u8, Failure> {
        let Answer::Done { text } = client::request(&self.layout, Request::Merge { stage: None })? else {
            return Ok(exit::OK);
        };
        let status =
            client::status_when(&self.layout, |status| status.plan.as_ref().is_none_or(|plan| !plan.following))?;
        let stays = status.plan.as_ref().and_then(|plan| Some((plan.base.clone(), plan.base_stays.clone()?)));
        let Some((base, why)) = stays else {
            ui::note(text);
            say_next(&status);
            return Ok(exit::OK);
        };
        Err(Failure::from(
            Refusal::new(RefusalKind::Work, format!("branch `{base}` stays where it is"))
                .because(why)
                .hint("make room for it, then: loom merge"),
        ))
    }
}

fn say_next(status: &Status) {
    if !status.daemon.running && status.phase == PhaseOfPlan::Stopped {
        ui::note("Next: loom run");
    }
}
