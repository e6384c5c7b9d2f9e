//! Tables of what is refused and, as important, of what only looks like it.

use serde_json::json;

use super::*;

const WORKTREE: &str = "/p/.worktrees/api";

fn scene<'a>(cwd: &'a Path, head_has_landed: &'a dyn Fn() -> bool) -> Scene<'a> {
    Scene { worktree: Path::new(WORKTREE), project: Path::new("/p"), cwd, head_has_landed }
}

fn verdict(tool: &str, input: Value) -> Verdict {
    judge(tool, &input, &scene(Path::new(WORKTREE), &|| false))
}

#[test]
fn commands_that_reach_others_are_refused() {
    let lines = [
        "git push",
        "git push origin HEAD:main --force",
        "git -C . push",
        "git --no-pager push",
        "git -c core.pager=cat push",
        "cd sub && git push",
        "make; git push",
        "make || git push",
        "make |& git push",
        "make & git push",
        "true\ngit push",
        "env GIT_TRACE=1 git push",
        "GIT_TRACE=1 git push",
        "sudo -u root git push",
        "nohup git push",
        "timeout -k 5 30 git push",
        "bash -c 'git push'",
        "sh -lc \"make && git push\"",
        "bash <<'E'\ngit push\nE",
        "bash -c \"bash -c 'git push'\"",
        "eval 'git push'",
        "echo $(git push)",
        "echo \"`git push`\"",
        "cat <<E\n$(git push)\nE",
        "if true; then git push; fi",
        "f() { git push; }; f",
        "(git push)",
        "echo main | xargs -n 1 git push origin",
        "/usr/bin/git push",
        "'git' \"push\"",
        "g=1 git pu\\\nsh",
        "git -c alias.x='!git push' x",
        "git worktree add ../other",
        "git worktree remove --force /p/.worktrees/web",
        "git worktree prune",
        "git branch -D loom/web",
        "git branch -fd x",
        "git branch --delete x",
        "git branch loom/_plan/p HEAD",
        "git update-ref refs/heads/main HEAD",
        "git symbolic-ref HEAD refs/heads/main",
        "git checkout main",
        "git checkout loom/_plan/p",
        "git checkout refs/loom/done/p/api",
        "git checkout -b mine",
        "git switch main",
        "git switch -c mine",
        "git config user.name x",
        "git config --global user.name x",
        "git config --unset core.hooksPath",
        "git config set core.bare true",
        "git -C /p config core.bare true",
        "git remote set-url origin x",
        "git stash",
        "git stash pop",
        "git tag -d v1",
        "git gc --prune=now",
        "git reflog expire --all",
        "git -C /p commit -m x",
        "git -C ../web reset --hard",
        "cd /p && git reset --hard",
        "git --git-dir=/p/.git --work-tree=/p checkout .",
        "rm -rf /",
        "rm -rf ~",
        "rm -rf $HOME/x",
        "rm -r -f /p",
        "rm -rf ..",
        "rm -rf ../web",
        "rm -rf .",
        "rm -rf /p/.worktrees",
        "rm -rf .git",
        "rm ../../.work/journal.jsonl",
        "cd .. && rm -rf web",
        "find /p -name x -delete",
        "find .. -name x -exec rm -rf {} \\;",
        "echo x > /p/.work/journal.jsonl",
        "echo x >> ../../.work/config.toml",
        "echo x > $LOOM_PROJECT/.work/x",
        "echo x 2> ../web/y",
        "echo x | tee /p/src/main.rs",
        "cp evil /p/.git/hooks/pre-commit",
        "echo x > .git",
        "touch /p/.git/hooks/x",
        "echo '{}' > .claude/settings.local.json",
        "cp x .claude/settings.json",
        "sed -i s/a/b/ .claude/settings.json",
        "mv .claude/settings.json y",
        "dd if=x of=/p/.work/x",
        "loom stage approve api",
        "loom stage reject api",
        "loom stage skip api --reason x",
        "loom stage reset api",
        "loom stage retry api",
        "env -u LOOM_SESSION loom run",
        "loom stop --kill",
        "loom merge api",
        "/usr/local/bin/loom clean --all",
        "loom sessions kill api.1",
        "loom plan apply x",
        "pkill -f loom",
        "killall claude",
        "git add -f .work",
        "git add --force -A",
        "git add -f .",
        "git -C . add -f -- .worktrees/web",
        "git add -f .claude/settings.local.json",
        "git stage -Af",
        "git checkout-index -a --prefix=/p/",
        "git archive HEAD --output=/p/x.tar",
        "git --work-tree /p reset --hard",
        "GIT_DIR=/p/.git git update-ref refs/heads/main HEAD",
        "GIT_WORK_TREE=/p git checkout .",
        "env GIT_DIR=/p/.git git reset --hard",
        "nice -n 5 git push",
        "ionice -c 3 git push",
        "stdbuf -oL git push",
        "time -p git push",
        "exec git push",
        "command git push",
        "find . -exec git push \\;",
        "xargs -I{} git push origin {} < branches",
        "zsh -c 'git push'",
        "echo 'git push' | sh",
        "printf 'rm -rf /p' | bash -s",
        "cat <<'E' | bash\ngit push\nE",
        "tar -xf x.tar -C /p",
        "unzip x.zip -d /p/.work",
        "curl -o /p/.git/hooks/pre-commit http://x",
        "wget -O /p/.work/config.toml http://x",
        "python3 -c 'print(1)' > /p/src/x",
        "rsync -a --delete ./ /p/",
        "git fetch . HEAD:main",
        "git fetch origin +main:main",
        "git replace HEAD~1 HEAD",
        "git notes add -m x",
        "git bundle create /p/x.bundle HEAD",
    ];
    for line in lines {
        assert!(matches!(verdict("Bash", json!({"command": line})), Verdict::Deny(_)), "allowed: {line}");
    }
}

