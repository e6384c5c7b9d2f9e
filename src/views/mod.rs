//! The readable files of `.work/`, rendered from the world. A view can be
//! deleted and comes back; editing one changes nothing.

use std::fmt::Write;
use std::io;

use crate::base::fs::write_atomic;
use crate::base::layout::Layout;
use crate::kernel::world::{Run, Stage};
use crate::kernel::{is_unproven, text};
use crate::model::handoff::{Author, Written};
use crate::model::ids::StageId;
use crate::model::plan::stage_branch;
use crate::model::stage::StageState;

mod advice;
mod signal;

pub use signal::write_signal;

/// Writes the view of one stage, and its newest handoff.
pub fn write_stage(layout: &Layout, run: &Run, id: &StageId) -> io::Result<()> {
    let Some(stage) = run.stages.get(id) else { return Ok(()) };
    fs_err::create_dir_all(layout.stages())?;
    write_atomic(&layout.stage_view(id), stage_view(run, stage).as_bytes())?;
    let Some(written) = &stage.handoff else { return Ok(()) };
    let path = layout.handoff(id, written.number);
    if !path.exists() {
        fs_err::create_dir_all(layout.handoffs())?;
        write_atomic(&path, handoff_view(id, written).as_bytes())?;
        // A compaction reads the assignment again, and finds the handoff in it.
        if let Some(session) = stage.state.lease() {
            write_signal(layout, run, session)?;
        }
    }
    Ok(())
}

fn handoff_view(id: &StageId, written: &Written) -> String {
    format!("# Handoff {} of stage `{id}`\n\n> {}\n\n{}", written.number, origin(written), written.handoff.render())
}

fn origin(written: &Written) -> String {
    match written.by {
        Author::Agent => format!("Written by the agent of session `{}`.", written.session),
        Author::Loom => format!("Written by Loom: session `{}` left none of its own.", written.session),
    }
}

/// How a view is, compared with what would be written now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Right,
    Missing,
    /// Not what the world says: edited by hand, or older than the last record.
    Edited,
}

/// Compares the view of one stage with the world.
pub fn shape(layout: &Layout, run: &Run, id: &StageId) -> Shape {
    let Some(stage) = run.stages.get(id) else { return Shape::Right };
    match fs_err::read(layout.stage_view(id)) {
        Ok(bytes) if bytes == stage_view(run, stage).as_bytes() => Shape::Right,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Shape::Missing,
        _ => Shape::Edited,
    }
}

fn stage_view(run: &Run, stage: &Stage) -> String {
    let spec = &stage.spec;
    let mut out = String::from("---\n");
    let mut field = |name: &str, value: &str| {
        let quoted = serde_json::to_string(value).unwrap_or_default();
        let _ = writeln!(out, "{name}: {quoted}");
    };
    field("id", spec.id.as_str());
    field("name", &spec.name);
    field("plan", run.plan.id.as_str());
    field("state", stage.state.kind().as_str());
    field("branch", &stage_branch(&spec.id));
    if let Some(base) = &stage.base {
        field("base", base.as_str());
    }
    match &stage.state {
        StageState::Verifying { commit, .. } => field("commit", commit.as_str()),
        StageState::Merged { commit, landed } => {
            field("commit", commit.as_str());
            field("merged_commit", landed.as_str());
        }
        StageState::Blocked { reason } => {
            field("reason", reason.code.as_str());
            field("why", &reason.text);
        }
        StageState::Skipped { reason, .. } => field("why", reason),
        _ => {}
    }
    let _ = writeln!(out, "attempts: {}\nheld: {}\n---\n", stage.attempts, stage.held);
    let _ = writeln!(out, "# {}\n\n{}\n", spec.name, spec.description.trim());
    if !stage.checks.is_empty() {
        out.push_str("## The newest verdict\n\n");
        for check in &stage.checks {
            let mark = if check.passed { "passed" } else { "failed" };
            let why = check.why.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
            let flaky = text::flaky(check).map(|flaky| format!("; {flaky}")).unwrap_or_default();
            let base = text::about_base(check).map(|about| format!("; {about}")).unwrap_or_default();
            let changed = text::changed(check).map(|changed| format!("; {changed}")).unwrap_or_default();
            let output = if check.evidence.is_empty() { "it printed nothing" } else { &check.evidence };
            let _ = writeln!(out, "- {mark} `{}`{why}{flaky}{base}{changed} (evidence: {output})", check.command);
        }
        if is_unproven(run, stage, &stage.checks) {
            let _ = writeln!(out, "\nThe stage is {}.", text::UNPROVEN);
        }
        out.push('\n');
    }
    if !stage.failures.is_empty() {
        out.push_str("## What went wrong so far\n\n");
        for failure in &stage.failures {
            let _ = writeln!(out, "- attempt {}: {}", failure.attempt, failure.text);
        }
    }
    out
}
