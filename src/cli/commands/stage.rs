//! `loom stage …`: what people and agents say about a stage.

use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::base::text::printable;
use crate::cli::args::{Complete, Gate, Stage as Verb};
use crate::cli::failure::{Failure, exit};
use crate::cli::place::Place;
use crate::cli::{show, ui};
use crate::client::{self, Client, ClientError};
use crate::daemon::ReadOnly;
use crate::kernel::world::Stage;
use crate::model::effect::Answer;
use crate::model::event::{GateTarget, Request};
use crate::model::gate::{Disputed, GateSubject};
use crate::model::ids::{GateId, StageId};
use crate::model::limits::COMPLETE_WAIT;
use crate::model::stage::StageState;
use crate::model::stage::StateKind;
use crate::wire::status::StageRow;

pub fn run(place: &Place, verb: Verb) -> Result<u8, Failure> {
    match verb {
        Verb::Complete(args) => complete(place, &args),
        Verb::Block(args) => place.ask(Request::Block { stage: args.stage, reason: args.reason }),
        Verb::Dispute(args) => {
            place.ask(Request::Dispute { stage: args.stage, check: args.check, reason: args.reason })
        }
        Verb::Retry(args) => place.ask(Request::Retry { stage: args.stage, context: args.context }),
        Verb::Reset(args) => place.ask(Request::Reset { stage: args.stage, reason: args.reason }),
        Verb::Hold(args) => place.ask(Request::Hold { stage: args.stage }),
        Verb::Release(args) => place.ask(Request::Release { stage: args.stage }),
        Verb::Skip(args) => place.ask(Request::Skip { stage: args.stage, reason: args.reason, go_on: args.go_on }),
        Verb::Review(args) => review(place, &args.stage),
        Verb::Waiting(args) => place.ask(Request::Waits { stage: args.stage, asks: Some(args.reason) }),
        Verb::Resume(args) => place.ask(Request::Waits { stage: args.stage, asks: None }),
        Verb::Approve(args) => place.ask(Request::Approve { subject: target(&args)?, reason: args.reason }),
        Verb::Reject(args) => place.ask(Request::Reject { subject: target(&args)?, reason: args.reason }),
    }
}

/// `g12` is a gate unless there is a stage of that name.
fn target(args: &Gate) -> Result<GateTarget, Failure> {
    let number = args.target.strip_prefix('g').and_then(|number| number.parse().ok());
    match (number, StageId::from_str(&args.target)) {
        (Some(number), _) => Ok(GateTarget::Gate { gate: GateId(number) }),
        (None, Ok(stage)) => Ok(GateTarget::Stage { stage }),
        (None, Err(error)) => Err(Failure::user(error.to_string()).hint("loom status")),
    }
}

/// Shows what a person decides about: the files that judge and were changed, or all of the work.
fn review(place: &Place, id: &StageId) -> Result<u8, Failure> {
    let read = ReadOnly::open(&place.layout)?;
    let run = read.world.run.ok_or(crate::daemon::BootError::NoPlan)?;
    let Some(stage) = run.stages.get(id) else { return Err(crate::kernel::unknown_stage(&run, id.as_str()).into()) };
    let gate = match &stage.state {
        StageState::Gated { gate, .. } => run.gates.get(gate),
        _ => None,
    };
    let (Some(gate), Some(tip)) = (gate, &run.tip) else {
        let what = format!("stage `{id}` has no open question: it is {}", stage.state.kind().as_str());
        return Err(Failure::user(what).hint("loom status"));
    };
    let files: Vec<String> = match &gate.subject {
        GateSubject::Judges { files, .. } => files.iter().map(|file| file.path.clone()).collect(),
        _ => Vec::new(),
    };
    ui::note(format!("{}: {}", gate.id, gate.question));
    if let GateSubject::Dispute { check, .. } = &gate.subject {
        disputed(place, stage, check);
        ui::note(format!(
            "Next: loom stage reject {id} --reason \"…\", or change the check in {0} and loom plan apply {0}",
            run.source.path
        ));
        return Ok(exit::OK);
    }
    let proven = stage.proven.as_ref().map(|(tree, _)| tree.clone());
    let commit = match &stage.state {
        StageState::Gated { commit, .. } => commit.clone(),
        _ => None,
    };
    if let Some(now) = proven.or(commit) {
        let diff = place.git.diff_text(tip, &now, &files);
        ui::data(&diff.map_err(|error| Failure::new(exit::INTERNAL, error.to_string()))?);
    }
    ui::note(format!("Next: loom stage approve {id}, or loom stage reject {id} --reason \"…\""));
    Ok(exit::OK)
}

