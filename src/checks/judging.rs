//! Which files judge, and whether a stage touched one. Pure: a list of changes
//! in, a list of touched files out.
//!
//! New tests beside untouched ones are what a stage should write. A test that was
//! there before and is changed, a build script, a runner's settings, CI: these decide
//! whether the work is good, and whose work it is cannot decide that they change.

use globset::{Glob, GlobSet, GlobSetBuilder};

use super::weakened;
use crate::model::judge::{Change, Touched};

/// The content of a changed file, before and after.
pub type Texts<'a> = dyn Fn(&Change) -> (Option<String>, Option<String>) + 'a;

/// What the plan says about the judges of one stage.
#[derive(Debug, Clone, Default)]
pub struct Judges {
    /// `protected:` of the plan.
    pub protected: Vec<String>,
    /// `files:` of the stage, relative to the top of the tree: what its author named without a
    /// wildcard, the stage may add and change.
    pub files: Vec<String>,
    /// The commands that decide about the stage.
    pub commands: Vec<String>,
    /// Where the checks' relative paths start.
    pub working_dir: String,
    /// The plan file, where it is in the tree.
    pub plan: Option<String>,
}

const LINK: u32 = 0o120_000;
const SUBMODULE: u32 = 0o160_000;

/// Files that judge wherever they are, by their lower-case name.
const NAMES: &[(&str, &str)] = &[
    ("makefile", "a build script"),
    ("gnumakefile", "a build script"),
    ("justfile", "a build script"),
    ("rakefile", "a build script"),
    ("taskfile.yml", "a build script"),
    ("taskfile.yaml", "a build script"),
    ("build.rs", "a build script"),
    ("setup.py", "a build script"),
    ("cmakelists.txt", "a build script"),
    ("meson.build", "a build script"),
    ("build.gradle", "a build script"),
    ("build.gradle.kts", "a build script"),
    ("settings.gradle", "a build script"),
    ("pom.xml", "a build script"),
    ("gruntfile.js", "a build script"),
    ("gulpfile.js", "a build script"),
    ("conftest.py", "settings of a test runner"),
    ("pytest.ini", "settings of a test runner"),
    ("tox.ini", "settings of a test runner"),
    ("setup.cfg", "settings of a test runner"),
    ("noxfile.py", "settings of a test runner"),
    (".coveragerc", "settings of a test runner"),
    ("sitecustomize.py", "what every run of Python loads"),
    ("usercustomize.py", "what every run of Python loads"),
    ("rust-toolchain", "the choice of tools"),
    ("rust-toolchain.toml", "the choice of tools"),
    (".tool-versions", "the choice of tools"),
    ("mise.toml", "the choice of tools"),
    (".nvmrc", "the choice of tools"),
    (".npmrc", "settings of a tool"),
    (".yarnrc", "settings of a tool"),
    (".yarnrc.yml", "settings of a tool"),
    (".pnpmfile.cjs", "settings of a tool"),
    (".pnp.cjs", "settings of a tool"),
    ("nextest.toml", "settings of a test runner"),
    ("clippy.toml", "settings of a tool"),
    (".clippy.toml", "settings of a tool"),
    (".golangci.yml", "settings of a tool"),
    (".envrc", "what a shell loads"),
    ("jenkinsfile", "CI"),
    (".gitlab-ci.yml", "CI"),
    (".travis.yml", "CI"),
    (".drone.yml", "CI"),
    ("azure-pipelines.yml", "CI"),
    ("bitbucket-pipelines.yml", "CI"),
    (".pre-commit-config.yaml", "CI"),
    ("lefthook.yml", "CI"),
    (".gitattributes", "settings of git"),
    (".gitmodules", "settings of git"),
    ("claude.md", "settings of the agent"),
    ("claude.local.md", "settings of the agent"),
    ("agents.md", "settings of the agent"),
    (".mcp.json", "settings of the agent"),
];

