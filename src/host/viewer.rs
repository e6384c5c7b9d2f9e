//! The viewer: shows the emulated screen of a host in this terminal, types
//! into it, and leaves the terminal as it found it.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGTERM, SIGWINCH};

use super::attach::{Frames, FromHost, FromViewer, Hello};
use super::keys::Keys;
use super::spec::TerminalSize;
use crate::base::wait::{Got, Interest, Signals, read, wait};
use crate::model::limits::VIEWERS_MAX;
use crate::model::session::Exit;

/// Why a viewer stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// By its key, or because its own terminal went away; the agent goes on.
    Detached,
    /// The agent ended. [`Exit::Lost`]: the host went away without a word.
    Ended(Exit),
}

/// Whether a viewer may type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hands {
    On,
    /// May type, in a window that nobody asked for.
    Unasked,
    /// Looks only: nothing typed reaches the agent, and the screen keeps its size.
    Off,
}

/// A lone Escape is held back this long, in case it begins the detach key.
const ESCAPE_WAIT: Duration = Duration::from_millis(20);

/// Shows the session behind `socket` until it ends or the viewer detaches with Ctrl-\.
/// Standard input and output must be a terminal.
pub fn attach(socket: &Path, hands: Hands) -> io::Result<Left> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", socket.display()));
    let stream = UnixStream::connect(socket).map_err(named)?;
    let signals =
        ViewerSignals { resized: Signals::register(&[SIGWINCH])?, leave: Signals::register(&[SIGHUP, SIGTERM])? };
    // After the signals: an early one still leaves through the restoring drop.
    let terminal = RawTerminal::enter()?;
    let mut view =
        View { stream, frames: Frames::default(), keys: Keys::default(), escape_until: None, hands, heard: false };
    let left = view.show(&terminal, signals);
    drop(terminal);
    left
}

struct ViewerSignals {
    resized: Signals,
    leave: Signals,
}

struct View {
    stream: UnixStream,
    frames: Frames,
    keys: Keys,
    escape_until: Option<Instant>,
    hands: Hands,
    /// Whether the host has said anything yet.
    heard: bool,
}

impl View {
    fn show(&mut self, terminal: &RawTerminal, mut signals: ViewerSignals) -> io::Result<Left> {
        let (interactive, unasked) = (self.hands != Hands::Off, self.hands == Hands::Unasked);
        let hello = Hello { size: terminal.size()?, interactive, unasked };
        if self.say(&FromViewer::Hello(hello)).is_err() {
            return Ok(Left::Ended(Exit::Lost));
        }
        loop {
            let ready = {
                let interests = [
                    Interest::read(&self.stream),
                    Interest::read(&terminal.input),
                    Interest::read(&signals.resized),
                    Interest::read(&signals.leave),
                ];
                wait(&interests, self.escape_until)?
            };
            if ready[0].readable
                && let Some(exit) = self.hear(terminal)?
            {
                return Ok(Left::Ended(exit));
            }
            if signals.leave.take() {
                return Ok(Left::Detached);
            }
            if signals.resized.take() {
                self.try_say(&FromViewer::Resize(terminal.size()?));
            }
            if ready[1].readable && self.take_typed(terminal) {
                return Ok(Left::Detached);
            }
            if self.escape_until.is_some_and(|at| at <= Instant::now()) {
                self.escape_until = None;
                let held = self.keys.release();
                self.type_bytes(held);
            }
        }
    }
    /// Paints what the host says; the exit when that was its last word.
    fn hear(&mut self, terminal: &RawTerminal) -> io::Result<Option<Exit>> {
        let mut buffer = [0; 32 << 10];
        match read(&self.stream, &mut buffer) {
            Got::Bytes(n) => {
                self.heard = true;
                self.frames.push(&buffer[..n]);
            }
            Got::Nothing => return Ok(None),
            Got::End if !self.heard => {
                let text = format!("the host let nobody in: it takes {VIEWERS_MAX} viewers, all of its own user");
                return Err(io::Error::new(io::ErrorKind::ConnectionRefused, text));
            }
            Got::End => return Ok(Some(Exit::Lost)),
        }
        while let Some(frame) = self.frames.next_from_host()? {
            match frame {
                FromHost::Paint(bytes) => terminal.write(&bytes)?,
                FromHost::Ended(exit) => return Ok(Some(exit)),
            }
        }
        Ok(None)
    }
    /// Whether the viewer leaves.
    fn take_typed(&mut self, terminal: &RawTerminal) -> bool {
        let mut buffer = [0; 4 << 10];
        let n = match read(&terminal.input, &mut buffer) {
            Got::Bytes(n) => n,
            Got::Nothing => return false,
            Got::End => return true,
        };
        let typed = self.keys.take(&buffer[..n]);
        self.type_bytes(typed.bytes);
        self.escape_until = self.keys.holds().then(|| Instant::now() + ESCAPE_WAIT);
        typed.detaches
    }
    fn type_bytes(&mut self, bytes: Vec<u8>) {
        if !bytes.is_empty() && self.hands != Hands::Off {
            self.try_say(&FromViewer::Input(bytes));
        }
    }
    /// A host that does not listen any more has something to say: it is heard next.
    fn try_say(&mut self, frame: &FromViewer) {
        let _ = self.say(frame);
    }
    fn say(&mut self, frame: &FromViewer) -> io::Result<()> {
        self.stream.write_all(&frame.encode()?)
    }
}

/// This terminal in raw mode, on its alternate screen; back to normal when dropped, on every way out.
struct RawTerminal {
    input: BorrowedFd<'static>,
    before: Termios,
}

/// Title kept, alternate screen, no automatic wrap: rows are painted one by one.
const ENTER: &[u8] = b"\x1b[22;0t\x1b[?1049h\x1b[?7l\x1b[m\x1b[2J\x1b[H";
/// Undoes every mode that paint can switch on, then what `ENTER` did.
const LEAVE: &[u8] = b"\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?9l\x1b[?1005l\x1b[?1006l\x1b[?2004l\x1b[?1l\x1b>\
    \x1b[0 q\x1b[m\x1b[r\x1b[?7h\x1b[?25h\x1b[?1049l\x1b[?25h\x1b[m\x1b[23;0t";

impl RawTerminal {
    fn enter() -> io::Result<RawTerminal> {
        let input = rustix::stdio::stdin();
        if !rustix::termios::isatty(input) || !rustix::termios::isatty(rustix::stdio::stdout()) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "attaching needs a terminal"));
        }
        let before = tcgetattr(input)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(input, OptionalActions::Now, &raw)?;
        let terminal = RawTerminal { input, before };
        terminal.write(ENTER)?;
        Ok(terminal)
    }
    fn size(&self) -> io::Result<TerminalSize> {
        let size = tcgetwinsize(rustix::stdio::stdout())?;
        Ok(TerminalSize { rows: size.ws_row.max(1), cols: size.ws_col.max(1) })
    }
    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that is gone needs no repair.
        let _ = self.write(LEAVE);
        let _ = tcsetattr(self.input, OptionalActions::Flush, &self.before);
    }
}
