//! Checks as authored: a command, or a command with what its output must hold.

use super::diagnostic::quoted;
use super::fields;
use super::reader::Reader;
use super::source::Span;
use super::yaml::{Node, Value};
use crate::model::plan::Check;

impl Reader<'_, '_> {
    /// The checks of one list, such as `acceptance`.
    pub fn checks(&mut self, node: &Node<'_>, name: &str) -> Vec<Check> {
        self.items(node, name).iter().filter_map(|item| self.check(item, name)).collect()
    }

    fn check(&mut self, item: &Node<'_>, list: &str) -> Option<Check> {
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
        self.command(command, &node.span, "command")?;
        let flag = |name: &str| matches!(fields.get(name).map(|node| &node.value), Some(Value::Bool(true)));
        let texts = |name: &str| fields.get(name).map_or_else(Vec::new, plain_texts);
        let check = Check {
            command: command.to_string(),
            exit_code: match fields.get("exit_code").map(|node| &node.value) {
                Some(Value::Int(code)) => i32::try_from(*code).unwrap_or_default(),
                _ => 0,
            },
            stdout_contains: texts("stdout_contains"),
            stdout_not_contains: texts("stdout_not_contains"),
            stderr_contains: texts("stderr_contains"),
            stderr_empty: flag("stderr_empty"),
            timeout_secs: fields.get("timeout").and_then(seconds),
            guard: flag("guard"),
            description: fields.get("description").and_then(|node| match &node.value {
                Value::Text(text) => Some(text.to_string()),
                _ => None,
            }),
        };
        if check.stderr_empty && !check.stderr_contains.is_empty() {
            let message = "`stderr_empty` and `stderr_contains` cannot both hold";
            self.report.error(&item.span, message).field(list);
        }
        self.warn_if_vacuous(&check, &node.span, list);
        Some(check)
    }

    /// A shell command that can run as it is shown.
    pub fn command(&mut self, command: &str, span: &Span, name: &str) -> Option<()> {
        if command.trim().is_empty() {
            self.report.error(span, format!("an empty command in `{name}`")).field(name);
            return None;
        }
        self.visible(command, span, name).then_some(())
    }

    fn warn_if_vacuous(&mut self, check: &Check, span: &Span, list: &str) {
        let looks_at_output = !check.stdout_contains.is_empty()
            || !check.stdout_not_contains.is_empty()
            || !check.stderr_contains.is_empty()
            || check.stderr_empty;
        let constant = prints_only(&check.command);
        if check.exit_code == 0 && (constant || !looks_at_output && always_passes(&check.command)) {
            let message = format!("`{}` always passes: it proves nothing", quoted(check.command.trim()));
            self.report
                .warning(span, message)
                .hint("write a command that fails while the work is not done")
                .field(list);
        }
    }
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

/// Prints a constant, or does nothing, and succeeds.
fn prints_only(command: &str) -> bool {
    let command = command.trim().trim_end_matches(';').trim_end();
    if matches!(command, "true" | ":" | "exit" | "exit 0" | "/bin/true" | "/usr/bin/true") {
        return true;
    }
    let first = command.split_whitespace().next().unwrap_or_default();
    matches!(first, "echo" | "printf" | "true" | ":") && !command.contains(['$', '`', '|', '&', ';', '<', '>', '\n'])
}

/// Ends in something that hides every failure before it.
fn always_passes(command: &str) -> bool {
    let Some(last) = command.trim().lines().last() else { return false };
    let masked = |separator: &str| last.rsplit_once(separator).is_some_and(|(_, after)| prints_only(after));
    masked("||") || masked(";") || command.trim().contains('\n') && prints_only(last) && !command.contains("set -e")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_that_cannot_fail_are_recognised() {
        for vacuous in ["true", ":", " exit 0 ", "echo ok", "make || true", "make; exit 0", "make\necho done"] {
            assert!(prints_only(vacuous) || always_passes(vacuous), "{vacuous:?}");
        }
        for real in ["cargo test", "echo $(make)", "echo x | grep y", "test -f a && echo ok", "set -e\nmake\necho ok"] {
            assert!(!prints_only(real) && !always_passes(real), "{real:?}");
        }
    }
}
