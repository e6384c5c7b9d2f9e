//! What killed processes left behind: records, sockets, locks, worktrees and
//! branches that no plan needs, and sessions that no journal knows.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::{Finding, Fix, Patient, known_folders};
use crate::base::text::{count, list};
use crate::git::kept_folders;
use crate::host::control::{self, Liveness};
use crate::host::spec::HostFolder;
use crate::kernel::world::{PlanEnd, Run, World};
use crate::model::ids::StageId;
use crate::wire::DaemonRecord;

pub(super) fn look(patient: &Patient, world: Option<&World>, findings: &mut Vec<Finding>) {
    daemon(patient, findings);
    sessions(patient, world, findings);
    folders(patient, world, findings);
    match world.and_then(|world| world.run.as_ref()) {
        Some(run) => branches(patient, world, run, findings),
        // Without a journal that can be believed, whatever is there is what is left.
        None if findings.iter().any(|finding| finding.code.starts_with("journal-")) => {}
        None => forgotten(patient, findings),
    }
}

fn daemon(patient: &Patient, findings: &mut Vec<Finding>) {
    let path = patient.layout.daemon_record();
    let record = fs_err::read(&path).ok().and_then(|bytes| serde_json::from_slice::<DaemonRecord>(&bytes).ok());
    let Some(record) = record else {
        if patient.is_busy {
            findings.push(Finding::note(
                "writer",
                "a command is at work in this project right now",
                "look again when it is done",
            ));
        }
        return;
    };
    let answers = UnixStream::connect(&record.socket).is_ok();
    if patient.is_busy && !answers {
        let what =
            format!("process {} holds {} and does not answer", record.pid, patient.layout.writer_lock().display());
        findings.push(Finding::problem("daemon-mute", what, "it is starting, stopped by a debugger, or hangs").next(
            format!("look at .work/daemon.log; kill {} if it stays like this: the keeper starts another", record.pid),
        ));
    } else if !patient.is_busy && answers {
        let what = format!("daemon {} runs, and its lock is not where it was", record.pid);
        findings.push(
            Finding::problem(
                "daemon-unlocked",
                what,
                "somebody removed .work/ or writer.lock: it stops at its next event, and writes nothing more",
            )
            .next(format!("kill {}", record.pid)),
        );
    } else if !patient.is_busy {
        let what = format!("the daemon {} ended without taking leave", record.pid);
        findings.push(
            Finding::problem(
                "daemon-dead",
                what,
                "it was killed, or the machine went down; its keeper does not bring it back",
            )
            .fix(Fix::RemoveFile(path))
            .next("loom run"),
        );
        if record.socket.exists() {
            findings.push(
                Finding::problem(
                    "socket-dead",
                    format!("nobody listens at {}", record.socket.display()),
                    "a killed daemon left it",
                )
                .fix(Fix::RemoveFile(record.socket)),
            );
        }
        for lock in patient.git.own_ref_locks() {
            findings.push(
                Finding::problem(
                    "lock-dead",
                    format!("{} is there, and no daemon runs", lock.display()),
                    "a git command that was killed left it",
                )
                .fix(Fix::RemoveFile(lock)),
            );
        }
    }
}

/// Hosts that live and that the journal does not know, or knows as ended.
fn sessions(patient: &Patient, world: Option<&World>, findings: &mut Vec<Finding>) {
    let run = world.and_then(|world| world.run.as_ref());
    for dir in below(&patient.layout.sessions()) {
        let name = name_of(&dir);
        let is_known = run.is_some_and(|run| run.live_sessions().any(|session| session.id.as_str() == name));
        match control::is_alive(&dir) {
            Liveness::Alive if !is_known => {
                let pid = control::read_record(&HostFolder::new(&dir)).map_or(0, |record| record.host.pid);
                let why = "its journal is lost, or was put aside; it can be told nothing any more, and its stage cannot start";
                findings.push(
                    Finding::problem(
                        "session-unknown",
                        format!("session `{name}` lives (process {pid}), and the journal does not know it"),
                        why,
                    )
                    .next(format!("kill {pid}   (its host ends the agent; its worktree stays)")),
                );
            }
            Liveness::Unknown => {
                findings.push(
                    Finding::problem(
                        "session-unclear",
                        format!("whether session `{name}` lives cannot be said"),
                        "its lock cannot be looked at; nothing is killed on a guess",
                    )
                    .next(format!("see who may read {}", dir.display())),
                );
            }
            _ => {}
        }
    }
    let dead = |run: &&Run| {
        !patient.is_busy
            && run.live_sessions().any(|session| {
                session.host().is_some() && control::is_alive(&patient.layout.session(&session.id)) == Liveness::Dead
            })
    };
    if run.as_ref().is_some_and(dead) {
        findings.push(
            Finding::note("session-ended", "a session ended while no daemon ran", "the next one takes in what it left")
                .next("loom run"),
        );
    }
}

