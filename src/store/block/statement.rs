//! The SQL of blocks: each statement once for every lane.

use crate::store::Lane;

/// Each lane has a table of its own, so that every lane appends at the end of a B-tree: SQLite then
/// writes one leaf page instead of rebalancing its neighbours.
macro_rules! per_lane {
    ($name:ident, $before:literal, $after:literal) => {
        pub(super) const $name: [&str; 7] = [
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

/// What [`Head::read`](super::Head) reads.
macro_rules! heads {
    ($name:ident, $which:literal) => {
        per_lane!($name, "SELECT first, count, time_min, time_max, boot, boot_ms, raw_bytes FROM ", $which);
    };
}

/// What makes a [`Block`](super::Block). What is longer than zstd can make of BLOCK_BYTES_MAX is not even read.
macro_rules! blocks {
    ($name:ident, $which:literal) => {
        per_lane!(
            $name,
            "SELECT first, count, raw_bytes, CASE WHEN length(data) <= 4210688 THEN data END AS data FROM ",
            $which
        );
    };
}

per_lane!(NAMES, "", "");
per_lane!(
    INSERT,
    "INSERT INTO ",
    " (first, count, time_min, time_max, boot, boot_ms, raw_bytes, messages, data)
       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
);
blocks!(FIND_HOLDING, " WHERE first <= ?1 ORDER BY first DESC LIMIT 1");
blocks!(FIND_AFTER, " WHERE first > ?1 ORDER BY first LIMIT 1");
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
heads!(EACH, " WHERE first >= ?1 ORDER BY first");
heads!(HEAD_OF, " WHERE first <= ?1 ORDER BY first DESC LIMIT 1");
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

pub(super) fn sql(lane: Lane, per_lane: &[&'static str; 7]) -> &'static str {
    per_lane[lane.index()]
}
