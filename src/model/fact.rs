//! The file format of the journal. Variants are only added; a field that is
//! added later has a default. Nothing here is a wire type.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::baseline::Baseline;
use super::budget::Spent;
use super::event::{Caller, Entry, EvidenceRef, Ground, PlanSource, RunOptions};
use super::gate::GateSubject;
use super::handoff::Written;
use super::ids::{GateId, Oid, SessionId, StageId};
use super::judge::Touched;
use super::plan::{BackendKind, Plan};
use super::session::{Activity, EndReason, HostIdentity, LaneCause, Preparing, SessionEnd, Suspicion};
use super::stage::{BlockReason, CheckResult, Failure};
use super::usage::{Usage, Zone};

/// Version of the facts in this binary. A newer one is read and not written.
pub const FACT_VERSION: u32 = 1;

/// One thing that is so from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "kebab-case")]
pub enum Fact {
    PlanLoaded {
        plan: Box<Plan>,
        source: PlanSource,
        ground: Ground,
    },
    /// The worktrees of these landed stages are gone; their branches stay until the plan's end.
    WorktreesTidied {
        stages: Vec<StageId>,
        rescued: Vec<String>,
    },
    /// The open plan, or some of its stages, was given up; this is what is left behind.
    PlanReplaced {
        leftovers: Vec<(StageId, Vec<String>)>,
    },
    /// A new version of the plan that is carried out, by `loom plan apply`.
    PlanAmended {
        plan: Box<Plan>,
        source: PlanSource,
    },
    PlanBranchMade {
        commit: Oid,
    },
    DaemonStarted {
        options: RunOptions,
    },
    Stage {
        stage: StageId,
        change: StageChange,
    },
    Session {
        session: SessionId,
        change: SessionChange,
    },
    GateOpened {
        gate: GateId,
        subject: GateSubject,
        question: String,
    },
    GateAnswered {
        gate: GateId,
        approved: bool,
        reason: String,
    },
    /// No session of this backend starts until a person retries.
    BackendParked {
        backend: BackendKind,
        reason: BlockReason,
    },
    BackendFreed {
        backend: BackendKind,
    },
    /// A usage limit or an outage: no session of this backend starts before `until`, then one.
    LaneParked {
        backend: BackendKind,
        cause: LaneCause,
        text: String,
        until: Timestamp,
    },
    /// This session tries whether the lane works again.
    LaneProbed {
        backend: BackendKind,
        session: SessionId,
    },
    /// It does, or a person does not want to wait: then the earlier stops are forgotten too.
    LaneFreed {
        backend: BackendKind,
        forget: bool,
    },
    /// The base branch was seen at `commit`, with commits that Loom did not make.
    BaseMoved {
        commit: Oid,
    },
    /// The base branch's commits are part of the plan branch.
    BaseMerged {
        commit: Oid,
        landed: Oid,
    },
    BaseProofStarted {
        commit: Oid,
        tip: Oid,
    },
    BaseProven {
        commit: Oid,
        tip: Oid,
        landing: Oid,
        tree: Oid,
        checks: Vec<CheckResult>,
    },
    /// The merge of the base branch was not proven; landing waits for a person.
    BaseRejected {
        commit: Oid,
        text: String,
    },
    BaseRequeued,
    /// The worktrees and the branch of a reset or skipped stage are gone.
    StageRemoved {
        stage: StageId,
        rescued: Vec<String>,
    },
    FollowStarted {
        from: Oid,
        to: Oid,
    },
    BaseFollowed {
        commit: Oid,
    },
    BaseStayed {
        why: String,
    },
    /// A person accepted the plan branch where it is.
    TipAccepted {
        commit: Oid,
    },
    ConfigAccepted {
        fingerprint: String,
    },
    /// A person accepted the programs on `PATH` as they are.
    ProgramsAccepted {
        fingerprint: String,
    },
    /// A verdict left this bundle; its digest is part of the journal's chain.
    EvidenceKept {
        evidence: EvidenceRef,
    },
    /// The `teardown` of a worktree that is gone did not do its work.
    TeardownFailed {
        stage: StageId,
        why: String,
    },
    /// What a proof left in the proof checkout, as a digest.
    CachesKept {
        sha256: String,
    },
    Rescued {
        refs: Vec<String>,
    },
    /// A person grants another helping of a budget; it begins where `spent` is. No stage: the plan's.
    BudgetGranted {
        stage: Option<StageId>,
        spent: Spent,
    },
    /// No session starts until a person starts the plan again.
    PlanPaused {
        why: String,
    },
    PlanResumed,
    PlanCompleted,
    PlanCleaned,
    Stopped {
        by: Caller,
    },
}

