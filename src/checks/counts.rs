//! What test runners say about how many tests they ran: a suite that ran
//! nothing, or that broke off, has proven nothing, whatever its exit status.

use crate::model::stage::Counts;

/// What an output says about tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Said {
    /// The sum of all summaries; none when there was none.
    pub(super) counts: Option<Counts>,
    /// Test programs that said that they begin and never how they ended.
    pub(super) broke_off: bool,
}

/// Reads every summary in an output.
pub(super) fn read(output: &str) -> Said {
    let mut total: Option<Counts> = None;
    let (mut begun, mut ended) = (0_u32, 0_u32);
    for line in output.lines() {
        let line = plain(line);
        let line = line.trim();
        begun += u32::from(cargo_begins(line));
        ended += u32::from(line.starts_with("test result: "));
        if let (Some(sum), Some(skipped)) = (total.as_mut(), skipped_after(line)) {
            sum.ran = sum.ran.saturating_sub(skipped);
            sum.skipped += skipped;
        } else if let Some(counts) = summary(line) {
            let sum = total.get_or_insert_default();
            sum.ran += counts.ran;
            sum.failed += counts.failed;
            sum.skipped += counts.skipped;
        }
    }
    Said { counts: total, broke_off: begun > ended }
}

/// Why what a runner said (or did not say) is no proof, although it ended with 0.
pub(super) fn objection(command: &str, said: &Said) -> Option<String> {
    if said.broke_off {
        return Some("a test program broke off before it said how its tests ended".to_owned());
    }
    match said.counts {
        Some(Counts { ran: 0, skipped: 0, .. }) => Some("it ran no test".to_owned()),
        Some(Counts { ran: 0, skipped, .. }) => Some(format!("it ran no test: {skipped} were skipped")),
        Some(_) => None,
        None if is_runner(command) => Some("its test runner ended with 0 and said nothing about tests".to_owned()),
        None => None,
    }
}

/// Whether the command is, for itself, a runner that always says how many tests it ran.
fn is_runner(command: &str) -> bool {
    const SILENT: [&str; 9] =
        ["--no-run", "--help", "--version", "--list", "--collect-only", "--co", "-qq", "-c", "--fixtures"];
    if command.contains(['|', '>', '<', '\n', ';', '&', '$', '`']) {
        return false;
    }
    let words: Vec<&str> = command.split_whitespace().skip_while(|word| word.contains('=')).collect();
    if words.iter().any(|word| SILENT.contains(word)) {
        return false;
    }
    matches!(words.as_slice(), ["pytest", ..] | ["cargo", "test", ..] | ["go", "test", ..] | ["node", "--test", ..])
        || matches!(words.as_slice(), [python, "-m", "pytest" | "unittest", ..] if python.starts_with("python"))
}

fn cargo_begins(line: &str) -> bool {
    let number =
        line.strip_prefix("running ").and_then(|rest| rest.strip_suffix(" tests").or(rest.strip_suffix(" test")));
    number.is_some_and(|number| number.parse::<u64>().is_ok())
}

