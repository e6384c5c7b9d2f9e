//! The process that carries checks out: one for all checks of a proof, of this
//! very binary. It keeps every descendant of a check in reach (child
//! subreaper), ends what outlives its check, and ends everything when the
//! daemon is gone. It judges on the whole output and hands on only what is kept.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal};
use serde::{Deserialize, Serialize};

use super::Tracked;
use super::verdict::{self, Ran};
use crate::base::wait::{Got, Interest, earlier, read, set_nonblocking, wait};
use crate::base::{process, text};
use crate::host::{self, tree};
use crate::model::check::Check;
use crate::model::limits::{
    CHECK_EVIDENCE_BYTES_MAX, CHECK_FILE_BYTES_MAX, CHECK_OUTPUT_BYTES_MAX, CHECK_TIMEOUT, DRAIN_MAX, KILL_AGAIN,
    KILL_GRACE, LEFTOVER_GRACE,
};
use crate::model::session::Exit;
use crate::model::stage::CheckResult;

/// What one runner is asked to do, as one line on its standard input.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) cwd: PathBuf,
    /// Where those start that are the plan's, if it is elsewhere.
    #[serde(default)]
    pub(super) top: Option<PathBuf>,
    /// The whole environment of the commands.
    pub(super) environment: Vec<(String, String)>,
    pub(super) commands: Vec<verdict::Command>,
    /// How many came before these.
    #[serde(default)]
    pub(super) first: usize,
    /// Where outputs are kept; made when there is the first one.
    pub(super) evidence: PathBuf,
    /// `.work/`: paths of outputs are told relative to it.
    pub(super) work: PathBuf,
    /// Files at which the runner stops, behind the command that touched one.
    #[serde(default)]
    pub(super) watched: Option<Watched>,
    /// Where output is appended as it comes, instead of being kept as evidence.
    #[serde(default)]
    pub(super) log: Option<PathBuf>,
    /// Held for as long as the runner lives: it waits for another one that has it.
    #[serde(default)]
    pub(super) lock: Option<PathBuf>,
    /// Whether what comes after a failed command is left out.
    #[serde(default)]
    pub(super) stops: bool,
}

/// Files below a folder that no command may leave touched.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Watched {
    root: PathBuf,
    files: Vec<String>,
}

/// What cannot stay the same when somebody writes to a file: mode, inode, size, the times of its
/// content and, which only the clock sets, of the inode.
type Identity = Option<(u32, u64, u64, i64, i64, i64, i64)>;

impl Watched {
    pub(super) fn of(tracked: Tracked) -> Watched {
        Watched { root: tracked.root.to_path_buf(), files: tracked.files.to_vec() }
    }

    fn look(&self) -> Vec<Identity> {
        let identity = |meta: std::fs::Metadata| {
            let (content, inode) = ((meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()));
            (meta.mode(), meta.ino(), meta.size(), content.0, content.1, inode.0, inode.1)
        };
        let look = |file: &String| std::fs::symlink_metadata(self.root.join(file)).ok().map(identity);
        self.files.iter().map(look).collect()
    }
}

/// What came of an order.
pub(super) struct Carried {
    /// Of the commands that ran, in order.
    pub(super) results: Vec<CheckResult>,
    /// The last of them touched a watched file: what comes after it was not run.
    pub(super) touched: bool,
}

/// What runners hang on: when it is cut, each ends everything of its own and goes.
#[derive(Debug, Clone, Default)]
pub struct Lifeline(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    /// By the runner's process id.
    stdins: HashMap<u32, ChildStdin>,
    is_cut: bool,
}

impl Lifeline {
    /// Ends what hangs on it, and whatever is to hang on it later.
    pub fn cut(&self) {
        let mut held = self.held();
        held.is_cut = true;
        held.stdins.clear();
    }

    pub fn is_cut(&self) -> bool {
        self.held().is_cut
    }

