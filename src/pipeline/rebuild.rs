//! Windows after a restart: the readings of spans that were open are read again from the store before anything new is
//! taken in, so that neither a crash nor an upgrade leaves a hole. Nothing is stored, judged or delivered by it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::window::Windows;
use crate::clock;
use crate::clock::mark;
use crate::privacy::{self, Action, Firewall, HashKey, Verdict};
use crate::reading::Reading;
use crate::store::export::Item;
use crate::store::recent::{Commit, Reach, recent, was_delivery_off};

/// Where the readings of the run before are, and what was done to them.
pub struct Past {
    pub database: PathBuf,
    pub privacy: privacy::Settings,
    pub key: HashKey,
    /// Whether anything leaves the device now.
    pub delivers: bool,
    /// Ends the reading; windows begin anew then.
    pub stop: CancellationToken,
}

/// The clock that the agent's own stamps are put on.
pub struct Clock {
    pub boot: String,
    /// Unix seconds minus boot clock.
    pub offset: f64,
}

/// Windows as they were when the agent ended, and how many readings that took.
pub async fn rebuild(past: Past, windows: Windows, clock: Clock) -> (Windows, u64) {
    if windows.is_empty() {
        return (windows, 0);
    }
    let fresh = windows.begun_anew();
    // The runtime has others to serve, and a disk may be slow.
    match tokio::task::spawn_blocking(move || read(&past, windows, &clock)).await {
        Ok(rebuilt) => rebuilt,
        Err(error) => {
            tracing::error!(%error, "the windows were not rebuilt: reading the store failed; they begin anew");
            (fresh, 0)
        }
    }
}

fn read(past: &Past, mut windows: Windows, clock: &Clock) -> (Windows, u64) {
    let began = clock::since_boot();
    let running = Duration::from_secs_f64(windows.memory_seconds()) + GRACE;
    let reach = Reach { running, items_max: ITEMS_MAX, bytes_max: BYTES_MAX };
    // What was taken in while nothing was to leave does not leave later, in a window either.
    if past.delivers && was_delivery_off(&past.database, clock::unix_seconds() - running.as_secs_f64()) {
        tracing::info!("windows begin anew: delivery was off for some of what they would be rebuilt from");
        return (windows, 0);
    }
    let mut judge = Judge::new(past);
    let mut readings = 0;
    let mut is_late = false;
    let mut looked = 0_u32;
    let found = recent(&past.database, reach, |item, commit| {
        looked += 1;
        if looked.is_multiple_of(ITEMS_PER_LOOK) {
            is_late = clock::since_boot() - began > TIME_MAX || past.stop.is_cancelled();
        }
        judge.enter(commit, &mut windows);
        readings += u64::from(judge.take(item, clock, &mut windows));
        !is_late
    });
    judge.note_emitted(&mut windows);
    let took = clock::since_boot() - began;
    let (took_ms, fresh) = (took.as_millis(), windows.begun_anew());
    match found {
        // Nothing more is taken in, so nothing is missed.
        _ if past.stop.is_cancelled() => (fresh, 0),
        Ok(_) if is_late => {
            tracing::warn!(
                took_ms,
                readings,
                "the windows were not rebuilt: reading the store takes too long; they begin anew"
            );
            (fresh, 0)
        }
        Err(error) => {
            tracing::warn!(%error, "the windows were not rebuilt: the store cannot be read; they begin anew");
            (fresh, 0)
        }
        Ok(found) => {
            let (unreadable, is_whole) = (found.unreadable.items, found.is_whole);
            if !is_whole || unreadable > 0 {
                tracing::warn!(
                    readings,
                    unreadable,
                    took_ms,
                    "the windows were rebuilt in part: some of their readings are too many or cannot be read"
                );
            } else if readings > 0 {
                tracing::info!(readings, took_ms, "the windows were rebuilt from the store");
            }
            (windows, readings)
        }
    }
}

/// Tells what an item was when it came in, as far as privacy has left that to see.
struct Judge {
    firewall: Firewall,
    /// Nothing is done to anything.
    is_open: bool,
    hashes_names: bool,
    /// By sensor.
    known: HashMap<Box<str>, Known>,
    commit: Option<Commit>,
    /// Results that came with this commit: they are noted behind its readings, among which their place is not known.
    emitted: Vec<Emitted>,
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
    fn new(past: &Past) -> Self {
        let privacy = &past.privacy;
        let hashes = privacy.rules.iter().any(|rule| rule.action == Action::Hash);
        Self {
            firewall: Firewall::new(privacy, past.key.clone()),
            is_open: privacy.rules_active() == 0,
            hashes_names: privacy.enabled && (hashes || !privacy.hash_fields.is_empty()),
            known: HashMap::new(),
            commit: None,
            emitted: Vec::new(),
        }
    }

    fn enter(&mut self, commit: Commit, windows: &mut Windows) {
        if self.commit.replace(commit) != Some(commit) {
            self.note_emitted(windows);
        }
    }

    fn note_emitted(&mut self, windows: &mut Windows) {
        for Emitted { window, sensor_name, end } in self.emitted.drain(..) {
            windows.was_emitted(&window, &sensor_name, end);
        }
    }

    /// Gives `windows` what the item tells them; true when that is a reading.
    fn take(&mut self, item: &Item<'_>, clock: &Clock, windows: &mut Windows) -> bool {
        let fields = &item.fields;
        let (Some(sensor_name), Some(value), None) = (&fields.sensor_name, fields.value, &fields.rule_name)
        else {
            return false;
        };
        let metadata = Metadata::of(fields.metadata);
        let Some((timestamp, stamped)) = metadata.time(fields.timestamp, clock) else { return false };
        if let Some(window) = metadata.window(fields.timestamp) {
            self.emitted.push(Emitted { window, sensor_name: sensor_name.to_string(), end: timestamp });
            return false;
        }
        if metadata.is_masked() || self.hashes_names && is_alias(sensor_name) {
            return false;
        }
        let known = self.known(sensor_name);
        if known.is_plain {
            let unit = fields.unit.as_deref().unwrap_or_default();
            let reading = Reading { sensor_name, timestamp, value, unit, metadata: "{}" };
            windows.replay(reading, known.pooled, stamped);
        }
        known.is_plain
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

    /// Unix seconds, and whether the agent stamped it; `None` of a boot whose clock nobody knows yet.
    fn time(&self, timestamp: f64, clock: &Clock) -> Option<(f64, bool)> {
        let Some(stamp) = self.clock.and_then(|value| serde_json::from_str::<Stamp>(value.get()).ok()) else {
            return Some((timestamp, false));
        };
        if stamp.boot == clock.boot {
            return Some((stamp.boot_time + clock.offset, true));
        }
        (stamp.quality != mark::PROVISIONAL).then_some((timestamp, true))
    }
}

/// As the names of hashed sensors look.
fn is_alias(sensor_name: &str) -> bool {
    sensor_name.len() == 32 && sensor_name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Beside the longest span and its lateness: how long spans are open for the wall clock to pass, and a commit waits.
const GRACE: Duration = Duration::from_secs(75);
/// What is read again at most, the newest of it: half an hour of 500 readings a second.
const ITEMS_MAX: u64 = 1_000_000;
const BYTES_MAX: u64 = 256 << 20;
/// For what takes longer the readings to come must not wait.
const TIME_MAX: Duration = Duration::from_secs(5);
const ITEMS_PER_LOOK: u32 = 256;
/// Beyond it all are forgotten and looked at anew.
const SENSORS_MAX: usize = 16_384;

#[cfg(test)]
mod tests;
