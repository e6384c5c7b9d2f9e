//! Whatever dies: nothing is lost, and nothing is done twice.

use std::fs;

use crate::env::{Env, commit, kill, plan, stage};

/// A stage that says that it runs, waits until it is let go, and says that it is done.
fn waiting(env: &Env, id: &str) -> crate::env::Stage {
    env.fifo(&format!("{id}.go"));
    stage(id).first(&format!("echo {id} >> @OUT@/runs\nread go < @OUT@/{id}.go\necho {id} >> @OUT@/ends"))
}

#[test]
fn sessions_survive_a_stop_and_the_next_run_adopts_them() {
    let env = Env::new();
    env.load(&plan(&[waiting(&env, "a"), stage("b").after(&["a"])]));
    env.loom(&["run"]).ok();
    env.until_said("runs", "a");
    env.loom(&["stop"]).ok().has("1 session goes on under its host");
    assert!(!env.is_locked());
    assert_eq!(env.pids("loom host").len(), 1, "the host is still there");
    env.loom(&["sessions", "list"]).ok().has("a.1");
    env.loom(&["run"]).ok();
    env.go("a.go");
    env.settle();
    assert_eq!((env.said("runs"), env.said("ends")), ("a\n".to_owned(), "a\n".to_owned()));
    assert_eq!(env.state(), "a merged, b merged");
    assert_eq!(env.stage("a")["attempt"], 1);
}

#[test]
fn a_session_that_ended_while_no_daemon_ran_is_landed_by_the_next_one() {
    let env = Env::new();
    env.load(&plan(&[waiting(&env, "a")]));
    env.loom(&["run"]).ok();
    env.until_said("runs", "a");
    env.loom(&["stop"]).ok();
    env.go("a.go");
    env.until("the host has ended", || env.pids("loom host").is_empty());
    env.finish();
    assert_eq!(env.said("runs"), "a\n");
    assert_eq!(env.stage("a")["attempt"], 1);
}

#[test]
fn the_keeper_brings_a_killed_daemon_back() {
    let env = Env::new();
    env.load(&plan(&[waiting(&env, "a"), waiting(&env, "b").after(&["a"])]));
    env.loom(&["run"]).ok();
    for id in ["a", "b"] {
        env.until_said("runs", id);
        let old = env.daemon_pid();
        kill(old);
        env.until("another daemon is there", || {
            env.status()["daemon"]["pid"].as_u64().is_some_and(|pid| pid != u64::from(old))
        });
        env.go(&format!("{id}.go"));
    }
    env.settle();
    assert_eq!((env.said("runs"), env.said("ends")), ("a\nb\n".to_owned(), "a\nb\n".to_owned()));
    assert_eq!(env.state(), "a merged, b merged");
}

#[test]
fn a_watcher_follows_across_a_killed_daemon() {
    let env = Env::new();
    env.load(&plan(&[waiting(&env, "a")]));
    let watch = env.spawn(&["run", "--watch"]);
    env.until_said("runs", "a");
    kill(env.daemon_pid());
    env.go("a.go");
    let out = env.wait_child(watch).ends(0);
    assert!(out.stderr.contains("The plan is complete"), "{out}");
    assert_eq!(env.said("runs"), "a\n");
}

#[test]
fn a_run_after_keeper_and_daemon_were_killed_does_nothing_twice() {
    let env = Env::new();
    env.load(&plan(&[waiting(&env, "a"), stage("b").after(&["a"]).first("echo b >> @OUT@/runs")]));
    env.loom(&["run"]).ok();
    env.until_said("runs", "a");
    let daemon = env.daemon_pid();
    env.pids("keeper").into_iter().for_each(kill);
    kill(daemon);
    env.until("the daemon is gone", || !env.is_locked());
    env.go("a.go");
    env.finish();
    assert_eq!((env.said("runs"), env.said("ends")), ("a\nb\n".to_owned(), "a\n".to_owned()));
    assert_eq!(env.git(&["log", "--format=%s", "--first-parent", "main"]), "The stage b\nThe stage a\nPlan\nStart");
}

#[test]
fn a_daemon_that_is_killed_again_and_again_still_finishes_once() {
    let ids = ["a", "b", "c", "d"];
    let stages: Vec<_> = ids
        .iter()
        .enumerate()
        .map(|(n, id)| {
            let stage = stage(id).first(&format!("echo {id} >> @OUT@/runs"));
            if n == 0 { stage } else { stage.after(&[ids[n - 1]]) }
        })
        .collect();
    let env = Env::of(&stages);
    for _ in 0..12 {
        let out = env.loom(&["run"]);
        if env.state() == "a merged, b merged, c merged, d merged" {
            break;
        }
        assert!(out.code == 0 || out.stderr.contains("at work"), "{out}");
        env.pids("keeper").into_iter().for_each(kill);
        env.pids(" daemon").into_iter().for_each(kill);
        env.until("the daemon is gone", || env.pids(" daemon").is_empty());
    }
    env.finish();
    assert_eq!(env.said("runs"), "a\nb\nc\nd\n");
    let log = env.git(&["log", "--format=%s", "--first-parent", "main"]);
    assert_eq!(log, "The stage d\nThe stage c\nThe stage b\nThe stage a\nPlan\nStart");
    assert_eq!(env.git(&["fsck", "--no-dangling"]), "");
}

