//! What the plan's author runs around an agent: `setup` and `before_stage` in its worktree before
//! it starts, `teardown` before the worktree goes; and `setup` in the proof checkout.
//!
//! What was done in a worktree is in a record of its own, bound to that very folder: a daemon that
//! was killed in between finds out whether the setup came to its end, and runs it once more if not.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::base::fail::{self, Point};
use crate::base::fs::write_atomic;
use crate::base::layout::Layout;
use crate::base::text::{printable, sha256};
use crate::checks::{self, Lifeline, Operator, Place, Preparation, Script};
use crate::daemon::executor::Context;
use crate::daemon::land::evidence_folder;
use crate::git::{Git, GitError, Own};
use crate::kernel::text;
use crate::model::check::Setup;
use crate::model::effect::Start;
use crate::model::event::{Event, StartFailure};
use crate::model::ids::{Oid, StageId};
use crate::model::limits::SETUP_LEFT_MAX;
use crate::model::session::Preparing;
use crate::model::stage::{BlockCode, CheckResult};

/// Largest script that is searched for what it calls, in bytes.
const SCRIPT_BYTES_MAX: u64 = 1 << 20;

/// What was done in a worktree.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    /// Tells this folder from another one at the same place.
    ground: String,
    working_dir: String,
    teardown: Vec<String>,
    /// Digest of the setup that came to its end here.
    done: Option<String>,
    /// Files that it left and that git shows, with digests: nobody's uncommitted work.
    left: BTreeMap<String, String>,
}

/// Why a worktree is not ready for an agent.
pub(super) enum Unready {
    Failure(StartFailure),
    Git(GitError),
    Io(std::io::Error),
}

impl From<GitError> for Unready {
    fn from(error: GitError) -> Self {
        Unready::Git(error)
    }
}

impl From<std::io::Error> for Unready {
    fn from(error: std::io::Error) -> Self {
        Unready::Io(error)
    }
}

/// Whether something comes before the agent.
pub(super) fn is_wanted(start: &Start) -> bool {
    !(start.setup.is_empty() && start.teardown.is_empty() && start.before.is_empty())
}

/// Makes a worktree ready for its agent: runs the setup unless it came to its end here before,
/// then looks at what must hold before the stage.
pub(super) fn prepare(context: &Context, git: &Git, start: &Start, lifeline: &Lifeline) -> Result<(), Unready> {
    let (layout, folder) = (&context.layout, start.worktree.as_str());
    let dir = layout.worktree(folder);
    let cwd = dir.join(&start.working_dir);
    if !cwd.is_dir() {
        let what = if start.setup.is_empty() { "before_stage" } else { "setup" };
        let text = format!(
            "`{what}` cannot run: the working_dir `{}` is not there at {}",
            start.working_dir,
            start.base.short()
        );
        return Err(permanent(start, BlockCode::SetupFailed, text));
    }
    fs_err::create_dir_all(layout.setups())?;
    let ground = ground(&dir)?;
    let mut record = read(layout, folder).filter(|record| record.ground == ground).unwrap_or_default();
    let wanted = sha256(format!("{}\0{}", start.working_dir, start.setup.join("\0")).as_bytes());
    let is_done = start.setup.is_empty() || record.done.as_ref() == Some(&wanted);
    record = Record {
        ground,
        working_dir: start.working_dir.clone(),
        teardown: start.teardown.clone(),
        done: record.done.filter(|_| is_done),
        left: record.left,
    };
    write(layout, folder, &record)?;
    if is_done && start.before.is_empty() {
        return Ok(());
    }
    let known = shown(git, &dir)?;
    if !is_done {
        fail::point(Point::BeforeSetUp)?;
        set_up(context, start, &cwd, lifeline)?;
        fail::point(Point::AfterSetUp)?;
    }
    if !start.before.is_empty() {
        fail::point(Point::BeforeLookBefore)?;
        look_before(context, start, &cwd, lifeline)?;
        fail::point(Point::AfterLookBefore)?;
    }
    let mut left = shown(git, &dir)?;
    left.retain(|path, digest| known.get(path) != Some(digest));
    if left.len() > SETUP_LEFT_MAX {
        let some: Vec<String> = left.into_keys().collect();
        let text = format!(
            "`setup` made files that git does not ignore: {}. Add them to `.gitignore`",
            text::some_files(&some)
        );
        return Err(permanent(start, BlockCode::SetupFailed, text));
    }
    record.left.extend(left);
    record.done = (!start.setup.is_empty()).then_some(wanted);
    write(layout, folder, &record)?;
    Ok(())
}

