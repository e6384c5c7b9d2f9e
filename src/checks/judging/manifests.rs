//! Manifests: files that say what is used, and beside it what judges. They are
//! read as what they are and compared by what they mean, so that it does not
//! matter how or where something is written.
//!
//! What a project uses is its own business, as long as it comes from where such
//! things come from. A dependency that was there before and now comes from
//! elsewhere, such as a folder that the stage has written, is another program
//! under the old name.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// Keys of `[package]` of `Cargo.toml` that decide nothing.
const CARGO_FACTS: [&str; 14] = [
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

/// Keys of `package.json` that decide how its tests run.
const PACKAGE_JUDGES: [&str; 21] = [
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

/// Whether a file is a manifest, by its lower-case name.
pub(super) fn is_one(name: &str) -> bool {
    matches!(name, "package.json" | "cargo.toml" | "pyproject.toml" | "go.mod" | "go.work" | "gemfile")
        || name.starts_with("requirements") && name.ends_with(".txt")
}

/// What is wrong with a changed manifest, by its lower-case name; `old`: none, it is new.
pub(super) fn judged(name: &str, old: Option<&str>, new: &str) -> Option<&'static str> {
    const SETTINGS: &str = "settings of tools in it";
    const SOURCES: &str = "where a dependency comes from";
    match name {
        "package.json" => {
            let read = |text: &str| serde_json::from_str::<Value>(text).ok();
            let scripts = "scripts or settings of tools in it";
            compared(old.map(read), read(new), (scripts, SOURCES), &package_judges, &package_sources)
        }
        "cargo.toml" => compared(old.map(toml), toml(new), (SETTINGS, SOURCES), &cargo_judges, &toml_sources),
        "pyproject.toml" => compared(old.map(toml), toml(new), (SETTINGS, SOURCES), &python_judges, &python_sources),
        "go.mod" | "go.work" | "gemfile" => {
            let lines = |text: &str| source_lines(text, &["replace", "exclude", "use ", "path:", "git:", "github:"]);
            (lines(new) != old.map(lines).unwrap_or_default()).then_some(SOURCES)
        }
        _ if name.starts_with("requirements") && name.ends_with(".txt") => {
            let lines = |text: &str| source_lines(text, &["-", " @ ", "file:", "./", "../", "git+", "http"]);
            let before = old.map(lines).unwrap_or_default();
            lines(new).iter().any(|line| !before.contains(line)).then_some(SOURCES)
        }
        _ => None,
    }
}

/// The parts of a manifest that judge; for a new one, what must not be in it.
type Judging = dyn Fn(&Value, bool) -> Value;

/// `old`: none, it is new; none within: it cannot be read. What cannot be read judges as a whole.
fn compared(
    old: Option<Option<Value>>,
    new: Option<Value>,
    (settings, sources): (&'static str, &'static str),
    judging: &Judging,
    come_from_elsewhere: &dyn Fn(&Value, &Value) -> bool,
) -> Option<&'static str> {
    let Some(new) = new else { return Some(settings) };
    let is_new = old.is_none();
    let old = match old {
        Some(None) => return Some(settings),
        Some(Some(old)) => old,
        None => Value::Object(Map::new()),
    };
    if judging(&old, is_new) != judging(&new, is_new) {
        return Some(settings);
    }
    come_from_elsewhere(&old, &new).then_some(sources)
}

fn toml(text: &str) -> Option<Value> {
    toml_edit::de::from_str(text).ok()
}

fn package_judges(package: &Value, _: bool) -> Value {
    let Some(map) = package.as_object() else { return package.clone() };
    let judging = map.iter().filter(|(key, _)| PACKAGE_JUDGES.contains(&key.as_str()));
    Value::Object(judging.map(|(key, value)| (key.clone(), value.clone())).collect())
}