#[test]
fn ordinary_work_and_innocent_look_alikes_are_allowed() {
    let lines = [
        "",
        "ls -la",
        "cargo test --workspace 2>&1 | tail -50",
        "npm ci && npm test",
        "git status",
        "git add -A && git commit -m 'push the button; rm -rf /'",
        "git commit -am \"git push is not used\"",
        "git commit -m \"$(cat <<'EOF'\nDon't `git push`; rm -rf / (ever)\nEOF\n)\"",
        "git commit --amend --no-edit",
        "git log --oneline | grep 'git push'",
        "grep -rn \"rm -rf\" .",
        "grep -rn 'git push' -- docs || true",
        "echo git push",
        "echo 'git push' > notes.md",
        "echo \"$(git log -1 --format=%s)\"",
        "cat > run.sh <<'E'\ngit push\nrm -rf /\nE",
        "cat <<E > x\nrm -rf /\nE",
        "# git push\nls",
        "printf '%s\\n' 'loom run'",
        "man git-push",
        "git help push",
        "git log loom/_plan/p",
        "git diff main...HEAD",
        "git -C /p log -1",
        "git -C ../web status",
        "git show main:src/lib.rs > old.rs",
        "git merge loom/_plan/p",
        "git rebase main",
        "git fetch origin",
        "git checkout -- src",
        "git checkout HEAD~1 -- src/lib.rs",
        "git checkout main -- src/lib.rs",
        "git checkout src/lib.rs",
        "git restore .",
        "git reset --hard HEAD~1",
        "git clean -fd",
        "git switch loom/api",
        "git branch",
        "git branch --show-current",
        "git branch --list 'loom/*'",
        "git config --get user.name",
        "git config user.name",
        "git config --list",
        "git remote -v",
        "git worktree list",
        "git stash list",
        "git tag",
        "git symbolic-ref HEAD",
        "git -c user.name=x commit -m y",
        "cd /tmp/t && git init && git config user.name x && git push origin main",
        "git -C /tmp/t branch -D x",
        "rm -rf target node_modules/",
        "rm -rf ./build",
        "rm -rf sub/../build",
        "rm -rf /tmp/x",
        "rm -rf $TMPDIR/x",
        "rm -rf \"$scratch\"",
        "rm /tmp/x.log",
        "cd sub && rm -rf ../build",
        "(cd /p && git log) && rm -rf build",
        "find . -name '*.o' -delete",
        "find . -name '*.rs' -exec grep -n x {} +",
        "make > build.log 2>&1",
        "make >/dev/null 2>/dev/null",
        "echo x >&2",
        "cat $LOOM_SIGNAL",
        "cat /p/.work/signals/api.1.md",
        "cp /p/Cargo.toml /tmp/",
        "cp /p/.git/description x",
        "mkdir -p .claude/agents && touch .gitignore",
        "sed -n 1,5p .claude/settings.json",
        "sed -i s/a/b/ src/lib.rs",
        "chmod +x run.sh",
        "loom signal",
        "loom stage complete api",
        "loom stage block api 'no key'",
        "loom stage skip --help",
        "loom status --json",
        "loom memory note 'loom run'",
        "./target/debug/loom run plan.md",
        "bash run.sh",
        "bash -c 'cargo build'",
        "for f in *.rs; do wc -l \"$f\"; done",
        "while read -r l; do echo \"$l\"; done < x",
        "test -f x && echo '>' /p/.work/x",
        "python3 - <<'E'\nprint('git push')\nE",
        "awk '{print $1 > \"/dev/stderr\"}' x",
        "echo $((1 + 2)) ${x:-git push}",
        "kill 123",
        "timeout 60 cargo test",
        "xargs -0 rm -f < list",
        "git add .",
        "git add -f target/keep.bin",
        "git add -A -- src",
        "git commit --amend -m 'rm -rf /'",
        "git archive HEAD | tar -x -C /tmp/x",
        "git fetch origin main",
        "git fetch --all --prune",
        "git notes show",
        "git bundle create /tmp/x.bundle HEAD",
        "tar -xf x.tar",
        "tar -C sub -czf out.tgz .",
        "unzip -l x.zip",
        "curl -fsS -o page.html http://x",
        "wget -q -O - http://x",
        "echo 'ls' | sh",
        "printf 'a\\nb\\n' | bash -c 'cat'",
        "GIT_DIR=.git git status",
        "rsync -a src/ /tmp/copy/",
        "time cargo build",
        "echo 'git push' | tee notes.md",
    ];
    for line in lines {
        assert_eq!(verdict("Bash", json!({"command": line})), Verdict::Allow, "{line}");
    }
}

