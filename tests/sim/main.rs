//! The simulator: the daemon's own loop, kernel and journal in a world that is made up, under
//! a seed. `doc/reliability.md` says what it does and how to run it longer.

#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "what fails here fails a test; a story is told there")]

mod boot;
mod check;
mod dice;
mod effects;
mod git;
mod outside;
mod people;
mod run;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use dice::KILLED_OFTEN;
use outside::Sabotage;
use run::Done;

/// Seeds that have failed once, oldest first.
const REGRESSIONS: &[u64] = &[
    32, 113, 212, 223, 11, 1_000_153, 1_000_078, 728, 101, 1_000_231, 102, 41, 295, 63, 363, 367, 98, 197, 292, 1207,
    927, 648, 1422, 1867, 1_000_502, 2_000_194, 2_016_153, 2_033_925, 2_026_126,
];

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.replace('_', "").parse().ok()
}

/// Runs a seed, and a second time where that is asked for. Panics with the command that replays it.
fn holds(seed: u64, is_repeated: bool) -> Done {
    let is_told = number("LOOM_SIM_TRACE").is_some();
    let once = || std::panic::catch_unwind(|| run::run(seed, Sabotage::None, is_told));
    let replay = format!("LOOM_SIM_SEED={seed} LOOM_SIM_TRACE=1 cargo nextest run --no-capture --test sim seeds");
    match once() {
        Ok(Ok(done)) if !is_repeated => done,
        Ok(Ok(done)) => {
            let again = run::run(seed, Sabotage::None, false);
            assert_eq!(again.as_ref(), Ok(&done), "seed {seed} went otherwise the second time\n{replay}");
            done
        }
        Ok(Err(violation)) => panic!("seed {seed}: {violation}\n{replay}"),
        Err(_) => panic!("seed {seed} has panicked, see above\n{replay}"),
    }
}

/// Runs seeds from `first` on, each twice, until there were so many steps and crash-recoveries.
fn run_from(first: u64, steps: u64, recoveries: u64) {
    let started = Instant::now();
    let mut sum = Done::default();
    let mut seed = first;
    while sum.steps < steps || sum.recoveries < recoveries {
        sum.add(&holds(seed, true));
        seed += 1;
    }
    eprintln!("seeds {first} to {}, each twice: {sum}, 0 violations, {:.0?}", seed - 1, started.elapsed());
}

/// As [`run_from`], on all cores and every eighth seed twice. Says how far it is, and goes on after
/// a seed that fails.
fn run_long(first: u64, steps: u64) {
    let started = Instant::now();
    let (next, sum, failed) = (AtomicU64::new(first), Mutex::new(Done::default()), Mutex::new(Vec::new()));
    let work = || {
        while sum.lock().unwrap().steps < steps {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let done = std::panic::catch_unwind(|| holds(seed, seed.is_multiple_of(8)));
            let sum = &mut *sum.lock().unwrap();
            match done {
                Ok(done) => sum.add(&done),
                Err(_) => failed.lock().unwrap().push(seed),
            }
            if seed.is_multiple_of(4096) {
                eprintln!("seed {seed}: {sum}, {:.0?}", started.elapsed());
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let (last, sum, failed) = (next.into_inner() - 1, sum.into_inner().unwrap(), failed.into_inner().unwrap());
    let violations = failed.len();
    eprintln!("seeds {first} to {last}, every eighth twice: {sum}, {violations} violations, {:.0?}", started.elapsed());
    assert!(failed.is_empty(), "these seeds failed: {failed:?}");
}

/// Half of the short form. `LOOM_SIM_SEED` replays one seed, `LOOM_SIM_STEPS` is the long form,
/// from the seed `LOOM_SIM_FROM` on.
#[test]
fn seeds() {
    match (number("LOOM_SIM_SEED"), number("LOOM_SIM_STEPS")) {
        (Some(seed), _) => eprintln!("seed {seed}, twice: {}", holds(seed, true)),
        (None, Some(steps)) => run_long(number("LOOM_SIM_FROM").unwrap_or(KILLED_OFTEN), steps),
        (None, None) => run_from(1, 500_000, 2_500),
    }
}

/// The other half, for the other core.
#[test]
fn seeds_of_a_daemon_that_is_killed_often() {
    if number("LOOM_SIM_SEED").or(number("LOOM_SIM_STEPS")).is_none() {
        run_from(KILLED_OFTEN, 500_000, 7_500);
    }
}

#[test]
fn seeds_that_have_failed_once() {
    for &seed in REGRESSIONS {
        holds(seed, true);
    }
}

/// A mistake is found within a few seeds, by the invariant that it breaks.
#[track_caller]
fn is_caught(sabotage: Sabotage, invariant: &str) {
    let first = (1..400).find_map(|seed| run::run(seed, sabotage, false).err());
    let found = first.unwrap_or_else(|| panic!("{sabotage:?} was not found"));
    assert!(found.starts_with(invariant), "{sabotage:?} was found as {found}");
}

#[test]
fn a_landing_without_compare_and_swap_is_caught() {
    is_caught(Sabotage::LandWithoutSwap, "I3");
}

#[test]
fn a_landing_of_what_was_not_proven_is_caught() {
    is_caught(Sabotage::ReportGreen, "I3");
}

#[test]
fn an_answer_before_the_sync_is_caught() {
    is_caught(Sabotage::SyncLies, "I1");
}

#[test]
fn a_journal_that_forgets_is_caught() {
    is_caught(Sabotage::ForgetLast, "I1");
}

#[test]
fn a_worktree_removed_before_its_rescue_is_caught() {
    is_caught(Sabotage::RemoveUnrescued, "I5");
}

#[test]
fn a_worktree_reset_before_its_rescue_is_caught() {
    is_caught(Sabotage::RestoreUnrescued, "I5");
}

#[test]
fn an_agent_that_starts_before_it_is_on_record_is_caught() {
    is_caught(Sabotage::StartTwice, "I6");
}

#[test]
fn an_agent_that_starts_where_nothing_was_set_up_is_caught() {
    is_caught(Sabotage::StartUnprepared, "I6");
}

#[test]
fn a_landing_without_its_evidence_is_caught() {
    is_caught(Sabotage::KeepNoEvidence, "I12");
}

#[test]
fn a_base_branch_that_is_forced_is_caught() {
    is_caught(Sabotage::FollowByForce, "I4");
}
