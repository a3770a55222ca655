//! The monthly budget of bytes on the line: what is used, what it will come to, and which lanes wait for the
//! next month. Pure.

use std::time::Duration;

use time::{Date, Month, OffsetDateTime};

use crate::reading::Priority;

/// `cloud.monthly_*`.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    /// No limit without one.
    pub bytes_max: Option<u64>,
    /// Day on which the billing month begins, 1 to 28, UTC.
    pub first_day: u8,
    /// The shares of the budget at which ANOMALY, TELEMETRY and LOGS stop, 0 to 1. CRITICAL never stops.
    pub shares: [f64; 3],
}

impl Default for Budget {
    fn default() -> Self {
        Self { bytes_max: None, first_day: 1, shares: [1.0, 0.9, 0.7] }
    }
}

/// The year and month in which a billing month begins.
type Period = (i32, u8);

/// What was used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Account {
    /// Unknown until the clock was once synchronised.
    period: Option<Period>,
    used_bytes: u64,
    /// Of the counter that the bytes come from, since start.
    seen_bytes: u64,
    recent: Recent,
}

/// Bytes and the seconds they took, both fading, so that their quotient is the rate of the last day.
#[derive(Clone, Debug, Default, PartialEq)]
struct Recent {
    at: Option<Duration>,
    bytes: f64,
    seconds: f64,
}

/// What the health page shows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Use {
    pub used_bytes: u64,
    pub bytes_max: Option<u64>,
    /// At the end of the month, at the rate of the last day; `None` while that or the month is not known.
    pub forecast_bytes: Option<u64>,
    /// The lanes that wait for the next month, in the order of [`Priority::ALL`].
    pub held: [bool; 4],
}

impl Account {
    /// Takes up what [`Self::to_text`] wrote; anything else is nothing used.
    pub fn recall(text: Option<&str>) -> Self {
        let read = |text: &str| {
            let (period, used) = text.split_once(' ')?;
            let used_bytes = used.parse().ok()?;
            let period = match period.split_once('-') {
                None => None,
                Some((year, month)) => Some((year.parse().ok()?, month.parse().ok()?)),
            };
            Some(Self { period, used_bytes, ..Self::default() })
        };
        text.and_then(read).unwrap_or_default()
    }

    /// For [`Self::recall`] after a restart.
    pub fn to_text(&self) -> String {
        match self.period {
            Some((year, month)) => format!("{year}-{month:02} {}", self.used_bytes),
            None => format!("unknown {}", self.used_bytes),
        }
    }

    /// Notes what the counter of bytes says, `since_boot` on the boot clock. `unix_seconds` is the wall
    /// clock while it is synchronised: a clock that is not must not begin a month.
    pub fn note(
        &mut self,
        wire_bytes: u64,
        since_boot: Duration,
        unix_seconds: Option<f64>,
        budget: &Budget,
    ) {
        let more = wire_bytes.saturating_sub(self.seen_bytes);
        self.seen_bytes = wire_bytes;
        self.recent.add(more, since_boot);
        if let Some(now) = unix_seconds.and_then(|now| period(now, budget.first_day)) {
            // A month that lies before the known one is a changed first day, or a clock put right.
            if self.period.is_some_and(|known| now > known) {
                self.used_bytes = 0;
            }
            self.period = Some(now);
        }
        self.used_bytes += more;
    }

    /// The state of the budget.
    pub fn state(&self, unix_seconds: Option<f64>, budget: &Budget) -> Use {
        let bytes_max = budget.bytes_max;
        let held = Priority::ALL.map(|priority| {
            let share = match priority {
                Priority::Critical => return false,
                Priority::Anomaly => budget.shares[0],
                Priority::Telemetry => budget.shares[1],
                Priority::Logs => budget.shares[2],
            };
            bytes_max.is_some_and(|max| self.used_bytes as f64 >= max as f64 * share)
        });
        let forecast_bytes = unix_seconds.and_then(|now| {
            let left = self.period.and_then(|period| end(period, budget.first_day))? - now;
            Some(self.used_bytes + (self.recent.rate()? * left.max(0.0)) as u64)
        });
        Use { used_bytes: self.used_bytes, bytes_max, forecast_bytes, held }
    }
}

impl Recent {
    fn add(&mut self, bytes: u64, since_boot: Duration) {
        if let Some(at) = self.at.replace(since_boot) {
            let passed = since_boot.saturating_sub(at).as_secs_f64();
            let fading = (-passed / RATE_SECONDS).exp();
            self.bytes *= fading;
            self.seconds = self.seconds * fading + passed;
        }
        self.bytes += bytes as f64;
    }

    /// Bytes a second.
    fn rate(&self) -> Option<f64> {
        (self.seconds >= RATE_SECONDS_MIN).then(|| self.bytes / self.seconds)
    }
}

/// The billing month of an instant.
fn period(unix_seconds: f64, first_day: u8) -> Option<Period> {
    let date = OffsetDateTime::from_unix_timestamp(unix_seconds as i64).ok()?.date();
    let (year, month) = (date.year(), u8::from(date.month()));
    Some(match (date.day() >= first_day, month) {
        (true, _) => (year, month),
        (false, 1) => (year - 1, 12),
        (false, _) => (year, month - 1),
    })
}

