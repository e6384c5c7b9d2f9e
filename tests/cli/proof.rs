//! What is proven is what lands, wherever and however the work was made.

use std::fs;

use crate::env::{Env, commit, kill, plan, plan_with, stage, stop};

#[test]
fn a_daemon_that_is_killed_in_the_middle_of_a_proof_proves_again_and_lands_once() {
    let env = Env::new();
    env.fifo("go");
    env.load(&plan(&[stage("a")
        .first("echo a >> @OUT@/runs")
        .check("test -e a.txt || exit 1; echo x >> @OUT@/proofs; read go < @OUT@/go; sleep 0")]));
    env.loom(&["run"]).ok();
    env.until_said("proofs", "x");
    kill(env.daemon_pid());
    env.until_said("proofs", "x\nx");
    env.until("only one check runs", || env.pids("read go <").len() <= 1);
    env.go("go");
    env.settle();
    assert_eq!((env.state(), env.said("runs")), ("a merged".to_owned(), "a\n".to_owned()));
    assert_eq!(env.git(&["log", "--first-parent", "--format=%s", "main"]), "The stage a\nPlan\nStart");
}

#[test]
fn a_stop_in_the_middle_of_a_proof_ends_the_check() {
    let env = Env::new();
    env.load(&plan(&[stage("a").check("test -e @OUT@/quick || { echo x >> @OUT@/proofs; sleep 4246; }")]));
    env.loom(&["run"]).ok();
    env.until_said("proofs", "x");
    env.loom(&["stop"]).ok();
    env.until("the check is gone", || env.pids("sleep 4246").is_empty());
    assert_eq!(env.state(), "a verifying");
    fs::write(env.out.join("quick"), "").unwrap();
    env.finish();
    assert_eq!(env.stage("a")["attempt"], 1);
}

#[test]
fn a_check_leaves_no_process_and_no_file_behind() {
    let env = Env::of(&[
        stage("a").check("echo x > left.txt; (setsid sleep 4247 >/dev/null 2>&1 &); test -s a.txt"),
        stage("b").after(&["a"]).check("test ! -e left.txt"),
    ]);
    env.finish();
    assert_eq!(env.pids("sleep 4247"), [0_u32; 0]);
    assert!(!env.repo.join("left.txt").exists());
}

#[test]
fn a_check_that_hangs_fails_at_its_deadline() {
    let env = Env::new();
    env.load(&plan(&[stage("a").with("truths: [{command: \"sleep 4248\", timeout: 1}]").with("max_retries: 0")]));
    env.run().ends(4);
    let view = env.loom(&["status", "a"]).ok();
    assert!(view.stdout.contains("it did not end within 1 s"), "{view}");
    assert_eq!(env.pids("sleep 4248"), [0_u32; 0]);
}

#[test]
fn a_check_that_prints_too_much_fails_to_its_last_byte() {
    // The last byte is one more than the 32 MiB that are looked at.
    let env = Env::of(&[stage("a").check("head -c 33554433 /dev/zero").with("max_retries: 0")]);
    env.run().ends(4);
    let view = env.loom(&["status", "a"]).ok();
    assert!(view.stdout.contains("it printed more than 32 MiB"), "{view}");
    let env = Env::of(&[stage("a").check("head -c 33554432 /dev/zero")]);
    env.finish();
}

#[test]
fn checks_whose_runner_is_stopped_or_killed_are_ended_and_the_next_stage_lands() {
    for (how, why) in [(stop as fn(u32), "what runs the checks was stopped by a signal"), (kill, "was ended")] {
        let env = Env::new();
        env.fifo("go");
        env.load(&plan(&[
            stage("a").check("test -e a.txt || exit 1; echo $PPID > @OUT@/runner; setsid sleep 4303 & sleep 4303"),
            stage("b").run(format!("read go < @OUT@/go; {}", commit("b", "b"))).check("test -s b.txt"),
        ]));
        env.loom(&["run"]).ok();
        env.until("both of the check sleep", || env.pids("sleep 4303").len() >= 2);
        how(env.said("runner").trim().parse().unwrap());
        env.until_state("a", "blocked");
        assert_eq!(env.stage("a")["reason"]["code"], "proof-failed");
        env.loom(&["status", "a"]).ok().has(why).has("loom merge a");
        assert_eq!(env.pids("sleep 4303"), [0_u32; 0]);
        env.go("go");
        env.settle();
        assert_eq!(env.stage("b")["state"], "merged");
    }
}

