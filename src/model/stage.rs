//! The state of a stage. Every state owns the data that makes sense in it;
//! there is no flag beside a state that could contradict it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::baseline::OnBase;
use super::ids::{GateId, Oid, SessionId};

/// Where a stage is. CONTRACT names in kebab case are the names on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum StageState {
    /// A dependency is not merged yet.
    Waiting,
    /// May start, unless held or not before `retry_at`.
    Ready { retry_at: Option<Timestamp> },
    /// Exactly one session holds the lease.
    Running { session: SessionId },
    /// Submitted: in the merge queue. `session` is the one that waits for the verdict, if it lives.
    Verifying { commit: Oid, phase: Phase, session: Option<SessionId> },
    /// A question to a person is open; `commit` is what it is about.
    Gated { gate: GateId, commit: Option<Oid> },
    /// Needs a person or a retry.
    Blocked { reason: BlockReason },
    /// `landed` is the proven commit on the plan branch that carries `commit`.
    Merged { commit: Oid, landed: Oid },
    /// By a person, with a reason. `go_on`: dependents may start without it.
    Skipped { reason: String, go_on: bool },
}

/// How far the merge queue is with a stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "kebab-case")]
pub enum Phase {
    Queued,
    /// Being merged with `tip` and proven on the merged tree.
    Proving {
        tip: Oid,
    },
    /// Proven; the plan branch is being moved from `tip` to `landing`.
    Landing {
        tip: Oid,
        landing: Oid,
    },
}

/// The name of a state without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StateKind {
    Waiting,
    Ready,
    Running,
    Verifying,
    Gated,
    Blocked,
    Merged,
    Skipped,
}

impl StateKind {
    pub const ALL: [StateKind; 8] = [
        StateKind::Waiting,
        StateKind::Ready,
        StateKind::Running,
        StateKind::Verifying,
        StateKind::Gated,
        StateKind::Blocked,
        StateKind::Merged,
        StateKind::Skipped,
    ];
    pub fn as_str(self) -> &'static str {
        match self {
            StateKind::Waiting => "waiting",
            StateKind::Ready => "ready",
            StateKind::Running => "running",
            StateKind::Verifying => "verifying",
            StateKind::Gated => "gated",
            StateKind::Blocked => "blocked",
            StateKind::Merged => "merged",
            StateKind::Skipped => "skipped",
        }
    }
}

impl StageState {
    pub fn kind(&self) -> StateKind {
        match self {
            StageState::Waiting => StateKind::Waiting,
            StageState::Ready { .. } => StateKind::Ready,
            StageState::Running { .. } => StateKind::Running,
            StageState::Verifying { .. } => StateKind::Verifying,
            StageState::Gated { .. } => StateKind::Gated,
            StageState::Blocked { .. } => StateKind::Blocked,
            StageState::Merged { .. } => StateKind::Merged,
            StageState::Skipped { .. } => StateKind::Skipped,
        }
    }
    /// The session that holds the stage's lease, if one does.
    pub fn lease(&self) -> Option<&SessionId> {
        match self {
            StageState::Running { session } => Some(session),
            StageState::Verifying { session, .. } => session.as_ref(),
            _ => None,
        }
    }
    /// The commit that is being proven, if one is.
    pub fn submitted(&self) -> Option<&Oid> {
        match self {
            StageState::Verifying { commit, .. } => Some(commit),
            _ => None,
        }
    }
    /// Whether dependents may start.
    pub fn lets_dependents_start(&self) -> bool {
        matches!(self, StageState::Merged { .. } | StageState::Skipped { go_on: true, .. })
    }
    /// Whether nothing more will happen without a person.
    pub fn is_final(&self) -> bool {
        matches!(self, StageState::Merged { .. } | StageState::Skipped { .. })
    }
}

/// Why a stage cannot go on by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockReason {
    pub code: BlockCode,
    /// One sentence for a person.
    pub text: String,
    /// The files it is about, when it is about files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<String>,
}

