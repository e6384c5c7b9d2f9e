//! What a worktree has beyond the commit it started from.

use std::path::Path;

use super::{Git, GitError};
use crate::model::ids::Oid;
use crate::model::stage::Work;

/// Commits and files since a base.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// Short id and subject, newest first.
    pub commits: Vec<String>,
    /// Paths that differ from the base.
    pub files: Vec<String>,
    /// More of either than were looked at.
    pub is_cut: bool,
}

impl Git {
    /// The work committed in `dir` since `base`: at most `max` commits and files.
    pub fn since(&self, dir: &Path, base: &Oid, max: usize) -> Result<History, GitError> {
        let repository = git2::Repository::open(dir)?;
        let base = git2::Oid::from_str(base.as_str())?;
        let head = repository.head()?.peel_to_commit()?;
        let mut walk = repository.revwalk()?;
        walk.push(head.id())?;
        walk.hide(base)?;
        let mut history = History::default();
        for id in walk {
            let commit = repository.find_commit(id?)?;
            if history.commits.len() == max {
                history.is_cut = true;
                break;
            }
            let short = commit.id().to_string()[..10].to_owned();
            history.commits.push(format!("{short} {}", commit.summary().ok().flatten().unwrap_or_default()));
        }
        let before = repository.find_commit(base)?.tree()?;
        let diff = repository.diff_tree_to_tree(Some(&before), Some(&head.tree()?), None)?;
        let paths = diff.deltas().filter_map(|delta| delta.new_file().path().map(|path| path.display().to_string()));
        history.files = paths.take(max).collect();
        history.is_cut |= diff.deltas().len() > max;
        Ok(history)
    }

    /// What was committed from `old` to `new`, as far as `max` commits and files show it.
    pub fn work_between(&self, old: &Oid, new: &Oid, max: usize) -> Result<Work, GitError> {
        let repository = self.repo()?;
        let (old, new) = (git2::Oid::from_str(old.as_str())?, git2::Oid::from_str(new.as_str())?);
        let mut walk = repository.revwalk()?;
        walk.push(new)?;
        walk.hide(old)?;
        let mut work = Work::default();
        for id in walk {
            let commit = repository.find_commit(id?)?;
            if work.commits.len() == max {
                work.is_cut = true;
                break;
            }
            let short = commit.id().to_string()[..10].to_owned();
            work.commits.push(format!("{short} {}", commit.summary().ok().flatten().unwrap_or_default()));
        }
        let tree = |id| repository.find_commit(id).and_then(|commit| commit.tree());
        let diff = repository.diff_tree_to_tree(Some(&tree(old)?), Some(&tree(new)?), None)?;
        for at in 0..diff.deltas().len().min(max) {
            let (_, added, removed) = match git2::Patch::from_diff(&diff, at)? {
                Some(patch) => patch.line_stats()?,
                None => (0, 0, 0),
            };
            let path =
                diff.get_delta(at).and_then(|delta| delta.new_file().path().map(|path| path.display().to_string()));
            work.files.push(format!("{} (+{added} -{removed})", path.unwrap_or_default()));
        }
        work.is_cut |= diff.deltas().len() > max;
        Ok(work)
    }
}
