//! What a command did, judged. Pure: the same output, the same verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::counts;
use super::identity::{fingerprint, identity};
use crate::base::text::{printable, sha256, tail};
use crate::model::check::{ChangeImpact, Check, DeadCode, Policy};
use crate::model::limits::{
    CHECK_FAILURES_MAX, CHECK_OUTPUT_BYTES_MAX, CHECK_TAIL_BYTES_MAX, CHECK_TIMEOUT, IMPACT_FAILURES_MAX,
};
use crate::model::session::Exit;
use crate::model::stage::CheckResult;

/// A check that is a command, with everything that decides about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Command {
    pub(super) check: Check,
    /// A line that matches one of these is a failure, whatever the exit status …
    #[serde(default)]
    pub(super) fail_patterns: Vec<String>,
    /// … unless it matches one of these.
    #[serde(default)]
    pub(super) ignore_patterns: Vec<String>,
    /// What names a single failure; none: what is known about common test runners.
    #[serde(default)]
    pub(super) failure_patterns: Vec<String>,
    /// It proves nothing and only has to succeed: what it says of tests does not count.
    #[serde(default)]
    pub(super) is_preparation: bool,
    /// It is not judged here: its failures are compared with those of another tree. This is the
    /// name of its result.
    #[serde(default)]
    pub(super) lists_for: Option<String>,
}

impl Command {
    pub(super) fn of(check: &Check) -> Command {
        Command {
            check: check.clone(),
            fail_patterns: Vec::new(),
            ignore_patterns: Vec::new(),
            failure_patterns: Vec::new(),
            is_preparation: false,
            lists_for: None,
        }
    }

    /// One side of a comparison.
    pub(super) fn of_impact(impact: &ChangeImpact, command: &str) -> Command {
        Command {
            failure_patterns: impact.failure_patterns.clone(),
            lists_for: Some(impact.label()),
            ..Command::of(&Check { from_top: true, ..Check::command(command) })
        }
    }

    /// Digest of what is run and how it is judged: the same key, the same question.
    pub(super) fn key(&self) -> String {
        let check = &self.check;
        let check = Check {
            guard: false,
            parallel: false,
            retries: 0,
            policy: Policy::Fail,
            description: None,
            ..check.clone()
        };
        let lists_for = self.lists_for.as_ref().map(|_| String::new());
        let plain = Command { check, lists_for, ..self.clone() };
        sha256(&serde_json::to_vec(&plain).unwrap_or_default())[..16].to_owned()
    }

    /// A tool that names dead code: its lines count, and its exit status only when it did not run.
    pub(super) fn of_dead_code(dead: &DeadCode) -> Command {
        Command {
            fail_patterns: dead.fail_patterns.clone(),
            ignore_patterns: dead.ignore_patterns.clone(),
            ..Command::of(&Check::command(dead.command.clone()))
        }
    }

    /// Whether an exit status other than the wanted one says that it did not do its work.
    fn fails_by(&self, code: i32) -> bool {
        let did_not_run = matches!(code, 126 | 127);
        code != self.check.exit_code && (self.fail_patterns.is_empty() || did_not_run)
    }
}

/// What one run of a command did.
#[derive(Debug)]
pub(super) struct Ran {
    pub(super) exit: Exit,
    pub(super) duration: Duration,
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    /// It printed more than it may.
    pub(super) overflowed: bool,
    /// What outlived it.
    pub(super) leftovers: Vec<String>,
}

/// Whether the command did what it must do.
pub(super) fn judge(command: &Command, ran: &Ran) -> CheckResult {
    let (stdout, stderr) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    let both = if stderr.is_empty() { stdout.clone().into_owned() } else { format!("{stdout}{stderr}") };
    let said = counts::read(&both);
    let mut why = unmet(command, ran, &stdout, &stderr)
        .or_else(|| {
            counts::objection(&command.check.command, &said)
                .filter(|_| command.check.exit_code == 0 && !command.is_preparation)
        })
        .or_else(|| forbidden_line(command, &both));
    let failures = if command.lists_for.is_some() {
        let found = listed(command, &both, why.as_deref());
        why = Some("it was not compared with the base".to_owned());
        found
    } else if why.is_some() {
        failures(&both)
    } else {
        Vec::new()
    };
    CheckResult {
        command: command.lists_for.as_ref().unwrap_or(&command.check.command).clone(),
        identity: why.as_deref().map(|why| fingerprint(why, &both)).unwrap_or_default(),
        passed: why.is_none(),
        why,
        exit: match ran.exit {
            Exit::Code { code } => Some(code),
            _ => None,
        },
        duration_ms: u64::try_from(ran.duration.as_millis()).unwrap_or(u64::MAX),
        tail: printable(tail(&both, CHECK_TAIL_BYTES_MAX)).into_owned(),
        output_sha256: sha256(&[ran.stdout.as_slice(), ran.stderr.as_slice()].concat()),
        evidence: String::new(),
        evidence_sha256: String::new(),
        counts: said.counts,
        failed_runs: 0,
        leftovers: ran.leftovers.clone(),
        failures,
        ..CheckResult::default()
    }
}

