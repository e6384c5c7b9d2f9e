//! Daemons that die again and again: agents notice nothing, and the keeper
//! says when it gives up.

use super::{Trial, sturdy};
use crate::env::{Env, kill, plan, stage};

#[test]
fn chaos_a_hundred_restarts_cost_no_agent_and_no_line() {
    const RESTARTS: usize = 100;
    let env = Env::new();
    let talker = |id: &str| {
        env.fifo(id);
        let script = format!(
            "echo {id} >> @OUT@/runs\nn=0; while read line < @OUT@/{id} && [ $line = go ]; do n=$((n+1)); echo {id} $n; echo $n > @OUT@/{id}.n; done"
        );
        stage(id).first(&script)
    };
    env.load(&plan(&[talker("a"), talker("b")]));
    env.loom(&["run"]).ok();
    env.until("both run", || env.said("runs").lines().count() == 2);
    for n in 1..=RESTARTS {
        // Some lines are said while there is a daemon, and some while there is none.
        if n % 2 == 0 {
            env.go("a");
        }
        env.pids(" keeper").into_iter().for_each(kill);
        env.pids(" daemon").into_iter().for_each(kill);
        if n % 2 == 1 {
            env.go("a");
        }
        env.go("b");
        env.until("the daemon is gone", || !env.is_locked());
        env.loom(&["run"]).ok();
        env.until("both have spoken", || ["a.n", "b.n"].iter().all(|name| env.said(name).trim() == n.to_string()));
    }
    for id in ["a", "b"] {
        let log = env.read(&format!(".work/sessions/{id}.1/output.log"));
        let lines: Vec<String> = (1..=RESTARTS).map(|n| format!("{id} {n}")).collect();
        assert_eq!(log.lines().collect::<Vec<_>>(), lines);
        assert_eq!(env.stage(id)["attempt"], 1);
        let mut fifo = std::fs::OpenOptions::new().write(true).open(env.out.join(id)).unwrap();
        std::io::Write::write_all(&mut fifo, b"end\n").unwrap();
    }
    env.settle();
    assert_eq!(env.state(), "a merged, b merged");
    let mut runs: Vec<String> = env.said("runs").lines().map(str::to_owned).collect();
    runs.sort();
    assert_eq!(runs, ["a", "b"]);
}

#[test]
fn a_keeper_gives_up_loudly() {
    let mut trial = Trial::new(&plan(&[sturdy("a")]), false);
    trial.step(&["init", "doc/plans/plan.md"], "init by operator", |_| false);
    // Every daemon dies as soon as somebody could talk to it.
    trial.fail("effect.start.before=kill");
    let out = trial.env.loom(&["run", "--watch"]);
    assert!(out.stdout.contains("! the daemon died of unix signal 9, 6 times within 10 minutes"), "{out}");
    assert_eq!(trial.delivered(), 6);
    trial.env.loom(&["status"]).ok().has("is not started again").has("daemon not running").has("Next: loom run");
    assert!(trial.env.daemon_log().contains("is not started again"));
    trial.fail("");
    trial.run_until(|state| state == "a merged");
    assert!(!trial.env.loom(&["status"]).ok().stdout.contains("not started again"));
    trial.check(&["a"], None);
}

#[test]
fn of_fifty_daemons_at_once_one_wins() {
    let env = Env::new();
    env.fifo("go");
    env.load(&plan(&[stage("a").first("echo a >> @OUT@/runs\nread go < @OUT@/go")]));
    let children: Vec<_> = (0..50).map(|_| env.spawn(&["run"])).collect();
    let codes: Vec<i32> = children.into_iter().map(|child| env.wait_child(child).code).collect();
    assert_eq!(codes.iter().filter(|code| **code == 0).count(), 1, "{codes:?}");
    assert!(codes.iter().all(|code| matches!(code, 0 | 1)), "{codes:?}");
    env.until("the losers are gone", || env.pids(" keeper").len() == 1);
    env.until_said("runs", "a");
    env.go("go");
    env.settle();
    assert_eq!((env.said("runs").as_str(), env.state().as_str()), ("a\n", "a merged"));
}

#[test]
fn worktrees_that_are_deleted_by_hand_cost_an_attempt_at_most() {
    let mut trial = Trial::new(
        &plan(&[
            sturdy("a").first("echo a >> @OUT@/runs\ntest $LOOM_ATTEMPT -gt 1 || read go < @OUT@/go"),
            sturdy("b").after(&["a"]),
        ]),
        false,
    );
    trial.env.fifo("go");
    trial.step(&["init", "doc/plans/plan.md"], "init by operator", |_| false);
    trial.env.loom(&["run"]).ok();
    trial.env.until_said("runs", "a");
    std::fs::remove_dir_all(trial.env.repo.join(".worktrees")).unwrap();
    trial.env.go("go");
    trial.run_until(|state| state == "a merged, b merged");
    trial.check(&["a", "b"], None);
}

#[test]
fn chaos_is_a_command() {
    let env = Env::new();
    let out = env.loom(&["chaos", "--seed", "7", "--kills", "6"]).ok().has("Seed 7: 6 kills").has("6 kills over");
    assert!(out.stdout.contains("✓ plan 1: killed at "), "{out}");
    assert_eq!(env.pids("loom"), [0_u32; 0], "it left processes behind");
    assert_eq!(std::fs::read_dir(env.path().join("tmp")).unwrap().count(), 0, "it left files behind");
    let points = env.loom(&["chaos", "--points"]).ok().stdout;
    assert_eq!(points.lines().count(), loom::base::fail::Point::ALL.len());
    // A journal that is not what it says is found out: the proof can fail.
    let mut env = env;
    env.program("git", "case \"$*\" in *'%(trailers'*) exec /bin/echo hello/greeting;; esac; PATH=$(echo $PATH | cut -d: -f2-); exec git \"$@\"");
    env.loom(&["chaos", "--seed", "7", "--kills", "1"]).ends(4).has("not every stage landed once");
}
