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
        timeout: Duration::from_secs(60),
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
    assert_eq!(launch.files, []);
    assert_eq!(value(&launch, "LOOM_SIGNAL"), Some("/p/.work/signals/api.1.md"));
    assert_eq!(value(&launch, "LOOM_SESSION"), Some("api.1"));
    assert_eq!(value(&launch, "GIT_PAGER"), Some("cat"));
    assert_eq!(value(&launch, "PATH"), Some("/opt:/bin"));
    assert_eq!(value(&launch, "LOOM_WORK_DIR"), None);
}

#[test]
fn git_configuration_of_the_user_is_kept() {
    let launch = launched(&start(Agent::Command { run: "x".to_owned() }), &[("GIT_CONFIG_COUNT", "1")]);
    assert_eq!(value(&launch, "GIT_CONFIG_COUNT"), Some("4"));
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
    let launch = launched(&start(claude(AgentMode::Interactive)), &[("ANTHROPIC_API_KEY", key)]);
    let renamed = EnvChange::Rename { from: "ANTHROPIC_API_KEY".to_owned(), to: "LOOM_ANTHROPIC_API_KEY".to_owned() };
    assert!(launch.spec.env.contains(&renamed));
    assert!(launch.files[0].content.contains("printenv LOOM_ANTHROPIC_API_KEY"));
    assert!(!format!("{launch:?}").contains(key));
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
