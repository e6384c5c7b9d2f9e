//! How a person is told: a desktop notification, a command of theirs, a webhook of theirs. Each is
//! a process with a deadline, and none of them can hold anything up: this is run by a process of
//! its own, `loom notify`.
//!
//! The webhook is sent by `curl`: it knows the certificates and proxies of this machine, and a TLS
//! stack inside the program would be a third of its size for one request now and then.

use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process_group, pidfd_open};

use crate::base::process::{command, find_program};
use crate::base::text::printable;
use crate::base::wait::{self, Got};
use crate::model::attention::{Channels, Notification};
use crate::model::limits::{NOTIFY_COMMAND_TIMEOUT, NOTIFY_REPLY_BYTES_MAX, WEBHOOK_TIMEOUT};

/// Version of what commands and webhooks are given.
pub const NOTIFICATION_VERSION: u32 = 1;

/// What is missing on this machine for these channels.
pub fn missing(channels: &Channels) -> Option<&'static str> {
    (channels.webhook.is_some() && find_program("curl").is_none()).then_some("curl")
}

/// Whether anything but a terminal's bell is there to tell somebody.
pub fn has_any(channels: &Channels) -> bool {
    channels.command.is_some() || channels.webhook.is_some() || (channels.desktop && has_desktop())
}

fn has_desktop() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value: std::ffi::OsString| !value.is_empty());
    (is_set("DISPLAY") || is_set("WAYLAND_DISPLAY")) && find_program("notify-send").is_some()
}

/// Tells it on every channel. What fails is returned, for the log: nothing depends on it.
pub fn send(channels: &Channels, notification: &Notification) -> Vec<String> {
    let mut troubles = Vec::new();
    let mut tell = |name: &str, sent: Result<(), String>| {
        if let Err(why) = sent {
            troubles.push(format!("{name}: {why}"));
        }
    };
    if channels.desktop && has_desktop() {
        tell("notify-send", desktop(notification));
    }
    if let Some(line) = &channels.command {
        tell("notify.command", own_command(line, notification));
    }
    if let Some(address) = &channels.webhook {
        tell("notify.webhook", webhook(address, notification));
    }
    troubles
}

fn title(notification: &Notification) -> String {
    let plan = notification.plan.as_ref().map(|plan| format!("{plan} · ")).unwrap_or_default();
    format!("Loom · {plan}{}", notification.event.as_str())
}

fn desktop(notification: &Notification) -> Result<(), String> {
    let mut program = command("notify-send");
    // The body is markup to most desktops.
    let body = format!("{}\n{}", printable(&notification.text), notification.next);
    let body = body.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    program.args(["--app-name=Loom", "--", &printable(&title(notification)), &body]);
    run(program, "", NOTIFY_COMMAND_TIMEOUT)
}

/// What happened is in the environment, and as JSON on the standard input; nothing of it is ever
/// part of the command.
fn own_command(line: &str, notification: &Notification) -> Result<(), String> {
    let mut shell = command("sh");
    let stages: Vec<&str> = notification.stages.iter().map(|stage| stage.as_str()).collect();
    shell.args(["-c", line]);
    shell.current_dir(&notification.project);
    shell.env("LOOM_EVENT", notification.event.as_str());
    shell.env("LOOM_PROJECT", &notification.project);
    shell.env("LOOM_PLAN", notification.plan.as_deref().unwrap_or_default());
    shell.env("LOOM_STAGES", stages.join(" "));
    shell.env("LOOM_TEXT", printable(&notification.text).as_ref());
    shell.env("LOOM_NEXT", &notification.next);
    run(shell, &json(notification), NOTIFY_COMMAND_TIMEOUT)
}

/// The address is not on the command line, where every user could read it.
fn webhook(address: &str, notification: &Notification) -> Result<(), String> {
    let quoted = json(notification).replace('\\', "\\\\").replace('"', "\\\"");
    let config = format!(
        "url = \"{address}\"\nrequest = \"POST\"\nheader = \"Content-Type: application/json\"\nuser-agent = \"loom\"\n\
         data-raw = \"{quoted}\"\n"
    );
    let mut curl = command("curl");
    curl.args(["-q", "--config", "-", "--globoff", "--proto", "=http,https", "--silent", "--show-error", "--fail"]);
    curl.args(["--output", "/dev/null", "--connect-timeout", "3", "--max-time", "5"]);
    curl.args(["--retry", "2", "--retry-delay", "1", "--retry-connrefused", "--retry-max-time", "12"]);
    run(curl, &config, WEBHOOK_TIMEOUT)
}

fn json(notification: &Notification) -> String {
    serde_json::to_string(notification).unwrap_or_default()
}

/// Runs a program in a process group of its own, and ends the group at the deadline. Its words
/// are part of the error.
fn run(mut program: Command, input: &str, timeout: std::time::Duration) -> Result<(), String> {
    let deadline = Instant::now() + timeout;
    program.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
    let mut child = program.spawn().map_err(|error| error.to_string())?;
    // Shorter than a pipe holds, so this never waits; who does not read it misses it.
    let _ = child.stdin.take().map(|mut stdin| stdin.write_all(input.as_bytes()));
    let ended = wait_until(&mut child, deadline);
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // Also what it left behind.
        let _ = kill_process_group(group, Signal::KILL);
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    let words = child.stderr.take().map_or_else(String::new, |stderr| last_words(&stderr));
    match (ended, status.success()) {
        (false, _) => Err(format!("was not done within {} s and was ended; {words}", timeout.as_secs())),
        (true, false) => Err(format!("{status}; {words}")),
        (true, true) => Ok(()),
    }
}

/// What is there of its words. Somebody who left the group may hold the pipe open: nobody waits for them.
fn last_words(stderr: &impl AsFd) -> String {
    let mut words = [0; NOTIFY_REPLY_BYTES_MAX];
    match wait::set_nonblocking(stderr).map(|()| wait::read(stderr, &mut words)) {
        Ok(Got::Bytes(count)) => printable(String::from_utf8_lossy(&words[..count]).trim()).into_owned(),
        _ => String::new(),
    }
}

/// Whether it ended before the deadline.
fn wait_until(child: &mut Child, deadline: Instant) -> bool {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let Some(Ok(handle)) = pid.map(|pid| pidfd_open(pid, rustix::process::PidfdFlags::empty())) else { return false };
    wait::readable(&handle, deadline).unwrap_or(false)
}
