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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::command::{line, plain, run};
    use crate::model::ids::Oid;

    fn repository(text: &str) -> (tempfile::TempDir, Git, Oid) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        run(plain(&["-C", path.to_str().unwrap(), "init", "-q"]), None).unwrap();
        let git = Git::at(path.clone(), path.join(".git"));
        let commit = commit(&git, text);
        (dir, git, commit)
    }

    fn commit(git: &Git, text: &str) -> Oid {
        let who = ["-c", "user.name=T", "-c", "user.email=t@localhost"];
        git.run(&[&who[..], &["commit", "-q", "--allow-empty", "-m", text]].concat()).unwrap();
        Oid::new(line(git.run(&["rev-parse", "HEAD"]).unwrap())).unwrap()
    }

    #[test]
    fn an_open_repository_follows_what_others_do_to_it() {
        let (_dir, git, first) = repository("First");
        assert_eq!(git.summary(&first).unwrap(), "First");
        assert_eq!(git.idle.0.lock().unwrap().len(), 1, "it is used again");
        // Everything moves into a pack, into another one, and grows.
        for round in ["Second", "Third"] {
            let next = commit(&git, round);
            git.run(&["repack", "-adq"]).unwrap();
            git.run(&["prune-packed"]).unwrap();
            assert_eq!((git.summary(&first).unwrap(), git.summary(&next).unwrap()), ("First".into(), round.into()));
            assert!(git.is_ancestor(&first, &next).unwrap());
            assert_eq!(git.tip("HEAD").unwrap(), Some(next));
        }
        // Objects from elsewhere.
        let (other_dir, _, foreign) = repository("Foreign");
        assert!(git.summary(&foreign).is_err());
        let alternates = git.common.join("objects/info/alternates");
        fs_err::write(alternates, format!("{}\n", other_dir.path().join(".git/objects").display())).unwrap();
        assert_eq!(git.summary(&foreign).unwrap(), "Foreign");
        // Another repository in its place.
        let (other_dir, _, foreign) = repository("Instead");
        fs_err::remove_dir_all(&git.common).unwrap();
        fs_err::rename(other_dir.path().join(".git"), &git.common).unwrap();
        assert!(git.summary(&first).is_err());
        assert_eq!(git.summary(&foreign).unwrap(), "Instead");
    }
}
