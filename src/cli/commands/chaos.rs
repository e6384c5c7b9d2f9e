//! `loom chaos`: carries the demo's plan out in temporary repositories while
//! everything is killed at fail points that a seed chooses, and then looks
//! whether it ended as an undisturbed run does.

use std::process::Stdio;
use std::rc::Rc;

use crate::base::dice::Dice;
use crate::base::fail::{Point, VARIABLES};
use crate::base::fs;
use crate::base::text::count;
use crate::cli::args::Chaos;
use crate::cli::failure::{Failure, exit};
use crate::cli::playground::{Interrupts, Playground};
use crate::cli::ui;
use crate::client;
use crate::model::stage::StateKind;

/// Kills in one repository.
const KILLS_A_PLAN: usize = 8;
/// How often a plan is run again before it is held to be stuck.
const RUNS_MAX: usize = 40;
/// Stages of the demo's plan.
const STAGES: [&str; 4] = ["greeting", "english", "french", "join"];
const MINE: &str = "not for Loom\n";

pub fn run(args: &Chaos) -> Result<u8, Failure> {
    if args.points {
        Point::ALL.iter().for_each(|point| ui::line(point.name()));
        return Ok(exit::OK);
    }
    client::require_operator("run the chaos")?;
    let seed = args.seed.unwrap_or_else(|| uuid::Uuid::new_v4().as_u64_pair().0 >> 32);
    let kills = usize::try_from(args.kills).unwrap_or(usize::MAX);
    ui::line(format!("Seed {seed}: {} while the demo's plan runs.\n", count(kills, "kill")));
    let interrupts = Interrupts::register()?;
    let done = set_fire(&interrupts, seed, kills);
    interrupts.unless_asked(done)?;
    Ok(exit::OK)
}

fn set_fire(interrupts: &Rc<Interrupts>, seed: u64, kills: usize) -> Result<(), Failure> {
    let undisturbed = Ground::new(interrupts)?;
    undisturbed.carry_out("")?;
    let (tree, reached) = (undisturbed.verdict()?, undisturbed.log());
    ui::line(format!("Undisturbed: {}, {} passed on the way.", short(&tree), count(reached.len(), "fail point")));
    let mut dice = Dice::new(seed);
    let (mut delivered, mut plans) = (0, 0);
    while delivered < kills {
        // A point that is reached late is not reached at all when another kill changes the way.
        if plans > 4 * kills {
            return Err(Failure::new(exit::INTERNAL, format!("only {delivered} of {kills} kills were delivered")));
        }
        plans += 1;
        let ground = Ground::new(interrupts)?;
        let orders = orders(&mut dice, &reached, KILLS_A_PLAN.min(kills - delivered));
        let ended = ground.carry_out(&orders).and_then(|()| ground.verdict());
        let killed: Vec<String> = ground.log().into_iter().filter_map(|line| killed(&line)).collect();
        delivered += killed.len();
        let is_same = match ended {
            Ok(now) if now == tree => Ok(()),
            Ok(now) => Err(format!("its tree is {} and not {}", short(&now), short(&tree))),
            Err(failure) => Err(format!("{}: {}", failure.what, failure.why.join(": "))),
        };
        match is_same {
            Ok(()) => ui::line(format!("  ✓ plan {plans}: killed at {}", killed.join(", "))),
            Err(why) if interrupts.is_asked() => return Err(Failure::new(exit::INTERRUPTED, why)),
            Err(why) => return Err(violation(ground, &why, (seed, kills), &orders)),
        }
    }
    ui::line(format!(
        "\n{} over {}: every stage landed once, each on its proof; the final tree is the undisturbed one;",
        count(delivered, "kill"),
        count(plans, "plan")
    ));
    ui::line("git fsck is clean, the journal verifies, no host is left, the user's file is as it was.");
    Ok(())
}

/// Some different points of those that an undisturbed run reaches, each to kill at once.
fn orders(dice: &mut Dice, reached: &[String], kills: usize) -> String {
    let names: Vec<&str> = reached.iter().filter_map(|line| line.split(' ').next()).collect();
    let mut orders: Vec<String> = Vec::new();
    for _ in 0..kills {
        let name = names[dice.roll(names.len())];
        let times = names.iter().filter(|other| **other == name).count();
        let order = format!("{name}=kill@{}", dice.roll(times) + 1);
        if !orders.contains(&order) {
            orders.push(order);
        }
    }
    orders.join(",")
}

/// `point pid kill` is a process that was killed at the point.
fn killed(line: &str) -> Option<String> {
    let mut words = line.split(' ');
    let name = words.next()?;
    (words.nth(1) == Some("kill")).then(|| name.to_owned())
}

fn short(tree: &str) -> &str {
    tree.get(..10).unwrap_or(tree)
}

