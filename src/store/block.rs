//! Blocks: the items of one lane and one commit, as zstd-compressed JSON lines, or as the columns of
//! those where that is shorter.

use std::ops::ControlFlow;

use rusqlite::{Connection, OptionalExtension, params};

use super::boot::BootTime;
use super::staged::{LaneText, Piece};
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

/// Each lane has a table of its own, so that every lane appends at the end of a B-tree: SQLite then
/// writes one leaf page instead of rebalancing its neighbours.
macro_rules! per_lane {
    ($name:ident, $before:literal, $after:literal) => {
        const $name: [&str; 7] = [
            concat!($before, "block_critical", $after),
            concat!($before, "block_anomaly", $after),
            concat!($before, "block_telemetry", $after),
            concat!($before, "block_logs", $after),
            concat!($before, "block_local", $after),
            concat!($before, "block_minute", $after),
            concat!($before, "block_quarter", $after),
        ];
    };
}

per_lane!(NAMES, "", "");
per_lane!(
    INSERT,
    "INSERT INTO ",
    " (first, count, time_min, time_max, boot, boot_ms, raw_bytes, messages, data)
       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
);
// What is longer than zstd can make of BLOCK_BYTES_MAX is not even read.
per_lane!(
    FIND_HOLDING,
    "SELECT first, count, raw_bytes, CASE WHEN length(data) <= 4210688 THEN data END AS data FROM ",
    " WHERE first <= ?1 ORDER BY first DESC LIMIT 1"
);
per_lane!(
    FIND_AFTER,
    "SELECT first, count, raw_bytes, CASE WHEN length(data) <= 4210688 THEN data END AS data FROM ",
    " WHERE first > ?1 ORDER BY first LIMIT 1"
);
per_lane!(TIME_OF, "SELECT time_min FROM ", " WHERE first <= ?1 ORDER BY first DESC LIMIT 1");
per_lane!(TIMES, "SELECT time_min, time_max FROM ", " WHERE first <= ?1 ORDER BY first DESC LIMIT 1");
per_lane!(
    REPLACE,
    "UPDATE ",
    " SET time_min = ?1, time_max = ?2, raw_bytes = ?3, data = ?4 WHERE first = ?5"
);
per_lane!(NEWEST, "SELECT first, count FROM ", " ORDER BY first DESC LIMIT 1");
per_lane!(LOWEST, "SELECT min(first) FROM ", "");
per_lane!(DELETE_WITHIN, "DELETE FROM ", " WHERE first >= ?1 AND first < ?2");
per_lane!(
    EACH,
    "SELECT first, count, time_min, time_max, boot, boot_ms, raw_bytes FROM ",
    " WHERE first >= ?1 ORDER BY first"
);
per_lane!(
    HEAD_OF,
    "SELECT first, count, time_min, time_max, boot, boot_ms, raw_bytes FROM ",
    " WHERE first <= ?1 ORDER BY first DESC LIMIT 1"
);
per_lane!(DELETE, "DELETE FROM ", " WHERE first = ?1");
per_lane!(
    CREATE,
    "CREATE TABLE ",
    " (first INTEGER PRIMARY KEY, count INTEGER NOT NULL, time_min REAL NOT NULL, time_max REAL NOT NULL,
       boot INTEGER NOT NULL, boot_ms INTEGER NOT NULL, raw_bytes INTEGER NOT NULL, messages BLOB, data BLOB NOT NULL)"
);
per_lane!(ADD_BOOT, "ALTER TABLE ", " ADD COLUMN boot INTEGER NOT NULL DEFAULT 0");
per_lane!(ADD_BOOT_MS, "ALTER TABLE ", " ADD COLUMN boot_ms INTEGER NOT NULL DEFAULT 0");
per_lane!(ADD_MESSAGES, "ALTER TABLE ", " ADD COLUMN messages BLOB");
// In front of the items in a row, so that those are not read. What is longer than any is damage.
per_lane!(
    NEWEST_MESSAGES,
    "SELECT boot, boot_ms, CASE WHEN length(messages) <= 65536 THEN messages END FROM ",
    " ORDER BY first DESC LIMIT ?1"
);
per_lane!(NEWEST_AT, "SELECT boot, boot_ms FROM ", " ORDER BY first DESC LIMIT 1");

/// The tables, in the order of [`Lane::ALL`].
pub const TABLES: [&str; 7] = NAMES;

/// The statements that make the tables.
pub fn create_tables() -> [&'static str; 7] {
    CREATE
}