    /// Tells the runner what to do, and keeps the line open.
    fn tie(&self, runner: u32, mut stdin: ChildStdin, told: &str) -> io::Result<()> {
        writeln!(stdin, "{told}")?;
        let mut held = self.held();
        if !held.is_cut {
            held.stdins.insert(runner, stdin);
        }
        Ok(())
    }

    fn let_go(&self, runner: u32) {
        self.held().stdins.remove(&runner);
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// One line of the runner's answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    Result(Box<CheckResult>),
    /// The last command touched a watched file.
    Touched,
    /// The command could not be run at all.
    Trouble(String),
}

/// Runs `loom checks`; `None`: `arguments` (without the program) are something else.
pub fn main(arguments: &[std::ffi::OsString]) -> Option<u8> {
    match arguments {
        [verb] if verb == "checks" => Some(match carry_out() {
            Ok(()) => 0,
            Err(_) => 70,
        }),
        _ => None,
    }
}

/// Starts a runner and waits for the results of `order`, in order.
pub(super) fn run(order: &Order, lifeline: &Lifeline) -> io::Result<Carried> {
    let binary = process::this_binary()?;
    let binary = if binary.exists() { binary } else { PathBuf::from("/proc/self/exe") };
    let mut command = process::command(binary);
    command.arg0("loom").arg("checks").env("LOOM_HOST", "1");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
    let mut runner = command.spawn()?;
    let gone = || io::Error::other("what runs the checks was ended");
    // Held open until all is over: its end tells the runner that nobody waits any more.
    let stdin = runner.stdin.take().ok_or_else(gone)?;
    let stdout = runner.stdout.take().ok_or_else(gone)?;
    let told = serde_json::to_string(order)?;
    let answers = lifeline.tie(runner.id(), stdin, &told).and_then(|()| receive(stdout, order.commands.len()));
    lifeline.let_go(runner.id());
    runner.wait()?;
    let is_whole = |carried: &Carried| {
        let results = &carried.results;
        results.len() == order.commands.len()
            || (order.stops && results.last().is_some_and(|last| !last.passed))
            || (carried.touched && !results.is_empty())
    };
    match answers {
        Ok(carried) if is_whole(&carried) => Ok(carried),
        Ok(_) => Err(gone()),
        Err(error) => Err(error),
    }
}

fn receive(stdout: impl io::Read, wanted: usize) -> io::Result<Carried> {
    let mut carried = Carried { results: Vec::with_capacity(wanted), touched: false };
    for line in io::BufReader::new(stdout).lines() {
        match serde_json::from_str(&line?)? {
            Answer::Result(result) => carried.results.push(*result),
            Answer::Touched => carried.touched = true,
            Answer::Trouble(text) => return Err(io::Error::other(text)),
        }
    }
    Ok(carried)
}

fn carry_out() -> io::Result<()> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    limit(Resource::Core, 0);
    limit(Resource::Fsize, CHECK_FILE_BYTES_MAX);
    let mut line = String::new();
    // Nothing else comes on it: what is buffered beyond the line is not missed.
    io::stdin().lock().read_line(&mut line)?;
    let order: Order = serde_json::from_str(&line)?;
    let _lock = match &order.lock {
        Some(path) => {
            let lock = fs_err::File::create(path)?;
            lock.file().lock()?;
            Some(lock)
        }
        None => None,
    };
    let before = order.watched.as_ref().map(Watched::look);
    // Nobody does anything with one answer before there are all: who reads them is woken once.
    let mut stdout = io::BufWriter::new(io::stdout().lock());
    // Here, not at each start: where the folder of a child is to be another one, the standard
    // library copies this process for it instead of lending it its memory.
    if let Err(error) = rustix::process::chdir(&order.cwd) {
        writeln!(stdout, "{}", serde_json::to_string(&Answer::Trouble(error.to_string()))?)?;
        return stdout.flush();
    }
    let mut starter = Starter { next: None, is_last: false };
    for (at, command) in order.commands.iter().enumerate() {
        starter.is_last = at + 1 == order.commands.len();
        let answer = match until_it_passes(&order, order.first + at, command, &mut starter) {
            Ok(result) => Answer::Result(Box::new(result)),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(error),
            Err(error) => Answer::Trouble(error.to_string()),
        };
        let is_touched = order.watched.as_ref().map(Watched::look) != before;
        let is_last = order.stops && !matches!(&answer, Answer::Result(result) if result.passed);
        writeln!(stdout, "{}", serde_json::to_string(&answer)?)?;
        if is_touched {
            writeln!(stdout, "{}", serde_json::to_string(&Answer::Touched)?)?;
        }
        if is_last || is_touched {
            break;
        }
    }
    stdout.flush()
}

