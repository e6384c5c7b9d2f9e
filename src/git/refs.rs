//! Refs and ancestry, read in this process; moves by compare-and-swap.

use std::io;
use std::path::Path;

use super::{Git, GitError};
use crate::base::fail::{self, Point};
use crate::base::fs::{read_file, sync_dir};
use crate::model::ids::Oid;

pub(super) fn oid(id: git2::Oid) -> Oid {
    Oid::new(id.to_string()).unwrap_or_else(|_| unreachable!("git2 prints object ids as lower-case hex"))
}

/// An open repository, to read refs from.
pub struct Refs {
    repo: git2::Repository,
}

impl Refs {
    /// The commit a ref points to now; none when there is no such ref.
    pub fn tip(&self, name: &str) -> Result<Option<Oid>, GitError> {
        match self.repo.find_reference(name) {
            Ok(reference) => Ok(Some(oid(reference.peel_to_commit()?.id()))),
            Err(error) if error.code() == git2::ErrorCode::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// As [`Refs::tip`], without a look at what it points to: for a picture. Whoever holds these refs
    /// for long holds no pack. None also when it cannot be read.
    pub fn target(&self, name: &str) -> Option<Oid> {
        Some(oid(self.repo.find_reference(name).ok()?.resolve().ok()?.target()?))
    }
}

/// The repository, opened for a few questions one after the other. Not for long, and not while others
/// are at work: as long as it is open, a pack that somebody replaces is the old one.
pub struct Reader {
    pub(super) repo: git2::Repository,
}

impl Reader {
    /// Whether `old` is `new` or one of its ancestors. Unknown commits are nobody's ancestors.
    pub fn is_ancestor(&self, old: &Oid, new: &Oid) -> Result<bool, GitError> {
        if old == new {
            return Ok(true);
        }
        let (old, new) = (git2::Oid::from_str(old.as_str())?, git2::Oid::from_str(new.as_str())?);
        if self.repo.find_commit(old).is_err() {
            return Ok(false);
        }
        Ok(self.repo.graph_descendant_of(new, old)?)
    }

    /// The tree of `commit`; an error when there is no such commit.
    pub fn tree_of(&self, commit: &Oid) -> Result<Oid, GitError> {
        Ok(oid(self.repo.find_commit(git2::Oid::from_str(commit.as_str())?)?.tree_id()))
    }

    /// When `commit` was committed, in seconds since the epoch.
    pub fn time_of(&self, commit: &Oid) -> Result<i64, GitError> {
        Ok(self.repo.find_commit(git2::Oid::from_str(commit.as_str())?)?.time().seconds())
    }

    /// Name and email of whoever commits here, or Loom's own where git knows none.
    pub fn identity(&self) -> (String, String) {
        let read = || -> Option<(String, String)> {
            let config = self.repo.config().ok()?.snapshot().ok()?;
            Some((config.get_str("user.name").ok()?.to_owned(), config.get_str("user.email").ok()?.to_owned()))
        };
        read().unwrap_or_else(|| ("Loom".to_owned(), "loom@localhost".to_owned()))
    }
}

/// The files that git tracks in the checkout around `dir`, sorted, as paths from its top. None
/// outside of a checkout, and in one that tracks nothing yet. Names that are not UTF-8 are left out.
pub fn tracked_files(dir: &std::path::Path) -> Option<Vec<String>> {
    let index = git2::Repository::discover(dir).ok()?.index().ok()?;
    let files: Vec<String> = index.iter().filter_map(|entry| String::from_utf8(entry.path).ok()).collect();
    (!files.is_empty()).then_some(files)
}

impl Git {
    pub(super) fn repo(&self) -> Result<git2::Repository, GitError> {
        self.check_plain()?;
        Ok(git2::Repository::open(&self.common)?)
    }

    /// The commit a ref points to; none when there is no such ref.
    pub fn tip(&self, name: &str) -> Result<Option<Oid>, GitError> {
        self.open_refs()?.tip(name)
    }

    /// As [`Git::tip`] of a branch, without opening the repository when the ref is a file of its
    /// own, or no ref is anything else: for whoever asks once and must be quick.
    pub fn tip_quickly(&self, name: &str) -> Result<Option<Oid>, GitError> {
        match fs_err::read_to_string(self.common.join(name)) {
            Ok(text) => match Oid::new(text.trim_end()) {
                Ok(oid) => Ok(Some(oid)),
                Err(_) => self.tip(name),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.has_only_loose_refs() => Ok(None),
            Err(_) => self.tip(name),
        }
    }

    fn has_only_loose_refs(&self) -> bool {
        let is_missing = |name: &str| !self.common.join(name).exists();
        is_missing("packed-refs") && is_missing("reftable")
    }

    /// The refs, for whoever asks often.
    pub fn open_refs(&self) -> Result<Refs, GitError> {
        Ok(Refs { repo: self.repo()? })
    }

    /// The repository, opened for more than one question.
    pub fn read(&self) -> Result<Reader, GitError> {
        Ok(Reader { repo: self.repo()? })
    }

    /// See [`Reader::is_ancestor`].
    pub fn is_ancestor(&self, old: &Oid, new: &Oid) -> Result<bool, GitError> {
        if old == new { Ok(true) } else { self.read()?.is_ancestor(old, new) }
    }

    /// The project around `dir`, and the commit that is checked out there.
    pub fn checked_out(dir: &std::path::Path) -> Option<(Git, Oid)> {
        let head = git2::Repository::discover(dir).ok()?.head().ok()?.peel_to_commit().ok()?.id();
        Some((Git::find(dir).ok()?, oid(head)))
    }

    /// The commit that is checked out in a worktree.
    pub fn head_of(&self, dir: &std::path::Path) -> Result<Oid, GitError> {
        Ok(oid(git2::Repository::open(dir)?.head()?.peel_to_commit()?.id()))
    }

    /// See [`Reader::tree_of`].
    pub fn tree_of(&self, commit: &Oid) -> Result<Oid, GitError> {
        self.read()?.tree_of(commit)
    }

    /// Full names of all refs below `prefix`, with their commits, sorted.
    pub fn refs_below(&self, prefix: &str) -> Result<Vec<(String, Oid)>, GitError> {
        let repo = self.repo()?;
        let mut found = Vec::new();
        for reference in repo.references_glob(&format!("{prefix}*"))? {
            let reference = reference?;
            if let (Ok(name), Ok(commit)) = (reference.name(), reference.peel_to_commit()) {
                found.push((name.to_owned(), oid(commit.id())));
            }
        }
        found.sort();
        Ok(found)
    }

    /// First line of a commit's message and its time, for lists.
    pub fn summary(&self, commit: &Oid) -> Result<String, GitError> {
        let repo = self.repo()?;
        let commit = repo.find_commit(git2::Oid::from_str(commit.as_str())?)?;
        Ok(commit.summary().ok().flatten().unwrap_or_default().to_owned())
    }

    /// Moves `name` from `old` (none: must not exist) to `new`, durably.
    ///
    /// # Errors
    /// When the ref is not at `old`: then nothing has changed.
    pub fn swap_ref(&self, name: &str, old: Option<&Oid>, new: &Oid, why: &str) -> Result<(), GitError> {
        let zero = "0".repeat(new.as_str().len());
        let old = old.map_or(zero.as_str(), Oid::as_str);
        fail::point(Point::BeforeRefUpdate)?;
        self.run(&["update-ref", "-m", why, "--no-deref", name, new.as_str(), old])?;
        fail::point(Point::RefNotSynced)?;
        self.sync_refs(name)?;
        fail::point(Point::AfterRefUpdate)?;
        Ok(())
    }

    /// Makes a ref durable that is where it should be already: whoever moved it may have been
    /// killed before its folder was synced.
    pub fn settle_ref(&self, name: &str) -> Result<(), GitError> {
        self.sync_refs(name)
    }

    /// Applies `update-ref --stdin` instructions in one transaction. Durable below `folders`.
    pub(super) fn ref_transaction(
        &self,
        instructions: impl FnOnce() -> Result<String, GitError>,
        folders: &[&str],
    ) -> Result<(), GitError> {
        let command = self.in_dir(&self.project, &["update-ref", "-m", "loom", "--no-deref", "--stdin"]);
        fail::point(Point::BeforeRefTransaction)?;
        super::command::run_told(command, instructions)?;
        fail::point(Point::AfterRefTransaction)?;
        fail::point(Point::RefNotSynced)?;
        self.sync_folders(folders)
    }

    /// Syncs the folders a ref's rename happened in: git syncs the file and not its name.
    pub(super) fn sync_refs(&self, name: &str) -> Result<(), GitError> {
        self.sync_folders(&[name])
    }

    /// Syncs these folders of refs and all above them, each once.
    fn sync_folders(&self, names: &[&str]) -> Result<(), GitError> {
        let reftable = self.common.join("reftable");
        if reftable.is_dir() {
            sync_dir(&reftable)?;
        }
        let top = self.common.join("refs");
        let mut folders = std::collections::BTreeSet::new();
        for name in names {
            let path = self.common.join(name);
            folders.extend(path.ancestors().take_while(|dir| dir.starts_with(&top)).map(Path::to_path_buf));
        }
        folders.iter().filter(|dir| dir.is_dir()).try_for_each(|dir| Ok(sync_dir(dir)?))
    }

    /// The checkout in which `branch` (short name) is checked out, if one has it.
    pub fn checked_out_at(&self, branch: &str) -> Result<Option<std::path::PathBuf>, GitError> {
        let wanted = format!("ref: refs/heads/{branch}");
        let is_at = |head: &Path| read_file(head).is_ok_and(|text| text.trim_ascii() == wanted.as_bytes());
        if is_at(&self.common.join("HEAD")) {
            return Ok(Some(self.project.clone()));
        }
        let Ok(entries) = fs_err::read_dir(self.common.join("worktrees")) else { return Ok(None) };
        for entry in entries.flatten() {
            if is_at(&entry.path().join("HEAD")) {
                let pointer = read_file(&entry.path().join("gitdir"))?;
                let dir = std::path::PathBuf::from(String::from_utf8_lossy(&pointer).trim());
                return Ok(dir.parent().map(Path::to_path_buf));
            }
        }
        Ok(None)
    }
}
