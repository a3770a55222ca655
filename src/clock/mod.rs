//! The only room that reads the time.
//!
//! Everything else is handed an instant, so that decisions stay pure and tests choose the time.

mod belief;
mod kernel;
pub mod mark;
mod status;

pub use belief::{Belief, Observed, Sample, Settings, State, TOLERANCE_SECONDS, Turn};
pub use status::Status;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// The clocks of this room, for parts whose tests choose the time.
pub trait Clocks: std::fmt::Debug + Send + Sync {
    /// See [`unix_seconds`].
    fn unix_seconds(&self) -> f64;
    /// See [`since_boot`].
    fn since_boot(&self) -> Duration;
    /// See [`boot_id`].
    fn boot_id(&self) -> String;
}

/// The clocks of this machine.
#[derive(Clone, Copy, Debug)]
pub struct OfMachine;

impl Clocks for OfMachine {
    fn unix_seconds(&self) -> f64 {
        unix_seconds()
    }

    fn since_boot(&self) -> Duration {
        since_boot()
    }

    fn boot_id(&self) -> String {
        boot_id()
    }
}

/// The wall clock in Unix seconds UTC. It may be wrong before NTP has set it, and it may jump.
#[expect(clippy::disallowed_methods, reason = "this is the room that reads the time")]
pub fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Time since boot, suspend included. It never jumps; it starts anew with each boot.
pub fn since_boot() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// [`since_boot`] in seconds: what a reading is stamped with. It reads the clock once.
pub fn boot_seconds() -> f64 {
    since_boot().as_secs_f64()
}

/// Both clocks at one instant. Should the thread be put aside in between, they are read again.
pub fn sample() -> Sample {
    let mut before = since_boot();
    for _ in 0..SAMPLE_TRIES_MAX {
        let unix_seconds = unix_seconds();
        let after = since_boot();
        if after.saturating_sub(before) < SAMPLE_SPAN_MAX {
            return Sample { since_boot: before, unix_seconds };
        }
        before = after;
    }
    Sample { since_boot: before, unix_seconds: unix_seconds() }
}

/// Whether the kernel says that the wall clock is synchronised. Without an answer it counts as
/// synchronised once systemd-timesyncd says so.
pub fn is_synchronised() -> bool {
    kernel::is_synchronised().unwrap_or_else(|| std::path::Path::new(TIMESYNCD_SAYS).exists())
}

/// Whether the kernel may be asked for that.
pub fn kernel_answers() -> bool {
    kernel::is_synchronised().is_some()
}

/// The kernel's name of this boot: random, and new with each. Empty where /proc is not there.
pub fn boot_id() -> String {
    std::fs::read_to_string(BOOT_ID).map(|id| id.trim().to_owned()).unwrap_or_default()
}

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// systemd-timesyncd(8) makes this file once the clock was synchronised in this boot.
const TIMESYNCD_SAYS: &str = "/run/systemd/timesync/synchronized";
const SAMPLE_TRIES_MAX: u32 = 4;
const SAMPLE_SPAN_MAX: Duration = Duration::from_millis(1);

// Up to 1.95 at least, std reads a 32-bit clock with 32-bit musl: SystemTime::now panics from 2038 on, in hyper and
// rustls too. The scripts build a std that was put right, and say so.
#[cfg(all(target_env = "musl", target_pointer_width = "32", not(std_time64)))]
compile_error!(
    "the standard library of this target fails in 2038; build with scripts/build-static or scripts/build-cross"
);
