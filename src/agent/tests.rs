//! Launches as whole values.

use std::time::Duration;

use super::*;
use crate::model::ids::{Oid, SessionId, StageId};
use crate::model::plan::AgentMode;

const CONVERSATION: &str = "11111111-2222-4333-8444-555555555555";

fn start(agent: Agent) -> Start {
    Start {
        session: SessionId::new("api.1").unwrap(),
        stage: StageId::new("api").unwrap(),
        attempt: 1,
        agent,
        working_dir: "sub".to_owned(),
        worktree: "api".to_owned(),
        base: Oid::new("0123456789012345678901234567890123456789").unwrap(),
        slot: 2,
        conversation: CONVERSATION.to_owned(),
        resumes: false,
        is_first: true,
        sandbox: None,
        permission_mode: None,
        auto_allow: true,
        siblings: Vec::new(),
        timeout: Duration::from_secs(60),
        setup: Vec::new(),
        teardown: Vec::new(),
        before: Vec::new(),
    }
}

fn claude(mode: AgentMode) -> Agent {
    Agent::Claude { mode, model: Some("-x".to_owned()), effort: None }
}

fn launched(start: &Start, environment: &[(&str, &str)]) -> Launch {
    let layout = Layout { project: "/p".into(), work: "/p/.work".into() };
    launch(start, &layout, Path::new("/opt/loom"), &environment.iter().copied().collect()).unwrap()
}

fn value<'a>(launch: &'a Launch, wanted: &str) -> Option<&'a str> {
    launch.spec.env.iter().rev().find_map(|change| match change {
        EnvChange::Set { name, value } if name == wanted => Some(value.as_str()),
        _ => None,
    })
}

#[test]
fn a_command_runs_in_its_working_dir_without_a_terminal() {
    let launch = launched(&start(Agent::Command { run: "make".to_owned() }), &[("PATH", "/bin")]);
    assert_eq!(launch.spec.argv, ["/bin/sh", "-c", "make"]);
    assert_eq!(launch.spec.cwd, Path::new("/p/.worktrees/api/sub"));
    assert_eq!((launch.spec.terminal, &launch.spec.attach_socket), (None, &None));
    let layout = Layout { project: "/p".into(), work: "/p/.work".into() };
    let start = start(Agent::Command { run: "make".to_owned() });
    let environment = Environment::default();
    assert_eq!(files(&start, &layout, Path::new("/opt/loom"), &environment, &Walls::default()), []);
    assert_eq!(value(&launch, "LOOM_SIGNAL"), Some("/p/.work/signals/api.1.md"));
    assert_eq!(value(&launch, "LOOM_SESSION"), Some("api.1"));
    assert_eq!(value(&launch, "GIT_PAGER"), Some("cat"));
    assert_eq!(value(&launch, "PATH"), Some("/opt:/bin"));
    assert_eq!(value(&launch, "LOOM_WORK_DIR"), None);
}

#[test]
fn git_configuration_of_the_user_is_kept() {
    let launch = launched(&start(Agent::Command { run: "x".to_owned() }), &[("GIT_CONFIG_COUNT", "1")]);
    assert_eq!(value(&launch, "GIT_CONFIG_COUNT"), Some("5"));
    assert_eq!(value(&launch, "GIT_CONFIG_KEY_0"), None);
    assert_eq!(value(&launch, "GIT_CONFIG_KEY_2"), Some("core.excludesFile"));
    assert_eq!(value(&launch, "GIT_CONFIG_VALUE_2"), Some("/p/.work/excludes"));
}

#[test]
fn an_interactive_client_gets_a_terminal_and_values_cannot_be_options() {
    let launch = launched(&start(claude(AgentMode::Interactive)), &[]);
    let (prompt, options) = launch.spec.argv.split_last().unwrap();
    assert_eq!(
        options,
        [
            "claude",
            "--session-id=11111111-2222-4333-8444-555555555555",
            "--model=-x",
            "--permission-mode=acceptEdits",
            "--settings=/p/.work/sessions/api.1/claude-settings.json",
            "--setting-sources=user,project",
            "--strict-mcp-config",
        ]
    );
    assert!(prompt.contains("`loom stage complete api`"), "{prompt}");
    assert_eq!(launch.spec.terminal, Some(TerminalSize { rows: 40, cols: 120 }));
    assert!(launch.spec.attach_socket.is_some());
    assert_eq!(launch.spec.cwd, Path::new("/p/.worktrees/api"));
    assert_eq!(value(&launch, "TERM"), Some("xterm-256color"));
}

#[test]
fn a_headless_client_prints_events() {
    let launch = launched(&start(claude(AgentMode::Headless)), &[]);
    assert_eq!(launch.spec.argv[..5], ["claude", "-p", "--output-format", "stream-json", "--verbose"]);
    assert_eq!(launch.spec.terminal, None);
}

