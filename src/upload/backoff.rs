//! How long to wait before the next attempt: exponential with full jitter, so that a fleet that
//! lost its endpoint together does not come back together.

use std::time::Duration;

/// The shortest ceiling and the longest wait.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    pub min: Duration,
    pub max: Duration,
}

/// Failed attempts in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure: uniform between nothing and a ceiling that starts at
    /// `limits.min` and doubles up to `limits.max`. `random` is in 0..1.
    ///
    /// Full jitter as in M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    pub fn retry(&mut self, limits: Limits, random: f64) -> Duration {
        let ceiling = limits.min.saturating_mul(2_u32.saturating_pow(self.failures)).min(limits.max);
        self.failures = self.failures.saturating_add(1);
        ceiling.mul_f64(share(random))
    }

    /// The wait that the endpoint asked for, and up to half of it or `limits.min` on top, because it asked
    /// every other device for the same.
    pub fn retry_after(&mut self, asked: Duration, limits: Limits, random: f64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        asked + limits.min.max(asked / 2).mul_f64(share(random))
    }

    /// The wait where only a person can help: between `limits.min` and `limits.max`.
    pub fn hold(&mut self, limits: Limits, random: f64) -> Duration {
        self.failures = self.failures.saturating_add(1);
        limits.min + limits.max.saturating_sub(limits.min).mul_f64(share(random))
    }

    /// Failed attempts in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Delivery goes on: the next failure starts from `limits.min` again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

fn share(random: f64) -> f64 {
    if random.is_nan() { 0.0 } else { random.clamp(0.0, 1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { min: Duration::from_secs(1), max: Duration::from_secs(60) };

    #[test]
    fn the_ceiling_doubles_up_to_the_longest_wait() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..8).map(|_| backoff.retry(LIMITS, 1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    }

    #[test]
    fn the_jitter_is_full() {
        let mut backoff = Backoff { failures: 3 };
        assert_eq!(backoff.retry(LIMITS, 0.0), Duration::ZERO);
        assert_eq!(backoff.retry(LIMITS, 0.5), Duration::from_secs(8));
    }

    #[test]
    fn a_success_starts_it_anew() {
        let mut backoff = Backoff { failures: 30 };
        backoff.reset();
        assert_eq!(backoff.retry(LIMITS, 1.0), LIMITS.min);
    }

    #[test]
    fn years_of_failures_do_not_overflow() {
        let mut backoff = Backoff { failures: u32::MAX };
        assert_eq!(backoff.retry(LIMITS, 1.0), LIMITS.max);
        let widest = Limits { min: Duration::MAX, max: Duration::from_secs(60) };
        assert_eq!(backoff.retry(widest, 1.0), widest.max);
    }

    #[test]
    fn the_endpoint_is_never_asked_earlier_than_it_said() {
        let mut backoff = Backoff::default();
        let asked = Duration::from_secs(7);
        assert_eq!(backoff.retry_after(asked, LIMITS, 0.0), asked);
        assert_eq!(backoff.retry_after(asked, LIMITS, 1.0), Duration::from_millis(10_500));
        let short = Duration::from_millis(200);
        assert_eq!(backoff.retry_after(short, LIMITS, 1.0), Duration::from_millis(1200));
    }

    #[test]
    fn a_hold_spreads_over_the_whole_of_the_longest_wait() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.hold(LIMITS, 0.0), LIMITS.min);
        assert_eq!(backoff.hold(LIMITS, 1.0), LIMITS.max);
        assert_eq!(backoff.hold(LIMITS, f64::NAN), LIMITS.min);
    }
}
