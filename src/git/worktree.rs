//! Worktrees of stages, and what is in them at submission.

use std::path::Path;

use super::command::run;
use super::{Git, GitError};
use crate::base::fail::{self, Point};
use crate::model::ids::{Oid, StageId};
use crate::model::sandbox::SANDBOX_MASKS;

/// What `git status` says about a worktree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorktreeStatus {
    pub head: Option<Oid>,
    /// Short name; none when detached.
    pub branch: Option<String>,
    /// Changed, staged or untracked paths.
    pub dirty: Vec<String>,
}

impl Git {
    /// Adds a worktree at `dir` on `branch`, which is created at `base` unless it exists.
    pub fn add_worktree(&self, dir: &Path, branch: &str, base: &Oid) -> Result<(), GitError> {
        // Git looks at the other worktrees first, and gives up on one that is being made or
        // removed at that moment ("failed to read .git/worktrees/…/commondir"). It has done
        // nothing then but create the branch, so that trying again is safe.
        const TRIES: usize = 20;
        for _ in 1..TRIES {
            match self.try_add_worktree(dir, branch, base) {
                Err(GitError::Failed { stderr, .. }) if is_about_another_worktree(&stderr) => {}
                result => return result,
            }
        }
        self.try_add_worktree(dir, branch, base)
    }

    fn try_add_worktree(&self, dir: &Path, branch: &str, base: &Oid) -> Result<(), GitError> {
        let dir = dir.display().to_string();
        fail::point(Point::BeforeWorktreeAdd)?;
        if self.tip_quickly(&format!("refs/heads/{branch}"))?.is_some() {
            self.run(&["worktree", "add", "-q", &dir, branch])?;
        } else {
            self.run(&["worktree", "add", "-q", "--no-track", "-b", branch, &dir, base.as_str()])?;
        }
        fail::point(Point::AfterWorktreeAdd)?;
        Ok(())
    }

    /// Whether `dir` is a worktree that git knows and that is there.
    pub fn is_worktree(&self, dir: &Path) -> bool {
        git2::Repository::open(dir).is_ok_and(|repo| {
            let common = repo.commondir().canonicalize();
            // A power cut can leave an empty `HEAD`: to git that is no repository any more.
            let has_head = fs_err::read_to_string(repo.path().join("HEAD"))
                .is_ok_and(|head| head.starts_with("ref: ") || Oid::new(head.trim_end()).is_ok());
            repo.is_worktree() && has_head && common.is_ok_and(|common| common == self.common)
        })
    }

    /// Looks at a worktree without taking any lock in it.
    pub fn status(&self, dir: &Path) -> Result<WorktreeStatus, GitError> {
        self.status_with(dir, "--untracked-files=normal")
    }

    /// Every path that is changed, staged or untracked, also those in untracked folders.
    pub fn dirty_files(&self, dir: &Path) -> Result<Vec<String>, GitError> {
        Ok(self.status_with(dir, "--untracked-files=all")?.dirty)
    }

    fn status_with(&self, dir: &Path, untracked: &str) -> Result<WorktreeStatus, GitError> {
        let options = ["--porcelain=v2", "--branch", "-z", untracked, "--ignore-submodules=none"];
        let mut args = vec!["--no-optional-locks", "status"];
        args.extend(options);
        let output = run(self.in_dir(dir, &args), None)?;
        let mut status = parse_status(&output);
        status.dirty.retain(|path| !is_mask(dir, path.trim_end_matches('/')));
        Ok(status)
    }

    /// Whether everything in a worktree is committed or ignored. A filter that this process
    /// does not know shows as a change.
    pub(super) fn is_clean(&self, dir: &Path) -> Result<bool, GitError> {
        let repo = git2::Repository::open(dir)?;
        if repo.state() != git2::RepositoryState::Clean {
            return Ok(false);
        }
        if super::rescue::has_more_than_git_shows(dir, &repo)? {
            return Ok(false);
        }
        let excludes = fs_err::read_to_string(&self.excludes)?;
        repo.add_ignore_rule(&excludes)?;
        let mut options = git2::StatusOptions::new();
        options.include_untracked(true).include_ignored(false);
        Ok(repo.statuses(Some(&mut options))?.is_empty())
    }

    /// Forgets what git knows of a worktree at `dir`, which is not one (any more): a `git worktree
    /// add` that was killed leaves an entry that is locked for ever.
    /// Commits that only it had are rescued.
    pub fn forget_worktree(&self, stage: &StageId, dir: &Path) -> Result<Option<String>, GitError> {
        let mut rescued = None;
        let Ok(entries) = fs_err::read_dir(self.common.join("worktrees")) else { return Ok(None) };
        let pointer = dir.join(".git").display().to_string();
        for entry in entries.flatten() {
            let points_to = fs_err::read_to_string(entry.path().join("gitdir")).unwrap_or_default();
            let is_unfinished = points_to.trim_matches(['\0', '\n', ' ']).is_empty();
            let has_its_name = Some(entry.file_name().as_os_str()) == dir.file_name();
            if points_to.trim() == pointer || (is_unfinished && has_its_name) {
                rescued = self.rescue_commits(stage, &super::rescue::left_in(&entry.path()))?.or(rescued);
                super::aside::let_go(&entry.path())?;
            }
        }
        Ok(rescued)
    }