/// The reason as a code that scripts can match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BlockCode {
    ChecksFailed,
    AttemptsUsedUp,
    MergeConflict,
    AgentMissing,
    NotOnboarded,
    NotLoggedIn,
    AgentRefused,
    SandboxMissing,
    WorktreeFailed,
    ProofFailed,
    ByAgent,
    ByPerson,
    Rejected,
    SetupFailed,
    BeforeFailed,
}

impl BlockCode {
    pub fn as_str(self) -> &'static str {
        match self {
            BlockCode::ChecksFailed => "checks-failed",
            BlockCode::AttemptsUsedUp => "attempts-used-up",
            BlockCode::MergeConflict => "merge-conflict",
            BlockCode::AgentMissing => "agent-missing",
            BlockCode::NotOnboarded => "not-onboarded",
            BlockCode::NotLoggedIn => "not-logged-in",
            BlockCode::AgentRefused => "agent-refused",
            BlockCode::SandboxMissing => "sandbox-missing",
            BlockCode::WorktreeFailed => "worktree-failed",
            BlockCode::ProofFailed => "proof-failed",
            BlockCode::ByAgent => "by-agent",
            BlockCode::ByPerson => "by-person",
            BlockCode::Rejected => "rejected",
            BlockCode::SetupFailed => "setup-failed",
            BlockCode::BeforeFailed => "before-failed",
        }
    }
    /// Whether every session of the same backend would fail the same way, so
    /// that no other one is started until a person has mended it.
    pub fn parks_the_backend(self) -> bool {
        matches!(
            self,
            BlockCode::AgentMissing | BlockCode::NotOnboarded | BlockCode::NotLoggedIn | BlockCode::SandboxMissing
        )
    }
}

/// Why one attempt did not land; told to the next one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub attempt: u32,
    /// One sentence.
    pub text: String,
    /// The checks that failed, with the end of their output.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<CheckResult>,
    /// What was proven, where it came to a verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<Oid>,
    /// What is different from the verdict before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Since>,
}

/// What is different between two red verdicts of a stage, in lines for its agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Since {
    /// Checks, or single tests of them, that failed before too.
    pub still: Vec<String>,
    pub new: Vec<String>,
    pub fixed: Vec<String>,
    pub work: Work,
}

/// What was committed between two submissions, as far as it is shown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Work {
    /// Short id and subject, newest first.
    pub commits: Vec<String>,
    /// Paths, each with the lines that came and went.
    pub files: Vec<String>,
    /// There is more of either.
    pub is_cut: bool,
}

/// What one check did; the evidence of a verdict.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckResult {
    pub command: String,
    pub passed: bool,
    /// What was expected and not seen; none when it passed.
    pub why: Option<String>,
    pub exit: Option<i32>,
    pub duration_ms: u64,
    /// The end of its output.
    pub tail: String,
    /// SHA-256 of its whole output, also of what the evidence left out.
    pub output_sha256: String,
    /// Its kept output, relative to `.work/`; empty when it printed nothing.
    pub evidence: String,
    /// SHA-256 of that file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub evidence_sha256: String,
    /// The tests that ran, where its runner said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
    /// Runs that failed before the one that passed: it is flaky.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub failed_runs: u32,
    /// Tracked files that it changed: they were put back before anything else looked at them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<String>,
    /// Processes that outlived it, and were ended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leftovers: Vec<String>,
    /// Its failures by identity, as far as they are recognised.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<String>,
    /// Digest of why and how it failed, without what differs from run to run; empty when it passed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub identity: String,
    /// What it did on the stage's base; none: nobody looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<OnBase>,
    /// It failed, and the plan only warns of this failure.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tolerated: bool,
    /// More about the comparison with the base, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

impl CheckResult {
    /// Whether it does not stand in the way of landing.
    pub fn holds(&self) -> bool {
        self.passed || self.tolerated
    }
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

/// Tests, as a runner counted them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub ran: u64,
    pub failed: u64,
    pub skipped: u64,
}
