//! Reads what was stored last once more, in the order of its commits, for a start that goes on where the run before
//! ended.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::time::Duration;

use rusqlite::Connection;

use super::block::Codec;
use super::export::{Filter, Item, Unreadable};
use super::inspect::open_read_only;
use super::{Error, Lane};

/// How far back to go from the newest item.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    /// Of running time: while the board is off, nothing ages.
    pub running: Duration,
    pub items_max: u64,
    /// Of JSON.
    pub bytes_max: u64,
}

/// Which commit an item came with: one after the other, not all of them. In milliseconds of the database's age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit(i64);

impl Commit {
    /// When it was, on the same clock as [`Found::end`].
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e3
    }
}

/// What there was.
#[derive(Debug, Default)]
pub struct Found {
    pub items: u64,
    /// Of each reach, whether nothing within its time was left out for its number or size.
    pub is_whole: Vec<bool>,
    pub unreadable: Unreadable,
    /// When the run before ended, as far as that is known: seconds of running time since the database was made.
    pub end: f64,
}

/// Gives the readings and events that were committed last, as far back as the furthest of `reaches`, to `take`, oldest
/// first, until it returns false: delivered or not, and those that stay on the device. Events of higher urgency come
/// first within their commit, then what stays. Of a reading that is stored twice, as it may leave and as it stays, only
/// the latter.
///
/// # Errors
///
/// The database cannot be read.
pub fn recent(
    path: &Path,
    reaches: &[Reach],
    mut take: impl FnMut(&Item<'_>, Commit) -> bool,
) -> Result<Found, Error> {
    let db = open_read_only(path)?;
    let mut codec = Codec::new()?;
    let filter = Filter::default();
    let (places, is_whole) = places(&db, reaches).map_err(failed)?;
    let end = end(&db, places.last().map_or(0, |newest| newest.at)).map_err(failed)?;
    let mut found = Found { is_whole, end, ..Found::default() };
    let mut twins = Twins::default();
    // A statement for each block: between two of them the store can reset its log.
    for place in &places {
        let raw = filter.next_block(&db, place.lane, place.first).map_err(failed)?;
        let Some(raw) = raw.filter(|raw| raw.first == place.first) else { continue };
        match raw.lines_by(&mut codec, place.lane) {
            Ok(lines) => {
                twins.enter(place.at);
                let goes_on = filter.pass(place.lane, &raw, &lines, &[], &mut |item| {
                    if twins.knows(item) {
                        return true;
                    }
                    found.items += 1;
                    take(item, Commit(place.at))
                });
                if !goes_on {
                    return Ok(found);
                }
            }
            Err(error) => found.unreadable.note(&raw, error),
        }
    }
    Ok(found)
}

/// Where a block lies and when it was committed.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Age of the database, in milliseconds.
    at: i64,
    lane: Lane,
    first: u64,
    count: u64,
    raw_bytes: u64,
}

/// Within one commit what stays comes before what leaves, as [`Twins`] needs it.
const LANES: [Lane; 4] = [Lane::Critical, Lane::Anomaly, Lane::Local, Lane::Telemetry];

/// The blocks to read, oldest first, and of each reach whether they are all of it.
fn places(db: &Connection, reaches: &[Reach]) -> rusqlite::Result<(Vec<Place>, Vec<bool>)> {
    let boots: BTreeMap<i64, i64> = db
        .prepare("SELECT number, age_ms FROM boot")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut places = Vec::new();
    for lane in LANES {
        let sql = format!(
            "SELECT first, count, raw_bytes, boot, boot_ms FROM {} ORDER BY first DESC",
            lane.table()
        );
        let mut select = db.prepare(&sql)?;
        let mut rows = select.query([])?;
        let mut scopes: Vec<Scope> = reaches.iter().map(Scope::new).collect();
        while let Some(row) = rows.next()? {
            let began = boots.get(&row.get::<_, i64>(3)?).copied().unwrap_or(0);
            let place = Place {
                at: began.saturating_add(row.get(4)?),
                lane,
                first: row.get::<_, i64>(0)?.unsigned_abs(),
                count: row.get::<_, i64>(1)?.unsigned_abs(),
                raw_bytes: row.get::<_, i64>(2)?.unsigned_abs(),
            };
            // Against the newest of this lane alone; that of all is known only behind. What is one too many is kept
            // as a sign that there was more.
            let is_wanted = scopes.iter_mut().fold(false, |wanted, scope| {
                let was_over = scope.is_over;
                wanted | scope.takes(&place) | (!was_over && scope.is_short)
            });
            if !is_wanted {
                break;
            }
            places.push(place);
        }
    }
    places.sort_by_key(|place| place.at);
    let mut scopes: Vec<Scope> = reaches.iter().map(Scope::new).collect();
    let mut kept = 0;
    for scope in &mut scopes {
        kept = kept.max(places.iter().rev().take_while(|place| scope.takes(place)).count());
    }
    places.drain(..places.len() - kept);
    Ok((places, scopes.iter().map(|scope| !scope.is_short).collect()))
}

/// When the run before ended, if not before `newest`: in seconds of running time.
pub(super) fn end(db: &Connection, newest: i64) -> rusqlite::Result<f64> {
    let noted: Option<i64> = db.query_row("SELECT max(age_ms + last_ms) FROM boot", [], |row| row.get(0))?;
    Ok(noted.unwrap_or(0).max(newest) as f64 / 1e3)
}

/// How much of a reach is used up, from the newest on.
struct Scope {
    running: i64,
    items_left: u64,
    bytes_left: u64,
    newest: Option<i64>,
    is_over: bool,
    /// It ended for number or size.
    is_short: bool,
}

