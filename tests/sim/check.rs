//! The one checker: what must hold after every step, whatever went wrong. The numbers are
//! those of doc/reliability.md.

use std::collections::{BTreeMap, BTreeSet};

use loom::kernel::World;
use loom::kernel::budget;
use loom::kernel::world::Run;
use loom::model::check::Check;
use loom::model::gate::GateSubject;
use loom::model::ids::{Oid, PlanId, SessionId, StageId};
use loom::model::stage::{Phase, StageState};

use super::dice::{PIECE_MICROUSD, PIECE_TOKENS, PIECES_MAX};
use super::effects::BASE;
use super::git::Git;
use super::outside::{Disk, Outside, tell};

/// Who made the step that is being checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Loom,
    /// An agent, the user, or a power cut: what they destroy is theirs.
    Others,
}

/// What the checker knows of its own, without asking Loom.
#[derive(Default)]
pub struct Memory {
    /// Checks that passed, by the tree that they ran on.
    pub passed: BTreeSet<(Oid, String)>,
    pub answered: u64,
    pub landings: u64,
    /// As much of the journal as somebody has been told, or an effect was begun by.
    pub promised: usize,
    violation: Option<String>,
    /// What agents wrote, with the commits that hold it.
    written: BTreeMap<u32, Vec<usize>>,
    commits_seen: usize,
    git_seen: u64,
    base_tip: Option<usize>,
    /// Where plan branches have been, also those that somebody has moved away since.
    plan_tips: BTreeSet<usize>,
    /// By plan: one whose loading was not durable may be the open one again.
    plans: BTreeMap<PlanId, PlanMemory>,
}

/// What it knows of one plan.
#[derive(Default)]
struct PlanMemory {
    tip: Option<usize>,
    /// Somebody else has moved the plan branch, and may have moved it below what landed.
    is_foreign: bool,
    /// How often a person has asked for a stage to start over.
    reset: BTreeMap<StageId, usize>,
}

impl Memory {
    pub fn written(&mut self, content: u32) {
        self.written.insert(content, Vec::new());
    }

    /// I1: somebody relies on what the journal says.
    pub fn depends_on(&mut self, disk: &Disk, what: &str) {
        if disk.synced < disk.bytes.len() {
            self.violate("I1", &format!("{what} before what it follows from is durable"));
        }
        self.promised = disk.bytes.len();
    }

    /// A person asks for a stage to start over: it may land again.
    pub fn asked_for_reset(&mut self, run: &Run, stage: &StageId) {
        *self.plan(run).reset.entry(stage.clone()).or_insert(0) += 1;
    }

    pub fn violate(&mut self, id: &str, what: &str) {
        self.violation.get_or_insert(format!("{id}: {what}"));
    }

    pub fn verdict(&self) -> Result<(), String> {
        self.violation.clone().map_or(Ok(()), Err)
    }

    fn plan(&mut self, run: &Run) -> &mut PlanMemory {
        self.plans.entry(run.plan.id.clone()).or_default()
    }
}

/// Checks everything that could have changed. `world`: as the living daemon has it.
pub fn check(o: &mut Outside, world: &World, is_running: bool, by: By) -> Result<(), String> {
    if o.git.version != o.memory.git_seen {
        o.memory.git_seen = o.git.version;
        index_new_commits(o);
        keeps_every_byte(o, by);
    }
    if let Some(run) = &world.run {
        branches(o, run, by);
        one_agent_a_stage(o, run, is_running);
    }
    base_branch(o, by);
    if o.effects.len() > 64 || o.inbox.len() > 256 {
        let (effects, messages) = (o.effects.len(), o.inbox.len());
        o.memory.violate("I9", &format!("{effects} effects are in flight and {messages} messages wait"));
    }
    o.memory.verdict()
}

fn index_new_commits(o: &mut Outside) {
    for at in o.memory.commits_seen..o.git.commits.len() {
        for content in o.git.commits[at].tree.values() {
            if let Some(commits) = o.memory.written.get_mut(content) {
                commits.push(at);
            }
        }
    }
    o.memory.commits_seen = o.git.commits.len();
}

