//! The store thread: works off commands in groups, one commit for each group.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, params};
use tokio::sync::{mpsc, oneshot, watch};

use crate::clock;
use crate::lifecycle::watchdog::Progress;
use crate::privacy::audit;

use super::block::{self, Codec, number};
use super::queue::Queue;
use super::retention::{self, Oldest};
use super::{
    AuditEntry, BatchKey, Command, Counters, DATABASE_FILE, Error, FrozenBatch, Lane, Outcome, Pending,
    Settings, Staged, Store, Want, schema,
};

/// Commands that wait for the thread; more make the callers wait.
const COMMANDS_MAX: usize = 64;
/// A group takes no further commands once it holds this much JSON, in bytes.
const GROUP_BYTES_MAX: usize = 1024 * 1024;
/// Between two attempts to commit while the disk is full.
const DISK_FULL_WAIT: Duration = Duration::from_secs(1);
/// A disk that has been full for so long is not freed by others: delivery cannot go on either, as its
/// records need room too, so the oldest undelivered items make some.
const DISK_FULL_PATIENCE: Duration = Duration::from_secs(300);
/// Retention frees down to this share of the size limit, so that it does not run at every commit.
const RETENTION_PERCENT: u64 = 95;
/// Most blocks that one pass of retention deletes, which bounds the time and size of its commit.
const RETENTION_BLOCKS_MAX: usize = 256;
/// Items set aside; beyond it the oldest go, or an endpoint that refuses one sensor for years would leave
/// no room for anything else.
const DEAD_LETTERS_MAX: u64 = 10_000;
/// SQLite and zstd need little; the default of 2 MiB would count against the memory plan.
const STACK_BYTES: usize = 512 * 1024;

/// Opens the database and starts its thread. The second value resolves when the thread has ended:
/// with an error when the store failed, without one when every [`Store`] was dropped and everything
/// they had sent is committed.
///
/// # Errors
///
/// The database cannot be opened; nothing was changed.
pub fn open(
    settings: Settings,
    progress: Arc<Progress>,
) -> Result<(Store, oneshot::Receiver<Result<(), Error>>), Error> {
    let path = settings.state_dir.join(DATABASE_FILE);
    let (db, store_id) = schema::open(&path)?;
    let next = next_sequences(&db)?;
    let queue = Queue::load(&db, next)?;
    let audit_hash = last_audit_hash(&db)?;
    let counters = Arc::new(Counters::default());
    let (pending_sender, pending) = watch::channel(Pending::default());
    let store_id: Arc<str> = store_id.into();
    let mut worker = Worker {
        db,
        codec: Codec::new()?,
        queue,
        audit_hash,
        changes: 0,
        lowest_pending: [(0, 0.0); 4],
        store_id: store_id.clone(),
        settings,
        counters: counters.clone(),
        pending: pending_sender,
        progress,
        disk_full_since: None,
    };
    worker.counters.dead_letters.store(count_dead_letters(&worker.db)?, Relaxed);
    worker.publish()?;
    let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
    let (ended, end) = oneshot::channel();
    thread::Builder::new()
        .name("store".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            let result = worker.run(receiver);
            // Nobody listens any more only when the process is ending anyway.
            ended.send(result).ok();
        })
        .map_err(|source| Error::Io { what: "cannot start the thread for", path, source })?;
    Ok((Store { commands, pending, counters, id: store_id }, end))
}

struct Worker {
    db: Connection,
    codec: Codec,
    queue: Queue,
    /// `record_hash` of the newest audit record.
    audit_hash: String,
    /// Rows changed up to the last commit: one that changed nothing writes nothing.
    changes: u64,
    /// The lowest undelivered sequence number of each lane, and the time of its block.
    lowest_pending: [(u64, f64); 4],
    store_id: Arc<str>,
    settings: Settings,
    counters: Arc<Counters>,
    pending: watch::Sender<Pending>,
    progress: Arc<Progress>,
    /// Boot clock; while commits wait for room.
    disk_full_since: Option<Duration>,
}

/// What retention may delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GiveUp {
    /// What is delivered, or was never to be delivered.
    HistoryOnly,
    /// Undelivered items too, once there is no history left.
    Anything,
}

