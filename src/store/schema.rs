//! Opening the database: version, settings, tables.

use std::path::Path;

use ring::rand::{SecureRandom, SystemRandom};
use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::{Error, block};

/// Before 3.51.3 a WAL database could be corrupted by a checkpoint race (sqlite.org/wal.html).
const SQLITE_VERSION_MIN: (i32, &str) = (3_051_003, "3.51.3");
/// What `PRAGMA user_version` says of a database made by this agent.
const SCHEMA_VERSION: i64 = 1;
/// Pages kept in memory, in KiB.
const CACHE_KIB: i64 = 512;

const TABLES: &str = "
    -- One row per fact about this database: store_id.
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    -- Sequence numbers below next_sequence were given out, even where no block is left.
    CREATE TABLE lane (lane INTEGER PRIMARY KEY, next_sequence INTEGER NOT NULL);
    -- What is not delivered yet, as ranges. A range with frozen_at is a batch: it is sent as it is,
    -- under one id, until the endpoint has it. last is NULL in the range that grows with the lane.
    CREATE TABLE pending (id INTEGER PRIMARY KEY, lane INTEGER NOT NULL, first INTEGER NOT NULL,
        last INTEGER, frozen_at REAL);
    -- Items the endpoint will never take, one row each.
    CREATE TABLE dead_letter (id INTEGER PRIMARY KEY AUTOINCREMENT, lane INTEGER NOT NULL,
        sequence INTEGER NOT NULL, set_aside_at REAL NOT NULL, reason TEXT NOT NULL, item BLOB NOT NULL);
    CREATE TABLE privacy_audit (id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp REAL NOT NULL,
        action TEXT NOT NULL, details TEXT NOT NULL, prev_hash TEXT NOT NULL, record_hash TEXT NOT NULL);
";

/// Opens the database, making it first when there is none. Returns it with the store id.
pub fn open(path: &Path) -> Result<(Connection, String), Error> {
    if rusqlite::version_number() < SQLITE_VERSION_MIN.0 {
        return Err(Error::OldSqlite { found: rusqlite::version().to_owned(), needed: SQLITE_VERSION_MIN.1 });
    }
    let failed = |what| move |source| Error::Sqlite { what, source };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let mut db = Connection::open_with_flags(path, flags).map_err(failed("cannot open the database"))?;
    // Before anything is changed: the file may not be ours.
    let version: i64 = db
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(failed("cannot read the schema version"))?;
    if version > SCHEMA_VERSION {
        return Err(Error::NewerSchema { path: path.to_owned(), found: version, known: SCHEMA_VERSION });
    }
    if version == 0 && is_taken(&db).map_err(failed("cannot read the tables"))? {
        return Err(Error::Foreign { path: path.to_owned() });
    }
    configure(&db).map_err(failed("cannot configure the database"))?;
    if version == 0 {
        let store_id = new_store_id(path)?;
        create(&mut db, &store_id).map_err(failed("cannot create the tables"))?;
    }
    let store_id: Option<String> = db
        .query_row("SELECT value FROM meta WHERE key = 'store_id'", [], |row| row.get(0))
        .optional()
        .map_err(failed("cannot read the store id"))?;
    let store_id = store_id
        .ok_or_else(|| Error::Damaged { what: "the database", detail: "it has no store id".to_owned() })?;
    Ok((db, store_id))
}

fn configure(db: &Connection) -> rusqlite::Result<()> {
    db.pragma_update(None, "journal_mode", "WAL")?;
    // With NORMAL a commit is not synced, and an acknowledged reading could go with the power.
    db.pragma_update(None, "synchronous", "FULL")?;
    db.pragma_update(None, "cache_size", -CACHE_KIB)?;
    db.pragma_update(None, "temp_store", "MEMORY")?;
    // After a checkpoint that reset it, the WAL is cut back to this size, in bytes.
    db.pragma_update(None, "journal_size_limit", 4 * 1024 * 1024)?;
    db.set_prepared_statement_cache_capacity(32);
    Ok(())
}

/// 64 bits: two devices of a fleet must not meet, and batch ids stay short. From the system's generator,
/// because fastrand is seeded with the time since boot, which is much alike on devices with one image.
fn new_store_id(path: &Path) -> Result<String, Error> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Io {
        what: "the system gave no random numbers for the id of",
        path: path.to_owned(),
        source: std::io::Error::other("getrandom failed"),
    })?;
    Ok(format!("{:016x}", u64::from_be_bytes(bytes)))
}

/// Whether the file holds tables, although it says it was not made by this agent.
fn is_taken(db: &Connection) -> rusqlite::Result<bool> {
    db.query_row("SELECT EXISTS (SELECT 1 FROM sqlite_master)", [], |row| row.get(0))
}

fn create(db: &mut Connection, store_id: &str) -> rusqlite::Result<()> {
    let transaction = db.transaction()?;
    transaction.execute_batch(TABLES)?;
    for table in block::create_tables() {
        transaction.execute_batch(table)?;
    }
    transaction.execute("INSERT INTO meta (key, value) VALUES ('store_id', ?1)", [store_id])?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()
}
