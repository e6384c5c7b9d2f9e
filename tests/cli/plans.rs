//! Plans from start to end, and what happens to attempts that do not land.

use crate::env::{Env, commit, plan, plan_with, stage};

#[test]
fn a_chain_lands_in_order_and_leaves_only_its_commits() {
    let env = Env::of(&[stage("a"), stage("b").after(&["a"]).check("test -s a.txt && test -s b.txt")]);
    env.finish();
    assert_eq!(env.state(), "a merged, b merged");
    assert_eq!(env.git(&["rev-parse", "main"]), env.git(&["rev-parse", "loom/_plan/plan"]));
    assert_eq!(
        env.git(&["log", "--first-parent", "--format=%s|%(trailers:key=Loom-Stage,valueonly,separator=%x2C)", "main"]),
        "The stage b|plan/b\nThe stage a|plan/a\nPlan|\nStart|"
    );
    assert_eq!((env.read("a.txt"), env.read("b.txt")), ("a\n".to_owned(), "b\n".to_owned()));
    assert_eq!(env.git(&["branch", "--list", "loom/a", "loom/b"]), "");
    assert_eq!(env.git(&["worktree", "list"]).lines().count(), 1);
    assert!(!env.repo.join(".worktrees/a").exists());
    let done = env.git(&["for-each-ref", "--format=%(refname)", "refs/loom/done"]);
    assert_eq!(done, "refs/loom/done/plan/a\nrefs/loom/done/plan/b");
    assert_eq!(env.git(&["status", "--porcelain"]), "");
    assert_eq!(env.pids("").len(), 0, "nothing is left running");
}

/// The first plan of the README, as it stands there.
#[test]
fn the_first_plan_of_the_readme_runs() {
    let readme = include_str!("../../README.md");
    let (_, rest) = readme.split_once("````markdown\n").unwrap();
    let (example, _) = rest.split_once("````\n").unwrap();
    let env = Env::new();
    env.write("doc/plans/hello.md", example);
    env.loom(&["plan", "verify", "--strict", "doc/plans/hello.md"]).ok();
    env.loom(&["init", "doc/plans/hello.md"]).ok();
    env.finish();
    assert_eq!((env.read("hello.txt"), env.read("loud.txt")), ("Hello\n".to_owned(), "HELLO\n".to_owned()));
}

#[test]
fn a_diamond_runs_its_sides_together() {
    let env = Env::new();
    for fifo in ["left", "right"] {
        env.fifo(fifo);
    }
    // Each side ends only when the other one has begun.
    env.load(&plan(&[
        stage("top"),
        stage("left").after(&["top"]).first("echo go > @OUT@/right; read go < @OUT@/left"),
        stage("right").after(&["top"]).first("echo go > @OUT@/left; read go < @OUT@/right"),
        stage("join").after(&["left", "right"]).check("test -s left.txt -a -s right.txt -a -s join.txt"),
    ]));
    env.finish();
    assert_eq!(env.state(), "top merged, left merged, right merged, join merged");
    assert_eq!(env.git(&["status", "--porcelain"]), "");
}

#[test]
fn a_failed_check_is_told_to_the_next_attempt() {
    let script = format!(
        "cat \"$LOOM_SIGNAL\" > @OUT@/signal.$LOOM_ATTEMPT\nif grep -q 'does not contain .right' \"$LOOM_SIGNAL\"; then {}; else {}; fi",
        commit("a", "right"),
        commit("a", "wrong"),
    );
    let env = Env::new();
    env.load(&plan(&[stage("a")
        .run(script)
        .with("truths:")
        .with("  - {command: \"cat a.txt\", stdout_contains: [right]}")]));
    env.finish();
    assert_eq!(env.read("a.txt"), "right\n");
    assert_eq!(env.stage("a")["attempt"], 2);
    assert!(!env.said("signal.1").contains("What went wrong"));
    assert!(env.said("signal.2").contains("wrong"), "{}", env.said("signal.2"));
}

#[test]
fn used_up_retries_block_and_a_retry_carries_its_context() {
    let env = Env::new();
    env.load(&plan(&[
        stage("a")
            .run(format!(
                "echo x >> @OUT@/runs\ncp \"$LOOM_SIGNAL\" @OUT@/signal\ngrep -q 'use the force' \"$LOOM_SIGNAL\" || exit 7\n{}",
                commit("a", "a")
            ))
            .with("max_retries: 1"),
    ]));
    let out = env.run().ends(4);
    assert_eq!(env.said("runs"), "x\nx\n");
    assert_eq!(env.stage("a")["reason"]["code"], "attempts-used-up");
    let out = out.has("ended with exit status 7").has("loom stage retry a");
    assert!(out.stderr.contains("Nothing goes on without you: 0 of 1 stage landed."));
    env.loom(&["stage", "retry", "a", "--context", "use the force"]).ok();
    env.finish();
    assert!(env.said("signal").contains("use the force"));
    assert_eq!(env.said("runs"), "x\nx\nx\n");
}

