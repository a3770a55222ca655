//! Copies rows into the new database, each checked for itself, and keeps what has to be judged together.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use super::account::{Account, Known, Span, Waiting, sorted};
use super::catalogue::{Catalogue, Table};
use super::is_store_id;
use super::record::Row;
use super::walk::Walk;
use crate::store::block::{self, Codec, number};
use crate::store::{Error, Lane};

/// What was copied, and what is to be judged once all of it is there.
#[derive(Debug, Default)]
pub struct Copied {
    pub store_id: Option<String>,
    pub blocks_lost: u64,
    /// Everything that was settled or declared was read.
    pub is_ledger_whole: bool,
    is_queue_whole: bool,
    /// By lane: no block with the highest numbers is missing, as far as the pages tell.
    is_end_whole: [bool; Lane::ALL.len()],
    waiting: [Vec<Waiting>; Lane::ALL.len()],
    settled: [Vec<Span>; Lane::ALL.len()],
    next: [u64; Lane::ALL.len()],
}

/// Copies every row of every table.
///
/// # Errors
///
/// The new database cannot be written.
pub fn all(
    walk: &mut Walk<'_>,
    catalogue: &Catalogue,
    db: &Connection,
    tick: &dyn Fn(),
) -> Result<Copied, Error> {
    let mut copier = Copier { db, codec: Codec::new()?, copied: Copied::default(), rows: 0, failure: None };
    copier.copied.next = [1; Lane::ALL.len()];
    let mut is_whole = vec![catalogue.is_whole; catalogue.tables.len()];
    let mut is_end_whole = is_whole.clone();
    copier.begin();
    for (index, table) in catalogue.tables.iter().enumerate() {
        let Some(root) = table.root else { continue };
        let (mut taken, mut end) = (true, End::default());
        let whole = walk.down(root, &mut |row| {
            let key = row.rowid;
            let is_kept = copier.take(table, row);
            end.note(key, is_kept);
            taken &= is_kept;
        });
        is_whole[index] &= whole && taken;
        is_end_whole[index] &= whole && end.is_whole();
        tick();
        copier.check()?;
    }
    if is_whole.iter().any(|whole| !whole) || walk.pages.broken().next().is_some() {
        walk.orphans(&mut |index, row| {
            copier.take(&catalogue.tables[index], row);
        });
    }
    copier.finish()?;
    let all = |are: &[bool], name: &str| {
        catalogue.tables.iter().zip(are).all(|(table, is)| table.name != name || *is)
    };
    let whole = |name: &str| all(&is_whole, name);
    let mut copied = copier.copied;
    copied.is_queue_whole &= whole("pending");
    copied.is_ledger_whole = whole("gap") && whole("dead_letter");
    copied.is_end_whole = Lane::ALL.map(|lane| all(&is_end_whole, lane.table()));
    Ok(copied)
}

/// Whether the last rows of a table are there. One that was lost within is known to be within by a row that
/// follows it in the tree and has a higher number.
#[derive(Default)]
struct End {
    lost: Option<Option<i64>>,
}

impl End {
    fn note(&mut self, key: Option<i64>, is_kept: bool) {
        match (is_kept, self.lost) {
            (false, None) => self.lost = Some(key),
            (false, Some(lost)) => self.lost = Some(lost.zip(key).map(|(lost, key)| lost.max(key))),
            (true, Some(Some(lost))) if key.is_some_and(|key| key > lost) => self.lost = None,
            (true, _) => {}
        }
    }

    fn is_whole(&self) -> bool {
        self.lost.is_none()
    }
}

struct Copier<'c> {
    db: &'c Connection,
    codec: Codec,
    copied: Copied,
    /// In the open transaction.
    rows: u32,
    failure: Option<Error>,
}

