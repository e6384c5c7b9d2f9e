//! The world: the fold of all facts. `apply` is total: a journal that loads is
//! a world that exists. Live events, replay and the simulator share it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::context::after;
use super::lane::Lane;
use crate::model::baseline::Baseline;
use crate::model::budget::Spent;
use crate::model::check::Check;
use crate::model::event::{Entry, Ground, PlanSource, RunOptions};
use crate::model::fact::{Fact, SessionChange, StageChange};
use crate::model::gate::{Answered, Gate};
use crate::model::handoff::{Lists, Written};
use crate::model::ids::{GateId, Oid, SessionId, StageId};
use crate::model::judge::Touched;
use crate::model::limits::LANE_DECAY;
use crate::model::plan::{BackendKind, Plan, StageSpec};
use crate::model::session::{Activity, Session, SessionState};
use crate::model::stage::{BlockReason, CheckResult, Failure, Phase, StageState};
use crate::model::usage::Zone;

/// Everything that is so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct World {
    /// None before the first `loom init`.
    pub run: Option<Run>,
    /// Options of the daemon that ran last.
    pub options: RunOptions,
    /// Work put aside before something was removed, oldest first.
    pub rescued: Vec<String>,
    /// Numbers every gate of the project.
    pub gates_opened: u32,
    /// Worktrees and branches of a plan that was replaced; removed before a stage of the same name starts.
    pub leftovers: BTreeMap<StageId, Vec<String>>,
    /// Sessions begun under each name, over all plans: a session's folder is never used again.
    pub fences: BTreeMap<StageId, u32>,
    /// Worktrees that went although their `teardown` did not do its work, and why it did not.
    pub teardowns: BTreeMap<StageId, String>,
    /// Digest of what the last proof left in the proof checkout.
    pub kept: Option<String>,
    /// Changed programs on `PATH` that a person accepted, as a fingerprint.
    pub programs: Option<String>,
}

/// One plan being carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub plan: Plan,
    pub source: PlanSource,
    /// 1, and one more with each `loom plan apply`.
    pub version: u32,
    pub ground: Ground,
    /// Tip of the plan branch as Loom left it; none until the branch is there.
    pub tip: Option<Oid>,
    /// The base branch as Loom last saw and accepted it.
    pub base: Oid,
    pub base_entry: BaseEntry,
    pub stages: BTreeMap<StageId, Stage>,
    pub sessions: BTreeMap<SessionId, Session>,
    pub gates: BTreeMap<GateId, Gate>,
    /// The merge queue, head first.
    pub queue: Vec<Entry>,
    /// A stage that has landed and is being proven again, and where.
    pub again: Option<(StageId, Oid)>,
    pub parked: BTreeMap<BackendKind, BlockReason>,
    /// Backends that a usage limit or an outage has stopped.
    pub lanes: BTreeMap<BackendKind, Lane>,
    /// A fast-forward of the base branch that was started and not seen to end.
    pub following: Option<(Oid, Oid)>,
    /// Why the base branch did not follow.
    pub base_stays: Option<String>,
    pub end: PlanEnd,
    /// Why no session starts until a person starts the plan again.
    pub paused: Option<String>,
    /// Where the present helping of the plan's budget began.
    pub helping: Spent,
}

/// How far the end of the plan is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanEnd {
    Open,
    Completed,
    Cleaned,
}

/// The user's own commits on the base branch, on their way into the plan branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BaseEntry {
    Absent,
    Queued {
        commit: Oid,
    },
    Proving {
        commit: Oid,
        tip: Oid,
    },
    Landing {
        commit: Oid,
        tip: Oid,
        landing: Oid,
    },
    /// Not proven: nothing lands until a person has seen to it.
    Rejected {
        commit: Oid,
        text: String,
    },
}

