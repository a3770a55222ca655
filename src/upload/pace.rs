//! How fast backlog goes out, so that a fleet that comes back after an outage does not knock over its
//! endpoint: additive increase, multiplicative decrease (D.-M. Chiu and R. Jain, "Analysis of the Increase and
//! Decrease Algorithms for Congestion Avoidance", 1989), with a slow start and a step that grows with quiet time
//! as in TCP (RFC 5681, RFC 9438). Pure; live data is not paced.

use std::time::Duration;

use tokio::time::Instant;

/// The rate, in batches a second, and what it is judged by.
#[derive(Clone, Debug)]
pub struct Pace {
    rate: f64,
    /// Up to here the rate doubles with every answer, beyond it grows by steps.
    threshold: f64,
    /// Refusals in a row.
    refusals: u32,
    /// When the rate was last taken back.
    eased_at: Instant,
    answered_at: Instant,
    /// Answers since the rate was last taken back for latency.
    answers: u32,
    /// Seconds, smoothed.
    latency: Option<f64>,
    /// What the latency is without a queue at the other side, in seconds; follows slowly upwards.
    baseline: f64,
    /// Accepted batches a second, over the last moments.
    accepted_rate: f64,
    /// When the next batch is due.
    next_at: Instant,
}

impl Pace {
    pub fn new(now: Instant) -> Self {
        Self {
            rate: RATE_FIRST,
            threshold: RATE_MAX,
            refusals: 0,
            eased_at: now,
            answered_at: now,
            answers: 0,
            latency: None,
            baseline: f64::INFINITY,
            accepted_rate: 0.0,
            next_at: now,
        }
    }

    /// Batches a second, now.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// When the next batch of backlog may go: `now` or later.
    pub fn next_at(&self, now: Instant) -> Instant {
        // Shorter than a timer can wait is no wait.
        if self.next_at <= now + TIMER_STEP { now } else { self.next_at }
    }

    /// One goes now.
    pub fn sent(&mut self, now: Instant) {
        // What was not used is not saved up, but for the length of a timer's step.
        let from = self.next_at.max(now.checked_sub(TIMER_STEP).unwrap_or(now));
        self.next_at = from + Duration::from_secs_f64(1.0 / self.rate);
    }

    /// The endpoint took one after `latency`.
    pub fn accepted(&mut self, now: Instant, latency: Duration) {
        let seconds = latency.as_secs_f64();
        let smoothed = self.latency.map_or(seconds, |old| old + (seconds - old) * LATENCY_WEIGHT);
        self.latency = Some(smoothed);
        self.baseline = match self.baseline {
            base if seconds < base => seconds,
            base => base + (seconds - base) * BASELINE_DRIFT,
        };
        let passed = (now - self.answered_at).as_secs_f64();
        self.accepted_rate = self.accepted_rate * (-passed).exp() + 1.0;
        self.answered_at = now;
        self.refusals = 0;
        self.answers = self.answers.saturating_add(1);
        if smoothed > self.baseline * LATENCY_FACTOR_MAX + LATENCY_SLACK {
            if self.answers >= ANSWERS_MIN {
                self.answers = 0;
                self.eased_at = now;
                self.set(self.rate.min(1.0 / smoothed) * LATENCY_DECREASE);
                self.threshold = self.rate;
            }
            return;
        }
        if self.rate < self.threshold {
            self.set((self.rate * 2.0).min(self.threshold.max(RATE_FIRST)));
        } else {
            let quiet = (now - self.eased_at).as_secs_f64() / QUIET_SECONDS;
            let step = (self.threshold / STEPS).max(STEP_MIN) * (1.0 + quiet * quiet);
            self.set(self.rate + step * passed.min(PASSED_MAX));
        }
        // More than can be used would make the next decrease an empty one.
        self.set(self.rate.min((USABLE / smoothed.max(LATENCY_MIN)).max(RATE_FIRST)));
    }

