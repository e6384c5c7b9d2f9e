//! Looks for damage and for what was left behind, says what it is and what to
//! type, and mends what it can prove is Loom's own and dead. Looking changes nothing.

mod leftovers;
mod machine;
mod state;

pub use leftovers::who_is_in;

use crate::base::fs::{Lock, is_locked};
use crate::base::layout::Layout;
use crate::checks::Operator;
use crate::git::{Git, GitError};
use crate::kernel::world::Run;
use crate::model::ids::StageId;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Something is wrong.
    Problem,
    /// Nothing is wrong; a person may want to know.
    Note,
}

/// One thing that was found.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Finding {
    /// Stable; explained in `doc/failure-guide.md`.
    pub code: &'static str,
    pub level: Level,
    pub what: String,
    pub why: String,
    /// What to type, or to do, next.
    pub next: Vec<String>,
    #[serde(skip)]
    pub fix: Option<Fix>,
    /// What was done about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fixed: Option<String>,
}

/// What `loom doctor --fix` may do. Nothing here destroys work: trees and branches are rescued
/// first, a journal and its anchor are moved aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fix {
    PutJournalAside,
    RemoveFile(std::path::PathBuf),
    WriteViews(Vec<StageId>),
    PutWorktreeAside { stage: StageId, folder: String },
    RemoveBranch(StageId),
    PruneWorktrees,
    Sweep,
}

impl Finding {
    fn new(code: &'static str, level: Level, what: impl Into<String>, why: impl Into<String>) -> Finding {
        Finding { code, level, what: what.into(), why: why.into(), next: Vec::new(), fix: None, fixed: None }
    }
    fn problem(code: &'static str, what: impl Into<String>, why: impl Into<String>) -> Finding {
        Finding::new(code, Level::Problem, what, why)
    }
    fn note(code: &'static str, what: impl Into<String>, why: impl Into<String>) -> Finding {
        Finding::new(code, Level::Note, what, why)
    }
    fn next(mut self, next: impl Into<String>) -> Finding {
        self.next.push(next.into());
        self
    }
    /// Says how it is mended, too.
    fn fix(mut self, fix: Fix) -> Finding {
        if self.next.is_empty() {
            self.next.push("loom doctor --fix".to_owned());
        }
        self.fix = Some(fix);
        self
    }
}

/// What every look needs.
struct Patient<'a> {
    layout: &'a Layout,
    git: &'a Git,
    /// Whether a daemon, or a command in its place, is at work.
    is_busy: bool,
}

/// Everything that is not as it should be. Changes nothing.
pub fn examine(layout: &Layout, git: &Git) -> Vec<Finding> {
    let is_busy = is_locked(&layout.writer_lock()).unwrap_or(false);
    let patient = Patient { layout, git, is_busy };
    if let Some(path) = git.in_the_way() {
        let what = format!("{} is no file", path.display());
        let why = "git and Loom read it, and whoever reads a pipe or a device waits for ever";
        return vec![Finding::problem("git-pipe", what, why).next(format!("rm {}", path.display()))];
    }
    let mut findings = Vec::new();
    let read = state::look(&patient, &mut findings);
    let run = read.as_ref().and_then(|read| read.world.run.as_ref());
    machine::look(&patient, run, &mut findings);
    leftovers::look(&patient, read.as_ref().map(|read| &read.world), &mut findings);
    findings
}

/// Mends what can be mended, under the writer's lock, and says so in each finding.
///
/// # Errors
/// When a daemon is at work: then nothing was touched.
pub fn mend(layout: &Layout, git: &Git, findings: &mut [Finding]) -> std::io::Result<()> {
    if findings.iter().all(|finding| finding.fix.is_none()) {
        return Ok(());
    }
    let wait = std::time::Duration::from_secs(2);
    let lock = Lock::take_within(&layout.writer_lock(), wait)?;
    let _lock = lock.ok_or_else(|| std::io::Error::new(std::io::ErrorKind::WouldBlock, "a daemon is at work"))?;
    for finding in findings {
        let Some(fix) = &finding.fix else { continue };
        match carry_out(layout, git, fix) {
            Ok(done) => finding.fixed = Some(done),
            Err(error) => finding.why = format!("{}; it could not be mended: {error}", finding.why),
        }
    }
    Ok(())
}

fn carry_out(layout: &Layout, git: &Git, fix: &Fix) -> Result<String, GitError> {
    match fix {
        Fix::PutJournalAside => state::put_journal_aside(layout, git),
        Fix::RemoveFile(path) => {
            fs_err::remove_file(path)?;
            Ok(format!("removed {}", path.display()))
        }
        Fix::WriteViews(stages) => state::write_views(layout, stages),
        Fix::PutWorktreeAside { stage, folder } => {
            let failed = std::cell::RefCell::new(None);
            let farewell = |stage: &StageId, folder: &str| {
                let operator = || Operator::record(&[&layout.worktrees(), &layout.cache()]);
                *failed.borrow_mut() = super::setup::tear_down(layout, operator, stage, folder).err();
            };
            let rescued = git.put_all_aside(layout, &[(stage.clone(), vec![folder.clone()])], &farewell)?;
            let text = removed(&format!(".worktrees/{folder}"), &rescued);
            Ok(match failed.into_inner() {
                Some(why) => format!("{text}; its teardown failed: {why}"),
                None => text,
            })
        }
        Fix::RemoveBranch(stage) => {
            let rescued = git.remove_branch(stage)?;
            Ok(removed(&crate::model::plan::stage_branch(stage), rescued.as_slice()))
        }
        Fix::PruneWorktrees => {
            git.prune_worktrees(layout)?;
            Ok("git has forgotten them".to_owned())
        }
        Fix::Sweep => {
            crate::git::sweep(layout);
            Ok("removed".to_owned())
        }
    }
}

fn removed(what: &str, rescued: &[String]) -> String {
    match rescued {
        [] => format!("removed {what}: every commit of it is kept elsewhere"),
        places => format!("removed {what}; its work is kept: {}", places.join(", ")),
    }
}

/// The folders that the plan's sessions work or worked in, with their stages.
fn known_folders(run: &Run) -> impl Iterator<Item = &str> {
    run.sessions.values().map(|session| session.worktree.as_str())
}
