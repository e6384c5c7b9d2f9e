//! What a client is doing, from its own records: the transcript, the stream it
//! prints, the file in which it says whether it is busy. Never from the screen.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::time::SystemTime;

use jiff::Timestamp;
use serde_json::Value;

use super::{Conversation, config_dir};
use crate::agent::environment::Environment;
use crate::host::spec::{HostFolder, HostSpec};
use crate::model::event::Doing;

/// How much of the end of a file is looked at, in bytes: the call of a tool that is still at work
/// is in it, also behind large results of others.
const END: u64 = 8 << 20;

/// The last sign of the model or of a tool, and what the client does now.
pub type Sign = (Option<Timestamp>, Doing);

/// Looks at the client of the session in `dir`, which began at `since` and is one of `pids`.
pub fn sign(dir: &Path, spec: &HostSpec, since: Timestamp, pids: &[u32]) -> Sign {
    let id = spec.argv.iter().find_map(|word| word.strip_prefix("--session-id=").or(word.strip_prefix("--resume=")));
    let environment = Environment::of_this_process();
    let (transcript, of_subagents) = match id.map(|id| Conversation::of(&environment, id)) {
        Some(Conversation::Resumable(path)) => (end_of(&path).unwrap_or_default(), sign_of_subagents(&path)),
        _ => (String::new(), None),
    };
    let (sign_at, in_transcript) = read_transcript(&transcript, since);
    let (sign_at, doing) = match spec.terminal {
        None => with_stream((sign_at, in_transcript), dir, since),
        Some(_) => {
            let said = id.and_then(|id| status_of(&environment, id, pids));
            (sign_at, doing_in_terminal(said.as_deref(), in_transcript, sign_at.is_some()))
        }
    };
    match of_subagents.filter(|at| sign_at.is_none_or(|sign_at| *at > sign_at) && *at >= since) {
        Some(at) if doing == Doing::TurnOver => (Some(at), Doing::Background),
        Some(at) => (Some(at), doing),
        None => (sign_at, doing),
    }
}

/// When one of its subagents wrote last.
fn sign_of_subagents(transcript: &Path) -> Option<Timestamp> {
    let files = fs_err::read_dir(transcript.with_extension("").join("subagents")).ok()?;
    files.flatten().filter_map(|file| timestamp(file.metadata().ok()?.modified().ok()?)).max()
}

/// The client says `busy`, `waiting`, `idle` or `shell` of itself.
fn doing_in_terminal(said: Option<&str>, in_transcript: Doing, has_answered: bool) -> Doing {
    match (said, in_transcript) {
        (Some("waiting"), _) => Doing::AsksPerson,
        (_, Doing::ToolOpen) => Doing::ToolOpen,
        (Some("idle"), _) if has_answered => Doing::TurnOver,
        // Its first turn has not begun: it is still starting, or shows a question of its own.
        (Some("idle"), _) => Doing::Working,
        (Some("shell"), _) => Doing::Background,
        (Some("busy"), _) => Doing::Working,
        _ => Doing::Unknown,
    }
}

/// The last sign of the model or of a tool, and whether a tool is still at work.
fn read_transcript(text: &str, since: Timestamp) -> Sign {
    let mut sign_at: Option<Timestamp> = None;
    let mut open: Vec<String> = Vec::new();
    for line in text.lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else { continue };
        if line["isSidechain"] == true {
            continue;
        }
        let empty = Vec::new();
        let blocks = line["message"]["content"].as_array().unwrap_or(&empty);
        let ids = |kind: &str, name: &str| -> Vec<String> {
            let of_kind = blocks.iter().filter(|block| block["type"] == kind);
            of_kind.filter_map(|block| block[name].as_str()).map(str::to_owned).collect()
        };
        let results = ids("tool_result", "tool_use_id");
        match line["type"].as_str() {
            Some("assistant") => open.extend(ids("tool_use", "id")),
            Some("user") if !results.is_empty() => open.retain(|id| !results.contains(id)),
            // A new prompt: what was left open before it was dropped.
            Some("user") => {
                open.clear();
                continue;
            }
            _ => continue,
        }
        let at = line["timestamp"].as_str().and_then(|at| at.parse::<Timestamp>().ok());
        sign_at = at.filter(|at| *at >= since).max(sign_at);
    }
    let is_open = !open.is_empty() && sign_at.is_some();
    (sign_at, if is_open { Doing::ToolOpen } else { Doing::Working })
}

