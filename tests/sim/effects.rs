//! The simulated executor: every effect does to the model what the real one does to the
//! machine, in several phases, between which anything may happen.

use std::collections::BTreeMap;
use std::time::Duration;

use loom::model::baseline::{Baseline, Before, Look};
use loom::model::check::{Check, Setup};
use loom::model::effect::{Effect, Prove, Start};
use loom::model::event::{
    AloneVerdict, Doing, Entry, Event, EvidenceRef, Inspection, Proof, Pulse, RefsSeen, StartFailure,
};
use loom::model::ids::{Oid, SessionId, StageId};
use loom::model::plan::{BackendKind, stage_branch};
use loom::model::session::{Exit, Preparing};
use loom::model::stage::{BlockCode, CheckResult};
use loom::model::usage::Usage;

use super::dice::{PIECE_MICROUSD, PIECE_TOKENS, path_of, set_up};
use super::git::{Merged, Tree};
use super::outside::{Head, Message, Outside, Sabotage, Worktree, tell};

/// The first commit of every repository.
pub const BASE: &str = "refs/heads/main";

/// An effect in flight.
pub struct Running {
    effect: Effect,
    key: Option<String>,
    phase: usize,
    since: Duration,
    outcome: Option<Event>,
    rescued: Vec<String>,
    result: Option<Proof>,
}

enum Next {
    Phase,
    Stay,
    Done(Event),
}

fn failed(effect: &'static str, why: impl Into<String>) -> Next {
    Next::Done(Event::EffectFailed { effect, why: why.into() })
}

fn branch_ref(stage: &StageId) -> String {
    format!("refs/heads/{}", stage_branch(stage))
}

/// What content means to the checks, in its lowest bits.
pub mod quality {
    pub const GOOD: u32 = 0;
    pub const BAD: u32 = 1;
    pub const FLAKY: u32 = 2;
    pub const HANGS: u32 = 3;
    /// Good alone; together with `RIGHT` the plan's own checks fail.
    pub const LEFT: u32 = 4;
    pub const RIGHT: u32 = 5;
}

impl Running {
    pub fn new(effect: Effect, key: Option<String>, since: Duration) -> Running {
        Running { effect, key, phase: 0, since, outcome: None, rescued: Vec::new(), result: None }
    }

    /// When it goes on by time alone.
    pub fn wakes_at(&self, o: &Outside) -> Option<Duration> {
        match &self.effect {
            Effect::EndSession { grace, .. } if self.outcome.is_none() => Some(self.since + *grace),
            _ => None,
        }
        .filter(|at| *at > o.uptime)
    }

    pub fn can_advance(&self, o: &Outside) -> bool {
        let is_alive = |session: &SessionId| o.hosts.get(session).is_some_and(|host| host.is_alive);
        match &self.effect {
            _ if self.outcome.is_some() => true,
            Effect::Watch { session } => !is_alive(session),
            Effect::EndSession { session, grace, .. } => self.since + *grace <= o.uptime || !is_alive(session),
            Effect::Start(start) => self.phase > 0 || !is_alive(&start.session),
            _ => true,
        }
    }

    /// Goes on by one phase. True: it is over, and its outcome is in the inbox.
    pub fn advance(&mut self, o: &mut Outside) -> bool {
        if let Some(event) = self.outcome.take() {
            o.inbox.push_back(Message::Outcome { key: self.key.clone(), event });
            return true;
        }
        tell!(o, "phase {} of {:?}", self.phase, self.key);
        match self.phase(o) {
            Next::Phase => self.phase += 1,
            Next::Stay => {}
            Next::Done(event) => self.outcome = Some(event),
        }
        false
    }

    /// Its process is dead; a command that it had begun finishes all the same.
    pub fn finish_unheard(&mut self, o: &mut Outside) {
        let starts = matches!(self.effect, Effect::Start(_) | Effect::OpenBarrier { .. } | Effect::EndSession { .. });
        if self.outcome.is_none() && !starts && self.can_advance(o) {
            let _ = self.phase(o);
        }
    }

    /// Refs that a git command of this effect would lock.
    pub fn locks(&self) -> Vec<String> {
        match &self.effect {
            Effect::Land { branch, .. } | Effect::RestorePlanBranch { branch, .. } => {
                vec![format!("refs/heads/{branch}")]
            }
            Effect::RemoveStage { stage, .. } => vec![branch_ref(stage)],
            _ => Vec::new(),
        }
    }

