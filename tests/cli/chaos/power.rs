//! The power goes: what was acknowledged is there when it comes back. The file
//! systems are told to shut down (`xfs_io -x -c shutdown`), which throws away
//! everything that was not synced, in the middle of a plan.

use std::path::{Path, PathBuf};

use super::points::tell;
use super::{RICH, Trial, is_long, rich_plan, spread};
use crate::env::{Env, kill};

/// Where the power goes, in the short form.
const CUTS: [&str; 7] = [
    "git.pack.without-index=stop@2",
    "git.ref.unsynced=stop@3",
    "effect.land.after=stop@2",
    "effect.start.after=stop@3",
    "host.exit.after=stop@4",
    "git.rescue.committed=stop@1",
    "git.follow.after=stop@1",
];

/// A file system of its own in a file.
struct Disk {
    dir: tempfile::TempDir,
}

impl Disk {
    /// None where this user may not mount: said where `test.sh` counts it.
    fn new(kind: &str) -> Option<Disk> {
        let disk = Disk { dir: tempfile::Builder::new().prefix("lp-").tempdir().unwrap() };
        std::fs::create_dir(disk.mnt()).unwrap();
        let image = disk.image().display().to_string();
        sh(&format!("truncate -s 400M {image} && mkfs.{kind} -q {image}")).unwrap();
        match disk.mount() {
            Ok(()) => Some(disk),
            Err(why) => {
                let list = Path::new(env!("CARGO_TARGET_TMPDIR")).join("not-run");
                std::fs::create_dir_all(&list).unwrap();
                let text = format!(
                    "power cuts on {kind}: mounting a loop device needs root, with all its rights ({})\n",
                    why.trim()
                );
                std::fs::write(list.join(format!("power-{kind}")), &text).unwrap();
                println!("NOT RUN: {text}");
                None
            }
        }
    }
    fn image(&self) -> PathBuf {
        self.dir.path().join("image")
    }
    fn mnt(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }
    fn mount(&self) -> Result<(), String> {
        sh(&format!("mount -o loop {} {}", self.image().display(), self.mnt().display()))
    }
    /// Whatever is not on the disk yet never will be.
    fn cut_power(&self) {
        sh(&format!("xfs_io -x -c shutdown {}", self.mnt().display())).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = sh(&format!("umount -l {}", self.mnt().display()));
    }
}

fn sh(script: &str) -> Result<(), String> {
    let output = std::process::Command::new("sh").args(["-c", script]).output().unwrap();
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{script}: {}", String::from_utf8_lossy(&output.stderr))),
    }
}

/// What `git fsck` says of objects and refs. A worktree that was just being made may be broken
/// until Loom makes it again: nothing of it was acknowledged. The verdict at the end asks for all.
fn damage(env: &Env) -> Vec<String> {
    let out = env.out_of(env.command("git").current_dir(&env.repo).args(["fsck", "--no-dangling", "--no-progress"]));
    let is_of_a_worktree = |line: &&str| line.contains("invalid worktrees/") && line.ends_with("/HEAD");
    out.stdout.lines().chain(out.stderr.lines()).filter(|line| !is_of_a_worktree(line)).map(str::to_owned).collect()
}

/// Cuts the power where `order` stops a process, and lets the plan go on afterwards. False: it
/// stopped nobody.
fn cut(disk: &Disk, order: &str, tree: &str) -> bool {
    println!("LOOM_FAIL={order}");
    let mut trial = Trial::on(Env::below(&disk.mnt()), &rich_plan(), false);
    trial.fail(order);
    sh(&format!("sync -f {}", disk.mnt().display())).unwrap();
    // The first stop may come in the very first command.
    let init = trial.env.spawn(&["init", "doc/plans/plan.md"]);
    let mut told = String::new();
    let mut commands = vec![init];
    let is_stopped = |trial: &Trial| trial.delivered() > 0;
    trial.env.until("init is over", || is_stopped(&trial) || trial.env.pids(" init ").is_empty());
    if !is_stopped(&trial) {
        trial.acknowledge("init by operator");
    }
    if !is_stopped(&trial) {
        commands.push(trial.env.spawn(&["run", "--watch"]));
        trial.env.until("the power goes", || is_stopped(&trial) || trial.env.pids(" run ").is_empty());
    }
    if !is_stopped(&trial) {
        return false;
    }
    disk.cut_power();
    for _ in 0..50 {
        let mut pids = trial.env.pids("");
        if pids.is_empty() {
            break;
        }
        // A keeper would start the next daemon.
        pids.sort_by_key(|pid| {
            !std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().ends_with(b"keeper\0")
        });
        pids.into_iter().for_each(kill);
    }
    for command in commands {
        told.push_str(&trial.env.wait_child(command).stdout);
    }
    let mnt = disk.mnt();
    trial.env.until("it is not in use", || sh(&format!("umount {}", mnt.display())).is_ok());
    // A sandbox that starts at this moment on the same machine holds a copy of the old mount, and
    // a new one is the same file system, which is shut down, until that is gone.
    trial.env.until("the power is back", || {
        disk.mount().unwrap();
        let is_back = std::fs::read_dir(trial.env.repo.join(".git")).is_ok();
        if !is_back {
            sh(&format!("umount {}", mnt.display())).unwrap();
        }
        is_back
    });
    assert_eq!(damage(&trial.env), [""; 0], "after the cut at {order}");
    // What a person was told has landed is still there.
    if trial.env.repo.join(".work/journal.jsonl").exists() {
        let state = trial.env.state();
        for line in told.lines().filter_map(|line| line.strip_prefix("✓ ")) {
            let id = line.split(' ').next().unwrap();
            assert!(state.contains(&format!("{id} merged")), "{id} was landed before the cut at {order}: {state}");
        }
    }
    trial.fail("");
    if trial.env.state().is_empty() {
        trial.step(&["init", "doc/plans/plan.md"], "init by operator", |_| false);
    }
    trial.run_until(|state| state.matches(" merged").count() == RICH.len());
    trial.check(&RICH, Some(tree));
    true
}

fn cut_all(kind: &str) {
    let Some(disk) = Disk::new(kind) else { return };
    let mut calm = Trial::new(&rich_plan(), false);
    calm.fail("");
    tell(&mut calm);
    let tree = calm.tree();
    let orders: Vec<String> = if is_long() {
        let each = |(name, times): (String, usize)| spread(times).map(move |nth| format!("{name}=stop@{nth}"));
        calm.reached().into_iter().flat_map(each).collect()
    } else {
        CUTS.iter().map(|order| (*order).to_owned()).collect()
    };
    let done = orders.iter().filter(|order| cut(&disk, order, &tree)).count();
    println!("{done} power cuts on {kind}");
    // Whether a point is reached for the nth time depends on who is first, for one of them.
    let wanted = if is_long() { 1 } else { orders.len() - 1 };
    assert!(done >= wanted, "only {done} of {} power cuts", orders.len());
}

#[test]
fn chaos_power_cuts_on_ext4() {
    cut_all("ext4");
}

#[test]
fn chaos_power_cuts_on_xfs() {
    cut_all("xfs");
}
