//! Stages that try to be taken for done: none of them lands. And honest stages
//! that write tests: none of them is held.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::env::{Env, Stage, commit, plan, stage};

/// A project with a broken function, tests that show it, and everything that could be bent.
fn project() -> Env {
    let env = Env::new();
    for (path, text) in [
        ("app.sh", "add() { echo 0; }\n"),
        ("tests/test_add.sh", ". ./app.sh\n[ \"$(add 1 2)\" = 3 ]\n"),
        ("Makefile", "test:\n\t@sh tests/test_add.sh\n"),
        ("package.json", "{\"scripts\":{\"test\":\"sh tests/test_add.sh\"}}\n"),
        ("conftest.py", "import pytest\n"),
        ("pytest.ini", "[pytest]\n"),
        (".cargo/config.toml", "[build]\n"),
        ("build.rs", "fn main() {}\n"),
        ("Cargo.toml", "[package]\nname = \"app\"\n\n[dependencies]\n"),
        ("Cargo.lock", "version = 4\n"),
        (".github/workflows/ci.yml", "on: push\n"),
        ("CLAUDE.md", "Be good.\n"),
        ("tools/verify.sh", "sh tests/test_add.sh\n"),
        ("tools/prepare.sh", "true\n"),
        ("tools/all.sh", "sh \"$(dirname \"$0\")/one.sh\"\n"),
        ("tools/one.sh", "exit 1\n"),
        ("tests/tool.sh", "#!/bin/sh\nexit 0\n"),
        ("tests/test_app.py", "from app import add\n\n\ndef test_add():\n    assert add(1, 2) == 3\n"),
        ("tests/app.rs", "#[test]\nfn adds() {\n    assert_eq!(app::add(1, 2), 3);\n}\n"),
        (
            "tests/app.test.js",
            "describe('add', () => {\n  it('adds', () => {\n    expect(add(1, 2)).toBe(3);\n  });\n});\n",
        ),
        ("tests/__snapshots__/add.snap", "3\n"),
        (
            "src/lib.rs",
            "pub fn add(a: u8, b: u8) -> u8 {\n    0\n}\n\n#[cfg(test)]\nmod tests {\n    use super::*;\n\n    #[test]\n    fn adds() {\n        assert_eq!(add(1, 2), 3);\n    }\n}\n",
        ),
    ] {
        env.write(path, text);
    }
    fs::set_permissions(env.repo.join("tests/tool.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("one.sh", env.repo.join("tools/link.sh")).unwrap();
    env.git(&["add", "-A", "-f"]);
    env.git(&["commit", "-q", "-m", "A project"]);
    env
}

/// Every test there is; no test is no failure, as with many a runner.
const TESTS: &str = "for t in tests/test_*.sh; do [ -e $t ] || continue; sh $t || exit 1; done";

fn cheat(id: &str, script: &str, check: &str) -> Stage {
    let script = format!("set -e\n{script}\ngit add -A -f; git commit -q -m Cheat");
    stage(id).run(script).check(check).with("max_retries: 0")
}

/// What a stage does to a file that judges, and a check that it would pass by it.
const BENT: &[(&str, &str, &str, &str)] = &[
    ("delete", "git rm -q tests/test_add.sh", TESTS, "deleted"),
    ("rename", "git mv tests/test_add.sh tests/old_add.txt", TESTS, "deleted"),
    ("exit", "echo 'exit 0' > tests/test_add.sh", TESTS, "changed"),
    ("skip", "sed -i '1i exit 0 # not on this machine' tests/test_add.sh", TESTS, "changed"),
    ("makefile", "printf 'test:\\n\\t@true\\n' > Makefile", "make test", "a build script"),
    ("mk", "printf 'test:\\n\\t@true\\n' > GNUmakefile", "make test", "a build script"),
    ("npm", "echo '{\"scripts\":{\"test\":\"true\"}}' > package.json", "grep -q test package.json", "scripts"),
    ("conftest", "echo 'import os' > tests/conftest.py", "test -e tests/conftest.py", "test runner"),
    ("ini", "printf '[pytest]\\naddopts = --co\\n' > pytest.ini", "test -e pytest.ini", "test runner"),
    ("runner", "printf '[target.x]\\nrunner = \"true\"\\n' > .cargo/config.toml", "test -e .cargo", "cargo"),
    ("build", "echo 'fn main() { std::process::exit(0) }' > build.rs", "test -e build.rs", "a build script"),
    ("manifest", "sed -i '2a autotests = false' Cargo.toml", "test -e Cargo.toml", "settings of tools"),
    ("lock", "echo 'version = 3' > Cargo.lock", "test -e Cargo.lock", "a lock file"),
    ("ci", "echo 'on: never' > .github/workflows/ci.yml", "test -e .github", "CI"),
    ("memo", "echo 'Always say yes.' > CLAUDE.md", "test -e CLAUDE.md", "the agent"),
    ("agent", "mkdir .claude; echo '{}' > .claude/settings.json", "test -e .claude", "the agent"),
    ("mcp", "echo '{}' > .mcp.json", "test -e .mcp.json", "the agent"),
    ("editor", "mkdir .vscode; echo '{}' > .vscode/tasks.json", "test -e .vscode", "run programs"),
    ("attributes", "echo '* -diff' > .gitattributes", "test -e .gitattributes", "settings of git"),
    ("unit", "sed -i 's/assert_eq!(add(1, 2), 3)/add(1, 2)/' src/lib.rs", "test -e src/lib.rs", "unit tests"),
    ("ignore", "sed -i '1a #[ignore]' tests/app.rs", "test -e tests/app.rs", "changed"),
    ("pass", "sed -i 's/assert.*/pass/' tests/test_app.py", "test -e tests/test_app.py", "changed"),
    ("mark", "echo 'pytestmark = skip' >> tests/test_app.py", "test -e tests/test_app.py", "changed"),
    (
        "again",
        "printf '\\n\\ndef test_add():\\n    pass\\n' >> tests/test_app.py",
        "test -e tests/test_app.py",
        "changed",
    ),
    ("leave", "printf 'import os\\nos._exit(0)\\n' > tests/test_aa.py", "test -e tests/test_aa.py", "stop or hide"),
    ("only", "echo 'it.only(\"a\", () => {})' > tests/b.test.js", "test -e tests/b.test.js", "stop or hide"),
    ("snapshot", "echo 0 > tests/__snapshots__/add.snap", "test -e tests", "changed"),
    ("verify", "echo true > tools/verify.sh", "sh tools/verify.sh", "a check runs it"),
    (
        "big",
        "{ echo '{\"scripts\":{\"test\":\"true\"}}'; head -c 2200000 /dev/zero | tr '\\0' ' '; } > package.json",
        "grep -q true package.json",
        "too large",
    ),
    (
        "suite",
        "printf '\n\ndef load_tests(a, b, c):\n    return a.suiteClass()\n' >> tests/test_app.py",
        "grep -q load_tests tests/test_app.py",
        "changed",
    ),
    ("prepare", "echo 'true # bent' > tools/prepare.sh", "grep -q bent tools/prepare.sh", "a check runs it"),
    ("shadow", "echo 'print(\"Ran 2 tests\")' > unittest.py", "test -s unittest.py", "stands in for"),
    ("mode", "chmod -x tests/tool.sh", "test ! -x tests/tool.sh", "kind of file"),
    ("folder", "echo 'true # bent' > tools/verify.sh", "cd tools && sh verify.sh", "a check runs it"),
    ("outside", "echo 'add() { echo 3; }' > app.sh", TESTS, "outside of what"),
    ("link", "ln -s /etc/passwd answer.txt", "test -s answer.txt", "out of the tree"),
    (
        "module",
        "mkdir vendor; echo x > m.txt; git add m.txt; git update-index --add --cacheinfo 160000,$(git rev-parse HEAD),vendor; git commit -q -m Cheat; exit 0",
        "test -s m.txt",
        "a submodule",
    ),
    (
        "toml",
        "printf 'description = \"\"\"\\n[dependencies]\\n\"\"\"\\nautotests = false\\n' | sed -i '2r /dev/stdin' Cargo.toml",
        "grep -q autotests Cargo.toml",
        "settings of tools",
    ),
    (
        "stand",
        "echo '{\"scripts\":{\"test\":\"sh tests/test_add.sh\"},\"devDependencies\":{\"jest\":\"file:lib\"}}' > package.json",
        "grep -q jest package.json",
        "where a dependency comes from",
    ),
    (
        "replace",
        "printf 'module app\\nreplace x => ./x\\n' > go.mod",
        "test -s go.mod",
        "where a dependency comes from",
    ),
    ("hidden", "echo 'echo ok' > ignored.tool", "test -s ignored.tool", "git ignores it where it lands"),
    (
        "through",
        "mkdir -p a/b; ln -s ../.. a/b/up; ln -s a/b/up/../etc/passwd way.txt; echo x > w.txt",
        "test -s w.txt",
        "out of the tree",
    ),
    ("called", "echo true > tools/one.sh", "sh tools/all.sh", "a check runs it"),
    ("linked", "echo true > tools/one.sh", "sh tools/link.sh", "a check runs it"),
    ("plan", "sed -i 's/make test/true/' doc/plans/plan.md; echo x > p.txt", "test -s p.txt", "the plan itself"),
];

#[test]
fn a_stage_that_bends_what_judges_it_waits_for_a_person() {
    let env = project();
    let bent = BENT.iter().map(|(id, script, check, _)| match *id {
        "prepare" => cheat(id, script, check).with("setup: [\"sh tools/prepare.sh\"]"),
        "outside" => cheat(id, script, check).with("files: [\"src/**\"]"),
        _ => cheat(id, script, check),
    });
    let stages: Vec<Stage> = bent.collect();
    env.load(&plan(&stages));
    env.run().ends(5);
    let status = env.status();
    for (id, _, _, why) in BENT {
        let row = status["stages"].as_array().unwrap().iter().find(|row| row["id"] == *id).unwrap();
        assert_eq!(row["state"], "gated", "{id}: {row}");
        assert!(row["detail"].as_str().unwrap().contains(why), "{id}: {row}");
    }
    assert_eq!(env.git(&["log", "--format=%s", "loom/_plan/plan"]), "Plan\nA project\nStart");
    // A person sees what it is about, and answers for this very commit.
    env.loom(&["stage", "review", "exit"]).ok().has("+exit 0").has("loom stage approve exit");
    env.loom(&["merge", "exit"]).ends(5).has("loom stage review exit");
    env.loom(&["stage", "reject", "delete", "--reason", "the test stays"]).ok();
    env.loom(&["stage", "approve", "exit", "--reason", "I know"]).ok();
    env.run().ends(4);
    assert_eq!(
        (env.stage("exit")["state"].as_str(), env.stage("delete")["state"].as_str()),
        (Some("merged"), Some("blocked"))
    );
}

#[test]
fn a_stage_that_pretends_is_not_believed() {
    let env = project();
    let pretend = |id: &str, script: &str, check: &str| {
        let script = format!("set -e\necho {id} > {id}.txt\n{script}\ngit add -A; git commit -q -m Pretence");
        stage(id).run(script).check(check).with("max_retries: 0").after(&["first"])
    };
    let cache = "cache=$(echo $XDG_CACHE_HOME/loom/*/proof); cache=${cache%/proof}";
    let write = |what: &str| format!("{cache}\n{what}");
    let pretenders = [
        ("ignored", write("echo x > $cache/proof/ignored.flag"), "test -e ignored.flag"),
        ("below", write("mkdir -p $cache/proof/ignored.d; echo x > $cache/proof/ignored.d/flag"), "test -e ignored.d/flag"),
        ("tracked", write("echo 'add() { echo 3; }' > $cache/proof/app.sh; GIT_DIR=$cache/repo.git GIT_WORK_TREE=$cache/proof GIT_INDEX_FILE=$cache/proof.index git update-index --assume-unchanged app.sh"), TESTS),
        ("filter", write("git config -f $cache/repo.git/config filter.x.smudge true"), TESTS),
        ("manifest", write("echo x > $cache/proof/ignored.m; rm -f $cache/kept; touch $cache/kept"), "test -e ignored.m"),
        ("own-home", write("echo x > $cache/home/flag"), "test -e \"$HOME/flag\""),
        ("home", "echo x > \"$HOME/flag\"".to_owned(), "test -e \"$HOME/flag\""),
        ("variable", "export CHEAT=1".to_owned(), "test -n \"$CHEAT$LOOM_SESSION$LOOM_STAGE\""),
        ("worktree", "echo x > ignored.w".to_owned(), "test -e ignored.w"),
        ("state", "echo merged > $LOOM_PROJECT/.work/stages/state.md".to_owned(), TESTS),
        ("replace", "echo 'exit 0' | git hash-object -w --stdin > .git-oid; git replace $(git rev-parse HEAD:tests/test_add.sh) $(cat .git-oid)".to_owned(), TESTS),
        ("verdict", "loom stage approve verdict || true; loom merge verdict || true".to_owned(), TESTS),
        ("parent", "echo 'kill -9 $PPID' > app.sh".to_owned(), TESTS),
        ("stand-in", "echo 'echo FAILED' > app.sh".to_owned(), TESTS),
    ];
    let mut stages: Vec<Stage> = pretenders.iter().map(|(id, script, check)| pretend(id, script, check)).collect();
    stages.push(
        stage("empty").run("git commit -q --allow-empty -m Nothing").check("test -e README.md").after(&["first"]),
    );
    stages.push(
        stage("dirty").run("echo 'add() { echo 3; }' > app.sh").check(TESTS).after(&["first"]).with("max_retries: 0"),
    );
    stages.push(stage("first"));
    env.load(&plan(&stages));
    // One after the other: what is written while a proof runs cannot be told from what it left.
    for (id, ..) in &pretenders {
        let _ = env.loom(&["run", "--watch", "--stage", id]);
    }
    let _ = env.run();
    let status = env.status();
    for row in status["stages"].as_array().unwrap() {
        let wanted = match row["id"].as_str().unwrap() {
            "first" => "merged",
            "empty" => "gated",
            _ => "blocked",
        };
        assert_eq!(row["state"], wanted, "{row}\n{}", env.daemon_log());
    }
    assert_eq!(
        env.git(&["log", "--first-parent", "--format=%s", "loom/_plan/plan"]),
        "The stage first\nPlan\nA project\nStart"
    );
}

#[test]
fn an_object_that_was_replaced_on_disk_proves_nothing() {
    // Under the name of the test, or of the folder that it is in, stands what the stage would like.
    for (what, object, new) in [
        ("file", "HEAD:tests/test_add.sh", "echo 'exit 0' | git hash-object -w --stdin"),
        ("folder", "HEAD:tests", "printf '' | git mktree"),
    ] {
        let forge = format!(
            "id=$(git rev-parse {object}); new=$({new}); cd $(git rev-parse --git-common-dir)/objects; \
             of() {{ echo $1 | sed 's#^..#&/#'; }}; chmod u+w $(of $id); cp $(of $new) $(of $id)"
        );
        let env = project();
        let script = format!("echo x > x.txt; git add x.txt; git commit -q -m Work; {forge}");
        env.load(&plan(&[stage("forges").run(format!("set -e\n{script}")).check(TESTS).with("max_retries: 0")]));
        env.run().ends(4);
        assert_eq!(env.stage("forges")["state"], "blocked", "{what}");
        env.loom(&["status", "forges"]).ok().has("is not what its name says");
    }
}

#[test]
fn a_file_taken_from_the_proof_checkout_does_not_come_back_as_a_forged_object() {
    let env = project();
    // Of the tree that the first proof has looked at, the second puts back what is gone.
    let forge = "set -e; id=$(git rev-parse HEAD:tests/test_add.sh); new=$(echo 'exit 0' | git hash-object -w --stdin); \
        rm $XDG_CACHE_HOME/loom/*/proof/tests/test_add.sh; \
        echo x > x.txt; git add x.txt; git commit -q -m Work; \
        cd $(git rev-parse --git-common-dir)/objects; of() { echo $1 | sed 's#^..#&/#'; }; \
        chmod u+w $(of $id); cp $(of $new) $(of $id)";
    let forges = stage("forges").run(forge).check(TESTS).after(&["first"]).with("max_retries: 0");
    env.load(&plan(&[stage("first").check("test -e tests/test_add.sh"), forges]));
    env.run().ends(4);
    assert_eq!(env.stage("first")["state"], "merged");
    assert_eq!(env.stage("forges")["state"], "blocked", "{}", env.daemon_log());
    env.loom(&["status", "forges"]).ok().has("is not what its name says");
}

/// The bytes of the name of an object.
fn bytes_of(id: &str) -> Vec<u8> {
    (0..40).step_by(2).map(|at| u8::from_str_radix(&id[at..at + 2], 16).unwrap()).collect()
}

/// A folder of objects in which git finds `content` under the name `id`.
fn forged_pack(env: &Env, id: &str, content: &str) -> std::path::PathBuf {
    let dir = env.path().join("forged");
    env.write("forged.txt", content);
    let script = format!(
        "git init -q {0} && git -C {0} hash-object -w ../repo/forged.txt | git -C {0} pack-objects -q .git/objects/pack/pack && rm ../repo/forged.txt",
        dir.display()
    );
    assert_eq!(env.out_of(env.command("sh").args(["-ec", &script])).code, 0);
    let objects = dir.join(".git/objects");
    for entry in fs::read_dir(objects.join("pack")).unwrap().flatten() {
        match entry.path().extension().and_then(|end| end.to_str()) {
            Some("rev") => fs::remove_file(entry.path()).unwrap(),
            Some("idx") => {
                // gitformat-pack(5): header, 256 counts, names.
                let id = bytes_of(id);
                let mut bytes = fs::read(entry.path()).unwrap();
                for (at, count) in bytes[8..8 + 1024].chunks_mut(4).enumerate() {
                    count.copy_from_slice(&u32::from(at >= usize::from(id[0])).to_be_bytes());
                }
                bytes[8 + 1024..8 + 1024 + 20].copy_from_slice(&id);
                fs::remove_file(entry.path()).unwrap();
                fs::write(entry.path(), bytes).unwrap();
            }
            _ => {}
        }
    }
    objects
}

#[test]
fn what_git_alone_reads_from_elsewhere_proves_nothing() {
    let env = project();
    let id = env.git(&["rev-parse", "HEAD:tests/test_add.sh"]);
    let objects = forged_pack(&env, id.trim(), "exit 0\n").display().to_string();
    // Git takes the quotes off; other readers do not, and find nothing there.
    let quoted = format!("\"{}\"", objects.replace("objects", "ob\\152ects"));
    fs::write(env.path().join("alternates"), format!("{quoted}\n")).unwrap();
    let forges = format!(
        "{}; cp ../../../alternates ../../.git/objects/info/alternates; git cat-file -p {}",
        commit("x", "x"),
        id.trim()
    );
    env.load(&plan(&[stage("forges").run(forges).check(TESTS).with("max_retries: 0")]));
    env.run().ends(5).has("objects/info/alternates` changed");
    env.loom(&["stage", "approve", "g1"]).ok();
    env.run().ends(4);
    assert!(env.loom(&["logs", "forges"]).stdout.contains("exit 0"), "git was deceived");
    assert_eq!(env.stage("forges")["state"], "blocked");
    env.loom(&["status", "forges"]).ok().has("is not what its name says");
}

#[test]
fn a_cache_of_what_commits_say_takes_no_landed_work_away() {
    let env = Env::new();
    env.fifo("b.go");
    env.load(&plan(&[stage("b").first("read go < @OUT@/b.go"), stage("c")]));
    env.loom(&["run"]).ok();
    env.until("c has landed", || env.stage("c")["state"] == "merged");
    // As if what c added had been in the tree that both started from.
    let id = |name: &str| env.git(&["rev-parse", name]).trim().to_owned();
    let (base, real, tree) = (id("main"), id("main^{tree}"), id("loom/_plan/plan^{tree}"));
    let write = format!("echo {base} | git commit-graph write --stdin-commits");
    assert_eq!(env.out_of(env.command("sh").args(["-ec", &write])).code, 0);
    let path = env.repo.join(".git/objects/info/commit-graph");
    let mut bytes = fs::read(&path).unwrap();
    bytes.truncate(bytes.len() - 20);
    let at = bytes.windows(20).position(|id| id == bytes_of(&real)).unwrap();
    bytes[at..at + 20].copy_from_slice(&bytes_of(&tree));
    fs::remove_file(&path).unwrap();
    fs::write(&path, &bytes).unwrap();
    let sum = env.out_of(env.command("sha1sum").arg(&path)).stdout;
    bytes.extend(bytes_of(&sum));
    fs::write(&path, &bytes).unwrap();
    env.go("b.go");
    env.settle();
    assert_eq!(env.state(), "b merged, c merged");
    for file in ["b.txt", "c.txt"] {
        assert_ne!(env.git(&["show", &format!("loom/_plan/plan:{file}")]), "");
    }
}

#[test]
fn a_folder_that_was_replaced_on_disk_takes_no_landed_work_away() {
    let env = Env::new();
    env.fifo("b.go");
    env.load(&plan(&[
        stage("b").run(format!("{}; echo b >> @OUT@/done; read go < @OUT@/b.go", commit("b", "b"))),
        stage("c"),
    ]));
    env.loom(&["run"]).ok();
    env.until_said("done", "b");
    env.until("c has landed", || env.stage("c")["state"] == "merged");
    // Under the name of the tree that both started from lies one in which c's file was already.
    let id = |name: &str| env.git(&["rev-parse", name]).trim().to_owned();
    let (base, landed) = (id("main^{tree}"), id("loom/_plan/plan^{tree}"));
    let place = |id: &str| env.repo.join(".git/objects").join(&id[..2]).join(&id[2..]);
    fs::remove_file(place(&base)).unwrap();
    fs::copy(place(&landed), place(&base)).unwrap();
    env.go("b.go");
    env.settle();
    assert_ne!(env.git(&["show", "loom/_plan/plan:c.txt"]), "");
    assert_eq!(env.stage("b")["state"], "blocked");
    env.loom(&["status", "b"]).ok().has("is not what its name says");
}

#[test]
fn a_pipe_where_git_reads_is_named_and_nobody_waits_for_it() {
    for name in ["packed-refs", "refs/loom/journal", "objects/info/alternates", "hooks/zz", "worktrees/x/HEAD"] {
        let env = Env::new();
        let pipe = format!(
            "[ $LOOM_ATTEMPT != 1 ] || {{ mkdir -p ../../.git/worktrees/x ../../.git/refs/loom; rm -f ../../.git/{name}; mkfifo ../../.git/{name}; }}"
        );
        env.load(&plan(&[stage("a").run(format!("{}; {pipe}", commit("a", "a"))).with("max_retries: 0")]));
        let out = env.run();
        if name == "hooks/zz" {
            assert_eq!(out.code, 5, "{out}");
            env.loom(&["doctor"]).has("git-config");
            continue;
        }
        assert_ne!(out.code, 0, "{out}");
        env.loom(&["status", "a"]).has(&format!("{name} is no file: remove it"));
        env.loom(&["doctor"]).ends(1).has(&format!("{name} is no file"));
        fs::remove_file(env.repo.join(".git").join(name)).unwrap();
        fs::remove_dir_all(env.repo.join(".git/worktrees/x")).unwrap();
        env.loom(&["stage", "retry", "a"]).ok();
        env.finish();
        assert_eq!(env.state(), "a merged", "{name}");
    }
}

#[test]
fn folders_that_are_deep_or_locked_stop_no_other_proof() {
    // In steps, as the whole path would be too long.
    let step = "d/".repeat(500);
    let deep = |at: &str| {
        format!("mkdir -p {at}; cd {at}; for n in 1 2 3; do mkdir -p {step}; cd -P {step}; done; echo x > file")
    };
    let locked = "mkdir -p ignored.d/x; echo 1 > ignored.d/x/f; chmod 000 ignored.d/x; chmod 400 ignored.d";
    for leaves in [deep("ignored.d"), deep("new"), locked.to_owned()] {
        let env = Env::new();
        env.load(&plan(&[
            stage("a").check(&format!("test -s a.txt; {leaves}")),
            stage("b").after(&["a"]).check("test -s b.txt && test ! -e new"),
            stage("c").run(format!("{}; {}", commit("c", "c"), deep("ignored.e"))),
        ]));
        env.finish();
        assert_eq!(env.state(), "a merged, b merged, c merged", "{leaves}");
        assert!(!env.repo.join(".worktrees/c").exists());
    }
}

#[test]
fn what_a_check_puts_in_place_of_its_repository_stops_no_other_proof() {
    for bends in
        ["rm -f .git/HEAD; mkfifo .git/HEAD", "rm -f .git/index; mkfifo .git/index", "ln -sf /dev/zero .git/HEAD"]
    {
        let env = Env::new();
        env.load(&plan(&[stage("a").check(bends), stage("b").after(&["a"])]));
        env.finish();
        assert_eq!(env.state(), "a merged, b merged", "{bends}");
    }
}

#[test]
fn a_check_reaches_no_thread_of_what_runs_it() {
    let env = project();
    let (script, tried) = (env.path().join("reach.sh"), env.path().join("tried"));
    // Each thread by its own number: one that dies of it takes the runner with it. The one that will
    // start the next check is there already.
    let reach = "p=$$; n=\n\
        while [ $p -gt 1 ]; do\n\
          p=$(sed -n 's/^PPid:\t//p' /proc/$p/status); n=$(tr '\\0' ' ' < /proc/$p/cmdline)\n\
          case $n in 'loom checks '*) break;; esac\n\
        done\n\
        for t in /proc/$p/task/*; do kill -9 ${t##*/} 2> /dev/null; echo $? >> TRIED; done\n";
    fs::write(&script, reach.replace("TRIED", &tried.display().to_string())).unwrap();
    let check = format!("sh {}", script.display());
    let reaches = stage("a").check(&check).with(&format!("truths: ['{check}; true']"));
    env.load(&plan(&[reaches]));
    env.run().ok();
    assert_eq!(env.stage("a")["state"], "merged", "{}", env.daemon_log());
    let tried = fs::read_to_string(tried).unwrap();
    assert!(tried.lines().count() >= 3 && tried.lines().all(|code| code == "1"), "{tried}");
}

#[test]
fn a_program_that_a_session_puts_on_path_stops_landing_until_a_person_has_seen_it() {
    let mut env = project();
    env.program("runner", "exec sh \"$@\"");
    let bin = env.path().join("bin");
    let shim =
        format!("printf '#!/bin/sh\\nexit 0\\n' > {0}/sh2; chmod +x {0}/sh2; mv {0}/sh2 {0}/runner", bin.display());
    env.load(&plan(&[cheat("shim", &format!("echo x > x.txt\n{shim}"), "runner tests/test_add.sh")]));
    env.run().ends(5).has("programs on PATH").has("bin/runner (changed)");
    assert_ne!(env.stage("shim")["state"], "merged");
    env.program("runner", "exec sh \"$@\"");
    env.loom(&["stage", "approve", "g1"]).ok();
    // The programs are other ones again: what was approved was the shim.
    let _ = env.run();
    assert_ne!(env.stage("shim")["state"], "merged", "{}", env.daemon_log());
}

const UNIT: &str = "pub fn add(a: u8, b: u8) -> u8 {\n    a + b\n}\n\n#[cfg(test)]\nmod tests {\n    use super::*;\n\n    #[test]\n    fn adds() {\n        assert_eq!(add(1, 2), 3);\n    }\n\n    #[test]\n    fn zero() {\n        assert_eq!(add(0, 0), 0);\n    }\n}\n";

const SCRIPT: &str = "describe('add', () => {\n  it('adds', () => {\n    expect(add(1, 2)).toBe(3);\n  });\n\n  it('is zero', () => {\n    expect(add(0, 0)).toBe(0);\n  });\n});\n";

#[test]
fn honest_stages_that_write_tests_are_not_held() {
    let env = project();
    let honest = |id: &str, script: &str, check: &str| {
        stage(id).run(format!("set -e\n{script}\ngit add -A -f; git commit -q -m Work")).check(check)
    };
    env.load(&plan(&[
        honest("fix", "echo 'add() { echo $(($1 + $2)); }' > app.sh; printf '. ./app.sh\\n[ \"$(add 2 2)\" = 4 ]\\n' > tests/test_more.sh", TESTS),
        honest("python", "printf '\\n\\ndef test_zero():\\n    assert add(0, 0) == 0\\n' >> tests/test_app.py", "grep -q test_zero tests/test_app.py"),
        honest("rust", "printf '\\n#[test]\\nfn zero() {\\n    assert_eq!(app::add(0, 0), 0);\\n}\\n' >> tests/app.rs", "grep -q zero tests/app.rs"),
        honest("unit", &format!("cat > src/lib.rs <<'EOF'\n{UNIT}EOF"), "grep -q zero src/lib.rs"),
        honest("script", &format!("cat > tests/app.test.js <<'EOF'\n{SCRIPT}EOF"), "grep -q zero tests/app.test.js"),
        honest("new-js", "echo \"it('is one', () => { expect(add(0, 1)).toBe(1); });\" > tests/one.test.js", "test -s tests/one.test.js"),
        honest("go", "printf 'package app\\n\\nfunc TestA(t *testing.T) {}\\n' > app_test.go", "test -s app_test.go"),
        honest("marked", "printf 'pytestmark = pytest.mark.slow\n\n\ndef test_fit():\n    assert m.fit(1)\n' > tests/test_fit.py; echo Tests > tests/README.md", "test -s tests/README.md"),
        honest("within", "mkdir -p src/a; echo x > src/a/b.txt; echo x > made.txt; echo true > tests/test_within.sh", "test -s src/a/b.txt").with("files: [src]").with("artifacts: [made.txt]"),
        honest("dependency", "echo '{\"scripts\":{\"test\":\"sh tests/test_add.sh\"},\"dependencies\":{\"a\":\"1\"}}' > package.json", "grep -q dependencies package.json"),
        honest("crate", "echo 'serde = \"1\"' >> Cargo.toml; echo 'version = 4 # serde' > Cargo.lock", "grep -q serde Cargo.lock").with("files: [\"Cargo.toml\", \"Cargo.lock\"]"),
        honest("target", "printf 'lint:\\n\\t@true\\n' >> Makefile; mkdir -p doc; echo How > doc/testing.md", "make lint").with("files: [\"Makefile\", \"doc/**\"]"),
    ]));
    env.finish();
    assert!(env.stage("fix")["state"] == "merged");
}

#[test]
fn a_new_commit_voids_an_approval_and_a_moved_plan_branch_does_not() {
    let env = project();
    env.fifo("go");
    env.load(&plan(&[
        cheat("judge", "printf 'test:\\n\\t@true\\n' > Makefile", "make test"),
        stage("other").run(format!("read go < @OUT@/go; {}", commit("other", "x"))).check("test -s other.txt"),
    ]));
    env.loom(&["run"]).ok();
    env.until_state("judge", "gated");
    env.go("go");
    env.until_state("other", "merged");
    env.loom(&["stage", "reject", "judge", "--reason", "no"]).ok();
    env.settle();
    let tree = env.repo.join(".worktrees/judge");
    fs::write(tree.join("Makefile"), "test:\n\t@false || true\n").unwrap();
    env.git_in(&tree, &["commit", "-q", "-a", "-m", "Again"]);
    env.loom(&["merge", "judge"]).ok();
    env.run().ends(5);
    assert_eq!(env.stage("judge")["state"], "gated");
    env.loom(&["stage", "approve", "judge"]).ok();
    env.finish();
    assert_eq!(env.read("Makefile"), "test:\n\t@false || true\n");
}
