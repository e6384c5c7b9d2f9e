//! Agent backends: how a planned session becomes a program to run, files to
//! write first, and changes to its environment. Nothing here starts a process
//! or writes a file; the reads are the agent CLI's own configuration.

pub mod claude;
pub mod command;
pub mod environment;

use std::io;
use std::path::{Path, PathBuf};

use crate::base::layout::Layout;
use crate::base::process;
use crate::host::spec::{EnvChange, HostFolder, HostSpec, Spool, TerminalSize};
use crate::model::effect::Start;
use crate::model::limits;
use crate::model::plan::Agent;
use crate::model::session::{Exit, GaveUp};
use crate::model::stage::BlockCode;
use crate::model::usage::Usage;

use claude::pulse;
use environment::Environment;

/// Files that agent CLIs and their sandboxes leave in a worktree and that are nobody's
/// work: for the excludes file, relative to the top of the worktree.
pub const EXCLUDES: [&str; 2] = ["/.claude/settings.local.json", "/.claude/worktrees"];

/// The paths of one sandbox, absolute.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Walls {
    pub allow_write: Vec<PathBuf>,
    /// Also for the client's own tools.
    pub deny_read: Vec<PathBuf>,
    /// Hidden from the shell only; the client's other tools may look.
    pub hidden: Vec<PathBuf>,
    /// Read-only in what is hidden or writable.
    pub shown: Vec<PathBuf>,
    /// Read-only for the shell; the guard speaks for the client's other tools.
    pub frozen: Vec<PathBuf>,
    /// Read-only for every tool.
    pub deny_write: Vec<PathBuf>,
}

/// What has to be written before the host is started, and what the host runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    pub spec: HostSpec,
}

/// A file of the session, outside the worktree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchFile {
    pub path: PathBuf,
    pub content: String,
}

/// Why no session of a backend can start before a person has acted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Unfit {
    pub code: BlockCode,
    /// What is wrong and what to type.
    pub text: String,
}

/// Checks, without starting anything, that a session of `agent` would come up without a question
/// in a worktree of `project`, the user's checkout.
pub fn preflight(agent: &Agent, environment: &Environment, project: &Path) -> Result<(), Unfit> {
    match agent {
        Agent::Command { .. } => Ok(()),
        Agent::Claude { mode, .. } => {
            claude::preflight::check(environment, *mode, project)?;
            hooks_are_there()
        }
    }
}

/// A session whose hooks call nothing could neither be let do anything nor be told what is asked.
fn hooks_are_there() -> Result<(), Unfit> {
    match process::installed_binary() {
        Ok(loom) if !loom.exists() => {
            let text =
                format!("`{}` is gone, and agents call it: install Loom there again, then `loom run`", loom.display());
            Err(Unfit { code: BlockCode::AgentMissing, text })
        }
        _ => Ok(()),
    }
}

/// Turns a planned session into what its host runs. `loom` is what the session calls.
pub fn launch(start: &Start, layout: &Layout, loom: &Path, environment: &Environment) -> io::Result<Launch> {
    let mut launch = match &start.agent {
        Agent::Command { run } => command::launch(run),
        Agent::Claude { mode, model, effort } => {
            let request = claude::Request {
                stage: &start.stage,
                mode: *mode,
                model: model.as_deref(),
                effort: effort.as_deref(),
                conversation: &start.conversation,
                permission_mode: start.permission_mode,
            };
            claude::launch(&request, &layout.session(&start.session), environment)
        }
    };
    let worktree = layout.worktree(&start.worktree);
    let mut env = session_env(start, layout, loom, environment);
    env.append(&mut launch.env);
    let attach_socket = match launch.terminal {
        Some(_) => Some(layout.host_socket(&start.session)?),
        None => None,
    };
    let spec = HostSpec {
        argv: launch.argv,
        cwd: if launch.starts_in_working_dir { worktree.join(&start.working_dir) } else { worktree },
        env,
        terminal: launch.terminal,
        timeout_ms: u64::try_from(start.timeout.as_millis()).unwrap_or(u64::MAX),
        log_bytes_max: limits::LOG_BYTES_MAX,
        ends_with_daemon: false,
        // An operator's own command is not watched that closely: a group costs milliseconds at the start.
        own_cgroup: matches!(start.agent, Agent::Claude { .. }),
        attach_socket,
        spool: Some(Spool {
            outbox: layout.outbox(&start.session),
            daemon_record: layout.daemon_record(),
            token_file: layout.token(&start.session),
        }),
    };
    Ok(Launch { spec })
}

