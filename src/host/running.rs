//! A host while its child lives: output goes to disk and screen, viewers are
//! served, deadlines are met, and at the end the whole tree is gone.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::cgroup;
use super::life::{HostSignals, never_started, set_terminal_size};
use super::output::Output;
use super::screen::Screen;
use super::seats::Seats;
use super::spec::{ExitRecord, HostFolder, HostSpec};
use super::tree;
use crate::base::clock;
use crate::base::wait::{Got, Interest, Ready, earlier, read, wait};
use crate::model::limits::{
    DRAIN_MAX, END_GRACE, KILL_AGAIN, KILL_GRACE, LEFTOVER_GRACE, PAINT_EVERY, PERSON_NOTED_EVERY, TYPED_BYTES_MAX,
};
use crate::model::session::Exit;

/// The host's sides of what the child writes to.
#[derive(Debug, Default)]
pub struct Streams {
    pub terminal: Option<OwnedFd>,
    pub output: Option<OwnedFd>,
    pub error: Option<OwnedFd>,
}

/// Where the host keeps what it reads there.
#[derive(Debug)]
pub struct Outputs {
    output: Output,
    error: Output,
}

impl Outputs {
    pub fn open(folder: &HostFolder, bytes_max: u64) -> io::Result<Outputs> {
        Ok(Outputs {
            output: Output::open(folder.log(), folder.old_log(), bytes_max)?,
            error: Output::open(folder.error_log(), folder.old_error_log(), bytes_max)?,
        })
    }
}

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Living,
    /// Asked to end; killed at this time.
    Ending {
        kill_at: Instant,
    },
    /// Killed; what forked meanwhile is killed again at one time, and given up at the other.
    Killing {
        again_at: Instant,
        give_up_at: Instant,
    },
}

/// A started child and all that its host does for it.
pub struct Running {
    folder: HostFolder,
    child: Child,
    status: Option<ExitStatus>,
    phase: Phase,
    /// Some child may have died since the last look.
    deaths: bool,
    streams: Streams,
    outputs: Outputs,
    screen: Option<Screen>,
    /// Typed by viewers or answered by the screen, not yet taken by the agent.
    typed: Vec<u8>,
    /// Open until the child has become the agent; what comes through it is why it could not.
    pub channel: Option<UnixStream>,
    start_error: Vec<u8>,
    /// Its other end is the daemon's: closed means that the daemon is gone.
    pub lifeline: Option<OwnedFd>,
    pub seats: Option<Seats>,
    /// Holds the child and whatever came from it.
    pub cgroup: Option<PathBuf>,
    /// What was written down last about a person at the terminal, and when.
    person: Option<(bool, Instant)>,
    pub deadline: Option<Instant>,
    paint_at: Option<Instant>,
    painted_at: Option<Instant>,
    timed_out: bool,
    loses_output: bool,
    /// Outlived the child: their names.
    leftovers: BTreeMap<u32, String>,
    started_at: jiff::Timestamp,
    buffer: Vec<u8>,
}

/// Whose readiness an answer of the wait is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Child,
    End,
    Lifeline,
    Channel,
    Terminal,
    Output,
    Error,
    Seats,
}

