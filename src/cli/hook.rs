//! `loom hook <event>`: what Claude Code runs on its events. Started on every
//! tool call: no argument parser, no log, and the daemon only where it decides.
//!
//! An agent that a person opened by hand in a worktree has no session: it is
//! told whose tree it is in, and nothing is decided for it.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use super::failure::exit;
use crate::agent::claude::gauge::{self, Hears, Said};
use crate::agent::claude::hooks::{self, HookEvent, HookInput};
use crate::agent::claude::{Conversation, standing_orders, stream};
use crate::agent::environment::Environment;
use crate::base::layout::Layout;
use crate::client::{self, Client, ClientError};
use crate::daemon::remains;
use crate::guard::{self, Scene, Verdict};
use crate::model::effect::Answer;
use crate::model::event::Request;
use crate::model::ids::{SessionId, StageId};
use crate::model::session::Activity;
use crate::model::stage::StateKind;
use crate::model::usage::Usage;

/// How long a client whose turn failed may take to write its transcript, and how often that is looked at.
const TRANSCRIPT_WAIT: Duration = Duration::from_secs(2);
const TRANSCRIPT_LOOK: Duration = Duration::from_millis(20);

/// The stop hook answers this long before the client would go on without it.
const STOP_MARGIN: Duration = Duration::from_secs(90);
/// A daemon that is missing for less was not waited for: then nothing would come of asking again.
const NO_DAEMON_MIN: Duration = Duration::from_secs(10);

/// Longest assignment that is put into the conversation; the rest is in the file.
const ASSIGNMENT_BYTES_MAX: usize = 24 << 10;

/// Runs the hook for `event` and returns the exit code.
pub fn main(event: &std::ffi::OsStr) -> u8 {
    if event == "status-line" {
        return status_line();
    }
    let Some(event) = event.to_str().and_then(HookEvent::of_argument) else {
        let _ = writeln!(std::io::stderr(), "usage: loom hook <event> (started by Claude Code, not by hand)");
        return exit::USAGE;
    };
    let mut text = String::new();
    // An input that cannot be read is one without fields.
    let _ = std::io::stdin().read_to_string(&mut text);
    let input = HookInput::parse(&text);
    let answer = match Session::of_this_process() {
        Some(session) => session.answer(event, &input),
        None => by_hand(event, &input),
    };
    match answer {
        // PreCompact takes plain words.
        Some(serde_json::Value::String(text)) => drop(writeln!(std::io::stdout(), "{text}")),
        Some(answer) => drop(writeln!(std::io::stdout(), "{answer}")),
        None => {}
    }
    exit::OK
}

/// `loom hook status-line`: the client says how full its window is and what it has cost.
fn status_line() -> u8 {
    let mut text = String::new();
    let _ = std::io::stdin().read_to_string(&mut text);
    let input: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let Some(session) = Session::of_this_process() else { return exit::OK };
    let transcript = input["transcript_path"].as_str().unwrap_or_default();
    if let Some(usage) = session.measure(transcript, Some(Said::parse(&input)), Hears::Nobody) {
        session.tell(Request::Measured { session: session.id.clone(), usage, hears: false });
    }
    let used = input["context_window"]["used_percentage"].as_f64().map(|used| format!(" · {used:.0} % of the context"));
    let _ = writeln!(std::io::stdout(), "loom {}{}", session.id, used.unwrap_or_default());
    exit::OK
}

/// The session that this process runs in.
struct Session {
    id: SessionId,
    stage: StageId,
    layout: Layout,
}

impl Session {
    fn of_this_process() -> Option<Session> {
        let text = |name| std::env::var(name).ok();
        let id = SessionId::from_str(&text("LOOM_SESSION")?).ok()?;
        let layout = Layout::new(Path::new(&text("LOOM_PROJECT")?));
        Some(Session { stage: id.stage(), id, layout })
    }

    fn answer(&self, event: HookEvent, input: &HookInput) -> Option<serde_json::Value> {
        match event {
            HookEvent::SessionStart => Some(hooks::session_context(&self.assignment())),
            HookEvent::PreToolUse => self.tool(input),
            HookEvent::Stop => self.stop(input),
            HookEvent::StopFailure => {
                // A headless client ends by itself, and its last event says more.
                if !is_headless() {
                    self.turn_failed(input);
                }
                None
            }
            HookEvent::PermissionRequest | HookEvent::Notification if input.needs_person(event) => {
                let _ = std::fs::File::create(self.waiting_mark());
                self.activity(Activity::WaitingForPerson, input.asks());
                None
            }
            HookEvent::PreCompact => Some(self.before_compaction()),
            HookEvent::PostToolUse => {
                self.answered();
                None
            }
            HookEvent::UserPromptSubmit => {
                let _ = fs_err::remove_file(self.waiting_mark());
                self.activity(Activity::Working, None);
                None
            }
            HookEvent::Notification if input.notification_type == "idle_prompt" => {
                self.activity(Activity::Idle, None);
                None
            }
            _ => None,
        }
    }