#[test]
fn a_session_that_hangs_ends_at_its_deadline_and_is_retried() {
    let env = Env::new();
    let script = format!("if [ $LOOM_ATTEMPT = 1 ]; then sleep 4249; fi; {}", commit("a", "a"));
    env.load(&plan(&[stage("a").run(script).with("timeout: 1")]));
    env.finish();
    assert_eq!(env.stage("a")["attempt"], 2);
    assert_eq!(env.pids("sleep 4249"), [0_u32; 0]);
}

#[test]
fn an_ignored_file_of_the_worktree_proves_nothing() {
    let env = Env::of(&[stage("a").first("echo x > ignored.txt").check("test -e ignored.txt").with("max_retries: 0")]);
    env.run().ends(4);
    assert_eq!(env.stage("a")["reason"]["code"], "checks-failed");
}

#[test]
fn a_conflict_that_was_mended_by_hand_lands_with_loom_merge() {
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
    let tree = env.repo.join(".worktrees/b");
    let out = env.out_of(env.command("git").current_dir(&tree).args(["merge", "-q", "loom/_plan/plan"]));
    assert_ne!(out.code, 0);
    fs::write(tree.join("same.txt"), "from both\n").unwrap();
    env.loom(&["merge", "b"]).ends(4).has("uncommitted work in `same.txt`");
    env.git_in(&tree, &["commit", "-q", "-a", "-m", "Mend"]);
    env.loom(&["merge", "b"]).ok();
    env.finish();
    assert_eq!(env.state(), "a merged, b merged");
    assert_eq!(env.read("same.txt"), "from both\n");
}

#[test]
fn a_base_branch_that_is_not_checked_out_follows_without_a_checkout() {
    let env = Env::of(&[stage("a")]);
    env.git(&["switch", "-q", "-c", "elsewhere"]);
    env.write("README.md", "# Mine\n");
    env.finish();
    assert_eq!(env.git(&["show", "main:a.txt"]), "a");
    assert_eq!((env.read("a.txt"), env.read("README.md")), (String::new(), "# Mine\n".to_owned()));
}

#[test]
fn a_plan_branch_that_somebody_has_checked_out_moves_with_its_checkout() {
    let env = Env::of(&[stage("a"), stage("b").after(&["a"]).with("hold: true")]);
    env.run().ends(5);
    let dir = env.path().join("look");
    env.git(&["worktree", "add", "-q", &dir.display().to_string(), "loom/_plan/plan"]);
    env.loom(&["stage", "release", "b"]).ok();
    env.finish();
    assert_eq!(fs::read_to_string(dir.join("b.txt")).unwrap(), "b\n");
    assert_eq!(env.git_in(&dir, &["status", "--porcelain"]), "");
}

#[test]
fn a_merge_in_progress_or_a_locked_index_is_not_followed_over() {
    for case in ["merge", "lock"] {
        let env = Env::of(&[stage("a")]);
        let base = env.git(&["rev-parse", "main"]);
        let mark = env.repo.join(if case == "merge" { ".git/MERGE_HEAD" } else { ".git/index.lock" });
        fs::write(&mark, format!("{base}\n")).unwrap();
        env.run().ends(5).has("did not follow").has("loom merge");
        assert_eq!(env.git(&["rev-parse", "main"]), base, "{case}");
        assert!(mark.exists());
        fs::remove_file(&mark).unwrap();
        env.loom(&["merge"]).ok();
        assert_eq!(env.read("a.txt"), "a\n", "{case}");
        assert_eq!(env.git(&["status", "--porcelain"]), "", "{case}");
    }
}

#[test]
fn modes_links_renames_and_odd_names_land_as_they_are() {
    let script = "set -e\nmkdir -p 'a dir'; echo x > 'a dir/ü \"q\".txt'; chmod +x 'a dir/ü \"q\".txt'\nln -s README.md link\ngit mv README.md READ.md\nprintf 'a\\r\\n' > crlf.txt\ngit add -A; git commit -q -m 'Odd\n\nwith a body'";
    let env = Env::of(&[stage("a").run(script).check("test -x 'a dir/ü \"q\".txt' -a -L link -a ! -e README.md")]);
    env.finish();
    assert_eq!(env.git(&["status", "--porcelain"]), "");
    assert!(env.repo.join("link").is_symlink() && env.repo.join("READ.md").exists());
    assert_eq!(env.read("crlf.txt"), "a\r\n");
}

