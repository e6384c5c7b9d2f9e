//! Every limit of Loom, in one file. A limit that is met is an error a person
//! can act on, never a silent truncation of something that matters.

use std::time::Duration;

/// Longest stage or plan id, in bytes.
pub const ID_BYTES_MAX: usize = 63;
/// Largest plan file, in bytes.
pub const PLAN_BYTES_MAX: usize = 1 << 20;
/// Most stages in a plan.
pub const STAGES_MAX: usize = 2_000;
/// Most dependencies of one stage.
pub const DEPENDENCIES_MAX: usize = 64;
/// Most checks of one stage.
pub const CHECKS_MAX: usize = 256;
/// Most reruns of one failed check.
pub const CHECK_RETRIES_MAX: u32 = 5;
/// Largest compiled regular expression of a plan, in bytes.
pub const REGEX_BYTES_MAX: usize = 1 << 20;
/// Percent of the context window at which a session hands off by default.
pub const CONTEXT_BUDGET_DEFAULT: u32 = 65;
/// Above this percentage a client compacts by itself, so that a larger budget acts as this one.
pub const CONTEXT_BUDGET_MAX: u32 = 80;
/// Default number of sessions at once.
pub const PARALLEL_DEFAULT: u32 = 4;
/// Most sessions at once.
pub const PARALLEL_MAX: u32 = 100;
/// Ports of a slot, counted from `LOOM_PORT_BASE`.
pub const PORTS_PER_SLOT: u32 = 20;
/// The first port of all slots. The last one is below 32768, where the kernel takes its own from.
pub const PORT_FIRST: u32 = 20_000;
/// Where the slots of a project may start: so many places, one after the other.
pub const PORT_PLACES: u32 = 6;
/// Default number of further attempts after the first.
pub const RETRIES_DEFAULT: u32 = 3;
/// Most further attempts.
pub const RETRIES_MAX: u32 = 20;
/// How often a verdict or a reminder goes back into the same session.
pub const RETURNS_MAX: u32 = 3;
/// First pause after a crash; doubles with every further one.
pub const BACKOFF_FIRST: Duration = Duration::from_secs(30);
/// Longest pause after a crash.
pub const BACKOFF_MAX: Duration = Duration::from_secs(15 * 60);
/// Default deadline of one check.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// Deadline of one command of `setup` or `teardown`.
pub const SETUP_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// Most files that `setup` may leave in a worktree without git ignoring them.
pub const SETUP_LEFT_MAX: usize = 1_000;
/// What a check may print, in bytes, on each of its two outputs: one that prints more fails.
pub const CHECK_OUTPUT_BYTES_MAX: usize = 32 << 20;
/// Kept of each output of a check in its evidence, in bytes: half from its start, half from its end.
pub const CHECK_EVIDENCE_BYTES_MAX: usize = 512 << 10;
/// Objects of a submission that are packed without a git process of their own, at most …
pub const PACKED_HERE_OBJECTS_MAX: usize = 256;
/// … and how large they may be together, in bytes: they are held in memory.
pub const PACKED_HERE_BYTES_MAX: usize = 1 << 20;
/// Largest file that a check may write, in bytes.
pub const CHECK_FILE_BYTES_MAX: u64 = 16 << 30;
/// Failures of one check that are told apart by name.
pub const CHECK_FAILURES_MAX: usize = 200;
/// Failures that a comparison of a whole suite with the base can hold.
pub const IMPACT_FAILURES_MAX: usize = 1_000;
/// Lines of an output that are looked at to tell a failure from another one.
pub const IDENTITY_LINES_MAX: usize = 20_000;
/// A session that works for longer than this has its stage's base looked at meanwhile. For one that
/// is over sooner, the proof looks at it.
pub const BASELINE_AFTER: Duration = Duration::from_secs(1);
/// Results of checks on trees that a daemon remembers.
pub const SEEN_RESULTS_MAX: usize = 512;
/// Commits, and files, that a red verdict tells of what was done since the one before.
pub const SINCE_SHOWN_MAX: usize = 10;
/// Default deadline of a session.
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(8 * 3600);
/// Deadline of one git command.
pub const GIT_TIMEOUT: Duration = Duration::from_secs(300);
/// A host whose start nobody recorded goes away after this long.
pub const START_BARRIER: Duration = Duration::from_secs(10);
/// Between the polite and the final unix signal at the end of a session.
pub const END_GRACE: Duration = Duration::from_secs(5);
/// Between the two for descendants that outlived their session.
pub const LEFTOVER_GRACE: Duration = Duration::from_secs(1);
/// How long git commands of a killed daemon may take to finish before its successor goes on.
pub const GIT_ORPHANS_WAIT: Duration = Duration::from_secs(10);
/// A killed process that is still there after this long hangs in the kernel: the end is recorded without it.
pub const KILL_GRACE: Duration = Duration::from_secs(10);
/// What forked while it was killed is killed again this often.
pub const KILL_AGAIN: Duration = Duration::from_millis(100);
/// Longest wait for the last output of a child that has ended.
pub const DRAIN_MAX: Duration = Duration::from_millis(500);
/// How long a new host may take to hold its lock and say so.
pub const HOST_READY: Duration = Duration::from_secs(10);
/// How long a session has to be free of stray probers for its host to take its lock.
pub const LOCK_WAIT: Duration = Duration::from_secs(2);
/// Most viewers of one session at once.
pub const VIEWERS_MAX: usize = 16;
/// A viewer's screen is painted at most this often.
pub const PAINT_EVERY: Duration = Duration::from_millis(16);
/// Longest frame between a viewer and a host, in bytes.
pub const VIEWER_FRAME_BYTES_MAX: usize = 4 << 20;
/// Typed bytes kept for an agent that does not read.
pub const TYPED_BYTES_MAX: usize = 64 << 10;
/// Largest emulated screen; with `SCROLLBACK_ROWS` it bounds the memory of a host.
pub const SCREEN_ROWS_MAX: u16 = 300;
pub const SCREEN_COLS_MAX: u16 = 500;
/// Requests of one session that its host forwards at once.
pub const SPOOL_FORWARDS_MAX: usize = 8;
/// A request whose daemon was not there is tried again this often, even if no new daemon was seen.
pub const SPOOL_RETRY: Duration = Duration::from_secs(10);
/// How long a landed session may take to end its turn.
pub const LANDED_GRACE: Duration = Duration::from_secs(20);
/// The safety net: everything is looked at again this often.
pub const RECONCILE_EVERY: Duration = Duration::from_secs(60);
/// The keeper restarts a daemon this often …
pub const KEEPER_RESTARTS_MAX: usize = 5;
/// … within this window.
pub const KEEPER_WINDOW: Duration = Duration::from_secs(600);
/// Longest line on the socket, in bytes.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// Most clients at once.
pub const CLIENTS_MAX: usize = 64;
/// Updates kept for a client that reads slowly; one more and it is told to start again.
pub const SUBSCRIBER_QUEUE_MAX: usize = 256;
/// Kept output of one session, in bytes: the newest part, in two segments.
pub const LOG_BYTES_MAX: u64 = 64 << 20;
/// Kept output of one check in the journal, in bytes (the whole is in the evidence folder).
pub const CHECK_TAIL_BYTES_MAX: usize = 4 << 10;
/// Text of a reason or a context, in bytes.
pub const REASON_BYTES_MAX: usize = 8 << 10;
/// Longest Unix socket path Linux takes, in bytes (108 with the final NUL).
pub const SOCKET_PATH_BYTES_MAX: usize = 107;
/// An inside-session `stage complete` answers within this long.
pub const COMPLETE_WAIT: Duration = Duration::from_secs(85);
/// A file in a session's spool, in bytes.
pub const SPOOL_FILE_BYTES_MAX: u64 = 64 << 10;
/// Rows of scrollback kept by a host: what a screen that grows gets back. A cell takes 32 bytes.
pub const SCROLLBACK_ROWS: usize = 200;
/// Worktrees of landed stages are removed this many at a time: git looks at every
/// worktree when it adds one, and removing them costs one process a time.
pub const TIDY_AT: usize = 4;
/// Largest rescue, in bytes, before a person is asked.
pub const RESCUE_BYTES_MAX: u64 = 2 << 30;
/// Percent of the context window from which on a session should get ready to hand off.
pub const CONTEXT_YELLOW: u32 = 50;
/// How long a session that was asked for its handoff may take to write it.
pub const HANDOFF_TURN: Duration = Duration::from_secs(5 * 60);
/// Longest handoff, in bytes.
pub const HANDOFF_BYTES_MAX: usize = 32 << 10;
/// Most entries of one list in a handoff.
pub const HANDOFF_LIST_MAX: usize = 64;
/// Most handoffs within one attempt: a task that fills window after window without being
/// submitted is not one that more of the same will finish.
pub const HANDOFFS_MAX: u32 = 8;
/// What one dependency may add to a signal, in bytes.
pub const LISTS_BYTES_MAX: usize = 4 << 10;
/// After this long without another stop or crash, earlier ones no longer make the pause longer.
pub const LANE_DECAY: Duration = Duration::from_secs(3600);
/// A session is suspected when the model has not answered at all after this long …
pub const FIRST_BYTE: Duration = Duration::from_secs(2 * 60);
/// … or when it has been silent for this long, with no tool at work …
pub const IDLE: Duration = Duration::from_secs(10 * 60);
/// … and ended after this long: one answer of a model that thinks for long is one sign of life.
pub const IDLE_END: Duration = Duration::from_secs(30 * 60);
/// When its turn has been over for this long without a submission, it is suspected …
pub const AFTER_TURN: Duration = Duration::from_secs(60);
/// … and ended.
pub const AFTER_TURN_END: Duration = Duration::from_secs(5 * 60);
/// When only a command in its background has run for this long, it is suspected …
pub const BACKGROUND_WAIT: Duration = Duration::from_secs(3600);
/// … and ended.
pub const BACKGROUND_END: Duration = Duration::from_secs(4 * 3600);
/// A suspected session is looked at this often.
pub const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// A session is nobody's but a person's for this long after that person typed or left.
pub const PERSON_STAYS: Duration = Duration::from_secs(30 * 60);
/// A host writes down that somebody types at most this often.
pub const PERSON_NOTED_EVERY: Duration = Duration::from_secs(5);
/// Two clocks that drift apart by more than this between two looks: one of them was set, or the machine slept.
pub const CLOCKS_DRIFT: Duration = Duration::from_secs(5);
/// A session is reported again when it has used so many more tokens (cache reads apart) …
pub const USAGE_STEP_TOKENS: u64 = 10_000;
/// … or this much more money, in millionths of a dollar.
pub const USAGE_STEP_MICROUSD: u64 = 50_000;
/// Most sessions and tokens that a budget may name.
pub const BUDGET_SESSIONS_MAX: u32 = 100_000;
pub const BUDGET_TOKENS_MAX: i64 = 1_000_000_000_000;
/// What happens within this time is told in one notification.
pub const NOTIFY_GATHER: Duration = Duration::from_secs(1);
/// Deadline of the operator's command, and of a desktop notification.
pub const NOTIFY_COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// Deadline of a webhook with its further tries.
pub const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest text of a notification, and longest command or address of a setting, in bytes.
pub const NOTIFY_TEXT_BYTES_MAX: usize = 4 << 10;
/// Kept of what a channel says when it fails, in bytes.
pub const NOTIFY_REPLY_BYTES_MAX: usize = 1 << 10;
/// Processes that outlived a session and are named in the journal.
pub const LEFTOVERS_NAMED: usize = 20;
