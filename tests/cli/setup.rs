//! What runs around an agent: `setup`, `before_stage` and `teardown`.

use crate::env::{Env, commit, kill, plan, plan_with, stage};

/// Shell that says a word outside of the repository.
fn say(word: &str) -> String {
    format!("echo {word} >> @OUT@/said")
}

fn yaml(name: &str, commands: &[&str]) -> String {
    format!("{name}: {}", serde_json::Value::from(commands.to_vec()))
}

#[test]
fn a_setup_runs_again_where_what_it_made_is_gone() {
    let env = Env::new();
    let made = yaml("setup", &["echo ready > ignored.dep"]);
    let with = |id: &str| stage(id).check(&format!("test -s {id}.txt && test -s ignored.dep")).with(&made);
    let tidy = "rm $(echo $XDG_CACHE_HOME/loom/*/proof)/ignored.dep";
    env.load(&plan(&[with("a"), with("b").after(&["a"]).first(tidy).with("max_retries: 0")]));
    env.finish();
    assert_eq!(env.state(), "a merged, b merged");
}

#[test]
fn a_question_about_path_costs_no_setup() {
    let mut env = Env::new();
    env.program("tool", "exit 0");
    let made = yaml("setup", &["echo ready > ignored.dep", "echo \"set up $LOOM_STAGE\" >> @OUT@/said"]);
    let with = |id: &str| stage(id).check("test -s a.txt && test -s ignored.dep").with(&made);
    let adds = format!("printf '#!/bin/sh\\n' > {0}/other; chmod +x {0}/other", env.path().join("bin").display());
    env.load(&plan(&[with("a"), with("b").after(&["a"]).first(&adds)]));
    env.run().ends(5).has("programs on PATH");
    env.loom(&["stage", "approve", "g1"]).ok();
    env.finish();
    assert_eq!(env.state(), "a merged, b merged");
    assert_eq!(env.said("said"), "set up a\nset up _proof\nset up b\n", "{}", env.daemon_log());
}

#[test]
fn looking_at_a_stage_by_hand_runs_its_setup_on_the_base_too() {
    let env = Env::new();
    let made = yaml("setup", &["cp README.md ignored.tool"]);
    let work = "echo Other > README.md; git commit -q -a -m Other";
    env.load(&plan(&[stage("a").run(work).with(&made).check("grep -q Other ignored.tool")]));
    env.finish();
    // With another PATH, nothing that is known of the base counts.
    let mut by_hand = env.command(env!("CARGO_BIN_EXE_loom"));
    let found = env.out_of(by_hand.env("PATH", "/usr/bin:/bin").args(["verify", "a", "--json"])).ok().json();
    assert_eq!(found["checks"][0]["base"], "failed", "{found}");
    assert_eq!(found["unproven"], false, "{found}");
}

#[test]
fn a_setup_runs_once_before_the_agent_and_in_the_proof_checkout() {
    let env = Env::new();
    env.write(".gitignore", "deps/\nignored.*\n");
    env.git(&["commit", "-q", "-a", "-m", "Ignore"]);
    let setup = ["mkdir deps && echo ready > deps/lib", "echo \"set up $LOOM_STAGE\" >> @OUT@/said; echo printed"];
    // The first attempt fails, the second one finds what the setup made.
    let work = format!("{}; test $LOOM_ATTEMPT = 2 && test -e deps/lib && {}", say("agent"), commit("a", "a"));
    let teardown = ["test -e deps/lib", "echo \"gone $LOOM_STAGE\" >> @OUT@/said"];
    env.load(&plan(&[
        stage("a")
            .run(work)
            .check("test -e deps/lib && test -s a.txt")
            .with(&yaml("setup", &setup))
            .with(&yaml("teardown", &teardown)),
        stage("b").after(&["a"]).check("test -e deps/lib").with(&yaml("setup", &setup)),
    ]));
    env.finish();
    assert_eq!(env.said("said"), "set up a\nagent\nagent\nset up _proof\nset up b\ngone a\n");
    env.loom(&["logs", "a"]).ok().has("$ mkdir deps").has("printed").has("[exit status 0");
    env.loom(&["audit", "a"]).ok().has("the worktree of `a.1` is set up");
    env.loom(&["audit", "--verify"]).ok();
}

