//! The operator's settings: what may be set, the two files it is set in, and where each value
//! comes from. A project's file may come with the repository, so it can choose numbers and
//! policies and never what runs on this machine.

mod keys;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml_edit::{Document, Item};

pub use keys::{KEYS, Key, Value};

use crate::model::attention::{AttentionKind, Channels};
use crate::model::budget::Budget;
use crate::model::event::Defaults;
use crate::model::terminal::Terminal;

/// Whose file a value is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    User,
    Project,
}

/// Where a value was set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub whose: Whose,
    pub file: PathBuf,
    pub line: usize,
}

/// What is wrong with one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub line: usize,
    pub what: String,
    pub hint: Option<String>,
}

/// Why the settings cannot be used. Nothing of such a file counts.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{} cannot be read: {source}", file.display())]
    Unreadable { file: PathBuf, source: std::io::Error },
    #[error("{} cannot be used", file.display())]
    Wrong { file: PathBuf, problems: Vec<Problem> },
}

/// Everything that is set. The project's file goes before the user's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    values: BTreeMap<&'static str, (Value, Place)>,
}

/// The user's own file: below `XDG_CONFIG_HOME`, else `~/.config`. None: there is no home.
pub fn user_file() -> Option<PathBuf> {
    let root = match std::env::var_os("XDG_CONFIG_HOME") {
        Some(dir) if Path::new(&dir).is_absolute() => PathBuf::from(dir),
        _ => PathBuf::from(std::env::var_os("HOME").filter(|home| !home.is_empty())?).join(".config"),
    };
    Some(root.join("loom/config.toml"))
}

impl Config {
    /// Reads the user's file and the project's at `project`; a file that is not there sets nothing.
    ///
    /// # Errors
    /// The first file that cannot be read or used, with every line that is wrong.
    pub fn read(project: &Path) -> Result<Config, ConfigError> {
        let mut config = Config::default();
        if let Some(file) = user_file() {
            config.add(&file, Whose::User)?;
        }
        config.add(project, Whose::Project)?;
        Ok(config)
    }

    fn add(&mut self, file: &Path, whose: Whose) -> Result<(), ConfigError> {
        let text = match fs_err::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(ConfigError::Unreadable { file: file.to_path_buf(), source }),
        };
        let values = parse(&text, whose);
        let values = values.map_err(|problems| ConfigError::Wrong { file: file.to_path_buf(), problems })?;
        for (name, value, line) in values {
            self.values.insert(name, (value, Place { whose, file: file.to_path_buf(), line }));
        }
        Ok(())
    }

    /// The value of a key, and where it was set.
    pub fn get(&self, name: &str) -> Option<&(Value, Place)> {
        self.values.get(name)
    }

    fn count(&self, name: &str) -> Option<u64> {
        match self.get(name) {
            Some((Value::Count(count), _)) => Some(*count),
            _ => None,
        }
    }

    fn word(&self, name: &str) -> Option<&str> {
        match self.get(name) {
            Some((Value::Word(word) | Value::Secret(word), _)) => Some(word),
            _ => None,
        }
    }

    fn flag(&self, name: &str) -> Option<bool> {
        match self.get(name) {
            Some((Value::Flag(flag), _)) => Some(*flag),
            _ => None,
        }
    }

    fn budget(&self, [sessions, tokens, cost]: [&str; 3]) -> Budget {
        let cost_microusd = match self.get(cost) {
            Some((Value::MicroUsd(micro), _)) => Some(*micro),
            _ => None,
        };
        let sessions = self.count(sessions).and_then(|count| u32::try_from(count).ok());
        Budget { sessions, tokens: self.count(tokens), cost_microusd }
    }

    /// What counts where a plan says nothing.
    pub fn defaults(&self) -> Defaults {
        Defaults {
            max_parallel: self.count("max_parallel").and_then(|count| u32::try_from(count).ok()),
            on_limit: self.word("on_limit").and_then(|word| word.parse().ok()),
            budget: self.budget(["budget.sessions", "budget.tokens", "budget.cost_usd"]),
            stage_budget: self.budget(["stage_budget.sessions", "stage_budget.tokens", "stage_budget.cost_usd"]),
        }
    }

    /// Where windows open.
    pub fn terminal(&self) -> Option<Terminal> {
        self.word("terminal").and_then(|word| word.parse().ok())
    }

    /// How a person is told that something waits for them.
    pub fn channels(&self) -> Channels {
        let kinds = match self.get("notify.on") {
            Some((Value::Words(words), _)) => words.iter().filter_map(|word| word.parse().ok()).collect(),
            _ => AttentionKind::ALL.to_vec(),
        };
        Channels {
            kinds,
            bell: self.flag("notify.bell").unwrap_or(true),
            desktop: self.flag("notify.desktop").unwrap_or(true),
            command: self.word("notify.command").map(str::to_owned),
            webhook: self.word("notify.webhook").map(str::to_owned),
        }
    }
}

