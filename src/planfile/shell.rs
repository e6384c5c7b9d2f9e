//! What can be seen in a shell command without running it: its simple commands,
//! and whether it can fail at all. Where it is not sure, it says that it can.

/// What stands before a simple command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Joint {
    /// The start, `;`, a newline or `&`: what came before does not decide about this one.
    Then,
    And,
    Or,
    Pipe,
}

/// One program with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Simple {
    pub joint: Joint,
    /// Quotes are removed. A word that the shell would expand is kept as written.
    pub words: Vec<Word>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Word {
    pub text: String,
    /// Whether the shell would put something else in its place.
    pub expands: bool,
    /// Whether any of it was quoted.
    pub is_quoted: bool,
    /// Whether it is the target of a redirection.
    pub redirected: bool,
}

/// Words that start or end something that this file does not look into.
const COMPOUND: [&str; 16] = [
    "if", "then", "else", "elif", "fi", "for", "while", "until", "do", "done", "case", "esac", "{", "}", "function",
    "select",
];

/// A command taken apart. None where it holds what is not understood: subshells, conditions,
/// loops, functions, here-documents, open quotes.
pub fn parse(command: &str) -> Option<Vec<Simple>> {
    let mut parser = Parser { all: Vec::new(), joint: Joint::Then, words: Vec::new(), word: None, redirects: false };
    let mut rest = command.char_indices().peekable();
    while let Some((at, c)) = rest.next() {
        let next = rest.peek().map(|(_, c)| *c);
        match c {
            '\'' => {
                let end = command[at + 1..].find('\'')? + at + 1;
                let word = parser.word();
                word.text.push_str(&command[at + 1..end]);
                word.is_quoted = true;
                while rest.next_if(|(at, _)| *at <= end).is_some() {}
            }
            '"' => parser.double_quoted(&mut rest)?,
            '\\' => match rest.next() {
                Some((_, '\n')) => {}
                Some((_, c)) => parser.word().text.push(c),
                None => return None,
            },
            ' ' | '\t' => parser.end_word(),
            '#' if parser.word.is_none() => while rest.next_if(|(_, c)| *c != '\n').is_some() {},
            '\n' | ';' => {
                if c == ';' && next == Some(';') {
                    return None;
                }
                parser.end_command(Joint::Then);
            }
            '&' if next == Some('&') => {
                rest.next();
                parser.end_command(Joint::And);
            }
            // `2>&1` and `&>file` belong to a redirection.
            '&' if parser.redirects || next == Some('>') => {}
            '&' => parser.end_command(Joint::Then),
            '|' if next == Some('|') => {
                rest.next();
                parser.end_command(Joint::Or);
            }
            '|' => parser.end_command(Joint::Pipe),
            '(' | ')' => return None,
            '<' if next == Some('<') => return None,
            '<' | '>' => parser.redirect(),
            c => {
                let word = parser.word();
                word.expands |= matches!(c, '$' | '`' | '*' | '?' | '[' | '~');
                word.text.push(c);
                if c == '`' || c == '$' && next == Some('(') {
                    return None;
                }
            }
        }
    }
    parser.end_command(Joint::Then);
    let is_compound = |simple: &Simple| simple.words.first().is_some_and(|w| COMPOUND.contains(&w.text.as_str()));
    (!parser.all.iter().any(is_compound)).then_some(parser.all)
}

/// Whether the shell will read a command, as far as that is sure without asking it.
pub fn is_surely_valid(command: &str) -> bool {
    let close: String = command.chars().filter(|c| !c.is_whitespace()).collect();
    let is_operator = |c: char| matches!(c, '&' | '|' | ';');
    let runs = || close.split(|c| !is_operator(c)).filter(|run| !run.is_empty());
    parse(command).is_some()
        && runs().all(|run| matches!(run, "&&" | "||" | "|" | "&" | ";"))
        && !close.starts_with(is_operator)
        && !close.ends_with(['&', '|', '\\', '<', '>'])
}

