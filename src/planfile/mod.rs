//! Reads plan files: Markdown around a block of YAML, in; a validated plan and
//! every problem with its place, out.
//!
//! ```text
//! source     the text, lines and columns       fields   every field and what it does
//! markdown   title, prose, where the YAML is   reader   typed access that collects problems
//! shell      what can be seen in a command     analysis, places   what the plan as a whole will do
//! suggest    checks that would fit a stage
//! yaml       the YAML library, positions       stage, agent, sandbox, checks, criteria, graph   what the values mean
//! ```
//!
//! Nothing here reads a file or knows a repository.

mod agent;
mod analysis;
mod budget;
mod checks;
mod criteria;
mod diagnostic;
mod fields;
mod graph;
mod markdown;
mod places;
mod reader;
mod sandbox;
mod shell;
mod source;
mod stage;
mod suggest;
#[cfg(test)]
mod tests;
mod wiring;
mod yaml;

pub use analysis::{Overlap, Summary};
pub use diagnostic::{Diagnostic, Severity};
pub use graph::{Graph, waves};
pub use markdown::{BEGIN_MARKER, END_MARKER};
pub use places::Surroundings;
pub use suggest::{Suggestion, Tree, suggest};
pub use wiring::{Changed, Link, Seen, Unused, look};

use bumpalo::Bump;

use crate::model::budget::Budget;
use crate::model::ids::PlanId;
use crate::model::limits::{PARALLEL_DEFAULT, PARALLEL_MAX, STAGES_MAX};
use crate::model::plan::{Landing, Plan};
use agent::AgentFields;
use analysis::Drafted;
use diagnostic::Report;
use markdown::Document;
use places::Places;
use reader::{Fields, Reader};
use sandbox::SandboxFields;
use source::Source;
use stage::{Defaults, StageDraft};
use yaml::{Node, Value};

/// What reading a plan file gives.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "the diagnostics are for a person, even when there is a plan"]
pub struct Parsed {
    /// Present exactly when no diagnostic is an error.
    pub plan: Option<Plan>,
    /// In the order of the file.
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads the plan in `source`. `path` names it in messages and gives the plan its id.
pub fn read(source: &[u8], path: &str) -> Parsed {
    read_in(source, path, None).0
}

/// As [`read`], and looks at the plan as a whole and at where it would run. The summary is
/// there when the dependencies make sense, whatever else is wrong.
pub fn verify(source: &[u8], path: &str, around: &Surroundings<'_>) -> (Parsed, Option<Summary>) {
    read_in(source, path, Some(around))
}

fn read_in(source: &[u8], path: &str, around: Option<&Surroundings<'_>>) -> (Parsed, Option<Summary>) {
    let mut report = Report::default();
    let source = match Source::new(path, source) {
        Ok(source) => source,
        Err(refused) => {
            let end = refused.readable.text.len();
            let draft = match refused.readable.text.is_empty() {
                true => report.error_nowhere(refused.message),
                false => report.error(&(end..end), refused.message),
            };
            draft.hint(refused.hint);
            return (Parsed { plan: None, diagnostics: report.finish(&refused.readable) }, None);
        }
    };
    let id = plan_id(path, &mut report);
    let (mut summary, arena) = (None, Bump::new());
    let plan = markdown::split(&source, &mut report).and_then(|document| {
        let root = yaml::parse(&source, &document.yaml, &mut report, &arena)?;
        let mut reader =
            Reader { source: &source, report: &mut report, stage: None, mentions: around.map(|_| Vec::new()) };
        reader.readable_overview(&document.yaml);
        let (plan, found) = reader.plan(&root, id, document, around)?;
        summary = found;
        plan
    });
    let plan = plan.filter(|_| !report.has_errors());
    (Parsed { plan, diagnostics: report.finish(&source) }, summary)
}

fn plan_id(path: &str, report: &mut Report) -> Option<PlanId> {
    let stem = std::path::Path::new(path).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    match PlanId::from_stem(stem) {
        Ok(id) => Some(id),
        Err(error) => {
            let message = format!("the file's name gives the plan no id: {}", error.why);
            report.error_nowhere(message).hint("rename the file, such as `PLAN-0001-name.md`");
            None
        }
    }
}

impl Reader<'_, '_> {
    /// The plan, if it can be represented, and what it looks like as a whole.
    fn plan(
        &mut self,
        root: &Node<'_>,
        id: Option<PlanId>,
        document: Document,
        around: Option<&Surroundings<'_>>,
    ) -> Option<(Option<Plan>, Option<Summary>)> {
        let body = self.body(root)?;
        let fields = self.fields(body, fields::PLAN, "the plan");
        self.version(&fields, body);
        let agent = fields.get("agent").map_or_else(AgentFields::default, |node| self.agent(node));
        let auto_merge = fields.get("auto_merge").and_then(|node| self.boolean(node, "auto_merge")).unwrap_or(true);
        let parallel = fields.get("max_parallel").and_then(|n| self.int(n, "max_parallel", 1, i64::from(PARALLEL_MAX)));
        let budget = fields.get("budget").map_or_else(Budget::default, |node| self.budget(node));
        let on_limit = fields.get("on_limit").and_then(|node| self.on_limit(node));
        let sandbox = fields.get("sandbox").map_or_else(SandboxFields::default, |node| self.sandbox(node));
        let mut acceptance = fields.get("acceptance").map_or_else(Vec::new, |node| self.checks(node, "acceptance"));
        acceptance.iter_mut().for_each(|check| check.from_top = true);
        let protected = fields.get("protected").map_or_else(Vec::new, |node| self.globs(node, "protected", "."));
        let change_impact = fields.get("change_impact").and_then(|node| self.change_impact(node));
        let landing = fields.get("landing").and_then(|node| self.one_of(node, "landing", fields::LANDINGS));
        let drafts = self.stages(&fields, body, &Defaults { agent, auto_merge, sandbox });
        let max_parallel = parallel.and_then(|n| u32::try_from(n).ok());
        let graph = graph::check(&drafts, self.source, self.report);
        let summary = graph
            .zip(around)
            .filter(|_| !drafts.is_empty() && drafts.iter().all(|draft| !draft.id.is_empty()))
            .map(|(graph, around)| {
                let drafted = Drafted {
                    stages: &drafts,
                    mentions: self.mentions.as_deref().unwrap_or_default(),
                    graph: &graph,
                    max_parallel: max_parallel.unwrap_or(PARALLEL_DEFAULT),
                };
                Places::of(&drafted, around).report(self.report);
                drafted.summary(self.report)
            });
        let plan = id.map(|id| Plan {
            id,
            title: document.title,
            overview: document.overview,
            stages: drafts.into_iter().filter_map(|draft| draft.spec).collect(),
            max_parallel,
            acceptance,
            protected,
            change_impact,
            budget,
            on_limit,
            landing: match landing {
                Some("each") => Landing::Each,
                Some("manual") => Landing::Manual,
                _ => Landing::End,
            },
        });
        Some((plan, summary))
    }

