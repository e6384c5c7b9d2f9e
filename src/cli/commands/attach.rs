//! `loom attach` and `loom logs`: what a session shows and printed.

use std::str::FromStr;

use crate::cli::args::{Attach, Logs};
use crate::cli::failure::{Failure, exit};
use crate::cli::place::Place;
use crate::cli::ui;
use crate::daemon::ReadOnly;
use crate::host::spec::{HostFolder, HostRecord};
use crate::host::{logs as host_logs, viewer};
use crate::kernel::world::Run;
use crate::model::ids::{SessionId, StageId};

pub fn attach(place: &Place, args: &Attach) -> Result<u8, Failure> {
    let session = find(place, &args.target)?;
    let dir = place.layout.session(&session);
    let record: HostRecord = fs_err::read(HostFolder::new(&dir).record())
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .ok_or_else(|| Failure::user(format!("session `{session}` has not started yet")).hint("loom status"))?;
    let Some(socket) =
        record.attach_socket.filter(|_| crate::base::fs::is_locked(&HostFolder::new(&dir).lock()).unwrap_or(false))
    else {
        let what = format!("session `{session}` has no live terminal");
        return Err(Failure::user(what).hint(format!("loom logs {session}")));
    };
    let hands = match (args.read_only, args.window) {
        (true, _) => viewer::Hands::Off,
        (false, true) => viewer::Hands::Unasked,
        (false, false) => viewer::Hands::On,
    };
    match viewer::attach(&socket, hands)? {
        viewer::Left::Detached => {
            ui::note(format!("detached; session `{session}` goes on. Again: loom attach {}", args.target))
        }
        viewer::Left::Ended(exit) => ui::note(format!("session `{session}` ended with {exit}")),
    }
    Ok(exit::OK)
}

pub fn logs(place: &Place, args: &Logs) -> Result<u8, Failure> {
    let mut out = std::io::stdout().lock();
    let result = match &args.target {
        None => {
            use std::io::Write;
            match fs_err::read(place.layout.daemon_log()) {
                Ok(bytes) => out.write_all(&bytes),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
            }
        }
        Some(target) => {
            let session = find(place, target)?;
            let dir = place.layout.session(&session);
            let has_setup = show_setup(place, target, &mut out)?;
            if !dir.exists() {
                if has_setup {
                    return Ok(exit::OK);
                }
                return Err(Failure::user(format!("session `{session}` left no log")).hint("loom status"));
            }
            if args.raw {
                host_logs::follow_raw(&dir, args.follow, &mut out)
            } else {
                host_logs::follow(&dir, args.follow, &mut out)
            }
        }
    };
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(exit::OK),
        other => Ok(other.map(|()| exit::OK)?),
    }
}

/// What `setup` and `teardown` of a stage's worktree printed, before the words of its session.
fn show_setup(place: &Place, target: &str, out: &mut dyn std::io::Write) -> Result<bool, Failure> {
    let read = ReadOnly::open(&place.layout)?;
    let stage = StageId::from_str(target).ok();
    let stage =
        stage.and_then(|id| read.world.run.as_ref().and_then(|run| run.stages.get(&id)).map(|stage| (id, stage)));
    let Some((id, stage)) = stage else { return Ok(false) };
    let newest = read.world.run.as_ref().and_then(|run| run.sessions.get(&SessionId::of(&id, stage.sessions)));
    let folder = newest.map_or(id.as_str(), |session| session.worktree.as_str());
    let Ok(log) = fs_err::read(place.layout.setup_log(folder)) else { return Ok(false) };
    match out.write_all(crate::base::text::printable(&String::from_utf8_lossy(&log)).as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(!log.is_empty()),
    }
}

/// The session that `target` means: itself, or the newest of a stage.
fn find(place: &Place, target: &str) -> Result<SessionId, Failure> {
    let read = ReadOnly::open(&place.layout)?;
    let Some(run) = read.world.run else { return Err(crate::daemon::BootError::NoPlan.into()) };
    if let Ok(session) = SessionId::from_str(target)
        && run.sessions.contains_key(&session)
    {
        return Ok(session);
    }
    newest(&run, target)
}

fn newest(run: &Run, target: &str) -> Result<SessionId, Failure> {
    let stage = StageId::from_str(target).ok().and_then(|id| run.stages.get(&id));
    match stage {
        Some(stage) if stage.sessions > 0 => Ok(SessionId::of(&stage.spec.id, stage.sessions)),
        Some(stage) => {
            let what = format!("stage `{target}` has had no session yet: it is {}", stage.state.kind().as_str());
            Err(Failure::user(what).hint("loom status"))
        }
        None => Err(crate::kernel::unknown_stage(run, target).into()),
    }
}
