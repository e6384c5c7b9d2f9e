//! The plans that the documents show run to their end, as they stand there. Where an agent would
//! work, a `run` does what the stage asks for; tools that the example's project has are stand-ins on
//! PATH. Nothing else is different.

use crate::env::{Env, markdown};

/// A project as the examples take it for granted.
fn project() -> Env {
    let mut env = Env::new();
    for (path, text) in [
        ("src/lib.rs", "// The product.\n"),
        ("crates/api/src/lib.rs", "// The API.\n"),
        ("crates/api/tests/api.rs", "// The tests.\n"),
        ("crates/store/src/lib.rs", "// The store.\n"),
        ("doc/store.md", "The store.\n"),
        ("Makefile", "client:\n\t@mkdir -p client; echo 'accounts()' > client/index.ts\n"),
    ] {
        env.write(path, text);
    }
    env.git(&["add", "-A"]);
    env.git(&["commit", "-q", "-m", "A project"]);
    // Tests pass when there is work; a program prints what its source says.
    env.program(
        "cargo",
        "case \"$1\" in\ntest) grep -rqs done --include=*.rs . || { echo 'test result: FAILED. 0 passed; 1 failed; 0 ignored'; exit 101; }\n\
         echo 'test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out';;\n\
         *) grep -rhs . --include=*.rs . ;;\nesac",
    );
    env
}

/// The one whole plan that a document shows.
fn shown_in(document: &str) -> String {
    let (_, rest) = document.split_once("````markdown\n").expect("the document shows a plan");
    rest.split_once("````\n").expect("the plan ends").0.to_owned()
}

/// Lets each of these stages write `text` to `path`, where the example has an agent.
fn carried_out(example: &str, works: &[(&str, &str, &str)]) -> String {
    let mut plan = example.to_owned();
    for (stage, path, text) in works {
        let head = format!("    - id: {stage}\n");
        assert!(plan.contains(&head), "the example has a stage `{stage}`");
        let work = format!("mkdir -p $(dirname {path}); echo '{text}' >> {path}; git add -A; git commit -q -m {stage}");
        plan = plan.replace(&head, &format!("{head}      run: \"{work}\"\n"));
    }
    // How an agent thinks says nothing to a command.
    plan.lines().filter(|line| !line.contains("reasoning_effort:")).map(|line| format!("{line}\n")).collect()
}

#[track_caller]
fn lands(env: &Env, plan: &str, states: &str) {
    env.write("doc/plans/plan.md", plan);
    env.loom(&["plan", "verify", "--strict", "doc/plans/plan.md"]).ok();
    env.load(plan);
    if plan.contains("hold: true") {
        env.run().ends(5);
        env.loom(&["stage", "release", "docs"]).ok();
    }
    env.finish();
    assert_eq!(env.state(), states);
}

#[test]
fn the_smallest_plan_with_two_stages_runs() {
    let works = [("api", "src/api.rs", "// done"), ("docs", "doc/api.md", "The API")];
    lands(&project(), &carried_out(include_str!("../plans/feature.md"), &works), "api merged, docs merged");
}

#[test]
fn the_plan_for_claude_code_in_the_readme_runs() {
    let readme = include_str!("../../README.md");
    let (_, rest) = readme.split_once("\n## A first plan with Claude Code\n").unwrap();
    let (_, rest) = rest.split_once("```yaml\n").unwrap();
    let (yaml, _) = rest.split_once("```\n").unwrap();
    let works = [("parser", "src/time.rs", "// done"), ("flag", "src/main.rs", "// --timeout")];
    lands(&project(), &carried_out(&markdown(yaml), &works), "parser merged, flag merged");
}

#[test]
fn the_plan_of_the_format_runs() {
    let works = [
        ("schema", "crates/store/src/accounts.rs", "// done"),
        ("endpoint", "src/accounts.rs", "// POST /accounts done"),
        ("docs", "doc/api.md", "POST /accounts"),
    ];
    let plan = carried_out(&shown_in(include_str!("../../doc/plan-format.md")), &works);
    lands(&project(), &plan, "schema merged, endpoint merged, client merged, docs merged");
}

#[test]
fn the_plan_of_the_plan_writer_runs() {
    let works = [
        ("schema", "crates/store/src/account.rs", "// done"),
        ("endpoint", "crates/api/src/accounts.rs", "// POST /accounts done"),
    ];
    let plan = carried_out(&shown_in(include_str!("../../skills/plan-writer/SKILL.md")), &works);
    lands(&project(), &plan, "schema merged, endpoint merged");
}
