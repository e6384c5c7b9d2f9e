//! The status as a person reads it. The daemon draws it for `loom status`: a client that
//! only prints need not take a large status apart.

use std::fmt::{self, Display, Write};

use crate::base::text::printable;
use crate::model::budget::{sessions, short};
use crate::model::stage::StateKind;
use crate::wire::status::{BudgetRow, PhaseOfPlan, StageRow, Status, UsedRow};

/// Colours by meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tone {
    Good,
    Bad,
    Busy,
    Waits,
    Dim,
    Strong,
}

impl Tone {
    fn code(self) -> &'static str {
        match self {
            Tone::Good => "\x1b[32m",
            Tone::Bad => "\x1b[31m",
            Tone::Busy => "\x1b[36m",
            Tone::Waits => "\x1b[33m",
            Tone::Dim => "\x1b[2m",
            Tone::Strong => "\x1b[1m",
        }
    }
}

/// `text` in a tone, when colours are on.
fn toned<T: Display>(text: T, tone: Tone, color: bool) -> Toned<T> {
    Toned { text, tone: color.then_some(tone) }
}

struct Toned<T> {
    text: T,
    tone: Option<Tone>,
}

impl<T: Display> Display for Toned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tone {
            None => self.text.fmt(f),
            Some(tone) => {
                f.write_str(tone.code())?;
                self.text.fmt(f)?;
                f.write_str("\x1b[0m")
            }
        }
    }
}

/// The picture: plan, stages, questions, notices, next.
pub fn render(status: &Status, color: bool) -> String {
    let mut out = String::new();
    let Some(plan) = &status.plan else {
        return "No plan yet.\nNext: loom init doc/plans/<plan>.md\n".to_owned();
    };
    let daemon = match (status.daemon.running, status.phase) {
        (true, _) => "running",
        (false, PhaseOfPlan::Complete) => "ended: the plan is complete",
        (false, PhaseOfPlan::WaitingForPerson) => "ended: nothing goes on without you",
        (false, _) => "not running",
    };
    let _ = writeln!(out, "{}", toned(printable(&plan.name), Tone::Strong, color));
    let line = format_args!("plan {} on {} · base {} · daemon {daemon}", plan.id, plan.branch, plan.base);
    let _ = writeln!(out, "{}", toned(line, Tone::Dim, color));
    if let Some(words) = helping(plan.used, plan.budget) {
        let _ = writeln!(out, "{}", toned(format_args!("budget: {words}"), Tone::Dim, color));
    }
    out.push('\n');
    let width = status.stages.iter().map(|stage| stage.id.as_str().len()).max().unwrap_or(0);
    for stage in &status.stages {
        let _ = line_of(&mut out, status, stage, width, color);
    }
    for gate in &status.gates {
        let _ = writeln!(out, "\n{} {}: {}", toned("?", Tone::Waits, color), gate.id, printable(&gate.question));
        let _ = match gate.next.strip_prefix("loom stage approve ") {
            Some(who) => writeln!(out, "    {}   or   loom stage reject {who}", gate.next),
            None => writeln!(out, "    {}", gate.next),
        };
    }
    for notice in &status.notices {
        let _ = writeln!(out, "\n{} {}", toned("!", Tone::Waits, color), printable(notice));
    }
    if !status.next.is_empty() {
        let _ = writeln!(out, "\nNext: {}", status.next.join(" · "));
    }
    out
}

fn line_of(out: &mut String, status: &Status, stage: &StageRow, width: usize, color: bool) -> fmt::Result {
    let tone = tone(stage);
    let (mark, label) = (toned(mark(stage), tone, color), toned(label(stage), tone, color));
    write!(out, "  {mark} {:<width$}  {label:<9}", stage.id)?;
    if let Some(attempt) = stage.attempt.filter(|n| *n > 1) {
        write!(out, "  attempt {attempt}")?;
    }
    out.push_str(&gauge(status, stage, color));
    if let Some(words) = helping(stage.used, stage.budget) {
        write!(out, "  [{words}]")?;
    }
    if let Some(detail) = &stage.detail {
        write!(out, "  {}", printable(detail))?;
    }
    out.push('\n');
    Ok(())
}

/// What was used of a budget, cap by cap.
fn helping(used: Option<UsedRow>, budget: Option<BudgetRow>) -> Option<String> {
    let budget = budget?;
    let used = used.unwrap_or(UsedRow { sessions: 0, tokens: 0, cache_read: 0, cost_usd: None });
    let caps = [
        budget.sessions.map(|cap| format!("{} of {}", used.sessions, sessions(cap))),
        budget.tokens.map(|cap| format!("{} of {} tokens", short(used.tokens), short(cap))),
        budget.cost_usd.map(|cap| format!("${:.2} of ${cap:.2}", used.cost_usd.unwrap_or_default())),
    ];
    Some(caps.into_iter().flatten().collect::<Vec<_>>().join(", "))
}

/// How full the context window of the stage's session is.
fn gauge(status: &Status, stage: &StageRow, color: bool) -> String {
    let session = stage.session.as_ref().and_then(|id| status.sessions.iter().find(|session| session.id == *id));
    let Some((percent, tokens)) = session.and_then(|session| Some((session.context_percent?, session.tokens?))) else {
        return String::new();
    };
    let tone = match session.and_then(|session| session.context_zone.as_deref()) {
        Some("red") => Tone::Bad,
        Some("yellow") => Tone::Waits,
        _ => Tone::Good,
    };
    let cost = session.and_then(|session| session.cost_usd).map(|cost| format!(" ${cost:.2}")).unwrap_or_default();
    let text = format!("{percent} % of context, {}k tokens{cost}", tokens.context.div_ceil(1_000));
    format!("  [{}]", toned(text, tone, color))
}

/// The state in a word.
pub fn label(stage: &StageRow) -> &str {
    if stage.held && stage.state == StateKind::Ready { "held" } else { stage.state.as_str() }
}

/// The state in a sign.
pub fn mark(stage: &StageRow) -> &'static str {
    match stage.state {
        StateKind::Merged => "✓",
        StateKind::Running => "●",
        StateKind::Verifying => "◐",
        StateKind::Blocked => "✗",
        StateKind::Gated => "?",
        StateKind::Skipped => "–",
        StateKind::Ready => "○",
        _ => "·",
    }
}

/// The state in a sign, in its colour.
pub fn sign(stage: &StageRow, color: bool) -> String {
    toned(mark(stage), tone(stage), color).to_string()
}

fn tone(stage: &StageRow) -> Tone {
    match stage.state {
        StateKind::Merged => Tone::Good,
        StateKind::Running | StateKind::Verifying => Tone::Busy,
        StateKind::Blocked => Tone::Bad,
        StateKind::Gated => Tone::Waits,
        _ => Tone::Dim,
    }
}
