//! One stage as authored: its fields, its agent, and what proves it.

use super::diagnostic::quoted;
use super::fields::{self, Effect};
use super::reader::{A_STAGE, Fields, Reader};
use super::source::Span;
use super::yaml::{Node, Value};
use crate::base::text;
use crate::model::ids::StageId;
use crate::model::limits::{CHECKS_MAX, DEPENDENCIES_MAX, RETRIES_DEFAULT, RETRIES_MAX};
use crate::model::plan::{Agent, AgentMode, BackendKind, Check, Priority, StageSpec, StageType};

/// A stage that was read, perhaps with errors. The graph is checked on drafts, so
/// that a wrong field does not make every dependency on its stage unknown.
pub struct StageDraft<'n> {
    /// As written; empty when it is missing.
    pub id: &'n str,
    pub id_span: Span,
    pub dependencies: Vec<(&'n str, Span)>,
    /// None when the stage cannot be represented; there is an error then.
    pub spec: Option<StageSpec>,
}

/// What `agent:` says, at the level of the plan or of a stage.
#[derive(Debug, Clone, Default)]
pub struct AgentFields {
    pub backend: Option<(BackendKind, Span)>,
    pub model: Option<String>,
    pub effort: Option<String>,
    pub mode: Option<AgentMode>,
}

