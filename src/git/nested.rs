//! Repositories inside of a worktree: submodules, and whatever an agent has made or cloned there.
//! The project's own refs and rescues hold nothing of them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::GitError;
use super::command::{plain, run};
use super::rescue::{has_more_than_git_shows, reflog};

/// Those in the index of `dir` whose checkout is there, by their paths.
pub(super) fn checked_out(dir: &Path, index: &git2::Index) -> Vec<PathBuf> {
    const LINK: u32 = 0o160_000;
    let links = index.iter().filter(|entry| entry.mode == LINK);
    let paths = links.map(|entry| PathBuf::from(OsStr::from_bytes(&entry.path)));
    paths.filter(|path| dir.join(path).join(".git").exists()).collect()
}

/// Whether one of them has something that is nowhere else.
pub(super) fn have_work(dir: &Path, repo: &git2::Repository) -> Result<bool, GitError> {
    let modules = repo.path().join("modules");
    for path in checked_out(dir, &repo.index()?) {
        if has_work(&dir.join(path), &modules)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether what is in `dir` is more than a submodule, kept in `modules`, as its remote has it:
/// changed files, or commits that a branch, a stash or a reflog names and none of its remotes.
fn has_work(dir: &Path, modules: &Path) -> Result<bool, GitError> {
    let repo = git2::Repository::open(dir)?;
    if !repo.path().starts_with(modules) || repo.state() != git2::RepositoryState::Clean {
        return Ok(true);
    }
    let mut options = git2::StatusOptions::new();
    options.include_untracked(true).include_ignored(false);
    if !repo.statuses(Some(&mut options))?.is_empty() || has_more_than_git_shows(dir, &repo)? {
        return Ok(true);
    }
    let mut walk = repo.revwalk()?;
    let mut logs = vec!["HEAD".to_owned()];
    if let Ok(head) = repo.head().and_then(|head| head.peel_to_commit()) {
        walk.push(head.id())?;
    }
    for reference in repo.references()? {
        let reference = reference?;
        let Ok(commit) = reference.peel_to_commit() else { continue };
        if reference.is_remote() {
            walk.hide(commit.id())?;
        } else {
            walk.push(commit.id())?;
            logs.extend(reference.name().map(str::to_owned));
        }
    }
    for commit in logs.iter().flat_map(|name| reflog(&repo.path().join("logs").join(name))) {
        // A reflog outlives what it names.
        if let Ok(id) = git2::Oid::from_str(commit.as_str())
            && repo.find_commit(id).is_ok()
        {
            walk.push(id)?;
        }
    }
    Ok(walk.next().transpose()?.is_some())
}

/// Lets the submodules in `dir` move with it. They and their repositories name each other by
/// relative paths.
pub(super) fn untie(dir: &Path, repo: &git2::Repository) -> Result<(), GitError> {
    let modules = repo.path().join("modules");
    for path in checked_out(dir, &repo.index()?) {
        let dir = dir.join(path);
        let Ok(inner) = git2::Repository::open(&dir) else { continue };
        let config = inner.path().join("config");
        // A repository that an agent has made moves as it is; a link would lead somewhere else.
        if !inner.path().starts_with(&modules) || !config.symlink_metadata()?.is_file() {
            continue;
        }
        untie(&dir, &inner)?;
        // Without it the checkout is where the `.git` file is.
        match run(plain(&["config", "--file", &config.display().to_string(), "--unset-all", "core.worktree"]), None) {
            Ok(_) | Err(GitError::Failed { code: Some(NOTHING_TO_UNSET), .. }) => {}
            Err(error) => return Err(error),
        }
        let pointer = format!("gitdir: {}\n", inner.path().display());
        crate::base::fs::write_durable(&dir.join(".git"), pointer.as_bytes())?;
    }
    Ok(())
}

/// How `git config --unset` says that there was no such setting: git-config(1).
const NOTHING_TO_UNSET: i32 = 5;
