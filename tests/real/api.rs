//! A Messages API that follows a script. Requests of the agent's main loop are
//! matched to lanes; each conversation walks through its lane's turns on its
//! own, so that several sessions can run against one server. Everything that
//! was asked is kept for assertions.

use std::collections::{HashMap, HashSet};
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use serde_json::{Value, json};

use crate::deadline::LONG;
use crate::http::{self, HttpRequest};

/// What the model does, lane by lane; the first that matches takes a request.
#[derive(Debug, Default)]
pub struct Script {
    lanes: Vec<Lane>,
}

impl Script {
    pub fn new() -> Script {
        Script::default()
    }
    /// One lane for everything.
    pub fn of(turns: impl IntoIterator<Item = Turn>) -> Script {
        Script::new().lane(Lane::new("main").turns(turns))
    }
    pub fn lane(mut self, lane: Lane) -> Script {
        self.lanes.push(lane);
        self
    }
}

/// A role in the script.
#[derive(Debug)]
pub struct Lane {
    name: String,
    when: Vec<When>,
    turns: Vec<Turn>,
}

/// What a request must be like; every condition of a lane must hold.
#[derive(Debug, Clone)]
pub enum When {
    /// The first message of the user contains this.
    FirstUser(String),
    /// The last message of the user contains this.
    LastUser(String),
    /// Some message, or the system prompt, contains this.
    Anywhere(String),
    /// It comes from a subagent, or does not.
    Subagent(bool),
}

impl Lane {
    pub fn new(name: &str) -> Lane {
        Lane { name: name.to_owned(), when: Vec::new(), turns: Vec::new() }
    }
    pub fn when(mut self, when: When) -> Lane {
        self.when.push(when);
        self
    }
    pub fn turns(mut self, turns: impl IntoIterator<Item = Turn>) -> Lane {
        self.turns.extend(turns);
        self
    }
}

/// One reply. Strings may hold `{{cwd}}`, `{{stage}}`, `{{session}}`, `{{last_tool_result}}`.
#[derive(Debug, Clone)]
pub enum Turn {
    Message {
        blocks: Vec<Value>,
        input_tokens: u64,
        headers: Vec<(String, String)>,
    },
    /// An error status before any event.
    Error {
        status: u16,
        kind: String,
        message: String,
        headers: Vec<(String, String)>,
    },
    /// Waits for [`Api::release`] before it says this.
    Held {
        name: String,
        turn: Box<Turn>,
    },
    /// Says nothing until the server ends.
    Hang,
    /// Starts a reply and hangs up in the middle of it.
    Cut,
    /// Starts a text and says nothing more until the server ends.
    Stall,
}

impl Turn {
    pub fn text(text: &str) -> Turn {
        Turn::message(vec![json!({"type": "text", "text": text})])
    }
    pub fn tool(name: &str, input: Value) -> Turn {
        Turn::message(Vec::new()).and_tool(name, input)
    }
    /// `Bash` with this command.
    pub fn bash(line: &str) -> Turn {
        Turn::tool("Bash", json!({"command": line, "description": "scripted"}))
    }
    pub fn error(status: u16, kind: &str, message: &str) -> Turn {
        Turn::Error { status, kind: kind.to_owned(), message: message.to_owned(), headers: Vec::new() }
    }
    fn message(blocks: Vec<Value>) -> Turn {
        Turn::Message { blocks, input_tokens: 1_000, headers: Vec::new() }
    }
    /// A further tool call in the same message.
    pub fn and_tool(mut self, name: &str, input: Value) -> Turn {
        if let Turn::Message { blocks, .. } = &mut self {
            blocks.push(json!({"type": "tool_use", "name": name, "input": input}));
        }
        self
    }
    /// Claims this size of the context.
    pub fn tokens(mut self, tokens: u64) -> Turn {
        if let Turn::Message { input_tokens, .. } = &mut self {
            *input_tokens = tokens;
        }
        self
    }
    /// Is said only after [`Api::release`].
    pub fn held(self, name: &str) -> Turn {
        Turn::Held { name: name.to_owned(), turn: Box::new(self) }
    }
    pub fn header(mut self, name: &str, value: &str) -> Turn {
        if let Turn::Message { headers, .. } | Turn::Error { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }
}

/// One request as it was seen.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub path: String,
    /// The conversation.
    pub session: String,
    /// Not empty: a subagent.
    pub agent: String,
    pub model: String,
    /// Offers tools: the agent's main loop, not a side request.
    pub is_main: bool,
    pub api_key: String,
    pub first_user: String,
    pub last_user: String,
    /// Text of every message and of the system prompt.
    pub everything: String,
    pub last_tool_result: String,
    /// The lane that answered; empty for a side request.
    pub lane: String,
    pub turn: usize,
}

