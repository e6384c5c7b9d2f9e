//! Repositories that are not like most: what Loom works in, and what it refuses, with the way out.

use std::fs;

use crate::env::{Env, commit, plan, stage};

/// A project whose repository is made by `script`, from `upstream`: a usual one, with a folder
/// and a history of several commits.
fn made_by(script: &str) -> Env {
    let env = Env::new();
    env.write("sub/x.txt", "x\n");
    env.git(&["add", "sub"]);
    env.git(&["commit", "-q", "-m", "Sub"]);
    env.add_plan(&plan(&[
        stage("a"),
        stage("b").run(format!("echo b >> sub/x.txt; git commit -q -a -m B; {}", commit("b", "b"))),
    ]));
    env.git(&["config", "uploadpack.allowFilter", "true"]);
    fs::rename(&env.repo, env.path().join("upstream")).unwrap();
    let out = env.out_of(env.command("sh").current_dir(env.path()).args(["-ec", script]));
    assert_eq!(out.code, 0, "{out}");
    env
}

/// Clones the upstream with these options.
fn cloned(options: &str) -> Env {
    made_by(&format!("git clone -q {options} file://$PWD/upstream repo"))
}

#[track_caller]
fn is_carried_out(env: &Env) {
    env.loom(&["init", "doc/plans/plan.md"]).ok();
    env.finish();
    assert_eq!(env.state(), "a merged, b merged");
    assert_eq!(env.git(&["show", "main:a.txt"]), "a");
    assert_eq!(env.git(&["show", "main:sub/x.txt"]), "x\nb");
    assert_eq!(env.git(&["status", "--porcelain"]), "");
    assert_eq!(env.git(&["fsck", "--no-dangling", "--no-progress"]), "");
    env.loom(&["audit", "--verify"]).ok();
}

#[test]
fn a_shallow_clone_is_worked_in() {
    let env = cloned("--depth 1");
    assert_eq!(env.git(&["rev-parse", "--is-shallow-repository"]), "true");
    is_carried_out(&env);
    assert_eq!(env.git(&["rev-parse", "--is-shallow-repository"]), "true", "nothing was fetched");
}

#[test]
fn a_sparse_checkout_stays_sparse_and_what_is_proven_is_whole() {
    let env = cloned("--sparse");
    env.git(&["sparse-checkout", "add", "doc"]);
    env.write(
        "doc/plans/plan.md",
        &env.read("doc/plans/plan.md").replace("echo b >>", "git sparse-checkout disable; echo b >>"),
    );
    env.git(&["commit", "-q", "-a", "-m", "Plan"]);
    is_carried_out(&env);
    assert!(!env.repo.join("sub").exists(), "the user's checkout");
}