/// What changed about a stage. See `kernel::world` for what each one does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum StageChange {
    /// Its dependencies are met, or a person released it.
    Readied {
        retry_at: Option<Timestamp>,
    },
    /// A new attempt with a new session.
    Started {
        attempt: u32,
        session: SessionId,
        base: Oid,
    },
    /// Another session of the same attempt.
    Continued {
        session: SessionId,
    },
    /// The session is over and the attempt is not: another one goes on with it, in the same
    /// conversation or in a new one, not before `retry_at`.
    Paused {
        why: String,
        resumes: bool,
        retry_at: Option<Timestamp>,
    },
    /// What a session of the stage leaves for the next one and for dependents.
    HandoffWritten {
        written: Box<Written>,
    },
    /// What must hold on its base does: its first agent may start.
    BeforeHeld {
        checks: Vec<CheckResult>,
    },
    Submitted {
        commit: Oid,
    },
    ProofStarted {
        tip: Oid,
    },
    /// Back to the queue: the daemon died, or the tip moved.
    Requeued,
    /// Its session works for long enough that its base is looked at meanwhile.
    BaselineWanted,
    /// What its checks do on its base.
    BaselineTaken {
        baseline: Box<Baseline>,
    },
    /// A red verdict, back into the living session.
    Returned {
        failure: Failure,
    },
    /// The attempt is over without landing.
    Failed {
        failure: Failure,
        retry_at: Option<Timestamp>,
    },
    Proven {
        tip: Oid,
        landing: Oid,
        tree: Oid,
        checks: Vec<CheckResult>,
        /// Files that judge and that it changes.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        judges: Vec<Touched>,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        changes_nothing: bool,
    },
    Landed {
        landed: Oid,
    },
    /// It has landed, and its new checks are being run on the plan branch.
    ProofAgainStarted {
        tip: Oid,
    },
    /// Its new checks hold there.
    ProvenAgain {
        tip: Oid,
        checks: Vec<CheckResult>,
    },
    Gated {
        gate: GateId,
    },
    /// Its agent says that this check is wrong: the gate asks a person.
    Disputed {
        gate: GateId,
        /// Its name in verdicts.
        check: String,
    },
    /// The gate was answered: back to the queue with the person's approval of `commit`.
    Approved {
        commit: Oid,
    },
    Blocked {
        reason: BlockReason,
    },
    Skipped {
        reason: String,
        go_on: bool,
    },
    /// Starts over from the plan branch.
    Reset {
        reason: String,
    },
    Held,
    Released,
    /// A person's words for the next session.
    Noted {
        text: String,
    },
}

/// What changed about a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum SessionChange {
    Planned {
        attempt: u32,
        backend: BackendKind,
        slot: u32,
        worktree: String,
        conversation: String,
        resumes: bool,
        /// Its agent's shell is in a sandbox.
        #[serde(default)]
        sandboxed: bool,
    },
    /// What comes before its agent goes on.
    Preparing {
        what: Preparing,
    },
    /// The `setup` of its worktree is done.
    SetUp {
        duration_ms: u64,
    },
    Hosted {
        host: HostIdentity,
        token_sha256: String,
    },
    Ending {
        why: EndReason,
    },
    Ended {
        end: SessionEnd,
        exit: super::session::Exit,
    },
    /// A red verdict went back into it.
    Returned,
    /// Its turn ended without a submission and was sent back.
    Reminded,
    Activity {
        activity: Activity,
        /// What a person is asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        asks: Option<String>,
    },
    /// What it has used so far.
    Measured {
        usage: Usage,
    },
    /// These processes outlived it and were ended: name and pid of each.
    ProcessesLeft {
        processes: Vec<String>,
    },
    /// It is looked at again then; `suspect`: why it may hang.
    Looked {
        look_at: Timestamp,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        suspect: Option<Suspicion>,
    },
    /// It was told how near its context budget is.
    Told {
        zone: Zone,
    },
}

/// Why a base branch stays that is not there any more.
pub fn base_is_gone(branch: &str) -> String {
    format!("branch `{branch}` is gone")
}

impl Fact {
    pub fn stage(stage: &StageId, change: StageChange) -> Fact {
        Fact::Stage { stage: stage.clone(), change }
    }
    pub fn session(session: &SessionId, change: SessionChange) -> Fact {
        Fact::Session { session: session.clone(), change }
    }
    /// The merge-queue entry this fact is about, if it is about one.
    pub fn entry(&self) -> Option<Entry> {
        match self {
            Fact::Stage { stage, .. } => Some(Entry::Stage { stage: stage.clone() }),
            Fact::BaseMoved { .. } | Fact::BaseMerged { .. } => Some(Entry::Base),
            _ => None,
        }
    }
}
