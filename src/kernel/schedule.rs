//! What should be going on: who becomes ready, who starts, who is proven next,
//! and when the plan is over. Level-triggered: asked after every change.

use std::collections::BTreeSet;

use sha2::Digest;

use super::budget;
use super::context;
use super::draft::Draft;
use super::world::{BaseEntry, PlanEnd, Run, Stage, World};
use super::{lane, watchdog};
use crate::model::effect::Effect;
use crate::model::event::{Entry, RunOptions};
use crate::model::fact::{Fact, SessionChange, StageChange, base_is_gone};
use crate::model::gate::GateSubject;
use crate::model::ids::{SessionId, StageId};
use crate::model::plan::{Agent, AgentMode, BackendKind, Landing, StageSpec};
use crate::model::session::{Exit, Session, SessionState};
use crate::model::stage::{BlockCode, BlockReason, Phase, StageState};

/// A new daemon: what was parked for a person is tried again, once.
pub(super) fn daemon_started(run: &Run, options: &RunOptions, draft: &mut Draft) {
    // The keeper is nobody who could take back what a person, or the policy, has decided.
    if run.paused.is_some() && !options.restarted {
        draft.fact(Fact::PlanResumed);
    }
    for backend in run.parked.keys() {
        draft.fact(Fact::BackendFreed { backend: *backend });
    }
    for (id, stage) in &run.stages {
        if let StageState::Blocked { reason } = &stage.state
            && reason.code.parks_the_backend()
        {
            draft.stage(id, StageChange::Readied { retry_at: None });
        }
    }
    draft.effect(look_at_refs(run));
}

pub fn look_at_refs(run: &Run) -> Effect {
    let unlanded = run.stages.values().filter_map(|stage| match &stage.state {
        StageState::Verifying { commit, .. } | StageState::Gated { commit: Some(commit), .. } => Some(commit.clone()),
        _ => None,
    });
    Effect::LookAtRefs {
        plan_branch: run.plan.branch(),
        tip: run.tip.clone(),
        base_branch: run.ground.base_branch.clone(),
        base: run.base.clone(),
        unlanded: unlanded.collect(),
    }
}

pub(super) fn schedule(world: &World, run: &Run, draft: &mut Draft) {
    if run.tip.is_none() {
        return;
    }
    let is_open = run.end == PlanEnd::Open;
    lane::open_probed(run, draft);
    watchdog::look(world, run, draft);
    if is_open {
        budget::settle(world, run, draft);
        promote(world, run, draft);
        start_ready(world, run, draft);
        context::end_overdue(run, draft);
        super::baseline::want(run, draft);
    }
    // New commits of the user on the base branch are merged after the end of the plan too.
    prove_next(run, draft);
    if is_open
        && run.is_complete()
        && run.queue.is_empty()
        && run.live_sessions().next().is_none()
        && run.base_entry == BaseEntry::Absent
    {
        complete(run, draft);
    }
}

fn complete(run: &Run, draft: &mut Draft) {
    draft.fact(Fact::PlanCompleted);
    follow(run, run.plan.landing != Landing::Manual, draft);
}

/// Starts a follow of the base branch when there is something to follow.
fn follow(run: &Run, wanted: bool, draft: &mut Draft) {
    if let Some(tip) = run.tip.as_ref().filter(|tip| wanted && **tip != run.base && run.following.is_none()) {
        draft.fact(Fact::FollowStarted { from: run.base.clone(), to: tip.clone() });
    }
}

fn promote(world: &World, run: &Run, draft: &mut Draft) {
    let wanted = wanted_stages(run, world.options.only.as_ref());
    for (id, stage) in &run.stages {
        let waits = matches!(stage.state, StageState::Waiting);
        if waits && wanted.as_ref().is_none_or(|wanted| wanted.contains(id)) && run.dependencies_met(&stage.spec) {
            draft.stage(id, StageChange::Readied { retry_at: None });
        }
    }
    if run.plan.landing == Landing::Each && run.base_stays.is_none() && run.active_entry().is_none() {
        follow(run, true, draft);
    }
}

/// The stage of `--stage` and everything it depends on; none: all.
pub(super) fn wanted_stages(run: &Run, only: Option<&StageId>) -> Option<BTreeSet<StageId>> {
    let mut todo = vec![only?.clone()];
    let mut wanted = BTreeSet::new();
    while let Some(id) = todo.pop() {
        if let Some(stage) = run.stages.get(&id).filter(|_| wanted.insert(id.clone())) {
            todo.extend(stage.spec.dependencies.iter().cloned());
        }
    }
    Some(wanted)
}

