//! Every setting: its name, what it may be, and what it is for.

use toml_edit::{Item, Value as Toml};

use crate::base::text;
use crate::model::attention::AttentionKind;
use crate::model::budget::{Budget, OnLimit, dollars, short};
use crate::model::limits::{BUDGET_SESSIONS_MAX, BUDGET_TOKENS_MAX, NOTIFY_TEXT_BYTES_MAX, PARALLEL_MAX};
use crate::model::terminal::Terminal;

/// A setting.
#[derive(Debug)]
pub struct Key {
    /// With the table it is in: `notify.command`.
    pub name: &'static str,
    kind: Kind,
    /// It could run something, or tell somebody: not for a file that comes with a repository.
    pub is_users_alone: bool,
    /// What it is when nobody sets it.
    pub default: &'static str,
    /// For people.
    pub about: &'static str,
}

#[derive(Debug)]
enum Kind {
    Count(i64),
    Amount,
    Policy,
    Terminal,
    Flag,
    Events,
    Command,
    Address,
}

/// A value that fits its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Count(u64),
    MicroUsd(u64),
    Word(String),
    Words(Vec<String>),
    Flag(bool),
    /// May hold a password: shown in part.
    Secret(String),
}

const fn key(name: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Key {
    Key { name, kind, is_users_alone: false, default, about }
}

/// Every setting there is, in the order in which they are shown.
pub const KEYS: [Key; 14] = [
    key("max_parallel", Kind::Count(PARALLEL_MAX as i64), "4", "sessions at once, of a plan that does not say"),
    key("on_limit", Kind::Policy, "resume", "at a usage limit of the account: resume, ask or stop"),
    key("terminal", Kind::Terminal, "none", "where a window opens for each session"),
    key("budget.sessions", SESSIONS, "no cap", "sessions of a plan"),
    key("budget.tokens", TOKENS, "no cap", "tokens of a plan, without cache reads"),
    key("budget.cost_usd", Kind::Amount, "no cap", "US dollars of a plan"),
    key("stage_budget.sessions", SESSIONS, "no cap", "sessions of each stage"),
    key("stage_budget.tokens", TOKENS, "no cap", "tokens of each stage, without cache reads"),
    key("stage_budget.cost_usd", Kind::Amount, "no cap", "US dollars of each stage"),
    key("notify.on", Kind::Events, "all of them", "what you are told of"),
    key("notify.bell", Kind::Flag, "true", "the terminal rings in `loom status --live` and `loom run --watch`"),
    key("notify.desktop", Kind::Flag, "true", "a desktop notification, where there is a desktop"),
    Key { is_users_alone: true, ..key("notify.command", Kind::Command, "none", "a shell command that is run") },
    Key { is_users_alone: true, ..key("notify.webhook", Kind::Address, "none", "an address that JSON is sent to") },
];

const SESSIONS: Kind = Kind::Count(BUDGET_SESSIONS_MAX as i64);
const TOKENS: Kind = Kind::Count(BUDGET_TOKENS_MAX);

impl Key {
    /// The value of this key; none: it cannot be one.
    pub(super) fn read(&self, item: &Item) -> Option<Value> {
        let value = item.as_value()?;
        match &self.kind {
            Kind::Count(max) => {
                let count = value.as_integer().filter(|count| (1..=*max).contains(count))?;
                Some(Value::Count(u64::try_from(count).ok()?))
            }
            Kind::Amount => {
                // A whole number of dollars that is too large for its own type is no cap either.
                let whole = value.as_integer().and_then(|whole| i32::try_from(whole).ok()).map(f64::from);
                Budget::microusd_of(value.as_float().or(whole)?).map(Value::MicroUsd)
            }
            Kind::Policy => word(value, |word| OnLimit::NAMES.contains(&word)),
            Kind::Terminal => word(value, |word| word.parse::<Terminal>().is_ok()),
            Kind::Flag => value.as_bool().map(Value::Flag),
            Kind::Events => {
                let words = value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned));
                let words = words.collect::<Option<Vec<String>>>()?;
                words.iter().all(|word| word.parse::<AttentionKind>().is_ok()).then_some(Value::Words(words))
            }
            Kind::Command => {
                let is_fine = |text: &&str| !text.trim().is_empty() && text.len() <= NOTIFY_TEXT_BYTES_MAX;
                value
                    .as_str()
                    .filter(is_fine)
                    .filter(|text| !text.contains('\0'))
                    .map(|text| Value::Secret(text.to_owned()))
            }
            Kind::Address => value.as_str().filter(|text| is_address(text)).map(|text| Value::Secret(text.to_owned())),
        }
    }

    /// What it has to be.
    pub(super) fn wants(&self) -> String {
        match &self.kind {
            Kind::Count(max) => format!("a whole number from 1 to {max}"),
            Kind::Amount => "an amount in US dollars above 0".to_owned(),
            Kind::Policy => format!("one of {}", text::list(OnLimit::NAMES)),
            Kind::Terminal => format!("one of {}", text::list(Terminal::ALL.map(Terminal::as_str))),
            Kind::Flag => "`true` or `false`".to_owned(),
            Kind::Events => format!("a list of {}", text::list(AttentionKind::ALL.map(AttentionKind::as_str))),
            Kind::Command => "a shell command".to_owned(),
            Kind::Address => "an address that starts with `https://` or `http://`".to_owned(),
        }
    }
}

fn word(value: &Toml, is_known: impl Fn(&str) -> bool) -> Option<Value> {
    value.as_str().filter(|word| is_known(word)).map(|word| Value::Word(word.to_owned()))
}

fn is_address(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '['))
        && text.len() <= NOTIFY_TEXT_BYTES_MAX
        && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\')
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Value::Count(count) if *count >= 10_000 => write!(f, "{count} ({})", short(*count)),
            Value::Count(count) => write!(f, "{count}"),
            Value::MicroUsd(micro) => f.write_str(&dollars(*micro)),
            Value::Word(word) => f.write_str(word),
            Value::Words(words) => f.write_str(&words.join(", ")),
            Value::Flag(flag) => write!(f, "{flag}"),
            // What comes after the host is as good as a password with most services.
            Value::Secret(text) => match text.split_once("://") {
                Some((scheme, rest)) if is_address(text) => {
                    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
                    write!(f, "{scheme}://{}/…", host.rsplit('@').next().unwrap_or_default())
                }
                _ => f.write_str(text),
            },
        }
    }
}
