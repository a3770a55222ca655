//! Makes a new database of everything that can still be read of a damaged one, and says what is missing.
//!
//! The damaged files are read as bytes, page by page, and never through SQLite, which stops at the first bad
//! page. Nothing of them is changed.

pub mod account;
mod catalogue;
mod copy;
mod pages;
mod record;
mod trail;
mod wal;
mod walk;

use std::fs::{self, File};
use std::io;
use std::path::Path;

use rusqlite::Connection;
use serde::{Deserialize, Serialize};

use crate::clock;

use super::gap::{self, Gap, Reason};
use super::inspect::beside;
use super::{Error, Lane, schema};
use account::{Account, Span};
use catalogue::Catalogue;
use copy::Copied;
use pages::Pages;
use wal::Wal;
use walk::Walk;

/// Why a database is not used as it is, and what that means for its parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// For a person.
    pub reason: String,
    /// Commits that were durable are missing.
    pub loses_commits: bool,
    /// The WAL belongs to another database.
    pub is_wal_foreign: bool,
}

/// What came of it, as it is remembered and shown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Unix seconds.
    pub time: f64,
    /// Where the damaged files are, below the state directory; empty while they were not moved.
    pub folder: String,
    pub reason: String,
    /// Items that wait for delivery.
    pub items_queued: u64,
    /// Items in the new database, delivered ones and those of the device alone among them.
    pub items_kept: u64,
    /// Items that were to be delivered, or belonged to the device, and are gone.
    pub items_lost: u64,
    /// Blocks that were found and could not be read.
    pub blocks_lost: u64,
    /// Numbers are declared of which nobody can say whether they were delivered, lost or never given out.
    pub is_uncertain: bool,
    /// The store id could not be read: batches go out under new ids.
    pub is_renamed: bool,
}

/// Looks at the files of the database at `path` without SQLite: `Some` when they cannot be trusted, although
/// SQLite might open them in silence.
///
/// # Errors
///
/// The disk fails.
pub fn suspect(path: &Path, tick: &dyn Fn()) -> io::Result<Option<Evidence>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // SQLite would delete the WAL and begin anew.
            let has_wal = fs::metadata(beside(path, "-wal")).is_ok_and(|wal| wal.len() > 0);
            return Ok(has_wal.then(|| evidence("the database is gone, and its WAL remains", true, false)));
        }
        Err(error) => return Err(error),
        // SQLite would take the rest for a new database.
        Ok(file) if file.len() < u64::from(schema::PAGE_BYTES) => {
            return Ok(Some(evidence("the database is cut off within its first page", true, false)));
        }
        Ok(_) => {}
    }
    if !pages::has_sane_header(path)? {
        return Ok(Some(evidence("the header of the file is damaged", false, false)));
    }
    let wal = Wal::read(&beside(path, "-wal"), &beside(path, "-shm"), pages::page_size(path)?, tick)?;
    let own = pages::application_id(path)?;
    if wal.application_id.is_some_and(|id| own != 0 && id != 0 && id != own) {
        return Ok(Some(evidence("the WAL is that of another database", true, true)));
    }
    Ok(wal.loses_commits.map(|reason| evidence(reason, true, false)))
}

/// What SQLite said of the database.
pub fn evidence(reason: &str, loses_commits: bool, is_wal_foreign: bool) -> Evidence {
    Evidence { reason: reason.to_owned(), loses_commits, is_wal_foreign }
}

/// Builds `new` from the damaged database `old`; what lies at `new` is replaced. The new file is closed and
/// durable when this returns, and remembers the summary. Takes time in proportion to the file, and memory for
/// one block; `tick` is called every few pages.
///
/// # Errors
///
/// The disk fails or is full; `old` is as it was.
pub fn rebuild(
    old: &Path,
    new: &Path,
    evidence: &Evidence,
    folder: &str,
    tick: &dyn Fn(),
) -> Result<Summary, Error> {
    remove(new)?;
    let io = |source| Error::Io { what: "cannot read the damaged database", path: old.to_owned(), source };
    let wal = if evidence.is_wal_foreign {
        Wal::default()
    } else {
        pages::page_size(old)
            .and_then(|size| Wal::read(&beside(old, "-wal"), &beside(old, "-shm"), size, tick))
            .map_err(io)?
    };
    let is_mixed = !wal.broken.is_empty();
    let loses_commits = evidence.loses_commits || wal.loses_commits.is_some() || is_mixed;
    let pages = Pages::open(old, wal).map_err(io)?;
    let (db, new_id) = schema::open(new)?;
    schema::close_tidily(&db)?;
    let failed = |source| Error::Sqlite { what: "cannot write the salvaged database", source };
    // It counts only once it is whole and synced; until then a crash throws it away.
    db.pragma_update(None, "synchronous", "OFF").map_err(failed)?;
    let mut walk = Walk::new(&pages, tick);
    let catalogue = Catalogue::read(&mut walk, &db).map_err(failed)?;
    let mut copied = copy::all(&mut walk, &catalogue, &db, tick)?;
    copied.is_ledger_whole &= !is_mixed;
    let old_id = copied.store_id.take().or_else(|| find_store_id(&pages));
    let mut summary = Summary {
        time: clock::unix_seconds(),
        folder: folder.to_owned(),
        reason: evidence.reason.clone(),
        blocks_lost: copied.blocks_lost,
        is_renamed: old_id.is_none(),
        ..Summary::default()
    };
    let store_id = old_id.unwrap_or(new_id);
    db.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
    settle(&db, &store_id, &mut copied, loses_commits, &mut summary)?;
    trail::carry_over(&db, folder, summary.time)?;
    schema::name(&db, &store_id).map_err(failed)?;
    remember(&db, &summary).map_err(failed)?;
    db.execute_batch("COMMIT").map_err(failed)?;
    db.close().map_err(|(_, source)| failed(source))?;
    let synced = File::open(new).and_then(|file| file.sync_all());
    synced.map_err(|source| Error::Io { what: "cannot sync", path: new.to_owned(), source })?;
    Ok(summary)
}

