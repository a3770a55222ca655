//! The black box: the last that happened to the agent, in a file of fixed size beside the store. It
//! tells why the agent is not what it was when the journal is gone with the power.
//!
//! Records are written in place, so a full disk does not matter; one that cannot be written is left out
//! and the agent runs on. Only those that must survive a power cut are synced, as each sync wears.

mod oom;
mod previous;
mod record;

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::panic::PanicHookInfo;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use crate::clock;

pub use previous::{End, Previous};
use record::{ALIVE_SLOTS, RECORD_BYTES, RECORDS};
pub use record::{BootId, OomKills, Record, What};

/// The file inside the state directory.
pub const FILE_NAME: &str = "blackbox";

/// Writes the black box. Before [`Self::open`], and when there is no file to be had, records go nowhere.
#[derive(Clone, Debug, Default)]
pub struct Blackbox(Arc<Mutex<Option<Writer>>>);

/// A lock holds it, because the store's thread and a panic anywhere write too; held for one small write.
#[derive(Debug)]
struct Writer {
    file: File,
    path: PathBuf,
    boot_id: BootId,
    next_sequence: u64,
    /// Where the next record goes, and the next sign of life.
    next_slot: usize,
    next_alive: usize,
    /// The last write failed; told once.
    failing: bool,
}

impl Blackbox {
    /// Opens the file in `state_dir`, whose lock the caller holds, making it when it is missing or has
    /// another size. Returns how the run before ended, when there was one.
    ///
    /// # Errors
    ///
    /// The file cannot be had; nothing is recorded, and the caller says so.
    pub fn open(&self, state_dir: &Path) -> io::Result<Option<Previous>> {
        let (writer, previous) = Writer::open(state_dir.join(FILE_NAME))?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(writer);
        Ok(previous)
    }

    /// Records that this happened now. Never waits but for the disk, and for that only where `what` has
    /// to survive a power cut. `detail` holds nothing that is private: no payload, no sensor's name.
    pub fn record(&self, what: What, detail: &str) {
        if let Some(writer) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            writer.record(what, detail);
        }
    }

    /// Has every panic recorded from here on, and handled as before.
    pub fn record_panics(&self) {
        let (blackbox, next) = (self.clone(), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |panic| {
            blackbox.panicked(panic);
            next(panic);
        }));
    }

    fn panicked(&self, panic: &PanicHookInfo<'_>) {
        // The thread may have panicked with the lock in its hand.
        let mut writer = match self.0.try_lock() {
            Ok(writer) => writer,
            Err(TryLockError::Poisoned(writer)) => writer.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        let Some(writer) = &mut *writer else { return };
        let place = panic.location().map_or_else(|| "somewhere".to_owned(), ToString::to_string);
        // A message that was put together at run time may quote a payload; the log has it.
        let message = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("see the log");
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        writer.record(What::Panicked, &format!("thread {thread} at {place}: {message}"));
    }
}