struct Parser {
    all: Vec<Simple>,
    joint: Joint,
    words: Vec<Word>,
    word: Option<Word>,
    /// The next word is where a redirection goes.
    redirects: bool,
}

impl Parser {
    fn word(&mut self) -> &mut Word {
        let redirected = std::mem::take(&mut self.redirects);
        self.word.get_or_insert_with(|| Word { redirected, ..Word::default() })
    }
    fn end_word(&mut self) {
        self.words.extend(self.word.take());
    }
    fn end_command(&mut self, next: Joint) {
        self.end_word();
        let words = std::mem::take(&mut self.words);
        if words.iter().any(|word| !word.redirected) {
            self.all.push(Simple { joint: self.joint, words });
        } else if next != Joint::Then {
            // An operator without a command on its left: the shell will complain.
            self.joint = next;
            return;
        }
        self.joint = next;
    }
    /// `>`, `>>`, `<`; a number right before it is no argument.
    fn redirect(&mut self) {
        if self.word.as_ref().is_some_and(|word| word.text.bytes().all(|byte| byte.is_ascii_digit())) {
            self.word = None;
        }
        self.end_word();
        self.redirects = true;
    }
    fn double_quoted(&mut self, rest: &mut std::iter::Peekable<std::str::CharIndices<'_>>) -> Option<()> {
        let word = self.word();
        word.is_quoted = true;
        loop {
            match rest.next()?.1 {
                '"' => return Some(()),
                '\\' => {
                    let c = rest.next()?.1;
                    if !matches!(c, '"' | '\\' | '$' | '`') {
                        word.text.push('\\');
                    }
                    word.text.push(c);
                }
                c => {
                    word.expands |= matches!(c, '$' | '`');
                    if c == '`' || c == '$' && rest.peek().is_some_and(|(_, c)| *c == '(') {
                        return None;
                    }
                    word.text.push(c);
                }
            }
        }
    }
}

impl Simple {
    /// Its words without leading `A=b`, `!` and redirections.
    pub fn arguments(&self) -> impl Iterator<Item = &Word> {
        let is_lead = |word: &&Word| is_assignment(word) || word.text == "!" && !word.is_quoted;
        self.words.iter().filter(|word| !word.redirected).skip_while(is_lead)
    }
    /// The program it starts; none where that is only known when it runs.
    pub fn program(&self) -> Option<&str> {
        self.arguments().next().filter(|word| !word.expands && !word.text.is_empty()).map(|word| word.text.as_str())
    }
    /// Whether it can end the shell before its last command, with a failure, or change what ends
    /// it: `exit 1`, `set -e`, `${X:?}`, a program that is only known when it runs.
    fn decides_alone(&self) -> bool {
        let mut arguments = self.arguments();
        let program = arguments.next();
        let ends = match program.map(|word| word.text.as_str()) {
            // Without a number it passes on what came before.
            Some("exit" | "return") => arguments.next().is_none_or(|word| word.text != "0"),
            Some("set" | "exec" | "eval" | "." | "source" | "trap" | "kill" | "command" | "builtin" | "shopt") => true,
            _ => program.is_some_and(|word| word.expands && word.text.contains('$')),
        };
        ends || self.words.iter().any(|word| word.expands && word.text.contains("${") && word.text.contains('?'))
    }
    fn is_negated(&self) -> bool {
        self.words.first().is_some_and(|word| word.text == "!" && !word.is_quoted)
    }
}

