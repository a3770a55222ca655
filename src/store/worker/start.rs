//! From a file to a running store thread: opens the database, salvaged if need be, and reads what the thread keeps
//! in memory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use rusqlite::{Connection, OptionalExtension};
use tokio::sync::{mpsc, oneshot, watch};

use super::files::Files;
use super::hold::Hold;
use super::outlast::Outage;
use super::report::Reporter;
use super::trail::Trail;
use super::{COMMANDS_MAX, Worker, room};
use crate::clock::{Clocks, OfMachine};
use crate::lifecycle::watchdog::Progress;
use crate::privacy::audit;
use crate::store::alive::Alive;
use crate::store::block::{self, Codec};
use crate::store::boot::{self, Boot};
use crate::store::measure::Measure;
use crate::store::open::{self, Opened};
use crate::store::provisional::Spans;
use crate::store::quarantine::{self, Gone};
use crate::store::queue::Queue;
use crate::store::refused::Refused;
use crate::store::{
    Command, Counters, DATABASE_FILE, Error, Lane, Pending, Settings, Store, budget, messages,
};

/// SQLite and zstd need little; the default of 2 MiB would count against the memory plan.
const STACK_BYTES: usize = 512 * 1024;

/// Opens the database, salvaged when it is damaged, and starts its thread. The second value resolves when
/// the thread has ended: with an error when the store failed, without one when every [`Store`] was dropped
/// and everything they had sent is committed.
///
/// # Errors
///
/// The database cannot be opened; nothing was lost by it. [`Error::is_transient`] tells whether it may be
/// later.
pub fn open(
    settings: Settings,
    progress: Arc<Progress>,
) -> Result<(Store, oneshot::Receiver<Result<(), Error>>), Error> {
    open_with(settings, progress, Arc::new(OfMachine))
}

/// [`open`] with clocks that the caller chose.
///
/// # Errors
///
/// As [`open`].
pub fn open_with(
    settings: Settings,
    progress: Arc<Progress>,
    clocks: Arc<dyn Clocks>,
) -> Result<(Store, oneshot::Receiver<Result<(), Error>>), Error> {
    open_watched(settings, progress, clocks, &Alive::silent())
}

/// [`open_with`] for who waits for it: `alive` hears of the progress of a check or a salvage.
///
/// # Errors
///
/// As [`open`].
pub fn open_watched(
    settings: Settings,
    progress: Arc<Progress>,
    clocks: Arc<dyn Clocks>,
    alive: &Alive,
) -> Result<(Store, oneshot::Receiver<Result<(), Error>>), Error> {
    let parts = (settings, progress, clocks);
    let (worker, recalled) = match assemble(parts.clone(), alive) {
        // After a stop in order only the queue is looked at before; everything else is read for the first
        // time here.
        Err(error) if error.is_damage() => {
            let state_dir = &parts.0.state_dir;
            quarantine::mark(state_dir, &Chain(&error).to_string()).map_err(|source| Error::Io {
                what: "cannot note the damage in",
                path: state_dir.clone(),
                source,
            })?;
            assemble(parts, alive)?
        }
        assembled => assembled?,
    };
    let (id, reports) = (worker.store_id.clone(), worker.reports.clone());
    let (counters, pending) = (worker.counters.clone(), worker.pending.subscribe());
    let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
    let end = spawn(worker, receiver)?;
    let Recalled { clock_offset, facts, messages } = recalled;
    Ok((Store { commands, pending, counters, id, clock_offset, recalled: facts, messages, reports }, end))
}

type Assembled = (Worker, Recalled);

/// What the database knew when it was opened.
struct Recalled {
    clock_offset: Option<f64>,
    facts: Arc<BTreeMap<String, String>>,
    messages: Arc<[u8]>,
}

