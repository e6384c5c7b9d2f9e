//! `loom doctor` and `loom audit`: damage is explained, what is dead is removed, and nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::env::{Env, commit, kill, plan, stage};

/// What `loom doctor` finds, as `code` → finding.
#[track_caller]
fn findings(env: &Env, args: &[&str], code: i32) -> BTreeMap<String, Value> {
    let out = env.loom(&[&["doctor", "--json"], args].concat()).ends(code).json();
    assert_eq!(out["version"], 1);
    let findings = out["findings"].as_array().unwrap().clone();
    findings.into_iter().map(|finding| (finding["code"].as_str().unwrap().to_owned(), finding)).collect()
}

/// Every file of the project with its content, to see that nothing was changed.
fn everything(env: &Env) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut todo = vec![env.repo.clone(), env.path().join("run"), env.path().join("cache"), env.path().join("home")];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                todo.push(entry.path());
            } else {
                all.insert(entry.path(), fs::read(entry.path()).unwrap_or_default());
            }
        }
    }
    all
}

fn half_done() -> Env {
    let env = Env::of(&[stage("a"), stage("b").after(&["a"]).with("hold: true")]);
    env.run().ends(5);
    env
}

#[test]
fn a_sound_project_is_called_sound() {
    let env = half_done();
    env.loom(&["doctor"]).ok().has("Nothing is wrong.");
    // Before the first plan too.
    Env::new().loom(&["doctor"]).ok();
}

#[test]
fn what_a_killed_daemon_left_is_found_and_removed() {
    let env = Env::new();
    env.fifo("go");
    env.load(&plan(&[stage("a").first("echo x >> @OUT@/runs; read go < @OUT@/go")]));
    env.loom(&["run"]).ok();
    env.until_said("runs", "x");
    let daemon = env.daemon_pid();
    env.pids(" keeper").into_iter().for_each(kill);
    kill(daemon);
    env.until("the daemon is gone", || !env.is_locked());
    let lock = env.repo.join(".git/refs/heads/loom/_plan/plan.lock");
    fs::write(&lock, "").unwrap();
    let before = everything(&env);
    let found = findings(&env, &[], 1);
    assert_eq!(everything(&env), before, "looking changes nothing");
    for code in ["daemon-dead", "socket-dead", "lock-dead"] {
        assert_eq!(found[code]["level"], "problem", "{found:?}");
        assert_eq!(found[code]["next"][0], "loom doctor --fix", "{found:?}");
    }
    let mended = findings(&env, &["--fix"], 0);
    assert!(mended["daemon-dead"]["fixed"].is_string() && !lock.exists(), "{mended:?}");
    assert_eq!(env.pids("loom host").len(), 1, "what lives is left alone");
    env.loom(&["doctor"]).ok();
    env.go("go");
    env.finish();
    assert_eq!(env.said("runs"), "x\n");
}

#[test]
fn what_a_plan_left_whose_state_is_gone_is_found_and_rescued_by_the_next_one() {
    let env = Env::new();
    env.fifo("go");
    let half = "echo precious > p.txt; git add p.txt; git commit -q -m P; echo half > h.txt; echo x >> @OUT@/runs";
    let work = format!("if test ! -e @OUT@/again; then {half}; read go < @OUT@/go; else {}; fi", commit("a", "a"));
    env.load(&plan(&[stage("a").run(work)]));
    env.loom(&["run"]).ok();
    env.until_said("runs", "x");
    fs::remove_dir_all(env.repo.join(".work")).unwrap();
    env.go("go");
    env.until("the daemon is gone", || env.pids(" keeper").is_empty() && env.pids(" daemon").is_empty());
    let tree = env.repo.join(".worktrees/a");
    let mut other = env.command("sleep").arg("600").current_dir(&tree).spawn().unwrap();
    let before = everything(&env);
    let found = findings(&env, &["--fix"], 0)["plan-forgotten"].clone();
    assert_eq!(everything(&env), before, "whose it is cannot be proven");
    let what = found["what"].as_str().unwrap();
    assert!(what.contains("`loom/_plan/plan`, `loom/a` and `.worktrees/a`"), "{what}");
    assert_eq!(found["next"][0], format!("kill {}   (it still works in {})", other.id(), tree.display()));
    assert!(found["next"].to_string().contains("loom init <plan>"), "{found}");
    other.kill().unwrap();
    other.wait().unwrap();
    fs::write(env.out.join("again"), "").unwrap();
    env.loom(&["init", "doc/plans/plan.md"]).ok();
    env.finish();
    assert!(!findings(&env, &[], 0).contains_key("plan-forgotten"));
    let rescued = env.git(&["for-each-ref", "--format=%(refname)", "refs/loom/rescue/a/"]);
    let newest = rescued.lines().last().unwrap();
    assert_eq!(env.git(&["show", &format!("{newest}:p.txt")]), "precious");
    assert_eq!(env.git(&["show", &format!("{newest}:h.txt")]), "half");
}

