//! A branch that a person may have checked out is only ever moved by
//! fast-forward, and only when nothing of theirs would be touched.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::command::run;
use super::orphans::{Whose, is_git_at_work};
use super::{Git, GitError};
use crate::base::fail::{self, Point};
use crate::base::fs::{sync_dir, write_durable};
use crate::model::fact::base_is_gone;
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
    /// Moves `branch` to `to`.
    pub fn follow(&self, branch: &str, to: &Oid) -> Result<Followed, GitError> {
        let name = format!("refs/heads/{branch}");
        let stayed = |why: String| Ok(Followed::Stayed { why });
        let checkout = self.checked_out_at(branch)?;
        match self.tip(&name)? {
            None => return stayed(base_is_gone(branch)),
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
        let Some(dir) = checkout else {
            self.settle_ref(&name)?;
            return Ok(Followed::Moved);
        };
        let repo = git2::Repository::open(&dir)?;
        if repo.state() != git2::RepositoryState::Clean {
            return stayed(format!("a {:?} is in progress in {}", repo.state(), dir.display()));
        }
        if self.tip(&name)?.as_ref() == Some(to) {
            if let Some(before) = self.interrupted(&dir, to)
                && self.undo_interrupted(&dir, &repo, (&before, to))?
            {
                settle_files(&dir, &repo, (&before, to))?;
            }
            self.settle_ref(&name)?;
            let _ = fs_err::remove_file(self.follow_intent());
            return Ok(Followed::Moved);
        }
        self.fast_forward((&name, &dir), &repo, to)
    }

    /// `git merge --ff-only` in a checkout. The intent lies beside it in the repository, so that
    /// whoever finds a checkout half way knows that it was Loom, and goes on.
    fn fast_forward(
        &self,
        (name, dir): (&str, &Path),
        repo: &git2::Repository,
        to: &Oid,
    ) -> Result<Followed, GitError> {
        const TRIES: usize = 3;
        let stayed = |why: String| Ok(Followed::Stayed { why });
        let intent = self.follow_intent();
        for _ in 0..TRIES {
            if let Some(before) = self.interrupted(dir, to) {
                self.undo_interrupted(dir, repo, (&before, to))?;
            }
            let dirty = tracked_changes(self, dir)?;
            if !dirty.is_empty() {
                let files = crate::base::text::list(dirty.iter().take(10));
                return stayed(format!("{} has changes of yours in {files}", dir.display()));
            }
            let before = repo.head()?.peel_to_commit()?.id().to_string();
            write_durable(&intent, format!("{}\n{before}\n{to}\n", dir.display()).as_bytes())?;
            fail::point(Point::BeforeFollow)?;
            let args = ["merge", "-q", "--ff-only", "--no-overwrite-ignore", "--no-autostash", to.as_str()];
            let why = match run(self.in_dir(dir, &args), None) {
                Ok(_) => {
                    fail::point(Point::AfterFollow)?;
                    settle_files(dir, repo, (&before, to))?;
                    self.sync_refs(name)?;
                    fs_err::remove_file(&intent)?;
                    return Ok(Followed::Moved);
                }
                // Killed in the middle: undone and done again.
                Err(GitError::Failed { code: None, .. }) => continue,
                Err(GitError::Failed { stderr, .. }) => stderr.lines().collect::<Vec<_>>().join(" "),
                Err(error) => return Err(error),
            };
            // Git refused before it changed anything.
            fs_err::remove_file(&intent)?;
            return stayed(why);
        }
        stayed(format!("git was killed {TRIES} times in {}", dir.display()))
    }

    /// A fast-forward that was cut off leaves some files of the new commit under a `HEAD` that is
    /// not there yet, and a power cut leaves empty ones under one that is. When everything that
    /// differs holds the old content, the new one or its beginning, nothing is the user's, and it
    /// is made what `HEAD` says. False: it is not only Loom's, and nothing was touched.
    fn undo_interrupted(&self, dir: &Path, repo: &git2::Repository, ends: (&str, &Oid)) -> Result<bool, GitError> {
        if !self.clear_follow_locks(dir, repo) {
            return Ok(false);
        }
        let head = repo.head()?.peel_to_commit()?.id().to_string();
        let differs = differences(repo, ends)?;
        let is_loom = |path: &String, sides: &Sides| is_half_way(repo, &dir.join(path), *sides);
        let dirty = tracked_changes(self, dir)?;
        if !dirty.iter().all(|path| differs.get(path).is_some_and(|sides| is_loom(path, sides))) {
            return Ok(false);
        }
        fail::point(Point::BeforeFollowRepair)?;
        run(self.in_dir(dir, &["read-tree", "--reset", "-u", &head]), None)?;
        // New files are not tracked yet, and would be in the way.
        let is_there = head == ends.1.as_str();
        for (path, sides) in differs.iter().filter(|(_, (old, _))| old.is_zero() && !is_there) {
            let path_there = dir.join(path);
            if is_file(&path_there) && is_loom(path, sides) {
                fs_err::remove_file(path_there)?;
            }
        }
        fail::point(Point::AfterFollowRepair)?;
        Ok(true)
    }

    fn follow_intent(&self) -> std::path::PathBuf {
        self.common.join("loom-follow")
    }

    /// Where a follow to `to` that was begun in `dir` and not ended had started.
    fn interrupted(&self, dir: &Path, to: &Oid) -> Option<String> {
        let text = fs_err::read_to_string(self.follow_intent()).ok()?;
        let rest = text.strip_prefix(&format!("{}\n", dir.display()))?;
        rest.strip_suffix(&format!("\n{to}\n")).map(str::to_owned)
    }

    /// Removes what a git command that was killed has locked. False: somebody else works here.
    fn clear_follow_locks(&self, dir: &Path, repo: &git2::Repository) -> bool {
        if is_git_at_work(dir, Whose::Others) {
            return false;
        }
        for lock in ["index.lock", "HEAD.lock", "ORIG_HEAD.lock", "AUTO_MERGE.lock"] {
            super::orphans::clear(&repo.path().join(lock));
        }
        if let Ok(head) = repo.head().and_then(|head| head.name().map(str::to_owned)) {
            super::orphans::clear(&self.common.join(format!("{head}.lock")));
        }
        self.clear_packed_refs_lock();
        true
    }
}

