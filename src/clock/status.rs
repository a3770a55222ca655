//! What the health page says of the clock: atomics, so that neither side waits.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::{Belief, State};

/// The belief of the pipeline, for others to see.
#[derive(Debug, Default)]
pub struct Status {
    synchronised: AtomicBool,
    held_over: AtomicBool,
    trusted: AtomicBool,
    /// Boot clock in milliseconds.
    since_ms: AtomicU64,
}

impl Status {
    pub fn show(&self, belief: &Belief, trusted: bool) {
        self.synchronised.store(belief.is_synchronised(), Relaxed);
        self.held_over.store(belief.state() == State::HeldOver, Relaxed);
        self.trusted.store(trusted, Relaxed);
        self.since_ms.store(u64::try_from(belief.since().as_millis()).unwrap_or(u64::MAX), Relaxed);
    }

    pub fn is_synchronised(&self) -> bool {
        self.synchronised.load(Relaxed)
    }

    /// Whom the agent believes: the configuration, the kernel, the last synchronisation of this boot, or
    /// nobody.
    pub fn source(&self) -> &'static str {
        match (self.is_synchronised(), self.trusted.load(Relaxed), self.held_over.load(Relaxed)) {
            (true, true, _) => "trusted",
            (true, false, _) => "kernel",
            (false, _, true) => "held_over",
            (false, _, false) => "none",
        }
    }

    /// How long it has been so at `since_boot`.
    pub fn lasting(&self, since_boot: Duration) -> Duration {
        since_boot.saturating_sub(Duration::from_millis(self.since_ms.load(Relaxed)))
    }
}
