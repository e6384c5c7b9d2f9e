//! Who is an operator is proven, never assumed: the whole ancestry is walked,
//! and nothing in it may be a host, a check, or carry `LOOM_SESSION`.
//!
//! Same-uid malware that leaves its session altogether wins; `doc/` says so.

use crate::base::process;

/// What the ancestry of a process says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    Operator,
    /// Not an operator, or not provably one: why.
    No(String),
}

/// Variables that only processes under a host have.
const MARKS: [&str; 2] = ["LOOM_SESSION", "LOOM_HOST"];

/// Longest ancestry that is believed; a longer one is nobody's terminal.
const ANCESTORS_MAX: usize = 256;

/// Programs that make a login: the kernel hides their environment even from their own user.
const LOGIN_PROGRAMS: [&str; 8] = ["sshd", "sshd-session", "sshd-auth", "login", "su", "sudo", "systemd", "(sd-pam)"];

/// Walks from `pid` to the top.
pub fn prove(pid: u32) -> Proof {
    let me = process::user_id(std::process::id());
    let mut at = pid;
    for _ in 0..ANCESTORS_MAX {
        let Some(stat) = process::stat(at) else {
            return Proof::No(format!("process {at} went away while it was looked at"));
        };
        if let Err(why) = look_at(at, me) {
            return Proof::No(why);
        }
        // Pid 1, or the top of a pid namespace.
        if at == 1 || stat.parent == 0 {
            return Proof::Operator;
        }
        at = stat.parent;
    }
    Proof::No("its ancestry has no end".to_owned())
}

fn look_at(pid: u32, me: Option<u32>) -> Result<(), String> {
    for mark in MARKS {
        match process::environ_value(pid, mark) {
            Ok(None) => {}
            Ok(Some(value)) => return Err(format!("process {pid} runs in a session of Loom ({mark}={value})")),
            // Another user's process is no session of ours: hosts run as this user. Who that is says
            // its status, not its folder: what hides its memory, as checks' runners do, is root's there.
            Err(_) if process::user_id(pid) != me => return Ok(()),
            // The first process is nobody's session, and may hide its environment.
            Err(_) if pid == 1 || is_login(pid) => return Ok(()),
            Err(error) => return Err(format!("process {pid} cannot be looked at: {error}")),
        }
    }
    Ok(())
}

fn is_login(pid: u32) -> bool {
    fs_err::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| LOGIN_PROGRAMS.contains(&name.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_anywhere_above_is_found() {
        let mut command = process::command("sh");
        // The shell stays the parent of the sleep, which has dropped the mark itself.
        command.args(["-c", "env -u LOOM_SESSION sleep 60; :"]).env("LOOM_SESSION", "api.1");
        let mut shell = command.spawn().unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let child = loop {
            if let Some(child) = process::children(shell.id()).first() {
                break *child;
            }
            assert!(std::time::Instant::now() < until, "the shell started nothing");
            std::thread::yield_now();
        };
        assert!(matches!(prove(child), Proof::No(why) if why.contains("LOOM_SESSION")));
        assert_eq!(
            prove(u32::MAX - 1),
            Proof::No(format!("process {} went away while it was looked at", u32::MAX - 1))
        );
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_raw(i32::try_from(child).unwrap()).unwrap(),
            rustix::process::Signal::KILL,
        );
        shell.wait().unwrap();
    }
}
