//! `setup` and `teardown`: commands that prove nothing and make a tree ready, or
//! clear up behind it. They run like checks, and only have to succeed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{CheckError, Lifeline, Script, executed, runner, verdict};
use crate::base::text::sha256;
use crate::model::check::{Check, Setup};
use crate::model::limits::SETUP_TIMEOUT;
use crate::model::stage::CheckResult;

/// Files that say what a project needs: where one of them is different, a setup may do
/// something else, whether it names the file or not.
const MANIFESTS: [&str; 24] = [
    "Cargo.toml",
    "Cargo.lock",
    "rust-toolchain.toml",
    "package.json",
    "package-lock.json",
    "npm-shrinkwrap.json",
    "pnpm-lock.yaml",
    "yarn.lock",
    "bun.lock",
    "deno.lock",
    "pyproject.toml",
    "poetry.lock",
    "uv.lock",
    "Pipfile.lock",
    "requirements.txt",
    "setup.py",
    "go.mod",
    "go.sum",
    "Gemfile.lock",
    "composer.lock",
    "pom.xml",
    "build.gradle",
    "Makefile",
    ".nvmrc",
];

/// What is to be run, and where.
#[derive(Debug)]
pub struct Preparation<'a> {
    pub commands: &'a [String],
    pub cwd: &'a Path,
    /// The whole environment of the commands.
    pub environment: Vec<(String, String)>,
    /// `.work/`: evidence paths are relative to it.
    pub work: &'a Path,
    /// Where output goes as it comes …
    pub log: Option<PathBuf>,
    /// … or where it is kept, where there is no log.
    pub evidence: PathBuf,
    /// Held while it goes on: another one that has it is waited for.
    pub lock: Option<PathBuf>,
    /// Whether the first failure is the end.
    pub stops: bool,
}

/// Runs the commands one after the other. Returns the first one that failed.
pub fn carry_out(preparation: &Preparation, lifeline: &Lifeline) -> Result<Option<CheckResult>, CheckError> {
    let command = |command: &String| {
        let check = Check { timeout_secs: Some(SETUP_TIMEOUT.as_secs()), ..Check::command(command) };
        verdict::Command { is_preparation: true, ..verdict::Command::of(&check) }
    };
    let order = runner::Order {
        cwd: preparation.cwd.to_path_buf(),
        top: None,
        environment: preparation.environment.clone(),
        commands: preparation.commands.iter().map(command).collect(),
        first: 0,
        watched: None,
        evidence: preparation.evidence.clone(),
        work: preparation.work.to_path_buf(),
        log: preparation.log.clone(),
        lock: preparation.lock.clone(),
        stops: preparation.stops,
    };
    Ok(runner::run(&order, lifeline)?.results.into_iter().find(|result| !result.passed))
}

/// A digest of everything that says what these setups do: their text, the files of the tree that it
/// names or that scripts call which it executes, and those that say what a project needs. `files`:
/// paths from the top, with digests. `script`: what stands at one of them.
pub fn inputs(setups: &[Setup], files: &[(String, String)], script: &dyn Fn(&str) -> Option<Script>) -> String {
    let run: BTreeSet<String> =
        setups.iter().flat_map(|setup| executed(&setup.commands, &setup.working_dir, script)).collect();
    let mut text = String::new();
    for setup in setups {
        text.push_str(&format!("{}\0{}\0\0", setup.working_dir, setup.commands.join("\0")));
    }
    let named: BTreeSet<String> = setups.iter().flat_map(words).collect();
    let is_named =
        |path: &str| path.match_indices('/').any(|(at, _)| named.contains(&path[..at])) || named.contains(path);
    for (path, digest) in files {
        let name = path.rsplit('/').next().unwrap_or(path);
        if MANIFESTS.contains(&name) || is_named(path) || run.contains(path) {
            text.push_str(&format!("{path}\0{digest}\0"));
        }
    }
    sha256(text.as_bytes())
}

/// The words of a setup as paths from the top of the tree; most of them are none.
fn words(setup: &Setup) -> Vec<String> {
    let dir = setup.working_dir.trim_start_matches("./").trim_end_matches('/');
    let is_end = |c: char| c.is_whitespace() || "\"'`;|&<>()={}$,".contains(c);
    let words = setup.commands.iter().flat_map(|command| command.split(is_end));
    let words = words.map(|word| word.trim_start_matches("./").trim_end_matches('/')).filter(|word| !word.is_empty());
    words.flat_map(|word| [word.to_owned(), format!("{dir}/{word}")]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(command: &str, working_dir: &str) -> Vec<Setup> {
        vec![Setup { commands: vec![command.to_owned()], working_dir: working_dir.to_owned() }]
    }

    fn files(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(path, digest)| ((*path).to_owned(), (*digest).to_owned())).collect()
    }

    #[test]
    fn a_setup_is_another_one_when_a_file_that_it_names_is() {
        let before = files(&[
            ("tools/prepare.sh", "1"),
            ("app/package-lock.json", "1"),
            ("src/lib.rs", "1"),
            ("tools/deep.sh", "1"),
        ]);
        let script = |path: &str| (path == "tools/prepare.sh").then(|| Script::Text("sh tools/deep.sh".to_owned()));
        let with = |path: &str| {
            let change = |(at, digest): &(String, String)| {
                (at.clone(), if at == path { "2".to_owned() } else { digest.clone() })
            };
            before.iter().map(change).collect::<Vec<_>>()
        };
        let cases = [
            ("sh tools/prepare.sh", ".", "tools/prepare.sh", true),
            ("sh ./prepare.sh --fast", "tools", "tools/prepare.sh", true),
            ("cp -r tools /tmp/x", ".", "tools/prepare.sh", true),
            ("sh tools/prepare.sh", ".", "tools/deep.sh", true),
            ("make", ".", "tools/prepare.sh", false),
            ("npm ci", "app", "app/package-lock.json", true),
            ("npm ci", "app", "src/lib.rs", false),
        ];
        for (command, dir, changed, differs) in cases {
            let setup = setup(command, dir);
            assert_eq!(
                inputs(&setup, &before, &script) != inputs(&setup, &with(changed), &script),
                differs,
                "{command}: {changed}"
            );
        }
        assert_ne!(inputs(&setup("a", "."), &before, &script), inputs(&setup("b", "."), &before, &script));
        assert_ne!(inputs(&setup("a", "."), &before, &script), inputs(&setup("a", "app"), &before, &script));
    }
}
