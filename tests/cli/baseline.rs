//! What the checks of a stage do on its untouched base, and what that says about the stage.

use std::fs;

use crate::env::{Env, commit, kill, plan, plan_with, stage};

/// What the last record of a stage's base says, as the audit tells it.
fn told(env: &Env) -> String {
    env.loom(&["audit"]).ok().stdout
}

#[test]
fn a_check_that_passed_before_is_shown_as_a_guard() {
    let env = Env::new();
    let guard = "truths: [\"test -e README.md\"]";
    env.load(&plan(&[stage("a").with(guard)]));
    env.finish();
    let guarded = "passed `test -e README.md`; passed before the stage too: a regression guard";
    env.loom(&["status", "a"]).ok().has(guarded).has("passed `test -s a.txt` (evidence");
    let view = env.loom(&["verify", "a"]).ok().has("a regression guard");
    assert!(!view.to_string().contains("unproven"), "{view}");
    assert!(told(&env).contains("the checks of `a` were run on its base"), "{}", told(&env));
    let bundle = env.out_of(env.command("sh").args(["-c", "cat .work/evidence/a/*/1/bundle.json"])).ok().stdout;
    assert!(bundle.contains("\"base\": \"passed\"") && bundle.contains("\"base\": \"failed\""), "{bundle}");
    env.loom(&["audit", "--verify"]).ok();
}

#[test]
fn a_stage_of_which_everything_passed_before_is_unproven_unless_its_plan_says_so() {
    let said = |more: &str| stage("a").check("test -e README.md").with(more);
    let env = Env::of(&[said("priority: p2")]);
    env.finish();
    let words = "unproven: all its checks passed before it too";
    env.loom(&["status", "a"]).ok().has(words);
    env.loom(&["status"]).ok().has(words);
    let found = env.loom(&["verify", "a", "--json"]).ok().json();
    assert_eq!(found["unproven"], true, "{found}");
    for more in [
        "truths: [\"test -s a.txt\"]",
        "artifacts: [\"a.txt\"]",
        "stage_type: integration-verify",
        "wiring: [{source: \"a.txt\", pattern: a}]",
    ] {
        let env = Env::of(&[said(more)]);
        env.finish();
        assert!(!env.loom(&["status", "a"]).ok().stdout.contains(words), "{more}");
    }
    let env = Env::of(&[stage("a").check("true").with("truths: [{command: \"test -e README.md\", guard: true}]")]);
    env.finish();
    env.loom(&["status", "a"]).ok().has(words);
}

#[test]
fn a_failure_that_was_there_before_lands_only_where_the_plan_just_warns() {
    let old = "echo 'test old::one ... FAILED'; test -s b.txt && echo 'test new::two ... FAILED'; exit 1";
    let check = |policy: &str| format!("truths: [{{command: \"{old}\", policy: {policy}}}]");
    let env = Env::of(&[
        stage("fails").with(&check("fail")).with("max_retries: 0"),
        stage("warns").with(&check("warn")),
        stage("adds").run(commit("b", "b")).check("test -s b.txt").with(&check("warn")).with("max_retries: 0"),
    ]);
    env.run().ends(4);
    assert_eq!(env.state(), "fails blocked, warns merged, adds blocked");
    let same = "failed in the same way before the stage";
    env.loom(&["status", "fails"]).ok().has(same);
    env.loom(&["status", "warns"]).ok().has(&format!("{same}, and the plan only warns"));
    env.loom(&["status", "adds"]).ok().has("failed before the stage too, in another way").has("new: `new::two`");
    env.loom(&["verify", "warns"]).ok().has("warned  ");
    env.loom(&["audit", "--verify"]).ok();
}

#[test]
fn without_names_the_words_of_a_failure_count_and_not_its_times_and_lines() {
    let check =
        |id: &str, text: &str| format!("truths: [{{command: \"echo {text} $(cat {id}.txt); exit 1\", policy: warn}}]");
    // What the command prints depends on the stage's file, which the base has too.
    let of = |id: &str, before: &str, now: &str| (id.to_owned(), before.to_owned(), now.to_owned());
    let cases =
        [of("same", "x.c:10: boom in 3 ms", "x.c:99: boom in 41 ms"), of("other", "x.c:10: boom", "x.c:10: bang")];
    let env = Env::new();
    for (id, before, _) in &cases {
        env.write(&format!("{id}.txt"), before);
    }
    env.git(&["add", "-A"]);
    let stages: Vec<_> = cases
        .iter()
        .map(|(id, _, now)| {
            stage(id)
                .run(commit(id, now))
                .check(&format!("grep -q '{now}' {id}.txt"))
                .with(&check(id, "it says"))
                .with("max_retries: 0")
        })
        .collect();
    env.load(&plan(&stages));
    env.run().ends(4);
    assert_eq!(env.state(), "same merged, other blocked");
}

#[test]
fn the_same_check_on_the_same_base_runs_once() {
    let env = Env::new();
    let counts = "truths: [\"echo x >> @OUT@/runs\"]";
    let each = |id: &str| stage(id).with(counts).first(&format!("read go < @OUT@/{id}"));
    ["a", "b", "c"].iter().for_each(|id| env.fifo(id));
    env.load(&plan(&[each("a"), each("b"), each("c")]));
    env.loom(&["run"]).ok();
    let taken = || told(&env).matches("were run on its base").count();
    env.until("every base is looked at", || taken() == 3);
    assert_eq!(env.said("runs"), "x\n");
    ["a", "b", "c"].iter().for_each(|id| env.go(id));
    env.settle();
    // One for each proof.
    assert_eq!((env.state(), env.said("runs").lines().count()), ("a merged, b merged, c merged".to_owned(), 4));
}

