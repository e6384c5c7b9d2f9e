//! A child and everything that came from it. The host is a child subreaper, so
//! all descendants stay reachable from it, also those that forked twice and
//! started a session of their own.

use std::collections::BTreeSet;
use std::time::Instant;

use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitOptions};

use crate::base::{process, wait};

/// The living descendants of `root`, nearest first; without zombies.
pub fn descendants(root: u32) -> Vec<u32> {
    let mut seen = BTreeSet::new();
    let mut found = process::children(root);
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        if seen.insert(pid) {
            found.extend(process::children(pid));
        }
    }
    found.retain(|pid| seen.remove(pid) && process::stat(*pid).is_some_and(|stat| !stat.is_zombie));
    found
}

/// The command name of `pid`, for messages.
pub fn name(pid: u32) -> String {
    let name = fs_err::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    crate::base::text::printable(name.trim()).into_owned()
}

/// Sends `signal` to exactly this process: through a pidfd, and only if it
/// started at `start_ticks`, so that a reused pid is never hit. Gone is fine.
pub fn signal_exactly(pid: u32, start_ticks: u64, signal: Signal) -> bool {
    let Some(handle) = open_pidfd(pid) else { return false };
    // The pidfd is open: from here on the pid cannot change its meaning unnoticed.
    if process::stat(pid).is_none_or(|stat| stat.start_ticks != start_ticks) {
        return false;
    }
    rustix::process::pidfd_send_signal(&handle, signal).is_ok()
}

/// Waits until this process has ended, a zombie at most.
pub fn wait_gone(pid: u32, start_ticks: u64, deadline: Instant) {
    let Some(handle) = open_pidfd(pid) else { return };
    if process::stat(pid).is_some_and(|stat| stat.start_ticks == start_ticks) {
        // Too late: it hangs in the kernel.
        let _ = wait::readable(&handle, deadline);
    }
}

fn open_pidfd(pid: u32) -> Option<rustix::fd::OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// Sends `signal` to all of `pids`. What is stopped is woken to hear it.
pub fn signal_all(pids: &[u32], signal: Signal) {
    for pid in pids {
        if let Some(stat) = process::stat(*pid) {
            signal_exactly(*pid, stat.start_ticks, signal);
            if signal == Signal::TERM {
                signal_exactly(*pid, stat.start_ticks, Signal::CONT);
            }
        }
    }
}

/// Ends everything that came from `root`, and holds `root` still meanwhile, so that nothing new comes.
/// Gives up on what hangs in the kernel at `deadline`.
pub fn end_below(root: u32, deadline: Instant) {
    let mut empty = 0;
    // One that moves while it is looked for is missed, once.
    while empty < 2 && Instant::now() < deadline {
        signal_all(&[root], Signal::STOP);
        let left = descendants(root);
        let known: Vec<_> = left.iter().filter_map(|pid| Some((*pid, process::stat(*pid)?.start_ticks))).collect();
        signal_all(&left, Signal::KILL);
        known.iter().for_each(|(pid, start_ticks)| wait_gone(*pid, *start_ticks, deadline));
        empty = if left.is_empty() { empty + 1 } else { 0 };
    }
}

/// A living process, and when it started.
pub fn living(pid: u32) -> Option<(u32, u64)> {
    process::stat(pid).filter(|stat| !stat.is_zombie).map(|stat| (pid, stat.start_ticks))
}

/// Living processes of this user, but this one, by the environment that each was started with.
pub fn started_with(is_it: impl Fn(&dyn Fn(&str) -> Option<String>) -> bool) -> Vec<(u32, u64)> {
    let Ok(entries) = fs_err::read_dir("/proc") else { return Vec::new() };
    let me = std::process::id();
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| *pid != me)
        .filter_map(|pid| {
            // Read first: the environment is then that of the process with this start, or of none.
            let found = living(pid)?;
            let is_it = is_it(&|name| process::environ_value(pid, name).ok()?);
            (is_it && process::user_id(pid) == process::user_id(me)).then_some(found)
        })
        .collect()
}

/// Kills what is found until a look finds nobody new, and waits until all of it is gone, or hangs in
/// the kernel at `deadline`. Returns names with pids.
pub fn kill_all(deadline: Instant, find: impl Fn() -> Vec<(u32, u64)>) -> Vec<String> {
    let (mut seen, mut killed) = (BTreeSet::new(), Vec::new());
    // What forks while it is killed is found by the next look.
    loop {
        let before = seen.len();
        for (pid, start_ticks) in find() {
            let name = format!("{} ({pid})", name(pid));
            if signal_exactly(pid, start_ticks, Signal::KILL) && seen.insert((pid, start_ticks)) {
                killed.push(name);
            }
        }
        if seen.len() == before {
            seen.iter().for_each(|(pid, start_ticks)| wait_gone(*pid, *start_ticks, deadline));
            killed.sort();
            return killed;
        }
    }
}

/// Reaps dead children of this process except `agent`, whose status belongs to its owner.
pub fn reap_orphans(agent: Option<u32>) {
    for pid in process::children(std::process::id()) {
        if Some(pid) == agent {
            continue;
        }
        if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
            // An error means that somebody else reaped it, which is as good.
            let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}

/// Whether this process has no child at all, dead or alive. The kernel answers this exactly,
/// while its list of children can miss one that moves while it is read.
pub fn is_childless() -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    matches!(rustix::process::waitid(WaitId::All, options), Err(rustix::io::Errno::CHILD))
}
