//! One stage as authored: its fields, its agent, and what proves it.

use std::sync::Arc;

use super::agent::AgentFields;
use super::diagnostic::quoted;
use super::fields;
use super::reader::{A_STAGE, Fields, MentionKind, Reader};
use super::sandbox::SandboxFields;
use super::source::Span;
use super::yaml::{Node, Value};
use crate::model::budget::Budget;
use crate::model::check::Check;
use crate::model::ids::StageId;
use crate::model::limits::{CHECKS_MAX, CONTEXT_BUDGET_DEFAULT, DEPENDENCIES_MAX, RETRIES_DEFAULT, RETRIES_MAX};
use crate::model::plan::{Priority, StageSpec, StageType};

/// A stage that was read, perhaps with errors. The graph is checked on drafts, so
/// that a wrong field does not make every dependency on its stage unknown.
pub struct StageDraft<'n> {
    /// As written; empty when it is missing.
    pub id: &'n str,
    pub id_span: Span,
    pub dependencies: Vec<(&'n str, Span)>,
    /// None when the stage cannot be represented; there is an error then.
    pub spec: Option<Arc<StageSpec>>,
}

/// What the plan sets for all its stages.
pub struct Defaults {
    pub agent: AgentFields,
    pub auto_merge: bool,
    pub sandbox: SandboxFields,
}

impl Reader<'_, '_> {
    pub fn stage<'n>(&mut self, node: &'n Node<'_>, defaults: &Defaults) -> StageDraft<'n> {
        let fields = self.stage_fields(node);
        let (id, id_text, id_span) = self.stage_id(&fields, node);
        let name = self.stage_name(&fields, &id_span);
        let description = fields.get("description").and_then(|node| {
            let text = self.text(node, "description")?;
            self.readable(text, &node.span, "description");
            Some(text.to_owned())
        });
        let dependencies = self.dependencies(&fields);
        let checks = self.stage_checks(&fields, &id_span);
        let working_dir = fields.get("working_dir").and_then(|node| self.working_dir(node)).unwrap_or(".".to_owned());
        let files = fields.get("files").map_or_else(Vec::new, |node| self.globs(node, "files", &working_dir));
        let criteria = self.criteria(&fields, &working_dir);
        let setup = self.commands(&fields, "setup");
        let teardown = self.commands(&fields, "teardown");
        let budget = fields.get("context_budget").and_then(|node| self.int(node, "context_budget", 1, 100));
        let spends = fields.get("budget").map_or_else(Budget::default, |node| self.budget(node));
        let parallel_group = fields.get("parallel_group").and_then(|node| self.parallel_group(node));
        let advice = self.advice(&fields);
        let agent = self.stage_agent(&fields, defaults, &id_span);
        let retries = fields.get("max_retries").and_then(|n| self.int(n, "max_retries", 0, i64::from(RETRIES_MAX)));
        let auto_merge = fields.get("auto_merge").and_then(|node| self.boolean(node, "auto_merge"));
        let sandbox = fields.get("sandbox").map_or_else(SandboxFields::default, |node| self.sandbox(node));
        let stage_type = fields.get("stage_type").and_then(|node| self.one_of(node, "stage_type", fields::STAGE_TYPES));
        let priority = fields.get("priority").and_then(|node| self.one_of(node, "priority", fields::PRIORITIES));
        let hold = fields.get("hold").and_then(|node| self.boolean(node, "hold")).unwrap_or_default();
        let timeout_secs = fields.get("timeout").and_then(|node| self.duration(node, "timeout"));
        let spec = id.zip(agent).map(|(id, agent)| {
            Arc::new(StageSpec {
                id,
                name,
                description: description.unwrap_or_default(),
                dependencies: dependencies.iter().filter_map(|(id, _)| StageId::new(*id).ok()).collect(),
                checks: checks.into(),
                files,
                working_dir,
                stage_type: stage_type.map_or_else(StageType::default, named_type),
                agent,
                max_retries: retries.and_then(|n| u32::try_from(n).ok()).unwrap_or(RETRIES_DEFAULT),
                priority: priority.map_or_else(Priority::default, named_priority),
                hold,
                timeout_secs,
                auto_merge: auto_merge.unwrap_or(defaults.auto_merge),
                criteria,
                setup,
                teardown,
                parallel_group,
                context_budget: budget.and_then(|n| u32::try_from(n).ok()).unwrap_or(CONTEXT_BUDGET_DEFAULT),
                budget: spends,
                advice,
                sandbox: defaults.sandbox.with(&sandbox),
            })
        });
        self.report.stage = None;
        StageDraft { id: id_text, id_span, dependencies, spec }
    }

