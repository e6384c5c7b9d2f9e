//! Typed access to the tree. A wrong value is reported and read as absent, so
//! that one run shows every problem.

use std::borrow::Cow;

use super::diagnostic::{Report, quoted};
use super::fields::{self, Effect, Field, Shape};
use super::source::{Source, Span};
use super::yaml::{Entry, Node, Value};
use crate::base::text;

/// Longest deadline, in seconds: a week.
const TIMEOUT_SECS_MAX: u64 = 7 * 24 * 3600;

/// How messages name a stage whose id is not known.
pub const A_STAGE: &str = "a stage";

pub struct Reader<'r, 'a> {
    pub source: &'r Source<'a>,
    pub report: &'r mut Report,
    /// The number of the stage that is being read.
    pub stage: Option<usize>,
    /// None: nobody asks for them.
    pub mentions: Option<Vec<Mention>>,
}

/// A command, glob or folder that the plan names, to be held against the whole plan later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mention {
    /// The number of its stage; none at the level of the plan.
    pub stage: Option<usize>,
    pub kind: MentionKind,
    pub field: &'static str,
    /// As written.
    pub text: String,
    pub span: Span,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MentionKind {
    Command,
    /// A path or a glob.
    Glob,
    Folder,
    /// The name of a parallel group.
    Group,
}

/// The entries of a map whose names were checked. A null counts as absent.
#[derive(Clone, Copy, Default)]
pub struct Fields<'n, 'a> {
    entries: &'n [Entry<'a>],
}

impl<'n, 'a> Fields<'n, 'a> {
    /// The fields of a map whose names were checked together with its shape.
    pub fn of_checked(node: &'n Node<'a>) -> Self {
        match &node.value {
            Value::Map(entries) => Fields { entries },
            _ => Fields::default(),
        }
    }
    pub fn get(&self, name: &str) -> Option<&'n Node<'a>> {
        self.entry(name).map(|entry| &entry.value)
    }
    pub fn entry(&self, name: &str) -> Option<&'n Entry<'a>> {
        self.entries.iter().find(|entry| entry.key == name && !entry.value.is_null())
    }
    /// Whether an unknown field was probably meant to be one of `names`.
    pub fn has_misspelled(&self, names: &[&str], known: &[Field]) -> bool {
        self.entries.iter().any(|entry| {
            let is_known = known.iter().any(|field| field.name == entry.key);
            !is_known && entry.key.len() < 32 && text::similar(entry.key, names.iter().copied()).is_some()
        })
    }
}

impl Reader<'_, '_> {
    pub fn mention(&mut self, kind: MentionKind, field: &'static str, text: &str, span: &Span) {
        if let Some(mentions) = &mut self.mentions {
            mentions.push(Mention { stage: self.stage, kind, field, text: text.to_owned(), span: span.clone() });
        }
    }

    /// The fields of a map: unknown ones are errors, others are judged by their effect.
    pub fn fields<'n, 'a>(&mut self, node: &'n Node<'a>, known: &'static [Field], of: &str) -> Fields<'n, 'a> {
        let Value::Map(entries) = &node.value else {
            self.wrong_type(node, of, "a map");
            return Fields { entries: &[] };
        };
        for entry in *entries {
            match known.iter().find(|field| field.name == entry.key) {
                Some(field) => self.judge(field, entry),
                // A table without names stands for a map of any fields.
                None if known.is_empty() => {}
                None => self.unknown_field(entry, known, of),
            }
        }
        Fields { entries }
    }

    fn unknown_field(&mut self, entry: &Entry<'_>, known: &'static [Field], of: &str) {
        let key = entry.key;
        let meant = fields::other_name(key).filter(|name| known.iter().any(|field| field.name == *name));
        let similar = meant.or_else(|| self.report.similar(key, known.iter().map(|field| field.name)));
        let elsewhere = [(fields::STAGE, A_STAGE), (fields::PLAN, "the plan"), (fields::CHECK, "a check")]
            .into_iter()
            .find(|(table, _)| table.iter().any(|field| field.name == key));
        let names = || text::list(known.iter().map(|field| field.name));
        // Inside a stage, the stage's id stands before the message.
        let of = if self.report.stage.is_some() && of == A_STAGE { String::new() } else { format!(" of {of}") };
        let draft = self.report.error(&entry.key_span, format!("unknown field `{}`{of}", quoted(key)));
        draft.field(&quoted(key));
        match (key, similar, elsewhere) {
            ("<<", _, _) => draft.hint("merge keys are not part of YAML 1.2; write the fields out"),
            (_, _, Some((_, "the plan"))) if of.ends_with("the plan block") => draft.hint("indent it under `loom:`"),
            (_, _, Some((_, owner))) => draft.hint(format!("`{key}` is a field of {owner}")),
            (_, Some(name), None) => draft.did_you_mean(Some(name)),
            (_, None, None) if known.len() <= 12 => draft.hint(format!("known fields: {}", names())),
            _ => draft,
        };
    }

