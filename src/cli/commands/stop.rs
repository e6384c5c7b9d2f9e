//! `loom stop`: the daemon ends; the work stays.

use crate::cli::args::Stop;
use crate::cli::failure::{Failure, exit};
use crate::cli::place::Place;
use crate::cli::ui;
use crate::client::{self, Client, ClientError};
use crate::model::effect::Answer;
use crate::model::event::Request;

pub fn run(place: &Place, args: &Stop) -> Result<u8, Failure> {
    client::require_operator("stop the daemon")?;
    match Client::connect(&place.layout) {
        Ok(mut client) => {
            match client.request(Request::Stop { kill: args.kill })? {
                Answer::Done { text } => ui::note(text),
                Answer::Refused { refusal } => return Err(refusal.into()),
                _ => {}
            }
            // The lock is free when everything is on disk.
            crate::base::fs::wait_unlocked(&place.layout.writer_lock())?;
            Ok(exit::OK)
        }
        Err(ClientError::NoDaemon) if args.kill => {
            let answer = client::request(&place.layout, Request::Stop { kill: true })?;
            if let Answer::Done { text } = answer {
                ui::note(text);
            }
            Ok(exit::OK)
        }
        Err(ClientError::NoDaemon) => {
            ui::note("no daemon is running in this project");
            Ok(exit::OK)
        }
        Err(error) => Err(error.into()),
    }
}