/// A command that there is no place to run in.
pub(super) fn nowhere(command: &Command, why: &str) -> CheckResult {
    CheckResult {
        command: command.lists_for.as_ref().unwrap_or(&command.check.command).clone(),
        identity: fingerprint(why, ""),
        why: Some(why.to_owned()),
        ..CheckResult::default()
    }
}

fn unmet(command: &Command, ran: &Ran, stdout: &str, stderr: &str) -> Option<String> {
    let check = &command.check;
    if ran.overflowed {
        return Some(format!("it printed more than {} MiB", CHECK_OUTPUT_BYTES_MAX >> 20));
    }
    match ran.exit {
        Exit::Code { code } if !command.fails_by(code) => {}
        Exit::Code { code: 127 } => {
            return Some("exit status 127: a program it calls is not installed or not on PATH".to_owned());
        }
        Exit::Code { code } => return Some(format!("exit status {code}, expected {}", check.exit_code)),
        Exit::TimedOut => {
            let limit = check.timeout_secs.unwrap_or(CHECK_TIMEOUT.as_secs());
            return Some(format!("it did not end within {limit} s"));
        }
        other => return Some(format!("it was ended by {other}")),
    }
    if let Some(text) = check.stdout_contains.iter().find(|text| !stdout.contains(text.as_str())) {
        return Some(format!("standard output does not contain `{text}`"));
    }
    if let Some(text) = check.stdout_not_contains.iter().find(|text| stdout.contains(text.as_str())) {
        return Some(format!("standard output contains `{text}`"));
    }
    if let Some(text) = check.stderr_contains.iter().find(|text| !stderr.contains(text.as_str())) {
        return Some(format!("standard error does not contain `{text}`"));
    }
    (check.stderr_empty && !stderr.is_empty()).then(|| "standard error is not empty".to_owned())
}

fn forbidden_line(command: &Command, output: &str) -> Option<String> {
    let fail = match any_of(&command.fail_patterns) {
        Ok(None) => return None,
        Ok(Some(fail)) => fail,
        Err(why) => return Some(why),
    };
    let ignore = match any_of(&command.ignore_patterns) {
        Ok(ignore) => ignore,
        Err(why) => return Some(why),
    };
    let is_ignored = |line: &str| ignore.as_ref().is_some_and(|ignore| ignore.is_match(line));
    let lines: Vec<&str> = output.lines().filter(|line| fail.is_match(line) && !is_ignored(line)).collect();
    let first = lines.first()?;
    Some(format!("{} must not be there: `{}`", crate::base::text::count(lines.len(), "line"), printable(first.trim())))
}

/// One expression for a list of them; none when the list is empty.
pub(super) fn any_of(patterns: &[String]) -> Result<Option<regex::RegexSet>, String> {
    if patterns.is_empty() {
        return Ok(None);
    }
    regex::RegexSetBuilder::new(patterns)
        .size_limit(1 << 20)
        .build()
        .map(Some)
        .map_err(|error| format!("the plan's expression cannot be read: {error}"))
}

/// The failed tests in an output, by the names that common runners give them.
fn failures(output: &str) -> Vec<String> {
    let names = output.lines().filter_map(counts::failed_test);
    let found: BTreeSet<String> = names.map(|name| printable(&name).into_owned()).collect();
    found.into_iter().take(CHECK_FAILURES_MAX).collect()
}

/// Every failure in the output of a whole suite: what the plan's expressions name, else what common
/// runners do. Two of one name are two. One that says nothing of a failure and fails is one itself.
/// One more than the limit: there are more.
fn listed(command: &Command, output: &str, why: Option<&str>) -> Vec<String> {
    let compiled: Result<Vec<regex::Regex>, _> =
        command.failure_patterns.iter().map(|one| regex::Regex::new(one)).collect();
    let patterns = match compiled {
        Ok(patterns) => patterns,
        Err(error) => return vec![format!("the plan's expression cannot be read: {error}")],
    };
    let name = |line: &str| {
        if patterns.is_empty() {
            return counts::failed_test(line).map(|name| printable(&name).into_owned());
        }
        let line = counts::plain(line);
        let found = patterns.iter().find_map(|pattern| pattern.captures(&line))?;
        let group = (1..found.len()).find_map(|at| found.get(at)).or_else(|| found.get(0))?;
        Some(identity(group.as_str()))
    };
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for line in output.lines() {
        if let Some(name) = name(line).filter(|name| !name.is_empty()) {
            *times.entry(name).or_default() += 1;
        }
    }
    if times.is_empty() {
        return why.map(|why| format!("the command itself: {}", identity(why))).into_iter().collect();
    }
    let each = times
        .into_iter()
        .flat_map(|(name, n)| (1..=n).map(move |at| if at == 1 { name.clone() } else { format!("{name} ({at})") }));
    each.take(IMPACT_FAILURES_MAX + 1).collect()
}

