//! One JSON value a line, with a limit on the line.

use std::io::{self, BufRead, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::limits::FRAME_BYTES_MAX;

/// Why a line could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the line is longer than the protocol allows")]
    TooLong,
    #[error("the line is not what was expected")]
    Malformed(#[source] serde_json::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Longest line from a daemon to its client: the status of the largest plan.
const LONG_BYTES_MAX: usize = 16 * FRAME_BYTES_MAX;

/// Reads one line. `None`: the other side closed the connection.
pub fn read<T: DeserializeOwned>(reader: &mut impl BufRead) -> Result<Option<T>, FrameError> {
    read_up_to(reader, FRAME_BYTES_MAX)
}

/// Reads one line from a daemon, whose status may be long.
pub fn read_long<T: DeserializeOwned>(reader: &mut impl BufRead) -> Result<Option<T>, FrameError> {
    read_up_to(reader, LONG_BYTES_MAX)
}

fn read_up_to<T: DeserializeOwned>(reader: &mut impl BufRead, bytes_max: usize) -> Result<Option<T>, FrameError> {
    let mut line = Vec::new();
    reader.take(bytes_max as u64 + 1).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        if line.len() > bytes_max {
            return Err(FrameError::TooLong);
        }
        return Ok(None);
    }
    serde_json::from_slice(&line).map(Some).map_err(FrameError::Malformed)
}

/// Writes one line, and whatever was put before it.
pub fn write(writer: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    put(writer, value)?;
    writer.flush()
}

/// Adds one line that goes with the next one.
pub fn put(writer: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    writer.write_all(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_beyond_the_limit_ends_the_conversation() {
        let long = vec![b'x'; FRAME_BYTES_MAX + 10];
        assert!(matches!(read::<String>(&mut long.as_slice()), Err(FrameError::TooLong)));
        assert!(matches!(read::<String>(&mut b"{}\n".as_slice()), Err(FrameError::Malformed(_))));
        assert!(read::<String>(&mut b"".as_slice()).unwrap().is_none());
        assert!(read::<String>(&mut b"\"cut".as_slice()).unwrap().is_none());
        assert_eq!(read::<String>(&mut b"\"x\"\n".as_slice()).unwrap().as_deref(), Some("x"));
    }
}