    fn phase(&mut self, o: &mut Outside) -> Next {
        if self.phase == 0
            && o.dice.chance(o.swarm.effect_error)
            && let Some(event) = self.broken(o)
        {
            return Next::Done(event);
        }
        match self.effect.clone() {
            Effect::MakePlanBranch { branch, commit } => make_plan_branch(o, &branch, &commit),
            Effect::Start(start) => self.start(o, &start),
            Effect::OpenBarrier { session, .. } => open_barrier(o, &session),
            Effect::Watch { session } => watch(o, session),
            Effect::EndSession { session, .. } => {
                o.end_host(&session, Exit::UnixSignal { signal: 15 });
                Next::Done(Event::EffectDone)
            }
            Effect::Inspect { stage, session, worktree, base, request } => {
                let inspection = inspect(o, &stage, &worktree, &base);
                Next::Done(Event::Inspected { stage, session, request, inspection })
            }
            Effect::LookAtBase(look) if self.phase > 0 => Next::Done(look_at_base(o, &look)),
            Effect::LookAtBase(_) => Next::Phase,
            Effect::Prove(prove) => self.prove(o, &prove),
            Effect::Land { entry, branch, tip, landing } => self.land(o, entry, &branch, tip, landing),
            Effect::FollowBase { plan_branch, branch, from, to } => self.follow(o, (&plan_branch, &branch), &from, &to),
            Effect::LookAtRefs { plan_branch, tip, base_branch, base, unlanded } => {
                let refs = look_at_refs(o, (&plan_branch, &base_branch), &base, &unlanded);
                Next::Done(Event::RefsSeen { refs: RefsSeen { asked_tip: tip, ..refs } })
            }
            Effect::RestorePlanBranch { branch, actual, expected } => restore(o, &branch, actual.as_ref(), &expected),
            Effect::RemoveStage { stage, worktrees } => self.remove_stage(o, &stage, &worktrees),
            Effect::TidyWorktrees { stages } => match self.tidy(o, &stages) {
                Ok(true) => Next::Done(Event::WorktreesTidied {
                    stages: stages.into_iter().map(|(stage, _)| stage).collect(),
                    rescued: std::mem::take(&mut self.rescued),
                }),
                Ok(false) => Next::Phase,
                Err(why) => failed("remove landed worktrees", why),
            },
            Effect::CleanPlan { plan, stages } => match self.tidy(o, &stages) {
                Ok(true) => {
                    for (stage, _) in &stages {
                        if let Some(tip) = o.git.tip(&branch_ref(stage)) {
                            let done = format!("refs/loom/done/{plan}/{stage}");
                            let old = o.git.tip(&done);
                            if let Some(old) = old
                                && let Err(why) = rescue_commit(o, stage.as_str(), old, &[tip])
                            {
                                return failed("clean up after the plan", why);
                            }
                            let moved = o.git.swap(&done, old, Some(tip));
                            if let Err(why) = moved.and_then(|()| o.git.swap(&branch_ref(stage), Some(tip), None)) {
                                return failed("clean up after the plan", why);
                            }
                        }
                    }
                    Next::Done(Event::PlanCleaned { rescued: std::mem::take(&mut self.rescued) })
                }
                Ok(false) => Next::Phase,
                Err(why) => failed("clean up after the plan", why),
            },
            // Nobody here says anything while it works: after long enough that is a hang.
            Effect::LookAtSession { session, .. } => {
                let awake = std::time::Duration::from_secs(60);
                let pulse = Pulse { sign_at: None, doing: Doing::Working, awake, person_at: None };
                Next::Done(Event::SessionSeen { session: session.clone(), pulse })
            }
            Effect::CancelStart { .. } | Effect::Reply { .. } | Effect::Shutdown => Next::Done(Event::EffectDone),
        }
    }

    /// The outcome of an effect that could not be done at all: no disk, no memory, no git.
    fn broken(&self, o: &Outside) -> Option<Event> {
        let why = "no space left on device".to_owned();
        Some(match &self.effect {
            // The branch is asked whether it moved all the same.
            Effect::Land { entry, branch, tip, landing } => {
                let now = o.git.tip(&format!("refs/heads/{branch}"));
                match o.git.find(landing).zip(now) {
                    Some((new, now)) if o.git.is_ancestor(new, now) => {
                        Event::Landed { entry: entry.clone(), tip: tip.clone(), landing: landing.clone() }
                    }
                    Some(_) => Event::LandRefused { entry: entry.clone(), moved: false, why },
                    None => Event::EffectFailed { effect: "land", why },
                }
            }
            Effect::Start(start) => {
                Event::StartFailed { session: start.session.clone(), why: StartFailure::Passing { text: why } }
            }
            Effect::Prove(prove) => told(prove, Proof::Broken { why }),
            Effect::FollowBase { .. } => Event::BaseStayed { why },
            Effect::Inspect { stage, session, request, .. } => Event::Inspected {
                stage: stage.clone(),
                session: session.clone(),
                request: *request,
                inspection: Inspection::Unfit { why },
            },
            Effect::OpenBarrier { .. }
            | Effect::Watch { .. }
            | Effect::CancelStart { .. }
            | Effect::Reply { .. }
            | Effect::Shutdown => return None,
            _ => Event::EffectFailed { effect: "something", why },
        })
    }

