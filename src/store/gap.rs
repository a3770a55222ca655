//! The ledger of declared gaps: what was produced or offered and will not be delivered, with reason, span
//! and count. Produced is what was delivered, what is queued, and what stands here.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::block::number;
use super::names::Names;
use super::{Error, Lane};
use crate::reading::Refusal;

/// Why something will not be delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The store was full.
    Retention,
    /// The endpoint refused it for good, and it was set aside.
    DeadLetter,
    /// A person deleted it with `store purge`.
    Purged,
    /// It outlived its time.
    Ttl,
    /// Summaries took its place, because the store was short of room.
    Thinned,
    /// It was refused before it was stored, and never had a number.
    Refused(Refusal),
    /// Was stored and not delivered when the database was damaged, and could not be read any more.
    Salvage,
    /// The damage hides what became of these numbers: delivered, lost, or never given out. The span is
    /// the most it can be, the count is 0.
    SalvageUnknown,
}

impl Reason {
    pub const ALL: [Self; 14] = [
        Self::Retention,
        Self::DeadLetter,
        Self::Purged,
        Self::Ttl,
        Self::Thinned,
        Self::Salvage,
        Self::SalvageUnknown,
        Self::Refused(Refusal::Malformed),
        Self::Refused(Refusal::Incomplete),
        Self::Refused(Refusal::NotFinite),
        Self::Refused(Refusal::Time),
        Self::Refused(Refusal::Size),
        Self::Refused(Refusal::Privacy),
        Self::Refused(Refusal::NotConfigured),
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Retention => "retention",
            Self::DeadLetter => "dead_letter",
            Self::Purged => "purged",
            Self::Ttl => "ttl",
            Self::Thinned => "thinned",
            Self::Salvage => "salvage",
            Self::SalvageUnknown => "salvage_unknown",
            Self::Refused(Refusal::Malformed) => "refused_malformed",
            Self::Refused(Refusal::Incomplete) => "refused_incomplete",
            Self::Refused(Refusal::NotFinite) => "refused_not_finite",
            Self::Refused(Refusal::Time) => "refused_time",
            Self::Refused(Refusal::Size) => "refused_size",
            Self::Refused(Refusal::Privacy) => "refused_privacy",
            Self::Refused(Refusal::NotConfigured) => "refused_not_configured",
        }
    }

    /// For people.
    pub fn text(name: &str) -> &'static str {
        match name {
            "retention" => "the store was full",
            "dead_letter" => "the endpoint refused them for good",
            "purged" => "a person deleted them",
            "ttl" => "they outlived their time",
            "thinned" => "summaries of them will be, because the store was short of room",
            "salvage" => "the database was damaged",
            "salvage_unknown" => {
                "the database was damaged, and it hides which of these were delivered, lost or never given out"
            }
            refused if refused.starts_with("refused_") => "they were refused before they were stored",
            _ => "they are lost",
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

/// Whether a gap still has to be told to the cloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    Due,
    /// It consists of reports of gaps alone, and to report those would never end; or it belongs to a time in which
    /// nothing was to leave the device.
    Never,
}

/// Notes `gap` in the ledger, to be reported, inside the caller's transaction. It becomes a part of one of
/// its kind that it touches and that was not reported yet. `noted_at` is the wall clock, Unix seconds.
///
/// # Errors
///
/// The database cannot be written.
pub fn record(db: &Connection, gap: &Gap, noted_at: f64) -> Result<(), Error> {
    record_as(db, gap, noted_at, Report::Due)
}

