//! Flash wear, measured by the agent itself: what the kernel wrote for this process against what was
//! accepted, by UTC day and since the store was made. And the budget, which says when to write less.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::pipeline::Counters;

/// How commits adapt.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// `store.write_mb_per_day`, in bytes; `None` is no budget.
    pub bytes_per_day: Option<f64>,
    /// `store.commit_interval_max_seconds`: the longest that readings nobody awaits wait for their
    /// commit while more was written than the budget allows.
    pub commit_interval_max: Duration,
}

/// What was written within some time in which the agent ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Written {
    /// Whole pages, as the kernel counts them for this process: SQLite, WAL and everything else.
    pub bytes: u64,
    /// JSON of what was accepted.
    pub accepted_bytes: u64,
    /// Running time.
    pub seconds: f64,
}

impl Written {
    /// Bytes written for each byte accepted; `None` before there is one.
    pub fn amplification(&self) -> Option<f64> {
        (self.accepted_bytes > 0).then(|| self.bytes as f64 / self.accepted_bytes as f64)
    }

    fn add(&mut self, more: &Self) {
        self.bytes += more.bytes;
        self.accepted_bytes += more.accepted_bytes;
        self.seconds += more.seconds;
    }
}

/// The account. It is remembered in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// Days since 1970, UTC, by the wall clock.
    pub day: u64,
    pub today: Written,
    /// The last day before it on which the agent ran.
    pub day_before: Written,
    /// Since the store was made.
    pub total: Written,
}

impl Account {
    /// Enters `more`. Returns the day that thereby came to its end, with its number.
    fn enter(&mut self, more: &Written, day: u64) -> Option<EndedDay> {
        let ended = (day != self.day && self.today.seconds > 0.0).then_some((self.day, self.today));
        if day != self.day {
            if let Some((_, written)) = ended {
                self.day_before = written;
            }
            (self.day, self.today) = (day, Written::default());
        }
        self.today.add(more);
        self.total.add(more);
        ended
    }

    /// At the rate of today and the day before, in bytes a year of running time; `None` before the agent
    /// has run for [`FORECAST_AFTER`].
    pub fn bytes_per_year(&self) -> Option<f64> {
        let seconds = self.today.seconds + self.day_before.seconds;
        let bytes = (self.today.bytes + self.day_before.bytes) as f64;
        (seconds >= FORECAST_AFTER.as_secs_f64()).then(|| bytes / seconds * SECONDS_PER_YEAR)
    }
}

/// Measures and keeps the account.
#[derive(Debug)]
pub struct Wear {
    settings: Settings,
    io_file: PathBuf,
    counters: Arc<Counters>,
    /// A lock, because the figures belong together; held for one read of a file that the kernel makes up.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    account: Account,
    /// Of this process, at the last look; boot clock.
    bytes: u64,
    accepted_bytes: u64,
    looked_at: Duration,
    /// The newest day that came to its end, until it is taken.
    ended: Option<EndedDay>,
    /// Bytes that may be written now without exceeding the budget; below 0 it is exceeded.
    allowance: f64,
}

/// A day's number, and what was written on it.
pub type EndedDay = (u64, Written);

impl Wear {
    /// `remembered` is what [`Self::to_remember`] gave an earlier run; what is none of it begins anew.
    /// `since_boot` is the boot clock.
    pub fn new(
        settings: Settings,
        remembered: Option<&str>,
        counters: Arc<Counters>,
        since_boot: Duration,
    ) -> Self {
        let account = remembered.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
        // What the process wrote before, while it started, counts.
        let state = State {
            account,
            bytes: 0,
            accepted_bytes: 0,
            looked_at: since_boot,
            ended: None,
            allowance: 0.0,
        };
        Self { settings, io_file: "/proc/self/io".into(), counters, state: Mutex::new(state) }
    }

    /// Brings the account up to date. `unix_seconds` only says which day it is; `since_boot` is the boot
    /// clock. Tells the pipeline whether it may commit at its usual pace.
    pub fn look(&self, unix_seconds: f64, since_boot: Duration) -> Account {
        let mut state = self.lock();
        let bytes = self.written_bytes().unwrap_or(state.bytes);
        let accepted_bytes = self.counters.accepted_bytes.load(Relaxed);
        let more = Written {
            bytes: bytes.saturating_sub(state.bytes),
            accepted_bytes: accepted_bytes.saturating_sub(state.accepted_bytes),
            seconds: since_boot.saturating_sub(state.looked_at).as_secs_f64(),
        };
        (state.bytes, state.accepted_bytes, state.looked_at) = (bytes, accepted_bytes, since_boot);
        if let Some(per_day) = self.settings.bytes_per_day {
            state.allowance = allow(state.allowance, &more, per_day);
            self.counters.is_over_budget.store(state.allowance < 0.0, Relaxed);
        }
        // Saturates: a clock before 1970 counts as its first day.
        let ended = state.account.enter(&more, (unix_seconds / SECONDS_PER_DAY) as u64);
        state.ended = ended.or(state.ended);
        state.account
    }

