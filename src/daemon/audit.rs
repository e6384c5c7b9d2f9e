//! Compares the journal with git: every landing that it tells of is there, with
//! the tree that was proven.

use std::collections::BTreeMap;

use crate::base::layout::Layout;
use crate::git::{Anchored, Git, GitError};
use crate::journal;
use crate::model::fact::{Fact, StageChange};
use crate::model::ids::{Oid, StageId};
use crate::model::stage::CheckResult;

/// What a verification looked at, and what is wrong.
#[derive(Debug, Default)]
pub struct Verified {
    pub records: u64,
    pub landings: u64,
    /// Number of the anchored record; none: git knows of no journal.
    pub anchored: Option<u64>,
    pub problems: Vec<String>,
}

/// What was proven last, by stage; `None` is the base branch.
type Proofs = BTreeMap<Option<StageId>, (Oid, Oid, Vec<CheckResult>)>;

/// Verifies every byte of the journal, its anchor, and its landings.
///
/// # Errors
/// When the journal or the repository cannot be read at all.
pub fn verify(layout: &Layout, git: &Git) -> Result<Verified, std::io::Error> {
    let unreadable = |error: GitError| std::io::Error::other(error.to_string());
    let mut verified = Verified::default();
    let anchor = match git.anchored().map_err(unreadable)? {
        Anchored::At(anchor) => Some(anchor),
        Anchored::Nothing => None,
        Anchored::Unreadable => {
            verified.problems.push("refs/loom/journal does not hold what Loom writes there".to_owned());
            None
        }
    };
    verified.anchored = anchor.as_ref().map(|anchor| anchor.seq);
    let path = layout.journal();
    let bytes = journal::bytes(&path).map_err(std::io::Error::other)?;
    verified.problems.extend(journal::problems(&bytes, &path, anchor.as_ref()));
    let (mut proofs, mut approved, mut landings) = (Proofs::new(), Vec::new(), Vec::new());
    let scan = journal::scan(&bytes, &path, None, |line| {
        for fact in line.record.facts {
            look_at(fact, line.record.seq, (&mut proofs, &mut approved), &mut landings);
        }
    });
    verified.records = scan.tail.next_seq - 1;
    let commits: Vec<Oid> = landings.iter().map(|landing| landing.commit.clone()).collect();
    let lost = git.unreachable(&commits, None).map_err(unreadable)?;
    for landing in &landings {
        verified.landings += 1;
        verified.problems.extend(landing.compare(git, &lost));
    }
    Ok(verified)
}

/// A landing that the journal tells of.
struct Landing {
    seq: u64,
    stage: Option<StageId>,
    commit: Oid,
    proof: Option<(Oid, Oid, Vec<CheckResult>)>,
    is_approved: bool,
}

fn look_at(fact: Fact, seq: u64, (proofs, approved): (&mut Proofs, &mut Vec<StageId>), landings: &mut Vec<Landing>) {
    match fact {
        Fact::Stage { stage, change: StageChange::Proven { landing, tree, checks, .. } } => {
            proofs.insert(Some(stage), (landing, tree, checks));
        }
        Fact::Stage { stage, change: StageChange::Approved { .. } } => approved.push(stage),
        Fact::BaseProven { landing, tree, checks, .. } => {
            proofs.insert(None, (landing, tree, checks));
        }
        Fact::Stage { stage, change: StageChange::Landed { landed } } => {
            let is_approved = approved.contains(&stage);
            let proof = proofs.remove(&Some(stage.clone()));
            landings.push(Landing { seq, stage: Some(stage), commit: landed, proof, is_approved });
        }
        Fact::BaseMerged { landed, .. } => {
            landings.push(Landing { seq, stage: None, commit: landed, proof: proofs.remove(&None), is_approved: true });
        }
        _ => {}
    }
}

impl Landing {
    fn compare(&self, git: &Git, lost: &[Oid]) -> Vec<String> {
        let who = self.stage.as_ref().map_or("the base branch".to_owned(), |stage| format!("stage `{stage}`"));
        let mut problems = Vec::new();
        let mut wrong =
            |text: String| problems.push(format!("record {}: {who} landed as {}, {text}", self.seq, self.commit));
        match &self.proof {
            None => wrong("and no proof of it is recorded".to_owned()),
            Some((landing, ..)) if *landing != self.commit => {
                wrong(format!("and what was proven is {landing}"));
            }
            Some((_, _, checks)) => {
                if checks.is_empty() && !self.is_approved {
                    wrong("and nothing was checked".to_owned());
                }
                if let Some(check) = checks.iter().find(|check| !check.holds()) {
                    wrong(format!("and `{}` had failed", check.command));
                }
            }
        }
        match git.tree_of(&self.commit) {
            Err(_) => wrong("and git does not have that commit".to_owned()),
            Ok(tree) => {
                if let Some((_, proven, _)) = self.proof.as_ref().filter(|(_, proven, _)| *proven != tree) {
                    wrong(format!("whose tree is {tree} and not {proven}, which was proven"));
                }
                if lost.contains(&self.commit) {
                    wrong("and no ref has that commit any more".to_owned());
                }
            }
        }
        problems
    }
}
