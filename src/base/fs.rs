//! Files that survive a power cut, and locks that the kernel of the operating
//! system gives back when their holder dies.

use std::fs::{File, TryLockError};
use std::io::{self, Write};
use std::path::Path;

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
