//! How soon an agent runs: after the stage it waited for has landed, and when
//! many may start at once.

use std::collections::BTreeMap;
use std::path::Path;

use crate::lab::{Lab, Outcome, Plan, one_commit, stamp_in};
use crate::stamp::Tools;
use crate::table::{Row, Target, median, ms, percentile};

const STAGES: usize = 20;
const RUNS: usize = 3;

/// From the record of a landing to the first instruction of the next stage's program,
/// without the time git took for the worktree.
pub(crate) fn after_a_landing(tools: &Tools) -> Outcome<Vec<Row>> {
    let mut waits = Vec::new();
    for _ in 0..RUNS {
        let lab = Lab::new()?;
        let traces = lab.path("traces");
        fs_err::create_dir(&traces)?;
        let config = lab.path("home/.gitconfig");
        let identity = fs_err::read_to_string(&config)?;
        fs_err::write(&config, format!("{identity}[trace2]\n\teventTarget = {}\n", traces.display()))?;
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
                waits.push((stamp - at) as f64 / 1e6 - worktree);
            }
        }
    }
    if waits.len() < STAGES {
        return Err(format!("only {} landings were followed by a start", waits.len()).into());
    }
    let spawn = static_spawn(tools)?;
    let row = |percent, limit| {
        let figure = format!("dispatch: landed → next agent executed, p{percent}");
        Row::new(&figure, "ms", percentile(&waits, percent), Some(spawn), &Target::AtMost(limit))
    };
    Ok(vec![row(50, 10.0), row(95, 25.0)])
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
