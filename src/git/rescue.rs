//! Rescue: before a tree or a branch is removed, reset or replaced, what is in
//! it is saved under `refs/loom/rescue/<stage>/<n>`: files that are not
//! committed, and commits that no ref would keep. What git cannot hold is kept
//! as the folder that it is (`aside.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;

use super::command::{line, run};
use super::{Git, GitError, nested};
use crate::base::fail::{self, Point};
use crate::model::ids::{Oid, StageId};
use crate::model::limits::RESCUE_BYTES_MAX;

/// One thing that was put aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rescue {
    pub name: String,
    pub commit: Oid,
    pub summary: String,
    /// When it was saved, in seconds since the epoch; of a commit, when that was made.
    pub time: i64,
}

/// Where the refs of one stage are.
fn prefix(stage: &StageId) -> String {
    format!("refs/loom/rescue/{stage}/")
}

impl Git {
    /// Saves everything in the worktree at `dir` that no ref has: changed, staged and untracked
    /// files, whatever state the index is in, commits on no branch, and commits that were
    /// amended or reset away. Ignored files are not saved. None: every byte is kept already.
    ///
    /// # Errors
    /// When it cannot be saved. Then it must not be removed.
    pub fn rescue_worktree(&self, stage: &StageId, dir: &Path) -> Result<Option<String>, GitError> {
        let status = self.status(dir)?;
        if status.dirty.is_empty() && !has_more_than_git_shows(dir, &git2::Repository::open(dir)?)? {
            return self.rescue_history(stage, dir);
        }
        self.check_size(dir, &status.dirty)?;
        fail::point(Point::BeforeRescue)?;
        let tree = self.tree_of_files(dir, status.head.as_ref())?;
        let mut parents: Vec<Oid> = status.head.iter().cloned().collect();
        // What was staged and then changed again is nowhere else.
        let staged = self.staged_tree(dir).filter(|staged| *staged != tree);
        let head_tree = status.head.as_ref().map(|head| self.tree_of(head)).transpose()?;
        if let Some(staged) = staged.filter(|staged| Some(staged) != head_tree.as_ref()) {
            parents.push(self.commit_tree(dir, &staged, &parents, &format!("Staged work of stage {stage}\n"))?);
        }
        let lost = self.unreachable(&self.history_of(stage, dir), None)?;
        parents.extend(lost.into_iter().filter(|commit| Some(commit) != status.head.as_ref()));
        let saved = self.commit_tree(dir, &tree, &parents, &format!("Uncommitted work of stage {stage}\n"))?;
        fail::point(Point::RescueCommitted)?;
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
        let tree =
            Oid::new(tree.clone()).map_err(|_| GitError::Unexpected { args: "write-tree".to_owned(), output: tree })?;
        let parents = [base.clone()];
        let message = format!("Uncommitted work of stage {stage}\n");
        let saved = self.commit_tree(&self.project, &tree, &parents, &message)?;
        self.save(stage, &saved).map(Some)
    }

    /// Saves the commits of a worktree that no ref has: those on no branch, and those that were
    /// amended or reset away.
    pub fn rescue_history(&self, stage: &StageId, dir: &Path) -> Result<Option<String>, GitError> {
        let lost = self.unreachable(&self.history_of(stage, dir), None)?;
        self.save_all(stage, dir, lost)
    }

    /// Saves the commits that only `branch` (short name) and its reflog have.
    pub fn rescue_branch(&self, stage: &StageId, branch: &str) -> Result<Option<String>, GitError> {
        let name = format!("refs/heads/{branch}");
        let mut commits = reflog(&self.common.join("logs").join(&name));
        commits.extend(self.tip(&name)?);
        let lost = self.unreachable(&commits, Some(&name))?;
        self.save_all(stage, &self.project, lost)
    }

    /// Saves a commit unless a ref has it.
    pub fn rescue_commit(&self, stage: &StageId, commit: &Oid, but: Option<&str>) -> Result<Option<String>, GitError> {
        let lost = self.unreachable(std::slice::from_ref(commit), but)?;
        self.save_all(stage, &self.project, lost)
    }

    /// Saves those of `commits` that no ref has.
    pub(super) fn rescue_commits(&self, stage: &StageId, commits: &[Oid]) -> Result<Option<String>, GitError> {
        self.save_all(stage, &self.project, self.unreachable(commits, None)?)
    }