/// The server. Ends, and lets hanging requests go, when it is dropped.
pub struct Api {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    script: Script,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    /// How many turns each conversation (and subagent) has had of each lane.
    turns: HashMap<(String, String, String), usize>,
    released: HashSet<String>,
    is_over: bool,
}

impl Api {
    pub fn start(script: Script) -> Api {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { script, state: Mutex::default(), changed: Condvar::new() });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.state.lock().unwrap().is_over {
                    break;
                }
                let (Ok(stream), shared) = (stream, Arc::clone(&accepting)) else { continue };
                std::thread::spawn(move || shared.serve(&stream));
            }
        });
        Api { address, shared }
    }
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
    /// Lets a held turn go on.
    pub fn release(&self, name: &str) {
        self.shared.state.lock().unwrap().released.insert(name.to_owned());
        self.shared.changed.notify_all();
    }
    /// Every request so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.state.lock().unwrap().seen.clone()
    }
    /// The requests of main loops so far.
    pub fn main_requests(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.is_main).collect()
    }
    /// Waits for a request of which `is_wanted` is true, also one that is there already.
    #[track_caller]
    pub fn wait_for(&self, what: &str, is_wanted: impl Fn(&Seen) -> bool) -> Seen {
        let end = Instant::now() + LONG;
        let mut state = self.shared.state.lock().unwrap();
        loop {
            if let Some(found) = state.seen.iter().find(|seen| is_wanted(seen)) {
                return found.clone();
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let seen = brief(&state.seen);
                drop(state);
                panic!("no request {what} within {LONG:?}; seen: {seen:#?}");
            }
            state = self.shared.changed.wait_timeout(state, left).unwrap().0;
        }
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.shared.state.lock().unwrap().is_over = true;
        self.shared.changed.notify_all();
        // Wakes the accepting thread.
        drop(TcpStream::connect(self.address));
    }
}

fn brief(seen: &[Seen]) -> Vec<String> {
    seen.iter().map(|seen| format!("{} {} lane `{}` {}", seen.method, seen.path, seen.lane, seen.turn)).collect()
}

