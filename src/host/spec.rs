//! The files in a host's folder: what it is asked to run, and what it leaves.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::session::{Exit, HostIdentity};

/// `spec.json`: written by the daemon, read once by the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostSpec {
    /// Program and arguments; the program is looked up in `PATH`.
    pub argv: Vec<String>,
    pub cwd: PathBuf,
    /// Changes to the inherited environment, in order. Secrets are never written here:
    /// they are inherited, and renamed where the child must not see them under their name.
    pub env: Vec<EnvChange>,
    /// A pseudo-terminal of this size; none: pipes, with nothing on standard input.
    pub terminal: Option<TerminalSize>,
    /// Deadline in milliseconds from the opening of the barrier.
    pub timeout_ms: u64,
    /// Kept output, in bytes.
    pub log_bytes_max: u64,
    /// Ends its child as soon as the daemon is gone: checks do, sessions do not.
    pub ends_with_daemon: bool,
    /// In a control group of its own, where one can be made.
    #[serde(default)]
    pub own_cgroup: bool,
    /// Where viewers attach; none: nobody can.
    pub attach_socket: Option<PathBuf>,
    /// Where requests of a session that cannot open sockets are dropped, and the daemon's socket record.
    pub spool: Option<Spool>,
}

/// The file door: requests in `outbox`, forwarded to the daemon named in `daemon_record`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spool {
    pub outbox: PathBuf,
    pub daemon_record: PathBuf,
    pub token_file: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "env", rename_all = "kebab-case")]
pub enum EnvChange {
    Set {
        name: String,
        value: String,
    },
    Remove {
        name: String,
    },
    /// Moves a value to another name; nothing when it is not set.
    Rename {
        from: String,
        to: String,
    },
    /// Removes everything but these names.
    KeepOnly {
        names: Vec<String>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    pub rows: u16,
    pub cols: u16,
}

/// `host.json`: written by the host as soon as it holds its lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRecord {
    pub host: HostIdentity,
    pub attach_socket: Option<PathBuf>,
    /// The folder of the child's own control group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<PathBuf>,
}

/// `exit.json`: written durably before the lock is given back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    pub exit: Exit,
    /// Why nothing could be started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub started_at: Option<jiff::Timestamp>,
    pub ended_at: jiff::Timestamp,
    /// Descendants that outlived the child and were ended: command name and pid.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leftovers: Vec<String>,
}

/// The files of one host.
#[derive(Debug, Clone)]
pub struct HostFolder {
    pub dir: PathBuf,
}

impl HostFolder {
    pub fn new(dir: &Path) -> Self {
        HostFolder { dir: dir.to_path_buf() }
    }
    pub fn spec(&self) -> PathBuf {
        self.dir.join("spec.json")
    }
    pub fn lock(&self) -> PathBuf {
        self.dir.join("host.lock")
    }
    pub fn record(&self) -> PathBuf {
        self.dir.join("host.json")
    }
    pub fn exit(&self) -> PathBuf {
        self.dir.join("exit.json")
    }
    /// Standard output (and error, unless they are kept apart), newest segment.
    pub fn log(&self) -> PathBuf {
        self.dir.join("output.log")
    }
    /// The segment before.
    pub fn old_log(&self) -> PathBuf {
        self.dir.join("output.1.log")
    }
    /// Standard error of a child on pipes.
    pub fn error_log(&self) -> PathBuf {
        self.dir.join("error.log")
    }
    /// The segment before.
    pub fn old_error_log(&self) -> PathBuf {
        self.dir.join("error.1.log")
    }
    /// Complaints of the host itself.
    pub fn complaints(&self) -> PathBuf {
        self.dir.join("host.err")
    }
    /// Written while a person is at the terminal: what is in it says whether one is attached, and
    /// its time when one was last.
    pub fn person(&self) -> PathBuf {
        self.dir.join("person")
    }
    /// How many milliseconds the tree may take to end, as wished by whoever ends it.
    pub fn grace(&self) -> PathBuf {
        self.dir.join("end.grace")
    }
}
