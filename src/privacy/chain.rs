//! The audit trail as a whole: whether its records follow from each other, and what becomes of those that are
//! folded because there are too many.
//!
//! Folding takes the oldest records away and says so in a new record at the end, which is chained like any other:
//! a [`CHECKPOINT`] names the last record that went, by number and hash, so that the one behind it is known to
//! follow from it, and keeps sums of what went by day.

use serde::Serialize;
use serde_json::{Value, json};

use super::audit::{AuditRecord, GENESIS, hash};
use super::sums::Sums;

/// Looks at one record after another, from the first on, and holds nothing but hashes.
#[derive(Debug, Default)]
pub struct Verifier {
    first: Option<First>,
    last_id: Option<i64>,
    last_hash: String,
    checkpoint: Option<Checkpoint>,
    verdict: Verdict,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Verdict {
    pub records: u64,
    /// Number, time and hash of the newest record.
    pub last_id: Option<i64>,
    pub last_timestamp: Option<f64>,
    pub last_hash: Option<String>,
    /// Records that were folded into a checkpoint.
    pub folded: u64,
    /// The chain does not hold there. At most [`BROKEN_MAX`] are told.
    pub broken: Vec<Finding>,
    /// Damage of the database that the trail itself tells of.
    pub salvages: Vec<Salvage>,
}

/// One place where the chain does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub id: i64,
    pub reason: String,
}

/// A damaged database was salvaged.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Salvage {
    pub id: i64,
    /// Unix seconds.
    pub timestamp: f64,
    /// `carried_over` or `restarted`.
    pub chain: String,
    pub records_missing: u64,
}

#[derive(Debug)]
struct First {
    id: i64,
    prev_hash: String,
}

#[derive(Debug)]
struct Checkpoint {
    id: i64,
    folded_to: i64,
    folded_hash: String,
}

impl Verifier {
    /// Takes the next record.
    pub fn take(&mut self, id: i64, record: &AuditRecord) {
        if self.first.is_none() {
            self.first = Some(First { id, prev_hash: record.prev_hash.clone() });
        } else {
            // Numbers are never given out again, so what was cut off the end still shows when the trail went on.
            if !follows(self.last_id, id, record) {
                self.broken(id, "its id does not follow the one before");
            }
            if record.prev_hash != self.last_hash {
                self.broken(id, "prev_hash is not the hash of the record before");
            }
        }
        if record.record_hash != hash(record) {
            self.broken(id, "record_hash is not the hash of its content");
        }
        if matches!(record.action.as_str(), CHECKPOINT | SALVAGED) {
            self.mark(id, record);
        }
        self.verdict.records += 1;
        self.verdict.last_timestamp = Some(record.timestamp);
        self.last_id = Some(id);
        self.last_hash.clone_from(&record.record_hash);
    }

    /// `highest` is the highest number that was ever given out, when that is known from elsewhere.
    pub fn finish(mut self, highest: Option<i64>) -> Verdict {
        if let Some(First { id, prev_hash }) = self.first.take() {
            match &self.checkpoint {
                Some(folded) if folded.folded_hash != prev_hash || folded.folded_to >= id => {
                    let reason = format!("it does not follow from what checkpoint {} has folded", folded.id);
                    self.broken(id, &reason);
                }
                None if prev_hash != GENESIS => self.broken(id, "what came before it is missing"),
                _ => {}
            }
        }
        let last = self.last_id.unwrap_or(0);
        if let Some(highest) = highest.filter(|highest| *highest > last) {
            self.broken(highest, "the newest records are missing, up to this one");
        }
        self.verdict.last_id = self.last_id;
        self.verdict.last_hash = Some(self.last_hash).filter(|hash| !hash.is_empty());
        self.verdict
    }

    fn mark(&mut self, id: i64, record: &AuditRecord) {
        let Ok(details) = serde_json::from_str::<Value>(&record.details) else {
            return self.broken(id, "its details are not JSON");
        };
        if record.action == SALVAGED {
            self.verdict.salvages.push(Salvage {
                id,
                timestamp: record.timestamp,
                chain: details["chain"].as_str().unwrap_or("unknown").to_owned(),
                records_missing: details["records_missing"].as_u64().unwrap_or(0),
            });
            return;
        }
        let Some(folded_to) = details["folded_to"].as_i64() else {
            return self.broken(id, "it does not say what it has folded");
        };
        self.verdict.folded = details["folded"].as_u64().unwrap_or(0);
        if details["broken"].as_u64().unwrap_or(0) > 0 {
            self.broken(id, "records that it has folded did not hold");
        }
        let folded_hash = details["folded_hash"].as_str().unwrap_or_default().to_owned();
        self.checkpoint = Some(Checkpoint { id, folded_to, folded_hash });
    }