#[test]
fn a_killed_host_is_a_crash_and_its_survivors_end() {
    let env = Env::new();
    env.fifo("go");
    let script = format!(
        "echo x >> @OUT@/runs; pwd >> @OUT@/where\nif [ $LOOM_ATTEMPT = 1 ]; then touch $(git rev-parse --git-dir)/index.lock; (setsid sleep 4244 &); read go < @OUT@/go; echo zombie >> @OUT@/ends; fi; {}",
        commit("a", "a")
    );
    env.load(&plan(&[stage("a").run(script)]));
    env.loom(&["run"]).ok();
    env.until_said("where", "a");
    env.until("the child is there", || !env.pids("sleep 4244").is_empty());
    env.pids("loom host").into_iter().for_each(kill);
    env.settle();
    assert_eq!(env.state(), "a merged");
    assert_eq!(env.said("runs"), "x\nx\n");
    let place = env.said("where");
    let places: Vec<&str> = place.lines().map(|line| line.rsplit('/').next().unwrap()).collect();
    assert_eq!(places, ["a", "a.2"]);
    assert_eq!(env.said("ends"), "");
    assert_eq!(env.pids("sleep 4244"), [0_u32; 0]);
    assert!(!env.repo.join(".worktrees/a").exists() && !env.repo.join(".worktrees/a.2").exists());
}

#[test]
fn after_a_stop_with_kill_the_stage_goes_on_with_the_next_run() {
    let env = Env::new();
    env.load(&plan(&[waiting(&env, "a").with("max_retries: 0")]));
    env.loom(&["run"]).ok();
    env.until_said("runs", "a");
    env.loom(&["stop", "--kill"]).ok();
    assert!(!env.is_locked());
    assert_eq!(env.pids("loom host"), [0_u32; 0]);
    assert_eq!(env.state(), "a ready");
    env.loom(&["run"]).ok();
    env.go("a.go");
    env.settle();
    assert_eq!((env.said("runs"), env.said("ends")), ("a\na\n".to_owned(), "a\n".to_owned()));
    assert_eq!(env.state(), "a merged");
}

#[test]
fn a_session_that_is_only_given_time_to_leave_ends_with_its_daemon() {
    for args in [&["stop", "--kill"][..], &["stop"]] {
        let env = Env::new();
        let over = stage("a")
            .run(format!("{}; loom stage complete a; echo over >> @OUT@/over; exec sleep 600", commit("a", "a")));
        env.load(&plan(&[over, waiting(&env, "b")]));
        env.loom(&["run"]).ok();
        env.until_said("over", "over");
        env.until("a has landed", || env.stage("a")["state"] == "merged");
        env.until_said("runs", "b");
        let kills = args.len() == 2;
        let said = if kills { "ends 2 sessions" } else { "1 session goes on under its host" };
        env.loom(args).ok().has(said);
        assert_eq!(env.pids("loom host").len(), usize::from(!kills));
        assert_eq!(env.pids("sleep 600").len(), 0);
        if kills {
            env.loom(&["run"]).ok();
        }
        env.go("b.go");
        env.finish();
        assert_eq!(env.state(), "a merged, b merged");
    }
}

#[test]
fn sessions_are_listed_and_killed() {
    let env = Env::new();
    env.load(&plan(&[waiting(&env, "a")]));
    env.loom(&["sessions", "list"]).ok().has("no session lives");
    env.loom(&["run"]).ok();
    env.until_said("runs", "a");
    let list = env.loom(&["sessions", "list", "--json"]).ok().json();
    assert_eq!((list[0]["id"].as_str(), list[0]["backend"].as_str()), (Some("a.1"), Some("command")));
    env.loom(&["sessions", "kill", "a.7"]).ends(1).has("there is no session `a.7`");
    env.loom(&["sessions", "kill", "a.1"]).ok();
    env.settle();
    let row = env.stage("a");
    assert_eq!((row["state"].as_str(), row["reason"]["code"].as_str()), (Some("blocked"), Some("by-person")));
    assert_eq!(env.pids("loom host"), [0_u32; 0]);
    env.loom(&["sessions", "kill", "a.1"]).ends(1).has("over already");
}

