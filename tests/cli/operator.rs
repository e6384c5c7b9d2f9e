//! A person at the wheel: verbs while things run, several terminals at once, signals.

use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use crate::env::{Env, commit, kill, plan, stage};

/// A project whose stage `a` runs and waits for `go`.
fn running(more: &[crate::env::Stage]) -> Env {
    let env = Env::new();
    env.fifo("go");
    let mut text = plan(&[stage("a").first("echo x >> @OUT@/runs; read go < @OUT@/go; echo y >> @OUT@/ends")]);
    for stage in more {
        text = text.replace("```\n<!-- END", &format!("{}```\n<!-- END", stage.yaml()));
    }
    env.load(&text);
    env.loom(&["run"]).ok();
    env.until_said("runs", "x");
    env
}

#[test]
fn a_running_stage_that_is_reset_ends_and_starts_over() {
    let env = running(&[]);
    env.loom(&["stage", "reset", "a", "--reason", "wrong way"]).ok();
    env.until_said("runs", "x\nx");
    env.go("go");
    env.settle();
    assert_eq!((env.state(), env.said("ends")), ("a merged".to_owned(), "y\n".to_owned()));
    assert_eq!(env.stage("a")["attempt"], 1);
}

#[test]
fn a_running_stage_that_is_skipped_or_blocked_ends() {
    for verb in ["skip", "block"] {
        let env = running(&[stage("b").after(&["a"])]);
        env.loom(&["stage", verb, "a", "--reason", "enough"]).ok();
        env.settle();
        assert_eq!(env.pids("loom host"), [0_u32; 0], "{verb}");
        assert_eq!(env.said("ends"), "");
        assert!(!env.state().contains("a merged") && env.state().ends_with("b waiting"), "{}", env.state());
    }
}

#[test]
fn a_stage_that_a_person_finished_in_its_worktree_is_submitted_by_them() {
    let env = Env::of(&[stage("a").run("exit 1").with("max_retries: 0"), stage("b").after(&["a"])]);
    env.run().ends(4);
    let tree = env.repo.join(".worktrees/a");
    std::fs::write(tree.join("a.txt"), "by hand\n").unwrap();
    env.loom(&["stage", "complete", "a"]).ends(4).has("uncommitted work in `a.txt`");
    env.git_in(&tree, &["add", "-A"]);
    env.git_in(&tree, &["commit", "-q", "-m", "By hand"]);
    env.loom(&["stage", "complete", "a"]).ok();
    env.finish();
    assert_eq!((env.state(), env.read("a.txt")), ("a merged, b merged".to_owned(), "by hand\n".to_owned()));
}

#[test]
fn a_person_waits_for_the_verdict_of_a_submission() {
    let env = Env::new();
    env.fifo("go");
    env.load(&plan(&[
        stage("a").run("exit 1").with("max_retries: 0").check("grep good a.txt"),
        stage("z").first("read go < @OUT@/go"),
    ]));
    env.loom(&["run"]).ok();
    env.until_state("a", "blocked");
    let tree = env.repo.join(".worktrees/a");
    for (text, code) in [("bad", 4), ("good", 0)] {
        std::fs::write(tree.join("a.txt"), format!("{text}\n")).unwrap();
        env.git_in(&tree, &["add", "-A"]);
        env.git_in(&tree, &["commit", "-q", "-m", "By hand"]);
        let out = env.loom(&["stage", "complete", "a", "--wait"]).ends(code);
        if code == 4 {
            assert!(out.stdout.contains("grep good a.txt"), "{out}");
            env.until_state("a", "blocked");
        }
    }
    env.go("go");
    env.settle();
    assert_eq!(env.state(), "a merged, z merged");
}

#[test]
fn many_terminals_at_once_are_served_one_after_the_other() {
    let ids: Vec<String> = (0..8).map(|n| format!("s{n}")).collect();
    let stages: Vec<_> = ids.iter().map(|id| stage(id)).collect();
    let env = Env::of(&stages);
    for verb in ["hold", "release"] {
        let children: Vec<_> = ids.iter().map(|id| env.spawn(&["stage", verb, id])).collect();
        for child in children {
            env.wait_child(child).ok();
        }
        let held = env.status()["stages"].as_array().unwrap().iter().filter(|row| row["held"] == true).count();
        assert_eq!(held, if verb == "hold" { 8 } else { 0 });
    }
    env.finish();
}

#[test]
fn a_request_that_meets_a_daemon_on_its_way_out_is_carried_out() {
    let env = Env::of(&[stage("a"), stage("b").after(&["a"]).with("hold: true")]);
    env.loom(&["run"]).ok();
    for _ in 0..30 {
        env.loom(&["stage", "hold", "b"]).ok();
    }
    env.settle();
    env.loom(&["stage", "release", "b"]).ok();
    env.finish();
    assert_eq!(env.state(), "a merged, b merged");
}

