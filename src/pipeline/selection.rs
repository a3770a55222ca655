//! What of a sensor leaves the device, and how often: `[[policies.delivery]]`.
//!
//! A flat line is thinned out by its deadband, and is still no silence: a heartbeat is let through, and what goes out
//! says how many readings before it stayed here. Whatever is not let through is stored on the device all the same,
//! and windows and rules see it.

use std::collections::HashMap;
use std::time::Duration;

use crate::privacy::pattern::matches;
use crate::reading::Reading;

/// One entry: what leaves the device of the sensors that match.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// A pattern over sensor names, with `*` and `?`; the first entry that matches decides.
    pub sensor: String,
    pub readings: bool,
    /// Results of windows, by the name that they bear.
    pub windows: bool,
    pub events: bool,
    pub deadband: Option<Deadband>,
}

/// Report by exception.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Deadband {
    /// A reading goes out when its value is further from that of the last that did.
    pub width: f64,
    /// Or when its time is so far from that of the last that did.
    pub heartbeat: Duration,
}

/// What is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selected {
    pub reading: bool,
    pub windows: bool,
    pub events: bool,
    /// How many readings the deadband held back since the last that went out, where this one does.
    pub suppressed: u32,
}

impl Selected {
    /// Everything.
    pub const ALL: Self = Self { reading: true, windows: true, events: true, suppressed: 0 };
}

/// Decides about readings of all sensors, for a bounded number of which it remembers the last one.
#[derive(Debug)]
pub struct Selection {
    entries: Vec<Settings>,
    sensors: HashMap<Box<str>, Sensor>,
    sensors_max: usize,
}

/// Of one sensor.
#[derive(Clone, Copy, Debug)]
struct Sensor {
    /// The entry that holds for it; `None` when none does.
    entry: Option<usize>,
    /// With a deadband: the last reading that went out.
    last: Option<Last>,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    value: f64,
    /// Unix seconds.
    timestamp: f64,
    /// By the agent's own clock.
    stamped: bool,
    /// Held back since.
    suppressed: u32,
}

impl Selection {
    pub fn new(entries: &[Settings]) -> Self {
        Self { entries: entries.to_vec(), sensors: HashMap::new(), sensors_max: SENSORS_MAX }
    }

    /// With so many sensors remembered at most. The next reading of one that was forgotten goes out.
    pub fn remembering(self, sensors_max: usize) -> Self {
        Self { sensors_max: sensors_max.clamp(1, SENSORS_MAX), ..self }
    }

    /// Goes over to `next`, and remembers on when it says the same.
    pub fn reload(&mut self, next: Self) {
        if self.entries != next.entries {
            *self = Self { sensors_max: self.sensors_max, ..next };
        }
    }

    /// Goes along when the wall clock is set by `moved` seconds.
    pub fn clock_moved(&mut self, moved: f64) {
        for last in
            self.sensors.values_mut().filter_map(|sensor| sensor.last.as_mut()).filter(|last| last.stamped)
        {
            last.timestamp += moved;
        }
    }

    /// Drops what is made anew when it is needed; the next reading of each sensor goes out.
    pub fn shed(&mut self) {
        self.sensors = HashMap::new();
    }

    /// What is let through with `reading`, which counts as gone out when it is. `stamped` says that its time is the
    /// agent's own.
    pub fn reading(&mut self, reading: Reading<'_>, stamped: bool) -> Selected {
        if self.entries.is_empty() {
            return Selected::ALL;
        }
        let (entries, sensor) = self.look_up(reading.sensor_name);
        let Some(entry) = sensor.entry.map(|entry| &entries[entry]) else { return Selected::ALL };
        let selected = Selected { reading: entry.readings, ..of(entry) };
        let Some(deadband) = entry.deadband.filter(|_| entry.readings) else { return selected };
        if let Some(last) = sensor.last.as_mut().filter(|last| !deadband.lets_through(last, reading)) {
            last.suppressed = last.suppressed.saturating_add(1);
            return Selected { reading: false, ..selected };
        }
        let now = Last { value: reading.value, timestamp: reading.timestamp, stamped, suppressed: 0 };
        let suppressed = sensor.last.replace(now).map_or(0, |last| last.suppressed);
        Selected { suppressed, ..selected }
    }

    /// What is let through besides readings, of the sensor `name`.
    pub fn of(&mut self, name: &str) -> Selected {
        if self.entries.is_empty() {
            return Selected::ALL;
        }
        let (entries, sensor) = self.look_up(name);
        sensor.entry.map_or(Selected::ALL, |entry| of(&entries[entry]))
    }

    fn look_up(&mut self, name: &str) -> (&[Settings], &mut Sensor) {
        if !self.sensors.contains_key(name) {
            if self.sensors.len() >= self.sensors_max {
                // All at once, as it costs nothing to remember whom: names come from outside.
                self.sensors.clear();
            }
            let entry = self.entries.iter().position(|entry| matches(&entry.sensor, name));
            self.sensors.insert(name.into(), Sensor { entry, last: None });
        }
        (&self.entries, self.sensors.get_mut(name).expect("it is there by now"))
    }
}

impl Deadband {
    fn lets_through(&self, last: &Last, reading: Reading<'_>) -> bool {
        // In both directions of time: after a clock was set back, nothing is held back for long.
        let distance = (reading.timestamp - last.timestamp).abs();
        (reading.value - last.value).abs() > self.width || distance >= self.heartbeat.as_secs_f64()
    }
}

fn of(entry: &Settings) -> Selected {
    Selected { reading: true, windows: entry.windows, events: entry.events, suppressed: 0 }
}

