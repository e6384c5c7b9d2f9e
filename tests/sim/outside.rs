//! Everything that is not Loom: disk, clock, git, worktrees, hosts with their agents, people.
//! It stands behind the same two traits as the machine: [`Ground`] and the journal's [`Store`].

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use jiff::Timestamp;
use loom::daemon::turn::{Ground, Who};
use loom::journal::Store;
use loom::kernel::World;
use loom::model::effect::{Answer, Effect};
use loom::model::event::{Event, Request};
use loom::model::ids::{Oid, SessionId, StageId};
use loom::model::limits::START_BARRIER;
use loom::model::plan::BackendKind;
use loom::model::session::{Exit, GaveUp, HostIdentity};

use super::check::Memory;
use super::dice::{Dice, Swarm, mix};
use super::effects::{Running, head_of};
use super::git::{Git, Tree};

pub type Shared = Rc<RefCell<Outside>>;

/// A mistake that Loom does not make, for the tests of the checker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    None,
    /// The plan branch is set, wherever it is.
    LandWithoutSwap,
    /// A failed check is reported as passed.
    ReportGreen,
    /// The disk says that it has synced, and has not.
    SyncLies,
    /// A worktree is removed as it is.
    RemoveUnrescued,
    /// A worktree is put back to its branch as it is.
    RestoreUnrescued,
    /// The start barrier is not waited for, and a start that was interrupted is simply done again.
    StartTwice,
    /// The base branch is moved to the plan branch, whatever it holds.
    FollowByForce,
    /// What was recorded last is gone when a daemon starts.
    ForgetLast,
    /// A setup that fails is not waited for.
    StartUnprepared,
    /// What a proof found out is not kept.
    KeepNoEvidence,
}

pub struct Disk {
    pub bytes: Vec<u8>,
    pub synced: usize,
    /// From here on the cache holds what a failed sync has given up to write.
    pub hollow: Option<usize>,
}

pub struct Worktree {
    pub head: Head,
    /// What is changed against the commit: none for a removed file.
    pub dirty: BTreeMap<u8, Option<u32>>,
    /// Its setup came to its end here; and there is a teardown.
    pub is_set_up: bool,
    pub has_teardown: bool,
}

#[derive(Clone, PartialEq, Eq)]
pub enum Head {
    Branch(String),
    Detached(usize),
}

/// A host with the agent under it.
pub struct Host {
    pub session: SessionId,
    pub stage: StageId,
    pub worktree: String,
    pub backend: BackendKind,
    /// Its agent may only work where a setup has run.
    pub needs_setup: bool,
    pub identity: HostIdentity,
    pub token: String,
    /// Waits at the start barrier until this uptime; none: it was released.
    pub barrier: Option<Duration>,
    pub deadline: Duration,
    pub is_alive: bool,
    pub exit: Exit,
    pub gave_up: Option<GaveUp>,
    pub agent: Agent,
}

/// How an agent behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Good,
    /// Commits work that its checks refuse, and better work later.
    Sloppy,
    /// Says that it is done and leaves its work uncommitted, or has none.
    Liar,
    Crash,
    Hang,
    /// Asks for everything more than once.
    Impatient,
    Blocks,
    Limited,
    LoggedOut,
    /// Rewrites the history of its branch, or leaves it.
    Rewriter,
}

pub struct Agent {
    pub is_alive: bool,
    pub mood: Mood,
    /// Pieces of work until it says that it is done.
    pub todo: u32,
    pub asked: Option<Asked>,
    pub heard: Option<(Asked, Answer)>,
    /// Pieces of work that it has done.
    pub pieces: u64,
    /// It was told to leave what it has.
    pub leaves: bool,
    pub patience: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Submit,
    TurnEnded,
    /// What it has used: it does not wait for the answer.
    Measured,
    Other,
}

/// The way back to somebody who asked.
#[derive(Debug, Clone)]
pub enum Asker {
    Operator,
    Session(SessionId, Asked),
}

