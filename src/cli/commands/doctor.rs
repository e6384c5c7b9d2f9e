//! `loom doctor`: what is damaged or was left behind, why, and what to type. With `--fix` it mends
//! what it can prove is Loom's own and dead; without it changes nothing.

use crate::base::text::{count, printable};
use crate::cli::args::Doctor;
use crate::cli::failure::{Failure, exit};
use crate::cli::place::Place;
use crate::cli::ui;
use crate::daemon::doctor::{Finding, Level, examine, mend};

/// Version of the JSON form.
const VERSION: u32 = 1;

pub fn run(place: &Place, args: &Doctor) -> Result<u8, Failure> {
    let mut findings = examine(&place.layout, &place.git);
    if args.fix {
        crate::client::require_operator("mend this project")?;
        findings = mend_all(place, findings)?;
    }
    let left = |finding: &&Finding| finding.level == Level::Problem && finding.fixed.is_none();
    let problems = findings.iter().filter(left).count();
    if args.json {
        ui::json(&serde_json::json!({"version": VERSION, "problems": problems, "findings": findings}));
    } else {
        findings.iter().for_each(show);
        match (problems, findings.iter().any(|finding| finding.fixed.is_some())) {
            (0, false) => ui::note("Nothing is wrong."),
            (0, true) => ui::note("Nothing is wrong any more."),
            (n, _) => ui::note(format!("{} left.", count(n, "problem"))),
        }
    }
    Ok(if problems == 0 { exit::OK } else { exit::USER })
}

/// What is mended can uncover more: a branch is free when its worktree is gone.
fn mend_all(place: &Place, mut findings: Vec<Finding>) -> Result<Vec<Finding>, Failure> {
    const ROUNDS: usize = 3;
    let mut mended = Vec::new();
    for _ in 0..ROUNDS {
        mend(&place.layout, &place.git, &mut findings).map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => Failure::user("nothing was mended: a daemon is at work in this project")
                .because("what it holds must not be mended under it")
                .hint("loom stop, then loom doctor --fix"),
            _ => error.into(),
        })?;
        let before = mended.len();
        mended.extend(findings.into_iter().filter(|finding| finding.fixed.is_some()));
        findings = examine(&place.layout, &place.git);
        if mended.len() == before {
            break;
        }
    }
    mended.extend(findings);
    Ok(mended)
}

fn show(finding: &Finding) {
    let mark = match (finding.level, &finding.fixed) {
        (_, Some(_)) => "mended",
        (Level::Problem, None) => "problem",
        (Level::Note, None) => "note",
    };
    ui::line(printable(&format!("{mark:<8} {}  [{}]", finding.what, finding.code)));
    ui::line(printable(&format!("         {}", finding.why)));
    match &finding.fixed {
        Some(done) => ui::line(printable(&format!("         done: {done}"))),
        None => finding.next.iter().for_each(|next| ui::line(printable(&format!("         → {next}")))),
    }
}
