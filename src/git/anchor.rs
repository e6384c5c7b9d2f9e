//! `refs/loom/journal`: a small blob that names the journal's newest record. It moves in
//! the same transaction as the plan branch, and when a writer ends.

use std::io::Write;
use std::path::Path;

use super::{Git, GitError};
use crate::base::fs::{read_file, sync_dir};
use crate::model::anchor::{Anchor, TITLE};
use crate::model::ids::Oid;

/// The ref; its value is a blob.
pub const ANCHOR: &str = "refs/loom/journal";

/// What the ref holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Anchored {
    Nothing,
    At(Anchor),
    /// Not what Loom writes there.
    Unreadable,
}

impl Git {
    /// What `refs/loom/journal` says. Read in this process, and as a file where it is one of
    /// Loom's own making: every status asks.
    pub fn anchored(&self) -> Result<Anchored, GitError> {
        if let Some((_, anchor)) = self.anchored_quickly() {
            return Ok(Anchored::At(anchor));
        }
        let packed = read_file(&self.common.join("packed-refs")).unwrap_or_default();
        let packed = String::from_utf8_lossy(&packed);
        if !self.common.join(ANCHOR).exists()
            && !self.common.join("reftable").exists()
            && !packed.lines().any(|line| line.ends_with(ANCHOR))
        {
            return Ok(Anchored::Nothing);
        }
        Ok(self.anchor_blob()?.map_or(Anchored::Nothing, |(_, anchored)| anchored))
    }

    fn anchored_quickly(&self) -> Option<(Oid, Anchor)> {
        let id = String::from_utf8(read_file(&self.common.join(ANCHOR)).ok()?).ok()?;
        let id = Oid::new(id.trim_end()).ok()?;
        let (folder, file) = id.as_str().split_at(2);
        let bytes = read_file(&self.common.join("objects").join(folder).join(file)).ok()?;
        if bytes.len() > 512 {
            return None;
        }
        // What is not written as this version writes it is left to git.
        let at = bytes.windows(TITLE.len()).position(|part| part == TITLE.as_bytes())?;
        let content = bytes.get(at..bytes.len().checked_sub(4)?)?;
        let anchor = Anchor::parse(std::str::from_utf8(content).ok()?)?;
        let is_its_name = git2::Oid::hash_object(git2::ObjectType::Blob, content).ok()?.to_string() == id.as_str();
        (is_its_name && loose(content) == bytes).then_some((id, anchor))
    }

