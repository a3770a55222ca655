//! Keeps the database and its write-ahead log within their budget, and gives back to the disk what is no
//! longer needed. What gives way, in this order: delivered history, the resolution of telemetry, then
//! undelivered items.

use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rusqlite::Connection;

use super::Worker;
use super::trim::{GiveUp, RETENTION_BLOCKS_MAX};
use crate::store::budget::{self, Allowance, Room};
use crate::store::measure::Measure;
use crate::store::{DATABASE_FILE, Error, Lane, block, inspect, open, trouble};

/// Between two looks at the file system and at what has expired.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// Once room is short, it is made down to this share, so that it is not short again with the next commit.
const TARGET_PERCENT: u64 = 95;
/// Steps towards that share before commands get their turn.
const STEPS_PER_TURN_MAX: u32 = 8;
/// Steps while a commit would exceed the cap; beyond it the disk decides.
const STEPS_MAX: u32 = 10_000;
/// The file shrinks once this part of it is free, down to a fraction of that.
const FREE_SHARE_MAX: u64 = 4;
/// So few free pages are not worth a move.
const FREE_PAGES_MIN: u64 = 32;
/// What a commit writes beside its items: pages of tables, of ranges and of the free list.
const COMMIT_OVERHEAD_BYTES: u64 = 96 * 1024;

impl Worker {
    /// Makes room for a commit of `text_bytes` of JSON, before it is made. `text_bytes` is more than what will
    /// be written, and it is written twice: into the log, and into the database.
    pub(super) fn make_room(&mut self, text_bytes: usize) -> Result<(), Error> {
        self.look_around()?;
        let allowed = self.allowance;
        let need = (2 * text_bytes as u64 + COMMIT_OVERHEAD_BYTES).min(allowed.bytes / 4);
        let result = if self.used + need > allowed.bytes_with_others {
            self.give_way(allowed, need)
        } else if self.history_exceeds(100) {
            let is_enough = |worker: &mut Self| {
                worker.used = worker.used_bytes()?;
                Ok(!worker.history_exceeds(HISTORY_PERCENT))
            };
            self.drop_until(RETENTION_BLOCKS_MAX, GiveUp::Delivered, is_enough).map(drop)
        } else {
            Ok(())
        };
        match result {
            Err(error) if trouble::leaves_connection_whole(&error) => self.roll_back(),
            result => result,
        }
    }

    /// Sets the log's share of the cap, and learns what items take.
    pub(super) fn begin_measuring(&mut self) -> Result<(), Error> {
        let wal_pages =
            (budget::wal_bytes(self.settings.size_bytes_max) / 2 / self.page_bytes).max(WAL_PAGES_MIN);
        self.db
            .pragma_update(None, "wal_autocheckpoint", i64::try_from(wal_pages).unwrap_or(i64::MAX))
            .map_err(|source| Error::Sqlite { what: "cannot configure the database", source })?;
        let mut items = 0;
        for lane in Lane::ALL {
            let lowest = block::lowest(&self.db, lane)?;
            items += lowest.map_or(0, |first| self.queue.next_sequence(lane).saturating_sub(first));
        }
        self.measure = Measure::new(if items == 0 { 0.0 } else { self.used as f64 / items as f64 });
        Ok(())
    }

    fn give_way(&mut self, allowed: Allowance, need: u64) -> Result<(), Error> {
        let soft = allowed.bytes_with_others.saturating_sub(need);
        let hard = allowed.bytes.saturating_sub(need);
        let target = soft / 100 * TARGET_PERCENT;
        for step in 0..STEPS_MAX {
            self.progress.moved(self.clocks.since_boot());
            let is_over = self.used > hard;
            if self.used <= target {
                break;
            }
            if step >= STEPS_PER_TURN_MAX && !is_over {
                break;
            }
            if self.drop_blocks(target, RETENTION_BLOCKS_MAX, GiveUp::HistoryOnly)? || self.thin_next()? {
                continue;
            }
            // Others who are short of room are not given what was never delivered.
            if !is_over
                || !self.drop_blocks(hard / 100 * TARGET_PERCENT, RETENTION_BLOCKS_MAX, GiveUp::Anything)?
            {
                break;
            }
        }
        Ok(())
    }

