//! Declared gaps: what was produced and will not be delivered, with reason, span and count.

use rusqlite::{Connection, params};

use super::block::number;
use super::{Error, Lane};

/// Why something will not be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The store was full.
    Retention,
}

impl Reason {
    pub fn name(self) -> &'static str {
        match self {
            Self::Retention => "retention",
        }
    }
}

/// One gap.
#[derive(Clone, Debug, PartialEq)]
pub struct Gap {
    pub reason: Reason,
    /// Of the store that gave out the numbers.
    pub store_id: String,
    /// `None` when it is not known which.
    pub lane: Option<Lane>,
    /// First and last sequence number; `None` for what never had numbers.
    pub span: Option<(u64, u64)>,
    /// Items that are missing.
    pub count: u64,
    /// Their earliest and latest time as far as it is known, Unix seconds.
    pub time: Option<(f64, f64)>,
    /// Names of sensors that miss something, as far as they are known.
    pub sensors: Vec<String>,
}

/// Notes `gap` in the ledger, inside the caller's transaction. `noted_at` is the wall clock, Unix seconds.
///
/// # Errors
///
/// The database cannot be written.
pub fn record(db: &Connection, gap: &Gap, noted_at: f64) -> Result<(), Error> {
    let sensors = serde_json::Value::from(gap.sensors.clone()).to_string();
    db.prepare_cached(
        "INSERT INTO gap (reason, store_id, lane, first, last, count, time_min, time_max, sensors, noted_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )
    .and_then(|mut insert| {
        insert.execute(params![
            gap.reason.name(),
            gap.store_id,
            gap.lane.map(|lane| lane as i64),
            gap.span.map(|(first, _)| number(first)),
            gap.span.map(|(_, last)| number(last)),
            number(gap.count),
            gap.time.map(|(min, _)| min),
            gap.time.map(|(_, max)| max),
            sensors,
            noted_at,
        ])
    })
    .map(|_| ())
    .map_err(|source| Error::Sqlite { what: "cannot note a gap", source })
}