#[test]
fn a_key_reaches_the_client_by_another_name_and_no_file() {
    let key = "sk-ant-secret-0123456789abcdefghijkl";
    let start = start(claude(AgentMode::Interactive));
    let launch = launched(&start, &[("ANTHROPIC_API_KEY", key)]);
    let layout = Layout { project: "/p".into(), work: "/p/.work".into() };
    let environment: Environment = [("ANTHROPIC_API_KEY", key)].into_iter().collect();
    let files = files(&start, &layout, Path::new("/opt/loom"), &environment, &Walls::default());
    let renamed = EnvChange::Rename { from: "ANTHROPIC_API_KEY".to_owned(), to: "LOOM_ANTHROPIC_API_KEY".to_owned() };
    assert!(launch.spec.env.contains(&renamed));
    assert!(files[0].content.contains("printenv LOOM_ANTHROPIC_API_KEY"));
    assert!(!format!("{launch:?}{files:?}").contains(key));
}

#[test]
fn a_conversation_is_resumed_when_its_transcript_has_a_message() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().display().to_string();
    let project = home.path().join(".claude/projects/-p--worktrees-api");
    fs_err::create_dir_all(&project).unwrap();
    let write = |id: &str, text: &str| fs_err::write(project.join(format!("{id}.jsonl")), text).unwrap();
    let option = || launched(&start(claude(AgentMode::Headless)), &[("HOME", &dir)]).spec.argv[5].clone();

    assert_eq!(option(), format!("--session-id={CONVERSATION}"));
    write(CONVERSATION, "{\"type\":\"ai-title\",\"aiTitle\":\"x\"}\n");
    let replaced = option();
    let other = replaced.strip_prefix("--session-id=").unwrap();
    assert!(other != CONVERSATION && uuid::Uuid::parse_str(other).is_ok(), "{other}");
    assert_eq!(option(), replaced);
    let message = "{\"type\":\"mode\"}\n{\"type\":\"user\",\"message\":{\"role\":\"user\"}}\n{\"ty";
    write(other, message);
    assert_eq!(option(), format!("--resume={other}"));
    write(CONVERSATION, message);
    assert_eq!(option(), format!("--resume={CONVERSATION}"));
}

#[test]
fn a_sandbox_has_walls_caches_and_no_way_out() {
    let mut start = start(claude(AgentMode::Headless));
    start.sandbox = Some(crate::model::sandbox::Sandbox {
        allowed_domains: vec!["example.com".to_owned()],
        ..crate::model::sandbox::Sandbox::default()
    });
    start.auto_allow = false;
    let launch = launched(&start, &[]);
    assert_eq!(value(&launch, "XDG_CACHE_HOME"), Some("/p/.work/caches/api"));
    assert_eq!(value(&launch, "GIT_CONFIG_VALUE_1"), Some("/p/.work/excludes.sandbox"));
    assert_eq!(value(&launch, "LOOM_AUTO_ALLOW"), Some("0"));
    let layout = Layout { project: "/p".into(), work: "/p/.work".into() };
    let walls = Walls {
        allow_write: vec!["/w".into()],
        deny_read: vec!["/r".into()],
        hidden: vec!["/h".into()],
        shown: vec!["/h/s".into()],
        frozen: vec!["/f".into()],
        deny_write: vec!["/d".into()],
    };
    let files = files(&start, &layout, Path::new("/opt/loom"), &Environment::default(), &walls);
    let settings: serde_json::Value = serde_json::from_str(&files[0].content).unwrap();
    let sandbox = &settings["sandbox"];
    assert_eq!(sandbox["enabled"], true);
    assert_eq!(sandbox["failIfUnavailable"], true);
    assert_eq!(sandbox["allowUnsandboxedCommands"], false);
    assert_eq!(sandbox["network"]["allowedDomains"], serde_json::json!(["example.com"]));
    assert_eq!(
        sandbox["filesystem"],
        serde_json::json!({
            "allowWrite": ["/w"], "denyRead": ["/r", "/h"], "allowRead": ["/h/s"], "denyWrite": ["/d", "/f"],
        })
    );
    assert_eq!(
        settings["permissions"],
        serde_json::json!({"deny": ["Read(//r)", "Read(//r/**)", "Edit(//d)", "Edit(//d/**)"]})
    );
}

#[test]
fn blocks_of_ports_never_meet_and_stay_below_the_kernels_own() {
    let mut blocks: Vec<u32> = (0..limits::PARALLEL_MAX).map(|slot| port_base("0123456789ab", slot)).collect();
    assert!(blocks.windows(2).all(|pair| pair[1] - pair[0] == limits::PORTS_PER_SLOT));
    blocks.extend(["ffffff000000", "000005000000"].map(|key| port_base(key, limits::PARALLEL_MAX - 1)));
    assert!(blocks.iter().all(|first| (20_000..32_768 - limits::PORTS_PER_SLOT).contains(first)), "{blocks:?}");
    let launch = launched(&start(Agent::Command { run: "x".to_owned() }), &[]);
    let base: u32 = value(&launch, "LOOM_PORT_BASE").unwrap().parse().unwrap();
    assert_eq!(base % limits::PORTS_PER_SLOT, 0);
    let key = Layout { project: "/p".into(), work: "/p/.work".into() }.project_key();
    assert_eq!(value(&launch, "COMPOSE_PROJECT_NAME"), Some(format!("loom-{}-2", &key[..6]).as_str()));
}
