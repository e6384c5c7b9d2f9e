//! Runs effects, each on a thread of its own, and turns what happened into an
//! event. A failed effect is an event too: deciding what it means is kernel work.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::base::fail::{self, Point};
use crate::base::fs::remove_tree;
use crate::base::layout::Layout;
use crate::base::process;
use crate::checks::{Lifeline, Operator};
use crate::daemon::checkout::{Checkout, Inside};
use crate::daemon::dispatcher::Message;
use crate::git::{Anchored, Farewell, Followed, Git, GitError, Own, Refs};
use crate::host::control::{self, Waiting};
use crate::kernel::World;
use crate::model::anchor::Anchor;
use crate::model::effect::Effect;
use crate::model::event::{Event, Inspection, RefsSeen, RequestId, StartFailure};
use crate::model::ids::{Oid, SessionId, StageId};
use crate::model::plan::stage_branch;
use crate::model::session::{Exit, SessionState};
use crate::model::terminal::Terminal;
use crate::terminal;

/// Shared by all effect threads.
pub(super) struct Context {
    pub(super) layout: Layout,
    /// Opened at the first effect that needs it.
    git: Mutex<Option<Git>>,
    own: Mutex<Option<Own>>,
    pub(super) checkout: Checkout,
    /// The accepted fingerprint of the repository's configuration.
    config: Mutex<String>,
    /// The journal's newest durable record that this process wrote.
    head: Mutex<Option<Anchor>>,
    /// Worktrees, each with what its preparation or removal holds.
    places: Mutex<BTreeMap<String, Arc<Mutex<()>>>>,
    /// Sessions whose worktree is being prepared.
    pub(super) preparing: Mutex<BTreeMap<SessionId, Lifeline>>,
    /// Hosts that wait at the start barrier.
    pub(super) waiting: Mutex<BTreeMap<SessionId, Waiting>>,
    /// When each silent session was looked at last.
    looks: super::look::Looks,
    /// The operator's environment as this daemon was started with it.
    operator: OnceLock<Arc<Operator>>,
    sender: Sender<Message>,
}

/// The proof checkout, and nobody else in it.
pub(super) struct Entered<'a> {
    pub(super) inside: MutexGuard<'a, Inside>,
    pub(super) git: Git,
    pub(super) own: Own,
    pub(super) programs: Programs,
}

/// A digest of all programs on `PATH`, and those that are not as they were. None: all are.
type Changed = Option<(String, Vec<String>)>;

/// A look at the programs on `PATH`, which takes its time while the checkout is made ready.
pub(super) struct Programs {
    look: Option<JoinHandle<Changed>>,
    /// The digest that a person has accepted.
    approved: Option<String>,
    /// What the look has said, when it is over.
    are_known: bool,
}

impl Programs {
    fn look(context: &Context, approved: Option<&String>) -> std::io::Result<Programs> {
        let operator = Arc::clone(context.operator());
        let look = std::thread::Builder::new().name("path".to_owned()).spawn(move || operator.changed_programs())?;
        Ok(Programs { look: Some(look), approved: approved.cloned(), are_known: false })
    }

    /// Whether a command may run: not when there are other programs than a person knows of, who is
    /// asked then. Waits for the look to be over.
    pub(super) fn are_known(&mut self, context: &Context) -> Result<bool, String> {
        let Some(look) = self.look.take() else { return Ok(self.are_known) };
        let changed = look.join().map_err(|_| "looking at PATH broke off".to_owned())?;
        match changed.filter(|(now, _)| self.approved.as_ref() != Some(now)) {
            None => self.are_known = true,
            Some((fingerprint, changed)) => context.send(None, Event::ProgramsSeen { fingerprint, changed }),
        }
        Ok(self.are_known)
    }
}

pub(super) struct Executor {
    context: Arc<Context>,
    refs: std::cell::RefCell<Option<Refs>>,
}

impl Executor {
    pub(super) fn new(layout: Layout, sender: Sender<Message>) -> Executor {
        let context = Context {
            layout,
            git: Mutex::new(None),
            own: Mutex::new(None),
            checkout: Checkout::default(),
            config: Mutex::new(String::new()),
            head: Mutex::new(None),
            places: Mutex::new(BTreeMap::new()),
            preparing: Mutex::new(BTreeMap::new()),
            waiting: Mutex::new(BTreeMap::new()),
            looks: super::look::Looks::default(),
            operator: OnceLock::new(),
            sender,
        };
        Executor { context: Arc::new(context), refs: std::cell::RefCell::new(None) }
    }

