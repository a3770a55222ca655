//! Blocks: the items of one lane and one commit, as zstd-compressed JSON lines, or as the columns of
//! those where that is shorter.

mod statement;

use std::ops::ControlFlow;

use rusqlite::{Connection, OptionalExtension, params};

pub use statement::{TABLES, create_tables, tables_from_1, tables_from_2};

use super::boot::BootTime;
use super::staged::{LaneText, Piece};
use super::{Error, Lane, columns};
use statement::{
    DELETE, DELETE_WITHIN, EACH, FIND_AFTER, FIND_HOLDING, HEAD_OF, INSERT, LOWEST, NEWEST, NEWEST_AT,
    NEWEST_MESSAGES, REPLACE, TIME_OF, TIMES, sql,
};

/// Of the columns of readings; higher levels gain little.
const ZSTD_LEVEL: i32 = 1;
/// What is longer than this in bytes of JSON becomes several blocks; a single longer item stays whole.
pub const PIECE_BYTES_MAX: usize = 1024 * 1024;
/// No block holds more JSON than this, in bytes; a longer one was not written by this agent.
pub const BLOCK_BYTES_MAX: usize = 4 * 1024 * 1024;

/// A block as it lies in the database.
pub struct Block {
    pub first: u64,
    pub count: u64,
    /// Decompressed: JSON lines, each with its line break.
    pub lines: Vec<u8>,
}

impl Block {
    pub fn last(&self) -> u64 {
        self.first + self.count - 1
    }
}

/// Compresses and decompresses; keeps its working memory between calls.
pub struct Codec {
    compressor: zstd::bulk::Compressor<'static>,
    decompressor: zstd::bulk::Decompressor<'static>,
}

impl Codec {
    pub fn new() -> Result<Self, Error> {
        let io =
            |source| Error::Io { what: "cannot set up zstd for", path: super::DATABASE_FILE.into(), source };
        let mut compressor = zstd::bulk::Compressor::new(ZSTD_LEVEL).map_err(io)?;
        compressor.include_checksum(true).map_err(io)?;
        Ok(Self { compressor, decompressor: zstd::bulk::Decompressor::new().map_err(io)? })
    }

    fn compress(&mut self, lines: &[u8]) -> Result<Vec<u8>, Error> {
        // Columns take some ten times the memory of their lines while they are made and read.
        let packed = if lines.len() <= PIECE_BYTES_MAX { columns::pack(lines) } else { None };
        self.compressor
            .compress(packed.as_deref().unwrap_or(lines))
            .map_err(|error| Error::Damaged { what: "the compressor", detail: error.to_string() })
    }

    pub fn decompress(&mut self, data: &[u8], raw_bytes: usize) -> Result<Vec<u8>, Error> {
        if raw_bytes > BLOCK_BYTES_MAX {
            return Err(damaged(format!("it claims {raw_bytes} bytes, more than {BLOCK_BYTES_MAX}")));
        }
        let lines =
            self.decompressor.decompress(data, raw_bytes).map_err(|error| damaged(error.to_string()))?;
        if lines.first() == Some(&columns::MARK) {
            if raw_bytes > PIECE_BYTES_MAX {
                return Err(damaged(format!("its columns claim {raw_bytes} bytes")));
            }
            return columns::unpack(&lines, raw_bytes).map_err(|what| damaged(what.to_owned()));
        }
        if lines.len() != raw_bytes {
            return Err(damaged(format!("it claims {raw_bytes} bytes and holds {}", lines.len())));
        }
        Ok(lines)
    }
}

/// The JSON lines of a block, from its columns `data` and `raw_bytes`, for who looks at a database from
/// outside.
///
/// # Errors
///
/// [`Error::Damaged`].
pub fn lines(data: &[u8], raw_bytes: usize) -> Result<Vec<u8>, Error> {
    Codec::new()?.decompress(data, raw_bytes)
}

/// Writes `piece` of `text` as the block that begins at `first`; returns its compressed
/// size in bytes.
pub(super) fn insert(
    db: &Connection,
    codec: &mut Codec,
    lane: Lane,
    first: u64,
    text: &LaneText,
    piece: Piece<'_>,
    at: BootTime,
) -> Result<u64, Error> {
    let Piece { lines, count, messages } = piece;
    let data = codec.compress(lines)?;
    let messages = (!messages.is_empty()).then_some(messages);
    db.prepare_cached(sql(lane, &INSERT))
        .and_then(|mut insert| {
            insert.execute(params![
                number(first),
                count,
                text.time_min,
                text.time_max,
                at.boot,
                at.millis,
                number(lines.len() as u64),
                messages,
                data
            ])
        })
        .map_err(|source| Error::Sqlite { what: "cannot write a block", source })?;
    Ok(data.len() as u64)
}

