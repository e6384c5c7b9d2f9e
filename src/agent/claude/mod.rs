//! Claude Code. Interactive in the host's terminal by default, `-p` when
//! headless. Everything Loom wants of it is in its arguments, its environment
//! and one settings file in the session's folder: nothing is written into the
//! worktree, nothing into the user's own configuration.

pub mod gauge;
pub mod hooks;
pub mod preflight;
pub mod pulse;
pub mod settings;
pub mod stream;

use std::path::{Path, PathBuf};

use sha2::Digest;

use super::environment::Environment;
use super::{BackendLaunch, LaunchFile, Traces, Walls, remove, set};
use crate::host::logs;
use crate::host::spec::{EnvChange, HostFolder, HostSpec, TerminalSize};
use crate::model::ids::StageId;
use crate::model::plan::AgentMode;
use crate::model::sandbox::{PermissionMode, Sandbox};
use crate::model::session::{Exit, GaveUp};

/// The program, looked up in `PATH`.
pub const PROGRAM: &str = "claude";

/// The terminal of an interactive session until somebody attaches.
pub const TERMINAL: TerminalSize = TerminalSize { rows: 40, cols: 120 };

/// The name under which the user's API key reaches the helper that hands it over.
/// Under its own name an interactive client asks whether it may use it.
pub const RENAMED_KEY: &str = "LOOM_ANTHROPIC_API_KEY";

/// What a session of Claude Code needs to know.
pub(super) struct Request<'a> {
    pub(super) stage: &'a StageId,
    pub(super) mode: AgentMode,
    pub(super) model: Option<&'a str>,
    pub(super) effort: Option<&'a str>,
    /// A UUID: the client's own session id. Whether it is resumed is what the client's files
    /// say, not what was planned: it may have left none, or may have been started before.
    pub(super) conversation: &'a str,
    pub(super) permission_mode: Option<PermissionMode>,
}

pub(super) fn launch(request: &Request, session: &Path, environment: &Environment) -> BackendLaunch {
    let key = KeyUse::of(environment);
    let file = settings_path(session);
    let (conversation, resumes) = Conversation::resolve(environment, request.conversation);
    BackendLaunch {
        argv: argv(request, &file, &conversation, resumes),
        env: env(request.mode, key),
        terminal: match request.mode {
            AgentMode::Interactive => Some(TERMINAL),
            AgentMode::Headless => None,
        },
        starts_in_working_dir: false,
    }
}

fn settings_path(session: &Path) -> PathBuf {
    session.join("claude-settings.json")
}

/// The settings of a session, which the client reads when it starts, and where a conversation
/// that is resumed stands.
pub(super) fn files(
    session: &Path,
    loom: &Path,
    environment: &Environment,
    conversation: &str,
    sandbox: Option<(&Sandbox, &Walls)>,
) -> Vec<LaunchFile> {
    let settings = settings::render(loom, KeyUse::of(environment) == KeyUse::Renamed, sandbox);
    let mut files = vec![LaunchFile { path: settings_path(session), content: format!("{settings:#}\n") }];
    let (conversation, _) = Conversation::resolve(environment, conversation);
    if let Conversation::Resumable(transcript) = Conversation::of(environment, &conversation) {
        // What was used before was another session's.
        let content = gauge::Gauge::resuming(&transcript).to_json();
        files.push(LaunchFile { path: session.join("gauge.json"), content });
    }
    files
}

/// Values from the plan are joined to their option, so that none can become an option itself.
fn argv(request: &Request, settings: &Path, conversation: &str, resumes: bool) -> Vec<String> {
    let mut argv = vec![PROGRAM.to_owned()];
    match request.mode {
        AgentMode::Interactive => {}
        AgentMode::Headless => {
            argv.extend(["-p", "--output-format", "stream-json", "--verbose"].map(str::to_owned));
        }
    }
    // The client restores the conversation and nothing else: every other option is given again.
    argv.push(format!("{}={conversation}", if resumes { "--resume" } else { "--session-id" }));
    if let Some(model) = request.model {
        argv.push(format!("--model={model}"));
    }
    if let Some(effort) = request.effort {
        argv.push(format!("--effort={effort}"));
    }
    let mode = match request.permission_mode {
        Some(PermissionMode::Auto) => "auto",
        Some(PermissionMode::Plan) => "plan",
        Some(PermissionMode::Default) => "default",
        Some(PermissionMode::AcceptEdits) | None => "acceptEdits",
    };
    argv.push(format!("--permission-mode={mode}"));
    argv.push(format!("--settings={}", settings.display()));
    // Without `local`: an agent could write that file, and it would count in its own session.
    argv.push("--setting-sources=user,project".to_owned());
    // A repository must not start servers by being checked out, and the client would ask about them.
    argv.push("--strict-mcp-config".to_owned());
    argv.push(prompt(request.stage, resumes));
    argv
}

