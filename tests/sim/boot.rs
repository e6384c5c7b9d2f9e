//! How a process of Loom starts in the simulated world: it reads its journal, looks who has
//! ended meanwhile, and goes on.

use std::path::Path;
use std::rc::Rc;

use loom::daemon::ReadOnly;
use loom::daemon::turn::{Mode, Turn};
use loom::journal::{Journal, Tail};
use loom::kernel::{self, Observed, World};
use loom::model::event::{Event, RunOptions};
use loom::model::session::{Exit, SessionState};

use super::check;
use super::effects::{at_the_end, kill_survivors};
use super::outside::{File, Hands, Sabotage, tell};
use super::run::{Process, Sim};

/// Of so many readings one goes through the whole journal again.
const WHOLE_EVERY: u32 = 8;

/// Reads the journal at every start: of one that begins as the last one did only what was added,
/// and now and then all of it, which must come to the same.
#[derive(Default)]
pub struct Reader {
    /// What was read and found good.
    bytes: Vec<u8>,
    world: World,
    tail: Tail,
    readings: u32,
}

impl Reader {
    /// What the journal tells, or which invariant it breaks.
    fn read(&mut self, bytes: &[u8]) -> Result<ReadOnly, (&'static str, String)> {
        let path = Path::new("journal.jsonl");
        let refused = |error| ("I1", format!("the journal is refused: {error}"));
        self.readings += 1;
        if !bytes.starts_with(&self.bytes) {
            *self = Reader { readings: self.readings, ..Reader::default() };
        }
        let known = ReadOnly { world: std::mem::take(&mut self.world), tail: self.tail.clone(), trouble: None };
        let read = known.fold_more(&bytes[self.bytes.len()..], path, None).map_err(refused)?;
        if self.readings.is_multiple_of(WHOLE_EVERY) {
            let whole = ReadOnly::fold(bytes, path).map_err(refused)?;
            if (&whole.world, &whole.tail) != (&read.world, &read.tail) {
                return Err(("I10", "read in pieces the journal tells another world than as a whole".to_owned()));
            }
        }
        if let Some(trouble) = read.trouble {
            return Err(refused(trouble));
        }
        self.bytes.extend_from_slice(&bytes[self.bytes.len()..read.tail.valid_bytes as usize]);
        (self.world, self.tail) = (read.world.clone(), read.tail.clone());
        Ok(read)
    }
}

impl Sim {
    /// Boot, as `daemon::boot` does it: read, repair, look who has ended, go on.
    pub fn boot(&mut self, mode: Mode) {
        self.forget_last();
        let read = match self.reader.read(&self.outside.borrow().disk.bytes) {
            Ok(read) => read,
            Err((invariant, why)) => return self.outside.borrow_mut().memory.violate(invariant, &why),
        };
        {
            let o = &mut *self.outside.borrow_mut();
            let same = self.known.as_ref().map(|known| (&read.world, known));
            check::check_recovery(o, read.tail.valid_bytes as usize, same);
            self.done.recoveries += u64::from(std::mem::take(&mut self.has_crashed));
            let is_ours = |lock: &String| lock.starts_with("refs/heads/loom/") || lock.starts_with("refs/loom/");
            o.git.locks.retain(|lock| !is_ours(lock));
        }
        self.outside.borrow_mut().is_booting = true;
        let journal = Journal::resume(File(Rc::clone(&self.outside)), &read.tail);
        self.outside.borrow_mut().is_booting = false;
        let Ok(journal) = journal else { return self.crashed() };
        tell!(self.outside.borrow(), "a process starts: {mode:?}");
        self.world = read.world.clone();
        let mut events = self.recovered(&read.world);
        let mut turn = Turn::new(Hands(Rc::clone(&self.outside)), read.world, journal, mode);
        if mode == Mode::Daemon {
            if turn.world().run.is_none() {
                return;
            }
            events.push(Event::DaemonStarted {
                options: RunOptions { backoff_ms: Some(1_000), ..RunOptions::default() },
            });
        }
        turn.boot(&events);
        self.process = Some(Process { turn, mode, is_recorded: false });
        if mode == Mode::Daemon {
            self.finish_turn();
        }
    }

    /// The mistake of that name.
    fn forget_last(&self) {
        let o = &mut *self.outside.borrow_mut();
        if o.sabotage == Sabotage::ForgetLast {
            let ends = o.disk.bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
            if let Some((at, _)) = ends.rev().nth(1) {
                o.disk.bytes.truncate(at + 1);
                o.disk.synced = o.disk.synced.min(at + 1);
            }
        }
    }

    fn recovered(&self, world: &World) -> Vec<Event> {
        let o = &mut *self.outside.borrow_mut();
        let Some(run) = &world.run else { return Vec::new() };
        let on_record = run
            .live_sessions()
            .filter(|session| matches!(session.state, SessionState::Live { .. } | SessionState::Ending { .. }));
        let mut dead = Vec::new();
        for session in on_record {
            match o.hosts.get(&session.id) {
                Some(host) if host.is_alive => {}
                Some(host) => dead.push((session.id.clone(), host.exit)),
                None => dead.push((session.id.clone(), Exit::Lost)),
            }
        }
        for (session, exit) in &dead {
            if *exit == Exit::Lost {
                kill_survivors(o, session);
            }
        }
        let observed = Observed { boot_id: o.boot_id.to_string(), ended: dead };
        let heard = |event| match event {
            Event::SessionEnded { session, exit } => at_the_end(o, session, exit),
            other => vec![other],
        };
        kernel::recover(world, &observed).into_iter().flat_map(heard).collect()
    }
}
