//! How a headless session ended, from the event stream on its standard output.
//! Only the fields of the client's own events count, never what the model
//! wrote. One process may print several results: the last one before the end is
//! the one that counts. Lines that are cut off or not JSON are passed over.

use std::io::{self, BufRead};
use std::path::Path;

use jiff::Timestamp;
use serde_json::Value;

use crate::model::session::GaveUp;

/// What the last result of a session says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// `subtype` says `success` also when the API failed; this does not.
    pub is_error: bool,
    /// `success`, `error_max_turns`, `error_during_execution`, …
    pub subtype: String,
    /// HTTP status of the failed call.
    pub api_error_status: Option<u16>,
    /// `completed`, `prompt_too_long`, `blocking_limit`, …
    pub terminal_reason: String,
    /// The last words: of the model, or of the client when it failed.
    pub text: String,
    /// When a usage limit is lifted, if one was met and the API said so.
    pub limit_resets_at: Option<Timestamp>,
    /// What the process has cost so far, in millionths of a US dollar.
    pub cost_microusd: Option<u64>,
}

/// Why a client's turn, or its whole session, ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndCause {
    /// The model ended its turn.
    Completed,
    /// A person has to log in.
    NotLoggedIn,
    /// The account's limit; `None`: nobody said when it is lifted.
    RateLimited { resets_at: Option<Timestamp> },
    /// The conversation is too long to go on.
    ContextFull,
    /// The server cannot be used now.
    Unavailable { text: String },
    /// The server would refuse it every time.
    Refused { text: String },
    /// Any other failure, in the client's words.
    Failed { text: String },
}

impl EndCause {
    /// What it means for a plan; none when the turn ended as it should.
    pub fn gave_up(self) -> Option<GaveUp> {
        match self {
            EndCause::Completed => None,
            EndCause::NotLoggedIn => Some(GaveUp::NotLoggedIn),
            EndCause::RateLimited { resets_at } => Some(GaveUp::Limit { until: resets_at }),
            EndCause::ContextFull => Some(GaveUp::ContextFull),
            EndCause::Unavailable { text } => Some(GaveUp::Unavailable { text }),
            EndCause::Refused { text } => Some(GaveUp::Refused { text }),
            EndCause::Failed { text } => Some(GaveUp::Failed { text }),
        }
    }
}

impl Outcome {
    pub fn cause(&self) -> EndCause {
        if !self.is_error {
            return EndCause::Completed;
        }
        if matches!(self.terminal_reason.as_str(), "prompt_too_long" | "blocking_limit") {
            return EndCause::ContextFull;
        }
        match self.api_error_status {
            Some(401) => return EndCause::NotLoggedIn,
            Some(429) => return EndCause::RateLimited { resets_at: self.limit_resets_at },
            Some(500..=599) => return EndCause::Unavailable { text: self.text.clone() },
            Some(403 | 404) => return EndCause::Refused { text: self.text.clone() },
            _ => {}
        }
        // Without credentials no call is made, and the client's own words are all there is.
        if self.text.starts_with("Not logged in") || self.text.starts_with("Invalid API key") {
            return EndCause::NotLoggedIn;
        }
        if self.limit_resets_at.is_some() {
            return EndCause::RateLimited { resets_at: self.limit_resets_at };
        }
        by_words(&self.text)
    }
}

/// Failures without a status, by the words that the client itself puts in front of them.
fn by_words(words: &str) -> EndCause {
    let text = words.to_owned();
    let plain = words.strip_prefix("API Error: ").unwrap_or(words);
    match () {
        () if plain.starts_with("Unable to connect to API") || plain.starts_with("Connection error") => {
            EndCause::Unavailable { text }
        }
        () if plain.starts_with("Credit balance is too low") => EndCause::Refused { text },
        () => EndCause::Failed { text },
    }
}

/// When a limit is lifted, from the client's own words: `… · resets 6:29am (UTC)`. Only that
/// zone is read: a time that is misread would be waited for in vain.
fn resets_at(words: &str, now: Timestamp) -> Option<Timestamp> {
    let (_, after) = words.rsplit_once("resets ")?;
    let (time, zone) = after.split_once(' ')?;
    let (clock, is_pm) = match time.strip_suffix("am") {
        Some(clock) => (clock, false),
        None => (time.strip_suffix("pm")?, true),
    };
    let (hour, minute) = clock.split_once(':').unwrap_or((clock, "0"));
    let (hour, minute): (i8, i8) = (hour.parse().ok()?, minute.parse().ok()?);
    if !zone.starts_with("(UTC)") || !(1..=12).contains(&hour) {
        return None;
    }
    let hour = hour % 12 + if is_pm { 12 } else { 0 };
    let today = now.to_zoned(jiff::tz::TimeZone::UTC).date().at(hour, minute.clamp(0, 59), 0, 0);
    let at = today.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    // The client cuts the seconds off: a minute that has begun is not the one of tomorrow.
    match now.duration_since(at).as_secs() {
        ..0 => Some(at),
        0..600 => None,
        _ => at.checked_add(jiff::SignedDuration::from_hours(24)).ok(),
    }
}

