//! Every kind of proof a plan can ask for, and the evidence that it leaves.

use std::fs;

use crate::env::{Env, commit, plan, stage};

const ALL: &str = r#"artifacts: ["src/*.rs"]
      wiring: [{source: "src/main.rs", pattern: "^mod api;"}]
      wiring_tests: [{name: says, command: "cat src/api.rs", success_criteria: {stdout_contains: ["fn api"]}}]
      dead_code_check: {command: "echo 'src/old.rs: unused'; exit 1", fail_patterns: ["unused"], ignore_patterns: ["old"]}
      after_stage: ["test -e src/api.rs"]
      bug_fix: true
      regression_test: {file: "tests/api.rs", must_contain: ["fn bug_7"]}"#;

fn work(files: &[(&str, &str)]) -> String {
    let write = |(path, text): &(&str, &str)| format!("mkdir -p $(dirname {path}); printf '%s\\n' '{text}' > {path}\n");
    let all: String = files.iter().map(write).collect();
    format!("set -e\n{all}git add -A; git commit -q -m Work")
}

const GOOD: [(&str, &str); 3] =
    [("src/main.rs", "mod api;"), ("src/api.rs", "pub fn api() {}"), ("tests/api.rs", "fn bug_7() {}")];

#[test]
fn a_stage_is_proven_by_every_kind_of_criterion() {
    let env = Env::of(&[stage("a").run(work(&GOOD)).check("test -d src").with(ALL)]);
    env.finish();
    let row = env.stage("a");
    assert_eq!((row["checks"]["passed"].as_u64(), row["checks"]["total"].as_u64()), (Some(7), Some(7)), "{row}");
    env.loom(&["verify", "a"]).ok().has("passed  artifact `src/*.rs`").has("7 checks passed");
}

#[test]
fn what_is_not_there_or_not_finished_is_not_proven() {
    type Files<'a> = &'a [(&'a str, &'a str)];
    let cases: [(&str, Files, &str, &str); 9] = [
        ("stub", &[("a.rs", "fn a() { todo!() }")], "artifacts: [\"a.rs\"]", "is not finished: line 1"),
        ("later", &[("a.py", "# TODO the rest")], "artifacts: [\"a.py\"]", "is not finished"),
        ("void", &[("a.rs", "")], "artifacts: [\"a.rs\"]", "is empty"),
        ("other", &[("b.rs", "fn b() {}")], "artifacts: [\"a.rs\"]", "no committed file matches"),
        ("apart", &[("a.rs", "fn a() {}")], "wiring: [{source: \"*.rs\", pattern: \"mod a\"}]", "no line of 1 file"),
        (
            "silent",
            &[("a.rs", "x")],
            "wiring_tests: [{name: n, command: \"true\", success_criteria: {stdout_contains: [hi]}}]",
            "does not contain `hi`",
        ),
        (
            "dead",
            &[("a.rs", "x")],
            "dead_code_check: {command: \"echo never used; exit 0\", fail_patterns: [\"never used\"]}",
            "must not be there",
        ),
        (
            "nothing",
            &[("a.rs", "x")],
            "after_stage: [\"echo 'running 0 tests'; echo 'test result: ok. 0 passed; 0 failed; 0 ignored'\"]",
            "it ran no test",
        ),
        (
            "untested",
            &[("a.rs", "x")],
            "{bug_fix: true, regression_test: {file: \"README.md\", must_contain: [Project]}}",
            "the stage wrote no test",
        ),
    ];
    let stages: Vec<_> = cases
        .iter()
        .map(|(id, files, line, _)| {
            let line = line.trim_start_matches('{').to_owned();
            let line = match line.strip_prefix("bug_fix: true, ") {
                Some(rest) => format!("bug_fix: true\n      {}", &rest[..rest.len() - 1]),
                None => line,
            };
            stage(id).run(work(files)).check("test -e README.md").with(&line).with("max_retries: 0")
        })
        .collect();
    let env = Env::of(&stages);
    env.run().ends(4);
    for (id, _, _, why) in cases {
        assert_eq!(env.stage(id)["state"], "blocked", "{id}");
        env.loom(&["status", id]).ok().has(why);
    }
}

