//! The one source of randomness, what may go wrong under a seed, and random plans.

use loom::model::budget::{Budget, OnLimit};
use loom::model::check::{Check, Criteria};
use loom::model::ids::{PlanId, StageId};
use loom::model::plan::{Advice, Agent, AgentMode, Landing, Plan, Priority, StageSpec, StageType};

/// SplitMix64: small, fast, and the same everywhere.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bd1_e995)
    }
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }
    /// Below `n`, which is not zero.
    pub fn below(&mut self, n: usize) -> usize {
        (self.roll() % n as u64) as usize
    }
    pub fn chance(&mut self, per_mille: u32) -> bool {
        self.roll() % 1000 < u64::from(per_mille)
    }
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let at = self.below(from.len());
        &from[at]
    }
}

pub fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// From this seed on the daemon is killed often under every other seed, whatever else goes wrong.
pub const KILLED_OFTEN: u64 = 2_000_000;

/// What goes wrong under one seed, and how often, per mille of a chance to. Each fault is off
/// in about half of the seeds: the rare meetings of two need the absence of the others.
#[derive(Debug, Default, Clone)]
pub struct Swarm {
    /// The daemon is killed between two turns, or in the middle of one.
    pub kill: u32,
    pub power_cut: u32,
    pub host_kill: u32,
    pub disk_full: u32,
    pub write_error: u32,
    pub sync_error: u32,
    /// An effect fails without having done anything.
    pub effect_error: u32,
    /// A killed git command leaves its lock file.
    pub stale_lock: u32,
    pub user: u32,
    pub user_moves_ours: u32,
    pub config: u32,
    pub operator: u32,
    pub clock_jump: u32,
    /// Moods of agents that are not good ones.
    pub bad_agents: u32,
    pub shared_files: u32,
    pub flaky: u32,
    /// Setups and teardowns that fail.
    pub bad_setups: u32,
    /// How often it is looked what else could happen before a message is delivered.
    pub delay: u32,
}

impl Swarm {
    pub fn random(dice: &mut Dice, seed: u64) -> Swarm {
        let mut on = |max: u32| if dice.chance(500) { 1 + dice.below(max as usize) as u32 } else { 0 };
        Swarm {
            kill: on(100) + if seed >= KILLED_OFTEN && seed.is_multiple_of(2) { 120 } else { 0 },
            power_cut: on(16),
            host_kill: on(10),
            disk_full: on(15),
            write_error: on(10),
            sync_error: on(10),
            effect_error: on(60),
            stale_lock: on(400),
            user: on(40),
            user_moves_ours: on(15),
            config: on(8),
            operator: on(60),
            clock_jump: on(10),
            bad_agents: on(700),
            shared_files: on(500),
            flaky: on(300),
            delay: on(700),
            bad_setups: on(300),
        }
    }
}

/// Where a stage's own work is, by its place in the plan.
pub fn path_of(stage: &StageId) -> u8 {
    stage.as_str()[1..].parse().unwrap_or(0)
}

pub fn plan(dice: &mut Dice, name: &str) -> Plan {
    let n = 1 + dice.below(6);
    let id = |at: usize| StageId::new(format!("s{at}")).unwrap();
    let density = dice.below(700) as u32;
    // Of their own, so that the seeds of before meet the same faults.
    let spending = &mut Dice(mix(dice.0));
    let preparing = &mut Dice(mix(dice.0 ^ 1));
    let prepared: Vec<bool> = (0..n).map(|_| preparing.chance(300)).collect();
    let stages = (0..n)
        .map(|at| StageSpec {
            id: id(at),
            name: format!("Stage {at}"),
            description: String::new(),
            dependencies: (0..at).filter(|_| dice.chance(density)).map(id).collect(),
            checks: [Check::command(own_check(at, prepared[at]))].into(),
            files: Vec::new(),
            working_dir: ".".to_owned(),
            stage_type: if dice.chance(60) { StageType::IntegrationVerify } else { StageType::Standard },
            agent: if dice.chance(500) {
                Agent::Command { run: "make".to_owned() }
            } else {
                Agent::Claude { mode: AgentMode::Headless, model: None, effort: None }
            },
            max_retries: dice.below(4) as u32,
            priority: *dice.pick(&[Priority::P0, Priority::P2, Priority::P3]),
            hold: dice.chance(50),
            timeout_secs: dice.chance(300).then_some(600),
            auto_merge: dice.chance(850),
            criteria: Criteria::default(),
            setup: prepared[at].then(|| set_up(at)).into_iter().collect(),
            teardown: if prepared[at] { vec!["tear down".to_owned()] } else { Vec::new() },
            parallel_group: None,
            context_budget: 65,
            budget: budget(spending),
            advice: Advice::default(),
            sandbox: loom::model::sandbox::Sandbox::default(),
        })
        .map(Into::into)
        .collect();
    Plan {
        id: PlanId::new(name).unwrap(),
        title: name.to_owned(),
        overview: String::new(),
        stages,
        max_parallel: Some(1 + dice.below(4) as u32),
        acceptance: if dice.chance(700) { vec![Check::command("all")] } else { Vec::new() },
        landing: *dice.pick(&[Landing::Each, Landing::End, Landing::Manual]),
        protected: Vec::new(),
        change_impact: None,
        budget: budget(spending),
        on_limit: spending.chance(300).then(|| *spending.pick(&[OnLimit::Ask, OnLimit::Stop])),
    }
}

/// Passes where the stage's own work is good; and, when that is wanted, its setup has run.
fn own_check(at: usize, is_prepared: bool) -> String {
    if is_prepared { format!("own {at} set-up") } else { format!("own {at}") }
}

pub fn set_up(at: usize) -> String {
    format!("set up {at}")
}

/// What a piece of an agent's work costs: more than what is too little to be told.
pub const PIECE_TOKENS: u64 = 30_000;
pub const PIECE_MICROUSD: u64 = 200_000;
/// More pieces than any session does.
pub const PIECES_MAX: u64 = 24;

fn budget(dice: &mut Dice) -> Budget {
    Budget {
        sessions: dice.chance(150).then(|| 1 + dice.below(6) as u32),
        tokens: dice.chance(150).then(|| (1 + dice.below(12) as u64) * PIECE_TOKENS),
        cost_microusd: dice.chance(150).then(|| (1 + dice.below(12) as u64) * PIECE_MICROUSD),
    }
}