/// The cause behind the `error` of a StopFailure hook; `words` are its `last_assistant_message`.
pub fn cause_of_failed_turn(error: &str, words: &str) -> EndCause {
    match error {
        "authentication_failed" | "oauth_org_not_allowed" => EndCause::NotLoggedIn,
        "rate_limit" => EndCause::RateLimited { resets_at: resets_at(words, crate::base::clock::now()) },
        "overloaded" | "server_error" => EndCause::Unavailable { text: words.to_owned() },
        "billing_error" | "model_not_found" => EndCause::Refused { text: words.to_owned() },
        "invalid_request" if is_too_long(words) => EndCause::ContextFull,
        "" if words.is_empty() => EndCause::Failed { text: "the client did not say why".to_owned() },
        _ if words.is_empty() => EndCause::Failed { text: error.to_owned() },
        _ => by_words(words),
    }
}

/// The client's own words about a conversation that does not fit into the window.
fn is_too_long(words: &str) -> bool {
    words.contains("Prompt is too long") || words.contains("prompt is too long")
}

/// Reads the segments of a session's output, oldest first; a missing one is passed over.
/// `None`: no result was printed, as after a kill.
pub fn read(segments: &[&Path]) -> io::Result<Option<Outcome>> {
    let mut reader = StreamReader::default();
    for segment in segments {
        let file = match fs_err::File::open(segment) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for line in io::BufReader::new(file).split(b'\n') {
            reader.line(&String::from_utf8_lossy(&line?));
        }
    }
    Ok(reader.outcome())
}

/// Reads a stream that is in memory.
pub fn parse(text: &str) -> Option<Outcome> {
    let mut reader = StreamReader::default();
    text.lines().for_each(|line| reader.line(line));
    reader.outcome()
}

/// Follows the stream line by line.
#[derive(Debug, Default)]
pub struct StreamReader {
    last: Option<Outcome>,
    limit_resets_at: Option<Timestamp>,
}

impl StreamReader {
    pub fn line(&mut self, line: &str) {
        // Most lines are messages, and long: they are told apart before they are parsed.
        if !line.contains("\"type\":\"result\"") && !line.contains("rate_limit_event") {
            return;
        }
        let Ok(event) = serde_json::from_str::<Value>(line) else { return };
        match event["type"].as_str() {
            Some("result") => self.last = Some(outcome(&event)),
            Some("rate_limit_event") => {
                let limit = &event["rate_limit_info"];
                self.limit_resets_at = match limit["status"].as_str() {
                    Some("rejected") => limit["resetsAt"].as_i64().and_then(|at| Timestamp::from_second(at).ok()),
                    _ => None,
                };
            }
            _ => {}
        }
    }
    pub fn outcome(self) -> Option<Outcome> {
        let resets_at = self.limit_resets_at;
        self.last.map(|outcome| Outcome { limit_resets_at: resets_at, ..outcome })
    }
}