/// Start of the name of a file of settings, such as `jest.config.ts`.
const SETTINGS: &[&str] = &[
    "jest.config.",
    "jest.setup.",
    "vitest.config.",
    "vitest.setup.",
    "vitest.workspace.",
    "vite.config.",
    "playwright.config.",
    "cypress.config.",
    "karma.conf.",
    "babel.config.",
    "eslint.config.",
    ".eslintrc",
    ".mocharc",
    ".babelrc",
    ".nycrc",
    ".c8rc",
    ".swcrc",
];

/// Folders whose every file judges.
const FOLDERS: &[(&str, &str)] = &[
    (".cargo", "settings of cargo"),
    (".github", "CI"),
    (".circleci", "CI"),
    (".buildkite", "CI"),
    (".woodpecker", "CI"),
    (".husky", "git hooks"),
    (".githooks", "git hooks"),
    (".claude", "settings of the agent"),
    (".vscode", "settings that run programs"),
    (".idea", "settings that run programs"),
    (".work", "Loom's own state"),
    (".worktrees", "Loom's own state"),
];

const LOCKS: &[&str] = &[
    "cargo.lock",
    "package-lock.json",
    "npm-shrinkwrap.json",
    "yarn.lock",
    "pnpm-lock.yaml",
    "bun.lock",
    "bun.lockb",
    "deno.lock",
    "poetry.lock",
    "uv.lock",
    "pdm.lock",
    "pipfile.lock",
    "gemfile.lock",
    "composer.lock",
    "go.sum",
    "mix.lock",
    "pubspec.lock",
    "package.resolved",
    "packages.lock.json",
    "gradle.lockfile",
    "flake.lock",
];

/// Every file that judges and that `changes` touch. `text` gives the content before and after.
pub fn touched(changes: &[Change], text: &Texts<'_>, judges: &Judges) -> Vec<Touched> {
    let protected = globs(&judges.protected);
    let files = globs(&judges.files);
    let run = run_by_checks(&judges.commands, &judges.working_dir);
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
                .or_else(|| executed(change, &run, &files))
        };
        out.extend(why.map(|why| Touched { path: change.path.clone(), why }));
    }
    out
}

fn globs(patterns: &[String]) -> GlobSet {
    let mut set = GlobSetBuilder::new();
    // A pattern that cannot be read was refused with the plan.
    for glob in patterns.iter().filter_map(|pattern| Glob::new(pattern).ok()) {
        set.add(glob);
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

/// Whether a link at `path` leads out of the tree.
fn leaves(path: &str, target: &str) -> bool {
    let mut depth = path.matches('/').count();
    if target.starts_with('/') {
        return true;
    }
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." if depth == 0 => return true,
            ".." => depth -= 1,
            _ => depth += 1,
        }
    }
    false
}

fn own(change: &Change, judges: &Judges) -> Option<String> {
    let is_plan = judges.plan.as_ref() == Some(&change.path);
    is_plan.then(|| format!("the plan itself, {}: what was pinned by `loom init` counts", verb(change)))
}

fn by_glob(change: &Change, protected: &GlobSet) -> Option<String> {
    protected.is_match(&change.path).then(|| format!("protected by the plan, {}", verb(change)))
}

fn by_name(change: &Change, text: &Texts<'_>) -> Option<String> {
    let path = change.path.to_lowercase();
    let name = path.rsplit('/').next().unwrap_or(&path);
    let what = NAMES.iter().find(|(known, _)| *known == name).map(|(_, what)| *what);
    let what =
        what.or_else(|| SETTINGS.iter().any(|start| name.starts_with(start)).then_some("settings of a test runner"));
    let what = what.or_else(|| {
        let folder = path.split('/').rev().skip(1).find_map(|part| FOLDERS.iter().find(|(known, _)| *known == part));
        folder.map(|(_, what)| *what)
    });
    let what = what.or_else(|| (name.ends_with(".mk") || name.ends_with(".pth")).then_some("a build script"));
    if let Some(what) = what {
        return Some(format!("{what}, {}", verb(change)));
    }
    if LOCKS.contains(&name) {
        // A first lock file weakens nothing.
        return change.old.is_some().then(|| format!("a lock file, {}", verb(change)));
    }
    manifest(change, name, text)
}

