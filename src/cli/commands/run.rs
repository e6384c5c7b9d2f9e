//! `loom run`: starts the keeper, which starts the daemon, and waits until it
//! can be talked to.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;

use crate::base::fs::write_atomic;
use crate::base::text::count;
use crate::base::{process, wait, watch};
use crate::cli::args::Run;
use crate::cli::failure::{Failure, exit};
use crate::cli::place::Place;
use crate::cli::show::Bell;
use crate::cli::{show, ui};
use crate::client::{self, Client, ClientError};
use crate::config::Config;
use crate::daemon::turn::Mode;
use crate::daemon::{self, BootError, Kept, Opened, ReadOnly};
use crate::journal::JournalError;
use crate::model::attention::{AttentionKind, Channels, Notification};
use crate::model::event::{Defaults, RunOptions};
use crate::model::plan::{Agent, BackendKind};
use crate::model::refusal::Refusal;
use crate::model::stage::StateKind;
use crate::model::terminal::Terminal;
use crate::notify;
use crate::wire::status::{PhaseOfPlan, Status};

/// What a ready daemon says to the parent that waits.
const READY: &str = "ready";

pub fn run(place: &Place, args: &Run) -> Result<u8, Failure> {
    client::require_operator("run a plan")?;
    match Client::connect(&place.layout) {
        Ok(_) if args.watch => {
            return match other_option(args, &ReadOnly::open(&place.layout)?.world.options) {
                None => watch(place),
                Some(option) => Err(Failure::user(format!(
                    "the daemon of this project is running already, and was started without this `{option}`"
                ))
                .hint(format!("loom stop, then loom run --watch {option}"))
                .hint("loom run --watch   (follows it as it is)")),
            };
        }
        Ok(_) => {
            return Err(Failure::user("the daemon of this project is running already")
                .hint("loom status")
                .hint("loom run --watch"));
        }
        Err(ClientError::NoDaemon) => {}
        Err(error) => return Err(error.into()),
    }
    let config = Config::read(&place.layout.config()).map_err(super::config::failure)?;
    preflight(place, args, &config)?;
    if args.foreground {
        return daemon(place, args);
    }
    start_keeper(place, args)?;
    let status = client::status(&place.layout)?;
    announce(&status);
    if args.watch { watch(place) } else { Ok(exit::OK) }
}

/// An option that says otherwise than what a daemon was started with.
fn other_option(args: &Run, started: &RunOptions) -> Option<&'static str> {
    let others = [
        ("--stage", args.stage.is_some() && args.stage != started.only),
        ("--max-parallel", args.max_parallel.is_some() && args.max_parallel != started.max_parallel),
        ("--no-merge", args.no_merge && !started.no_merge),
        ("--no-sandbox", args.no_sandbox && !started.no_sandbox),
        ("--on-limit", args.on_limit.is_some() && args.on_limit != started.on_limit),
        ("--terminal", args.terminal.is_some_and(|terminal| terminal != started.terminal)),
        ("--foreground", args.foreground),
    ];
    others.into_iter().find(|(_, is_other)| *is_other).map(|(option, _)| option)
}

/// What can be known before anything is started.
fn preflight(place: &Place, args: &Run, config: &Config) -> Result<(), Failure> {
    if let Some(program) = notify::missing(&config.channels()) {
        return Err(Failure::user(format!("`notify.webhook` needs `{program}`, which is not installed"))
            .hint(format!("install {program}, or remove `notify.webhook` from the settings (loom config)")));
    }
    let read = ReadOnly::checked(&place.layout, &place.git)?;
    if let Some(trouble) = read.trouble {
        return Err(BootError::from(trouble).into());
    }
    let Some(run) = &read.world.run else { return Err(BootError::NoPlan.into()) };
    if let Some(stage) = args.stage.as_ref().filter(|stage| !run.stages.contains_key(*stage)) {
        return Err(unknown_stage(run, stage.as_str()).into());
    }
    place.git.check_ready()?;
    terminal(args, config)?;
    let environment = crate::agent::environment::Environment::of_this_process();
    let open: Vec<_> = run.stages.values().filter(|stage| !stage.state.is_final()).map(|stage| &stage.spec).collect();
    let mut agents: Vec<&Agent> = open.iter().map(|spec| &spec.agent).collect();
    agents.retain(|agent| agent.kind() != BackendKind::Command);
    for agent in agents {
        if let Err(unfit) = crate::agent::preflight(agent, &environment, &place.layout.project) {
            return Err(Failure::user("the plan's agents cannot start").because(unfit.text).hint("loom run"));
        }
    }
    if open.iter().any(|spec| crate::kernel::is_sandboxed(spec, args.no_sandbox))
        && let Err(unfit) = crate::daemon::sandbox::check(&environment)
    {
        return Err(Failure::user("the plan's agents cannot start")
            .because(unfit.text)
            .hint("apt-get install bubblewrap socat")
            .hint("loom run --no-sandbox"));
    }
    Ok(())
}

