//! Thinning: many readings of a sensor become one that summarises them. Pure; the worker moves the blocks.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::names::Names;
use crate::clock::mark;

/// How coarse a summary is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    Minute,
    Quarter,
}

impl Span {
    pub fn seconds(self) -> f64 {
        match self {
            Self::Minute => 60.0,
            Self::Quarter => 900.0,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Quarter => "quarter_hour",
        }
    }

    /// Which span of the epoch `timestamp` lies in, Unix seconds.
    pub fn number(self, timestamp: f64) -> i64 {
        (timestamp / self.seconds()).floor() as i64
    }
}

/// Readings on their way to summaries, by span, sensor, unit, window and clock.
pub struct Groups {
    span: Span,
    /// Sorted by span first. The key begins with the span's number, big-endian.
    groups: BTreeMap<Vec<u8>, Group>,
    key: Vec<u8>,
}

struct Group {
    sensor_name: String,
    unit: String,
    window: Option<String>,
    privacy: Option<String>,
    clock: Option<Clock>,
    count: u64,
    mean: f64,
    min: f64,
    max: f64,
    last: f64,
    from: f64,
    to: f64,
    /// While it is the only one: a reading is not summarised with itself.
    only: Option<Vec<u8>>,
}

impl Groups {
    pub fn new(span: Span) -> Self {
        Self { span, groups: BTreeMap::new(), key: Vec::new() }
    }

    /// Whether no further block is to be added.
    pub fn is_full(&self) -> bool {
        self.groups.len() >= GROUPS_MAX
    }

    /// The sensors, as many as a gap names.
    pub fn names(&self) -> Names {
        let mut names = Names::default();
        for group in self.groups.values() {
            if names.is_full() {
                break;
            }
            names.add(&group.sensor_name);
        }
        names
    }

    /// Adds a reading, or a summary of readings; false for what is neither, such as an event.
    pub fn add(&mut self, line: &[u8]) -> bool {
        let Ok(item) = serde_json::from_slice::<StoredReading<'_>>(line) else { return false };
        let metadata = match item.metadata.get() {
            "{}" => Metadata::default(),
            text => serde_json::from_str(text).unwrap_or_default(),
        };
        let (window, privacy) = (text_of(metadata.window), text_of(metadata.privacy));
        let clock: Option<Clock> = metadata.clock.and_then(|raw| serde_json::from_str(raw.get()).ok());
        self.key.clear();
        self.key.extend_from_slice(&ordered(self.span.number(item.timestamp)));
        for part in [
            &*item.sensor_name,
            &*item.unit,
            window.as_deref().unwrap_or_default(),
            privacy.as_deref().unwrap_or_default(),
            clock.as_ref().map_or("", |clock| &clock.quality),
            clock.as_ref().map_or("", |clock| &clock.boot),
        ] {
            self.key.extend_from_slice(part.as_bytes());
            self.key.push(0);
        }
        let summary = metadata.summary().unwrap_or(Summary {
            count: 1,
            min: item.value,
            max: item.value,
            last: item.value,
            from: item.timestamp,
            to: item.timestamp,
        });
        if let Some(group) = self.groups.get_mut(&self.key) {
            group.join(item.value, &summary, clock);
            return true;
        }
        let group = Group {
            sensor_name: item.sensor_name.into_owned(),
            unit: item.unit.into_owned(),
            window: window.map(Cow::into_owned),
            privacy: privacy.map(Cow::into_owned),
            clock,
            count: summary.count,
            mean: item.value,
            min: summary.min,
            max: summary.max,
            last: summary.last,
            from: summary.from,
            to: summary.to,
            only: Some(line.to_vec()),
        };
        self.groups.insert(self.key.clone(), group);
        true
    }

    /// Hands every summary to `put`, in the order of their spans, as a line of JSON without its break, with
    /// the time of its last reading, and the boot in which that is provisional.
    pub fn finish(self, mut put: impl FnMut(&[u8], f64, Option<&str>)) {
        let mut line = Vec::new();
        for group in self.groups.into_values() {
            let provisional = group.clock.as_ref().filter(|clock| clock.quality == mark::PROVISIONAL);
            let boot = provisional.map(|clock| clock.boot.as_str());
            match &group.only {
                Some(only) => put(only, group.to, boot),
                None => {
                    line.clear();
                    group.write(self.span, &mut line);
                    put(&line, group.to, boot);
                }
            }
        }
    }
}