/// Never raises a limit that is lower already.
fn limit(resource: Resource, most: u64) {
    let now = rustix::process::getrlimit(resource);
    let lower = |now: Option<u64>| Some(now.map_or(most, |now| now.min(most)));
    let _ = rustix::process::setrlimit(resource, Rlimit { current: lower(now.current), maximum: lower(now.maximum) });
}

/// Runs a check again as often as its plan allows; a pass after a failure is recorded as flaky.
fn until_it_passes(
    order: &Order,
    at: usize,
    command: &verdict::Command,
    starter: &mut Starter,
) -> io::Result<CheckResult> {
    let mut failed_runs = 0;
    loop {
        let ran = run_one(order, &command.check, starter)?;
        let mut result = verdict::judge(command, &ran);
        result.failed_runs = failed_runs;
        (result.evidence, result.evidence_sha256) = keep(order, at, failed_runs, &ran)?;
        if result.passed || failed_runs >= command.check.retries {
            return Ok(result);
        }
        failed_runs += 1;
    }
}

/// Keeps start and end of what a check printed; says where, relative to `.work/`, and its digest.
fn keep(order: &Order, at: usize, run: u32, ran: &Ran) -> io::Result<(String, String)> {
    if order.log.is_some() || (ran.stdout.is_empty() && ran.stderr.is_empty()) {
        return Ok((String::new(), String::new()));
    }
    fs_err::create_dir_all(&order.evidence)?;
    let name = if run == 0 { format!("{:03}.log", at + 1) } else { format!("{:03}.{}.log", at + 1, run + 1) };
    let path = order.evidence.join(name);
    let mut kept = verdict::head_and_tail(&ran.stdout, CHECK_EVIDENCE_BYTES_MAX);
    if !ran.stderr.is_empty() {
        kept.extend_from_slice(b"\n--- standard error ---\n");
        kept.extend(verdict::head_and_tail(&ran.stderr, CHECK_EVIDENCE_BYTES_MAX));
    }
    fs_err::write(&path, &kept)?;
    Ok((path.strip_prefix(&order.work).unwrap_or(&path).display().to_string(), text::sha256(&kept)))
}

fn run_one(order: &Order, check: &Check, starter: &mut Starter) -> io::Result<Ran> {
    let started = Instant::now();
    let log = order.log.as_deref().map(|path| open_log(path, &check.command)).transpose()?;
    let mut child = starter.start(shell(order, check))?;
    let mut running = Running {
        pidfd: pidfd(&child)?,
        out: Stream::of(child.stdout.take().map(OwnedFd::from), &log)?,
        err: Stream::of(child.stderr.take().map(OwnedFd::from), &log)?,
        deadline: started.checked_add(check.timeout_secs.map_or(CHECK_TIMEOUT, Duration::from_secs)),
        kill_at: None,
        timed_out: false,
    };
    let overflowed = running.until_it_ends(&child)?;
    let status = child.wait()?;
    let leftovers = end_leftovers()?;
    let drained = Instant::now() + DRAIN_MAX;
    while running.is_open() && Instant::now() < drained {
        running.turn(Some(drained), false)?;
    }
    let exit = exit_of(status, running.timed_out);
    if let Some(mut log) = log.as_deref() {
        writeln!(log, "[{exit} after {:.1} s]", started.elapsed().as_secs_f64())?;
    }
    Ok(Ran {
        exit,
        duration: started.elapsed(),
        stdout: running.out.bytes,
        stderr: running.err.bytes,
        overflowed,
        leftovers,
    })
}

