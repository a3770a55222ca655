//! A watchdog tied to progress: a stage is alive while it moves or has nothing to do.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// The stamp of one stage. Written by the stage, read by the watchdog.
#[derive(Debug, Default)]
pub struct Progress {
    /// Boot-clock milliseconds of the last stamp; 0 while the stage is idle by right.
    stamp: AtomicU64,
}

impl Progress {
    /// The stage has work and moved just now. `since_boot` is the boot clock.
    pub fn moved(&self, since_boot: Duration) {
        self.stamp.store(millis(since_boot).max(1), Relaxed);
    }

    /// The stage waits for input, or for a timer of its own.
    pub fn idle(&self) {
        self.stamp.store(0, Relaxed);
    }

    /// How long the stage has had work without moving; `None` while it is idle.
    pub fn stuck_for(&self, since_boot: Duration) -> Option<Duration> {
        match self.stamp.load(Relaxed) {
            0 => None,
            stamp => Some(Duration::from_millis(millis(since_boot).saturating_sub(stamp))),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
