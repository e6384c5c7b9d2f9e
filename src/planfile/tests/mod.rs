//! What a plan file may be, and what is said about one that may not.
//!
//! `bad.txt` holds plans and the exact diagnostics they get; rewrite it with
//! `LOOM_BLESS=1 cargo test --lib planfile` and read the difference.

mod bad;
mod good;
mod random;

use super::*;

/// A whole plan file around the body of `loom:`, which starts on line 5.
fn file(body: &str) -> String {
    let indented: String = body.lines().map(|line| format!("  {line}\n").replace("  \n", "\n")).collect();
    format!("# Title\n{BEGIN_MARKER}\n```yaml\nloom:\n{indented}```\n{END_MARKER}\n")
}

fn render(parsed: &Parsed) -> String {
    parsed.diagnostics.iter().map(|diagnostic| format!("{diagnostic}\n")).collect()
}

/// The plan of a file without any problem.
#[track_caller]
fn plan(source: &str) -> Plan {
    let parsed = read(source.as_bytes(), "doc/plans/PLAN-0001-test.md");
    assert_eq!(render(&parsed), "");
    parsed.plan.expect("a file without problems has a plan")
}
