//! Judges a database without changing it: structure, blocks, and what the queue says of them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::Connection;
use serde::Serialize;

use super::alive::Alive;
use super::block::Codec;
use super::inspect::open_read_only;
pub use super::verify::Finding;
use super::{Error, Lane, salvage, verify};

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    pub path: PathBuf,
    /// 0 when it cannot be read.
    pub schema_version: i64,
    /// Empty when it cannot be read.
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

/// Checks the database at `path` and decodes every block in it. What an agent commits meanwhile may or may not
/// be looked at.
///
/// # Errors
///
/// There is no such file, or it cannot be read at all.
pub fn check(path: &Path) -> Result<Report, Error> {
    let mut report = Report {
        path: path.to_owned(),
        schema_version: 0,
        store_id: String::new(),
        lanes: Vec::new(),
        findings: Vec::new(),
    };
    let io = |source| Error::Io { what: "cannot read", path: path.to_owned(), source };
    if let Some(evidence) = salvage::suspect(path, &|| ()).map_err(io)? {
        report.findings.push(Finding::new("files", evidence.reason));
    }
    let looked_at = open_read_only(path).and_then(|mut db| {
        look(&mut db, &mut report)
            .map_err(|source| Error::Sqlite { what: "cannot read the database", source })
    });
    match looked_at {
        Err(Error::Sqlite { what, source }) => {
            report.findings.push(Finding::new("database", format!("{what}: {source}")));
        }
        looked_at => looked_at?,
    }
    Ok(report)
}

fn look(db: &mut Connection, report: &mut Report) -> rusqlite::Result<()> {
    report.schema_version = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    report.store_id = db.query_row("SELECT value FROM meta WHERE key = 'store_id'", [], |row| row.get(0))?;
    let verdict = verify::structure(db, Duration::MAX, &Alive::silent())?;
    report.findings.extend(verdict.findings);
    let mut codec = Codec::new().map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    for lane in Lane::ALL {
        let lane = blocks(db, lane, &mut codec, &mut report.findings)?;
        report.lanes.push(lane);
    }
    Ok(())
}

/// Decodes every block of `lane`, a few in each read: a long one would keep the WAL of a running agent from
/// being reset.
fn blocks(
    db: &Connection,
    lane: Lane,
    codec: &mut Codec,
    findings: &mut Vec<Finding>,
) -> rusqlite::Result<LaneReport> {
    let mut report = LaneReport { name: lane.name(), blocks: 0, items: 0 };
    let sql = format!(
        "SELECT first, count, raw_bytes, data FROM {} WHERE first > ?1 ORDER BY first LIMIT {BLOCKS_PER_READ}",
        lane.table()
    );
    let mut select = db.prepare(&sql)?;
    let mut behind = 0;
    loop {
        let read = |row: &rusqlite::Row<'_>| {
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, i64>(1)?,
                row.get::<_, i64>(2)?,
                row.get::<_, Vec<u8>>(3)?,
            ))
        };
        let found = select.query_map([behind], read)?.collect::<rusqlite::Result<Vec<_>>>()?;
        let Some(last) = found.last() else { return Ok(report) };
        behind = last.0;
        for (first, count, raw_bytes, data) in found {
            report.blocks += 1;
            report.items += u64::try_from(count).unwrap_or(0);
            let lines = codec.decompress(&data, usize::try_from(raw_bytes).unwrap_or(usize::MAX));
            let wrong = match lines {
                Err(error) => Some(error.to_string()),
                Ok(lines) => {
                    let held = lines.iter().filter(|byte| **byte == b'\n').count() as i64;
                    (held != count).then(|| format!("it says {count} items and holds {held}"))
                }
            };
            if let Some(wrong) = wrong {
                findings.push(Finding::new(lane.table(), format!("block {first}: {wrong}")));
            }
        }
    }
}

const BLOCKS_PER_READ: usize = 16;
