//! The driver: which of everything that could happen next does, under one seed.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use loom::daemon::report;
use loom::daemon::turn::{Mode, Turn, Who};
use loom::kernel::World;
use loom::kernel::world::PlanEnd;
use loom::model::event::{GateTarget, Ground, PlanSource, Request};
use loom::model::ids::{GateId, SessionId, StageId};
use loom::model::session::Exit;
use loom::wire::status::{DaemonRow, PhaseOfPlan};

use super::boot::Reader;
use super::check::{self, By, Memory};
use super::dice::{Dice, Swarm, mix, plan};
use super::effects::BASE;
use super::git::{Git, Tree};
use super::outside::{Asker, Disk, Hands, Message, Outside, Sabotage, Shared, Trace, tell};

/// What one seed did.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Done {
    pub steps: u64,
    pub recoveries: u64,
    pub landings: u64,
    pub plans_ended: u64,
    pub answered: u64,
    pub trace: u64,
}

impl Done {
    pub fn add(&mut self, other: &Done) {
        self.steps += other.steps;
        self.recoveries += other.recoveries;
        self.landings += other.landings;
        self.plans_ended += other.plans_ended;
        self.answered += other.answered;
    }
}

impl std::fmt::Display for Done {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Done { steps, recoveries, landings, plans_ended, answered, .. } = self;
        write!(
            f,
            "{steps} steps, {recoveries} crash-recoveries, {landings} landings, {plans_ended} plans ended, \
             {answered} requests answered"
        )
    }
}

pub struct Process {
    pub turn: Turn<Hands>,
    pub mode: Mode,
    /// All that its world knows is in the journal: what a start finds is not, until the first turn ends.
    pub is_recorded: bool,
}

pub struct Sim {
    pub outside: Shared,
    pub process: Option<Process>,
    /// The world as it was last known, for people who act without a daemon.
    pub world: World,
    pub done: Done,
    /// A crash has happened and nothing has been read since.
    pub has_crashed: bool,
    /// The daemon's last world, when all of it was in the journal.
    pub known: Option<World>,
    pub reader: Reader,
    plans: u32,
}

/// The wall clock at the beginning, in milliseconds since the epoch.
const START_MS: i64 = 1_700_000_000_000;

/// How long a seed is in trouble, and how long it may take to end afterwards, in steps.
const TROUBLE: u64 = 700;
const CALM_MAX: u64 = 6_000;

/// Runs one seed to its end.
///
/// # Errors
/// The invariant that did not hold.
pub fn run(seed: u64, sabotage: Sabotage, is_told: bool) -> Result<Done, String> {
    let mut sim = Sim::new(seed, sabotage, is_told);
    sim.init_plan();
    for _ in 0..TROUBLE {
        sim.step()?;
    }
    sim.calm()?;
    let o = sim.outside.borrow();
    // See tests/compat/README.md.
    if let Some(dir) = std::env::var_os("LOOM_KEEP_JOURNALS") {
        fs_err::write(std::path::Path::new(&dir).join(format!("sim.{seed}.jsonl")), &o.disk.bytes).unwrap();
    }
    let (landings, answered) = (o.memory.landings, o.memory.answered);
    // The hash of its last line stands for the whole journal: every fact, and when it was recorded.
    let trace = o
        .disk
        .bytes
        .rchunks(96)
        .next()
        .unwrap_or_default()
        .iter()
        .fold(o.trace.hash, |hash, byte| mix(hash ^ u64::from(*byte)));
    Ok(Done { landings, answered, trace, ..sim.done.clone() })
}

impl Sim {
    fn new(seed: u64, sabotage: Sabotage, is_told: bool) -> Sim {
        let mut dice = Dice::new(seed);
        let swarm = Swarm::random(&mut dice, seed);
        let mut git = Git::default();
        let first = git.commit(Tree::from([(99, 0)]), &[], "first");
        git.set(BASE, Some(first));
        git.settle();
        let outside = Outside {
            dice,
            swarm,
            sabotage,
            wall_ms: START_MS,
            uptime: Duration::ZERO,
            boot_id: 1,
            numbers: 0,
            disk: Disk { bytes: Vec::new(), synced: 0, hollow: None },
            git,
            worktrees: BTreeMap::new(),
            hosts: BTreeMap::new(),
            user_dirty: Tree::new(),
            user_branch: BASE.to_owned(),
            config: 0,
            login: true,
            evidence: BTreeMap::new(),
            effects: Vec::new(),
            inbox: VecDeque::new(),
            waiting: BTreeSet::new(),
            accepted_config: None,
            death: None,
            is_dead: false,
            is_booting: false,
            hints: Vec::new(),
            memory: Memory::default(),
            trace: Trace { hash: seed, is_told },
        };
        Sim {
            outside: Rc::new(RefCell::new(outside)),
            process: None,
            world: World::default(),
            done: Done::default(),
            has_crashed: false,
            known: None,
            reader: Reader::default(),
            plans: 0,
        }
    }

