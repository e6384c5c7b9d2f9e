//! `.work/`: whose it is, whether it can be written, the journal, and views
//! that are not what the journal says.

use std::os::unix::fs::MetadataExt;

use super::{Finding, Fix, Patient};
use crate::base::layout::Layout;
use crate::base::text::count;
use crate::daemon::boot::{BootError, ReadOnly};
use crate::git::{Anchored, Git, GitError};
use crate::journal::{JournalError, Lost};
use crate::model::ids::StageId;
use crate::views::{self, Shape};

/// The journal's world, when it can be believed.
pub(super) fn look(patient: &Patient, findings: &mut Vec<Finding>) -> Option<ReadOnly> {
    let layout = patient.layout;
    let Ok(meta) = std::fs::metadata(&layout.work) else {
        findings.extend(lost_journal(patient));
        return None;
    };
    findings.extend(unusable(layout, &meta));
    let read = match ReadOnly::checked(layout, patient.git) {
        Ok(read) => read,
        Err(BootError::Journal(damage @ JournalError::Damaged { .. })) => {
            findings.push(journal(
                patient,
                "journal-damaged",
                &damage,
                "it was changed from outside, or the disk lost part of it",
            ));
            return None;
        }
        Err(error) => {
            let what = format!("the journal cannot be read: {error}");
            findings.push(
                Finding::problem("journal-unreadable", what, "nothing is known without it, and nothing starts")
                    .next("see whether the disk is well (dmesg), then restore .work/journal.jsonl from a backup"),
            );
            return None;
        }
    };
    if read.tail.torn_bytes > 0 && !patient.is_busy {
        let what = format!("the journal's last line is unfinished ({} bytes)", read.tail.torn_bytes);
        let why =
            "a writer was cut off; what it wrote was never acknowledged, and the next command that writes cuts it off";
        findings.push(Finding::note("journal-torn", what, why));
    }
    if let Some(trouble) = &read.trouble {
        findings.push(match trouble {
            JournalError::Lost { .. } => {
                journal(patient, "journal-lost", trouble, "going on from here would do again what was done already")
            }
            newer => Finding::problem(
                "journal-newer",
                newer.to_string(),
                "this version reads what it knows of it, and writes nothing",
            )
            .next("install the newer loom again"),
        });
        return None;
    }
    if let Ok(Anchored::Nothing) = patient.git.anchored()
        && read.world.run.as_ref().is_some_and(|run| run.stages.values().any(|stage| stage.proven.is_some()))
    {
        let what = "git does not know how far the journal is";
        let why = "refs/loom/journal is gone, or was never there: an old copy of the journal would not be noticed";
        findings.push(Finding::note("journal-unanchored", what, why).next("nothing: the next run writes it"));
    }
    views(patient, &read, findings);
    Some(read)
}

/// Whether somebody else's, or not writable.
fn unusable(layout: &Layout, meta: &std::fs::Metadata) -> Option<Finding> {
    let work = layout.work.display();
    let me = rustix::process::getuid().as_raw();
    if meta.uid() != me {
        return Some(
            Finding::problem(
                "work-foreign",
                format!("{work} belongs to user {}", meta.uid()),
                format!("you are user {me}: what one of you writes the other cannot change"),
            )
            .next(format!("sudo chown -R {me} {work}"))
            .next("or set LOOM_WORK_DIR to a folder of your own"),
        );
    } else if let Err(error) = rustix::fs::access(&layout.work, rustix::fs::Access::WRITE_OK) {
        return Some(
            Finding::problem(
                "work-read-only",
                format!("{work} cannot be written"),
                format!("{error}: nothing can be recorded, and nothing starts"),
            )
            .next("make it writable, or set LOOM_WORK_DIR to a folder that is"),
        );
    }
    None
}

fn lost_journal(patient: &Patient) -> Option<Finding> {
    let Ok(Anchored::At(anchor)) = patient.git.anchored() else { return None };
    let lost = JournalError::Lost { path: patient.layout.journal(), lost: Lost::Gone { anchored: anchor.seq } };
    Some(journal(patient, "journal-lost", &lost, "somebody removed .work/"))
}

