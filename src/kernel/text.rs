//! Words that facts carry to people and agents.

use crate::model::baseline::OnBase;
use crate::model::judge::Touched;
use crate::model::stage::{CheckResult, Failure, Since};

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

pub fn stages(n: usize) -> String {
    if n == 1 { "1 stage".to_owned() } else { format!("{n} stages") }
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

/// One sentence about a verdict, with the first check that failed.
pub fn verdict(checks: &[CheckResult], tip: &str) -> String {
    let mut failed = checks.iter().filter(|check| !check.holds());
    let Some(first) = failed.next() else { return format!("no check failed on the tree merged with {tip}") };
    let name = short_command(&first.command);
    let which = match (1 + failed.count(), checks.len()) {
        (1, 1) => format!("the check `{name}` failed"),
        (1, all) => format!("1 of {all} checks failed, `{name}`,"),
        (n, all) => format!("{n} of {all} checks failed, first `{name}`,"),
    };
    format!("{which} on the tree merged with {tip}")
}

/// A red verdict as an agent reads it: what failed, with the end of its output.
pub fn for_agent(failure: &Failure) -> String {
    let mut out = format!("{}.\n", failure.text);
    for check in failure.checks.iter().filter(|check| !check.holds()) {
        out.push_str(&format!("\n## `{}`\n", check.command));
        if let Some(why) = &check.why {
            out.push_str(&format!("{why}\n"));
        }
        if !check.tail.is_empty() {
            out.push_str(&format!("\n```text\n{}\n```\n", check.tail.trim_end()));
        }
        if let Some(about) = about_base(check) {
            out.push_str(&format!("\nCompared with the stage's base: {about}.\n"));
        }
    }
    if let Some(since) = &failure.since {
        push_since(&mut out, since);
    }
    out
}

/// What is different from the verdict before, within a limit.
fn push_since(out: &mut String, since: &Since) {
    const SHOWN: usize = 20;
    out.push_str("\n## Since the verdict before\n\n");
    for (what, names) in [("Fails now", &since.new), ("Still fails", &since.still), ("Fixed", &since.fixed)] {
        if !names.is_empty() {
            let more = match names.len().saturating_sub(SHOWN) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            let shown: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
            out.push_str(&format!("- {what}: {}{more}\n", shown.join(", ")));
        }
    }
    let work = &since.work;
    if work.files.is_empty() {
        out.push_str("- Nothing was changed in between.\n");
        return;
    }
    out.push_str("- Committed in between:\n");
    for line in work.commits.iter().chain(&work.files) {
        out.push_str(&format!("  - {line}\n"));
    }
    if work.is_cut {
        out.push_str("  - … and more\n");
    }
}

/// What a check did to the tree that it was to look at.
pub fn changed(check: &CheckResult) -> Option<String> {
    let files = some_files(&check.changed);
    (!check.changed.is_empty()).then(|| format!("changed {files}: put back, it is not part of what lands"))
}

/// How often a check failed before it passed.
pub fn flaky(check: &CheckResult) -> Option<String> {
    let times = |n: u32| if n == 1 { "once".to_owned() } else { format!("{n} times") };
    (check.passed && check.failed_runs > 0).then(|| format!("flaky: failed {} first", times(check.failed_runs)))
}

/// What a check did on the stage's base, where that is worth a word.
pub fn about_base(check: &CheckResult) -> Option<String> {
    let about = match check.base {
        Some(OnBase::Passed) if check.passed => "passed before the stage too: a regression guard",
        Some(OnBase::Passed) => "passed before the stage",
        Some(OnBase::SameFailure) if check.tolerated => {
            "failed in the same way before the stage, and the plan only warns"
        }
        Some(OnBase::SameFailure) => "failed in the same way before the stage",
        Some(OnBase::Failed) if !check.passed => "failed before the stage too, in another way",
        Some(OnBase::Failed) | None => "",
    };
    let both = [about, &check.note].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("; ");
    (!both.is_empty()).then_some(both)
}

/// Why a stage that passed everything is shown as unproven.
pub const UNPROVEN: &str = "unproven: all its checks passed before it too";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_names_the_first_check_that_failed() {
        let check =
            |command: &str, passed| CheckResult { command: command.to_owned(), passed, ..CheckResult::default() };
        let (good, bad, worse) = (check("make", true), check("make test", false), check("make lint", false));
        let on = "on the tree merged with abc";
        assert_eq!(verdict(std::slice::from_ref(&bad), "abc"), format!("the check `make test` failed {on}"));
        assert_eq!(verdict(&[good.clone(), bad.clone()], "abc"), format!("1 of 2 checks failed, `make test`, {on}"));
        assert_eq!(verdict(&[good, bad, worse], "abc"), format!("2 of 3 checks failed, first `make test`, {on}"));
    }
}
