//! What one turn of the loop decides: which events are taken, when their facts are durable,
//! which effects begin, who is answered. What it touches is behind [`Ground`], so that the
//! daemon and the simulator run the same loop.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use crate::journal::{Journal, JournalError, Store};
use crate::kernel::{self, World};
use crate::model::anchor::Anchor;
use crate::model::effect::{Answer, Effect};
use crate::model::event::{Caller, Event, Request, RequestId};
use crate::model::fact::{Fact, SessionChange};
use crate::model::ids::{SessionId, StageId};
use crate::model::limits::RECONCILE_EVERY;
use crate::model::refusal::{Refusal, RefusalKind};
use crate::model::session::{EndReason, Session, SessionState};

/// What the loop stands on: its clock, and everything that it makes happen.
pub trait Ground {
    /// Where the journal is kept.
    type Store: Store;
    /// The way back to somebody who asked.
    type Reply;

    /// The wall clock: when facts happened, and when pauses end.
    fn now(&self) -> Timestamp;
    /// Time that only ever goes forward, for the reconcile tick.
    fn uptime(&self) -> Duration;
    /// Facts are durable and none of their effects has begun.
    fn recorded(&mut self, world: &World);
    /// The journal's newest durable record: what git is told with the next landing.
    fn head(&mut self, _head: Option<Anchor>) {}
    /// Begins `effect`; its outcome comes back through [`Turn::outcome`] with `key`.
    fn start(&mut self, effect: Effect, key: Option<String>);
    fn answer(&mut self, reply: Self::Reply, answer: Answer);
    /// The world has changed, these stages among it: whoever looks at it shall see that.
    fn show(&mut self, world: &World, touched: &BTreeSet<StageId>);
}

/// Who sent a request, as far as the server could prove it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    Operator,
    /// The holder of a token with this SHA-256.
    Token(String),
    /// Neither: why not.
    Nobody(String),
}

/// Whether the loop carries the plan out, or only one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Daemon,
    /// An operator's command without a daemon: no sessions, no proofs, no landings.
    OneRequest,
}

/// The loop's memory. A daemon that dies loses all of it, and nothing else.
pub struct Turn<G: Ground> {
    pub ground: G,
    world: World,
    journal: Journal<G::Store>,
    mode: Mode,
    in_flight: BTreeSet<String>,
    /// Effects that failed; tried again at the next tick.
    failed: BTreeSet<String>,
    /// What failed while one request was carried out.
    troubles: Vec<String>,
    replies: BTreeMap<RequestId, G::Reply>,
    requests: u64,
    /// Uptime at which everything is looked at again.
    tick: Duration,
    /// What should be going on was last derived for this time.
    scheduled_at: Timestamp,
    is_stopping: bool,
    batch: Batch,
}

/// What one turn of the loop has decided.
#[derive(Debug, Default)]
struct Batch {
    effects: Vec<Effect>,
    touched: BTreeSet<StageId>,
    changed: bool,
}

impl<G: Ground> Turn<G> {
    /// Goes on from `world`, which is what `journal` tells.
    pub fn new(ground: G, world: World, journal: Journal<G::Store>, mode: Mode) -> Turn<G> {
        Turn {
            tick: ground.uptime() + RECONCILE_EVERY,
            scheduled_at: ground.now(),
            ground,
            world,
            journal,
            mode,
            in_flight: BTreeSet::new(),
            failed: BTreeSet::new(),
            troubles: Vec::new(),
            replies: BTreeMap::new(),
            requests: 0,
            is_stopping: false,
            batch: Batch::default(),
        }
    }

    pub fn world(&self) -> &World {
        &self.world
    }

    /// Takes what happened before this loop began.
    pub fn boot(&mut self, first: &[Event]) {
        for event in first {
            self.take(event, "boot");
        }
    }

    /// SIGINT or SIGTERM.
    pub fn stop(&mut self) {
        self.is_stopping = true;
    }

