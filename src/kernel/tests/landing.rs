//! What lands, who lets it land, and what the refs say meanwhile.

use super::*;

#[test]
fn nothing_lands_with_a_failed_check_or_without_evidence() {
    let mut sim = Sim::new(vec![spec("a", &[], command())]);
    sim.until_verifying("a");
    let with = |checks: Vec<CheckResult>, judges: Vec<Touched>, changes_nothing| {
        let (tip, landing, tree) = (oid(1), oid(20), oid(9));
        Fact::stage(&id("a"), StageChange::Proven { tip, landing, tree, checks, judges, changes_nothing })
    };
    let proven = |checks| with(checks, Vec::new(), false);
    assert_eq!(rules(&sim.world, &[proven(vec![check_result(false)])]).unwrap_err().rule, "R2");
    assert_eq!(rules(&sim.world, &[proven(Vec::new())]).unwrap_err().rule, "R15");
    let landed = Fact::stage(&id("a"), StageChange::Landed { landed: oid(20) });
    assert_eq!(rules(&sim.world, std::slice::from_ref(&landed)).unwrap_err().rule, "R1");
    let other = Fact::stage(&id("a"), StageChange::Landed { landed: oid(21) });
    assert_eq!(rules(&sim.world, &[proven(vec![check_result(true)]), other]).unwrap_err().rule, "R2");
    assert!(rules(&sim.world, &[proven(vec![check_result(true)]), landed.clone()]).is_ok());
    let judge = Touched { path: "Makefile".to_owned(), why: "a build script".to_owned() };
    for (proven, rule) in [
        (with(vec![check_result(true)], vec![judge], false), "R4"),
        (with(vec![check_result(true)], Vec::new(), true), "R5"),
        (proven(vec![CheckResult { command: "other".to_owned(), ..check_result(true) }]), "R18"),
    ] {
        assert_eq!(rules(&sim.world, &[proven, landed.clone()]).unwrap_err().rule, rule);
    }
}

#[test]
fn what_judges_is_a_persons_to_change() {
    let mut sim = Sim::new(vec![spec("a", &[], command())]);
    sim.until_verifying("a");
    let judge = Touched { path: "Makefile".to_owned(), why: "a build script, changed".to_owned() };
    let bent = |landing| Proof::Passed {
        landing,
        tree: oid(9),
        checks: vec![check_result(true)],
        judges: vec![judge.clone()],
        changes_nothing: false,
    };
    sim.proved("a", bent(oid(20)));
    assert_eq!(sim.state("a").kind(), StateKind::Gated);
    let StageState::Gated { gate, commit: Some(commit) } = sim.state("a").clone() else {
        panic!("{:?}", sim.state("a"))
    };
    let asked = sim.world.run.as_ref().unwrap().gates[&gate].clone();
    assert!(asked.question.contains("`Makefile` (a build script, changed)"), "{}", asked.question);
    assert!(matches!(asked.subject, GateSubject::Judges { commit: about, .. } if about == commit));
    // `loom merge` is no answer: a person has to look.
    let merge = Request::Merge { stage: Some(id("a")) };
    let asked = Event::Request { id: RequestId(1), caller: Caller::Operator, request: merge };
    assert_eq!(step(&sim.world, &asked, sim.now).unwrap_err().kind, RefusalKind::Waiting);
    // Approved, it lands; proven again on another tip, it lands without another question.
    sim.ask(Request::Approve { subject: GateTarget::Stage { stage: id("a") }, reason: "fine".to_owned() });
    sim.schedule().proved("a", bent(oid(21)));
    sim.send(Event::Landed { entry: Entry::Stage { stage: id("a") }, tip: oid(1), landing: oid(21) });
    assert_eq!(sim.state("a").kind(), StateKind::Merged);
}

#[test]
fn changed_programs_stop_landing_until_a_person_has_seen_them() {
    let mut sim = Sim::new(vec![spec("a", &[], command())]);
    sim.until_verifying("a");
    sim.send(Event::ProgramsSeen { fingerprint: "f".to_owned(), changed: vec!["/bin/x (new)".to_owned()] });
    sim.proved("a", Proof::Stopped).schedule();
    assert!(matches!(sim.state("a"), StageState::Verifying { phase: Phase::Queued, .. }), "{:?}", sim.state("a"));
    sim.ask(Request::Approve { subject: GateTarget::Gate { gate: GateId(1) }, reason: String::new() }).schedule();
    assert_eq!(sim.world.programs.as_deref(), Some("f"));
    assert!(matches!(sim.state("a"), StageState::Verifying { phase: Phase::Proving { .. }, .. }));
}

#[test]
fn an_agent_has_the_verbs_of_its_own_stage_only() {
    let mut sim = Sim::new(vec![spec("a", &[], claude()), spec("b", &[], claude())]);
    sim.schedule().hosted("a.1").hosted("b.1");
    let agent = Caller::Agent { session: SessionId::new("a.1").unwrap() };
    let reason = "x".to_owned();
    for request in [
        Request::Submit { stage: id("b") },
        Request::Block { stage: id("b"), reason: reason.clone() },
        Request::Retry { stage: id("a"), context: None },
        Request::Reset { stage: id("a"), reason: reason.clone() },
        Request::Skip { stage: id("a"), reason: reason.clone(), go_on: true },
        Request::Hold { stage: id("a") },
        Request::Release { stage: id("a") },
        Request::Approve { subject: GateTarget::Stage { stage: id("a") }, reason: reason.clone() },
        Request::Reject { subject: GateTarget::Stage { stage: id("a") }, reason: reason.clone() },
        Request::Merge { stage: None },
        Request::KillSession { session: SessionId::new("b.1").unwrap() },
        Request::Stop { kill: true },
        Request::TurnEnded { session: SessionId::new("b.1").unwrap(), waits: false },
    ] {
        let event = Event::Request { id: RequestId(1), caller: agent.clone(), request };
        let refusal = step(&sim.world, &event, sim.now).expect_err(&format!("{event:?} was allowed"));
        assert_eq!(refusal.kind, crate::model::refusal::RefusalKind::Rights, "{event:?}");
    }
}

