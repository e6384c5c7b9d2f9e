//! The real binary, from outside.

mod host;
