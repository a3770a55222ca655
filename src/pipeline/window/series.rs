//! One window of one sensor: panes in a ring, and the spans over them that end one after another.
//!
//! A span's aggregate comes from two stacks (Tangwongsan, Hirzel and Schneider 2015): suffix
//! aggregates of the older panes and one aggregate of the newer, so that a result costs a constant
//! number of merges on average, extremes included.

use super::settings::Shape;
use super::stats::Stats;

/// The state of one window of one sensor. Panes are numbered from the epoch.
pub(super) struct Series {
    /// Index of the window this is of.
    pub(super) plan: usize,
    shape: Shape,
    /// Where the next span ends: it covers the `shape.panes` panes before this one. `None` before the
    /// first reading.
    next_end: Option<i64>,
    /// The newest pane with a reading.
    newest: i64,
    ring: Box<[Pane]>,
    /// At the slot of pane `i`: panes `i..suffix_end` merged.
    suffixes: Box<[Stats]>,
    suffix_end: i64,
    /// Panes `suffix_end..back_end` merged.
    back: Stats,
    back_end: i64,
    /// Whether the merged values still say what is in the panes.
    merged: bool,
    /// Readings in a row that came too late.
    late_run: u32,
}

#[derive(Clone, Copy)]
struct Pane {
    /// Which pane the slot holds; another number than the one asked for means that one is empty.
    number: i64,
    stats: Stats,
}

/// What became of a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    InTime,
    /// Older than the newest pane, in time for the spans still open.
    Late,
    /// Every span it belongs to has ended: left out.
    TooLate,
    /// So far back that the sensor's clock must have been set: begun anew, the open span is lost.
    Restarted,
}

/// A span that has ended, in microseconds since the epoch.
pub(super) struct Span {
    pub(super) start_us: i64,
    pub(super) end_us: i64,
    pub(super) stats: Stats,
}

impl Series {
    pub(super) fn new(plan: usize, shape: Shape) -> Self {
        let slots = usize::try_from(shape.panes).expect("a checked window has few panes");
        Self {
            plan,
            shape,
            next_end: None,
            newest: i64::MIN,
            ring: vec![Pane { number: i64::MIN, stats: Stats::EMPTY }; slots].into(),
            suffixes: vec![Stats::EMPTY; slots].into(),
            suffix_end: 0,
            back: Stats::EMPTY,
            back_end: 0,
            merged: false,
            late_run: 0,
        }
    }

    /// How many panes it keeps.
    pub(super) fn panes(&self) -> usize {
        self.ring.len()
    }

    /// The length of a span.
    pub(super) fn duration_us(&self) -> i64 {
        self.shape.panes * self.shape.pane_us
    }

    /// Takes a reading and first emits the spans that end at or before it. A span without readings
    /// is not emitted, so the work is bounded by the number of panes, however far the time jumps.
    pub(super) fn add(&mut self, time_us: i64, value: f64, emit: &mut impl FnMut(Span)) -> Fate {
        let pane = time_us.div_euclid(self.shape.pane_us);
        let Some(next_end) = self.next_end else {
            self.begin(pane, value);
            return Fate::InTime;
        };
        let oldest = next_end - self.shape.panes;
        if pane < oldest {
            self.late_run += 1;
            let behind_us = (oldest - pane).saturating_mul(self.shape.pane_us);
            if behind_us <= FAR_BEHIND_US && self.late_run < LATE_RUN_MAX {
                return Fate::TooLate;
            }
            self.restart();
            self.begin(pane, value);
            return Fate::Restarted;
        }
        self.late_run = 0;
        let late = pane < self.newest;
        self.close_before(pane, emit);
        self.put(pane, value);
        if late { Fate::Late } else { Fate::InTime }
    }

    /// Emits the spans with readings that end at or before `until_us`.
    pub(super) fn close_until(&mut self, until_us: i64, emit: &mut impl FnMut(Span)) {
        while let Some(end) = self.next_end {
            if !self.holds_readings() || end * self.shape.pane_us > until_us {
                return;
            }
            self.close(end, emit);
        }
    }

    /// Goes along when the clock of the readings, the newest of them at `newest_us`, is set by `moved_us`:
    /// the span that the newest lies in becomes the one at its new time, and earlier ones follow.
    pub(super) fn clock_moved(&mut self, newest_us: i64, moved_us: i64) {
        let step_us = self.shape.step * self.shape.pane_us;
        let steps = (newest_us + moved_us).div_euclid(step_us) - newest_us.div_euclid(step_us);
        let panes = steps * self.shape.step;
        let Some(next_end) = self.next_end.filter(|_| panes != 0) else { return };
        self.next_end = Some(next_end + panes);
        self.newest += panes;
        (self.merged, self.suffix_end, self.back_end) = (false, 0, 0);
        let empty = vec![Pane { number: i64::MIN, stats: Stats::EMPTY }; self.ring.len()];
        let held = std::mem::replace(&mut self.ring, empty.into());
        for pane in held.into_iter().filter(|pane| pane.number != i64::MIN) {
            let number = pane.number + panes;
            let slot = self.slot(number);
            self.ring[slot] = Pane { number, ..pane };
        }
    }

