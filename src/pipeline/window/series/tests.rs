use std::time::Duration;

use super::*;
use crate::pipeline::window::{Aggregation, Kind};

fn plan(shape: Shape) -> Plan {
    Plan {
        settings: Settings {
            name: "w".to_owned(),
            sensor_name: None,
            duration: Duration::ZERO,
            step: Duration::ZERO,
            kind: Kind::Rolling,
            aggregation: Aggregation::Mean,
            allowed_lateness: Duration::ZERO,
            percentile: None,
            half_life: None,
        },
        shape,
    }
}

/// Start, end, count and sum.
type Row = (i64, i64, u64, f64);

fn row(span: Span) -> Row {
    (span.start_us, span.end_us, span.stats.count, span.stats.sum())
}

fn run(shape: Shape, times: impl IntoIterator<Item = i64>) -> (Vec<Row>, Vec<Fate>) {
    let plan = plan(shape);
    let mut series = Series::new(0, &plan);
    let mut rows = Vec::new();
    let mut fates = Vec::new();
    for time in times {
        fates.push(series.add(&plan, time, 1.0, &mut |span| rows.push(row(span))));
    }
    (rows, fates)
}

const MINUTE: i64 = 60_000_000;
const MINUTES: Shape = Shape { pane_us: MINUTE, panes: 1, step: 1, lateness_us: 0 };

#[test]
fn a_jump_of_years_costs_no_more_than_the_spans_with_readings() {
    let shape = Shape { pane_us: 1_000, panes: 1024, ..MINUTES };
    let (rows, fates) = run(shape, [0, 50 * 365 * 1440 * MINUTE, -50 * 365 * 1440 * MINUTE, 0]);
    assert_eq!(rows.len(), 1024 + 1024);
    assert_eq!(fates, [Fate::InTime, Fate::InTime, Fate::Restarted, Fate::InTime]);
}

#[test]
fn a_clock_set_back_a_little_is_believed_after_a_run_of_readings() {
    let back = (0..40).map(|minute| (100 + minute) * MINUTE);
    let (rows, fates) = run(MINUTES, std::iter::once(1000 * MINUTE).chain(back));
    let too_late = fates.iter().filter(|fate| **fate == Fate::TooLate).count();
    assert_eq!(too_late, LATE_RUN_MAX as usize - 1);
    assert_eq!(fates[LATE_RUN_MAX as usize], Fate::Restarted);
    assert_eq!(rows.len(), 40 - LATE_RUN_MAX as usize);
}

#[test]
fn one_old_reading_does_not_cost_the_open_span() {
    let (rows, fates) = run(MINUTES, [1000 * MINUTE, 998 * MINUTE, 1000 * MINUTE + 1, 1001 * MINUTE]);
    assert_eq!(fates[1], Fate::TooLate);
    assert_eq!(rows, [(1000 * MINUTE, 1001 * MINUTE, 2, 2.0)]);
}

#[test]
fn a_span_waits_for_the_lateness_that_is_allowed_and_no_longer() {
    let shape = Shape { lateness_us: MINUTE / 2, ..MINUTES };
    let ends = 10 * MINUTE + MINUTE + MINUTE / 2;
    // The first is late enough for a span of its own; one that is left out begins none.
    let times = [10 * MINUTE, 11 * MINUTE + 1, 10 * MINUTE + 5, 11 * MINUTE, ends - 1, 10 * MINUTE + 6];
    let (rows, fates) = run(shape, times);
    assert_eq!(rows, []);
    assert_eq!(fates[2..], [Fate::OutOfOrder, Fate::OutOfOrder, Fate::InTime, Fate::OutOfOrder]);
    let (rows, fates) = run(shape, times.into_iter().chain([ends, 10 * MINUTE + 7, 11 * MINUTE + 2]));
    assert_eq!(rows, [(10 * MINUTE, 11 * MINUTE, 3, 3.0)]);
    assert_eq!(fates[6..], [Fate::InTime, Fate::TooLate, Fate::OutOfOrder]);
}

#[test]
fn a_restart_leaves_nothing_of_the_time_before() {
    let plan = plan(Shape { panes: 3, ..MINUTES });
    let mut series = Series::new(0, &plan);
    let day = 1440 * MINUTE;
    let mut rows = Vec::new();
    series.add(&plan, 9 * day + MINUTE, 5.0, &mut |span| rows.push(row(span)));
    series.add(&plan, day, 1.0, &mut |span| rows.push(row(span)));
    // Reaches the very panes that were filled before the clock was set back.
    series.add(&plan, 9 * day, 2.0, &mut |span| rows.push(row(span)));
    rows.clear();
    series.close_until(&plan, i64::MAX, &mut |span| rows.push(row(span)));
    assert_eq!(rows.iter().map(|row| row.2).collect::<Vec<_>>(), [1, 1, 1]);
    assert!(rows.iter().all(|row| row.3 == 2.0));
}

#[test]
fn what_was_emitted_is_not_emitted_again() {
    let plan = plan(MINUTES);
    let mut series = Series::new(0, &plan);
    let mut rows = Vec::new();
    series.was_emitted(&plan, 4 * MINUTE);
    let mut add = |series: &mut Series, time| series.add(&plan, time, 1.0, &mut |span| rows.push(row(span)));
    assert_eq!(add(&mut series, 3 * MINUTE), Fate::TooLate);
    assert_eq!(add(&mut series, 4 * MINUTE), Fate::InTime);
    // An older result than the newest says nothing new.
    series.was_emitted(&plan, 2 * MINUTE);
    assert_eq!(add(&mut series, 5 * MINUTE), Fate::InTime);
    series.was_emitted(&plan, 6 * MINUTE);
    assert_eq!(add(&mut series, 7 * MINUTE), Fate::InTime);
    assert_eq!(rows, [(4 * MINUTE, 5 * MINUTE, 1, 1.0)]);
}

/// Pointers are smaller on others.
#[cfg(target_pointer_width = "64")]
#[test]
fn a_state_takes_as_many_bytes_as_the_documents_say() {
    let settings = plan(MINUTES).settings;
    let percentile = Settings { percentile: Some(50.0), ..settings.clone() };
    let ewma = Settings { half_life: Some(Duration::from_secs(1)), ..settings };
    assert_eq!((size_of::<Series>(), size_of::<Pane>(), size_of::<Stats>()), (72, 96, 88));
    let extras = [Extras::bytes(&percentile, 1), Extras::bytes(&ewma, 1)];
    assert_eq!(extras, [1_056, 24]);
}
