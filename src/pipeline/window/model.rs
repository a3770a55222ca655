//! The windows against their definition: a model that keeps every reading and computes every span from all of them,
//! and Python's `statistics` for the numbers.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use proptest::prelude::*;

use super::series::LATE_RUN_MAX;
use super::tests::{T, reading, window};
use super::*;
use crate::python;

/// A result: window, sensor, start and end in microseconds, count, and what can be computed exactly of whole numbers.
type Row = (String, String, i64, i64, u64, [f64; 6]);

fn row(result: WindowResult<'_>) -> Row {
    let Values { start, end, count, sum, min, max, first, last, percentile, .. } = result.values;
    let span = [start, end].map(|seconds| micros(seconds).unwrap());
    let values = [sum, min, max, first, last, percentile.unwrap_or(f64::NAN)];
    (result.window.name.clone(), result.sensor_name.to_owned(), span[0], span[1], count, values)
}

/// The time by which a reading belongs to spans, the time that it has, and its value.
type Dated = (i64, i64, f64);
/// Start and end, and the readings between them in the order of their arrival.
type SpanOfModel = (i64, i64, Vec<Dated>);

/// One window of one sensor.
#[derive(Clone, Default)]
struct Kept {
    /// In the order of arrival.
    readings: Vec<Dated>,
    /// Where the first span that was not looked at ends.
    next_end: Option<i64>,
    newest: Option<i64>,
    late_run: u32,
    counts: WindowCounts,
}

#[derive(Clone, Copy)]
struct Shape {
    duration: i64,
    step: i64,
    lateness: i64,
}

impl Kept {
    fn add(&mut self, shape: Shape, time: i64, value: f64, rows: &mut Vec<SpanOfModel>) {
        let after = |time: i64| (time.div_euclid(shape.step) + 1) * shape.step;
        let end = *self.next_end.get_or_insert(after(time - shape.lateness));
        if time < end - shape.duration {
            self.late_run += 1;
            assert!(self.late_run < LATE_RUN_MAX, "no clock is set back in these tests");
            self.counts.too_late += 1;
            return;
        }
        self.late_run = 0;
        self.counts.out_of_order += u64::from(self.newest.is_some_and(|newest| time < newest));
        self.close(shape, time - shape.lateness, rows);
        self.next_end = self.next_end.max(Some(after(time - shape.lateness)));
        self.readings.push((time, time, value));
        self.newest = self.newest.max(Some(time));
    }

    fn close(&mut self, shape: Shape, until: i64, rows: &mut Vec<SpanOfModel>) {
        while let Some(end) = self.next_end.filter(|end| *end <= until) {
            let start = end - shape.duration;
            let latest = self.readings.iter().map(|(place, ..)| *place).max();
            if latest.is_none_or(|latest| latest < start) {
                return;
            }
            let inside = |(place, ..): &&Dated| (start..end).contains(place);
            let readings: Vec<_> = self.readings.iter().filter(inside).copied().collect();
            if !readings.is_empty() {
                rows.push((start, end, readings));
            }
            self.next_end = Some(end + shape.step);
        }
    }

    fn clock_moved(&mut self, shape: Shape, moved: i64) {
        let (Some(newest), Some(end)) = (self.newest, self.next_end) else { return };
        let steps = (newest + moved).div_euclid(shape.step) - newest.div_euclid(shape.step);
        self.next_end = Some(end + steps * shape.step);
        self.newest = Some(newest + moved);
        for (place, time, _) in &mut self.readings {
            *place += steps * shape.step;
            *time += moved;
        }
    }
}

fn exact_percentile(values: &mut [f64], p: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let place = (values.len() - 1) as f64 * (p / 100.0);
    let (lower, upper) = (values[place as usize], values[(place as usize + 1).min(values.len() - 1)]);
    lower + (upper - lower) * place.fract()
}

/// In place of a first or last value of which it is not known which came first: the clock was set between readings that
/// have the same time now.
const EITHER: f64 = f64::INFINITY;

fn row_of(window: &str, sensor: &str, (start, end, readings): SpanOfModel) -> Row {
    let mut values: Vec<f64> = readings.iter().map(|(.., value)| *value).collect();
    let extreme = |pick: fn(f64, f64) -> f64| values.iter().copied().reduce(pick).unwrap();
    let (min, max, sum) = (extreme(f64::min), extreme(f64::max), values.iter().sum());
    // The first that came of the earliest, and the last that came of the latest: `min_by_key` and `max_by_key` do so.
    let first = *readings.iter().min_by_key(|(_, time, _)| *time).unwrap();
    let last = *readings.iter().max_by_key(|(_, time, _)| *time).unwrap();
    let value = |end: Dated| {
        // Set differently far from the place that they were put to, they did not come on one clock.
        let is_doubtful = readings.iter().any(|(place, time, _)| *time == end.1 && *place != end.0);
        if is_doubtful { EITHER } else { end.2 }
    };
    let (first, last) = (value(first), value(last));
    let count = values.len() as u64;
    let percentile = exact_percentile(&mut values, 90.0);
    (window.to_owned(), sensor.to_owned(), start, end, count, [sum, min, max, first, last, percentile])
}

