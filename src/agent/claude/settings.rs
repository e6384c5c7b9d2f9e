//! The settings that Loom passes with `--settings`: its hooks, and the helper
//! that hands over the API key. One value of a wrong type makes the client drop
//! the whole file without a word, so the rendered value is tested against the
//! real client (`tests/real/`). No shell command is in an allow list: the hook
//! decides each one, and without an answer from it the client asks or refuses.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::RENAMED_KEY;
use super::hooks::HookEvent;
use crate::agent::Walls;
use crate::model::sandbox::Sandbox;

/// The settings of a session. `loom` is the program behind the hooks.
pub fn render(loom: &Path, hands_over_key: bool, sandbox: Option<(&Sandbox, &Walls)>) -> Value {
    let mut hooks = serde_json::Map::new();
    for event in HookEvent::ALL {
        hooks.insert(event.name().to_owned(), json!([registration(loom, event)]));
    }
    let mut settings = json!({
        "hooks": hooks,
        // A repository's settings must not switch Loom's hooks off.
        "disableAllHooks": false,
        "autoMemoryEnabled": false,
        // Keeps an interactive client from asking about a repository's servers. None is started:
        // `--strict-mcp-config` leaves them out, but does not keep the question away.
        "enableAllProjectMcpServers": true,
    });
    // How the client reports its context window and what it costs; a person who attaches reads it too.
    settings["statusLine"] = json!({"type": "command", "command": status_line(loom)});
    if hands_over_key {
        settings["apiKeyHelper"] = json!(format!("printenv {RENAMED_KEY}"));
    }
    if let Some((sandbox, walls)) = sandbox {
        settings["sandbox"] = render_sandbox(sandbox, walls);
        // What the shell may not touch, the client's own tools may not either.
        settings["permissions"] = json!({"deny": denied(walls)});
    }
    settings
}

/// Variables with credentials that a shell command has no need of.
const CREDENTIALS: [&str; 12] = [
    "ANTHROPIC_API_KEY",
    RENAMED_KEY,
    "ANTHROPIC_AUTH_TOKEN",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "GH_TOKEN",
    "GITHUB_TOKEN",
    "GITLAB_TOKEN",
    "OPENAI_API_KEY",
    "NPM_TOKEN",
    "CARGO_REGISTRY_TOKEN",
];

/// Without a sandbox the client shall not start, and nothing leaves it on the agent's word.
fn render_sandbox(sandbox: &Sandbox, walls: &Walls) -> Value {
    let paths = |lists: &[&[PathBuf]]| -> Vec<String> {
        lists.iter().flat_map(|list| list.iter()).map(|path| path.display().to_string()).collect()
    };
    let secret = |name: &str| json!({"name": name, "mode": "deny"});
    json!({
        "enabled": true,
        "failIfUnavailable": true,
        "allowUnsandboxedCommands": false,
        "autoAllowBashIfSandboxed": sandbox.auto_allow,
        "excludedCommands": sandbox.excluded_commands,
        "enableWeakerNestedSandbox": sandbox.weaker_nested,
        "network": {
            "allowedDomains": sandbox.allowed_domains,
            "allowLocalBinding": sandbox.allow_local_binding,
            "allowAllUnixSockets": sandbox.allow_unix_sockets,
        },
        "filesystem": {
            "allowWrite": paths(&[&walls.allow_write]),
            "denyRead": paths(&[&walls.deny_read, &walls.hidden]),
            "allowRead": paths(&[&walls.shown]),
            "denyWrite": paths(&[&walls.deny_write, &walls.frozen]),
        },
        "credentials": {"envVars": CREDENTIALS.map(secret)},
    })
}

/// An absolute path in a rule begins with two slashes.
fn denied(walls: &Walls) -> Vec<String> {
    let rules =
        |tool: &str, path: &Path| [format!("{tool}(/{})", path.display()), format!("{tool}(/{}/**)", path.display())];
    let reads = walls.deny_read.iter().flat_map(|path| rules("Read", path));
    reads.chain(walls.deny_write.iter().flat_map(|path| rules("Edit", path))).collect()
}

/// The settings of a worktree: only what tells an agent opened by hand whose tree it is in.
pub fn render_by_hand(loom: &Path) -> Value {
    let event = HookEvent::SessionStart;
    json!({"hooks": {event.name(): [registration(loom, event)]}})
}

fn registration(loom: &Path, event: HookEvent) -> Value {
    let hook = json!({
        "type": "command",
        "command": command_line(loom, event),
        "timeout": event.timeout().as_secs(),
    });
    match event {
        HookEvent::PreToolUse | HookEvent::PermissionRequest => json!({"matcher": "*", "hooks": [hook]}),
        // Only after the tools that ask a person: a process after every call would cost too much.
        HookEvent::PostToolUse => json!({"matcher": "AskUserQuestion|ExitPlanMode|Skill", "hooks": [hook]}),
        _ => json!({"hooks": [hook]}),
    }
}

/// The client runs it with `sh -c`.
fn command_line(loom: &Path, event: HookEvent) -> String {
    format!("{} hook {}", quoted(loom), event.argument())
}

fn status_line(loom: &Path) -> String {
    format!("{} hook status-line", quoted(loom))
}

fn quoted(loom: &Path) -> String {
    let loom = loom.display().to_string();
    // A path from the operating system has no NUL, the one thing that cannot be quoted.
    shlex::try_quote(&loom).map_or_else(|_| loom.clone(), std::borrow::Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hook_runs_this_loom_and_no_tool_is_allowed_beforehand() {
        let settings = render(Path::new("/opt/my loom/loom"), false, None);
        for event in HookEvent::ALL {
            let hook = &settings["hooks"][event.name()][0]["hooks"][0];
            assert_eq!(hook["command"], format!("'/opt/my loom/loom' hook {}", event.argument()));
        }
        assert!(settings.get("permissions").is_none());
        assert!(settings.get("apiKeyHelper").is_none());
    }

    #[test]
    fn the_key_is_named_and_never_written() {
        assert_eq!(render(Path::new("/loom"), true, None)["apiKeyHelper"], "printenv LOOM_ANTHROPIC_API_KEY");
    }
}
