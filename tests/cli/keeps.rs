//! Every byte that an agent wrote stays reachable, whatever Loom does to its worktree and its
//! branch in whatever order. Real git; random sequences, whose seed is printed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use git2::{ObjectType, Oid, Repository, Signature};
use loom::base::layout::Layout;
use loom::git::{Git, kept_folders};
use loom::model::ids::{Oid as CommitId, PlanId, StageId};

use crate::env::{Env, kill, plan, stage};

/// Runs `name` of this binary again, in a home of its own: git reads the user's configuration.
fn in_a_home_of_its_own(name: &str, test: impl FnOnce(&Path)) {
    if let Ok(dir) = std::env::var("LOOM_TEST_CHILD") {
        return test(Path::new(&dir));
    }
    let env = Env::without_repository();
    let mut command = env.command(&std::env::current_exe().unwrap().display().to_string());
    command.args(["--exact", name, "--nocapture"]).env("LOOM_TEST_CHILD", env.path());
    for variable in ["LOOM_TEST_SEED", "LOOM_TEST_SEQUENCES"] {
        command.envs(std::env::var(variable).map(|value| (variable, value)));
    }
    let out = env.out_of(&mut command);
    assert!(out.code == 0 && out.stdout.contains("1 passed"), "{out}");
}

/// SplitMix64: the same numbers from the same seed on every machine.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % sides as u64).unwrap()
    }
}

/// One stage of one project, driven by the dice.
struct Lab {
    repo: Repository,
    git: Git,
    layout: Layout,
    dice: Dice,
    stage: StageId,
    base: CommitId,
    tip: CommitId,
    words: u32,
    /// Contents that must stay reachable.
    written: BTreeSet<(Oid, String)>,
    story: Vec<String>,
}

const PLAN_BRANCH: &str = "refs/heads/loom/_plan/p";

fn who() -> Signature<'static> {
    Signature::new("Agent", "agent@localhost", &git2::Time::new(1_700_000_000, 0)).unwrap()
}

impl Lab {
    fn new(dir: &Path, seed: u64) -> Lab {
        let dir = dir.join(format!("repo-{seed}"));
        let repo = Repository::init(&dir).unwrap();
        fs::write(dir.join("README.md"), "# Project\n").unwrap();
        fs::write(dir.join(".gitignore"), "*.ignored\n").unwrap();
        let mut index = repo.index().unwrap();
        index.add_all(["*"], git2::IndexAddOption::DEFAULT, None).unwrap();
        index.write().unwrap();
        let tree = repo.find_tree(index.write_tree().unwrap()).unwrap();
        let start = repo.commit(Some("HEAD"), &who(), &who(), "Start", &tree, &[]).unwrap();
        drop(tree);
        let layout = Layout::new(&dir.canonicalize().unwrap());
        fs::create_dir_all(&layout.work).unwrap();
        fs::create_dir_all(layout.worktrees()).unwrap();
        fs::write(layout.excludes(), ".work/\n").unwrap();
        let git = Git::find(&dir).unwrap();
        let base = CommitId::new(start.to_string()).unwrap();
        git.swap_ref(PLAN_BRANCH, None, &base, "test").unwrap();
        let stage = StageId::new("a").unwrap();
        let lab = Lab {
            repo,
            git,
            layout,
            dice: Dice(seed),
            stage,
            tip: base.clone(),
            base,
            words: 0,
            written: BTreeSet::new(),
            story: Vec::new(),
        };
        lab.start();
        lab
    }

    fn dir(&self) -> PathBuf {
        self.layout.worktree("a")
    }

    /// As a session's start does.
    fn start(&self) {
        if !self.git.is_worktree(&self.dir()) {
            self.git.prune_worktrees(&self.layout).unwrap();
            self.git.add_worktree(&self.dir(), "loom/a", &self.base).unwrap();
        }
    }

    fn worktree(&self) -> Repository {
        Repository::open(self.dir()).unwrap()
    }

    fn head(&self) -> Option<git2::Oid> {
        self.worktree().head().ok().and_then(|head| head.target())
    }

