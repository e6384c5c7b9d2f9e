//! The `command` backend: a shell command in the worktree, no model. It sees
//! what every session sees and nothing else; pipes, no terminal, no input.

use super::BackendLaunch;

pub(super) fn launch(run: &str) -> BackendLaunch {
    BackendLaunch {
        argv: vec!["/bin/sh".to_owned(), "-c".to_owned(), run.to_owned()],
        env: Vec::new(),
        terminal: None,
        starts_in_working_dir: true,
    }
}
