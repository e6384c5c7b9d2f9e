//! What goes when a stage is reset, a worktree is tidied or a plan is over, and
//! where it goes: commits and files to rescue refs, whatever git cannot hold to
//! `.worktrees/.kept/<stage>/<n>`, landed branches to `refs/loom/done/`.

use std::path::{Path, PathBuf};

use super::{Git, GitError};
use crate::base::fail::{self, Point};
use crate::base::fs::remove_tree;
use crate::base::layout::Layout;
use crate::model::ids::{Oid, PlanId, StageId};
use crate::model::plan::stage_branch;

/// What is done in a worktree when its work is safe, and before it goes: it is given the stage and
/// the folder.
pub type Farewell<'a> = &'a dyn Fn(&StageId, &str);

/// Removes a folder. Somebody else who removes it at that moment does the same.
pub(super) fn let_go(dir: &Path) -> std::io::Result<()> {
    match remove_tree(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !dir.exists() => Ok(()),
        result => result,
    }
}

impl Git {
    /// Rescues a worktree and removes it; git is told by [`Git::prune_worktrees`]. A folder that
    /// is no worktree of this repository is left alone. Returns where its work is now, if it
    /// had any that no ref has.
    pub fn put_aside(
        &self,
        layout: &Layout,
        stage: &StageId,
        folder: &str,
        farewell: Farewell,
    ) -> Result<Option<String>, GitError> {
        let dir = layout.worktree(folder);
        if !dir.exists() {
            return self.forget_worktree(stage, &dir);
        }
        if self.is_broken_worktree(&dir) {
            let Some(tip) = self.tip(&format!("refs/heads/{}", stage_branch(stage)))? else { return Ok(None) };
            let rescued = self.rescue_broken_worktree(stage, &dir, &tip)?;
            discard(layout, &dir, folder)?;
            self.forget_worktree(stage, &dir)?;
            return Ok(rescued);
        }
        if !self.is_worktree(&dir) {
            // Not ours any more: whatever it is now, it stays.
            return Ok(None);
        }
        let saved = if self.is_clean(&dir).unwrap_or(false) {
            self.rescue_history(stage, &dir)
        } else {
            self.rescue_worktree(stage, &dir)
        };
        match saved {
            Ok(saved) => {
                farewell(stage, folder);
                discard(layout, &dir, folder)?;
                // Git prunes no entry that a `git worktree add` which was killed has left locked.
                let forgotten = self.forget_worktree(stage, &dir)?;
                Ok(saved.or(forgotten))
            }
            Err(error) if error.is_killed() => Err(error),
            Err(error) => {
                tracing::warn!("{} is kept as it is: {error}", dir.display());
                match self.keep_folder(layout, stage, &dir) {
                    // Another command that tidies up was faster: it has saved what was here.
                    Err(_) if !dir.exists() => self.forget_worktree(stage, &dir),
                    kept => kept.map(Some),
                }
            }
        }
    }

    /// Makes a worktree hold its branch and nothing else but ignored files; what else was in it
    /// is rescued first. False: it could not be saved in git and was moved away as it is.
    pub fn start_over(&self, layout: &Layout, stage: &StageId, dir: &Path, branch: &str) -> Result<bool, GitError> {
        if let Err(error) = self.rescue_worktree(stage, dir) {
            if error.is_killed() {
                return Err(error);
            }
            tracing::warn!("{} is kept as it is: {error}", dir.display());
            self.keep_folder(layout, stage, dir)?;
            return Ok(false);
        }
        self.restore_worktree(dir, branch)?;
        Ok(true)
    }

    /// Rescues and removes everything of a stage but its landed commits.
    pub fn remove_stage(
        &self,
        layout: &Layout,
        stage: &StageId,
        folders: &[String],
        farewell: Farewell,
    ) -> Result<Vec<String>, GitError> {
        let mut rescued = self.put_all_aside(layout, &[(stage.clone(), folders.to_vec())], farewell)?;
        let branch = stage_branch(stage);
        self.clear_stage_locks(&layout.worktree(stage.as_str()), &branch);
        rescued.extend(self.remove_branch(stage)?);
        Ok(rescued)
    }

