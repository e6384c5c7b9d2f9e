//! New versions of a plan while it runs: `loom plan diff` and `loom plan apply`.

use crate::env::{Env, Out, commit, plan, plan_with, stage};

/// A new version beside the repository, so that the base branch does not move.
fn version(env: &Env, plan: &str) -> String {
    let path = env.out.join("plan.md");
    std::fs::write(&path, plan.replace("@OUT@", &env.out.display().to_string())).unwrap();
    path.display().to_string()
}

fn apply(env: &Env, plan: &str, more: &[&str]) -> Out {
    let path = version(env, plan);
    env.loom(&[&["plan", "apply", &path], more].concat())
}

/// `a` has landed, `b` is held.
fn half_way() -> Env {
    let env = Env::of(&[stage("a"), stage("b").after(&["a"]).with("hold: true")]);
    env.run().ends(5);
    assert_eq!(env.state(), "a merged, b ready");
    env
}

#[test]
fn a_new_version_is_said_before_and_taken_over() {
    let env = half_way();
    let new = plan_with(
        "max_parallel: 2",
        &[
            stage("a").check("grep -q a a.txt"),
            stage("b").after(&["a"]).check("test -s a.txt && test -s b.txt"),
            stage("c").after(&["b"]),
            stage("d").after(&["a"]),
        ],
    );
    let path = version(&env, &new);
    insta::assert_snapshot!(env.says(&["plan", "diff", &path]).replace("<tmp>/out/plan.md", "PLAN"), @r"
    plan: `max_parallel` changed
    ~ a: proven again (acceptance)
    ~ b: changed from now on (acceptance, hold)
    + c: added
        + waits for b
    + d: added
        + waits for a
    Next: loom plan apply PLAN
    ------- exit 0 -------
    ");
    let json = env.loom(&["plan", "diff", &path, "--json"]).ok().json();
    assert_eq!((&json["same"], &json["stages"][0]["consequence"]), (&false.into(), &"proven-again".into()));
    assert_eq!(env.status()["stages"].as_array().unwrap().len(), 2, "a diff changes nothing");
    env.loom(&["plan", "apply", &path]).ok().has("version 2");
    env.loom(&["plan", "apply", &path]).ok().has("nothing changed");
    env.finish();
    assert_eq!(env.state(), "a merged, b merged, c merged, d merged");
}

#[test]
fn a_landing_that_the_new_version_does_not_prove_starts_over() {
    let script = "if grep -q 'does not hold' \"$LOOM_SIGNAL\"; then echo second > a.txt; else echo first > a.txt; fi
git add a.txt && git commit -q -m A";
    let env = Env::of(&[stage("a").run(script), stage("b").after(&["a"]).with("hold: true")]);
    env.run().ends(5);
    assert_eq!(env.git(&["show", "loom/_plan/plan:a.txt"]), "first");
    let new = [stage("a").run(script).check("grep -q second a.txt"), stage("b").after(&["a"])];
    apply(&env, &plan(&new), &[]).ok().has("a: proven again");
    env.finish();
    assert_eq!((env.state().as_str(), env.read("a.txt").as_str()), ("a merged, b merged", "second\n"));
}

#[test]
fn a_stage_that_runs_keeps_its_version_unless_it_is_told_to_restart() {
    let env = Env::new();
    let script = |text: &str| format!("echo here >> @OUT@/said; read go < @OUT@/go; {}", commit("a", text));
    env.fifo("go");
    env.load(&plan(&[stage("a").run(script("one"))]));
    env.loom(&["run"]).ok();
    env.until_said("said", "here");
    apply(&env, &plan(&[stage("a").run(commit("a", "two"))]), &[]).ok().has("from the next attempt on");
    let path = env.out.join("plan.md").display().to_string();
    env.loom(&["plan", "apply", &path, "--restart", "a"]).ok().has("a: restarted");
    env.settle();
    assert_eq!((env.read("a.txt").as_str(), env.said("said").as_str()), ("two\n", "here\n"));
    assert_eq!(env.stage("a")["attempt"], 2);
}

#[test]
fn what_landed_stays_in_the_plan_and_other_plans_are_no_versions() {
    let env = half_way();
    insta::assert_snapshot!(apply(&env, &plan(&[stage("b")]), &[]).ends(1).stderr, @r"
    Error: stage `a` has landed and cannot be removed from the plan
    Caused by: what it changed is on the plan branch, and other stages may rely on it
    Hint: keep the stage, and add another one that takes its work back
    ");
    let other = env.out.join("other.md");
    std::fs::write(&other, plan(&[stage("a")])).unwrap();
    env.loom(&["plan", "apply", &other.display().to_string()]).ends(1).has("is carried out");
    env.write("doc/plans/plan.md", &plan(&[stage("a"), stage("b").after(&["a"])]));
    env.loom(&["init", "doc/plans/plan.md"]).ends(1).has("loom plan diff doc/plans/plan.md");
    assert_eq!(env.state(), "a merged, b ready");
}

#[test]
fn a_removed_stage_leaves_nothing_but_its_work() {
    let env = Env::of(&[stage("a").run(format!("{} && exit 1", commit("a", "a"))).with("max_retries: 0"), stage("b")]);
    env.run().ends(4);
    assert_eq!(env.state(), "a blocked, b merged");
    apply(&env, &plan(&[stage("b")]), &[]).ok().has("a: removed");
    env.finish();
    assert_eq!(env.state(), "b merged");
    assert_eq!(env.git(&["branch", "--list", "loom/a"]), "");
    assert!(!env.repo.join(".worktrees/a").exists());
    env.loom(&["undo", "--list"]).ok().has("a/1");
}
