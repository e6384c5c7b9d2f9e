//! Effects of proof and landing.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::base::layout::Layout;
use crate::checks::{self, Bundle, Claim, Judges, Lifeline, Place, Script, Suite, Tracked, Tree};
use crate::daemon::base::{NotFound, find_out};
use crate::daemon::checkout::{Inside, Seen};
use crate::daemon::executor::{Context, Entered, Programs, plan_name};
use crate::git::{Commit, Followed, Git, GitError, Merged, Own, Reader};
use crate::model::baseline::{Baseline, Before};
use crate::model::effect::Prove;
use crate::model::event::{AloneVerdict, Entry, Event, EvidenceRef, Proof};
use crate::model::ids::{Oid, StageId};
use crate::model::judge::{Change, Side, Touched};
use crate::model::limits::SINCE_SHOWN_MAX;
use crate::model::stage::CheckResult;

pub(super) fn prove(context: &Context, prove: &Prove) -> Event {
    let mut left = Left::default();
    let proof = run_proof(context, prove, &mut left);
    // What a proof that broke off has seen until then is kept, too.
    let proof = left.keep(&context.layout).map_err(broken).and(proof).unwrap_or_else(|why| match why {
        Unproven::Stopped => Proof::Stopped,
        Unproven::Broken(why) => Proof::Broken { why },
    });
    let Left { kept, evidence, baseline, .. } = left;
    Event::Proved { entry: prove.entry.clone(), tip: prove.tip.clone(), proof, kept, evidence, baseline }
}

/// What a proof leaves behind, whatever its verdict.
#[derive(Default)]
struct Left {
    /// Digest of what the proof checkout holds.
    kept: Option<String>,
    evidence: Vec<EvidenceRef>,
    baseline: Option<Box<Baseline>>,
    /// What is evidence as soon as it is durable, and in which folder.
    bundles: Vec<(Bundle, PathBuf)>,
}

impl Left {
    fn keep(&mut self, layout: &Layout) -> std::io::Result<()> {
        for (bundle, folder) in self.bundles.drain(..) {
            self.evidence.push(bundle.keep(&folder, &layout.work)?);
        }
        Ok(())
    }
}

/// Why there is no verdict.
enum Unproven {
    /// A person has to answer a question first.
    Stopped,
    Broken(String),
}

fn broken(error: impl std::fmt::Display) -> Unproven {
    Unproven::Broken(error.to_string())
}

impl From<GitError> for Unproven {
    fn from(error: GitError) -> Unproven {
        broken(error)
    }
}

impl Programs {
    fn must_be_known(&mut self, context: &Context) -> Result<(), Unproven> {
        if self.are_known(context).map_err(broken)? { Ok(()) } else { Err(Unproven::Stopped) }
    }
}

