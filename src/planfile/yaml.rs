//! The only place that knows the YAML library: text in, a tree with positions out.
//!
//! The tree is built from parser events, so that every problem keeps its place and
//! one wrong field does not hide the next. Aliases are expanded within a budget;
//! tags other than the core ones, merge keys and further documents are refused.

use std::borrow::Cow;
use std::collections::HashMap;

use bumpalo::Bump;
use serde_saphyr::granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Span as ParserSpan, Tag, options};

use super::diagnostic::{Report, quoted};
use super::fields;
use super::source::{Source, Span};
use crate::model::limits::PLAN_BYTES_MAX;

/// Deepest nesting; a plan needs seven.
const DEPTH_MAX: usize = 32;
/// What all aliases together may expand to, in bytes, a node counting as `NODE_BYTES`.
const ALIAS_BYTES_MAX: usize = PLAN_BYTES_MAX;
const NODE_BYTES: usize = 32;
/// Up to this many keys are compared with each other, without a table.
const FEW_KEYS: usize = 24;

/// A value and where it stands in the file.
#[derive(Debug, Clone)]
pub struct Node<'a> {
    pub span: Span,
    pub value: Value<'a>,
}

#[derive(Debug, Clone)]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    /// A number that is not a 64-bit integer, as written.
    Number(&'a str),
    Text(&'a str),
    List(&'a [Node<'a>]),
    Map(&'a [Entry<'a>]),
}

#[derive(Debug, Clone)]
pub struct Entry<'a> {
    pub key: &'a str,
    pub key_span: Span,
    pub value: Node<'a>,
}

impl Node<'_> {
    /// What the value is, for "expected …, found …".
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(value) => format!("the boolean `{value}`"),
            Value::Int(value) => format!("the number `{value}`"),
            Value::Number(value) => format!("the number `{}`", quoted(value)),
            Value::Text(value) => format!("the text `{}`", quoted(value)),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }
}

/// A list or map whose end was not seen yet.
struct Open<'a> {
    span: Span,
    anchor: usize,
    weight: usize,
    content: OpenContent<'a>,
}

