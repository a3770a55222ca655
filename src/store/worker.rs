//! The store thread: works off commands in groups, one commit for each group.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot, watch};

use crate::clock::mark::Correction;
use crate::clock::{Clocks, OfMachine};
use crate::lifecycle::hang;
use crate::lifecycle::watchdog::Progress;
use crate::privacy::audit;

use super::alive::Alive;
use super::block::{self, Codec};
use super::boot::{self, Boot};
use super::budget::{self, Allowance};
use super::gap::{self, Reason};
use super::measure::Measure;
use super::messages;
use super::open::{self, Opened};
use super::provisional::Spans;
use super::quarantine::Gone;
use super::queue::Queue;
use super::refused::Refused;
use super::{
    AuditEntry, BatchKey, ClockNews, Command, Counters, DATABASE_FILE, Digest, Error, FrozenBatch, Lane,
    Outcome, Pending, Settings, Staged, Store, Want, imported, quarantine, schema,
};

mod apply;
mod files;
mod hold;
mod outlast;
mod report;
mod restamp;
mod room;
mod thin;
mod trail;
mod trim;

use files::Files;
pub use hold::Hold;
use outlast::{Carried, Outage};
pub use report::GAP_RULE;
use report::Reporter;
use trail::Trail;

/// Commands that wait for the thread; more make the callers wait.
const COMMANDS_MAX: usize = 64;
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

struct Worker {
    db: Connection,
    files: Files,
    codec: Codec,
    hold: Hold,
    queue: Queue,
    boot: Boot,
    trail: Trail,
    /// Rows changed up to the last commit: one that changed nothing writes nothing.
    changes: u64,
    /// The lowest undelivered sequence number of each lane, and the time of its block.
    lowest_pending: [(u64, f64); Lane::ALL.len()],
    store_id: Arc<str>,
    settings: Settings,
    counters: Arc<Counters>,
    pending: watch::Sender<Pending>,
    progress: Arc<Progress>,
    outage: Outage,
    clocks: Arc<dyn Clocks>,
    /// Refused input that is not in the ledger yet.
    refused: Refused,
    reporter: Reporter,
    /// Whether gaps are reported.
    reports: Arc<AtomicBool>,
    spans: Spans,
    /// By the number of the boot.
    corrections: BTreeMap<i64, Correction>,
    /// The latest; `None` before the first.
    clock: Option<ClockNews>,
    /// Items of the agent's own making that are not committed yet.
    made: u64,
    /// The size of a page; a database keeps it for life.
    page_bytes: u64,
    /// Bytes of pages in use, as of the last commit.
    used: u64,
    allowance: Allowance,
    /// Boot clock.
    looked_around_at: Option<Duration>,
    measure: Measure,
    /// Telemetry is being thinned, and that was said.
    thins: bool,
    /// The file is being made smaller.
    shrinks: bool,
    /// Batches of other lanes since logs wait.
    batches_before_logs: u32,
}

/// What shares one commit.
#[derive(Default)]
struct Group {
    staged: Staged,
    settled: Vec<(BatchKey, Outcome)>,
    audits: Vec<AuditEntry>,
    facts: Vec<(&'static str, String)>,
    wanted: Option<(Box<Want>, oneshot::Sender<Option<FrozenBatch>>)>,
    pings: Vec<oneshot::Sender<()>>,
    asked: Vec<(Vec<Digest>, oneshot::Sender<Vec<bool>>)>,
    attempted: Option<Attempted>,
    hold: Option<Hold>,
    sheds: bool,
}

/// The commit of a group that was tried.
struct Attempted {
    /// What it leads to, which differs from what was before.
    mark: Mark,
    /// It takes along what was refused.
    notes_refused: bool,
}

/// How far the database is: equal after a failed commit when that is in it all the same.
#[derive(Debug, PartialEq)]
struct Mark {
    next_sequences: [u64; Lane::ALL.len()],
    audit_hash: String,
}

impl Group {
    fn add(&mut self, command: Command) {
        match command {
            Command::Append(staged) => self.staged.absorb(*staged),
            Command::Settle(key, outcome) => self.settled.push((key, outcome)),
            Command::Audit(entry) => self.audits.push(entry),
            Command::Remember(key, value) => self.facts.push((key, value)),
            Command::NextBatch(want, reply) => self.wanted = Some((want, reply)),
            Command::Ping(reply) => self.pings.push(reply),
            Command::Imported(digests, reply) => self.asked.push((digests, reply)),
            Command::Hold(hold) => self.hold = Some(hold),
            Command::Shed => self.sheds = true,
        }
    }