    /// The world as people see it.
    fn seen(&self) -> &World {
        self.process.as_ref().map_or(&self.world, |process| process.turn.world())
    }

    fn chance(&self, per_mille: u32) -> bool {
        self.outside.borrow_mut().dice.chance(per_mille)
    }

    fn note(&self, number: u64) {
        self.outside.borrow_mut().trace.note(number);
    }

    /// `loom init`, of a new plan.
    fn init_plan(&mut self) {
        self.plans += 1;
        let request = {
            let o = &mut *self.outside.borrow_mut();
            let plan = plan(&mut o.dice, &format!("p{}", self.plans));
            // What a plan starts from has reached the disk long ago.
            o.git.tip(BASE).into_iter().for_each(|tip| o.git.make_durable(tip));
            let ground = Ground {
                base_branch: "main".to_owned(),
                base_commit: o.git.oid(o.git.tip(BASE).unwrap_or(0)),
                config: o.config_fingerprint(),
                nonce: self.plans.to_string(),
            };
            let sha256 = self.plans.to_string();
            let source = PlanSource { path: "plan.md".to_owned(), sha256 };
            Request::LoadPlan { plan: Box::new(plan), source, ground, clean: self.plans > 1 }
        };
        self.operator(request);
    }

    /// An operator asks: the daemon, or the same loop for this one request.
    fn operator(&mut self, request: Request) {
        tell!(self.outside.borrow(), "an operator asks {request:?}");
        if self.process.is_none() {
            self.boot(Mode::OneRequest);
        }
        if self.process.is_some() {
            let message = Message::Request { who: Who::Operator, request, asker: Asker::Operator };
            self.outside.borrow_mut().inbox.push_back(message);
        }
    }

    /// One thing happens, and everything is checked.
    fn step(&mut self) -> Result<(), String> {
        self.done.steps += 1;
        let by = self.happens();
        self.check(by)
    }

    fn check(&mut self, by: By) -> Result<(), String> {
        check::check(&mut self.outside.borrow_mut(), self.seen(), self.process.is_some(), by)
    }

    fn happens(&mut self) -> By {
        self.outside.borrow_mut().pass_time(Duration::from_millis(3));
        let swarm = self.outside.borrow().swarm.clone();
        if self.process.is_some() && self.chance(swarm.kill) {
            // At one of the next touches of the world, or right now.
            let later = self.outside.borrow_mut().dice.below(16) as u32;
            if later > 0 {
                self.outside.borrow_mut().death = Some(later - 1);
            } else {
                self.crash();
            }
            return By::Loom;
        }
        if self.chance(swarm.power_cut) {
            self.power_cut();
            return By::Others;
        }
        if let Some(by) = self.others_act(&swarm) {
            return by;
        }
        if self.process.is_none() {
            if self.chance(300) {
                self.boot(Mode::Daemon);
                return By::Loom;
            }
            return self.outside_goes_on();
        }
        if self.chance(500 + swarm.delay / 3) {
            return self.outside_goes_on();
        }
        self.daemon_goes_on();
        By::Loom
    }

