//! `loom verify <stage> --suggest`: what the plan of a stage could ask for, from what its commit
//! changed and what the repository is made of. Nothing is run.

use serde_json::json;

use crate::cli::args::VerifyStage;
use crate::cli::failure::{Failure, exit};
use crate::cli::place::Place;
use crate::cli::ui;
use crate::git::{Git, GitError};
use crate::kernel::world::{Run, Stage};
use crate::model::ids::Oid;
use crate::model::plan::{StageSpec, stage_branch};
use crate::model::stage::StageState;
use crate::planfile::{Changed, Seen, Suggestion, Tree, look, suggest};

/// Everything that is suggested for a stage.
struct Suggested {
    commit: Oid,
    changed: usize,
    seen: Seen,
    checks: Vec<Suggestion>,
}

pub fn run(place: &Place, run: &Run, stage: &Stage, args: &VerifyStage) -> Result<u8, Failure> {
    let id = &stage.spec.id;
    let Some(commit) = commit_of(&place.git, stage).map_err(internal)? else {
        let what = format!("stage `{id}` has no commit to look at yet");
        return Err(Failure::user(what).hint(format!("loom status {id}")));
    };
    let base = stage.base.clone().unwrap_or_else(|| run.base.clone());
    let found = find(&place.git, &stage.spec, &base, commit).map_err(internal)?;
    if args.json {
        let acceptance = found.checks.iter().map(|one| json!({"command": one.item, "why": one.why}));
        ui::json(&json!({
            "version": 1, "stage": id, "commit": found.commit,
            "artifacts": found.seen.made, "wiring": found.seen.links,
            "acceptance": acceptance.collect::<Vec<_>>(), "unused": found.seen.unused,
        }));
        return Ok(exit::OK);
    }
    let files = crate::base::text::count(found.changed, "file");
    ui::note(format!("stage `{id}` at {} changed {files}; its plan could ask for:", found.commit.short()));
    ui::data(&yaml(&found));
    for one in &found.seen.unused {
        let what = one.name.as_deref().map_or("this new file".to_owned(), |name| format!("`{name}`"));
        ui::note(format!("{}: nothing uses {what} yet", one.file));
    }
    ui::note("Next: take over what fits, then loom plan verify <plan> --strict, and loom plan apply <plan>");
    Ok(exit::OK)
}

fn internal(error: GitError) -> Failure {
    Failure::new(exit::INTERNAL, error.to_string())
}

/// The stage's own commit: what landed, or the tip of its branch.
fn commit_of(git: &Git, stage: &Stage) -> Result<Option<Oid>, GitError> {
    match &stage.state {
        StageState::Merged { commit, .. } => Ok(Some(commit.clone())),
        _ => git.tip(&format!("refs/heads/{}", stage_branch(&stage.spec.id))),
    }
}

fn find(git: &Git, spec: &StageSpec, base: &Oid, commit: Oid) -> Result<Suggested, GitError> {
    let tree = git.tree_of(&commit)?;
    let changes = git.changes(base, &tree)?;
    let changed: Vec<Changed> = changes
        .list
        .iter()
        .filter_map(|change| {
            let new = changes.text(change.new.as_ref()?)?;
            let old = change.old.as_ref().map(|side| changes.text(side).unwrap_or_default());
            Some(Changed { path: change.path.clone(), old, new })
        })
        .collect();
    let snapshot = git.snapshot(&tree)?;
    let read = |path: &str| snapshot.text(path);
    let around = Tree { files: &snapshot.files, read: &read };
    let mut seen = look(&changed, &around, &spec.working_dir);
    seen.made.retain(|path| !spec.criteria.artifacts.contains(path));
    let has = |pattern: &str| spec.criteria.wiring.iter().any(|wiring| wiring.pattern == pattern);
    seen.links.retain(|link| !has(&link.pattern));
    // Tests that it changed are found by what it may change.
    let dir = crate::base::glob::from_top(".", &spec.working_dir);
    let own = |path: &String| match dir.as_str() {
        "" => Some(path.clone()),
        dir => path.strip_prefix(dir).and_then(|rest| rest.strip_prefix('/')).map(str::to_owned),
    };
    let files = changes.list.iter().filter(|change| change.new.is_some()).filter_map(|change| own(&change.path));
    let touched = StageSpec { files: files.collect(), ..spec.clone() };
    let checks = suggest(&touched, &around).into_iter().filter(|one| one.field == "acceptance").collect();
    Ok(Suggested { commit, changed: changes.list.len(), seen, checks })
}

/// As it stands in a stage of a plan. JSON's strings are YAML's.
fn yaml(found: &Suggested) -> String {
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let mut out = String::new();
    if !found.seen.made.is_empty() {
        out.push_str("      artifacts:\n");
        found.seen.made.iter().for_each(|path| out.push_str(&format!("        - {}\n", text(&globset_escaped(path)))));
    }
    if !found.seen.links.is_empty() {
        out.push_str("      wiring:\n");
    }
    for link in &found.seen.links {
        let (source, pattern) = (text(&globset_escaped(&link.source)), text(&link.pattern));
        out.push_str(&format!("        - source: {source}\n          pattern: {pattern}\n"));
        out.push_str(&format!("          description: {}\n", text(&link.description)));
    }
    if !found.checks.is_empty() {
        out.push_str("      acceptance:\n");
    }
    for check in &found.checks {
        out.push_str(&format!("        - {}   # {}\n", text(&check.item), check.why));
    }
    out
}

/// A path as a glob that matches only itself.
fn globset_escaped(path: &str) -> String {
    path.chars().map(|c| if "*?[]{}!".contains(c) { format!("[{c}]") } else { c.to_string() }).collect()
}
