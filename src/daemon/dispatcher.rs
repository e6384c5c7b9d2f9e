//! The loop: receive, decide, record, fold, publish, hand out effects. Nothing
//! else changes the world.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::base::clock;
use crate::base::fs::Lock;
use crate::base::layout::Layout;
use crate::daemon::executor::Executor;
use crate::daemon::report;
use crate::journal::{Journal, JournalError};
use crate::kernel::{self, World};
use crate::model::effect::{Answer, Effect};
use crate::model::event::{Caller, Event, Request, RequestId};
use crate::model::fact::{Fact, SessionChange};
use crate::model::ids::{SessionId, StageId};
use crate::model::limits::RECONCILE_EVERY;
use crate::model::refusal::{Refusal, RefusalKind};
use crate::wire::status::{DaemonRow, Status};

/// What reaches the dispatcher.
#[derive(Debug)]
pub enum Message {
    Request {
        who: Who,
        request: Request,
        reply: Sender<Answer>,
    },
    /// An effect has this outcome; `key` is no longer in flight.
    Outcome {
        key: Option<String>,
        event: Event,
    },
    Status {
        reply: Sender<Box<Status>>,
    },
    Subscribe {
        latest: Arc<Latest>,
    },
    /// SIGINT or SIGTERM.
    Shutdown,
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

/// The newest status for one subscriber. A slow reader sees fewer states, never old ones.
#[derive(Debug, Default)]
pub struct Latest {
    slot: Mutex<Slot>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Slot {
    status: Option<Arc<Status>>,
    is_closed: bool,
}

impl Latest {
    fn put(&self, status: Arc<Status>) {
        self.with(|slot| slot.status = Some(status));
    }
    pub(super) fn close(&self) {
        self.with(|slot| slot.is_closed = true);
    }
    fn with(&self, change: impl FnOnce(&mut Slot)) {
        if let Ok(mut slot) = self.slot.lock() {
            change(&mut slot);
        }
        self.changed.notify_all();
    }
    /// Waits for a status that was not taken yet. None: there will be no more.
    pub fn take(&self) -> Option<Arc<Status>> {
        let mut slot = self.slot.lock().ok()?;
        loop {
            if let Some(status) = slot.status.take() {
                return Some(status);
            }
            if slot.is_closed {
                return None;
            }
            slot = self.changed.wait(slot).ok()?;
        }
    }
}

/// Whether the dispatcher carries the plan out, or only one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Daemon,
    /// An operator's command without a daemon: no sessions, no proofs, no landings.
    OneRequest,
}

pub struct Dispatcher {
    pub(super) layout: Layout,
    pub(super) world: World,
    journal: Journal,
    executor: Executor,
    inbox: Receiver<Message>,
    mode: Mode,
    in_flight: BTreeSet<String>,
    /// Effects that failed; tried again at the next tick.
    failed: BTreeSet<String>,
    /// What failed while one request was carried out.
    troubles: Vec<String>,
    replies: BTreeMap<RequestId, Sender<Answer>>,
    requests: u64,
    subscribers: Vec<Arc<Latest>>,
    started: Instant,
    /// What should be going on was last derived for this time.
    scheduled_at: jiff::Timestamp,
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

impl Dispatcher {
    pub(super) fn new(layout: Layout, world: World, journal: Journal, mode: Mode) -> (Dispatcher, Sender<Message>) {
        let (sender, inbox) = std::sync::mpsc::channel();
        let executor = Executor::new(layout.clone(), sender.clone());
        let dispatcher = Dispatcher {
            layout,
            world,
            journal,
            executor,
            inbox,
            mode,
            in_flight: BTreeSet::new(),
            failed: BTreeSet::new(),
            troubles: Vec::new(),
            replies: BTreeMap::new(),
            requests: 0,
            subscribers: Vec::new(),
            started: Instant::now(),
            scheduled_at: clock::now(),
            is_stopping: false,
            batch: Batch::default(),
        };
        (dispatcher, sender)
    }

