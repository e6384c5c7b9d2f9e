//! Whether a test that was there before is still the whole test. Only whole new
//! definitions beside untouched lines are let through; everything else is shown
//! to a person. Works on lines and indentation, for every language.

use std::collections::BTreeSet;

/// Words with which a test stops, hides or skips others, wherever they are.
const STOPPERS: [&str; 22] = [
    "process.exit",
    "process::exit",
    "process::abort",
    "os._exit",
    "_exit(",
    "os.Exit(",
    "sys.exit",
    "System.exit",
    "pytest.exit",
    "atexit",
    ".only(",
    "fdescribe(",
    "fit(",
    "collect_ignore",
    "pytest_plugins",
    "def pytest_",
    "def load_tests",
    "func TestMain(",
    "sys.modules",
    "import builtins",
    "__builtins__",
    "macro_rules!",
];

/// Words that act on the whole file: in a new one they concern nobody else, beside tests that were
/// there before they do.
const WHOLE_FILE: [&str; 25] = [
    "pytestmark",
    "autouse",
    "builtins",
    "//go:build",
    "// +build",
    "# coding",
    "coding:",
    "@ts-nocheck",
    "@jest-environment",
    "# type: ignore",
    "# pytest:",
    "#![",
    "skipTest",
    "setUpModule",
    "tearDownModule",
    "setup_module",
    "teardown_module",
    "setup_function",
    "teardown_function",
    "setUpClass",
    "tearDownClass",
    "@Before",
    "@After",
    "@Rule",
    "@ClassRule",
];

/// Methods that a runner calls for every test of a class.
const HOOKS: [&str; 19] = [
    "setUp",
    "tearDown",
    "asyncSetUp",
    "asyncTearDown",
    "setup_method",
    "teardown_method",
    "setup_class",
    "teardown_class",
    "setup",
    "teardown",
    "run",
    "debug",
    "fail",
    "SetupTest",
    "SetupSuite",
    "doCleanups",
    "addCleanup",
    "countTestCases",
    "defaultTestResult",
];

/// What the names of assertions, and of a runner's own methods, begin with.
const HOOK_STARTS: [&str; 9] =
    ["__", "assert", "_call", "_feed", "_add", "_base", "_getAssert", "_formatMessage", "_truncateMessage"];

/// What a new definition, or something that belongs to one, begins with.
const BEGINNINGS: [&str; 47] = [
    "fn ",
    "pub fn ",
    "async fn ",
    "pub async fn ",
    "unsafe fn ",
    "#[test",
    "#[tokio::test",
    "#[rstest",
    "#[case",
    "#[should_panic",
    "#[cfg(",
    "#[derive",
    "//",
    "/*",
    "*",
    "def ",
    "async def ",
    "class ",
    "@",
    "# ",
    "func ",
    "test(",
    "it(",
    "describe(",
    "test.each",
    "it.each",
    "import ",
    "from ",
    "use ",
    "const ",
    "let ",
    "static ",
    "struct ",
    "type ",
    "enum ",
    "impl ",
    "function ",
    "async function ",
    "public ",
    "private ",
    "mod ",
    "context ",
    "it \"",
    "it '",
    "describe \"",
    "@test",
    "/// ",
];

/// Why a new test file at `path` would not only add: it can stop or hide others.
pub(super) fn stops_others(new: &str, path: &str) -> Option<String> {
    let code = without_comments(new, path);
    let is_script = ["js", "ts", "jsx", "tsx", "mjs", "cjs"].iter().any(|end| path.ends_with(&format!(".{end}")));
    let word = STOPPERS.iter().find(|word| match **word {
        // Jasmine's; elsewhere `fit(` is what models do.
        "fit(" | "fdescribe(" => is_script && stands_alone(&code, word, true),
        word => stands_alone(&code, word, false),
    })?;
    Some(format!("a new test with `{}`: it can stop or hide others", word.trim()))
}

