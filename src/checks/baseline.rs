//! A stage's checks on its base, and what that says about what they do now. Pure.

use std::collections::BTreeSet;

use super::Suite;
use super::verdict::Command;
use crate::base::text::{count, tail};
use crate::model::baseline::{Before, OnBase};
use crate::model::check::{ChangeImpact, Check, ImpactPolicy, Policy};
use crate::model::limits::{CHECK_FAILURES_MAX, CHECK_TAIL_BYTES_MAX, IMPACT_FAILURES_MAX};
use crate::model::stage::CheckResult;

impl Suite<'_> {
    /// Each command with what is asked of the base.
    fn pairs(&self) -> Vec<(Command, Command)> {
        let pair = |now: Command| {
            // What is not there yet fails every time.
            let retries = now.check.retries.min(1);
            (Command { check: Check { retries, ..now.check.clone() }, ..now.clone() }, now)
        };
        let impact = self.impact.map(|impact| {
            (Command::of_impact(impact, &impact.baseline_command), Command::of_impact(impact, impact.now()))
        });
        self.plain_commands().into_iter().map(pair).chain(impact).collect()
    }

    /// The commands that decide, in the order of their results.
    pub(super) fn commands(&self) -> Vec<Command> {
        self.pairs().into_iter().map(|(_, now)| now).collect()
    }

    /// What is asked of the base: each with its key, in the order of the results.
    pub(super) fn asked(&self) -> (Vec<(String, Command)>, Vec<String>) {
        let commands = self.pairs().into_iter().map(|(before, _)| (before.key(), before));
        (commands.collect(), self.criteria.labels().collect())
    }

    /// The keys of everything that is asked of the base.
    pub fn keys(&self) -> Vec<String> {
        let (commands, labels) = self.asked();
        commands.into_iter().map(|(key, _)| key).chain(labels).collect()
    }

    /// The keys under which the results of a verdict are known for the tree it is about.
    pub fn keys_now(&self) -> Vec<String> {
        self.pairs().iter().map(|(_, now)| now.key()).chain(self.criteria.labels()).collect()
    }

    /// Compares the results of a verdict, as they came, with those on the base.
    pub fn compare(&self, results: &mut [CheckResult], before: &[Before]) {
        let asked = self.pairs();
        let commands = asked.len();
        for (at, result) in results.iter_mut().enumerate() {
            let key = asked.get(at).map_or_else(|| result.command.clone(), |(before, _)| before.key());
            let before = before.iter().find(|known| known.key == key).map(|known| &known.result);
            match (self.impact, before) {
                (Some(impact), before) if at + 1 == commands => impacted(impact, result, before),
                (_, Some(before)) => {
                    let policy = asked.get(at).map_or(Policy::Fail, |(_, now)| now.check.policy);
                    mark(result, before, policy);
                }
                (_, None) => {}
            }
        }
    }
}

fn mark(now: &mut CheckResult, before: &CheckResult, policy: Policy) {
    now.base = Some(match (before.passed, now.passed) {
        (true, _) => OnBase::Passed,
        (false, false) if is_same_failure(before, now) => OnBase::SameFailure,
        (false, _) => OnBase::Failed,
    });
    now.tolerated = now.base == Some(OnBase::SameFailure) && policy == Policy::Warn;
    if now.passed || before.passed {
        return;
    }
    let (was, is) = (names(&before.failures), names(&now.failures));
    let lists: [(&str, Vec<&str>); 3] = [
        ("also before the stage", was.intersection(&is).copied().collect()),
        ("new", is.difference(&was).copied().collect()),
        ("no longer", was.difference(&is).copied().collect()),
    ];
    if was.is_empty() || is.is_empty() {
        return;
    }
    let told = lists.iter().filter(|(_, names)| !names.is_empty());
    now.note = told.map(|(what, names)| format!("{what}: {}", some(names))).collect::<Vec<_>>().join("; ");
}

/// Whether nothing fails now that did not fail before. Where failures have names, these count,
/// and as many tests must have run; otherwise everything that was printed.
fn is_same_failure(before: &CheckResult, now: &CheckResult) -> bool {
    let (was, is) = (names(&before.failures), names(&now.failures));
    let are_whole = before.failures.len() < CHECK_FAILURES_MAX && now.failures.len() < CHECK_FAILURES_MAX;
    let ran = |result: &CheckResult| result.counts.map(|counts| counts.ran);
    if !was.is_empty() && !is.is_empty() && are_whole {
        return is.is_subset(&was) && before.exit == now.exit && ran(now) >= ran(before);
    }
    !now.identity.is_empty() && before.identity == now.identity
}

fn names(failures: &[String]) -> BTreeSet<&str> {
    failures.iter().map(String::as_str).collect()
}

/// The first names, the others by number.
fn some(names: &[&str]) -> String {
    const SHOWN: usize = 5;
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| format!("`{name}`")).collect();
    match names.len().saturating_sub(SHOWN) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

/// The verdict about a whole suite: what fails now and did not on the base.
fn impacted(impact: &ChangeImpact, now: &mut CheckResult, before: Option<&CheckResult>) {
    let Some(before) = before else {
        now.why = Some("it was not compared: nobody has looked at the base".to_owned());
        return;
    };
    if now.failures.len() > IMPACT_FAILURES_MAX || before.failures.len() > IMPACT_FAILURES_MAX {
        now.why = Some(format!("more than {IMPACT_FAILURES_MAX} failures: too many to compare with the base"));
        now.failures.clear();
        return;
    }
    let (was, is) = (names(&before.failures), names(&now.failures));
    let new: Vec<&str> = is.difference(&was).copied().collect();
    let fixed: Vec<&str> = was.difference(&is).copied().collect();
    let same: Vec<&str> = is.intersection(&was).copied().collect();
    let about = [(&same, "failed before the stage too"), (&fixed, "fixed by the stage")];
    let told = about.iter().filter(|(names, _)| !names.is_empty());
    now.note =
        told.map(|(names, about)| format!("{} {about}: {}", names.len(), some(names))).collect::<Vec<_>>().join("; ");
    // Where they are too many, the new ones are what is left.
    let mut listed = String::new();
    for (names, what) in [(&fixed, "fixed"), (&same, "before too"), (&new, "new")] {
        names.iter().for_each(|name| listed.push_str(&format!("{what}: {name}\n")));
    }
    (now.passed, now.tolerated) = (new.is_empty(), !new.is_empty() && impact.policy == ImpactPolicy::Warn);
    now.why = (!new.is_empty()).then(|| format!("{}: {}", count(new.len(), "new failure"), some(&new)));
    now.tail = format!("{}{}", tail(&listed, CHECK_TAIL_BYTES_MAX / 2), tail(&now.tail, CHECK_TAIL_BYTES_MAX / 2));
    now.failures = new.into_iter().map(str::to_owned).collect();
}
