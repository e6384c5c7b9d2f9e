//! The life of a host process: lock, record, ready, start barrier, child, end
//! of the whole tree, exit record. One thread, which waits in one place.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::fd::AsFd;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};

use super::cgroup;
use super::exec::{GO, read_spec};
use super::running::{Outputs, Running, Streams};
use super::seats::Seats;
use super::spec::{ExitRecord, HostFolder, HostRecord, HostSpec, TerminalSize};
use crate::base::fail::{self, Point};
use crate::base::wait::{Interest, Signals, wait};
use crate::base::{clock, fs, process};
use crate::model::limits::{LOCK_WAIT, START_BARRIER};
use crate::model::session::{Exit, HostIdentity};

/// Runs the host of the folder `dir` to its end. The daemon holds the other ends of standard
/// input, the start barrier, and of standard output, where one line says that the host is ready.
pub fn run(dir: &Path) -> u8 {
    match live(dir) {
        Ok(()) => 0,
        Err(error) => {
            // Standard error is a file in the folder; where even that is gone nobody can be told.
            let _ = writeln!(io::stderr(), "loom host {}: {error}", dir.display());
            70
        }
    }
}

fn live(dir: &Path) -> io::Result<()> {
    let dir = fs_err::canonicalize(dir)?;
    let folder = HostFolder::new(&dir);
    // A leader of its own session already? Then there is nothing to leave.
    let _ = rustix::process::setsid();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let signals = HostSignals::register()?;
    let spec = read_spec(&folder)?;
    fail::point(Point::BeforeHostLock)?;
    let lock = take_lock(&folder.lock())?;
    fail::point(Point::AfterHostLock)?;
    // What an earlier host of this folder left says nothing about this one.
    remove_if_there(&folder.exit())?;
    remove_if_there(&folder.grace())?;
    remove_if_there(&folder.person())?;
    let seats = open_seats(&spec);
    let host = myself();
    let cgroup = if spec.own_cgroup { cgroup::make(&host) } else { None };
    let attach_socket = seats.as_ref().map(|seats| seats.path().to_path_buf());
    let record = HostRecord { host, attach_socket, cgroup };
    fs::write_atomic(&folder.record(), &serde_json::to_vec(&record)?)?;
    let result = pass_barrier(&dir, &folder, spec, seats, signals, record.cgroup.clone());
    record.cgroup.iter().for_each(|group| cgroup::remove(group));
    // Given back last: whoever sees it free finds the exit record.
    drop(lock);
    result
}

/// Unix signals that concern a host. Hang-ups and interrupts are heard and ignored.
#[derive(Debug)]
pub struct HostSignals {
    pub child: Signals,
    pub end: Signals,
}

impl HostSignals {
    fn register() -> io::Result<HostSignals> {
        let ignored = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        for signal in [SIGHUP, SIGINT] {
            signal_hook::flag::register(signal, ignored.clone())?;
        }
        Ok(HostSignals { child: Signals::register(&[SIGCHLD])?, end: Signals::register(&[SIGTERM])? })
    }
}

fn myself() -> HostIdentity {
    let pid = std::process::id();
    let start_ticks = process::stat(pid).map_or(0, |stat| stat.start_ticks);
    HostIdentity { pid, start_ticks, boot_id: process::boot_id() }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs_err::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Takes the lock for life. Somebody who probes it holds it for a moment, so one refusal is
/// no proof of another host.
fn take_lock(path: &Path) -> io::Result<fs::Lock> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        if let Some(lock) = fs::Lock::try_take(path)? {
            return Ok(lock);
        }
        let (sender, unlocked) = mpsc::channel();
        let waited = path.to_path_buf();
        super::thread("lock", move || drop(sender.send(fs::wait_unlocked(&waited))))?;
        match unlocked.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(result) => result?,
            Err(_) => {
                let text = format!("{}: held by another host", path.display());
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
            }
        }
    }
}

/// A session that nobody can attach to is still a session: a socket that cannot be had is only reported.
fn open_seats(spec: &HostSpec) -> Option<Seats> {
    spec.terminal?;
    let path = spec.attach_socket.as_ref()?;
    match Seats::open(path) {
        Ok(seats) => Some(seats),
        Err(error) => {
            let _ = writeln!(io::stderr(), "nobody can attach: {error}");
            None
        }
    }
}

fn pass_barrier(
    dir: &Path,
    folder: &HostFolder,
    spec: HostSpec,
    seats: Option<Seats>,
    mut signals: HostSignals,
    cgroup: Option<PathBuf>,
) -> io::Result<()> {
    fail::point(Point::HostAtBarrier)?;
    let ready = io::stdout().write_all(b"ready\n").and_then(|()| io::stdout().flush());
    // Comes up while the daemon makes ready what it will see, and waits behind the same barrier.
    let prepared = Prepared::new(dir, folder, &spec);
    let let_go = ready.map_err(|error| io::Error::other(format!("the daemon is gone: {error}")));
    let let_go = let_go.and_then(|()| wait_for_go(&mut signals)).and_then(|()| detach(spec.ends_with_daemon));
    let let_go = let_go.and_then(|lifeline| fail::point(Point::BeforeChild).map(|()| lifeline));
    let started = match (let_go, prepared) {
        (Ok(lifeline), Ok(prepared)) => Ok((prepared.release(folder, &spec), lifeline)),
        (Err(why), Ok(prepared)) => {
            prepared.end();
            Err(why)
        }
        (Ok(_), Err(why)) | (Err(why), Err(_)) => Err(why),
    };
    let (mut running, lifeline) = match started {
        Ok(started) => started,
        Err(why) => {
            seats.as_ref().map(|seats| remove_if_there(seats.path())).transpose()?;
            return record_exit(folder, &never_started(why.to_string()));
        }
    };
    if let Some(Err(error)) = spec.spool.map(super::spool::start) {
        let _ = writeln!(io::stderr(), "requests from the spool are not forwarded: {error}");
    }
    running.lifeline = lifeline;
    running.seats = seats;
    running.cgroup = cgroup;
    let record = running.until_the_end(signals)?;
    record_exit(folder, &record)?;
    if let (Some(seats), Some(screen)) = (running.seats.take(), running.screen()) {
        seats.close(screen, record.exit);
    }
    Ok(())
}

