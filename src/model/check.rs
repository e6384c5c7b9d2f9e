//! What decides whether a stage is done, as authored. What a check did when it
//! ran is [`super::stage::CheckResult`].

use serde::{Deserialize, Serialize};

/// A shell command that Loom runs in the proof checkout, and what it must do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    pub command: String,
    pub exit_code: i32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stdout_contains: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stdout_not_contains: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stderr_contains: Vec<String>,
    #[serde(default)]
    pub stderr_empty: bool,
    /// Deadline in seconds.
    pub timeout_secs: Option<u64>,
    /// Declared to pass already before the stage.
    #[serde(default)]
    pub guard: bool,
    /// Starts at the top of the tree, and not in the stage's `working_dir`: it is the plan's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_top: bool,
    /// Runs beside its neighbours that say so too: they do not touch each other's files.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub parallel: bool,
    /// Runs again this often after a failure; one that passes then is flaky, and recorded so.
    #[serde(default)]
    pub retries: u32,
    /// What a failure means that was there before the stage.
    #[serde(default, skip_serializing_if = "Policy::is_default")]
    pub policy: Policy,
    pub description: Option<String>,
}

/// What a failure means that the stage's base has too, in the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The proof is red.
    #[default]
    Fail,
    /// It is shown.
    Warn,
}

impl Policy {
    fn is_default(&self) -> bool {
        *self == Policy::Fail
    }
}

impl Check {
    /// A command that must exit 0.
    pub fn command(command: impl Into<String>) -> Self {
        Check {
            command: command.into(),
            exit_code: 0,
            stdout_contains: Vec::new(),
            stdout_not_contains: Vec::new(),
            stderr_contains: Vec::new(),
            stderr_empty: false,
            timeout_secs: None,
            guard: false,
            from_top: false,
            parallel: false,
            retries: 0,
            policy: Policy::Fail,
            description: None,
        }
    }

    /// The command, and what it must do unless that is to exit 0.
    pub fn in_words(&self) -> String {
        let mut wants = Vec::new();
        if self.exit_code != 0 {
            wants.push(format!("exits {}", self.exit_code));
        }
        for (texts, how) in [
            (&self.stdout_contains, "prints"),
            (&self.stdout_not_contains, "does not print"),
            (&self.stderr_contains, "prints to standard error"),
        ] {
            wants.extend(texts.iter().map(|text| format!("{how} `{text}`")));
        }
        if self.stderr_empty {
            wants.push("prints nothing to standard error".to_owned());
        }
        let wants = if wants.is_empty() { String::new() } else { format!(" {}", wants.join(", ")) };
        let about = self.description.as_ref().map(|about| format!(" ({about})")).unwrap_or_default();
        format!("`{}`{wants}{about}", self.command)
    }
}

/// What proves a stage besides the commands of `acceptance`, `truths` and `truth_checks`.
/// Paths and globs are relative to the stage's `working_dir`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Criteria {
    /// Globs: each matches at least one file, and what it matches has real content.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub artifacts: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub wiring: Vec<Wiring>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub wiring_tests: Vec<WiringTest>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_code: Option<DeadCode>,
    /// What must hold on the stage's base, before its first attempt.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<Check>,
    /// What must hold on the merged tree, as part of the proof.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<Check>,
    /// Present exactly when the stage mends a bug.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regression_test: Option<RegressionTest>,
}

impl Criteria {
    pub fn is_empty(&self) -> bool {
        *self == Criteria::default()
    }
    /// Names of the results of what is looked at and not run: artifacts, wiring, the regression test.
    pub fn labels(&self) -> impl Iterator<Item = String> {
        let artifacts = self.artifacts.iter().map(|glob| format!("artifact `{glob}`"));
        let wiring = self.wiring.iter().map(|wiring| format!("wiring `{}` in `{}`", wiring.pattern, wiring.source));
        let test = self.regression_test.iter().map(|test| format!("regression test `{}`", test.file));
        artifacts.chain(wiring).chain(test)
    }
    /// The commands among them, in the order in which they run.
    pub fn commands(&self) -> impl Iterator<Item = &str> {
        let after = self.after.iter().map(|check| check.command.as_str());
        let wiring = self.wiring_tests.iter().map(|test| test.check.command.as_str());
        after.chain(wiring).chain(self.dead_code.iter().map(|dead| dead.command.as_str()))
    }
    /// The same, with what each must do.
    pub fn commands_in_words(&self) -> impl Iterator<Item = String> {
        let checks = self.after.iter().chain(self.wiring_tests.iter().map(|test| &test.check));
        let dead = self.dead_code.iter().map(|dead| {
            let patterns: Vec<String> = dead.fail_patterns.iter().map(|pattern| format!("`{pattern}`")).collect();
            format!("`{}` prints no line that matches {}", dead.command, patterns.join(" or "))
        });
        checks.map(Check::in_words).chain(dead)
    }
}

/// Commands that make a tree ready to be worked and checked in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    pub commands: Vec<String>,
    /// Where they start, from the top of the tree.
    pub working_dir: String,
}

/// A connection between parts: `pattern` is found in at least one file of `source`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wiring {
    /// A path or a glob.
    pub source: String,
    /// A regular expression that compiles; lines are matched one by one.
    pub pattern: String,
    pub description: Option<String>,
}

/// Proof at run time that a part is connected. The name is unique in its stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WiringTest {
    pub name: String,
    /// The command with its `success_criteria` and its description.
    pub check: Check,
}

/// A command whose output names code that nothing uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadCode {
    pub command: String,
    /// Regular expressions: a line of the output that matches one is a failure …
    pub fail_patterns: Vec<String>,
    /// … unless it matches one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignore_patterns: Vec<String>,
}

/// The test that a mended bug leaves behind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegressionTest {
    /// A path.
    pub file: String,
    /// Texts that the file contains; at least one.
    pub must_contain: Vec<String>,
}

/// Compares the failures of a whole suite, by identity, with those of the base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeImpact {
    /// Runs on the base.
    pub baseline_command: String,
    /// Runs on the merged tree; none: the baseline's.
    pub compare_command: Option<String>,
    /// Regular expressions: what a line of the output that matches one says is a failure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failure_patterns: Vec<String>,
    pub policy: ImpactPolicy,
}

/// What a failure means that the base does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImpactPolicy {
    /// The proof is red.
    #[default]
    Fail,
    /// It is shown.
    Warn,
    /// Nothing is compared.
    Skip,
}

impl ChangeImpact {
    /// The name of its result.
    pub fn label(&self) -> String {
        format!("change impact `{}`", self.now())
    }
    /// The command that runs on the merged tree.
    pub fn now(&self) -> &str {
        self.compare_command.as_deref().unwrap_or(&self.baseline_command)
    }
}
