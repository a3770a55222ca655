//! Opening the database: version, settings, tables, and the step from an older version.

use std::path::Path;

use ring::rand::{SecureRandom, SystemRandom};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension, ffi};

use super::{Error, block};

/// Before 3.51.3 a WAL database could be corrupted by a checkpoint race (sqlite.org/wal.html).
const SQLITE_VERSION_MIN: (i32, &str) = (3_051_003, "3.51.3");
/// What `PRAGMA user_version` says of a database made by this agent.
pub const VERSION: i64 = 3;
/// Of a page of a new database. A commit writes a few pages however little it holds, so small ones wear the flash
/// less: 1,000 readings write 16 bytes each, and 25 with SQLite's usual 4096.
pub const PAGE_BYTES: u32 = 2048;
/// Pages kept in memory, in KiB.
const CACHE_KIB: i64 = 512;

const TABLES: &str = "
    -- One row per fact about this database: store_id, and what `remember` keeps.
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    -- Sequence numbers below next_sequence were given out, even where no block is left.
    CREATE TABLE lane (lane INTEGER PRIMARY KEY, next_sequence INTEGER NOT NULL);
    -- What is not delivered yet, as ranges. A range with frozen_at is a batch: it is sent as it is,
    -- under one id, until the endpoint has it; backlog says whether it was old when it was frozen.
    -- last is NULL in the range that grows with the lane.
    CREATE TABLE pending (id INTEGER PRIMARY KEY, lane INTEGER NOT NULL, first INTEGER NOT NULL,
        last INTEGER, frozen_at REAL, backlog INTEGER NOT NULL DEFAULT 0);
    -- Items the endpoint will never take, one row each.
    CREATE TABLE dead_letter (id INTEGER PRIMARY KEY AUTOINCREMENT, lane INTEGER NOT NULL,
        sequence INTEGER NOT NULL, set_aside_at REAL NOT NULL, reason TEXT NOT NULL, item BLOB NOT NULL);
    CREATE TABLE privacy_audit (id INTEGER PRIMARY KEY AUTOINCREMENT, timestamp REAL NOT NULL,
        action TEXT NOT NULL, details TEXT NOT NULL, prev_hash TEXT NOT NULL, record_hash TEXT NOT NULL);
";

/// What version 2 brought.
const TABLES_OF_2: &str = "
    -- Boots of the board in which this database was open. age_ms is the age of the database when that
    -- boot's clock was 0, in milliseconds of running time; last_ms the latest reading of that clock that
    -- is known once the blocks that carry later ones are gone. wall_offset is Unix seconds minus the
    -- boot's clock, once it is known.
    CREATE TABLE boot (number INTEGER PRIMARY KEY, boot_id TEXT NOT NULL, age_ms INTEGER NOT NULL,
        last_ms INTEGER NOT NULL DEFAULT 0, wall_offset REAL, quality TEXT, uncertainty REAL);
    -- Where the agent stamped while its clock was not synchronised, by the boot it was in. last is NULL
    -- in the range that grows with the lane.
    CREATE TABLE provisional (id INTEGER PRIMARY KEY, lane INTEGER NOT NULL, boot INTEGER NOT NULL,
        first INTEGER NOT NULL, last INTEGER);
    -- What was produced and will not be delivered: the declared gaps. store_id is that of the numbers;
    -- first and last are NULL where what is missing never had numbers.
    CREATE TABLE gap (id INTEGER PRIMARY KEY AUTOINCREMENT, reason TEXT NOT NULL, store_id TEXT NOT NULL,
        lane INTEGER, first INTEGER, last INTEGER, count INTEGER NOT NULL, time_min REAL, time_max REAL,
        sensors TEXT NOT NULL, noted_at REAL NOT NULL, reported INTEGER NOT NULL DEFAULT 0);
    -- What `store import` took over: a digest of each row, so that none comes twice.
    CREATE TABLE imported (digest BLOB PRIMARY KEY) WITHOUT ROWID;
";

/// Opens the database, making it first when there is none. Returns it with the store id. Until
/// [`close_tidily`], closing it leaves its files as they are: they may turn out to be damaged.
pub fn open(path: &Path) -> Result<(Connection, String), Error> {
    if rusqlite::version_number() < SQLITE_VERSION_MIN.0 {
        return Err(Error::OldSqlite { found: rusqlite::version().to_owned(), needed: SQLITE_VERSION_MIN.1 });
    }
    let flags = FLAGS | OpenFlags::SQLITE_OPEN_CREATE;
    let mut db = Connection::open_with_flags(path, flags).map_err(failed("cannot open the database"))?;
    keep_files(&db).map_err(failed("cannot configure the database"))?;
    // Before anything is changed: the file may not be ours.
    let version: i64 = db
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(failed("cannot read the schema version"))?;
    if version > VERSION {
        return Err(Error::NewerSchema { path: path.to_owned(), found: version, known: VERSION });
    }
    if version == 0 && is_taken(&db).map_err(failed("cannot read the tables"))? {
        return Err(Error::Foreign { path: path.to_owned() });
    }
    configure(&db).map_err(failed("cannot configure the database"))?;
    match version {
        0 => {
            let store_id = new_store_id(path)?;
            create(&mut db, &store_id).map_err(failed("cannot create the tables"))?;
        }
        1 => migrate_from_1(&mut db).map_err(failed("cannot bring the tables to schema version 3"))?,
        2 => migrate_from_2(&mut db).map_err(failed("cannot bring the tables to schema version 3"))?,
        _ => {}
    }
    let store_id = read_store_id(&db)?;
    Ok((db, store_id))
}