    /// Records the operator's environment, beside the rest of the boot.
    pub(super) fn record_operator(&self) {
        let context = Arc::clone(&self.context);
        // Whoever needs it first records it, should there be no thread.
        let _ = std::thread::Builder::new().name("operator".to_owned()).spawn(move || {
            context.operator();
        });
    }

    #[cfg(test)]
    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    pub(super) fn set_config(&self, fingerprint: Option<&str>) {
        if let (Some(fingerprint), Ok(mut config)) = (fingerprint, self.context.config.lock())
            && *config != fingerprint
        {
            fingerprint.clone_into(&mut config);
        }
    }

    /// What the journal's next anchor will name.
    pub(super) fn set_head(&self, head: Option<Anchor>) {
        if let Ok(mut slot) = self.context.head.lock() {
            *slot = head;
        }
    }

    /// Lets git know how far the journal is, when this process wrote to it. `first`: also
    /// when git knows of no journal yet.
    pub(super) fn anchor(&self, first: bool) {
        let Some(head) = self.context.head() else { return };
        let anchor = || -> Result<(), GitError> {
            let git = self.context.git()?;
            if first || git.anchored()? != Anchored::Nothing { git.anchor(&head) } else { Ok(()) }
        };
        if let Err(error) = anchor() {
            tracing::warn!("the journal's head could not be anchored: {error}");
        }
    }

    /// The plan branch as git has it now. Asked for every status: the repository stays open.
    pub(super) fn plan_tip(&self, world: &World) -> Option<String> {
        let run = world.run.as_ref()?;
        let mut slot = self.refs.borrow_mut();
        if slot.is_none() {
            *slot = self.context.git().ok()?.open_refs().ok();
        }
        Some(slot.as_ref()?.target(&run.plan.branch_ref())?.to_string())
    }

    /// Starts `effect`; its outcome arrives as a message that frees `key`.
    pub(super) fn start(&self, effect: Effect, key: Option<String>) {
        let context = Arc::clone(&self.context);
        let for_thread = key.clone();
        let body = move || {
            let (before, after) = points(&effect);
            let carry_out = AssertUnwindSafe(|| match fail::point(before) {
                Ok(()) => context.carry_out(effect),
                Err(error) => failed("an effect", &error),
            });
            // What broke off is no longer under way: it is tried again, as all that fails.
            let event = catch_unwind(carry_out).unwrap_or_else(|_| failed("an effect", &"it broke off"));
            fail::pass(after);
            context.send(for_thread, event);
        };
        // git2 and the YAML-free paths here need little stack; twelve sessions wait on such threads.
        let spawned = std::thread::Builder::new().name("effect".to_owned()).stack_size(512 << 10).spawn(body);
        if let Err(error) = spawned {
            self.context.send(key, failed("start a thread", &error));
        }
    }
}

/// The fail points before and after an effect.
fn points(effect: &Effect) -> (Point, Point) {
    match effect {
        Effect::MakePlanBranch { .. } => (Point::BeforeMakePlanBranch, Point::AfterMakePlanBranch),
        Effect::Start(_) => (Point::BeforeStart, Point::AfterStart),
        Effect::OpenBarrier { .. } => (Point::BeforeOpenBarrier, Point::AfterOpenBarrier),
        Effect::Watch { .. } | Effect::LookAtSession { .. } => (Point::BeforeWatch, Point::AfterWatch),
        Effect::EndSession { .. } => (Point::BeforeEndSession, Point::AfterEndSession),
        Effect::Inspect { .. } => (Point::BeforeInspect, Point::AfterInspect),
        Effect::LookAtBase(_) => (Point::BeforeLookAtBase, Point::AfterLookAtBase),
        Effect::Prove(_) => (Point::BeforeProve, Point::AfterProve),
        Effect::Land { .. } => (Point::BeforeLand, Point::AfterLand),
        Effect::FollowBase { .. } => (Point::BeforeFollowBase, Point::AfterFollowBase),
        Effect::LookAtRefs { .. } => (Point::BeforeLookAtRefs, Point::AfterLookAtRefs),
        Effect::RestorePlanBranch { .. } => (Point::BeforeRestorePlanBranch, Point::AfterRestorePlanBranch),
        Effect::RemoveStage { .. } => (Point::BeforeRemoveStage, Point::AfterRemoveStage),
        Effect::TidyWorktrees { .. } => (Point::BeforeTidyWorktrees, Point::AfterTidyWorktrees),
        Effect::CleanPlan { .. } => (Point::BeforeCleanPlan, Point::AfterCleanPlan),
        // The dispatcher carries these out by itself; see `daemon.answer`.
        Effect::CancelStart { .. } | Effect::Reply { .. } | Effect::Shutdown => {
            (Point::BeforeAnswer, Point::AfterAnswer)
        }
    }
}

