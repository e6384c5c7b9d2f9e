//! How soon an agent runs: after the stage it waited for has landed, and when
//! many may start at once.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::lab::{Lab, Outcome, Plan, one_commit, stamp_in};
use crate::stamp::Tools;
use crate::table::{Row, Target, median, ms, note, percentile};

const STAGES: usize = 20;
const RUNS: usize = 3;

/// From the record of a landing to the execution of the next stage's agent, without the time git
/// took for the worktree. The agent says when its first command begins: what its shell and that
/// command need for it is measured beside, and not counted.
pub(crate) fn after_a_landing(tools: &Tools) -> Outcome<Vec<Row>> {
    let (agent, git) = (agent_start(tools)?, around_git()?);
    let mut waits = Vec::new();
    for _ in 0..RUNS {
        let (lab, traces) = traced()?;
        let plan = (1..=STAGES).fold(Plan::new(), |plan, n| {
            let before = format!("s{}", n - 1);
            let run =
                format!("{} {} && {}", tools.stamp.display(), lab.path(&format!("s{n}")).display(), one_commit(n));
            plan.stage(&format!("s{n}"), (n > 1).then_some(before.as_str()), &run, "")
        });
        lab.init(&plan)?;
        lab.time(lab.loom(&["run", "--watch"]))?;
        let worktrees = worktree_times(&traces)?;
        for (at, fact) in lab.facts()? {
            let change = &fact["change"];
            let is_landing = fact["fact"] == "stage" && change["change"] == "landed";
            let n = fact["stage"].as_str().and_then(|id| id.strip_prefix('s')?.parse::<usize>().ok());
            let (true, Some(n)) = (is_landing, n) else { continue };
            let next = format!("s{}", n + 1);
            if let (Some(stamp), Some(worktree)) = (stamp_in(&lab.path(&next)), worktrees.get(&next)) {
                waits.push((stamp - at) as f64 / 1e6 - agent - (worktree + git));
            }
        }
    }
    if waits.len() < STAGES {
        return Err(format!("only {} landings were followed by a start", waits.len()).into());
    }
    note(&format!("not counted: {agent:.2} ms in which an agent says so, {git:.2} ms around git's own measure"));
    let spawn = static_spawn(tools)?;
    let row = |percent, limit| {
        let figure = format!("dispatch: landed → next agent executed, p{percent}");
        Row::new(&figure, "ms", percentile(&waits, percent), Some(spawn), &Target::AtMost(limit))
    };
    Ok(vec![row(50, 10.0), row(95, 25.0)])
}

/// A lab whose git writes down what it does, and where.
fn traced() -> Outcome<(Lab, PathBuf)> {
    let lab = Lab::new()?;
    let traces = lab.path("traces");
    fs_err::create_dir(&traces)?;
    let config = lab.path("home/.gitconfig");
    let identity = fs_err::read_to_string(&config)?;
    fs_err::write(&config, format!("{identity}[trace2]\n\teventTarget = {}\n", traces.display()))?;
    Ok((lab, traces))
}

/// Milliseconds from the execution of an agent's shell to what its first command writes down.
fn agent_start(tools: &Tools) -> Outcome<f64> {
    let lab = Lab::new()?;
    let mut times = Vec::new();
    for n in 0..STAGES {
        let name = format!("agent{n}");
        let mut shell = lab.command("/bin/sh");
        shell.args(["-c", &format!("{} {} && true", tools.stamp.display(), lab.path(&name).display())]);
        let mut child = shell.spawn()?;
        // A spawn is over when the program is executed.
        let executed = loom::base::clock::now().as_nanosecond();
        child.wait()?;
        times.push((stamp_in(&lab.path(&name)).ok_or("no stamp")? - executed) as f64 / 1e6);
    }
    Ok(median(&times))
}

