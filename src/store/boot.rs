//! Boots of the board, and the age of the database: its running time, which no jump of the wall clock
//! touches. While the board is off, nothing ages.

use std::time::Duration;

use std::collections::BTreeMap;

use rusqlite::{Connection, OptionalExtension, params};

use super::infer::Life;
use super::{Error, Lane, block};
use crate::clock::mark::{Correction, Quality};

/// An instant of a boot's own clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootTime {
    /// Row of the table `boot`; 0 for one that was not noted.
    pub boot: i64,
    /// Milliseconds since that boot began.
    pub millis: i64,
}

/// The boot that the agent runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot {
    pub number: i64,
    /// Age of the database when this boot began, in milliseconds.
    age_ms: i64,
}

impl Boot {
    /// Finds the boot named `boot_id`, or notes it as the newest.
    ///
    /// # Errors
    ///
    /// The database cannot be read or written.
    pub fn enter(db: &Connection, boot_id: &str) -> Result<Self, Error> {
        let failed = |source| Error::Sqlite { what: "cannot note the boot", source };
        let newest: Option<(i64, String, i64, i64)> = db
            .query_row(
                "SELECT number, boot_id, age_ms, last_ms FROM boot ORDER BY number DESC LIMIT 1",
                [],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
            )
            .optional()
            .map_err(failed)?;
        let Some((number, newest_id, age_ms, last_ms)) = newest else {
            return Self::insert(db, 1, boot_id, 0);
        };
        // Without a name every start counts as a boot: the clock may have begun anew.
        if newest_id == boot_id && !boot_id.is_empty() {
            return Ok(Self { number, age_ms });
        }
        let mut end_ms = last_ms;
        for lane in Lane::ALL {
            let at = block::newest_at(db, lane)?.filter(|at| at.boot == number);
            end_ms = end_ms.max(at.map_or(0, |at| at.millis));
        }
        db.execute("UPDATE boot SET last_ms = ?1 WHERE number = ?2", params![end_ms, number])
            .map_err(failed)?;
        Self::insert(db, number + 1, boot_id, age_ms + end_ms)
    }

    fn insert(db: &Connection, number: i64, boot_id: &str, age_ms: i64) -> Result<Self, Error> {
        db.execute(
            "INSERT INTO boot (number, boot_id, age_ms) VALUES (?1, ?2, ?3)",
            params![number, boot_id, age_ms],
        )
        .map_err(|source| Error::Sqlite { what: "cannot note the boot", source })?;
        Ok(Self { number, age_ms })
    }

    /// The instant `since_boot` of this boot.
    pub fn at(&self, since_boot: Duration) -> BootTime {
        BootTime { boot: self.number, millis: millis(since_boot) }
    }

    /// Age of the database at `since_boot` of this boot.
    pub fn age(&self, since_boot: Duration) -> Duration {
        Duration::from_millis(self.age_ms.saturating_add(millis(since_boot)).unsigned_abs())
    }

    /// Age of the database at `at`; of an instant of no known boot the least it can have been.
    ///
    /// # Errors
    ///
    /// The database cannot be read.
    pub fn age_of(&self, db: &Connection, at: BootTime) -> Result<Duration, Error> {
        let began: Option<i64> = match at.boot == self.number {
            true => Some(self.age_ms),
            false => db
                .prepare_cached("SELECT age_ms FROM boot WHERE number = ?1")
                .and_then(|mut select| select.query_row([at.boot], |row| row.get(0)).optional())
                .map_err(|source| Error::Sqlite { what: "cannot read when a boot began", source })?,
        };
        Ok(Duration::from_millis(began.map_or(0, |began| began.saturating_add(at.millis)).unsigned_abs()))
    }

    /// Notes that this boot's clock has reached `since_boot`, before blocks that would tell are deleted,
    /// and at the end. Inside the caller's transaction.
    ///
    /// # Errors
    ///
    /// The database cannot be written.
    pub fn note_last(&self, db: &Connection, since_boot: Duration) -> Result<(), Error> {
        db.prepare_cached("UPDATE boot SET last_ms = ?1 WHERE number = ?2")
            .and_then(|mut update| update.execute(params![millis(since_boot), self.number]))
            .map(|_| ())
            .map_err(|source| Error::Sqlite { what: "cannot note how long this boot lasted", source })
    }
}

/// How the wall time of a boot is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Standing {
    /// As its wall clock showed it, right or not.
    Provisional,
    Synchronised,
    /// By its neighbours, and by how many seconds it may be off.
    Inferred(Option<f64>),
}