fn outcome(event: &Value) -> Outcome {
    let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
    let errors = event["errors"].as_array().map(|errors| errors.iter().filter_map(Value::as_str).collect::<Vec<_>>());
    Outcome {
        // A result that does not say so is no success.
        is_error: event["is_error"].as_bool().unwrap_or(true),
        subtype: text("subtype"),
        api_error_status: event["api_error_status"].as_u64().and_then(|status| u16::try_from(status).ok()),
        terminal_reason: text("terminal_reason"),
        text: match (event["result"].as_str(), errors) {
            (Some(result), _) if !result.is_empty() => result.to_owned(),
            (_, Some(errors)) => errors.join("; "),
            _ => String::new(),
        },
        limit_resets_at: None,
        cost_microusd: super::gauge::microusd(&event["total_cost_usd"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(stream: &str, expected: Option<EndCause>) {
        assert_eq!(parse(stream).map(|outcome| outcome.cause()), expected, "{stream}");
    }

    fn failed(more: &str) -> String {
        format!(r#"{{"type":"result","subtype":"success","is_error":true,{more}}}"#)
    }

    #[test]
    fn the_last_result_counts() {
        let good =
            r#"{"type":"result","subtype":"success","is_error":false,"result":"ok","terminal_reason":"completed"}"#;
        check(good, Some(EndCause::Completed));
        check(&format!("{}\n{good}", failed(r#""result":"x""#)), Some(EndCause::Completed));
        check(&format!("{good}\n{}", failed(r#""result":"x""#)), Some(EndCause::Failed { text: "x".to_owned() }));
        check("", None);
    }

    #[test]
    fn causes_are_told_apart() {
        check(&failed(r#""result":"Not logged in · Please run /login""#), Some(EndCause::NotLoggedIn));
        check(&failed(r#""api_error_status":401,"result":"no""#), Some(EndCause::NotLoggedIn));
        check(&failed(r#""terminal_reason":"prompt_too_long""#), Some(EndCause::ContextFull));
        let unavailable = |text: &str| Some(EndCause::Unavailable { text: text.to_owned() });
        check(&failed(r#""api_error_status":529,"result":"busy""#), unavailable("busy"));
        let offline = "API Error: Unable to connect to API (ConnectionRefused)";
        check(&failed(&format!(r#""result":"{offline}""#)), unavailable(offline));
        check(&failed(r#""api_error_status":404,"result":"x""#), Some(EndCause::Refused { text: "x".to_owned() }));
        check(&failed(r#""api_error_status":429"#), Some(EndCause::RateLimited { resets_at: None }));
        let limit = r#"{"type":"rate_limit_event","rate_limit_info":{"status":"rejected","resetsAt":1795242588}}"#;
        let resets_at = Timestamp::from_second(1_795_242_588).ok();
        check(&format!("{limit}\n{}", failed(r#""result":"limit""#)), Some(EndCause::RateLimited { resets_at }));
        let errors = r#"{"type":"result","subtype":"error_max_turns","is_error":true,"errors":["a","b"]}"#;
        check(errors, Some(EndCause::Failed { text: "a; b".to_owned() }));
    }

    #[test]
    fn the_time_in_a_limit_is_the_next_one() {
        let now: Timestamp = "2026-11-21T05:00:00Z".parse().unwrap();
        for (words, expected) in [
            ("You've hit your session limit · resets 6:29am (UTC)", Some("2026-11-21T06:29:00Z")),
            ("limit · resets 4:50am (UTC)", Some("2026-11-22T04:50:00Z")),
            ("limit · resets 5am (UTC)", None),
            ("limit · resets 12am (UTC)", Some("2026-11-22T00:00:00Z")),
            ("limit · resets 12:30pm (UTC)", Some("2026-11-21T12:30:00Z")),
            ("limit · resets 6:29am (Europe/Berlin)", None),
            ("limit · resets Oct 5, 6am (UTC)", None),
            ("limit · resets 25am (UTC)", None),
            ("no limit", None),
        ] {
            assert_eq!(resets_at(words, now).map(|at| at.to_string()).as_deref(), expected, "{words}");
        }
        assert_eq!(cause_of_failed_turn("overloaded", "x"), EndCause::Unavailable { text: "x".to_owned() });
        assert_eq!(cause_of_failed_turn("invalid_request", "Prompt is too long"), EndCause::ContextFull);
    }

    #[test]
    fn garbage_and_the_words_of_the_model_change_nothing() {
        let said = r#"{"type":"assistant","message":{"content":[{"type":"text","text":"{\"type\":\"result\",\"is_error\":true} rate_limit_event"}]}}"#;
        check(said, None);
        check("\"type\":\"result\"", None);
        check("{\"type\":\"result\"", None);
        check("\u{0}\u{fffd}\n[1]\n{}\nnull", None);
        check(r#"{"type":"result"}"#, Some(EndCause::Failed { text: String::new() }));
    }

    #[test]
    fn segments_that_are_missing_or_cut_are_read_as_far_as_they_go() {
        let dir = tempfile::tempdir().unwrap();
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        fs_err::write(&new, b"\xff\xfe half a line\"}\n{\"type\":\"result\",\"is_error\":false}\n").unwrap();
        assert_eq!(read(&[&old, &new]).unwrap().unwrap().cause(), EndCause::Completed);
        assert_eq!(read(&[&old]).unwrap(), None);
    }
}
