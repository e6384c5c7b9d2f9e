//! `loom verify`: runs a stage's checks now, or looks at kept evidence.

use std::path::Path;

use crate::base::text::count;
use crate::cli::args::VerifyStage;
use crate::cli::failure::{Failure, exit};
use crate::cli::place::Place;
use crate::cli::ui;
use crate::daemon::{Held, ReadOnly, verify_bundle, verify_stage};
use crate::kernel::text;
use crate::model::stage::CheckResult;

pub fn run(place: &Place, args: &VerifyStage) -> Result<u8, Failure> {
    if let Some(bundle) = &args.evidence {
        return look_at(place, bundle, args.json);
    }
    let read = ReadOnly::open(&place.layout)?;
    let run = read.world.run.ok_or(crate::daemon::BootError::NoPlan)?;
    let Some(id) = &args.stage else {
        return Err(Failure::user("which stage is to be verified?").hint("loom verify <stage>").hint("loom status"));
    };
    let Some(stage) = run.stages.get(id) else { return Err(crate::kernel::unknown_stage(&run, id.as_str()).into()) };
    if args.suggest {
        return super::suggest::run(place, &run, stage, args);
    }
    let found = verify_stage(&place.layout, &place.git, &run, stage)
        .map_err(|error| Failure::user(format!("stage `{id}` cannot be verified")).because(error.to_string()))?;
    let failed = found.checks.iter().filter(|check| !check.holds()).count();
    let is_unproven = crate::kernel::is_unproven(&run, stage, &found.checks);
    if args.json {
        ui::json(&serde_json::json!({
            "version": 1, "stage": id, "commit": found.commit, "passed": failed == 0,
            "unproven": is_unproven, "evidence": found.bundle, "checks": found.checks,
        }));
        return Ok(if failed == 0 { exit::OK } else { exit::WORK });
    }
    found.checks.iter().for_each(show);
    ui::note(format!("Evidence: {}", found.bundle.display()));
    if is_unproven {
        ui::note(format!("The stage is {}.", text::UNPROVEN));
    }
    if failed == 0 {
        ui::line(format!("stage `{id}` at {}: {} passed", found.commit.short(), count(found.checks.len(), "check")));
        return Ok(exit::OK);
    }
    let what = format!(
        "{failed} of {} of stage `{id}` failed at {}",
        count(found.checks.len(), "check"),
        found.commit.short()
    );
    Err(Failure::new(exit::WORK, what).hint(format!("loom status {id}")))
}

/// One check as a line, with the end of its output when it failed.
fn show(check: &CheckResult) {
    let mark = match (check.passed, check.tolerated) {
        (true, _) => "passed",
        (false, true) => "warned",
        (false, false) => "FAILED",
    };
    let mut about = vec![format!("{} ms", check.duration_ms)];
    about.extend(check.counts.map(|counts| count(usize::try_from(counts.ran).unwrap_or(usize::MAX), "test")));
    about.extend(text::flaky(check));
    about.extend(text::about_base(check));
    about.extend(text::changed(check));
    if !check.leftovers.is_empty() {
        about.push(format!("left {} behind", check.leftovers.join(", ")));
    }
    let why = check.why.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
    ui::line(format!("{mark}  {}  ({}){why}", check.command, about.join(", ")));
    if !check.passed {
        check.tail.trim_end().lines().for_each(|line| ui::line(format!("    {line}")));
    }
}

/// A bundle, held against git.
fn look_at(place: &Place, path: &Path, as_json: bool) -> Result<u8, Failure> {
    let Held { bundle, wrong, is_recorded } = verify_bundle(&place.layout, &place.git, path)
        .map_err(|error| Failure::user(error.to_string()).hint("ls .work/evidence"))?;
    if as_json {
        ui::json(&serde_json::json!({
            "version": 1, "holds": wrong.is_empty(), "recorded": is_recorded, "wrong": wrong, "bundle": bundle,
        }));
        return Ok(if wrong.is_empty() { exit::OK } else { exit::WORK });
    }
    let claim = &bundle.claim;
    let verdict = if bundle.passed { "passed" } else { "failed" };
    let checks = count(bundle.checks.len(), "check");
    ui::line(format!("`{}` at {}: {verdict} {checks} on tree {}", claim.of, claim.commit.short(), claim.tree.short()));
    bundle.checks.iter().for_each(show);
    if wrong.is_empty() {
        if !is_recorded {
            ui::note(
                "It is of no verdict that the journal here has: `loom verify <stage>` leaves such bundles, and so can anybody.",
            );
        }
        ui::line("the evidence holds");
        return Ok(exit::OK);
    }
    let failure = Failure::new(exit::WORK, format!("the evidence in {} does not hold", path.display()));
    Err(wrong.into_iter().fold(failure, Failure::because))
}