/// The start and the end of `bytes`, within `most`, with a line that says what is left out.
pub(super) fn head_and_tail(bytes: &[u8], most: usize) -> Vec<u8> {
    if bytes.len() <= most {
        return bytes.to_vec();
    }
    let half = most / 2;
    let mut out = bytes[..half].to_vec();
    out.extend_from_slice(format!("\n--- {} bytes are left out ---\n", bytes.len() - 2 * half).as_bytes());
    out.extend_from_slice(&bytes[bytes.len() - half..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(exit: Exit, stdout: &str, stderr: &str) -> Ran {
        Ran {
            exit,
            duration: Duration::ZERO,
            stdout: stdout.into(),
            stderr: stderr.into(),
            overflowed: false,
            leftovers: Vec::new(),
        }
    }

    fn why(check: Check, exit: Exit, stdout: &str, stderr: &str) -> Option<String> {
        judge(&Command::of(&check), &ran(exit, stdout, stderr)).why
    }

    const OK: Exit = Exit::Code { code: 0 };

    #[test]
    fn a_check_passes_only_when_everything_holds() {
        let check = || Check::command("x");
        assert_eq!(why(check(), OK, "", ""), None);
        assert_eq!(why(Check { exit_code: 3, ..check() }, Exit::Code { code: 3 }, "", ""), None);
        for (check, exit, out, err) in [
            (check(), Exit::Code { code: 1 }, "", ""),
            (check(), Exit::Lost, "", ""),
            (check(), Exit::TimedOut, "", ""),
            (check(), Exit::UnixSignal { signal: 9 }, "", ""),
            (check(), Exit::NeverStarted, "", ""),
            (Check { stdout_contains: vec!["ok".into()], ..check() }, OK, "no", ""),
            (Check { stdout_not_contains: vec!["bad".into()], ..check() }, OK, "bad", ""),
            (Check { stderr_contains: vec!["ok".into()], ..check() }, OK, "ok", ""),
            (Check { stderr_empty: true, ..check() }, OK, "", "x"),
        ] {
            assert!(why(check.clone(), exit, out, err).is_some(), "{check:?} passed with {exit:?}");
        }
        let flood = Ran { overflowed: true, ..ran(OK, "", "") };
        assert!(!judge(&Command::of(&check()), &flood).passed);
    }

    #[test]
    fn dead_code_is_what_fails_and_is_not_ignored() {
        let mut command = Command::of(&Check::command("lint"));
        command.fail_patterns = vec!["unused".to_owned(), "never (read|used)".to_owned()];
        command.ignore_patterns = vec!["^tests/".to_owned()];
        let judged = |out: &str| judge(&command, &ran(OK, out, "")).why;
        assert_eq!(judged("fine\ntests/a.rs: unused\n"), None);
        assert_eq!(
            judged("src/a.rs: unused x\nsrc/b.rs: never read").as_deref(),
            Some("2 lines must not be there: `src/a.rs: unused x`")
        );
        command.fail_patterns = vec!["(".to_owned()];
        assert!(judge(&command, &ran(OK, "", "")).why.unwrap().contains("cannot be read"));
    }

    #[test]
    fn failures_have_names_that_stay() {
        let failed =
            |out: &str| judge(&Command::of(&Check::command("t")), &ran(Exit::Code { code: 1 }, out, "")).failures;
        let one = "test a::b ... FAILED\ntest result: FAILED. 1 passed; 1 failed; 0 ignored; finished in 0.10s";
        assert_eq!(failed(one), ["a::b"]);
    }

    #[test]
    fn a_suite_names_its_failures_and_is_one_where_it_names_none() {
        let impact = |patterns: &[&str]| ChangeImpact {
            baseline_command: "t".to_owned(),
            compare_command: None,
            failure_patterns: patterns.iter().map(|pattern| (*pattern).to_owned()).collect(),
            policy: crate::model::check::ImpactPolicy::Fail,
        };
        let listed = |out: &str, code: i32, patterns: &[&str]| {
            judge(&Command::of_impact(&impact(patterns), "t"), &ran(Exit::Code { code }, out, "")).failures
        };
        assert_eq!(
            listed("FAIL a.c:10 boom\nfine\nFAIL b 2\nFAIL b 2", 1, &["^FAIL (.*)"]),
            ["a.c:# boom", "b 2", "b 2 (2)"]
        );
        assert_eq!(listed("FAIL a", 0, &["^FAIL"]), ["FAIL"], "the whole match, whatever the exit status");
        assert_eq!(listed("test a::b ... FAILED", 1, &[]), ["a::b"]);
        assert_eq!(listed("it does not compile", 2, &["^FAIL"]), ["the command itself: exit status 2, expected 0"]);
        assert_eq!(listed("fine", 0, &["^FAIL"]), [""; 0]);
        let many: String = (0..2_000).map(|n| format!("FAIL {n}\n")).collect();
        assert_eq!(listed(&many, 1, &["^FAIL .*"]).len(), IMPACT_FAILURES_MAX + 1);
    }

    #[test]
    fn what_is_left_out_is_said() {
        assert_eq!(head_and_tail(b"abc", 4), b"abc");
        assert_eq!(head_and_tail(b"abcdef", 4), b"ab\n--- 2 bytes are left out ---\nef");
    }
}
