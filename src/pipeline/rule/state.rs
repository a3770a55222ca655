//! What rules remember of each sensor: its previous value, since when a condition holds, when it was last heard.
//! Bounded in bytes; the sensors that were heard longest ago are forgotten first.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::{Judged, TIMESTAMP_PRECISION_SECONDS};
use crate::pipeline::expr::Previous;
use crate::reading::Reading;

/// All sensors that are remembered.
#[derive(Debug)]
pub(super) struct States {
    sensors: HashMap<Box<str>, Sensor>,
    /// Rules that remember anything of their own.
    slots: usize,
    next_use: u64,
    bytes: usize,
    bytes_max: usize,
    evictions: Arc<AtomicU64>,
}

/// One sensor, with a slot for each rule that remembers anything of its own.
#[derive(Debug)]
pub(super) struct Sensor {
    used: u64,
    pub(super) slots: Box<[Slot]>,
    /// The reading before, and whether it is on the agent's own clock.
    previous: Option<(Previous, bool)>,
    /// Where a rule waits for silence.
    pub(super) heard: Option<Heard>,
}

/// What one rule remembers of one sensor.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slot {
    /// Of a window's results.
    pub(super) previous: Option<Previous>,
    /// Unix seconds, by the readings: the newest, and since when the condition holds.
    newest: Option<f64>,
    since: Option<f64>,
    /// By the agent's own clock.
    stamped: bool,
    pub(super) silence: Silence,
    /// It fired, and has to be cleared before it does again.
    pub(super) is_fired: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Silence {
    /// The rule is not about this sensor, as its last reading has it.
    #[default]
    Unasked,
    /// It fires when nothing comes for long enough.
    Awaited,
    /// It has fired, and does not again before something comes.
    Told,
}

/// The last reading of a sensor, as it came in.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Seconds on the boot clock: its arrival.
    pub(super) at: f64,
    timestamp: f64,
    value: f64,
    pub(super) stamped: bool,
    /// Privacy lets something of it leave the device.
    pub(super) leaves: bool,
    /// Unit and metadata.
    text: String,
    unit_bytes: usize,
}

impl States {
    pub(super) fn new(slots: usize, bytes_max: usize) -> Self {
        let evictions = Arc::default();
        Self { sensors: HashMap::new(), slots, next_use: 0, bytes: 0, bytes_max, evictions }
    }

    /// Remembers no more than this from now on.
    pub(super) fn limit(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
        self.settle(0);
    }

    /// What is remembered of a sensor, nothing yet when it is new. Call [`Self::settle`] afterwards.
    pub(super) fn of(&mut self, name: &str) -> &mut Sensor {
        if !self.sensors.contains_key(name) {
            let slots = vec![Slot::default(); self.slots].into();
            let sensor = Sensor { used: 0, slots, previous: None, heard: None };
            self.bytes += sensor.bytes(name);
            self.sensors.insert(name.into(), sensor);
        }
        let sensor = self.sensors.get_mut(name).expect("it was just put there");
        sensor.used = self.next_use;
        self.next_use += 1;
        sensor
    }

    /// What is remembered of a sensor, when anything is.
    pub(super) fn known(&mut self, name: &str) -> Option<&mut Sensor> {
        self.sensors.get_mut(name)
    }

    /// Forgets every sensor.
    pub(super) fn clear(&mut self) {
        self.sensors = HashMap::new();
        self.bytes = 0;
    }

    /// Counts the bytes by which a sensor grew, and forgets what there is no room for.
    pub(super) fn settle(&mut self, grown: usize) {
        self.bytes += grown;
        while self.bytes > self.bytes_max && !self.sensors.is_empty() {
            // A sixteenth at once, so that a flood of new names costs little for each.
            let mut uses: Vec<u64> = self.sensors.values().map(|sensor| sensor.used).collect();
            let cut = uses.len() / 16;
            let (_, cut, _) = uses.select_nth_unstable(cut);
            let cut = *cut;
            let before = self.sensors.len();
            self.sensors.retain(|_, sensor| sensor.used > cut);
            self.evictions.fetch_add((before - self.sensors.len()) as u64, Relaxed);
            self.bytes = self.sensors.iter().map(|(name, sensor)| sensor.bytes(name)).sum();
        }
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut Sensor)> {
        self.sensors.iter_mut().map(|(name, sensor)| (name.as_ref(), sensor))
    }

