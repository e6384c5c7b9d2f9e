//! Checks: carries out what the plan says must hold, in the proof checkout, and
//! judges what it did. Never believes anybody else.

mod baseline;
mod counts;
mod environment;
mod evidence;
mod identity;
mod inspect;
mod judging;
mod runner;
mod setup;
mod stubs;
mod verdict;
mod weakened;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

pub use environment::Operator;
pub use evidence::{Bundle, Claim};
pub use inspect::Tree;
pub use judging::{Judges, Script, executed, touched};
pub use runner::{Lifeline, main};
pub use setup::{Preparation, carry_out, inputs};

use crate::model::baseline::Before;
use crate::model::check::{ChangeImpact, Check, Criteria, Setup};
use crate::model::stage::CheckResult;

/// Why checks could not be run at all; says nothing about the work.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("the checks could not be run: {0}")]
    Io(#[from] std::io::Error),
    /// By [`Lifeline::cut`].
    #[error("the checks made way for others")]
    Cut,
}

/// Where checks run and where they leave their evidence.
#[derive(Debug, Clone)]
pub struct Place<'a> {
    /// The folder the commands start in.
    pub cwd: &'a Path,
    /// `.work/`: evidence paths are relative to it.
    pub work: &'a Path,
    /// The folder of this proof's evidence.
    pub evidence: PathBuf,
    /// The whole environment of the commands.
    pub environment: Vec<(String, String)>,
    /// The tracked files there, unless what a check changes is the next one's to see.
    pub tracked: Option<Tracked<'a>>,
}

/// The files of the tree that is judged, and how they are made what they are in it.
#[derive(Clone, Copy)]
pub struct Tracked<'a> {
    pub root: &'a Path,
    /// Relative to `root`.
    pub files: &'a [String],
    /// Puts them back and says which were not as they should be.
    pub put_back: &'a dyn Fn() -> std::io::Result<Vec<String>>,
}

impl std::fmt::Debug for Tracked<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracked").field("root", &self.root).field("files", &self.files.len()).finish()
    }
}

/// What decides about a stage.
#[derive(Debug)]
pub struct Suite<'a> {
    pub checks: &'a [Check],
    pub criteria: &'a Criteria,
    /// Compares the failures of a whole suite with those on the base.
    pub impact: Option<&'a ChangeImpact>,
}

impl Suite<'_> {
    fn plain_commands(&self) -> Vec<verdict::Command> {
        let after = self.criteria.after.iter();
        let wiring = self.criteria.wiring_tests.iter().map(|test| &test.check);
        let plain = self.checks.iter().chain(after).chain(wiring).map(verdict::Command::of);
        plain.chain(self.criteria.dead_code.iter().map(verdict::Command::of_dead_code)).collect()
    }
}

/// Runs the commands one after the other, then looks at `tree`. What is compared with the base is
/// not judged yet: [`Suite::compare`] does that.
pub fn run_all(suite: &Suite, place: &Place, tree: &Tree) -> Result<Vec<CheckResult>, CheckError> {
    let mut results = run(suite.commands(), place, &Lifeline::default())?;
    results.extend(inspect::look(suite.criteria, tree));
    Ok(results)
}

/// A command has written to what Loom judges with: nothing that came of these is believed.
pub fn distrust(results: &mut [CheckResult]) {
    for result in results {
        (result.passed, result.tolerated) = (false, false);
        result.why =
            Some("a command of these checks wrote to Loom's own repository beside the proof checkout".to_owned());
    }
}

/// Runs checks that are commands and nothing else, for as long as the lifeline holds.
pub fn run_checks(checks: &[Check], place: &Place, lifeline: &Lifeline) -> Result<Vec<CheckResult>, CheckError> {
    run(checks.iter().map(verdict::Command::of).collect(), place, lifeline)
}

