//! Which effects the world calls for. Asked after every change and at every
//! start: an effect that is not in flight and still due is started again.

use std::time::Duration;

use jiff::Timestamp;

use super::world::{BaseEntry, PlanEnd, Run, Stage, World};
use crate::model::check::Setup;
use crate::model::effect::{Effect, Prove, Start};
use crate::model::event::Entry;
use crate::model::ids::{Oid, StageId};
use crate::model::limits::{SESSION_TIMEOUT, TIDY_AT};
use crate::model::plan::{StageSpec, StageType};
use crate::model::sandbox::{KNOWLEDGE_BASE, Sandbox};
use crate::model::session::{Session, SessionState};
use crate::model::stage::{Phase, StageState};

/// Effects that follow from the world alone.
pub fn due(world: &World) -> Vec<Effect> {
    let Some(run) = &world.run else { return Vec::new() };
    let mut effects = Vec::new();
    if run.tip.is_none() {
        effects.push(Effect::MakePlanBranch { branch: run.plan.branch(), commit: run.ground.base_commit.clone() });
    }
    for session in run.live_sessions() {
        effects.extend(for_session(run, session));
    }
    // Proofs go first: they want the same checkout.
    effects.extend(landing(world, run).or_else(|| super::baseline::due(world, run)));
    for (stage, worktrees) in &world.leftovers {
        effects.push(Effect::RemoveStage { stage: stage.clone(), worktrees: worktrees.clone() });
    }
    for (id, stage) in run.stages.iter().filter(|(_, stage)| stage.removing) {
        if !run.live_sessions().any(|session| session.stage == *id) {
            effects.push(Effect::RemoveStage { stage: id.clone(), worktrees: worktrees(run, id, stage) });
        }
    }
    effects.extend(tidy(run));
    if let Some((from, to)) = &run.following {
        let branch = run.ground.base_branch.clone();
        effects.push(Effect::FollowBase { plan_branch: run.plan.branch(), branch, from: from.clone(), to: to.clone() });
    } else if run.end == PlanEnd::Completed {
        let stages = run.stages.iter().map(|(id, stage)| (id.clone(), worktrees(run, id, stage))).collect();
        effects.push(Effect::CleanPlan { plan: run.plan.id.clone(), stages });
    }
    effects
}

/// Landed worktrees, as soon as there are enough of them. At the plan's end they all go.
fn tidy(run: &Run) -> Option<Effect> {
    let landed = |stage: &Stage| matches!(stage.state, StageState::Merged { .. }) && !stage.is_tidied;
    let is_live = |id: &StageId| run.live_sessions().any(|session| session.stage == *id);
    let stages: Vec<_> = run
        .stages
        .iter()
        .filter(|(id, stage)| run.end == PlanEnd::Open && landed(stage) && !is_live(id))
        .map(|(id, stage)| (id.clone(), worktrees(run, id, stage)))
        .collect();
    (stages.len() >= TIDY_AT).then_some(Effect::TidyWorktrees { stages })
}

/// Every folder that a session of the stage worked in.
pub(super) fn worktrees(run: &Run, id: &StageId, stage: &Stage) -> Vec<String> {
    let mut folders: Vec<String> =
        run.sessions.values().filter(|session| session.stage == *id).map(|session| session.worktree.clone()).collect();
    folders.sort();
    folders.dedup();
    if folders.is_empty() && stage.removing {
        folders.push(id.as_str().to_owned());
    }
    folders
}

fn for_session(run: &Run, session: &Session) -> Vec<Effect> {
    let id = session.id.clone();
    match &session.state {
        SessionState::Planned => run
            .stages
            .get(&session.stage)
            .map(|stage| vec![Effect::Start(Box::new(start(stage, session, run)))])
            .unwrap_or_default(),
        SessionState::Live { .. } => vec![Effect::Watch { session: id }],
        SessionState::Ending { why, .. } => {
            let grace = why.grace();
            vec![Effect::Watch { session: id.clone() }, Effect::EndSession { session: id, why: why.clone(), grace }]
        }
        SessionState::Ended { .. } => Vec::new(),
    }
}

