//! The host: one tiny process per session and per check. It starts the child,
//! outlives the daemon, holds a lock for its whole life and leaves an exit
//! record, so that liveness and exit status are facts and not guesses.

pub mod spec;