/// Every event that a headless client prints is a sign; a result is the end of its turn.
fn with_stream((sign_at, doing): Sign, dir: &Path, since: Timestamp) -> Sign {
    let log = HostFolder::new(dir).log();
    let printed = std::fs::metadata(&log).and_then(|meta| meta.modified()).ok().and_then(timestamp);
    let text = end_of(&log).unwrap_or_default();
    let of_type = |kind: &str| text.rfind(&format!("\n{{\"type\":\"{kind}\""));
    let is_over = of_type("result").is_some_and(|result| of_type("assistant").is_none_or(|words| words < result));
    // Before the first answer it prints what it was started with: that is no sign of the model.
    let has_answered = sign_at.is_some() || of_type("assistant").is_some() || text.contains("\"api_retry\"");
    let sign_at = printed.filter(|at| has_answered && *at >= since).max(sign_at);
    (sign_at, if is_over { Doing::TurnOver } else { doing })
}

fn timestamp(at: SystemTime) -> Option<Timestamp> {
    Timestamp::try_from(at).ok()
}

fn end_of(path: &Path) -> io::Result<String> {
    let mut file = fs_err::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(END)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// What the client says of itself in `sessions/<pid>.json`; a client that was killed leaves its file.
fn status_of(environment: &Environment, conversation: &str, pids: &[u32]) -> Option<String> {
    let dir = config_dir(environment)?.join("sessions");
    pids.iter().find_map(|pid| {
        let value: Value = serde_json::from_slice(&fs_err::read(dir.join(format!("{pid}.json"))).ok()?).ok()?;
        let is_this = value["sessionId"] == conversation;
        is_this.then(|| value["status"].as_str().map(str::to_owned))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(kind: &str, at: &str, block: &str) -> String {
        format!(
            "{{\"type\":\"{kind}\",\"timestamp\":\"2026-11-21T0{at}:00:00Z\",\"message\":{{\"content\":[{block}]}}}}\n"
        )
    }

    #[test]
    fn an_open_tool_is_seen_and_old_lines_are_no_sign() {
        let since: Timestamp = "2026-11-21T04:00:00Z".parse().unwrap();
        let call = |at: &str, id: &str| line("assistant", at, &format!("{{\"type\":\"tool_use\",\"id\":\"{id}\"}}"));
        let result =
            |at: &str, id: &str| line("user", at, &format!("{{\"type\":\"tool_result\",\"tool_use_id\":\"{id}\"}}"));
        let prompt = |at: &str| line("user", at, "{\"type\":\"text\",\"text\":\"go\"}");
        let at = |hour: &str| Some(format!("2026-11-21T0{hour}:00:00Z").parse::<Timestamp>().unwrap());
        for (text, sign_at, doing) in [
            (String::new(), None, Doing::Working),
            (call("3", "a"), None, Doing::Working),
            (call("5", "a"), at("5"), Doing::ToolOpen),
            (call("5", "a") + &call("5", "b") + &result("6", "a"), at("6"), Doing::ToolOpen),
            (call("5", "a") + &result("6", "a"), at("6"), Doing::Working),
            (call("3", "a") + &prompt("5"), None, Doing::Working),
            ("{\n\u{0}\nnull\n[]\n".to_owned() + &call("5", "a")[..30], None, Doing::Working),
        ] {
            assert_eq!(read_transcript(&text, since), (sign_at, doing), "{text}");
        }
    }

    #[test]
    fn what_a_client_says_of_itself_counts_unless_a_tool_is_open() {
        for (said, in_transcript, doing) in [
            (Some("busy"), Doing::Working, Doing::Working),
            (Some("idle"), Doing::Working, Doing::TurnOver),
            (Some("idle"), Doing::ToolOpen, Doing::ToolOpen),
            (Some("shell"), Doing::Working, Doing::Background),
            (Some("waiting"), Doing::ToolOpen, Doing::AsksPerson),
            (Some("new word"), Doing::Working, Doing::Unknown),
            (None, Doing::Working, Doing::Unknown),
        ] {
            assert_eq!(doing_in_terminal(said, in_transcript, true), doing, "{said:?} {in_transcript:?}");
        }
        assert_eq!(doing_in_terminal(Some("idle"), Doing::Working, false), Doing::Working, "it still starts");
    }
}