/// Opens the database of `store_id` again, after the disk failed under a connection to it. What is committed
/// is in the database file and synced when this returns, and the write-ahead log is empty: after a failed
/// sync the kernel may hold pages of the log that it calls clean and that are not on the disk, and what is
/// appended behind them would be lost with them when the power goes.
///
/// # Errors
///
/// The database cannot be opened for writing, or another one lies there.
pub fn reopen(path: &Path, store_id: &str) -> Result<Connection, Error> {
    let gone = |detail| Error::Gone { store_id: store_id.to_owned(), detail };
    // Not made anew: a start does that, and says so.
    if matches!(path.try_exists(), Ok(false)) {
        return Err(gone(FILE_GONE));
    }
    let db = Connection::open_with_flags(path, FLAGS).map_err(failed("cannot open the database again"))?;
    if db.is_readonly(rusqlite::MAIN_DB).map_err(failed("cannot open the database again"))? {
        let source = rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_READONLY), None);
        return Err(Error::Sqlite { what: "cannot open the database for writing", source });
    }
    keep_files(&db).and_then(|()| configure(&db)).map_err(failed("cannot configure the database"))?;
    if read_store_id(&db)? != store_id {
        return Err(gone(REPLACED));
    }
    if !super::open::empty_log(&db)? {
        let source = rusqlite::Error::SqliteFailure(ffi::Error::new(ffi::SQLITE_BUSY), None);
        return Err(Error::Sqlite { what: "cannot empty the write-ahead log", source });
    }
    Ok(db)
}

/// Copies the write-ahead log into the database, syncs that and empties the log; false when somebody reads
/// in it, and it is only copied.
///
/// # Errors
///
/// The disk fails.
pub fn empty_log(db: &Connection) -> Result<bool, Error> {
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, bool>(0))
        .map(|is_busy| !is_busy)
        .map_err(failed("cannot empty the write-ahead log"))
}

/// Of [`Error::Gone`].
pub const FILE_GONE: &str = "its file is not there any more";
pub const REPLACED: &str = "another one took its place";

const FLAGS: OpenFlags = OpenFlags::SQLITE_OPEN_READ_WRITE
    .union(OpenFlags::SQLITE_OPEN_NO_MUTEX)
    .union(OpenFlags::SQLITE_OPEN_EXRESCODE);

fn failed(what: &'static str) -> impl Fn(rusqlite::Error) -> Error {
    move |source| Error::Sqlite { what, source }
}

fn read_store_id(db: &Connection) -> Result<String, Error> {
    let store_id: Option<String> = db
        .query_row("SELECT value FROM meta WHERE key = 'store_id'", [], |row| row.get(0))
        .optional()
        .map_err(failed("cannot read the store id"))?;
    store_id.ok_or_else(|| Error::Damaged { what: "the database", detail: "it has no store id".to_owned() })
}

/// Until [`close_tidily`], closing the database leaves its files as they are.
fn keep_files(db: &Connection) -> rusqlite::Result<()> {
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).map(drop)
}

/// From now on the last one to close the database copies the WAL into it and deletes that.
pub fn close_tidily(db: &Connection) -> Result<(), Error> {
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)
        .map(drop)
        .map_err(|source| Error::Sqlite { what: "cannot configure the database", source })
}

/// Gives the database `store_id`, and a number made of it to the header of the file, by which a WAL of
/// another database is told.
pub fn name(db: &Connection, store_id: &str) -> rusqlite::Result<()> {
    db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('store_id', ?1)", [store_id])?;
    db.pragma_update(None, "application_id", application_id(store_id))
}

/// What the header of the database of `store_id` says; never 0.
pub fn application_id(store_id: &str) -> i32 {
    store_id
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
        .max(1)
        .cast_signed()
}

fn configure(db: &Connection) -> rusqlite::Result<()> {
    // Both count only until there are tables: later the file would have to be rewritten.
    db.pragma_update(None, "page_size", PAGE_BYTES)?;
    db.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
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

/// A new database that is in no file.
#[cfg(any(test, fuzzing))]
pub(crate) fn in_memory() -> rusqlite::Result<Connection> {
    let mut db = Connection::open_in_memory()?;
    create(&mut db, "0123456789abcdef")?;
    Ok(db)
}

fn create(db: &mut Connection, store_id: &str) -> rusqlite::Result<()> {
    let transaction = db.transaction()?;
    transaction.execute_batch(TABLES)?;
    transaction.execute_batch(TABLES_OF_2)?;
    for table in block::create_tables() {
        transaction.execute_batch(table)?;
    }
    name(&transaction, store_id)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

/// Adds what versions 2 and 3 brought. Its blocks belong to no boot that is known: number 0.
fn migrate_from_1(db: &mut Connection) -> rusqlite::Result<()> {
    let transaction = db.transaction()?;
    transaction.execute_batch(TABLES_OF_2)?;
    transaction.execute_batch("ALTER TABLE pending ADD COLUMN backlog INTEGER NOT NULL DEFAULT 0")?;
    for statement in block::tables_from_1() {
        transaction.execute_batch(statement)?;
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

/// Adds what version 3 brought: how messages are known again.
fn migrate_from_2(db: &mut Connection) -> rusqlite::Result<()> {
    let transaction = db.transaction()?;
    for statement in block::tables_from_2() {
        transaction.execute_batch(statement)?;
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}
