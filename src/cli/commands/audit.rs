//! `loom audit`: the journal as a story, and whether every byte of it is as it was written.

use crate::base::text::{count, printable};
use crate::cli::args::Audit;
use crate::cli::failure::{Failure, exit};
use crate::cli::place::Place;
use crate::cli::{story, ui};
use crate::daemon::audit;
use crate::journal::{self, JournalError};
use crate::model::ids::StageId;

/// Version of the JSON form.
const VERSION: u32 = 1;

pub fn run(place: &Place, args: &Audit) -> Result<u8, Failure> {
    if args.verify {
        return verify(place, args.json);
    }
    let mut rows = Vec::new();
    let path = place.layout.journal();
    let bytes = journal::bytes(&path).map_err(crate::daemon::BootError::from)?;
    let scan = journal::scan(&bytes, &path, None, |line| rows.extend(row(&line, args.stage.as_ref())));
    if args.json {
        ui::json(&serde_json::json!({"version": VERSION, "records": rows}));
    } else {
        rows.iter().for_each(show);
    }
    match scan.trouble {
        // What this version knows of it was told.
        Some(newer @ JournalError::Newer { .. }) => {
            ui::note(format!("{newer}"));
            Ok(exit::OK)
        }
        Some(trouble) => Err(crate::daemon::BootError::from(trouble).into()),
        None if rows.is_empty() && args.stage.is_some() => {
            Err(Failure::user("the journal says nothing of such a stage").hint("loom status"))
        }
        None => {
            if rows.is_empty() {
                ui::note("nothing has happened yet");
            }
            Ok(exit::OK)
        }
    }
}

#[derive(serde::Serialize)]
struct Row {
    seq: u64,
    at: jiff::Timestamp,
    cause: String,
    actor: String,
    hash: String,
    told: Vec<Told>,
    /// Facts of a newer Loom, by their names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unknown: Vec<String>,
}

#[derive(serde::Serialize)]
struct Told {
    stages: Vec<StageId>,
    text: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    evidence: Vec<String>,
    fact: serde_json::Value,
}

fn row(line: &journal::Line, stage: Option<&StageId>) -> Option<Row> {
    let record = &line.record;
    let mut told = Vec::new();
    for fact in &record.facts {
        let stages = story::stages(fact);
        if stage.is_some_and(|stage| !stages.contains(stage)) {
            continue;
        }
        let story::Sentence { text, evidence } = story::tell(fact);
        told.push(Told { stages, text, evidence, fact: serde_json::to_value(fact).unwrap_or_default() });
    }
    let is_about_it = !told.is_empty() || stage.is_none();
    is_about_it.then(|| Row {
        seq: record.seq,
        at: record.at,
        cause: record.cause.clone(),
        actor: story::actor(&record.cause).to_owned(),
        hash: line.hash.clone(),
        told,
        unknown: if stage.is_none() { line.unknown.clone() } else { Vec::new() },
    })
}

fn show(row: &Row) {
    let at = row.at.strftime("%Y-%m-%d %H:%M:%S");
    ui::line(printable(&format!("{:>5}  {at}  {} ({})", row.seq, row.actor, row.cause)));
    for told in &row.told {
        ui::line(format!("         {}", printable(&told.text)));
        for line in &told.evidence {
            ui::line(format!("           · {}", printable(line)));
        }
    }
    for name in &row.unknown {
        ui::line(printable(&format!("         {name}: written by a newer loom")));
    }
}

fn verify(place: &Place, json: bool) -> Result<u8, Failure> {
    // A writer at work has the rest of a line on its way.
    let mut verified = audit::verify(&place.layout, &place.git)?;
    for _ in 0..50 {
        let is_written = crate::base::fs::is_locked(&place.layout.writer_lock()).unwrap_or(false);
        if verified.problems.is_empty() || !is_written {
            break;
        }
        verified = audit::verify(&place.layout, &place.git)?;
    }
    let is_good = verified.problems.is_empty();
    if json {
        ui::json(&serde_json::json!({
            "version": VERSION, "good": is_good, "records": verified.records, "landings": verified.landings,
            "anchored": verified.anchored, "problems": verified.problems,
        }));
    } else if is_good {
        let anchor = match verified.anchored {
            Some(seq) => format!("git confirms them up to record {seq}"),
            None => "git knows of no journal yet".to_owned(),
        };
        let records = count(usize::try_from(verified.records).unwrap_or(usize::MAX), "record");
        ui::line(format!(
            "{records} verified, {} found in git with the proofs; {anchor}",
            count(usize::try_from(verified.landings).unwrap_or(usize::MAX), "landing")
        ));
    }
    if is_good {
        return Ok(exit::OK);
    }
    let mut failure = Failure::new(exit::WORK, "the journal cannot be trusted");
    failure.why = verified.problems;
    Err(failure.hint("loom doctor   (what is left, and the ways out)"))
}