/// Keeps `summary` in `db` as the last one.
pub fn remember(db: &Connection, summary: &Summary) -> rusqlite::Result<()> {
    let text = serde_json::to_string(summary).expect("a summary has only text keys");
    db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)", [SUMMARY_KEY, &text]).map(drop)
}

/// Bytes of the database at `path` with its WAL.
pub fn bytes(path: &Path) -> u64 {
    let size = |path: &Path| fs::metadata(path).map_or(0, |file| file.len());
    size(path) + size(&beside(path, "-wal"))
}

/// Writes the queue, the sequence numbers and the declared gaps.
fn settle(
    db: &Connection,
    store_id: &str,
    copied: &mut Copied,
    loses_commits: bool,
    summary: &mut Summary,
) -> Result<(), Error> {
    let failed = |source| Error::Sqlite { what: "cannot write the salvaged database", source };
    let now = summary.time;
    for lane in Lane::ALL {
        let known = copied.known(db, lane, loses_commits).map_err(failed)?;
        let found = if lane == Lane::Local {
            account::account_local(&known.stored, &known.settled, known.next, known.is_end_lost)
        } else {
            account::account(&known)
        };
        copy::write_lane(db, lane, &found).map_err(failed)?;
        declare(db, store_id, lane, &found, now)?;
        summary.items_kept += total(&known.stored);
        summary.items_lost += total(&found.lost);
        summary.is_uncertain |= !found.unknown.is_empty();
        let waiting = found.waiting.iter().map(|range| range.end.unwrap_or(found.next) - range.first);
        summary.items_queued += waiting.sum::<u64>();
    }
    if summary.is_renamed {
        // Nobody can say what the numbers of the old name stood for.
        summary.is_uncertain = true;
        let gap = gap_of("", None, Reason::SalvageUnknown, None);
        gap::record(db, &gap, now)?;
    }
    Ok(())
}

fn declare(db: &Connection, store_id: &str, lane: Lane, found: &Account, now: f64) -> Result<(), Error> {
    for span in &found.lost {
        gap::record(db, &gap_of(store_id, Some(lane), Reason::Salvage, Some(*span)), now)?;
    }
    for span in &found.unknown {
        gap::record(db, &gap_of(store_id, Some(lane), Reason::SalvageUnknown, Some(*span)), now)?;
    }
    Ok(())
}

fn gap_of(store_id: &str, lane: Option<Lane>, reason: Reason, span: Option<Span>) -> Gap {
    Gap {
        reason,
        store_id: store_id.to_owned(),
        lane,
        span: span.map(|(first, end)| (first, end - 1)),
        // Of what may never have been given out no count is known.
        count: match (reason, span) {
            (Reason::Salvage, Some(span)) => span.1 - span.0,
            _ => 0,
        },
        time: None,
        sensors: Vec::new(),
    }
}

fn total(spans: &[Span]) -> u64 {
    spans.iter().map(|span| span.1 - span.0).sum()
}

/// The store id where its row stood once, in any page: text after its key, which SQLite keeps together.
fn find_store_id(pages: &Pages) -> Option<String> {
    (1..=pages.count.min(ID_PAGES_MAX)).find_map(|number| {
        let bytes = pages.read(number).bytes;
        let at = bytes.windows(ID_KEY.len()).position(|window| window == ID_KEY)? + ID_KEY.len();
        let id = std::str::from_utf8(bytes.get(at..at + ID_BYTES)?).ok()?;
        is_store_id(id).then(|| id.to_owned())
    })
}

/// Whether `text` is what this agent calls a store.
pub fn is_store_id(text: &str) -> bool {
    text.len() == ID_BYTES && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Removes an unfinished database and what SQLite keeps beside it.
pub fn remove(path: &Path) -> Result<(), Error> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let path = beside(path, suffix);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(Error::Io { what: "cannot remove", path, source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Where the summary is remembered.
pub const SUMMARY_KEY: &str = "salvage";
const ID_KEY: &[u8] = b"store_id";
const ID_BYTES: usize = 16;
/// The row was written first; it lies near the start of the file.
const ID_PAGES_MAX: u32 = 4096;
