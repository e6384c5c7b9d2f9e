//! Proof and landing: what may reach the plan branch and the base branch.

use std::fs;

use crate::env::{Env, commit, plan, plan_with, stage};

#[test]
fn a_dirty_checkout_stays_as_it_is_until_the_user_has_committed() {
    let env = Env::of(&[stage("a")]);
    let base = env.git(&["rev-parse", "main"]);
    env.write("README.md", "# Mine\n");
    env.write("notes.txt", "mine too\n");
    env.run().ends(5).has("did not follow").has("loom merge");
    assert_eq!(env.git(&["rev-parse", "main"]), base);
    assert_eq!((env.read("README.md"), env.read("notes.txt")), ("# Mine\n".to_owned(), "mine too\n".to_owned()));
    assert_eq!(env.git(&["status", "--porcelain"]), " M README.md\n?? notes.txt");
    env.git(&["stash", "-q"]);
    env.loom(&["merge"]).ok();
    assert_eq!(env.git(&["rev-parse", "main"]), env.git(&["rev-parse", "loom/_plan/plan"]));
    env.git(&["stash", "pop", "-q"]);
    assert_eq!((env.read("README.md"), env.read("a.txt")), ("# Mine\n".to_owned(), "a\n".to_owned()));
    assert_eq!(env.status()["notices"], serde_json::json!([]));
}

#[test]
fn a_base_branch_that_is_gone_is_brought_back_by_what_the_status_says() {
    let env = Env::of(&[stage("a")]);
    env.git(&["branch", "-m", "main", "other"]);
    let next = "git branch main loom/_plan/plan && loom merge";
    env.run().ends(5).has("branch `main` is gone").has(next);
    assert_eq!(env.status()["next"], serde_json::json!([next]));
    let branch: Vec<&str> = next.split(" && ").next().unwrap().split(' ').skip(1).collect();
    env.git(&branch);
    env.loom(&["merge"]).ok();
    assert_eq!(env.status()["next"], serde_json::json!(["git log --oneline --graph loom/_plan/plan"]));
    assert_eq!(env.git(&["rev-parse", "main"]), env.git(&["rev-parse", "loom/_plan/plan"]));
}

#[test]
fn a_commit_of_the_dirty_work_is_merged_and_proven_by_loom_merge() {
    let env = Env::new();
    env.load(&plan_with("acceptance: [\"test -s README.md\"]", &[stage("a")]));
    env.write("README.md", "# Mine\n");
    env.run().ends(5).has("did not follow");
    env.git(&["commit", "-q", "-a", "-m", "Mine"]);
    env.loom(&["merge"]).ok();
    env.finish();
    assert_eq!(env.read("README.md"), "# Mine\n");
    assert_eq!(env.read("a.txt"), "a\n");
    assert_eq!(env.git(&["rev-parse", "main"]), env.git(&["rev-parse", "loom/_plan/plan"]));
}

#[test]
fn files_that_git_does_not_track_are_never_overwritten() {
    for (name, script) in [
        ("a.txt", commit("a", "agent")),
        ("ignored.txt", "echo agent > ignored.txt && git add -f ignored.txt && git commit -q -m 'Add it'".to_owned()),
    ] {
        let env = Env::of(&[stage("a").run(script).check("true").with(&format!("files: [{name}]"))]);
        let base = env.git(&["rev-parse", "main"]);
        env.write(name, "mine\n");
        env.run().ends(5).has("did not follow").has(name);
        assert_eq!(env.read(name), "mine\n");
        assert_eq!(env.git(&["rev-parse", "main"]), base);
        fs::remove_file(env.repo.join(name)).unwrap();
        env.loom(&["merge"]).ok();
        assert_eq!(env.read(name), "agent\n");
    }
}

#[test]
fn a_conflict_blocks_the_later_stage_and_names_the_files() {
    let env = Env::new();
    env.fifo("b");
    env.load(&plan(&[
        stage("a").run(commit("same", "from a")).check("test -s same.txt"),
        stage("b").run(format!("read go < @OUT@/b; {}", commit("same", "from b"))).check("test -s same.txt"),
    ]));
    env.loom(&["run"]).ok();
    env.until_state("a", "merged");
    env.go("b");
    env.settle();
    let row = env.stage("b");
    assert_eq!(row["reason"]["code"], "merge-conflict");
    assert_eq!(row["reason"]["files"], serde_json::json!(["same.txt"]));
    env.run().ends(4).has("it conflicts with the plan branch in `same.txt`");
    assert_eq!(env.git(&["show", "loom/_plan/plan:same.txt"]), "from a");
    let said = env.loom(&["status", "b"]).ok();
    let said = said.has("Next: loom merge b").has("`git merge loom/_plan/plan` in .worktrees/b");
    assert!(!said.stdout.contains("loom stage retry"), "{said}");

    let tree = env.repo.join(".worktrees/b");
    let tree = tree.to_str().unwrap();
    env.git(&["-C", tree, "merge", "-q", "-X", "ours", "loom/_plan/plan"]);
    env.loom(&["merge", "b"]).ok();
    env.finish();
    assert_eq!((env.state(), env.read("same.txt")), ("a merged, b merged".to_owned(), "from b\n".to_owned()));
}

