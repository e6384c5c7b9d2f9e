//! The client in a terminal, as Loom starts it by default.

use loom::agent;
use loom::agent::claude::hooks;
use loom::agent::claude::stream::{self, EndCause};
use loom::agent::claude::{self, Conversation};
use loom::model::ids::StageId;
use loom::model::plan::{Agent, AgentMode};
use serde_json::json;

use crate::api::{Api, Lane, Script, Turn, When};
use crate::client::{KEY, Rig, conversation};
use crate::deadline::wait_for;

#[test]
fn an_onboarded_user_sees_no_dialog_and_the_prompt_is_sent() {
    let api =
        Api::start(Script::of([Turn::bash("git commit --allow-empty -qm 'by the agent'"), Turn::text("All done.")]));
    let rig = Rig::new(&api);
    fs_err::write(rig.path("home/.claude.json"), r#"{"hasCompletedOnboarding":true}"#).unwrap();
    // A server of the repository would make the client ask.
    let server = json!({"mcpServers": {"evil": {"command": "touch", "args": [rig.path("started")]}}});
    fs_err::write(rig.worktree().join(".mcp.json"), server.to_string()).unwrap();
    rig.answer("pre-tool-use", &hooks::allow_tool("fine"));
    let agent = Agent::Claude { mode: AgentMode::Interactive, model: None, effort: None };
    assert_eq!(agent::preflight(&agent, &rig.environment(), &rig.project()), Ok(()));
    let id = conversation();
    let launch = rig.launch(AgentMode::Interactive, &id);
    let terminal = rig.open(&launch);

    let first = api.wait_for("of the main loop", |seen| seen.is_main);
    assert_eq!((first.session.as_str(), first.api_key.as_str()), (id.as_str(), KEY), "{}", terminal.contents());
    wait_for("the end of the turn", || rig.hook_names().contains(&"stop".to_owned()).then_some(()));
    assert_eq!(rig.commits(), ["by the agent", "first"]);
    assert!(!rig.hook_names().contains(&"permission-request".to_owned()));
    wait_for("the answer on the screen", || terminal.contents().contains("All done.").then_some(()));
    assert!(matches!(Conversation::of(&rig.environment(), &id), Conversation::Resumable(_)));
    assert!(!rig.path("started").exists(), "the repository's server was started");
}

#[test]
fn a_dead_hook_makes_the_client_ask() {
    let api = Api::start(Script::of([Turn::bash("git commit --allow-empty -qm x; echo $?"), Turn::text("ok")]));
    let rig = Rig::new(&api);
    fs_err::write(rig.path("home/.claude.json"), r#"{"hasCompletedOnboarding":true}"#).unwrap();
    rig.break_hooks();
    let launch = rig.launch(AgentMode::Interactive, &conversation());
    let _terminal = rig.open(&launch);

    wait_for("the question", || rig.hook_names().contains(&"permission-request".to_owned()).then_some(()));
    assert_eq!(rig.commits(), ["first"]);
}

#[test]
fn a_failed_turn_and_a_resumed_conversation_are_reported_by_hooks() {
    let limit = Turn::error(429, "rate_limit_error", "limit").header("retry-after", "3600");
    let api = Api::start(Script::of([limit, Turn::text("Back again.")]));
    let rig = Rig::new(&api);
    fs_err::write(rig.path("home/.claude.json"), r#"{"hasCompletedOnboarding":true}"#).unwrap();
    let id = conversation();
    let first = rig.open(&rig.launch(AgentMode::Interactive, &id));
    let failure = wait_for("the failed turn", || {
        rig.hook_calls().into_iter().find(|call| call.event == "stop-failure").map(|call| call.input)
    });
    let failure = hooks::HookInput::parse(&failure.to_string());
    let cause = stream::cause_of_failed_turn(&failure.error, &failure.last_assistant_message);
    assert_eq!(cause, EndCause::RateLimited { resets_at: None }, "{failure:?}");
    // The client writes its transcript a moment later; killed before, it has nothing to resume.
    let is_kept = || matches!(Conversation::of(&rig.environment(), &id), Conversation::Resumable(_));
    wait_for("the transcript", || is_kept().then_some(()));
    drop(first);

    let second = rig.open(&rig.launch(AgentMode::Interactive, &id));
    wait_for("the end of the resumed turn", || rig.hook_names().contains(&"stop".to_owned()).then_some(()));
    let sources: Vec<_> = rig.hook_calls().into_iter().filter(|call| call.event == "session-start").collect();
    assert_eq!(sources.last().unwrap().input["source"], "resume", "{}", second.contents());
    assert_eq!(sources.last().unwrap().input["session_id"], id);
}

#[test]
fn several_sessions_follow_their_own_lanes() {
    let lane =
        |name: &str, turns: Vec<Turn>| Lane::new(name).when(When::FirstUser(format!("stage `{name}`"))).turns(turns);
    let work = vec![Turn::bash("echo \"slot $LOOM_SLOT of {{stage}}\""), Turn::text("{{last_tool_result}}")];
    let api = Api::start(Script::new().lane(lane("api", work)).lane(lane("web", vec![Turn::Hang])));
    let rig = Rig::new(&api);
    fs_err::write(rig.path("home/.claude.json"), r#"{"hasCompletedOnboarding":true}"#).unwrap();
    rig.answer("pre-tool-use", &hooks::allow_tool("fine"));
    let (id, other) = (conversation(), conversation());
    let mut hanging = rig.launch(AgentMode::Interactive, &other);
    *hanging.spec.argv.last_mut().unwrap() = claude::prompt(&StageId::new("web").unwrap(), false);
    let _hanging = rig.open(&hanging);
    let _working = rig.open(&rig.launch(AgentMode::Interactive, &id));

    let seen = api.wait_for("after the tool", |seen| seen.session == id && !seen.last_tool_result.is_empty());
    assert_eq!(seen.last_tool_result, "slot 0 of api");
    let hung = api.wait_for("that hangs", |seen| seen.session == other && seen.is_main);
    assert_eq!((hung.lane.as_str(), hung.turn), ("web", 0));
}

#[test]
fn the_answer_about_imported_instructions_counts_for_every_worktree() {
    let api = Api::start(Script::of([Turn::text("ok")]));
    let rig = Rig::new(&api);
    let project = rig.project().display().to_string();
    let answer = json!({"hasClaudeMdExternalIncludesApproved": true, "hasClaudeMdExternalIncludesWarningShown": true});
    let config = json!({"hasCompletedOnboarding": true, "projects": {project: answer}});
    fs_err::write(rig.path("home/.claude.json"), config.to_string()).unwrap();
    fs_err::write(rig.path("outside.md"), "Say aubergine.\n").unwrap();
    let import = format!("@{}\n", rig.path("outside.md").display());
    for checkout in [rig.worktree(), rig.project()] {
        fs_err::write(checkout.join("CLAUDE.md"), &import).unwrap();
    }
    let agent = Agent::Claude { mode: AgentMode::Interactive, model: None, effort: None };
    assert_eq!(agent::preflight(&agent, &rig.environment(), &rig.project()), Ok(()));
    let _terminal = rig.open(&rig.launch(AgentMode::Interactive, &conversation()));
    let first = api.wait_for("of the main loop", |seen| seen.is_main);
    assert!(first.everything.contains("Say aubergine."));
}