    /// As of the last look.
    pub fn account(&self) -> Account {
        self.lock().account
    }

    /// The day that ended since this was asked last.
    pub fn take_ended(&self) -> Option<EndedDay> {
        self.lock().ended.take()
    }

    /// The account as text, for the store to remember.
    pub fn to_remember(&self) -> String {
        serde_json::to_string(&self.account()).expect("numbers always encode")
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn written_bytes(&self) -> Option<u64> {
        let mut text = String::new();
        File::open(&self.io_file).ok()?.take(IO_BYTES_MAX).read_to_string(&mut text).ok()?;
        text.lines().find_map(|line| line.strip_prefix("write_bytes: "))?.trim().parse().ok()
    }
}

/// The allowance after `more`. What a quiet hour leaves over may be written later; what a burst wrote
/// too much is saved for a day at most.
fn allow(allowance: f64, more: &Written, bytes_per_day: f64) -> f64 {
    let earned = bytes_per_day / SECONDS_PER_DAY * more.seconds;
    (allowance + earned - more.bytes as f64).clamp(-bytes_per_day, bytes_per_day / 24.0)
}

/// The key under which the store remembers the account.
pub const REMEMBERED_AS: &str = "wear";
/// The start alone writes too much to tell a rate from.
const FORECAST_AFTER: Duration = Duration::from_secs(600);
const SECONDS_PER_DAY: f64 = 86_400.0;
const SECONDS_PER_YEAR: f64 = 365.25 * SECONDS_PER_DAY;
const IO_BYTES_MAX: u64 = 4096;

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const DAY: f64 = 20_000.0;

    struct Process {
        wear: Wear,
        io: tempfile::NamedTempFile,
        counters: Arc<Counters>,
    }

    fn process(bytes_per_day: Option<f64>, remembered: Option<&str>) -> Process {
        let io = tempfile::NamedTempFile::new().unwrap();
        let counters = Arc::new(Counters::default());
        let settings = Settings { bytes_per_day, commit_interval_max: Duration::from_secs(10) };
        let mut wear = Wear::new(settings, remembered, counters.clone(), Duration::ZERO);
        wear.io_file = io.path().to_owned();
        Process { wear, io, counters }
    }

    impl Process {
        fn look(&self, bytes: u64, accepted_bytes: u64, day: f64, seconds: u64) -> Account {
            self.io.as_file().set_len(0).unwrap();
            let text = format!("rchar: 1\nwrite_bytes: {bytes}\ncancelled_write_bytes: 9\n");
            File::options().append(true).open(self.io.path()).unwrap().write_all(text.as_bytes()).unwrap();
            self.counters.accepted_bytes.store(accepted_bytes, Relaxed);
            self.wear.look(day * SECONDS_PER_DAY + 1.0, Duration::from_secs(seconds))
        }
    }

    #[test]
    fn each_byte_is_counted_once_in_its_day_and_across_restarts() {
        let first = process(None, None);
        first.look(4096, 100, DAY, 10);
        assert_eq!(first.wear.take_ended(), None);
        let ended = Written { bytes: 4096, accepted_bytes: 100, seconds: 10.0 };
        first.look(8192, 100, DAY + 1.0, 30);
        assert_eq!((first.wear.take_ended(), first.wear.take_ended()), (Some((20_000, ended)), None));
        let second = process(None, Some(&first.wear.to_remember()));
        let account = second.look(1000, 900, DAY + 1.0, 600);
        assert_eq!(account.today, Written { bytes: 5096, accepted_bytes: 900, seconds: 620.0 });
        assert_eq!(account.day_before, ended);
        assert_eq!(account.total, Written { bytes: 9192, accepted_bytes: 1000, seconds: 630.0 });
        assert_eq!(account.total.amplification(), Some(9.192));
        let a_year = 9192.0 / 630.0 * SECONDS_PER_YEAR;
        assert!((account.bytes_per_year().unwrap() - a_year).abs() < 1e-3);
    }

    #[test]
    fn nonsense_that_is_remembered_begins_anew() {
        for text in ["", "{}", "{\"day\":-1}", "7"] {
            assert_eq!(process(None, Some(text)).look(1, 0, DAY, 1).total.bytes, 1);
        }
    }

    #[test]
    fn the_pipeline_is_told_while_more_was_written_than_the_budget_allows() {
        let process = process(Some(86_400.0), None);
        let is_over = || process.counters.is_over_budget.load(Relaxed);
        process.look(50, 0, DAY, 100);
        assert!(!is_over());
        process.look(250, 0, DAY, 200);
        assert!(is_over());
        process.look(250, 0, DAY, 260);
        assert!(!is_over());
        // An hour is saved up, not more.
        process.look(250, 0, DAY, 20_000);
        process.look(250 + 3700, 0, DAY, 20_001);
        assert!(is_over());
    }
}