    /// Faults and people that come and go by themselves.
    fn others_act(&mut self, swarm: &Swarm) -> Option<By> {
        if self.chance(swarm.host_kill) {
            self.kill_a_host();
            return Some(By::Others);
        }
        if self.chance(swarm.user) {
            self.outside.borrow_mut().user_acts(self.seen());
            self.note(1);
            return Some(By::Others);
        }
        if self.chance(swarm.user_moves_ours) {
            self.outside.borrow_mut().user_meddles(self.seen());
            self.note(2);
            return Some(By::Others);
        }
        if self.chance(swarm.config) {
            let o = &mut *self.outside.borrow_mut();
            o.config = o.dice.below(2) as u32;
            return Some(By::Others);
        }
        if self.chance(swarm.clock_jump) {
            let o = &mut *self.outside.borrow_mut();
            o.wall_ms += *o.dice.pick(&[-864_000_000, -60_000, 60_000, 864_000_000]);
            tell!(o, "the wall clock jumps");
            return Some(By::Others);
        }
        if self.chance(swarm.operator / 8) {
            self.outside.borrow_mut().inbox.push_back(Message::Signal);
            return Some(By::Others);
        }
        if self.chance(swarm.operator) {
            if self.chance(40) {
                self.init_plan();
                return Some(By::Loom);
            }
            let request = self.outside.borrow_mut().random_request(self.seen());
            if let Some(request) = request {
                self.operator(request);
            }
            return Some(By::Loom);
        }
        None
    }

    fn kill_a_host(&mut self) {
        let o = &mut *self.outside.borrow_mut();
        let alive: Vec<SessionId> =
            o.hosts.values().filter(|host| host.is_alive).map(|host| host.session.clone()).collect();
        if alive.is_empty() {
            return;
        }
        let session = o.dice.pick(&alive).clone();
        tell!(o, "the host of {session} is killed; its agent goes on");
        if let Some(host) = o.hosts.get_mut(&session) {
            (host.is_alive, host.exit) = (false, Exit::Lost);
            host.barrier = None;
        }
        o.trace.note(3);
    }

    /// An effect, an agent or the clock goes on.
    fn outside_goes_on(&mut self) -> By {
        let asks = self.process.as_ref().is_some_and(|process| process.mode == Mode::Daemon);
        let plan_branch = self.seen().run.as_ref().map(|run| run.plan.branch_ref()).unwrap_or_default();
        let o = &mut *self.outside.borrow_mut();
        let effects: Vec<usize> = (0..o.effects.len()).filter(|at| o.effects[*at].can_advance(o)).collect();
        let agents: Vec<SessionId> = o
            .hosts
            .values()
            .filter(|host| host.agent.is_alive && host.agent.asked.is_none())
            .map(|host| host.session.clone())
            .collect();
        let choices = effects.len() * 2 + agents.len();
        if choices == 0 || o.dice.chance(60) {
            let left = o.next_timer().map(|at| at.saturating_sub(o.uptime));
            let by = left.unwrap_or(Duration::from_secs(20)).min(Duration::from_secs(61));
            o.pass_time(by.max(Duration::from_millis(1)));
            o.trace.note(4);
            return By::Others;
        }
        let choice = o.dice.below(choices);
        o.trace.note(100 + choice as u64);
        match effects.get(choice / 2) {
            Some(at) => {
                let mut running = o.effects.remove(*at);
                if !running.advance(o) {
                    o.effects.insert(*at, running);
                }
                By::Loom
            }
            None => {
                let session = agents[choice - effects.len() * 2].clone();
                o.agent_acts(&session, asks, &plan_branch);
                By::Others
            }
        }
    }

    /// The daemon takes what is in its inbox, or its pause ends.
    fn daemon_goes_on(&mut self) {
        let Some(process) = &mut self.process else { return };
        let messages: Vec<Message> = {
            let o = &mut *self.outside.borrow_mut();
            let n = if o.inbox.is_empty() { 0 } else { 1 + o.dice.below(o.inbox.len()) };
            o.inbox.drain(..n).collect()
        };
        if messages.is_empty() {
            if process.mode == Mode::OneRequest {
                return;
            }
            let pause = process.turn.pause();
            let slept = {
                let o = &mut *self.outside.borrow_mut();
                let timer = o.next_timer().map(|at| at.saturating_sub(o.uptime));
                let slept = timer.map_or(pause, |timer| pause.min(timer));
                // It sleeps only while nothing else goes on.
                let goes_on = o.effects.iter().any(|running| running.can_advance(o))
                    || o.hosts.values().any(|host| host.agent.is_alive && host.agent.asked.is_none());
                let slept = if goes_on { slept.min(Duration::from_millis(50)) } else { slept };
                o.pass_time(slept);
                slept
            };
            if slept < pause {
                return;
            }
            process.turn.paused();
        }
        for message in messages {
            match message {
                Message::Request { who, request, asker } => {
                    if let (Request::Reset { stage, .. }, Some(run)) = (&request, &process.turn.world().run) {
                        self.outside.borrow_mut().memory.asked_for_reset(run, stage);
                    }
                    process.turn.request(who, request, asker);
                }
                Message::Outcome { key, event } => {
                    tell!(self.outside.borrow(), "the daemon hears {event:?}");
                    process.turn.outcome(key, &event);
                }
                Message::Signal => process.turn.stop(),
            }
        }
        self.finish_turn();
    }