/// Milliseconds of `git worktree add` that git does not measure itself: from its execution to its
/// first instruction, and from its last one to its end.
fn around_git() -> Outcome<f64> {
    let (lab, traces) = traced()?;
    let mut walls = Vec::new();
    for n in 0..STAGES {
        let dir = format!(".worktrees/w{n}");
        let mut git = lab.git(&["worktree", "add", "-q", "-b", &format!("loom/w{n}"), &dir]);
        let mut child = git.spawn()?;
        let executed = Instant::now();
        child.wait()?;
        walls.push((format!("w{n}"), ms(executed.elapsed())));
    }
    let measured = worktree_times(&traces)?;
    let around: Vec<f64> = walls.iter().filter_map(|(name, wall)| Some(wall - measured.get(name)?)).collect();
    if around.len() < STAGES {
        return Err(format!("git measured only {} of {STAGES} worktrees", around.len()).into());
    }
    Ok(median(&around))
}

/// Milliseconds that `git worktree add` took, by stage, as git itself measured them.
fn worktree_times(traces: &Path) -> Outcome<BTreeMap<String, f64>> {
    let mut times = BTreeMap::new();
    for entry in fs_err::read_dir(traces)? {
        let text = fs_err::read_to_string(entry?.path())?;
        let (mut stage, mut time) = (None, None);
        for line in text.lines() {
            let event: serde_json::Value = serde_json::from_str(line)?;
            // Git's own children write into files of their own, named below their parent.
            if event["sid"].as_str().is_some_and(|sid| sid.contains('/')) {
                continue;
            }
            if event["event"] == "start" {
                let argv: Vec<&str> =
                    event["argv"].as_array().into_iter().flatten().filter_map(|arg| arg.as_str()).collect();
                if argv.windows(2).any(|pair| pair == ["worktree", "add"]) {
                    stage = argv.iter().find_map(|arg| arg.strip_prefix("loom/")).map(str::to_owned);
                }
            } else if event["event"] == "exit" {
                time = event["t_abs"].as_f64();
            }
        }
        if let (Some(stage), Some(time)) = (stage, time) {
            times.insert(stage, time * 1e3);
        }
    }
    Ok(times)
}

/// Twenty independent stages and as many slots: from the first agent to the last.
pub(crate) fn spread(tools: &Tools) -> Outcome<Vec<Row>> {
    let mut spreads = Vec::new();
    for _ in 0..RUNS {
        let lab = Lab::new()?;
        let plan = (1..=STAGES).fold(Plan::new(), |plan, n| {
            let stamp = format!("{} {}", tools.stamp.display(), lab.path(&format!("s{n}")).display());
            plan.stage(&format!("s{n}"), None, &format!("{stamp} && sleep 1 && {}", one_commit(n)), "")
        });
        lab.init(&plan)?;
        lab.time(lab.loom(&["run", "--watch", "--max-parallel", "20"]))?;
        let stamps: Vec<i128> = (1..=STAGES).filter_map(|n| stamp_in(&lab.path(&format!("s{n}")))).collect();
        let (Some(first), Some(last)) = (stamps.iter().min(), stamps.iter().max()) else {
            return Err("no stage left a stamp".into());
        };
        if stamps.len() != STAGES {
            return Err(format!("only {} of {STAGES} stages left a stamp", stamps.len()).into());
        }
        spreads.push((last - first) as f64 / 1e6);
    }
    let floor = worktrees_one_by_one()?;
    let figure = "20 slots, 20 independent stages: first to last agent";
    Ok(vec![Row::new(figure, "ms", median(&spreads), Some(floor), &Target::AtMost(500.0))])
}

/// Nineteen worktrees from a shell, one after the other.
fn worktrees_one_by_one() -> Outcome<f64> {
    let lab = Lab::new()?;
    let mut shell = lab.command("sh");
    shell.args(["-c", "for n in $(seq 1 19); do git -c core.fsync=all worktree add -q -b w$n .worktrees/w$n; done"]);
    Ok(ms(lab.time(shell)?))
}

fn static_spawn(tools: &Tools) -> Outcome<f64> {
    let lab = Lab::new()?;
    let times: Outcome<Vec<f64>> = (0..50).map(|_| Ok(ms(lab.time(lab.command(&tools.stamp))?))).collect();
    Ok(median(&times?))
}
