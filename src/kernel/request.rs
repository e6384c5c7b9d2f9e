//! Requests: who may ask for what, and what it means now.

use super::budget;
use super::context;
use super::draft::Draft;
use super::end::{block, inspect};
use super::gates;
use super::lane;
use super::schedule;
use super::text;
use super::world::{BaseEntry, PlanEnd, Run, Stage, World};
use crate::model::effect::{Answer, Effect};
use crate::model::event::{Caller, Ground, PlanSource, Request, RequestId, Right};
use crate::model::fact::{Fact, SessionChange, StageChange};
use crate::model::gate::GateSubject;
use crate::model::handoff::Handoff;
use crate::model::ids::{SessionId, StageId};
use crate::model::limits::{REASON_BYTES_MAX, RETURNS_MAX};
use crate::model::plan::Plan;
use crate::model::refusal::{Refusal, RefusalKind};
use crate::model::session::{Activity, EndReason, GaveUp, Session, SessionState};
use crate::model::stage::{BlockCode, Phase, StageState};
use crate::model::usage::{Usage, Zone};

pub(super) fn decide(
    world: &World,
    id: RequestId,
    caller: &Caller,
    request: &Request,
    draft: &mut Draft,
) -> Result<(), Refusal> {
    if request.right() == Right::Operator {
        operator_only(caller, if matches!(request, Request::LoadPlan { .. }) { "load a plan" } else { "do that" })?;
    }
    if let Request::LoadPlan { plan, source, ground, clean } = request {
        return load_plan(world, id, (plan, source, ground, *clean), draft);
    }
    let run = world
        .run
        .as_ref()
        .ok_or_else(|| Refusal::user("this project has no plan yet").hint("loom init doc/plans/<plan>.md"))?;
    let asked = Asked { world, run, id, caller };
    match request {
        Request::LoadPlan { .. } => Ok(()),
        Request::ApplyPlan { plan, source, restart } => {
            operator_only(caller, "change the plan")?;
            super::amend::apply_plan(run, id, (plan, source, restart), draft)
        }
        Request::Submit { stage } => asked.submit(stage, draft),
        Request::Block { stage, reason } => asked.block(stage, reason, draft),
        Request::Dispute { stage, check, reason } => asked.dispute(stage, *check, reason, draft),
        Request::TurnEnded { session, waits } => asked.turn_ended(session, *waits, draft),
        Request::TurnFailed { session, why } => asked.turn_failed(session, why, draft),
        Request::Activity { session, activity, asks } => asked.activity(session, *activity, asks.as_deref(), draft),
        Request::Waits { stage, asks } => asked.waits(stage, asks.as_deref(), draft),
        Request::Measured { session, usage, hears } => asked.measured(session, usage, *hears, draft),
        Request::Handoff { stage, handoff } => asked.handoff(stage, handoff, draft),
        Request::Compacting { session, remains } => asked.compacting(session, remains, draft),
        operator => asked.operator(operator, draft),
    }
}

fn operator_only(caller: &Caller, verb: &str) -> Result<(), Refusal> {
    match caller {
        Caller::Operator => Ok(()),
        Caller::Agent { session } => {
            Err(Refusal::new(RefusalKind::Rights, format!("session `{session}` may not {verb}"))
                .because("only a person, outside every session, may")
                .hint("loom stage block <stage> --reason \"what you need a person for\""))
        }
    }
}

/// Refusal for a stage id that is not in the plan.
pub fn unknown_stage(run: &Run, wanted: &str) -> Refusal {
    let known: Vec<&str> = run.stages.keys().map(StageId::as_str).collect();
    let close = known.iter().copied().min_by_key(|name| strsim::damerau_levenshtein(wanted, name));
    let refusal = Refusal::user(format!("there is no stage `{wanted}` in plan `{}`", run.plan.id));
    match close.filter(|name| strsim::damerau_levenshtein(wanted, name) <= 1 + name.len().min(wanted.len()) / 3) {
        Some(name) => refusal.hint(format!("did you mean `{name}`?")),
        None => refusal.hint("loom status"),
    }
}