    fn start(&mut self, o: &mut Outside, start: &Start) -> Next {
        let fails = |why| Next::Done(Event::StartFailed { session: start.session.clone(), why });
        match self.phase {
            0 => {
                let backend = start.agent.kind();
                if !o.login && backend == loom::model::plan::BackendKind::Claude {
                    let text = "Claude Code is not logged in".to_owned();
                    return fails(StartFailure::Permanent { code: BlockCode::NotLoggedIn, backend, text });
                }
                if check_config(o).is_err() {
                    return fails(StartFailure::Interrupted);
                }
                o.new_host(&start.session, &start.worktree, backend, start.timeout);
                if o.sabotage == Sabotage::StartTwice {
                    o.waiting.insert(start.session.clone());
                    let _ = open_barrier(o, &start.session);
                    o.numbers += 1;
                }
                Next::Phase
            }
            1 => match prepare_worktree(o, start) {
                Ok(()) => {
                    if let Some(host) = o.hosts.get_mut(&start.session) {
                        host.needs_setup = !start.setup.is_empty();
                    }
                    Next::Phase
                }
                Err(text) => {
                    give_up_barrier(o, &start.session);
                    fails(StartFailure::Passing { text })
                }
            },
            2 if !start.setup.is_empty() && !is_set_up(o, &start.worktree) => {
                let session = start.session.clone();
                let event = Event::Preparing { session: session.clone(), what: Preparing::SetUp };
                o.inbox.push_back(Message::Outcome { key: None, event });
                if o.sabotage == Sabotage::StartUnprepared {
                    return Next::Phase;
                }
                if o.dice.chance(o.swarm.bad_setups) {
                    give_up_barrier(o, &session);
                    let (code, backend) = (BlockCode::SetupFailed, start.agent.kind());
                    return fails(StartFailure::Permanent { code, backend, text: "setup failed".to_owned() });
                }
                if let Some(worktree) = o.worktrees.get_mut(&start.worktree) {
                    worktree.is_set_up = true;
                }
                let event = Event::SetUp { session, duration_ms: 1 };
                o.inbox.push_back(Message::Outcome { key: None, event });
                Next::Phase
            }
            _ => {
                let Some(host) = o.hosts.get(&start.session) else { return Next::Stay };
                let (host, token_sha256) = (host.identity.clone(), host.token.clone());
                o.waiting.insert(start.session.clone());
                Next::Done(Event::SessionHosted { session: start.session.clone(), host, token_sha256 })
            }
        }
    }

