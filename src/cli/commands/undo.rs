//! `loom undo`: what was put aside comes back as a branch; no tree is touched and nothing is
//! overwritten. Folders that git could not hold are where they were moved to.

use std::path::PathBuf;

use crate::cli::args::Undo;
use crate::cli::failure::{Failure, exit};
use crate::cli::place::Place;
use crate::cli::ui;
use crate::git::{GitError, Rescue, kept_folders};

/// Version of the JSON form.
const VERSION: u32 = 1;

fn internal(error: GitError) -> Failure {
    Failure::new(exit::INTERNAL, error.to_string())
}

pub fn run(place: &Place, args: &Undo) -> Result<u8, Failure> {
    let rescues = place.git.rescues().map_err(internal)?;
    let kept = kept_folders(&place.layout);
    let Some(wanted) = args.rescue.as_ref().filter(|_| !args.list) else {
        list(place, &rescues, &kept, args.json);
        return Ok(exit::OK);
    };
    crate::client::require_operator("bring work back")?;
    let Some(rescue) = rescues.iter().find(|rescue| short(rescue) == wanted || rescue.name == *wanted) else {
        let failure = Failure::user(format!("there is nothing put aside as `{wanted}`"));
        return Err(match rescues.is_empty() && kept.is_empty() {
            true => failure.because("nothing was put aside in this project").hint("loom status"),
            false => failure.hint("loom undo --list"),
        });
    };
    let branch = format!("rescued/{}", short(rescue).replace('/', "-"));
    let name = format!("refs/heads/{branch}");
    match place.git.tip(&name).map_err(internal)? {
        Some(tip) if tip == rescue.commit => {}
        Some(tip) => {
            return Err(Failure::user(format!("branch `{branch}` exists already, at {}", tip.short()))
                .because("nothing is overwritten")
                .hint(format!("git branch -m {branch} <another name>, then loom undo {wanted}")));
        }
        None => place.git.swap_ref(&name, None, &rescue.commit, "loom: undo").map_err(internal)?,
    }
    if args.json {
        ui::json(&serde_json::json!({"version": VERSION, "branch": branch, "commit": rescue.commit.as_str()}));
    } else {
        ui::line(&branch);
        ui::note(format!("it is back as a branch: git log --stat -p {branch} · git switch {branch}"));
    }
    Ok(exit::OK)
}

fn short(rescue: &Rescue) -> &str {
    rescue.name.strip_prefix("refs/loom/rescue/").unwrap_or(&rescue.name)
}

fn time(rescue: &Rescue) -> Option<jiff::Timestamp> {
    jiff::Timestamp::from_second(rescue.time).ok()
}

fn list(place: &Place, rescues: &[Rescue], kept: &[(String, PathBuf)], json: bool) {
    let shown = |path: &PathBuf| path.strip_prefix(&place.layout.project).unwrap_or(path).display().to_string();
    if json {
        let rescues: Vec<_> = rescues
            .iter()
            .map(|rescue| serde_json::json!({"id": short(rescue), "ref": rescue.name, "commit": rescue.commit.as_str(), "summary": rescue.summary, "at": time(rescue)}))
            .collect();
        let kept: Vec<_> = kept.iter().map(|(id, path)| serde_json::json!({"id": id, "path": shown(path)})).collect();
        ui::json(&serde_json::json!({"version": VERSION, "rescues": rescues, "kept": kept}));
        return;
    }
    for rescue in rescues {
        let at = time(rescue).map_or(String::new(), |at| at.strftime("%Y-%m-%d %H:%M").to_string());
        let summary = crate::base::text::printable(&rescue.summary);
        ui::line(format!("{:<24} {}  {at}  {summary}", short(rescue), rescue.commit.short()));
    }
    for (_, path) in kept {
        ui::line(format!("{}   a whole worktree, kept as it was", shown(path)));
    }
    match (rescues.is_empty(), kept.is_empty()) {
        (true, true) => ui::note("nothing was put aside"),
        (false, _) => ui::note("Next: loom undo <stage>/<n>   (brings it back as a branch)"),
        (true, false) => ui::note("Next: look into it, then: git worktree remove -f -f <folder>"),
    }
}
