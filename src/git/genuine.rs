//! Whether the proof checkout holds what the commit says. Git believes the name of an object, and
//! whoever may commit can put other content under an old name: in a file of its own, in a pack, or
//! somewhere that git reads and another reader does not. So the files themselves are held against
//! the names that the tree gives them, whatever way their content came.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::command::{output, run};
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

/// By path: whether it was there before, and what is there now.
type Changes = BTreeMap<Vec<u8>, (bool, Option<(git2::Oid, git2::FileMode)>)>;

impl Own {
    /// Whether `merged` has everything that one side alone has changed since both began. Git may have
    /// read something else than the commits say; here every tree is named again.
    ///
    /// # Errors
    /// [`GitError::Forged`] when it has not.
    pub(super) fn verify_merge(&self, tip: &Oid, commit: &Oid, merged: &Oid) -> Result<(), GitError> {
        let repo = self.objects()?;
        let id = |oid: &Oid| git2::Oid::from_str(oid.as_str());
        // Where history was cut off is written in the user's repository, which is not read here.
        let bases = if self.is_shallow() {
            let list = run(self.command(&["merge-base", "--all", tip.as_str(), commit.as_str()]), None)?;
            String::from_utf8_lossy(&list).lines().map(git2::Oid::from_str).collect::<Result<Vec<_>, _>>()?
        } else {
            repo.merge_bases(id(tip)?, id(commit)?)?.to_vec()
        };
        // Git merges several of them first.
        let [base] = bases[..] else { return Ok(()) };
        let base = repo.find_commit(base)?.tree()?;
        let side = |commit: &Oid| changes(&repo, &base, &repo.find_commit(id(commit)?)?.tree()?);
        let (ours, theirs) = (side(tip)?, side(commit)?);
        let merged = changes(&repo, &base, &repo.find_tree(id(merged)?)?)?;
        let is_kept = |path: &Vec<u8>, (was_there, now): &(bool, Option<_>)| match merged.get(path) {
            // A file that is new may be one that was renamed, with what the other side did to it.
            Some((_, there)) => there == now || !was_there && there.is_some(),
            None => false,
        };
        for (one, other) in [(&ours, &theirs), (&theirs, &ours)] {
            let mut alone = one.iter().filter(|(path, _)| !other.contains_key(*path));
            if let Some((path, _)) = alone.find(|(path, change)| !is_kept(path, change)) {
                return Err(GitError::Forged(format!("`{}`, as it was merged,", String::from_utf8_lossy(path))));
            }
        }
        Ok(())
    }
}

