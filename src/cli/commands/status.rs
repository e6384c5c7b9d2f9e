//! `loom status`: one picture, always with the next action.

use crate::cli::args::Status;
use crate::cli::failure::{Failure, exit};
use crate::cli::place::Place;
use crate::cli::show::Bell;
use crate::cli::{show, ui};
use crate::client::{self, Client, ClientError};
use crate::daemon::ReadOnly;
use crate::wire::{self, picture};

pub fn run(place: &Place, args: &Status) -> Result<u8, Failure> {
    if args.live {
        return live(place);
    }
    if args.stage.is_none() && !args.json {
        return plain(place);
    }
    let mut status = client::status(&place.layout)?;
    if let Some(wanted) = &args.stage {
        if !status.stages.iter().any(|stage| stage.id == *wanted) {
            let read = ReadOnly::open(&place.layout)?;
            return Err(match &read.world.run {
                Some(run) => crate::kernel::unknown_stage(run, wanted.as_str()).into(),
                None => crate::daemon::BootError::NoPlan.into(),
            });
        }
        status.stages.retain(|stage| stage.id == *wanted);
        status.sessions.retain(|session| session.stage == wanted.as_str());
        status.gates.retain(|gate| gate.stage.as_deref() == Some(wanted.as_str()));
        status.next = next_of(&status, wanted.as_str());
    }
    if args.json {
        ui::json(&status);
    } else {
        show::status(&status, ui::has_color());
        if let Some(stage) = &args.stage {
            let view = fs_err::read_to_string(place.layout.stage_view(stage)).unwrap_or_default();
            if let Some((_, text)) = view.split_once("\n---\n") {
                ui::line(crate::base::text::printable(text.trim_end()));
            }
        }
    }
    Ok(exit::OK)
}

/// What to type about one stage: its own way out, else what lets the plan go on, else where to look.
fn next_of(status: &wire::status::Status, stage: &str) -> Vec<String> {
    let own = status.stages.iter().find(|row| row.id.as_str() == stage).and_then(|row| row.next.clone());
    let attach = format!("loom attach {stage}");
    let is_of_all = |next: &&String| **next == attach || *next == "loom run";
    let mut next: Vec<String> = own.into_iter().collect();
    next.extend(status.next.iter().filter(is_of_all).cloned());
    if next.is_empty() {
        next.push("loom status".to_owned());
    }
    next.dedup();
    next
}

/// The picture, as the daemon draws it.
pub fn plain(place: &Place) -> Result<u8, Failure> {
    ui::data(&client::picture(&place.layout, ui::has_color())?);
    Ok(exit::OK)
}

/// Repaints on every change; nothing is polled.
fn live(place: &Place) -> Result<u8, Failure> {
    let color = ui::has_color();
    let mut bell = Bell::of(place, None);
    let mut paint = |status: &crate::wire::status::Status| {
        bell.ring(status);
        ui::data(&format!("\x1b[H\x1b[2J{}", picture::render(status, color)));
    };
    match Client::connect(&place.layout) {
        Ok(mut client) => {
            client.subscribe()?;
            loop {
                match client.next_status() {
                    Ok(status) => paint(&status),
                    Err(ClientError::Gone | ClientError::Frame(_)) => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Err(ClientError::NoDaemon) => {}
        Err(error) => return Err(error.into()),
    }
    paint(&client::status(&place.layout)?);
    Ok(exit::OK)
}