    pub fn finish_turn(&mut self) {
        let Some(process) = &mut self.process else { return };
        let result = process.turn.finish();
        let is_dead = self.outside.borrow().is_dead;
        if is_dead || result.is_err() {
            tell!(self.outside.borrow(), "the daemon is gone: {result:?}");
            self.world = process.turn.world().clone();
            self.known = None;
            self.process = None;
            self.crashed();
            return;
        }
        process.is_recorded = true;
        let is_over = match process.mode {
            Mode::Daemon => process.turn.is_over(),
            Mode::OneRequest => !process.turn.is_busy(),
        };
        {
            let o = &mut *self.outside.borrow_mut();
            o.trace.note(o.disk.bytes.len() as u64);
            o.trace.note(o.git.commits.len() as u64);
            check::check_world(o, process.turn.world());
        }
        if is_over {
            tell!(self.outside.borrow(), "the daemon ends by itself");
            self.leave();
        }
    }

    /// The process ends by itself, or is killed between two turns.
    fn leave(&mut self) {
        if let Some(process) = self.process.take() {
            self.world = process.turn.world().clone();
            self.known = process.is_recorded.then(|| self.world.clone());
        }
        self.outside.borrow_mut().lose_process();
    }

    fn crash(&mut self) {
        tell!(self.outside.borrow(), "the daemon is killed");
        self.leave();
        self.crashed();
    }

    pub fn crashed(&mut self) {
        self.has_crashed = true;
        self.outside.borrow_mut().lose_process();
    }

    fn power_cut(&mut self) {
        tell!(self.outside.borrow(), "the power is cut");
        if self.process.is_some() {
            self.crash();
            // A command of the daemon's that was still under way is not the power's doing.
            let _ = self.check(By::Loom);
        }
        self.known = None;
        let o = &mut *self.outside.borrow_mut();
        o.power_cut();
        o.trace.note(5);
    }

    /// The faults stop, agents do what they should, and an operator types what `loom status`
    /// says: then the plan ends.
    fn calm(&mut self) -> Result<(), String> {
        {
            let o = &mut *self.outside.borrow_mut();
            o.swarm = Swarm::default();
            o.death = None;
            o.user_dirty.clear();
            o.user_branch = BASE.to_owned();
            o.git.locks.clear();
            o.login = true;
            // The clock is put right; who hangs is ended by its deadline.
            o.wall_ms = START_MS + o.uptime.as_millis() as i64;
            for host in o.hosts.values_mut() {
                host.agent.mood = super::outside::Mood::Good;
                host.deadline = host.deadline.min(o.uptime + Duration::from_secs(600));
            }
            tell!(o, "---- the faults stop ----");
        }
        let mut asked = 0;
        for step in 0..CALM_MAX {
            self.step()?;
            // Where a daemon runs, a person looks now and then; where none does, at once.
            if self.process.as_ref().is_some_and(|process| process.mode == Mode::OneRequest || step % 60 > 0) {
                continue;
            }
            let status = self.status();
            if self.world.run.as_ref().is_some_and(|run| run.end == PlanEnd::Cleaned)
                && status.phase == PhaseOfPlan::Complete
            {
                self.done.plans_ended += 1;
                return Ok(());
            }
            asked += 1;
            if asked > 60
                && let Some(stage) = self.not_final()
            {
                // Where trying again and again does not help, a person starts over.
                self.operator(Request::Reset { stage, reason: "because".to_owned() });
                continue;
            }
            if asked > 200 {
                return Err(format!("I7: the plan does not end: {}", brief(&status)));
            }
            self.type_next(&status)?;
        }
        Err(format!("I7: the plan has not ended after {CALM_MAX} steps: {}", brief(&self.status())))
    }

