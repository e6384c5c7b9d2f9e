//! One sync per batch: counted by strace, on the journal's own file.

use loom::base::process::find_program;

use crate::lab::{LOOM, Lab, Outcome, Plan, one_commit};
use crate::stamp::Tools;
use crate::table::{Row, Target};

const STAGES: usize = 20;

pub(crate) fn per_batch(_: &Tools) -> Outcome<Vec<Row>> {
    let figure = "fdatasyncs of the journal per batch written";
    if find_program("strace").is_none() {
        return Ok(vec![Row::missing(figure, "strace is missing")]);
    }
    let lab = Lab::new()?;
    let plan = (1..=STAGES).fold(Plan::new(), |plan, n| plan.stage(&format!("s{n}"), None, &one_commit(n), ""));
    lab.init(&plan)?;
    let log = lab.path("strace.log");
    let mut strace = lab.command("strace");
    // Without --follow-forks only the daemon's threads would be missing: they are what is wanted.
    strace.args(["-f", "-y", "-e", "trace=write,fdatasync,fsync", "-o"]).arg(&log);
    strace.arg(&*LOOM).args(["run", "--foreground"]);
    lab.time(strace)?;
    let text = fs_err::read_to_string(&log)?;
    // Whoever opens the journal makes durable what is there already, once: that is no batch's.
    let is_call = |line: &str, call: &str| line.contains(&format!(" {call}(")) && line.contains("journal.jsonl>");
    let calls: Vec<&str> = text.lines().skip_while(|line| !is_call(line, "write")).collect();
    let of_journal = |call: &str| calls.iter().filter(|line| is_call(line, call)).count() as f64;
    let (writes, syncs) = (of_journal("write"), of_journal("fdatasync"));
    let records = fs_err::read_to_string(lab.repo.join(".work/journal.jsonl"))?.lines().count() as f64;
    Ok(vec![
        Row::new(figure, "", syncs / writes, Some(1.0), &Target::AtMost(1.0)),
        Row::new(
            "fdatasyncs of the journal per stage, 20 independent",
            "",
            syncs / STAGES as f64,
            None,
            &Target::Shown,
        ),
        Row::new("records of the journal per stage, 20 independent", "", records / STAGES as f64, None, &Target::Shown),
    ])
}
