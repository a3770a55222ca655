//! A disk in trouble: what was asked for is tried again until it succeeds, from memory, on a connection
//! that is opened anew. Nothing is acknowledged meanwhile, so the sources wait and so do the devices.

use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::mpsc;

use super::start::{Chain, count_dead_letters, last_audit_hash, next_sequences};
use super::trim::{GiveUp, RETENTION_BLOCKS_MAX};
use super::{Files, Reporter, Worker};
use crate::clock;
use crate::store::queue::Queue;
use crate::store::trouble::{self, Disk, Trouble};
use crate::store::{BatchKey, Command, DATABASE_FILE, Error, Lane, Outcome, schema};

/// Between two attempts while there is no room.
const DISK_FULL_WAIT: Duration = Duration::from_secs(1);
/// A disk that has been full for so long is not freed by others: delivery cannot go on either, as its
/// records need room too, so the oldest undelivered items make some.
const DISK_FULL_PATIENCE: Duration = Duration::from_secs(300);
/// After the first failed attempt, and twice as long after each further one, up to the second.
const RETRY_WAIT_MIN: Duration = Duration::from_millis(250);
const RETRY_WAIT_MAX: Duration = Duration::from_secs(30);
/// A wait looks this often whether the agent stops, and shows the watchdog that the thread lives.
const WAIT_STEP: Duration = Duration::from_millis(250);
/// Once the agent stops, attempts go on for so long: well within the deadline of its drain.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// What the thread knows of a disk that does not do what it is asked.
#[derive(Default)]
pub(super) struct Outage {
    /// The connection is not to be used any more.
    broken: bool,
    /// Boot clock; since the first failure that no success followed.
    since: Option<Duration>,
    failures: u32,
    /// Boot clock; since there is no room.
    full_since: Option<Duration>,
    /// Boot clock; since nobody is left to send commands.
    stopping_since: Option<Duration>,
    /// What was applied and may wait for the next commit, to be applied again.
    carried: Vec<Carried>,
}

/// What makes no commit of its own.
#[derive(Clone)]
pub(super) enum Carried {
    Outcome(BatchKey, Outcome),
    Fact(&'static str, String),
}

impl Outage {
    /// Keeps what was applied but not committed. One outcome comes for each batch, which is a commit, and
    /// of a fact only the newest counts, so it stays small.
    pub(super) fn carry(&mut self, uncommitted: impl IntoIterator<Item = Carried>) {
        for new in uncommitted {
            if let Carried::Fact(key, _) = &new {
                self.carried.retain(|old| !matches!(old, Carried::Fact(known, _) if known == key));
            }
            self.carried.push(new);
        }
    }

    pub(super) fn committed(&mut self) {
        self.carried.clear();
    }
}

impl Worker {
    /// Does `attempt`, again and again while the disk is in trouble. `None` when the agent stops before it
    /// succeeds; then nothing of it is durable.
    ///
    /// # Errors
    ///
    /// The database is damaged, or not the one that was opened: the next start has to look at it.
    pub(super) fn outlast<T>(
        &mut self,
        commands: &mpsc::Receiver<Command>,
        mut attempt: impl FnMut(&mut Self) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        loop {
            let error = match self.mend().and_then(|()| attempt(self)) {
                Ok(value) => {
                    self.recovered();
                    return Ok(Some(value));
                }
                Err(error) => error,
            };
            let wait = self.failed(error)?;
            if !self.pause(wait, commands) {
                return Ok(None);
            }
        }
    }

    /// Notes a failure and prepares the next attempt; returns how long to wait for it.
    fn failed(&mut self, error: Error) -> Result<Duration, Error> {
        let Some(found) = trouble::of(&error, Disk::of(&self.settings.state_dir)) else {
            self.counters.set_failed();
            return Err(error);
        };
        self.outage.failures += 1;
        if self.outage.since.is_none() {
            self.outage.since = Some(clock::since_boot());
            let (error, error_kind) = (Chain(&error), found.name());
            tracing::error!(%error, error_kind, "the disk takes nothing: what comes in waits until it does again");
        }
        self.counters.set_trouble(Some(found));
        if !trouble::leaves_connection_whole(&error) || self.roll_back().is_err() {
            self.outage.broken = true;
        }
        if found != Trouble::Full {
            self.outage.full_since = None;
            return Ok(self.retry_wait());
        }
        Ok(if self.free_full_disk() { Duration::ZERO } else { DISK_FULL_WAIT })
    }

