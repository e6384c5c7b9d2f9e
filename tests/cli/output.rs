//! What commands print for people and for scripts.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;

use crate::env::{Env, plan, stage};

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn status_as_json_has_the_documented_fields() {
    let env = Env::new();
    env.fifo("go");
    env.load(&plan(&[
        stage("a").first("echo x > @OUT@/here; read go < @OUT@/go"),
        stage("b").after(&["a"]).run("true").check("true"),
    ]));
    let before = env.status();
    assert_eq!(
        keys(&before),
        ["attention", "daemon", "gates", "next", "notices", "phase", "plan", "sessions", "stages", "version"]
    );
    assert_eq!((before["version"].as_u64(), before["phase"].as_str()), (Some(1), Some("stopped")));
    assert_eq!(before["next"][0], "loom run");
    assert_eq!(before["daemon"], serde_json::json!({"running": false}));
    env.loom(&["run"]).ok();
    env.until_said("here", "x");
    let status = env.status();
    assert_eq!(status["phase"], "working");
    assert_eq!(keys(&status["plan"]), ["base", "branch", "id", "name", "path", "tip", "used"]);
    assert_eq!(keys(&status["daemon"]), ["pid", "running", "uptime_s"]);
    assert_eq!(keys(&status["sessions"][0]), ["backend", "id", "pid", "sandboxed", "stage", "started_at", "state"]);
    assert_eq!(
        keys(&status["stages"][0]),
        [
            "attempt",
            "branch",
            "checks",
            "dependencies",
            "detail",
            "held",
            "id",
            "name",
            "session",
            "started_at",
            "state",
            "used"
        ]
    );
    env.go("go");
    let end = env.settle();
    assert_eq!(end["phase"], "waiting-for-person");
    assert_eq!(keys(&end["gates"][0]), ["id", "next", "question", "stage"]);
    let merged: BTreeSet<&str> = keys(&end["stages"][0]).into_iter().collect();
    assert!(["commit", "merged_commit", "ended_at"].iter().all(|key| merged.contains(key)), "{end}");
    assert_eq!(end["stages"][0]["checks"], serde_json::json!({"passed": 1, "failed": 0, "total": 1}));
    assert_eq!(end["sessions"], serde_json::json!([]));
    let one = env.loom(&["status", "b", "--json"]).ok().json();
    assert_eq!(one["stages"].as_array().unwrap().len(), 1);
}

#[test]
fn the_stages_are_the_same_with_and_without_a_daemon() {
    let env = Env::new();
    env.fifo("go");
    env.load(&plan(&[
        stage("z"),
        stage("a").after(&["z"]).first("echo x > @OUT@/here; read go < @OUT@/go"),
        stage("b").after(&["a"]),
    ]));
    env.loom(&["run"]).ok();
    env.until_said("here", "x");
    let with = env.status();
    env.loom(&["stop"]).ok();
    let without = env.status();
    assert_eq!(
        (with["stages"].clone(), with["sessions"].clone()),
        (without["stages"].clone(), without["sessions"].clone())
    );
    assert_eq!((with["phase"].as_str(), without["phase"].as_str()), (Some("working"), Some("stopped")));
}

