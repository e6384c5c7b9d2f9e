//! The kept output of a child, printed so that it cannot drive the terminal it
//! is shown in; on demand until the host is gone.
//!
//! Output of a terminal is a stream of escape sequences; it is replayed on an
//! emulated screen, and its rows are printed as they scroll away, the last
//! screen at the end.

use std::io::{self, Read, Write};
use std::num::NonZeroU16;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use super::exec::read_spec;
use super::spec::{HostFolder, TerminalSize};
use crate::base::fs;
use crate::base::text::printable;
use crate::base::wait::{Interest, wait};
use crate::base::watch;

/// Prints the output kept in `dir` as plain text; with `follow`, goes on until the host is gone.
pub fn follow(dir: &Path, follow: bool, out: &mut dyn Write) -> io::Result<()> {
    let folder = HostFolder::new(dir);
    let terminal = read_spec(&folder)?.terminal;
    let mut tails = tails(&folder);
    let mut sinks: Vec<Box<dyn Sink>> = match terminal {
        Some(size) => vec![Box::new(Replay::new(size)), Box::new(Lines::default())],
        None => vec![Box::new(Lines::default()), Box::new(Lines::default())],
    };
    each_change(&folder, follow, &mut || {
        for (tail, sink) in tails.iter_mut().zip(&mut sinks) {
            tail.pump(&mut |bytes| sink.take(bytes, out))?;
        }
        out.flush()
    })?;
    for sink in &mut sinks {
        sink.finish(out)?;
    }
    out.flush()
}

/// The last few lines that a person would have seen, in one: of the screen, or of standard error.
pub fn last_words(dir: &Path) -> io::Result<String> {
    const LINES: usize = 3;
    let folder = HostFolder::new(dir);
    let text = match read_spec(&folder)?.terminal {
        Some(size) => {
            let cells = |n| NonZeroU16::new(n).unwrap_or(NonZeroU16::MIN);
            let mut screen = vt100::Parser::new(cells(size.rows), cells(size.cols), 0);
            screen.process(&end_of(&folder.log())?);
            screen.screen().contents()
        }
        None => String::from_utf8_lossy(&end_of(&folder.error_log())?).into_owned(),
    };
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Ok(printable(&lines[lines.len().saturating_sub(LINES)..].join(" ")).into_owned())
}

