//! Budgets and limit policies: what a session has used is counted while it works, it leaves what
//! it has within one turn of the cap, and goes on in the same conversation when a person says so.

use crate::api::{Api, Lane, Script, Turn, When};
use crate::plans::{HEADLESS, ONE, TERMINAL, commit, complete, diligent, lane, write};
use crate::project::Project;

const USED_UP: &str = "the budget of this stage is used up";

fn stops_at_its_cap(settings: &str) {
    let mut turns = vec![write("half.txt", "half\n"), commit("half.txt")];
    // The client writes its transcript a moment after it acts.
    turns.extend((0..60).map(|_| Turn::bash("echo working").tokens(30_000)));
    let told = Lane::new("told").when(When::Anywhere(USED_UP.to_owned())).turns([
        Turn::bash("loom handoff --status 'half of it stands' --next 'write alpha'"),
        Turn::text("I left what I had."),
        write("a.txt", "alpha\n"),
        commit("a.txt"),
        complete(),
        Turn::text("Done."),
    ]);
    let api = Api::start(Script::new().lane(told).lane(lane("api", turns)));
    let project = Project::new(&api);
    let budget = "max_retries: 1, budget: {tokens: 100000}";
    project.init(settings, &ONE.replace("max_retries: 1", budget));
    let said = project.run();
    assert_eq!(said.code, 5, "{said:?}\n{}", project.story());

    let row = project.stage("api");
    assert_eq!(row["state"], "gated", "{row}");
    let used = row["used"]["tokens"].as_u64().unwrap();
    assert!((100_000..400_000).contains(&used), "it did not stop within a few turns: {row}");
    assert_eq!((row["used"]["sessions"].as_u64(), row["budget"]["tokens"].as_u64()), (Some(1), Some(100_000)), "{row}");
    let gate = &project.status()["gates"][0];
    let question = gate["question"].as_str().unwrap();
    assert!(question.contains("of 100 k tokens") && gate["next"] == "loom stage approve api", "{gate}");
    assert!(project.loom(&["status"]).stdout.contains(" of 100 k tokens]"), "{}", project.loom(&["status"]).stdout);
    assert_eq!(project.git(&["show", "loom/api:half.txt"]), "half\n", "a commit was lost");
    project.expect_nobody();

    assert_eq!(project.loom(&["stage", "approve", "api"]).code, 0);
    project.run_to_the_end();
    assert_eq!(project.ends(), ["handed-off", "submitted"], "{}", project.story());
    assert_eq!(project.stage("api")["attempt"], 1, "an attempt was used up");
    let requests = api.main_requests();
    assert!(requests.iter().all(|seen| seen.session == requests[0].session), "another conversation");
    let most = requests.iter().map(|seen| seen.everything.matches(USED_UP).count()).max();
    assert_eq!(most, Some(1), "it is told once");
}

#[test]
fn a_session_in_a_terminal_stops_at_its_budget_and_goes_on_after_a_word() {
    stops_at_its_cap(TERMINAL);
}

#[test]
fn a_headless_session_stops_at_its_budget_and_goes_on_after_a_word() {
    stops_at_its_cap(HEADLESS);
}

/// The client says what it has cost; a plan that has cost too much starts nothing more.
#[test]
fn the_plans_money_is_counted_and_a_no_pauses_the_plan() {
    let two = r#"
- {id: api, name: "Make a", description: "Write a.txt.", acceptance: ["grep -q alpha a.txt"]}
- {id: web, name: "Make b", description: "Write b.txt.", dependencies: [api], acceptance: ["grep -q beta b.txt"]}
"#;
    let script =
        Script::new().lane(lane("api", diligent("a.txt", "alpha\n"))).lane(lane("web", diligent("b.txt", "beta\n")));
    let api = Api::start(script);
    let project = Project::new(&api);
    project.init(&format!("{HEADLESS}\nbudget: {{cost_usd: 0.001}}"), two);
    assert_eq!(project.run().code, 5, "{}", project.story());
    let status = project.status();
    assert!(status["plan"]["used"]["cost_usd"].as_f64().unwrap() > 0.001, "{:#}", status["plan"]);
    assert_eq!(project.stage("api")["state"], "merged", "what was done did not land");
    let gate = status["gates"][0]["id"].as_str().unwrap();
    assert_eq!(project.loom(&["stage", "reject", gate, "--reason", "too dear"]).code, 0);
    let status = project.status();
    assert_eq!(status["next"][0], "loom run", "{status:#}");
    assert!(status["plan"]["paused"].as_str().unwrap().contains("at its budget"), "{status:#}");

    assert_eq!(project.run().code, 5, "the next run asks again");
    let gate = project.status()["gates"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(project.loom(&["stage", "approve", &gate]).code, 0);
    project.run_to_the_end();
}

/// An account that is at its usage limit for this many seconds, and then lets the agent work. Says
/// until when, in seconds since the epoch.
fn limited_for(seconds: i64) -> (Api, Project, i64) {
    let until = loom::base::clock::now().as_second() + seconds;
    let limit = Turn::error(429, "rate_limit_error", "limit")
        .header("anthropic-ratelimit-unified-status", "rejected")
        .header("anthropic-ratelimit-unified-reset", &until.to_string())
        .header("anthropic-ratelimit-unified-representative-claim", "five_hour");
    let turns = [vec![limit], diligent("a.txt", "alpha\n")].concat();
    let api = Api::start(Script::new().lane(lane("api", turns)));
    let mut project = Project::new(&api);
    project.remove_env("ANTHROPIC_API_KEY");
    project.set_env("CLAUDE_CODE_OAUTH_TOKEN", "sk-ant-oat01-dummy");
    (api, project, until)
}

/// A usage limit, and a person who wants to be asked.
#[test]
fn at_a_limit_a_person_is_asked_once_when_the_plan_says_so() {
    let (_api, project, until) = limited_for(8);
    project.init(&format!("{HEADLESS}\non_limit: ask"), ONE);
    assert_eq!(project.run().code, 5, "{}", project.story());
    let status = project.status();
    let gate = &status["gates"][0];
    assert!(gate["question"].as_str().unwrap().contains("does the plan go on when it is lifted"), "{gate}");
    assert!(project.stage("api")["detail"].as_str().unwrap().contains("waits for your answer"), "{status:#}");
    project.expect_nobody();
    assert_eq!(project.loom(&["stage", "approve", gate["id"].as_str().unwrap()]).code, 0);
    project.run_to_the_end();
    assert!(loom::base::clock::now().as_second() >= until, "it was tried again too early");
    assert_eq!(
        (project.ends(), project.stage("api")["attempt"].as_u64()),
        (vec!["rate-limited".to_owned(), "submitted".to_owned()], Some(1))
    );
}

/// The same, stopped by the command line until the next `loom run`.
#[test]
fn at_a_limit_the_plan_stops_when_the_command_line_says_so() {
    let (_api, project, _) = limited_for(4);
    project.init(HEADLESS, ONE);
    let said = project.loom(&["run", "--watch", "--on-limit", "stop"]);
    assert_eq!(said.code, 5, "{said:?}\n{}", project.story());
    let status = project.status();
    assert!(status["plan"]["paused"].as_str().unwrap().contains("`on_limit` is `stop`"), "{status:#}");
    assert_eq!((status["next"][0].as_str(), status["phase"].as_str()), (Some("loom run"), Some("waiting-for-person")));
    project.expect_nobody();
    project.run_to_the_end();
}
