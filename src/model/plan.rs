//! A plan as authored: what is to be done and what proves it. Never changes
//! while it runs; the state of a stage is [`crate::model::stage`].

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::budget::{Budget, OnLimit};
use super::check::{ChangeImpact, Check, Criteria};
use super::ids::{PlanId, StageId};
use super::limits::CONTEXT_BUDGET_DEFAULT;
use super::sandbox::Sandbox;

/// One authored plan, validated: ids are unique, dependencies exist, no cycle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub id: PlanId,
    /// The first heading.
    pub title: String,
    /// The prose around the block, passed to agents.
    pub overview: String,
    /// In the order of the file; a stage may depend on a later one. Whoever carries one out
    /// shares it: a plan of a thousand stages is in memory once.
    pub stages: Vec<Arc<StageSpec>>,
    /// Sessions at once; none: the operator's setting says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_parallel: Option<u32>,
    /// Checks that are part of every proof.
    pub acceptance: Vec<Check>,
    pub landing: Landing,
    /// Globs of files that judge, from the top of the tree, added to the built-in ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub protected: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change_impact: Option<ChangeImpact>,
    /// Of all its sessions together.
    #[serde(default, skip_serializing_if = "Budget::is_empty")]
    pub budget: Budget,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_limit: Option<OnLimit>,
}

/// When the base branch follows the plan branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Landing {
    /// After every landing.
    Each,
    /// When the plan is complete.
    #[default]
    End,
    /// Only by `loom merge`.
    Manual,
}

/// One unit of planned work, as authored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageSpec {
    pub id: StageId,
    pub name: String,
    pub description: String,
    pub dependencies: Vec<StageId>,
    /// `acceptance`, `truths` and `truth_checks`, in this order.
    pub checks: Box<[Check]>,
    /// Everything else that proves the stage.
    #[serde(default, skip_serializing_if = "Criteria::is_empty")]
    pub criteria: Criteria,
    /// Shell commands, run once in each worktree before the agent starts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub setup: Vec<String>,
    /// Shell commands, run in a worktree before it is removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub teardown: Vec<String>,
    /// Globs of what the stage may change; advice in the signal.
    pub files: Vec<String>,
    /// Where the stage's relative paths start, relative to the top of the tree.
    pub working_dir: String,
    pub stage_type: StageType,
    pub agent: Agent,
    /// Further attempts after the first.
    pub max_retries: u32,
    pub priority: Priority,
    /// Starts held: a person releases it.
    pub hold: bool,
    /// Deadline of each session, in seconds.
    pub timeout_secs: Option<u64>,
    /// Lands without asking once it is proven.
    pub auto_merge: bool,
    /// Of its agent; a `run:` has none.
    #[serde(default)]
    pub sandbox: Sandbox,
    /// Stages of one group are meant to run side by side.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel_group: Option<String>,
    /// Percent of the context window at which a session hands off.
    #[serde(default = "context_budget_default")]
    pub context_budget: u32,
    /// Of all sessions of the stage together.
    #[serde(default, skip_serializing_if = "Budget::is_empty")]
    pub budget: Budget,
    #[serde(default)]
    pub advice: Advice,
}

fn context_budget_default() -> u32 {
    CONTEXT_BUDGET_DEFAULT
}

/// What an agent is told about how to work. Nothing else depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Advice {
    pub execution_mode: ExecutionMode,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code_review: Option<CodeReview>,
    /// The agent may fan out into many subagents.
    pub ultracode: bool,
    /// Who may be given parts of the work, the preferred one first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub implementers: Vec<String>,
    /// How long a subagent may be silent, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subagent_timeout_secs: Option<u64>,
}

/// Whether an agent works alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExecutionMode {
    #[default]
    Single,
    /// With subagents that share the stage.
    Team,
}

/// What a review has to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CodeReview {
    pub dimensions: Vec<String>,
    /// Each dimension needs an answer of its own.
    pub require_all: bool,
}

/// What a stage is for; taken literally, never guessed from its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StageType {
    #[default]
    Standard,
    Knowledge,
    IntegrationVerify,
    KnowledgeDistill,
    CodeReview,
}

impl StageType {
    /// Whether the stage's product is its evidence, so that an empty diff is fine.
    pub fn may_change_nothing(self) -> bool {
        matches!(self, StageType::IntegrationVerify | StageType::CodeReview)
    }
}

/// Who starts first when slots are short; `P0` goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Priority {
    P0,
    P1,
    #[default]
    P2,
    P3,
}

/// Who carries a stage out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "backend", rename_all = "kebab-case")]
pub enum Agent {
    /// A shell command in the worktree, no model.
    Command { run: String },
    /// Claude Code.
    Claude { mode: AgentMode, model: Option<String>, effort: Option<String> },
}

/// How an agent CLI runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AgentMode {
    /// In the host's terminal, to be attached to.
    #[default]
    Interactive,
    /// Without a terminal, events on its output.
    Headless,
}

/// The part of an agent's name that lanes, messages and status use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendKind {
    Command,
    Claude,
}

impl Agent {
    pub fn kind(&self) -> BackendKind {
        match self {
            Agent::Command { .. } => BackendKind::Command,
            Agent::Claude { .. } => BackendKind::Claude,
        }
    }
}

impl std::fmt::Display for BackendKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            BackendKind::Command => "command",
            BackendKind::Claude => "claude",
        })
    }
}

impl Plan {
    pub fn stage(&self, id: &StageId) -> Option<&StageSpec> {
        self.stages.iter().find(|stage| stage.id == *id).map(Arc::as_ref)
    }
    /// The branch on which stages land.
    pub fn branch(&self) -> String {
        format!("loom/_plan/{}", self.id)
    }
    /// Its full ref name.
    pub fn branch_ref(&self) -> String {
        format!("refs/heads/{}", self.branch())
    }
}

/// The branch of a stage's work.
pub fn stage_branch(id: &StageId) -> String {
    format!("loom/{id}")
}
