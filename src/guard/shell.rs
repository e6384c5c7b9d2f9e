//! Reads a shell command line as far as a policy needs it: which simple
//! commands would run, with which words, and where their output goes. Knows
//! quotes, operators, substitutions, subshells and here-documents; what it
//! cannot know (the value of a variable) stays marked as unknown. It never
//! fails: text that a shell would refuse is read as far as it goes.

/// Subshells and substitutions nest at most this deep; what lies deeper is not looked at.
const DEPTH_MAX: usize = 24;

/// A part of a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    Command(Simple),
    /// `( … )`, `$( … )`, `` ` … ` ``: a change of folder inside does not last.
    Subshell(Vec<Node>),
}

/// A command with its words, before any keyword or wrapper is looked through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Simple {
    pub words: Vec<Word>,
    /// Files that `>` and its kin write.
    pub writes: Vec<Word>,
    /// What a here-document or here-string gives it to read.
    pub input: Option<String>,
}

/// One word without its quotes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Word {
    pub parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Text(String),
    /// `$NAME`, `~` as `HOME`; without a name: the output of a command, an arithmetic result.
    Value(Option<String>),
}

impl Word {
    /// The word, when nothing in it has to be looked up.
    pub fn literal(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }
    /// The word as source again, for a shell inside the shell.
    pub fn source(&self) -> String {
        self.parts.iter().fold(String::new(), |mut out, part| {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Value(name) => {
                    out.push('$');
                    out.push_str(name.as_deref().unwrap_or("_"));
                }
            }
            out
        })
    }
    fn push(&mut self, c: char) {
        match self.parts.last_mut() {
            Some(Part::Text(text)) => text.push(c),
            _ => self.parts.push(Part::Text(c.to_string())),
        }
    }
    fn push_value(&mut self, name: Option<String>) {
        self.parts.push(Part::Value(name));
    }
}

impl From<&str> for Word {
    fn from(text: &str) -> Word {
        Word { parts: vec![Part::Text(text.to_owned())] }
    }
}

/// Reads a whole command line.
pub fn parse(text: &str) -> Vec<Node> {
    parse_at(text, 0)
}

fn parse_at(text: &str, depth: usize) -> Vec<Node> {
    if depth > DEPTH_MAX {
        return Vec::new();
    }
    let mut reader = Reader { chars: text.chars().collect(), at: 0, depth, here: Vec::new() };
    reader.list(None)
}

struct Reader {
    chars: Vec<char>,
    at: usize,
    depth: usize,
    /// Here-documents whose bodies start at the next line.
    here: Vec<HereDocument>,
}

struct HereDocument {
    end: String,
    strips_tabs: bool,
    is_literal: bool,
}

/// The command that is being read, and what was found inside its words.
#[derive(Default)]
struct Draft {
    command: Simple,
    inner: Vec<Node>,
    nodes: Vec<Node>,
}

impl Draft {
    fn finish(&mut self) {
        self.nodes.append(&mut self.inner);
        let command = std::mem::take(&mut self.command);
        if command != Simple::default() {
            self.nodes.push(Node::Command(command));
        }
    }
    /// The last command that waits for a here-document gets this one.
    fn give_input(&mut self, body: &str) {
        let waiting = self.nodes.iter_mut().find_map(|node| match node {
            Node::Command(command) if command.input.as_deref() == Some("") => Some(command),
            _ => None,
        });
        if let Some(command) = waiting {
            command.input = Some(body.to_owned());
        }
    }
}

