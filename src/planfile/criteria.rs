//! What proves a stage besides commands: files with content, connections between
//! parts, unused code, a regression test, and how the whole suite changes.

use super::diagnostic::quoted;
use super::fields;
use super::reader::{Fields, Reader};
use super::source::Span;
use super::yaml::{Node, Value};
use crate::model::check::{ChangeImpact, Check, Criteria, DeadCode, ImpactPolicy, RegressionTest, Wiring, WiringTest};
use crate::model::limits::REGEX_BYTES_MAX;

impl Reader<'_, '_> {
    /// Everything of a stage that proves it and is no plain command.
    pub fn criteria(&mut self, fields: &Fields<'_, '_>, working_dir: &str) -> Criteria {
        let checks = |reader: &mut Self, name: &'static str| {
            fields.get(name).map_or_else(Vec::new, |node| reader.checks(node, name))
        };
        let before = checks(self, "before_stage");
        let after = checks(self, "after_stage");
        let artifacts = fields.get("artifacts");
        let wiring = fields.get("wiring");
        let wiring_tests = fields.get("wiring_tests");
        let dead_code = fields.get("dead_code_check");
        Criteria {
            artifacts: artifacts.map_or_else(Vec::new, |node| self.globs(node, "artifacts", working_dir)),
            wiring: wiring.map_or_else(Vec::new, |node| self.wiring(node, working_dir)),
            wiring_tests: wiring_tests.map_or_else(Vec::new, |node| self.wiring_tests(node)),
            dead_code: dead_code.and_then(|node| self.dead_code(node)),
            before,
            after,
            regression_test: self.regression_test(fields, working_dir),
        }
    }

    fn wiring(&mut self, node: &Node<'_>, working_dir: &str) -> Vec<Wiring> {
        let of = "an item of `wiring`";
        let mut all = Vec::new();
        for item in self.items(node, "wiring") {
            let fields = self.fields(item, fields::WIRING, of);
            let source = self.required(&fields, item, "source", of);
            let source = source.and_then(|(text, node)| self.glob(text, &node.span, "source", working_dir));
            let pattern = self.required(&fields, item, "pattern", of);
            let pattern = pattern.and_then(|(text, node)| self.regex(text, &node.span, "pattern"));
            if let (Some(source), Some(pattern)) = (source, pattern) {
                all.push(Wiring { source, pattern, description: plain_text(&fields, "description") });
            }
        }
        all
    }

    fn wiring_tests(&mut self, node: &Node<'_>) -> Vec<WiringTest> {
        let of = "an item of `wiring_tests`";
        let mut all: Vec<WiringTest> = Vec::new();
        for item in self.items(node, "wiring_tests") {
            let fields = self.fields(item, fields::WIRING_TEST, of);
            let name = self.required(&fields, item, "name", of);
            let command = self.required(&fields, item, "command", of);
            let check = command.and_then(|(command, node)| {
                let success = fields.get("success_criteria");
                let criteria = success.map(Fields::of_checked).unwrap_or_default();
                let check = self.command_check(command, &node.span, &criteria, "wiring_tests")?;
                Some(Check { description: plain_text(&fields, "description"), ..check })
            });
            let (Some((name, name_node)), Some(check)) = (name, check) else { continue };
            if all.iter().any(|other| other.name == name) {
                let message = format!("the name `{}` is given to two tests of `wiring_tests`", quoted(name));
                self.report.error(&name_node.span, message).field("name");
            }
            all.push(WiringTest { name: name.to_owned(), check });
        }
        all
    }

    fn dead_code(&mut self, node: &Node<'_>) -> Option<DeadCode> {
        let of = "`dead_code_check`";
        let fields = self.fields(node, fields::DEAD_CODE, of);
        let command = self.required(&fields, node, "command", of);
        let command = command.and_then(|(text, node)| self.command(text, &node.span, "dead_code_check").map(|()| text));
        let fail_patterns = fields.get("fail_patterns").map(|node| self.regexes(node, "fail_patterns"));
        if matches!(node.value, Value::Map(_)) && fail_patterns.as_ref().is_none_or(Vec::is_empty) {
            let message = "`dead_code_check` has no `fail_patterns`: nothing in the output could fail it";
            let hint = "add regular expressions for lines that name unused code, such as \"is never used\"";
            self.report.error(&node.span, message).hint(hint).field("fail_patterns");
        }
        let ignore = fields.get("ignore_patterns");
        let ignore_patterns = ignore.map_or_else(Vec::new, |node| self.regexes(node, "ignore_patterns"));
        Some(DeadCode { command: command?.to_owned(), fail_patterns: fail_patterns?, ignore_patterns })
    }

    /// `bug_fix` and `regression_test`: each needs the other.
    fn regression_test(&mut self, fields: &Fields<'_, '_>, working_dir: &str) -> Option<RegressionTest> {
        let of = "`regression_test`";
        let bug_fix = fields.get("bug_fix");
        let is_fix = bug_fix.is_some_and(|node| matches!(node.value, Value::Bool(true)));
        let test = fields.get("regression_test");
        match (is_fix, test, bug_fix) {
            (true, None, Some(node)) => {
                let hint = "add `regression_test: {file: …, must_contain: […]}`, the test that would have caught it";
                self.report.error(&node.span, "`bug_fix` needs a `regression_test`").hint(hint).field("bug_fix");
            }
            (false, Some(node), _) => {
                let message = "`regression_test` without `bug_fix: true`";
                self.report.error(&node.span, message).hint("add `bug_fix: true`").field("regression_test");
            }
            _ => {}
        }
        let node = test?;
        let test = self.fields(node, fields::REGRESSION_TEST, of);
        let file = self.required(&test, node, "file", of);
        let file = file.and_then(|(text, node)| {
            self.visible(text, &node.span, "file").then_some(())?;
            self.inside_the_tree(text, &node.span, "file")?;
            self.warn_if_doubled(text, &node.span, "file", working_dir);
            Some(text.to_owned())
        });
        let texts = self.required_list(&test, node, "must_contain", of);
        Some(RegressionTest { file: file?, must_contain: texts? })
    }

    /// `change_impact`, at the level of the plan.
    pub fn change_impact(&mut self, node: &Node<'_>) -> Option<ChangeImpact> {
        let of = "`change_impact`";
        let fields = self.fields(node, fields::CHANGE_IMPACT, of);
        let baseline = self.required(&fields, node, "baseline_command", of);
        let baseline =
            baseline.and_then(|(text, node)| self.command(text, &node.span, "baseline_command").map(|()| text));
        let compare = fields.get("compare_command");
        let compare = compare.and_then(|node| match &node.value {
            Value::Text(text) => self.command(text, &node.span, "compare_command").map(|()| text.to_string()),
            _ => None,
        });
        let failure = fields.get("failure_patterns");
        let failure_patterns = failure.map_or_else(Vec::new, |node| self.regexes(node, "failure_patterns"));
        let policy = match plain_text(&fields, "policy").as_deref() {
            Some("warn") => ImpactPolicy::Warn,
            Some("skip") => ImpactPolicy::Skip,
            _ => ImpactPolicy::Fail,
        };
        if failure_patterns.is_empty() && policy != ImpactPolicy::Skip && matches!(node.value, Value::Map(_)) {
            let message = "`change_impact` has no `failure_patterns`: only whether the command fails is compared";
            let hint =
                "add regular expressions for lines that name a failure, such as \"^test (.+) \\\\.\\\\.\\\\. FAILED\"";
            self.report.warning(&node.span, message).hint(hint).field("failure_patterns");
        }
        Some(ChangeImpact {
            baseline_command: baseline?.to_owned(),
            compare_command: compare,
            failure_patterns,
            policy,
        })
    }

    /// Text that has to be there. Wrong types were reported when the shape was checked.
    fn required<'n, 'a>(
        &mut self,
        fields: &Fields<'n, 'a>,
        node: &Node<'_>,
        name: &str,
        of: &str,
    ) -> Option<(&'n str, &'n Node<'a>)> {
        match fields.get(name) {
            Some(found) => match &found.value {
                Value::Text(text) if text.trim().is_empty() => {
                    self.report.error(&found.span, format!("`{name}` of {of} is empty")).field(name);
                    None
                }
                Value::Text(text) => Some((text, found)),
                _ => None,
            },
            None => {
                if matches!(node.value, Value::Map(_)) {
                    self.report.error(&node.span, format!("{of} has no `{name}`")).field(name);
                }
                None
            }
        }
    }

    /// A list of texts with at least one, none of them empty.
    fn required_list(&mut self, fields: &Fields<'_, '_>, node: &Node<'_>, name: &str, of: &str) -> Option<Vec<String>> {
        let found = fields.get(name).filter(|node| matches!(&node.value, Value::List(items) if !items.is_empty()));
        let Some(found) = found else {
            let is_wrong_type = fields.get(name).is_some_and(|node| !matches!(node.value, Value::List(_)));
            if matches!(node.value, Value::Map(_)) && !is_wrong_type {
                let hint = "say what has to be in it, such as the name of the test";
                self.report.error(&node.span, format!("{of} has no `{name}`")).hint(hint).field(name);
            }
            return None;
        };
        let Value::List(items) = &found.value else { return None };
        let mut texts = Vec::with_capacity(items.len());
        for item in *items {
            if let Value::Text(text) = &item.value {
                if text.trim().is_empty() {
                    let message = format!("an empty text in `{name}`: every file contains it");
                    self.report.error(&item.span, message).field(name);
                }
                texts.push(text.to_string());
            }
        }
        Some(texts)
    }

    /// Regular expressions of one list.
    fn regexes(&mut self, node: &Node<'_>, name: &str) -> Vec<String> {
        let Value::List(items) = &node.value else { return Vec::new() };
        let mut patterns = Vec::with_capacity(items.len());
        for item in *items {
            if let Value::Text(text) = &item.value {
                patterns.extend(self.regex(text, &item.span, name));
            }
        }
        patterns
    }

    /// A regular expression that compiles within its limit. One that matches nothing at all
    /// is in every file.
    fn regex(&mut self, pattern: &str, span: &Span, name: &str) -> Option<String> {
        if !self.visible(pattern, span, name) {
            return None;
        }
        let compiled = regex::RegexBuilder::new(pattern).multi_line(true).size_limit(REGEX_BYTES_MAX).build();
        match compiled {
            Ok(regex) => {
                if regex.is_match("") {
                    let message = format!("`{}` matches even an empty text: it proves nothing", quoted(pattern));
                    let hint = "write a pattern that is there only when the work is done";
                    self.report.warning(span, message).hint(hint).field(name);
                }
                Some(pattern.to_owned())
            }
            Err(regex::Error::CompiledTooBig(limit)) => {
                let message = format!("`{}` is larger than {limit} bytes when compiled", quoted(pattern));
                self.report.error(span, message).hint("repeat less in one pattern").field(name);
                None
            }
            Err(error) => {
                let why = error.to_string();
                let why = why.lines().last().unwrap_or_default().trim().trim_start_matches("error: ");
                let message = format!("`{}` is not a regular expression: {why}", quoted(pattern));
                let hint = "escape what is meant literally, such as `\\(`; quote the text with '…'";
                self.report.error(span, message).hint(hint).field(name);
                None
            }
        }
    }
}

/// A text whose type was checked already.
fn plain_text(fields: &Fields<'_, '_>, name: &str) -> Option<String> {
    match fields.get(name).map(|node| &node.value) {
        Some(Value::Text(text)) => Some(text.to_string()),
        _ => None,
    }
}
