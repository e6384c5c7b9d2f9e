//! The process that carries checks out: one for all checks of a proof, of this
//! very binary. It keeps every descendant of a check in reach (child
//! subreaper), ends what outlives its check, and ends everything when the
//! daemon is gone. It judges on the whole output and hands on only what is kept.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::thread::Scope;
use std::time::{Duration, Instant};

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{DumpableBehavior, Pid, PidfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions};
use serde::{Deserialize, Serialize};

use super::Tracked;
use super::verdict::{self, Ran};
use crate::base::wait::{Got, Interest, earlier, read, set_nonblocking, wait};
use crate::base::{process, text};
use crate::host::{self, tree};
use crate::model::check::Check;
use crate::model::limits::{
    CHECK_EVIDENCE_BYTES_MAX, CHECK_FILE_BYTES_MAX, CHECK_OUTPUT_BYTES_MAX, CHECK_TIMEOUT, KILL_AGAIN, KILL_GRACE,
    LEFTOVER_GRACE,
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
    // In memory, not in a pipe: nobody has to read while the runner runs, only to wait for it.
    let mut answers = File::from(rustix::fs::memfd_create("loom-checks", MemfdFlags::CLOEXEC)?);
    let mut command = process::command(process::this_binary()?);
    command.arg0("loom").arg("checks").env("LOOM_HOST", "1");
    command.stdin(Stdio::piped()).stdout(answers.try_clone()?).process_group(0);
    let mut runner = command.spawn()?;
    let gone = || io::Error::other("what runs the checks was ended");
    // Held open until all is over: its end tells the runner that nobody waits any more.
    let stdin = runner.stdin.take().ok_or_else(gone)?;
    let told = serde_json::to_string(order)?;
    let (id, started) = (runner.id(), pid(&runner)?);
    let (tied, is_stopped) = std::thread::scope(|scope| {
        // A large order is taken only as fast as the runner reads, and it may stop before that.
        let tied = scope.spawn(|| lifeline.tie(id, stdin, &told));
        let is_stopped = until_it_ends_or_stops(started);
        if !matches!(is_stopped, Ok(false)) {
            // It runs no check any further, and holds up all the others. First what came from it: the
            // other way round, that would be nobody's.
            tree::end_below(id, Instant::now() + KILL_GRACE);
            // It was not waited for: this is still its own number.
            let _ = runner.kill();
        }
        (tied.join(), is_stopped)
    });
    lifeline.let_go(id);
    if runner.wait()?.signal().is_some() {
        end_orphans(order);
    }
    tied.map_err(|_| gone())??;
    if is_stopped? {
        return Err(io::Error::other("what runs the checks was stopped by a signal, and was ended for it"));
    }
    answers.rewind()?;
    let carried = receive(answers, order.commands.len())?;
    let results = &carried.results;
    let is_whole = results.len() == order.commands.len()
        || (order.stops && results.last().is_some_and(|last| !last.passed))
        || (carried.touched && !results.is_empty());
    if is_whole { Ok(carried) } else { Err(gone()) }
}

/// Ends what a runner that was killed has left in the proof checkout. Nobody else has that home.
fn end_orphans(order: &Order) {
    let home = order.environment.iter().find(|(name, _)| name == "HOME").map(|(_, home)| home);
    let Some(home) = home.filter(|_| order.watched.is_some()) else { return };
    let left = || tree::started_with(|value| value("HOME").as_ref() == Some(home));
    let ended = tree::kill_all(Instant::now() + KILL_GRACE, left);
    tracing::warn!("what ran the checks was killed; ended with it: {}", ended.join(", "));
}

