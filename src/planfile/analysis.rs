//! What a plan as a whole will do: how long its longest chain is, how many
//! sessions it can use, and which stages get into each other's way.

use std::collections::{BTreeSet, HashMap};

use serde::Serialize;

use super::diagnostic::{Report, quoted};
use super::graph::Graph;
use super::reader::{Mention, MentionKind};
use super::stage::StageDraft;
use crate::base::glob::Reach;
use crate::base::text;

/// Most pairs of globs that are compared with each other.
const COMPARISONS_MAX: usize = 200_000;
/// Most overlaps that one run reports.
const OVERLAPS_MAX: usize = 100;

/// The shape of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    pub stages: usize,
    /// Each wave needs only earlier ones. In a wave, as in the file.
    pub waves: Vec<Vec<String>>,
    /// One of the longest chains of dependencies, first stage first.
    pub critical_path: Vec<String>,
    /// The most stages of which none waits for another.
    pub width: usize,
    /// The plan's limit on sessions at once.
    pub max_parallel: u32,
    /// Stages that may run at the same time and may change the same files.
    pub overlaps: Vec<Overlap>,
}

/// Two stages that may change the same file at the same time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Overlap {
    pub stages: [String; 2],
    /// A glob of each.
    pub files: [String; 2],
}

/// A plan as read, before it is known whether all of it is right.
pub struct Drafted<'p, 'n> {
    pub stages: &'p [StageDraft<'n>],
    pub mentions: &'p [Mention],
    pub graph: &'p Graph,
    pub max_parallel: u32,
}

impl Drafted<'_, '_> {
    pub fn summary(&self, report: &mut Report) -> Summary {
        let name = |at: &usize| self.stages[*at].id.to_owned();
        self.report_groups(report);
        let overlaps = self.overlaps();
        for (a, b) in &overlaps {
            self.report_overlap(a, b, report);
        }
        Summary {
            stages: self.stages.len(),
            waves: self.graph.waves().iter().map(|wave| wave.iter().map(name).collect()).collect(),
            critical_path: self.graph.critical_path().iter().map(name).collect(),
            width: self.graph.width(),
            max_parallel: self.max_parallel,
            overlaps: overlaps
                .iter()
                .map(|(a, b)| Overlap {
                    stages: [name(&a.stage), name(&b.stage)],
                    files: [a.mention.text.clone(), b.mention.text.clone()],
                })
                .collect(),
        }
    }

    /// Stages of one group are meant to run side by side: none can wait for another.
    fn report_groups(&self, report: &mut Report) {
        let mut groups: HashMap<&str, Vec<usize>> = HashMap::new();
        for mention in self.mentions.iter().filter(|mention| mention.kind == MentionKind::Group) {
            let Some(stage) = mention.stage else { continue };
            let mates = groups.entry(mention.text.as_str()).or_default();
            if let Some(mate) = mates.iter().find(|mate| !self.graph.may_meet(**mate, stage)) {
                let (group, other) = (quoted(&mention.text), quoted(self.stages[*mate].id));
                report.stage = Some(quoted(self.stages[stage].id));
                let message =
                    format!("it is in the group `{group}` with `{other}`, but one of them waits for the other");
                let hint = "stages of one group run side by side: remove one of them from it, or the dependency";
                report.warning(&mention.span, message).hint(hint).field("parallel_group");
                report.stage = None;
            }
            mates.push(stage);
        }
    }

    /// Pairs of claims on the same files by stages that may run together; one for each two stages.
    fn overlaps(&self) -> Vec<(Claim<'_>, Claim<'_>)> {
        let mut claims: Vec<Claim<'_>> = self.mentions.iter().filter_map(|mention| self.claim(mention)).collect();
        claims.sort_by(|a, b| (&a.prefix, a.stage).cmp(&(&b.prefix, b.stage)));
        let mut found = Vec::new();
        let mut pairs = BTreeSet::new();
        let mut left = COMPARISONS_MAX;
        for (at, one) in claims.iter().enumerate() {
            // Only what starts with the same folders can overlap, and sorted it stands right behind.
            let is_below = |other: &&Claim<'_>| other.prefix.starts_with(&one.prefix);
            for other in claims[at + 1..].iter().take_while(is_below) {
                if !self.graph.may_meet(one.stage, other.stage) {
                    continue;
                }
                let pair = (one.stage.min(other.stage), one.stage.max(other.stage));
                if left == 0 || found.len() == OVERLAPS_MAX {
                    return found;
                }
                left -= 1;
                if one.reach.overlaps(&other.reach) && pairs.insert(pair) {
                    let (first, second) = if one.stage < other.stage { (one, other) } else { (other, one) };
                    found.push((first.clone(), second.clone()));
                }
            }
        }
        found.sort_by_key(|(a, b)| (a.stage, b.stage));
        found
    }

    fn claim<'m>(&self, mention: &'m Mention) -> Option<Claim<'m>> {
        let stage = mention.stage.filter(|_| mention.kind == MentionKind::Glob && mention.field == "files")?;
        let base = self.working_dir(stage);
        let reach = Reach::of(base, &mention.text);
        let whole = crate::base::glob::from_top(base, &mention.text);
        let fixed = whole.split('/').take_while(|part| !crate::base::glob::is_wild(part));
        Some(Claim { stage, mention, prefix: fixed.map(str::to_owned).collect(), reach })
    }

    /// Where the paths of a stage start.
    pub fn working_dir(&self, stage: usize) -> &str {
        self.stages[stage].spec.as_ref().map_or(".", |spec| spec.working_dir.as_str())
    }

    fn report_overlap(&self, a: &Claim<'_>, b: &Claim<'_>, report: &mut Report) {
        let (first, second) = (self.stages[a.stage].id, self.stages[b.stage].id);
        report.stage = Some(quoted(second));
        let message = format!(
            "`{}` may change the same files as `{}` of {}, which may run at the same time",
            quoted(&b.mention.text),
            quoted(&a.mention.text),
            text::list([quoted(first)]),
        );
        let hint =
            format!("let one depend on the other, such as `dependencies: [{}]`, or narrow `files`", quoted(first));
        report.warning(&b.mention.span, message).hint(hint).field("files");
        report.stage = None;
    }
}

/// A glob of `files`, and what it can mean.
#[derive(Clone)]
struct Claim<'m> {
    stage: usize,
    mention: &'m Mention,
    /// The folders that every path of it starts with.
    prefix: Vec<String>,
    reach: Reach,
}