    fn retry_wait(&self) -> Duration {
        let doublings = self.outage.failures.saturating_sub(1).min(16);
        RETRY_WAIT_MIN.saturating_mul(1 << doublings).min(RETRY_WAIT_MAX)
    }

    fn recovered(&mut self) {
        self.outage.full_since = None;
        let Some(since) = self.outage.since.take() else { return };
        let failures = std::mem::take(&mut self.outage.failures);
        let lasted_seconds = clock::since_boot().saturating_sub(since).as_secs_f64();
        self.counters.set_trouble(None);
        tracing::info!(failures, lasted_seconds, "the disk works again: commits go on");
    }

    /// Frees what retention may give up on a full disk; false when that is nothing.
    fn free_full_disk(&mut self) -> bool {
        // History goes at once. Somebody else may have filled the disk for a moment, so what was
        // acknowledged and not delivered goes only after a long wait, and then bit by bit.
        let now = self.clocks.since_boot();
        let since = *self.outage.full_since.get_or_insert(now);
        let has_waited = now.saturating_sub(since) >= DISK_FULL_PATIENCE;
        if self.outage.broken {
            return false;
        }
        let dropped = match self.drop_blocks(0, RETENTION_BLOCKS_MAX, GiveUp::HistoryOnly) {
            Ok(false) if has_waited => self.drop_blocks(0, 1, GiveUp::Anything),
            dropped => dropped,
        };
        if let Err(error) = &dropped
            && (!trouble::leaves_connection_whole(error) || self.roll_back().is_err())
        {
            self.outage.broken = true;
        }
        dropped.unwrap_or(false)
    }

    /// Waits; false when the agent stops and has waited long enough.
    fn pause(&mut self, wait: Duration, commands: &mpsc::Receiver<Command>) -> bool {
        let begun = clock::since_boot();
        loop {
            let now = clock::since_boot();
            self.progress.moved(now);
            let mut left = wait.saturating_sub(now.saturating_sub(begun));
            if commands.is_closed() {
                let since = *self.outage.stopping_since.get_or_insert(now);
                if now.saturating_sub(since) >= STOP_PATIENCE {
                    return false;
                }
                left = left.min(WAIT_STEP.saturating_sub(now.saturating_sub(begun)));
            }
            if left.is_zero() {
                return true;
            }
            thread::sleep(left.min(WAIT_STEP));
        }
    }

    /// Makes the connection usable again after a failure; does nothing when it is.
    fn mend(&mut self) -> Result<(), Error> {
        if !self.outage.broken {
            return Ok(());
        }
        self.look_for_file()?;
        // Closed first: while it is open, SQLite shares what it believes of the write-ahead log. Closing
        // copies committed frames into the database, which fails on a bad disk and is done again below.
        let nothing = Connection::open_in_memory()
            .map_err(|source| Error::Sqlite { what: "cannot set the database aside", source })?;
        drop(std::mem::replace(&mut self.db, nothing));
        let path = self.settings.state_dir.join(DATABASE_FILE);
        self.db = schema::reopen(&path, &self.store_id)?;
        self.keep_hold()?;
        self.files = Files::of(&path);
        self.changes = 0;
        self.lowest_pending = [(0, 0.0); Lane::ALL.len()];
        self.load()?;
        self.begin_measuring()?;
        self.outage.broken = false;
        Ok(())
    }

    /// Undoes what is not committed, but for what may wait for the next commit.
    pub(super) fn roll_back(&mut self) -> Result<(), Error> {
        if !self.db.is_autocommit() {
            self.db
                .execute_batch("ROLLBACK")
                .map_err(|source| Error::Sqlite { what: "cannot roll back", source })?;
        }
        self.load()
    }

    /// Reads from the database what the thread keeps in memory.
    fn load(&mut self) -> Result<(), Error> {
        self.made = 0;
        self.queue = Queue::load(&self.db, next_sequences(&self.db)?)?;
        self.load_clock()?;
        self.trail.rolled_back(last_audit_hash(&self.db)?);
        self.counters.dead_letters.store(count_dead_letters(&self.db)?, Relaxed);
        self.reporter = Reporter::unknown();
        for carried in self.outage.carried.clone() {
            match carried {
                Carried::Outcome(key, outcome) => self.settle(key, &outcome)?,
                Carried::Fact(key, value) => self.remember(key, &value)?,
            }
        }
        Ok(())
    }
}