    fn thin_next(&mut self) -> Result<bool, Error> {
        let tiers = [Lane::Telemetry, Lane::Minute];
        let bytes = tiers.map(|lane| self.measure.bytes(lane, self.queue.pending_of(lane)));
        let mut can_be_thinned = [true; 2];
        while let Some(lane) = budget::to_thin(bytes, can_be_thinned) {
            if self.thin(lane)? {
                if !std::mem::replace(&mut self.thins, true) {
                    tracing::warn!(
                        "the store is short of room: old telemetry is thinned to minutes and quarter hours"
                    );
                }
                return Ok(true);
            }
            can_be_thinned[usize::from(lane == Lane::Minute)] = false;
        }
        Ok(false)
    }

    /// Whether more of what is delivered is kept than this percentage of what is configured.
    fn history_exceeds(&self, percent: u64) -> bool {
        let most = self.settings.budget.history_bytes_max;
        let most = most.unwrap_or(self.settings.size_bytes_max / HISTORY_SHARE) / 100 * percent;
        self.history_bytes() > most
    }

    /// Bytes of what does not wait for delivery, estimated from what does.
    fn history_bytes(&self) -> u64 {
        let waits = |lane| self.measure.bytes(lane, self.queue.pending_of(lane));
        self.used.saturating_sub(Lane::DELIVERED.into_iter().map(waits).sum::<u64>() + EMPTY_BYTES)
    }

    /// Now and then: what the file system has left, what has outlived its time, and what that means.
    fn look_around(&mut self) -> Result<(), Error> {
        let now = self.clocks.since_boot();
        if self.looked_around_at.is_some_and(|at| now.saturating_sub(at) < LOOK_INTERVAL) {
            return Ok(());
        }
        self.looked_around_at = Some(now);
        let taken = self.counters.store_bytes.load(Relaxed);
        let room = Room::of(&self.settings.state_dir);
        self.allowance = budget::allowance(self.settings.size_bytes_max, &self.settings.budget, taken, room);
        self.counters.short_of_inodes.store(self.allowance.is_short_of_inodes, Relaxed);
        self.counters.allowed_bytes.store(self.allowance.bytes_with_others, Relaxed);
        self.forecast(now);
        self.expire()
    }

    /// Days until telemetry is thinned, and until undelivered items are dropped, at the rate of the last day
    /// and without any delivery.
    fn forecast(&mut self, now: Duration) {
        let Some(per_day) = self.measure.bytes_per_day(self.boot.age(now)) else { return };
        let free = (self.allowance.bytes_with_others + self.history_bytes()).saturating_sub(self.used);
        let of = |lane| self.measure.bytes(lane, self.queue.pending_of(lane));
        let can_be_thinned = of(Lane::Telemetry) as f64 + per_day * (free as f64 / per_day);
        let thinned_share = 1.0 / THINNED_SHARE;
        let before_thinning = free as f64 / per_day;
        let gained = (can_be_thinned + of(Lane::Minute) as f64) * (1.0 - thinned_share);
        let before_dropping = before_thinning + gained / (per_day * thinned_share);
        self.counters.days_before_thinning.set(Some(before_thinning.max(f64::MIN_POSITIVE)));
        self.counters.days_before_dropping.set(Some(before_dropping.max(f64::MIN_POSITIVE)));
    }

