//! A temporary repository with the demo's plan, for `loom demo` and `loom chaos`. Everything that
//! Loom leaves on this machine lies in its folder, and goes with it: also what still runs there,
//! and also when a person types Ctrl-C.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};

use crate::base::process;
use crate::base::wait::{Interest, Signals, wait};
use crate::cli::failure::{Failure, exit};
use crate::host::tree;

const PLAN: &str = include_str!("commands/demo.md");
/// How long the processes of a playground may take to be gone once they are killed.
const END_MAX: Duration = Duration::from_secs(5);

/// Whether this process was asked to end: by Ctrl-C, by its terminal, by somebody's `kill`.
pub struct Interrupts {
    asked: RefCell<Signals>,
    deaths: RefCell<Signals>,
    is_asked: Cell<bool>,
}

impl Interrupts {
    /// Takes over the unix signals that ask this process to end.
    pub fn register() -> io::Result<Rc<Interrupts>> {
        let asked = RefCell::new(Signals::register(&[SIGINT, SIGTERM, SIGHUP])?);
        let deaths = RefCell::new(Signals::register(&[SIGCHLD])?);
        Ok(Rc::new(Interrupts { asked, deaths, is_asked: Cell::new(false) }))
    }

    pub fn is_asked(&self) -> bool {
        self.is_asked.set(self.is_asked.get() || self.asked.borrow_mut().take());
        self.is_asked.get()
    }

    /// `result`, unless it is what an interrupt made of it.
    pub fn unless_asked<T>(&self, result: Result<T, Failure>) -> Result<T, Failure> {
        match result {
            Err(_) if self.is_asked() => Err(Failure::new(exit::INTERRUPTED, "interrupted: nothing is left of it")),
            result => result,
        }
    }

    /// Runs a command to its end, or to the moment when this process is asked to end.
    fn run(&self, command: &mut Command) -> Result<ExitStatus, Failure> {
        let mut child = command.spawn()?;
        loop {
            if self.is_asked() {
                let _ = child.kill();
                child.wait()?;
                return Err(Failure::new(exit::INTERRUPTED, "interrupted"));
            }
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            let (asked, mut deaths) = (self.asked.borrow(), self.deaths.borrow_mut());
            wait(&[Interest::read(&*asked), Interest::read(&*deaths)], None)?;
            deaths.take();
        }
    }
}

pub struct Playground {
    /// None: it is kept.
    dir: Option<tempfile::TempDir>,
    path: PathBuf,
    interrupts: Rc<Interrupts>,
}

impl Playground {
    /// A repository with the demo's plan in a folder whose name begins with `prefix`.
    pub fn new(prefix: &str, interrupts: &Rc<Interrupts>) -> Result<Playground, Failure> {
        use std::os::unix::fs::DirBuilderExt;
        let dir = tempfile::Builder::new().prefix(prefix).tempdir()?;
        let path = dir.path().to_path_buf();
        let playground = Playground { dir: Some(dir), path, interrupts: interrupts.clone() };
        let repo = playground.repo();
        fs_err::create_dir_all(repo.join("doc/plans"))?;
        fs_err::create_dir_all(playground.path.join("cache"))?;
        std::fs::DirBuilder::new().mode(0o700).create(playground.path.join("run"))?;
        fs_err::write(repo.join("doc/plans/hello.md"), PLAN)?;
        fs_err::write(repo.join("README.md"), "# Hello\n")?;
        for args in [
            &["init", "-q", "-b", "main"][..],
            &["config", "user.name", "Loom demo"],
            &["config", "user.email", "demo@localhost"],
            &["add", "-A"],
            &["commit", "-q", "-m", "Start"],
        ] {
            let status = playground.git(args).status().map_err(|_| crate::git::NoProject::NoGit)?;
            if !status.success() {
                return Err(Failure::new(exit::INTERNAL, format!("`git {}` ended with {status}", args.join(" "))));
            }
        }
        Ok(playground)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn repo(&self) -> PathBuf {
        self.path.join("hello")
    }

    /// Git as its user would use it: in a repository of its own.
    pub fn git(&self, args: &[&str]) -> Command {
        let mut command = process::command("git");
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("GIT_") {
                command.env_remove(name);
            }
        }
        // Nothing of it may be at work when the folder goes.
        let (key, value) = process::NO_MAINTENANCE;
        command.current_dir(self.repo()).arg("-c").arg(format!("{key}={value}")).args(args);
        command
    }

    /// `loom` as a person would type it here.
    pub fn loom(&self, args: &[&str]) -> Result<Command, Failure> {
        let mut command = process::command(process::this_binary()?);
        command.current_dir(self.repo()).args(args);
        command.env("XDG_CACHE_HOME", self.path.join("cache")).env("XDG_RUNTIME_DIR", self.path.join("run"));
        command.env_remove("LOOM_WORK_DIR");
        Ok(command)
    }

    /// Whether a person wants no more of it.
    pub fn is_interrupted(&self) -> bool {
        self.interrupts.is_asked()
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// Also when a person wants no more of it.
    pub fn run(&self, command: &mut Command) -> Result<ExitStatus, Failure> {
        self.interrupts.run(command)
    }

    /// Ends what runs in it and leaves the folder where it is.
    pub fn keep(mut self) -> PathBuf {
        self.end();
        self.dir.take().map(tempfile::TempDir::keep);
        self.repo()
    }

    /// Kills every process that was started in it: a daemon there obeys the faults of `loom chaos`,
    /// and could not be trusted to end by itself.
    fn end(&self) {
        let deadline = Instant::now() + END_MAX;
        loop {
            let found = self.processes();
            if found.is_empty() || Instant::now() > deadline {
                return;
            }
            for (pid, start_ticks) in found {
                tree::signal_exactly(pid, start_ticks, Signal::KILL);
            }
        }
    }

    /// Everybody whose environment points into the folder: nobody else knows its name.
    fn processes(&self) -> Vec<(u32, u64)> {
        let names = ["XDG_RUNTIME_DIR", "LOOM_PROJECT", "HOME"];
        let is_ours = |pid: u32| {
            let values = names.iter().filter_map(|name| process::environ_value(pid, name).ok()?);
            values.into_iter().any(|value| Path::new(&value).starts_with(&self.path))
        };
        let entries = fs_err::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter_map(|pid| {
            // Read first: the environment is then that of the process with this start, or of none.
            let stat = process::stat(pid).filter(|stat| !stat.is_zombie)?;
            is_ours(pid).then_some((pid, stat.start_ticks))
        })
        .collect()
    }
}

impl Drop for Playground {
    fn drop(&mut self) {
        if self.dir.is_some() {
            self.end();
        }
    }
}
