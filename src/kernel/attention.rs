//! What a person should look at now, derived from the world: each thing has a key that names
//! this very happening, so that it is told once.

use super::world::{BaseEntry, PlanEnd, Run, Stage, World};
use super::{base_next, budget, lane, next_step, text};
use crate::model::attention::{Attention, AttentionKind};
use crate::model::budget::OnLimit;
use crate::model::gate::{Gate, GateSubject};
use crate::model::session::{Activity, LaneCause};
use crate::model::stage::StageState;

/// Everything that waits for a person, or that they wait for.
pub fn attention(world: &World) -> Vec<Attention> {
    let Some(run) = &world.run else { return Vec::new() };
    let mut all: Vec<Attention> = Vec::new();
    for stage in run.plan.stages.iter().filter_map(|spec| run.stages.get(&spec.id)) {
        all.extend(waiting(run, stage));
        all.extend(held(run, stage));
        blocked(run, stage, &mut all);
    }
    all.extend(run.open_gates().map(|gate| gated(run, gate)));
    limits(world, run, &mut all);
    landing(run, &mut all);
    if run.end != PlanEnd::Open {
        let landed = run.stages.values().filter(|stage| matches!(stage.state, StageState::Merged { .. })).count();
        all.push(Attention {
            key: format!("complete {} {}", run.plan.id, run.ground.nonce),
            kind: AttentionKind::Complete,
            stages: Vec::new(),
            text: format!("plan `{}` is complete: {landed} of {} landed", run.plan.id, text::stages(run.stages.len())),
            next: "loom status".to_owned(),
        });
    }
    all
}

/// A session that asks something, is idle at its prompt, or may hang.
fn waiting(run: &Run, stage: &Stage) -> Option<Attention> {
    let StageState::Running { session } = &stage.state else { return None };
    let session = run.sessions.get(session).filter(|session| session.host().is_some() && !session.is_over())?;
    let id = &stage.spec.id;
    let (kind, key, text) = match (session.activity, &session.asks, &session.suspect) {
        (Activity::Working | Activity::Background, _, None) => return None,
        (Activity::Working | Activity::Background, _, Some(suspicion)) => (
            AttentionKind::Hanging,
            suspicion.since.to_string(),
            format!(
                "stage `{id}` may hang: {}, quiet since {:.0}; its session ends at {:.0} unless it goes on",
                suspicion.why, suspicion.since, suspicion.ends_at
            ),
        ),
        (Activity::Idle, ..) => {
            (AttentionKind::Waiting, "idle".to_owned(), format!("stage `{id}` is idle at its prompt"))
        }
        (Activity::WaitingForPerson, Some(asks), _) => {
            (AttentionKind::Waiting, asks.clone(), format!("stage `{id}` asks: {asks}"))
        }
        (Activity::WaitingForPerson, None, _) => {
            (AttentionKind::Waiting, String::new(), format!("stage `{id}` waits for you"))
        }
    };
    Some(Attention {
        key: format!("{} {} {key}", kind.as_str(), session.id),
        kind,
        stages: vec![id.clone()],
        text,
        next: next_step(run, stage).unwrap_or_else(|| format!("loom attach {id}")),
    })
}

/// Held by its plan, and nothing else keeps it.
fn held(run: &Run, stage: &Stage) -> Option<Attention> {
    let is_next = matches!(stage.state, StageState::Ready { .. }) && run.dependencies_met(&stage.spec);
    let id = &stage.spec.id;
    (is_next && stage.held && stage.spec.hold).then(|| Attention {
        key: format!("held {id} {}", stage.sessions),
        kind: AttentionKind::Gated,
        stages: vec![id.clone()],
        text: format!("stage `{id}` is held by its plan until you release it"),
        next: format!("loom stage release {id}"),
    })
}

/// Stages that are blocked by one cause of the machine or the account are one thing.
fn blocked(run: &Run, stage: &Stage, all: &mut Vec<Attention>) {
    let StageState::Blocked { reason } = &stage.state else { return };
    let id = &stage.spec.id;
    let key = match reason.code.parks_the_backend() {
        true => format!("blocked {} {}", stage.spec.agent.kind(), reason.code.as_str()),
        false => format!("blocked {id} {} {}", stage.sessions, reason.text),
    };
    // A cause of its own needs no search among all the others.
    let same = all.iter_mut().filter(|_| reason.code.parks_the_backend()).find(|known| known.key == key);
    if let Some(known) = same {
        known.stages.push(id.clone());
        return;
    }
    all.push(Attention {
        key,
        kind: AttentionKind::Blocked,
        stages: vec![id.clone()],
        text: format!("stage `{id}` is blocked: {}", reason.text),
        next: next_step(run, stage).unwrap_or_else(|| "loom status".to_owned()),
    });
}

fn gated(run: &Run, gate: &Gate) -> Attention {
    let stage = gate.subject.stage();
    let next = stage.and_then(|id| run.stages.get(id)).and_then(|stage| next_step(run, stage));
    Attention {
        key: format!("gate {} {}", run.ground.nonce, gate.id),
        kind: match gate.subject {
            GateSubject::Limit { .. } => AttentionKind::Limit,
            _ => AttentionKind::Gated,
        },
        stages: stage.into_iter().cloned().collect(),
        text: gate.question.clone(),
        next: next.unwrap_or_else(|| format!("loom stage approve {}", gate.id)),
    }
}

/// A usage limit that nobody is asked about. An outage is waited for, and is no event for a person.
fn limits(world: &World, run: &Run, all: &mut Vec<Attention>) {
    let policy = budget::on_limit(world, run);
    for (backend, lane) in run.lanes.iter().filter(|_| policy != OnLimit::Ask) {
        let Some(parked) = lane.parked.as_ref().filter(|parked| parked.cause == LaneCause::Limit) else { continue };
        if lane::limit_gate(run, *backend).is_some() {
            continue;
        }
        let (then, next) = match run.paused {
            Some(_) => ("the plan is paused", "loom run".to_owned()),
            None => ("everything goes on by itself then", "loom status".to_owned()),
        };
        all.push(Attention {
            key: format!("limit {backend} {}", lane.at),
            kind: AttentionKind::Limit,
            stages: Vec::new(),
            text: format!("`{backend}` stands still until {:.0}: {}; {then}", parked.until, parked.text),
            next,
        });
    }
}

/// What landed does not get any further.
fn landing(run: &Run, all: &mut Vec<Attention>) {
    let why = match (&run.base_entry, &run.base_stays) {
        (BaseEntry::Rejected { text, .. }, _) => {
            format!("new commits on `{}` are not merged: {text}", run.ground.base_branch)
        }
        (_, Some(why)) => format!("branch `{}` did not follow: {why}", run.ground.base_branch),
        _ => return,
    };
    all.push(Attention {
        key: format!("landing {} {why}", run.tip.as_ref().map(|tip| tip.short()).unwrap_or_default()),
        kind: AttentionKind::Blocked,
        stages: Vec::new(),
        text: why,
        next: base_next(run),
    });
}
