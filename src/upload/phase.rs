//! Where a device stands in the fleet's round: pure. A fleet whose power returns at one moment starts at one
//! moment; each device takes its turn at its own part of the interval, always the same one.

use std::time::Duration;

use tokio::time::Instant;

/// The part of every interval at which this device flushes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Phase {
    origin: Instant,
    /// 0 to below 1.
    share: f64,
}

impl Phase {
    /// Of the device called `id`, counted from `origin`, its start.
    pub fn new(id: &str, origin: Instant) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, id.as_bytes());
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&digest.as_ref()[..8]);
        // 53 bits are what an f64 holds, so it never becomes 1.
        Self { origin, share: (u64::from_be_bytes(bytes) >> 11) as f64 / (1_u64 << 53) as f64 }
    }

    /// One that takes its turn at once, and then at whole intervals.
    pub fn none(origin: Instant) -> Self {
        Self { origin, share: 0.0 }
    }

    /// When the first attempt is due.
    pub fn first(&self, interval: Duration) -> Instant {
        self.origin + interval.min(FIRST_MAX).mul_f64(self.share)
    }

    /// The next turn after `since`.
    pub fn next_after(&self, since: Instant, interval: Duration) -> Instant {
        let offset = interval.mul_f64(self.share);
        let passed = since.saturating_duration_since(self.origin);
        let Some(behind) = passed.checked_sub(offset) else { return self.origin + offset };
        let turns = (behind.as_nanos() / interval.as_nanos().max(1)) as f64 + 1.0;
        self.origin + offset + interval.mul_f64(turns)
    }
}

/// The longest a start waits for its turn, whatever the interval.
const FIRST_MAX: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(60);
    const DEVICES: u32 = 1000;
    const PARTS: usize = 20;

    fn assert_even(what: &str, waits: impl Iterator<Item = Duration>) {
        let mut parts = [0_u32; PARTS];
        for wait in waits {
            parts[(wait.as_secs_f64() / INTERVAL.as_secs_f64() * PARTS as f64) as usize] += 1;
        }
        let expected = f64::from(DEVICES) / PARTS as f64;
        // Chi-squared with 19 degrees of freedom: an even spread exceeds 43.8 once in a thousand times.
        let chi: f64 = parts.iter().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum();
        assert!(chi < 43.8, "{what}: {chi}: {parts:?}");
    }

    #[test]
    fn a_thousand_devices_that_start_together_spread_over_the_interval() {
        let start = Instant::now();
        let ids: [fn(u32) -> String; 2] =
            [|n| format!("plant-{n}"), |n| format!("{:016x}", u64::from(n) * 7919)];
        for id in ids {
            let phases: Vec<_> = (0..DEVICES).map(|n| Phase::new(&id(n), start)).collect();
            assert_even("first attempts", phases.iter().map(|phase| phase.first(INTERVAL) - start));
            // All took a reading at the same moment, much later.
            let taken_at = start + INTERVAL * 1000 + Duration::from_secs(7);
            assert_even(
                "flushes",
                phases.iter().map(|phase| phase.next_after(taken_at, INTERVAL) - taken_at),
            );
        }
    }

    #[test]
    fn a_thousand_devices_whose_endpoint_returns_spread_by_jitter() {
        use super::super::backoff::{Backoff, Limits};
        let limits = Limits { min: Duration::from_secs(1), max: INTERVAL };
        let mut random = fastrand::Rng::with_seed(7);
        let mut waits = Vec::new();
        for _ in 0..DEVICES {
            let mut backoff = Backoff::default();
            let last = (0..12).map(|_| backoff.retry(limits, random.f64())).last();
            waits.extend(last);
        }
        assert_even("retries", waits.into_iter());
    }

    #[test]
    fn turns_are_one_interval_apart_and_never_in_the_past() {
        let start = Instant::now();
        for id in ["a", "b", "c"] {
            let phase = Phase::new(id, start);
            let first = phase.next_after(start, INTERVAL);
            assert!(first > start && first <= start + INTERVAL);
            assert_eq!(phase.next_after(first, INTERVAL), first + INTERVAL);
            assert!(phase.first(Duration::from_secs(86_400)) <= start + FIRST_MAX);
        }
        assert_eq!(Phase::none(start).next_after(start, INTERVAL), start + INTERVAL);
        assert_eq!(Phase::none(start).first(INTERVAL), start);
    }
}
