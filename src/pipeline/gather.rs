//! When to commit: pure decisions over what waits and for how long.
//!
//! Flash wears with the number of commits, so readings are gathered for up to the configured interval.
//! While more was written than a budget allows, those that no source awaits are gathered for longer, up
//! to a second one. Urgent events are committed at once, unless there was a commit within the interval:
//! a rule that fires all the time must not bring about a commit for each event.
//!
//! A source that has as many unacknowledged messages as its broker allows sends nothing more until it
//! is acknowledged, and waiting longer for it would only cost throughput. Such a stall looks like the
//! pause behind a burst. What tells them apart: a source that once went on with so many messages
//! unacknowledged is not stalled by so many. Now and then the pause is waited out to learn that.

use std::time::Duration;

use tokio::time::Instant;

/// A source that has been silent for this long may be stalled.
const QUIET: Duration = Duration::from_millis(20);
/// A silence that was waited out in vain is not waited out again before so many further stalls; the
/// number grows fourfold each time.
const STALLS_BETWEEN_PROBES_MAX: u32 = 1024;
/// Fewer awaited readings are no full window: brokers default to 20.
const STALL_READINGS_MIN: u32 = 16;
/// What waits for the next commit.
#[derive(Debug)]
pub struct Gather {
    commit_interval: Duration,
    commit_interval_max: Duration,
    /// What waits is committed at this size in bytes of JSON, however new it is.
    staged_bytes_max: usize,
    committed_at: Option<Instant>,
    first_arrival: Option<Instant>,
    last_arrival: Option<Instant>,
    /// Readings whose sources wait for their commit.
    awaited: u32,
    urgent: bool,
    holds_urgent: bool,
    size_bytes: usize,
    /// The most readings that were awaited when further ones arrived all the same.
    window_min: u32,
    /// Stalls until the next probe, and from one to the next.
    stalls_to_probe: u32,
    stalls_between_probes: u32,
}

impl Gather {
    /// `commit_interval_max` is not below `commit_interval`.
    pub fn new(commit_interval: Duration, commit_interval_max: Duration, staged_bytes_max: usize) -> Self {
        Self {
            commit_interval,
            commit_interval_max,
            staged_bytes_max,
            committed_at: None,
            first_arrival: None,
            last_arrival: None,
            awaited: 0,
            urgent: false,
            holds_urgent: false,
            size_bytes: 0,
            window_min: 0,
            stalls_to_probe: 0,
            stalls_between_probes: 0,
        }
    }

    /// Notes an arrival: how many of its readings are awaited by their source, whether the source
    /// says it cannot go on, and how many bytes wait now in all.
    pub fn arrived(&mut self, awaited: u32, urgent: bool, size_bytes: usize, now: Instant) {
        if awaited > 0 && self.awaited > self.window_min {
            self.window_min = self.awaited;
            if self.silence(now) >= QUIET {
                // It was a pause: look closely from here on.
                (self.stalls_to_probe, self.stalls_between_probes) = (0, 0);
            }
        }
        self.first_arrival.get_or_insert(now);
        self.last_arrival = Some(now);
        self.awaited += awaited;
        self.urgent |= urgent;
        self.size_bytes = size_bytes;
    }

    /// Notes that events are among what waits that are sent at once.
    pub fn holds_urgent(&mut self) {
        self.holds_urgent = true;
    }

    /// When to commit; `None` while nothing waits. It may move as more arrives, and with the budget.
    pub fn due(&self, is_over_budget: bool) -> Option<Instant> {
        let (first, last) = (self.first_arrival?, self.last_arrival?);
        if self.urgent || self.is_full() {
            return Some(last);
        }
        if self.holds_urgent {
            let rested = self.committed_at.map_or(first, |at| at + self.commit_interval);
            return Some(rested.max(first).min(first + self.commit_interval));
        }
        if is_over_budget && self.awaited == 0 {
            return Some(first + self.commit_interval_max);
        }
        let by_timer = first + self.commit_interval;
        let patience = if self.stalls_to_probe == 0 { self.commit_interval / 2 } else { QUIET };
        Some(if self.may_be_stalled() { by_timer.min(last + patience) } else { by_timer })
    }

    /// Whether nothing more is to be taken in before the commit.
    pub fn is_full(&self) -> bool {
        self.size_bytes >= self.staged_bytes_max
    }

    /// Commits are to be made at this size from now on.
    pub fn set_staged_bytes_max(&mut self, bytes: usize) {
        self.staged_bytes_max = bytes;
    }

    /// Notes that everything was handed to the store.
    pub fn committed(&mut self, now: Instant) {
        if !self.urgent && self.awaited >= STALL_READINGS_MIN {
            self.learn(now);
        }
        (self.first_arrival, self.last_arrival) = (None, None);
        (self.awaited, self.urgent, self.holds_urgent, self.size_bytes) = (0, false, false, 0);
        self.committed_at = Some(now);
    }

    fn may_be_stalled(&self) -> bool {
        self.awaited >= STALL_READINGS_MIN && self.awaited > self.window_min
    }

    fn learn(&mut self, now: Instant) {
        if !self.may_be_stalled() {
            // A long silence at a number that used to be passed: the window became smaller.
            if self.silence(now) >= self.commit_interval / 2 {
                self.window_min = self.awaited - 1;
            }
        } else if self.stalls_to_probe == 0 {
            self.stalls_between_probes = (self.stalls_between_probes * 4).clamp(1, STALLS_BETWEEN_PROBES_MAX);
            self.stalls_to_probe = self.stalls_between_probes;
        } else {
            self.stalls_to_probe -= 1;
        }
    }

