//! The file door of a sandboxed session: a request is a file in the session's
//! outbox, and so is its answer. The host carries both.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::ClientError;
use crate::base::fail::{self, Point};
use crate::base::{wait, watch};
use crate::model::effect::Answer;
use crate::model::event::Request;
use crate::wire::frame;
use crate::wire::{Call, ClientLine, ServerLine};

/// How long an answer may take; the daemon may be starting again.
const WAIT: Duration = Duration::from_secs(60);

/// Leaves `request` in the outbox of this session and waits for its answer. Without one in time
/// the request is taken back.
pub(super) fn request(request: Request) -> Result<Answer, ClientError> {
    let outbox = outbox().ok_or(ClientError::NoDaemon)?;
    let changes = watch::folder(&outbox)?;
    let left = leave(request)?;
    let reply = left.with_extension("reply");
    let deadline = Instant::now() + WAIT;
    while !reply.exists() {
        if !wait::readable(&changes, deadline)? && !reply.exists() {
            let _ = fs_err::remove_file(&left);
            return Err(ClientError::NoDaemon);
        }
        // What changed does not matter: the file is there or it is not.
        watch::names(&changes);
    }
    let mut bytes = fs_err::read(&reply)?;
    // Both files have done their duty.
    let _ = fs_err::remove_file(&reply);
    bytes.push(b'\n');
    match frame::read_long::<ServerLine>(&mut bytes.as_slice())? {
        Some(ServerLine::Answer { answer, .. }) => Ok(answer),
        _ => Err(ClientError::Gone),
    }
}

/// Leaves `request` in the outbox of this session; the file is the request until it is answered.
pub(super) fn leave(request: Request) -> Result<PathBuf, ClientError> {
    let outbox = outbox().ok_or(ClientError::NoDaemon)?;
    let line = ClientLine { id: 1, token: None, call: Call::Request { request } };
    let bytes = serde_json::to_vec(&line).map_err(std::io::Error::from)?;
    let path = outbox.join(format!("{}.req", uuid::Uuid::new_v4().simple()));
    fail::point(Point::BeforeSpoolRequest)?;
    crate::base::fs::write_atomic(&path, &bytes)?;
    fail::point(Point::AfterSpoolRequest)?;
    Ok(path)
}

fn outbox() -> Option<PathBuf> {
    let token = PathBuf::from(std::env::var_os("LOOM_TOKEN_FILE")?);
    Some(token.parent()?.join("outbox"))
}