impl Copier<'_> {
    fn begin(&mut self) {
        self.copied.is_queue_whole = true;
        self.run("BEGIN");
    }

    /// Copies a row; false when it is lost.
    fn take(&mut self, table: &Table, row: Row) -> bool {
        if self.failure.is_some() {
            return true;
        }
        let mut row = Named { table, row };
        if let (Some(at), Some(rowid)) = (table.rowid, row.row.rowid)
            && let Some(value) = row.row.values.get_mut(at)
        {
            *value = Value::Integer(rowid);
        }
        self.rows += 1;
        if self.rows >= TRANSACTION_ROWS_MAX {
            self.rows = 0;
            self.run("COMMIT; BEGIN");
        }
        if let Some(lane) = Lane::ALL.into_iter().find(|lane| lane.table() == table.name) {
            return self.block(lane, &row);
        }
        match table.name.as_str() {
            "pending" => self.range(&row),
            "meta" => self.fact(&row),
            "lane" => self.lane(&row),
            "sqlite_sequence" => self.last_id(&row),
            _ => self.plain(&row),
        }
    }

    fn block(&mut self, lane: Lane, row: &Named<'_>) -> bool {
        let kept = self.block_or_lost(lane, row);
        match kept {
            Some(kept) => kept,
            None => {
                self.copied.blocks_lost += 1;
                false
            }
        }
    }

    fn block_or_lost(&mut self, lane: Lane, row: &Named<'_>) -> Option<bool> {
        let (first, Value::Blob(data)) = (row.number("first")?, row.get("data")?) else { return None };
        let raw_bytes = usize::try_from(row.integer("raw_bytes")?).ok()?;
        let lines = self.codec.decompress(data, raw_bytes).ok()?;
        let count = lines.iter().filter(|byte| **byte == b'\n').count() as u64;
        if count == 0 || !lines.ends_with(b"\n") || row.number("count")? != count {
            return None;
        }
        let overlapping: rusqlite::Result<Option<(i64, i64, i64)>> = self
            .db
            .prepare_cached(&format!(
                "SELECT first, count, length(data) FROM {} WHERE first < ?1 ORDER BY first DESC LIMIT 1",
                table_of(lane)
            ))
            .and_then(|mut select| {
                let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
                select.query_row([number(first + count)], read).optional()
            });
        match self.ok(overlapping)? {
            // The same block again, from another copy of its page.
            Some((other, others, bytes))
                if other == number(first) && others == number(count) && bytes == data.len() as i64 =>
            {
                return Some(true);
            }
            Some((other, others, _)) if other.saturating_add(others) > number(first) => return None,
            _ => {}
        }
        let written = self.insert(row)?;
        Some(written)
    }

    fn range(&mut self, row: &Named<'_>) -> bool {
        let read = || {
            let lane = Lane::from_number(row.integer("lane")?).filter(|lane| *lane != Lane::Local)?;
            let first = row.number("first")?;
            let end = match row.get("last")? {
                Value::Null => None,
                Value::Integer(last) => Some(u64::try_from(*last).ok()?.checked_add(1)?),
                _ => return None,
            };
            let frozen_at = match row.get("frozen_at")? {
                Value::Null => None,
                Value::Real(at) if at.is_finite() => Some(*at),
                Value::Integer(at) => Some(*at as f64),
                _ => return None,
            };
            let is_sane = end.is_none_or(|end| end > first && end < NUMBER_MAX)
                && (end.is_some() || frozen_at.is_none());
            let is_backlog = row.integer("backlog").is_some_and(|backlog| backlog != 0);
            is_sane.then_some((lane, Waiting { first, end, frozen_at, is_backlog }))
        };
        match read() {
            Some((lane, range)) if self.copied.waiting[lane.index()].len() < RANGES_MAX => {
                self.copied.waiting[lane.index()].push(range);
                true
            }
            _ => {
                self.copied.is_queue_whole = false;
                false
            }
        }
    }

    fn fact(&mut self, row: &Named<'_>) -> bool {
        let [Value::Text(key), Value::Text(value)] = &row.row.values[..] else { return false };
        if key == "store_id" {
            self.copied.store_id = Some(value.clone()).filter(|id| is_store_id(id));
            return self.copied.store_id.is_some();
        }
        // The new file is in use by nobody yet.
        key == crate::store::open::IN_USE_KEY || self.plain(row)
    }

    fn lane(&mut self, row: &Named<'_>) -> bool {
        let lane = row.integer("lane").and_then(Lane::from_number);
        let (Some(lane), Some(next)) = (lane, row.number("next_sequence")) else { return false };
        let known = &mut self.copied.next[lane.index()];
        *known = (*known).max(next);
        true
    }

    /// So that numbers of rows are not given out again, as those of the new table would be.
    fn last_id(&mut self, row: &Named<'_>) -> bool {
        let (Some(Value::Text(name)), Some(id)) = (row.get("name"), row.integer("seq")) else { return false };
        let updated = self
            .db
            .execute("UPDATE sqlite_sequence SET seq = max(seq, ?1) WHERE name = ?2", params![id, name])
            .and_then(|rows| match rows {
                0 => self
                    .db
                    .execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?1, ?2)", params![name, id]),
                rows => Ok(rows),
            });
        self.ok(updated).is_some()
    }

    fn plain(&mut self, row: &Named<'_>) -> bool {
        self.note_settled(row);
        self.insert(row).unwrap_or(false)
    }

    /// Numbers that are accounted for already.
    fn note_settled(&mut self, row: &Named<'_>) {
        let Some(lane) = row.integer("lane").and_then(Lane::from_number) else { return };
        let span = match row.table.name.as_str() {
            "dead_letter" => row.number("sequence").map(|sequence| (sequence, sequence)),
            "gap" => row.number("first").zip(row.number("last")),
            _ => None,
        };
        let Some((first, last)) = span.filter(|(first, last)| first <= last) else { return };
        let settled = &mut self.copied.settled[lane.index()];
        settled.push((first, last + 1));
        if settled.len() >= SPANS_SORTED_AT && settled.len().is_power_of_two() {
            *settled = sorted(std::mem::take(settled));
        }
    }

    /// Inserts the row with the columns it has; `Some(false)` when the table refuses it.
    fn insert(&mut self, row: &Named<'_>) -> Option<bool> {
        let columns = &row.table.columns[..row.row.values.len().min(row.table.columns.len())];
        let holes = vec!["?"; columns.len()].join(", ");
        let sql =
            format!("INSERT OR IGNORE INTO {} ({}) VALUES ({holes})", row.table.name, columns.join(", "));
        let values = row.row.values.iter().take(columns.len());
        let inserted =
            self.db.prepare_cached(&sql).and_then(|mut insert| insert.execute(params_from_iter(values)));
        self.ok(inserted).map(|_| true)
    }

    /// Keeps a failure of the disk; what only this row is to blame for is `None` too, and no failure.
    fn ok<T>(&mut self, result: rusqlite::Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(source) => {
                if !is_about_the_row(&source) {
                    self.failure = Some(Error::Sqlite { what: "cannot write the salvaged database", source });
                }
                None
            }
        }
    }

    fn run(&mut self, sql: &str) {
        let result = self.db.execute_batch(sql);
        self.ok(result);
    }

    fn check(&mut self) -> Result<(), Error> {
        self.failure.take().map_or(Ok(()), Err)
    }

    fn finish(&mut self) -> Result<(), Error> {
        self.check()?;
        self.run("COMMIT");
        self.check()
    }
}