    fn prove(&mut self, o: &mut Outside, prove: &Prove) -> Next {
        if self.phase == 0 {
            let Some((tip, commit)) = o.git.find(&prove.tip).zip(o.git.find(&prove.commit)) else {
                let proof = Proof::Broken { why: "a commit is missing".to_owned() };
                return Next::Done(told(prove, proof));
            };
            let tree = match o.git.is_ancestor(tip, commit) {
                true => o.git.commits[commit].tree.clone(),
                false => match o.git.merge(tip, commit) {
                    Merged::Clean(tree) => tree,
                    Merged::Conflict(files) => {
                        let proof = Proof::Conflict { files: files.iter().map(u8::to_string).collect() };
                        return Next::Done(told(prove, proof));
                    }
                },
            };
            let landing = o.git.commit(tree, &[tip, commit], &format!("{}\n{}", prove.message, prove.date));
            // Loom writes with `core.fsync=all`.
            o.git.make_durable(landing);
            let tree = o.git.commits[landing].tree_oid.clone();
            let changes_nothing = o.git.commits[tip].tree_oid == tree;
            self.result = Some(match &prove.proven {
                Some((proven, checks)) if *proven == tree => Proof::Passed {
                    landing: o.git.oid(landing),
                    tree,
                    checks: checks.clone(),
                    judges: Vec::new(),
                    changes_nothing,
                },
                _ => {
                    let checks = run_checks(o, (&prove.checks, &prove.setup), landing);
                    if checks.iter().all(|check| check.passed) || o.sabotage == Sabotage::ReportGreen {
                        let checks = checks.into_iter().map(|check| CheckResult { passed: true, ..check }).collect();
                        Proof::Passed { landing: o.git.oid(landing), tree, checks, judges: Vec::new(), changes_nothing }
                    } else if o.git.is_ancestor(tip, commit) {
                        Proof::Failed { checks, alone: AloneVerdict::SameTree, work: None }
                    } else {
                        let alone =
                            run_checks(o, (&prove.checks, &prove.setup), commit).iter().all(|check| check.passed);
                        let alone = if alone { AloneVerdict::PassesAlone } else { AloneVerdict::AlsoFails };
                        Proof::Failed { checks, alone, work: None }
                    }
                }
            });
            return Next::Phase;
        }
        let proof = self.result.take().unwrap_or(Proof::Broken { why: "nothing was proven".to_owned() });
        let evidence = match &proof {
            Proof::Passed { landing, .. } if o.sabotage != Sabotage::KeepNoEvidence => {
                vec![keep_evidence(o, prove, landing)]
            }
            _ => Vec::new(),
        };
        match told(prove, proof) {
            Event::Proved { entry, tip, proof, kept, baseline, .. } => {
                Next::Done(Event::Proved { entry, tip, proof, kept, evidence, baseline })
            }
            other => Next::Done(other),
        }
    }

    fn land(&mut self, o: &mut Outside, entry: Entry, branch: &str, tip: Oid, landing: Oid) -> Next {
        let name = format!("refs/heads/{branch}");
        let refused = |entry, moved, why: &str| Next::Done(Event::LandRefused { entry, moved, why: why.to_owned() });
        let (Some(old), Some(new)) = (o.git.find(&tip), o.git.find(&landing)) else {
            return refused(entry, false, "a commit is missing");
        };
        if o.sabotage == Sabotage::LandWithoutSwap {
            o.git.set(&name, Some(new));
            return Next::Done(Event::Landed { entry, tip, landing });
        }
        if self.phase == 0 {
            return match o.git.tip(&name) {
                Some(now) if o.git.is_ancestor(new, now) => Next::Done(Event::Landed { entry, tip, landing }),
                Some(now) if now == old => Next::Phase,
                _ => refused(entry, true, "the plan branch is elsewhere"),
            };
        }
        let is_checked_out = o.user_branch == name;
        if is_checked_out && !o.user_dirty.is_empty() {
            return refused(entry, false, "the plan branch is checked out and cannot be moved");
        }
        match o.git.swap(&name, Some(old), Some(new)) {
            Ok(()) => Next::Done(Event::Landed { entry, tip, landing }),
            Err(why) => refused(entry, false, &why),
        }
    }

    fn follow(&mut self, o: &mut Outside, (plan_branch, branch): (&str, &str), from: &Oid, to: &Oid) -> Next {
        if self.phase == 0 {
            let refs = look_at_refs(o, (plan_branch, branch), from, &[]);
            o.inbox.push_back(Message::Outcome { key: None, event: Event::RefsSeen { refs } });
            return Next::Phase;
        }
        let stayed = |why: &str| Next::Done(Event::BaseStayed { why: why.to_owned() });
        let name = format!("refs/heads/{branch}");
        if check_config(o).is_err() {
            return stayed("the configuration changed");
        }
        let Some(new) = o.git.find(to) else { return stayed("a commit is missing") };
        if o.sabotage == Sabotage::FollowByForce {
            o.git.set(&name, Some(new));
            return Next::Done(Event::BaseFollowed { commit: to.clone() });
        }
        match o.git.tip(&name) {
            None => stayed("the branch is gone"),
            Some(tip) if tip == new => Next::Done(Event::BaseFollowed { commit: to.clone() }),
            Some(tip) if !o.git.is_ancestor(tip, new) => stayed("it has commits that the plan branch does not have"),
            Some(_) if o.user_branch == name && !o.user_dirty.is_empty() => stayed("the checkout has changes of yours"),
            Some(tip) => match o.git.swap(&name, Some(tip), Some(new)) {
                Ok(()) => Next::Done(Event::BaseFollowed { commit: to.clone() }),
                Err(why) => stayed(&why),
            },
        }
    }