/// A stage's definition and how far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// The version that its attempt follows.
    pub spec: Arc<StageSpec>,
    /// A newer version, which the next attempt follows.
    pub next_spec: Option<Arc<StageSpec>>,
    /// What the plan asked of every stage when the proof that runs was begun, where its newest
    /// version asks for something else. What it lands with is proven again.
    pub asked: Option<Vec<Check>>,
    pub state: StageState,
    pub held: bool,
    /// Attempts begun since the last reset.
    pub attempts: u32,
    /// Attempts begun since a person last said `retry`; compared with `max_retries`.
    pub tries: u32,
    /// Crashes in a row; decides the backoff.
    pub crashes: u32,
    /// Sessions begun, ever: the fence of the newest lease.
    pub sessions: u32,
    /// Where the stage's branch starts; none before the first attempt.
    pub base: Option<Oid>,
    /// What went wrong since the last landing or reset, newest last.
    pub failures: Vec<Failure>,
    /// A person's words for the next session.
    pub note: Option<String>,
    /// The tree that this stage's checks passed on last, with their results.
    pub proven: Option<(Oid, Vec<CheckResult>)>,
    /// What its checks do on its base, where somebody has looked.
    pub baseline: Option<Box<Baseline>>,
    /// Its session works for long enough that somebody looks.
    pub wants_baseline: bool,
    /// The results of the newest verdict.
    pub checks: Vec<CheckResult>,
    /// Files that judge, as the last proven commit changes them.
    pub judges: Vec<Touched>,
    /// The last proven commit has the tree of the tip it was merged with.
    pub changes_nothing: bool,
    /// The commit that the newest red verdict was about.
    pub judged: Option<Oid>,
    /// Checks, by name, that its agents said are wrong.
    pub disputed: BTreeSet<String>,
    /// A commit that a person approved; it stays approved as long as it is the one.
    pub approved: Option<Oid>,
    /// An agent was there since it last started over: `before_stage` is a thing of the past.
    pub is_begun: bool,
    /// Its worktrees are gone: it has landed.
    pub is_tidied: bool,
    /// A reset removes its worktrees and branch before it may start again.
    pub removing: bool,
    /// The next session continues this conversation.
    pub resume: Option<String>,
    /// Why its attempt waits for another session; none: the next session is a new attempt.
    pub paused: Option<String>,
    /// Times this attempt was handed off.
    pub handoffs: u32,
    /// The newest handoff.
    pub handoff: Option<Box<Written>>,
    /// What dependents get: the newest lists that have anything in them.
    pub lists: Lists,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    /// When the pause before the next attempt began, by the clock of then.
    pub paused_at: Option<Timestamp>,
    /// Where the present helping of its budget began.
    pub helping: Spent,
}

impl Stage {
    pub(super) fn new(spec: Arc<StageSpec>) -> Self {
        Stage {
            next_spec: None,
            asked: None,
            held: spec.hold,
            state: StageState::Waiting,
            attempts: 0,
            tries: 0,
            crashes: 0,
            sessions: 0,
            base: None,
            failures: Vec::new(),
            note: None,
            proven: None,
            baseline: None,
            wants_baseline: false,
            checks: Vec::new(),
            judges: Vec::new(),
            changes_nothing: false,
            judged: None,
            disputed: BTreeSet::new(),
            approved: None,
            is_begun: false,
            is_tidied: false,
            removing: false,
            resume: None,
            paused: None,
            handoffs: 0,
            handoff: None,
            lists: Lists::default(),
            started_at: None,
            ended_at: None,
            paused_at: None,
            helping: Spent::default(),
            spec,
        }
    }

