//! The dependencies of a plan: unknown ones, cycles, those that say nothing new,
//! and the order that is left.

use std::collections::HashMap;

use super::diagnostic::{Report, quoted};
use super::source::{Source, Span};
use super::stage::StageDraft;
use crate::model::ids::StageId;
use crate::model::plan::Plan;

/// Most stages of a cycle that a message names.
const CYCLE_SHOWN_MAX: usize = 20;

/// A dependency: the stage's number and where it is written.
type Edge = (usize, Span);

/// Dependencies by number, without a cycle.
#[derive(Debug, Clone)]
pub struct Graph {
    /// What each stage depends on directly.
    on: Vec<Vec<usize>>,
    /// Dependencies before dependents, otherwise as in the file.
    order: Vec<usize>,
    /// A row of bits for each stage: everything before it.
    before: Vec<u64>,
    words: usize,
}

/// Checks ids and dependencies of all stages. None when they form a cycle.
pub fn check(stages: &[StageDraft<'_>], source: &Source<'_>, report: &mut Report) -> Option<Graph> {
    let numbers = number(stages, source, report);
    let edges = resolve(stages, &numbers, report);
    let on: Vec<Vec<usize>> = edges.iter().map(|edges| edges.iter().map(|(on, _)| *on).collect()).collect();
    let order = order(&on);
    if order.len() < stages.len() {
        report_cycles(stages, &edges, &order, report);
        report.stage = None;
        return None;
    }
    let graph = Graph::new(on, order);
    report_implied(stages, &edges, &graph, report);
    report.stage = None;
    Some(graph)
}

impl Graph {
    fn new(on: Vec<Vec<usize>>, order: Vec<usize>) -> Graph {
        let words = on.len().div_ceil(64);
        let mut before: Vec<u64> = vec![0; words * on.len()];
        for at in &order {
            let mut row = vec![0_u64; words];
            for other in &on[*at] {
                for (word, more) in row.iter_mut().zip(&before[other * words..(other + 1) * words]) {
                    *word |= more;
                }
                row[other / 64] |= 1 << (other % 64);
            }
            before[at * words..(at + 1) * words].copy_from_slice(&row);
        }
        Graph { on, order, before, words }
    }

    /// The graph of a plan that was read before.
    pub fn of(plan: &Plan) -> Graph {
        let numbers: HashMap<&StageId, usize> =
            plan.stages.iter().enumerate().map(|(at, stage)| (&stage.id, at)).collect();
        let known = |id: &StageId| numbers.get(id).copied();
        let on: Vec<Vec<usize>> =
            plan.stages.iter().map(|stage| stage.dependencies.iter().filter_map(known).collect()).collect();
        let order = order(&on);
        Graph::new(on, order)
    }

    fn row(&self, at: usize) -> &[u64] {
        &self.before[at * self.words..(at + 1) * self.words]
    }

    /// Whether `first` is over before `then` starts.
    pub fn precedes(&self, first: usize, then: usize) -> bool {
        self.row(then)[first / 64] >> (first % 64) & 1 == 1
    }

    /// Whether the two may run at the same time.
    pub fn may_meet(&self, a: usize, b: usize) -> bool {
        a != b && !self.precedes(a, b) && !self.precedes(b, a)
    }

    /// The stages in waves: each wave needs only earlier ones. In a wave, as in the file.
    pub fn waves(&self) -> Vec<Vec<usize>> {
        let mut wave_of = vec![0; self.on.len()];
        let mut waves: Vec<Vec<usize>> = Vec::new();
        for at in &self.order {
            let wave = self.on[*at].iter().map(|on| wave_of[*on] + 1).max().unwrap_or(0);
            wave_of[*at] = wave;
            waves.resize(waves.len().max(wave + 1), Vec::new());
            waves[wave].push(*at);
        }
        waves.iter_mut().for_each(|wave| wave.sort_unstable());
        waves
    }

    /// One of the longest chains, first stage first: what decides how long the plan takes at least.
    pub fn critical_path(&self) -> Vec<usize> {
        let waves = self.waves();
        let mut path: Vec<usize> = Vec::new();
        for wave in waves.iter().rev() {
            let next = path.last().copied();
            let is_on_path = |at: &&usize| next.is_none_or(|next| self.on[next].contains(at));
            path.extend(wave.iter().find(is_on_path));
        }
        path.reverse();
        path
    }

    /// The most stages of which none waits for another: how many sessions could run at once.
    ///
    /// By Dilworth's theorem this is the number of chains that cover all stages, which is what
    /// a largest matching between stages and later stages leaves over.
    pub fn width(&self) -> usize {
        let count = self.on.len();
        // The stage that follows each one on its chain, and the one it follows.
        let mut next: Vec<Option<usize>> = vec![None; count];
        let mut previous: Vec<Option<usize>> = vec![None; count];
        let mut matched = 0;
        for (then, before) in previous.iter_mut().enumerate() {
            if let Some(first) = ones(self.row(then)).find(|first| next[*first].is_none()) {
                (next[first], *before) = (Some(then), Some(first));
                matched += 1;
            }
        }
        let lengthened =
            (0..count).filter(|then| previous[*then].is_none() && self.lengthen(*then, &mut next, &mut previous));
        count - matched - lengthened.count()
    }

    /// Looks for a way to put one more stage behind another, by a breadth-first search.
    fn lengthen(&self, then: usize, next: &mut [Option<usize>], previous: &mut [Option<usize>]) -> bool {
        let mut unseen = vec![u64::MAX; self.words];
        // For each first stage that was reached: from which later one.
        let mut reached_from = vec![usize::MAX; self.on.len()];
        let mut queue = std::collections::VecDeque::from([then]);
        while let Some(later) = queue.pop_front() {
            for (word, unseen) in unseen.iter_mut().enumerate() {
                let mut new = self.row(later)[word] & *unseen;
                *unseen &= !new;
                while new != 0 {
                    let first = word * 64 + new.trailing_zeros() as usize;
                    new &= new - 1;
                    reached_from[first] = later;
                    if let Some(owner) = next[first] {
                        queue.push_back(owner);
                        continue;
                    }
                    let mut first = first;
                    loop {
                        let later = reached_from[first];
                        let given_up = previous[later].replace(first);
                        next[first] = Some(later);
                        match given_up {
                            Some(other) => first = other,
                            None => return true,
                        }
                    }
                }
            }
        }
        false
    }
}

/// The numbers of the bits that are set.
fn ones(row: &[u64]) -> impl Iterator<Item = usize> {
    row.iter()
        .enumerate()
        .flat_map(|(at, word)| (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at * 64 + bit))
}

/// Stages by id; a repeated id is reported, and the first one keeps it.
fn number<'s>(stages: &'s [StageDraft], source: &Source<'_>, report: &mut Report) -> HashMap<&'s str, usize> {
    let mut numbers: HashMap<&str, usize> = HashMap::with_capacity(stages.len());
    // Only upper case makes two different ids meet in one file system.
    let has_upper = stages.iter().any(|stage| stage.id.bytes().any(|byte| byte.is_ascii_uppercase()));
    let mut folded: HashMap<String, usize> = HashMap::new();
    for (at, stage) in stages.iter().enumerate().filter(|(_, stage)| !stage.id.is_empty()) {
        let same = *numbers.entry(stage.id).or_insert(at);
        let first = if has_upper { *folded.entry(stage.id.to_ascii_lowercase()).or_insert(at) } else { same };
        if first == at {
            continue;
        }
        let (line, _) = source.position(stages[first].id_span.start);
        let (id, other) = (quoted(stage.id), quoted(stages[first].id));
        let message = match id == other {
            true => format!("the id `{id}` is taken by the stage on line {line}"),
            false => format!("the id `{id}` differs only in case from `{other}` on line {line}"),
        };
        report.error(&stage.id_span, message).field("id");
    }
    numbers
}

/// The edges by number. What is unknown, or the stage itself, is reported and left out.
fn resolve(stages: &[StageDraft<'_>], numbers: &HashMap<&str, usize>, report: &mut Report) -> Vec<Vec<Edge>> {
    let mut all = Vec::with_capacity(stages.len());
    for (at, stage) in stages.iter().enumerate() {
        let named = || Some(stage.id).filter(|id| !id.is_empty()).map(quoted);
        let mut edges = Vec::with_capacity(stage.dependencies.len());
        for (id, span) in &stage.dependencies {
            match numbers.get(id) {
                Some(on) if *on == at || *id == stage.id => {
                    report.stage = named();
                    report.error(span, "the stage depends on itself").field("dependencies");
                }
                Some(on) => edges.push((*on, span.clone())),
                None => {
                    report.stage = named();
                    let known = stages.iter().map(|other| other.id);
                    let similar = report.similar(id, known.filter(|other| !other.is_empty() && *other != stage.id));
                    let message = format!("unknown dependency `{}`", quoted(id));
                    report.error(span, message).did_you_mean(similar).field("dependencies");
                }
            }
        }
        all.push(edges);
    }
    all
}

/// Dependencies before dependents, otherwise as in the file. Stages in or behind a
/// cycle are left out.
fn order(on: &[Vec<usize>]) -> Vec<usize> {
    let mut dependents = vec![Vec::new(); on.len()];
    let mut missing: Vec<usize> = on.iter().map(Vec::len).collect();
    for (at, other) in on.iter().enumerate().flat_map(|(at, on)| on.iter().map(move |other| (at, *other))) {
        dependents[other].push(at);
    }
    let mut order: Vec<usize> = (0..on.len()).filter(|at| missing[*at] == 0).collect();
    let mut next = 0;
    while let Some(done) = order.get(next).copied() {
        next += 1;
        for at in &dependents[done] {
            missing[*at] -= 1;
            if missing[*at] == 0 {
                order.push(*at);
            }
        }
    }
    order
}

/// One error for each cycle found; a stage is named in one of them only.
fn report_cycles(stages: &[StageDraft<'_>], edges: &[Vec<Edge>], order: &[usize], report: &mut Report) {
    let mut done = vec![false; edges.len()];
    for at in order {
        done[*at] = true;
    }
    for start in 0..edges.len() {
        // Follow unfinished dependencies: without an end, a stage comes again.
        let mut path: Vec<usize> = Vec::new();
        let mut place = HashMap::new();
        let mut at = start;
        let found = loop {
            if done[at] {
                break None;
            }
            if let Some(first) = place.insert(at, path.len()) {
                break Some(first);
            }
            path.push(at);
            match edges[at].iter().find(|(on, _)| !done[*on]) {
                Some((on, _)) => at = *on,
                None => break None,
            }
        };
        if let Some(first) = found {
            report_cycle(stages, edges, &path[first..], report);
        }
        for at in path {
            done[at] = true;
        }
    }
}

fn report_cycle(stages: &[StageDraft<'_>], edges: &[Vec<Edge>], cycle: &[usize], report: &mut Report) {
    // It starts at the stage that comes first in the file.
    let first = (0..cycle.len()).min_by_key(|at| cycle[*at]).unwrap_or_default();
    let turned: Vec<usize> = cycle[first..].iter().chain(&cycle[..first]).copied().collect();
    let mut names: Vec<String> = turned.iter().take(CYCLE_SHOWN_MAX).map(|at| quoted(stages[*at].id)).collect();
    if turned.len() > CYCLE_SHOWN_MAX {
        names.push(format!("… ({} more)", turned.len() - CYCLE_SHOWN_MAX));
    }
    names.extend(turned.first().map(|at| quoted(stages[*at].id)));
    let next = turned.get(1).copied().unwrap_or_default();
    let span = edges[turned[0]].iter().find(|(on, _)| *on == next).map(|(_, span)| span);
    report.stage = Some(quoted(stages[turned[0]].id));
    report
        .error(
            span.unwrap_or(&stages[turned[0]].id_span),
            format!("the dependencies form a cycle: {}", names.join(" → ")),
        )
        .hint("remove one of these dependencies")
        .field("dependencies");
}

/// Warns of dependencies that another dependency already has, directly or not.
fn report_implied(stages: &[StageDraft<'_>], edges: &[Vec<Edge>], graph: &Graph, report: &mut Report) {
    for at in &graph.order {
        for (on, span) in &edges[*at] {
            let Some((through, _)) = edges[*at].iter().find(|(other, _)| graph.precedes(*on, *other)) else { continue };
            report.stage = Some(quoted(stages[*at].id));
            let message =
                format!("the dependency `{}` is implied by `{}`", quoted(stages[*on].id), quoted(stages[*through].id));
            report.warning(span, message).hint("remove it").field("dependencies");
        }
    }
}

/// The stages in waves: each wave needs only earlier ones. In a wave, as in the file.
pub fn waves(plan: &Plan) -> Vec<Vec<StageId>> {
    let named = |wave: Vec<usize>| wave.into_iter().map(|at| plan.stages[at].id.clone()).collect();
    Graph::of(plan).waves().into_iter().map(named).collect()
}
