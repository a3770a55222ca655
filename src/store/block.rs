//! Blocks: the items of one lane and one commit, as zstd-compressed JSON lines, or as the columns of
//! those where that is shorter.

use rusqlite::{Connection, OptionalExtension, params};

use super::boot::BootTime;
use super::staged::LaneText;
use super::{Error, Lane, columns};

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
        let packed = columns::pack(lines);
        self.compressor
            .compress(packed.as_deref().unwrap_or(lines))
            .map_err(|error| Error::Damaged { what: "the compressor", detail: error.to_string() })
    }

    fn decompress(&mut self, data: &[u8], raw_bytes: usize) -> Result<Vec<u8>, Error> {
        let damaged = |detail: String| Error::Damaged { what: "a block", detail };
        if raw_bytes > BLOCK_BYTES_MAX {
            return Err(damaged(format!("it claims {raw_bytes} bytes, more than {BLOCK_BYTES_MAX}")));
        }
        let lines =
            self.decompressor.decompress(data, raw_bytes).map_err(|error| damaged(error.to_string()))?;
        if lines.first() != Some(&columns::MARK) {
            return Ok(lines);
        }
        columns::unpack(&lines, raw_bytes).map_err(|what| damaged(what.to_owned()))
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

/// Writes `lines`, `count` items of `text`, as the block that begins at `first`; returns its compressed
/// size in bytes.
pub fn insert(
    db: &Connection,
    codec: &mut Codec,
    lane: Lane,
    first: u64,
    text: &LaneText,
    (lines, count): (&[u8], u32),
    at: BootTime,
) -> Result<u64, Error> {
    let data = codec.compress(lines)?;
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
        Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?, row.get::<_, Vec<u8>>(3)?))
    };
    let find = |which: &[&'static str; 5]| {
        db.prepare_cached(sql(lane, which))?.query_row([number(sequence)], read).optional()
    };
    let found = find(&FIND_HOLDING)
        .and_then(|found| match found {
            Some((first, count, ..)) if first + count > number(sequence) => Ok(found),
            _ => find(&FIND_AFTER),
        })
        .map_err(|source| Error::Sqlite { what: "cannot read a block", source })?;
    let Some((first, count, raw_bytes, data)) = found else { return Ok(None) };
    let lines = codec.decompress(&data, usize::try_from(raw_bytes).unwrap_or(usize::MAX))?;
    Ok(Some(Block { first: first.unsigned_abs(), count: count.unsigned_abs(), lines }))
}

/// The earliest time in the block that holds `sequence`, in Unix seconds; 0 when there is none.
pub fn time_of(db: &Connection, lane: Lane, sequence: u64) -> Result<f64, Error> {
    db.prepare_cached(sql(lane, &TIME_OF))
        .and_then(|mut select| select.query_row([number(sequence)], |row| row.get(0)).optional())
        .map(|time| time.unwrap_or(0.0))
        .map_err(|source| Error::Sqlite { what: "cannot find the time of a block", source })
}

/// The earliest and the latest time in the block that holds `sequence`, in Unix seconds.
pub fn times(db: &Connection, lane: Lane, sequence: u64) -> Result<Option<(f64, f64)>, Error> {
    db.prepare_cached(sql(lane, &TIMES))
        .and_then(|mut select| {
            select.query_row([number(sequence)], |row| Ok((row.get(0)?, row.get(1)?))).optional()
        })
        .map_err(|source| Error::Sqlite { what: "cannot find the times of a block", source })
}

/// First number and count of the oldest block that begins at `first` or later, and the time of its
/// newest item.
pub fn oldest(db: &Connection, lane: Lane, first: u64) -> Result<Option<(u64, u64, f64)>, Error> {
    db.prepare_cached(sql(lane, &OLDEST))
        .and_then(|mut select| {
            select
                .query_row([number(first)], |row| {
                    Ok((
                        row.get::<_, i64>(0)?.unsigned_abs(),
                        row.get::<_, i64>(1)?.unsigned_abs(),
                        row.get(2)?,
                    ))
                })
                .optional()
        })
        .map_err(|source| Error::Sqlite { what: "cannot find the oldest block", source })
}

/// The sequence number behind the newest block; 1 when there is none.
pub fn end(db: &Connection, lane: Lane) -> Result<u64, Error> {
    db.query_row(sql(lane, &END), [], |row| row.get::<_, i64>(0))
        .map(i64::unsigned_abs)
        .map_err(|source| Error::Sqlite { what: "cannot find the newest block", source })
}