    /// One step of the agent, in its worktree.
    fn agent(&mut self) {
        let repo = self.worktree();
        match self.dice.roll(10) {
            0..4 => self.write(),
            4 => self.stage_all(&repo),
            5 => self.commit(&repo, false),
            6 => self.commit(&repo, true),
            7 => self.throw_back(&repo),
            8 => self.leave_or_join_the_branch(&repo),
            _ => self.hide(&repo),
        }
    }

    fn write(&mut self) {
        self.words += 1;
        let name = ["README.md", "new.txt", "folder/deep.txt", "with space.txt", "-dash"][self.dice.roll(5)];
        let path = self.dir().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("word {}\n", self.words)).unwrap();
        self.story.push(format!("write {} to {name}", self.words));
    }

    fn stage_all(&mut self, repo: &Repository) {
        let mut index = repo.index().unwrap();
        index.add_all(["*"], git2::IndexAddOption::DEFAULT, None).unwrap();
        index.write().unwrap();
        self.story.push("stage".to_owned());
    }

    fn commit(&mut self, repo: &Repository, amends: bool) {
        self.stage_all(repo);
        let tree = repo.find_tree(repo.index().unwrap().write_tree().unwrap()).unwrap();
        let head = repo.head().ok().and_then(|head| head.peel_to_commit().ok());
        self.expect_tree(repo, &tree);
        let is_own = head.as_ref().is_some_and(|head| head.id().to_string() != self.base.as_str());
        match head {
            Some(head) if amends && is_own => {
                let parents: Vec<_> = head.parents().collect();
                let parents: Vec<_> = parents.iter().collect();
                let id = repo.commit(None, &who(), &who(), "Amended", &tree, &parents).unwrap();
                self.move_head(repo, id, "commit (amend)");
                self.story.push(format!("amend {} to {id}", head.id()));
            }
            head => {
                let parents: Vec<_> = head.iter().collect();
                let id = repo.commit(Some("HEAD"), &who(), &who(), "Work", &tree, &parents).unwrap();
                self.story.push(format!("commit {id}"));
            }
        }
    }

    /// As `git commit --amend` and `git reset` do: the branch and `HEAD`, with their reflogs.
    fn move_head(&self, repo: &Repository, id: git2::Oid, why: &str) {
        let mut head = repo.find_reference("HEAD").unwrap();
        if let Ok(Some(name)) = head.symbolic_target().map(|name| name.map(str::to_owned)) {
            repo.reference(&name, id, true, why).unwrap();
            let mut log = repo.reflog("HEAD").unwrap();
            if log.get(0).is_none_or(|entry| entry.id_new() != id) {
                log.append(id, &who(), Some(why)).unwrap();
                log.write().unwrap();
            }
        } else {
            head.set_target(id, why).unwrap();
        }
    }

    fn throw_back(&mut self, repo: &Repository) {
        let Some(parent) = self.head().and_then(|head| repo.find_commit(head).ok()?.parent_id(0).ok()) else { return };
        self.move_head(repo, parent, "reset: moving to HEAD^");
        let tree = repo.find_commit(parent).unwrap().tree().unwrap();
        let mut options = git2::build::CheckoutBuilder::new();
        repo.checkout_tree(tree.as_object(), Some(options.force())).unwrap();
        self.story.push(format!("reset --hard {parent}"));
    }

    fn leave_or_join_the_branch(&mut self, repo: &Repository) {
        let Some(head) = self.head() else { return };
        if repo.head_detached().unwrap() {
            if repo.find_reference("refs/heads/loom/a").is_ok() {
                repo.set_head("refs/heads/loom/a").unwrap();
                self.story.push("git symbolic-ref HEAD refs/heads/loom/a".to_owned());
            }
        } else {
            repo.set_head_detached(head).unwrap();
            self.story.push("git checkout --detach".to_owned());
        }
    }

    /// `git update-index --assume-unchanged` or `--skip-worktree`, and then a change.
    fn hide(&mut self, repo: &Repository) {
        let mut index = repo.index().unwrap();
        let Some(mut entry) = index.get_path(Path::new("README.md"), 0) else { return };
        if self.dice.roll(2) == 0 {
            entry.flags |= 1 << 15
        } else {
            entry.flags_extended |= 1 << 14
        }
        index.add(&entry).unwrap();
        index.write().unwrap();
        self.words += 1;
        fs::write(self.dir().join("README.md"), format!("hidden word {}\n", self.words)).unwrap();
        self.story.push(format!("hide {}", self.words));
    }

    fn expect_tree(&mut self, repo: &Repository, tree: &git2::Tree) {
        tree.walk(git2::TreeWalkMode::PreOrder, |_, entry| {
            if entry.kind() == Some(ObjectType::Blob) {
                let text = String::from_utf8_lossy(repo.find_blob(entry.id()).unwrap().content()).into_owned();
                self.written.insert((entry.id(), text));
            }
            git2::TreeWalkResult::Ok
        })
        .unwrap();
    }

    /// Everything that is in the worktree now must outlive what comes.
    fn expect_worktree(&mut self) {
        let repo = self.worktree();
        for entry in repo.index().unwrap().iter() {
            if let Ok(blob) = repo.find_blob(entry.id) {
                self.written.insert((entry.id, String::from_utf8_lossy(blob.content()).into_owned()));
            }
        }
        let mut todo = vec![self.dir()];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(dir).unwrap().flatten() {
                let (path, name) = (entry.path(), entry.file_name());
                if path.is_dir() {
                    todo.push(path);
                } else if name != ".git" && !name.to_string_lossy().ends_with(".ignored") {
                    let content = fs::read(path).unwrap();
                    let id = Oid::hash_object(ObjectType::Blob, &content).unwrap();
                    self.written.insert((id, String::from_utf8_lossy(&content).into_owned()));
                }
            }
        }
    }

    /// One step of Loom.
    fn loom(&mut self) {
        let folders = vec!["a".to_owned()];
        let what = self.dice.roll(6);
        if what < 4 {
            self.expect_worktree();
        }
        match what {
            0 => {
                self.story.push("LOOM retry".to_owned());
                self.git.restore_branch(&self.stage, &self.dir(), &self.base).unwrap();
                self.git.start_over(&self.layout, &self.stage, &self.dir(), "loom/a").unwrap();
            }
            1 => {
                self.story.push("LOOM reset".to_owned());
                self.git.remove_stage(&self.layout, &self.stage, &folders, &|_, _| {}).unwrap();
            }
            2 => {
                self.story.push("LOOM tidy".to_owned());
                self.git.put_all_aside(&self.layout, &[(self.stage.clone(), folders)], &|_, _| {}).unwrap();
            }
            3 => {
                self.story.push("LOOM plan over".to_owned());
                let plan = PlanId::new("p").unwrap();
                self.git.clean_plan(&self.layout, &plan, &[(self.stage.clone(), folders)], &|_, _| {}).unwrap();
            }
            4 => self.land(),
            _ => {
                self.story.push("the branch is deleted by hand".to_owned());
                if let Ok(mut branch) = self.repo.find_reference("refs/heads/loom/a") {
                    branch.delete().unwrap();
                }
                self.git.restore_branch(&self.stage, &self.dir(), &self.base).unwrap();
            }
        }
        self.start();
    }

    fn land(&mut self) {
        let Some(commit) = self.git.tip("refs/heads/loom/a").unwrap() else { return };
        self.story.push(format!("LOOM land {commit}"));
        let find = |id: &CommitId| self.repo.find_commit(Oid::from_str(id.as_str()).unwrap()).unwrap();
        let (tip, work) = (find(&self.tip), find(&commit));
        let tree = work.tree().unwrap();
        let landing = self.repo.commit(None, &who(), &who(), "Land", &tree, &[&tip, &work]).unwrap();
        let landing = CommitId::new(landing.to_string()).unwrap();
        self.git.land(PLAN_BRANCH, &self.tip, &landing, None).unwrap();
        self.tip = landing;
    }

    /// A few rounds of agent and Loom, and then everything is removed.
    fn run(mut self, seed: u64) {
        for _ in 0..4 {
            for _ in 0..self.dice.roll(7) {
                self.agent();
            }
            self.loom();
        }
        self.expect_worktree();
        self.git.remove_stage(&self.layout, &self.stage, &["a".to_owned()], &|_, _| {}).unwrap();
        let (lost, story) = (self.lost(), self.story.join("\n"));
        assert!(lost.is_empty(), "LOOM_TEST_SEED={seed}: {lost:?} of\n{story}");
        assert!(kept_folders(&self.layout).is_empty(), "LOOM_TEST_SEED={seed}\n{story}");
        assert!(!self.dir().exists(), "LOOM_TEST_SEED={seed}\n{story}");
        fs::remove_dir_all(&self.layout.project).unwrap();
    }

    /// What no ref and no kept folder has.
    fn lost(&self) -> Vec<&String> {
        let mut walk = self.repo.revwalk().unwrap();
        walk.push_glob("refs/*").unwrap();
        let (mut blobs, mut trees) = (BTreeSet::new(), BTreeSet::new());
        for commit in walk {
            let tree = self.repo.find_commit(commit.unwrap()).unwrap().tree().unwrap();
            tree.walk(git2::TreeWalkMode::PreOrder, |_, entry| {
                if entry.kind() == Some(ObjectType::Tree) && !trees.insert(entry.id()) {
                    return git2::TreeWalkResult::Skip;
                }
                blobs.insert(entry.id());
                git2::TreeWalkResult::Ok
            })
            .unwrap();
        }
        self.written.iter().filter(|(id, _)| !blobs.contains(id)).map(|(_, text)| text).collect()
    }
}

