//! One project with a worktree, a home of its own and the real client: started
//! with exactly what `agent::launch` says, by a host reduced to its environment
//! changes. `loom` is a script that keeps what hooks are told and answers from files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use loom::agent::claude::stream::{self, Outcome};
use loom::agent::environment::Environment;
use loom::agent::{self, Launch};
use loom::base::layout::Layout;
use loom::base::process::command;
use loom::host::spec::{EnvChange, HostFolder};
use loom::model::effect::Start;
use loom::model::ids::{Oid, SessionId, StageId};
use loom::model::plan::{Agent, AgentMode};
use serde_json::Value;

use crate::api::Api;
use crate::deadline::wait_for;
use crate::install;
use crate::pty::Terminal;

/// A key that no server ever issued.
pub const KEY: &str = "sk-ant-dummy-000000000000000000000000000000";

pub struct Rig {
    dir: tempfile::TempDir,
    env: BTreeMap<String, String>,
}

/// What a hook was told.
#[derive(Debug)]
pub struct HookCall {
    pub event: String,
    pub input: Value,
}

/// A finished headless client.
#[derive(Debug)]
#[must_use]
pub struct Run {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Rig {
    /// A project with one commit and a worktree for stage `api`; hooks have no opinion.
    pub fn new(api: &Api) -> Rig {
        // Links in the path to the temporary folder would give every file two names.
        let root = std::env::temp_dir().canonicalize().unwrap();
        let dir = tempfile::Builder::new().prefix("loom-real-").tempdir_in(root).unwrap();
        let mut rig = Rig { dir, env: BTreeMap::new() };
        for folder in ["home", "tmp", "bin", "hooks", "project"] {
            fs_err::create_dir_all(rig.path(folder)).unwrap();
        }
        rig.env = rig.hermetic_env(api);
        rig.write_loom();
        rig.git(&rig.project(), &["init", "--quiet", "--initial-branch=main"]);
        rig.git(&rig.project(), &["commit", "--quiet", "--allow-empty", "--message=first"]);
        let worktree = rig.worktree().display().to_string();
        rig.git(&rig.project(), &["worktree", "add", "--quiet", "-b", "loom/api", &worktree]);
        fs_err::create_dir_all(rig.layout().session(&session())).unwrap();
        fs_err::write(rig.layout().excludes(), agent::EXCLUDES.join("\n")).unwrap();
        rig
    }
    fn hermetic_env(&self, api: &Api) -> BTreeMap<String, String> {
        let path = std::env::var("PATH").unwrap_or_default();
        let clients = install::bin_dir().display();
        let pairs = [
            ("PATH", format!("{clients}:{path}")),
            ("HOME", self.path("home").display().to_string()),
            ("TMPDIR", self.path("tmp").display().to_string()),
            ("TERM", "xterm-256color".to_owned()),
            ("LANG", "C.UTF-8".to_owned()),
            ("SHELL", "/bin/bash".to_owned()),
            ("ANTHROPIC_BASE_URL", api.url()),
            ("ANTHROPIC_API_KEY", KEY.to_owned()),
            ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1".to_owned()),
            ("DISABLE_TELEMETRY", "1".to_owned()),
            ("DISABLE_ERROR_REPORTING", "1".to_owned()),
            ("DISABLE_AUTOUPDATER", "1".to_owned()),
            ("CLAUDE_CODE_DISABLE_OFFICIAL_MARKETPLACE_AUTOINSTALL", "1".to_owned()),
            ("CLAUDE_CODE_MAX_RETRIES", "1".to_owned()),
            ("GIT_CONFIG_GLOBAL", "/dev/null".to_owned()),
            ("GIT_CONFIG_NOSYSTEM", "1".to_owned()),
            ("GIT_AUTHOR_NAME", "Agent".to_owned()),
            ("GIT_AUTHOR_EMAIL", "agent@example.com".to_owned()),
            ("GIT_COMMITTER_NAME", "Agent".to_owned()),
            ("GIT_COMMITTER_EMAIL", "agent@example.com".to_owned()),
        ];
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
    /// `loom hook <event>` keeps its input, prints `hooks/answer.<event>` and exits with `hooks/status`.
    fn write_loom(&self) {
        use std::os::unix::fs::PermissionsExt;
        let hooks = self.path("hooks");
        let script = format!(
            "#!/bin/sh\n[ \"$1\" = hook ] || exit 0\ncd '{}' || exit 1\n\
             file=$(date +%s%N).$2; cat > \"$file.part\"; mv \"$file.part\" \"$file.json\"\n\
             [ -e \"answer.$2\" ] && cat \"answer.$2\"\n[ -e \"once.$2\" ] && cat \"once.$2\" && rm \"once.$2\"\n\
             exit \"$(cat status 2>/dev/null || echo 0)\"\n",
            hooks.display()
        );
        let program = self.path("bin").join("loom");
        fs_err::write(&program, script).unwrap();
        fs_err::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    pub fn project(&self) -> PathBuf {
        self.path("project")
    }
    pub fn layout(&self) -> Layout {
        Layout { project: self.project(), work: self.project().join(".work") }
    }
    pub fn worktree(&self) -> PathBuf {
        self.layout().worktree("api")
    }
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.env.insert(name.to_owned(), value.to_owned());
    }
    pub fn remove_env(&mut self, name: &str) {
        self.env.remove(name);
    }
    /// Answers every call of a hook with `answer`.
    pub fn answer(&self, event: &str, answer: &Value) {
        fs_err::write(self.path("hooks").join(format!("answer.{event}")), answer.to_string()).unwrap();
    }
    /// Answers the next call of a hook with `answer`, and no other.
    pub fn answer_once(&self, event: &str, answer: &Value) {
        fs_err::write(self.path("hooks").join(format!("once.{event}")), answer.to_string()).unwrap();
    }
    /// Lets every hook fail after it was called.
    pub fn break_hooks(&self) {
        fs_err::write(self.path("hooks/status"), "1").unwrap();
    }
    /// The calls of hooks so far, in order.
    pub fn hook_calls(&self) -> Vec<HookCall> {
        let entries = fs_err::read_dir(self.path("hooks")).unwrap();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
        paths.sort();
        let read = |path: &PathBuf| HookCall {
            event: path.file_name().unwrap().to_str().unwrap().split('.').nth(1).unwrap().to_owned(),
            input: serde_json::from_str(&fs_err::read_to_string(path).unwrap()).unwrap(),
        };
        paths.iter().map(read).collect()
    }
    /// Names of the hooks called so far, in order.
    pub fn hook_names(&self) -> Vec<String> {
        self.hook_calls().into_iter().map(|call| call.event).collect()
    }
    /// What Loom would launch for stage `api`, with the files written.
    pub fn launch(&self, mode: AgentMode, conversation: &str) -> Launch {
        let start = Start {
            session: session(),
            stage: StageId::new("api").unwrap(),
            attempt: 1,
            agent: Agent::Claude { mode, model: Some("sonnet".to_owned()), effort: None },
            working_dir: ".".to_owned(),
            worktree: "api".to_owned(),
            base: Oid::new("0123456789012345678901234567890123456789").unwrap(),
            slot: 0,
            conversation: conversation.to_owned(),
            resumes: false,
            is_first: true,
            sandbox: None,
            permission_mode: None,
            auto_allow: true,
            siblings: Vec::new(),
            timeout: Duration::from_secs(60),
            setup: Vec::new(),
            teardown: Vec::new(),
            before: Vec::new(),
        };
        let (layout, loom, environment) = (self.layout(), self.path("bin/loom"), self.environment());
        let launch = agent::launch(&start, &layout, &loom, &environment).unwrap();
        for file in agent::files(&start, &layout, &loom, &environment, &agent::Walls::default()) {
            fs_err::write(&file.path, &file.content).unwrap();
        }
        launch
    }
    /// What a session inherits.
    pub fn environment(&self) -> Environment {
        self.env.clone().into_iter().collect()
    }
    /// Runs a headless client to its end.
    pub fn run(&self, launch: &Launch) -> Run {
        let folder = HostFolder::new(&self.layout().session(&session()));
        let mut child = command(&launch.spec.argv[0])
            .args(&launch.spec.argv[1..])
            .current_dir(&launch.spec.cwd)
            .env_clear()
            .envs(changed(&self.env, &launch.spec.env))
            .stdout(std::fs::File::create(folder.log()).unwrap())
            .stderr(std::fs::File::create(folder.error_log()).unwrap())
            .spawn()
            .unwrap();
        let status = wait_for("the end of the headless client", || child.try_wait().unwrap());
        let read = |path: PathBuf| fs_err::read_to_string(path).unwrap();
        Run { status, stdout: read(folder.log()), stderr: read(folder.error_log()) }
    }
    /// What the output of the headless client says about its end.
    pub fn outcome(&self) -> Option<Outcome> {
        let folder = HostFolder::new(&self.layout().session(&session()));
        stream::read(&[&folder.old_log(), &folder.log()]).unwrap()
    }
    /// Starts an interactive client.
    pub fn open(&self, launch: &Launch) -> Terminal {
        Terminal::start(&launch.spec, &changed(&self.env, &launch.spec.env))
    }
    #[track_caller]
    pub fn git(&self, dir: &Path, args: &[&str]) -> String {
        let output = command("git").current_dir(dir).args(args).env_clear().envs(&self.env).output().unwrap();
        assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
    /// Subjects of the commits on the stage's branch, newest first.
    pub fn commits(&self) -> Vec<String> {
        let log = self.git(&self.worktree(), &["log", "--format=%s"]);
        log.lines().map(str::to_owned).collect()
    }
}

pub fn session() -> SessionId {
    SessionId::new("api.1").unwrap()
}

pub fn conversation() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// The environment after the changes that a host makes.
fn changed(env: &BTreeMap<String, String>, changes: &[EnvChange]) -> BTreeMap<String, String> {
    let mut env = env.clone();
    for change in changes {
        match change {
            EnvChange::Set { name, value } => drop(env.insert(name.clone(), value.clone())),
            EnvChange::Remove { name } => drop(env.remove(name)),
            EnvChange::Rename { from, to } => {
                if let Some(value) = env.remove(from) {
                    env.insert(to.clone(), value);
                }
            }
            EnvChange::KeepOnly { names } => env.retain(|name, _| names.contains(name)),
        }
    }
    env
}