/// What happens: a reading of a sensor so many ticks before the newest instant, or behind it; a look at the clock; the
/// clock is set.
#[derive(Clone, Debug)]
enum Step {
    Reading { sensor: usize, behind: i64, value: i32 },
    Pass { by: i64 },
    Jump { by: i64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0_usize..3, 0_i64..40, -50_i32..50)
            .prop_map(|(sensor, behind, value)| Step::Reading { sensor, behind: (behind - 25).max(0), value }),
        4 => (1_i64..30).prop_map(|by| Step::Pass { by }),
        1 => (-100_i64..1000).prop_map(|by| Step::Jump { by }),
    ]
}

/// A tenth of a second, in microseconds.
const TICK: i64 = 100_000;

proptest! {
    #[test]
    fn windows_are_those_of_the_definition(
        steps in proptest::collection::vec(step(), 1..150),
        rolling in (1_i64..8, 1_i64..8),
        lateness in 0_i64..30,
    ) {
        let (panes, hop) = (rolling.0.max(rolling.1), rolling.0.min(rolling.1));
        let shapes = [(20, 20, lateness), (10 * panes, 10 * hop, lateness / 3), (30, 30, 0)]
            .map(|(duration, step, lateness)| Shape {
                duration: duration * TICK,
                step: step * TICK,
                lateness: lateness * TICK,
            });
        let settings: Vec<Settings> = shapes.iter().zip(["tumbling", "rolling", "all"]).map(|(shape, name)| {
            let seconds = |micros: i64| micros as f64 / 1e6;
            let sensor = (name != "all").then_some("s*");
            let mut settings = window(name, sensor, seconds(shape.duration), seconds(shape.step));
            settings.allowed_lateness = std::time::Duration::from_micros(shape.lateness as u64);
            settings.percentile = Some(90.0);
            settings
        }).collect();
        let mut windows = Windows::new(&settings);
        let mut kept: BTreeMap<(usize, String), Kept> = BTreeMap::new();
        // By sensor: its newest reading, and how far that trailed the clock.
        let mut lags: BTreeMap<String, (i64, i64)> = BTreeMap::new();
        let (mut found, mut expected) = (Vec::new(), Vec::new());
        let mut now = micros(T).unwrap();
        windows.flush(T, &mut |_| {});
        for step in steps {
            match step {
                Step::Reading { sensor, behind, value } => {
                    let name = format!("s{sensor}");
                    let (time, value) = (now - behind * TICK, f64::from(value));
                    for (index, shape) in shapes.iter().enumerate() {
                        let of = if index == 2 { "*" } else { name.as_str() };
                        let mut rows = Vec::new();
                        kept.entry((index, of.to_owned())).or_default().add(*shape, time, value, &mut rows);
                        expected.extend(rows.into_iter().map(|row| row_of(&settings[index].name, of, row)));
                    }
                    for of in ["*", name.as_str()] {
                        let lag = lags.entry(of.to_owned()).or_insert((i64::MIN, 0));
                        if time >= lag.0 {
                            *lag = (time, now - time);
                        }
                    }
                    let reading = reading(&name, time as f64 / 1e6, value);
                    windows.add(reading, true, true, &mut |result| found.push(row(result)));
                }
                Step::Pass { by } => {
                    now += by * TICK;
                    for ((index, of), kept) in &mut kept {
                        let lag = lags[of].1.max(0);
                        let until = now - lag - shapes[*index].lateness.max(5_000_000);
                        let mut rows = Vec::new();
                        kept.close(shapes[*index], until, &mut rows);
                        expected.extend(rows.into_iter().map(|row| row_of(&settings[*index].name, of, row)));
                    }
                    windows.flush(now as f64 / 1e6, &mut |result| found.push(row(result)));
                }
                Step::Jump { by } => {
                    now += by * TICK;
                    kept.iter_mut().for_each(|((index, _), kept)| kept.clock_moved(shapes[*index], by * TICK));
                    lags.values_mut().for_each(|(newest, _)| *newest += by * TICK);
                    windows.clock_moved(by as f64 / 10.0);
                }
            }
            // Of one look at the clock, sensors come in no order.
            found.sort_by(|a, b| (&a.0, &a.1, a.2).cmp(&(&b.0, &b.1, b.2)));
            expected.sort_by(|a, b| (&a.0, &a.1, a.2).cmp(&(&b.0, &b.1, b.2)));
            for (found, expected) in found.iter_mut().zip(&expected) {
                let doubtful = found.5.iter_mut().zip(expected.5).filter(|(_, expected)| *expected == EITHER);
                doubtful.for_each(|(found, _)| *found = EITHER);
            }
            prop_assert_eq!(&found, &expected);
        }
        for (index, (_, counts)) in windows.counts_by_window().enumerate() {
            let of_model = kept.iter().filter(|((window, _), _)| *window == index).map(|(_, kept)| kept.counts);
            let sum = of_model.fold((0, 0), |sum, of| (sum.0 + of.out_of_order, sum.1 + of.too_late));
            prop_assert_eq!((counts.out_of_order, counts.too_late), sum);
        }
    }
}