/// Whether nothing in this tree tells that a stage's work is missing: whatever proves it and is no
/// guard passes. Looks at files first, and runs commands until one fails; `known` spares it those
/// that ran before. A stage of guards only is meant to be so.
pub fn passes_without(
    suite: &Suite,
    place: &Place,
    tree: &Tree,
    known: &mut HashMap<String, bool>,
) -> Result<bool, CheckError> {
    let Criteria { after, wiring_tests, .. } = suite.criteria;
    let own = suite.checks.iter().chain(after).filter(|check| !check.guard);
    let own: Vec<&Check> = own.chain(wiring_tests.iter().map(|test| &test.check)).collect();
    let looked = inspect::look(suite.criteria, tree);
    if own.is_empty() && looked.is_empty() || looked.iter().any(|result| !result.passed) {
        return Ok(false);
    }
    for check in own {
        let command = verdict::Command::of(check);
        let key = format!("{} {}", tree.working_dir, command.key());
        let passes = match known.get(&key) {
            Some(passes) => *passes,
            None => run(vec![command], place, &Lifeline::default())?.iter().all(|result| result.passed),
        };
        known.insert(key, passes);
        if !passes {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Runs those checks on the base that `is_missing` asks for by their keys. `place`: or why there is
/// none to run in, so that every command fails.
pub fn run_on_base(
    suite: &Suite,
    is_missing: &dyn Fn(&str) -> bool,
    (place, tree): (Result<&Place, String>, &Tree),
    lifeline: &Lifeline,
) -> Result<Vec<Before>, CheckError> {
    let (commands, labels) = suite.asked();
    let (keys, commands): (Vec<String>, Vec<_>) = commands.into_iter().filter(|(key, _)| is_missing(key)).unzip();
    let results = match place {
        Ok(place) => run(commands, place, lifeline)?,
        Err(why) => commands.iter().map(|command| verdict::nowhere(command, &why)).collect(),
    };
    let mut found: Vec<Before> = keys.into_iter().zip(results).map(|(key, result)| Before { key, result }).collect();
    if labels.iter().any(|label| is_missing(label)) {
        let looked = inspect::look(suite.criteria, tree);
        found.extend(labels.into_iter().zip(looked).map(|(key, result)| Before { key, result }));
    }
    Ok(found)
}

/// Digest of what else a result depends on besides the tree and the command.
pub fn conditions(operator: &Operator, setup: &[Setup]) -> String {
    if setup.is_empty() {
        return operator.digest();
    }
    let setup = setup::inputs(setup, &[], &|_| None);
    crate::base::text::sha256(format!("{} {setup}", operator.digest()).as_bytes())[..16].to_owned()
}

/// Runs commands in their order; neighbours that the plan lets run beside each other do.
fn run(commands: Vec<verdict::Command>, place: &Place, lifeline: &Lifeline) -> Result<Vec<CheckResult>, CheckError> {
    let mut results = Vec::with_capacity(commands.len());
    for group in commands.chunk_by(|a, b| a.check.parallel == b.check.parallel) {
        let first = results.len();
        let beside = match group {
            [one, _, ..] if one.check.parallel => beside_each_other(group, first, place, lifeline)?,
            _ => None,
        };
        results.extend(match beside {
            Some(beside) => beside,
            None => one_by_one(group, first, place, lifeline)?,
        });
    }
    Ok(results)
}

/// Each command sees the tree that is judged: what one has changed of it is put back before the
/// next runs, and before anybody looks. `first`: how many came before these.
fn one_by_one(
    commands: &[verdict::Command],
    first: usize,
    place: &Place,
    lifeline: &Lifeline,
) -> Result<Vec<CheckResult>, CheckError> {
    let mut results: Vec<CheckResult> = Vec::with_capacity(commands.len());
    let mut order = order(commands.to_vec(), first, place);
    while !order.commands.is_empty() {
        let mut ran = carried_out(&order, lifeline)?;
        if let (true, Some(tracked), Some(last)) = (ran.touched, place.tracked, ran.results.last_mut()) {
            last.changed = (tracked.put_back)()?;
        }
        order.commands.drain(..ran.results.len());
        results.append(&mut ran.results);
        order.first = first + results.len();
    }
    Ok(results)
}

/// Runs commands beside each other, each under a runner of its own, so that nothing of one is taken
/// for another's. None: one of them changed the tree that the others saw meanwhile, so that none
/// of the results counts; the tree is put back.
fn beside_each_other(
    commands: &[verdict::Command],
    first: usize,
    place: &Place,
    lifeline: &Lifeline,
) -> Result<Option<Vec<CheckResult>>, CheckError> {
    let orders: Vec<runner::Order> =
        commands.iter().enumerate().map(|(at, command)| order(vec![command.clone()], first + at, place)).collect();
    let at_once = std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(order) = orders.get(at) else { return done };
            done.push((at, carried_out(order, lifeline)));
        }
    };
    let mut done = Vec::with_capacity(orders.len());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once.min(orders.len())).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            done.extend(worker.join().map_err(|_| io::Error::other("what runs the checks broke off"))?);
        }
        Ok::<(), io::Error>(())
    })?;
    done.sort_by_key(|(at, _)| *at);
    let mut results = Vec::with_capacity(commands.len());
    let mut is_touched = false;
    for (_, ran) in done {
        let ran = ran?;
        is_touched |= ran.touched;
        results.extend(ran.results);
    }
    match place.tracked.filter(|_| is_touched) {
        Some(tracked) => (tracked.put_back)().map(|_| None).map_err(CheckError::from),
        None => Ok(Some(results)),
    }
}

fn order(commands: Vec<verdict::Command>, first: usize, place: &Place) -> runner::Order {
    runner::Order {
        cwd: place.cwd.to_path_buf(),
        top: place.tracked.map(|tracked| tracked.root.to_path_buf()),
        environment: place.environment.clone(),
        commands,
        first,
        evidence: place.evidence.clone(),
        work: place.work.to_path_buf(),
        watched: place.tracked.map(runner::Watched::of),
        log: None,
        lock: None,
        stops: false,
    }
}

fn carried_out(order: &runner::Order, lifeline: &Lifeline) -> Result<runner::Carried, CheckError> {
    match runner::run(order, lifeline) {
        Err(_) if lifeline.is_cut() => Err(CheckError::Cut),
        ran => Ok(ran?),
    }
}
