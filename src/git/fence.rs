//! What an agent in a sandbox sees and may change of the folder that all
//! worktrees share. Git needs to write there: objects, the branch it is on,
//! its own worktree's files. Everything else is hidden, or shown and frozen,
//! so that no ref, index or hook of anybody else can be reached.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{Git, GitError};

/// Keeps a folder of refs from being removed when git packs what is in it. Git takes the
/// name for a lock and not for a ref, and no stage or plan starts with `_`.
pub(super) const PLACEHOLDER: &str = "_keep.lock";

/// Folders of the shared one that are not frozen as a whole.
const OPEN_FOLDERS: [&str; 4] = ["objects", "refs", "logs", "worktrees"];
/// Its lasting files. What comes and goes cannot be frozen: the sandbox would put an empty
/// file in its place, where the user's git would stumble over it. That none is added is seen to
/// where the sandbox is made.
const FILES: [&str; 6] = ["HEAD", "config", "description", "index", "packed-refs", "shallow"];
/// In a worktree's own folder: where git, also that of Loom and the user's, finds the rest, and
/// settings that name programs.
const LINKS: [&str; 3] = ["commondir", "config.worktree", "gitdir"];
/// How a file of packed refs begins.
const PACKED_REFS: &[u8] = b"# pack-refs with: peeled fully-peeled sorted \n";

/// Paths of the shared folder, by what the sandbox does with them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fence {
    pub writable: Vec<PathBuf>,
    /// Empty for the agent, but for what is writable or shown in them.
    pub hidden: Vec<PathBuf>,
    /// Read-only in a hidden or writable folder; may come and go.
    pub shown: Vec<PathBuf>,
    /// Read-only; there now.
    pub frozen: Vec<PathBuf>,
}

impl Git {
    /// The fence around the session in `worktree` on `loom/<own>`. `siblings` are the other
    /// stages, whose branches may come to be while it lives.
    ///
    /// # Errors
    /// When the folders cannot be read or the placeholders cannot be made.
    pub fn fence(&self, worktree: &Path, own: &str, siblings: &[&str]) -> Result<Fence, GitError> {
        // Without the slash at its end: the client compares names.
        let own_folder: PathBuf = git2::Repository::open(worktree)?.path().components().collect();
        let [objects, refs, logs] = ["objects", "refs", "logs"].map(|name| self.common.join(name));
        let (heads, loom) = (refs.join("heads"), refs.join("heads/loom"));
        self.hold_folders(&refs, &loom, &logs)?;
        self.hold_links(&own_folder, &objects)?;
        let mut shown = without(&refs, &["heads"])?;
        shown.extend(without(&heads, &["loom"])?);
        shown.sort();
        // In a folder that is open for the own branch, others can be hidden, or frozen where they
        // are sure to stay: in place of what is gone the sandbox would put an empty ref.
        let mut others: Vec<PathBuf> = siblings.iter().map(|stage| loom.join(stage)).collect();
        others.extend(without(&loom, &[own, "_plan", PLACEHOLDER])?.into_iter().filter(|path| !is_lock(path)));
        others.sort();
        others.dedup();
        let mut frozen: Vec<PathBuf> = FILES.iter().map(|name| self.common.join(name)).collect();
        frozen.retain(|path| path.is_file());
        frozen.extend(without(&self.common, &OPEN_FOLDERS)?.into_iter().filter(|path| path.is_dir()));
        frozen.push(loom.join("_plan"));
        frozen.extend(["pack", "info"].map(|name| objects.join(name)));
        frozen.extend(LINKS.map(|name| own_folder.join(name)));
        Ok(Fence {
            writable: vec![own_folder, objects, loom, logs.join("refs/heads/loom")],
            hidden: [refs, logs, self.common.join("worktrees")].into_iter().chain(others).collect(),
            shown,
            frozen,
        })
    }

