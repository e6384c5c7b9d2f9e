//! `cargo bench`: the figures of Loom, as one table.
//!
//! Every figure stands beside a floor that was measured in the same run on the
//! same machine. `cargo bench -- status hook` measures only the rows whose name
//! has one of these words. The exit code is 1 when a target is not met.

mod checks;
mod dispatch;
mod floor;
mod idle;
mod lab;
mod latency;
mod overhead;
mod recovery;
mod session;
mod stamp;
mod syncs;
mod table;

use std::process::ExitCode;

use lab::Outcome;
use table::{Row, Table};

/// A group of rows that are measured together.
struct Group {
    words: &'static str,
    measure: fn(&stamp::Tools) -> Outcome<Vec<Row>>,
}

const GROUPS: [Group; 16] = [
    Group { words: "chain overhead", measure: overhead::chain },
    Group { words: "independent fan overhead proof", measure: overhead::independent },
    Group { words: "processes git", measure: overhead::processes },
    Group { words: "checks proof", measure: checks::one_hundred },
    Group { words: "dispatch", measure: dispatch::after_a_landing },
    Group { words: "start spread slots", measure: dispatch::spread },
    Group { words: "status", measure: latency::status },
    Group { words: "hook init", measure: latency::hook_and_init },
    Group { words: "plan verify", measure: latency::verify },
    Group { words: "idle rss host memory wake", measure: idle::daemon_and_hosts },
    Group { words: "recovery keeper restart kill", measure: recovery::after_a_kill },
    Group { words: "recovery replay journal", measure: recovery::replay },
    Group { words: "sync durable", measure: syncs::per_batch },
    Group { words: "session hook guard", measure: session::hooks },
    Group { words: "session attach paint", measure: session::attach },
    Group { words: "session flood output memory", measure: session::flood },
];

fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let tools = match stamp::Tools::build() {
        Ok(tools) => tools,
        Err(error) => {
            table::note(&format!("the static programs of the floors cannot be built: {error}"));
            return ExitCode::from(2);
        }
    };
    let mut table = Table::default();
    for group in &GROUPS {
        if !wanted.is_empty() && !wanted.iter().any(|word| group.words.contains(word.as_str())) {
            continue;
        }
        table::note(&format!("measuring: {}", group.words));
        match (group.measure)(&tools) {
            Ok(rows) => rows.into_iter().for_each(|row| table.add(row)),
            Err(error) => table.add(Row::broken(group.words, &error.to_string())),
        }
    }
    lab::remove_all();
    table.print();
    if table.is_met() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
