//! Words and pictures of a status.

use std::collections::BTreeMap;

use super::place::Place;
use super::ui;
use crate::base::text::{count, printable};
use crate::config::Config;
use crate::model::attention::AttentionKind;
use crate::model::ids::StageId;
use crate::model::stage::StateKind;
use crate::wire::picture::{label, mark, render};
use crate::wire::status::{AttentionRow, PhaseOfPlan, StageRow, Status};

/// Prints the picture.
pub fn status(status: &Status, color: bool) {
    ui::data(&render(status, color));
}

/// Turns statuses into lines about what changed, for `--watch`.
#[derive(Debug, Default)]
pub struct Seen {
    stages: BTreeMap<StageId, String>,
    gates: Vec<String>,
    notices: Vec<String>,
}

impl Seen {
    /// Lines about what is new in `status`.
    pub fn changes(&mut self, status: &Status) -> Vec<String> {
        let mut lines = Vec::new();
        for stage in &status.stages {
            let text = sentence(stage);
            let known = self.stages.insert(stage.id.clone(), text.clone());
            let is_news = match &known {
                Some(before) => *before != text,
                None => stage.state != StateKind::Waiting && stage.state != StateKind::Ready,
            };
            if is_news {
                lines.push(format!("{} {}", mark(stage), text));
            }
        }
        // The question of a stage's gate is its detail.
        for gate in status.gates.iter().filter(|gate| gate.stage.is_none()) {
            if !self.gates.contains(&gate.id) {
                lines.push(format!("? {}: {}", gate.id, printable(&gate.question)));
                self.gates.push(gate.id.clone());
            }
        }
        for notice in &status.notices {
            if !self.notices.contains(notice) {
                lines.push(format!("! {}", printable(notice)));
            }
        }
        self.notices.clone_from(&status.notices);
        lines
    }
}

fn sentence(stage: &StageRow) -> String {
    let attempt = match stage.attempt {
        Some(n) if n > 1 => format!(" (attempt {n})"),
        _ => String::new(),
    };
    let detail = match stage.state {
        StateKind::Waiting => String::new(),
        _ => stage.detail.as_deref().map(|text| format!(": {}", printable(text))).unwrap_or_default(),
    };
    format!("{} {}{attempt}{detail}", stage.id, label(stage))
}

/// Rings the terminal of who watches, once for what is new.
pub struct Bell {
    /// None: it does not ring.
    kinds: Option<Vec<AttentionKind>>,
    /// None: nothing was seen yet, and what is there already is no news.
    known: Option<Vec<AttentionRow>>,
}

impl Bell {
    /// `known`: what is no news. A wrong setting keeps nobody from watching.
    pub fn of(place: &Place, known: Option<Vec<AttentionRow>>) -> Bell {
        let channels = Config::read(&place.layout.config()).map(|config| config.channels()).unwrap_or_default();
        Bell { kinds: (channels.bell && ui::is_terminal()).then_some(channels.kinds), known }
    }

    pub fn ring(&mut self, status: &Status) {
        let Some(kinds) = &self.kinds else { return };
        let mut rows = status.attention.clone();
        rows.retain(|row| kinds.contains(&row.event));
        let is_news = self.known.as_ref().is_some_and(|known| rows.iter().any(|row| !known.contains(row)));
        if is_news {
            ui::data("\x07");
        }
        self.known = Some(rows);
    }
}

/// Whether a person has to do something, also after the last landing: the base branch did not
/// follow, or a question is open.
pub fn waits_for_you(status: &Status) -> bool {
    let is_open =
        |row: &AttentionRow| matches!(row.event, AttentionKind::Blocked | AttentionKind::Gated | AttentionKind::Limit);
    !status.gates.is_empty() || status.attention.iter().any(is_open)
}

/// The last words of `--watch`.
pub fn epilogue(status: &Status) {
    let merged = status.stages.iter().filter(|stage| stage.state == StateKind::Merged).count();
    let total = status.stages.len();
    let waits = waits_for_you(status);
    match status.phase {
        PhaseOfPlan::Complete if waits => {
            let landed = format!("{merged} of {} landed", count(total, "stage"));
            ui::note(format!("{landed}; what is said above waits for you."));
        }
        PhaseOfPlan::Complete if merged == total => {
            let all = if total == 1 { "its stage is".to_owned() } else { format!("all {total} stages are") };
            ui::note(format!("The plan is complete: {all} proven and landed."));
        }
        PhaseOfPlan::Complete => {
            let skipped = total - merged;
            let landed = format!("{merged} of {} landed", count(total, "stage"));
            ui::note(format!("The plan is complete: {landed}, {skipped} skipped."));
        }
        PhaseOfPlan::WaitingForPerson => {
            ui::note(format!("Nothing goes on without you: {merged} of {} landed.", count(total, "stage")))
        }
        _ => ui::note(format!("The daemon is not running: {merged} of {} landed.", count(total, "stage"))),
    }
    if !status.next.is_empty() {
        ui::note(format!("Next: {}", status.next.join(" · ")));
    }
}

/// The failed checks of the newest verdict, with the end of their output.
pub fn failed_checks(place: &Place, row: &StageRow) {
    let Ok(read) = crate::daemon::ReadOnly::open(&place.layout) else { return };
    let stage = read.world.run.as_ref().and_then(|run| run.stages.values().find(|stage| stage.spec.id == row.id));
    if let Some(failure) = stage.and_then(|stage| stage.failures.last()) {
        ui::line(printable(&crate::kernel::text::for_agent(failure)));
    }
}
