//! Reads what was stored last, and then what is stored next, beside an agent that runs. Each look has a connection
//! of its own: a database that is replaced, or that an agent opens only later, is seen all the same.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension};

use super::export::{Filter, Item, Unreadable};
use super::inspect::open_read_only;
use super::{Error, Lane};

/// In each lane, the number that the next item will have, as far as is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place([u64; Lane::ALL.len()]);

/// Where the database at `path` ends now.
///
/// # Errors
///
/// The database cannot be read.
pub fn end(path: &Path) -> Result<Place, Error> {
    end_of(&open_read_only(path)?)
}

fn end_of(db: &Connection) -> Result<Place, Error> {
    let mut place = Place::default();
    for lane in Lane::ALL {
        let sql = format!("SELECT first + count FROM {} ORDER BY first DESC LIMIT 1", lane.table());
        let next: Option<i64> = db.query_row(&sql, [], |row| row.get(0)).optional().map_err(failed)?;
        place.0[lane.index()] = next.unwrap_or(0).unsigned_abs();
    }
    Ok(place)
}

/// Gives the newest items before `place` that `filter` lets through to `take`: of each lane at most `count`, the
/// newest block first and its items in order. No more than 256 blocks of a lane are looked at.
///
/// # Errors
///
/// The database cannot be read.
pub fn newest(
    path: &Path,
    place: &Place,
    filter: &Filter,
    count: usize,
    mut take: impl FnMut(&Item<'_>),
) -> Result<Unreadable, Error> {
    let db = open_read_only(path)?;
    let mut unreadable = Unreadable::default();
    for lane in filter.lanes() {
        let mut before = place.0[lane.index()];
        let mut left = count;
        for _ in 0..BLOCKS_BACK_MAX {
            if left == 0 {
                break;
            }
            let Some(raw) = filter.block_before(&db, lane, before).map_err(failed)? else { break };
            before = raw.first;
            let lines = match raw.lines(lane) {
                Ok(lines) => lines,
                Err(error) => {
                    unreadable.note(&raw, error);
                    continue;
                }
            };
            let mut found = 0_usize;
            filter.pass(lane, &raw, &lines, &[], &mut |_| {
                found += 1;
                true
            });
            let mut skip = found.saturating_sub(left);
            left -= found.min(left);
            filter.pass(lane, &raw, &lines, &[], &mut |item| {
                if skip == 0 {
                    take(item);
                } else {
                    skip -= 1;
                }
                true
            });
        }
    }
    Ok(unreadable)
}

/// Gives what was stored from `place` on and `filter` lets through to `take`, lane by lane, and moves `place` behind
/// it. When `take` returns false the rest is left out. After 64 blocks the rest waits for the next look.
///
/// # Errors
///
/// The database cannot be read; it may be possible at the next look.
pub fn since(
    path: &Path,
    place: &mut Place,
    filter: &Filter,
    mut take: impl FnMut(&Item<'_>) -> bool,
) -> Result<Unreadable, Error> {
    let db = open_read_only(path)?;
    // Numbers only grow, unless another database took the place of the one that was read.
    let end = end_of(&db)?;
    for lane in Lane::ALL {
        let next = &mut place.0[lane.index()];
        let ends = end.0[lane.index()];
        if ends < *next && ends > 0 {
            *next = 0;
        }
    }
    let mut unreadable = Unreadable::default();
    let mut blocks = 0;
    for lane in filter.lanes() {
        while blocks < BLOCKS_PER_LOOK_MAX
            && let Some(raw) = filter.next_block(&db, lane, place.0[lane.index()]).map_err(failed)?
        {
            blocks += 1;
            place.0[lane.index()] = raw.first + raw.count;
            match raw.lines(lane) {
                Ok(lines) => {
                    if !filter.pass(lane, &raw, &lines, &[], &mut take) {
                        return Ok(unreadable);
                    }
                }
                Err(error) => unreadable.note(&raw, error),
            }
        }
    }
    Ok(unreadable)
}

fn failed(source: rusqlite::Error) -> Error {
    Error::Sqlite { what: "cannot read the database", source }
}

/// A pattern that few items match must not mean that all of a large store is read for the last ten of them.
const BLOCKS_BACK_MAX: usize = 256;
/// Who looks again after a long time must not hold all of it in memory at once.
const BLOCKS_PER_LOOK_MAX: u32 = 64;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::lifecycle::watchdog::Progress;
    use crate::store::tests::settings;
    use crate::store::{DATABASE_FILE, Staged, open};

    /// Stores one block for each of `blocks`, readings with these values, in `lane` of a database in `folder`.
    async fn store(folder: &Path, lane: Lane, blocks: &[(u32, u32)]) {
        let (store, end) = open(settings(folder, 1 << 30), Arc::new(Progress::default())).unwrap();
        for (from, to) in blocks {
            let mut staged = Staged::default();
            for value in *from..*to {
                let text = format!("{{\"sensor_name\":\"s{}\",\"value\":{value}}}", value % 2);
                staged.push(lane, f64::from(value), |out| out.extend_from_slice(text.as_bytes()));
            }
            store.append(staged).await.unwrap();
            store.ping().await.unwrap();
        }
        drop(store);
        end.await.unwrap().unwrap();
    }

    fn value(item: &Item<'_>) -> f64 {
        item.fields.value.unwrap()
    }

    #[tokio::test]
    async fn the_newest_come_from_as_many_blocks_as_it_takes_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        store(folder.path(), Lane::Telemetry, &[(0, 4), (4, 8), (8, 12)]).await;
        let path = folder.path().join(DATABASE_FILE);
        let place = end(&path).unwrap();
        let newest_of = |filter: &Filter, count| {
            let mut values = Vec::new();
            newest(&path, &place, filter, count, |item| values.push(value(item))).unwrap();
            values
        };
        let all = Filter::default();
        assert!(newest_of(&all, 0).is_empty());
        assert_eq!(newest_of(&all, 3), [9.0, 10.0, 11.0]);
        assert_eq!(newest_of(&all, 5), [8.0, 9.0, 10.0, 11.0, 7.0]);
        assert_eq!(newest_of(&all, 100).len(), 12);
        let odd = Filter { sensor: Some("s1".to_owned()), ..Filter::default() };
        assert_eq!(newest_of(&odd, 3), [9.0, 11.0, 7.0]);
    }

    #[tokio::test]
    async fn what_comes_is_given_once_also_when_another_database_takes_the_place() {
        let folder = tempfile::tempdir().unwrap();
        store(folder.path(), Lane::Telemetry, &[(0, 4)]).await;
        let path = folder.path().join(DATABASE_FILE);
        let mut place = end(&path).unwrap();
        let all = Filter::default();
        let mut look = || {
            let mut values = Vec::new();
            since(&path, &mut place, &all, |item| {
                values.push(value(item));
                true
            })
            .unwrap();
            values
        };
        assert!(look().is_empty());
        store(folder.path(), Lane::Telemetry, &[(4, 6)]).await;
        store(folder.path(), Lane::Local, &[(90, 91)]).await;
        assert_eq!(look(), [4.0, 5.0, 90.0]);
        assert!(look().is_empty());
        for file in ["edge_store.db", "edge_store.db-wal", "edge_store.db-shm"] {
            std::fs::remove_file(folder.path().join(file)).ok();
        }
        store(folder.path(), Lane::Telemetry, &[(7, 9)]).await;
        assert_eq!(look(), [7.0, 8.0]);
    }
}
