//! What a command did, judged. Pure: the same output, the same verdict.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::counts;
use crate::base::text::{printable, tail};
use crate::model::check::{Check, DeadCode};
use crate::model::limits::{CHECK_FAILURES_MAX, CHECK_OUTPUT_BYTES_MAX, CHECK_TAIL_BYTES_MAX, CHECK_TIMEOUT};
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
}

impl Command {
    pub(super) fn of(check: &Check) -> Command {
        Command {
            check: check.clone(),
            fail_patterns: Vec::new(),
            ignore_patterns: Vec::new(),
            failure_patterns: Vec::new(),
            is_preparation: false,
        }
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
    /// It printed more than it may, and was ended.
    pub(super) overflowed: bool,
    /// What outlived it.
    pub(super) leftovers: Vec<String>,
}

/// Whether the command did what it must do.
pub(super) fn judge(command: &Command, ran: &Ran) -> CheckResult {
    let (stdout, stderr) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    let both = if stderr.is_empty() { stdout.clone().into_owned() } else { format!("{stdout}{stderr}") };
    let said = counts::read(&both);
    let why = unmet(command, ran, &stdout, &stderr)
        .or_else(|| {
            counts::objection(&command.check.command, &said)
                .filter(|_| command.check.exit_code == 0 && !command.is_preparation)
        })
        .or_else(|| forbidden_line(command, &both));
    let failures = if why.is_some() { failures(command, &both) } else { Vec::new() };
    CheckResult {
        command: command.check.command.clone(),
        passed: why.is_none(),
        why,
        exit: match ran.exit {
            Exit::Code { code } => Some(code),
            _ => None,
        },
        duration_ms: u64::try_from(ran.duration.as_millis()).unwrap_or(u64::MAX),
        tail: printable(tail(&both, CHECK_TAIL_BYTES_MAX)).into_owned(),
        output_sha256: crate::base::text::sha256(&[ran.stdout.as_slice(), ran.stderr.as_slice()].concat()),
        evidence: String::new(),
        evidence_sha256: String::new(),
        counts: said.counts,
        failed_runs: 0,
        leftovers: ran.leftovers.clone(),
        failures,
    }
}

fn unmet(command: &Command, ran: &Ran, stdout: &str, stderr: &str) -> Option<String> {
    let check = &command.check;
    if ran.overflowed {
        return Some(format!("it printed more than {} MiB and was ended", CHECK_OUTPUT_BYTES_MAX >> 20));
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

/// The failures in an output, each by a name that stays when line numbers and times change.
fn failures(command: &Command, output: &str) -> Vec<String> {
    let mut found = BTreeSet::new();
    if let Ok(Some(patterns)) = any_of(&command.failure_patterns) {
        found.extend(output.lines().filter(|line| patterns.is_match(line)).map(identity));
    } else {
        found.extend(output.lines().filter_map(counts::failed_test).map(|name| printable(&name).into_owned()));
    }
    found.into_iter().take(CHECK_FAILURES_MAX).collect()
}

/// A line without what differs from run to run: times, addresses and line numbers.
pub(super) fn identity(line: &str) -> String {
    let mut out = String::new();
    let mut in_digits = false;
    for c in line.trim().chars() {
        let is_digit = c.is_ascii_digit();
        if is_digit && !in_digits {
            out.push('#');
        } else if !is_digit {
            out.push(c);
        }
        in_digits = is_digit;
    }
    printable(&out).into_owned()
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
        let failed = |out: &str, patterns: &[&str]| {
            let mut command = Command::of(&Check::command("t"));
            command.failure_patterns = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
            judge(&command, &ran(Exit::Code { code: 1 }, out, "")).failures
        };
        let one = "test a::b ... FAILED\ntest result: FAILED. 1 passed; 1 failed; 0 ignored; finished in 0.10s";
        assert_eq!(failed(one, &[]), ["a::b"]);
        assert_eq!(failed("x.c:10: boom after 12 ms\nfine", &["boom"]), failed("x.c:9: boom after 7 ms", &["boom"]));
        assert_ne!(failed("boom", &["b"]), failed("bang", &["b"]));
    }

    #[test]
    fn what_is_left_out_is_said() {
        assert_eq!(head_and_tail(b"abc", 4), b"abc");
        assert_eq!(head_and_tail(b"abcdef", 4), b"ab\n--- 2 bytes are left out ---\nef");
    }
}
