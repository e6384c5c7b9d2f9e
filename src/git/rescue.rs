//! Rescue: before a tree or a branch is removed, reset or replaced, what is in
//! it is saved under `refs/loom/rescue/<stage>/<n>`.

use std::path::Path;

use super::command::{line, run};
use super::{Git, GitError};
use crate::base::fail::{self, Point};
use crate::model::ids::{Oid, PlanId, StageId};
use crate::model::limits::RESCUE_BYTES_MAX;

/// One thing that was put aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rescue {
    pub name: String,
    pub commit: Oid,
    pub summary: String,
}

impl Git {
    /// Saves tracked and untracked work of the worktree at `dir`, whatever state its index
    /// is in, and returns the ref; none when `HEAD` has it all and `kept` has `HEAD`.
    ///
    /// # Errors
    /// When it cannot be saved. Then it must not be removed.
    pub fn rescue_worktree(&self, stage: &StageId, dir: &Path, kept: &[Oid]) -> Result<Option<String>, GitError> {
        let status = self.status(dir)?;
        let Some(head) = status.head else { return Ok(None) };
        if status.dirty.is_empty() {
            return self.rescue_commit(stage, &head, kept);
        }
        self.check_size(dir, &status.dirty)?;
        fail::point(Point::BeforeRescue)?;
        let index = tempfile::Builder::new().prefix("loom-rescue-").tempdir()?;
        let index_file = index.path().join("index");
        let with_index = |args: &[&str]| {
            let mut command = self.in_dir(dir, args);
            command.env("GIT_INDEX_FILE", &index_file);
            command
        };
        run(with_index(&["read-tree", head.as_str()]), None)?;
        run(with_index(&["add", "-A", "--", "."]), None)?;
        let tree = line(run(with_index(&["write-tree"]), None)?);
        let (name, email) = self.identity();
        let mut commit = with_index(&["commit-tree", "--no-gpg-sign", &tree, "-p", head.as_str()]);
        for role in ["AUTHOR", "COMMITTER"] {
            commit.env(format!("GIT_{role}_NAME"), &name).env(format!("GIT_{role}_EMAIL"), &email);
        }
        let message = format!("Uncommitted work of stage {stage}\n");
        let text = line(run(commit, Some(message.as_bytes()))?);
        fail::point(Point::RescueCommitted)?;
        let saved = Oid::new(text.clone())
            .map_err(|_| GitError::Unexpected { args: "commit-tree".to_owned(), output: text })?;
        self.save(stage, &saved).map(Some)
    }

    /// Saves what lies in the folder of a worktree that git no longer knows, as changes to `base`.
    pub fn rescue_broken_worktree(&self, stage: &StageId, dir: &Path, base: &Oid) -> Result<Option<String>, GitError> {
        let index = tempfile::Builder::new().prefix("loom-rescue-").tempdir()?;
        let in_folder = |args: &[&str]| {
            let mut command = self.in_dir(dir, args);
            command.env("GIT_DIR", &self.common).env("GIT_WORK_TREE", dir);
            command.env("GIT_INDEX_FILE", index.path().join("index"));
            command
        };
        run(in_folder(&["read-tree", base.as_str()]), None)?;
        let files: Vec<String> = fs_err::read_dir(dir)?
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name != ".git")
            .collect();
        // Nothing was checked out yet: nothing is missing either.
        if files.is_empty() {
            return Ok(None);
        }
        self.check_size(dir, &files)?;
        fail::point(Point::BeforeRescue)?;
        run(in_folder(&["add", "-A", "--ignore-removal", "--", "."]), None)?;
        let tree = line(run(in_folder(&["write-tree"]), None)?);
        if tree == self.tree_of(base)?.as_str() {
            return Ok(None);
        }
        let (name, email) = self.identity();
        let mut commit = in_folder(&["commit-tree", "--no-gpg-sign", &tree, "-p", base.as_str()]);
        for role in ["AUTHOR", "COMMITTER"] {
            commit.env(format!("GIT_{role}_NAME"), &name).env(format!("GIT_{role}_EMAIL"), &email);
        }
        let text = line(run(commit, Some(format!("Uncommitted work of stage {stage}\n").as_bytes()))?);
        let saved = Oid::new(text.clone())
            .map_err(|_| GitError::Unexpected { args: "commit-tree".to_owned(), output: text })?;
        self.save(stage, &saved).map(Some)
    }

    /// Saves a commit unless one of `kept` has it.
    pub fn rescue_commit(&self, stage: &StageId, commit: &Oid, kept: &[Oid]) -> Result<Option<String>, GitError> {
        for keeper in kept {
            if self.is_ancestor(commit, keeper)? {
                return Ok(None);
            }
        }
        self.save(stage, commit).map(Some)
    }

    fn save(&self, stage: &StageId, commit: &Oid) -> Result<String, GitError> {
        let prefix = format!("refs/loom/rescue/{stage}/");
        let known = self.refs_below(&prefix)?;
        if let Some((name, _)) = known.iter().find(|(_, saved)| saved == commit) {
            self.settle_ref(name)?;
            return Ok(name.clone());
        }
        let number = |name: &str| name.rsplit('/').next().and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
        let next = known.iter().map(|(name, _)| number(name)).max().unwrap_or(0) + 1;
        let name = format!("{prefix}{next}");
        self.swap_ref(&name, None, commit, "loom: rescue")?;
        Ok(name)
    }

    fn check_size(&self, dir: &Path, files: &[String]) -> Result<(), GitError> {
        let mut total = 0;
        let mut todo: Vec<std::path::PathBuf> = files.iter().map(|file| dir.join(file)).collect();
        while let Some(path) = todo.pop() {
            let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
            if meta.is_dir() {
                todo.extend(fs_err::read_dir(&path)?.flatten().map(|entry| entry.path()));
            } else {
                total += meta.len();
            }
        }
        if total > RESCUE_BYTES_MAX {
            return Err(GitError::Io(std::io::Error::other(format!(
                "{} holds {} MiB of uncommitted work, more than a rescue saves by itself: move it away first",
                dir.display(),
                total >> 20
            ))));
        }
        Ok(())
    }

    /// Everything that was put aside, oldest first within a stage.
    pub fn rescues(&self) -> Result<Vec<Rescue>, GitError> {
        let mut rescues = Vec::new();
        for (name, commit) in self.refs_below("refs/loom/rescue/")? {
            let summary = self.summary(&commit)?;
            rescues.push(Rescue { name, commit, summary });
        }
        Ok(rescues)
    }

    /// Moves the stages' branches to `refs/loom/done/<plan>/<stage>` in one transaction.
    pub fn retire_branches(&self, plan: &PlanId, stages: &[StageId]) -> Result<(), GitError> {
        let mut instructions = String::new();
        for stage in stages {
            let branch = format!("refs/heads/{}", crate::model::plan::stage_branch(stage));
            if let Some(tip) = self.tip(&branch)? {
                instructions.push_str(&format!("update refs/loom/done/{plan}/{stage} {tip}\ndelete {branch} {tip}\n"));
            }
        }
        if instructions.is_empty() {
            self.settle_ref(&format!("refs/loom/done/{plan}"))?;
            return self.settle_ref("refs/heads/loom");
        }
        self.ref_transaction(&instructions)
    }

    /// Deletes a branch whose commits are kept elsewhere.
    pub fn delete_rescued_branch(&self, branch: &str, at: &Oid) -> Result<(), GitError> {
        self.ref_transaction(&format!("delete refs/heads/{branch} {at}\n"))
    }
}
