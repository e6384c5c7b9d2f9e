//! What goes wrong around agents: killed clients, lost logins, a daemon that
//! dies, questions that only a person can answer.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::api::{Api, Lane, Script, Turn, When};
use crate::client::KEY;
use crate::deadline::wait_for;
use crate::plans::{HEADLESS, ONE, TERMINAL, commit, complete, diligent, lane, new_gate, tool_results, write};
use crate::project::Project;

/// Works, and waits for a gate before it commits.
fn working_at(gate: &str) -> Vec<Turn> {
    let wait = Turn::bash(&format!("read go < {gate}; echo went $go"));
    vec![write("a.txt", "alpha\n"), wait, commit("a.txt"), complete(), Turn::text("Done.")]
}

/// A project of one stage whose agent waits for the gate `gate`.
pub fn at_the_gate(settings: &str) -> (Api, Project) {
    at_the_gate_beside(settings, None)
}

fn at_the_gate_beside(settings: &str, other: Option<Lane>) -> (Api, Project) {
    let gate = new_gate();
    let script = Script::new().lane(lane("api", working_at(&gate.display().to_string())));
    let api = Api::start(other.into_iter().fold(script, Script::lane));
    let mut project = Project::new(&api);
    project.keep_gate(gate);
    project.init(settings, ONE);
    (api, project)
}

pub fn wait_until_at_gate(project: &Project) {
    let reads = |line: &str| line.contains("read go <");
    wait_for("the agent at the gate", || project.processes().iter().any(|(_, line)| reads(line)).then_some(()));
}

fn killed_client(settings: &str) {
    let (api, project) = at_the_gate(settings);
    project.start();
    wait_until_at_gate(&project);
    project.kill(project.client_of("api").unwrap(), Signal::KILL);
    project.run_to_the_end();

    assert_eq!(project.ends(), ["crashed", "submitted"]);
    assert_eq!(project.stage("api")["attempt"], 2);
    let requests = api.main_requests();
    assert!(requests.iter().all(|seen| seen.session == requests[0].session), "another conversation");
    assert!(requests.iter().any(|seen| seen.last_user.contains("You go on with stage `api`")));
    assert_eq!(project.git(&["show", "main:a.txt"]), "alpha\n");
}

#[test]
fn a_killed_client_goes_on_in_the_same_conversation() {
    killed_client(TERMINAL);
}

#[test]
fn a_killed_headless_client_goes_on_in_the_same_conversation() {
    killed_client(HEADLESS);
}

const TWO: &str = r#"
- {id: api, name: "Make a", description: "Write a.txt.", acceptance: ["grep -q alpha a.txt"]}
- {id: web, name: "Make b", description: "Write b.txt.", acceptance: ["grep -q beta b.txt"]}
"#;

/// The client cannot start: `run` says so once, and starts nothing.
fn refused(prepare: impl Fn(&mut Project), expected: &str) {
    let api = Api::start(Script::of([Turn::text("never asked")]));
    let mut project = Project::new(&api);
    prepare(&mut project);
    project.init("", TWO);
    let said = project.run();
    assert_eq!(said.code, 1, "{said:?}");
    assert_eq!(said.stderr.matches(expected).count(), 1, "{said:?}");
    assert_eq!((project.sessions_started(), api.seen().len()), (0, 0));
    assert!(project.daemon().is_none());
}

#[test]
fn a_run_without_a_login_says_so_once() {
    refused(|project| project.remove_env("ANTHROPIC_API_KEY"), "/login");
}

#[test]
fn a_run_before_the_client_was_set_up_says_so_once() {
    refused(|project| fs_err::remove_file(project.path("home/.claude.json")).unwrap(), "run `claude` once");
}

#[test]
fn a_run_without_the_client_says_so_once() {
    refused(|project| project.set_env("PATH", "/usr/bin:/bin"), "`claude` is not in PATH");
}

