//! Batches that fail while others are taken: they step back, so that they do not stand before their lane for
//! ever. Nothing is given up: each is sent again, the same bytes under the same id. Pure.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::backoff::{Backoff, Limits};
use crate::store::{AVOID_MAX, BatchKey, FrozenBatch};

/// Who stepped back.
#[derive(Debug, Default)]
pub struct StepBack {
    /// In order of their last failure; the oldest gives way when there are too many.
    batches: VecDeque<Stepped>,
    /// Batches that were settled: live ones, and backlog.
    successes: [u64; 2],
}

#[derive(Debug)]
struct Stepped {
    key: BatchKey,
    backlog: bool,
    failures: u32,
    /// Failures between which others were taken.
    alone: u32,
    backoff: Backoff,
    /// Others go first until then; without one until something is taken.
    due: Option<Instant>,
    /// What had been taken when it failed.
    successes: [u64; 2],
}

impl StepBack {
    /// A batch failed, and it may be its own fault. Returns how often it did while others were taken: 0 says
    /// that it may as well be the endpoint's.
    pub fn failed(&mut self, batch: &FrozenBatch, now: Instant, limits: Limits, random: f64) -> u32 {
        let FrozenBatch { key, backlog, .. } = *batch;
        let known = self.batches.iter().position(|batch| batch.key == key);
        let mut batch = known.and_then(|place| self.batches.remove(place)).unwrap_or(Stepped {
            key,
            backlog,
            failures: 0,
            alone: 0,
            backoff: Backoff::default(),
            due: None,
            successes: self.successes,
        });
        let others_were_taken = self.successes != batch.successes;
        batch.failures = batch.failures.saturating_add(1);
        batch.successes = self.successes;
        batch.due = None;
        if others_were_taken {
            batch.alone = batch.alone.saturating_add(1);
        }
        if batch.alone > 0 {
            batch.due = Some(now + batch.backoff.retry(limits, random));
        }
        let alone = if others_were_taken { batch.alone } else { 0 };
        self.batches.push_back(batch);
        if self.batches.len() > AVOID_MAX {
            self.batches.pop_front();
        }
        alone
    }

    /// A batch was settled. What failed before is worth another try now.
    pub fn succeeded(&mut self, batch: &FrozenBatch, now: Instant) {
        self.successes[usize::from(batch.backlog)] += 1;
        self.batches.retain(|stepped| stepped.key != batch.key);
        for batch in &mut self.batches {
            batch.due.get_or_insert(now);
        }
    }

    /// The batches that others go before: until their time has come, and until as many of their kind were
    /// taken as they failed times, or each would take every turn that a slow pace leaves.
    pub fn avoid(&self, now: Instant) -> [Option<BatchKey>; AVOID_MAX] {
        let waits = |batch: &&Stepped| !batch.is_due(now) || self.has_passed(batch) < batch.alone;
        Self::keys(self.batches.iter().filter(|batch| batch.is_doubtful()).filter(waits))
    }

    /// The batches that wait even when there is no other.
    pub fn avoid_alone(&self, now: Instant) -> [Option<BatchKey>; AVOID_MAX] {
        Self::keys(self.batches.iter().filter(|batch| batch.is_doubtful() && !batch.is_due(now)))
    }

    fn keys<'b>(batches: impl Iterator<Item = &'b Stepped>) -> [Option<BatchKey>; AVOID_MAX] {
        let mut avoid = [None; AVOID_MAX];
        for (place, batch) in avoid.iter_mut().zip(batches) {
            *place = Some(batch.key);
        }
        avoid
    }

    /// How many others of its kind were taken since it failed.
    fn has_passed(&self, batch: &Stepped) -> u32 {
        let kind = usize::from(batch.backlog);
        u32::try_from(self.successes[kind] - batch.successes[kind]).unwrap_or(u32::MAX)
    }

    /// When the next one is worth a try.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        self.batches.iter().filter_map(|batch| batch.due).filter(|due| *due > now).min()
    }

    /// How many fail again and again while others are taken.
    pub fn stuck(&self) -> usize {
        self.batches.iter().filter(|batch| batch.alone >= STUCK_MIN).count()
    }

    /// The settings changed: everything is worth a try.
    pub fn clear(&mut self) {
        self.batches.clear();
    }
}

