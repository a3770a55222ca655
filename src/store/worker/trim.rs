//! Deletes whole blocks: delivered history, what has outlived its time, and, when there is nothing else left,
//! the oldest undelivered items.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering::Relaxed;

use rusqlite::params;

use super::Worker;
use crate::store::block::{self, Head, number};
use crate::store::gap::Reason;
use crate::store::retention::{self, Oldest};
use crate::store::{Error, Lane};

/// What retention may delete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GiveUp {
    /// What is delivered.
    Delivered,
    /// What is delivered, or was never to be delivered.
    HistoryOnly,
    /// Undelivered items too, once there is no history left.
    Anything,
}

impl Worker {
    /// Deletes the oldest blocks until at most `target_bytes` are in use, in a commit of its own.
    /// Returns whether anything could go.
    pub(super) fn drop_blocks(
        &mut self,
        target_bytes: u64,
        blocks_max: usize,
        give_up: GiveUp,
    ) -> Result<bool, Error> {
        self.drop_until(blocks_max, give_up, |worker| Ok(worker.used_bytes()? <= target_bytes))
    }

    /// Deletes the oldest blocks until `is_enough`, in a commit of its own. Returns whether anything could go.
    pub(super) fn drop_until(
        &mut self,
        blocks_max: usize,
        give_up: GiveUp,
        mut is_enough: impl FnMut(&mut Self) -> Result<bool, Error>,
    ) -> Result<bool, Error> {
        let mut any = false;
        let mut lost = 0;
        for _ in 0..blocks_max {
            if is_enough(self)? {
                break;
            }
            let Some((lane, first, end)) = self.oldest_to_drop(give_up)? else { break };
            if !any {
                self.begin_trim()?;
            }
            lost += self.lose_block(Reason::Retention, lane, first, end)?;
            self.spans.deleted(&self.db, lane, end)?;
            any = true;
        }
        if !any {
            return Ok(false);
        }
        self.commit()?;
        if lost > 0 {
            tracing::error!(
                items = lost,
                "the store is full: undelivered items were dropped, the oldest of the least urgent lane"
            );
        }
        self.publish()?;
        Ok(true)
    }

    /// Deletes what has waited for delivery for longer than its lane allows, by the running time of the board.
    pub(super) fn expire(&mut self) -> Result<(), Error> {
        let age = self.boot.age(self.clocks.since_boot());
        let mut expired = 0;
        for lane in Lane::DELIVERED {
            let Some(ttl) = self.settings.ttl.by_priority[lane.priority_index()] else { continue };
            for _ in 0..EXPIRED_BLOCKS_MAX {
                let Some(head) = self.oldest_undelivered(lane)? else { break };
                if age.saturating_sub(self.boot.age_of(&self.db, head.at)?) <= ttl {
                    break;
                }
                self.begin_trim()?;
                expired += self.lose_block(Reason::Ttl, lane, head.first, head.end())?;
                self.spans.deleted(&self.db, lane, head.end())?;
            }
        }
        if expired > 0 {
            self.commit()?;
            tracing::warn!(items = expired, "undelivered items have outlived store.ttl_seconds");
            self.publish()?;
        }
        Ok(())
    }

    /// Begins a transaction that deletes blocks, and writes down what they alone would tell.
    pub(super) fn begin_trim(&mut self) -> Result<(), Error> {
        self.begin()?;
        self.remember_sequences()?;
        self.boot.note_last(&self.db, self.clocks.since_boot())
    }

    /// The oldest block of `lane` that holds undelivered items and nothing of a frozen batch.
    pub(super) fn oldest_undelivered(&self, lane: Lane) -> Result<Option<Head>, Error> {
        for (first, end) in self.queue.open_parts(lane) {
            let mut next = first;
            while next < end {
                let Some(head) = block::head_of(&self.db, lane, next)? else { break };
                match self.queue.frozen_until(lane, head.first, head.end()) {
                    None => return Ok(Some(head)),
                    Some(frozen_end) => next = head.end().max(frozen_end),
                }
            }
        }
        Ok(None)
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
            if reason == Reason::Retention {
                self.counters.dropped[lane.priority_index()].fetch_add(lost, Relaxed);
            }
        }
        block::delete(&self.db, lane, first)?;
        Ok(lost)
    }

    fn oldest_to_drop(&self, give_up: GiveUp) -> Result<Option<(Lane, u64, u64)>, Error> {
        let mut oldest = Vec::with_capacity(Lane::ALL.len());
        let mut ranges = [(0, 0); Lane::ALL.len()];
        for settled in [true, false] {
            // Nothing undelivered goes while there is history, wherever in its lane that lies.
            if !settled && (!oldest.is_empty() || give_up != GiveUp::Anything) {
                break;
            }
            for lane in Lane::ALL {
                if give_up == GiveUp::Delivered && lane == Lane::Local {
                    continue;
                }
                let found = if settled { self.oldest_settled(lane)? } else { self.oldest_undelivered(lane)? };
                let Some(head) = found else { continue };
                ranges[lane.index()] = (head.first, head.end());
                let age_ms =
                    i64::try_from(self.boot.age_of(&self.db, head.at)?.as_millis()).unwrap_or(i64::MAX);
                oldest.push(Oldest { lane, age_ms, settled });
            }
        }
        Ok(retention::victim(&oldest).map(|lane| {
            let (first, end) = ranges[lane.index()];
            (lane, first, end)
        }))
    }

    /// The oldest block of `lane` that holds nothing undelivered. Newer data that was delivered first lies
    /// behind the backlog.
    fn oldest_settled(&self, lane: Lane) -> Result<Option<Head>, Error> {
        let mut from = 0;
        loop {
            let mut found = None;
            block::each(&self.db, lane, from, |head| {
                found = Some(*head);
                ControlFlow::Break(())
            })?;
            let Some(head) = found else { return Ok(None) };
            match self.queue.pending_until(lane, head.first, head.end()) {
                None => return Ok(Some(head)),
                // A block that begins within the range holds some of it.
                Some(held_end) => from = head.end().max(held_end),
            }
        }
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
}

/// Most blocks that one pass of retention deletes, which bounds the time and size of its commit.
pub(super) const RETENTION_BLOCKS_MAX: usize = 256;
/// Of one lane at one look; the rest goes at the next.
const EXPIRED_BLOCKS_MAX: usize = 256;