    /// Told once at the start, and again after every compaction.
    fn assignment(&self) -> String {
        let orders = standing_orders(&self.stage);
        let signal = fs_err::read_to_string(self.layout.signal(&self.id)).unwrap_or_default();
        let cut: String = signal.chars().take(ASSIGNMENT_BYTES_MAX).collect();
        let more = if cut.len() < signal.len() { "\n… the rest: loom signal" } else { "" };
        format!("{orders}\n\n{cut}{more}")
    }

    fn tool(&self, input: &HookInput) -> Option<serde_json::Value> {
        self.answered();
        let worktree = self.worktree(input);
        let cwd = PathBuf::from(&input.cwd);
        let cwd = if cwd.is_absolute() { cwd } else { worktree.clone() };
        let scene = Scene {
            worktree: &worktree,
            project: &self.layout.project,
            cwd: &cwd,
            head_has_landed: &|| self.head_has_landed(&worktree),
        };
        let verdict = match guard::judge(&input.tool_name, &input.tool_input, &scene) {
            // The plan wants a person to be asked about each command.
            Verdict::Allow if input.tool_name == "Bash" && asks_a_person() => None,
            Verdict::Allow => Some(hooks::allow_tool("allowed by Loom")),
            Verdict::Deny(reason) => Some(hooks::deny_tool(&reason)),
            Verdict::NoOpinion => None,
        };
        match self.budget(input, Hears::Agent) {
            Some(text) => Some(hooks::with_context(verdict, &text)),
            None => verdict,
        }
    }

    /// Reports what the session has used; what the agent has to know about it.
    fn budget(&self, input: &HookInput, hears: Hears) -> Option<String> {
        // A subagent has a window of its own, and hands nothing off.
        if input.agent_id.is_some() {
            return None;
        }
        let usage = self.measure(&input.transcript_path, None, hears)?;
        let request = Request::Measured { session: self.id.clone(), usage, hears: true };
        match Client::connect(&self.layout).and_then(|mut client| client.request(request)) {
            Ok(Answer::Advice { text }) => Some(text),
            _ => None,
        }
    }

    /// What cannot be measured now is measured the next time.
    fn measure(&self, transcript: &str, said: Option<Said>, hears: Hears) -> Option<Usage> {
        gauge::measure(&self.layout.session(&self.id), Path::new(transcript), said, hears).ok().flatten()
    }

    /// What can be seen of the work is written down before the conversation loses it.
    fn before_compaction(&self) -> serde_json::Value {
        if let Ok(git) = crate::git::Git::find(&self.layout.project) {
            let opening =
                format!("Session `{}` compacted its conversation; this is what could be seen of it then.", self.id);
            let words = crate::agent::traces(&self.layout.session(&self.id)).and_then(|traces| traces.last_words);
            let remains = Box::new(remains::seen_from_outside(&self.layout, &git, &self.id, opening, words));
            self.tell(Request::Compacting { session: self.id.clone(), remains });
        }
        serde_json::Value::String(format!(
            "Keep in the summary: the stage `{}` and what it asks for, what is done and committed, what is not, decisions \
             with their reasons, and the next step.",
            self.stage
        ))
    }

    /// Whether the plan branch has the commit that the worktree is on, which is also so where a
    /// stage starts.
    fn head_has_landed(&self, worktree: &Path) -> bool {
        let Ok(git) = crate::git::Git::find(worktree) else { return false };
        let (Ok(head), Ok(plans)) = (git.head_of(worktree), git.refs_below("refs/heads/loom/_plan/")) else {
            return false;
        };
        plans.iter().any(|(_, tip)| git.is_ancestor(&head, tip).unwrap_or(false))
    }

    /// A tool runs or ran: nobody is waited for any more.
    fn answered(&self) {
        if fs_err::remove_file(self.waiting_mark()).is_ok() {
            self.activity(Activity::Working, None);
        }
    }

    /// The client gave up on its turn. It is ended for that, so it gets the time to write down
    /// the conversation, which is resumed.
    fn turn_failed(&self, input: &HookInput) {
        let Some(why) = stream::cause_of_failed_turn(&input.error, &input.last_assistant_message).gave_up() else {
            return;
        };
        let environment = Environment::of_this_process();
        let end = Instant::now() + TRANSCRIPT_WAIT;
        let is_kept = || matches!(Conversation::of(&environment, &input.session_id), Conversation::Resumable(_));
        while !is_kept() && Instant::now() < end {
            std::thread::park_timeout(TRANSCRIPT_LOOK);
        }
        self.tell(Request::TurnFailed { session: self.id.clone(), why });
    }

