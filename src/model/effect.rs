//! What Loom will do about it, as data. Every effect is idempotent: its intent
//! is a fact before it runs, and running it again changes nothing.

use std::time::Duration;

use super::baseline::Look;
use super::check::{Check, Setup};
use super::event::{Entry, RequestId};
use super::ids::{Oid, SessionId, StageId};
use super::plan::Agent;
use super::session::EndReason;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Create the plan branch at `commit` unless it is there.
    MakePlanBranch { branch: String, commit: Oid },
    /// Prepare the worktree and start a host that waits at the barrier.
    Start(Box<Start>),
    /// Open the start barrier, and a window that shows the session.
    OpenBarrier { session: SessionId, viewer: super::terminal::Terminal },
    /// Look what a session is doing that has been silent.
    LookAtSession { session: SessionId, since: jiff::Timestamp },
    /// Wait for the end of a session's host.
    Watch { session: SessionId },
    /// End a session's whole process tree after `grace`.
    EndSession { session: SessionId, why: EndReason, grace: Duration },
    /// End the preparation of a session that was given up before it had a host.
    CancelStart { session: SessionId },
    /// Look at a worktree that was submitted.
    Inspect { stage: StageId, session: SessionId, worktree: String, base: Oid, request: Option<RequestId> },
    /// Run the checks of a stage on its base, while its session works.
    LookAtBase(Box<Look>),
    /// Merge with the tip and run the checks on the merged tree.
    Prove(Box<Prove>),
    /// Move the plan branch by compare-and-swap.
    Land { entry: Entry, branch: String, tip: Oid, landing: Oid },
    /// Let the base branch follow the plan branch.
    FollowBase { plan_branch: String, branch: String, from: Oid, to: Oid },
    /// Look at the refs and the repository's configuration.
    LookAtRefs { plan_branch: String, tip: Option<Oid>, base_branch: String, base: Oid, unlanded: Vec<Oid> },
    /// Put the plan branch back (the other commit is rescued first).
    RestorePlanBranch { branch: String, actual: Option<Oid>, expected: Oid },
    /// Rescue and remove a stage's worktrees and branch.
    RemoveStage { stage: StageId, worktrees: Vec<String> },
    /// Rescue and remove the worktrees of landed stages.
    TidyWorktrees { stages: Vec<(StageId, Vec<String>)> },
    /// The plan is over: rescue and remove worktrees, keep branches under `refs/loom/done/`.
    CleanPlan { plan: super::ids::PlanId, stages: Vec<(StageId, Vec<String>)> },
    /// Answer a request.
    Reply { request: RequestId, answer: Answer },
    /// End the daemon.
    Shutdown,
}

/// Everything a session's start needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    pub session: SessionId,
    pub stage: StageId,
    pub attempt: u32,
    pub agent: Agent,
    pub working_dir: String,
    pub worktree: String,
    pub base: Oid,
    pub slot: u32,
    pub conversation: String,
    pub resumes: bool,
    /// No session of the stage was there before in this plan.
    pub is_first: bool,
    /// None: the agent's shell may do what the user may.
    pub sandbox: Option<super::sandbox::Sandbox>,
    pub permission_mode: Option<super::sandbox::PermissionMode>,
    /// Shell commands run without a person's word, when the guard has nothing against them.
    pub auto_allow: bool,
    /// The other stages of the plan.
    pub siblings: Vec<StageId>,
    pub timeout: Duration,
    /// Run once in each worktree, before the agent.
    pub setup: Vec<String>,
    /// Run before the worktree is removed.
    pub teardown: Vec<String>,
    /// What must hold on the base before any agent of the stage; none any more once one was there.
    pub before: Vec<Check>,
}

/// Everything a proof needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prove {
    pub entry: Entry,
    pub tip: Oid,
    pub commit: Oid,
    /// Where the stage's branch started.
    pub base: Oid,
    pub checks: Vec<Check>,
    /// What else proves the stage.
    pub criteria: super::check::Criteria,
    pub impact: Option<super::check::ChangeImpact>,
    /// Whether its results are compared with those on the base.
    pub compares: bool,
    /// What the checks did on the base, as far as it is known.
    pub baseline: Option<super::baseline::Baseline>,
    /// What the last red verdict was about.
    pub last: Option<Oid>,
    pub working_dir: String,
    /// Commit message of the landing.
    pub message: String,
    /// Seconds since the epoch: the landing's date, so that a redo gives the same commit.
    pub date: i64,
    /// Run in the proof checkout before the checks, where they have not been.
    pub setup: Vec<Setup>,
    /// A tree that these very checks already passed on, with their results.
    pub proven: Option<(Oid, Vec<super::stage::CheckResult>)>,
    /// Digest of what the last proof left in the proof checkout; anything else there is not trusted.
    pub kept: Option<String>,
    /// Fingerprint of changed programs on `PATH` that a person accepted.
    pub programs: Option<String>,
    /// Globs of the plan: files that judge.
    pub protected: Vec<String>,
    /// Globs of what the stage may change, from the top of the tree.
    pub files: Vec<String>,
    /// Where the plan file is in the tree.
    pub plan_path: String,
    /// SHA-256 of the plan as pinned.
    pub plan_sha256: String,
}

impl Prove {
    /// What it takes to look at the base of the stage that is proven.
    pub fn look(&self, stage: &StageId) -> Look {
        Look {
            stage: stage.clone(),
            base: self.base.clone(),
            checks: self.checks.clone(),
            criteria: self.criteria.clone(),
            impact: self.impact.clone(),
            setup: self.setup.clone(),
            working_dir: self.working_dir.clone(),
            kept: self.kept.clone(),
            programs: self.programs.clone(),
            plan_path: self.plan_path.clone(),
            plan_sha256: self.plan_sha256.clone(),
            known: self.baseline.clone(),
        }
    }
}

/// The answer to a request that was not refused.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Answer {
    /// Done; one sentence about what happens now.
    Done { text: String },
    /// Submitted: the verdict follows.
    Submitted { commit: Oid },
    /// A turn may end.
    TurnMayEnd,
    /// A turn goes on with this text.
    TurnGoesOn { text: String },
    /// Noted; the agent is told this.
    Advice { text: String },
    /// A verdict is pending: wait for the stage's next change and ask again.
    TurnWaits,
    /// Refused: what, why, what to type next.
    Refused { refusal: super::refusal::Refusal },
}
