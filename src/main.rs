//! The `loom` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<std::ffi::OsString> = std::env::args_os().skip(1).collect();
    loom::host::main(&arguments).map_or(ExitCode::SUCCESS, ExitCode::from)
}