    /// Whether `dir` was a worktree of this repository that was cut off while it was made, or
    /// whose link to it is broken: it has no `.git`, or one that names nothing that is whole.
    pub fn is_broken_worktree(&self, dir: &Path) -> bool {
        let Ok(mut entries) = fs_err::read_dir(dir) else { return false };
        let link = dir.join(".git");
        match std::fs::symlink_metadata(&link) {
            Err(_) => entries.next().is_none(),
            Ok(meta) if meta.is_file() => {
                let text = fs_err::read_to_string(&link).unwrap_or_default();
                let text = text.trim_matches(['\0', '\n', ' ']);
                let ours = format!("gitdir: {}/", self.common.join("worktrees").display());
                (text.is_empty() || text.starts_with(&ours)) && !self.is_worktree(dir)
            }
            Ok(_) => false,
        }
    }

    /// Takes a worktree's `HEAD` off its branch, so that another worktree can have it.
    pub fn detach_worktree(&self, dir: &Path) -> Result<(), GitError> {
        run(self.in_dir(dir, &["checkout", "-q", "--detach"]), None)?;
        Ok(())
    }

    /// Makes a worktree's tracked files those of `branch` and removes untracked ones.
    /// Ignored files stay. Only after a rescue.
    pub fn restore_worktree(&self, dir: &Path, branch: &str) -> Result<(), GitError> {
        fail::point(Point::BeforeWorktreeReset)?;
        let checkout = ["checkout", "-q", "-f", "--ignore-other-worktrees", branch];
        if run(self.in_dir(dir, &checkout), None).is_err() {
            // An index that was told to overlook files holds on to them: git makes a new one.
            fs_err::remove_file(git2::Repository::open(dir)?.path().join("index"))?;
            run(self.in_dir(dir, &checkout), None)?;
        }
        run(self.in_dir(dir, &["clean", "-fdq"]), None)?;
        fail::point(Point::AfterWorktreeReset)?;
        Ok(())
    }
}

fn is_about_another_worktree(stderr: &str) -> bool {
    stderr.contains("/worktrees/") && (stderr.contains("failed to read") || stderr.contains("could not open"))
}

/// Whether a path of a worktree is only what a running sandbox put there: an empty file in place
/// of one that could change what runs outside, or a folder of nothing else.
fn is_mask(dir: &Path, path: &str) -> bool {
    let full = dir.join(path);
    let Ok(meta) = full.symlink_metadata() else { return false };
    if meta.is_dir() {
        return path == ".claude"
            && fs_err::read_dir(&full).is_ok_and(|entries| {
                entries.flatten().all(|entry| {
                    let name = entry.file_name().to_string_lossy().into_owned();
                    name == "settings.local.json" || is_mask(dir, &format!("{path}/{name}"))
                })
            });
    }
    SANDBOX_MASKS.contains(&path) && (meta.len() == 0 || !meta.is_file()) && !meta.is_symlink()
}

fn parse_status(output: &[u8]) -> WorktreeStatus {
    let mut status = WorktreeStatus { head: None, branch: None, dirty: Vec::new() };
    let mut fields = output.split(|byte| *byte == 0).map(|field| String::from_utf8_lossy(field).into_owned());
    while let Some(field) = fields.next() {
        let path = |n: usize| field.splitn(n, ' ').last().map(str::to_owned);
        match field.split(' ').next() {
            Some("#") => {
                if let Some(head) = field.strip_prefix("# branch.oid ") {
                    status.head = Oid::new(head).ok();
                } else if let Some(branch) = field.strip_prefix("# branch.head ") {
                    status.branch = (branch != "(detached)").then(|| branch.to_owned());
                }
            }
            Some("1") => status.dirty.extend(path(9)),
            Some("2") => {
                status.dirty.extend(path(10));
                // The path before the rename is a field of its own.
                fields.next();
            }
            Some("u") => status.dirty.extend(path(11)),
            Some("?") => status.dirty.extend(path(2)),
            _ => {}
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_change_is_seen() {
        let oid = "a".repeat(40);
        let text = format!(
            "# branch.oid {oid}\0# branch.head loom/api\01 .M N... 100644 100644 100644 {oid} {oid} a b\02 R. N... 100644 100644 100644 {oid} {oid} R100 new\0old\0u UU N... 1 1 1 1 {oid} {oid} {oid} both\0? extra file\0"
        );
        let status = parse_status(text.as_bytes());
        assert_eq!(status.head.unwrap().as_str(), oid);
        assert_eq!(status.branch.as_deref(), Some("loom/api"));
        assert_eq!(status.dirty, ["a b", "new", "both", "extra file"]);
    }
}
