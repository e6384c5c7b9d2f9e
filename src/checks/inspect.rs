//! Checks that look at files: artifacts, wiring, the test of a mended bug. They
//! look at what is committed in the tree that would land, never at what merely
//! lies in the checkout, and follow no link.

use std::collections::BTreeSet;
use std::path::Path;

use globset::{GlobBuilder, GlobMatcher};

use super::stubs;
use crate::base::text::{count, printable, sha256};
use crate::model::check::{Criteria, RegressionTest, Wiring};
use crate::model::stage::CheckResult;

/// Largest file that is looked into, in bytes.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// The tree that is looked at.
#[derive(Debug)]
pub struct Tree<'a> {
    /// Where it is checked out.
    pub root: &'a Path,
    /// Its files, from the top.
    pub files: &'a [String],
    /// Those that the stage changed.
    pub touched: &'a BTreeSet<String>,
    /// Where paths and globs start.
    pub working_dir: &'a str,
}

/// Looks at every criterion that is not a command, in the order of [`Criteria::labels`].
pub(super) fn look(criteria: &Criteria, tree: &Tree) -> Vec<CheckResult> {
    let artifacts = criteria.artifacts.iter().map(|glob| artifact(glob, tree));
    let wiring = criteria.wiring.iter().map(|wiring| wired(wiring, tree));
    let regression = criteria.regression_test.iter().map(|test| regression(test, tree));
    let found = artifacts.chain(wiring).chain(regression);
    criteria.labels().zip(found).map(|(label, found)| result(label, found)).collect()
}

/// What was seen, as words; the error: why it is not enough.
type Found = Result<String, String>;

fn result(label: String, found: Found) -> CheckResult {
    let (tail, why) = match found {
        Ok(seen) => (seen, None),
        Err(why) => (String::new(), Some(why)),
    };
    let output_sha256 = sha256(tail.as_bytes());
    CheckResult { command: label, passed: why.is_none(), why, tail, output_sha256, ..CheckResult::default() }
}

fn artifact(glob: &str, tree: &Tree) -> Found {
    let files = tree.matching(glob)?;
    if files.is_empty() {
        return Err(format!("no committed file matches `{glob}`"));
    }
    for path in &files {
        let text = tree.read(path)?;
        if text.trim().is_empty() {
            return Err(format!("`{path}` is empty"));
        }
        // What others left unfinished is not this stage's.
        if tree.touched.contains(*path)
            && let Some((line, stub)) = stubs::find(path, &text)
        {
            return Err(format!("`{path}` is not finished: line {line} says `{}`", printable(&stub)));
        }
    }
    Ok(count(files.len(), "file"))
}

fn wired(wiring: &Wiring, tree: &Tree) -> Found {
    let pattern = regex::RegexBuilder::new(&wiring.pattern)
        .size_limit(1 << 20)
        .build()
        .map_err(|error| format!("the plan's expression cannot be read: {error}"))?;
    let files = tree.matching(&wiring.source)?;
    if files.is_empty() {
        return Err(format!("no committed file matches `{}`", wiring.source));
    }
    for path in &files {
        let text = tree.read(path)?;
        if let Some(line) = text.lines().position(|line| pattern.is_match(line)) {
            return Ok(format!("{path}:{}", line + 1));
        }
    }
    Err(format!("no line of {} matches `{}`", count(files.len(), "file"), wiring.pattern))
}

fn regression(test: &RegressionTest, tree: &Tree) -> Found {
    let files = tree.matching(&globset::escape(&test.file))?;
    let Some(path) = files.first() else { return Err(format!("`{}` is not committed", test.file)) };
    if !tree.touched.contains(*path) {
        return Err(format!("`{path}` is as it was: the stage wrote no test into it"));
    }
    let text = tree.read(path)?;
    match test.must_contain.iter().find(|wanted| !text.contains(wanted.as_str())) {
        Some(missing) => Err(format!("`{path}` does not contain `{missing}`")),
        None => Ok(path.to_string()),
    }
}

