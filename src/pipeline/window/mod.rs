//! Windows: aggregates of a sensor's readings over a span of event time.
//!
//! Spans are half open, `[start, end)`, and their ends are multiples of the step since the epoch. A
//! span without readings gives no result. What is open when the agent stops is lost: a result would
//! look whole and not be, so none is emitted for it, and the first span after a start has only the
//! readings since then; the count tells.

mod sensor;
mod series;
mod settings;
mod stats;

use std::collections::HashMap;

use tracing::{info, warn};

pub use self::settings::{Aggregation, Kind, Settings};

use self::sensor::{At, Plan, Sensor};
use self::series::FAR_BEHIND_US;
use self::stats::VALUE_MAX;
use crate::privacy::pattern;
use crate::reading::Reading;

/// The aggregates of one span that has ended. Every number is finite.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WindowResult<'a> {
    pub window: &'a Settings,
    /// `*` for a window over all sensors.
    pub sensor_name: &'a str,
    /// Of the latest reading before the span ended; empty when sensors of a window over all differ.
    pub unit: &'a str,
    /// The readings' time is the agent's own.
    pub stamped: bool,
    /// Unix seconds UTC, in the readings' own time; the first instant of the span.
    pub start: f64,
    /// Unix seconds UTC; the first instant after the span.
    pub end: f64,
    pub mean: f64,
    pub max: f64,
    pub min: f64,
    /// Population standard deviation.
    pub std: f64,
    pub sum: f64,
    /// At least 1.
    pub count: u64,
}

impl WindowResult<'_> {
    /// The aggregate that the window is configured for.
    pub fn value(&self) -> f64 {
        match self.window.aggregation {
            Aggregation::Mean => self.mean,
            Aggregation::Max => self.max,
            Aggregation::Min => self.min,
            Aggregation::Std => self.std,
            Aggregation::Sum => self.sum,
            Aggregation::Count => self.count as f64,
        }
    }
}

/// What happened since the start, a reading counting once per window it is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Out of order by a pane or more, and still in time.
    pub late: u64,
    /// Left out, because every span they belong to had ended.
    pub too_late: u64,
    /// Times a sensor's window began anew because its clock was set back.
    pub restarts: u64,
    /// Readings left out for want of room for another sensor, or for a value or time beyond all
    /// measure.
    pub left_out: u64,
}

/// How much all windows together may know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Pairs of window and sensor; sensors besides, as no window wants some.
    pub states_max: usize,
    pub panes_max: usize,
}

impl Default for Room {
    fn default() -> Self {
        Self { states_max: STATES_MAX, panes_max: PANES_MAX }
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
        Self {
            states: pooled.series.len(),
            panes: pooled.panes(),
            plans,
            pooled,
            has_patterns,
            sensors: HashMap::new(),
            now_us: None,
            room: Room::default(),
            counts: Counts::default(),
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
    /// `now` is the wall clock in Unix seconds UTC. A span is closed 5 seconds after its end. For a
    /// sensor whose time trails the wall clock, such as a replayed file, the end is as much later
    /// as its newest reading was late, so that it is not cut short.
    pub fn flush(&mut self, now: f64, emit: &mut impl FnMut(WindowResult<'_>)) {
        let Some(now_us) = micros(now) else { return };
        self.now_us = Some(now_us);
        let plans = &self.plans;
        self.pooled.flush(plans, ALL_SENSORS, now_us, emit);
        if self.pooled.is_over(now_us) {
            self.pooled.restart();
        }
        let keep_idle = self.sensors.len() <= self.room.states_max / 2;
        let (mut states, mut panes) = (0, 0);
        self.sensors.retain(|name, sensor| {
            sensor.flush(plans, name, now_us, emit);
            let keep = if sensor.series.is_empty() { keep_idle } else { !sensor.is_over(now_us) };
            if keep {
                states += sensor.series.len();
                panes += sensor.panes();
            }
            keep
        });
        self.states = states + self.pooled.series.len();
        self.panes = panes + self.pooled.panes();
        self.note_room();
    }

    /// Goes along when the wall clock is set by `moved` seconds. What a span on the agent's own time holds
    /// stays in the one that is open then; spans of other clocks end when they would have.
    pub fn clock_moved(&mut self, moved: f64) {
        let Some(moved_us) = micros(moved) else { return };
        self.now_us = self.now_us.map(|now| now + moved_us);
        self.pooled.clock_moved(moved_us);
        self.sensors.values_mut().for_each(|sensor| sensor.clock_moved(moved_us));
    }

    /// Takes the open spans of `old` for every window that is configured as before, and its counts.
    /// To be called on new windows, before the first reading.
    pub fn carry_over(&mut self, old: Self) {
        self.room = old.room;
        self.counts = old.counts;
        self.now_us = old.now_us;
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
    /// To be called instead of [`Self::carry_over`].
    pub fn begin_anew(&mut self, old: &Self) {
        (self.room, self.counts, self.now_us) = (old.room, old.counts, old.now_us);
    }

    pub fn counts(&self) -> Counts {
        self.counts
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
        self.sensors.len() < self.room.states_max
            && self.states + sensor.series.len() <= self.room.states_max
            && self.panes + sensor.panes() <= self.room.panes_max
    }

    fn insert(&mut self, name: &str, sensor: Sensor) {
        self.states += sensor.series.len();
        self.panes += sensor.panes();
        self.sensors.insert(name.into(), sensor);
    }

    /// Says when the want of room ends; a tenth must be free, lest it begins again at once.
    fn note_room(&mut self) {
        let Some(before) = self.full_since else { return };
        let free = |used: usize, max: usize| used <= max / 10 * 9;
        let Room { states_max, panes_max } = self.room;
        if free(self.sensors.len(), states_max)
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
/// Most pairs of window and sensor, and most sensors that are known.
const STATES_MAX: usize = 10_000;
/// Most panes of all pairs together, about 16 MiB.
const PANES_MAX: usize = 131_072;

#[cfg(test)]
mod tests;
