//! What the windows know about one sensor: a series for each of its windows, its unit, and how far
//! its time trails the wall clock.

use super::series::{Fate, Plan, Series, Span};
use super::{Aggregation, Counts, FAR_BEHIND_US, Settings, Values, WindowResult};
use crate::reading::Reading;

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
            series: plans.map(|(index, plan)| Series::new(index, plan)).collect(),
            unit: String::new(),
            mixed_units: false,
            newest_us: None,
            lag_us: 0,
            stamped: false,
        }
    }

    /// What it takes in memory, in panes.
    pub(super) fn panes(&self, plans: &[Plan]) -> usize {
        self.series.iter().map(|series| plan_of(plans, series).weight()).sum()
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
            let plan = plan_of(plans, series);
            let unit = &self.unit;
            let mut emit = emitting(&plan.settings, reading.sensor_name, unit, stamped, emit);
            let fate = series.add(plan, time_us, reading.value, &mut emit);
            let of_window = &mut counts.windows[series.plan as usize];
            match fate {
                Fate::InTime => {}
                Fate::OutOfOrder => of_window.out_of_order += 1,
                Fate::TooLate => of_window.too_late += 1,
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

    /// Closes the spans that ended before the sensor's own present: the wall clock, less how far its readings trail it,
    /// less the grace or the lateness that is allowed, whichever is longer.
    pub(super) fn flush(
        &mut self,
        plans: &[Plan],
        name: &str,
        now_us: i64,
        emit: &mut impl FnMut(WindowResult<'_>),
    ) {
        let present_us = now_us - self.behind_us();
        for series in &mut self.series {
            let plan = plan_of(plans, series);
            let until_us = present_us - plan.shape.lateness_us.max(GRACE_US);
            let mut emit = emitting(&plan.settings, name, &self.unit, self.stamped, emit);
            series.close_until(plan, until_us, &mut emit);
        }
    }

    /// Takes the spans of window `index` up to the end at `end_us` for emitted. The sensor was there then.
    pub(super) fn was_emitted(&mut self, plans: &[Plan], index: usize, end_us: i64) {
        let Some(series) = self.series.iter_mut().find(|series| series.plan as usize == index) else {
            return;
        };
        series.was_emitted(plan_of(plans, series), end_us);
        self.newest_us = self.newest_us.max(Some(end_us - 1));
    }

    /// Has its own time go on at `now_us` where its newest reading left it.
    pub(super) fn resume(&mut self, now_us: i64) {
        self.lag_us = self.newest_us.map_or(0, |newest| now_us - newest);
    }

    /// A sensor ahead of the wall clock counts as on time: its spans end later, never early.
    fn behind_us(&self) -> i64 {
        self.lag_us.max(0)
    }

    /// Goes along when the wall clock is set by `moved_us`.
    pub(super) fn clock_moved(&mut self, plans: &[Plan], moved_us: i64) {
        let Some(newest_us) = self.newest_us else { return };
        if self.stamped {
            for series in &mut self.series {
                series.clock_moved(plan_of(plans, series), moved_us);
            }
            self.newest_us = Some(newest_us + moved_us);
        } else {
            self.lag_us += moved_us;
        }
    }

    /// Whether its state is of no more use at `now_us`: silent so long that no late reading is to be
    /// expected, or in a future that was a wrong clock's. That its clock is ahead of ours is no reason: ours may
    /// not be set yet.
    pub(super) fn is_over(&self, plans: &[Plan], now_us: i64) -> bool {
        let Some(newest_us) = self.newest_us else { return false };
        let durations = self.series.iter().map(|series| plan_of(plans, series).duration_us());
        let duration_us = durations.max().unwrap_or(0);
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
            let same = |old: &Series| plan_of(old_plans, old).settings == plan_of(plans, series).settings;
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

fn plan_of<'p>(plans: &'p [Plan], series: &Series) -> &'p Plan {
    &plans[series.plan as usize]
}

/// Emits the results of spans; a span that does not have what the window is for has none.
fn emitting<'a>(
    window: &'a Settings,
    sensor_name: &'a str,
    unit: &'a str,
    stamped: bool,
    emit: &'a mut impl FnMut(WindowResult<'_>),
) -> impl FnMut(Span) + 'a {
    move |span| {
        let values = values(&span);
        if let Some(value) = value(window.aggregation, &values) {
            emit(WindowResult { window, sensor_name, unit, stamped, value, values });
        }
    }
}

fn values(span: &Span) -> Values {
    let stats = &span.stats;
    // Rounding may carry them just past the extremes.
    let within = |value: f64| value.max(stats.min).min(stats.max);
    Values {
        start: span.start_us as f64 / 1e6,
        end: span.end_us as f64 / 1e6,
        mean: stats.mean(),
        max: stats.max,
        min: stats.min,
        std: stats.std(),
        sum: stats.sum(),
        count: stats.count,
        first: stats.first(),
        last: stats.last(),
        rate: stats.rate(),
        percentile: span.percentile.map(within),
        ewma: span.ewma.map(within),
    }
}

fn value(aggregation: Aggregation, values: &Values) -> Option<f64> {
    Some(match aggregation {
        Aggregation::Mean => values.mean,
        Aggregation::Max => values.max,
        Aggregation::Min => values.min,
        Aggregation::Std => values.std,
        Aggregation::Sum => values.sum,
        Aggregation::Count => values.count as f64,
        Aggregation::First => values.first,
        Aggregation::Last => values.last,
        Aggregation::Rate => return values.rate,
        Aggregation::Percentile => return values.percentile,
        Aggregation::Ewma => return values.ewma,
    })
}

/// How long after its end a span waits for readings still under way. Longer than the time between
/// two flushes, by which the lag may be off.
const GRACE_US: i64 = 5_000_000;
/// How long after its last span a sensor is remembered.
const SILENCE_US: i64 = 3_600_000_000;
