//! `loom demo`: the whole story in a temporary repository, with the real daemon,
//! hosts, checks and landing. No account, no network, no leftovers.

use crate::cli::args::Demo;
use crate::cli::failure::{Failure, exit};
use crate::cli::playground::{Interrupts, Playground};
use crate::cli::ui;

pub fn run(args: &Demo) -> Result<u8, Failure> {
    crate::client::require_operator("run the demo")?;
    let interrupts = Interrupts::register()?;
    let shown = show(args, Playground::new("loom-demo-", &interrupts)?);
    interrupts.unless_asked(shown)?;
    Ok(exit::OK)
}

fn show(args: &Demo, playground: Playground) -> Result<(), Failure> {
    let loom = |args: &[&str]| playground.run(&mut playground.loom(args)?);
    ui::line("A plan of four stages: `greeting`, then `english` and `french` side by side, then `join`.");
    ui::line("Each one works in a git worktree of its own; Loom runs the checks and lands what passes.\n");
    loom(&["init", "doc/plans/hello.md"])?;
    ui::line("");
    if !loom(&["run", "--watch"])?.success() {
        let failure = Failure::new(exit::WORK, "the demo did not finish");
        // Interrupted, the watcher ends first.
        return Err(match playground.is_interrupted() {
            true => failure,
            false => failure.hint(format!("loom -C {} status", playground.keep().display())),
        });
    }
    story(&playground)?;
    if args.keep {
        ui::line(format!("\nKept: {}", playground.keep().display()));
    }
    Ok(())
}

fn story(playground: &Playground) -> Result<(), Failure> {
    ui::line("\nWhat happened:");
    ui::line("  · `english` and `french` ran at the same time, in .worktrees/english and .worktrees/french");
    ui::line("  · the first attempt of `french` failed its check and did not land; the second one");
    ui::line("    found the failure in its assignment ($LOOM_SIGNAL), mended it, was proven and landed");
    ui::line("  · `main` followed by fast-forward when everything was proven:\n");
    let log = playground.git(&["log", "--graph", "--format=%h %s", "main"]).output()?;
    for line in String::from_utf8_lossy(&log.stdout).lines() {
        ui::line(format!("    {line}"));
    }
    let hello = fs_err::read_to_string(playground.repo().join("hello.txt")).unwrap_or_default();
    ui::line(format!("\n  hello.txt, made by `join`: {}", hello.trim().replace('\n', " · ")));
    ui::line("\nThe same with Claude Code: write a plan whose stages have a description instead of `run:`");
    ui::line("(doc/plan-format.md), then, in your repository:\n");
    ui::line("    loom init doc/plans/my-plan.md");
    ui::line("    loom run --watch          # loom attach <stage> shows an agent at work");
    Ok(())
}
