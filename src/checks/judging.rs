//! Which files judge, and whether a stage touched one. Pure: a list of changes
//! in, a list of touched files out.
//!
//! New tests beside untouched ones are what a stage should write. A test that was
//! there before and is changed, a build script, a runner's settings, CI: these decide
//! whether the work is good, and whose work it is cannot decide that they change.

mod executed;
mod manifests;
mod names;

use globset::{Glob, GlobSet, GlobSetBuilder};

pub use self::executed::{Script, executed};
pub(super) use self::names::{is_code, is_test};
use super::weakened;
use crate::model::judge::{Change, Touched};

/// The content of a changed file, before and after.
pub type Texts<'a> = dyn Fn(&Change) -> (Option<String>, Option<String>) + 'a;

/// What the plan says about the judges of one stage.
#[derive(Debug, Clone, Default)]
pub struct Judges {
    /// `protected:` of the plan.
    pub protected: Vec<String>,
    /// `files:` of the stage, relative to the top of the tree: what it may change; none: anything.
    /// What its author named without a wildcard, it may change also when it judges.
    pub files: Vec<String>,
    /// Globs of what else the plan asks of the stage, from the top of the tree.
    pub asked: Vec<String>,
    /// What the commands that decide about the stage [execute](executed).
    pub run: Vec<String>,
    /// The plan file, where it is in the tree.
    pub plan: Option<String>,
}

const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_000;
const SUBMODULE: u32 = 0o160_000;

/// Every file that judges and that `changes` touch. `text` gives the content before and after.
pub fn touched(changes: &[Change], text: &Texts<'_>, judges: &Judges) -> Vec<Touched> {
    let protected = globs(&judges.protected);
    let files = globs(&judges.files);
    let may = globs(&[judges.files.as_slice(), judges.asked.as_slice()].concat());
    let mut out = Vec::new();
    for change in changes {
        let is_named = judges.files.contains(&change.path) && change.new.is_some();
        let why = if is_named {
            // Its author said so; a link or a submodule in its place is something else.
            odd(change, text)
        } else {
            odd(change, text)
                .or_else(|| own(change, judges))
                .or_else(|| by_glob(change, &protected))
                .or_else(|| by_name(change, text))
                .or_else(|| tests(change, text))
                .or_else(|| by_run(change, &judges.run, &files))
                .or_else(|| outside(change, judges, &may))
        };
        out.extend(why.map(|why| Touched { path: change.path.clone(), why }));
    }
    out
}

fn globs(patterns: &[String]) -> GlobSet {
    let mut set = GlobSetBuilder::new();
    // A pattern that cannot be read was refused with the plan. A folder means what is in it.
    for pattern in patterns.iter().map(|pattern| pattern.trim_start_matches("./").trim_end_matches('/')) {
        for glob in [Glob::new(pattern), Glob::new(&format!("{pattern}/**"))].into_iter().flatten() {
            set.add(glob);
        }
    }
    set.build().unwrap_or_else(|_| GlobSet::empty())
}

fn verb(change: &Change) -> &'static str {
    match (&change.old, &change.new) {
        (None, _) => "new",
        (_, None) => "deleted",
        _ => "changed",
    }
}

/// Links that lead out of the tree, and submodules: what a check reads there is in no commit.
fn odd(change: &Change, text: &Texts<'_>) -> Option<String> {
    let mode = change.new.as_ref()?.mode;
    if mode == SUBMODULE {
        return Some("a submodule: its content is in no commit of this repository".to_owned());
    }
    let was_link = change.old.as_ref().is_some_and(|old| old.mode == LINK);
    if mode == LINK {
        let target = text(change).1.unwrap_or_default();
        if leaves(&change.path, &target) {
            return Some(format!("a link that leads out of the tree, to `{}`", crate::base::text::printable(&target)));
        }
        if change.old.is_some() && !was_link {
            return Some("a file that became a link".to_owned());
        }
    }
    None
}

/// Whether a link at `path` leads out of the tree, or may: a `..` behind a folder leads up from
/// wherever that folder is, if it is a link itself.
fn leaves(path: &str, target: &str) -> bool {
    let depth = path.matches('/').count();
    let parts: Vec<&str> = target.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    let ups = parts.iter().take_while(|part| **part == "..").count();
    target.starts_with('/') || ups > depth || parts[ups..].contains(&"..")
}

fn own(change: &Change, judges: &Judges) -> Option<String> {
    let is_plan = judges.plan.as_ref() == Some(&change.path);
    is_plan.then(|| format!("the plan itself, {}: what was pinned by `loom init` counts", verb(change)))
}

fn by_glob(change: &Change, protected: &GlobSet) -> Option<String> {
    protected.is_match(&change.path).then(|| format!("protected by the plan, {}", verb(change)))
}

/// What the plan does not let the stage change. New tests are always welcome.
fn outside(change: &Change, judges: &Judges, may: &GlobSet) -> Option<String> {
    let is_new_test = change.old.is_none() && is_test(&change.path);
    let is_outside = !judges.files.is_empty() && !is_new_test && !may.is_match(&change.path);
    is_outside.then(|| format!("outside of what the stage's `files` let it change, {}", verb(change)))
}

