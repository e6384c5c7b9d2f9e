//! The host's side of attaching: the socket, and one seat for every viewer.
//! A seat holds at most one frame that its viewer has not taken yet; until
//! then it is only marked as behind. So a viewer that stops reading costs one
//! frame and never holds up the agent.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::attach::{Frames, FromHost, FromViewer};
use super::screen::{Screen, Shown};
use super::spec::TerminalSize;
use crate::base::wait::{Interest, Ready, wait};
use crate::model::limits::{DRAIN_MAX, VIEWERS_MAX};
use crate::model::session::Exit;

/// The attach socket and who sits there.
#[derive(Debug)]
pub struct Seats {
    path: PathBuf,
    listener: UnixListener,
    seats: Vec<Seat>,
    /// Who gives the screen its size: the viewer that typed last, and before any typing the first interactive one.
    sizes_by: Option<u64>,
    next_id: u64,
    /// No file descriptor was left for a newcomer: nobody is let in until one may be free.
    is_full: bool,
}

#[derive(Debug)]
struct Seat {
    id: u64,
    stream: UnixStream,
    frames: Frames,
    size: TerminalSize,
    said_hello: bool,
    interactive: bool,
    /// A person has come to it.
    asked: bool,
    shown: Shown,
    pending: Vec<u8>,
    is_gone: bool,
}

/// What viewers want from the agent's terminal.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    pub typed: Vec<u8>,
    pub size: Option<TerminalSize>,
}

