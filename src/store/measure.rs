//! What the store takes: bytes per item of each lane, and bytes per day.

use std::time::Duration;

use super::Lane;

/// Measured while the store is open; allocates nothing.
#[derive(Debug)]
pub struct Measure {
    /// Bytes per item of each lane, a moving mean; 0 before the first.
    per_item: [f64; Lane::ALL.len()],
    /// Where nothing else is known.
    typical: f64,
    /// Bytes of delivered lanes, by hour of the age of the database.
    hours: [u64; HOURS],
    /// Since when and up to when `hours` holds, as hours of that age.
    since: Option<Duration>,
    hour: u64,
    unaccounted: u64,
}

impl Measure {
    /// `typical`: bytes per item of what is stored already.
    pub fn new(typical: f64) -> Self {
        Self {
            per_item: [0.0; Lane::ALL.len()],
            typical,
            hours: [0; HOURS],
            since: None,
            hour: 0,
            unaccounted: 0,
        }
    }

    /// Notes a block of `bytes` compressed and `items` items.
    pub fn wrote(&mut self, lane: Lane, bytes: u64, items: u32) {
        let taken = bytes + ROW_BYTES;
        let per_item = &mut self.per_item[lane.index()];
        let new = taken as f64 / f64::from(items.max(1));
        *per_item = if *per_item == 0.0 { new } else { *per_item + (new - *per_item) * WEIGHT };
        if lane != Lane::Local {
            self.unaccounted += taken;
        }
    }

    /// What so many items of `lane` take, about.
    pub fn bytes(&self, lane: Lane, items: u64) -> u64 {
        let per_item = self.per_item[lane.index()];
        (items as f64 * if per_item == 0.0 { self.typical } else { per_item }) as u64
    }

    /// Bytes per day, from the last day or what of it was seen; `None` for the first minutes. `age` is that
    /// of the database.
    pub fn bytes_per_day(&mut self, age: Duration) -> Option<f64> {
        let since = *self.since.get_or_insert(age);
        let hour = age.as_secs() / 3600;
        for passed in self.hour.saturating_add(1).max(hour.saturating_sub(HOURS as u64 - 1))..=hour {
            self.hours[(passed % HOURS as u64) as usize] = 0;
        }
        self.hour = hour;
        self.hours[(hour % HOURS as u64) as usize] += std::mem::take(&mut self.unaccounted);
        let seen = age.saturating_sub(since);
        if seen < SEEN_MIN {
            return None;
        }
        // The hour that goes on counts in part.
        let covered = seen.min(Duration::from_secs((HOURS as u64 - 1) * 3600 + age.as_secs() % 3600));
        let bytes: u64 = self.hours.iter().sum();
        (bytes > 0).then(|| bytes as f64 * 86_400.0 / covered.as_secs_f64())
    }
}

/// A row's other columns, its keys, and the room that pages leave free, in bytes.
const ROW_BYTES: u64 = 96;
/// Of the newest block in the mean.
const WEIGHT: f64 = 0.05;
const HOURS: usize = 24;
const SEEN_MIN: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_day() {
        let mut measure = Measure::new(20.0);
        let at = |hours: u64| Duration::from_secs(hours * 3600);
        assert_eq!(measure.bytes_per_day(at(100)), None);
        for hour in 101..200 {
            measure.wrote(Lane::Telemetry, 10_000 - ROW_BYTES, 100);
            measure.bytes_per_day(at(hour));
        }
        let rate = measure.bytes_per_day(at(199)).unwrap();
        assert!((rate / 240_000.0 - 1.0).abs() < 0.05, "{rate}");
        assert_eq!(measure.bytes(Lane::Telemetry, 7), 700);
        assert_eq!(measure.bytes(Lane::Minute, 7), 140, "typical before it is measured");
        assert_eq!(measure.bytes_per_day(at(400)), None, "nothing is stored any more");
    }
}
