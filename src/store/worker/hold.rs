//! How much memory the thread holds: bounds that follow the plan of the process, and what it drops when asked.

use super::{Codec, Worker};
use crate::store::Error;
use crate::store::block::PIECE_BYTES_MAX;

/// The bounds, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// JSON that shares one commit: a group takes no further commands once it holds this much.
    pub group_bytes_max: usize,
    /// JSON of one block; at most what a block of columns may hold.
    pub block_bytes_max: usize,
    /// SQLite's pages.
    pub page_cache_bytes: usize,
    /// JSON of a batch that is frozen for delivery, where less is not asked for.
    pub delivery_bytes_max: usize,
}

impl Default for Hold {
    fn default() -> Self {
        Self {
            group_bytes_max: 1 << 20,
            block_bytes_max: PIECE_BYTES_MAX,
            page_cache_bytes: 512 << 10,
            delivery_bytes_max: 16 << 20,
        }
    }
}

impl Worker {
    /// Keeps to `hold` from here on.
    pub(super) fn set_hold(&mut self, hold: Hold) -> Result<(), Error> {
        let block_bytes_max = hold.block_bytes_max.clamp(1, PIECE_BYTES_MAX);
        self.hold = Hold { block_bytes_max, ..hold };
        self.keep_hold()
    }

    /// Tells a connection that was just opened.
    pub(super) fn keep_hold(&self) -> Result<(), Error> {
        let kib = i64::try_from(self.hold.page_cache_bytes / 1024).unwrap_or(i64::MAX);
        self.db
            .pragma_update(None, "cache_size", -kib)
            .map_err(|source| Error::Sqlite { what: "cannot bound the page cache", source })
    }

    /// Gives up what is made anew when it is needed: pages that are on the disk, and the compressor's tables.
    pub(super) fn shed(&mut self) -> Result<(), Error> {
        self.db.flush_prepared_statement_cache();
        self.codec = Codec::new()?;
        self.db
            .pragma_query(None, "shrink_memory", |_| Ok(()))
            .map_err(|source| Error::Sqlite { what: "cannot give up cached pages", source })
    }
}