#[test]
fn a_file_that_the_user_renamed_is_named_in_full_and_the_plan_is_not_called_complete() {
    let env = Env::of(&[stage("a")]);
    env.git(&["mv", "README.md", "READ.md"]);
    let out = env.run().ends(5).has("`READ.md` and `README.md`").has("1 of 1 stage landed");
    assert!(!out.stderr.contains("The plan is complete"), "{out}");
    env.git(&["mv", "READ.md", "README.md"]);
    env.loom(&["merge"]).ok();
    env.finish().has("its stage is proven and landed");
    env.loom(&["run"]).ok().has("`plan` is complete: no session starts");
}

#[test]
fn two_stages_that_are_green_alone_and_red_together_do_not_both_land() {
    let env = Env::new();
    env.fifo("b");
    let check = "! test -e a.txt -a -e b.txt";
    env.load(&plan(&[
        stage("a").check(check),
        stage("b").check(check).first("cp \"$LOOM_SIGNAL\" @OUT@/signal; read go < @OUT@/b").with("max_retries: 1"),
    ]));
    env.loom(&["run"]).ok();
    env.until_state("a", "merged");
    env.go("b");
    env.go("b");
    env.settle();
    assert_eq!(env.state(), "a merged, b blocked");
    assert!(env.said("signal").contains("it is the combination with what landed meanwhile"), "{}", env.said("signal"));
    assert_eq!(env.git(&["ls-tree", "--name-only", "loom/_plan/plan", "b.txt"]), "");
}

#[test]
fn with_no_merge_what_is_proven_waits_for_loom_merge() {
    let env = Env::of(&[stage("a"), stage("b").after(&["a"])]);
    env.loom(&["run", "--watch", "--no-merge"]).ends(5).has("is proven at");
    assert_eq!(env.state(), "a gated, b waiting");
    env.loom(&["merge", "a"]).ok();
    env.finish();
    assert_eq!(env.state(), "a merged, b merged");
}

#[test]
fn with_landing_each_the_base_branch_follows_every_landing() {
    let env = Env::new();
    env.fifo("b");
    env.load(&plan_with("landing: each", &[stage("a"), stage("b").after(&["a"]).first("read go < @OUT@/b")]));
    env.loom(&["run"]).ok();
    env.until("main has a", || env.read("a.txt") == "a\n");
    assert_eq!(env.read("b.txt"), "");
    env.go("b");
    env.settle();
    assert_eq!(env.read("b.txt"), "b\n");
}

#[test]
fn with_landing_manual_the_base_branch_follows_when_asked() {
    let env = Env::new();
    env.load(&plan_with("landing: manual", &[stage("a")]));
    env.finish();
    assert_eq!(env.read("a.txt"), "");
    env.loom(&["merge"]).ok();
    assert_eq!(env.read("a.txt"), "a\n");
}

#[test]
fn the_plans_own_acceptance_is_part_of_every_proof() {
    let env = Env::new();
    env.load(&plan_with(
        "acceptance: [\"! grep -q bad a.txt\"]",
        &[stage("a").run(format!(
            "if [ $LOOM_ATTEMPT = 1 ]; then {}; else {}; fi",
            commit("a", "bad"),
            commit("a", "good")
        ))],
    ));
    env.finish();
    assert_eq!(env.read("a.txt"), "good\n");
    assert_eq!(env.stage("a")["attempt"], 2);
    assert_eq!(env.stage("a")["checks"]["total"], 2);
}

#[test]
fn commits_of_the_user_are_merged_and_proven_by_the_plans_acceptance() {
    let env = Env::new();
    env.fifo("b");
    env.load(&plan_with(
        "acceptance: [\"echo x >> @OUT@/proofs; true\"]",
        &[stage("a"), stage("b").after(&["a"]).first("read go < @OUT@/b")],
    ));
    env.loom(&["run"]).ok();
    env.until_state("a", "merged");
    env.write("user.txt", "mine\n");
    env.git(&["add", "user.txt"]);
    env.git(&["commit", "-q", "-m", "Mine"]);
    env.go("b");
    env.settle();
    env.finish();
    assert_eq!(env.git(&["show", "main:user.txt"]), "mine");
    assert_eq!((env.read("a.txt"), env.read("b.txt")), ("a\n".to_owned(), "b\n".to_owned()));
    assert_eq!(env.git(&["rev-parse", "main"]), env.git(&["rev-parse", "loom/_plan/plan"]));
}