#[test]
fn uncommitted_work_is_a_failed_attempt_and_comes_back_as_a_branch() {
    let env = Env::new();
    let script = format!("if [ $LOOM_ATTEMPT = 1 ]; then echo precious > left.txt; exit 0; fi; {}", commit("a", "a"));
    env.load(&plan(&[stage("a").run(format!("cp \"$LOOM_SIGNAL\" @OUT@/signal\n{script}"))]));
    env.finish();
    assert!(env.said("signal").contains("left uncommitted work: `left.txt`"), "{}", env.said("signal"));
    env.loom(&["undo", "--list"]).ok().has("a/1").has("Uncommitted work of stage a");
    env.loom(&["undo", "a/1"]).ok().has("rescued/a-1");
    assert_eq!(env.git(&["show", "rescued/a-1:left.txt"]), "precious");
    assert!(!env.repo.join("left.txt").exists(), "no tree is touched");
    let list = env.loom(&["undo", "--list", "--json"]).ok().json();
    assert_eq!(list["rescues"][0]["id"], "a/1");
    env.loom(&["undo", "a/9"]).ends(1).has("nothing put aside as `a/9`");
}

#[test]
fn an_empty_diff_waits_for_a_person() {
    let env = Env::of(&[stage("a").run("true").check("true"), stage("b").after(&["a"])]);
    env.run().ends(5);
    assert_eq!(env.state(), "a gated, b waiting");
    let before = env.git(&["rev-parse", "main"]);
    env.loom(&["stage", "approve", "a"]).ok();
    env.loom(&["stage", "approve", "a"]).ends(1);
    env.finish();
    assert_eq!(env.state(), "a merged, b merged");
    assert_ne!(env.git(&["rev-parse", "main"]), before);
}

#[test]
fn a_rejected_gate_blocks_its_stage() {
    let env = Env::of(&[stage("a").run("true").check("true")]);
    env.run().ends(5);
    env.loom(&["stage", "reject", "a", "--reason", "do the work"]).ok();
    let row = env.stage("a");
    assert_eq!((row["state"].as_str(), row["reason"]["code"].as_str()), (Some("blocked"), Some("rejected")));
    assert!(row["reason"]["text"].as_str().unwrap().contains("do the work"));
    env.run().ends(4);
}

#[test]
fn a_held_stage_starts_when_it_is_released() {
    let env = Env::of(&[stage("a").first("echo x >> @OUT@/runs").with("hold: true"), stage("b")]);
    env.run().ends(5);
    assert_eq!(env.state(), "a ready, b merged");
    env.loom(&["stage", "release", "a"]).ok().has("released");
    env.loom(&["stage", "hold", "a"]).ok().has("held");
    env.run().ends(5);
    env.loom(&["stage", "release", "a"]).ok();
    env.finish();
}

#[test]
fn dependents_of_a_skipped_stage_wait_unless_they_are_told_to_go_on() {
    let env = Env::of(&[stage("a").run("exit 1").with("max_retries: 0"), stage("b").after(&["a"])]);
    env.run().ends(4);
    env.loom(&["stage", "skip", "a"]).ends(2);
    env.loom(&["stage", "skip", "a", "--reason", " "]).ends(1).has("why it is skipped is missing");
    env.loom(&["stage", "skip", "a", "--reason", "not needed"]).ok().has("stay blocked");
    assert_eq!(env.state(), "a skipped, b waiting");
    env.run().ends(5);
    assert!(env.stage("b")["detail"].as_str().unwrap().contains("waits for `a`, which was skipped"));
    env.loom(&["stage", "skip", "a", "--reason", "not needed", "--go-on"]).ok();
    env.finish();
    assert_eq!(env.state(), "a skipped, b merged");
    assert_eq!(env.read("b.txt"), "b\n");
}

#[test]
fn a_reset_starts_over_and_keeps_what_was_there() {
    let script = format!(
        "echo x >> @OUT@/runs\nif [ -e @OUT@/fixed ]; then {}; else {}; exit 1; fi",
        commit("a", "new"),
        commit("a", "old")
    );
    let env = Env::new();
    env.load(&plan(&[stage("a").run(script).with("max_retries: 0")]));
    env.run().ends(4);
    std::fs::write(env.out.join("fixed"), "").unwrap();
    env.loom(&["stage", "reset", "a", "--reason", "again"]).ok();
    assert_eq!(env.git(&["branch", "--list", "loom/a"]), "");
    env.loom(&["undo", "--list"]).ok().has("a/1");
    assert_eq!(env.git(&["show", "refs/loom/rescue/a/1:a.txt"]), "old");
    env.finish();
    assert_eq!(env.read("a.txt"), "new\n");
}