#[test]
fn a_stage_whose_setup_fails_is_blocked_and_says_how() {
    let env = Env::new();
    let setup = ["echo first; echo 'no such thing: left-pad' >&2; test -e @OUT@/mended", "echo second >> @OUT@/said"];
    env.load(&plan(&[stage("a").first(&say("agent")).with(&yaml("setup", &setup))]));
    env.run().ends(4).has("setup failed").has("no such thing: left-pad").has("loom logs a").has("loom stage retry a");
    assert_eq!((env.said("said").as_str(), env.stage("a")["reason"]["code"].as_str()), ("", Some("setup-failed")));
    env.loom(&["logs", "a"]).ok().has("first").has("[exit status 1");
    std::fs::write(env.out.join("mended"), "").unwrap();
    env.loom(&["stage", "retry", "a"]).ok();
    env.finish();
    assert_eq!(env.said("said"), "second\nagent\nsecond\n", "in the worktree, and in the proof checkout");
}

#[test]
fn a_setup_that_was_cut_off_is_done_again_and_its_processes_are_ended() {
    let env = Env::new();
    env.fifo("go");
    let setup = ["sleep 987 & echo begun >> @OUT@/said; read go < @OUT@/go; echo done >> @OUT@/said"];
    env.load(&plan(&[stage("a").first(&say("agent")).with(&yaml("setup", &setup)).check("test -s a.txt")]));
    env.loom(&["run"]).ok();
    env.until_said("said", "begun");
    env.until("status says so", || env.stage("a")["detail"] == "setting up");
    let follower = env.spawn(&["logs", "-f", "a"]);
    kill(env.daemon_pid());
    env.until_said("said", "begun\nbegun");
    assert_eq!(env.pids("sleep 987").len(), 2, "a shell and its child: what the first try started is gone");
    env.go("go");
    env.until_said("said", "done\nagent");
    assert!(env.pids("sleep 987").is_empty(), "what outlives the setup is ended");
    env.until_said("said", "agent\nbegun");
    env.go("go");
    env.settle();
    env.wait_child(follower).ok().has("$ sleep 987");
    assert_eq!(env.said("said"), "begun\nbegun\ndone\nagent\nbegun\ndone\n", "the last one is the proof checkout's");
    assert_eq!(env.state(), "a merged");
}

#[test]
fn logs_follow_from_the_setup_into_the_session() {
    let env = Env::new();
    env.fifo("go");
    let setup = ["echo installing; echo begun >> @OUT@/said; read go < @OUT@/go"];
    env.load(&plan(&[stage("a").first("echo at work").with(&yaml("setup", &setup))]));
    env.loom(&["run"]).ok();
    env.until_said("said", "begun");
    let follower = env.spawn(&["logs", "-f", "a"]);
    env.go("go");
    // The proof checkout is set up too.
    env.until_said("said", "begun\nbegun");
    env.go("go");
    env.settle();
    let out = env.wait_child(follower).ok();
    let (setup, work) = (out.stdout.find("installing").unwrap(), out.stdout.find("at work").unwrap());
    assert!(setup < work, "{out}");
}

#[test]
fn a_setup_is_ended_with_the_session_that_it_is_for() {
    let env = Env::new();
    env.fifo("go");
    let setup = ["echo begun >> @OUT@/said; read go < @OUT@/go; sleep 0"];
    env.load(&plan(&[stage("a").with(&yaml("setup", &setup))]));
    env.loom(&["run"]).ok();
    env.until_said("said", "begun");
    env.loom(&["sessions", "kill", "a.1"]).ok();
    env.until("the setup is ended", || env.pids("echo begun").is_empty());
    env.settle();
    assert_eq!(env.state(), "a blocked");
    env.loom(&["stage", "retry", "a"]).ok();
    env.loom(&["run"]).ok();
    env.until_said("said", "begun\nbegun");
    env.go("go");
    env.until_said("said", "begun\nbegun\nbegun");
    env.go("go");
    env.settle();
    assert_eq!(env.state(), "a merged");
}

#[test]
fn what_a_setup_leaves_is_nobodys_uncommitted_work_and_what_the_agent_leaves_is() {
    let env = Env::new();
    let setup = ["mkdir -p made && echo 1 > made/x && echo 1 > y && echo 2 >> README.md"];
    let work = format!("test -e made/x && if [ $LOOM_ATTEMPT = 1 ]; then echo mine > y; fi; {}", commit("a", "a"));
    env.load(&plan(&[stage("a").run(work).check("test -e made/x && ! grep 2 README.md").with(&yaml("setup", &setup))]));
    env.finish();
    env.loom(&["audit", "a"]).ok().has("uncommitted work: `y`");
    assert!(!env.repo.join("y").exists());
}

#[test]
fn a_red_setup_in_the_proof_checkout_goes_back_to_the_stage() {
    let env = Env::new();
    env.write("deps", "good\n");
    env.git(&["add", "deps"]);
    env.git(&["commit", "-q", "-m", "Deps"]);
    let work =
        "if [ $LOOM_ATTEMPT = 1 ]; then echo bad > deps; else echo better good > deps; fi; git commit -q -a -m Deps";
    env.load(&plan(&[stage("a").run(work).check("grep -q good deps").with(&yaml("setup", &["grep good deps"]))]));
    env.finish();
    assert_eq!((env.stage("a")["attempt"].as_u64(), env.read("deps").as_str()), (Some(2), "better good\n"));
    env.loom(&["verify", "a"]).ok();
}

