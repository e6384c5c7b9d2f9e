//! What happened outside: a request, or the outcome of an effect. The closed
//! list shows everything that can trigger work.

use serde::{Deserialize, Serialize};

use super::baseline::Baseline;
use super::budget::{Budget, OnLimit};
use super::handoff::Handoff;
use super::ids::{Oid, SessionId, StageId};
use super::plan::{BackendKind, Plan};
use super::session::{Exit, GaveUp, HostIdentity, Preparing};
use super::stage::{BlockCode, CheckResult, Work};
use super::usage::Usage;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A request of a person or an agent; the reply goes to `id`.
    Request {
        id: RequestId,
        caller: Caller,
        request: Request,
    },
    /// The daemon has its world and starts to work.
    DaemonStarted {
        options: RunOptions,
    },
    /// Something changed: derive what should be going on.
    Schedule,
    /// A ref was looked at.
    RefsSeen {
        refs: RefsSeen,
    },
    /// `.git/config`, hooks or attributes were looked at.
    ConfigSeen {
        fingerprint: String,
    },
    PlanBranchMade {
        commit: Oid,
    },
    /// What comes before a session's agent goes on now.
    Preparing {
        session: SessionId,
        what: Preparing,
    },
    /// The `setup` of a session's worktree is done.
    SetUp {
        session: SessionId,
        duration_ms: u64,
    },
    /// What must hold on the base of a stage does.
    BeforeHeld {
        session: SessionId,
        checks: Vec<CheckResult>,
    },
    /// The `teardown` of a worktree that is being removed did not do its work.
    TeardownFailed {
        stage: StageId,
        why: String,
    },
    SessionHosted {
        session: SessionId,
        host: HostIdentity,
        token_sha256: String,
    },
    StartFailed {
        session: SessionId,
        why: StartFailure,
    },
    SessionEnded {
        session: SessionId,
        exit: Exit,
    },
    /// As [`Event::SessionEnded`], and the client said why it gave up.
    SessionGaveUp {
        session: SessionId,
        exit: Exit,
        why: GaveUp,
    },
    /// A silent session was looked at.
    SessionSeen {
        session: SessionId,
        pulse: Pulse,
    },
    /// Processes outlived a session and were ended: name and pid of each.
    ProcessesLeft {
        session: SessionId,
        processes: Vec<String>,
    },
    /// Measured at its end.
    SessionMeasured {
        session: SessionId,
        usage: Usage,
    },
    /// What a session that is over left behind, as far as it can be seen from outside.
    SessionLeft {
        session: SessionId,
        remains: Box<Handoff>,
    },
    Inspected {
        stage: StageId,
        session: SessionId,
        request: Option<RequestId>,
        inspection: Inspection,
    },
    Proved {
        entry: Entry,
        tip: Oid,
        proof: Proof,
        /// Digest of what the proof checkout holds now; none: nothing ran in it.
        kept: Option<String>,
        /// The bundles that its verdicts left.
        evidence: Vec<EvidenceRef>,
        /// What it found out about the stage's base.
        baseline: Option<Box<Baseline>>,
    },
    /// The base of a stage was looked at. None: that made way for a proof, and is tried again.
    BaseLooked {
        stage: StageId,
        baseline: Option<Box<Baseline>>,
        /// As in [`Event::Proved`].
        kept: Option<String>,
        evidence: Vec<EvidenceRef>,
    },
    /// Programs on the `PATH` of the checks are not those that the daemon started with.
    ProgramsSeen {
        fingerprint: String,
        changed: Vec<String>,
    },
    Landed {
        entry: Entry,
        tip: Oid,
        landing: Oid,
    },
    /// The plan branch was not moved. `moved`: it was not where it should have been.
    LandRefused {
        entry: Entry,
        moved: bool,
        why: String,
    },
    BaseFollowed {
        commit: Oid,
    },
    BaseStayed {
        why: String,
    },
    StageRemoved {
        stage: StageId,
        rescued: Vec<String>,
    },
    WorktreesTidied {
        stages: Vec<StageId>,
        rescued: Vec<String>,
    },
    PlanCleaned {
        rescued: Vec<String>,
    },
    /// An effect whose outcome says nothing more is over.
    EffectDone,
    /// An effect of no particular stage failed.
    EffectFailed {
        effect: &'static str,
        why: String,
    },
}

/// What can be seen of a silent session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulse {
    /// The last sign of the model or of a tool since the session began.
    pub sign_at: Option<jiff::Timestamp>,
    pub doing: Doing,
    /// How long it was since the look before, in time that the machine was awake. Zero where that
    /// cannot be told: no look before, or the clock was set since.
    pub awake: std::time::Duration,
    /// When a person was at its terminal last: now, while one is attached.
    pub person_at: Option<jiff::Timestamp>,
}

/// What a session is doing, as far as its client's records say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// Nobody can tell.
    Unknown,
    /// The model was asked and has not answered.
    Working,
    /// A tool runs, for as long as it takes.
    ToolOpen,
    AsksPerson,
    /// Its turn is over and nothing runs.
    TurnOver,
    /// Its turn is over; a command in its background may wake it.
    Background,
}