    fn anchor_blob(&self) -> Result<Option<(Oid, Anchored)>, GitError> {
        let repo = self.repo()?;
        let target = match repo.find_reference(ANCHOR) {
            Ok(reference) => reference.target(),
            Err(error) if error.code() == git2::ErrorCode::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let Some(target) = target else { return Ok(None) };
        let text = repo.find_blob(target).ok().and_then(|blob| String::from_utf8(blob.content().to_vec()).ok());
        let anchor = text.and_then(|text| Anchor::parse(&text));
        Ok(Some((super::refs::oid(target), anchor.map_or(Anchored::Unreadable, Anchored::At))))
    }

    /// Moves the anchor to `head`, durably. Nothing is done when it is there already.
    ///
    /// # Errors
    /// When the ref names a later record than `head`: then this is not the journal it belongs to.
    pub fn anchor(&self, head: &Anchor) -> Result<(), GitError> {
        match self.anchor_instruction(head)? {
            Some(instruction) => self.ref_transaction(|| Ok(instruction), &[ANCHOR]),
            None => Ok(()),
        }
    }

    /// Moves the plan branch `name` from `tip` to `landing`, and the anchor to `head`: both or none.
    ///
    /// # Errors
    /// When either is not where it was: then nothing has changed.
    pub fn land(&self, name: &str, tip: &Oid, landing: &Oid, head: Option<&Anchor>) -> Result<(), GitError> {
        // Made while git starts.
        let instructions = || {
            let anchor = head.map(|head| self.anchor_instruction(head)).transpose()?.flatten();
            Ok(format!("update {name} {landing} {tip}\n{}", anchor.unwrap_or_default()))
        };
        self.ref_transaction(instructions, &[name, ANCHOR])
    }

    /// Puts the anchor aside as `refs/loom/journal-lost/<n>`, so that a new journal can begin.
    /// Returns the new name.
    pub fn put_anchor_aside(&self) -> Result<Option<String>, GitError> {
        let Some((blob, _)) = self.anchor_blob()? else { return Ok(None) };
        let repo = self.repo()?;
        let name = (1..).map(|n| format!("refs/loom/journal-lost/{n}")).find(|name| repo.find_reference(name).is_err());
        let name = name.unwrap_or_default();
        let zero = "0".repeat(blob.as_str().len());
        let instructions = format!("update {name} {blob} {zero}\ndelete {ANCHOR} {blob}\n");
        self.ref_transaction(|| Ok(instructions), &[&name])?;
        Ok(Some(name))
    }

    /// The `update-ref` instruction that moves the anchor to `head`; none when it is there.
    fn anchor_instruction(&self, head: &Anchor) -> Result<Option<String>, GitError> {
        let now = match self.anchored_quickly() {
            Some((blob, anchor)) => Some((blob, Anchored::At(anchor))),
            None => self.anchor_blob()?,
        };
        let old = match now {
            Some((_, Anchored::At(there))) if there == *head => return Ok(None),
            Some((_, Anchored::At(there))) if there.seq >= head.seq => {
                return Err(GitError::Io(std::io::Error::other(format!(
                    "{ANCHOR} names record {} of the journal, and this journal is at {}: another one is in use",
                    there.seq, head.seq
                ))));
            }
            Some((blob, _)) => blob.to_string(),
            None => String::new(),
        };
        let blob = write_blob(&self.common.join("objects"), head.to_string().as_bytes())?;
        let old = if old.is_empty() { "0".repeat(blob.as_str().len()) } else { old };
        Ok(Some(format!("update {ANCHOR} {blob} {old}\n")))
    }
}

/// Writes a small blob durably and without a process: libgit2 does not sync what it writes.
fn write_blob(objects: &Path, content: &[u8]) -> Result<Oid, GitError> {
    let id = git2::Oid::hash_object(git2::ObjectType::Blob, content)?.to_string();
    let (folder, file) = id.split_at(2);
    let folder = objects.join(folder);
    if !folder.join(file).exists() {
        let is_new = !folder.is_dir();
        fs_err::create_dir_all(&folder)?;
        use std::os::unix::fs::PermissionsExt;
        // A name that git's own cleaning knows, should this be cut off.
        let mut builder = tempfile::Builder::new();
        builder.prefix("tmp_obj_").permissions(std::fs::Permissions::from_mode(0o444));
        let mut temp = builder.tempfile_in(&folder)?;
        temp.write_all(&loose(content))?;
        temp.as_file().sync_all()?;
        temp.persist(folder.join(file)).map_err(|error| error.error)?;
        sync_dir(&folder)?;
        if is_new {
            // Its name is in the commit that was just made: asked before, this would make one of its own.
            sync_dir(objects)?;
        }
    }
    Oid::new(id.clone()).map_err(|_| GitError::Unexpected { args: "hash-object".to_owned(), output: id })
}

/// A loose object: a zlib stream of one stored block.
fn loose(content: &[u8]) -> Vec<u8> {
    let mut object = format!("blob {}\0", content.len()).into_bytes();
    object.extend_from_slice(content);
    let length = u16::try_from(object.len()).unwrap_or_else(|_| unreachable!("an anchor is a few dozen bytes"));
    let mut out = vec![0x78, 0x01, 0x01];
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&(!length).to_le_bytes());
    out.extend_from_slice(&object);
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in &object {
        a = (a + u32::from(*byte)) % 65_521;
        b = (b + a) % 65_521;
    }
    out.extend_from_slice(&(b << 16 | a).to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::git::command::{line, plain, run};

    fn repository() -> (tempfile::TempDir, Git) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        run(
            {
                let mut git = plain(&["init", "-q", "-b", "main"]);
                git.arg(&path);
                git
            },
            None,
        )
        .unwrap();
        let git = Git::at(path.clone(), path.join(".git"));
        let identity = ["-c", "user.name=T", "-c", "user.email=t@localhost"];
        git.run(&[&identity[..], &["commit", "-q", "--allow-empty", "-m", "Start"]].concat()).unwrap();
        (dir, git)
    }

    fn at(seq: u64) -> Anchor {
        Anchor { seq, hash: format!("{seq:064x}") }
    }

    #[test]
    fn the_anchor_moves_forward_and_never_back() {
        let (_dir, git) = repository();
        assert_eq!(git.anchored().unwrap(), Anchored::Nothing);
        for seq in [1, 1, 5] {
            git.anchor(&at(seq)).unwrap();
            assert_eq!(git.anchored().unwrap(), Anchored::At(at(seq)));
        }
        assert!(git.anchor(&at(3)).unwrap_err().to_string().contains("names record 5"));
        let shown = line(git.run(&["cat-file", "-p", ANCHOR]).unwrap());
        assert_eq!(format!("{shown}\n"), at(5).to_string());
        assert_eq!(line(git.run(&["fsck", "--strict", "--no-dangling"]).unwrap()), "");
        assert_eq!(git.put_anchor_aside().unwrap().as_deref(), Some("refs/loom/journal-lost/1"));
        assert_eq!(git.anchored().unwrap(), Anchored::Nothing);
    }

    #[test]
    fn a_landing_moves_branch_and_anchor_together_or_not_at_all() {
        let (_dir, git) = repository();
        let tip = git.tip("refs/heads/main").unwrap().unwrap();
        let commit = |message: &str| {
            let tree = format!("{tip}^{{tree}}");
            let args = ["-c", "user.name=T", "-c", "user.email=t@localhost", "commit-tree", &tree, "-m", message];
            Oid::new(line(git.run(&args).unwrap())).unwrap()
        };
        let (one, two) = (commit("One"), commit("Two"));
        let name = "refs/heads/loom/_plan/p";
        git.swap_ref(name, None, &tip, "test").unwrap();
        git.land(name, &tip, &one, Some(&at(4))).unwrap();
        assert_eq!((git.tip(name).unwrap(), git.anchored().unwrap()), (Some(one.clone()), Anchored::At(at(4))));
        git.land(name, &tip, &two, Some(&at(6))).unwrap_err();
        assert_eq!((git.tip(name).unwrap(), git.anchored().unwrap()), (Some(one.clone()), Anchored::At(at(4))));
        git.land(name, &one, &two, Some(&at(2))).unwrap_err();
        assert_eq!(git.tip(name).unwrap(), Some(one));
    }
}