/// What shares one commit.
#[derive(Default)]
struct Group {
    staged: Staged,
    settled: Vec<(BatchKey, Outcome)>,
    audits: Vec<AuditEntry>,
    wanted: Option<(Want, oneshot::Sender<Option<FrozenBatch>>)>,
    pings: Vec<oneshot::Sender<()>>,
}

impl Group {
    fn add(&mut self, command: Command) {
        match command {
            Command::Append(staged) => self.staged.absorb(*staged),
            Command::Settle(key, outcome) => self.settled.push((key, outcome)),
            Command::Audit(entry) => self.audits.push(entry),
            Command::NextBatch(want, reply) => self.wanted = Some((want, reply)),
            Command::Ping(reply) => self.pings.push(reply),
        }
    }

    /// A second request for a batch must see the first one's, and no block may grow without bound.
    fn is_full(&self) -> bool {
        self.wanted.is_some() || self.staged.size_bytes() >= GROUP_BYTES_MAX
    }

    /// Whether it must be durable before anybody is answered. Outcomes alone may wait for the next
    /// commit: losing them repeats a request under its old id.
    fn needs_commit(&self) -> bool {
        self.staged.items() > 0 || !self.audits.is_empty() || self.wanted.is_some()
    }
}

impl Worker {
    fn run(mut self, mut commands: mpsc::Receiver<Command>) -> Result<(), Error> {
        while let Some(command) = commands.blocking_recv() {
            self.progress.moved(clock::since_boot());
            let mut group = Group::default();
            group.add(command);
            for _ in 1..COMMANDS_MAX {
                if group.is_full() {
                    break;
                }
                let Ok(command) = commands.try_recv() else { break };
                group.add(command);
            }
            self.work_off(group)?;
            self.progress.idle();
        }
        self.commit()?;
        self.db.close().map_err(|(_, source)| Error::Sqlite { what: "cannot close the database", source })
    }

    /// Applies and commits `group`, waiting for room while the disk is full, then answers.
    fn work_off(&mut self, group: Group) -> Result<(), Error> {
        let batch = loop {
            match self.apply(&group) {
                Ok(batch) => break batch,
                Err(error) if is_disk_full(&error) => self.wait_for_room(&error)?,
                Err(error) => return Err(error),
            }
        };
        self.disk_full_since = None;
        if self.counters.disk_full.swap(false, Relaxed) {
            tracing::info!("the disk has room again: commits go on");
        }
        self.counters.items_stored.fetch_add(u64::from(group.staged.items()), Relaxed);
        self.publish()?;
        group.staged.confirm();
        if let Some((_, reply)) = group.wanted {
            // An uploader that stopped waiting finds the batch frozen next time.
            reply.send(batch).ok();
        }
        for ping in group.pings {
            // A watchdog that gave up waiting has drawn its own conclusion.
            ping.send(()).ok();
        }
        self.retain()
    }

    fn apply(&mut self, group: &Group) -> Result<Option<FrozenBatch>, Error> {
        for lane in Lane::ALL {
            self.append(lane, group)?;
        }
        for (key, outcome) in &group.settled {
            self.settle(*key, outcome)?;
        }
        for entry in &group.audits {
            self.audit(entry)?;
        }
        let batch = match &group.wanted {
            Some((want, _)) => self.next_batch(*want)?,
            None => None,
        };
        if group.needs_commit() {
            self.commit()?;
        }
        Ok(batch)
    }

    fn append(&mut self, lane: Lane, group: &Group) -> Result<(), Error> {
        let text = &group.staged.lanes[lane.index()];
        if text.count == 0 {
            return Ok(());
        }
        self.begin()?;
        for piece in text.pieces(block::PIECE_BYTES_MAX) {
            let first = self.queue.next_sequence(lane);
            let bytes = block::insert(&self.db, &mut self.codec, lane, first, text, piece)?;
            self.queue.appended(lane, piece.1, clock::since_boot());
            self.counters.commit_bytes.fetch_add(bytes, Relaxed);
        }
        Ok(())
    }

