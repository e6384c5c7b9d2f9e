//! Which failure is which, from run to run: its words without line numbers, times,
//! addresses and names of temporary files.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

use super::counts;
use crate::base::text::{printable, sha256};
use crate::model::limits::IDENTITY_LINES_MAX;

/// What differs from run to run, and what stands for it. In this order.
const PASSING: [(&str, &str); 10] = [
    (r"\b[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}\b", "#"),
    (r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d([.,]\d+)?)?(Z|[+-]\d\d:?\d\d)?", "#"),
    (r"\b\d{1,2}:\d\d:\d\d([.,]\d+)?\b", "#"),
    (r"\b0x[0-9a-fA-F]+\b", "0x#"),
    (r#"(/tmp|/private/var/folders/[^/\s]+/[^/\s]+/T|/var/folders/[^/\s]+/[^/\s]+/T)/[^\s/:'"`)\]]+"#, "$1/#"),
    (r"/(\.?tmp\.?)[A-Za-z0-9]{6,}", "/$1#"),
    (r"\b\d+(\.\d+)?\s?(ns|µs|us|ms|s|secs?|seconds?|min|minutes?)\b", "# s"),
    // A place in a file: `a.rs:10:5`, `a.ts(10,5)`, `line 10`.
    (r"(\.[A-Za-z]\w{0,7})(:\d+(:\d+)?|\(\d+(,\d+)?\))", "$1:#"),
    (r"\b([Ll]ine|pid|PID)([ =:]+)\d+", "$1$2#"),
    (r"(thread '[^']*') \(\d+\)", "$1 (#)"),
];

static RULES: LazyLock<Vec<(Regex, &str)>> =
    LazyLock::new(|| PASSING.iter().filter_map(|(rule, by)| Some((Regex::new(rule).ok()?, *by))).collect());

/// A line, or a name, without what differs from run to run.
pub(super) fn identity(line: &str) -> String {
    let line = counts::plain(line);
    let mut out = Cow::Borrowed(line.trim());
    // Most of it needs a digit, all of it a digit or a folder.
    if out.bytes().any(|byte| byte.is_ascii_digit() || byte == b'/') {
        for (rule, by) in RULES.iter() {
            if let Cow::Owned(replaced) = rule.replace_all(&out, *by) {
                out = Cow::Owned(replaced);
            }
        }
    }
    printable(&out).into_owned()
}

/// A digest of how something failed. The order of lines does not count: what runs in parallel
/// prints in any order.
pub(super) fn fingerprint(why: &str, output: &str) -> String {
    let all: Vec<&str> = output.lines().filter(|line| !line.trim().is_empty()).collect();
    let start = all.len().saturating_sub(IDENTITY_LINES_MAX);
    let mut lines: Vec<String> = all[start..].iter().map(|line| identity(line)).collect();
    lines.sort();
    lines.push(identity(why));
    sha256(lines.join("\n").as_bytes())[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_from_run_to_run_does_not_count() {
        for (one, other) in [
            ("x.c:10: boom after 12 ms", "x.c:9: boom after 7.5 ms"),
            ("a.rs:10:5: boom", "a.rs:110:25: boom"),
            ("a.ts(10,5): boom", "a.ts(1,2): boom"),
            ("File \"a.py\", line 3, in f", "File \"a.py\", line 33, in f"),
            ("at 0x7ffe1234", "at 0x55d0aa"),
            ("in /tmp/x.Ab12Cd/a.txt", "in /tmp/y9/a.txt"),
            ("in /home/u/cache/.tmpAb12Cd/a", "in /home/u/cache/.tmpZZ34xy/a"),
            ("2024-01-02T03:04:05Z boom", "2025-11-12T13:14:15.123Z boom"),
            ("12:00:01 boom", "1:59:59.5 boom"),
            ("thread 'main' (12) panicked at a.rs:1:2", "thread 'main' (99) panicked at a.rs:3:4"),
            ("\u{1b}[31mboom\u{1b}[0m", "  boom"),
            ("id 123e4567-e89b-12d3-a456-426614174000", "id 00000000-0000-0000-0000-000000000000"),
        ] {
            assert_eq!(identity(one), identity(other));
        }
    }

    #[test]
    fn what_names_a_failure_counts() {
        for (one, other) in [
            ("FAIL test_1", "FAIL test_2"),
            ("FAIL a[3]", "FAIL a[4]"),
            ("x.c:10: boom", "y.c:10: boom"),
            ("expected 3", "expected 4"),
            ("retry_5s", "retry_6s"),
        ] {
            assert_ne!(identity(one), identity(other));
        }
    }

    #[test]
    fn a_fingerprint_is_of_the_words_in_any_order() {
        assert_eq!(fingerprint("exit", "a 1 ms\n\nb\n"), fingerprint("exit", "b\na 2 ms"));
        assert_ne!(fingerprint("exit", "a"), fingerprint("exit", "b"));
        assert_ne!(fingerprint("exit 1", "a"), fingerprint("exit 2", "a"));
    }
}