    /// Folds one change. Total: the rules were evaluated when it was recorded.
    pub fn apply(&mut self, change: &StageChange, at: Timestamp) {
        match change {
            StageChange::Readied { retry_at } => {
                match self.state {
                    StageState::Blocked { .. } => (self.tries, self.crashes, self.paused) = (0, 0, None),
                    // The attempt was taken back: nothing of it counts.
                    StageState::Running { .. } => self.tries = self.tries.saturating_sub(1),
                    _ => {}
                }
                self.state = StageState::Ready { retry_at: *retry_at };
                self.ended_at = None;
            }
            StageChange::Paused { why, retry_at, resumes } => {
                self.paused = Some(why.clone());
                self.paused_at = Some(at);
                self.handoffs += u32::from(!resumes);
                self.state = StageState::Ready { retry_at: *retry_at };
            }
            StageChange::HandoffWritten { written } => self.keep_handoff(written),
            StageChange::Started { attempt, session, base } => self.start(*attempt, session, base, at),
            StageChange::Continued { session } => self.go_on(session),
            StageChange::Submitted { commit } => {
                let session = self.state.lease().cloned();
                self.state = StageState::Verifying { commit: commit.clone(), phase: Phase::Queued, session };
            }
            StageChange::ProofStarted { tip } => self.set_phase(Phase::Proving { tip: tip.clone() }),
            StageChange::Requeued => self.set_phase(Phase::Queued),
            StageChange::BaselineWanted => self.wants_baseline = true,
            StageChange::BaselineTaken { baseline } => {
                (self.baseline, self.wants_baseline) = (Some(baseline.clone()), false);
            }
            StageChange::Returned { failure } => self.return_to_session(failure),
            StageChange::Failed { failure, retry_at } => self.fail(failure, *retry_at, at),
            StageChange::Proven { tip, landing, tree, checks, judges, changes_nothing } => {
                self.checks.clone_from(checks);
                self.judges.clone_from(judges);
                self.changes_nothing = *changes_nothing;
                self.proven = Some((tree.clone(), checks.clone()));
                self.set_phase(Phase::Landing { tip: tip.clone(), landing: landing.clone() });
            }
            StageChange::Landed { landed } => {
                if let StageState::Verifying { commit, .. } = &self.state {
                    self.state = StageState::Merged { commit: commit.clone(), landed: landed.clone() };
                }
                self.ended_at = Some(at);
                self.failures.clear();
            }
            StageChange::ProofAgainStarted { .. } | StageChange::BeforeHeld { .. } => {}
            StageChange::ProvenAgain { checks, .. } => self.checks.clone_from(checks),
            StageChange::Gated { gate } => {
                let commit = self.state.submitted().cloned();
                self.state = StageState::Gated { gate: *gate, commit };
            }
            StageChange::Disputed { gate, check } => self.dispute(*gate, check),
            StageChange::Approved { commit } => {
                self.approved = Some(commit.clone());
                self.state = StageState::Verifying { commit: commit.clone(), phase: Phase::Queued, session: None };
            }
            StageChange::Blocked { reason } => {
                (self.state, self.ended_at) = (StageState::Blocked { reason: reason.clone() }, Some(at));
            }
            StageChange::Skipped { reason, go_on } => self.skip(reason, *go_on, at),
            StageChange::Reset { .. } => self.start_over(),
            StageChange::Held => self.held = true,
            StageChange::Released => self.held = false,
            StageChange::Noted { text } => self.note = Some(text.clone()),
        }
    }

    fn dispute(&mut self, gate: GateId, check: &str) {
        self.disputed.insert(check.to_owned());
        self.state = StageState::Gated { gate, commit: self.judged.clone() };
    }

    fn skip(&mut self, reason: &str, go_on: bool, at: Timestamp) {
        self.state = StageState::Skipped { reason: reason.to_owned(), go_on };
        self.ended_at = Some(at);
    }

    /// Another session of the same attempt.
    fn go_on(&mut self, session: &SessionId) {
        self.sessions += 1;
        (self.resume, self.paused) = (None, None);
        self.state = StageState::Running { session: session.clone() };
    }

    fn keep_handoff(&mut self, written: &Written) {
        if !written.handoff.lists.is_empty() {
            self.lists = written.handoff.lists.clone();
        }
        self.handoff = Some(Box::new(written.clone()));
    }

    fn start_over(&mut self) {
        let (sessions, spec, held, helping) = (self.sessions, self.spec.clone(), self.held, self.helping);
        // The numbers of handoffs name files: they are never used again.
        let handoff = self.handoff.take();
        *self = Stage { sessions, held, helping, handoff, removing: true, ..Stage::new(spec) };
    }

    fn start(&mut self, attempt: u32, session: &SessionId, base: &Oid, at: Timestamp) {
        self.attempts = attempt;
        self.tries += 1;
        self.sessions += 1;
        (self.resume, self.paused, self.handoffs) = (None, None, 0);
        self.base.get_or_insert_with(|| base.clone());
        self.started_at.get_or_insert(at);
        self.ended_at = None;
        self.state = StageState::Running { session: session.clone() };
    }

    fn set_phase(&mut self, new: Phase) {
        if let StageState::Verifying { phase, .. } = &mut self.state {
            *phase = new;
        }
    }

    fn return_to_session(&mut self, failure: &Failure) {
        self.remember(failure);
        if let StageState::Verifying { session: Some(session), .. } = &self.state {
            self.state = StageState::Running { session: session.clone() };
        }
    }

    /// When the stage may start, if it waits for that. A pause that began in what is now the
    /// future is over: the clock was set back, and nobody knows how long it has been.
    pub fn pause_ends(&self, now: Timestamp) -> Option<Timestamp> {
        match self.state {
            StageState::Ready { retry_at: Some(at) } if self.paused_at.is_none_or(|began| began <= now) => Some(at),
            _ => None,
        }
    }

