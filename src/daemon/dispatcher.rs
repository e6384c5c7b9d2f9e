//! The daemon's loop: takes messages, lets the [`Turn`] decide, and gives it the machine to
//! stand on. Nothing else changes the world.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::base::clock;
use crate::base::fs::Lock;
use crate::base::layout::Layout;
use crate::daemon::executor::Executor;
use crate::daemon::notifier::Notifier;
use crate::daemon::report;
use crate::daemon::turn::{Ground, Mode, Turn, Who};
use crate::journal::{Disk, Journal, JournalError};
use crate::kernel::World;
use crate::kernel::world::Run;
use crate::model::anchor::Anchor;
use crate::model::attention::Channels;
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
    window: Arc<Window>,
    inbox: Receiver<Message>,
}

/// Where clients look at the world: between two turns of the loop, so that what they see is
/// durable, and without waking it.
pub struct Window {
    seat: Mutex<Seat>,
    opened: Condvar,
}

struct Seat {
    turn: Turn<Machine>,
    view: View,
}

/// Whether there is something to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum View {
    NotYet,
    Open,
    /// The loop has ended.
    Gone,
}

impl Window {
    fn sit(&self) -> MutexGuard<'_, Seat> {
        // Who only looked has broken nothing.
        self.seat.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Shows what is there now.
    fn open(&self, seat: &mut Seat) {
        seat.view = View::Open;
        self.opened.notify_all();
    }
    /// Waits until the loop has begun. None: it has ended.
    fn look(&self) -> Option<MutexGuard<'_, Seat>> {
        let seat = self.opened.wait_while(self.seat.lock().ok()?, |seat| seat.view == View::NotYet).ok()?;
        (seat.view == View::Open).then_some(seat)
    }
    /// The status now; none when the loop has ended.
    pub(super) fn status(&self) -> Option<Status> {
        let seat = self.look()?;
        Some(seat.turn.ground.status(seat.turn.world()))
    }
    /// The status now and after every change; none when the loop has ended.
    pub(super) fn subscribe(&self) -> Option<Arc<Latest>> {
        let mut seat = self.look()?;
        let latest = Arc::new(Latest::default());
        latest.put(Arc::new(seat.turn.ground.status(seat.turn.world())));
        seat.turn.ground.subscribers.push(Arc::clone(&latest));
        Some(latest)
    }
}

/// What the loop stands on in earnest.
struct Machine {
    layout: Layout,
    executor: Executor,
    subscribers: Vec<Arc<Latest>>,
    notifier: Option<Notifier>,
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
        let machine = Machine { layout, executor, subscribers: Vec::new(), notifier: None, started: Instant::now() };
        let seat = Seat { turn: Turn::new(machine, world, journal, mode), view: View::NotYet };
        let window = Arc::new(Window { seat: Mutex::new(seat), opened: Condvar::new() });
        (Dispatcher { window, inbox }, sender)
    }

    pub(super) fn window(&self) -> Arc<Window> {
        Arc::clone(&self.window)
    }

    /// From now on a person is told what waits for them.
    pub(super) fn notify(&self, channels: &Channels) {
        let mut seat = self.window.sit();
        seat.turn.ground.notifier = Notifier::start(&seat.turn.ground.layout, channels);
    }

    pub(super) fn layout(&self) -> Layout {
        self.window.sit().turn.ground.layout.clone()
    }

    /// Looks at the world before the loop begins.
    pub(super) fn with_world<T>(&self, look: impl FnOnce(&World) -> T) -> T {
        look(self.window.sit().turn.world())
    }

    /// Takes events until nothing can go on without a person, or somebody stops it.
    ///
    /// # Errors
    /// When the journal cannot be written: then nothing that was not durable was acknowledged,
    /// or shown.
    /// A `lock` that is no longer at its place ends the loop: somebody removed the state.
    pub(super) fn run(&mut self, first: &[Event], lock: &Lock) -> Result<(), JournalError> {
        let mut seat = self.window.sit();
        seat.turn.boot(first);
        let mut result = seat.turn.finish();
        self.window.open(&mut seat);
        let path = seat.turn.ground.layout.writer_lock();
        while result.is_ok() && !seat.turn.is_over() {
            let pause = seat.turn.pause();
            drop(seat);
            let received = self.inbox.recv_timeout(pause);
            seat = self.window.sit();
            match received {
                Ok(message) => {
                    seat.turn.receive(message);
                    // Whatever is there already shares the sync.
                    for message in self.inbox.try_iter().take(256) {
                        seat.turn.receive(message);
                    }
                }
                Err(RecvTimeoutError::Timeout) => seat.turn.paused(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if !lock.is_at(&path) {
                // Whatever is there now is not this daemon's: nothing more is written to it.
                let work = seat.turn.ground.layout.work.display();
                tracing::error!("{work} was removed: stopping; sessions go on under their hosts");
                break;
            }
            result = seat.turn.finish();
        }
        // What is not told yet is told now.
        drop(seat.turn.ground.notifier.take());
        seat.view = View::Gone;
        self.window.opened.notify_all();
        for subscriber in &seat.turn.ground.subscribers {
            subscriber.close();
        }
        if result.is_ok() && lock.is_at(&path) {
            seat.turn.ground.executor.anchor(true);
        }
        result
    }

    /// Carries one request out, with the effects that belong to it.
    pub(super) fn one_request(&mut self, first: &[Event], request: Request) -> Result<Answer, JournalError> {
        let turn = &mut self.window.sit().turn;
        turn.boot(first);
        let (reply, answer) = std::sync::mpsc::channel();
        turn.request(Who::Operator, request, reply);
        turn.finish()?;
        while turn.is_busy() {
            match self.inbox.recv() {
                Ok(message) => turn.receive(message),
                Err(_) => break,
            }
            turn.finish()?;
        }
        // Before the first run there is no history that could be lost.
        turn.ground.executor.anchor(false);
        let answer = answer.try_recv().unwrap_or_else(|_| Answer::Done { text: "recorded".to_owned() });
        Ok(match turn.troubles() {
            [] => answer,
            troubles => {
                let what = "the request is recorded, but what follows from it could not be done";
                let refusal = Refusal::new(RefusalKind::Internal, what).because(troubles.join("; "));
                Answer::Refused { refusal: refusal.hint("loom run   (tries again)") }
            }
        })
    }
}

impl Turn<Machine> {
    fn receive(&mut self, message: Message) {
        match message {
            Message::Request { who, request, reply } => self.request(who, request, reply),
            Message::Outcome { key, event } => self.outcome(key, &event),
            Message::Shutdown => self.stop(),
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
        if let Some(notifier) = &mut self.notifier {
            notifier.look(world);
        }
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
