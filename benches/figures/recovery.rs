//! How long it takes until everything is known again after a SIGKILL.

use std::time::Instant;

use loom::base::layout::Layout;
use loom::daemon::ReadOnly;
use loom::journal::{self, Disk, Journal};
use loom::model::event::Caller;
use loom::model::fact::Fact;
use rustix::process::{Pid, Signal, kill_process};

use crate::lab::{Lab, Outcome, until};
use crate::latency::waiting_plan;
use crate::stamp::Tools;
use crate::table::{Row, Target, median, ms};

/// As many lines as a year of busy plans leaves.
const LINES: usize = 100_000;

pub(crate) fn after_a_kill(tools: &Tools) -> Outcome<Vec<Row>> {
    let (mut first_status, mut daemon_back, mut floor) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..5 {
        let lab = Lab::new()?;
        lab.init(&waiting_plan(100))?;
        let old = lab.run_in_background()?;
        until("the long stage", || lab.ok(lab.loom(&["sessions", "list"])).is_ok_and(|text| text.contains("long")))?;
        let pid = Pid::from_raw(i32::try_from(old)?).ok_or("no daemon")?;
        let begin = Instant::now();
        kill_process(pid, Signal::KILL)?;
        // Whoever answers: the next daemon, or the journal.
        let status: serde_json::Value = serde_json::from_str(&lab.ok(lab.loom(&["status", "--json"]))?)?;
        first_status.push(ms(begin.elapsed()));
        let stages = status["stages"].as_array().ok_or("no stages")?;
        let is_right = stages.len() == 100 && stages.iter().any(|row| row["id"] == "long" && row["state"] == "running");
        if !is_right {
            return Err(format!("the first status after the kill is wrong: {status}").into());
        }
        let is_back = || -> Outcome<bool> {
            let status: serde_json::Value = serde_json::from_str(&lab.ok(lab.loom(&["status", "--json"]))?)?;
            Ok(status["daemon"]["pid"].as_u64().is_some_and(|pid| pid != u64::from(old)))
        };
        while !is_back()? {
            if begin.elapsed().as_secs() > 30 {
                return Err("the keeper did not bring the daemon back".into());
            }
        }
        daemon_back.push(ms(begin.elapsed()));
        floor.push(ms(lab.time(lab.command(&tools.stamp))?));
        lab.stop()?;
    }
    let floor = Some(median(&floor));
    let status = "SIGKILL to the first right status, 100 stages";
    Ok(vec![
        Row::new(status, "ms", median(&first_status), floor, &Target::AtMost(100.0)),
        Row::new("SIGKILL to the next daemon", "ms", median(&daemon_back), floor, &Target::AtMost(1_000.0)),
    ])
}

/// Reads, verifies and folds a long journal; the floor reads and hashes its bytes.
pub(crate) fn replay(_tools: &Tools) -> Outcome<Vec<Row>> {
    let lab = Lab::new()?;
    lab.init(&waiting_plan(100))?;
    let layout = Layout::new(&lab.repo);
    let tail = journal::read(&layout.journal(), |_| {})?;
    let mut journal = Journal::resume(Disk::open(&layout.journal())?, &tail)?;
    for _ in 0..LINES {
        let facts = vec![Fact::Stopped { by: Caller::Operator }];
        journal.push(loom::base::clock::now(), "stop by operator", facts);
    }
    journal.commit()?;
    let (mut replayed, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let begin = Instant::now();
        let read = ReadOnly::open(&layout)?;
        replayed.push(ms(begin.elapsed()));
        if read.tail.next_seq <= u64::try_from(LINES)? {
            return Err("not every line was read".into());
        }
        let begin = Instant::now();
        let digest = loom::base::text::sha256(&fs_err::read(layout.journal())?);
        floor.push(ms(begin.elapsed()));
        if digest.len() != 64 {
            return Err("no digest".into());
        }
    }
    let row = Row::new(
        "replay of 100000 journal lines",
        "ms",
        median(&replayed),
        Some(median(&floor)),
        &Target::AtMost(300.0),
    );
    Ok(vec![row])
}
