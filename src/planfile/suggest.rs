//! Checks that would fit a stage, from what the repository is made of. Pure: the
//! caller says which files there are and what is in the few that are read.

use crate::base::glob::{Reach, from_top, is_wild};
use crate::model::plan::StageSpec;

/// The repository of a stage.
pub struct Tree<'t> {
    /// Its files, sorted, as paths from its top.
    pub files: &'t [String],
    /// The content of one of them.
    pub read: &'t dyn Fn(&str) -> Option<String>,
}

/// One thing to add to a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suggestion {
    /// The field of the stage that it belongs to.
    pub field: &'static str,
    /// The item of its list: a command or a path.
    pub item: String,
    /// What it was derived from.
    pub why: String,
}

/// A build tool: the file that shows it, and its commands.
struct Tool {
    marker: &'static str,
    commands: &'static [&'static str],
}

/// The most telling first.
const TOOLS: [Tool; 13] = [
    Tool { marker: "Cargo.toml", commands: &["cargo test", "cargo clippy --all-targets -- -D warnings"] },
    Tool { marker: "go.mod", commands: &["go test ./...", "go vet ./..."] },
    Tool { marker: "pytest.ini", commands: &["python3 -m pytest"] },
    Tool { marker: "pyproject.toml", commands: &["python3 -m pytest"] },
    Tool { marker: "setup.py", commands: &["python3 -m pytest"] },
    Tool { marker: "pom.xml", commands: &["mvn -q test"] },
    Tool { marker: "gradlew", commands: &["./gradlew test"] },
    Tool { marker: "mix.exs", commands: &["mix test"] },
    Tool { marker: "Gemfile", commands: &["bundle exec rake test"] },
    Tool { marker: "composer.json", commands: &["composer test"] },
    Tool { marker: "deno.json", commands: &["deno test"] },
    Tool { marker: "build.zig", commands: &["zig build test"] },
    Tool { marker: "dune-project", commands: &["dune test"] },
];

/// Scripts of a `package.json` that prove something.
const SCRIPTS: [&str; 5] = ["test", "lint", "typecheck", "check", "build"];

/// Checks for `spec`, the most telling first. What the stage has already is left out.
pub fn suggest(spec: &StageSpec, tree: &Tree<'_>) -> Vec<Suggestion> {
    let mut all = new_files(spec, tree);
    all.extend(tests_of(spec, tree));
    for tool in &TOOLS {
        if let Some(folder) = nearest(&spec.working_dir, tool.marker, tree) {
            let why = format!("there is `{}`", from_top(&folder, tool.marker));
            all.extend(tool.commands.iter().map(|command| acceptance(*command, &why)));
        }
    }
    all.extend(package_scripts(spec, tree));
    all.extend(targets(spec, tree, "Makefile", "make"));
    all.extend(targets(spec, tree, "justfile", "just"));
    let mut seen = std::collections::BTreeSet::new();
    let has = |item: &str| spec.checks.iter().any(|check| check.command == item);
    all.retain(|one| !has(&one.item) && !spec.criteria.artifacts.contains(&one.item) && seen.insert(one.item.clone()));
    all
}

fn acceptance(command: impl Into<String>, why: &str) -> Suggestion {
    Suggestion { field: "acceptance", item: command.into(), why: why.to_owned() }
}

fn has(tree: &Tree<'_>, path: &str) -> bool {
    tree.files.binary_search_by(|file| file.as_str().cmp(path)).is_ok()
}

/// The folder at or above `start` that has a file of this name.
fn nearest(start: &str, name: &str, tree: &Tree<'_>) -> Option<String> {
    let start = from_top(".", start);
    let mut folder = start.as_str();
    loop {
        if has(tree, &from_top(folder, name)) {
            return Some(folder.to_owned());
        }
        if folder.is_empty() {
            return None;
        }
        folder = folder.rsplit_once('/').map_or("", |(above, _)| above);
    }
}

/// Files that the stage names and that are not there: it is to make them.
fn new_files(spec: &StageSpec, tree: &Tree<'_>) -> Vec<Suggestion> {
    let new = spec.files.iter().filter(|file| {
        let path = from_top(&spec.working_dir, file);
        let is_folder = tree.files.iter().any(|other| other.starts_with(&format!("{path}/")));
        !is_wild(file) && !file.ends_with('/') && !has(tree, &path) && !is_folder
    });
    let why = "the stage names it in `files`, and it is not there yet";
    new.map(|file| Suggestion { field: "artifacts", item: file.clone(), why: why.to_owned() }).collect()
}