#[test]
fn edited_and_missing_views_are_said_to_change_nothing_and_written_again() {
    let env = Env::of(&[stage("a").run("exit 1").with("max_retries: 0"), stage("b")]);
    env.run().ends(4);
    let view = |id: &str| env.repo.join(format!(".work/stages/{id}.md"));
    let (a, b) = (fs::read(view("a")).unwrap(), fs::read(view("b")).unwrap());
    fs::write(view("a"), String::from_utf8_lossy(&a).replace("\"blocked\"", "\"merged\"")).unwrap();
    fs::remove_file(view("b")).unwrap();
    assert_eq!(env.stage("a")["state"], "blocked", "nobody reads a view back");
    let found = findings(&env, &[], 1);
    assert!(found["view-edited"]["why"].as_str().unwrap().contains("Editing a view changes nothing"));
    assert!(found["view-missing"]["what"].as_str().unwrap().contains("stages/b.md"));
    findings(&env, &["--fix"], 0);
    assert_eq!((fs::read(view("a")).unwrap(), fs::read(view("b")).unwrap()), (a, b));
}

#[test]
fn a_lost_journal_is_put_aside_with_its_anchor_and_a_new_one_begins() {
    for damage in ["gone", "old", "torn apart"] {
        let env = half_done();
        let path = env.repo.join(".work/journal.jsonl");
        let whole = fs::read_to_string(&path).unwrap();
        match damage {
            "gone" => fs::remove_dir_all(env.repo.join(".work")).unwrap(),
            "old" => fs::write(&path, whole.lines().next().unwrap().to_owned() + "\n").unwrap(),
            _ => fs::write(&path, whole.replacen("The stage a", "The stage x", 1)).unwrap(),
        }
        let found = findings(&env, &[], 1);
        let code = if damage == "torn apart" { "journal-damaged" } else { "journal-lost" };
        assert!(found[code]["why"].as_str().unwrap().contains("`loom/_plan/plan` with everything that landed"));
        if damage == "torn apart" {
            assert!(found[code]["what"].as_str().unwrap().contains("is damaged at line 1"), "{found:?}");
            env.loom(&["run"]).ends(70).has("damaged at line 1").has("loom doctor");
        }
        let left = fs::read_to_string(&path).ok();
        let refs = env.git(&["for-each-ref", "refs/heads"]);
        fs::create_dir_all(env.repo.join(".work")).unwrap();
        env.loom(&["doctor", "--fix"]).ok().has("loom init <plan>");
        assert_eq!(env.git(&["for-each-ref", "refs/heads"]), refs, "nothing of the work is touched");
        assert_eq!(fs::read_to_string(env.repo.join(".work/journal.lost-1.jsonl")).ok(), left);
        env.git(&["cat-file", "-p", "refs/loom/journal-lost/1"]);
        env.loom(&["init", "doc/plans/plan.md"]).ok();
        env.loom(&["stage", "release", "b"]).ok();
        env.finish();
        env.loom(&["audit", "--verify"]).ok();
    }
}