    /// The endpoint refused one: 429, a server error, or no answer in time.
    pub fn refused(&mut self, now: Instant) {
        let passed = (now - self.answered_at).as_secs_f64();
        self.accepted_rate *= (-passed).exp();
        self.answered_at = now;
        self.eased_at = now;
        // What follows the first refusal says nothing about the rate before it. And where nothing was
        // taken lately, nothing is known of what is too much.
        if self.refusals == 0 && self.accepted_rate >= 1.0 {
            self.set(self.rate.min(self.accepted_rate));
            self.threshold = (self.rate * REFUSAL_DECREASE).max(RATE_MIN);
        }
        self.refusals = self.refusals.saturating_add(1);
        if self.refusals <= DECREASES_MAX {
            self.set(self.rate * REFUSAL_DECREASE);
        }
        self.next_at = self.next_at.max(now + Duration::from_secs_f64(1.0 / self.rate));
    }

    fn set(&mut self, rate: f64) {
        self.rate = rate.clamp(RATE_MIN, RATE_MAX);
    }
}

/// Where it starts: doubling, it is beyond what any endpoint takes within a second.
const RATE_FIRST: f64 = 20.0;
/// One a minute.
const RATE_MIN: f64 = 1.0 / 60.0;
/// No limit at all.
const RATE_MAX: f64 = 100_000.0;
const REFUSAL_DECREASE: f64 = 0.5;
/// In a row. An endpoint that takes nothing at all is a matter of the backoff, and says nothing about what it
/// will take once it is back.
const DECREASES_MAX: u32 = 3;
const LATENCY_DECREASE: f64 = 0.7;
/// Seconds to grow from the threshold to its double, as long as nothing happens.
const STEPS: f64 = 10.0;
/// Batches a second, per second.
const STEP_MIN: f64 = 0.2;
/// After so long without a refusal the step is twice as large.
const QUIET_SECONDS: f64 = 5.0;
/// An answer adds no more than this many seconds' worth of steps.
const PASSED_MAX: f64 = 1.0;
/// Of the newest answer in the smoothed latency.
const LATENCY_WEIGHT: f64 = 0.3;
/// Of each answer in the baseline: a line that became slower for good is normal after some hundred answers.
const BASELINE_DRIFT: f64 = 1.0 / 64.0;
/// Above so many times the baseline and this much on top, in seconds, the endpoint is taken for loaded.
const LATENCY_FACTOR_MAX: f64 = 2.0;
const LATENCY_SLACK: f64 = 0.05;
/// Answers between two decreases for latency: the first must show before the second.
const ANSWERS_MIN: u32 = 4;
/// Requests go one after another, so `1 / latency` is all that can be used; this leaves room to notice that
/// it became faster.
const USABLE: f64 = 2.0;
const LATENCY_MIN: f64 = 1e-5;
/// tokio's timers count milliseconds.
const TIMER_STEP: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An endpoint that takes so many a second in windows of a second, and answers after `latency`.
    struct Endpoint {
        taken_per_second: f64,
        latency: Duration,
    }

    #[derive(Debug, Default)]
    struct Seen {
        accepted: u32,
        refused: u32,
    }

    /// Sends for `length` as the uploader does: one after another, each when its time has come.
    fn drain(pace: &mut Pace, start: Instant, length: Duration, endpoint: &Endpoint) -> Seen {
        let (mut now, mut seen) = (start, Seen::default());
        let (mut window, mut in_window) = (start, 0.0);
        while now < start + length {
            now = now.max(pace.next_at(now));
            pace.sent(now);
            now += endpoint.latency;
            if now - window >= Duration::from_secs(1) {
                (window, in_window) = (now, 0.0);
            }
            in_window += 1.0;
            if in_window <= endpoint.taken_per_second {
                seen.accepted += 1;
                pace.accepted(now, endpoint.latency);
            } else {
                seen.refused += 1;
                pace.refused(now);
            }
        }
        seen
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_fast_endpoint_is_used_to_the_full_within_a_second() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        let fast = Endpoint { taken_per_second: f64::INFINITY, latency: Duration::from_micros(600) };
        let first = drain(&mut pace, now, SECOND, &fast);
        let then = drain(&mut pace, now + SECOND, SECOND, &fast);
        let most = 1.0 / 0.0006;
        assert!(f64::from(first.accepted) > 0.8 * most, "{first:?}");
        assert!(f64::from(then.accepted) > 0.99 * most, "{then:?}");
    }

    #[test]
    fn a_line_that_is_slow_by_nature_is_no_reason_to_hold_back() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        let slow = Endpoint { taken_per_second: f64::INFINITY, latency: Duration::from_millis(800) };
        let seen = drain(&mut pace, now, 100 * SECOND, &slow);
        assert!(seen.accepted >= 124, "{seen:?}");
    }

    #[test]
    fn an_endpoint_that_becomes_slower_gets_less_than_it_could_take() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        let latency = Duration::from_millis(20);
        drain(&mut pace, now, 10 * SECOND, &Endpoint { taken_per_second: f64::INFINITY, latency });
        let loaded = Endpoint { taken_per_second: f64::INFINITY, latency: Duration::from_millis(500) };
        let seen = drain(&mut pace, now + 10 * SECOND, 20 * SECOND, &loaded);
        assert!(seen.accepted < 30, "{seen:?}, and without a pace 40");
        assert!(seen.accepted > 5, "{seen:?}");
    }

    #[test]
    fn a_single_refusal_costs_seconds_and_not_minutes() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        let fast = Endpoint { taken_per_second: f64::INFINITY, latency: Duration::from_millis(1) };
        drain(&mut pace, now, 2 * SECOND, &fast);
        let full = pace.rate();
        pace.refused(now + 2 * SECOND);
        assert!(pace.rate() <= full / 2.0);
        drain(&mut pace, now + 2 * SECOND, 10 * SECOND, &fast);
        assert!(pace.rate() >= 1000.0, "{}", pace.rate());
    }

    #[test]
    fn an_outage_at_the_start_does_not_slow_the_drain_after_it() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        for second in 0..300 {
            pace.refused(now + second * SECOND);
        }
        let fast = Endpoint { taken_per_second: f64::INFINITY, latency: Duration::from_millis(1) };
        let start = pace.next_at(now + 300 * SECOND);
        drain(&mut pace, start, SECOND, &fast);
        assert!(pace.rate() >= 1000.0, "{}", pace.rate());
    }

    proptest! {
        #[test]
        fn an_endpoint_with_a_limit_sees_about_what_it_takes(
            taken_per_second in 2_u32..300,
            latency_millis in 1_u64..40,
        ) {
            let now = Instant::now();
            let mut pace = Pace::new(now);
            let limit = f64::from(taken_per_second);
            let latency = Duration::from_millis(latency_millis);
            let endpoint = Endpoint { taken_per_second: limit, latency };
            drain(&mut pace, now, 20 * SECOND, &endpoint);
            let seen = drain(&mut pace, now + 20 * SECOND, 100 * SECOND, &endpoint);
            let possible = (100.0 * limit).min(100_000.0 / latency_millis as f64);
            prop_assert!(f64::from(seen.accepted) >= 0.5 * possible, "{seen:?} of {possible}");
            prop_assert!(f64::from(seen.refused) <= 0.15 * f64::from(seen.accepted) + 5.0, "{seen:?}");
        }

        #[test]
        fn whatever_happens_the_rate_stays_in_its_bounds_and_a_refusal_never_raises_it(
            steps in proptest::collection::vec((any::<bool>(), 0_u64..100_000, 0_u64..100_000), 0..300),
        ) {
            let mut now = Instant::now();
            let mut pace = Pace::new(now);
            for (is_accepted, wait_millis, latency_millis) in steps {
                now = now.max(pace.next_at(now)) + Duration::from_millis(wait_millis);
                pace.sent(now);
                let before = pace.rate();
                if is_accepted {
                    pace.accepted(now, Duration::from_millis(latency_millis));
                } else {
                    pace.refused(now);
                    prop_assert!(pace.rate() <= before);
                }
                prop_assert!((RATE_MIN..=RATE_MAX).contains(&pace.rate()));
                prop_assert!(pace.next_at(now) <= now + Duration::from_secs(121));
            }
        }
    }
}