    fn remove_stage(&mut self, o: &mut Outside, stage: &StageId, folders: &[String]) -> Next {
        if let Some(folder) = folders.get(self.phase / 2) {
            return match put_aside(o, stage, folder, &[], self.phase % 2 == 1) {
                Ok(rescued) => {
                    self.rescued.extend(rescued);
                    Next::Phase
                }
                Err(why) => failed("remove a stage", why),
            };
        }
        let branch = branch_ref(stage);
        o.git.locks.retain(|lock| *lock != branch);
        if let Some(tip) = o.git.tip(&branch) {
            let kept: Vec<usize> = plan_tips(o);
            let done = rescue_commit(o, stage.as_str(), tip, &kept).and_then(|rescued| {
                self.rescued.extend(rescued);
                o.git.swap(&branch, Some(tip), None)
            });
            if let Err(why) = done {
                return failed("remove a stage", why);
            }
        }
        Next::Done(Event::StageRemoved { stage: stage.clone(), rescued: std::mem::take(&mut self.rescued) })
    }

    /// One step of the removal of worktrees. True: they are all gone.
    fn tidy(&mut self, o: &mut Outside, stages: &[(StageId, Vec<String>)]) -> Result<bool, String> {
        let all: Vec<(&StageId, &String)> =
            stages.iter().flat_map(|(stage, folders)| folders.iter().map(move |folder| (stage, folder))).collect();
        let Some((stage, folder)) = all.get(self.phase / 2) else { return Ok(true) };
        self.rescued.extend(put_aside(o, stage, folder, &[], self.phase % 2 == 1)?);
        Ok(false)
    }
}

/// The lifeline of a host that waits at the barrier closes: it goes away by itself.
fn give_up_barrier(o: &mut Outside, session: &SessionId) {
    if let Some(host) = o.hosts.get_mut(session).filter(|host| host.barrier.is_some()) {
        (host.is_alive, host.exit) = (false, Exit::NeverStarted);
    }
}

fn is_set_up(o: &Outside, folder: &str) -> bool {
    o.worktrees.get(folder).is_some_and(|worktree| worktree.is_set_up)
}

/// What the checks of a stage do on its base.
fn look_at_base(o: &mut Outside, look: &Look) -> Event {
    let commit = o.git.find(&look.base);
    let baseline = commit.map(|commit| {
        let results = run_checks(o, (&look.checks, &look.setup), commit).into_iter().enumerate();
        let checks = results.map(|(at, result)| Before { key: at.to_string(), result }).collect();
        let tree = o.git.commits[commit].tree_oid.clone();
        Box::new(Baseline { base: look.base.clone(), tree, environment: "e".to_owned(), checks })
    });
    Event::BaseLooked { stage: look.stage.clone(), baseline, kept: None, evidence: Vec::new() }
}

/// The bundle of a verdict is on disk before anybody hears of it.
fn keep_evidence(o: &mut Outside, prove: &Prove, landing: &Oid) -> EvidenceRef {
    let of = match &prove.entry {
        Entry::Stage { stage } => stage.to_string(),
        _ => "_base".to_owned(),
    };
    let path = format!("evidence/{of}/{landing}");
    o.evidence.insert(path.clone(), landing.clone());
    EvidenceRef { of, commit: landing.clone(), sha256: path.clone(), path }
}

fn told(prove: &Prove, proof: Proof) -> Event {
    let (entry, tip) = (prove.entry.clone(), prove.tip.clone());
    Event::Proved { entry, tip, proof, kept: None, evidence: Vec::new(), baseline: None }
}

fn plan_tips(o: &Outside) -> Vec<usize> {
    o.git.refs.iter().filter(|(name, _)| name.starts_with("refs/heads/loom/_plan/")).map(|(_, tip)| *tip).collect()
}

fn check_config(o: &mut Outside) -> Result<(), ()> {
    let now = o.config_fingerprint();
    if o.accepted_config.as_ref().is_none_or(|accepted| *accepted == now) {
        return Ok(());
    }
    o.inbox.push_back(Message::Outcome { key: None, event: Event::ConfigSeen { fingerprint: now } });
    Err(())
}

fn make_plan_branch(o: &mut Outside, branch: &str, commit: &Oid) -> Next {
    let name = format!("refs/heads/{branch}");
    let Some(new) = o.git.find(commit) else { return failed("make the plan branch", "a commit is missing") };
    let tip = o.git.tip(&name);
    let kept = match tip {
        Some(tip) if tip != new => rescue_commit(o, "plan-branch", tip, &[new]).map(|_| ()),
        _ => Ok(()),
    };
    let moved = if tip == Some(new) { Ok(()) } else { o.git.swap(&name, tip, Some(new)) };
    match kept.and(moved) {
        Ok(()) => Next::Done(Event::PlanBranchMade { commit: commit.clone() }),
        Err(why) => failed("make the plan branch", why),
    }
}