/// The files that the agent of `launch` reads when it starts. `walls` go with a sandbox.
pub fn files(start: &Start, layout: &Layout, loom: &Path, environment: &Environment, walls: &Walls) -> Vec<LaunchFile> {
    match &start.agent {
        Agent::Command { .. } => Vec::new(),
        Agent::Claude { .. } => {
            let sandbox = start.sandbox.as_ref().map(|sandbox| (sandbox, walls));
            claude::files(&layout.session(&start.session), loom, environment, &start.conversation, sandbox)
        }
    }
}

/// Settings for the worktree, for an agent that a person opens there by hand; none where the
/// backend has no such thing. Loom's own sessions do not read them.
pub fn by_hand_settings(agent: &Agent) -> io::Result<Option<String>> {
    match agent {
        Agent::Command { .. } => Ok(None),
        Agent::Claude { .. } => {
            let settings = claude::settings::render_by_hand(&process::installed_binary()?);
            Ok(Some(serde_json::to_string_pretty(&settings)?))
        }
    }
}

/// Why the session in `dir` ended with `exit`, if its client said that it gave up.
pub fn gave_up(dir: &Path, exit: Exit) -> Option<GaveUp> {
    let spec: HostSpec = serde_json::from_slice(&fs_err::read(HostFolder::new(dir).spec()).ok()?).ok()?;
    let is_claude = spec.argv.first().is_some_and(|program| program == claude::PROGRAM);
    if is_claude { claude::gave_up(dir, &spec, exit) } else { None }
}

/// What a session's client has left in its own records.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Traces {
    pub usage: Option<Usage>,
    /// The last thing that the model said.
    pub last_words: Option<String>,
}

/// Reads what the session in `dir` left; none for a backend without records of its own.
pub fn traces(dir: &Path) -> Option<Traces> {
    let spec: HostSpec = serde_json::from_slice(&fs_err::read(HostFolder::new(dir).spec()).ok()?).ok()?;
    let is_claude = spec.argv.first().is_some_and(|program| program == claude::PROGRAM);
    is_claude.then(|| claude::traces(dir, &spec))
}

/// The last sign of life of the session in `dir`, which began at `since`, and what it is doing;
/// none: nobody can tell. `pids`: the processes of its host.
pub fn sign_of_life(dir: &Path, since: jiff::Timestamp, pids: &[u32]) -> Option<pulse::Sign> {
    let spec: HostSpec = serde_json::from_slice(&fs_err::read(HostFolder::new(dir).spec()).ok()?).ok()?;
    let is_claude = spec.argv.first().is_some_and(|program| program == claude::PROGRAM);
    is_claude.then(|| pulse::sign(dir, &spec, since, pids))
}

/// The part of a launch that a backend decides.
struct BackendLaunch {
    argv: Vec<String>,
    env: Vec<EnvChange>,
    terminal: Option<TerminalSize>,
    /// Whether it starts in the stage's `working_dir` and not at the top of the worktree.
    starts_in_working_dir: bool,
}

/// Variables that point git at another repository; a hook or an alias may have set them for Loom.
const GIT_LEAKS: [&str; 8] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_COMMON_DIR",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
];

