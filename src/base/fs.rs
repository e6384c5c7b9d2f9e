//! Files that survive a power cut, and locks that the kernel of the operating
//! system gives back when their holder dies.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;

use super::fail::{self, Point};

/// Replaces `path` with `bytes`: a reader sees the old or the new content, never a part.
/// Not synced: for views, which can be rendered again.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = beside(path, bytes)?;
    rename(file, path)
}

/// Replaces `path` with `bytes` and syncs file, name and folder before it returns.
/// ext4 and xfs lose a renamed file without each of the three.
pub fn write_durable(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let file = beside(path, bytes)?;
    fail::point(Point::BeforeFileSync)?;
    file.as_file().sync_all()?;
    rename(file, path)?;
    fail::point(Point::BeforeFolderSync)?;
    sync_dir(parent(path)?)
}

/// A new file in the folder of `path`.
fn beside(path: &Path, bytes: &[u8]) -> io::Result<tempfile::NamedTempFile> {
    let mut file = tempfile::Builder::new().prefix(".tmp-").tempfile_in(parent(path)?)?;
    fail::point(Point::BeforeFileWrite)?;
    file.write_all(bytes)?;
    Ok(file)
}

fn rename(file: tempfile::NamedTempFile, path: &Path) -> io::Result<()> {
    fail::point(Point::BeforeFileRename)?;
    file.persist(path).map_err(|error| error.error)?;
    fail::point(Point::AfterFileRename)
}

/// Whether something is at `path`, behind all links, that is no file: reading a pipe or a device may
/// have no end.
pub fn is_no_file(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| !meta.is_file())
}

/// As [`std::fs::read`], of files alone.
///
/// # Errors
/// Also when something else is at `path`, or is put there at that moment.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    use rustix::fs::OFlags;
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let mut file =
        fs_err::OpenOptions::from_options(File::options().read(true).custom_flags(flags).clone()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} is no file", path.display())));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// How deep [`remove_tree`] goes at once: what is deeper is moved up first.
const DEPTH_MAX: usize = 64;

/// Removes a folder and all that is in it, however deep that is and whatever rights it gives. Links
/// are removed and not followed, `dir` itself among them.
pub fn remove_tree(dir: &Path) -> io::Result<()> {
    if dir.is_symlink() {
        return fs_err::remove_file(dir);
    }
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", dir.display()));
    let clear = || -> io::Result<()> {
        let top = open_folder(rustix::fs::CWD, dir)?;
        let mut moved = 0;
        let mut before = None;
        while before != Some(moved) {
            before = Some(moved);
            clear_folder(&top, &top, 0, &mut moved)?;
        }
        match rustix::fs::rmdir(dir) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    };
    clear().map_err(named)
}

/// What somebody else removes at that moment is gone as well.
fn clear_folder(folder: &OwnedFd, top: &OwnedFd, depth: usize, moved: &mut usize) -> io::Result<()> {
    use rustix::fs::{AtFlags, Dir, renameat, unlinkat};
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        match entry {
            Ok(entry) => names.push(entry.file_name().to_owned()),
            Err(Errno::NOENT) => break,
            Err(error) => return Err(error.into()),
        }
    }
    names.retain(|name| !matches!(name.to_bytes(), b"." | b".."));
    if names.is_empty() {
        return Ok(());
    }
    // Some tools leave folders that may not be written to.
    let _ = rustix::fs::fchmod(folder, rustix::fs::Mode::RWXU);
    for name in names {
        match unlinkat(folder, &name, AtFlags::empty()) {
            // Of a folder. Some file systems call it not permitted.
            Err(Errno::ISDIR | Errno::PERM) => {}
            Ok(()) | Err(Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        }
        let below = match open_folder(folder, &name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            below => below?,
        };
        if depth == DEPTH_MAX {
            let _ = rustix::fs::fchmod(&below, rustix::fs::Mode::RWXU);
            // Found at the top when the next round comes by.
            while let Err(error) = renameat(folder, &name, top, format!(".deep-{moved}")) {
                match error {
                    Errno::NOENT => break,
                    Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR => *moved += 1,
                    error => return Err(error.into()),
                }
            }
            *moved += 1;
            continue;
        }
        clear_folder(&below, top, depth + 1, moved)?;
        match unlinkat(folder, &name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Opens a folder, also one that its owner may not look into.
fn open_folder(at: impl std::os::fd::AsFd, name: impl rustix::path::Arg + Copy) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags, chmod, openat};
    let folder = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(&at, name, OFlags::RDONLY | folder, Mode::empty()) {
        Err(Errno::ACCESS) => {
            let path = openat(&at, name, OFlags::PATH | folder, Mode::empty())?;
            chmod(format!("/proc/self/fd/{}", path.as_raw_fd()), Mode::RWXU)?;
            Ok(openat(&at, name, OFlags::RDONLY | folder, Mode::empty())?)
        }
        opened => Ok(opened?),
    }
}

/// Makes the names in `dir` durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    fs_err::File::open(dir)?.sync_all()
}