fn set_up(context: &Context, start: &Start, cwd: &Path, lifeline: &Lifeline) -> Result<(), Unready> {
    let layout = &context.layout;
    let log = layout.setup_log(&start.worktree);
    fs_err::write(&log, "")?;
    context.send(None, Event::Preparing { session: start.session.clone(), what: Preparing::SetUp });
    let began = Instant::now();
    let preparation = Preparation {
        commands: &start.setup,
        cwd,
        environment: environment(layout, context.operator(), start.stage.as_str())?,
        work: &layout.work,
        log: Some(log),
        evidence: PathBuf::new(),
        lock: Some(layout.setup_lock(&start.worktree)),
        stops: true,
    };
    match checks::carry_out(&preparation, lifeline) {
        Ok(None) => {
            let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            context.send(None, Event::SetUp { session: start.session.clone(), duration_ms });
            Ok(())
        }
        Ok(Some(failed)) => {
            let text = format!("setup failed: {}. All of its output: `loom logs {}`", failure(&failed), start.stage);
            Err(permanent(start, BlockCode::SetupFailed, text))
        }
        Err(_) if lifeline.is_cut() => Err(Unready::Failure(StartFailure::Interrupted)),
        Err(error) => Err(Unready::Failure(StartFailure::Passing { text: error.to_string() })),
    }
}

/// What must hold on the base, in the worktree that is at it and where no agent has been yet.
fn look_before(context: &Context, start: &Start, cwd: &Path, lifeline: &Lifeline) -> Result<(), Unready> {
    let layout = &context.layout;
    context.send(None, Event::Preparing { session: start.session.clone(), what: Preparing::Before });
    let place = Place {
        cwd,
        work: &layout.work,
        evidence: evidence_folder(layout, start.stage.as_str(), &start.base),
        environment: environment(layout, context.operator(), start.stage.as_str())?,
        tracked: None,
    };
    let results = match checks::run_checks(&start.before, &place, lifeline) {
        Ok(results) => results,
        Err(_) if lifeline.is_cut() => return Err(Unready::Failure(StartFailure::Interrupted)),
        Err(error) => return Err(Unready::Failure(StartFailure::Passing { text: error.to_string() })),
    };
    if let Some(failed) = results.iter().find(|result| !result.passed) {
        let id = &start.stage;
        let text = format!(
            "`before_stage` does not hold at {}: {}. No agent was started. Is the work there already: \
             `loom stage skip {id} --go-on --reason \"…\"`; is the check wrong: `loom plan apply`, then `loom stage retry {id}`; \
             has the base changed: `loom stage reset {id} --reason \"…\"`",
            start.base.short(),
            failure(failed)
        );
        return Err(permanent(start, BlockCode::BeforeFailed, text));
    }
    context.send(None, Event::BeforeHeld { session: start.session.clone(), checks: results });
    Ok(())
}

