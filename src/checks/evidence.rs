//! The evidence of one verdict: what was proven, by what, with which result. One
//! file, whose digest goes into the journal, and that can be checked anywhere
//! with git alone.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Operator;
use crate::base::text::sha256;
use crate::model::event::EvidenceRef;
use crate::model::ids::Oid;
use crate::model::stage::CheckResult;

/// Version of the file; raised when a field changes its meaning or goes.
const VERSION: u32 = 1;

/// What the verdict is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub plan_path: String,
    /// Of the plan as pinned by `loom init`: where the checks come from.
    pub plan_sha256: String,
    /// The stage, or `_base` for the user's own commits.
    pub of: String,
    /// Where the stage's branch started.
    pub base: Oid,
    /// Where the plan branch was.
    pub tip: Oid,
    /// What the stage submitted.
    pub submitted: Oid,
    /// What was checked: the commit that would land, or the submitted one alone.
    pub commit: Oid,
    /// Its tree, on which the checks ran.
    pub tree: Oid,
}

/// A verdict with its evidence, as kept in `bundle.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    pub version: u32,
    /// The Loom that ran the checks.
    pub loom: String,
    #[serde(flatten)]
    pub claim: Claim,
    pub passed: bool,
    pub checks: Vec<CheckResult>,
    /// `PATH` as it was, and a digest of every other variable.
    pub environment: BTreeMap<String, String>,
    pub at: jiff::Timestamp,
}

impl Bundle {
    pub fn new(claim: Claim, checks: Vec<CheckResult>, operator: &Operator) -> Bundle {
        Bundle {
            version: VERSION,
            loom: env!("CARGO_PKG_VERSION").to_owned(),
            claim,
            passed: checks.iter().all(CheckResult::holds),
            checks,
            environment: operator.summary(),
            at: crate::base::clock::now(),
        }
    }

    /// Writes the bundle durably beside the outputs it names, in a folder below `work`.
    pub fn keep(&self, folder: &Path, work: &Path) -> std::io::Result<EvidenceRef> {
        fs_err::create_dir_all(folder)?;
        let path = folder.join("bundle.json");
        let bytes = serde_json::to_vec_pretty(self)?;
        crate::base::fs::write_durable(&path, &bytes)?;
        Ok(EvidenceRef {
            of: self.claim.of.clone(),
            commit: self.claim.commit.clone(),
            path: path.strip_prefix(work).unwrap_or(&path).display().to_string(),
            sha256: sha256(&bytes),
        })
    }

    /// What is wrong with the bundle in itself: a verdict that its checks do not bear, an output that
    /// is gone or is another one. `dir`: where the bundle and its outputs are.
    pub fn complaints(&self, dir: &Path) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.version != VERSION {
            wrong.push(format!("it has version {}; this Loom reads {VERSION}", self.version));
        }
        if self.passed != self.checks.iter().all(CheckResult::holds) {
            wrong.push("its verdict is not that of its checks".to_owned());
        }
        if self.passed && self.checks.is_empty() {
            wrong.push("it passed by no check".to_owned());
        }
        for check in self.checks.iter().filter(|check| !check.evidence.is_empty()) {
            let name = check.evidence.rsplit('/').next().unwrap_or_default();
            match fs_err::read(dir.join(name)) {
                Ok(bytes) if sha256(&bytes) == check.evidence_sha256 => {}
                Ok(_) => {
                    wrong.push(format!("the output of `{}` in {name} is not the one that was kept", check.command))
                }
                Err(error) => wrong.push(format!("the output of `{}` cannot be read: {error}", check.command)),
            }
        }
        wrong
    }
}
