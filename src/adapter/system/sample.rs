//! One round of readings of the board, and the memory of which sensors fail.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::Duration;

use crate::clock;
use crate::reading::{Batch, Reading, Refusal};

/// Why a sensor has no value.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error(transparent)]
    Unreadable(#[from] io::Error),
    /// What stands there is not what belongs there; the reason is fixed text.
    #[error("{0}")]
    Wrong(&'static str),
}

/// Where the readings of one device go.
pub(super) struct Sample<'a> {
    batch: &'a mut Batch,
    device: &'a str,
    health: &'a mut Health,
}

impl<'a> Sample<'a> {
    pub(super) fn new(batch: &'a mut Batch, device: &'a str, health: &'a mut Health) -> Self {
        Self { batch, device, health }
    }

    /// Adds the value of the sensor `name` of this device, or counts why there is none.
    pub(super) fn put(&mut self, name: &str, unit: &str, value: Result<f64, Fault>) {
        if self.batch.len() >= SENSORS_MAX {
            return self.health.note_overflow();
        }
        let sensor_name = &format!("{}.{}", self.device, sanitized(name));
        let value = value.and_then(|value| if value.is_finite() { Ok(value) } else { Err(Fault::Wrong("not a finite number")) });
        self.health.note(sensor_name, value.as_ref().err());
        match value {
            Ok(value) => {
                let timestamp = clock::boot_seconds();
                self.batch.push_stamped(Reading { sensor_name, timestamp, value, unit, metadata: "{}" });
            }
            Err(Fault::Unreadable(_)) => self.batch.refuse(Refusal::Incomplete, sensor_name),
            Err(Fault::Wrong(_)) => self.batch.refuse(Refusal::Malformed, sensor_name),
        }
    }
}

/// Tells names of equal parts apart: the second `nvme` becomes `nvme.2`.
#[derive(Default)]
pub(super) struct Namer(BTreeMap<String, u32>);

impl Namer {
    pub(super) fn unique(&mut self, name: String) -> String {
        let count = self.0.entry(name.clone()).or_default();
        *count += 1;
        if *count == 1 { name } else { format!("{name}.{count}") }
    }
}

/// Which sensors fail, so that the log says so when it begins and when it ends.
#[derive(Default)]
pub(super) struct Health {
    round: u64,
    sensors: BTreeMap<String, Condition>,
    overflowing: bool,
}

struct Condition {
    seen: u64,
    /// Since boot.
    failing_since: Option<Duration>,
    failures: u64,
}

impl Health {
    fn note(&mut self, sensor: &str, fault: Option<&Fault>) {
        self.set(sensor, fault.map(|fault| fault as &dyn std::fmt::Display));
    }

    /// Notes whether a device gave any value.
    pub(super) fn note_device(&mut self, device: &str, gave: bool) {
        let nothing: &dyn std::fmt::Display = &"no value could be read";
        self.set(device, (!gave).then_some(nothing));
    }

    fn note_overflow(&mut self) {
        if !std::mem::replace(&mut self.overflowing, true) {
            tracing::warn!(sensors_max = SENSORS_MAX, "system: the board has more sensors than are read");
        }
    }

    fn set(&mut self, sensor: &str, error: Option<&dyn std::fmt::Display>) {
        if !self.sensors.contains_key(sensor) {
            let condition = Condition { seen: 0, failing_since: None, failures: 0 };
            self.sensors.insert(sensor.to_owned(), condition);
        }
        let condition = self.sensors.get_mut(sensor).expect("it was just inserted");
        condition.seen = self.round;
        condition.set(sensor, error);
    }

    /// Whoever was not seen in this round is gone.
    pub(super) fn end_round(&mut self) {
        for (sensor, condition) in &mut self.sensors {
            if condition.seen != self.round {
                condition.set(sensor, Some(&"it is gone"));
            }
        }
        if self.sensors.len() > 2 * SENSORS_MAX {
            self.sensors.retain(|_, condition| condition.seen == self.round);
        }
        self.round += 1;
    }

    #[cfg(test)]
    pub(super) fn failing(&self) -> Vec<(&str, u64)> {
        let failing = self.sensors.iter().filter(|(_, condition)| condition.failing_since.is_some());
        failing.map(|(sensor, condition)| (sensor.as_str(), condition.failures)).collect()
    }
}

impl Condition {
    fn set(&mut self, sensor: &str, error: Option<&dyn std::fmt::Display>) {
        match (error, self.failing_since) {
            (Some(error), None) => {
                tracing::warn!(sensor, %error, "system: a sensor fails");
                (self.failing_since, self.failures) = (Some(clock::since_boot()), 1);
            }
            (Some(_), Some(_)) => self.failures += 1,
            (None, Some(since)) => {
                let seconds = clock::since_boot().saturating_sub(since).as_secs();
                tracing::info!(sensor, seconds, failures = self.failures, "system: a sensor works again");
                self.failing_since = None;
            }
            (None, None) => {}
        }
    }
}

/// The first [`FILE_BYTES_MAX`] bytes of a file.
pub(super) fn read_text(path: &Path) -> io::Result<String> {
    let mut text = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The number that a file holds.
pub(super) fn read_number(path: &Path) -> Result<f64, Fault> {
    read_text(path)?.trim().parse().map_err(|_| Fault::Wrong("not a number"))
}

/// The names in a folder, numbers in them by value; none when it cannot be read.
pub(super) fn names_in(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let names = entries.take(ENTRIES_MAX).flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<_> = names.collect();
    // Lengths first: zone2 comes before zone10.
    names.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    names
}

/// Letters, digits and `._-`; anything else would have to be quoted in rules and policies.
fn sanitized(name: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    name.trim().chars().take(NAME_CHARS_MAX).map(|letter| if is_plain(letter) { letter } else { '_' }).collect()
}

/// In one round, so a round fits into a batch.
const SENSORS_MAX: usize = 256;
const NAME_CHARS_MAX: usize = 96;
const FILE_BYTES_MAX: u64 = 16 * 1024;
const ENTRIES_MAX: usize = 1024;
