//! The socket: hello in both directions, then calls and replies. A connection has a thread
//! for itself as long as it lasts; there are at most [`CLIENTS_MAX`] of them.

use std::io::{self, BufReader, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::base::fail::{self, Point};
use crate::base::text::sha256;
use crate::daemon::dispatcher::{Latest, Message, Window};
use crate::daemon::rights::{self, Proof};
use crate::daemon::turn::Who;
use crate::model::limits::{CLIENTS_MAX, SOCKET_PATH_BYTES_MAX};
use crate::wire::frame::{self, FrameError};
use crate::wire::picture;
use crate::wire::{Call, ClientLine, Hello, PROTOCOL_MAX, PROTOCOL_MIN, ServerLine};

/// How long a client may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a daemon that ends may take to write its last answers.
const SETTLE_MAX: Duration = Duration::from_secs(1);
/// How long a client may take to read a line.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Binds `path`, replacing what a dead daemon left. The caller holds the writer lock.
pub(super) fn bind(path: &Path) -> io::Result<UnixListener> {
    if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "the socket path {} is longer than {SOCKET_PATH_BYTES_MAX} bytes: set XDG_RUNTIME_DIR or TMPDIR to a shorter folder",
                path.display()
            ),
        ));
    }
    match fs_err::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Requests that were read and whose answers are not written yet: a daemon that ended before
/// they are would leave its clients in doubt.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    count: Mutex<usize>,
    changed: Condvar,
    /// The daemon has come to an orderly end: a request without an answer was not taken.
    takes_no_more: AtomicBool,
}

impl Unanswered {
    fn change(&self, change: impl FnOnce(usize) -> usize) {
        if let Ok(mut count) = self.count.lock() {
            *count = change(*count);
        }
        self.changed.notify_all();
    }
    /// From now on a request that gets no answer was not taken.
    pub(super) fn take_no_more(&self) {
        self.takes_no_more.store(true, Ordering::SeqCst);
    }
    /// What a client hears whose request got no answer.
    fn not_taken(&self, id: u64, writer: &mut impl Write) -> Result<Next, FrameError> {
        if self.takes_no_more.load(Ordering::SeqCst) {
            frame::write(writer, &ServerLine::NotTaken { id })?;
        }
        Ok(Next::DaemonGone)
    }
    /// Waits until there is none, for a client that reads; a slow one is not waited for.
    pub(super) fn settle(&self) {
        if let Ok(count) = self.count.lock() {
            let _ = self.changed.wait_timeout_while(count, SETTLE_MAX, |count| *count > 0);
        }
    }
}

/// Threads that wait for a client at least. Two: while one serves, another waits already, and a
/// client that only looks costs no new thread.
const ACCEPTORS: usize = 2;

/// What every thread that serves clients shares.
struct Service {
    listener: UnixListener,
    sender: Sender<Message>,
    window: Arc<Window>,
    unanswered: Arc<Unanswered>,
    clients: AtomicUsize,
    /// Threads that wait for a client.
    waiting: AtomicUsize,
}

/// Serves clients for ever, on threads of its own.
pub(super) fn serve(
    listener: UnixListener,
    sender: Sender<Message>,
    window: Arc<Window>,
) -> io::Result<Arc<Unanswered>> {
    let unanswered = Arc::new(Unanswered::default());
    let service = Arc::new(Service {
        listener,
        sender,
        window,
        unanswered: Arc::clone(&unanswered),
        clients: AtomicUsize::new(0),
        waiting: AtomicUsize::new(0),
    });
    for _ in 0..ACCEPTORS {
        wait_for_clients(&service)?;
    }
    Ok(unanswered)
}

/// One more thread that takes clients, one after the other.
fn wait_for_clients(service: &Arc<Service>) -> io::Result<()> {
    let shared = Arc::clone(service);
    service.waiting.fetch_add(1, Ordering::SeqCst);
    let body = move || {
        loop {
            let accepted = shared.listener.accept();
            // Before this client is served, for however long: somebody waits for the next.
            if shared.waiting.fetch_sub(1, Ordering::SeqCst) == 1 && wait_for_clients(&shared).is_err() {
                tracing::warn!("no thread could be started for clients: they wait for each other");
            }
            if let Ok((stream, _)) = accepted {
                shared.welcome(stream);
            }
            // One too many ends; the last one never does.
            if shared.waiting.fetch_add(1, Ordering::SeqCst) >= ACCEPTORS {
                shared.waiting.fetch_sub(1, Ordering::SeqCst);
                return;
            }
        }
    };
    let spawned = std::thread::Builder::new().name("client".to_owned()).stack_size(512 << 10).spawn(body);
    if spawned.is_err() {
        service.waiting.fetch_sub(1, Ordering::SeqCst);
    }
    spawned.map(drop)
}

impl Service {
    fn welcome(&self, stream: UnixStream) {
        if self.clients.fetch_add(1, Ordering::SeqCst) >= CLIENTS_MAX {
            refuse(stream, "too many clients are connected: try again in a moment");
        } else if let Err(error) = self.talk(stream) {
            tracing::debug!("a client left: {error}");
        }
        self.clients.fetch_sub(1, Ordering::SeqCst);
    }