    /// A second request for a batch must see the first one's, and no block may grow without bound.
    fn is_full(&self, hold: Hold) -> bool {
        self.wanted.is_some() || self.staged.size_bytes() >= hold.group_bytes_max
    }

    /// Whether it must be durable before anybody is answered. Outcomes and facts alone may wait for the next
    /// commit: losing an outcome repeats a request under its old id.
    fn needs_commit(&self) -> bool {
        self.staged.items() > 0
            || !self.staged.imported.is_empty()
            || !self.audits.is_empty()
            || self.wanted.is_some()
    }

    /// Leaves of it what has to be answered.
    fn forget_stored(&mut self) {
        self.staged.forget_items();
        self.settled.clear();
        self.audits.clear();
        self.facts.clear();
    }

    /// What may wait for the next commit.
    fn uncommitted(&mut self) -> impl Iterator<Item = Carried> {
        let settled = self.settled.drain(..).map(|(key, outcome)| Carried::Outcome(key, outcome));
        settled.chain(self.facts.drain(..).map(|(key, value)| Carried::Fact(key, value)))
    }
}

impl Worker {
    fn run(mut self, mut commands: mpsc::Receiver<Command>) -> Result<(), Error> {
        // What a killed agent left may be cached and not on the disk, see `schema::reopen`. A reader in the
        // log is no reason to wait: that danger needs a sync that failed, an end and a power cut after it.
        if self.outlast(&commands, |worker| open::empty_log(&worker.db))?.is_none() {
            report_lost(0, commands);
            return Ok(());
        }
        while let Some(command) = self.next_command(&mut commands)? {
            self.progress.moved(self.clocks.since_boot());
            hang::block("store");
            let mut group = Group::default();
            group.add(command);
            for _ in 1..COMMANDS_MAX {
                if group.is_full(self.hold) {
                    break;
                }
                let Ok(command) = commands.try_recv() else { break };
                group.add(command);
            }
            let (hold, sheds) = (group.hold.take(), group.sheds);
            let lost = match self.work_off(group, &commands)? {
                None if self.outlast(&commands, |worker| worker.adapt(hold, sheds))?.is_none() => Some(0),
                None if self.outlast(&commands, Self::look_after)?.is_none() => Some(0),
                lost => lost,
            };
            if let Some(lost) = lost {
                report_lost(lost, commands);
                return Ok(());
            }
            self.progress.idle();
        }
        let closed = self.outlast(&commands, |worker| {
            worker.report(true)?;
            worker.begin()?;
            worker.note_filtered(true)?;
            worker.boot.note_last(&worker.db, worker.clocks.since_boot())?;
            open::end_use(&worker.db)?;
            worker.commit()?;
            schema::close_tidily(&worker.db)
        })?;
        if closed.is_none() {
            report_lost(0, commands);
        }
        self.db.close().map_err(|(_, source)| Error::Sqlite { what: "cannot close the database", source })
    }

    fn adapt(&mut self, hold: Option<Hold>, sheds: bool) -> Result<(), Error> {
        if let Some(hold) = hold {
            self.set_hold(hold)?;
        }
        if sheds { self.shed() } else { Ok(()) }
    }

    /// What is done between two groups: reports of gaps, an audit trail that is too long, and a file that is
    /// larger than it has to be.
    fn look_after(&mut self) -> Result<(), Error> {
        self.report(false)?;
        self.look_after_trail()?;
        self.shrink()
    }

