//! Boot is a list: what is opened, in which order, and why it may be refused.

use std::io::Write;
use std::path::Path;
use std::sync::mpsc::Sender;

use crate::base::clock;
use crate::base::fail::{self, Point};
use crate::base::fs::{Lock, write_atomic};
use crate::base::layout::Layout;
use crate::daemon::dispatcher::{Dispatcher, Message};
use crate::daemon::turn::Mode;
use crate::daemon::{executor, server};
use crate::git::{Anchored, Git};
use crate::journal::{self, Disk, Journal, JournalError, Lost, Tail};
use crate::kernel::{self, Observed, World};
use crate::model::anchor::Anchor;
use crate::model::attention::Channels;
use crate::model::effect::Answer;
use crate::model::event::{Event, Request, RunOptions};
use crate::wire::DaemonRecord;

/// Why the state of a project cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    #[error("another loom process is at work in this project")]
    Busy,
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error("{what}: {source}")]
    Io { what: String, source: std::io::Error },
    #[error("{path} belongs to another user (uid {owner})")]
    Foreign { path: std::path::PathBuf, owner: u32 },
    #[error("this project has no plan yet")]
    NoPlan,
}

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> BootError {
    let what = what.into();
    move |source| BootError::Io { what, source }
}

/// The world as the journal tells it, without any lock: for reading.
#[derive(Debug, Default)]
pub struct ReadOnly {
    pub world: World,
    pub tail: Tail,
    /// Why this journal must not be written: a newer Loom wrote it, or git knows another history.
    pub trouble: Option<JournalError>,
}

impl ReadOnly {
    /// Folds the journal of `layout`, as far as this version knows what is in it.
    ///
    /// # Errors
    /// When it cannot be read, or is damaged.
    pub fn open(layout: &Layout) -> Result<ReadOnly, BootError> {
        ReadOnly::against(layout, None)
    }

    /// As [`ReadOnly::open`], and compares with what git says about the journal.
    pub fn checked(layout: &Layout, git: &Git) -> Result<ReadOnly, BootError> {
        // Read first: a writer that is at work anchors nothing that is not in the journal.
        let anchored = git.anchored().map_err(|error| io("refs/loom/journal cannot be read")(into_io(error)))?;
        let mut read =
            ReadOnly::against(layout, if let Anchored::At(anchor) = &anchored { Some(anchor) } else { None })?;
        if anchored == Anchored::Unreadable {
            read.trouble = Some(JournalError::Lost { path: layout.journal(), lost: Lost::Unreadable });
        }
        Ok(read)
    }

    fn against(layout: &Layout, anchor: Option<&Anchor>) -> Result<ReadOnly, BootError> {
        let path = layout.journal();
        Ok(ReadOnly::default().fold_more(&journal::bytes(&path)?, &path, anchor)?)
    }

    /// Folds the journal that is in `bytes`; `path` is what errors call it.
    pub fn fold(bytes: &[u8], path: &Path) -> Result<ReadOnly, JournalError> {
        ReadOnly::default().fold_more(bytes, path, None)
    }

    /// Goes on with the lines that follow what was read.
    pub fn fold_more(self, bytes: &[u8], path: &Path, anchor: Option<&Anchor>) -> Result<ReadOnly, JournalError> {
        let mut world = self.world;
        let scan = journal::scan_after(self.tail, bytes, path, anchor, |line| {
            for fact in &line.record.facts {
                world.apply(fact, line.record.at);
            }
        });
        match scan.trouble {
            Some(damage @ JournalError::Damaged { .. }) => Err(damage),
            trouble => Ok(ReadOnly { world, tail: scan.tail, trouble }),
        }
    }
}

fn into_io(error: crate::git::GitError) -> std::io::Error {
    std::io::Error::other(error.to_string())
}

/// The state of a project, opened for writing: nobody else writes while this lives.
pub struct Opened {
    dispatcher: Dispatcher,
    sender: Sender<Message>,
    lock: Lock,
    /// What a person should know about the opening.
    pub notices: Vec<String>,
}

