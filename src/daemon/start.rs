//! The effect that starts a session: a worktree at the right commit, the files
//! the agent needs, and a host that waits at the start barrier.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::PoisonError;
use std::time::Duration;

use crate::agent::environment::Environment;
use crate::agent::{self, Unfit};
use crate::base::fs::remove_tree;
use crate::base::layout::Layout;
use crate::base::text::sha256;
use crate::checks::Lifeline;
use crate::daemon::executor::{Context, hold};
use crate::daemon::remains::WorkPlace;
use crate::daemon::sandbox::{self, WallsError};
use crate::daemon::setup::{self, Unready};
use crate::git::{Git, GitError};
use crate::host::control;
use crate::model::effect::Start;
use crate::model::event::{Event, StartFailure};
use crate::model::ids::StageId;
use crate::model::plan::stage_branch;
use crate::model::stage::BlockCode;

/// Why a session could not be started.
enum Trouble {
    Failure(StartFailure),
    Git(GitError),
    Io(std::io::Error),
}

impl From<Unready> for Trouble {
    fn from(unready: Unready) -> Self {
        match unready {
            Unready::Failure(failure) => Trouble::Failure(failure),
            Unready::Git(error) => Trouble::Git(error),
            Unready::Io(error) => Trouble::Io(error),
        }
    }
}

impl From<GitError> for Trouble {
    fn from(error: GitError) -> Self {
        Trouble::Git(error)
    }
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Trouble::Io(error)
    }
}

pub(super) fn start(context: &Context, start: &Start) -> Event {
    let session = start.session.clone();
    match hosted(context, start) {
        Ok((host, token_sha256)) => Event::SessionHosted { session, host, token_sha256 },
        Err(trouble) => {
            let why = match trouble {
                Trouble::Failure(failure) => failure,
                Trouble::Git(error) => StartFailure::Passing { text: error.to_string() },
                Trouble::Io(error) => StartFailure::Passing { text: error.to_string() },
            };
            tracing::warn!("session {session} could not be started: {why:?}");
            Event::StartFailed { session, why }
        }
    }
}

fn hosted(context: &Context, start: &Start) -> Result<(crate::model::session::HostIdentity, String), Trouble> {
    let environment = Environment::of_this_process();
    agent::preflight(&start.agent, &environment, &context.layout.project).map_err(|unfit| is_unfit(start, unfit))?;
    if start.sandbox.is_some() {
        sandbox::check(&environment).map_err(|unfit| is_unfit(start, unfit))?;
    }
    let git = context.git()?;
    // A gate is open now; the session starts when it is answered.
    context.check_config(&git).map_err(|_| Trouble::Failure(StartFailure::Interrupted))?;
    let place = context.place(&start.worktree);
    let _held = hold(&place);
    if setup::is_wanted(start) {
        prepare_worktree(context, &git, start)?;
        let lifeline = Lifeline::default();
        let preparing = || context.preparing.lock().unwrap_or_else(PoisonError::into_inner);
        preparing().insert(start.session.clone(), lifeline.clone());
        let prepared = setup::prepare(context, &git, start, &lifeline);
        preparing().remove(&start.session);
        prepared?;
        let (waiting, token) = host_at_barrier(context, start, &environment)?;
        return at_barrier(context, &git, start, &environment, (waiting, &token));
    }
    // The host comes up while git makes the worktree: it looks at it only behind the barrier.
    let (waiting, worktree) = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| host_at_barrier(context, start, &environment));
        let worktree = prepare_worktree(context, &git, start);
        (waiting.join(), worktree)
    });
    let (waiting, token) = waiting.map_err(|_| std::io::Error::other("starting the host broke off"))??;
    worktree?;
    at_barrier(context, &git, start, &environment, (waiting, &token))
}

/// Writes what the agent reads when it starts, and keeps the way to let it go.
fn at_barrier(
    context: &Context,
    git: &Git,
    start: &Start,
    environment: &Environment,
    (waiting, token): (control::Waiting, &str),
) -> Result<(crate::model::session::HostIdentity, String), Trouble> {
    write_files(context, git, start, environment)?;
    let host = waiting.host().clone();
    if let Ok(mut map) = context.waiting.lock() {
        map.insert(start.session.clone(), waiting);
    }
    Ok((host, sha256(token.as_bytes())))
}