pub enum Message {
    Request { who: Who, request: Request, asker: Asker },
    Outcome { key: Option<String>, event: Event },
    Signal,
}

pub struct Outside {
    pub dice: Dice,
    pub swarm: Swarm,
    pub sabotage: Sabotage,
    pub wall_ms: i64,
    pub uptime: Duration,
    pub boot_id: u32,
    pub numbers: u32,
    pub disk: Disk,
    pub git: Git,
    pub worktrees: BTreeMap<String, Worktree>,
    pub hosts: BTreeMap<SessionId, Host>,
    /// What the user has changed in the main checkout and not committed.
    pub user_dirty: Tree,
    /// What is checked out there.
    pub user_branch: String,
    pub config: u32,
    pub login: bool,
    /// The bundles of evidence that are on disk, by their paths.
    pub evidence: BTreeMap<String, Oid>,
    // In the daemon's process:
    pub effects: Vec<Running>,
    pub inbox: VecDeque<Message>,
    pub waiting: BTreeSet<SessionId>,
    pub accepted_config: Option<String>,
    /// The daemon dies at this many more touches of the world.
    pub death: Option<u32>,
    pub is_dead: bool,
    pub is_booting: bool,
    /// What the operator was told to type when the last request was refused.
    pub hints: Vec<String>,
    pub memory: Memory,
    pub trace: Trace,
}

/// A hash of everything that happened, and the story in words when somebody wants to read it.
pub struct Trace {
    pub hash: u64,
    pub is_told: bool,
}

impl Trace {
    pub fn note(&mut self, number: u64) {
        self.hash = mix(self.hash ^ number);
    }
}

/// Tells a step of the story: evaluated only when somebody reads it.
macro_rules! tell {
    ($outside:expr, $($text:tt)*) => {
        if $outside.trace.is_told {
            eprintln!("{:>9} ms  {}", $outside.uptime.as_millis(), format!($($text)*));
        }
    };
}
pub(crate) use tell;

