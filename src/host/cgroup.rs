//! A control group for the agent and all that comes from it, where this machine lets one be made
//! (version 2, writable). Who is in it stays in it, whatever it does to its parents, its session
//! and its environment, also when its host was killed. Without one nothing else changes.

use std::io;
use std::path::{Path, PathBuf};

use crate::base::process;
use crate::model::session::HostIdentity;

fn name(host: &HostIdentity) -> String {
    format!("loom-{}-{}", host.pid, host.start_ticks)
}

/// Makes an empty group for the agent of `host`, below the group of this process.
pub fn make(host: &HostIdentity) -> Option<PathBuf> {
    let group = own()?.join(name(host));
    fs_err::create_dir(&group).ok()?;
    if group.join("cgroup.kill").exists() {
        return Some(group);
    }
    remove(&group);
    None
}

/// The folder of the group that this process is in.
fn own() -> Option<PathBuf> {
    let groups = fs_err::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mounts = fs_err::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        let mut fields = place.split(' ').skip(3);
        let (root, mounted_at) = (fields.next()?, fields.next()?);
        let below = Path::new(own).strip_prefix(root).ok()?;
        kind.starts_with("cgroup2 ").then(|| Path::new(mounted_at).join(below))
    })
}

/// Puts this process into `group`. The kernel takes up to some milliseconds.
pub fn enter(group: &Path) -> io::Result<()> {
    fs_err::write(group.join("cgroup.procs"), "0")
}

/// The group that `host` recorded as its agent's, if it can be that.
pub fn of(host: &HostIdentity, recorded: Option<PathBuf>) -> Option<PathBuf> {
    recorded.filter(|group| group.ends_with(name(host)) && host.boot_id == process::boot_id())
}

/// The processes in `group` and below it.
pub fn members(group: &Path) -> Vec<u32> {
    let listed = fs_err::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    let mut members: Vec<u32> = listed.lines().filter_map(|pid| pid.parse().ok()).collect();
    below(group).iter().for_each(|group| members.extend(self::members(group)));
    members
}

/// Kills all of them in one step: nobody can fork away from it.
pub fn kill(group: &Path) {
    // One that is gone has nobody in it.
    let _ = fs_err::write(group.join("cgroup.kill"), "1");
}

/// Removes `group` and what is below it, if nobody is in it any more.
pub fn remove(group: &Path) {
    below(group).iter().for_each(|group| remove(group));
    let _ = fs_err::remove_dir(group);
}

fn below(group: &Path) -> Vec<PathBuf> {
    let entries = fs_err::read_dir(group).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}