/// Runs the teardown of a worktree whose work is safe and that is about to be removed. The error
/// says why it did not do its work.
pub(super) fn tear_down(
    layout: &Layout,
    operator: impl FnOnce() -> Operator,
    stage: &StageId,
    folder: &str,
) -> Result<(), String> {
    let Some(record) = read(layout, folder) else { return Ok(()) };
    let dir = layout.worktree(folder);
    // Whatever lies there now, another worktree was set up.
    let is_it = ground(&dir).is_ok_and(|ground| ground == record.ground);
    let done = if is_it && !record.teardown.is_empty() {
        fail::pass(Point::BeforeTearDown);
        let done = clear_up(layout, &operator(), stage, folder, &record);
        fail::pass(Point::AfterTearDown);
        done
    } else {
        Ok(())
    };
    let _ = fs_err::remove_file(layout.setup_record(folder));
    done
}

fn clear_up(
    layout: &Layout,
    operator: &Operator,
    stage: &StageId,
    folder: &str,
    record: &Record,
) -> Result<(), String> {
    let dir = layout.worktree(folder);
    let cwd = Some(dir.join(&record.working_dir)).filter(|cwd| cwd.is_dir()).unwrap_or(dir);
    let preparation = Preparation {
        commands: &record.teardown,
        cwd: &cwd,
        environment: environment(layout, operator, stage.as_str()).map_err(|error| error.to_string())?,
        work: &layout.work,
        log: Some(layout.setup_log(folder)),
        evidence: PathBuf::new(),
        lock: Some(layout.setup_lock(folder)),
        stops: false,
    };
    match checks::carry_out(&preparation, &Lifeline::default()) {
        Ok(None) => Ok(()),
        Ok(Some(failed)) => Err(format!("{}. All of its output: `loom logs {stage}`", failure(&failed))),
        Err(error) => Err(error.to_string()),
    }
}

/// Runs setups in the proof checkout, which holds `tree`, unless the last one there was the same and
/// everything that it needs is as it was. Returns the command that failed.
pub(super) fn in_proof(
    layout: &Layout,
    own: &Own,
    operator: &Operator,
    setups: &[Setup],
    (tree, evidence, lifeline): (&Oid, &Path, &Lifeline),
) -> Result<Option<CheckResult>, String> {
    let io = |error: std::io::Error| error.to_string();
    if setups.is_empty() {
        return Ok(None);
    }
    let files = own.blobs().map_err(|error| error.to_string())?;
    let script = |path: &str| {
        let path = own.proof.join(path);
        let meta = path.symlink_metadata().ok()?;
        if meta.is_symlink() {
            return Some(Script::Link(std::fs::read_link(path).ok()?.display().to_string()));
        }
        let is_small = meta.is_file() && meta.len() <= SCRIPT_BYTES_MAX;
        is_small.then(|| fs_err::read_to_string(path).ok().map(Script::Text))?
    };
    let wanted = checks::inputs(setups, &files, &script);
    let marker = own.set_up_marker();
    if fs_err::read_to_string(&marker).is_ok_and(|done| done == wanted) {
        return Ok(None);
    }
    forget_in_proof(own);
    fail::point(Point::BeforeProofSetUp).map_err(io)?;
    for setup in setups {
        let cwd = own.proof.join(&setup.working_dir);
        if !cwd.is_dir() {
            continue;
        }
        let mut environment = operator.prepare(&own.home).map_err(io)?;
        environment.push(("LOOM_STAGE".to_owned(), "_proof".to_owned()));
        let preparation = Preparation {
            commands: &setup.commands,
            cwd: &cwd,
            environment,
            work: &layout.work,
            log: None,
            evidence: evidence.join("setup"),
            lock: None,
            stops: true,
        };
        let failed = checks::carry_out(&preparation, lifeline).map_err(|error| error.to_string())?;
        if let Some(failed) = failed {
            let why = failed.why.map(|why| format!("setup failed: {why}"));
            return Ok(Some(CheckResult { why, ..failed }));
        }
    }
    // What is proven is exactly what would land.
    own.put_back(tree).map_err(|error| error.to_string())?;
    // The next checkout removes what git does not ignore: then it has to be made again.
    fail::point(Point::AfterProofSetUp).map_err(io)?;
    if !own.has_untracked() {
        fs_err::write(&marker, &wanted).map_err(io)?;
    }
    Ok(None)
}