const SENSORS_MAX: usize = 65_536;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(sensor: &str) -> Settings {
        Settings { sensor: sensor.to_owned(), readings: true, windows: true, events: true, deadband: None }
    }

    fn deadband(sensor: &str, width: f64, heartbeat: u64) -> Settings {
        let deadband = Deadband { width, heartbeat: Duration::from_secs(heartbeat) };
        Settings { deadband: Some(deadband), ..entry(sensor) }
    }

    fn reading(sensor_name: &str, timestamp: f64, value: f64) -> Reading<'_> {
        Reading { sensor_name, timestamp, value, unit: "", metadata: "{}" }
    }

    /// What goes out of readings of one sensor: index and mark.
    fn let_through(selection: &mut Selection, readings: &[(f64, f64)]) -> Vec<(usize, u32)> {
        let select = |(index, (timestamp, value)): (usize, &(f64, f64))| {
            let selected = selection.reading(reading("a", *timestamp, *value), false);
            selected.reading.then_some((index, selected.suppressed))
        };
        readings.iter().enumerate().filter_map(select).collect()
    }

    #[test]
    fn the_first_entry_that_matches_decides_and_without_one_everything_goes() {
        let only_windows = Settings { readings: false, events: false, ..entry("plant/*") };
        let mut selection = Selection::new(&[entry("plant/7"), only_windows]);
        assert_eq!(selection.reading(reading("plant/7", 0.0, 1.0), false), Selected::ALL);
        assert_eq!(selection.reading(reading("other", 0.0, 1.0), false), Selected::ALL);
        let plant = selection.reading(reading("plant/8", 0.0, 1.0), false);
        assert_eq!((plant.reading, plant.windows, plant.events), (false, true, false));
        assert_eq!(selection.of("plant/8"), Selected { reading: true, ..plant });
    }

    #[test]
    fn what_stays_within_the_deadband_is_held_back_and_counted() {
        let mut selection = Selection::new(&[deadband("*", 0.5, 900)]);
        let values = [20.0, 20.5, 19.5, 20.0, 20.6, 20.2, 20.05, 20.05];
        let readings: Vec<_> = (0..).map(f64::from).zip(values).collect();
        assert_eq!(let_through(&mut selection, &readings), [(0, 0), (4, 3), (6, 1)]);
    }

    #[test]
    fn with_a_deadband_of_nothing_every_change_goes_out() {
        let mut selection = Selection::new(&[deadband("*", 0.0, 900)]);
        let readings = [(0.0, 1.0), (1.0, 1.0), (2.0, 0.0), (3.0, -0.0), (4.0, 1.0)];
        assert_eq!(let_through(&mut selection, &readings), [(0, 0), (2, 1), (4, 1)]);
    }

    #[test]
    fn a_flat_line_has_a_heartbeat_that_says_how_much_was_held_back() {
        let mut selection = Selection::new(&[deadband("*", 1.0, 60)]);
        let readings: Vec<_> = (0..13).map(|at| (f64::from(at) * 10.0, 5.0)).collect();
        assert_eq!(let_through(&mut selection, &readings), [(0, 0), (6, 5), (12, 5)]);
        assert_eq!(
            let_through(&mut selection, &[(-1000.0, 5.0), (-990.0, 5.0)]),
            [(0, 0)],
            "a clock set back"
        );
    }

    #[test]
    fn a_clock_that_is_set_is_no_heartbeat() {
        let mut selection = Selection::new(&[deadband("*", 1.0, 60)]);
        assert!(selection.reading(reading("a", 5.0, 1.0), true).reading);
        assert!(selection.reading(reading("b", 5.0, 1.0), false).reading);
        selection.clock_moved(1e9);
        assert!(!selection.reading(reading("a", 1e9 + 6.0, 1.0), true).reading);
        assert!(!selection.reading(reading("b", 6.0, 1.0), false).reading);
    }

    #[test]
    fn a_reload_that_changes_nothing_here_forgets_nothing() {
        let mut selection = Selection::new(&[deadband("*", 1.0, 60)]).remembering(100);
        assert!(selection.reading(reading("a", 0.0, 1.0), false).reading);
        selection.reload(Selection::new(&[deadband("*", 1.0, 60)]));
        assert!(!selection.reading(reading("a", 1.0, 1.0), false).reading);
        selection.reload(Selection::new(&[deadband("*", 1.0, 61)]));
        assert!(selection.reading(reading("a", 2.0, 1.0), false).reading);
        assert_eq!(selection.sensors_max, 100);
    }

    #[test]
    fn sensors_beyond_the_bound_go_out_rather_than_being_remembered() {
        let mut selection = Selection::new(&[deadband("*", 1.0, 60)]).remembering(10);
        for round in 0..3 {
            for number in 0..11 {
                let name = format!("s{number}");
                assert!(selection.reading(reading(&name, f64::from(round), 1.0), false).reading);
            }
        }
        assert!(selection.sensors.len() <= 10);
    }

    proptest! {
        #[test]
        fn nothing_is_held_back_uncounted_or_for_longer_than_the_heartbeat(
            steps in prop::collection::vec((0.0..40.0_f64, -2.0..2.0_f64), 1..200)
        ) {
            let mut selection = Selection::new(&[deadband("*", 1.5, 60)]);
            let (mut at, mut last, mut held_back) = (0.0, None::<(f64, f64)>, 0);
            for (wait, value) in steps {
                at += wait;
                let selected = selection.reading(reading("a", at, value), false);
                let is_near = last.is_some_and(|(time, sent): (f64, f64)| at - time < 60.0 && (value - sent).abs() <= 1.5);
                prop_assert_eq!(selected.reading, !is_near);
                if selected.reading {
                    prop_assert_eq!(selected.suppressed, held_back);
                    (last, held_back) = (Some((at, value)), 0);
                } else {
                    held_back += 1;
                }
            }
        }
    }
}
