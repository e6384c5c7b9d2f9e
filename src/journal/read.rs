//! Reading: every line is verified, nothing is skipped, and what a newer Loom
//! wrote is told apart from damage.

use std::io;
use std::path::Path;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{HASH_FIELD, JournalError, Lost, NO_HASH, Record};
use crate::base::text::sha256;
use crate::model::anchor::Anchor;
use crate::model::event::{Ground, PlanSource};
use crate::model::fact::{FACT_VERSION, Fact};
use crate::model::plan::Plan;

/// What a reading found besides the records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tail {
    /// Bytes of whole, valid lines.
    pub valid_bytes: u64,
    /// Bytes after them: a last line without its newline, which a crash leaves.
    pub torn_bytes: u64,
    pub next_seq: u64,
    pub head: String,
}

impl Default for Tail {
    /// Before the first record.
    fn default() -> Tail {
        Tail { valid_bytes: 0, torn_bytes: 0, next_seq: 1, head: NO_HASH.to_owned() }
    }
}

/// One good line.
pub struct Line<'a> {
    /// With its newline.
    pub bytes: &'a [u8],
    pub record: Record,
    pub hash: String,
    /// Facts that this version does not know, by their names.
    pub unknown: Vec<String>,
}

/// A whole reading. `records` of `each` are good even when there is trouble after them.
pub struct Scan {
    pub tail: Tail,
    /// Why this journal must not be written: the first trouble.
    pub trouble: Option<JournalError>,
}

/// Reads and verifies every record and gives it to `each`. A missing file is an empty journal.
///
/// # Errors
/// Damage is refused with the line; nothing is skipped. A torn last line is no damage.
pub fn read(path: &Path, each: impl FnMut(Record)) -> Result<Tail, JournalError> {
    verify(&bytes(path)?, path, each)
}

/// The file as it is, nothing verified. A missing one is empty.
pub fn bytes(path: &Path) -> Result<Vec<u8>, JournalError> {
    match fs_err::read(path) {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(source) => Err(JournalError::Io { verb: "read", source }),
    }
}

/// As [`read`], of what is in `bytes`; `path` is what errors call it.
pub fn verify(bytes: &[u8], path: &Path, mut each: impl FnMut(Record)) -> Result<Tail, JournalError> {
    let scan = scan(bytes, path, None, |line| each(line.record));
    scan.trouble.map_or(Ok(scan.tail), Err)
}

/// Reads as far as the lines are good, and compares with what `anchor` names.
pub fn scan(bytes: &[u8], path: &Path, anchor: Option<&Anchor>, each: impl FnMut(Line)) -> Scan {
    scan_after(Tail::default(), bytes, path, anchor, each)
}

/// As [`scan`], of the lines after those that were read already, up to `tail`. `bytes` begin after them.
pub fn scan_after(tail: Tail, bytes: &[u8], path: &Path, anchor: Option<&Anchor>, mut each: impl FnMut(Line)) -> Scan {
    let mut scan = Scan { tail: Tail { torn_bytes: 0, ..tail }, trouble: None };
    let mut is_changed = false;
    for bytes in bytes.split_inclusive(|byte| *byte == b'\n') {
        // Records are numbered as their lines are.
        let at = scan.tail.next_seq as usize;
        let Some(text) = bytes.strip_suffix(b"\n") else {
            // A write that is cut off leaves a beginning. A whole line with another byte in the
            // place of its end was acknowledged once.
            if bytes.split_last().is_some_and(|(_, line)| parse(line, &scan.tail).is_ok()) {
                let (path, why) = (path.to_path_buf(), "its end was changed".to_owned());
                scan.trouble = Some(JournalError::Damaged { path, line: at, why });
                return scan;
            }
            scan.tail.torn_bytes = bytes.len() as u64;
            break;
        };
        let line = match parse(text, &scan.tail) {
            Ok((record, hash, unknown)) => Line { bytes, record, hash, unknown },
            Err(why) => {
                scan.trouble.get_or_insert(JournalError::Damaged { path: path.to_path_buf(), line: at, why });
                return scan;
            }
        };
        if scan.trouble.is_none() && (line.record.v > FACT_VERSION || !line.unknown.is_empty()) {
            let what = match line.unknown.as_slice() {
                [] => format!("facts of version {}, and this one knows {FACT_VERSION}", line.record.v),
                names => format!("{}, which this one does not know", crate::base::text::list(names)),
            };
            scan.trouble = Some(JournalError::Newer { path: path.to_path_buf(), line: at, what });
        }
        scan.tail.valid_bytes += bytes.len() as u64;
        scan.tail.next_seq = line.record.seq + 1;
        scan.tail.head.clone_from(&line.hash);
        is_changed |= anchor.is_some_and(|anchor| anchor.seq == line.record.seq && anchor.hash != line.hash);
        each(line);
    }
    if let Some(lost) = anchor.and_then(|anchor| lost(anchor, &scan.tail, is_changed)) {
        // Whoever wrote the newer part, it is not this history.
        scan.trouble = Some(JournalError::Lost { path: path.to_path_buf(), lost });
    }
    scan
}

