//! Loom under fire: the real binary, hosts and git are killed and made to fail,
//! and after each of these the same things must hold. `doc/reliability.md` says
//! what is claimed and how to run the long forms.

mod follow;
mod journal;
mod keeper;
mod points;
mod power;
mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use loom::model::fact::{Fact, StageChange};

use crate::env::{Env, Out, Stage, commit, plan, stage};

/// Whether the long forms are wanted.
pub(crate) fn is_long() -> bool {
    std::env::var_os("LOOM_CHAOS_LONG").is_some()
}

/// At which of the `times` that a point is reached the long forms fail it: at eight of them, spread
/// evenly, the first one among them.
pub(crate) fn spread(times: usize) -> impl Iterator<Item = usize> {
    (1..=times).step_by(times.div_ceil(8).max(1))
}

/// A project with things of its user's in it, whose plan is carried out whatever happens.
pub(crate) struct Trial {
    pub(crate) env: Env,
    /// Where the fail points keep their log: it survives what happens to the project.
    log: tempfile::TempDir,
    /// What a person was told is done, as the journal calls it.
    acknowledged: BTreeMap<String, usize>,
    mine: String,
    /// Tracked work of the user's that is not committed keeps the base branch where it is.
    is_dirty: bool,
    /// Somebody else moves the plan branch in this trial.
    pub(crate) is_moved: bool,
}

impl Trial {
    pub(crate) fn new(text: &str, is_dirty: bool) -> Trial {
        Trial::on(Env::new(), text, is_dirty)
    }

    pub(crate) fn on(env: Env, text: &str, is_dirty: bool) -> Trial {
        env.write("mine.txt", "one\n");
        env.git(&["add", "mine.txt"]);
        env.git(&["commit", "-q", "-m", "Mine"]);
        let log = tempfile::Builder::new().prefix("lf-").tempdir().unwrap();
        let log_file = log.path().join("fail.log").display().to_string();
        env.add_plan(&text.replace("@LOG@", &log_file));
        env.git(&["branch", "other", "HEAD~1"]);
        env.write("mine.txt", "stashed\n");
        env.git(&["stash", "-q"]);
        env.write("notes.txt", "not tracked\n");
        env.write("ignored.log", "ignored\n");
        if is_dirty {
            env.write("mine.txt", "staged\n");
            env.git(&["add", "mine.txt"]);
            env.write("mine.txt", "changed\n");
        }
        let mut trial =
            Trial { env, log, acknowledged: BTreeMap::new(), mine: String::new(), is_dirty, is_moved: false };
        trial.env.set("LOOM_FAIL_LOG", &log_file);
        trial.mine = trial.snapshot();
        trial
    }

    /// From now on this is injected into everything that is started; nothing, but all that is reached is logged.
    pub(crate) fn fail(&mut self, what: &str) {
        self.env.set("LOOM_FAIL", what);
        fs::write(self.env.out.join("orders"), what).unwrap();
    }

    /// The points that were reached, and how often.
    pub(crate) fn reached(&self) -> BTreeMap<String, usize> {
        let mut reached = BTreeMap::new();
        for line in self.fail_log().lines() {
            *reached.entry(line.split(' ').next().unwrap().to_owned()).or_default() += 1;
        }
        reached
    }

    /// How many faults were delivered.
    pub(crate) fn delivered(&self) -> usize {
        self.fail_log().lines().filter(|line| line.split(' ').count() == 3).count()
    }

    fn fail_log(&self) -> String {
        fs::read_to_string(self.log.path().join("fail.log")).unwrap_or_default()
    }

    /// Gives a command until it is answered, or until `is_so` without an answer.
    #[track_caller]
    pub(crate) fn step(&mut self, args: &[&str], cause: &str, is_so: impl Fn(&Env) -> bool) {
        let mut last = None;
        for _ in 0..12 {
            let out = self.env.loom(args);
            if out.code == 0 {
                self.acknowledge(cause);
                return;
            }
            if is_so(&self.env) {
                return;
            }
            last = Some(out);
        }
        panic!("{args:?} never succeeded: {}\n{}", last.unwrap(), self.env.daemon_log());
    }

