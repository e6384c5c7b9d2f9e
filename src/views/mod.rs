//! The readable files of `.work/`, rendered from the world. A view can be
//! deleted and comes back; editing one changes nothing.

use std::fmt::Write;
use std::io;

use crate::base::fs::write_atomic;
use crate::base::layout::Layout;
use crate::kernel::text;
use crate::kernel::world::{Run, Stage};
use crate::model::ids::{SessionId, StageId};
use crate::model::plan::{Agent, stage_branch};
use crate::model::stage::{Failure, StageState};

/// Writes the view of one stage.
pub fn write_stage(layout: &Layout, run: &Run, id: &StageId) -> io::Result<()> {
    let Some(stage) = run.stages.get(id) else { return Ok(()) };
    fs_err::create_dir_all(layout.stages())?;
    write_atomic(&layout.stage_view(id), stage_view(run, stage).as_bytes())
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
            let _ = writeln!(out, "- {mark} `{}`{why} (evidence: {})", check.command, check.evidence);
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

/// Writes the assignment of a session and returns it.
pub fn write_signal(layout: &Layout, run: &Run, session: &SessionId) -> io::Result<()> {
    let Some(stage) = run.stages.get(&session.stage()) else { return Ok(()) };
    fs_err::create_dir_all(layout.signals())?;
    write_atomic(&layout.signal(session), signal(layout, run, stage, session).as_bytes())
}

/// The assignment: stable parts first, so that sessions share a cached prefix.
fn signal(layout: &Layout, run: &Run, stage: &Stage, session: &SessionId) -> String {
    let spec = &stage.spec;
    let id = &spec.id;
    let mut out = String::from(include_str!("signal.md"));
    let folder = run.sessions.get(session).map_or(id.as_str(), |session| session.worktree.as_str());
    let _ = writeln!(out, "\n# Assignment: stage `{id}` of plan `{}`\n", run.plan.id);
    let _ = writeln!(out, "**{}**\n\n{}\n", spec.name, spec.description.trim());
    let _ = writeln!(out, "- Worktree: `{}`", layout.worktree(folder).display());
    let _ = writeln!(out, "- Branch: `{}`", stage_branch(id));
    let _ = writeln!(out, "- Session: `{session}`, attempt {}", stage.attempts);
    if spec.working_dir != "." {
        let _ = writeln!(out, "- Paths of the stage start at `{}`", spec.working_dir);
    }
    if !spec.files.is_empty() {
        let _ = writeln!(out, "- It should change only: {}", crate::base::text::list(&spec.files));
    }
    out.push_str("\n## Checks that decide\n\nLoom runs them itself, on your commit merged with the plan branch:\n\n");
    for check in run.checks_of(spec) {
        let about = check.description.map(|about| format!(" ({about})")).unwrap_or_default();
        let _ = writeln!(out, "- `{}`{about}", check.command);
    }
    if !spec.dependencies.is_empty() {
        out.push_str("\n## What is there already\n\n");
        for dependency in spec.dependencies.iter().filter_map(|id| run.stages.get(id)) {
            let _ = writeln!(
                out,
                "- `{}`: {} ({})",
                dependency.spec.id,
                dependency.spec.name,
                dependency.state.kind().as_str()
            );
        }
    }
    if let Some(note) = &stage.note {
        let _ = writeln!(out, "\n## A person says\n\n{note}");
    }
    if !stage.failures.is_empty() {
        out.push_str("\n## What went wrong so far\n");
        for failure in &stage.failures {
            push_failure(&mut out, failure);
        }
    }
    if let Agent::Claude { .. } = spec.agent {
        let _ = writeln!(
            out,
            "\n## When it is done\n\nCommit, then run `loom stage complete {id}` and end your turn when it says so."
        );
    }
    let overview = run.plan.overview.trim();
    if !overview.is_empty() {
        let _ = writeln!(out, "\n## The plan this is part of: {}\n\n{overview}", run.plan.title);
    }
    out
}

fn push_failure(out: &mut String, failure: &Failure) {
    let _ = writeln!(out, "\n### Attempt {}\n\n{}", failure.attempt, text::for_agent(failure).trim_end());
}