fn lost(anchor: &Anchor, tail: &Tail, is_changed: bool) -> Option<Lost> {
    let last = tail.next_seq - 1;
    if is_changed {
        Some(Lost::Changed { seq: anchor.seq })
    } else if last == 0 {
        Some(Lost::Gone { anchored: anchor.seq })
    } else {
        (last < anchor.seq).then_some(Lost::Behind { last, anchored: anchor.seq })
    }
}

/// Everything that is wrong with these bytes: besides what [`scan`] finds, any byte that the
/// record of its line would not be written with, and an unfinished last line.
pub fn problems(bytes: &[u8], path: &Path, anchor: Option<&Anchor>) -> Vec<String> {
    let mut problems = Vec::new();
    let mut odd = None;
    let scan = scan(bytes, path, anchor, |line| {
        let is_newer = line.record.v > FACT_VERSION || !line.unknown.is_empty();
        let mut written = Vec::new();
        line.record.encode(&mut written);
        if !is_newer && odd.is_none() && written != line.bytes {
            odd = Some(line.record.seq);
        }
    });
    if let Some(seq) = odd {
        problems.push(format!("line {seq} is not written as Loom writes it, though its hash is right"));
    }
    problems.extend(scan.trouble.map(|trouble| trouble.to_string()));
    if scan.tail.torn_bytes > 0 {
        problems.push(format!("its last {} bytes are no whole line", scan.tail.torn_bytes));
    }
    problems
}

/// A record of any version: what is in `facts` may be newer.
#[derive(Deserialize)]
struct Envelope {
    v: u32,
    seq: u64,
    at: Timestamp,
    cause: String,
    prev: String,
    facts: Vec<serde_json::Value>,
}

fn parse(line: &[u8], tail: &Tail) -> Result<(Record, String, Vec<String>), String> {
    let text = std::str::from_utf8(line).map_err(|_| "it is not UTF-8")?;
    let (body, rest) = text.rsplit_once(HASH_FIELD).ok_or("it has no hash")?;
    let hash = rest.strip_suffix("\"}").ok_or("it does not end with its hash")?;
    if sha256(body.as_bytes()) != hash {
        return Err("its content does not match its hash".to_owned());
    }
    let json = format!("{body}}}");
    let (record, unknown) = match record(&json) {
        Ok(record) => (record, Vec::new()),
        Err(_) => newer(&json)?,
    };
    if record.prev != tail.head {
        return Err("it does not follow from the line before it".to_owned());
    }
    if record.seq != tail.next_seq {
        return Err(format!("it has number {} and should have {}", record.seq, tail.next_seq));
    }
    Ok((record, hash.to_owned(), unknown))
}

/// How the facts begin that hold a whole plan.
const LOADED: &str = r#"{"fact":"plan-loaded","#;
const AMENDED: &str = r#"{"fact":"plan-amended","#;

fn record(json: &str) -> serde_json::Result<Record> {
    #[derive(Deserialize)]
    struct Apart<'a> {
        v: u32,
        seq: u64,
        at: Timestamp,
        cause: String,
        prev: String,
        #[serde(borrow)]
        facts: Vec<&'a RawValue>,
    }
    if !json.contains(LOADED) && !json.contains(AMENDED) {
        return serde_json::from_str(json);
    }
    let Apart { v, seq, at, cause, prev, facts } = serde_json::from_str(json)?;
    let facts = facts.into_iter().map(|fact| plan_or_other(fact.get())).collect::<Result<_, _>>()?;
    Ok(Record { v, seq, at, cause, prev, facts })
}

/// Until serde has found the tag of a fact it holds all of it, field by field: of a plan of a
/// thousand stages that is more than the plan. Loom writes the tag first.
fn plan_or_other(fact: &str) -> serde_json::Result<Fact> {
    #[derive(Deserialize)]
    struct Loaded {
        plan: Box<Plan>,
        source: PlanSource,
        ground: Ground,
    }
    #[derive(Deserialize)]
    struct Amended {
        plan: Box<Plan>,
        source: PlanSource,
    }
    if fact.starts_with(LOADED) {
        let Loaded { plan, source, ground } = serde_json::from_str(fact)?;
        Ok(Fact::PlanLoaded { plan, source, ground })
    } else if fact.starts_with(AMENDED) {
        let Amended { plan, source } = serde_json::from_str(fact)?;
        Ok(Fact::PlanAmended { plan, source })
    } else {
        serde_json::from_str(fact)
    }
}

/// What this version understands of a record that somebody wrote on purpose: its hash is right.
fn newer(json: &str) -> Result<(Record, Vec<String>), String> {
    let Envelope { v, seq, at, cause, prev, facts } = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for fact in facts {
        let part = |name: &str| fact.get(name).and_then(serde_json::Value::as_str).map(str::to_owned);
        let name = part("fact").unwrap_or_else(|| "something".to_owned());
        let change = fact.pointer("/change/change").and_then(serde_json::Value::as_str);
        let name = change.map_or(name.clone(), |change| format!("{name} {change}"));
        match serde_json::from_value::<Fact>(fact) {
            Ok(fact) => known.push(fact),
            Err(_) => unknown.push(name),
        }
    }
    Ok((Record { v, seq, at, cause, prev, facts: known }, unknown))
}
