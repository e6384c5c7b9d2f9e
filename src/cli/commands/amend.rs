//! `loom plan diff` and `loom plan apply`: a new version of the plan while it runs.

use std::path::Path;

use serde_json::{Value, json};

use super::plan::{read, rejected};
use crate::base::text::{list, sha256};
use crate::cli::args::{PlanApply, PlanDiff};
use crate::cli::failure::{Failure, exit};
use crate::cli::place::Place;
use crate::cli::ui;
use crate::client;
use crate::daemon::{BootError, ReadOnly};
use crate::kernel::{Amendment, Consequence, StageAmendment, amendment};
use crate::model::event::{PlanSource, Request};
use crate::model::ids::StageId;
use crate::model::plan::Plan;
use crate::planfile::Severity;

pub fn diff(place: &Place, args: &PlanDiff) -> Result<u8, Failure> {
    let (source, plan) = load(&args.plan)?;
    let read = ReadOnly::open(&place.layout)?;
    let run = read.world.run.as_ref().ok_or(BootError::NoPlan)?;
    let change = amendment(run, &plan, &args.restart);
    let is_same = sha256(&source) == run.source.sha256;
    if args.json {
        ui::json(&json!({
            "version": 1,
            "plan": plan.id,
            "plan_version": run.version,
            "same": is_same && change.is_empty(),
            "fields": change.plan_fields,
            "stages": change.stages.iter().map(row).collect::<Vec<_>>(),
        }));
        return Ok(exit::OK);
    }
    show(&change);
    if change.is_empty() {
        ui::note(format!("plan `{}`, version {}: nothing would change", run.plan.id, run.version));
    } else {
        ui::note(format!("Next: loom plan apply {}", args.plan.display()));
    }
    Ok(exit::OK)
}

pub fn apply(place: &Place, args: &PlanApply) -> Result<u8, Failure> {
    client::require_operator("change the plan")?;
    let (source, plan) = load(&args.plan)?;
    let read = ReadOnly::open(&place.layout)?;
    let run = read.world.run.as_ref().ok_or(BootError::NoPlan)?;
    show(&amendment(run, &plan, &args.restart));
    let path = args.plan.canonicalize()?;
    let path = path.strip_prefix(&place.layout.project).unwrap_or(&path);
    let source = PlanSource { path: path.display().to_string(), sha256: sha256(&source) };
    place.ask(Request::ApplyPlan { plan: Box::new(plan), source, restart: args.restart.clone() })
}

fn load(path: &Path) -> Result<(Vec<u8>, Plan), Failure> {
    let (source, parsed) = read(path)?;
    for diagnostic in &parsed.diagnostics {
        ui::note(format!("{diagnostic}"));
    }
    match parsed.plan {
        Some(plan) => Ok((source, plan)),
        None => {
            let errors = parsed.diagnostics.iter().filter(|one| one.severity == Severity::Error).count();
            Err(rejected(path, errors, 0))
        }
    }
}

fn show(change: &Amendment) {
    if !change.plan_fields.is_empty() {
        ui::line(format!("plan: {} changed", list(&change.plan_fields)));
    }
    for (id, stage) in &change.stages {
        let mark = match stage.consequence {
            Consequence::Added => '+',
            Consequence::Removed | Consequence::CannotBeRemoved | Consequence::StillRuns => '-',
            _ => '~',
        };
        let fields = if stage.fields.is_empty() { String::new() } else { format!(" ({})", stage.fields.join(", ")) };
        ui::line(format!("{mark} {id}: {}{fields}", stage.consequence.as_str()));
        for (sign, on) in edges(stage) {
            ui::line(format!("    {sign} waits for {on}"));
        }
    }
}

/// Added and removed dependencies of a stage that was there before.
fn edges(stage: &StageAmendment) -> impl Iterator<Item = (char, &StageId)> {
    let added = stage.dependencies_added.iter().map(|id| ('+', id));
    added.chain(stage.dependencies_removed.iter().map(|id| ('-', id)))
}

fn row((id, stage): &(StageId, StageAmendment)) -> Value {
    json!({
        "id": id,
        "consequence": stage.consequence.id(),
        "fields": stage.fields,
        "dependencies_added": stage.dependencies_added,
        "dependencies_removed": stage.dependencies_removed,
    })
}
