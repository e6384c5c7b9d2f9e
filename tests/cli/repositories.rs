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