    fn settle(&mut self, key: BatchKey, outcome: &Outcome) -> Result<(), Error> {
        self.begin()?;
        let known = match outcome {
            Outcome::Delivered => self.queue.remove(&self.db, key)?,
            Outcome::Split => self.queue.split(&self.db, key)?,
            Outcome::DeadLetter { reason } => {
                let known = self.queue.remove(&self.db, key)?;
                if known {
                    self.set_aside(key, reason)?;
                }
                known
            }
        };
        if !known {
            tracing::warn!(?key, ?outcome, "an outcome for a batch that is not frozen was ignored");
        }
        Ok(())
    }

    fn set_aside(&mut self, key: BatchKey, reason: &str) -> Result<(), Error> {
        let now = clock::unix_seconds();
        let (items, _) = self.read(key.lane, key.first, key.last, u64::MAX, usize::MAX)?;
        let mut insert = self
            .db
            .prepare_cached(
                "INSERT INTO dead_letter (lane, sequence, set_aside_at, reason, item) VALUES (?1, ?2, ?3, ?4, ?5)",
            )
            .map_err(|source| Error::Sqlite { what: "cannot set an item aside", source })?;
        for (sequence, item) in (key.first..).zip(items.split(|byte| *byte == b'\n')) {
            insert
                .execute(params![key.lane as i64, number(sequence), now, reason, item])
                .map_err(|source| Error::Sqlite { what: "cannot set an item aside", source })?;
        }
        drop(insert);
        // Their ids are never reused and have no gaps but at the start.
        self.db
            .prepare_cached("DELETE FROM dead_letter WHERE id <= (SELECT max(id) FROM dead_letter) - ?1")
            .and_then(|mut delete| delete.execute([number(DEAD_LETTERS_MAX)]))
            .map_err(|source| Error::Sqlite {
                what: "cannot drop the oldest of what was set aside",
                source,
            })?;
        let kept = self.counters.dead_letters.load(Relaxed) + key.count();
        self.counters.dead_letters.store(kept.min(DEAD_LETTERS_MAX), Relaxed);
        Ok(())
    }

