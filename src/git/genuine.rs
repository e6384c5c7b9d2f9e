//! Whether objects are what their names say. Git believes the name of a loose
//! object, and whoever may commit may put other content under an old name: a
//! checkout then holds what no commit says. What the proof checkout holds is
//! therefore held against names that were computed again, in this process.

use std::collections::BTreeMap;

use super::{GitError, Own};
use crate::model::ids::Oid;

/// Paths with the ids of their content.
type Files = BTreeMap<Vec<u8>, git2::Oid>;

/// What a tree lists, as far as its objects were looked at.
#[derive(Default)]
pub struct Listing {
    tree: Option<Oid>,
    files: Files,
}

impl Listing {
    /// Looks at `tree`, which was just checked out: at what is different from the tree before, and at
    /// whether the checkout's index lists what the tree does.
    ///
    /// # Errors
    /// [`GitError::Forged`] when something is not what its name says.
    pub fn verify(&mut self, own: &Own, tree: &Oid) -> Result<(), GitError> {
        let before = std::mem::take(self);
        let repo = own.objects()?;
        let tree_of = |id: &Oid| repo.find_tree(git2::Oid::from_str(id.as_str())?);
        let old = before.tree.as_ref().map(tree_of).transpose()?;
        let mut options = git2::DiffOptions::new();
        options.ignore_submodules(false).skip_binary_check(true);
        // Objects are named anew when they are read: only what somebody may have written is read whole.
        let diff = repo.diff_tree_to_tree(old.as_ref(), Some(&tree_of(tree)?), Some(&mut options));
        let diff = diff?;
        let mut files = before.files;
        let path = |file: &git2::DiffFile| file.path_bytes().map(<[u8]>::to_vec).unwrap_or_default();
        for gone in diff.deltas().filter(|delta| !delta.new_file().exists()) {
            files.remove(&path(&gone.old_file()));
        }
        for new in diff.deltas().map(|delta| delta.new_file()).filter(git2::DiffFile::exists) {
            if new.mode() != git2::FileMode::Commit && (old.is_some() || own.is_loose(new.id())) {
                repo.find_blob(new.id())?;
            }
            files.insert(path(&new), new.id());
        }
        if own.entries()? != files {
            return Err(GitError::Forged("a folder that was checked out".to_owned()));
        }
        *self = Listing { tree: Some(tree.clone()), files };
        Ok(())
    }
}

impl Own {
    /// Looks at the content of these files of the checkout's index.
    pub(super) fn verify_files(&self, paths: &[String]) -> Result<(), GitError> {
        if paths.is_empty() {
            return Ok(());
        }
        let (repo, files) = (self.objects()?, self.entries()?);
        for id in paths.iter().filter_map(|path| files.get(path.as_bytes())) {
            repo.find_blob(*id)?;
        }
        Ok(())
    }
}
