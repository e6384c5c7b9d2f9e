//! `loom sandbox suggest`: a `sandbox:` for this project, from what its own
//! files and this machine's tools say. Nothing is looked up and nothing is
//! changed; what is printed is for a person to shorten.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use crate::base::process;
use crate::cli::args::Sandbox;
use crate::cli::failure::{Failure, exit};
use crate::cli::place::Place;
use crate::cli::ui;

/// A lock file larger than this is looked at in part.
const LOCK_BYTES_MAX: usize = 8 << 20;
/// More hosts than this are a mistake, and no suggestion.
const HOSTS_MAX: usize = 12;

/// What a language's tools keep outside of a project.
struct Language {
    name: &'static str,
    /// Any of these at the top of the project.
    manifests: &'static [&'static str],
    /// Files that name where packages came from.
    locks: &'static [&'static str],
    /// Prints where packages come from.
    asks: &'static [&'static str],
    /// Caches that cannot be pointed elsewhere without losing what is in them.
    caches: &'static [&'static str],
}

const LANGUAGES: [Language; 7] = [
    Language {
        name: "Rust",
        manifests: &["Cargo.toml"],
        locks: &[],
        asks: &[],
        caches: &["~/.cargo/registry", "~/.cargo/git"],
    },
    Language {
        name: "JavaScript",
        manifests: &["package.json"],
        locks: &["package-lock.json", "yarn.lock", "pnpm-lock.yaml"],
        asks: &["npm", "config", "get", "registry"],
        caches: &[],
    },
    Language {
        name: "Python",
        manifests: &["pyproject.toml", "requirements.txt", "setup.py", "Pipfile"],
        locks: &["uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock", "requirements.txt"],
        asks: &[],
        caches: &[],
    },
    Language {
        name: "Go",
        manifests: &["go.mod"],
        locks: &[],
        asks: &["go", "env", "GOPROXY"],
        caches: &["~/go/pkg/mod"],
    },
    Language { name: "Maven", manifests: &["pom.xml"], locks: &["pom.xml"], asks: &[], caches: &["~/.m2/repository"] },
    Language {
        name: "Gradle",
        manifests: &["build.gradle", "build.gradle.kts"],
        locks: &["gradle/wrapper/gradle-wrapper.properties"],
        asks: &[],
        caches: &["~/.gradle"],
    },
    Language { name: "Ruby", manifests: &["Gemfile"], locks: &["Gemfile", "Gemfile.lock"], asks: &[], caches: &[] },
];

pub fn run(place: &Place, verb: &Sandbox) -> Result<u8, Failure> {
    let Sandbox::Suggest(args) = verb;
    let home = std::env::var_os("HOME").map(std::path::PathBuf::from).unwrap_or_default();
    let suggestion = suggest(&place.layout.project, &home, asked);
    if args.json {
        ui::json(&suggestion);
        return Ok(exit::OK);
    }
    for line in suggestion.yaml() {
        ui::line(line);
    }
    match suggestion.languages.as_slice() {
        [] => ui::note("no language is known here: the default sandbox fits, with no network"),
        names => ui::note(format!(
            "for {}: put it into the plan, without what its stages do not need",
            crate::base::text::list(names)
        )),
    }
    if !suggestion.allow_write.is_empty() {
        ui::note("what an agent writes into these caches, you may run later: leave them out if nothing new is fetched");
    }
    if suggestion.allowed_domains.is_empty() && !suggestion.languages.is_empty() {
        ui::note(
            "no file says where packages come from: name the hosts under network.allowed_domains if they are fetched",
        );
    }
    Ok(exit::OK)
}

/// What `loom sandbox suggest --json` prints.
#[derive(Debug, Default, PartialEq, Eq, serde::Serialize)]
struct Suggestion {
    languages: Vec<&'static str>,
    allow_write: Vec<&'static str>,
    allowed_domains: Vec<String>,
}

impl Suggestion {
    fn yaml(&self) -> Vec<String> {
        if self.allow_write.is_empty() && self.allowed_domains.is_empty() {
            return vec!["sandbox: {}".to_owned()];
        }
        let mut lines = vec!["sandbox:".to_owned()];
        let mut list = |head: &str, name: &str, items: Vec<&str>| {
            if !items.is_empty() {
                lines.push(format!("  {head}:"));
                lines.push(format!(
                    "    {name}: [{}]",
                    items.iter().map(|item| format!("\"{item}\"")).collect::<Vec<_>>().join(", ")
                ));
            }
        };
        list("filesystem", "allow_write", self.allow_write.clone());
        list("network", "allowed_domains", self.allowed_domains.iter().map(String::as_str).collect());
        lines
    }
}

