//! Rules for shell commands: looks through the wrappers to the program that
//! would run, and at where output and file operations go.

use std::path::{Path, PathBuf};

use super::place::{Ground, Place};
use super::shell::{Node, Part, Simple, Word, parse};
use super::{git, write_refusal};

/// Wrappers inside wrappers are followed this far.
const NESTING_MAX: usize = 8;

/// Why a command line must not run, if it must not. `cwd` is where it starts.
pub(super) fn refusal(line: &str, ground: &Ground, cwd: &Path) -> Option<String> {
    let mut walk = Walk { ground, dir: cwd.to_path_buf(), git_dir: None, piped: None, nesting: 0 };
    walk.nodes(&parse(line))
}

/// Follows a command line from left to right.
pub(super) struct Walk<'a> {
    pub(super) ground: &'a Ground<'a>,
    /// The folder that a command would run in, as far as `cd` can be followed.
    pub(super) dir: PathBuf,
    /// Where `GIT_DIR` or `GIT_WORK_TREE` sends git.
    pub(super) git_dir: Option<PathBuf>,
    /// What the command before printed, as far as that can be read off it.
    piped: Option<String>,
    nesting: usize,
}

impl Walk<'_> {
    fn nodes(&mut self, nodes: &[Node]) -> Option<String> {
        nodes.iter().find_map(|node| match node {
            Node::Command(command) => self.simple(command),
            Node::Subshell(inner) => {
                let before = self.dir.clone();
                let refusal = self.nodes(inner);
                self.dir = before;
                refusal
            }
        })
    }
    fn simple(&mut self, command: &Simple) -> Option<String> {
        let written = command.writes.iter().find_map(|target| self.protected(target));
        if written.is_some() {
            return written;
        }
        let before = self.git_dir.clone();
        self.take_git_dir(&command.words);
        let words = without_keywords(&command.words);
        let piped = self.piped.take();
        let refusal = self.words(words, command.input.as_deref().or(piped.as_deref()));
        self.piped = printed(words, command.input.as_deref());
        if words.first().and_then(Word::literal) != Some("export") {
            self.git_dir = before;
        }
        refusal
    }
    /// `GIT_DIR=… git`, `env GIT_DIR=… git`, `export GIT_DIR=…`.
    fn take_git_dir(&mut self, words: &[Word]) {
        let before_git = words.iter().map_while(Word::literal).take_while(|text| *text != "git");
        for text in before_git {
            let value = text.strip_prefix("GIT_DIR=").or_else(|| text.strip_prefix("GIT_WORK_TREE="));
            if let Some(dir) = value.and_then(|value| self.ground.resolve(&Word::from(value), &self.dir)) {
                self.git_dir = Some(dir);
            }
        }
    }
    /// Judges a program with its arguments; `input`: what it is given to read.
    fn words(&mut self, words: &[Word], input: Option<&str>) -> Option<String> {
        let (first, arguments) = words.split_first()?;
        let program = first.literal()?;
        let name = program.rsplit('/').next().unwrap_or(program);
        if let Some(options) = wrapper(name) {
            let inner = after_options(arguments, options);
            return self.nested(|walk| walk.words(inner, input));
        }
        match name {
            "sh" | "bash" | "zsh" | "dash" | "ksh" => self.shell(arguments, input),
            "eval" => {
                let line: Vec<String> = arguments.iter().map(Word::source).collect();
                self.line(&line.join(" "))
            }
            "cd" | "pushd" => {
                self.change_folder(arguments);
                None
            }
            "find" => self.find(arguments),
            "git" => git::refusal(arguments, self),
            "loom" => loom_refusal(program, arguments),
            "pkill" | "killall" => kill_refusal(arguments),
            "tar" | "unzip" | "curl" | "wget" => self.unpacked(name, arguments),
            "rm" | "rmdir" | "unlink" | "shred" => self.removal(name, arguments),
            _ => self.file_operation(name, arguments),
        }
    }
    fn nested(&mut self, judge: impl FnOnce(&mut Self) -> Option<String>) -> Option<String> {
        if self.nesting >= NESTING_MAX {
            return Some("Commands inside commands inside commands: run them one by one.".to_owned());
        }
        self.nesting += 1;
        let refusal = judge(self);
        self.nesting -= 1;
        refusal
    }
    fn line(&mut self, line: &str) -> Option<String> {
        self.nested(|walk| walk.nodes(&parse(line)))
    }
    /// `bash -c 'line'`, or a script on standard input.
    fn shell(&mut self, arguments: &[Word], input: Option<&str>) -> Option<String> {
        let mut takes_line = false;
        for argument in arguments {
            match argument.literal() {
                Some(option) if option.starts_with("--") => {}
                Some(option) if option.starts_with(['-', '+']) && option.len() > 1 => {
                    takes_line |= option.starts_with('-') && option.contains('c');
                }
                _ if takes_line => {
                    let (line, before) = (argument.source(), self.dir.clone());
                    let refusal = self.line(&line);
                    self.dir = before;
                    return refusal;
                }
                // A script file: not read.
                _ => return None,
            }
        }
        self.line(input?)
    }
    fn change_folder(&mut self, arguments: &[Word]) {
        let target = arguments.iter().find(|word| word.literal().is_none_or(|text| !text.starts_with('-')));
        if let Some(dir) = target.and_then(|target| self.ground.resolve(target, &self.dir)) {
            self.dir = dir;
        }
    }
    /// `find … -delete` removes what it starts from; `-exec` runs a command on it.
    fn find(&mut self, arguments: &[Word]) -> Option<String> {
        let is_test = |word: &Word| word.literal().is_some_and(|text| text.starts_with(['-', '!', '(']));
        let mut starts: Vec<Word> = arguments.iter().take_while(|word| !is_test(word)).cloned().collect();
        if starts.is_empty() {
            starts.push(Word::from("."));
        }
        // What is found lies below the start.
        starts.iter_mut().for_each(|start| start.parts.push(Part::Text("/found".to_owned())));
        for (index, argument) in arguments.iter().enumerate() {
            let refusal = match argument.literal() {
                Some("-delete") => starts.iter().find_map(|start| self.removed(start, true)),
                Some("-exec" | "-execdir" | "-ok" | "-okdir") => {
                    let rest = &arguments[index + 1..];
                    let end = rest.iter().position(|word| matches!(word.literal(), Some(";" | "+")));
                    let found = |start: &Word| {
                        let replace =
                            |word: &Word| if word.literal() == Some("{}") { start.clone() } else { word.clone() };
                        rest[..end.unwrap_or(rest.len())].iter().map(replace).collect::<Vec<Word>>()
                    };
                    starts.iter().find_map(|start| self.nested(|walk| walk.words(&found(start), None)))
                }
                _ => None,
            };
            if refusal.is_some() {
                return refusal;
            }
        }
        None
    }
    fn removal(&self, name: &str, arguments: &[Word]) -> Option<String> {
        let is_option = |word: &Word| word.literal().is_some_and(|text| text.starts_with('-') && text.len() > 1);
        let is_recursive = |word: &Word| match word.literal() {
            Some("--recursive") => true,
            Some(text) => is_option(word) && !text.starts_with("--") && text.contains(['r', 'R']),
            None => false,
        };
        let recursive = name == "rm" && arguments.iter().any(is_recursive);
        arguments.iter().filter(|word| !is_option(word)).find_map(|target| self.removed(target, recursive))
    }
    fn removed(&self, target: &Word, recursive: bool) -> Option<String> {
        let path = self.ground.resolve(target, &self.dir)?;
        if self.ground.is_top(&path) {
            return Some("That removes your whole worktree: remove what is in it by name.".to_owned());
        }
        let place = self.ground.place(&path);
        if place.is_protected() || (recursive && place == Place::Elsewhere) {
            let shown = target.source();
            let text = format!("`{shown}` is in {}: remove only what is inside your worktree.", place.name());
            return Some(text);
        }
        None
    }
    /// Programs that write the files they are given.
    fn file_operation(&self, name: &str, arguments: &[Word]) -> Option<String> {
        let is_option = |word: &&Word| word.literal().is_some_and(|text| text.starts_with('-') && text.len() > 1);
        let operands = || arguments.iter().filter(|word| !is_option(word));
        match name {
            "touch" | "mkdir" | "tee" | "truncate" | "chmod" | "chown" | "mv" | "mkfifo" => {
                operands().find_map(|target| self.protected(target))
            }
            "cp" | "install" | "ln" | "rsync" => operands().next_back().and_then(|target| self.protected(target)),
            "sed" | "perl" if arguments.iter().any(edits_in_place) => {
                operands().find_map(|target| self.protected(target))
            }
            "dd" => arguments.iter().find_map(|word| {
                let target = word.literal()?.strip_prefix("of=")?;
                self.protected(&Word::from(target))
            }),
            _ => None,
        }
    }
    /// Programs that write where an option says.
    fn unpacked(&self, name: &str, arguments: &[Word]) -> Option<String> {
        let (short, long): (&[&str], &[&str]) = match name {
            "tar" => (&["-C"], &["--directory="]),
            "unzip" => (&["-d"], &[]),
            "curl" => (&["-o", "--output"], &["--output="]),
            _ => (&["-O", "--output-document", "-P"], &["--output-document=", "--directory-prefix="]),
        };
        arguments.iter().enumerate().find_map(|(at, word)| {
            let text = word.literal()?;
            if short.contains(&text) {
                return self.protected(arguments.get(at + 1)?);
            }
            let value = long.iter().find_map(|option| text.strip_prefix(option))?;
            self.protected(&Word::from(value))
        })
    }
    /// Why this file cannot be written, if it cannot.
    pub(super) fn protected(&self, target: &Word) -> Option<String> {
        let place = self.ground.place(&self.ground.resolve(target, &self.dir)?);
        place.is_protected().then(|| write_refusal(&target.source(), place, self.ground))
    }
}