/// The block that holds `sequence`, or the first one after it.
pub fn at_or_after(
    db: &Connection,
    codec: &mut Codec,
    lane: Lane,
    sequence: u64,
) -> Result<Option<Block>, Error> {
    let read = |row: &rusqlite::Row<'_>| {
        let (first, count) = (row.get(0)?, row.get(1)?);
        Ok((span(first, count), row.get::<_, i64>(2)?, row.get::<_, Vec<u8>>(3)?))
    };
    let find = |which: &[&'static str; 7]| {
        db.prepare_cached(sql(lane, which))
            .and_then(|mut select| select.query_row([number(sequence)], read).optional())
            .map_err(|source| unreadable("cannot read a block", source))
    };
    let found = match find(&FIND_HOLDING)? {
        Some((Ok((first, count)), ..)) if first + count <= sequence => find(&FIND_AFTER)?,
        None => find(&FIND_AFTER)?,
        found => found,
    };
    let Some((span, raw_bytes, data)) = found else { return Ok(None) };
    let (first, count) = span?;
    let lines = codec.decompress(&data, usize::try_from(raw_bytes).unwrap_or(usize::MAX))?;
    let breaks = lines.iter().filter(|byte| **byte == b'\n').count() as u64;
    if breaks != count || !lines.ends_with(b"\n") {
        return Err(damaged(format!("it says {count} items and holds {breaks} lines")));
    }
    Ok(Some(Block { first, count, lines }))
}

/// First number and count of a block as they are stored, which a reader may add and go on behind.
fn span(first: i64, count: i64) -> Result<(u64, u64), Error> {
    // Each item takes a byte at least: its line break.
    if first < 1 || !(1..=BLOCK_BYTES_MAX as i64).contains(&count) || first.checked_add(count).is_none() {
        return Err(damaged(format!("it says {count} items from number {first} on")));
    }
    Ok((first.unsigned_abs(), count.unsigned_abs()))
}

fn damaged(detail: String) -> Error {
    Error::Damaged { what: "a block", detail }
}

/// A column that holds what this agent never writes there is damage; anything else is SQLite's failure.
fn unreadable(what: &'static str, source: rusqlite::Error) -> Error {
    match source {
        rusqlite::Error::InvalidColumnType(_, column, found) => {
            damaged(format!("its column {column} holds {found}"))
        }
        source => Error::Sqlite { what, source },
    }
}

/// The earliest time in the block that holds `sequence`, in Unix seconds; 0 when there is none.
pub fn time_of(db: &Connection, lane: Lane, sequence: u64) -> Result<f64, Error> {
    db.prepare_cached(sql(lane, &TIME_OF))
        .and_then(|mut select| select.query_row([number(sequence)], |row| row.get(0)).optional())
        .map(|time| time.unwrap_or(0.0))
        .map_err(|source| unreadable("cannot find the time of a block", source))
}

/// The earliest and the latest time in the block that holds `sequence`, in Unix seconds.
pub fn times(db: &Connection, lane: Lane, sequence: u64) -> Result<Option<(f64, f64)>, Error> {
    db.prepare_cached(sql(lane, &TIMES))
        .and_then(|mut select| {
            select.query_row([number(sequence)], |row| Ok((row.get(0)?, row.get(1)?))).optional()
        })
        .map_err(|source| unreadable("cannot find the times of a block", source))
}

/// Puts other `lines` into the block that begins at `first`: as many items, the earliest and the latest of
/// them at `time`.
pub fn replace(
    db: &Connection,
    codec: &mut Codec,
    lane: Lane,
    first: u64,
    lines: &[u8],
    time: (f64, f64),
) -> Result<(), Error> {
    let data = codec.compress(lines)?;
    db.prepare_cached(sql(lane, &REPLACE))
        .and_then(|mut update| {
            update.execute(params![time.0, time.1, number(lines.len() as u64), data, number(first)])
        })
        .map(|_| ())
        .map_err(|source| Error::Sqlite { what: "cannot rewrite a block", source })
}

/// The lowest number that is stored.
pub fn lowest(db: &Connection, lane: Lane) -> Result<Option<u64>, Error> {
    db.prepare_cached(sql(lane, &LOWEST))
        .and_then(|mut select| select.query_row([], |row| row.get::<_, Option<i64>>(0)))
        .map(|first| first.map(i64::unsigned_abs))
        .map_err(|source| Error::Sqlite { what: "cannot find the oldest block", source })
}

