//! Opens damaged files as the agent would, drains the queue, and accounts for every number.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use pyvorin_edge::store::{DATABASE_FILE, FrozenBatch, Lane, Outcome as Settled, Staged, Want};
use rusqlite::{Connection, OpenFlags};

use super::cases::Case;
use super::life::{Opened, Truth, folder};

/// What became of a case that went well.
#[derive(Default)]
pub struct Outcome {
    is_salvaged: bool,
    is_renamed: bool,
    lost: u64,
    is_uncertain: bool,
    again: u64,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            if self.is_salvaged { "salvaged" } else { "opened as it is" },
            if self.lost > 0 { "losses declared by number" } else { "nothing known lost" },
            if self.is_uncertain { "unknown numbers declared" } else { "nothing unknown" },
            if self.again > 0 { "some delivered again" } else { "nothing delivered again" },
            if self.is_renamed { "new store id" } else { "same store id" },
        ];
        f.write_str(&words.join(", "))
    }
}

pub async fn of(case: Case) -> Result<Outcome, String> {
    let folder = folder();
    let (files, truth) = case.apply();
    files.put(folder.path());
    let truth = &truth;
    let mut outcome = Outcome::default();
    let mut seen: BTreeMap<(Lane, u64), String> = BTreeMap::new();
    let mut batches: HashMap<String, FrozenBatch> = truth.batches.clone();
    let mut appended = false;
    for attempt in 0.. {
        if attempt == ATTEMPTS_MAX {
            return Err(format!("it fails again and again, {ATTEMPTS_MAX} times"));
        }
        let begun = Instant::now();
        let opened = Opened::at(folder.path(), 1 << 30).map_err(|error| format!("open: {error}"))?;
        if begun.elapsed() > OPEN_TIME_MAX {
            return Err(format!("open took {:?}", begun.elapsed()));
        }
        outcome.is_renamed = opened.store.id() != truth.store_id;
        if !appended {
            appended = append(&opened).await;
        }
        while let Ok(Some(batch)) = opened.store.next_batch(WANT).await {
            take(&batch, truth, &mut batches, &mut seen, &mut outcome)?;
            if opened.store.settle(batch.key, Settled::Delivered).await.is_err() {
                break;
            }
        }
        if opened.close().await.is_ok() && appended {
            break;
        }
    }
    // What nobody has read yet may be damaged after a stop in order; the repair looks at all of it.
    pyvorin_edge::store::repair::repair(folder.path(), false).map_err(|error| format!("repair: {error}"))?;
    account(folder.path(), truth, &seen, &mut outcome)?;
    // Once it is mended, it stays whole.
    let before = quarantined(folder.path());
    let opened = Opened::at(folder.path(), 1 << 30).map_err(|error| format!("second open: {error}"))?;
    if opened.store.next_batch(WANT).await.map_err(|error| error.to_string())?.is_some() {
        return Err("something is to be delivered after all was".to_owned());
    }
    opened.close().await.map_err(|error| format!("second close: {error}"))?;
    outcome.is_salvaged = before > 0;
    if quarantined(folder.path()) != before {
        return Err("the second open salvaged again".to_owned());
    }
    Ok(outcome)
}

/// New items, which must get numbers that were never used.
async fn append(opened: &Opened) -> bool {
    let mut staged = Staged::default();
    for lane in Lane::ALL {
        staged.push(lane, 1.0, |out| out.extend_from_slice(b"new"));
    }
    opened.store.append(staged).await.is_ok() && opened.store.ping().await.is_ok()
}

fn take(
    batch: &FrozenBatch,
    truth: &Truth,
    batches: &mut HashMap<String, FrozenBatch>,
    seen: &mut BTreeMap<(Lane, u64), String>,
    outcome: &mut Outcome,
) -> Result<(), String> {
    let known = batches.entry(batch.batch_id.clone()).or_insert_with(|| batch.clone());
    if known != batch {
        return Err(format!("{} stands for two contents", batch.batch_id));
    }
    let lane = batch.key.lane;
    let text = String::from_utf8(batch.items.clone()).map_err(|error| error.to_string())?;
    for (number, item) in (batch.key.first..).zip(text.split(',')) {
        let index = usize::try_from(number - 1).unwrap();
        let produced = truth.items.get(&lane).and_then(|items| items.get(index));
        let is_new = item == "new";
        match produced {
            Some(_) if is_new && outcome.is_renamed => continue,
            Some(_) if is_new => return Err(format!("number {number} of {lane:?} is given out again")),
            Some(produced) if produced == item => {}
            None if is_new => continue,
            other => return Err(format!("number {number} of {lane:?} is {item:.20}, was {other:.20?}")),
        }
        outcome.again += u64::from(truth.is_settled(lane, number));
        seen.insert((lane, number), item.to_owned());
    }
    Ok(())
}

/// Every number is delivered, on the device, or declared.
fn account(
    folder: &Path,
    truth: &Truth,
    seen: &BTreeMap<(Lane, u64), String>,
    outcome: &mut Outcome,
) -> Result<(), String> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let db = Connection::open_with_flags(folder.join(DATABASE_FILE), flags).unwrap();
    let rows = |sql: &str| -> Vec<[Option<i64>; 4]> {
        let mut select = db.prepare(sql).unwrap();
        let rows =
            select.query_map([], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?])).unwrap();
        rows.map(|row| row.unwrap()).collect()
    };
    let declared = rows("SELECT lane, first, last, count FROM gap");
    let local = rows("SELECT first, first + count - 1, 0, 0 FROM block_local");
    let whole = declared.iter().any(|gap| gap[1].is_none());
    outcome.is_uncertain = declared.iter().any(|gap| gap[3] == Some(0));
    for (lane, items) in &truth.items {
        for number in 1..=items.len() as u64 {
            let signed = number.cast_signed();
            let of_lane = declared.iter().filter(|gap| gap[0] == Some(*lane as i64));
            let is_declared = whole || of_lane.into_iter().any(|gap| covers(gap[1], gap[2], signed));
            let is_kept = match lane {
                // Retention took the oldest.
                Lane::Local => {
                    local.iter().any(|span| covers(span[0], span[1], signed))
                        || local.iter().all(|span| span[0] > Some(signed))
                }
                _ => truth.is_settled(*lane, number) || seen.contains_key(&(*lane, number)),
            };
            if !is_kept && !is_declared {
                return Err(format!("number {number} of {lane:?} is lost in silence"));
            }
            outcome.lost += u64::from(!is_kept);
        }
    }
    Ok(())
}

fn covers(first: Option<i64>, last: Option<i64>, number: i64) -> bool {
    first.zip(last).is_some_and(|(first, last)| (first..=last).contains(&number))
}

fn quarantined(folder: &Path) -> usize {
    std::fs::read_dir(folder.join("quarantine")).map_or(0, Iterator::count)
}

const WANT: Want = Want::new(20, 1 << 20, true);
/// The first may find damage only when it reads.
const ATTEMPTS_MAX: usize = 4;
const OPEN_TIME_MAX: Duration = Duration::from_secs(10);
