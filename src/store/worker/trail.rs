//! The privacy audit trail: a record for each policy, for each batch before it may leave, and for what was filtered
//! meanwhile; the oldest are folded when there are too many.

use std::time::Duration;

use rusqlite::params;
use serde_json::{Value, json};

use super::Worker;
use crate::clock::mark::{self, Mark};
use crate::privacy::Filtered;
use crate::privacy::audit::{BATCH, FILTERED, POLICY_LOADED, next_record};
use crate::privacy::chain::{CHECKPOINT, Fold};
use crate::store::{AuditEntry, BatchKey, Error, trail};

/// What was filtered waits so long for a batch that takes it along, then for any commit.
const FILTERED_WAIT: Duration = Duration::from_secs(900);
/// Without any commit for so long it makes one.
const FILTERED_WAIT_MAX: Duration = Duration::from_secs(3600);
/// Records that are kept at most; one takes about 500 bytes.
const RECORDS_MAX: u64 = 8192;
const RECORDS_MIN: u64 = 128;
/// Of the room for the store; a store of 256 MiB keeps the most.
const BYTES_PER_RECORD: u64 = 32 * 1024;
/// Records between two looks at how many there are.
const LOOK_RECORDS: u64 = 32;

/// What the thread knows of the trail.
#[derive(Debug)]
pub(super) struct Trail {
    /// `record_hash` of the newest record.
    pub(super) hash: String,
    /// Of the policy that was loaded last.
    policy_hash: Option<String>,
    /// What is in no record yet.
    filtered: Filtered,
    /// What is in records that are not committed.
    noted: Filtered,
    /// Boot clock; since when something waits.
    since: Option<Duration>,
    /// Records since the last look at how many there are.
    appended: u64,
}

impl Trail {
    pub(super) fn new(hash: String) -> Self {
        let (filtered, noted) = (Filtered::default(), Filtered::default());
        Self { hash, policy_hash: None, filtered, noted, since: None, appended: LOOK_RECORDS }
    }

    pub(super) fn committed(&mut self) {
        self.noted = Filtered::default();
    }

    /// `hash` is that of the newest record in the database.
    pub(super) fn rolled_back(&mut self, hash: String) {
        let noted = &mut std::mem::take(&mut self.noted);
        // A commit that failed can be in the database all the same.
        if hash != self.hash {
            self.filtered.absorb(noted);
        }
        self.hash = hash;
    }

    /// Moves what was filtered under the policy with `hash`, or under all others, into records to be.
    fn note(&mut self, hash: Option<&str>, is_of: bool) -> Vec<(String, Value)> {
        let mut taken = self.filtered.take_of(hash, is_of);
        if self.filtered.is_empty() {
            self.since = None;
        }
        let details = taken.parts().iter().map(|part| (part.policy.hash.clone(), part.details())).collect();
        self.noted.absorb(&mut taken);
        details
    }
}

impl Worker {
    /// Appends a record. One for a policy comes behind what was filtered before it.
    pub(super) fn audit(&mut self, entry: &AuditEntry) -> Result<(), Error> {
        if entry.action == POLICY_LOADED {
            self.trail.policy_hash = entry.details["policy_hash"].as_str().map(str::to_owned);
            self.note_others()?;
        }
        self.append_record(&entry.action, &entry.details, entry.timestamp)
    }

    /// Appends the record of a batch that was frozen in this transaction, and so before its first attempt: nothing
    /// leaves the device that is not in the trail.
    pub(super) fn audit_batch(
        &mut self,
        key: BatchKey,
        batch_id: &str,
        frozen_at: f64,
        bytes: usize,
    ) -> Result<(), Error> {
        let mut details = json!({ "batch_id": batch_id, "count": key.count(), "bytes": bytes });
        details["policy_hash"] = self.trail.policy_hash.as_deref().into();
        self.note_others()?;
        let policy_hash = self.trail.policy_hash.clone();
        if let Some((_, filtered)) = self.trail.note(policy_hash.as_deref(), true).pop() {
            details["filtered"] = filtered;
        }
        self.mark_clock(&mut details);
        self.append_record(BATCH, &details, frozen_at)
    }

    /// Appends the records of the halves of a batch, which go out under ids of their own.
    pub(super) fn audit_halves(&mut self, whole: BatchKey, frozen_at: f64) -> Result<(), Error> {
        let middle = whole.first + whole.count() / 2;
        let halves = [BatchKey { last: middle - 1, ..whole }, BatchKey { first: middle, ..whole }];
        let now = self.clocks.unix_seconds();
        for half in halves {
            let details = json!({
                "batch_id": self.batch_id(half, frozen_at),
                "of": self.batch_id(whole, frozen_at),
                "count": half.count(),
                "policy_hash": self.trail.policy_hash,
            });
            self.append_record(BATCH, &details, now)?;
        }
        Ok(())
    }