fn run_proof(context: &Context, prove: &Prove, left: &mut Left) -> Result<Proof, Unproven> {
    let of = prove.entry.stage();
    let _proving = context.checkout.prove(of)?;
    let Entered { mut inside, git, own, mut programs } =
        context.enter(prove.kept.as_deref(), prove.programs.as_ref())?;
    let reader = git.read()?;
    let is_on_top = reader.is_ancestor(&prove.tip, &prove.commit)?;
    let tree = if is_on_top {
        reader.tree_of(&prove.commit)?
    } else {
        match inside.merge(&own, &prove.tip, &prove.commit)? {
            Merged::Clean { tree } => tree,
            Merged::Conflict { files } => {
                programs.must_be_known(context)?;
                return Ok(Proof::Conflict { files });
            }
        }
    };
    reader.verify_changes(&prove.tip, &tree)?;
    let landing = Landing::of(&reader, prove, tree)?;
    let is_base = reader.tree_of(&prove.base)? == landing.tree;
    // Commands may run from here on.
    drop(reader);
    if let Some((_, checks)) = prove.proven.as_ref().filter(|(proven, _)| *proven == landing.tree) {
        programs.must_be_known(context)?;
        let commit = landing.commit(&own)?;
        return landing.passed(&git, prove, commit, checks.clone());
    }
    let mut ground = Ground { context, inside: &mut inside, git: &git, own: &own, programs: &mut programs, prove };
    // Before the first verdict: whoever passes there already proves nothing about the stage.
    let before = match of.filter(|_| prove.compares && !is_base) {
        Some(stage) => Some(ground.base(stage, left)?),
        None => None,
    };
    // The commit is made while its tree is put into the proof checkout.
    let (commit, checkout) = std::thread::scope(|scope| {
        let checkout = scope.spawn(|| ground.inside.check_out(&own, &landing.tree));
        (landing.commit(&own), checkout.join())
    });
    let commit = commit?;
    checkout.map_err(|_| broken("the proof checkout broke off"))??;
    if let Err(why) = ground.programs.must_be_known(context) {
        // What is checked out serves whoever comes when the question is answered.
        left.kept = inside.leave(&own).ok();
        return Err(why);
    }
    let checks = ground.run_checks((&landing.tree, &commit), before.as_ref(), left)?;
    let is_green = checks.iter().all(CheckResult::holds);
    let is_same = is_green || is_on_top;
    let alone = if is_same { AloneVerdict::SameTree } else { ground.alone(before.as_ref(), left)? };
    // Evidence is synced meanwhile.
    let (evidence, kept, proof) = std::thread::scope(|scope| {
        let evidence = scope.spawn(|| left.keep(&context.layout));
        let kept = inside.leave(&own);
        let proof = if is_green {
            landing.passed(&git, prove, commit, checks)
        } else {
            // What cannot be told any more is not told.
            let last = prove.last.as_ref();
            let work = last.and_then(|last| git.work_between(last, &prove.commit, SINCE_SHOWN_MAX).ok());
            Ok(Proof::Failed { checks, alone, work: work.map(Box::new) })
        };
        (evidence.join(), kept, proof)
    });
    left.kept = Some(kept?);
    evidence.map_err(|_| broken("keeping the evidence broke off"))?.map_err(broken)?;
    proof
}

/// Where a proof takes place.
struct Ground<'a> {
    context: &'a Context,
    inside: &'a mut Inside,
    git: &'a Git,
    own: &'a Own,
    programs: &'a mut Programs,
    prove: &'a Prove,
}

/// What would land.
struct Landing<'a> {
    tree: Oid,
    parents: [&'a Oid; 2],
    message: &'a str,
    date: i64,
    identity: (String, String),
}