    /// The next command; while there is none, times that can be are put right.
    fn next_command(&mut self, commands: &mut mpsc::Receiver<Command>) -> Result<Option<Command>, Error> {
        while self.has_corrections_due() {
            match commands.try_recv() {
                Ok(command) => return Ok(Some(command)),
                Err(TryRecvError::Disconnected) => return Ok(None),
                Err(TryRecvError::Empty) => {}
            }
            if self.outlast(commands, Self::correct_some)?.is_none() {
                return Ok(None);
            }
        }
        Ok(commands.blocking_recv())
    }

    /// Applies and commits `group`, outlasting what the disk does, then answers. Returns how many items are
    /// not stored when the agent stops before they could be.
    fn work_off(
        &mut self,
        mut group: Group,
        commands: &mpsc::Receiver<Command>,
    ) -> Result<Option<u64>, Error> {
        let items = u64::from(group.staged.items());
        let text_bytes = group.staged.size_bytes();
        // Once, whatever comes of the attempts: it stays until a record of it is committed.
        self.take_filtered(group.staged.filtered());
        let attempt = |worker: &mut Self| {
            worker.make_room(text_bytes)?;
            let batch = worker.apply(&mut group)?;
            worker.look_for_file()?;
            Ok(batch)
        };
        let Some(batch) = self.outlast(commands, attempt)? else {
            return Ok(Some(items));
        };
        self.take_refused(group.staged.take_refused());
        self.counters.items_stored.fetch_add(items, Relaxed);
        // What is shown comes before the answers. When it fails they are true all the same.
        let mut shown = Some(self.publish());
        group.staged.confirm();
        if let Some((_, reply)) = group.wanted {
            // An uploader that stopped waiting finds the batch frozen next time.
            reply.send(batch).ok();
        }
        for ping in group.pings {
            // A watchdog that gave up waiting has drawn its own conclusion.
            ping.send(()).ok();
        }
        let kept = self.outlast(commands, |worker| shown.take().unwrap_or_else(|| worker.publish()))?;
        for (digests, reply) in group.asked {
            let known = self.outlast(commands, |worker| imported::known(&worker.db, &digests))?;
            // Who stopped waiting imports nothing, and who gets no answer neither.
            known.map(|known| reply.send(known).ok());
        }
        Ok(if kept.is_some() { None } else { Some(0) })
    }

    fn apply(&mut self, group: &mut Group) -> Result<Option<FrozenBatch>, Error> {
        if let Some(attempted) = group.attempted.take_if(|attempted| attempted.mark == self.mark()) {
            // The commit that failed is in the database that was opened again, and is durable there.
            group.forget_stored();
            if attempted.notes_refused {
                self.refused_are_noted();
            }
        }
        group.staged.place_messages();
        let at = self.clocks.since_boot();
        for lane in Lane::ALL {
            self.append(lane, group, at)?;
        }
        self.note_imported(group)?;
        if let Some(news) = group.staged.news {
            self.note_clock(news)?;
        }
        for (key, outcome) in &group.settled {
            self.settle(*key, outcome)?;
        }
        for entry in &group.audits {
            self.audit(entry)?;
        }
        for (key, value) in &group.facts {
            self.remember(key, value)?;
        }
        let batch = match &group.wanted {
            Some((want, _)) => self.next_batch(want)?,
            None => None,
        };
        if !group.needs_commit() {
            self.outage.carry(group.uncommitted());
            return Ok(batch);
        }
        let noted = self.note_refused(false)?;
        self.note_filtered(false)?;
        if group.staged.items() > 0 || !group.audits.is_empty() {
            group.attempted = Some(Attempted { mark: self.mark(), notes_refused: noted });
        }
        self.commit()?;
        if noted {
            self.refused_are_noted();
        }
        Ok(batch)
    }

    fn mark(&self) -> Mark {
        Mark { next_sequences: self.queue.next_sequences(), audit_hash: self.trail.hash.clone() }
    }