fn failed(effect: &'static str, why: &dyn std::fmt::Display) -> Event {
    Event::EffectFailed { effect, why: why.to_string() }
}

impl Context {
    pub(super) fn send(&self, key: Option<String>, event: Event) {
        // The dispatcher is gone only when the process ends.
        let _ = self.sender.send(Message::Outcome { key, event });
    }

    pub(super) fn head(&self) -> Option<Anchor> {
        self.head.lock().ok()?.clone()
    }

    pub(super) fn git(&self) -> Result<Git, GitError> {
        let mut slot = self.git.lock().map_err(|_| poisoned())?;
        if slot.is_none() {
            let git = Git::find(&self.layout.project).map_err(std::io::Error::other)?;
            *slot = Some(git);
        }
        let git = slot.clone().ok_or_else(poisoned)?;
        git.check_plain()?;
        Ok(git)
    }

    pub(super) fn own(&self) -> Result<Own, GitError> {
        let git = self.git()?;
        let mut slot = self.own.lock().map_err(|_| poisoned())?;
        if slot.is_none() {
            let cache = self.layout.cache();
            *slot = Some(Own::open(&git, &cache)?);
        }
        slot.clone().ok_or_else(poisoned)
    }

    /// Goes into the proof checkout, alone, with nothing in it that the last one did not leave.
    pub(super) fn enter(&self, kept: Option<&str>, approved: Option<&String>) -> Result<Entered<'_>, GitError> {
        let mut inside = self.checkout.enter()?;
        let (git, own) = (self.git()?, self.own()?);
        let programs = Programs::look(self, approved)?;
        inside.secure(&git, &own, kept)?;
        Ok(Entered { inside, git, own, programs })
    }

    /// What checks see of the operator: recorded once, before any session of this daemon starts.
    pub(super) fn operator(&self) -> &Arc<Operator> {
        let record = || Arc::new(Operator::record(&[&self.layout.worktrees(), &self.layout.cache()]));
        self.operator.get_or_init(record)
    }

    /// Refuses to run git in a work tree under a configuration that nobody accepted.
    pub(super) fn check_config(&self, git: &Git) -> Result<(), String> {
        let now = crate::git::fingerprint(&git.common).map_err(|error| error.to_string())?;
        let accepted = self.config.lock().map(|config| config.clone()).unwrap_or_default();
        if accepted.is_empty() || now == accepted {
            return Ok(());
        }
        self.send(None, Event::ConfigSeen { fingerprint: now });
        Err("the repository's git configuration or hooks changed since `loom init`".to_owned())
    }

    fn carry_out(&self, effect: Effect) -> Event {
        match effect {
            Effect::MakePlanBranch { branch, commit } => self.make_plan_branch(&branch, &commit),
            Effect::Start(start) => super::start::start(self, &start),
            Effect::OpenBarrier { session, viewer } => self.open_barrier(&session, viewer),
            Effect::CancelStart { session } => {
                let preparing = self.preparing.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(lifeline) = preparing.get(&session) {
                    lifeline.cut();
                }
                Event::EffectDone
            }
            Effect::Watch { session } => self.watch(session),
            Effect::LookAtSession { session, since } => {
                let pulse = super::look::look(&self.layout.session(&session), since, self.looks.awake(&session));
                Event::SessionSeen { session, pulse }
            }
            Effect::EndSession { session, grace, .. } => self.end_session(&session, grace),
            Effect::Inspect { stage, session, worktree, base, request } => {
                self.inspect(stage, session, &self.layout.worktree(&worktree), &base, request)
            }
            Effect::LookAtBase(look) => super::base::look(self, &look),
            Effect::Prove(prove) => super::land::prove(self, &prove),
            Effect::Land { entry, branch, tip, landing } => super::land::land(self, entry, &branch, tip, landing),
            Effect::FollowBase { plan_branch, branch, from, to } => self.follow(&plan_branch, &branch, &from, &to),
            Effect::LookAtRefs { plan_branch, tip, base_branch, base, unlanded } => {
                match self.look_at_refs(&plan_branch, &base_branch, &base, &unlanded) {
                    Ok(refs) => Event::RefsSeen { refs: RefsSeen { asked_tip: tip, ..refs } },
                    Err(error) => failed("look at refs", &error),
                }
            }
            Effect::RestorePlanBranch { branch, actual, expected } => {
                match super::land::restore_plan_branch(self, &branch, actual.as_ref(), &expected) {
                    Ok(()) => Event::EffectDone,
                    Err(error) => failed("put the plan branch back", &error),
                }
            }
            Effect::RemoveStage { stage, worktrees } => {
                let places: Vec<_> = worktrees.iter().map(|folder| self.place(folder)).collect();
                let _held: Vec<_> = places.iter().map(|place| hold(place)).collect();
                match self.put_aside(|git, farewell| git.remove_stage(&self.layout, &stage, &worktrees, farewell)) {
                    Ok(rescued) => Event::StageRemoved { stage, rescued },
                    Err(error) => failed("remove a stage", &error),
                }
            }
            Effect::TidyWorktrees { stages } => {
                match self.put_aside(|git, farewell| git.put_all_aside(&self.layout, &stages, farewell)) {
                    Ok(rescued) => {
                        Event::WorktreesTidied { stages: stages.into_iter().map(|(stage, _)| stage).collect(), rescued }
                    }
                    Err(error) => failed("remove landed worktrees", &error),
                }
            }
            Effect::CleanPlan { plan, stages } => {
                match self.put_aside(|git, farewell| git.clean_plan(&self.layout, &plan, &stages, farewell)) {
                    Ok(rescued) => {
                        // Caches can be filled again.
                        let _ = remove_tree(&self.layout.all_caches());
                        Event::PlanCleaned { rescued }
                    }
                    Err(error) => failed("clean up after the plan", &error),
                }
            }
            Effect::Reply { .. } | Effect::Shutdown => Event::EffectDone,
        }
    }

    /// Runs what looks into worktrees before it removes them, unless their git was tampered with.
    fn put_aside(
        &self,
        act: impl FnOnce(&Git, Farewell) -> Result<Vec<String>, GitError>,
    ) -> Result<Vec<String>, GitError> {
        let git = self.git()?;
        self.check_config(&git).map_err(std::io::Error::other)?;
        act(&git, &|stage, folder| self.tear_down(stage, folder))
    }

    /// Runs the teardown of a worktree that is about to go. What does not work is told, and stops nothing.
    pub(super) fn tear_down(&self, stage: &StageId, folder: &str) {
        if let Err(why) = super::setup::tear_down(&self.layout, || self.operator().as_ref().clone(), stage, folder) {
            self.send(None, Event::TeardownFailed { stage: stage.clone(), why });
        }
    }

    /// Whoever makes, prepares or removes a worktree holds its place.
    pub(super) fn place(&self, folder: &str) -> Arc<Mutex<()>> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(places.entry(folder.to_owned()).or_default())
    }

    fn make_plan_branch(&self, branch: &str, commit: &Oid) -> Event {
        let make = || -> Result<(), GitError> {
            let git = self.git()?;
            let name = format!("refs/heads/{branch}");
            match git.tip_quickly(&name)? {
                Some(tip) if tip == *commit => git.settle_ref(&name),
                Some(tip) => {
                    // Left by an earlier plan of this name: kept, then replaced.
                    git.rescue_commit(&plan_name(), &tip, Some(&name))?;
                    git.swap_ref(&name, Some(&tip), commit, "loom: start the plan")
                }
                None => git.swap_ref(&name, None, commit, "loom: start the plan"),
            }
        };
        match make() {
            Ok(()) => Event::PlanBranchMade { commit: commit.clone() },
            Err(error) => failed("make the plan branch", &error),
        }
    }

    fn open_barrier(&self, session: &SessionId, viewer: Terminal) -> Event {
        let waiting = self.waiting.lock().ok().and_then(|mut waiting| waiting.remove(session));
        // A host that is gone meanwhile is seen by its watch.
        if let Some(waiting) = waiting {
            match waiting.release() {
                Ok(lifeline) => {
                    drop(lifeline);
                    self.show(session, viewer);
                }
                Err(error) => tracing::warn!("the host of {session} could not be released: {error}"),
            }
        }
        Event::EffectDone
    }

    /// Opens a window that is attached to the session. Nothing depends on it.
    fn show(&self, session: &SessionId, viewer: Terminal) {
        let has = |program: &str| process::find_program(program).is_some();
        let viewer = terminal::resolve(viewer, &|name| std::env::var(name).ok(), has);
        let open = || {
            let loom = process::installed_binary()?.display().to_string();
            let project = self.layout.project.display().to_string();
            let command =
                [loom, "-C".to_owned(), project, "attach".to_owned(), session.to_string(), "--window".to_owned()];
            terminal::open(viewer, &format!("loom {session}"), &command)
        };
        if let Err(error) = open() {
            tracing::warn!("no window was opened for {session}: {error}");
        }
    }

    fn watch(&self, session: SessionId) -> Event {
        let dir = self.layout.session(&session);
        let record = match control::wait_end(&dir) {
            Ok(record) => record,
            Err(error) => return failed("watch a session", &error),
        };
        match (record.exit, record.error) {
            (Exit::NeverStarted, Some(text)) => Event::StartFailed { session, why: StartFailure::Passing { text } },
            (exit, _) => {
                let mut events = ended(&self.layout, self.git().ok().as_ref(), session.clone(), exit);
                let last = events.pop();
                for event in events {
                    self.send(None, event);
                }
                last.unwrap_or(Event::SessionEnded { session, exit })
            }
        }
    }

    fn end_session(&self, session: &SessionId, grace: Duration) -> Event {
        let dir = self.layout.session(session);
        // Gives the agent time to end by itself: its end is what wakes this, or the grace is over.
        let ended = crate::daemon::start::ends_within(&dir, grace);
        if !ended && let Err(error) = control::end(&dir, crate::model::limits::END_GRACE) {
            return failed("end a session", &error);
        }
        Event::EffectDone
    }

    fn inspect(
        &self,
        stage: StageId,
        session: SessionId,
        dir: &std::path::Path,
        base: &Oid,
        request: Option<RequestId>,
    ) -> Event {
        let inspection = match self.inspection(&stage, dir, base) {
            Ok(inspection) => inspection,
            Err(error) => Inspection::Unfit { why: error.to_string() },
        };
        Event::Inspected { stage, session, request, inspection }
    }

    fn inspection(&self, stage: &StageId, dir: &std::path::Path, base: &Oid) -> Result<Inspection, GitError> {
        let git = self.git()?;
        if let Err(why) = self.check_config(&git) {
            return Ok(Inspection::Stopped { why });
        }
        if !git.is_worktree(dir) {
            return Ok(Inspection::Unfit { why: format!("its worktree {} is gone", dir.display()) });
        }
        // What is there is packed while git looks whether it is all there is.
        let packed = git.head_of(dir)?;
        let (status, pack) = std::thread::scope(|scope| {
            let pack = scope.spawn(|| git.pack_durably(base, &packed));
            (git.status(dir), pack.join())
        });
        let status = status?;
        let reader = git.read()?;
        let wanted = stage_branch(stage);
        if status.branch.as_deref() != Some(&wanted) {
            let there = status.branch.unwrap_or_else(|| "a detached HEAD".to_owned());
            return Ok(Inspection::Unfit {
                why: format!("its worktree is on `{there}` and not on `{wanted}`: git switch {wanted}"),
            });
        }
        let folder = dir.file_name().unwrap_or_default().to_string_lossy();
        let dirty = super::setup::work_among(&self.layout, &git, &folder, status.dirty)?;
        if !dirty.is_empty() {
            return Ok(Inspection::Dirty { files: dirty });
        }
        let Some(head) = status.head else {
            return Ok(Inspection::Unfit { why: format!("branch `{wanted}` has no commit") });
        };
        if !reader.is_ancestor(base, &head)? {
            let why = format!(
                "branch `{wanted}` no longer contains {} where it started: history was rewritten",
                base.short()
            );
            return Ok(Inspection::Unfit { why });
        }
        match pack {
            Ok(result) if head == packed => result?,
            _ => git.pack_durably(base, &head)?,
        }
        let changes_nothing = reader.tree_of(base)? == reader.tree_of(&head)?;
        Ok(Inspection::Clean { head, changes_nothing })
    }

    fn follow(&self, plan_branch: &str, branch: &str, from: &Oid, to: &Oid) -> Event {
        // Commits of the user's own come first: they are merged and proven before anything follows.
        if let Ok(refs) = self.look_at_refs(plan_branch, branch, from, &[]) {
            self.send(None, Event::RefsSeen { refs });
        }
        let follow = || -> Result<Followed, GitError> {
            let git = self.git()?;
            match self.check_config(&git) {
                Ok(()) => git.follow(branch, to),
                Err(why) => Ok(Followed::Stayed { why }),
            }
        };
        match follow() {
            Ok(Followed::Moved) => Event::BaseFollowed { commit: to.clone() },
            Ok(Followed::Stayed { why }) => Event::BaseStayed { why },
            Err(error) => Event::BaseStayed { why: error.to_string() },
        }
    }

    pub(super) fn look_at_refs(
        &self,
        plan_branch: &str,
        base_branch: &str,
        base: &Oid,
        unlanded: &[Oid],
    ) -> Result<RefsSeen, GitError> {
        let git = self.git()?;
        let plan_tip = git.tip(&format!("refs/heads/{plan_branch}"))?;
        let base_tip = git.tip(&format!("refs/heads/{base_branch}"))?;
        let moved = base_tip.as_ref().filter(|tip| *tip != base);
        let (mut is_forward, mut has_stage_work, mut is_in_plan) = (true, false, false);
        if let Some(tip) = moved {
            // What Loom records must be there after a power cut, whoever committed it.
            git.pack_durably(base, tip)?;
            is_forward = git.is_ancestor(base, tip)?;
            for commit in unlanded.iter().cloned().chain(self.stage_tips(&git)?) {
                has_stage_work |= !git.is_ancestor(&commit, base)? && git.is_ancestor(&commit, tip)?;
            }
            if let Some(plan_tip) = &plan_tip {
                is_in_plan = git.is_ancestor(tip, plan_tip)?;
            }
        }
        Ok(RefsSeen {
            asked_tip: None,
            asked_base: base.clone(),
            plan_tip,
            base_tip,
            base_is_forward: is_forward,
            base_has_stage_work: has_stage_work,
            base_is_in_plan: is_in_plan,
        })
    }

    /// The tips of stage branches: commits made in worktrees.
    fn stage_tips(&self, git: &Git) -> Result<Vec<Oid>, GitError> {
        let plan = "refs/heads/loom/_plan/";
        Ok(git
            .refs_below("refs/heads/loom/")?
            .into_iter()
            .filter(|(name, _)| !name.starts_with(plan))
            .map(|(_, tip)| tip)
            .collect())
    }
}

