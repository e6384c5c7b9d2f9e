//! Fail points: named places in this very binary where a test, or `loom chaos`,
//! makes it die, stop or meet an I/O error. `LOOM_FAIL` says where and what;
//! without it a point costs one look at a value that is set once.
//!
//! `LOOM_FAIL=<point>=<action>[@N][,…]`: a point's name, or its beginning and `*`;
//! `kill`, `stop` (SIGSTOP, until somebody sends SIGCONT), `panic` (of the thread) or
//! `err(<errno>)`; at the Nth time only, or every time. `LOOM_FAIL_LOG=<file>` gets a
//! line for each point that is reached, and makes N count over all processes that share
//! the file.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use rustix::process::{Signal, getpid, kill_process};

/// Names of the variables; an agent does not inherit them.
pub const VARIABLES: [&str; 2] = ["LOOM_FAIL", "LOOM_FAIL_LOG"];

macro_rules! points {
    ($($point:ident $name:literal)*) => {
        /// A place where this binary can be made to fail.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Point { $($point),* }
        impl Point {
            /// Every point there is.
            pub const ALL: &[Point] = &[$(Point::$point),*];
            /// What `LOOM_FAIL` calls it.
            pub fn name(self) -> &'static str {
                match self { $(Point::$point => $name),* }
            }
        }
    };
}

points! {
    // Around every effect; see `model::effect`.
    BeforeMakePlanBranch "effect.make-plan-branch.before"
    AfterMakePlanBranch "effect.make-plan-branch.after"
    BeforeStart "effect.start.before"
    AfterStart "effect.start.after"
    BeforeOpenBarrier "effect.open-barrier.before"
    AfterOpenBarrier "effect.open-barrier.after"
    BeforeWatch "effect.watch.before"
    AfterWatch "effect.watch.after"
    BeforeEndSession "effect.end-session.before"
    AfterEndSession "effect.end-session.after"
    BeforeInspect "effect.inspect.before"
    AfterInspect "effect.inspect.after"
    BeforeLookAtBase "effect.look-at-base.before"
    AfterLookAtBase "effect.look-at-base.after"
    BeforeProve "effect.prove.before"
    AfterProve "effect.prove.after"
    BeforeLand "effect.land.before"
    AfterLand "effect.land.after"
    BeforeFollowBase "effect.follow-base.before"
    AfterFollowBase "effect.follow-base.after"
    BeforeLookAtRefs "effect.look-at-refs.before"
    AfterLookAtRefs "effect.look-at-refs.after"
    BeforeRestorePlanBranch "effect.restore-plan-branch.before"
    AfterRestorePlanBranch "effect.restore-plan-branch.after"
    BeforeRemoveStage "effect.remove-stage.before"
    AfterRemoveStage "effect.remove-stage.after"
    BeforeTidyWorktrees "effect.tidy-worktrees.before"
    AfterTidyWorktrees "effect.tidy-worktrees.after"
    BeforeCleanPlan "effect.clean-plan.before"
    AfterCleanPlan "effect.clean-plan.after"
    // The answer to a request, which the dispatcher has recorded.
    BeforeAnswer "daemon.answer.before"
    AfterAnswer "daemon.answer.after"
    BeforeDaemon "keeper.daemon.before"
    AfterDaemon "keeper.daemon.after"
    HasWriterLock "boot.locked"
    IsReady "boot.ready"
    // The journal: the first half of an append is written at `torn`.
    BeforeJournalOpen "journal.open.before"
    BeforeJournalAppend "journal.append.before"
    JournalTorn "journal.append.torn"
    AfterJournalAppend "journal.append.after"
    BeforeJournalSync "journal.sync.before"
    AfterJournalSync "journal.sync.after"
    BeforeJournalCut "journal.cut.before"
    AfterJournalCut "journal.cut.after"
    // Every other file that is replaced as a whole.
    BeforeFileWrite "file.write.before"
    BeforeFileSync "file.sync.before"
    BeforeFileRename "file.rename.before"
    AfterFileRename "file.rename.after"
    BeforeFolderSync "file.folder-sync.before"
    // A host.
    BeforeHostLock "host.lock.before"
    AfterHostLock "host.lock.after"
    HostAtBarrier "host.barrier.before"
    BeforeChild "host.child.before"
    AfterChild "host.child.after"
    BeforeExitRecord "host.exit.before"
    AfterExitRecord "host.exit.after"
    BeforeSpoolForward "host.spool.before"
    AfterSpoolForward "host.spool.after"
    // A client.
    BeforeSend "client.send.before"
    AfterSend "client.send.after"
    BeforeSpoolRequest "client.spool.before"
    AfterSpoolRequest "client.spool.after"
    // What Loom writes with git.
    BeforeRefUpdate "git.ref.before"
    RefNotSynced "git.ref.unsynced"
    AfterRefUpdate "git.ref.after"
    BeforeRefTransaction "git.transaction.before"
    AfterRefTransaction "git.transaction.after"
    BeforeCommit "git.commit.before"
    AfterCommit "git.commit.after"
    BeforeCheckout "git.checkout.before"
    AfterCheckout "git.checkout.after"
    BeforePack "git.pack.before"
    PackNotNamed "git.pack.not-named"
    PackWithoutIndex "git.pack.without-index"
    AfterPack "git.pack.after"
    BeforeRescue "git.rescue.before"
    RescueCommitted "git.rescue.committed"
    // What the plan's author runs around an agent, and in the proof checkout.
    BeforeSetUp "setup.commands.before"
    AfterSetUp "setup.commands.after"
    BeforeLookBefore "setup.before-stage.before"
    AfterLookBefore "setup.before-stage.after"
    BeforeTearDown "setup.teardown.before"
    AfterTearDown "setup.teardown.after"
    BeforeProofSetUp "setup.proof.before"
    AfterProofSetUp "setup.proof.after"
    BeforeWorktreeAdd "git.worktree-add.before"
    AfterWorktreeAdd "git.worktree-add.after"
    BeforeWorktreeReset "git.worktree-reset.before"
    AfterWorktreeReset "git.worktree-reset.after"
    BeforeWorktreeRemove "git.worktree-remove.before"
    AfterWorktreeRemove "git.worktree-remove.after"
    BeforeFollow "git.follow.before"
    AfterFollow "git.follow.after"
    BeforeFollowRepair "git.follow-repair.before"
    AfterFollowRepair "git.follow-repair.after"
}