    fn fail(&mut self, failure: &Failure, retry_at: Option<Timestamp>, at: Timestamp) {
        self.paused_at = Some(at);
        self.remember(failure);
        if retry_at.is_some() {
            self.crashes += 1;
        } else {
            self.crashes = 0;
        }
        self.state = StageState::Ready { retry_at };
    }

    /// Keeps the newest failures: the next session reads them all.
    fn remember(&mut self, failure: &Failure) {
        const KEPT: usize = 8;
        self.judged = self.state.submitted().cloned().or(self.judged.take());
        if !failure.checks.is_empty() {
            self.checks.clone_from(&failure.checks);
        }
        self.failures.push(failure.clone());
        if self.failures.len() > KEPT {
            self.failures.remove(0);
        }
    }
}

impl World {
    /// Folds one recorded fact.
    pub fn apply(&mut self, fact: &Fact, at: Timestamp) {
        match fact {
            Fact::PlanLoaded { plan, source, ground } => {
                let mut run = Run::new(plan, source, ground);
                for (id, stage) in &mut run.stages {
                    stage.sessions = self.fences.get(id).copied().unwrap_or(0);
                }
                self.run = Some(run);
                self.teardowns.clear();
            }
            Fact::TeardownFailed { stage, why } => {
                self.teardowns.insert(stage.clone(), why.clone());
            }
            Fact::PlanAmended { plan, source } => {
                if let Some(run) = &mut self.run {
                    run.amend(plan, source, &self.fences);
                }
            }
            Fact::PlanReplaced { leftovers } => self.leftovers.extend(leftovers.iter().cloned()),
            Fact::StageRemoved { stage, rescued } => {
                self.rescued.extend(rescued.iter().cloned());
                self.leftovers.remove(stage);
            }
            Fact::Session { session, change: SessionChange::Planned { .. } } => {
                *self.fences.entry(session.stage()).or_insert(0) += 1;
                self.teardowns.remove(&session.stage());
            }
            Fact::DaemonStarted { options } => self.options.clone_from(options),
            Fact::Rescued { refs } | Fact::WorktreesTidied { rescued: refs, .. } => {
                self.rescued.extend(refs.iter().cloned())
            }
            Fact::GateOpened { .. } => self.gates_opened += 1,
            Fact::CachesKept { sha256 } => self.kept = Some(sha256.clone()),
            Fact::ProgramsAccepted { fingerprint } => self.programs = Some(fingerprint.clone()),
            _ => {}
        }
        if let Some(run) = &mut self.run {
            run.apply(fact, at);
        }
    }
}

impl Run {
    fn new(plan: &Plan, source: &PlanSource, ground: &Ground) -> Self {
        Run {
            stages: plan.stages.iter().map(|spec| (spec.id.clone(), Stage::new(spec.clone()))).collect(),
            plan: plan.clone(),
            source: source.clone(),
            ground: ground.clone(),
            version: 1,
            again: None,
            tip: None,
            base: ground.base_commit.clone(),
            base_entry: BaseEntry::Absent,
            sessions: BTreeMap::new(),
            gates: BTreeMap::new(),
            queue: Vec::new(),
            parked: BTreeMap::new(),
            lanes: BTreeMap::new(),
            following: None,
            base_stays: None,
            end: PlanEnd::Open,
            paused: None,
            helping: Spent::default(),
        }
    }

