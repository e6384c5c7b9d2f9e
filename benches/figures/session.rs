//! What a session costs while its agent works and a person looks: the hooks of a tool call, the
//! guard's decision, the first paint of `loom attach`, and an agent that prints without end.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use loom::guard::{self, Scene, Verdict};
use loom::host::attach::{FromViewer, Hello};
use loom::host::control;
use loom::host::spec::{HostSpec, TerminalSize};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::idle::memory;
use crate::lab::{LOOM, Lab, Outcome, until, until_within};
use crate::latency::with_input;
use crate::stamp::Tools;
use crate::table::{Row, Target, median, ms, percentile};

const CALLS: usize = 200;
const ATTACHES: usize = 20;
/// The kernel's terminal takes some 25 MiB a second.
const PRINTING_MAX: Duration = Duration::from_secs(300);
const SIZE: TerminalSize = TerminalSize { rows: 50, cols: 200 };

/// Both hooks of one Bash call, one after the other, beside two starts of a static program.
pub(crate) fn hooks(tools: &Tools) -> Outcome<Vec<Row>> {
    let lab = Lab::new()?;
    let worktree = lab.repo.join(".worktrees/api");
    fs_err::create_dir_all(&worktree)?;
    let input = |event: &str| {
        serde_json::json!({
            "session_id": "0b0f4b7e-1d0c-4f6c-9f0a-2f4a1f5f9c11",
            "transcript_path": "/nowhere/transcript.jsonl",
            "cwd": worktree,
            "permission_mode": "default",
            "hook_event_name": event,
            "tool_name": "Bash",
            "tool_input": { "command": "cargo test --workspace 2>&1 | tail -20", "description": "Run the tests" },
            "tool_response": { "stdout": "ok", "stderr": "", "interrupted": false },
            "tool_use_id": "toolu_01",
        })
        .to_string()
    };
    let (before, after) = (input("PreToolUse"), input("PostToolUse"));
    let hook = |event: &str| {
        let mut hook = lab.command(&*LOOM);
        hook.args(["hook", event]);
        hook.env("LOOM_SESSION", "api.1").env("LOOM_PROJECT", &lab.repo).env("CLAUDE_PROJECT_DIR", &worktree);
        hook
    };
    let (mut loom, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..CALLS {
        let pre = with_input(hook("pre-tool-use"), &before, "\"allow\"")?;
        loom.push(pre + with_input(hook("post-tool-use"), &after, "")?);
        let first = with_input(lab.command(&tools.stamp), &before, "")?;
        floor.push(first + with_input(lab.command(&tools.stamp), &after, "")?);
    }
    let row = |percent, above| {
        let figure = format!("both hooks of a Bash call, p{percent}");
        let (loom, floor) = (percentile(&loom, percent), percentile(&floor, percent));
        Row::new(&figure, "ms", loom, Some(floor), &Target::Above(above))
    };
    Ok(vec![row(50, 1.0), row(95, 3.0), decision()?])
}

/// The guard alone, in this process: the slowest of many commands.
fn decision() -> Outcome<Row> {
    let (worktree, project) = (Path::new("/p/.worktrees/api"), Path::new("/p"));
    let landed = || false;
    let scene = Scene { worktree, project, cwd: worktree, head_has_landed: &landed };
    let long = format!("echo {} && git commit -m \"$(cat <<'EOF'\nrm -rf /\nEOF\n)\"", "word ".repeat(2_000));
    let commands = [
        "cargo test --workspace 2>&1 | tail -20",
        "cd src && grep -rn 'rm -rf' . | head; git status --short && git diff --stat",
        "bash -c \"sudo env A=1 git -C /p/.worktrees/api push --force origin main\"",
        "find . -name '*.rs' -print0 | xargs -0 sed -i 's/a/b/' && git add -A && git commit -qm 'x'",
        long.as_str(),
    ];
    let mut times = Vec::new();
    for command in commands.iter().cycle().take(CALLS * commands.len()) {
        let input = serde_json::json!({ "command": command });
        let begin = Instant::now();
        let verdict = guard::judge("Bash", &input, &scene);
        times.push(ms(begin.elapsed()));
        let must_not = command.contains("push --force");
        if matches!(verdict, Verdict::Deny(_)) != must_not {
            return Err(format!("the guard decided {verdict:?} on {command}").into());
        }
    }
    Ok(Row::new("the guard's decision, p99", "ms", percentile(&times, 99), None, &Target::AtMost(1.0)))
}

/// From the start of `loom attach` to the first row of the agent's screen in a real terminal.
pub(crate) fn attach(tools: &Tools) -> Outcome<Vec<Row>> {
    let lab = Lab::new()?;
    lab.put_before("claude", "#!/bin/sh\nseq 1 3000\necho agent here\nexec sleep 600\n")?;
    fs_err::write(lab.path("home/.claude.json"), r#"{"hasCompletedOnboarding": true}"#)?;
    let path = lab.path("plan.md");
    let stage = "    - id: a\n      name: A\n      description: Do it.\n      acceptance: [\"true\"]\n";
    let (open, close) =
        ("<!-- loom METADATA -->\n```yaml\nloom:\n  version: 1\n  stages:\n", "```\n<!-- END loom METADATA -->\n");
    fs_err::write(&path, format!("# Figures\n\n{open}{stage}{close}"))?;
    lab.ok(lab.loom(&["init", &path.display().to_string()]))?;
    let mut run = lab.loom(&["run", "--no-sandbox"]);
    lab.time({
        run.env("ANTHROPIC_API_KEY", "sk-ant-nobodys-0123456789abcdef");
        run
    })?;
    let log = lab.repo.join(".work/sessions/a.1/output.log");
    until("the agent's output", || fs_err::read_to_string(&log).is_ok_and(|text| text.contains("agent here")))?;
    let (mut loom, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..ATTACHES {
        loom.push(first_paint(lab.loom(&["attach", "a"]))?);
        floor.push(ms(lab.time(lab.command(&tools.stamp))?));
    }
    lab.stop()?;
    Ok(vec![Row::new("loom attach, first paint", "ms", median(&loom), Some(median(&floor)), &Target::AtMost(30.0))])
}

/// Starts `command` on a terminal of its own; how long until that shows the agent's last row.
fn first_paint(command: Command) -> Outcome<f64> {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let size = rustix::termios::Winsize { ws_row: SIZE.rows, ws_col: SIZE.cols, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(&master, size)?;
    let slave = PathBuf::from(ptsname(&master, Vec::new())?.into_string()?);
    let open = || std::fs::File::options().read(true).write(true).open(&slave);
    let mut command = command;
    command.stdin(open()?).stdout(open()?).stderr(Stdio::null());
    let begin = Instant::now();
    let mut child = command.spawn()?;
    drop(command);
    let (mut shown, mut bytes) = (Vec::new(), [0; 16 << 10]);
    let mut master = std::fs::File::from(master);
    let took = loop {
        let count = master.read(&mut bytes)?;
        shown.extend_from_slice(&bytes[..count]);
        if shown.windows(10).any(|window| window == b"agent here") {
            break ms(begin.elapsed());
        }
    };
    master.write_all(b"\x1c")?;
    child.wait()?;
    Ok(took)
}

/// An agent that prints a GiB into its terminal, with a viewer that takes nothing of it; beside one
/// that nobody looks at.
pub(crate) fn flood(_: &Tools) -> Outcome<Vec<Row>> {
    const PRINTED: u64 = 1 << 30;
    const ALONE: u64 = PRINTED / 8;
    // Before and after: a machine is not as fast in one minute as in the next.
    let (before, _) = print(ALONE, false)?;
    let (watched, peak) = print(PRINTED, true)?;
    let (after, _) = print(ALONE, false)?;
    let per_gib = |seconds: f64, bytes: u64| seconds * PRINTED as f64 / bytes as f64;
    Ok(vec![
        Row::new("memory of a host after 1 GiB of output (peak)", "MiB", peak, None, &Target::AtMost(16.0)),
        Row::new(
            "1 GiB of output, a viewer that is stuck",
            "s",
            per_gib(watched, PRINTED),
            Some(per_gib(before + after, 2 * ALONE)),
            &Target::Ratio(1.3),
        ),
    ])
}

/// Seconds until the child has printed everything, and its host's peak of memory in MiB.
fn print(bytes: u64, is_watched: bool) -> Outcome<(f64, f64)> {
    let lab = Lab::new()?;
    let (dir, done, go) = (lab.path("host"), lab.path("done"), lab.path("go"));
    fs_err::create_dir(&dir)?;
    let line = "a line of output as an agent prints it, with \u{1b}[1msome\u{1b}[m of it bold";
    let script = format!(
        "until test -e {}; do :; done; yes '{line}' | head -c {bytes}; touch {}; exec sleep 600",
        go.display(),
        done.display()
    );
    let socket = lab.path("run/attach");
    let spec = HostSpec {
        argv: vec!["sh".to_owned(), "-c".to_owned(), script],
        cwd: lab.repo.clone(),
        env: Vec::new(),
        terminal: Some(SIZE),
        timeout_ms: 600_000,
        log_bytes_max: loom::model::limits::LOG_BYTES_MAX,
        ends_with_daemon: false,
        own_cgroup: false,
        attach_socket: Some(socket.clone()),
        spool: None,
    };
    let waiting = control::spawn_by(&LOOM, &dir, &spec)?;
    let pid = waiting.host().pid;
    let lifeline = waiting.release()?;
    let viewer = match is_watched {
        true => {
            until("the socket", || socket.exists())?;
            let mut viewer = UnixStream::connect(&socket)?;
            viewer.write_all(&FromViewer::Hello(Hello { size: SIZE, interactive: true, unasked: false }).encode()?)?;
            Some(viewer)
        }
        false => None,
    };
    let begin = Instant::now();
    fs_err::write(&go, "")?;
    until_within(PRINTING_MAX, "the child's output", || done.exists())?;
    let took = begin.elapsed().as_secs_f64();
    let peak = memory(pid, "VmHWM")?;
    drop(viewer);
    control::end(&dir, Duration::from_millis(100))?;
    drop(lifeline);
    Ok((took, peak))
}
