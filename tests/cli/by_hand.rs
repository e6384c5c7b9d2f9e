//! What people and machines do to a project behind Loom's back.

use std::fs;
use std::process::Command;

use crate::env::{Env, Out, commit, kill, plan, stage};

/// A project whose stage `a` runs and waits for `go`.
fn running() -> Env {
    let env = Env::new();
    env.fifo("go");
    env.load(&plan(&[stage("a").first("echo x >> @OUT@/runs; read go < @OUT@/go; echo y >> @OUT@/ends")]));
    env.loom(&["run"]).ok();
    env.until_said("runs", "x");
    env
}

#[test]
fn survivors_of_a_host_that_died_with_its_daemon_end_before_the_next_session_starts() {
    let env = Env::new();
    env.fifo("go");
    let script = format!(
        "echo x >> @OUT@/runs\nif [ $LOOM_ATTEMPT = 1 ]; then (setsid sleep 4343 &); read go < @OUT@/go; fi; {}",
        commit("a", "a")
    );
    env.load(&plan(&[stage("a").run(script)]));
    env.loom(&["run"]).ok();
    env.until("the child is there", || !env.pids("sleep 4343").is_empty());
    let daemon = env.daemon_pid();
    env.pids(" keeper").into_iter().for_each(kill);
    kill(daemon);
    env.pids("loom host").into_iter().for_each(kill);
    let lock = env.repo.join(".work/sessions/a.1/host.lock");
    env.until("daemon and host are gone", || !env.is_locked() && !loom::base::fs::is_locked(&lock).unwrap());
    assert_eq!(env.pids("sleep 4343").len(), 1, "it left its group and outlived both");
    env.loom(&["stage", "hold", "a"]).ok();
    // The first verb that is served finds it.
    env.until("the survivor is gone", || env.pids("sleep 4343").is_empty());
    env.loom(&["stage", "release", "a"]).ok();
    env.finish();
    assert_eq!(env.said("runs"), "x\nx\n");
}

#[test]
fn a_session_of_another_boot_is_lost_and_its_stage_goes_on() {
    let env = running();
    env.loom(&["stop"]).ok();
    env.pids("loom host").into_iter().for_each(kill);
    env.until("the host is gone", || env.pids("loom host").is_empty());
    env.pids("read go <").into_iter().for_each(kill);
    env.until("its agent is gone", || env.pids("read go <").is_empty());
    // As after a reboot: every identity on record is of another boot.
    let path = env.repo.join(".work/journal.jsonl");
    let this_boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    crate::history::rewrite(&path, |record| {
        let text = serde_json::to_string(&record.facts).unwrap();
        record.facts = serde_json::from_str(&text.replace(this_boot.trim(), "0123-another-boot")).unwrap();
    });
    env.git(&["update-ref", "-d", "refs/loom/journal"]);
    assert!(env.read(".work/journal.jsonl").contains("0123-another-boot"));
    env.loom(&["run"]).ok();
    env.until_said("runs", "x\nx");
    env.go("go");
    env.finish();
    assert_eq!((env.said("runs"), env.said("ends")), ("x\nx\n".to_owned(), "y\n".to_owned()));
}

#[test]
fn a_journal_that_cannot_be_read_is_never_an_empty_plan() {
    let env = Env::of(&[stage("a")]);
    let path = env.repo.join(".work/journal.jsonl");
    fs::rename(&path, env.out.join("journal")).unwrap();
    fs::create_dir(&path).unwrap();
    for args in [&["status"][..], &["run"], &["init", "doc/plans/plan.md"], &["audit"]] {
        env.loom(args).ends(70).has("the journal cannot be read");
    }
    env.loom(&["doctor"]).ends(1).has("journal-unreadable");
    fs::remove_dir(&path).unwrap();
    fs::rename(env.out.join("journal"), &path).unwrap();
    env.finish();
}

#[test]
fn a_branch_that_was_deleted_by_hand_is_made_again_where_it_was() {
    let env = Env::new();
    env.fifo("go");
    let first =
        "echo one > one.txt; git add one.txt; git commit -q -m One; echo x >> @OUT@/runs; read go < @OUT@/go; exit 1";
    let script = format!("if [ $LOOM_ATTEMPT = 1 ]; then {first}; fi; test -s one.txt && {}", commit("a", "a"));
    env.load(&plan(&[stage("a").run(script)]));
    env.loom(&["run"]).ok();
    env.until_said("runs", "x");
    let work = env.git(&["rev-parse", "loom/a"]);
    env.git(&["update-ref", "-d", "refs/heads/loom/a"]);
    env.go("go");
    env.settle();
    assert_eq!(env.state(), "a merged");
    env.git(&["merge-base", "--is-ancestor", &work, "main"]);
    assert_eq!(env.read("one.txt"), "one\n");
}