    /// What says where configuration and objects are read from can only be frozen where it is.
    fn hold_links(&self, own_folder: &Path, objects: &Path) -> io::Result<()> {
        for name in LINKS {
            OpenOptions::new().create(true).append(true).open(own_folder.join(name))?;
        }
        ["pack", "info"].into_iter().try_for_each(|name| fs_err::create_dir_all(objects.join(name)))
    }

    /// Makes what the sandbox can only open or close when it is there.
    fn hold_folders(&self, refs: &Path, loom: &Path, logs: &Path) -> io::Result<()> {
        // Loom's own refs may come to be while the session lives: an open folder would be the agent's.
        for dir in [refs.join("loom"), loom.to_path_buf(), loom.join("_plan")] {
            fs_err::create_dir_all(&dir)?;
            OpenOptions::new().create(true).append(true).open(dir.join(PLACEHOLDER))?;
        }
        fs_err::create_dir_all(logs.join("refs/heads/loom"))?;
        match OpenOptions::new().create_new(true).write(true).open(self.common.join("packed-refs")) {
            Ok(mut file) => file.write_all(PACKED_REFS),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// What is in `dir` but for these names.
fn without(dir: &Path, names: &[&str]) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs_err::read_dir(dir)? {
        let entry = entry?;
        if !names.iter().any(|name| entry.file_name() == **name) {
            paths.push(entry.path());
        }
    }
    Ok(paths)
}

fn is_lock(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "lock")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_and_its_own_files_are_all_that_is_open() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let git = |args: &[&str]| {
            let mut command = super::super::command::plain(args);
            command.current_dir(&root).env("GIT_CONFIG_GLOBAL", "/dev/null");
            for name in ["GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"] {
                command.env(name, "a@b");
            }
            assert!(command.output().unwrap().status.success(), "{args:?}");
        };
        git(&["init", "--quiet", "--initial-branch=main"]);
        git(&["commit", "--quiet", "--allow-empty", "--message=x"]);
        git(&["branch", "loom/_plan/p"]);
        git(&["branch", "loom/web"]);
        git(&["branch", "feature/x"]);
        git(&["worktree", "add", "--quiet", "-b", "loom/api", ".worktrees/api"]);
        let found = Git::find(&root).unwrap();
        let fence = found.fence(&root.join(".worktrees/api"), "api", &["web", "later"]).unwrap();
        let shown = |paths: &[PathBuf]| -> Vec<String> {
            let mut names: Vec<String> =
                paths.iter().map(|path| path.strip_prefix(&found.common).unwrap().display().to_string()).collect();
            names.sort();
            names
        };
        assert_eq!(shown(&fence.writable), ["logs/refs/heads/loom", "objects", "refs/heads/loom", "worktrees/api"]);
        let hidden = ["logs", "refs", "refs/heads/loom/later", "refs/heads/loom/web", "worktrees"];
        assert_eq!(shown(&fence.hidden), hidden);
        assert_eq!(shown(&fence.shown), ["refs/heads/feature", "refs/heads/main", "refs/loom", "refs/tags"]);
        let frozen = shown(&fence.frozen);
        assert!(frozen.contains(&"refs/heads/loom/_plan".to_owned()), "{frozen:?}");
        for name in ["commondir", "config.worktree", "gitdir"] {
            assert!(frozen.contains(&format!("worktrees/api/{name}")), "{frozen:?}");
        }
        for name in ["HEAD", "config", "hooks", "index", "info", "objects/info", "objects/pack", "packed-refs"] {
            // A worktree that was never read has no index; templates may lack the folders.
            let is_there = found.common.join(name).exists();
            assert_eq!(frozen.iter().any(|frozen| frozen == name), is_there, "{name}: {frozen:?}");
        }
        // Neither packing nor the placeholder changes what git sees.
        git(&["pack-refs", "--all", "--prune"]);
        assert!(found.common.join("refs/heads/loom/_plan").is_dir());
        let refs: Vec<String> = found.refs_below("refs/heads/").unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(refs.len(), 5, "{refs:?}");
    }
}
