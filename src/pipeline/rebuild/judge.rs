//! What a stored item tells of what came in, as far as privacy has left that to see.

use std::borrow::Cow;
use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::gathered::{Event, Gathered, Row};
use super::{Clock, Past};
use crate::clock::mark;
use crate::pipeline::rule::recall::Recall;
use crate::pipeline::window::{Values, Windows};
use crate::privacy::{Action, Firewall, Verdict};
use crate::reading::Reading;
use crate::store::export::Item;
use crate::store::recent::Commit;

/// What is rebuilt; `None` is begun anew.
pub struct Rebuilt {
    pub windows: Option<Windows>,
    pub recall: Recall,
}

/// Looks at one item after the other, in the order of their commits.
pub struct Judge {
    firewall: Firewall,
    /// Nothing is done to anything.
    is_open: bool,
    hashes_names: bool,
    sees_units: bool,
    /// By sensor.
    known: HashMap<Box<str>, Known>,
    commit: Option<Commit>,
    /// Results that came with this commit: they are noted behind its readings, among which their place is not known.
    emitted: Vec<Emitted>,
    gathered: Gathered,
}

struct Emitted {
    window: String,
    sensor_name: String,
    /// Unix seconds.
    end: f64,
}

#[derive(Clone, Copy)]
struct Known {
    /// The result of a window of it can be told from a reading of it, and is stored under its name.
    is_plain: bool,
    /// It goes into windows over all sensors.
    pooled: bool,
}

impl Judge {
    pub fn new(past: &Past) -> Self {
        let privacy = &past.privacy;
        let hashes = privacy.rules.iter().any(|rule| rule.action == Action::Hash);
        Self {
            firewall: Firewall::new(privacy, past.key.clone()),
            is_open: privacy.rules_active() == 0,
            hashes_names: privacy.enabled && (hashes || !privacy.hash_fields.is_empty()),
            sees_units: super::sight(privacy).unit,
            known: HashMap::new(),
            commit: None,
            emitted: Vec::new(),
            gathered: Gathered::default(),
        }
    }

    /// What comes next is of `commit`.
    pub fn enter(&mut self, commit: Commit, rebuilt: &mut Rebuilt) {
        if self.commit != Some(commit) {
            self.end_commit(rebuilt);
            self.commit = Some(commit);
        }
    }

    /// Tells what can only be told behind the last item of a commit.
    pub fn end_commit(&mut self, rebuilt: &mut Rebuilt) {
        for Emitted { window, sensor_name, end } in self.emitted.drain(..) {
            if let Some(windows) = &mut rebuilt.windows {
                windows.was_emitted(&window, &sensor_name, end);
            }
        }
        self.gathered.tell(&mut rebuilt.recall, self.commit.map_or(0.0, Commit::seconds));
    }

    /// Gives `rebuilt` what the item tells; true when that is a reading.
    pub fn take(&mut self, item: &Item<'_>, clock: &Clock, rebuilt: &mut Rebuilt) -> bool {
        let fields = &item.fields;
        if let Some(rule) = fields.rule_name.as_deref() {
            self.take_event(item, rule, clock, &rebuilt.recall);
            return false;
        }
        let (Some(sensor_name), Some(value)) = (fields.sensor_name.as_deref(), fields.value) else {
            return false;
        };
        let metadata = Metadata::of(fields.metadata);
        let Some(time) = metadata.time(fields.timestamp, clock) else { return false };
        let timestamp = time.timestamp;
        // What was hashed is not hashed again in a window's result.
        let unit = fields.unit.as_deref().filter(|_| self.sees_units).unwrap_or_default();
        let reading = Reading { sensor_name, timestamp, value, unit, metadata: "{}" };
        if let Some(window) = metadata.window(fields.timestamp) {
            self.emitted.push(Emitted {
                window: window.clone(),
                sensor_name: sensor_name.to_owned(),
                end: timestamp,
            });
            if let Some(values) =
                values(fields.metadata, timestamp).filter(|_| rebuilt.recall.takes_readings())
            {
                self.gather(item, reading, time.is_of_this_boot, Some((window, values)));
            }
            return false;
        }
        if metadata.is_masked() || self.hashes_names && is_alias(sensor_name) {
            return false;
        }
        let known = self.known(sensor_name);
        if !known.is_plain {
            return false;
        }
        if let Some(windows) = &mut rebuilt.windows {
            windows.replay(reading, known.pooled, time.stamped);
        }
        if rebuilt.recall.takes_readings() {
            self.gather(item, reading, time.is_of_this_boot, None);
        }
        true
    }

    fn gather(
        &mut self,
        item: &Item<'_>,
        reading: Reading<'_>,
        stamped: bool,
        result: Option<(String, Values)>,
    ) {
        let text = item.fields.metadata.map(RawValue::get).filter(|text| text.starts_with('{'));
        let metadata = text.map_or(Cow::Borrowed("{}"), mark::without);
        let reading = Reading { metadata: &metadata, ..reading };
        let leaves =
            self.is_open || matches!(self.firewall.judge(reading), Verdict::Keep { outbound: Some(_), .. });
        self.gathered.reading(reading, stamped, Row { lane: item.lane, leaves, result });
    }

