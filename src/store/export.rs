//! Reads items out of a database, block by block, so that a running agent is not held up.

use std::borrow::Cow;
use std::path::Path;

use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::block::{self, Codec, number};
use super::inspect::open_read_only;
use super::{Error, Lane};
use crate::privacy::pattern;

/// Which items.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// All of them when empty.
    pub lanes: Vec<Lane>,
    /// Only what waits for delivery.
    pub undelivered: bool,
    /// A pattern for the names of sensors; for an event, of one of its readings.
    pub sensor: Option<String>,
    /// A pattern for the names of rules: only their events.
    pub rule: Option<String>,
    /// Of the items' own times, Unix seconds: not before, and before.
    pub since: Option<f64>,
    pub until: Option<f64>,
}

/// One item: a reading or an event.
#[derive(Debug)]
pub struct Item<'a> {
    pub lane: Lane,
    pub sequence: u64,
    /// Its JSON, on one line.
    pub text: &'a str,
    pub fields: Fields<'a>,
}

/// What an item's JSON says, as far as it says it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Fields<'a> {
    #[serde(borrow)]
    pub sensor_name: Option<Cow<'a, str>>,
    pub timestamp: f64,
    pub value: Option<f64>,
    #[serde(borrow)]
    pub unit: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub metadata: Option<&'a RawValue>,
    #[serde(borrow)]
    pub rule_name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub severity: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub message: Option<Cow<'a, str>>,
    #[serde(borrow)]
    sensor_readings: Vec<About<'a>>,
}

impl Fields<'_> {
    /// Value and unit of an event's first reading.
    pub fn first_reading(&self) -> Option<(Option<f64>, &str)> {
        self.sensor_readings.first().map(|reading| (reading.value, reading.unit.as_ref()))
    }

    /// An event's first reading.
    pub fn about(&self) -> Option<&About<'_>> {
        self.sensor_readings.first()
    }

    /// The sensor of a reading, or of the first reading of an event; empty when there is none.
    pub fn sensor(&self) -> &str {
        let first = self.sensor_readings.first().map(|reading| reading.sensor_name.as_ref());
        self.sensor_name.as_deref().or(first).unwrap_or_default()
    }
}

/// A reading in an event.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct About<'a> {
    #[serde(borrow)]
    pub sensor_name: Cow<'a, str>,
    pub timestamp: f64,
    pub value: Option<f64>,
    #[serde(borrow)]
    pub unit: Cow<'a, str>,
    #[serde(borrow)]
    pub metadata: Option<&'a RawValue>,
}

/// What could not be read.
#[derive(Debug, Default)]
pub struct Unreadable {
    pub items: u64,
    /// What was wrong with the first.
    pub first: Option<String>,
}

/// Gives every item of the database at `path` that `filter` lets through to `take`, lane by lane in order
/// of their numbers, until `take` returns false. What is damaged is left out and counted.
///
/// # Errors
///
/// The database cannot be read.
pub fn export(
    path: &Path,
    filter: &Filter,
    mut take: impl FnMut(&Item<'_>) -> bool,
) -> Result<Unreadable, Error> {
    let db = open_read_only(path)?;
    let failed = |source| Error::Sqlite { what: "cannot read the database", source };
    let mut unreadable = Unreadable::default();
    for lane in filter.lanes() {
        let mut from = 0;
        // A statement for each block: between two of them the agent can reset its log.
        while let Some(raw) = filter.next_block(&db, lane, from).map_err(failed)? {
            from = raw.first + 1;
            let held = if filter.undelivered { undelivered(&db, lane).map_err(failed)? } else { Vec::new() };
            match raw.lines(lane) {
                Ok(lines) => {
                    if !filter.pass(lane, &raw, &lines, &held, &mut take) {
                        return Ok(unreadable);
                    }
                }
                Err(error) => unreadable.note(&raw, error),
            }
        }
    }
    Ok(unreadable)
}

/// A block as it is stored.
pub(super) struct RawBlock {
    pub(super) first: u64,
    pub(super) count: u64,
    raw_bytes: usize,
    data: Vec<u8>,
}

impl RawBlock {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            first: row.get::<_, i64>(0)?.unsigned_abs(),
            count: row.get::<_, i64>(1)?.unsigned_abs(),
            raw_bytes: usize::try_from(row.get::<_, i64>(2)?).unwrap_or(usize::MAX),
            data: row.get(3)?,
        })
    }

    /// The items' JSON, one a line; else what is wrong with the block.
    pub(super) fn lines(&self, lane: Lane) -> Result<Vec<u8>, String> {
        block::lines(&self.data, self.raw_bytes)
            .map_err(|error| format!("{} {}: {error}", lane.name(), self.first))
    }
}

