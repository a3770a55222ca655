//! When to ask the store for a batch, and whether one that is not full will do: pure.

use std::time::Duration;

use tokio::time::Instant;

use super::phase::Phase;
use crate::store::Pending;

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Ask the store.
    Now { partial: bool },
    /// Wait for a change, at the longest until then.
    Until(Instant),
    /// Wait for a change.
    WhenChanged,
}

/// Bounds how long items wait for their batch to fill.
///
/// When the wait is over, as many items as waited at that moment go out in batches that need not be
/// full. Not until nothing is left: readings that keep trickling in would then each make a batch of
/// their own, for ever.
#[derive(Debug)]
pub struct Flush {
    phase: Phase,
    /// Since when something waits.
    waiting_since: Option<Instant>,
    /// Items still to go in batches that need not be full.
    owed: u64,
    /// A frozen batch may be there: ask, whatever the counts say.
    ask_anyway: bool,
}

impl Flush {
    /// At start a batch may be frozen from before. Whatever is not urgent waits for the device's turn in
    /// `phase`.
    pub fn new(phase: Phase) -> Self {
        Self { phase, waiting_since: None, owed: 0, ask_anyway: true }
    }

    /// What to do, given what waits in the store.
    pub fn ask(&mut self, now: Instant, pending: Pending, batch_items: u32, interval: Duration) -> Ask {
        let first = self.phase.first(interval);
        if now < first && !pending.is_urgent() {
            return Ask::Until(first);
        }
        if pending.total() == 0 {
            self.waiting_since = None;
            self.owed = 0;
            return if self.ask_anyway { Ask::Now { partial: false } } else { Ask::WhenChanged };
        }
        let due = self.due(now, interval);
        if self.owed == 0 && now >= due {
            self.owed = pending.total();
        }
        if pending.is_urgent() || self.owed > 0 {
            Ask::Now { partial: true }
        } else if self.ask_anyway || pending.total() >= u64::from(batch_items) {
            Ask::Now { partial: false }
        } else {
            Ask::Until(due)
        }
    }

    /// The store had nothing for the last question; returns when to ask again without a change.
    pub fn nothing_there(
        &mut self,
        now: Instant,
        pending: Pending,
        partial: bool,
        interval: Duration,
    ) -> Option<Instant> {
        self.ask_anyway = false;
        if partial {
            // Whatever the count says, nothing waits; if the count is right after all, the interval
            // brings the question again.
            self.owed = 0;
            self.waiting_since = None;
        }
        (pending.total() > 0).then(|| self.due(now, interval))
    }

    /// An attempt is made: whatever its end, there may be a next batch, or the same again.
    pub fn attempted(&mut self) {
        self.ask_anyway = true;
    }

    /// So many items left the queue.
    pub fn settled(&mut self, items: u64) {
        if self.owed > 0 {
            self.owed = self.owed.saturating_sub(items);
            if self.owed == 0 {
                // What is left came later than the moment the wait was over.
                self.waiting_since = None;
            }
        }
    }

    fn due(&mut self, now: Instant, interval: Duration) -> Instant {
        let since = *self.waiting_since.get_or_insert(now);
        self.phase.next_after(since, interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(30);

    fn waiting(items: u64) -> Pending {
        Pending { items: [0, 0, items, 0] }
    }

    /// One that has asked and found nothing.
    fn settled_in(now: Instant) -> Flush {
        let mut flush = Flush::new(Phase::none(now));
        assert_eq!(flush.ask(now, waiting(0), 100, INTERVAL), Ask::Now { partial: false });
        assert_eq!(flush.nothing_there(now, waiting(0), false, INTERVAL), None);
        assert_eq!(flush.ask(now, waiting(0), 100, INTERVAL), Ask::WhenChanged);
        flush
    }

    #[test]
    fn a_few_items_wait_for_the_interval() {
        let start = Instant::now();
        let mut flush = settled_in(start);
        assert_eq!(flush.ask(start, waiting(3), 100, INTERVAL), Ask::Until(start + INTERVAL));
        let later = start + INTERVAL / 2;
        assert_eq!(flush.ask(later, waiting(5), 100, INTERVAL), Ask::Until(start + INTERVAL));
        assert_eq!(flush.ask(start + INTERVAL, waiting(6), 100, INTERVAL), Ask::Now { partial: true });
    }

    #[test]
    fn the_first_question_waits_for_the_turn_of_the_device_unless_it_is_urgent() {
        let start = Instant::now();
        let phase = Phase::new("plant-7", start);
        let mut flush = Flush::new(phase);
        let first = phase.first(INTERVAL);
        assert!(first > start);
        assert_eq!(flush.ask(start, waiting(1000), 100, INTERVAL), Ask::Until(first));
        let urgent = Pending { items: [1, 0, 0, 0] };
        assert_eq!(flush.ask(start, urgent, 100, INTERVAL), Ask::Now { partial: true });
        assert_eq!(flush.ask(first, waiting(1000), 100, INTERVAL), Ask::Now { partial: true });
    }

    #[test]
    fn a_full_batch_and_an_urgent_item_do_not_wait() {
        let start = Instant::now();
        let mut flush = settled_in(start);
        assert_eq!(flush.ask(start, waiting(100), 100, INTERVAL), Ask::Now { partial: false });
        let urgent = Pending { items: [1, 0, 0, 0] };
        assert_eq!(flush.ask(start, urgent, 100, INTERVAL), Ask::Now { partial: true });
    }

    #[test]
    fn items_that_trickle_in_during_a_flush_wait_their_own_interval() {
        let start = Instant::now();
        let mut flush = settled_in(start);
        flush.ask(start, waiting(3), 100, INTERVAL);
        let due = start + INTERVAL;
        assert_eq!(flush.ask(due, waiting(3), 100, INTERVAL), Ask::Now { partial: true });
        flush.attempted();
        flush.settled(3);
        // One more came while the three were on their way: it is asked for, but only as a full batch.
        assert_eq!(flush.ask(due, waiting(1), 100, INTERVAL), Ask::Now { partial: false });
        let again = flush.nothing_there(due, waiting(1), false, INTERVAL);
        assert_eq!(again, Some(due + INTERVAL));
        assert_eq!(flush.ask(due, waiting(2), 100, INTERVAL), Ask::Until(due + INTERVAL));
    }

    #[test]
    fn a_count_that_runs_ahead_of_the_store_is_no_busy_loop() {
        let start = Instant::now();
        let mut flush = settled_in(start);
        let urgent = Pending { items: [1, 0, 0, 0] };
        flush.ask(start, urgent, 100, INTERVAL);
        assert_eq!(flush.nothing_there(start, urgent, true, INTERVAL), Some(start + INTERVAL));
    }

    #[test]
    fn full_batches_do_not_put_off_the_rest_for_ever() {
        let start = Instant::now();
        let mut flush = settled_in(start);
        flush.ask(start, waiting(120), 100, INTERVAL);
        flush.attempted();
        flush.settled(100);
        assert_eq!(flush.ask(start + INTERVAL, waiting(120), 100, INTERVAL), Ask::Now { partial: true });
    }
}
