//! `loom signal`: the assignment of this session or worktree.

use crate::cli::args::Signal;
use crate::cli::failure::{Failure, exit};
use crate::cli::place::Place;
use crate::cli::ui;
use crate::daemon::ReadOnly;
use crate::model::ids::{SessionId, StageId};

pub fn run(place: &Place, args: &Signal) -> Result<u8, Failure> {
    if args.stage.is_none()
        && let Some(path) = std::env::var_os("LOOM_SIGNAL")
    {
        ui::data(&fs_err::read_to_string(std::path::PathBuf::from(path))?);
        return Ok(exit::OK);
    }
    let stage = match &args.stage {
        Some(stage) => stage.clone(),
        None => stage_here(place).ok_or_else(|| {
            Failure::user("this folder is no stage's worktree").hint("loom signal <stage>").hint("loom status")
        })?,
    };
    let read = ReadOnly::open(&place.layout)?;
    let Some(run) = &read.world.run else { return Err(crate::daemon::BootError::NoPlan.into()) };
    let Some(known) = run.stages.get(&stage) else {
        return Err(crate::kernel::unknown_stage(run, stage.as_str()).into());
    };
    let path = place.layout.signal(&SessionId::of(&stage, known.sessions));
    match fs_err::read_to_string(&path) {
        Ok(text) => {
            ui::data(&text);
            Ok(exit::OK)
        }
        Err(_) => {
            Err(Failure::user(format!("stage `{stage}` has no assignment yet: it is {}", known.state.kind().as_str()))
                .hint("loom run"))
        }
    }
}

/// The stage whose worktree the current folder is in.
pub fn stage_here(place: &Place) -> Option<StageId> {
    let here = std::env::current_dir().ok()?;
    let here = here.canonicalize().ok()?;
    let below = here.strip_prefix(place.layout.worktrees()).ok()?;
    let folder = below.components().next()?.as_os_str().to_str()?;
    // A folder of a later session is called `<stage>.<n>`.
    StageId::new(folder.split('.').next()?).ok()
}