fn folders(patient: &Patient, world: Option<&World>, findings: &mut Vec<Finding>) {
    let run = world.and_then(|world| world.run.as_ref());
    let mut rubbish = 0;
    for dir in below(&patient.layout.worktrees()) {
        let folder = name_of(&dir);
        if folder.starts_with(".gone-") {
            rubbish += 1;
        } else if !dir.is_dir() || folder.starts_with('.') {
        } else if !patient.git.is_worktree(&dir) {
            let why =
                "it is no worktree of this repository, so it is not Loom's to touch; a stage of that name cannot start";
            findings.push(
                Finding::note("folder-foreign", format!(".worktrees/{folder} is in the way"), why)
                    .next(format!("mv .worktrees/{folder} <elsewhere>")),
            );
        } else if let Some(run) = run {
            findings.extend(dead_worktree(patient, world, run, &dir, &folder));
        }
    }
    if rubbish > 0 {
        findings.push(
            Finding::problem(
                "rubbish",
                format!("{} in .worktrees/ was not removed to the end", count(rubbish, "folder")),
                "its work is saved; a process was killed while it removed it",
            )
            .fix(Fix::Sweep),
        );
    }
    let kept = kept_folders(patient.layout);
    if !kept.is_empty() {
        let what = format!("{} kept as they were, because git could not hold them", count(kept.len(), "folder"));
        let why = list(kept.iter().map(|(_, path)| path.display()));
        findings.push(
            Finding::note("folder-kept", what, why).next("look into them, then: git worktree remove -f -f <folder>"),
        );
    }
    let gone = patient.git.forgotten_worktrees(patient.layout);
    if !gone.is_empty() && !patient.is_busy {
        let what =
            format!("git knows worktrees whose folders are gone: {}", list(gone.iter().map(|path| path.display())));
        findings.push(
            Finding::problem(
                "worktree-gone",
                what,
                "somebody removed the folder. Commits made there are rescued when git is told",
            )
            .fix(Fix::PruneWorktrees),
        );
    }
}

fn dead_worktree(patient: &Patient, world: Option<&World>, run: &Run, dir: &Path, folder: &str) -> Option<Finding> {
    let stage: StageId = StageId::new(folder.split('.').next()?).ok()?;
    let is_needed = run.end == PlanEnd::Open && known_folders(run).any(|known| known == folder);
    let is_leftover = world.is_some_and(|world| world.leftovers.contains_key(&stage));
    let is_used = run.live_sessions().any(|session| session.worktree == folder) || somebody_is_in(dir);
    if is_needed || is_leftover || is_used || patient.is_busy {
        return None;
    }
    let what = format!(".worktrees/{folder} belongs to no stage of this plan");
    let why = "an earlier plan, or a journal that was put aside, left it; nobody works in it";
    let fix = Fix::PutWorktreeAside { stage, folder: folder.to_owned() };
    Some(Finding::problem("worktree-dead", what, why).fix(fix).next("loom undo --list   (what was in it)"))
}

fn branches(patient: &Patient, world: Option<&World>, run: &Run, findings: &mut Vec<Finding>) {
    let Ok(refs) = patient.git.refs_below("refs/heads/loom/") else { return };
    for (name, _) in refs {
        let Some(stage) = name.strip_prefix("refs/heads/loom/").and_then(|id| StageId::new(id).ok()) else { continue };
        let is_needed = run.end != PlanEnd::Cleaned && run.stages.contains_key(&stage);
        let is_leftover = world.is_some_and(|world| world.leftovers.contains_key(&stage));
        let is_out = patient.git.checked_out_at(&crate::model::plan::stage_branch(&stage)).ok().flatten().is_some();
        if !is_needed && !is_leftover && !is_out && !patient.is_busy {
            let what = format!("branch `loom/{stage}` belongs to no stage of this plan");
            let finding =
                Finding::problem("branch-dead", what, "an earlier plan, or a journal that was put aside, left it");
            findings.push(finding.fix(Fix::RemoveBranch(stage)).next("loom undo --list   (what was on it)"));
        }
    }
}

/// Branches and worktrees of a plan that nobody knows: `.work/` went before anything had landed,
/// or is looked for in the wrong place.
fn forgotten(patient: &Patient, findings: &mut Vec<Finding>) {
    let branches = patient.git.refs_below("refs/heads/loom/").unwrap_or_default();
    let folders: Vec<PathBuf> =
        below(&patient.layout.worktrees()).into_iter().filter(|dir| patient.git.is_worktree(dir)).collect();
    if patient.is_busy || branches.is_empty() && folders.is_empty() {
        return;
    }
    let names = branches.iter().map(|(name, _)| name.trim_start_matches("refs/heads/").to_owned());
    let what = names.chain(folders.iter().map(|dir| format!(".worktrees/{}", name_of(dir))));
    let mut finding = Finding::note(
        "plan-forgotten",
        format!("there is no plan, and yet there are {}", list(what)),
        "somebody removed .work/ before anything had landed, or put its journal aside, or LOOM_WORK_DIR is another folder now",
    );
    for dir in &folders {
        for pid in who_is_in(dir) {
            finding = finding.next(format!("kill {pid}   (it still works in {})", dir.display()));
        }
    }
    findings.push(
        finding
            .next("restore .work/ from a backup; or")
            .next("loom init <plan>   (begins anew: whatever is in the way is rescued first)")
            .next("loom undo --list   (then: what was rescued)"),
    );
}

/// Whether a process of this machine works in `dir`.
fn somebody_is_in(dir: &Path) -> bool {
    !who_is_in(dir).is_empty()
}

/// The processes of this machine that work in `dir`. What cannot be looked at is another user's.
pub fn who_is_in(dir: &Path) -> Vec<String> {
    let Ok(dir) = dir.canonicalize() else { return Vec::new() };
    let is_in = |entry: &PathBuf| std::fs::read_link(entry.join("cwd")).is_ok_and(|cwd| cwd.starts_with(&dir));
    below(Path::new("/proc")).iter().filter(|entry| is_in(entry)).map(|entry| name_of(entry)).collect()
}

fn below(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs_err::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
