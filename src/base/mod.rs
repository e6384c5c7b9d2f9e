//! Layer 2, the bottom shelf: files, locks, processes, the clock, text. Every
//! other adapter may use it; it knows nothing of plans.

pub mod clock;
pub mod dice;
pub mod fail;
pub mod fs;
pub mod glob;
pub mod layout;
pub mod process;
pub mod text;
pub mod wait;
pub mod watch;
