//! Agents, the user of the repository, and operators: what they do, at random.

use loom::daemon::turn::Who;
use loom::kernel::World;
use loom::model::effect::Answer;
use loom::model::event::{GateTarget, Request};
use loom::model::handoff::Handoff;
use loom::model::ids::{GateId, SessionId, StageId};
use loom::model::plan::BackendKind;
use loom::model::session::{Activity, Exit, GaveUp};

use super::dice::PIECES_MAX;
use super::effects::{BASE, head_of, own_path, quality, tree_with, usage};
use super::git::Merged;
use super::outside::{Asked, Asker, Head, Message, Mood, Outside, tell};

/// A file that several stages write.
const SHARED: u8 = 40;

impl Outside {
    /// New content, unlike any before.
    fn content(&mut self, quality: u32) -> u32 {
        self.number() << 3 | quality
    }

    fn write(&mut self, folder: &str, path: u8, quality: u32) {
        let content = self.content(quality);
        if let Some(worktree) = self.worktrees.get_mut(folder) {
            worktree.dirty.insert(path, Some(content));
            self.memory.written(content);
        }
    }

    fn commit_worktree(&mut self, folder: &str) {
        let Some(worktree) = self.worktrees.get(folder) else { return };
        let head = head_of(self, worktree);
        let empty = super::git::Tree::new();
        let tree = tree_with(head.map_or(&empty, |head| &self.git.commits[head].tree), &worktree.dirty);
        let message = format!("work {}", self.number());
        self.advance(folder, tree, head.as_slice(), &message);
    }

    fn advance(&mut self, folder: &str, tree: super::git::Tree, parents: &[usize], message: &str) {
        let at = self.git.commit(tree, parents, message);
        let Some(worktree) = self.worktrees.get_mut(folder) else { return };
        worktree.dirty.clear();
        match &mut worktree.head {
            Head::Branch(name) => {
                let name = name.clone();
                self.git.set(&name, Some(at));
            }
            Head::Detached(head) => *head = at,
        }
    }

    /// Takes what landed meanwhile into its branch, and settles conflicts.
    fn merge_plan(&mut self, folder: &str, plan_branch: &str) {
        let Some(worktree) = self.worktrees.get(folder) else { return };
        let (Some(head), Some(tip)) = (head_of(self, worktree), self.git.tip(plan_branch)) else { return };
        if self.git.is_ancestor(tip, head) {
            return;
        }
        let tree = match self.git.merge(head, tip) {
            Merged::Clean(tree) => tree,
            Merged::Conflict(paths) => {
                let mut tree = self.git.commits[head].tree.clone();
                tree.extend(self.git.commits[tip].tree.clone());
                for path in paths {
                    let content = self.content(quality::GOOD);
                    self.memory.written(content);
                    tree.insert(path, content);
                }
                tree
            }
        };
        let message = format!("merge {}", self.number());
        self.advance(folder, tree, &[head, tip], &message);
    }

    /// One action of the agent of this session. `asks`: a daemon is there to be asked.
    pub fn agent_acts(&mut self, session: &SessionId, asks: bool, plan_branch: &str) {
        self.git.version += 1;
        let host = &self.hosts[session];
        let (mood, folder, stage, backend) = (host.agent.mood, host.worktree.clone(), host.stage.clone(), host.backend);
        if host.agent.asked.is_some() {
            return;
        }
        if host.agent.leaves && asks && self.dice.chance(300) {
            self.commit_worktree(&folder);
            let handoff = Box::new(Handoff { status: "half".to_owned(), ..Handoff::default() });
            self.ask(session, Asked::Other, Request::Handoff { stage, handoff });
            return;
        }
        if host.agent.todo > 0 {
            self.work(session, &folder, &stage, mood, plan_branch);
            if let Some(host) = self.hosts.get_mut(session).filter(|host| host.agent.is_alive) {
                host.agent.pieces = (host.agent.pieces + 1).min(PIECES_MAX);
                let usage = usage(host.agent.pieces);
                if asks && backend == BackendKind::Claude {
                    let request = Request::Measured { session: session.clone(), usage, hears: true };
                    self.ask(session, Asked::Measured, request);
                }
            }
            return;
        }
        match backend {
            BackendKind::Command => self.command_ends(session, &folder, mood),
            BackendKind::Claude if asks => self.claude_goes_on(session, &folder, &stage, mood),
            BackendKind::Claude => {}
        }
    }

