//! Checks: carries out what the plan says must hold, in the proof checkout, and
//! judges what it did. Never believes anybody else.

mod counts;
mod environment;
mod evidence;
mod inspect;
mod judging;
mod runner;
mod setup;
mod stubs;
mod verdict;
mod weakened;

use std::path::{Path, PathBuf};

pub use environment::Operator;
pub use evidence::{Bundle, Claim};
pub use inspect::Tree;
pub use judging::{Judges, touched};
pub use runner::{Lifeline, main};
pub use setup::{Preparation, carry_out, inputs};

use crate::model::check::{Check, Criteria};
use crate::model::stage::CheckResult;

/// Why checks could not be run at all; says nothing about the work.
#[derive(Debug, thiserror::Error)]
#[error("the checks could not be run: {0}")]
pub struct CheckError(#[from] std::io::Error);

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
}

/// What decides about a stage.
#[derive(Debug)]
pub struct Suite<'a> {
    pub checks: &'a [Check],
    pub criteria: &'a Criteria,
}

impl Suite<'_> {
    fn commands(&self) -> Vec<verdict::Command> {
        let after = self.criteria.after.iter();
        let wiring = self.criteria.wiring_tests.iter().map(|test| &test.check);
        let plain = self.checks.iter().chain(after).chain(wiring).map(verdict::Command::of);
        plain.chain(self.criteria.dead_code.iter().map(verdict::Command::of_dead_code)).collect()
    }
}

/// Runs the commands one after the other, then looks at `tree`; judges all of it.
pub fn run_all(suite: &Suite, place: &Place, tree: &Tree) -> Result<Vec<CheckResult>, CheckError> {
    let mut results = run(suite.commands(), place, &Lifeline::default())?;
    results.extend(inspect::look(suite.criteria, tree));
    Ok(results)
}

/// Runs checks that are commands and nothing else, for as long as the lifeline holds.
pub fn run_checks(checks: &[Check], place: &Place, lifeline: &Lifeline) -> Result<Vec<CheckResult>, CheckError> {
    run(checks.iter().map(verdict::Command::of).collect(), place, lifeline)
}

fn run(commands: Vec<verdict::Command>, place: &Place, lifeline: &Lifeline) -> Result<Vec<CheckResult>, CheckError> {
    if commands.is_empty() {
        return Ok(Vec::new());
    }
    let order = runner::Order {
        cwd: place.cwd.to_path_buf(),
        environment: place.environment.clone(),
        commands,
        evidence: place.evidence.clone(),
        work: place.work.to_path_buf(),
        log: None,
        lock: None,
        stops: false,
    };
    Ok(runner::run(&order, lifeline)?)
}
