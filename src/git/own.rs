//! Loom's own repository: no configuration, no hooks and no refs that anybody
//! else wrote, the user's objects by `GIT_OBJECT_DIRECTORY`. Merges, landing
//! commits and the proof checkout happen here, so that nothing an agent put
//! into `.git/config` or an index can change a verdict.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::command::{line, output, plain, plain_in, run};
use super::{Git, GitError};
use crate::base::fail::{self, Point};
use crate::base::fs::{remove_tree, write_atomic};
use crate::model::ids::Oid;

/// The repository in the cache folder, with its one checkout.
#[derive(Debug, Clone)]
pub struct Own {
    git_dir: PathBuf,
    index: PathBuf,
    objects: PathBuf,
    /// The proof checkout.
    pub proof: PathBuf,
    /// The home of the checks.
    pub home: PathBuf,
    has_attr_source: bool,
}

/// The outcome of a merge without a checkout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Merged {
    Clean { tree: Oid },
    Conflict { files: Vec<String> },
}

/// A commit to be made, with everything pinned: the same input gives the same id.
pub struct Commit<'a> {
    pub tree: &'a Oid,
    pub parents: &'a [&'a Oid],
    pub message: &'a str,
    /// Seconds since the epoch.
    pub date: i64,
}

impl Own {
    /// Opens or creates the repository below `cache`.
    pub fn open(git: &Git, cache: &Path) -> Result<Own, GitError> {
        let has_attr_source = git.version().is_ok_and(|version| version >= (2, 41));
        let own = Own {
            git_dir: cache.join("repo.git"),
            index: cache.join("proof.index"),
            objects: git.common.join("objects"),
            proof: cache.join("proof"),
            home: cache.join("home"),
            has_attr_source,
        };
        fs_err::create_dir_all(&own.proof)?;
        for (dir, is_bare) in [(own.git_dir.clone(), true), (own.proof.join(".git"), false)] {
            if !is_whole(&dir) {
                own.init(&dir, is_bare)?;
            }
        }
        // Nobody else uses this index: its lock is that of a git that was killed.
        super::orphans::clear(&cache.join("proof.index.lock"));
        Ok(own)
    }

    /// The folder that all of it lies in.
    pub(super) fn cache(&self) -> &Path {
        self.git_dir.parent().unwrap_or(&self.git_dir)
    }

    /// Makes a repository at `dir`, whole or not at all.
    fn init(&self, dir: &Path, is_bare: bool) -> Result<(), GitError> {
        let parent = dir.parent().unwrap_or(dir);
        let temp = tempfile::Builder::new().prefix(".init-").tempdir_in(parent)?;
        let mut command = plain(&["init", "-q", "--template=", "--object-format=sha1"]);
        if is_bare {
            command.arg("--bare");
        }
        command.arg(temp.path());
        run(command, None)?;
        let made = if is_bare { temp.path().to_path_buf() } else { temp.path().join(".git") };
        fs_err::create_dir_all(made.join("objects/info"))?;
        fs_err::write(made.join("objects/info/alternates"), format!("{}\n", self.objects.display()))?;
        // What an init that was cut off has left here is nobody's.
        if dir.exists() {
            remove_tree(dir)?;
        }
        fs_err::rename(made, dir)?;
        Ok(())
    }

    fn shallow(&self) -> PathBuf {
        self.objects.with_file_name("shallow")
    }

    /// Whether the history ends somewhere in between.
    pub(super) fn is_shallow(&self) -> bool {
        self.shallow().exists()
    }

    pub(super) fn command(&self, args: &[&str]) -> Command {
        self.command_in(&self.git_dir, args)
    }

    fn command_in(&self, dir: &Path, args: &[&str]) -> Command {
        let mut command = plain_in(dir, args);
        command
            .env("GIT_DIR", &self.git_dir)
            .env("GIT_OBJECT_DIRECTORY", &self.objects)
            // Where the history of a shallow clone ends; nowhere when there is no such file.
            .env("GIT_SHALLOW_FILE", self.shallow())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_ATTR_NOSYSTEM", "1")
            // Git reads these below the user's home without being told to.
            .env("GIT_CONFIG_COUNT", "2")
            .env("GIT_CONFIG_KEY_0", "core.attributesFile")
            .env("GIT_CONFIG_VALUE_0", "/dev/null")
            .env("GIT_CONFIG_KEY_1", "core.excludesFile")
            .env("GIT_CONFIG_VALUE_1", "/dev/null");
        command
    }

