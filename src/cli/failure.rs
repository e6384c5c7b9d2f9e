//! The one top type for errors: what, why, what to type next, and the exit code.

use crate::client::ClientError;
use crate::daemon::BootError;
use crate::git::NoProject;
use crate::journal::JournalError;
use crate::model::refusal::{Refusal, RefusalKind};

/// Exit codes; part of the interface.
pub mod exit {
    pub const OK: u8 = 0;
    /// The user or the configuration.
    pub const USER: u8 = 1;
    /// The command line itself.
    pub const USAGE: u8 = 2;
    /// No daemon could be reached.
    pub const UNREACHABLE: u8 = 3;
    /// The work itself failed.
    pub const WORK: u8 = 4;
    /// A person has to answer first.
    pub const WAITING: u8 = 5;
    /// A defect of Loom, or of the machine.
    pub const INTERNAL: u8 = 70;
    /// Ctrl-C.
    pub const INTERRUPTED: u8 = 130;
}

/// A command that did not do what it was asked to.
#[derive(Debug)]
pub struct Failure {
    pub code: u8,
    /// What: one line.
    pub what: String,
    /// Why, most specific last.
    pub why: Vec<String>,
    /// What to type next.
    pub hints: Vec<String>,
}

impl Failure {
    pub fn user(what: impl Into<String>) -> Failure {
        Failure::new(exit::USER, what)
    }
    pub fn new(code: u8, what: impl Into<String>) -> Failure {
        Failure { code, what: what.into(), why: Vec::new(), hints: Vec::new() }
    }
    #[must_use]
    pub fn because(mut self, why: impl Into<String>) -> Failure {
        self.why.push(why.into());
        self
    }
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hints.push(hint.into());
        self
    }
    fn of(code: u8, error: &dyn std::error::Error) -> Failure {
        let mut failure = Failure::new(code, error.to_string());
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if !failure.what.contains(&text) {
                failure.why.push(text);
            }
            source = cause.source();
        }
        failure
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        let code = match refusal.kind {
            RefusalKind::User | RefusalKind::Rights => exit::USER,
            RefusalKind::Work => exit::WORK,
            RefusalKind::Waiting => exit::WAITING,
            RefusalKind::Internal => exit::INTERNAL,
        };
        Failure { code, what: refusal.what, why: refusal.why, hints: refusal.hints }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        match error {
            ClientError::Request(refusal) => (*refusal).into(),
            ClientError::Boot(error) => error.into(),
            ClientError::NoDaemon => Failure::of(exit::UNREACHABLE, &error).hint("loom run"),
            ClientError::Refused(_) => Failure::of(exit::UNREACHABLE, &error),
            ClientError::Mute => Failure::of(exit::UNREACHABLE, &error)
                .because("it is starting, stopped by a signal or a debugger, or hangs")
                .hint("loom doctor   (its process id, and what to do)"),
            ClientError::Gone | ClientError::Frame(_) | ClientError::Io(_) => {
                Failure::of(exit::UNREACHABLE, &error).hint("loom status")
            }
        }
    }
}

impl From<BootError> for Failure {
    fn from(error: BootError) -> Failure {
        match &error {
            BootError::Busy => {
                Failure::of(exit::USER, &error).because("there is one writer at a time").hint("loom status")
            }
            BootError::Foreign { .. } => Failure::of(exit::USER, &error)
                .because("what one user writes the other cannot change: two of them cannot share a state folder")
                .hint("set LOOM_WORK_DIR to a folder of your own")
                .hint("or, if both users are you: sudo chown -R $(id -u) .work"),
            BootError::NoPlan => Failure::of(exit::USER, &error).hint("loom init doc/plans/<plan>.md"),
            BootError::Journal(JournalError::Damaged { .. }) => Failure::of(exit::INTERNAL, &error)
                .because("nothing is written to a damaged journal, and nothing in it is skipped")
                .hint("loom doctor   (what is left, and the ways out)"),
            BootError::Journal(JournalError::Lost { .. }) => Failure::of(exit::INTERNAL, &error)
                .because("going on would do again what was done already")
                .hint("loom doctor   (what is left, and the ways out)"),
            BootError::Journal(JournalError::Newer { .. }) => Failure::of(exit::USER, &error)
                .because("this version reads what it knows of it, and writes nothing")
                .hint("install the newer loom again"),
            BootError::Journal(JournalError::Io { source, .. }) | BootError::Io { source, .. } => {
                let full = source.kind() == std::io::ErrorKind::StorageFull;
                let failure = Failure::of(if full { exit::USER } else { exit::INTERNAL }, &error);
                match source.kind() {
                    std::io::ErrorKind::StorageFull => {
                        failure.hint("free some space, then try again: nothing was changed")
                    }
                    std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => Failure {
                        code: exit::USER,
                        ..failure.hint("make the project's folder writable, or set LOOM_WORK_DIR to a folder that is")
                    },
                    _ => failure,
                }
            }
            BootError::Journal(_) => Failure::of(exit::INTERNAL, &error).hint("loom status"),
        }
    }
}

impl From<NoProject> for Failure {
    fn from(error: NoProject) -> Failure {
        let failure = Failure::of(exit::USER, &error);
        match error {
            NoProject::NotARepository(_) => failure.hint("git init, commit something, then try again"),
            NoProject::Bare(_) => failure.hint("git clone it, and work in the clone"),
            NoProject::NoCommit(_) => failure.hint("git commit --allow-empty -m \"Start\""),
            NoProject::Detached(_) => failure.hint("git switch <branch>"),
            NoProject::NoGit => failure.hint("install git 2.38 or newer"),
            NoProject::GitTooOld(_) => failure.hint("install git 2.38 or newer"),
            NoProject::BranchLoom => failure.hint("git branch -m loom <another name>"),
            NoProject::UnknownKind(_, why) if why.contains("refstorage") => {
                failure.hint("git clone --ref-format=files <this one> <folder>, and work there")
            }
            NoProject::UnknownKind(..) => failure.hint("git init --object-format=sha1 <folder>, and import it there"),
            NoProject::Partial(..) => failure.hint("git fetch --refetch --no-filter"),
            NoProject::Unreadable(_) | NoProject::OwnBranch(..) => failure,
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::of(exit::INTERNAL, &error)
    }
}