#[test]
fn whatever_loom_does_in_whatever_order_every_byte_is_reachable() {
    in_a_home_of_its_own("keeps::whatever_loom_does_in_whatever_order_every_byte_is_reachable", |dir| {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let first = number("LOOM_TEST_SEED").unwrap_or(1);
        let sequences = number("LOOM_TEST_SEQUENCES").unwrap_or(300);
        // In memory where there is a place for it: nothing here is about syncing.
        let memory = tempfile::Builder::new().prefix("lt-").tempdir_in("/dev/shm").ok();
        let dir = memory.as_ref().map_or(dir, tempfile::TempDir::path);
        std::thread::scope(|scope| {
            for worker in 0..4 {
                scope.spawn(move || {
                    for seed in (first..first + sequences).skip(worker).step_by(4) {
                        Lab::new(dir, seed).run(seed);
                    }
                });
            }
        });
    });
}

/// A project whose stage `a` left work of every kind in its worktree and then failed.
fn left_work(more: &str) -> Env {
    let script = format!(
        "set -e; echo committed > c.txt; git add c.txt; git commit -q -m One; echo amended > c.txt; git add c.txt; \
         git commit -q --amend -m Two; echo staged > s.txt; git add s.txt; echo changed > s.txt; \
         echo untracked > 'u n.txt'; echo tracked >> README.md; echo secret > x.ignored; echo '*.ignored' > .gitignore; \
         {more}\nexit 1"
    );
    let env = Env::of(&[stage("a").run(script).with("max_retries: 0"), stage("b").after(&["a"])]);
    env.run().ends(4);
    env
}

