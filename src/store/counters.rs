//! What the store counts, for the health page and `/metrics`: atomics, so that neither side waits.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};

use super::salvage::Summary;
use super::{GapReason, Pending, Trouble};

/// What the store counts, since start where nothing else is said. Lanes are in the order of
/// [`crate::reading::Priority::ALL`].
#[derive(Debug, Default)]
pub struct Counters {
    /// Items not yet delivered, now, by lane.
    pub pending: [AtomicU64; 4],
    /// Transactions that added something.
    pub commits: AtomicU64,
    /// Bytes of what those transactions added, before SQLite's own overhead.
    pub commit_bytes: AtomicU64,
    /// Items that were committed, in every lane.
    pub items_stored: AtomicU64,
    /// Items that the store made itself and committed: summaries of thinned telemetry, reports of gaps.
    pub items_made: AtomicU64,
    /// Size of the database and its write-ahead log on the disk, in bytes, now.
    pub store_bytes: AtomicU64,
    /// What its pages may take, after what others on the disk need, in bytes, now.
    pub allowed_bytes: AtomicU64,
    /// The file system has few inodes left.
    pub short_of_inodes: AtomicBool,
    /// At the rate of the last day and without any delivery.
    pub days_before_thinning: Days,
    pub days_before_dropping: Days,
    /// Items that retention dropped before they were delivered, by lane.
    pub dropped: [AtomicU64; 4],
    /// Items in the store that the endpoint refused for good, now.
    pub dead_letters: AtomicU64,
    /// Items in the ledger of gaps by reason, in the life of the database, in the order of
    /// [`super::GapReason::ALL`].
    pub gaps: [AtomicU64; GapReason::ALL.len()],
    /// Items in ranges with provisional times, now.
    pub provisional: AtomicU64,
    /// Items whose provisional time was put right: by a synchronisation in their boot, and by inference.
    pub corrected: AtomicU64,
    pub inferred: AtomicU64,
    /// The number of the [`Trouble`] for which commits wait, or 0.
    trouble: AtomicU8,
    /// The thread ends with an error, which it is about to hand over.
    has_failed: AtomicBool,
    /// The last salvage in the life of this store.
    salvage: OnceLock<Summary>,
    pub last_commit_at: UnixTime,
    /// The earliest time in the block of the oldest undelivered item; never while there is none.
    pub oldest_pending_at: UnixTime,
}

impl Counters {
    /// Undelivered items.
    pub fn pending(&self) -> Pending {
        Pending { items: std::array::from_fn(|index| self.pending[index].load(Relaxed)) }
    }

    /// Items in the ledger of gaps, by name of the reason.
    pub fn gaps(&self) -> impl Iterator<Item = (&'static str, u64)> {
        GapReason::ALL.iter().zip(&self.gaps).map(|(reason, count)| (reason.name(), count.load(Relaxed)))
    }

    /// Why commits wait; `None` while they do not.
    pub fn trouble(&self) -> Option<Trouble> {
        Trouble::from_number(self.trouble.load(Relaxed))
    }

    /// Shows why commits wait.
    pub fn set_trouble(&self, trouble: Option<Trouble>) {
        self.trouble.store(trouble.map_or(0, |trouble| trouble as u8), Relaxed);
    }

    /// Whether the store ends with an error: whoever waits for an answer is told that it is closed a moment
    /// before that error is known.
    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Relaxed)
    }

    pub(super) fn set_failed(&self) {
        self.has_failed.store(true, Relaxed);
    }

    /// The last salvage in the life of this store.
    pub fn salvage(&self) -> Option<&Summary> {
        self.salvage.get()
    }

    /// Notes it, once at the start.
    pub(super) fn set_salvage(&self, salvage: Option<Summary>) {
        if let Some(summary) = salvage {
            // A second attempt at the start finds the same.
            self.salvage.set(summary).ok();
        }
    }
}

/// A number of days, or not known. Not known while it is 0.
#[derive(Debug, Default)]
pub struct Days(AtomicU64);

impl Days {
    pub fn set(&self, days: Option<f64>) {
        self.0.store(days.unwrap_or(0.0).to_bits(), Relaxed);
    }

    pub fn get(&self) -> Option<f64> {
        Some(f64::from_bits(self.0.load(Relaxed))).filter(|days| *days != 0.0)
    }
}

/// An instant of the wall clock, or never.
#[derive(Debug, Default)]
pub struct UnixTime(AtomicU64);

impl UnixTime {
    /// In Unix seconds UTC; `None` for never.
    pub fn set(&self, unix_seconds: Option<f64>) {
        self.0.store(unix_seconds.unwrap_or(0.0).to_bits(), Relaxed);
    }

    /// In Unix seconds UTC; `None` for never.
    pub fn get(&self) -> Option<f64> {
        Some(f64::from_bits(self.0.load(Relaxed))).filter(|seconds| *seconds != 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_kept_to_the_microsecond_and_can_be_never() {
        let time = UnixTime::default();
        assert_eq!(time.get(), None);
        time.set(Some(1_717_156_800.123_456));
        assert_eq!(time.get(), Some(1_717_156_800.123_456));
        time.set(None);
        assert_eq!(time.get(), None);
    }
}