fn open_log(path: &Path, command: &str) -> io::Result<Arc<File>> {
    let mut log = fs_err::OpenOptions::new().create(true).append(true).open(path)?.into_file();
    writeln!(log, "$ {command}")?;
    Ok(Arc::new(log))
}

fn shell(order: &Order, check: &Check) -> Command {
    let mut shell = process::command("/bin/sh");
    shell.args(["-c", &check.command]).env_clear();
    if let Some(top) = order.top.as_ref().filter(|top| check.from_top && **top != order.cwd) {
        shell.current_dir(top);
    }
    shell.envs(order.environment.iter().map(|(name, value)| (name, value)));
    shell.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    shell
}

/// Starts each command in a process group and, where the kernel has it, a signal scope of its own,
/// so that it cannot end this runner.
struct Starter {
    /// Made while the command before it runs. That one cannot reach it: its scope is another.
    next: Option<Scoped>,
    /// Whether no other command follows.
    is_last: bool,
}

impl Starter {
    fn start(&mut self, command: Command) -> io::Result<Child> {
        let scoped = self.next.take().map_or_else(Scoped::new, Ok)?;
        let child = scoped.start(command);
        if !self.is_last {
            self.next = Scoped::new().ok();
        }
        child
    }
}

/// How often a start is asked for before it is waited for: for a millisecond, unless others want
/// the core.
const YIELDS_MAX: u32 = 1_000;

/// A thread in a signal scope of its own that starts one command. It is gone when that runs:
/// within a scope everything can be ended.
struct Scoped {
    tell: Sender<Command>,
    thread: JoinHandle<io::Result<Child>>,
}

impl Scoped {
    fn new() -> io::Result<Scoped> {
        let (tell, told) = std::sync::mpsc::channel::<Command>();
        let body = move || {
            host::enter_signal_scope();
            told.recv().map_err(io::Error::other)?.spawn()
        };
        let thread = std::thread::Builder::new().name("starter".to_owned()).stack_size(64 << 10).spawn(body)?;
        Ok(Scoped { tell, thread })
    }

    fn start(self, command: Command) -> io::Result<Child> {
        self.tell.send(command).map_err(io::Error::other)?;
        // Who sleeps meanwhile leaves a core idle: the kernel moves the command there when it has
        // hardly begun, and that takes longer than the start.
        for _ in 0..YIELDS_MAX {
            if self.thread.is_finished() {
                break;
            }
            std::thread::yield_now();
        }
        self.thread.join().map_err(|_| io::Error::other("the start of a check broke off"))?
    }
}

fn pidfd(child: &Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("a pid of 0"))?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

fn exit_of(status: ExitStatus, timed_out: bool) -> Exit {
    match (status.code(), status.signal()) {
        _ if timed_out => Exit::TimedOut,
        (Some(code), _) => Exit::Code { code },
        (None, signal) => Exit::UnixSignal { signal: signal.unwrap_or(0) },
    }
}

/// One output of a check.
struct Stream {
    fd: Option<OwnedFd>,
    bytes: Vec<u8>,
    log: Option<Arc<File>>,
}

impl Stream {
    fn of(fd: Option<OwnedFd>, log: &Option<Arc<File>>) -> io::Result<Stream> {
        if let Some(fd) = &fd {
            set_nonblocking(fd)?;
        }
        Ok(Stream { fd, bytes: Vec::new(), log: log.clone() })
    }

