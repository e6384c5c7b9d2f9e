//! The sandbox around an agent's shell: whether this machine can make one, and
//! the paths of one session. The agent's client makes it; what it may not let
//! through is decided here.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::agent::environment::Environment;
use crate::agent::{Unfit, Walls, claude};
use crate::base::layout::Layout;
use crate::base::process;
use crate::git::{Fence, Git, GitError};
use crate::model::effect::Start;
use crate::model::ids::SessionId;
use crate::model::sandbox::Sandbox;
use crate::model::stage::BlockCode;

/// Where people keep what opens other doors, below their home.
const SECRETS: [&str; 12] = [
    ".ssh",
    ".aws",
    ".gnupg",
    ".config/gcloud",
    ".config/gh",
    ".config/git/credentials",
    ".azure",
    ".kube",
    ".netrc",
    ".git-credentials",
    ".docker/config.json",
    ".claude/.credentials.json",
];

/// Settings of a project that name programs which the client runs outside the sandbox.
const RUNS_OUTSIDE: [&str; 5] = ["hooks", "statusLine", "apiKeyHelper", "awsAuthRefresh", "awsCredentialExport"];

/// Says what is missing on this machine for a sandbox, if anything is. Starts an empty one.
pub fn check(environment: &Environment) -> Result<(), Unfit> {
    let missing: Vec<&str> =
        ["bwrap", "socat"].into_iter().filter(|name| environment.find_program(name).is_none()).collect();
    if !missing.is_empty() {
        let names = crate::base::text::list(missing);
        return Err(unfit(&format!("{names} not in PATH (`apt-get install bubblewrap socat`)")));
    }
    let mut bwrap = process::command("bwrap");
    bwrap.args(["--ro-bind", "/", "/", "--dev", "/dev", "--unshare-net", "--unshare-pid", "--proc", "/proc", "--"]);
    let output = bwrap.arg("true").stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(unfit(&format!("`bwrap` cannot make one: {}", said.lines().last().unwrap_or("it does not say why"))))
        }
        Err(error) => Err(unfit(&format!("`bwrap` cannot be run: {error}"))),
    }
}

fn unfit(why: &str) -> Unfit {
    let text = format!(
        "there is no sandbox for the agents' shells: {why}. Mend that, then `loom run`; or say `loom run --no-sandbox`: \
         agents may then do what you may"
    );
    Unfit { code: BlockCode::SandboxMissing, text }
}

/// The paths of a session's sandbox. Its worktree is there.
pub(super) fn walls(layout: &Layout, git: &Git, start: &Start, sandbox: &Sandbox) -> Result<Walls, WallsError> {
    let worktree = layout.worktree(&start.worktree);
    let environment = Environment::of_this_process();
    let ground = Ground { home: environment.home(), worktree: &worktree };
    let allowed: Vec<PathBuf> = sandbox.allow_write.iter().map(|path| ground.resolve(path)).collect();
    for (path, written) in allowed.iter().zip(&sandbox.allow_write) {
        if let Some(what) = opened_by(path, layout, git, &worktree, &environment) {
            let text = format!(
                "`allow_write` of stage `{}` has `{written}`, which would open {what}: name the folders that the work \
                 needs, and load the plan again",
                start.stage
            );
            return Err(WallsError::Unfit(Unfit { code: BlockCode::SandboxMissing, text }));
        }
    }
    let siblings: Vec<&str> = start.siblings.iter().map(|stage| stage.as_str()).collect();
    let Fence { mut writable, mut hidden, shown, mut frozen } =
        git.fence(&worktree, start.stage.as_str(), &siblings)?;
    let caches = layout.caches(&start.stage);
    fs_err::create_dir_all(&caches)?;
    writable.extend([layout.outbox(&start.session), caches]);
    writable.extend(allowed);
    // Every session's token lies there; the outbox is all that an agent needs of its own.
    hidden.push(layout.sessions());
    hidden.extend(layout.sockets().ok());
    frozen.extend([layout.work.clone(), layout.cache()]);
    let mut deny_write: Vec<PathBuf> = sandbox.deny_write.iter().map(|path| ground.resolve(path)).collect();
    deny_write.extend(run_outside(&worktree));
    deny_write.retain(|path| path.exists());
    let mut deny_read: Vec<PathBuf> = sandbox.deny_read.iter().map(|path| ground.resolve(path)).collect();
    deny_read.extend(ground.home.iter().flat_map(|home| SECRETS.map(|name| home.join(name))));
    Ok(Walls { allow_write: writable, deny_read, hidden, shown, frozen, deny_write })
}

/// Puts a `bwrap` before the real one. Run by root that would leave its child the right to take
/// the walls down again. And the client opens the folder that all worktrees share as a whole, in
/// which a new file can do much harm (`commondir`, `MERGE_HEAD`, `shallow`): it is closed again
/// after all mounts, but for what is a mount of its own.
pub(super) fn put_before(layout: &Layout, git: &Git, session: &SessionId) -> std::io::Result<()> {
    let missing = || std::io::Error::new(std::io::ErrorKind::NotFound, "bwrap is not in PATH");
    let real = process::find_program("bwrap").ok_or_else(missing)?;
    let quoted = |path: &Path| -> std::io::Result<String> {
        let path = path.display().to_string();
        Ok(shlex::try_quote(&path).map_err(std::io::Error::other)?.into_owned())
    };
    let dir = layout.programs(session);
    fs_err::create_dir_all(&dir)?;
    let path = dir.join("bwrap");
    let script =
        format!("#!/bin/sh\nreal={}\nshared={}\n{}", quoted(&real)?, quoted(&git.common)?, include_str!("bwrap.sh"));
    crate::base::fs::write_atomic(&path, script.as_bytes())?;
    fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
}