impl Group {
    fn join(&mut self, mean: f64, other: &Summary, clock: Option<Clock>) {
        self.only = None;
        self.count += other.count;
        let joined = self.mean + (mean - self.mean) * (other.count as f64 / self.count as f64);
        // Two values at the ends of what a float holds have no difference.
        self.mean = if joined.is_finite() { joined } else { mean };
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
        if other.to >= self.to {
            (self.to, self.last) = (other.to, other.last);
            self.clock = clock;
        }
        self.from = self.from.min(other.from);
    }

    fn write(&self, span: Span, out: &mut Vec<u8>) {
        let mean = rounded(self.mean).clamp(self.min, self.max);
        let summary = Summarised {
            sensor_name: &self.sensor_name,
            timestamp: self.to,
            value: mean,
            unit: &self.unit,
            metadata: SummaryMetadata {
                thinned: span.name(),
                min: self.min,
                max: self.max,
                mean,
                count: self.count,
                last: self.last,
                from: self.from,
                to: self.to,
                window: self.window.as_deref(),
                privacy: self.privacy.as_deref(),
                clock: self.clock.as_ref(),
            },
        };
        serde_json::to_writer(out, &summary).expect("strings and finite numbers always encode");
    }
}

/// A reading as it is stored.
#[derive(Deserialize)]
pub(super) struct StoredReading<'a> {
    #[serde(borrow)]
    pub sensor_name: Cow<'a, str>,
    pub timestamp: f64,
    pub value: f64,
    #[serde(borrow)]
    pub unit: Cow<'a, str>,
    #[serde(borrow)]
    pub metadata: &'a RawValue,
}

/// What is looked at of its metadata. Others may use the same keys for anything.
#[derive(Default, Deserialize)]
struct Metadata<'a> {
    #[serde(borrow)]
    window: Option<&'a RawValue>,
    privacy: Option<&'a RawValue>,
    #[serde(rename = "_clock")]
    clock: Option<&'a RawValue>,
    thinned: Option<&'a RawValue>,
    min: Option<&'a RawValue>,
    max: Option<&'a RawValue>,
    count: Option<&'a RawValue>,
    last: Option<&'a RawValue>,
    from: Option<&'a RawValue>,
    to: Option<&'a RawValue>,
}

impl Metadata<'_> {
    /// Of a reading that is a summary itself.
    fn summary(&self) -> Option<Summary> {
        let number = |raw: Option<&RawValue>| serde_json::from_str::<f64>(raw?.get()).ok();
        if self.thinned?.get() != "\"minute\"" {
            return None;
        }
        let count: u64 = serde_json::from_str(self.count?.get()).ok()?;
        Some(Summary {
            count: count.clamp(1, COUNT_MAX),
            min: number(self.min)?,
            max: number(self.max)?,
            last: number(self.last)?,
            from: number(self.from)?,
            to: number(self.to)?,
        })
    }
}

struct Summary {
    count: u64,
    min: f64,
    max: f64,
    last: f64,
    from: f64,
    to: f64,
}

#[derive(Serialize)]
struct Summarised<'a> {
    sensor_name: &'a str,
    timestamp: f64,
    value: f64,
    unit: &'a str,
    metadata: SummaryMetadata<'a>,
}

#[derive(Serialize)]
struct SummaryMetadata<'a> {
    thinned: &'a str,
    min: f64,
    max: f64,
    mean: f64,
    count: u64,
    last: f64,
    from: f64,
    to: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    privacy: Option<&'a str>,
    #[serde(rename = "_clock", skip_serializing_if = "Option::is_none")]
    clock: Option<&'a Clock>,
}

/// The mark of the agent's own clock, of the last reading; see [`mark`].
#[derive(Deserialize, Serialize)]
struct Clock {
    quality: String,
    boot_time: f64,
    boot: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    uncertainty_seconds: Option<f64>,
}

fn text_of(raw: Option<&RawValue>) -> Option<Cow<'_, str>> {
    serde_json::from_str::<String>(raw?.get()).ok().map(Cow::Owned)
}

/// To ten significant digits: those behind them are noise that does not compress.
fn rounded(mean: f64) -> f64 {
    format!("{mean:.9e}").parse().unwrap_or(mean)
}

/// Bytes that sort as the number does.
fn ordered(number: i64) -> [u8; 8] {
    (number as u64 ^ (1 << 63)).to_be_bytes()
}

