//! `loom init`: reads the plan, pins it, and makes the plan branch.

use std::collections::BTreeSet;

use super::plan::{read_file, rejected};
use crate::base::text::sha256;
use crate::cli::args::Init;
use crate::cli::failure::{Failure, exit};
use crate::cli::place::Place;
use crate::cli::ui;
use crate::client;
use crate::daemon::doctor::who_is_in;
use crate::model::effect::Answer;
use crate::model::event::{Ground, PlanSource, Request};
use crate::model::plan::Plan;
use crate::planfile::{self, Severity};

pub fn run(place: &Place, args: &Init) -> Result<u8, Failure> {
    let source = read_file(&args.plan);
    let text = source.as_deref().unwrap_or_default();
    // Everything else is asked while the plan is understood; what it says comes first.
    let (ground, parsed) = std::thread::scope(|scope| {
        let ground = scope.spawn(|| {
            let ground = ground(place)?;
            // Only for a notice.
            let filters = place.git.filters(&ground.base_commit).unwrap_or_default();
            Ok::<_, Failure>((ground, filters, sha256(text)))
        });
        let parsed = planfile::read(text, &args.plan.display().to_string());
        (ground.join(), parsed)
    });
    let (ground, filters, sha256) = ground.map_err(|_| Failure::new(exit::INTERNAL, "looking at git broke off"))??;
    source?;
    for diagnostic in &parsed.diagnostics {
        ui::note(format!("{diagnostic}"));
    }
    let Some(plan) = parsed.plan else {
        let errors = parsed.diagnostics.iter().filter(|one| one.severity == Severity::Error).count();
        return Err(rejected(&args.plan, errors, 0));
    };
    let path = args.plan.canonicalize()?;
    let path = path.strip_prefix(&place.layout.project).unwrap_or(&path);
    let notices = notices(&plan, &filters);
    let request = Request::LoadPlan {
        source: PlanSource { path: path.display().to_string(), sha256 },
        ground: ground.clone(),
        clean: args.clean,
        plan: Box::new(plan),
    };
    if let Answer::Done { text } = client::request(&place.layout, request)? {
        ui::line(format!("{text}, on `{}` at {}", ground.base_branch, ground.base_commit.short()));
    }
    notices.into_iter().for_each(ui::note);
    Ok(exit::OK)
}

/// Where the plan begins, for a person who may begin one there.
fn ground(place: &Place) -> Result<Ground, Failure> {
    client::require_operator("load a plan")?;
    place.git.check_ready()?;
    nobody_works_here(place)?;
    let head = place.git.head(&place.here)?;
    Ok(Ground {
        base_branch: head.branch,
        base_commit: head.commit,
        config: crate::git::fingerprint(&place.git.common)?,
        nonce: uuid::Uuid::new_v4().simple().to_string(),
    })
}

/// Where the state folder was removed under them, agents go on: what they do would be taken for the
/// work of the next plan's.
fn nobody_works_here(place: &Place) -> Result<(), Failure> {
    if place.layout.journal().exists() {
        return Ok(());
    }
    let mut busy = who_is_in(&place.layout.worktrees());
    let own = std::process::id().to_string();
    busy.retain(|pid| *pid != own);
    if busy.is_empty() {
        return Ok(());
    }
    Err(Failure::user("somebody still works below .worktrees/, and there is no state of a plan")
        .because(
            "the state folder was removed under agents that go on: their work would be taken for that of this plan",
        )
        .hint(format!("kill {}", busy.join(" ")))
        .hint("loom doctor"))
}

/// What a person should know before `loom run`.
fn notices(plan: &Plan, filters: &BTreeSet<String>) -> Vec<String> {
    use crate::model::plan::{BackendKind, StageSpec};
    let is_open = |stage: &StageSpec| stage.agent.kind() == BackendKind::Claude && !stage.sandbox.enabled;
    let agents = plan.stages.iter().filter(|stage| is_open(stage)).count();
    let mut notices = Vec::new();
    if agents > 0 {
        notices.push(format!(
            "{} with Claude Code and `sandbox: {{enabled: false}}`: these agents may do what you may",
            crate::base::text::count(agents, "stage")
        ));
    }
    for filter in filters {
        let way = if filter == "lfs" { ": `git lfs checkout`" } else { "" };
        notices.push(format!(
            "files with the filter `{filter}` are proven as git stores them; a check that needs their content makes it first{way}"
        ));
    }
    notices.push("Next: loom run".to_owned());
    notices
}
