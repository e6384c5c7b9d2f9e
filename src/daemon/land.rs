//! Effects of proof and landing.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::base::layout::Layout;
use crate::checks::{self, Bundle, Claim, Judges, Lifeline, Place, Script, Suite, Tracked, Tree};
use crate::daemon::base::{NotFound, find_out};
use crate::daemon::checkout::{Inside, Seen};
use crate::daemon::executor::{Context, plan_name};
use crate::git::{Commit, Followed, Git, GitError, Merged, Own};
use crate::model::baseline::{Baseline, Before};
use crate::model::effect::Prove;
use crate::model::event::{AloneVerdict, Entry, Event, EvidenceRef, Proof};
use crate::model::ids::{Oid, StageId};
use crate::model::judge::{Change, Side, Touched};
use crate::model::limits::SINCE_SHOWN_MAX;
use crate::model::stage::CheckResult;

pub(super) fn prove(context: &Context, prove: &Prove) -> Event {
    let mut left = Left::default();
    let proof = run_proof(context, prove, &mut left).unwrap_or_else(|why| Proof::Broken { why });
    let Left { kept, evidence, baseline } = left;
    Event::Proved { entry: prove.entry.clone(), tip: prove.tip.clone(), proof, kept, evidence, baseline }
}

/// What a proof leaves behind, whatever its verdict.
#[derive(Default)]
struct Left {
    /// Digest of what the proof checkout holds.
    kept: Option<String>,
    evidence: Vec<EvidenceRef>,
    baseline: Option<Box<Baseline>>,
}

fn run_proof(context: &Context, prove: &Prove, left: &mut Left) -> Result<Proof, String> {
    let text = |error: GitError| error.to_string();
    let of = match &prove.entry {
        Entry::Stage { stage } | Entry::Again { stage } => Some(stage),
        Entry::Base => None,
    };
    let _proving = context.checkout.prove(of).map_err(text)?;
    let entered = context.enter(prove.kept.as_deref(), prove.programs.as_ref())?;
    let Some((mut inside, git, own)) = entered else { return Ok(Proof::Stopped) };
    let is_on_top = git.is_ancestor(&prove.tip, &prove.commit).map_err(text)?;
    let tree = if is_on_top {
        git.tree_of(&prove.commit).map_err(text)?
    } else {
        match own.merge(&prove.tip, &prove.commit).map_err(text)? {
            Merged::Clean { tree } => tree,
            Merged::Conflict { files } => return Ok(Proof::Conflict { files }),
        }
    };
    git.verify_changes(&prove.tip, &tree).map_err(text)?;
    let landing = Landing::of(&git, prove, tree)?;
    if let Some((_, checks)) = prove.proven.as_ref().filter(|(proven, _)| *proven == landing.tree) {
        let commit = landing.commit(&own)?;
        return landing.passed(&git, prove, commit, checks.clone());
    }
    let mut ground = Ground { context, inside: &mut inside, git: &git, own: &own, prove };
    // Before the first verdict: whoever passes there already proves nothing about the stage.
    let before = ground.base(of, &landing.tree, left)?;
    // The commit is made while its tree is put into the proof checkout.
    let (commit, checkout) = std::thread::scope(|scope| {
        let checkout = scope.spawn(|| ground.inside.check_out(&own, &landing.tree));
        (landing.commit(&own), checkout.join())
    });
    let commit = commit?;
    checkout.map_err(|_| "the proof checkout broke off".to_owned())?.map_err(text)?;
    let checks = ground.run_checks((&landing.tree, &commit), before.as_ref(), left)?;
    let is_green = checks.iter().all(CheckResult::holds);
    let alone = if is_green || is_on_top {
        AloneVerdict::SameTree
    } else {
        let own_tree = git.tree_of(&prove.commit).map_err(text)?;
        ground.inside.check_out(&own, &own_tree).map_err(text)?;
        let results = ground.run_checks((&own_tree, &prove.commit), before.as_ref(), left)?;
        if results.iter().all(CheckResult::holds) { AloneVerdict::PassesAlone } else { AloneVerdict::AlsoFails }
    };
    left.kept = Some(inside.leave(&own).map_err(text)?);
    if is_green {
        return landing.passed(&git, prove, commit, checks);
    }
    // What cannot be told any more is not told.
    let work = prove.last.as_ref().and_then(|last| git.work_between(last, &prove.commit, SINCE_SHOWN_MAX).ok());
    Ok(Proof::Failed { checks, alone, work: work.map(Box::new) })
}

