//! Tells whoever waits for a long start that it moves.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::clock;

/// Called every few pages by whatever reads or writes a whole database.
#[derive(Clone)]
pub struct Alive(Arc<Inner>);

struct Inner {
    /// Boot-clock milliseconds of the last time.
    told_at: AtomicU64,
    tell: Box<dyn Fn() + Send + Sync>,
}

impl Alive {
    /// `tell` is called when there was progress, at most once in [`INTERVAL`].
    pub fn new(tell: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner { told_at: AtomicU64::new(0), tell: Box::new(tell) }))
    }

    /// Tells nobody.
    pub fn silent() -> Self {
        Self::new(|| {})
    }

    /// Something was done.
    pub fn tick(&self) {
        let now = u64::try_from(clock::since_boot().as_millis()).unwrap_or(u64::MAX);
        let told_at = self.0.told_at.load(Relaxed);
        if now.saturating_sub(told_at) >= INTERVAL.as_millis() as u64 {
            self.0.told_at.store(now, Relaxed);
            (self.0.tell)();
        }
    }
}

impl fmt::Debug for Alive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Alive")
    }
}

/// Often enough for a start timeout that is extended by [`EXTENSION`].
const INTERVAL: Duration = Duration::from_secs(2);
/// What each sign of life asks of the service manager.
pub const EXTENSION: Duration = Duration::from_secs(60);
