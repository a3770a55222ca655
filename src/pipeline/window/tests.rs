use std::time::Duration;

use super::*;

pub(super) fn window(name: &str, sensor: Option<&str>, duration: f64, step: f64) -> Settings {
    Settings {
        name: name.to_owned(),
        sensor_name: sensor.map(str::to_owned),
        duration: Duration::from_secs_f64(duration),
        step: Duration::from_secs_f64(step),
        kind: if duration == step { Kind::Tumbling } else { Kind::Rolling },
        aggregation: Aggregation::Mean,
        allowed_lateness: Duration::ZERO,
        percentile: None,
        half_life: None,
    }
}

pub(super) fn reading(sensor_name: &str, timestamp: f64, value: f64) -> Reading<'_> {
    Reading { sensor_name, timestamp, value, unit: "C", metadata: "{}" }
}

/// A result in short: window, sensor, start, end, count, sum.
type Row = (String, String, f64, f64, u64, f64);

fn row(result: WindowResult<'_>) -> Row {
    let WindowResult { window, sensor_name, values, .. } = result;
    let Values { start, end, count, sum, .. } = values;
    (window.name.clone(), sensor_name.to_owned(), start, end, count, sum)
}

fn add(windows: &mut Windows, reading: Reading<'_>) -> Vec<Row> {
    let mut rows = Vec::new();
    windows.add(reading, true, false, &mut |result| rows.push(row(result)));
    rows
}

fn flush(windows: &mut Windows, now: f64) -> Vec<Row> {
    let mut rows = Vec::new();
    windows.flush(now, &mut |result| rows.push(row(result)));
    rows
}

fn expected(window: &str, sensor: &str, start: f64, end: f64, count: u64, sum: f64) -> Row {
    (window.to_owned(), sensor.to_owned(), start, end, count, sum)
}

fn nothing_of(windows: &Windows) -> Counts {
    Counts { windows: vec![WindowCounts::default(); windows.plans.len()], ..Counts::default() }
}

/// A multiple of a minute and of an hour.
pub(super) const T: f64 = 1_717_156_800.0;

#[test]
fn a_tumbling_window_is_half_open_and_aligned_to_the_epoch() {
    let mut windows = Windows::new(&[window("w", Some("*"), 60.0, 60.0)]);
    assert_eq!(add(&mut windows, reading("a", T + 7.0, 1.0)), []);
    assert_eq!(add(&mut windows, reading("a", T + 59.999, 2.0)), []);
    assert_eq!(add(&mut windows, reading("a", T + 60.0, 4.0)), [expected("w", "a", T, T + 60.0, 2, 3.0)]);
    // Nothing in the next ones: they give no result.
    assert_eq!(
        add(&mut windows, reading("a", T + 600.0, 8.0)),
        [expected("w", "a", T + 60.0, T + 120.0, 1, 4.0)]
    );
}

#[test]
fn a_decimal_boundary_belongs_to_the_span_it_begins() {
    let mut windows = Windows::new(&[window("w", Some("*"), 0.1, 0.1)]);
    add(&mut windows, reading("a", T + 0.1, 1.0));
    assert_eq!(add(&mut windows, reading("a", T + 0.2, 1.0)), [expected("w", "a", T + 0.1, T + 0.2, 1, 1.0)]);
    assert_eq!(add(&mut windows, reading("a", T + 0.3, 1.0)), [expected("w", "a", T + 0.2, T + 0.3, 1, 1.0)]);
}

#[test]
fn a_rolling_window_covers_its_duration_at_every_step() {
    let mut windows = Windows::new(&[window("w", Some("*"), 30.0, 10.0)]);
    let mut rows = Vec::new();
    for index in 0..5 {
        rows.extend(add(&mut windows, reading("a", T + 10.0 * f64::from(index), 1.0)));
    }
    let counts: Vec<_> = rows.iter().map(|row| (row.2 - T, row.3 - T, row.4)).collect();
    assert_eq!(counts, [(-20.0, 10.0, 1), (-10.0, 20.0, 2), (0.0, 30.0, 3), (10.0, 40.0, 3)]);
}

#[test]
fn a_pattern_gives_each_sensor_its_own_window_and_none_pools_them() {
    let mut windows =
        Windows::new(&[window("each", Some("t*"), 60.0, 60.0), window("all", None, 60.0, 60.0)]);
    let mut rows = Vec::new();
    for (name, pooled) in [("t1", true), ("t2", false), ("x", true)] {
        windows.add(reading(name, T, 1.0), pooled, false, &mut |result| rows.push(row(result)));
    }
    assert_eq!(rows, []);
    let mut rows = flush(&mut windows, T + 65.0);
    rows.sort_by(|a, b| a.1.cmp(&b.1));
    assert_eq!(
        rows,
        [
            expected("all", "*", T, T + 60.0, 2, 2.0),
            expected("each", "t1", T, T + 60.0, 1, 1.0),
            expected("each", "t2", T, T + 60.0, 1, 1.0),
        ]
    );
}