/// I5: whatever an agent wrote is in a worktree or reachable from some ref, until it or the
/// user has removed it.
fn keeps_every_byte(o: &mut Outside, by: By) {
    let mut reachable = o.git.reachable();
    let mut lies_in_worktrees = BTreeSet::new();
    for worktree in o.worktrees.values() {
        lies_in_worktrees.extend(worktree.dirty.values().flatten().copied());
        if let super::outside::Head::Detached(at) = worktree.head {
            let bits = o.git.closure(at);
            reachable.resize(reachable.len().max(bits.len()), 0);
            reachable.iter_mut().zip(bits).for_each(|(word, other)| *word |= other);
        }
    }
    let is_lost = |content: &u32, commits: &Vec<usize>| {
        !lies_in_worktrees.contains(content) && !commits.iter().any(|at| Git::reaches(&reachable, *at))
    };
    let lost: Vec<u32> =
        o.memory.written.iter().filter(|(content, commits)| is_lost(content, commits)).map(|(c, _)| *c).collect();
    for content in lost {
        o.memory.written.remove(&content);
        if by == By::Loom {
            o.memory.violate("I5", &format!("what an agent wrote ({content}) is reachable from nowhere"));
        }
    }
}

/// I2, I3: where the plan branch goes.
fn branches(o: &mut Outside, run: &Run, by: By) {
    let tip = o.git.tip(&run.plan.branch_ref());
    let before = o.memory.plan(run).tip;
    if tip != before {
        o.memory.plan_tips.extend(tip);
        match (by, before, tip) {
            (By::Others, ..) => o.memory.plan(run).is_foreign = true,
            (By::Loom, Some(before), Some(tip)) => is_a_good_move(o, run, before, tip),
            _ => {}
        }
        o.memory.plan(run).tip = tip;
    }
}

/// I3, I4: the base branch follows, and nothing of the user's is taken from it.
fn base_branch(o: &mut Outside, by: By) {
    let base = o.git.tip(BASE);
    if base == o.memory.base_tip {
        return;
    }
    if let (By::Loom, Some(before), Some(now)) = (by, o.memory.base_tip, base) {
        let is_in_a_plan = o.memory.plan_tips.iter().any(|tip| o.git.is_ancestor(now, *tip));
        if !o.git.is_ancestor(before, now) {
            o.memory.violate("I4", "commits of the user are no longer on the base branch");
        } else if !is_in_a_plan {
            o.memory.violate("I3", "the base branch follows to a commit that no plan branch has had");
        }
    }
    o.memory.base_tip = base;
}

