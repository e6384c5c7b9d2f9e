//! What lies in the cache folder between proofs, and whether it is what the last
//! proof left. Ignored files stay there from proof to proof (a cold build costs
//! minutes), and anybody of the same user can write there: what appeared or
//! changed meanwhile is removed before anything is proven.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Git, GitError, Own};
use crate::base::fs::remove_tree;
use crate::base::text::sha256;
use crate::model::ids::Oid;

/// What is watched, below the cache folder.
const WATCHED: [&str; 4] = ["repo.git", "proof.index", "proof", "home"];

/// What only Loom's own git commands change.
const OWN: [&str; 2] = ["repo.git", "proof.index"];

/// The identity of what cannot be looked at: nobody may look into it, or its path is too long. It is
/// never what was left.
const UNSEEN: &str = "unseen";

/// Longer paths are not looked at; the system takes up to 4096.
const PATH_BYTES_MAX: usize = 3_000;

/// A path below the cache folder, and what cannot stay the same when somebody writes to it:
/// kind and mode, inode, size, time of content and, which only the clock sets, of the inode.
type Manifest = BTreeMap<PathBuf, String>;

impl Own {
    /// Removes whatever is not as [`Own::record_kept`] left it when it said `recorded`. None: nothing
    /// was recorded yet, and nothing that is there is trusted. Says how many files went, or had gone.
    pub fn secure(&self, git: &Git, recorded: Option<&str>) -> Result<usize, GitError> {
        let cache = self.cache();
        let known = fs_err::read(self.manifest()).ok();
        let known = known.filter(|bytes| recorded.is_some_and(|recorded| sha256(bytes) == recorded));
        let Some(known) = known else {
            let mut removed = 0;
            for name in WATCHED {
                removed += usize::from(remove(&cache.join(name))?);
            }
            Own::open(git, cache)?;
            return Ok(removed);
        };
        let known = parse(&known);
        let now = look(cache, &WATCHED)?;
        let is_strange = |path: &PathBuf, identity: &String| identity == UNSEEN || known.get(path) != Some(identity);
        let strange: Vec<&PathBuf> =
            now.iter().filter(|(path, identity)| is_strange(path, identity)).map(|(path, _)| path).collect();
        let is_gits = |path: &Path| {
            path.starts_with("repo.git") || path.starts_with("proof.index") || path.starts_with("proof/.git")
        };
        let lost = known.keys().any(|path| is_gits(path) && !now.contains_key(path));
        if lost || strange.iter().any(|path| is_gits(path)) {
            for name in ["repo.git", "proof.index", "proof/.git"] {
                remove(&cache.join(name))?;
            }
            Own::open(git, cache)?;
        }
        for path in strange.iter().filter(|path| !is_gits(path)) {
            remove(&cache.join(path))?;
        }
        // What is gone cannot be removed, but something was made there that is not any more.
        let gone = known.keys().filter(|path| !is_gits(path) && !now.contains_key(*path)).count();
        Ok(strange.len() + gone)
    }

    /// Watches Loom's own repository while the commands of a stage run beside it, in the checkout
    /// of `tree`.
    pub fn guard<'a>(&'a self, git: &'a Git, tree: &'a Oid) -> Result<Guarded<'a>, GitError> {
        let seen = RefCell::new(look(self.cache(), &OWN)?);
        Ok(Guarded { own: self, git, tree, seen, bent: Cell::new(false) })
    }

    /// Takes down what is there now; the answer is the digest to be recorded.
    pub fn record_kept(&self) -> Result<String, GitError> {
        let mut bytes = Vec::new();
        for (path, identity) in look(self.cache(), &WATCHED)? {
            bytes.extend_from_slice(identity.as_bytes());
            bytes.push(0);
            bytes.extend_from_slice(path.as_os_str().as_bytes());
            bytes.push(0);
        }
        crate::base::fs::write_atomic(&self.manifest(), &bytes)?;
        Ok(sha256(&bytes))
    }

    fn manifest(&self) -> PathBuf {
        self.cache().join("kept")
    }
}

/// Loom's own repository while others are at work beside it: whoever bends it decides nothing.
pub struct Guarded<'a> {
    own: &'a Own,
    git: &'a Git,
    tree: &'a Oid,
    seen: RefCell<Manifest>,
    bent: Cell<bool>,
}

impl Guarded<'_> {
    /// Makes the repository anew unless it is as Loom left it.
    fn mend(&self) -> Result<(), GitError> {
        let cache = self.own.cache();
        if look(cache, &OWN)? != *self.seen.borrow() {
            self.bent.set(true);
            for name in OWN {
                remove(&cache.join(name))?;
            }
            Own::open(self.git, cache)?;
        }
        Ok(())
    }

    /// Puts the tracked files of the checkout back; says which were changed.
    pub fn put_back(&self) -> std::io::Result<Vec<String>> {
        let put_back = || -> Result<Vec<String>, GitError> {
            self.mend()?;
            let changed = self.own.put_back(self.tree)?;
            self.seen.replace(look(self.own.cache(), &OWN)?);
            Ok(changed)
        };
        put_back().map_err(std::io::Error::other)
    }

    /// Whether somebody has written to the repository. Then it was made anew, and the checkout with it.
    pub fn was_bent(&self) -> std::io::Result<bool> {
        self.mend().map_err(std::io::Error::other)?;
        if self.bent.get() {
            self.put_back()?;
        }
        Ok(self.bent.get())
    }
}

fn parse(bytes: &[u8]) -> Manifest {
    let mut fields = bytes.split(|byte| *byte == 0);
    let mut manifest = Manifest::new();
    while let (Some(identity), Some(path)) = (fields.next(), fields.next()) {
        let path = PathBuf::from(OsStr::from_bytes(path).to_owned());
        manifest.insert(path, String::from_utf8_lossy(identity).into_owned());
    }
    manifest
}

fn look(cache: &Path, names: &[&str]) -> Result<Manifest, GitError> {
    let mut manifest = Manifest::new();
    let mut todo: Vec<PathBuf> = names.iter().map(PathBuf::from).collect();
    while let Some(path) = todo.pop() {
        let full = cache.join(&path);
        let meta = match std::fs::symlink_metadata(&full) {
            Ok(meta) => meta,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(_) => {
                manifest.extend(path.parent().map(|folder| (folder.to_path_buf(), UNSEEN.to_owned())));
                continue;
            }
        };
        if meta.is_dir() {
            let is_deep = full.as_os_str().len() > PATH_BYTES_MAX;
            let entries = if is_deep { None } else { fs_err::read_dir(&full).ok() };
            let Some(entries) = entries else {
                manifest.insert(path, UNSEEN.to_owned());
                continue;
            };
            for entry in entries {
                let mut below = path.clone().into_os_string().into_vec();
                below.push(b'/');
                below.extend_from_slice(entry?.file_name().as_bytes());
                todo.push(PathBuf::from(std::ffi::OsString::from_vec(below)));
            }
            manifest.insert(path, format!("{:o}", meta.mode()));
        } else {
            let identity = format!(
                "{:o} {} {} {}.{} {}.{}",
                meta.mode(),
                meta.ino(),
                meta.size(),
                meta.mtime(),
                meta.mtime_nsec(),
                meta.ctime(),
                meta.ctime_nsec()
            );
            manifest.insert(path, identity);
        }
    }
    Ok(manifest)
}

/// Removes a file, a link or a whole folder. False: it was not there.
pub(super) fn remove(path: &Path) -> std::io::Result<bool> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => remove_tree(path)?,
        Ok(_) => fs_err::remove_file(path)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    }
    Ok(true)
}