/// The login is lost while the plan runs: one reason, nobody else is started.
fn login_lost(settings: &str, turn: Option<Turn>) {
    // The client asks twice before it gives up.
    let mut turns: Vec<Turn> = turn.iter().cycle().take(if turn.is_some() { 2 } else { 0 }).cloned().collect();
    turns.extend(diligent("a.txt", "alpha\n"));
    let api = Api::start(Script::new().lane(lane("api", turns)).lane(lane("web", diligent("b.txt", "beta\n"))));
    let mut project = Project::new(&api);
    if turn.is_none() {
        // Looks like a login and is none.
        project.remove_env("ANTHROPIC_API_KEY");
        fs_err::create_dir_all(project.path("home/.claude")).unwrap();
        fs_err::write(project.path("home/.claude/.credentials.json"), r#"{"claudeAiOauth":{}}"#).unwrap();
    }
    project.init(&format!("{settings}\nmax_parallel: 1"), TWO);
    let said = project.run();

    assert_eq!(said.code, 4, "{said:?}\n{}", project.story());
    let row = project.stage("api");
    assert_eq!(
        (row["state"].as_str(), row["reason"]["code"].as_str()),
        (Some("blocked"), Some("not-logged-in")),
        "{row}"
    );
    let text = row["reason"]["text"].as_str().unwrap();
    assert!(text.contains("`claude`") && text.contains("/login"), "{text}");
    assert_eq!(project.stage("web")["state"], "ready");
    assert_eq!(project.sessions_started(), 1, "{}", project.story());
    assert_eq!(api.main_requests().len(), if turn.is_some() { 2 } else { 0 });
    project.expect_nobody();

    // The person has logged in, and types what the status says.
    project.set_env("ANTHROPIC_API_KEY", KEY);
    project.run_to_the_end();
}

fn unauthorized() -> Option<Turn> {
    Some(Turn::error(401, "authentication_error", "invalid x-api-key"))
}

#[test]
fn a_login_lost_in_a_terminal_blocks_once() {
    login_lost(TERMINAL, unauthorized());
}

#[test]
fn a_login_lost_headless_blocks_once() {
    login_lost(HEADLESS, unauthorized());
}

#[test]
fn a_headless_client_that_is_not_logged_in_blocks_once() {
    login_lost(HEADLESS, None);
}

/// A usage limit or another failure of the server is retried later, and said.
fn failed_turn(settings: &str) {
    let boom = Turn::error(400, "invalid_request_error", "the server is on fire");
    let mut turns = vec![boom];
    turns.extend(diligent("a.txt", "alpha\n"));
    let api = Api::start(Script::new().lane(lane("api", turns)));
    let project = Project::new(&api);
    project.init(settings, ONE);
    project.run_to_the_end();
    let failed = project.facts().into_iter().find(|fact| fact["change"]["change"] == "failed").unwrap();
    assert!(failed["change"]["failure"]["text"].as_str().unwrap().contains("the server is on fire"), "{failed:#}");
    assert_eq!(project.stage("api")["attempt"], 2);
}

#[test]
fn a_turn_that_failed_in_a_terminal_is_tried_again() {
    failed_turn(TERMINAL);
}

#[test]
fn a_turn_that_failed_headless_is_tried_again() {
    failed_turn(HEADLESS);
}

#[test]
fn a_usage_limit_is_waited_for() {
    let until = loom::base::clock::now().as_second() + 6;
    let limit = Turn::error(429, "rate_limit_error", "limit")
        .header("anthropic-ratelimit-unified-status", "rejected")
        .header("anthropic-ratelimit-unified-reset", &until.to_string())
        .header("anthropic-ratelimit-unified-representative-claim", "five_hour");
    let mut turns = vec![limit];
    turns.extend(diligent("a.txt", "alpha\n"));
    let api = Api::start(Script::new().lane(lane("api", turns)));
    let mut project = Project::new(&api);
    project.remove_env("ANTHROPIC_API_KEY");
    project.set_env("CLAUDE_CODE_OAUTH_TOKEN", "sk-ant-oat01-dummy");
    project.init(HEADLESS, ONE);
    project.run_to_the_end();
    assert_eq!(project.ends(), ["rate-limited", "submitted"]);
    assert!(loom::base::clock::now().as_second() >= until, "it was tried again too early");
    assert_eq!(project.sessions_started(), 2);
}

/// A client that ends at once says why, and the reason reaches the person.
fn ends_at_once(settings: &str) {
    use std::os::unix::fs::PermissionsExt;
    let api = Api::start(Script::new());
    let mut project = Project::new(&api);
    fs_err::create_dir_all(project.path("bin")).unwrap();
    let fake = project.path("bin/claude");
    fs_err::write(&fake, "#!/bin/sh\nprintf '\\033[31merror: unknown option --frobnicate\\033[0m\\n' >&2\nexit 1\n")
        .unwrap();
    fs_err::set_permissions(&fake, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", project.path("bin").display(), project.env()["PATH"]);
    project.set_env("PATH", &path);
    project.init(settings, ONE);
    let said = project.run();
    assert_eq!(said.code, 4, "{said:?}");
    let row = project.stage("api");
    assert!(row["reason"]["text"].as_str().unwrap().contains("error: unknown option --frobnicate"), "{row}");
    assert!(said.stdout.contains("error: unknown option --frobnicate"), "{said:?}");
}

#[test]
fn the_last_words_of_a_client_in_a_terminal_are_shown() {
    ends_at_once(TERMINAL);
}

#[test]
fn the_last_words_of_a_headless_client_are_shown() {
    ends_at_once(HEADLESS);
}

#[test]
fn an_agent_outlives_a_killed_daemon() {
    let (_api, project) = at_the_gate("");
    project.start();
    wait_until_at_gate(&project);
    let (daemon, client) = (project.daemon().unwrap(), project.client_of("api"));
    project.kill(daemon, Signal::KILL);
    wait_for("another daemon", || project.daemon().filter(|other| *other != daemon));
    assert_eq!(project.client_of("api"), client);
    project.open_gate();
    project.run_to_the_end();
    assert_eq!((project.sessions_started(), project.ends()), (1, vec!["submitted".to_owned()]));
}

#[test]
fn an_agent_outlives_a_stopped_daemon_and_waits_for_the_next_one() {
    let (api, project) = at_the_gate("");
    project.start();
    wait_until_at_gate(&project);
    let client = project.client_of("api").unwrap();
    assert_eq!(project.loom(&["stop"]).code, 0);
    wait_for("the end of the daemon", || project.daemon().is_none().then_some(()));
    project.open_gate();
    // The submission waits in the session's outbox.
    wait_for("the submission", || {
        project.processes().iter().any(|(_, line)| line.contains("loom stage complete")).then_some(())
    });
    assert!(project.processes().iter().any(|(pid, _)| *pid == client));
    project.run_to_the_end();
    assert_eq!((project.sessions_started(), project.stage("api")["attempt"].as_u64()), (1, Some(1)));
    assert!(tool_results(&api, "api").last().unwrap().contains("is proven and landed"));
}

#[test]
fn a_turn_that_ends_without_a_daemon_waits_for_the_next_one() {
    let hold = Turn::bash("echo held");
    let turns = [
        write("a.txt", "alpha\n"),
        commit("a.txt"),
        hold,
        Turn::text("I think that is all.").held("end"),
        complete(),
        Turn::text("Done."),
    ];
    let api = Api::start(Script::new().lane(lane("api", turns)));
    let project = Project::new(&api);
    project.init("", ONE);
    project.start();
    api.wait_for("at the end of the turn", |seen| seen.turn == 3 && seen.lane == "api");
    assert_eq!(project.loom(&["stop"]).code, 0);
    wait_for("the end of the daemon", || project.daemon().is_none().then_some(()));
    api.release("end");
    let waits = |line: &str| line.contains("hook stop");
    wait_for("the stop hook that waits", || project.processes().iter().any(|(_, line)| waits(line)).then_some(()));
    project.run_to_the_end();
    assert_eq!((project.sessions_started(), project.stage("api")["attempt"].as_u64()), (1, Some(1)));
}

/// A terminal of the user: a real tmux in which `loom attach` runs.
pub struct Tmux<'a>(&'a Project);

impl<'a> Tmux<'a> {
    pub fn new(project: &'a Project, line: &str) -> Tmux<'a> {
        let tmux = Tmux(project);
        tmux.run(&["new-session", "-d", "-x", "120", "-y", "40", line]);
        tmux
    }
    fn run(&self, args: &[&str]) -> String {
        let socket = self.0.path("tmp/tmux").display().to_string();
        let output = self.0.command("tmux").args(["-f", "/dev/null", "-S", &socket]).args(args).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
    pub fn screen(&self) -> String {
        self.run(&["capture-pane", "-p"])
    }
    pub fn wait_for(&self, text: &str) {
        let end = Instant::now() + crate::deadline::LONG;
        while !self.screen().contains(text) {
            assert!(Instant::now() < end, "no `{text}` on the screen:\n{}", self.screen());
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
    pub fn keys(&self, keys: &[&str]) {
        self.run(&[&["send-keys"], keys].concat());
    }
}

impl Drop for Tmux<'_> {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}

pub fn attach_line() -> String {
    format!("{} attach api; echo left $?; cat", env!("CARGO_BIN_EXE_loom"))
}

#[test]
fn a_person_attaches_types_and_detaches() {
    let (api, project) = at_the_gate("");
    project.start();
    wait_until_at_gate(&project);
    let tmux = Tmux::new(&project, &attach_line());
    tmux.wait_for("You carry out stage `api`");
    tmux.keys(&["-l", "remember the aubergine"]);
    tmux.wait_for("remember the aubergine");
    tmux.keys(&["Enter"]);
    tmux.keys(&["C-\\"]);
    tmux.wait_for("left 0");
    project.open_gate();
    api.wait_for("with what was typed", |seen| seen.is_main && seen.everything.contains("remember the aubergine"));
    drop(tmux);
    project.run_to_the_end();
    assert_eq!(project.sessions_started(), 1);
}

#[test]
fn a_question_is_shown_as_waiting_until_it_is_answered() {
    let question = json!({"questions": [{
        "question": "Which letter?", "header": "Letter", "multiSelect": false,
        "options": [{"label": "Alpha", "description": "first"}, {"label": "Beta", "description": "second"}],
    }]});
    let after = Turn::bash("echo answered").held("answered");
    let mut turns = vec![Turn::tool("AskUserQuestion", question), after];
    turns.extend(diligent("a.txt", "alpha\n"));
    let api = Api::start(Script::new().lane(lane("api", turns)));
    let project = Project::new(&api);
    project.init("", ONE);
    let settings = "[notify]\non = ['waiting']\ncommand = 'echo \"$LOOM_STAGES $LOOM_TEXT $LOOM_NEXT\" >> ../told'\n";
    fs_err::create_dir_all(project.path("home/.config/loom")).unwrap();
    fs_err::write(project.path("home/.config/loom/config.toml"), settings).unwrap();
    project.start();
    api.wait_for("of the main loop", |seen| seen.is_main && seen.lane == "api");
    let asked = Instant::now();
    let waiting = |text: &serde_json::Value| text.as_str().is_some_and(|text| text.contains("waiting for a person"));
    project.wait_for_stage("api", "waiting for a person", |row| waiting(&row["detail"]));
    assert!(asked.elapsed() < Duration::from_secs(2), "it took {:?}", asked.elapsed());
    let status = project.status();
    assert_eq!(status["sessions"][0]["state"], "waiting");
    assert_eq!(status["sessions"][0]["asks"], "Which letter?");

    let told = || fs_err::read_to_string(project.path("told")).ok().filter(|told| told.ends_with('\n'));
    assert_eq!(wait_for("a notification", told), "api stage `api` asks: Which letter? loom attach api\n");

    let tmux = Tmux::new(&project, &attach_line());
    tmux.wait_for("Which letter?");
    tmux.keys(&["Enter"]);
    api.wait_for("after the answer", |seen| seen.lane == "api" && seen.turn == 1);
    project.wait_for_stage("api", "working again", |row| !waiting(&row["detail"]));
    api.release("answered");
    drop(tmux);
    project.run_to_the_end();
    assert!(tool_results(&api, "api")[0].contains("Alpha"), "{:#?}", tool_results(&api, "api"));
}

#[test]
fn an_agent_opened_by_hand_is_told_whose_tree_it_is_in_and_cannot_submit() {
    let by_hand = Lane::new("by hand")
        .when(When::FirstUser("hello by hand".to_owned()))
        .turns([Turn::bash("loom stage complete api"), Turn::text("I see.")]);
    let (api, project) = at_the_gate_beside("", Some(by_hand));
    project.start();
    wait_until_at_gate(&project);
    let loom = std::path::Path::new(env!("CARGO_BIN_EXE_loom")).parent().unwrap();
    let path = format!("{}:{}", loom.display(), project.env()["PATH"]);
    assert!(project.worktree("api").join(".claude/settings.local.json").exists());
    let said = project.finish(
        project
            .command("claude")
            .args(["-p", "hello by hand", "--allowedTools", "Bash(loom *)"])
            .current_dir(project.worktree("api"))
            .env("PATH", path),
    );
    assert_eq!(said.code, 0, "{said:?}");
    let first = api.wait_for("of the agent by hand", |seen| seen.lane == "by hand");
    assert!(first.everything.contains("worktree of Loom's stage `api`"), "{}", first.everything);
    assert!(first.everything.contains("loom resume api"));
    let results = tool_results(&api, "by hand");
    assert!(results[0].contains("may not") || results[0].contains("does not hold"), "{results:#?}");
    assert_eq!(project.stage("api")["state"], "running");
    project.open_gate();
    project.run_to_the_end();
    assert_eq!(project.sessions_started(), 1);
}

/// Blocked with half of its work done, and resumed by a person: the same agent goes on.
fn resumed(settings: &str) {
    let blocks = [
        write("half.txt", "half\n"),
        commit("half.txt"),
        Turn::bash("loom stage block api --reason 'which letter?'"),
        Turn::text("I wait."),
    ];
    let again = Lane::new("again").when(When::Anywhere("You go on with stage `api`".to_owned()));
    let script = Script::new().lane(again.turns(diligent("a.txt", "alpha\n"))).lane(lane("api", blocks));
    let api = Api::start(script);
    let project = Project::new(&api);
    project.init(settings, ONE);
    assert_eq!(project.run().code, 4, "{}", project.story());
    let said = project.loom(&["resume", "api"]);
    assert_eq!(said.code, 0, "{said:?}");
    project.run_to_the_end();

    assert_eq!(project.sessions_started(), 2, "{}", project.story());
    let requests = api.main_requests();
    assert!(requests.iter().any(|seen| seen.lane == "again"), "{}", project.story());
    assert!(requests.iter().all(|seen| seen.session == requests[0].session), "another conversation");
    assert_eq!(project.git(&["show", "main:half.txt"]), "half\n");
}

#[test]
fn a_person_resumes_the_conversation_of_a_terminal() {
    resumed(TERMINAL);
}

#[test]
fn a_person_resumes_the_conversation_of_a_headless_client() {
    resumed(HEADLESS);
}

/// What a person says with a retry is read by the agent.
#[test]
fn the_words_of_a_retry_reach_the_agent() {
    let blocks = [Turn::bash("loom stage block api --reason 'which letter?'"), Turn::text("I wait.")];
    let told = Lane::new("told").when(When::Anywhere("plant the aubergine".to_owned()));
    let script = Script::new().lane(told.turns(diligent("a.txt", "alpha\n"))).lane(lane("api", blocks));
    let api = Api::start(script);
    let project = Project::new(&api);
    project.init(HEADLESS, ONE);
    assert_eq!(project.run().code, 4, "{}", project.story());
    assert_eq!(project.stage("api")["reason"]["code"], "by-agent");
    let said = project.loom(&["stage", "retry", "api", "--context", "plant the aubergine"]);
    assert_eq!(said.code, 0, "{said:?}");
    project.run_to_the_end();
    assert!(api.main_requests().iter().any(|seen| seen.lane == "told"), "{}", project.story());
}