fn is_a_good_move(o: &mut Outside, run: &Run, before: usize, tip: usize) {
    let commit = &o.git.commits[tip];
    let trailer = |key: &str| commit.message.lines().find_map(|line| line.strip_prefix(key)).map(str::to_owned);
    let (stage, base) = (trailer("Loom-Stage: "), trailer("Loom-Base: "));
    let answered = |about: &dyn Fn(&GateSubject) -> bool| {
        run.gates.values().any(|gate| gate.answer.is_some() && about(&gate.subject))
    };
    let puts_back = answered(&|subject| match subject {
        GateSubject::PlanBranchMoved { expected, .. } => *expected == commit.oid,
        _ => false,
    });
    if puts_back && o.memory.plan(run).is_foreign {
        return;
    }
    // Being made: what was there under its name is put aside.
    if run.tip.is_none() && commit.oid == run.ground.base_commit {
        return;
    }
    if commit.parents.first() != Some(&before) {
        return o.memory.violate("I3", "the plan branch was moved away from where somebody had put it");
    }
    let checks = match (&stage, &base) {
        (Some(stage), _) => {
            let id = stage.rsplit('/').next().and_then(|id| StageId::new(id).ok());
            let known = id.and_then(|id| run.stages.get(&id));
            known.map_or(Vec::new(), |stage| run.checks_of(stage))
        }
        (None, Some(_)) => run.plan.acceptance.clone(),
        _ => return o.memory.violate("I3", "the plan branch was moved to a commit that Loom did not make"),
    };
    let tree = commit.tree_oid.clone();
    let is_proven = |check: &Check| o.memory.passed.contains(&(tree.clone(), check.command.clone()));
    if let Some(check) = checks.iter().find(|check| !is_proven(check)) {
        let what = format!("a tree landed on which `{}` has never passed", check.command);
        return o.memory.violate("I3", &what);
    }
    let taken = commit.parents.get(1).map(|at| &o.git.commits[*at].oid);
    let approved = answered(&|subject| match subject {
        GateSubject::MergeBase { actual } | GateSubject::BaseBranchMoved { actual, .. } => Some(actual) == taken,
        _ => false,
    });
    if checks.is_empty() && !approved {
        return o.memory.violate("I3", "commits landed that nothing proves and nobody approved");
    }
    let bundle = commit.oid.to_string();
    let is_recorded = |path: &String| {
        let (text, journal) = (path.as_bytes(), &o.disk.bytes);
        path.ends_with(&bundle) && journal.windows(text.len()).any(|window| window == text)
    };
    if !checks.is_empty() && !o.evidence.keys().any(is_recorded) {
        return o.memory.violate("I12", "a commit landed, and no evidence of its proof is on record");
    }
    o.memory.landings += 1;
    if let Some(stage) = stage {
        lands_once(o, run, &stage, tip);
    }
}

fn lands_once(o: &mut Outside, run: &Run, stage: &str, tip: usize) {
    let trailer = format!("Loom-Stage: {stage}");
    let mut landings = 0;
    let mut at = Some(tip);
    while let Some(commit) = at.map(|at| &o.git.commits[at]) {
        landings += usize::from(commit.message.lines().any(|line| line == trailer));
        at = commit.parents.first().copied();
    }
    let id = stage.rsplit('/').next().and_then(|id| StageId::new(id).ok());
    let resets = id.and_then(|id| o.memory.plan(run).reset.get(&id).copied()).unwrap_or(0);
    if landings > 1 + resets {
        o.memory.violate("I2", &format!("stage `{stage}` landed {landings} times and was reset {resets} times"));
    }
}

/// I6: at most one agent works for a stage, and it is on record.
fn one_agent_a_stage(o: &mut Outside, run: &Run, is_running: bool) {
    let mut at_work: BTreeMap<&StageId, &SessionId> = BTreeMap::new();
    let mut wrong = None;
    for host in o.hosts.values().filter(|host| host.is_alive && host.barrier.is_none()) {
        if let Some(other) = at_work.insert(&host.stage, &host.session) {
            wrong = Some(format!("`{other}` and `{}` work for the same stage", host.session));
        }
        let recorded = run.sessions.get(&host.session).and_then(|session| session.host());
        if is_running && run.sessions.contains_key(&host.session) && recorded != Some(&host.identity) {
            wrong = Some(format!("`{}` works and is not on record", host.session));
        }
    }
    if let Some(what) = wrong {
        o.memory.violate("I6", &what);
    }
}

