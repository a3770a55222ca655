//! Whether an open database is whole: SQLite's own check, and what must hold between its rows.

use std::collections::BTreeMap;
use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, OptionalExtension};
use serde::Serialize;

use super::alive::Alive;
use super::salvage::account::{Span, subtract};
use super::{Lane, schema};
use crate::clock;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub place: String,
    pub detail: String,
}

impl Finding {
    pub fn new(place: &str, detail: impl Into<String>) -> Self {
        Self { place: place.to_owned(), detail: detail.into() }
    }
}

/// What came of looking.
#[derive(Debug, Default)]
pub struct Verdict {
    pub findings: Vec<Finding>,
    /// The time was up before everything was looked at.
    pub is_cut_short: bool,
}

/// Looks at the structure for at most `time_max`. What blocks hold is not looked at.
///
/// # Errors
///
/// The database cannot be read.
pub fn structure(db: &mut Connection, time_max: Duration, alive: &Alive) -> rusqlite::Result<Verdict> {
    let end = clock::since_boot().saturating_add(time_max);
    let alive = alive.clone();
    let is_up = move || {
        alive.tick();
        clock::since_boot() >= end
    };
    db.progress_handler(OPERATIONS_PER_LOOK, Some(is_up))?;
    let mut verdict = Verdict::default();
    let found = look(db, &mut verdict.findings);
    db.progress_handler(0, None::<fn() -> bool>)?;
    match found {
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
            verdict.is_cut_short = true;
        }
        found => found?,
    }
    Ok(verdict)
}

/// Looks at the small tables, which decide what is sent, and which the queue takes at their word.
///
/// # Errors
///
/// The database cannot be read.
pub fn queue(db: &Connection) -> rusqlite::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    facts(db, &mut findings)?;
    ranges(db, &mut findings)?;
    for table in SMALL_TABLES {
        structure_of(db, table, &mut findings)?;
    }
    Ok(findings)
}

fn look(db: &Connection, findings: &mut Vec<Finding>) -> rusqlite::Result<()> {
    facts(db, findings)?;
    let ranges = ranges(db, findings)?;
    structure_of(db, &FINDINGS_MAX.to_string(), findings)?;
    for lane in Lane::ALL {
        blocks(db, lane, ranges.get(&lane).map_or(&[], Vec::as_slice), findings)?;
    }
    Ok(())
}

/// SQLite's own check, of one table or of everything with a number of findings at most.
fn structure_of(db: &Connection, what: &str, findings: &mut Vec<Finding>) -> rusqlite::Result<()> {
    let mut check = db.prepare(&format!("PRAGMA quick_check({what})"))?;
    let mut lines = check.query([])?;
    while let Some(line) = lines.next()? {
        let line: String = line.get(0)?;
        if line != "ok" {
            findings.push(Finding::new("structure", line));
        }
    }
    Ok(())
}

fn facts(db: &Connection, findings: &mut Vec<Finding>) -> rusqlite::Result<()> {
    let id: String = db.query_row("SELECT value FROM meta WHERE key = 'store_id'", [], |row| row.get(0))?;
    let named: i32 = db.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    // 0 is that of an agent that did not write it yet.
    if named != 0 && named != schema::application_id(&id) {
        findings.push(Finding::new("meta", format!("store id {id} does not fit the header of the file")));
    }
    let mut lanes = db.prepare("SELECT lane, next_sequence FROM lane")?;
    let mut rows = lanes.query([])?;
    while let Some(row) = rows.next()? {
        let (lane, next): (Value, Value) = (row.get(0)?, row.get(1)?);
        let is_lane = matches!(lane, Value::Integer(lane) if Lane::from_number(lane).is_some());
        let is_sane = is_lane && matches!(next, Value::Integer(1..));
        if !is_sane {
            findings
                .push(Finding::new("lane", format!("lane {} goes on with {}", shown(&lane), shown(&next))));
        }
    }
    Ok(())
}

/// An undelivered range: first number, and one behind the last unless it grows.
type Waiting = (u64, Option<u64>);