/// The last bytes of a file, enough for a screen.
fn end_of(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Seek;
    const BYTES: u64 = 64 << 10;
    let mut file = fs_err::File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(io::SeekFrom::Start(length.saturating_sub(BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// As [`follow`], byte for byte. Only for files and pipes: a terminal would obey it.
pub fn follow_raw(dir: &Path, follow: bool, out: &mut dyn Write) -> io::Result<()> {
    let folder = HostFolder::new(dir);
    let mut tails = tails(&folder);
    each_change(&folder, follow, &mut || {
        for tail in &mut tails {
            tail.pump(&mut |bytes| out.write_all(bytes))?;
        }
        out.flush()
    })
}

fn tails(folder: &HostFolder) -> [Tail; 2] {
    [Tail::new(folder.log(), folder.old_log()), Tail::new(folder.error_log(), folder.old_error_log())]
}

/// Calls `print` now, and with `follow` after every change until the host is gone.
fn each_change(folder: &HostFolder, follow: bool, print: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
    if !follow {
        return print();
    }
    // Before the first look, so that nothing falls in between.
    let Ok(changes) = watch::growth(&folder.dir) else {
        // No watch to be had: late, but complete.
        fs::wait_unlocked(&folder.lock())?;
        return print();
    };
    loop {
        print()?;
        if !fs::is_locked(&folder.lock())? {
            return print();
        }
        wait(&[Interest::read(&changes)], None)?;
        // The last things a host does: it writes its exit record, and its death closes the lock file.
        // The kernel reports that close a moment before it gives the lock back.
        let (exit, lock) = (folder.exit(), folder.lock());
        let last = [exit.file_name(), lock.file_name()];
        if watch::names(&changes).iter().any(|name| last.contains(&Some(name.as_os_str()))) {
            fs::wait_unlocked(&lock)?;
        }
    }
}

/// Reads one stream to its present end, over rotations.
struct Tail {
    path: PathBuf,
    old: PathBuf,
    file: Option<std::fs::File>,
}

impl Tail {
    fn new(path: PathBuf, old: PathBuf) -> Tail {
        Tail { path, old, file: None }
    }
    fn pump(&mut self, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        loop {
            self.copy(sink)?;
            let Some(newest) = open(&self.path)? else { return Ok(()) };
            if is_same(self.file.as_ref(), &newest)? {
                return Ok(());
            }
            // Rotated: what came before the rename, then a whole segment in between, then the newest.
            self.copy(sink)?;
            let between = open(&self.old)?;
            let next = match between {
                Some(old) if !is_same(self.file.as_ref(), &old)? => {
                    let is_newest = is_same(Some(&newest), &old)?;
                    self.file = Some(old);
                    self.copy(sink)?;
                    (!is_newest).then_some(newest)
                }
                _ => Some(newest),
            };
            if next.is_some() {
                self.file = next;
            }
        }
    }
    fn copy(&mut self, sink: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut buffer = [0; 16 << 10];
        loop {
            match file.read(&mut buffer)? {
                0 => return Ok(()),
                n => sink(&buffer[..n])?,
            }
        }
    }
}

fn open(path: &Path) -> io::Result<Option<std::fs::File>> {
    match fs_err::File::open(path) {
        Ok(file) => Ok(Some(file.into_parts().0)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_same(a: Option<&std::fs::File>, b: &std::fs::File) -> io::Result<bool> {
    let Some(a) = a else { return Ok(false) };
    let (a, b) = (a.metadata()?, b.metadata()?);
    Ok(a.ino() == b.ino() && a.dev() == b.dev())
}

/// Turns output into lines that are safe to print.
trait Sink {
    fn take(&mut self, bytes: &[u8], out: &mut dyn Write) -> io::Result<()>;
    fn finish(&mut self, out: &mut dyn Write) -> io::Result<()>;
}

/// Plain output, a line at a time.
#[derive(Default)]
struct Lines {
    partial: Vec<u8>,
}

/// A longer line is printed in parts.
const LINE_BYTES_MAX: usize = 64 << 10;

impl Sink for Lines {
    fn take(&mut self, bytes: &[u8], out: &mut dyn Write) -> io::Result<()> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.partial.extend_from_slice(part);
            if part.ends_with(b"\n") || self.partial.len() > LINE_BYTES_MAX {
                self.print(out)?;
            }
        }
        Ok(())
    }
    fn finish(&mut self, out: &mut dyn Write) -> io::Result<()> {
        if !self.partial.is_empty() {
            self.partial.push(b'\n');
        }
        self.print(out)
    }
}

impl Lines {
    fn print(&mut self, out: &mut dyn Write) -> io::Result<()> {
        out.write_all(printable(&String::from_utf8_lossy(&self.partial)).as_bytes())?;
        self.partial.clear();
        Ok(())
    }
}

/// Output of a terminal, replayed.
struct Replay {
    size: TerminalSize,
    parser: vt100::Parser<Scrolled>,
}

/// Rows that left the top of the screen.
#[derive(Default)]
struct Scrolled {
    text: String,
    state: vt100::capture::BasicFormattedCaptureState,
}

impl vt100::Callbacks for Scrolled {
    fn on_scroll(&mut self, row: vt100::capture::RowContents<'_>, alternate_screen: bool) {
        // What scrolls on the alternate screen is redrawn all the time and was never history.
        if !alternate_screen {
            // Writing to a string cannot fail.
            let _ = row.write_formatted_basic(&mut self.text, &mut self.state);
        }
    }
}

impl Replay {
    fn new(size: TerminalSize) -> Replay {
        let cells = |n: u16| NonZeroU16::new(n).unwrap_or(NonZeroU16::MIN);
        let (rows, cols) = (cells(size.rows), cells(size.cols));
        Replay { size, parser: vt100::Parser::new_with_callbacks(rows, cols, 0, Scrolled::default()) }
    }
    fn print(&mut self, text: &str, out: &mut dyn Write) -> io::Result<()> {
        let plain: String = vt100::capture::basic_formatted_to_plain(text).collect();
        for line in printable(&plain).lines() {
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

impl Sink for Replay {
    fn take(&mut self, bytes: &[u8], out: &mut dyn Write) -> io::Result<()> {
        // A defect of the emulator costs a screen, not the rest of the log.
        if catch_unwind(AssertUnwindSafe(|| self.parser.process(bytes))).is_err() {
            *self = Replay::new(self.size);
        }
        // The last row may go on in the next one: only whole lines are printed.
        let scrolled = &mut self.parser.callbacks_mut().text;
        let Some(end) = scrolled.rfind('\n') else { return Ok(()) };
        let text: String = scrolled.drain(..=end).collect();
        self.print(&text, out)
    }
    fn finish(&mut self, out: &mut dyn Write) -> io::Result<()> {
        let text = std::mem::take(&mut self.parser.callbacks_mut().text);
        self.print(&text, out)?;
        let screen = self.parser.screen().contents();
        for line in printable(screen.trim_end()).lines() {
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::output::Output;
    use super::*;

    #[test]
    fn a_tail_survives_rotations_and_misses_only_what_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = HostFolder::new(dir.path());
        let mut output = Output::open(folder.log(), folder.old_log(), 8).unwrap();
        let mut tail = Tail::new(folder.log(), folder.old_log());
        let mut check = |writes: &[&str], expected: &str| {
            for bytes in writes {
                output.keep(bytes.as_bytes()).unwrap();
            }
            let mut read = Vec::new();
            tail.pump(&mut |bytes| {
                read.extend_from_slice(bytes);
                Ok(())
            })
            .unwrap();
            assert_eq!(String::from_utf8(read).unwrap(), expected);
        };
        check(&["aaaa", "bb"], "aaaabb");
        check(&[], "");
        check(&["b1"], "b1");
        check(&["cccc"], "cccc");
        check(&["dd"], "dd");
        check(&["ee", "ffff"], "eeffff");
        check(&["gggg", "hhhh"], "gggghhhh");
        check(&["iiii", "jjjj", "kkkk"], "jjjjkkkk");
    }

    fn check(chunks: &[&str], expected: &str) {
        let mut replay = Replay::new(TerminalSize { rows: 2, cols: 5 });
        let mut out = Vec::new();
        for chunk in chunks {
            replay.take(chunk.as_bytes(), &mut out).unwrap();
        }
        replay.finish(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[test]
    fn a_terminal_log_becomes_rows() {
        check(&["one\r\ntwo\r\nthr", "ee\r\nfour"], "one\ntwo\nthree\nfour\n");
        check(&["\x1b[31mred\x1b[m\r\nb\r\n\x1b]0;title\x07c"], "red\nb\nc\n");
        check(&["\x1b[?1049halt\r\n\r\n\r\n\x1b[?1049lback"], "back\n");
        check(&["wrapped\r\nb\r\nc"], "wrapped\nb\nc\n");
    }
}
