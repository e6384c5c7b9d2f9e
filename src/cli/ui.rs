//! All output. Data goes to standard output, everything else to standard error;
//! labels are coloured where a terminal is and `NO_COLOR` is not.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use super::failure::{Failure, exit};
use crate::base::text::printable;

/// Whether standard output gets colours.
pub fn has_color() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
        && std::io::stdout().is_terminal()
}

/// Whether a person reads standard output.
pub fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Data was lost on its way to standard output.
static LOST: AtomicBool = AtomicBool::new(false);

/// Data, to standard output. A reader that has gone away is no error.
pub fn data(text: &str) {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    if let Err(error) = written
        && error.kind() != std::io::ErrorKind::BrokenPipe
        && !LOST.swap(true, Ordering::Relaxed)
    {
        note(format!("Error: standard output cannot be written: {error}"));
    }
}

/// The exit code of a command that ended with `code`, unless what it said was lost.
pub fn code(code: u8) -> u8 {
    if code == exit::OK && LOST.load(Ordering::Relaxed) { exit::INTERNAL } else { code }
}

/// One line of data.
pub fn line(text: impl AsRef<str>) {
    data(&format!("{}\n", text.as_ref()));
}

/// One line for the person, to standard error.
pub fn note(text: impl AsRef<str>) {
    let mut out = std::io::stderr().lock();
    let _ = writeln!(out, "{}", text.as_ref());
}

/// JSON, to standard output.
pub fn json(value: &impl serde::Serialize) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => line(text),
        Err(error) => note(format!("Error: {error}")),
    }
}

/// Prints a failure and returns its exit code.
pub fn failure(failure: &Failure) -> u8 {
    note(format!("Error: {}", printable(&failure.what)));
    for why in &failure.why {
        note(format!("Caused by: {}", printable(why).trim_end()));
    }
    for hint in &failure.hints {
        note(format!("Hint: {}", printable(hint)));
    }
    failure.code
}

/// Prints what clap says and returns the exit code.
pub fn usage(error: &clap::Error) -> u8 {
    let _ = error.print();
    if error.use_stderr() { exit::USAGE } else { exit::OK }
}