/// What there is to see of a check that an agent says is wrong.
fn disputed(place: &Place, stage: &Stage, check: &Disputed) {
    ui::line(format!("check {}: {}", check.number, printable(&check.name)));
    ui::line(format!("the agent says: {}", printable(&check.reason)));
    ui::line(format!("it failed: {}", printable(&check.failed)));
    if let Some(result) = stage.checks.iter().find(|result| result.command == check.name) {
        printable(result.tail.trim_end()).lines().for_each(|line| ui::line(format!("    {line}")));
    }
    if !check.evidence.is_empty() {
        ui::note(format!("All of its output: {}", place.layout.work.join(&check.evidence).display()));
    }
}

/// Submits, and waits for the verdict: an agent for a bounded time, a person with `--wait`
/// for as long as it takes.
fn complete(place: &Place, args: &Complete) -> Result<u8, Failure> {
    if is_agent_by_hand(place) {
        let stage = &args.stage;
        return Err(Failure::user(format!("an agent that was opened by hand may not submit stage `{stage}`"))
            .because("it holds no lease on the stage: Loom goes on with it in a session of its own")
            .hint(format!("loom resume {stage}"))
            .hint("a person submits it from their own shell"));
    }
    let Answer::Submitted { commit } = client::request(&place.layout, Request::Submit { stage: args.stage.clone() })?
    else {
        return Ok(exit::OK);
    };
    let inside = client::is_inside_session();
    ui::note(format!("submitted at {}: Loom merges it and runs the checks", commit.short()));
    if !args.wait && !inside {
        ui::note("Next: loom status");
        return Ok(exit::OK);
    }
    let wait = if inside { Some(COMPLETE_WAIT) } else { None };
    match verdict(place, &args.stage, wait) {
        Ok(Some(row)) => report(place, &row),
        Ok(None) | Err(ClientError::NoDaemon | ClientError::Gone | ClientError::Io(_) | ClientError::Frame(_)) => {
            ui::line("verifying; end your turn: you will be told when something has to be mended");
            Ok(exit::OK)
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether a person's own agent, in the worktree of a stage, runs this. Not proof against one
/// that hides it: it has the rights of the person who opened it.
fn is_agent_by_hand(place: &Place) -> bool {
    !client::is_inside_session()
        && std::env::var_os("CLAUDECODE").is_some()
        && super::signal::stage_here(place).is_some()
}

/// The stage as soon as it is no longer being verified. None: not within `wait`.
fn verdict(place: &Place, stage: &StageId, wait: Option<Duration>) -> Result<Option<StageRow>, ClientError> {
    let deadline = wait.map(|wait| Instant::now() + wait);
    let mut client = Client::connect(&place.layout)?;
    client.subscribe()?;
    loop {
        let status = match deadline {
            None => client.next_status()?,
            Some(deadline) => match client.status_within(deadline.saturating_duration_since(Instant::now()))? {
                Some(status) => status,
                None => return Ok(None),
            },
        };
        let row = status.stages.into_iter().find(|row| row.id == *stage);
        if let Some(row) = row.filter(|row| row.state != StateKind::Verifying) {
            return Ok(Some(row));
        }
    }
}

fn report(place: &Place, row: &StageRow) -> Result<u8, Failure> {
    match row.state {
        StateKind::Merged => {
            ui::line(format!("stage `{}` is proven and landed. The work is done: end your turn.", row.id));
            Ok(exit::OK)
        }
        StateKind::Gated => {
            ui::line(format!(
                "stage `{}` waits for a person: {}. End your turn.",
                row.id,
                row.detail.as_deref().unwrap_or("")
            ));
            Ok(exit::WAITING)
        }
        _ => {
            let view = fs_err::read_to_string(place.layout.stage_view(&row.id)).ok();
            ui::line(format!(
                "stage `{}` is not accepted: {}",
                row.id,
                row.detail.as_deref().unwrap_or(row.state.as_str())
            ));
            show::failed_checks(place, row);
            if view.is_none() {
                ui::note("Next: loom signal");
            }
            Ok(exit::WORK)
        }
    }
}
