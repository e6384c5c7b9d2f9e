//! What a step is, and the draft of one that the parts of the kernel fill in.

use jiff::Timestamp;

use super::world::{Run, Stage};
use crate::model::effect::{Answer, Effect};
use crate::model::event::RequestId;
use crate::model::fact::{Fact, SessionChange, StageChange};
use crate::model::ids::{SessionId, StageId};
use crate::model::session::{EndReason, Exit, SessionEnd, SessionState};

/// What an event makes true, and what is to be done at once because of it.
/// Effects that follow from the world alone come from [`super::due`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "facts that are not recorded did not happen"]
pub struct Step {
    pub facts: Vec<Fact>,
    pub effects: Vec<Effect>,
}

/// Collects facts and effects in order.
pub(super) struct Draft {
    pub(super) now: Timestamp,
    step: Step,
}

impl Draft {
    pub(super) fn at(now: Timestamp) -> Draft {
        Draft { now, step: Step::default() }
    }
    pub(super) fn into_step(self) -> Step {
        self.step
    }
    pub(super) fn facts(&self) -> &[Fact] {
        &self.step.facts
    }
    pub(super) fn fact(&mut self, fact: Fact) {
        self.step.facts.push(fact);
    }
    pub(super) fn stage(&mut self, stage: &StageId, change: StageChange) {
        self.fact(Fact::stage(stage, change));
    }
    pub(super) fn effect(&mut self, effect: Effect) {
        self.step.effects.push(effect);
    }
    pub(super) fn reply(&mut self, request: RequestId, answer: Answer) {
        self.effect(Effect::Reply { request, answer });
    }
    pub(super) fn done(&mut self, request: RequestId, text: impl Into<String>) {
        self.reply(request, Answer::Done { text: text.into() });
    }
    /// Ends the session that holds the stage's lease, if one lives.
    pub(super) fn end_lease(&mut self, run: &Run, stage: &Stage, why: EndReason) {
        if let Some(session) = stage.state.lease() {
            self.end_session(run, session, why);
        }
    }
    pub(super) fn end_session(&mut self, run: &Run, id: &SessionId, why: EndReason) {
        match run.sessions.get(id).map(|session| &session.state) {
            Some(SessionState::Live { .. }) => self.fact(Fact::session(id, SessionChange::Ending { why })),
            // It was given time for what nobody waits for any more.
            Some(SessionState::Ending { why: EndReason::HandingOff | EndReason::Hung, .. })
                if why.grace().is_zero() =>
            {
                self.fact(Fact::session(id, SessionChange::Ending { why }));
            }
            Some(SessionState::Planned) => {
                self.session_over(id, SessionEnd::NeverStarted, Exit::NeverStarted);
                self.effect(Effect::CancelStart { session: id.clone() });
            }
            _ => {}
        }
    }
    pub(super) fn session_over(&mut self, id: &SessionId, end: SessionEnd, exit: Exit) {
        self.fact(Fact::session(id, SessionChange::Ended { end, exit }));
    }
}
