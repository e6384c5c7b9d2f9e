//! A plan as authored: what is to be done and what proves it. Never changes
//! while it runs; the state of a stage is [`crate::model::stage`].

use serde::{Deserialize, Serialize};

use super::ids::{PlanId, StageId};

/// One authored plan, validated: ids are unique, dependencies exist, no cycle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub id: PlanId,
    /// The first heading.
    pub title: String,
    /// The prose around the block, passed to agents.
    pub overview: String,
    /// In the order of the file; a stage may depend on a later one.
    pub stages: Vec<StageSpec>,
    /// Sessions at once.
    pub max_parallel: u32,
    /// Checks that are part of every proof.
    pub acceptance: Vec<Check>,
    pub landing: Landing,
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
    pub checks: Vec<Check>,
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

/// A shell command that Loom runs in the proof checkout, and what it must do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub command: String,
    pub exit_code: i32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stdout_contains: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stdout_not_contains: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stderr_contains: Vec<String>,
    #[serde(default)]
    pub stderr_empty: bool,
    /// Deadline in seconds.
    pub timeout_secs: Option<u64>,
    /// Declared to pass already before the stage.
    #[serde(default)]
    pub guard: bool,
    pub description: Option<String>,
}

impl Check {
    /// A command that must exit 0.
    pub fn command(command: impl Into<String>) -> Self {
        Check {
            command: command.into(),
            exit_code: 0,
            stdout_contains: Vec::new(),
            stdout_not_contains: Vec::new(),
            stderr_contains: Vec::new(),
            stderr_empty: false,
            timeout_secs: None,
            guard: false,
            description: None,
        }
    }
}

impl Plan {
    pub fn stage(&self, id: &StageId) -> Option<&StageSpec> {
        self.stages.iter().find(|stage| stage.id == *id)
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
