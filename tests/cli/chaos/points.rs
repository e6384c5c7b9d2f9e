//! Every fail point: killed there, the plan ends as it would have.

use std::collections::BTreeMap;
use std::fs;

use loom::base::fail::Point;

use super::{RICH, Trial, is_long, rich_plan, spread, sturdy};
use crate::env::{kill, plan};

/// A person's way through the rich plan: a stage is blocked, mended and started over.
pub(super) fn tell(trial: &mut Trial) {
    fs::write(trial.env.out.join("broken"), "").unwrap();
    trial.step(&["init", "doc/plans/plan.md"], "init by operator", |_| false);
    trial.step(&["stage", "hold", "side"], "stage hold by operator", |env| env.stage("side")["held"] == true);
    trial.step(&["stage", "release", "side"], "stage release by operator", |env| env.stage("side")["held"] == false);
    trial.run_until(|state| state.matches(" merged").count() == 5 && state.contains("again blocked"));
    // A line that was cut off in the middle, as a power cut may leave it.
    let journal = trial.env.repo.join(".work/journal.jsonl");
    let mut bytes = fs::read(&journal).unwrap();
    bytes.extend_from_slice(b"{\"v\":1,\"seq\":");
    fs::write(&journal, bytes).unwrap();
    fs::remove_file(trial.env.out.join("broken")).unwrap();
    trial.step(&["stage", "reset", "again", "--reason", "mended"], "stage reset by operator", |env| {
        env.stage("again")["state"] != "blocked"
    });
    trial.run_until(|state| state.matches(" merged").count() == 6);
}

/// Somebody moves the plan branch, and a person has it put back.
fn move_branch(trial: &mut Trial) {
    trial.step(&["init", "doc/plans/plan.md"], "init by operator", |_| false);
    trial.step(&["stage", "hold", "b"], "stage hold by operator", |env| env.stage("b")["held"] == true);
    trial.run_until(|state| state == "a merged, b ready");
    trial.env.git(&["update-ref", "refs/heads/loom/_plan/plan", "main"]);
    let gate = |trial: &Trial| trial.env.status()["gates"][0]["id"].as_str().map(str::to_owned);
    let mut answered = 0;
    for _ in 0..20 {
        let _ = trial.env.loom(&["run", "--watch"]);
        // A daemon that dies before it has put the branch back asks again.
        if let Some(gate) = gate(trial) {
            trial.step(&["stage", "reject", &gate], "stage reject by operator", |env| {
                env.status()["gates"].as_array().is_some_and(Vec::is_empty)
            });
            answered += 1;
        } else if answered > 0 && !trial.env.status()["notices"].to_string().contains("where Loom left it") {
            break;
        }
    }
    assert!(answered > 0, "nobody noticed that the plan branch was moved");
    trial.step(&["stage", "release", "b"], "stage release by operator", |env| env.stage("b")["held"] == false);
    trial.run_until(|state| state == "a merged, b merged");
}

/// The user's checkout is half way when everything dies.
fn cut_follow(trial: &mut Trial) {
    let injected = trial.env.var("LOOM_FAIL");
    let stop = format!("git.follow.before=stop@1,{injected}");
    trial.fail(stop.trim_end_matches(','));
    trial.step(&["init", "doc/plans/plan.md"], "init by operator", |_| false);
    let _ = trial.env.loom(&["run"]);
    trial.env.until("the follow is about to begin", || {
        trial.reached().contains_key("git.follow.before") || trial.env.pids(" keeper").is_empty()
    });
    trial.env.pids(" keeper").into_iter().chain(trial.env.pids(" daemon")).for_each(kill);
    trial.env.until("nobody is left", || !trial.env.is_locked());
    if trial.reached().contains_key("git.follow.before") && !trial.env.repo.join("b.txt").exists() {
        // As `git merge` leaves it: a new file written half, and its lock.
        trial.env.write("a.txt", "a\n");
        trial.env.write("b.txt", "");
        trial.env.write(".git/index.lock", "");
    }
    trial.run_until(|state| state == "a merged, b merged");
}

/// The base of a stage is looked at while its session works.
fn look(trial: &mut Trial) {
    trial.step(&["init", "doc/plans/plan.md"], "init by operator", |_| false);
    trial.run_until(|state| state == "a merged");
}

/// A plan whose author prepares worktrees and the proof checkout.
fn prepared() -> String {
    let agent = "test -e ignored.ready || echo unprepared >> @OUT@/wrong";
    plan(&[
        sturdy("a")
            .first(agent)
            .check("test -e ignored.ready && test -s a.txt")
            .with("setup: [\"echo ready > ignored.ready\"]")
            .with("before_stage: [\"test ! -e a.txt\"]")
            .with("teardown: [\"test -e ignored.ready && echo torn >> @OUT@/torn\"]"),
        sturdy("b").after(&["a"]),
    ])
}

