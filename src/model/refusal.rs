//! A request that was not carried out: what, why, and what to type next.

use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{what}")]
pub struct Refusal {
    pub kind: RefusalKind,
    /// What was refused, present tense, subject in backticks.
    pub what: String,
    /// Why, most specific first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub why: Vec<String>,
    /// Commands that help, most likely first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
}

/// Decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalKind {
    /// The request makes no sense now, or never did.
    User,
    /// The work itself is not good enough.
    Work,
    /// A person has to answer first.
    Waiting,
    /// The caller may not ask for this.
    Rights,
    /// Loom itself could not do it.
    Internal,
}

impl Refusal {
    pub fn user(what: impl Into<String>) -> Self {
        Self::new(RefusalKind::User, what)
    }
    pub fn new(kind: RefusalKind, what: impl Into<String>) -> Self {
        Refusal { kind, what: what.into(), why: Vec::new(), hints: Vec::new() }
    }
    #[must_use]
    pub fn because(mut self, why: impl Into<String>) -> Self {
        self.why.push(why.into());
        self
    }
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
    #[must_use]
    pub fn hints(mut self, hints: impl IntoIterator<Item = String>) -> Self {
        self.hints.extend(hints);
        self
    }
}
