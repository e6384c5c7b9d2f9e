//! An agent that says that a check is wrong, and what a person can make of it: send the stage back,
//! or change the check in a new version of the plan. Nothing lands with a check that fails.

use std::borrow::Cow;

use super::draft::Draft;
use super::text;
use super::world::{Run, Stage};
use crate::model::check::{Check, DeadCode, RegressionTest};
use crate::model::fact::{Fact, StageChange};
use crate::model::gate::{Disputed, Gate, GateSubject};
use crate::model::ids::StageId;
use crate::model::plan::{Plan, StageSpec};
use crate::model::refusal::{Refusal, RefusalKind};
use crate::model::stage::StageState;

/// The check of this number, as a question about it needs it: one that has failed in the newest verdict
/// and that nobody has disputed before.
pub(super) fn disputed(run: &Run, stage: &Stage, number: u32, reason: &str) -> Result<Disputed, Refusal> {
    let id = &stage.spec.id;
    let all = run.required(stage).map(Cow::into_owned).collect::<Vec<_>>();
    let at = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
    let Some(name) = at.and_then(|at| all.get(at)).cloned() else {
        let refusal = Refusal::user(format!("stage `{id}` has no check {number}"));
        let listed = all.iter().enumerate().map(|(at, name)| format!("{}. {}", at + 1, text::short_command(name)));
        return Err(listed.fold(refusal, Refusal::because).hint("loom signal"));
    };
    if stage.disputed.contains(&name) {
        return Err(Refusal::new(RefusalKind::Work, format!("check {number} of stage `{id}` was disputed before"))
            .because("a person has decided that it is right: a check is disputed once")
            .hint(format!("mend the work, commit, then loom stage complete {id}"))
            .hint(format!("loom stage block {id} --reason \"what you need a person for\"")));
    }
    let Some(failed) = stage.checks.iter().find(|check| check.command == name && !check.passed) else {
        return Err(Refusal::new(RefusalKind::Work, format!("check {number} of stage `{id}` has not failed"))
            .because("only a check that failed in the newest verdict can be disputed")
            .hint(format!("loom stage complete {id}")));
    };
    Ok(Disputed {
        number,
        name,
        reason: reason.to_owned(),
        failed: failed.why.clone().unwrap_or_default(),
        evidence: failed.evidence.clone(),
    })
}

pub(super) fn question(stage: &StageId, check: &Disputed) -> String {
    format!(
        "the agent of stage `{stage}` says that check {} (`{}`) is wrong: {}. It failed last: {}. Is the check wrong, \
         change it in the plan (`loom plan apply`); is it right, `loom stage reject {stage} --reason \"…\"`",
        check.number,
        text::short_command(&check.name),
        text::one_line(&check.reason),
        check.failed
    )
}

/// A yes alone would land work that a check says is wrong.
pub(super) fn not_by_approval(run: &Run, stage: &StageId, check: &Disputed) -> Refusal {
    let plan = &run.source.path;
    let what = format!("check {} of stage `{stage}` still fails: nothing lands by approving it", check.number);
    Refusal::new(RefusalKind::Waiting, what)
        .because("a check that is wrong is changed in the plan, where everybody sees it; then the work is proven again")
        .hint(format!("change or remove the check in {plan}, then loom plan apply {plan}"))
        .hint(format!("loom stage reject {stage} --reason \"…\"   (the check is right)"))
}

/// Back to the same conversation, with the person's words.
pub(super) fn rejected(stage: &StageId, check: &Disputed, reason: &str, draft: &mut Draft) {
    let words = if reason.is_empty() { "it is right as it is" } else { reason };
    let text = format!("About check {} (`{}`), which you called wrong: {words}", check.number, check.name);
    draft.stage(stage, StageChange::Noted { text });
    let why = format!("a person says that check {} is right", check.number);
    draft.stage(stage, StageChange::Paused { why, resumes: true, retry_at: None });
}

/// The question that a new version of the plan answers: the disputed check is another one there.
pub(super) fn settled_by<'a>(run: &'a Run, stage: &Stage, plan: &Plan, spec: &StageSpec) -> Option<&'a Gate> {
    let StageState::Gated { gate, .. } = &stage.state else { return None };
    let gate = run.gates.get(gate).filter(|gate| gate.answer.is_none())?;
    let GateSubject::Dispute { check, .. } = &gate.subject else { return None };
    let was = definitions(&stage.spec, run.acceptance_of(stage), &check.name);
    (was != definitions(spec, &plan.acceptance, &check.name)).then_some(gate)
}

/// Proves the disputed commit again, by what the plan says now.
pub(super) fn settle(run: &Run, stage: &Stage, draft: &mut Draft) {
    let StageState::Gated { gate, commit } = &stage.state else { return };
    let reason = format!("plan version {}", run.version + 1);
    draft.fact(Fact::GateAnswered { gate: *gate, approved: true, reason });
    draft.stage(
        &stage.spec.id,
        match commit {
            Some(commit) => StageChange::Submitted { commit: commit.clone() },
            None => StageChange::Paused { why: "the plan has changed".to_owned(), resumes: true, retry_at: None },
        },
    );
}

/// Something that goes by a name in verdicts.
#[derive(Debug, PartialEq)]
enum Definition<'a> {
    Command(&'a Check),
    DeadCode(&'a DeadCode),
    Regression(&'a RegressionTest),
    /// Its name says all of it.
    Named,
}

fn definitions<'a>(spec: &'a StageSpec, acceptance: &'a [Check], name: &str) -> Vec<Definition<'a>> {
    let criteria = &spec.criteria;
    let tests = criteria.wiring_tests.iter().map(|test| &test.check);
    let commands = spec.checks.iter().chain(acceptance).chain(&criteria.after).chain(tests);
    let mut all: Vec<Definition> = commands.filter(|check| check.command == name).map(Definition::Command).collect();
    all.extend(criteria.dead_code.iter().filter(|dead| dead.command == name).map(Definition::DeadCode));
    for label in criteria.labels().filter(|label| label == name) {
        let regression = criteria.regression_test.as_ref().filter(|_| label.starts_with("regression test "));
        all.push(regression.map_or(Definition::Named, Definition::Regression));
    }
    all
}