    /// A person was told that a command is done.
    pub(crate) fn acknowledge(&mut self, cause: &str) {
        let times = self.acknowledged.entry(cause.to_owned()).or_default();
        // Loading the same plan again changes nothing and is not recorded again.
        *times = if cause.starts_with("init") { 1 } else { *times + 1 };
    }

    /// Runs the plan again and again until `is_done`; what was blocked by what happened is retried,
    /// and a commit that touches what judges is approved.
    #[track_caller]
    pub(crate) fn run_until(&mut self, is_done: impl Fn(&str) -> bool) {
        let mut seen: Vec<Out> = Vec::new();
        for _ in 0..25 {
            seen.push(self.env.loom(&["run", "--watch"]));
            let state = self.env.state();
            if is_done(&state) && !self.env.is_locked() {
                return;
            }
            for row in state.split(", ").filter_map(|row| row.strip_suffix(" blocked")) {
                let _ = self.env.loom(&["stage", "retry", row]);
            }
            if state.split(", ").any(|row| row == "e gated") {
                let _ = self.env.loom(&["stage", "approve", "e"]);
            }
        }
        let last = seen.last().unwrap();
        panic!("the plan does not end: {}\n{last}\n{}", self.env.state(), self.env.daemon_log());
    }

    /// Everything of the user's that no plan may change.
    fn snapshot(&self) -> String {
        let mut text = String::new();
        for args in [
            &["for-each-ref", "--format=%(refname) %(objectname)"][..],
            &["stash", "list"],
            &["--no-optional-locks", "status", "--porcelain=v1", "--branch"],
            &["symbolic-ref", "HEAD"],
        ] {
            for line in self.env.git(args).lines() {
                let moves = line.contains("refs/loom/")
                    || line.contains("refs/heads/loom/")
                    || (!self.is_dirty && line.starts_with("refs/heads/main "));
                if !moves {
                    text.push_str(&format!("{line}\n"));
                }
            }
        }
        for name in ["mine.txt", "notes.txt", "ignored.log", "README.md", ".gitignore", ".git/config"] {
            text.push_str(&format!("{name}: {:?}\n", self.env.read(name)));
        }
        if self.is_dirty {
            text.push_str(&format!("index: {:?}\n", fs::read(self.env.repo.join(".git/index")).unwrap()));
        }
        text
    }

    /// What must hold after everything; `stages` have landed.
    #[track_caller]
    pub(crate) fn check(&self, stages: &[&str], tree: Option<&str>) {
        let env = &self.env;
        let story = || format!("{}\n{}", self.fail_log(), env.daemon_log());
        env.until("no host lives", || env.pids("loom host").is_empty());
        env.until("no daemon lives", || env.pids(" keeper").is_empty() && env.pids(" daemon").is_empty());
        let branch = "loom/_plan/plan";
        // Landed exactly once, and nothing else.
        let trailers = "--format=%(trailers:key=Loom-Stage,valueonly,separator=%x2C)";
        let mut landed: Vec<String> =
            env.git(&["log", "--first-parent", trailers, branch]).lines().map(str::to_owned).collect();
        landed.retain(|stage| !stage.is_empty());
        landed.sort();
        let mut wanted: Vec<String> = stages.iter().map(|id| format!("plan/{id}")).collect();
        wanted.sort();
        assert_eq!(landed, wanted, "{}", story());
        if let Some(tree) = tree {
            assert_eq!(self.tree(), tree, "{}", story());
        }
        self.check_proofs(branch);
        assert_eq!(self.snapshot(), self.mine, "something of the user's changed\n{}", story());
        if !self.is_dirty {
            assert!(env.read(".git/loom-follow").is_empty(), "the intent to follow is still there");
            assert_eq!(env.git(&["rev-parse", "main"]), env.git(&["rev-parse", branch]), "{}", story());
        }
        assert_eq!(env.git(&["fsck", "--no-dangling", "--no-progress"]), "", "{}", story());
        assert_eq!(env.git(&["worktree", "list"]).lines().count(), 1, "{}", story());
        assert_eq!(locks_below(&env.repo.join(".git")), Vec::<String>::new(), "{}", story());
    }