fn load_plan(
    world: &World,
    id: RequestId,
    (plan, source, ground, clean): (&Plan, &PlanSource, &Ground, bool),
    draft: &mut Draft,
) -> Result<(), Refusal> {
    if let Some(run) = &world.run {
        if run.source.sha256 == source.sha256 && run.plan.id == plan.id && run.end == PlanEnd::Open && !clean {
            draft.done(id, format!("plan `{}` is loaded already; nothing changed", plan.id));
            return Ok(());
        }
        if run.end == PlanEnd::Open && !run.is_complete() && !clean {
            return Err(Refusal::user(format!("plan `{}` is still open", run.plan.id))
                .because("one plan is active at a time in a project")
                .hint("loom run")
                .hints(
                    (run.plan.id == plan.id)
                        .then(|| format!("loom plan diff {}   (what a new version changes)", source.path)),
                )
                .hint(format!("loom init --clean {}   (puts the open plan's work aside first)", source.path)));
        }
        if run.live_sessions().next().is_some() {
            return Err(
                Refusal::user(format!("sessions of plan `{}` are still running", run.plan.id)).hint("loom stop --kill")
            );
        }
    }
    if let Some(run) = world.run.as_ref().filter(|run| run.end == PlanEnd::Open) {
        let leftovers = run.stages.iter().filter(|(_, stage)| stage.attempts > 0);
        let leftovers = leftovers.map(|(id, stage)| (id.clone(), super::due::worktrees(run, id, stage))).collect();
        draft.fact(Fact::PlanReplaced { leftovers });
    }
    draft.fact(Fact::PlanLoaded { plan: Box::new(plan.clone()), source: source.clone(), ground: ground.clone() });
    draft.done(id, format!("plan `{}` is loaded: {}", plan.id, text::stages(plan.stages.len())));
    Ok(())
}

/// A request in its surroundings.
struct Asked<'a> {
    world: &'a World,
    run: &'a Run,
    id: RequestId,
    caller: &'a Caller,
}

