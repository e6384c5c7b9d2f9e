//! What a submission is made of, in a pack that survives a power cut however the
//! agent's own git wrote it. A few small objects are packed in this process: git
//! takes one of its own and four journal commits, one after the other, for that.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::command::run;
use super::{Git, GitError};
use crate::base::fail::{self, Point};
use crate::base::fs::sync_dir;
use crate::model::ids::Oid;
use crate::model::limits::{PACKED_HERE_BYTES_MAX, PACKED_HERE_OBJECTS_MAX};

impl Git {
    /// Puts the objects between `base` and `commit` into a pack that survives a power cut.
    pub fn pack_durably(&self, base: &Oid, commit: &Oid) -> Result<(), GitError> {
        fail::point(Point::BeforePack)?;
        // What cannot be read in this process is git's to pack, or to refuse.
        if !matches!(self.pack_here(base, commit), Ok(true)) {
            let prefix = self.packs().join("pack").display().to_string();
            let args = ["pack-objects", "-q", "--revs", "--non-empty", "--delta-base-offset", &prefix];
            run(self.in_dir(&self.project, &args), Some(format!("{commit}\n^{base}\n").as_bytes()))?;
        }
        sync_dir(&self.packs())?;
        fail::point(Point::AfterPack)?;
        Ok(())
    }

    fn packs(&self) -> PathBuf {
        self.common.join("objects/pack")
    }

    /// False: it is more than is packed in this process, and nothing was done.
    fn pack_here(&self, base: &Oid, commit: &Oid) -> Result<bool, GitError> {
        let repo = self.repo()?;
        if repo.config()?.get_entry("core.sharedRepository").is_ok() {
            // Git knows who else is to read it.
            return Ok(false);
        }
        let Some(objects) = between(&repo, base, commit)? else { return Ok(false) };
        if objects.is_empty() {
            return Ok(true);
        }
        let mut builder = repo.packbuilder()?;
        builder.set_threads(1);
        for id in objects {
            builder.insert_object(id, None)?;
        }
        let made = tempfile::tempdir()?;
        builder.write(made.path(), 0o444)?;
        let name = format!("pack-{}", builder.name()?.unwrap_or_default());
        install(&made.path().join(name), &self.packs())?;
        Ok(true)
    }
}

/// Puts the pack `made` (without an ending) where git looks for packs, synced before it has a name
/// there. The index comes last: git knows a pack by it.
fn install(made: &Path, packs: &Path) -> io::Result<()> {
    let beside = |ending: &str| {
        let mut builder = tempfile::Builder::new();
        // A name that git's own cleaning knows, should this be cut off.
        let prefix = format!("tmp_{ending}_");
        let mut file = builder.prefix(&prefix).permissions(Permissions::from_mode(0o444)).tempfile_in(packs)?;
        file.write_all(&fs_err::read(made.with_extension(ending))?)?;
        Ok::<_, io::Error>(file)
    };
    let (pack, index) = (beside("pack")?, beside("idx")?);
    // At once: the kernel makes one commit of both.
    std::thread::scope(|scope| {
        let index = scope.spawn(|| index.as_file().sync_all());
        pack.as_file().sync_all()?;
        index.join().map_err(|_| io::Error::other("the sync of a pack broke off"))?
    })?;
    let name = |ending: &str| packs.join(made.with_extension(ending).file_name().unwrap_or_default());
    fail::point(Point::PackNotNamed)?;
    pack.persist(name("pack")).map_err(|error| error.error)?;
    fail::point(Point::PackWithoutIndex)?;
    index.persist(name("idx")).map_err(|error| error.error)?;
    Ok(())
}

/// Every object that `commit` has and `base` has not; none when they are many or large.
fn between(repo: &git2::Repository, base: &Oid, commit: &Oid) -> Result<Option<Vec<git2::Oid>>, GitError> {
    let mut walk = repo.revwalk()?;
    // Parents first: what a commit shares with its parent has been found by then, or was there before.
    walk.set_sorting(git2::Sort::TOPOLOGICAL | git2::Sort::REVERSE)?;
    walk.push(git2::Oid::from_str(commit.as_str())?)?;
    walk.hide(git2::Oid::from_str(base.as_str())?)?;
    let mut found = Found { repo, odb: repo.odb()?, commits: Vec::new(), below: BTreeSet::new(), bytes: 0 };
    for id in walk {
        let commit = repo.find_commit(id?)?;
        found.commits.push(commit.id());
        let is_small = found.has_room_for(commit.id())?;
        let before = commit.parents().next().map(|parent| parent.tree()).transpose()?;
        if !is_small || !found.add(&commit.tree()?, before.as_ref())? {
            return Ok(None);
        }
    }
    Ok(Some(found.commits.into_iter().chain(found.below).collect()))
}

struct Found<'repo> {
    repo: &'repo git2::Repository,
    odb: git2::Odb<'repo>,
    commits: Vec<git2::Oid>,
    /// Trees and files.
    below: BTreeSet<git2::Oid>,
    bytes: usize,
}