/// What of a `Cargo.toml` says how it is built and tested. Of a new one only what takes tests away,
/// or puts something in the place of what is used.
fn cargo_judges(manifest: &Value, is_new: bool) -> Value {
    const TAKES_AWAY: [&str; 8] =
        ["autotests", "autobenches", "test", "doctest", "harness", "build", "patch", "replace"];
    let mut kept = without_uses(manifest);
    if let Some(map) = kept.as_object_mut() {
        map.remove("features");
        let in_package = |key: &String| !CARGO_FACTS.contains(&key.as_str());
        // A further member takes no test away, and one that goes is seen by its files.
        let in_workspace = |key: &String| !matches!(key.as_str(), "members" | "package");
        retain(map, "package", &in_package);
        retain(map, "workspace", &in_workspace);
    }
    if is_new { only(&kept, &TAKES_AWAY) } else { kept }
}

fn python_judges(manifest: &Value, _: bool) -> Value {
    let mut kept = without_uses(manifest);
    if let Some(map) = kept.as_object_mut() {
        map.remove("dependency-groups");
        // Plugins of a test runner are entry points.
        retain(map, "project", &|key| key == "entry-points");
    }
    kept
}

/// Keeps of the table `name` what is wanted, and no empty one.
fn retain(map: &mut Map<String, Value>, name: &str, wanted: &dyn Fn(&String) -> bool) {
    if let Some(Value::Object(table)) = map.get_mut(name) {
        table.retain(|key, _| wanted(key));
        if table.is_empty() {
            map.remove(name);
        }
    }
}

/// Without the tables that say what is used, and without tables that are empty then.
fn without_uses(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(key, _)| !key.ends_with("dependencies"));
            let kept = kept.map(|(key, value)| (key.clone(), without_uses(value)));
            Value::Object(kept.filter(|(_, value)| value.as_object().is_none_or(|map| !map.is_empty())).collect())
        }
        other => other.clone(),
    }
}

/// The tables and values below keys of these names.
fn only(value: &Value, names: &[&str]) -> Value {
    match value {
        Value::Object(map) => {
            let below = |(key, value): (&String, &Value)| {
                let value = if names.contains(&key.as_str()) { value.clone() } else { only(value, names) };
                (!value.is_null()).then(|| (key.clone(), value))
            };
            let found: Map<String, Value> = map.iter().filter_map(below).collect();
            if found.is_empty() { Value::Null } else { Value::Object(found) }
        }
        Value::Array(items) => {
            let found: Vec<Value> = items.iter().map(|item| only(item, names)).filter(|item| !item.is_null()).collect();
            if found.is_empty() { Value::Null } else { Value::Array(found) }
        }
        _ => Value::Null,
    }
}

/// What is used, by table and name, with what says where it comes from.
type Uses = BTreeMap<(String, String), Vec<(String, Value)>>;

/// Every table of uses, wherever it is.
fn uses(value: &Value, at: &str, found: &mut Uses) {
    const SOURCES: [&str; 9] =
        ["path", "git", "url", "file", "branch", "registry", "registry-index", "package", "source"];
    let Some(map) = value.as_object() else { return };
    for (key, value) in map {
        let table = format!("{at}/{key}");
        if !key.ends_with("dependencies") {
            uses(value, &table, found);
            continue;
        }
        for (name, spec) in value.as_object().into_iter().flatten() {
            let source = |key: &&str| Some(((*key).to_owned(), spec.get(*key)?.clone()));
            found.insert((table.clone(), name.clone()), SOURCES.iter().filter_map(source).collect());
        }
    }
}

/// Whether something comes from elsewhere than before, or something that only builds and tests use
/// comes from elsewhere at all.
fn toml_sources(old: &Value, new: &Value) -> bool {
    let (mut before, mut now) = (Uses::new(), Uses::new());
    uses(old, "", &mut before);
    uses(new, "", &mut now);
    let is_first = old.as_object().is_none_or(Map::is_empty);
    let of_the_product = |table: &str| table.ends_with("/dependencies");
    now.iter().any(|(used, sources)| match before.get(used) {
        Some(before) => before != sources,
        None => !is_first && !of_the_product(&used.0) && !sources.is_empty(),
    })
}

