//! What it costs to run a check and judge it: a hundred that do nothing, by the
//! runner and by a shell loop.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::Instant;

use crate::lab::{LOOM, Lab, Outcome};
use crate::stamp::Tools;
use crate::table::{Row, Target, median, ms};

const CHECKS: usize = 100;
const REPEATS: usize = 20;
/// `sh` is named by its path, as the runner names it.
const LOOP: &str = "n=0; while [ $n -lt 100 ]; do /bin/sh -c true; n=$((n+1)); done";

pub(crate) fn one_hundred(_: &Tools) -> Outcome<Vec<Row>> {
    let lab = Lab::new()?;
    let (mut loom, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        loom.push(by_the_runner(&lab)?);
        let mut shell = lab.command("/bin/sh");
        shell.args(["-c", LOOP]);
        floor.push(ms(lab.time(shell)?));
    }
    let figure = "100 checks that do nothing, beside a shell loop";
    Ok(vec![Row::new(figure, "ms", median(&loom), Some(median(&floor)), &Target::Ratio(1.3))])
}

/// From the start of the runner to its end, with every result read.
fn by_the_runner(lab: &Lab) -> Outcome<f64> {
    let check = serde_json::json!({ "check": { "command": "true", "exit_code": 0 } });
    let order = serde_json::json!({
        "cwd": lab.repo,
        "environment": [["PATH", std::env::var("PATH")?]],
        "commands": vec![check; CHECKS],
        "evidence": lab.path("evidence"),
        "work": lab.path(""),
    });
    let mut runner = lab.command(&*LOOM);
    runner.arg("checks").stdin(Stdio::piped()).stdout(Stdio::piped());
    let begin = Instant::now();
    let mut child = runner.spawn()?;
    let (Some(mut order_to), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("a runner without pipes".into());
    };
    writeln!(order_to, "{order}")?;
    let passed =
        BufReader::new(answers).lines().filter(|line| line.as_ref().is_ok_and(|line| line.contains("\"passed\":true")));
    let passed = passed.count();
    drop(order_to);
    child.wait()?;
    let took = ms(begin.elapsed());
    if passed != CHECKS {
        return Err(format!("{passed} of {CHECKS} checks passed").into());
    }
    Ok(took)
}
