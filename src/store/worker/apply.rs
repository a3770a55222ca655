//! What commands do to the database: items, outcomes and audit records go in, a batch comes out. Each
//! begins a transaction when none is open; the commit is the loop's.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rusqlite::params;

use super::{Group, Worker};
use crate::store::block::{self, number};
use crate::store::gap::Reason;
use crate::store::imported;
use crate::store::{BatchKey, Error, FrozenBatch, Lane, Outcome, Want};

impl Worker {
    /// `at` is the boot clock, the same for all lanes of a group: by that what shares a commit is known.
    pub(super) fn append(&mut self, lane: Lane, group: &Group, at: Duration) -> Result<(), Error> {
        let text = &group.staged.lanes[lane.index()];
        if text.count == 0 {
            return Ok(());
        }
        self.begin()?;
        self.insert_text(lane, text, at)
    }

    /// Notes what the group takes over from another program's queue.
    pub(super) fn note_imported(&mut self, group: &Group) -> Result<(), Error> {
        if group.staged.imported.is_empty() {
            return Ok(());
        }
        self.begin()?;
        imported::note(&self.db, &group.staged.imported)
    }

    pub(super) fn settle(&mut self, key: BatchKey, outcome: &Outcome) -> Result<(), Error> {
        self.begin()?;
        let known = match outcome {
            Outcome::Delivered => self.queue.remove(&self.db, key)?,
            Outcome::Split => {
                let frozen_at = self.queue.frozen_at(key);
                let known = self.queue.split(&self.db, key)?;
                if let (true, Some(frozen_at)) = (known, frozen_at) {
                    self.audit_halves(key, frozen_at)?;
                }
                known
            }
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
        let now = self.clocks.unix_seconds();
        let (items, _) = self.read(key.lane, key.first, key.last, u64::MAX, usize::MAX)?;
        // Declared now, so what is dropped from there later makes no second gap.
        let time = block::times(&self.db, key.lane, key.first)?;
        self.note_lost(Reason::DeadLetter, key.lane, &[(key.first, key.last)], (key.first, &items), time)?;
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
        let forgotten = self
            .db
            .prepare_cached("DELETE FROM dead_letter WHERE id <= (SELECT max(id) FROM dead_letter) - ?1")
            .and_then(|mut delete| delete.execute([number(DEAD_LETTERS_MAX)]))
            .map_err(|source| Error::Sqlite {
                what: "cannot drop the oldest of what was set aside",
                source,
            })?;
        self.counters.dropped[key.lane.priority_index()].fetch_add(forgotten as u64, Relaxed);
        let kept = self.counters.dead_letters.load(Relaxed) + key.count();
        self.counters.dead_letters.store(kept.min(DEAD_LETTERS_MAX), Relaxed);
        Ok(())
    }

    pub(super) fn remember(&mut self, key: &str, value: &str) -> Result<(), Error> {
        self.begin()?;
        self.db
            .prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)")
            .and_then(|mut upsert| upsert.execute([key, value]))
            .map(|_| ())
            .map_err(|source| Error::Sqlite { what: "cannot remember a fact", source })
    }

    pub(super) fn next_batch(&mut self, want: &Want) -> Result<Option<FrozenBatch>, Error> {
        let logs_wait = self.queue.pending_of(Lane::Logs) > 0;
        let order =
            if logs_wait && self.batches_before_logs >= LOGS_TURN { LOGS_FIRST } else { Lane::DELIVERED };
        // All live data first: the backlog of an urgent lane is old news beside it.
        for backlog in [false, true] {
            if backlog && want.live_only {
                break;
            }
            for lane in order.into_iter().filter(|lane| !want.held[lane.priority_index()]) {
                if let Some(batch) = self.next_batch_of(lane, backlog, want)? {
                    self.batches_before_logs =
                        if logs_wait && lane != Lane::Logs { self.batches_before_logs + 1 } else { 0 };
                    return Ok(Some(batch));
                }
            }
        }
        Ok(None)
    }

    fn next_batch_of(
        &mut self,
        lane: Lane,
        backlog: bool,
        want: &Want,
    ) -> Result<Option<FrozenBatch>, Error> {
        if let Some((key, frozen_at)) = self.queue.frozen(lane, backlog, &want.avoid) {
            let (items, _) = self.read(lane, key.first, key.last, u64::MAX, usize::MAX)?;
            return Ok(Some(self.batch(key, frozen_at, backlog, items)));
        }
        self.begin()?;
        let since_boot = self.clocks.since_boot();
        if self.is_held(lane, since_boot) {
            return Ok(None);
        }
        let source = match backlog {
            false => self.queue.live(&self.db, lane, want, since_boot)?,
            true => self.queue.backlog(lane),
        };
        let Some(source) = source else { return Ok(None) };
        let last = source.last.min(source.first.saturating_add(u64::from(want.items_max)));
        self.correct_before_freezing(lane, source.first, last)?;
        let bytes_max = (want.bytes_max as usize).min(self.hold.delivery_bytes_max);
        let (items, last) =
            self.read(lane, source.first, source.last, u64::from(want.items_max), bytes_max)?;
        let frozen_at = self.wall(since_boot);
        let key = self.queue.freeze(&self.db, source, last, frozen_at, since_boot)?;
        self.audit_batch(key, &self.batch_id(key, frozen_at), frozen_at, items.len())?;
        Ok(Some(self.batch(key, frozen_at, backlog, items)))
    }

    fn batch(&self, key: BatchKey, frozen_at: f64, backlog: bool, mut items: Vec<u8>) -> FrozenBatch {
        for byte in &mut items {
            if *byte == b'\n' {
                *byte = b',';
            }
        }
        FrozenBatch { key, batch_id: self.batch_id(key, frozen_at), timestamp: frozen_at, items, backlog }
    }

    pub(super) fn batch_id(&self, key: BatchKey, frozen_at: f64) -> String {
        // Should damage take the commit that froze it, the same items may be frozen again at another time:
        // that is another batch.
        let micros = (frozen_at * 1e6) as u64;
        let (lane, BatchKey { first, last, .. }) = (key.lane as u8, key);
        format!("pyv-{}-{lane}-{first}-{last}-{micros:x}", self.store_id)
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
}

/// Logs get every so manieth batch at least: telemetry that outruns the endpoint would starve them.
const LOGS_TURN: u32 = 15;
const LOGS_FIRST: [Lane; 6] =
    [Lane::Logs, Lane::Critical, Lane::Anomaly, Lane::Telemetry, Lane::Minute, Lane::Quarter];
/// Items set aside; beyond it the oldest go, or an endpoint that refuses one sensor for years would leave
/// no room for anything else.
const DEAD_LETTERS_MAX: u64 = 10_000;