fn python_sources(old: &Value, new: &Value) -> bool {
    // `name @ file:///folder`, in any list.
    fn direct<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::String(text) if text.contains('@') => found.push(text),
            Value::Array(items) => items.iter().for_each(|item| direct(item, found)),
            Value::Object(map) => map.values().for_each(|value| direct(value, found)),
            _ => {}
        }
    }
    let of = |manifest: &Value| {
        let mut found = Vec::new();
        for list in ["/project/dependencies", "/project/optional-dependencies", "/dependency-groups"] {
            let Some(list) = manifest.pointer(list) else { continue };
            direct(list, &mut found);
        }
        found.into_iter().map(str::to_owned).collect::<Vec<String>>()
    };
    let before = of(old);
    of(new).iter().any(|source| !before.contains(source)) || toml_sources(old, new)
}

/// Whether a package comes from a folder, a repository or another name, and did not before.
fn package_sources(old: &Value, new: &Value) -> bool {
    let is_elsewhere = |from: &str| from.contains([':', '/']);
    let table = |package: &Value, key: &str| package.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
    ["dependencies", "devDependencies", "optionalDependencies", "peerDependencies"].iter().any(|key| {
        let before = table(old, key);
        table(new, key).iter().any(|(name, from)| {
            let from = from.as_str().unwrap_or_default();
            match before.get(name).and_then(Value::as_str) {
                Some(before) => before != from && is_elsewhere(from),
                None => is_elsewhere(from) && !from.starts_with("workspace:"),
            }
        })
    })
}