/// Unix seconds at which a billing month ends.
fn end((year, month): Period, first_day: u8) -> Option<f64> {
    let (year, month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    let date = Date::from_calendar_date(year, Month::try_from(month).ok()?, first_day).ok()?;
    Some(date.midnight().assume_utc().unix_timestamp() as f64)
}

/// The rate is that of about the last day.
const RATE_SECONDS: f64 = 86_400.0;
/// A forecast from less would be guesswork.
const RATE_SECONDS_MIN: f64 = 600.0;

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const BUDGET: Budget = Budget { bytes_max: Some(1000), first_day: 1, shares: [1.0, 0.9, 0.7] };
    const BOOT: Duration = Duration::from_secs(60);

    fn at(when: OffsetDateTime) -> Option<f64> {
        Some(when.unix_timestamp() as f64)
    }

    #[test]
    fn lanes_stop_at_their_share_and_critical_never() {
        for (used, held) in [
            (0, [false; 4]),
            (699, [false; 4]),
            (700, [false, false, false, true]),
            (900, [false, false, true, true]),
            (1000, [false, true, true, true]),
            (1_000_000, [false, true, true, true]),
        ] {
            let mut account = Account::default();
            account.note(used, BOOT, None, &BUDGET);
            assert_eq!(account.state(None, &BUDGET).held, held, "{used}");
            let unlimited = Budget { bytes_max: None, ..BUDGET };
            assert_eq!(account.state(None, &unlimited).held, [false; 4]);
        }
    }

    #[test]
    fn a_new_month_begins_on_its_day_and_only_by_a_clock_that_is_set() {
        let budget = Budget { first_day: 15, ..BUDGET };
        let mut account = Account::default();
        account.note(100, BOOT, at(datetime!(2026-11-20 0:00 UTC)), &budget);
        account.note(300, BOOT, at(datetime!(2026-12-14 23:59:59 UTC)), &budget);
        assert_eq!(account.used_bytes, 300);
        // A boot without a real-time clock thinks it is another year.
        account.note(400, BOOT, None, &budget);
        assert_eq!(account.used_bytes, 400);
        account.note(450, BOOT, at(datetime!(2026-12-15 0:00 UTC)), &budget);
        assert_eq!(account.used_bytes, 50);
        account.note(460, BOOT, at(datetime!(2027-01-10 0:00 UTC)), &budget);
        assert_eq!(account.to_text(), "2026-12 60");
    }

    #[test]
    fn what_was_used_before_the_first_synchronisation_counts_for_the_month_that_it_names() {
        let mut account = Account::default();
        account.note(100, BOOT, None, &BUDGET);
        assert_eq!(account.to_text(), "unknown 100");
        account.note(150, BOOT, at(datetime!(2026-11-20 0:00 UTC)), &BUDGET);
        assert_eq!(account.to_text(), "2026-11 150");
    }

    #[test]
    fn a_first_day_that_changes_gives_nothing_back() {
        let mut account = Account::recall(Some("2026-11 600"));
        let later = Budget { first_day: 28, ..BUDGET };
        account.note(0, BOOT, at(datetime!(2026-11-25 0:00 UTC)), &later);
        assert_eq!(account.to_text(), "2026-10 600");
    }

    #[test]
    fn what_is_remembered_is_taken_up_and_what_cannot_be_read_is_nothing() {
        for text in ["2026-11 600", "2026-01 0", "unknown 17"] {
            assert_eq!(Account::recall(Some(text)).to_text(), text);
        }
        for text in ["", "2026", "2026-11", "2026-11 x", "2026-x 5"] {
            assert_eq!(Account::recall(Some(text)), Account::default(), "{text}");
        }
    }

    #[test]
    fn the_forecast_goes_by_the_rate_of_the_last_day() {
        let mut account = Account::recall(Some("2026-11 1000"));
        let start = datetime!(2026-11-20 0:00 UTC);
        // A byte a second for two hours.
        for minute in 0..=120_u32 {
            let now = Duration::from_secs(u64::from(minute) * 60);
            account.note(u64::from(minute) * 60, BOOT + now, at(start + now), &BUDGET);
        }
        let now = start + time::Duration::hours(2);
        let forecast = account.state(at(now), &BUDGET).forecast_bytes.unwrap();
        let expected = 1000 + 7200 + (11 * 24 - 2) * 3600;
        assert!(forecast.abs_diff(expected) < expected / 50, "{forecast}, and {expected} was expected");
        assert_eq!(Account::default().state(at(now), &BUDGET).forecast_bytes, None);
        assert_eq!(account.state(None, &BUDGET).forecast_bytes, None);
    }

    #[test]
    fn months_end_where_the_next_begins() {
        assert_eq!(end((2026, 12), 28), at(datetime!(2027-01-28 0:00 UTC)));
        assert_eq!(period(at(datetime!(2027-01-27 23:59 UTC)).unwrap(), 28), Some((2026, 12)));
        assert_eq!(period(at(datetime!(2027-01-28 0:00 UTC)).unwrap(), 28), Some((2027, 1)));
        assert_eq!(period(f64::INFINITY, 1), None);
    }
}