#[test]
fn a_teardown_that_fails_is_told_and_blocks_nothing() {
    let env = Env::new();
    let teardown = ["echo 'cannot stop it'; exit 3", "echo second >> @OUT@/said"];
    let work =
        format!("echo draft > draft.txt; exit $((1 - $(test -e @OUT@/ok && echo 1 || echo 0))); {}", commit("a", "a"));
    let stages = [stage("a").run(work).with("max_retries: 0").with(&yaml("teardown", &teardown))];
    env.load(&plan(&stages));
    env.run().ends(4);
    env.loom(&["stage", "reset", "a", "--reason", "again"]).ok();
    env.loom(&["stage", "hold", "a"]).ok();
    env.run().ends(5).has("the teardown of `a` failed").has("cannot stop it").has("loom logs a");
    assert_eq!(env.said("said"), "second\n");
    assert!(!env.repo.join(".worktrees/a").exists());
    env.loom(&["undo", "--list"]).ok().has("a/1");
    env.loom(&["logs", "a"]).ok().has("cannot stop it");
}

#[test]
fn what_must_hold_before_a_stage_is_looked_at_once() {
    let env = Env::new();
    let before = r#"before_stage: [{command: "echo looked >> @OUT@/said; test -e a.txt", exit_code: 1}]"#;
    let work = format!("{}; test $LOOM_ATTEMPT = 2 && {}", say("agent"), commit("a", "a"));
    let second =
        "before_stage: [{command: \"cat a.txt; echo why it is\", exit_code: 1, description: \"not there yet\"}]";
    env.load(&plan(&[stage("a").run(work).with(before), stage("b").after(&["a"]).first(&say("b")).with(second)]));
    env.run().ends(4).has("`before_stage` does not hold at").has("exit status 0, expected 1").has("why it is");
    assert_eq!(env.said("said"), "looked\nagent\nagent\n", "a later attempt does not look again, and `b` has no agent");
    let row = env.stage("b");
    assert_eq!((row["reason"]["code"].as_str(), row["state"].as_str()), (Some("before-failed"), Some("blocked")));
    // The plan's author mends the check.
    let mended = [
        stage("a").run("true"),
        stage("b").after(&["a"]).first("true").with("before_stage: [{command: \"test -e b.txt\", exit_code: 1}]"),
    ];
    let path = env.out.join("plan.md");
    std::fs::write(&path, plan(&mended)).unwrap();
    env.loom(&["plan", "apply", &path.display().to_string()]).ok();
    env.loom(&["stage", "retry", "b"]).ok();
    env.finish();
    assert_eq!(env.state(), "a merged, b merged");
}

#[test]
fn commits_of_the_users_own_are_proven_where_the_setups_have_run() {
    let env = Env::new();
    env.write(".gitignore", "deps/\n");
    env.git(&["commit", "-q", "-a", "-m", "Ignore"]);
    let held = stage("b").after(&["a"]).with("hold: true");
    env.load(&plan_with(
        "acceptance: [\"test -e deps/lib\"]",
        &[stage("a").with(&yaml("setup", &["mkdir -p deps && touch deps/lib"])), held],
    ));
    env.run().ends(5);
    env.write("own.txt", "own\n");
    env.git(&["add", "own.txt"]);
    env.git(&["commit", "-q", "-m", "Own"]);
    // A cache that is gone is made again.
    let _ = std::fs::remove_dir_all(env.path().join("cache"));
    env.run().ends(5);
    assert_eq!(env.git(&["show", "loom/_plan/plan:own.txt"]), "own");
}

#[test]
fn worktrees_are_set_up_side_by_side() {
    let mut env = Env::new();
    // Settings and downloads of the operator's that each of them finds in its home.
    std::fs::create_dir_all(std::path::Path::new(&env.var("HOME")).join(".m2/repository")).unwrap();
    std::fs::create_dir_all(std::path::Path::new(&env.var("HOME")).join(".cargo/registry")).unwrap();
    env.set("LOOM_BACKOFF_MS", "60000");
    let setup = "test -d $HOME/.m2/repository && test -s $HOME/.gitconfig && echo set up >> @OUT@/said";
    let of = |id: &str| stage(id).with(&yaml("setup", &[setup]));
    env.load(&plan_with("max_parallel: 6", &["a", "b", "c", "d", "e", "f"].map(of)));
    env.finish();
    assert_eq!(env.said("said").lines().count(), 7, "six worktrees, and the proof checkout once");
}