impl Outside {
    pub fn now(&self) -> Timestamp {
        Timestamp::from_millisecond(self.wall_ms).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    pub fn number(&mut self) -> u32 {
        self.numbers += 1;
        self.numbers
    }

    /// Another touch of the world by the daemon. False: it is dead, and does nothing any more.
    fn touch(&mut self) -> bool {
        match &mut self.death {
            _ if self.is_dead => {}
            Some(0) => {
                self.is_dead = true;
                tell!(self, "the daemon dies");
            }
            Some(left) => *left -= 1,
            None => {}
        }
        !self.is_dead
    }

    pub fn config_fingerprint(&self) -> String {
        format!("config {}", self.config)
    }

    pub fn pass_time(&mut self, by: Duration) {
        self.uptime += by;
        self.wall_ms += by.as_millis() as i64;
        self.tick_hosts();
    }

    /// Hosts whose start nobody recorded go away; deadlines are kept.
    pub fn tick_hosts(&mut self) {
        for host in self.hosts.values_mut().filter(|host| host.is_alive) {
            if host.barrier.is_some_and(|until| until <= self.uptime) {
                (host.is_alive, host.agent.is_alive, host.exit) = (false, false, Exit::NeverStarted);
            } else if host.barrier.is_none() && host.deadline <= self.uptime {
                (host.is_alive, host.agent.is_alive, host.exit) = (false, false, Exit::TimedOut);
            }
        }
    }

    /// When the outside changes by time alone.
    pub fn next_timer(&self) -> Option<Duration> {
        let hosts = self.hosts.values().filter(|host| host.is_alive);
        let timers = hosts.map(|host| host.barrier.unwrap_or(host.deadline));
        timers.chain(self.effects.iter().filter_map(|running| running.wakes_at(self))).min()
    }

    pub fn new_host(&mut self, session: &SessionId, worktree: &str, backend: BackendKind, timeout: Duration) {
        let number = self.number();
        let moods = [
            Mood::Sloppy,
            Mood::Liar,
            Mood::Crash,
            Mood::Hang,
            Mood::Impatient,
            Mood::Blocks,
            Mood::Limited,
            Mood::LoggedOut,
            Mood::Rewriter,
        ];
        let mood = if self.dice.chance(self.swarm.bad_agents) { *self.dice.pick(&moods) } else { Mood::Good };
        let host = Host {
            session: session.clone(),
            stage: session.stage(),
            worktree: worktree.to_owned(),
            backend,
            needs_setup: false,
            identity: HostIdentity { pid: number, start_ticks: u64::from(number), boot_id: self.boot_id.to_string() },
            token: format!("digest {number}"),
            barrier: Some(self.uptime + START_BARRIER),
            deadline: self.uptime + START_BARRIER + timeout,
            is_alive: true,
            exit: Exit::Lost,
            gave_up: None,
            agent: Agent {
                is_alive: false,
                mood,
                todo: 1 + self.dice.below(3) as u32,
                asked: None,
                heard: None,
                pieces: 0,
                leaves: false,
                patience: 4,
            },
        };
        self.hosts.insert(session.clone(), host);
    }

    /// Ends a host with its whole process tree.
    pub fn end_host(&mut self, session: &SessionId, exit: Exit) {
        if let Some(host) = self.hosts.get_mut(session).filter(|host| host.is_alive) {
            (host.is_alive, host.agent.is_alive, host.exit) = (false, false, exit);
        }
    }

    /// What the daemon's process had in its memory is gone, and so are its threads.
    pub fn lose_process(&mut self) {
        let mut left = std::mem::take(&mut self.effects);
        for running in &mut left {
            // Its git command may still finish, or leave its lock.
            if self.dice.chance(300) {
                running.finish_unheard(self);
            }
            if self.dice.chance(self.swarm.stale_lock) {
                self.git.locks.extend(running.locks());
            }
        }
        let lost = self.inbox.drain(..).filter_map(|message| match message {
            Message::Request { asker, .. } => Some(asker),
            _ => None,
        });
        for asker in lost.collect::<Vec<_>>() {
            self.forget_question(&asker);
        }
        let askers: Vec<SessionId> = self.hosts.keys().cloned().collect();
        askers.iter().for_each(|id| self.forget_question(&Asker::Session(id.clone(), Asked::Other)));
        self.waiting.clear();
        self.accepted_config = None;
        (self.death, self.is_dead) = (None, false);
    }

    fn forget_question(&mut self, asker: &Asker) {
        if let Asker::Session(session, _) = asker
            && let Some(host) = self.hosts.get_mut(session)
        {
            host.agent.asked = None;
        }
    }

    /// Everything that was not synced is gone, or half there.
    pub fn power_cut(&mut self) {
        let disk = &mut self.disk;
        let kept = disk.synced + self.dice.below(disk.bytes.len() - disk.synced + 1);
        disk.bytes.truncate(kept);
        if let Some(from) = disk.hollow.take().filter(|from| *from < disk.bytes.len()) {
            disk.bytes[from..].fill(0);
        }
        disk.synced = disk.bytes.len();
        let heads = |o: &Outside| -> Vec<Option<usize>> { o.worktrees.values().map(|w| head_of(o, w)).collect() };
        let before = heads(self);
        self.git.power_cut(&mut self.dice);
        let after = heads(self);
        for (at, worktree) in self.worktrees.values_mut().enumerate() {
            worktree.dirty.retain(|_, _| self.dice.chance(700));
            // Files stay, or do not, when the branch is at an older commit again, or gone.
            if let (Some(before), true) = (before[at], before[at] != after[at]) {
                let empty = Tree::new();
                let old = after[at].map_or(&empty, |after| &self.git.commits[after].tree);
                for (path, content) in &self.git.commits[before].tree {
                    if *path < 99 && old.get(path) != Some(content) && self.dice.chance(700) {
                        worktree.dirty.entry(*path).or_insert(Some(*content));
                    }
                }
            }
            if let Head::Detached(at) = worktree.head
                && self.git.commits[at].is_gone
            {
                worktree.head = Head::Detached(0);
            }
        }
        for host in self.hosts.values_mut() {
            if host.is_alive {
                (host.is_alive, host.exit) = (false, Exit::Lost);
            }
            host.agent.is_alive = false;
        }
        self.boot_id += 1;
    }
}

/// The daemon's hands in the simulated world.
pub struct Hands(pub Shared);

/// The journal's file.
pub struct File(pub Shared);

impl Store for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let o = &mut *self.0.borrow_mut();
        if o.is_dead {
            return Err(io::Error::other("dead"));
        }
        let fails = o.dice.chance(o.swarm.disk_full) || o.dice.chance(o.swarm.write_error);
        if !o.touch() || fails {
            let kept = o.dice.below(bytes.len() + 1);
            o.disk.bytes.extend_from_slice(&bytes[..kept]);
            tell!(o, "the journal takes {kept} of {} bytes", bytes.len());
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        o.disk.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        let o = &mut *self.0.borrow_mut();
        if !o.touch() {
            return Err(io::Error::other("dead"));
        }
        // A repair of the same bytes that fails too, or is never reached, is more than is simulated.
        if !o.is_booting && o.dice.chance(o.swarm.sync_error) {
            tell!(o, "the journal cannot be synced");
            o.disk.hollow.get_or_insert(o.disk.synced);
            return Err(io::Error::other("EIO"));
        }
        if o.sabotage != Sabotage::SyncLies {
            o.disk.synced = o.disk.bytes.len();
        }
        Ok(())
    }

    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        let o = &mut *self.0.borrow_mut();
        if o.is_dead || o.disk.hollow.is_none() && !o.touch() {
            return Err(io::Error::other("dead"));
        }
        if o.disk.hollow.is_none() && o.dice.chance(o.swarm.write_error) {
            return Err(io::Error::other("EIO"));
        }
        let bytes = bytes as usize;
        o.disk.bytes.truncate(bytes);
        o.disk.hollow = o.disk.hollow.filter(|from| *from < bytes);
        o.disk.synced = bytes;
        Ok(())
    }
}

