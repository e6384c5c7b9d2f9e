//! `loom handoff`: what an agent leaves for the next session and for dependents.

use std::io::{IsTerminal, Read};
use std::str::FromStr;

use crate::cli::args::Handoff as Args;
use crate::cli::commands::signal::stage_here;
use crate::cli::failure::{Failure, exit};
use crate::cli::place::Place;
use crate::cli::ui;
use crate::client;
use crate::daemon::{ReadOnly, remains};
use crate::model::effect::Answer;
use crate::model::event::Request;
use crate::model::handoff::{Handoff, Lists};
use crate::model::ids::{SessionId, StageId};
use crate::model::limits::HANDOFF_BYTES_MAX;

pub fn run(place: &Place, args: Args) -> Result<u8, Failure> {
    let stage = stage(place, &args)?;
    let mut handoff = content(args)?;
    if let Some(session) = session(place, &stage) {
        remains::fill_in(&mut handoff, &place.layout, &place.git, &session);
    }
    let request = Request::Handoff { stage, handoff: Box::new(handoff) };
    if let Answer::Done { text } = client::request(&place.layout, request)? {
        ui::note(text);
    }
    Ok(exit::OK)
}

fn stage(place: &Place, args: &Args) -> Result<StageId, Failure> {
    let of_session = || StageId::from_str(&std::env::var("LOOM_STAGE").ok()?).ok();
    args.stage.clone().or_else(of_session).or_else(|| stage_here(place)).ok_or_else(|| {
        Failure::user("this folder is no stage's worktree").hint("loom handoff --stage <stage>").hint("loom status")
    })
}

/// The session whose work it is about: this one, or the newest of the stage.
fn session(place: &Place, stage: &StageId) -> Option<SessionId> {
    let own = std::env::var("LOOM_SESSION").ok().and_then(|id| SessionId::from_str(&id).ok());
    own.or_else(|| {
        let read = ReadOnly::open(&place.layout).ok()?;
        Some(SessionId::of(stage, read.world.run?.stages.get(stage)?.sessions))
    })
}

fn content(args: Args) -> Result<Handoff, Failure> {
    let of_flags = Handoff {
        status: args.status.unwrap_or_default(),
        done: args.done,
        decisions: args.decision,
        open: args.open,
        next: args.next,
        lists: Lists {
            interfaces: args.interface,
            patterns: args.pattern,
            integration: args.integration,
            assumptions: args.assumption,
            warnings: args.warning,
        },
        ..Handoff::default()
    };
    let text = match args.file {
        Some(path) => fs_err::read_to_string(path)?,
        None if of_flags != Handoff::default() => return Ok(of_flags),
        None if std::io::stdin().is_terminal() => {
            return Err(Failure::user("there is no handoff on standard input")
                .hint("loom handoff notes.md")
                .hint("loom handoff --status \"where it stands\" --next \"what to do first\""));
        }
        None => {
            let mut text = String::new();
            // One byte more than allowed, so that a longer one is refused and not cut.
            std::io::stdin().take(HANDOFF_BYTES_MAX as u64 + 1).read_to_string(&mut text)?;
            text
        }
    };
    let read = Handoff::parse(&text).map_err(|error| Failure::user("this is no handoff").because(error.to_string()))?;
    if of_flags != Handoff::default() {
        return Err(
            Failure::user("a handoff comes from a file or from options, not from both").hint("loom handoff notes.md")
        );
    }
    Ok(read)
}