    /// The tree that the plan made; its own text has the names of folders in it.
    pub(crate) fn tree(&self) -> String {
        let tree = self.env.git(&["ls-tree", "-r", "loom/_plan/plan"]);
        tree.lines().filter(|line| !line.ends_with("doc/plans/plan.md")).collect::<Vec<_>>().join("\n")
    }

    /// The journal verifies, has everything that was acknowledged, and has a green proof of
    /// every commit at which the plan branch ever was.
    #[track_caller]
    fn check_proofs(&self, branch: &str) {
        let mut proven: BTreeSet<String> = BTreeSet::new();
        let mut causes: BTreeMap<String, usize> = BTreeMap::new();
        let tail = loom::journal::read(&self.env.repo.join(".work/journal.jsonl"), |record| {
            *causes.entry(record.cause.clone()).or_default() += 1;
            for fact in record.facts {
                match fact {
                    Fact::PlanLoaded { ground, .. } => drop(proven.insert(ground.base_commit.to_string())),
                    Fact::Stage { change: StageChange::Proven { landing, checks, .. }, .. }
                    | Fact::BaseProven { landing, checks, .. }
                        if checks.iter().all(|check| check.passed) =>
                    {
                        proven.insert(landing.to_string());
                    }
                    _ => {}
                }
            }
        })
        .unwrap();
        assert_eq!(tail.torn_bytes, 0);
        for (cause, times) in &self.acknowledged {
            let recorded = causes.get(cause).copied().unwrap_or(0);
            assert!(recorded >= *times, "`{cause}` was acknowledged {times} times and recorded {recorded} times");
        }
        if self.is_moved {
            return;
        }
        for oid in self.env.git(&["reflog", "show", "--format=%H", branch]).lines() {
            assert!(proven.contains(oid), "the plan branch was at {oid}, which nothing proved");
        }
    }
}

fn locks_below(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for path in fs::read_dir(dir).unwrap().flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            found.extend(locks_below(&path));
        } else if path.extension().is_some_and(|extension| extension == "lock") {
            found.push(path.display().to_string());
        }
    }
    found
}

/// A fast stage that survives being interrupted often.
pub(crate) fn sturdy(id: &str) -> Stage {
    stage(id).with("max_retries: 20")
}

/// A plan that needs nearly everything that Loom can do.
pub(crate) fn rich_plan() -> String {
    // Work that is not committed fails the first attempt and is put aside.
    let dirty = format!("if [ $LOOM_ATTEMPT = 1 ]; then echo x > left.txt; exit 0; fi; {}", commit("dirty", "dirty"));
    // An agent inherits no faults: its own commands are given them here.
    let armed = "export LOOM_FAIL=$(cat @OUT@/orders) LOOM_FAIL_LOG=@LOG@";
    let teller = format!("{}; {armed}; loom stage complete teller; test $? != 1", commit("teller", "teller"));
    // No socket is found from here: the request goes through the outbox.
    let sealed = format!(
        "{}; {armed}; LOOM_WORK_DIR=@OUT@/nowhere loom stage complete sealed; test $? != 1",
        commit("sealed", "sealed")
    );
    let again = format!("test ! -e @OUT@/broken && {}", commit("again", "again"));
    plan(&[
        sturdy("root"),
        sturdy("dirty").run(dirty).after(&["root"]),
        sturdy("side").after(&["root"]),
        sturdy("teller").run(teller).after(&["root"]),
        sturdy("sealed").run(sealed).after(&["side"]),
        stage("again").run(again).after(&["teller", "sealed", "dirty"]).with("max_retries: 0"),
    ])
}

pub(crate) const RICH: [&str; 6] = ["root", "dirty", "side", "teller", "sealed", "again"];