/// Whether `word` is in `text` and is not the end of a longer name, nor a method when it is to be
/// `free`.
fn stands_alone(text: &str, word: &str, free: bool) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || free && c == '.';
    let is_name = word.starts_with(|c: char| c.is_alphanumeric() || c == '_');
    text.match_indices(word).any(|(at, _)| !is_name || !text[..at].ends_with(is_part))
}

/// The text without lines that certainly are comments: anything in them that could end a text or
/// a longer comment keeps them.
fn without_comments(text: &str, path: &str) -> String {
    let end = path.rsplit_once('.').map_or("", |(_, end)| end);
    let mark = if matches!(end, "py" | "rb" | "sh" | "bats" | "ex" | "exs") { "# " } else { "// " };
    let is_comment = |line: &&str| {
        line.trim_start().starts_with(mark)
            && !line.contains(['"', '\'', '`', '{', '\r', '\u{2028}', '\u{2029}'])
            && !line.contains("*/")
    };
    text.split('\n').filter(|line| !is_comment(line)).collect::<Vec<_>>().join("\n")
}

/// Whether lines beside tests that were there before reach into these.
fn reaches_into_others(lines: &[&str], path: &str) -> bool {
    let text = lines.join("\n");
    let of_class = |line: &str| {
        let mut words = words(line).skip_while(|word| !matches!(*word, "def" | "func" | "function"));
        let name = words.nth(1);
        name.is_some_and(|name| HOOKS.contains(&name) || HOOK_STARTS.iter().any(|start| name.starts_with(start)))
    };
    // pytest calls those of a module too.
    let of_module =
        |line: &str| ["def setup(", "def teardown(", "def __getattr__("].iter().any(|start| line.starts_with(start));
    stops_others(&text, path).is_some()
        || WHOLE_FILE.iter().any(|word| text.contains(word))
        || lines.iter().any(|line| indent(line) > 0 && of_class(line) || of_module(line))
}

/// Why `new` is not `old` with whole new tests beside; none: that is all it is.
pub(super) fn by(old: &str, new: &str, path: &str) -> Option<String> {
    let is_code = super::judging::is_code(path);
    if !is_code {
        return (old != new).then(|| "what tests read and was there before, changed".to_owned());
    }
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let words: BTreeSet<&str> = old.iter().flat_map(|line| words(line)).collect();
    for hunk in hunks(&old, &new) {
        let removed = &old[hunk.old.clone()];
        if removed.is_empty() {
            if !adds_beside(&hunk, &new, &words, path) && !adds_imports(&hunk, &new, &words, path) {
                return Some(
                    "a test that was there before, changed: what is added is not only a new test beside it".to_owned(),
                );
            }
        } else if !imports_more(removed, &new[hunk.new.clone()], &words) {
            return Some("a test that was there before, changed".to_owned());
        }
    }
    None
}

/// As [`by`], for the `#[cfg(test)]` modules inside a source file of Rust.
pub(super) fn rust_unit_tests(old: &str, new: &str) -> Option<String> {
    let before = test_modules(old);
    if before.text.is_empty() {
        return None;
    }
    let after = test_modules(new);
    if after.text.is_empty() {
        return Some("unit tests that were there before, deleted".to_owned());
    }
    if after.depth != before.depth || hides(new) && !hides(old) {
        return Some("unit tests that were there before: what is around them, changed".to_owned());
    }
    by(&before.text, &after.text, "tests.rs").map(|why| why.replace("a test that was", "unit tests that were"))
}

/// Whether something in the file can take meaning from its tests.
fn hides(text: &str) -> bool {
    let of_file = text.lines().any(|line| line.trim_start().starts_with("#![cfg"));
    let macros = ["assert", "debug_assert", "panic", "matches", "unreachable"];
    of_file || macros.iter().any(|name| text.contains(&format!("macro_rules! {name}")))
}

struct TestModules {
    /// Every `#[cfg(test)]` item with its attributes, up to the line that closes it.
    text: String,
    /// How many brackets and comments are open where the first begins.
    depth: i64,
}

