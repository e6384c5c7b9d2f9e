//! What a daemon that was killed leaves in git: commands that still run, and
//! locks of commands that were killed with it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::Git;
use crate::base::process;

/// Names the Loom process that started a git command, in that command's environment.
pub(super) const STARTED_BY: &str = "LOOM_GIT";

/// Waits up to `grace` until no git command runs that process `pid` had started. It is
/// dead: they finish what it asked for, and would meet the same commands of its successor.
pub fn wait_for_commands_of(pid: u32, grace: Duration) {
    let deadline = Instant::now() + grace;
    let Ok(entries) = fs_err::read_dir("/proc") else { return };
    let started_by = pid.to_string();
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let named = u32::try_from(pid).ok().and_then(|pid| process::environ_value(pid, STARTED_BY).ok()?);
        if named.as_deref() != Some(started_by.as_str()) {
            continue;
        }
        let Some(handle) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
            continue;
        };
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout =
            Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(0), tv_nsec: i64::from(left.subsec_nanos()) };
        // Too late or not pollable: the command that meets it will say so.
        let _ = poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&timeout));
    }
}

/// Whose git commands are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    Anybody,
    /// Not those that this process started.
    Others,
    /// Those that some Loom process started.
    Looms,
}

/// Whether a git command runs in `dir` or below. In doubt it does.
pub(super) fn is_git_at_work(dir: &Path, whose: Whose) -> bool {
    let Ok(entries) = fs_err::read_dir("/proc") else { return true };
    let me = std::process::id().to_string();
    entries.flatten().any(|entry| {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { return false };
        let is_git = fs_err::read_to_string(entry.path().join("comm")).is_ok_and(|name| name.starts_with("git"));
        let is_here = || std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
        // One of Loom's goes there by itself, a moment after it has begun.
        let goes_here = || fs_err::read(entry.path().join("cmdline")).is_ok_and(|line| names_below(&line, dir));
        let started_by = || process::environ_value(pid, STARTED_BY).ok().flatten();
        let is_meant = || match whose {
            Whose::Anybody => true,
            Whose::Others => started_by().as_deref() != Some(me.as_str()),
            Whose::Looms => started_by().is_some(),
        };
        let is_alive = || process::stat(pid).is_some_and(|stat| !stat.is_zombie);
        is_git && is_alive() && (is_here() || goes_here()) && is_meant()
    })
}

/// Whether one of the arguments of a command line, as the kernel has it, is `dir` or below it.
fn names_below(line: &[u8], dir: &Path) -> bool {
    line.split(|byte| *byte == 0).any(|argument| Path::new(OsStr::from_bytes(argument)).starts_with(dir))
}

impl Git {
    /// Removes the lock of the packed refs, which git holds for a moment, when nobody can hold it:
    /// no git command runs in the project.
    pub(super) fn clear_packed_refs_lock(&self) {
        let lock = self.common.join("packed-refs.lock");
        if lock.exists() && !is_git_at_work(&self.project, Whose::Anybody) {
            clear(&lock);
        }
    }

    /// Removes locks of refs that only Loom moves. The caller is the one writer, and no git
    /// command of an earlier one runs any more.
    pub fn clear_own_ref_locks(&self) {
        let locks = self.own_ref_locks();
        if !locks.is_empty() && !is_git_at_work(&self.project, Whose::Looms) {
            locks.iter().for_each(|lock| clear(lock));
        }
        self.clear_packed_refs_lock();
    }

    /// Locks of refs that only Loom moves.
    pub fn own_ref_locks(&self) -> Vec<std::path::PathBuf> {
        let mut locks = Vec::new();
        for name in ["refs/heads/loom/_plan", "refs/loom"] {
            locks_below(&self.common.join(name), &mut locks);
        }
        locks
    }

    /// Removes the locks that an agent's git left when it was killed. The caller knows that
    /// no process of the stage's sessions lives.
    pub fn clear_stage_locks(&self, dir: &Path, branch: &str) {
        let mut locks = vec![self.common.join(format!("refs/heads/{branch}.lock"))];
        if let Ok(repo) = git2::Repository::open(dir) {
            locks.extend(["index.lock", "HEAD.lock"].map(|name| repo.path().join(name)));
        }
        locks.iter().for_each(|lock| clear(lock));
    }
}

fn locks_below(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    let Ok(entries) = fs_err::read_dir(dir) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            locks_below(&path, found);
        } else if path.file_name().is_some_and(|name| name == super::fence::PLACEHOLDER) {
            // No lock, only named like one.
        } else if path.extension().is_some_and(|extension| extension == "lock") {
            found.push(path);
        }
    }
}

pub(super) fn clear(lock: &Path) {
    if fs_err::remove_file(lock).is_ok() {
        tracing::warn!("{} was left by a git command that was killed: removed", lock.display());
    }
}