type Parsed = Vec<(&'static str, Value, usize)>;

fn parse(text: &str, whose: Whose) -> Result<Parsed, Vec<Problem>> {
    let line_of = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
    let document = Document::parse(text).map_err(|error| {
        let what = error.message().lines().collect::<Vec<_>>().join(" ");
        vec![Problem { line: line_of(error.span().map_or(0, |span| span.start)), what, hint: None }]
    })?;
    let mut reader = Reader { whose, line_of: &line_of, values: Vec::new(), problems: Vec::new() };
    reader.table("", document.as_item());
    if reader.problems.is_empty() { Ok(reader.values) } else { Err(reader.problems) }
}

struct Reader<'a> {
    whose: Whose,
    line_of: &'a dyn Fn(usize) -> usize,
    values: Parsed,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn table(&mut self, above: &str, table: &Item) {
        let Some(table) = table.as_table_like() else { return };
        for (name, item) in table.iter() {
            let path = if above.is_empty() { name.to_owned() } else { format!("{above}.{name}") };
            let key_span = table.key(name).and_then(toml_edit::Key::span).or(item.span());
            let line = (self.line_of)(key_span.map_or(0, |span| span.start));
            match KEYS.iter().find(|key| key.name == path) {
                Some(key) => self.value(key, item, line),
                None if item.is_table_like() && KEYS.iter().any(|key| key.name.starts_with(&format!("{path}."))) => {
                    self.table(&path, item);
                }
                None => self.unknown(&path, line),
            }
        }
    }

    fn value(&mut self, key: &'static Key, item: &Item, line: usize) {
        if self.whose == Whose::Project && key.is_users_alone {
            let what = format!("`{}` counts only in your own file", key.name);
            let own =
                user_file().map_or_else(|| "~/.config/loom/config.toml".to_owned(), |file| file.display().to_string());
            let hint = format!("put it into {own}: a project never says what runs on your machine");
            self.problems.push(Problem { line, what, hint: Some(hint) });
            return;
        }
        match key.read(item) {
            Some(value) => self.values.push((key.name, value, line)),
            None => {
                let what = format!("`{}` must be {}, not {}", key.name, key.wants(), shown(item));
                self.problems.push(Problem { line, what, hint: None });
            }
        }
    }

    fn unknown(&mut self, path: &str, line: usize) {
        let distance = |key: &&Key| strsim::damerau_levenshtein(path, key.name);
        let close = KEYS.iter().min_by_key(distance).filter(|key| distance(key) <= 1 + path.len() / 3);
        let hint = match close {
            Some(key) => format!("did you mean `{}`?", key.name),
            None => "`loom config` shows every key".to_owned(),
        };
        self.problems.push(Problem { line, what: format!("there is no setting `{path}`"), hint: Some(hint) });
    }
}