fn test_modules(text: &str) -> TestModules {
    let mut out = TestModules { text: String::new(), depth: 0 };
    let mut lines = text.lines();
    let mut attributes: Vec<&str> = Vec::new();
    let mut depth = 0;
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            depth += opened(line);
            let is_attribute = line.trim_start().starts_with("#[") && line.trim_end().ends_with(']');
            // Between an attribute and its item there can be comments and empty lines.
            let is_between = line.trim().is_empty() || line.trim_start().starts_with("//");
            match (is_attribute, is_between) {
                (true, _) => attributes.push(line),
                (_, true) => {}
                _ => attributes.clear(),
            }
            continue;
        }
        if out.text.is_empty() {
            out.depth = depth;
        }
        let indent = indent(line);
        for line in attributes.drain(..).chain([line]) {
            out.text.push_str(line);
            out.text.push('\n');
        }
        for line in lines.by_ref() {
            out.text.push_str(line);
            out.text.push('\n');
            let ends = line.trim().starts_with('}') || line.trim_end().ends_with(';');
            if self::indent(line) == indent && !line.trim().is_empty() && ends {
                break;
            }
        }
    }
    out
}

/// How many brackets and comments a line opens, and does not close. What is in quotes does not count.
fn opened(line: &str) -> i64 {
    let mut open = 0;
    let mut in_quotes = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '"' => in_quotes = !in_quotes,
            _ if in_quotes => {}
            '\'' if matches!(chars.peek(), Some('{' | '}' | '"')) => drop(chars.next()),
            '/' if chars.peek() == Some(&'/') => break,
            '/' if chars.peek() == Some(&'*') => open += 1,
            '*' if chars.peek() == Some(&'/') => open -= 1,
            '{' => open += 1,
            '}' => open -= 1,
            _ => {}
        }
    }
    open
}

struct Hunk {
    old: std::ops::Range<usize>,
    new: std::ops::Range<usize>,
}