fn violation(ground: Ground, why: &str, (seed, kills): (u64, usize), orders: &str) -> Failure {
    // Nothing of it goes on; what it left is the evidence.
    let repo = ground.playground.keep();
    Failure::new(exit::WORK, format!("something was lost or done twice: {why}"))
        .because(format!("injected: {orders}"))
        .hint(format!("loom chaos --seed {seed} --kills {kills}"))
        .hint(format!("loom -C {} status", repo.display()))
}

/// A playground with a file of its user's.
struct Ground {
    playground: Playground,
}

impl Ground {
    fn new(interrupts: &Rc<Interrupts>) -> Result<Ground, Failure> {
        let playground = Playground::new("loom-chaos-", interrupts)?;
        fs::write_atomic(&playground.repo().join("mine.txt"), MINE.as_bytes())?;
        Ok(Ground { playground })
    }

    fn repo(&self) -> std::path::PathBuf {
        self.playground.repo()
    }

    fn log_file(&self) -> std::path::PathBuf {
        self.playground.path().join("fail.log")
    }

    /// Every line of the log of fail points.
    fn log(&self) -> Vec<String> {
        let text = fs_err::read_to_string(self.log_file()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Whether `loom` ended well.
    fn loom(&self, args: &[&str], orders: &str) -> Result<bool, Failure> {
        let mut command = self.playground.loom(args)?;
        command.stdout(Stdio::null()).stderr(Stdio::null()).env("LOOM_BACKOFF_MS", "20");
        command.env(VARIABLES[0], orders).env(VARIABLES[1], self.log_file());
        Ok(self.playground.run(&mut command)?.success())
    }

    /// What a person would type, again and again until the plan is complete.
    fn carry_out(&self, orders: &str) -> Result<(), Failure> {
        for _ in 0..RUNS_MAX {
            if self.loom(&["init", "doc/plans/hello.md"], orders)? {
                break;
            }
        }
        for _ in 0..RUNS_MAX {
            self.loom(&["run", "--watch"], orders)?;
            let layout = crate::base::layout::Layout::new(&self.repo());
            let Ok(status) = client::status(&layout) else { continue };
            let is_over = !crate::base::fs::is_locked(&layout.writer_lock())?;
            if is_over && status.phase == crate::wire::status::PhaseOfPlan::Complete {
                return Ok(());
            }
            for row in status.stages.iter().filter(|row| row.state == StateKind::Blocked) {
                self.loom(&["stage", "retry", row.id.as_str()], orders)?;
            }
        }
        Err(Failure::new(exit::WORK, "the plan does not end"))
    }

    /// The final tree, once everything that must hold was seen to hold.
    fn verdict(&self) -> Result<String, Failure> {
        let wrong = |what: &str, why: String| Failure::new(exit::WORK, what).because(why);
        let branch = "loom/_plan/hello";
        let trailers = "--format=%(trailers:key=Loom-Stage,valueonly,separator=%x2C)";
        let mut landed: Vec<String> =
            self.git(&["log", "--first-parent", trailers, branch])?.lines().map(str::to_owned).collect();
        landed.retain(|line| !line.is_empty());
        landed.sort();
        let mut wanted: Vec<String> = STAGES.iter().map(|id| format!("hello/{id}")).collect();
        wanted.sort();
        if landed != wanted {
            return Err(wrong("not every stage landed once", landed.join(", ")));
        }
        let (main, plan) = (self.git(&["rev-parse", "main"])?, self.git(&["rev-parse", branch])?);
        if main != plan {
            return Err(wrong("the base branch did not follow", format!("{main} is not {plan}")));
        }
        let fsck = self.git(&["fsck", "--no-dangling", "--no-progress"])?;
        if !fsck.is_empty() {
            return Err(wrong("git fsck complains", fsck));
        }
        let changes = self.git(&["status", "--porcelain"])?;
        let mine = fs_err::read_to_string(self.repo().join("mine.txt"))?;
        if changes != "?? mine.txt" || mine != MINE {
            return Err(wrong("the user's files were touched", changes));
        }
        self.check_journal(&plan)?;
        self.git(&["rev-parse", "main^{tree}"])
    }

    /// The journal verifies, its plan branch is where git has it, and no session lives.
    fn check_journal(&self, tip: &str) -> Result<(), Failure> {
        let layout = crate::base::layout::Layout::new(&self.repo());
        let read = crate::daemon::ReadOnly::open(&layout)?;
        let known = read.world.run.as_ref().and_then(|run| run.tip.as_ref()).map(ToString::to_string);
        if known.as_deref() != Some(tip) {
            return Err(Failure::new(exit::WORK, "the journal does not know where the plan branch is"));
        }
        for entry in fs_err::read_dir(layout.sessions())?.flatten() {
            let end = crate::host::control::wait_end(&entry.path());
            end.map_err(|error| Failure::new(exit::WORK, "a host cannot be asked").because(error.to_string()))?;
        }
        Ok(())
    }

    fn git(&self, args: &[&str]) -> Result<String, Failure> {
        let output = self.playground.git(args).output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(Failure::new(exit::WORK, format!("`git {}` failed", args.join(" "))).because(said))
    }
}
