//! The start of a store: whatever lies in the state directory, it ends with a database that can be used, or
//! with the reason why there is none yet.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, ffi};

use super::alive::Alive;
use super::inspect::beside;
use super::quarantine::{Gone, Kept};
use super::salvage::{self, Evidence, Summary};
use super::{DATABASE_FILE, Error, Settings, gap, quarantine, schema, trouble, verify};
use crate::clock;

/// A database that is whole, as far as was looked.
pub struct Opened {
    pub db: Connection,
    pub store_id: String,
    /// The last salvage of its life.
    pub salvage: Option<Summary>,
}

/// Opens the database of `settings`, salvaged when it is damaged. Waits for the disk, in the worst case for
/// reading and writing the whole database; `alive` hears of it.
///
/// # Errors
///
/// [`Error::is_transient`] tells whether to try again later. Nothing is lost by an error.
pub fn database(settings: &Settings, alive: &Alive) -> Result<Opened, Error> {
    let state_dir = &settings.state_dir;
    quarantine::finish(state_dir)?;
    let (mut opened, is_salvaged) = match examine(state_dir, alive)? {
        Ok(opened) => (opened, false),
        Err(evidence) => {
            // Room that the store is entitled to counts more than what was salvaged already.
            let kept =
                Kept { bytes_max: settings.quarantine_bytes_max, bytes_free: settings.size_bytes_max / 4 };
            salvage_now(state_dir, &evidence, kept, alive)?;
            // What was salvaged is whole.
            let opened = attempt(&state_dir.join(DATABASE_FILE), alive)?;
            let damaged = |evidence: Evidence| Error::Damaged {
                what: "the salvaged database",
                detail: evidence.reason,
            };
            (opened.map_err(damaged)?, true)
        }
    };
    if let Some(gone) = quarantine::gone(state_dir)? {
        if gone.store_id != opened.store_id {
            declare_gone(&mut opened, gone)?;
        } else if !is_salvaged {
            tracing::warn!(reason = gone.reason, "the database was gone and is back: nothing is lost");
        }
        quarantine::forget_gone(state_dir)?;
    }
    Ok(opened)
}

/// Declares in the database that is used now what the one that vanished may have held.
fn declare_gone(opened: &mut Opened, gone: Gone) -> Result<(), Error> {
    let summary = Summary {
        time: clock::unix_seconds(),
        reason: gone.reason,
        is_uncertain: true,
        is_renamed: true,
        ..Summary::default()
    };
    let failed = |source| Error::Sqlite { what: "cannot declare what is gone", source };
    let transaction = opened.db.transaction().map_err(failed)?;
    // Once, also when the end of a start came before it forgot what to declare.
    if gap::record_gone(&transaction, &gone.store_id, summary.time)? {
        salvage::remember(&transaction, &summary).map_err(failed)?;
        opened.salvage = Some(summary);
    }
    transaction.commit().map_err(failed)
}

/// Looks at the database; what speaks against it is no error.
fn examine(state_dir: &Path, alive: &Alive) -> Result<Result<Opened, Evidence>, Error> {
    let path = state_dir.join(DATABASE_FILE);
    let io = |source| Error::Io { what: "cannot read", path: path.clone(), source };
    if let Some(reason) = quarantine::marked(state_dir)? {
        return Ok(Err(salvage::evidence(&reason, false, false)));
    }
    if let Some(evidence) = salvage::suspect(&path, &|| alive.tick()).map_err(io)? {
        return Ok(Err(evidence));
    }
    attempt(&path, alive)
}

/// Builds the new database and puts it in the place of the damaged one.
///
/// # Errors
///
/// The disk fails or is full; the damaged database is as it was, and the next attempt begins anew.
pub fn salvage_now(
    state_dir: &Path,
    evidence: &Evidence,
    kept: Kept,
    alive: &Alive,
) -> Result<Summary, Error> {
    let path = state_dir.join(DATABASE_FILE);
    tracing::warn!(
        reason = evidence.reason,
        "the database is damaged: what can be read is salvaged into a new one"
    );
    let folder = quarantine::next_folder(state_dir)?;
    let new = quarantine::building(state_dir);
    // The new database is no larger than the damaged one. An earlier one gives way to it.
    keep_small(state_dir, Kept { bytes_free: salvage::bytes(&path), ..Kept::ALL });
    let rebuilt = salvage::rebuild(&path, &new, evidence, &folder, &|| alive.tick());
    if rebuilt.is_err() {
        // Half of it must not take the room of whoever tries next.
        salvage::remove(&new).ok();
    }
    let summary = rebuilt?;
    quarantine::exchange(state_dir, &folder)?;
    keep_small(state_dir, kept);
    Ok(summary)
}

