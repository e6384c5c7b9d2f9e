//! `loom attach` and `loom logs`: what a session shows and printed.

use std::io::{self, Write};
use std::path::Path;
use std::str::FromStr;

use crate::base::text::{self, printable};
use crate::base::wait::{Interest, wait};
use crate::base::{fs, watch};
use crate::cli::args::{Attach, Logs};
use crate::cli::failure::{Failure, exit};
use crate::cli::place::Place;
use crate::cli::ui;
use crate::client;
use crate::daemon::ReadOnly;
use crate::host::spec::{HostFolder, HostRecord};
use crate::host::{logs as host_logs, viewer};
use crate::kernel::world::Run;
use crate::model::ids::{SessionId, StageId};
use crate::wire::status::SessionRow;

pub fn attach(place: &Place, args: &Attach) -> Result<u8, Failure> {
    let session = find(place, &args.target)?;
    let dir = place.layout.session(&session);
    let record: HostRecord = fs_err::read(HostFolder::new(&dir).record())
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .ok_or_else(|| Failure::user(format!("session `{session}` has not started yet")).hint("loom status"))?;
    let Some(socket) = record.attach_socket.filter(|_| fs::is_locked(&HostFolder::new(&dir).lock()).unwrap_or(false))
    else {
        let what = format!("session `{session}` has no live terminal");
        return Err(Failure::user(what).hint(format!("loom logs {session}")));
    };
    let hands = match (args.read_only, args.window) {
        (true, _) => viewer::Hands::Off,
        (false, true) => viewer::Hands::Unasked,
        (false, false) => viewer::Hands::On,
    };
    let left = viewer::attach(&socket, hands).map_err(|error| match error.kind() {
        std::io::ErrorKind::Unsupported => Failure::user(error.to_string()).hint(format!("loom logs -f {session}")),
        _ => error.into(),
    });
    match left? {
        viewer::Left::Detached => {
            ui::note(format!("detached; session `{session}` goes on. Again: loom attach {}", args.target))
        }
        viewer::Left::Ended(exit) => ui::note(format!("session `{session}` ended with {exit}")),
    }
    Ok(exit::OK)
}

pub fn logs(place: &Place, args: &Logs) -> Result<u8, Failure> {
    let mut out = io::stdout().lock();
    let result = match &args.target {
        None => match fs_err::read(place.layout.daemon_log()) {
            Ok(bytes) if !bytes.is_empty() => out.write_all(&bytes),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => {
                ui::note("no daemon has said anything here yet");
                Ok(())
            }
        },
        Some(target) => {
            let session = find(place, target)?;
            let dir = place.layout.session(&session);
            let mut has_setup = show_setup(place, target, args.follow, &mut out)?;
            if args.follow {
                wait_for_start(place, &session)?;
                has_setup = has_setup || show_setup(place, target, true, &mut out)?;
            }
            if !HostFolder::new(&dir).record().exists() {
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
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(exit::OK),
        other => Ok(other.map(|()| exit::OK)?),
    }
}

/// Returns when the session has a host, or will never have one.
fn wait_for_start(place: &Place, session: &SessionId) -> Result<(), Failure> {
    let is_coming =
        |row: &SessionRow| row.id == session.as_str() && matches!(row.state.as_str(), "setting-up" | "starting");
    client::status_when(&place.layout, |status| !status.sessions.iter().any(is_coming))?;
    Ok(())
}

/// What `setup` and `teardown` of a stage's worktree printed, before the words of its session.
/// False: nothing.
fn show_setup(place: &Place, target: &str, follow: bool, out: &mut dyn Write) -> Result<bool, Failure> {
    let read = ReadOnly::open(&place.layout)?;
    let Some(run) = &read.world.run else { return Ok(false) };
    let Some(stage) = StageId::from_str(target).ok().and_then(|id| run.stages.get(&id)) else { return Ok(false) };
    let id = &stage.spec.id;
    let newest = run.sessions.get(&SessionId::of(id, stage.sessions));
    let folder = newest.map_or(id.as_str(), |session| session.worktree.as_str());
    let log = place.layout.setup_log(folder);
    if !log.exists() {
        return Ok(false);
    }
    match follow_setup(&log, &place.layout.setup_lock(folder), follow, out) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(true),
    }
}

/// Prints the log in whole lines; with `follow`, goes on for as long as somebody holds the lock.
fn follow_setup(log: &Path, lock: &Path, follow: bool, out: &mut dyn Write) -> io::Result<()> {
    let changes = if follow { Some(watch::growth(log.parent().unwrap_or(log))?) } else { None };
    let mut printed = 0;
    loop {
        let is_over = changes.is_none() || !fs::is_locked(lock)?;
        let bytes = fs_err::read(log)?;
        let end = match bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(last) if !is_over => last + 1,
            None if !is_over => 0,
            _ => bytes.len(),
        };
        let new = bytes.get(printed..end).unwrap_or_default();
        out.write_all(printable(&String::from_utf8_lossy(new)).as_bytes())?;
        out.flush()?;
        printed = end;
        let Some(changes) = changes.as_ref().filter(|_| !is_over) else { return Ok(()) };
        wait(&[Interest::read(changes)], None)?;
        // The kernel reports the close of a lock a moment before it gives it back.
        if watch::names(changes).iter().any(|name| Some(name.as_os_str()) == lock.file_name()) {
            fs::wait_unlocked(lock)?;
        }
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
        None if SessionId::from_str(target).is_ok() => {
            let failure = Failure::user(format!("there is no session `{target}` in plan `{}`", run.plan.id));
            Err(match text::similar(target, run.sessions.keys().map(SessionId::as_str)) {
                Some(name) => failure.hint(format!("did you mean `{name}`?")),
                None => failure.hint("loom status"),
            })
        }
        None => Err(crate::kernel::unknown_stage(run, target).into()),
    }
}