fn start_ready(world: &World, run: &Run, draft: &mut Draft) {
    if run.landing_gate().is_some_and(|gate| matches!(gate.subject, GateSubject::RepositoryConfig { .. })) {
        return;
    }
    if run.paused.is_some() {
        return;
    }
    let wanted = wanted_stages(run, world.options.only.as_ref());
    let slots = budget::max_parallel(world, run) as usize;
    let mut free = slots.saturating_sub(run.busy_sessions());
    let mut taken: BTreeSet<u32> = run.live_sessions().map(|session| session.slot).collect();
    let mut ready: Vec<&Stage> = run
        .stages
        .values()
        .filter(|stage| may_start(run, stage, draft.now) && !world.leftovers.contains_key(&stage.spec.id))
        .filter(|stage| wanted.as_ref().is_none_or(|wanted| wanted.contains(&stage.spec.id)))
        .collect();
    let mut affordable = budget::affordable(world, run, &mut ready, draft);
    let place = |stage: &Stage| run.plan.stages.iter().position(|spec| spec.id == stage.spec.id);
    // Stages of one group are meant to run side by side: whose mates run already goes first.
    let has_mate = |stage: &Stage| {
        let mut running = run.stages.values().filter(|other| other.state.lease().is_some());
        let group = &stage.spec.parallel_group;
        group.is_some() && running.any(|other| other.spec.parallel_group == *group)
    };
    if ready.len() > free {
        ready.sort_by_key(|stage| (stage.spec.priority, !has_mate(stage), place(stage)));
    }
    let mut probing = BTreeSet::new();
    for stage in ready {
        if free == 0 || affordable == 0 {
            return;
        }
        let backend = stage.spec.agent.kind();
        let probes = lane::needs_probe(run, backend);
        if probes && !probing.insert(backend) {
            continue;
        }
        let slot = (0..).find(|slot| !taken.contains(slot)).unwrap_or(0);
        taken.insert(slot);
        free -= 1;
        affordable -= 1;
        if probes {
            draft.fact(Fact::LaneProbed { backend, session: SessionId::of(&stage.spec.id, stage.sessions + 1) });
        }
        start(world, run, stage, slot, draft);
    }
}

fn may_start(run: &Run, stage: &Stage, now: jiff::Timestamp) -> bool {
    matches!(stage.state, StageState::Ready { .. })
        && !stage.held
        && !stage.removing
        && stage.pause_ends(now).is_none_or(|at| at <= now)
        && !run.parked.contains_key(&stage.spec.agent.kind())
        && !lane::is_closed(run, stage.spec.agent.kind(), now)
        && run.dependencies_met(&stage.spec)
        // A session of an earlier attempt still ends: two must never share a worktree.
        && !run.live_sessions().any(|session| session.stage == stage.spec.id)
}

fn start(world: &World, run: &Run, stage: &Stage, slot: u32, draft: &mut Draft) {
    let Some(tip) = &run.tip else { return };
    let id = &stage.spec.id;
    let fence = stage.sessions + 1;
    let session = SessionId::of(id, fence);
    let previous = run.sessions.get(&SessionId::of(id, stage.sessions)).filter(|_| stage.base.is_some());
    let conversation = stage.resume.clone().unwrap_or_else(|| conversation_id(&run.ground.nonce, &session));
    let attempt = if stage.paused.is_some() { stage.attempts } else { stage.attempts + 1 };
    draft.fact(Fact::session(
        &session,
        SessionChange::Planned {
            attempt,
            backend: stage.spec.agent.kind(),
            slot,
            worktree: worktree(id, fence, previous),
            conversation,
            resumes: stage.resume.is_some(),
            sandboxed: is_sandboxed(&stage.spec, world.options.no_sandbox),
        },
    ));
    if stage.paused.is_some() {
        draft.stage(id, StageChange::Continued { session });
        return;
    }
    let base = stage.base.clone().unwrap_or_else(|| tip.clone());
    draft.stage(id, StageChange::Started { attempt, session, base });
}

/// Whether the stage's agent gets a sandbox. A `run:` has none: it is the author's own command.
pub fn is_sandboxed(spec: &StageSpec, no_sandbox: bool) -> bool {
    spec.sandbox.enabled && !no_sandbox && spec.agent.kind() != BackendKind::Command
}