/// `ask` runs a tool and returns what it printed.
fn suggest(project: &Path, home: &Path, ask: impl Fn(&[&str]) -> Option<String>) -> Suggestion {
    let mut suggestion = Suggestion::default();
    let mut hosts = BTreeSet::new();
    for language in &LANGUAGES {
        if !language.manifests.iter().any(|name| project.join(name).is_file()) {
            continue;
        }
        suggestion.languages.push(language.name);
        suggestion.allow_write.extend(language.caches);
        for lock in language.locks {
            let text = fs_err::read(project.join(lock)).unwrap_or_default();
            hosts.extend(hosts_in(&String::from_utf8_lossy(&text[..text.len().min(LOCK_BYTES_MAX)])));
        }
        if !language.asks.is_empty() {
            hosts.extend(hosts_in(&ask(language.asks).unwrap_or_default()));
        }
        if language.name == "Rust" {
            hosts.extend(cargo_hosts(home));
        }
    }
    suggestion.allowed_domains = hosts.into_iter().take(HOSTS_MAX).collect();
    suggestion
}

/// The hosts of all `http(s)` addresses in a text.
fn hosts_in(text: &str) -> BTreeSet<String> {
    let starts =
        text.match_indices("://").filter(|(at, _)| text[..*at].ends_with("http") || text[..*at].ends_with("https"));
    starts
        .filter_map(|(at, _)| {
            let rest = &text[at + 3..];
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '@' | ':' | '_')));
            let authority = &rest[..end.unwrap_or(rest.len())];
            let host = authority.rsplit('@').next()?.split(':').next()?;
            (host.contains('.') && !host.ends_with('.')).then(|| host.to_ascii_lowercase())
        })
        .collect()
}

/// Cargo keeps one folder an index, named `<host>-<hash>`.
fn cargo_hosts(home: &Path) -> BTreeSet<String> {
    let folders = fs_err::read_dir(home.join(".cargo/registry/index")).into_iter().flatten().flatten();
    let mut hosts: BTreeSet<String> = folders
        .filter_map(|folder| Some(folder.file_name().to_str()?.rsplit_once('-')?.0.to_owned()))
        .filter(|host| host.contains('.'))
        .collect();
    let config = fs_err::read_to_string(home.join(".cargo/config.toml")).unwrap_or_default();
    hosts.extend(hosts_in(&config));
    hosts
}

fn asked(line: &[&str]) -> Option<String> {
    let (program, arguments) = line.split_first()?;
    process::find_program(program)?;
    let output = process::command(program).args(arguments).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_come_from_the_projects_own_files() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs_err::write(dir.path().join(name), text).unwrap();
        write("package.json", "{}");
        write(
            "package-lock.json",
            r#"{"resolved": "https://u:p@Packages.example.com:8443/x/-/x.tgz", "y": "http://b.example/"}"#,
        );
        write("Cargo.toml", "");
        fs_err::create_dir_all(dir.path().join(".cargo/registry/index/index.example.org-1949cf8c6b5b557f")).unwrap();
        let suggestion =
            suggest(dir.path(), dir.path(), |line| (line[0] == "npm").then(|| "https://npm.example.net/\n".to_owned()));
        assert_eq!(
            suggestion.yaml(),
            [
                "sandbox:",
                "  filesystem:",
                "    allow_write: [\"~/.cargo/registry\", \"~/.cargo/git\"]",
                "  network:",
                "    allowed_domains: [\"b.example\", \"index.example.org\", \"npm.example.net\", \"packages.example.com\"]",
            ]
        );
        assert_eq!(suggestion.languages, ["Rust", "JavaScript"]);
    }

    #[test]
    fn nothing_is_suggested_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(suggest(dir.path(), dir.path(), |_| None).yaml(), ["sandbox: {}"]);
        assert_eq!(hosts_in("see https://, ftp://x.y, https://localhost/ and https://a.b."), BTreeSet::new());
    }
}