    /// Whether an effect runs of which the outcome is not known yet.
    pub fn is_busy(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// What failed since the last tick.
    pub fn troubles(&self) -> &[String] {
        &self.troubles
    }

    /// Whether nothing can go on without a person, or somebody has stopped it.
    pub fn is_over(&self) -> bool {
        if self.is_stopping {
            return self.replies.is_empty() && !self.ends_sessions();
        }
        // What only a session would have needed is not waited for.
        let matters = |keys: &BTreeSet<String>| keys.iter().any(|key| !key.starts_with(BASE));
        !matters(&self.in_flight) && !matters(&self.failed) && kernel::is_quiet(&self.world)
    }

    /// Whether a session that ends with this daemon has not ended yet.
    fn ends_sessions(&self) -> bool {
        let ends = |session: &Session| {
            session.is_leaving() || matches!(session.state, SessionState::Ending { why: EndReason::Stopped, .. })
        };
        self.world.run.as_ref().is_some_and(|run| run.live_sessions().any(ends))
    }

    /// How long there is nothing to do unless a message comes.
    pub fn pause(&self) -> Duration {
        let tick = self.tick.saturating_sub(self.ground.uptime());
        if self.is_stopping {
            return tick;
        }
        // A pause that ended since then is over, not gone: it wakes at once.
        let deadline = kernel::next_deadline(&self.world, self.scheduled_at)
            .map(|at| Duration::try_from(at.duration_since(self.ground.now())).unwrap_or_default())
            .map(|pause| pause + Duration::from_millis(1));
        deadline.map_or(tick, |deadline| deadline.min(tick))
    }

    /// No message came for the whole pause. At the tick everything is looked at again.
    pub fn paused(&mut self) {
        if self.ground.uptime() < self.tick {
            return;
        }
        self.tick = self.ground.uptime() + RECONCILE_EVERY;
        self.failed.clear();
        self.troubles.clear();
        if let Some(run) = &self.world.run {
            self.batch.effects.push(kernel::look_at_refs(run));
        }
    }

    /// An effect has this outcome; `key` is no longer in flight.
    pub fn outcome(&mut self, key: Option<String>, event: &Event) {
        if let Some(key) = key {
            self.in_flight.remove(&key);
            if let Event::EffectFailed { effect, why } = event {
                tracing::error!("{effect} failed: {why}");
                self.failed.insert(key);
                self.troubles.push(format!("{effect}: {why}"));
            }
        }
        // What should be going on is derived at the end of every turn, and only
        // while this daemon carries the plan out.
        if *event != Event::Schedule {
            self.take(event, cause_of(event));
        }
    }

    /// Takes a request; `reply` is answered once what it means is durable.
    pub fn request(&mut self, who: Who, request: Request, reply: G::Reply) {
        self.requests += 1;
        let id = RequestId(self.requests);
        let caller = match who {
            Who::Operator => Ok(Caller::Operator),
            Who::Token(digest) => self.session_of(&digest),
            Who::Nobody(why) => Err(Refusal::new(RefusalKind::Rights, "this process may not do that").because(why)),
        };
        let caller = match caller {
            Ok(caller) => caller,
            Err(refusal) => {
                return self.ground.answer(reply, Answer::Refused { refusal });
            }
        };
        self.replies.insert(id, reply);
        let cause = format!("{} by {}", verb(&request), by(&caller));
        self.take(&Event::Request { id, caller, request }, &cause);
    }

    fn session_of(&self, digest: &str) -> Result<Caller, Refusal> {
        let run = self.world.run.as_ref();
        let session = run.and_then(|run| run.sessions.values().find(|session| session.token_sha256() == Some(digest)));
        match session {
            Some(session) => Ok(Caller::Agent { session: session.id.clone() }),
            None => Err(Refusal::new(RefusalKind::Rights, "this session is over, or was never Loom's")
                .hint("end your turn: nothing more can be done from here")),
        }
    }

    /// Decides one event and folds its facts; they become durable at the end of the turn.
    fn take(&mut self, event: &Event, cause: &str) {
        let now = self.ground.now();
        match kernel::step(&self.world, event, now) {
            Ok(step) => self.fold(step.facts, step.effects, cause, now),
            Err(refusal) => {
                if let Event::Request { id, .. } = event {
                    self.batch.effects.push(Effect::Reply { request: *id, answer: Answer::Refused { refusal } });
                } else {
                    tracing::error!("{cause}: {refusal}: {}", refusal.why.join("; "));
                }
            }
        }
    }

    fn fold(&mut self, mut facts: Vec<Fact>, effects: Vec<Effect>, cause: &str, now: Timestamp) {
        if !facts.is_empty() {
            facts = self.journal.push(now, cause, facts);
            self.batch.changed = true;
        }
        for fact in &facts {
            self.world.apply(fact, now);
            match fact {
                Fact::Stage { stage, .. } => {
                    self.batch.touched.insert(stage.clone());
                }
                Fact::Session { session, change: SessionChange::Hosted { .. } } => {
                    self.batch.touched.insert(session.stage());
                }
                Fact::PlanAmended { plan, .. } => {
                    self.batch.touched.extend(plan.stages.iter().map(|stage| stage.id.clone()));
                }
                _ => {}
            }
        }
        self.batch.effects.extend(effects);
    }

    /// Derives what should be going on, syncs, and only then lets anything happen.
    ///
    /// # Errors
    /// When the journal cannot be written: then nothing that was not durable was acknowledged.
    pub fn finish(&mut self) -> Result<(), JournalError> {
        if self.mode == Mode::Daemon && !self.is_stopping {
            self.schedule();
        }
        self.journal.commit()?;
        let batch = std::mem::take(&mut self.batch);
        if batch.changed {
            self.ground.recorded(&self.world);
            self.ground.head(self.journal.head());
        }
        for effect in batch.effects {
            self.execute(effect);
        }
        for effect in kernel::due(&self.world) {
            let effect = self.hurried(effect);
            let wanted = match (self.mode, self.is_stopping) {
                (Mode::Daemon, false) => true,
                (Mode::Daemon, true) => self.ends_a_session(&effect),
                (Mode::OneRequest, _) => self.is_for_one_request(&effect),
            };
            if wanted {
                self.execute(effect);
            }
        }
        if batch.changed {
            self.ground.show(&self.world, &batch.touched);
        }
        Ok(())
    }

    fn schedule(&mut self) {
        // Each round can make the next possible: promoted, then started. More rounds than
        // that would be a mistake in the rules, not work.
        self.scheduled_at = self.ground.now();
        for _ in 0..4 {
            let now = self.ground.now();
            match kernel::step(&self.world, &Event::Schedule, now) {
                Ok(step) if step.facts.is_empty() => return,
                Ok(step) => self.fold(step.facts, step.effects, "schedule", now),
                Err(refusal) => {
                    tracing::error!("schedule: {refusal}: {}", refusal.why.join("; "));
                    return;
                }
            }
        }
    }

    fn execute(&mut self, effect: Effect) {
        match effect {
            Effect::Reply { request, answer } => {
                if let Some(reply) = self.replies.remove(&request) {
                    self.ground.answer(reply, answer);
                }
            }
            Effect::Shutdown => self.is_stopping = true,
            // It has ended, and its tree is being looked at: its end would only be seen again and again.
            Effect::Watch { session } if self.is_inspecting(&session) => {}
            effect => {
                let key = key(&effect);
                let is_running = |key: &String| self.failed.contains(key) || self.in_flight.contains(key);
                if key.as_ref().is_some_and(is_running) {
                    return;
                }
                self.in_flight.extend(key.clone());
                self.ground.start(effect, key);
            }
        }
    }

    /// Effects that a command without a daemon may carry out.
    fn is_for_one_request(&self, effect: &Effect) -> bool {
        match effect {
            Effect::MakePlanBranch { .. }
            | Effect::FollowBase { .. }
            | Effect::RemoveStage { .. }
            | Effect::CleanPlan { .. } => true,
            effect => self.ends_a_session(effect),
        }
    }

    /// Nobody is here later to end what is given time now.
    fn hurried(&self, effect: Effect) -> Effect {
        let stays = self.mode == Mode::Daemon && !self.is_stopping;
        match effect {
            Effect::EndSession { session, why, .. } if why.is_courtesy() && !stays => {
                Effect::EndSession { session, why, grace: Duration::ZERO }
            }
            effect => effect,
        }
    }

    /// Who is ended is also waited for: until its end is recorded, ending it stays due.
    fn ends_a_session(&self, effect: &Effect) -> bool {
        match effect {
            Effect::EndSession { .. } => true,
            Effect::Watch { session } => {
                let session = self.world.run.as_ref().and_then(|run| run.sessions.get(session));
                session.is_some_and(|session| matches!(session.state, SessionState::Ending { .. }))
            }
            _ => false,
        }
    }

    fn is_inspecting(&self, session: &SessionId) -> bool {
        let inspection = format!("inspect {session} ");
        self.in_flight.iter().any(|key| key.starts_with(&inspection))
    }
}

/// How the names of looks at a base begin.
const BASE: &str = "look-at-base ";

/// Names an effect that must not run twice at once; none for those that may.
fn key(effect: &Effect) -> Option<String> {
    match effect {
        Effect::MakePlanBranch { .. } => Some("make-plan-branch".to_owned()),
        Effect::Start(start) => Some(format!("start {}", start.session)),
        Effect::Watch { session } => Some(format!("watch {session}")),
        Effect::LookAtSession { session, .. } => Some(format!("look at {session}")),
        Effect::EndSession { session, grace, .. } => Some(format!("end {session} {}", grace.as_millis())),
        Effect::Inspect { session, request, .. } => Some(format!("inspect {session} {request:?}")),
        Effect::LookAtBase(look) => Some(format!("{BASE}{}", look.stage)),
        Effect::Prove(prove) => Some(format!("prove {:?} {}", prove.entry, prove.tip)),
        Effect::Land { entry, tip, .. } => Some(format!("land {entry:?} {tip}")),
        Effect::FollowBase { to, .. } => Some(format!("follow {to}")),
        Effect::LookAtRefs { .. } => Some("look-at-refs".to_owned()),
        Effect::RestorePlanBranch { .. } => Some("restore-plan-branch".to_owned()),
        Effect::RemoveStage { stage, .. } => Some(format!("remove {stage}")),
        Effect::TidyWorktrees { .. } => Some("tidy-worktrees".to_owned()),
        Effect::CleanPlan { .. } => Some("clean-plan".to_owned()),
        Effect::OpenBarrier { .. } | Effect::CancelStart { .. } | Effect::Reply { .. } | Effect::Shutdown => None,
    }
}

fn verb(request: &Request) -> &'static str {
    match request {
        Request::LoadPlan { .. } => "init",
        Request::ApplyPlan { .. } => "plan apply",
        Request::Submit { .. } => "stage complete",
        Request::Block { .. } => "stage block",
        Request::Dispute { .. } => "stage dispute",
        Request::Retry { .. } => "stage retry",
        Request::Resume { .. } => "resume",
        Request::Reset { .. } => "stage reset",
        Request::Hold { .. } => "stage hold",
        Request::Release { .. } => "stage release",
        Request::Skip { .. } => "stage skip",
        Request::Approve { .. } => "stage approve",
        Request::Reject { .. } => "stage reject",
        Request::Merge { .. } => "merge",
        Request::KillSession { .. } => "sessions kill",
        Request::Stop { .. } => "stop",
        Request::TurnEnded { .. } => "turn ended",
        Request::TurnFailed { .. } => "turn failed",
        Request::Activity { .. } => "activity",
        Request::Waits { .. } => "stage waiting",
        Request::Measured { .. } => "measured",
        Request::Handoff { .. } => "handoff",
        Request::Compacting { .. } => "compacting",
    }
}