    fn begin(&mut self) -> Result<(), Error> {
        if self.db.is_autocommit() {
            self.db
                .execute_batch("BEGIN IMMEDIATE")
                .map_err(|source| Error::Sqlite { what: "cannot begin a transaction", source })?;
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Error> {
        if self.db.is_autocommit() {
            return Ok(());
        }
        self.db.execute_batch("COMMIT").map_err(|source| Error::Sqlite { what: "cannot commit", source })?;
        self.outage.committed();
        self.trail.committed();
        self.counters.items_made.fetch_add(std::mem::take(&mut self.made), Relaxed);
        let changes = self.db.total_changes();
        if std::mem::replace(&mut self.changes, changes) != changes {
            self.counters.commits.fetch_add(1, Relaxed);
            self.counters.last_commit_at.set(Some(self.clocks.unix_seconds()));
        }
        Ok(())
    }

    /// When the oldest undelivered item was taken, as far as its block tells.
    fn oldest_pending(&mut self) -> Result<Option<f64>, Error> {
        let mut oldest: Option<f64> = None;
        for lane in Lane::DELIVERED {
            let Some(lowest) = self.queue.lowest(lane) else { continue };
            let known = &mut self.lowest_pending[lane.index()];
            if known.0 != lowest {
                *known = (lowest, block::time_of(&self.db, lane, lowest)?);
            }
            oldest = Some(oldest.map_or(known.1, |time| time.min(known.1)));
        }
        Ok(oldest)
    }

    /// Shows the state after a commit to the uploader and the health page.
    fn publish(&mut self) -> Result<(), Error> {
        let pending = self.queue.pending();
        for (counter, items) in self.counters.pending.iter().zip(pending.items) {
            counter.store(items, Relaxed);
        }
        self.pending.send_if_modified(|known| std::mem::replace(known, pending) != pending);
        self.counters.provisional.store(self.spans.items(self.queue.next_sequences()), Relaxed);
        self.publish_size()?;
        if self.reporter.ledger_changed {
            self.reporter.ledger_changed = false;
            for (name, count) in gap::totals(&self.db)? {
                // A reason of a newer agent is in the ledger, and has no counter here.
                if let Some(index) = Reason::ALL.iter().position(|reason| reason.name() == name) {
                    self.counters.gaps[index].store(count, Relaxed);
                }
            }
        }
        let oldest = self.oldest_pending()?;
        self.counters.oldest_pending_at.set(oldest);
        Ok(())
    }
}

pub(super) fn next_sequences(db: &Connection) -> Result<[u64; 7], Error> {
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

fn read_facts(db: &Connection) -> Result<BTreeMap<String, String>, Error> {
    db.prepare("SELECT key, value FROM meta")
        .and_then(|mut select| select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect())
        .map_err(|source| Error::Sqlite { what: "cannot read what was remembered", source })
}

fn count_dead_letters(db: &Connection) -> Result<u64, Error> {
    db.query_row("SELECT count(*) FROM dead_letter", [], |row| row.get::<_, i64>(0))
        .map(i64::unsigned_abs)
        .map_err(|source| Error::Sqlite { what: "cannot count what was set aside", source })
}

fn last_audit_hash(db: &Connection) -> Result<String, Error> {
    db.query_row("SELECT record_hash FROM privacy_audit ORDER BY id DESC LIMIT 1", [], |row| row.get(0))
        .optional()
        .map(|hash| hash.unwrap_or_else(|| audit::GENESIS.to_owned()))
        .map_err(|source| Error::Sqlite { what: "cannot read the audit chain", source })
}

/// Says what the end of the agent leaves behind: the group that could not be stored, and what waited.
fn report_lost(mut items: u64, mut commands: mpsc::Receiver<Command>) {
    while let Ok(command) = commands.try_recv() {
        if let Command::Append(staged) = command {
            items += u64::from(staged.items());
        }
    }
    if items == 0 {
        tracing::warn!("stopped while the disk took nothing: what was taken in is stored");
        return;
    }
    tracing::error!(
        items,
        "stopped while the disk took nothing: these were not acknowledged, and are lost unless their source sends them again"
    );
}

/// An error with its causes, on one line.
struct Chain<'a>(&'a Error);

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
