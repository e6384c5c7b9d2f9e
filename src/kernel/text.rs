//! Words that facts carry to people and agents.

use crate::model::judge::Touched;
use crate::model::stage::{CheckResult, Failure};

pub fn first_line(text: &str) -> &str {
    text.trim().lines().next().unwrap_or_default()
}

/// A shell command as a person recognises it: the start of its first line.
pub fn short_command(text: &str) -> String {
    const SHOWN: usize = 60;
    let says_nothing = |line: &&str| line.is_empty() || line.starts_with('#') || line.starts_with("set -");
    let line = text.lines().map(str::trim).find(|line| !says_nothing(line)).unwrap_or_default();
    let start: String = line.chars().take(SHOWN).collect();
    if start.len() < text.trim().len() { format!("{} …", start.trim_end()) } else { start }
}

/// Words of a program, short enough for a status line.
pub fn one_line(text: &str) -> String {
    const SHOWN: usize = 300;
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &words[..at]),
        None => words,
    }
}

pub fn attempts(n: u32) -> String {
    if n == 1 { "1 attempt".to_owned() } else { format!("{n} attempts") }
}

/// The first files by name, the others by number.
pub fn some_files(files: &[String]) -> String {
    const SHOWN: usize = 10;
    let shown: Vec<String> = files.iter().take(SHOWN).map(|file| format!("`{file}`")).collect();
    match files.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// The first files that judge, each with what it is.
pub fn touched(files: &[Touched]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<String> = files.iter().take(SHOWN).map(|file| format!("`{}` ({})", file.path, file.why)).collect();
    match files.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// One sentence about a verdict.
pub fn verdict(checks: &[CheckResult], tip: &str) -> String {
    let failed = checks.iter().filter(|check| !check.passed).count();
    format!("{failed} of {} checks failed on the tree merged with {tip}", checks.len())
}

/// A red verdict as an agent reads it: what failed, with the end of its output.
pub fn for_agent(failure: &Failure) -> String {
    let mut out = format!("{}.\n", failure.text);
    for check in failure.checks.iter().filter(|check| !check.passed) {
        out.push_str(&format!("\n## `{}`\n", check.command));
        if let Some(why) = &check.why {
            out.push_str(&format!("{why}\n"));
        }
        if !check.tail.is_empty() {
            out.push_str(&format!("\n```text\n{}\n```\n", check.tail.trim_end()));
        }
    }
    out
}