/// Notes that a database is gone with whatever it held, unless that is noted already; true when it was not.
///
/// # Errors
///
/// The database cannot be read or written.
pub fn record_gone(db: &Connection, store_id: &str, noted_at: f64) -> Result<bool, Error> {
    let reason = Reason::SalvageUnknown;
    let is_noted: bool = db
        .query_row(
            "SELECT EXISTS (SELECT 1 FROM gap WHERE reason = ?1 AND store_id = ?2 AND first IS NULL)",
            params![reason.name(), store_id],
            |row| row.get(0),
        )
        .map_err(|source| Error::Sqlite { what: "cannot read the ledger of gaps", source })?;
    if !is_noted {
        let store_id = store_id.to_owned();
        let gap = Gap { reason, store_id, lane: None, span: None, count: 0, time: None, sensors: Vec::new() };
        record(db, &gap, noted_at)?;
    }
    Ok(!is_noted)
}

/// [`record`], with a choice whether it is reported.
///
/// # Errors
///
/// The database cannot be written.
pub fn record_as(db: &Connection, gap: &Gap, noted_at: f64, report: Report) -> Result<(), Error> {
    note(db, gap, noted_at, report).map_err(|source| Error::Sqlite { what: "cannot note a gap", source })
}

fn note(db: &Connection, gap: &Gap, noted_at: f64, report: Report) -> rusqlite::Result<()> {
    let reported = i64::from(report == Report::Never);
    let lane = gap.lane.map(|lane| lane as i64);
    let (first, last) = (gap.span.map(|(first, _)| number(first)), gap.span.map(|(_, last)| number(last)));
    let touching: Option<(i64, String)> = db
        .prepare_cached(
            "SELECT id, sensors FROM gap WHERE reported = ?1 AND reason = ?2 AND store_id = ?3 AND lane IS ?4
               AND (last + 1 = ?5 OR first - 1 = ?6 OR (first IS NULL AND ?5 IS NULL))
             ORDER BY id DESC LIMIT 1",
        )?
        .query_row(params![reported, gap.reason.name(), gap.store_id, lane, first, last], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    let (time_min, time_max) = (gap.time.map(|(min, _)| min), gap.time.map(|(_, max)| max));
    if let Some((id, known)) = touching {
        let mut sensors = Names::from_json(&known);
        gap.sensors.iter().for_each(|name| sensors.add(name));
        db.prepare_cached(
            "UPDATE gap SET first = min(first, ?2), last = max(last, ?3), count = count + ?4,
               time_min = coalesce(min(time_min, ?5), time_min, ?5),
               time_max = coalesce(max(time_max, ?6), time_max, ?6), sensors = ?7 WHERE id = ?1",
        )?
        .execute(params![
            id,
            first,
            last,
            number(gap.count),
            time_min,
            time_max,
            sensors.to_json()
        ])?;
        return Ok(());
    }
    let mut sensors = Names::default();
    gap.sensors.iter().for_each(|name| sensors.add(name));
    db.prepare_cached(
        "INSERT INTO gap (reason, store_id, lane, first, last, count, time_min, time_max, sensors, noted_at,
           reported) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        gap.reason.name(),
        gap.store_id,
        lane,
        first,
        last,
        number(gap.count),
        time_min,
        time_max,
        sensors.to_json(),
        noted_at,
        reported
    ])?;
    fold(db, ROWS_MAX)
}

/// Reason, store and lane: what is reported together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub reason: String,
    pub store_id: String,
    pub lane: Option<i64>,
}

/// What has rows that are not reported yet.
///
/// # Errors
///
/// The database cannot be read.
pub fn unreported(db: &Connection) -> Result<Vec<Key>, Error> {
    db.prepare_cached("SELECT DISTINCT reason, store_id, lane FROM gap WHERE reported = 0")
        .and_then(|mut select| {
            let key = |row: &rusqlite::Row<'_>| {
                Ok(Key { reason: row.get(0)?, store_id: row.get(1)?, lane: row.get(2)? })
            };
            select.query_map([], key)?.collect()
        })
        .map_err(|source| Error::Sqlite { what: "cannot read the ledger of gaps", source })
}

/// What one report says.
#[derive(Debug, Default, PartialEq)]
pub struct Told {
    pub count: u64,
    /// First and last number of each part, in the order in which they were lost.
    pub spans: Vec<(u64, u64)>,
    pub time: Option<(f64, f64)>,
    pub sensors: Names,
}

