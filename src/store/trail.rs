//! Reads the privacy audit trail out of a database.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Row};
use serde_json::Value;

use super::Error;
use super::inspect::open_read_only;
use crate::privacy::audit::AuditRecord;
use crate::privacy::chain::CHECKPOINT;

/// Gives every record of the database at `path` to `take`, the oldest first. Returns the highest number that was
/// ever given to one, as the database keeps it apart from the trail. An agent may be running on it.
///
/// # Errors
///
/// The database cannot be read.
pub fn read(path: &Path, mut take: impl FnMut(i64, &AuditRecord)) -> Result<Option<i64>, Error> {
    let db = open_read_only(path)?;
    // One view of both.
    db.execute_batch("BEGIN").map_err(failed)?;
    let highest = highest(&db)?;
    oldest(&db, u64::MAX, &mut take)?;
    Ok(highest)
}

/// Gives the oldest `count` records to `take`.
pub fn oldest(db: &Connection, count: u64, mut take: impl FnMut(i64, &AuditRecord)) -> Result<(), Error> {
    let limit = i64::try_from(count).unwrap_or(i64::MAX);
    let mut select = db
        .prepare(
            "SELECT id, timestamp, action, details, prev_hash, record_hash FROM privacy_audit ORDER BY id LIMIT ?1",
        )
        .map_err(failed)?;
    let mut rows = select.query([limit]).map_err(failed)?;
    while let Some(row) = rows.next().map_err(failed)? {
        let (id, record) = record(row).map_err(failed)?;
        take(id, &record);
    }
    Ok(())
}

/// How many there are, give or take what a salvage left out.
pub fn count(db: &Connection) -> Result<u64, Error> {
    let end = |order: &str| {
        db.query_row(&format!("SELECT id FROM privacy_audit ORDER BY id {order} LIMIT 1"), [], |row| {
            row.get::<_, i64>(0)
        })
        .optional()
        .map_err(failed)
    };
    let (Some(first), Some(last)) = (end("")?, end("DESC")?) else { return Ok(0) };
    Ok((last - first).unsigned_abs() + 1)
}

/// The details of the newest checkpoint.
pub fn newest_checkpoint(db: &Connection) -> Result<Option<Value>, Error> {
    let details: Option<String> = db
        .query_row(
            "SELECT details FROM privacy_audit WHERE action = ?1 ORDER BY id DESC LIMIT 1",
            [CHECKPOINT],
            |row| row.get(0),
        )
        .optional()
        .map_err(failed)?;
    Ok(details.and_then(|details| serde_json::from_str(&details).ok()))
}

/// The highest number that was given to a record.
pub fn highest(db: &Connection) -> Result<Option<i64>, Error> {
    db.query_row("SELECT seq FROM sqlite_sequence WHERE name = 'privacy_audit'", [], |row| row.get(0))
        .optional()
        .map_err(failed)
}

/// A number that is not finite, or text that is none, is not what was written: it reads as something whose hash
/// differs.
fn record(row: &Row<'_>) -> rusqlite::Result<(i64, AuditRecord)> {
    let text = |index| row.get::<_, String>(index).unwrap_or_default();
    let record = AuditRecord {
        timestamp: row.get(1).ok().filter(|time: &f64| time.is_finite()).unwrap_or_default(),
        action: text(2),
        details: text(3),
        prev_hash: text(4),
        record_hash: text(5),
    };
    Ok((row.get(0)?, record))
}

fn failed(source: rusqlite::Error) -> Error {
    Error::Sqlite { what: "cannot read the audit chain", source }
}