    fn broken(&mut self, id: i64, reason: &str) {
        if self.verdict.broken.len() < BROKEN_MAX {
            self.verdict.broken.push(Finding { id, reason: reason.to_owned() });
        }
    }
}

impl Verdict {
    pub fn holds(&self) -> bool {
        self.broken.is_empty()
    }
}

/// Gathers the oldest records on their way into a checkpoint.
#[derive(Debug)]
pub struct Fold {
    records: u64,
    broken: u64,
    sums: Sums,
    last_hash: String,
    last_id: Option<i64>,
    is_empty: bool,
}

impl Fold {
    /// `latest` are the details of the newest checkpoint, which the new one goes on from.
    pub fn after(latest: Option<&Value>) -> Self {
        let number = |key: &str| latest.and_then(|details| details[key].as_u64()).unwrap_or(0);
        let folded_hash = latest.and_then(|details| details["folded_hash"].as_str());
        let mut sums = Sums::default();
        latest.into_iter().for_each(|details| sums.join(details));
        Self {
            records: number("folded"),
            broken: number("broken"),
            sums,
            last_hash: folded_hash.unwrap_or(GENESIS).to_owned(),
            last_id: Some(latest.and_then(|details| details["folded_to"].as_i64()).unwrap_or(0)),
            is_empty: true,
        }
    }

    /// Takes the oldest record that is left. One that does not follow from the one before is not forgiven for
    /// being folded.
    pub fn take(&mut self, id: i64, record: &AuditRecord) {
        let is_whole = record.prev_hash == self.last_hash && record.record_hash == hash(record);
        self.broken += u64::from(!is_whole || !follows(self.last_id, id, record));
        self.records += 1;
        self.sums.take(record, true);
        (self.last_id, self.last_hash) = (Some(id), record.record_hash.clone());
        self.is_empty = false;
    }

    /// The details of the checkpoint; `None` when nothing was taken.
    pub fn details(self) -> Option<Value> {
        let folded_to = self.last_id.filter(|_| !self.is_empty)?;
        Some(checkpoint(self.records, (folded_to, &self.last_hash), self.broken, self.sums))
    }
}

/// What a checkpoint says: records up to number and hash of `folded_to` are gone.
pub fn checkpoint(folded: u64, (folded_to, folded_hash): (i64, &str), broken: u64, sums: Sums) -> Value {
    let (days, policies) = sums.into_values();
    json!({
        "folded": folded,
        "folded_to": folded_to,
        "folded_hash": folded_hash,
        "broken": broken,
        "days": days,
        "policies": policies,
    })
}

/// Whether `id` comes next. Only what a salvage lost is missing by right, and the record of that says so.
fn follows(last_id: Option<i64>, id: i64, record: &AuditRecord) -> bool {
    let expected = last_id.map_or(id, |last| last.saturating_add(1));
    id == expected || id > expected && record.action == SALVAGED
}