    fn work(&mut self, session: &SessionId, folder: &str, stage: &StageId, mood: Mood, plan_branch: &str) {
        let host = self.hosts.get_mut(session);
        let todo = host.map_or(0, |host| {
            host.agent.todo -= 1;
            host.agent.todo
        });
        // Who starts after others takes their work first, more often than not.
        if todo > 0 && self.dice.chance(500) && mood != Mood::Liar {
            self.commit_worktree(folder);
            self.merge_plan(folder, plan_branch);
        }
        let quality = match mood {
            Mood::Sloppy if self.dice.chance(600) => *self.dice.pick(&[quality::BAD, quality::FLAKY, quality::HANGS]),
            _ if self.dice.chance(self.swarm.flaky / 3) => *self.dice.pick(&[quality::LEFT, quality::RIGHT]),
            _ => quality::GOOD,
        };
        self.write(folder, own_path(stage), quality);
        if self.dice.chance(self.swarm.shared_files) {
            self.write(folder, SHARED, quality::GOOD);
        }
        if mood == Mood::Rewriter {
            self.rewrite(folder);
        } else if mood != Mood::Liar && (todo == 0 || self.dice.chance(500)) {
            self.commit_worktree(folder);
        }
        if mood == Mood::Crash && self.dice.chance(400) {
            self.end_host(session, Exit::UnixSignal { signal: 11 });
        }
    }

    /// `git reset`, `git checkout --detach`, `git commit --amend`: its own history is its own.
    fn rewrite(&mut self, folder: &str) {
        let Some(head) = self.worktrees.get(folder).and_then(|worktree| head_of(self, worktree)) else { return };
        let parent = self.git.commits[head].parents.first().copied();
        match self.dice.below(4) {
            0 => {
                if let Some(worktree) = self.worktrees.get_mut(folder) {
                    worktree.head = Head::Detached(head);
                }
            }
            1 => {
                if let (Some(parent), Some(worktree)) = (parent, self.worktrees.get(folder))
                    && let Head::Branch(name) = &worktree.head
                {
                    let name = name.clone();
                    self.git.set(&name, Some(parent));
                }
            }
            _ => self.commit_worktree(folder),
        }
    }

    fn command_ends(&mut self, session: &SessionId, folder: &str, mood: Mood) {
        let exit = match mood {
            Mood::Hang => return,
            Mood::Crash => Exit::UnixSignal { signal: 9 },
            Mood::Blocks | Mood::Limited => Exit::Code { code: 1 },
            Mood::Liar if self.dice.chance(500) => {
                // Nothing at all, and a zero.
                if let Some(worktree) = self.worktrees.get_mut(folder) {
                    worktree.dirty.clear();
                }
                Exit::Code { code: 0 }
            }
            Mood::Liar => Exit::Code { code: 0 },
            _ => {
                if mood != Mood::Rewriter {
                    self.commit_worktree(folder);
                }
                Exit::Code { code: 0 }
            }
        };
        tell!(self, "{session} ends with {exit}");
        self.end_host(session, exit);
    }

    fn ask(&mut self, session: &SessionId, asked: Asked, request: Request) {
        let Some(host) = self.hosts.get_mut(session) else { return };
        tell!(self, "{session} asks {request:?}");
        host.agent.asked = Some(asked);
        let who = Who::Token(host.token.clone());
        self.inbox.push_back(Message::Request { who, request, asker: Asker::Session(session.clone(), asked) });
    }