impl Reader {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }
    fn skip(&mut self, wanted: &str) -> bool {
        let found = wanted.chars().enumerate().all(|(index, c)| self.peek(index) == Some(c));
        if found {
            self.at += wanted.chars().count();
        }
        found
    }
    /// Commands until `end`, which is consumed, or the end of the text.
    fn list(&mut self, end: Option<char>) -> Vec<Node> {
        let mut draft = Draft::default();
        self.depth += 1;
        while let Some(c) = self.peek(0) {
            if Some(c) == end {
                self.at += 1;
                break;
            }
            match c {
                '\n' => {
                    self.at += 1;
                    draft.finish();
                    self.here_bodies(&mut draft);
                }
                '&' if self.peek(1) == Some('>') => {
                    self.at += 1;
                    self.redirection(&mut draft);
                }
                ';' | '&' | '|' | ')' => {
                    self.at += 1;
                    draft.finish();
                }
                '(' => {
                    self.at += 1;
                    draft.finish();
                    self.subshell(&mut draft.nodes);
                }
                '<' | '>' => self.redirection(&mut draft),
                '#' => self.comment(),
                c if c.is_whitespace() => self.at += 1,
                '\\' if self.peek(1) == Some('\n') => self.at += 2,
                '0'..='9' if self.is_descriptor() => self.at += 1,
                _ => {
                    let word = self.word(&mut draft.inner);
                    draft.command.words.push(word);
                }
            }
        }
        self.depth -= 1;
        draft.finish();
        draft.nodes
    }
    fn subshell(&mut self, nodes: &mut Vec<Node>) {
        if self.depth > DEPTH_MAX {
            self.at = self.chars.len();
            return;
        }
        let inner = self.list(Some(')'));
        if !inner.is_empty() {
            nodes.push(Node::Subshell(inner));
        }
    }
    fn comment(&mut self) {
        while self.peek(0).is_some_and(|c| c != '\n') {
            self.at += 1;
        }
    }
    /// Digits right before `<` or `>` name a file descriptor.
    fn is_descriptor(&self) -> bool {
        let rest = self.chars[self.at..].iter().skip_while(|c| c.is_ascii_digit());
        matches!(rest.clone().next(), Some('<' | '>'))
    }
    fn redirection(&mut self, draft: &mut Draft) {
        if self.skip("<<<") {
            let word = self.next_word(&mut draft.inner);
            draft.command.input = Some(word.source());
        } else if self.skip("<<") {
            self.here_document(draft);
        } else if self.skip("<(") || self.skip(">(") {
            self.subshell(&mut draft.inner);
        } else if self.skip("<&") || self.skip("<>") || self.skip("<") {
            self.next_word(&mut draft.inner);
        } else {
            let is_copy = self.skip(">&") || !(self.skip(">>") || self.skip(">|") || self.skip(">"));
            let target = self.next_word(&mut draft.inner);
            let is_descriptor = target.literal().is_some_and(|t| t.chars().all(|c| c.is_ascii_digit() || c == '-'));
            if !(is_copy && is_descriptor) {
                draft.command.writes.push(target);
            }
        }
    }
    fn here_document(&mut self, draft: &mut Draft) {
        let strips_tabs = self.skip("-");
        self.blanks();
        let start = self.at;
        let end = self.word(&mut Vec::new()).source();
        let is_literal = self.chars[start..self.at].iter().any(|c| matches!(c, '\'' | '"' | '\\'));
        draft.command.input = Some(String::new());
        self.here.push(HereDocument { end, strips_tabs, is_literal });
    }
    fn here_bodies(&mut self, draft: &mut Draft) {
        for here in std::mem::take(&mut self.here) {
            let mut body = String::new();
            while self.at < self.chars.len() {
                let line: String = self.chars[self.at..].iter().take_while(|c| **c != '\n').collect();
                self.at += line.chars().count() + 1;
                let text = if here.strips_tabs { line.trim_start_matches('\t') } else { line.as_str() };
                if text == here.end {
                    break;
                }
                body.push_str(&line);
                body.push('\n');
            }
            self.at = self.at.min(self.chars.len());
            if !here.is_literal && self.depth < DEPTH_MAX {
                let mut inner =
                    Reader { chars: body.chars().collect(), at: 0, depth: self.depth + 1, here: Vec::new() };
                inner.quoted(&mut Word::default(), &mut draft.nodes, None);
            }
            draft.give_input(&body);
        }
    }
    fn blanks(&mut self) {
        while self.peek(0).is_some_and(|c| c == ' ' || c == '\t') || self.skip("\\\n") {
            if self.peek(0).is_some_and(|c| c == ' ' || c == '\t') {
                self.at += 1;
            }
        }
    }
    fn next_word(&mut self, inner: &mut Vec<Node>) -> Word {
        self.blanks();
        self.word(inner)
    }
    /// One word; commands in substitutions go to `inner`.
    fn word(&mut self, inner: &mut Vec<Node>) -> Word {
        let mut word = Word::default();
        let ends_home = |c: Option<char>| c.is_none_or(|c| c == '/' || ends_word(c));
        if self.peek(0) == Some('~') && ends_home(self.peek(1)) {
            self.at += 1;
            word.push_value(Some("HOME".to_owned()));
        }
        while let Some(c) = self.peek(0) {
            match c {
                c if ends_word(c) => break,
                '\\' => {
                    if let Some(next) = self.peek(1).filter(|next| *next != '\n') {
                        word.push(next);
                    }
                    self.at = (self.at + 2).min(self.chars.len());
                }
                '\'' => {
                    self.at += 1;
                    self.single_quoted(&mut word);
                }
                '"' => {
                    self.at += 1;
                    self.quoted(&mut word, inner, Some('"'));
                }
                '$' | '`' => self.expansion(&mut word, inner),
                c => {
                    word.push(c);
                    self.at += 1;
                }
            }
        }
        if word.parts.is_empty() {
            word.parts.push(Part::Text(String::new()));
        }
        word
    }
    fn single_quoted(&mut self, word: &mut Word) {
        while let Some(c) = self.peek(0) {
            self.at += 1;
            if c == '\'' {
                return;
            }
            word.push(c);
        }
    }
    /// Text in which only `$`, `` ` `` and `\` mean something, until `end`.
    fn quoted(&mut self, word: &mut Word, inner: &mut Vec<Node>, end: Option<char>) {
        while let Some(c) = self.peek(0) {
            match c {
                c if Some(c) == end => {
                    self.at += 1;
                    return;
                }
                '\\' => {
                    let next = self.peek(1);
                    if !matches!(next, Some('"' | '\\' | '$' | '`' | '\n')) {
                        word.push('\\');
                    }
                    if let Some(next) = next.filter(|next| *next != '\n') {
                        word.push(next);
                    }
                    self.at = (self.at + 2).min(self.chars.len());
                }
                '$' | '`' => self.expansion(word, inner),
                c => {
                    word.push(c);
                    self.at += 1;
                }
            }
        }
    }
    fn expansion(&mut self, word: &mut Word, inner: &mut Vec<Node>) {
        if self.skip("$'") {
            self.single_quoted(word);
        } else if self.skip("$((") {
            self.arithmetic();
            word.push_value(None);
        } else if self.skip("$(") {
            self.subshell(inner);
            word.push_value(None);
        } else if self.skip("${") {
            let name = self.name();
            // `${x:-$(command)}` runs the command.
            self.quoted(&mut Word::default(), inner, Some('}'));
            word.push_value(Some(name));
        } else if self.skip("`") {
            let text = self.until_backtick();
            inner.push(Node::Subshell(parse_at(&text, self.depth + 1)));
            word.push_value(None);
        } else {
            self.at += 1;
            let name = self.name();
            match (name.is_empty(), self.peek(0)) {
                (false, _) => word.push_value(Some(name)),
                (true, Some('0'..='9' | '@' | '*' | '#' | '?' | '$' | '!' | '-')) => {
                    self.at += 1;
                    word.push_value(None);
                }
                (true, _) => word.push('$'),
            }
        }
    }
    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(c) = self.peek(0).filter(|c| c.is_ascii_alphanumeric() || *c == '_') {
            if name.is_empty() && c.is_ascii_digit() {
                break;
            }
            name.push(c);
            self.at += 1;
        }
        name
    }
    fn arithmetic(&mut self) {
        let mut open = 2;
        while let Some(c) = self.peek(0).filter(|_| open > 0) {
            match c {
                '(' => open += 1,
                ')' => open -= 1,
                _ => {}
            }
            self.at += 1;
        }
    }
    fn until_backtick(&mut self) -> String {
        let mut text = String::new();
        while let Some(c) = self.peek(0) {
            self.at += 1;
            match c {
                '`' => break,
                '\\' if matches!(self.peek(0), Some('`' | '\\' | '$')) => {
                    text.extend(self.peek(0));
                    self.at += 1;
                }
                c => text.push(c),
            }
        }
        text
    }
}