const WORDS: [&str; 5] = ["committed", "staged", "changed", "untracked", "# Project\ntracked"];

/// Whether a blob of exactly this line is reachable from some ref.
#[track_caller]
fn assert_reachable(env: &Env, words: &[&str]) {
    let objects = env.git(&["rev-list", "--objects", "--all", "--no-object-names"]);
    for word in words {
        let path = env.path().join("tmp/blob");
        fs::write(&path, format!("{word}\n")).unwrap();
        let id = env.git(&["hash-object", &path.display().to_string()]);
        assert!(objects.lines().any(|line| line == id), "`{word}` is lost");
    }
}

#[test]
fn a_reset_keeps_every_kind_of_work_and_undo_brings_it_back() {
    let env = left_work("");
    env.loom(&["stage", "reset", "a", "--reason", "again"]).ok();
    assert!(!env.repo.join(".worktrees/a").exists());
    assert_reachable(&env, &WORDS);
    let list = env.loom(&["undo", "--list", "--json"]).ok().json();
    assert_eq!(list["version"], 1);
    let ids: Vec<&str> = list["rescues"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["a/1"], "one thing to bring back, with all commits below it");
    env.loom(&["undo", "--list"]).ok().has("a/1").has("Uncommitted work of stage a");
    let back = env.loom(&["undo", "a/1", "--json"]).ok().json();
    assert_eq!(back["branch"], "rescued/a-1");
    assert_eq!(env.git(&["show", "rescued/a-1:u n.txt"]), "untracked");
    assert_eq!(env.git(&["show", "rescued/a-1:s.txt"]), "changed");
    // Again is no change, and nothing of the user's is in the way of it.
    env.loom(&["undo", "a/1"]).ok().has("rescued/a-1");
    env.git(&["branch", "-f", "rescued/a-1", "main"]);
    env.loom(&["undo", "a/1"]).ends(1).has("exists already");
    env.loom(&["undo", "a/9"]).ends(1).has("loom undo --list");
    assert_eq!(env.git(&["status", "--porcelain"]), "");
}

