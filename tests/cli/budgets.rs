//! Budgets as an operator meets them: what is used is shown, at the cap a person is asked, and
//! nothing is lost.

use crate::env::{Env, commit, plan_with, stage};

/// Fails in its first session, and works in its second.
fn second_time() -> String {
    format!("test -e @OUT@/again || {{ touch @OUT@/again; exit 1; }}\n{}", commit("a", "a"))
}

#[test]
fn a_stage_asks_for_another_session_and_goes_on_when_it_gets_one() {
    let env = Env::new();
    env.load(&plan_with("", &[stage("a").run(second_time()).with("budget: {sessions: 1}"), stage("b").after(&["a"])]));
    let out = env.run().ends(5);
    let out = out.has("? a gated: stage `a` has used up its budget: 1 of 1 session. Approve grants as much again");
    out.has("Next: loom stage approve a");
    let row = env.stage("a");
    assert_eq!((row["used"]["sessions"].as_u64(), row["budget"]["sessions"].as_u64()), (Some(1), Some(1)), "{row}");
    let _ = env.loom(&["status"]).ok().has("a  gated      [1 of 1 session]");
    env.loom(&["stage", "approve", "a"]).ok().has("Next: loom run");
    env.finish();
    assert_eq!((env.stage("a")["attempt"].as_u64(), env.state().as_str()), (Some(2), "a merged, b merged"));
    let _ = env.loom(&["audit"]).ok().has("`a` gets another helping of its budget");
}

#[test]
fn a_plan_at_its_cap_lands_what_is_done_and_pauses_after_a_no() {
    let env = Env::new();
    env.load(&plan_with("budget: {sessions: 1}", &[stage("a"), stage("b").after(&["a"])]));
    env.run().ends(5).has("? g1: the plan has used up its budget: 1 of 1 session").has("Next: loom stage approve g1");
    assert_eq!(env.state(), "a merged, b ready");
    let _ = env
        .loom(&["status"])
        .ok()
        .has("budget: 1 of 1 session")
        .has("loom stage approve g1   or   loom stage reject g1");
    env.loom(&["stage", "reject", "g1", "--reason", "enough"]).ok();
    let status = env.status();
    assert_eq!((status["phase"].as_str(), status["next"][0].as_str()), (Some("waiting-for-person"), Some("loom run")));
    let _ = env.loom(&["status"]).ok().has("the plan is paused, no session starts: a person stopped it at its budget");
    // The next run is a person's word: it asks again.
    env.run().ends(5).has("g2");
    env.loom(&["stage", "approve", "g2"]).ok();
    env.finish();
    assert_eq!(env.state(), "a merged, b merged");
}

#[test]
fn a_larger_budget_in_a_new_version_of_the_plan_counts() {
    let env = Env::new();
    let plan = |cap: u32| {
        plan_with(
            &format!("acceptance: [\"true\"]\nbudget: {{sessions: {cap}}}"),
            &[stage("a"), stage("b").after(&["a"]), stage("c").after(&["b"])],
        )
    };
    env.load(&plan(2));
    env.run().ends(5);
    assert_eq!(env.state(), "a merged, b merged, c ready");
    env.add_plan(&plan(9));
    let _ = env.loom(&["plan", "apply", "doc/plans/plan.md"]).ok();
    env.finish();
    assert_eq!(env.state(), "a merged, b merged, c merged");
}
