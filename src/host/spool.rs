//! The file door to the daemon, for agents whose sandbox opens no sockets:
//! a request is a file `<id>.req`, renamed into the outbox; its answer becomes
//! `<id>.reply`. The host adds the session's token and understands nothing
//! else of what it forwards. While no daemon is there, requests wait.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Instant;

use serde_json::{Value, json};

use super::spec::Spool;
use crate::base::fail::{self, Point};
use crate::base::fs::write_atomic;
use crate::base::wait::{Got, Interest, read, wait};
use crate::base::watch;
use crate::model::effect::Answer;
use crate::model::limits::{COMPLETE_WAIT, FRAME_BYTES_MAX, SPOOL_FILE_BYTES_MAX, SPOOL_FORWARDS_MAX, SPOOL_RETRY};
use crate::model::refusal::Refusal;

/// Forwards requests until this process ends.
pub fn start(spool: Spool) -> io::Result<()> {
    let (bell, rope) = UnixStream::pair()?;
    bell.set_nonblocking(true)?;
    let (sender, results) = mpsc::channel();
    // A host that is told nothing looks by itself, more slowly than a watch would tick.
    let told = |dir: &Path| watch::folder(dir).ok().filter(watch::Changes::is_told);
    let outbox = told(&spool.outbox);
    let record = spool.daemon_record.parent().and_then(told);
    let door = Door {
        spool,
        outbox,
        record,
        bell,
        rope,
        sender,
        results,
        busy: BTreeMap::new(),
        daemons_seen: 0,
        parked: BTreeSet::new(),
    };
    super::thread("spool", move || door.keep())
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Forwarded {
    Answered,
    /// Nobody answered: it waits for the next daemon.
    Unanswered,
}

struct Door {
    spool: Spool,
    outbox: Option<watch::Changes>,
    record: Option<watch::Changes>,
    bell: UnixStream,
    rope: UnixStream,
    sender: mpsc::Sender<(PathBuf, Forwarded)>,
    results: mpsc::Receiver<(PathBuf, Forwarded)>,
    /// Being forwarded now, and how many daemons had been seen when that began.
    busy: BTreeMap<PathBuf, u64>,
    daemons_seen: u64,
    /// Waiting for a daemon.
    parked: BTreeSet<PathBuf>,
}

impl Door {
    fn keep(mut self) {
        loop {
            self.forward_all();
            // Without a watch, or for a daemon that went away without a trace, the deadline looks again.
            let blind = self.outbox.is_none() || self.record.is_none();
            let deadline = (blind || !self.parked.is_empty()).then(|| Instant::now() + SPOOL_RETRY);
            let fds = [
                Some(Interest::read(&self.bell)),
                self.outbox.as_ref().map(Interest::read),
                self.record.as_ref().map(Interest::read),
            ];
            let interests: Vec<Interest<'_>> = fds.into_iter().flatten().collect();
            if wait(&interests, deadline).is_err() {
                return;
            }
            self.take_results();
            self.outbox.as_ref().map(watch::names);
            let record = self.spool.daemon_record.file_name();
            let is_new = self
                .record
                .as_ref()
                .is_some_and(|fd| watch::names(fd).iter().any(|name| Some(name.as_os_str()) == record));
            if is_new || deadline.is_some_and(|at| at <= Instant::now()) {
                self.parked.clear();
                self.daemons_seen += 1;
            }
        }
    }
    fn take_results(&mut self) {
        while matches!(read(&self.bell, &mut [0; 64]), Got::Bytes(_)) {}
        while let Ok((path, forwarded)) = self.results.try_recv() {
            let seen = self.busy.remove(&path);
            // A daemon that came meanwhile has not been asked yet.
            if forwarded == Forwarded::Unanswered && seen == Some(self.daemons_seen) {
                self.parked.insert(path);
            }
        }
    }
    fn forward_all(&mut self) {
        let Ok(entries) = fs_err::read_dir(&self.spool.outbox) else { return };
        let mut requests: Vec<PathBuf> =
            entries.flatten().map(|entry| entry.path()).filter(|path| is_request(path)).collect();
        requests.sort();
        self.parked.retain(|path| requests.contains(path));
        for path in requests {
            if self.busy.len() < SPOOL_FORWARDS_MAX && !self.busy.contains_key(&path) && !self.parked.contains(&path) {
                self.forward(path);
            }
        }
    }
    fn forward(&mut self, path: PathBuf) {
        let (spool, sender) = (self.spool.clone(), self.sender.clone());
        let Ok(mut rope) = self.rope.try_clone() else { return };
        let request = path.clone();
        let work = move || {
            let forwarded = forward(&spool, &request);
            // The other ends live as long as this process.
            let _ = sender.send((request, forwarded));
            let _ = rope.write_all(b".");
        };
        match super::thread("forward", work) {
            Ok(()) => drop(self.busy.insert(path, self.daemons_seen)),
            Err(_) => drop(self.parked.insert(path)),
        }
    }
}

fn is_request(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "req")
}