    /// Moves what is on the agent's own clock by as many seconds as that was set.
    pub(super) fn clock_moved(&mut self, moved: f64) {
        for sensor in self.sensors.values_mut() {
            if let Some(heard) = sensor.heard.as_mut().filter(|heard| heard.stamped) {
                heard.timestamp += moved;
            }
            if let Some((previous, true)) = &mut sensor.previous {
                previous.timestamp += moved;
            }
            for slot in sensor.slots.iter_mut().filter(|slot| slot.stamped) {
                slot.newest = slot.newest.map(|newest| newest + moved);
                slot.since = slot.since.map(|since| since + moved);
                slot.previous = slot.previous.map(|old| Previous { timestamp: old.timestamp + moved, ..old });
            }
        }
    }

    /// Takes over what `old` remembers for the pairs of old and new slot in `kept`, and of every sensor.
    pub(super) fn carry_over(&mut self, old: Self, kept: &[(usize, usize)]) {
        self.evictions = old.evictions;
        self.bytes_max = old.bytes_max;
        self.next_use = old.next_use;
        for (name, sensor) in old.sensors {
            let mut slots = vec![Slot::default(); self.slots];
            for (from, to) in kept {
                slots[*to] = sensor.slots[*from];
            }
            let sensor = Sensor { slots: slots.into(), ..sensor };
            self.bytes += sensor.bytes(&name);
            self.sensors.insert(name, sensor);
        }
        self.settle(0);
    }

    pub(super) fn evictions(&self) -> &Arc<AtomicU64> {
        &self.evictions
    }
}

impl Sensor {
    pub(super) fn previous(&self) -> Option<Previous> {
        self.previous.map(|(previous, _)| previous)
    }

    pub(super) fn remember(&mut self, reading: Reading<'_>, stamped: bool) {
        self.previous = Some((Previous::of(reading), stamped));
    }

    /// Notes a reading; returns the bytes it grew by.
    pub(super) fn hear(&mut self, judged: Judged<'_>) -> usize {
        let Judged { reading, stamped, since_boot, leaves } = judged;
        let heard = self.heard.get_or_insert_default();
        let before = heard.text.capacity();
        heard.text.clear();
        heard.text.push_str(reading.unit);
        heard.text.push_str(reading.metadata);
        heard.unit_bytes = reading.unit.len();
        (heard.at, heard.timestamp, heard.value) = (since_boot, reading.timestamp, reading.value);
        (heard.stamped, heard.leaves) = (stamped, leaves);
        heard.text.capacity() - before
    }

    fn bytes(&self, name: &str) -> usize {
        let text = self.heard.as_ref().map_or(0, |heard| heard.text.capacity());
        SENSOR_BYTES + name.len() + self.slots.len() * size_of::<Slot>() + text
    }
}

impl Heard {
    pub(super) fn reading<'r>(&'r self, sensor_name: &'r str) -> Reading<'r> {
        let (unit, metadata) = self.text.split_at(self.unit_bytes);
        Reading { sensor_name, timestamp: self.timestamp, value: self.value, unit, metadata }
    }
}

