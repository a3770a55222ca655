//! What the uploader tells people: the counters and the trouble of [`Status`], and the few lines of
//! log that a change of state deserves.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::delivery::HELD;
use super::step_back::STUCK_MIN;
use super::{Certificates, Status, budget, day_of};
use crate::clock;
use crate::reading::Priority;
use crate::store::FrozenBatch;

/// The uploader's voice.
#[derive(Debug)]
pub struct Report {
    pub status: Arc<Status>,
    trouble: Option<Trouble>,
    refused: Refused,
    clock: Option<Instant>,
    held: [bool; 4],
}

#[derive(Debug)]
struct Trouble {
    since: Instant,
    attempts: u64,
    held: bool,
}

/// Dead letters since the last line about them.
#[derive(Debug, Default)]
struct Refused {
    told_at: Option<Instant>,
    items: u64,
}

impl Report {
    pub fn new(status: Arc<Status>) -> Self {
        Self { status, trouble: None, refused: Refused::default(), clock: None, held: [false; 4] }
    }

    pub fn sent(&self, body_bytes: u64, certificates: Certificates) {
        self.status.body_bytes_sent.fetch_add(body_bytes, Relaxed);
        self.status.lock().certificates = certificates;
    }

    pub fn backlog_rate(&self, batches_per_second: f64) {
        self.status.lock().backlog_rate = batches_per_second;
    }

    /// A refusal that only slows the backlog down.
    pub fn throttled(&self) {
        self.status.attempts_failed.fetch_add(1, Relaxed);
        self.status.throttled.fetch_add(1, Relaxed);
        tracing::debug!("the endpoint slows the backlog down");
    }

    /// A batch failed while others are taken, `alone` times by now.
    pub fn stepped_back(&mut self, batch: &FrozenBatch, reason: String, alone: u32) {
        self.status.attempts_failed.fetch_add(1, Relaxed);
        if alone == STUCK_MIN {
            warn!(
                batch_id = batch.batch_id,
                reason, "a batch fails again and again while others are taken; it steps back and is kept"
            );
        }
        if alone >= STUCK_MIN {
            self.status.lock().stuck = Some((1, reason));
        }
    }

    /// So many batches fail again and again while others are taken.
    pub fn stuck(&self, count: usize) {
        let mut last = self.status.lock();
        match &mut last.stuck {
            Some((stuck, _)) if count > 0 => *stuck = count,
            stuck => *stuck = None,
        }
    }

    /// The endpoint's certificate belongs to a time that this device does not know to be now.
    pub fn waits_for_clock(&mut self, reason: &str) {
        if self.clock.is_none() {
            self.clock = Some(Instant::now());
            info!(reason, "delivery waits for the clock of this device to be set");
        }
        self.trouble = None;
        self.status.lock().trouble = Some(format!("waits for the clock to be set: {reason}"));
    }

    /// What the month has used and which lanes wait for the next one.
    pub fn budget(&mut self, state: budget::Use) {
        if state.held != self.held {
            let names = |held: [bool; 4]| {
                let lanes = Priority::ALL.iter().zip(held).filter(|(_, held)| *held);
                lanes.map(|(lane, _)| lane.name()).collect::<Vec<_>>().join(", ")
            };
            if state.held.iter().zip(self.held).any(|(now, before)| *now && !before) {
                warn!(
                    lanes = names(state.held),
                    used_bytes = state.used_bytes,
                    "the budget of the month: lanes wait for the next one, everything is kept"
                );
            } else {
                info!(lanes = names(self.held), "the budget of the month: lanes are delivered again");
            }
            self.held = state.held;
        }
        self.status.lock().budget = state;
    }

    pub fn delivered(&mut self, items: u64) {
        self.status.batches_delivered.fetch_add(1, Relaxed);
        self.status.items_delivered.fetch_add(items, Relaxed);
        self.recovered();
        let now = clock::unix_seconds();
        let today = day_of(now);
        let mut last = self.status.lock();
        if last.day != today {
            last.day = today;
            last.items_today = 0;
        }
        last.items_today += items;
        last.delivered_at = now;
    }