/// What must hold in the world that the daemon has, after each of its turns.
pub fn check_world(o: &mut Outside, world: &World) {
    let Some(run) = &world.run else { return };
    for (id, stage) in &run.stages {
        if stage.tries > stage.spec.max_retries + 1 {
            o.memory.violate("I9", &format!("stage `{id}` had {} tries", stage.tries));
        }
        let live = run.live_sessions().filter(|session| session.stage == *id).count();
        if live > 1 {
            o.memory.violate("I6", &format!("stage `{id}` has {live} sessions on record that live"));
        }
        match &stage.state {
            StageState::Running { session } => {
                let holds = run.sessions.get(session).is_some_and(|session| !session.is_over());
                if !holds || *session != SessionId::of(id, stage.sessions) {
                    o.memory.violate("I6", &format!("stage `{id}` runs without its newest session"));
                }
            }
            StageState::Verifying { commit, phase, .. } => {
                let entries = run
                    .queue
                    .iter()
                    .filter(|entry| matches!(entry, loom::model::event::Entry::Stage { stage } if stage == id));
                if entries.count() != 1 {
                    o.memory.violate("I7", &format!("stage `{id}` waits and is not once in the queue"));
                }
                exists(o, commit, "submitted");
                if let Phase::Landing { landing, .. } = phase {
                    exists(o, landing, "proven");
                }
            }
            StageState::Gated { commit: Some(commit), .. } => exists(o, commit, "gated"),
            StageState::Merged { landed, .. } => is_in_plan(o, run, id, landed),
            _ => {}
        }
    }
    let slots = budget::max_parallel(world, run) as usize;
    if run.busy_sessions() > slots.max(run.plan.max_parallel.unwrap_or(0) as usize) {
        o.memory.violate("I9", &format!("{} sessions run, {slots} may", run.busy_sessions()));
    }
    let spent = budget::spent(run, None).since(run.helping);
    if run.plan.budget.sessions.is_some_and(|cap| spent.sessions > cap) {
        o.memory.violate("I9", &format!("{} sessions started, more than the plan's budget", spent.sessions));
    }
    // Who works when a cap is met may finish its turn; nobody else starts.
    let most = |cap: u64, piece: u64| cap + slots.max(1) as u64 * 2 * PIECES_MAX * piece;
    if run.plan.budget.tokens.is_some_and(|cap| spent.tokens > most(cap, PIECE_TOKENS)) {
        o.memory.violate("I9", &format!("{} tokens are used, far more than the plan's budget", spent.tokens));
    }
    if run.plan.budget.cost_microusd.is_some_and(|cap| spent.cost_microusd > most(cap, PIECE_MICROUSD)) {
        o.memory.violate("I9", &format!("{} are used, far more than the plan's budget", spent.cost_microusd));
    }
    if let Some(name) = world.rescued.iter().find(|name| o.git.tip(name).is_none()) {
        o.memory.violate("I5", &format!("{name} is recorded as rescued and is not there"));
    }
}

/// I12: what is recorded is in git.
fn exists(o: &mut Outside, commit: &Oid, what: &str) {
    if o.git.find(commit).is_none() {
        o.memory.violate("I12", &format!("a {what} commit is not in git"));
    }
}

fn is_in_plan(o: &mut Outside, run: &Run, id: &StageId, landed: &Oid) {
    if o.memory.plan(run).is_foreign {
        return;
    }
    let tip = o.git.tip(&run.plan.branch_ref());
    let is_there = o.git.find(landed).zip(tip).is_some_and(|(landed, tip)| o.git.is_ancestor(landed, tip));
    if !is_there {
        o.memory.violate("I12", &format!("stage `{id}` is shown as merged and is not in the plan branch"));
    }
}

/// I1, I10: what a daemon that starts has read, against what the last one knew.
pub fn check_recovery(o: &mut Outside, bytes: usize, same: Option<(&World, &World)>) {
    if bytes < o.memory.promised {
        let promised = o.memory.promised;
        o.memory.violate("I1", &format!("{promised} bytes of the journal were promised and {bytes} are there"));
    }
    if let Some((read, known)) = same
        && read != known
    {
        tell!(o, "{}", difference(read, known));
        o.memory.violate("I10", "the journal tells another world than the one that wrote it had");
    }
}

/// The first line in which two worlds differ.
fn difference(read: &World, known: &World) -> String {
    let (read, known) = (format!("{read:#?}"), format!("{known:#?}"));
    let mut lines = read.lines().zip(known.lines());
    let (read, known) = lines.find(|(read, known)| read != known).unwrap_or_default();
    format!("the journal says {read:?}, and it was {known:?}")
}
