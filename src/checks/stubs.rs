//! Stubs: code that says itself that it is not there yet. Looks at comments and
//! code, never at what stands in quotes, and never at prose.

use std::sync::LazyLock;

use regex::Regex;

/// What marks a stub, by the ends of file names; the expressions see code with its comments and
/// with empty quotes.
struct Language {
    ends: &'static [&'static str],
    line_comment: &'static str,
    quotes: &'static [&'static str],
    markers: &'static [&'static str],
}

const LANGUAGES: &[Language] = &[
    Language {
        ends: &["rs"],
        line_comment: "//",
        quotes: &["\""],
        markers: &[r"\btodo!\s*[(\[{]", r"\bunimplemented!\s*[(\[{]"],
    },
    Language {
        ends: &["py", "pyi"],
        line_comment: "#",
        quotes: &["\"\"\"", "'''", "\"", "'"],
        markers: &[r"\braise\s+NotImplementedError\b", r"\breturn\s+NotImplementedError\b"],
    },
    Language {
        ends: &["js", "mjs", "cjs", "ts", "tsx", "jsx", "vue", "svelte"],
        line_comment: "//",
        quotes: &["`", "\"", "'"],
        markers: &[],
    },
    Language { ends: &["go"], line_comment: "//", quotes: &["`", "\""], markers: &[] },
    Language {
        ends: &["java", "kt", "kts", "scala", "groovy"],
        line_comment: "//",
        quotes: &["\"\"\"", "\""],
        markers: &[r"\bthrow\s+new\s+UnsupportedOperationException\b", r"\bTODO\s*\("],
    },
    Language {
        ends: &["cs"],
        line_comment: "//",
        quotes: &["\""],
        markers: &[r"\bthrow\s+new\s+(System\.)?NotImplementedException\b"],
    },
    Language { ends: &["rb"], line_comment: "#", quotes: &["\"", "'"], markers: &[r"\braise\s+NotImplementedError\b"] },
    Language {
        ends: &["c", "h", "cc", "cpp", "hpp", "swift", "php", "dart", "zig"],
        line_comment: "//",
        quotes: &["\""],
        markers: &[],
    },
    Language { ends: &["sh", "bash", "zsh", "bats"], line_comment: "#", quotes: &["\"", "'"], markers: &[] },
    Language { ends: &["ex", "exs"], line_comment: "#", quotes: &["\"\"\"", "\""], markers: &[] },
];

/// What says in words that there is nothing yet: the words stand in quotes, so that these are
/// looked for in the text as it is, outside of tests.
const SPOKEN: &str = r#"(?i)\b(throw\s+new\s+\w*Error|panic|fatalError|raise|die|abort|error)\s*\(?\s*["'`](todo|not\s+(yet\s+)?implemented|unimplemented)\b"#;

/// The first stub in the file at `path`, as line number and line; none: there is none, or it is prose.
pub(super) fn find(path: &str, text: &str) -> Option<(usize, String)> {
    let end = path.rsplit('/').next()?.rsplit_once('.').map(|(_, end)| end.to_lowercase())?;
    let language = LANGUAGES.iter().find(|language| language.ends.contains(&end.as_str()))?;
    let code = without_quotes(text, language);
    let words = regex(r"\b(TODO|FIXME)\b");
    let markers: Vec<Regex> = language.markers.iter().filter_map(|marker| Regex::new(marker).ok()).collect();
    let is_test = super::judging::is_test(path);
    let spoken = spoken();
    for (n, (line, raw)) in code.lines().zip(text.lines()).enumerate() {
        let in_comment = line.find(language.line_comment).map_or("", |at| &line[at..]);
        let is_marked = words.is_match(in_comment)
            || (line.contains("/*") || line.trim_start().starts_with('*')) && words.is_match(line)
            || markers.iter().any(|marker| marker.is_match(line))
            || !is_test && spoken.is_match(raw);
        if is_marked {
            return Some((n + 1, raw.trim().to_owned()));
        }
    }
    (language.ends[0] == "py").then(|| empty_function(&code, text)).flatten()
}

fn regex(pattern: &'static str) -> Regex {
    Regex::new(pattern).unwrap_or_else(|_| unreachable!("it is a constant that the tests compile"))
}

fn spoken() -> &'static Regex {
    static SPOKEN_REGEX: LazyLock<Regex> = LazyLock::new(|| regex(SPOKEN));
    &SPOKEN_REGEX
}

