//! What the firewall has done since the start, for the health page and the metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Action;

/// Counts of readings, each at most once per counter, however many of its fields were touched.
///
/// Written by the firewall, read by anyone; a reload does not set them back.
#[derive(Debug, Default)]
pub struct Counters {
    /// Neither stored nor delivered, unreadable metadata included.
    pub dropped: AtomicU64,
    /// Kept on the device, wholly or in some field.
    pub local_only: AtomicU64,
    pub masked: AtomicU64,
    pub hashed: AtomicU64,
    /// With at least one field removed.
    pub redacted: AtomicU64,
}

impl Counters {
    pub(super) fn count(&self, action: Action) {
        let counter = match action {
            Action::Allow => return,
            Action::Hash => &self.hashed,
            Action::Mask => &self.masked,
            Action::LocalOnly => &self.local_only,
            Action::Redact => &self.redacted,
            Action::Drop => &self.dropped,
        };
        counter.fetch_add(1, Relaxed);
    }
}