/// Some 2 MB of memory. No further block is begun beyond it, so spans are summarised in parts.
const GROUPS_MAX: usize = 4096;
/// Sums of counts stay below 2^53.
const COUNT_MAX: u64 = 1 << 40;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn reading(sensor: &str, timestamp: f64, value: f64, metadata: &str) -> Vec<u8> {
        format!(r#"{{"sensor_name":"{sensor}","timestamp":{timestamp},"value":{value},"unit":"C","metadata":{metadata}}}"#)
            .into_bytes()
    }

    fn summaries(groups: Groups) -> Vec<Value> {
        let mut lines = Vec::new();
        groups.finish(|line, _, _| lines.push(serde_json::from_slice(line).unwrap()));
        lines
    }

    #[test]
    fn readings_of_a_minute_become_one_with_min_max_mean_count_and_last() {
        let mut groups = Groups::new(Span::Minute);
        for (timestamp, value) in [(120.0, 4.0), (150.0, 1.0), (179.5, 2.0), (180.0, 9.0)] {
            assert!(groups.add(&reading("a", timestamp, value, "{}")));
        }
        let found = summaries(groups);
        assert_eq!(found.len(), 2);
        let mean = found[0]["value"].as_f64().unwrap();
        assert!((mean - 7.0 / 3.0).abs() < 1e-8);
        let expected = json!({"sensor_name": "a", "timestamp": 179.5, "value": mean, "unit": "C", "metadata":
            {"thinned": "minute", "min": 1.0, "max": 4.0, "mean": mean, "count": 3, "last": 2.0, "from": 120.0, "to": 179.5}});
        assert_eq!(found[0], expected);
        let alone: Value = serde_json::from_slice(&reading("a", 180.0, 9.0, "{}")).unwrap();
        assert_eq!(found[1], alone, "one alone stays as it is");
    }

    #[test]
    fn minutes_become_quarter_hours_as_if_from_the_readings_themselves() {
        let mut random = fastrand::Rng::with_seed(1);
        let readings: Vec<_> =
            (0..180).map(|n| reading("a", 900.0 + 5.0 * f64::from(n), random.f64() * 100.0, "{}")).collect();
        let mut minutes = Groups::new(Span::Minute);
        let mut direct = Groups::new(Span::Quarter);
        for reading in &readings {
            minutes.add(reading);
            direct.add(reading);
        }
        let mut quarters = Groups::new(Span::Quarter);
        minutes.finish(|line, _, _| assert!(quarters.add(line)));
        let (quarters, direct) = (summaries(quarters), summaries(direct));
        assert_eq!(quarters.len(), 1);
        for key in ["min", "max", "count", "last", "from", "to", "thinned"] {
            assert_eq!(quarters[0]["metadata"][key], direct[0]["metadata"][key], "{key}");
        }
        let mean = |found: &[Value]| found[0]["metadata"]["mean"].as_f64().unwrap();
        assert!((mean(&quarters) - mean(&direct)).abs() < 1e-6);
    }

    #[test]
    fn windows_units_and_masked_values_are_kept_apart() {
        let mut groups = Groups::new(Span::Minute);
        for metadata in ["{}", r#"{"window":"w","mean":1}"#, r#"{"privacy":"masked"}"#, r#"{"window":7}"#] {
            groups.add(&reading("a", 60.0, 1.0, metadata));
            groups.add(&reading("a", 61.0, 3.0, metadata));
        }
        let found = summaries(groups);
        let kinds: Vec<_> = found
            .iter()
            .map(|item| {
                (
                    item["metadata"]["window"].clone(),
                    item["metadata"]["privacy"].clone(),
                    item["metadata"]["count"].clone(),
                )
            })
            .collect();
        assert_eq!(
            kinds,
            [
                (Value::Null, Value::Null, 4.into()),
                (Value::Null, "masked".into(), 2.into()),
                ("w".into(), Value::Null, 2.into()),
            ]
        );
    }

    #[test]
    fn an_event_is_no_reading_and_extreme_values_stay_finite() {
        let mut groups = Groups::new(Span::Minute);
        assert!(!groups.add(br#"{"rule_name":"r","timestamp":1.0,"severity":"info","message":"m","sensor_readings":[],"metadata":{}}"#));
        assert!(!groups.add(b"12 not json"));
        groups.add(&reading("a", 60.0, -1e308, "{}"));
        groups.add(&reading("a", 61.0, 1e308, "{}"));
        assert_eq!(summaries(groups)[0]["metadata"]["count"], 2);
    }
}