impl Doing {
    /// In words for a status line.
    pub fn as_str(self, has_answered: bool) -> &'static str {
        match self {
            Doing::Working if !has_answered => "no answer from the model",
            Doing::TurnOver => "its turn is over and nothing is submitted",
            Doing::Background => "its turn is over and only its background runs",
            _ => "no sign of life",
        }
    }
}

/// Names one pending request inside one dispatcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub u64);

/// Who asks, as proven by the server, never as claimed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "caller", rename_all = "kebab-case")]
pub enum Caller {
    /// A person, or a program they started outside every session.
    Operator,
    /// The holder of this session's token.
    Agent { session: SessionId },
}

/// Everything that can be asked for. One variant, one verb of the command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Request {
    LoadPlan {
        plan: Box<Plan>,
        source: PlanSource,
        ground: Ground,
        clean: bool,
    },
    /// A new version of the plan. `restart`: stages that follow it at once.
    ApplyPlan {
        plan: Box<Plan>,
        source: PlanSource,
        restart: Vec<StageId>,
    },
    Submit {
        stage: StageId,
    },
    Block {
        stage: StageId,
        reason: String,
    },
    /// The agent says that a check which failed is wrong; `check` is its number, from 1.
    Dispute {
        stage: StageId,
        check: u32,
        reason: String,
    },
    Retry {
        stage: StageId,
        context: Option<String>,
    },
    /// Retry in the same conversation.
    Resume {
        stage: StageId,
    },
    Reset {
        stage: StageId,
        reason: String,
    },
    Hold {
        stage: StageId,
    },
    Release {
        stage: StageId,
    },
    Skip {
        stage: StageId,
        reason: String,
        go_on: bool,
    },
    Approve {
        subject: GateTarget,
        reason: String,
    },
    Reject {
        subject: GateTarget,
        reason: String,
    },
    Merge {
        stage: Option<StageId>,
    },
    KillSession {
        session: SessionId,
    },
    Stop {
        kill: bool,
    },
    /// The agent's turn ended (its stop hook): may it? `waits`: a command in its background
    /// will wake it again.
    TurnEnded {
        session: SessionId,
        #[serde(default)]
        waits: bool,
    },
    /// The agent's turn failed in the client (API error, lost login).
    TurnFailed {
        session: SessionId,
        why: GaveUp,
    },
    /// The agent is working, idle, or waits for a person.
    Activity {
        session: SessionId,
        activity: super::session::Activity,
        /// What a person is asked.
        #[serde(default)]
        asks: Option<String>,
    },
    /// The stage's session waits for a person, who is asked this; none: it goes on. For agents
    /// without hooks.
    Waits {
        stage: StageId,
        asks: Option<String>,
    },
    /// What the session has used so far, as its hooks read it. `hears`: the answer reaches the agent.
    Measured {
        session: SessionId,
        usage: Usage,
        hears: bool,
    },
    /// What the agent leaves for the next session and for dependents.
    Handoff {
        stage: StageId,
        handoff: Box<Handoff>,
    },
    /// The client is about to compact the conversation; `remains` is what can be seen from outside.
    Compacting {
        session: SessionId,
        remains: Box<Handoff>,
    },
}

/// Who may ask for something: the one table of rights, for every door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// A person, outside of every session.
    Operator,
    /// The holder of the stage's lease, and a person.
    Stage,
    /// The session itself, and nobody for it.
    Session,
}

impl Request {
    /// Who may ask for this.
    pub fn right(&self) -> Right {
        match self {
            Request::LoadPlan { .. }
            | Request::ApplyPlan { .. }
            | Request::Retry { .. }
            | Request::Resume { .. }
            | Request::Reset { .. }
            | Request::Hold { .. }
            | Request::Release { .. }
            | Request::Skip { .. }
            | Request::Approve { .. }
            | Request::Reject { .. }
            | Request::Merge { .. }
            | Request::KillSession { .. }
            | Request::Stop { .. } => Right::Operator,
            Request::Submit { .. }
            | Request::Block { .. }
            | Request::Dispute { .. }
            | Request::Handoff { .. }
            | Request::Waits { .. } => Right::Stage,
            Request::TurnEnded { .. }
            | Request::TurnFailed { .. }
            | Request::Activity { .. }
            | Request::Measured { .. }
            | Request::Compacting { .. } => Right::Session,
        }
    }
}

/// What `approve` and `reject` name: the open gate of a stage, or a gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "target", rename_all = "kebab-case")]
pub enum GateTarget {
    Stage { stage: StageId },
    Gate { gate: super::ids::GateId },
}

/// Where a plan came from, pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanSource {
    /// Relative to the project where it can be.
    pub path: String,
    /// SHA-256 of the file as loaded.
    pub sha256: String,
}

