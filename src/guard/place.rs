//! Where a path is, as far as an agent's rights go.

use std::path::{Component, Path, PathBuf};

use super::Scene;
use super::shell::{Part, Word};

/// The folders of one session, without links in their names.
pub(super) struct Ground<'a> {
    pub(super) worktree: PathBuf,
    pub(super) project: PathBuf,
    /// Asked only where it matters: it opens the repository.
    pub(super) head_has_landed: &'a dyn Fn() -> bool,
}

/// Whose a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// The session's own.
    Worktree,
    /// For anybody's short-lived files.
    Temporary,
    /// The agent client's settings in the worktree, which switch hooks on and off.
    AgentSettings,
    /// Inside some `.git`: hooks, configuration, refs.
    GitInternals,
    /// Loom's journal and sessions.
    State,
    OtherWorktree,
    /// The user's checkout.
    Project,
    /// Anywhere else on the machine.
    Elsewhere,
}

impl Place {
    /// Whether writing there would harm others or the rules themselves.
    pub(super) fn is_protected(self) -> bool {
        !matches!(self, Place::Worktree | Place::Temporary | Place::Elsewhere)
    }
    /// The place in words.
    pub(super) fn name(self) -> &'static str {
        match self {
            Place::Worktree => "your worktree",
            Place::Temporary => "the temporary folder",
            Place::AgentSettings => "the agent's settings",
            Place::GitInternals => "the inside of `.git`, which all worktrees share",
            Place::State => "Loom's state folder",
            Place::OtherWorktree => "the worktree of another stage",
            Place::Project => "the user's own checkout",
            Place::Elsewhere => "a folder outside your worktree",
        }
    }
}

impl Ground<'_> {
    pub(super) fn new<'a>(scene: &Scene<'a>) -> Ground<'a> {
        Ground { worktree: real(scene.worktree), project: real(scene.project), head_has_landed: scene.head_has_landed }
    }
    /// Whose `path` is; it must be absolute.
    pub(super) fn place(&self, path: &Path) -> Place {
        let path = real(path);
        if let Ok(inside) = path.strip_prefix(&self.worktree) {
            return place_in_worktree(inside);
        }
        if let Ok(inside) = path.strip_prefix(&self.project) {
            let first = inside.components().next().map(Component::as_os_str);
            return match first.and_then(|first| first.to_str()) {
                Some(".work") => Place::State,
                Some(".worktrees") => Place::OtherWorktree,
                Some(".git") => Place::GitInternals,
                _ => Place::Project,
            };
        }
        // Removing or replacing a folder above takes the project with it.
        if self.project.starts_with(&path) {
            return Place::Project;
        }
        // A home below a temporary folder is still a home, but for the temporary folder in it.
        let scratch = real(&std::env::temp_dir());
        if let Some(home) = std::env::var_os("HOME").map(|home| real(Path::new(&home))) {
            let is_scratch = path.starts_with(&scratch) && scratch.starts_with(&home);
            if !is_scratch && (home.starts_with(&path) || path.starts_with(&home)) {
                return Place::Elsewhere;
            }
        }
        let temporary = [PathBuf::from("/tmp"), PathBuf::from("/var/tmp"), scratch];
        let device = ["/dev/null", "/dev/stdout", "/dev/stderr", "/dev/tty", "/dev/fd"];
        if temporary.iter().any(|dir| path.starts_with(dir)) || device.iter().any(|device| path.starts_with(device)) {
            return Place::Temporary;
        }
        Place::Elsewhere
    }
    /// Whether `path` is the worktree itself.
    pub(super) fn is_top(&self, path: &Path) -> bool {
        real(path) == self.worktree
    }
    /// The path that a word of a command names in `dir`; none when that depends on a value nobody knows.
    pub(super) fn resolve(&self, word: &Word, dir: &Path) -> Option<PathBuf> {
        let mut text = String::new();
        for (index, part) in word.parts.iter().enumerate() {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Value(Some(name)) => match self.value(name, dir) {
                    Some(value) => text.push_str(&value),
                    None if index == 0 => return None,
                    None => text.push('?'),
                },
                Part::Value(None) if index == 0 => return None,
                Part::Value(None) => text.push('?'),
            }
        }
        (!text.is_empty()).then(|| dir.join(text))
    }
    fn value(&self, name: &str, dir: &Path) -> Option<String> {
        let path = match name {
            "PWD" => dir.to_path_buf(),
            "CLAUDE_PROJECT_DIR" => self.worktree.clone(),
            "LOOM_PROJECT" => self.project.clone(),
            "LOOM_SIGNAL" | "LOOM_TOKEN_FILE" | "LOOM_WORK_DIR" => self.project.join(".work"),
            "TMPDIR" => PathBuf::from("/tmp"),
            // Which folder it is does not matter: it is not the worktree.
            "HOME" => PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())),
            _ => return None,
        };
        Some(path.display().to_string())
    }
    /// The stage's branch, after the name of its folder (`<stage>` or `<stage>.<attempt>`).
    pub(super) fn branch(&self) -> String {
        let folder = self.worktree.file_name().unwrap_or_default().to_string_lossy();
        format!("loom/{}", folder.split('.').next().unwrap_or_default())
    }
}

fn place_in_worktree(inside: &Path) -> Place {
    let names: Vec<_> = inside.components().map(|part| part.as_os_str().to_string_lossy().to_lowercase()).collect();
    if names.iter().any(|name| name == ".git") {
        return Place::GitInternals;
    }
    let is_settings = |pair: &[String]| pair[0] == ".claude" && pair[1].starts_with("settings");
    if names.windows(2).any(is_settings) { Place::AgentSettings } else { Place::Worktree }
}

/// `path` without `.`, `..` and links, as far as it exists.
fn real(path: &Path) -> PathBuf {
    let path = tidied(path);
    let mut rest = Vec::new();
    let mut known = path.as_path();
    loop {
        if let Ok(found) = known.canonicalize() {
            return rest.iter().rev().fold(found, |found, name| found.join(name));
        }
        match (known.parent(), known.file_name()) {
            (Some(parent), Some(name)) => {
                rest.push(name);
                known = parent;
            }
            _ => return path,
        }
    }
}

fn tidied(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            part => out.push(part),
        }
    }
    out
}