/// The differing parts, from a longest common subsequence of lines.
fn hunks(old: &[&str], new: &[&str]) -> Vec<Hunk> {
    let start = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let rest = old.len().min(new.len()) - start;
    let end = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    let (a, b) = (&old[start..old.len() - end], &new[start..new.len() - end]);
    const CELLS_MAX: usize = 16 << 20;
    if a.is_empty() && b.is_empty() {
        return Vec::new();
    }
    if a.is_empty() || b.is_empty() || (a.len() + 1) * (b.len() + 1) > CELLS_MAX {
        return vec![Hunk { old: start..start + a.len(), new: start..start + b.len() }];
    }
    let width = b.len() + 1;
    let mut longest = vec![0_u32; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            longest[i * width + j] = if a[i] == b[j] {
                longest[(i + 1) * width + j + 1] + 1
            } else {
                longest[(i + 1) * width + j].max(longest[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j) = (0, 0);
    let mut found: Vec<Hunk> = Vec::new();
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            (i, j) = (i + 1, j + 1);
            continue;
        }
        let takes_old = j == b.len() || i < a.len() && longest[(i + 1) * width + j] >= longest[i * width + j + 1];
        let (old_at, new_at) = (start + i, start + j);
        match found.last_mut().filter(|hunk| hunk.old.end == old_at && hunk.new.end == new_at) {
            Some(hunk) if takes_old => hunk.old.end += 1,
            Some(hunk) => hunk.new.end += 1,
            None if takes_old => found.push(Hunk { old: old_at..old_at + 1, new: new_at..new_at }),
            None => found.push(Hunk { old: old_at..old_at, new: new_at..new_at + 1 }),
        }
        if takes_old { i += 1 } else { j += 1 }
    }
    found
}

fn indent(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Whether the lines that were added are whole definitions beside the others. The same lines can
/// be seen as added at several places; one that is right is enough.
fn adds_beside(hunk: &Hunk, new: &[&str], known: &BTreeSet<&str>, path: &str) -> bool {
    let (mut from, mut to) = (hunk.new.start, hunk.new.end);
    while from > 0 && new[from - 1] == new[to - 1] {
        (from, to) = (from - 1, to - 1);
    }
    loop {
        if is_whole((&new[..from], &new[from..to], &new[to..]), known, path) {
            return true;
        }
        if to >= new.len() || new[from] != new[to] {
            return false;
        }
        (from, to) = (from + 1, to + 1);
    }
}

fn is_whole((before, added, after): (&[&str], &[&str], &[&str]), known: &BTreeSet<&str>, path: &str) -> bool {
    let filled: Vec<&str> = added.iter().copied().filter(|line| !line.trim().is_empty()).collect();
    let Some(first) = filled.first() else { return true };
    let level = indent(first);
    let text = filled.join("\n");
    let prev = before.iter().rev().find(|line| !line.trim().is_empty());
    let next = after.iter().find(|line| !line.trim().is_empty());
    let hangs = |line: &str| line.trim_start().starts_with(['@', '#']) && !line.trim_start().starts_with("# ");
    let opens_container = |line: &str| {
        let line = line.trim_start();
        ["mod ", "pub mod ", "class ", "impl ", "describe(", "public class ", "context ", "describe "]
            .iter()
            .any(|word| line.starts_with(word))
    };
    let fits_before = prev.is_none_or(|prev| !hangs(prev) && (indent(prev) >= level || opens_container(prev)));
    let fits_after = next.is_none_or(|next| indent(next) <= level);
    let last_hangs = filled.last().is_some_and(|last| hangs(last));
    fits_before
        && fits_after
        && !last_hangs
        && !reaches_into_others(&filled, path)
        && is_balanced(&text)
        && filled.iter().all(|line| indent(line) >= level)
        && filled.iter().filter(|line| indent(line) == level).all(|line| begins_or_closes(line.trim()))
        && names(&filled, level).iter().all(|name| !known.contains(name))
}

/// Whether the lines that were added are imports in an import block of Go, of names that are new.
fn adds_imports(hunk: &Hunk, new: &[&str], known: &BTreeSet<&str>, path: &str) -> bool {
    let is_new_name = |line: &&str| {
        let path = line.trim().strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        path.is_some_and(|path| !path.contains(['"', '`', ';']) && !words(path).any(|word| known.contains(word)))
    };
    let opens = new[..hunk.new.start].iter().rev().find(|line| !line.trim().is_empty() && !line.trim().ends_with('"'));
    path.ends_with(".go")
        && opens.is_some_and(|line| *line == "import (")
        && new[hunk.new.clone()].iter().filter(|line| !line.trim().is_empty()).all(is_new_name)
}

fn begins_or_closes(line: &str) -> bool {
    line.starts_with(['}', ')', ']']) || line == "end" || BEGINNINGS.iter().any(|begin| line.starts_with(begin))
}

/// What opens is closed: no bracket, comment or long text reaches into what was there.
fn is_balanced(text: &str) -> bool {
    let count = |what: &str| text.matches(what).count();
    count("(") == count(")")
        && count("{") == count("}")
        && count("[") == count("]")
        && count("/*") == count("*/")
        && ["\"\"\"", "'''", "`", "r#\"", "<<"].iter().all(|quote| count(quote) % 2 == 0)
        && count("#if") == count("#endif")
        && count("=begin") == count("=end")
}

/// The names that the added lines define or import.
fn names<'a>(lines: &[&'a str], level: usize) -> Vec<&'a str> {
    let mut found = Vec::new();
    for line in lines.iter().filter(|line| indent(line) == level) {
        let text = line.trim();
        if text.starts_with("import ") || text.starts_with("from ") || text.starts_with("use ") {
            let imported = text.rsplit_once(" import ").map_or(text, |(_, names)| names);
            found.extend(
                words(imported)
                    .filter(|word| !matches!(*word, "import" | "use" | "from" | "as" | "super" | "crate" | "self")),
            );
            continue;
        }
        let skip = [
            "pub", "async", "unsafe", "static", "const", "let", "mut", "public", "private", "export", "default", "void",
        ];
        let mut rest = words(text).skip_while(|word| skip.contains(word));
        let defines = ["fn", "def", "class", "func", "function", "struct", "type", "enum", "mod"];
        match rest.next() {
            Some(word) if defines.contains(&word) => found.extend(rest.next()),
            Some(word) if text.starts_with("const ") || text.starts_with("let ") || text.starts_with("static ") => {
                found.push(word)
            }
            _ => {}
        }
    }
    found
}