    /// Keeps what was filtered until a record takes it along.
    pub(super) fn take_filtered(&mut self, filtered: &mut Filtered) {
        if !filtered.is_empty() {
            self.trail.filtered.absorb(filtered);
            self.trail.since.get_or_insert(self.clocks.since_boot());
        }
    }

    /// Appends what was filtered, when it is due or `at_once`.
    pub(super) fn note_filtered(&mut self, at_once: bool) -> Result<(), Error> {
        if !at_once && self.filtered_waits().is_none_or(|waited| waited < FILTERED_WAIT) {
            return Ok(());
        }
        let details = self.trail.note(None, false);
        self.append_filtered(details)
    }

    /// What is done for the trail between two groups.
    pub(super) fn look_after_trail(&mut self) -> Result<(), Error> {
        if self.filtered_waits().is_some_and(|waited| waited >= FILTERED_WAIT_MAX) {
            self.note_filtered(true)?;
            self.commit()?;
        }
        if self.trail.appended < LOOK_RECORDS {
            return Ok(());
        }
        self.trail.appended = 0;
        let records_max = (self.settings.size_bytes_max / BYTES_PER_RECORD).clamp(RECORDS_MIN, RECORDS_MAX);
        let records = trail::count(&self.db)?;
        if records > records_max {
            // A quarter at once, as each fold writes all of the sums.
            self.fold(records - records_max + records_max / 4)?;
        }
        Ok(())
    }

    /// Folds the oldest `count` records into a checkpoint, which takes their place in one commit.
    fn fold(&mut self, count: u64) -> Result<(), Error> {
        self.begin()?;
        let latest = trail::newest_checkpoint(&self.db)?;
        let mut fold = Fold::after(latest.as_ref());
        trail::oldest(&self.db, count, |id, record| fold.take(id, record))?;
        let Some(details) = fold.details() else { return self.commit() };
        if details["broken"].as_u64() > latest.as_ref().map_or(Some(0), |latest| latest["broken"].as_u64()) {
            tracing::error!(
                "the privacy audit trail was changed by somebody else: run pyv-edge-agent privacy verify"
            );
        }
        let folded_to = details["folded_to"].as_i64();
        self.append_record(CHECKPOINT, &details, self.clocks.unix_seconds())?;
        self.db
            .execute("DELETE FROM privacy_audit WHERE id <= ?1", [folded_to])
            .map_err(|source| Error::Sqlite { what: "cannot fold the audit chain", source })?;
        self.commit()
    }

    fn filtered_waits(&self) -> Option<Duration> {
        Some(self.clocks.since_boot().saturating_sub(self.trail.since?))
    }

    /// Appends what was filtered under other policies than the one that holds.
    fn note_others(&mut self) -> Result<(), Error> {
        let policy_hash = self.trail.policy_hash.clone();
        let details = self.trail.note(policy_hash.as_deref(), false);
        self.append_filtered(details)
    }

    fn append_filtered(&mut self, filtered: Vec<(String, Value)>) -> Result<(), Error> {
        for (policy_hash, filtered) in filtered {
            let mut details = json!({ "policy_hash": policy_hash, "filtered": filtered });
            self.mark_clock(&mut details);
            self.append_record(FILTERED, &details, self.clocks.unix_seconds())?;
        }
        Ok(())
    }

    /// The chain cannot be put right afterwards, so a time that is provisional is marked as such in it.
    fn mark_clock(&self, details: &mut Value) {
        if self.clock.is_some_and(|news| !news.is_synchronised) {
            let mark =
                Mark { boot: &self.clocks.boot_id(), boot_time: self.clocks.since_boot().as_secs_f64() };
            details[mark::KEY] = mark::provisional(mark);
        }
    }

    fn append_record(&mut self, action: &str, details: &Value, timestamp: f64) -> Result<(), Error> {
        self.begin()?;
        let record = next_record(&self.trail.hash, action, details, timestamp);
        self.db
            .prepare_cached(
                "INSERT INTO privacy_audit (timestamp, action, details, prev_hash, record_hash)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )
            .and_then(|mut insert| {
                insert.execute(params![
                    record.timestamp,
                    record.action,
                    record.details,
                    record.prev_hash,
                    record.record_hash
                ])
            })
            .map_err(|source| Error::Sqlite { what: "cannot write the audit chain", source })?;
        self.trail.hash = record.record_hash;
        self.trail.appended += 1;
        Ok(())
    }
}