/// What every session finds in its environment, whatever runs in it.
fn session_env(start: &Start, layout: &Layout, loom: &Path, environment: &Environment) -> Vec<EnvChange> {
    let mut env: Vec<EnvChange> = GIT_LEAKS.into_iter().map(remove).collect();
    env.push(set("LOOM_PROJECT", layout.project.display()));
    env.push(set("LOOM_STAGE", &start.stage));
    env.push(set("LOOM_SESSION", &start.session));
    env.push(set("LOOM_ATTEMPT", start.attempt));
    env.push(set("LOOM_SIGNAL", layout.signal(&start.session).display()));
    env.push(set("LOOM_SLOT", start.slot));
    env.push(set("LOOM_PORT_BASE", port_base(&layout.project_key(), start.slot)));
    env.push(set("LOOM_PORT_COUNT", limits::PORTS_PER_SLOT));
    env.push(set("COMPOSE_PROJECT_NAME", format!("loom-{}-{}", &layout.project_key()[..6], start.slot)));
    env.push(set("LOOM_TOKEN_FILE", layout.token(&start.session).display()));
    // The agent runs in a worktree: a relative override would name another folder there.
    if layout.work != layout.project.join(".work") {
        env.push(set("LOOM_WORK_DIR", layout.work.display()));
    }
    if !start.auto_allow {
        env.push(set("LOOM_AUTO_ALLOW", 0));
    }
    if start.sandbox.is_some() {
        // The user's own caches are read-only for a sandboxed shell.
        let caches = layout.caches(&start.stage);
        env.push(set("XDG_CACHE_HOME", caches.display()));
        env.push(set("npm_config_cache", caches.join("npm").display()));
    }
    env.push(set("GIT_PAGER", "cat"));
    env.push(set("PAGER", "cat"));
    env.push(set("GIT_TERMINAL_PROMPT", "0"));
    let excludes = if start.sandbox.is_some() { layout.sandbox_excludes() } else { layout.excludes() };
    env.extend(git_config(&excludes, environment));
    let programs = start.sandbox.as_ref().map(|_| layout.programs(&start.session));
    env.extend(path_with(loom, environment, programs.as_deref()));
    env
}

/// The first port of a slot's block. Blocks of one project never meet; projects start at one of
/// several places, by their key.
fn port_base(project_key: &str, slot: u32) -> u32 {
    let key = u32::from_str_radix(&project_key[..6], 16).unwrap_or(0);
    let slots = limits::PARALLEL_MAX;
    let place = key % limits::PORT_PLACES * slots;
    limits::PORT_FIRST + (place + slot % slots) * limits::PORTS_PER_SLOT
}

/// Git configuration for the session's children, after what the user gave the same way.
fn git_config(excludes: &Path, environment: &Environment) -> Vec<EnvChange> {
    let excludes = excludes.display().to_string();
    let settings = [
        ("core.fsync", "all"),
        ("core.excludesFile", excludes.as_str()),
        ("commit.gpgsign", "false"),
        process::NO_MAINTENANCE,
    ];
    let before: usize = environment.get("GIT_CONFIG_COUNT").and_then(|count| count.parse().ok()).unwrap_or(0);
    process::git_settings(before, &settings).into_iter().map(|(name, value)| set(&name, value)).collect()
}

/// Makes `loom` mean this binary, when it does not already; `before` goes first.
fn path_with(loom: &Path, environment: &Environment, before: Option<&Path>) -> Option<EnvChange> {
    let same = |found: &Path| found.canonicalize().ok() == loom.canonicalize().ok();
    let is_there = environment.find_program("loom").is_some_and(|found| same(&found));
    if is_there && before.is_none() {
        return None;
    }
    let mut dirs: Vec<String> = before.iter().map(|dir| dir.display().to_string()).collect();
    dirs.extend(loom.parent().filter(|_| !is_there).map(|dir| dir.display().to_string()));
    dirs.push(match environment.get("PATH") {
        Some(path) if !path.is_empty() => path.to_owned(),
        _ => "/usr/local/bin:/usr/bin:/bin".to_owned(),
    });
    Some(set("PATH", dirs.join(":")))
}

fn set(name: &str, value: impl ToString) -> EnvChange {
    EnvChange::Set { name: name.to_owned(), value: value.to_string() }
}

fn remove(name: &str) -> EnvChange {
    EnvChange::Remove { name: name.to_owned() }
}

#[cfg(test)]
mod tests;
