//! Windows: aggregates of a sensor's readings over a span of event time.
//!
//! Spans are half open, `[start, end)`, and their ends are multiples of the step since the epoch. A
//! span without readings gives no result. It ends when a reading shows that its end, and the lateness
//! that is allowed behind it, has passed, or the wall clock does. What is open when the agent stops
//! gives no result then: the next start reads its readings again from the store, see [`rebuild`].

mod ewma;
mod extras;
mod rebuild;
mod sensor;
mod series;
mod settings;
mod sketch;
mod stacks;
mod stats;
mod values;

use std::collections::HashMap;

use tracing::{info, warn};

pub use self::settings::{Aggregation, Kind, Settings};
pub use self::values::Values;

use self::sensor::{At, Sensor};
use self::series::{FAR_BEHIND_US, Plan};
use self::stats::VALUE_MAX;
use crate::privacy::pattern;
use crate::reading::Reading;

/// One span that has ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WindowResult<'a> {
    pub window: &'a Settings,
    /// `*` for a window over all sensors.
    pub sensor_name: &'a str,
    /// Of the latest reading before the span ended; empty when sensors of a window over all differ.
    pub unit: &'a str,
    /// The readings' time is the agent's own.
    pub stamped: bool,
    /// The aggregate that the window is configured for.
    pub value: f64,
    pub values: Values,
}

/// What happened since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// In the order of the windows.
    pub windows: Vec<WindowCounts>,
    /// Times a sensor's window began anew because its clock was set back.
    pub restarts: u64,
    /// Readings left out of all windows for want of room for another sensor, or for a value or time beyond all
    /// measure.
    pub left_out: u64,
}

/// What happened to the readings of one window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowCounts {
    /// Older than the newest one of their sensor, and in time.
    pub out_of_order: u64,
    /// Left out, because every span they belong to had ended.
    pub too_late: u64,
}

/// How much all windows together may know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Pairs of window and sensor; sensors are half as many, with those that no window wants.
    pub states_max: usize,
    pub panes_max: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self { states_max: STATES_MAX, panes_max: PANES_MAX }
    }
}

impl Room {
    fn sensors_max(self) -> usize {
        self.states_max / 2
    }
}

/// All windows of all sensors.
pub struct Windows {
    plans: Vec<Plan>,
    /// The windows over all sensors.
    pooled: Sensor,
    /// Whether any window has a sensor pattern.
    has_patterns: bool,
    sensors: HashMap<Box<str>, Sensor>,
    /// Wall clock of the last flush.
    now_us: Option<i64>,
    /// Pairs of window and sensor, and the panes of all of them.
    states: usize,
    panes: usize,
    room: Room,
    counts: Counts,
    /// `counts.left_out` when room ran out; `None` while there is room.
    full_since: Option<u64>,
}

impl Windows {
    /// Whether there is nothing to do for any reading.
    pub fn is_empty(&self) -> bool {
        self.plans.is_empty()
    }

    /// Windows that [`Settings::check`] refuses are left out.
    pub fn new(settings: &[Settings]) -> Self {
        let plans: Vec<Plan> = settings.iter().filter_map(Plan::of).collect();
        let pooled = Sensor::new(&plans, |plan| plan.settings.sensor_name.is_none());
        let has_patterns = plans.iter().any(|plan| plan.settings.sensor_name.is_some());
        let windows = vec![WindowCounts::default(); plans.len()];
        Self {
            states: pooled.series.len(),
            panes: pooled.panes(&plans),
            plans,
            pooled,
            has_patterns,
            sensors: HashMap::new(),
            now_us: None,
            room: Room::default(),
            counts: Counts { windows, ..Counts::default() },
            full_since: None,
        }
    }

    /// With so much room, also after a reload.
    pub fn within(self, room: Room) -> Self {
        Self { room, ..self }
    }