    fn claude_goes_on(&mut self, session: &SessionId, folder: &str, stage: &StageId, mood: Mood) {
        let Some(host) = self.hosts.get_mut(session) else { return };
        let heard = host.agent.heard.take();
        if host.agent.patience == 0 {
            // Hangs, until somebody ends it; or gives up.
            if self.dice.chance(50) {
                self.end_host(session, Exit::Code { code: 0 });
            }
            return;
        }
        let turn_ended = Request::TurnEnded { session: session.clone(), waits: false };
        match (heard, mood) {
            (None, Mood::Hang) => {}
            (None, Mood::Liar) if self.dice.chance(300) => self.end_host(session, Exit::Code { code: 0 }),
            (None, Mood::Liar) => {
                self.impatient(session);
                self.ask(session, Asked::TurnEnded, turn_ended);
            }
            (None, Mood::Blocks) => {
                let request = Request::Block { stage: stage.clone(), reason: "cannot".to_owned() };
                self.ask(session, Asked::Other, request);
            }
            (None, Mood::Limited | Mood::LoggedOut) => self.gives_up(session, mood),
            (None, Mood::Crash) => self.end_host(session, Exit::UnixSignal { signal: 11 }),
            (None, _) => {
                self.commit_worktree(folder);
                self.ask(session, Asked::Submit, Request::Submit { stage: stage.clone() });
                if mood == Mood::Impatient {
                    self.ask(session, Asked::Submit, Request::Submit { stage: stage.clone() });
                }
            }
            (Some((_, Answer::Submitted { .. })), Mood::Impatient) if self.dice.chance(300) => {
                let activity = *self.dice.pick(&[Activity::Idle, Activity::Working]);
                let request = Request::Activity { session: session.clone(), activity, asks: None };
                self.ask(session, Asked::Other, request);
            }
            (Some((_, Answer::Submitted { .. } | Answer::TurnWaits)), _) => {
                self.ask(session, Asked::TurnEnded, turn_ended);
            }
            (Some((_, Answer::TurnGoesOn { .. })), _) => {
                self.impatient(session);
                if let Some(host) = self.hosts.get_mut(session) {
                    host.agent.todo = 1;
                }
            }
            (Some((_, Answer::TurnMayEnd)), _) => {
                if self.dice.chance(300) {
                    self.end_host(session, Exit::Code { code: 0 });
                } else if let Some(host) = self.hosts.get_mut(session) {
                    host.agent.patience = 0;
                }
            }
            (Some((Asked::Submit, Answer::Refused { .. })), _) => {
                self.impatient(session);
                if mood != Mood::Liar {
                    self.commit_worktree(folder);
                }
                if let Some(host) = self.hosts.get_mut(session) {
                    host.agent.todo = 1;
                }
            }
            (Some(_), _) => {
                self.impatient(session);
                self.ask(session, Asked::TurnEnded, turn_ended);
            }
        }
    }

    fn impatient(&mut self, session: &SessionId) {
        if let Some(host) = self.hosts.get_mut(session) {
            host.agent.patience = host.agent.patience.saturating_sub(1);
        }
    }

    fn gives_up(&mut self, session: &SessionId, mood: Mood) {
        let why = match mood {
            Mood::LoggedOut => {
                self.login = false;
                GaveUp::NotLoggedIn
            }
            _ if self.dice.chance(500) => {
                let until = self.now().checked_add(jiff::SignedDuration::from_secs(600)).ok();
                GaveUp::Limit { until }
            }
            _ => GaveUp::Failed { text: "API error".to_owned() },
        };
        if self.dice.chance(500) {
            if let Some(host) = self.hosts.get_mut(session) {
                host.gave_up = Some(why);
            }
            self.end_host(session, Exit::Code { code: 1 });
        } else {
            self.ask(session, Asked::Other, Request::TurnFailed { session: session.clone(), why });
        }
    }

    /// The user commits, rewinds, merges by hand, changes files, deletes what is Loom's.
    pub fn user_acts(&mut self, world: &World) {
        let Some(tip) = self.git.tip(BASE) else { return };
        match self.dice.below(9) {
            0..3 => {
                let (path, content) = (50 + self.dice.below(8) as u8, self.content(quality::GOOD));
                let path = if self.dice.chance(200) { SHARED } else { path };
                let mut tree = self.git.commits[tip].tree.clone();
                tree.insert(path, content);
                let message = format!("user {}", self.number());
                let commit = self.git.commit(tree, &[tip], &message);
                self.git.set(BASE, Some(commit));
                tell!(self, "the user commits on the base branch");
            }
            3 => {
                if let Some(parent) = self.git.commits[tip].parents.first().copied() {
                    self.git.set(BASE, Some(parent));
                    tell!(self, "the user rewinds the base branch");
                }
            }
            4 => {
                let branches = self.stage_branches();
                if let Some((name, other)) = (!branches.is_empty()).then(|| self.dice.pick(&branches).clone())
                    && let Merged::Clean(tree) = self.git.merge(tip, other)
                {
                    let message = format!("user merges {}", self.number());
                    let commit = self.git.commit(tree, &[tip, other], &message);
                    self.git.set(BASE, Some(commit));
                    tell!(self, "the user merges {name} into the base branch");
                }
            }
            5 => {
                let content = self.content(quality::GOOD);
                self.user_dirty.insert(60, content);
            }
            6 => self.user_dirty.clear(),
            7 => {
                let plan = world.run.as_ref().map(|run| run.plan.branch_ref());
                self.user_branch = plan.filter(|_| self.dice.chance(400)).unwrap_or(BASE.to_owned());
                tell!(self, "the user checks out {}", self.user_branch);
            }
            _ => {
                if self.git.locks.iter().any(|lock| lock == BASE) {
                    self.git.locks.retain(|lock| lock != BASE);
                } else {
                    self.git.locks.push(BASE.to_owned());
                }
            }
        }
    }