fn is_about_the_row(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => matches!(
            failure.code,
            rusqlite::ErrorCode::ConstraintViolation
                | rusqlite::ErrorCode::TypeMismatch
                | rusqlite::ErrorCode::TooBig
        ),
        _ => false,
    }
}

struct Named<'n> {
    table: &'n Table,
    row: Row,
}

impl Named<'_> {
    fn get(&self, column: &str) -> Option<&Value> {
        self.row.values.get(self.table.columns.iter().position(|name| name == column)?)
    }

    fn integer(&self, column: &str) -> Option<i64> {
        match self.get(column)? {
            Value::Integer(value) => Some(*value),
            _ => None,
        }
    }

    /// A sequence number or a count.
    fn number(&self, column: &str) -> Option<u64> {
        u64::try_from(self.integer(column)?).ok().filter(|number| (1..NUMBER_MAX).contains(number))
    }
}

impl Copied {
    /// What is known of `lane` once its blocks are in the new database `db`.
    pub fn known(&mut self, db: &Connection, lane: Lane, loses_commits: bool) -> rusqlite::Result<Known> {
        let stored = stored(db, lane)?;
        let index = lane.index();
        let waiting = std::mem::take(&mut self.waiting[index]);
        let settled = std::mem::take(&mut self.settled[index]);
        let ends = stored.iter().chain(&settled).map(|span| span.1);
        let waited = waiting.iter().map(|range| range.end.unwrap_or(range.first));
        Ok(Known {
            next: ends.chain(waited).chain([self.next[index]]).max().unwrap_or(1),
            // Each lane has its growing range from the first start on.
            is_queue_whole: self.is_queue_whole
                && (waiting.iter().any(|range| range.end.is_none()) || stored.is_empty()),
            is_ledger_whole: self.is_ledger_whole,
            is_end_lost: loses_commits || !self.is_end_whole[index],
            stored,
            waiting,
            settled,
        })
    }
}