impl Ground for Hands {
    type Store = File;
    type Reply = Asker;

    fn now(&self) -> Timestamp {
        self.0.borrow().now()
    }

    fn uptime(&self) -> Duration {
        self.0.borrow().uptime
    }

    fn recorded(&mut self, world: &World) {
        let o = &mut *self.0.borrow_mut();
        if o.touch() {
            o.accepted_config = world.run.as_ref().map(|run| run.ground.config.clone());
        }
    }

    fn start(&mut self, effect: Effect, key: Option<String>) {
        let o = &mut *self.0.borrow_mut();
        if o.touch() {
            tell!(o, "  begins {effect:?}");
            o.trace.note(0x10);
            o.memory.depends_on(&o.disk, "an effect begins");
            o.effects.push(Running::new(effect, key, o.uptime));
        }
    }

    fn answer(&mut self, reply: Asker, answer: Answer) {
        let o = &mut *self.0.borrow_mut();
        if !o.touch() {
            return;
        }
        tell!(o, "  answers {reply:?}: {answer:?}");
        o.trace.note(0x11);
        if !matches!(answer, Answer::Refused { .. }) {
            o.memory.depends_on(&o.disk, "a request is acknowledged");
        }
        o.memory.answered += 1;
        if let (Asker::Operator, Answer::Refused { refusal }) = (&reply, &answer) {
            o.hints.clone_from(&refusal.hints);
        }
        if let Asker::Session(session, asked) = reply
            && let Some(host) = o.hosts.get_mut(&session)
        {
            host.agent.asked = None;
            match asked {
                Asked::Measured => host.agent.leaves |= matches!(answer, Answer::Advice { .. }),
                _ => host.agent.heard = Some((asked, answer)),
            }
        }
    }

    fn show(&mut self, _: &World, _: &BTreeSet<StageId>) {
        self.0.borrow_mut().touch();
    }
}
