//! What the work of a stage lets its plan ask for: artifacts that it made, and
//! connections between what is new and what was there. Pure, and only from what
//! is seen: a connection that is not there is named, and never made up.

use std::collections::BTreeSet;

use regex::Regex;

use super::suggest::Tree;

/// A file that a stage changed.
#[derive(Debug, Clone)]
pub struct Changed {
    /// From the top of the tree.
    pub path: String,
    /// None: it is new.
    pub old: Option<String>,
    pub new: String,
}

/// A connection that was seen.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Link {
    /// The file that it is in, from `working_dir`.
    pub source: String,
    /// A regular expression that a line of it matches.
    pub pattern: String,
    pub description: String,
}

/// Something new that nothing else mentions.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Unused {
    pub file: String,
    /// The function; none: the file itself.
    pub name: Option<String>,
}

/// What was seen in a change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// New files with content that are no tests, from `working_dir`.
    pub made: Vec<String>,
    pub links: Vec<Link>,
    pub unused: Vec<Unused>,
}

/// Most entries of each kind: a plan is read by people.
const SHOWN_MAX: usize = 20;
/// Largest file that is looked into for a connection, in bytes.
const FILE_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    Rust,
    Script,
    Python,
    Go,
}

/// Looks at what a stage changed, among the files of its tree.
pub fn look(changes: &[Changed], tree: &Tree<'_>, working_dir: &str) -> Seen {
    let dir = crate::base::glob::from_top(".", working_dir);
    let own = |path: &str| match dir.as_str() {
        "" => Some(path.to_owned()),
        dir => path.strip_prefix(dir)?.strip_prefix('/').map(str::to_owned),
    };
    let mut seen = Seen::default();
    for change in changes.iter().filter(|change| !is_test(&change.path)) {
        let Some(file) = own(&change.path) else { continue };
        if change.old.is_none() && !change.new.trim().is_empty() {
            seen.made.push(file.clone());
        }
        let Some(language) = language(&change.path) else { continue };
        let others: Vec<(&str, String)> = tree
            .files
            .iter()
            .filter(|path| **path != change.path && self::language(path) == Some(language) && !is_test(path))
            .filter(|path| own(path).is_some())
            .filter_map(|path| Some((path.as_str(), (tree.read)(path).filter(|text| text.len() <= FILE_BYTES_MAX)?)))
            .collect();
        for wanted in wanted(change, language) {
            match others.iter().find(|(_, text)| text.lines().any(|line| wanted.regex.is_match(line))) {
                Some((path, _)) => seen.links.push(Link {
                    source: own(path).unwrap_or_default(),
                    pattern: wanted.pattern,
                    description: wanted.description,
                }),
                None => seen.unused.push(Unused { file: file.clone(), name: wanted.name }),
            }
        }
    }
    seen.made.truncate(SHOWN_MAX);
    seen.links.truncate(SHOWN_MAX);
    seen.unused.truncate(SHOWN_MAX);
    seen
}

/// A connection that there should be.
struct Wanted {
    /// What shows it to this program.
    regex: Regex,
    /// What shows it to the plan: shorter, for a file that is known to have it.
    pattern: String,
    name: Option<String>,
    description: String,
}

fn wanted(change: &Changed, language: Language) -> Vec<Wanted> {
    let mut all = Vec::new();
    if change.old.is_none()
        && let Some(pattern) = import(&change.path, language)
        && let Ok(regex) = Regex::new(&pattern)
    {
        all.push(Wanted { regex, pattern, name: None, description: format!("{} is part of the program", change.path) });
    }
    for name in new_functions(change, language) {
        // A call, and not a definition of the same name.
        let call =
            format!(r"(^|[^\w\s]|\b(return|await|yield|in|not|and|or|else|if|while|match)\b)\s*(\w+(\.|::))*{name}\(");
        if let Ok(regex) = Regex::new(&call) {
            let pattern = format!(r"\b{name}\(");
            let description = format!("`{name}` of {} is called", change.path);
            all.push(Wanted { regex, pattern, name: Some(name), description });
        }
    }
    all
}

