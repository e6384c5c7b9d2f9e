//! Usage limits, outages and refusals.

use serde_json::Value;

use crate::api::{Api, Script, Turn};
use crate::plans::{HEADLESS, ONE, TERMINAL, diligent, lane};
use crate::project::Project;

const TWO: &str = r#"
- {id: api, name: "Make a", description: "Write a.txt.", acceptance: ["grep -q alpha a.txt"], max_retries: 0}
- {id: web, name: "Make b", description: "Write b.txt.", acceptance: ["grep -q beta b.txt"], max_retries: 0}
"#;

/// The facts about the lane, in order.
fn lane_facts(project: &Project) -> Vec<String> {
    let facts = project.facts();
    let names = facts.iter().filter_map(|fact| fact["fact"].as_str());
    names.filter(|name| name.starts_with("lane-")).map(str::to_owned).collect()
}

/// One limit for both stages, which have no attempt to lose.
fn limit(settings: &str, turn: &Turn) {
    let turn = || turn.clone().held("both are there");
    let with_limit = |file: &str, content: &str| [vec![turn()], diligent(file, content)].concat();
    let script = Script::new()
        .lane(lane("api", with_limit("a.txt", "alpha\n")))
        .lane(lane("web", with_limit("b.txt", "beta\n")));
    let api = Api::start(script);
    let mut project = Project::new(&api);
    project.remove_env("ANTHROPIC_API_KEY");
    project.set_env("CLAUDE_CODE_OAUTH_TOKEN", "sk-ant-oat01-dummy");
    project.init(settings, TWO);
    project.start();
    for stage in ["api", "web"] {
        api.wait_for(stage, |seen| seen.lane == stage);
    }
    api.release("both are there");
    if settings == HEADLESS {
        let stands_still = |notice: &Value| notice.as_str().is_some_and(|text| text.contains("stands still until"));
        let notices = |status: &Value| status["notices"].as_array().cloned().unwrap_or_default();
        let stopped = project.wait_for_status("stopped", |status| notices(status).iter().any(stands_still));
        assert_eq!(notices(&stopped).len(), 1, "{stopped:#}");
    }
    project.run_to_the_end();

    assert_eq!(lane_facts(&project).first().map(String::as_str), Some("lane-parked"));
    assert!(lane_facts(&project).contains(&"lane-freed".to_owned()), "{:?}", lane_facts(&project));
    assert_eq!(project.ends().iter().filter(|end| *end == "rate-limited").count(), 2, "{:?}", project.ends());
    assert_eq!(project.sessions_started(), 4, "{}", project.story());
    for stage in ["api", "web"] {
        assert_eq!(project.stage(stage)["attempt"], 1);
        let of_stage: Vec<_> = api.main_requests().into_iter().filter(|seen| seen.lane == stage).collect();
        assert!(of_stage.iter().all(|seen| seen.session == of_stage[0].session), "another conversation");
    }
}

#[test]
fn a_limit_stops_all_headless_sessions_once_and_uses_no_attempt() {
    let until = loom::base::clock::now().as_second() + 12;
    let turn = Turn::error(429, "rate_limit_error", "limit")
        .header("anthropic-ratelimit-unified-status", "rejected")
        .header("anthropic-ratelimit-unified-reset", &until.to_string())
        .header("anthropic-ratelimit-unified-representative-claim", "five_hour");
    limit(HEADLESS, &turn);
    assert!(loom::base::clock::now().as_second() >= until, "it was tried again too early");
}

/// Nobody says when it is lifted: it is tried again after a pause.
#[test]
fn a_limit_stops_all_sessions_in_terminals_once_and_uses_no_attempt() {
    let turn = Turn::error(429, "rate_limit_error", "limit").header("retry-after", "3600");
    limit(TERMINAL, &turn);
}

/// More errors of the server than the stage has attempts.
fn storm(settings: &str) {
    // The client asks twice before it gives up.
    let busy = || Turn::error(529, "overloaded_error", "Overloaded");
    let turns = [(0..6).map(|_| busy()).collect(), diligent("a.txt", "alpha\n")].concat();
    let api = Api::start(Script::new().lane(lane("api", turns)));
    let project = Project::new(&api);
    project.init(settings, ONE);
    project.run_to_the_end();
    assert_eq!(project.stage("api")["attempt"], 1, "{}", project.story());
    assert!(
        lane_facts(&project).iter().filter(|fact| *fact == "lane-parked").count() >= 2,
        "{:?}",
        lane_facts(&project)
    );
    let requests = api.main_requests();
    assert!(requests.iter().all(|seen| seen.session == requests[0].session), "another conversation");
}

#[test]
fn a_storm_of_errors_uses_no_attempt_headless() {
    storm(HEADLESS);
}

#[test]
fn a_storm_of_errors_uses_no_attempt_in_a_terminal() {
    storm(TERMINAL);
}

/// What would be refused again is not tried again.
fn refused(settings: &str) {
    let none = Turn::error(404, "not_found_error", "model: no-such-model");
    let api = Api::start(Script::new().lane(lane("api", (0..8).map(|_| none.clone()))));
    let project = Project::new(&api);
    project.init(settings, ONE);
    let said = project.run();
    assert_eq!(said.code, 4, "{said:?}");
    let row = project.stage("api");
    assert_eq!(
        (row["state"].as_str(), row["reason"]["code"].as_str()),
        (Some("blocked"), Some("agent-refused")),
        "{row}"
    );
    assert_eq!((project.sessions_started(), project.ends()), (1, vec!["blocked".to_owned()]), "{}", project.story());
    project.expect_nobody();
}

#[test]
fn a_refusal_is_not_tried_again_headless() {
    refused(HEADLESS);
}

#[test]
fn a_refusal_is_not_tried_again_in_a_terminal() {
    refused(TERMINAL);
}
