//! What is wrong with a plan, where, and what to write instead.

use serde::Serialize;

use super::source::{Source, Span};
use crate::base::text;

/// Most errors, and most warnings, that one run shows.
const SHOWN_MAX: usize = 100;
/// Most "did you mean" searches of one run; each looks at every known name.
const SUGGESTIONS_MAX: usize = 100;
/// Longest piece of the file quoted inside a message, in characters.
const QUOTED_CHARS_MAX: usize = 60;

/// Whether a plan with this problem can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// One problem of a plan file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    pub severity: Severity,
    pub path: String,
    /// From 1, in the file; 0 when the problem has no place in it.
    pub line: usize,
    /// From 1, in characters; 0 when the problem has no place.
    pub column: usize,
    pub message: String,
    /// The line, and below it carets under what is meant; empty without a place.
    pub snippet: String,
    /// What to write or type instead.
    pub hint: Option<String>,
    /// The field's name, where the problem belongs to one.
    pub field: Option<String>,
    /// The stage's id, where the problem belongs to one.
    pub stage: Option<String>,
}

impl std::fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        f.write_str(&self.path)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        write!(f, ": {severity}: ")?;
        if let Some(stage) = &self.stage {
            write!(f, "stage `{stage}`: ")?;
        }
        f.write_str(&self.message)?;
        let number = self.line.to_string();
        if let Some((line, carets)) = self.snippet.split_once('\n') {
            write!(f, "\n{number} | {line}\n{} | {carets}", " ".repeat(number.len()))?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "\n{} = hint: {hint}", " ".repeat(if self.line > 0 { number.len() } else { 0 }))?;
        }
        Ok(())
    }
}

/// A problem before it is rendered.
pub struct Draft {
    severity: Severity,
    span: Option<Span>,
    message: String,
    hint: Option<String>,
    field: Option<String>,
    stage: Option<String>,
}

impl Draft {
    pub fn hint(&mut self, hint: impl Into<String>) -> &mut Self {
        self.hint = Some(hint.into());
        self
    }
    pub fn did_you_mean(&mut self, name: Option<&str>) -> &mut Self {
        if let Some(name) = name {
            self.hint = Some(format!("did you mean `{name}`?"));
        }
        self
    }
    pub fn field(&mut self, field: &str) -> &mut Self {
        self.field = Some(field.to_owned());
        self
    }
}

/// Collects the problems of one run.
#[derive(Default)]
pub struct Report {
    drafts: Vec<Draft>,
    suggestions: usize,
    /// The stage that is being read; problems found meanwhile belong to it.
    pub stage: Option<String>,
}

impl Report {
    pub fn error(&mut self, span: &Span, message: impl Into<String>) -> &mut Draft {
        self.push(Severity::Error, Some(span.clone()), message.into())
    }
    pub fn warning(&mut self, span: &Span, message: impl Into<String>) -> &mut Draft {
        self.push(Severity::Warning, Some(span.clone()), message.into())
    }
    /// An error that has no place in the file.
    pub fn error_nowhere(&mut self, message: impl Into<String>) -> &mut Draft {
        self.push(Severity::Error, None, message.into())
    }

    fn push(&mut self, severity: Severity, span: Option<Span>, message: String) -> &mut Draft {
        let at = self.drafts.len();
        self.drafts.push(Draft { severity, span, message, hint: None, field: None, stage: self.stage.clone() });
        &mut self.drafts[at]
    }

    pub fn has_errors(&self) -> bool {
        self.drafts.iter().any(|draft| draft.severity == Severity::Error)
    }

    /// The known name most like `wanted`. Gives up after many searches, so that a
    /// hostile file costs no more than an honest one.
    pub fn similar<'k>(&mut self, wanted: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
        self.suggestions += 1;
        if self.suggestions > SUGGESTIONS_MAX || wanted.len() > QUOTED_CHARS_MAX {
            return None;
        }
        text::similar(wanted, known)
    }

    /// The problems in the order of the file.
    pub fn finish(mut self, source: &Source<'_>) -> Vec<Diagnostic> {
        self.drafts.sort_by_key(|draft| draft.span.as_ref().map_or(0, |span| span.start));
        let mut shown = Vec::new();
        for (severity, noun) in [(Severity::Error, "error"), (Severity::Warning, "warning")] {
            let of_kind = self.drafts.iter().enumerate().filter(|(_, draft)| draft.severity == severity);
            let total = of_kind.clone().count();
            shown.extend(of_kind.take(SHOWN_MAX).map(|(at, draft)| (at, render(draft, source))));
            if total > SHOWN_MAX {
                let message = format!("{}, not shown", text::count(total - SHOWN_MAX, &format!("more {noun}")));
                let rest = Draft { severity, span: None, message, hint: None, field: None, stage: None };
                shown.push((usize::MAX, render(&rest, source)));
            }
        }
        shown.sort_by_key(|(at, _)| *at);
        shown.into_iter().map(|(_, diagnostic)| diagnostic).collect()
    }
}

fn render(draft: &Draft, source: &Source<'_>) -> Diagnostic {
    let one_line = |text: &str| text::printable(text).replace(['\n', '\t'], " ");
    let (line, column) = draft.span.as_ref().map_or((0, 0), |span| source.position(span.start));
    Diagnostic {
        severity: draft.severity,
        path: source.path.to_owned(),
        line,
        column,
        message: one_line(&draft.message),
        snippet: draft.span.as_ref().map_or_else(String::new, |span| source.snippet(span)),
        hint: draft.hint.as_deref().map(one_line),
        field: draft.field.clone(),
        stage: draft.stage.as_deref().map(one_line),
    }
}

/// A piece of the file for a message: cut when it is long.
pub fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
