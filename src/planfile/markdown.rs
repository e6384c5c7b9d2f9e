//! The Markdown around the plan: its title, its prose, and where the YAML is.
//! Knows only as much of Markdown as that takes: headings and fences.

use super::diagnostic::Report;
use super::source::{Source, Span};

pub const BEGIN_MARKER: &str = "<!-- loom METADATA -->";
pub const END_MARKER: &str = "<!-- END loom METADATA -->";
const SHAPE_HINT: &str =
    "the plan stands in a ```yaml fence between `<!-- loom METADATA -->` and `<!-- END loom METADATA -->`";

/// A plan file, taken apart.
pub struct Document {
    /// The first heading; empty when it is missing (which was reported).
    pub title: String,
    /// The prose outside the block.
    pub overview: String,
    /// The text inside the YAML fence.
    pub yaml: Span,
}

/// A fence that was opened.
#[derive(Clone, Copy)]
struct Fence {
    mark: u8,
    len: usize,
    line: usize,
}

/// One pair of markers, or what there is of it.
#[derive(Clone, Copy, Default)]
struct Block {
    begin: usize,
    end: Option<usize>,
    fence: Option<Fence>,
    /// The line that closes the fence.
    close: Option<usize>,
    /// The first line between the fence and the end marker that is not blank.
    trailing: Option<usize>,
}

/// What one pass over the lines finds.
#[derive(Default)]
struct Scan {
    blocks: Vec<Block>,
    title: Option<String>,
    /// A begin marker inside another fence, and that fence.
    hidden_marker: Option<(usize, Fence)>,
    stray_end: Option<usize>,
    /// A fence of the prose that is never closed.
    open_fence: Option<Fence>,
}

/// Finds title, prose and block; reports what is missing.
pub fn split(source: &Source<'_>, report: &mut Report) -> Option<Document> {
    if source.text.trim().is_empty() {
        report.error(&(0..0), "the file is empty").hint(SHAPE_HINT);
        return None;
    }
    let scan = scan(source);
    let title = scan.title.clone().unwrap_or_else(|| {
        let first = source.line_span(1);
        report.error(&first, "the plan has no title").hint("start the file with a heading such as `# PLAN-0001: Name`");
        String::new()
    });
    let yaml = locate(source, &scan, report)?;
    Some(Document { title, overview: overview(source, &scan), yaml })
}

/// The YAML of the last block.
fn locate(source: &Source<'_>, scan: &Scan, report: &mut Report) -> Option<Span> {
    let Some(block) = scan.blocks.last() else {
        no_markers(source, scan, report);
        return None;
    };
    let begin = source.line_span(block.begin);
    let Some(fence) = block.fence else {
        match block.end {
            Some(_) => report.error(&begin, "the plan block has no YAML fence").hint(SHAPE_HINT),
            None => report.error(&begin, "the plan block is never ended").hint(format!("add the line `{END_MARKER}`")),
        };
        return None;
    };
    let fence_span = source.line_span(fence.line);
    let marks = String::from(char::from(fence.mark)).repeat(fence.len);
    let info = source.line(fence.line).trim().trim_start_matches(char::from(fence.mark)).trim();
    let language = info.split_whitespace().next().unwrap_or_default();
    if !["", "yaml", "yml"].contains(&language.to_ascii_lowercase().as_str()) {
        let message = format!("the fence of the plan block is marked `{language}`, not `yaml`");
        report.error(&fence_span, message).hint(format!("write {marks}yaml"));
        return None;
    }
    let Some(close) = block.close else {
        let message = "the fence of the plan block is never closed";
        report.error(&fence_span, message).hint(format!("add a line {marks} after the YAML"));
        return None;
    };
    // Behind a fence that was closed too early, the end may be hidden in another one.
    if block.end.is_none() && block.trailing.is_none() {
        report.error(&begin, "the plan block is never ended").hint(format!("add the line `{END_MARKER}`"));
    }
    if let Some(line) = block.trailing {
        let message = format!("the YAML fence was closed on line {close}, but the plan block goes on");
        let hint = "indent a fence that belongs to the YAML, or open the block with a longer one";
        report.error(&source.line_span(line), message).hint(hint);
    }
    for other in scan.blocks.iter().rev().skip(1).filter(|other| other.end.is_some()) {
        let message = format!("this plan block is ignored: the last one, on line {}, is the plan", block.begin);
        report.warning(&source.line_span(other.begin), message).hint("put an example into a fence of its own");
    }
    Some(source.line_span(fence.line + 1).start..source.line_span(close).start)
}

fn no_markers(source: &Source<'_>, scan: &Scan, report: &mut Report) {
    if let Some((line, fence)) = scan.hidden_marker {
        let message = format!("the plan block is inside the fence that line {} opens", fence.line);
        let never = scan.open_fence.is_some_and(|open| open.line == fence.line);
        let hint = if never { "close that fence before the block" } else { "put the block outside any other fence" };
        report.error(&source.line_span(line), message).hint(hint);
    } else if let Some(line) = scan.stray_end {
        let message = format!("the plan block has no beginning: `{BEGIN_MARKER}` is missing");
        report.error(&source.line_span(line), message).hint(SHAPE_HINT);
    } else {
        let message = format!("the file has no plan block: `{BEGIN_MARKER}` is missing");
        report.error(&source.line_span(1), message).hint(SHAPE_HINT);
    }
}