/// What the plan sets for all its stages.
pub struct Defaults {
    pub agent: AgentFields,
    pub auto_merge: bool,
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
        let files = fields.get("files").map_or_else(Vec::new, |node| self.globs(node, &working_dir));
        let agent = self.stage_agent(&fields, defaults, &id_span);
        let retries = fields.get("max_retries").and_then(|n| self.int(n, "max_retries", 0, i64::from(RETRIES_MAX)));
        let auto_merge = fields.get("auto_merge").and_then(|node| self.boolean(node, "auto_merge"));
        let stage_type = fields.get("stage_type").and_then(|node| self.one_of(node, "stage_type", fields::STAGE_TYPES));
        let priority = fields.get("priority").and_then(|node| self.one_of(node, "priority", fields::PRIORITIES));
        let hold = fields.get("hold").and_then(|node| self.boolean(node, "hold")).unwrap_or_default();
        let timeout_secs = fields.get("timeout").and_then(|node| self.duration(node, "timeout"));
        let spec = id.zip(agent).map(|(id, agent)| StageSpec {
            id,
            name,
            description: description.unwrap_or_default(),
            dependencies: dependencies.iter().filter_map(|(id, _)| StageId::new(*id).ok()).collect(),
            checks,
            files,
            working_dir,
            stage_type: stage_type.map_or_else(StageType::default, named_type),
            agent,
            max_retries: retries.and_then(|n| u32::try_from(n).ok()).unwrap_or(RETRIES_DEFAULT),
            priority: priority.map_or_else(Priority::default, named_priority),
            hold,
            timeout_secs,
            auto_merge: auto_merge.unwrap_or(defaults.auto_merge),
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
        let mut given = false;
        for name in ["acceptance", "truths", "truth_checks"] {
            if let Some(node) = fields.get(name) {
                checks.extend(self.checks(node, name));
                // A list that holds something wrong is not also reported as missing.
                given |= !matches!(&node.value, Value::List(items) if items.is_empty());
            }
        }
        if checks.len() > CHECKS_MAX {
            let message = format!("{} checks; a stage may have {CHECKS_MAX}", checks.len());
            self.report.error(id_span, message).hint("gather them in a script").field("acceptance");
        }
        if !given && !id_span.is_empty() && !fields.has_misspelled(fields::PROVING, fields::STAGE) {
            self.unproven(fields, id_span);
        }
        checks
    }

    fn unproven(&mut self, fields: &Fields<'_, '_>, id_span: &Span) {
        let refused =
            |name: &&&str| fields::STAGE.iter().any(|field| field.name == **name && field.effect == Effect::Refused);
        let without_effect: Vec<_> =
            fields::PROVING.iter().filter(|n| fields.get(n).is_some()).filter(refused).collect();
        let message = if without_effect.is_empty() {
            "nothing can prove the stage".to_owned()
        } else {
            let verb = if without_effect.len() == 1 { "does" } else { "do" };
            format!("nothing can prove the stage: {} {verb} not work in this version", text::list(without_effect))
        };
        let hint = "add `acceptance:` with a command that fails while the work is not done";
        self.report.error(id_span, message).hint(hint).field("acceptance");
    }

    /// A path below the top of the tree, without `./` and final slashes.
    fn working_dir(&mut self, node: &Node<'_>) -> Option<String> {
        let path = self.text(node, "working_dir")?;
        if !self.visible(path, &node.span, "working_dir") {
            return None;
        }
        self.inside_the_tree(path, &node.span, "working_dir")?;
        let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
        Some(if parts.is_empty() { ".".to_owned() } else { parts.join("/") })
    }

    fn inside_the_tree(&mut self, path: &str, span: &Span, name: &str) -> Option<()> {
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

    fn globs(&mut self, node: &Node<'_>, working_dir: &str) -> Vec<String> {
        let mut globs = Vec::new();
        for (glob, span) in self.texts(node, "files") {
            if !self.visible(glob, span, "files") || self.inside_the_tree(glob, span, "files").is_none() {
                continue;
            }
            if let Err(error) = globset::Glob::new(glob) {
                let message = format!("`{}` is not a glob: {}", quoted(glob), error.kind());
                self.report.error(span, message).field("files");
            }
            let rest = glob.strip_prefix(working_dir).and_then(|rest| rest.strip_prefix('/'));
            if let Some(rest) = rest.filter(|_| working_dir != ".") {
                let message = format!("`{}` is relative to `working_dir`, which it repeats", quoted(glob));
                self.report.warning(span, message).did_you_mean(Some(rest)).field("files");
            }
            globs.push(glob.to_owned());
        }
        globs
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

/// The parts of a stage that say who carries it out.
impl Reader<'_, '_> {
    /// `agent:` as a map, or as the name of a backend.
    pub fn agent(&mut self, node: &Node<'_>) -> AgentFields {
        if matches!(node.value, Value::Text(_)) {
            return AgentFields { backend: self.backend(node), ..AgentFields::default() };
        }
        let fields = self.fields(node, fields::AGENT, "`agent`");
        AgentFields {
            backend: fields.get("backend").and_then(|node| self.backend(node)),
            model: fields.get("model").and_then(|node| self.model(node)),
            effort: fields.get("effort").and_then(|node| self.effort(node, "effort")),
            mode: fields.get("mode").and_then(|node| self.one_of(node, "mode", fields::MODES)).map(|mode| match mode {
                "headless" => AgentMode::Headless,
                _ => AgentMode::Interactive,
            }),
        }
    }

    fn backend(&mut self, node: &Node<'_>) -> Option<(BackendKind, Span)> {
        let kind = match self.one_of(node, "backend", fields::BACKENDS)? {
            "command" => BackendKind::Command,
            _ => BackendKind::Claude,
        };
        Some((kind, node.span.clone()))
    }

    fn effort(&mut self, node: &Node<'_>, name: &str) -> Option<String> {
        self.one_of(node, name, fields::EFFORTS).map(str::to_owned)
    }

    fn model(&mut self, node: &Node<'_>) -> Option<String> {
        let model = self.text(node, "model")?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || "._:/@[]-".contains(c);
        if !model.starts_with(|c: char| c.is_ascii_alphanumeric()) || !model.chars().all(is_name) {
            let message = format!("`{}` cannot be the name of a model", quoted(model));
            self.report
                .error(&node.span, message)
                .hint(format!("such as {}", text::list(fields::MODELS)))
                .field("model");
            return None;
        }
        let short = model.strip_suffix("[1m]").unwrap_or(model);
        if !fields::MODELS.contains(&short) && !model.contains("claude-") {
            let similar = self.report.similar(short, fields::MODELS.iter().copied());
            let message = format!("the model `{}` is not one Loom knows; it is passed on as it is", quoted(model));
            self.report.warning(&node.span, message).did_you_mean(similar).field("model");
        }
        Some(model.to_owned())
    }

    /// The stage's own fields over the plan's. None after an error.
    fn stage_agent(&mut self, fields: &Fields<'_, '_>, defaults: &Defaults, id_span: &Span) -> Option<Agent> {
        let own = fields.get("agent").map(|node| self.agent(node)).unwrap_or_default();
        let model = fields.get("model").and_then(|node| self.model(node));
        let effort = fields.get("reasoning_effort").and_then(|node| self.effort(node, "reasoning_effort"));
        if let Some(node) = fields.get("run") {
            return self.run(node, fields, &own);
        }
        let backend = own.backend.as_ref().or(defaults.agent.backend.as_ref());
        if let Some((BackendKind::Command, _)) = backend {
            let span = own.backend.map_or_else(|| id_span.clone(), |(_, span)| span);
            let hint = "add `run:` with the shell command that carries the stage out";
            self.report.error(&span, "the backend is `command`, but there is no `run`").hint(hint).field("run");
            return None;
        }
        Some(Agent::Claude {
            mode: own.mode.or(defaults.agent.mode).unwrap_or_default(),
            model: model.or(own.model).or_else(|| defaults.agent.model.clone()),
            effort: effort.or(own.effort).or_else(|| defaults.agent.effort.clone()),
        })
    }

    fn run(&mut self, node: &Node<'_>, fields: &Fields<'_, '_>, own: &AgentFields) -> Option<Agent> {
        let run = self.text(node, "run")?;
        self.command(run, &node.span, "run")?;
        if let Some((BackendKind::Claude, span)) = &own.backend {
            let message = "the backend is `claude`, but `run` carries the stage out with no model";
            self.report.error(span, message).hint("remove one of the two").field("backend");
            return None;
        }
        let of_a_model = own.model.is_some() || own.effort.is_some() || own.mode.is_some();
        let names = ["model", "reasoning_effort"].into_iter().chain(of_a_model.then_some("agent"));
        for (name, entry) in names.filter_map(|name| fields.entry(name).map(|entry| (name, entry))) {
            let message = format!("`{name}` has no effect: `run` carries the stage out with no model");
            self.report.warning(&entry.key_span, message).field(name);
        }
        Some(Agent::Command { run: run.to_owned() })
    }
}
