//! What Claude Code tells its hooks and what it understands as an answer.
//! Reading is tolerant: a field that is missing, new or of another type than
//! expected never makes a hook fail, because a hook that fails lets the tool run.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

/// The events that Loom listens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookEvent {
    SessionStart,
    UserPromptSubmit,
    PreToolUse,
    PostToolUse,
    PermissionRequest,
    Notification,
    Stop,
    StopFailure,
    PreCompact,
    SessionEnd,
}

impl HookEvent {
    pub const ALL: [HookEvent; 10] = [
        HookEvent::SessionStart,
        HookEvent::UserPromptSubmit,
        HookEvent::PreToolUse,
        HookEvent::PostToolUse,
        HookEvent::PermissionRequest,
        HookEvent::Notification,
        HookEvent::Stop,
        HookEvent::StopFailure,
        HookEvent::PreCompact,
        HookEvent::SessionEnd,
    ];
    /// The client's name for it.
    pub fn name(self) -> &'static str {
        match self {
            HookEvent::SessionStart => "SessionStart",
            HookEvent::UserPromptSubmit => "UserPromptSubmit",
            HookEvent::PreToolUse => "PreToolUse",
            HookEvent::PostToolUse => "PostToolUse",
            HookEvent::PermissionRequest => "PermissionRequest",
            HookEvent::Notification => "Notification",
            HookEvent::Stop => "Stop",
            HookEvent::StopFailure => "StopFailure",
            HookEvent::PreCompact => "PreCompact",
            HookEvent::SessionEnd => "SessionEnd",
        }
    }
    /// Its name as the argument of `loom hook`.
    pub fn argument(self) -> &'static str {
        match self {
            HookEvent::SessionStart => "session-start",
            HookEvent::UserPromptSubmit => "user-prompt-submit",
            HookEvent::PreToolUse => "pre-tool-use",
            HookEvent::PostToolUse => "post-tool-use",
            HookEvent::PermissionRequest => "permission-request",
            HookEvent::Notification => "notification",
            HookEvent::Stop => "stop",
            HookEvent::StopFailure => "stop-failure",
            HookEvent::PreCompact => "pre-compact",
            HookEvent::SessionEnd => "session-end",
        }
    }
    /// The event that `loom hook <argument>` is about.
    pub fn of_argument(argument: &str) -> Option<HookEvent> {
        HookEvent::ALL.into_iter().find(|event| event.argument() == argument)
    }
    /// How long the client waits for the hook; then it goes on as if there were none.
    pub fn timeout(self) -> Duration {
        Duration::from_secs(match self {
            // Waits for the verdict of the checks.
            HookEvent::Stop => 3600,
            // The client caps it at 60, and ends only after it.
            HookEvent::SessionEnd => 5,
            _ => 60,
        })
    }
}

/// What a hook is told on its standard input: the fields that Loom reads.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HookInput {
    /// The conversation.
    #[serde(deserialize_with = "lenient")]
    pub session_id: String,
    #[serde(deserialize_with = "lenient")]
    pub transcript_path: String,
    /// Where the client's shell is, not always the top of the worktree.
    #[serde(deserialize_with = "lenient")]
    pub cwd: String,
    #[serde(deserialize_with = "lenient")]
    pub permission_mode: String,
    #[serde(deserialize_with = "lenient")]
    pub tool_name: String,
    pub tool_input: Value,
    #[serde(deserialize_with = "lenient")]
    pub tool_use_id: String,
    /// Set inside a subagent.
    #[serde(deserialize_with = "lenient")]
    pub agent_id: Option<String>,
    /// SessionStart: `startup`, `resume`, `clear` or `compact`.
    #[serde(deserialize_with = "lenient")]
    pub source: String,
    /// Stop: the turn goes on because of an earlier answer of this hook.
    #[serde(deserialize_with = "lenient")]
    pub stop_hook_active: bool,
    #[serde(deserialize_with = "lenient")]
    pub last_assistant_message: String,
    /// Stop: what still runs in the background and will wake the model again.
    #[serde(deserialize_with = "lenient")]
    pub background_tasks: Vec<Value>,
    /// StopFailure: `rate_limit`, `authentication_failed`, `unknown`, …
    #[serde(deserialize_with = "lenient")]
    pub error: String,
    #[serde(deserialize_with = "lenient")]
    pub message: String,
    /// Notification: `permission_prompt`, `idle_prompt`, …
    #[serde(deserialize_with = "lenient")]
    pub notification_type: String,
    /// SessionEnd: `prompt_input_exit`, `clear`, `other`, …
    #[serde(deserialize_with = "lenient")]
    pub reason: String,
}

