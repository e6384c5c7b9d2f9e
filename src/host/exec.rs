//! The last step before the agent: a fresh process of this binary that ties
//! its life to its host, takes its terminal or its own process group, enters a
//! signal scope that the host is not in, and becomes the agent.
//!
//! A process of its own, because all this has to happen after the fork and
//! before the exec, where a program without unsafe code cannot act.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::Instant;

use super::cgroup;
use super::spec::{EnvChange, HostFolder, HostSpec};
use crate::base::fail;
use crate::base::process;
use crate::base::wait;

/// What passes a start barrier: from the daemon to a host, and from there to what becomes the child.
pub const GO: [u8; 1] = *b"g";

/// Becomes the child of the host at `dir`. Returns only if that failed; the host hears why on
/// standard input, which is a socket to it until the moment of the exec.
pub fn exec(dir: &Path) -> u8 {
    let Ok(channel) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3) else { return 127 };
    let mut channel = UnixStream::from(channel);
    let Err(error) = become_child(dir, &channel);
    // A host that is gone does not need to know.
    let _ = channel.write_all(error.to_string().as_bytes());
    127
}

fn become_child(dir: &Path, channel: &UnixStream) -> io::Result<std::convert::Infallible> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let folder = HostFolder::new(dir);
    let spec = read_spec(&folder)?;
    if let Some(group) = super::control::read_record(&folder)?.cgroup {
        // Best effort, as having one is.
        let _ = cgroup::enter(&group);
    }
    let null = fs_err::File::open("/dev/null")?;
    if spec.terminal.is_some() {
        // Standard output is the terminal already; a new session may make it its own.
        rustix::process::setsid()?;
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdout())?;
        rustix::stdio::dup2_stdin(rustix::stdio::stdout())?;
    } else {
        rustix::process::setpgid(None, None)?;
        rustix::stdio::dup2_stdin(&null)?;
    }
    enter_signal_scope();
    wait_for_go(channel)?;
    let (program, arguments) = spec
        .argv
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "there is no program to run"))?;
    if !spec.cwd.is_dir() {
        let text = format!("cannot run `{program}`: its folder {} does not exist", spec.cwd.display());
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    let mut command = process::command(program);
    command.args(arguments).current_dir(&spec.cwd).env_clear().envs(environment(&spec, std::env::vars_os()));
    command.stdin(std::process::Stdio::inherit());
    let error = command.exec();
    Err(io::Error::new(error.kind(), format!("cannot run `{program}`: {error}")))
}

/// The host lets go. Its death is ours already; one that came before that has closed the channel,
/// perhaps behind its word.
fn wait_for_go(mut channel: &UnixStream) -> io::Result<()> {
    let mut byte = [0];
    let is_told = channel.read(&mut byte)? == 1 && byte == GO;
    // It says nothing else: what can be read now is the end.
    if is_told && !wait::readable(channel, Instant::now())? {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::BrokenPipe, "the host is gone"))
}

/// Reads `spec.json`.
pub fn read_spec(folder: &HostFolder) -> io::Result<HostSpec> {
    let path = folder.spec();
    let text = fs_err::read(&path)?;
    serde_json::from_slice(&text)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display())))
}

/// Keeps the agent from signalling its host, or anything else outside its own tree. Best effort:
/// kernels before 6.12 know no signal scope. Set-user-id programs gain no rights inside.
pub fn enter_signal_scope() {
    use landlock::{Ruleset, RulesetAttr, Scope};
    let _ =
        Ruleset::default().scope(Scope::Signal).and_then(Ruleset::create).and_then(|ruleset| ruleset.restrict_self());
}

/// The environment of the child.
fn environment(spec: &HostSpec, inherited: impl Iterator<Item = (OsString, OsString)>) -> BTreeMap<OsString, OsString> {
    let mut env: BTreeMap<OsString, OsString> = inherited.collect();
    // Faults are injected into Loom, not into what it runs.
    fail::VARIABLES.iter().for_each(|name| drop(env.remove(OsStr::new(name))));
    let (name, value) = process::ONE_HEAP;
    if env.get(OsStr::new(name)).is_some_and(|known| known == value) {
        env.remove(OsStr::new(name));
    }
    for change in &spec.env {
        apply(&mut env, change);
    }
    if spec.terminal.is_some() {
        // What the emulated screen is, whatever terminal the daemon was started from.
        for name in ["TERM_PROGRAM", "TERM_PROGRAM_VERSION", "COLUMNS", "LINES"] {
            env.remove(OsStr::new(name));
        }
        env.insert("TERM".into(), "xterm-256color".into());
    }
    // No change may hide that this runs under a host.
    env.insert("LOOM_HOST".into(), "1".into());
    env
}

fn apply(env: &mut BTreeMap<OsString, OsString>, change: &EnvChange) {
    let key = |name: &String| OsString::from(name);
    match change {
        EnvChange::Set { name, value } => drop(env.insert(key(name), value.into())),
        EnvChange::Remove { name } => drop(env.remove(&key(name))),
        EnvChange::Rename { from, to } => {
            if let Some(value) = env.remove(&key(from)) {
                env.insert(key(to), value);
            }
        }
        EnvChange::KeepOnly { names } => env.retain(|name, _| names.iter().any(|kept| name == kept.as_str())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(terminal: bool, env: Vec<EnvChange>, expected: &str) {
        let size = super::super::spec::TerminalSize { rows: 24, cols: 80 };
        let spec = HostSpec {
            argv: vec!["true".to_owned()],
            cwd: "/".into(),
            env,
            terminal: terminal.then_some(size),
            timeout_ms: 1,
            log_bytes_max: 1,
            ends_with_daemon: false,
            own_cgroup: false,
            attach_socket: None,
            spool: None,
        };
        let of_terminal = [("TERM", "dumb"), ("TERM_PROGRAM", "x"), ("LINES", "9")];
        let inherited = [("A", "1"), ("B", "2"), process::ONE_HEAP].into_iter().chain(of_terminal);
        let env = environment(&spec, inherited.map(|(name, value)| (name.into(), value.into())));
        let pairs: Vec<String> =
            env.iter().map(|(name, value)| format!("{}={}", name.display(), value.display())).collect();
        assert_eq!(pairs.join(" "), expected);
    }

    #[test]
    fn environment_changes_apply_in_order() {
        let keep = EnvChange::KeepOnly { names: vec!["A".to_owned(), "TERM".to_owned()] };
        let rename = EnvChange::Rename { from: "A".to_owned(), to: "Z".to_owned() };
        let set = EnvChange::Set { name: "A".to_owned(), value: "new".to_owned() };
        let absent = EnvChange::Rename { from: "NOPE".to_owned(), to: "Q".to_owned() };
        let remove = EnvChange::Remove { name: "LOOM_HOST".to_owned() };
        check(false, vec![keep, rename, set, absent, remove], "A=new LOOM_HOST=1 TERM=dumb Z=1");
        check(true, Vec::new(), "A=1 B=2 LOOM_HOST=1 TERM=xterm-256color");
    }
}