/// Readings of one span: microseconds from its start, and values.
fn spans() -> Vec<Vec<(i64, f64)>> {
    let mut random = fastrand::Rng::with_seed(23);
    (0..200)
        .map(|case| {
            let (offset, scale) =
                [(0.0, 1.0), (1e9, 1e-3), (-1e9, 1e-3), (1e9, 1.0), (1e12, 0.5), (21.3, 1e-6)][case % 6];
            let count = if case < 3 { 1 } else { random.usize(2..400) };
            // In no order, and several at a time.
            (0..count).map(|_| (random.i64(0..600) * TICK, offset + scale * random.f64())).collect()
        })
        .collect()
}

const PYTHON: &str = "\
import math, statistics, sys
for line in sys.stdin:
    rows = [(int(t), float(v)) for t, v in (word.split(',') for word in line.split())]
    v = [value for _, value in rows]
    first = min(rows, key=lambda row: row[0])
    last = max(reversed(rows), key=lambda row: row[0])
    apart = last[0] - first[0]
    ages = [2.0 ** ((t - last[0]) / 1e7) for t, _ in rows]
    low = min(v)
    ewma = low + math.fsum(a * (x - low) for a, x in zip(ages, v)) / math.fsum(ages)
    p95 = statistics.quantiles(v, n=100, method='inclusive')[94] if len(v) > 1 else v[0]
    out = [statistics.fmean(v), max(v), min(v), statistics.pstdev(v), math.fsum(v), len(v), first[1], last[1],
           (last[1] - first[1]) / (apart / 1e6) if apart else 'nan', p95, ewma]
    print(*(repr(float(x)) for x in out))
";

#[test]
fn the_numbers_of_a_span_are_those_of_python() {
    let spans = spans();
    let mut input = String::new();
    for span in &spans {
        span.iter().for_each(|(time, value)| write!(input, "{time},{value:?} ").unwrap());
        input.push('\n');
    }
    let text = python::answers(PYTHON, input);
    assert_eq!(text.lines().count(), spans.len());
    for (span, line) in spans.iter().zip(text.lines()) {
        let expected: Vec<f64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
        // As one pane, and merged from six.
        for (duration, step) in [(60.0, 60.0), (60.0, 10.0)] {
            let found = of_span(span, duration, step);
            let range = expected[1] - expected[2];
            let digits = expected[1].abs().max(expected[2].abs()) * f64::EPSILON;
            for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let allowed = match index {
                    // Extremes, counts, first and last are exact.
                    1 | 2 | 5 | 6 | 7 => 0.0,
                    // The second moment has half the digits where the offset is large, as long as those are there.
                    3 => 1e-9 * expected + digits,
                    4 => digits * span.len() as f64,
                    9 => digits + if span.len() > sketch::VALUES_MAX { range / 255.0 } else { 0.0 },
                    10 => 8.0 * digits + 1e-12 * range,
                    _ => digits,
                };
                let is_near = (found - expected).abs() <= allowed || found.is_nan() && expected.is_nan();
                assert!(is_near, "number {index}: {found}, Python {expected}; {allowed} allowed of {span:?}");
            }
        }
    }
}

/// The numbers of the span `[T, T + 60)`, in Python's order.
fn of_span(span: &[(i64, f64)], duration: f64, step: f64) -> Vec<f64> {
    let mut settings = window("w", Some("*"), duration, step);
    settings.allowed_lateness = std::time::Duration::from_secs(60);
    settings.percentile = Some(95.0);
    settings.half_life = Some(std::time::Duration::from_secs(10));
    let mut windows = Windows::new(&[settings]);
    for (time, value) in span {
        let time = T + *time as f64 / 1e6;
        windows.add(reading("a", time, *value), true, false, &mut |_| panic!("it is still open"));
    }
    let mut numbers = Vec::new();
    windows.flush(T + 10_000.0, &mut |result| {
        let Values { start, mean, max, min, std, sum, count, first, last, rate, percentile, ewma, .. } =
            result.values;
        if start == T {
            let optional = [rate, percentile, ewma].map(|number| number.unwrap_or(f64::NAN));
            numbers = [&[mean, max, min, std, sum, count as f64, first, last][..], &optional].concat();
        }
    });
    numbers
}