    /// Moves pages into what is free and cuts the file, a step at a time, once much of it is free. The file
    /// ends shorter at the next checkpoint, so at the end there is one.
    pub(super) fn shrink(&mut self) -> Result<(), Error> {
        let failed = |source| Error::Sqlite { what: "cannot shrink the database", source };
        let Pages { count, free } = self.pages()?;
        let least = if self.shrinks { count / FREE_SHARE_MAX / 4 } else { count / FREE_SHARE_MAX };
        if free <= least.max(FREE_PAGES_MIN) || !self.db.is_autocommit() {
            if std::mem::replace(&mut self.shrinks, false) {
                open::empty_log(&self.db)?;
            }
            return Ok(());
        }
        // At most so many pages a step: its commit stays below some 2 MB.
        let mut vacuum = self.db.prepare_cached("PRAGMA incremental_vacuum(256)").map_err(failed)?;
        let mut rows = vacuum.query([]).map_err(failed)?;
        while rows.next().map_err(failed)?.is_some() {}
        drop(rows);
        drop(vacuum);
        // A database of schema version 1 cannot shrink; its free pages are used again.
        self.shrinks = pragma(&self.db, "PRAGMA page_count")? < count;
        self.publish()
    }

    /// Bytes of pages in use.
    pub(super) fn used_bytes(&self) -> Result<u64, Error> {
        self.pages().map(|pages| self.bytes_in_use(pages))
    }

    /// Shows what the database takes: its pages in use, and it and its write-ahead log on the disk.
    pub(super) fn publish_size(&mut self) -> Result<(), Error> {
        let pages = self.pages()?;
        self.used = self.bytes_in_use(pages);
        self.counters.store_bytes.store(self.taken_bytes(pages), Relaxed);
        Ok(())
    }

    fn bytes_in_use(&self, pages: Pages) -> u64 {
        // A damaged header may count more free pages than there are.
        pages.count.saturating_sub(pages.free) * self.page_bytes
    }

    /// Bytes of the database and its write-ahead log on the disk.
    fn taken_bytes(&self, pages: Pages) -> u64 {
        let path = self.settings.state_dir.join(DATABASE_FILE);
        let length = |path| std::fs::metadata(path).map_or(0, |file| file.len());
        let wal = length(inspect::beside(&path, "-wal"));
        // Until the next checkpoint the file itself may be shorter, or still be longer.
        length(path).max(pages.count * self.page_bytes) + wal
    }

    fn pages(&self) -> Result<Pages, Error> {
        let (count, free) = ("PRAGMA page_count", "PRAGMA freelist_count");
        Ok(Pages { count: pragma(&self.db, count)?, free: pragma(&self.db, free)? })
    }
}

/// Of the database, those that only the log holds among them.
#[derive(Clone, Copy)]
struct Pages {
    count: u64,
    free: u64,
}

/// Bytes of a page of `db`.
pub(super) fn page_bytes(db: &Connection) -> Result<u64, Error> {
    pragma(db, "PRAGMA page_size").map(|bytes| bytes.max(1))
}

fn pragma(db: &Connection, text: &str) -> Result<u64, Error> {
    db.prepare_cached(text)
        .and_then(|mut pragma| pragma.query_row([], |row| row.get::<_, i64>(0)))
        .map(i64::unsigned_abs)
        .map_err(|source| Error::Sqlite { what: "cannot measure the database", source })
}

impl Room {
    /// Of the file system at `path`; `None` where it does not say.
    pub fn of(path: &Path) -> Option<Self> {
        let found = rustix::fs::statvfs(path).ok()?;
        Some(Self {
            free_bytes: found.f_bavail.saturating_mul(found.f_frsize),
            inodes: found.f_files,
            free_inodes: found.f_favail,
        })
    }
}

/// The part of the cap that delivered history may take where nothing else is configured.
const HISTORY_SHARE: u64 = 4;
/// Once it is more, history goes down to this part of that.
const HISTORY_PERCENT: u64 = 90;
/// Quarter hours take about this part of the raw readings of a sensor that is read every five seconds.
const THINNED_SHARE: f64 = 40.0;
/// A database without items.
const EMPTY_BYTES: u64 = 128 * 1024;
/// Fewer would checkpoint at every commit.
const WAL_PAGES_MIN: u64 = 16;