    fn audit(&mut self, entry: &AuditEntry) -> Result<(), Error> {
        self.begin()?;
        let record = audit::next_record(&self.audit_hash, &entry.action, &entry.details, entry.timestamp);
        self.db
            .execute(
                "INSERT INTO privacy_audit (timestamp, action, details, prev_hash, record_hash)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    record.timestamp,
                    record.action,
                    record.details,
                    record.prev_hash,
                    record.record_hash
                ],
            )
            .map_err(|source| Error::Sqlite { what: "cannot write the audit chain", source })?;
        self.audit_hash = record.record_hash;
        Ok(())
    }

    fn next_batch(&mut self, want: Want) -> Result<Option<FrozenBatch>, Error> {
        for lane in Lane::DELIVERED {
            if let Some((key, frozen_at)) = self.queue.frozen(lane) {
                let (items, _) = self.read(lane, key.first, key.last, u64::MAX, usize::MAX)?;
                return Ok(Some(self.batch(key, frozen_at, items)));
            }
            self.begin()?;
            let since_boot = clock::since_boot();
            let Some(source) = self.queue.choose(&self.db, lane, want, since_boot)? else { continue };
            let bytes_max = want.bytes_max as usize;
            let (items, last) =
                self.read(lane, source.first, source.last, u64::from(want.items_max), bytes_max)?;
            let frozen_at = clock::unix_seconds();
            let key = self.queue.freeze(&self.db, source, last, frozen_at, since_boot)?;
            return Ok(Some(self.batch(key, frozen_at, items)));
        }
        Ok(None)
    }

    fn batch(&self, key: BatchKey, frozen_at: f64, mut items: Vec<u8>) -> FrozenBatch {
        for byte in &mut items {
            if *byte == b'\n' {
                *byte = b',';
            }
        }
        let batch_id = format!("pyv-{}-{}-{}-{}", self.store_id, key.lane as u8, key.first, key.last);
        FrozenBatch { key, batch_id, timestamp: frozen_at, items }
    }

    /// Items from `first` on as lines without a final line break, and the sequence number of the last
    /// one: at most up to `last`, `items_max` items and `bytes_max` bytes, but at least one item.
    fn read(
        &mut self,
        lane: Lane,
        first: u64,
        last: u64,
        items_max: u64,
        bytes_max: usize,
    ) -> Result<(Vec<u8>, u64), Error> {
        let last = last.min(first.saturating_add(items_max - 1));
        let mut items = Vec::new();
        let mut next = first;
        while next <= last {
            let block = block::at_or_after(&self.db, &mut self.codec, lane, next)?;
            let Some(block) = block.filter(|block| block.first <= next) else {
                return Err(Error::Damaged {
                    what: "the delivery queue",
                    detail: format!("item {next} of lane {lane:?} is not stored"),
                });
            };
            let skipped = usize::try_from(next - block.first).unwrap_or(usize::MAX);
            let wanted = usize::try_from(last.min(block.last()) - next + 1).unwrap_or(usize::MAX);
            for line in block.lines.split(|byte| *byte == b'\n').skip(skipped).take(wanted) {
                if next > first && items.len() + line.len() >= bytes_max {
                    return Ok((items, next - 1));
                }
                if next > first {
                    items.push(b'\n');
                }
                items.extend_from_slice(line);
                next += 1;
            }
        }
        Ok((items, last))
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
        let changes = self.db.total_changes();
        if std::mem::replace(&mut self.changes, changes) != changes {
            self.counters.commits.fetch_add(1, Relaxed);
            self.counters.last_commit_at.set(Some(clock::unix_seconds()));
        }
        Ok(())
    }

    /// Undoes what is not committed and makes room by retention, or waits a moment for it.
    fn wait_for_room(&mut self, error: &Error) -> Result<(), Error> {
        self.roll_back()?;
        if !self.counters.disk_full.swap(true, Relaxed) {
            tracing::error!(error = %Chain(error), "the disk is full: what comes in waits until there is room");
        }
        self.progress.moved(clock::since_boot());
        // History goes at once. Somebody else may have filled the disk for a moment, so what was
        // acknowledged and not delivered goes only after a long wait, and then bit by bit.
        let since = *self.disk_full_since.get_or_insert_with(clock::since_boot);
        let has_waited = clock::since_boot().saturating_sub(since) >= DISK_FULL_PATIENCE;
        let dropped = match self.drop_blocks(0, RETENTION_BLOCKS_MAX, GiveUp::HistoryOnly) {
            Ok(false) if has_waited => self.drop_blocks(0, 1, GiveUp::Anything),
            dropped => dropped,
        };
        if !dropped.unwrap_or(false) {
            self.roll_back()?;
            thread::sleep(DISK_FULL_WAIT);
        }
        Ok(())
    }

    fn roll_back(&mut self) -> Result<(), Error> {
        if !self.db.is_autocommit() {
            self.db
                .execute_batch("ROLLBACK")
                .map_err(|source| Error::Sqlite { what: "cannot roll back", source })?;
        }
        self.queue = Queue::load(&self.db, next_sequences(&self.db)?)?;
        self.audit_hash = last_audit_hash(&self.db)?;
        self.counters.dead_letters.store(count_dead_letters(&self.db)?, Relaxed);
        Ok(())
    }

    /// Keeps the database below its size.
    fn retain(&mut self) -> Result<(), Error> {
        if self.counters.store_bytes.load(Relaxed) <= self.settings.size_bytes_max {
            return Ok(());
        }
        let target_bytes = self.settings.size_bytes_max / 100 * RETENTION_PERCENT;
        match self.drop_blocks(target_bytes, RETENTION_BLOCKS_MAX, GiveUp::Anything) {
            Err(error) if is_disk_full(&error) => self.roll_back(),
            result => result.map(|_| ()),
        }
    }

    /// Deletes the oldest blocks until at most `target_bytes` are in use, in a commit of its own.
    /// Returns whether anything could go.
    fn drop_blocks(&mut self, target_bytes: u64, blocks_max: usize, give_up: GiveUp) -> Result<bool, Error> {
        let mut any = false;
        let mut lost = 0;
        self.begin()?;
        self.remember_sequences()?;
        for _ in 0..blocks_max {
            if self.used_bytes()? <= target_bytes {
                break;
            }
            let Some((lane, first, end)) = self.oldest_to_drop(give_up)? else { break };
            let dropped = self.queue.give_up(&self.db, lane, first, end)?;
            if lane != Lane::Local {
                self.counters.dropped[lane.index()].fetch_add(dropped, Relaxed);
            }
            lost += dropped;
            block::delete(&self.db, lane, first)?;
            any = true;
        }
        self.commit()?;
        if lost > 0 {
            tracing::error!(
                items = lost,
                "the store is full: undelivered items were dropped, the oldest of the least urgent lane"
            );
        }
        self.publish()?;
        Ok(any)
    }

    fn oldest_to_drop(&self, give_up: GiveUp) -> Result<Option<(Lane, u64, u64)>, Error> {
        let mut oldest = Vec::with_capacity(Lane::ALL.len());
        let mut ranges = [(0, 0); 5];
        for settled in [true, false] {
            // Nothing undelivered goes while there is history, wherever in its lane that lies.
            if !settled && (!oldest.is_empty() || give_up == GiveUp::HistoryOnly) {
                break;
            }
            for lane in Lane::ALL {
                let Some((first, end, time_max)) = self.oldest_free(lane, settled)? else { continue };
                ranges[lane.index()] = (first, end);
                oldest.push(Oldest { lane, time_max, settled });
            }
        }
        Ok(retention::victim(&oldest).map(|lane| {
            let (first, end) = ranges[lane.index()];
            (lane, first, end)
        }))
    }

    /// The oldest block of `lane` that holds nothing of a frozen batch, which must stay whole, and with
    /// `settled` nothing undelivered either: its first number, the one behind its last, and the time of
    /// its newest item. Without delivery the frozen ones are the oldest of all, and what comes behind
    /// them must still make room; newer data that was delivered first lies behind the backlog.
    fn oldest_free(&self, lane: Lane, settled: bool) -> Result<Option<(u64, u64, f64)>, Error> {
        let mut from = 0;
        while let Some((first, count, time_max)) = block::oldest(&self.db, lane, from)? {
            let end = first + count;
            let held_until = if settled {
                self.queue.pending_until(lane, first, end)
            } else {
                self.queue.frozen_until(lane, first, end)
            };
            match held_until {
                None => return Ok(Some((first, end, time_max))),
                // A block that begins within the batch holds some of it.
                Some(held_end) => from = end.max(held_end),
            }
        }
        Ok(None)
    }

    /// So that a lane whose last block goes does not give out its numbers again.
    fn remember_sequences(&mut self) -> Result<(), Error> {
        for (lane, next) in Lane::ALL.into_iter().zip(self.queue.next_sequences()) {
            self.db
                .prepare_cached("INSERT OR REPLACE INTO lane (lane, next_sequence) VALUES (?1, ?2)")
                .and_then(|mut upsert| upsert.execute(params![lane as i64, number(next)]))
                .map_err(|source| Error::Sqlite { what: "cannot remember sequence numbers", source })?;
        }
        Ok(())
    }

    fn used_bytes(&self) -> Result<u64, Error> {
        let pragma = |name: &str| -> Result<u64, Error> {
            self.db
                .prepare_cached(name)
                .and_then(|mut pragma| pragma.query_row([], |row| row.get::<_, i64>(0)))
                .map(i64::unsigned_abs)
                .map_err(|source| Error::Sqlite { what: "cannot measure the database", source })
        };
        Ok((pragma("PRAGMA page_count")? - pragma("PRAGMA freelist_count")?) * pragma("PRAGMA page_size")?)
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
        self.counters.store_bytes.store(self.used_bytes()?, Relaxed);
        let oldest = self.oldest_pending()?;
        self.counters.oldest_pending_at.set(oldest);
        Ok(())
    }
}

fn next_sequences(db: &Connection) -> Result<[u64; 5], Error> {
    let mut next = [1; 5];
    for lane in Lane::ALL {
        let remembered: Option<i64> = db
            .query_row("SELECT next_sequence FROM lane WHERE lane = ?1", [lane as i64], |row| row.get(0))
            .optional()
            .map_err(|source| Error::Sqlite { what: "cannot read sequence numbers", source })?;
        next[lane.index()] = block::end(db, lane)?.max(remembered.unwrap_or(1).unsigned_abs());
    }
    Ok(next)
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

fn is_disk_full(error: &Error) -> bool {
    matches!(
        error,
        Error::Sqlite { source: rusqlite::Error::SqliteFailure(failure, _), .. }
            if failure.code == ErrorCode::DiskFull
    )
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