    /// Forgets all readings.
    pub(super) fn restart(&mut self) {
        self.next_end = None;
        self.newest = i64::MIN;
        self.merged = false;
        self.suffix_end = 0;
        self.back_end = 0;
        self.late_run = 0;
        // Numbers of a time that is yet to come must not be taken for panes of it.
        self.ring.fill(Pane { number: i64::MIN, stats: Stats::EMPTY });
    }

    /// The same state as that of window `plan`.
    pub(super) fn of_plan(self, plan: usize) -> Self {
        Self { plan, ..self }
    }

    /// Whether the next span has any reading.
    fn holds_readings(&self) -> bool {
        self.next_end.is_some_and(|end| self.newest >= end - self.shape.panes)
    }

    fn begin(&mut self, pane: i64, value: f64) {
        self.next_end = Some(self.end_after(pane));
        self.put(pane, value);
    }

    /// Ends spans until `pane` lies before the end of the next one.
    fn close_before(&mut self, pane: i64, emit: &mut impl FnMut(Span)) {
        while let Some(end) = self.next_end {
            if pane < end {
                return;
            }
            if !self.holds_readings() {
                // Nothing was read for a while: on to the first span that has the new reading.
                self.next_end = Some(self.end_after(pane));
                self.merged = false;
                return;
            }
            self.close(end, emit);
        }
    }

    fn close(&mut self, end: i64, emit: &mut impl FnMut(Span)) {
        let stats = self.aggregate(end);
        self.next_end = Some(end + self.shape.step);
        let Shape { pane_us, panes, .. } = self.shape;
        emit(Span { start_us: (end - panes) * pane_us, end_us: end * pane_us, stats });
    }

    /// The first end of a span after `pane`; ends are the multiples of the step since the epoch.
    fn end_after(&self, pane: i64) -> i64 {
        (pane.div_euclid(self.shape.step) + 1) * self.shape.step
    }

    fn put(&mut self, pane: i64, value: f64) {
        let slot = self.slot(pane);
        let held = &mut self.ring[slot];
        if held.number != pane {
            *held = Pane { number: pane, stats: Stats::EMPTY };
        }
        held.stats.add(value);
        self.newest = self.newest.max(pane);
        if pane < self.back_end {
            self.merged = false;
        }
    }

    /// All panes of the span that ends at `end`.
    fn aggregate(&mut self, end: i64) -> Stats {
        let first = end - self.shape.panes;
        if !self.merged || first >= self.suffix_end {
            let mut total = Stats::EMPTY;
            for pane in (first..end).rev() {
                self.merge_pane(pane, &mut total);
                let slot = self.slot(pane);
                self.suffixes[slot] = total;
            }
            self.suffix_end = end;
            self.back = Stats::EMPTY;
            self.back_end = end;
            self.merged = true;
            return total;
        }
        let mut back = self.back;
        for pane in self.back_end..end {
            self.merge_pane(pane, &mut back);
        }
        self.back = back;
        self.back_end = end;
        let mut total = self.suffixes[self.slot(first)];
        total.merge(&back);
        total
    }

    fn merge_pane(&self, pane: i64, into: &mut Stats) {
        let held = &self.ring[self.slot(pane)];
        if held.number == pane {
            into.merge(&held.stats);
        }
    }

    fn slot(&self, pane: i64) -> usize {
        usize::try_from(pane.rem_euclid(self.shape.panes)).expect("a remainder is not negative")
    }
}

