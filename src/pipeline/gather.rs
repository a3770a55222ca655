//! When to commit: pure decisions over what waits and for how long.
//!
//! Flash wears with the number of commits, so readings are gathered for up to the configured interval.
//! A source whose window of unacknowledged messages is full sends nothing more until it is
//! acknowledged; waiting longer for it would only cost throughput. Such a stall is told from a slow
//! source by what follows the commit: a stalled source goes on at once.

use std::time::Duration;

use tokio::time::Instant;

/// A source that has been silent for this long may be stalled.
const QUIET: Duration = Duration::from_millis(20);
/// A source that goes on this soon after a commit was waiting for it.
const RESUMED: Duration = Duration::from_millis(50);
/// The smallest number of awaited readings that is taken for a full window: brokers default to 20.
const STALL_READINGS_MIN: u32 = 16;
/// The largest: no usual window is wider.
const STALL_READINGS_MAX: u32 = 4096;
/// What waits is committed at this size in bytes of JSON, however new it is.
const STAGED_BYTES_MAX: usize = 512 * 1024;

/// What waits for the next commit.
#[derive(Debug)]
pub struct Gather {
    commit_interval: Duration,
    first_arrival: Option<Instant>,
    last_arrival: Option<Instant>,
    awaited: u32,
    urgent: bool,
    size_bytes: usize,
    /// So many awaited readings followed by silence are taken for a stall.
    stall_readings: u32,
    last_commit: Option<(Cause, u32, Instant)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Quiet,
    Timer,
}

impl Gather {
    pub fn new(commit_interval: Duration) -> Self {
        Self {
            commit_interval,
            first_arrival: None,
            last_arrival: None,
            awaited: 0,
            urgent: false,
            size_bytes: 0,
            stall_readings: STALL_READINGS_MIN,
            last_commit: None,
        }
    }

    /// Notes an arrival: how many of its readings are awaited by their source, whether the source
    /// says it cannot go on, and how many bytes wait now in all.
    pub fn arrived(&mut self, awaited: u32, urgent: bool, size_bytes: usize, now: Instant) {
        if let Some((cause, readings, at)) = self.last_commit.take() {
            self.learn(cause, readings, now.duration_since(at) <= RESUMED);
        }
        self.first_arrival.get_or_insert(now);
        self.last_arrival = Some(now);
        self.awaited += awaited;
        self.urgent |= urgent;
        self.size_bytes = size_bytes;
    }

    /// Whether so much waits that the commit comes before anything more is taken in.
    pub fn is_full(&self) -> bool {
        self.size_bytes >= STAGED_BYTES_MAX
    }

    /// When to commit; `None` while nothing waits. It may move as more arrives.
    pub fn due(&self) -> Option<Instant> {
        let (first, last) = (self.first_arrival?, self.last_arrival?);
        if self.urgent || self.is_full() {
            return Some(last);
        }
        let by_timer = first + self.commit_interval;
        Some(if self.awaited >= self.stall_readings { by_timer.min(last + QUIET) } else { by_timer })
    }

    /// Notes that everything was handed to the store.
    pub fn committed(&mut self, now: Instant) {
        let by_timer = self.first_arrival.is_some_and(|first| first + self.commit_interval <= now);
        let cause = if by_timer { Cause::Timer } else { Cause::Quiet };
        self.last_commit = (self.awaited > 0 && !self.urgent).then_some((cause, self.awaited, now));
        (self.first_arrival, self.last_arrival) = (None, None);
        (self.awaited, self.urgent, self.size_bytes) = (0, false, 0);
    }

    fn learn(&mut self, cause: Cause, readings: u32, resumed: bool) {
        match (cause, resumed) {
            (Cause::Quiet, true) => {}
            // It was only a pause: the next one must be longer to count.
            (Cause::Quiet, false) => self.stall_readings = (readings * 2).min(STALL_READINGS_MAX),
            (Cause::Timer, true) => {
                self.stall_readings = self.stall_readings.min(readings).max(STALL_READINGS_MIN);
            }
            (Cause::Timer, false) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(1);

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn readings_that_nobody_awaits_are_gathered_for_the_whole_interval() {
        let (mut gather, start) = (Gather::new(INTERVAL), Instant::now());
        assert_eq!(gather.due(), None);
        for millis in 0..50 {
            gather.arrived(0, false, 1000, after(start, millis));
        }
        assert_eq!(gather.due(), Some(after(start, 1000)));
    }

    #[test]
    fn a_full_window_followed_by_silence_is_committed_at_once() {
        let (mut gather, start) = (Gather::new(INTERVAL), Instant::now());
        gather.arrived(20, false, 1000, start);
        assert_eq!(gather.due(), Some(start + QUIET));
    }

    #[test]
    fn an_urgent_batch_does_not_wait() {
        let (mut gather, start) = (Gather::new(INTERVAL), Instant::now());
        gather.arrived(1, true, 100, start);
        assert_eq!(gather.due(), Some(start));
    }

    #[test]
    fn a_bursty_source_is_soon_gathered_for_the_whole_interval() {
        let (mut gather, mut now) = (Gather::new(INTERVAL), Instant::now());
        // Bursts of 20 each 200 ms: the pause behind a burst is no stall.
        let mut commits = 0;
        for _ in 0..50 {
            gather.arrived(20, false, 1000, now);
            now += Duration::from_millis(200);
            if gather.due().is_some_and(|due| due <= now) {
                gather.committed(now - Duration::from_millis(150));
                commits += 1;
            }
        }
        assert!(commits <= 14, "{commits} commits in 10 seconds");
    }

    #[test]
    fn a_stalled_source_is_found_again_after_a_burst_was_mistaken() {
        let (mut gather, mut now) = (Gather::new(INTERVAL), Instant::now());
        gather.stall_readings = STALL_READINGS_MAX;
        gather.arrived(20, false, 1000, now);
        now += INTERVAL;
        gather.committed(now);
        gather.arrived(20, false, 1000, after(now, 1));
        assert_eq!(gather.due(), Some(after(now, 1) + QUIET));
    }

    #[test]
    fn size_alone_is_a_reason_to_commit() {
        let (mut gather, start) = (Gather::new(INTERVAL), Instant::now());
        gather.arrived(0, false, STAGED_BYTES_MAX, start);
        assert!(gather.is_full());
        assert_eq!(gather.due(), Some(start));
    }
}