    /// The user settles a conflict between the base branch and the plan branch by hand.
    pub fn user_settles(&mut self, plan_branch: &str) {
        let (Some(base), Some(tip)) = (self.git.tip(BASE), self.git.tip(plan_branch)) else { return };
        if !self.git.is_ancestor(tip, base) {
            let mut tree = self.git.commits[base].tree.clone();
            tree.extend(self.git.commits[tip].tree.clone());
            let message = format!("user settles {}", self.number());
            let commit = self.git.commit(tree, &[base, tip], &message);
            self.git.set(BASE, Some(commit));
            tell!(self, "the user settles the conflict");
        }
    }

    fn stage_branches(&self) -> Vec<(String, usize)> {
        let ours = self.git.refs.iter().filter(|(name, _)| name.starts_with("refs/heads/loom/s"));
        ours.map(|(name, tip)| (name.clone(), *tip)).collect()
    }

    /// The user moves or deletes what Loom works on.
    pub fn user_meddles(&mut self, world: &World) {
        let branches = self.stage_branches();
        let stage = (!branches.is_empty()).then(|| self.dice.pick(&branches).clone());
        let plan = world.run.as_ref().map(|run| run.plan.branch_ref());
        let plan = plan.and_then(|name| Some((self.git.tip(&name)?, name)));
        match (self.dice.below(6), stage, plan) {
            (0, Some((name, _)), _) => {
                let head = Head::Branch(name.clone());
                if !self.worktrees.values().any(|worktree| worktree.head == head) {
                    self.git.set(&name, None);
                    tell!(self, "the user deletes {name}");
                }
            }
            (1, Some((name, tip)), _) => {
                let to = self.git.commits[tip].parents.first().copied().unwrap_or(tip);
                self.git.set(&name, Some(to));
                tell!(self, "the user moves {name} back");
            }
            (2, _, Some((tip, name))) => {
                let to = self.git.commits[tip].parents.first().copied().filter(|_| self.dice.chance(700));
                self.git.set(&name, to);
                tell!(self, "the user moves the plan branch back, or deletes it");
            }
            (3, _, Some((tip, name))) => {
                let mut tree = self.git.commits[tip].tree.clone();
                tree.insert(61, self.content(quality::GOOD));
                let message = format!("user {}", self.number());
                let commit = self.git.commit(tree, &[tip], &message);
                // Long enough ago to be on the disk.
                self.git.make_durable(commit);
                self.git.set(&name, Some(commit));
                tell!(self, "the user commits on the plan branch");
            }
            (4 | 5, _, _) if !self.worktrees.is_empty() => {
                let folders: Vec<String> = self.worktrees.keys().cloned().collect();
                let folder = self.dice.pick(&folders).clone();
                self.worktrees.remove(&folder);
                self.git.version += 1;
                tell!(self, "the user deletes the worktree {folder}");
            }
            _ => {}
        }
    }

    /// Any request of an operator.
    pub fn random_request(&mut self, world: &World) -> Option<Request> {
        let run = world.run.as_ref()?;
        let ids: Vec<&StageId> = run.stages.keys().collect();
        let stage = (*self.dice.pick(&ids)).clone();
        let reason = "because".to_owned();
        Some(match self.dice.below(20) {
            0 | 1 => Request::Retry { stage, context: self.dice.chance(300).then_some(reason) },
            2 => Request::Resume { stage },
            3 | 4 => Request::Reset { stage, reason },
            5 => Request::Hold { stage },
            6 | 7 => Request::Release { stage },
            8 => Request::Skip { stage, reason, go_on: self.dice.chance(600) },
            9 => Request::Approve { subject: GateTarget::Stage { stage }, reason },
            10 => Request::Reject { subject: GateTarget::Stage { stage }, reason },
            11 | 12 => {
                let newest = world.gates_opened;
                let gate = GateId(newest.saturating_sub(self.dice.below(3) as u32));
                let subject = GateTarget::Gate { gate };
                match self.dice.chance(600) {
                    true => Request::Approve { subject, reason },
                    false => Request::Reject { subject, reason },
                }
            }
            13 => Request::Merge { stage: Some(stage) },
            14 => Request::Merge { stage: None },
            15 => {
                let fence = run.stages[&stage].sessions.max(1);
                Request::KillSession { session: SessionId::of(&stage, fence) }
            }
            16 => Request::Stop { kill: self.dice.chance(500) },
            17 => Request::Submit { stage },
            18 => Request::Block { stage, reason },
            _ => Request::Stop { kill: false },
        })
    }
}