#[test]
fn a_project_in_a_folder_with_an_odd_name_works_from_everywhere_in_it() {
    let mut env = Env::without_repository();
    env.repo = env.path().join("my ünique 'repo'");
    fs::create_dir(&env.repo).unwrap();
    env.git(&["init", "-q"]);
    env.write("sub/README.md", "x\n");
    env.git(&["add", "-A"]);
    env.git(&["commit", "-q", "-m", "Start"]);
    env.load(&plan(&[stage("a").with("working_dir: sub")]));
    let mut below = env.command(env!("CARGO_BIN_EXE_loom"));
    below.current_dir(env.repo.join("doc/plans")).args(["run", "--watch"]);
    env.out_of(&mut below).ok();
    assert_eq!(env.read("sub/a.txt"), "a\n");
    let mut elsewhere = env.command(env!("CARGO_BIN_EXE_loom"));
    elsewhere.current_dir("/").arg("-C").arg(env.repo.join("sub")).arg("status");
    env.out_of(&mut elsewhere).ok().has("ended: the plan is complete");
}

#[test]
fn eight_independent_stages_all_land() {
    let stages: Vec<_> = (0..8).map(|n| stage(&format!("s{n}"))).collect();
    let env = Env::of(&stages);
    env.finish();
    for n in 0..8 {
        assert_eq!(env.read(&format!("s{n}.txt")), format!("s{n}\n"));
    }
    assert_eq!(env.git(&["log", "--first-parent", "--format=%s", "main"]).lines().count(), 10);
}

#[test]
fn a_second_plan_may_use_the_same_stage_names() {
    let env = Env::of(&[stage("a")]);
    env.finish();
    env.write(
        "doc/plans/next.md",
        &plan(&[stage("a").run(commit("b", "second")).check("grep second b.txt"), stage("c")]),
    );
    env.git(&["add", "-A"]);
    env.git(&["commit", "-q", "-m", "Next"]);
    env.loom(&["init", "doc/plans/next.md"]).ok();
    env.finish();
    assert_eq!((env.read("a.txt"), env.read("b.txt")), ("a\n".to_owned(), "second\n".to_owned()));
    let done = env.git(&["for-each-ref", "--format=%(refname)", "refs/loom/done"]);
    assert_eq!(done, "refs/loom/done/next/a\nrefs/loom/done/next/c\nrefs/loom/done/plan/a");
}

#[test]
fn init_with_clean_puts_the_open_plans_work_aside() {
    let script = format!("{}; echo open > open.txt; exit 1", commit("a", "old"));
    let env = Env::of(&[stage("a").run(script).with("max_retries: 0"), stage("keep")]);
    env.run().ends(4);
    env.write("doc/plans/next.md", &plan(&[stage("z")]));
    env.loom(&["init", "--clean", "doc/plans/next.md"]).ok();
    assert_eq!(env.git(&["branch", "--list", "loom/a", "loom/keep"]), "");
    assert!(!env.repo.join(".worktrees/a").exists());
    env.loom(&["undo", "--list"]).ok().has("a/1").has("Uncommitted work of stage a");
    env.finish();
    assert_eq!(env.state(), "z merged");
    assert_eq!((env.read("z.txt"), env.read("keep.txt")), ("z\n".to_owned(), String::new()));
}

#[test]
fn init_with_clean_starts_the_same_plan_over() {
    let env = Env::of(&[stage("a").first("echo x >> @OUT@/runs"), stage("b").run("exit 1").with("max_retries: 0")]);
    env.run().ends(4);
    env.loom(&["init", "--clean", "doc/plans/plan.md"]).ok();
    assert_eq!(env.state(), "a waiting, b waiting");
    env.run().ends(4);
    assert_eq!(env.said("runs"), "x\nx\n");
    assert_eq!(env.state(), "a merged, b blocked");
}