fn changes(repo: &git2::Repository, from: &git2::Tree, to: &git2::Tree) -> Result<Changes, GitError> {
    let mut options = git2::DiffOptions::new();
    options.ignore_submodules(false).skip_binary_check(true).include_typechange(true);
    let diff = repo.diff_tree_to_tree(Some(from), Some(to), Some(&mut options))?;
    let change = |delta: git2::DiffDelta| {
        let (old, new) = (delta.old_file(), delta.new_file());
        let path = new.path_bytes().or(old.path_bytes()).map(<[u8]>::to_vec).unwrap_or_default();
        (path, (old.exists(), new.exists().then(|| (new.id(), new.mode()))))
    };
    Ok(diff.deltas().map(change).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::dice::Dice;
    use crate::git::{Git, Merged};

    /// Lines of a file, by its path.
    type Tree = BTreeMap<String, Vec<String>>;

    const FOLDERS: [&str; 3] = ["", "a/", "b/c/"];

    fn commit(repo: &git2::Repository, files: &Tree, parents: &[&Oid]) -> Oid {
        let mut index = git2::Index::new().unwrap();
        for (path, lines) in files {
            let id = repo.blob(lines.concat().as_bytes()).unwrap();
            let zero = git2::IndexTime::new(0, 0);
            let mode = if lines.len() % 2 == 0 { 0o100_644 } else { 0o100_755 };
            let entry = git2::IndexEntry {
                ctime: zero,
                mtime: zero,
                dev: 0,
                ino: 0,
                mode,
                uid: 0,
                gid: 0,
                file_size: 0,
                id,
                flags: 0,
                flags_extended: 0,
                path: path.clone().into_bytes(),
            };
            index.add(&entry).unwrap();
        }
        let tree = repo.find_tree(index.write_tree_to(repo).unwrap()).unwrap();
        let who = git2::Signature::new("n", "e@e", &git2::Time::new(0, 0)).unwrap();
        let parents: Vec<_> =
            parents.iter().map(|id| repo.find_commit(git2::Oid::from_str(id.as_str()).unwrap()).unwrap()).collect();
        let parents: Vec<_> = parents.iter().collect();
        super::super::refs::oid(repo.commit(None, &who, &who, "x", &tree, &parents).unwrap())
    }

    /// Adds, changes, renames (with or without a change) and deletes.
    fn work(files: &Tree, dice: &mut Dice) -> Tree {
        let mut files = files.clone();
        for _ in 0..=dice.roll(3) {
            let old = files.keys().nth(dice.roll(files.len().max(1))).cloned();
            let new = format!("{}{}", FOLDERS[dice.roll(3)], dice.roll(20));
            let mut lines = old.as_ref().map(|old| files[old].clone()).unwrap_or_default();
            match dice.roll(5) {
                0 => lines = (0..12).map(|_| format!("line {}\n", dice.roll(1_000))).collect(),
                1 => drop(old.map(|old| files.remove(&old))),
                _ => {}
            }
            if dice.roll(2) == 0 && !lines.is_empty() {
                let at = dice.roll(lines.len());
                lines[at] = format!("changed {}\n", dice.roll(1_000));
            }
            // A name that is a folder elsewhere would be another test.
            let name = if dice.roll(2) == 0 { files.keys().next().cloned().unwrap_or(new) } else { new };
            files.insert(name, lines);
        }
        files
    }

    fn lab() -> (tempfile::TempDir, git2::Repository, Own) {
        let dir = tempfile::tempdir().unwrap();
        let project = dir.path().join("project");
        let repo = git2::Repository::init(&project).unwrap();
        let own = Own::open(&Git::find(&project).unwrap(), &dir.path().join("cache")).unwrap();
        (dir, repo, own)
    }

    #[test]
    fn no_merge_of_git_is_taken_for_one_that_lost_something() {
        let (_dir, repo, own) = lab();
        let mut clean = 0;
        for seed in 0..250 {
            let mut dice = Dice::new(seed);
            let base = work(&Tree::new(), &mut dice);
            let (ours, theirs) = (work(&base, &mut dice), work(&base, &mut dice));
            let base = commit(&repo, &base, &[]);
            let (ours, theirs) = (commit(&repo, &ours, &[&base]), commit(&repo, &theirs, &[&base]));
            match own.merge(&ours, &theirs) {
                Ok(Merged::Clean { .. }) => clean += 1,
                Ok(Merged::Conflict { .. }) => {}
                Err(error) => panic!("seed {seed}: {error}"),
            }
        }
        assert!(clean > 50, "{clean} of them were clean");
    }

    #[test]
    fn a_merge_without_what_one_side_did_is_none() {
        let (_dir, repo, own) = lab();
        let lines = |text: &str| vec![format!("{text}\n")];
        let tree =
            |files: &[(&str, &str)]| files.iter().map(|(path, text)| ((*path).to_owned(), lines(text))).collect();
        let base = commit(&repo, &tree(&[("x", "1"), ("y", "1")]), &[]);
        let ours = commit(&repo, &tree(&[("x", "2"), ("y", "1"), ("c", "1")]), &[&base]);
        let theirs = commit(&repo, &tree(&[("x", "1"), ("b", "1")]), &[&base]);
        let verify = |files: &[(&str, &str)]| {
            let merged = commit(&repo, &tree(files), &[]);
            let tree = repo.find_commit(git2::Oid::from_str(merged.as_str()).unwrap()).unwrap().tree_id();
            own.verify_merge(&ours, &theirs, &super::super::refs::oid(tree))
        };
        verify(&[("x", "2"), ("c", "1"), ("b", "1")]).unwrap();
        for (what, lost) in [
            ("`c`", &[("x", "2"), ("b", "1")][..]),
            ("`x`", &[("x", "1"), ("c", "1"), ("b", "1")]),
            ("`b`", &[("x", "2"), ("c", "1")]),
            ("`y`", &[("x", "2"), ("y", "1"), ("c", "1"), ("b", "1")]),
        ] {
            let error = verify(lost).unwrap_err();
            assert!(matches!(&error, GitError::Forged(path) if path.contains(what)), "{error}");
        }
    }
}
