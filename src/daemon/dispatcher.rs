//! The daemon's loop: takes messages, lets the [`Turn`] decide, and gives it the machine to
//! stand on. Nothing else changes the world.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::base::clock;
use crate::base::fs::Lock;
use crate::base::layout::Layout;
use crate::daemon::executor::Executor;
use crate::daemon::report;
use crate::daemon::turn::{Ground, Mode, Turn, Who};
use crate::journal::{Disk, Journal, JournalError};
use crate::kernel::World;
use crate::kernel::world::Run;
use crate::model::anchor::Anchor;
use crate::model::effect::{Answer, Effect};
use crate::model::event::{Event, Request};
use crate::model::ids::{SessionId, StageId};
use crate::model::refusal::{Refusal, RefusalKind};
use crate::model::session::SessionState;
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

/// The loop with its inbox.
pub struct Dispatcher {
    turn: Turn<Machine>,
    inbox: Receiver<Message>,
}

/// What the loop stands on in earnest.
struct Machine {
    layout: Layout,
    executor: Executor,
    subscribers: Vec<Arc<Latest>>,
    started: Instant,
}

impl Dispatcher {
    pub(super) fn new(
        layout: Layout,
        world: World,
        journal: Journal<Disk>,
        mode: Mode,
    ) -> (Dispatcher, Sender<Message>) {
        let (sender, inbox) = std::sync::mpsc::channel();
        let executor = Executor::new(layout.clone(), sender.clone());
        if mode == Mode::Daemon {
            executor.record_operator();
        }
        let machine = Machine { layout, executor, subscribers: Vec::new(), started: Instant::now() };
        (Dispatcher { turn: Turn::new(machine, world, journal, mode), inbox }, sender)
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.turn.ground.layout
    }

    pub(super) fn world(&self) -> &World {
        self.turn.world()
    }

    /// Takes events until nothing can go on without a person, or somebody stops it.
    ///
    /// # Errors
    /// When the journal cannot be written: then nothing that was not durable was acknowledged.
    /// A `lock` that is no longer at its place ends the loop: somebody removed the state.
    pub(super) fn run(&mut self, first: &[Event], lock: &Lock) -> Result<(), JournalError> {
        self.turn.boot(first);
        self.turn.finish()?;
        while !self.turn.is_over() {
            match self.inbox.recv_timeout(self.turn.pause()) {
                Ok(message) => {
                    self.receive(message);
                    // Whatever is there already shares the sync.
                    for message in self.inbox.try_iter().take(256).collect::<Vec<_>>() {
                        self.receive(message);
                    }
                }
                Err(RecvTimeoutError::Timeout) => self.turn.paused(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if !lock.is_at(&self.layout().writer_lock()) {
                // Whatever is there now is not this daemon's: nothing more is written to it.
                let work = self.layout().work.display();
                tracing::error!("{work} was removed: stopping; sessions go on under their hosts");
                break;
            }
            self.turn.finish()?;
        }
        for subscriber in &self.turn.ground.subscribers {
            subscriber.close();
        }
        if lock.is_at(&self.layout().writer_lock()) {
            self.turn.ground.executor.anchor(true);
        }
        Ok(())
    }

    /// Carries one request out, with the effects that belong to it.
    pub(super) fn one_request(&mut self, first: &[Event], request: Request) -> Result<Answer, JournalError> {
        self.turn.boot(first);
        let (reply, answer) = std::sync::mpsc::channel();
        self.receive(Message::Request { who: Who::Operator, request, reply });
        self.turn.finish()?;
        while self.turn.is_busy() {
            match self.inbox.recv() {
                Ok(message) => self.receive(message),
                Err(_) => break,
            }
            self.turn.finish()?;
        }
        // Before the first run there is no history that could be lost.
        self.turn.ground.executor.anchor(false);
        let answer = answer.try_recv().unwrap_or_else(|_| Answer::Done { text: "recorded".to_owned() });
        Ok(match self.turn.troubles() {
            [] => answer,
            troubles => {
                let what = "the request is recorded, but what follows from it could not be done";
                let refusal = Refusal::new(RefusalKind::Internal, what).because(troubles.join("; "));
                Answer::Refused { refusal: refusal.hint("loom run   (tries again)") }
            }
        })
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Request { who, request, reply } => self.turn.request(who, request, reply),
            Message::Outcome { key, event } => self.turn.outcome(key, &event),
            Message::Status { reply } => {
                let _ = reply.send(Box::new(self.turn.ground.status(self.turn.world())));
            }
            Message::Subscribe { latest } => {
                latest.put(Arc::new(self.turn.ground.status(self.turn.world())));
                self.turn.ground.subscribers.push(latest);
            }
            Message::Shutdown => self.turn.stop(),
        }
    }
}

impl Ground for Machine {
    type Store = Disk;
    type Reply = Sender<Answer>;

    fn now(&self) -> Timestamp {
        clock::now()
    }

    fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// What a session reads is there before it starts.
    fn recorded(&mut self, world: &World) {
        self.write_signals(world);
        self.executor.set_config(world.run.as_ref().map(|run| run.ground.config.as_str()));
    }

    fn head(&mut self, head: Option<Anchor>) {
        self.executor.set_head(head);
    }

    fn start(&mut self, effect: Effect, key: Option<String>) {
        self.executor.start(effect, key);
    }

    fn answer(&mut self, reply: Sender<Answer>, answer: Answer) {
        // Who asked may be gone.
        let _ = reply.send(answer);
    }

    fn show(&mut self, world: &World, touched: &BTreeSet<StageId>) {
        self.write_views(world, touched);
        self.publish(world);
    }
}

impl Machine {
    fn write_signals(&self, world: &World) {
        let Some(run) = &world.run else { return };
        for id in &begun(run) {
            if let Err(error) = crate::views::write_signal(&self.layout, run, id) {
                tracing::warn!("the signal of {id} cannot be written: {error}");
            }
        }
    }

    fn write_views(&self, world: &World, touched: &BTreeSet<StageId>) {
        let Some(run) = &world.run else { return };
        for id in touched {
            if let Err(error) = crate::views::write_stage(&self.layout, run, id) {
                tracing::warn!("the view of {id} cannot be written: {error}");
            }
        }
    }

    fn publish(&mut self, world: &World) {
        self.subscribers.retain(|latest| Arc::strong_count(latest) > 1);
        if self.subscribers.is_empty() {
            return;
        }
        let status = Arc::new(self.status(world));
        for subscriber in &self.subscribers {
            subscriber.put(Arc::clone(&status));
        }
    }

    fn status(&self, world: &World) -> Status {
        let daemon = DaemonRow {
            running: true,
            pid: Some(std::process::id()),
            uptime_s: Some(self.started.elapsed().as_secs()),
        };
        let tip = self.executor.plan_tip(world);
        report::status(world, daemon, tip.as_deref(), clock::now())
    }
}

/// Sessions that are recorded and have no host yet.
fn begun(run: &Run) -> Vec<SessionId> {
    run.live_sessions()
        .filter(|session| matches!(session.state, SessionState::Planned))
        .map(|session| session.id.clone())
        .collect()
}