fn host_at_barrier(
    context: &Context,
    start: &Start,
    environment: &Environment,
) -> std::io::Result<(control::Waiting, String)> {
    let token = prepare_folder(context, start)?;
    let loom = crate::base::process::installed_binary()?;
    let launch = agent::launch(start, &context.layout, &loom, environment)?;
    let place = WorkPlace { worktree: context.layout.worktree(&start.worktree), base: start.base.clone() };
    crate::base::fs::write_atomic(&context.layout.ground(&start.session), &serde_json::to_vec(&place)?)?;
    Ok((control::spawn(&context.layout.session(&start.session), &launch.spec)?, token))
}

/// What the agent reads when it starts: only now is its worktree there.
fn write_files(context: &Context, git: &Git, start: &Start, environment: &Environment) -> Result<(), Trouble> {
    let layout = &context.layout;
    let walls = match &start.sandbox {
        Some(wanted) => sandbox::walls(layout, git, start, wanted).map_err(|error| match error {
            WallsError::Unfit(unfit) => is_unfit(start, unfit),
            WallsError::Git(error) => Trouble::Git(error),
            WallsError::Io(error) => Trouble::Io(error),
        })?,
        None => agent::Walls::default(),
    };
    if start.sandbox.is_some() {
        sandbox::put_before(layout, git, &start.session)?;
    }
    let loom = crate::base::process::installed_binary()?;
    for file in agent::files(start, layout, &loom, environment, &walls) {
        crate::base::fs::write_atomic(&file.path, file.content.as_bytes())?;
    }
    Ok(())
}

fn is_unfit(start: &Start, Unfit { code, text }: Unfit) -> Trouble {
    permanent(start, code, text)
}

/// The session's private folder and its token. A host that an earlier daemon left at the
/// barrier goes away by itself, and is waited for.
fn prepare_folder(context: &Context, start: &Start) -> std::io::Result<String> {
    let layout = &context.layout;
    let dir = layout.session(&start.session);
    if dir.exists() {
        control::wait_end(&dir)?;
        remove_tree(&dir)?;
    }
    fs_err::create_dir_all(layout.sessions())?;
    std::fs::DirBuilder::new().mode(0o700).create(&dir)?;
    fs_err::create_dir_all(layout.outbox(&start.session))?;
    let token = format!("{}{}", uuid::Uuid::new_v4().simple(), uuid::Uuid::new_v4().simple());
    let path = layout.token(&start.session);
    crate::base::fs::write_atomic(&path, token.as_bytes())?;
    fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(token)
}

fn prepare_worktree(context: &Context, git: &Git, start: &Start) -> Result<(), Trouble> {
    let layout = &context.layout;
    write_ignore(&layout.worktrees())?;
    let branch = stage_branch(&start.stage);
    let dir = layout.worktree(&start.worktree);
    git.clear_stage_locks(&dir, &branch);
    if start.attempt == 1 && start.is_first && start.worktree == start.stage.as_str() {
        put_aside_leftovers(context, git, start)?;
    }
    if !git.is_worktree(&dir) || !reuse_worktree(layout, git, start, &dir)? {
        if git.is_broken_worktree(&dir) {
            let base = git.tip(&format!("refs/heads/{branch}"))?.unwrap_or_else(|| start.base.clone());
            git.rescue_broken_worktree(&start.stage, &dir, &base)?;
            remove_tree(&dir)?;
        }
        git.forget_worktree(&start.stage, &dir)?;
        if dir.exists() {
            let text = format!("{} is in the way: it is not a worktree of this repository", dir.display());
            return Err(permanent(start, BlockCode::WorktreeFailed, text));
        }
        free_branch(layout, git, start, &branch)?;
        git.add_worktree(&dir, &branch, &start.base)?;
    }
    tell_by_hand(&dir, start)
}

/// Before the first attempt there can only be what an earlier plan left under this name.
fn put_aside_leftovers(context: &Context, git: &Git, start: &Start) -> Result<(), Trouble> {
    let layout = &context.layout;
    let branch = stage_branch(&start.stage);
    let Some(tip) = git.tip_quickly(&format!("refs/heads/{branch}"))? else { return Ok(()) };
    if tip == start.base {
        return Ok(());
    }
    let farewell = |stage: &StageId, folder: &str| context.tear_down(stage, folder);
    git.put_all_aside(layout, &[(start.stage.clone(), vec![start.worktree.clone()])], &farewell)?;
    if git.checked_out_at(&branch)?.is_none() {
        git.remove_branch(&start.stage)?;
    }
    Ok(())
}

