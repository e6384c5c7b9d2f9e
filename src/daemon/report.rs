//! The one picture: the world as a person and `loom status --json` see it.

use jiff::Timestamp;

use crate::kernel::budget;
use crate::kernel::lane;
use crate::kernel::world::{BaseEntry, PlanEnd, Run, Stage, World};
use crate::kernel::{base_next, is_unproven, next_step, text};
use crate::model::attention::Attention;
use crate::model::budget::{Budget, Spent};
use crate::model::ids::SessionId;
use crate::model::limits::CONTEXT_BUDGET_DEFAULT;
use crate::model::plan::{BackendKind, stage_branch};
use crate::model::session::{Activity, Preparing, Session, SessionState, Suspicion};
use crate::model::stage::{Phase, StageState};
use crate::model::usage::Zone;
use crate::wire::status::{
    AttentionRow, BudgetRow, ChecksRow, DaemonRow, GateRow, PhaseOfPlan, PlanRow, ReasonRow, STATUS_VERSION,
    SessionRow, StageRow, Status, TokensRow, UsedRow,
};

/// Renders the status. `daemon` says whether one is running; `tip_now` is the plan
/// branch as git has it, so that "merged" is never only a memory.
pub fn status(world: &World, daemon: DaemonRow, tip_now: Option<&str>, now: Timestamp) -> Status {
    let Some(run) = &world.run else {
        return Status {
            version: STATUS_VERSION,
            plan: None,
            daemon,
            stages: Vec::new(),
            sessions: Vec::new(),
            gates: Vec::new(),
            attention: Vec::new(),
            notices: Vec::new(),
            next: vec!["loom init doc/plans/<plan>.md".to_owned()],
            phase: PhaseOfPlan::NoPlan,
        };
    };
    let phase = phase(world, run, daemon.running);
    let spent = budget::spent_by_stage(run);
    let stages: Vec<&Stage> = run.plan.stages.iter().filter_map(|spec| run.stages.get(&spec.id)).collect();
    Status {
        version: STATUS_VERSION,
        plan: Some(PlanRow {
            id: run.plan.id.to_string(),
            name: run.plan.title.clone(),
            path: run.source.path.clone(),
            branch: run.plan.branch(),
            base: run.ground.base_branch.clone(),
            used: used_row(budget::spent(run, None).since(run.helping)),
            budget: budget_row(budget::of_plan(world, run)),
            paused: run.paused.clone(),
            following: run.following.is_some(),
            base_stays: run.base_stays.clone(),
            tip: run.tip.as_ref().map(ToString::to_string),
        }),
        stages: stages
            .iter()
            .map(|stage| row(world, run, stage, spent.get(&stage.spec.id).copied().unwrap_or_default(), now))
            .collect(),
        sessions: run.live_sessions().map(|session| session_row(run, session)).collect(),
        gates: run
            .open_gates()
            .map(|gate| GateRow {
                id: gate.id.to_string(),
                stage: gate.subject.stage().map(ToString::to_string),
                question: gate.question.clone(),
                next: match gate.subject.stage().and_then(|id| run.stages.get(id)) {
                    Some(stage) => next_step(run, stage).unwrap_or_default(),
                    None => format!("loom stage approve {}", gate.id),
                },
            })
            .collect(),
        attention: crate::kernel::attention(world).into_iter().map(attention_row).collect(),
        notices: notices(world, run, &stages, tip_now),
        next: next(run, &stages, phase),
        phase,
        daemon,
    }
}

fn phase(world: &World, run: &Run, daemon_runs: bool) -> PhaseOfPlan {
    let has_base_work = !matches!(run.base_entry, BaseEntry::Absent | BaseEntry::Rejected { .. });
    if run.end == PlanEnd::Cleaned && run.following.is_none() && !has_base_work {
        PhaseOfPlan::Complete
    } else if crate::kernel::is_quiet(world) {
        PhaseOfPlan::WaitingForPerson
    } else if daemon_runs {
        PhaseOfPlan::Working
    } else {
        PhaseOfPlan::Stopped
    }
}

