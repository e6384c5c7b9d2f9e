//! A client of the loop: talks to the daemon, or, for an operator without one,
//! runs the same dispatcher for one request; an agent that cannot open sockets
//! leaves its request in the session's spool.

mod spool;

use std::io::{self, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::time::Duration;

use crate::base::clock;
use crate::base::fail::{self, Point};
use crate::base::layout::Layout;
use crate::daemon::rights::{self, Proof};
use crate::daemon::turn::Mode;
use crate::daemon::{BootError, Opened, ReadOnly, report};
use crate::model::effect::Answer;
use crate::model::event::Request;
use crate::model::refusal::{Refusal, RefusalKind};
use crate::wire::frame::{self, FrameError};
use crate::wire::picture;
use crate::wire::status::{DaemonRow, Status};
use crate::wire::{Call, ClientLine, DaemonRecord, Hello, ServerLine};

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no daemon answers in this project")]
    NoDaemon,
    #[error("the daemon will not talk to this client: {0}")]
    Refused(String),
    #[error("the daemon went away before it answered")]
    Gone,
    #[error("the daemon does not answer")]
    Mute,
    #[error("the daemon said something unexpected")]
    Frame(#[from] FrameError),
    #[error("the daemon cannot be reached")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Boot(#[from] BootError),
    #[error("{}", .0.what)]
    Request(Box<Refusal>),
}

/// A connection to the daemon.
pub struct Client {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
    /// The daemon has said hello.
    has_met: bool,
    calls: u64,
    token: Option<String>,
}

/// How long a daemon may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

impl Client {
    /// Connects and shakes hands.
    ///
    /// # Errors
    /// [`ClientError::NoDaemon`] when there is none.
    pub fn connect(layout: &Layout) -> Result<Client, ClientError> {
        let mut client = Client::open(layout)?;
        frame::write(&mut client.writer, &Hello::ours()).map_err(|_| ClientError::NoDaemon)?;
        client.meet()?;
        Ok(client)
    }

    /// Connects; the handshake goes with the first call: one round trip for both.
    fn open(layout: &Layout) -> Result<Client, ClientError> {
        let stream = UnixStream::connect(socket(layout)?).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => ClientError::NoDaemon,
            _ => ClientError::Io(error),
        })?;
        let writer = stream.try_clone()?;
        Ok(Client { reader: BufReader::new(stream), writer, has_met: false, calls: 0, token: own_token() })
    }

    fn send(&mut self, call: Call) -> Result<u64, ClientError> {
        self.calls += 1;
        let mut lines = Vec::new();
        if !self.has_met {
            frame::write(&mut lines, &Hello::ours())?;
        }
        frame::write(&mut lines, &ClientLine { id: self.calls, token: self.token.clone(), call })?;
        fail::point(Point::BeforeSend)?;
        self.writer.write_all(&lines).map_err(|_| self.silence())?;
        fail::point(Point::AfterSend)?;
        Ok(self.calls)
    }

    fn receive(&mut self) -> Result<ServerLine, ClientError> {
        if !self.has_met {
            self.meet()?;
        }
        frame::read_long(&mut self.reader).map_err(gone)?.ok_or(ClientError::Gone)
    }

    /// The daemon's hello comes before it reads a call.
    fn meet(&mut self) -> Result<(), ClientError> {
        self.reader.get_ref().set_read_timeout(Some(HELLO_TIMEOUT))?;
        let hello: Hello = match frame::read(&mut self.reader).map_err(gone) {
            Ok(Some(hello)) => hello,
            Ok(None) | Err(ClientError::Gone) => return Err(self.silence()),
            Err(ClientError::Frame(FrameError::Io(error))) if is_timeout(&error) => return Err(ClientError::Mute),
            Err(error) => return Err(error),
        };
        if let Some(why) = hello.refused {
            return Err(ClientError::Refused(why));
        }
        self.reader.get_ref().set_read_timeout(None)?;
        self.has_met = true;
        Ok(())
    }

    /// What a closed connection means. A daemon that is ending leaves those alone who were still
    /// in its queue: nothing of what they called for was done.
    fn silence(&self) -> ClientError {
        if self.has_met { ClientError::Gone } else { ClientError::NoDaemon }
    }

    pub fn request(&mut self, request: Request) -> Result<Answer, ClientError> {
        let id = self.send(Call::Request { request })?;
        loop {
            match self.receive()? {
                ServerLine::Answer { id: other, answer } if other == id => return Ok(answer),
                ServerLine::NotTaken { id: other } if other == id => return Err(ClientError::NoDaemon),
                _ => {}
            }
        }
    }

    pub fn status(&mut self) -> Result<Status, ClientError> {
        self.send(Call::Status)?;
        self.next_status()
    }

    /// The status as a person reads it.
    pub fn picture(&mut self, color: bool) -> Result<String, ClientError> {
        self.send(Call::Picture { color })?;
        loop {
            if let ServerLine::Picture { text, .. } = self.receive()? {
                return Ok(text);
            }
        }
    }

    /// From now on [`Client::next_status`] waits for changes. The first one is immediate.
    pub fn subscribe(&mut self) -> Result<(), ClientError> {
        self.send(Call::Subscribe).map(|_| ())
    }

    /// The next status.
    ///
    /// # Errors
    /// [`ClientError::Gone`] when the daemon has ended.
    pub fn next_status(&mut self) -> Result<Status, ClientError> {
        loop {
            if let ServerLine::Status { status, .. } = self.receive()? {
                return Ok(*status);
            }
        }
    }

    /// The next status, if there is one within `wait`.
    pub fn status_within(&mut self, wait: Duration) -> Result<Option<Status>, ClientError> {
        self.reader.get_ref().set_read_timeout(Some(wait.max(Duration::from_millis(1))))?;
        let status = match self.next_status() {
            Ok(status) => Ok(Some(status)),
            Err(ClientError::Frame(FrameError::Io(error))) if is_timeout(&error) => Ok(None),
            Err(error) => Err(error),
        };
        self.reader.get_ref().set_read_timeout(None)?;
        status
    }
}

