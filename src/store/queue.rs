//! The delivery queue: which ranges of each lane are undelivered, and which of them are frozen.
//!
//! The ranges live in the table `pending`; this is their image in memory. Changes go to both inside
//! the caller's transaction; after a rollback the image is loaded again.

use std::time::Duration;

use rusqlite::{Connection, params};

use super::block::number;
use super::{BatchKey, Error, Lane, Pending, Want};

/// Undelivered data this old, and more than a batch of it, is backlog: newer data goes first.
const BACKLOG_AGE: Duration = Duration::from_secs(30);
/// While there is backlog, live data that does not fill a batch is sent after this long.
const LIVE_WAIT: Duration = Duration::from_secs(2);
/// Most ranges in the queue; beyond it, backlog is not split off any more and goes out in order.
const RANGES_MAX: usize = 256;

/// An undelivered range. `last` is `None` in the one that grows with its lane.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Range {
    id: i64,
    lane: Lane,
    first: u64,
    last: Option<u64>,
    frozen_at: Option<f64>,
    /// Frozen as backlog.
    backlog: bool,
}

/// Where the items of a new batch come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Source {
    id: i64,
    pub lane: Lane,
    pub first: u64,
    /// The last sequence number it may reach.
    pub last: u64,
    pub backlog: bool,
}

#[derive(Debug)]
pub struct Queue {
    /// In order of (lane, first).
    ranges: Vec<Range>,
    /// The sequence number that the next item of each lane gets.
    next: [u64; 7],
    /// Boot-clock time since when the growing range of a lane holds items without progress.
    waiting_since: [Option<Duration>; 7],
}

impl Queue {
    /// Reads the ranges; makes the growing range of a lane that has none.
    pub fn load(db: &Connection, next: [u64; 7]) -> Result<Self, Error> {
        let mut queue = Self { ranges: read_ranges(db)?, next, waiting_since: [None; 7] };
        for lane in Lane::DELIVERED {
            if queue.growing(lane).is_none() {
                queue.insert(db, lane, (queue.next[lane.index()], None), None, false)?;
            }
            if queue.live_count(lane) > 0 {
                // Whatever an earlier run left is old.
                queue.waiting_since[lane.index()] = Some(Duration::ZERO);
            }
        }
        Ok(queue)
    }

    pub fn next_sequence(&self, lane: Lane) -> u64 {
        self.next[lane.index()]
    }

    pub fn next_sequences(&self) -> [u64; 7] {
        self.next
    }

    /// Notes that `count` items were appended to `lane`.
    pub fn appended(&mut self, lane: Lane, count: u32, since_boot: Duration) {
        self.next[lane.index()] += u64::from(count);
        self.waiting_since[lane.index()].get_or_insert(since_boot);
    }

    pub fn pending(&self) -> Pending {
        let mut pending = Pending::default();
        for range in &self.ranges {
            pending.items[range.lane.priority_index()] += self.end(range) - range.first;
        }
        pending
    }

    /// The frozen batch of `lane`, live or backlog, that is sent first; none of those in `avoid`.
    pub fn frozen(&self, lane: Lane, backlog: bool, avoid: &[Option<BatchKey>]) -> Option<(BatchKey, f64)> {
        self.ranges.iter().filter(|range| range.lane == lane && range.backlog == backlog).find_map(|range| {
            let key = BatchKey { lane, first: range.first, last: range.last? };
            let frozen_at = range.frozen_at?;
            (!avoid.contains(&Some(key))).then_some((key, frozen_at))
        })
    }

    /// One behind the last item of the frozen batches that have items in `first..end`.
    pub fn frozen_until(&self, lane: Lane, first: u64, end: u64) -> Option<u64> {
        let frozen = self.within(lane, first, end).filter(|range| range.frozen_at.is_some());
        frozen.map(|range| self.end(range)).max()
    }

    /// One behind the last item of the undelivered ranges that have items in `first..end`.
    pub fn pending_until(&self, lane: Lane, first: u64, end: u64) -> Option<u64> {
        self.within(lane, first, end).map(|range| self.end(range)).max()
    }

    /// Undelivered items of `lane`.
    pub fn pending_of(&self, lane: Lane) -> u64 {
        let of_lane = self.ranges.iter().filter(|range| range.lane == lane);
        of_lane.map(|range| self.end(range) - range.first).sum()
    }

    /// The parts of `lane` that are undelivered and not frozen, in order: first number, and the one behind the
    /// last.
    pub fn open_parts(&self, lane: Lane) -> impl Iterator<Item = (u64, u64)> {
        let open = move |range: &&Range| range.lane == lane && range.frozen_at.is_none();
        let parts = self.ranges.iter().filter(open).map(|range| (range.first, self.end(range)));
        parts.filter(|(first, end)| first < end)
    }

