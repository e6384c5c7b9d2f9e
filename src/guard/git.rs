//! Rules for git. Commits on the stage's own branch are free; what all
//! worktrees share (refs, configuration, the stash) and what Loom does itself
//! (worktrees, branches, landing, pushing) is not the agent's.

use super::command::Walk;
use super::place::Place;
use super::shell::Word;

/// Options before the subcommand that take the next word.
const WITH_VALUE: [&str; 7] = ["-C", "-c", "--git-dir", "--work-tree", "--namespace", "--exec-path", "--super-prefix"];

/// Subcommands that change nothing, wherever they run.
const READING: [&str; 29] = [
    "annotate",
    "blame",
    "cat-file",
    "check-ignore",
    "config",
    "count-objects",
    "describe",
    "diff",
    "diff-tree",
    "for-each-ref",
    "fsck",
    "grep",
    "help",
    "log",
    "ls-files",
    "ls-remote",
    "ls-tree",
    "merge-base",
    "name-rev",
    "range-diff",
    "remote",
    "rev-list",
    "rev-parse",
    "shortlog",
    "show",
    "show-ref",
    "status",
    "var",
    "worktree",
];

pub(super) fn refusal(arguments: &[Word], walk: &Walk) -> Option<String> {
    let call = Call::of(arguments, walk);
    let place = walk.ground.place(&call.dir);
    let name = call.subcommand;
    if name.is_empty() {
        return None;
    }
    if call.has_alias {
        return Some("An alias given on the command line hides what runs: write the command itself.".to_owned());
    }
    if call.writes_user_config() {
        return Some(
            "That changes the user's own git configuration: use `git -c name=value …` for one command.".to_owned(),
        );
    }
    // A repository of the agent's own, for example of a test.
    if matches!(place, Place::Temporary | Place::Elsewhere) {
        return None;
    }
    if let Some(reason) = call.shared_refusal(&walk.ground.branch()) {
        return Some(reason);
    }
    if let Some(reason) = call.own_refusal(walk) {
        return Some(reason);
    }
    if place.is_protected() && !READING.contains(&name) {
        return Some(format!("`git {name}` would run in {}: work only in your own worktree.", place.name()));
    }
    None
}

struct Call<'w> {
    subcommand: &'w str,
    /// What follows the subcommand; words that have to be looked up are empty.
    words: Vec<&'w str>,
    dir: std::path::PathBuf,
    has_alias: bool,
}

