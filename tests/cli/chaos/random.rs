//! SIGKILL for anybody at any moment: daemon, keeper, hosts, agents, git and
//! people's own commands. The seed chooses whom and roughly when.

use std::collections::BTreeMap;
use std::process::Child;
use std::time::Duration;

use loom::base::dice::Dice;
use rustix::process::{Pid, Signal, kill_process};

use super::{Trial, sturdy};
use crate::env::{Stage, plan};

/// Kills in one plan, at least.
const KILLS_A_PLAN: usize = 26;
/// Plans in one test; there are four of them.
const PLANS: usize = 5;
const STAGES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

/// A number from the environment.
pub(super) fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A stage of which one waits for a person, and one has a worktree to be prepared.
fn fireproof(id: &str) -> Stage {
    match id {
        "c" => sturdy(id)
            .first("test -e ignored.ready")
            .with("setup: [\"echo ready > ignored.ready\"]")
            .with("teardown: [\"test -e ignored.ready\"]"),
        // It touches what judges.
        "e" => sturdy(id).first("mkdir -p .github/workflows; echo e > .github/workflows/e.yml; git add .github"),
        _ => sturdy(id),
    }
}

/// Eight stages in one of four shapes.
fn shape(n: usize) -> String {
    let stages: Vec<_> = STAGES
        .iter()
        .enumerate()
        .map(|(at, id)| match (n, at) {
            (_, 0) => fireproof(id),
            (0, _) => fireproof(id).after(&[STAGES[at - 1]]),
            (1, _) => fireproof(id).after(&["a"]),
            (2, _) => fireproof(id).after(&[STAGES[(at - 1) / 2]]),
            (_, 7) => fireproof(id).after(&STAGES[4..7]),
            (_, _) => fireproof(id),
        })
        .collect();
    plan(&stages)
}

/// Who a process is, by its command line; none: not one to kill.
fn role(line: &str) -> Option<&'static str> {
    let words: Vec<&str> = line.split(' ').collect();
    match words.as_slice() {
        [_, "host", "--exec", ..] => Some("host --exec"),
        [_, "host", ..] => Some("host"),
        [_, "-C", _, "keeper", ..] => Some("keeper"),
        [_, "-C", _, "daemon", ..] => Some("daemon"),
        ["git", ..] => Some("git"),
        [program, ..] if program.ends_with("/git") || program.contains("git-core") => Some("git"),
        ["/bin/sh", "-c", ..] => Some("agent or check"),
        [program, ..] if program.ends_with("/loom") => Some("command"),
        _ => None,
    }
}

struct Fire {
    dice: Dice,
    killed: BTreeMap<&'static str, usize>,
    commands: Vec<Child>,
}

impl Fire {
    /// Kills one process of the project; whether there was one.
    fn kill_one(&mut self, trial: &Trial) -> bool {
        let mut by_role: BTreeMap<&'static str, Vec<u32>> = BTreeMap::new();
        for pid in trial.env.pids("") {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if let Some(role) = role(line.trim()) {
                by_role.entry(role).or_default().push(pid);
            }
        }
        // First the role, so that the few are met as often as the many.
        let roles: Vec<&'static str> = by_role.keys().copied().collect();
        let Some(role) = roles.get(self.dice.roll(roles.len())).copied() else { return false };
        let pids = &by_role[role];
        let pid = Pid::from_raw(i32::try_from(pids[self.dice.roll(pids.len())]).unwrap()).unwrap();
        let is_killed = kill_process(pid, Signal::KILL).is_ok();
        if is_killed {
            *self.killed.entry(role).or_default() += 1;
        }
        is_killed
    }

    fn total(&self) -> usize {
        self.killed.values().sum()
    }
}

/// One plan under fire; the number of kills.
fn burn(seed: u64, tree: &mut BTreeMap<usize, String>) -> BTreeMap<&'static str, usize> {
    let mut dice = Dice::new(seed);
    let n = dice.roll(4);
    let tree = tree.entry(n).or_insert_with(|| {
        let mut calm = Trial::new(&shape(n), false);
        calm.step(&["init", "doc/plans/plan.md"], "init by operator", |_| false);
        calm.run_until(|state| state.matches(" merged").count() == STAGES.len());
        calm.check(&STAGES, None);
        calm.tree()
    });
    let mut trial = Trial::new(&shape(n), dice.roll(2) == 1);
    trial.step(&["init", "doc/plans/plan.md"], "init by operator", |_| false);
    let mut fire = Fire { dice, killed: BTreeMap::new(), commands: Vec::new() };
    let mut idle = 0;
    while fire.total() < KILLS_A_PLAN && idle < 40 {
        if trial.env.pids(" keeper").is_empty() && !trial.env.is_locked() {
            fire.commands.push(trial.env.spawn(&["run"]));
            idle += 1;
        }
        if fire.dice.roll(4) == 0 {
            // Asked again and again, answered or killed.
            let what = [["hold", "h"], ["release", "h"], ["approve", "e"]][fire.dice.roll(3)];
            fire.commands.push(trial.env.spawn(&["stage", what[0], what[1]]));
        }
        let pause = Duration::from_micros(u64::try_from(fire.dice.roll(25_000)).unwrap());
        let (_keep, wait) = std::sync::mpsc::channel::<()>();
        let _ = wait.recv_timeout(pause);
        if fire.kill_one(&trial) {
            idle = 0;
        }
    }
    for command in std::mem::take(&mut fire.commands) {
        trial.env.wait_child(command);
    }
    if trial.env.stage("h")["held"] == true {
        trial.step(&["stage", "release", "h"], "stage release by operator", |env| env.stage("h")["held"] == false);
    }
    trial.run_until(|state| state.matches(" merged").count() == STAGES.len());
    trial.check(&STAGES, Some(tree));
    fire.killed
}

fn burn_all(part: u64) {
    let kills = number("LOOM_CHAOS_KILLS", 500) / 4;
    let seed = u64::try_from(number("LOOM_CHAOS_SEED", 20_261_121)).unwrap() + part * 1_000_000;
    let mut trees = BTreeMap::new();
    let mut killed: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut plans = 0;
    while plans < PLANS || killed.values().sum::<usize>() < kills {
        let this = seed + u64::try_from(plans).unwrap();
        println!("seed {this}");
        for (role, times) in burn(this, &mut trees) {
            *killed.entry(role).or_default() += times;
        }
        plans += 1;
        assert!(plans < 20 + kills, "too few kills were delivered: {killed:?}");
    }
    println!("{plans} plans, {} kills: {killed:?}", killed.values().sum::<usize>());
}

#[test]
fn chaos_anybody_is_killed_at_any_moment_1() {
    burn_all(1);
}

#[test]
fn chaos_anybody_is_killed_at_any_moment_2() {
    burn_all(2);
}

#[test]
fn chaos_anybody_is_killed_at_any_moment_3() {
    burn_all(3);
}

#[test]
fn chaos_anybody_is_killed_at_any_moment_4() {
    burn_all(4);
}