/// The knowledge base is written by the stages that are there for it.
fn sandbox(spec: &StageSpec) -> Sandbox {
    let mut sandbox = spec.sandbox.clone();
    if matches!(spec.stage_type, StageType::Standard | StageType::CodeReview) {
        sandbox.deny_write.push(KNOWLEDGE_BASE.to_owned());
    }
    sandbox
}

fn start(stage: &Stage, session: &Session, run: &Run) -> Start {
    Start {
        session: session.id.clone(),
        stage: session.stage.clone(),
        attempt: session.attempt,
        agent: stage.spec.agent.clone(),
        working_dir: stage.spec.working_dir.clone(),
        worktree: session.worktree.clone(),
        base: stage.base.clone().unwrap_or_else(|| run.base.clone()),
        slot: session.slot,
        conversation: session.conversation.clone(),
        resumes: session.resumes,
        is_first: !run.sessions.values().any(|other| other.stage == session.stage && other.id != session.id),
        sandbox: session.sandboxed.then(|| sandbox(&stage.spec)),
        permission_mode: stage.spec.sandbox.permission_mode,
        auto_allow: stage.spec.sandbox.auto_allow,
        siblings: run.stages.keys().filter(|id| **id != session.stage).cloned().collect(),
        timeout: stage.spec.timeout_secs.map_or(SESSION_TIMEOUT, Duration::from_secs),
        setup: stage.spec.setup.clone(),
        teardown: stage.spec.teardown.clone(),
        before: if stage.is_begun { Vec::new() } else { stage.spec.criteria.before.clone() },
    }
}

fn landing(world: &World, run: &Run) -> Option<Effect> {
    match &run.base_entry {
        BaseEntry::Proving { commit, tip } => return Some(prove_base(world, run, commit, tip)),
        BaseEntry::Landing { tip, landing, .. } => return Some(land(run, Entry::Base, tip, landing)),
        _ => {}
    }
    if let Some((id, tip)) = &run.again
        && let Some(stage) = run.stages.get(id)
    {
        let again = Prove {
            entry: Entry::Again { stage: id.clone() },
            proven: None,
            ..prove_stage(world, run, stage, tip, tip)
        };
        return Some(Effect::Prove(Box::new(again)));
    }
    run.stages.iter().find_map(|(id, stage)| match &stage.state {
        StageState::Verifying { commit, phase: Phase::Proving { tip }, .. } => {
            Some(prove(world, run, stage, commit, tip))
        }
        StageState::Verifying { phase: Phase::Landing { tip, landing }, .. } => {
            Some(land(run, Entry::Stage { stage: id.clone() }, tip, landing))
        }
        _ => None,
    })
}

fn land(run: &Run, entry: Entry, tip: &Oid, landing: &Oid) -> Effect {
    Effect::Land { entry, branch: run.plan.branch(), tip: tip.clone(), landing: landing.clone() }
}

fn prove(world: &World, run: &Run, stage: &Stage, commit: &Oid, tip: &Oid) -> Effect {
    Effect::Prove(Box::new(prove_stage(world, run, stage, commit, tip)))
}

fn prove_stage(world: &World, run: &Run, stage: &Stage, commit: &Oid, tip: &Oid) -> Prove {
    let spec = &stage.spec;
    let trailers = format!("Loom-Stage: {}/{}\nLoom-Attempt: {}", run.plan.id, spec.id, stage.attempts);
    Prove {
        entry: Entry::Stage { stage: spec.id.clone() },
        tip: tip.clone(),
        commit: commit.clone(),
        base: stage.base.clone().unwrap_or_else(|| run.base.clone()),
        checks: run.checks_of(stage),
        criteria: spec.criteria.clone(),
        impact: run.impact_of(stage).cloned(),
        compares: run.needs_baseline(stage),
        baseline: stage.baseline.as_deref().filter(|known| Some(&known.base) == stage.base.as_ref()).cloned(),
        last: stage.failures.iter().rev().find_map(|failure| failure.commit.clone()),
        working_dir: spec.working_dir.clone(),
        message: format!("{}\n\n{trailers}\n", spec.name),
        date: stage.started_at.map_or(0, Timestamp::as_second),
        setup: setup_of(spec).into_iter().collect(),
        proven: stage.proven.clone(),
        kept: world.kept.clone(),
        programs: world.programs.clone(),
        protected: run.plan.protected.clone(),
        files: from_the_top(&spec.working_dir, &spec.files),
        plan_path: run.source.path.clone(),
        plan_sha256: run.source.sha256.clone(),
    }
}