    /// Takes events until nothing can go on without a person, or somebody stops it.
    ///
    /// # Errors
    /// When the journal cannot be written: then nothing that was not durable was acknowledged.
    /// A `lock` that is no longer at its place ends the loop: somebody removed the state.
    pub(super) fn run(&mut self, first: Vec<Event>, lock: &Lock) -> Result<(), JournalError> {
        for event in first {
            self.take(&event, "boot");
        }
        self.finish_turn()?;
        let mut tick = Instant::now() + RECONCILE_EVERY;
        while !self.is_over() {
            let wait = self.wait_until(tick);
            match self.inbox.recv_timeout(wait) {
                Ok(message) => {
                    self.receive(message);
                    // Whatever is there already shares the sync.
                    for message in self.inbox.try_iter().take(256).collect::<Vec<_>>() {
                        self.receive(message);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    if Instant::now() >= tick {
                        tick = Instant::now() + RECONCILE_EVERY;
                        self.failed.clear();
                        self.troubles.clear();
                        self.take_refs();
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if !lock.is_at(&self.layout.writer_lock()) {
                // Whatever is there now is not this daemon's: nothing more is written to it.
                tracing::error!(
                    "{} was removed: stopping; sessions go on under their hosts",
                    self.layout.work.display()
                );
                break;
            }
            self.finish_turn()?;
        }
        for subscriber in &self.subscribers {
            subscriber.close();
        }
        Ok(())
    }

    /// Carries one request out, with the effects that belong to it.
    pub(super) fn one_request(&mut self, first: Vec<Event>, request: Request) -> Result<Answer, JournalError> {
        for event in first {
            self.take(&event, "boot");
        }
        let (reply, answer) = std::sync::mpsc::channel();
        self.receive(Message::Request { who: Who::Operator, request, reply });
        self.finish_turn()?;
        while !self.in_flight.is_empty() {
            match self.inbox.recv() {
                Ok(message) => self.receive(message),
                Err(_) => break,
            }
            self.finish_turn()?;
        }
        let answer = answer.try_recv().unwrap_or_else(|_| Answer::Done { text: "recorded".to_owned() });
        Ok(match self.troubles.is_empty() {
            true => answer,
            false => {
                let what = "the request is recorded, but what follows from it could not be done";
                let refusal = Refusal::new(RefusalKind::Internal, what).because(self.troubles.join("; "));
                Answer::Refused { refusal: refusal.hint("loom run   (tries again)") }
            }
        })
    }

    fn is_over(&self) -> bool {
        if self.is_stopping {
            return self.replies.is_empty() && !self.ends_sessions();
        }
        self.in_flight.is_empty() && self.failed.is_empty() && kernel::is_quiet(&self.world)
    }

    /// Whether a session that was told to stop has not ended yet.
    fn ends_sessions(&self) -> bool {
        use crate::model::session::{EndReason, SessionState};
        self.world.run.as_ref().is_some_and(|run| {
            run.live_sessions()
                .any(|session| matches!(session.state, SessionState::Ending { why: EndReason::Stopped, .. }))
        })
    }

    fn wait_until(&self, tick: Instant) -> Duration {
        let tick = tick.saturating_duration_since(Instant::now());
        if self.is_stopping {
            return tick;
        }
        // A pause that ended since then is over, not gone: it wakes at once.
        let deadline = kernel::next_deadline(&self.world, self.scheduled_at)
            .map(|at| Duration::try_from(at.duration_since(clock::now())).unwrap_or_default())
            .map(|pause| pause + Duration::from_millis(1));
        deadline.map_or(tick, |deadline| deadline.min(tick))
    }

    fn take_refs(&mut self) {
        if let Some(run) = &self.world.run {
            self.batch.effects.push(kernel::look_at_refs(run));
        }
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Request { who, request, reply } => self.request(who, request, reply),
            Message::Outcome { key, event } => {
                if let Some(key) = key {
                    self.in_flight.remove(&key);
                    if let Event::EffectFailed { effect, why } = &event {
                        tracing::error!("{effect} failed: {why}");
                        self.failed.insert(key);
                        self.troubles.push(format!("{effect}: {why}"));
                    }
                }
                // What should be going on is derived at the end of every turn, and only
                // while this daemon carries the plan out.
                if event != Event::Schedule {
                    let cause = cause_of(&event);
                    self.take(&event, cause);
                }
            }
            Message::Status { reply } => {
                let _ = reply.send(Box::new(self.status()));
            }
            Message::Subscribe { latest } => {
                latest.put(Arc::new(self.status()));
                self.subscribers.push(latest);
            }
            Message::Shutdown => self.is_stopping = true,
        }
    }

    fn request(&mut self, who: Who, request: Request, reply: Sender<Answer>) {
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
                let _ = reply.send(Answer::Refused { refusal });
                return;
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
        let now = clock::now();
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

    fn fold(&mut self, mut facts: Vec<Fact>, effects: Vec<Effect>, cause: &str, now: jiff::Timestamp) {
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
                _ => {}
            }
        }
        self.batch.effects.extend(effects);
    }

    /// Derives what should be going on, syncs, and only then lets anything happen.
    fn finish_turn(&mut self) -> Result<(), JournalError> {
        if self.mode == Mode::Daemon && !self.is_stopping {
            self.schedule();
        }
        self.journal.commit()?;
        let batch = std::mem::take(&mut self.batch);
        if batch.changed {
            self.write_signals();
            self.executor.set_config(self.world.run.as_ref().map(|run| run.ground.config.as_str()));
        }
        for effect in batch.effects {
            self.execute(effect);
        }
        for effect in kernel::due(&self.world) {
            let wanted = match (self.mode, self.is_stopping) {
                (Mode::Daemon, false) => true,
                (Mode::Daemon, true) => matches!(effect, Effect::EndSession { .. }),
                (Mode::OneRequest, _) => is_for_one_request(&effect),
            };
            if wanted {
                self.execute(effect);
            }
        }
        if batch.changed {
            self.write_views(&batch.touched);
            self.publish();
        }
        Ok(())
    }

    fn schedule(&mut self) {
        // Each round can make the next possible: promoted, then started. More rounds than
        // that would be a mistake in the rules, not work.
        self.scheduled_at = clock::now();
        for _ in 0..4 {
            let now = clock::now();
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
                    let _ = reply.send(answer);
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
                self.executor.start(effect, key);
            }
        }
    }

    fn is_inspecting(&self, session: &SessionId) -> bool {
        let inspection = format!("inspect {session} ");
        self.in_flight.iter().any(|key| key.starts_with(&inspection))
    }

    fn write_signals(&self) {
        let Some(run) = &self.world.run else { return };
        for id in &self.batch_started(run) {
            if let Err(error) = crate::views::write_signal(&self.layout, run, id) {
                tracing::warn!("the signal of {id} cannot be written: {error}");
            }
        }
    }

    fn batch_started(&self, run: &kernel::world::Run) -> Vec<crate::model::ids::SessionId> {
        use crate::model::session::SessionState;
        run.live_sessions()
            .filter(|session| matches!(session.state, SessionState::Planned))
            .map(|session| session.id.clone())
            .collect()
    }

    fn write_views(&self, touched: &BTreeSet<StageId>) {
        let Some(run) = &self.world.run else { return };
        for id in touched {
            if let Err(error) = crate::views::write_stage(&self.layout, run, id) {
                tracing::warn!("the view of {id} cannot be written: {error}");
            }
        }
    }

    fn publish(&mut self) {
        self.subscribers.retain(|latest| Arc::strong_count(latest) > 1);
        if self.subscribers.is_empty() {
            return;
        }
        let status = Arc::new(self.status());
        for subscriber in &self.subscribers {
            subscriber.put(Arc::clone(&status));
        }
    }

    fn status(&self) -> Status {
        let daemon = DaemonRow {
            running: true,
            pid: Some(std::process::id()),
            uptime_s: Some(self.started.elapsed().as_secs()),
        };
        let tip = self.executor.plan_tip(&self.world);
        report::status(&self.world, daemon, tip.as_deref(), clock::now())
    }
}

/// Effects that a command without a daemon may carry out.
fn is_for_one_request(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::MakePlanBranch { .. }
            | Effect::FollowBase { .. }
            | Effect::RemoveStage { .. }
            | Effect::CleanPlan { .. }
            | Effect::EndSession { .. }
    )
}

/// Names an effect that must not run twice at once; none for those that may.
fn key(effect: &Effect) -> Option<String> {
    match effect {
        Effect::MakePlanBranch { .. } => Some("make-plan-branch".to_owned()),
        Effect::Start(start) => Some(format!("start {}", start.session)),
        Effect::Watch { session } => Some(format!("watch {session}")),
        Effect::EndSession { session, grace, .. } => Some(format!("end {session} {}", grace.as_millis())),
        Effect::Inspect { session, request, .. } => Some(format!("inspect {session} {request:?}")),
        Effect::Prove(prove) => Some(format!("prove {:?} {}", prove.entry, prove.tip)),
        Effect::Land { entry, tip, .. } => Some(format!("land {entry:?} {tip}")),
        Effect::FollowBase { to, .. } => Some(format!("follow {to}")),
        Effect::LookAtRefs { .. } => Some("look-at-refs".to_owned()),
        Effect::RestorePlanBranch { .. } => Some("restore-plan-branch".to_owned()),
        Effect::RemoveStage { stage, .. } => Some(format!("remove {stage}")),
        Effect::TidyWorktrees { .. } => Some("tidy-worktrees".to_owned()),
        Effect::CleanPlan { .. } => Some("clean-plan".to_owned()),
        Effect::OpenBarrier { .. } | Effect::Reply { .. } | Effect::Shutdown => None,
    }
}

fn verb(request: &Request) -> &'static str {
    match request {
        Request::LoadPlan { .. } => "init",
        Request::Submit { .. } => "stage complete",
        Request::Block { .. } => "stage block",
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
        Event::SessionHosted { .. } => "session hosted",
        Event::StartFailed { .. } => "start failed",
        Event::SessionEnded { .. } => "session ended",
        Event::SessionGaveUp { .. } => "session gave up",
        Event::Inspected { .. } => "inspected",
        Event::Proved { .. } => "proved",
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