    /// Whether item `sequence` of `lane` is undelivered.
    pub fn is_pending(&self, lane: Lane, sequence: u64) -> bool {
        self.within(lane, sequence, sequence + 1).next().is_some()
    }

    /// The lowest undelivered sequence number of `lane`.
    pub fn lowest(&self, lane: Lane) -> Option<u64> {
        let held = |range: &&Range| range.lane == lane && self.end(range) > range.first;
        self.ranges.iter().find(held).map(|range| range.first)
    }

    /// Where the next live batch of `lane` comes from. What is no longer live becomes backlog.
    pub fn live(
        &mut self,
        db: &Connection,
        lane: Lane,
        want: &Want,
        since_boot: Duration,
    ) -> Result<Option<Source>, Error> {
        let live = self.live_count(lane);
        let age =
            self.waiting_since[lane.index()].map_or(Duration::ZERO, |since| since_boot.saturating_sub(since));
        let full = live >= u64::from(want.items_max);
        if full && age >= BACKLOG_AGE && self.ranges.len() < RANGES_MAX {
            self.close_growing(db, lane)?;
            return Ok(None);
        }
        let ready = match self.backlog(lane) {
            Some(_) => full || live > 0 && (lane.is_urgent() || age >= LIVE_WAIT),
            None => full || live > 0 && (lane.is_urgent() || want.partial),
        };
        if !ready {
            return Ok(None);
        }
        Ok(self.growing(lane).map(|range| Source {
            id: range.id,
            lane,
            first: range.first,
            last: self.next[lane.index()] - 1,
            backlog: false,
        }))
    }

    /// Where the next batch of backlog of `lane` comes from: the oldest.
    pub fn backlog(&self, lane: Lane) -> Option<Source> {
        self.ranges.iter().filter(|range| range.lane == lane && range.frozen_at.is_none()).find_map(|range| {
            Some(Source { id: range.id, lane, first: range.first, last: range.last?, backlog: true })
        })
    }

    /// Freezes `source.first..=last` as a batch.
    pub fn freeze(
        &mut self,
        db: &Connection,
        source: Source,
        last: u64,
        frozen_at: f64,
        since_boot: Duration,
    ) -> Result<BatchKey, Error> {
        self.advance(db, source.id, last + 1)?;
        self.insert(db, source.lane, (source.first, Some(last)), Some(frozen_at), source.backlog)?;
        let index = source.lane.index();
        self.waiting_since[index] = (self.live_count(source.lane) > 0).then_some(since_boot);
        Ok(BatchKey { lane: source.lane, first: source.first, last })
    }

    /// Forgets a frozen batch: delivered, or set aside. False when there is no such batch.
    pub fn remove(&mut self, db: &Connection, key: BatchKey) -> Result<bool, Error> {
        let Some(id) = self.frozen_id(key) else { return Ok(false) };
        self.delete(db, id)?;
        Ok(true)
    }

    /// Replaces a frozen batch of two or more items by its halves.
    pub fn split(&mut self, db: &Connection, key: BatchKey) -> Result<bool, Error> {
        let Some(id) = self.frozen_id(key) else { return Ok(false) };
        if key.count() < 2 {
            return Ok(false);
        }
        let whole = self.ranges.iter().find(|range| range.id == id).copied();
        let (frozen_at, backlog) = whole.map_or((None, false), |range| (range.frozen_at, range.backlog));
        let middle = key.first + key.count() / 2;
        self.delete(db, id)?;
        self.insert(db, key.lane, (key.first, Some(middle - 1)), frozen_at, backlog)?;
        self.insert(db, key.lane, (middle, Some(key.last)), frozen_at, backlog)?;
        Ok(true)
    }

    /// Gives up what is undelivered and not frozen in `first..end`; returns the first and last number of
    /// each part that was.
    pub fn give_up(
        &mut self,
        db: &Connection,
        lane: Lane,
        first: u64,
        end: u64,
    ) -> Result<Vec<(u64, u64)>, Error> {
        let open = |range: &&Range| range.frozen_at.is_none();
        let affected: Vec<Range> = self.within(lane, first, end).filter(open).copied().collect();
        let mut dropped = Vec::new();
        for range in affected {
            let (from, upto) = (first.max(range.first), end.min(self.end(&range)));
            dropped.push((from, upto - 1));
            self.advance(db, range.id, upto)?;
            if range.first < from {
                // It shares its block with a frozen batch, so it stays.
                self.insert(db, lane, (range.first, Some(from - 1)), None, false)?;
            }
        }
        Ok(dropped)
    }

    /// The ranges that have items in `first..end`.
    fn within(&self, lane: Lane, first: u64, end: u64) -> impl Iterator<Item = &Range> {
        let has =
            move |range: &&Range| range.lane == lane && range.first.max(first) < self.end(range).min(end);
        self.ranges.iter().filter(has)
    }