impl<'a> Landing<'a> {
    fn of(reader: &Reader, prove: &'a Prove, tree: Oid) -> Result<Landing<'a>, GitError> {
        // The user's own commits say themselves when they were made.
        let date = match &prove.entry {
            Entry::Base => reader.time_of(&prove.commit)?,
            Entry::Stage { .. } | Entry::Again { .. } => prove.date,
        };
        let parents = [&prove.tip, &prove.commit];
        Ok(Landing { tree, parents, message: &prove.message, date, identity: reader.identity() })
    }

    fn commit(&self, own: &Own) -> Result<Oid, GitError> {
        let commit = Commit { tree: &self.tree, parents: &self.parents, message: self.message, date: self.date };
        own.commit(&commit, (&self.identity.0, &self.identity.1))
    }

    /// A green verdict, with what only a person may let through.
    fn passed(self, git: &Git, prove: &Prove, landing: Oid, checks: Vec<CheckResult>) -> Result<Proof, Unproven> {
        let changes_nothing = git.tree_of(&prove.tip)? == self.tree;
        let judges = match &prove.entry {
            // What a person commits themselves needs no other person.
            Entry::Base | Entry::Again { .. } => Vec::new(),
            Entry::Stage { .. } => touched(git, prove, &self.tree)?,
        };
        Ok(Proof::Passed { landing, tree: self.tree, checks, judges, changes_nothing })
    }
}

/// What the commands that decide about the work execute: what prepares the checks decides with them.
fn executed(prove: &Prove, script: &dyn Fn(&str) -> Option<Script>) -> Vec<String> {
    let checks = |from_top: bool| {
        prove.checks.iter().filter(move |check| check.from_top == from_top).map(|check| check.command.clone())
    };
    let setup = prove.setup.iter().flat_map(|setup| setup.commands.iter().cloned());
    let stages: Vec<String> = checks(false).chain(prove.criteria.commands().map(str::to_owned)).chain(setup).collect();
    let plans: Vec<String> = checks(true).chain(prove.impact.iter().map(|impact| impact.now().to_owned())).collect();
    let mut found = checks::executed(&stages, &prove.working_dir, script);
    found.extend(checks::executed(&plans, ".", script));
    found
}

/// Globs of what the plan asks the stage to write, from the top of the tree.
fn asked(prove: &Prove) -> Vec<String> {
    let criteria = &prove.criteria;
    let regression = criteria.regression_test.iter().map(|test| &test.file);
    let dir = prove.working_dir.trim_start_matches("./").trim_end_matches('/');
    let below = |path: &String| if matches!(dir, "" | ".") { path.clone() } else { format!("{dir}/{path}") };
    criteria.artifacts.iter().chain(regression).map(below).collect()
}

/// Files that judge, as far as landing `tree` would change them on the plan branch.
fn touched(git: &Git, prove: &Prove, tree: &Oid) -> Result<Vec<Touched>, GitError> {
    let changes = git.changes(&prove.tip, tree)?;
    let script = |path: &str| {
        let (mode, text) = changes.before(path)?;
        Some(if mode == 0o120_000 { Script::Link(text) } else { Script::Text(text) })
    };
    let judges = Judges {
        protected: prove.protected.clone(),
        files: prove.files.clone(),
        asked: asked(prove),
        run: executed(prove, &script),
        plan: Some(prove.plan_path.clone()),
    };
    let text = |change: &Change| {
        let of = |side: &Option<Side>| side.as_ref().and_then(|side| changes.text(side));
        (of(&change.old), of(&change.new))
    };
    let mut touched = checks::touched(&changes.list, &text, &judges);
    let is_new = |change: &&Change| change.old.is_none() && change.new.is_some();
    let is_named = |path: &String| judges.files.contains(path) || judges.asked.contains(path);
    let new = changes.list.iter().filter(is_new).map(|change| &change.path);
    let new = new.filter(|path| !is_named(path) && !touched.iter().any(|touched| touched.path == **path));
    let new: Vec<&str> = new.map(String::as_str).collect();
    if !new.is_empty() {
        let why = "git ignores it where it lands: it can stand in for what `setup` or a build makes, new";
        let ignored = git.ignored(&prove.tip, &new)?;
        touched.extend(ignored.into_iter().map(|path| Touched { path, why: why.to_owned() }));
    }
    Ok(touched)
}

fn claim(prove: &Prove, of: &str, commit: &Oid, tree: &Oid) -> Claim {
    Claim {
        plan_path: prove.plan_path.clone(),
        plan_sha256: prove.plan_sha256.clone(),
        of: of.to_owned(),
        base: prove.base.clone(),
        tip: prove.tip.clone(),
        submitted: prove.commit.clone(),
        commit: commit.clone(),
        tree: tree.clone(),
    }
}

/// A folder that no other verdict has used.
pub(super) fn evidence_folder(layout: &Layout, of: &str, commit: &Oid) -> PathBuf {
    let dir = layout.evidence_of(of, commit);
    (1..).map(|n| dir.join(n.to_string())).find(|dir| !dir.exists()).unwrap_or(dir)
}

/// The files that differ from the commit `base`, and are there.
pub(super) fn touched_paths(git: &Git, base: &Oid, tree: &Oid) -> Result<BTreeSet<String>, GitError> {
    let changes = git.changes(base, tree)?;
    Ok(changes.list.into_iter().filter(|change| change.new.is_some()).map(|change| change.path).collect())
}

impl Ground<'_> {
    /// What the checks did on the stage's base.
    fn base(&mut self, stage: &StageId, left: &mut Left) -> Result<Baseline, Unproven> {
        let look = self.prove.look(stage);
        let ground = (&mut *self.inside, self.git, self.own, &mut *self.programs);
        let found = find_out(self.context, ground, &look, &Lifeline::default()).map_err(|why| match why {
            NotFound::Asked => Unproven::Stopped,
            NotFound::Trouble(why) => broken(format!("on the stage's base: {why}")),
            NotFound::MadeWay => broken("the look at the stage's base was ended"),
        })?;
        left.evidence.extend(found.evidence);
        left.baseline = found.is_new.then(|| Box::new(found.baseline.clone()));
        Ok(found.baseline)
    }

