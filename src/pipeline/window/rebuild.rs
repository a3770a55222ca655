//! Open spans after a restart: their readings come once more, from the store, before any new one does.

use super::{ALL_SENSORS, WindowCounts, Windows, micros};
use crate::reading::Reading;

impl Windows {
    /// How far back the open spans of a sensor reach from its newest reading, in seconds; 0 without windows.
    pub fn memory_seconds(&self) -> f64 {
        let of = |plan: &super::Plan| plan.duration_us() + plan.shape.lateness_us;
        self.plans.iter().map(of).max().map_or(0.0, |longest| longest as f64 / 1e6)
    }

    /// The same windows, without anything they know.
    pub fn begun_anew(&self) -> Self {
        let settings: Vec<_> = self.plans.iter().map(|plan| plan.settings.clone()).collect();
        Self::new(&settings).within(self.room)
    }

    /// Takes a reading that was taken before. What it ends was emitted then. Call it in the order in which the readings
    /// came, on new windows, before [`Self::resume`].
    pub fn replay(&mut self, reading: Reading<'_>, pooled: bool, stamped: bool) {
        self.add(reading, pooled, stamped, &mut |_| {});
    }

    /// Notes that the result of `window` about `sensor_name` for the span that ends at `end`, Unix seconds, was emitted
    /// before. No span up to there is emitted again.
    pub fn was_emitted(&mut self, window: &str, sensor_name: &str, end: f64) {
        let Some(end_us) = micros(end) else { return };
        let Some(index) = self.plans.iter().position(|plan| plan.settings.name == window) else { return };
        if self.plans[index].settings.sensor_name.is_none() {
            if sensor_name == ALL_SENSORS {
                self.pooled.was_emitted(&self.plans, index, end_us);
            }
            return;
        }
        if !self.sensors.contains_key(sensor_name) && !self.admit(sensor_name) {
            return;
        }
        if let Some(sensor) = self.sensors.get_mut(sensor_name) {
            sensor.was_emitted(&self.plans, index, end_us);
        }
    }

    /// Goes on from here, at `now` in Unix seconds UTC. To no sensor has time passed while the agent was away: a span that
    /// was open then waits for as long as it would have. Counts begin with 0.
    pub fn resume(&mut self, now: f64) {
        let Some(now_us) = micros(now) else { return };
        self.now_us = Some(now_us);
        self.pooled.resume(now_us);
        self.sensors.values_mut().for_each(|sensor| sensor.resume(now_us));
        self.counts.windows.fill(WindowCounts::default());
        (self.counts.restarts, self.counts.left_out) = (0, 0);
        self.full_since = self.full_since.map(|_| 0);
    }
}