impl Tree<'_> {
    /// The committed files that a glob of the plan matches.
    fn matching(&self, glob: &str) -> Result<Vec<&str>, String> {
        let matcher = self.matcher(glob)?;
        Ok(self.files.iter().map(String::as_str).filter(|path| matcher.is_match(path)).collect())
    }

    fn matcher(&self, glob: &str) -> Result<GlobMatcher, String> {
        let dir = self.working_dir.trim_start_matches("./").trim_end_matches('/');
        let glob = glob.trim_start_matches("./");
        let glob = if matches!(dir, "" | ".") { glob.to_owned() } else { format!("{}/{glob}", globset::escape(dir)) };
        let built = GlobBuilder::new(&glob).literal_separator(true).build();
        built.map(|glob| glob.compile_matcher()).map_err(|error| format!("the plan's glob cannot be read: {error}"))
    }

    /// The content of a file that is one: no link, and no link on the way to it.
    fn read(&self, path: &str) -> Result<String, String> {
        let mut at = self.root.to_path_buf();
        for part in path.split('/') {
            at.push(part);
            let meta = std::fs::symlink_metadata(&at).map_err(|error| format!("`{path}` cannot be read: {error}"))?;
            if meta.is_symlink() {
                return Err(format!("`{path}` is a link: what it leads to is not in the tree"));
            }
            if meta.is_file() && meta.len() > FILE_BYTES_MAX {
                return Err(format!("`{path}` is larger than {} MiB", FILE_BYTES_MAX >> 20));
            }
        }
        let bytes = fs_err::read(&at).map_err(|error| error.to_string())?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked(criteria: &Criteria, files: &[(&str, &str)], touched: &[&str], working_dir: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            match text.strip_prefix("-> ") {
                Some(target) => fs_err::os::unix::fs::symlink(target, path).unwrap(),
                None => fs_err::write(path, text).unwrap(),
            }
        }
        let names: Vec<String> = files.iter().map(|(path, _)| (*path).to_owned()).collect();
        let touched: BTreeSet<String> = touched.iter().map(|path| (*path).to_owned()).collect();
        let tree = Tree { root: dir.path(), files: &names, touched: &touched, working_dir };
        look(criteria, &tree).into_iter().map(|result| result.why.unwrap_or("fine".to_owned())).collect()
    }

    fn artifacts(glob: &str) -> Criteria {
        Criteria { artifacts: vec![glob.to_owned()], ..Criteria::default() }
    }

    #[test]
    fn an_artifact_is_committed_and_has_real_content() {
        for (files, touched, wanted) in [
            (&[("src/a.rs", "fn a() {}")][..], &["src/a.rs"][..], "fine"),
            (&[("src/deep/a.rs", "fn a() {}")], &[], "no committed file"),
            (&[("src/a.rs", " \n")], &["src/a.rs"], "is empty"),
            (&[("src/a.rs", "fn a() { todo!() }")], &["src/a.rs"], "is not finished: line 1"),
            (&[("src/a.rs", "fn a() { todo!() }")], &[], "fine"),
            (&[("src/a.rs", "-> /etc/passwd")], &["src/a.rs"], "is a link"),
            (&[("src", "-> /tmp"), ("src/a.rs", "-> x")][..1], &[], "no committed file"),
        ] {
            let found = looked(&artifacts("src/*.rs"), files, touched, ".");
            assert!(found[0].contains(wanted), "{files:?}: {found:?}");
        }
        assert_eq!(looked(&artifacts("*.rs"), &[("sub/a.rs", "fn a() {}"), ("b.rs", "")], &[], "sub"), ["fine"]);
    }

    #[test]
    fn wiring_is_found_line_by_line() {
        let wiring = |source: &str, pattern: &str| Criteria {
            wiring: vec![Wiring { source: source.to_owned(), pattern: pattern.to_owned(), description: None }],
            ..Criteria::default()
        };
        let files = [("src/main.rs", "mod api;\nfn main() {}\n"), ("src/api.rs", "")];
        assert_eq!(looked(&wiring("src/*.rs", r"^mod api;$"), &files, &[], "."), ["fine"]);
        assert!(looked(&wiring("src/*.rs", "mod other"), &files, &[], ".")[0].contains("no line of 2 files"));
        assert!(looked(&wiring("lib/*.rs", "."), &files, &[], ".")[0].contains("no committed file"));
    }

    #[test]
    fn the_test_of_a_mended_bug_is_the_stages_own() {
        let criteria = Criteria {
            regression_test: Some(RegressionTest {
                file: "tests/a.rs".to_owned(),
                must_contain: vec!["bug_7".to_owned()],
            }),
            ..Criteria::default()
        };
        let files = [("tests/a.rs", "fn bug_7() {}")];
        assert_eq!(looked(&criteria, &files, &["tests/a.rs"], "."), ["fine"]);
        assert!(looked(&criteria, &files, &[], ".")[0].contains("as it was"));
        assert!(
            looked(&criteria, &[("tests/a.rs", "fn b() {}")], &["tests/a.rs"], ".")[0].contains("does not contain")
        );
        assert!(looked(&criteria, &[], &[], ".")[0].contains("is not committed"));
    }
}
