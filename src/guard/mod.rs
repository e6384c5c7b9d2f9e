//! The policy for an agent's tool calls: what is plainly inside the session's
//! own worktree is allowed without asking anybody, what would reach others or
//! Loom itself is refused with the thing to do instead.
//!
//! This is a rail, not a wall: a script that the agent writes and runs is not
//! read. What must hold against a hostile process is held elsewhere: rights by
//! the daemon, refs and configuration by their fingerprints, results by the
//! proof checkout.

mod command;
mod git;
mod place;
mod shell;

use std::path::Path;

use serde_json::Value;

use place::{Ground, Place};

/// What Loom says about a tool call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may run without further questions.
    Allow,
    /// It must not run; the reason says what to do instead.
    Deny(String),
    /// The agent client decides, by the user's own rules.
    NoOpinion,
}

/// Where a call is made.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    /// The session's own worktree.
    pub worktree: &'a Path,
    /// The user's checkout.
    pub project: &'a Path,
    /// Where relative paths start: the client's shell keeps its folder between calls.
    pub cwd: &'a Path,
    /// Whether the commit that the worktree is on has landed, or is where the stage started.
    pub head_has_landed: &'a dyn Fn() -> bool,
}

/// Judges one tool call.
pub fn judge(tool: &str, input: &Value, scene: &Scene) -> Verdict {
    let (ground, cwd) = (Ground::new(scene), scene.cwd);
    match tool {
        "Bash" => match input["command"].as_str() {
            Some(line) => match command::refusal(line, &ground, cwd) {
                Some(reason) => Verdict::Deny(reason),
                None => Verdict::Allow,
            },
            None => Verdict::NoOpinion,
        },
        "Write" | "Edit" | "MultiEdit" => judge_write(&input["file_path"], &ground, cwd),
        "NotebookEdit" => judge_write(&input["notebook_path"], &ground, cwd),
        // The shell reads all of this too; a question about it would only stop the work.
        "Read" | "Glob" | "Grep" | "LS" | "NotebookRead" | "WebFetch" | "WebSearch" => Verdict::Allow,
        "EnterWorktree" | "ExitWorktree" => {
            Verdict::Deny("Loom made a worktree for this stage and merges it: stay in it.".to_owned())
        }
        _ => Verdict::NoOpinion,
    }
}

fn judge_write(path: &Value, ground: &Ground, cwd: &Path) -> Verdict {
    let Some(path) = path.as_str().filter(|path| !path.is_empty()) else { return Verdict::NoOpinion };
    match ground.place(&cwd.join(path)) {
        Place::Worktree | Place::Temporary => Verdict::Allow,
        place => Verdict::Deny(write_refusal(path, place, ground)),
    }
}

/// Why `path` cannot be written, and what can.
fn write_refusal(path: &str, place: Place, ground: &Ground) -> String {
    format!(
        "`{path}` is in {}: write only inside your worktree, {}, outside of `.git` and `.claude/settings*`.",
        place.name(),
        ground.worktree.display()
    )
}

#[cfg(test)]
mod tests;
