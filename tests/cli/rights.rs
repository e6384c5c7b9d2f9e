//! What a session may not do: everything that only a person may.

use crate::env::{Env, commit, plan, stage};

/// Runs `commands` inside a session and returns what each one said and how it ended.
fn inside(commands: &[&str]) -> (Env, String) {
    let env = Env::new();
    let mut script = String::new();
    for command in commands {
        script.push_str(&format!("{{ {command}; }} >> @OUT@/said 2>&1; echo \"== $?\" >> @OUT@/said\n"));
    }
    env.load(&plan(&[
        stage("a").run(format!("{script}{}", commit("a", "a"))),
        stage("b").after(&["a"]).with("hold: true"),
    ]));
    env.run().ends(5);
    let said = env.said("said");
    (env, said)
}

fn codes(said: &str) -> Vec<&str> {
    said.lines().filter_map(|line| line.strip_prefix("== ")).collect()
}

#[test]
fn operator_verbs_are_refused_inside_a_session() {
    let (env, said) = inside(&[
        "loom stage skip b --reason no",
        "loom stage release b",
        "loom stage reset b --reason no",
        "loom stage approve g1",
        "loom stage retry a",
        "loom run",
        "loom run --foreground",
        "loom stop",
        "loom stop --kill",
        "loom merge",
        "loom sessions kill a.1",
        "loom init --clean ../../doc/plans/plan.md",
        "loom plan apply ../../doc/plans/plan.md",
        "loom daemon",
        "loom demo",
        "loom undo a/1",
    ]);
    assert!(codes(&said).iter().all(|code| *code == "1"), "{said}");
    assert_eq!(env.state(), "a merged, b ready");
    assert_eq!(env.stage("b")["held"], true);
    assert!(said.contains("session `a.1` may not"), "{said}");
}

#[test]
fn a_session_that_hides_its_marks_is_still_no_operator() {
    let hide = "env -u LOOM_SESSION -u LOOM_TOKEN_FILE -u LOOM_STAGE -u LOOM_HOST";
    let (env, said) = inside(&[
        &format!("{hide} loom stage skip b --reason no"),
        &format!("{hide} setsid -w loom stage skip b --reason no"),
        &format!("{hide} loom stop"),
        &format!("{hide} loom run"),
        "env -i PATH=\"$PATH\" HOME=\"$HOME\" XDG_RUNTIME_DIR=\"$XDG_RUNTIME_DIR\" loom stage skip b --reason no",
    ]);
    assert_eq!(codes(&said), ["1"; 5], "{said}");
    assert_eq!(env.state(), "a merged, b ready");
    assert!(said.contains("runs in a session of Loom"), "{said}");
}

#[test]
fn a_double_forked_child_is_no_operator_either() {
    let env = Env::new();
    env.fifo("done");
    let child = "env -u LOOM_SESSION -u LOOM_TOKEN_FILE -u LOOM_HOST loom stage skip b --reason no >> @OUT@/said 2>&1; echo \"== $?\" >> @OUT@/said; echo go > @OUT@/done";
    env.load(&plan(&[
        stage("a").first(&format!("(setsid sh -c '{child}' &)\nread go < @OUT@/done")),
        stage("b").after(&["a"]).with("hold: true"),
    ]));
    env.run().ends(5);
    assert_eq!(codes(&env.said("said")), ["1"], "{}", env.said("said"));
    assert_eq!(env.state(), "a merged, b ready");
}

#[test]
fn a_session_may_read_and_speak_for_its_own_stage_only() {
    let (env, said) = inside(&[
        "loom status > /dev/null",
        "loom signal > /dev/null",
        "loom stage complete b",
        "loom stage block b --reason no",
        "echo forged > @OUT@/token; LOOM_TOKEN_FILE=@OUT@/token loom stage complete a",
        "LOOM_TOKEN_FILE=/nonexistent loom stage complete a",
    ]);
    assert_eq!(codes(&said), ["0", "0", "1", "1", "1", "1"], "{said}");
    assert!(said.contains("session `a.1` does not hold stage `b`"), "{said}");
    assert!(said.contains("this session is over, or was never Loom's"), "{said}");
    assert_eq!(env.state(), "a merged, b ready");
}

#[test]
fn a_session_submits_and_hears_the_verdict() {
    let env = Env::new();
    let script = format!(
        "{}\nloom stage complete a > @OUT@/first 2>&1; echo \"== $?\" >> @OUT@/first\n{}\nloom stage complete a > @OUT@/second 2>&1; echo \"== $?\" >> @OUT@/second",
        commit("a", "bad"),
        commit("a", "good")
    );
    env.load(&plan(&[stage("a").run(script).check("grep good a.txt")]));
    env.finish();
    assert!(
        env.said("first").contains("stage `a` is not accepted") && env.said("first").contains("== 4"),
        "{}",
        env.said("first")
    );
    assert!(
        env.said("second").contains("proven and landed") && env.said("second").contains("== 0"),
        "{}",
        env.said("second")
    );
    assert_eq!(env.stage("a")["attempt"], 1);
    assert_eq!(env.read("a.txt"), "good\n");
}

#[test]
fn uncommitted_work_and_nothing_at_all_are_refused_at_submission() {
    let env = Env::new();
    let script = format!(
        "loom stage complete a > @OUT@/said 2>&1; echo \"== $?\" >> @OUT@/said\necho x > new.txt; loom stage complete a >> @OUT@/said 2>&1; echo \"== $?\" >> @OUT@/said; rm new.txt\n{}",
        commit("a", "a")
    );
    env.load(&plan(&[stage("a").run(script)]));
    env.finish();
    insta::assert_snapshot!(env.said("said"), @r#"
    Error: stage `a` has nothing to submit
    Caused by: its commit has the same tree as the commit it started from
    Hint: commit your work, then run `loom stage complete` again
    Hint: loom stage block a --reason "why it cannot be done"
    == 4
    Error: stage `a` has uncommitted work in `new.txt`
    Caused by: only what is committed can be proven and landed
    Hint: git add the files that belong to the work, git commit, then run `loom stage complete` again
    == 4
    "#);
}

#[test]
fn an_agent_blocks_its_own_stage_with_a_reason() {
    let env = Env::of(&[stage("a").run("loom stage block a --reason 'the door is locked'; read never < @OUT@/never")]);
    env.run().ends(4).has("the agent says: the door is locked");
    assert_eq!(env.stage("a")["reason"]["code"], "by-agent");
    assert_eq!(env.pids("loom host"), [0_u32; 0]);
}
