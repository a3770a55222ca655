//! The queue of the Python agent, as its rows come out of `sync_queue.db`. It is only read.

use std::path::Path;

use anyhow::{Context, bail};
use ring::digest::{SHA256, digest};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Row, params};

use crate::reading::Priority;
use crate::store::Digest;

/// One item that the Python agent has not delivered.
#[derive(Debug, PartialEq)]
pub struct QueueRow {
    pub id: i64,
    /// `None` for a number that no priority has.
    pub priority: Option<Priority>,
    /// `None` when it is no text, or longer than [`PAYLOAD_BYTES_MAX`].
    pub payload: Option<String>,
    /// Names the row by its content.
    pub digest: Digest,
}

/// An opened queue.
pub struct QueueFile(Connection);

impl QueueFile {
    /// Opens the file without changing it.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is not the queue of a Python agent.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let found: i64 = db
            .query_row(COLUMNS_FOUND, [], |row| row.get(0))
            .with_context(|| format!("{} is not a database", path.display()))?;
        if found != COLUMNS {
            bail!(
                "{} is not the queue of a Python agent: it has no table sync_queue with the columns id, \
                 payload, priority and created_at",
                path.display()
            );
        }
        Ok(Self(db))
    }

    /// Items in the queue.
    ///
    /// # Errors
    ///
    /// The file is damaged.
    pub fn len(&self) -> anyhow::Result<u64> {
        let count: i64 = self.0.query_row("SELECT count(*) FROM sync_queue", [], |row| row.get(0))?;
        Ok(count.unsigned_abs())
    }

    /// The next rows behind `after`, in order of their ids, [`ROWS_MAX`] at most.
    ///
    /// # Errors
    ///
    /// The file is damaged.
    pub fn rows(&self, after: i64) -> anyhow::Result<Vec<QueueRow>> {
        let mut select = self.0.prepare_cached(
            "SELECT id, priority, payload, created_at FROM sync_queue WHERE id > ?1 ORDER BY id LIMIT ?2",
        )?;
        let rows = select.query_map(params![after, ROWS_MAX], read)?;
        rows.collect::<Result<_, _>>().with_context(|| format!("the queue is damaged behind row {after}"))
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<QueueRow> {
    let id = row.get(0)?;
    let payload = row.get_ref(2)?;
    let bytes = match payload {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes,
        _ => &[],
    };
    // Python writes the time as a float; whatever it is, its text tells the row from others.
    let created_at = format!("{:?}", row.get_ref(3)?);
    let mut named = format!("{id}\n{created_at}\n").into_bytes();
    named.extend_from_slice(bytes);
    let hash = digest(&SHA256, &named);
    let fits = !bytes.is_empty() && bytes.len() <= PAYLOAD_BYTES_MAX;
    let number = row.get_ref(1)?.as_i64().unwrap_or(0);
    Ok(QueueRow {
        id,
        priority: Priority::ALL.into_iter().find(|priority| *priority as i64 == number),
        payload: Some(bytes).filter(|_| fits).and_then(|bytes| String::from_utf8(bytes.to_vec()).ok()),
        digest: *hash.as_ref().first_chunk().expect("a SHA-256 is longer"),
    })
}

/// The longest payload that is taken over, in bytes.
pub const PAYLOAD_BYTES_MAX: usize = 256 * 1024;
/// Rows in memory at a time.
const ROWS_MAX: i64 = 256;

const COLUMNS: i64 = 4;
const COLUMNS_FOUND: &str = "SELECT count(*) FROM pragma_table_info('sync_queue')
    WHERE name IN ('id', 'payload', 'priority', 'created_at')";
