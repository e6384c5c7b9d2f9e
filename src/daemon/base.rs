//! A look at a stage's base: what its checks do there, before anything was changed.

use std::collections::BTreeSet;

use crate::checks::{self, Bundle, CheckError, Claim, Lifeline, Place, Suite, Tracked, Tree};
use crate::daemon::checkout::{Inside, Seen};
use crate::daemon::executor::{Context, Entered, Programs};
use crate::daemon::land::evidence_folder;
use crate::daemon::setup::in_proof;
use crate::git::{Git, Own};
use crate::model::baseline::{Baseline, Before, Look};
use crate::model::event::{Event, EvidenceRef};
use crate::model::ids::Oid;
use crate::model::stage::CheckResult;

/// What a look has found.
pub(super) struct Found {
    pub(super) baseline: Baseline,
    /// There is more in it than was known.
    pub(super) is_new: bool,
    /// Of what had to be run.
    pub(super) evidence: Option<EvidenceRef>,
}

/// Why there is nothing to tell.
pub(super) enum NotFound {
    /// Others needed the checkout.
    MadeWay,
    /// A person has to answer a question first.
    Asked,
    Trouble(String),
}

fn trouble(error: impl std::fmt::Display) -> NotFound {
    NotFound::Trouble(error.to_string())
}

impl From<CheckError> for NotFound {
    fn from(error: CheckError) -> NotFound {
        match error {
            CheckError::Cut => NotFound::MadeWay,
            error => trouble(error),
        }
    }
}

impl Look {
    pub(super) fn suite(&self) -> Suite<'_> {
        Suite { checks: &self.checks, criteria: &self.criteria, impact: self.impact.as_ref() }
    }
}

/// Looks at the base of a stage while its session works.
pub(super) fn look(context: &Context, look: &Look) -> Event {
    let nothing = |kept| Event::BaseLooked { stage: look.stage.clone(), baseline: None, kept, evidence: Vec::new() };
    let Some(looking) = context.checkout.look(&look.stage) else { return nothing(None) };
    if let Some(baseline) = remembered(context, look) {
        let baseline = Some(Box::new(baseline));
        return Event::BaseLooked { stage: look.stage.clone(), baseline, kept: None, evidence: Vec::new() };
    }
    let mut kept = None;
    let mut found;
    match context.enter(look.kept.as_deref(), look.programs.as_ref()) {
        Ok(Entered { mut inside, git, own, mut programs }) => {
            found = find_out(context, (&mut inside, &git, &own, &mut programs), look, &looking.lifeline);
            match inside.leave(&own) {
                Ok(digest) => kept = Some(digest),
                Err(error) => found = Err(trouble(error)),
            }
            if let Ok(found) = &found {
                inside.looked = Some((look.stage.clone(), found.baseline.clone()));
            }
        }
        Err(error) => found = Err(trouble(error)),
    }
    match found {
        Ok(found) => Event::BaseLooked {
            stage: look.stage.clone(),
            baseline: Some(Box::new(found.baseline)),
            kept,
            evidence: found.evidence.into_iter().collect(),
        },
        Err(NotFound::MadeWay | NotFound::Asked) => nothing(kept),
        Err(NotFound::Trouble(why)) => {
            if let Some(kept) = kept {
                context.send(None, nothing(Some(kept)));
            }
            Event::EffectFailed { effect: "look at the base of a stage", why }
        }
    }
}

/// What is known of the base when that is all there is to know: nobody needs the checkout for it.
fn remembered(context: &Context, look: &Look) -> Option<Baseline> {
    let known = Known::of(context, &*context.checkout.enter().ok()?, &context.git().ok()?, look).ok()?;
    known.missing.is_empty().then(|| known.baseline(look))
}

/// What earlier looks and proofs have found out about a base.
struct Known {
    tree: Oid,
    environment: String,
    checks: Vec<Before>,
    /// Keys of what nobody has run there.
    missing: BTreeSet<String>,
}

impl Known {
    fn of(context: &Context, inside: &Inside, git: &Git, look: &Look) -> Result<Known, NotFound> {
        let tree = git.tree_of(&look.base).map_err(trouble)?;
        let environment = checks::conditions(context.operator(), &look.setup);
        let mut known = Known { tree, environment, checks: Vec::new(), missing: BTreeSet::new() };
        let looked = inside.looked.as_ref().filter(|(stage, _)| *stage == look.stage).map(|(_, found)| found);
        let fits = |found: &&Baseline| found.tree == known.tree && found.environment == known.environment;
        let found: Vec<&Baseline> = look.known.as_ref().into_iter().chain(looked).filter(fits).collect();
        for key in look.suite().keys() {
            let before = found.iter().flat_map(|found| &found.checks).find(|before| before.key == key);
            let seen = known.seen(look, &key);
            match before.map(|before| &before.result).or_else(|| inside.recall(&seen)) {
                Some(result) => known.checks.push(Before { key, result: as_base(result) }),
                None => {
                    known.missing.insert(key);
                }
            }
        }
        Ok(known)
    }