/// A later session goes on from the last commit; uncommitted work is rescued first.
/// Nothing is touched when the same conversation resumes with its tree as it left it.
/// False: what was there is kept elsewhere, and there is no worktree any more.
fn reuse_worktree(layout: &Layout, git: &Git, start: &Start, dir: &Path) -> Result<bool, Trouble> {
    let branch = stage_branch(&start.stage);
    git.restore_branch(&start.stage, dir, &start.base)?;
    let status = git.status(dir)?;
    let is_on_branch = status.branch.as_deref() == Some(&branch);
    if is_on_branch && (start.resumes || setup::work_among(layout, git, &start.worktree, status.dirty)?.is_empty()) {
        return Ok(true);
    }
    let is_there = git.start_over(layout, &start.stage, dir, &branch)?;
    setup::was_put_back(layout, &start.worktree)?;
    Ok(is_there)
}

/// The branch may still be checked out in a folder that is not used again, or that is gone.
fn free_branch(layout: &Layout, git: &Git, start: &Start, branch: &str) -> Result<(), Trouble> {
    let Some(dir) = git.checked_out_at(branch)? else { return Ok(()) };
    if dir == git.project {
        let text = format!("branch `{branch}` is checked out in {}: switch to another one", dir.display());
        return Err(permanent(start, BlockCode::WorktreeFailed, text));
    }
    if dir.exists() {
        // Its session is over, and so is the git command that held a lock there.
        git.clear_stage_locks(&dir, branch);
        git.detach_worktree(&dir)?;
    } else {
        git.prune_worktrees(layout)?;
    }
    Ok(())
}

/// An agent that a person opens by hand in the worktree is told whose it is.
fn tell_by_hand(dir: &Path, start: &Start) -> Result<(), Trouble> {
    let Some(settings) = agent::by_hand_settings(&start.agent)? else { return Ok(()) };
    let folder = dir.join(".claude");
    let path = folder.join("settings.local.json");
    if git_tracks(dir, ".claude/settings.local.json") {
        let text = "`.claude/settings.local.json` is tracked in this repository: it is meant to be local, \
                    remove it with `git rm --cached` and commit that";
        return Err(permanent(start, BlockCode::WorktreeFailed, text.to_owned()));
    }
    fs_err::create_dir_all(&folder)?;
    crate::base::fs::write_atomic(&path, settings.as_bytes())?;
    Ok(())
}

fn git_tracks(dir: &Path, path: &str) -> bool {
    let tracked = || -> Result<bool, git2::Error> {
        Ok(git2::Repository::open(dir)?.index()?.get_path(Path::new(path), 0).is_some())
    };
    tracked().unwrap_or(false)
}

fn permanent(start: &Start, code: BlockCode, text: String) -> Trouble {
    Trouble::Failure(StartFailure::Permanent { code, backend: start.agent.kind(), text })
}

/// A folder of Loom's in the user's checkout hides itself. Not synced: whoever opens the project
/// looks again.
pub(super) fn write_ignore(dir: &Path) -> std::io::Result<()> {
    fs_err::create_dir_all(dir)?;
    let ignore = dir.join(".gitignore");
    // A power cut may leave an empty one; what a person wrote there stays.
    let is_there = fs_err::read(&ignore).is_ok_and(|text| text.iter().any(|byte| !matches!(byte, 0 | b'\n')));
    if !is_there {
        crate::base::fs::write_atomic(&ignore, b"*\n")?;
    }
    Ok(())
}

/// Waits up to `grace` for a host to end by itself.
pub(super) fn ends_within(dir: &Path, grace: Duration) -> bool {
    if grace.is_zero() {
        return false;
    }
    let (sender, ended) = std::sync::mpsc::channel();
    let dir = dir.to_path_buf();
    // The waiter ends with its host at the latest, and hosts end.
    let waiter = std::thread::Builder::new().stack_size(64 << 10).spawn(move || {
        let _ = sender.send(control::wait_end(&dir).is_ok());
    });
    waiter.is_ok() && ended.recv_timeout(grace).unwrap_or(false)
}