fn open_barrier(o: &mut Outside, session: &SessionId) -> Next {
    if o.waiting.remove(session)
        && let Some(host) = o.hosts.get_mut(session).filter(|host| host.is_alive)
    {
        host.barrier = None;
        host.agent.is_alive = true;
        let (folder, needs_setup) = (host.worktree.clone(), host.needs_setup);
        // A worktree that somebody has removed meanwhile is another matter.
        if needs_setup && o.worktrees.contains_key(&folder) && !is_set_up(o, &folder) {
            o.memory.violate("I6", &format!("`{session}` works in a worktree that was not set up"));
        }
        tell!(o, "{session} works");
    }
    Next::Done(Event::EffectDone)
}

fn watch(o: &mut Outside, session: SessionId) -> Next {
    let exit = o.hosts.get(&session).map_or(Exit::Lost, |host| host.exit);
    if exit == Exit::Lost {
        kill_survivors(o, &session);
    }
    let mut events = at_the_end(o, session, exit);
    let end = events.pop();
    o.inbox.extend(events.into_iter().map(|event| Message::Outcome { key: None, event }));
    end.map_or(Next::Stay, Next::Done)
}

pub fn kill_survivors(o: &mut Outside, session: &SessionId) {
    if let Some(host) = o.hosts.get_mut(session) {
        host.agent.is_alive = false;
    }
}

/// The end of a session, with what it has used and what its client said about it.
pub fn at_the_end(o: &Outside, session: SessionId, exit: Exit) -> Vec<Event> {
    let Some(host) = o.hosts.get(&session) else { return vec![Event::SessionEnded { session, exit }] };
    let mut events = Vec::new();
    if host.agent.pieces > 0 && host.backend == BackendKind::Claude {
        events.push(Event::SessionMeasured { session: session.clone(), usage: usage(host.agent.pieces) });
    }
    events.push(match host.gave_up.clone() {
        Some(why) => Event::SessionGaveUp { session, exit, why },
        None => Event::SessionEnded { session, exit },
    });
    events
}

/// What so many pieces of work have cost.
pub fn usage(pieces: u64) -> Usage {
    Usage {
        context: 10 + pieces,
        window: 100,
        input: pieces * PIECE_TOKENS,
        cost_microusd: Some(pieces * PIECE_MICROUSD),
        ..Usage::default()
    }
}

pub fn head_of(o: &Outside, worktree: &Worktree) -> Option<usize> {
    match &worktree.head {
        Head::Branch(name) => o.git.tip(name),
        Head::Detached(at) => Some(*at),
    }
}

fn inspect(o: &mut Outside, stage: &StageId, folder: &str, base: &Oid) -> Inspection {
    if check_config(o).is_err() {
        return Inspection::Stopped { why: "the configuration changed".to_owned() };
    }
    let unfit = |why: &str| Inspection::Unfit { why: why.to_owned() };
    let Some(worktree) = o.worktrees.get(folder) else { return unfit("its worktree is gone") };
    if worktree.head != Head::Branch(branch_ref(stage)) {
        return unfit("its worktree is on another branch");
    }
    if !worktree.dirty.is_empty() {
        return Inspection::Dirty { files: worktree.dirty.keys().map(u8::to_string).collect() };
    }
    let Some((head, base)) = head_of(o, worktree).zip(o.git.find(base)) else { return unfit("no commit") };
    if !o.git.is_ancestor(base, head) {
        return unfit("history was rewritten");
    }
    o.git.make_durable(head);
    let changes_nothing = o.git.commits[base].tree == o.git.commits[head].tree;
    Inspection::Clean { head: o.git.oid(head), changes_nothing }
}

/// Runs the checks on a commit's tree; those that pass are remembered by the checker.
fn run_checks(o: &mut Outside, (checks, setups): (&[Check], &[Setup]), commit: usize) -> Vec<CheckResult> {
    let results = checks.iter().map(|check| {
        let passed = passes(o, (&check.command, setups), commit);
        if passed {
            o.memory.passed.insert((o.git.commits[commit].tree_oid.clone(), check.command.clone()));
        }
        CheckResult {
            command: check.command.clone(),
            passed,
            why: (!passed).then(|| "exit status 1".to_owned()),
            exit: Some(i32::from(!passed)),
            duration_ms: 1,
            ..CheckResult::default()
        }
    });
    results.collect()
}

