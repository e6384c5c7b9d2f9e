//! What a stage's agent may reach outside of its worktree, as authored.

use serde::{Deserialize, Serialize};

/// Lessons of the project, below the top of the tree.
pub const KNOWLEDGE_BASE: &str = "doc/loom/knowledge";

/// What stands in the worktree while a command runs in the sandbox, and only then: devices, for
/// others empty files, in place of what could change what runs outside.
pub const SANDBOX_MASKS: [&str; 20] = [
    ".bash_profile",
    ".bashrc",
    ".claude/agents",
    ".claude/commands",
    ".claude/hooks",
    ".claude/launch.json",
    ".claude/routines",
    ".claude/scheduled_tasks.json",
    ".claude/settings.json",
    ".claude/skills",
    ".claude/workflows",
    ".gitconfig",
    ".gitmodules",
    ".idea",
    ".mcp.json",
    ".profile",
    ".ripgreprc",
    ".vscode",
    ".zprofile",
    ".zshrc",
];

/// The sandbox of one stage: what the plan says and what the stage adds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sandbox {
    /// Off: the author takes it that agents may do what the user may.
    pub enabled: bool,
    /// Off: the agent client asks a person about each shell command.
    pub auto_allow: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permission_mode: Option<PermissionMode>,
    /// Patterns of command lines that run outside, whole.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub excluded_commands: Vec<String>,
    /// Files and folders: absolute, from `~`, or relative to the worktree.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny_read: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny_write: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_write: Vec<String>,
    /// Hosts, `*.` in front for all below one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_domains: Vec<String>,
    pub allow_local_binding: bool,
    pub allow_unix_sockets: bool,
    /// Weaker, for containers that allow no nested namespaces.
    pub weaker_nested: bool,
}

impl Default for Sandbox {
    fn default() -> Self {
        Sandbox {
            enabled: true,
            auto_allow: true,
            permission_mode: None,
            excluded_commands: Vec::new(),
            deny_read: Vec::new(),
            deny_write: Vec::new(),
            allow_write: Vec::new(),
            allowed_domains: Vec::new(),
            allow_local_binding: false,
            allow_unix_sockets: false,
            weaker_nested: false,
        }
    }
}

/// How the agent client treats tool calls about which nobody has decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PermissionMode {
    Auto,
    AcceptEdits,
    Plan,
    Default,
}
