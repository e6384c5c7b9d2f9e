//! The one git spawner: a clean environment, no hooks, no maintenance, no
//! prompts, a deadline, and durable writes.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::Git;
use crate::base::wait::{Got, Interest, read, wait};
use crate::model::limits::GIT_TIMEOUT;

/// A git command that did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    #[error("`git {args}` ended with {status}: {stderr}")]
    Failed { args: String, status: String, code: Option<i32>, stderr: String },
    #[error("`git {args}` took longer than {} s", GIT_TIMEOUT.as_secs())]
    TimedOut { args: String },
    #[error("`git {args}` could not be run")]
    Spawn { args: String, source: io::Error },
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
    Io(#[from] io::Error),
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

/// What no command of Loom's may start by itself, or believe: caches of what objects say, which
/// whoever may commit can write, and which no other reader knows.
const QUIET: [&str; 16] = [
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
    "-c",
    "core.commitGraph=false",
    "-c",
    "core.multiPackIndex=false",
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

/// `git` in `dir`, where it goes by itself: a process that is to start in another folder is started
/// by a copy of this one, with all its memory.
pub(super) fn plain_in(dir: &Path, args: &[&str]) -> Command {
    let mut command = plain(&[]);
    command.arg("-C").arg(dir).args(args);
    command
}

impl Git {
    /// `git` in `dir`, a checkout of this repository.
    pub(super) fn in_dir(&self, dir: &Path, args: &[&str]) -> Command {
        let mut command = plain_in(dir, &[]);
        // Not what the worktree says: its agent could have it name configuration of its own.
        command.env("GIT_COMMON_DIR", &self.common);
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
    succeeded(args, output(command, input)?)
}

/// As [`run`], with an input that is made while git starts. Where it cannot be made, git hears nothing.
pub(super) fn run_told(
    command: Command,
    input: impl FnOnce() -> Result<String, GitError>,
) -> Result<Vec<u8>, GitError> {
    let args = describe(&command);
    succeeded(args, output_told(command, Some(input))?)
}

fn succeeded(args: String, output: Output) -> Result<Vec<u8>, GitError> {
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
pub(super) fn output(command: Command, input: Option<&[u8]>) -> Result<Output, GitError> {
    output_told(command, input.map(|input| move || Ok(input)))
}

fn output_told<T: AsRef<[u8]>>(
    mut command: Command,
    input: Option<impl FnOnce() -> Result<T, GitError>>,
) -> Result<Output, GitError> {
    let args = describe(&command);
    let spawn_error = |source| GitError::Spawn { args: args.clone(), source };
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut child = command.spawn().map_err(spawn_error)?;
    let mut told = Ok(());
    if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
        // A git that ends early closes the pipe; its exit status says why.
        told = input().map(|input| drop(stdin.write_all(input.as_ref())));
    }
    let said = listen(&mut child, Instant::now() + GIT_TIMEOUT);
    if !matches!(said, Ok(Some(_))) {
        // It is not reaped yet: this is still its pid.
        let _ = child.kill();
    }
    let status = child.wait().map_err(spawn_error)?;
    told?;
    match said.map_err(spawn_error)? {
        Some([stdout, stderr]) => Ok(Output { status, stdout, stderr }),
        None => Err(GitError::TimedOut { args }),
    }
}

/// Standard output and standard error of a process, to its end. None: it is not over at the deadline.
fn listen(child: &mut Child, deadline: Instant) -> io::Result<Option<[Vec<u8>; 2]>> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    // Without one, the end of what it says has to do.
    let ended = pidfd_open(pid, PidfdFlags::empty()).ok();
    let mut pipes = [child.stdout.take().map(OwnedFd::from), child.stderr.take().map(OwnedFd::from)];
    let mut said = [Vec::new(), Vec::new()];
    let mut part = [0; 16 << 10];
    loop {
        let open: Vec<usize> = (0..pipes.len()).filter(|at| pipes[*at].is_some()).collect();
        let mut interests: Vec<Interest> = pipes.iter().flatten().map(Interest::read).collect();
        if interests.is_empty() {
            let Some(ended) = &ended else { return Ok(Some(said)) };
            interests.push(Interest::read(ended));
        }
        let ready = wait(&interests, Some(deadline))?;
        if open.is_empty() && ready[0].readable {
            return Ok(Some(said));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        for at in open.iter().zip(&ready).filter(|(_, ready)| ready.readable).map(|(at, _)| *at) {
            match pipes[at].as_ref().map_or(Got::End, |pipe| read(pipe, &mut part)) {
                Got::Bytes(n) => said[at].extend_from_slice(&part[..n]),
                Got::Nothing => {}
                Got::End => pipes[at] = None,
            }
        }
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
        } else if arg == "-c" || arg == "-C" {
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn shell(script: &str) -> Child {
        let mut shell = crate::base::process::command("sh");
        shell.args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn both_outputs_are_heard_to_their_end() {
        // More than a pipe holds, on both; and one that closes them before it ends.
        let mut child = shell("seq 1 40000; seq 1 30000 >&2; exec >&- 2>&-; exec sleep 0.01");
        let [out, err] = listen(&mut child, Instant::now() + Duration::from_secs(60)).unwrap().unwrap();
        assert!(out.ends_with(b"\n40000\n") && err.ends_with(b"\n30000\n"));
        assert!(child.wait().unwrap().success());
    }

    #[test]
    fn who_is_not_over_at_the_deadline_is_not_waited_for() {
        for script in ["echo x; exec sleep 600", "exec >&- 2>&-; exec sleep 600", "exec yes"] {
            let mut child = shell(script);
            assert!(listen(&mut child, Instant::now() + Duration::from_millis(50)).unwrap().is_none());
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}