    /// Saves what only the reflog of `branch` (short name) still has.
    pub(super) fn rescue_reflog(&self, stage: &StageId, branch: &str) -> Result<Option<String>, GitError> {
        self.rescue_commits(stage, &reflog(&self.common.join("logs/refs/heads").join(branch)))
    }

    fn save_all(&self, stage: &StageId, dir: &Path, lost: Vec<Oid>) -> Result<Option<String>, GitError> {
        match lost.as_slice() {
            [] => Ok(None),
            [one] => self.save(stage, one).map(Some),
            [newest, ..] => {
                let tree = self.tree_of(newest)?;
                let saved = self.commit_tree(dir, &tree, &lost, &format!("Left-over commits of stage {stage}\n"))?;
                self.save(stage, &saved).map(Some)
            }
        }
    }

    /// Every commit that `HEAD` of a worktree or the stage's branch was ever at.
    pub(super) fn history_of(&self, stage: &StageId, dir: &Path) -> Vec<Oid> {
        let mut commits = Vec::new();
        if let Ok(repo) = git2::Repository::open(dir) {
            let head = repo.head().and_then(|head| head.peel_to_commit());
            commits.extend(head.map(|head| super::refs::oid(head.id())));
            commits.extend(reflog(&repo.path().join("logs/HEAD")));
        }
        let branch = crate::model::plan::stage_branch(stage);
        commits.extend(reflog(&self.common.join("logs/refs/heads").join(branch)));
        commits
    }

    /// Those of `commits` that no ref but `but` has, without those that another one of them has,
    /// newest first.
    pub fn unreachable(&self, commits: &[Oid], but: Option<&str>) -> Result<Vec<Oid>, GitError> {
        let repo = self.repo()?;
        let known = |oid: &Oid| git2::Oid::from_str(oid.as_str()).ok().filter(|id| repo.find_commit(*id).is_ok());
        let mut candidates: BTreeSet<git2::Oid> = commits.iter().filter_map(known).collect();
        let mut kept = Vec::new();
        for reference in repo.references()? {
            let reference = reference?;
            if but.is_some_and(|but| reference.name().ok() == Some(but)) {
                continue;
            }
            match reference.target().filter(|_| reference.is_branch()) {
                Some(tip) => kept.push(tip),
                None => kept.extend(reference.peel_to_commit().map(|commit| commit.id())),
            }
        }
        candidates.retain(|id| !kept.contains(id));
        if candidates.is_empty() {
            return Ok(Vec::new());
        }
        let mut walk = repo.revwalk()?;
        walk.set_sorting(git2::Sort::TOPOLOGICAL | git2::Sort::TIME)?;
        candidates.iter().try_for_each(|id| walk.push(*id))?;
        for id in &kept {
            // A branch whose commit is gone, or that names something else, keeps nothing.
            let _ = walk.hide(*id);
        }
        let (mut tips, mut below) = (Vec::new(), BTreeSet::new());
        for id in walk {
            let id = id?;
            // Children come before their parents.
            if !below.contains(&id) {
                tips.push(super::refs::oid(id));
            }
            below.extend(repo.find_commit(id)?.parent_ids());
        }
        Ok(tips)
    }

    /// The tree of everything in `dir` that is not ignored, through an index of its own.
    fn tree_of_files(&self, dir: &Path, head: Option<&Oid>) -> Result<Oid, GitError> {
        let temp = tempfile::Builder::new().prefix("loom-rescue-").tempdir()?;
        let index = temp.path().join("index");
        if let Some(head) = head {
            run(self.with_index(dir, &index, &["read-tree", head.as_str()]), None)?;
        }
        run(self.with_index(dir, &index, &["add", "-A", "--", "."]), None)?;
        if let Some(path) = nested::checked_out(dir, &git2::Index::open(&index)?).first() {
            return Err(GitError::Unsavable(format!("`{}` is a repository of its own", path.display())));
        }
        self.write_tree(dir, &index)
    }

    /// The tree of what is staged; none while a merge is unresolved.
    fn staged_tree(&self, dir: &Path) -> Option<Oid> {
        let temp = tempfile::Builder::new().prefix("loom-rescue-").tempdir().ok()?;
        let index = temp.path().join("index");
        fs_err::copy(git2::Repository::open(dir).ok()?.path().join("index"), &index).ok()?;
        self.write_tree(dir, &index).ok()
    }