    /// Reads what is there. False: there is more than a check may print.
    fn take(&mut self) -> bool {
        let mut buffer = [0; 64 << 10];
        while let Some(fd) = &self.fd {
            match read(fd, &mut buffer) {
                Got::Bytes(n) => {
                    let room = CHECK_OUTPUT_BYTES_MAX - self.bytes.len();
                    self.bytes.extend_from_slice(&buffer[..n.min(room)]);
                    if let Some(mut log) = self.log.as_deref() {
                        // A full disk is told by whatever else fails.
                        let _ = log.write_all(&buffer[..n.min(room)]);
                    }
                    if n > room {
                        self.fd = None;
                        return false;
                    }
                }
                Got::Nothing => return true,
                Got::End => self.fd = None,
            }
        }
        true
    }
}

struct Running {
    pidfd: OwnedFd,
    out: Stream,
    err: Stream,
    deadline: Option<Instant>,
    kill_at: Option<Instant>,
    timed_out: bool,
}

/// What one turn of the wait saw.
struct Seen {
    is_over: bool,
    overflowed: bool,
}

impl Running {
    fn is_open(&self) -> bool {
        self.out.fd.is_some() || self.err.fd.is_some()
    }

    /// Serves the check until its process has ended. True: it printed too much, and was ended for it.
    fn until_it_ends(&mut self, child: &Child) -> io::Result<bool> {
        let mut overflowed = false;
        loop {
            let seen = self.turn(earlier(self.deadline, self.kill_at), true)?;
            if seen.is_over {
                return Ok(overflowed);
            }
            let now = Instant::now();
            if seen.overflowed {
                overflowed = true;
                self.end(child, Signal::KILL);
            }
            if self.deadline.is_some_and(|deadline| deadline <= now) {
                (self.timed_out, self.deadline) = (true, None);
                self.kill_at = now.checked_add(LEFTOVER_GRACE);
                self.end(child, Signal::TERM);
            }
            if self.kill_at.is_some_and(|kill_at| kill_at <= now) {
                self.kill_at = now.checked_add(KILL_AGAIN);
                self.end(child, Signal::KILL);
            }
        }
    }

    fn end(&self, child: &Child, signal: Signal) {
        let mut all = vec![child.id()];
        all.extend(tree::descendants(std::process::id()));
        tree::signal_all(&all, signal);
    }

    /// Waits for the next thing that happens, and takes what was printed.
    fn turn(&mut self, deadline: Option<Instant>, lives: bool) -> io::Result<Seen> {
        let lifeline = rustix::stdio::stdin();
        let mut interests = vec![Interest::read(&lifeline)];
        if lives {
            interests.push(Interest::read(&self.pidfd));
        }
        interests.extend(self.out.fd.iter().chain(&self.err.fd).map(|fd| Interest {
            fd: fd.as_fd(),
            read: true,
            write: false,
        }));
        let ready = wait(&interests, deadline)?;
        if ready[0].readable {
            // Nobody writes to it any more: its other end is gone, and with it whoever wants to know.
            end_leftovers()?;
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let is_over = lives && ready[1].readable;
        let fits = self.out.take() & self.err.take();
        Ok(Seen { is_over, overflowed: !fits })
    }
}

/// Ends every process that a check left behind, and says their names.
fn end_leftovers() -> io::Result<Vec<String>> {
    let give_up = Instant::now() + KILL_GRACE;
    let mut names = std::collections::BTreeSet::new();
    while !tree::is_childless() && Instant::now() < give_up {
        let left = tree::descendants(std::process::id());
        names.extend(left.iter().map(|pid| tree::name(*pid)));
        tree::signal_all(&left, Signal::KILL);
        for pid in left.iter().filter_map(|pid| i32::try_from(*pid).ok().and_then(Pid::from_raw)) {
            if let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
                let _ = wait(&[Interest::read(&pidfd)], Instant::now().checked_add(KILL_AGAIN));
            }
        }
        tree::reap_orphans(None);
    }
    Ok(names.into_iter().map(|name| text::printable(&name).into_owned()).collect())
}
