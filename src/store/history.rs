//! Readings as they came in: those of a period out of a database, in the order of their arrival, beside an agent
//! that runs.
//!
//! What was delivered and what stayed lie in two lanes, each in order; the two are merged by the readings' own times.
//! A reading that left changed lies in both: the fuller copy is given, and the other left out.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::path::Path;

use rusqlite::{Connection, params};

use super::export::{Filter, Unreadable};
use super::inspect::open_read_only;
use super::thin::StoredReading;
use super::{Error, Lane};
use crate::clock::mark;
use crate::reading::Reading;

/// What was in the period, besides the readings that were given.
#[derive(Debug, Default)]
pub struct Past {
    pub readings: u64,
    /// Readings of which only summaries are left.
    pub summaries: u64,
    /// Readings whose value privacy took away before they were stored.
    pub masked: u64,
    pub unreadable: Unreadable,
}

/// Gives the readings with times in `since..until`, Unix seconds, to `take`, until it returns false. Events, results
/// of windows and summaries are no readings.
///
/// # Errors
///
/// The database cannot be read.
pub fn readings(
    path: &Path,
    since: f64,
    until: f64,
    mut take: impl FnMut(Reading<'_>) -> bool,
) -> Result<Past, Error> {
    let db = open_read_only(path)?;
    let filter = Filter { since: Some(since), until: Some(until), ..Filter::default() };
    let mut past = Past { summaries: summaries(&db, since, until)?, ..Past::default() };
    // Of two copies with the same time the local one, which is the fuller, is first.
    let mut cursors = [Cursor::new(Lane::Local), Cursor::new(Lane::Telemetry)];
    let mut twins = Twins::default();
    for cursor in &mut cursors {
        cursor.advance(&db, &filter, &mut past)?;
    }
    while let Some(index) = earliest(&cursors) {
        let cursor = &mut cursors[index];
        if let Some(item) = cursor.item()
            && !twins.was_given(&item, cursor.lane)
        {
            let metadata = mark::without(item.metadata.get());
            past.readings += 1;
            past.masked += u64::from(metadata.contains(MASKED));
            let reading = Reading {
                sensor_name: &item.sensor_name,
                timestamp: item.timestamp,
                value: item.value,
                unit: &item.unit,
                metadata: &metadata,
            };
            if !take(reading) {
                break;
            }
        }
        cursor.advance(&db, &filter, &mut past)?;
    }
    Ok(past)
}

fn earliest(cursors: &[Cursor]) -> Option<usize> {
    let times = cursors.iter().enumerate().filter_map(|(index, cursor)| Some((cursor.time?, index)));
    times.min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, index)| index)
}

fn summaries(db: &Connection, since: f64, until: f64) -> Result<u64, Error> {
    let mut count = 0;
    for lane in [Lane::Minute, Lane::Quarter] {
        let sql = format!(
            "SELECT coalesce(sum(count), 0) FROM {} WHERE time_max >= ?1 AND time_min < ?2",
            lane.table()
        );
        let found = db.query_row(&sql, params![since, until], |row| row.get::<_, i64>(0)).map_err(failed)?;
        count += found.unsigned_abs();
    }
    Ok(count)
}

/// How far one lane was read.
struct Cursor {
    lane: Lane,
    /// Of a block, the next behind it, and where its next line begins.
    lines: Vec<u8>,
    next_block: u64,
    at: usize,
    /// The line that is next, and its time; none at the end.
    line: std::ops::Range<usize>,
    time: Option<f64>,
}

impl Cursor {
    fn new(lane: Lane) -> Self {
        Self { lane, lines: Vec::new(), next_block: 0, at: 0, line: 0..0, time: None }
    }

    /// Goes to the next line in the period.
    fn advance(&mut self, db: &Connection, filter: &Filter, past: &mut Past) -> Result<(), Error> {
        let (since, until) = (filter.since.unwrap_or(f64::MIN), filter.until.unwrap_or(f64::MAX));
        loop {
            while let Some(length) = self.lines[self.at..].iter().position(|byte| *byte == b'\n') {
                self.line = self.at..self.at + length;
                self.at += length + 1;
                let time = std::str::from_utf8(&self.lines[self.line.clone()]).ok().and_then(mark::timestamp);
                if time.is_some_and(|time| time >= since && time < until) {
                    self.time = time;
                    return Ok(());
                }
            }
            let Some(raw) = filter.next_block(db, self.lane, self.next_block).map_err(failed)? else {
                self.time = None;
                return Ok(());
            };
            (self.next_block, self.at) = (raw.first + 1, 0);
            self.lines.clear();
            match raw.lines(self.lane) {
                Ok(lines) => self.lines = lines,
                Err(error) => past.unreadable.note(&raw, error),
            }
        }
    }