#[test]
fn without_acceptance_the_user_is_asked_once_about_their_own_commits() {
    let env = Env::new();
    env.load(&plan(&[stage("a"), stage("b").after(&["a"]).with("hold: true")]));
    env.run().ends(5);
    env.write("user.txt", "mine\n");
    env.git(&["add", "user.txt"]);
    env.git(&["commit", "-q", "-m", "Mine"]);
    env.loom(&["stage", "release", "b"]).ok();
    env.run().ends(5).has("merge them unproven?");
    let gate = env.status()["gates"][0]["id"].as_str().unwrap().to_owned();
    env.loom(&["stage", "approve", &gate]).ok();
    env.finish();
    assert_eq!(env.status()["gates"], serde_json::json!([]));
    assert_eq!((env.read("user.txt"), env.read("b.txt")), ("mine\n".to_owned(), "b\n".to_owned()));
}

#[test]
fn a_plan_branch_that_somebody_moved_stops_landing() {
    let env = Env::of(&[stage("a"), stage("b").after(&["a"]).with("hold: true")]);
    env.run().ends(5);
    let left = env.git(&["rev-parse", "loom/_plan/plan"]);
    let there = env.git(&["commit-tree", "-p", &left, "-m", "Foreign", &format!("{left}^{{tree}}")]);
    env.git(&["update-ref", "refs/heads/loom/_plan/plan", &there]);
    env.loom(&["stage", "release", "b"]).ok();
    env.run().ends(5).has(&left[..10]).has(&there[..10]);
    assert_eq!(env.git(&["rev-parse", "loom/_plan/plan"]), there);
    let gate = env.status()["gates"][0]["id"].as_str().unwrap().to_owned();
    env.loom(&["stage", "reject", &gate]).ok();
    env.finish();
    assert_eq!(env.state(), "a merged, b merged");
    let log = env.git(&["log", "--format=%s", "main"]);
    assert!(!log.contains("Foreign"), "{log}");
    env.loom(&["undo", "--list"]).ok().has("Foreign");
}

#[test]
fn a_stage_commit_that_somebody_merged_into_the_base_branch_is_asked_about() {
    let env = Env::of(&[stage("a").check("test -e @OUT@/never").with("max_retries: 0"), stage("b").with("hold: true")]);
    env.run().ends(4);
    env.git(&["merge", "-q", "--ff-only", "loom/a"]);
    env.loom(&["stage", "release", "b"]).ok();
    let _ = env.run();
    let status = env.status();
    assert!(status["gates"][0]["question"].as_str().unwrap_or("").contains("base branch moved"), "{status}");
    assert_ne!(env.stage("b")["state"], "merged");
    env.loom(&["stage", "approve", "g1"]).ok();
    env.loom(&["stage", "skip", "a", "--reason", "merged by hand"]).ok();
    env.finish();
    assert_eq!((env.read("a.txt"), env.read("b.txt")), ("a\n".to_owned(), "b\n".to_owned()));
}

#[test]
fn a_changed_git_configuration_stops_loom_until_it_is_approved() {
    for change in ["config", "hook"] {
        let env = Env::of(&[stage("a"), stage("b").after(&["a"]).with("hold: true")]);
        env.run().ends(5);
        if change == "config" {
            env.git(&["config", "core.fsmonitor", "/bin/false"]);
        } else {
            env.write(".git/hooks/post-checkout", "#!/bin/sh\ntouch @OUT@/hooked\n");
        }
        env.loom(&["stage", "release", "b"]).ok();
        env.run().ends(5).has("changed since `loom init`");
        assert_eq!(env.state(), "a merged, b ready");
        env.loom(&["stage", "approve", "g1"]).ok();
        env.finish();
        assert_eq!(env.state(), "a merged, b merged");
    }
}

#[test]
fn a_plan_that_is_loaded_in_a_linked_worktree_is_for_the_branch_of_that_worktree() {
    let env = Env::new();
    env.add_plan(&plan(&[stage("a")]));
    let side = env.repo.with_file_name("side");
    env.git(&["worktree", "add", "-q", "-b", "side", side.to_str().unwrap()]);
    let base = env.git(&["rev-parse", "main"]);
    let mut init = env.command("loom");
    env.out_of(init.current_dir(&side).args(["init", "doc/plans/plan.md"])).ok().has("on `side`");
    env.finish();
    assert_eq!(env.git(&["rev-parse", "main"]), base);
    assert_eq!(env.git(&["rev-parse", "side"]), env.git(&["rev-parse", "loom/_plan/plan"]));
    assert_eq!(fs::read_to_string(side.join("a.txt")).unwrap(), "a\n");
    env.loom(&["plan", "verify", "doc"]).ends(1).has("is a folder: name the plan file");
}