#[test]
fn plan_verify_prints_waves_and_needs_no_repository() {
    let env = Env::without_repository();
    env.write("plan.md", &plan(&[stage("a"), stage("b"), stage("c").after(&["a", "b"])]));
    insta::assert_snapshot!(env.says(&["plan", "verify", "plan.md"]), @r"
    The plan: 3 stages in 2 waves
      1. a, b
      2. c
    Longest chain: a → c
    At once: at most 2 sessions
    ------- exit 0 -------
    ");
    let json = env.loom(&["plan", "verify", "plan.md", "--json"]).ok().json();
    assert_eq!(json["waves"], serde_json::json!([["a", "b"], ["c"]]));
    assert_eq!((&json["critical_path"], &json["width"]), (&serde_json::json!(["a", "c"]), &serde_json::json!(2)));
    env.write("plan.md", "nothing\n");
    let json = env.loom(&["plan", "verify", "plan.md", "--json"]).ends(1).json();
    assert!(!json["diagnostics"].as_array().unwrap().is_empty());
    assert!(!env.repo.join(".work").exists());
}

#[test]
fn plan_verify_looks_at_the_repository_and_is_strict_when_asked() {
    let env = Env::new();
    let careless = [stage("a").with("files: [\"REDME.md\", \"src/**/*.rs\"]"), stage("b").with("files: [\"**\"]")];
    env.write("plan.md", &plan(&careless));
    let said = env.loom(&["plan", "verify", "plan.md"]).ok().stderr;
    assert!(said.contains("did you mean `README.md`?"), "{said}");
    assert!(said.contains("`src/**/*.rs` matches nothing in the repository"), "{said}");
    assert!(said.contains("may change the same files as `REDME.md` of `a`"), "{said}");
    env.loom(&["plan", "verify", "plan.md", "--strict"]).ends(1).has("plan.md has 3 warnings");
    let json = env.loom(&["plan", "verify", "plan.md", "--strict", "--json"]).ends(1).json();
    assert_eq!((&json["ok"], &json["errors"], &json["warnings"]), (&false.into(), &0.into(), &3.into()));
    assert_eq!(json["overlaps"][0]["stages"], serde_json::json!(["a", "b"]));
    let first = &json["diagnostics"][0];
    assert_eq!((&first["stage"], &first["field"], &first["line"]), (&"a".into(), &"files".into(), &15.into()));
}

#[test]
fn a_command_that_the_shell_cannot_read_is_an_error_and_nothing_is_run() {
    let env = Env::new();
    let broken = "truths: [\"if test -e a.txt; then\", \"echo 'open\", \"touch ran; (exit 1)\"]";
    env.write("plan.md", &plan(&[stage("a").with(broken)]));
    let out = env.loom(&["plan", "verify", "plan.md"]).ends(1).has("plan.md has 2 errors");
    assert_eq!(out.stderr.matches("stage `a`: the shell cannot read this: ").count(), 2, "{out}");
    assert!(!env.repo.join("ran").exists());
}

#[test]
fn a_strict_plan_has_a_check_that_fails_before_each_stage() {
    let env = Env::new();
    env.write("src/app.sh", "true\n");
    env.git(&["add", "-A"]);
    env.git(&["commit", "-q", "-m", "App"]);
    let plan = |checks: &str| {
        plan(&[
            stage("new").check("echo x >> @OUT@/ran; test -s new.txt").with("truths: [\"echo y >> @OUT@/ran\"]"),
            stage("old").check("sh src/app.sh").with(checks),
            stage("looks").with("stage_type: integration-verify").check("test -s README.md"),
        ])
        .replace("@OUT@", &env.out.display().to_string())
    };
    env.write("doc/plans/p.md", &plan("wiring: [{source: \"src/*.sh\", pattern: \"true\"}]"));
    env.loom(&["plan", "verify", "doc/plans/p.md"]).ok();
    assert_eq!(env.said("ran"), "", "only `--strict` runs anything");
    let out = env.loom(&["plan", "verify", "doc/plans/p.md", "--strict"]).ends(1).has("p.md has 1 warning");
    let said = "stage `old`: all its checks pass already, without it";
    assert!(out.stderr.contains(said) && !out.stderr.contains("stage `new`: all"), "{out}");
    assert_eq!(env.said("ran"), "x\n", "nothing of a stage runs behind what fails");
    let json = env.loom(&["plan", "verify", "doc/plans/p.md", "--strict", "--json"]).ends(1).json();
    let found = &json["diagnostics"][0];
    assert_eq!((&json["ok"], &found["stage"], &found["field"]), (&false.into(), &"old".into(), &"acceptance".into()));
    for fails in [
        "wiring: [{source: \"src/*.sh\", pattern: \"false\"}]",
        "artifacts: [old.txt]",
        "truths: [\"false\"]",
        "working_dir: not/there",
    ] {
        env.write("doc/plans/p.md", &plan(fails));
        let out = env.loom(&["plan", "verify", "doc/plans/p.md", "--strict"]);
        assert!(!out.stderr.contains(said), "{fails}: {out}");
    }
    let guard = plan("priority: p1").replace("[\"sh src/app.sh\"]", "[{command: sh src/app.sh, guard: true}]");
    env.write("doc/plans/p.md", &guard);
    env.loom(&["plan", "verify", "doc/plans/p.md", "--strict"]).ok();
    assert!(!env.repo.join(".work").exists());
    assert_eq!(env.git(&["status", "--porcelain"]), "?? doc/");
}

#[test]
fn completions_print_for_every_shell() {
    let env = Env::of(&[stage("frontend"), stage("backend")]);
    for shell in ["bash", "zsh", "fish"] {
        let out = env.loom(&["completions", shell]).ok();
        assert!(out.stdout.contains("loom") && out.stderr.is_empty(), "{out}");
    }
    let bin = env!("CARGO_BIN_EXE_loom");
    let mut ask = env.command(bin);
    ask.env("COMPLETE", "fish").args(["--", "loom", "status", ""]);
    let out = env.out_of(&mut ask).ok();
    assert!(out.stdout.contains("frontend") && out.stdout.contains("backend"), "{out}");
}

#[test]
fn help_is_found_however_it_is_asked_for() {
    let env = Env::new();
    let asked = env.loom(&["stage", "retry", "--help"]).ok();
    assert_eq!(env.loom(&["help", "stage", "retry"]).ok().stdout, asked.stdout);
    env.loom(&["help", "rnu"]).ends(2).has("rnu");
}

#[test]
fn logs_show_what_a_session_printed_and_follow_it_to_its_end() {
    let env = Env::new();
    env.fifo("go");
    env.load(&plan(&[stage("a").first("echo first line; echo to stderr >&2; read go < @OUT@/go; echo last line")]));
    env.loom(&["logs", "a"]).ends(1).has("no session yet");
    env.loom(&["run"]).ok();
    env.until("the first line is in the log", || env.loom(&["logs", "a"]).stdout.contains("first line"));
    let follow = env.spawn(&["logs", "-f", "a"]);
    env.go("go");
    let out = env.wait_child(follow).ends(0);
    for text in ["first line", "to stderr", "last line"] {
        assert!(out.stdout.contains(text), "{out}");
    }
    env.settle();
    env.loom(&["logs", "a.1"]).ok().has("last line");
    env.loom(&["logs", "b.1"]).ends(1).has("there is no session `b.1`").has("did you mean `a.1`?");
    env.loom(&["logs"]).ok();
}

#[test]
fn a_command_session_has_no_terminal_to_attach_to() {
    let env = Env::new();
    env.fifo("go");
    env.load(&plan(&[stage("a").first("echo x > @OUT@/here; read go < @OUT@/go")]));
    env.loom(&["attach", "a"]).ends(1).has("no session yet");
    env.loom(&["run"]).ok();
    env.until_said("here", "x");
    insta::assert_snapshot!(env.says(&["attach", "a"]), @r"
    Error: session `a.1` has no live terminal
    Hint: loom logs a.1
    ------- exit 1 -------
    ");
    env.go("go");
    env.settle();
    env.loom(&["attach", "a.1"]).ends(1).has("no live terminal");
}

#[test]
fn a_run_in_the_foreground_ends_with_the_picture() {
    let env = Env::of(&[stage("a"), stage("b").run("exit 3").with("max_retries: 0")]);
    let out = env.loom(&["run", "--foreground"]).ends(4);
    assert!(out.stdout.contains("✓ a  merged") && out.stdout.contains("✗ b  blocked"), "{out}");
    env.loom(&["stage", "skip", "b", "--reason", "enough"]).ok();
    env.loom(&["run", "--foreground"]).ok();
    assert_eq!(env.read("a.txt"), "a\n");
}

#[test]
fn a_signal_shows_the_assignment() {
    let env = Env::of(&[stage("a").run("loom signal > @OUT@/signal; exit 1").with("max_retries: 0")]);
    env.loom(&["signal", "a"]).ends(1).has("no assignment yet");
    env.run().ends(4);
    let out = env.loom(&["signal", "a"]).ok();
    assert!(out.stdout.contains("The stage a") && out.stdout.contains("test -s a.txt"), "{out}");
    let mut inside = env.command(env!("CARGO_BIN_EXE_loom"));
    inside.current_dir(env.repo.join(".worktrees/a")).arg("signal");
    assert_eq!(env.out_of(&mut inside).ok().stdout, out.stdout);
    env.loom(&["signal"]).ends(1).has("no stage's worktree");
}

/// The folders of the environment in which something was left.
#[track_caller]
fn is_left_empty(env: &Env) {
    for folder in ["tmp", "cache", "run", "repo"] {
        let left: Vec<_> =
            std::fs::read_dir(env.path().join(folder)).unwrap().flatten().map(|entry| entry.path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
    assert_eq!(env.pids(""), [0_u32; 0]);
}

#[test]
fn ctrl_c_in_the_demo_and_in_chaos_leaves_nothing() {
    for command in ["demo", "chaos"] {
        // The first is meant for the process, the second comes from a terminal: everybody hears it.
        for group in [false, true] {
            let env = Env::without_repository();
            let mut child = env.command(env!("CARGO_BIN_EXE_loom"));
            child.arg(command).process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
            let child = child.spawn().unwrap();
            env.until("an agent works", || !env.pids("loom host --exec").is_empty() || !env.pids("sleep").is_empty());
            let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
            if group { kill_process_group(pid, Signal::INT) } else { kill_process(pid, Signal::INT) }.unwrap();
            env.wait_child(child).ends(130).has("nothing is left of it");
            is_left_empty(&env);
        }
    }
}

#[test]
fn the_demo_tells_its_story_and_leaves_nothing() {
    let env = Env::without_repository();
    let out = env.loom(&["demo"]).ok();
    for text in [
        "french running (attempt 2)",
        "The plan is complete: all 4 stages are proven and landed.",
        "Bonjour, le monde",
        "Greet in both",
    ] {
        assert!(out.stdout.contains(text) || out.stderr.contains(text), "no {text} in {out}");
    }
    is_left_empty(&env);
}
