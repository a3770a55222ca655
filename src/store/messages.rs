//! How sources know messages again that were stored before this start, read back from the newest blocks.

use rusqlite::Connection;

use super::boot::BootTime;
use super::{Error, Lane, block};

/// What came with the newest batches, the oldest first, as [`Batch::messages`](crate::reading::Batch::messages)
/// had it.
///
/// It is what a source may get again: messages whose acknowledgement a broker has not seen. That comes moments
/// after the commit, so not all blocks are looked at.
///
/// # Errors
///
/// The database cannot be read.
pub fn recall(db: &Connection) -> Result<Vec<u8>, Error> {
    let mut found: Vec<(BootTime, Vec<u8>)> = Vec::new();
    for lane in Lane::ALL {
        found.extend(block::newest_messages(db, lane, BLOCKS_MAX)?);
    }
    found.sort_by_key(|(at, _)| std::cmp::Reverse((at.boot, at.millis)));
    let mut bytes = 0;
    found.retain(|(_, messages)| {
        bytes += messages.len();
        bytes <= BYTES_MAX
    });
    Ok(found.into_iter().rev().flat_map(|(_, messages)| messages).collect())
}

/// Of each lane: four minutes at a commit a second.
const BLOCKS_MAX: u32 = 256;
/// Of the newest of all lanes: more than a broker has under way.
const BYTES_MAX: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::schema;

    #[test]
    fn messages_come_back_in_the_order_of_their_commits_whatever_their_lanes() {
        let db = schema::in_memory().unwrap();
        let insert = |table: &str, (first, boot, millis): (i64, i64, i64), messages: Option<&[u8]>| {
            let sql = format!("INSERT INTO {table} VALUES (?1, 1, 0, 0, ?2, ?3, 1, ?4, x'00')");
            db.execute(&sql, rusqlite::params![first, boot, millis, messages]).unwrap();
        };
        insert("block_telemetry", (1, 1, 900), Some(b"a"));
        insert("block_telemetry", (2, 2, 10), Some(b"c"));
        insert("block_telemetry", (3, 2, 20), None);
        insert("block_local", (1, 2, 5), Some(b"b"));
        insert("block_critical", (1, 2, 30), Some(b"d"));
        assert_eq!(recall(&db).unwrap(), b"abcd");
        db.execute("UPDATE block_local SET messages = 'text'", []).unwrap();
        assert_eq!(recall(&db).unwrap(), b"acd");
        insert("block_logs", (1, 2, 40), Some(&vec![b'x'; 65_537]));
        assert_eq!(recall(&db).unwrap(), b"acd");
    }

    #[test]
    fn only_the_newest_are_looked_at() {
        let db = schema::in_memory().unwrap();
        for first in 1..=i64::from(BLOCKS_MAX) + 1 {
            let messages = first.to_be_bytes();
            db.execute(
                "INSERT INTO block_local VALUES (?1, 1, 0, 0, 1, ?1, 1, ?2, x'00')",
                (first, messages),
            )
            .unwrap();
        }
        let recalled = recall(&db).unwrap();
        assert_eq!(recalled.len(), BLOCKS_MAX as usize * 8);
        assert_eq!(recalled[..8], 2_i64.to_be_bytes());
    }
}
