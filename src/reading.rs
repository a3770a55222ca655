//! What moves through the agent: readings in batches, events, priorities, and the receipt that
//! says a batch is durable.

use std::ops::Range;

use tokio::sync::oneshot;

use crate::lifecycle::memory::Share;

/// One value of one sensor, borrowed from the [`Batch`] that carries it.
///
/// Its JSON form is the documented `SensorReading`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading<'a> {
    pub sensor_name: &'a str,
    /// Unix seconds UTC.
    pub timestamp: f64,
    pub value: f64,
    pub unit: &'a str,
    /// The text of a JSON object, `{}` when there is none.
    pub metadata: &'a str,
}

/// How urgent delivery is; the lower number goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Priority {
    Critical = 1,
    Anomaly = 2,
    Telemetry = 3,
    Logs = 4,
}

impl Priority {
    /// In the order of delivery.
    pub const ALL: [Self; 4] = [Self::Critical, Self::Anomaly, Self::Telemetry, Self::Logs];

    pub fn name(self) -> &'static str {
        match self {
            Self::Critical => "CRITICAL",
            Self::Anomaly => "ANOMALY",
            Self::Telemetry => "TELEMETRY",
            Self::Logs => "LOGS",
        }
    }
}

/// How serious an event is; decides its priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    #[default]
    Info,
    Warning,
    Critical,
}

impl Severity {
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// Why input was not accepted. Each refusal is counted under one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Refusal {
    /// Not JSON, not CSV, not a number: nothing could be read out of it.
    Malformed,
    /// `sensor_name` or `value` is missing.
    Incomplete,
    /// NaN or infinite.
    NotFinite,
    /// The timestamp is before 2000 or more than a day ahead of the agent's clock.
    Time,
    /// A name, unit or metadata object longer than the limits in this file, or an empty name.
    Size,
    /// The privacy firewall drops this sensor or field.
    Privacy,
    /// It came on a topic that no device is configured for any more.
    NotConfigured,
}

impl Refusal {
    pub const ALL: [Self; 7] = [
        Self::Malformed,
        Self::Incomplete,
        Self::NotFinite,
        Self::Time,
        Self::Size,
        Self::Privacy,
        Self::NotConfigured,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Incomplete => "incomplete",
            Self::NotFinite => "not_finite",
            Self::Time => "time",
            Self::Size => "size",
            Self::Privacy => "privacy",
            Self::NotConfigured => "not_configured",
        }
    }
}

/// What a source learns once its batch is on stable storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Readings that were stored.
    pub accepted: u32,
    /// Readings that were refused, and counted by reason.
    pub refused: u32,
}

/// Sent once, after the commit. A dropped receipt means: not stored, do not acknowledge.
pub type Receipt = oneshot::Sender<Committed>;

/// Longest `sensor_name` in bytes.
pub const SENSOR_NAME_BYTES_MAX: usize = 256;
/// Longest `unit` in bytes.
pub const UNIT_BYTES_MAX: usize = 32;
/// Longest metadata object in bytes of JSON text.
pub const METADATA_BYTES_MAX: usize = 4096;
/// A source sends its batch on when it holds this many readings.
pub const BATCH_READINGS_MAX: usize = 1024;
/// A source sends its batch on when it holds this much text, in bytes.
pub const BATCH_BYTES_MAX: usize = 256 * 1024;

/// What a full batch takes up in memory, for readings of usual length: its text grows in doubling steps.
pub const BATCH_MEMORY_BYTES: usize = 2 * BATCH_BYTES_MAX;

/// Readings of one source, in order of arrival, in one allocation for all their text.
#[derive(Debug, Default)]
pub struct Batch {
    text: String,
    rows: Vec<Row>,
    refusals: Vec<(Refusal, Range<u32>)>,
    /// Told after the commit, when the source wants to know.
    pub receipt: Option<Receipt>,
    /// The source cannot go on before this batch is committed, so waiting for more is in vain.
    pub urgent: bool,
    /// Of the memory for what is on its way; given back after the commit.
    pub share: Option<Share>,
    /// How the source knows the messages that this came in when they are sent again: kept with the items, in the
    /// same commit, and given back to the source after a restart. What it says is the source's own affair.
    pub messages: Vec<u8>,
}

