//! What a stage costs beyond its git work, and how many git processes that takes.

use crate::floor;
use crate::lab::{Lab, Outcome, Plan, one_commit};
use crate::stamp::Tools;
use crate::table::{Row, Target, median, ms};

const STAGES: usize = 20;
/// Pairs of a run and its floor, one after the other.
const PAIRS: usize = 5;

pub(crate) fn chain(_: &Tools) -> Outcome<Vec<Row>> {
    let row = against_the_loop("chain of 20 stages, one commit each", true, &Target::Ratio(1.5))?;
    Ok(vec![row])
}

pub(crate) fn independent(_: &Tools) -> Outcome<Vec<Row>> {
    let row = against_the_loop("20 independent stages, each proven on the merged tree", false, &Target::Shown)?;
    Ok(vec![row])
}

fn against_the_loop(figure: &str, chained: bool, target: &Target) -> Outcome<Row> {
    let (mut loom, mut shell) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        shell.push(ms(floor::shell_loop(STAGES, chained)?));
        let lab = Lab::new()?;
        lab.init(&plan(chained))?;
        loom.push(ms(lab.time(lab.loom(&["run", "--watch"]))?));
    }
    Ok(Row::new(figure, "ms", median(&loom), Some(median(&shell)), target))
}

fn plan(chained: bool) -> Plan {
    (1..=STAGES).fold(Plan::new(), |plan, n| {
        let before = format!("s{}", n - 1);
        let after = (chained && n > 1).then_some(before.as_str());
        plan.stage(&format!("s{n}"), after, &one_commit(n), "")
    })
}

/// Counted by a `git` that goes before the real one; git's own children do not pass it,
/// and what the agent starts is marked by the session it runs in.
pub(crate) fn processes(_: &Tools) -> Outcome<Vec<Row>> {
    let mut rows = Vec::new();
    for (chained, shape) in [(true, "chain"), (false, "independent")] {
        let lab = Lab::new()?;
        let log = lab.path("git.log");
        lab.init(&plan(chained))?;
        let counted = format!(
            "#!/bin/sh\n[ -n \"$LOOM_SESSION\" ] || echo \"$*\" >> {}\nPATH=${{PATH#*:}}\nexec git \"$@\"\n",
            log.display()
        );
        lab.put_before("git", &counted)?;
        lab.time(lab.loom(&["run", "--watch"]))?;
        let text = fs_err::read_to_string(&log)?;
        if std::env::var_os("FIGURES_VERBOSE").is_some() {
            crate::table::note(&text);
        }
        let each = text.lines().count() as f64 / STAGES as f64;
        let figure = format!("git processes a stage started by Loom, {shape} of {STAGES}");
        rows.push(Row::new(&figure, "", each, None, &Target::AtMost(8.0)));
    }
    Ok(rows)
}
