//! What a database holds, in numbers; read only.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use serde::Serialize;

use super::inspect::{beside, open_read_only};
use super::{Error, Lane};

/// A database in numbers.
#[derive(Debug, Serialize)]
pub struct Stats {
    pub path: PathBuf,
    pub schema_version: i64,
    pub store_id: String,
    pub database_bytes: u64,
    pub wal_bytes: u64,
    /// Inside the database, and not in use.
    pub free_bytes: u64,
    pub lanes: Vec<LaneStats>,
    /// Items that the endpoint refused for good.
    pub dead_letters: u64,
    /// Items that will not be delivered, by reason.
    pub gaps: Vec<GapStats>,
    pub audit_records: u64,
    /// Boots of the board in which the database was used.
    pub boots: u64,
}

/// What one lane holds.
#[derive(Debug, Serialize)]
pub struct LaneStats {
    pub name: &'static str,
    pub blocks: u64,
    pub items: u64,
    /// Of those, what waits for delivery.
    pub undelivered: u64,
    /// Batches that were begun and are not delivered.
    pub batches: u64,
    /// As JSON, and as it is stored.
    pub json_bytes: u64,
    pub stored_bytes: u64,
    /// Of the items' own times, Unix seconds.
    pub oldest: Option<f64>,
    pub newest: Option<f64>,
    /// The oldest of what waits for delivery, give or take what shares a block with it.
    pub oldest_undelivered: Option<f64>,
}

/// What one reason has cost.
#[derive(Debug, Serialize)]
pub struct GapStats {
    pub reason: String,
    pub items: u64,
    pub records: u64,
}

/// Reads the numbers of the database at `path`, which an agent may be running on.
///
/// # Errors
///
/// It cannot be read.
pub fn stats(path: &Path) -> Result<Stats, Error> {
    let db = open_read_only(path)?;
    let size = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
    read(&db, path, size(path), size(&beside(path, "-wal")))
        .map_err(|source| Error::Sqlite { what: "cannot read the database", source })
}

fn read(db: &Connection, path: &Path, database_bytes: u64, wal_bytes: u64) -> rusqlite::Result<Stats> {
    let number = |sql: &str| db.query_row(sql, [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs);
    let mut gaps =
        db.prepare("SELECT reason, sum(count), count(*) FROM gap GROUP BY reason ORDER BY reason")?;
    let gaps = gaps.query_map([], |row| {
        Ok(GapStats {
            reason: row.get(0)?,
            items: row.get::<_, i64>(1)?.unsigned_abs(),
            records: row.get::<_, i64>(2)?.unsigned_abs(),
        })
    })?;
    Ok(Stats {
        path: path.to_owned(),
        schema_version: db.query_row("PRAGMA user_version", [], |row| row.get(0))?,
        store_id: db.query_row("SELECT value FROM meta WHERE key = 'store_id'", [], |row| row.get(0))?,
        database_bytes,
        wal_bytes,
        free_bytes: number("PRAGMA freelist_count")? * number("PRAGMA page_size")?,
        lanes: Lane::ALL.into_iter().map(|lane| lane_stats(db, lane)).collect::<Result<_, _>>()?,
        dead_letters: number("SELECT count(*) FROM dead_letter")?,
        gaps: gaps.collect::<Result<_, _>>()?,
        audit_records: number("SELECT count(*) FROM privacy_audit")?,
        boots: number("SELECT count(*) FROM boot")?,
    })
}

fn lane_stats(db: &Connection, lane: Lane) -> rusqlite::Result<LaneStats> {
    // The length of a blob is known without reading it.
    let sql = format!(
        "SELECT count(*), coalesce(sum(count), 0), coalesce(sum(raw_bytes), 0),
           coalesce(sum(length(data)), 0), min(time_min), max(time_max), coalesce(max(first + count), 1)
         FROM {}",
        lane.table()
    );
    let mut end = 1;
    let mut stats = db.query_row(&sql, [], |row| {
        let number = |index| row.get::<_, i64>(index).map(i64::unsigned_abs);
        end = row.get(6)?;
        Ok(LaneStats {
            name: lane.name(),
            blocks: number(0)?,
            items: number(1)?,
            undelivered: 0,
            batches: 0,
            json_bytes: number(2)?,
            stored_bytes: number(3)?,
            oldest: row.get(4)?,
            newest: row.get(5)?,
            oldest_undelivered: None,
        })
    })?;
    let sql = "SELECT coalesce(sum(max(coalesce(last + 1, ?2) - first, 0)), 0), count(frozen_at)
               FROM pending WHERE lane = ?1";
    (stats.undelivered, stats.batches) = db.query_row(sql, [lane as i64, end], |row| {
        Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get::<_, i64>(1)?.unsigned_abs()))
    })?;
    let sql = format!(
        "SELECT min(time_min) FROM {} JOIN pending ON lane = ?1
           AND {0}.first + count > pending.first AND {0}.first <= coalesce(last, ?2)",
        lane.table()
    );
    stats.oldest_undelivered = db.query_row(&sql, [lane as i64, end], |row| row.get(0))?;
    Ok(stats)
}