    /// The map under `loom:`.
    fn body<'n, 'a>(&mut self, root: &'n Node<'a>) -> Option<&'n Node<'a>> {
        if let Value::Map(entries) = &root.value
            && !entries.iter().any(|entry| entry.key == "loom")
            && entries.iter().any(|entry| entry.key == "stages")
        {
            let head = &entries[0].key_span;
            self.report.error(head, "the top-level field `loom` is missing").hint("indent the plan under `loom:`");
            return None;
        }
        let fields = self.fields(root, fields::FILE, "the plan block");
        let body = fields.get("loom");
        if body.is_none() && matches!(root.value, Value::Map(_)) {
            self.report.error(&root.span, "`loom` is missing or empty").hint("the plan block starts with `loom:`");
        }
        body
    }

    fn version(&mut self, fields: &Fields<'_, '_>, body: &Node<'_>) {
        if !matches!(body.value, Value::Map(_)) {
            return;
        }
        match fields.get("version") {
            None => {
                let at = body.span.start..body.span.start;
                self.report.error(&at, "the plan has no `version`").hint("write `version: 1`").field("version");
            }
            Some(node) if matches!(node.value, Value::Int(1)) => {}
            Some(node) => {
                let message = format!("`version` must be 1, not {}: this Loom reads version 1 only", node.describe());
                self.report.error(&node.span, message).hint("write `version: 1`").field("version");
            }
        }
    }

    fn stages<'n>(&mut self, fields: &Fields<'n, '_>, body: &Node<'_>, defaults: &Defaults) -> Vec<StageDraft<'n>> {
        let Some(node) = fields.get("stages") else {
            if matches!(body.value, Value::Map(_)) {
                let at = body.span.start..body.span.start;
                self.report.error(&at, "the plan has no `stages`").field("stages");
            }
            return Vec::new();
        };
        let items = self.items(node, "stages");
        if items.is_empty() && matches!(node.value, Value::List(_)) {
            self.report.error(&node.span, "the plan has no stage: `stages` is empty").field("stages");
        }
        if items.len() > STAGES_MAX {
            let message = format!("{} stages; a plan may have {STAGES_MAX}", items.len());
            self.report.error(&node.span, message).hint("split the plan").field("stages");
        }
        let mut drafts = Vec::with_capacity(items.len().min(STAGES_MAX));
        for (number, item) in items.iter().take(STAGES_MAX).enumerate() {
            self.stage = Some(number);
            drafts.push(self.stage(item, defaults));
        }
        self.stage = None;
        drafts
    }
}