/// Where windows open: as asked for, else as the environment says, else nowhere.
fn terminal(args: &Run, config: &Config) -> Result<Terminal, Failure> {
    match (args.terminal, std::env::var("LOOM_TERMINAL")) {
        (Some(terminal), _) => Ok(terminal),
        (None, Ok(name)) if !name.is_empty() => name.parse().map_err(|known: String| {
            Failure::user(format!("LOOM_TERMINAL is `{name}`, which is no terminal Loom knows")).because(known)
        }),
        _ => Ok(config.terminal().unwrap_or_default()),
    }
}

/// The settings, and what they mean for this daemon. One that the keeper starts again goes on
/// with what it had when the files have become wrong meanwhile.
fn settings(place: &Place, args: &Run, last: &RunOptions) -> Result<(Defaults, Terminal, Channels), Failure> {
    match Config::read(&place.layout.config()) {
        Ok(config) => Ok((config.defaults(), terminal(args, &config)?, config.channels())),
        Err(error) if args.restarted => {
            tracing::error!("{error}: the daemon goes on with the settings it had, and nobody is notified");
            Ok((last.defaults, last.terminal, Channels::default()))
        }
        Err(error) => Err(super::config::failure(error)),
    }
}

/// A refusal that names the stage that was probably meant.
pub fn unknown_stage(run: &crate::kernel::world::Run, wanted: &str) -> Refusal {
    crate::kernel::unknown_stage(run, wanted)
}

fn start_keeper(place: &Place, args: &Run) -> Result<(), Failure> {
    fs_err::create_dir_all(&place.layout.work)?;
    let log = open_log(place)?;
    let mut command = process::command(process::this_binary()?);
    command.arg("-C").arg(&place.layout.project).arg("keeper").args(forwarded(args));
    command.current_dir(&place.layout.project).stdout(Stdio::piped()).stderr(Stdio::from(log));
    let mut keeper = command.spawn()?;
    let stdout = keeper.stdout.take().ok_or_else(|| Failure::new(exit::INTERNAL, "the keeper has no output"))?;
    let mut lines = BufReader::new(stdout).lines();
    match lines.next() {
        Some(Ok(line)) if line == READY => Ok(()),
        Some(Ok(line)) => Err(serde_json::from_str::<Told>(&line)
            .map_or_else(|_| Failure::new(exit::INTERNAL, line.clone()), Told::into_failure)),
        _ => Err(Failure::new(exit::INTERNAL, "the daemon ended before it was ready").hint("loom logs")),
    }
}

/// A failure on its way from the daemon to the terminal.
#[derive(serde::Serialize, serde::Deserialize)]
struct Told {
    code: u8,
    what: String,
    why: Vec<String>,
    hints: Vec<String>,
}

impl Told {
    fn into_failure(self) -> Failure {
        Failure { code: self.code, what: self.what, why: self.why, hints: self.hints }
    }
}

fn forwarded(args: &Run) -> Vec<String> {
    let mut out = Vec::new();
    if let Some(stage) = &args.stage {
        out.push(format!("--stage={stage}"));
    }
    if let Some(n) = args.max_parallel {
        out.push(format!("--max-parallel={n}"));
    }
    if args.no_merge {
        out.push("--no-merge".to_owned());
    }
    if let Some(policy) = args.on_limit {
        out.push(format!("--on-limit={}", policy.as_str()));
    }
    if args.no_sandbox {
        out.push("--no-sandbox".to_owned());
    }
    if let Some(terminal) = args.terminal {
        out.push(format!("--terminal={}", terminal.as_str()));
    }
    out
}