#[test]
fn a_partial_clone_is_worked_in_when_its_newest_commit_is_whole() {
    let env = cloned("--filter=blob:none");
    is_carried_out(&env);
    let env = cloned("--filter=blob:none --sparse");
    env.git(&["sparse-checkout", "add", "doc"]);
    insta::assert_snapshot!(env.says(&["init", "doc/plans/plan.md"]), @r"
    Error: `<tmp>/repo` is a partial clone: 1 of its newest commit's files are not here, and Loom fetches nothing
    Hint: git fetch --refetch --no-filter
    ------- exit 1 -------
    ");
    env.git(&["fetch", "-q", "--refetch", "--no-filter"]);
    env.git(&["sparse-checkout", "disable"]);
    is_carried_out(&env);
}

#[test]
fn what_the_library_cannot_read_is_refused_with_the_way_out() {
    let make = |option: &str| {
        made_by(&format!(
            "git init -q {option} repo; cd upstream; git archive HEAD | tar x -C ../repo; cd ../repo; git add -A; git commit -q -m Start"
        ))
    };
    let env = make("--ref-format=reftable");
    insta::assert_snapshot!(env.says(&["init", "doc/plans/plan.md"]), @r"
    Error: `<tmp>/repo` is a repository of a kind that Loom cannot read: unsupported extension name extensions.refstorage
    Hint: git clone --ref-format=files <this one> <folder>, and work there
    ------- exit 1 -------
    ");
    let odd = env.path().join("odd");
    fs::rename(&env.repo, &odd).unwrap();
    let clone = ["clone", "-q", "--ref-format=files", &odd.display().to_string(), "repo"];
    env.git_in(&env.path(), &clone);
    is_carried_out(&env);
    let env = make("--object-format=sha256");
    insta::assert_snapshot!(env.says(&["init", "doc/plans/plan.md"]), @r"
    Error: `<tmp>/repo` is a repository of a kind that Loom cannot read: unknown object format 'sha256'
    Hint: git init --object-format=sha1 <folder>, and import it there
    ------- exit 1 -------
    ");
    env.loom(&["status"]).ends(1).has("of a kind that Loom cannot read");
}

/// A project with the submodule `lib`, and a plan whose stages do this in it before their commit.
fn with_submodule(stages: &[(&str, &str)]) -> Env {
    let env = Env::new();
    let lib = env.path().join("lib");
    let script = "git init -q -b main && echo lib > lib.txt && git add . && git commit -q -m Lib && git tag v1";
    fs::create_dir(&lib).unwrap();
    assert_eq!(env.out_of(env.command("sh").current_dir(&lib).args(["-c", script])).code, 0);
    env.git(&["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", &lib.display().to_string(), "lib"]);
    env.git(&["commit", "-q", "-m", "Submodule"]);
    let stages: Vec<_> = stages
        .iter()
        .map(|(id, script)| {
            let setup = "setup: [\"git -c protocol.file.allow=always submodule --quiet update --init\"]";
            stage(id).first(script).check("test -s lib/lib.txt").with(setup)
        })
        .collect();
    env.load(&plan(&stages));
    env
}

#[test]
fn a_submodule_is_there_for_agents_and_checks_and_goes_with_its_worktree() {
    let env = with_submodule(&[("a", "test -s lib/lib.txt"), ("b", "git -C lib fetch -q; git -C lib checkout -q v1")]);
    env.finish();
    assert_eq!(env.state(), "a merged, b merged");
    assert!(!env.repo.join(".worktrees/.kept").exists(), "what its remote has is not kept");
    assert!(!env.repo.join(".git/worktrees/a").exists() && !env.repo.join(".git/worktrees/b").exists());
    assert_eq!(env.git(&["submodule", "status"]).trim().split(' ').nth(1), Some("lib"));
    assert_eq!(env.git(&["status", "--porcelain"]), "");
}

#[test]
fn work_in_a_submodule_that_is_nowhere_else_is_kept() {
    let commit = "echo more > more.txt; git add .; git commit -q -m More";
    let works = [
        ("branch", format!("(cd lib; git checkout -q -b mine; {commit}; git checkout -q v1)")),
        ("detached", format!("(cd lib; {commit}; git checkout -q v1)")),
        ("stashed", "(cd lib; echo more >> lib.txt; git stash -q)".to_owned()),
        ("hidden", "(cd lib; git update-index --assume-unchanged lib.txt; echo more >> lib.txt)".to_owned()),
    ];
    let stages: Vec<_> = works.iter().map(|(id, script)| (*id, script.as_str())).collect();
    let env = with_submodule(&stages);
    env.finish();
    assert_eq!(env.state(), "branch merged, detached merged, stashed merged, hidden merged");
    for (id, _) in &stages {
        let kept = env.repo.join(format!(".worktrees/.kept/{id}/1/lib"));
        assert_eq!(env.git_in(&kept, &["rev-parse", "v1"]), env.git_in(&kept, &["rev-parse", "HEAD"]), "{id}");
        let all = env.git_in(&kept, &["log", "--all", "--reflog", "--format=%s"]);
        match *id {
            "hidden" => assert!(fs::read_to_string(kept.join("lib.txt")).unwrap().contains("more")),
            "stashed" => assert!(all.contains("WIP"), "{all}"),
            _ => assert!(all.contains("More"), "{id}: {all}"),
        }
    }
}

#[test]
fn a_submodule_that_was_moved_to_another_commit_waits_for_a_person() {
    let env = with_submodule(&[("a", "(cd lib; echo more > more.txt; git add .; git commit -q -m More); git add lib")]);
    env.run().ends(5).has("submodule");
    env.loom(&["stage", "approve", "a"]).ok();
    env.finish();
    let link = env.git(&["rev-parse", "main:lib"]);
    let kept = env.repo.join(".worktrees/.kept/a/1/lib");
    assert_eq!(env.git_in(&kept, &["cat-file", "-t", link.trim()]), "commit");
}

#[test]
fn files_with_a_filter_are_what_a_check_makes_of_them_in_the_proof() {
    let env = Env::new();
    // Of the kind that Git LFS is: set up in the user's own configuration.
    env.git(&["config", "--global", "filter.upper.clean", "tr a-z A-Z"]);
    env.git(&["config", "--global", "filter.upper.smudge", "tr A-Z a-z"]);
    env.write(".gitattributes", "# filter=none\n*.bin -text filter=upper\n");
    env.write("x.bin", "content\n");
    env.git(&["add", "-A"]);
    env.git(&["commit", "-q", "-m", "Filtered"]);
    assert_eq!(env.git(&["show", "HEAD:x.bin"]), "CONTENT");
    let work = "grep -q content x.bin; echo more > y.bin; git add y.bin";
    env.add_plan(&plan(&[stage("a").first(work).check("tr A-Z a-z < x.bin | grep -q content && grep -q MORE y.bin")]));
    let said = env.loom(&["init", "doc/plans/plan.md"]).ok();
    assert!(said.stderr.contains("the filter `upper`") && !said.stderr.contains("none"), "{said}");
    env.finish();
    assert_eq!(env.state(), "a merged");
    assert_eq!((env.read("x.bin"), env.read("y.bin")), ("content\n".to_owned(), "more\n".to_owned()));
    assert_eq!(env.git(&["show", "main:y.bin"]), "MORE");
    assert_eq!(env.git(&["status", "--porcelain"]), "");
}

#[test]
fn files_that_git_writes_in_another_form_are_known_again_in_the_proof() {
    let env = Env::new();
    env.write(".gitattributes", "*.sh text eol=crlf\n.gitattributes text eol=crlf\n*.id ident\n*.u16 text working-tree-encoding=UTF-16LE eol=lf\n");
    env.write("x.sh", "true\n");
    env.write("x.id", "$Id$\n");
    env.write("x.u16", "h\0i\0\n\0");
    env.git(&["add", "-A"]);
    env.git(&["commit", "-q", "-m", "Forms"]);
    let cr = "grep -q \"$(printf '\\r')\" x.sh && grep -q 'Id: ' x.id && test $(wc -c < x.u16) = 6";
    env.load(&plan(&[stage("a").check(&format!("test -s a.txt && {cr}")), stage("b").after(&["a"])]));
    env.finish();
    assert_eq!(env.state(), "a merged, b merged");
}
