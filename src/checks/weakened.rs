//! Whether a test that was there before is still the whole test. Only whole new
//! definitions beside untouched lines are let through; everything else is shown
//! to a person. Works on lines and indentation, for every language.

use std::collections::BTreeSet;

/// Words with which a test stops, hides or skips others.
const STOPPERS: [&str; 21] = [
    "process.exit",
    "process::exit",
    "process::abort",
    "os._exit",
    "os.Exit(",
    "sys.exit",
    "System.exit",
    "pytest.exit",
    "libc::_exit",
    "atexit",
    ".only(",
    "fdescribe(",
    "fit(",
    "collect_ignore",
    "pytestmark",
    "pytest_plugins",
    "def pytest_",
    "autouse",
    "sys.modules",
    "builtins",
    "macro_rules!",
];

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

/// Why a new test file would not only add: it can stop or hide others.
pub(super) fn stops_others(new: &str) -> Option<String> {
    let word = STOPPERS.iter().find(|word| new.contains(**word))?;
    Some(format!("a new test with `{}`: it can stop or hide others", word.trim()))
}

/// Why `new` is not `old` with whole new tests beside; none: that is all it is.
pub(super) fn by(old: &str, new: &str, path: &str) -> Option<String> {
    const CODE: [&str; 22] = [
        "rs", "py", "js", "ts", "jsx", "tsx", "mjs", "cjs", "go", "java", "kt", "rb", "cs", "php", "swift", "scala",
        "c", "cc", "cpp", "ex", "exs", "bats",
    ];
    let is_code = path.rsplit('.').next().is_some_and(|end| CODE.contains(&end));
    if !is_code {
        return (old != new).then(|| "what tests read and was there before, changed".to_owned());
    }
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let words: BTreeSet<&str> = old.iter().flat_map(|line| words(line)).collect();
    for hunk in hunks(&old, &new) {
        let removed = &old[hunk.old.clone()];
        if removed.is_empty() {
            if !adds_beside(&hunk, &new, &words) {
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
    if before.is_empty() {
        return None;
    }
    let after = test_modules(new);
    if after.is_empty() {
        return Some("unit tests that were there before, deleted".to_owned());
    }
    by(&before, &after, "tests.rs").map(|why| why.replace("a test that was", "unit tests that were"))
}

/// The text of every `#[cfg(test)]` item, up to the line that closes it.
fn test_modules(text: &str) -> String {
    let mut out = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            continue;
        }
        let indent = indent(line);
        out.push_str(line);
        out.push('\n');
        for line in lines.by_ref() {
            out.push_str(line);
            out.push('\n');
            let ends = line.trim().starts_with('}') || line.trim_end().ends_with(';');
            if self::indent(line) == indent && !line.trim().is_empty() && ends {
                break;
            }
        }
    }
    out
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
fn adds_beside(hunk: &Hunk, new: &[&str], known: &BTreeSet<&str>) -> bool {
    let (mut from, mut to) = (hunk.new.start, hunk.new.end);
    while from > 0 && new[from - 1] == new[to - 1] {
        (from, to) = (from - 1, to - 1);
    }
    loop {
        if is_whole(&new[..from], &new[from..to], &new[to..], known) {
            return true;
        }
        if to >= new.len() || new[from] != new[to] {
            return false;
        }
        (from, to) = (from + 1, to + 1);
    }
}

fn is_whole(before: &[&str], added: &[&str], after: &[&str], known: &BTreeSet<&str>) -> bool {
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
        && stops_others(&text).is_none()
        && is_balanced(&text)
        && filled.iter().all(|line| indent(line) >= level)
        && filled.iter().filter(|line| indent(line) == level).all(|line| begins_or_closes(line.trim()))
        && names(&filled, level).iter().all(|name| !known.contains(name))
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
        assert!(stops_others("it.only('a', () => {})").is_some());
        assert!(stops_others("#[test]\nfn a() {}").is_none());
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
    }
}