/// No agent starts before its worktree is prepared, and no worktree goes without its teardown.
fn prepare(trial: &mut Trial) {
    trial.step(&["init", "doc/plans/plan.md"], "init by operator", |_| false);
    trial.run_until(|state| state == "a merged, b merged");
    assert_eq!(trial.env.said("wrong"), "");
    assert!(trial.env.said("torn").starts_with("torn"), "{}", trial.env.daemon_log());
}

struct Scenario {
    plan: String,
    stages: &'static [&'static str],
    drive: fn(&mut Trial),
    /// Whether the plan branch is where only Loom put it.
    is_proven: bool,
}

fn scenarios() -> Vec<Scenario> {
    let two = || plan(&[sturdy("a"), sturdy("b").after(&["a"])]);
    let taken = "until grep -q baseline-[t]aken $LOOM_PROJECT/.work/journal.jsonl; do sleep 0.1; done";
    let slow = sturdy("a").first(taken).with("timeout: 60");
    vec![
        Scenario { plan: rich_plan(), stages: &RICH, drive: tell, is_proven: true },
        Scenario { plan: two(), stages: &["a", "b"], drive: move_branch, is_proven: false },
        Scenario { plan: two(), stages: &["a", "b"], drive: cut_follow, is_proven: true },
        Scenario { plan: plan(&[slow]), stages: &["a"], drive: look, is_proven: true },
        Scenario { plan: prepared(), stages: &["a", "b"], drive: prepare, is_proven: true },
    ]
}

impl Scenario {
    /// Carries it out; the points that were reached, with their counts, and the final tree.
    fn run(&self, what: &str, tree: Option<&str>) -> (BTreeMap<String, usize>, String, usize) {
        println!("LOOM_FAIL={what}");
        let mut trial = Trial::new(&self.plan, false);
        trial.is_moved = !self.is_proven;
        trial.fail(what);
        (self.drive)(&mut trial);
        trial.check(self.stages, tree);
        (trial.reached(), trial.tree(), trial.delivered())
    }
}

/// Kills once at every point of every scenario that no earlier one reaches.
fn kill_at_each(part: usize, parts: usize) {
    let mut known: Vec<String> = Vec::new();
    let mut todo = Vec::new();
    for scenario in scenarios() {
        let (reached, tree, _) = scenario.run("", None);
        let new: Vec<(String, usize)> = reached.into_iter().filter(|(name, _)| !known.contains(name)).collect();
        known.extend(new.iter().map(|(name, _)| name.clone()));
        todo.push((scenario, tree, new));
    }
    let missed: Vec<&str> =
        Point::ALL.iter().map(|point| point.name()).filter(|name| !known.iter().any(|k| k == name)).collect();
    assert!(missed.is_empty(), "no scenario reaches {missed:?}");
    let (mut at, mut kills) = (0, 0);
    for (scenario, tree, points) in &todo {
        for (name, times) in points {
            // The short form dies once at each point, at some time; the long one at eight times.
            let when = if is_long() { spread(*times).collect() } else { vec![1 + at * 7 % times] };
            for nth in when {
                at += 1;
                if at % parts == part {
                    let (_, _, delivered) = scenario.run(&format!("{name}=kill@{nth}"), Some(tree));
                    kills += delivered;
                }
            }
        }
    }
    println!("{kills} of {at} kills in part {part} of {parts}");
    // An earlier kill may change the way so that the last times are not reached; the first always is.
    assert!(kills * 10 >= at / parts * 8, "only {kills} kills of {} were delivered", at / parts);
}

#[test]
fn chaos_killed_at_every_point_1() {
    kill_at_each(0, 4);
}

#[test]
fn chaos_killed_at_every_point_2() {
    kill_at_each(1, 4);
}

#[test]
fn chaos_killed_at_every_point_3() {
    kill_at_each(2, 4);
}

#[test]
fn chaos_killed_at_every_point_4() {
    kill_at_each(3, 4);
}

#[test]
fn an_agent_cannot_inject_faults_into_the_daemon() {
    let mut trial = Trial::new(
        &plan(&[
            sturdy("a").first("test -z \"$LOOM_FAIL\" && export LOOM_FAIL='*=kill'; loom stage complete a || true")
        ]),
        false,
    );
    trial.fail("host.exit.before=kill@99");
    trial.step(&["init", "doc/plans/plan.md"], "init by operator", |_| false);
    trial.env.loom(&["run", "--watch"]).ok();
    trial.check(&["a"], None);
    assert_eq!(trial.env.stage("a")["attempt"], 1);
    assert_eq!(trial.delivered(), 0);
}

#[test]
fn a_wrong_order_is_refused_and_not_ignored() {
    let mut trial = Trial::new(&plan(&[sturdy("a")]), false);
    trial.fail("nowhere=kill");
    let out = trial.env.loom(&["init", "doc/plans/plan.md"]);
    assert_ne!(out.code, 0);
    out.has("names no point");
}
