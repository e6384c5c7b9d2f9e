//! The smallest programs there are, as floors: a static one that only ends (or
//! reads its input), and the same with the time of its start written to a file.

use std::path::PathBuf;

use loom::base::process::command;

use crate::lab::{Outcome, installed};

const SOURCE: &str = r#"
use std::io::Read;
fn main() {
    match std::env::args_os().nth(1) {
        Some(path) => {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            std::fs::write(path, now.as_nanos().to_string()).unwrap();
        }
        None => {
            let mut input = Vec::new();
            std::io::stdin().read_to_end(&mut input).unwrap();
        }
    }
}
"#;

pub(crate) struct Tools {
    /// `stamp FILE` writes the nanoseconds since the epoch; without a file it reads its input and ends.
    pub(crate) stamp: PathBuf,
}

impl Tools {
    pub(crate) fn build() -> Outcome<Tools> {
        let dir = tempfile::tempdir()?;
        let (source, stamp) = (dir.path().join("stamp.rs"), dir.path().join("stamp"));
        fs_err::write(&source, SOURCE)?;
        let mut rustc = command(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        rustc.args(["-O", "--edition", "2021", "-C", "target-feature=+crt-static", "-C", "panic=abort", "-o"]);
        let output = rustc.arg(&stamp).arg(&source).output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        Ok(Tools { stamp: installed(&stamp)? })
    }
}