#[test]
fn a_second_run_is_refused() {
    let env = Env::new();
    env.load(&plan(&[waiting(&env, "a")]));
    env.loom(&["run"]).ok();
    insta::assert_snapshot!(env.says(&["run"]), @r"
    Error: the daemon of this project is running already
    Hint: loom status
    Hint: loom run --watch
    ------- exit 1 -------
    ");
    env.loom(&["run", "--foreground"]).ends(1);
    env.until_said("runs", "a");
    assert_eq!(env.said("runs"), "a\n");
}

#[test]
fn a_daemon_whose_state_folder_is_deleted_stops() {
    let env = Env::new();
    env.load(&plan(&[waiting(&env, "a")]));
    env.loom(&["run"]).ok();
    env.until_said("runs", "a");
    let daemon = env.daemon_pid();
    fs::remove_dir_all(env.repo.join(".work")).unwrap();
    env.go("a.go");
    env.until("daemon and keeper are gone", || env.pids(" keeper").is_empty() && env.pids(" daemon").is_empty());
    assert!(fs::metadata(format!("/proc/{daemon}")).is_err());
    // Nothing had landed: there is no history that could be missed.
    env.loom(&["status"]).ok().has("No plan yet");
    env.loom(&["run"]).ends(1).has("this project has no plan yet");
}

#[test]
fn a_journal_that_was_cut_in_the_middle_of_a_line_goes_on() {
    let env = Env::of(&[stage("a"), stage("b").after(&["a"]).with("hold: true")]);
    let _ = env.run();
    let path = env.repo.join(".work/journal.jsonl");
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend_from_slice(b"{\"seq\":99,\"cut");
    fs::write(&path, &bytes).unwrap();
    env.loom(&["stage", "release", "b"]).ok();
    env.finish();
    let text = env.read(".work/journal.jsonl").replacen("The stage a", "The stage x", 1);
    fs::write(&path, text).unwrap();
    env.loom(&["status"]).ends(70).has("nothing in it is skipped");
}

#[test]
fn what_breaks_off_is_a_failure_and_not_waited_for() {
    let env = Env::new();
    env.add_plan(&plan(&[stage("a")]));
    let mut init = env.command(env!("CARGO_BIN_EXE_loom"));
    init.args(["init", "doc/plans/plan.md"]).env("LOOM_FAIL", "effect.make-plan-branch.before=panic");
    let out = env.out_of(&mut init);
    assert!(out.code != 0 && out.stderr.contains("it broke off"), "{out}");
    assert_eq!(env.git(&["branch", "--list", "loom/*"]), "");
    env.finish();
    assert_eq!(env.state(), "a merged");
}

/// Files that were not synced are there without content after a power cut.
#[test]
fn the_folders_of_loom_hide_themselves_again_after_a_power_cut() {
    let env = Env::new();
    env.load(&plan(&[stage("a").first("exit 1").with("max_retries: 0")]));
    assert_ne!(env.loom(&["run", "--watch"]).code, 0);
    assert!(env.repo.join(".worktrees/a").is_dir());
    let ignores = [".work/.gitignore", ".worktrees/.gitignore"];
    for name in ignores {
        env.write(name, "");
    }
    assert_ne!(env.git(&["status", "--porcelain"]), "");
    env.loom(&["stage", "hold", "a"]).ok();
    assert_eq!(env.git(&["status", "--porcelain"]), "");
    for name in ignores {
        env.write(name, "# mine\n");
    }
    env.loom(&["stage", "release", "a"]).ok();
    for name in ignores {
        assert_eq!(env.read(name), "# mine\n", "what a person wrote stays");
    }
}

#[test]
fn a_stage_whose_branch_is_gone_under_its_worktree_goes_on_with_its_work_rescued() {
    let env = Env::new();
    let lose = "echo precious > unsaved\ngit update-ref -d refs/heads/loom/a\nexit 1";
    let script = format!("if [ $LOOM_ATTEMPT = 1 ]; then\n{lose}\nfi\n{}", commit("a", "a"));
    env.load(&plan(&[stage("a").run(script)]));
    env.finish();
    assert_eq!(env.git(&["show", "refs/loom/rescue/a/1:unsaved"]).trim(), "precious");
}

#[test]
fn a_plan_ends_when_a_landed_branch_was_deleted_under_its_worktree() {
    let env = Env::new();
    let delete = format!("git update-ref -d refs/heads/loom/a\n{}", commit("b", "b"));
    env.load(&plan(&[stage("a"), stage("b").after(&["a"]).run(delete)]));
    env.finish();
    assert!(!env.path().join(".worktrees/a").exists());
}

#[test]
fn a_session_is_ended_without_a_daemon_and_its_end_is_recorded() {
    let env = Env::new();
    env.load(&plan(&[waiting(&env, "a")]));
    env.loom(&["run"]).ok();
    env.until_said("runs", "a");
    env.loom(&["stop"]).ok();
    env.loom(&["stop", "--kill"]).ok();
    assert!(env.pids("loom host").is_empty());
    assert_eq!(env.status()["sessions"], serde_json::json!([]));
    assert_eq!(env.state(), "a ready");
}