impl Slot {
    /// Notes whether the condition is true at `timestamp`, and says whether it has been for `duration`, by the
    /// readings: what lies between two of them counts as held.
    ///
    /// A late reading from within `duration` begins, ends and completes nothing; one that is older means that a
    /// clock was set back, and begins anew.
    pub(super) fn holds(&mut self, is_true: bool, timestamp: f64, duration: Duration, stamped: bool) -> bool {
        let duration = duration.as_secs_f64();
        self.stamped = stamped;
        if let Some(newest) = self.newest.filter(|newest| timestamp < *newest) {
            if newest - timestamp <= duration {
                return false;
            }
            self.since = None;
        }
        self.newest = Some(timestamp);
        if !is_true {
            self.since = None;
            return false;
        }
        let since = *self.since.get_or_insert(timestamp);
        timestamp - since + TIMESTAMP_PRECISION_SECONDS >= duration
    }

    pub(super) fn remember(&mut self, reading: Reading<'_>, stamped: bool) {
        self.previous = Some(Previous::of(reading));
        self.stamped = stamped;
    }
}

/// A sensor's entry in the table, without its name, slots and text.
const SENSOR_BYTES: usize = size_of::<Sensor>() + size_of::<Box<str>>() + 32;

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn held(times: &[(f64, bool)]) -> Vec<bool> {
        let mut slot = Slot::default();
        times.iter().map(|(time, is_true)| slot.holds(*is_true, *time, MINUTE, false)).collect()
    }

    #[test]
    fn a_condition_holds_once_it_was_true_for_so_long_without_a_break() {
        let yes = |time| (time, true);
        assert_eq!(held(&[yes(0.0), yes(59.0), yes(60.0), yes(61.0)]), [false, false, true, true]);
        let broken = [yes(0.0), (30.0, false), yes(31.0), yes(60.0), yes(91.0)];
        assert_eq!(held(&broken), [false, false, false, false, true]);
        let tenths = [yes(1_717_156_800.1), yes(1_717_156_860.1)];
        assert_eq!(held(&tenths), [false, true], "float seconds that are meant to be a minute apart");
    }

    #[test]
    fn a_late_reading_changes_nothing_and_a_clock_set_back_begins_anew() {
        let late = [(0.0, true), (50.0, true), (40.0, false), (60.0, true), (30.0, true)];
        assert_eq!(held(&late), [false, false, false, true, false]);
        let back = [(1e6, true), (1e6 + 60.0, true), (500.0, true), (559.0, true), (560.0, true)];
        assert_eq!(held(&back), [false, true, false, false, true]);
    }

    #[test]
    fn the_sensors_heard_longest_ago_go_when_there_is_no_room() {
        let mut states = States::new(2, 100_000);
        let long = "x".repeat(1000);
        for number in 0..10_000 {
            let name = number.to_string();
            let reading =
                Reading { sensor_name: &name, timestamp: 0.0, value: 0.0, unit: "C", metadata: &long };
            let grown =
                states.of(&name).hear(Judged { reading, stamped: false, since_boot: 0.0, leaves: true });
            states.settle(grown);
            states.of("always").slots[0].stamped = true;
            states.settle(0);
            assert!(states.bytes <= states.bytes_max);
            assert!(number < 50 || states.sensors.len() > 50);
        }
        let counted: usize = states.sensors.iter().map(|(name, sensor)| sensor.bytes(name)).sum();
        assert_eq!(states.bytes, counted);
        assert!(states.sensors["always"].slots[0].stamped && states.sensors.contains_key("9999"));
        assert!(!states.sensors.contains_key("1"));
        assert_eq!(states.evictions().load(Relaxed) as usize, 10_001 - states.sensors.len());
    }

    #[test]
    fn a_jump_of_the_agents_clock_breaks_no_hold() {
        let mut states = States::new(1, 100_000);
        for stamped in [true, false] {
            states.of("x").slots[0] = Slot::default();
            assert!(!states.of("x").slots[0].holds(true, 1000.0, MINUTE, stamped));
            states.clock_moved(1.8e9);
            let moved = if stamped { 1.8e9 } else { 0.0 };
            assert!(!states.of("x").slots[0].holds(true, 1059.0 + moved, MINUTE, stamped));
            assert!(states.of("x").slots[0].holds(true, 1060.0 + moved, MINUTE, stamped));
        }
    }
}