/// The first message of a session: where the assignment is and how to hand the work in.
pub fn prompt(stage: &StageId, resumes: bool) -> String {
    let template = if resumes { include_str!("resume.md") } else { include_str!("start.md") };
    template.trim_end().replace("{stage}", stage.as_str())
}

/// What the model is told at the start of a session and again after every compaction.
pub fn standing_orders(stage: &StageId) -> String {
    include_str!("orders.md").trim_end().replace("{stage}", stage.as_str())
}

/// Marks of a client that Loom itself may have been started from.
const OUTER_SESSION: [&str; 7] = [
    "CLAUDECODE",
    "CLAUDE_CODE_ENTRYPOINT",
    "CLAUDE_CODE_CHILD_SESSION",
    "CLAUDE_CODE_SESSION_ID",
    "CLAUDE_PROJECT_DIR",
    "CLAUDE_EFFORT",
    "AI_AGENT",
];

fn env(mode: AgentMode, key: KeyUse) -> Vec<EnvChange> {
    let mut env: Vec<EnvChange> = OUTER_SESSION.into_iter().map(remove).collect();
    // The worktree is as trusted as the checkout that the user ran Loom in; nobody is there to say so again.
    env.push(set("CLAUDE_CODE_SANDBOXED", 1));
    // All worktrees of a repository share one memory folder in the user's home.
    env.push(set("CLAUDE_CODE_DISABLE_AUTO_MEMORY", 1));
    env.push(set("DISABLE_AUTOUPDATER", 1));
    // Otherwise a long conversation that is resumed after an hour may open with a question.
    env.push(set("CLAUDE_CODE_RESUME_THRESHOLD_MINUTES", 525_600));
    match key {
        KeyUse::Kept => {}
        KeyUse::Renamed => {
            env.push(EnvChange::Rename { from: "ANTHROPIC_API_KEY".to_owned(), to: RENAMED_KEY.to_owned() });
        }
        KeyUse::Withheld => env.push(remove("ANTHROPIC_API_KEY")),
    }
    if mode == AgentMode::Interactive {
        env.push(set("TERM", "xterm-256color"));
        env.extend(["TERM_PROGRAM", "TERM_PROGRAM_VERSION", "TMUX", "TMUX_PANE", "STY"].into_iter().map(remove));
    }
    env
}

/// What becomes of `ANTHROPIC_API_KEY`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyUse {
    /// There is none, or the user approved it in the client.
    Kept,
    /// The client has never asked about it and nobody is there to answer: it is handed over by a helper.
    Renamed,
    /// The user told the client not to use it; a helper would bill it behind their back.
    Withheld,
}

impl KeyUse {
    fn of(environment: &Environment) -> KeyUse {
        let Some(key) = environment.get("ANTHROPIC_API_KEY").filter(|key| !key.is_empty()) else {
            return KeyUse::Kept;
        };
        let config = preflight::global_config(environment);
        // The client remembers a key by its last 20 characters.
        let start = key.char_indices().rev().nth(19).map_or(0, |(at, _)| at);
        let has = |list: &str| {
            let answers = config.pointer(&format!("/customApiKeyResponses/{list}"));
            answers.and_then(|answers| answers.as_array()).is_some_and(|keys| keys.iter().any(|k| *k == key[start..]))
        };
        match () {
            () if has("approved") => KeyUse::Kept,
            () if has("rejected") => KeyUse::Withheld,
            () => KeyUse::Renamed,
        }
    }
}

/// What a client that ended said about why. In a terminal its hooks have told most of it.
pub(super) fn gave_up(dir: &Path, spec: &HostSpec, exit: Exit) -> Option<GaveUp> {
    let folder = HostFolder::new(dir);
    if spec.terminal.is_none()
        && let Ok(Some(outcome)) = stream::read(&[&folder.old_log(), &folder.log()])
    {
        return outcome.cause().gave_up();
    }
    match exit {
        Exit::Code { code } if code != 0 => {
            let words = logs::last_words(dir).ok().filter(|words| !words.is_empty())?;
            Some(GaveUp::Failed { text: format!("{exit}: {words}") })
        }
        _ => None,
    }
}