/// A line without the colours of a terminal.
pub(super) fn plain(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            // A control sequence ends at its first letter.
            for c in chars.by_ref() {
                if c.is_ascii_alphabetic() {
                    break;
                }
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// The counts of a summary line; none: it is none.
fn summary(line: &str) -> Option<Counts> {
    cargo(line)
        .or_else(|| pytest(line))
        .or_else(|| unittest(line))
        .or_else(|| node(line))
        .or_else(|| javascript(line))
        .or_else(|| go(line))
        .or_else(|| java(line))
        .or_else(|| ruby(line))
        .or_else(|| php(line))
        .or_else(|| dotnet(line))
        .or_else(|| deno(line))
        .or_else(|| ctest(line))
        .or_else(|| tap(line))
}

/// Tests that a summary counted as run and a later line says were skipped: unittest's
/// `OK (skipped=3)`, `# skipped 3` of node.
fn skipped_after(line: &str) -> Option<u64> {
    if let Some(rest) = line.strip_prefix("# skipped ").or_else(|| line.strip_prefix("ℹ skipped ")) {
        return rest.trim().parse().ok();
    }
    let rest = line.strip_prefix("OK (").or_else(|| line.strip_prefix("FAILED ("))?;
    let mut parts = rest.strip_suffix(')')?.split(", ");
    parts.find_map(|part| part.strip_prefix("skipped="))?.parse().ok()
}

/// The number right before `word`.
fn before(line: &str, word: &str) -> Option<u64> {
    let at = line.find(word)?;
    line[..at].trim_end().rsplit(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn counts(ran: u64, failed: u64, skipped: u64) -> Option<Counts> {
    Some(Counts { ran, failed, skipped })
}

/// `test result: ok. 3 passed; 0 failed; 1 ignored; …` and nextest's `Summary [ 0.1s] 3 tests run: 3 passed, 0 skipped`.
fn cargo(line: &str) -> Option<Counts> {
    let skipped;
    if line.starts_with("test result: ") {
        skipped = before(line, " ignored").unwrap_or(0);
    } else if line.starts_with("Summary [") && line.contains(" run: ") {
        skipped = before(line, " skipped").unwrap_or(0);
    } else {
        return None;
    }
    let failed = before(line, " failed").unwrap_or(0);
    counts(before(line, " passed").unwrap_or(0) + failed, failed, skipped)
}

/// `=== 2 passed, 1 skipped in 0.12s ===`, `no tests ran in 0.01s`.
fn pytest(line: &str) -> Option<Counts> {
    let line = line.trim_matches('=').trim();
    if line.starts_with("no tests ran") {
        return counts(0, 0, 0);
    }
    let (said, time) = line.rsplit_once(" in ")?;
    if !time.split(' ').next()?.strip_suffix('s')?.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return None;
    }
    const WORDS: [&str; 8] = ["passed", "failed", "skipped", "error", "errors", "deselected", "xfailed", "xpassed"];
    let known = said.split(", ").all(|part| {
        let Some((number, word)) = part.split_once(' ') else { return false };
        number.parse::<u64>().is_ok() && (WORDS.contains(&word) || word.starts_with("warning") || word == "rerun")
    });
    if !known {
        return None;
    }
    let of = |word: &str| said.split(", ").filter_map(|part| part.split_once(' ')).find(|part| part.1 == word);
    let number = |word: &str| of(word).and_then(|(number, _)| number.parse().ok()).unwrap_or(0_u64);
    let failed = number("failed") + number("error") + number("errors");
    let ran = number("passed") + failed + number("xpassed") + number("xfailed");
    counts(ran, failed, number("skipped"))
}

/// `Ran 3 tests in 0.001s`.
fn unittest(line: &str) -> Option<Counts> {
    let rest = line.strip_prefix("Ran ")?;
    let (number, rest) = rest.split_once(' ')?;
    (rest.starts_with("test in ") || rest.starts_with("tests in ")).then_some(())?;
    counts(number.parse().ok()?, 0, 0)
}

/// `# tests 3` of TAP, `ℹ tests 3` of node.
fn node(line: &str) -> Option<Counts> {
    let rest = line.strip_prefix("# tests ").or_else(|| line.strip_prefix("ℹ tests "))?;
    counts(rest.trim().parse().ok()?, 0, 0)
}

/// jest's `Tests: 1 failed, 2 passed, 3 total`, vitest's `Tests  2 passed (2)`, mocha's `3 passing (2ms)`.
fn javascript(line: &str) -> Option<Counts> {
    if let Some(rest) = line.strip_prefix("Tests:").or_else(|| line.strip_prefix("Tests  ")) {
        let is_summary = rest.contains(" total")
            || rest.contains(" passed")
            || rest.contains(" failed")
            || rest.contains(" skipped");
        is_summary.then_some(())?;
        let failed = before(rest, " failed").unwrap_or(0);
        return counts(before(rest, " passed").unwrap_or(0) + failed, failed, before(rest, " skipped").unwrap_or(0));
    }
    // `--passWithNoTests` of jest and vitest.
    let is_none = ["No tests found", "No test found", "No test files found", "No test suite found"];
    if is_none.iter().any(|start| line.starts_with(start)) && line.contains("exiting with code") {
        return counts(0, 0, 0);
    }
    let passing = line.split_once(" passing (")?;
    counts(passing.0.parse().ok()?, 0, 0)
}

/// A line for each package: `ok`, `?` or `FAIL`, a tab, and `[no test files]` or `[no tests to run]`.
fn go(line: &str) -> Option<Counts> {
    let (word, rest) = line.split_once('\t')?;
    match word.trim() {
        "?" if rest.ends_with("[no test files]") => counts(0, 0, 0),
        "ok" if rest.contains("[no tests to run]") => counts(0, 0, 0),
        "ok" if rest.contains('\t') => counts(1, 0, 0),
        "FAIL" if rest.contains('\t') => counts(1, 1, 0),
        _ => None,
    }
}

/// `Tests run: 3, Failures: 0, Errors: 0, Skipped: 0` (without the time: the sum of all classes).
fn java(line: &str) -> Option<Counts> {
    let line = line.trim_start_matches("[INFO]").trim_start_matches("[ERROR]").trim_start_matches("[WARNING]").trim();
    let rest = line.strip_prefix("Tests run: ")?;
    if rest.contains("Time elapsed") {
        return None;
    }
    let of = |word: &str| {
        let rest = &rest[rest.find(word)? + word.len()..];
        rest.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
    };
    let ran = rest.split(',').next()?.parse::<u64>().ok()?;
    let skipped = of("Skipped: ").unwrap_or(0);
    counts(ran - skipped.min(ran), of("Failures: ").unwrap_or(0) + of("Errors: ").unwrap_or(0), skipped)
}

/// `3 examples, 0 failures, 1 pending` of rspec, `3 runs, 5 assertions, 0 failures, 0 errors, 1 skips`
/// of minitest, `3 tests, 0 failures, 1 skipped` of ExUnit, bats and test-unit.
fn ruby(line: &str) -> Option<Counts> {
    let number_and_word = |part: &'_ str| {
        let (number, word) = part.split_once(' ')?;
        Some((number.parse::<u64>().ok()?, word.to_owned()))
    };
    let parts: Vec<(u64, String)> =
        line.trim_end_matches('.').split(", ").map(number_and_word).collect::<Option<_>>()?;
    let (all, what) = parts.first()?;
    let is_all = matches!(what.as_str(), "example" | "examples" | "run" | "runs" | "test" | "tests");
    (is_all && parts.iter().any(|(_, word)| word.starts_with("failure"))).then_some(())?;
    let of = |words: &[&str]| {
        parts.iter().filter(|(_, word)| words.contains(&word.as_str())).map(|(number, _)| number).sum::<u64>()
    };
    let skipped = of(&["pending", "pendings", "skips", "skip", "skipped", "omissions", "excluded"]);
    let failed = of(&["failure", "failures", "error", "errors"]);
    counts(all.saturating_sub(skipped), failed, skipped)
}

/// `OK (3 tests, 5 assertions)`, `Tests: 3, Assertions: 5, Failures: 1, Skipped: 1.`, `No tests executed!`.
fn php(line: &str) -> Option<Counts> {
    if line == "No tests executed!" {
        return counts(0, 0, 0);
    }
    if let Some(rest) = line.strip_prefix("OK (").filter(|rest| rest.contains(" assertion")) {
        return counts(rest.split(' ').next()?.parse().ok()?, 0, 0);
    }
    let rest = line.strip_prefix("Tests: ").filter(|rest| rest.contains(", Assertions: "))?;
    let of = |word: &str| {
        let mut parts = rest.trim_end_matches('.').split(", ").filter_map(|part| part.split_once(": "));
        parts.find(|part| part.0 == word).and_then(|part| part.1.parse::<u64>().ok()).unwrap_or(0)
    };
    let skipped = of("Skipped") + of("Incomplete");
    let ran = rest.split(',').next()?.parse::<u64>().ok()?;
    counts(ran.saturating_sub(skipped), of("Failures") + of("Errors"), skipped)
}

/// `Passed!  - Failed:     0, Passed:     3, Skipped:     0, Total:     3, …`, `No test is available in …`.
fn dotnet(line: &str) -> Option<Counts> {
    if line.starts_with("No test is available in ") || line.starts_with("No test matches the given testcase filter") {
        return counts(0, 0, 0);
    }
    let rest = line.split_once("! ").filter(|(word, _)| matches!(*word, "Passed" | "Failed" | "Skipped"))?.1;
    let of = |word: &str| rest.split_once(word)?.1.split(',').next()?.trim().parse::<u64>().ok();
    let failed = of("Failed:")?;
    counts(of("Passed:")? + failed, failed, of("Skipped:")?)
}

/// `ok | 3 passed | 0 failed | 1 ignored (5ms)`.
fn deno(line: &str) -> Option<Counts> {
    let rest = line.strip_prefix("ok | ").or_else(|| line.strip_prefix("FAILED | "))?;
    let failed = before(rest, " failed")?;
    counts(before(rest, " passed")? + failed, failed, before(rest, " ignored").unwrap_or(0))
}

/// `100% tests passed, 0 tests failed out of 3`, `No tests were found!!!`.
fn ctest(line: &str) -> Option<Counts> {
    if line == "No tests were found!!!" {
        return counts(0, 0, 0);
    }
    let (said, all) = line.split_once(" tests failed out of ")?;
    line.contains("% tests passed").then_some(())?;
    counts(all.trim().parse().ok()?, said.rsplit(' ').next()?.parse().ok()?, 0)
}

/// `1..0` of a test program, `Files=1, Tests=3, …` and `Result: NOTESTS` of prove.
fn tap(line: &str) -> Option<Counts> {
    if line == "1..0" || line.starts_with("1..0 #") || line == "Result: NOTESTS" {
        return counts(0, 0, 0);
    }
    let rest = line.strip_prefix("Files=")?.split_once(", Tests=")?.1;
    counts(rest.split(',').next()?.parse().ok()?, 0, 0)
}

/// The name of the failed test that a line is about.
pub(super) fn failed_test(line: &str) -> Option<String> {
    let line = plain(line);
    let line = line.trim();
    let name = if let Some(rest) = line.strip_prefix("test ") {
        rest.strip_suffix(" ... FAILED")
    } else if let Some(rest) = line.strip_prefix("FAILED ") {
        // pytest: what follows the name is the message.
        Some(rest.split(" - ").next().unwrap_or(rest))
    } else if let Some(rest) = line.strip_prefix("--- FAIL: ") {
        rest.split(' ').next()
    } else if let Some(rest) = line.strip_prefix("not ok ") {
        rest.split_once(" - ").map(|(_, name)| name)
    } else {
        let rest = line.strip_prefix("✖ ").or_else(|| line.strip_prefix("● "));
        rest.map(|rest| rest.rsplit_once(" (").map_or(rest, |(name, _)| name))
    };
    name.map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_of_common_runners_are_read() {
        for (output, ran, failed, skipped) in [
            ("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.00s", 3, 0, 1),
            ("     Summary [   0.1s] 12 tests run: 11 passed, 1 failed, 2 skipped", 12, 1, 2),
            ("===== 2 passed, 1 skipped in 0.12s =====", 2, 0, 1),
            ("\u{1b}[32m2 passed\u{1b}[0m in 0.01s", 2, 0, 0),
            ("1 failed, 2 passed, 3 warnings in 1.5s", 3, 1, 0),
            ("no tests ran in 0.01s", 0, 0, 0),
            ("1 deselected in 0.01s", 0, 0, 0),
            ("Ran 4 tests in 0.001s", 4, 0, 0),
            ("# tests 5", 5, 0, 0),
            ("ℹ tests 0", 0, 0, 0),
            ("Tests:       1 failed, 2 passed, 3 total", 3, 1, 0),
            ("      Tests  2 passed (2)", 2, 0, 0),
            ("  3 passing (2ms)", 3, 0, 0),
            ("ok  \texample.com/a\t0.01s", 1, 0, 0),
            ("?   \texample.com/a\t[no test files]", 0, 0, 0),
            ("ok  \texample.com/a\t0.01s [no tests to run]", 0, 0, 0),
            ("[INFO] Tests run: 3, Failures: 0, Errors: 1, Skipped: 1", 2, 1, 1),
            ("Ran 3 tests in 0.001s\n\nOK (skipped=3)", 0, 0, 3),
            ("# tests 3\n# pass 2\n# skipped 1", 2, 0, 1),
            ("No tests found, exiting with code 0", 0, 0, 0),
            ("No test files found, exiting with code 0", 0, 0, 0),
            ("3 examples, 0 failures", 3, 0, 0),
            ("3 examples, 0 failures, 3 pending", 0, 0, 3),
            ("0 runs, 0 assertions, 0 failures, 0 errors, 0 skips", 0, 0, 0),
            ("4 runs, 5 assertions, 1 failures, 0 errors, 1 skips", 3, 1, 1),
            ("5 tests, 0 failures", 5, 0, 0),
            ("OK (3 tests, 5 assertions)", 3, 0, 0),
            ("Tests: 3, Assertions: 5, Failures: 1, Skipped: 1.", 2, 1, 1),
            ("No tests executed!", 0, 0, 0),
            ("No tests were found!!!", 0, 0, 0),
            ("100% tests passed, 0 tests failed out of 3", 3, 0, 0),
            ("1..0", 0, 0, 0),
            ("Files=1, Tests=3,  0 wallclock secs", 3, 0, 0),
            ("Files=0, Tests=0,  0 wallclock secs\nResult: NOTESTS", 0, 0, 0),
            ("ok | 0 passed | 0 failed (5ms)", 0, 0, 0),
            ("ok | 3 passed | 0 failed | 1 ignored (5ms)", 3, 0, 1),
            ("Passed!  - Failed:     0, Passed:     3, Skipped:     1, Total:     4, Duration: 5 ms", 3, 0, 1),
            ("No test is available in /a/b.dll. Make sure that …", 0, 0, 0),
        ] {
            assert_eq!(read(output).counts, Some(Counts { ran, failed, skipped }), "{output}");
        }
        for prose in [
            "we passed in 3s",
            "all tests",
            "ok then",
            "Ran away in 3s",
            "Tests: see below",
            "a in 2s",
            "1..3",
            "OK (skipped=1)",
            "2 tests, as ever",
            "ok | fine",
        ] {
            assert_eq!(read(prose).counts, None, "{prose}");
        }
    }

    #[test]
    fn a_suite_that_ran_nothing_or_broke_off_proves_nothing() {
        let objects = |command: &str, output: &str| objection(command, &read(output));
        let done = "running 2 tests\ntest result: ok. 2 passed; 0 failed; 0 ignored";
        assert_eq!(objects("cargo test", done), None);
        assert_eq!(
            objects("make", "running 0 tests\ntest result: ok. 0 passed; 0 failed; 0 ignored").as_deref(),
            Some("it ran no test")
        );
        assert_eq!(objects("pytest", "3 skipped in 0.1s").as_deref(), Some("it ran no test: 3 were skipped"));
        assert!(objects("cargo test", &format!("{done}\nrunning 9 tests\n")).unwrap().contains("broke off"));
        for silent in [
            "pytest",
            "python3 -m pytest -q",
            "A=b cargo test --lib",
            "go test ./...",
            "node --test",
            "python3 -m unittest -v",
        ] {
            assert!(objects(silent, "").unwrap().contains("said nothing"), "{silent}");
        }
        for other in
            ["pytest > log", "cargo test --no-run", "make test", "test -s a", "cargo build && pytest -q | tail"]
        {
            assert_eq!(objects(other, ""), None, "{other}");
        }
    }

    #[test]
    fn failed_tests_have_names() {
        for (line, name) in [
            ("test a::b ... FAILED", "a::b"),
            ("FAILED tests/test_a.py::test_b - assert 1 == 2", "tests/test_a.py::test_b"),
            ("--- FAIL: TestA (0.00s)", "TestA"),
            ("not ok 2 - adds", "adds"),
            ("✖ adds (1.2ms)", "adds"),
        ] {
            assert_eq!(failed_test(line).as_deref(), Some(name));
        }
        assert_eq!(failed_test("test a ... ok"), None);
    }
}