fn overview(source: &Source<'_>, scan: &Scan) -> String {
    let mut prose = String::new();
    for line in 1..=source.line_count() {
        let in_block = |block: &Block| block.end.is_some_and(|end| (block.begin..=end).contains(&line));
        if !scan.blocks.iter().any(in_block) {
            prose.push_str(source.line(line));
            prose.push('\n');
        }
    }
    prose.trim().to_owned()
}

fn scan(source: &Source<'_>) -> Scan {
    let mut scan = Scan::default();
    let mut fence: Option<Fence> = None;
    let mut block: Option<Block> = None;
    for line in 1..=source.line_count() {
        let text = source.line(line);
        if let Some(open) = fence {
            let ours = block.is_some_and(|block| block.fence.is_some_and(|own| own.line == open.line));
            if closes(text, open) && !(ours && belongs_to_the_yaml(source, line)) {
                fence = None;
                if let Some(block) = block.as_mut().filter(|_| ours) {
                    block.close = Some(line);
                }
            } else if !ours && marker(text) == Some(Marker::Begin) && scan.hidden_marker.is_none() {
                scan.hidden_marker = Some((line, open));
            }
            continue;
        }
        match marker(text) {
            Some(Marker::Begin) => {
                scan.blocks.extend(block.replace(Block { begin: line, ..Block::default() }));
                continue;
            }
            Some(Marker::End) => {
                match block.take() {
                    Some(open) => scan.blocks.push(Block { end: Some(line), ..open }),
                    None => scan.stray_end = scan.stray_end.or(Some(line)),
                }
                continue;
            }
            None => {}
        }
        fence = opens(text, line);
        match block.as_mut() {
            Some(block) if block.close.is_some() && !text.trim().is_empty() => {
                block.trailing = block.trailing.or(Some(line));
            }
            Some(block) if block.fence.is_none() => block.fence = fence,
            Some(_) => {}
            None if scan.title.is_none() && fence.is_none() => {
                scan.title = heading(source, line);
            }
            None => {}
        }
    }
    scan.blocks.extend(block);
    scan.open_fence = fence;
    scan
}

/// A closing fence that is indented may be part of the YAML (a block scalar can
/// hold one): it ends the fence only if the block ends right after it.
fn belongs_to_the_yaml(source: &Source<'_>, line: usize) -> bool {
    source.line(line).starts_with(' ')
        && (line + 1..=source.line_count())
            .map(|next| source.line(next))
            .find(|text| !text.trim().is_empty())
            .is_none_or(|text| marker(text) != Some(Marker::End))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Marker {
    Begin,
    End,
}

fn marker(line: &str) -> Option<Marker> {
    let inner = flush(line)?.trim_end().strip_prefix("<!--")?.strip_suffix("-->")?;
    let words: Vec<String> = inner.split_whitespace().map(str::to_lowercase).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["loom", "metadata"] => Some(Marker::Begin),
        ["end", "loom", "metadata"] => Some(Marker::End),
        _ => None,
    }
}

/// The line without its indentation; none when that makes it indented code.
fn flush(line: &str) -> Option<&str> {
    let text = line.trim_start_matches(' ');
    (line.len() - text.len() <= 3 && !text.starts_with('\t')).then_some(text)
}

fn opens(line: &str, number: usize) -> Option<Fence> {
    let text = flush(line)?;
    let mark = *text.as_bytes().first().filter(|mark| matches!(mark, b'`' | b'~'))?;
    let len = text.bytes().take_while(|byte| *byte == mark).count();
    let info_is_code = mark == b'`' && text[len..].contains('`');
    (len >= 3 && !info_is_code).then_some(Fence { mark, len, line: number })
}

fn closes(line: &str, open: Fence) -> bool {
    flush(line).is_some_and(|text| {
        let len = text.bytes().take_while(|byte| *byte == open.mark).count();
        len >= open.len && text[len..].trim().is_empty()
    })
}

/// The text of a first-level heading, in either of its two forms.
fn heading(source: &Source<'_>, line: usize) -> Option<String> {
    let text = flush(source.line(line))?.trim();
    if let Some(rest) = text.strip_prefix('#') {
        if !rest.is_empty() && !rest.starts_with([' ', '\t']) {
            return None;
        }
        let closed = rest.trim_end_matches('#');
        let title = if closed.is_empty() || closed.ends_with([' ', '\t']) { closed } else { rest };
        return Some(title.trim().to_owned()).filter(|title| !title.is_empty());
    }
    let under = (line < source.line_count()).then(|| source.line(line + 1)).and_then(flush)?.trim_end();
    let is_rule = !under.is_empty() && under.bytes().all(|byte| byte == b'=');
    (is_rule && !text.is_empty()).then(|| text.to_owned())
}
