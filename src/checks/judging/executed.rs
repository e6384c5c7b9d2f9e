//! What the checks' commands execute: called by path, or handed to what
//! interprets or runs it, and the scripts that a shell script hands to a shell in
//! turn. What a command only reads does not judge.

/// What stands at a path of the tree.
#[derive(Debug, Clone)]
pub enum Script {
    Text(String),
    /// With its target.
    Link(String),
}

/// Most paths that are followed further.
const FOLLOWED_MAX: usize = 256;

/// What runs the files that it is given.
const RUNNERS: [&str; 24] = [
    "sh", "bash", "dash", "zsh", "ksh", "source", ".", "python", "python3", "node", "ruby", "perl", "php", "deno",
    "bun", "tsx", "ts-node", "make", "bats", "pytest", "jest", "vitest", "mocha", "prove",
];

/// Words before the program that is meant.
const PREFIXES: [&str; 25] = [
    "!", "if", "then", "while", "until", "do", "else", "elif", "exec", "time", "env", "timeout", "nice", "nohup",
    "setsid", "stdbuf", "command", "sudo", "xargs", "npx", "bundle", "poetry", "pipenv", "uv", "run",
];

/// What an interpreter adds to a name that it is given.
const ENDS: [&str; 8] = ["", ".js", ".mjs", ".cjs", ".ts", "/index.js", "/__main__.py", "/__init__.py"];

/// The paths of the tree that `commands` execute, started in `working_dir`. A path that is none
/// costs nothing. `script`: what stands at a path.
pub fn executed(commands: &[String], working_dir: &str, script: &dyn Fn(&str) -> Option<Script>) -> Vec<String> {
    let mut found = Vec::new();
    for command in commands {
        let command = command.replace("\"$(pwd)\"", ".").replace("$(pwd)", ".").replace("`pwd`", ".");
        let command = command.replace("${PWD}", ".").replace("$PWD", ".");
        by_one(&command, working_dir, &given, &mut found);
        // What stands in quotes can be a command again: `sh -c '…'`.
        if command.contains(" -") && command.contains(['\'', '"']) {
            by_one(&command.replace(['\'', '"'], "\n"), working_dir, &given, &mut found);
        }
    }
    let mut at = 0;
    while at < found.len().min(FOLLOWED_MAX) {
        let path = found[at].clone();
        let folder = path.rsplit_once('/').map_or(".", |(folder, _)| folder);
        let mut further = Vec::new();
        match script(&path) {
            Some(Script::Link(target)) => further.extend(in_tree(&target, folder)),
            Some(Script::Text(text)) if is_shell(&path, &text) => {
                // A script starts where the command did, and finds its neighbours by its own name.
                let text = text.replace("$(dirname \"$0\")", "@").replace("$(dirname $0)", "@").replace("${0%/*}", "@");
                by_one(&text.replace('@', &format!("./{folder}")), ".", &handed_on, &mut further);
                by_one(&text, working_dir, &handed_on, &mut further);
            }
            _ => {}
        }
        further.retain(|path| !found.contains(path));
        found.append(&mut further);
        at += 1;
    }
    found
}

/// What a program that stands in `dir` makes of its words: paths that it executes.
type Given = dyn Fn(&str, Vec<String>, &str, &mut Vec<String>);

fn by_one(command: &str, working_dir: &str, given: &Given, found: &mut Vec<String>) {
    let mut dir = working_dir.to_owned();
    for simple in command.split(['\n', ';', '|', '&', '(', ')', '{', '}']) {
        let bare = |word: &str| word.trim_matches(['\'', '"']).to_owned();
        let words = shlex::split(simple).unwrap_or_else(|| simple.split_whitespace().map(bare).collect());
        let is_prefix = |word: &String| {
            word.contains('=')
                || PREFIXES.contains(&word.as_str())
                || word.starts_with(['-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9'])
        };
        let mut words = words.into_iter().skip_while(is_prefix);
        let Some(program) = words.next() else { continue };
        if program == "cd" {
            dir = words.next().map_or(dir.clone(), |to| format!("{dir}/{to}"));
            continue;
        }
        given(&program, words.collect(), &dir, found);
    }
}

fn is_shell(path: &str, text: &str) -> bool {
    let first = text.lines().next().unwrap_or_default();
    path.ends_with(".sh") || path.ends_with(".bash") || first.starts_with("#!") && first.ends_with("sh")
}

/// The scripts that a script hands to a shell. What it calls otherwise may be the work itself.
fn handed_on(program: &str, words: Vec<String>, dir: &str, found: &mut Vec<String>) {
    let script = match program.rsplit('/').next().unwrap_or(program) {
        "sh" | "bash" | "dash" | "zsh" | "ksh" => words.into_iter().find(|word| !word.starts_with('-')),
        name => (program.contains('/') && name.ends_with(".sh")).then(|| program.to_owned()),
    };
    found.extend(script.and_then(|script| in_tree(&script, dir)));
}