/// Marks up to [`SPANS_MAX`] rows of `key`, the oldest, as reported, inside the caller's transaction;
/// returns what they say.
///
/// # Errors
///
/// The database cannot be read or written.
pub fn take(db: &Connection, key: &Key) -> Result<Told, Error> {
    take_rows(db, key).map_err(|source| Error::Sqlite { what: "cannot report a gap", source })
}

fn take_rows(db: &Connection, key: &Key) -> rusqlite::Result<Told> {
    let mut told = Told::default();
    let mut last_id = 0;
    let mut select = db.prepare_cached(
        "SELECT id, first, last, count, time_min, time_max, sensors FROM gap
         WHERE reported = 0 AND reason = ?1 AND store_id = ?2 AND lane IS ?3 ORDER BY id LIMIT ?4",
    )?;
    let mut rows = select.query(params![key.reason, key.store_id, key.lane, SPANS_MAX])?;
    while let Some(row) = rows.next()? {
        last_id = row.get(0)?;
        let span: (Option<i64>, Option<i64>) = (row.get(1)?, row.get(2)?);
        if let (Some(first), Some(last)) = span {
            told.spans.push((first.unsigned_abs(), last.unsigned_abs()));
        }
        told.count += row.get::<_, i64>(3)?.unsigned_abs();
        let time: (Option<f64>, Option<f64>) = (row.get(4)?, row.get(5)?);
        if let (Some(min), Some(max)) = time {
            let known = told.time.unwrap_or((min, max));
            told.time = Some((known.0.min(min), known.1.max(max)));
        }
        told.sensors.absorb(&Names::from_json(&row.get::<_, String>(6)?));
    }
    db.prepare_cached(
        "UPDATE gap SET reported = 1
         WHERE reported = 0 AND reason = ?1 AND store_id = ?2 AND lane IS ?3 AND id <= ?4",
    )?
    .execute(params![key.reason, key.store_id, key.lane, last_id])?;
    Ok(told)
}

/// Items missing by name of the reason, in the life of the database.
///
/// # Errors
///
/// The database cannot be read.
pub fn totals(db: &Connection) -> Result<Vec<(String, u64)>, Error> {
    db.prepare_cached("SELECT reason, sum(count) FROM gap GROUP BY reason")
        .and_then(|mut select| {
            let total = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs()));
            select.query_map([], total)?.collect()
        })
        .map_err(|source| Error::Sqlite { what: "cannot read the ledger of gaps", source })
}

/// With more than `rows_max` rows, makes the oldest of each kind into one row, reported ones first. Its span
/// goes from the lowest to the highest number, and its count says how many of those are missing.
fn fold(db: &Connection, rows_max: u64) -> rusqlite::Result<()> {
    let rows: i64 = db.prepare_cached("SELECT count(*) FROM gap")?.query_row([], |row| row.get(0))?;
    if rows.unsigned_abs() <= rows_max {
        return Ok(());
    }
    let mut heads: HashMap<(Key, i64), i64> = HashMap::new();
    let mut pairs = Vec::new();
    let mut select =
        db.prepare_cached("SELECT id, reason, store_id, lane, reported FROM gap ORDER BY reported DESC, id")?;
    let mut found = select.query([])?;
    while let Some(row) = found.next()? {
        let key = Key { reason: row.get(1)?, store_id: row.get(2)?, lane: row.get(3)? };
        let id = row.get(0)?;
        let head = *heads.entry((key, row.get(4)?)).or_insert(id);
        if head != id {
            pairs.push((head, id));
        }
        if pairs.len() == FOLDED_AT_ONCE {
            break;
        }
    }
    let mut merge = db.prepare_cached(
        "UPDATE gap SET first = min(gap.first, other.first), last = max(gap.last, other.last),
           count = gap.count + other.count,
           time_min = coalesce(min(gap.time_min, other.time_min), gap.time_min, other.time_min),
           time_max = coalesce(max(gap.time_max, other.time_max), gap.time_max, other.time_max)
         FROM (SELECT * FROM gap WHERE id = ?2) AS other WHERE gap.id = ?1",
    )?;
    let mut delete = db.prepare_cached("DELETE FROM gap WHERE id = ?1")?;
    for (head, id) in pairs {
        merge.execute([head, id])?;
        delete.execute([id])?;
    }
    Ok(())
}