fn parent(path: &Path) -> io::Result<&Path> {
    path.parent()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{} has no folder", path.display())))
}

/// An exclusive lock on a file, held until it is dropped or its process dies.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock of `path`, creating the file. `None`: somebody else holds it.
    pub fn try_take(path: &Path) -> io::Result<Option<Lock>> {
        let file = open_lock(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
    /// Takes the lock as [`Lock::try_take`] does, and waits up to `wait` for its holder.
    pub fn take_within(path: &Path, wait: std::time::Duration) -> io::Result<Option<Lock>> {
        if let Some(lock) = Lock::try_take(path)? {
            return Ok(Some(lock));
        }
        let (sender, taken) = std::sync::mpsc::channel();
        let file = open_lock(path)?;
        // A wait that is given up ends with the process; the lock it may still get is dropped.
        std::thread::Builder::new().stack_size(64 << 10).spawn(move || {
            if file.lock().is_ok() {
                let _ = sender.send(Lock { file });
            }
        })?;
        Ok(taken.recv_timeout(wait).ok())
    }
    /// The locked file: its content is for people.
    pub fn file(&self) -> &File {
        &self.file
    }
    /// Whether the file behind the lock is still the one at `path`.
    pub fn is_at(&self, path: &Path) -> bool {
        use std::os::unix::fs::MetadataExt;
        match (self.file.metadata(), std::fs::metadata(path)) {
            (Ok(mine), Ok(there)) => mine.ino() == there.ino() && mine.dev() == there.dev(),
            _ => false,
        }
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    use fs_err::os::unix::fs::OpenOptionsExt;
    fs_err::OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .map(fs_err::File::into_parts)
        .map(|(file, _)| file)
}

/// Whether somebody holds the exclusive lock of `path`. A missing file is not held.
/// Probed with a shared, non-blocking lock, so that probers do not hinder each other.
pub fn is_locked(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Blocks until nobody holds the exclusive lock of `path`.
pub fn wait_unlocked(path: &Path) -> io::Result<()> {
    match File::open(path) {
        Ok(file) => file.lock_shared(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_goes_however_deep_and_locked_it_is_and_nothing_behind_its_links() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let (tree, other) = (dir.path().join("tree"), dir.path().join("other"));
        fs_err::create_dir_all(tree.join("locked/in")).unwrap();
        fs_err::create_dir_all(other.join("in")).unwrap();
        fs_err::write(other.join("file"), "x").unwrap();
        symlink(&other, tree.join("locked/link")).unwrap();
        symlink(other.join("file"), tree.join("link")).unwrap();
        for name in ["locked/in", "locked"] {
            fs_err::set_permissions(tree.join(name), PermissionsExt::from_mode(0o000)).unwrap();
        }
        // Made from the inside, as its path would be too long.
        let mut at = open_folder(rustix::fs::CWD, &tree).unwrap();
        for _ in 0..3_000 {
            rustix::fs::mkdirat(&at, "d", rustix::fs::Mode::RWXU).unwrap();
            at = open_folder(&at, "d").unwrap();
        }
        drop(at);
        symlink(&other, dir.path().join("to-other")).unwrap();
        remove_tree(&dir.path().join("to-other")).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists() && !dir.path().join("to-other").is_symlink());
        assert!(other.join("in").exists() && other.join("file").exists());
        assert_eq!(remove_tree(&tree).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_lock_is_seen_by_probers_and_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert!(!is_locked(&path).unwrap());
        let lock = Lock::try_take(&path).unwrap().unwrap();
        assert!(Lock::try_take(&path).unwrap().is_none());
        assert!(is_locked(&path).unwrap());
        assert!(lock.is_at(&path));
        fs_err::remove_file(&path).unwrap();
        assert!(!lock.is_at(&path));
        drop(lock);
        assert!(!is_locked(&path).unwrap());
        wait_unlocked(&path).unwrap();
    }

    #[test]
    fn a_replaced_file_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        write_durable(&path, b"one").unwrap();
        write_atomic(&path, b"two").unwrap();
        assert_eq!(fs_err::read(&path).unwrap(), b"two");
        assert_eq!(fs_err::read_dir(dir.path()).unwrap().count(), 1);
    }
}