    fn with_index(&self, dir: &Path, index: &Path, args: &[&str]) -> Command {
        let mut command = self.in_dir(dir, args);
        command.env("GIT_INDEX_FILE", index);
        command
    }

    fn write_tree(&self, dir: &Path, index: &Path) -> Result<Oid, GitError> {
        let text = line(run(self.with_index(dir, index, &["write-tree"]), None)?);
        Oid::new(text.clone()).map_err(|_| GitError::Unexpected { args: "write-tree".to_owned(), output: text })
    }

    fn commit_tree(&self, dir: &Path, tree: &Oid, parents: &[Oid], message: &str) -> Result<Oid, GitError> {
        let mut commit = self.in_dir(dir, &["commit-tree", "--no-gpg-sign", tree.as_str()]);
        for parent in parents {
            commit.args(["-p", parent.as_str()]);
        }
        let (name, email) = self.read()?.identity();
        for role in ["AUTHOR", "COMMITTER"] {
            commit.env(format!("GIT_{role}_NAME"), &name).env(format!("GIT_{role}_EMAIL"), &email);
        }
        let text = line(run(commit, Some(message.as_bytes()))?);
        Oid::new(text.clone()).map_err(|_| GitError::Unexpected { args: "commit-tree".to_owned(), output: text })
    }

    fn save(&self, stage: &StageId, commit: &Oid) -> Result<String, GitError> {
        let prefix = prefix(stage);
        let known = self.refs_below(&prefix)?;
        if let Some((name, _)) = known.iter().find(|(_, saved)| saved == commit) {
            self.settle_ref(name)?;
            return Ok(name.clone());
        }
        let number = |name: &str| name.rsplit('/').next().and_then(|n| n.parse::<u32>().ok()).unwrap_or(0);
        let next = known.iter().map(|(name, _)| number(name)).max().unwrap_or(0) + 1;
        let name = format!("{prefix}{next}");
        // An agent's own git may not have synced what it wrote.
        rustix::fs::syncfs(fs_err::File::open(&self.common)?.file()).map_err(std::io::Error::from)?;
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
            let text = format!("{} MiB of uncommitted work are more than a rescue takes", total >> 20);
            return Err(GitError::Unsavable(text));
        }
        Ok(())
    }

    /// Everything that was put aside, oldest first within a stage.
    pub fn rescues(&self) -> Result<Vec<Rescue>, GitError> {
        let mut rescues = BTreeMap::new();
        for (name, commit) in self.refs_below("refs/loom/rescue/")? {
            let (summary, time) = (self.summary(&commit)?, self.read()?.time_of(&commit)?);
            let (stage, n) = name.rsplit_once('/').unwrap_or((&name, ""));
            let place = (stage.to_owned(), n.parse::<u32>().unwrap_or(0));
            rescues.insert(place, Rescue { name, commit, summary, time });
        }
        Ok(rescues.into_values().collect())
    }
}

/// Whether a worktree may hold work that `git status` does not show: files that the index was
/// told to overlook, or what a repository inside of it has.
pub(super) fn has_more_than_git_shows(dir: &Path, repo: &git2::Repository) -> Result<bool, GitError> {
    const OVERLOOKED: (u16, u16) = (1 << 15, 1 << 14);
    let is_overlooked = |entry: git2::IndexEntry| {
        let flagged = entry.flags & OVERLOOKED.0 != 0 || entry.flags_extended & OVERLOOKED.1 != 0;
        flagged && dir.join(OsStr::from_bytes(&entry.path)).symlink_metadata().is_ok()
    };
    Ok(repo.index()?.iter().any(is_overlooked) || nested::have_work(dir, repo)?)
}

/// Every commit that a worktree was at, by what git keeps of it after its folder is gone.
pub(super) fn left_in(admin: &Path) -> Vec<Oid> {
    let mut commits = reflog(&admin.join("logs/HEAD"));
    commits.extend(fs_err::read_to_string(admin.join("HEAD")).ok().and_then(|head| Oid::new(head.trim()).ok()));
    commits
}

/// Every commit that a reflog names, newest first.
pub(super) fn reflog(path: &Path) -> Vec<Oid> {
    let bytes = fs_err::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let ids = |line: &str| -> Vec<Oid> {
        let mut ids: Vec<Oid> = line.split(' ').take(2).filter_map(|id| Oid::new(id).ok()).collect();
        ids.reverse();
        ids
    };
    text.lines().rev().flat_map(ids).collect()
}
