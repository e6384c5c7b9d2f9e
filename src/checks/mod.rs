//! Checks: carries out what the plan says must hold, in the proof checkout, and
//! judges what it did. Never believes anybody else.

mod counts;
mod environment;
mod evidence;
mod judging;
mod runner;
mod verdict;
mod weakened;

use std::path::{Path, PathBuf};

pub use environment::Operator;
pub use evidence::{Bundle, Claim};
pub use judging::{Judges, touched};
pub use runner::main;

use crate::model::check::Check;
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

/// Runs `checks` one after the other, all of them, and judges each.
pub fn run_all(checks: &[Check], place: &Place) -> Result<Vec<CheckResult>, CheckError> {
    let commands: Vec<verdict::Command> = checks.iter().map(verdict::Command::of).collect();
    if commands.is_empty() {
        return Ok(Vec::new());
    }
    let order = runner::Order {
        cwd: place.cwd.to_path_buf(),
        environment: place.environment.clone(),
        commands,
        evidence: place.evidence.clone(),
        work: place.work.to_path_buf(),
    };
    Ok(runner::run(&order)?)
}
