//! A pace that cannot be exceeded for long: so many at once, then one per interval. It keeps whoever
//! floods the health page from taking the CPU away from the pipeline.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    burst: u32,
    /// When the next one would be due if all had come at their interval.
    due_at: Instant,
}

impl Pace {
    pub(super) fn new(interval: Duration, burst: u32, now: Instant) -> Self {
        Self { interval, burst, due_at: now }
    }

    /// When the next one may go ahead: `now` or later.
    pub(super) fn next_at(&self, now: Instant) -> Instant {
        let slack = self.interval.saturating_mul(self.burst.saturating_sub(1));
        self.due_at.checked_sub(slack).map_or(now, |at| at.max(now))
    }

    /// Counts one that goes ahead, and says when: `now`, or up to `wait_max` later.
    pub(super) fn claim(&mut self, now: Instant, wait_max: Duration) -> Instant {
        let at = self.next_at(now).min(now + wait_max);
        // Bounded above, or those that gave up waiting would still be waited for.
        let slack = self.interval.saturating_mul(self.burst);
        self.due_at = (self.due_at.max(now) + self.interval).min(now + slack + wait_max);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(10);

    #[test]
    fn a_burst_goes_ahead_at_once_and_the_rest_at_the_interval() {
        let now = Instant::now();
        let mut pace = Pace::new(STEP, 3, now);
        let waits: Vec<_> = (0..5).map(|_| pace.claim(now, STEP * 100) - now).collect();
        assert_eq!(waits, [Duration::ZERO, Duration::ZERO, Duration::ZERO, STEP, STEP * 2]);
        let later = now + STEP * 10;
        assert_eq!(pace.next_at(later), later);
    }

    #[test]
    fn no_wait_is_longer_than_allowed_and_a_flood_is_forgotten() {
        let now = Instant::now();
        let mut pace = Pace::new(STEP, 3, now);
        for _ in 0..100_000 {
            assert!(pace.claim(now, STEP * 5) - now <= STEP * 5);
        }
        let later = now + STEP * 20;
        assert_eq!(pace.claim(later, STEP * 5), later);
    }
}