fn passes(o: &mut Outside, (command, setups): (&str, &[Setup]), commit: usize) -> bool {
    let tree = &o.git.commits[commit].tree;
    match command.strip_prefix("own ") {
        Some(own) => {
            let path = own.trim_end_matches(" set-up");
            let wanted = path.parse().map(set_up).unwrap_or_default();
            if path != own && !setups.iter().any(|setup| setup.commands.contains(&wanted)) {
                return false;
            }
            let content = path.parse().ok().and_then(|path: u8| tree.get(&path)).map(|content| content & 7);
            match content {
                Some(quality::FLAKY) => o.dice.chance(600),
                Some(quality::GOOD | quality::LEFT | quality::RIGHT) => true,
                _ => false,
            }
        }
        None => {
            let has = |quality| tree.values().any(|content| content & 7 == quality);
            !(has(quality::LEFT) && has(quality::RIGHT))
        }
    }
}

fn look_at_refs(o: &mut Outside, (plan_branch, base_branch): (&str, &str), base: &Oid, unlanded: &[Oid]) -> RefsSeen {
    let plan_tip = o.git.tip(&format!("refs/heads/{plan_branch}"));
    let base_tip = o.git.tip(&format!("refs/heads/{base_branch}"));
    base_tip.into_iter().for_each(|tip| o.git.make_durable(tip));
    let git = &o.git;
    let known = git.find(base);
    let (mut is_forward, mut has_stage_work, mut is_in_plan) = (true, false, false);
    if let Some((tip, known)) = base_tip.zip(known).filter(|(tip, known)| tip != known) {
        is_forward = git.is_ancestor(known, tip);
        let stages = git
            .refs
            .iter()
            .filter(|(name, _)| name.starts_with("refs/heads/loom/") && !name.starts_with("refs/heads/loom/_plan/"));
        let tips = unlanded.iter().filter_map(|oid| git.find(oid)).chain(stages.map(|(_, tip)| *tip));
        has_stage_work = tips.into_iter().any(|at| !git.is_ancestor(at, known) && git.is_ancestor(at, tip));
        is_in_plan = plan_tip.is_some_and(|plan_tip| git.is_ancestor(tip, plan_tip));
    }
    RefsSeen {
        asked_tip: None,
        asked_base: base.clone(),
        plan_tip: plan_tip.map(|at| git.oid(at)),
        base_tip: base_tip.map(|at| git.oid(at)),
        base_is_forward: is_forward,
        base_has_stage_work: has_stage_work,
        base_is_in_plan: is_in_plan,
    }
}

fn restore(o: &mut Outside, branch: &str, actual: Option<&Oid>, expected: &Oid) -> Next {
    let name = format!("refs/heads/{branch}");
    let Some(expected) = o.git.find(expected) else { return failed("put the plan branch back", "it is missing") };
    let actual = actual.and_then(|oid| o.git.find(oid));
    let kept = match actual {
        Some(actual) => rescue_commit(o, "plan-branch", actual, &[expected]).map(|_| ()),
        None => Ok(()),
    };
    match kept.and_then(|()| o.git.swap(&name, actual, Some(expected))) {
        Ok(()) => Next::Done(Event::EffectDone),
        Err(why) => failed("put the plan branch back", why),
    }
}

/// Saves a commit unless one of `kept` has it.
fn rescue_commit(o: &mut Outside, stage: &str, commit: usize, kept: &[usize]) -> Result<Option<String>, String> {
    if kept.iter().any(|keeper| o.git.is_ancestor(commit, *keeper)) {
        return Ok(None);
    }
    let prefix = format!("refs/loom/rescue/{stage}/");
    let known: BTreeMap<&String, &usize> = o.git.refs.iter().filter(|(name, _)| name.starts_with(&prefix)).collect();
    if let Some((name, _)) = known.iter().find(|(_, saved)| ***saved == commit) {
        return Ok(Some((*name).clone()));
    }
    let name = (1..).map(|n| format!("{prefix}{n}")).find(|name| !known.contains_key(name)).unwrap_or_default();
    o.git.swap(&name, None, Some(commit))?;
    Ok(Some(name))
}