impl Shared {
    /// Answers requests of one connection until it ends.
    fn serve(&self, stream: &TcpStream) {
        let mut reader = BufReader::new(stream);
        while let Ok(Some(request)) = http::read_request(&mut reader) {
            match self.answer(&request, &mut &*stream) {
                Ok(Next::KeepAlive) => {}
                Ok(Next::Close) | Err(_) => break,
            }
        }
        drop(stream.shutdown(std::net::Shutdown::Both));
    }
    fn answer(&self, request: &HttpRequest, out: &mut impl Write) -> std::io::Result<Next> {
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let mut seen = Seen::of(request, &body);
        let path = request.path.split('?').next().unwrap_or_default();
        match (request.method.as_str(), path) {
            ("HEAD", _) => {
                self.keep(seen);
                reply_json(out, 200, &[], &json!({}), false)
            }
            ("POST", "/v1/messages/count_tokens") => {
                self.keep(seen);
                reply_json(out, 200, &[], &json!({"input_tokens": request.body.len() / 4}), true)
            }
            ("POST", "/v1/messages") => {
                let turn = self.next_turn(&mut seen);
                let is_stream = body["stream"] == true;
                self.keep(seen.clone());
                self.play(&seen, turn, is_stream, out)
            }
            _ => {
                self.keep(seen);
                reply_json(out, 404, &[], &error_body("not_found_error", "not in the script"), true)
            }
        }
    }
    fn keep(&self, seen: Seen) {
        self.state.lock().unwrap().seen.push(seen);
        self.changed.notify_all();
    }
    /// Picks the turn for a request, and notes in `seen` which it was.
    fn next_turn(&self, seen: &mut Seen) -> Turn {
        if !seen.is_main {
            return Turn::text("{\"title\": \"scripted\"}");
        }
        let Some(lane) = self.script.lanes.iter().find(|lane| lane.takes(seen)) else {
            return Turn::error(400, "invalid_request_error", "no lane of the script takes this request");
        };
        let key = (lane.name.clone(), seen.session.clone(), seen.agent.clone());
        let mut state = self.state.lock().unwrap();
        let count = state.turns.entry(key).or_default();
        seen.lane.clone_from(&lane.name);
        seen.turn = *count;
        *count += 1;
        lane.turns.get(seen.turn).cloned().unwrap_or_else(|| Turn::text("(the script is over)"))
    }
    fn play(&self, seen: &Seen, turn: Turn, is_stream: bool, out: &mut impl Write) -> std::io::Result<Next> {
        match turn {
            Turn::Error { status, kind, message, headers } => {
                reply_json(out, status, &headers, &error_body(&kind, &message), true)
            }
            Turn::Held { name, turn } => {
                let mut state = self.state.lock().unwrap();
                while !state.is_over && !state.released.contains(&name) {
                    state = self.changed.wait(state).unwrap();
                }
                drop(state);
                self.play(seen, *turn, is_stream, out)
            }
            Turn::Hang => {
                let mut state = self.state.lock().unwrap();
                while !state.is_over {
                    state = self.changed.wait(state).unwrap();
                }
                Ok(Next::Close)
            }
            Turn::Cut => {
                http::write_stream_head(out, &[])?;
                event(out, "message_start", json!({"message": message(seen, Vec::new(), 1)}))?;
                Ok(Next::Close)
            }
            Turn::Stall => {
                http::write_stream_head(out, &[])?;
                event(out, "message_start", json!({"message": message(seen, Vec::new(), 1)}))?;
                event(out, "content_block_start", json!({"index": 0, "content_block": {"type": "text", "text": ""}}))?;
                let delta = json!({"type": "text_delta", "text": "I begin to say"});
                event(out, "content_block_delta", json!({"index": 0, "delta": delta}))?;
                self.play(seen, Turn::Hang, is_stream, out)
            }
            Turn::Message { blocks, input_tokens, headers } => {
                let blocks = blocks.into_iter().map(|block| seen.block(block)).collect();
                let message = message(seen, blocks, input_tokens);
                if is_stream {
                    http::write_stream_head(out, &headers)?;
                    stream_message(out, message)?;
                    return Ok(Next::Close);
                }
                reply_json(out, 200, &headers, &message, true)
            }
        }
    }
}

enum Next {
    KeepAlive,
    Close,
}

impl Lane {
    fn takes(&self, seen: &Seen) -> bool {
        self.when.iter().all(|when| match when {
            When::FirstUser(text) => seen.first_user.contains(text),
            When::LastUser(text) => seen.last_user.contains(text),
            When::Anywhere(text) => seen.everything.contains(text),
            When::Subagent(wanted) => seen.agent.is_empty() != *wanted,
        })
    }
}

impl Seen {
    fn of(request: &HttpRequest, body: &Value) -> Seen {
        let empty = Vec::new();
        let messages = body["messages"].as_array().unwrap_or(&empty);
        let users: Vec<&Value> = messages.iter().filter(|message| message["role"] == "user").collect();
        let header = |name| request.header(name).unwrap_or_default().to_owned();
        let system = text_of(&body["system"]);
        let all: Vec<String> = messages.iter().map(|message| text_of(&message["content"])).collect();
        Seen {
            method: request.method.clone(),
            path: request.path.clone(),
            session: header("x-claude-code-session-id"),
            agent: header("x-claude-code-agent-id"),
            model: body["model"].as_str().unwrap_or_default().to_owned(),
            is_main: body["tools"].as_array().is_some_and(|tools| !tools.is_empty()),
            api_key: header("x-api-key"),
            first_user: users.first().map(|message| text_of(&message["content"])).unwrap_or_default(),
            last_user: users.last().map(|message| text_of(&message["content"])).unwrap_or_default(),
            everything: format!("{system}\n{}", all.join("\n")),
            last_tool_result: last_tool_result(messages),
            lane: String::new(),
            turn: 0,
        }
    }
    /// The block with its templates filled, and an id where it needs one.
    fn block(&self, block: Value) -> Value {
        let mut block = self.fill(block);
        if block["type"] == "tool_use" {
            block["id"] = json!(format!("toolu_{}", uuid::Uuid::new_v4().simple()));
        }
        block
    }
    fn fill(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(
                text.replace("{{cwd}}", word_after(&self.everything, "working directory: "))
                    .replace(
                        "{{stage}}",
                        word_after(&self.everything, "loom stage complete ").trim_end_matches(['`', '.', ',']),
                    )
                    .replace("{{session}}", &self.session)
                    .replace("{{last_tool_result}}", &self.last_tool_result),
            ),
            Value::Array(values) => values.into_iter().map(|value| self.fill(value)).collect(),
            Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, self.fill(value))).collect(),
            other => other,
        }
    }
}

