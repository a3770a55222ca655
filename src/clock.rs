//! The only file that reads the time.
//!
//! Everything else is handed an instant, so that decisions stay pure and tests choose the time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// The wall clock in Unix seconds UTC. It may be wrong before NTP has set it, and it may jump.
#[expect(clippy::disallowed_methods, reason = "this is the file that reads the time")]
pub fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Time since boot, suspend included. It never jumps; it starts anew with each boot.
pub fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}
