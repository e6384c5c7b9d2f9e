//! A branch that a person may have checked out is only ever moved by
//! fast-forward, and only when nothing of theirs would be touched.

use std::path::Path;

use super::command::run;
use super::{Git, GitError};
use crate::model::ids::Oid;

/// The outcome of a follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Followed {
    /// The branch is at the new commit, and so is its checkout.
    Moved,
    /// It was left alone, for this reason.
    Stayed { why: String },
}

impl Git {
    /// Moves `branch` from `from` to `to`.
    pub fn follow(&self, branch: &str, from: &Oid, to: &Oid) -> Result<Followed, GitError> {
        let name = format!("refs/heads/{branch}");
        let stayed = |why: String| Ok(Followed::Stayed { why });
        let checkout = self.checked_out_at(branch)?;
        match self.tip(&name)? {
            None => return stayed(format!("branch `{branch}` is gone")),
            Some(tip) if tip == *to => {}
            Some(tip) if !self.is_ancestor(&tip, to)? => {
                return stayed(format!("branch `{branch}` has commits that the plan branch does not have"));
            }
            Some(tip) if checkout.is_none() => {
                self.swap_ref(&name, Some(&tip), to, "loom: follow the plan branch")?;
                return Ok(Followed::Moved);
            }
            Some(_) => {}
        }
        let Some(dir) = checkout else { return Ok(Followed::Moved) };
        let repo = git2::Repository::open(&dir)?;
        if repo.state() != git2::RepositoryState::Clean {
            return stayed(format!("a {:?} is in progress in {}", repo.state(), dir.display()));
        }
        if self.tip(&name)?.as_ref() == Some(to) {
            return Ok(Followed::Moved);
        }
        self.complete_interrupted(&dir, from, to)?;
        let dirty = tracked_changes(self, &dir)?;
        if !dirty.is_empty() {
            let files = crate::base::text::list(dirty.iter().take(10));
            return stayed(format!("{} has changes of yours in {files}", dir.display()));
        }
        match run(
            self.in_dir(&dir, &["merge", "-q", "--ff-only", "--no-overwrite-ignore", "--no-autostash", to.as_str()]),
            None,
        ) {
            Ok(_) => {
                self.sync_refs(&name)?;
                Ok(Followed::Moved)
            }
            Err(GitError::Failed { stderr, .. }) => stayed(stderr.lines().collect::<Vec<_>>().join(" ")),
            Err(error) => Err(error),
        }
    }

    /// A follow that was cut off leaves files of `to` under a `HEAD` at `from`. When every
    /// changed path holds exactly the old or the new content, nothing is the user's, and
    /// the files are put back so that the follow can be done again.
    fn complete_interrupted(&self, dir: &Path, from: &Oid, to: &Oid) -> Result<(), GitError> {
        let dirty = tracked_changes(self, dir)?;
        if dirty.is_empty() {
            return Ok(());
        }
        let repo = self.repo()?;
        let tree = |commit: &Oid| repo.find_commit(git2::Oid::from_str(commit.as_str())?)?.tree();
        let (old, new) = (tree(from)?, tree(to)?);
        let blob = |tree: &git2::Tree, path: &str| tree.get_path(Path::new(path)).ok().map(|entry| entry.id());
        for path in &dirty {
            let there = std::fs::symlink_metadata(dir.join(path)).ok();
            let content = match there {
                None => None,
                Some(meta) if meta.is_file() => Some(git2::Oid::hash_file(git2::ObjectType::Blob, dir.join(path))?),
                Some(_) => return Ok(()),
            };
            let (before, after) = (blob(&old, path), blob(&new, path));
            if before == after || (content != before && content != after) {
                return Ok(());
            }
        }
        let head =
            repo.find_reference("HEAD").and_then(|head| head.peel_to_commit()).map(|commit| commit.id().to_string());
        if head.is_ok_and(|head| head == from.as_str()) {
            run(self.in_dir(dir, &["read-tree", "--reset", "-u", from.as_str()]), None)?;
        }
        Ok(())
    }
}

fn tracked_changes(git: &Git, dir: &Path) -> Result<Vec<String>, GitError> {
    let args = ["--no-optional-locks", "status", "--porcelain=v1", "-z", "--untracked-files=no"];
    let output = run(git.in_dir(dir, &args), None)?;
    let text = String::from_utf8_lossy(&output).into_owned();
    Ok(text.split('\0').filter(|field| field.len() > 3).map(|field| field[3..].to_owned()).collect())
}