    /// The endpoint works, but refuses this batch as a whole.
    pub fn split(&mut self, batch: &FrozenBatch) {
        self.status.attempts_failed.fetch_add(1, Relaxed);
        self.recovered();
        tracing::debug!(batch_id = batch.batch_id, items = batch.key.count(), "a refused batch is split");
    }

    /// The endpoint works, but refuses this item. The reason stays in the store: it may quote the
    /// payload.
    pub fn dead_letter(&mut self, batch: &FrozenBatch, now: Instant) {
        self.status.attempts_failed.fetch_add(1, Relaxed);
        self.status.dead_letters.fetch_add(batch.key.count(), Relaxed);
        self.recovered();
        self.refused.items += batch.key.count();
        if self.refused.told_at.is_none_or(|at| now - at >= REFUSED_LINE_EVERY) {
            let items = std::mem::take(&mut self.refused.items);
            self.refused.told_at = Some(now);
            warn!(
                batch_id = batch.batch_id,
                items, "the endpoint refused items; they are set aside in the store with the reason"
            );
        }
    }

    /// An attempt failed and the batch stays.
    pub fn failed(&mut self, batch_id: &str, reason: String, error_kind: &'static str, now: Instant) {
        // A person has to act.
        let held = error_kind == HELD;
        self.status.attempts_failed.fetch_add(1, Relaxed);
        let began = self.trouble.is_none();
        let trouble = self.trouble.get_or_insert(Trouble { since: now, attempts: 0, held });
        trouble.attempts += 1;
        if held && (began || !trouble.held) {
            error!(batch_id, error_kind, reason, "delivery is held until a person acts; everything is kept");
        } else if began {
            warn!(batch_id, error_kind, reason, "delivery is in trouble; everything is kept and tried again");
        }
        // Once held, a line for each turn to another kind of trouble would be one too many.
        trouble.held |= held;
        self.status.lock().trouble = Some(reason);
    }

    /// Whatever the trouble was, it is not this uploader's any more: delivery was switched off.
    pub fn switched_off(&mut self) {
        self.trouble = None;
        self.clock = None;
        self.status.lock().trouble = None;
    }

    fn recovered(&mut self) {
        if let Some(since) = self.clock.take() {
            self.status.lock().trouble = None;
            info!(duration_seconds = since.elapsed().as_secs_f64(), "delivery has the clock it waited for");
        }
        let Some(trouble) = self.trouble.take() else { return };
        self.status.lock().trouble = None;
        info!(
            duration_seconds = trouble.since.elapsed().as_secs_f64(),
            attempts = trouble.attempts,
            "delivery goes on"
        );
    }
}

/// A sensor whose every value is refused gets a line an hour, not one for each.
const REFUSED_LINE_EVERY: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upload::Last;

    #[test]
    fn a_delivery_ends_the_trouble_and_counts_for_today() {
        let status = Arc::new(Status::default());
        let mut report = Report::new(Arc::clone(&status));
        report.failed("b-1", "offline".to_owned(), "endpoint", Instant::now());
        assert_eq!(status.last().trouble.as_deref(), Some("offline"));
        report.delivered(3);
        report.delivered(4);
        let last = status.last();
        assert_eq!(last.trouble, None);
        assert_eq!(status.items_today(last.delivered_at), 7);
        assert_eq!(status.items_today(last.delivered_at + 86_400.0), 0);
    }

    #[test]
    fn the_count_of_the_day_starts_anew_at_midnight_utc() {
        let status = Arc::new(Status::default());
        *status.last.lock().unwrap() = Last { items_today: 50, day: 1, ..Last::default() };
        Report::new(Arc::clone(&status)).delivered(2);
        assert_eq!(status.last().items_today, 2);
        assert_eq!(day_of(86_399.9), 0);
        assert_eq!(day_of(86_400.0), 1);
        assert_eq!(day_of(-5.0), 0);
    }
}