    /// Rescues and removes the branch of a stage, wherever it is not checked out.
    pub fn remove_branch(&self, stage: &StageId) -> Result<Option<String>, GitError> {
        let branch = stage_branch(stage);
        let Some(tip) = self.tip(&format!("refs/heads/{branch}"))? else { return Ok(None) };
        let rescued = self.rescue_branch(stage, &branch)?;
        self.ref_transaction(|| Ok(format!("delete refs/heads/{branch} {tip}\n")), &["refs/heads/loom"])?;
        Ok(rescued)
    }

    /// Rescues and removes every worktree of these stages.
    pub fn put_all_aside(
        &self,
        layout: &Layout,
        stages: &[(StageId, Vec<String>)],
        farewell: Farewell,
    ) -> Result<Vec<String>, GitError> {
        sweep(layout);
        let mut rescued = Vec::new();
        for (stage, folders) in stages {
            for folder in folders {
                rescued.extend(self.put_aside(layout, stage, folder, farewell)?);
            }
        }
        self.prune_worktrees(layout)?;
        Ok(rescued)
    }

    /// After the plan's end: removes all worktrees and keeps the branches under
    /// `refs/loom/done/<plan>/`. What an earlier plan of this name has there is rescued.
    pub fn clean_plan(
        &self,
        layout: &Layout,
        plan: &PlanId,
        stages: &[(StageId, Vec<String>)],
        farewell: Farewell,
    ) -> Result<Vec<String>, GitError> {
        let mut rescued = self.put_all_aside(layout, stages, farewell)?;
        let mut instructions = String::new();
        for (stage, _) in stages {
            let branch = stage_branch(stage);
            // A transaction that a power cut has ended locked all of them.
            self.clear_stage_locks(&layout.worktree(stage.as_str()), &branch);
            let Some(tip) = self.tip(&format!("refs/heads/{branch}"))? else { continue };
            let done = format!("refs/loom/done/{plan}/{stage}");
            let old = self.tip(&done)?;
            if let Some(old) = &old {
                rescued.extend(self.rescue_commit(stage, old, Some(&done))?);
            }
            rescued.extend(self.rescue_reflog(stage, &branch)?);
            let old = old.map_or_else(|| "0".repeat(tip.as_str().len()), |old| old.to_string());
            instructions.push_str(&format!("update {done} {tip} {old}\ndelete refs/heads/{branch} {tip}\n"));
        }
        if instructions.is_empty() {
            self.settle_ref(&format!("refs/loom/done/{plan}"))?;
            self.settle_ref("refs/heads/loom")?;
        } else {
            self.ref_transaction(|| Ok(instructions), &["refs/loom/done", "refs/heads/loom"])?;
        }
        Ok(rescued)
    }

    /// What git keeps of worktrees below `.worktrees/` whose folders are gone, and what a power
    /// cut has left of any: an entry that names no folder is nobody's, to git as well.
    pub fn forgotten_worktrees(&self, layout: &Layout) -> Vec<PathBuf> {
        let ours = layout.worktrees();
        let entries = fs_err::read_dir(self.common.join("worktrees")).into_iter().flatten().flatten();
        let is_gone = |admin: &PathBuf| {
            let pointer = fs_err::read_to_string(admin.join("gitdir")).unwrap_or_default();
            let there = Path::new(pointer.trim_matches(['\n', ' ', '\0']));
            let is_nobodys = there.as_os_str().is_empty();
            (is_nobodys || there.starts_with(&ours) && !there.exists()) && !admin.join("locked").exists()
        };
        entries.map(|entry| entry.path()).filter(is_gone).collect()
    }

    /// Makes git forget the worktrees below `.worktrees/` whose folders are gone, and no others.
    /// Commits that only such a worktree had are rescued.
    pub fn prune_worktrees(&self, layout: &Layout) -> Result<(), GitError> {
        for admin in self.forgotten_worktrees(layout) {
            let pointer = fs_err::read_to_string(admin.join("gitdir")).unwrap_or_default();
            let there = Path::new(pointer.trim());
            let folder = there.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
            let stage = folder.split('.').next().and_then(|id| StageId::new(id).ok());
            let commits = super::rescue::left_in(&admin);
            self.rescue_commits(&stage.unwrap_or_else(nobodys), &commits)?;
            let_go(&admin)?;
        }
        Ok(())
    }

