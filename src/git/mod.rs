//! Git. Reads of refs and ancestry happen in this process (git2); whatever
//! writes goes through the git CLI by the one spawner in `command.rs`, so that
//! filters, sparse checkouts and worktrees behave as users expect. What is only
//! made durable is written here: the anchor's blob, and the pack of a small
//! submission.
//!
//! Three kinds of commands, by whose configuration they see:
//! - in the user's repository, hooks off, by a fingerprinted configuration;
//! - in Loom's own repository (`own.rs`), which borrows the user's objects and has
//!   no configuration that anybody else wrote: merges, commits, the proof checkout;
//! - the agent's own git, which is none of this module's business.

mod anchor;
mod aside;
mod changes;
mod command;
mod fence;
mod fingerprint;
mod follow;
mod genuine;
mod history;
mod kept;
mod nested;
mod orphans;
mod own;
mod pack;
mod plain;
mod refs;
mod rescue;
mod worktree;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub use anchor::{ANCHOR, Anchored};
pub use aside::{Farewell, kept_folders, sweep};
pub use changes::{Changes, Snapshot};
pub use command::GitError;
pub use fence::Fence;
pub use fingerprint::fingerprint;
pub use follow::Followed;
pub use genuine::Listing;
pub use orphans::wait_for_commands_of;
pub use own::{Commit, Merged, Own};
pub use refs::{Reader, Refs, tracked_files};
pub use rescue::Rescue;
pub use worktree::WorktreeStatus;

use crate::model::ids::Oid;

/// The user's repository.
#[derive(Debug, Clone)]
pub struct Git {
    /// The top of the main checkout.
    pub project: PathBuf,
    /// The folder that all worktrees share: objects, refs, configuration.
    pub common: PathBuf,
    /// `core.excludesFile` for worktrees; hides Loom's own files.
    pub excludes: PathBuf,
}

/// Why a folder cannot be a project.
#[derive(Debug, thiserror::Error)]
pub enum NoProject {
    #[error("`{0}` is not in a git repository")]
    NotARepository(PathBuf),
    #[error("`{0}` is a bare repository: there is no checkout to work from")]
    Bare(PathBuf),
    #[error("`{0}` has no commit yet")]
    NoCommit(PathBuf),
    #[error("`{0}` is not on a branch (detached HEAD)")]
    Detached(PathBuf),
    #[error("`{0}` is on `{1}`, a branch of Loom: go to a checkout of your own")]
    OwnBranch(PathBuf, String),
    #[error("git is not installed, or not on PATH")]
    NoGit,
    #[error("git {0} is too old: 2.38 is the oldest that can merge without a checkout")]
    GitTooOld(String),
    #[error("a branch named `loom` exists: git cannot keep `loom/<stage>` beside it")]
    BranchLoom,
    /// Why, as the library says it.
    #[error("`{0}` is a repository of a kind that Loom cannot read: {1}")]
    UnknownKind(PathBuf, String),
    /// How many objects of the newest commit are missing.
    #[error("`{0}` is a partial clone: {1} of its newest commit's files are not here, and Loom fetches nothing")]
    Partial(PathBuf, usize),
    #[error("the repository cannot be read: {0}")]
    Unreadable(String),
}

/// Where `HEAD` of a checkout is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub branch: String,
    pub commit: Oid,
}

impl Git {
    /// Finds the project that `dir` is in: the main checkout, also from inside a linked worktree.
    pub fn find(dir: &Path) -> Result<Git, NoProject> {
        if let Some(git) = Git::find_quickly(dir) {
            return Ok(git);
        }
        let repo = git2::Repository::discover(dir).map_err(|error| match error.code() {
            git2::ErrorCode::NotFound => NoProject::NotARepository(dir.to_path_buf()),
            _ => NoProject::UnknownKind(dir.to_path_buf(), error.message().to_owned()),
        })?;
        let common = repo.commondir().to_path_buf();
        let common = common.canonicalize().unwrap_or(common);
        if repo.is_bare() {
            return Err(NoProject::Bare(common));
        }
        let project = if repo.is_worktree() {
            let main = git2::Repository::open(&common).map_err(|error| NoProject::Unreadable(error.to_string()))?;
            main.workdir().ok_or_else(|| NoProject::Bare(common.clone()))?.to_path_buf()
        } else {
            repo.workdir().ok_or_else(|| NoProject::Bare(common.clone()))?.to_path_buf()
        };
        let project = project.canonicalize().unwrap_or(project);
        Ok(Git::at(project, common))
    }