    /// A stage that something keeps from its end, by chance.
    fn not_final(&self) -> Option<StageId> {
        let run = self.seen().run.as_ref()?;
        let open = run.stages.iter().filter(|(_, stage)| !stage.state.is_final() && run.dependencies_met(&stage.spec));
        let open: Vec<&StageId> = open.map(|(id, _)| id).collect();
        let o = &mut *self.outside.borrow_mut();
        (!open.is_empty() && o.dice.chance(300)).then(|| (*o.dice.pick(&open)).clone())
    }

    fn status(&self) -> loom::wire::status::Status {
        let o = self.outside.borrow();
        let daemon = DaemonRow { running: self.process.is_some(), pid: None, uptime_s: None };
        let world = self.seen();
        let tip = world.run.as_ref().and_then(|run| o.git.tip(&run.plan.branch_ref()));
        report::status(world, daemon, tip.map(|tip| o.git.oid(tip).to_string()).as_deref(), o.now())
    }

    /// Types one of the commands that the status proposes.
    fn type_next(&mut self, status: &loom::wire::status::Status) -> Result<(), String> {
        let hints = std::mem::take(&mut self.outside.borrow_mut().hints);
        let hints: Vec<String> = hints.into_iter().filter(|hint| hint.starts_with("loom stage")).collect();
        let all = if hints.is_empty() { &status.next } else { &hints };
        if all.is_empty() {
            return match status.phase {
                PhaseOfPlan::Working => Ok(()),
                _ => Err(format!("I7: the plan is parked, and nobody is told what to do: {}", brief(status))),
            };
        }
        let next = self.outside.borrow_mut().dice.pick(all).clone();
        let words: Vec<&str> = next.split(' ').collect();
        let reason = "because".to_owned();
        let stage = |id: &str| StageId::new(id).map_err(|error| error.to_string());
        let request = match words.as_slice() {
            ["loom", "attach" | "logs", _] | ["git", "log", ..] => return Ok(()),
            ["loom", "init", ..] => {
                self.init_plan();
                return Ok(());
            }
            ["claude"] | ["loom", "run"] => None,
            ["loom", "merge"]
                if status.notices.iter().any(|notice| notice.contains("git merge")) && self.chance(500) =>
            {
                let plan_branch = self.seen().run.as_ref().map(|run| run.plan.branch_ref()).unwrap_or_default();
                self.outside.borrow_mut().user_settles(&plan_branch);
                return self.check(By::Others);
            }
            ["loom", "merge"] => Some(Request::Merge { stage: None }),
            ["loom", "merge", id] => Some(Request::Merge { stage: Some(stage(id)?) }),
            ["loom", "stage", "approve", id] => {
                let gate = id.strip_prefix('g').and_then(|n| n.parse().ok());
                let subject = match gate {
                    Some(gate) => GateTarget::Gate { gate: GateId(gate) },
                    None => GateTarget::Stage { stage: stage(id)? },
                };
                Some(Request::Approve { subject, reason })
            }
            ["loom", "resume", id] => Some(Request::Resume { stage: stage(id)? }),
            ["loom", "stage", "retry", id] => Some(Request::Retry { stage: stage(id)?, context: None }),
            ["loom", "stage", "block", id, ..] => Some(Request::Block { stage: stage(id)?, reason }),
            ["loom", "stage", "release", id] => Some(Request::Release { stage: stage(id)? }),
            ["loom", "stage", "reset", id, ..] => Some(Request::Reset { stage: stage(id)?, reason }),
            _ => return Err(format!("I7: nobody can type {next:?}")),
        };
        match request {
            Some(request) => self.operator(request),
            None if self.process.is_none() => self.boot(Mode::Daemon),
            None => {}
        }
        Ok(())
    }
}

/// A status on few lines.
fn brief(status: &loom::wire::status::Status) -> String {
    let stages = status.stages.iter().map(|stage| {
        let reason = stage.reason.as_ref().map(|reason| format!(" ({}: {})", reason.code, reason.text));
        format!("{} {}{}", stage.id, stage.state.as_str(), reason.unwrap_or_default())
    });
    format!(
        "{:?}; notices: {:?}; next: {:?}; {}",
        status.phase,
        status.notices,
        status.next,
        stages.collect::<Vec<_>>().join(", ")
    )
}