/// Why there are no walls.
#[derive(Debug, thiserror::Error)]
pub(super) enum WallsError {
    #[error(transparent)]
    Unfit(#[from] Unfit),
    #[error(transparent)]
    Git(#[from] GitError),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Where authored paths start.
struct Ground<'a> {
    home: Option<PathBuf>,
    worktree: &'a Path,
}

impl Ground<'_> {
    fn resolve(&self, path: &str) -> PathBuf {
        let below = path.strip_prefix('~').map(|rest| rest.trim_start_matches('/'));
        match (below, &self.home) {
            (Some(""), Some(home)) => home.clone(),
            (Some(rest), Some(home)) => home.join(rest),
            _ => self.worktree.join(path),
        }
    }
}

/// What must stay closed and would be open if `path` could be written.
fn opened_by(
    path: &Path,
    layout: &Layout,
    git: &Git,
    worktree: &Path,
    environment: &Environment,
) -> Option<&'static str> {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    if path.starts_with(worktree) && !path.starts_with(worktree.join(".git")) {
        return None;
    }
    let home = environment.home();
    let closed = [
        (Some(layout.work.clone()), "Loom's own state"),
        (Some(layout.worktrees()), "the worktrees of other stages"),
        (Some(git.common.clone()), "the repository that all stages share"),
        (Some(layout.cache()), "the proof checkout"),
        (claude::config_dir(environment), "the settings of the agent itself"),
        (home.as_ref().map(|home| home.join(".ssh")), "your keys"),
        (Some(layout.project.clone()), "your own checkout"),
    ];
    let meets = |closed: &Path| closed.starts_with(&path) || path.starts_with(closed);
    closed.into_iter().find(|(closed, _)| closed.as_deref().is_some_and(meets)).map(|(_, what)| what)
}

/// Files of the worktree that the project's settings have run outside the sandbox.
fn run_outside(worktree: &Path) -> Vec<PathBuf> {
    let settings = fs_err::read_to_string(worktree.join(".claude/settings.json")).unwrap_or_default();
    let settings: serde_json::Value = serde_json::from_str(&settings).unwrap_or_default();
    let mut todo: Vec<&serde_json::Value> = RUNS_OUTSIDE.iter().map(|name| &settings[*name]).collect();
    let mut found = Vec::new();
    while let Some(value) = todo.pop() {
        match value {
            serde_json::Value::String(text) => {
                let words = text.split(|c: char| c.is_whitespace() || "\"';&|()".contains(c));
                let below = ["$CLAUDE_PROJECT_DIR/", "${CLAUDE_PROJECT_DIR}/", "./"];
                found.extend(
                    words
                        .map(|word| below.iter().find_map(|top| word.strip_prefix(top)).unwrap_or(word))
                        .filter(|word| !word.is_empty())
                        .map(|word| worktree.join(word))
                        .filter(|path| path.is_file() && path.starts_with(worktree)),
                );
            }
            serde_json::Value::Array(items) => todo.extend(items),
            serde_json::Value::Object(fields) => todo.extend(fields.values()),
            _ => {}
        }
    }
    found.sort();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_settings_run_outside_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, text).unwrap();
        };
        write("tools/check.sh", "");
        write("tools/line.py", "");
        write("src/main.rs", "");
        write(
            ".claude/settings.json",
            r#"{"hooks":{"PreToolUse":[{"hooks":[{"command":"bash \"$CLAUDE_PROJECT_DIR\"/x; sh $CLAUDE_PROJECT_DIR/tools/check.sh --all"}]}]},
                "statusLine":{"command":"./tools/line.py"},"permissions":{"allow":["Edit src/main.rs"]}}"#,
        );
        assert_eq!(run_outside(dir.path()), [dir.path().join("tools/check.sh"), dir.path().join("tools/line.py")]);
        assert_eq!(run_outside(Path::new("/nowhere")), Vec::<PathBuf>::new());
    }

    #[test]
    fn what_is_closed_cannot_be_opened() {
        let layout = Layout { project: "/h/u/p".into(), work: "/h/u/p/.work".into() };
        let git = Git { project: "/h/u/p".into(), common: "/h/u/p/.git".into(), excludes: PathBuf::new() };
        let environment: Environment = [("HOME", "/h/u")].into_iter().collect();
        let opened =
            |path: &str| opened_by(Path::new(path), &layout, &git, Path::new("/h/u/p/.worktrees/api"), &environment);
        for path in
            ["/", "/h/u", "/h/u/p", "/h/u/p/.work/x", "/h/u/p/.git", "/h/u/.ssh/id", "/h/u/.claude", "/h/u/p/src"]
        {
            assert!(opened(path).is_some(), "{path}");
        }
        for path in ["/h/u/.cargo/registry", "/h/u/p/.worktrees/api/target", "/srv/data"] {
            assert_eq!(opened(path), None, "{path}");
        }
    }
}
