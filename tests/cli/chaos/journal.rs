//! The journal's disk: every operation fails once; every cut and every changed
//! byte of a real journal is noticed or harmless.

use std::collections::BTreeMap;
use std::fs;

use loom::base::dice::Dice;
use loom::journal::{self, JournalError};
use loom::kernel::World;

use super::{Trial, is_long, sturdy};
use crate::env::plan;

/// Fails the Nth operation that `pattern` names, N = 1, 2, … until nothing failed.
fn fail_each(pattern: &str, errors: [&str; 2], is_mine: impl Fn(usize) -> bool) {
    let mut failed: BTreeMap<String, usize> = BTreeMap::new();
    for n in 1.. {
        // The short form gives each operation one of the errors, the long one both.
        let wanted: Vec<&str> = if is_long() { errors.to_vec() } else { vec![errors[n % 2]] };
        if !is_mine(n) {
            continue;
        }
        let mut delivered = 0;
        for error in wanted {
            let order = format!("{pattern}=err({error})@{n}");
            println!("LOOM_FAIL={order}");
            let is_dirty = n % 4 < 2;
            let mut trial = Trial::new(&plan(&[sturdy("a")]), is_dirty);
            trial.fail(&order);
            trial.step(&["init", "doc/plans/plan.md"], "init by operator", |_| false);
            trial.step(&["stage", "hold", "a"], "stage hold by operator", |env| env.stage("a")["held"] == true);
            trial.step(&["stage", "release", "a"], "stage release by operator", |env| env.stage("a")["held"] == false);
            trial.run_until(|state| state == "a merged");
            if !is_dirty && trial.env.status()["notices"].to_string().contains("did not follow") {
                // What it tells a person to type.
                trial.step(&["merge"], "merge by operator", |_| false);
                trial.run_until(|state| state == "a merged");
            }
            trial.check(&["a"], None);
            delivered += trial.delivered();
            for (name, times) in trial.reached() {
                *failed.entry(name).or_default() += times;
            }
        }
        if delivered == 0 {
            assert!(n > 20, "only {n} operations");
            return;
        }
    }
}

#[test]
fn chaos_every_journal_operation_fails_once_1() {
    fail_each("journal.*", ["ENOSPC", "EIO"], |n| n % 2 == 0);
}

#[test]
fn chaos_every_journal_operation_fails_once_2() {
    fail_each("journal.*", ["ENOSPC", "EIO"], |n| n % 2 == 1);
}

#[test]
fn chaos_every_other_file_operation_fails_once() {
    fail_each("file.*", ["EIO", "ENOSPC"], |_| true);
}

/// The journal of a small plan that was carried out.
fn golden() -> (tempfile::TempDir, std::path::PathBuf, Vec<u8>) {
    let mut trial = Trial::new(&plan(&[sturdy("a")]), false);
    trial.step(&["init", "doc/plans/plan.md"], "init by operator", |_| false);
    trial.run_until(|state| state == "a merged");
    let bytes = fs::read(trial.env.repo.join(".work/journal.jsonl")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.jsonl");
    (dir, path, bytes)
}

/// The world at the end, and the bytes of a torn line.
fn replay(path: &std::path::Path) -> Result<(World, u64), JournalError> {
    let mut world = World::default();
    let tail = journal::read(path, |record| record.facts.iter().for_each(|fact| world.apply(fact, record.at)))?;
    Ok((world, tail.torn_bytes))
}

#[test]
fn a_journal_cut_anywhere_is_a_shorter_one_and_says_so() {
    let (_dir, path, bytes) = golden();
    let mut worlds: BTreeMap<usize, World> = BTreeMap::new();
    for len in 0..=bytes.len() {
        fs::write(&path, &bytes[..len]).unwrap();
        let whole = bytes[..len].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let (world, torn) = replay(&path).unwrap();
        assert_eq!(torn, u64::try_from(len - whole).unwrap(), "cut at {len}");
        let same = worlds.entry(whole).or_insert_with(|| world.clone());
        assert_eq!(*same, world, "cut at {len}");
    }
}

#[test]
fn every_changed_byte_of_a_real_journal_is_damage() {
    let (_dir, path, bytes) = golden();
    let mut dice = Dice::new(20_261_121);
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << dice.roll(8);
        fs::write(&path, &changed).unwrap();
        let error = replay(&path).map(|_| ()).expect_err(&format!("byte {at} was changed and not noticed"));
        assert!(matches!(error, JournalError::Damaged { .. } | JournalError::Newer { .. }), "byte {at}: {error}");
    }
}