#[test]
fn files_are_written_inside_the_worktree_only() {
    let allowed = [
        "/p/.worktrees/api/src/lib.rs",
        "src/new.rs",
        "./a/../b",
        ".gitignore",
        ".claude/agents/x.md",
        "/p/.worktrees/api/.github/x.yml",
        "/tmp/scratch.txt",
    ];
    let refused = [
        "/p/src/lib.rs",
        "/p/.worktrees/web/src/lib.rs",
        "/p/.worktrees/api-2/x",
        "../web/x",
        "../../.work/journal.jsonl",
        "/p/.work/signals/api.1.md",
        ".git",
        ".GIT/config",
        "/p/.git/hooks/pre-commit",
        "sub/.git/hooks/x",
        ".claude/settings.json",
        ".claude/settings.local.json",
        "sub/.claude/settings.json",
        "/etc/passwd",
        "/home/u/.claude/settings.json",
        "/p",
    ];
    for tool in ["Write", "Edit", "MultiEdit"] {
        for path in allowed {
            assert_eq!(verdict(tool, json!({"file_path": path})), Verdict::Allow, "{tool} {path}");
        }
        for path in refused {
            assert!(matches!(verdict(tool, json!({"file_path": path})), Verdict::Deny(_)), "{tool} {path}");
        }
    }
    assert_eq!(verdict("NotebookEdit", json!({"notebook_path": "x.ipynb"})), Verdict::Allow);
    assert!(matches!(verdict("NotebookEdit", json!({"notebook_path": "/p/x.ipynb"})), Verdict::Deny(_)));
}

