//! `loom completions`: a line for the shell that asks this very binary.

use crate::cli::args::Completions;
use crate::cli::failure::{Failure, exit};
use crate::cli::ui;

pub fn run(args: &Completions) -> Result<u8, Failure> {
    let completer = crate::base::process::installed_binary()?;
    let env = clap_complete::env::Shells::builtins();
    let Some(shell) = env.completer(&args.shell) else {
        return Err(Failure::user(format!("no completions for `{}`", args.shell)));
    };
    let mut script = Vec::new();
    shell.write_registration("COMPLETE", "loom", "loom", &completer.display().to_string(), &mut script)?;
    ui::data(&String::from_utf8_lossy(&script));
    Ok(exit::OK)
}