/// Where a proof takes place.
struct Ground<'a> {
    context: &'a Context,
    inside: &'a mut Inside,
    git: &'a Git,
    own: &'a Own,
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
    fn of(git: &Git, prove: &'a Prove, tree: Oid) -> Result<Landing<'a>, String> {
        // The user's own commits say themselves when they were made.
        let date = match &prove.entry {
            Entry::Base => git.time_of(&prove.commit).map_err(|error| error.to_string())?,
            Entry::Stage { .. } | Entry::Again { .. } => prove.date,
        };
        let parents = [&prove.tip, &prove.commit];
        Ok(Landing { tree, parents, message: &prove.message, date, identity: git.identity() })
    }

    fn commit(&self, own: &Own) -> Result<Oid, String> {
        let commit = Commit { tree: &self.tree, parents: &self.parents, message: self.message, date: self.date };
        own.commit(&commit, (&self.identity.0, &self.identity.1)).map_err(|error| error.to_string())
    }

    /// A green verdict, with what only a person may let through.
    fn passed(self, git: &Git, prove: &Prove, landing: Oid, checks: Vec<CheckResult>) -> Result<Proof, String> {
        let text = |error: GitError| error.to_string();
        let changes_nothing = git.tree_of(&prove.tip).map_err(text)? == self.tree;
        let judges = match &prove.entry {
            // What a person commits themselves needs no other person.
            Entry::Base | Entry::Again { .. } => Vec::new(),
            Entry::Stage { .. } => touched(git, prove, &self.tree).map_err(text)?,
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
    /// What the checks did on the stage's base. None: nothing is compared with it, or it is what is
    /// about to be proven.
    fn base(&mut self, of: Option<&StageId>, tree: &Oid, left: &mut Left) -> Result<Option<Baseline>, String> {
        let Some(stage) = of.filter(|_| self.prove.compares) else { return Ok(None) };
        if self.git.tree_of(&self.prove.base).map_err(|error| error.to_string())? == *tree {
            return Ok(None);
        }
        let look = self.prove.look(stage);
        let found = find_out(self.context, (self.inside, self.git, self.own), &look, &Lifeline::default());
        let found = found.map_err(|why| match why {
            NotFound::Trouble(why) => format!("on the stage's base: {why}"),
            NotFound::MadeWay => "the look at the stage's base was ended".to_owned(),
        })?;
        left.evidence.extend(found.evidence);
        left.baseline = found.is_new.then(|| Box::new(found.baseline.clone()));
        Ok(Some(found.baseline))
    }

    /// Runs the checks in the proof checkout, which holds the tree of `commit`.
    fn run_checks(
        &mut self,
        (tree, commit): (&Oid, &Oid),
        before: Option<&Baseline>,
        left: &mut Left,
    ) -> Result<Vec<CheckResult>, String> {
        let Ground { context, own, prove, .. } = self;
        own.show_head(commit).map_err(|error| error.to_string())?;
        let environment = context.operator().prepare(&own.home).map_err(|error| error.to_string())?;
        let entry = match &prove.entry {
            Entry::Stage { stage } | Entry::Again { stage } => stage.as_str(),
            Entry::Base => "_base",
        };
        let evidence = evidence_folder(&context.layout, entry, commit);
        let cwd = own.proof.join(&prove.working_dir);
        if !cwd.is_dir() {
            return Err(format!("the working_dir `{}` is not in the tree", prove.working_dir));
        }
        let needed = (tree, evidence.as_path(), &Lifeline::default());
        let set_up = super::setup::in_proof(&context.layout, own, context.operator(), &prove.setup, needed)?;
        if let Some(failed) = set_up {
            return Ok(vec![failed]);
        }
        let files = own.files().map_err(|error| error.to_string())?;
        let guarded = own.guard(self.git, tree).map_err(|error| error.to_string())?;
        let put_back = || guarded.put_back();
        let tracked = Some(Tracked { root: &own.proof, files: &files, put_back: &put_back });
        let place = Place { cwd: &cwd, work: &context.layout.work, evidence, environment, tracked };
        let suite = Suite { checks: &prove.checks, criteria: &prove.criteria, impact: prove.impact.as_ref() };
        // What others have landed meanwhile is not the stage's work.
        let is_landing = matches!(prove.entry, Entry::Stage { .. }) && *commit != prove.commit;
        let since = if is_landing { &prove.tip } else { &prove.base };
        let touched = touched_paths(self.git, since, tree).map_err(|error| error.to_string())?;
        let looked = Tree { root: &own.proof, files: &files, touched: &touched, working_dir: &prove.working_dir };
        let mut results = checks::run_all(&suite, &place, &looked).map_err(|error| error.to_string())?;
        if guarded.was_bent().map_err(|error| error.to_string())? {
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
        let claim = Claim {
            plan_path: prove.plan_path.clone(),
            plan_sha256: prove.plan_sha256.clone(),
            of: entry.to_owned(),
            base: prove.base.clone(),
            tip: prove.tip.clone(),
            submitted: prove.commit.clone(),
            commit: commit.clone(),
            tree: tree.clone(),
        };
        let bundle = Bundle::new(claim, results.clone(), context.operator());
        left.evidence.push(bundle.keep(&place).map_err(|error| error.to_string())?);
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
    let now = git.tip(&name)?;
    if has_landed(context, branch, landing)? {
        git.settle_ref(&name)?;
        return Ok(Moved::Here);
    }
    if now.as_ref() != Some(tip) {
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