    pub(super) fn in_proof(&self, args: &[&str]) -> Command {
        let mut command = self.command_in(&self.proof, args);
        command.env("GIT_WORK_TREE", &self.proof).env("GIT_INDEX_FILE", &self.index);
        command
    }

    /// As with a git older than 2.41.
    #[cfg(test)]
    pub fn with_an_older_git(self) -> Own {
        Own { has_attr_source: false, ..self }
    }

    /// Whether a [merge](Own::merge) leaves its first commit in the proof checkout.
    pub fn merges_in_the_checkout(&self) -> bool {
        !self.has_attr_source
    }

    /// Merges `commit` into `tip` by the attributes of `tip`, with built-in drivers only.
    pub fn merge(&self, tip: &Oid, commit: &Oid) -> Result<Merged, GitError> {
        let merge = ["merge-tree", "--write-tree", "-z", "--name-only", "--no-messages", tip.as_str(), commit.as_str()];
        let command = if self.has_attr_source {
            let source = format!("--attr-source={tip}");
            let mut args = vec![source.as_str()];
            args.extend(merge);
            self.command(&args)
        } else {
            // Older git reads attributes from the checkout: let it be the tip's.
            self.check_out(&self.tree_of(tip)?)?;
            self.in_proof(&merge)
        };
        let output = output(command, None)?;
        let mut fields =
            output.stdout.split(|byte| *byte == 0).map(|field| String::from_utf8_lossy(field).into_owned());
        let tree = fields.next().unwrap_or_default();
        match (output.status.code(), Oid::new(tree.trim())) {
            (Some(0), Ok(tree)) => {
                self.verify_merge(tip, commit, &tree)?;
                Ok(Merged::Clean { tree })
            }
            (Some(1), Ok(_)) => {
                let mut files: Vec<String> = fields.filter(|file| !file.is_empty()).collect();
                files.dedup();
                Ok(Merged::Conflict { files })
            }
            _ => Err(GitError::Unexpected {
                args: "merge-tree".to_owned(),
                output: String::from_utf8_lossy(&output.stderr).into_owned(),
            }),
        }
    }

    fn tree_of(&self, commit: &Oid) -> Result<Oid, GitError> {
        let name = format!("{commit}^{{tree}}");
        let text = line(run(self.command(&["rev-parse", "--verify", "-q", &name]), None)?);
        Oid::new(text.clone()).map_err(|_| GitError::Unexpected { args: "rev-parse".to_owned(), output: text })
    }

    /// Makes a commit as `identity` (name, email).
    pub fn commit(&self, commit: &Commit, (name, email): (&str, &str)) -> Result<Oid, GitError> {
        let mut command = self.command(&["commit-tree", commit.tree.as_str()]);
        for parent in commit.parents {
            command.args(["-p", parent.as_str()]);
        }
        let date = format!("@{} +0000", commit.date);
        for role in ["AUTHOR", "COMMITTER"] {
            command
                .env(format!("GIT_{role}_NAME"), name)
                .env(format!("GIT_{role}_EMAIL"), email)
                .env(format!("GIT_{role}_DATE"), &date);
        }
        fail::point(Point::BeforeCommit)?;
        let text = line(run(command, Some(commit.message.as_bytes()))?);
        fail::point(Point::AfterCommit)?;
        Oid::new(text.clone()).map_err(|_| GitError::Unexpected { args: "commit-tree".to_owned(), output: text })
    }

    /// Makes the proof checkout hold exactly `tree`: tracked files restored, untracked
    /// ones removed, ignored ones (caches) kept.
    pub fn check_out(&self, tree: &Oid) -> Result<(), GitError> {
        fs_err::create_dir_all(&self.proof)?;
        fail::point(Point::BeforeCheckout)?;
        // Not synced: what a power cut leaves of it is not what was recorded, and is made anew.
        run(self.in_proof(&["-c", "core.fsync=none", "read-tree", "--reset", "-u", tree.as_str()]), None)?;
        if self.remove_untracked().is_err() {
            // It goes with everything else, caches too.
            remove_tree(&self.proof)?;
            fs_err::create_dir_all(&self.proof)?;
            self.init(&self.proof.join(".git"), false)?;
            run(self.in_proof(&["-c", "core.fsync=none", "read-tree", "--reset", "-u", tree.as_str()]), None)?;
        }
        fail::point(Point::AfterCheckout)?;
        Ok(())
    }

    /// The files of the tree that is checked out, from its top.
    pub fn files(&self) -> Result<Vec<String>, GitError> {
        let index = git2::Index::open(&self.index)?;
        Ok(index.iter().map(|entry| String::from_utf8_lossy(&entry.path).into_owned()).collect())
    }

