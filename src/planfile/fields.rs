//! Every field of the plan language: its shape, and what it does in this version.

/// What a field does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It has its documented effect.
    Works,
    /// Older plans have it, and it means nothing here.
    Foreign,
}

/// What a field's value looks like.
#[derive(Debug, Clone, Copy)]
pub enum Shape {
    Bool,
    Int(i64, i64),
    Text,
    Texts,
    OneOf(&'static [&'static str]),
    Map(&'static [Field]),
    /// Seconds, or text such as `1h30m`.
    Duration,
    /// Read by hand.
    Any,
}

#[derive(Debug, Clone, Copy)]
pub struct Field {
    pub name: &'static str,
    pub effect: Effect,
    pub shape: Shape,
}

const fn works(name: &'static str, shape: Shape) -> Field {
    Field { name, effect: Effect::Works, shape }
}
const fn foreign(name: &'static str, shape: Shape) -> Field {
    Field { name, effect: Effect::Foreign, shape }
}
pub const BACKENDS: &[&str] = &["claude", "command"];
pub const MODES: &[&str] = &["interactive", "headless"];
pub const EFFORTS: &[&str] = &["low", "medium", "high", "xhigh", "max"];
pub const LANDINGS: &[&str] = &["each", "end", "manual"];
pub const STAGE_TYPES: &[&str] = &["standard", "knowledge", "integration-verify", "knowledge-distill", "code-review"];
pub const PERMISSION_MODES: &[&str] = &["auto", "accept-edits", "plan", "default"];
pub const PRIORITIES: &[&str] = &["p0", "p1", "p2", "p3"];
pub const EXECUTION_MODES: &[&str] = &["single", "team"];
/// Short names of models that the `claude` backend takes; full names start with `claude-`.
pub const MODELS: &[&str] = &["default", "opus", "sonnet", "haiku", "fable", "opusplan", "best"];
/// Fields of a stage of which at least one has to be there.
pub const PROVING: &[&str] = &["acceptance", "truths", "truth_checks", "artifacts", "wiring", "wiring_tests"];

/// The file's top level.
pub const FILE: &[Field] = &[works("loom", Shape::Any)];

/// Fields of `loom:`.
pub const PLAN: &[Field] = &[
    works("version", Shape::Any),
    works("stages", Shape::Any),
    works("agent", Shape::Any),
    works("max_parallel", Shape::Any),
    works("budget", Shape::Any),
    works("on_limit", Shape::Any),
    works("acceptance", Shape::Any),
    works("landing", Shape::Any),
    works("auto_merge", Shape::Any),
    works("sandbox", Shape::Any),
    works("protected", Shape::Any),
    works("change_impact", Shape::Any),
    foreign("adjudication", Shape::Any),
    foreign("plan_id", Shape::Text),
];

/// Fields of a stage.
pub const STAGE: &[Field] = &[
    works("id", Shape::Any),
    works("name", Shape::Any),
    works("description", Shape::Any),
    works("dependencies", Shape::Any),
    works("acceptance", Shape::Any),
    works("truths", Shape::Any),
    works("truth_checks", Shape::Any),
    works("files", Shape::Any),
    works("working_dir", Shape::Any),
    works("stage_type", Shape::Any),
    works("agent", Shape::Any),
    works("model", Shape::Any),
    works("reasoning_effort", Shape::Any),
    works("run", Shape::Any),
    works("timeout", Shape::Any),
    works("max_retries", Shape::Any),
    works("context_budget", Shape::Any),
    works("budget", Shape::Any),
    works("priority", Shape::Any),
    works("hold", Shape::Any),
    works("auto_merge", Shape::Any),
    works("sandbox", Shape::Any),
    works("artifacts", Shape::Any),
    works("wiring", Shape::Any),
    works("wiring_tests", Shape::Any),
    works("dead_code_check", Shape::Any),
    works("before_stage", Shape::Any),
    works("after_stage", Shape::Any),
    works("bug_fix", Shape::Bool),
    works("regression_test", Shape::Any),
    works("setup", Shape::Any),
    works("teardown", Shape::Any),
    works("execution_mode", Shape::Any),
    works("code_review", Shape::Any),
    works("parallel_group", Shape::Any),
    works("ultracode", Shape::Any),
    works("implementers", Shape::Any),
    works("subagent_timeout_secs", Shape::Any),
];

