//! What the windows know about one sensor: a series for each of its windows, its unit, and how far
//! its time trails the wall clock.

use super::series::{Fate, Series, Span};
use super::settings::Shape;
use super::{Counts, FAR_BEHIND_US, Settings, Values, WindowResult};
use crate::reading::Reading;

/// A window that has passed its check.
pub(super) struct Plan {
    pub(super) settings: Settings,
    shape: Shape,
}

impl Plan {
    pub(super) fn of(settings: &Settings) -> Option<Self> {
        let shape = Shape::of(settings).ok()?;
        Some(Self { settings: settings.clone(), shape })
    }
}

/// One sensor, or all of them as one.
pub(super) struct Sensor {
    pub(super) series: Box<[Series]>,
    unit: String,
    /// Of several sensors, whose units differ.
    mixed_units: bool,
    /// Time of the newest reading; `None` before the first.
    newest_us: Option<i64>,
    /// How long before its arrival the newest reading was taken, as well as the last flush tells; less
    /// than 0 when its clock is ahead of ours.
    lag_us: i64,
    /// The newest reading has the agent's own time.
    stamped: bool,
}

/// When a reading was taken, by whose clock, and when the last flush was.
#[derive(Clone, Copy)]
pub(super) struct At {
    pub(super) time_us: i64,
    pub(super) now_us: Option<i64>,
    pub(super) stamped: bool,
}

impl Sensor {
    /// With a series for each of `plans` that `wanted` takes.
    pub(super) fn new(plans: &[Plan], wanted: impl Fn(&Plan) -> bool) -> Self {
        let plans = plans.iter().enumerate().filter(|(_, plan)| wanted(plan));
        Self {
            series: plans.map(|(index, plan)| Series::new(index, plan.shape)).collect(),
            unit: String::new(),
            mixed_units: false,
            newest_us: None,
            lag_us: 0,
            stamped: false,
        }
    }

    pub(super) fn panes(&self) -> usize {
        self.series.iter().map(Series::panes).sum()
    }

    /// Takes a reading of the sensor, whose name is in it, and emits the spans that it ends.
    pub(super) fn add(
        &mut self,
        plans: &[Plan],
        reading: Reading<'_>,
        At { time_us, now_us, stamped }: At,
        counts: &mut Counts,
        emit: &mut impl FnMut(WindowResult<'_>),
    ) {
        let mut set_back = false;
        self.stamped = stamped;
        for series in &mut self.series {
            let window = &plans[series.plan].settings;
            let unit = &self.unit;
            let mut emit = |span: Span| emit(result(window, reading.sensor_name, unit, stamped, &span));
            match series.add(time_us, reading.value, &mut emit) {
                Fate::InTime => {}
                Fate::Late => counts.late += 1,
                Fate::TooLate => counts.too_late += 1,
                Fate::Restarted => {
                    counts.restarts += 1;
                    set_back = true;
                }
            }
        }
        if set_back || self.newest_us.is_none_or(|newest| time_us >= newest) {
            self.newest_us = Some(time_us);
            self.lag_us = now_us.map_or(0, |now| now - time_us);
        }
    }

    pub(super) fn note_unit(&mut self, unit: &str) {
        if self.unit != unit {
            self.unit.clear();
            self.unit.push_str(unit);
        }
    }

    /// The unit of readings of many sensors: theirs when it is the same, else none.
    pub(super) fn note_unit_of_many(&mut self, unit: &str) {
        if self.mixed_units || self.unit == unit {
            return;
        }
        self.mixed_units = !self.unit.is_empty();
        self.unit.clear();
        self.unit.push_str(if self.mixed_units { "" } else { unit });
    }

    /// Closes the spans that ended before the sensor's own present: the wall clock, less how far
    /// its readings trail it, less the grace.
    pub(super) fn flush(
        &mut self,
        plans: &[Plan],
        name: &str,
        now_us: i64,
        emit: &mut impl FnMut(WindowResult<'_>),
    ) {
        let until_us = now_us - self.behind_us() - GRACE_US;
        for series in &mut self.series {
            let window = &plans[series.plan].settings;
            let (unit, stamped) = (&self.unit, self.stamped);
            series.close_until(until_us, &mut |span| emit(result(window, name, unit, stamped, &span)));
        }
    }

    /// A sensor ahead of the wall clock counts as on time: its spans end later, never early.
    fn behind_us(&self) -> i64 {
        self.lag_us.max(0)
    }

    /// Goes along when the wall clock is set by `moved_us`.
    pub(super) fn clock_moved(&mut self, moved_us: i64) {
        let Some(newest_us) = self.newest_us else { return };
        if self.stamped {
            self.series.iter_mut().for_each(|series| series.clock_moved(newest_us, moved_us));
            self.newest_us = Some(newest_us + moved_us);
        } else {
            self.lag_us += moved_us;
        }
    }

    /// Whether its state is of no more use at `now_us`: silent so long that no late reading is to be
    /// expected, or in a future that was a wrong clock's. That its clock is ahead of ours is no reason: ours may
    /// not be set yet.
    pub(super) fn is_over(&self, now_us: i64) -> bool {
        let Some(newest_us) = self.newest_us else { return false };
        let duration_us = self.series.iter().map(Series::duration_us).max().unwrap_or(0);
        let silent_us = now_us - self.lag_us - newest_us;
        silent_us > duration_us + SILENCE_US || -silent_us > duration_us + FAR_BEHIND_US
    }

    /// Forgets all readings.
    pub(super) fn restart(&mut self) {
        self.series.iter_mut().for_each(Series::restart);
        self.unit.clear();
        self.mixed_units = false;
        self.newest_us = None;
        self.lag_us = 0;
        self.stamped = false;
    }

    /// Takes the series of `old` whose window is configured as before.
    pub(super) fn carry_over(&mut self, plans: &[Plan], old: Self, old_plans: &[Plan]) {
        let mut old_series: Vec<Series> = old.series.into_vec();
        let mut carried = false;
        for series in &mut self.series {
            let same = |old: &Series| old_plans[old.plan].settings == plans[series.plan].settings;
            if let Some(index) = old_series.iter().position(same) {
                *series = old_series.swap_remove(index).of_plan(series.plan);
                carried = true;
            }
        }
        if carried {
            self.unit = old.unit;
            self.mixed_units = old.mixed_units;
            self.newest_us = old.newest_us;
            self.lag_us = old.lag_us;
            self.stamped = old.stamped;
        }
    }
}

fn result<'a>(
    window: &'a Settings,
    sensor_name: &'a str,
    unit: &'a str,
    stamped: bool,
    span: &Span,
) -> WindowResult<'a> {
    let stats = &span.stats;
    let values = Values {
        start: span.start_us as f64 / 1e6,
        end: span.end_us as f64 / 1e6,
        mean: stats.mean(),
        max: stats.max,
        min: stats.min,
        std: stats.std(),
        sum: stats.sum(),
        count: stats.count,
    };
    WindowResult { window, sensor_name, unit, stamped, values }
}

/// How long after its end a span waits for readings still under way. Longer than the time between
/// two flushes, by which the lag may be off.
const GRACE_US: i64 = 5_000_000;
/// How long after its last span a sensor is remembered.
const SILENCE_US: i64 = 3_600_000_000;