/// The lines that say where something comes from, sorted.
fn source_lines(text: &str, marks: &[&str]) -> Vec<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', '/']));
    let found: BTreeSet<String> =
        lines.filter(|line| marks.iter().any(|mark| line.contains(mark))).map(str::to_owned).collect();
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const USES: &str = "[dev-dependencies]\nrunner = \"1\"\n[dependencies]\nlib = \"1\"\n";

    fn crate_of(more: &str) -> String {
        format!("[package]\nname = \"a\"\nedition = \"2024\"\n{more}")
    }

    fn package(more: &str) -> String {
        format!("{{\"name\": \"a\"{more}}}")
    }

    #[test]
    fn what_judges_is_found_however_it_is_written() {
        for (name, old, new) in [
            // Told apart by lines, these look like text, or like what is used.
            ("cargo.toml", crate_of(""), crate_of("description = \"\"\"\n[dependencies]\n\"\"\"\nautotests = false\n")),
            ("cargo.toml", crate_of(""), crate_of("\"autotests\" = false\n")),
            ("cargo.toml", crate_of(""), crate_of("[lib]\ntest = false\n")),
            ("cargo.toml", crate_of(""), crate_of("[profile.test]\ndebug-assertions = false\n")),
            ("cargo.toml", crate_of(""), format!("package.build = \"evil.rs\"\n{}", "package.name = \"a\"\n")),
            ("cargo.toml", crate_of(USES), crate_of(&USES.replace("runner = \"1\"", "runner = { path = \"mine\" }"))),
            ("cargo.toml", crate_of(USES), crate_of(&USES.replace("lib = \"1\"", "lib = { git = \"x\" }"))),
            ("cargo.toml", crate_of(USES), crate_of(&format!("{USES}[dev-dependencies.new]\npackage = \"x\"\n"))),
            ("cargo.toml", crate_of(""), crate_of("[patch.crates-io]\nlib = { path = \"mine\" }\n")),
            ("cargo.toml", crate_of(""), "[package\n".to_owned()),
            (
                "pyproject.toml",
                "[project]\nname = \"a\"\n".to_owned(),
                "[project]\nname = \"a\"\n[project.entry-points.pytest11]\nx = \"x\"\n".to_owned(),
            ),
            (
                "pyproject.toml",
                "[project]\nname = \"a\"\n".to_owned(),
                "[project]\nname = \"a\"\n[tool.pytest.ini_options]\naddopts = \"\"\n".to_owned(),
            ),
            (
                "pyproject.toml",
                "[project]\ndependencies = [\"x\"]\n".to_owned(),
                "[project]\ndependencies = [\"x @ file:///x\"]\n".to_owned(),
            ),
            ("package.json", package(""), package(", \"scripts\": {\"test\": \"true\"}")),
            (
                "package.json",
                package(", \"devDependencies\": {\"jest\": \"^29\"}"),
                package(", \"devDependencies\": {\"jest\": \"file:lib\"}"),
            ),
            ("package.json", package(""), package(", \"devDependencies\": {\"jest\": \"npm:other@1\"}")),
            (
                "package.json",
                package(", \"dependencies\": {\"a\": \"1\"}"),
                package(", \"dependencies\": {\"a\": \"workspace:*\"}"),
            ),
            ("go.mod", "module a\n".to_owned(), "module a\nreplace x => ./x\n".to_owned()),
            ("requirements-dev.txt", "pytest\n".to_owned(), "-e ./pytest\n".to_owned()),
            ("gemfile", "gem 'rspec'\n".to_owned(), "gem 'rspec', path: 'mine'\n".to_owned()),
        ] {
            assert!(judged(name, Some(&old), &new).is_some(), "{name}: {old} to {new}");
        }
    }

    #[test]
    fn what_is_used_is_free_as_long_as_it_comes_from_where_such_things_do() {
        for (name, old, new) in [
            ("cargo.toml", crate_of(USES), crate_of(&USES.replace("\"1\"", "{ version = \"2\", features = [\"x\"] }"))),
            (
                "cargo.toml",
                crate_of(""),
                crate_of("[features]\nx = []\n[dependencies]\ncore = { path = \"../core\" }\n"),
            ),
            ("cargo.toml", crate_of(""), "package = { name = \"b\", edition = \"2021\" }\n".to_owned()),
            (
                "cargo.toml",
                "[workspace]\nmembers = [\"a\"]\n".to_owned(),
                "[workspace]\nmembers = [\n  \"a\",\n  \"b\",\n]\n".to_owned(),
            ),
            (
                "pyproject.toml",
                "[project]\nname = \"a\"\n".to_owned(),
                "[project]\nname = \"a\"\ndependencies = [\"x>1\"]\n".to_owned(),
            ),
            ("package.json", package(""), package(", \"dependencies\": {\"a\": \"^1\", \"b\": \"workspace:*\"}")),
            ("go.mod", "module a\n".to_owned(), "module a\nrequire x v1\n".to_owned()),
            ("requirements.txt", "a\n".to_owned(), "a\nb==1 # new\n".to_owned()),
        ] {
            assert_eq!(judged(name, Some(&old), &new), None, "{name}: {old} to {new}");
        }
    }

    #[test]
    fn a_new_manifest_may_take_no_test_away() {
        let new = |text: &str| judged("cargo.toml", None, text).is_some();
        assert!(!new(
            "[package]\nname = \"b\"\n[lib]\npath = \"b.rs\"\n[dev-dependencies]\ncore = { path = \"../core\" }\n"
        ));
        assert!(new("[package]\nname = \"b\"\nautotests = false\n"));
        assert!(new("[package]\nname = \"b\"\n[[test]]\nname = \"t\"\nharness = false\n"));
        assert!(new("[package]\nname = \"b\"\nbuild = \"x.rs\"\n"));
        assert!(judged("package.json", None, "{\"scripts\": {\"test\": \"true\"}}").is_some());
        assert_eq!(judged("package.json", None, "{\"name\": \"b\"}"), None);
        assert_eq!(judged("src.rs", None, ""), None);
    }
}