/// Tests that the stage may change, each by its own name: a narrow check fails for a narrow reason.
fn tests_of(spec: &StageSpec, tree: &Tree<'_>) -> Vec<Suggestion> {
    let reaches: Vec<Reach> = spec.files.iter().map(|file| Reach::of(&spec.working_dir, file)).collect();
    let named = spec.files.iter().filter(|file| !is_wild(file)).map(|file| from_top(&spec.working_dir, file));
    let there = tree.files.iter().filter(|file| reaches.iter().any(|reach| reach.means(file))).cloned();
    let base = from_top(".", &spec.working_dir);
    let mut all = Vec::new();
    for path in named.chain(there) {
        let Some(own) = path.strip_prefix(&base).map(|rest| rest.trim_start_matches('/')) else { continue };
        let name = own.rsplit('/').next().unwrap_or_default();
        let (stem, extension) = name.rsplit_once('.').unwrap_or((name, ""));
        let command = match extension {
            "rs" if own.starts_with("tests/") && own.matches('/').count() == 1 => format!("cargo test --test {stem}"),
            "py" if stem.starts_with("test_") || stem.ends_with("_test") => format!("python3 -m pytest {own}"),
            "go" if stem.ends_with("_test") => {
                format!("go test ./{}", own.rsplit_once('/').map_or("", |(folder, _)| folder))
            }
            "bats" => format!("bats {own}"),
            _ => continue,
        };
        all.push(acceptance(command, &format!("`{own}` is a test that the stage may change")));
    }
    all
}

fn package_scripts(spec: &StageSpec, tree: &Tree<'_>) -> Vec<Suggestion> {
    let Some(folder) = nearest(&spec.working_dir, "package.json", tree) else { return Vec::new() };
    let path = from_top(&folder, "package.json");
    let package = (tree.read)(&path).and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
    let Some(package) = package else { return Vec::new() };
    let locks = [("pnpm-lock.yaml", "pnpm"), ("yarn.lock", "yarn"), ("bun.lock", "bun")];
    let lock = locks.iter().find(|(lock, _)| nearest(&folder, lock, tree).is_some());
    let manager = lock.map_or("npm", |(_, manager)| *manager);
    let has = |script: &&&str| package["scripts"][**script].is_string();
    let command = |script: &&str| match *script {
        "test" => format!("{manager} test"),
        script => format!("{manager} run {script}"),
    };
    let why = |script: &str| format!("`{path}` has the script `{script}`");
    SCRIPTS.iter().filter(has).map(|script| acceptance(command(script), &why(script))).collect()
}

/// Targets of a file such as a Makefile: `test:` and `check:`, in the stage's own folder.
fn targets(spec: &StageSpec, tree: &Tree<'_>, file: &str, program: &str) -> Vec<Suggestion> {
    let path = from_top(&spec.working_dir, file);
    let text = has(tree, &path).then(|| (tree.read)(&path)).flatten().unwrap_or_default();
    let has =
        |target: &&str| text.lines().any(|line| line.strip_prefix(*target).is_some_and(|rest| rest.starts_with(':')));
    let why = |target: &str| format!("`{path}` has the target `{target}`");
    let targets = ["test", "check"].into_iter().filter(has);
    targets.map(|target| acceptance(format!("{program} {target}"), &why(target))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planfile::read;

    fn suggested(stage: &str, files: &[(&str, &str)]) -> String {
        let plan = format!(
            "# T\n<!-- loom METADATA -->\n```yaml\nloom:\n  version: 1\n  stages:\n    - {{id: a, name: A, acceptance: [make], {stage}}}\n```\n<!-- END loom METADATA -->\n"
        );
        let plan = read(plan.as_bytes(), "plan.md").plan.unwrap();
        let mut names: Vec<String> = files.iter().map(|(name, _)| (*name).to_owned()).collect();
        names.sort();
        let read = |path: &str| files.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned());
        let all = suggest(&plan.stages[0], &Tree { files: &names, read: &read });
        all.iter().map(|one| format!("{}: {}\n", one.field, one.item)).collect()
    }

    #[test]
    fn checks_are_found_in_what_the_repository_is_made_of() {
        let files =
            [("Cargo.toml", ""), ("tests/api.rs", ""), ("src/lib.rs", ""), ("Makefile", "all: x\ncheck: all\n")];
        insta::assert_snapshot!(suggested("files: [src/new.rs, 'tests/*.rs']", &files), @r"
        artifacts: src/new.rs
        acceptance: cargo test --test api
        acceptance: cargo test
        acceptance: cargo clippy --all-targets -- -D warnings
        acceptance: make check
        ");
    }

    #[test]
    fn a_folder_of_its_own_has_tools_of_its_own() {
        let package = r#"{"scripts": {"test": "vitest", "lint": "eslint", "start": "vite"}}"#;
        let files =
            [("web/package.json", package), ("web/pnpm-lock.yaml", ""), ("go.mod", ""), ("web/e2e/test_login.py", "")];
        insta::assert_snapshot!(suggested("working_dir: web, files: ['e2e/**']", &files), @r"
        acceptance: python3 -m pytest e2e/test_login.py
        acceptance: go test ./...
        acceptance: go vet ./...
        acceptance: pnpm test
        acceptance: pnpm run lint
        ");
        assert_eq!(suggested("files: [doc]", &[("doc/a.md", "")]), "");
    }
}
