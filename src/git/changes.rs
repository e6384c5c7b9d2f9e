//! What differs between two trees, read in this process.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{Git, GitError, Reader};
use crate::model::ids::Oid;
use crate::model::judge::{Change, Side};

/// Content of a file that is looked into, at most, in bytes.
const TEXT_BYTES_MAX: usize = 2 << 20;

/// The differences of two trees, with their contents at hand.
pub struct Changes {
    repo: git2::Repository,
    /// The tree before.
    old: git2::Oid,
    pub list: Vec<Change>,
}

/// The tree of `from`, and what leads from it to `tree`.
fn list(repo: &git2::Repository, from: &Oid, tree: &Oid) -> Result<(git2::Oid, Vec<Change>), GitError> {
    let old = repo.find_commit(git2::Oid::from_str(from.as_str())?)?.tree()?;
    let new = repo.find_tree(git2::Oid::from_str(tree.as_str())?)?;
    let mut options = git2::DiffOptions::new();
    options.include_typechange(true).ignore_submodules(false).skip_binary_check(true);
    let diff = repo.diff_tree_to_tree(Some(&old), Some(&new), Some(&mut options))?;
    let side =
        |file: git2::DiffFile<'_>| file.exists().then(|| Side { mode: file.mode().into(), id: file.id().to_string() });
    let change = |delta: git2::DiffDelta<'_>| {
        let file = if delta.new_file().exists() { delta.new_file() } else { delta.old_file() };
        let path = file.path_bytes().map(|path| String::from_utf8_lossy(path).into_owned());
        Change { path: path.unwrap_or_default(), old: side(delta.old_file()), new: side(delta.new_file()) }
    };
    Ok((old.id(), diff.deltas().map(change).collect()))
}

impl Reader {
    /// Looks at the content of everything that `tree` has and the commit `from` has not.
    ///
    /// # Errors
    /// [`GitError::Forged`] when something is not what its name says.
    pub fn verify_changes(&self, from: &Oid, tree: &Oid) -> Result<(), GitError> {
        let (_, changes) = list(&self.repo, from, tree)?;
        for side in changes.iter().filter_map(|change| change.new.as_ref()).filter(|side| side.mode != 0o160_000) {
            self.repo.find_blob(git2::Oid::from_str(&side.id)?)?;
        }
        Ok(())
    }
}

impl Changes {
    /// Mode and content of what stood at `path` before.
    pub fn before(&self, path: &str) -> Option<(u32, String)> {
        let entry = self.repo.find_tree(self.old).ok()?.get_path(Path::new(path)).ok()?;
        let mode = u32::try_from(entry.filemode()).ok()?;
        let text = self.text(&Side { mode, id: entry.id().to_string() })?;
        Some((mode, text))
    }

    /// The content of a file as text; none when it is too large, or gone.
    pub fn text(&self, side: &Side) -> Option<String> {
        let blob = self.repo.find_blob(git2::Oid::from_str(&side.id).ok()?).ok()?;
        (blob.content().len() <= TEXT_BYTES_MAX).then(|| String::from_utf8_lossy(blob.content()).into_owned())
    }
}

/// The files of one tree.
pub struct Snapshot {
    repo: git2::Repository,
    ids: BTreeMap<String, git2::Oid>,
    /// Their paths, sorted.
    pub files: Vec<String>,
}

impl Snapshot {
    /// The content of a file as text; none when it is not there, or too large.
    pub fn text(&self, path: &str) -> Option<String> {
        let blob = self.repo.find_blob(*self.ids.get(path)?).ok()?;
        (blob.content().len() <= TEXT_BYTES_MAX).then(|| String::from_utf8_lossy(blob.content()).into_owned())
    }
}

impl Git {
    /// The files of a tree, links and submodules left out.
    pub fn snapshot(&self, tree: &Oid) -> Result<Snapshot, GitError> {
        let repo = self.repo()?;
        let mut ids = BTreeMap::new();
        repo.find_tree(git2::Oid::from_str(tree.as_str())?)?.walk(git2::TreeWalkMode::PreOrder, |folder, entry| {
            if entry.kind() == Some(git2::ObjectType::Blob) && entry.filemode() != 0o120_000 {
                let name = String::from_utf8_lossy(entry.name_bytes());
                ids.insert(format!("{folder}{name}"), entry.id());
            }
            git2::TreeWalkResult::Ok
        })?;
        let files = ids.keys().cloned().collect();
        Ok(Snapshot { repo, ids, files })
    }

    /// What leads from the tree of commit `from` to `tree`; renames are a deletion and a new file.
    pub fn changes(&self, from: &Oid, tree: &Oid) -> Result<Changes, GitError> {
        let Reader { repo } = self.read()?;
        let (old, list) = list(&repo, from, tree)?;
        Ok(Changes { repo, old, list })
    }

    /// Those of `paths` that are ignored by the `.gitignore` files of the commit `of`, or by the user's own.
    pub fn ignored(&self, of: &Oid, paths: &[&str]) -> Result<Vec<String>, GitError> {
        let repo = self.repo()?;
        let tree = repo.find_commit(git2::Oid::from_str(of.as_str())?)?.tree()?;
        // A folder that holds nothing but these files.
        let folder = tempfile::tempdir()?;
        let mut seen = BTreeSet::new();
        for path in paths {
            let folders = path.match_indices('/').map(|(at, _)| &path[..=at]);
            for name in std::iter::once("").chain(folders).map(|folder| format!("{folder}.gitignore")) {
                let Ok(entry) = tree.get_path(Path::new(&name)) else { continue };
                let Some(blob) = repo.find_blob(entry.id()).ok().filter(|_| seen.insert(name.clone())) else {
                    continue;
                };
                let file = folder.path().join(&name);
                fs_err::create_dir_all(file.parent().unwrap_or(folder.path()))?;
                fs_err::write(file, blob.content())?;
            }
        }
        // The user's own rules are where the repository says.
        let rules = self.repo()?;
        rules.set_workdir(folder.path(), false)?;
        let is_ignored = |path: &&&str| rules.is_path_ignored(Path::new(path)).unwrap_or(true);
        Ok(paths.iter().filter(is_ignored).map(|path| (*path).to_owned()).collect())
    }

    /// The difference of these paths, as a person reads it.
    pub fn diff_text(&self, from: &Oid, to: &Oid, paths: &[String]) -> Result<String, GitError> {
        let mut args = vec![
            "diff",
            "--no-color",
            "--no-ext-diff",
            "--no-textconv",
            "--stat",
            "--patch",
            from.as_str(),
            to.as_str(),
            "--",
        ];
        args.extend(paths.iter().map(String::as_str));
        let mut command = self.in_dir(&self.project, &[]);
        command.env("GIT_LITERAL_PATHSPECS", "1").args(args);
        Ok(String::from_utf8_lossy(&super::command::run(command, None)?).into_owned())
    }
}
