//! The journal in sentences: one a fact, with who was behind it.

use crate::kernel::text;
use crate::model::fact::{Fact, SessionChange, StageChange};
use crate::model::ids::StageId;
use crate::model::session::{EndReason, Preparing};
use crate::model::stage::CheckResult;

/// What a fact says, and what it rests on.
pub struct Sentence {
    pub text: String,
    /// Commits, checks and reasons; one a line.
    pub evidence: Vec<String>,
}

fn says(text: impl Into<String>) -> Sentence {
    Sentence { text: text.into(), evidence: Vec::new() }
}

impl Sentence {
    fn with(mut self, line: impl Into<String>) -> Sentence {
        self.evidence.push(line.into());
        self
    }
    fn with_all(mut self, lines: impl IntoIterator<Item = String>) -> Sentence {
        self.evidence.extend(lines);
        self
    }
}

/// Who was behind a record: a person, a session, or Loom itself.
pub fn actor(cause: &str) -> &str {
    cause.split_once(" by ").map_or("loom", |(_, who)| who)
}

/// The stages that a fact is about; none: the whole project.
pub fn stages(fact: &Fact) -> Vec<StageId> {
    match fact {
        Fact::Stage { stage, .. } | Fact::StageRemoved { stage, .. } | Fact::TeardownFailed { stage, .. } => {
            vec![stage.clone()]
        }
        Fact::Session { session, .. } => vec![session.stage()],
        Fact::GateOpened { subject, .. } => subject.stage().cloned().into_iter().collect(),
        Fact::WorktreesTidied { stages, .. } => stages.clone(),
        _ => Vec::new(),
    }
}

/// The sentence of one fact.
pub fn tell(fact: &Fact) -> Sentence {
    match fact {
        Fact::Stage { stage, change } => tell_stage(stage.as_str(), change),
        Fact::Session { session, change } => tell_session(session.as_str(), change),
        Fact::PlanLoaded { plan, source, ground } => {
            says(format!("plan `{}` is loaded with {}", plan.id, crate::base::text::count(plan.stages.len(), "stage")))
                .with(format!("{}, sha256 {}", source.path, source.sha256))
                .with(format!("from `{}` at {}", ground.base_branch, ground.base_commit))
        }
        Fact::PlanAmended { plan, source } => {
            let stages = crate::base::text::count(plan.stages.len(), "stage");
            says(format!("plan `{}` has a new version, with {stages}", plan.id))
                .with(format!("{}, sha256 {}", source.path, source.sha256))
        }
        Fact::PlanReplaced { leftovers } => says("the open plan, or some of its stages, is given up")
            .with_all(leftovers.iter().map(|(stage, _)| format!("it leaves `{stage}`"))),
        Fact::PlanBranchMade { commit } => says(format!("the plan branch is made at {}", commit.short())),
        Fact::DaemonStarted { .. } => says("a daemon carries the plan out"),
        Fact::WorktreesTidied { stages, rescued } => {
            says(format!("landed worktrees are removed: {}", crate::base::text::list(stages)))
                .with_all(put_aside(rescued))
        }
        Fact::StageRemoved { stage, rescued } => {
            says(format!("worktrees and branch of `{stage}` are removed")).with_all(put_aside(rescued))
        }
        Fact::TeardownFailed { stage, why } => {
            says(format!("the worktree of `{stage}` is removed although its teardown failed")).with(why.clone())
        }
        Fact::Rescued { refs } => says("work is put aside").with_all(put_aside(refs)),
        Fact::GateOpened { gate, question, .. } => says(format!("question {gate} is open: {question}")),
        Fact::GateAnswered { gate, approved, reason } => {
            says(format!("question {gate} is answered: {}", if *approved { "yes" } else { "no" }))
                .with_all(Some(reason.clone()).filter(|reason| !reason.is_empty()))
        }
        Fact::BackendParked { backend, reason } => says(format!("no `{backend}` session starts: {}", reason.text)),
        Fact::BackendFreed { backend } => says(format!("`{backend}` sessions may start again")),
        Fact::PlanCompleted => says("every stage is merged or skipped: the plan is complete"),
        Fact::PlanCleaned => says("worktrees are gone, branches are kept under refs/loom/done/"),
        Fact::Stopped { .. } => says("the daemon is asked to stop"),
        proof => tell_proof(proof),
    }
}