impl Opened {
    /// Makes `.work/` unless it is there, takes the writer lock and folds the journal.
    pub fn open(layout: &Layout, mode: Mode) -> Result<Opened, BootError> {
        scaffold(layout)?;
        let lock = take_lock(layout)?;
        fail::point(Point::HasWriterLock).map_err(io("the state cannot be opened"))?;
        let git = git_of(layout);
        tidy_after_a_killed_daemon(layout, git.as_ref());
        let read = match &git {
            Some(git) => ReadOnly::checked(layout, git)?,
            None => ReadOnly::open(layout)?,
        };
        if let Some(trouble) = read.trouble {
            return Err(trouble.into());
        }
        let mut notices = Vec::new();
        if read.tail.torn_bytes > 0 {
            notices.push(format!(
                "the journal's last line was cut off in the middle of a write ({} bytes): it was never acknowledged and is removed",
                read.tail.torn_bytes
            ));
        }
        let journal = Journal::resume(Disk::open(&layout.journal())?, &read.tail)?;
        let (dispatcher, sender) = Dispatcher::new(layout.clone(), read.world, journal, mode);
        Ok(Opened { dispatcher, sender, lock, notices })
    }

    /// What ended while nobody was looking.
    fn recovered(&self) -> Vec<Event> {
        let layout = &self.dispatcher.layout();
        let ended = self.dispatcher.with_world(|world| {
            let boot_id = crate::base::process::boot_id();
            kernel::recover(world, &Observed { boot_id, ended: executor::ended_sessions(layout, world) })
        });
        let git = if ended.is_empty() { None } else { git_of(layout) };
        let heard = |event| match event {
            Event::SessionEnded { session, exit } => executor::ended(layout, git.as_ref(), session, exit),
            other => vec![other],
        };
        ended.into_iter().flat_map(heard).collect()
    }

    /// Carries one operator's request out and gives the lock back.
    pub fn request(self, request: Request) -> Result<Answer, BootError> {
        let events = self.recovered();
        let Opened { mut dispatcher, lock, .. } = self;
        let answer = dispatcher.one_request(&events, request)?;
        drop(lock);
        // The process is about to end, and that gives the world of a large plan back at once: piece
        // by piece it takes 2 ms.
        std::mem::forget(dispatcher);
        Ok(answer)
    }

    /// The options of the daemon that ran last.
    pub fn options(&self) -> RunOptions {
        self.dispatcher.with_world(|world| world.options.clone())
    }

    /// Runs the daemon until nothing can go on without a person. `ready` is called once
    /// it can be talked to.
    pub fn run(self, options: RunOptions, channels: &Channels, ready: impl FnOnce()) -> Result<(), BootError> {
        self.dispatcher.notify(channels);
        let layout = self.dispatcher.layout();
        if self.dispatcher.with_world(|world| world.run.is_none()) {
            return Err(BootError::NoPlan);
        }
        let socket = layout.daemon_socket().map_err(io("the socket's folder cannot be used"))?;
        let listener = server::bind(&socket).map_err(io("the socket cannot be bound"))?;
        let unanswered = server::serve(listener, self.sender.clone(), self.dispatcher.window())
            .map_err(io("clients cannot be served"))?;
        let record = DaemonRecord {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            socket: socket.clone(),
            started_at: clock::now(),
        };
        let json = serde_json::to_vec_pretty(&record).map_err(|error| BootError::Io {
            what: "daemon.json cannot be written".to_owned(),
            source: error.into(),
        })?;
        write_atomic(&layout.daemon_record(), &json).map_err(io("daemon.json cannot be written"))?;
        watch_signals(self.sender.clone()).map_err(io("unix signals cannot be watched"))?;
        for notice in &self.notices {
            tracing::warn!("{notice}");
        }
        let mut events = self.recovered();
        events.push(Event::DaemonStarted { options });
        fail::point(Point::IsReady).map_err(io("the daemon cannot go on"))?;
        ready();
        let Opened { mut dispatcher, sender, lock, .. } = self;
        let result = dispatcher.run(&events, &lock);
        if result.is_ok() {
            unanswered.take_no_more();
        }
        // Another daemon may be at work where the state folder was replaced.
        let is_home = lock.is_at(&layout.writer_lock());
        if is_home {
            server::unbind(&socket);
        }
        // Nobody answers any more: who waits for it is told so.
        drop((dispatcher, sender));
        unanswered.settle();
        if is_home {
            let _ = fs_err::remove_file(layout.daemon_record());
        }
        Ok(result?)
    }
}