impl<'a> Asked<'a> {
    fn stage(&self, id: &StageId) -> Result<&'a Stage, Refusal> {
        self.run.stages.get(id).ok_or_else(|| unknown_stage(self.run, id.as_str()))
    }

    fn operator(&self, request: &Request, draft: &mut Draft) -> Result<(), Refusal> {
        match request {
            Request::Retry { stage, context } => self.retry(stage, context.as_deref(), draft),
            Request::Resume { stage } => self.retry(stage, None, draft),
            Request::Reset { stage, reason } => self.reset(stage, reason, draft),
            Request::Hold { stage } => self.hold(stage, true, draft),
            Request::Release { stage } => self.hold(stage, false, draft),
            Request::Skip { stage, reason, go_on } => self.skip(stage, reason, *go_on, draft),
            Request::Approve { subject, reason } => {
                gates::answer(self.run, self.id, &gates::Reply { target: subject, approved: true, reason }, draft)
            }
            Request::Reject { subject, reason } => {
                gates::answer(self.run, self.id, &gates::Reply { target: subject, approved: false, reason }, draft)
            }
            Request::Merge { stage } => self.merge(stage.as_ref(), draft),
            Request::KillSession { session } => self.kill(session, draft),
            Request::Stop { kill } => {
                self.stop(*kill, draft);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The lease is what lets an agent speak for a stage; its token names the session.
    fn lease(&self, stage: &Stage) -> Result<SessionId, Refusal> {
        let id = &stage.spec.id;
        match (self.caller, stage.state.lease()) {
            (Caller::Agent { session }, Some(lease)) if lease == session => Ok(session.clone()),
            (Caller::Agent { session }, lease) => {
                let refusal =
                    Refusal::new(RefusalKind::Rights, format!("session `{session}` does not hold stage `{id}`"));
                Err(match lease {
                    Some(lease) => refusal.because(format!("session `{lease}` does")),
                    None => refusal.because(format!("the stage is {}", stage.state.kind().as_str())),
                }
                .hint("end your turn: another session or a person goes on from here"))
            }
            (Caller::Operator, Some(lease)) => Ok(lease.clone()),
            (Caller::Operator, None) => {
                let newest = SessionId::of(id, stage.sessions);
                match &stage.state {
                    StageState::Blocked { .. } if self.run.sessions.contains_key(&newest) => Ok(newest),
                    other => Err(Refusal::user(format!(
                        "stage `{id}` has nothing to submit: it is {}",
                        other.kind().as_str()
                    ))
                    .hint("loom status")),
                }
            }
        }
    }

    fn submit(&self, id: &StageId, draft: &mut Draft) -> Result<(), Refusal> {
        let stage = self.stage(id)?;
        let lease = self.lease(stage)?;
        if let StageState::Verifying { commit, .. } = &stage.state {
            draft.reply(self.id, Answer::Submitted { commit: commit.clone() });
            return Ok(());
        }
        let session =
            self.run.sessions.get(&lease).ok_or_else(|| Refusal::user(format!("session `{lease}` is not known")))?;
        draft.effect(inspect(self.run, stage, session, Some(self.id)));
        Ok(())
    }

    fn block(&self, id: &StageId, reason: &str, draft: &mut Draft) -> Result<(), Refusal> {
        let stage = self.stage(id)?;
        let reason = said(reason, "why it is blocked")?;
        let (code, who) = match self.caller {
            Caller::Operator => (BlockCode::ByPerson, "a person"),
            Caller::Agent { .. } => {
                self.lease(stage)?;
                (BlockCode::ByAgent, "the agent")
            }
        };
        // A commit that is landing may have landed already: the branch says, not a request.
        let is_landing = matches!(stage.state, StageState::Verifying { phase: Phase::Landing { .. }, .. });
        if is_landing || stage.state.is_final() || matches!(stage.state, StageState::Gated { .. }) {
            return Err(self.not_now(stage, "be blocked"));
        }
        draft.end_lease(self.run, stage, EndReason::Blocked);
        draft.stage(id, StageChange::Blocked { reason: block(code, format!("{who} says: {reason}")) });
        draft.done(self.id, format!("stage `{id}` is blocked; a person sees why in `loom status`"));
        Ok(())
    }

    /// The agent says that a check is wrong: a person decides, once for each check.
    fn dispute(&self, id: &StageId, number: u32, reason: &str, draft: &mut Draft) -> Result<(), Refusal> {
        let stage = self.stage(id)?;
        let reason = said(reason, "why the check is wrong")?;
        self.lease(stage)?;
        if !matches!(stage.state, StageState::Running { .. }) {
            return Err(self.not_now(stage, "dispute a check"));
        }
        let check = super::dispute::disputed(self.run, stage, number, reason)?;
        let name = check.name.clone();
        let subject = GateSubject::Dispute { stage: id.clone(), commit: stage.judged.clone(), check };
        let gate = gates::open(self.world, subject, draft);
        draft.end_lease(self.run, stage, EndReason::Blocked);
        draft.stage(id, StageChange::Disputed { gate, check: name });
        draft
            .done(self.id, format!("stage `{id}` waits for a person who decides about check {number}. End your turn."));
        Ok(())
    }

    fn turn_ended(&self, id: &SessionId, waits: bool, draft: &mut Draft) -> Result<(), Refusal> {
        let session = self.own_session(id)?;
        let stage = self.stage(&session.stage)?;
        match &stage.state {
            // It was told to end; this is it.
            StageState::Running { session: lease }
                if lease == id && matches!(session.state, SessionState::Ending { .. }) =>
            {
                draft.effect(self.end_now(id));
                draft.reply(self.id, Answer::TurnMayEnd);
            }
            // A red verdict may have come after the agent looked: that is told all the same.
            StageState::Running { session: lease }
                if lease == id && waits && (session.returns == 0 || session.reminders > 0) =>
            {
                note_activity(session, Activity::Background, None, draft);
                super::watchdog::turn_over(self.world, id, draft);
                draft.reply(self.id, Answer::TurnMayEnd);
            }
            StageState::Running { session: lease } if lease == id => {
                let hands_off = session.told.is_some_and(|(zone, _)| zone == Zone::Red);
                if session.reminders >= RETURNS_MAX {
                    let why = if hands_off { EndReason::HandingOff } else { EndReason::Done };
                    draft.end_session(self.run, id, why);
                    draft.effect(self.end_now(id));
                    draft.reply(self.id, Answer::TurnMayEnd);
                    return Ok(());
                }
                draft.fact(Fact::session(id, SessionChange::Reminded));
                let text = match stage
                    .failures
                    .last()
                    .filter(|failure| session.returns > 0 && failure.attempt == session.attempt)
                {
                    _ if hands_off => {
                        let capped = budget::capped(self.world, self.run, stage, session);
                        context::hand_off_now(stage, session, capped.as_deref())
                    }
                    Some(failure) => format!(
                        "Stage `{0}` is not accepted yet: {1}\nFix it in this worktree, commit, and run `loom stage complete {0}` again.",
                        session.stage,
                        text::for_agent(failure)
                    ),
                    None => format!(
                        "Stage `{0}` is not submitted yet. Finish the work, commit it, then run `loom stage complete {0}`. If it cannot be done, run `loom stage block {0} --reason \"why\"`.",
                        session.stage
                    ),
                };
                draft.reply(self.id, Answer::TurnGoesOn { text });
            }
            StageState::Verifying { session: Some(lease), .. } if lease == id => {
                draft.reply(self.id, Answer::TurnWaits)
            }
            _ => {
                draft.effect(self.end_now(id));
                draft.reply(self.id, Answer::TurnMayEnd);
            }
        }
        Ok(())
    }

    /// Lets the hook that asked get its answer before the tree ends.
    fn end_now(&self, id: &SessionId) -> Effect {
        Effect::EndSession { session: id.clone(), why: EndReason::Done, grace: std::time::Duration::from_millis(500) }
    }

    fn turn_failed(&self, id: &SessionId, why: &GaveUp, draft: &mut Draft) -> Result<(), Refusal> {
        let session = self.own_session(id)?;
        let stage = self.stage(&session.stage)?;
        if matches!(&stage.state, StageState::Running { session: lease } if lease == id) && *why == GaveUp::ContextFull
        {
            // What it leaves is looked at when it has ended; until then the stage stays its own.
            draft.end_session(self.run, id, EndReason::HandingOff);
            draft.effect(self.end_now(id));
        } else if matches!(&stage.state, StageState::Running { session: lease } if lease == id) {
            let reason = match why {
                GaveUp::NotLoggedIn | GaveUp::Refused { .. } => EndReason::Blocked,
                GaveUp::Limit { .. } => EndReason::LimitMet,
                _ => EndReason::Withdrawn,
            };
            draft.end_session(self.run, id, reason);
            // A client in a terminal does not end by itself.
            draft.effect(self.end_now(id));
            super::end::gave_up(self.world, self.run, stage, why, draft);
        }
        draft.done(self.id, "noted");
        Ok(())
    }

    fn activity(
        &self,
        id: &SessionId,
        activity: Activity,
        asks: Option<&str>,
        draft: &mut Draft,
    ) -> Result<(), Refusal> {
        let session = self.own_session(id)?;
        note_activity(session, activity, asks, draft);
        draft.done(self.id, "noted");
        Ok(())
    }

    /// `loom stage waiting` and `loom stage resume`: for agents whose client has no hooks.
    fn waits(&self, id: &StageId, asks: Option<&str>, draft: &mut Draft) -> Result<(), Refusal> {
        let stage = self.stage(id)?;
        let lease = self.lease(stage)?;
        let Some(session) = self.run.sessions.get(&lease).filter(|session| !session.is_over()) else {
            return Err(self.not_now(stage, "wait"));
        };
        let activity = if asks.is_some() { Activity::WaitingForPerson } else { Activity::Working };
        note_activity(session, activity, asks, draft);
        draft.done(
            self.id,
            match asks {
                Some(_) => format!("stage `{id}` waits for a person: `loom status` says for what"),
                None => format!("stage `{id}` is at work again"),
            },
        );
        Ok(())
    }

    fn measured(&self, id: &SessionId, usage: &Usage, hears: bool, draft: &mut Draft) -> Result<(), Refusal> {
        let session = self.own_session(id)?;
        let stage = self.stage(&session.stage)?;
        match context::measured((self.world, self.run), stage, session, (usage, hears), draft) {
            Some(text) => draft.reply(self.id, Answer::Advice { text }),
            None => draft.done(self.id, "noted"),
        }
        Ok(())
    }

    fn handoff(&self, id: &StageId, handoff: &Handoff, draft: &mut Draft) -> Result<(), Refusal> {
        let stage = self.stage(id)?;
        let lease = self.lease(stage)?;
        let session =
            self.run.sessions.get(&lease).ok_or_else(|| Refusal::user(format!("session `{lease}` is not known")))?;
        let text = context::handoff(stage, session, handoff, draft)?;
        if matches!(stage.state, StageState::Running { .. }) && context::hands_off(session) {
            draft.end_session(self.run, &lease, EndReason::HandingOff);
        }
        draft.done(self.id, text);
        Ok(())
    }

    fn compacting(&self, id: &SessionId, remains: &Handoff, draft: &mut Draft) -> Result<(), Refusal> {
        let session = self.own_session(id)?;
        context::left(self.run, &session.id, remains, draft);
        draft.done(self.id, "noted");
        Ok(())
    }

    fn own_session(&self, id: &SessionId) -> Result<&'a crate::model::session::Session, Refusal> {
        match self.caller {
            Caller::Agent { session } if session == id => {}
            _ => return Err(Refusal::new(RefusalKind::Rights, format!("only session `{id}` itself may say that"))),
        }
        self.run.sessions.get(id).ok_or_else(|| Refusal::user(format!("session `{id}` is not known")))
    }

    fn retry(&self, id: &StageId, context: Option<&str>, draft: &mut Draft) -> Result<(), Refusal> {
        let stage = self.stage(id)?;
        let backend = stage.spec.agent.kind();
        let is_parked = self.run.parked.contains_key(&backend);
        let waits = match &stage.state {
            StageState::Blocked { .. } => true,
            StageState::Ready { retry_at } => {
                retry_at.is_some() || is_parked || self.run.paused.is_some() || lane::needs_probe(self.run, backend)
            }
            _ => false,
        };
        if !waits {
            return Err(self.not_now(stage, "be retried"));
        }
        lane::open_by_person(self.run, backend, draft);
        if is_parked {
            draft.fact(Fact::BackendFreed { backend });
        }
        if let Some(text) = context {
            draft.stage(id, StageChange::Noted { text: said(text, "the context")?.to_owned() });
        }
        draft.stage(id, StageChange::Readied { retry_at: None });
        draft.done(
            self.id,
            match stage.paused {
                Some(_) => format!("stage `{id}` goes on now"),
                None => format!("stage `{id}` goes on with a new attempt"),
            },
        );
        Ok(())
    }

    fn reset(&self, id: &StageId, reason: &str, draft: &mut Draft) -> Result<(), Refusal> {
        let stage = self.stage(id)?;
        let reason = said(reason, "why it starts over")?;
        if matches!(stage.state, StageState::Verifying { .. }) {
            return Err(self.not_now(stage, "be reset"));
        }
        if self.run.end == PlanEnd::Completed {
            return Err(Refusal::user(format!("stage `{id}` cannot be reset while the end of its plan is tidied"))
                .hint("loom status"));
        }
        draft.end_lease(self.run, stage, EndReason::Withdrawn);
        draft.stage(id, StageChange::Reset { reason: reason.to_owned() });
        let had = if stage.attempts > 0 { "; work that it had is put aside: loom undo --list" } else { "" };
        draft.done(self.id, format!("stage `{id}` starts over{had}"));
        Ok(())
    }

    fn hold(&self, id: &StageId, hold: bool, draft: &mut Draft) -> Result<(), Refusal> {
        let stage = self.stage(id)?;
        if stage.state.is_final() {
            return Err(self.not_now(stage, if hold { "be held" } else { "be released" }));
        }
        if stage.held == hold {
            draft.done(self.id, format!("stage `{id}` is {} already", if hold { "held" } else { "released" }));
        } else if hold {
            draft.stage(id, StageChange::Held);
            draft.done(
                self.id,
                format!("stage `{id}` is held: it will not start a session until `loom stage release {id}`"),
            );
        } else {
            draft.stage(id, StageChange::Released);
            draft.done(self.id, format!("stage `{id}` is released"));
        }
        Ok(())
    }

    fn skip(&self, id: &StageId, reason: &str, go_on: bool, draft: &mut Draft) -> Result<(), Refusal> {
        let stage = self.stage(id)?;
        let reason = said(reason, "why it is skipped")?;
        if matches!(stage.state, StageState::Verifying { .. } | StageState::Merged { .. }) {
            return Err(self.not_now(stage, "be skipped"));
        }
        draft.end_lease(self.run, stage, EndReason::Withdrawn);
        draft.stage(id, StageChange::Skipped { reason: reason.to_owned(), go_on });
        let dependents = if go_on { "dependents go on without it" } else { "dependents stay blocked" };
        draft.done(self.id, format!("stage `{id}` is skipped; {dependents}"));
        Ok(())
    }

    fn merge(&self, id: Option<&StageId>, draft: &mut Draft) -> Result<(), Refusal> {
        let Some(id) = id else { return self.merge_base(draft) };
        let stage = self.stage(id)?;
        match &stage.state {
            StageState::Gated { gate, .. }
                if matches!(self.run.gates.get(gate).map(|gate| &gate.subject), Some(GateSubject::Judges { .. })) =>
            {
                Err(Refusal::new(RefusalKind::Waiting, format!("stage `{id}` changed files that judge it"))
                    .because("a person has to look at them first")
                    .hint(format!("loom stage review {id}"))
                    .hint(format!("loom stage approve {id}")))
            }
            StageState::Gated { gate, .. }
                if let Some(GateSubject::Dispute { check, .. }) =
                    self.run.gates.get(gate).map(|gate| &gate.subject) =>
            {
                Err(super::dispute::not_by_approval(self.run, id, check))
            }
            StageState::Gated { gate, commit: Some(commit) } => {
                draft.fact(Fact::GateAnswered { gate: *gate, approved: true, reason: "loom merge".to_owned() });
                draft.stage(id, StageChange::Approved { commit: commit.clone() });
                draft.done(self.id, format!("stage `{id}` lands as soon as it is its turn"));
                Ok(())
            }
            StageState::Verifying { .. } => {
                draft.done(self.id, format!("stage `{id}` is in the merge queue already"));
                Ok(())
            }
            StageState::Blocked { .. } => self.submit(id, draft),
            _ => Err(self.not_now(stage, "be merged")),
        }
    }

    /// `loom merge` without a stage: the base branch follows now.
    fn merge_base(&self, draft: &mut Draft) -> Result<(), Refusal> {
        if let BaseEntry::Rejected { commit, text } = &self.run.base_entry {
            draft.fact(Fact::BaseMoved { commit: commit.clone() });
            draft.done(self.id, format!("the base branch's commits are tried again; before: {text}"));
            return Ok(());
        }
        let Some(tip) = self.run.tip.as_ref().filter(|tip| **tip != self.run.base) else {
            if self.run.base_stays.is_some() {
                draft.fact(Fact::BaseFollowed { commit: self.run.base.clone() });
            }
            draft.done(self.id, format!("branch `{}` has everything that landed", self.run.ground.base_branch));
            return Ok(());
        };
        draft.fact(Fact::FollowStarted { from: self.run.base.clone(), to: tip.clone() });
        draft.done(self.id, format!("branch `{}` follows to {}", self.run.ground.base_branch, tip.short()));
        Ok(())
    }

    fn kill(&self, id: &SessionId, draft: &mut Draft) -> Result<(), Refusal> {
        match self.run.sessions.get(id) {
            Some(session) if !session.is_over() => {
                draft.end_session(self.run, id, EndReason::Killed);
                let stage = self.stage(&session.stage)?;
                if session.host().is_none() && stage.state.lease() == Some(id) {
                    draft.stage(&session.stage, StageChange::Blocked { reason: super::end::killed(id) });
                }
                draft.done(self.id, format!("session `{id}` is being ended; its stage will be blocked"));
                Ok(())
            }
            Some(_) => Err(Refusal::user(format!("session `{id}` is over already")).hint("loom sessions list")),
            None => Err(Refusal::user(format!("there is no session `{id}`")).hint("loom sessions list")),
        }
    }

    fn stop(&self, kill: bool, draft: &mut Draft) {
        if kill {
            for session in self.run.live_sessions() {
                draft.end_session(self.run, &session.id, EndReason::Stopped);
                let holds = self.run.stages.get(&session.stage).is_some_and(
                    |stage| matches!(&stage.state, StageState::Running { session: lease } if *lease == session.id),
                );
                if holds && session.host().is_none() {
                    draft.stage(&session.stage, StageChange::Readied { retry_at: None });
                }
            }
        }
        draft.fact(Fact::Stopped { by: self.caller.clone() });
        // Those that are over anyway end with the daemon.
        let goes_on = |session: &&Session| kill || !session.is_leaving();
        let live = self.run.live_sessions().filter(goes_on).count();
        let text = match (kill, live) {
            (_, 0) => "the daemon stops".to_owned(),
            (true, 1) => "the daemon stops and ends 1 session".to_owned(),
            (true, n) => format!("the daemon stops and ends {n} sessions"),
            (false, 1) => "the daemon stops; 1 session goes on under its host".to_owned(),
            (false, n) => format!("the daemon stops; {n} sessions go on under their hosts"),
        };
        draft.done(self.id, text);
        draft.effect(Effect::Shutdown);
    }

    fn not_now(&self, stage: &Stage, verb: &str) -> Refusal {
        let kind = stage.state.kind();
        let refusal = Refusal::user(format!("stage `{}` cannot {verb}: it is {}", stage.spec.id, kind.as_str()));
        match schedule::next_step(self.run, stage) {
            Some(next) => refusal.hint(next),
            None => refusal.hint("loom status"),
        }
    }
}

fn note_activity(session: &Session, activity: Activity, asks: Option<&str>, draft: &mut Draft) {
    // A notification that comes after the question must not hide what is asked.
    let asks = asks.map(text::one_line).or_else(|| {
        session.asks.clone().filter(|_| activity == Activity::WaitingForPerson && session.activity == activity)
    });
    // What runs in the background of an idle client still wakes it.
    let is_known = session.activity == Activity::Background && activity == Activity::Idle;
    if !is_known && (session.activity != activity || session.asks != asks) {
        draft.fact(Fact::session(&session.id, SessionChange::Activity { activity, asks }));
    }
}

fn said<'a>(text: &'a str, what: &str) -> Result<&'a str, Refusal> {
    let text = text.trim();
    if text.is_empty() {
        return Err(Refusal::user(format!("{what} is missing")).hint("give it with --reason \"…\""));
    }
    if text.len() > REASON_BYTES_MAX {
        return Err(Refusal::user(format!("{what} is longer than {REASON_BYTES_MAX} bytes")));
    }
    Ok(text)
}
