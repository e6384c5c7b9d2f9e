//! `loom status --json`. Documented in `doc/status.md`; a field appears when it is true.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::attention::AttentionKind;
use crate::model::ids::StageId;
use crate::model::stage::StateKind;

/// Version of this format; raised when a field changes its meaning or goes.
pub const STATUS_VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub version: u32,
    pub plan: Option<PlanRow>,
    pub daemon: DaemonRow,
    pub stages: Vec<StageRow>,
    pub sessions: Vec<SessionRow>,
    pub gates: Vec<GateRow>,
    /// What waits for a person, or they for it.
    #[serde(default)]
    pub attention: Vec<AttentionRow>,
    /// What is not as it should be, for a person.
    pub notices: Vec<String>,
    /// What to type next, most useful first.
    pub next: Vec<String>,
    /// `working`, `waiting-for-person`, `complete`, `stopped` or `no-plan`.
    pub phase: PhaseOfPlan,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PhaseOfPlan {
    NoPlan,
    Working,
    WaitingForPerson,
    Complete,
    Stopped,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlanRow {
    pub id: String,
    pub name: String,
    pub path: String,
    pub branch: String,
    pub base: String,
    /// What its sessions have used, and what they may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<UsedRow>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetRow>,
    /// Why no session starts until a person starts the plan again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<String>,
    /// The base branch is being moved right now.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub following: bool,
    /// Why the base branch does not follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_stays: Option<String>,
    /// Tip of the plan branch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tip: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonRow {
    pub running: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime_s: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageRow {
    pub id: StageId,
    pub name: String,
    /// CONTRACT section 2, kebab case.
    pub state: StateKind,
    /// What is going on inside the state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<ReasonRow>,
    pub dependencies: Vec<StageId>,
    pub held: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merged_commit: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    pub checks: ChecksRow,
    /// What its sessions have used since the budget's present helping began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<UsedRow>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetRow>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Something that a person should look at; told by notifications too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttentionRow {
    /// `waiting`, `gated`, `blocked`, `limit`, `complete` or `stopped`.
    pub event: AttentionKind,
    pub stages: Vec<String>,
    pub text: String,
    pub next: String,
}

/// What sessions have used together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct UsedRow {
    pub sessions: u32,
    /// Without cache reads.
    pub tokens: u64,
    pub cache_read: u64,
    /// As far as the client has said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
}

/// Caps; a field that is absent is no cap.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BudgetRow {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReasonRow {
    pub code: String,
    pub text: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
}

/// Of the last verdict; `total` counts the stage's checks and the plan's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChecksRow {
    pub passed: usize,
    pub failed: usize,
    pub total: usize,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionRow {
    pub id: String,
    pub stage: String,
    pub backend: String,
    pub state: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Its agent's shell is in a sandbox.
    pub sandboxed: bool,
    pub started_at: Timestamp,
    /// What it asks a person, while it waits for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asks: Option<String>,
    /// Of the context window; absent until the client has been measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_percent: Option<u32>,
    /// `green`, `yellow` or `red`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_zone: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokensRow>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
}

/// Tokens of a session so far, cache reads apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokensRow {
    pub input: u64,
    pub output: u64,
    pub cache_read: u64,
    pub cache_write: u64,
    /// In the context window now.
    pub context: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateRow {
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    pub question: String,
    pub next: String,
}
