//! `loom graph`: the stages in waves, with what each one is waited for by.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::plan::{read, rejected};
use crate::base::text::{count, printable};
use crate::cli::args::Graph;
use crate::cli::failure::{Failure, exit};
use crate::cli::place::Place;
use crate::cli::ui;
use crate::client;
use crate::daemon::{BootError, ReadOnly};
use crate::model::ids::StageId;
use crate::model::plan::{Plan, StageSpec};
use crate::planfile::{self, Severity};
use crate::wire::picture::{label, mark, sign};
use crate::wire::status::StageRow;

/// What is drawn: a plan, and how far its stages are where it is carried out.
struct Drawn {
    plan: Plan,
    rows: BTreeMap<StageId, StageRow>,
}

pub fn run(place: impl FnOnce() -> Result<Place, Failure>, args: &Graph) -> Result<u8, Failure> {
    let drawn = match &args.plan {
        Some(path) => Drawn { plan: from_file(path)?, rows: BTreeMap::new() },
        None => loaded(&place()?)?,
    };
    if args.json {
        ui::json(&drawn.json());
    } else if args.dot {
        ui::data(&drawn.dot());
    } else if args.mermaid {
        ui::data(&drawn.mermaid());
    } else {
        ui::data(&drawn.text(ui::has_color()));
    }
    Ok(exit::OK)
}

fn from_file(path: &Path) -> Result<Plan, Failure> {
    let (_, parsed) = read(path)?;
    let errors = parsed.diagnostics.iter().filter(|one| one.severity == Severity::Error);
    errors.clone().for_each(|one| ui::note(format!("{one}")));
    parsed.plan.ok_or_else(|| rejected(path, errors.count(), 0))
}

fn loaded(place: &Place) -> Result<Drawn, Failure> {
    let read = ReadOnly::open(&place.layout)?;
    let run = read.world.run.ok_or(BootError::NoPlan)?;
    let rows = client::status(&place.layout)?.stages;
    Ok(Drawn { plan: run.plan, rows: rows.into_iter().map(|row| (row.id.clone(), row)).collect() })
}

impl Drawn {
    fn stage(&self, id: &str) -> Option<&StageSpec> {
        self.plan.stages.iter().map(Arc::as_ref).find(|stage| stage.id.as_str() == id)
    }

    fn waves(&self) -> Vec<Vec<String>> {
        let names = |wave: Vec<_>| wave.iter().map(ToString::to_string).collect();
        planfile::waves(&self.plan).into_iter().map(names).collect()
    }

    /// Each dependency, from what is first to what waits for it, in the order of the file.
    fn edges(&self) -> Vec<(&str, &str)> {
        self.plan
            .stages
            .iter()
            .flat_map(|stage| stage.dependencies.iter().map(move |on| (on.as_str(), stage.id.as_str())))
            .collect()
    }

    fn text(&self, color: bool) -> String {
        let waves = self.waves();
        let title = printable(&self.plan.title);
        let stages = count(self.plan.stages.len(), "stage");
        let mut out = format!("{title}: {stages} in {}\n", count(waves.len(), "wave"));
        let mut dependents: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (first, then) in self.edges() {
            dependents.entry(first).or_default().push(then);
        }
        let width = self.plan.stages.iter().map(|stage| stage.id.as_str().len()).max().unwrap_or(0);
        for (n, wave) in waves.iter().enumerate() {
            for (at, id) in wave.iter().enumerate() {
                let number = if at == 0 { (n + 1).to_string() } else { String::new() };
                let row = self.rows.get(id.as_str());
                let sign = row.map_or("·".to_owned(), |row| sign(row, color));
                let state = row.map(|row| format!("  {:<9}", label(row))).unwrap_or_default();
                let arrow = dependents.get(id.as_str()).map(|then| format!("  → {}", then.join(", ")));
                let line = format!("{number:>3}  {sign} {id:<width$}{state}{}", arrow.unwrap_or_default());
                let _ = writeln!(out, "{}", line.trim_end());
            }
        }
        out
    }

    fn json(&self) -> serde_json::Value {
        let waves = self.waves();
        let wave_of = |id: &str| waves.iter().position(|wave| wave.iter().any(|other| other == id));
        let stage = |stage: &StageSpec| {
            let id = stage.id.as_str();
            json!({
                "id": id, "name": stage.name, "wave": wave_of(id).map(|wave| wave + 1),
                "dependencies": stage.dependencies,
                "state": self.rows.get(id).map(|row| &row.state),
            })
        };
        json!({
            "version": 1,
            "plan": self.plan.id,
            "title": self.plan.title,
            "waves": waves,
            "stages": self.plan.stages.iter().map(|spec| stage(spec)).collect::<Vec<_>>(),
            "edges": self.edges().iter().map(|(from, to)| json!({"from": from, "to": to})).collect::<Vec<_>>(),
        })
    }

    /// A stage's label: its sign, its id, and its name in a line of its own.
    fn label(&self, id: &str, newline: &str) -> String {
        let sign = self.rows.get(id).map(|row| format!("{} ", mark(row))).unwrap_or_default();
        let name = self.stage(id).map(|stage| printable(&stage.name)).unwrap_or_default();
        format!("{sign}{id}{newline}{name}")
    }

    fn dot(&self) -> String {
        let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let mut out = String::from("digraph plan {\n  rankdir=LR;\n  node [shape=box, style=rounded];\n");
        for stage in &self.plan.stages {
            let id = stage.id.as_str();
            let label = quoted(&self.label(id, "\n")).replace('\n', "\\n");
            let _ = writeln!(out, "  {} [label={label}];", quoted(id));
        }
        for (from, to) in self.edges() {
            let _ = writeln!(out, "  {} -> {};", quoted(from), quoted(to));
        }
        out + "}\n"
    }

    /// Nodes have numbers: Mermaid takes some words for its own.
    fn mermaid(&self) -> String {
        let number: BTreeMap<&str, usize> =
            self.plan.stages.iter().enumerate().map(|(at, stage)| (stage.id.as_str(), at)).collect();
        let mut out = String::from("graph LR\n");
        for stage in &self.plan.stages {
            let id = stage.id.as_str();
            let text = self.label(id, "\n").replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;");
            let _ = writeln!(out, "  s{}[\"{}\"]", number[id], text.replace('\n', "<br>"));
        }
        for (from, to) in self.edges().iter().filter(|(from, _)| number.contains_key(from)) {
            let _ = writeln!(out, "  s{} --> s{}", number[from], number[to]);
        }
        out
    }
}
