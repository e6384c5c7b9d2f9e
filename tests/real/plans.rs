//! Whole plans, from `loom init` to the landed commits.

use serde_json::json;

use crate::api::{Api, Lane, Script, Seen, Turn, When};
use crate::deadline::wait_for;
use crate::project::Project;

/// Both ways to run the client.
pub const TERMINAL: &str = "agent: {backend: claude, mode: interactive}";
pub const HEADLESS: &str = "agent: {backend: claude, mode: headless}";

/// A plan of one stage.
pub const ONE: &str =
    r#"- {id: api, name: "Make a", description: "Write a.txt.", acceptance: ["grep -q alpha a.txt"], max_retries: 1}"#;

/// The turns of the agent of one stage.
pub fn lane(stage: &str, turns: impl IntoIterator<Item = Turn>) -> Lane {
    Lane::new(stage).when(When::FirstUser(format!("stage `{stage}`"))).turns(turns)
}

pub fn write(file: &str, content: &str) -> Turn {
    Turn::tool("Write", json!({"file_path": format!("{{{{cwd}}}}/{file}"), "content": content}))
}

pub fn commit(file: &str) -> Turn {
    Turn::bash(&format!("git add {file} && git commit -qm 'Add {file}' && git status --short"))
}

pub fn complete() -> Turn {
    Turn::bash("loom stage complete {{stage}}")
}

/// Does what it is asked at once.
pub fn diligent(file: &str, content: &str) -> Vec<Turn> {
    vec![write(file, content), commit(file), complete(), Turn::text("Done.")]
}

const THREE: &str = r#"
- {id: api, name: "Make a", description: "Write a.txt.", acceptance: ["grep -q alpha a.txt"]}
- {id: web, name: "Make b", description: "Write b.txt.", acceptance: ["grep -q beta b.txt"]}
- {id: join, name: "Join", description: "Join both.", dependencies: [api, web], acceptance: ["grep -q alphabeta c.txt"]}
"#;

