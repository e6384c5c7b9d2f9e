//! How much a session has used, read from the client's own records: the
//! transcript it writes, the status line it draws, the stream it prints. What
//! was read is remembered beside the session, so that each look reads only
//! what is new.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::fs::write_atomic;
use crate::host::spec::HostFolder;
use crate::model::limits::CONTEXT_YELLOW;
use crate::model::usage::Usage;

/// The window of a model of which nothing else is known, in tokens.
const WINDOW: u64 = 200_000;
/// The window of a model whose name ends with `[1m]`.
const WINDOW_LONG: u64 = 1_000_000;
/// Most that one look reads of one file, in bytes; the rest comes with the next.
const READ_MAX: u64 = 16 << 20;

/// What was read so far: `gauge.json` in the session's folder.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Gauge {
    files: BTreeMap<PathBuf, Place>,
    usage: Usage,
    /// The client itself has said how large the window is.
    window_is_said: bool,
    /// The percentage that was reported last where the agent hears the answer, and where not.
    told: Option<u32>,
    shown: Option<u32>,
    /// The usage that was reported last.
    reported: Usage,
}

/// How far a transcript was read.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
struct Place {
    offset: u64,
    /// The message counted last: it is repeated for each of its blocks.
    message: String,
}

/// What the status line says beyond the transcript.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Said {
    window: Option<u64>,
    context: Option<u64>,
    cost_microusd: Option<u64>,
}

impl Said {
    /// Reads the input of the status line; what is missing or of another type is not said.
    pub fn parse(input: &Value) -> Said {
        let window = &input["context_window"];
        let tokens = |name: &str| window["current_usage"][name].as_u64();
        Said {
            window: window["context_window_size"].as_u64().filter(|size| *size > 0),
            context: tokens("input_tokens").map(|input| {
                let cached = ["cache_read_input_tokens", "cache_creation_input_tokens"];
                input + cached.iter().filter_map(|name| tokens(name)).sum::<u64>()
            }),
            cost_microusd: microusd(&input["cost"]["total_cost_usd"]),
        }
    }
}

/// Dollars as the client writes them, in millionths.
pub(super) fn microusd(cost: &Value) -> Option<u64> {
    let micro = (cost.as_f64()? * 1e6).round();
    // A number in this range has an exact integer.
    (0.0..9e15).contains(&micro).then(|| format!("{micro:.0}").parse().ok())?
}

fn path(session: &Path) -> PathBuf {
    session.join("gauge.json")
}