/// Manifests hold what judges beside what does not: the former is compared.
fn manifest(change: &Change, name: &str, text: &Texts<'_>) -> Option<String> {
    let judging: fn(&str) -> String = match name {
        "package.json" => package_json,
        "cargo.toml" => |text| sections(text, &["features"], &["dependencies"], CARGO_FACTS),
        "pyproject.toml" => |text| sections(text, &["project", "dependency-groups"], &["dependencies"], &[]),
        _ => return None,
    };
    let what = match name {
        "package.json" => "scripts or settings of tools in it",
        _ => "settings of tools in it",
    };
    if change.new.is_none() {
        return Some(format!("{what}, deleted"));
    }
    let (old, new) = text(change);
    let (old, new) = (old.map(|old| judging(&old)), judging(&new?));
    match old {
        Some(old) if old == new => None,
        Some(_) => Some(format!("{what}, changed")),
        None if new.trim().is_empty() || new == "{}" => None,
        None if name == "cargo.toml"
            && !new.contains("autotests")
            && !new.contains("test = false")
            && !new.contains("harness") =>
        {
            None
        }
        None => Some(format!("{what}, new")),
    }
}

/// Keys of `[package]` that decide nothing.
const CARGO_FACTS: &[&str] = &[
    "name",
    "version",
    "authors",
    "edition",
    "license",
    "description",
    "repository",
    "homepage",
    "readme",
    "keywords",
    "categories",
    "documentation",
    "rust-version",
    "publish",
];

/// The keys of `package.json` that decide how its tests run.
fn package_json(text: &str) -> String {
    const JUDGING: [&str; 21] = [
        "scripts",
        "jest",
        "mocha",
        "vitest",
        "ava",
        "tap",
        "nyc",
        "c8",
        "babel",
        "eslintConfig",
        "husky",
        "lint-staged",
        "pre-commit",
        "wireit",
        "nx",
        "packageManager",
        "overrides",
        "resolutions",
        "pnpm",
        "workspaces",
        "imports",
    ];
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(serde_json::Value::Object(map)) => {
            let kept: serde_json::Map<_, _> =
                map.into_iter().filter(|(key, _)| JUDGING.contains(&key.as_str())).collect();
            serde_json::Value::Object(kept).to_string()
        }
        _ => text.to_owned(),
    }
}

/// A TOML text without the sections that only say what is used: those named, those whose last
/// part ends with one of `suffixes`, and the given keys.
fn sections(text: &str, names: &[&str], suffixes: &[&str], facts: &[&str]) -> String {
    let mut is_kept = true;
    let mut out = String::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(header) = line.strip_prefix('[') {
            let header = header.trim_start_matches('[').split(']').next().unwrap_or_default();
            let of_uses = header.split('.').any(|part| suffixes.iter().any(|suffix| part.ends_with(suffix)));
            is_kept = !of_uses && !names.iter().any(|name| header == *name || header.starts_with(&format!("{name}.")));
        }
        let key = line.split(['=', '.', ' ']).next().unwrap_or_default();
        // Headers count with what is below them only.
        if is_kept && !line.starts_with('[') && !facts.contains(&key) {
            out.push_str(line);
            out.push('\n');
        }
    }
    out
}