fn open_log(place: &Place) -> Result<std::fs::File, Failure> {
    let path = place.layout.daemon_log();
    Ok(fs_err::OpenOptions::new().create(true).append(true).open(path)?.into_parts().0)
}

/// `loom keeper`: outlives the terminal, restarts the daemon.
pub fn keeper(place: &Place, args: &Run) -> Result<u8, Failure> {
    // A session of its own: the terminal's unix signals end with the terminal.
    let _ = rustix::process::setsid();
    log_to(place)?;
    let binary = process::this_binary()?;
    let kept = daemon::keep(|is_first| {
        let mut command = process::command(&binary);
        command.arg("-C").arg(&place.layout.project).arg("daemon").args(forwarded(args));
        if !is_first {
            command.arg("--restarted");
        }
        let (name, value) = process::ONE_HEAP;
        if std::env::var_os(name).is_none() {
            command.env(name, value);
        }
        // Only the first one has a parent that waits.
        command.stdout(if is_first { Stdio::inherit() } else { Stdio::null() });
        command
    })?;
    let code = match kept {
        Kept::Ended { code } => code,
        Kept::GaveUp { code, text } => {
            // `loom status` and whoever follows say it until a daemon is ready again.
            write_atomic(&place.layout.gave_up(), text.as_bytes())?;
            tell_that_it_gave_up(place, &text);
            code
        }
    };
    Ok(u8::try_from(code).unwrap_or(exit::INTERNAL))
}

/// The daemon is gone: its keeper tells it.
fn tell_that_it_gave_up(place: &Place, text: &str) {
    let channels = Config::read(&place.layout.config()).map(|config| config.channels()).unwrap_or_default();
    if channels.kinds.contains(&AttentionKind::Stopped) {
        let notification = Notification {
            version: notify::NOTIFICATION_VERSION,
            event: AttentionKind::Stopped,
            project: place.layout.project.display().to_string(),
            plan: None,
            stages: Vec::new(),
            text: text.to_owned(),
            next: "loom run".to_owned(),
        };
        for trouble in notify::send(&channels, &notification) {
            tracing::warn!("{trouble}");
        }
    }
}

/// `loom daemon`, and `loom run --foreground`.
pub fn daemon(place: &Place, args: &Run) -> Result<u8, Failure> {
    log_to(place)?;
    match run_daemon(place, args) {
        Ok(()) if args.foreground => {
            let status = client::status(&place.layout)?;
            show::status(&status, ui::has_color());
            Ok(code_of(&status))
        }
        Ok(()) => Ok(exit::OK),
        Err(failure) if args.foreground => Err(failure),
        Err(failure) => {
            let Failure { code, what, why, hints } = failure;
            tracing::error!("{what}: {}", why.join(": "));
            say(&serde_json::to_string(&Told { code, what, why, hints }).unwrap_or_default());
            Ok(code)
        }
    }
}