/// The files that a program of a command is, and is given.
fn given(program: &str, words: Vec<String>, dir: &str, found: &mut Vec<String>) {
    if program.contains('/') {
        found.extend(in_tree(program, dir));
    }
    let name = program.rsplit('/').next().unwrap_or(program);
    if RUNNERS.contains(&name) || name.starts_with("python") {
        interpreted(words, dir, found);
    }
}

/// The files that an interpreter is given by these words.
fn interpreted(words: Vec<String>, dir: &str, found: &mut Vec<String>) {
    for (at, word) in words.iter().enumerate() {
        if word.starts_with('-') {
            continue;
        }
        let word = word.split("::").next().unwrap_or(word);
        found.extend(ENDS.iter().filter_map(|end| in_tree(&format!("{word}{end}"), dir)));
        if at > 0 && words[at - 1] == "-m" {
            // A module; the packages around it are loaded before it.
            let path = word.replace('.', "/");
            found.extend(in_tree(&format!("{path}.py"), dir));
            found.extend(in_tree(&format!("{path}/__main__.py"), dir));
            let packages = path.match_indices('/').map(|(end, _)| &path[..end]).chain([path.as_str()]);
            found.extend(packages.filter_map(|package| in_tree(&format!("{package}/__init__.py"), dir)));
        }
    }
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

    fn by(commands: &[String], working_dir: &str) -> Vec<String> {
        executed(commands, working_dir, &|_| None)
    }

    #[test]
    fn scripts_are_followed_to_the_scripts_that_they_call() {
        let files = [
            (
                "tools/verify.sh",
                "#!/bin/sh\nset -e\nsh tests/run.sh --all src/app.sh\nsh \"$(dirname \"$0\")/lint.sh\"\n",
            ),
            ("tests/run.sh", "for t in tests/test_*; do sh $t; done; python3 app.py; ./tests/last.sh; . ./app.sh\n"),
            ("tests/last.sh", "sh tools/verify.sh\n"),
            ("link.sh", "-> tools/verify.sh"),
        ];
        let script = |path: &str| {
            let (_, text) = files.iter().find(|(known, _)| *known == path)?;
            let link = text.strip_prefix("-> ").map(|target| Script::Link(target.to_owned()));
            Some(link.unwrap_or(Script::Text((*text).to_owned())))
        };
        let found = executed(&["sh link.sh".to_owned()], ".", &script);
        for path in ["link.sh", "tools/verify.sh", "tests/run.sh", "tests/last.sh", "tools/lint.sh"] {
            assert!(found.contains(&path.to_owned()), "{path}: {found:?}");
        }
        for path in ["app.py", "app.sh", "src/app.sh"] {
            assert!(!found.contains(&path.to_owned()), "{path}: {found:?}");
        }
    }

    #[test]
    fn what_a_command_executes_is_found_wherever_it_stands() {
        for (command, path) in [
            ("sh x/verify.sh", "x/verify.sh"),
            ("./x/verify.sh a", "x/verify.sh"),
            ("cd x && sh verify.sh", "x/verify.sh"),
            ("cd x && cd y; sh ../verify.sh", "x/verify.sh"),
            ("timeout 60 sh x/verify.sh", "x/verify.sh"),
            ("A=1 timeout -k 5 60 nice -n 3 sh x/verify.sh", "x/verify.sh"),
            ("python3 -m x.verify", "x/verify.py"),
            ("python3 -m x.verify", "x/__init__.py"),
            ("python3.12 -m x", "x/__main__.py"),
            ("node x/verify", "x/verify.js"),
            ("\"$PWD\"/x.sh", "x.sh"),
            ("\"$(pwd)\"/x.sh", "x.sh"),
            ("sh -c 'sh x/verify.sh'", "x/verify.sh"),
            ("bash -ec \"cd x; ./verify.sh\"", "x/verify.sh"),
            ("uv run python x/verify.py", "x/verify.py"),
            ("make -f tools/build.txt", "tools/build.txt"),
        ] {
            assert!(by(&[command.to_owned()], ".").contains(&path.to_owned()), "{command}");
        }
        for (command, path) in [
            ("grep -q a doc/a.md", "doc/a.md"),
            ("test -s out/x.sh", "out/x.sh"),
            ("cat x.sh | wc -l", "x.sh"),
            ("sh ../../x.sh", "x.sh"),
            ("/x.sh", "x.sh"),
        ] {
            assert!(!by(&[command.to_owned()], "sub").contains(&path.to_owned()), "{command}");
            assert!(!by(&[command.to_owned()], "sub").contains(&format!("sub/{path}")), "{command}");
        }
    }
}