    /// Checks the names of the fields, with the stage's id on every problem.
    fn stage_fields<'n, 'a>(&mut self, node: &'n Node<'a>) -> Fields<'n, 'a> {
        if let Value::Map(entries) = &node.value
            && let Some(entry) = entries.iter().find(|entry| entry.key == "id")
            && let Value::Text(id) = &entry.value.value
            && !id.is_empty()
        {
            self.report.stage = Some(quoted(id));
        }
        self.fields(node, fields::STAGE, A_STAGE)
    }

    fn stage_id<'n>(&mut self, fields: &Fields<'n, '_>, node: &Node<'_>) -> (Option<StageId>, &'n str, Span) {
        let Some(entry) = fields.get("id") else {
            let head = node.span.start..node.span.start;
            if matches!(node.value, Value::Map(_)) {
                self.report.error(&head, "the stage has no `id`").field("id");
            }
            return (None, "", head);
        };
        let span = entry.span.clone();
        let Some(text) = self.text(entry, "id") else { return (None, "", span) };
        if !self.visible(text, &span, "id") {
            return (None, text, span);
        }
        if text.starts_with('_') {
            let message = format!("the id `{}` starts with `_`, which Loom keeps for its own branches", quoted(text));
            let plain = text.trim_start_matches('_').to_owned();
            self.report
                .error(&span, message)
                .did_you_mean(Some(plain.as_str()).filter(|id| !id.is_empty()))
                .field("id");
            return (None, text, span);
        }
        match StageId::new(text) {
            Ok(id) => {
                if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
                    let message = format!("the id `{text}` has upper-case letters");
                    let hint = format!("write `{}`; upper case is accepted for old plans", text.to_lowercase());
                    self.report.warning(&span, message).hint(hint).field("id");
                }
                (Some(id), text, span)
            }
            Err(error) => {
                let message = format!("`{}` is not a stage id: {}", quoted(text), error.why);
                let draft = self.report.error(&span, message);
                draft.field("id").did_you_mean(slug(text).as_deref());
                (None, text, span)
            }
        }
    }

    fn stage_name(&mut self, fields: &Fields<'_, '_>, id_span: &Span) -> String {
        let Some(node) = fields.get("name") else {
            if !id_span.is_empty() {
                self.report
                    .error(id_span, "the stage has no `name`")
                    .hint("say in a few words what it does")
                    .field("name");
            }
            return String::new();
        };
        let Some(name) = self.text(node, "name") else { return String::new() };
        let name = name.trim();
        if name.is_empty() {
            self.report.error(&node.span, "`name` is empty").field("name");
        } else if name.contains('\n') {
            self.report.error(&node.span, "`name` has more than one line").hint("use `description`").field("name");
        }
        self.readable(name, &node.span, "name");
        name.to_owned()
    }

    fn dependencies<'n>(&mut self, fields: &Fields<'n, '_>) -> Vec<(&'n str, Span)> {
        let Some(node) = fields.get("dependencies") else { return Vec::new() };
        let all = self.texts(node, "dependencies");
        if all.len() > DEPENDENCIES_MAX {
            let message = format!("{} dependencies; a stage may have {DEPENDENCIES_MAX}", all.len());
            let hint = "put a stage in between that gathers some of them";
            self.report.error(&node.span, message).hint(hint).field("dependencies");
        }
        let mut dependencies: Vec<(&str, Span)> = Vec::with_capacity(all.len());
        for (id, span) in all.into_iter().take(DEPENDENCIES_MAX) {
            if dependencies.iter().any(|(known, _)| *known == id) {
                let message = format!("the dependency `{}` is given twice", quoted(id));
                self.report.warning(span, message).field("dependencies");
            } else if self.visible(id, span, "dependencies") {
                dependencies.push((id, span.clone()));
            }
        }
        dependencies
    }

    fn stage_checks(&mut self, fields: &Fields<'_, '_>, id_span: &Span) -> Vec<Check> {
        let mut checks = Vec::new();
        for name in ["acceptance", "truths", "truth_checks"] {
            if let Some(node) = fields.get(name) {
                checks.extend(self.checks(node, name));
            }
        }
        if checks.len() > CHECKS_MAX {
            let message = format!("{} checks; a stage may have {CHECKS_MAX}", checks.len());
            self.report.error(id_span, message).hint("gather them in a script").field("acceptance");
        }
        // A list that holds something wrong is not also reported as missing.
        let proves = |name: &&str| {
            let is_empty = |node: &Node<'_>| matches!(&node.value, Value::List(items) if items.is_empty());
            fields.get(name).is_some_and(|n| !is_empty(n))
        };
        let given = fields::PROVING.iter().any(proves);
        if !given && !id_span.is_empty() && !fields.has_misspelled(fields::PROVING, fields::STAGE) {
            self.unproven(id_span);
        }
        checks
    }

    fn unproven(&mut self, id_span: &Span) {
        let hint = "add `acceptance:` with a command that fails while the work is not done";
        self.report.error(id_span, "nothing can prove the stage").hint(hint).field("acceptance");
    }

    /// The shell commands of `setup` or `teardown`.
    fn commands(&mut self, fields: &Fields<'_, '_>, name: &'static str) -> Vec<String> {
        let Some(node) = fields.get(name) else { return Vec::new() };
        let mut commands = Vec::new();
        for (command, span) in self.texts(node, name) {
            if self.command(command, span, name).is_some() {
                commands.push(command.to_owned());
            }
        }
        commands
    }

    fn parallel_group(&mut self, node: &Node<'_>) -> Option<String> {
        let group = self.text(node, "parallel_group")?;
        let group = group.trim();
        if group.is_empty() || !self.visible(group, &node.span, "parallel_group") {
            return None;
        }
        self.mention(MentionKind::Group, "parallel_group", group, &node.span);
        Some(group.to_owned())
    }

    /// A path below the top of the tree, without `./` and final slashes.
    fn working_dir(&mut self, node: &Node<'_>) -> Option<String> {
        let path = self.text(node, "working_dir")?;
        if !self.visible(path, &node.span, "working_dir") {
            return None;
        }
        self.inside_the_tree(path, &node.span, "working_dir")?;
        self.mention(MentionKind::Folder, "working_dir", path, &node.span);
        let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        Some(if parts.is_empty() { ".".to_owned() } else { parts.join("/") })
    }

    pub fn inside_the_tree(&mut self, path: &str, span: &Span, name: &str) -> Option<()> {
        let why = if path.trim().is_empty() {
            "is empty"
        } else if path.starts_with(['/', '~']) || path.as_bytes().get(1) == Some(&b':') {
            "is absolute"
        } else if path.contains('\\') && name == "working_dir" {
            "contains `\\`"
        } else if path.split('/').any(|part| part == "..") {
            "leads out of the tree"
        } else {
            return Some(());
        };
        let message = format!("the path `{}` of `{name}` {why}", quoted(path));
        self.report.error(span, message).hint("write it relative to the top of the tree, with `/`").field(name);
        None
    }

    /// A list of globs relative to `base`.
    pub fn globs(&mut self, node: &Node<'_>, name: &'static str, base: &str) -> Vec<String> {
        let all = self.texts(node, name);
        all.into_iter().filter_map(|(glob, span)| self.glob(glob, span, name, base)).collect()
    }

    /// A path or a glob inside the tree, relative to `base`.
    pub fn glob(&mut self, glob: &str, span: &Span, name: &'static str, base: &str) -> Option<String> {
        if !self.visible(glob, span, name) {
            return None;
        }
        self.inside_the_tree(glob, span, name)?;
        if let Err(error) = crate::base::glob::compile(glob) {
            let message = format!("`{}` is not a glob: {}", quoted(glob), error.kind());
            self.report.error(span, message).field(name);
            return None;
        }
        self.mention(MentionKind::Glob, name, glob, span);
        self.warn_if_doubled(glob, span, name, base);
        Some(glob.to_owned())
    }

    /// Paths of a stage start at its `working_dir`: repeating it is probably a mistake.
    pub fn warn_if_doubled(&mut self, path: &str, span: &Span, name: &str, base: &str) {
        let rest = path.strip_prefix(base).and_then(|rest| rest.strip_prefix('/'));
        if let Some(rest) = rest.filter(|_| base != ".") {
            let message = format!("`{}` is relative to `working_dir`, which it repeats", quoted(path));
            self.report.warning(span, message).did_you_mean(Some(rest)).field(name);
        }
    }
}

fn slug(text: &str) -> Option<String> {
    let slug: String = text
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '_' { c.to_ascii_lowercase() } else { '-' })
        .collect();
    let slug = slug.trim_matches(['-', '_']).to_owned();
    (slug != text && StageId::new(slug.as_str()).is_ok()).then_some(slug)
}

fn named_type(name: &str) -> StageType {
    match name {
        "knowledge" => StageType::Knowledge,
        "integration-verify" => StageType::IntegrationVerify,
        "knowledge-distill" => StageType::KnowledgeDistill,
        "code-review" => StageType::CodeReview,
        _ => StageType::Standard,
    }
}

fn named_priority(name: &str) -> Priority {
    match name {
        "p0" => Priority::P0,
        "p1" => Priority::P1,
        "p3" => Priority::P3,
        _ => Priority::P2,
    }
}
