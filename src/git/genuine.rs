//! Whether the proof checkout holds what the commit says. Git believes the name of an object, and
//! whoever may commit can put other content under an old name: in a file of its own, in a pack, or
//! somewhere that git reads and another reader does not. So the files themselves are held against
//! the names that the tree gives them, whatever way their content came.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::command::output;
use super::{GitError, Own};
use crate::model::ids::Oid;

/// Paths with the ids of their content.
type Files = BTreeMap<Vec<u8>, git2::Oid>;

/// Files by their paths: the id of the content, and how git noted the file that it wrote.
type Noted = BTreeMap<Vec<u8>, (git2::Oid, String)>;

/// What a tree lists, and the files that were looked at.
#[derive(Default)]
pub struct Listing {
    tree: Option<Oid>,
    files: Files,
    genuine: Noted,
}

impl Listing {
    /// Looks at `tree`, which was just checked out: whether the checkout's index lists what the tree
    /// does, and every file that git has written since the last look.
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
        let diff = repo.diff_tree_to_tree(old.as_ref(), Some(&tree_of(tree)?), Some(&mut options));
        let diff = diff?;
        let mut files = before.files;
        let path = |file: &git2::DiffFile| file.path_bytes().map(<[u8]>::to_vec).unwrap_or_default();
        for gone in diff.deltas().filter(|delta| !delta.new_file().exists()) {
            files.remove(&path(&gone.old_file()));
        }
        for new in diff.deltas().map(|delta| delta.new_file()).filter(git2::DiffFile::exists) {
            files.insert(path(&new), new.id());
        }
        let entries = own.entries()?;
        let noted: Noted = entries.iter().map(|entry| (entry.path.clone(), (entry.id, note(entry)))).collect();
        if noted.len() != files.len() || noted.iter().any(|(path, (id, _))| files.get(path) != Some(id)) {
            return Err(GitError::Forged("a folder that was checked out".to_owned()));
        }
        let is_new = |entry: &&git2::IndexEntry| before.genuine.get(&entry.path) != noted.get(&entry.path);
        own.verify_files(&entries.iter().filter(is_new).collect::<Vec<_>>())?;
        *self = Listing { tree: Some(tree.clone()), files, genuine: noted };
        Ok(())
    }
}

/// What git notes of a file changes whenever somebody writes it.
fn note(entry: &git2::IndexEntry) -> String {
    let (mtime, ctime) = (entry.mtime, entry.ctime);
    format!(
        "{:o} {} {} {}.{} {}.{}",
        entry.mode,
        entry.ino,
        entry.file_size,
        mtime.seconds(),
        mtime.nanoseconds(),
        ctime.seconds(),
        ctime.nanoseconds()
    )
}

impl Own {
    /// Looks at the content of these files of the checkout.
    pub(super) fn verify_files(&self, entries: &[&git2::IndexEntry]) -> Result<(), GitError> {
        let forged = |entry: &git2::IndexEntry| GitError::Forged(format!("`{}`", String::from_utf8_lossy(&entry.path)));
        let (attributes, others): (Vec<_>, Vec<_>) = entries
            .iter()
            .filter(|entry| !self.is_as_stored(entry))
            .partition(|entry| entry.path == ATTRIBUTES || entry.path.ends_with(b"/.gitattributes"));
        // They decide what the others may look like: they may differ in the ends of lines alone.
        for entry in attributes {
            let text = fs_err::read(self.place_of(entry))?;
            let unix: Vec<u8> = text
                .iter()
                .enumerate()
                .filter(|(at, _)| !text[*at..].starts_with(b"\r\n"))
                .map(|(_, byte)| *byte)
                .collect();
            if git2::Oid::hash_object(git2::ObjectType::Blob, &unix)? != entry.id {
                return Err(forged(entry));
            }
        }
        if others.is_empty() {
            return Ok(());
        }
        // The ends of lines, `ident`, an encoding: git turns them back, without reading any object.
        let mut paths = Vec::new();
        for entry in &others {
            if entry.path.contains(&b'\n') || !self.place_of(entry).symlink_metadata().is_ok_and(|meta| meta.is_file())
            {
                return Err(forged(entry));
            }
            paths.extend_from_slice(&entry.path);
            paths.push(b'\n');
        }
        let ids = output(self.in_proof(&["hash-object", "--stdin-paths"]), Some(&paths))?;
        let ids = String::from_utf8_lossy(&ids.stdout).into_owned();
        let mut ids = ids.lines();
        match others.iter().find(|entry| ids.next() != Some(entry.id.to_string().as_str())) {
            Some(entry) => Err(forged(entry)),
            None => Ok(()),
        }
    }

    /// Whether a file is in the checkout byte for byte as its name says.
    fn is_as_stored(&self, entry: &git2::IndexEntry) -> bool {
        const LINK: u32 = 0o120_000;
        const MODULE: u32 = 0o160_000;
        let place = self.place_of(entry);
        let id = match entry.mode {
            MODULE => return true,
            LINK => std::fs::read_link(&place)
                .ok()
                .and_then(|to| git2::Oid::hash_object(git2::ObjectType::Blob, to.as_os_str().as_bytes()).ok()),
            _ if place.symlink_metadata().is_ok_and(|meta| meta.is_file()) => {
                git2::Oid::hash_file(git2::ObjectType::Blob, &place).ok()
            }
            _ => None,
        };
        id == Some(entry.id)
    }

    fn place_of(&self, entry: &git2::IndexEntry) -> std::path::PathBuf {
        self.proof.join(OsStr::from_bytes(&entry.path))
    }
}

const ATTRIBUTES: &[u8] = b".gitattributes";
