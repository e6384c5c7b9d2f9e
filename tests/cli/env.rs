//! One hermetic project: a repository, a home, a cache and a runtime folder of
//! its own. Everything that was started in it is ended when it is dropped.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Longest wait for something that has to happen; generous, since machines are loaded.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Env {
    dir: tempfile::TempDir,
    pub(crate) repo: PathBuf,
    /// Outside the repository: what stages write here survives every reset.
    pub(crate) out: PathBuf,
    vars: Vec<(String, String)>,
    /// Open ends of fifos: what was written stays until it is read.
    fifos: std::sync::Mutex<Vec<fs::File>>,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Out {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// One stage of a plan; by default it commits one file and has one check.
pub(crate) struct Stage {
    id: String,
    run: String,
    after: Vec<String>,
    checks: Vec<String>,
    more: Vec<String>,
}

pub(crate) fn stage(id: &str) -> Stage {
    Stage {
        id: id.to_owned(),
        run: commit(id, id),
        after: Vec::new(),
        checks: vec![format!("test -s {id}.txt")],
        more: Vec::new(),
    }
}

/// Shell that commits `text` as `<name>.txt`.
pub(crate) fn commit(name: &str, text: &str) -> String {
    // Also right where an attempt that was cut off had committed it.
    format!(
        "echo '{text}' > {name}.txt && git add {name}.txt && {{ git diff --cached --quiet || git commit -q -m 'Add {name}'; }}"
    )
}

impl Stage {
    pub(crate) fn run(mut self, script: impl Into<String>) -> Stage {
        self.run = script.into();
        self
    }
    /// Shell before the usual commit.
    pub(crate) fn first(mut self, script: &str) -> Stage {
        self.run = format!("set -e\n{script}\n{}", self.run);
        self
    }
    pub(crate) fn after(mut self, ids: &[&str]) -> Stage {
        self.after = ids.iter().map(|id| (*id).to_owned()).collect();
        self
    }
    pub(crate) fn check(mut self, command: &str) -> Stage {
        self.checks = vec![command.to_owned()];
        self
    }
    /// A further line of the stage's YAML.
    pub(crate) fn with(mut self, line: &str) -> Stage {
        self.more.push(line.to_owned());
        self
    }
    pub(crate) fn yaml(&self) -> String {
        let text = |value: &str| Value::from(value).to_string();
        let mut out = format!(
            "    - id: {0}\n      name: \"The stage {0}\"\n      dependencies: {1}\n      run: {2}\n      acceptance: {3}\n",
            self.id,
            Value::from(self.after.clone()),
            text(&self.run),
            Value::from(self.checks.clone()),
        );
        for line in &self.more {
            out.push_str(&format!("      {line}\n"));
        }
        out
    }
}

pub(crate) fn plan(stages: &[Stage]) -> String {
    plan_with("", stages)
}

/// A plan with further lines at plan level, each indented by two.
pub(crate) fn plan_with(lines: &str, stages: &[Stage]) -> String {
    let stages: String = stages.iter().map(Stage::yaml).collect();
    let lines: String = lines.lines().map(|line| format!("  {line}\n")).collect();
    markdown(&format!("loom:\n  version: 1\n{lines}  stages:\n{stages}"))
}

pub(crate) fn markdown(yaml: &str) -> String {
    format!("# The plan\n\nWhy.\n\n<!-- loom METADATA -->\n```yaml\n{yaml}```\n<!-- END loom METADATA -->\n")
}

impl Env {
    /// A project with one commit on `main`.
    pub(crate) fn new() -> Env {
        Env::without_repository().with_repository()
    }

    /// A project with one commit on `main`, in a folder below `parent`.
    pub(crate) fn below(parent: &Path) -> Env {
        Env::in_folder(tempfile::Builder::new().prefix("lt-").tempdir_in(parent).unwrap()).with_repository()
    }

    fn with_repository(self) -> Env {
        let env = self;
        env.git(&["init", "-q", "-b", "main"]);
        env.write("README.md", "# Project\n");
        env.write(".gitignore", "ignored.*\n");
        env.git(&["add", "-A"]);
        env.git(&["commit", "-q", "-m", "Start"]);
        env
    }

    pub(crate) fn without_repository() -> Env {
        Env::in_folder(tempfile::Builder::new().prefix("lt-").tempdir().unwrap())
    }

    fn in_folder(dir: tempfile::TempDir) -> Env {
        let path = dir.path().canonicalize().unwrap();
        let (repo, out) = (path.join("repo"), path.join("out"));
        for folder in [&repo, &out, &path.join("home"), &path.join("cache"), &path.join("tmp")] {
            fs::create_dir(folder).unwrap();
        }
        fs::DirBuilder::new().mode(0o700).create(path.join("run")).unwrap();
        let config =
            "[user]\n\tname = Test\n\temail = test@localhost\n[init]\n\tdefaultBranch = main\n[gc]\n\tauto = 0\n";
        fs::write(path.join("home/.gitconfig"), config).unwrap();
        let of = |name: &str| path.join(name).display().to_string();
        let mut vars: Vec<(String, String)> = [
            ("HOME", of("home")),
            ("XDG_CACHE_HOME", of("cache")),
            ("XDG_RUNTIME_DIR", of("run")),
            ("TMPDIR", of("tmp")),
            ("LOOM_BACKOFF_MS", "20".to_owned()),
            ("GIT_CONFIG_NOSYSTEM", "1".to_owned()),
            ("LC_ALL", "C.UTF-8".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec();
        let bin = Path::new(env!("CARGO_BIN_EXE_loom")).parent().unwrap().display().to_string();
        vars.push(("PATH".to_owned(), format!("{bin}:{}", std::env::var("PATH").unwrap_or_default())));
        Env { dir, repo, out, vars, fifos: std::sync::Mutex::default() }
    }

    /// Loads `plan`, committed to `main`.
    #[track_caller]
    pub(crate) fn load(&self, plan: &str) {
        self.add_plan(plan);
        self.loom(&["init", "doc/plans/plan.md"]).ok();
    }

    /// A project that has loaded a plan of these stages.
    #[track_caller]
    pub(crate) fn of(stages: &[Stage]) -> Env {
        let env = Env::new();
        env.load(&plan(stages));
        env
    }

    #[track_caller]
    pub(crate) fn add_plan(&self, plan: &str) {
        let plan = plan.replace("@OUT@", &self.out.display().to_string());
        self.write("doc/plans/plan.md", &plan);
        self.git(&["add", "doc"]);
        self.git(&["commit", "-q", "-m", "Plan"]);
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.vars.retain(|(known, _)| known != name);
        self.vars.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn var(&self, name: &str) -> String {
        self.vars.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone()).unwrap_or_default()
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().canonicalize().unwrap()
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(self.vars.iter().map(|(name, value)| (name, value)));
        command.current_dir(&self.repo).stdin(Stdio::null());
        command
    }

    #[must_use]
    #[track_caller]
    pub(crate) fn loom(&self, args: &[&str]) -> Out {
        self.out_of(self.command(env!("CARGO_BIN_EXE_loom")).args(args))
    }

    /// Starts `loom` and leaves it running.
    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        let mut command = self.command(env!("CARGO_BIN_EXE_loom"));
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The end of a child, within the deadline.
    #[track_caller]
    pub(crate) fn wait_child(&self, mut child: Child) -> Out {
        let (sender, done) = channel();
        let pid = child.id();
        let reader = |pipe: Option<Box<dyn std::io::Read + Send>>| {
            std::thread::spawn(move || {
                let mut text = Vec::new();
                if let Some(mut pipe) = pipe {
                    let _ = pipe.read_to_end(&mut text);
                }
                String::from_utf8_lossy(&text).into_owned()
            })
        };
        let stdout = reader(child.stdout.take().map(|pipe| Box::new(pipe) as Box<_>));
        let stderr = reader(child.stderr.take().map(|pipe| Box::new(pipe) as Box<_>));
        let waiter = std::thread::spawn(move || {
            let _ = sender.send(child.wait().unwrap());
        });
        let Ok(status) = done.recv_timeout(DEADLINE) else {
            kill(pid);
            panic!("a command did not end: {}\n{}", self.state(), self.daemon_log());
        };
        waiter.join().unwrap();
        use std::os::unix::process::ExitStatusExt;
        let code = status.code().unwrap_or_else(|| -status.signal().unwrap_or(0));
        Out { code, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
    }

    #[track_caller]
    pub(crate) fn out_of(&self, command: &mut Command) -> Out {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        self.wait_child(child)
    }

    /// Carries the plan out to where nothing goes on without a person.
    #[must_use]
    #[track_caller]
    pub(crate) fn run(&self) -> Out {
        self.loom(&["run", "--watch"])
    }

    /// Runs the plan to its end and says so when that fails.
    #[track_caller]
    pub(crate) fn finish(&self) -> Out {
        let out = self.run();
        assert_eq!(out.code, 0, "{out}\n{}\n{}", self.state(), self.daemon_log());
        out
    }

    /// Waits until the daemon that runs has nothing more to do.
    #[track_caller]
    pub(crate) fn settle(&self) -> Value {
        self.until("the daemon ends", || !self.is_locked());
        self.status()
    }

    /// Whether a daemon (or a command in its place) writes.
    pub(crate) fn is_locked(&self) -> bool {
        let Ok(file) = fs::File::open(self.repo.join(".work/writer.lock")) else { return false };
        match file.try_lock_shared() {
            Ok(()) => false,
            Err(_) => true,
        }
    }

    #[track_caller]
    pub(crate) fn git(&self, args: &[&str]) -> String {
        self.git_in(&self.repo, args)
    }

    #[track_caller]
    pub(crate) fn git_in(&self, dir: &Path, args: &[&str]) -> String {
        let out = self.out_of(self.command("git").current_dir(dir).args(args));
        assert_eq!(out.code, 0, "git {args:?}: {out}");
        out.stdout.trim_end().to_owned()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.repo.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.repo.join(name)).unwrap_or_default()
    }

    /// What stages wrote outside the repository.
    pub(crate) fn said(&self, name: &str) -> String {
        fs::read_to_string(self.out.join(name)).unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        let out = self.loom(&["status", "--json"]);
        assert_eq!(out.code, 0, "{out}");
        serde_json::from_str(&out.stdout).unwrap()
    }

    #[track_caller]
    pub(crate) fn stage(&self, id: &str) -> Value {
        let status = self.status();
        let rows = status["stages"].as_array().unwrap().clone();
        rows.into_iter().find(|row| row["id"] == id).unwrap()
    }

    /// Each stage with its state, for short comparisons.
    #[track_caller]
    pub(crate) fn state(&self) -> String {
        let out = self.loom_quiet(&["status", "--json"]);
        let status: Value = serde_json::from_str(&out).unwrap_or_default();
        let rows = status["stages"].as_array().cloned().unwrap_or_default();
        let rows: Vec<String> = rows
            .iter()
            .map(|row| format!("{} {}", row["id"].as_str().unwrap_or("?"), row["state"].as_str().unwrap_or("?")))
            .collect();
        rows.join(", ")
    }

    fn loom_quiet(&self, args: &[&str]) -> String {
        let output = self.command(env!("CARGO_BIN_EXE_loom")).args(args).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub(crate) fn daemon_log(&self) -> String {
        self.read(".work/daemon.log")
    }

    #[track_caller]
    pub(crate) fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + DEADLINE;
        let (_keep, pause) = channel::<()>();
        while !is_so() {
            assert!(Instant::now() < deadline, "waited in vain until {what}: {}\n{}", self.state(), self.daemon_log());
            assert_eq!(pause.recv_timeout(Duration::from_millis(15)), Err(RecvTimeoutError::Timeout));
        }
    }

    #[track_caller]
    pub(crate) fn until_said(&self, name: &str, text: &str) {
        self.until(&format!("`{name}` says `{text}`"), || self.said(name).contains(text));
    }

    #[track_caller]
    pub(crate) fn until_state(&self, id: &str, state: &str) {
        self.until(&format!("{id} is {state}"), || self.stage(id)["state"] == state);
    }

    /// Makes a fifo that a stage can wait on with `read go < @OUT@/<name>`.
    pub(crate) fn fifo(&self, name: &str) {
        let path = self.out.join(name);
        let out = self.out_of(self.command("mkfifo").arg(&path));
        assert_eq!(out.code, 0, "{out}");
        let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        self.fifos.lock().unwrap().push(file);
    }

    /// Lets one reader of the fifo go on.
    pub(crate) fn go(&self, name: &str) {
        let mut file = fs::OpenOptions::new().read(true).write(true).open(self.out.join(name)).unwrap();
        file.write_all(b"go\n").unwrap();
    }

    /// Installs a program in a folder at the front of `PATH`.
    pub(crate) fn program(&mut self, name: &str, script: &str) {
        let bin = self.path().join("bin");
        fs::create_dir_all(&bin).unwrap();
        let path = bin.join(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let old = self.var("PATH");
        if !old.starts_with(&bin.display().to_string()) {
            self.set("PATH", &format!("{}:{old}", bin.display()));
        }
    }

    /// The pids of processes that were started in this project, by what is in their command line.
    pub(crate) fn pids(&self, command_line: &str) -> Vec<u32> {
        // Checks have a home of their own, below the same folder.
        let home = format!("HOME={}/", self.path().display());
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let of = |name: &str| fs::read(entry.path().join(name)).unwrap_or_default();
            let is_ours = of("environ").split(|byte| *byte == 0).any(|value| value.starts_with(home.as_bytes()));
            let line = String::from_utf8_lossy(&of("cmdline")).replace('\0', " ");
            if is_ours && pid != std::process::id() && line.contains(command_line) {
                found.push(pid);
            }
        }
        found
    }

    #[track_caller]
    pub(crate) fn daemon_pid(&self) -> u32 {
        let status = self.status();
        u32::try_from(status["daemon"]["pid"].as_u64().expect("a daemon runs")).unwrap()
    }

    /// `text` without what differs from run to run.
    pub(crate) fn plain(&self, text: &str) -> String {
        text.replace(&self.path().display().to_string(), "<tmp>").trim_end().to_owned()
    }

    /// What a command said, without what differs from run to run.
    pub(crate) fn says(&self, args: &[&str]) -> String {
        self.plain(&self.loom(args).to_string())
    }
}

pub(crate) fn kill(pid: u32) {
    signal(pid, Signal::KILL);
}

pub(crate) fn stop(pid: u32) {
    signal(pid, Signal::STOP);
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(i32::try_from(pid).unwrap()) {
        let _ = kill_process(pid, signal);
    }
}

impl Drop for Env {
    fn drop(&mut self) {
        // See tests/compat/README.md.
        if let Ok(dir) = std::env::var("LOOM_KEEP_JOURNALS") {
            let name = std::thread::current().name().unwrap_or("test").replace("::", ".");
            let _ = fs::copy(self.repo.join(".work/journal.jsonl"), Path::new(&dir).join(format!("{name}.jsonl")));
        }
        // A keeper may start a daemon, and a daemon a host, while they are being killed.
        for _ in 0..100 {
            let mut pids = self.pids("");
            if pids.is_empty() {
                break;
            }
            let is_parent = |pid: &u32| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line).into_owned();
                !line.contains("keeper")
            };
            pids.sort_by_key(is_parent);
            pids.into_iter().for_each(kill);
        }
    }
}

impl Out {
    #[track_caller]
    pub(crate) fn ok(self) -> Out {
        self.ends(0)
    }
    #[track_caller]
    pub(crate) fn ends(self, code: i32) -> Out {
        assert_eq!(self.code, code, "{self}");
        self
    }
    #[track_caller]
    pub(crate) fn has(self, text: &str) -> Out {
        assert!(self.stdout.contains(text) || self.stderr.contains(text), "no `{text}` in\n{self}");
        self
    }
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self}"))
    }
}

impl std::fmt::Display for Out {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}------- exit {} -------", self.stdout, self.stderr, self.code)
    }
}
