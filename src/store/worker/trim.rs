//! Acts on what retention decides: deletes blocks until the database is below its size.

use std::sync::atomic::Ordering::Relaxed;

use rusqlite::params;

use super::Worker;
use crate::store::block::{self, number};
use crate::store::gap::Reason;
use crate::store::retention::{self, Oldest};
use crate::store::{Error, Lane, trouble};

/// What retention may delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GiveUp {
    /// What is delivered, or was never to be delivered.
    HistoryOnly,
    /// Undelivered items too, once there is no history left.
    Anything,
}

impl Worker {
    /// Keeps the database below its size.
    pub(super) fn retain(&mut self) -> Result<(), Error> {
        if self.counters.store_bytes.load(Relaxed) <= self.settings.size_bytes_max {
            return Ok(());
        }
        let target_bytes = self.settings.size_bytes_max / 100 * RETENTION_PERCENT;
        match self.drop_blocks(target_bytes, RETENTION_BLOCKS_MAX, GiveUp::Anything) {
            // The next commit waits for room.
            Err(error) if trouble::leaves_connection_whole(&error) => self.roll_back(),
            result => result.map(|_| ()),
        }
    }

    /// Deletes the oldest blocks until at most `target_bytes` are in use, in a commit of its own.
    /// Returns whether anything could go.
    pub(super) fn drop_blocks(
        &mut self,
        target_bytes: u64,
        blocks_max: usize,
        give_up: GiveUp,
    ) -> Result<bool, Error> {
        let mut any = false;
        let mut lost = 0;
        self.begin()?;
        self.remember_sequences()?;
        self.boot.note_last(&self.db, self.clocks.since_boot())?;
        for _ in 0..blocks_max {
            if self.used_bytes()? <= target_bytes {
                break;
            }
            let Some((lane, first, end)) = self.oldest_to_drop(give_up)? else { break };
            lost += self.lose_block(Reason::Retention, lane, first, end)?;
            self.spans.deleted(&self.db, lane, end)?;
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

    /// Deletes the block `first..end`, and declares what of it was undelivered; returns how many items. It
    /// holds nothing of a frozen batch.
    fn lose_block(&mut self, reason: Reason, lane: Lane, first: u64, end: u64) -> Result<u64, Error> {
        let parts = self.queue.give_up(&self.db, lane, first, end)?;
        let lost = parts.iter().map(|(from, last)| last - from + 1).sum();
        if lost > 0 {
            let time = block::times(&self.db, lane, first)?;
            // A block that cannot be read goes all the same: whose readings it held is not known then.
            let lines = match block::at_or_after(&self.db, &mut self.codec, lane, first) {
                Ok(block) => block.map(|block| block.lines).unwrap_or_default(),
                Err(Error::Damaged { .. }) => Vec::new(),
                Err(error) => return Err(error),
            };
            self.note_lost(reason, lane, &parts, (first, &lines), time)?;
            self.counters.dropped[lane.index()].fetch_add(lost, Relaxed);
        }
        block::delete(&self.db, lane, first)?;
        Ok(lost)
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
                let Some((first, end, age_ms)) = self.oldest_free(lane, settled)? else { continue };
                ranges[lane.index()] = (first, end);
                oldest.push(Oldest { lane, age_ms, settled });
            }
        }
        Ok(retention::victim(&oldest).map(|lane| {
            let (first, end) = ranges[lane.index()];
            (lane, first, end)
        }))
    }

    /// The oldest block of `lane` that holds nothing of a frozen batch, which must stay whole, and with
    /// `settled` nothing undelivered either: its first number, the one behind its last, and the age of
    /// the database when it was committed. Without delivery the frozen ones are the oldest of all, and what comes behind
    /// them must still make room; newer data that was delivered first lies behind the backlog.
    fn oldest_free(&self, lane: Lane, settled: bool) -> Result<Option<(u64, u64, i64)>, Error> {
        let mut from = 0;
        while let Some((first, count, age_ms)) = block::oldest(&self.db, lane, from)? {
            let end = first + count;
            let held_until = if settled {
                self.queue.pending_until(lane, first, end)
            } else {
                self.queue.frozen_until(lane, first, end)
            };
            match held_until {
                None => return Ok(Some((first, end, age_ms))),
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

    pub(super) fn used_bytes(&self) -> Result<u64, Error> {
        let pragma = |name: &str| -> Result<u64, Error> {
            self.db
                .prepare_cached(name)
                .and_then(|mut pragma| pragma.query_row([], |row| row.get::<_, i64>(0)))
                .map(i64::unsigned_abs)
                .map_err(|source| Error::Sqlite { what: "cannot measure the database", source })
        };
        Ok((pragma("PRAGMA page_count")? - pragma("PRAGMA freelist_count")?) * pragma("PRAGMA page_size")?)
    }
}

/// Retention frees down to this share of the size limit, so that it does not run at every commit.
const RETENTION_PERCENT: u64 = 95;
/// Most blocks that one pass of retention deletes, which bounds the time and size of its commit.
pub(super) const RETENTION_BLOCKS_MAX: usize = 256;
