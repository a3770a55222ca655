//! Judges a database without changing it: structure, blocks, and what the queue says of them.

use std::path::{Path, PathBuf};

use rusqlite::Connection;
use serde::Serialize;

use super::inspect::open_read_only;
use super::{Error, Lane};

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    pub path: PathBuf,
    pub schema_version: i64,
    pub store_id: String,
    pub lanes: Vec<LaneReport>,
    /// Empty when nothing is wrong.
    pub findings: Vec<Finding>,
}

/// What one lane holds.
#[derive(Debug, Serialize)]
pub struct LaneReport {
    pub name: &'static str,
    pub blocks: u64,
    pub items: u64,
}

/// One thing that is wrong.
#[derive(Debug, Serialize)]
pub struct Finding {
    pub place: String,
    pub detail: String,
}

/// Checks the database at `path`.
///
/// # Errors
///
/// It cannot be read at all.
pub fn check(path: &Path) -> Result<Report, Error> {
    let db = open_read_only(path)?;
    let failed = |what| move |source| Error::Sqlite { what, source };
    let schema_version = db
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(failed("cannot read the schema version"))?;
    let store_id = db
        .query_row("SELECT value FROM meta WHERE key = 'store_id'", [], |row| row.get(0))
        .map_err(failed("cannot read the store id"))?;
    let lanes = Lane::ALL
        .into_iter()
        .map(|lane| count(&db, lane))
        .collect::<rusqlite::Result<_>>()
        .map_err(failed("cannot read the blocks"))?;
    let findings = quick_check(&db).map_err(failed("cannot check the database"))?;
    Ok(Report { path: path.to_owned(), schema_version, store_id, lanes, findings })
}

fn count(db: &Connection, lane: Lane) -> rusqlite::Result<LaneReport> {
    let sql = format!("SELECT count(*), coalesce(sum(count), 0) FROM {}", lane.table());
    db.query_row(&sql, [], |row| {
        Ok(LaneReport {
            name: lane.name(),
            blocks: row.get::<_, i64>(0)?.unsigned_abs(),
            items: row.get::<_, i64>(1)?.unsigned_abs(),
        })
    })
}

fn quick_check(db: &Connection) -> rusqlite::Result<Vec<Finding>> {
    let mut check = db.prepare("PRAGMA quick_check")?;
    let lines: Vec<String> = check.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let findings = lines.into_iter().filter(|line| line != "ok");
    Ok(findings.map(|detail| Finding { place: "structure".to_owned(), detail }).collect())
}