    fn silence(&self, now: Instant) -> Duration {
        self.last_arrival.map_or(Duration::ZERO, |last| now.duration_since(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAGED_BYTES_MAX: usize = 512 * 1024;
    const INTERVAL: Duration = Duration::from_secs(1);
    const INTERVAL_MAX: Duration = Duration::from_secs(30);

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    /// Runs `seconds` of a source that sends `count` readings each `period_ms`, none of them while
    /// `window` are unacknowledged. Returns commits and readings stored.
    fn run(gather: &mut Gather, count: u32, period_ms: u64, window: u32, seconds: u64) -> (u32, u32) {
        let start = Instant::now();
        let (mut waiting, mut commits, mut stored) = (0, 0, 0);
        for millis in 0..seconds * 1000 {
            let now = after(start, millis);
            if millis % period_ms == 0 {
                waiting += count;
            }
            let taken = waiting.min(window - gather.awaited);
            if taken > 0 {
                waiting -= taken;
                gather.arrived(taken, false, 1000, now);
            }
            if gather.due(false).is_some_and(|due| due <= now) {
                stored += gather.awaited;
                commits += 1;
                gather.committed(now);
            }
        }
        (commits, stored)
    }

    #[test]
    fn readings_that_nobody_awaits_are_gathered_for_the_whole_interval() {
        let (mut gather, start) = (Gather::new(INTERVAL, INTERVAL_MAX, STAGED_BYTES_MAX), Instant::now());
        assert_eq!(gather.due(false), None);
        for millis in 0..50 {
            gather.arrived(0, false, 1000, after(start, millis));
        }
        assert_eq!(gather.due(false), Some(after(start, 1000)));
    }

    #[test]
    fn beyond_the_budget_only_what_nobody_awaits_waits_longer() {
        let (mut gather, start) = (Gather::new(INTERVAL, INTERVAL_MAX, STAGED_BYTES_MAX), Instant::now());
        gather.arrived(0, false, 1000, start);
        assert_eq!(gather.due(true), Some(start + INTERVAL_MAX));
        assert_eq!(gather.due(false), Some(start + INTERVAL));
        gather.arrived(1, false, 1000, after(start, 100));
        assert_eq!(gather.due(true), Some(start + INTERVAL));
        gather.arrived(0, false, STAGED_BYTES_MAX, after(start, 200));
        assert_eq!(gather.due(true), Some(after(start, 200)));
    }

    #[test]
    fn urgent_events_are_committed_at_once_but_not_each_by_itself() {
        let (mut gather, start) = (Gather::new(INTERVAL, INTERVAL_MAX, STAGED_BYTES_MAX), Instant::now());
        gather.arrived(0, false, 1000, start);
        gather.holds_urgent();
        assert_eq!(gather.due(true), Some(start));
        gather.committed(start);
        gather.arrived(0, false, 1000, after(start, 300));
        gather.holds_urgent();
        assert_eq!(gather.due(true), Some(start + INTERVAL));
        gather.committed(start + INTERVAL);
        gather.arrived(0, false, 1000, after(start, 9000));
        gather.holds_urgent();
        assert_eq!(gather.due(true), Some(after(start, 9000)));
    }

    #[test]
    fn an_urgent_batch_does_not_wait() {
        let (mut gather, start) = (Gather::new(INTERVAL, INTERVAL_MAX, STAGED_BYTES_MAX), Instant::now());
        gather.arrived(1, true, 100, start);
        assert_eq!(gather.due(false), Some(start));
    }

    #[test]
    fn size_alone_is_a_reason_to_commit() {
        let (mut gather, start) = (Gather::new(INTERVAL, INTERVAL_MAX, STAGED_BYTES_MAX), Instant::now());
        gather.arrived(0, false, STAGED_BYTES_MAX, start);
        assert_eq!(gather.due(false), Some(start));
        assert!(gather.is_full());
        gather.committed(start);
        assert!(!gather.is_full());
    }

    #[test]
    fn a_source_that_its_broker_stalls_is_committed_soon_after_it_falls_silent() {
        let mut gather = Gather::new(INTERVAL, INTERVAL_MAX, STAGED_BYTES_MAX);
        // More than the window of 20 is always waiting in the broker.
        let (commits, stored) = run(&mut gather, 1000, 100, 20, 10);
        assert!(commits > 300, "{commits} commits");
        assert_eq!(stored, commits * 20);
    }

    #[test]
    fn bursts_are_soon_gathered_for_the_whole_interval() {
        for (count, period_ms) in [(20, 200), (33, 66), (5, 10), (100, 250), (30, 50)] {
            let mut gather = Gather::new(INTERVAL, INTERVAL_MAX, STAGED_BYTES_MAX);
            run(&mut gather, count, period_ms, 65535, 10);
            let (commits, _) = run(&mut gather, count, period_ms, 65535, 10);
            assert!(commits <= 14, "{commits} commits in 10 seconds of {count} each {period_ms} ms");
        }
    }

    #[test]
    fn a_window_that_became_smaller_is_found_out() {
        let mut gather = Gather::new(INTERVAL, INTERVAL_MAX, STAGED_BYTES_MAX);
        run(&mut gather, 500, 100, 5000, 5);
        let (commits, _) = run(&mut gather, 1000, 100, 20, 10);
        assert!(commits > 300, "{commits} commits");
    }
}