    /// Makes the branch of a stage again where somebody deleted it: at the newest commit that its
    /// worktree was at, else at `base`.
    pub fn restore_branch(&self, stage: &StageId, dir: &Path, base: &Oid) -> Result<(), GitError> {
        let name = format!("refs/heads/{}", stage_branch(stage));
        if self.tip(&name)?.is_some() {
            return Ok(());
        }
        let history = self.history_of(stage, dir);
        let newest = history.iter().find(|commit| self.is_ancestor(base, commit).unwrap_or(false)).unwrap_or(base);
        self.swap_ref(&name, None, newest, "loom: the branch was deleted")
    }

    /// Moves a worktree away as it is, whatever it holds, and lets go of its branch. It stays
    /// a worktree, locked, until a person removes it.
    fn keep_folder(&self, layout: &Layout, stage: &StageId, dir: &Path) -> Result<String, GitError> {
        let repo = git2::Repository::open(dir)?;
        let name = |n: u32| format!(".kept/{stage}/{n}");
        let free = (1..).map(name).find(|name| !layout.worktree(name).exists()).unwrap_or_default();
        let target = layout.worktree(&free);
        fs_err::create_dir_all(target.parent().unwrap_or(&target))?;
        // Locked first: from here on git forgets it at no point.
        crate::base::fs::write_durable(&repo.path().join("locked"), b"kept by loom: `loom undo --list`\n")?;
        if let Ok(head) = self.head_of(dir) {
            let set = ["update-ref", "--no-deref", "-m", "loom: keep", "HEAD", head.as_str()];
            super::command::run(self.in_dir(dir, &set), None)?;
        }
        super::nested::untie(dir, &repo)?;
        fs_err::rename(dir, &target)?;
        crate::base::fs::sync_dir(target.parent().unwrap_or(&target))?;
        self.run(&["worktree", "repair", &target.display().to_string()])?;
        Ok(format!(".worktrees/{free}"))
    }
}

/// The name under which work of no particular stage is put aside.
fn nobodys() -> StageId {
    StageId::new("worktrees").unwrap_or_else(|_| unreachable!("it is a valid id"))
}

/// Folders that were kept as they were, as (`<stage>/<n>`, path).
pub fn kept_folders(layout: &Layout) -> Vec<(String, PathBuf)> {
    let below = |dir: &Path| -> Vec<PathBuf> {
        let entries = fs_err::read_dir(dir).map(|entries| entries.flatten().map(|entry| entry.path()).collect());
        entries.unwrap_or_default()
    };
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut kept = Vec::new();
    for stage in below(&layout.worktree(".kept")) {
        kept.extend(below(&stage).into_iter().map(|dir| (format!("{}/{}", name(&stage), name(&dir)), dir)));
    }
    kept.sort();
    kept
}

const RUBBISH: &str = ".gone-";

/// Removes a folder whose work is saved. Renamed first, so that what a crash leaves is known as rubbish.
fn discard(layout: &Layout, dir: &Path, folder: &str) -> Result<(), GitError> {
    let names = (1..).map(|n: u32| layout.worktree(&format!("{RUBBISH}{folder}.{n}")));
    let rubbish = names.into_iter().find(|path| !path.exists()).unwrap_or_else(|| dir.to_path_buf());
    fail::point(Point::BeforeWorktreeRemove)?;
    match fs_err::rename(dir, &rubbish) {
        // Another command that tidies up was faster: its work was saved by both.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !dir.exists() => return Ok(()),
        renamed => renamed?,
    }
    throw_away(&rubbish);
    fail::point(Point::AfterWorktreeRemove)?;
    Ok(())
}

/// Removes what was thrown away by a process that did not come to the end of it.
pub fn sweep(layout: &Layout) {
    for entry in fs_err::read_dir(layout.worktrees()).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(RUBBISH) {
            throw_away(&entry.path());
        }
    }
}

fn throw_away(dir: &Path) {
    if let Err(error) = remove_tree(dir)
        && dir.exists()
    {
        tracing::warn!("{error}: it cannot be removed");
    }
}