impl Gauge {
    /// A gauge that starts at the present end of `transcript`: what is before is another session's.
    pub fn resuming(transcript: &Path) -> Gauge {
        let mut gauge = Gauge::default();
        let offset = std::fs::metadata(transcript).map_or(0, |meta| meta.len());
        gauge.files.insert(transcript.to_path_buf(), Place { offset, message: String::new() });
        gauge
    }
    fn load(session: &Path) -> Gauge {
        let bytes = fs_err::read(path(session)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    fn read(&mut self, transcript: &Path) -> io::Result<()> {
        self.read_file(transcript, true)?;
        let subagents = transcript.with_extension("").join("subagents");
        for file in fs_err::read_dir(subagents).into_iter().flatten().flatten() {
            self.read_file(&file.path(), false)?;
        }
        Ok(())
    }

    fn read_file(&mut self, file: &Path, is_main: bool) -> io::Result<()> {
        let mut place = self.files.get(file).cloned().unwrap_or_default();
        let mut reader = match std::fs::File::open(file) {
            Ok(reader) => reader,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        reader.seek(SeekFrom::Start(place.offset))?;
        let mut bytes = Vec::new();
        reader.take(READ_MAX).read_to_end(&mut bytes)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        for line in bytes[..whole].split(|byte| *byte == b'\n') {
            self.line(&String::from_utf8_lossy(line), is_main, &mut place.message);
        }
        place.offset += whole as u64;
        self.files.insert(file.to_path_buf(), place);
        Ok(())
    }

    fn line(&mut self, line: &str, is_main: bool, message: &mut String) {
        // Most of a transcript are tool results, and long: they are told apart before they are parsed.
        let is_boundary = line.contains("\"compact_boundary\"");
        if !is_boundary && !line.contains("\"usage\"") {
            return;
        }
        let Ok(line) = serde_json::from_str::<Value>(line) else { return };
        match line["type"].as_str() {
            Some("system") if is_boundary && is_main => {
                self.usage.context = line["compactMetadata"]["postTokens"].as_u64().unwrap_or(0);
            }
            Some("assistant") => {
                let usage = &line["message"]["usage"];
                let tokens = |name: &str| usage[name].as_u64().unwrap_or(0);
                let (input, cache_read, cache_write) =
                    (tokens("input_tokens"), tokens("cache_read_input_tokens"), tokens("cache_creation_input_tokens"));
                let context = input + cache_read + cache_write;
                // The client's own messages about errors have no tokens.
                if is_main && line["isSidechain"] != true && context > 0 {
                    self.usage.context = context;
                }
                let id = line["message"]["id"].as_str().unwrap_or_default();
                if id != message {
                    id.clone_into(message);
                    let more =
                        Usage { input, output: tokens("output_tokens"), cache_read, cache_write, ..Usage::default() };
                    self.usage = self.usage.plus(more);
                }
            }
            _ => {}
        }
    }

    fn size_window(&mut self, session: &Path) {
        if !self.window_is_said {
            let known = (self.usage.window > 0).then_some(self.usage.window);
            self.usage.window = known.or_else(|| window_of_stream(session)).unwrap_or(WINDOW);
        }
        if self.usage.context > self.usage.window {
            self.usage.window = self.usage.window.max(WINDOW_LONG);
        }
    }

    fn hear(&mut self, said: Said) {
        if let Some(window) = said.window {
            (self.usage.window, self.window_is_said) = (window, true);
        }
        self.usage.context = said.context.unwrap_or(self.usage.context);
        self.usage.cost_microusd = said.cost_microusd.or(self.usage.cost_microusd);
    }
}

/// The window of the model that a headless client says it uses in its first event.
fn window_of_stream(session: &Path) -> Option<u64> {
    let mut start = Vec::new();
    fs_err::File::open(HostFolder::new(session).log()).ok()?.take(256 << 10).read_to_end(&mut start).ok()?;
    let start = String::from_utf8_lossy(&start);
    let init = start.lines().find(|line| line.contains("\"subtype\":\"init\""))?;
    let init: Value = serde_json::from_str(init).ok()?;
    Some(if init["model"].as_str()?.contains("[1m]") { WINDOW_LONG } else { WINDOW })
}

/// Who hears what Loom answers to a measurement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hears {
    /// A hook at a tool call or at the end of a turn.
    Agent,
    /// A hook at the end of a turn: whatever has changed is told.
    AgentAtTurnEnd,
    /// The status line.
    Nobody,
}

/// Measures the session in `session`; none: nothing that is worth a report has changed since
/// the last time. How far was read is kept for the next look.
pub fn measure(session: &Path, transcript: &Path, said: Option<Said>, hears: Hears) -> io::Result<Option<Usage>> {
    let mut gauge = Gauge::load(session);
    let before = gauge.clone();
    if !transcript.as_os_str().is_empty() {
        gauge.read(transcript)?;
    }
    if let Some(said) = said {
        gauge.hear(said);
    }
    gauge.size_window(session);
    let percent = gauge.usage.percent();
    let last = match hears {
        Hears::Agent | Hears::AgentAtTurnEnd => &mut gauge.told,
        Hears::Nobody => &mut gauge.shown,
    };
    let nears_budget = hears != Hears::Nobody && percent >= CONTEXT_YELLOW;
    let ends_turn = hears == Hears::AgentAtTurnEnd && gauge.usage != gauge.reported;
    let has_grown = gauge.usage.is_far_from(&gauge.reported);
    let is_news = gauge.usage.context > 0 && (*last != Some(percent) || nears_budget || ends_turn || has_grown);
    if is_news {
        *last = Some(percent);
        gauge.reported = gauge.usage;
    }
    if gauge != before {
        write_atomic(&path(session), gauge.to_json().as_bytes())?;
    }
    Ok(is_news.then_some(gauge.usage))
}

/// The last measurement of a session that is over; none: it has used nothing.
pub(super) fn final_usage(session: &Path, transcript: Option<&Path>, cost_microusd: Option<u64>) -> Option<Usage> {
    let mut gauge = Gauge::load(session);
    // What cannot be read any more was read before, or is lost.
    let _ = transcript.map(|transcript| gauge.read(transcript));
    gauge.size_window(session);
    gauge.usage.cost_microusd = cost_microusd.or(gauge.usage.cost_microusd);
    (gauge.usage.context > 0).then_some(gauge.usage)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assistant(id: &str, input: u64, read: u64) -> String {
        format!(
            r#"{{"type":"assistant","isSidechain":false,"message":{{"id":"{id}","role":"assistant","usage":{{"input_tokens":{input},"cache_read_input_tokens":{read},"cache_creation_input_tokens":5,"output_tokens":7}}}}}}"#
        )
    }

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new() -> Folder {
            Folder(tempfile::tempdir().unwrap())
        }
        fn transcript(&self) -> PathBuf {
            self.0.path().join("t.jsonl")
        }
        fn add(&self, line: &str) {
            use std::io::Write;
            let mut file = fs_err::OpenOptions::new().create(true).append(true).open(self.transcript()).unwrap();
            file.write_all(line.as_bytes()).unwrap();
        }
        fn measure(&self, said: Option<Said>) -> Option<Usage> {
            measure(self.0.path(), &self.transcript(), said, Hears::Nobody).unwrap()
        }
    }

    #[test]
    fn messages_are_counted_once_and_only_what_is_new_is_read() {
        let folder = Folder::new();
        assert_eq!(folder.measure(None), None);
        folder.add(&format!("{}\n{}\n", assistant("a", 1_000, 0), assistant("a", 1_000, 0)));
        let first = folder.measure(None).unwrap();
        assert_eq!((first.context, first.window, first.input, first.output), (1_005, WINDOW, 1_000, 7));
        assert_eq!(folder.measure(None), None, "nothing is new");
        // Half a line is read when it is whole.
        let line = assistant("b", 2_000, 118_000);
        folder.add(&line[..40]);
        assert_eq!(folder.measure(None), None);
        folder.add(&format!("{}\n", &line[40..]));
        let second = folder.measure(None).unwrap();
        assert_eq!((second.percent(), second.input, second.cache_read, second.cache_write), (60, 3_000, 118_000, 10));
    }

    #[test]
    fn a_compaction_makes_room() {
        let folder = Folder::new();
        folder.add(&format!("{}\n", assistant("a", 150_000, 0)));
        assert_eq!(folder.measure(None).unwrap().percent(), 75);
        folder.add("{\"type\":\"system\",\"subtype\":\"compact_boundary\",\"compactMetadata\":{\"trigger\":\"auto\",\"postTokens\":9000}}\n");
        assert_eq!(folder.measure(None).unwrap().percent(), 4);
    }

    #[test]
    fn the_client_knows_its_window_best() {
        let folder = Folder::new();
        folder.add(&format!("{}\n", assistant("a", 300_000, 0)));
        assert_eq!(folder.measure(None).unwrap().percent(), 30, "it is more than the usual window");
        let said = serde_json::json!({
            "context_window": {"context_window_size": 500_000, "current_usage": {"input_tokens": 1, "cache_read_input_tokens": 399_999}},
            "cost": {"total_cost_usd": 0.5964},
        });
        let usage = folder.measure(Some(Said::parse(&said))).unwrap();
        assert_eq!((usage.percent(), usage.cost_microusd), (80, Some(596_400)));
        assert_eq!(Said::parse(&serde_json::json!({"context_window": 3, "cost": []})), Said::default());
    }

    #[test]
    fn a_resumed_conversation_counts_from_where_it_is_resumed() {
        let folder = Folder::new();
        folder.add(&format!("{}\n", assistant("a", 1_000, 0)));
        let gauge = Gauge::resuming(&folder.transcript());
        fs_err::write(path(folder.0.path()), gauge.to_json()).unwrap();
        folder.add(&format!("{}\n", assistant("b", 3_000, 0)));
        assert_eq!(folder.measure(None).unwrap().input, 3_000);
    }

    #[test]
    fn words_of_the_model_are_no_measurement() {
        let folder = Folder::new();
        folder.add(
            "{\"type\":\"user\",\"message\":{\"content\":\"{\\\"type\\\":\\\"assistant\\\",\\\"usage\\\":1}\"}}\n",
        );
        folder.add("{\"usage\"\n\u{0}\n[\"usage\"]\n{\"type\":\"assistant\",\"message\":{\"usage\":{\"input_tokens\":\"9\"}}}\n");
        assert_eq!(folder.measure(None), None);
    }
}