pub(super) fn setup_of(spec: &StageSpec) -> Option<Setup> {
    let setup = Setup { commands: spec.setup.clone(), working_dir: spec.working_dir.clone() };
    (!setup.commands.is_empty()).then_some(setup)
}

/// The setups of all stages that have begun, each once: what the plan's checks need when they
/// run for no stage.
fn every_setup(run: &Run) -> Vec<Setup> {
    let mut all: Vec<Setup> = Vec::new();
    let begun = run.stages.values().filter(|stage| stage.is_begun);
    for setup in begun.filter_map(|stage| setup_of(&stage.spec)) {
        if !all.contains(&setup) {
            all.push(setup);
        }
    }
    all
}

/// Globs that start at the working folder, from the top of the tree.
fn from_the_top(working_dir: &str, globs: &[String]) -> Vec<String> {
    let dir = working_dir.trim_start_matches("./").trim_end_matches('/');
    let below = |glob: &String| if matches!(dir, "" | ".") { glob.clone() } else { format!("{dir}/{glob}") };
    globs.iter().map(below).collect()
}

fn prove_base(world: &World, run: &Run, commit: &Oid, tip: &Oid) -> Effect {
    Effect::Prove(Box::new(Prove {
        entry: Entry::Base,
        tip: tip.clone(),
        commit: commit.clone(),
        base: run.base.clone(),
        checks: run.plan.acceptance.clone(),
        criteria: crate::model::check::Criteria::default(),
        impact: None,
        compares: false,
        baseline: None,
        last: None,
        working_dir: ".".to_owned(),
        message: format!("Merge branch '{}'\n\nLoom-Base: {}\n", run.ground.base_branch, run.plan.id),
        date: 0,
        setup: every_setup(run),
        proven: None,
        kept: world.kept.clone(),
        programs: world.programs.clone(),
        protected: Vec::new(),
        files: Vec::new(),
        plan_path: run.source.path.clone(),
        plan_sha256: run.source.sha256.clone(),
    }))
}

/// When the world changes by time alone: the earliest pause that ends after `now`.
pub fn next_deadline(world: &World, now: Timestamp) -> Option<Timestamp> {
    let run = world.run.as_ref()?;
    let starts = run.stages.values().filter(|stage| !stage.held).filter_map(|stage| stage.pause_ends(now));
    starts
        .chain(super::baseline::deadlines(run))
        .chain(super::context::deadlines(run))
        .chain(super::lane::deadlines(run, now))
        .chain(super::watchdog::deadlines(run))
        .filter(|at| *at > now)
        .min()
}

/// Whether nothing can go on without a person, and nothing runs.
pub fn is_quiet(world: &World) -> bool {
    let Some(run) = &world.run else { return true };
    if !due(world).is_empty() {
        return false;
    }
    let gate = run.landing_gate().is_some();
    let moves = run.stages.values().any(|stage| match &stage.state {
        StageState::Waiting => run.dependencies_met(&stage.spec) && is_wanted(world, run, stage),
        StageState::Ready { .. } => {
            !stage.held
                && !gate
                && run.paused.is_none()
                && !super::budget::is_asked(run)
                && super::lane::limit_gate(run, stage.spec.agent.kind()).is_none()
                && !run.parked.contains_key(&stage.spec.agent.kind())
                && run.dependencies_met(&stage.spec)
                && is_wanted(world, run, stage)
        }
        StageState::Running { .. } => true,
        StageState::Verifying { .. } => !gate,
        _ => false,
    });
    let is_again = |entry: &Entry| matches!(entry, Entry::Again { .. });
    let base_moves = !gate && (matches!(run.base_entry, BaseEntry::Queued { .. }) || run.queue.iter().any(is_again));
    let ends = run.end == PlanEnd::Open && run.is_complete() && run.base_entry == BaseEntry::Absent;
    !moves && !base_moves && !ends
}

fn is_wanted(world: &World, run: &Run, stage: &Stage) -> bool {
    super::schedule::wanted_stages(run, world.options.only.as_ref())
        .is_none_or(|wanted| wanted.contains(&stage.spec.id))
}