fn run_daemon(place: &Place, args: &Run) -> Result<(), Failure> {
    let opened = Opened::open(&place.layout, Mode::Daemon)?;
    let (defaults, terminal, channels) = settings(place, args, &opened.options())?;
    let options = RunOptions {
        max_parallel: args.max_parallel,
        only: args.stage.clone(),
        no_merge: args.no_merge,
        no_sandbox: args.no_sandbox,
        terminal,
        on_limit: args.on_limit,
        defaults,
        restarted: args.restarted,
        backoff_ms: std::env::var("LOOM_BACKOFF_MS").ok().and_then(|text| text.parse().ok()),
        watch_ms: std::env::var("LOOM_WATCH_MS").ok().and_then(|text| text.parse().ok()),
    };
    let is_foreground = args.foreground;
    let result = opened.run(options, &channels, || {
        let _ = fs_err::remove_file(place.layout.gave_up());
        if !is_foreground {
            say(READY);
            // The parent has what it waited for; its pipe must not be written to again.
            let _ = silence_stdout();
        }
    });
    match result {
        Err(BootError::Journal(error @ (JournalError::Io { .. } | JournalError::Poisoned))) => {
            // The keeper starts it again, and that reads what is on disk.
            Err(Failure::new(75, error.to_string()))
        }
        other => Ok(other?),
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // A parent that went away misses nothing.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn silence_stdout() -> std::io::Result<()> {
    let null = fs_err::OpenOptions::new().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(null.file())?;
    Ok(())
}

/// The daemon's log: `.work/daemon.log`; `LOOM_LOG` sets the level.
pub(super) fn log_to(place: &Place) -> Result<(), Failure> {
    fs_err::create_dir_all(&place.layout.work)?;
    let level = match std::env::var("LOOM_LOG").unwrap_or_default().to_lowercase().as_str() {
        "error" => tracing::Level::ERROR,
        "warn" => tracing::Level::WARN,
        "debug" => tracing::Level::DEBUG,
        "trace" => tracing::Level::TRACE,
        _ => tracing::Level::INFO,
    };
    let log = Mutex::new(open_log(place)?);
    // A second call in one process keeps the first log.
    let _ = tracing_subscriber::fmt().with_writer(log).with_ansi(false).with_max_level(level).try_init();
    Ok(())
}

fn announce(status: &Status) {
    if status.phase == PhaseOfPlan::Complete {
        let plan = status.plan.as_ref().map_or("the plan", |plan| plan.id.as_str());
        ui::note(format!("`{plan}` is complete: no session starts"));
        if !status.next.is_empty() {
            ui::note(format!("Next: {}", status.next.join(" · ")));
        }
        return;
    }
    let sessions = status.sessions.len();
    ui::note(format!(
        "Loom runs `{}`: {}, {} now; it goes on when this terminal is closed",
        status.plan.as_ref().map_or("the plan", |plan| plan.id.as_str()),
        count(status.stages.len(), "stage"),
        count(sessions, "session"),
    ));
    ui::note("Next: loom status · loom run --watch · loom attach <stage> · loom stop");
}

/// Prints every change until nothing goes on without a person.
fn watch(place: &Place) -> Result<u8, Failure> {
    let mut seen = show::Seen::default();
    let mut bell = Bell::of(place, Some(Vec::new()));
    loop {
        let mut client = match Client::connect(&place.layout) {
            Ok(client) => client,
            Err(ClientError::NoDaemon) if keeper_brings_it_back(place)? => continue,
            Err(ClientError::NoDaemon) => break,
            Err(error) => return Err(error.into()),
        };
        // A daemon that is gone already is noticed by the first read.
        let _ = client.subscribe();
        loop {
            match client.next_status() {
                Ok(status) => {
                    bell.ring(&status);
                    for line in seen.changes(&status) {
                        ui::line(line);
                    }
                }
                Err(ClientError::Gone | ClientError::Frame(_)) => break,
                Err(error) => return Err(error.into()),
            }
        }
        if !keeper_brings_it_back(place)? {
            break;
        }
    }
    let status = client::status(&place.layout)?;
    bell.ring(&status);
    for line in seen.changes(&status) {
        ui::line(line);
    }
    show::epilogue(&status);
    Ok(code_of(&status))
}

/// After a crash the keeper brings the daemon back within a second, and the daemon writes its
/// record again. A daemon that ended by itself has removed it.
fn keeper_brings_it_back(place: &Place) -> Result<bool, Failure> {
    if !place.layout.work.exists() {
        return Err(Failure::user(format!("{} was removed while the plan ran", place.layout.work.display()))
            .because("the daemon has stopped; its agents go on, and nobody records what they do")
            .hint("loom doctor   (who is still at work, and the ways out)"));
    }
    let changes = watch::folder(&place.layout.work)?;
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    while place.layout.daemon_record().exists() {
        if Client::connect(&place.layout).is_ok() {
            return Ok(true);
        }
        if place.layout.gave_up().exists() {
            return Ok(false);
        }
        if !wait::readable(&changes, deadline)? {
            return Ok(false);
        }
        watch::names(&changes);
    }
    Ok(false)
}

fn code_of(status: &Status) -> u8 {
    match status.phase {
        PhaseOfPlan::Complete if show::waits_for_you(status) => exit::WAITING,
        PhaseOfPlan::Complete | PhaseOfPlan::Working | PhaseOfPlan::NoPlan => exit::OK,
        PhaseOfPlan::WaitingForPerson => {
            let is_blocked = status.stages.iter().any(|stage| stage.state == StateKind::Blocked);
            if is_blocked { exit::WORK } else { exit::WAITING }
        }
        PhaseOfPlan::Stopped => exit::INTERRUPTED,
    }
}