/// Opens the database and reads what the thread keeps in memory, and what others will ask for.
fn assemble(
    (settings, progress, clocks): (Settings, Arc<Progress>, Arc<dyn Clocks>),
    alive: &Alive,
) -> Result<Assembled, Error> {
    let Opened { db, store_id, salvage } = open::database(&settings, alive)?;
    // One commit for what each of them notes of this start.
    let failed = |source| Error::Sqlite { what: "cannot note the start", source };
    db.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
    let next = next_sequences(&db)?;
    let queue = Queue::load(&db, next)?;
    let boot = Boot::enter(&db, &clocks.boot_id())?;
    let spans = Spans::enter(&db, boot.number, next)?;
    db.execute_batch("COMMIT").map_err(failed)?;
    let corrections = boot::corrections(&db)?;
    let clock_offset = corrections.get(&boot.number).map(|correction| correction.offset);
    let facts = Arc::new(read_facts(&db)?);
    let messages = messages::recall(&db)?.into();
    let trail = Trail::new(last_audit_hash(&db)?);
    let counters = Arc::new(Counters::default());
    counters.set_salvage(salvage);
    let allowance = budget::allowance(settings.size_bytes_max, &settings.budget, 0, None);
    let mut worker = Worker {
        page_bytes: room::page_bytes(&db)?,
        db,
        files: Files::of(&settings.state_dir.join(DATABASE_FILE)),
        codec: Codec::new()?,
        hold: Hold::default(),
        queue,
        boot,
        trail,
        changes: 0,
        lowest_pending: [(0, 0.0); Lane::ALL.len()],
        store_id: store_id.into(),
        settings,
        counters,
        pending: watch::Sender::new(Pending::default()),
        progress,
        outage: Outage::default(),
        clocks,
        refused: Refused::default(),
        reporter: Reporter::unknown(),
        reports: Arc::new(AtomicBool::new(false)),
        spans,
        corrections,
        clock: None,
        made: 0,
        used: 0,
        allowance,
        looked_around_at: None,
        measure: Measure::new(0.0),
        thins: false,
        shrinks: false,
        batches_before_logs: 0,
    };
    worker.counters.dead_letters.store(count_dead_letters(&worker.db)?, Relaxed);
    worker.publish()?;
    worker.begin_measuring()?;
    Ok((worker, Recalled { clock_offset, facts, messages }))
}

fn spawn(
    worker: Worker,
    commands: mpsc::Receiver<Command>,
) -> Result<oneshot::Receiver<Result<(), Error>>, Error> {
    let state_dir = worker.settings.state_dir.clone();
    let path = state_dir.join(DATABASE_FILE);
    let (ended, end) = oneshot::channel();
    thread::Builder::new()
        .name("store".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            let result = worker.run(commands);
            note_damage(&state_dir, &result);
            // Nobody listens any more only when the process is ending anyway.
            ended.send(result).ok();
        })
        .map_err(|source| Error::Io { what: "cannot start the thread for", path, source })?;
    Ok(end)
}

/// What was damaged where SQLite's check does not look is known to the next start all the same, which salvages.
fn note_damage(state_dir: &Path, result: &Result<(), Error>) {
    let Err(error) = result else { return };
    let noted = match error {
        Error::Gone { store_id, detail } => {
            let gone = Gone { store_id: store_id.clone(), reason: (*detail).to_owned() };
            quarantine::mark_gone(state_dir, &gone)
        }
        error if error.is_damage() => quarantine::mark(state_dir, &Chain(error).to_string()),
        _ => Ok(()),
    };
    if let Err(failure) = noted {
        tracing::error!(%failure, "the damage could not be noted for the next start");
    }
}

fn read_facts(db: &Connection) -> Result<BTreeMap<String, String>, Error> {
    db.prepare("SELECT key, value FROM meta")
        .and_then(|mut select| select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
        .map_err(|source| Error::Sqlite { what: "cannot read what was remembered", source })
}

pub(in crate::store) fn next_sequences(db: &Connection) -> Result<[u64; 7], Error> {
    let mut next = [1; 7];
    for lane in Lane::ALL {
        let remembered: Option<i64> = db
            .query_row("SELECT next_sequence FROM lane WHERE lane = ?1", [lane as i64], |row| row.get(0))
            .optional()
            .map_err(|source| Error::Sqlite { what: "cannot read sequence numbers", source })?;
        next[lane.index()] = block::end(db, lane)?.max(remembered.unwrap_or(1).unsigned_abs());
    }
    Ok(next)
}

pub fn count_dead_letters(db: &Connection) -> Result<u64, Error> {
    db.query_row("SELECT count(*) FROM dead_letter", [], |row| row.get::<_, i64>(0))
        .map(i64::unsigned_abs)
        .map_err(|source| Error::Sqlite { what: "cannot count what was set aside", source })
}

pub fn last_audit_hash(db: &Connection) -> Result<String, Error> {
    db.query_row("SELECT record_hash FROM privacy_audit ORDER BY id DESC LIMIT 1", [], |row| row.get(0))
        .optional()
        .map(|hash| hash.unwrap_or_else(|| audit::GENESIS.to_owned()))
        .map_err(|source| Error::Sqlite { what: "cannot read the audit chain", source })
}

/// An error with its causes, on one line.
pub struct Chain<'a>(pub &'a Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = std::error::Error::source(self.0);
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
