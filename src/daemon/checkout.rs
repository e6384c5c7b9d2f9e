//! Who is in the proof checkout. Proofs go first: a look at a stage's base makes way for the proof
//! of another stage, at once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::checks::Lifeline;
use crate::git::{Git, GitError, Listing, Merged, Own};
use crate::model::baseline::Baseline;
use crate::model::ids::{Oid, StageId};
use crate::model::limits::SEEN_RESULTS_MAX;
use crate::model::stage::CheckResult;

/// The one door of the proof checkout.
#[derive(Default)]
pub(super) struct Checkout {
    queue: Mutex<Queue>,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Queue {
    /// Proofs that run or want to.
    proofs: usize,
    /// The stage whose base is being looked at.
    look: Option<(StageId, Arc<Lifeline>)>,
}

/// What this daemon knows of the checkout, and of the trees it has seen in it.
#[derive(Default)]
pub(super) struct Inside {
    /// The tree that is checked out, as long as nobody else was there.
    tree: Option<Oid>,
    /// Digest of what the last one left; newer than what the journal says.
    kept: Option<String>,
    /// What is listed in the tree that was checked out last.
    listing: Listing,
    seen: VecDeque<(Seen, CheckResult)>,
    /// The base that was looked at last.
    pub(super) looked: Option<(StageId, Baseline)>,
}

/// What a result is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) tree: Oid,
    pub(super) working_dir: String,
    pub(super) environment: String,
    pub(super) key: String,
}

/// A proof is under way as long as this lives.
pub(super) struct Proving<'a>(&'a Checkout);

impl Drop for Proving<'_> {
    fn drop(&mut self) {
        if let Ok(mut queue) = self.0.queue.lock() {
            queue.proofs -= 1;
        }
    }
}

/// A base is being looked at as long as this lives.
pub(super) struct Looking<'a> {
    checkout: &'a Checkout,
    pub(super) lifeline: Arc<Lifeline>,
}

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        if let Ok(mut queue) = self.checkout.queue.lock() {
            queue.look = None;
        }
    }
}

impl Checkout {
    /// For a proof. What is looked at of the same stage's base is waited for: the proof needs it.
    pub(super) fn prove(&self, stage: Option<&StageId>) -> Result<Proving<'_>, GitError> {
        let mut queue = self.queue.lock().map_err(|_| broken())?;
        queue.proofs += 1;
        if let Some((_, lifeline)) = queue.look.as_ref().filter(|(other, _)| Some(other) != stage) {
            lifeline.cut();
        }
        Ok(Proving(self))
    }

    /// For a look at a base. None: a proof wants the checkout.
    pub(super) fn look(&self, stage: &StageId) -> Option<Looking<'_>> {
        let mut queue = self.queue.lock().ok()?;
        if queue.proofs > 0 || queue.look.is_some() {
            return None;
        }
        let lifeline = Arc::new(Lifeline::default());
        queue.look = Some((stage.clone(), Arc::clone(&lifeline)));
        Some(Looking { checkout: self, lifeline })
    }

    /// Waits until nobody else is inside.
    pub(super) fn enter(&self) -> Result<MutexGuard<'_, Inside>, GitError> {
        self.inside.lock().map_err(|_| broken())
    }
}

fn broken() -> GitError {
    GitError::Io(std::io::Error::other("another thread broke off while it used the proof checkout"))
}

impl Inside {
    /// Removes what nobody of us left. `recorded`: what the journal says of it.
    pub(super) fn secure(&mut self, git: &Git, own: &Own, recorded: Option<&str>) -> Result<(), GitError> {
        // Until it is left in order, nothing is known of it.
        let (kept, tree) = (self.kept.take(), self.tree.take());
        let known = kept.as_deref().or(recorded);
        let removed = own.secure(git, known)?;
        if removed > 0 && known.is_some() {
            super::setup::forget_in_proof(own);
            // What is put back is looked at like the first time.
            self.listing = Listing::default();
            tracing::warn!("{removed} files in the proof checkout are not what the last proof left: removed or gone");
        }
        self.tree = tree.filter(|_| removed == 0 && kept.is_some());
        Ok(())
    }