fn tell_proof(fact: &Fact) -> Sentence {
    match fact {
        Fact::TipAccepted { commit } => says(format!("the plan branch is taken as it is, at {}", commit.short())),
        Fact::ConfigAccepted { fingerprint } => {
            says("the repository's changed git configuration is accepted").with(format!("digest {fingerprint}"))
        }
        Fact::ProgramsAccepted { fingerprint } => {
            says("the changed programs on PATH are accepted").with(format!("digest {fingerprint}"))
        }
        Fact::EvidenceKept { evidence } => {
            says(format!("the evidence about {} of `{}` is kept", evidence.commit.short(), evidence.of))
                .with(format!("{}, sha256 {}", evidence.path, evidence.sha256))
        }
        Fact::CachesKept { sha256 } => {
            says("what a proof left in its checkout is taken down").with(format!("sha256 {sha256}"))
        }
        Fact::BudgetGranted { stage: Some(stage), .. } => says(format!("`{stage}` gets another helping of its budget")),
        Fact::BudgetGranted { stage: None, .. } => says("the plan gets another helping of its budget"),
        Fact::PlanPaused { why } => says(format!("the plan pauses: {why}")),
        Fact::PlanResumed => says("the plan goes on"),
        lane => tell_lane(lane),
    }
}

fn tell_lane(fact: &Fact) -> Sentence {
    match fact {
        Fact::LaneParked { backend, text, until, .. } => {
            says(format!("no `{backend}` session starts before {until}")).with(text.clone())
        }
        Fact::LaneProbed { backend, session } => says(format!("session `{session}` tries whether `{backend}` works")),
        Fact::LaneFreed { backend, .. } => says(format!("`{backend}` sessions go on")),
        base => tell_base(base),
    }
}

fn tell_base(fact: &Fact) -> Sentence {
    match fact {
        Fact::BaseMoved { commit } => says(format!("the base branch has new commits up to {}", commit.short())),
        Fact::BaseMerged { commit, landed } => says(format!("the base branch's {} landed as {landed}", commit.short())),
        Fact::BaseProofStarted { commit, tip } => {
            says(format!("the base branch's {} is proven on {}", commit.short(), tip.short()))
        }
        Fact::BaseProven { landing, tree, checks, .. } => says("the base branch's commits are proven")
            .with(format!("commit {landing}, tree {tree}"))
            .with_all(shown(checks)),
        Fact::BaseRejected { text, .. } => says(format!("the base branch's commits are not merged: {text}")),
        Fact::BaseRequeued => says("the base branch's commits wait for their turn again"),
        Fact::FollowStarted { from, to } => {
            says(format!("the base branch starts to follow from {} to {}", from.short(), to.short()))
        }
        Fact::BaseFollowed { commit } => says(format!("the base branch is at {}", commit.short())),
        Fact::BaseStayed { why } => says(format!("the base branch did not follow: {why}")),
        other => says(format!("{other:?}")),
    }
}

fn tell_stage(id: &str, change: &StageChange) -> Sentence {
    match change {
        StageChange::Readied { retry_at: None } => says(format!("`{id}` may start")),
        StageChange::Readied { retry_at: Some(at) } => says(format!("`{id}` may start from {at}")),
        StageChange::Started { attempt, session, base } => {
            says(format!("`{id}` starts attempt {attempt} in session `{session}`")).with(format!("from {base}"))
        }
        StageChange::Continued { session } => says(format!("`{id}` goes on in session `{session}`")),
        StageChange::Paused { why, resumes, .. } => {
            let how = if *resumes { "the same conversation" } else { "a new conversation" };
            says(format!("`{id}` pauses and goes on in {how}: {why}"))
        }
        StageChange::HandoffWritten { .. } => says(format!("`{id}` has a handoff for what comes next")),
        StageChange::BeforeHeld { checks } => says(format!("what must hold before `{id}` does"))
            .with_all(checks.iter().map(|check| format!("passed: {}", check.command))),
        StageChange::Submitted { commit } => says(format!("`{id}` is submitted")).with(format!("commit {commit}")),
        StageChange::ProofStarted { tip } => says(format!("`{id}` is merged with {} and proven", tip.short())),
        StageChange::Requeued => says(format!("`{id}` waits for its turn again")),
        StageChange::BaselineWanted => {
            says(format!("the checks of `{id}` are run on its base while its session works"))
        }
        StageChange::BaselineTaken { baseline } => {
            says(format!("the checks of `{id}` were run on its base {}", baseline.base.short()))
                .with_all(shown(&baseline.checks.iter().map(|before| before.result.clone()).collect::<Vec<_>>()))
        }
        StageChange::Returned { failure } => {
            says(format!("`{id}` is not accepted, and its session goes on: {}", failure.text))
                .with_all(shown(&failure.checks))
        }
        StageChange::Failed { failure, .. } => {
            says(format!("attempt {} of `{id}` failed: {}", failure.attempt, failure.text))
                .with_all(shown(&failure.checks))
        }
        StageChange::Proven { tip, landing, tree, checks, .. } => says(format!("`{id}` is proven"))
            .with(format!("commit {landing} on {}, tree {tree}", tip.short()))
            .with_all(shown(checks)),
        StageChange::Landed { landed } => says(format!("`{id}` landed")).with(format!("commit {landed}")),
        StageChange::ProofAgainStarted { tip } => {
            says(format!("`{id}` has landed, and its new checks are run on {}", tip.short()))
        }
        StageChange::ProvenAgain { tip, checks } => {
            says(format!("`{id}` has landed, and its new checks hold on {}", tip.short())).with_all(shown(checks))
        }
        StageChange::Gated { gate } => says(format!("`{id}` waits for the answer to {gate}")),
        StageChange::Disputed { gate, check } => {
            says(format!("the agent of `{id}` says that a check is wrong: {gate}")).with(format!("check: {check}"))
        }
        StageChange::Approved { commit } => says(format!("`{id}` is approved at {}", commit.short())),
        StageChange::Blocked { reason } => {
            says(format!("`{id}` is blocked ({}): {}", reason.code.as_str(), reason.text))
        }
        StageChange::Skipped { reason, go_on } => {
            let dependents = if *go_on { "dependents go on" } else { "dependents wait" };
            says(format!("`{id}` is skipped, {dependents}: {reason}"))
        }
        StageChange::Reset { reason } => says(format!("`{id}` starts over: {reason}")),
        StageChange::Held => says(format!("`{id}` is held")),
        StageChange::Released => says(format!("`{id}` is released")),
        StageChange::Noted { text } => says(format!("`{id}` is told: {text}")),
    }
}