    fn take_event(&mut self, item: &Item<'_>, rule: &str, clock: &Clock, recall: &Recall) {
        let Some(about) = item.fields.about().filter(|_| recall.takes_events(rule)) else { return };
        if self.hashes_names && is_alias(&about.sensor_name) {
            return;
        }
        let time = Metadata::of(item.fields.metadata).time(item.fields.timestamp, clock);
        let time_about = Metadata::of(about.metadata).time(about.timestamp, clock);
        let (Some(time), Some(time_about)) = (time, time_about) else { return };
        self.gathered.event(Event {
            rule: rule.to_owned(),
            sensor: about.sensor_name.to_string(),
            timestamp: time.timestamp,
            about: time_about.timestamp,
            stamped: time.is_of_this_boot,
        });
    }

    fn known(&mut self, sensor_name: &str) -> Known {
        if self.is_open {
            return Known { is_plain: true, pooled: true };
        }
        if let Some(known) = self.known.get(sensor_name) {
            return *known;
        }
        if self.known.len() >= SENSORS_MAX {
            self.known.clear();
        }
        let is_allowed = self.firewall.sensor_action(sensor_name) == Action::Allow;
        let is_plain = self.tells_results(sensor_name);
        let pooled = is_allowed && self.tells_results("*");
        let known = Known { is_plain, pooled };
        self.known.insert(sensor_name.into(), known);
        known
    }

    /// Whether the policy leaves of a window's result what tells it from a reading.
    fn tells_results(&mut self, sensor_name: &str) -> bool {
        let sample = Reading { sensor_name, timestamp: 1.0, value: 0.0, unit: "", metadata: RESULT };
        let Verdict::Keep { outbound, local } = self.firewall.judge(sample) else { return false };
        let Some(text) = local.or(outbound).map(|copy| copy.metadata) else { return false };
        serde_json::from_str::<Metadata<'_>>(text).is_ok_and(|metadata| metadata.window(1.0).is_some())
    }
}

/// Metadata of a result, see [`super::encode::window_metadata`].
const RESULT: &str = r#"{"window":"w","aggregation":"mean","start":0.0,"end":1.0,"mean":0.0,"count":1}"#;

/// What the agent itself may have put into metadata.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata<'a> {
    #[serde(borrow)]
    window: Option<&'a RawValue>,
    #[serde(borrow)]
    aggregation: Option<&'a RawValue>,
    #[serde(borrow)]
    start: Option<&'a RawValue>,
    #[serde(borrow)]
    end: Option<&'a RawValue>,
    #[serde(borrow)]
    privacy: Option<&'a RawValue>,
    #[serde(borrow, rename = "_clock")]
    clock: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Stamp {
    quality: String,
    boot_time: f64,
    boot: String,
}

impl<'a> Metadata<'a> {
    fn of(text: Option<&'a RawValue>) -> Self {
        let text = text.map(RawValue::get).filter(|text| *text != "{}");
        // What is no object says nothing of ours.
        text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    /// The window of which this is a result at the end of its span, which is `timestamp`.
    fn window(&self, timestamp: f64) -> Option<String> {
        let number = |value: Option<&RawValue>| serde_json::from_str::<f64>(value?.get()).ok();
        let text = |value: Option<&RawValue>| serde_json::from_str::<String>(value?.get()).ok();
        let is_result = number(self.start)? < timestamp && number(self.end)? == timestamp;
        text(self.aggregation).filter(|_| is_result)?;
        text(self.window)
    }

    fn is_masked(&self) -> bool {
        self.privacy.is_some_and(|value| value.get() == r#""masked""#)
    }

    /// `None` of a boot whose clock nobody knows yet.
    fn time(&self, timestamp: f64, clock: &Clock) -> Option<Time> {
        let Some(stamp) = self.clock.and_then(|value| serde_json::from_str::<Stamp>(value.get()).ok()) else {
            return Some(Time { timestamp, stamped: false, is_of_this_boot: false });
        };
        if stamp.boot == clock.boot {
            let timestamp = stamp.boot_time + clock.offset;
            return Some(Time { timestamp, stamped: true, is_of_this_boot: true });
        }
        let time = Time { timestamp, stamped: true, is_of_this_boot: false };
        (stamp.quality != mark::PROVISIONAL).then_some(time)
    }
}

/// When something was.
#[derive(Clone, Copy)]
struct Time {
    /// Unix seconds.
    timestamp: f64,
    /// The agent stamped it.
    stamped: bool,
    /// It did in this boot, so that the time goes along when the clock is set.
    is_of_this_boot: bool,
}

/// What a result says, with its span moved to `end`.
fn values(metadata: Option<&RawValue>, end: f64) -> Option<Values> {
    #[derive(Deserialize)]
    struct Carried {
        #[serde(flatten)]
        all: serde_json::Map<String, serde_json::Value>,
    }
    let Carried { mut all } = serde_json::from_str(metadata?.get()).ok()?;
    all.retain(|key, _| !NO_VALUES.contains(&key.as_str()));
    let values: Values = serde_json::from_value(all.into()).ok()?;
    Some(Values { start: values.start + (end - values.end), end, ..values })
}

/// As the names of hashed sensors look.
fn is_alias(sensor_name: &str) -> bool {
    sensor_name.len() == 32 && sensor_name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// What stands beside the aggregates in the metadata of a result.
const NO_VALUES: [&str; 4] = ["window", "aggregation", mark::KEY, mark::SUPPRESSED_KEY];
/// Beyond it all are forgotten and looked at anew.
const SENSORS_MAX: usize = 16_384;