#[test]
fn a_base_that_was_just_proven_is_not_looked_at_again() {
    let env = Env::new();
    env.load(&plan_with(
        "acceptance: [\"echo x >> @OUT@/runs\"]",
        &[stage("a"), stage("b").after(&["a"]), stage("c").after(&["b"])],
    ));
    env.finish();
    // The base of the first one, and a proof for each.
    assert_eq!(env.said("runs").lines().count(), 4);
    assert_eq!(told(&env).matches("were run on its base").count(), 3);
}

#[test]
fn a_proof_is_not_held_up_by_the_base_of_another_stage() {
    let env = Env::new();
    env.fifo("a");
    env.fifo("b");
    let slow = "truths: [\"test -e a.txt || { echo x >> @OUT@/slow; sleep 4301; }\"]";
    env.load(&plan(&[stage("a").with(slow).first("read go < @OUT@/a"), stage("b").first("read go < @OUT@/b")]));
    env.loom(&["run"]).ok();
    env.until_said("slow", "x");
    env.go("b");
    env.until_state("b", "merged");
    assert_eq!(env.state(), "a running, b merged");
    env.loom(&["stop", "--kill"]).ok();
    env.until("the check is gone", || env.pids("sleep 4301").is_empty());
}

#[test]
fn a_daemon_that_is_killed_while_it_looks_at_a_base_looks_again() {
    let env = Env::new();
    env.fifo("a");
    let slow = "truths: [\"echo x >> @OUT@/looks; test -e @OUT@/quick || sleep 4302\"]";
    env.load(&plan(&[stage("a").with(slow).first("read go < @OUT@/a")]));
    env.loom(&["run"]).ok();
    env.until_said("looks", "x");
    kill(env.daemon_pid());
    env.until_said("looks", "x\nx");
    fs::write(env.out.join("quick"), "").unwrap();
    // A shell and what it waits for.
    env.until("the first check is gone", || env.pids("sleep 4302").len() <= 2);
    env.pids("sleep 4302").into_iter().for_each(kill);
    env.until("the base is looked at", || told(&env).contains("were run on its base"));
    env.go("a");
    env.settle();
    assert_eq!(env.state(), "a merged");
}

const SUITE: &str = "change_impact: {baseline_command: \"sh suite.sh\", failure_patterns: [\"^FAIL (.*)\"]";

/// A project whose suite prints what is in `failing`.
fn suite() -> Env {
    let env = Env::new();
    env.write("suite.sh", "test ! -s failing || { cat failing; exit 1; }\n");
    env.write("failing", "FAIL old.c:10: boom\nFAIL gone\n");
    env.git(&["add", "-A"]);
    env
}

fn leaves(id: &str, failing: &str) -> crate::env::Stage {
    let script = format!("printf '{failing}' > failing; git add failing; {}", commit(id, id));
    stage(id).run(script).with("max_retries: 0").with("files: [\"**\"]")
}

#[test]
fn a_failure_that_a_stage_brings_into_the_suite_does_not_land() {
    for (failing, policy, state) in [
        (r"FAIL old.c:99: boom\n", "fail", "a merged"),
        ("", "fail", "a merged"),
        (r"FAIL old.c:10: boom\nFAIL new\n", "fail", "a blocked"),
        (r"FAIL old.c:10: boom\nFAIL gone\nFAIL gone\n", "fail", "a blocked"),
        (r"no line that names a failure\n", "fail", "a blocked"),
        (r"FAIL old.c:10: boom\nFAIL new\n", "warn", "a merged"),
        (r"FAIL old.c:10: boom\nFAIL new\n", "skip", "a merged"),
    ] {
        let env = suite();
        env.load(&plan_with(&format!("{SUITE}, policy: {policy}}}"), &[leaves("a", failing)]));
        let out = env.run();
        assert_eq!(env.state(), state, "{failing} {policy}: {out}\n{}", env.says(&["status", "a"]));
        let view = env.loom(&["status", "a"]).ok();
        match (state, failing.contains("new"), policy) {
            (_, _, "skip") => assert!(!view.stdout.contains("change impact"), "{view}"),
            (_, true, _) => {
                drop(view.has("1 new failure: `new`").has("1 failed before the stage too: `old.c:#: boom`"))
            }
            ("a merged", ..) => drop(view.has("fixed by the stage")),
            _ => drop(view.has("failed `change impact")),
        }
    }
}

#[test]
fn a_red_verdict_says_what_changed_since_the_one_before() {
    let env = Env::new();
    let script = "set -e; n=$LOOM_ATTEMPT; [ $n != 1 ] || echo 'test one ... FAILED' > out.txt
        [ $n != 2 ] || echo 'test two ... FAILED' > out.txt; [ $n != 3 ] || : > out.txt
        cp $LOOM_SIGNAL @OUT@/signal$n; git add out.txt; git commit -q -m \"Try $n\"";
    let checks = "truths: [\"cat out.txt; test ! -s out.txt\", \"test $(git log --oneline | wc -l) -gt 4\"]";
    env.load(&plan(&[stage("a").run(script).check("test -e out.txt").with(checks)]));
    env.finish();
    let (second, third) = (env.said("signal2"), env.said("signal3"));
    assert!(!second.contains("Since the verdict before"), "{second}");
    for text in ["Fails now: `two`", "Fixed: `one`", "Committed in between", "Try 2", "out.txt (+1 -1)"] {
        assert!(third.contains(text), "{text}: {third}");
    }
}