    fn judge(&mut self, field: &Field, entry: &Entry<'_>) {
        if entry.value.is_null() {
            return;
        }
        self.shape(&entry.value, field.shape, field.name);
        let name = field.name;
        match field.effect {
            Effect::Works if name == "context_budget" && matches!(entry.value.value, Value::Int(81..=100)) => {
                let message = "`context_budget` above 80 acts as 80: the client compacts by itself soon after";
                self.report.warning(&entry.key_span, message).field(name);
            }
            Effect::Works => {}
            Effect::Foreign => {
                let message = format!("`{name}` has no effect: it is accepted from older plans");
                self.report.warning(&entry.key_span, message).hint("remove it").field(name);
            }
        }
    }

    /// Checks a value's shape without using it.
    fn shape(&mut self, node: &Node<'_>, shape: Shape, name: &str) {
        match shape {
            Shape::Any => {}
            Shape::Bool => {
                self.boolean(node, name);
            }
            Shape::Int(min, max) => {
                self.int(node, name, min, max);
            }
            Shape::Text => {
                self.text(node, name);
            }
            Shape::Texts => {
                self.texts(node, name);
            }
            Shape::Duration => {
                self.duration(node, name);
            }
            Shape::OneOf(words) => {
                self.one_of(node, name, words);
            }
            Shape::Map(known) => {
                self.fields(node, known, &format!("`{name}`"));
            }
        }
    }

    pub fn wrong_type(&mut self, node: &Node<'_>, name: &str, wanted: &str) {
        let name = if name.contains(['`', ' ']) { name.to_owned() } else { format!("`{name}`") };
        let message = format!("{name} must be {wanted}, not {}", node.describe());
        let written = self.source.text.get(node.span.clone()).filter(|text| text.len() < 40 && !text.contains('\n'));
        let draft = self.report.error(&node.span, message);
        draft.field(name.trim_matches('`'));
        let hint = match (wanted, &node.value, written) {
            ("text", Value::Bool(_) | Value::Int(_) | Value::Number(_), Some(raw)) if !raw.starts_with('*') => {
                format!("put it in quotes: `\"{raw}\"`")
            }
            ("text", Value::Map(_), _) => "text that contains `: ` needs quotes".to_owned(),
            ("a list", Value::Map(_), _) if name != "`stages`" => "put it into a list: `- ` before it".to_owned(),
            ("a list", Value::Text(_), Some(raw)) if raw.starts_with(['"', '\'']) => format!("write `[{raw}]`"),
            ("a list", Value::Text(_), Some(raw)) => format!("write `[\"{raw}\"]`"),
            ("`true` or `false`", Value::Text(word), _) => match word.to_lowercase().as_str() {
                "yes" | "on" | "y" => "write `true`".to_owned(),
                "no" | "off" | "n" => "write `false`".to_owned(),
                "true" | "false" => "remove the quotes".to_owned(),
                _ => return,
            },
            _ => return,
        };
        draft.hint(hint);
    }

    pub fn boolean(&mut self, node: &Node<'_>, name: &str) -> Option<bool> {
        match node.value {
            Value::Bool(value) => Some(value),
            _ => {
                self.wrong_type(node, name, "`true` or `false`");
                None
            }
        }
    }

    pub fn int(&mut self, node: &Node<'_>, name: &str, min: i64, max: i64) -> Option<i64> {
        match node.value {
            Value::Int(value) if (min..=max).contains(&value) => Some(value),
            _ => {
                self.wrong_type(node, name, &format!("a whole number from {min} to {max}"));
                None
            }
        }
    }

    pub fn text<'n>(&mut self, node: &'n Node<'_>, name: &str) -> Option<&'n str> {
        match &node.value {
            Value::Text(text) => Some(text),
            _ => {
                self.wrong_type(node, name, "text");
                None
            }
        }
    }