fn keep_small(state_dir: &Path, kept: Kept) {
    if let Err(error) = quarantine::prune(state_dir, kept) {
        tracing::warn!(%error, "the quarantine could not be kept small");
    }
}

fn attempt(path: &Path, alive: &Alive) -> Result<Result<Opened, Evidence>, Error> {
    let is_new = !path.exists();
    let has_wal = std::fs::metadata(beside(path, "-wal")).is_ok_and(|wal| wal.len() > 0);
    let (mut db, store_id) = match schema::open(path) {
        Ok(opened) => opened,
        Err(error) if is_ours_all_the_same(path, &error) => {
            return Ok(Err(salvage::evidence("the header of the file is damaged", false, false)));
        }
        Err(error) if error.is_damage() => return Ok(Err(salvage::evidence(&chain(&error), false, false))),
        Err(error) => return Err(error),
    };
    let judged = judge(&mut db, is_new, has_wal, alive);
    let salvage = match judged.map_err(|source| Error::Sqlite { what: "cannot check the database", source }) {
        Ok(Ok(salvage)) => salvage,
        Ok(Err(evidence)) => return Ok(Err(evidence)),
        Err(error) if error.is_damage() => return Ok(Err(salvage::evidence(&chain(&error), false, false))),
        Err(error) => return Err(error),
    };
    begin_use(&db, &store_id)
        .map_err(|source| Error::Sqlite { what: "cannot begin to use the database", source })?;
    Ok(Ok(Opened { db, store_id, salvage }))
}

/// The last salvage, or what speaks against the database.
fn judge(
    db: &mut Connection,
    is_new: bool,
    has_wal: bool,
    alive: &Alive,
) -> rusqlite::Result<Result<Option<Summary>, Evidence>> {
    let is_in_use = !is_new && fact(db, IN_USE_KEY)?.is_some_and(|use_| use_ == IN_USE);
    if is_in_use && !has_wal {
        return Ok(Err(wal_is_gone()));
    }
    let findings = if is_in_use || has_wal {
        let verdict = verify::structure(db, CHECK_TIME_MAX, alive)?;
        if verdict.is_cut_short {
            tracing::warn!(
                seconds = CHECK_TIME_MAX.as_secs(),
                "the last stop was not in order, and the database is too large to check all of it at the start; what was not looked at is checked when it is read"
            );
        }
        verdict.findings
    } else {
        verify::queue(db)?
    };
    if let Some(first) = findings.first() {
        return Ok(Err(salvage::evidence(&format!("{}: {}", first.place, first.detail), false, false)));
    }
    let summary = fact(db, salvage::SUMMARY_KEY)?;
    Ok(Ok(summary.and_then(|text| serde_json::from_str(&text).ok())))
}

fn wal_is_gone() -> Evidence {
    salvage::evidence("the WAL is gone, although the last stop was not in order", true, false)
}

/// Whether the database at `path`, which nobody uses, misses its WAL. What cannot be read says nothing here.
pub fn misses_wal(path: &Path) -> Option<Evidence> {
    let has_wal = std::fs::metadata(beside(path, "-wal")).is_ok_and(|wal| wal.len() > 0);
    let db = super::inspect::open_read_only(path).ok()?;
    let is_in_use = fact(&db, IN_USE_KEY).ok()?.is_some_and(|use_| use_ == IN_USE);
    (is_in_use && !has_wal).then(wal_is_gone)
}

fn fact(db: &Connection, key: &str) -> rusqlite::Result<Option<String>> {
    db.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()
}

/// Notes that the database is in use, with its WAL about to be emptied: [`empty_log`] comes next.
fn begin_use(db: &Connection, store_id: &str) -> rusqlite::Result<()> {
    let transaction = db.unchecked_transaction()?;
    schema::name(db, store_id)?;
    db.execute(
        "INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2), (?3, ?4)",
        [IN_USE_KEY, EMPTYING, VERSION_KEY, &schema::VERSION.to_string()],
    )?;
    transaction.commit()
}

