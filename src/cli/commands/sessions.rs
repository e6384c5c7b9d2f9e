//! `loom sessions`: list and end.

use crate::cli::args::Sessions;
use crate::cli::failure::{Failure, exit};
use crate::cli::place::Place;
use crate::cli::ui;
use crate::client;
use crate::model::event::Request;

pub fn run(place: &Place, verb: Sessions) -> Result<u8, Failure> {
    match verb {
        Sessions::List(args) => {
            let status = client::status(&place.layout)?;
            if args.json {
                ui::json(&status.sessions);
            } else if status.sessions.is_empty() {
                ui::note("no session lives");
            } else {
                for session in &status.sessions {
                    let pid = session.pid.map_or(String::new(), |pid| format!("  host {pid}"));
                    ui::line(format!(
                        "{:<24} {:<8} {:<9} since {}{pid}",
                        session.id, session.backend, session.state, session.started_at
                    ));
                }
            }
            Ok(exit::OK)
        }
        Sessions::Kill(args) => place.ask(Request::KillSession { session: args.session }),
    }
}