fn ends_word(c: char) -> bool {
    c.is_whitespace() || matches!(c, ';' | '&' | '|' | '(' | ')' | '<' | '>')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(nodes: &[Node]) -> String {
        let show_one = |node: &Node| match node {
            Node::Subshell(inner) => format!("({})", show(inner)),
            Node::Command(command) => {
                let words: Vec<String> = command.words.iter().map(|word| format!("{:?}", word.source())).collect();
                let writes: Vec<String> = command.writes.iter().map(|word| format!(">{}", word.source())).collect();
                let input = command.input.iter().map(|input| format!("<{input:?}"));
                words.into_iter().chain(writes).chain(input).collect::<Vec<_>>().join(" ")
            }
        };
        nodes.iter().map(show_one).collect::<Vec<_>>().join("; ")
    }

    #[track_caller]
    fn check(line: &str, expected: &str) {
        assert_eq!(show(&parse(line)), expected, "{line}");
    }

    #[test]
    fn command_lines_are_taken_apart() {
        check("a 'b c' \"d $e\"", r#""a" "b c" "d $e""#);
        check("a&&b||c|d;e&f\ng", r#""a"; "b"; "c"; "d"; "e"; "f"; "g""#);
        check("a 2>&1 >x 2>/dev/null &>y", r#""a" >x >/dev/null >y"#);
        check("(cd x && y) && z", r#"("cd" "x"; "y"); "z""#);
        check("echo $(a `b`) \"$(c)\"", r#"(("b"); "a" "$_"); ("c"); "echo" "$_" "$_""#);
        check("echo '$(a)' # b", r#""echo" "$(a)""#);
        check("echo $((1+(2))) \\$x", r#""echo" "$_" "$x""#);
        check("f() { a; }", r#""f"; "{" "a"; "}""#);
        check("a \\\n b", r#""a" "b""#);
        check("echo 2 a>b", r#""echo" "2" "a" >b"#);
    }

    #[test]
    fn here_documents_are_input_and_not_commands() {
        check("cat <<'E' > x\n$(a)\nE\nb", "\"cat\" >x <\"$(a)\\n\"; \"b\"");
        check("cat <<E\n$(a) b\nE\n", "\"cat\" <\"$(a) b\\n\"; (\"a\")");
        check("c -m \"$(cat <<'E'\nit's (a)\nE\n)\"; d", "(\"cat\" <\"it's (a)\\n\"); \"c\" \"-m\" \"$_\"; \"d\"");
        check("bash <<< 'a b'", r#""bash" <"a b""#);
    }

    #[test]
    fn broken_text_ends_somewhere() {
        for line in
            ["'", "\"", "$(", "`", "((((", "a <<E", "${", "\\", ">", "$((", &"$(".repeat(10_000), &"(".repeat(10_000)]
        {
            parse(line);
        }
    }
}
