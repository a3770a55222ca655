//! What the pipeline counts, for the health page and `/metrics`: atomics, so that neither side waits.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use super::window::{WindowCounts, Windows};
use crate::clock;
use crate::reading::{Refusal, SENSOR_NAME_BYTES_MAX, clip};

/// What the pipeline counts, since start where nothing else is said.
#[derive(Debug, Default)]
pub struct Counters {
    /// Readings that were accepted.
    pub readings_processed: AtomicU64,
    /// Events that rules emitted.
    pub events_triggered: AtomicU64,
    /// Window results that were emitted.
    pub windows_emitted: AtomicU64,
    /// Readings that the selection for delivery held back; they are stored.
    pub readings_suppressed: AtomicU64,
    /// Evaluations of a rule that ended in an error.
    pub rule_errors: AtomicU64,
    /// Sensors of which rules forgot what they remembered, for want of room.
    pub rule_states_forgotten: AtomicU64,
    /// JSON of what was accepted and emitted, in bytes.
    pub accepted_bytes: AtomicU64,
    /// More was written than the flash budget allows: commits that nobody awaits are to be rarer.
    pub is_over_budget: AtomicBool,
    /// Memory is short: what can be made anew is to be dropped, and commits are to be smaller.
    pub is_short_of_memory: AtomicBool,
    /// What the pipeline believes of the wall clock, now.
    pub clock: clock::Status,
    /// Readings that wait for their commit, now.
    pub buffer_count: AtomicU64,
    /// Readings that windows took from the store at the start.
    pub windows_rebuilt_readings: AtomicU64,
    refused: [AtomicU64; Refusal::ALL.len()],
    refused_by_sensor: RefusedBySensor,
    /// Behind a lock, because windows come and go with a reload; taken once a second, and when it is shown.
    windows: Mutex<WindowsShown>,
}

/// What happened to the readings of windows, as of the last second.
#[derive(Clone, Debug, Default)]
pub struct WindowsShown {
    /// By name, in the order of the configuration.
    pub by_window: Vec<(Box<str>, WindowCounts)>,
    /// Times a sensor's window began anew because its clock was set back.
    pub restarts: u64,
    /// Readings left out of all windows for want of room, or for a value or time beyond all measure.
    pub left_out: u64,
}

impl Counters {
    /// Counts input that was not accepted; `sensor` names its origin as well as it is known.
    pub fn refuse(&self, reason: Refusal, sensor: &str) {
        self.refused[reason as usize].fetch_add(1, Relaxed);
        self.refused_by_sensor.add(reason, sensor);
    }

    /// Shows what has happened in `windows`.
    pub fn show_windows(&self, windows: &Windows) {
        let mut shown = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let same = shown.by_window.iter().map(|(name, _)| name.as_ref());
        if !same.eq(windows.counts_by_window().map(|(name, _)| name)) {
            shown.by_window =
                windows.counts_by_window().map(|(name, counts)| (name.into(), counts)).collect();
        }
        for ((_, shown), counts) in shown.by_window.iter_mut().zip(&windows.counts().windows) {
            *shown = *counts;
        }
        (shown.restarts, shown.left_out) = (windows.counts().restarts, windows.counts().left_out);
    }

    pub fn windows(&self) -> WindowsShown {
        self.windows.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Refusals for this reason.
    pub fn refused(&self, reason: Refusal) -> u64 {
        self.refused[reason as usize].load(Relaxed)
    }

    /// Refusals by sensor, in the order of their names; counts are in the order of [`Refusal::ALL`].
    pub fn refused_by_sensor(&self) -> BTreeMap<String, [u64; Refusal::ALL.len()]> {
        self.refused_by_sensor.snapshot()
    }
}

/// Behind a lock, because its keys are text; taken only when something is refused or shown.
#[derive(Debug, Default)]
struct RefusedBySensor(Mutex<BTreeMap<String, [u64; Refusal::ALL.len()]>>);

impl RefusedBySensor {
    fn add(&self, reason: Refusal, sensor: &str) {
        let sensor = clip(sensor, SENSOR_NAME_BYTES_MAX);
        let mut sensors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Names come from outside: who sends a new one each time must not fill the memory.
        let sensor = if sensors.len() < SENSORS_MAX || sensors.contains_key(sensor) { sensor } else { OTHER };
        match sensors.get_mut(sensor) {
            Some(counts) => counts[reason as usize] += 1,
            None => sensors.entry(sensor.to_owned()).or_default()[reason as usize] += 1,
        }
    }

    fn snapshot(&self) -> BTreeMap<String, [u64; Refusal::ALL.len()]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Sensors that are counted by name; the refusals of further ones are counted together.
const SENSORS_MAX: usize = 256;

/// The name under which refusals beyond [`SENSORS_MAX`] are counted.
const OTHER: &str = "other";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_counted_by_reason_and_sensor() {
        let counters = Counters::default();
        counters.refuse(Refusal::Time, "kitchen");
        counters.refuse(Refusal::Time, "cellar");
        counters.refuse(Refusal::Privacy, "kitchen");
        assert_eq!(counters.refused(Refusal::Time), 2);
        let kitchen = counters.refused_by_sensor()["kitchen"];
        assert_eq!((kitchen[Refusal::Time as usize], kitchen[Refusal::Privacy as usize]), (1, 1));
    }

    #[test]
    fn names_from_outside_cannot_fill_the_memory() {
        let counters = Counters::default();
        for number in 0..10_000 {
            counters.refuse(Refusal::Size, &format!("{number}-{}", "x".repeat(1000)));
        }
        counters.refuse(Refusal::Size, &format!("0-{}", "x".repeat(1000)));
        let sensors = counters.refused_by_sensor();
        assert_eq!(sensors.len(), SENSORS_MAX + 1);
        assert!(sensors.keys().all(|name| name.len() <= SENSOR_NAME_BYTES_MAX));
        assert_eq!(sensors[OTHER][Refusal::Size as usize], 10_000 - SENSORS_MAX as u64);
        assert_eq!(counters.refused(Refusal::Size), 10_001);
    }

    #[test]
    fn every_refusal_has_its_own_counter() {
        for (index, reason) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }
}