/// The oldest records were folded.
pub const CHECKPOINT: &str = "checkpoint";
/// A damaged database was salvaged, and what became of the chain.
pub const SALVAGED: &str = "salvaged";
const BROKEN_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::super::audit::next_record;
    use super::*;

    type Chain = Vec<(i64, AuditRecord)>;

    fn push(records: &mut Chain, action: &str, details: &Value) {
        let id = records.last().map_or(1, |(id, _)| id + 1);
        let prev_hash = records.last().map_or(GENESIS, |(_, record)| &record.record_hash);
        let record = next_record(prev_hash, action, details, 1.7e9 + id as f64);
        records.push((id, record));
    }

    fn chain(length: i64) -> Chain {
        let mut records = Vec::new();
        for id in 1..=length {
            push(&mut records, "batch", &json!({ "n": id, "count": 3 }));
        }
        records
    }

    fn verdict(records: &Chain) -> Verdict {
        let mut verifier = Verifier::default();
        records.iter().for_each(|(id, record)| verifier.take(*id, record));
        verifier.finish(None)
    }

    fn first_broken(records: &Chain) -> Option<i64> {
        verdict(records).broken.first().map(|finding| finding.id)
    }

    /// Folds the oldest `count` records, as the store does.
    fn fold(records: &mut Chain, count: usize) {
        let latest = records.iter().rev().find(|(_, record)| record.action == CHECKPOINT);
        let latest = latest.map(|(_, record)| serde_json::from_str::<Value>(&record.details).unwrap());
        let mut fold = Fold::after(latest.as_ref());
        records.drain(..count).for_each(|(id, record)| fold.take(id, &record));
        let details = fold.details().unwrap();
        push(records, CHECKPOINT, &details);
    }

    #[test]
    fn a_trail_that_nobody_touched_holds() {
        let verdict = verdict(&chain(5));
        assert!(verdict.holds());
        assert_eq!((verdict.records, verdict.last_id), (5, Some(5)));
        assert!(Verifier::default().finish(None).holds());
    }

    #[test]
    fn a_change_to_any_column_breaks_the_chain() {
        let changes: [fn(&mut AuditRecord); 5] = [
            |record| record.timestamp += 1.0,
            |record| record.action.push('x'),
            |record| record.details = record.details.replace(":3,", ":4,"),
            |record| record.prev_hash = GENESIS.to_owned(),
            |record| record.record_hash = GENESIS.to_owned(),
        ];
        for change in changes {
            for at in [0, 2, 4] {
                let mut records = chain(5);
                change(&mut records[at].1);
                if records == chain(5) {
                    continue;
                }
                assert_eq!(first_broken(&records), Some(at as i64 + 1));
            }
        }
    }

    #[test]
    fn a_removed_or_swapped_record_breaks_the_chain() {
        let mut records = chain(5);
        records.remove(0);
        assert_eq!(first_broken(&records), Some(2));
        let mut records = chain(5);
        records.remove(2);
        assert_eq!(first_broken(&records), Some(4));
        let mut records = chain(5);
        records.swap(1, 2);
        assert_eq!(first_broken(&records), Some(3));
    }

    #[test]
    fn records_that_are_missing_at_the_end_are_seen_by_the_highest_number() {
        let mut records = chain(5);
        records.truncate(3);
        let cut = records.clone();
        let finish = |highest| {
            let mut verifier = Verifier::default();
            cut.iter().for_each(|(id, record)| verifier.take(*id, record));
            verifier.finish(highest)
        };
        assert!(finish(None).holds());
        assert!(finish(Some(3)).holds());
        assert_eq!(finish(Some(5)).broken[0].id, 5);
        // It went on, and even so it shows, also once it is folded.
        push(&mut records, "batch", &json!({}));
        records[3].0 = 6;
        assert_eq!(first_broken(&records), Some(6));
        push(&mut records, "batch", &json!({}));
        fold(&mut records, 4);
        assert!(!verdict(&records).holds());
    }

    #[test]
    fn a_trail_that_was_folded_again_and_again_holds_and_loses_no_count() {
        let mut records = chain(8);
        for turn in 0..20 {
            fold(&mut records, [5, 3, 6][turn % 3]);
            for _ in 0..4 {
                push(&mut records, "batch", &json!({ "count": 3 }));
            }
            assert_eq!(verdict(&records).broken, [], "{turn}");
        }
        let checkpoint = records.iter().rfind(|(_, record)| record.action == CHECKPOINT).unwrap();
        let details: Value = serde_json::from_str(&checkpoint.1.details).unwrap();
        let kept = records.iter().filter(|(_, record)| record.action == "batch").count() as u64;
        assert_eq!(details["days"]["2023-11-14"]["batches"].as_u64().unwrap() + kept, 8 + 20 * 4);
        assert_eq!(details["folded"], verdict(&records).folded);
        // What a checkpoint says is as safe as the rest, and so is that it is there.
        let mut changed = records.clone();
        let at = changed.iter().position(|(_, record)| record.action == CHECKPOINT).unwrap();
        changed[at].1.details = changed[at].1.details.replace("\"broken\":0", "\"broken\":1");
        assert!(!verdict(&changed).holds());
        let mut removed = records.clone();
        removed.remove(0);
        assert_eq!(first_broken(&removed), Some(removed[0].0));
        removed.retain(|(_, record)| record.action != CHECKPOINT);
        assert!(!verdict(&removed).holds());
    }

    #[test]
    fn folding_forgives_no_change() {
        for at in 0..4 {
            let mut records = chain(8);
            records[at].1.details = records[at].1.details.replace(":3,", ":4,");
            fold(&mut records, 4);
            fold(&mut records, 2);
            assert!(!verdict(&records).holds(), "{at}");
        }
        // Removed from where the next fold begins.
        let mut records = chain(8);
        fold(&mut records, 2);
        records.remove(0);
        fold(&mut records, 2);
        assert!(!verdict(&records).holds());
    }
}