/// Whether nothing came within a socket's time.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// A connection that broke off says the same as one that was closed.
fn gone(error: FrameError) -> ClientError {
    match error {
        FrameError::Io(error) if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
            ClientError::Gone
        }
        error => ClientError::Frame(error),
    }
}

fn socket(layout: &Layout) -> Result<std::path::PathBuf, ClientError> {
    // The daemon's own record is right even when this process has another runtime folder.
    let record = fs_err::read(layout.daemon_record()).ok();
    match record.and_then(|bytes| serde_json::from_slice::<DaemonRecord>(&bytes).ok()) {
        Some(record) => Ok(record.socket),
        None => Err(ClientError::NoDaemon),
    }
}

/// The token of the session that this process runs in.
fn own_token() -> Option<String> {
    let path = std::env::var_os("LOOM_TOKEN_FILE")?;
    fs_err::read_to_string(std::path::PathBuf::from(path)).ok().map(|token| token.trim().to_owned())
}

/// Whether this process runs inside a session.
pub fn is_inside_session() -> bool {
    std::env::var_os("LOOM_SESSION").is_some()
}

/// Refuses unless this process provably belongs to an operator.
pub fn require_operator(verb: &str) -> Result<(), ClientError> {
    // Who started this process is asked once: it does one thing and ends.
    static PROOF: OnceLock<Proof> = OnceLock::new();
    match PROOF.get_or_init(|| rights::prove(std::process::id())) {
        Proof::Operator => Ok(()),
        Proof::No(why) => Err(ClientError::Request(Box::new(
            Refusal::new(RefusalKind::Rights, format!("this process may not {verb}"))
                .because(why.as_str())
                .because("only a person, outside every session, may"),
        ))),
    }
}

