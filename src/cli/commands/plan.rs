//! `loom plan verify`: needs no state and changes nothing.

use std::path::Path;

use crate::cli::args::{Plan, Verify};
use crate::cli::failure::{Failure, exit};
use crate::cli::ui;
use crate::planfile::{self, Options, Parsed, Severity};

pub fn run(verb: Plan) -> Result<u8, Failure> {
    let Plan::Verify(args) = verb;
    verify(&args)
}

/// Reads a plan file.
pub fn read(path: &Path, ignored_fields: &[String]) -> Result<(Vec<u8>, Parsed), Failure> {
    let source = fs_err::read(path).map_err(|error| {
        let failure = Failure::user(format!("the plan {} cannot be read", path.display())).because(error.to_string());
        match error.kind() {
            std::io::ErrorKind::NotFound => failure.hint("ls doc/plans"),
            _ => failure,
        }
    })?;
    let options = Options { ignored_fields: ignored_fields.to_vec() };
    let parsed = planfile::read(&source, &path.display().to_string(), &options);
    Ok((source, parsed))
}

fn verify(args: &Verify) -> Result<u8, Failure> {
    let (_, parsed) = read(&args.plan, &args.ignore_field)?;
    let count = |severity| parsed.diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let is_good = parsed.plan.is_some() && !(args.strict && warnings > 0);
    if args.json {
        let waves = parsed.plan.as_ref().map(planfile::waves);
        ui::json(&serde_json::json!({
            "version": 1, "ok": is_good, "errors": errors, "warnings": warnings,
            "diagnostics": parsed.diagnostics, "waves": waves,
        }));
        return Ok(if is_good { exit::OK } else { exit::USER });
    }
    for diagnostic in &parsed.diagnostics {
        ui::note(format!("{diagnostic}"));
    }
    if let Some(plan) = parsed.plan.as_ref().filter(|_| is_good) {
        let waves = planfile::waves(plan);
        ui::line(format!("{}: {} stages in {} waves", plan.title, plan.stages.len(), waves.len()));
        for (n, wave) in waves.iter().enumerate() {
            let ids: Vec<&str> = wave.iter().map(|id| id.as_str()).collect();
            ui::line(format!("  {}. {}", n + 1, ids.join(", ")));
        }
        return Ok(exit::OK);
    }
    Err(rejected(&args.plan, errors, warnings))
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