fn by(caller: &Caller) -> String {
    match caller {
        Caller::Operator => "operator".to_owned(),
        Caller::Agent { session } => format!("session {session}"),
    }
}

fn cause_of(event: &Event) -> &'static str {
    match event {
        Event::Request { .. } => "request",
        Event::DaemonStarted { .. } => "daemon started",
        Event::Schedule => "schedule",
        Event::RefsSeen { .. } => "refs seen",
        Event::ConfigSeen { .. } => "configuration seen",
        Event::PlanBranchMade { .. } => "plan branch made",
        Event::Preparing { .. } => "session prepared",
        Event::SetUp { .. } => "worktree set up",
        Event::BeforeHeld { .. } => "base looked at",
        Event::TeardownFailed { .. } => "teardown failed",
        Event::SessionHosted { .. } => "session hosted",
        Event::StartFailed { .. } => "start failed",
        Event::SessionEnded { .. } => "session ended",
        Event::SessionGaveUp { .. } => "session gave up",
        Event::SessionSeen { .. } => "session seen",
        Event::ProcessesLeft { .. } => "processes left",
        Event::SessionMeasured { .. } => "session measured",
        Event::SessionLeft { .. } => "session left",
        Event::Inspected { .. } => "inspected",
        Event::BaseLooked { .. } => "base looked at",
        Event::Proved { .. } => "proved",
        Event::ProgramsSeen { .. } => "programs seen",
        Event::Landed { .. } => "landed",
        Event::LandRefused { .. } => "land refused",
        Event::BaseFollowed { .. } => "base followed",
        Event::BaseStayed { .. } => "base stayed",
        Event::StageRemoved { .. } => "stage removed",
        Event::WorktreesTidied { .. } => "worktrees tidied",
        Event::PlanCleaned { .. } => "plan cleaned",
        Event::EffectDone => "effect done",
        Event::EffectFailed { .. } => "effect failed",
    }
}