/// Waits at the start barrier.
///
/// # Errors
/// Says why nothing is to be started.
fn wait_for_go(signals: &mut HostSignals) -> io::Result<()> {
    let deadline = Instant::now() + START_BARRIER;
    let stdin = rustix::stdio::stdin();
    loop {
        let ready = wait(&[Interest::read(&stdin), Interest::read(&signals.end)], Some(deadline))?;
        if ready[1].readable {
            return Err(io::Error::other("ended before it was started"));
        }
        if ready[0].readable {
            let mut byte = [0];
            return match rustix::io::read(stdin, &mut byte) {
                Ok(1) if byte == GO => Ok(()),
                _ => Err(io::Error::other("the daemon went away before the start")),
            };
        }
        if Instant::now() >= deadline {
            let text = format!("the start was not confirmed within {} s", START_BARRIER.as_secs());
            return Err(io::Error::other(text));
        }
    }
}

/// Lets go of the daemon's pipes; keeps standard input's aside when the child ends with the daemon.
fn detach(keep_lifeline: bool) -> io::Result<Option<OwnedFd>> {
    let null = fs_err::OpenOptions::new().read(true).write(true).open("/dev/null")?;
    let lifeline = match keep_lifeline {
        true => Some(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?),
        false => None,
    };
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    // The working folder of the daemon must not be kept busy by its hosts.
    std::env::set_current_dir("/")?;
    Ok(lifeline)
}

/// `loom host --exec`, which becomes the child when it hears so.
struct Prepared {
    process: Child,
    streams: Streams,
    outputs: Outputs,
    channel: UnixStream,
}

impl Prepared {
    /// Must be called from the main thread: the parent-death signal of a process is about the
    /// thread that started it.
    fn new(dir: &Path, folder: &HostFolder, spec: &HostSpec) -> io::Result<Prepared> {
        let outputs = Outputs::open(folder, spec.log_bytes_max)?;
        let (channel, theirs) = UnixStream::pair()?;
        let mut command = process::command(process::this_binary()?);
        command.arg("host").arg("--exec").arg(dir).stdin(Stdio::from(OwnedFd::from(theirs)));
        let master = match spec.terminal {
            Some(size) => {
                let (master, slave) = open_terminal(size)?;
                command.stdout(Stdio::from(slave.try_clone()?)).stderr(Stdio::from(slave));
                Some(master)
            }
            None => {
                command.stdout(Stdio::piped()).stderr(Stdio::piped());
                None
            }
        };
        let mut process = command.spawn()?;
        // Drops the terminal's other side and the child's end of the channel.
        drop(command);
        channel.set_nonblocking(true)?;
        let streams = match master {
            Some(master) => Streams { terminal: Some(master), ..Streams::default() },
            None => Streams {
                terminal: None,
                output: process.stdout.take().map(OwnedFd::from),
                error: process.stderr.take().map(OwnedFd::from),
            },
        };
        for stream in [&streams.terminal, &streams.output, &streams.error].into_iter().flatten() {
            crate::base::wait::set_nonblocking(stream)?;
        }
        Ok(Prepared { process, streams, outputs, channel })
    }

    /// Lets it become the child.
    fn release(mut self, folder: &HostFolder, spec: &HostSpec) -> Running {
        let started = Instant::now();
        // One that is gone already is noticed by its end.
        let _ = self.channel.write_all(&GO);
        fail::pass(Point::AfterChild);
        let mut running = Running::new(folder, spec, self.outputs, self.process, self.streams);
        running.channel = Some(self.channel);
        // No deadline that is too far away to be represented is ever met.
        running.deadline = started.checked_add(Duration::from_millis(spec.timeout_ms));
        running
    }

    /// Nothing is to be started: the channel closes, and it goes.
    fn end(mut self) {
        // Dead already is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Opens a new pseudo-terminal: the host's side, and the child's.
fn open_terminal(size: TerminalSize) -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::pty::OpenptFlags;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = rustix::pty::openpt(flags)?;
    rustix::pty::grantpt(&master)?;
    rustix::pty::unlockpt(&master)?;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
    set_terminal_size(&master, size)?;
    Ok((master, slave))
}

/// Gives a terminal a size; its foreground processes hear of it.
pub fn set_terminal_size(terminal: &impl AsFd, size: TerminalSize) -> io::Result<()> {
    let size = rustix::termios::Winsize { ws_row: size.rows, ws_col: size.cols, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size)?;
    Ok(())
}

/// The record of a host whose child did not run.
pub fn never_started(why: String) -> ExitRecord {
    let (ended_at, error) = (clock::now(), Some(why));
    ExitRecord { exit: Exit::NeverStarted, error, started_at: None, ended_at, leftovers: Vec::new() }
}

fn record_exit(folder: &HostFolder, record: &ExitRecord) -> io::Result<()> {
    fail::point(Point::BeforeExitRecord)?;
    fs::write_durable(&folder.exit(), &serde_json::to_vec(record)?)?;
    fail::point(Point::AfterExitRecord)
}