    fn apply(&mut self, fact: &Fact, at: Timestamp) {
        match fact {
            Fact::PlanBranchMade { commit } | Fact::TipAccepted { commit } => self.tip = Some(commit.clone()),
            Fact::Stage { stage, change } => self.apply_stage(stage, change, at),
            Fact::Session { session, change } => self.apply_session(session, change, at),
            Fact::GateOpened { gate, subject, question } => {
                let gate = Gate { id: *gate, subject: subject.clone(), question: question.clone(), answer: None };
                self.gates.insert(gate.id, gate);
            }
            Fact::GateAnswered { gate, approved, reason } => {
                if let Some(gate) = self.gates.get_mut(gate) {
                    gate.answer = Some(Answered { approved: *approved, reason: reason.clone() });
                }
            }
            Fact::BackendParked { backend, reason } => {
                self.parked.insert(*backend, reason.clone());
            }
            Fact::BackendFreed { backend } => {
                self.parked.remove(backend);
            }
            Fact::LaneParked { .. } | Fact::LaneProbed { .. } | Fact::LaneFreed { .. } => self.apply_lane(fact, at),
            Fact::FollowStarted { from, to } => {
                self.following = Some((from.clone(), to.clone()));
            }
            Fact::BaseFollowed { commit } => {
                self.base = commit.clone();
                (self.following, self.base_stays) = (None, None);
                // The plan branch has all of it: what was to be merged is no longer there.
                if !matches!(self.base_entry, BaseEntry::Landing { .. }) {
                    self.base_entry = BaseEntry::Absent;
                    self.queue.retain(|entry| *entry != Entry::Base);
                }
            }
            Fact::BaseStayed { why } => {
                (self.following, self.base_stays) = (None, Some(why.clone()));
            }
            Fact::WorktreesTidied { stages, .. } => {
                for id in stages {
                    if let Some(stage) = self.stages.get_mut(id) {
                        stage.is_tidied = true;
                    }
                }
            }
            Fact::StageRemoved { stage, .. } => {
                if let Some(stage) = self.stages.get_mut(stage) {
                    stage.removing = false;
                }
            }
            Fact::ConfigAccepted { fingerprint } => self.ground.config.clone_from(fingerprint),
            Fact::BudgetGranted { stage, spent } => match stage {
                Some(id) => drop(self.stages.get_mut(id).map(|stage| stage.helping = *spent)),
                None => self.helping = *spent,
            },
            Fact::PlanPaused { why } => self.paused = Some(why.clone()),
            Fact::PlanResumed => self.paused = None,
            Fact::PlanCompleted => self.end = PlanEnd::Completed,
            Fact::PlanCleaned => self.end = PlanEnd::Cleaned,
            _ => self.apply_base_entry(fact),
        }
    }

    fn apply_base_entry(&mut self, fact: &Fact) {
        match fact {
            Fact::BaseMoved { commit } => {
                self.base = commit.clone();
                (self.following, self.base_stays) = (None, None);
                self.base_entry = BaseEntry::Queued { commit: commit.clone() };
                self.queue.retain(|entry| *entry != Entry::Base);
                self.queue.insert(0, Entry::Base);
            }
            Fact::BaseProofStarted { commit, tip } => {
                self.base_entry = BaseEntry::Proving { commit: commit.clone(), tip: tip.clone() };
            }
            Fact::BaseRequeued => {
                if let Some(commit) = self.base_entry.commit().cloned() {
                    self.base_entry = BaseEntry::Queued { commit };
                }
                if !self.queue.contains(&Entry::Base) {
                    self.queue.insert(0, Entry::Base);
                }
            }
            Fact::BaseProven { commit, tip, landing, .. } => {
                self.base_entry =
                    BaseEntry::Landing { commit: commit.clone(), tip: tip.clone(), landing: landing.clone() };
            }
            Fact::BaseRejected { commit, text } => {
                self.base_entry = BaseEntry::Rejected { commit: commit.clone(), text: text.clone() };
                self.queue.retain(|entry| *entry != Entry::Base);
            }
            Fact::BaseMerged { landed, .. } => {
                self.tip = Some(landed.clone());
                (self.base_entry, self.base_stays) = (BaseEntry::Absent, None);
                self.queue.retain(|entry| *entry != Entry::Base);
            }
            _ => {}
        }
    }