fn row(world: &World, run: &Run, stage: &Stage, spent: Spent, now: Timestamp) -> StageRow {
    let spec = &stage.spec;
    let has_begun = stage.attempts > 0;
    let (commit, merged) = match &stage.state {
        StageState::Verifying { commit, .. } => (Some(commit), None),
        StageState::Gated { commit, .. } => (commit.as_ref(), None),
        StageState::Merged { commit, landed } => (Some(commit), Some(landed)),
        _ => (None, None),
    };
    StageRow {
        id: spec.id.clone(),
        name: spec.name.clone(),
        state: stage.state.kind(),
        detail: detail(run, stage, now),
        reason: reason(stage),
        dependencies: spec.dependencies.clone(),
        held: stage.held,
        attempt: has_begun.then_some(stage.attempts),
        session: stage.state.lease().map(ToString::to_string),
        branch: has_begun.then(|| stage_branch(&spec.id)),
        commit: commit.map(ToString::to_string),
        merged_commit: merged.map(ToString::to_string),
        started_at: stage.started_at,
        ended_at: stage.ended_at,
        checks: ChecksRow {
            passed: stage.checks.iter().filter(|check| check.holds()).count(),
            failed: stage.checks.iter().filter(|check| !check.holds()).count(),
            total: run.required(stage).count(),
        },
        used: used_row(spent.since(stage.helping)),
        budget: budget_row(budget::of_stage(world, stage)),
        next: next_step(run, stage),
    }
}

fn attention_row(attention: Attention) -> AttentionRow {
    AttentionRow {
        event: attention.kind,
        stages: attention.stages.iter().map(ToString::to_string).collect(),
        text: attention.text,
        next: attention.next,
    }
}

fn used_row(spent: Spent) -> Option<UsedRow> {
    (spent != Spent::default()).then(|| UsedRow {
        sessions: spent.sessions,
        tokens: spent.tokens,
        cache_read: spent.cache_read,
        cost_usd: (spent.cost_microusd > 0).then(|| dollars(spent.cost_microusd)),
    })
}

fn budget_row(budget: Budget) -> Option<BudgetRow> {
    (!budget.is_empty()).then(|| BudgetRow {
        sessions: budget.sessions,
        tokens: budget.tokens,
        cost_usd: budget.cost_microusd.map(dollars),
    })
}

fn reason(stage: &Stage) -> Option<ReasonRow> {
    match &stage.state {
        StageState::Blocked { reason } => Some(ReasonRow {
            code: reason.code.as_str().to_owned(),
            text: reason.text.clone(),
            files: reason.files.clone(),
        }),
        StageState::Skipped { reason, .. } => {
            Some(ReasonRow { code: "skipped".to_owned(), text: reason.clone(), files: Vec::new() })
        }
        _ => None,
    }
}

fn detail(run: &Run, stage: &Stage, now: Timestamp) -> Option<String> {
    match &stage.state {
        StageState::Waiting => Some(waits_for(run, stage)),
        StageState::Ready { .. } if stage.held => Some("until you release it".to_owned()),
        StageState::Ready { .. } if !run.dependencies_met(&stage.spec) => Some(waits_for(run, stage)),
        StageState::Ready { .. } if run.parked.contains_key(&stage.spec.agent.kind()) => {
            run.parked.get(&stage.spec.agent.kind()).map(|reason| reason.text.clone())
        }
        StageState::Ready { .. } if run.paused.is_some() => {
            run.paused.as_ref().map(|why| format!("the plan is paused: {why}"))
        }
        StageState::Ready { .. } if lane_text(run, stage, now).is_some() => lane_text(run, stage, now),
        StageState::Ready { retry_at: Some(at) } if *at > now => Some(format!(
            "retries in {} s: {}",
            at.as_second() - now.as_second(),
            stage.failures.last().map_or("", |failure| failure.text.as_str())
        )),
        StageState::Ready { .. } => {
            stage.paused.clone().or_else(|| stage.failures.last().map(|failure| failure.text.clone()))
        }
        StageState::Running { session } => run.sessions.get(session).map(|session| running(stage, session, now)),
        StageState::Verifying { phase, .. } => Some(
            match phase {
                Phase::Queued => "in the merge queue",
                Phase::Proving { .. } => "merging and proving",
                Phase::Landing { .. } => "landing",
            }
            .to_owned(),
        ),
        StageState::Gated { gate, .. } => run.gates.get(gate).map(|gate| gate.question.clone()),
        StageState::Merged { landed, .. } => Some(match is_unproven(run, stage, &stage.checks) {
            true => format!("landed as {}; {}", landed.short(), text::UNPROVEN),
            false => format!("proven and landed as {}", landed.short()),
        }),
        StageState::Blocked { reason } => Some(reason.text.clone()),
        StageState::Skipped { reason, .. } => Some(reason.clone()),
    }
}

