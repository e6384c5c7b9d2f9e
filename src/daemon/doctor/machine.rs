//! What Loom needs from the machine and from the repository's settings.

use super::{Finding, Patient};
use crate::agent::environment::Environment;
use crate::kernel::world::Run;
use crate::model::plan::Agent;

/// Less free space than this, in bytes, is soon none.
const SPACE_MIN: u64 = 64 << 20;
/// Fewer open files at once are too few for a daemon with its sessions.
const FILES_MIN: u64 = 256;

pub(super) fn look(patient: &Patient, run: Option<&Run>, findings: &mut Vec<Finding>) {
    if let Err(error) = patient.git.check_ready() {
        findings.push(
            Finding::problem("git-unfit", error.to_string(), "Loom cannot work here like this")
                .next("git --version; git branch -m loom <another name>"),
        );
    } else if patient.git.version().is_ok_and(|version| version < (2, 41)) {
        let what = "this git has no --attr-source";
        findings.push(
            Finding::note("git-old", what, "merges are made in the proof checkout instead, which is a little slower")
                .next("install git 2.41 or newer"),
        );
    }
    configuration(patient, run, findings);
    if let Some(run) = run {
        agents(patient, run, findings);
    }
    limits(patient, findings);
}

fn configuration(patient: &Patient, run: Option<&Run>, findings: &mut Vec<Finding>) {
    let now = crate::git::fingerprint(&patient.git.common).ok();
    if let (Some(run), Some(now)) = (run, now)
        && run.ground.config != now
    {
        let what =
            "`.git/config`, a hook, `.git/info/attributes` or `.git/objects/info/alternates` changed since `loom init`";
        let why = "they can make git run programs or read other objects, and an agent can change them: Loom's own commands in worktrees stop until a person has said yes";
        findings.push(
            Finding::problem("git-config", what, why)
                .next("undo the change, or: loom run, then loom stage approve <gate>"),
        );
    }
    let Ok(repo) = git2::Repository::open(&patient.git.common) else { return };
    let Ok(config) = repo.config() else { return };
    if config.get_string("core.fsync").is_err() {
        let what = "your own commits are not synced (core.fsync is not set)";
        let why = "Loom's and its agents' are. A power cut can break a repository whose newest objects were not";
        findings.push(Finding::note("git-fsync", what, why).next("git config --global core.fsync all"));
    }
    if config.get_bool("core.ignorecase").unwrap_or(false) {
        let what = "this folder does not tell upper from lower case";
        let why = "two files or branches whose names differ only in that are one here, and a merge of both fails";
        findings.push(Finding::note("case-folding", what, why));
    }
}

fn agents(patient: &Patient, run: &Run, findings: &mut Vec<Finding>) {
    let environment = Environment::of_this_process();
    let open = run.stages.values().filter(|stage| !stage.state.is_final()).map(|stage| &stage.spec.agent);
    let mut said = Vec::new();
    for agent in open.filter(|agent| !matches!(agent, Agent::Command { .. })) {
        let Err(unfit) = crate::agent::preflight(agent, &environment, &patient.layout.project) else { continue };
        if !said.contains(&unfit.text) {
            said.push(unfit.text.clone());
            findings.push(
                Finding::problem(unfit.code.as_str(), unfit.text, "no session of it can start")
                    .next("mend that, then loom run"),
            );
        }
    }
}

fn limits(patient: &Patient, findings: &mut Vec<Finding>) {
    let layout = patient.layout;
    for place in [&layout.project, &layout.work] {
        let Ok(space) = rustix::fs::statvfs(place) else { continue };
        let (bytes, files) = (space.f_bavail * space.f_frsize, space.f_favail);
        if bytes < SPACE_MIN || (space.f_files > 0 && files < 1_000) {
            let what = format!("{} MiB and {files} files are free on the disk of {}", bytes >> 20, place.display());
            findings.push(
                Finding::problem("disk-full", what, "a full disk stops everything; nothing that was recorded is lost")
                    .next("free some space"),
            );
            break;
        }
    }
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    if let Some(files) = files.filter(|files| *files < FILES_MIN) {
        let what = format!("this shell allows {files} open files");
        findings.push(
            Finding::note("few-files", what, "each client and each session takes a few of the daemon's")
                .next("ulimit -n 1024, then loom run"),
        );
    }
    if layout.work.is_dir() && crate::base::watch::folder(&layout.work).is_ok_and(|changes| !changes.is_told()) {
        let what = "folders cannot be watched";
        let why =
            "fs.inotify.max_user_instances or max_user_watches is used up: requests of sandboxed agents wait longer";
        findings.push(Finding::note("no-inotify", what, why).next("sudo sysctl fs.inotify.max_user_instances=1024"));
    }
}
