//! Who has which of the numbered readings: the endpoint, and the store's file.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};

use pyvorin_edge::store::{DATABASE_FILE, block_lines};
use rusqlite::{Connection, OpenFlags, params};

use super::endpoint::receiver::Listener;
use super::endpoint::receiver::ledger::Arrival;

/// What the endpoint took, by number.
#[derive(Default)]
pub struct Received {
    /// In how many different batches each number came.
    pub batches_of: HashMap<u64, u32>,
    /// Every body that came under each key, taken or not.
    bodies: HashMap<String, Body>,
    /// Keys that came with two bodies.
    pub differing: Vec<String>,
}

struct Body {
    digest: Vec<u8>,
    taken: bool,
}

impl Received {
    /// A record, and what fills it.
    pub fn watch() -> (Arc<Mutex<Self>>, Listener) {
        let received: Arc<Mutex<Self>> = Arc::default();
        let filled = Arc::clone(&received);
        (received, Box::new(move |arrival| filled.lock().unwrap().enter(arrival)))
    }

    fn enter(&mut self, arrival: &Arrival) {
        let digest = ring::digest::digest(&ring::digest::SHA256, arrival.body.as_bytes()).as_ref().to_vec();
        let key = arrival.idempotency_key.clone();
        let body = self.bodies.entry(key).or_insert_with(|| Body { digest: digest.clone(), taken: false });
        if body.digest != digest {
            self.differing.push(arrival.idempotency_key.clone());
        }
        if arrival.accepted && !std::mem::replace(&mut body.taken, true) {
            let body: serde_json::Value = serde_json::from_str(&arrival.body).unwrap();
            for item in body["items"].as_array().unwrap() {
                *self.batches_of.entry(value(item)).or_default() += 1;
            }
        }
    }

    /// Keys that came at least once.
    pub fn keys(&self) -> usize {
        self.bodies.len()
    }

    /// Numbers that came in a second batch, each time counted.
    pub fn repeated(&self) -> u64 {
        self.batches_of.values().map(|batches| u64::from(batches - 1)).sum()
    }

    pub fn has(&self, number: u64) -> bool {
        self.batches_of.contains_key(&number)
    }
}

/// Reads the telemetry of a store that may be in use.
pub struct StoreReader {
    db: Connection,
    next: i64,
    /// How often each number is stored, delivered or not, as far as it was read.
    pub stored: HashMap<u64, u32>,
}

impl StoreReader {
    pub fn open(state_dir: &Path) -> Self {
        let path = state_dir.join(DATABASE_FILE);
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        Self { db, next: 0, stored: HashMap::new() }
    }

    /// Reads the blocks that are new since the last call; returns how many.
    pub fn read_on(&mut self) -> usize {
        let blocks = self.blocks(self.next, i64::MAX);
        for (first, numbers) in &blocks {
            self.next = first + i64::try_from(numbers.len()).unwrap();
            for number in numbers {
                *self.stored.entry(*number).or_default() += 1;
            }
        }
        blocks.len()
    }

    /// The numbers in the ranges that are not delivered yet.
    pub fn pending(&self) -> BTreeSet<u64> {
        let ranges = "SELECT first, coalesce(last, 9223372036854775806) FROM pending WHERE lane = 3";
        let mut select = self.db.prepare(ranges).unwrap();
        let ranges = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        let mut pending = BTreeSet::new();
        for range in ranges {
            let (first, last): (i64, i64) = range.unwrap();
            for (block_first, numbers) in self.blocks(first, last) {
                let sequences = (block_first..).zip(numbers);
                let within = sequences.filter(|(sequence, _)| (first..=last).contains(sequence));
                pending.extend(within.map(|(_, number)| number));
            }
        }
        pending
    }

    /// Numbers that are stored again, each time counted.
    pub fn repeated(&self) -> u64 {
        self.stored.values().map(|times| u64::from(times - 1)).sum()
    }

    /// The blocks that have items in `from..=to`: their first sequence number and their values.
    fn blocks(&self, from: i64, to: i64) -> Vec<(i64, Vec<u64>)> {
        let mut select = self
            .db
            .prepare_cached(
                "SELECT first, raw_bytes, data FROM block_telemetry
                 WHERE first + count > ?1 AND first >= ?1 - 1000000 AND first <= ?2 ORDER BY first",
            )
            .unwrap();
        let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        let rows = select.query_map(params![from, to], row).unwrap();
        let blocks = rows.map(|row| {
            let (first, raw_bytes, data): (i64, i64, Vec<u8>) = row.unwrap();
            let lines = block_lines(&data, usize::try_from(raw_bytes).unwrap()).unwrap();
            let items = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            (first, items.map(|line| value(&serde_json::from_slice(line).unwrap())).collect())
        });
        blocks.collect()
    }
}

fn value(item: &serde_json::Value) -> u64 {
    // Readings carry floats; these are whole.
    item["value"].as_f64().unwrap() as u64
}