/// Why the lane of a stage stands still, and until when.
fn lane_text(run: &Run, stage: &Stage, now: Timestamp) -> Option<String> {
    let parked = run.lanes.get(&stage.spec.agent.kind())?.parked.as_ref()?;
    Some(match &parked.probe {
        Some(session) => format!("{}: session `{session}` tries whether that is over", parked.text),
        _ if let Some(gate) = lane::limit_gate(run, stage.spec.agent.kind()) => {
            format!("{}: waits for your answer to {}", parked.text, gate.id)
        }
        None if parked.until > now => {
            let seconds = parked.until.as_second() - now.as_second();
            format!(
                "{}: goes on by itself at {:.0} (in {seconds} s); `loom resume {}` does not wait",
                parked.text, parked.until, stage.spec.id
            )
        }
        None => format!("{}: is tried again now", parked.text),
    })
}

fn running(stage: &Stage, session: &Session, now: Timestamp) -> String {
    let hands_off = session.told.is_some_and(|(zone, _)| zone == Zone::Red);
    let doing = match (&session.state, session.activity) {
        (SessionState::Planned, _) => match session.preparing {
            Some(Preparing::SetUp) => "setting up",
            Some(Preparing::Before) => "looking at `before_stage`",
            None => "starting",
        },
        (SessionState::Ending { .. }, _) => "ending",
        (_, Activity::Working) if hands_off => "handing off",
        (_, Activity::Working) => "working",
        (_, Activity::Idle) => "idle",
        (_, Activity::Background) => "waiting for what runs in its background",
        (_, Activity::WaitingForPerson) => match &session.asks {
            Some(asks) => &format!("waiting for a person: {asks} (attach to answer)"),
            None => "waiting for a person: attach to answer",
        },
    };
    let doing = match &session.suspect {
        Some(suspicion) if matches!(session.state, SessionState::Live { .. }) => &may_hang(session, suspicion, now),
        _ => doing,
    };
    let is_open = session.backend == BackendKind::Claude && !session.sandboxed;
    let sandbox = if is_open { ", no sandbox" } else { "" };
    let returned = stage.failures.last().filter(|failure| session.returns > 0 && failure.attempt == session.attempt);
    match (returned, stage.failures.last()) {
        (Some(failure), _) => format!("{doing} on the verdict: {}{sandbox}", failure.text),
        (None, Some(failure)) => format!("{doing}; before: {}{sandbox}", failure.text),
        (None, None) => format!("{doing}{sandbox}"),
    }
}

/// A session that is suspected, until when that is looked at, and what a person can do.
fn may_hang(session: &Session, suspicion: &Suspicion, now: Timestamp) -> String {
    let quiet = now.duration_since(suspicion.since).as_secs().max(0);
    let quiet = if quiet < 120 { format!("{quiet} s") } else { format!("{} min", quiet / 60) };
    format!(
        "may hang: quiet for {quiet}, {}; ends at {:.0} unless it goes on (`loom sessions kill {}` ends it now)",
        suspicion.why, suspicion.ends_at, session.id
    )
}

fn waits_for(run: &Run, stage: &Stage) -> String {
    let mut text = String::new();
    for open in stage.spec.dependencies.iter().filter_map(|id| run.stages.get(id)) {
        if open.state.lets_dependents_start() {
            continue;
        }
        text.push_str(if text.is_empty() { "waits for `" } else { ", `" });
        text.push_str(open.spec.id.as_str());
        text.push_str(if matches!(open.state, StageState::Skipped { .. }) { "`, which was skipped" } else { "`" });
    }
    match text.is_empty() {
        true => "starts with the next `loom run`".to_owned(),
        false => text,
    }
}

fn session_row(run: &Run, session: &Session) -> SessionRow {
    let budget = run.stages.get(&session.stage).map_or(CONTEXT_BUDGET_DEFAULT, |stage| stage.spec.context_budget);
    let usage = session.usage;
    SessionRow {
        id: session.id.to_string(),
        stage: session.stage.to_string(),
        backend: session.backend.to_string(),
        state: match (&session.state, session.activity) {
            (SessionState::Planned, _) if session.preparing.is_some() => "setting-up",
            (SessionState::Planned, _) => "starting",
            (SessionState::Ending { .. } | SessionState::Ended { .. }, _) => "ending",
            (SessionState::Live { .. }, Activity::Working | Activity::Background) => "working",
            (SessionState::Live { .. }, Activity::Idle) => "idle",
            (SessionState::Live { .. }, Activity::WaitingForPerson) => "waiting",
        }
        .to_owned(),
        pid: session.host().map(|host| host.pid),
        sandboxed: session.sandboxed,
        started_at: session.started_at,
        asks: session.asks.clone(),
        context_percent: usage.map(|usage| usage.percent()),
        context_zone: usage.map(|usage| Zone::of(usage.percent(), budget).as_str().to_owned()),
        tokens: usage.map(|usage| TokensRow {
            input: usage.input,
            output: usage.output,
            cache_read: usage.cache_read,
            cache_write: usage.cache_write,
            context: usage.context,
        }),
        cost_usd: usage.and_then(|usage| usage.cost_microusd).map(dollars),
    }
}