/// Rows of the ledger; beyond it the oldest are folded together.
const ROWS_MAX: u64 = 1024;
/// So that folding does not run at every row.
const FOLDED_AT_ONCE: usize = 64;
/// Spans in one report: some 5 KB of text.
pub const SPANS_MAX: i64 = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::schema;

    fn gap(reason: Reason, first: u64, last: u64) -> Gap {
        Gap {
            reason,
            store_id: "s".to_owned(),
            lane: Some(Lane::Telemetry),
            span: Some((first, last)),
            count: last - first + 1,
            time: Some((first as f64, last as f64)),
            sensors: vec![format!("sensor-{first}")],
        }
    }

    fn open() -> (tempfile::TempDir, Connection) {
        let dir = tempfile::tempdir().unwrap();
        let (db, _) = schema::open(&dir.path().join("a.db")).unwrap();
        (dir, db)
    }

    fn rows(db: &Connection) -> i64 {
        db.query_row("SELECT count(*) FROM gap", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn gaps_that_touch_are_one_until_they_are_reported() {
        let (_dir, db) = open();
        for (first, last) in [(5, 9), (10, 12), (1, 4), (20, 20)] {
            record(&db, &gap(Reason::Retention, first, last), 0.0).unwrap();
        }
        record(&db, &gap(Reason::DeadLetter, 13, 13), 0.0).unwrap();
        assert_eq!(rows(&db), 3);
        let keys = unreported(&db).unwrap();
        assert_eq!(keys.len(), 2);
        let told = take(&db, keys.iter().find(|key| key.reason == "retention").unwrap()).unwrap();
        assert_eq!((told.spans, told.count), (vec![(1, 12), (20, 20)], 13));
        assert_eq!(told.time, Some((1.0, 20.0)));
        assert_eq!(told.sensors.to_json(), r#"["sensor-5","sensor-10","sensor-1","sensor-20"]"#);
        record(&db, &gap(Reason::Retention, 13, 14), 0.0).unwrap();
        assert_eq!(rows(&db), 4, "what was reported stays as it was told");
    }

    #[test]
    fn what_never_had_numbers_is_one_row_for_each_reason() {
        let (_dir, db) = open();
        for reason in [Refusal::Malformed, Refusal::Time, Refusal::Malformed] {
            let refused = Gap { lane: None, span: None, time: None, ..gap(Reason::Refused(reason), 1, 3) };
            record(&db, &refused, 0.0).unwrap();
        }
        assert_eq!(rows(&db), 2);
        assert!(totals(&db).unwrap().contains(&("refused_malformed".to_owned(), 6)));
    }

    #[test]
    fn the_ledger_is_bounded_and_loses_no_count() {
        let (_dir, db) = open();
        db.execute_batch("BEGIN").unwrap();
        let count = ROWS_MAX + 200;
        for number in 0..count {
            record(&db, &gap(Reason::DeadLetter, 1 + 2 * number, 1 + 2 * number), 0.0).unwrap();
            if number == ROWS_MAX / 2 {
                take(&db, &unreported(&db).unwrap()[0]).unwrap();
            }
        }
        assert!(rows(&db).unsigned_abs() <= ROWS_MAX);
        assert_eq!(totals(&db).unwrap(), [("dead_letter".to_owned(), count)]);
    }

    #[test]
    fn every_reason_has_a_name_of_its_own() {
        let mut names = Reason::ALL.map(Reason::name).to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Reason::ALL.len());
    }
}