impl Standing {
    fn name(self) -> &'static str {
        match self {
            Self::Provisional => "provisional",
            Self::Synchronised => "synchronised",
            Self::Inferred(_) => "inferred",
        }
    }
}

/// Notes that the boot `number` began at `offset` Unix seconds, inside the caller's transaction. What moves
/// by less than a millisecond is not written again.
pub fn note_offset(db: &Connection, number: i64, offset: f64, standing: Standing) -> Result<(), Error> {
    let uncertainty = match standing {
        Standing::Inferred(uncertainty) => uncertainty,
        Standing::Provisional | Standing::Synchronised => None,
    };
    db.prepare_cached(
        "UPDATE boot SET wall_offset = ?1, quality = ?2, uncertainty = ?3
         WHERE number = ?4 AND (quality IS NOT ?2 OR abs(wall_offset - ?1) > 0.001)",
    )
    .and_then(|mut update| update.execute(params![offset, standing.name(), uncertainty, number]))
    .map(|_| ())
    .map_err(|source| Error::Sqlite { what: "cannot note when a boot began", source })
}

/// The offset of the boot `number` by its own wall clock, when that is all that is known.
pub fn shown_offset(db: &Connection, number: i64) -> Result<Option<f64>, Error> {
    let shown = "SELECT wall_offset FROM boot WHERE number = ?1 AND quality = 'provisional'";
    db.query_row(shown, [number], |row| row.get(0))
        .optional()
        .map(Option::flatten)
        .map_err(|source| Error::Sqlite { what: "cannot read when this boot began", source })
}

/// What puts the times of boots right, by their number: of those whose time is known.
pub fn corrections(db: &Connection) -> Result<BTreeMap<i64, Correction>, Error> {
    let known = "SELECT number, boot_id, wall_offset, quality, uncertainty FROM boot
                 WHERE quality IN ('synchronised', 'inferred') AND wall_offset IS NOT NULL";
    let read = |row: &rusqlite::Row<'_>| {
        let quality = if row.get::<_, String>(3)? == Standing::Synchronised.name() {
            Quality::Corrected
        } else {
            Quality::Inferred { uncertainty: row.get(4)? }
        };
        Ok((row.get(0)?, Correction { boot: row.get(1)?, offset: row.get(2)?, quality }))
    };
    db.prepare(known)
        .and_then(|mut select| select.query_map([], read)?.collect())
        .map_err(|source| Error::Sqlite { what: "cannot read when boots began", source })
}

/// Every boot with its number, oldest first.
pub fn lives(db: &Connection) -> Result<Vec<(i64, Life)>, Error> {
    let all = "SELECT number, last_ms, wall_offset, quality FROM boot ORDER BY number";
    let read = |row: &rusqlite::Row<'_>| {
        let (offset, quality): (Option<f64>, Option<String>) = (row.get(2)?, row.get(3)?);
        let is_shown = quality.as_deref() == Some(Standing::Provisional.name());
        let (known, shown) = if is_shown { (None, offset) } else { (offset, None) };
        let lasted = row.get::<_, i64>(1)? as f64 / 1e3;
        Ok((row.get(0)?, Life { lasted, known, shown, evidence: Vec::new() }))
    };
    db.prepare(all)
        .and_then(|mut select| select.query_map([], read)?.collect())
        .map_err(|source| Error::Sqlite { what: "cannot read when boots began", source })
}

fn millis(since_boot: Duration) -> i64 {
    i64::try_from(since_boot.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::schema;

    fn age_ms(boot: Boot, since_boot: Duration) -> u128 {
        boot.age(since_boot).as_millis()
    }

    #[test]
    fn the_database_ages_by_running_time_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (db, _) = schema::open(&dir.path().join("a.db")).unwrap();
        let first = Boot::enter(&db, "a").unwrap();
        assert_eq!(age_ms(first, Duration::from_secs(100)), 100_000);
        first.note_last(&db, Duration::from_secs(160)).unwrap();
        assert_eq!(Boot::enter(&db, "a").unwrap(), first, "a restart of the agent is no boot");
        let second = Boot::enter(&db, "b").unwrap();
        assert_eq!(age_ms(second, Duration::from_secs(5)), 165_000);
    }

    #[test]
    fn boots_without_a_name_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let (db, _) = schema::open(&dir.path().join("a.db")).unwrap();
        assert_ne!(Boot::enter(&db, "").unwrap().number, Boot::enter(&db, "").unwrap().number);
    }
}
