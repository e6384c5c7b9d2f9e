//! The file door of a sandboxed session: a request is a file in the session's
//! outbox, and so is its answer. The host carries both.

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::ClientError;
use crate::model::effect::Answer;
use crate::model::event::Request;
use crate::wire::frame;
use crate::wire::{Call, ClientLine, ServerLine};

/// How long an answer may take; the daemon may be starting again.
const WAIT: Duration = Duration::from_secs(60);

/// Leaves `request` in the outbox of this session and waits for its answer.
pub(super) fn request(request: Request) -> Result<Answer, ClientError> {
    let outbox = outbox().ok_or(ClientError::NoDaemon)?;
    let line = ClientLine { id: 1, token: None, call: Call::Request { request } };
    let name = uuid::Uuid::new_v4().simple().to_string();
    let reply = outbox.join(format!("{name}.reply"));
    let watch = watch(&outbox)?;
    let bytes = serde_json::to_vec(&line).map_err(std::io::Error::from)?;
    crate::base::fs::write_atomic(&outbox.join(format!("{name}.req")), &bytes)?;
    let deadline = Instant::now() + WAIT;
    while !reply.exists() {
        if !changed_before(&watch, deadline)? {
            return Err(ClientError::NoDaemon);
        }
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

fn outbox() -> Option<PathBuf> {
    let token = PathBuf::from(std::env::var_os("LOOM_TOKEN_FILE")?);
    Some(token.parent()?.join("outbox"))
}

fn watch(dir: &std::path::Path) -> Result<OwnedFd, ClientError> {
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(std::io::Error::from)?;
    inotify::add_watch(&watch, dir, WatchFlags::MOVED_TO | WatchFlags::CLOSE_WRITE).map_err(std::io::Error::from)?;
    Ok(watch)
}

/// Waits for a change. False: the deadline came first.
fn changed_before(watch: &OwnedFd, deadline: Instant) -> Result<bool, ClientError> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout =
        Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(0), tv_nsec: i64::from(left.subsec_nanos()) };
    let mut fds = [PollFd::from_borrowed_fd(watch.as_fd(), PollFlags::IN)];
    let ready = poll(&mut fds, Some(&timeout)).map_err(std::io::Error::from)?;
    let mut drained = [0_u8; 4096];
    // What changed does not matter: the file is there or it is not.
    let _ = rustix::io::read(watch, &mut drained);
    Ok(ready > 0)
}
