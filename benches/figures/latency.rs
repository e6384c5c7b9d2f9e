//! What a person or an agent waits for: `loom status`, `loom hook`, `loom init`.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::lab::{LOOM, Lab, Outcome, Plan, until};
use crate::stamp::Tools;
use crate::table::{Row, Target, median, ms};

const REPEATS: usize = 60;

pub(crate) fn status(tools: &Tools) -> Outcome<Vec<Row>> {
    let mut rows = Vec::new();
    // Set on a machine that starts a program and asks a socket in this time, in ms.
    const THEN: f64 = 0.31;
    for (stages, limit) in [(100, 1.5), (1_000, 4.0)] {
        let lab = Lab::new()?;
        lab.init(&waiting_plan(stages))?;
        let without = medians(&lab, &tools.stamp)?;
        lab.run_in_background()?;
        until("the long stage", || lab.ok(lab.loom(&["sessions", "list"])).is_ok_and(|text| text.contains("long")))?;
        let with = medians(&lab, &tools.stamp)?;
        lab.stop()?;
        // Without a daemon the journal is read and verified whole: its own row, to compare.
        for ((loom, floor), how, target) in
            [(with, "daemon", Target::AtMostWhere { limit, then: THEN }), (without, "no daemon", Target::Shown)]
        {
            let figure = format!("loom status, {stages} stages, {how}");
            rows.push(Row::new(&figure, "ms", loom, Some(floor), &target));
        }
    }
    Ok(rows)
}

/// `loom status` and the static program, in turns.
fn medians(lab: &Lab, stamp: &std::path::Path) -> Outcome<(f64, f64)> {
    let (mut loom, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        loom.push(ms(lab.time(lab.loom(&["status"]))?));
        floor.push(ms(lab.time(lab.command(stamp))?));
    }
    Ok((median(&loom), median(&floor)))
}

/// A held root that nearly everything waits for, and one stage that takes long.
pub(crate) fn waiting_plan(stages: usize) -> Plan {
    let plan = Plan::new().stage("root", None, "true", "      hold: true\n").stage("long", None, "exec sleep 600", "");
    (2..stages).fold(plan, |plan, n| plan.stage(&format!("s{n}"), Some("root"), "true", ""))
}

pub(crate) fn hook_and_init(tools: &Tools) -> Outcome<Vec<Row>> {
    Ok(vec![hook(tools)?, init()?])
}

/// `loom plan verify` of the largest plan, in a repository that has what its stages name: two
/// hundred layers of ten stages, each waiting for five of the layer before.
pub(crate) fn verify(tools: &Tools) -> Outcome<Vec<Row>> {
    const STAGES: usize = 2_000;
    let lab = Lab::new()?;
    let path = lab.path("plan.md");
    fs_err::write(&path, layered_plan(STAGES))?;
    for n in 0..STAGES {
        let folder = lab.repo.join(format!("src/s{n}"));
        fs_err::create_dir_all(&folder)?;
        fs_err::write(folder.join("mod.rs"), "")?;
    }
    lab.ok(lab.git(&["add", "-A"]))?;
    lab.ok(lab.git(&["commit", "-q", "-m", "Sources"]))?;
    let path = path.display().to_string();
    let (mut loom, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        loom.push(ms(lab.time(lab.loom(&["plan", "verify", &path]))?));
        floor.push(ms(lab.time(lab.command(&tools.stamp))?));
    }
    let figure = "loom plan verify, 2000 stages";
    Ok(vec![Row::new(figure, "ms", median(&loom), Some(median(&floor)), &Target::AtMost(100.0))])
}

fn layered_plan(stages: usize) -> String {
    let mut text = "# Plan\n\n<!-- loom METADATA -->\n```yaml\nloom:\n  version: 1\n  stages:\n".to_owned();
    for n in 0..stages {
        let layer = n / 10 * 10;
        let on = (0..5).filter(|_| layer > 0).map(|k| format!("s{}", layer - 10 + (n + k * 2) % 10));
        let on = on.collect::<Vec<_>>().join(", ");
        text.push_str(&format!(
            "    - id: s{n}\n      name: \"Stage {n}\"\n      description: |\n        Some words.\n      \
             dependencies: [{on}]\n      acceptance: [\"grep -q done src/s{n}/mod.rs\"]\n      files: [\"src/s{n}/**/*.rs\"]\n"
        ));
    }
    text.push_str("```\n<!-- END loom METADATA -->\n");
    text
}

fn hook(tools: &Tools) -> Outcome<Row> {
    let lab = Lab::new()?;
    let worktree = lab.repo.join(".worktrees/api");
    fs_err::create_dir_all(&worktree)?;
    let input = serde_json::json!({
        "session_id": "0b0f4b7e-1d0c-4f6c-9f0a-2f4a1f5f9c11",
        "transcript_path": "/nowhere/transcript.jsonl",
        "cwd": worktree,
        "permission_mode": "default",
        "hook_event_name": "PreToolUse",
        "tool_name": "Bash",
        "tool_input": { "command": "cargo test --workspace 2>&1 | tail -20", "description": "Run the tests" },
        "tool_use_id": "toolu_01",
    });
    let input = input.to_string();
    let (mut loom, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..4 * REPEATS {
        let mut hook = lab.command(&*LOOM);
        hook.args(["hook", "pre-tool-use"]);
        hook.env("LOOM_SESSION", "api.1").env("LOOM_PROJECT", &lab.repo).env("CLAUDE_PROJECT_DIR", &worktree);
        loom.push(with_input(hook, &input, "\"allow\"")?);
        floor.push(with_input(lab.command(&tools.stamp), &input, "")?);
    }
    Ok(Row::new("loom hook, a tool call", "ms", median(&loom), Some(median(&floor)), &Target::Above(1.0)))
}

pub(crate) fn with_input(mut command: Command, input: &str, wanted: &str) -> Outcome<f64> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let begin = Instant::now();
    let mut child = command.spawn()?;
    child.stdin.take().ok_or("no input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let time = ms(begin.elapsed());
    let text = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && text.contains(wanted) {
        Ok(time)
    } else {
        Err(format!("the hook ended with {} and said: {text}", output.status).into())
    }
}

/// Beside `git worktree add` of the small repository, which is as much of everything: programs,
/// files, syncs. The 25 ms were set on a machine where that took 5.5.
fn init() -> Outcome<Row> {
    const LIMIT: f64 = 25.0 / 5.5;
    let (mut loom, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..9 {
        let lab = Lab::new()?;
        let path = lab.path("plan.md");
        fs_err::write(&path, waiting_plan(1_000).text())?;
        let path = path.display().to_string();
        // A sync of init's would write the files of the new repository, too.
        rustix::fs::sync();
        loom.push(ms(lab.time(lab.loom(&["init", &path]))?));
        floor.push(ms(lab.time(lab.git(&["worktree", "add", "-q", "-b", "floor", ".worktrees/floor"]))?));
    }
    let figure = "loom init, 1000 stages (25 ms where git's is 5.5)";
    Ok(Row::new(figure, "ms", median(&loom), Some(median(&floor)), &Target::Ratio(LIMIT)))
}
