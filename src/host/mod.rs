//! The host: one tiny process per session and per check. It starts the child,
//! outlives the daemon, holds a lock for its whole life and leaves an exit
//! record, so that liveness and exit status are facts and not guesses.

pub mod attach;
mod cgroup;
pub mod control;
mod exec;
mod keys;
mod life;
pub mod logs;
mod output;
mod running;
mod screen;
mod seats;
pub mod spec;
mod spool;
pub mod tree;
pub mod viewer;

pub use exec::enter_signal_scope;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;

/// Runs `loom host <dir>` or `loom host --exec <dir>`; `None`: `arguments` (without the program)
/// are something else. Comes before everything else in `main`: a host has to stay small.
pub fn main(arguments: &[OsString]) -> Option<u8> {
    match arguments {
        [verb, flag, dir] if verb == "host" && flag == "--exec" => Some(exec::exec(Path::new(dir))),
        [verb, dir] if verb == "host" && !dir.as_encoded_bytes().starts_with(b"-") => Some(life::run(Path::new(dir))),
        [verb, flag, socket] if verb == "host" && flag == "--view" => Some(view(Path::new(socket))),
        [verb, ..] if verb == "host" => {
            let _ = writeln!(io::stderr(), "usage: loom host <folder> (started by Loom, not by hand)");
            Some(2)
        }
        _ => None,
    }
}

/// Attaches to a socket and says how that ended; what `loom attach` does, without a project around it.
fn view(socket: &Path) -> u8 {
    let (text, code) = match viewer::attach(socket, viewer::Hands::On) {
        Ok(viewer::Left::Detached) => ("detached".to_owned(), 0),
        Ok(viewer::Left::Ended(exit)) => (format!("ended with {exit}"), 0),
        Err(error) => (error.to_string(), 1),
    };
    let _ = writeln!(io::stderr(), "{text}");
    code
}

/// Starts a thread with a stack that suits a host.
fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    const STACK_BYTES: usize = 128 << 10;
    std::thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(work).map(drop)
}
