//! Whether the database is still where it was opened: SQLite goes on with a file that was deleted or moved away
//! (3.51 looks only before it makes a rollback journal), and what it commits there no start would find.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Worker;
use crate::store::{DATABASE_FILE, Error, inspect, quarantine, schema};

/// Which files a connection has open, whatever their names are by now: their inodes. `None` when there is no
/// such file, or the disk does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Files {
    database: Option<u64>,
    wal: Option<u64>,
}

impl Files {
    pub fn of(database: &Path) -> Self {
        let inode = |path: &Path| std::fs::metadata(path).ok().map(|file| file.ino());
        Self { database: inode(database), wal: inode(&inspect::beside(database, "-wal")) }
    }
}

impl Worker {
    /// Looks whether what was committed is where the next start looks for it.
    ///
    /// # Errors
    ///
    /// [`Error::Gone`]: it is not.
    pub(super) fn look_for_file(&self) -> Result<(), Error> {
        let state_dir = &self.settings.state_dir;
        let path = state_dir.join(DATABASE_FILE);
        let found = Files::of(&path);
        let detail = match found.database {
            same if same == self.files.database || self.files.database.is_none() => return Ok(()),
            Some(_) => schema::REPLACED,
            None if matches!(path.try_exists(), Ok(false)) => schema::FILE_GONE,
            None => return Ok(()),
        };
        if detail == schema::REPLACED && found.wal == self.files.wal {
            // SQLite would take it for that of the other database, and write it over that.
            quarantine::set_log_aside(state_dir)?;
        }
        Err(Error::Gone { store_id: self.store_id.to_string(), detail })
    }
}
