//! What a daemon that was killed leaves in git: commands that still run, and
//! locks of commands that were killed with it.

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

impl Git {
    /// Removes locks of refs that only Loom moves. The caller is the one writer, and no git
    /// command of an earlier one runs any more.
    pub fn clear_own_ref_locks(&self) {
        for name in ["refs/heads/loom/_plan", "refs/loom"] {
            clear_locks_below(&self.common.join(name));
        }
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

fn clear_locks_below(dir: &Path) {
    let Ok(entries) = fs_err::read_dir(dir) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            clear_locks_below(&path);
        } else if path.extension().is_some_and(|extension| extension == "lock") {
            clear(&path);
        }
    }
}

pub(super) fn clear(lock: &Path) {
    if fs_err::remove_file(lock).is_ok() {
        tracing::warn!("{} was left by a git command that was killed: removed", lock.display());
    }
}
