//! A repository to measure in, with a home, a cache and sockets of its own, and
//! plans that do next to nothing.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use loom::base::process::command;

/// The program as `install.sh` leaves it: a copy. What the linker has written lies in the page
/// cache in single pages, and starts a tenth of a millisecond later.
pub(crate) static LOOM: LazyLock<PathBuf> = LazyLock::new(|| {
    let built = Path::new(env!("CARGO_BIN_EXE_loom"));
    installed(built).unwrap_or_else(|_| built.to_path_buf())
});
/// Files of the small repository.
const FILES: usize = 50;

pub(crate) type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// Labs are removed together at the end: ext4 without a journal creates files slowly for a
/// while after many were removed, which would be charged to whoever comes next.
static USED: Mutex<Vec<tempfile::TempDir>> = Mutex::new(Vec::new());

/// A copy of `program`, which goes with the labs.
pub(crate) fn installed(program: &Path) -> Outcome<PathBuf> {
    let dir = tempfile::Builder::new().prefix("loom-figures-").tempdir()?;
    let copy = dir.path().join(program.file_name().ok_or("a program without a name")?);
    fs_err::copy(program, &copy)?;
    if let Ok(mut used) = USED.lock() {
        used.push(dir);
    }
    Ok(copy)
}

/// Removes every lab.
pub(crate) fn remove_all() {
    if let Ok(mut used) = USED.lock() {
        used.clear();
    }
}

pub(crate) struct Lab {
    dir: PathBuf,
    pub(crate) repo: PathBuf,
    /// Put before everything else in `PATH`, when it is there.
    bin: PathBuf,
}

impl Lab {
    /// A repository of 50 small files and one commit.
    pub(crate) fn new() -> Outcome<Lab> {
        use std::os::unix::fs::DirBuilderExt;
        let dir = tempfile::Builder::new().prefix("loom-figures-").tempdir()?;
        let path = dir.path().to_path_buf();
        if let Ok(mut used) = USED.lock() {
            used.push(dir);
        }
        let (repo, bin) = (path.join("repo"), path.join("bin"));
        for folder in ["home", "cache", "bin"] {
            fs_err::create_dir(path.join(folder))?;
        }
        std::fs::DirBuilder::new().mode(0o700).create(path.join("run"))?;
        fs_err::create_dir_all(repo.join("src"))?;
        for n in 0..FILES {
            fs_err::write(repo.join(format!("src/file{n}.txt")), format!("line {n}\n").repeat(20))?;
        }
        let lab = Lab { dir: path, repo, bin };
        let identity = "[user]\n\tname = Figures\n\temail = figures@localhost\n";
        fs_err::write(lab.path("home/.gitconfig"), identity)?;
        lab.ok(lab.git(&["init", "-q", "-b", "main"]))?;
        lab.ok(lab.git(&["add", "-A"]))?;
        lab.ok(lab.git(&["commit", "-q", "-m", "Start"]))?;
        Ok(lab)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// `program` in the repository, with nothing of the caller's own settings.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = command(program);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["GIT_", "LOOM_", "XDG_", "CLAUDE"].iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(&name);
            }
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::iter::once(self.bin.clone()).chain(std::env::split_paths(&path));
        command.current_dir(&self.repo).env("HOME", self.path("home"));
        command.env("XDG_CACHE_HOME", self.path("cache")).env("XDG_RUNTIME_DIR", self.path("run"));
        command.env("PATH", std::env::join_paths(path).unwrap_or_default());
        command
    }
    pub(crate) fn git(&self, args: &[&str]) -> Command {
        let mut git = self.command("git");
        git.args(args);
        git
    }
    pub(crate) fn loom(&self, args: &[&str]) -> Command {
        let mut loom = self.command(&*LOOM);
        loom.args(args);
        loom
    }

    /// Runs `command` to a good end and returns what it printed.
    pub(crate) fn ok(&self, mut command: Command) -> Outcome<String> {
        let output = command.output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        let printed = String::from_utf8_lossy(&output.stdout);
        Err(format!("{command:?} ended with {}: {printed}{errors}", output.status).into())
    }

    /// How long `command` takes to a good end; what it prints is thrown away.
    pub(crate) fn time(&self, mut command: Command) -> Outcome<Duration> {
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let begin = Instant::now();
        let status = command.status()?;
        let time = begin.elapsed();
        if status.success() { Ok(time) } else { Err(format!("{command:?} ended with {status}").into()) }
    }

    pub(crate) fn init(&self, plan: &Plan) -> Outcome<()> {
        let path = self.path("plan.md");
        fs_err::write(&path, plan.text())?;
        self.ok(self.loom(&["init", &path.display().to_string()]))?;
        Ok(())
    }

    /// Every fact in the journal with its time in nanoseconds since the epoch.
    pub(crate) fn facts(&self) -> Outcome<Vec<(i128, serde_json::Value)>> {
        let text = fs_err::read_to_string(self.repo.join(".work/journal.jsonl"))?;
        let mut facts = Vec::new();
        for line in text.lines() {
            let record: serde_json::Value = serde_json::from_str(line)?;
            let at: jiff::Timestamp = record["at"].as_str().unwrap_or_default().parse()?;
            let of_record = record["facts"].as_array().cloned().unwrap_or_default();
            facts.extend(of_record.into_iter().map(|fact| (at.as_nanosecond(), fact)));
        }
        Ok(facts)
    }

    /// Starts a plan that goes on until [`Lab::stop`].
    pub(crate) fn run_in_background(&self) -> Outcome<u32> {
        self.time(self.loom(&["run"]))?;
        let record: serde_json::Value = serde_json::from_slice(&fs_err::read(self.repo.join(".work/daemon.json"))?)?;
        Ok(u32::try_from(record["pid"].as_u64().unwrap_or(0))?)
    }
    pub(crate) fn stop(&self) -> Outcome<()> {
        self.ok(self.loom(&["stop", "--kill"]))?;
        Ok(())
    }
    /// A program that goes before the one of the same name in `PATH`.
    pub(crate) fn put_before(&self, name: &str, script: &str) -> Outcome<()> {
        use std::os::unix::fs::PermissionsExt;
        let path = self.bin.join(name);
        fs_err::write(&path, script)?;
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        Ok(())
    }
}