fn rescue_worktree(o: &mut Outside, stage: &StageId, folder: &str, kept: &[usize]) -> Result<Option<String>, String> {
    let Some(worktree) = o.worktrees.get(folder) else { return Ok(None) };
    let head = head_of(o, worktree);
    if worktree.dirty.is_empty() {
        return head.map_or(Ok(None), |head| rescue_commit(o, stage.as_str(), head, kept));
    }
    let empty = Tree::new();
    let tree = tree_with(head.map_or(&empty, |head| &o.git.commits[head].tree), &worktree.dirty);
    let saved = o.git.commit(tree, head.as_slice(), "Uncommitted work");
    rescue_commit(o, stage.as_str(), saved, &[])
}

pub fn tree_with(tree: &Tree, dirty: &BTreeMap<u8, Option<u32>>) -> Tree {
    let mut tree = tree.clone();
    for (path, content) in dirty {
        match content {
            Some(content) => tree.insert(*path, *content),
            None => tree.remove(path),
        };
    }
    tree
}

/// Rescues a worktree, and then removes it.
fn put_aside(
    o: &mut Outside,
    stage: &StageId,
    folder: &str,
    kept: &[usize],
    removes: bool,
) -> Result<Option<String>, String> {
    if o.sabotage == Sabotage::RemoveUnrescued {
        o.worktrees.remove(folder);
        return Ok(None);
    }
    let Some(worktree) = o.worktrees.get(folder) else { return Ok(None) };
    let head = head_of(o, worktree);
    let kept: Vec<usize> = kept.iter().copied().chain(o.git.tip(&branch_ref(stage))).collect();
    let mut rescued = match head {
        Some(head) => rescue_commit(o, stage.as_str(), head, &kept)?,
        None => None,
    };
    if !o.worktrees[folder].dirty.is_empty() {
        rescued = rescue_worktree(o, stage, folder, head.as_slice())?.or(rescued);
    }
    if removes {
        if o.worktrees[folder].has_teardown && o.dice.chance(o.swarm.bad_setups) {
            let event = Event::TeardownFailed { stage: stage.clone(), why: "exit status 1".to_owned() };
            o.inbox.push_back(Message::Outcome { key: None, event });
        }
        o.worktrees.remove(folder);
        o.git.version += 1;
    }
    Ok(rescued)
}

fn prepare_worktree(o: &mut Outside, start: &Start) -> Result<(), String> {
    let branch = branch_ref(&start.stage);
    o.git.locks.retain(|lock| *lock != branch);
    let base = o.git.find(&start.base).ok_or("its base is missing")?;
    if start.attempt == 1 && start.is_first && start.worktree == start.stage.as_str() {
        put_aside_leftovers(o, start, &branch, base)?;
    }
    if o.worktrees.contains_key(&start.worktree) {
        let worktree = &o.worktrees[&start.worktree];
        let is_on_branch = worktree.head == Head::Branch(branch.clone());
        if is_on_branch && (worktree.dirty.is_empty() || start.resumes) {
            return Ok(());
        }
        let kept: Vec<usize> = o.git.tip(&branch).into_iter().collect();
        if o.sabotage != Sabotage::RestoreUnrescued {
            rescue_worktree(o, &start.stage, &start.worktree, &kept)?;
        }
        if kept.is_empty() {
            o.git.swap(&branch, None, Some(base))?;
        }
    } else {
        let other = o.worktrees.iter_mut().find(|(_, other)| other.head == Head::Branch(branch.clone()));
        if let Some((_, other)) = other
            && let Some(tip) = o.git.refs.get(&branch)
        {
            other.head = Head::Detached(*tip);
        }
        if o.git.tip(&branch).is_none() {
            o.git.set(&branch, Some(base));
        }
    }
    let (is_set_up, has_teardown) = (is_set_up(o, &start.worktree), !start.teardown.is_empty());
    let worktree = Worktree { head: Head::Branch(branch), dirty: BTreeMap::new(), is_set_up, has_teardown };
    o.worktrees.insert(start.worktree.clone(), worktree);
    o.git.version += 1;
    Ok(())
}

/// Before the first attempt there can only be what an earlier plan left under this name.
fn put_aside_leftovers(o: &mut Outside, start: &Start, branch: &str, base: usize) -> Result<(), String> {
    let Some(tip) = o.git.tip(branch).filter(|tip| *tip != base) else { return Ok(()) };
    put_aside(o, &start.stage, &start.worktree, &[], true)?;
    if !o.worktrees.values().any(|worktree| worktree.head == Head::Branch(branch.to_owned())) {
        rescue_commit(o, start.stage.as_str(), tip, &[base])?;
        o.git.swap(branch, Some(tip), None)?;
    }
    Ok(())
}

/// The file that a stage's checks look for.
pub fn own_path(stage: &StageId) -> u8 {
    path_of(stage)
}