/// Waits for the runner. True: it is there, and a signal made it stand still.
fn until_it_ends_or_stops(runner: Pid) -> io::Result<bool> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::STOPPED | WaitIdOptions::NOWAIT;
    loop {
        match rustix::process::waitid(WaitId::Pid(runner), options) {
            Ok(status) => return Ok(status.is_some_and(|status| status.stopped())),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn receive(answers: impl io::Read, wanted: usize) -> io::Result<Carried> {
    let mut carried = Carried { results: Vec::with_capacity(wanted), touched: false };
    for line in io::BufReader::new(answers).lines() {
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
    // No command of the same user looks into the memory of what judges it, or writes there.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
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
    // Here, not at each start: where the folder of a child is to be another one, the standard
    // library copies this process for it instead of lending it its memory.
    let at_home = rustix::process::chdir(&order.cwd).map_err(io::Error::from);
    let (over, end) = std::sync::mpsc::channel();
    let relay = Relay {
        order: &order,
        before: order.watched.as_ref().map(Watched::look),
        answers: io::BufWriter::new(io::stdout()),
        at: 0,
        failed_runs: 0,
        over,
    };
    std::thread::scope(|threads| match at_home {
        Ok(()) if !order.commands.is_empty() => {
            let start = move || relay.hand_on(Watcher::new(threads));
            thread("starter").spawn_scoped(threads, start).map(drop)
        }
        nothing_to_do => {
            relay.end(nothing_to_do);
            Ok(())
        }
    })?;
    end.recv().map_err(|_| io::Error::other("what watches a check broke off"))?
}

/// Never raises a limit that is lower already.
fn limit(resource: Resource, most: u64) {
    let now = rustix::process::getrlimit(resource);
    let lower = |now: Option<u64>| Some(now.map_or(most, |now| now.min(most)));
    let _ = rustix::process::setrlimit(resource, Rlimit { current: lower(now.current), maximum: lower(now.maximum) });
}

/// The commands of an order, one after the other, each watched by a thread of its own. When its
/// command is over, the thread itself starts the next one: it enters a signal scope for that, which
/// nobody ever leaves, hands on to the thread that watches, and is gone. So nothing of this runner
/// shares a scope with a command that runs, but for the moment until that thread is gone, and
/// between two commands nobody has to be woken. Who ends or stops this runner in that moment has
/// proven nothing: the daemon, which is out of reach, [sees](run) either.
struct Relay<'a> {
    order: &'a Order,
    /// The watched files before the first command.
    before: Option<Vec<Identity>>,
    /// Nobody does anything with one answer before there are all: who reads them is woken once.
    answers: io::BufWriter<io::Stdout>,
    /// The command that runs or is next, from 0, and how often that one has failed.
    at: usize,
    failed_runs: u32,
    /// Hears that all is over.
    over: Sender<io::Result<()>>,
}

/// A thread that is in no signal scope, and watches a command when there is one.
struct Watcher<'a>(Sender<(Relay<'a>, Running)>);

impl<'scope> Watcher<'scope> {
    fn new(threads: &'scope Scope<'scope, '_>) -> io::Result<Watcher<'scope>> {
        let (sender, receiver) = std::sync::mpsc::channel::<(Relay<'scope>, Running)>();
        let watch = move || {
            // Without one the relay is over.
            if let Ok((relay, running)) = receiver.recv() {
                relay.watch(running, threads);
            }
        };
        thread("watcher").spawn_scoped(threads, watch)?;
        Ok(Watcher(sender))
    }
}

fn thread(name: &str) -> std::thread::Builder {
    std::thread::Builder::new().name(name.to_owned()).stack_size(512 << 10)
}

impl<'scope> Relay<'scope> {
    /// Watches a command to its end, and starts what comes next.
    fn watch(mut self, running: Running, threads: &'scope Scope<'scope, '_>) {
        // Made while the command runs, which cannot reach it.
        let next = Watcher::new(threads);
        match self.judge(running) {
            // What could not be made then may be made now: its command is gone.
            Ok(true) => self.hand_on(next.or_else(|_| Watcher::new(threads))),
            over => self.end(over.map(drop)),
        }
    }

    /// Starts the command that is next. The thread that calls this can do nothing else any more.
    fn hand_on(self, next: io::Result<Watcher<'scope>>) {
        let started = next.and_then(|next| {
            host::enter_signal_scope();
            Ok((next, Running::start(self.order, &self.order.commands[self.at].check)?))
        });
        match started {
            // Nobody else holds the receiver: it is there until something was sent.
            Ok((next, running)) => drop(next.0.send((self, running))),
            Err(error) => self.end(Err(error)),
        }
    }

    /// Judges a command when it is over. True: there is another one to be run, or this one again.
    fn judge(&mut self, running: Running) -> io::Result<bool> {
        let order = self.order;
        let command = &order.commands[self.at];
        let ran = running.finish()?;
        let mut result = verdict::judge(command, &ran);
        result.failed_runs = self.failed_runs;
        (result.evidence, result.evidence_sha256) = keep(order, order.first + self.at, self.failed_runs, &ran)?;
        let passed = result.passed;
        if !passed && self.failed_runs < command.check.retries {
            self.failed_runs += 1;
            return Ok(true);
        }
        self.answer(&Answer::Result(Box::new(result)))?;
        let is_touched = order.watched.as_ref().map(Watched::look) != self.before;
        if is_touched {
            self.answer(&Answer::Touched)?;
        }
        (self.at, self.failed_runs) = (self.at + 1, 0);
        Ok(self.at < order.commands.len() && !is_touched && (passed || !order.stops))
    }

    fn answer(&mut self, answer: &Answer) -> io::Result<()> {
        writeln!(self.answers, "{}", serde_json::to_string(answer)?)
    }

    fn end(mut self, result: io::Result<()>) {
        if result.is_err() {
            // A command that was started and cannot be watched runs no further.
            let _ = end_leftovers();
        }
        let told = match result {
            // Nobody waits for answers.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(error),
            Err(error) => self.answer(&Answer::Trouble(error.to_string())),
            Ok(()) => Ok(()),
        };
        let told = told.and_then(|()| self.answers.flush());
        let _ = self.over.send(told);
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
    shell.process_group(0);
    shell
}

fn pid(child: &Child) -> io::Result<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| io::Error::other("a pid of 0"))
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
    /// None: nobody reads any more.
    pipe: Option<OwnedFd>,
    bytes: Vec<u8>,
    log: Option<Arc<File>>,
}

impl Stream {
    /// A new one, and what is written to.
    fn new(log: &Option<Arc<File>>) -> io::Result<(Stream, Stdio)> {
        let (pipe, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        set_nonblocking(&pipe)?;
        Ok((Stream { pipe: Some(pipe), bytes: Vec::new(), log: log.clone() }, Stdio::from(writer)))
    }

    /// Reads what is there. False: there is more than a check may print.
    fn take(&mut self) -> bool {
        let mut buffer = [0; 8 << 10];
        while let Some(pipe) = &self.pipe {
            match read(pipe, &mut buffer) {
                Got::Bytes(n) => {
                    let room = CHECK_OUTPUT_BYTES_MAX - self.bytes.len();
                    self.bytes.extend_from_slice(&buffer[..n.min(room)]);
                    if let Some(mut log) = self.log.as_deref() {
                        // A full disk is told by whatever else fails.
                        let _ = log.write_all(&buffer[..n.min(room)]);
                    }
                    if n > room {
                        self.pipe = None;
                        return false;
                    }
                }
                Got::Nothing => return true,
                Got::End => self.pipe = None,
            }
        }
        true
    }
}

/// A command that runs.
struct Running {
    child: Child,
    /// Holds what the outputs are written to: nobody is woken by their end, only by the command's.
    _command: Command,
    pidfd: OwnedFd,
    out: Stream,
    err: Stream,
    log: Option<Arc<File>>,
    started: Instant,
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
    fn start(order: &Order, check: &Check) -> io::Result<Running> {
        let started = Instant::now();
        let log = order.log.as_deref().map(|path| open_log(path, &check.command)).transpose()?;
        let ((out, stdout), (err, stderr)) = (Stream::new(&log)?, Stream::new(&log)?);
        let mut command = shell(order, check);
        let child = command.stdout(stdout).stderr(stderr).spawn()?;
        Ok(Running {
            pidfd: rustix::process::pidfd_open(pid(&child)?, PidfdFlags::empty())?,
            child,
            _command: command,
            out,
            err,
            log,
            started,
            deadline: started.checked_add(check.timeout_secs.map_or(CHECK_TIMEOUT, Duration::from_secs)),
            kill_at: None,
            timed_out: false,
        })
    }

