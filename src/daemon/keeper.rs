//! The keeper: the daemon's parent. It has no logic but to start the daemon
//! again when it died, a few times, and to say so when it gives up.

use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::time::Instant;

use crate::base::fail::{self, Point};
use crate::model::limits::{KEEPER_RESTARTS_MAX, KEEPER_WINDOW};

/// How a keeper came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// The daemon ended by itself, with this exit code.
    Ended { code: i32 },
    /// It died too often and is not started again; `text` is for a person.
    GaveUp { code: i32, text: String },
}

/// Starts `daemon()` and starts it again while it dies by a signal or a panic.
///
/// # Errors
/// When the daemon cannot be started at all.
pub fn keep(mut daemon: impl FnMut(bool) -> Command) -> std::io::Result<Kept> {
    let mut restarts: VecDeque<Instant> = VecDeque::new();
    let mut is_first = true;
    loop {
        fail::point(Point::BeforeDaemon)?;
        let mut child = daemon(is_first).spawn()?;
        fail::point(Point::AfterDaemon)?;
        let status = child.wait()?;
        is_first = false;
        if let Some(code) = status.code().filter(|code| !is_crash(*code)) {
            return Ok(Kept::Ended { code });
        }
        let now = Instant::now();
        restarts.retain(|at| now.duration_since(*at) < KEEPER_WINDOW);
        restarts.push_back(now);
        let how = status.signal().map_or_else(|| status.to_string(), |signal| format!("unix signal {signal}"));
        if restarts.len() > KEEPER_RESTARTS_MAX {
            let text = format!(
                "the daemon died of {how}, {} times within {} minutes, and is not started again: sessions go on \
                 under their hosts; `loom logs` may say why, `loom run` tries again",
                restarts.len(),
                KEEPER_WINDOW.as_secs() / 60
            );
            tracing::error!("{text}");
            return Ok(Kept::GaveUp { code: status.code().unwrap_or(70), text });
        }
        tracing::warn!("the daemon died of {how}: started again ({} of {KEEPER_RESTARTS_MAX})", restarts.len());
    }
}

/// A panic ends with 101, an internal error with 70, a journal that could not be synced with 75:
/// starting again reads what is on disk. Everything else is a decision.
fn is_crash(code: i32) -> bool {
    matches!(code, 70 | 75 | 101)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::process::command;

    fn shell(script: &str) -> Command {
        let mut shell = command("sh");
        shell.args(["-c", script]);
        shell
    }

    #[test]
    fn a_killed_daemon_is_started_again_and_a_clean_end_is_one() {
        let mut starts = 0;
        let code = keep(|is_first| {
            starts += 1;
            shell(if is_first { "kill -9 $$" } else { "exit 0" })
        });
        assert_eq!((code.unwrap(), starts), (Kept::Ended { code: 0 }, 2));
    }

    #[test]
    fn it_gives_up() {
        let mut starts = 0;
        let code = keep(|_| {
            starts += 1;
            shell("exit 101")
        });
        let Kept::GaveUp { code, text } = code.unwrap() else { panic!("it never gave up") };
        assert_eq!((code, starts), (101, KEEPER_RESTARTS_MAX + 1));
        assert!(text.contains("6 times within 10 minutes"), "{text}");
    }
}