#[test]
fn a_link_does_not_lead_out() {
    let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let (project, worktree) = (dir.path().to_path_buf(), dir.path().join(".worktrees/api"));
    fs_err::create_dir_all(&worktree).unwrap();
    fs_err::create_dir_all(project.join(".work")).unwrap();
    std::os::unix::fs::symlink(project.join(".work"), worktree.join("out")).unwrap();
    let scene = Scene { worktree: &worktree, project: &project, cwd: &worktree, head_has_landed: &|| false };
    let judged = |path: &str| judge("Write", &json!({"file_path": path}), &scene);
    assert!(matches!(judged("out/journal.jsonl"), Verdict::Deny(_)));
    assert_eq!(judged("in/journal.jsonl"), Verdict::Allow);
}

#[test]
fn the_folder_of_the_shell_counts() {
    let sub = Path::new("/p/.worktrees/api/sub");
    let judged = |line: &str| judge("Bash", &json!({"command": line}), &scene(sub, &|| false));
    assert_eq!(judged("rm -rf ../build"), Verdict::Allow);
    assert!(matches!(judged("rm -rf ../../web"), Verdict::Deny(_)));
}

#[test]
fn other_tools_are_left_to_the_client_or_told_apart() {
    assert_eq!(verdict("Read", json!({"file_path": "/p/x"})), Verdict::Allow);
    assert_eq!(verdict("AskUserQuestion", json!({})), Verdict::NoOpinion);
    assert_eq!(verdict("Bash", json!({})), Verdict::NoOpinion);
    assert_eq!(verdict("Write", json!({})), Verdict::NoOpinion);
    assert!(matches!(verdict("EnterWorktree", json!({})), Verdict::Deny(_)));
}

#[test]
fn a_refusal_says_what_to_do_instead() {
    let Verdict::Deny(reason) = verdict("Bash", json!({"command": "loom stage approve api"})) else {
        panic!("allowed")
    };
    assert_eq!(
        reason,
        "`loom stage approve` is for the person who runs the plan. You have `loom signal`, `loom stage complete <stage>`, \
         `loom stage dispute <stage>` for a check that is wrong and, when you cannot go on, `loom stage block <stage>` with the reason."
    );
}

#[test]
fn what_has_landed_is_not_amended() {
    let judged =
        |line: &str, landed: bool| judge("Bash", &json!({"command": line}), &scene(Path::new(WORKTREE), &|| landed));
    for line in ["git commit --amend", "git commit -a --amend -m x", "env A=1 git -C sub commit --amend --no-edit"] {
        assert_eq!(judged(line, false), Verdict::Allow, "{line}");
        assert!(matches!(judged(line, true), Verdict::Deny(why) if why.contains("a new commit")), "{line}");
    }
    for line in ["git commit -m '--amend'", "git log --grep=--amend", "git commit -m x -- --amend"] {
        assert_eq!(judged(line, true), Verdict::Allow, "{line}");
    }
}

#[test]
fn a_decision_takes_less_than_a_millisecond() {
    // The slowest kind of line: long, nested, with many paths that have to be looked up.
    let long = "cd sub && env A=1 bash -c \"rm -rf ./a/$(echo b)/c ../d && cp x y\" | tee -a out/log.txt; ".repeat(20);
    let input = json!({"command": long});
    let mut times: Vec<std::time::Duration> = (0..50)
        .map(|_| {
            let begin = std::time::Instant::now();
            let _ = judge("Bash", &input, &scene(Path::new(WORKTREE), &|| false));
            begin.elapsed()
        })
        .collect();
    times.sort();
    // Twenty ordinary lines in one, in a build without optimisation: a millisecond for each.
    assert!(times[25] < std::time::Duration::from_millis(20), "{:?}", times[25]);
}