fn by_name(change: &Change, text: &Texts<'_>) -> Option<String> {
    let path = change.path.to_lowercase();
    let name = path.rsplit('/').next().unwrap_or(&path);
    if let Some(what) = names::what(&path) {
        return Some(format!("{what}, {}", verb(change)));
    }
    if let Some(what) = names::shadow(&path).filter(|_| change.old.is_none()) {
        return Some(format!("{what}, new"));
    }
    // A first one weakens nothing.
    if let Some(what) = names::once_there(name).filter(|_| change.old.is_some()) {
        return Some(format!("{what}, {}", verb(change)));
    }
    manifest(change, name, text)
}

/// Manifests hold what judges beside what does not: the former is compared.
fn manifest(change: &Change, name: &str, text: &Texts<'_>) -> Option<String> {
    if !manifests::is_one(name) {
        return None;
    }
    let (old, new) = match text(change) {
        _ if change.new.is_none() => return Some("a manifest, deleted".to_owned()),
        (None, _) if change.old.is_some() => return Some("a manifest that is too large to be looked into".to_owned()),
        (_, None) => return Some("a manifest that is too large to be looked into".to_owned()),
        (old, Some(new)) => (old, new),
    };
    manifests::judged(name, old.as_deref(), &new).map(|what| format!("{what}, {}", verb(change)))
}

fn tests(change: &Change, text: &Texts<'_>) -> Option<String> {
    if !is_test(&change.path) {
        // Unit tests of Rust live in the file that they test.
        let is_rust = change.path.ends_with(".rs") && change.old.is_some();
        let (old, new) = if is_rust { text(change) } else { return None };
        let Some(old) = old else { return Some("code that is too large to be searched for unit tests".to_owned()) };
        return weakened::rust_unit_tests(&old, new.as_deref().unwrap_or_default());
    }
    let (old, new) = match (&change.old, &change.new) {
        (Some(_), None) => return Some("a test that was there before, deleted".to_owned()),
        (Some(old), Some(new)) if old.mode != new.mode && new.mode != PROGRAM => {
            return Some("a test that was there before: what kind of file it is, changed".to_owned());
        }
        _ => text(change),
    };
    match (&change.old, old, new) {
        (None, _, Some(new)) => weakened::stops_others(&new, &change.path),
        (None, _, None) => is_code(&change.path).then(|| "a new test that is too large to be looked into".to_owned()),
        (Some(_), Some(old), Some(new)) => weakened::by(&old, &new, &change.path),
        _ => Some("a test that was there before, changed".to_owned()),
    }
}

