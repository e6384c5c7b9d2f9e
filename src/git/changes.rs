//! What differs between two trees, read in this process.

use super::{Git, GitError};
use crate::model::ids::Oid;
use crate::model::judge::{Change, Side};

/// Content of a file that is looked into, at most, in bytes.
const TEXT_BYTES_MAX: usize = 2 << 20;

/// The differences of two trees, with their contents at hand.
pub struct Changes {
    repo: git2::Repository,
    pub list: Vec<Change>,
}

impl Changes {
    /// The content of a file as text; none when it is too large, or gone.
    pub fn text(&self, side: &Side) -> Option<String> {
        let blob = self.repo.find_blob(git2::Oid::from_str(&side.id).ok()?).ok()?;
        (blob.content().len() <= TEXT_BYTES_MAX).then(|| String::from_utf8_lossy(blob.content()).into_owned())
    }
}

impl Git {
    /// What leads from the tree of commit `from` to `tree`; renames are a deletion and a new file.
    pub fn changes(&self, from: &Oid, tree: &Oid) -> Result<Changes, GitError> {
        let repo = self.repo()?;
        let list = {
            let old = repo.find_commit(git2::Oid::from_str(from.as_str())?)?.tree()?;
            let new = repo.find_tree(git2::Oid::from_str(tree.as_str())?)?;
            let mut options = git2::DiffOptions::new();
            options.include_typechange(true).ignore_submodules(false).skip_binary_check(true);
            let diff = repo.diff_tree_to_tree(Some(&old), Some(&new), Some(&mut options))?;
            let side = |file: git2::DiffFile<'_>| {
                file.exists().then(|| Side { mode: file.mode().into(), id: file.id().to_string() })
            };
            let change = |delta: git2::DiffDelta<'_>| {
                let file = if delta.new_file().exists() { delta.new_file() } else { delta.old_file() };
                let path = file.path_bytes().map(|path| String::from_utf8_lossy(path).into_owned());
                Change { path: path.unwrap_or_default(), old: side(delta.old_file()), new: side(delta.new_file()) }
            };
            diff.deltas().map(change).collect()
        };
        Ok(Changes { repo, list })
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