/// Something in the proof checkout is not as it was left.
pub(super) fn forget_in_proof(own: &Own) {
    let _ = fs_err::remove_file(own.set_up_marker());
}

/// The uncommitted paths of a worktree that are not just what its setup has left there.
pub(super) fn work_among(
    layout: &Layout,
    git: &Git,
    folder: &str,
    dirty: Vec<String>,
) -> Result<Vec<String>, GitError> {
    let dir = layout.worktree(folder);
    let left = match read(layout, folder) {
        Some(record) if !dirty.is_empty() && ground(&dir).is_ok_and(|ground| ground == record.ground) => record.left,
        _ => return Ok(dirty),
    };
    if left.is_empty() {
        return Ok(dirty);
    }
    let mut now = shown(git, &dir)?;
    now.retain(|path, digest| left.get(path) != Some(digest));
    Ok(now.into_keys().collect())
}

/// The worktree was put back to its commit: what git showed of the setup is gone.
pub(super) fn was_put_back(layout: &Layout, folder: &str) -> std::io::Result<()> {
    match read(layout, folder) {
        Some(record) if !record.left.is_empty() => {
            write(layout, folder, &Record { done: None, left: BTreeMap::new(), ..record })
        }
        _ => Ok(()),
    }
}

/// What git shows as not committed, with digests.
fn shown(git: &Git, dir: &Path) -> Result<BTreeMap<String, String>, GitError> {
    let digest = |path: &str| {
        let full = dir.join(path);
        match full.symlink_metadata() {
            Ok(meta) if meta.is_symlink() => {
                std::fs::read_link(&full).map(|to| to.display().to_string()).unwrap_or_default()
            }
            Ok(meta) if meta.is_file() && meta.len() <= 1 << 20 => {
                fs_err::read(&full).map(|bytes| sha256(&bytes)).unwrap_or_default()
            }
            Ok(meta) => format!("{} {} {}.{}", meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()),
            Err(_) => "gone".to_owned(),
        }
    };
    Ok(git.dirty_files(dir)?.into_iter().map(|path| (path.clone(), digest(&path))).collect())
}

fn environment(layout: &Layout, operator: &Operator, stage: &str) -> std::io::Result<Vec<(String, String)>> {
    // Worktrees that are made ready at the same time share the home.
    static HOME: Mutex<()> = Mutex::new(());
    let _held = HOME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut environment = operator.prepare(&layout.setup_home())?;
    environment.push(("LOOM_STAGE".to_owned(), stage.to_owned()));
    Ok(environment)
}

/// A command that failed, why, and its last lines.
fn failure(failed: &CheckResult) -> String {
    const LINES: usize = 3;
    let lines: Vec<&str> = failed.tail.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines[lines.len().saturating_sub(LINES)..].join(" | ");
    let last = printable(&last);
    let why = failed.why.as_deref().unwrap_or("it failed");
    let command = text::short_command(&failed.command);
    if last.is_empty() { format!("`{command}`: {why}") } else { format!("`{command}`: {why}: {last}") }
}

fn permanent(start: &Start, code: BlockCode, text: String) -> Unready {
    Unready::Failure(StartFailure::Permanent { code, backend: start.agent.kind(), text })
}

/// Tells a worktree from another one that is made at the same place later.
fn ground(dir: &Path) -> std::io::Result<String> {
    let meta = fs_err::symlink_metadata(dir.join(".git"))?;
    Ok(format!("{} {}.{}", meta.ino(), meta.mtime(), meta.mtime_nsec()))
}

fn read(layout: &Layout, folder: &str) -> Option<Record> {
    serde_json::from_slice(&fs_err::read(layout.setup_record(folder)).ok()?).ok()
}

fn write(layout: &Layout, folder: &str, record: &Record) -> std::io::Result<()> {
    write_atomic(&layout.setup_record(folder), &serde_json::to_vec(record)?)
}
