//! No input makes the reader panic, and a refusal always says why. A failure prints
//! its smallest input and its seed.

use proptest::prelude::*;

use super::*;

/// A plan that uses most of the language, to be damaged.
fn seed() -> String {
    let page = include_str!("../../../doc/plan-format.md");
    let example = page.split_once("````markdown\n").and_then(|(_, rest)| rest.split_once("````\n"));
    example.map_or_else(String::new, |(example, _)| example.to_owned())
}

fn holds(source: &[u8]) {
    let parsed = read(source, "plan.md", &Options::default());
    let errors = parsed.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error).count();
    assert_eq!(parsed.plan.is_none(), errors > 0);
    let lines = source.split(|byte| *byte == b'\n').count();
    for diagnostic in &parsed.diagnostics {
        assert!(diagnostic.line <= lines, "line {} of {lines}", diagnostic.line);
        assert!(!diagnostic.to_string().contains('\u{1b}'));
    }
    if let Some(plan) = &parsed.plan {
        assert_eq!(waves(plan).iter().map(Vec::len).sum::<usize>(), plan.stages.len());
        let text = serde_json::to_string(plan).expect("a plan can be written");
        assert_eq!(serde_json::from_str::<Plan>(&text).expect("and read"), *plan);
    }
}

/// Pieces that matter to the reader.
const PIECES: &[&str] = &[
    "\n",
    "  ",
    "\t",
    "- ",
    ": ",
    "```",
    "~~~",
    "&a ",
    "*a",
    "[",
    "]",
    "{",
    "}",
    "|\n",
    ">\n",
    "\"",
    "'",
    "#",
    "# T\n",
    "---\n",
    "...\n",
    "%",
    "!!str ",
    "<<: ",
    "null",
    "é",
    "\u{202e}",
    "\r\n",
    "\r",
    "\0",
    "\u{feff}",
    "😀",
    "\u{85}",
    BEGIN_MARKER,
    END_MARKER,
    "loom:\n",
    "stages:",
    "id: api",
    "dependencies: [api]",
    "acceptance:",
    "run: make",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(source in proptest::collection::vec(any::<u8>(), 0..300)) {
        holds(&source);
    }

    #[test]
    fn any_yaml(body in proptest::collection::vec(proptest::sample::select(PIECES), 0..60)) {
        let body = body.concat();
        holds(file(&body).as_bytes());
        holds(body.as_bytes());
    }

    #[test]
    fn damaged_plans(changes in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..30, proptest::sample::select(PIECES)), 1..6)) {
        let mut source = seed().into_bytes();
        for (at, removed, piece) in changes {
            let at = at.index(source.len() + 1);
            let end = source.len().min(at + removed);
            source.splice(at..end, piece.bytes());
        }
        holds(&source);
    }
}