/// Whether a changed import only brings more names in, from the same place.
fn imports_more(removed: &[&str], added: &[&str], known: &BTreeSet<&str>) -> bool {
    let is_import =
        |line: &str| ["import ", "from ", "use ", "} from "].iter().any(|word| line.trim_start().starts_with(word));
    if removed.len() != added.len() || !removed.iter().all(|line| is_import(line)) {
        return false;
    }
    removed.iter().zip(added).all(|(old, new)| {
        let (old, new) = (tokens(old), tokens(new));
        let mut old = old.iter().peekable();
        let extra: Vec<&String> = new.iter().filter(|token| old.next_if(|next| next == token).is_none()).collect();
        let is_plain = |token: &&String| {
            token.as_str() == ","
                || token.chars().all(|c| c.is_alphanumeric() || c == '_')
                    && token.as_str() != "as"
                    && !known.contains(token.as_str())
        };
        old.peek().is_none() && extra.iter().all(is_plain)
    })
}

/// Words and single other characters.
fn tokens(line: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut in_word = false;
    for c in line.chars() {
        let is_word = c.is_alphanumeric() || c == '_';
        match out.last_mut() {
            Some(last) if is_word && in_word => last.push(c),
            _ if c.is_whitespace() => {}
            _ => out.push(c.to_string()),
        }
        in_word = is_word;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const PYTHON: &str = "from app import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n\n\ndef test_zero():\n    assert add(0, 0) == 0\n";
    const RUST: &str = "use app::add;\n\n#[test]\nfn adds() {\n    assert_eq!(add(1, 2), 3);\n}\n\n#[test]\nfn zero() {\n    assert_eq!(add(0, 0), 0);\n}\n";

    fn is_weaker(old: &str, new: &str, path: &str) -> bool {
        by(old, new, path).is_some()
    }

    #[test]
    fn whole_new_tests_beside_the_old_ones_are_fine() {
        let test = "def test_neg():\n    assert add(-1, 1) == 0\n";
        for new in [
            format!("{PYTHON}\n\n{test}"),
            PYTHON.replace("def test_zero", &format!("{test}\n\ndef test_zero")),
            PYTHON.replace("import add\n", "import add, sub\n"),
            PYTHON.replace("from app", "import math\nfrom app"),
            format!("{PYTHON}\n\n@pytest.mark.slow\n{test}"),
        ] {
            assert_eq!(by(PYTHON, &new, "test_a.py"), None, "{new}");
        }
        let test = "#[test]\nfn negative() {\n    assert_eq!(add(-1, 1), 0);\n}\n";
        for new in [
            format!("{RUST}\n{test}"),
            RUST.replace("#[test]\nfn zero", &format!("{test}\n#[test]\nfn zero")),
            RUST.replace("use app::add;", "use app::{add};").replace("use app::{add};", "use app::add;"),
        ] {
            assert_eq!(by(RUST, &new, "tests/a.rs"), None, "{new}");
        }
        let js = "describe('add', () => {\n  it('adds', () => {\n    expect(add(1, 2)).toBe(3);\n  });\n});\n";
        let more =
            js.replace("});\n});\n", "});\n\n  it('is zero', () => {\n    expect(add(0, 0)).toBe(0);\n  });\n});\n");
        assert_eq!(by(js, &more, "a.test.js"), None);
    }

    #[test]
    fn everything_else_is_weaker() {
        for new in [
            PYTHON.replace("== 3", "!= 4"),
            PYTHON.replace("    assert add(1, 2) == 3\n", "    pass\n"),
            PYTHON.replace("def test_add", "@pytest.mark.skip\ndef test_add"),
            PYTHON.replace("    assert add(1", "    return\n    assert add(1"),
            PYTHON.replace("from app import add\n", "from app import add\n\npytestmark = pytest.mark.skip\n"),
            PYTHON.replace("import add\n", "import sub as add\n"),
            PYTHON.replace("import add\n", "import add\nfrom fake import add\n"),
            format!("{PYTHON}\n\ndef test_add():\n    pass\n"),
            format!("{PYTHON}\n\nimport os\nos._exit(0)\n"),
            PYTHON.replace("def test_add", "\"\"\"\ndef test_add").replace("def test_zero", "\"\"\"\ndef test_zero"),
            PYTHON.replace("def test_zero():\n    assert add(0, 0) == 0\n", ""),
            format!("{PYTHON}\n\ndef add(a, b):\n    return 3\n"),
        ] {
            assert!(is_weaker(PYTHON, &new, "test_a.py"), "{new}");
        }
        for new in [
            RUST.replace("#[test]\nfn zero", "#[test]\n#[ignore]\nfn zero"),
            RUST.replace("#[test]\nfn zero", "fn zero"),
            RUST.replace("use app::add;", "use app::add;\nmacro_rules! assert_eq { ($($t:tt)*) => {} }\n"),
            RUST.replace("use app::add;", "use app::add;\n/*").replace("#[test]\nfn zero", "*/\n#[test]\nfn zero"),
            RUST.replace("use app::add;", "fn add(a: i32, b: i32) -> i32 { 3 }"),
        ] {
            assert!(is_weaker(RUST, &new, "tests/a.rs"), "{new}");
        }
        assert!(is_weaker("1\n", "1\n2\n", "tests/data.txt"));
    }

    #[test]
    fn new_tests_that_stop_others_are_told_from_those_that_do_not() {
        for (new, path) in [
            ("it.only('a', () => {})", "a.test.js"),
            ("fit('a', () => {})", "a.test.js"),
            ("import os\nos._exit(0)\n", "test_a.py"),
            ("from os import _exit\n_exit(0)\n", "test_a.py"),
            ("x = \"\"\"\n# \"\"\" + sys.exit(0)\n", "test_a.py"),
            ("def load_tests(a, b, c):\n    return a.suiteClass()\n", "test_a.py"),
            ("func TestMain(m *testing.M) {\n}\n", "main_test.go"),
            ("/*\n// */ fn a() { std::process::exit(0) }", "tests/a.rs"),
        ] {
            assert!(stops_others(new, path).is_some(), "{new}");
        }
        for (new, path) in [
            ("#[test]\nfn a() {}", "tests/a.rs"),
            ("def test_a():\n    m.fit(x)\n    fit(x)\n    assert benefit(m)\n", "test_a.py"),
            ("def test_a():\n    with patch(\"builtins.open\"):\n        a()\n", "test_a.py"),
            ("@pytest.fixture(autouse=True)\ndef a():\n    pass\n", "test_a.py"),
            ("pytestmark = pytest.mark.asyncio\n", "test_a.py"),
            ("// It ends by process::exit.\n#[test]\nfn a() {}", "tests/a.rs"),
            ("# Not by sys.exit\ndef test_a():\n    assert a()\n", "test_a.py"),
            ("model.fit(x)", "a.test.js"),
            ("//go:build integration\n\npackage app\n", "a_test.go"),
            ("class A(TestCase):\n    def setUp(self):\n        self.skipTest('')\n", "test_a.py"),
        ] {
            assert_eq!(stops_others(new, path), None, "{new}");
        }
    }

    #[test]
    fn what_acts_on_the_tests_beside_it_is_weaker() {
        let class = "class TestA(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(add(1, 2), 3)\n";
        for more in [
            "\n    def setUp(self):\n        self.skipTest('not here')\n",
            "\n    def _callTestMethod(self, method):\n        pass\n",
            "\n    def assertEqual(self, a, b):\n        pass\n",
            "\n    def __init__(self):\n        pass\n",
            "\n\ndef load_tests(loader, tests, pattern):\n    return loader.suiteClass()\n",
            "\n\ndef setup_module():\n    pytest.skip()\n",
            "\n\ndef setUpModule():\n    raise SkipTest\n",
            "\n\n@pytest.fixture(autouse=True)\ndef quiet():\n    pass\n",
        ] {
            assert!(is_weaker(class, &format!("{class}{more}"), "test_a.py"), "{more}");
        }
        for more in [
            "\n    def test_b(self):\n        self.assertTrue(add(0, 0) == 0)\n",
            "\n    def _user(self):\n        return 1\n",
            "\n\ndef _user():\n    return 1\n",
        ] {
            assert_eq!(by(class, &format!("{class}{more}"), "test_a.py"), None, "{more}");
        }
        let go = "package app\n\nimport (\n\t\"testing\"\n)\n\nfunc TestAdd(t *testing.T) {\n\tif add(1, 2) != 3 {\n\t\tt.Fatal()\n\t}\n}\n";
        let with = |line: &str| go.replace("\t\"testing\"\n", &format!("\t{line}\n\t\"testing\"\n"));
        assert_eq!(by(go, &with("\"strings\""), "a_test.go"), None);
        assert!(is_weaker(go, &with("\"fake/add\""), "a_test.go"));
        assert!(is_weaker(go, &with(". \"fake/sum\""), "a_test.go"));
        assert!(is_weaker(go, &format!("//go:build ignore\n\n{go}"), "a_test.go"));
        assert!(is_weaker("test('a', () => {});\n", "// @ts-nocheck\ntest('a', () => {});\n", "a.test.ts"));
    }

    #[test]
    fn unit_tests_inside_a_source_file_are_looked_at_alone() {
        let old = "pub fn a() -> u8 {\n    1\n}\n\n#[cfg(test)]\nmod tests {\n    use super::*;\n\n    #[test]\n    fn one() {\n        assert_eq!(a(), 1);\n    }\n}\n";
        assert_eq!(rust_unit_tests(old, &old.replace("    1\n", "    2\n")), None);
        let more =
            old.replace("    }\n}\n", "    }\n\n    #[test]\n    fn two() {\n        assert!(a() < 2);\n    }\n}\n");
        assert_eq!(rust_unit_tests(old, &more), None);
        assert!(rust_unit_tests(old, &old.replace("assert_eq!(a(), 1)", "a()")).is_some());
        assert!(rust_unit_tests(old, old.split("#[cfg(test)]").next().unwrap()).is_some());
        assert!(rust_unit_tests(old, &old.replace("    #[test]\n", "    #[test]\n    #[ignore]\n")).is_some());
        assert_eq!(rust_unit_tests("fn a() {}\n", "fn b() {}\n"), None);
        let around = "pub fn b() -> String {\n    format!(\"{{\")\n}\n\n";
        assert_eq!(rust_unit_tests(old, &format!("{around}{old}")), None);
        for new in [
            old.replace("#[cfg(test)]", "#[cfg(any())]\n#[cfg(test)]"),
            old.replace("#[cfg(test)]", "#[cfg(any())]\n// A comment.\n\n#[cfg(test)]"),
            old.replace("#[cfg(test)]", "#[cfg(any())]\nmod off {\n#[cfg(test)]") + "}\n",
            old.replace("#[cfg(test)]", "/*\n#[cfg(test)]") + "*/\n",
            format!("macro_rules! assert_eq {{ ($($t:tt)*) => {{}} }}\n{old}"),
            format!("#![cfg(any())]\n{old}"),
        ] {
            assert!(rust_unit_tests(old, &new).is_some(), "{new}");
        }
    }
}