fn journal(patient: &Patient, code: &'static str, trouble: &JournalError, why: &str) -> Finding {
    let why = format!("{why}. Work is not lost by it: {}", in_git(patient.git));
    Finding::problem(code, trouble.to_string(), why)
        .next("restore .work/journal.jsonl from the newest backup, and look again")
        .next("or loom doctor --fix   (puts it aside, with its anchor; then `loom init <plan>` begins anew)")
        .fix(Fix::PutJournalAside)
}

/// What git has, whatever the journal says.
fn in_git(git: &Git) -> String {
    let below = |prefix: &str| git.refs_below(prefix).unwrap_or_default();
    let plans: Vec<String> = below("refs/heads/loom/_plan/").into_iter().map(|(name, _)| name).collect();
    let stages = below("refs/heads/loom/").len() - plans.len();
    let mut has = vec![
        count(stages, "stage branch").replace("branchs", "branches"),
        count(below("refs/loom/rescue/").len(), "rescue"),
    ];
    has.extend(
        plans.iter().map(|name| format!("`{}` with everything that landed", name.trim_start_matches("refs/heads/"))),
    );
    format!("git has {}", has.join(", "))
}

pub(super) fn put_journal_aside(layout: &Layout, git: &Git) -> Result<String, GitError> {
    let mut done = Vec::new();
    if layout.journal().exists() {
        let aside = (1..).map(|n| layout.lost_journal(n)).find(|path| !path.exists()).unwrap_or_default();
        fs_err::rename(layout.journal(), &aside)?;
        crate::base::fs::sync_dir(&layout.work)?;
        done.push(format!("the journal is {}", aside.display()));
    }
    if let Some(name) = git.put_anchor_aside()? {
        done.push(format!("its anchor is {name}"));
    }
    done.push("next: loom init <plan>".to_owned());
    Ok(done.join("; "))
}

fn views(patient: &Patient, read: &ReadOnly, findings: &mut Vec<Finding>) {
    let mut odd = odd_views(patient.layout, read);
    if patient.is_busy && !odd.is_empty() {
        // The daemon may just have been writing them.
        let again = ReadOnly::open(patient.layout).map(|read| odd_views(patient.layout, &read)).unwrap_or_default();
        odd.retain(|one| again.contains(one));
    }
    for shape in [Shape::Edited, Shape::Missing] {
        let stages: Vec<StageId> = odd.iter().filter(|(_, is)| *is == shape).map(|(stage, _)| stage.clone()).collect();
        if stages.is_empty() {
            continue;
        }
        let names = crate::base::text::list(stages.iter().map(|stage| format!("stages/{stage}.md")));
        let finding = if shape == Shape::Edited {
            Finding::problem(
                "view-edited",
                format!("{names}: not what the journal says"),
                "edited by hand, or written before the last record. Editing a view changes nothing: use `loom stage …`",
            )
        } else {
            Finding::problem("view-missing", format!("{names}: missing"), "a view can be written again at any time")
        };
        findings.push(finding.fix(Fix::WriteViews(stages)));
    }
}

fn odd_views(layout: &Layout, read: &ReadOnly) -> Vec<(StageId, Shape)> {
    let Some(run) = &read.world.run else { return Vec::new() };
    let begun = run.stages.iter().filter(|(_, stage)| stage.attempts > 0);
    begun
        .map(|(id, _)| (id.clone(), views::shape(layout, run, id)))
        .filter(|(_, shape)| *shape != Shape::Right)
        .collect()
}

pub(super) fn write_views(layout: &Layout, stages: &[StageId]) -> Result<String, GitError> {
    let read = ReadOnly::open(layout).map_err(|error| std::io::Error::other(error.to_string()))?;
    if let Some(run) = &read.world.run {
        stages.iter().try_for_each(|stage| views::write_stage(layout, run, stage))?;
    }
    Ok("written again from the journal".to_owned())
}