/// The statements that bring the tables of schema version 1 to version 3.
pub fn tables_from_1() -> impl Iterator<Item = &'static str> {
    let old = |statements: [&'static str; 7]| statements.into_iter().take(LANES_OF_1);
    old(ADD_BOOT).chain(old(ADD_BOOT_MS)).chain(old(ADD_MESSAGES)).chain(CREATE.into_iter().skip(LANES_OF_1))
}

/// The statements that bring the tables of schema version 2 to version 3.
pub fn tables_from_2() -> [&'static str; 7] {
    ADD_MESSAGES
}

/// Lanes of schema version 1.
const LANES_OF_1: usize = 5;

fn sql(lane: Lane, per_lane: &[&'static str; 7]) -> &'static str {
    per_lane[lane.index()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> Connection {
        super::super::schema::in_memory().unwrap()
    }

    /// What is wrong with a block that begins at 1 and was written as three lines.
    fn damage_of(change: &str) -> String {
        let (db, mut codec) = (database(), Codec::new().unwrap());
        let data = codec.compress(b"{}\n{}\n{}\n").unwrap();
        db.execute("INSERT INTO block_logs VALUES (1, 3, 0, 0, 0, 0, 9, NULL, ?1)", [data]).unwrap();
        db.execute(&format!("UPDATE block_logs SET {change}"), []).unwrap();
        match at_or_after(&db, &mut codec, Lane::Logs, 1) {
            Ok(block) => panic!("{change}: {:?}", block.map(|block| block.lines)),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_block_that_does_not_hold_what_it_says_is_damaged() {
        for (change, expected) in [
            ("count = 4", "it says 4 items and holds 3 lines"),
            ("count = 2", "it says 2 items and holds 3 lines"),
            ("count = 0", "it says 0 items from number 1 on"),
            ("count = -3", "it says -3 items from number 1 on"),
            ("count = 9223372036854775807", "it says 9223372036854775807 items"),
            ("first = -1", "it says 3 items from number -1 on"),
            ("count = 'x'", "its column count holds Text"),
            ("count = 1.5", "its column count holds Real"),
            ("data = 'x'", "its column data holds Text"),
            ("raw_bytes = 8", "is damaged"),
            ("raw_bytes = 10", "it claims 10 bytes and holds 9"),
            ("raw_bytes = -1", "it claims 18446744073709551615 bytes"),
        ] {
            let found = damage_of(change);
            assert!(
                found.starts_with("a block is damaged: ") && found.contains(expected),
                "{change}: {found}"
            );
        }
    }

    #[test]
    fn a_block_that_is_longer_than_any_is_not_even_read() {
        let db = database();
        let mut codec = Codec::new().unwrap();
        let longest = zstd::zstd_safe::compress_bound(BLOCK_BYTES_MAX);
        for (bytes, detail) in
            [(longest, "a block is damaged: Error"), (longest + 1, "its column data holds Null")]
        {
            db.execute("DELETE FROM block_logs", []).unwrap();
            db.execute(
                "INSERT INTO block_logs VALUES (1, 1, 0, 0, 0, 0, 1, NULL, zeroblob(?1))",
                [bytes as i64],
            )
            .unwrap();
            let Err(error) = at_or_after(&db, &mut codec, Lane::Logs, 1) else { panic!("{bytes} bytes") };
            assert!(error.to_string().contains(detail), "{error}");
        }
    }

    /// 200,000 lines of 16 numbers would take 50 MB before the first is written.
    #[test]
    fn columns_of_more_than_a_piece_are_not_taken_apart() {
        let mut codec = Codec::new().unwrap();
        let columns = [&[columns::MARK, 1][..], &[0; 16], b"\n\xc0\x9a\x0c", &[0; 200_000]].concat();
        let data = zstd::bulk::compress(&columns, ZSTD_LEVEL).unwrap();
        let damage =
            |raw_bytes, codec: &mut Codec| codec.decompress(&data, raw_bytes).unwrap_err().to_string();
        assert!(damage(BLOCK_BYTES_MAX, &mut codec).contains("its columns claim 4194304 bytes"));
        assert!(damage(PIECE_BYTES_MAX, &mut codec).contains("its lines do not fit its size"));

        let long = [&vec![b'1'; PIECE_BYTES_MAX][..], b", 2, 2\n"].concat();
        let data = codec.compress(&long).unwrap();
        assert_eq!(codec.decompress(&data, long.len()).unwrap(), long);
    }
}