#[test]
fn a_silent_sensor_gets_its_last_span_once_the_grace_is_over() {
    let mut windows = Windows::new(&[window("w", Some("*"), 60.0, 60.0)]);
    add(&mut windows, reading("a", T + 1.0, 1.0));
    assert_eq!(flush(&mut windows, T + 64.9), []);
    assert_eq!(flush(&mut windows, T + 65.0), [expected("w", "a", T, T + 60.0, 1, 1.0)]);
    assert_eq!(flush(&mut windows, T + 1000.0), []);
    assert_eq!(add(&mut windows, reading("a", T + 2.0, 1.0)), []);
    assert_eq!(windows.counts().windows[0].too_late, 1);
}

#[test]
fn a_sensor_whose_clock_trails_is_not_cut_short() {
    let mut windows = Windows::new(&[window("w", Some("*"), 60.0, 60.0)]);
    let mut rows = Vec::new();
    for second in 0..300 {
        let now = T + f64::from(second);
        rows.extend(flush(&mut windows, now));
        rows.extend(add(&mut windows, reading("a", now - 40.0, 1.0)));
    }
    assert_eq!(rows.iter().map(|row| row.4).collect::<Vec<_>>(), [40, 60, 60, 60, 60]);
    assert_eq!(*windows.counts(), nothing_of(&windows));
}

#[test]
fn a_replayed_file_keeps_its_windows_whole() {
    let mut windows = Windows::new(&[window("w", Some("*"), 60.0, 60.0)]);
    let two_years = 63_072_000.0;
    let mut rows = Vec::new();
    for index in 0..600 {
        if index % 100 == 0 {
            rows.extend(flush(&mut windows, T + two_years + f64::from(index) / 100.0));
        }
        rows.extend(add(&mut windows, reading("a", T + f64::from(index), 1.0)));
    }
    assert!(rows.iter().all(|row| row.4 == 60));
    assert_eq!(rows.len(), 9);
    assert_eq!(flush(&mut windows, T + two_years + 100.0).len(), 1);
}

#[test]
fn a_state_left_in_the_future_by_a_wrong_clock_is_forgotten() {
    let mut windows = Windows::new(&[window("w", Some("*"), 60.0, 60.0), window("all", None, 60.0, 60.0)]);
    let years = 1e8;
    flush(&mut windows, T + years);
    add(&mut windows, reading("a", T + years, 1.0));
    assert_eq!(flush(&mut windows, T), []);
    assert!(windows.sensors.is_empty());
    add(&mut windows, reading("a", T, 2.0));
    assert_eq!(flush(&mut windows, T + 70.0).len(), 2);
    assert_eq!(*windows.counts(), nothing_of(&windows));
}

#[test]
fn the_result_has_the_aggregates_and_the_unit() {
    let mut settings = window("w", None, 60.0, 60.0);
    for (aggregation, value) in [
        (Aggregation::Mean, 5.0),
        (Aggregation::Max, 9.0),
        (Aggregation::Min, 2.0),
        (Aggregation::Std, 2.0),
        (Aggregation::Sum, 40.0),
        (Aggregation::Count, 8.0),
    ] {
        settings.aggregation = aggregation;
        let mut windows = Windows::new(std::slice::from_ref(&settings));
        for value in [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0] {
            add(&mut windows, reading("a", T, value));
        }
        let mut seen = 0;
        windows.flush(T + 70.0, &mut |result| {
            seen += 1;
            assert_eq!(result.value, value);
            assert_eq!((result.unit, result.sensor_name), ("C", "*"));
        });
        assert_eq!(seen, 1);
    }
}

#[test]
fn a_window_over_sensors_of_different_units_has_none() {
    let mut windows = Windows::new(&[window("w", None, 60.0, 60.0)]);
    for unit in ["C", "F", "C"] {
        windows.add(Reading { unit, ..reading("a", T, 1.0) }, true, false, &mut |_| {});
    }
    windows.flush(T + 70.0, &mut |result| assert_eq!(result.unit, ""));
}

#[test]
fn a_reload_keeps_the_open_spans_of_windows_that_did_not_change() {
    let (kept, gone) = (window("kept", Some("*"), 60.0, 60.0), window("gone", None, 60.0, 60.0));
    let mut old = Windows::new(&[gone, kept.clone(), window("changed", None, 60.0, 60.0)]);
    add(&mut old, reading("a", T, 1.0));
    let mut new = Windows::new(&[window("changed", None, 120.0, 120.0), kept]);
    new.carry_over(old);
    add(&mut new, reading("a", T + 1.0, 2.0));
    let mut rows = flush(&mut new, T + 130.0);
    rows.sort_by(|a, b| a.1.cmp(&b.1));
    assert_eq!(
        rows,
        [expected("changed", "*", T, T + 120.0, 1, 2.0), expected("kept", "a", T, T + 60.0, 2, 3.0)]
    );
}

