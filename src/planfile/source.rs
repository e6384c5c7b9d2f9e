//! The text of a plan file: decoded once, with lines and columns for offsets.

use std::ops::Range;

use crate::base::text;
use crate::model::limits::PLAN_BYTES_MAX;

/// Bytes of the text; every diagnostic points at one.
pub type Span = Range<usize>;

/// Widest shown part of a line, in characters.
const SNIPPET_CHARS_MAX: usize = 140;

/// A decoded file. Offsets count from behind the byte order mark, if there is one.
pub struct Source<'a> {
    pub path: &'a str,
    pub text: &'a str,
    line_starts: Vec<usize>,
}

/// Why bytes are not a text that can be read, with the readable part before it.
pub struct Undecodable<'a> {
    pub readable: Source<'a>,
    pub message: String,
    pub hint: String,
}

impl<'a> Source<'a> {
    /// Decodes a file.
    pub fn new(path: &'a str, bytes: &'a [u8]) -> Result<Self, Undecodable<'a>> {
        let refuse = |readable: &'a str, message: String, hint: &str| Undecodable {
            readable: Source::of(path, readable),
            message,
            hint: hint.to_owned(),
        };
        if bytes.len() > PLAN_BYTES_MAX {
            let message = format!("the file has more than {PLAN_BYTES_MAX} bytes, the most that a plan may have");
            return Err(refuse("", message, "move long prose into files that the plan names"));
        }
        if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
            return Err(refuse("", "the file is UTF-16".to_owned(), "save it as UTF-8"));
        }
        let body = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        match std::str::from_utf8(body) {
            Ok(text) => Ok(Source::of(path, text)),
            Err(error) => {
                let at = error.valid_up_to();
                let readable = std::str::from_utf8(&body[..at]).unwrap_or_default();
                let offset = at + bytes.len() - body.len();
                let message = format!("the file is not UTF-8: byte 0x{:02x} at offset {offset}", body[at]);
                Err(refuse(readable, message, "save it as UTF-8"))
            }
        }
    }

    fn of(path: &'a str, text: &'a str) -> Self {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Source { path, text, line_starts: std::iter::once(0).chain(ends).collect() }
    }

    /// Line and column of an offset, both from 1; the column counts characters.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let line = self.line_starts.partition_point(|start| *start <= offset);
        let start = self.line_starts[line - 1];
        (line, self.text[start..offset].chars().count() + 1)
    }

    pub fn line_count(&self) -> usize {
        self.line_starts.len()
    }

    /// Where a line (from 1) starts and ends, without its line break.
    pub fn line_span(&self, line: usize) -> Span {
        let start = self.line_starts[line - 1];
        let end = self.line_starts.get(line).map_or(self.text.len(), |next| next - 1);
        let text = &self.text[start..end];
        start..start + text.strip_suffix('\r').unwrap_or(text).len()
    }

    pub fn line(&self, line: usize) -> &'a str {
        &self.text[self.line_span(line)]
    }

    /// The line of `span`'s start, and below it carets under the span's part of
    /// that line. Nothing in it can drive a terminal; a long line is cut.
    pub fn snippet(&self, span: &Span) -> String {
        let (line, column) = self.position(span.start);
        let whole = self.line_span(line);
        let chars: Vec<char> = self.text[whole.clone()].chars().collect();
        let start = (column - 1).min(chars.len());
        let mut end = span.end.clamp(span.start, whole.end.max(span.start));
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        let marked = self.text.get(span.start..end).map_or(1, |part| part.trim_end().chars().count()).max(1);
        let from = if chars.len() > SNIPPET_CHARS_MAX { start.saturating_sub(SNIPPET_CHARS_MAX / 3) } else { 0 };
        let to = chars.len().min(from + SNIPPET_CHARS_MAX);
        let shown = |part: &[char]| -> String {
            let part: String = part.iter().collect();
            text::printable(&part).replace('\t', "    ")
        };
        let (before, rest) = (if from > 0 { "…" } else { "" }, if to < chars.len() { "…" } else { "" });
        let lead = format!("{before}{}", shown(&chars[from..start]));
        let under = shown(&chars[start..to.min(start + marked)]).chars().count().max(1);
        let carets = format!("{}{}", " ".repeat(lead.chars().count()), "^".repeat(under));
        format!("{lead}{}{rest}\n{carets}", shown(&chars[start..to]).trim_end())
    }
}
