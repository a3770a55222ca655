//! Keeps the black box: looks at the parts now and then, and records what changed and that it lives.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at};
use tokio_util::sync::CancellationToken;

use crate::adapter::State;
use crate::config::LoadError;
use crate::health::Configured;
use crate::lifecycle::blackbox::{Blackbox, What};
use crate::lifecycle::memory;
use crate::lifecycle::supervisor::Failure;
use crate::lifecycle::watchdog::{Check, Verdict};
use crate::{clock, store, upload};

/// A condition that comes and goes within this is not seen.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Each sign of life is a page written to flash.
const ALIVE_EVERY: Duration = Duration::from_secs(300);
/// Records of one condition at once; one more is earned with each sign of life. What flaps must not
/// push everything else out of the ring, nor wear the flash.
const RECORDS_AT_ONCE: u32 = 10;

/// What is looked at.
pub struct Watched {
    /// Every stage.
    pub checks: Vec<Check>,
    pub verdict: watch::Receiver<Verdict>,
    pub store: Arc<store::Counters>,
    pub delivery: Arc<upload::Status>,
    pub configured: watch::Receiver<Configured>,
    pub memory: Arc<memory::Status>,
}

/// Records until `stop`.
pub async fn run(blackbox: Blackbox, mut watched: Watched, stop: CancellationToken) {
    let mut known = Known::new(clock::is_synchronised());
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut alive = interval_at(Instant::now() + ALIVE_EVERY, ALIVE_EVERY);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut verdict = Verdict::Alive;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = look.tick() => {
                for (what, detail) in known.changes(watched.conditions()) {
                    blackbox.record(what, &detail);
                }
            }
            _ = alive.tick() => {
                known.earn();
                blackbox.record(What::Alive, &stages(&watched.checks));
            }
            changed = watched.verdict.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = *watched.verdict.borrow_and_update();
                // Told anew at each look of the watchdog, but recorded when it begins and ends.
                if (now == Verdict::Alive) != (verdict == Verdict::Alive) {
                    let what = if now == Verdict::Alive { What::Moves } else { What::Stuck };
                    blackbox.record(what, &format!("{now}; {}", stages(&watched.checks)));
                }
                verdict = now;
            }
        }
    }
}

/// What each stage is doing now.
pub fn stages(checks: &[Check]) -> String {
    let now = clock::since_boot();
    let stage = |(name, progress): &Check| match progress.stuck_for(now) {
        None => format!("{name} idle"),
        Some(since) => format!("{name} moved {:.1} s ago", since.as_secs_f64()),
    };
    checks.iter().map(stage).collect::<Vec<_>>().join(", ")
}

/// Why the agent failed, without what a panic may have quoted.
pub fn reason(error: &anyhow::Error) -> String {
    match error.downcast_ref::<Failure>() {
        Some(Failure::Panic(_)) => format!("{error}: it panicked"),
        _ => format!("{error:#}"),
    }
}

/// Why a reload was refused, without what stands in the file.
pub fn refusal(error: &anyhow::Error) -> String {
    match error.downcast_ref::<LoadError>() {
        Some(LoadError::Invalid(refused)) => format!("the configuration has {} problems", refused.count),
        _ => format!("{error:#}"),
    }
}

impl Watched {
    fn conditions(&self) -> [Option<String>; CONDITIONS] {
        let configured = self.configured.borrow();
        let is_failing = |state| matches!(state, State::Failed | State::Reconnecting);
        // By kind: a name may be private.
        let failing: Vec<_> =
            configured.sources.iter().filter(|source| is_failing(source.state())).map(|s| s.kind).collect();
        let delivery = self.delivery.last().trouble.filter(|_| configured.cloud_enabled);
        [
            delivery.map(|trouble| format!("delivery is in trouble: {trouble}")),
            self.store.trouble().map(|trouble| trouble.reason().to_owned()),
            (!failing.is_empty()).then(|| format!("sources are failing: {}", failing.join(", "))),
            (self.memory.state() == memory::State::Slowing).then(|| NAMES[MEMORY].to_owned()),
            clock::is_synchronised().then(String::new),
        ]
    }
}

/// Delivery, disk, sources, memory, and the clock, whose being synchronised is the condition.
const CONDITIONS: usize = 5;
const NAMES: [&str; CONDITIONS] = [
    "delivery is in trouble",
    "the disk takes nothing",
    "sources are failing",
    "memory is above its plan",
    "the clock is synchronised",
];
const MEMORY: usize = 3;
const CLOCK: usize = 4;

/// What was recorded last of each condition.
struct Known {
    lasts: [bool; CONDITIONS],
    records: [u32; CONDITIONS],
}

impl Known {
    fn new(is_synchronised: bool) -> Self {
        Self { lasts: [false, false, false, false, is_synchronised], records: [RECORDS_AT_ONCE; CONDITIONS] }
    }

    fn earn(&mut self) {
        self.records.iter_mut().for_each(|left| *left = (*left + 1).min(RECORDS_AT_ONCE));
    }

    /// What to record now; a change that may not be recorded yet is looked at again.
    fn changes(&mut self, now: [Option<String>; CONDITIONS]) -> Vec<(What, String)> {
        let mut changes = Vec::new();
        for (index, detail) in now.into_iter().enumerate() {
            if detail.is_some() == self.lasts[index] || self.records[index] == 0 {
                continue;
            }
            self.lasts[index] = detail.is_some();
            self.records[index] -= 1;
            changes.push(match detail {
                Some(_) if index == CLOCK => (What::ClockSynchronised, String::new()),
                Some(detail) => (What::Begins, detail),
                None => (What::Ends, NAMES[index].to_owned()),
            });
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(delivery: bool, synchronised: bool) -> [Option<String>; CONDITIONS] {
        [
            delivery.then(|| "delivery is in trouble: x".to_owned()),
            None,
            None,
            None,
            synchronised.then(String::new),
        ]
    }

    #[test]
    fn a_condition_is_recorded_when_it_begins_and_when_it_ends() {
        let mut known = Known::new(false);
        assert_eq!(known.changes(conditions(false, false)), []);
        let begins = (What::Begins, "delivery is in trouble: x".to_owned());
        assert_eq!(known.changes(conditions(true, false)), [begins]);
        assert_eq!(known.changes(conditions(true, true)), [(What::ClockSynchronised, String::new())]);
        assert_eq!(known.changes(conditions(false, true)), [(What::Ends, NAMES[0].to_owned())]);
        assert_eq!(known.changes(conditions(false, true)), []);
    }

    #[test]
    fn what_flaps_is_recorded_a_few_times_and_then_at_the_pace_of_the_signs_of_life() {
        let mut known = Known::new(true);
        let flap = |known: &mut Known| {
            (0..100).map(|look| known.changes(conditions(look % 2 == 0, true)).len()).sum::<usize>()
        };
        assert_eq!(flap(&mut known), 10);
        known.earn();
        assert_eq!(flap(&mut known), 1);
        // The last that was recorded is what holds, as soon as it may be.
        known.earn();
        assert_eq!(known.changes(conditions(false, true)).len(), 1);
    }

    #[test]
    fn a_reason_does_not_quote_a_panic() {
        let error =
            anyhow::Error::new(Failure::Panic("a value of 4711".to_owned())).context("the pipeline failed");
        assert_eq!(reason(&error), "the pipeline failed: it panicked");
        assert_eq!(format!("{error:#}"), "the pipeline failed: panicked: a value of 4711");
        let error = anyhow::anyhow!("disk I/O error").context("the store failed");
        assert_eq!(reason(&error), "the store failed: disk I/O error");
    }
}