/// Passes a point. Nearly always nothing happens.
///
/// # Errors
/// The one that `LOOM_FAIL` asks for; also what cannot be understood in it.
pub fn point(point: Point) -> io::Result<()> {
    static ORDERS: OnceLock<Option<Orders>> = OnceLock::new();
    match ORDERS.get_or_init(Orders::of_this_process) {
        None => Ok(()),
        Some(orders) => orders.pass(point.name()),
    }
}

/// Passes a point where there is nobody who could be told of an error.
pub fn pass(at: Point) {
    if let Err(error) = point(at) {
        tracing::warn!("an injected error was met at {}, where there can be none: {error}", at.name());
    }
}

/// Whether points can do anything in this process: where a step is cut in two only for their sake.
pub fn is_armed() -> bool {
    std::env::var_os(VARIABLES[0]).is_some()
}

#[derive(Debug)]
struct Orders {
    rules: Result<Vec<Rule>, String>,
    log: Option<PathBuf>,
    /// One thread at a time counts.
    turn: Mutex<()>,
}

#[derive(Debug)]
struct Rule {
    pattern: String,
    action: Action,
    /// Only this time.
    nth: Option<usize>,
    /// Times in this process, without a log.
    seen: AtomicUsize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Kill,
    Stop,
    Panic,
    Err(rustix::io::Errno),
}

impl Orders {
    fn of_this_process() -> Option<Orders> {
        let text = std::env::var_os(VARIABLES[0])?;
        let log = std::env::var_os(VARIABLES[1]).map(PathBuf::from);
        Some(Orders { rules: read(&text.to_string_lossy()), log, turn: Mutex::new(()) })
    }

    fn pass(&self, name: &str) -> io::Result<()> {
        let rules = self.rules.as_ref().map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, why.clone()))?;
        let action = match &self.log {
            None => rules.iter().filter(|rule| rule.concerns(name)).find(|rule| rule.is_now()).map(|rule| rule.action),
            Some(log) => self.counted(rules, log, name)?,
        };
        match action {
            None => Ok(()),
            Some(Action::Kill) => Ok(kill_process(getpid(), Signal::KILL)?),
            Some(Action::Stop) => Ok(kill_process(getpid(), Signal::STOP)?),
            Some(Action::Panic) => panic!("LOOM_FAIL: {name}"),
            Some(Action::Err(errno)) => Err(errno.into()),
        }
    }

    /// Adds a line to the log and says what is to be done, alone among all that share it.
    fn counted(&self, rules: &[Rule], log: &Path, name: &str) -> io::Result<Option<Action>> {
        let _turn = self.turn.lock();
        let (mut file, _) = fs_err::OpenOptions::new().create(true).read(true).append(true).open(log)?.into_parts();
        File::lock(&file)?;
        let mut before = String::new();
        file.read_to_string(&mut before)?;
        let is_now = |rule: &&Rule| {
            let seen = before.lines().filter_map(|line| line.split(' ').next()).filter(|seen| rule.concerns(seen));
            rule.nth.is_none_or(|nth| seen.count() + 1 == nth)
        };
        let rule = rules.iter().filter(|rule| rule.concerns(name)).find(is_now);
        let done = rule.map_or(String::new(), |rule| format!(" {}", rule.action));
        file.write_all(format!("{name} {}{done}\n", std::process::id()).as_bytes())?;
        Ok(rule.map(|rule| rule.action))
    }
}