/// What a command prints for the next one to read, when it can be read off its arguments.
fn printed(words: &[Word], input: Option<&str>) -> Option<String> {
    let (program, arguments) = words.split_first()?;
    match program.literal()? {
        "echo" | "printf" => {
            let line: Vec<String> = arguments.iter().map(Word::source).collect();
            Some(line.join(" "))
        }
        "cat" if arguments.is_empty() => input.map(str::to_owned),
        _ => None,
    }
}

fn edits_in_place(word: &Word) -> bool {
    word.literal().is_some_and(|text| {
        text.starts_with("--in-place") || (text.starts_with('-') && !text.starts_with("--") && text.contains('i'))
    })
}

/// Drops assignments and the words of the shell's grammar in front of a command.
fn without_keywords(mut words: &[Word]) -> &[Word] {
    while let Some((first, rest)) = words.split_first() {
        let is_keyword = matches!(
            first.literal(),
            Some("if" | "then" | "elif" | "else" | "while" | "until" | "do" | "!" | "{" | "}")
        );
        if !is_keyword && !is_assignment(first) {
            break;
        }
        words = rest;
    }
    words
}

fn is_assignment(word: &Word) -> bool {
    let source = word.source();
    let Some((name, _)) = source.split_once('=') else { return false };
    let is_letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    name.starts_with(is_letter) && name.chars().all(|c| is_letter(c) || c.is_ascii_digit())
}