    /// Serves the command until it and all that came from it are gone.
    fn finish(mut self) -> io::Result<Ran> {
        let overflowed = self.until_it_ends()?;
        let status = self.child.wait()?;
        let leftovers = end_leftovers()?;
        // Whoever wrote is gone, or hangs in the kernel: what is there is all.
        let fits = self.take();
        let exit = exit_of(status, self.timed_out);
        if let Some(mut log) = self.log.as_deref() {
            writeln!(log, "[{exit} after {:.1} s]", self.started.elapsed().as_secs_f64())?;
        }
        Ok(Ran {
            exit,
            duration: self.started.elapsed(),
            stdout: self.out.bytes,
            stderr: self.err.bytes,
            overflowed: overflowed || !fits,
            leftovers,
        })
    }

    /// Serves the check until its process has ended. True: it printed too much, and was ended for it.
    fn until_it_ends(&mut self) -> io::Result<bool> {
        let mut overflowed = false;
        loop {
            let seen = self.turn(earlier(self.deadline, self.kill_at))?;
            if seen.is_over {
                return Ok(overflowed);
            }
            let now = Instant::now();
            if seen.overflowed {
                overflowed = true;
                self.end(Signal::KILL);
            }
            if self.deadline.is_some_and(|deadline| deadline <= now) {
                (self.timed_out, self.deadline) = (true, None);
                self.kill_at = now.checked_add(LEFTOVER_GRACE);
                self.end(Signal::TERM);
            }
            if self.kill_at.is_some_and(|kill_at| kill_at <= now) {
                self.kill_at = now.checked_add(KILL_AGAIN);
                self.end(Signal::KILL);
            }
        }
    }

    fn end(&self, signal: Signal) {
        let mut all = vec![self.child.id()];
        all.extend(tree::descendants(std::process::id()));
        tree::signal_all(&all, signal);
    }

    /// Waits for the next thing that happens, and takes what was printed.
    fn turn(&mut self, deadline: Option<Instant>) -> io::Result<Seen> {
        let lifeline = rustix::stdio::stdin();
        let mut interests = vec![Interest::read(&lifeline), Interest::read(&self.pidfd)];
        interests.extend(self.out.pipe.iter().chain(&self.err.pipe).map(Interest::read));
        let ready = wait(&interests, deadline)?;
        if ready[0].readable {
            // Nobody writes to it any more: its other end is gone, and with it whoever wants to know.
            end_leftovers()?;
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let is_over = ready[1].readable;
        // What is left when it is over is taken when its children are gone, too.
        Ok(Seen { is_over, overflowed: !is_over && !self.take() })
    }

    /// Takes what was printed. False: that is more than a check may print.
    fn take(&mut self) -> bool {
        self.out.take() & self.err.take()
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
