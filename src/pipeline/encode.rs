//! The documented JSON of readings, events and window results, as it is stored and sent.

use std::borrow::Cow;

use serde::Serialize;

use super::window::{Values, WindowResult};
use crate::clock::mark::{self, Mark};
use crate::reading::{Reading, Severity};

/// Appends a `SensorReading`, with `mark` in its metadata.
pub fn reading(out: &mut Vec<u8>, reading: Reading<'_>, mark: Option<Mark<'_>>) {
    out.extend_from_slice(b"{\"sensor_name\":");
    json(out, reading.sensor_name);
    out.extend_from_slice(b",\"timestamp\":");
    json(out, &reading.timestamp);
    out.extend_from_slice(b",\"value\":");
    json(out, &reading.value);
    out.extend_from_slice(b",\"unit\":");
    json(out, reading.unit);
    out.extend_from_slice(b",\"metadata\":");
    // It was read as the text of one JSON object, on one line.
    mark::append(out, reading.metadata, mark);
    out.push(b'}');
}

/// What an event says, besides the reading that fired it.
#[derive(Clone, Copy, Debug)]
pub struct EventText<'a> {
    pub rule_name: &'a str,
    /// Unix seconds UTC, of the reading.
    pub timestamp: f64,
    pub severity: Severity,
    pub message: &'a str,
    /// The text of a JSON object.
    pub metadata: &'a str,
    /// Of the event's own time.
    pub mark: Option<Mark<'a>>,
}

/// Appends an `Event` about a reading, which has `mark` in its metadata; without one it has none.
pub fn event(out: &mut Vec<u8>, event: EventText<'_>, about: Option<Reading<'_>>, mark: Option<Mark<'_>>) {
    out.extend_from_slice(b"{\"rule_name\":");
    json(out, event.rule_name);
    out.extend_from_slice(b",\"timestamp\":");
    json(out, &event.timestamp);
    out.extend_from_slice(b",\"severity\":");
    json(out, event.severity.name());
    out.extend_from_slice(b",\"message\":");
    json(out, event.message);
    out.extend_from_slice(b",\"sensor_readings\":[");
    if let Some(about) = about {
        reading(out, about, mark);
    }
    out.extend_from_slice(b"],\"metadata\":");
    mark::append(out, event.metadata, event.mark);
    out.push(b'}');
}

/// The metadata of the reading that carries a window's result.
#[derive(Serialize)]
struct WindowMetadata<'a> {
    window: &'a str,
    aggregation: &'static str,
    #[serde(flatten)]
    values: &'a Values,
}

/// The metadata text of the reading that carries `result`: its window, span and all aggregates.
pub fn window_metadata(result: &WindowResult<'_>) -> String {
    let metadata = WindowMetadata {
        window: &result.window.name,
        aggregation: result.window.aggregation.name(),
        values: &result.values,
    };
    serde_json::to_string(&metadata).expect("strings and numbers always encode")
}

/// `metadata` saying how many readings of its sensor a deadband held back before this one, if any.
pub fn with_suppressed(metadata: &str, suppressed: u32) -> Cow<'_, str> {
    if suppressed == 0 {
        return Cow::Borrowed(metadata);
    }
    let (open, comma) = mark::opened(metadata);
    Cow::Owned(format!("{open}{comma}\"{}\":{suppressed}}}", mark::SUPPRESSED_KEY))
}

/// The metadata text of the event of a sensor that has been silent for `seconds`.
pub fn silence_metadata(seconds: f64) -> String {
    format!("{{\"silent_seconds\":{:.3}}}", seconds)
}

fn json<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(out, value).expect("strings and finite numbers always encode");
}