/// The folder of the stage's worktree. A host that left no record may have left
/// survivors in its folder, which is then never used again.
fn worktree(stage: &StageId, fence: u32, previous: Option<&Session>) -> String {
    match previous {
        Some(Session { state: SessionState::Ended { exit: Exit::Lost, .. }, .. }) => format!("{stage}.{fence}"),
        Some(session) => session.worktree.clone(),
        None => stage.as_str().to_owned(),
    }
}

/// A UUID that is the same whenever it is derived again.
fn conversation_id(nonce: &str, session: &SessionId) -> String {
    let digest = sha2::Sha256::digest(format!("{nonce} {session}").as_bytes());
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

fn prove_next(run: &Run, draft: &mut Draft) {
    if run.landing_gate().is_some() || run.active_entry().is_some() || run.following.is_some() {
        return;
    }
    let (Some(head), Some(tip)) = (run.queue.first(), &run.tip) else { return };
    match (head, &run.base_entry) {
        (Entry::Base, BaseEntry::Queued { commit }) => {
            draft.fact(Fact::BaseProofStarted { commit: commit.clone(), tip: tip.clone() });
        }
        (Entry::Again { stage }, _)
            if run.stages.get(stage).is_some_and(|stage| matches!(stage.state, StageState::Merged { .. })) =>
        {
            draft.stage(stage, StageChange::ProofAgainStarted { tip: tip.clone() });
        }
        (Entry::Stage { stage }, _) => {
            let state = run.stages.get(stage).map(|stage| &stage.state);
            if let Some(StageState::Verifying { phase: Phase::Queued, .. }) = state {
                draft.stage(stage, StageChange::ProofStarted { tip: tip.clone() });
            }
        }
        _ => {}
    }
}

/// What a person types next for this stage; none when Loom goes on by itself.
pub fn next_step(run: &Run, stage: &Stage) -> Option<String> {
    let id = &stage.spec.id;
    match &stage.state {
        StageState::Blocked { reason } => Some(settles(reason, id)),
        StageState::Running { session } => {
            let session = run.sessions.get(session)?;
            let shows = matches!(stage.spec.agent, Agent::Claude { mode: AgentMode::Interactive, .. });
            let look = if shows { "attach" } else { "logs" };
            session.suspect.as_ref().map(|_| format!("loom {look} {id}"))
        }
        StageState::Gated { gate, .. } => Some(match run.gates.get(gate).map(|gate| &gate.subject) {
            Some(GateSubject::Judges { .. } | GateSubject::Dispute { .. }) => format!("loom stage review {id}"),
            _ => format!("loom stage approve {id}"),
        }),
        StageState::Ready { .. } if stage.held => Some(format!("loom stage release {id}")),
        // The stage that met it may have been reset since, or be blocked by something else.
        StageState::Ready { .. }
            if run.parked.contains_key(&stage.spec.agent.kind()) && run.dependencies_met(&stage.spec) =>
        {
            run.parked.get(&stage.spec.agent.kind()).map(|reason| settles(reason, id))
        }
        StageState::Waiting | StageState::Ready { .. } => {
            let skipped = stage.spec.dependencies.iter().find(|dependency| {
                matches!(
                    run.stages.get(*dependency).map(|stage| &stage.state),
                    Some(StageState::Skipped { go_on: false, .. })
                )
            })?;
            Some(format!("loom stage reset {skipped} --reason \"…\""))
        }
        _ => None,
    }
}

/// What a person types so that the base branch follows.
pub fn base_next(run: &Run) -> String {
    let branch = &run.ground.base_branch;
    match &run.base_stays {
        Some(why) if *why == base_is_gone(branch) => format!("git branch {branch} {} && loom merge", run.plan.branch()),
        _ => "loom merge".to_owned(),
    }
}

/// What a person types about `reason`, which keeps stage `id` from going on.
fn settles(reason: &BlockReason, id: &StageId) -> String {
    match reason.code {
        BlockCode::AgentMissing | BlockCode::NotOnboarded | BlockCode::NotLoggedIn => "claude".to_owned(),
        BlockCode::SandboxMissing => "loom run".to_owned(),
        // After a conflict was resolved in the worktree, which the reason says how to.
        BlockCode::ProofFailed | BlockCode::MergeConflict => format!("loom merge {id}"),
        // What the stage is to bring is there already; a retry looks at the same tree again.
        BlockCode::BeforeFailed => format!("loom stage skip {id} --go-on --reason \"…\""),
        _ => format!("loom stage retry {id}"),
    }
}