/// What is in it begins at `from` in the builder's lists.
enum OpenContent<'a> {
    List { from: usize },
    Map { from: usize, key: Option<(&'a str, Span)> },
}

struct Builder<'a, 'r> {
    /// Where the parsed part starts in the file.
    base: usize,
    source: &'r Source<'a>,
    report: &'r mut Report,
    /// Where finished lists, maps and texts live that are not in the file as they are.
    arena: &'a Bump,
    open: Vec<Open<'a>>,
    /// What is in the open lists and maps, the innermost last.
    items: Vec<Node<'a>>,
    entries: Vec<Entry<'a>>,
    anchors: HashMap<usize, (Node<'a>, usize)>,
    alias_bytes: usize,
    root: Option<Node<'a>>,
}

/// Parses the YAML at `span` into a tree that lives in `arena`. Problems are reported; none means
/// that there is no tree.
pub fn parse<'a>(source: &Source<'a>, span: &Span, report: &mut Report, arena: &'a Bump) -> Option<Node<'a>> {
    let text = &source.text[span.clone()];
    let options = options! {
        emit_comments: false,
        disallow_directives: true,
        block_nesting_limit: DEPTH_MAX,
        flow_nesting_limit: DEPTH_MAX,
    };
    let mut builder = Builder {
        base: span.start,
        source,
        report,
        arena,
        open: Vec::new(),
        items: Vec::new(),
        entries: Vec::new(),
        anchors: HashMap::new(),
        alias_bytes: 0,
        root: None,
    };
    for event in Parser::new_from_str_with_options(text, options) {
        match event {
            Ok((event, at)) => builder.event(event, &at)?,
            Err(error) => {
                builder.syntax_error(&error);
                return None;
            }
        }
    }
    if builder.root.is_none() {
        builder.report.error(&(span.start..span.start), "the plan block is empty").hint("it starts with `loom:`");
    }
    builder.root
}

impl<'a> Builder<'a, '_> {
    fn event(&mut self, event: Event<'a>, at: &ParserSpan) -> Option<()> {
        let span = self.span(at);
        let tag_span = at.tag_span().map_or_else(|| span.clone(), |at| self.span(&at));
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = self.scalar(text, style, tag.as_deref(), &tag_span);
                self.add(Node { span, value }, anchor, None)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), "seq", &tag_span);
                self.push(span, anchor, OpenContent::List { from: self.items.len() })
            }
            Event::MappingStart(_, anchor, tag) => {
                self.refuse_tag(tag.as_deref(), "map", &tag_span);
                self.push(span, anchor, OpenContent::Map { from: self.entries.len(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span.start),
            Event::Alias(id) => self.alias(id, span),
            Event::DocumentStart(..) if self.root.is_some() => {
                self.report.error(&span, "the plan block holds a second YAML document").hint("remove the `---`");
                None
            }
            _ => Some(()),
        }
    }

    fn span(&self, at: &ParserSpan) -> Span {
        let start = at.start.byte_offset().unwrap_or_default() + self.base;
        let end = at.end.byte_offset().unwrap_or_default() + self.base;
        start..end.max(start)
    }

    fn push(&mut self, span: Span, anchor: usize, content: OpenContent<'a>) -> Option<()> {
        if self.open.len() >= DEPTH_MAX {
            self.report.error(&span, format!("the YAML is nested deeper than {DEPTH_MAX} levels"));
            return None;
        }
        self.open.push(Open { span, anchor, weight: NODE_BYTES, content });
        Some(())
    }

    fn close(&mut self, end: usize) -> Option<()> {
        let open = self.open.pop()?;
        let span = open.span.start..end.max(open.span.end);
        let value = match open.content {
            OpenContent::List { from } => Value::List(self.arena.alloc_slice_fill_iter(self.items.drain(from..))),
            OpenContent::Map { from, .. } => {
                let entries = self.arena.alloc_slice_fill_iter(self.entries.drain(from..));
                self.refuse_duplicates(entries);
                Value::Map(entries)
            }
        };
        self.add(Node { span, value }, open.anchor, Some(open.weight))
    }

    /// Puts a finished node where it belongs. A scalar's weight is its own length.
    fn add(&mut self, node: Node<'a>, anchor: usize, weight: Option<usize>) -> Option<()> {
        let weight = weight.unwrap_or_else(|| match &node.value {
            Value::Text(text) | Value::Number(text) => NODE_BYTES + text.len(),
            _ => NODE_BYTES,
        });
        if anchor != 0 {
            self.spend(weight, &node.span)?;
            self.anchors.insert(anchor, (node.clone(), weight));
        }
        self.attach(node, weight)
    }

    fn attach(&mut self, node: Node<'a>, weight: usize) -> Option<()> {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Some(());
        };
        open.weight += weight;
        match &mut open.content {
            OpenContent::List { .. } => self.items.push(node),
            OpenContent::Map { key, .. } => match key.take() {
                Some((key, key_span)) => self.entries.push(Entry { key, key_span, value: node }),
                None => match key_of(&node, self.source) {
                    Some(text) => *key = Some((text, node.span)),
                    None => {
                        let message = format!("expected a field name, found {}", node.describe());
                        self.report.error(&node.span, message);
                        return None;
                    }
                },
            },
        }
        Some(())
    }

    fn alias(&mut self, id: usize, span: Span) -> Option<()> {
        let Some((_, weight)) = self.anchors.get(&id) else {
            self.report.error(&span, "the alias refers to the value it is part of");
            return None;
        };
        let weight = *weight;
        self.spend(weight, &span)?;
        let value = self.anchors.get(&id).map(|(node, _)| node.value.clone())?;
        self.attach(Node { span, value }, weight)
    }

    /// Counts what anchors and aliases expand to: whoever reads the tree goes through all of it.
    fn spend(&mut self, weight: usize, span: &Span) -> Option<()> {
        self.alias_bytes += weight;
        if self.alias_bytes > ALIAS_BYTES_MAX {
            let message = format!("the aliases of this plan expand to more than {ALIAS_BYTES_MAX} bytes");
            self.report.error(span, message).hint("write the values out, or use fewer aliases");
            return None;
        }
        Some(())
    }

    fn scalar(&mut self, text: Cow<'a, str>, style: ScalarStyle, tag: Option<&Tag>, span: &Span) -> Value<'a> {
        let text = match text {
            Cow::Borrowed(text) => text,
            Cow::Owned(text) => self.arena.alloc_str(&text),
        };
        let is_text = tag.is_some_and(|tag| tag.core_suffix() == Some("str"));
        if is_text || style != ScalarStyle::Plain {
            self.refuse_tag(tag, "str", span);
            return Value::Text(text);
        }
        self.refuse_tag(tag, "str", span);
        resolve(text)
    }

    fn refuse_tag(&mut self, tag: Option<&Tag>, fine: &str, span: &Span) {
        if let Some(tag) = tag.filter(|tag| tag.core_suffix() != Some(fine)) {
            let message = format!("the tag `{}{}` has no meaning here", tag.original_handle(), quoted(tag.suffix()));
            self.report.error(span, message).hint("remove the tag; put text in quotes");
        }
    }

    fn refuse_duplicates(&mut self, entries: &[Entry<'a>]) {
        if entries.len() <= FEW_KEYS {
            for (at, entry) in entries.iter().enumerate() {
                if let Some(first) = entries[..at].iter().find(|first| first.key == entry.key) {
                    self.duplicate(first, entry);
                }
            }
            return;
        }
        let mut firsts: HashMap<&str, &Entry<'a>> = HashMap::with_capacity(entries.len());
        for entry in entries {
            match firsts.get(entry.key).copied() {
                Some(first) => self.duplicate(first, entry),
                None => {
                    firsts.insert(entry.key, entry);
                }
            }
        }
    }

    fn duplicate(&mut self, first: &Entry<'a>, again: &Entry<'a>) {
        let (line, _) = self.source.position(first.key_span.start);
        let message = format!("the field `{}` is given twice", quoted(again.key));
        self.report.error(&again.key_span, message).hint(format!("the other one is on line {line}"));
    }

    fn syntax_error(&mut self, error: &ScanError) {
        let at = self.base + error.marker().byte_offset().unwrap_or_default();
        if let Some(tab) = self.tab_before(at) {
            let message = "not valid YAML: a tab in the indentation, where YAML wants spaces";
            self.report.error(&(tab..tab), message).hint("use spaces for indentation");
            return;
        }
        if let Some((span, message, hint)) = self.slip_before(at) {
            self.report.error(&span, format!("not valid YAML: {message}")).hint(hint);
            return;
        }
        let (message, hint) = explain(error);
        let draft = self.report.error(&(at..at), format!("not valid YAML: {message}"));
        if let Some(hint) = hint {
            draft.hint(hint);
        }
    }
}

/// A scalar as the name of a field.
fn key_of<'a>(node: &Node<'a>, source: &Source<'a>) -> Option<&'a str> {
    match node.value {
        Value::Text(text) | Value::Number(text) => Some(text),
        Value::Null | Value::List(_) | Value::Map(_) => None,
        Value::Bool(_) | Value::Int(_) => source.text.get(node.span.clone()),
    }
}

impl Builder<'_, '_> {
    /// A character that was forgotten on the line of `at`, or on one of the two before it: the parser
    /// stumbles over what comes behind.
    fn slip_before(&self, at: usize) -> Option<(Span, String, String)> {
        let (first, last) = (self.source.position(self.base).0, self.source.position(at).0);
        (first.max(last.saturating_sub(2))..=last).rev().find_map(|number| {
            let span = self.source.line_span(number);
            let line = self.source.text.get(span.clone())?;
            let (message, right) = slip(line.trim())?;
            let start = span.start + line.len() - line.trim_start().len();
            Some((start..span.end, message, format!("write `{}`", quoted(&right))))
        })
    }

    /// A tab that indents the line of `at` or one beside it: the parser says so elsewhere.
    fn tab_before(&self, at: usize) -> Option<usize> {
        let text = self.source.text;
        let line = text.get(self.base..at)?.rfind('\n').map_or(self.base, |end| self.base + end + 1);
        let before = text.get(self.base..line.saturating_sub(1)).and_then(|text| text.rfind('\n'));
        let before = before.map_or(self.base, |end| self.base + end + 1);
        let after = text.get(at..).and_then(|text| text.find('\n')).map(|end| at + end + 1);
        [Some(before), Some(line), after].into_iter().flatten().find_map(|start| {
            let rest = text.get(start..)?;
            let indentation = &rest[..rest.len() - rest.trim_start_matches([' ', '\t']).len()];
            indentation.find('\t').map(|tab| start + tab)
        })
    }
}

/// What is missing in a line of a plan, and the line with it.
fn slip(line: &str) -> Option<(String, String)> {
    let (dash, rest) = match line.strip_prefix('-') {
        Some(rest) => ("- ", rest),
        None => ("", line),
    };
    let name: &str = &rest
        [..rest.trim_start().find([':', ' ']).map_or(rest.len(), |end| end + rest.len() - rest.trim_start().len())];
    let key = name.trim_start();
    let tables = [fields::PLAN, fields::STAGE, fields::CHECK, fields::AGENT];
    if !tables.into_iter().flatten().any(|field| field.name == key) {
        return None;
    }
    let value = &rest[name.len()..];
    let right = |value: &str| format!("{dash}{key}: {}", value.trim());
    match value.strip_prefix(':') {
        Some(value) if !dash.is_empty() && !rest.starts_with(' ') => {
            Some(("a space belongs behind the `-`".to_owned(), right(value)))
        }
        Some(value) if !value.is_empty() && !value.starts_with(' ') => {
            Some((format!("a space belongs behind `{key}:`"), right(value)))
        }
        None if value.split_whitespace().count() == 1 && !value.contains(':') => {
            Some((format!("a `:` belongs behind `{key}`"), right(value)))
        }
        _ => None,
    }
}

/// The library's errors in the words of this project, with what to do.
fn explain(error: &ScanError) -> (String, Option<&'static str>) {
    const INDENTATION: &str = "look at the indentation here and on the lines above, and quote text that contains `: `";
    let (message, hint) = match error.kind() {
        ErrorKind::TabNotAllowed | ErrorKind::TabInBlockIndentation => {
            ("a tab cannot indent", "use spaces for indentation")
        }
        ErrorKind::UnknownAnchor => ("this alias has no anchor", "quote text that starts with `*`"),
        ErrorKind::ExpectedBlockMappingKey => ("a field name was expected here", INDENTATION),
        ErrorKind::ExpectedBlockSequenceEntry => ("a list item was expected here", INDENTATION),
        ErrorKind::InvalidIndentation => ("the indentation fits nothing above", INDENTATION),
        ErrorKind::SimpleKeyExpected => ("a `:` was expected after the field name", INDENTATION),
        ErrorKind::MappingValueNotAllowed => ("a second `:` in one line", "quote text that contains `: `"),
        ErrorKind::InvalidQuotedScalarIndent => {
            ("the quoted text goes on at the wrong indentation", "close the quotes, or indent the following lines")
        }
        ErrorKind::DirectiveDisallowed => ("`%` starts a directive", "quote text that starts with `%`"),
        ErrorKind::ExpectedFlowMappingSeparator => ("expected `,` or `}`", "close the map, or quote the text in it"),
        ErrorKind::ExpectedFlowSequenceSeparator => ("expected `,` or `]`", "close the list, or quote the text in it"),
        _ => return (error.info(), None),
    };
    (message.to_owned(), Some(hint))
}

/// The type of a plain scalar by the core schema of YAML 1.2.
fn resolve(text: &str) -> Value<'_> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".inf" | "+.inf" | "-.inf" | ".nan" => return Value::Number(text),
        _ => {}
    }
    let digits = text.trim_start_matches(['-', '+']);
    if text.len() - digits.len() > 1 || !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Value::Text(text);
    }
    let number = match (digits.strip_prefix("0x"), digits.strip_prefix("0o")) {
        (Some(hex), _) => i64::from_str_radix(hex, 16).ok(),
        (_, Some(octal)) => i64::from_str_radix(octal, 8).ok(),
        _ => text.parse().ok(),
    };
    match number {
        Some(number) => Value::Int(number),
        None if text.parse::<f64>().is_ok() => Value::Number(text),
        None => Value::Text(text),
    }
}