impl Scope {
    fn new(reach: &Reach) -> Self {
        Self {
            running: i64::try_from(reach.running.as_millis()).unwrap_or(i64::MAX),
            items_left: reach.items_max,
            bytes_left: reach.bytes_max,
            newest: None,
            is_over: false,
            is_short: false,
        }
    }

    /// Whether it reaches as far as `place`; it is over once it does not.
    fn takes(&mut self, place: &Place) -> bool {
        let newest = *self.newest.get_or_insert(place.at);
        if self.is_over || place.at < newest.saturating_sub(self.running) {
            self.is_over = true;
            return false;
        }
        if place.count > self.items_left || place.raw_bytes > self.bytes_left {
            (self.is_over, self.is_short) = (true, true);
            return false;
        }
        self.items_left -= place.count;
        self.bytes_left -= place.raw_bytes;
        true
    }
}

/// Readings of one commit that are stored as they stay, by which their copies as they may leave are known.
#[derive(Default)]
struct Twins {
    at: i64,
    of: HashSet<u64>,
}

impl Twins {
    fn enter(&mut self, at: i64) {
        if at != self.at {
            self.at = at;
            self.of.clear();
        }
    }

    /// Whether this is the other copy of an item before.
    fn knows(&mut self, item: &Item<'_>) -> bool {
        let fields = &item.fields;
        if item.lane != Lane::Local {
            return !self.of.is_empty() && self.of.contains(&digest(item));
        }
        // What stays differs from what leaves by what it has in its metadata.
        if fields.metadata.is_some_and(|metadata| metadata.get() != "{}") {
            self.of.insert(digest(item));
        }
        false
    }
}

fn digest(item: &Item<'_>) -> u64 {
    let fields = &item.fields;
    let mut hasher = DefaultHasher::new();
    (&fields.sensor_name, fields.timestamp.to_bits(), fields.value.map(f64::to_bits), &fields.rule_name)
        .hash(&mut hasher);
    hasher.finish()
}

fn failed(source: rusqlite::Error) -> Error {
    Error::Sqlite { what: "cannot read the database", source }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::lifecycle::watchdog::Progress;
    use crate::store::tests::settings;
    use crate::store::{DATABASE_FILE, Staged, open};

    const EVERYTHING: Reach =
        Reach { running: Duration::from_secs(3600), items_max: 1000, bytes_max: 1_000_000 };

    /// Commits each of `commits`, items as lane, value and metadata.
    async fn store(folder: &Path, commits: &[&[(Lane, u32, &str)]]) {
        let (store, end) = open(settings(folder, 1 << 30), Arc::new(Progress::default())).unwrap();
        for commit in commits {
            let mut staged = Staged::default();
            for (lane, value, metadata) in *commit {
                let text = format!(
                    r#"{{"sensor_name":"s","timestamp":{value}.0,"value":{value}.0,"unit":"","metadata":{metadata}}}"#
                );
                staged.push(*lane, f64::from(*value), |out| out.extend_from_slice(text.as_bytes()));
            }
            store.append(staged).await.unwrap();
            store.ping().await.unwrap();
            // Two commits within a millisecond of the store's clock would count as one.
            std::thread::sleep(Duration::from_millis(2));
        }
        drop(store);
        end.await.unwrap().unwrap();
    }

    fn read(folder: &Path, reach: Reach) -> (Vec<f64>, bool) {
        let mut values = Vec::new();
        let found = recent(&folder.join(DATABASE_FILE), &[reach], |item, _| {
            values.push(item.fields.value.unwrap());
            true
        });
        (values, found.unwrap().is_whole[0])
    }

    const T: Lane = Lane::Telemetry;
    const L: Lane = Lane::Local;

    #[tokio::test]
    async fn both_lanes_come_in_the_order_of_their_commits_and_a_twin_once() {
        let folder = tempfile::tempdir().unwrap();
        let gps = r#"{"gps":1}"#;
        store(
            folder.path(),
            &[
                &[(T, 1, "{}"), (T, 2, "{}")],
                &[(L, 3, "{}"), (Lane::Critical, 99, "{}")],
                &[(T, 4, "{}"), (L, 4, gps), (T, 5, "{}")],
                // The same reading in another commit is another reading.
                &[(T, 4, "{}")],
                &[(L, 6, "{}")],
            ],
        )
        .await;
        assert_eq!(read(folder.path(), EVERYTHING), (vec![1.0, 2.0, 99.0, 3.0, 4.0, 5.0, 4.0, 6.0], true));
        // Whole blocks, the newest first.
        let few = Reach { items_max: 3, ..EVERYTHING };
        assert_eq!(read(folder.path(), few), (vec![4.0, 6.0], false));
        let short = Reach { bytes_max: 1, ..EVERYTHING };
        assert_eq!(read(folder.path(), short), (vec![], false));
    }

    #[tokio::test]
    async fn what_is_older_than_the_reach_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        store(folder.path(), &[&[(T, 1, "{}")], &[(T, 2, "{}")], &[(L, 3, "{}")]]).await;
        let db = Connection::open_with_flags(
            folder.path().join(DATABASE_FILE),
            rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE,
        )
        .unwrap();
        // A boot earlier, and an hour and a minute of running time before.
        db.execute("UPDATE boot SET age_ms = 3660000 WHERE number = 1", []).unwrap();
        db.execute("INSERT INTO boot (number, boot_id, age_ms) VALUES (0, 'before', 0)", []).unwrap();
        db.execute("UPDATE block_telemetry SET boot = 0 WHERE first = 1", []).unwrap();
        drop(db);
        assert_eq!(read(folder.path(), EVERYTHING), (vec![2.0, 3.0], true));
        let further = Reach { running: Duration::from_secs(3700), ..EVERYTHING };
        assert_eq!(read(folder.path(), further), (vec![1.0, 2.0, 3.0], true));
    }
}