    /// Whether the work passes by itself, without what others have landed.
    fn alone(&mut self, before: Option<&Baseline>, left: &mut Left) -> Result<AloneVerdict, Unproven> {
        let tree = self.git.tree_of(&self.prove.commit)?;
        self.inside.check_out(self.own, &tree)?;
        let results = self.run_checks((&tree, &self.prove.commit), before, left)?;
        let passes = results.iter().all(CheckResult::holds);
        Ok(if passes { AloneVerdict::PassesAlone } else { AloneVerdict::AlsoFails })
    }

    /// Runs the checks in the proof checkout, which holds the tree of `commit`. The programs on `PATH`
    /// are known.
    fn run_checks(
        &mut self,
        (tree, commit): (&Oid, &Oid),
        before: Option<&Baseline>,
        left: &mut Left,
    ) -> Result<Vec<CheckResult>, Unproven> {
        let Ground { context, own, prove, .. } = self;
        own.show_head(commit).map_err(broken)?;
        let environment = context.operator().prepare(&own.home).map_err(broken)?;
        let entry = prove.entry.stage().map_or("_base", StageId::as_str);
        let evidence = evidence_folder(&context.layout, entry, commit);
        let cwd = own.proof.join(&prove.working_dir);
        if !cwd.is_dir() {
            return Err(broken(format!("the working_dir `{}` is not in the tree", prove.working_dir)));
        }
        let needed = (tree, evidence.as_path(), &Lifeline::default());
        let set_up =
            super::setup::in_proof(&context.layout, own, context.operator(), &prove.setup, needed).map_err(broken)?;
        if let Some(failed) = set_up {
            return Ok(vec![failed]);
        }
        let files = own.files().map_err(broken)?;
        let guarded = own.guard(self.git, tree).map_err(broken)?;
        let put_back = || guarded.put_back();
        let tracked = Some(Tracked { root: &own.proof, files: &files, put_back: &put_back });
        let place = Place { cwd: &cwd, work: &context.layout.work, evidence, environment, tracked };
        let suite = Suite { checks: &prove.checks, criteria: &prove.criteria, impact: prove.impact.as_ref() };
        // What others have landed meanwhile is not the stage's work.
        let is_landing = matches!(prove.entry, Entry::Stage { .. }) && *commit != prove.commit;
        let since = if is_landing { &prove.tip } else { &prove.base };
        let touched = touched_paths(self.git, since, tree).map_err(broken)?;
        let looked = Tree { root: &own.proof, files: &files, touched: &touched, working_dir: &prove.working_dir };
        let mut results = checks::run_all(&suite, &place, &looked).map_err(broken)?;
        if guarded.was_bent().map_err(broken)? {
            checks::distrust(&mut results);
        }
        let environment = checks::conditions(context.operator(), &prove.setup);
        let seen = |key: String| Seen {
            tree: tree.clone(),
            working_dir: prove.working_dir.clone(),
            environment: environment.clone(),
            key,
        };
        let keyed: Vec<Before> =
            suite.keys_now().into_iter().zip(results.clone()).map(|(key, result)| Before { key, result }).collect();
        for before in &keyed {
            self.inside.remember(seen(before.key.clone()), &before.result);
        }
        if prove.compares {
            suite.compare(&mut results, before.map_or(&keyed, |before| &before.checks));
        }
        let claim = claim(prove, entry, commit, tree);
        left.bundles.push((Bundle::new(claim, results.clone(), context.operator()), place.evidence));
        Ok(results)
    }
}