#[test]
fn more_sensors_than_there_is_room_for_are_counted_and_take_no_memory() {
    let mut windows = Windows::new(&[window("w", Some("*"), 60.0, 60.0)]);
    let sensors_max = STATES_MAX / 2;
    for number in 0..sensors_max + 25 {
        add(&mut windows, reading(&number.to_string(), T, 1.0));
    }
    assert_eq!((windows.sensors.len(), windows.counts().left_out), (sensors_max, 25));
    assert!(windows.full_since.is_some());
    // Known ones go on, and silent ones make room.
    assert_eq!(add(&mut windows, reading("7", T + 60.0, 1.0)).len(), 1);
    assert_eq!(flush(&mut windows, T + 7200.0).len(), sensors_max);
    assert!(windows.sensors.is_empty() && windows.full_since.is_none());
    assert_eq!((windows.states, windows.panes), (0, 0));
    add(&mut windows, reading("new", T + 7200.0, 1.0));
    assert_eq!(windows.counts().left_out, 25);
}

#[test]
fn panes_of_all_sensors_together_are_bounded() {
    let mut windows = Windows::new(&[window("w", Some("*"), 1024.0, 1.0)]);
    for number in 0..200 {
        add(&mut windows, reading(&number.to_string(), T, 1.0));
    }
    assert_eq!(windows.panes, PANES_MAX);
    assert_eq!(windows.counts().left_out, 200 - 76);
}

#[test]
fn what_no_window_can_take_is_left_out() {
    let refused = window("refused", Some("*"), 1e6, 0.001);
    assert!(refused.check().is_err());
    let mut windows = Windows::new(&[refused, window("w", Some("*"), 60.0, 60.0)]);
    for (time, value) in [
        (f64::NAN, 1.0),
        (f64::INFINITY, 1.0),
        (-1e300, 1.0),
        (T, f64::NAN),
        (T, f64::NEG_INFINITY),
        (T, 1e308),
    ] {
        assert_eq!(add(&mut windows, reading("a", time, value)), []);
    }
    assert_eq!(windows.counts().left_out, 6);
    assert_eq!(flush(&mut windows, f64::NAN), []);
    assert_eq!(flush(&mut windows, f64::MAX), []);
    add(&mut windows, reading("a", T, 1.0));
    assert_eq!(flush(&mut windows, T + 70.0), [expected("w", "a", T, T + 60.0, 1, 1.0)]);
}

/// Readings of the agent's own clock, one a second, around a jump of it.
fn stamped_around(jump: f64, source: Option<f64>) -> Vec<Row> {
    let mut windows = Windows::new(&[window("w", Some("*"), 60.0, 60.0), window("r", Some("*"), 60.0, 20.0)]);
    let mut rows = Vec::new();
    let mut now = source.unwrap_or(12.0);
    for second in 0..600 {
        if second == 290 {
            now += jump;
            windows.clock_moved(jump);
        }
        let mut emit = |result: WindowResult<'_>| rows.push(row(result));
        windows.flush(now, &mut emit);
        let timestamp = source.map_or(now, |start| start + f64::from(second));
        windows.add(reading("a", timestamp, 1.0), true, source.is_none(), &mut emit);
        now += 1.0;
    }
    windows.flush(now + 100.0, &mut |result| rows.push(row(result)));
    rows
}

#[test]
fn a_jump_of_the_agents_clock_ends_no_span_and_loses_no_reading() {
    for jump in [1.8e9, -1.0, 7.0, 1.8e9 + 31.0, 59.9, -11.0] {
        let rows = stamped_around(jump, None);
        assert!(rows.iter().all(|(.., start, end, _, _)| end - start == 60.0 && end % 20.0 == 0.0));
        let tumbling = rows.iter().filter(|(name, ..)| name == "w");
        assert_eq!(tumbling.map(|(.., count, _)| count).sum::<u64>(), 600, "{jump}");
    }
}

#[test]
fn a_jump_of_the_agents_clock_is_nothing_to_a_source_with_its_own() {
    let undisturbed = stamped_around(0.0, Some(T));
    for jump in [1.8e9, -30.0, 59.9] {
        assert_eq!(stamped_around(jump, Some(T)), undisturbed, "{jump}");
    }
    // The last span of a source that is ahead of our clock ends with its next reading.
    let ahead = stamped_around(-1.7e9, Some(T));
    assert!(undisturbed.starts_with(&ahead) && undisturbed.len() - ahead.len() < 8, "{ahead:?}");
}
