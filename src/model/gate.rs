//! A question to a person: answered once, by its id.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ids::{GateId, Oid, StageId};
use super::judge::Touched;
use super::plan::BackendKind;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    pub id: GateId,
    pub subject: GateSubject,
    /// The question, for a person.
    pub question: String,
    pub answer: Option<Answered>,
}

/// What a gate is about; the answer is bound to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "about", rename_all = "kebab-case")]
pub enum GateSubject {
    /// The stage changed nothing (R5).
    EmptyDiff { stage: StageId, commit: Oid },
    /// The stage is proven and does not land by itself.
    Land { stage: StageId, commit: Oid },
    /// The stage is proven and changed files that judge (R4).
    Judges { stage: StageId, commit: Oid, files: Vec<Touched> },
    /// The stage's agent says that a check which failed is wrong.
    Dispute { stage: StageId, commit: Option<Oid>, check: Disputed },
    /// Programs on the `PATH` of the checks appeared or changed since the daemon started.
    Programs { fingerprint: String, changed: Vec<String> },
    /// The plan branch is not where Loom left it.
    PlanBranchMoved { expected: Oid, actual: Option<Oid> },
    /// The base branch holds commits made in a stage's worktree, or was rewound.
    BaseBranchMoved { expected: Oid, actual: Oid },
    /// The base branch has commits of the user and the plan has no acceptance to prove a merge.
    MergeBase { actual: Oid },
    /// The stage has used up its budget (R16).
    Budget { stage: StageId, reached: String },
    /// The plan has used up its budget (R16).
    PlanBudget { reached: String },
    /// A usage limit was met, and the policy is to ask.
    Limit { backend: BackendKind, until: Timestamp },
    /// `.git/config`, hooks or attributes changed since `init`.
    RepositoryConfig { expected: String, actual: String },
}

impl GateSubject {
    /// The stage it is about.
    pub fn stage(&self) -> Option<&StageId> {
        match self {
            GateSubject::EmptyDiff { stage, .. }
            | GateSubject::Land { stage, .. }
            | GateSubject::Judges { stage, .. }
            | GateSubject::Dispute { stage, .. }
            | GateSubject::Budget { stage, .. } => Some(stage),
            _ => None,
        }
    }
    /// Whether nothing lands until it is answered.
    pub fn stops_landing(&self) -> bool {
        match self {
            GateSubject::PlanBudget { .. } | GateSubject::Limit { .. } => false,
            other => other.stage().is_none(),
        }
    }
}

/// A check that an agent says is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disputed {
    /// Its number among those that decide about the stage, from 1.
    pub number: u32,
    /// Its name in verdicts.
    pub name: String,
    /// Why it is wrong, in the agent's words.
    pub reason: String,
    /// Why it failed last.
    pub failed: String,
    /// What it printed then, relative to `.work/`; empty when it printed nothing.
    pub evidence: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    pub approved: bool,
    pub reason: String,
}