impl Writer {
    fn open(path: PathBuf) -> io::Result<(Self, Option<Previous>)> {
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o640).open(&path)?;
        let mut bytes = Vec::with_capacity(FILE_BYTES);
        (&file).take(FILE_BYTES as u64).read_to_end(&mut bytes)?;
        let records = record::read_all(&bytes);
        if file.metadata()?.len() != FILE_BYTES as u64 {
            // All of its blocks now, so that later writes need no room.
            bytes.resize(FILE_BYTES, 0);
            file.set_len(FILE_BYTES as u64)?;
            file.write_all_at(&bytes, 0)?;
            file.sync_all()?;
        }
        let boot_id = BootId::parse(&clock::boot_id());
        let previous = previous::judge(records.iter().map(|(_, record)| record), boot_id, oom_kills());
        let newest = |is_alive: bool| {
            let of_kind = |(slot, _): &&(usize, Record)| (*slot < ALIVE_SLOTS) == is_alive;
            records.iter().rev().find(of_kind).map(|(slot, _)| slot + 1)
        };
        let writer = Self {
            file,
            path,
            boot_id,
            next_sequence: records.last().map_or(1, |(_, record)| record.sequence.saturating_add(1)),
            next_slot: newest(false).filter(|slot| *slot < RECORDS).unwrap_or(ALIVE_SLOTS),
            next_alive: newest(true).unwrap_or(0) % ALIVE_SLOTS,
            failing: false,
        };
        Ok((writer, previous))
    }

    fn record(&mut self, what: What, detail: &str) {
        let record = Record {
            sequence: self.next_sequence,
            what,
            boot_id: self.boot_id,
            since_boot_ms: u64::try_from(clock::since_boot().as_millis()).unwrap_or(u64::MAX),
            unix_ms: (clock::unix_seconds() * 1000.0) as i64,
            synchronised: clock::is_synchronised(),
            oom_kills: oom_kills(),
            detail: detail.to_owned(),
        };
        let slot = if what == What::Alive { self.next_alive } else { self.next_slot };
        match what {
            What::Alive => self.next_alive = (slot + 1) % ALIVE_SLOTS,
            _ => self.next_slot = if slot + 1 < RECORDS { slot + 1 } else { ALIVE_SLOTS },
        }
        self.next_sequence = self.next_sequence.saturating_add(1);
        let written = self
            .file
            .write_all_at(&record.encode(), (slot * RECORD_BYTES) as u64)
            .and_then(|()| if what.is_synced() { self.file.sync_data() } else { Ok(()) });
        let was_failing = std::mem::replace(&mut self.failing, written.is_err());
        if let (Err(error), false) = (written, was_failing) {
            tracing::warn!(path = %self.path.display(), %error,
                "the black box cannot be written; the agent runs on without its records");
        }
    }
}

/// Notes what a service manager knows of an end of the agent in `state_dir` that came without a word: its `result`,
/// and by what `signal` or with what code it ended. To be called in the control group of the agent, before a start.
/// False when there was nothing to note: the agent said itself how it ended.
///
/// # Errors
///
/// There is no black box, or it cannot be written.
pub fn note_killed(state_dir: &Path, result: &str, status: &str) -> io::Result<bool> {
    let path = state_dir.join(FILE_NAME);
    let records = read(&path)?;
    let Some(last) = records.last().filter(|record| !record.what.is_end()) else { return Ok(false) };
    let now = oom_kills();
    let same_boot = last.boot_id == BootId::parse(&clock::boot_id());
    let by = match result {
        "oom-kill" => "killed by the OOM killer",
        _ if same_boot && previous::struck(last.oom_kills, now) => "killed by the OOM killer",
        "watchdog" => "killed by the service manager, as its watchdog was not fed",
        "timeout" => "killed by the service manager, as it was late",
        _ => "killed",
    };
    let (mut writer, _) = Writer::open(path)?;
    writer.record(What::Killed, &format!("{by} (service result {result}, {status})"));
    if writer.failing { Err(io::Error::other("the record cannot be written")) } else { Ok(true) }
}

/// The records of the black box at `path`, the oldest first. Damaged ones are left out. The agent may
/// be writing it meanwhile.
///
/// # Errors
///
/// The file cannot be read.
pub fn read(path: &Path) -> io::Result<Vec<Record>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(record::read_all(&bytes).into_iter().map(|(_, record)| record).collect())
}

/// How the run ended that left the black box at `path`, when it has ended; one that goes on looks as if it was
/// killed. `None` when no run is recorded.
///
/// # Errors
///
/// The file cannot be read.
pub fn last_run(path: &Path) -> io::Result<Option<Previous>> {
    let records = read(path)?;
    Ok(previous::judge(records.iter(), BootId::parse(&clock::boot_id()), oom_kills()))
}

fn oom_kills() -> OomKills {
    oom::kills(Path::new("/"))
}

const FILE_BYTES: usize = RECORDS * RECORD_BYTES;

#[cfg(test)]
mod tests;