fn stored(db: &Connection, lane: Lane) -> rusqlite::Result<Vec<Span>> {
    let mut select = db.prepare(&format!("SELECT first, count FROM {} ORDER BY first", table_of(lane)))?;
    let mut rows = select.query([])?;
    let mut spans: Vec<Span> = Vec::new();
    while let Some(row) = rows.next()? {
        let (first, count) = (row.get::<_, i64>(0)?.unsigned_abs(), row.get::<_, i64>(1)?.unsigned_abs());
        match spans.last_mut() {
            Some(last) if last.1 == first => last.1 = first + count,
            _ => spans.push((first, first + count)),
        }
    }
    Ok(spans)
}

/// Writes the queue and the next number of `lane`.
pub fn write_lane(db: &Connection, lane: Lane, account: &Account) -> rusqlite::Result<()> {
    let mut insert = db.prepare_cached(
        "INSERT INTO pending (lane, first, last, frozen_at, backlog) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for range in &account.waiting {
        let last = range.end.map(|end| number(end - 1));
        insert.execute(params![lane as i64, number(range.first), last, range.frozen_at, range.is_backlog])?;
    }
    if lane != Lane::Local {
        insert.execute(params![lane as i64, number(account.next), None::<i64>, None::<f64>, false])?;
    }
    db.execute(
        "INSERT OR REPLACE INTO lane (lane, next_sequence) VALUES (?1, ?2)",
        params![lane as i64, number(account.next)],
    )
    .map(drop)
}

fn table_of(lane: Lane) -> &'static str {
    block::TABLES[lane.index()]
}

/// Rows in one transaction of the new database.
const TRANSACTION_ROWS_MAX: u32 = 1000;
/// Ranges of one lane; the queue keeps far fewer.
const RANGES_MAX: usize = 100_000;
/// Spans are joined when there are so many.
const SPANS_SORTED_AT: usize = 4096;
/// No sequence number and no count comes near: a larger one is damaged.
const NUMBER_MAX: u64 = 1 << 53;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_row_is_known_to_be_within_by_a_later_one_that_follows_it() {
        let is_whole = |rows: &[(i64, bool)]| {
            let mut end = End::default();
            rows.iter().for_each(|(key, is_kept)| end.note(Some(*key), *is_kept));
            end.is_whole()
        };
        assert!(is_whole(&[]) && is_whole(&[(1, true), (5, false), (9, true)]));
        assert!(!is_whole(&[(1, true), (5, false)]), "it may have been the last");
        assert!(!is_whole(&[(1, true), (50, false), (9, true)]), "its number is not in order");
        assert!(!is_whole(&[(1, true), (50, false), (9, false), (20, true)]));
        let mut end = End::default();
        end.note(None, false);
        end.note(Some(9), true);
        assert!(!end.is_whole(), "a row without a number may stand anywhere");
    }
}