/// The text with everything in quotes blanked, line for line.
fn without_quotes(text: &str, language: &Language) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut quote: Option<&str> = None;
    let mut in_comment = false;
    while let Some(c) = rest.chars().next() {
        let mut step = c.len_utf8();
        match quote {
            Some(open) => {
                if rest.starts_with(open) {
                    out.push_str(open);
                    step = open.len();
                    quote = None;
                } else if c == '\n' {
                    out.push('\n');
                    // A quote of one character ends with its line in most languages.
                    if open.len() == 1 && open != "`" && language.ends[0] != "rs" {
                        quote = None;
                    }
                } else if c == '\\' {
                    step += rest[step..].chars().next().filter(|next| *next != '\n').map_or(0, char::len_utf8);
                }
            }
            None if in_comment => {
                in_comment = c != '\n';
                out.push(c);
            }
            None => {
                if rest.starts_with(language.line_comment) {
                    in_comment = true;
                    out.push(c);
                } else if let Some(rest) = rest.strip_prefix("'\"'").filter(|_| language.ends[0] == "rs") {
                    out.push_str("' '");
                    step = 3;
                    let _ = rest;
                } else if let Some(open) = language.quotes.iter().find(|open| rest.starts_with(**open)) {
                    quote = Some(open);
                    out.push_str(open);
                    step = open.len();
                } else {
                    out.push(c);
                }
            }
        }
        rest = &rest[step..];
    }
    out
}

/// A function of Python whose whole body is `pass` or `...`, unless it says that it is abstract.
fn empty_function(code: &str, text: &str) -> Option<(usize, String)> {
    let lines: Vec<&str> = code.lines().collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    for (n, line) in lines.iter().enumerate() {
        let head = line.trim_start();
        if !(head.starts_with("def ") || head.starts_with("async def ")) || !head.trim_end().ends_with(':') {
            continue;
        }
        let is_abstract = lines[..n]
            .iter()
            .rev()
            .take_while(|above| above.trim_start().starts_with('@'))
            .any(|above| above.contains("abstract") || above.contains("overload"));
        let body: Vec<&str> = lines[n + 1..]
            .iter()
            .take_while(|below| below.trim().is_empty() || indent(below) > indent(line))
            .map(|below| below.trim())
            .filter(|below| {
                !below.is_empty() && !below.starts_with('#') && !below.chars().all(|c| c == '"' || c == '\'')
            })
            .collect();
        if !is_abstract && !body.is_empty() && body.iter().all(|statement| matches!(*statement, "pass" | "...")) {
            return Some((n + 1, text.lines().nth(n).unwrap_or_default().trim().to_owned()));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stubs_are_found_in_code_and_comments() {
        for (path, text) in [
            ("src/a.rs", "fn a() {\n    todo!()\n}\n"),
            ("src/a.rs", "fn a() { unimplemented!(\"later\") }\n"),
            ("src/a.rs", "/\u{2f} TODO: the rest\nfn a() {}\n"),
            ("src/a.rs", "/* FIXME */\n"),
            ("a.py", "def f():\n    pass\n"),
            ("a.py", "def f(a: int) -> int:\n    \"\"\"Adds.\"\"\"\n    ...\n"),
            ("a.py", "def f():\n    raise NotImplementedError\n"),
            ("a.ts", "function f() { throw new Error(\"Not implemented\"); }\n"),
            ("a.js", "throw new TypeError('TODO');\n"),
            ("a.go", "func f() { panic(\"not implemented\") }\n"),
            ("A.java", "throw new UnsupportedOperationException();\n"),
            ("A.kt", "fun f() = TODO(\"x\")\n"),
            ("a.sh", "# FIXME quoting\necho\n"),
        ] {
            assert!(find(path, text).is_some(), "{path}: {text}");
        }
    }

    #[test]
    fn prose_quotes_and_honest_code_are_no_stubs() {
        for (path, text) in [
            ("README.md", "TODO: nothing. It is not implemented."),
            ("src/a.rs", "const MARK: &str = \"TODO\"; // finds such marks\n"),
            ("src/a.rs", "let c = '\"'; let d = \"todo!()\";\n"),
            ("src/todo.rs", "struct TodoList; fn todo() {}\n"),
            ("a.py", "class E(Exception):\n    pass\n\ntry:\n    f()\nexcept E:\n    pass\n"),
            ("a.py", "@abstractmethod\ndef f():\n    ...\n"),
            ("a.py", "\"\"\"\nTODO in a text\n\"\"\"\nx = 1\n"),
            (
                "tests/a.test.js",
                "expect(f).toThrow(new Error('not implemented'));\nthrow new Error('not implemented');\n",
            ),
            ("a.js", "const s = `\n/\u{2f} TODO in a text\n`;\n"),
            ("Makefile", "# TODO\n"),
        ] {
            assert_eq!(find(path, text), None, "{path}: {text}");
        }
    }
}