impl Stepped {
    /// One failure may be a hiccup of the endpoint, and what is urgent stays first.
    fn is_doubtful(&self) -> bool {
        self.failures >= DOUBT_MIN
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }
}

/// Failures after which others go before a batch.
const DOUBT_MIN: u32 = 2;
/// Failures while others were taken, after which a batch is taken for one that the endpoint cannot digest.
pub const STUCK_MIN: u32 = 3;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::Lane;

    const LIMITS: Limits = Limits { min: Duration::from_secs(1), max: Duration::from_secs(60) };

    fn batch(first: u64) -> FrozenBatch {
        FrozenBatch {
            key: BatchKey { lane: Lane::Telemetry, first, last: first },
            batch_id: format!("b-{first}"),
            timestamp: 1.0,
            items: b"{}".to_vec(),
            backlog: true,
        }
    }

    fn avoided(steps: &StepBack, now: Instant) -> Vec<u64> {
        steps.avoid(now).into_iter().flatten().map(|key| key.first).collect()
    }

    #[test]
    fn a_poisonous_batch_is_tried_less_and_less_often_and_never_forgotten() {
        let mut now = Instant::now();
        let mut steps = StepBack::default();
        assert_eq!(steps.failed(&batch(1), now, LIMITS, 1.0), 0);
        assert_eq!(avoided(&steps, now), Vec::<u64>::new(), "one failure is none");
        assert_eq!(steps.failed(&batch(1), now, LIMITS, 1.0), 0);
        let mut waits = Vec::new();
        for turn in 1..=8 {
            assert_eq!(avoided(&steps, now), [1]);
            steps.succeeded(&batch(100), now);
            let due = steps.next_due(now).unwrap_or(now);
            waits.push((due - now).as_secs());
            now = due;
            // Its time has come, but not before as many others have passed.
            for _ in 2..turn {
                assert_eq!(avoided(&steps, now), [1]);
                assert_eq!(steps.avoid_alone(now), [None; AVOID_MAX]);
                steps.succeeded(&batch(100), now);
            }
            assert_eq!(avoided(&steps, now), Vec::<u64>::new());
            assert_eq!(steps.failed(&batch(1), now, LIMITS, 1.0), turn);
        }
        assert_eq!(waits, [0, 1, 2, 4, 8, 16, 32, 60]);
        assert_eq!(steps.stuck(), 1);
        steps.succeeded(&batch(1), now);
        assert_eq!((steps.stuck(), avoided(&steps, now)), (0, vec![]));
    }

    #[test]
    fn in_an_outage_nobody_is_blamed_and_after_it_all_are_due() {
        let now = Instant::now();
        let mut steps = StepBack::default();
        for turn in [1, 2, 3, 1, 2, 3] {
            assert_eq!(steps.failed(&batch(turn), now, LIMITS, 1.0), 0);
        }
        assert_eq!(avoided(&steps, now), [1, 2, 3]);
        steps.succeeded(&batch(4), now);
        assert_eq!((avoided(&steps, now), steps.stuck()), (vec![], 0));
    }

    #[test]
    fn of_too_many_the_one_that_failed_longest_ago_gets_its_turn() {
        let now = Instant::now();
        let mut steps = StepBack::default();
        for turn in 0..=AVOID_MAX as u64 {
            steps.failed(&batch(turn), now, LIMITS, 1.0);
        }
        for turn in 1..=AVOID_MAX as u64 {
            steps.failed(&batch(turn), now, LIMITS, 1.0);
        }
        assert_eq!(avoided(&steps, now), (1..=AVOID_MAX as u64).collect::<Vec<_>>());
    }
}
