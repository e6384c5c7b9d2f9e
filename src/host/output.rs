//! The kept output of a child: the newest bytes, in two segments. Appended to,
//! never truncated; a full segment becomes the old one by a rename.

use std::io::{self, Write};
use std::path::PathBuf;

/// One stream of output on disk.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    old: PathBuf,
    file: fs_err::File,
    written: u64,
    segment_bytes_max: u64,
}

impl Output {
    /// Opens the stream whose newest segment is `path`, and keeps about `bytes_max` of it.
    pub fn open(path: PathBuf, old: PathBuf, bytes_max: u64) -> io::Result<Output> {
        let file = append(&path)?;
        let written = file.metadata()?.len();
        Ok(Output { path, old, file, written, segment_bytes_max: (bytes_max / 2).max(1) })
    }
    /// Keeps `bytes`, which stay together in one segment.
    pub fn keep(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.written > 0 && self.written + bytes.len() as u64 > self.segment_bytes_max {
            fs_err::rename(&self.path, &self.old)?;
            self.file = append(&self.path)?;
            self.written = 0;
        }
        self.file.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

fn append(path: &PathBuf) -> io::Result<fs_err::File> {
    use fs_err::os::unix::fs::OpenOptionsExt;
    fs_err::OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_segments_hold_the_newest_bytes_and_a_restart_appends() {
        let dir = tempfile::tempdir().unwrap();
        let (new, old) = (dir.path().join("output.log"), dir.path().join("output.1.log"));
        let open = || Output::open(new.clone(), old.clone(), 20).unwrap();
        let mut output = open();
        for bytes in [b"aaaa", b"bbbb", b"cccc", b"dddd"] {
            output.keep(bytes).unwrap();
        }
        assert_eq!(fs_err::read(&old).unwrap(), b"aaaabbbb");
        assert_eq!(fs_err::read(&new).unwrap(), b"ccccdddd");
        open().keep(b"ee").unwrap();
        assert_eq!(fs_err::read(&new).unwrap(), b"ccccddddee");
        open().keep(b"f").unwrap();
        assert_eq!(fs_err::read(&old).unwrap(), b"ccccddddee");
        assert_eq!(fs_err::read(&new).unwrap(), b"f");
    }
}