/// The sequence number behind the newest block; 1 when there is none.
pub fn end(db: &Connection, lane: Lane) -> Result<u64, Error> {
    let newest = db
        .query_row(sql(lane, &NEWEST), [], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()
        .map_err(|source| unreadable("cannot find the newest block", source))?;
    let Some((first, count)) = newest else { return Ok(1) };
    let (first, count) = span(first, count)?;
    Ok(first + count)
}

/// When the newest block of `lane` was committed.
pub fn newest_at(db: &Connection, lane: Lane) -> Result<Option<BootTime>, Error> {
    db.query_row(sql(lane, &NEWEST_AT), [], |row| Ok(BootTime { boot: row.get(0)?, millis: row.get(1)? }))
        .optional()
        .map_err(|source| unreadable("cannot read when a block was committed", source))
}

/// When each of the newest `blocks_max` blocks was committed that came in messages, and how those are known
/// again; the newest first.
pub fn newest_messages(
    db: &Connection,
    lane: Lane,
    blocks_max: u32,
) -> Result<Vec<(BootTime, Vec<u8>)>, Error> {
    let read = |row: &rusqlite::Row<'_>| {
        // What is no bytes says nothing; its items are told to be damaged where they are read.
        let messages: Option<Vec<u8>> = row.get(2).unwrap_or_default();
        let at = BootTime { boot: row.get(0)?, millis: row.get(1)? };
        Ok(messages.map(|messages| (at, messages)))
    };
    db.prepare_cached(sql(lane, &NEWEST_MESSAGES))
        .and_then(|mut select| select.query_map([blocks_max], read)?.filter_map(Result::transpose).collect())
        .map_err(|source| unreadable("cannot read which messages blocks came in", source))
}

/// Deletes the block that begins at `first`.
pub fn delete(db: &Connection, lane: Lane, first: u64) -> Result<(), Error> {
    db.prepare_cached(sql(lane, &DELETE))
        .and_then(|mut delete| delete.execute([number(first)]))
        .map(|_| ())
        .map_err(|source| Error::Sqlite { what: "cannot delete a block", source })
}

/// Deletes the blocks that begin in `first..end`.
pub fn delete_within(db: &Connection, lane: Lane, first: u64, end: u64) -> Result<(), Error> {
    db.prepare_cached(sql(lane, &DELETE_WITHIN))
        .and_then(|mut delete| delete.execute([number(first), number(end)]))
        .map(|_| ())
        .map_err(|source| Error::Sqlite { what: "cannot delete blocks", source })
}

/// A block without what is in it.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    pub first: u64,
    pub count: u64,
    pub time_min: f64,
    pub time_max: f64,
    pub at: BootTime,
    pub raw_bytes: u64,
}

impl Head {
    /// The number behind its last.
    pub fn end(&self) -> u64 {
        self.first + self.count
    }

    fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<Result<Self, Error>> {
        let (first, count) = match span(row.get(0)?, row.get(1)?) {
            Ok(span) => span,
            Err(error) => return Ok(Err(error)),
        };
        Ok(Ok(Self {
            first,
            count,
            time_min: row.get(2)?,
            time_max: row.get(3)?,
            at: BootTime { boot: row.get(4)?, millis: row.get(5)? },
            raw_bytes: row.get::<_, i64>(6)?.unsigned_abs(),
        }))
    }
}

/// The block that holds `sequence`.
pub fn head_of(db: &Connection, lane: Lane, sequence: u64) -> Result<Option<Head>, Error> {
    let head = db
        .prepare_cached(sql(lane, &HEAD_OF))
        .and_then(|mut select| select.query_row([number(sequence)], Head::read).optional())
        .map_err(|source| unreadable("cannot find a block", source))?
        .transpose()?;
    Ok(head.filter(|head| head.end() > sequence))
}

/// The first block that begins at `sequence` or later.
pub fn head_from(db: &Connection, lane: Lane, sequence: u64) -> Result<Option<Head>, Error> {
    let mut found = None;
    each(db, lane, sequence, |head| {
        found = Some(*head);
        ControlFlow::Break(())
    })?;
    Ok(found)
}

/// Hands every block that begins at `first` or later to `visit`, in order, until that breaks off.
pub fn each(
    db: &Connection,
    lane: Lane,
    first: u64,
    mut visit: impl FnMut(&Head) -> ControlFlow<()>,
) -> Result<(), Error> {
    let failed = |source| unreadable("cannot list blocks", source);
    let mut select = db.prepare_cached(sql(lane, &EACH)).map_err(failed)?;
    let mut rows = select.query([number(first)]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        if visit(&Head::read(row).map_err(failed)??).is_break() {
            break;
        }
    }
    Ok(())
}

/// SQLite's integers are signed; sequence numbers stay far below 2^63.
pub fn number(sequence: u64) -> i64 {
    i64::try_from(sequence).expect("sequence numbers stay below 2^63")
}

#[cfg(test)]
mod tests;