    /// The files of the tree that is checked out, each with the id of its content.
    pub fn blobs(&self) -> Result<Vec<(String, String)>, GitError> {
        let index = git2::Index::open(&self.index)?;
        let blob = |entry: git2::IndexEntry| (String::from_utf8_lossy(&entry.path).into_owned(), entry.id.to_string());
        Ok(index.iter().map(blob).collect())
    }

    /// The same objects, read in this process.
    pub(super) fn objects(&self) -> Result<git2::Repository, GitError> {
        Ok(git2::Repository::open_bare(&self.git_dir)?)
    }

    /// The files of the index.
    pub(super) fn entries(&self) -> Result<Vec<git2::IndexEntry>, GitError> {
        Ok(git2::Index::open(&self.index)?.iter().collect())
    }

    /// Puts the tracked files of the checkout back to `tree` and leaves the others. Says which
    /// were not as they are in it.
    pub fn put_back(&self, tree: &Oid) -> Result<Vec<String>, GitError> {
        use git2::Status;
        let changed = self.changes(Status::WT_MODIFIED | Status::WT_DELETED | Status::WT_TYPECHANGE);
        // Not synced: what a power cut leaves of it is not what was recorded, and is made anew.
        run(self.in_proof(&["-c", "core.fsync=none", "read-tree", "--reset", "-u", tree.as_str()]), None)?;
        let changed = changed?;
        if !changed.is_empty() {
            let entries = self.entries()?;
            let is_changed = |entry: &&git2::IndexEntry| changed.contains(&entry.path);
            self.verify_files(&entries.iter().filter(is_changed).collect::<Vec<_>>())?;
        }
        Ok(changed.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect())
    }

    /// Where it is noted which setup has run in the checkout. It goes with the checkout.
    pub fn set_up_marker(&self) -> PathBuf {
        self.proof.join(".git/loom-set-up")
    }

    /// Lets git commands of the checks see `commit` as `HEAD`, through a repository of
    /// their own that Loom never reads.
    pub fn show_head(&self, commit: &Oid) -> Result<(), GitError> {
        let shown = self.proof.join(".git");
        // New files: a check may have put links or pipes in their place.
        write_atomic(&shown.join("HEAD"), format!("{commit}\n").as_bytes())?;
        write_atomic(&shown.join("index"), &fs_err::read(&self.index)?)?;
        Ok(())
    }

    /// Whether there are files that are neither tracked nor ignored. When in doubt, there are.
    pub fn has_untracked(&self) -> bool {
        self.changes(git2::Status::WT_NEW).map_or(true, |paths| !paths.is_empty())
    }

    /// Removes files that are neither tracked nor ignored, with the folders that hold nothing else.
    /// Not by `git clean`, which takes minutes for folders that are deep.
    fn remove_untracked(&self) -> Result<(), GitError> {
        for path in self.changes(git2::Status::WT_NEW)? {
            let path = path.strip_suffix(b"/").unwrap_or(&path);
            super::kept::remove(&self.proof.join(OsStr::from_bytes(path)))?;
        }
        Ok(())
    }

    /// Whether the checkout is as the last [`Own::check_out`] left it, but for ignored files.
    pub fn is_untouched(&self) -> bool {
        self.changes(git2::Status::all()).is_ok_and(|paths| paths.is_empty())
    }

    /// The paths of the checkout that are not as in the index, in one of these ways.
    fn changes(&self, wanted: git2::Status) -> Result<Vec<Vec<u8>>, git2::Error> {
        let repo = git2::Repository::open_bare(&self.git_dir)?;
        repo.set_workdir(&self.proof, false)?;
        repo.set_index(&mut git2::Index::open(&self.index)?)?;
        let mut options = git2::StatusOptions::new();
        options.show(git2::StatusShow::Workdir).include_untracked(true).include_ignored(false);
        options.exclude_submodules(true);
        let statuses = repo.statuses(Some(&mut options))?;
        let found = statuses.iter().filter(|entry| entry.status().intersects(wanted));
        Ok(found.map(|entry| entry.path_bytes().to_vec()).collect())
    }
}

/// Whether a repository of Loom's own is there. Nothing in it was synced: after a power cut its
/// files may be empty, and it is made again.
fn is_whole(dir: &Path) -> bool {
    ["HEAD", "config", "objects/info/alternates"]
        .iter()
        .all(|name| fs_err::read(dir.join(name)).is_ok_and(|bytes| bytes.first().is_some_and(|first| *first != 0)))
}