    fn growing(&self, lane: Lane) -> Option<&Range> {
        self.ranges.iter().find(|range| range.lane == lane && range.last.is_none())
    }

    fn live_count(&self, lane: Lane) -> u64 {
        self.growing(lane).map_or(0, |range| self.end(range) - range.first)
    }

    /// When the batch `key` was frozen, Unix seconds.
    pub fn frozen_at(&self, key: BatchKey) -> Option<f64> {
        let id = self.frozen_id(key)?;
        self.ranges.iter().find(|range| range.id == id)?.frozen_at
    }

    fn frozen_id(&self, key: BatchKey) -> Option<i64> {
        let is_it = |range: &&Range| {
            range.lane == key.lane
                && range.first == key.first
                && range.last == Some(key.last)
                && range.frozen_at.is_some()
        };
        self.ranges.iter().find(is_it).map(|range| range.id)
    }

    /// One behind the last sequence number of `range`.
    fn end(&self, range: &Range) -> u64 {
        range.last.map_or(self.next[range.lane.index()], |last| last + 1)
    }

    /// Turns what the growing range holds into backlog and starts it anew behind that.
    fn close_growing(&mut self, db: &Connection, lane: Lane) -> Result<(), Error> {
        let Some(range) = self.growing(lane).copied() else { return Ok(()) };
        let next = self.next[lane.index()];
        self.advance(db, range.id, next)?;
        self.insert(db, lane, (range.first, Some(next - 1)), None, false)?;
        self.waiting_since[lane.index()] = None;
        Ok(())
    }

    /// Moves the start of a range to `first`; a closed range that is used up disappears.
    fn advance(&mut self, db: &Connection, id: i64, first: u64) -> Result<(), Error> {
        let range =
            self.ranges.iter_mut().find(|range| range.id == id).expect("the caller found it in the queue");
        range.first = first;
        if range.last.is_some_and(|last| first > last) {
            return self.delete(db, id);
        }
        write(db, "UPDATE pending SET first = ?1 WHERE id = ?2", params![number(first), id])?;
        self.sort();
        Ok(())
    }

    fn insert(
        &mut self,
        db: &Connection,
        lane: Lane,
        (first, last): (u64, Option<u64>),
        frozen_at: Option<f64>,
        backlog: bool,
    ) -> Result<(), Error> {
        let insert =
            "INSERT INTO pending (lane, first, last, frozen_at, backlog) VALUES (?1, ?2, ?3, ?4, ?5)";
        write(db, insert, params![lane as i64, number(first), last.map(number), frozen_at, backlog])?;
        self.ranges.push(Range { id: db.last_insert_rowid(), lane, first, last, frozen_at, backlog });
        self.sort();
        Ok(())
    }

    fn delete(&mut self, db: &Connection, id: i64) -> Result<(), Error> {
        write(db, "DELETE FROM pending WHERE id = ?1", params![id])?;
        self.ranges.retain(|range| range.id != id);
        Ok(())
    }

    fn sort(&mut self) {
        self.ranges.sort_by_key(|range| (range.lane, range.first, range.last.is_none()));
    }
}

fn read_ranges(db: &Connection) -> Result<Vec<Range>, Error> {
    let failed = |source| Error::Sqlite { what: "cannot read the delivery queue", source };
    let mut select = db
        .prepare("SELECT id, lane, first, last, frozen_at, backlog FROM pending ORDER BY lane, first")
        .map_err(failed)?;
    let rows = select
        .query_map([], |row| {
            Ok((
                row.get(0)?,
                row.get::<_, i64>(1)?,
                row.get::<_, i64>(2)?,
                row.get::<_, Option<i64>>(3)?,
                row.get(4)?,
                row.get(5)?,
            ))
        })
        .map_err(failed)?;
    let mut ranges = Vec::new();
    for row in rows {
        let (id, lane, first, last, frozen_at, backlog) = row.map_err(failed)?;
        let lane = Lane::from_number(lane).ok_or_else(|| Error::Damaged {
            what: "the delivery queue",
            detail: format!("range {id} is in lane {lane}"),
        })?;
        ranges.push(Range {
            id,
            lane,
            first: first.unsigned_abs(),
            last: last.map(i64::unsigned_abs),
            frozen_at,
            backlog,
        });
    }
    Ok(ranges)
}

fn write(db: &Connection, sql: &str, parameters: &[&dyn rusqlite::ToSql]) -> Result<(), Error> {
    db.prepare_cached(sql)
        .and_then(|mut statement| statement.execute(parameters))
        .map(|_| ())
        .map_err(|source| Error::Sqlite { what: "cannot write the delivery queue", source })
}
