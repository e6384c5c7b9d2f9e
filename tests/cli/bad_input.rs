//! Bad input: each message says what is wrong and what to type next.

use std::fs;
use std::io::BufRead;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use crate::env::{Env, commit, markdown, plan, stage};

/// A plan of one stage whose lines are these.
fn one(lines: &str) -> String {
    markdown(&format!("loom:\n  version: 1\n  stages:\n{lines}"))
}

const GOOD: &str = "    - id: a\n      name: A\n      run: \"true\"\n      acceptance: [test -e x]\n";

#[track_caller]
fn init(plan: &str) -> String {
    let env = Env::new();
    env.add_plan(plan);
    let out = env.loom(&["init", "doc/plans/plan.md"]);
    assert_eq!(out.code, 1, "{out}");
    assert!(!env.repo.join(".work/journal.jsonl").exists(), "nothing is recorded");
    env.plain(&out.to_string())
}

#[test]
fn a_folder_that_is_no_repository_is_refused() {
    let env = Env::without_repository();
    insta::assert_snapshot!(env.says(&["init", "plan.md"]), @r"
    Error: `<tmp>/repo` is not in a git repository
    Hint: git init, commit something, then try again
    ------- exit 1 -------
    ");
    insta::assert_snapshot!(env.says(&["status"]), @r"
    Error: `<tmp>/repo` is not in a git repository
    Hint: git init, commit something, then try again
    ------- exit 1 -------
    ");
}

#[test]
fn a_bare_repository_is_refused() {
    let env = Env::without_repository();
    env.git(&["init", "-q", "--bare"]);
    insta::assert_snapshot!(env.says(&["init", "plan.md"]), @r"
    Error: `<tmp>/repo` is a bare repository: there is no checkout to work from
    Hint: git clone it, and work in the clone
    ------- exit 1 -------
    ");
}

#[test]
fn a_repository_without_a_commit_is_refused() {
    let env = Env::without_repository();
    env.git(&["init", "-q"]);
    env.write("plan.md", &plan(&[stage("a")]));
    insta::assert_snapshot!(env.says(&["init", "plan.md"]), @r#"
    Error: `<tmp>/repo` has no commit yet
    Hint: git commit --allow-empty -m "Start"
    ------- exit 1 -------
    "#);
}

#[test]
fn a_detached_head_is_refused() {
    let env = Env::new();
    env.add_plan(&plan(&[stage("a")]));
    env.git(&["checkout", "-q", "--detach"]);
    insta::assert_snapshot!(env.says(&["init", "doc/plans/plan.md"]), @r"
    Error: `<tmp>/repo` is not on a branch (detached HEAD)
    Hint: git switch <branch>
    ------- exit 1 -------
    ");
}

#[test]
fn a_branch_named_loom_is_in_the_way() {
    let env = Env::new();
    env.add_plan(&plan(&[stage("a")]));
    env.git(&["branch", "loom"]);
    insta::assert_snapshot!(env.says(&["init", "doc/plans/plan.md"]), @r"
    Error: a branch named `loom` exists: git cannot keep `loom/<stage>` beside it
    Hint: git branch -m loom <another name>
    ------- exit 1 -------
    ");
}

#[test]
fn a_git_that_is_too_old_is_refused() {
    let mut env = Env::new();
    env.add_plan(&plan(&[stage("a")]));
    env.program("git", "echo 'git version 2.30.2'");
    insta::assert_snapshot!(env.says(&["init", "doc/plans/plan.md"]), @r"
    Error: git 2.30 is too old: 2.38 is the oldest that can merge without a checkout
    Hint: install git 2.38 or newer
    ------- exit 1 -------
    ");
}

#[test]
fn a_machine_without_git_is_told_so() {
    let mut env = Env::new();
    env.add_plan(&plan(&[stage("a")]));
    env.set("PATH", "/nonexistent");
    insta::assert_snapshot!(env.says(&["init", "doc/plans/plan.md"]), @r"
    Error: git is not installed, or not on PATH
    Hint: install git 2.38 or newer
    ------- exit 1 -------
    ");
}

#[test]
fn a_plan_that_is_not_there_is_named() {
    let env = Env::new();
    insta::assert_snapshot!(env.says(&["init", "doc/plans/none.md"]), @r"
    Error: the plan doc/plans/none.md cannot be read
    Caused by: failed to open file `doc/plans/none.md`: No such file or directory (os error 2)
    Hint: ls doc/plans
    ------- exit 1 -------
    ");
    insta::assert_snapshot!(env.says(&["plan", "verify", "doc/plans/none.md"]), @r"
    Error: the plan doc/plans/none.md cannot be read
    Caused by: failed to open file `doc/plans/none.md`: No such file or directory (os error 2)
    Hint: ls doc/plans
    ------- exit 1 -------
    ");
    insta::assert_snapshot!(env.says(&["init", "."]), @r"
    Error: . is a folder: name the plan file
    Hint: ls .
    ------- exit 1 -------
    ");
}

#[test]
fn a_plan_without_markers_is_refused() {
    insta::assert_snapshot!(init("# Title\n\nText.\n"), @r"
    doc/plans/plan.md:1:1: error: the file has no plan block: `<!-- loom METADATA -->` is missing
    1 | # Title
      | ^^^^^^^
      = hint: the plan stands in a ```yaml fence between `<!-- loom METADATA -->` and `<!-- END loom METADATA -->`
    Error: doc/plans/plan.md has 1 error
    Hint: doc/plan-format.md explains every field
    ------- exit 1 -------
    ");
}

#[test]
fn a_cycle_is_printed() {
    let stages = [stage("a").after(&["c"]), stage("b").after(&["a"]), stage("c").after(&["b"])];
    insta::assert_snapshot!(init(&plan(&stages)), @r#"
    doc/plans/plan.md:12:22: error: stage `a`: the dependencies form a cycle: a → c → b → a
    12 |       dependencies: ["c"]
       |                      ^^^
       = hint: remove one of these dependencies
    Error: doc/plans/plan.md has 1 error
    Hint: doc/plan-format.md explains every field
    ------- exit 1 -------
    "#);
}

#[test]
fn an_unknown_field_is_shown_with_what_was_meant() {
    insta::assert_snapshot!(init(&one(&format!("{GOOD}      acceptence: []\n"))), @r"
    doc/plans/plan.md:14:7: error: stage `a`: unknown field `acceptence`
    14 |       acceptence: []
       |       ^^^^^^^^^^
       = hint: did you mean `acceptance`?
    Error: doc/plans/plan.md has 1 error
    Hint: doc/plan-format.md explains every field
    ------- exit 1 -------
    ");
}

#[test]
fn a_duplicate_id_is_refused() {
    insta::assert_snapshot!(init(&one(&format!("{GOOD}{GOOD}"))), @r"
    doc/plans/plan.md:14:11: error: the id `a` is taken by the stage on line 10
    14 |     - id: a
       |           ^
    Error: doc/plans/plan.md has 1 error
    Hint: doc/plan-format.md explains every field
    ------- exit 1 -------
    ");
}

#[test]
fn an_id_that_leaves_its_folder_is_refused() {
    insta::assert_snapshot!(init(&one(&GOOD.replace("id: a", "id: ../../etc"))), @r"
    doc/plans/plan.md:10:11: error: stage `../../etc`: `../../etc` is not a stage id: it starts with something other than a letter or a digit
    10 |     - id: ../../etc
       |           ^^^^^^^^^
       = hint: did you mean `etc`?
    Error: doc/plans/plan.md has 1 error
    Hint: doc/plan-format.md explains every field
    ------- exit 1 -------
    ");
    init(&one(&GOOD.replace("id: a", "id: _plan")));
    init(&one(&GOOD.replace("id: a", "id: con")));
}

#[test]
fn a_mebibyte_of_anchors_is_refused_at_once() {
    let mut text = String::from("x: &a [1]\n");
    while text.len() < (1 << 20) - 2000 {
        text.push_str("y: &b [*a, *a, *a, *a, *a, *a]\n");
    }
    let said = init(&markdown(&format!("{text}loom:\n  version: 1\n  stages:\n{GOOD}")));
    assert!(said.len() < 20_000, "{} bytes", said.len());
    let mut bomb = String::from("loom:\n  version: 1\n  max_parallel: &a0 [x, x]\n");
    for n in 1..40 {
        bomb.push_str(&format!("  k{n}: &a{n} [*a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}]\n", n - 1));
    }
    init(&markdown(&format!("{bomb}  stages:\n{GOOD}")));
    init(&markdown(&format!(
        "{}loom:\n  version: 1\n  stages:\n{GOOD}",
        format!("#{}\n", "x".repeat(1023)).repeat(1025)
    )));
}

#[test]
fn an_unknown_stage_is_met_with_what_was_meant() {
    let env = Env::of(&[stage("frontend"), stage("backend")]);
    insta::assert_snapshot!(env.says(&["stage", "hold", "frontnd"]), @r"
    Error: there is no stage `frontnd` in plan `plan`
    Hint: did you mean `frontend`?
    ------- exit 1 -------
    ");
    insta::assert_snapshot!(env.says(&["status", "backnd"]), @r"
    Error: there is no stage `backnd` in plan `plan`
    Hint: did you mean `backend`?
    ------- exit 1 -------
    ");
    insta::assert_snapshot!(env.says(&["run", "--stage", "quite-different"]), @r"
    Error: there is no stage `quite-different` in plan `plan`
    Hint: loom status
    ------- exit 1 -------
    ");
    for verb in [&["logs"][..], &["attach"], &["signal"], &["merge"], &["resume"]] {
        let out = env.loom(&[verb, &["backned"]].concat()).ends(1);
        assert!(out.stderr.contains("did you mean `backend`?"), "{verb:?}: {out}");
    }
    env.loom(&["stage", "hold", "../x"]).ends(2);
}

#[test]
fn commands_before_init_say_what_comes_first() {
    let env = Env::new();
    insta::assert_snapshot!(env.says(&["run"]), @r"
    Error: this project has no plan yet
    Hint: loom init doc/plans/<plan>.md
    ------- exit 1 -------
    ");
    insta::assert_snapshot!(env.says(&["status"]), @r"
    No plan yet.
    Next: loom init doc/plans/<plan>.md
    ------- exit 0 -------
    ");
    env.loom(&["stage", "hold", "a"]).ends(1).has("loom init");
    env.loom(&["logs", "a"]).ends(1).has("loom init");
    env.loom(&["stop"]).ok().has("no daemon is running");
    env.loom(&["undo", "--list"]).ok().has("nothing was put aside");
    for verb in
        [&["stage", "retry", "a"][..], &["stage", "approve", "g1"], &["resume", "a"], &["merge", "a"], &["merge"]]
    {
        env.loom(verb).ends(1).has("this project has no plan yet").has("loom init");
    }
    assert!(!env.repo.join(".work").exists(), "a command that did nothing has left something");
}

#[test]
fn a_second_plan_is_refused_while_one_is_open() {
    let env = Env::of(&[stage("a").run("exit 1").with("max_retries: 0")]);
    env.loom(&["init", "doc/plans/plan.md"]).ok().has("is loaded already; nothing changed");
    env.write("doc/plans/other.md", &plan(&[stage("z")]));
    insta::assert_snapshot!(env.says(&["init", "doc/plans/other.md"]), @r"
    Error: plan `plan` is still open
    Caused by: one plan is active at a time in a project
    Hint: loom run
    Hint: loom init --clean doc/plans/other.md   (puts the open plan's work aside first)
    ------- exit 1 -------
    ");
    env.run().ends(4);
    env.git(&["add", "-A"]);
    env.git(&["commit", "-q", "-m", "Other"]);
    env.loom(&["init", "--clean", "doc/plans/other.md"]).ok();
    env.finish();
    assert_eq!(env.state(), "z merged");
}

/// Runs a script as root of namespaces of its own, where it may mount what it likes and is
/// nobody's child: from inside, processes outside could not be looked at.
fn in_namespace(env: &Env, script: &str) -> String {
    let out = env.out_of(env.command("unshare").args(["-rmpf", "--mount-proc", "sh", "-c", script]));
    assert!(!out.stderr.contains("unshare"), "these tests need user namespaces, or root: {out}");
    out.stderr
}

/// A plan, and where its state is to be: in a folder for a file system of the test's own.
fn on_a_small_disk() -> (Env, PathBuf) {
    let mut env = Env::new();
    env.add_plan(&plan(&[stage("a")]));
    let small = env.path().join("small");
    fs::create_dir(&small).unwrap();
    env.set("LOOM_WORK_DIR", &format!("{}/work", small.display()));
    (env, small)
}

#[test]
fn a_full_disk_at_init_changes_nothing() {
    let (env, small) = on_a_small_disk();
    let said = in_namespace(
        &env,
        &format!(
            "set -e; mount -t tmpfs -o size=64k none {0}; cat /dev/zero > {0}/fill || true
             {1} init doc/plans/plan.md && exit 1; echo refused >&2
             rm {0}/fill; {1} init doc/plans/plan.md; echo loaded >&2",
            small.display(),
            env!("CARGO_BIN_EXE_loom")
        ),
    );
    let (refused, loaded) = said.split_once("refused\n").unwrap();
    assert!(refused.contains("No space left on device"), "{said}");
    assert!(refused.contains("/small/work cannot be written"), "{said}");
    assert!(loaded.ends_with("loaded\n"), "{said}");
}

#[test]
fn a_disk_without_inodes_changes_nothing_and_doctor_says_so() {
    let (env, small) = on_a_small_disk();
    let said = in_namespace(
        &env,
        &format!(
            "set -e; mount -t tmpfs -o nr_inodes=64 none {0}; mkdir {0}/work; for n in $(seq 64); do touch {0}/$n || true; done 2> /dev/null
             {1} init doc/plans/plan.md && exit 1; echo refused >&2; {1} doctor >&2 || true
             rm {0}/*[0-9]; {1} init doc/plans/plan.md; echo loaded >&2",
            small.display(),
            env!("CARGO_BIN_EXE_loom")
        ),
    );
    let (refused, rest) = said.split_once("refused\n").unwrap();
    assert!(refused.contains("No space left on device"), "{said}");
    assert!(rest.contains("0 files are free on the disk of") && rest.contains("[disk-full]"), "{said}");
    assert!(rest.ends_with("loaded\n"), "{said}");
}

#[test]
fn a_disk_that_is_full_in_a_worktree_costs_an_attempt() {
    let env = Env::new();
    let fill = "if [ $LOOM_ATTEMPT = 1 ]; then echo precious > p.txt; cat /dev/zero > zero.txt; fi";
    env.add_plan(&plan(&[stage("a").run(format!("{fill}; {}", commit("a", "a"))), stage("b").after(&["a"])]));
    // The worktrees are on a disk of their own.
    let said = in_namespace(
        &env,
        &format!(
            "mkdir .worktrees; mount -t tmpfs -o size=1m none .worktrees; {0} init doc/plans/plan.md
             {0} run --watch >&2; echo exit $? >&2; {0} audit --verify >&2; echo verified $? >&2; umount .worktrees",
            env!("CARGO_BIN_EXE_loom")
        ),
    );
    assert!(said.contains("a running (attempt 2): working; before: ") && said.contains("exit 0\n"), "{said}");
    assert!(said.ends_with("verified 0\n"), "{said}");
    assert_eq!(env.state(), "a merged, b merged");
    assert_eq!(env.stage("a")["attempt"], 2);
    assert_eq!(env.git(&["show", "refs/loom/rescue/a/1:p.txt"]), "precious");
}

#[test]
fn a_read_only_folder_at_init_changes_nothing() {
    let mut env = Env::new();
    env.add_plan(&plan(&[stage("a")]));
    // Root is not held by permissions: a mount is.
    let fixed = env.path().join("fixed");
    fs::create_dir(&fixed).unwrap();
    env.set("LOOM_WORK_DIR", &format!("{}/work", fixed.display()));
    let said = in_namespace(
        &env,
        &format!(
            "mount -t tmpfs -o ro none {}; {} init doc/plans/plan.md; echo exit $? >&2",
            fixed.display(),
            env!("CARGO_BIN_EXE_loom")
        ),
    );
    assert!(said.contains("Read-only file system"), "{said}");
    assert!(
        said.contains("Hint: make the project's folder writable, or set LOOM_WORK_DIR to a folder that is"),
        "{said}"
    );
    assert!(said.ends_with("exit 1\n"), "{said}");
}

const CLAUDE: &str = "    - id: a\n      name: A\n      description: Do it\n      acceptance: [\"test -e x\"]\n";

/// A folder on `PATH` with what Loom needs and no agent.
fn without_claude(env: &mut Env) {
    let tools = env.path().join("tools");
    fs::create_dir(&tools).unwrap();
    for tool in ["git", "sh", "mkfifo"] {
        let found = env.out_of(env.command("sh").arg("-c").arg(format!("command -v {tool}")));
        std::os::unix::fs::symlink(found.stdout.trim(), tools.join(tool)).unwrap();
    }
    env.set("PATH", &tools.display().to_string());
}

#[test]
fn a_missing_claude_is_one_failure_with_one_message() {
    let mut env = Env::new();
    without_claude(&mut env);
    env.load(&one(CLAUDE));
    insta::assert_snapshot!(env.says(&["run"]), @r"
    Error: the plan's agents cannot start
    Caused by: `claude` is not in PATH: install Claude Code (`npm install -g @anthropic-ai/claude-code`), then `loom run`
    Hint: loom run
    ------- exit 1 -------
    ");
    assert_eq!(env.state(), "a waiting");
    assert!(!env.is_locked());
}

#[test]
fn a_claude_that_is_not_set_up_or_not_logged_in_is_one_failure_with_one_message() {
    let mut env = Env::new();
    without_claude(&mut env);
    env.program("claude", "echo '9.9.9 (Claude Code)'");
    env.load(&one(CLAUDE));
    insta::assert_snapshot!(env.says(&["run"]), @r"
    Error: the plan's agents cannot start
    Caused by: Claude Code has not been set up for this user: run `claude` once and answer its questions, then `loom run`
    Hint: loom run
    ------- exit 1 -------
    ");
    fs::write(env.path().join("home/.claude.json"), "{\"hasCompletedOnboarding\": true}").unwrap();
    insta::assert_snapshot!(env.says(&["run"]), @r"
    Error: the plan's agents cannot start
    Caused by: Claude Code is not logged in: run `claude`, then `/login` in it (or set ANTHROPIC_API_KEY before `loom run`), then `loom run`
    Hint: loom run
    ------- exit 1 -------
    ");
    assert_eq!(env.state(), "a waiting");
    assert!(!env.is_locked());
}

#[test]
fn a_runtime_folder_with_a_long_name_is_not_used_for_sockets() {
    let mut env = Env::new();
    let long = env.path().join("x".repeat(100));
    fs::DirBuilder::new().mode(0o700).create(&long).unwrap();
    env.set("XDG_RUNTIME_DIR", &long.display().to_string());
    env.load(&plan(&[stage("a").first("loom status > /dev/null")]));
    env.finish();
    assert_eq!(fs::read_dir(&long).unwrap().count(), 0);
}

#[test]
fn wrong_command_lines_end_with_2() {
    let env = Env::new();
    for args in [
        &["rum"][..],
        &["run", "--max-parallel", "0"],
        &["run", "--stage", "UP/../x"],
        &["stage", "block", "a"],
        &["completions", "tcsh"],
        &["status", "--json", "--live"],
    ] {
        let _ = env.loom(args).ends(2);
    }
    assert_eq!(env.loom(&["--version"]).ok().stdout, concat!("loom ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn options_for_the_start_of_a_daemon_are_not_dropped_by_one_that_runs() {
    let env = Env::new();
    env.fifo("a.go");
    env.load(&plan(&[stage("a").first("read go < @OUT@/a.go")]));
    env.loom(&["run", "--max-parallel", "2"]).ok();
    for option in [&["--no-merge"][..], &["--stage", "nonsense"], &["--max-parallel", "3"], &["--no-sandbox"]] {
        let args: Vec<&str> = ["run", "--watch"].iter().chain(option).copied().collect();
        env.loom(&args).ends(1).has(option[0]).has("loom stop");
    }
    env.go("a.go");
    // Those that it has are said again.
    env.loom(&["run", "--watch", "--max-parallel", "2"]).ok();
    assert_eq!(env.state(), "a merged");
}

#[test]
fn a_plan_without_an_end_is_refused_before_it_is_read() {
    let env = Env::new();
    env.loom(&["plan", "verify", "/dev/zero"]).ends(1).has("more than 1048576 bytes");
    env.loom(&["init", "/dev/zero"]).ends(1).has("more than 1048576 bytes");
}

#[test]
fn what_cannot_be_written_to_standard_output_is_a_failure() {
    let env = Env::new();
    env.load(&plan(&[stage("a")]));
    for args in [&["status"][..], &["status", "--json"], &["audit"], &["plan", "verify", "--json", "doc/plans/plan.md"]]
    {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = env.command(env!("CARGO_BIN_EXE_loom"));
        let output = command.args(args).stdout(full).stderr(std::process::Stdio::piped()).spawn().unwrap();
        let output = output.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(70), "{args:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("No space left"), "{args:?}");
    }
}

#[test]
fn a_daemon_that_stands_still_is_told_from_one_that_is_gone() {
    let env = Env::new();
    env.fifo("a.go");
    env.load(&plan(&[stage("a").first("read go < @OUT@/a.go")]));
    env.loom(&["run"]).ok();
    let daemon = env.daemon_pid();
    let signal = |name: &str| env.command("kill").args([name, &daemon.to_string()]).status().unwrap();
    assert!(signal("-STOP").success());
    env.loom(&["stage", "hold", "a"]).ends(3).has("does not answer").has("loom doctor");
    assert!(signal("-CONT").success());
    env.go("a.go");
    env.finish();
}

#[test]
fn a_plan_does_not_begin_among_the_agents_of_one_whose_state_is_gone() {
    let env = Env::new();
    env.fifo("a.go");
    env.load(&plan(&[stage("a").first("echo up >> @OUT@/up; read go < @OUT@/a.go")]));
    env.loom(&["run"]).ok();
    env.until_said("up", "up");
    let mut watcher = env.command(env!("CARGO_BIN_EXE_loom"));
    watcher.args(["run", "--watch"]).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut watcher = watcher.spawn().unwrap();
    let mut line = String::new();
    std::io::BufReader::new(watcher.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("a running"), "{line}");
    fs::remove_dir_all(env.repo.join(".work")).unwrap();
    env.loom(&["init", "doc/plans/plan.md"]).ends(1).has("still works below .worktrees/").has("kill ");
    env.go("a.go");
    env.until("the agent has ended", || env.pids("loom host").is_empty());
    let watcher = watcher.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&watcher.stderr);
    assert!(
        watcher.status.code() == Some(1) && said.contains("was removed while") && said.contains("loom doctor"),
        "{said}"
    );
    env.loom(&["init", "doc/plans/plan.md"]).ok();
}