/// Fields of a check.
pub const CHECK: &[Field] = &[
    works("command", Shape::Text),
    works("exit_code", Shape::Int(0, 255)),
    works("stdout_contains", Shape::Texts),
    works("stdout_not_contains", Shape::Texts),
    works("stderr_contains", Shape::Texts),
    works("stderr_empty", Shape::Bool),
    works("timeout", Shape::Duration),
    works("guard", Shape::Bool),
    works("parallel", Shape::Bool),
    works("retries", Shape::Int(0, 5)),
    works("policy", Shape::OneOf(&["fail", "warn"])),
    works("description", Shape::Text),
];

/// Fields of `agent:`.
pub const AGENT: &[Field] =
    &[works("backend", Shape::Any), works("model", Shape::Any), works("effort", Shape::Any), works("mode", Shape::Any)];

/// Fields of `budget:`.
pub const BUDGET: &[Field] =
    &[works("sessions", Shape::Any), works("tokens", Shape::Any), works("cost_usd", Shape::Any)];

/// Fields of `sandbox:`.
pub const SANDBOX: &[Field] = &[
    works("enabled", Shape::Any),
    works("auto_allow", Shape::Any),
    works("permission_mode", Shape::Any),
    works("excluded_commands", Shape::Any),
    works("filesystem", Shape::Any),
    works("network", Shape::Any),
    works("linux", Shape::Any),
];
pub const SANDBOX_FILES: &[Field] =
    &[works("deny_read", Shape::Any), works("deny_write", Shape::Any), works("allow_write", Shape::Any)];
pub const SANDBOX_NETWORK: &[Field] = &[
    works("allowed_domains", Shape::Any),
    works("additional_domains", Shape::Any),
    works("allow_local_binding", Shape::Any),
    works("allow_unix_sockets", Shape::Any),
];
pub const SANDBOX_LINUX: &[Field] = &[works("enable_weaker_nested", Shape::Any)];
pub const CHANGE_IMPACT: &[Field] = &[
    works("baseline_command", Shape::Text),
    works("compare_command", Shape::Text),
    works("failure_patterns", Shape::Texts),
    works("policy", Shape::OneOf(&["fail", "warn", "skip"])),
];
pub const WIRING: &[Field] =
    &[works("source", Shape::Text), works("pattern", Shape::Text), works("description", Shape::Text)];
pub const WIRING_TEST: &[Field] = &[
    works("name", Shape::Text),
    works("command", Shape::Text),
    works("success_criteria", Shape::Map(SUCCESS)),
    works("description", Shape::Text),
];
const SUCCESS: &[Field] = &[
    works("exit_code", Shape::Int(0, 255)),
    works("stdout_contains", Shape::Texts),
    works("stdout_not_contains", Shape::Texts),
    works("stderr_contains", Shape::Texts),
    works("stderr_empty", Shape::Bool),
];
pub const DEAD_CODE: &[Field] =
    &[works("command", Shape::Text), works("fail_patterns", Shape::Texts), works("ignore_patterns", Shape::Texts)];
pub const REGRESSION_TEST: &[Field] = &[works("file", Shape::Text), works("must_contain", Shape::Texts)];
pub const CODE_REVIEW: &[Field] = &[works("dimensions", Shape::Any), works("require_all", Shape::Bool)];

/// What a field is called here that goes by another name in other tools.
pub fn other_name(name: &str) -> Option<&'static str> {
    Some(match name {
        "depends_on" | "depends-on" | "needs" | "requires" | "after" => "dependencies",
        "effort" => "reasoning_effort",
        "checks" | "tests" => "acceptance",
        "title" => "name",
        "cmd" | "script" => "run",
        _ => return None,
    })
}
