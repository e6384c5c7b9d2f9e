//! Journals of earlier versions are read for ever, and mean what they meant. How they were made, and
//! how to add one: `tests/compat/README.md`.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use loom::daemon::{ReadOnly, report};
use loom::journal::{NO_HASH, problems, verify};
use loom::kernel::World;
use loom::model::anchor::Anchor;
use loom::wire::status::DaemonRow;

fn compat() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compat")
}

fn golden() -> Vec<PathBuf> {
    let entries = fs::read_dir(compat()).unwrap().map(|entry| entry.unwrap().path());
    let mut journals: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|it| it == "jsonl")).collect();
    journals.sort();
    assert!(journals.len() >= 5, "{journals:?}");
    journals
}

fn head(bytes: &[u8]) -> Anchor {
    let tail = verify(bytes, Path::new("journal"), |_| {}).unwrap();
    assert_ne!(tail.head, NO_HASH);
    Anchor { seq: tail.next_seq - 1, hash: tail.head }
}

#[test]
fn every_golden_journal_means_what_it_meant() {
    for path in golden() {
        let bytes = fs::read(&path).unwrap();
        assert_eq!(problems(&bytes, &path, Some(&head(&bytes))), [""; 0], "{}", path.display());
        let read = ReadOnly::fold(&bytes, &path).unwrap();
        assert!(read.trouble.is_none() && read.tail.torn_bytes == 0);
        let meaning = meaning(&read.world);
        let expected = path.with_extension("txt");
        if std::env::var_os("LOOM_BLESS").is_some() {
            fs::write(&expected, &meaning).unwrap();
        }
        assert_eq!(meaning, fs::read_to_string(&expected).unwrap_or_default(), "{}", path.display());
    }
}

/// What a person is told of this world that does not depend on how it is worded.
fn meaning(world: &World) -> String {
    let daemon = DaemonRow { running: false, pid: None, uptime_s: None };
    let status = report::status(world, daemon, None, "2100-01-01T00:00:00Z".parse().unwrap());
    let tip = status.plan.and_then(|plan| plan.tip).unwrap_or_default();
    let mut lines = vec![format!("plan {:?} {tip}", status.phase)];
    for stage in status.stages {
        let code = stage.reason.map(|reason| reason.code).unwrap_or_default();
        let (attempt, landed) = (stage.attempt.unwrap_or_default(), stage.merged_commit.unwrap_or_default());
        let held = if stage.held { "held" } else { "" };
        lines.push(format!("stage {} {} {code} {held} attempt {attempt} {landed}", stage.id, stage.state.as_str()));
    }
    for session in status.sessions {
        lines.push(format!("session {} {}", session.id, session.state));
    }
    for gate in status.gates {
        lines.push(format!("gate {} {:?}", gate.id, gate.stage));
    }
    let words = |line: String| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n";
    lines.into_iter().map(words).collect()
}

/// The names that facts have in the journal, from the source.
fn names_in_the_source() -> BTreeSet<String> {
    let source = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/model/fact.rs")).unwrap();
    let mut names = BTreeSet::new();
    for item in syn::parse_file(&source).unwrap().items {
        let syn::Item::Enum(item) = item else { continue };
        let tag = item.ident.to_string().to_lowercase().replace("change", "");
        for variant in &item.variants {
            let mut name = String::new();
            for c in variant.ident.to_string().chars() {
                if c.is_uppercase() && !name.is_empty() {
                    name.push('-');
                }
                name.extend(c.to_lowercase());
            }
            names.insert(format!("{tag} {name}"));
        }
    }
    assert!(names.len() > 40, "{names:?}");
    names
}

/// Kinds that no journal here has yet.
const MISSING: &[&str] = &[];

#[test]
fn every_kind_of_fact_is_in_a_golden_journal() {
    let mut missing = names_in_the_source();
    for path in golden() {
        for line in fs::read_to_string(path).unwrap().lines() {
            let record: serde_json::Value = serde_json::from_str(line).unwrap();
            for fact in record["facts"].as_array().unwrap() {
                let name = fact["fact"].as_str().unwrap();
                missing.remove(&format!("fact {name}"));
                if let Some(change) = fact["change"]["change"].as_str() {
                    missing.remove(&format!("{name} {change}"));
                }
            }
        }
    }
    let missing: Vec<&str> = missing.iter().map(String::as_str).collect();
    assert_eq!(
        missing, MISSING,
        "a new kind of fact needs an example, or a place in this list: tests/compat/README.md"
    );
}

#[test]
fn every_flipped_byte_and_every_moved_line_of_a_golden_journal_is_found() {
    let journals = golden().into_iter().map(|path| fs::read(path).unwrap());
    let smallest = journals.min_by_key(Vec::len).unwrap();
    let whole = smallest.split_inclusive(|byte| *byte == b'\n').take(4).collect::<Vec<_>>().concat();
    let anchor = head(&whole);
    let path = Path::new("journal.jsonl");
    let is_found = |bytes: &[u8]| !problems(bytes, path, Some(&anchor)).is_empty();
    assert!(!is_found(&whole));
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        assert!(is_found(&bytes), "byte {at}");
    }
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    for n in 0..lines.len() {
        let mut removed = lines.clone();
        removed.remove(n);
        let mut doubled = lines.clone();
        doubled.insert(n, lines[n]);
        let mut swapped = lines.clone();
        swapped.swap(n, (n + 1) % lines.len());
        for (what, lines) in [("removed", removed), ("doubled", doubled), ("moved", swapped)] {
            assert!(is_found(&lines.concat()), "line {n} {what}");
        }
    }
    for len in 0..whole.len() {
        assert!(is_found(&whole[..len]), "cut at {len}");
    }
}