/// How another file takes a new one in. None: nothing has to, or nobody can say.
fn import(path: &str, language: Language) -> Option<String> {
    let name = path.rsplit('/').next().unwrap_or(path);
    let stem = name.split_once('.').map_or(name, |(stem, _)| stem);
    let folder = path.rsplit('/').nth(1);
    let entry = ["main", "lib", "build", "__main__", "setup", "conftest", "index", "app", "server"];
    let module = match (stem, folder) {
        ("mod" | "__init__", Some(folder)) => folder,
        (stem, _) if entry.contains(&stem) => return None,
        (stem, _) => stem,
    };
    let module = regex::escape(module);
    match language {
        Language::Rust if path.split('/').any(|part| matches!(part, "bin" | "examples" | "benches")) => None,
        Language::Rust => Some(format!(r"^\s*(pub(\([a-z: ]+\))?\s+)?mod\s+{module}\s*[;{{]")),
        Language::Script => Some(format!(r#"(from|import|require\()\s*["'][^"']*\b{module}(\.[cm]?[jt]sx?)?["']"#)),
        Language::Python => Some(format!(r"^\s*(from|import)\s.*\b{module}\b")),
        Language::Go => None,
    }
}

/// Functions that the change adds and that others may call.
fn new_functions(change: &Changed, language: Language) -> Vec<String> {
    let pattern = match language {
        Language::Rust => r"^\s*pub(?:\([a-z: ]+\))?\s+(?:const\s+|async\s+|unsafe\s+)*fn\s+([a-z]\w*)",
        Language::Script => r"^export\s+(?:default\s+)?(?:async\s+)?function\*?\s+([A-Za-z_$]\w*)",
        Language::Python => r"^(?:async\s+)?def\s+([a-z]\w*)",
        Language::Go => r"^func\s+(?:\([^)]*\)\s*)?([A-Z]\w*)",
    };
    let Ok(regex) = Regex::new(pattern) else { return Vec::new() };
    let of = |text: &str| -> BTreeSet<String> {
        text.lines().filter_map(|line| Some(regex.captures(line)?.get(1)?.as_str().to_owned())).collect()
    };
    let old = change.old.as_deref().map(of).unwrap_or_default();
    let is_own = |name: &String| !matches!(name.as_str(), "main" | "new" | "default" | "fmt" | "from" | "drop");
    of(&change.new).into_iter().filter(|name| !old.contains(name)).filter(is_own).collect()
}

fn language(path: &str) -> Option<Language> {
    Some(match path.rsplit_once('.')?.1 {
        "rs" => Language::Rust,
        "js" | "jsx" | "ts" | "tsx" | "mjs" | "cjs" | "mts" | "cts" => Language::Script,
        "py" => Language::Python,
        "go" => Language::Go,
        _ => return None,
    })
}

fn is_test(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let stem = name.split_once('.').map_or(name, |(stem, _)| stem);
    path.split('/').any(|part| matches!(part, "tests" | "test" | "__tests__" | "spec" | "testdata"))
        || stem.starts_with("test_")
        || stem.ends_with("_test")
        || name.contains(".test.")
        || name.contains(".spec.")
        || name == "conftest.py"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(working_dir: &str, changed: &[&str], files: &[(&str, &str)]) -> String {
        let mut names: Vec<String> = files.iter().map(|(name, _)| (*name).to_owned()).collect();
        names.sort();
        let read = |path: &str| files.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned());
        let change = |path: &&str| Changed { path: (*path).to_owned(), old: None, new: read(path).unwrap() };
        let changes: Vec<Changed> = changed.iter().map(change).collect();
        let seen = look(&changes, &Tree { files: &names, read: &read }, working_dir);
        let mut out: Vec<String> = seen.made.iter().map(|path| format!("made {path}")).collect();
        for link in &seen.links {
            let text = read(&crate::base::glob::from_top(working_dir, &link.source)).unwrap();
            let regex = Regex::new(&link.pattern).unwrap();
            let line = text.lines().find(|line| regex.is_match(line)).unwrap();
            out.push(format!("{}: {} ({})", link.source, line.trim(), link.description));
        }
        out.extend(seen.unused.iter().map(|one| format!("unused {} {}", one.file, one.name.as_deref().unwrap_or("-"))));
        out.join("\n")
    }

    #[test]
    fn connections_are_what_other_files_say() {
        let files = [
            ("src/main.rs", "mod math;\npub(crate) mod far;\nfn main() {\n    let x = math::twice(2);\n}\n"),
            ("src/math.rs", "pub fn twice(n: u32) -> u32 {\n    n * 2\n}\npub fn thrice() {}\nfn own() {}\n"),
            ("src/lone.rs", "pub fn lonely() {}\n"),
            ("tests/math.rs", "fn t() { thrice(); }\n"),
        ];
        insta::assert_snapshot!(seen(".", &["src/math.rs", "src/lone.rs", "tests/math.rs"], &files), @r###"
        made src/math.rs
        made src/lone.rs
        src/main.rs: mod math; (src/math.rs is part of the program)
        src/main.rs: let x = math::twice(2); (`twice` of src/math.rs is called)
        unused src/math.rs thrice
        unused src/lone.rs -
        unused src/lone.rs lonely
        "###);
    }

    #[test]
    fn other_languages_have_their_own_words_for_it() {
        let files = [
            ("web/src/app.ts", "import { greet } from './greet';\nexport const page = () => greet('x');\n"),
            ("web/src/greet.ts", "export function greet(who: string) {\n  return who;\n}\n"),
            ("svc/app.py", "from svc.prices import total\n\nprint(total([]))\n"),
            ("svc/prices.py", "def total(all):\n    return 0\n\ndef _own():\n    pass\n"),
            ("go/main.go", "func main() {\n\tprint(Sum(1))\n}\n"),
            ("go/sum.go", "func Sum(n int) int {\n\treturn n\n}\nfunc Left() {}\n"),
        ];
        let all = ["web/src/greet.ts", "svc/prices.py", "go/sum.go"].map(|path| seen(".", &[path], &files)).join("\n");
        insta::assert_snapshot!(all, @r###"
        made web/src/greet.ts
        web/src/app.ts: import { greet } from './greet'; (web/src/greet.ts is part of the program)
        web/src/app.ts: export const page = () => greet('x'); (`greet` of web/src/greet.ts is called)
        made svc/prices.py
        svc/app.py: from svc.prices import total (svc/prices.py is part of the program)
        svc/app.py: print(total([])) (`total` of svc/prices.py is called)
        made go/sum.go
        go/main.go: print(Sum(1)) (`Sum` of go/sum.go is called)
        unused go/sum.go Left
        "###);
        assert!(seen("web", &["web/src/greet.ts"], &files).contains("made src/greet.ts"));
        assert_eq!(seen("web", &["go/sum.go"], &files), "");
    }
}
