//! No input makes the reader panic, and a refusal always says why. A failure prints
//! its smallest input and its seed.

use proptest::prelude::*;

use std::time::{Duration, Instant};

use super::*;

/// A plan that uses most of the language, to be damaged.
fn seed() -> String {
    let page = include_str!("../../../doc/plan-format.md");
    let example = page.split_once("````markdown\n").and_then(|(_, rest)| rest.split_once("````\n"));
    example.map_or_else(String::new, |(example, _)| example.to_owned())
}

fn holds(source: &[u8]) {
    let parsed = read(source, "plan.md");
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

/// Longest that one file may take, and most memory that the process may ever have used.
const HANG: Duration = Duration::from_secs(1);
const MEMORY_MIB_MAX: u64 = 256;

/// Numbers that look random and are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % sides.max(1) as u64).unwrap()
    }
}

/// One plan of the collection, damaged a few times.
fn damaged(corpus: &[Vec<u8>], dice: &mut Dice) -> Vec<u8> {
    let mut source = corpus[dice.roll(corpus.len())].clone();
    for _ in 0..=dice.roll(6) {
        let at = dice.roll(source.len() + 1);
        let end = source.len().min(at + dice.roll(24));
        match dice.roll(6) {
            0 => drop(source.splice(at..end, PIECES[dice.roll(PIECES.len())].bytes())),
            1 => drop(source.splice(at..at, PIECES[dice.roll(PIECES.len())].bytes())),
            2 => drop(source.drain(at..end)),
            3 => {
                let again = source[at..end].repeat(1 + dice.roll(8));
                drop(source.splice(at..at, again));
            }
            4 => {
                let other = &corpus[dice.roll(corpus.len())];
                let from = dice.roll(other.len() + 1);
                let part = other[from..other.len().min(from + dice.roll(200))].to_vec();
                drop(source.splice(at..end, part));
            }
            _ => {
                if let Some(byte) = source.get_mut(at) {
                    *byte = u8::try_from(dice.roll(256)).unwrap();
                }
            }
        }
    }
    source
}

/// The most memory this process ever had, in MiB.
fn peak_mib() -> u64 {
    let status = fs_err::read_to_string("/proc/self/status").expect("there is a /proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it says the peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}

/// The long form: `LOOM_FUZZ=10000000 cargo test --release --lib planfile::tests::random::fuzz -- --nocapture`.
/// `LOOM_SEED` starts elsewhere. A failure names the seed of its one file.
#[test]
fn fuzz() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().expect("a number"));
    let (wanted, first) = (number("LOOM_FUZZ", 2_000), number("LOOM_SEED", 1));
    let mut corpus: Vec<Vec<u8>> = super::bad::cases().iter().map(super::bad::Case::source).collect();
    corpus.push(seed().into_bytes());
    let files = Some(super::bad::TREE.map(str::to_owned).to_vec());
    let around =
        Surroundings { files, has_program: &|name| name.len() < 6, shell_error: &|_| None, passing: Vec::new() };
    let mut slowest = Duration::ZERO;
    for run in 0..wanted {
        let seed = first.wrapping_add(run);
        let source = damaged(&corpus, &mut Dice(seed.wrapping_mul(0xd134_2543_de82_ef95)));
        let started = Instant::now();
        let read = || verify(&source, "plan.md", &around);
        let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read));
        let took = started.elapsed();
        let said = format!("LOOM_SEED={seed} LOOM_FUZZ=1");
        let Ok((parsed, _)) = read else { panic!("{said}: it panics") };
        let has_errors = parsed.diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
        assert_eq!(parsed.plan.is_none(), has_errors, "{said}");
        assert!(took < HANG, "{said}: {took:?}");
        slowest = slowest.max(took);
        if run % 1_000_000 == 999_999 {
            let text = format!("{} files, slowest {slowest:?}, peak {} MiB\n", run + 1, peak_mib());
            fs_err::write("/dev/stderr", text).expect("stderr");
        }
    }
    assert!(peak_mib() < MEMORY_MIB_MAX, "{} MiB from seed {first}", peak_mib());
}
