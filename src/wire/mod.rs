//! The protocol: JSON lines over a Unix socket. The client says hello first,
//! the server answers hello or why not; then calls and replies, each with its
//! id; after a subscription, updates in between. A line longer than
//! [`crate::model::limits::FRAME_BYTES_MAX`] ends the connection.

pub mod frame;
pub mod picture;
pub mod status;

use serde::{Deserialize, Serialize};

use crate::model::effect::Answer;
use crate::model::event::Request;

/// Oldest and newest protocol this binary speaks.
pub const PROTOCOL_MIN: u32 = 1;
pub const PROTOCOL_MAX: u32 = 1;

/// First line in both directions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub min: u32,
    pub max: u32,
    /// Version of the binary, for messages.
    pub version: String,
    /// Set by a server that will not talk: why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

impl Hello {
    pub fn ours() -> Hello {
        Hello { min: PROTOCOL_MIN, max: PROTOCOL_MAX, version: env!("CARGO_PKG_VERSION").to_owned(), refused: None }
    }
}

/// A line from a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientLine {
    pub id: u64,
    /// A session's token; without it the caller must prove to be an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    pub call: Call,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "kebab-case")]
pub enum Call {
    Request {
        request: Request,
    },
    Status,
    /// The status as a person reads it.
    Picture {
        color: bool,
    },
    /// Status now, and again after every change.
    Subscribe,
}

/// A line from the server. The name of the line comes first and around its fields: a tag
/// among them would make every reader keep the whole status in memory before it reads it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerLine {
    Answer {
        id: u64,
        answer: Answer,
    },
    Status {
        id: u64,
        status: Box<status::Status>,
    },
    Picture {
        id: u64,
        text: String,
    },
    /// The daemon came to its end before it took the request: nothing of it was done.
    NotTaken {
        id: u64,
    },
    /// The client read too slowly: what follows is a fresh status.
    Resync,
}

/// `daemon.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonRecord {
    pub pid: u32,
    pub version: String,
    pub socket: std::path::PathBuf,
    pub started_at: jiff::Timestamp,
}