    /// Merges two commits. An older git looks at the checkout for that.
    pub(super) fn merge(&mut self, own: &Own, tip: &Oid, commit: &Oid) -> Result<Merged, GitError> {
        if own.merges_in_the_checkout() {
            self.tree = None;
        }
        own.merge(tip, commit)
    }

    pub(super) fn check_out(&mut self, own: &Own, tree: &Oid) -> Result<(), GitError> {
        if self.tree.take().as_ref() != Some(tree) || !own.is_untouched() {
            own.check_out(tree)?;
            self.listing.verify(own, tree)?;
        }
        self.tree = Some(tree.clone());
        Ok(())
    }

    /// Takes down what is left; the answer is for the journal.
    pub(super) fn leave(&mut self, own: &Own) -> Result<String, GitError> {
        let kept = own.record_kept()?;
        self.kept = Some(kept.clone());
        Ok(kept)
    }

    pub(super) fn remember(&mut self, seen: Seen, result: &CheckResult) {
        self.seen.retain(|(known, _)| *known != seen);
        if self.seen.len() >= SEEN_RESULTS_MAX {
            self.seen.pop_front();
        }
        self.seen.push_back((seen, result.clone()));
    }

    pub(super) fn recall(&self, seen: &Seen) -> Option<&CheckResult> {
        self.seen.iter().rev().find(|(known, _)| known == seen).map(|(_, result)| result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_by_an_older_git_is_not_taken_for_what_was_checked_out() {
        let dir = tempfile::tempdir().unwrap();
        let (project, cache) = (dir.path().join("project"), dir.path().join("cache"));
        fs_err::create_dir_all(&project).unwrap();
        let git = |args: &[&str]| {
            let who = ["-c", "user.name=n", "-c", "user.email=e@e", "-c", "commit.gpgsign=false"];
            let output =
                crate::base::process::command("git").current_dir(&project).args(who).args(args).output().unwrap();
            assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
            Oid::new(String::from_utf8_lossy(&output.stdout).trim()).ok()
        };
        git(&["init", "-q", "-b", "main"]);
        let mut commits = Vec::new();
        for text in ["tip", "work"] {
            fs_err::write(project.join("file"), text).unwrap();
            git(&["add", "-A"]);
            git(&["commit", "-q", "-m", text]);
            commits.push(git(&["rev-parse", "HEAD"]).unwrap());
        }
        let work = git(&["rev-parse", "HEAD^{tree}"]).unwrap();
        let own = Own::open(&Git::find(&project).unwrap(), &cache).unwrap().with_an_older_git();
        let mut inside = Inside::default();
        inside.check_out(&own, &work).unwrap();
        assert_eq!(inside.merge(&own, &commits[0], &commits[1]).unwrap(), Merged::Clean { tree: work.clone() });
        inside.check_out(&own, &work).unwrap();
        assert_eq!(fs_err::read_to_string(own.proof.join("file")).unwrap(), "work");
    }

    #[test]
    fn a_proof_goes_first() {
        let checkout = Checkout::default();
        let (a, b) = (StageId::new("a").unwrap(), StageId::new("b").unwrap());
        let look = checkout.look(&a).unwrap();
        assert!(checkout.look(&b).is_none(), "one at a time");
        let own = checkout.prove(Some(&a)).unwrap();
        assert!(!look.lifeline.is_cut(), "its own proof needs it");
        let other = checkout.prove(Some(&b)).unwrap();
        assert!(look.lifeline.is_cut());
        drop(look);
        drop(own);
        assert!(checkout.look(&a).is_none(), "a proof is still under way");
        drop(other);
        assert!(checkout.look(&a).is_some());
    }
}
