//! An agent that says that a check is wrong.

use crate::env::{Env, commit, plan, plan_with, stage};

/// Commits, submits, and disputes check 1 when that was red. A later session does what it is told.
const WORK: &str = r#"case "$(cat "$LOOM_SIGNAL")" in
*"which you called wrong"*) printf 'a\nb\n' > a.txt; git commit -q -a -m Again; loom stage dispute a --check 1 --reason again >> @OUT@/second 2>&1; exit 0;;
esac
echo a > a.txt; git add a.txt; git commit -q -m A
loom stage dispute a --check 1 --reason 'too early' >> @OUT@/early 2>&1
loom stage complete a >> @OUT@/said 2>&1
loom stage dispute a --check 7 --reason 'which' >> @OUT@/unknown 2>&1
loom stage dispute a --check 2 --reason 'it passed' >> @OUT@/passed 2>&1
loom stage dispute a --check 1 --reason 'b was never asked for' >> @OUT@/first 2>&1
"#;

fn disputed() -> Env {
    let env = Env::new();
    env.load(&plan_with("acceptance: [\"test -s a.txt\"]", &[stage("a").run(WORK).check("grep b a.txt")]));
    env.run()
        .ends(5)
        .has("says that check 1 (`grep b a.txt`) is wrong: b was never asked for")
        .has("loom stage review a");
    env
}

fn apply(env: &Env, plan: &str) -> crate::env::Out {
    let path = env.out.join("plan.md");
    std::fs::write(&path, plan.replace("@OUT@", &env.out.display().to_string())).unwrap();
    env.loom(&["plan", "apply", &path.display().to_string()])
}

#[test]
fn a_disputed_check_waits_for_a_person_and_is_never_waved_through() {
    let env = disputed();
    assert_eq!(env.state(), "a gated");
    assert!(env.said("early").contains("has not failed"), "{}", env.said("early"));
    assert!(env.said("unknown").contains("has no check 7") && env.said("unknown").contains("2. test -s a.txt"));
    assert!(env.said("passed").contains("check 2 of stage `a` has not failed"), "{}", env.said("passed"));
    assert!(env.said("first").contains("waits for a person"), "{}", env.said("first"));
    env.loom(&["stage", "review", "a"])
        .ok()
        .has("b was never asked for")
        .has("exit status 1, expected 0")
        .has("loom plan apply");
    for verb in [&["stage", "approve", "a"][..], &["stage", "approve", "g1"], &["merge", "a"]] {
        env.loom(verb).ends(5).has("nothing lands by approving it").has("loom plan apply").has("loom stage reject a");
    }
    assert_eq!(env.state(), "a gated");
    let gate = &env.status()["gates"][0];
    assert_eq!((gate["stage"].as_str(), gate["next"].as_str()), (Some("a"), Some("loom stage review a")), "{gate}");
}

#[test]
fn a_rejected_dispute_goes_back_with_the_persons_words_and_is_not_repeated() {
    let env = disputed();
    env.loom(&["stage", "reject", "a", "--reason", "b is in the description"]).ok();
    env.finish();
    assert!(env.said("second").contains("was disputed before"), "{}", env.said("second"));
    assert_eq!((env.state().as_str(), env.read("a.txt").as_str()), ("a merged", "a\nb\n"));
    assert_eq!(env.stage("a")["attempt"], 1, "the attempt went on");
    assert!(env.read(".work/signals/a.2.md").contains("b is in the description"));
    env.loom(&["audit"]).ok().has("says that a check is wrong: g1").has("question g1 is answered: no");
}

#[test]
fn a_new_version_of_the_plan_settles_a_dispute() {
    let env = disputed();
    // One that leaves the check as it is does not.
    apply(
        &env,
        &plan_with("acceptance: [\"test -s a.txt\"]\nmax_parallel: 2", &[stage("a").run(WORK).check("grep b a.txt")]),
    )
    .ok();
    assert_eq!(env.state(), "a gated");
    let new = plan_with("acceptance: [\"test -s a.txt\"]", &[stage("a").run(WORK).check("grep a a.txt")]);
    apply(&env, &new).ok().has("the disputed check is another one, proven again");
    assert_eq!((env.state().as_str(), env.status()["gates"].as_array().map(Vec::len)), ("a verifying", Some(0)));
    env.finish();
    assert_eq!((env.state().as_str(), env.stage("a")["attempt"].as_u64()), ("a merged", Some(1)));
    assert!(!env.repo.join(".work/signals/a.2.md").exists(), "no agent was needed");
    env.loom(&["audit", "--verify"]).ok();
}

#[test]
fn a_disputed_stage_can_be_reset_and_its_question_goes() {
    let env = disputed();
    env.loom(&["stage", "hold", "a"]).ok();
    env.loom(&["stage", "reset", "a", "--reason", "anew"]).ok();
    assert_eq!(env.status()["gates"].as_array().map(Vec::len), Some(0));
    env.loom(&["stage", "approve", "g1"]).ends(1).has("no longer asked");
}

#[test]
fn only_who_has_the_stage_disputes_a_check() {
    let env = Env::new();
    env.load(&plan(&[
        stage("a").with("hold: true"),
        stage("b").run(format!("loom stage dispute a --check 1 --reason no >> @OUT@/said 2>&1; {}", commit("b", "b"))),
    ]));
    env.run().ends(5);
    assert!(env.said("said").contains("does not hold stage `a`"), "{}", env.said("said"));
    env.loom(&["stage", "dispute", "a", "--check", "1", "--reason", "x"]).ends(1);
}