impl HookInput {
    /// Reads what the client wrote; anything that is not an object is an input without fields.
    pub fn parse(text: &str) -> HookInput {
        serde_json::from_str(text).unwrap_or_default()
    }
    /// What a person is asked, in a line; none where the client does not say.
    pub fn asks(&self) -> Option<String> {
        let text = |value: &Value| value.as_str().map(str::to_owned).filter(|text| !text.is_empty());
        match self.tool_name.as_str() {
            "AskUserQuestion" => text(&self.tool_input["questions"][0]["question"]),
            "ExitPlanMode" => Some("approve its plan".to_owned()),
            "" => None,
            tool => {
                let about =
                    ["command", "file_path", "url", "pattern"].iter().find_map(|name| text(&self.tool_input[*name]));
                Some(about.map_or_else(|| format!("allow {tool}"), |about| format!("allow {tool}: {about}")))
            }
        }
    }
    /// Whether a person has to act before the client goes on.
    pub fn needs_person(&self, event: HookEvent) -> bool {
        match event {
            HookEvent::PermissionRequest => true,
            HookEvent::Notification => {
                matches!(self.notification_type.as_str(), "permission_prompt" | "elicitation_dialog")
            }
            _ => false,
        }
    }
}

/// Reads a field; another type than expected counts as missing.
fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(deserializer: D) -> Result<T, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

/// PreToolUse: the tool runs without being in an allow list. The user's deny rules still win.
pub fn allow_tool(reason: &str) -> Value {
    tool_decision("allow", reason)
}

/// PreToolUse: the tool does not run; the model reads exactly `reason`.
pub fn deny_tool(reason: &str) -> Value {
    tool_decision("deny", reason)
}

fn tool_decision(decision: &str, reason: &str) -> Value {
    json!({"hookSpecificOutput": {
        "hookEventName": "PreToolUse",
        "permissionDecision": decision,
        "permissionDecisionReason": reason,
    }})
}

/// PreToolUse: adds text that the model reads beside the tool's result, whatever `answer` decides.
pub fn with_context(answer: Option<Value>, text: &str) -> Value {
    let mut answer = answer.unwrap_or_else(|| json!({"hookSpecificOutput": {"hookEventName": "PreToolUse"}}));
    answer["hookSpecificOutput"]["additionalContext"] = json!(text);
    answer
}

/// PermissionRequest: answers the dialog with yes.
pub fn grant_permission() -> Value {
    json!({"hookSpecificOutput": {"hookEventName": "PermissionRequest", "decision": {"behavior": "allow"}}})
}

/// PermissionRequest: answers the dialog with no; the model reads `reason`.
pub fn refuse_permission(reason: &str) -> Value {
    json!({"hookSpecificOutput": {
        "hookEventName": "PermissionRequest",
        "decision": {"behavior": "deny", "message": reason},
    }})
}

/// SessionStart: text that the model reads before its first turn, and again after a compaction.
pub fn session_context(text: &str) -> Value {
    json!({"hookSpecificOutput": {"hookEventName": "SessionStart", "additionalContext": text}})
}

/// Stop: the turn goes on with `reason` as its next message. The client gives up after eight in a row.
pub fn block_stop(reason: &str) -> Value {
    json!({"decision": "block", "reason": reason})
}

/// No opinion: the client decides as if the hook were not there.
pub fn no_opinion() -> Value {
    json!({})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_call_is_read() {
        let input = HookInput::parse(
            r#"{"session_id":"s","cwd":"/w","hook_event_name":"PreToolUse","tool_name":"Bash",
                "tool_input":{"command":"ls"},"tool_use_id":"t","effort":{"level":"high"},"new":[1]}"#,
        );
        assert_eq!(input.tool_name, "Bash");
        assert_eq!(input.tool_input["command"], "ls");
        assert_eq!((input.session_id.as_str(), input.cwd.as_str()), ("s", "/w"));
        assert_eq!(input.agent_id, None);
    }

    #[test]
    fn surprises_do_not_make_a_hook_fail() {
        for text in ["", "null", "[]", "{", r#"{"error":{"kind":"x"},"stop_hook_active":"yes","agent_id":null}"#] {
            assert_eq!(HookInput::parse(text), HookInput::default(), "{text}");
        }
        let input = HookInput::parse(r#"{"error":7,"reason":"other"}"#);
        assert_eq!((input.error.as_str(), input.reason.as_str()), ("", "other"));
    }

    #[test]
    fn events_are_named_both_ways() {
        for event in HookEvent::ALL {
            assert_eq!(HookEvent::of_argument(event.argument()), Some(event));
        }
        assert_eq!(HookEvent::of_argument("Stop"), None);
    }
}
