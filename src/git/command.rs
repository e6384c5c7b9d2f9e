//! The one git spawner: a clean environment, no hooks, no maintenance, no
//! prompts, a deadline, and durable writes.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::Git;
use crate::model::limits::GIT_TIMEOUT;

/// A git command that did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    #[error("`git {args}` ended with {status}: {stderr}")]
    Failed { args: String, status: String, code: Option<i32>, stderr: String },
    #[error("`git {args}` took longer than {} s", GIT_TIMEOUT.as_secs())]
    TimedOut { args: String },
    #[error("`git {args}` could not be run")]
    Spawn { args: String, source: std::io::Error },
    #[error("git answered something unexpected to `git {args}`: {output}")]
    Unexpected { args: String, output: String },
    /// What is there cannot be held by a commit.
    #[error("it cannot be saved in git: {0}")]
    Unsavable(String),
    /// An object of another content than its name says.
    #[error(
        "{0} is not what its name says: something has replaced objects below `.git/objects`. `git fsck` names them"
    )]
    Forged(String),
    #[error("the repository cannot be read: {0}")]
    Read(git2::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl From<git2::Error> for GitError {
    fn from(error: git2::Error) -> Self {
        match error.code() {
            git2::ErrorCode::HashsumMismatch => GitError::Forged(format!("an object ({})", error.message())),
            _ => GitError::Read(error),
        }
    }
}

impl GitError {
    /// Whether git was ended by a unix signal: nothing was said about what it was asked.
    pub fn is_killed(&self) -> bool {
        matches!(self, GitError::Failed { code: None, .. })
    }
}

/// Every write is synced before git returns; the caller syncs the ref's folder, which git
/// does not. Measured: without both, a power cut loses or breaks what was acknowledged.
const DURABLE: [&str; 4] = ["-c", "core.fsync=all", "-c", "core.fsyncMethod=fsync"];

/// What no command of Loom's may start by itself.
const QUIET: [&str; 12] = [
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "core.fsmonitor=false",
    "-c",
    "gc.auto=0",
    "-c",
    "maintenance.auto=false",
    "-c",
    "submodule.recurse=false",
    "-c",
    "advice.detachedHead=false",
];

/// `git` with nothing inherited that could redirect it.
pub(super) fn plain(args: &[&str]) -> Command {
    let mut command = crate::base::process::command("git");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GIT_") {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C").env("GIT_TERMINAL_PROMPT", "0").env("GIT_NO_REPLACE_OBJECTS", "1");
    command.env(super::orphans::STARTED_BY, std::process::id().to_string());
    command.args(QUIET).args(DURABLE).args(args);
    command
}

impl Git {
    /// `git` in `dir`, a checkout of this repository.
    pub(super) fn in_dir(&self, dir: &Path, args: &[&str]) -> Command {
        let mut command = plain(&[]);
        // Not what the worktree says: its agent could have it name configuration of its own.
        command.current_dir(dir).env("GIT_COMMON_DIR", &self.common);
        command.arg("-c").arg(format!("core.excludesFile={}", self.excludes.display()));
        command.args(args);
        command
    }
    /// Runs `git` in the main checkout and returns its standard output.
    pub(super) fn run(&self, args: &[&str]) -> Result<Vec<u8>, GitError> {
        run(self.in_dir(&self.project, args), None)
    }
}

/// Runs to the end, within the deadline, and returns standard output.
pub(super) fn run(command: Command, input: Option<&[u8]>) -> Result<Vec<u8>, GitError> {
    let args = describe(&command);
    let output = output(command, input)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(GitError::Failed {
        args,
        status: output.status.to_string(),
        code: output.status.code(),
        stderr: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

/// Runs to the end, within the deadline, whatever the exit status.
pub(super) fn output(mut command: Command, input: Option<&[u8]>) -> Result<Output, GitError> {
    let args = describe(&command);
    let spawn_error = |source| GitError::Spawn { args: args.clone(), source };
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().map_err(spawn_error)?;
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        // A git that ends early closes the pipe; its exit status says why.
        let _ = stdin.write_all(input);
    }
    let watchdog = Watchdog::start(child.id());
    let mut stderr = child.stderr.take();
    let errors = std::thread::spawn(move || read_all(stderr.as_mut()));
    let stdout = read_all(child.stdout.as_mut());
    let status = child.wait().map_err(spawn_error)?;
    let stderr = errors.join().unwrap_or_default();
    if watchdog.stop() {
        return Err(GitError::TimedOut { args });
    }
    Ok(Output { status, stdout, stderr })
}

fn read_all(pipe: Option<&mut impl Read>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        let _ = pipe.read_to_end(&mut bytes);
    }
    bytes
}

/// Ends a git process at its deadline. The process is named by a pidfd, never by its pid.
struct Watchdog {
    done: std::sync::mpsc::Sender<()>,
    thread: std::thread::JoinHandle<bool>,
}

impl Watchdog {
    fn start(pid: u32) -> Option<Watchdog> {
        use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
        let pidfd = pidfd_open(Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::empty()).ok()?;
        let (done, wait) = std::sync::mpsc::channel();
        let body = move || match wait.recv_timeout(GIT_TIMEOUT) {
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => pidfd_send_signal(&pidfd, Signal::KILL).is_ok(),
            _ => false,
        };
        let thread = std::thread::Builder::new().stack_size(64 << 10).spawn(body).ok()?;
        Some(Watchdog { done, thread })
    }
}

trait Stop {
    /// Whether the deadline passed.
    fn stop(self) -> bool;
}

impl Stop for Option<Watchdog> {
    fn stop(self) -> bool {
        self.is_some_and(|watchdog| {
            drop(watchdog.done);
            watchdog.thread.join().unwrap_or(false)
        })
    }
}

/// The arguments a person would recognise: without what every command carries.
fn describe(command: &Command) -> String {
    let args: Vec<String> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
    let mut shown = Vec::new();
    let mut skip = false;
    for arg in args {
        if skip {
            skip = false;
        } else if arg == "-c" {
            skip = true;
        } else {
            shown.push(arg);
        }
    }
    shown.join(" ")
}

/// Standard output as one trimmed line.
pub(super) fn line(output: Vec<u8>) -> String {
    String::from_utf8_lossy(&output).trim().to_owned()
}