/// Exact to the millionth for every amount that a person has.
fn dollars(micro: u64) -> f64 {
    format!("{}.{:06}", micro / 1_000_000, micro % 1_000_000).parse().unwrap_or(f64::MAX)
}

fn notices(world: &World, run: &Run, stages: &[&Stage], tip_now: Option<&str>) -> Vec<String> {
    let mut notices = Vec::new();
    for (stage, why) in &world.teardowns {
        notices.push(format!("the teardown of `{stage}` failed, and its worktree is gone all the same: {why}"));
    }
    if let Some(tip) =
        run.tip.as_ref().filter(|tip| tip_now.is_some_and(|now| now != tip.as_str()) && run.active_entry().is_none())
    {
        notices.push(format!(
            "the plan branch is not at {} where Loom left it: what is shown as merged may not be in it",
            tip.short()
        ));
    }
    if let BaseEntry::Rejected { text, .. } = &run.base_entry {
        notices.push(format!("new commits on `{}` are not merged: {text}", run.ground.base_branch));
    }
    if let Some(why) = &run.base_stays {
        notices.push(format!("branch `{}` did not follow: {why}", run.ground.base_branch));
    }
    if let Some(why) = &run.paused {
        notices.push(format!("the plan is paused, no session starts: {why}"));
    }
    for stage in stages.iter().filter(|stage| stage.sessions > 0 && !stage.state.is_final()) {
        let newest = run.sessions.get(&SessionId::of(&stage.spec.id, stage.sessions));
        if let Some(session) = newest.filter(|session| !session.left.is_empty()) {
            let left = session.left.join(", ");
            notices.push(format!("session `{}` left processes behind, which were ended: {left}", session.id));
        }
    }
    for (backend, lane) in &run.lanes {
        if let Some(parked) = &lane.parked {
            let then = if lane::limit_gate(run, *backend).is_some() {
                "whether it then goes on is asked above"
            } else if run.paused.is_some() {
                "then it waits for you"
            } else {
                "one session of it tries first, then all go on in the same conversations"
            };
            notices.push(format!("`{backend}` stands still until {:.0}: {}; {then}", parked.until, parked.text));
        }
    }
    for (backend, reason) in &run.parked {
        notices.push(format!("no `{backend}` session starts: {}", reason.text));
    }
    notices
}

/// `stages`: in the order of the plan.
fn next(run: &Run, stages: &[&Stage], phase: PhaseOfPlan) -> Vec<String> {
    let mut next: Vec<String> = run
        .open_gates()
        .filter(|gate| gate.subject.stage().is_none())
        .map(|gate| format!("loom stage approve {}", gate.id))
        .collect();
    next.extend(stages.iter().filter_map(|stage| next_step(run, stage)));
    if run.base_stays.is_some() || matches!(run.base_entry, BaseEntry::Rejected { .. }) {
        next.push(base_next(run));
    }
    if run.paused.is_some() && run.end == PlanEnd::Open {
        let ready = run.stages.values().find(|stage| matches!(stage.state, StageState::Ready { .. }));
        next.insert(
            0,
            match (phase, ready) {
                (PhaseOfPlan::Working, Some(stage)) => format!("loom resume {}", stage.spec.id),
                _ => "loom run".to_owned(),
            },
        );
    }
    match phase {
        PhaseOfPlan::Stopped => next.insert(0, "loom run".to_owned()),
        PhaseOfPlan::Working => {
            let attachable = run.live_sessions().find(|session| session.backend == BackendKind::Claude);
            next.extend(attachable.map(|session| format!("loom attach {}", session.stage)));
        }
        PhaseOfPlan::Complete if next.is_empty() => {
            next.push(format!("git log --oneline --graph {}", text::first_line(&run.plan.branch())));
        }
        _ => {}
    }
    next.dedup();
    next.truncate(5);
    next
}