#[test]
fn refs_that_moved_by_other_hands_stop_landing() {
    let seen = |plan: Oid, base: Oid, forward: bool, stage_work: bool| RefsSeen {
        asked_tip: Some(oid(1)),
        asked_base: oid(1),
        plan_tip: Some(plan),
        base_tip: Some(base),
        base_is_forward: forward,
        base_has_stage_work: stage_work,
        base_is_in_plan: false,
    };
    for (refs, expected) in [
        (seen(oid(99), oid(1), true, false), "plan"),
        (seen(oid(1), oid(98), true, true), "base"),
        (seen(oid(1), oid(97), false, false), "base"),
        (seen(oid(1), oid(96), true, false), "merge"),
    ] {
        let mut sim = Sim::new(vec![spec("a", &[], command())]);
        sim.until_verifying("a").send(Event::RefsSeen { refs });
        let run = sim.world.run.as_ref().unwrap();
        let gate = run.landing_gate().unwrap_or_else(|| panic!("no gate for {expected}"));
        let about = match gate.subject {
            GateSubject::PlanBranchMoved { .. } => "plan",
            GateSubject::BaseBranchMoved { .. } => "base",
            GateSubject::MergeBase { .. } => "merge",
            _ => "other",
        };
        assert_eq!(about, expected);
        let open = gate.id;
        sim.proved("a", red()).schedule();
        let sessions = sim.world.run.as_ref().unwrap().stages[&id("a")].sessions;
        assert_eq!(sessions, 2, "work goes on while landing waits");
        let answer = Request::Approve { subject: GateTarget::Gate { gate: open }, reason: String::new() };
        sim.ask(answer.clone());
        let again = Event::Request { id: RequestId(1), caller: Caller::Operator, request: answer };
        assert!(step(&sim.world, &again, sim.now).is_err(), "a gate is answered once");
    }
}

#[test]
fn newer_commits_of_the_user_wait_for_the_landing_of_older_ones() {
    let mut sim = Sim::new(vec![spec("a", &[], command())]);
    let seen = |asked: u8, base: u8| Event::RefsSeen {
        refs: RefsSeen {
            asked_tip: Some(oid(1)),
            asked_base: oid(asked),
            plan_tip: Some(oid(1)),
            base_tip: Some(oid(base)),
            base_is_forward: true,
            base_has_stage_work: false,
            base_is_in_plan: false,
        },
    };
    sim.send(seen(1, 5));
    sim.ask(Request::Approve { subject: GateTarget::Gate { gate: GateId(1) }, reason: String::new() }).schedule();
    sim.send(Event::Proved {
        entry: Entry::Base,
        tip: oid(1),
        proof: green(&oid(9)),
        kept: None,
        evidence: Vec::new(),
        baseline: None,
    });
    sim.send(seen(5, 6));
    sim.effects.clear();
    sim.send(Event::Landed { entry: Entry::Base, tip: oid(1), landing: oid(9) });
    assert_eq!(sim.world.run.as_ref().unwrap().tip, Some(oid(9)), "the landing is not forgotten");
    assert!(matches!(sim.effects[..], [Effect::LookAtRefs { .. }]), "{:?}", sim.effects);
    // What was seen before the landing asks nobody anything: it is looked at again.
    sim.effects.clear();
    sim.facts.clear();
    sim.send(seen(5, 6));
    assert!(sim.facts.is_empty(), "{:?}", sim.facts);
    assert!(matches!(sim.effects[..], [Effect::LookAtRefs { .. }]), "{:?}", sim.effects);
}

#[test]
fn commits_that_the_user_has_taken_back_wait_for_nobody() {
    let mut sim = Sim::new(vec![spec("a", &[], command())]);
    let seen = |asked: u8, base: u8, is_in_plan: bool| Event::RefsSeen {
        refs: RefsSeen {
            asked_tip: Some(oid(1)),
            asked_base: oid(asked),
            plan_tip: Some(oid(1)),
            base_tip: Some(oid(base)),
            base_is_forward: !is_in_plan,
            base_has_stage_work: false,
            base_is_in_plan: is_in_plan,
        },
    };
    sim.send(seen(1, 5, false));
    sim.ask(Request::Reject { subject: GateTarget::Gate { gate: GateId(1) }, reason: String::new() });
    sim.send(seen(5, 1, true));
    let run = sim.world.run.as_ref().unwrap();
    assert_eq!((&run.base, &run.base_entry), (&oid(1), &super::super::world::BaseEntry::Absent));
}

#[test]
fn a_stage_that_is_reset_after_the_end_of_its_plan_is_done_again() {
    let mut sim = Sim::new(vec![spec("a", &[], command())]);
    sim.until_verifying("a").schedule().land("a", oid(7)).schedule();
    sim.send(Event::PlanCleaned { rescued: Vec::new() });
    sim.ask(Request::Reset { stage: id("a"), reason: "again".to_owned() });
    sim.send(Event::StageRemoved { stage: id("a"), rescued: Vec::new() }).schedule();
    assert!(matches!(sim.state("a"), StageState::Running { .. }), "{:?}", sim.state("a"));
}