    fn apply_stage(&mut self, id: &StageId, change: &StageChange, at: Timestamp) {
        let Some(stage) = self.stages.get_mut(id) else { return };
        let entry = Entry::Stage { stage: id.clone() };
        // A crash after a long time of work is the first one again.
        let session = stage.state.lease().and_then(|id| self.sessions.get(id));
        if session.is_some_and(|session| after(session.started_at, LANE_DECAY) < at) {
            stage.crashes = 0;
        }
        let resume = match change {
            StageChange::Failed { .. }
            | StageChange::Blocked { .. }
            | StageChange::Disputed { .. }
            | StageChange::Readied { .. }
            | StageChange::Paused { resumes: true, .. } => stage.state.lease().cloned(),
            _ => None,
        };
        stage.apply(change, at);
        if stage.asked.is_some() && !stage.is_being_landed() {
            // What was proven by the version before is not proven by this one.
            (stage.asked, stage.proven) = (None, None);
        }
        let is_again = stage.adopt();
        if let Some(session) = resume.and_then(|id| self.sessions.get(&id)) {
            stage.resume = (session.backend == BackendKind::Claude).then(|| session.conversation.clone());
        }
        match change {
            StageChange::Submitted { .. } | StageChange::Approved { .. } => self.queue.push(entry),
            // Also after its end: there is something to be done again.
            StageChange::Reset { .. } => {
                self.end = PlanEnd::Open;
                self.queue.retain(|other| *other != entry);
                // It starts over, and is proven with the new checks anyway.
                self.drop_again(id);
            }
            StageChange::Landed { landed } => {
                self.tip = Some(landed.clone());
                self.queue.retain(|other| *other != entry);
                if is_again {
                    self.prove_again(id);
                }
            }
            StageChange::ProofAgainStarted { tip } => self.again = Some((id.clone(), tip.clone())),
            StageChange::ProvenAgain { .. } => self.drop_again(id),
            _ if !matches!(stage.state, StageState::Verifying { .. }) => {
                self.queue.retain(|other| *other != entry);
                // What did not land, or starts over, is proven with the new checks anyway.
                self.drop_again(id);
            }
            _ => {}
        }
    }

    fn apply_session(&mut self, id: &SessionId, change: &SessionChange, at: Timestamp) {
        if let Some(session) = planned(id, change, at) {
            self.sessions.insert(id.clone(), session);
            return;
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        match change {
            SessionChange::Planned { .. } => {}
            SessionChange::Preparing { what } => session.preparing = Some(*what),
            SessionChange::SetUp { .. } => session.preparing = None,
            SessionChange::Hosted { host, token_sha256 } => {
                session.preparing = None;
                // What was prepared before it is none of its time.
                session.started_at = at;
                if let Some(stage) = self.stages.get_mut(&session.stage) {
                    stage.is_begun = true;
                }
                session.state = SessionState::Live { host: host.clone(), token_sha256: token_sha256.clone() };
            }
            SessionChange::Ending { why } => {
                if let SessionState::Live { host, token_sha256 } | SessionState::Ending { host, token_sha256, .. } =
                    &session.state
                {
                    let (host, token_sha256) = (host.clone(), token_sha256.clone());
                    session.state = SessionState::Ending { host, token_sha256, why: why.clone() };
                }
            }
            SessionChange::Ended { end, exit } => {
                session.state = SessionState::Ended { end: *end, exit: *exit, at };
                let stage = self.stages.get_mut(&session.stage);
                if let Some(StageState::Verifying { session: lease, .. }) = stage.map(|stage| &mut stage.state) {
                    *lease = lease.take().filter(|lease| lease != id);
                }
            }
            SessionChange::Returned => {
                session.returns += 1;
                session.reminders = 0;
                // Its time to hand off begins anew.
                session.told = session.told.filter(|(zone, _)| *zone != Zone::Red);
            }
            SessionChange::Measured { usage } => session.usage = Some(*usage),
            SessionChange::ProcessesLeft { processes } => session.left.clone_from(processes),
            SessionChange::Looked { look_at, suspect } => {
                session.look_at = Some(*look_at);
                session.suspect.clone_from(suspect);
            }
            SessionChange::Told { zone } => session.told = Some((*zone, at)),
            SessionChange::Reminded => session.reminders += 1,
            SessionChange::Activity { activity, asks } => {
                session.activity = *activity;
                session.asks.clone_from(asks);
            }
        }
    }
}

/// A session that begins with this change.
fn planned(id: &SessionId, change: &SessionChange, at: Timestamp) -> Option<Session> {
    let SessionChange::Planned { attempt, backend, slot, worktree, conversation, resumes, sandboxed } = change else {
        return None;
    };
    Some(Session {
        id: id.clone(),
        stage: id.stage(),
        attempt: *attempt,
        backend: *backend,
        slot: *slot,
        worktree: worktree.clone(),
        conversation: conversation.clone(),
        resumes: *resumes,
        sandboxed: *sandboxed,
        state: SessionState::Planned,
        activity: Activity::Working,
        preparing: None,
        asks: None,
        returns: 0,
        reminders: 0,
        started_at: at,
        usage: None,
        told: None,
        left: Vec::new(),
        look_at: None,
        suspect: None,
    })
}