    /// A project that Loom has worked in, found by its folders alone: commands that only
    /// talk to the daemon need not open the repository.
    fn find_quickly(dir: &Path) -> Option<Git> {
        let dir = dir.canonicalize().ok()?;
        let top = dir.ancestors().find(|dir| dir.join(".git").exists())?;
        let common = top.join(".git");
        let is_main = common.join("HEAD").is_file() && common.join("objects").is_dir();
        (is_main && top.join(".work/journal.jsonl").is_file()).then(|| Git::at(top.to_path_buf(), common))
    }

    fn at(project: PathBuf, common: PathBuf) -> Git {
        let excludes = crate::base::layout::Layout::new(&project).excludes();
        Git { project, common, excludes }
    }

    /// The branch and commit that a plan would start from: those of the checkout around `here`,
    /// which may be a linked worktree.
    pub fn head(&self, here: &Path) -> Result<Head, NoProject> {
        let unreadable = |error: git2::Error| NoProject::Unreadable(error.to_string());
        let repo = git2::Repository::discover(here).map_err(unreadable)?;
        let top: PathBuf = repo.workdir().unwrap_or(&self.project).components().collect();
        if repo.head_detached().map_err(unreadable)? {
            return Err(NoProject::Detached(top));
        }
        let head = repo.head().map_err(|_| NoProject::NoCommit(top.clone()))?;
        let commit = head.peel_to_commit().map_err(unreadable)?;
        let branch = head.shorthand().map_err(unreadable)?.to_owned();
        if branch.starts_with("loom/") {
            return Err(NoProject::OwnBranch(top, branch));
        }
        Ok(Head { branch, commit: refs::oid(commit.id()) })
    }

    /// Refuses what cannot work before anything is written.
    pub fn check_ready(&self) -> Result<(), NoProject> {
        let version = self.version()?;
        if version < (2, 38) {
            return Err(NoProject::GitTooOld(format!("{}.{}", version.0, version.1)));
        }
        if self.tip("refs/heads/loom").ok().flatten().is_some() {
            return Err(NoProject::BranchLoom);
        }
        self.check_whole()
    }

    /// The proof checkout borrows the user's objects, and asks no remote for those that a partial
    /// clone has left there.
    fn check_whole(&self) -> Result<(), NoProject> {
        let is_partial = || {
            let config = git2::Repository::open(&self.common)?.config()?;
            let has_promisor = config.entries(Some(r"^remote\..*\.promisor$"))?.next().is_some();
            Ok::<bool, git2::Error>(has_promisor)
        };
        if !is_partial().unwrap_or(false) {
            return Ok(());
        }
        let list = self.run(&["rev-list", "--objects", "--missing=print", "--no-walk", "HEAD"]);
        let list = list.map_err(|error| NoProject::Unreadable(error.to_string()))?;
        match list.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"?")).count() {
            0 => Ok(()),
            missing => Err(NoProject::Partial(self.project.clone(), missing)),
        }
    }

    /// The filters (gitattributes(5)) that the top of `commit` gives to files: `lfs`, `git-crypt`.
    /// They are set up in somebody's configuration, and the proof knows nobody's.
    pub fn filters(&self, commit: &Oid) -> Result<BTreeSet<String>, GitError> {
        let repo = self.repo()?;
        let tree = repo.find_commit(git2::Oid::from_str(commit.as_str())?)?.tree()?;
        let Some(entry) = tree.get_name(".gitattributes") else { return Ok(BTreeSet::new()) };
        let Ok(attributes) = repo.find_blob(entry.id()) else { return Ok(BTreeSet::new()) };
        let text = String::from_utf8_lossy(attributes.content()).into_owned();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let set = lines.flat_map(|line| line.split_whitespace().skip(1));
        Ok(set.filter_map(|one| one.strip_prefix("filter=")).map(str::to_owned).collect())
    }

    /// Major and minor version of the git CLI.
    pub fn version(&self) -> Result<(u32, u32), NoProject> {
        let output = command::plain(&["--version"]).output().map_err(|_| NoProject::NoGit)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut numbers = text.trim_start_matches("git version ").split(['.', ' ']).map_while(|n| n.parse().ok());
        Ok((numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)))
    }
}