    /// The next line, when it is a reading.
    fn item(&self) -> Option<StoredReading<'_>> {
        let item: StoredReading<'_> = serde_json::from_slice(&self.lines[self.line.clone()]).ok()?;
        let metadata = item.metadata.get();
        let is_result = metadata.starts_with("{\"window\":") && metadata.contains("\"aggregation\":");
        (!is_result).then_some(item)
    }
}

/// Readings that were given a while ago, to know their copies in the other lane by.
#[derive(Default)]
struct Twins {
    hasher: RandomState,
    given: HashMap<u64, Lane>,
    order: VecDeque<u64>,
}

impl Twins {
    /// Whether this is the copy of one that was given out of another lane; notes it when it is not.
    fn was_given(&mut self, item: &StoredReading<'_>, lane: Lane) -> bool {
        let parts = (&*item.sensor_name, item.timestamp.to_bits(), item.value.to_bits());
        let key = self.hasher.hash_one(parts);
        if self.given.get(&key).is_some_and(|other| *other != lane) {
            self.given.remove(&key);
            return true;
        }
        if self.given.insert(key, lane).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > TWINS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.given.remove(&oldest);
        }
        false
    }
}

fn failed(source: rusqlite::Error) -> Error {
    Error::Sqlite { what: "cannot read the database", source }
}

/// Copies of a reading share a commit; those further apart are not told from others.
const TWINS_MAX: usize = 16 * 1024;
/// What stands in the metadata of a masked reading.
const MASKED: &str = "\"privacy\":\"masked\"";

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::lifecycle::watchdog::Progress;
    use crate::store::tests::settings;
    use crate::store::{DATABASE_FILE, Staged, open};

    fn reading(staged: &mut Staged, lane: Lane, sensor: &str, time: f64, value: f64, metadata: &str) {
        let text = format!(
            r#"{{"sensor_name":"{sensor}","timestamp":{time},"value":{value},"unit":"C","metadata":{metadata}}}"#
        );
        staged.push(lane, time, |out| out.extend_from_slice(text.as_bytes()));
    }

    #[tokio::test]
    async fn readings_come_once_in_order_and_as_full_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let (store, end) = open(settings(folder.path(), 1 << 30), Arc::new(Progress::default())).unwrap();
        let marked =
            r#"{"k":1,"_suppressed":3,"_clock":{"quality":"provisional","boot_time":1.0,"boot":"b"}}"#;
        for block in 0..3_u32 {
            let mut staged = Staged::default();
            let at = |second: u32| 100.0 + f64::from(block * 10 + second);
            reading(&mut staged, Lane::Telemetry, "a", at(0), 1.0, marked);
            reading(&mut staged, Lane::Telemetry, "b", at(2), 2.0, "{}");
            reading(&mut staged, Lane::Local, "c", at(1), 3.0, "{}");
            reading(&mut staged, Lane::Local, "b", at(2), 2.0, r#"{"gps":[1]}"#);
            // Two that are alike are two.
            reading(&mut staged, Lane::Telemetry, "d", at(3), 4.0, r#"{"privacy":"masked"}"#);
            reading(&mut staged, Lane::Telemetry, "d", at(3), 4.0, "{}");
            reading(&mut staged, Lane::Telemetry, "a", at(4), 5.0, r#"{"window":"w","aggregation":"mean"}"#);
            staged.push(Lane::Telemetry, at(4), |out| {
                out.extend_from_slice(format!(r#"{{"rule_name":"r","timestamp":{}}}"#, at(4)).as_bytes());
            });
            store.append(staged).await.unwrap();
            store.ping().await.unwrap();
        }
        drop(store);
        end.await.unwrap().unwrap();
        let mut given = Vec::new();
        let past = readings(&folder.path().join(DATABASE_FILE), 100.0, 120.0, |reading| {
            given.push(format!("{} {} {}", reading.sensor_name, reading.timestamp, reading.metadata));
            true
        });
        let past = past.unwrap();
        let of_block = |at: u32| {
            [
                format!("a {at} {{\"k\":1}}"),
                format!("c {} {{}}", at + 1),
                format!("b {} {{\"gps\":[1]}}", at + 2),
                format!("d {} {{\"privacy\":\"masked\"}}", at + 3),
                format!("d {} {{}}", at + 3),
            ]
        };
        assert_eq!(given, [of_block(100), of_block(110)].concat());
        assert_eq!((past.readings, past.masked, past.unreadable.items), (10, 2, 0));
    }
}
