//! Deletes what a person no longer wants to keep, while no agent runs: whole blocks, never a part of a
//! batch that was begun, and what was not delivered is declared as a gap.

use std::path::Path;

use rusqlite::{Connection, params};
use serde::Serialize;

use super::block::{self, number};
use super::gap::{self, Gap, Reason};
use super::inspect::open_read_only;
use super::names::Names;
use super::queue::Queue;
use super::{Error, Lane, schema, worker};

/// What goes.
#[derive(Clone, Debug)]
pub struct Filter {
    /// All of them when empty.
    pub lanes: Vec<Lane>,
    /// Blocks whose newest item is older, Unix seconds.
    pub before: Option<f64>,
    /// Also what waits for delivery.
    pub undelivered: bool,
}

/// What went, or would go, from one lane.
#[derive(Debug, Serialize)]
pub struct LanePurge {
    pub name: &'static str,
    pub blocks: u64,
    pub items: u64,
    /// Of those, what was not delivered.
    pub undelivered: u64,
    /// As it is stored.
    pub bytes: u64,
}

/// Says what [`purge`] would delete; reads only, also while an agent runs.
///
/// # Errors
///
/// The database cannot be read.
pub fn plan(path: &Path, filter: &Filter) -> Result<Vec<LanePurge>, Error> {
    let db = open_read_only(path)?;
    let ranges = Ranges::read(&db)?;
    filter.lanes().map(|lane| Ok(summary(lane, &candidates(&db, &ranges, lane, filter)?))).collect()
}

/// Deletes what `filter` says, in commits of some hundred blocks each, and gives the room back to the file
/// system. The caller holds the lock of the state directory. `noted_at` is the wall clock, Unix seconds.
///
/// # Errors
///
/// The database cannot be read or written; what was committed until then is deleted.
pub fn purge(path: &Path, filter: &Filter, noted_at: f64) -> Result<Vec<LanePurge>, Error> {
    let (mut db, store_id) = schema::open(path)?;
    schema::close_tidily(&db)?;
    // Closing it empties the WAL in order, whatever the last stop was.
    super::open::end_use(&db)?;
    let ranges = Ranges::read(&db)?;
    let mut purged = Vec::new();
    for lane in filter.lanes() {
        let found = candidates(&db, &ranges, lane, filter)?;
        for chunk in found.chunks(BLOCKS_PER_COMMIT) {
            delete(&mut db, &store_id, lane, chunk, noted_at)?;
        }
        purged.push(summary(lane, &found));
    }
    db.execute_batch("PRAGMA incremental_vacuum; PRAGMA wal_checkpoint(TRUNCATE)")
        .map_err(|source| Error::Sqlite { what: "cannot shrink the database", source })?;
    Ok(purged)
}

/// A block that may go.
struct Candidate {
    first: u64,
    end: u64,
    undelivered: u64,
    bytes: u64,
}

fn candidates(
    db: &Connection,
    ranges: &Ranges,
    lane: Lane,
    filter: &Filter,
) -> Result<Vec<Candidate>, Error> {
    let failed = |source| Error::Sqlite { what: "cannot read the blocks", source };
    let sql =
        format!("SELECT first, count, length(data) FROM {} WHERE time_max < ?1 ORDER BY first", lane.table());
    let mut select = db.prepare(&sql).map_err(failed)?;
    let before = filter.before.unwrap_or(f64::INFINITY);
    let rows = select
        .query_map([before], |row| {
            let number = |index| row.get::<_, i64>(index).map(i64::unsigned_abs);
            let first = number(0)?;
            Ok(Candidate { first, end: first + number(1)?, undelivered: 0, bytes: number(2)? })
        })
        .map_err(failed)?;
    let mut found = Vec::new();
    for row in rows {
        let mut block = row.map_err(failed)?;
        let Some(undelivered) = ranges.undelivered(lane, block.first, block.end) else { continue };
        block.undelivered = undelivered;
        if undelivered == 0 || filter.undelivered {
            found.push(block);
        }
    }
    Ok(found)
}

fn delete(
    db: &mut Connection,
    store_id: &str,
    lane: Lane,
    blocks: &[Candidate],
    noted_at: f64,
) -> Result<(), Error> {
    let failed = |source| Error::Sqlite { what: "cannot delete blocks", source };
    let transaction = db.transaction().map_err(failed)?;
    let next = worker::next_sequences(&transaction)?;
    let mut queue = Queue::load(&transaction, next)?;
    // So that a lane whose last block goes does not give out its numbers again.
    transaction
        .execute(
            "INSERT OR REPLACE INTO lane (lane, next_sequence) VALUES (?1, ?2)",
            params![lane as i64, number(next[lane.index()])],
        )
        .map_err(failed)?;
    for block in blocks {
        let time = block::times(&transaction, lane, block.first)?;
        for (first, last) in queue.give_up(&transaction, lane, block.first, block.end)? {
            let gap = Gap {
                reason: Reason::Purged,
                store_id: store_id.to_owned(),
                lane: Some(lane),
                span: Some((first, last)),
                count: last - first + 1,
                time,
                sensors: Names::default().into_vec(),
            };
            gap::record(&transaction, &gap, noted_at)?;
        }
        block::delete(&transaction, lane, block.first)?;
    }
    transaction.commit().map_err(failed)
}

fn summary(lane: Lane, blocks: &[Candidate]) -> LanePurge {
    LanePurge {
        name: lane.name(),
        blocks: blocks.len() as u64,
        items: blocks.iter().map(|block| block.end - block.first).sum(),
        undelivered: blocks.iter().map(|block| block.undelivered).sum(),
        bytes: blocks.iter().map(|block| block.bytes).sum(),
    }
}

impl Filter {
    fn lanes(&self) -> impl Iterator<Item = Lane> {
        Lane::ALL.into_iter().filter(|lane| self.lanes.is_empty() || self.lanes.contains(lane))
    }
}

/// What waits for delivery, as the table `pending` says.
struct Ranges(Vec<Range>);

struct Range {
    lane: i64,
    first: u64,
    last: u64,
    is_frozen: bool,
}

impl Ranges {
    fn read(db: &Connection) -> Result<Self, Error> {
        let read = |row: &rusqlite::Row<'_>| {
            Ok(Range {
                lane: row.get(0)?,
                first: row.get::<_, i64>(1)?.unsigned_abs(),
                last: row.get::<_, Option<i64>>(2)?.map_or(u64::MAX, i64::unsigned_abs),
                is_frozen: row.get(3)?,
            })
        };
        db.prepare("SELECT lane, first, last, frozen_at IS NOT NULL FROM pending")
            .and_then(|mut select| select.query_map([], read)?.collect())
            .map(Self)
            .map_err(|source| Error::Sqlite { what: "cannot read the delivery queue", source })
    }

    /// Undelivered items in `first..end`; `None` when some of them are in a batch that was begun.
    fn undelivered(&self, lane: Lane, first: u64, end: u64) -> Option<u64> {
        let mut count = 0;
        for range in self.0.iter().filter(|range| range.lane == lane as i64) {
            let (from, last) = (range.first.max(first), range.last.min(end - 1));
            if from <= last {
                if range.is_frozen {
                    return None;
                }
                count += last - from + 1;
            }
        }
        Some(count)
    }
}

/// Which bounds the log that a commit fills.
const BLOCKS_PER_COMMIT: usize = 256;