impl RawBlock {
    /// [`Self::lines`] by a codec that is there already.
    pub(super) fn lines_by(&self, codec: &mut Codec, lane: Lane) -> Result<Vec<u8>, String> {
        codec
            .decompress(&self.data, self.raw_bytes)
            .map_err(|error| format!("{} {}: {error}", lane.name(), self.first))
    }
}

impl Unreadable {
    pub(super) fn note(&mut self, raw: &RawBlock, error: String) {
        self.items += raw.count;
        self.first.get_or_insert(error);
    }
}

/// First and last number of the ranges of `lane` that wait for delivery.
fn undelivered(db: &Connection, lane: Lane) -> rusqlite::Result<Vec<(u64, u64)>> {
    db.prepare_cached("SELECT first, coalesce(last, ?2) FROM pending WHERE lane = ?1")?
        .query_map(params![lane as i64, i64::MAX], |row| {
            Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get::<_, i64>(1)?.unsigned_abs()))
        })?
        .collect()
}

impl Filter {
    pub(super) fn lanes(&self) -> impl Iterator<Item = Lane> {
        Lane::ALL.into_iter().filter(|lane| self.lanes.is_empty() || self.lanes.contains(lane))
    }

    /// The first block of `lane` from number `from` on that may hold what is wanted.
    pub(super) fn next_block(
        &self,
        db: &Connection,
        lane: Lane,
        from: u64,
    ) -> rusqlite::Result<Option<RawBlock>> {
        self.block(db, lane, "first >= ?1 ORDER BY first", from)
    }

    /// The last block of `lane` that begins before number `before` and may hold what is wanted.
    pub(super) fn block_before(
        &self,
        db: &Connection,
        lane: Lane,
        before: u64,
    ) -> rusqlite::Result<Option<RawBlock>> {
        self.block(db, lane, "first < ?1 ORDER BY first DESC", before)
    }

    fn block(&self, db: &Connection, lane: Lane, place: &str, at: u64) -> rusqlite::Result<Option<RawBlock>> {
        let sql = format!(
            "SELECT first, count, raw_bytes, data FROM {} WHERE time_max >= ?2 AND time_min < ?3 AND {place} LIMIT 1",
            lane.table()
        );
        let (since, until) = (self.since.unwrap_or(f64::MIN), self.until.unwrap_or(f64::MAX));
        db.prepare_cached(&sql)?.query_row(params![number(at), since, until], RawBlock::read).optional()
    }

    /// False when no more is wanted.
    pub(super) fn pass(
        &self,
        lane: Lane,
        block: &RawBlock,
        lines: &[u8],
        held: &[(u64, u64)],
        take: &mut impl FnMut(&Item<'_>) -> bool,
    ) -> bool {
        let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        for (sequence, line) in (block.first..).zip(lines) {
            if self.undelivered && !held.iter().any(|(first, last)| (*first..=*last).contains(&sequence)) {
                continue;
            }
            let Ok(text) = std::str::from_utf8(line) else { continue };
            // What is stored was JSON when it came in; what another program imported may have other types.
            let fields = serde_json::from_str(text).unwrap_or_default();
            let item = Item { lane, sequence, text, fields };
            if self.wants(&item.fields) && !take(&item) {
                return false;
            }
        }
        true
    }

    fn wants(&self, fields: &Fields<'_>) -> bool {
        let matches = |pattern: &String| {
            let own = fields.sensor_name.iter().map(Cow::as_ref);
            let inner = fields.sensor_readings.iter().map(|reading| reading.sensor_name.as_ref());
            own.chain(inner).any(|name| pattern::matches(pattern, name))
        };
        self.since.is_none_or(|since| fields.timestamp >= since)
            && self.until.is_none_or(|until| fields.timestamp < until)
            && self.sensor.as_ref().is_none_or(matches)
            && self.rule.as_ref().is_none_or(|pattern| {
                fields.rule_name.as_ref().is_some_and(|name| pattern::matches(pattern, name))
            })
    }
}