/// Forwards one request and leaves its answer.
fn forward(spool: &Spool, path: &Path) -> Forwarded {
    let reply = match read_request(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Forwarded::Answered,
        Err(error) => refused(0, &error.to_string()),
        Ok(request) => match fail::point(Point::BeforeSpoolForward).and_then(|()| ask(spool, request)) {
            Ok(reply) if is_not_taken(&reply) => return Forwarded::Unanswered,
            Ok(reply) => reply,
            Err(_) => return Forwarded::Unanswered,
        },
    };
    fail::pass(Point::AfterSpoolForward);
    let left = write_atomic(&path.with_extension("reply"), &reply).and_then(|()| fs_err::remove_file(path));
    if let Err(error) = left {
        // Asked again it would be answered again: parked, so that a full disk makes no storm of it.
        let _ = writeln!(io::stderr(), "an answer could not be left: {error}");
        return Forwarded::Unanswered;
    }
    Forwarded::Answered
}

/// Whether the daemon came to its end before it took the request: the next one may.
fn is_not_taken(reply: &[u8]) -> bool {
    serde_json::from_slice::<Value>(reply).is_ok_and(|reply| reply.get("not-taken").is_some())
}

/// Reads a request. The agent owns the outbox: links and pipes in it are not followed.
fn read_request(path: &Path) -> io::Result<serde_json::Map<String, Value>> {
    use rustix::fs::{Mode, OFlags};
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", path.display()));
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = std::fs::File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(invalid("not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(SPOOL_FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SPOOL_FILE_BYTES_MAX {
        return Err(invalid(format!("longer than {SPOOL_FILE_BYTES_MAX} bytes")));
    }
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(request)) => Ok(request),
        Ok(_) => Err(invalid("not a JSON object".to_owned())),
        Err(error) => Err(invalid(error.to_string())),
    }
}

fn refused(id: u64, why: &str) -> Vec<u8> {
    let answer = Answer::Refused { refusal: Refusal::user("the request cannot be forwarded").because(why) };
    let mut line = json!({ "answer": { "id": id, "answer": answer } }).to_string().into_bytes();
    line.push(b'\n');
    line
}

/// Where the daemon listens; the rest of its record is none of a host's business.
#[derive(serde::Deserialize)]
struct DaemonSocket {
    socket: PathBuf,
}

/// Asks the daemon. An error: there is none, or it went away before it answered.
fn ask(spool: &Spool, mut request: serde_json::Map<String, Value>) -> io::Result<Vec<u8>> {
    let record: DaemonSocket = serde_json::from_slice(&fs_err::read(&spool.daemon_record)?)?;
    let token = fs_err::read_to_string(&spool.token_file)?;
    let id = request.get("id").cloned().unwrap_or(Value::from(0));
    request.insert("token".to_owned(), Value::from(token.trim()));
    let stream = UnixStream::connect(&record.socket)?;
    stream.set_read_timeout(Some(COMPLETE_WAIT * 2))?;
    stream.set_write_timeout(Some(COMPLETE_WAIT))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    say(&stream, &json!({ "min": 1, "max": 1, "version": env!("CARGO_PKG_VERSION") }))?;
    let hello: Value = serde_json::from_slice(&line(&mut reader)?)?;
    if let Some(why) = hello.get("refused").and_then(Value::as_str) {
        return Ok(refused(id.as_u64().unwrap_or(0), why));
    }
    say(&stream, &Value::Object(request))?;
    loop {
        let line = line(&mut reader)?;
        // Around the fields of a line is its name.
        let said: Value = serde_json::from_slice(&line)?;
        if said.as_object().is_some_and(|said| said.values().any(|fields| fields.get("id") == Some(&id))) {
            return Ok(line);
        }
    }
}

fn say(mut stream: &UnixStream, value: &Value) -> io::Result<()> {
    stream.write_all(format!("{value}\n").as_bytes())
}

fn line(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    reader.take(FRAME_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line)?;
    match line.last() {
        Some(b'\n') => Ok(line),
        _ => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the daemon went away")),
    }
}
