//! Completion of stages and sessions: the ones of this project, from its journal.

use clap_complete::engine::CompletionCandidate;

use crate::base::layout::Layout;
use crate::daemon::ReadOnly;
use crate::git::Git;

fn world() -> Option<crate::kernel::World> {
    let here = std::env::current_dir().ok()?;
    let git = Git::find(&here).ok()?;
    ReadOnly::open(&Layout::new(&git.project)).ok().map(|read| read.world)
}

fn candidates(names: impl Iterator<Item = (String, String)>, current: &std::ffi::OsStr) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy().into_owned();
    names
        .filter(|(name, _)| name.starts_with(&current))
        .map(|(name, about)| CompletionCandidate::new(name).help(Some(about.into())))
        .collect()
}

pub fn stages(current: &std::ffi::OsStr) -> Vec<CompletionCandidate> {
    let Some(run) = world().and_then(|world| world.run) else { return Vec::new() };
    let names = run
        .stages
        .values()
        .map(|stage| (stage.spec.id.to_string(), format!("{}: {}", stage.state.kind().as_str(), stage.spec.name)));
    candidates(names, current)
}

pub fn sessions(current: &std::ffi::OsStr) -> Vec<CompletionCandidate> {
    let Some(run) = world().and_then(|world| world.run) else { return Vec::new() };
    candidates(run.live_sessions().map(|session| (session.id.to_string(), session.backend.to_string())), current)
}
