//! Where everything lies: every path below `.work/` and `.worktrees/`, and the
//! two folders outside the repository. No other file joins these names.

use std::io;
use std::path::{Path, PathBuf};

use crate::model::ids::{Oid, SessionId, StageId};

/// The paths of one project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The top of the user's main checkout.
    pub project: PathBuf,
    /// `.work/`, or `LOOM_WORK_DIR`.
    pub work: PathBuf,
}

impl Layout {
    /// The layout of the project at `project`; `LOOM_WORK_DIR` overrides the state folder.
    pub fn new(project: &Path) -> Self {
        let work = match std::env::var_os("LOOM_WORK_DIR") {
            Some(dir) if !dir.is_empty() => project.join(dir),
            _ => project.join(".work"),
        };
        Layout { project: project.to_path_buf(), work }
    }
    pub fn journal(&self) -> PathBuf {
        self.work.join("journal.jsonl")
    }
    /// Where a journal goes that is put aside.
    pub fn lost_journal(&self, n: u32) -> PathBuf {
        self.work.join(format!("journal.lost-{n}.jsonl"))
    }
    /// Held by the one writer: the daemon for life, an in-process command for its request.
    pub fn writer_lock(&self) -> PathBuf {
        self.work.join("writer.lock")
    }
    pub fn config(&self) -> PathBuf {
        self.work.join("config.toml")
    }
    pub fn daemon_record(&self) -> PathBuf {
        self.work.join("daemon.json")
    }
    pub fn daemon_log(&self) -> PathBuf {
        self.work.join("daemon.log")
    }
    /// What a person was notified of already.
    pub fn notified(&self) -> PathBuf {
        self.work.join("notified.json")
    }
    /// Why the keeper starts no daemon any more; gone when one is ready again.
    pub fn gave_up(&self) -> PathBuf {
        self.work.join("gave-up")
    }
    /// The excludes file that hides Loom's files from git inside worktrees.
    pub fn excludes(&self) -> PathBuf {
        self.work.join("excludes")
    }
    /// The same, with what only a sandboxed shell sees in a worktree.
    pub fn sandbox_excludes(&self) -> PathBuf {
        self.work.join("excludes.sandbox")
    }
    /// Caches of the tools that a stage's sandboxed sessions run.
    pub fn caches(&self, stage: &StageId) -> PathBuf {
        self.all_caches().join(stage.as_str())
    }
    /// The caches of all stages.
    pub fn all_caches(&self) -> PathBuf {
        self.work.join("caches")
    }
    /// What `setup` and `teardown` of worktrees did.
    pub fn setups(&self) -> PathBuf {
        self.work.join("setup")
    }
    pub fn setup_record(&self, folder: &str) -> PathBuf {
        self.setups().join(format!("{folder}.json"))
    }
    pub fn setup_log(&self, folder: &str) -> PathBuf {
        self.setups().join(format!("{folder}.log"))
    }
    /// Held by the process that prepares the worktree.
    pub fn setup_lock(&self, folder: &str) -> PathBuf {
        self.setups().join(format!("{folder}.lock"))
    }
    /// The home of `setup` and `teardown`: never that of the checks.
    pub fn setup_home(&self) -> PathBuf {
        self.cache().join("setup-home")
    }
    pub fn stages(&self) -> PathBuf {
        self.work.join("stages")
    }
    pub fn stage_view(&self, stage: &StageId) -> PathBuf {
        self.stages().join(format!("{stage}.md"))
    }
    pub fn sessions(&self) -> PathBuf {
        self.work.join("sessions")
    }
    pub fn session(&self, session: &SessionId) -> PathBuf {
        self.sessions().join(session.as_str())
    }
    pub fn token(&self, session: &SessionId) -> PathBuf {
        self.session(session).join("token")
    }
    /// Where the session works, and since which commit.
    pub fn ground(&self, session: &SessionId) -> PathBuf {
        self.session(session).join("ground.json")
    }
    pub fn handoffs(&self) -> PathBuf {
        self.work.join("handoffs")
    }
    pub fn handoff(&self, stage: &StageId, number: u32) -> PathBuf {
        self.handoffs().join(format!("{stage}-{number:03}.md"))
    }
    pub fn outbox(&self, session: &SessionId) -> PathBuf {
        self.session(session).join("outbox")
    }
    /// Programs that go before those of the same name in a session's `PATH`.
    pub fn programs(&self, session: &SessionId) -> PathBuf {
        self.session(session).join("bin")
    }
    pub fn signals(&self) -> PathBuf {
        self.work.join("signals")
    }
    pub fn signal(&self, session: &SessionId) -> PathBuf {
        self.signals().join(format!("{session}.md"))
    }
    pub fn evidence(&self) -> PathBuf {
        self.work.join("evidence")
    }
    /// Where the checks of one proof keep their output.
    pub fn evidence_of(&self, entry: &str, commit: &Oid) -> PathBuf {
        self.evidence().join(entry).join(commit.short())
    }
    pub fn worktrees(&self) -> PathBuf {
        self.project.join(".worktrees")
    }
    pub fn worktree(&self, folder: &str) -> PathBuf {
        self.worktrees().join(folder)
    }
    /// Short and stable: names this project outside of it.
    pub fn project_key(&self) -> String {
        use std::os::unix::ffi::OsStrExt;
        crate::base::text::sha256(self.work.as_os_str().as_bytes())[..12].to_owned()
    }
    /// The folder of Loom's own repository and the proof checkout, outside the project so
    /// that no ignored file of the user or the agent can change a verdict.
    pub fn cache(&self) -> PathBuf {
        let root = match std::env::var_os("XDG_CACHE_HOME") {
            Some(dir) if Path::new(&dir).is_absolute() => PathBuf::from(dir),
            _ => PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/tmp".into())).join(".cache"),
        };
        root.join("loom").join(self.project_key())
    }
    /// The folder for sockets: short, private, owned by this user. Created on the way;
    /// refused when somebody else got there first.
    pub fn sockets(&self) -> io::Result<PathBuf> {
        let user = rustix::process::getuid().as_raw();
        let root = match std::env::var_os("XDG_RUNTIME_DIR") {
            Some(dir) if Path::new(&dir).is_absolute() && is_short(&dir) && is_private(Path::new(&dir), user) => {
                PathBuf::from(dir).join("loom")
            }
            _ => {
                let temp = std::env::temp_dir();
                let temp = if is_short(temp.as_os_str()) { temp } else { PathBuf::from("/tmp") };
                temp.join(format!("loom-{user}"))
            }
        };
        make_private(&root, user)?;
        let dir = root.join(self.project_key());
        make_private(&dir, user)?;
        Ok(dir)
    }
    pub fn daemon_socket(&self) -> io::Result<PathBuf> {
        Ok(self.sockets()?.join("daemon.sock"))
    }
    /// The attach socket of a session.
    pub fn host_socket(&self, session: &SessionId) -> io::Result<PathBuf> {
        // Stage ids may be 63 bytes long; the key keeps the path within the kernel's 107.
        Ok(self.sockets()?.join(format!("{}.sock", &crate::base::text::sha256(session.as_str().as_bytes())[..12])))
    }
}

/// Whether a socket below this folder keeps within the kernel's limit.
fn is_short(dir: &std::ffi::OsStr) -> bool {
    const BELOW: usize = "/loom-4294967295/0123456789ab/0123456789ab.sock".len();
    dir.len() + BELOW <= crate::model::limits::SOCKET_PATH_BYTES_MAX
}

fn is_private(dir: &Path, user: u32) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_dir() && meta.uid() == user && meta.mode() & 0o077 == 0)
}

fn make_private(dir: &Path, user: u32) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(io::Error::new(error.kind(), format!("cannot create {}: {error}", dir.display()))),
    }
    if is_private(dir, user) {
        Ok(())
    } else {
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("{} is not a private folder of this user (mode 0700)", dir.display()),
        ))
    }
}