fn by_run(change: &Change, run: &[String], files: &GlobSet) -> Option<String> {
    let is_run = change.old.is_some() && run.contains(&change.path);
    (is_run && !(files.is_match(&change.path) && change.new.is_some()))
        .then(|| format!("a check runs it; it was there before, {}", verb(change)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::judge::Side;

    fn side(mode: u32) -> Option<Side> {
        Some(Side { mode, id: String::new() })
    }

    /// What is said about one change from `old` to `new`; an empty text is no file.
    fn judged(path: &str, old: &str, new: &str, judges: &Judges) -> Option<String> {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let of = |text: &str| if text.is_empty() { None } else { side(0o100_644) };
        let change = Change { path: path.to_owned(), old: of(old), new: of(new) };
        let found = touched(&[change], &|_| (some(old), some(new)), judges);
        found.into_iter().next().map(|touched| touched.why)
    }

    #[test]
    fn what_judges_is_seen_and_what_does_not_is_not() {
        let none = Judges::default();
        for (path, old, new) in [
            ("Makefile", "test:\n\tcargo test\n", "test:\n\ttrue\n"),
            ("sub/Makefile", "", "test:\n\ttrue\n"),
            ("tests/conftest.py", "", "import pytest\n"),
            (".cargo/config.toml", "", "[build]\nrustc-wrapper = \"x\"\n"),
            ("build.rs", "fn main() {}\n", "fn main() { evil() }\n"),
            ("Cargo.lock", "a", "b"),
            (".github/workflows/ci.yml", "a", ""),
            (".claude/settings.json", "", "{}"),
            ("CLAUDE.md", "a", "b"),
            (".gitattributes", "", "* -text"),
            ("package.json", "{\"scripts\":{\"test\":\"jest\"}}", "{\"scripts\":{\"test\":\"true\"}}"),
            ("package.json", "", "{\"scripts\":{\"test\":\"exit 0\"}}"),
            ("Cargo.toml", "[package]\nname = \"a\"\n", "[package]\nname = \"a\"\nautotests = false\n"),
            (
                "pyproject.toml",
                "[project]\nname = \"a\"\n",
                "[project]\nname = \"a\"\n[tool.pytest.ini_options]\naddopts = \"-k x\"\n",
            ),
            ("tests/a.rs", "#[test]\nfn a() { assert!(x()); }\n", ""),
            ("src/test_a.py", "def test_a():\n    assert f() == 1\n", "def test_a():\n    pass\n"),
            ("src/__snapshots__/a.snap", "1", "2"),
            (".work/journal.jsonl", "", "{}"),
        ] {
            assert!(judged(path, old, new, &none).is_some(), "{path}: {old:?} to {new:?}");
        }
        for (path, old, new) in [
            ("src/lib.rs", "fn a() {}\n", "fn a() { 1 }\n"),
            ("Cargo.lock", "", "b"),
            (
                "Cargo.toml",
                "[package]\nname = \"a\"\n[dependencies]\n",
                "[package]\nname = \"a\"\n[dependencies]\nserde = \"1\"\n",
            ),
            ("package.json", "{\"dependencies\":{}}", "{\"dependencies\":{\"a\":\"1\"}}"),
            ("tests/b.rs", "", "#[test]\nfn b() { assert!(x()); }\n"),
            (
                "tests/a.py",
                "def test_a():\n    assert f()\n",
                "def test_a():\n    assert f()\n\n\ndef test_b():\n    assert g()\n",
            ),
            ("doc/testing.md", "a", "b"),
            ("src/contest.py", "a", "b"),
        ] {
            assert_eq!(judged(path, old, new, &none), None, "{path}: {old:?} to {new:?}");
        }
    }

    #[test]
    fn the_author_of_the_plan_adds_judges_and_names_exceptions() {
        let judges = Judges {
            protected: vec!["schema/**".to_owned()],
            files: vec!["Makefile".to_owned(), "src/**".to_owned(), "tests/a.rs".to_owned()],
            run: executed(&["sh tools/check.sh && test -s doc/a.md; X=1 ./src/run.sh a".to_owned()], ".", &|_| None),
            plan: Some("doc/plans/p.md".to_owned()),
            asked: vec!["doc/a.md".to_owned(), "tools".to_owned()],
        };
        for (path, old, new, is_touched) in [
            ("schema/a.sql", "a", "b", true),
            ("doc/plans/p.md", "a", "b", true),
            ("Makefile", "a", "b", false),
            ("Makefile", "a", "", true),
            ("sub/Makefile", "a", "b", true),
            ("tools/check.sh", "a", "b", true),
            ("tools/check.sh", "", "b", false),
            ("src/run.sh", "a", "b", false),
            ("doc/a.md", "a", "b", false),
            ("tests/a.rs", "#[test]\nfn a() { b() }", "#[test]\nfn a() {}", false),
            ("lib/a.c", "a", "b", true),
            ("lib/a.c", "", "b", true),
            ("tests/b.rs", "", "#[test]\nfn b() { assert!(c()); }\n", false),
        ] {
            assert_eq!(judged(path, old, new, &judges).is_some(), is_touched, "{path}: {old} to {new}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_held_and_so_is_another_kind_of_file() {
        let touched = |path: &str, old: Option<Side>, new: Option<Side>, text: Option<&str>| {
            let change = Change { path: path.to_owned(), old, new };
            let text = text.map(str::to_owned);
            !touched(&[change], &|_| (text.clone(), text.clone()), &Judges::default()).is_empty()
        };
        let (plain, program) = (side(0o100_644), side(PROGRAM));
        assert!(touched("package.json", plain.clone(), plain.clone(), None));
        assert!(touched("tests/test_a.py", None, plain.clone(), None));
        assert!(touched("tests/test_a.py", plain.clone(), plain.clone(), None));
        assert!(touched("src/lib.rs", plain.clone(), plain.clone(), None));
        assert!(!touched("tests/picture.png", None, plain.clone(), None));
        assert!(!touched("src/app.py", plain.clone(), plain.clone(), None));
        assert!(touched("tests/a.sh", program.clone(), plain.clone(), Some("exit 0")));
        assert!(!touched("tests/a.sh", plain.clone(), program, Some("exit 0")));
        assert!(touched("tests/a.sh", plain, side(LINK), Some("exit 0")));
    }

    #[test]
    fn links_out_of_the_tree_and_submodules_are_seen() {
        let none = Judges::default();
        for (path, target, is_odd) in [
            ("a", "/etc/passwd", true),
            ("a", "../x", true),
            ("d/a", "../x", false),
            ("d/a", "../../x", true),
            ("a", "b/../../c", true),
            ("d/a", "up/../b", true),
            ("d/a", ".././b/c", false),
            ("a", "b", false),
        ] {
            let change = Change { path: path.to_owned(), old: None, new: side(LINK) };
            let found = touched(&[change], &|_| (None, Some(target.to_owned())), &none);
            assert_eq!(!found.is_empty(), is_odd, "{path} to {target}");
        }
        let module = Change { path: "vendor".to_owned(), old: None, new: side(SUBMODULE) };
        assert_eq!(touched(&[module], &|_| (None, None), &none).len(), 1);
    }
}