/// [`schema::empty_log`], and from then on the file itself says that it is in use: without its WAL it is not
/// to be believed any more. While the log is being emptied the file says that.
///
/// # Errors
///
/// The disk fails.
pub fn empty_log(db: &Connection) -> Result<bool, Error> {
    match note_use(db, EMPTYING) {
        // Emptying the log makes room.
        Err(error) if !trouble::leaves_connection_whole(&error) => return Err(error),
        _ => {}
    }
    let is_empty = schema::empty_log(db)?;
    note_use(db, IN_USE)?;
    db.query_row("PRAGMA wal_checkpoint(FULL)", [], |_| Ok(()))
        .map_err(|source| Error::Sqlite { what: "cannot note the use of the database", source })?;
    Ok(is_empty)
}

fn note_use(db: &Connection, how: &str) -> Result<(), Error> {
    db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)", [IN_USE_KEY, how])
        .map(drop)
        .map_err(|source| Error::Sqlite { what: "cannot note the use of the database", source })
}

/// Takes back what was noted of the use, inside the caller's transaction: the stop is in order.
pub fn end_use(db: &Connection) -> Result<(), Error> {
    db.execute("DELETE FROM meta WHERE key = ?1", [IN_USE_KEY])
        .map(drop)
        .map_err(|source| Error::Sqlite { what: "cannot note the end", source })
}

/// A newer agent and another program are left alone; but a damaged byte in the header looks like either.
fn is_ours_all_the_same(path: &Path, error: &Error) -> bool {
    if !matches!(error, Error::NewerSchema { .. } | Error::Foreign { .. }) {
        return false;
    }
    let Ok(db) = super::inspect::open_read_only(path) else { return false };
    let is_known = |version: String| version.parse().is_ok_and(|version: i64| version <= schema::VERSION);
    fact(&db, VERSION_KEY).is_ok_and(|version| version.is_some_and(is_known))
}

impl Error {
    /// Whether it goes away by itself or by somebody's help while the agent waits: no room, no right to write,
    /// a disk that fails, a database that is held.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Io { source, .. } => trouble::passes(source),
            Self::Sqlite { source, .. } => match source {
                rusqlite::Error::SqliteFailure(failure, _) => match failure.code {
                    ErrorCode::SystemIoFailure => !is_cut_off(failure),
                    ErrorCode::DiskFull
                    | ErrorCode::ReadOnly
                    | ErrorCode::CannotOpen
                    | ErrorCode::PermissionDenied
                    | ErrorCode::FileLockingProtocolFailed
                    | ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked => true,
                    _ => false,
                },
                _ => false,
            },
            Self::OldSqlite { .. }
            | Self::NewerSchema { .. }
            | Self::Foreign { .. }
            | Self::Damaged { .. }
            | Self::Gone { .. } => false,
        }
    }

    /// Whether the database holds what no agent wrote.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } => true,
            Self::Sqlite { .. } => !self.is_transient() && !self.is_out_of_memory(),
            Self::Io { .. }
            | Self::OldSqlite { .. }
            | Self::NewerSchema { .. }
            | Self::Foreign { .. }
            | Self::Gone { .. } => false,
        }
    }

    fn is_out_of_memory(&self) -> bool {
        matches!(
            self,
            Self::Sqlite { source: rusqlite::Error::SqliteFailure(failure, _), .. }
                if failure.code == ErrorCode::OutOfMemory
        )
    }
}

/// The file ends where a page should be.
fn is_cut_off(failure: &ffi::Error) -> bool {
    failure.extended_code == ffi::SQLITE_IOERR_SHORT_READ
        || failure.extended_code == ffi::SQLITE_IOERR_CORRUPTFS
}

fn chain(error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// After a stop that was not in order, the structure of the database is checked for so long.
const CHECK_TIME_MAX: Duration = Duration::from_secs(15);
/// In `meta` while a store is open, as one of the two below.
pub const IN_USE_KEY: &str = "in_use";
/// There is a WAL with something in it.
const IN_USE: &str = "1";
/// The WAL may be empty.
const EMPTYING: &str = "emptying";
/// In `meta`: the version once more, by which a damaged header is told from a newer agent's.
const VERSION_KEY: &str = "schema_version";
