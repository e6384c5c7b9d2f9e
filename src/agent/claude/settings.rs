//! The settings that Loom passes with `--settings`: its hooks, and the helper
//! that hands over the API key. One value of a wrong type makes the client drop
//! the whole file without a word, so the rendered value is tested against the
//! real client (`tests/real/`). No shell command is in an allow list: the hook
//! decides each one, and without an answer from it the client asks or refuses.

use std::path::Path;

use serde_json::{Value, json};

use super::RENAMED_KEY;
use super::hooks::HookEvent;

/// The settings of a session. `loom` is the program behind the hooks.
pub fn render(loom: &Path, hands_over_key: bool) -> Value {
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
    settings
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
        let settings = render(Path::new("/opt/my loom/loom"), false);
        for event in HookEvent::ALL {
            let hook = &settings["hooks"][event.name()][0]["hooks"][0];
            assert_eq!(hook["command"], format!("'/opt/my loom/loom' hook {}", event.argument()));
        }
        assert!(settings.get("permissions").is_none());
        assert!(settings.get("apiKeyHelper").is_none());
    }

    #[test]
    fn the_key_is_named_and_never_written() {
        assert_eq!(render(Path::new("/loom"), true)["apiKeyHelper"], "printenv LOOM_ANTHROPIC_API_KEY");
    }
}
