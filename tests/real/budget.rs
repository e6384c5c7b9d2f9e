//! The context budget: what a session has used is seen, it is told in time, it
//! hands off, and another session goes on in the same attempt.

use serde_json::Value;

use crate::api::{Api, Lane, Script, Turn, When};
use crate::plans::{HEADLESS, ONE, TERMINAL, commit, complete, lane, write};
use crate::project::Project;

/// A model with a window of 200,000 tokens.
fn sonnet(settings: &str) -> String {
    settings.replace('}', ", model: sonnet}")
}

/// A session that was started with what another one left.
fn successor(turns: impl IntoIterator<Item = Turn>) -> Lane {
    Lane::new("successor").when(When::Anywhere("Where the session before left off".to_owned())).turns(turns)
}

fn finishes() -> Vec<Turn> {
    vec![write("a.txt", "alpha\n"), commit("a.txt"), complete(), Turn::text("Done.")]
}

const HANDOFF: &str = "loom handoff <<'END'\n## Status\nHalf of a.txt stands.\n## Decisions\n- plain text, because it is \
     asked for\n## Next steps\n- write alpha\n## Interfaces introduced\n- the file half.txt\nEND";

const PREPARE: &str = "at 65 % another session takes over";
const USED_UP: &str = "your context budget is used up";

/// Fills its window, is told to prepare and to hand off, and does.
fn hands_off(settings: &str) {
    // The client writes its transcript a moment after it acts: each zone lasts until it is told.
    let until_told = |words: &str, tokens: u64| (0..60).map(|_| Turn::bash(words).tokens(tokens)).collect::<Vec<_>>();
    let mut turns = vec![write("half.txt", "half\n"), commit("half.txt")];
    turns.extend(until_told("echo yellow", 110_000));
    let when_told = |words: &str| Lane::new(words).when(When::Anywhere(words.to_owned()));
    let script =
        Script::new()
            .lane(successor(finishes()))
            .lane(when_told(USED_UP).turns([
                Turn::bash(HANDOFF).tokens(142_000).held("handoff"),
                Turn::text("Handed off.").tokens(143_000),
            ]))
            .lane(when_told(PREPARE).turns(until_told("echo red", 140_000)))
            .lane(lane("api", turns));
    let api = Api::start(script);
    let project = Project::new(&api);
    project.init(&sonnet(settings), ONE);
    project.start();
    api.wait_for("of an agent that was told", |seen| seen.lane == USED_UP);
    let red = |status: &Value| status["sessions"][0]["context_percent"].as_u64().is_some_and(|percent| percent >= 65);
    let status = project.wait_for_status("a red session", red);
    let session = &status["sessions"][0];
    assert_eq!(session["context_zone"], "red", "{session}");
    assert!(session["tokens"]["context"].as_u64().unwrap() >= 130_000, "{session}");
    assert!(project.loom(&["status"]).stdout.contains("% of context"), "{}", project.loom(&["status"]).stdout);
    api.release("handoff");
    project.run_to_the_end();

    assert_eq!(project.ends(), ["handed-off", "submitted"], "{}", project.story());
    assert_eq!(project.stage("api")["attempt"], 1, "a handoff uses no attempt up");
    let requests = api.main_requests();
    let told = requests.iter().map(|seen| seen.everything.matches("% of your context window is used").count()).max();
    assert_eq!(told, Some(1), "it is told once");
    let first = requests.iter().find(|seen| seen.lane == "successor").unwrap();
    assert_ne!(first.session, requests[0].session, "the same conversation");
    assert!(first.everything.contains("> Half of a.txt stands."), "{}", first.everything);
    let handoff = fs_err::read_to_string(project.root().join(".work/handoffs/api-001.md")).unwrap();
    for part in ["Written by the agent of session `api.1`", "- write alpha", "- half.txt", "Add half.txt"] {
        assert!(handoff.contains(part), "no `{part}` in\n{handoff}");
    }
    assert_eq!(project.git(&["show", "main:half.txt"]), "half\n", "a commit was lost");
    let measured = project.facts().into_iter().rfind(|fact| fact["change"]["change"] == "measured").unwrap();
    assert!(measured["change"]["usage"]["output"].as_u64().unwrap() > 0, "{measured}");
}

#[test]
fn a_session_in_a_terminal_hands_off_at_its_budget() {
    hands_off(TERMINAL);
}

#[test]
fn a_headless_session_hands_off_at_its_budget() {
    hands_off(HEADLESS);
}