impl Rule {
    fn concerns(&self, name: &str) -> bool {
        match self.pattern.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == self.pattern,
        }
    }
    fn is_now(&self) -> bool {
        let seen = self.seen.fetch_add(1, Ordering::SeqCst) + 1;
        self.nth.is_none_or(|nth| nth == seen)
    }
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Action::Kill => f.write_str("kill"),
            Action::Stop => f.write_str("stop"),
            Action::Panic => f.write_str("panic"),
            Action::Err(errno) => write!(f, "err({})", errno.raw_os_error()),
        }
    }
}

fn read(text: &str) -> Result<Vec<Rule>, String> {
    text.split(',').filter(|rule| !rule.is_empty()).map(read_rule).collect()
}

fn read_rule(text: &str) -> Result<Rule, String> {
    let bad = |what: &str| format!("LOOM_FAIL: `{text}` {what}: <point>=kill|stop|panic|err(ENOSPC)[@N]");
    let (pattern, rest) = text.split_once('=').ok_or_else(|| bad("has no action"))?;
    let (action, nth) = match rest.split_once('@') {
        None => (rest, None),
        Some((action, nth)) => {
            let nth = nth.parse::<usize>().ok().filter(|nth| *nth > 0).ok_or_else(|| bad("has no number after `@`"))?;
            (action, Some(nth))
        }
    };
    let rule = Rule {
        pattern: pattern.to_owned(),
        action: read_action(action).ok_or_else(|| bad("has an unknown action"))?,
        nth,
        seen: AtomicUsize::new(0),
    };
    if Point::ALL.iter().any(|point| rule.concerns(point.name())) {
        Ok(rule)
    } else {
        Err(bad("names no point (`loom chaos --points` lists them)"))
    }
}

fn read_action(text: &str) -> Option<Action> {
    use rustix::io::Errno;
    Some(match text {
        "kill" => Action::Kill,
        "stop" => Action::Stop,
        "panic" => Action::Panic,
        "err(ENOSPC)" => Action::Err(Errno::NOSPC),
        "err(EIO)" => Action::Err(Errno::IO),
        "err(EDQUOT)" => Action::Err(Errno::DQUOT),
        "err(EROFS)" => Action::Err(Errno::ROFS),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders(text: &str, log: Option<PathBuf>) -> Orders {
        Orders { rules: read(text), log, turn: Mutex::new(()) }
    }

    #[test]
    fn names_are_unique() {
        for (at, point) in Point::ALL.iter().enumerate() {
            for other in &Point::ALL[at + 1..] {
                assert_ne!(point.name(), other.name());
            }
        }
    }

    #[test]
    fn the_nth_time_is_counted_in_one_process_and_over_a_log() {
        let dir = tempfile::tempdir().unwrap();
        for log in [None, Some(dir.path().join("log"))] {
            let text = "journal.sync.before=err(ENOSPC)@2,host.*=err(EIO)";
            let errors = |orders: &Orders, name: &str| orders.pass(name).err().and_then(|error| error.raw_os_error());
            let one = orders(text, log.clone());
            assert_eq!(errors(&one, "journal.sync.before"), None);
            assert_eq!(errors(&one, "journal.append.before"), None);
            // Another process, as far as the counters know.
            let next = log.is_some().then(|| orders(text, log.clone()));
            let two = next.as_ref().unwrap_or(&one);
            assert_eq!(errors(two, "journal.sync.before"), Some(28));
            assert_eq!(errors(two, "journal.sync.before"), None);
            assert_eq!(errors(two, "host.exit.after"), Some(5));
        }
        let log = fs_err::read_to_string(dir.path().join("log")).unwrap();
        let lines: Vec<String> =
            log.lines().map(|line| line.split(' ').filter(|word| word.parse::<u32>().is_err()).collect()).collect();
        let sync = "journal.sync.before";
        assert_eq!(lines, [sync, "journal.append.before", &format!("{sync}err(28)"), sync, "host.exit.aftererr(5)"]);
    }

    #[test]
    fn what_cannot_be_understood_is_an_error_and_never_ignored() {
        let cases =
            ["x", "nowhere=kill", "journal.*=explode", "host.*=kill@", "host.*=kill@0", "host.*=kill@x", "=kill"];
        for text in cases {
            assert!(orders(text, None).pass("boot.ready").is_err(), "{text}");
        }
        assert!(orders("", None).pass("boot.ready").is_ok());
    }
}
