//! Files that judge: what decides whether work is good. A stage that changed one
//! of them does not land without a person.

use serde::{Deserialize, Serialize};

/// A file that judges and that a stage changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touched {
    /// Relative to the top of the tree.
    pub path: String,
    /// What it is and what became of it, for a person.
    pub why: String,
}

/// One path in the difference of two trees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Relative to the top of the tree.
    pub path: String,
    /// Mode and object before; none: it is new.
    pub old: Option<Side>,
    /// Mode and object after; none: it is deleted.
    pub new: Option<Side>,
}

/// One side of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// As git has it: 0o100644, 0o100755, 0o120000 (link), 0o160000 (submodule).
    pub mode: u32,
    /// The object's id.
    pub id: String,
}
