//! A project that is carried out by the real `loom` with the real client: a
//! repository, a home, a cache and a runtime folder of its own, and a scripted
//! server. Nothing of it is left when it is dropped.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use loom::base::process;
use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::api::Api;
use crate::client::KEY;
use crate::deadline::{LONG, wait_for};
use crate::install;

/// The program under test.
const LOOM: &str = env!("CARGO_BIN_EXE_loom");

/// How long a whole plan may take.
const PLAN_MAX: Duration = Duration::from_secs(90);

pub struct Project {
    dir: tempfile::TempDir,
    env: BTreeMap<String, String>,
    gate: Option<tempfile::TempPath>,
    /// What the user calls.
    loom: PathBuf,
    /// Whether agents run as they do by default; otherwise as with `--no-sandbox`.
    pub sandboxed: bool,
}

/// What a finished `loom` said.
#[derive(Debug)]
#[must_use]
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Project {
    /// A repository with one commit on `main`, and a home in which the client was set up.
    pub fn new(api: &Api) -> Project {
        let root = std::env::temp_dir().canonicalize().unwrap();
        let dir = tempfile::Builder::new().prefix("lr-").tempdir_in(root).unwrap();
        let env = BTreeMap::new();
        let mut project = Project { dir, env, gate: None, loom: LOOM.into(), sandboxed: false };
        for folder in ["home", "cache", "tmp", "project/doc/plans"] {
            fs_err::create_dir_all(project.path(folder)).unwrap();
        }
        std::fs::DirBuilder::new().mode(0o700).create(project.path("run")).unwrap();
        project.env = project.hermetic_env(api);
        fs_err::write(project.path("home/.claude.json"), r#"{"hasCompletedOnboarding":true}"#).unwrap();
        fs_err::write(project.root().join("README.md"), "# Scripted\n").unwrap();
        project.git(&["init", "--quiet", "--initial-branch=main"]);
        project.git(&["add", "-A"]);
        project.git(&["commit", "--quiet", "--message=first"]);
        project
    }
    fn hermetic_env(&self, api: &Api) -> BTreeMap<String, String> {
        let path = std::env::var("PATH").unwrap_or_default();
        let clients = install::bin_dir().display();
        let folder = |name: &str| self.path(name).display().to_string();
        let pairs = [
            ("PATH", format!("{clients}:{path}")),
            ("HOME", folder("home")),
            ("XDG_CACHE_HOME", folder("cache")),
            ("XDG_RUNTIME_DIR", folder("run")),
            ("TMPDIR", folder("tmp")),
            ("TERM", "xterm-256color".to_owned()),
            ("LANG", "C.UTF-8".to_owned()),
            ("SHELL", "/bin/bash".to_owned()),
            ("LOOM_BACKOFF_MS", "50".to_owned()),
            ("ANTHROPIC_BASE_URL", api.url()),
            ("ANTHROPIC_API_KEY", KEY.to_owned()),
            ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1".to_owned()),
            ("DISABLE_TELEMETRY", "1".to_owned()),
            ("DISABLE_ERROR_REPORTING", "1".to_owned()),
            ("CLAUDE_CODE_DISABLE_OFFICIAL_MARKETPLACE_AUTOINSTALL", "1".to_owned()),
            ("CLAUDE_CODE_MAX_RETRIES", "1".to_owned()),
            ("GIT_CONFIG_GLOBAL", "/dev/null".to_owned()),
            ("GIT_CONFIG_NOSYSTEM", "1".to_owned()),
            ("GIT_AUTHOR_NAME", "Somebody".to_owned()),
            ("GIT_AUTHOR_EMAIL", "somebody@example.com".to_owned()),
            ("GIT_COMMITTER_NAME", "Somebody".to_owned()),
            ("GIT_COMMITTER_EMAIL", "somebody@example.com".to_owned()),
        ];
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    pub fn root(&self) -> PathBuf {
        self.path("project")
    }
    pub fn worktree(&self, stage: &str) -> PathBuf {
        self.root().join(".worktrees").join(stage)
    }
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.env.insert(name.to_owned(), value.to_owned());
    }
    pub fn remove_env(&mut self, name: &str) {
        self.env.remove(name);
    }
    /// What a shell of the user has.
    pub fn env(&self) -> &BTreeMap<String, String> {
        &self.env
    }
    /// A program as the user starts it, in the project.
    pub fn command(&self, program: &str) -> Command {
        let mut command = process::command(program);
        command.current_dir(self.root()).env_clear().envs(&self.env).stdin(Stdio::null());
        command
    }
    fn loom_command(&self) -> Command {
        self.command(&self.loom.display().to_string())
    }
    /// Puts a program of its own where the user calls it from now on, as `install.sh` does: the one
    /// before goes on from memory.
    pub fn install(&mut self) {
        let (new, to) = (self.path("bin/loom.new"), self.path("bin/loom"));
        fs_err::create_dir_all(self.path("bin")).unwrap();
        fs_err::copy(LOOM, &new).unwrap();
        fs_err::rename(&new, &to).unwrap();
        self.loom = to;
    }
    /// Takes it away; the user calls another one from now on.
    pub fn uninstall(&mut self) {
        fs_err::remove_file(std::mem::replace(&mut self.loom, LOOM.into())).unwrap();
    }
    #[track_caller]
    pub fn git(&self, args: &[&str]) -> String {
        self.git_in(&self.root(), args)
    }
    #[track_caller]
    pub fn git_in(&self, dir: &Path, args: &[&str]) -> String {
        let output = self.command("git").current_dir(dir).args(args).output().unwrap();
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
    /// Loads a plan with these `stages:` (YAML, not indented) and settings of the plan.
    #[track_caller]
    pub fn init(&self, settings: &str, stages: &str) {
        let indented = |text: &str, by: &str| -> String {
            text.lines().filter(|line| !line.trim().is_empty()).map(|line| format!("{by}{line}\n")).collect()
        };
        let text = format!(
            "# Scripted plan\n\nWhat the agents do is scripted.\n\n<!-- loom METADATA -->\n```yaml\nloom:\n  version: 1\n{}  stages:\n{}```\n<!-- END loom METADATA -->\n",
            indented(settings, "  "),
            indented(stages, "    ")
        );
        fs_err::write(self.root().join("doc/plans/plan.md"), text).unwrap();
        let said = self.loom(&["init", "doc/plans/plan.md"]);
        assert_eq!(said.code, 0, "{said:?}");
    }
    /// Runs `loom` to its end.
    #[track_caller]
    pub fn loom(&self, args: &[&str]) -> Said {
        self.finish(self.loom_command().args(args))
    }
    #[track_caller]
    pub fn finish(&self, command: &mut Command) -> Said {
        // Into files: a daemon that kept a pipe open would hold the reader up.
        let (out, err) = (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
        let mut child = command.stdout(out.reopen().unwrap()).stderr(err.reopen().unwrap()).spawn().unwrap();
        let end = Instant::now() + PLAN_MAX;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > end {
                drop(child.kill());
                drop(child.wait());
                panic!("{command:?}: not within {PLAN_MAX:?}\n{}", self.story());
            }
            std::thread::park_timeout(Duration::from_millis(20));
        };
        let read = |file: &tempfile::NamedTempFile| fs_err::read_to_string(file.path()).unwrap();
        Said { code: status.code().unwrap_or(-1), stdout: read(&out), stderr: read(&err) }
    }
    fn loom_run(&self, more: &[&str]) -> Said {
        let mut args = vec!["run"];
        if !self.sandboxed {
            args.push("--no-sandbox");
        }
        args.extend(more);
        self.loom(&args)
    }
    /// `loom run --watch`, to the end of what goes on without a person.
    #[track_caller]
    pub fn run(&self) -> Said {
        self.loom_run(&["--watch"])
    }
    /// Carries the plan out and expects that all of it lands.
    #[track_caller]
    pub fn run_to_the_end(&self) {
        let said = self.run();
        assert_eq!(said.code, 0, "{said:?}\n{}", self.story());
        self.expect_nobody();
    }
    /// `loom run` in the background.
    #[track_caller]
    pub fn start(&self) {
        let said = self.loom_run(&[]);
        assert_eq!(said.code, 0, "{said:?}\n{}", self.story());
    }
    pub fn status(&self) -> Value {
        let said = self.loom(&["status", "--json"]);
        serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"))
    }
    pub fn stage(&self, id: &str) -> Value {
        let status = self.status();
        let stages = status["stages"].as_array().unwrap();
        stages.iter().find(|stage| stage["id"] == id).unwrap_or_else(|| panic!("no stage {id}: {status}")).clone()
    }
    /// Waits until the status is like this.
    #[track_caller]
    pub fn wait_for_status(&self, what: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + LONG;
        loop {
            let status = self.status();
            if is_wanted(&status) {
                return status;
            }
            assert!(Instant::now() < end, "not {what}: {status:#}\n{}", self.story());
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
    /// Waits until a stage is like this.
    #[track_caller]
    pub fn wait_for_stage(&self, id: &str, what: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        self.wait_for_stage_within(LONG, id, what, is_wanted)
    }
    #[track_caller]
    pub fn wait_for_stage_within(
        &self,
        time: Duration,
        id: &str,
        what: &str,
        is_wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let end = Instant::now() + time;
        loop {
            let stage = self.stage(id);
            if is_wanted(&stage) {
                return stage;
            }
            assert!(Instant::now() < end, "stage {id} is not {what}: {stage:#}\n{}", self.story());
            std::thread::park_timeout(Duration::from_millis(50));
        }
    }
    /// The facts of the journal, oldest first.
    pub fn facts(&self) -> Vec<Value> {
        let text = fs_err::read_to_string(self.root().join(".work/journal.jsonl")).unwrap_or_default();
        let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        records.flat_map(|record| record["facts"].as_array().cloned().unwrap_or_default()).collect()
    }
    /// How many sessions were started.
    pub fn sessions_started(&self) -> usize {
        self.facts().iter().filter(|fact| fact["change"]["change"] == "hosted").count()
    }
    /// How the sessions ended, in order.
    pub fn ends(&self) -> Vec<String> {
        let facts = self.facts();
        let ends = facts.iter().filter(|fact| fact["fact"] == "session" && fact["change"]["change"] == "ended");
        ends.map(|fact| fact["change"]["end"].as_str().unwrap().to_owned()).collect()
    }
    /// The files below the user's home, with what is in them.
    pub fn user_files(&self) -> BTreeMap<String, Vec<u8>> {
        let home = self.path("home");
        let (mut folders, mut files) = (vec![home.clone()], BTreeMap::new());
        while let Some(folder) = folders.pop() {
            for entry in fs_err::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Ok(bytes) = fs_err::read(&path) {
                    files.insert(path.strip_prefix(&home).unwrap().display().to_string(), bytes);
                }
            }
        }
        files
    }
    pub fn daemon(&self) -> Option<u32> {
        let record = fs_err::read_to_string(self.root().join(".work/daemon.json")).ok()?;
        serde_json::from_str::<Value>(&record).ok()?["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok())
    }
    /// Processes that were started in this project, by name.
    pub fn processes(&self) -> Vec<(u32, String)> {
        let entries = fs_err::read_dir("/proc").unwrap();
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let mark = self.path("home").display().to_string();
        pids.filter(|pid| *pid != std::process::id())
            .filter(|pid| process::environ_value(*pid, "HOME").ok().flatten().as_deref() == Some(&mark))
            .filter(|pid| process::stat(*pid).is_some_and(|stat| !stat.is_zombie))
            .map(|pid| {
                let line = fs_err::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                (pid, String::from_utf8_lossy(&line).replace('\0', " "))
            })
            .collect()
    }
    /// The client's own process in the session of a stage.
    pub fn client_of(&self, stage: &str) -> Option<u32> {
        let session = self.stage(stage)["session"].as_str()?.to_owned();
        let is_client = |pid: u32, line: &str| {
            process::environ_value(pid, "LOOM_SESSION").ok().flatten().as_deref() == Some(session.as_str())
                && line.contains("claude")
                && line.contains("--settings")
                && !line.contains("host")
        };
        self.processes().into_iter().find(|(pid, line)| is_client(*pid, line)).map(|(pid, _)| pid)
    }
    /// Waits until nothing runs any more.
    #[track_caller]
    pub fn expect_nobody(&self) {
        wait_for("the end of all processes", || self.processes().is_empty().then_some(()));
    }
    /// What happened, for a test that failed.
    pub fn story(&self) -> String {
        let read = |path: PathBuf| fs_err::read_to_string(path).unwrap_or_default();
        let mut out = format!("--- status\n{}", self.loom_quietly(&["status"]));
        out.push_str(&format!("--- daemon.log\n{}", read(self.root().join(".work/daemon.log"))));
        for line in read(self.root().join(".work/journal.jsonl")).lines() {
            let mut record: Value = serde_json::from_str(line).unwrap_or_default();
            for fact in
                record["facts"].as_array_mut().into_iter().flatten().filter(|fact| fact["fact"] == "plan-loaded")
            {
                *fact = Value::from("plan-loaded");
            }
            out.push_str(&format!("{} {} {}\n", record["at"], record["cause"], record["facts"]));
        }
        let sessions = fs_err::read_dir(self.root().join(".work/sessions")).into_iter().flatten().flatten();
        for session in sessions {
            for name in ["output.log", "error.log", "host.err", "exit.json"] {
                let text = fs_err::read(session.path().join(name)).unwrap_or_default();
                let text = String::from_utf8_lossy(&text);
                let tail: Vec<&str> = text.lines().rev().take(12).collect();
                let tail: Vec<String> =
                    tail.into_iter().rev().map(|line| line.chars().take(600).collect::<String>()).collect();
                out.push_str(&format!("--- {}/{name}\n{}\n", session.path().display(), tail.join("\n")));
            }
        }
        out
    }
    fn loom_quietly(&self, args: &[&str]) -> String {
        let output: std::io::Result<Output> = self.loom_command().args(args).output();
        output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
    }
    pub fn kill(&self, pid: u32, signal: Signal) {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).unwrap();
        // Gone already is as good.
        let _ = rustix::process::kill_process(pid, signal);
    }
    /// Keeps a pipe at which a process waits for [`Project::open_gate`].
    pub fn keep_gate(&mut self, gate: tempfile::TempPath) {
        self.gate = Some(gate);
    }
    /// Lets the process at the gate go on; waits until one is there.
    pub fn open_gate(&self) {
        let mut file = fs_err::OpenOptions::new().write(true).open(self.gate.as_ref().unwrap()).unwrap();
        file.write_all(b"go\n").unwrap();
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        // See tests/compat/README.md.
        if let Some(dir) = std::env::var_os("LOOM_KEEP_JOURNALS") {
            let name = std::thread::current().name().unwrap_or("test").replace("::", ".");
            let kept = Path::new(&dir).join(format!("{name}.jsonl"));
            let _ = fs_err::copy(self.root().join(".work/journal.jsonl"), kept);
        }
        // Who starts others goes first: keeper, daemon, hosts, then what they had started.
        for _ in 0..50 {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            for (pid, _) in left {
                self.kill(pid, Signal::KILL);
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}