#[derive(Debug)]
struct Row {
    sensor_name: Range<u32>,
    unit: Range<u32>,
    metadata: Range<u32>,
    timestamp: f64,
    value: f64,
    stamped: bool,
}

impl Batch {
    /// Adds a reading with its source's own time. Limits are not checked here: that is the pipeline's part.
    pub fn push(&mut self, reading: Reading<'_>) {
        self.keep_row(reading, false);
    }

    /// Adds a reading that the agent stamps: its `timestamp` is on the boot clock, in seconds. The pipeline
    /// makes wall time of it, because only there it is known how the two clocks stand.
    pub fn push_stamped(&mut self, reading: Reading<'_>) {
        self.keep_row(reading, true);
    }

    fn keep_row(&mut self, reading: Reading<'_>, stamped: bool) {
        let row = Row {
            sensor_name: self.keep(reading.sensor_name),
            unit: self.keep(reading.unit),
            metadata: self.keep(reading.metadata),
            timestamp: reading.timestamp,
            value: reading.value,
            stamped,
        };
        self.rows.push(row);
    }

    /// Notes that input was refused before it became a reading; `sensor` names its origin as well
    /// as it is known (a sensor, a topic, a file).
    pub fn refuse(&mut self, reason: Refusal, sensor: &str) {
        let sensor = clip(sensor, SENSOR_NAME_BYTES_MAX);
        // A payload of two bytes an item, all refused, must not become the name of its topic for each.
        let last = self.refusals.last().map(|(_, last)| last.clone());
        let sensor = match last {
            Some(last) if self.at(&last) == sensor => last,
            _ => self.keep(sensor),
        };
        self.refusals.push((reason, sensor));
    }

    pub fn readings(&self) -> impl ExactSizeIterator<Item = Reading<'_>> {
        self.rows().map(|(reading, _)| reading)
    }

    /// Each reading, and whether the agent stamps it: its `timestamp` is on the boot clock then.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = (Reading<'_>, bool)> {
        self.rows.iter().map(|row| {
            let reading = Reading {
                sensor_name: self.at(&row.sensor_name),
                timestamp: row.timestamp,
                value: row.value,
                unit: self.at(&row.unit),
                metadata: self.at(&row.metadata),
            };
            (reading, row.stamped)
        })
    }

    pub fn refusals(&self) -> impl ExactSizeIterator<Item = (Refusal, &str)> {
        self.refusals.iter().map(|(reason, sensor)| (*reason, self.at(sensor)))
    }

    /// Readings and refusals together.
    pub fn len(&self) -> usize {
        self.rows.len() + self.refusals.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What it takes up in memory.
    pub fn memory_bytes(&self) -> usize {
        self.text.capacity()
            + self.messages.capacity()
            + self.rows.capacity() * size_of::<Row>()
            + self.refusals.capacity() * size_of::<(Refusal, Range<u32>)>()
    }

    /// Bytes of text that it holds.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn text_bytes(&self) -> usize {
        self.text.len()
    }

    /// Whether the source should send it on now.
    pub fn is_full(&self) -> bool {
        self.len() >= BATCH_READINGS_MAX || self.text.len() >= BATCH_BYTES_MAX
    }

    fn keep(&mut self, text: &str) -> Range<u32> {
        let start = u32::try_from(self.text.len()).expect("a batch is far below 4 GiB");
        self.text.push_str(text);
        start..u32::try_from(self.text.len()).expect("a batch is far below 4 GiB")
    }

    fn at(&self, range: &Range<u32>) -> &str {
        &self.text[range.start as usize..range.end as usize]
    }
}

/// The longest prefix of `text` that fits into `bytes_max` and ends between characters.
pub fn clip(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_of_one_origin_hold_its_name_once() {
        let (mut batch, long) = (Batch::default(), "x".repeat(300));
        for _ in 0..1000 {
            batch.refuse(Refusal::Malformed, &long);
        }
        batch.refuse(Refusal::Incomplete, "b");
        assert_eq!(batch.text_bytes(), SENSOR_NAME_BYTES_MAX + 1);
        let names: Vec<_> = batch.refusals().map(|(_, name)| name.len()).collect();
        assert_eq!((names.len(), names[999], names[1000]), (1001, SENSOR_NAME_BYTES_MAX, 1));
    }
}