/// When the newest block of `lane` was committed.
pub fn newest_at(db: &Connection, lane: Lane) -> Result<Option<BootTime>, Error> {
    db.query_row(sql(lane, &NEWEST_AT), [], |row| Ok(BootTime { boot: row.get(0)?, millis: row.get(1)? }))
        .optional()
        .map_err(|source| Error::Sqlite { what: "cannot read when a block was committed", source })
}

/// Deletes the block that begins at `first`.
pub fn delete(db: &Connection, lane: Lane, first: u64) -> Result<(), Error> {
    db.prepare_cached(sql(lane, &DELETE))
        .and_then(|mut delete| delete.execute([number(first)]))
        .map(|_| ())
        .map_err(|source| Error::Sqlite { what: "cannot delete a block", source })
}

/// SQLite's integers are signed; sequence numbers stay far below 2^63.
pub fn number(sequence: u64) -> i64 {
    i64::try_from(sequence).expect("sequence numbers stay below 2^63")
}

/// Each lane has a table of its own, so that every lane appends at the end of a B-tree: SQLite then
/// writes one leaf page instead of rebalancing its neighbours.
macro_rules! per_lane {
    ($name:ident, $before:literal, $after:literal) => {
        const $name: [&str; 5] = [
            concat!($before, "block_critical", $after),
            concat!($before, "block_anomaly", $after),
            concat!($before, "block_telemetry", $after),
            concat!($before, "block_logs", $after),
            concat!($before, "block_local", $after),
        ];
    };
}

per_lane!(NAMES, "", "");
per_lane!(
    INSERT,
    "INSERT INTO ",
    " (first, count, time_min, time_max, boot, boot_ms, raw_bytes, data)
       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)"
);
per_lane!(
    FIND_HOLDING,
    "SELECT first, count, raw_bytes, data FROM ",
    " WHERE first <= ?1 ORDER BY first DESC LIMIT 1"
);
per_lane!(
    FIND_AFTER,
    "SELECT first, count, raw_bytes, data FROM ",
    " WHERE first > ?1 ORDER BY first LIMIT 1"
);
per_lane!(TIME_OF, "SELECT time_min FROM ", " WHERE first <= ?1 ORDER BY first DESC LIMIT 1");
per_lane!(TIMES, "SELECT time_min, time_max FROM ", " WHERE first <= ?1 ORDER BY first DESC LIMIT 1");
per_lane!(OLDEST, "SELECT first, count, time_max FROM ", " WHERE first >= ?1 ORDER BY first LIMIT 1");
per_lane!(
    END,
    "SELECT coalesce(max(first + count), 1) FROM (SELECT first, count FROM ",
    " ORDER BY first DESC LIMIT 1)"
);
per_lane!(DELETE, "DELETE FROM ", " WHERE first = ?1");
per_lane!(
    CREATE,
    "CREATE TABLE ",
    " (first INTEGER PRIMARY KEY, count INTEGER NOT NULL, time_min REAL NOT NULL, time_max REAL NOT NULL,
       boot INTEGER NOT NULL, boot_ms INTEGER NOT NULL, raw_bytes INTEGER NOT NULL, data BLOB NOT NULL)"
);
per_lane!(ADD_BOOT, "ALTER TABLE ", " ADD COLUMN boot INTEGER NOT NULL DEFAULT 0");
per_lane!(ADD_BOOT_MS, "ALTER TABLE ", " ADD COLUMN boot_ms INTEGER NOT NULL DEFAULT 0");
per_lane!(NEWEST_AT, "SELECT boot, boot_ms FROM ", " ORDER BY first DESC LIMIT 1");

/// The tables, in the order of [`Lane::ALL`].
pub const TABLES: [&str; 5] = NAMES;

/// The statements that make the tables.
pub fn create_tables() -> [&'static str; 5] {
    CREATE
}

/// The statements that bring the tables of schema version 1 to version 2.
pub fn add_boot_columns() -> impl Iterator<Item = &'static str> {
    ADD_BOOT.into_iter().chain(ADD_BOOT_MS)
}

fn sql(lane: Lane, per_lane: &[&'static str; 5]) -> &'static str {
    per_lane[lane.index()]
}
