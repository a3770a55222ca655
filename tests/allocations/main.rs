//! What a reading passes through allocates nothing once its sensor is known. A binary of its own, because an allocator
//! is the whole process's.

#![expect(unsafe_code, reason = "an allocator that counts; it hands everything on to the system's")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use pyvorin_edge::pipeline::rule::{self, Judged, Rules};
use pyvorin_edge::pipeline::window::{Aggregation, Kind, Settings, Windows};
use pyvorin_edge::reading::Reading;

#[path = "../../examples/bench/conditions.rs"]
mod conditions;

use conditions::condition;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static HELD_BYTES: Cell<i64> = const { Cell::new(0) };
}

fn count(taken: usize, given: usize) {
    // At the end of a thread there is nothing left to count with, or for.
    ALLOCATIONS.try_with(|count| count.set(count.get() + u64::from(taken > 0))).ok();
    HELD_BYTES.try_with(|held| held.set(held.get() + taken as i64 - given as i64)).ok();
}

// SAFETY: every call goes to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: the caller's promises are those that it wants.
        unsafe { System.alloc(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: the same.
        unsafe { System.realloc(block, layout, size) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: the same.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn window(name: &str, sensor: Option<&str>, duration: u64, step: u64) -> Settings {
    Settings {
        name: name.to_owned(),
        sensor_name: sensor.map(str::to_owned),
        duration: Duration::from_secs(duration),
        step: Duration::from_secs(step),
        kind: Kind::Rolling,
        aggregation: Aggregation::Mean,
        allowed_lateness: Duration::from_secs(5),
        percentile: None,
        half_life: None,
    }
}

/// 2024-05-31T12:00:00Z.
const T: f64 = 1_717_156_800.0;
const SENSORS: u32 = 50;
const SECONDS: u32 = 600;

/// Allocations while windows take readings of ten minutes, and how many results they give.
fn allocations(settings: &[Settings]) -> (u64, u64) {
    let names: Vec<String> = (0..SENSORS).map(|number| format!("sensor-{number}")).collect();
    let mut windows = Windows::new(settings);
    let mut results = 0;
    let mut run = |from: u32, to: u32| {
        let before = ALLOCATIONS.get();
        for second in from..to {
            let now = T + f64::from(second);
            windows.flush(now, &mut |_| results += 1);
            for (number, name) in names.iter().enumerate() {
                // Some of them late.
                let timestamp = now - (number % 4) as f64;
                let reading = Reading {
                    sensor_name: name,
                    timestamp,
                    value: timestamp.sin(),
                    unit: "C",
                    metadata: "{}",
                };
                windows.add(reading, true, false, &mut |_| results += 1);
            }
        }
        ALLOCATIONS.get() - before
    };
    assert!(run(0, 1) > 0, "it counts");
    (run(1, SECONDS), results)
}

#[test]
fn windows_allocate_nothing_for_a_reading() {
    let settings = [
        window("tumbling", Some("*"), 60, 60),
        window("rolling", Some("sensor-*"), 300, 10),
        window("all", None, 60, 10),
    ];
    let (allocations, results) = allocations(&settings);
    assert!(results > 1000, "{results}");
    assert_eq!(allocations, 0);
}

#[test]
fn twenty_windows_and_a_hundred_rules_over_a_thousand_sensors_take_less_than_8_mb() {
    let settings: Vec<_> = (0..20).map(|number| window(&number.to_string(), Some("*"), 60, 60)).collect();
    let before = HELD_BYTES.get();
    let mut windows = Windows::new(&settings);
    let mut rules = Rules::new(&(0..100).map(rule).collect::<Vec<_>>()).unwrap();
    let compiled = HELD_BYTES.get() - before;
    let names: Vec<_> =
        (0..1000).map(|number| format!("plant/line-{}/sensor-{number}", number % 7)).collect();
    let mut allocations = 0;
    let before_readings = HELD_BYTES.get();
    for second in 0..3 {
        allocations = ALLOCATIONS.get();
        for name in &names {
            let timestamp = T + f64::from(second);
            let reading = Reading { sensor_name: name, timestamp, value: 20.0, unit: "C", metadata: "{}" };
            windows.add(reading, true, false, &mut |_| {});
            let judged = Judged { reading, stamped: false, since_boot: f64::from(second), leaves: true };
            rules.evaluate(judged, &mut |_| panic!("none of them is about such a value"));
        }
        allocations = ALLOCATIONS.get() - allocations;
    }
    let held = HELD_BYTES.get() - before_readings + compiled;
    assert_eq!(windows.counts().left_out, 0);
    println!(
        "{held} bytes, {compiled} of them for what is compiled; {allocations} allocations for the last 1,000 readings"
    );
    assert!((5_000_000..8_000_000).contains(&held), "{held}");
    assert_eq!(allocations, 0, "once every sensor is known");
}

fn rule(number: u32) -> rule::Settings {
    let condition_expr = condition(number);
    let cooldown = Duration::from_secs(60);
    rule::Settings { name: format!("r{number}"), condition_expr, cooldown, ..rule::Settings::default() }
}

#[test]
fn percentiles_and_weighted_means_allocate_for_a_result_and_not_for_a_reading() {
    let settings = [Settings {
        percentile: Some(95.0),
        half_life: Some(Duration::from_secs(10)),
        // More readings than a pane keeps as they are.
        ..window("all", None, 60, 60)
    }];
    let (allocations, results) = allocations(&settings);
    // One of them of the late readings before the first minute.
    assert_eq!(results, 10);
    // The values of a result are gathered in a list that grows.
    assert!(allocations <= results * 16, "{allocations}");
}