#[test]
fn a_branch_that_an_agent_left_or_rewrote_is_a_failed_attempt() {
    for (mess, text) in [
        ("git switch -q -c other", "its worktree is on `other` and not on `loom/a`"),
        ("git checkout -q --detach", "a detached HEAD"),
        (
            "git reset -q --hard HEAD~1 && echo y > y.txt && git add y.txt && git commit -q --amend -m Gone",
            "history was rewritten",
        ),
    ] {
        let env = Env::new();
        let script = format!(
            "cp \"$LOOM_SIGNAL\" @OUT@/signal\nif [ $LOOM_ATTEMPT = 1 ]; then {mess}; exit 0; fi\ngit switch -q loom/a; {}",
            commit("a", "a")
        );
        env.load(&plan(&[stage("a").run(script).with("max_retries: 1")]));
        let out = env.run();
        let told = format!("{}{out}", env.said("signal"));
        assert!(told.contains(text), "{mess}: {told}");
    }
}

#[test]
fn hooks_of_the_user_do_not_run_in_looms_own_commands() {
    let env = Env::new();
    for hook in ["post-checkout", "post-merge", "reference-transaction", "post-commit", "pre-commit"] {
        env.write(
            &format!(".git/hooks/{hook}"),
            &format!("#!/bin/sh\necho {hook} $LOOM_STAGE >> {}/hooks\n", env.out.display()),
        );
        let path = env.repo.join(".git/hooks").join(hook);
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    env.add_plan(&plan(&[stage("a")]));
    fs::write(env.out.join("hooks"), "").unwrap();
    env.loom(&["init", "doc/plans/plan.md"]).ok();
    env.finish();
    let ran = env.said("hooks");
    assert!(ran.contains("pre-commit a") && ran.contains("post-commit a"), "the agent's commits run them: {ran}");
    assert!(ran.lines().all(|line| line.ends_with(" a")), "{ran}");
}

#[test]
fn rescued_work_of_every_kind_is_complete() {
    let mess = "echo changed >> README.md; echo staged > staged.txt; git add staged.txt; echo new > new.txt; git rm -q --cached .gitignore; echo 'ignored' > ignored.x; exit 1";
    let env = Env::new();
    env.load(&plan_with(
        "",
        &[stage("a").run(format!("if [ $LOOM_ATTEMPT = 1 ]; then {mess}; fi; {}", commit("a", "a")))],
    ));
    env.finish();
    assert_eq!(env.git(&["show", "refs/loom/rescue/a/1:staged.txt"]), "staged");
    assert_eq!(env.git(&["show", "refs/loom/rescue/a/1:new.txt"]), "new");
    assert!(env.git(&["show", "refs/loom/rescue/a/1:README.md"]).ends_with("changed"));
    assert_eq!(env.read("a.txt"), "a\n");
}

#[test]
fn locks_of_a_git_that_was_killed_do_not_stop_the_next_attempt() {
    let mess = "touch $(git rev-parse --git-dir)/index.lock $(git rev-parse --git-dir)/HEAD.lock $(git rev-parse --git-common-dir)/refs/heads/loom/a.lock; kill -9 $$";
    let env = Env::new();
    env.load(&plan(&[
        stage("a").run(format!("if [ $LOOM_ATTEMPT = 1 ]; then echo x > x.txt; {mess}; fi; {}", commit("a", "a")))
    ]));
    env.finish();
    assert_eq!(env.stage("a")["attempt"], 2);
}

#[test]
fn locks_that_a_killed_daemon_left_in_its_own_places_are_removed() {
    let env = Env::new();
    env.fifo("go");
    env.load(&plan(&[stage("a"), stage("b").after(&["a"]).first("echo x >> @OUT@/runs; read go < @OUT@/go")]));
    env.loom(&["run"]).ok();
    env.until_said("runs", "x");
    env.pids(" keeper").into_iter().for_each(kill);
    kill(env.daemon_pid());
    env.until("the daemon is gone", || !env.is_locked());
    env.write(".git/refs/heads/loom/_plan/plan.lock", "");
    let cache = fs::read_dir(env.path().join("cache/loom")).unwrap().flatten().next().unwrap().path();
    fs::write(cache.join("proof.index.lock"), "").unwrap();
    fs::remove_file(cache.join("repo.git/HEAD")).unwrap();
    env.go("go");
    env.finish();
}

#[test]
fn what_a_check_changes_of_the_tree_is_put_back_before_the_next() {
    let env = Env::of(&[
        stage("mends")
            .check("sed -i s/mends/MENDED/ mends.txt && git diff --quiet; grep -q MENDED mends.txt")
            .with("truths: [\"grep -q mends mends.txt\"]"),
        stage("cheats")
            .check("sed -i s/cheats/RIGHT/ cheats.txt")
            .with("truths: [\"grep -q RIGHT cheats.txt\"]")
            .with("max_retries: 0"),
    ]);
    env.run().ends(4);
    assert_eq!(env.state(), "mends merged, cheats blocked");
    env.loom(&["status", "mends"]).ok().has("changed `mends.txt`: put back");
    env.loom(&["verify", "mends"]).ok().has("changed `mends.txt`: put back");
    env.loom(&["verify", "cheats"]).ends(4);
}

#[test]
fn the_checks_of_the_plan_start_at_the_top_and_those_of_a_stage_in_its_folder() {
    let env = Env::new();
    env.write("sub/here.txt", "x\n");
    env.git(&["add", "-A"]);
    env.git(&["commit", "-q", "-m", "Sub"]);
    let work = stage("a").with("working_dir: sub").check("test -e here.txt && test -s a.txt");
    env.load(&plan_with("acceptance: [\"test -e sub/here.txt && test -e README.md\"]", &[work]));
    env.finish();
    assert_eq!(env.read("sub/a.txt"), "a\n");
    env.loom(&["verify", "a"]).ok();
}

#[test]
fn checks_run_beside_each_other_when_the_plan_says_so_and_see_the_tree_as_it_is() {
    let parallel = |checks: [&str; 2]| {
        let check = |command: &&str| format!("{{command: {}, parallel: true}}", serde_json::json!(command));
        format!("truths: [{}]", checks.iter().map(check).collect::<Vec<_>>().join(", "))
    };
    // Each check ends only when the other one has begun.
    let meet = parallel([
        "test -s meets.txt && echo left && echo go > @OUT@/right && read go < @OUT@/left",
        "test -s meets.txt && echo right && echo go > @OUT@/left && read go < @OUT@/right",
    ]);
    // The second one waits until the first has bent the tree.
    let bend = parallel([
        "test -s bends.txt || exit 1; sed -i s/bends/RIGHT/ bends.txt; echo x > @OUT@/bent",
        "test -s bends.txt || exit 1; until test -e @OUT@/bent; do :; done; grep -q RIGHT bends.txt",
    ]);
    let env = Env::new();
    for fifo in ["left", "right"] {
        env.fifo(fifo);
    }
    env.load(&plan(&[stage("meets").with(&meet), stage("bends").with(&bend).with("max_retries: 0")]));
    env.run().ends(4);
    assert_eq!(env.state(), "meets merged, bends blocked");
    env.loom(&["verify", "bends"]).ends(4).has("changed `bends.txt`: put back");
    let found = env.loom(&["verify", "meets", "--json"]).ok().json();
    let printed = found["checks"].as_array().unwrap().iter().map(|check| check["tail"].as_str().unwrap());
    assert_eq!(printed.collect::<Vec<_>>(), ["", "left\n", "right\n"], "each has its own output: {found}");
}

#[test]
fn the_checks_of_one_stage_cannot_prepare_the_checkout_for_another() {
    let bend = "test -e a.txt || exit 1; printf 'exit 0' > judge.sh; echo evil > $HOME/.npmrc; cd .. && \
                GIT_DIR=$PWD/repo.git GIT_WORK_TREE=$PWD/proof GIT_INDEX_FILE=$PWD/proof.index \
                git update-index --skip-worktree judge.sh; echo bent >> @OUT@/bent";
    let env = Env::new();
    fs::write(env.repo.join("judge.sh"), "exit 1\n").unwrap();
    env.git(&["add", "judge.sh"]);
    env.git(&["commit", "-q", "-m", "Judge"]);
    env.load(&plan(&[
        stage("a").check(bend).with("max_retries: 0"),
        stage("b").after(&["c"]).check("sh judge.sh").with("max_retries: 0"),
        stage("c").check("test ! -e $HOME/.npmrc"),
    ]));
    env.run().ends(4);
    assert!(env.said("bent").starts_with("bent"), "the command has run");
    env.loom(&["status", "a"]).ok().has("wrote to Loom's own repository");
    assert_eq!(env.state(), "a blocked, b blocked, c merged");
}
