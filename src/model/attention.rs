//! What a person should look at, and how they are told.

use serde::{Deserialize, Serialize};

use super::ids::StageId;

/// Something that does not go on without a person, or that they wait for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attention {
    /// Names this very happening: it is told once.
    pub key: String,
    pub kind: AttentionKind,
    pub stages: Vec<StageId>,
    /// What happened, in a sentence.
    pub text: String,
    /// What to type.
    pub next: String,
}

/// The kinds of it; their names are settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttentionKind {
    /// A session asks a person something, or is idle at its prompt.
    Waiting,
    /// A session may hang.
    Hanging,
    /// A question is open.
    Gated,
    /// A stage, or the landing, cannot go on.
    Blocked,
    /// A usage limit stops everything.
    Limit,
    /// The plan is complete.
    Complete,
    /// The daemon died too often and is not started again.
    Stopped,
}

impl AttentionKind {
    pub const ALL: [AttentionKind; 7] = [
        AttentionKind::Waiting,
        AttentionKind::Hanging,
        AttentionKind::Gated,
        AttentionKind::Blocked,
        AttentionKind::Limit,
        AttentionKind::Complete,
        AttentionKind::Stopped,
    ];
    pub fn as_str(self) -> &'static str {
        match self {
            AttentionKind::Waiting => "waiting",
            AttentionKind::Hanging => "hanging",
            AttentionKind::Gated => "gated",
            AttentionKind::Blocked => "blocked",
            AttentionKind::Limit => "limit",
            AttentionKind::Complete => "complete",
            AttentionKind::Stopped => "stopped",
        }
    }
}

impl std::str::FromStr for AttentionKind {
    type Err = ();
    fn from_str(name: &str) -> Result<AttentionKind, ()> {
        AttentionKind::ALL.into_iter().find(|kind| kind.as_str() == name).ok_or(())
    }
}

/// How a person is told, and of what.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Channels {
    pub kinds: Vec<AttentionKind>,
    /// The terminal of who watches.
    pub bell: bool,
    pub desktop: bool,
    /// Run by a shell.
    pub command: Option<String>,
    pub webhook: Option<String>,
}

/// One notification: what came together is told together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification {
    /// Of this format.
    pub version: u32,
    pub event: AttentionKind,
    pub project: String,
    pub plan: Option<String>,
    pub stages: Vec<StageId>,
    pub text: String,
    pub next: String,
}