/// A reading this far behind the open span means that a clock was set back, not that it is late.
pub(super) const FAR_BEHIND_US: i64 = 86_400_000_000;
/// So many readings in a row that are too late mean the same.
const LATE_RUN_MAX: u32 = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Row = (i64, i64, u64, f64, f64, f64);

    fn row(span: Span) -> Row {
        let Stats { count, min, max, .. } = span.stats;
        (span.start_us, span.end_us, count, min, max, span.stats.sum())
    }

    /// The definition, with every reading kept and every span computed from them anew.
    #[derive(Default)]
    struct Model {
        readings: Vec<(i64, f64)>,
        next_end: Option<i64>,
    }

    impl Model {
        fn add(&mut self, shape: Shape, time_us: i64, value: f64, rows: &mut Vec<Row>) -> Fate {
            let (duration, step) = (shape.panes * shape.pane_us, shape.step * shape.pane_us);
            let end_after = (time_us.div_euclid(step) + 1) * step;
            let mut end = self.next_end.unwrap_or(end_after);
            if self.next_end.is_some() && time_us < end - duration {
                return Fate::TooLate;
            }
            let newest = self.readings.iter().map(|(time, _)| time.div_euclid(shape.pane_us)).max();
            let late = newest.is_some_and(|newest| time_us.div_euclid(shape.pane_us) < newest);
            while time_us >= end {
                let inside = |time: i64| (end - duration..end).contains(&time);
                let values: Vec<f64> =
                    self.readings.iter().filter(|(time, _)| inside(*time)).map(|(_, value)| *value).collect();
                if values.is_empty() {
                    end = end_after;
                    break;
                }
                let (min, max) = values.iter().fold((f64::MAX, f64::MIN), |(a, b), v| (a.min(*v), b.max(*v)));
                rows.push((end - duration, end, values.len() as u64, min, max, values.iter().sum()));
                end += step;
            }
            self.next_end = Some(end);
            self.readings.push((time_us, value));
            if late { Fate::Late } else { Fate::InTime }
        }
    }

    proptest! {
        #[test]
        fn spans_are_those_of_the_definition(
            panes in 1_i64..12,
            step in 1_i64..12,
            steps in proptest::collection::vec((-8_i64..25, 0_i32..100), 1..200),
            jump in 1_000_i64..1_000_000_000,
        ) {
            let shape = Shape { pane_us: 3, panes, step: step.min(panes) };
            let mut series = Series::new(0, shape);
            let mut model = Model::default();
            let (mut found, mut expected) = (Vec::new(), Vec::new());
            let mut time = -50;
            for (index, (by, value)) in steps.into_iter().enumerate() {
                time += if index % 50 == 49 { jump } else { by };
                // Whole numbers, so that sums are exact in any order.
                let value = f64::from(value);
                let fate = model.add(shape, time, value, &mut expected);
                if fate == Fate::TooLate {
                    // Never so many in a row that it begins anew.
                    series.late_run = 0;
                }
                prop_assert_eq!(series.add(time, value, &mut |span| found.push(row(span))), fate);
            }
            prop_assert_eq!(found, expected);
        }
    }

    fn run(shape: Shape, times: impl IntoIterator<Item = i64>) -> (Vec<Row>, Vec<Fate>) {
        let mut series = Series::new(0, shape);
        let mut rows = Vec::new();
        let mut fates = Vec::new();
        for time in times {
            fates.push(series.add(time, 1.0, &mut |span| rows.push(row(span))));
        }
        (rows, fates)
    }

    const MINUTE: i64 = 60_000_000;

    #[test]
    fn a_jump_of_years_costs_no_more_than_the_spans_with_readings() {
        let shape = Shape { pane_us: 1_000, panes: 1024, step: 1 };
        let (rows, fates) = run(shape, [0, 50 * 365 * 1440 * MINUTE, -50 * 365 * 1440 * MINUTE, 0]);
        assert_eq!(rows.len(), 1024 + 1024);
        assert_eq!(fates, [Fate::InTime, Fate::InTime, Fate::Restarted, Fate::InTime]);
    }

    #[test]
    fn a_clock_set_back_a_little_is_believed_after_a_run_of_readings() {
        let shape = Shape { pane_us: MINUTE, panes: 1, step: 1 };
        let back = (0..40).map(|minute| (100 + minute) * MINUTE);
        let (rows, fates) = run(shape, std::iter::once(1000 * MINUTE).chain(back));
        let too_late = fates.iter().filter(|fate| **fate == Fate::TooLate).count();
        assert_eq!(too_late, LATE_RUN_MAX as usize - 1);
        assert_eq!(fates[LATE_RUN_MAX as usize], Fate::Restarted);
        assert_eq!(rows.len(), 40 - LATE_RUN_MAX as usize);
    }

    #[test]
    fn one_old_reading_does_not_cost_the_open_span() {
        let shape = Shape { pane_us: MINUTE, panes: 1, step: 1 };
        let (rows, fates) = run(shape, [1000 * MINUTE, 998 * MINUTE, 1000 * MINUTE + 1, 1001 * MINUTE]);
        assert_eq!(fates[1], Fate::TooLate);
        assert_eq!(rows, [(1000 * MINUTE, 1001 * MINUTE, 2, 1.0, 1.0, 2.0)]);
    }

    #[test]
    fn a_restart_leaves_nothing_of_the_time_before() {
        let shape = Shape { pane_us: MINUTE, panes: 3, step: 1 };
        let mut series = Series::new(0, shape);
        let day = 1440 * MINUTE;
        let mut rows = Vec::new();
        series.add(9 * day + MINUTE, 5.0, &mut |span| rows.push(row(span)));
        series.add(day, 1.0, &mut |span| rows.push(row(span)));
        // Reaches the very panes that were filled before the clock was set back.
        series.add(9 * day, 2.0, &mut |span| rows.push(row(span)));
        rows.clear();
        series.close_until(i64::MAX, &mut |span| rows.push(row(span)));
        assert_eq!(rows.iter().map(|row| row.2).collect::<Vec<_>>(), [1, 1, 1]);
        assert!(rows.iter().all(|row| row.5 == 2.0));
    }
}
