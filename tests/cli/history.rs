//! The journal against git: what was lost, put back or changed is noticed before anything is done twice.

use std::fs;
use std::path::Path;

use loom::journal::{Disk, Journal, Record, read};

use crate::env::{Env, stage};

fn records(path: &Path) -> Vec<Record> {
    let mut records = Vec::new();
    read(path, |record| records.push(record)).unwrap();
    records
}

/// Writes a journal anew, each record changed by `change` and the chain right again.
pub(crate) fn rewrite(path: &Path, mut change: impl FnMut(&mut Record)) {
    let records = records(path);
    fs::remove_file(path).unwrap();
    let mut journal = Journal::resume(Disk::open(path).unwrap(), &read(path, |_| {}).unwrap()).unwrap();
    for mut record in records {
        change(&mut record);
        journal.push(record.at, &record.cause, record.facts);
    }
    journal.commit().unwrap();
}

/// A project whose stage `a` has landed and whose stage `b` is held.
fn half_done() -> Env {
    let env = Env::of(&[stage("a").first("echo a >> @OUT@/runs"), stage("b").after(&["a"]).with("hold: true")]);
    env.run().ends(5);
    env
}

#[test]
fn git_knows_how_far_the_journal_is_after_every_run() {
    let env = half_done();
    let head = |env: &Env| {
        let text = env.read(".work/journal.jsonl");
        let last = text.lines().last().unwrap();
        let hash = last.rsplit_once("\"hash\":\"").unwrap().1.trim_end_matches("\"}").to_owned();
        format!("loom-journal 1\nseq {}\nhash {hash}", text.lines().count())
    };
    assert_eq!(env.git(&["cat-file", "-p", "refs/loom/journal"]), head(&env));
    env.loom(&["stage", "release", "b"]).ok();
    assert_eq!(env.git(&["cat-file", "-p", "refs/loom/journal"]), head(&env));
    env.finish();
    assert_eq!(env.git(&["cat-file", "-p", "refs/loom/journal"]), head(&env));
    assert_eq!(env.git(&["fsck", "--strict", "--no-dangling"]), "");
}

#[test]
fn a_landing_is_anchored_at_once() {
    let env = Env::new();
    env.fifo("go");
    env.load(&crate::env::plan(&[
        stage("a"),
        stage("b").after(&["a"]).first("echo b >> @OUT@/runs; read go < @OUT@/go"),
    ]));
    env.loom(&["run"]).ok();
    env.until_said("runs", "b");
    let old = env.read(".work/journal.jsonl");
    let shown = env.git(&["cat-file", "-p", "refs/loom/journal"]);
    let seq: usize = shown.lines().find_map(|line| line.strip_prefix("seq ")).unwrap().parse().unwrap();
    // The record that names the landing's commit is part of what is anchored.
    let proven = old.lines().position(|line| line.contains("\"change\":\"proven\"")).unwrap();
    assert!(seq > proven, "{seq} {proven}");
    env.go("go");
    env.settle();
}

#[test]
fn an_old_backup_is_noticed_and_nothing_is_done_twice() {
    let env = half_done();
    let path = env.repo.join(".work/journal.jsonl");
    let init = "plan-branch-made";
    let old = fs::read_to_string(&path).unwrap();
    // As it was before `a` ran.
    let cut: usize = old.lines().take_while(|line| !line.contains("\"started\"")).map(|line| line.len() + 1).sum();
    assert!(old[..cut].contains(init) && cut < old.len());
    fs::write(&path, &old[..cut]).unwrap();
    let tip = env.git(&["rev-parse", "loom/_plan/plan"]);
    env.loom(&["status"]).ok().has("an older copy was put back").has("loom doctor");
    for args in
        [&["run"][..], &["run", "--foreground"], &["stage", "hold", "a"], &["init", "doc/plans/plan.md", "--clean"]]
    {
        env.loom(args).ends(70).has("an older copy was put back").has("loom doctor");
    }
    assert_eq!((env.said("runs"), env.git(&["rev-parse", "loom/_plan/plan"])), ("a\n".to_owned(), tip));
    assert_eq!(fs::read_to_string(&path).unwrap(), old[..cut]);
    fs::write(&path, &old).unwrap();
    env.loom(&["stage", "release", "b"]).ok();
    env.finish();
    assert_eq!(env.said("runs"), "a\n");
}

#[test]
fn a_state_folder_that_is_gone_is_missed_once_something_has_landed() {
    let env = half_done();
    fs::remove_dir_all(env.repo.join(".work")).unwrap();
    env.loom(&["status"]).ends(70).has("there is none, and it had").has("loom doctor");
    env.loom(&["run"]).ends(70).has("there is none, and it had");
    env.loom(&["init", "doc/plans/plan.md"]).ends(70).has("loom doctor");
}

#[test]
fn an_edit_with_a_recomputed_chain_is_noticed() {
    let env = half_done();
    let path = env.repo.join(".work/journal.jsonl");
    let whole = fs::read(&path).unwrap();
    rewrite(&path, |_| {});
    assert_eq!(fs::read(&path).unwrap(), whole, "a journal is written in one way only");
    rewrite(&path, |record| {
        if record.seq == 1 {
            record.cause = "somebody else".to_owned();
        }
    });
    env.loom(&["status"]).ok().has("it was changed, or belongs to another history");
    env.loom(&["run"]).ends(70).has("it was changed, or belongs to another history");
    fs::write(&path, whole).unwrap();
    env.git(&["update-ref", "refs/loom/journal", &env.git(&["hash-object", "-w", "README.md"])]);
    env.loom(&["run"]).ends(70).has("does not hold what Loom writes there");
}

#[test]
fn a_journal_of_a_newer_loom_is_read_and_not_written() {
    let env = half_done();
    let path = env.repo.join(".work/journal.jsonl");
    let old = fs::read_to_string(&path).unwrap();
    let last = old.lines().last().unwrap();
    let of = |name: &str, json: &str| -> String {
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        value[name].as_str().unwrap_or_default().to_owned()
    };
    for (v, fact) in [(1, r#"{"fact":"moon-phase","full":true}"#), (2, r#"{"fact":"plan-completed"}"#)] {
        let body = format!(
            r#"{{"v":{v},"seq":{},"at":"{}","cause":"tomorrow","prev":"{}","facts":[{fact}]"#,
            old.lines().count() + 1,
            of("at", last),
            of("hash", last)
        );
        let line = format!("{body},\"hash\":\"{}\"}}\n", loom::base::text::sha256(body.as_bytes()));
        let newer = format!("{old}{line}");
        fs::write(&path, &newer).unwrap();
        let status = env.loom(&["status", "--json"]).ok().json();
        assert_eq!(status["stages"][0]["state"], "merged", "what is known is shown");
        assert!(status["notices"][0].as_str().unwrap().contains("was written by a newer loom"), "{status}");
        for args in [&["run"][..], &["stage", "release", "b"]] {
            env.loom(args).ends(1).has("was written by a newer loom").has("install the newer loom again");
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), newer);
    }
}