    /// The items of a list; a null item is an error of its own.
    pub fn items<'n, 'a>(&mut self, node: &'n Node<'a>, name: &str) -> &'n [Node<'a>] {
        match &node.value {
            Value::List(items) => items,
            _ => {
                self.wrong_type(node, name, "a list");
                &[]
            }
        }
    }

    pub fn texts<'n>(&mut self, node: &'n Node<'_>, name: &str) -> Vec<(&'n str, &'n Span)> {
        let mut texts = Vec::new();
        for item in self.items(node, name) {
            match item.value {
                Value::Text(text) => texts.push((text, &item.span)),
                _ => self.wrong_type(item, &format!("an item of `{name}`"), "text"),
            }
        }
        texts
    }

    /// One of a few words.
    pub fn one_of<'w>(&mut self, node: &Node<'_>, name: &str, words: &[&'w str]) -> Option<&'w str> {
        let text = self.text(node, name)?;
        if let Some(word) = words.iter().find(|word| **word == text) {
            return Some(word);
        }
        let similar = self.report.similar(text, words.iter().copied());
        let message = format!("`{name}` must be one of {}, not `{}`", text::list(words), quoted(text));
        self.report.error(&node.span, message).did_you_mean(similar).field(name);
        None
    }

    /// Seconds as a number, or text such as `90s`, `10m` or `1h30m`.
    pub fn duration(&mut self, node: &Node<'_>, name: &str) -> Option<u64> {
        let seconds = match &node.value {
            Value::Int(seconds) => u64::try_from(*seconds).ok(),
            Value::Text(text) => parse_duration(text),
            _ => None,
        };
        if let Some(seconds @ 1..=TIMEOUT_SECS_MAX) = seconds {
            return Some(seconds);
        }
        let message = format!("`{name}` must be a time from one second to seven days, not {}", node.describe());
        self.report.error(&node.span, message).hint("write seconds, or text such as `10m` or `1h30m`").field(name);
        None
    }

    /// Text that reaches a shell, a path or a ref: nothing in it may be invisible.
    /// Returns whether that holds.
    pub fn visible(&mut self, text: &str, span: &Span, name: &str) -> bool {
        let Some(bad) = text.chars().find(|c| is_hidden(*c) || c.is_control() && !matches!(c, '\n' | '\t')) else {
            return true;
        };
        let message = format!("`{name}` contains the invisible character U+{:04X}", u32::from(bad));
        let at = self.place_of(bad, span);
        self.report.error(&at, message).hint("delete it; what runs must be what is shown").field(name);
        false
    }

    /// Prose may hold what some scripts need, but nothing that reorders or smuggles text.
    pub fn readable(&mut self, text: &str, span: &Span, name: &str) {
        if let Some(bad) = text.chars().find(|c| reorders_or_smuggles(*c)) {
            let message = format!("`{name}` contains the invisible character U+{:04X}", u32::from(bad));
            let at = self.place_of(bad, span);
            self.report.warning(&at, message).hint("agents read it, people do not see it").field(name);
        }
    }

    /// The same for the prose around the block.
    pub fn readable_overview(&mut self, yaml: &Span) {
        let text = self.source.text;
        for part in [0..yaml.start, yaml.end..text.len()] {
            if text.get(part.clone()).is_some_and(|prose| prose.contains(reorders_or_smuggles)) {
                self.readable(&text[part.clone()], &part, "overview");
            }
        }
    }

    fn place_of(&self, wanted: char, span: &Span) -> Span {
        let written = self.source.text.get(span.clone()).unwrap_or_default();
        written.find(wanted).map_or_else(|| span.clone(), |at| span.start + at..span.start + at + wanted.len_utf8())
    }
}

fn is_hidden(c: char) -> bool {
    reorders_or_smuggles(c)
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}' | '\u{2029}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

fn reorders_or_smuggles(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{e0000}'..='\u{e0fff}')
}

pub fn parse_duration(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text.parse().ok();
    }
    let mut rest: Cow<'_, str> = Cow::Borrowed(text);
    let mut total: u64 = 0;
    for (unit, seconds) in [('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)] {
        if let Some((number, after)) = rest.split_once(unit) {
            let number: u64 = number.trim().parse().ok()?;
            total = total.checked_add(number.checked_mul(seconds)?)?;
            rest = Cow::Owned(after.to_owned());
        }
    }
    rest.trim().is_empty().then_some(total)
}
