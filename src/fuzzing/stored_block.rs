//! Blocks as they may stand in a database that was written by a failing disk or by somebody else.
//!
//! The first line of the input is the sequence number that is looked for. Each further line up to an
//! empty one is a block: `first count raw_bytes kind boot_ms`, with anything for a number; `=` for
//! `raw_bytes` is the length of the data, and without `boot_ms` that is 1. What follows is the data of all
//! of them: as it is for the kind `r`, as text for `t`, packed into columns and compressed for `c`, and
//! compressed for any other.

use std::cell::RefCell;

use rusqlite::Connection;
use rusqlite::types::Value;

use crate::store::block::{self, BLOCK_BYTES_MAX, Codec};
use crate::store::{Error, Lane, columns, schema};

pub(super) fn run(input: &[u8]) {
    thread_local! {
        static STORE: RefCell<(Connection, Codec)> = RefCell::new(store());
    }
    let Some((header, data)) = split(input) else { return };
    if let Some(packed) = columns::pack(data) {
        let unpacked = columns::unpack(&packed, data.len());
        assert_eq!(unpacked.as_deref(), Ok(data), "what is packed comes back");
    }
    let mut lines = header.lines();
    let sequence = lines.next().and_then(|line| line.parse::<u64>().ok()).unwrap_or(1) >> 1;
    STORE.with_borrow_mut(|(db, codec)| {
        db.execute("DELETE FROM block_telemetry", []).expect("memory takes it");
        for line in lines.take(BLOCKS_MAX) {
            insert(db, line, data);
        }
        check(db, codec, sequence);
    });
}

fn store() -> (Connection, Codec) {
    let db = schema::in_memory().expect("the tables are made");
    (db, Codec::new().expect("zstd is there"))
}

fn split(input: &[u8]) -> Option<(&str, &[u8])> {
    let end = input.windows(2).position(|window| window == b"\n\n")?;
    Some((str::from_utf8(&input[..end]).ok()?, &input[end + 2..]))
}

fn insert(db: &Connection, line: &str, data: &[u8]) {
    let mut fields = line.split(' ');
    let mut field = || fields.next().unwrap_or_default().to_owned();
    let (first, count, raw_bytes, kind, boot_ms) = (field(), field(), field(), field(), field());
    let Ok(first) = first.parse::<i64>() else { return };
    let raw_bytes = if raw_bytes == "=" { Value::from(data.len() as i64) } else { column(&raw_bytes) };
    let boot_ms = if boot_ms.is_empty() { Value::Integer(1) } else { column(&boot_ms) };
    let data = match kind.as_str() {
        "r" => Value::Blob(data.to_vec()),
        "t" => Value::Text(String::from_utf8_lossy(data).into_owned()),
        "c" => {
            let packed = columns::pack(data);
            let packed = packed.as_deref().unwrap_or(data);
            Value::Blob(zstd::bulk::compress(packed, 1).expect("memory takes it"))
        }
        _ => Value::Blob(zstd::bulk::compress(data, 1).expect("memory takes it")),
    };
    // A second block of the same number cannot be there.
    db.execute(
        "INSERT OR IGNORE INTO block_telemetry (first, count, time_min, time_max, boot, boot_ms, raw_bytes, data)
         VALUES (?1, ?2, 1.0, 2.0, 1, ?3, ?4, ?5)",
        rusqlite::params![first, column(&count), boot_ms, raw_bytes, data],
    )
    .expect("memory takes it");
}

/// A number where it is one; SQLite keeps anything in any column.
fn column(text: &str) -> Value {
    if let Ok(number) = text.parse::<i64>() {
        Value::Integer(number)
    } else if let Ok(number) = text.parse::<f64>() {
        Value::Real(number)
    } else {
        Value::Text(text.to_owned())
    }
}

/// What is read is whole, or said to be damaged.
fn check(db: &Connection, codec: &mut Codec, sequence: u64) {
    let lane = Lane::Telemetry;
    let mut next = sequence;
    for _ in 0..=BLOCKS_MAX {
        let Some(block) = whole(block::at_or_after(db, codec, lane, next)).flatten() else { break };
        assert!(block.first > 0 && block.count > 0);
        let last = block.first.checked_add(block.count - 1).expect("numbers have an end");
        assert_eq!(block.last(), last);
        assert!(last >= next && last < i64::MAX as u64, "a reader would not get on");
        assert!(block.lines.len() <= BLOCK_BYTES_MAX && block.lines.capacity() <= BLOCK_BYTES_MAX);
        assert!(block.lines.ends_with(b"\n"));
        let lines = block.lines.split_inclusive(|byte| *byte == b'\n').count();
        assert_eq!(lines as u64, block.count, "a block holds what it says");
        next = last + 1;
    }
    if let Some(Some(head)) = whole(block::head_of(db, lane, sequence)) {
        assert!(
            head.first.checked_add(head.count).is_some_and(|end| end > head.first && end <= i64::MAX as u64)
        );
    }
    if let Some(end) = whole(block::end(db, lane)) {
        assert!((1..=i64::MAX as u64).contains(&end));
    }
    whole(block::time_of(db, lane, sequence));
    whole(block::times(db, lane, sequence));
    whole(block::newest_at(db, lane));
}

/// `None` for what is damaged. SQLite itself has no reason to fail.
fn whole<T>(read: Result<T, Error>) -> Option<T> {
    match read {
        Ok(read) => Some(read),
        Err(Error::Damaged { .. }) => None,
        Err(error) => panic!("{error:?}"),
    }
}

const BLOCKS_MAX: usize = 4;
