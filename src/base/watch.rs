//! Being told when something in a folder changes.

use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};

/// A file descriptor that becomes readable when a file in `dir` appears or is finished.
pub fn folder(dir: &Path) -> io::Result<OwnedFd> {
    watch(dir, WatchFlags::MOVED_TO | WatchFlags::CLOSE_WRITE)
}

/// As [`folder`], and also when a file grows.
pub fn growth(dir: &Path) -> io::Result<OwnedFd> {
    watch(dir, WatchFlags::MOVED_TO | WatchFlags::CLOSE_WRITE | WatchFlags::CREATE | WatchFlags::MODIFY)
}

fn watch(dir: &Path, flags: WatchFlags) -> io::Result<OwnedFd> {
    let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let named = |error: rustix::io::Errno| io::Error::new(error.kind(), format!("{}: {error}", dir.display()));
    inotify::add_watch(&fd, dir, flags).map_err(named)?;
    Ok(fd)
}

/// The names of what changed since the last call.
pub fn names(fd: &impl AsFd) -> Vec<OsString> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(fd, &mut buffer);
    let mut names = Vec::new();
    // An error is the end of what is there.
    while let Ok(event) = reader.next() {
        names.extend(event.file_name().map(|name| OsString::from_vec(name.to_bytes().to_vec())));
    }
    names
}