#[test]
fn what_another_stage_has_landed_meanwhile_is_not_the_stages_own() {
    let env = Env::new();
    env.fifo("go");
    let test = "bug_fix: true\n      regression_test: {file: tests/bug.sh, must_contain: [bug_7]}";
    env.load(&plan(&[
        stage("writes")
            .run(work(&[("tests/bug.sh", "bug_7"), ("later.rs", "fn a() { todo!() }")]))
            .check("test -s later.rs"),
        stage("claims").first("read go < @OUT@/go").with(test).with("max_retries: 0"),
        stage("shares").first("read go < @OUT@/go").with("artifacts: [later.rs, shares.txt]"),
    ]));
    env.loom(&["run"]).ok();
    env.until_state("writes", "merged");
    env.go("go");
    env.go("go");
    env.settle();
    assert_eq!(env.state(), "writes merged, claims blocked, shares merged");
    env.loom(&["status", "claims"]).ok().has("the stage wrote no test");
}

#[test]
fn a_link_is_no_artifact() {
    let env = Env::of(&[stage("a")
        .run("ln -s README.md a.md; git add a.md; git commit -q -m Link")
        .check("test -e a.md")
        .with("artifacts: [\"a.md\"]")
        .with("max_retries: 0")]);
    env.run().ends(4);
    env.loom(&["status", "a"]).ok().has("`a.md` is a link");
}

#[test]
fn a_check_that_passes_on_its_second_run_is_recorded_as_flaky() {
    let env = Env::new();
    let check = "truths: [{command: \"test -e @OUT@/once || { touch @OUT@/once; exit 1; }\", retries: 1}]";
    env.load(&plan(&[stage("a").with(check)]));
    env.finish();
    assert!(env.read(".work/journal.jsonl").contains("\"failed_runs\":1"));
}

#[test]
fn evidence_is_kept_and_holds_until_somebody_changes_it() {
    let env = Env::of(&[stage("a").run(commit("a", "a")).check("cat a.txt")]);
    env.finish();
    let found = env
        .out_of(env.command("sh").args(["-c", "grep -l '\"passed\": true,$' .work/evidence/a/*/1/bundle.json"]))
        .ok()
        .stdout;
    let bundle = found.trim();
    let digest = env.out_of(env.command("sha256sum").arg(bundle)).ok().stdout;
    assert!(env.read(".work/journal.jsonl").contains(digest.split(' ').next().unwrap()));
    env.loom(&["verify", "--evidence", bundle]).ok().has("the evidence holds");
    let json = env.loom(&["verify", "--evidence", bundle, "--json"]).ok().json();
    assert_eq!((&json["holds"], &json["recorded"]), (&true.into(), &true.into()), "{json}");
    // What is changed in a way that holds together by itself is not what the journal has.
    let written = env.read(bundle);
    env.write(bundle, &written.replace("\"duration_ms\": ", "\"duration_ms\": 1"));
    env.loom(&["verify", "--evidence", bundle]).ends(4).has("the journal has another digest of it");
    env.write(
        ".work/evidence/a/copied/1/bundle.json",
        &written.replace("\"001.log\"", "\"\"").replace("\"passed\": true", "\"passed\": true "),
    );
    env.write(".work/evidence/a/copied/1/001.log", "a\n");
    env.loom(&["verify", "--evidence", ".work/evidence/a/copied/1/bundle.json"])
        .ok()
        .has("of no verdict that the journal here has");
    env.write(bundle, &written);
    let output = env.repo.join(bundle).with_file_name("001.log");
    assert_eq!(fs::read_to_string(&output).unwrap(), "a\n");
    fs::write(&output, "b\n").unwrap();
    env.loom(&["verify", "--evidence", bundle]).ends(4).has("is not the one that was kept");
    fs::write(&output, "a\n").unwrap();
    let text = env.read(bundle);
    let tree = env.git(&["rev-parse", "main^{tree}"]);
    env.write(bundle, &text.replace(&tree, &env.git(&["rev-parse", "main~1^{tree}"])));
    env.loom(&["verify", "--evidence", bundle]).ends(4).has("not the one that was checked");
    env.loom(&["verify", "a", "--json"]).ok().has("\"passed\": true");
}

#[test]
fn verify_says_what_fails_without_deciding_anything() {
    let env = Env::of(&[stage("a").check("echo no; exit 3").with("max_retries: 0")]);
    env.loom(&["verify", "a"]).ends(1).has("has no commit to look at yet");
    env.run().ends(4);
    env.loom(&["verify", "a"]).ends(4).has("FAILED  echo no; exit 3").has("exit status 3, expected 0");
    env.loom(&["verify", "b"]).ends(1).has("no stage `b`");
    assert_eq!(env.stage("a")["state"], "blocked");
}
