//! `loom demo`: the whole story in a temporary repository, with the real daemon,
//! hosts, checks and landing. No account, no network, no leftovers.

use std::path::Path;
use std::process::Command;

use crate::base::process;
use crate::cli::args::Demo;
use crate::cli::failure::{Failure, exit};
use crate::cli::ui;

const PLAN: &str = include_str!("demo.md");

pub fn run(args: &Demo) -> Result<u8, Failure> {
    crate::client::require_operator("run the demo")?;
    let dir = tempfile::Builder::new().prefix("loom-demo-").tempdir()?;
    let repo = dir.path().join("hello");
    prepare(dir.path(), &repo)?;
    ui::line("A plan of four stages: `greeting`, then `english` and `french` side by side, then `join`.");
    ui::line("Each one works in a git worktree of its own; Loom runs the checks and lands what passes.\n");
    loom(dir.path(), &repo, &["init", "doc/plans/hello.md"])?;
    ui::line("");
    let code = loom(dir.path(), &repo, &["run", "--watch"])?;
    if code != 0 {
        let kept = dir.keep();
        return Err(Failure::new(exit::WORK, "the demo did not finish")
            .hint(format!("loom -C {} status", kept.join("hello").display())));
    }
    story(&repo)?;
    if args.keep {
        let kept = dir.keep();
        ui::line(format!("\nKept: {}", kept.join("hello").display()));
    }
    Ok(exit::OK)
}

/// Everything that Loom would leave on this machine lies in the temporary folder.
pub(super) fn prepare(dir: &Path, repo: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt;
    fs_err::create_dir_all(repo.join("doc/plans"))?;
    fs_err::create_dir_all(dir.join("cache"))?;
    std::fs::DirBuilder::new().mode(0o700).create(dir.join("run"))?;
    fs_err::write(repo.join("doc/plans/hello.md"), PLAN)?;
    fs_err::write(repo.join("README.md"), "# Hello\n")?;
    for args in [
        &["init", "-q", "-b", "main"][..],
        &["config", "user.name", "Loom demo"],
        &["config", "user.email", "demo@localhost"],
        &["add", "-A"],
        &["commit", "-q", "-m", "Start"],
    ] {
        let status = git(repo, args).status().map_err(|_| crate::git::NoProject::NoGit)?;
        if !status.success() {
            return Err(Failure::new(exit::INTERNAL, format!("`git {}` ended with {status}", args.join(" "))));
        }
    }
    Ok(())
}

/// The demo uses git as its user would: in a repository of its own.
pub(super) fn git(repo: &Path, args: &[&str]) -> Command {
    let mut command = process::command("git");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GIT_") {
            command.env_remove(name);
        }
    }
    // Nothing of it may be at work when the folder goes.
    let (key, value) = process::NO_MAINTENANCE;
    command.current_dir(repo).arg("-c").arg(format!("{key}={value}")).args(args);
    command
}

fn loom(dir: &Path, repo: &Path, args: &[&str]) -> Result<i32, Failure> {
    let mut command = process::command(process::this_binary()?);
    command.current_dir(repo).args(args);
    command.env("XDG_CACHE_HOME", dir.join("cache")).env("XDG_RUNTIME_DIR", dir.join("run"));
    command.env_remove("LOOM_WORK_DIR");
    Ok(command.status()?.code().unwrap_or(i32::from(exit::INTERNAL)))
}

fn story(repo: &Path) -> Result<(), Failure> {
    ui::line("\nWhat happened:");
    ui::line("  · `english` and `french` ran at the same time, in .worktrees/english and .worktrees/french");
    ui::line("  · the first attempt of `french` failed its check and did not land; the second one");
    ui::line("    found the failure in its assignment ($LOOM_SIGNAL), mended it, was proven and landed");
    ui::line("  · `main` followed by fast-forward when everything was proven:\n");
    let log = git(repo, &["log", "--graph", "--format=%h %s", "main"]).output()?;
    for line in String::from_utf8_lossy(&log.stdout).lines() {
        ui::line(format!("    {line}"));
    }
    let hello = fs_err::read_to_string(repo.join("hello.txt")).unwrap_or_default();
    ui::line(format!("\n  hello.txt, made by `join`: {}", hello.trim().replace('\n', " · ")));
    ui::line("\nThe same with Claude Code: write a plan whose stages have a description instead of `run:`");
    ui::line("(doc/plan-format.md), then, in your repository:\n");
    ui::line("    loom init doc/plans/my-plan.md");
    ui::line("    loom run --watch          # loom attach <stage> shows an agent at work");
    Ok(())
}
