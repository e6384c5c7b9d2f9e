//! `loom plan verify`: needs no state and changes nothing.

use std::io::Read;
use std::path::Path;
use std::process::Stdio;

use crate::agent::environment::Environment;
use crate::base::layout::Layout;
use crate::base::process;
use crate::cli::args::Verify;
use crate::cli::failure::{Failure, exit};
use crate::cli::ui;
use crate::daemon::passing_without;
use crate::git::{self, Git};
use crate::model::limits::PLAN_BYTES_MAX;
use crate::model::plan::Plan;
use crate::planfile::{self, Parsed, Severity, Summary, Surroundings};

/// Reads a plan file.
pub fn read(path: &Path) -> Result<(Vec<u8>, Parsed), Failure> {
    let source = read_file(path)?;
    let parsed = planfile::read(&source, &path.display().to_string());
    Ok((source, parsed))
}

pub fn read_file(path: &Path) -> Result<Vec<u8>, Failure> {
    if path.is_dir() {
        return Err(Failure::user(format!("{} is a folder: name the plan file", path.display()))
            .hint(format!("ls {}", path.display())));
    }
    // One byte more than a plan may have: whoever reads it says that it is too large.
    let read = || {
        let mut text = Vec::new();
        fs_err::File::open(path)?.take(PLAN_BYTES_MAX as u64 + 1).read_to_end(&mut text).map(|_| text)
    };
    read().map_err(|error: std::io::Error| {
        let failure = Failure::user(format!("the plan {} cannot be read", path.display())).because(error.to_string());
        match error.kind() {
            std::io::ErrorKind::NotFound => failure.hint("ls doc/plans"),
            _ => failure,
        }
    })
}

/// Where a plan would run: the repository it is in, else the one around this folder, and this PATH.
fn surroundings<'s>(
    plan: &Path,
    has_program: &'s dyn Fn(&str) -> bool,
    shell_error: &'s dyn Fn(&str) -> Option<String>,
) -> Surroundings<'s> {
    let folder = plan.canonicalize().ok().and_then(|plan| Some(plan.parent()?.to_path_buf()));
    let here = || git::tracked_files(&std::env::current_dir().ok()?);
    let files = folder.and_then(|folder| git::tracked_files(&folder)).or_else(here);
    Surroundings { files, has_program, shell_error, passing: Vec::new() }
}

/// What the shell of checks says of a command that it cannot read. It runs nothing of it.
fn shell_error(command: &str) -> Option<String> {
    let mut shell = process::command("/bin/sh");
    let out = shell.args(["-n", "-c", command]).stdin(Stdio::null()).output().ok()?;
    let said = String::from_utf8_lossy(&out.stderr);
    let line = said.lines().next().unwrap_or_default();
    // `sh: 1: Syntax error: …`
    let why = line.find("yntax error").map_or(line, |at| &line[at.saturating_sub(1)..]);
    (!out.status.success()).then(|| why.to_owned())
}

/// The stages of which every check passes already, at the commit that is checked out where the plan is.
fn passing(path: &Path, plan: &Plan) -> Result<Vec<String>, Failure> {
    let folder = path.canonicalize().ok().and_then(|path| Some(path.parent()?.to_path_buf()));
    let here = || Git::checked_out(&std::env::current_dir().ok()?);
    let Some((git, head)) = folder.and_then(|folder| Git::checked_out(&folder)).or_else(here) else {
        ui::note("Not in a repository with a commit: whether checks pass already was not looked at.");
        return Ok(Vec::new());
    };
    ui::note(format!("Looking at what passes already at {}: each stage's checks, until one fails.", head.short()));
    passing_without(&Layout::new(&git.project), &git, plan, &head)
        .map_err(|error| Failure::user("whether checks pass already cannot be seen").because(error.to_string()))
}

pub fn verify(args: &Verify) -> Result<u8, Failure> {
    let environment = Environment::of_this_process();
    let has_program = |name: &str| environment.find_program(name).is_some();
    let source = read_file(&args.plan)?;
    let path = args.plan.display().to_string();
    let mut around = surroundings(&args.plan, &has_program, &shell_error);
    let (mut parsed, mut summary) = planfile::verify(&source, &path, &around);
    if let Some(plan) = parsed.plan.as_ref().filter(|_| args.strict) {
        around.passing = passing(&args.plan, plan)?;
        if !around.passing.is_empty() {
            (parsed, summary) = planfile::verify(&source, &path, &around);
        }
    }
    let count = |severity| parsed.diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let is_good = parsed.plan.is_some() && !(args.strict && warnings > 0);
    if args.json {
        let shape = summary.as_ref();
        ui::json(&serde_json::json!({
            "version": 1, "ok": is_good, "errors": errors, "warnings": warnings,
            "title": parsed.plan.as_ref().map(|plan| &plan.title),
            "diagnostics": parsed.diagnostics,
            "stages": shape.map(|shape| shape.stages),
            "waves": shape.map(|shape| &shape.waves),
            "critical_path": shape.map(|shape| &shape.critical_path),
            "width": shape.map(|shape| shape.width),
            "max_parallel": shape.map(|shape| shape.max_parallel),
            "overlaps": shape.map(|shape| &shape.overlaps),
        }));
        return Ok(if is_good { exit::OK } else { exit::USER });
    }
    for diagnostic in &parsed.diagnostics {
        ui::note(format!("{diagnostic}"));
    }
    match (&parsed.plan, summary) {
        (Some(plan), Some(summary)) if is_good => show(plan, &summary),
        _ => return Err(rejected(&args.plan, errors, warnings)),
    }
    Ok(exit::OK)
}

fn show(plan: &Plan, summary: &Summary) {
    use crate::base::text::count;
    let (stages, waves) = (count(summary.stages, "stage"), count(summary.waves.len(), "wave"));
    ui::line(format!("{}: {stages} in {waves}", plan.title));
    for (n, wave) in summary.waves.iter().enumerate() {
        ui::line(format!("  {}. {}", n + 1, wave.join(", ")));
    }
    if summary.waves.len() > 1 {
        ui::line(format!("Longest chain: {}", chain(&summary.critical_path)));
    }
    let sessions = count(summary.width.min(summary.max_parallel as usize), "session");
    let limit = if summary.width > summary.max_parallel as usize {
        format!(" (`max_parallel`; the dependencies would allow {})", summary.width)
    } else {
        String::new()
    };
    ui::line(format!("At once: at most {sessions}{limit}"));
}

/// `a → b → c`; the middle of a long one is left out.
fn chain(ids: &[String]) -> String {
    const ENDS: usize = 5;
    if ids.len() <= 2 * ENDS + 1 {
        return ids.join(" → ");
    }
    let (first, last) = (&ids[..ENDS], &ids[ids.len() - ENDS..]);
    format!("{} → … {} more … → {}", first.join(" → "), ids.len() - 2 * ENDS, last.join(" → "))
}

/// The failure after the diagnostics were printed.
pub fn rejected(path: &Path, errors: usize, warnings: usize) -> Failure {
    use crate::base::text::count;
    let what = match (errors, warnings) {
        (0, warnings) => count(warnings, "warning"),
        (errors, _) => count(errors, "error"),
    };
    Failure::user(format!("{} has {what}", path.display())).hint("doc/plan-format.md explains every field")
}
