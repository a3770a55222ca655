//! What was taken over from another program's queue: a digest of each row, so that no row comes twice.

use rusqlite::{Connection, OptionalExtension};

use super::Error;

/// Names a row of the other queue by its content: the start of a SHA-256.
pub type Digest = [u8; 16];

/// Which of `digests` were taken over before.
pub fn known(db: &Connection, digests: &[Digest]) -> Result<Vec<bool>, Error> {
    let mut select = db
        .prepare_cached("SELECT 1 FROM imported WHERE digest = ?1")
        .map_err(|source| Error::Sqlite { what: "cannot read what was imported", source })?;
    let mut is_known = |digest: &Digest| select.query_row([digest], |_| Ok(())).optional();
    digests
        .iter()
        .map(|digest| Ok(is_known(digest)?.is_some()))
        .collect::<rusqlite::Result<_>>()
        .map_err(|source| Error::Sqlite { what: "cannot read what was imported", source })
}

/// Notes `digests` as taken over, inside the caller's transaction.
pub fn note(db: &Connection, digests: &[Digest]) -> Result<(), Error> {
    let failed = |source| Error::Sqlite { what: "cannot note what was imported", source };
    let mut insert =
        db.prepare_cached("INSERT OR IGNORE INTO imported (digest) VALUES (?1)").map_err(failed)?;
    for digest in digests {
        insert.execute([digest]).map_err(failed)?;
    }
    Ok(())
}
