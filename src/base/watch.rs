//! Being told when something in a folder changes.

use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

/// Becomes readable when something changed, or, where the machine has no watch left, several
/// times a second: whoever waits looks for itself.
#[derive(Debug)]
pub struct Changes {
    fd: OwnedFd,
    is_told: bool,
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Changes {
    /// Whether changes are told, and not only looked for.
    pub fn is_told(&self) -> bool {
        self.is_told
    }
}

/// Readable when a file in `dir` appears or is finished.
pub fn folder(dir: &Path) -> io::Result<Changes> {
    watch(dir, WatchFlags::MOVED_TO | WatchFlags::CLOSE_WRITE)
}

/// As [`folder`], and also when a file grows.
pub fn growth(dir: &Path) -> io::Result<Changes> {
    watch(dir, WatchFlags::MOVED_TO | WatchFlags::CLOSE_WRITE | WatchFlags::CREATE | WatchFlags::MODIFY)
}

fn watch(dir: &Path, flags: WatchFlags) -> io::Result<Changes> {
    let told = || {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        inotify::add_watch(&fd, dir, flags)?;
        Ok(fd)
    };
    match told() {
        Ok(fd) => Ok(Changes { fd, is_told: true }),
        // No instance, or no watch, is left for this user.
        Err(rustix::io::Errno::MFILE | rustix::io::Errno::NOSPC) => Ok(Changes { fd: ticks()?, is_told: false }),
        Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", dir.display()))),
    }
}

fn ticks() -> io::Result<OwnedFd> {
    const OFTEN: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };
    let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
    let fd = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
    let often = Itimerspec { it_interval: OFTEN, it_value: OFTEN };
    rustix::time::timerfd_settime(&fd, TimerfdTimerFlags::empty(), &often)?;
    Ok(fd)
}

/// The names of what changed since the last call, as far as they were told.
pub fn names(changes: &Changes) -> Vec<OsString> {
    if !changes.is_told {
        // How often it ticked does not matter.
        let _ = rustix::io::read(&changes.fd, &mut [0_u8; 8]);
        return Vec::new();
    }
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(&changes.fd, &mut buffer);
    let mut names = Vec::new();
    // An error is the end of what is there.
    while let Ok(event) = reader.next() {
        names.extend(event.file_name().map(|name| OsString::from_vec(name.to_bytes().to_vec())));
    }
    names
}