/// The folders of `.work/`, hidden from git, and the excludes file for worktrees.
fn scaffold(layout: &Layout) -> Result<(), BootError> {
    use std::os::unix::fs::MetadataExt;
    let owner = std::fs::metadata(&layout.work).ok().map(|meta| meta.uid());
    if let Some(owner) = owner.filter(|owner| *owner != rustix::process::getuid().as_raw()) {
        return Err(BootError::Foreign { path: layout.work.clone(), owner });
    }
    let what = || format!("{} cannot be written", layout.work.display());
    super::start::write_ignore(&layout.work).map_err(io(what()))?;
    if layout.worktrees().is_dir() {
        super::start::write_ignore(&layout.worktrees()).map_err(io(what()))?;
    }
    let mut excludes = user_excludes();
    let add = |to: &mut String, title: &str, patterns: &[&str]| {
        to.push_str(&format!("\n# {title}\n"));
        patterns.iter().for_each(|pattern| to.push_str(&format!("{pattern}\n")));
    };
    add(&mut excludes, "Loom", &crate::agent::EXCLUDES);
    write_if_new(&layout.excludes(), &excludes).map_err(io(what()))?;
    let masks = crate::model::sandbox::SANDBOX_MASKS.map(|name| format!("/{name}"));
    add(&mut excludes, "The agent's sandbox", &masks.each_ref().map(String::as_str));
    write_if_new(&layout.sandbox_excludes(), &excludes).map_err(io(what()))
}

fn write_if_new(path: &std::path::Path, text: &str) -> std::io::Result<()> {
    match fs_err::read_to_string(path) {
        Ok(known) if known == text => Ok(()),
        _ => write_atomic(path, text.as_bytes()),
    }
}

/// The user's own `core.excludesFile`: setting another one must not lose it.
fn user_excludes() -> String {
    let path =
        git2::Config::open_default().and_then(|config| config.get_path("core.excludesfile")).ok().or_else(|| {
            let config = std::env::var_os("XDG_CONFIG_HOME").map(std::path::PathBuf::from);
            let config = config.or_else(|| Some(std::path::PathBuf::from(std::env::var_os("HOME")?).join(".config")));
            Some(config?.join("git/ignore"))
        });
    path.and_then(|path| fs_err::read_to_string(path).ok()).unwrap_or_default()
}

/// A short-lived command may hold the lock for the moment of its request.
fn take_lock(layout: &Layout) -> Result<Lock, BootError> {
    let path = layout.writer_lock();
    let what = format!("{} cannot be locked", path.display());
    let lock = Lock::take_within(&path, std::time::Duration::from_secs(2)).map_err(io(what))?;
    let lock = lock.ok_or(BootError::Busy)?;
    let mut file = lock.file();
    let _ = file.set_len(0);
    let _ = writeln!(file, "{}", std::process::id());
    Ok(lock)
}

/// A daemon that ended by itself has removed its record, and a power cut may have, too. The caller
/// holds its lock.
fn tidy_after_a_killed_daemon(layout: &Layout, git: Option<&Git>) {
    let record = fs_err::read(layout.daemon_record()).ok();
    if let Some(record) = record.and_then(|bytes| serde_json::from_slice::<DaemonRecord>(&bytes).ok()) {
        crate::git::wait_for_commands_of(record.pid, crate::model::limits::GIT_ORPHANS_WAIT);
    }
    if let Some(git) = git {
        git.clear_own_ref_locks();
    }
}

fn watch_signals(sender: Sender<Message>) -> std::io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    let body = move || {
        for _ in signals.forever() {
            let _ = sender.send(Message::Shutdown);
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).stack_size(64 << 10).spawn(body)?;
    Ok(())
}

/// The project's git, for callers that have no daemon.
pub fn git_of(layout: &Layout) -> Option<Git> {
    Git::find(&layout.project).ok()
}