/// What a client that is over left in its transcript and its stream.
pub(super) fn traces(dir: &Path, spec: &HostSpec) -> Traces {
    let id = spec.argv.iter().find_map(|word| word.strip_prefix("--session-id=").or(word.strip_prefix("--resume=")));
    let environment = Environment::of_this_process();
    let transcript = match id.map(|id| Conversation::of(&environment, id)) {
        Some(Conversation::Resumable(transcript)) => Some(transcript),
        _ => None,
    };
    let folder = HostFolder::new(dir);
    let outcome = match spec.terminal {
        None => stream::read(&[&folder.old_log(), &folder.log()]).ok().flatten(),
        Some(_) => None,
    };
    Traces {
        usage: gauge::final_usage(dir, transcript.as_deref(), outcome.and_then(|outcome| outcome.cost_microusd)),
        last_words: transcript.and_then(|transcript| last_words(&transcript).ok().flatten()),
    }
}

/// The text that the model wrote last, as far as it is in the end of the transcript.
fn last_words(transcript: &Path) -> std::io::Result<Option<String>> {
    use std::io::{Read, Seek};
    const END: u64 = 256 << 10;
    const SHOWN: usize = 2 << 10;
    let mut file = fs_err::File::open(transcript)?;
    let length = file.metadata()?.len();
    file.seek(std::io::SeekFrom::Start(length.saturating_sub(END)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let words = bytes.split(|byte| *byte == b'\n').rev().find_map(|line| {
        let line: serde_json::Value = serde_json::from_slice(line).ok()?;
        let is_model = line["type"] == "assistant" && line["isSidechain"] != true && line["isApiErrorMessage"] != true;
        let blocks = line["message"]["content"].as_array().filter(|_| is_model)?;
        blocks
            .iter()
            .rev()
            .find_map(|block| block["text"].as_str())
            .map(str::trim)
            .filter(|text| !text.is_empty())
            .map(|text| crate::base::text::tail(text, SHOWN).to_owned())
    });
    Ok(words)
}

/// The client's configuration folder.
pub fn config_dir(environment: &Environment) -> Option<PathBuf> {
    match environment.get("CLAUDE_CONFIG_DIR") {
        Some(dir) if !dir.is_empty() => Some(PathBuf::from(dir)),
        _ => Some(environment.home()?.join(".claude")),
    }
}

/// What the client would do with a conversation id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Conversation {
    /// Nothing is there: it can be started under this id.
    Free,
    /// Its transcript, from which it can be resumed.
    Resumable(PathBuf),
    /// A title without a message, as a client leaves that was killed early: the id can be
    /// neither resumed nor used again.
    Spent,
}

impl Conversation {
    /// Looks a conversation up. The client files transcripts under the folder it ran in, and
    /// finds them from every worktree of the repository.
    pub fn of(environment: &Environment, id: &str) -> Conversation {
        let name = format!("{id}.jsonl");
        let folder = config_dir(environment).map(|dir| dir.join("projects"));
        let projects = folder.filter(|_| !id.contains(['/', '\0'])).and_then(|folder| fs_err::read_dir(folder).ok());
        let files = projects.into_iter().flatten().flatten().map(|project| project.path().join(&name));
        let files: Vec<PathBuf> = files.filter(|file| file.exists()).collect();
        match files.iter().find(|file| has_message(file)) {
            Some(file) => Conversation::Resumable(file.clone()),
            None if files.is_empty() => Conversation::Free,
            None => Conversation::Spent,
        }
    }
    /// The id under which `id` goes on, and whether there is something to resume. Usually it is
    /// `id` itself; in place of a spent one comes another, always the same.
    pub fn resolve(environment: &Environment, id: &str) -> (String, bool) {
        let mut id = id.to_owned();
        loop {
            match Conversation::of(environment, &id) {
                Conversation::Free => return (id, false),
                Conversation::Resumable(_) => return (id, true),
                Conversation::Spent => id = successor(&id),
            }
        }
    }
}

fn successor(id: &str) -> String {
    let digest = sha2::Sha256::digest(id.as_bytes());
    let bytes = std::array::from_fn(|index| digest[index]);
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

fn has_message(transcript: &Path) -> bool {
    use std::io::BufRead;
    let Ok(file) = fs_err::File::open(transcript) else { return false };
    let mut lines = std::io::BufReader::new(file).split(b'\n').map_while(Result::ok);
    lines.any(|line| {
        let line: serde_json::Value = serde_json::from_slice(&line).unwrap_or_default();
        matches!(line["type"].as_str(), Some("user" | "assistant")) && line["message"].is_object()
    })
}