#[test]
fn what_git_cannot_hold_is_kept_as_a_folder() {
    for (more, file) in [
        ("git init -q inner; echo inner > inner/i.txt", "inner/i.txt"),
        ("truncate -s 3G huge.bin; echo beside > b.txt", "b.txt"),
    ] {
        let env = left_work(more);
        env.loom(&["stage", "reset", "a", "--reason", "again"]).ok();
        let kept = env.repo.join(".worktrees/.kept/a/1");
        assert!(kept.join(file).exists() && kept.join("u n.txt").exists() && kept.join("x.ignored").exists());
        let list = env.loom(&["undo", "--list", "--json"]).ok().json();
        assert_eq!(list["kept"][0]["id"], "a/1", "{list}");
        assert_eq!(list["kept"][0]["path"], ".worktrees/.kept/a/1");
        env.loom(&["undo", "--list"]).ok().has(".worktrees/.kept/a/1");
        // It is still a worktree, on no branch, that git does not forget.
        assert_eq!(env.git_in(&kept, &["rev-parse", "--abbrev-ref", "HEAD"]), "HEAD");
        env.git(&["worktree", "prune"]);
        assert_eq!(env.git_in(&kept, &["show", "HEAD:c.txt"]), "amended");
        assert_reachable(&env, &["committed"]);
        // The stage can start again.
        env.run().ends(4);
        assert!(env.repo.join(".worktrees/a").exists());
    }
}

#[test]
fn a_retry_keeps_what_was_not_committed() {
    let script = "set -e; echo $LOOM_ATTEMPT > n.txt; ls > @OUT@/ls.$LOOM_ATTEMPT; exit 1";
    let env = Env::of(&[stage("a").run(script).with("max_retries: 1")]);
    env.run().ends(4);
    assert!(!env.said("ls.2").contains("u.txt"));
    assert_reachable(&env, &["1"]);
    env.loom(&["stage", "skip", "a", "--reason", "enough"]).ok();
    env.finish();
    assert_reachable(&env, &["1", "2"]);
    assert!(!env.repo.join(".worktrees/a").exists());
}

#[test]
fn a_plan_that_is_run_again_does_not_overwrite_what_the_first_left() {
    let env = left_work("");
    env.loom(&["stage", "skip", "a", "--reason", "enough", "--go-on"]).ok();
    env.finish();
    env.loom(&["init", "doc/plans/plan.md"]).ok();
    env.run().ends(4);
    for id in ["a", "b"] {
        env.loom(&["stage", "skip", id, "--reason", "enough"]).ok();
    }
    env.finish();
    assert_reachable(&env, &WORDS);
    assert_eq!(env.git(&["for-each-ref", "refs/loom/done/plan/a"]).lines().count(), 1);
}

#[test]
fn worktrees_of_the_users_own_are_not_pruned() {
    let env = left_work("");
    let away = env.path().join("usb");
    env.git(&["worktree", "add", "-q", &away.display().to_string()]);
    fs::rename(&away, env.path().join("unplugged")).unwrap();
    env.loom(&["stage", "reset", "a", "--reason", "again"]).ok();
    fs::rename(env.path().join("unplugged"), &away).unwrap();
    assert_eq!(env.git_in(&away, &["status", "--porcelain"]), "");
}

