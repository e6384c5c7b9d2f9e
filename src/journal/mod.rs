//! The journal: one checksummed, hash-chained JSON line per commit, synced
//! before anybody is told. It is the only truth besides git.
//!
//! A line is `{"v":1,"seq":7,"at":"…","cause":"…","prev":"<hash>","facts":[…],"hash":"<hash>"}`.
//! `hash` is the SHA-256 of the line up to and without `,"hash"`; `prev` is the
//! `hash` of the line before, or 64 zeros. These six names keep their meaning in
//! every version; what is in `facts` may be newer than its reader.

mod read;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use read::{Line, Scan, Tail, bytes, problems, read, scan, scan_after, verify};

use crate::base::fail::{self, Point};
use crate::base::text::sha256;
use crate::model::anchor::Anchor;
use crate::model::fact::{FACT_VERSION, Fact};

/// Why a journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("the journal {path} is damaged at line {line}: {why}")]
    Damaged { path: PathBuf, line: usize, why: String },
    /// What is in it was written by a newer Loom; what this one knows of it can be read.
    #[error("the journal {path} was written by a newer loom: line {line} holds {what}")]
    Newer { path: PathBuf, line: usize, what: String },
    /// Every line is good, and it is not the history that git knows.
    #[error("the journal {path} is not the one that refs/loom/journal names: {lost}")]
    Lost { path: PathBuf, lost: Lost },
    #[error("the journal cannot be {verb}")]
    Io { verb: &'static str, source: io::Error },
    #[error("the journal could not be synced before; what is on disk is unknown: start again")]
    Poisoned,
}

/// How a journal differs from what git says about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    #[error("there is none, and it had {anchored} records")]
    Gone { anchored: u64 },
    #[error(
        "it ends with record {last} and had {anchored}: its newest records are lost, or an older copy was put back"
    )]
    Behind { last: u64, anchored: u64 },
    #[error("its record {seq} is not the one that was anchored: it was changed, or belongs to another history")]
    Changed { seq: u64 },
    #[error("refs/loom/journal does not hold what Loom writes there")]
    Unreadable,
}

/// One commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub v: u32,
    pub seq: u64,
    pub at: Timestamp,
    /// The event or request that caused it, and who asked.
    pub cause: String,
    pub prev: String,
    pub facts: Vec<Fact>,
}

impl Record {
    /// Appends its canonical line, with the newline; says its hash.
    fn encode(&self, lines: &mut Vec<u8>) -> String {
        let begin = lines.len();
        serde_json::to_writer(&mut *lines, self).expect("facts have string keys only");
        lines.pop();
        let hash = sha256(&lines[begin..]);
        for part in [HASH_FIELD, &hash, "\"}\n"] {
            lines.extend_from_slice(part.as_bytes());
        }
        hash
    }
}

/// Before the first record.
pub const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";

const HASH_FIELD: &str = ",\"hash\":\"";

/// The file as the journal needs it; the one place where tests inject I/O errors.
pub trait Store {
    /// Appends at the end.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes everything appended durable.
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file to `bytes`.
    fn cut(&mut self, bytes: u64) -> io::Result<()>;
}

/// A file on disk.
#[derive(Debug)]
pub struct Disk {
    file: std::fs::File,
    /// Where the file is, until its name is durable, too: whoever made it may have been killed before
    /// that.
    folder: Option<PathBuf>,
}

impl Store for Disk {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        fail::point(Point::BeforeJournalAppend)?;
        // Cut in two only where somebody wants a torn line.
        let (torn, rest) = bytes.split_at(if fail::is_armed() { bytes.len() / 2 } else { 0 });
        self.file.write_all(torn)?;
        fail::point(Point::JournalTorn)?;
        self.file.write_all(rest)?;
        fail::point(Point::AfterJournalAppend)
    }
    fn sync(&mut self) -> io::Result<()> {
        fail::point(Point::BeforeJournalSync)?;
        self.file.sync_data()?;
        self.sync_name()?;
        fail::point(Point::AfterJournalSync)
    }
    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        fail::point(Point::BeforeJournalCut)?;
        self.file.set_len(bytes)?;
        self.file.sync_all()?;
        self.sync_name()?;
        fail::point(Point::AfterJournalCut)
    }
}

impl Disk {
    fn sync_name(&mut self) -> io::Result<()> {
        self.folder.take().map_or(Ok(()), |folder| crate::base::fs::sync_dir(&folder))
    }