impl Running {
    pub fn new(folder: &HostFolder, spec: &HostSpec, outputs: Outputs, child: Child, streams: Streams) -> Running {
        Running {
            folder: folder.clone(),
            child,
            status: None,
            phase: Phase::Living,
            deaths: true,
            streams,
            outputs,
            screen: spec.terminal.map(Screen::new),
            typed: Vec::new(),
            channel: None,
            start_error: Vec::new(),
            lifeline: None,
            seats: None,
            cgroup: None,
            person: None,
            deadline: None,
            paint_at: None,
            painted_at: None,
            timed_out: false,
            loses_output: false,
            leftovers: BTreeMap::new(),
            started_at: clock::now(),
            buffer: vec![0; 64 << 10],
        }
    }
    /// The emulated screen, if the child has a terminal.
    pub fn screen(&self) -> Option<&Screen> {
        self.screen.as_ref()
    }
    /// Serves until the child and all its descendants are gone; says how it ended.
    pub fn until_the_end(&mut self, mut signals: HostSignals) -> io::Result<ExitRecord> {
        loop {
            if std::mem::take(&mut self.deaths) {
                self.notice_deaths();
                if self.is_over() {
                    self.drain();
                    return Ok(self.record());
                }
            }
            self.turn(&mut signals)?;
            self.meet_deadlines();
        }
    }
    fn turn(&mut self, signals: &mut HostSignals) -> io::Result<()> {
        let deadline = self.next_deadline();
        let (sources, seats_at, ready) = {
            let mut sources = vec![Source::Child, Source::End];
            let mut interests = vec![Interest::read(&signals.child), Interest::read(&signals.end)];
            let writes = !self.typed.is_empty();
            let mut add = |source, interest| {
                sources.push(source);
                interests.push(interest);
            };
            if let Some(fd) = &self.lifeline {
                add(Source::Lifeline, Interest::read(fd));
            }
            if let Some(fd) = &self.channel {
                add(Source::Channel, Interest::read(fd));
            }
            if let Some(fd) = &self.streams.terminal {
                add(Source::Terminal, Interest::when(fd, true, writes));
            }
            if let Some(fd) = &self.streams.output {
                add(Source::Output, Interest::read(fd));
            }
            if let Some(fd) = &self.streams.error {
                add(Source::Error, Interest::read(fd));
            }
            let seats_at = interests.len();
            if let Some(seats) = &self.seats {
                sources.push(Source::Seats);
                interests.extend(seats.interests(self.typed.len() < TYPED_BYTES_MAX));
            }
            let ready = wait(&interests, deadline)?;
            (sources, seats_at, ready)
        };
        for (at, source) in sources.into_iter().enumerate() {
            let mine = if source == Source::Seats { &ready[seats_at..] } else { &ready[at..=at] };
            if mine.iter().any(|ready| ready.readable || ready.writable) {
                self.serve(source, mine, signals);
            }
        }
        Ok(())
    }
    fn serve(&mut self, source: Source, ready: &[Ready], signals: &mut HostSignals) {
        match source {
            Source::Child => self.deaths |= signals.child.take(),
            Source::End => {
                if signals.end.take() {
                    self.end(self.grace());
                }
            }
            Source::Lifeline => {
                if self.lifeline.as_ref().is_some_and(|fd| read(fd, &mut [0; 8]) == Got::End) {
                    self.lifeline = None;
                    self.end(self.grace());
                }
            }
            Source::Channel => self.hear_start_error(),
            Source::Terminal => {
                if ready[0].writable {
                    self.type_to_agent();
                }
                if ready[0].readable {
                    self.take_output(Source::Terminal);
                }
            }
            Source::Output | Source::Error => {
                self.take_output(source);
            }
            Source::Seats => self.serve_viewers(ready),
        }
    }
    /// Empty until the exec: then either the end of the stream, or first why not.
    fn hear_start_error(&mut self) {
        let Some(channel) = &self.channel else { return };
        match read(channel, &mut self.buffer) {
            Got::Bytes(n) => self.start_error.extend_from_slice(&self.buffer[..n]),
            Got::Nothing => {}
            Got::End => self.channel = None,
        }
    }
    fn serve_viewers(&mut self, ready: &[Ready]) {
        let Some(seats) = &mut self.seats else { return };
        let wishes = seats.serve(ready);
        if let (Some(size), Some(screen), Some(terminal)) = (wishes.size, &mut self.screen, &self.streams.terminal)
            && size != screen.size()
        {
            // A terminal that is gone has no size to set; its end is seen elsewhere.
            let _ = set_terminal_size(terminal, screen.resize(size));
        }
        let is_attended = seats.is_attended();
        self.note_person(is_attended, !wishes.typed.is_empty());
        self.typed.extend_from_slice(&wishes.typed);
        self.type_to_agent();
        self.want_paint();
    }
    /// Who is under a person's hands is not ended for its silence.
    fn note_person(&mut self, is_attended: bool, types: bool) {
        let is_news = match self.person {
            Some((was_attended, at)) => was_attended != is_attended || types && at.elapsed() >= PERSON_NOTED_EVERY,
            None => is_attended || types,
        };
        if is_news {
            self.person = Some((is_attended, Instant::now()));
            let text = if is_attended { "attached" } else { "left" };
            if let Err(error) = crate::base::fs::write_atomic(&self.folder.person(), text.as_bytes()) {
                let _ = writeln!(io::stderr(), "that a person is here was not noted: {error}");
            }
        }
    }
    fn type_to_agent(&mut self) {
        let Some(terminal) = &self.streams.terminal else {
            self.typed.clear();
            return;
        };
        while !self.typed.is_empty() {
            match rustix::io::write(terminal, &self.typed) {
                Ok(n) => drop(self.typed.drain(..n)),
                Err(_) => return,
            }
        }
    }
    /// Reads once from a stream of the child; whether there may be more.
    fn take_output(&mut self, source: Source) -> bool {
        let (stream, output) = match source {
            Source::Terminal => (&mut self.streams.terminal, &mut self.outputs.output),
            Source::Output => (&mut self.streams.output, &mut self.outputs.output),
            _ => (&mut self.streams.error, &mut self.outputs.error),
        };
        let Some(fd) = stream else { return false };
        let n = match read(fd, &mut self.buffer) {
            Got::Bytes(n) => n,
            Got::Nothing => return false,
            Got::End => {
                *stream = None;
                return false;
            }
        };
        let kept = output.keep(&self.buffer[..n]);
        // A full disk costs output, not the agent; it is reported once, until output is kept again.
        if let (false, Err(error)) = (self.loses_output, &kept) {
            let _ = writeln!(io::stderr(), "output was lost: {error}");
        }
        self.loses_output = kept.is_err();
        if let Some(screen) = &mut self.screen {
            screen.feed(&self.buffer[..n]);
            let answers = screen.take_answers();
            if self.typed.len() + answers.len() <= TYPED_BYTES_MAX {
                self.typed.extend_from_slice(&answers);
            }
            self.type_to_agent();
            self.want_paint();
        }
        true
    }
    /// Paints soon: at once after a pause, and not more often than viewers can see.
    fn want_paint(&mut self) {
        if self.seats.is_none() {
            return;
        }
        let earliest = self.painted_at.map_or_else(Instant::now, |at| at + PAINT_EVERY);
        self.paint_at.get_or_insert(earliest);
    }
    fn paint(&mut self) {
        self.paint_at = None;
        self.painted_at = Some(Instant::now());
        if let (Some(seats), Some(screen)) = (&mut self.seats, &self.screen) {
            seats.paint(screen);
        }
    }
    fn next_deadline(&self) -> Option<Instant> {
        let end = match self.phase {
            Phase::Living => self.deadline,
            Phase::Ending { kill_at } => Some(kill_at),
            Phase::Killing { again_at, .. } => Some(again_at),
        };
        earlier(end, self.paint_at)
    }
    fn meet_deadlines(&mut self) {
        let now = Instant::now();
        if self.paint_at.is_some_and(|at| at <= now) {
            self.paint();
        }
        match self.phase {
            Phase::Living if self.deadline.is_some_and(|at| at <= now) => {
                self.timed_out = true;
                self.end(self.grace());
            }
            Phase::Ending { kill_at } if kill_at <= now => {
                self.phase = Phase::Killing { again_at: now, give_up_at: now + KILL_GRACE };
                self.deaths = true;
            }
            Phase::Killing { again_at, .. } if again_at <= now => self.deaths = true,
            _ => {}
        }
    }
    /// How long the tree may take to end by itself: `end` may have left a wish.
    fn grace(&self) -> Duration {
        let wish = fs_err::read_to_string(self.folder.grace()).ok().and_then(|text| text.trim().parse().ok());
        wish.map_or(END_GRACE, Duration::from_millis)
    }
    /// Asks the whole tree to end, once; a second time shortens the grace at most.
    fn end(&mut self, grace: Duration) {
        let kill_at = Instant::now() + grace;
        match self.phase {
            Phase::Living => {
                self.phase = Phase::Ending { kill_at };
                tree::signal_all(&tree::descendants(std::process::id()), Signal::TERM);
            }
            Phase::Ending { kill_at: before } => self.phase = Phase::Ending { kill_at: kill_at.min(before) },
            Phase::Killing { .. } => {}
        }
    }
    fn kill_all(&mut self) {
        let left = tree::descendants(std::process::id());
        self.name_leftovers(&left);
        self.cgroup.iter().for_each(|group| cgroup::kill(group));
        tree::signal_all(&left, Signal::KILL);
    }
    fn name_leftovers(&mut self, pids: &[u32]) {
        if self.status.is_some() {
            let named = pids.iter().map(|pid| (*pid, tree::name(*pid)));
            self.leftovers.extend(named.filter(|(_, name)| !name.is_empty()));
        }
    }
    /// Reaps what died. The child's own end begins the end of what it left behind.
    fn notice_deaths(&mut self) {
        if self.status.is_none() {
            self.status = self.child.try_wait().unwrap_or(None);
        }
        tree::reap_orphans(self.status.is_none().then(|| self.child.id()));
        match self.phase {
            Phase::Living if self.status.is_some() => {
                let left = tree::descendants(std::process::id());
                if !left.is_empty() {
                    self.name_leftovers(&left);
                    self.phase = Phase::Ending { kill_at: Instant::now() + LEFTOVER_GRACE };
                    tree::signal_all(&left, Signal::TERM);
                }
            }
            // What forked while it was killed has come to us since.
            Phase::Killing { give_up_at, .. } => {
                self.phase = Phase::Killing { again_at: Instant::now() + KILL_AGAIN, give_up_at };
                self.kill_all();
            }
            _ => {}
        }
    }
    fn is_over(&self) -> bool {
        match self.phase {
            Phase::Killing { give_up_at, .. } if give_up_at <= Instant::now() => true,
            _ => self.status.is_some() && tree::is_childless(),
        }
    }
    /// Takes the last output: everybody who could write is gone, so it ends soon.
    fn drain(&mut self) {
        let deadline = Instant::now() + DRAIN_MAX;
        self.hear_start_error();
        for source in [Source::Terminal, Source::Output, Source::Error] {
            while let Some(fd) = self.stream(source) {
                if !crate::base::wait::readable(fd, deadline).unwrap_or(false) {
                    break;
                }
                self.take_output(source);
            }
        }
    }
    fn stream(&self, source: Source) -> Option<&OwnedFd> {
        match source {
            Source::Terminal => self.streams.terminal.as_ref(),
            Source::Output => self.streams.output.as_ref(),
            _ => self.streams.error.as_ref(),
        }
    }
    fn record(&self) -> ExitRecord {
        if !self.start_error.is_empty() {
            return never_started(String::from_utf8_lossy(&self.start_error).into_owned());
        }
        let exit = match self.status {
            _ if self.timed_out => Exit::TimedOut,
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => Exit::Code { code },
                (None, signal) => Exit::UnixSignal { signal: signal.unwrap_or(0) },
            },
            // Killed, and still hanging in the kernel.
            None => Exit::UnixSignal { signal: Signal::KILL.as_raw() },
        };
        // Only what hangs in the kernel is there still.
        let there = tree::descendants(std::process::id());
        let leftover = |(pid, name): (&u32, &String)| match there.contains(pid) {
            true => format!("{name} ({pid}, still there)"),
            false => format!("{name} ({pid})"),
        };
        let leftovers = self.leftovers.iter().map(leftover).collect();
        ExitRecord { exit, error: None, started_at: Some(self.started_at), ended_at: clock::now(), leftovers }
    }
}