/// Waits for a place and holds it. What broke off there is seen when it is looked at.
pub(super) fn hold(place: &Mutex<()>) -> MutexGuard<'_, ()> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

fn poisoned() -> GitError {
    GitError::Io(std::io::Error::other("another thread broke off while it used git"))
}

/// The name under which the plan branch's own commits are put aside.
pub(super) fn plan_name() -> StageId {
    StageId::new("plan-branch").unwrap_or_else(|_| unreachable!("it is a valid id"))
}

/// The end of a session last, before it what is left of it.
pub(super) fn ended(layout: &Layout, git: Option<&Git>, session: SessionId, exit: Exit) -> Vec<Event> {
    super::remains::at_the_end(layout, git, session, exit)
}

/// Sessions on record whose host does not hold its lock, with what each left.
pub(super) fn ended_sessions(layout: &Layout, world: &World) -> Vec<(SessionId, Exit)> {
    let Some(run) = &world.run else { return Vec::new() };
    run.live_sessions()
        .filter(|session| matches!(session.state, SessionState::Live { .. } | SessionState::Ending { .. }))
        .filter_map(|session| {
            let dir: PathBuf = layout.session(&session.id);
            match control::is_alive(&dir) {
                control::Liveness::Dead => {
                    let exit = control::wait_end(&dir).map_or(Exit::Lost, |record| record.exit);
                    Some((session.id.clone(), exit))
                }
                control::Liveness::Alive | control::Liveness::Unknown => None,
            }
        })
        .collect()
}
