//! Checks as authored: a command, or a command with what its output must hold.

use super::diagnostic::quoted;
use super::fields;
use super::reader::{Fields, MentionKind, Reader};
use super::shell::{Vacuous, vacuous};
use super::source::Span;
use super::yaml::{Node, Value};
use crate::model::check::{Check, Policy};
use crate::model::limits::CHECK_RETRIES_MAX;

impl Reader<'_, '_> {
    /// The checks of one list, such as `acceptance`.
    pub fn checks(&mut self, node: &Node<'_>, name: &'static str) -> Vec<Check> {
        self.items(node, name).iter().filter_map(|item| self.check(item, name)).collect()
    }

    fn check(&mut self, item: &Node<'_>, list: &'static str) -> Option<Check> {
        let of = format!("an item of `{list}`");
        if !matches!(item.value, Value::Map(_)) {
            let command = self.text(item, &of)?;
            self.command(command, &item.span, list)?;
            let check = Check::command(command);
            self.warn_if_vacuous(&check, &item.span, list);
            return Some(check);
        }
        let fields = self.fields(item, fields::CHECK, &of);
        let Some(node) = fields.get("command") else {
            self.report.error(&item.span, format!("{of} has no `command`")).field(list);
            return None;
        };
        // Wrong types were reported when the shape was checked.
        let Value::Text(command) = &node.value else { return None };
        let check = self.command_check(command, &node.span, &fields, list)?;
        Some(Check {
            timeout_secs: fields.get("timeout").and_then(seconds),
            guard: is_true(&fields, "guard"),
            parallel: is_true(&fields, "parallel"),
            retries: match fields.get("retries").map(|node| &node.value) {
                Some(Value::Int(retries)) => u32::try_from(*retries).unwrap_or_default().min(CHECK_RETRIES_MAX),
                _ => 0,
            },
            policy: match fields.get("policy").map(|node| &node.value) {
                Some(Value::Text(word)) if *word == "warn" => Policy::Warn,
                _ => Policy::Fail,
            },
            description: fields.get("description").and_then(|node| match &node.value {
                Value::Text(text) => Some(text.to_string()),
                _ => None,
            }),
            ..check
        })
    }

    /// A command and what its end and its output must be, from a map whose shape was checked.
    pub fn command_check(
        &mut self,
        command: &str,
        span: &Span,
        success: &Fields<'_, '_>,
        list: &'static str,
    ) -> Option<Check> {
        self.command(command, span, list)?;
        let texts = |name: &str| success.get(name).map_or_else(Vec::new, plain_texts);
        let check = Check {
            exit_code: match success.get("exit_code").map(|node| &node.value) {
                Some(Value::Int(code)) => i32::try_from(*code).unwrap_or_default(),
                _ => 0,
            },
            stdout_contains: texts("stdout_contains"),
            stdout_not_contains: texts("stdout_not_contains"),
            stderr_contains: texts("stderr_contains"),
            stderr_empty: is_true(success, "stderr_empty"),
            ..Check::command(command)
        };
        for name in ["stdout_contains", "stderr_contains", "stdout_not_contains"] {
            let Some(Value::List(items)) = success.get(name).map(|node| &node.value) else { continue };
            let empty = items.iter().find(|item| matches!(&item.value, Value::Text(text) if text.is_empty()));
            if let Some(item) = empty {
                let message = format!("an empty text in `{name}`: every output contains it");
                self.report.error(&item.span, message).field(name);
            }
        }
        if check.stderr_empty && !check.stderr_contains.is_empty() {
            let message = "`stderr_empty` and `stderr_contains` cannot both hold";
            self.report.error(span, message).field(list);
        }
        self.warn_if_vacuous(&check, span, list);
        Some(check)
    }

    /// A shell command that can run as it is shown.
    pub fn command(&mut self, command: &str, span: &Span, name: &'static str) -> Option<()> {
        if command.trim().is_empty() {
            self.report.error(span, format!("an empty command in `{name}`")).field(name);
            return None;
        }
        self.visible(command, span, name).then_some(())?;
        self.mention(MentionKind::Command, name, command, span);
        Some(())
    }

    fn warn_if_vacuous(&mut self, check: &Check, span: &Span, list: &str) {
        let looks_at_output = !check.stdout_contains.is_empty()
            || !check.stdout_not_contains.is_empty()
            || !check.stderr_contains.is_empty()
            || check.stderr_empty;
        let Some(vacuous) = vacuous(&check.command).filter(|_| check.exit_code == 0) else { return };
        let command = quoted(check.command.trim());
        let message = match vacuous {
            Vacuous::Constant => format!("`{command}` always passes: it proves nothing"),
            // Its output is looked at, and that may tell.
            _ if looks_at_output => return,
            Vacuous::Masked => format!("`{command}` always passes: what fails in it is hidden by what comes after"),
            Vacuous::Pipe(last) => format!("`{command}` always passes: the exit code of a pipe is that of `{last}`"),
            Vacuous::Matches(pattern) if pattern.is_empty() => {
                format!("`{command}` always passes: an empty pattern is in every file")
            }
            Vacuous::Matches(pattern) => format!("`{command}` always passes: `{}` is in every file", quoted(&pattern)),
        };
        let hint = "write a command that fails while the work is not done";
        self.report.warning(span, message).hint(hint).field(list);
    }
}

fn is_true(fields: &Fields<'_, '_>, name: &str) -> bool {
    matches!(fields.get(name).map(|node| &node.value), Some(Value::Bool(true)))
}

fn plain_texts(node: &Node<'_>) -> Vec<String> {
    let Value::List(items) = &node.value else { return Vec::new() };
    let text = |item: &Node<'_>| match &item.value {
        Value::Text(text) => Some(text.to_string()),
        _ => None,
    };
    items.iter().filter_map(text).collect()
}

fn seconds(node: &Node<'_>) -> Option<u64> {
    match &node.value {
        Value::Int(seconds) => u64::try_from(*seconds).ok(),
        Value::Text(text) => super::reader::parse_duration(text),
        _ => None,
    }
}