fn tell_session(id: &str, change: &SessionChange) -> Sentence {
    match change {
        SessionChange::Planned { backend, worktree, resumes, .. } => {
            let how = if *resumes { ", in the same conversation" } else { "" };
            says(format!("session `{id}` of `{backend}` is planned in .worktrees/{worktree}{how}"))
        }
        SessionChange::Preparing { what: Preparing::SetUp } => says(format!("the worktree of `{id}` is being set up")),
        SessionChange::Preparing { what: Preparing::Before } => {
            says(format!("what must hold before `{id}` is looked at"))
        }
        SessionChange::SetUp { duration_ms } => {
            says(format!("the worktree of `{id}` is set up")).with(format!("{duration_ms} ms"))
        }
        SessionChange::Hosted { host, .. } => {
            says(format!("session `{id}` has a host")).with(format!("process {}, boot {}", host.pid, host.boot_id))
        }
        SessionChange::Ending { why } => says(format!("session `{id}` is asked to end: {}", reason(why))),
        SessionChange::Ended { end, exit } => {
            let end = serde_json::to_value(end).ok().and_then(|end| end.as_str().map(str::to_owned));
            says(format!("session `{id}` is over: {}, {exit}", end.unwrap_or_default()))
        }
        SessionChange::Measured { .. } => says(format!("session `{id}` is measured")),
        SessionChange::ProcessesLeft { processes } => {
            says(format!("session `{id}` left processes behind, which were ended")).with_all(processes.iter().cloned())
        }
        SessionChange::Looked { suspect: Some(suspicion), .. } => {
            says(format!("session `{id}` may hang: {} since {:.0}", suspicion.why, suspicion.since))
        }
        SessionChange::Looked { suspect: None, .. } => says(format!("session `{id}` is at work")),
        SessionChange::Told { zone } => says(format!("session `{id}` is told how full its context is: {zone:?}")),
        SessionChange::Returned => says(format!("session `{id}` is told the red verdict")),
        SessionChange::Reminded => says(format!("session `{id}` is reminded that nothing was submitted")),
        SessionChange::Activity { activity, .. } => says(format!("session `{id}` is {activity:?}").to_lowercase()),
    }
}

fn reason(why: &EndReason) -> &'static str {
    match why {
        EndReason::Done => "its work is done",
        EndReason::HandingOff => "it hands off",
        EndReason::Hung => "it was silent for too long",
        EndReason::LimitMet => "a usage limit is met",
        EndReason::Stopped => "everything was stopped",
        EndReason::Killed => "a person killed it",
        EndReason::Blocked => "it cannot go on",
        EndReason::Withdrawn => "its stage was taken from it",
    }
}

fn shown(checks: &[CheckResult]) -> Vec<String> {
    let line = |check: &CheckResult| {
        let mark = if check.passed { "passed" } else { "failed" };
        let why = check.why.as_deref().map(|why| format!(" ({why})")).unwrap_or_default();
        let output = match check.evidence.as_str() {
            "" => "it printed nothing".to_owned(),
            file => format!("{file}, sha256 {}", check.output_sha256),
        };
        let base = text::about_base(check).map(|about| format!(" ({about})")).unwrap_or_default();
        format!("{mark} `{}`{why}{base}: {output}", check.command)
    };
    checks.iter().map(line).collect()
}

fn put_aside(refs: &[String]) -> Vec<String> {
    refs.iter().map(|name| format!("kept: {name}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_actor_is_a_person_a_session_or_loom() {
        assert_eq!(actor("stage hold by operator"), "operator");
        assert_eq!(actor("stage complete by session a.1"), "session a.1");
        assert_eq!(actor("schedule"), "loom");
    }
}
