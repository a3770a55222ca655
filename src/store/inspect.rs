//! Opening a database to look at it, whether an agent runs on it, it is a copy, or it lies on a medium
//! that cannot be written. Nothing is changed, and no file is made beside it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::Error;

/// Opens the database at `path` to be read. With a running agent the reader sees the last commit before its
/// first read; a long read keeps the agent's write-ahead log from being reset, so keep reads short.
///
/// # Errors
///
/// There is no such file, or it cannot be read.
pub fn open_read_only(path: &Path) -> Result<Connection, Error> {
    if let Err(source) = std::fs::File::open(path) {
        return Err(Error::Io { what: "cannot read", path: path.to_owned(), source });
    }
    // Where there is an index of the WAL, an agent may be running and has to be seen and be heard.
    if beside(path, "-shm").exists()
        && let Ok(db) = shared(path)
    {
        return Ok(db);
    }
    let has_wal = std::fs::metadata(beside(path, "-wal")).is_ok_and(|wal| wal.len() > 0);
    let opened = if has_wal { alone(path) } else { still(path) };
    opened.map_err(|source| Error::Sqlite { what: "cannot open the database", source })
}

/// The file beside the database whose name ends in `suffix`.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

fn shared(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open_with_flags(path, FLAGS)?;
    settle(&db)?;
    Ok(db)
}

/// Without locks and with the index of the WAL in memory: needs neither a writable folder nor `-shm`.
fn alone(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open_with_flags_and_vfs(path, FLAGS, c"unix-none")?;
    db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    settle(&db)?;
    Ok(db)
}

/// A file that nobody writes to: SQLite would make an empty WAL beside it.
fn still(path: &Path) -> rusqlite::Result<Connection> {
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                uri.push(char::from(*byte))
            }
            _ => uri.push_str(&format!("%{byte:02x}")),
        }
    }
    uri.push_str("?immutable=1");
    let db = Connection::open_with_flags(uri, FLAGS.union(OpenFlags::SQLITE_OPEN_URI))?;
    settle(&db)?;
    Ok(db)
}

fn settle(db: &Connection) -> rusqlite::Result<()> {
    // Or the last one to close would delete a WAL that holds commits.
    db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    db.query_row("PRAGMA schema_version", [], |row| row.get::<_, i64>(0)).map(drop)
}

const FLAGS: OpenFlags = OpenFlags::SQLITE_OPEN_READ_ONLY
    .union(OpenFlags::SQLITE_OPEN_NO_MUTEX)
    .union(OpenFlags::SQLITE_OPEN_EXRESCODE);

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::store::schema;

    fn names_and_sizes(dir: &Path) -> BTreeMap<String, u64> {
        std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len()))
            .collect()
    }

    fn remembered(db: &Connection) -> i64 {
        db.query_row("SELECT count(*) FROM meta WHERE key = 'x'", [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn a_running_store_and_copies_with_and_without_wal_are_read_and_left_as_they_are() {
        let dir = tempfile::Builder::new().prefix("100% odd?#").tempdir().unwrap();
        let path = dir.path().join("a.db");
        let (db, _) = schema::open(&path).unwrap();
        db.execute("INSERT INTO meta VALUES ('x', 'in the WAL')", []).unwrap();
        assert_eq!(remembered(&open_read_only(&path).unwrap()), 1);
        assert_eq!(remembered(&db), 1, "the agent goes on");

        let copies = tempfile::tempdir().unwrap();
        let copy = copies.path().join("a.db");
        std::fs::copy(&path, &copy).unwrap();
        std::fs::copy(beside(&path, "-wal"), beside(&copy, "-wal")).unwrap();
        let before = names_and_sizes(copies.path());
        assert_eq!(remembered(&open_read_only(&copy).unwrap()), 1);
        assert_eq!(names_and_sizes(copies.path()), before);

        db.close().unwrap();
        let before = names_and_sizes(dir.path());
        assert_eq!(remembered(&open_read_only(&path).unwrap()), 1);
        assert_eq!(names_and_sizes(dir.path()), before);
    }
}