    fn seen(&self, look: &Look, key: &str) -> Seen {
        Seen {
            tree: self.tree.clone(),
            working_dir: look.working_dir.clone(),
            environment: self.environment.clone(),
            key: key.to_owned(),
        }
    }

    fn baseline(self, look: &Look) -> Baseline {
        let Known { tree, environment, mut checks, .. } = self;
        let keys = look.suite().keys();
        checks.sort_by_key(|before| keys.iter().position(|key| *key == before.key));
        checks.dedup_by(|a, b| a.key == b.key);
        Baseline { base: look.base.clone(), tree, environment, checks }
    }
}

/// What is known of the base, and the rest of it found out in the checkout.
pub(super) fn find_out(
    context: &Context,
    (inside, git, own, programs): (&mut Inside, &Git, &Own, &mut Programs),
    look: &Look,
    lifeline: &Lifeline,
) -> Result<Found, NotFound> {
    let mut known = Known::of(context, inside, git, look)?;
    let mut evidence = None;
    if !known.missing.is_empty() {
        if !programs.are_known(context).map_err(trouble)? {
            return Err(NotFound::Asked);
        }
        let is_missing = |key: &str| known.missing.contains(key);
        let (found, kept) = run(context, (inside, own), (look, &known.tree), (&is_missing, lifeline))?;
        evidence = kept;
        for before in found {
            inside.remember(known.seen(look, &before.key), &before.result);
            known.checks.push(Before { result: as_base(&before.result), ..before });
        }
    }
    let baseline = known.baseline(look);
    let is_new = look.known.as_ref() != Some(&baseline);
    Ok(Found { baseline, is_new, evidence })
}

/// What is kept of it: the output of what fails while there is nothing yet says nothing.
fn as_base(result: &CheckResult) -> CheckResult {
    CheckResult { tail: String::new(), base: None, tolerated: false, note: String::new(), ..result.clone() }
}

type Ran = (Vec<Before>, Option<EvidenceRef>);

/// Runs what is missing, on the base.
fn run(
    context: &Context,
    (inside, own): (&mut Inside, &Own),
    (look, tree): (&Look, &Oid),
    (is_missing, lifeline): (&dyn Fn(&str) -> bool, &Lifeline),
) -> Result<Ran, NotFound> {
    inside.check_out(own, tree).map_err(trouble)?;
    own.show_head(&look.base).map_err(trouble)?;
    let cwd = own.proof.join(&look.working_dir);
    let (files, touched) = (own.files().map_err(trouble)?, BTreeSet::new());
    let place = Place {
        tracked: None,
        cwd: &cwd,
        work: &context.layout.work,
        evidence: evidence_folder(&context.layout, look.stage.as_str(), &look.base),
        environment: context.operator().prepare(&own.home).map_err(trouble)?,
    };
    let looked = Tree { root: &own.proof, files: &files, touched: &touched, working_dir: &look.working_dir };
    let (layout, operator) = (&context.layout, context.operator());
    let set_up = in_proof(layout, own, operator, &look.setup, (tree, &place.evidence, lifeline));
    let git = context.git().map_err(trouble)?;
    let guarded = own.guard(&git, tree).map_err(trouble)?;
    let put_back = || guarded.put_back();
    let place = Place { tracked: Some(Tracked { root: &own.proof, files: &files, put_back: &put_back }), ..place };
    let ready = match set_up {
        Err(_) if lifeline.is_cut() => return Err(NotFound::MadeWay),
        Err(why) => return Err(trouble(why)),
        Ok(Some(failed)) => Err(failed.why.unwrap_or_default()),
        Ok(None) if cwd.is_dir() => Ok(&place),
        Ok(None) => Err(format!("there is no folder `{}`", look.working_dir)),
    };
    let found = checks::run_on_base(&look.suite(), is_missing, (ready, &looked), lifeline)?;
    guarded.was_bent().map_err(trouble)?;
    let claim = Claim {
        plan_path: look.plan_path.clone(),
        plan_sha256: look.plan_sha256.clone(),
        of: look.stage.to_string(),
        base: look.base.clone(),
        tip: look.base.clone(),
        submitted: look.base.clone(),
        commit: look.base.clone(),
        tree: tree.clone(),
    };
    let results = found.iter().map(|before| before.result.clone()).collect();
    let kept = Bundle::new(claim, results, context.operator()).keep(&place.evidence, place.work).map_err(trouble)?;
    Ok((found, Some(kept)))
}