fn ranges(db: &Connection, findings: &mut Vec<Finding>) -> rusqlite::Result<BTreeMap<Lane, Vec<Waiting>>> {
    let next = next_numbers(db)?;
    let mut ranges: BTreeMap<Lane, Vec<Waiting>> = BTreeMap::new();
    let mut select =
        db.prepare("SELECT id, lane, first, last, frozen_at FROM pending ORDER BY lane, first")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        let values: [Value; 4] = [row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?];
        let range = match &values {
            [Value::Integer(lane), Value::Integer(first @ 1..), last, frozen_at] => {
                let end = match (last, frozen_at) {
                    (Value::Integer(last), Value::Null | Value::Real(_)) if last >= first => {
                        Some(Some(*last + 1))
                    }
                    (Value::Null, Value::Null) => Some(None),
                    _ => None,
                };
                let lane = Lane::from_number(*lane).filter(|lane| *lane != Lane::Local);
                lane.zip(end).map(|(lane, end)| (lane, (first.unsigned_abs(), end.map(i64::unsigned_abs))))
            }
            _ => None,
        };
        let Some((lane, range)) = range else {
            findings.push(Finding::new(
                "pending",
                format!("range {id} is {}", values.each_ref().map(shown).join(", ")),
            ));
            continue;
        };
        let earlier = ranges.entry(lane).or_default();
        if earlier.last().is_some_and(|(_, end)| end.is_none_or(|end| end > range.0)) {
            findings.push(Finding::new("pending", format!("range {id} overlaps the one before")));
        }
        if range.1.unwrap_or(range.0) > next[lane.index()] {
            findings
                .push(Finding::new("pending", format!("range {id} reaches beyond what its lane ever held")));
        }
        earlier.push(range);
    }
    Ok(ranges)
}

/// The number behind the last one that is known in each lane.
fn next_numbers(db: &Connection) -> rusqlite::Result<[u64; Lane::ALL.len()]> {
    let mut next = [1; Lane::ALL.len()];
    for lane in Lane::ALL {
        let newest = format!("SELECT first + count FROM {} ORDER BY first DESC LIMIT 1", lane.table());
        let end: Option<Value> = db.query_row(&newest, [], |row| row.get(0)).optional()?;
        let given: Option<Value> = db
            .query_row("SELECT next_sequence FROM lane WHERE lane = ?1", [lane as i64], |row| row.get(0))
            .optional()?;
        for number in [end, given].into_iter().flatten() {
            if let Value::Integer(number @ 1..) = number {
                next[lane.index()] = next[lane.index()].max(number.unsigned_abs());
            }
        }
    }
    Ok(next)
}

/// Blocks must not overlap, and must hold every number of `ranges`.
fn blocks(
    db: &Connection,
    lane: Lane,
    ranges: &[Waiting],
    findings: &mut Vec<Finding>,
) -> rusqlite::Result<()> {
    let mut found = |detail: String| {
        if findings.len() < FINDINGS_MAX {
            findings.push(Finding::new(lane.table(), detail));
        }
    };
    let mut stored: Vec<Span> = Vec::new();
    let mut select = db.prepare(&format!("SELECT first, count FROM {} ORDER BY first", lane.table()))?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let (first, count): (Value, Value) = (row.get(0)?, row.get(1)?);
        let (Value::Integer(first @ 1..), Value::Integer(count @ 1..)) = (&first, &count) else {
            found(format!("block {} has {} items", shown(&first), shown(&count)));
            continue;
        };
        let span = (first.unsigned_abs(), first.saturating_add(*count).unsigned_abs());
        match stored.last_mut() {
            Some(last) if last.1 == span.0 => last.1 = span.1,
            Some(last) if last.1 > span.0 => found(format!("block {first} overlaps the one before")),
            _ => stored.push(span),
        }
    }
    let end = stored.last().map_or(1, |span| span.1);
    for (first, range_end) in ranges {
        for (from, behind) in subtract(&[(*first, range_end.unwrap_or(end))], &stored) {
            found(format!("items {from} to {} are to be delivered and not there", behind - 1));
        }
    }
    Ok(())
}

/// Where a number should be. Text and bytes may be a part of a payload, and of any length.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "NULL".to_owned(),
        Value::Integer(number) => number.to_string(),
        Value::Real(number) => number.to_string(),
        Value::Text(text) => format!("a text of {} bytes", text.len()),
        Value::Blob(bytes) => format!("{} bytes", bytes.len()),
    }
}

/// Virtual machine instructions between two looks at the clock: well below a millisecond.
const OPERATIONS_PER_LOOK: i32 = 10_000;
/// They say what is sent, and which numbers are given out.
const SMALL_TABLES: [&str; 5] = ["sqlite_schema", "meta", "lane", "pending", "provisional"];
const FINDINGS_MAX: usize = 100;