impl Seats {
    /// Opens the socket at `path` for this user alone. Only its host may call this for a session:
    /// what lies there is taken for the socket of a dead one.
    pub fn open(path: &Path) -> io::Result<Seats> {
        match fs_err::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // The mask, not a later chmod: the socket is never open to others.
        let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
        let bound = UnixListener::bind(path);
        rustix::process::umask(mask);
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let listener = bound.map_err(named)?;
        listener.set_nonblocking(true)?;
        Ok(Seats { path: path.to_path_buf(), listener, seats: Vec::new(), sizes_by: None, next_id: 0, is_full: false })
    }
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// Whether a person has come to look.
    pub fn is_attended(&self) -> bool {
        self.seats.iter().any(|seat| seat.said_hello && seat.asked)
    }
    /// What to wait for: new viewers first, then every seat in order. While the agent
    /// does not read what was typed, nobody's typing is read either.
    pub fn interests(&self, agent_reads: bool) -> Vec<Interest<'_>> {
        let seats = self.seats.iter().map(|seat| Interest::when(&seat.stream, agent_reads, !seat.pending.is_empty()));
        std::iter::once(Interest::when(&self.listener, !self.is_full, false)).chain(seats).collect()
    }
    /// Serves those that are ready, as [`Seats::interests`] named them.
    pub fn serve(&mut self, ready: &[Ready]) -> Wishes {
        let mut wishes = Wishes::default();
        for (at, ready) in ready.iter().skip(1).enumerate() {
            if ready.readable {
                self.hear(at, &mut wishes);
            }
            if ready.writable {
                self.seats[at].flush();
            }
        }
        self.leave();
        if ready.first().is_some_and(|listener| listener.readable) {
            self.welcome();
        }
        wishes
    }
    fn leave(&mut self) {
        self.seats.retain(|seat| !seat.is_gone);
        if self.seats.iter().all(|seat| Some(seat.id) != self.sizes_by) {
            self.sizes_by = None;
        }
    }
    fn welcome(&mut self) {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) => {
                    self.is_full = !is_later(&error);
                    return;
                }
            };
            // Beyond the limit, or another user: closed without a word.
            if self.seats.len() < VIEWERS_MAX && is_ours(&stream) && stream.set_nonblocking(true).is_ok() {
                self.seats.push(Seat::new(self.next_id, stream));
                self.next_id += 1;
            }
        }
    }
    fn hear(&mut self, at: usize, wishes: &mut Wishes) {
        let seat = &mut self.seats[at];
        seat.read();
        loop {
            match seat.frames.next_from_viewer() {
                Ok(None) => return,
                Err(_) => {
                    seat.is_gone = true;
                    return;
                }
                Ok(Some(FromViewer::Hello(hello))) => {
                    seat.said_hello = true;
                    seat.interactive = hello.interactive;
                    seat.asked = !hello.unasked;
                    seat.size = hello.size;
                    if hello.interactive && self.sizes_by.is_none() {
                        self.sizes_by = Some(seat.id);
                        wishes.size = Some(hello.size);
                    }
                }
                Ok(Some(FromViewer::Resize(size))) => {
                    seat.size = size;
                    if self.sizes_by == Some(seat.id) {
                        wishes.size = Some(size);
                    }
                }
                Ok(Some(FromViewer::Input(bytes))) if seat.interactive => {
                    wishes.typed.extend_from_slice(&bytes);
                    wishes.size = Some(seat.size);
                    self.sizes_by = Some(seat.id);
                }
                Ok(Some(FromViewer::Input(_))) => {}
            }
        }
    }
    /// Paints for every viewer that took its last frame.
    pub fn paint(&mut self, screen: &Screen) {
        self.is_full = false;
        for seat in self.seats.iter_mut().filter(|seat| seat.said_hello && seat.pending.is_empty()) {
            let paint = screen.paint(seat.size, &mut seat.shown);
            if !paint.is_empty() {
                seat.send(&FromHost::Paint(paint));
            }
        }
        self.leave();
    }
    /// Tells everybody how it ended and closes the socket. Who does not listen is not waited for long.
    pub fn close(mut self, screen: &Screen, exit: Exit) {
        let deadline = Instant::now() + DRAIN_MAX;
        // Who came at the last moment sees the last screen too.
        self.welcome();
        for at in 0..self.seats.len() {
            self.hear(at, &mut Wishes::default());
        }
        self.flush_until(deadline);
        self.paint(screen);
        self.flush_until(deadline);
        for seat in &mut self.seats {
            seat.send(&FromHost::Ended(exit));
        }
        self.flush_until(deadline);
        // Gone already is as good.
        let _ = fs_err::remove_file(&self.path);
    }
    fn flush_until(&mut self, deadline: Instant) {
        loop {
            self.seats.retain(|seat| !seat.is_gone);
            let behind: Vec<usize> = (0..self.seats.len()).filter(|at| !self.seats[*at].pending.is_empty()).collect();
            if behind.is_empty() || Instant::now() >= deadline {
                return;
            }
            let interests: Vec<Interest<'_>> =
                behind.iter().map(|at| Interest::write(&self.seats[*at].stream)).collect();
            let Ok(ready) = wait(&interests, Some(deadline)) else { return };
            for (at, ready) in behind.iter().zip(ready) {
                if ready.writable {
                    self.seats[*at].flush();
                }
            }
        }
    }
}

/// Whether the other side runs as the same user.
fn is_ours(stream: &UnixStream) -> bool {
    rustix::net::sockopt::socket_peercred(stream).is_ok_and(|peer| peer.uid == rustix::process::geteuid())
}

impl Seat {
    fn new(id: u64, stream: UnixStream) -> Seat {
        Seat {
            id,
            stream,
            frames: Frames::default(),
            size: TerminalSize { rows: 24, cols: 80 },
            said_hello: false,
            interactive: false,
            asked: false,
            shown: Shown::default(),
            pending: Vec::new(),
            is_gone: false,
        }
    }
    fn read(&mut self) {
        let mut buffer = [0; 16 << 10];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.is_gone = true,
            Ok(n) => self.frames.push(&buffer[..n]),
            Err(error) if is_later(&error) => {}
            Err(_) => self.is_gone = true,
        }
    }
    fn send(&mut self, frame: &FromHost) {
        match frame.encode() {
            Ok(bytes) => self.pending.extend_from_slice(&bytes),
            Err(_) => self.is_gone = true,
        }
        self.flush();
    }
    fn flush(&mut self) {
        while !self.pending.is_empty() {
            match self.stream.write(&self.pending) {
                Ok(n) => drop(self.pending.drain(..n)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_later(&error) => return,
                Err(_) => {
                    self.is_gone = true;
                    self.pending.clear();
                }
            }
        }
        self.pending.shrink_to(0);
    }
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
