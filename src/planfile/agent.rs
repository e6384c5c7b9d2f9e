//! Who carries a stage out: `agent`, `model`, `reasoning_effort`, `run`, and the
//! advice that an agent gets.

use super::diagnostic::quoted;
use super::fields;
use super::reader::{Fields, Reader};
use super::source::Span;
use super::stage::Defaults;
use super::yaml::{Node, Value};
use crate::base::text;
use crate::model::plan::{Advice, Agent, AgentMode, BackendKind, CodeReview, ExecutionMode};

/// What `agent:` says, at the level of the plan or of a stage.
#[derive(Debug, Clone, Default)]
pub struct AgentFields {
    pub backend: Option<(BackendKind, Span)>,
    pub model: Option<String>,
    pub effort: Option<String>,
    pub mode: Option<AgentMode>,
}

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
    pub fn stage_agent(&mut self, fields: &Fields<'_, '_>, defaults: &Defaults, id_span: &Span) -> Option<Agent> {
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
        let told = ["execution_mode", "code_review", "ultracode", "implementers", "subagent_timeout_secs"];
        let names =
            ["model", "reasoning_effort", "sandbox"].into_iter().chain(told).chain(of_a_model.then_some("agent"));
        for (name, entry) in names.filter_map(|name| fields.entry(name).map(|entry| (name, entry))) {
            let why = if name == "sandbox" { "outside of every sandbox" } else { "with no model" };
            let message = format!("`{name}` has no effect: `run` carries the stage out {why}");
            self.report.warning(&entry.key_span, message).field(name);
        }
        Some(Agent::Command { run: run.to_owned() })
    }
}

impl Reader<'_, '_> {
    /// What the agent is told about how to work.
    pub fn advice(&mut self, fields: &Fields<'_, '_>) -> Advice {
        let mode = fields.get("execution_mode");
        let mode = mode.and_then(|node| self.one_of(node, "execution_mode", fields::EXECUTION_MODES));
        let ultracode = fields.get("ultracode").and_then(|node| self.boolean(node, "ultracode"));
        let timeout = fields.get("subagent_timeout_secs");
        let timeout = timeout.and_then(|node| self.int(node, "subagent_timeout_secs", 1, 604_800));
        Advice {
            execution_mode: match mode {
                Some("team") => ExecutionMode::Team,
                _ => ExecutionMode::Single,
            },
            code_review: fields.get("code_review").map(|node| self.code_review(node)),
            ultracode: ultracode.unwrap_or_default(),
            implementers: fields.get("implementers").map_or_else(Vec::new, |node| self.words(node, "implementers")),
            subagent_timeout_secs: timeout.and_then(|n| u64::try_from(n).ok()),
        }
    }

    fn code_review(&mut self, node: &Node<'_>) -> CodeReview {
        let fields = self.fields(node, fields::CODE_REVIEW, "`code_review`");
        let require_all = fields.get("require_all").map(|node| &node.value);
        CodeReview {
            dimensions: fields.get("dimensions").map_or_else(Vec::new, |node| self.words(node, "dimensions")),
            require_all: !matches!(require_all, Some(Value::Bool(false))),
        }
    }

    /// Texts that agents read.
    fn words(&mut self, node: &Node<'_>, name: &str) -> Vec<String> {
        let mut words = Vec::new();
        for (word, span) in self.texts(node, name) {
            self.readable(word, span, name);
            words.push(word.to_owned());
        }
        words
    }
}
