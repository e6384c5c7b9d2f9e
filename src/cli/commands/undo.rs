//! `loom undo`: what was put aside comes back as a branch; no tree is touched.

use crate::cli::args::Undo;
use crate::cli::failure::{Failure, exit};
use crate::cli::place::Place;
use crate::cli::ui;
use crate::git::Rescue;

pub fn run(place: &Place, args: &Undo) -> Result<u8, Failure> {
    let rescues = place.git.rescues().map_err(|error| Failure::new(exit::INTERNAL, error.to_string()))?;
    let Some(wanted) = args.rescue.as_ref().filter(|_| !args.list) else {
        list(&rescues, args.json);
        return Ok(exit::OK);
    };
    crate::client::require_operator("bring work back")?;
    let Some(rescue) = rescues.iter().find(|rescue| short(rescue) == wanted || rescue.name == *wanted) else {
        return Err(Failure::user(format!("there is nothing put aside as `{wanted}`")).hint("loom undo --list"));
    };
    let branch = format!("rescued/{}", short(rescue).replace('/', "-"));
    let name = format!("refs/heads/{branch}");
    let error = |error: crate::git::GitError| Failure::new(exit::INTERNAL, error.to_string());
    match place.git.tip(&name).map_err(error)? {
        Some(tip) if tip == rescue.commit => {}
        Some(tip) => {
            return Err(Failure::user(format!("branch `{branch}` exists already, at {}", tip.short()))
                .hint(format!("git branch -m {branch} <another name>, then loom undo {wanted}")));
        }
        None => place.git.swap_ref(&name, None, &rescue.commit, "loom: undo").map_err(error)?,
    }
    ui::line(&branch);
    ui::note(format!("it is back as a branch: git diff {branch}^ {branch} · git switch {branch}"));
    Ok(exit::OK)
}

fn short(rescue: &Rescue) -> &str {
    rescue.name.strip_prefix("refs/loom/rescue/").unwrap_or(&rescue.name)
}

fn list(rescues: &[Rescue], json: bool) {
    if json {
        let rows: Vec<_> = rescues
            .iter()
            .map(|rescue| serde_json::json!({"id": short(rescue), "ref": rescue.name, "commit": rescue.commit.as_str(), "summary": rescue.summary}))
            .collect();
        ui::json(&rows);
    } else if rescues.is_empty() {
        ui::note("nothing was put aside");
    } else {
        for rescue in rescues {
            ui::line(format!("{:<24} {}  {}", short(rescue), rescue.commit.short(), rescue.summary));
        }
        ui::note("Next: loom undo <stage>/<n>");
    }
}
