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

/// Checks ids and dependencies of all stages.
pub fn check(stages: &[StageDraft<'_>], source: &Source<'_>, report: &mut Report) {
    let numbers = number(stages, source, report);
    let edges = resolve(stages, &numbers, report);
    let order = order(&edges);
    if order.len() < stages.len() {
        report_cycles(stages, &edges, &order, report);
    } else {
        report_implied(stages, &edges, &order, report);
    }
    report.stage = None;
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
/// cycle are missing.
fn order(edges: &[Vec<Edge>]) -> Vec<usize> {
    let mut dependents: Vec<Vec<usize>> = vec![Vec::new(); edges.len()];
    let mut missing: Vec<usize> = edges.iter().map(Vec::len).collect();
    for (at, on) in edges.iter().enumerate().flat_map(|(at, edges)| edges.iter().map(move |edge| (at, edge.0))) {
        dependents[on].push(at);
    }
    let mut order: Vec<usize> = (0..edges.len()).filter(|at| missing[*at] == 0).collect();
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
fn report_implied(stages: &[StageDraft<'_>], edges: &[Vec<Edge>], order: &[usize], report: &mut Report) {
    let words = edges.len().div_ceil(64);
    // A row of bits for each stage: everything before it.
    let mut before: Vec<u64> = vec![0; words * edges.len()];
    let has = |row: &[u64], at: usize| row[at / 64] >> (at % 64) & 1 == 1;
    let mut implied = Vec::new();
    for at in order {
        let mut row = vec![0u64; words];
        for (on, _) in &edges[*at] {
            for (word, more) in row.iter_mut().zip(&before[on * words..(on + 1) * words]) {
                *word |= more;
            }
        }
        for (on, span) in edges[*at].iter().filter(|(on, _)| has(&row, *on)) {
            let through = edges[*at].iter().find(|(other, _)| has(&before[other * words..(other + 1) * words], *on));
            implied.extend(through.map(|(other, _)| (*at, *on, *other, span)));
        }
        for (on, _) in &edges[*at] {
            row[on / 64] |= 1 << (on % 64);
        }
        before[at * words..(at + 1) * words].copy_from_slice(&row);
    }
    for (at, on, through, span) in implied {
        report.stage = Some(quoted(stages[at].id));
        let message =
            format!("the dependency `{}` is implied by `{}`", quoted(stages[on].id), quoted(stages[through].id));
        report.warning(span, message).hint("remove it").field("dependencies");
    }
}

/// The stages in waves: each wave needs only earlier ones. In a wave, as in the file.
pub fn waves(plan: &Plan) -> Vec<Vec<StageId>> {
    let numbers: HashMap<&StageId, usize> = plan.stages.iter().enumerate().map(|(at, stage)| (&stage.id, at)).collect();
    let edge = |id: &StageId| numbers.get(id).map(|on| (*on, 0..0));
    let edges: Vec<Vec<Edge>> =
        plan.stages.iter().map(|stage| stage.dependencies.iter().filter_map(edge).collect()).collect();
    let mut wave_of = vec![0; edges.len()];
    let mut waves: Vec<Vec<usize>> = Vec::new();
    for at in order(&edges) {
        let wave = edges[at].iter().map(|(on, _)| wave_of[*on] + 1).max().unwrap_or(0);
        wave_of[at] = wave;
        waves.resize(waves.len().max(wave + 1), Vec::new());
        waves[wave].push(at);
    }
    let named = |mut wave: Vec<usize>| {
        wave.sort_unstable();
        wave.into_iter().map(|at| plan.stages[at].id.clone()).collect()
    };
    waves.into_iter().map(named).collect()
}