    fn talk(&self, stream: UnixStream) -> Result<(), FrameError> {
        let peer = rustix::net::sockopt::socket_peercred(&stream).map_err(io::Error::from)?;
        if peer.uid != rustix::process::getuid() {
            refuse(stream, "this daemon belongs to another user");
            return Ok(());
        }
        stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
        stream.set_read_timeout(Some(HELLO_TIMEOUT))?;
        let mut writer = BufWriter::new(stream.try_clone()?);
        let mut reader = BufReader::new(stream);
        let Some(hello) = frame::read::<Hello>(&mut reader)? else { return Ok(()) };
        if hello.max < PROTOCOL_MIN || hello.min > PROTOCOL_MAX {
            let why = format!(
                "this daemon is loom {} and speaks protocol {PROTOCOL_MIN} to {PROTOCOL_MAX}, you are loom {}: run `loom stop`, then `loom run` with the newer one",
                env!("CARGO_PKG_VERSION"),
                hello.version
            );
            refuse(reader.into_inner(), &why);
            return Ok(());
        }
        frame::put(&mut writer, &Hello::ours())?;
        reader.get_ref().set_read_timeout(None)?;
        let pid = u32::try_from(peer.pid.as_raw_nonzero().get()).unwrap_or(0);
        let mut client = Client { pid, proof: None, writer };
        loop {
            // A call that came with the hello is answered with it: the client wakes once.
            if reader.buffer().is_empty() {
                client.writer.flush()?;
            }
            let Some(line) = frame::read::<ClientLine>(&mut reader)? else { return Ok(()) };
            self.unanswered.change(|count| count + 1);
            let next = self.answer(line, &mut client);
            self.unanswered.change(|count| count - 1);
            match next? {
                Next::Goes => {}
                Next::Subscribed(latest, id) => {
                    return stream_status(&latest, id, reader.get_ref(), &mut client.writer);
                }
                Next::DaemonGone => return Ok(()),
            }
        }
    }

    fn answer(&self, line: ClientLine, client: &mut Client) -> Result<Next, FrameError> {
        let id = line.id;
        match line.call {
            Call::Request { request } => {
                // Who has heard nothing at all takes it that nothing was done.
                client.writer.flush()?;
                let who = match line.token {
                    Some(token) => Who::Token(sha256(token.trim().as_bytes())),
                    None => match client.proof.get_or_insert_with(|| rights::prove(client.pid)) {
                        Proof::Operator => Who::Operator,
                        Proof::No(why) => Who::Nobody(why.clone()),
                    },
                };
                let (reply, answers) = std::sync::mpsc::channel();
                if self.sender.send(Message::Request { who, request, reply }).is_err() {
                    return self.unanswered.not_taken(id, &mut client.writer);
                }
                let Ok(answer) = answers.recv() else { return self.unanswered.not_taken(id, &mut client.writer) };
                fail::point(Point::BeforeAnswer)?;
                frame::write(&mut client.writer, &ServerLine::Answer { id, answer })?;
                fail::point(Point::AfterAnswer)?;
            }
            Call::Status => {
                let Some(status) = self.window.status() else { return Ok(Next::DaemonGone) };
                frame::write(&mut client.writer, &ServerLine::Status { id, status: Box::new(status) })?;
            }
            Call::Picture { color } => {
                let Some(status) = self.window.status() else { return Ok(Next::DaemonGone) };
                let text = picture::render(&status, color);
                frame::write(&mut client.writer, &ServerLine::Picture { id, text })?;
            }
            Call::Subscribe => {
                let Some(latest) = self.window.subscribe() else { return Ok(Next::DaemonGone) };
                return Ok(Next::Subscribed(latest, id));
            }
        }
        Ok(Next::Goes)
    }
}

/// A connection, once both sides have said hello.
struct Client {
    pid: u32,
    /// Whether it belongs to the operator, once that was asked.
    proof: Option<Proof>,
    writer: BufWriter<UnixStream>,
}

enum Next {
    Goes,
    Subscribed(Arc<Latest>, u64),
    DaemonGone,
}

fn stream_status(
    latest: &Arc<Latest>,
    id: u64,
    reader: &UnixStream,
    writer: &mut impl Write,
) -> Result<(), FrameError> {
    // A subscriber says nothing more; the end of its side is how it leaves.
    let gone = reader.try_clone()?;
    let watched = Arc::clone(latest);
    let body = move || {
        use std::io::Read;
        let mut byte = [0];
        let _ = (&gone).read(&mut byte);
        watched.close();
    };
    std::thread::Builder::new().name("subscriber".to_owned()).stack_size(64 << 10).spawn(body)?;
    while let Some(status) = latest.take() {
        frame::write(writer, &ServerLine::Status { id, status: Box::new((*status).clone()) })?;
    }
    Ok(())
}

fn refuse(mut stream: UnixStream, why: &str) {
    let hello = Hello { refused: Some(why.to_owned()), ..Hello::ours() };
    let _ = stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let _ = frame::write(&mut stream, &hello);
}

/// Removes the socket; only its owner calls this, at the end.
pub(super) fn unbind(path: &PathBuf) {
    let _ = fs_err::remove_file(path);
}
