//! Waiting for file descriptors and unix signals, with a deadline. A host has
//! one thread, and this is where it waits.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What became of one file descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// There is something to read, or the other side is gone: a read does not block.
    pub readable: bool,
    pub writable: bool,
}

/// What to wait for on one file descriptor.
#[derive(Debug, Clone, Copy)]
pub struct Interest<'a> {
    pub fd: BorrowedFd<'a>,
    pub read: bool,
    pub write: bool,
}

impl<'a> Interest<'a> {
    pub fn read(fd: &'a impl AsFd) -> Self {
        Interest { fd: fd.as_fd(), read: true, write: false }
    }
    pub fn write(fd: &'a impl AsFd) -> Self {
        Interest { fd: fd.as_fd(), read: false, write: true }
    }
    pub fn when(fd: &'a impl AsFd, read: bool, write: bool) -> Self {
        Interest { fd: fd.as_fd(), read, write }
    }
}

/// Blocks until one of `interests` is ready or `deadline` has passed.
/// One answer for each interest, in order; nobody is ready at the deadline.
pub fn wait(interests: &[Interest<'_>], deadline: Option<Instant>) -> io::Result<Vec<Ready>> {
    let mut fds: Vec<PollFd<'_>> = interests.iter().map(poll_fd).collect();
    let timeout = deadline.map(|at| until(at, Instant::now()));
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) => Ok(fds.iter().map(|fd| ready(fd.revents())).collect()),
        // Interrupted: the signal's own socket says so in the next round.
        Err(rustix::io::Errno::INTR) => Ok(vec![Ready { readable: false, writable: false }; interests.len()]),
        Err(error) => Err(error.into()),
    }
}

/// Whether `fd` can be read, or its other side is gone, before `deadline`.
pub fn readable(fd: &impl AsFd, deadline: Instant) -> io::Result<bool> {
    loop {
        if wait(&[Interest::read(fd)], Some(deadline))?[0].readable {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
    }
}

fn poll_fd<'a>(interest: &Interest<'a>) -> PollFd<'a> {
    let mut flags = PollFlags::empty();
    flags.set(PollFlags::IN, interest.read);
    flags.set(PollFlags::OUT, interest.write);
    PollFd::from_borrowed_fd(interest.fd, flags)
}

fn ready(flags: PollFlags) -> Ready {
    let gone = flags.intersects(PollFlags::HUP | PollFlags::ERR | PollFlags::NVAL);
    Ready { readable: gone || flags.contains(PollFlags::IN), writable: gone || flags.contains(PollFlags::OUT) }
}

/// Rounded up to a millisecond, so that a deadline has passed when the wait is over.
fn until(at: Instant, now: Instant) -> Timespec {
    let left = at.saturating_duration_since(now);
    let rounded = if left.is_zero() { left } else { left + std::time::Duration::from_millis(1) };
    Timespec { tv_sec: i64::try_from(rounded.as_secs()).unwrap_or(i64::MAX), tv_nsec: rounded.subsec_nanos().into() }
}

/// The earlier of two deadlines.
pub fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Some unix signals, as a file descriptor that becomes readable.
#[derive(Debug)]
pub struct Signals {
    bell: UnixStream,
}

impl Signals {
    /// Takes over `signals` for the rest of this process.
    pub fn register(signals: &[i32]) -> io::Result<Signals> {
        let (bell, rope) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        for signal in signals {
            signal_hook::low_level::pipe::register(*signal, rope.try_clone()?)?;
        }
        Ok(Signals { bell })
    }
    /// Whether one came since the last call.
    pub fn take(&mut self) -> bool {
        let mut buffer = [0; 64];
        let mut came = false;
        while matches!(self.bell.read(&mut buffer), Ok(n) if n > 0) {
            came = true;
        }
        came
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// What a read gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Got {
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// Nothing ever again: end of file, or a terminal whose other side is closed.
    End,
}

/// Reads what is there; waits only if `fd` is a blocking one.
pub fn read(fd: &impl AsFd, buffer: &mut [u8]) -> Got {
    use rustix::io::Errno;
    match rustix::io::read(fd, buffer) {
        Ok(0) => Got::End,
        Ok(n) => Got::Bytes(n),
        Err(Errno::AGAIN | Errno::INTR) => Got::Nothing,
        Err(_) => Got::End,
    }
}

/// Makes reads and writes of `fd` return at once.
pub fn set_nonblocking(fd: &impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK)?;
    Ok(())
}
