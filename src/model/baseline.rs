//! What the checks of a stage did on its untouched base: what passed there already
//! says nothing about the stage, and what failed there the same way is not its fault.

use serde::{Deserialize, Serialize};

use super::check::{ChangeImpact, Check, Criteria, Setup};
use super::ids::{Oid, StageId};
use super::stage::CheckResult;

/// The checks of one stage on its base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// The commit that the stage's branch starts from.
    pub base: Oid,
    pub tree: Oid,
    /// Digest of the environment that the commands saw. Results from another one say nothing.
    pub environment: String,
    pub checks: Vec<Before>,
}

/// One check on the base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    /// Digest of what was run and how it is judged, or the name of what was looked at: the same
    /// key, the same question.
    pub key: String,
    pub result: CheckResult,
}

/// What a check did on the base, beside what it did now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnBase {
    Passed,
    /// It failed there; if it fails now, in another way.
    Failed,
    /// It fails there as it does now.
    SameFailure,
}

/// Everything that it takes to look at the base of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    pub stage: StageId,
    pub base: Oid,
    pub checks: Vec<Check>,
    pub criteria: Criteria,
    pub impact: Option<ChangeImpact>,
    /// Runs before the checks.
    pub setup: Vec<Setup>,
    pub working_dir: String,
    /// Digest of what the last proof left in the proof checkout; anything else there is not trusted.
    pub kept: Option<String>,
    /// Fingerprint of changed programs on `PATH` that a person accepted.
    pub programs: Option<String>,
    pub plan_path: String,
    pub plan_sha256: String,
    /// What is known already; the rest is found out.
    pub known: Option<Baseline>,
}