    /// Opens `path` for appending. The first sync makes its name durable, too.
    pub fn open(path: &Path) -> Result<Disk, JournalError> {
        let open = || -> io::Result<Disk> {
            fail::point(Point::BeforeJournalOpen)?;
            let file = fs_err::OpenOptions::new().create(true).append(true).open(path)?.into_parts().0;
            Ok(Disk { file, folder: path.parent().map(Path::to_path_buf) })
        };
        open().map_err(|source| JournalError::Io { verb: "opened", source })
    }
}

/// The writing end. There is one at a time, under the writer lock.
#[derive(Debug)]
pub struct Journal<S = Disk> {
    store: S,
    seq: u64,
    head: String,
    /// Bytes that are durable; a failed append is cut back to here.
    durable_bytes: u64,
    pending: Vec<u8>,
    is_poisoned: bool,
}

impl<S: Store> Journal<S> {
    /// Continues after `tail`, cutting off a torn last line. What was read is durable from now
    /// on: a writer that was killed may have appended it and not synced it.
    pub fn resume(mut store: S, tail: &Tail) -> Result<Journal<S>, JournalError> {
        if tail.torn_bytes > 0 {
            store.cut(tail.valid_bytes).map_err(|source| JournalError::Io { verb: "repaired", source })?;
        } else if tail.valid_bytes > 0 {
            store.sync().map_err(|source| JournalError::Io { verb: "synced", source })?;
        }
        Ok(Journal {
            store,
            seq: tail.next_seq,
            head: tail.head.clone(),
            durable_bytes: tail.valid_bytes,
            pending: Vec::new(),
            is_poisoned: false,
        })
    }

