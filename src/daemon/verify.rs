//! `loom verify`: a proof that decides nothing. A stage's work, merged with the plan
//! branch, in a fresh checkout that nobody has used before; and a bundle of
//! evidence, held against the repository.

use std::path::{Path, PathBuf};

use crate::base::layout::Layout;
use crate::base::text::sha256;
use crate::checks::{self, Bundle, Claim, Lifeline, Operator, Place, Suite, Tracked, Tree};
use crate::daemon::land::{evidence_folder, touched_paths};
use crate::daemon::setup;
use crate::git::{Git, Listing, Merged, Own};
use crate::journal;
use crate::kernel::world::{Run, Stage};
use crate::model::baseline::Before;
use crate::model::check::Setup;
use crate::model::fact::Fact;
use crate::model::ids::Oid;
use crate::model::plan::{Plan, StageSpec, stage_branch};
use crate::model::stage::{CheckResult, StageState};

/// What a look at a stage found.
#[derive(Debug)]
pub struct Verified {
    /// The commit that was looked at.
    pub commit: Oid,
    /// Where its evidence is.
    pub bundle: PathBuf,
    pub checks: Vec<CheckResult>,
}

/// Why a stage or a bundle cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("stage `{0}` has no commit to look at yet")]
    NothingYet(String),
    #[error("it conflicts with the plan branch in {0}")]
    Conflict(String),
    #[error("{0}")]
    Setup(String),
    #[error("the working_dir `{0}` is not in the tree")]
    NoFolder(String),
    #[error("{path} is not a bundle of evidence: {why}")]
    NoBundle { path: String, why: String },
    #[error(transparent)]
    Git(#[from] crate::git::GitError),
    #[error(transparent)]
    Checks(#[from] checks::CheckError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Runs all checks of a stage now, in a checkout of its own that is removed afterwards.
pub fn verify_stage(layout: &Layout, git: &Git, run: &Run, stage: &Stage) -> Result<Verified, VerifyError> {
    let id = &stage.spec.id;
    let base = stage.base.clone().unwrap_or_else(|| run.base.clone());
    let tip = run.tip.clone().unwrap_or_else(|| run.base.clone());
    let submitted = match &stage.state {
        StageState::Merged { landed, .. } => Some(landed.clone()),
        _ => git.tip(&format!("refs/heads/{}", stage_branch(id)))?,
    };
    let submitted = submitted.ok_or_else(|| VerifyError::NothingYet(id.to_string()))?;
    fs_err::create_dir_all(layout.cache())?;
    let fresh = tempfile::Builder::new().prefix("verify-").tempdir_in(layout.cache())?;
    let own = Own::open(git, fresh.path())?;
    let is_alone = matches!(stage.state, StageState::Merged { .. }) || git.is_ancestor(&tip, &submitted)?;
    let tree = match is_alone {
        true => git.tree_of(&submitted)?,
        false => match own.merge(&tip, &submitted)? {
            Merged::Clean { tree } => tree,
            Merged::Conflict { files } => return Err(VerifyError::Conflict(crate::kernel::text::some_files(&files))),
        },
    };
    own.check_out(&tree)?;
    Listing::default().verify(&own, &tree)?;
    own.show_head(&submitted)?;
    let operator = Operator::record(&[&layout.worktrees(), &layout.cache()]);
    let cwd = own.proof.join(&stage.spec.working_dir);
    if !cwd.is_dir() {
        return Err(VerifyError::NoFolder(stage.spec.working_dir.clone()));
    }
    let place = Place {
        cwd: &cwd,
        work: &layout.work,
        evidence: evidence_folder(layout, id.as_str(), &submitted),
        environment: operator.prepare(&own.home)?,
        tracked: None,
    };
    let setups = setups_of(&stage.spec);
    if let Some(failed) =
        setup::in_proof(layout, &own, &operator, &setups, (&tree, &place.evidence, &Lifeline::default()))
            .map_err(VerifyError::Setup)?
    {
        return Ok(Verified { commit: submitted, bundle: place.evidence.clone(), checks: vec![failed] });
    }
    let all = run.checks_of(stage);
    let suite = Suite { checks: &all, criteria: &stage.spec.criteria, impact: run.impact_of(stage) };
    let (files, touched) = (own.files()?, touched_paths(git, &base, &tree)?);
    let looked = Tree { root: &own.proof, files: &files, touched: &touched, working_dir: &stage.spec.working_dir };
    let put_back = || own.put_back(&tree).map_err(std::io::Error::other);
    let tracked = Some(Tracked { root: &own.proof, files: &files, put_back: &put_back });
    let mut results = checks::run_all(&suite, &Place { tracked, ..place.clone() }, &looked)?;
    if run.needs_baseline(stage) {
        let before = on_base((layout, git, &own), (stage, &base), (&suite, &operator, &setups), &place)?;
        suite.compare(&mut results, &before);
    }
    let claim = Claim {
        plan_path: run.source.path.clone(),
        plan_sha256: run.source.sha256.clone(),
        of: id.to_string(),
        base,
        tip,
        submitted: submitted.clone(),
        commit: submitted.clone(),
        tree,
    };
    let kept = Bundle::new(claim, results.clone(), &operator).keep(&place.evidence, place.work)?;
    Ok(Verified { commit: submitted, bundle: layout.work.join(kept.path), checks: results })
}

/// The stages of a plan that nobody has begun of which every check passes at `commit` already. Runs
/// their commands in a checkout of its own that is removed afterwards.
pub fn passing_without(layout: &Layout, git: &Git, plan: &Plan, commit: &Oid) -> Result<Vec<String>, VerifyError> {
    fs_err::create_dir_all(layout.cache())?;
    let fresh = tempfile::Builder::new().prefix("verify-").tempdir_in(layout.cache())?;
    let own = Own::open(git, fresh.path())?;
    let tree = git.tree_of(commit)?;
    own.check_out(&tree)?;
    own.show_head(commit)?;
    let operator = Operator::record(&[&layout.worktrees(), &layout.cache()]);
    let (files, touched) = (own.files()?, std::collections::BTreeSet::new());
    let put_back = || own.put_back(&tree).map_err(std::io::Error::other);
    let mut known = std::collections::HashMap::new();
    let mut passing = Vec::new();
    for spec in plan.stages.iter().filter(|spec| !spec.stage_type.may_change_nothing()) {
        let cwd = own.proof.join(&spec.working_dir);
        let evidence = fresh.path().join("evidence");
        let setups = setups_of(spec);
        let needed = (&tree, evidence.as_path(), &Lifeline::default());
        // Where nothing can run, nothing passes.
        if !cwd.is_dir()
            || setup::in_proof(layout, &own, &operator, &setups, needed).map_err(VerifyError::Setup)?.is_some()
        {
            continue;
        }
        let tracked = Some(Tracked { root: &own.proof, files: &files, put_back: &put_back });
        let environment = operator.prepare(&own.home)?;
        let place = Place { cwd: &cwd, work: fresh.path(), evidence, environment, tracked };
        let looked = Tree { root: &own.proof, files: &files, touched: &touched, working_dir: &spec.working_dir };
        let suite = Suite { checks: &spec.checks, criteria: &spec.criteria, impact: None };
        if checks::passes_without(&suite, &place, &looked, &mut known)? {
            passing.push(spec.id.to_string());
        }
    }
    Ok(passing)
}

/// The setup of a stage, if it has one.
fn setups_of(spec: &StageSpec) -> Vec<Setup> {
    let setup = Setup { commands: spec.setup.clone(), working_dir: spec.working_dir.clone() };
    Some(setup).filter(|setup| !setup.commands.is_empty()).into_iter().collect()
}

/// What the checks do on the stage's base: as it is known, when all of it is, else as it is found out now.
fn on_base(
    (layout, git, own): (&Layout, &Git, &Own),
    (stage, base): (&Stage, &Oid),
    (suite, operator, setups): (&Suite, &Operator, &[Setup]),
    place: &Place,
) -> Result<Vec<Before>, VerifyError> {
    let keys = suite.keys();
    let known = stage
        .baseline
        .as_ref()
        .filter(|known| known.base == *base && known.environment == checks::conditions(operator, setups));
    let known = known.map(|known| &known.checks);
    if let Some(known) = known.filter(|known| keys.iter().all(|key| known.iter().any(|before| before.key == *key))) {
        return Ok(known.clone());
    }
    let tree = git.tree_of(base)?;
    own.check_out(&tree)?;
    own.show_head(base)?;
    let evidence = place.evidence.join("base");
    let set_up = setup::in_proof(layout, own, operator, setups, (&tree, &evidence, &Lifeline::default()));
    let (files, touched) = (own.files()?, std::collections::BTreeSet::new());
    let looked = Tree { root: &own.proof, files: &files, touched: &touched, working_dir: &stage.spec.working_dir };
    let put_back = || own.put_back(&tree).map_err(std::io::Error::other);
    let tracked = Some(Tracked { root: &own.proof, files: &files, put_back: &put_back });
    let place = Place { evidence, tracked, ..place.clone() };
    let place = match set_up.map_err(VerifyError::Setup)? {
        Some(failed) => Err(failed.why.unwrap_or_default()),
        None if place.cwd.is_dir() => Ok(&place),
        None => Err(format!("there is no folder `{}`", stage.spec.working_dir)),
    };
    Ok(checks::run_on_base(suite, &|_| true, (place, &looked), &Lifeline::default())?)
}

/// A bundle of evidence, held against the repository.
#[derive(Debug)]
pub struct Held {
    pub bundle: Bundle,
    /// What is wrong with it, by itself, and against git and the journal. Nothing: it holds.
    pub wrong: Vec<String>,
    /// Whether the journal has its digest: then it is that of a verdict, and as Loom wrote it.
    pub is_recorded: bool,
}

/// What the journal says of the bundle at `path`: the digests under this path, and whether one of
/// any path is `digest`.
fn recorded(layout: &Layout, path: &Path, digest: &str) -> (Vec<String>, bool) {
    let below = |path: &Path| {
        Some(path.canonicalize().ok()?.strip_prefix(layout.work.canonicalize().ok()?).ok()?.to_path_buf())
    };
    let below = below(path);
    let (mut here, mut is_known) = (Vec::new(), false);
    let journal = layout.journal();
    let bytes = journal::bytes(&journal).unwrap_or_default();
    journal::scan(&bytes, &journal, None, |line| {
        for fact in line.record.facts {
            let Fact::EvidenceKept { evidence } = fact else { continue };
            is_known |= evidence.sha256 == digest;
            if below.as_deref() == Some(Path::new(&evidence.path)) {
                here.push(evidence.sha256);
            }
        }
    });
    (here, is_known)
}

/// Looks at a bundle, by itself and against the repository and the journal.
pub fn verify_bundle(layout: &Layout, git: &Git, path: &Path) -> Result<Held, VerifyError> {
    let no = |why: String| VerifyError::NoBundle { path: path.display().to_string(), why };
    let bytes = fs_err::read(path).map_err(|error| no(error.to_string()))?;
    let bundle: Bundle = serde_json::from_slice(&bytes).map_err(|error| no(error.to_string()))?;
    let mut wrong = bundle.complaints(path.parent().unwrap_or(Path::new(".")));
    let (here, is_recorded) = recorded(layout, path, &sha256(&bytes));
    if !here.is_empty() && !is_recorded {
        wrong.push("it is not what Loom wrote: the journal has another digest of it".to_owned());
    }
    let claim = &bundle.claim;
    for (what, commit) in [("base", &claim.base), ("tip", &claim.tip), ("submitted commit", &claim.submitted)] {
        if git.tree_of(commit).is_err() {
            wrong.push(format!("its {what} {} is not in this repository", commit.short()));
        }
    }
    match git.tree_of(&claim.commit) {
        Ok(tree) if tree == claim.tree => {}
        // A red verdict is about a commit that was never made, or that nobody kept.
        Err(_) if !bundle.passed => {}
        // Looked at by hand: the tree is the merge, which no commit has.
        Ok(_) if claim.commit == claim.submitted => {}
        Ok(tree) => wrong.push(format!(
            "{} has the tree {} and not the one that was checked",
            claim.commit.short(),
            tree.short()
        )),
        Err(_) => wrong.push(format!("the commit {} that was checked is not in this repository", claim.commit.short())),
    }
    if !git.is_ancestor(&claim.base, &claim.submitted).unwrap_or(false) {
        wrong.push(format!("{} does not come from its base {}", claim.submitted.short(), claim.base.short()));
    }
    if let Ok(plan) = fs_err::read(git.project.join(&claim.plan_path))
        && sha256(&plan) != claim.plan_sha256
    {
        wrong.push(format!("{} is not the plan that it was checked by: it has changed since", claim.plan_path));
    }
    Ok(Held { bundle, wrong, is_recorded })
}