    /// The client was started at the top of the worktree and says so to its hooks.
    fn worktree(&self, input: &HookInput) -> PathBuf {
        let top = std::env::var_os("CLAUDE_PROJECT_DIR").map(PathBuf::from);
        let top = top.filter(|top| top.starts_with(self.layout.worktrees()));
        top.unwrap_or_else(|| {
            let below = Path::new(&input.cwd).strip_prefix(self.layout.worktrees()).ok().map(Path::to_path_buf);
            let folder = below.and_then(|below| below.components().next().map(|first| first.as_os_str().to_owned()));
            match folder {
                Some(folder) => self.layout.worktrees().join(folder),
                None => self.layout.worktree(self.stage.as_str()),
            }
        })
    }

    /// May the turn end? A verdict that is pending is waited for.
    fn stop(&self, input: &HookInput) -> Option<serde_json::Value> {
        // What runs in the background wakes the model again.
        let waits = !input.background_tasks.is_empty();
        // What has to be said because of it, the answer to the end of the turn says.
        let _ = self.budget(input, Hears::AgentAtTurnEnd);
        let end = Instant::now() + HookEvent::Stop.timeout().saturating_sub(STOP_MARGIN);
        loop {
            let asked = Instant::now();
            match client::request(&self.layout, Request::TurnEnded { session: self.id.clone(), waits }) {
                Ok(Answer::TurnGoesOn { text }) => return Some(hooks::block_stop(&text)),
                Ok(Answer::TurnWaits) => self.wait_for_verdict(),
                // Loom was stopped: the turn waits for the next `loom run`, or nobody would go on with it.
                Err(ClientError::NoDaemon) if asked.elapsed() >= NO_DAEMON_MIN && Instant::now() < end => {}
                _ => return None,
            }
        }
    }

    /// Until the stage is no longer being verified, or the daemon went away.
    fn wait_for_verdict(&self) {
        let wait = || -> Result<(), ClientError> {
            let mut client = Client::connect(&self.layout)?;
            client.subscribe()?;
            loop {
                let status = client.next_status()?;
                let row = status.stages.iter().find(|row| row.id == self.stage);
                if row.is_none_or(|row| row.state != StateKind::Verifying) {
                    return Ok(());
                }
            }
        };
        // Asking again says what became of it; a request waits for a daemon that is coming back.
        let _ = wait();
    }

    fn waiting_mark(&self) -> PathBuf {
        self.layout.session(&self.id).join("waiting")
    }

    fn activity(&self, activity: Activity, asks: Option<String>) {
        self.tell(Request::Activity { session: self.id.clone(), activity, asks });
    }

    /// Nothing depends on the answer.
    fn tell(&self, request: Request) {
        client::tell(&self.layout, request);
    }
}

/// Set for a stage whose sandbox says `auto_allow: false`.
fn asks_a_person() -> bool {
    std::env::var("LOOM_AUTO_ALLOW").is_ok_and(|value| value == "0")
}

/// What the client says about itself to its children.
fn is_headless() -> bool {
    std::env::var("CLAUDE_CODE_ENTRYPOINT").is_ok_and(|entry| entry != "cli")
}

fn by_hand(event: HookEvent, input: &HookInput) -> Option<serde_json::Value> {
    if event != HookEvent::SessionStart {
        return None;
    }
    let cwd = PathBuf::from(&input.cwd);
    let git = crate::git::Git::find(&cwd).ok()?;
    let layout = Layout::new(&git.project);
    let below = cwd.canonicalize().ok()?;
    let below = below.strip_prefix(layout.worktrees()).ok()?.to_path_buf();
    let folder = below.components().next()?.as_os_str().to_str()?.to_owned();
    let stage = StageId::new(folder.split('.').next()?).ok()?;
    let read = crate::daemon::ReadOnly::open(&layout).ok()?;
    let known = read.world.run.as_ref()?.stages.get(&stage)?;
    let signal = fs_err::read_to_string(layout.signal(&SessionId::of(&stage, known.sessions))).unwrap_or_default();
    Some(hooks::session_context(&format!(
        "This folder is the worktree of Loom's stage `{stage}` ({}). You were opened by hand: you hold no lease on the \
         stage and cannot submit it. Loom itself goes on with it in a session of its own: `loom resume {stage}`. \
         For orientation, its assignment:\n\n{signal}",
        known.state.kind().as_str()
    )))
}
