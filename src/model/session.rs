//! One agent process from spawn to exit.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ids::{SessionId, StageId};
use super::limits::{END_GRACE, LANDED_GRACE};
use super::plan::BackendKind;
use super::usage::{Usage, Zone};

/// A session as recorded: its number is the fence of its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub id: SessionId,
    pub stage: StageId,
    pub attempt: u32,
    pub backend: BackendKind,
    /// A small number, unique among live sessions.
    pub slot: u32,
    /// Folder name under `.worktrees/`.
    pub worktree: String,
    /// The agent CLI's own session id, chosen by Loom.
    pub conversation: String,
    /// Whether it continues that conversation instead of starting it.
    pub resumes: bool,
    /// Its agent's shell is in a sandbox.
    #[serde(default)]
    pub sandboxed: bool,
    pub state: SessionState,
    pub activity: Activity,
    /// What goes on before its agent starts.
    #[serde(default)]
    pub preparing: Option<Preparing>,
    /// What it asks a person, while it waits for one.
    pub asks: Option<String>,
    /// Red verdicts that went back into it.
    pub returns: u32,
    /// Turns since the last verdict that ended without a submission and were sent back.
    pub reminders: u32,
    pub started_at: Timestamp,
    /// None: nobody has measured it yet.
    pub usage: Option<Usage>,
    /// The zone of its context budget that it was told of, and when.
    pub told: Option<(Zone, Timestamp)>,
    /// When somebody looks whether it is still at work.
    pub look_at: Option<Timestamp>,
    pub suspect: Option<Suspicion>,
    /// Processes that outlived it and were ended.
    pub left: Vec<String>,
}

/// Why a session may hang.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspicion {
    /// In words, without how long.
    pub why: String,
    /// Its last sign of life.
    pub since: Timestamp,
    /// When it is ended if there is none until then.
    pub ends_at: Timestamp,
    /// How long it has been silent while somebody looked, in milliseconds.
    pub watched_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum SessionState {
    /// Recorded; its host may or may not exist yet.
    Planned,
    /// Its host waits at, or has passed, the start barrier.
    Live {
        host: HostIdentity,
        token_sha256: String,
    },
    /// Asked to end, for this reason.
    Ending {
        host: HostIdentity,
        token_sha256: String,
        why: EndReason,
    },
    Ended {
        end: SessionEnd,
        exit: Exit,
        at: Timestamp,
    },
}

/// Names one process for as long as the machine is up: a pid alone is reused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostIdentity {
    pub pid: u32,
    /// Field 22 of `/proc/<pid>/stat`, in clock ticks since boot.
    pub start_ticks: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
}

/// What comes before an agent starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preparing {
    /// The stage's `setup` runs in its worktree.
    SetUp,
    /// Its `before_stage` is being looked at there.
    Before,
}

/// Why Loom ends a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum EndReason {
    /// Its work landed, was gated, or was sent to a fresh attempt.
    Done,
    /// `loom stop --kill`: the stage goes on with the next `loom run`.
    Stopped,
    /// `loom sessions kill`, by a person.
    Killed,
    /// The agent said that it cannot go on.
    Blocked,
    /// Its stage was reset or skipped.
    Withdrawn,
    /// Its context budget is used up: another session goes on with its handoff.
    HandingOff,
    /// It has been silent for too long.
    Hung,
    /// Its client met a usage limit and would only wait for a person.
    LimitMet,
}

impl EndReason {
    /// How long the session may take to end by itself.
    pub fn grace(&self) -> Duration {
        match self {
            EndReason::Done | EndReason::Blocked | EndReason::HandingOff => LANDED_GRACE,
            // It may be alive after all: it gets the time to write down what it has.
            EndReason::Hung => END_GRACE,
            EndReason::Stopped | EndReason::Killed | EndReason::Withdrawn | EndReason::LimitMet => Duration::ZERO,
        }
    }
    /// Whether nothing more is expected of the session, only good manners.
    pub fn is_courtesy(&self) -> bool {
        matches!(self, EndReason::Done | EndReason::Blocked)
    }
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SessionEnd {
    Submitted,
    HandedOff,
    Crashed,
    Killed,
    TimedOut,
    Hung,
    RateLimited,
    Blocked,
    /// Its host never passed the start barrier: nothing ran.
    NeverStarted,
}

/// What a live session is doing, as far as its hooks say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Activity {
    Working,
    Idle,
    WaitingForPerson,
    /// Its turn is over, and what runs in its background wakes it.
    Background,
}

/// How the process under a host ended, as its host recorded it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "exit", rename_all = "kebab-case")]
pub enum Exit {
    Code {
        code: i32,
    },
    UnixSignal {
        signal: i32,
    },
    /// The deadline passed and the host ended it.
    TimedOut,
    /// Nothing was started: the barrier was never opened, or exec failed with this text in the log.
    NeverStarted,
    /// The host is gone and left no record.
    Lost,
}

/// Why an agent's client gave up, as far as it said so itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "kebab-case")]
pub enum GaveUp {
    /// A person has to log in.
    NotLoggedIn,
    /// The account's limit; `until`: when it is lifted, if anybody said so.
    Limit { until: Option<Timestamp> },
    /// The conversation is too long to go on.
    ContextFull,
    /// The server is overloaded, broken or not to be reached: it has to do with no session.
    Unavailable { text: String },
    /// It will be refused again and again: no such model, no credit, not allowed.
    Refused { text: String },
    /// Anything else, in the client's words.
    Failed { text: String },
}

/// Why a lane stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LaneCause {
    /// The account's usage limit.
    Limit,
    /// The server cannot be used.
    Outage,
}

impl Exit {
    pub fn is_success(self) -> bool {
        self == Exit::Code { code: 0 }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Exit::Code { code } => write!(f, "exit status {code}"),
            Exit::UnixSignal { signal } => write!(f, "unix signal {signal}"),
            Exit::TimedOut => f.write_str("its deadline"),
            Exit::NeverStarted => f.write_str("a start that never happened"),
            Exit::Lost => f.write_str("a host that left no record"),
        }
    }
}

impl Session {
    pub fn is_over(&self) -> bool {
        matches!(self.state, SessionState::Ended { .. })
    }
    /// Whether it is only given time to end by itself.
    pub fn is_leaving(&self) -> bool {
        matches!(&self.state, SessionState::Ending { why, .. } if why.is_courtesy())
    }
    pub fn host(&self) -> Option<&HostIdentity> {
        match &self.state {
            SessionState::Live { host, .. } | SessionState::Ending { host, .. } => Some(host),
            _ => None,
        }
    }
    pub fn token_sha256(&self) -> Option<&str> {
        match &self.state {
            SessionState::Live { token_sha256, .. } | SessionState::Ending { token_sha256, .. } => Some(token_sha256),
            _ => None,
        }
    }
}
