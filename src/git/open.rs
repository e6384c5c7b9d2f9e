//! The user's repository, opened once and used again: opening reads the configuration and maps
//! the index of every pack.

use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use super::{Git, GitError};

/// Handles that nobody uses just now, at most so many: they keep packs mapped.
const IDLE_MAX: usize = 2;

/// Shared by all copies of a [`Git`].
#[derive(Clone, Default)]
pub(super) struct Idle(Arc<Mutex<Vec<(Ground, git2::Repository)>>>);

impl std::fmt::Debug for Idle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Idle")
    }
}

/// What an open handle does not look at again: which folder of objects this is, and where else
/// objects are. Device, inode, and the time of the list of alternates in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ground(u64, u64, Option<i128>);

impl Ground {
    fn of(common: &Path) -> Option<Ground> {
        let objects = std::fs::metadata(common.join("objects")).ok()?;
        let alternates = std::fs::metadata(common.join("objects/info/alternates")).ok();
        let time = |meta: std::fs::Metadata| i128::from(meta.ctime()) * 1_000_000_000 + i128::from(meta.ctime_nsec());
        Some(Ground(objects.dev(), objects.ino(), alternates.map(time)))
    }
}

/// An open repository; the next one who needs it gets it after this.
pub struct Open {
    repo: Option<git2::Repository>,
    ground: Option<Ground>,
    idle: Idle,
}

impl Deref for Open {
    type Target = git2::Repository;

    fn deref(&self) -> &git2::Repository {
        self.repo.as_ref().unwrap_or_else(|| unreachable!("only drop takes it"))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let (Some(repo), Some(ground), Ok(mut idle)) = (self.repo.take(), self.ground, self.idle.0.lock())
            && idle.len() < IDLE_MAX
        {
            idle.push((ground, repo));
        }
    }
}

impl Git {
    /// The repository, to read refs and objects from.
    pub(super) fn repo(&self) -> Result<Open, GitError> {
        let ground = Ground::of(&self.common);
        let known = self.idle.0.lock().ok().and_then(|mut idle| idle.pop());
        match known.filter(|(known, _)| Some(*known) == ground) {
            Some((_, repo)) => Ok(Open { repo: Some(repo), ground, idle: self.idle.clone() }),
            None => {
                let mut open = self.repo_anew()?;
                open.ground = ground;
                Ok(open)
            }
        }
    }

    /// The repository as it is on disk now, for this time only: what may be forged is not read from
    /// a pack that was mapped before.
    pub(super) fn repo_anew(&self) -> Result<Open, GitError> {
        // A handle that stays would hold every commit and tree that it has ever read.
        git2::opts::enable_caching(false);
        let repo = git2::Repository::open(&self.common)?;
        Ok(Open { repo: Some(repo), ground: None, idle: self.idle.clone() })
    }
}