/// A git that dies, and its loom with it, at the nth call; before or after the call did its work.
#[test]
fn a_reset_that_is_killed_at_any_git_command_loses_nothing() {
    let mut env = left_work("");
    let (count, limit) = (env.out.join("count"), env.out.join("limit"));
    env.program(
        "git",
        &format!(
            "[ -e {1} ] || {{ PATH=${{PATH#*:}}; exec git \"$@\"; }}\n\
             echo x >> {0}; n=$(wc -l < {0}); l=$(cat {1})\n\
             [ $n = ${{l#-}} ] && [ $l -lt 0 ] && kill -9 $PPID && exit 1\n\
             PATH=${{PATH#*:}} command git \"$@\"; code=$?\n\
             [ $n = $l ] && kill -9 $PPID\nexit $code",
            count.display(),
            limit.display()
        ),
    );
    let mut kills = 0;
    for n in 1..40 {
        let mut died = false;
        for sign in ["-", ""] {
            let _ = fs::remove_file(&count);
            fs::write(&limit, format!("{sign}{n}")).unwrap();
            let out = env.loom(&["stage", "reset", "a", "--reason", "again"]);
            died |= out.code == -9;
            fs::remove_file(&limit).unwrap();
            assert_reachable_or_there(&env);
        }
        if !died {
            break;
        }
        kills += 1;
        // The next one goes on with what is there.
        env.run().ends(4);
    }
    assert!(kills >= 3, "only {kills} commands could be killed");
    env.loom(&["stage", "reset", "a", "--reason", "again"]).ok();
    assert_reachable(&env, &WORDS);
    assert_eq!(env.git(&["fsck", "--no-dangling"]), "");
}

/// Work is in git, or still where the agent left it.
#[track_caller]
fn assert_reachable_or_there(env: &Env) {
    let dir = env.repo.join(".worktrees/a");
    if fs::read_to_string(dir.join("u n.txt")).is_ok_and(|text| text == "untracked\n") {
        return;
    }
    assert_reachable(env, &WORDS);
}

/// Stages that write without end, and somebody who resets, skips, retries, stops and kills.
#[test]
fn whatever_is_killed_no_commit_of_an_agent_is_lost() {
    let first = std::env::var("LOOM_TEST_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    for seed in first..first + 3 {
        let mut dice = Dice(seed);
        let script = |id: &str| {
            format!(
                "for n in 1 2 3; do echo {id} $LOOM_SESSION $n > w.txt; git add w.txt; git commit -q -m $n; \
                 cat w.txt >> @OUT@/words; git reset -q --hard HEAD^; done; [ $LOOM_ATTEMPT = 1 ] || kill -9 $$; exit 1"
            )
        };
        let env = Env::new();
        let stages = ["a", "b"].map(|id| stage(id).run(script(id)).with("max_retries: 3"));
        env.load(&plan(&stages));
        let mut story = Vec::new();
        for _ in 0..8 {
            let id = ["a", "b"][dice.roll(2)];
            let verbs: [&[&str]; 6] = [
                &["run"],
                &["stage", "reset", id, "--reason", "dice"],
                &["stage", "retry", id],
                &["stage", "skip", id, "--reason", "dice"],
                &["stop", "--kill"],
                &["kill"],
            ];
            let verb = verbs[dice.roll(6)];
            story.push(verb.join(" "));
            if verb == ["kill"] {
                for who in [" keeper", " daemon", "loom host"].iter().take(1 + dice.roll(3)) {
                    env.pids(who).into_iter().for_each(kill);
                }
            } else {
                let out = env.loom(verb);
                assert!(matches!(out.code, 0 | 1 | 3 | 4 | 5 | 70), "seed {seed}: {story:?}: {out}");
            }
        }
        env.pids(" keeper").into_iter().for_each(kill);
        env.pids(" daemon").into_iter().for_each(kill);
        env.until("hosts are gone", || env.pids("loom host").is_empty() && !env.is_locked());
        let _ = env.run();
        for id in ["a", "b"] {
            let _ = env.loom(&["stage", "reset", id, "--reason", "the end"]);
        }
        let words = env.said("words");
        let words: Vec<&str> = words.lines().collect();
        assert_reachable(&env, &words);
    }
}