/// A plan for the `command` backend.
pub(crate) struct Plan {
    stages: String,
}

impl Plan {
    pub(crate) fn new() -> Plan {
        Plan { stages: String::new() }
    }
    /// One stage; `more` is YAML for further fields, each line indented by six.
    pub(crate) fn stage(mut self, id: &str, after: Option<&str>, run: &str, more: &str) -> Plan {
        let after = after.unwrap_or("");
        // Infallible: it is a string.
        let _ = write!(
            self.stages,
            "    - id: {id}\n      name: Stage {id}\n      dependencies: [{after}]\n      run: |\n        {run}\n      acceptance: [\"sh -c true\"]\n{more}"
        );
        self
    }
    pub(crate) fn text(&self) -> String {
        let (open, close) =
            ("<!-- loom METADATA -->\n```yaml\nloom:\n  version: 1\n  stages:\n", "```\n<!-- END loom METADATA -->\n");
        format!("# Figures\n\n{open}{}{close}", self.stages)
    }
}

/// What a stage does: one new file, one commit.
pub(crate) fn one_commit(n: usize) -> String {
    format!("echo {n} > new{n}.txt && git add new{n}.txt && git commit -q -m 'Add {n}'")
}

/// Lets `time` pass. Nobody sends: this is a pause and no poll.
pub(crate) fn pause(time: Duration) {
    let (_nobody, wait) = std::sync::mpsc::channel::<()>();
    let _ = wait.recv_timeout(time);
}

/// Waits until `is_so`, looking again now and then.
pub(crate) fn until(what: &str, is_so: impl FnMut() -> bool) -> Outcome<()> {
    until_within(Duration::from_secs(60), what, is_so)
}

pub(crate) fn until_within(patience: Duration, what: &str, mut is_so: impl FnMut() -> bool) -> Outcome<()> {
    let deadline = Instant::now() + patience;
    while !is_so() {
        if Instant::now() > deadline {
            return Err(format!("waited too long for {what}").into());
        }
        pause(Duration::from_millis(10));
    }
    Ok(())
}

/// What a stamp file says, in nanoseconds since the epoch.
pub(crate) fn stamp_in(path: &Path) -> Option<i128> {
    fs_err::read_to_string(path).ok()?.parse().ok()
}