/// The agent does not listen: Loom writes the handoff.
#[test]
fn a_session_that_never_hands_off_is_succeeded_all_the_same() {
    let mut turns = vec![
        write("half.txt", "half\n"),
        commit("half.txt"),
        write("loose.txt", "not committed\n"),
        Turn::bash("echo red").tokens(150_000),
    ];
    turns.extend((0..8).map(|_| Turn::text("I would rather go on.").tokens(151_000)));
    let api = Api::start(Script::new().lane(successor(finishes())).lane(lane("api", turns)));
    let project = Project::new(&api);
    project.init(&sonnet(TERMINAL), ONE);
    project.run_to_the_end();

    assert_eq!(project.ends(), ["handed-off", "submitted"], "{}", project.story());
    assert_eq!(project.stage("api")["attempt"], 1);
    let handoff = fs_err::read_to_string(project.root().join(".work/handoffs/api-001.md")).unwrap();
    for part in ["Written by Loom", "Add half.txt", "- loose.txt", "> I would rather go on."] {
        assert!(handoff.contains(part), "no `{part}` in\n{handoff}");
    }
    assert!(project.loom(&["undo", "--list"]).stdout.contains("api/"), "uncommitted work was not put aside");
}

/// The client compacts by itself: what can be seen is written down before, the assignment read again after.
#[test]
fn a_compaction_loses_neither_the_work_nor_the_assignment() {
    let mut turns = vec![
        write("half.txt", "half\n"),
        commit("half.txt"),
        Turn::bash("echo one").tokens(90_000),
        Turn::bash("echo two").tokens(91_000),
    ];
    turns.extend(finishes());
    let compact = Lane::new("compact")
        .when(When::LastUser("CRITICAL: Respond with TEXT ONLY".to_owned()))
        .turns([Turn::text("<summary>Some work was done.</summary>")]);
    let api = Api::start(Script::new().lane(compact).lane(lane_anywhere("api", turns)));
    let mut project = Project::new(&api);
    project.set_env("CLAUDE_CODE_AUTO_COMPACT_WINDOW", "100000");
    project.init(&sonnet(TERMINAL), ONE);
    project.run_to_the_end();

    let requests = api.main_requests();
    let compacted = requests.iter().position(|seen| seen.lane == "compact").expect("the client did not compact");
    assert!(
        requests[compacted].last_user.contains("Keep in the summary: the stage `api`"),
        "{}",
        requests[compacted].last_user
    );
    let after = &requests[compacted + 1];
    assert!(after.everything.contains("# Assignment: stage `api`"), "{}", after.everything);
    assert!(after.everything.contains("grep -q alpha a.txt"), "the checks are not told again");
    let handoff = fs_err::read_to_string(project.root().join(".work/handoffs/api-001.md")).unwrap();
    assert!(handoff.contains("compacted its conversation") && handoff.contains("Add half.txt"), "{handoff}");
    assert_eq!(project.ends(), ["submitted"]);
}

/// As `lane`, for conversations whose first message is a summary.
fn lane_anywhere(stage: &str, turns: impl IntoIterator<Item = Turn>) -> Lane {
    Lane::new(stage).when(When::Anywhere(format!("stage `{stage}`"))).turns(turns)
}

const DEPENDENT: &str = r#"
- {id: api, name: "Make a", description: "Write a.txt.", acceptance: ["grep -q alpha a.txt"]}
- {id: web, name: "Use a", description: "Use a.txt.", dependencies: [api], acceptance: ["grep -q beta b.txt"]}
"#;

#[test]
fn dependents_are_told_what_their_dependencies_say() {
    let lists = "loom handoff --status done --interface 'a.txt holds alpha' --warning 'never rename a.txt'";
    let turns = [
        write("a.txt", "alpha\n"),
        commit("a.txt"),
        Turn::bash("loom handoff </dev/null"),
        Turn::bash(lists),
        complete(),
    ];
    let web = [Turn::bash("loom signal"), write("b.txt", "beta\n"), commit("b.txt"), complete(), Turn::text("Done.")];
    let api = Api::start(Script::new().lane(lane("api", turns)).lane(lane("web", web)));
    let project = Project::new(&api);
    project.init(HEADLESS, DEPENDENT);
    project.run_to_the_end();
    let said = crate::plans::tool_results(&api, "api");
    assert!(said.iter().any(|result| result.contains("says nothing")), "an empty handoff was taken: {said:#?}");
    let signal = &crate::plans::tool_results(&api, "web")[0];
    for part in ["### What stage `api` says about itself", "> - a.txt holds alpha", "> - never rename a.txt"] {
        assert!(signal.contains(part), "no `{part}` in\n{signal}");
    }
}
