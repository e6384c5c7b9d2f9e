//! Processes: the spawner, identities that survive pid reuse, and what
//! `/proc` says about ancestry and environment.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::Command;

/// A command with nothing on its standard input. Every spawn of Loom starts here
/// or in `git`, so that what children inherit is decided in two places.
#[expect(clippy::disallowed_methods, reason = "this is the spawner")]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.stdin(std::process::Stdio::null());
    command
}

/// A setting of the C library (mallopt(3)) for daemons: one heap for all threads. With a heap
/// each, those that serve clients keep what their largest answer took. Sessions do not inherit it.
pub const ONE_HEAP: (&str, &str) = ("MALLOC_ARENA_MAX", "1");

/// Git configuration for sessions, checks and setups: no maintenance in the background.
/// Git would leave it running behind a commit; ended with its session, it leaves its lock, and a
/// repository with that lock is never maintained again. The user's own commands start it as ever.
pub const NO_MAINTENANCE: (&str, &str) = ("maintenance.auto", "false");

/// Git configuration as variables of the environment, after `before` settings that are there.
pub fn git_settings(before: usize, settings: &[(&str, &str)]) -> Vec<(String, String)> {
    let mut variables = vec![("GIT_CONFIG_COUNT".to_owned(), (before + settings.len()).to_string())];
    for (at, (key, value)) in settings.iter().enumerate() {
        variables.push((format!("GIT_CONFIG_KEY_{}", before + at), (*key).to_owned()));
        variables.push((format!("GIT_CONFIG_VALUE_{}", before + at), (*value).to_owned()));
    }
    variables
}

/// This very binary, for processes of its own version: one that was replaced while it runs is
/// started from memory, whatever lies at its path now.
pub fn this_binary() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    Ok(if path.exists() { path } else { PathBuf::from("/proc/self/exe") })
}

/// Where this binary was started from, for others to call: a newer one may lie there now.
pub fn installed_binary() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    // How Linux marks a file that was replaced or removed: proc_pid_exe(5).
    let gone = path.as_os_str().as_bytes().strip_suffix(b" (deleted)").filter(|_| !path.exists());
    Ok(gone.map_or_else(|| path.clone(), |gone| PathBuf::from(OsStr::from_bytes(gone))))
}

/// The id of this boot; a pid recorded under another one means nothing.
pub fn boot_id() -> String {
    fs_err::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(|_| String::new(), |id| id.trim().to_owned())
}

/// What `/proc/<pid>/stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    pub parent: u32,
    /// Field 22, clock ticks since boot.
    pub start_ticks: u64,
    /// `Z`: dead, not reaped yet.
    pub is_zombie: bool,
    /// `T`, `t`: somebody stopped it, or looks at it with a debugger.
    pub is_stopped: bool,
}

/// Reads `/proc/<pid>/stat`. `None`: no such process.
pub fn stat(pid: u32) -> Option<Stat> {
    let text = fs_err::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name is in parentheses and may hold anything, also parentheses.
    let rest = &text[text.rfind(')')? + 2..];
    let fields: Vec<&str> = rest.split(' ').collect();
    Some(Stat {
        is_zombie: fields.first() == Some(&"Z"),
        is_stopped: matches!(fields.first(), Some(&"T" | &"t")),
        parent: fields.get(1)?.parse().ok()?,
        start_ticks: fields.get(19)?.parse().ok()?,
    })
}

/// The children of `pid`, from all of its threads.
pub fn children(pid: u32) -> Vec<u32> {
    let Ok(tasks) = fs_err::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let mut found = Vec::new();
    for task in tasks.flatten() {
        let text = fs_err::read_to_string(task.path().join("children")).unwrap_or_default();
        found.extend(text.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    found
}

/// The value of `name` in the environment that `pid` was started with.
///
/// Errors when the environment cannot be read; that says nothing about its content.
pub fn environ_value(pid: u32, name: &str) -> io::Result<Option<String>> {
    let bytes = fs_err::read(format!("/proc/{pid}/environ"))?;
    let prefix = format!("{name}=");
    Ok(bytes
        .split(|byte| *byte == 0)
        .find(|entry| entry.starts_with(prefix.as_bytes()))
        .map(|entry| String::from_utf8_lossy(&entry[prefix.len()..]).into_owned()))
}

/// The real user id of `pid`.
pub fn user_id(pid: u32) -> Option<u32> {
    let status = fs_err::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("Uid:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Finds `program` as a shell would: as a path, or in `PATH`.
pub fn find_program(program: &str) -> Option<std::path::PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let is_program = |path: &std::path::Path| {
        std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    if program.contains('/') {
        let path = std::path::PathBuf::from(program);
        return is_program(&path).then_some(path);
    }
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(program)).find(|path| is_program(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_can_be_named_and_its_children_found() {
        let mut child = command("sleep").arg("60").env("LOOM_TEST_MARK", "here").spawn().unwrap();
        let pid = child.id();
        assert_eq!(stat(pid).unwrap().parent, std::process::id());
        assert!(children(std::process::id()).contains(&pid));
        // The new environment is visible a moment after the exec that spawn waits for.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while environ_value(pid, "LOOM_TEST_MARK").unwrap().is_none() {
            assert!(std::time::Instant::now() < until, "the environment never appeared");
            std::thread::yield_now();
        }
        assert_eq!(environ_value(pid, "LOOM_TEST_MARK").unwrap().as_deref(), Some("here"));
        assert_eq!(user_id(pid), user_id(std::process::id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(stat(pid).is_none());
        assert!(environ_value(pid, "LOOM_TEST_MARK").is_err());
    }
}