impl<'w> Call<'w> {
    fn of(arguments: &'w [Word], walk: &Walk) -> Call<'w> {
        let dir = walk.git_dir.clone().unwrap_or_else(|| walk.dir.clone());
        let mut call = Call { subcommand: "", words: Vec::new(), dir, has_alias: false };
        let mut rest = arguments.iter();
        while let Some(word) = rest.next() {
            let text = word.literal().unwrap_or_default();
            if !text.starts_with('-') {
                call.subcommand = text;
                break;
            }
            let joined = text.split_once('=').map(|(option, value)| (option, Word::from(value)));
            let (option, value) = match joined {
                Some((option, value)) if option.starts_with("--") => (option, Some(value)),
                _ if WITH_VALUE.contains(&text) => (text, rest.next().cloned()),
                _ => (text, None),
            };
            let Some(value) = value else { continue };
            match option {
                "-C" | "--git-dir" | "--work-tree" => {
                    if let Some(dir) = walk.ground.resolve(&value, &call.dir) {
                        call.dir = dir;
                    }
                }
                "-c" => call.has_alias |= value.source().to_lowercase().starts_with("alias."),
                _ => {}
            }
        }
        call.words = rest.map(|word| word.literal().unwrap_or_default()).collect();
        call
    }
    fn has(&self, options: &[&str]) -> bool {
        self.words.iter().take_while(|word| **word != "--").any(|word| {
            let is_cluster = |option: &str| {
                option.len() == 2
                    && !word.starts_with("--")
                    && word.starts_with('-')
                    && word[1..].contains(&option[1..])
            };
            options.iter().any(|option| word == option || is_cluster(option))
        })
    }
    fn operands(&self) -> Vec<&'w str> {
        self.words.iter().copied().filter(|word| !word.starts_with('-')).collect()
    }
    fn writes_config(&self) -> bool {
        if self.subcommand != "config" {
            return false;
        }
        let operands = self.operands();
        let reads = ["--get", "--get-all", "--get-regexp", "--get-urlmatch", "--get-color", "--list", "-l"];
        let is_read =
            self.words.iter().any(|word| reads.contains(word)) || matches!(operands.first(), Some(&"get" | &"list"));
        let is_edit = self.words.iter().any(|word| {
            ["--unset", "--unset-all", "--add", "--replace-all", "--edit", "-e", "--remove-section", "--rename-section"]
                .contains(word)
        });
        is_edit || (!is_read && operands.len() >= 2)
    }
    fn writes_user_config(&self) -> bool {
        self.writes_config() && self.words.iter().any(|word| matches!(*word, "--global" | "--system"))
    }
    /// `git commit --amend`, and no message that says so.
    fn amends(&self) -> bool {
        let takes_next = |word: &str| match word.strip_prefix("--") {
            Some(long) => matches!(
                long,
                "message"
                    | "file"
                    | "author"
                    | "date"
                    | "template"
                    | "trailer"
                    | "cleanup"
                    | "reuse-message"
                    | "reedit-message"
                    | "fixup"
                    | "squash"
            ),
            None => word.starts_with('-') && word.ends_with(['m', 'F', 'C', 'c', 't']),
        };
        let mut words = self.words.iter().take_while(|word| **word != "--");
        while let Some(word) = words.next() {
            if *word == "--amend" {
                return true;
            }
            if takes_next(word) {
                words.next();
            }
        }
        false
    }
    /// Why it must not run even in the own worktree.
    fn own_refusal(&self, walk: &Walk) -> Option<String> {
        match self.subcommand {
            "add" | "stage" if self.has(&["-f", "--force"]) => {
                let takes_all = self.has(&["-A", "--all"]) || self.operands().is_empty();
                let is_looms = |path: &&str| {
                    let path = path.trim_start_matches("./");
                    let names = [".work", ".worktrees", ".claude/settings.local.json"];
                    path.is_empty() || path == "." || names.iter().any(|name| path.starts_with(name))
                };
                (takes_all || self.operands().iter().any(is_looms)).then(|| {
                    "That would commit Loom's own files, which are hidden on purpose: `git add` without `-f`, or name \
                     the one file that you mean."
                        .to_owned()
                })
            }
            "commit" if self.amends() && (walk.ground.head_has_landed)() => Some(
                "This commit has landed, or is where the stage started: it cannot be changed. Make a new commit."
                    .to_owned(),
            ),
            "archive" | "bundle" | "checkout-index" | "format-patch" => {
                let outputs = self.words.iter().enumerate().filter_map(|(at, word)| match *word {
                    "-o" | "--output" | "create" => self.words.get(at + 1).copied(),
                    word => ["--output=", "--prefix=", "--output-directory="]
                        .iter()
                        .find_map(|option| word.strip_prefix(option)),
                });
                outputs.map(Word::from).find_map(|path| walk.protected(&path))
            }
            _ => None,
        }
    }
    /// Why it must not run in a repository that all worktrees share.
    fn shared_refusal(&self, own_branch: &str) -> Option<String> {
        let operands = self.operands();
        let first = operands.first().copied().unwrap_or_default();
        let reason = match self.subcommand {
            "push" | "send-pack" => {
                "Loom lands your commits; nothing is pushed from a stage. Commit, then run `loom stage complete`."
            }
            "subtree" if first == "push" => "Nothing is pushed from a stage. Commit, then run `loom stage complete`.",
            "worktree" if !matches!(first, "list" | "") => "Loom makes and removes worktrees: stay in yours.",
            "branch" if self.has(&["-d", "-D", "--delete", "-m", "-M", "--move", "-f", "--force", "-C"]) => {
                "Branches are shared with other stages: leave them, and commit to yours."
            }
            "branch" if is_loom_ref(first) && !self.has(&["--list", "--contains", "--merged"]) => {
                "Names under `loom/` belong to Loom: commit to the branch you are on."
            }
            "update-ref" | "filter-branch" | "filter-repo" | "prune" | "gc" | "repack" => {
                "That changes refs or objects that all worktrees share: commit to your branch instead."
            }
            "symbolic-ref" if operands.len() > 1 || self.has(&["-d", "--delete"]) => {
                "Loom chose the branch of this worktree: commit to it."
            }
            "reflog" if matches!(first, "expire" | "delete") => "The reflog is how lost work is found again: leave it.",
            "tag" if self.has(&["-d", "--delete", "-f", "--force"]) => "Tags are shared: leave them.",
            "stash" if !matches!(first, "list" | "show" | "create") => {
                "The stash is shared by all worktrees: commit unfinished work to your branch instead (a later commit can mend it)."
            }
            "config" if self.writes_config() => {
                "The repository's configuration is shared by all worktrees: use `git -c name=value …` for one command."
            }
            "remote" if !matches!(first, "" | "show" | "get-url") => "Remotes are shared by all worktrees: leave them.",
            "fetch" if operands.iter().any(|spec| moves_a_branch(spec)) => {
                "That moves a branch of the repository: fetch without `:<branch>`."
            }
            "replace" if !operands.is_empty() && !self.has(&["-l", "--list"]) => {
                "Replacements are shared by all worktrees: leave history as it is."
            }
            "notes" if !matches!(first, "" | "list" | "show") => "Notes are shared by all worktrees: leave them.",
            "checkout" | "switch" => return self.switch_refusal(own_branch, &operands),
            _ => return None,
        };
        Some(reason.to_owned())
    }
    fn switch_refusal(&self, own_branch: &str, operands: &[&str]) -> Option<String> {
        let target = operands.first().copied().unwrap_or_default();
        let is_switch = self.subcommand == "switch";
        let makes_branch = if is_switch {
            self.has(&["-c", "-C", "--create", "--force-create", "--orphan"])
        } else {
            self.has(&["-b", "-B", "--orphan"])
        };
        let takes_files = self.words.contains(&"--") || operands.len() > 1;
        let leaves = match (is_switch, self.words.contains(&"-")) {
            (_, true) => false,
            (true, _) => !target.is_empty() && target != own_branch,
            (false, _) => !takes_files && target != own_branch && is_branch_like(target),
        };
        (makes_branch || leaves).then(|| {
            format!(
                "Loom merges the branch `{own_branch}` only: stay on it. To take files from elsewhere, use \
                 `git restore --source=<commit> -- <path>`."
            )
        })
    }
}

/// `<from>:<to>`, where `to` is no remote-tracking branch.
fn moves_a_branch(spec: &str) -> bool {
    let is_address = spec.contains("://") || spec.contains('@');
    !is_address && spec.split_once(':').is_some_and(|(_, to)| !to.is_empty() && !to.starts_with("refs/remotes/"))
}

fn is_loom_ref(name: &str) -> bool {
    name.starts_with("loom/") || name.starts_with("refs/heads/loom/") || name.starts_with("refs/loom")
}

/// Names that are branches and hardly ever files.
fn is_branch_like(name: &str) -> bool {
    is_loom_ref(name)
        || name.starts_with("refs/")
        || name.starts_with("origin/")
        || matches!(name, "main" | "master" | "develop" | "trunk")
}
