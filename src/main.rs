//! The `loom` binary. Hosts, checks and hooks are dispatched before anything is set up:
//! they run for every session and on every tool call.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<std::ffi::OsString> = std::env::args_os().skip(1).collect();
    let code = loom::host::main(&arguments)
        .or_else(|| loom::checks::main(&arguments))
        .unwrap_or_else(|| loom::cli::main(&arguments));
    ExitCode::from(code)
}