/// Whether a path is that of a test, or of something that tests read.
pub fn is_test(path: &str) -> bool {
    let lower = path.to_lowercase();
    let name = lower.rsplit('/').next().unwrap_or(&lower);
    let stem = name.split('.').next().unwrap_or(name);
    const FOLDERS: [&str; 9] =
        ["tests", "test", "__tests__", "spec", "specs", "e2e", "testdata", "__snapshots__", "snapshots"];
    lower.split('/').rev().skip(1).any(|part| FOLDERS.contains(&part))
        || name.contains(".test.")
        || name.contains(".spec.")
        || name.ends_with(".snap")
        || name.ends_with(".bats")
        || stem.starts_with("test_")
        || stem.ends_with("_test")
        || stem.ends_with("_tests")
        || stem.ends_with("_spec")
        || matches!(stem, "test" | "tests")
        || ["java", "kt", "cs", "swift", "scala", "php"].iter().any(|end| name.ends_with(&format!(".{end}")))
            && (stem.ends_with("test") || stem.ends_with("tests"))
}

fn tests(change: &Change, text: &Texts<'_>) -> Option<String> {
    if !is_test(&change.path) {
        // Unit tests of Rust live in the file that they test.
        let is_rust = change.path.ends_with(".rs") && change.old.is_some();
        let (old, new) = if is_rust { text(change) } else { return None };
        return weakened::rust_unit_tests(&old?, new.as_deref().unwrap_or_default());
    }
    let (old, new) = match (&change.old, &change.new) {
        (Some(_), None) => return Some("a test that was there before, deleted".to_owned()),
        _ => text(change),
    };
    match (&change.old, old, new) {
        (None, _, Some(new)) => weakened::stops_others(&new),
        (None, _, None) => None,
        (Some(_), Some(old), Some(new)) => weakened::by(&old, &new, &change.path),
        _ => Some("a test that was there before, changed".to_owned()),
    }
}

fn executed(change: &Change, run: &[String], files: &GlobSet) -> Option<String> {
    let is_run = change.old.is_some() && run.contains(&change.path);
    (is_run && !(files.is_match(&change.path) && change.new.is_some()))
        .then(|| format!("a check runs it; it was there before, {}", verb(change)))
}

/// The paths of the tree that the checks' commands execute: called by path, or handed to what
/// interprets or runs them. What a command only reads does not judge.
fn run_by_checks(commands: &[String], working_dir: &str) -> Vec<String> {
    const RUNNERS: [&str; 20] = [
        "sh", "bash", "dash", "zsh", "source", ".", "python", "python3", "node", "ruby", "perl", "php", "deno", "bun",
        "tsx", "make", "bats", "pytest", "jest", "vitest",
    ];
    let mut found = Vec::new();
    for command in commands {
        for simple in command.split(['\n', ';', '|', '&', '(', ')', '{', '}']) {
            let words = shlex::split(simple).unwrap_or_else(|| simple.split_whitespace().map(str::to_owned).collect());
            let is_prefix = |word: &String| {
                word.contains('=')
                    || matches!(
                        word.as_str(),
                        "!" | "if" | "then" | "while" | "do" | "else" | "exec" | "time" | "env" | "timeout"
                    )
            };
            let mut words = words.into_iter().skip_while(is_prefix);
            let Some(program) = words.next() else { continue };
            if program.contains('/') {
                found.extend(in_tree(&program, working_dir));
            }
            let name = program.rsplit('/').next().unwrap_or(&program);
            if RUNNERS.contains(&name) {
                let paths = words.filter(|word| !word.starts_with('-'));
                found.extend(paths.filter_map(|word| in_tree(word.split("::").next().unwrap_or(&word), working_dir)));
            }
        }
    }
    found
}

/// A path of a command, from the top of the tree; none when it is absolute or leaves the tree.
fn in_tree(path: &str, working_dir: &str) -> Option<String> {
    if path.starts_with('/') {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in working_dir.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
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
            commands: vec!["sh tools/check.sh && test -s doc/a.md".to_owned(), "X=1 ./src/run.sh a".to_owned()],
            working_dir: ".".to_owned(),
            plan: Some("doc/plans/p.md".to_owned()),
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
        ] {
            assert_eq!(judged(path, old, new, &judges).is_some(), is_touched, "{path}: {old} to {new}");
        }
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