/// The repository at the time a plan is loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ground {
    /// Short name of the base branch.
    pub base_branch: String,
    pub base_commit: Oid,
    /// Digest of `.git/config`, hooks, `info/attributes` and `objects/info/alternates`.
    pub config: String,
    /// Random; makes conversation ids unique.
    pub nonce: String,
}

/// How this daemon was asked to run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RunOptions {
    /// Overrides the plan's `max_parallel`.
    pub max_parallel: Option<u32>,
    /// Only this stage and what it depends on.
    pub only: Option<StageId>,
    /// Prove, but do not land without a person.
    pub no_merge: bool,
    /// Sessions get no sandbox, whatever the plan says.
    #[serde(default)]
    pub no_sandbox: bool,
    /// Where windows open that show sessions.
    #[serde(default)]
    pub terminal: super::terminal::Terminal,
    /// First pause after a crash, in milliseconds; none: the default.
    pub backoff_ms: Option<u64>,
    /// How long a session may be silent, in milliseconds; the other limits of the watch are
    /// scaled with it. None: the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub watch_ms: Option<u64>,
    /// Overrides the plan's `on_limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_limit: Option<OnLimit>,
    /// What counts where the plan says nothing.
    #[serde(default, skip_serializing_if = "Defaults::is_empty")]
    pub defaults: Defaults,
    /// The keeper started it again: no person asked for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub restarted: bool,
}

/// What the operator has set for every plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Defaults {
    pub max_parallel: Option<u32>,
    pub on_limit: Option<OnLimit>,
    /// Of a plan.
    pub budget: Budget,
    /// Of each stage.
    pub stage_budget: Budget,
}

impl Defaults {
    fn is_empty(&self) -> bool {
        *self == Defaults::default()
    }
}

/// An entry of the merge queue.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "kebab-case")]
pub enum Entry {
    Stage {
        stage: StageId,
    },
    /// A stage that has landed and whose checks are different now: proven again where the plan
    /// branch is. Nothing moves.
    Again {
        stage: StageId,
    },
    /// The user's own commits on the base branch.
    Base,
}

impl Entry {
    /// Whose work it is; none: the user's own.
    pub fn stage(&self) -> Option<&StageId> {
        match self {
            Entry::Stage { stage } | Entry::Again { stage } => Some(stage),
            Entry::Base => None,
        }
    }
}

/// What Loom found in a worktree at submission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Inspection {
    /// `HEAD`, on the stage's branch, packed durably.
    Clean { head: Oid, changes_nothing: bool },
    /// Work that is not committed.
    Dirty { files: Vec<String> },
    /// The tree cannot be judged: gone, on another branch, or history was rewritten.
    Unfit { why: String },
    /// Loom may not run git commands there now; a gate says why.
    Stopped { why: String },
}

/// A bundle of evidence, by its place and its digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceRef {
    /// The stage, or `_base`.
    pub of: String,
    /// What was proven or not.
    pub commit: Oid,
    /// Relative to `.work/`.
    pub path: String,
    pub sha256: String,
}

/// The outcome of one proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// Every check passed on exactly `tree`; `landing` is the commit that carries it.
    Passed {
        landing: Oid,
        tree: Oid,
        checks: Vec<CheckResult>,
        /// Files that judge and that it changes.
        judges: Vec<super::judge::Touched>,
        /// The tree is that of the tip.
        changes_nothing: bool,
    },
    Failed {
        checks: Vec<CheckResult>,
        alone: AloneVerdict,
        /// What was committed since the last red verdict; none: there was none.
        work: Option<Box<Work>>,
    },
    /// A gate was opened that has to be answered first.
    Stopped,
    Conflict {
        files: Vec<String>,
    },
    /// Loom could not run it: disk, git, missing tools.
    Broken {
        why: String,
    },
}

/// Whose fault a red merged tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AloneVerdict {
    /// The stage's base is the tip: there is nothing else to blame.
    SameTree,
    /// The stage's own commit fails too.
    AlsoFails,
    /// The commit passes alone: only the combination fails.
    PassesAlone,
}

/// Refs as they are now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefsSeen {
    /// Where the world had the plan branch when it was asked; none: nothing is said of it.
    pub asked_tip: Option<Oid>,
    /// Where the world had the base branch then.
    pub asked_base: Oid,
    pub plan_tip: Option<Oid>,
    pub base_tip: Option<Oid>,
    /// The base branch moved forward from where Loom knew it, by fast-forward.
    pub base_is_forward: bool,
    /// The new base commits contain one made in a stage's worktree that has not landed.
    pub base_has_stage_work: bool,
    /// The base branch is an ancestor of, or equal to, the plan branch.
    pub base_is_in_plan: bool,
}

/// Why a session could not be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "failure", rename_all = "kebab-case")]
pub enum StartFailure {
    /// The daemon died in between; nothing ran.
    Interrupted,
    /// Mending it takes a person.
    Permanent { code: BlockCode, backend: BackendKind, text: String },
    /// It may work next time.
    Passing { text: String },
}