fn is_assignment(word: &Word) -> bool {
    word.text.split_once('=').is_some_and(|(name, _)| {
        !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.chars().all(is_name_char)
    })
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Why a command cannot fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Vacuous {
    /// Nothing in it depends on the work.
    Constant,
    /// `|| true`, `; echo done`: what fails before it is not seen.
    Masked,
    /// The exit code of a pipe is that of its last program, which takes anything.
    Pipe(String),
    /// A search that every file satisfies.
    Matches(String),
}

/// Whether the command exits with 0 whatever the tree holds.
pub fn vacuous(command: &str) -> Option<Vacuous> {
    let all = parse(command)?;
    if all.iter().any(Simple::decides_alone) {
        return None;
    }
    // What stands behind the last `;` or newline decides.
    let start = all.iter().rposition(|simple| simple.joint == Joint::Then)?;
    let mut result: Option<Vacuous> = None;
    let mut at = start;
    while at < all.len() {
        let joint = all[at].joint;
        let end = all[at + 1..].iter().position(|simple| simple.joint != Joint::Pipe).map_or(all.len(), |n| at + 1 + n);
        let part = pipeline(&all[at..end]);
        result = match joint {
            Joint::And => result.filter(|_| part.is_some()).and(part),
            Joint::Or => result.or(part.map(|_| Vacuous::Masked)),
            _ => part,
        };
        at = end;
    }
    match result {
        Some(Vacuous::Constant) if start > 0 => Some(Vacuous::Masked),
        other => other,
    }
}

fn pipeline(parts: &[Simple]) -> Option<Vacuous> {
    let last = parts.last()?;
    if parts[0].is_negated() {
        return (parts.len() == 1 && last.program() == Some("false")).then_some(Vacuous::Constant);
    }
    if parts.len() > 1 && takes_anything(last) {
        return Some(Vacuous::Pipe(last.program()?.to_owned()));
    }
    simple(last)
}

/// Programs that succeed whatever they read, as long as they are not given a file.
fn takes_anything(last: &Simple) -> bool {
    let programs =
        ["cat", "head", "tail", "tee", "wc", "sort", "uniq", "less", "more", "tr", "cut", "nl", "rev", "tac"];
    last.program().is_some_and(|program| programs.contains(&program))
}

fn simple(simple: &Simple) -> Option<Vacuous> {
    let words: Vec<&Word> = simple.arguments().collect();
    let [program, arguments @ ..] = words.as_slice() else { return Some(Vacuous::Constant) };
    let fixed = || arguments.iter().all(|word| !word.expands);
    match program.text.as_str() {
        "true" | "/bin/true" | "/usr/bin/true" | ":" | "echo" | "printf" => {
            let writes = simple.words.iter().any(|word| word.redirected && word.text != "/dev/null");
            (fixed() && !writes).then_some(Vacuous::Constant)
        }
        "exit" => Some(Vacuous::Constant),
        "test" | "[" => (fixed() && is_constant_test(arguments)).then_some(Vacuous::Constant),
        "grep" | "egrep" | "rg" => {
            let pattern = arguments.iter().find(|word| !word.text.starts_with('-') || word.text.is_empty())?;
            let always = matches!(pattern.text.as_str(), "" | "^" | "." | ".*" | "^.*" | ".*$" | "^.*$");
            let inverts = arguments.iter().any(|word| {
                word.text.starts_with('-') && !word.text.starts_with("--") && word.text.contains(['v', 'L', 'f', 'e'])
            });
            (always && !inverts && pattern.text != ".").then(|| Vacuous::Matches(pattern.text.clone()))
        }
        _ => None,
    }
}

/// A comparison of what is written there, and it holds.
fn is_constant_test(arguments: &[&Word]) -> bool {
    let texts: Vec<&str> = arguments.iter().map(|word| word.text.as_str()).filter(|text| *text != "]").collect();
    match texts.as_slice() {
        ["-n", text] | [text] => !text.is_empty(),
        ["-z", text] => text.is_empty(),
        [a, "=" | "==", b] => a == b,
        [a, "!=", b] => a != b,
        [a, operator, b] => {
            let (Ok(a), Ok(b)) = (a.parse::<i64>(), b.parse::<i64>()) else { return false };
            match *operator {
                "-eq" => a == b,
                "-ne" => a != b,
                "-lt" => a < b,
                "-le" => a <= b,
                "-gt" => a > b,
                "-ge" => a >= b,
                _ => false,
            }
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_that_cannot_fail_are_recognised() {
        for (command, why) in [
            ("true", Vacuous::Constant),
            (":", Vacuous::Constant),
            (" exit 0 ", Vacuous::Constant),
            ("grep -q 2 a && exit 0 || exit 0", Vacuous::Masked),
            ("echo ok", Vacuous::Constant),
            ("echo 'a && b' # done", Vacuous::Constant),
            ("! false", Vacuous::Constant),
            ("A=1", Vacuous::Constant),
            ("A=1 true", Vacuous::Constant),
            ("test 1 -eq 1", Vacuous::Constant),
            ("[ x = x ]", Vacuous::Constant),
            ("true && echo ok", Vacuous::Constant),
            ("make || true", Vacuous::Masked),
            ("make || echo failed", Vacuous::Masked),
            ("make && make test || :", Vacuous::Masked),
            ("make; exit 0", Vacuous::Masked),
            ("make\necho done", Vacuous::Masked),
            ("make & true", Vacuous::Masked),
            ("cargo test 2>&1 | tail -5", Vacuous::Pipe("tail".to_owned())),
            ("cargo test | tee log.txt | head", Vacuous::Pipe("head".to_owned())),
            ("grep -q '' src/lib.rs", Vacuous::Matches(String::new())),
            ("grep -rq \".*\" src", Vacuous::Matches(".*".to_owned())),
        ] {
            assert_eq!(vacuous(command), Some(why), "{command:?}");
        }
    }

    #[test]
    fn commands_that_can_fail_are_left_alone() {
        for command in [
            "cargo test",
            "echo $(make)",
            "echo \"$(make)\"",
            "echo x | grep y",
            "test -f a && echo ok",
            "set -e\nmake\necho ok",
            "make || exit 1",
            "grep -q 2 a && exit 1 || exit 0",
            "grep -q 1 a || exit 1; true",
            "make; exit",
            "make; exit $?",
            "make || exit $CODE; true",
            "$CHECK; true",
            ": ${NAME:?missing}; true",
            "exec make; true",
            "kill -9 $$; true",
            "make | grep -q ok",
            "test -s doc/api.md",
            "[ 1 = 2 ]",
            "test \"$A\" = 1",
            "grep -q . src/lib.rs",
            "grep -qv '' src/lib.rs",
            "! grep -q FIXME src/lib.rs",
            "if make; then true; else false; fi",
            "for f in *; do true; done",
            "(make; true) && make test",
            "cat <<EOF\nx\nEOF",
            "echo x > out.txt",
            "'unclosed",
            "",
        ] {
            assert_eq!(vacuous(command), None, "{command:?}");
        }
    }

    #[test]
    fn the_shell_is_asked_only_where_it_may_not_understand() {
        for command in ["cargo test -p a 'b c'", "X=1 make && ./a.sh | grep -q \"x\" || exit 1; make", "make;"] {
            assert!(is_surely_valid(command), "{command}");
        }
        for command in ["if make; then", "echo \"x", "make &&", "| make", "make || && make", "a >", "(make", "a ;; b"] {
            assert!(!is_surely_valid(command), "{command}");
        }
    }

    #[test]
    fn programs_are_found_behind_assignments_and_in_pipes() {
        let programs = |command: &str| -> Vec<String> {
            let all = parse(command).unwrap();
            all.iter().filter_map(|simple| simple.program()).map(str::to_owned).collect()
        };
        assert_eq!(programs("RUST_LOG=x cargo test -- 'a b' 2>/dev/null | grep ok"), ["cargo", "grep"]);
        assert_eq!(programs("! ./a.sh; \"$X\" y && \\z"), ["./a.sh", "z"]);
        assert_eq!(programs("make >out 2>&1 && npm test"), ["make", "npm"]);
    }
}