impl Found<'_> {
    /// Counts an object. False: with it, it is too much.
    fn has_room_for(&mut self, id: git2::Oid) -> Result<bool, GitError> {
        self.bytes += self.odb.read_header(id)?.0;
        Ok(self.commits.len() + self.below.len() <= PACKED_HERE_OBJECTS_MAX && self.bytes <= PACKED_HERE_BYTES_MAX)
    }

    /// Adds what is in `tree` and not at the same place in `before`. False: that is too much.
    fn add(&mut self, tree: &git2::Tree<'_>, before: Option<&git2::Tree<'_>>) -> Result<bool, GitError> {
        if before.is_some_and(|before| before.id() == tree.id()) || !self.below.insert(tree.id()) {
            return Ok(true);
        }
        if !self.has_room_for(tree.id())? {
            return Ok(false);
        }
        for entry in tree {
            let before =
                before.and_then(|before| before.get_name_bytes(entry.name_bytes()).map(|entry| entry.to_owned()));
            if before.as_ref().is_some_and(|before| before.id() == entry.id()) {
                continue;
            }
            let has_room = match entry.kind() {
                Some(git2::ObjectType::Tree) => {
                    let before = before.and_then(|before| self.repo.find_tree(before.id()).ok());
                    self.add(&self.repo.find_tree(entry.id())?, before.as_ref())?
                }
                Some(git2::ObjectType::Blob) => !self.below.insert(entry.id()) || self.has_room_for(entry.id())?,
                // A submodule: its commits are elsewhere.
                _ => true,
            };
            if !has_room {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::dice::Dice;
    use crate::base::process::command;

    fn git(dir: &Path, args: &[&str]) -> String {
        let who = ["-c", "user.name=n", "-c", "user.email=e@e", "-c", "commit.gpgsign=false", "-c", "gc.auto=0"];
        let output = command("git").current_dir(dir).args(who).args(args).output().unwrap();
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn commit(dir: &Path, files: &[(&str, &str)]) -> Oid {
        for (name, text) in files {
            fs_err::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
            fs_err::write(dir.join(name), text).unwrap();
        }
        git(dir, &["add", "-A"]);
        git(dir, &["commit", "-q", "-m", "x"]);
        Oid::new(git(dir, &["rev-parse", "HEAD"])).unwrap()
    }

    /// Packs what leads from `base` to `tip`, and looks whether the repository lives by its packs.
    fn is_whole(dir: &Path, base: &Oid, tip: &Oid) {
        let wanted = git(dir, &["rev-list", "--objects", "--no-object-names", &format!("{base}..{tip}")]);
        git(dir, &["update-ref", "refs/heads/base", base.as_str()]);
        let repo = Git::find(dir).unwrap();
        assert!(repo.pack_here(base, tip).unwrap());
        let packs = dir.join(".git/objects/pack");
        let names: Vec<_> = fs_err::read_dir(&packs).unwrap().map(|file| file.unwrap().path()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        let index = names.iter().find(|name| name.extension().unwrap() == "idx").unwrap();
        let packed = git(dir, &["verify-pack", "-v", &index.display().to_string()]);
        for id in wanted.lines() {
            assert!(packed.contains(id), "{id} is not in\n{packed}");
        }
        // What was packed twice is there once, and nothing is left over.
        repo.pack_durably(base, tip).unwrap();
        repo.pack_durably(tip, tip).unwrap();
        assert_eq!(fs_err::read_dir(&packs).unwrap().count(), 2);
        git(dir, &["prune-packed"]);
        assert_eq!(git(dir, &["fsck", "--full", "--strict", "--no-dangling"]), "");
    }

    fn repository() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        git(dir.path(), &["init", "-q", "-b", "main"]);
        let path = dir.path().to_path_buf();
        (dir, path)
    }

    #[test]
    fn a_pack_holds_all_that_a_submission_added() {
        let (_kept, dir) = repository();
        let base = commit(&dir, &[("a/b/c", "1"), ("a/d", "2"), ("e", "3")]);
        commit(&dir, &[("a/b/c", "4"), ("f/g", "5"), ("f/h", "1")]);
        git(&dir, &["checkout", "-q", "-b", "side", base.as_str()]);
        commit(&dir, &[("a/b/i", "6"), ("e", "7")]);
        git(&dir, &["checkout", "-q", "main"]);
        git(&dir, &["merge", "-q", "--no-edit", "side"]);
        git(&dir, &["rm", "-q", "-r", "f"]);
        // Content of before, at another place.
        let tip = commit(&dir, &[("j/k", "3"), ("a/b/c", "1")]);
        is_whole(&dir, &base, &tip);
    }

    #[test]
    fn a_pack_holds_what_was_there_before_a_change_that_was_taken_back() {
        let (_kept, dir) = repository();
        let base = commit(&dir, &[("x", "1")]);
        commit(&dir, &[("new", "only here")]);
        commit(&dir, &[("x", "2")]);
        let tip = commit(&dir, &[("x", "1")]);
        is_whole(&dir, &base, &tip);
    }

    #[test]
    fn a_pack_holds_folders_that_changed_places() {
        let (_kept, dir) = repository();
        let base = commit(&dir, &[("x", "1")]);
        commit(&dir, &[("a/e", "same"), ("a/f", "1"), ("b/e", "same"), ("b/g", "2")]);
        for (from, to) in [("a", "c"), ("b", "a"), ("c", "b")] {
            fs_err::rename(dir.join(from), dir.join(to)).unwrap();
        }
        let tip = commit(&dir, &[]);
        is_whole(&dir, &base, &tip);
    }

    type Files = Vec<(&'static str, usize)>;

    /// A commit of `files` (`folder/name` with what is in it) that is kept in memory.
    fn commit_of(repo: &git2::Repository, files: &Files, parents: &[git2::Oid]) -> git2::Oid {
        let mut top = repo.treebuilder(None).unwrap();
        for folder in ["a", "b", "c"] {
            let mut below = repo.treebuilder(None).unwrap();
            for (path, content) in files.iter().filter(|(path, _)| path.starts_with(folder)) {
                let blob = repo.blob(content.to_string().as_bytes()).unwrap();
                below.insert(&path[2..], blob, 0o100_644).unwrap();
            }
            if !below.is_empty() {
                top.insert(folder, below.write().unwrap(), 0o040_000).unwrap();
            }
        }
        let tree = repo.find_tree(top.write().unwrap()).unwrap();
        let who = git2::Signature::new("n", "e@e", &git2::Time::new(0, 0)).unwrap();
        let parents: Vec<_> = parents.iter().map(|parent| repo.find_commit(*parent).unwrap()).collect();
        let parents: Vec<_> = parents.iter().collect();
        repo.commit(None, &who, &who, "x", &tree, &parents).unwrap()
    }

    /// Everything below a tree.
    fn below(repo: &git2::Repository, tree: git2::Oid, found: &mut BTreeSet<git2::Oid>) {
        found.insert(tree);
        for entry in &repo.find_tree(tree).unwrap() {
            match entry.kind() {
                Some(git2::ObjectType::Tree) => below(repo, entry.id(), found),
                _ => drop(found.insert(entry.id())),
            }
        }
    }

    #[test]
    fn nothing_of_a_random_history_is_left_out() {
        const PATHS: [&str; 6] = ["a/e", "a/f", "b/e", "b/f", "c/e", "c/f"];
        let dir = tempfile::tempdir().unwrap();
        let repo = git2::Repository::init(dir.path()).unwrap();
        repo.odb().unwrap().add_new_mempack_backend(999).unwrap();
        for seed in 0..2_000 {
            let mut dice = Dice::new(seed);
            let mut commits: Vec<(git2::Oid, Files)> = Vec::new();
            for at in 0..8 {
                let merged = (at > 1 && dice.roll(4) == 0).then(|| dice.roll(at - 1));
                let parents: Vec<git2::Oid> =
                    at.checked_sub(1).into_iter().chain(merged).map(|at| commits[at].0).collect();
                // Few paths with few contents: much comes back.
                let mut files = commits.last().map(|(_, files)| files.clone()).unwrap_or_default();
                let path = PATHS[dice.roll(PATHS.len())];
                files.retain(|(other, _)| *other != path);
                if dice.roll(4) > 0 {
                    files.push((path, dice.roll(6)));
                }
                commits.push((commit_of(&repo, &files, &parents), files));
            }
            let (base, tip) = (commits[dice.roll(3)].0, commits[7].0);
            let all = |tip: git2::Oid| {
                let mut walk = repo.revwalk().unwrap();
                walk.push(tip).unwrap();
                let mut found = BTreeSet::new();
                for id in walk.map(Result::unwrap) {
                    found.insert(id);
                    below(&repo, repo.find_commit(id).unwrap().tree_id(), &mut found);
                }
                found
            };
            let oid = |id: git2::Oid| Oid::new(id.to_string()).unwrap();
            let packed = between(&repo, &oid(base), &oid(tip)).unwrap().unwrap();
            let left_out: Vec<_> = all(tip).difference(&all(base)).filter(|id| !packed.contains(id)).copied().collect();
            assert!(left_out.is_empty(), "seed {seed}: {left_out:?}");
        }
    }

    #[test]
    fn many_or_large_objects_are_left_to_git() {
        let (_kept, dir) = repository();
        let dir = dir.as_path();
        let base = commit(dir, &[("a", "1")]);
        let names: Vec<String> = (0..PACKED_HERE_OBJECTS_MAX).map(|n| format!("{n}")).collect();
        let files: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
        let many = commit(dir, &files);
        let large = commit(dir, &[("large", &"x".repeat(PACKED_HERE_BYTES_MAX + 1))]);
        let repo = Git::find(dir).unwrap();
        assert!(!repo.pack_here(&base, &many).unwrap());
        assert!(!repo.pack_here(&many, &large).unwrap());
        assert_eq!(fs_err::read_dir(dir.join(".git/objects/pack")).unwrap().count(), 0);
        repo.pack_durably(&base, &large).unwrap();
        git(dir, &["prune-packed"]);
        assert_eq!(git(dir, &["fsck", "--full", "--no-dangling"]), "");
    }
}
