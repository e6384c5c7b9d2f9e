//! What Loom costs while nothing happens: wake-ups and memory of the daemon and
//! of hosts.

use std::time::Duration;

use loom::host::control;
use loom::host::spec::{HostSpec, TerminalSize};

use crate::lab::{LOOM, Lab, Outcome, pause, until};
use crate::latency::waiting_plan;
use crate::stamp::Tools;
use crate::table::{Row, Target};

/// Shorter than the reconcile tick, and started after one: no tick falls into it.
const WINDOW: Duration = Duration::from_secs(15);
/// After the last start: until its outcome is folded and its views are written.
const SETTLE: Duration = Duration::from_secs(2);

pub(crate) fn daemon_and_hosts(_: &Tools) -> Outcome<Vec<Row>> {
    let mut rows = Vec::new();
    for stages in [100, 1_000] {
        let lab = Lab::new()?;
        lab.init(&waiting_plan(stages))?;
        let daemon = lab.run_in_background()?;
        let host = || {
            let facts = lab.facts().ok()?;
            let hosted = facts.iter().rev().find(|(_, fact)| fact["change"]["change"] == "hosted")?;
            u32::try_from(hosted.1["change"]["host"]["pid"].as_u64()?).ok()
        };
        until("a session", || host().is_some())?;
        let host = host().ok_or("no session has a host")?;
        pause(SETTLE);
        let before = (wake_ups(daemon)?, wake_ups(host)?);
        pause(WINDOW);
        let woken = (wake_ups(daemon)? - before.0, wake_ups(host)? - before.1);
        let window = WINDOW.as_secs();
        let row = |figure: String, value| Row::new(&figure, "", value, Some(0.0), &Target::AtMost(0.0));
        rows.push(row(format!("wake-ups of the idle daemon in {window} s, {stages} stages"), woken.0));
        if stages == 100 {
            rows.push(row(format!("wake-ups of a host with a silent child in {window} s"), woken.1));
            let host = memory(host, "VmHWM")?;
            rows.push(Row::new("memory of a host, pipes (peak)", "MiB", host, None, &Target::AtMost(8.0)));
        }
        let figure = format!("memory of the idle daemon, {stages} stages");
        rows.push(Row::new(&figure, "MiB", memory(daemon, "VmRSS")?, None, &Target::AtMost(12.0)));
        let figure = format!("memory of the daemon, {stages} stages (peak)");
        rows.push(Row::new(&figure, "MiB", memory(daemon, "VmHWM")?, None, &Target::Shown));
        lab.stop()?;
    }
    rows.push(terminal_host()?);
    Ok(rows)
}

/// A host whose child has filled its screen and its scrollback.
fn terminal_host() -> Outcome<Row> {
    let lab = Lab::new()?;
    let (dir, done) = (lab.path("host"), lab.path("done"));
    fs_err::create_dir(&dir)?;
    let script = format!("seq 1 3000; touch {}; exec sleep 600", done.display());
    let spec = HostSpec {
        argv: vec!["sh".to_owned(), "-c".to_owned(), script],
        cwd: lab.repo.clone(),
        env: Vec::new(),
        terminal: Some(TerminalSize { rows: 50, cols: 200 }),
        timeout_ms: 600_000,
        log_bytes_max: 1 << 20,
        ends_with_daemon: false,
        own_cgroup: false,
        attach_socket: Some(lab.path("run/attach")),
        spool: None,
    };
    let waiting = control::spawn_by(&LOOM, &dir, &spec)?;
    let pid = waiting.host().pid;
    let lifeline = waiting.release()?;
    until("the child's output", || done.exists())?;
    pause(SETTLE);
    let memory = memory(pid, "VmRSS");
    control::end(&dir, Duration::from_millis(100))?;
    drop(lifeline);
    Ok(Row::new(
        "memory of a host, terminal of 50 × 200 with full scrollback",
        "MiB",
        memory?,
        None,
        &Target::AtMost(8.0),
    ))
}

/// How often the threads of `pid` went to sleep, which is how often they were woken.
fn wake_ups(pid: u32) -> Outcome<f64> {
    let mut sum = 0;
    for task in fs_err::read_dir(format!("/proc/{pid}/task"))? {
        sum += field(&task?.path().join("status").display().to_string(), "voluntary_ctxt_switches")?;
    }
    Ok(sum as f64)
}

/// In MiB.
pub(crate) fn memory(pid: u32, name: &str) -> Outcome<f64> {
    Ok(field(&format!("/proc/{pid}/status"), name)? as f64 / 1024.0)
}

fn field(path: &str, name: &str) -> Outcome<u64> {
    let text = fs_err::read_to_string(path)?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let value = value.and_then(|value| value.split_ascii_whitespace().next()?.parse().ok());
    value.ok_or_else(|| format!("{path} has no {name}").into())
}