pub(super) fn land(context: &Context, entry: Entry, branch: &str, tip: Oid, landing: Oid) -> Event {
    match move_branch(context, branch, &tip, &landing) {
        Ok(Moved::Here) => Event::Landed { entry, tip, landing },
        Ok(Moved::Elsewhere(why)) => Event::LandRefused { entry, moved: true, why },
        Ok(Moved::Not(why)) => Event::LandRefused { entry, moved: false, why },
        // It may have moved all the same: the branch says, and where it cannot be asked the
        // landing stays under way and is tried again.
        Err(error) => match has_landed(context, branch, &landing) {
            Ok(true) => Event::Landed { entry, tip, landing },
            Ok(false) => Event::LandRefused { entry, moved: false, why: error.to_string() },
            Err(_) => Event::EffectFailed { effect: "land", why: error.to_string() },
        },
    }
}

/// Whether the branch holds the landing: also when somebody has committed on top of it before
/// it was recorded.
fn has_landed(context: &Context, branch: &str, landing: &Oid) -> Result<bool, GitError> {
    let git = context.git()?;
    match git.tip(&format!("refs/heads/{branch}"))? {
        Some(now) => git.is_ancestor(landing, &now),
        None => Ok(false),
    }
}

enum Moved {
    Here,
    /// The branch is where Loom did not leave it.
    Elsewhere(String),
    Not(String),
}

fn move_branch(context: &Context, branch: &str, tip: &Oid, landing: &Oid) -> Result<Moved, GitError> {
    let git = context.git()?;
    let name = format!("refs/heads/{branch}");
    if git.tip_quickly(&name)?.as_ref() != Some(tip) {
        if has_landed(context, branch, landing)? {
            git.settle_ref(&name)?;
            return Ok(Moved::Here);
        }
        return Ok(Moved::Elsewhere(format!("`{branch}` is not at {}", tip.short())));
    }
    if git.checked_out_at(branch)?.is_some() {
        if let Some(head) = context.head() {
            git.anchor(&head)?;
        }
        return Ok(match git.follow(branch, landing)? {
            Followed::Moved => Moved::Here,
            Followed::Stayed { why } => {
                Moved::Not(format!("the plan branch is checked out and cannot be moved: {why}"))
            }
        });
    }
    git.land(&name, tip, landing, context.head().as_ref())?;
    Ok(Moved::Here)
}

pub(super) fn restore_plan_branch(
    context: &Context,
    branch: &str,
    actual: Option<&Oid>,
    expected: &Oid,
) -> Result<(), GitError> {
    let git = context.git()?;
    let name = format!("refs/heads/{branch}");
    if let Some(actual) = actual {
        git.rescue_commit(&plan_name(), actual, Some(&name))?;
    }
    git.swap_ref(&name, actual, expected, "loom: put the plan branch back")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::layout::Layout;
    use crate::base::process::command;

    #[test]
    fn a_landing_that_somebody_has_committed_on_top_of_is_not_landed_again() {
        let dir = tempfile::tempdir().unwrap();
        let git = |args: &[&str]| {
            let who = ["-c", "user.name=n", "-c", "user.email=e@e", "-c", "commit.gpgsign=false"];
            let output = command("git").current_dir(dir.path()).args(who).args(args).output().unwrap();
            assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        };
        git(&["init", "-q", "-b", "main"]);
        let mut made = Vec::new();
        for name in ["tip", "landing", "foreign"] {
            git(&["commit", "-q", "--allow-empty", "-m", name]);
            made.push(Oid::new(git(&["rev-parse", "HEAD"])).unwrap());
        }
        git(&["branch", "loom/_plan/p"]);
        let (sender, _inbox) = std::sync::mpsc::channel();
        let executor = crate::daemon::executor::Executor::new(Layout::new(dir.path()), sender);
        let moved = move_branch(executor.context(), "loom/_plan/p", &made[0], &made[1]).unwrap();
        assert!(matches!(moved, Moved::Here));
        assert_eq!(git(&["rev-parse", "loom/_plan/p"]), made[2].as_str());
        // One that is not in it was moved away from under the landing.
        git(&["branch", "-f", "loom/_plan/p", made[0].as_str()]);
        let other = Oid::new("a".repeat(40)).unwrap();
        let moved = move_branch(executor.context(), "loom/_plan/p", &made[1], &other).unwrap();
        assert!(matches!(moved, Moved::Elsewhere(_)));
    }
}