fn shown(item: &Item) -> String {
    match item {
        Item::Value(toml_edit::Value::String(text)) => format!("the text `{}`", text.value()),
        Item::Value(toml_edit::Value::Integer(number)) => format!("the number `{}`", number.value()),
        Item::Value(toml_edit::Value::Float(number)) => format!("the number `{}`", number.value()),
        Item::Value(toml_edit::Value::Boolean(flag)) => format!("`{}`", flag.value()),
        other => format!("a value of the kind {}", other.type_name()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::budget::OnLimit;

    fn of(text: &str, whose: Whose) -> Config {
        let mut config = Config::default();
        for (name, value, line) in parse(text, whose).unwrap() {
            config.values.insert(name, (value, Place { whose, file: PathBuf::new(), line }));
        }
        config
    }

    fn problems(text: &str, whose: Whose) -> Vec<String> {
        let problems = parse(text, whose).unwrap_err().into_iter();
        problems.map(|p| format!("{}: {}; {}", p.line, p.what, p.hint.unwrap_or_default())).collect()
    }

    #[test]
    fn every_key_reaches_what_it_is_for() {
        let config = of(
            "max_parallel = 7\non_limit = 'ask'\nterminal = 'tmux'\n[budget]\nsessions = 3\ntokens = 4_000_000\ncost_usd = 2.5\n\
             [stage_budget]\nsessions = 1\ntokens = 2\ncost_usd = 3\n\
             [notify]\non = ['waiting', 'complete']\nbell = false\ndesktop = false\ncommand = 'say hi'\nwebhook = 'https://example.org/x'\n",
            Whose::User,
        );
        assert_eq!(config.values.len(), KEYS.len(), "a key is missing in this test");
        assert_eq!(
            config.defaults(),
            Defaults {
                max_parallel: Some(7),
                on_limit: Some(OnLimit::Ask),
                budget: Budget { sessions: Some(3), tokens: Some(4_000_000), cost_microusd: Some(2_500_000) },
                stage_budget: Budget { sessions: Some(1), tokens: Some(2), cost_microusd: Some(3_000_000) },
            }
        );
        assert_eq!(config.terminal(), Some(Terminal::Tmux));
        assert_eq!(
            config.channels(),
            Channels {
                kinds: vec![AttentionKind::Waiting, AttentionKind::Complete],
                bell: false,
                desktop: false,
                command: Some("say hi".to_owned()),
                webhook: Some("https://example.org/x".to_owned()),
            }
        );
        assert_eq!(config.get("budget.tokens").unwrap().1.line, 6);
        assert_eq!(of("", Whose::User).defaults(), Defaults::default());
        // Dotted keys and inline tables are the same settings.
        assert_eq!(of("budget.tokens = 5\nnotify = {bell = false}", Whose::Project).defaults().budget.tokens, Some(5));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, expected) in [
            ("max_parralel = 3", "1: there is no setting `max_parralel`; did you mean `max_parallel`?"),
            ("\n[notify]\nwebhok = 'x'", "3: there is no setting `notify.webhok`; did you mean `notify.webhook`?"),
            ("[colors]\nred = 1", "1: there is no setting `colors`; `loom config` shows every key"),
            ("max_parallel = 0", "1: `max_parallel` must be a whole number from 1 to 100, not the number `0`; "),
            ("on_limit = 'sleep'", "1: `on_limit` must be one of `resume`, `ask` and `stop`, not the text `sleep`; "),
            (
                "[budget]\ncost_usd = -1",
                "2: `budget.cost_usd` must be an amount in US dollars above 0, not the number `-1`; ",
            ),
            ("budget = 5", "1: there is no setting `budget`; `loom config` shows every key"),
            (
                "notify.on = ['waiting', 'lunch']",
                "1: `notify.on` must be a list of `waiting`, `hanging`, `gated`, `blocked`, `limit`, `complete` and `stopped`, not a value of the kind array; ",
            ),
            (
                "notify.webhook = 'file:///etc/passwd'",
                "1: `notify.webhook` must be an address that starts with `https://` or `http://`, not the text `file:///etc/passwd`; ",
            ),
        ] {
            assert_eq!(problems(text, Whose::User), [expected], "{text}");
        }
        let broken = problems("max_parallel = 3\nterminal = ", Whose::User);
        assert!(broken[0].starts_with("2: "), "{broken:?}");
        assert_eq!(problems("a = 1\nb = 2", Whose::User).len(), 2, "only the first problem is told");
    }

    #[test]
    fn a_project_never_says_what_runs() {
        for key in ["command = 'rm -rf /'", "webhook = 'https://example.org'"] {
            let told = problems(&format!("[notify]\n{key}"), Whose::Project);
            assert!(told[0].starts_with("2: `notify.") && told[0].contains("counts only in your own file"), "{told:?}");
        }
    }
}