/// How to find the command behind a program that runs another one.
struct Options {
    /// Options that take the next word as their value.
    with_value: &'static [&'static str],
    /// Words before the command that belong to the wrapper.
    operands: usize,
}

fn wrapper(name: &str) -> Option<Options> {
    let (with_value, operands): (&[&str], usize) = match name {
        "env" => (&["-u", "--unset", "-C", "--chdir"], 0),
        "sudo" | "doas" => (&["-u", "-g", "-U", "-h", "-p", "-C", "-D", "-R", "-T"], 0),
        "command" | "builtin" | "nohup" | "setsid" | "chronic" | "unbuffer" => (&[], 0),
        "exec" => (&["-a"], 0),
        "time" => (&["-f", "-o"], 0),
        "nice" => (&["-n", "--adjustment"], 0),
        "ionice" => (&["-c", "-n", "-p"], 0),
        "timeout" => (&["-k", "-s", "--kill-after", "--signal"], 1),
        "stdbuf" => (&["-i", "-o", "-e"], 0),
        "watch" => (&["-n", "--interval"], 0),
        "xargs" => (&["-I", "-n", "-P", "-L", "-d", "-a", "-s", "-E"], 0),
        _ => return None,
    };
    Some(Options { with_value, operands })
}

fn after_options(mut words: &[Word], options: Options) -> &[Word] {
    let mut operands = options.operands;
    while let Some((first, rest)) = words.split_first() {
        let text = first.literal().unwrap_or_default();
        if text == "--" {
            words = rest;
            continue;
        }
        if text.starts_with('-') && text.len() > 1 {
            let skipped = usize::from(options.with_value.contains(&text));
            words = rest.get(skipped..).unwrap_or_default();
        } else if is_assignment(first) {
            words = rest;
        } else if operands > 0 {
            operands -= 1;
            words = rest;
        } else {
            break;
        }
    }
    words
}

/// What an agent may ask of Loom; everything else is for the person who runs the plan.
fn loom_refusal(program: &str, arguments: &[Word]) -> Option<String> {
    // A build of Loom inside the worktree is work like any other; the daemon knows who calls it.
    if program.contains('/') && !program.starts_with('/') {
        return None;
    }
    let verbs: Vec<&str> = arguments.iter().filter_map(Word::literal).collect();
    if verbs.iter().any(|word| matches!(*word, "--help" | "-h" | "--version")) {
        return None;
    }
    let mut verbs = verbs.into_iter().filter(|word| !word.starts_with('-'));
    let (verb, detail) = (verbs.next().unwrap_or_default(), verbs.next().unwrap_or_default());
    let is_theirs = match verb {
        "run" | "init" | "stop" | "resume" | "merge" | "attach" | "clean" | "undo" | "chaos" | "self-update"
        | "uninstall" | "host" | "hook" => true,
        "stage" => {
            matches!(detail, "approve" | "reject" | "reset" | "hold" | "release" | "skip" | "retry" | "resume")
        }
        "sessions" => detail == "kill",
        "worktree" => detail == "clean",
        "plan" => detail == "apply",
        _ => false,
    };
    is_theirs.then(|| {
        let shown = if matches!(verb, "stage" | "sessions" | "worktree" | "plan") {
            format!("{verb} {detail}")
        } else {
            verb.to_owned()
        };
        format!(
            "`loom {shown}` is for the person who runs the plan. You have `loom signal`, `loom stage complete <stage>`, \
             `loom stage dispute <stage>` for a check that is wrong and, when you cannot go on, `loom stage block <stage>` with the reason."
        )
    })
}

fn kill_refusal(arguments: &[Word]) -> Option<String> {
    let names_loom = |word: &Word| word.source().contains("loom") || word.source().contains("claude");
    arguments
        .iter()
        .any(names_loom)
        .then(|| "That ends Loom and other sessions: end only processes that you started, by their number.".to_owned())
}