/// What changes between two commits.
fn differences(repo: &git2::Repository, (from, to): (&str, &Oid)) -> Result<BTreeMap<String, Sides>, GitError> {
    let tree = |id: &str| repo.find_commit(git2::Oid::from_str(id)?)?.tree();
    let diff = repo.diff_tree_to_tree(Some(&tree(from)?), Some(&tree(to.as_str())?), None)?;
    let mut differs = BTreeMap::new();
    for delta in diff.deltas() {
        let path = delta.new_file().path().or_else(|| delta.old_file().path());
        if let Some(path) = path.and_then(Path::to_str) {
            differs.insert(path.to_owned(), (delta.old_file().id(), delta.new_file().id()));
        }
    }
    Ok(differs)
}

/// Makes the files that a follow wrote durable: git syncs what it keeps, and no checkout.
fn settle_files(dir: &Path, repo: &git2::Repository, ends: (&str, &Oid)) -> Result<(), GitError> {
    let mut folders: BTreeSet<std::path::PathBuf> = BTreeSet::new();
    for path in differences(repo, ends)?.keys().map(|path| dir.join(path)) {
        if std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_file()) {
            fs_err::File::open(&path)?.sync_all()?;
        }
        folders.extend(path.ancestors().skip(1).take_while(|folder| folder.starts_with(dir)).map(Path::to_path_buf));
    }
    for folder in folders.iter().filter(|folder| folder.is_dir()) {
        sync_dir(folder)?;
    }
    Ok(())
}

/// The old and the new content of a path; zero: none.
type Sides = (git2::Oid, git2::Oid);

/// Whether a file is what a checkout from the one side to the other leaves at some moment.
fn is_half_way(repo: &git2::Repository, path: &Path, (old, new): Sides) -> bool {
    // Git removes a file before it writes the new one.
    let Ok(meta) = std::fs::symlink_metadata(path) else { return true };
    let content = if meta.is_symlink() {
        std::fs::read_link(path).map(|target| target.into_os_string().into_encoded_bytes())
    } else {
        fs_err::read(path)
    };
    let Ok(content) = content else { return false };
    let is_old = git2::Oid::hash_object(git2::ObjectType::Blob, &content).is_ok_and(|id| id == old);
    is_old || repo.find_blob(new).is_ok_and(|blob| blob.content().starts_with(&content))
}

fn is_file(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_dir())
}

/// Changed tracked files; one that was renamed is two of them, so that each field holds one path.
fn tracked_changes(git: &Git, dir: &Path) -> Result<Vec<String>, GitError> {
    let args = ["--no-optional-locks", "status", "--porcelain=v1", "-z", "--no-renames", "--untracked-files=no"];
    let output = run(git.in_dir(dir, &args), None)?;
    let text = String::from_utf8_lossy(&output).into_owned();
    Ok(text.split('\0').filter(|field| field.len() > 3).map(|field| field[3..].to_owned()).collect())
}
