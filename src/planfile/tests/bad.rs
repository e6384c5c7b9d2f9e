//! The table of plans with problems.

use super::*;

const TABLE: &str = include_str!("bad.txt");
const TABLE_PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/planfile/tests/bad.txt");

/// The repository of cases that say `@tree`.
pub(super) const TREE: [&str; 8] = [
    "Cargo.toml",
    "crates/api/src/lib.rs",
    "doc/guide.md",
    "scripts/check.sh",
    "src/api/mod.rs",
    "src/api/routes.rs",
    "src/lib.rs",
    "tests/api.rs",
];

pub(super) struct Case<'a> {
    /// The name, and after ` | ` the fields to ignore. `@tree`: it is looked at as a whole, in a
    /// repository; `@whole`: outside of one.
    head: &'a str,
    body: &'a str,
    expected: &'a str,
}

impl Case<'_> {
    /// Bodies that hold a marker or start with `raw` are whole files; `\x..`, `\u{..}` and `\r` are escapes.
    pub(super) fn source(&self) -> Vec<u8> {
        let body = unescape(self.body);
        match body.strip_prefix(b"raw\n") {
            Some(whole) => whole.to_vec(),
            None => file(std::str::from_utf8(&body).expect("only a whole file may be undecodable")).into_bytes(),
        }
    }

    fn rendered(&self) -> (String, Parsed) {
        let places = self.head.split_once(" | ").map_or("", |(_, names)| names);
        let places: Vec<&str> = places.split_whitespace().collect();
        let files = places.contains(&"@tree").then(|| TREE.map(str::to_owned).to_vec());
        let has_program = |name: &str| !name.starts_with("no-such");
        let shell_error = |command: &str| command.ends_with("&&").then(|| "it ends too early".to_owned());
        let around = Surroundings { files, has_program: &has_program, shell_error: &shell_error, passing: Vec::new() };
        let parsed = match places.as_slice() {
            [] => read(&self.source(), "plan.md"),
            _ => verify(&self.source(), "plan.md", &around).0,
        };
        (render(&parsed), parsed)
    }
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        rest = &rest[at + 1..];
        let hex = |digits: &str| u32::from_str_radix(digits, 16).expect("hex digits");
        if let Some(after) = rest.strip_prefix('r') {
            bytes.push(b'\r');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('t') {
            bytes.push(b'\t');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('x') {
            bytes.push(u8::try_from(hex(&after[..2])).expect("two digits"));
            rest = &after[2..];
        } else if let Some((digits, after)) = rest.strip_prefix("u{").and_then(|after| after.split_once('}')) {
            let c = char::from_u32(hex(digits)).expect("a character");
            bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            rest = after;
        } else {
            bytes.push(b'\\');
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    bytes
}

pub(super) fn cases() -> Vec<Case<'static>> {
    let case = |text: &'static str| {
        let (head, rest) = text.split_once('\n').expect("a case has a body");
        let (body, expected) = rest.split_once(">>>>\n").expect("a case has an expectation");
        Case { head, body, expected: expected.trim_end() }
    };
    TABLE.split("==== ").skip(1).map(case).collect()
}

#[test]
fn every_problem_is_named_at_its_place() {
    let mut blessed = String::new();
    let mut wrong = String::new();
    for case in cases() {
        let (rendered, parsed) = case.rendered();
        let errors = parsed.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
        assert_eq!(parsed.plan.is_none(), errors, "{}: there is a plan exactly without errors", case.head);
        assert!(!rendered.is_empty(), "{}: no problem was found", case.head);
        blessed.push_str(&format!("==== {}\n{}>>>>\n{rendered}\n", case.head, case.body));
        if rendered.trim_end() != case.expected {
            wrong.push_str(&format!(
                "==== {}\n{}\n---- instead of\n{}\n",
                case.head,
                rendered.trim_end(),
                case.expected
            ));
        }
    }
    if std::env::var_os("LOOM_BLESS").is_some() {
        fs_err::write(TABLE_PATH, blessed).expect("the table can be written");
    } else {
        assert!(wrong.is_empty(), "{wrong}");
    }
}