    /// Takes a reading into every window it belongs to and emits the spans that it shows to have
    /// ended, before it is added. `pooled` is false for what privacy keeps out of windows over all
    /// sensors, `stamped` true for readings with the agent's own time.
    ///
    /// The sensor's time may jump anywhere: the work is bounded by the panes of its windows.
    pub fn add(
        &mut self,
        reading: Reading<'_>,
        pooled: bool,
        stamped: bool,
        emit: &mut impl FnMut(WindowResult<'_>),
    ) {
        if self.plans.is_empty() {
            return;
        }
        let Some(time_us) = micros(reading.timestamp).filter(|_| reading.value.abs() <= VALUE_MAX) else {
            self.counts.left_out += 1;
            return;
        };
        let at = At { time_us, now_us: self.now_us, stamped };
        if pooled && !self.pooled.series.is_empty() {
            let of_all = Reading { sensor_name: ALL_SENSORS, ..reading };
            self.pooled.add(&self.plans, of_all, at, &mut self.counts, emit);
            self.pooled.note_unit_of_many(reading.unit);
        }
        if self.has_patterns && !self.add_known(reading, at, emit) && self.admit(reading.sensor_name) {
            self.add_known(reading, at, emit);
        }
    }

    /// Ends what the wall clock has passed, so that a sensor that went silent still gets its last
    /// span, and forgets sensors that have been silent for long. To be called once a second, the
    /// first time before any reading.
    ///
    /// `now` is the wall clock in Unix seconds UTC. A span is closed 5 seconds after its end, or the lateness that is
    /// allowed, whichever is longer. For a sensor whose time trails the wall clock, such as a replayed file, the end is
    /// as much later as its newest reading was late, so that it is not cut short.
    pub fn flush(&mut self, now: f64, emit: &mut impl FnMut(WindowResult<'_>)) {
        let Some(now_us) = micros(now) else { return };
        self.now_us = Some(now_us);
        let plans = &self.plans;
        self.pooled.flush(plans, ALL_SENSORS, now_us, emit);
        if self.pooled.is_over(plans, now_us) {
            self.pooled.restart();
        }
        let keep_idle = self.sensors.len() <= self.room.sensors_max() / 2;
        let (mut states, mut panes) = (0, 0);
        self.sensors.retain(|name, sensor| {
            sensor.flush(plans, name, now_us, emit);
            let keep = if sensor.series.is_empty() { keep_idle } else { !sensor.is_over(plans, now_us) };
            if keep {
                states += sensor.series.len();
                panes += sensor.panes(plans);
            }
            keep
        });
        self.states = states + self.pooled.series.len();
        self.panes = panes + self.pooled.panes(&self.plans);
        self.note_room();
    }

    /// Goes along when the wall clock is set by `moved` seconds. What a span on the agent's own time holds
    /// stays in the one that is open then; spans of other clocks end when they would have.
    pub fn clock_moved(&mut self, moved: f64) {
        let Some(moved_us) = micros(moved) else { return };
        self.now_us = self.now_us.map(|now| now + moved_us);
        let plans = &self.plans;
        self.pooled.clock_moved(plans, moved_us);
        self.sensors.values_mut().for_each(|sensor| sensor.clock_moved(plans, moved_us));
    }

    /// Takes the open spans of `old` for every window that is configured as before, and its counts.
    /// To be called on new windows, before the first reading.
    pub fn carry_over(&mut self, old: Self) {
        self.begin_anew(&old);
        self.full_since = old.full_since;
        self.pooled.carry_over(&self.plans, old.pooled, &old.plans);
        for (name, sensor) in old.sensors {
            let fresh = matching(&self.plans, &name);
            if fresh.series.is_empty() || !self.has_room(&fresh) {
                continue;
            }
            self.insert(&name, fresh);
            if let Some(fresh) = self.sensors.get_mut(&name) {
                fresh.carry_over(&self.plans, sensor, &old.plans);
            }
        }
    }

    /// Keeps of `old` what is no reading: nothing of its open spans is in what is emitted from here on.
    /// [`Self::carry_over`] keeps those too.
    pub fn begin_anew(&mut self, old: &Self) {
        self.room = old.room;
        for (plan, counts) in self.plans.iter().zip(&mut self.counts.windows) {
            let mut of_old = old.plans.iter().zip(&old.counts.windows);
            let same = of_old.find(|(old, _)| old.settings.name == plan.settings.name);
            *counts = same.map_or_else(WindowCounts::default, |(_, counts)| *counts);
        }
        (self.counts.restarts, self.counts.left_out) = (old.counts.restarts, old.counts.left_out);
        self.now_us = old.now_us;
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The windows' names and what happened to their readings.
    pub fn counts_by_window(&self) -> impl Iterator<Item = (&str, WindowCounts)> {
        self.plans.iter().map(|plan| plan.settings.name.as_str()).zip(self.counts.windows.iter().copied())
    }

    /// Takes a reading of a sensor that is known; false when it is not.
    fn add_known(&mut self, reading: Reading<'_>, at: At, emit: &mut impl FnMut(WindowResult<'_>)) -> bool {
        let Some(sensor) = self.sensors.get_mut(reading.sensor_name) else { return false };
        sensor.add(&self.plans, reading, at, &mut self.counts, emit);
        sensor.note_unit(reading.unit);
        true
    }

    /// Makes room for a sensor that is not known. False when there is nothing to do for it, or no
    /// room.
    fn admit(&mut self, name: &str) -> bool {
        let sensor = matching(&self.plans, name);
        if self.has_room(&sensor) {
            self.insert(name, sensor);
            return true;
        }
        if !sensor.series.is_empty() {
            if self.full_since.is_none() {
                warn!(
                    sensors = self.sensors.len(),
                    states = self.states,
                    panes = self.panes,
                    "no room in windows for more sensors; the readings of new ones are left out of windows"
                );
                self.full_since = Some(self.counts.left_out);
            }
            self.counts.left_out += 1;
        }
        false
    }

    fn has_room(&self, sensor: &Sensor) -> bool {
        self.sensors.len() < self.room.sensors_max()
            && self.states + sensor.series.len() <= self.room.states_max
            && self.panes + sensor.panes(&self.plans) <= self.room.panes_max
    }

    fn insert(&mut self, name: &str, sensor: Sensor) {
        self.states += sensor.series.len();
        self.panes += sensor.panes(&self.plans);
        self.sensors.insert(name.into(), sensor);
    }

    /// Says when the want of room ends; a tenth must be free, lest it begins again at once.
    fn note_room(&mut self) {
        let Some(before) = self.full_since else { return };
        let free = |used: usize, max: usize| used <= max / 10 * 9;
        let Room { states_max, panes_max } = self.room;
        if free(self.sensors.len(), self.room.sensors_max())
            && free(self.states, states_max)
            && free(self.panes, panes_max)
        {
            info!(left_out = self.counts.left_out - before, "room in windows for more sensors again");
            self.full_since = None;
        }
    }
}

/// A sensor with a series for each window whose pattern matches its name.
fn matching(plans: &[Plan], name: &str) -> Sensor {
    Sensor::new(plans, |plan| {
        plan.settings.sensor_name.as_deref().is_some_and(|wanted| pattern::matches(wanted, name))
    })
}

/// Microseconds since the epoch, rounded: the finest that floating seconds can tell apart today.
fn micros(seconds: f64) -> Option<i64> {
    (seconds.abs() <= TIME_SECONDS_MAX).then(|| (seconds * 1e6).round() as i64)
}

/// How windows over all sensors name their sensor.
const ALL_SENSORS: &str = "*";
/// The year 5138, far from the limits of the arithmetic.
const TIME_SECONDS_MAX: f64 = 1e11;
/// Most pairs of window and sensor.
const STATES_MAX: usize = 20_480;
/// Most panes of all pairs together, about 15 MiB.
const PANES_MAX: usize = 77_824;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
