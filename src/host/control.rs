//! The daemon's side of a host: start it, hold it at the start barrier, let it
//! go, ask whether it lives, wait for its end, end it.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::cgroup;
use super::exec::GO;
use super::spec::{ExitRecord, HostFolder, HostRecord, HostSpec};
use super::tree;
use crate::base::{clock, fs, process, wait};
use crate::model::limits::{HOST_READY, KILL_GRACE};
use crate::model::session::{Exit, HostIdentity};

/// A host at its start barrier. Dropped, it records that nothing was started and goes away.
#[derive(Debug)]
#[must_use = "a host that is not released never starts its child"]
pub struct Waiting {
    host: HostIdentity,
    barrier: ChildStdin,
}

impl Waiting {
    /// Who waits, to be recorded before it is released.
    pub fn host(&self) -> &HostIdentity {
        &self.host
    }
    /// Lets the host start its child.
    pub fn release(mut self) -> io::Result<Lifeline> {
        self.barrier.write_all(&GO)?;
        Ok(Lifeline { _barrier: self.barrier })
    }
}

/// A host whose spec says that it ends with the daemon ends its child when this is dropped.
/// To every other host it means nothing.
#[derive(Debug)]
#[must_use = "dropping it ends a child that ends with the daemon"]
pub struct Lifeline {
    _barrier: ChildStdin,
}

/// What the lock of a host says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    Alive,
    Dead,
    /// The lock could not be probed.
    Unknown,
}

/// Writes `spec.json` into `dir` and starts a host there, up to its start barrier.
pub fn spawn(dir: &Path, spec: &HostSpec) -> io::Result<Waiting> {
    spawn_by(&process::this_binary()?, dir, spec)
}

/// As [`spawn`], with `binary` as the `loom` that becomes the host.
pub fn spawn_by(binary: &Path, dir: &Path, spec: &HostSpec) -> io::Result<Waiting> {
    let folder = HostFolder::new(dir);
    fs::write_atomic(&folder.spec(), &serde_json::to_vec(spec)?)?;
    let complaints = fs_err::OpenOptions::new().create(true).append(true).open(folder.complaints())?;
    let (complaints, _) = complaints.into_parts();
    let mut command = process::command(binary);
    command.arg0("loom").arg("host").arg(dir).env("LOOM_HOST", "1");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::from(complaints));
    let mut child = command.spawn()?;
    let told = await_ready(&folder, &mut child);
    let barrier = child.stdin.take();
    if told.is_err() {
        // Dead already is as good.
        let _ = child.kill();
    }
    reap_in_background(child)?;
    let host = told?;
    let barrier = barrier.ok_or_else(|| io::Error::other("a host without standard input"))?;
    Ok(Waiting { host, barrier })
}

/// A daemon is the parent of its hosts; one that has ended must not stay a zombie.
fn reap_in_background(mut child: Child) -> io::Result<()> {
    super::thread("reap-host", move || drop(child.wait()))
}

/// Waits for the host's one line on standard output.
fn await_ready(folder: &HostFolder, child: &mut Child) -> io::Result<HostIdentity> {
    let deadline = Instant::now() + HOST_READY;
    let stdout = child.stdout.take().ok_or_else(|| io::Error::other("a host without standard output"))?;
    let mut said = Vec::new();
    let mut buffer = [0; 64];
    while !said.ends_with(b"\n") {
        if !wait::readable(&stdout, deadline)? {
            let text = format!("the host in {} was not ready in time", folder.dir.display());
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        match rustix::io::read(&stdout, &mut buffer)? {
            0 => return Err(complaint(folder)),
            n => said.extend_from_slice(&buffer[..n]),
        }
    }
    Ok(read_record(folder)?.host)
}

/// Why a host went away before it was ready.
fn complaint(folder: &HostFolder) -> io::Error {
    let said = fs_err::read(folder.complaints()).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    let last = said.lines().last().unwrap_or("it did not say why");
    io::Error::other(format!("the host in {} went away: {last}", folder.dir.display()))
}

/// Reads `host.json`.
pub fn read_record(folder: &HostFolder) -> io::Result<HostRecord> {
    read_json(&folder.record())
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<T> {
    let bytes = fs_err::read(path)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display())))
}

/// Whether the host of `dir` lives.
pub fn is_alive(dir: &Path) -> Liveness {
    match fs::is_locked(&HostFolder::new(dir).lock()) {
        Ok(true) => Liveness::Alive,
        Ok(false) => Liveness::Dead,
        Err(_) => Liveness::Unknown,
    }
}

/// Blocks until the host of `dir` is gone and says how its child ended. A host that left no
/// record answers with [`Exit::Lost`].
pub fn wait_end(dir: &Path) -> io::Result<ExitRecord> {
    let folder = HostFolder::new(dir);
    fs::wait_unlocked(&folder.lock())?;
    match read_json(&folder.exit()) {
        Ok(record) => Ok(record),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
            let (exit, error) = (Exit::Lost, Some(error.to_string()));
            Ok(ExitRecord { exit, error, started_at: None, ended_at: clock::now(), leftovers: Vec::new() })
        }
        Err(error) => Err(error),
    }
}

/// Asks the host of `dir` to end its whole tree: politely, and after `grace` for good.
/// Returns at once; [`wait_end`] says when it is done. A host that is gone is fine.
pub fn end(dir: &Path, grace: Duration) -> io::Result<()> {
    let folder = HostFolder::new(dir);
    if !fs::is_locked(&folder.lock())? {
        return Ok(());
    }
    let host = read_record(&folder)?.host;
    if host.boot_id != process::boot_id() {
        return Ok(());
    }
    fs::write_atomic(&folder.grace(), grace.as_millis().to_string().as_bytes())?;
    if tree::signal_exactly(host.pid, host.start_ticks, Signal::TERM) || !fs::is_locked(&folder.lock())? {
        return Ok(());
    }
    let text = format!("{}: the lock is held, but not by the process in host.json", folder.lock().display());
    Err(io::Error::new(io::ErrorKind::InvalidData, text))
}

/// Kills what is left of `session` after its host, of the folder `dir`, died without ending it:
/// what is in its control group, and every process of this user that was started with
/// `LOOM_SESSION=<session>` in `project`: session ids repeat from project to project. Returns
/// their names and pids.
pub fn kill_survivors(dir: &Path, project: &Path, session: &str) -> Vec<String> {
    let record = read_record(&HostFolder::new(dir)).ok();
    let group = record.and_then(|record| cgroup::of(&record.host, record.cgroup));
    let killed = tree::kill_all(Instant::now() + KILL_GRACE, || {
        let members = group.as_deref().map(cgroup::members).unwrap_or_default();
        let mut left = processes_of(project, session);
        left.extend(members.into_iter().filter_map(tree::living));
        group.iter().for_each(|group| cgroup::kill(group));
        left
    });
    group.iter().for_each(|group| cgroup::remove(group));
    killed
}

fn processes_of(project: &Path, session: &str) -> Vec<(u32, u64)> {
    tree::started_with(|value| {
        value("LOOM_SESSION").as_deref() == Some(session)
            && value("LOOM_PROJECT").is_some_and(|at| Path::new(&at) == project)
    })
}
