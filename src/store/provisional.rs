//! Where provisional times lie: ranges of sequence numbers in which the agent stamped while its clock was
//! not synchronised. The table `provisional` is empty where the clock was always right.
//!
//! A range is written down with the first of its blocks and grows with the lane, so that stamping costs no
//! further write. It is closed when the clock is synchronised, or with its boot, and disappears block by
//! block as times are put right.

use rusqlite::{Connection, params};

use super::block::{self, number};
use super::{Error, Lane};

/// One range of one lane, of one boot. `last` is `None` while it grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    id: i64,
    pub lane: Lane,
    /// Row of the table `boot`.
    pub boot: i64,
    /// Where a block begins.
    pub first: u64,
    pub last: Option<u64>,
    /// A frozen batch holds some of it, so it stays as it is for now.
    pub waits: bool,
}

/// All ranges, in memory; changes go to the table too, inside the caller's transaction.
#[derive(Debug, Default)]
pub struct Spans(Vec<Span>);

impl Spans {
    /// Reads them.
    pub fn load(db: &Connection) -> Result<Self, Error> {
        read(db).map(Self)
    }

    /// Reads them in `boot`: closes what earlier boots left open, and forgets what retention took.
    pub fn enter(db: &Connection, boot: i64, next: [u64; Lane::ALL.len()]) -> Result<Self, Error> {
        let mut spans = Self::load(db)?;
        spans.close(db, next, |span| span.boot != boot)?;
        for span in spans.0.clone() {
            let oldest = block::lowest(db, span.lane)?.unwrap_or(u64::MAX);
            if span.last.is_some_and(|last| last < oldest) {
                spans.forget(db, span)?;
            }
        }
        Ok(spans)
    }

    /// Notes that the block of `lane` that begins at `first` bears provisional times of `boot`.
    pub fn note(&mut self, db: &Connection, lane: Lane, boot: i64, first: u64) -> Result<(), Error> {
        if self.0.iter().any(|span| span.lane == lane && span.boot == boot && span.last.is_none()) {
            return Ok(());
        }
        self.insert(db, Span { id: 0, lane, boot, first, last: None, waits: false })
    }

    /// Closes the open ranges that `is_meant` takes, before `next`, the coming number of each lane.
    pub fn close(
        &mut self,
        db: &Connection,
        next: [u64; Lane::ALL.len()],
        is_meant: impl Fn(&Span) -> bool,
    ) -> Result<(), Error> {
        for span in self.0.iter_mut().filter(|span| span.last.is_none() && is_meant(span)) {
            let last = next[span.lane.index()].saturating_sub(1);
            span.last = Some(last);
            write(db, "UPDATE provisional SET last = ?1 WHERE id = ?2", params![number(last), span.id])?;
        }
        Ok(())
    }

    /// Goes on behind the block that ends before `next`; one that a frozen batch holds, `(first, last)`,
    /// is left behind as a range of its own.
    pub fn advance(
        &mut self,
        db: &Connection,
        span: Span,
        next: u64,
        left: Option<(u64, u64)>,
    ) -> Result<(), Error> {
        if let Some((first, last)) = left {
            let last = span.last.map_or(last, |end| end.min(last));
            if span.first == first && span.last == Some(last) {
                self.0.iter_mut().filter(|held| held.id == span.id).for_each(|held| held.waits = true);
                return Ok(());
            }
            self.insert(db, Span { first, last: Some(last), waits: true, ..span })?;
        }
        if span.last.is_some_and(|last| next > last) {
            return self.forget(db, span);
        }
        self.0.iter_mut().filter(|held| held.id == span.id).for_each(|held| held.first = next);
        write(db, "UPDATE provisional SET first = ?1 WHERE id = ?2", params![number(next), span.id])
    }

    pub fn forget(&mut self, db: &Connection, span: Span) -> Result<(), Error> {
        self.0.retain(|held| held.id != span.id);
        write(db, "DELETE FROM provisional WHERE id = ?1", params![span.id])
    }

    /// Goes along when the blocks of `lane` before `end` are deleted.
    pub fn deleted(&mut self, db: &Connection, lane: Lane, end: u64) -> Result<(), Error> {
        let is_gone = |span: &&Span| span.lane == lane && span.last.is_some_and(|last| last < end);
        for span in self.0.iter().filter(is_gone).copied().collect::<Vec<_>>() {
            self.forget(db, span)?;
        }
        // The table may say less: who looks for a block that is gone finds the next.
        let is_cut = |span: &&mut Span| span.lane == lane && span.first < end;
        self.0.iter_mut().filter(is_cut).for_each(|span| span.first = end);
        Ok(())
    }

    pub fn iter(&self) -> impl Iterator<Item = &Span> {
        self.0.iter()
    }

    /// Whether `lane` has any.
    pub fn are_in(&self, lane: Lane) -> bool {
        self.0.iter().any(|span| span.lane == lane)
    }

    /// Items in them, those with other times between included.
    pub fn items(&self, next: [u64; Lane::ALL.len()]) -> u64 {
        let end = |span: &Span| span.last.map_or(next[span.lane.index()], |last| last + 1);
        self.0.iter().map(|span| end(span).saturating_sub(span.first)).sum()
    }

    fn insert(&mut self, db: &Connection, span: Span) -> Result<(), Error> {
        write(
            db,
            "INSERT INTO provisional (lane, boot, first, last) VALUES (?1, ?2, ?3, ?4)",
            params![span.lane as i64, span.boot, number(span.first), span.last.map(number)],
        )?;
        self.0.push(Span { id: db.last_insert_rowid(), ..span });
        Ok(())
    }
}

fn read(db: &Connection) -> Result<Vec<Span>, Error> {
    let failed = |source| Error::Sqlite { what: "cannot read where provisional times are", source };
    let mut select =
        db.prepare("SELECT id, lane, boot, first, last FROM provisional ORDER BY id").map_err(failed)?;
    let rows = select
        .query_map([], |row| {
            let (first, last) = (row.get::<_, i64>(3)?, row.get::<_, Option<i64>>(4)?);
            let lane = Lane::from_number(row.get(1)?);
            Ok(lane.map(|lane| -> rusqlite::Result<Span> {
                Ok(Span {
                    id: row.get(0)?,
                    lane,
                    boot: row.get(2)?,
                    first: first.unsigned_abs(),
                    last: last.map(i64::unsigned_abs),
                    waits: false,
                })
            }))
        })
        .map_err(failed)?;
    // A lane that does not exist has no block to put right.
    let spans = rows.filter_map(Result::transpose).map(|span| span.and_then(|span| span));
    spans.collect::<rusqlite::Result<_>>().map_err(failed)
}

fn write(db: &Connection, sql: &str, parameters: &[&dyn rusqlite::ToSql]) -> Result<(), Error> {
    db.prepare_cached(sql)
        .and_then(|mut statement| statement.execute(parameters))
        .map(|_| ())
        .map_err(|source| Error::Sqlite { what: "cannot note where provisional times are", source })
}