#[test]
fn the_table_is_large() {
    let cases = cases();
    assert!(cases.len() >= 60, "{} cases", cases.len());
    let mut names: Vec<&str> = cases.iter().map(|case| case.head).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), cases.len(), "two cases have one name");
}

/// A plan with one value too many for each limit, and one with just as many as allowed.
#[test]
fn limits_hold_at_the_limit_and_one_above() {
    let stages = |count: usize, dependencies: usize| {
        let mut body = "version: 1\nstages:\n".to_owned();
        for n in 0..count {
            body.push_str(&format!("  - {{id: s{n}, name: n, acceptance: [make]"));
            if n + 1 == count {
                let ids: Vec<String> = (0..dependencies).map(|n| format!("s{n}")).collect();
                body.push_str(&format!(", dependencies: [{}]", ids.join(", ")));
            }
            body.push_str("}\n");
        }
        file(&body)
    };
    let errors = |source: &[u8]| -> Vec<String> {
        let parsed = read(source, "plan.md");
        parsed.diagnostics.into_iter().map(|diagnostic| diagnostic.message).collect()
    };
    assert_eq!(errors(stages(2000, 64).as_bytes()), [""; 0]);
    assert_eq!(errors(stages(2001, 0).as_bytes()), ["2001 stages; a plan may have 2000"]);
    assert_eq!(errors(stages(66, 65).as_bytes()), ["65 dependencies; a stage may have 64"]);
    let mut padded = stages(1, 0).into_bytes();
    padded.resize(1 << 20, b'\n');
    assert_eq!(errors(&padded), [""; 0]);
    padded.push(b'\n');
    assert_eq!(errors(&padded), ["the file has more than 1048576 bytes, the most that a plan may have"]);
}

/// Aliases that would expand to gigabytes, in a file of a mebibyte.
#[test]
fn a_bomb_of_aliases_is_refused_before_it_expands() {
    let mut body = "version: 1\nx: &a0 [lol, lol]\n".to_owned();
    for n in 1..40 {
        let aliases = vec![format!("*a{}", n - 1); 9].join(", ");
        body.push_str(&format!("x{n}: &a{n} [{aliases}]\n"));
    }
    body.push_str(&"# padding\n".repeat(80_000));
    let parsed = read(file(&body).as_bytes(), "plan.md");
    assert!(
        render(&parsed).contains("the aliases of this plan expand to more than 1048576 bytes"),
        "{}",
        render(&parsed)
    );

    let large = format!("x: &a \"{}\"\ny: [{}]\n", "a".repeat(200_000), vec!["*a"; 100_000].join(","));
    let parsed = read(file(&large).as_bytes(), "plan.md");
    assert!(render(&parsed).contains("the aliases of this plan expand"), "{}", render(&parsed));
}

#[test]
fn deep_nesting_is_refused() {
    for body in ["[".repeat(100_000), "- ".repeat(100_000), "{a: ".repeat(1000)] {
        let parsed = read(file(&format!("x: \n  {body}")).as_bytes(), "plan.md");
        assert!(parsed.plan.is_none());
    }
}

/// Thousands of problems end in a list that can be read.
#[test]
fn a_flood_of_problems_is_cut() {
    let mut body = "version: 1\nstages:\n".to_owned();
    for n in 0..1000 {
        body.push_str(&format!("  - {{id: s{n}, name: n, acceptance: [make], dependencies: [t{n}], nme: x}}\n"));
    }
    let parsed = read(file(&body).as_bytes(), "plan.md");
    assert_eq!(parsed.diagnostics.len(), 101);
    assert_eq!(parsed.diagnostics[100].to_string(), "plan.md: error: 1900 more errors, not shown");
}

#[test]
fn diagnostics_have_a_json_form() {
    let parsed = read(file("version: 2\nstages: []").as_bytes(), "plan.md");
    let json = serde_json::to_string_pretty(&parsed.diagnostics[0]).unwrap();
    insta::assert_snapshot!(json, @r#"
    {
      "severity": "error",
      "path": "plan.md",
      "line": 5,
      "column": 12,
      "message": "`version` must be 1, not the number `2`: this Loom reads version 1 only",
      "snippet": "  version: 2\n           ^",
      "hint": "write `version: 1`",
      "field": "version",
      "stage": null
    }
    "#);
}