#[test]
fn a_daemon_that_is_asked_to_terminate_leaves_its_sessions() {
    let env = running(&[]);
    let daemon = Pid::from_raw(i32::try_from(env.daemon_pid()).unwrap()).unwrap();
    kill_process(daemon, Signal::TERM).unwrap();
    env.until("daemon and keeper are gone", || env.pids(" keeper").is_empty() && env.pids(" daemon").is_empty());
    assert_eq!(env.pids("loom host").len(), 1);
    env.loom(&["status"]).ok().has("daemon not running").has("Next: loom run");
    env.go("go");
    env.finish();
    assert_eq!(env.said("runs"), "x\n");
}

#[test]
fn ctrl_c_at_a_watcher_leaves_the_daemon() {
    let env = Env::new();
    env.fifo("go");
    env.load(&plan(&[stage("a").first("echo x >> @OUT@/runs; read go < @OUT@/go")]));
    let watch = env.spawn(&["run", "--watch"]);
    env.until_said("runs", "x");
    kill_process(Pid::from_raw(i32::try_from(watch.id()).unwrap()).unwrap(), Signal::INT).unwrap();
    let out = env.wait_child(watch);
    assert!(matches!(out.code, 130 | -2), "{out}");
    assert!(env.is_locked());
    let again = env.spawn(&["run", "--watch"]);
    env.go("go");
    env.wait_child(again).ends(0);
    assert_eq!(env.said("runs"), "x\n");
}

#[test]
fn a_retry_that_is_repeated_is_one_retry() {
    let env = Env::of(&[stage("a").run("exit 1").with("max_retries: 0"), stage("b").after(&["a"])]);
    env.run().ends(4);
    env.loom(&["stage", "retry", "a"]).ok();
    env.loom(&["stage", "retry", "a"]).ends(1).has("cannot be retried");
    env.run().ends(4);
    assert_eq!(env.stage("a")["attempt"], 2);
}

#[test]
fn a_watcher_of_a_stopped_daemon_says_how_it_goes_on() {
    let env = running(&[]);
    let watch = env.spawn(&["run", "--watch"]);
    env.loom(&["stop"]).ok();
    let out = env.wait_child(watch).ends(130);
    assert!(out.stderr.contains("Next: loom run"), "{out}");
    let live =
        env.command(env!("CARGO_BIN_EXE_loom")).args(["status", "--live"]).stdout(Stdio::null()).status().unwrap();
    assert!(live.success());
}

#[test]
fn a_crash_waits_for_its_backoff_unless_a_person_says_retry() {
    let mut env = Env::new();
    env.set("LOOM_BACKOFF_MS", "3600000");
    env.load(&plan(&[stage("a").run(format!("if [ $LOOM_ATTEMPT = 1 ]; then kill -9 $$; fi; {}", commit("a", "a")))]));
    env.loom(&["run"]).ok();
    env.until("the crash is seen", || {
        env.stage("a")["detail"].as_str().is_some_and(|text| text.contains("retries in"))
    });
    assert!(env.is_locked(), "the daemon waits");
    env.loom(&["stage", "retry", "a"]).ok();
    env.settle();
    assert_eq!((env.state(), env.stage("a")["attempt"].as_u64()), ("a merged".to_owned(), Some(2)));
}

#[test]
fn whatever_is_killed_everything_lands_once() {
    let ids = ["a", "b", "c", "d"];
    let stages: Vec<_> =
        ids.iter().map(|id| stage(id).first(&format!("echo {id} >> @OUT@/runs")).with("max_retries: 20")).collect();
    let mut stages = stages;
    stages.push(stage("join").after(&ids).check("test -s a.txt -a -s d.txt").with("max_retries: 20"));
    let env = Env::of(&stages);
    for round in 0..10 {
        let _ = env.loom(&["run"]);
        if round % 3 == 0 {
            env.until("somebody has run", || env.said("runs").lines().count() > round / 3);
        }
        for who in [" keeper", " daemon", "loom host"].iter().take(2 + round % 2) {
            env.pids(who).into_iter().for_each(kill);
        }
        env.until("the daemon is gone", || env.pids(" daemon").is_empty());
    }
    env.finish();
    let log = env.git(&["log", "--first-parent", "--format=%s", "main"]);
    assert_eq!(log.lines().filter(|line| line.starts_with("The stage")).count(), 5, "{log}");
    assert_eq!(env.git(&["fsck", "--no-dangling"]), "");
    assert_eq!(env.git(&["worktree", "list"]).lines().count(), 1);
    assert_eq!(env.git(&["for-each-ref", "refs/heads/loom"]).lines().count(), 1);
    assert_eq!(env.pids("loom"), [0_u32; 0]);
}