#[test]
fn worktrees_and_branches_of_no_plan_are_removed_after_a_rescue() {
    let env = half_done();
    let dead = env.repo.join(".worktrees/old");
    env.git(&["worktree", "add", "-q", "-b", "loom/old", &dead.display().to_string()]);
    fs::write(dead.join("precious.txt"), "precious\n").unwrap();
    env.git(&["branch", "loom/older", "main"]);
    env.git(&["branch", "mine", "main"]);
    fs::create_dir_all(env.repo.join(".worktrees/.gone-x.1/y")).unwrap();
    fs::create_dir_all(env.repo.join(".worktrees/notes")).unwrap();
    // A person is at work in one of them.
    let mut shell = env.command("sleep").arg("600").current_dir(&dead).spawn().unwrap();
    assert!(!findings(&env, &[], 1).contains_key("worktree-dead"));
    shell.kill().unwrap();
    shell.wait().unwrap();
    let found = findings(&env, &[], 1);
    for code in ["worktree-dead", "branch-dead", "rubbish", "folder-foreign"] {
        assert!(found.contains_key(code), "{code}: {found:?}");
    }
    findings(&env, &["--fix"], 0);
    assert!(!dead.exists() && env.repo.join(".worktrees/notes").exists());
    assert_eq!(env.git(&["branch", "--list", "--format=%(refname:short)"]), "loom/_plan/plan\nloom/a\nmain\nmine");
    env.loom(&["undo", "old/1"]).ok();
    assert_eq!(env.git(&["show", "rescued/old-1:precious.txt"]), "precious");
    env.loom(&["stage", "release", "b"]).ok();
    env.finish();
}

#[test]
fn a_changed_git_configuration_and_missing_tools_are_explained() {
    let mut env = Env::new();
    let agent = stage("a").yaml().lines().filter(|line| !line.contains(" run: ")).collect::<Vec<_>>().join("\n");
    env.load(&crate::env::markdown(&format!("loom:\n  version: 1\n  stages:\n{agent}\n      description: \"x\"\n")));
    env.git(&["config", "core.pager", "less"]);
    env.set("PATH", "/usr/bin:/bin");
    let found = findings(&env, &[], 1);
    assert!(found.contains_key("git-config"), "{found:?}");
    assert!(found.contains_key("agent-missing"), "{found:?}");
    assert_eq!(found["git-fsync"]["level"], "note");
    assert_eq!(found["git-fsync"]["next"][0], "git config --global core.fsync all");
    env.git(&["config", "--global", "core.fsync", "all"]);
    assert!(!findings(&env, &[], 1).contains_key("git-fsync"));
}

#[test]
fn nothing_is_mended_under_a_daemon() {
    let env = Env::new();
    env.fifo("go");
    env.load(&plan(&[stage("a").first("echo x >> @OUT@/runs; read go < @OUT@/go")]));
    env.loom(&["run"]).ok();
    env.until_said("runs", "x");
    fs::write(env.repo.join(".work/stages/a.md"), "edited").unwrap();
    env.loom(&["doctor"]).ends(1).has("view-edited");
    env.loom(&["doctor", "--fix"]).ends(1).has("loom stop, then loom doctor --fix");
    env.go("go");
    env.settle();
    env.loom(&["doctor"]).ok();
}

#[test]
fn a_daemon_whose_lock_was_deleted_is_found_and_writes_nothing_more() {
    let env = Env::new();
    env.fifo("go");
    env.load(&plan(&[stage("a").first("echo x >> @OUT@/runs; read go < @OUT@/go")]));
    env.loom(&["run"]).ok();
    env.until_said("runs", "x");
    let daemon = env.daemon_pid();
    fs::remove_file(env.repo.join(".work/writer.lock")).unwrap();
    let found = findings(&env, &[], 1);
    assert!(found["daemon-unlocked"]["what"].as_str().unwrap().contains(&daemon.to_string()), "{found:?}");
    let journal = env.read(".work/journal.jsonl");
    env.go("go");
    env.until("it has stopped", || !Path::new(&format!("/proc/{daemon}")).exists());
    assert_eq!(env.read(".work/journal.jsonl"), journal);
    env.finish();
    assert_eq!(env.said("runs"), "x\n");
}

#[test]
fn a_session_that_no_journal_knows_is_named_and_left_alone() {
    let env = Env::new();
    env.fifo("go");
    env.load(&plan(&[stage("z"), stage("a").after(&["z"]).first("echo x >> @OUT@/runs; read go < @OUT@/go")]));
    env.loom(&["run"]).ok();
    env.until_said("runs", "x");
    env.loom(&["stop"]).ok();
    let host = env.pids("loom host")[0];
    fs::remove_file(env.repo.join(".work/journal.jsonl")).unwrap();
    env.loom(&["doctor", "--fix"]).ends(1).has(&format!("kill {host}"));
    assert_eq!(env.pids("loom host"), [host]);
    assert!(env.repo.join(".worktrees/a").exists());
}

