//! The user's checkout, when git is killed in the middle of the fast-forward
//! that brings it what has landed.

use std::fs;
use std::path::Path;

use loom::git::{Followed, Git};
use loom::model::ids::Oid;

use super::{is_long, locks_below};
use crate::env::Env;

/// Calls of the system that change a repository or a checkout.
const CALLS: &str = "openat,write,rename,unlink,mkdir,rmdir,fsync,link,chmod,fchmod,ftruncate";

/// A checkout of `main`, and `next`, which changes, adds and removes files.
fn checkout() -> (Env, Oid) {
    let env = Env::new();
    for name in ["changed.txt", "gone.txt", "untouched.txt"] {
        env.write(name, &format!("{name}\n").repeat(500));
    }
    env.git(&["add", "-A"]);
    env.git(&["commit", "-q", "-m", "Before"]);
    env.git(&["switch", "-q", "-c", "next"]);
    env.write("changed.txt", &"new\n".repeat(700));
    env.write("new.txt", &"new\n".repeat(300));
    env.write("folder/deep/new.txt", "new too\n");
    fs::remove_file(env.repo.join("gone.txt")).unwrap();
    env.git(&["add", "-A"]);
    env.git(&["commit", "-q", "-m", "After"]);
    env.git(&["switch", "-q", "main"]);
    env.write("mine.txt", "not tracked\n");
    let to = Oid::new(env.git(&["rev-parse", "next"])).unwrap();
    (env, to)
}

/// Kills git at its nth call, as it follows; whether it was killed at all.
fn kill_git(env: &Env, to: &Oid, nth: usize) -> bool {
    // What Loom leaves before it lets git begin.
    let before = env.git(&["rev-parse", "main"]);
    env.write(".git/loom-follow", &format!("{}\n{before}\n{to}\n", env.repo.display()));
    let inject = format!("inject={CALLS}:signal=KILL:when={nth}");
    let args = ["-f", "-o", "/dev/null", "-e", &inject, "git", "-c", "core.fsync=all", "merge", "-q", "--ff-only"];
    let out = env.out_of(env.command("strace").args(args).args(["--no-overwrite-ignore", to.as_str()]));
    assert!(out.code == 0 || out.code == -9 || out.code == 137, "{out}");
    out.code != 0
}

fn follow(repo: &Path, to: &Oid) -> Followed {
    Git::find(repo).unwrap().follow("main", to).unwrap()
}

#[test]
fn chaos_a_follow_is_completed_wherever_git_was_killed() {
    let (mut half_way, mut nth) = (0, 1);
    loop {
        let (env, to) = checkout();
        let was_killed = kill_git(&env, &to, nth);
        if was_killed && env.git(&["--no-optional-locks", "status", "--porcelain"]) != "?? mine.txt" {
            half_way += 1;
        }
        assert_eq!(follow(&env.repo, &to), Followed::Moved, "killed at call {nth}");
        assert_eq!(env.git(&["rev-parse", "main"]), to.to_string(), "killed at call {nth}");
        assert_eq!(env.git(&["status", "--porcelain"]), "?? mine.txt", "killed at call {nth}");
        assert_eq!(env.read("mine.txt"), "not tracked\n");
        assert_eq!(locks_below(&env.repo.join(".git")), Vec::<String>::new(), "killed at call {nth}");
        assert_eq!(env.git(&["fsck", "--no-dangling", "--no-progress"]), "");
        assert!(!env.repo.join(".git/loom-follow").exists());
        if !was_killed {
            break;
        }
        nth += if is_long() { 1 } else { 2 };
    }
    println!("killed at {nth} calls, half way {half_way} times");
    assert!(half_way > 3, "git was never half way");
}

#[test]
fn what_the_user_changed_meanwhile_is_not_touched() {
    let (env, to) = checkout();
    // Half way, and then the user went on to work.
    assert!(kill_git(&env, &to, 1));
    env.write("changed.txt", &"new\n".repeat(700));
    env.write("new.txt", "");
    env.write("untouched.txt", "mine\n");
    let before = env.git(&["status", "--porcelain"]);
    let Followed::Stayed { why } = follow(&env.repo, &to) else { panic!("it moved") };
    assert!(why.contains("untouched.txt"), "{why}");
    assert_eq!(env.git(&["status", "--porcelain"]), before);
    assert_eq!(env.read("untouched.txt"), "mine\n");
    env.git(&["checkout", "-q", "untouched.txt"]);
    assert_eq!(follow(&env.repo, &to), Followed::Moved);
    // A file of the user's own is in the way, and stays.
    let (env, to) = checkout();
    env.write("new.txt", "mine\n");
    assert!(matches!(follow(&env.repo, &to), Followed::Stayed { .. }));
    assert_eq!(env.read("new.txt"), "mine\n");
    assert!(!env.repo.join(".git/loom-follow").exists());
}