    /// Adds a record to the batch and gives its facts back. Nothing is durable before
    /// [`Journal::commit`].
    pub fn push(&mut self, at: Timestamp, cause: &str, facts: Vec<Fact>) -> Vec<Fact> {
        let record = Record {
            v: FACT_VERSION,
            seq: self.seq,
            at,
            cause: cause.to_owned(),
            prev: std::mem::take(&mut self.head),
            facts,
        };
        self.head = record.encode(&mut self.pending);
        self.seq += 1;
        record.facts
    }

    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Writes and syncs the batch with one append and one sync.
    ///
    /// # Errors
    /// After an error the journal takes nothing more: the process starts again and reads
    /// what is on disk. What was not made durable is cut off where that still works: a full
    /// disk leaves no half line behind, and what a failed sync has given up to write is not
    /// read again from a cache that will never be written.
    pub fn commit(&mut self) -> Result<(), JournalError> {
        if self.is_poisoned {
            return Err(JournalError::Poisoned);
        }
        if self.pending.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.pending);
        if let Err(source) = self.store.append(&bytes) {
            self.is_poisoned = true;
            let _ = self.store.cut(self.durable_bytes);
            return Err(JournalError::Io { verb: "written", source });
        }
        if let Err(source) = self.store.sync() {
            self.is_poisoned = true;
            let _ = self.store.cut(self.durable_bytes);
            return Err(JournalError::Io { verb: "synced", source });
        }
        self.durable_bytes += bytes.len() as u64;
        Ok(())
    }

    /// The newest durable record; none before the first. Only after a commit.
    pub fn head(&self) -> Option<Anchor> {
        (self.seq > 1 && self.pending.is_empty()).then(|| Anchor { seq: self.seq - 1, hash: self.head.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::event::Caller;

    fn write(path: &Path, n: usize) {
        let tail = read(path, |_| {}).unwrap();
        let mut journal = Journal::resume(Disk::open(path).unwrap(), &tail).unwrap();
        for i in 0..n {
            journal.push(Timestamp::UNIX_EPOCH, &format!("test {i}"), vec![Fact::Stopped { by: Caller::Operator }]);
        }
        journal.commit().unwrap();
    }

    fn count(path: &Path) -> Result<usize, JournalError> {
        let mut n = 0;
        read(path, |_| n += 1).map(|_| n)
    }

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        assert_eq!(count(&path).unwrap(), 0);
        write(&path, 3);
        write(&path, 2);
        assert_eq!(count(&path).unwrap(), 5);
    }

    #[test]
    fn every_cut_is_a_torn_tail_or_a_shorter_journal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        write(&path, 3);
        let whole = fs_err::read(&path).unwrap();
        for len in 0..whole.len() {
            fs_err::write(&path, &whole[..len]).unwrap();
            let lines = whole[..len].iter().filter(|byte| **byte == b'\n').count();
            let tail = read(&path, |_| {}).unwrap();
            assert_eq!(tail.next_seq as usize, lines + 1);
            write(&path, 1);
            assert_eq!(count(&path).unwrap(), lines + 1, "cut at {len}");
        }
    }

    #[test]
    fn every_flipped_byte_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal.jsonl");
        write(&path, 2);
        let whole = fs_err::read(&path).unwrap();
        for at in 0..whole.len() {
            for bit in [0, 5, 7] {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                fs_err::write(&path, &bytes).unwrap();
                assert!(count(&path).is_err(), "byte {at} bit {bit} was not noticed");
            }
        }
    }

    /// Fails the nth operation.
    struct Faulty {
        bytes: Vec<u8>,
        left: usize,
        keeps: usize,
    }

    impl Faulty {
        fn fails(&mut self) -> io::Result<()> {
            self.left = self.left.checked_sub(1).ok_or_else(|| io::Error::from(io::ErrorKind::StorageFull))?;
            Ok(())
        }
    }

    impl Store for Faulty {
        fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
            if let Err(error) = self.fails() {
                let keeps = self.keeps.min(bytes.len());
                self.bytes.extend_from_slice(&bytes[..keeps]);
                return Err(error);
            }
            self.bytes.extend_from_slice(bytes);
            Ok(())
        }
        fn sync(&mut self) -> io::Result<()> {
            self.fails()
        }
        fn cut(&mut self, bytes: u64) -> io::Result<()> {
            self.fails()?;
            self.bytes.truncate(bytes as usize);
            Ok(())
        }
    }

    /// A disk whose cache forgets, once a sync has failed, what it had not written.
    #[derive(Default)]
    struct Cached {
        bytes: Vec<u8>,
        synced: usize,
        fails: bool,
    }

    impl Store for &mut Cached {
        fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.bytes.extend_from_slice(bytes);
            Ok(())
        }
        fn sync(&mut self) -> io::Result<()> {
            if self.fails {
                return Err(io::Error::other("EIO"));
            }
            self.synced = self.bytes.len();
            Ok(())
        }
        fn cut(&mut self, bytes: u64) -> io::Result<()> {
            self.bytes.truncate(bytes as usize);
            self.synced = self.bytes.len();
            Ok(())
        }
    }

    fn tail_of(bytes: &[u8]) -> Tail {
        verify(bytes, Path::new("journal"), |_| {}).unwrap()
    }

    #[test]
    fn what_a_failed_sync_has_not_written_is_not_read_again() {
        let mut disk = Cached::default();
        let mut journal = Journal::resume(&mut disk, &tail_of(&[])).unwrap();
        journal.push(Timestamp::UNIX_EPOCH, "test", vec![Fact::PlanCompleted]);
        journal.commit().unwrap();
        journal.store.fails = true;
        journal.push(Timestamp::UNIX_EPOCH, "test", vec![Fact::PlanCleaned]);
        assert!(matches!(journal.commit(), Err(JournalError::Io { verb: "synced", .. })));
        assert_eq!(tail_of(&disk.bytes).next_seq, 2);
    }

    #[test]
    fn what_is_read_is_durable_before_anything_follows_from_it() {
        let mut disk = Cached::default();
        let mut journal = Journal::resume(&mut disk, &tail_of(&[])).unwrap();
        journal.push(Timestamp::UNIX_EPOCH, "test", vec![Fact::PlanCompleted]);
        journal.commit().unwrap();
        // As after a kill between append and sync.
        disk.synced = 0;
        let tail = tail_of(&disk.bytes);
        drop(Journal::resume(&mut disk, &tail).unwrap());
        assert_eq!(disk.synced, disk.bytes.len());
    }

    #[test]
    fn a_failed_write_loses_nothing_acknowledged_and_poisons_the_writer() {
        for left in 0..6 {
            let tail = Tail { next_seq: 1, head: NO_HASH.to_owned(), ..Tail::default() };
            let mut journal = Journal::resume(Faulty { bytes: Vec::new(), left, keeps: 10 }, &tail).unwrap();
            let mut acknowledged = 0;
            for _ in 0..3 {
                journal.push(Timestamp::UNIX_EPOCH, "test", vec![Fact::Stopped { by: Caller::Operator }]);
                match journal.commit() {
                    Ok(()) => acknowledged += 1,
                    Err(_) => break,
                }
            }
            if acknowledged < 3 {
                journal.push(Timestamp::UNIX_EPOCH, "test", Vec::new());
                assert!(matches!(journal.commit(), Err(JournalError::Poisoned)));
            }
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("journal.jsonl");
            fs_err::write(&path, &journal.store.bytes).unwrap();
            assert!(count(&path).unwrap() >= acknowledged, "after {left} operations");
        }
    }
}