#[test]
fn priority_and_max_parallel_decide_the_order() {
    let record = |id: &str| stage(id).first(&format!("echo {id} >> @OUT@/order"));
    let env = Env::new();
    env.load(&plan_with(
        "max_parallel: 1",
        &[record("low").with("priority: p3"), record("mid"), record("high").with("priority: p0")],
    ));
    env.finish();
    assert_eq!(env.said("order"), "high\nmid\nlow\n");
}

#[test]
fn the_command_line_can_lower_max_parallel() {
    let both = "echo + >> @OUT@/live; test $(cat @OUT@/live | wc -l) = 1; : > @OUT@/live";
    let env = Env::new();
    env.load(&plan(&[
        stage("a").first(both).with("max_retries: 0"),
        stage("b").first(both).with("max_retries: 0"),
        stage("c").first(both).with("max_retries: 0"),
    ]));
    env.loom(&["run", "--watch", "--max-parallel", "1"]).ok();
}

#[test]
fn only_a_wanted_stage_and_its_dependencies_run() {
    let env = Env::of(&[stage("a"), stage("b").after(&["a"]), stage("c")]);
    env.loom(&["run", "--watch", "--stage", "b"]).ends(5);
    assert_eq!(env.state(), "a merged, b merged, c waiting");
    env.finish();
    assert_eq!(env.state(), "a merged, b merged, c merged");
}

#[test]
fn a_worktree_that_goes_away_under_its_agent_is_a_failed_attempt() {
    let env = Env::new();
    env.load(&plan(&[
        stage("a").run(format!("if [ $LOOM_ATTEMPT = 1 ]; then rm -rf \"$PWD\"; exit 0; fi; {}", commit("a", "a")))
    ]));
    env.finish();
    assert_eq!(env.stage("a")["attempt"], 2);
}

/// In sessions of their own, orphaned twice, deaf to hang-ups and the polite signal, without an environment.
const ESCAPES: &str = "(setsid sleep 4251 >/dev/null 2>&1 &)
nohup sleep 4252 >/dev/null 2>&1 &
sh -c 'sh -c \"setsid sleep 4253 &\" &'
(trap '' TERM HUP; setsid sleep 4254 &)
(env -i setsid sleep 4255 &)
until [ $(pgrep -c -f '^sleep 425[1-5]$') = 5 ]; do :; done
exit 1";

#[test]
fn what_a_session_leaves_is_ended_and_named() {
    let env = Env::new();
    env.load(&plan(&[stage("a").run(ESCAPES).with("max_retries: 0")]));
    let _ = env.loom(&["run", "--watch"]);
    assert_eq!(env.pids("sleep 425"), [0_u32; 0]);
    let status = env.loom(&["status", "--json"]).json();
    let notices = status["notices"].to_string();
    assert_eq!(notices.matches("sleep (").count(), 5, "{notices}");
    assert!(notices.contains("session `a.1` left processes behind"), "{notices}");
    env.loom(&["audit"]).has("left processes behind").has("sleep (");
    let record = std::fs::read_to_string(env.repo.join(".work/sessions/a.1/exit.json")).unwrap();
    assert_eq!(record.matches("sleep (").count(), 5, "{record}");
}

#[test]
fn a_background_child_does_not_outlive_its_stage() {
    let env = Env::new();
    env.load(&plan(&[stage("a").first(
        "(setsid sleep 4242 >/dev/null 2>&1 &) ; (setsid sh -c 'trap \"\" TERM; sleep 4243' >/dev/null 2>&1 &)",
    )]));
    env.finish();
    assert_eq!(env.pids("sleep 424"), [0_u32; 0]);
}

#[test]
fn the_reason_names_the_check_that_failed_also_when_the_last_run_had_nothing_to_commit() {
    let env = Env::of(&[
        stage("a").check("grep -q wanted a.txt").with("max_retries: 1"),
        stage("b").run("exit 3").with("max_retries: 0"),
    ]);
    env.run().ends(4).has("the check `grep -q wanted a.txt` failed");
    let reason = env.stage("a")["reason"]["text"].to_string();
    assert!(reason.contains("grep -q wanted a.txt"), "{reason}");
    let said = env.loom(&["status", "b"]).ok().has("Next: loom stage retry b");
    assert!(!said.stdout.contains("loom stage retry a"), "{said}");
}

#[test]
fn nothing_is_said_to_be_kept_of_a_stage_that_never_began() {
    let env = Env::of(&[stage("a").with("hold: true")]);
    let said = env.loom(&["stage", "reset", "a", "--reason", "again"]).ok().has("`a` starts over");
    assert!(!said.stderr.contains("loom undo"), "{said}");
    env.loom(&["undo", "a/1"]).ends(1).has("nothing was put aside");
    env.loom(&["logs"]).ok().has("no daemon has said anything");
}