#[test]
fn a_state_folder_of_another_user_is_refused() {
    let mut env = half_done();
    if rustix::process::getuid().is_root() {
        let out = env.out_of(env.command("chown").args(["-R", "12345", ".work"]));
        assert_eq!(out.code, 0, "{out}");
    } else {
        env.set("LOOM_WORK_DIR", "/usr");
    }
    env.loom(&["stage", "release", "b"]).ends(1).has("belongs to another user").has("LOOM_WORK_DIR");
    assert!(findings(&env, &[], 1).contains_key("work-foreign"));
}

#[test]
fn the_audit_tells_the_story_with_actor_cause_and_evidence() {
    let env = half_done();
    env.loom(&["stage", "reset", "b", "--reason", "because I say so"]).ok();
    let out = env.loom(&["audit"]).ok();
    for text in [
        "operator (init by operator)",
        "plan `plan` is loaded with 2 stages",
        "`a` starts attempt 1 in session `a.1`",
        "session `a.1` is over: submitted, exit status 0",
        "passed `test -s a.txt`: it printed nothing",
        "of `a` is kept",
        "evidence/a/",
        "`a` landed",
        "`b` starts over: because I say so",
    ] {
        assert!(out.stdout.contains(text), "no `{text}` in {out}");
    }
    let of_b = env.loom(&["audit", "b"]).ok();
    assert!(of_b.stdout.contains("`b` starts over") && !of_b.stdout.contains("`a` landed"), "{of_b}");
    let json = env.loom(&["audit", "--json"]).ok().json();
    let lines = env.read(".work/journal.jsonl").lines().count();
    assert_eq!((json["version"].as_u64(), json["records"].as_array().unwrap().len()), (Some(1), lines));
    assert_eq!(json["records"][0]["actor"], "operator");
    env.loom(&["audit", "nobody"]).ends(1).has("loom status");
}

#[test]
fn the_audit_verifies_bytes_anchor_and_landings() {
    let env = half_done();
    let good = env.loom(&["audit", "--verify", "--json"]).ok().json();
    assert_eq!((good["good"].as_bool(), good["landings"].as_u64()), (Some(true), Some(1)));
    env.loom(&["audit", "--verify"]).ok().has("1 landing found in git with the proofs");
    let path = env.repo.join(".work/journal.jsonl");
    let whole = fs::read_to_string(&path).unwrap();
    // Spaces that mean nothing, a field that nobody knows, a record that never was: the chain is right.
    let spaced = rechained(&whole, |n, body| if n == 2 { body.replacen("\"seq\":3", "\"seq\": 3", 1) } else { body });
    let more =
        rechained(&whole, |n, body| if n == 2 { body.replacen("{\"v\":1,", "{\"v\":1,\"w\":1,", 1) } else { body });
    let unproven = rechained(&whole, |_, body| body.replace("\"passed\":true", "\"passed\":false"));
    let lines: Vec<&str> = whole.lines().collect();
    let without = lines[..lines.len() - 1].join("\n") + "\n";
    for (text, why) in [
        (spaced, "not written as Loom writes it"),
        (more, "not written as Loom writes it"),
        (unproven, "had failed"),
        (without, "its newest records are lost"),
        (whole.trim_end().to_owned(), "no whole line"),
        (whole.clone() + "x", "no whole line"),
        (whole.clone() + "\n", "damaged"),
    ] {
        fs::write(&path, text).unwrap();
        env.loom(&["audit", "--verify"]).ends(4).has(why);
    }
    fs::write(&path, &whole).unwrap();
    // The branch is put back by hand, and the landing's commit is nowhere.
    env.git(&["update-ref", "refs/heads/loom/_plan/plan", "main"]);
    env.git(&["update-ref", "-d", "refs/heads/loom/a"]);
    env.loom(&["audit", "--verify"]).ends(4).has("no ref has that commit any more");
}

/// The journal with each body changed, and every hash right again.
fn rechained(text: &str, mut change: impl FnMut(usize, String) -> String) -> String {
    let mut out = String::new();
    let mut prev = "0".repeat(64);
    for (n, line) in text.lines().enumerate() {
        let (body, _) = line.rsplit_once(",\"hash\":\"").unwrap();
        let at = body.find("\"prev\":\"").unwrap() + 8;
        let body = change(n, format!("{}{prev}{}", &body[..at], &body[at + 64..]));
        prev = loom::base::text::sha256(body.as_bytes());
        out.push_str(&format!("{body},\"hash\":\"{prev}\"}}\n"));
    }
    out
}