fn word_after<'a>(text: &'a str, mark: &str) -> &'a str {
    text.split_once(mark).and_then(|(_, rest)| rest.split_whitespace().next()).unwrap_or_default()
}

fn last_tool_result(messages: &[Value]) -> String {
    let blocks = messages.iter().rev().filter_map(|message| message["content"].as_array());
    let mut results = blocks.flat_map(|blocks| blocks.iter().rev().filter(|block| block["type"] == "tool_result"));
    results.next().map(|result| text_of(&result["content"])).unwrap_or_default()
}

fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => blocks.iter().map(text_of_block).collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    }
}

fn text_of_block(block: &Value) -> String {
    match block["type"].as_str() {
        Some("tool_result") => text_of(&block["content"]),
        _ => block["text"].as_str().unwrap_or_default().to_owned(),
    }
}

fn error_body(kind: &str, message: &str) -> Value {
    json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_scripted"})
}

fn reply_json(
    out: &mut impl Write,
    status: u16,
    headers: &[(String, String)],
    body: &Value,
    has_body: bool,
) -> std::io::Result<Next> {
    let json = ("content-type".to_owned(), "application/json".to_owned());
    let headers: Vec<_> = std::iter::once(json).chain(headers.iter().cloned()).collect();
    http::write_reply(out, status, &headers, body.to_string().as_bytes(), has_body)?;
    Ok(Next::KeepAlive)
}

fn message(seen: &Seen, blocks: Vec<Value>, input_tokens: u64) -> Value {
    let calls_tool = blocks.iter().any(|block| block["type"] == "tool_use");
    json!({
        "id": format!("msg_{}", uuid::Uuid::new_v4().simple()),
        "type": "message",
        "role": "assistant",
        "model": seen.model,
        "content": blocks,
        "stop_reason": if calls_tool { "tool_use" } else { "end_turn" },
        "stop_sequence": null,
        "usage": {
            "input_tokens": input_tokens, "output_tokens": 20,
            "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
        },
    })
}

/// The message as the events of a stream.
fn stream_message(out: &mut impl Write, mut message: Value) -> std::io::Result<()> {
    let blocks = message["content"].take();
    let stop_reason = message["stop_reason"].take();
    let usage = message["usage"].clone();
    message["content"] = json!([]);
    event(out, "message_start", json!({"message": message}))?;
    for (index, mut block) in blocks.as_array().cloned().unwrap_or_default().into_iter().enumerate() {
        let delta = if block["type"] == "tool_use" {
            let input = std::mem::replace(&mut block["input"], json!({}));
            json!({"type": "input_json_delta", "partial_json": input.to_string()})
        } else {
            let text = std::mem::replace(&mut block["text"], json!(""));
            json!({"type": "text_delta", "text": text})
        };
        event(out, "content_block_start", json!({"index": index, "content_block": block}))?;
        event(out, "content_block_delta", json!({"index": index, "delta": delta}))?;
        event(out, "content_block_stop", json!({"index": index}))?;
    }
    let delta = json!({"stop_reason": stop_reason, "stop_sequence": null});
    event(out, "message_delta", json!({"delta": delta, "usage": usage}))?;
    event(out, "message_stop", json!({}))
}

fn event(out: &mut impl Write, kind: &str, mut fields: Value) -> std::io::Result<()> {
    fields["type"] = json!(kind);
    write!(out, "event: {kind}\ndata: {fields}\n\n")?;
    out.flush()
}
