//! What a viewer and a host say to each other: frames of one kind byte, a
//! length of four bytes (little-endian) and that many bytes. The viewer says
//! hello first. A host never sends the agent's own bytes, only paint that it
//! made from its emulated screen.

use std::io;

use serde::{Deserialize, Serialize};

use super::spec::TerminalSize;
use crate::model::limits::VIEWER_FRAME_BYTES_MAX;
use crate::model::session::Exit;

/// First frame of a viewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub size: TerminalSize,
    /// May type, and may give the screen its size.
    pub interactive: bool,
    /// In a window that Loom opened: whether anybody looks at it is not known.
    #[serde(default)]
    pub unasked: bool,
}

/// A frame from a viewer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromViewer {
    Hello(Hello),
    Input(Vec<u8>),
    Resize(TerminalSize),
}

/// A frame from a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromHost {
    /// Escape sequences and text that bring the viewer's terminal up to date.
    Paint(Vec<u8>),
    /// The last frame: how the agent ended.
    Ended(Exit),
}

impl FromViewer {
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        match self {
            FromViewer::Hello(hello) => frame(b'h', &serde_json::to_vec(hello)?),
            FromViewer::Input(bytes) => frame(b'i', bytes),
            FromViewer::Resize(size) => frame(b'r', &serde_json::to_vec(size)?),
        }
    }
    fn decode(kind: u8, body: Vec<u8>) -> io::Result<FromViewer> {
        match kind {
            b'h' => Ok(FromViewer::Hello(serde_json::from_slice(&body)?)),
            b'i' => Ok(FromViewer::Input(body)),
            b'r' => Ok(FromViewer::Resize(serde_json::from_slice(&body)?)),
            other => Err(unknown(other)),
        }
    }
}

impl FromHost {
    pub fn encode(&self) -> io::Result<Vec<u8>> {
        match self {
            FromHost::Paint(bytes) => frame(b'p', bytes),
            FromHost::Ended(exit) => frame(b'e', &serde_json::to_vec(exit)?),
        }
    }
    fn decode(kind: u8, body: Vec<u8>) -> io::Result<FromHost> {
        match kind {
            b'p' => Ok(FromHost::Paint(body)),
            b'e' => Ok(FromHost::Ended(serde_json::from_slice(&body)?)),
            other => Err(unknown(other)),
        }
    }
}

fn unknown(kind: u8) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a frame of the unknown kind {kind}"))
}

fn too_long(length: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes"))
}

fn frame(kind: u8, body: &[u8]) -> io::Result<Vec<u8>> {
    let length = u32::try_from(body.len()).map_err(|_| too_long(body.len()))?;
    let mut frame = Vec::with_capacity(body.len() + HEAD);
    frame.push(kind);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(body);
    Ok(frame)
}

const HEAD: usize = 5;

/// Cuts a stream of bytes into frames.
#[derive(Debug, Default)]
pub struct Frames {
    pending: Vec<u8>,
}

impl Frames {
    /// Adds what was read.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }
    /// The next frame of a viewer. An error ends the conversation.
    pub fn next_from_viewer(&mut self) -> io::Result<Option<FromViewer>> {
        self.next()?.map(|(kind, body)| FromViewer::decode(kind, body)).transpose()
    }
    /// The next frame of a host. An error ends the conversation.
    pub fn next_from_host(&mut self) -> io::Result<Option<FromHost>> {
        self.next()?.map(|(kind, body)| FromHost::decode(kind, body)).transpose()
    }
    fn next(&mut self) -> io::Result<Option<(u8, Vec<u8>)>> {
        let Some((head, rest)) = self.pending.split_at_checked(HEAD) else { return Ok(None) };
        let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        if length > VIEWER_FRAME_BYTES_MAX {
            return Err(too_long(length));
        }
        let Some(body) = rest.get(..length).map(<[u8]>::to_vec) else { return Ok(None) };
        let kind = head[0];
        self.pending.drain(..HEAD + length);
        Ok(Some((kind, body)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_split() {
        let hello = Hello { size: TerminalSize { rows: 24, cols: 80 }, interactive: true, unasked: false };
        let said = [
            FromViewer::Hello(hello),
            FromViewer::Input(b"\x1b[A\0\xff".to_vec()),
            FromViewer::Resize(TerminalSize { rows: 1, cols: 2 }),
            FromViewer::Input(Vec::new()),
        ];
        let bytes: Vec<u8> = said.iter().flat_map(|frame| frame.encode().unwrap()).collect();
        for step in [1, 2, 7, bytes.len()] {
            let (mut frames, mut heard) = (Frames::default(), Vec::new());
            for chunk in bytes.chunks(step) {
                frames.push(chunk);
                while let Some(frame) = frames.next_from_viewer().unwrap() {
                    heard.push(frame);
                }
            }
            assert_eq!(heard, said);
        }
    }

    #[test]
    fn a_frame_beyond_the_limit_or_of_an_unknown_kind_is_refused() {
        let mut frames = Frames::default();
        frames.push(b"i\xff\xff\xff\xff");
        assert!(frames.next_from_viewer().is_err());
        let mut frames = Frames::default();
        frames.push(b"?\0\0\0\0");
        assert!(frames.next_from_host().is_err());
    }
}