#[test]
fn a_gc_that_prunes_everything_costs_nothing() {
    let env = Env::of(&[
        stage("a")
            .run("echo lost > l.txt; git add l.txt; git commit -q -m L; git reset -q --hard HEAD^; exit 1")
            .with("max_retries: 0"),
        stage("b").after(&["a"]),
    ]);
    env.run().ends(4);
    env.loom(&["stage", "reset", "a", "--reason", "again"]).ok();
    env.git(&["reflog", "expire", "--expire=now", "--expire-unreachable=now", "--all"]);
    env.git(&["gc", "-q", "--prune=now"]);
    env.git(&["pack-refs", "--all"]);
    env.loom(&["undo", "a/1"]).ok();
    assert_eq!(env.git(&["show", "rescued/a-1:l.txt"]), "lost");
    env.loom(&["audit", "--verify"]).ok();
    env.loom(&["stage", "skip", "a", "--reason", "enough", "--go-on"]).ok();
    env.finish();
    env.loom(&["audit", "--verify"]).ok();
}

#[test]
fn what_sessions_setups_and_checks_commit_leaves_no_maintenance_running() {
    let env = Env::new();
    env.git(&["config", "gc.auto", "1"]);
    let commits = "export GIT_TRACE=@OUT@/trace; git commit -q --allow-empty -m Empty";
    env.load(&plan(&[stage("a").first(commits).check(commits).with(&format!("setup: [{commits:?}]"))]));
    env.finish();
    let trace = env.said("trace");
    assert!(trace.matches("built-in: git commit").count() >= 5, "{trace}");
    assert!(!trace.contains("maintenance") && !trace.contains("git gc"), "{trace}");
    // The user's own commands do as ever.
    let trace = env.out.join("mine");
    env.out_of(env.command("git").env("GIT_TRACE", &trace).args(["commit", "-q", "--allow-empty", "-m", "Mine"])).ok();
    assert!(env.said("mine").contains("maintenance"), "{}", env.said("mine"));
}

#[test]
fn a_plan_that_is_edited_while_it_runs_changes_nothing() {
    let env = running();
    env.write("doc/plans/plan.md", "# Another plan\n");
    env.go("go");
    env.settle();
    assert_eq!(env.state(), "a merged");
    assert_eq!(env.status()["plan"]["name"], "The plan");
}

#[test]
fn without_a_runtime_folder_sockets_are_in_a_private_one() {
    use std::os::unix::fs::PermissionsExt;
    let mut env = Env::new();
    env.set("XDG_RUNTIME_DIR", "");
    env.fifo("go");
    env.load(&plan(&[stage("a").first("echo x >> @OUT@/runs; read go < @OUT@/go")]));
    env.loom(&["run"]).ok();
    env.until_said("runs", "x");
    let record: serde_json::Value = serde_json::from_str(&env.read(".work/daemon.json")).unwrap();
    let socket = std::path::PathBuf::from(record["socket"].as_str().unwrap());
    for folder in [socket.parent().unwrap(), socket.parent().unwrap().parent().unwrap()] {
        assert_eq!(fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700, "{}", folder.display());
    }
    env.loom(&["status"]).ok().has("running");
    // A logout wipes it: the daemon goes on, and another one can be told.
    fs::remove_dir_all(socket.parent().unwrap()).unwrap();
    env.loom(&["status"]).ok();
    env.go("go");
    env.settle();
    assert_eq!(env.state(), "a merged");
}

/// Runs a script around `loom` in the project.
fn shell(env: &Env, program: &str, args: &[&str]) -> Out {
    let mut command: Command = env.command(program);
    env.out_of(command.args(args))
}

#[test]
fn without_inotify_a_plan_is_carried_out() {
    let env =
        Env::of(&[stage("a"), stage("b").after(&["a"]).run(format!("{}; loom stage complete b", commit("b", "b")))]);
    let script = "for f in /proc/sys/user/max_inotify_instances /proc/sys/user/max_inotify_watches; do echo 0 > $f || exit 77; done; loom run --watch";
    let out = shell(&env, "unshare", &["-rmpf", "--mount-proc", "sh", "-c", script]);
    assert_eq!(out.code, 0, "{out}\n{}", env.daemon_log());
    assert_eq!(env.state(), "a merged, b merged");
}

#[test]
fn with_sixty_four_open_files_a_plan_is_carried_out() {
    let ids = ["a", "b", "c", "d"];
    let env = Env::of(&ids.map(stage));
    let out = shell(&env, "sh", &["-c", "ulimit -n 64; exec loom run --watch"]);
    assert_eq!(out.code, 0, "{out}\n{}", env.daemon_log());
    assert_eq!(env.state(), "a merged, b merged, c merged, d merged");
}
