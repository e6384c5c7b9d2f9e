//! `loom config`: what is set, where it comes from, and what may be set.

use serde::Serialize;

use crate::cli::args::Config as Args;
use crate::cli::failure::{Failure, exit};
use crate::cli::place::Place;
use crate::cli::ui;
use crate::config::{Config, ConfigError, KEYS, Whose, user_file};
use crate::daemon::ReadOnly;
use crate::model::budget::{dollars, short};
use crate::model::plan::Plan;

/// Version of `loom config --json`; raised when a field changes its meaning or goes.
const VERSION: u32 = 1;

#[derive(Serialize)]
struct Shown {
    version: u32,
    files: Vec<File>,
    settings: Vec<Row>,
}

#[derive(Serialize)]
struct File {
    whose: &'static str,
    path: String,
    exists: bool,
}

#[derive(Serialize)]
struct Row {
    key: &'static str,
    /// As a person reads it; what could be a password is left out.
    value: String,
    /// `default`, `user`, `project`, `plan` or `environment`.
    from: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    about: &'static str,
}

pub fn run(place: &Place, args: &Args) -> Result<u8, Failure> {
    let config = Config::read(&place.layout.config()).map_err(failure)?;
    // Without a plan, or where it cannot be read, the settings are shown all the same.
    let plan = ReadOnly::open(&place.layout).ok().and_then(|read| read.world.run).map(|run| run.plan);
    let rows: Vec<Row> = KEYS.iter().map(|key| row(key, &config, plan.as_ref())).collect();
    let mut files: Vec<File> = user_file().into_iter().map(|path| file("user", &path)).collect();
    files.push(file("project", &place.layout.config()));
    if args.json {
        ui::json(&Shown { version: VERSION, files, settings: rows });
        return Ok(exit::OK);
    }
    let width = |of: fn(&Row) -> usize| rows.iter().map(of).max().unwrap_or(0);
    let (keys, values) = (width(|row| row.key.len()), width(|row| row.value.chars().count()).min(40));
    for row in &rows {
        let from = match (&row.file, row.line) {
            (Some(file), Some(line)) => format!("{file}:{line}"),
            _ if row.from == "environment" => "LOOM_TERMINAL".to_owned(),
            _ => row.from.to_owned(),
        };
        ui::line(format!("{:<keys$}  {:<values$}  {from}", row.key, row.value));
    }
    for file in &files {
        let there = if file.exists { "" } else { " (not there)" };
        ui::note(format!("{} settings: {}{there}", file.whose, file.path));
    }
    ui::note("They are read by `loom run`; a daemon that runs keeps those it started with.");
    Ok(exit::OK)
}

/// A file that cannot be used, with every line that is wrong.
pub fn failure(error: ConfigError) -> Failure {
    let mut failure = Failure::user(error.to_string());
    if let ConfigError::Wrong { problems, .. } = &error {
        for problem in problems {
            let hint = problem.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
            failure = failure.because(format!("line {}: {}{hint}", problem.line, problem.what));
        }
    }
    failure.hint("mend the file, then: loom config")
}

fn file(whose: &'static str, path: &std::path::Path) -> File {
    File { whose, path: path.display().to_string(), exists: path.exists() }
}

fn row(key: &'static crate::config::Key, config: &Config, plan: Option<&Plan>) -> Row {
    let row = |value: String, from| Row { key: key.name, value, from, file: None, line: None, about: key.about };
    if let Some(value) = plan.and_then(|plan| of_plan(key.name, plan)) {
        return row(value, "plan");
    }
    if let Some(value) = std::env::var("LOOM_TERMINAL").ok().filter(|value| key.name == "terminal" && !value.is_empty())
    {
        return row(value, "environment");
    }
    match config.get(key.name) {
        Some((value, place)) => {
            let from = if place.whose == Whose::User { "user" } else { "project" };
            let (file, line) = (Some(place.file.display().to_string()), Some(place.line));
            Row { file, line, ..row(value.to_string(), from) }
        }
        None => row(key.default.to_owned(), "default"),
    }
}

/// What the plan that is loaded says itself.
fn of_plan(key: &str, plan: &Plan) -> Option<String> {
    match key {
        "max_parallel" => plan.max_parallel.map(|count| count.to_string()),
        "on_limit" => plan.on_limit.map(|policy| policy.as_str().to_owned()),
        "budget.sessions" => plan.budget.sessions.map(|count| count.to_string()),
        "budget.tokens" => plan.budget.tokens.map(short),
        "budget.cost_usd" => plan.budget.cost_microusd.map(dollars),
        _ => None,
    }
}