/// Gets an answer to `request` by the way that works: the daemon, the spool of a session,
/// or this process itself.
pub fn request(layout: &Layout, request: Request) -> Result<Answer, ClientError> {
    let asked = Client::connect(layout).and_then(|mut client| client.request(request.clone()));
    let answer = match asked {
        Ok(answer) => answer,
        // The next daemon answers; asking again does no harm to what was done already.
        Err(_) if is_inside_session() => spool::request(request)?,
        Err(error) if was_not_taken(layout, &error) => {
            require_operator("change the state of this project")?;
            // Nothing is made for a request that only a plan could answer.
            if !matches!(request, Request::LoadPlan { .. }) && !layout.journal().exists() {
                return Err(BootError::NoPlan.into());
            }
            Opened::open(layout, Mode::OneRequest)?.request(request)?
        }
        Err(error) => return Err(error),
    };
    match answer {
        Answer::Refused { refusal } => Err(ClientError::Request(Box::new(refusal))),
        answer => Ok(answer),
    }
}

/// Whether nothing of the request was done. A daemon that ended by itself has removed its
/// record, after it had answered everything that it took.
fn was_not_taken(layout: &Layout, error: &ClientError) -> bool {
    match error {
        ClientError::NoDaemon => true,
        ClientError::Gone => !layout.daemon_record().exists(),
        _ => false,
    }
}

/// Tells the daemon something on which nothing depends for the caller. In a session it waits in
/// the outbox for a daemon that is not there.
pub fn tell(layout: &Layout, request: Request) {
    let told = match Client::connect(layout) {
        Ok(mut client) => client.request(request).map(|_| ()),
        Err(_) => spool::leave(request).map(|_| ()),
    };
    if let Err(error) = told {
        tracing::debug!("the daemon was not told: {error}");
    }
}

/// The status, from the daemon or from the journal.
pub fn status(layout: &Layout) -> Result<Status, ClientError> {
    match Client::open(layout).and_then(|mut client| client.status()) {
        Err(ClientError::NoDaemon | ClientError::Gone) => read_status(layout),
        answer => answer,
    }
}

/// The first status that `is_it`: the daemon's, or the journal's when there is none.
pub fn status_when(layout: &Layout, is_it: impl Fn(&Status) -> bool) -> Result<Status, ClientError> {
    let wait = || -> Result<Status, ClientError> {
        let mut client = Client::open(layout)?;
        client.subscribe()?;
        loop {
            let status = client.next_status()?;
            if is_it(&status) {
                return Ok(status);
            }
        }
    };
    match wait() {
        Err(ClientError::NoDaemon | ClientError::Gone) => read_status(layout),
        answer => answer,
    }
}

/// The status as a person reads it, from the daemon or from the journal.
pub fn picture(layout: &Layout, color: bool) -> Result<String, ClientError> {
    match Client::open(layout).and_then(|mut client| client.picture(color)) {
        Err(ClientError::NoDaemon | ClientError::Gone) => Ok(picture::render(&read_status(layout)?, color)),
        answer => answer,
    }
}

fn read_status(layout: &Layout) -> Result<Status, ClientError> {
    let git = crate::git::Git::find(&layout.project).ok();
    let read = match &git {
        Some(git) => ReadOnly::checked(layout, git)?,
        None => ReadOnly::open(layout)?,
    };
    if read.world.run.is_none()
        && let Some(trouble) = read.trouble
    {
        // There is nothing else to show.
        return Err(BootError::from(trouble).into());
    }
    let daemon = DaemonRow { running: false, pid: None, uptime_s: None };
    let run = read.world.run.as_ref();
    let tip =
        run.and_then(|run| git.as_ref()?.tip_quickly(&run.plan.branch_ref()).ok().flatten().map(|oid| oid.to_string()));
    let mut status = report::status(&read.world, daemon, tip.as_deref(), clock::now());
    status.notices.extend(fs_err::read_to_string(layout.gave_up()));
    if let Some(trouble) = read.trouble {
        status.notices.insert(0, trouble.to_string());
        status.next = vec!["loom doctor".to_owned()];
    }
    Ok(status)
}
