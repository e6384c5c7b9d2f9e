//! Files of the shared git folder that Loom and git read by their names. A pipe in such a place
//! makes every reader wait for ever, and whoever may commit can put one there.

use std::path::PathBuf;

use super::{Git, GitError};
use crate::base::fs::is_no_file;

/// What is read before anything else is known.
const READ: [&str; 13] = [
    "HEAD",
    "config",
    "config.worktree",
    "packed-refs",
    "shallow",
    "info/attributes",
    "info/exclude",
    "info/grafts",
    "objects/info/alternates",
    "objects/info/commit-graph",
    "objects/pack/multi-pack-index",
    "refs/heads/loom",
    super::ANCHOR,
];

/// The same in the folder of each worktree.
const OF_WORKTREE: [&str; 4] = ["HEAD", "gitdir", "commondir", "index"];

impl Git {
    /// What is no file where one is read.
    pub fn in_the_way(&self) -> Option<PathBuf> {
        let is_pipe = |path: &PathBuf| !path.is_dir() && is_no_file(path);
        let worktrees = fs_err::read_dir(self.common.join("worktrees")).into_iter().flatten().flatten();
        let of_worktree = |entry: fs_err::DirEntry| OF_WORKTREE.map(|name| entry.path().join(name));
        READ.iter().map(|name| self.common.join(name)).chain(worktrees.flat_map(of_worktree)).find(is_pipe)
    }

    /// # Errors
    /// What is [in the way](Git::in_the_way), by its path.
    pub fn check_plain(&self) -> Result<(), GitError> {
        match self.in_the_way() {
            Some(path) => Err(std::io::Error::other(format!("{} is no file: remove it", path.display())).into()),
            None => Ok(()),
        }
    }
}