fn three_stages(settings: &str, sandboxed: bool) {
    let join = [
        Turn::bash("loom signal"),
        write("c.txt", "alpha\n"),
        Turn::tool("Read", json!({"file_path": "{{cwd}}/c.txt"})),
        Turn::tool("Edit", json!({"file_path": "{{cwd}}/c.txt", "old_string": "alpha", "new_string": "alphabeta"})),
        Turn::bash("cat a.txt b.txt && git add -A && git commit -qm 'Join' && git show --stat --format=%s"),
        complete(),
        Turn::text("Joined."),
    ];
    let script = Script::new()
        .lane(lane("api", diligent("a.txt", "alpha\n")))
        .lane(lane("web", diligent("b.txt", "beta\n")))
        .lane(lane("join", join));
    let api = Api::start(script);
    let mut project = Project::new(&api);
    project.sandboxed = sandboxed;
    let before = project.user_files();
    project.init(settings, THREE);
    assert_eq!(project.user_files(), before, "`loom init` wrote into the user's home");
    project.run_to_the_end();

    assert_eq!(project.git(&["show", "main:c.txt"]), "alphabeta\n");
    let files = project.git(&["ls-tree", "-r", "--name-only", "main"]);
    assert_eq!(files, "README.md\na.txt\nb.txt\nc.txt\n", "more was committed than the agents wrote");
    for stage in ["api", "web", "join"] {
        let row = project.stage(stage);
        assert_eq!((row["state"].as_str(), row["attempt"].as_u64()), (Some("merged"), Some(1)), "{row}");
    }
    assert_eq!(project.ends(), ["submitted", "submitted", "submitted"]);
    let results = tool_results(&api, "join");
    assert!(results.iter().any(|result| result.contains("# Assignment: stage `join`")), "{results:#?}");
    // A sandboxed shell cannot listen to the daemon: the verdict comes through the stop hook.
    let told = if sandboxed { "end your turn" } else { "is proven and landed" };
    assert!(results.iter().any(|result| result.contains(told)), "{results:#?}");
    // The client keeps its own files there; Loom keeps none.
    let after: Vec<String> = project.user_files().into_keys().collect();
    let of_client = [".claude/", ".claude.json", ".local/share/applications/claude-code"];
    assert!(after.iter().all(|name| of_client.iter().any(|prefix| name.starts_with(prefix))), "{after:?}");
    assert!(!after.iter().any(|name| name.contains("settings")), "{after:?}");
    let config = fs_err::read_to_string(project.path("home/.claude.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap();
    let trusts = |project: &serde_json::Value| project["hasTrustDialogAccepted"] == true;
    assert!(!config["projects"].as_object().into_iter().flatten().any(|(_, project)| trusts(project)), "{config:#}");
    assert!(config.get("customApiKeyResponses").is_none(), "{config:#}");
}

/// What the tools of a stage's agent answered, in order.
pub fn tool_results(api: &Api, stage: &str) -> Vec<String> {
    let of_stage = |seen: &Seen| seen.lane == stage && !seen.last_tool_result.is_empty();
    api.main_requests().into_iter().filter(of_stage).map(|seen| seen.last_tool_result).collect()
}

#[test]
fn agents_in_terminals_carry_out_three_stages() {
    three_stages("", false);
}

#[test]
fn headless_agents_in_a_sandbox_carry_out_three_stages() {
    // One at a time: the client's sandbox trips over that of another session that ends just then.
    three_stages(&format!("{HEADLESS}\nmax_parallel: 1"), true);
}

#[test]
fn a_program_that_is_replaced_under_its_daemon_serves_the_next_agents() {
    let script =
        Script::new().lane(lane("api", diligent("a.txt", "alpha\n"))).lane(lane("web", diligent("b.txt", "beta\n")));
    let api = Api::start(script);
    let mut project = Project::new(&api);
    project.install();
    // Keeps the daemon at work.
    assert!(project.command("mkfifo").arg(project.path("go")).status().unwrap().success());
    let stages = r#"
- {id: long, name: "Wait", run: "read word < ../../../go; echo $word > w.txt; git add .; git commit -qm W", acceptance: ["test -s w.txt"]}
- {id: api, name: "Make a", description: "Write a.txt.", acceptance: ["grep -q alpha a.txt"]}
- {id: web, name: "Make b", description: "Write b.txt.", hold: true, acceptance: ["grep -q beta b.txt"]}
- {id: doc, name: "Make c", description: "Write c.txt.", hold: true, acceptance: ["grep -q gamma c.txt"]}
"#;
    project.init(HEADLESS, stages);
    project.start();
    project.wait_for_stage("api", "merged", |stage| stage["state"] == "merged");
    let daemon = project.daemon();
    project.install();
    let said = project.loom(&["stage", "release", "web"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(project.daemon(), daemon, "it was the same daemon all the while");
    project.wait_for_stage("web", "merged", |stage| stage["state"] == "merged");
    // Gone altogether, it is missed before an agent is started that could do nothing.
    project.uninstall();
    let said = project.loom(&["stage", "release", "doc"]);
    assert_eq!(said.code, 0, "{said:?}");
    let doc = project.wait_for_stage("doc", "blocked", |stage| stage["state"] == "blocked");
    assert!(
        doc.to_string().contains("agent-missing") && doc.to_string().contains("install Loom there again"),
        "{doc:#}"
    );
    fs_err::write(project.path("go"), "go\n").unwrap();
    project.expect_nobody();
    for stage in ["long", "api", "web"] {
        let row = project.stage(stage);
        assert_eq!((row["state"].as_str(), row["attempt"].as_u64()), (Some("merged"), Some(1)), "{}", project.story());
    }
}

/// An agent that never does the work: it is asked again a few times, in as many attempts as
/// the stage has, and then a person.
fn never_lands(settings: &str, turns: Vec<Turn>) {
    let api = Api::start(Script::new().lane(lane("api", turns)));
    let project = Project::new(&api);
    project.init(settings, ONE);
    let said = project.run();

    assert_eq!(said.code, 4, "{said:?}\n{}", project.story());
    let row = project.stage("api");
    assert_eq!((row["state"].as_str(), row["attempt"].as_u64()), (Some("blocked"), Some(2)), "{row}");
    assert_eq!(row["reason"]["code"], "attempts-used-up", "{row}");
    assert_eq!(project.git(&["ls-tree", "-r", "--name-only", "main"]), "README.md\n");
    assert_eq!(project.git(&["rev-parse", "main"]), project.git(&["rev-parse", "loom/_plan/plan"]));
    // Two attempts, each with one turn and three reminders, and a few calls on the way.
    let requests = api.main_requests();
    assert!((8..=12).contains(&requests.len()), "{} requests", requests.len());
    assert!(requests.iter().any(|seen| seen.last_user.contains("is not submitted yet")));
    project.expect_nobody();
}

#[test]
fn an_agent_that_only_says_it_is_done_does_not_land() {
    never_lands(TERMINAL, vec![complete(), Turn::text("I have completed everything.")]);
}

#[test]
fn a_headless_agent_that_stops_at_once_does_not_land() {
    never_lands(HEADLESS, vec![Turn::text("Done!")]);
}

#[test]
fn uncommitted_work_is_refused_by_name_and_lands_when_it_is_committed() {
    let turns = [write("a.txt", "alpha\n"), complete(), commit("a.txt"), complete(), Turn::text("Done.")];
    let api = Api::start(Script::new().lane(lane("api", turns)));
    let project = Project::new(&api);
    project.init("", ONE);
    project.run_to_the_end();

    let results = tool_results(&api, "api");
    assert!(results[1].contains("uncommitted work in `a.txt`"), "{results:#?}");
    assert_eq!(project.stage("api")["attempt"], 1);
}

/// A first commit that fails its check, then one that passes, all in one conversation.
fn mends(settings: &str, turns: Vec<Turn>) -> (Api, Project) {
    let api = Api::start(Script::new().lane(lane("api", turns)));
    let project = Project::new(&api);
    project.init(settings, ONE);
    project.run_to_the_end();
    assert_eq!((project.stage("api")["attempt"].as_u64(), project.sessions_started()), (Some(1), 1));
    let conversations: std::collections::BTreeSet<String> =
        api.main_requests().into_iter().map(|seen| seen.session).collect();
    assert_eq!(conversations.len(), 1);
    assert_eq!(project.git(&["show", "main:a.txt"]), "alpha\n");
    (api, project)
}

fn red_then_green() -> Vec<Turn> {
    vec![
        write("a.txt", "wrong\n"),
        commit("a.txt"),
        complete(),
        Turn::bash("echo alpha > a.txt && git commit -qam 'Mend a.txt'"),
        complete(),
        Turn::text("Done."),
    ]
}

#[test]
fn a_red_verdict_is_the_answer_of_stage_complete() {
    let (api, _project) = mends("", red_then_green());
    let results = tool_results(&api, "api");
    assert!(results[2].contains("is not accepted") && results[2].contains("grep -q alpha a.txt"), "{results:#?}");
    assert!(results[4].contains("is proven and landed"), "{results:#?}");
}

#[test]
fn a_headless_agent_mends_what_a_red_verdict_shows() {
    let (api, _project) = mends(HEADLESS, red_then_green());
    assert!(tool_results(&api, "api")[2].contains("grep -q alpha a.txt"));
}

/// A pipe at which a process can be made to wait.
pub fn new_gate() -> tempfile::TempPath {
    let dir = std::env::temp_dir().canonicalize().unwrap();
    let make = |path: &std::path::Path| {
        let made = loom::base::process::command("mkfifo").arg(path).status()?;
        if made.success() { Ok(()) } else { Err(std::io::Error::other("mkfifo failed")) }
    };
    tempfile::Builder::new().prefix("lr-gate-").make_in(dir, make).unwrap().into_temp_path()
}

/// The agent ends its turn while Loom is still verifying; the stop hook brings the verdict.
fn hears_by_stop_hook(settings: &str, first: Option<Turn>) {
    let mut turns = Vec::from_iter(first);
    turns.extend([
        write("a.txt", "wrong\n"),
        commit("a.txt"),
        // Submitted for certain, on a slow machine too, and not waited for.
        Turn::bash(
            "(loom stage complete {{stage}} >/dev/null 2>&1 &); until loom status | grep -q verifying; do :; done",
        ),
        Turn::text("It is still verifying."),
        Turn::bash("echo alpha > a.txt && git commit -qam 'Mend a.txt'"),
        complete(),
        Turn::text("Done."),
    ]);
    let api = Api::start(Script::new().lane(lane("api", turns)));
    let mut project = Project::new(&api);
    let gate = new_gate();
    // Not where the work is not yet: the look at the base is not to wait.
    let wait = format!("test ! -e a.txt || read go < {}; grep", gate.display());
    project.keep_gate(gate);
    project.init(settings, &ONE.replace("grep", &wait));
    project.start();
    let waits = |line: &str| line.contains("hook stop");
    wait_for("the stop hook that waits", || project.processes().iter().any(|(_, line)| waits(line)).then_some(()));
    project.open_gate();
    let told = api.wait_for("after the verdict", |seen| seen.last_user.contains("Stop hook feedback"));
    assert!(told.last_user.contains("grep -q alpha a.txt"), "{}", told.last_user);
    assert!(told.last_user.contains("is not accepted yet"), "{}", told.last_user);
    project.open_gate();
    project.run_to_the_end();
    assert_eq!((project.stage("api")["attempt"].as_u64(), project.sessions_started()), (Some(1), 1));
}

#[test]
fn a_red_verdict_comes_back_through_the_stop_hook() {
    hears_by_stop_hook("", None);
}

#[test]
fn a_red_verdict_comes_back_through_the_stop_hook_of_a_headless_agent() {
    hears_by_stop_hook(HEADLESS, None);
}

#[test]
fn a_server_in_the_background_neither_hides_the_verdict_nor_stays() {
    let server = json!({"command": "tail -f /dev/null", "description": "server", "run_in_background": true});
    hears_by_stop_hook("", Some(Turn::tool("Bash", server)));
}

#[test]
fn an_agent_is_sent_back_as_often_as_its_attempt_allows() {
    // The client gives a stop hook up after eight answers in a row; these are more, with work between them.
    let wrong = |n: u32| {
        Turn::bash(&format!("echo {n} > a.txt && git add -A && git commit -qm {n}; loom stage complete {{{{stage}}}}"))
    };
    let mut turns = Vec::new();
    for n in 1..=3 {
        turns.extend((1..=3).map(|_| Turn::text("I think that is all.")));
        turns.push(wrong(n));
    }
    turns.extend([Turn::text("Really."), Turn::text("Really?"), Turn::text("Hm.")]);
    turns.extend([Turn::bash("echo alpha > a.txt && git commit -qam 'Mend a.txt'"), complete(), Turn::text("Done.")]);
    let (api, _project) = mends("", turns);
    let sent_back = api.main_requests().iter().filter(|seen| seen.last_user.contains("Stop hook feedback")).count();
    assert!(sent_back > 8, "{sent_back}");
}

#[test]
fn an_agent_that_stops_early_is_sent_back() {
    let turns = [
        write("a.txt", "alpha\n"),
        commit("a.txt"),
        Turn::text("I think that is all."),
        complete(),
        Turn::text("Done."),
    ];
    let (api, _project) = mends("", turns.into());
    let sent_back = api.wait_for("that was sent back", |seen| seen.last_user.contains("Stop hook feedback"));
    assert!(sent_back.last_user.contains("run `loom stage complete api`"), "{}", sent_back.last_user);
}

#[test]
fn an_agent_blocks_its_stage_with_a_reason() {
    let ask = Turn::bash("loom stage block {{stage}} --reason 'the password of the database is missing'");
    let api = Api::start(Script::new().lane(lane("api", [ask, Turn::text("A person is needed.")])));
    let project = Project::new(&api);
    project.init("", ONE);
    let said = project.run();

    assert_eq!(said.code, 4, "{said:?}\n{}", project.story());
    let row = project.stage("api");
    assert_eq!((row["state"].as_str(), row["reason"]["code"].as_str()), (Some("blocked"), Some("by-agent")), "{row}");
    assert!(row["reason"]["text"].as_str().unwrap().contains("the password of the database is missing"), "{row}");
    assert_eq!(project.sessions_started(), 1);
    project.expect_nobody();
}

#[test]
fn verbs_of_the_operator_are_not_the_agents() {
    let mut turns = vec![
        Turn::bash("loom stage skip {{stage}} --reason 'too hard'"),
        Turn::bash("loom stage approve {{stage}}"),
        Turn::bash("loom run"),
        // What the guard does not read, the daemon refuses.
        write(
            "x.sh",
            "loom stage skip api --reason hidden; echo \"skip $?\"; env -u LOOM_SESSION -u LOOM_TOKEN_FILE loom stage approve api; echo \"approve $?\"\n",
        ),
        Turn::bash("sh x.sh; rm x.sh"),
    ];
    turns.extend(diligent("a.txt", "alpha\n"));
    let api = Api::start(Script::new().lane(lane("api", turns)));
    let project = Project::new(&api);
    project.init("", ONE);
    project.run_to_the_end();

    let results = tool_results(&api, "api");
    for denied in &results[..3] {
        assert!(denied.contains("is for the person who runs the plan"), "{results:#?}");
    }
    assert!(results[4].contains("skip 1") && results[4].contains("approve 1"), "{results:#?}");
    let facts = project.facts();
    assert!(!facts.iter().any(|fact| fact["change"]["change"] == "skipped" || fact["fact"] == "gate-answered"));
}

#[test]
fn a_verdict_that_stays_red_ends_the_conversation_after_some_returns() {
    let wrong = |n: u32| {
        Turn::bash(&format!("echo {n} > a.txt && git add -A && git commit -qm {n}; loom stage complete {{{{stage}}}}"))
    };
    let mut turns: Vec<Turn> = (1..=4).map(wrong).collect();
    turns.push(Turn::text("I give up."));
    let api = Api::start(Script::new().lane(lane("api", turns)));
    let project = Project::new(&api);
    project.init("", &ONE.replace("max_retries: 1", "max_retries: 0"));
    let said = project.run();

    assert_eq!(said.code, 4, "{said:?}\n{}", project.story());
    let row = project.stage("api");
    assert_eq!(row["reason"]["code"], "checks-failed", "{row}");
    assert_eq!(project.sessions_started(), 1);
    project.expect_nobody();
}
