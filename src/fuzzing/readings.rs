//! What must hold for readings, whatever bytes they were read from.

use std::cell::OnceCell;

use serde_json::Value;

use super::config_file::config_of;
use crate::adapter::json::{Defaults, push_reading};
use crate::pipeline::rule::Rules;
use crate::pipeline::window::Windows;
use crate::pipeline::{Counters, Stages, Standing, encode, validate};
use crate::privacy::{Firewall, HashKey};
use crate::reading::{Batch, Committed, METADATA_BYTES_MAX, Reading, SENSOR_NAME_BYTES_MAX, UNIT_BYTES_MAX};
use crate::store::{Lane, Staged};

/// 2027-01-15, as Unix seconds: the same at every run.
pub(super) const NOW: f64 = 1_800_000_000.0;
/// The boot began with the day of [`NOW`], and the clock is right.
const STANDING: Standing<'_> =
    Standing { boot: "b", offset: NOW - 86_400.0, now: NOW, is_synchronised: true };

/// Takes `batch` through the stages, as the pipeline does.
pub(super) fn take_in(batch: &Batch) -> Committed {
    for reading in batch.readings() {
        if validate::refusal(&reading, false, &STANDING).is_none() {
            check_accepted(reading);
        }
    }
    let mut stages = stages();
    let mut staged = Staged::default();
    let committed = stages.take_in(batch, &STANDING, &mut staged, &Counters::default());
    assert_eq!((committed.accepted + committed.refused) as usize, batch.len(), "some were not counted");
    assert!(committed.accepted as usize <= batch.readings().len());
    stages.tick(&Standing { now: NOW + 1e6, ..STANDING }, &mut staged, &Counters::default());
    check_staged(&staged, committed);
    committed
}

/// Within the limits, and what is stored reads back as the same reading.
fn check_accepted(reading: Reading<'_>) {
    assert!((1..=SENSOR_NAME_BYTES_MAX).contains(&reading.sensor_name.len()));
    assert!(reading.unit.len() <= UNIT_BYTES_MAX);
    assert!(reading.metadata.len() <= METADATA_BYTES_MAX);
    assert!(reading.value.is_finite() && reading.timestamp.is_finite());
    let mut bytes = Vec::new();
    encode::reading(&mut bytes, reading, None);
    assert!(!bytes.contains(&b'\n'), "an item is one line");
    let text = str::from_utf8(&bytes).expect("JSON is UTF-8");
    let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(value.as_object().map(|object| object.len()), Some(5), "{text}");
    let mut again = Batch::default();
    let defaults = Defaults { sensor_name: None, unit: "", units: None, timestamp: NOW, origin: "" };
    push_reading(&mut again, text, &defaults);
    assert_eq!(again.readings().next(), Some(reading), "{text}");
}

/// Lines of JSON, and none that leaves shows what is private.
fn check_staged(staged: &Staged, committed: Committed) {
    let mut items = 0;
    for lane in Lane::ALL {
        for line in staged.lines(lane).split_inclusive(|byte| *byte == b'\n') {
            assert!(line.ends_with(b"\n"), "the last line is whole");
            items += 1;
            let text = String::from_utf8_lossy(line);
            let value: Value = serde_json::from_slice(line).unwrap_or_else(|error| panic!("{text}: {error}"));
            check_private(&value, lane, &text);
        }
    }
    assert_eq!(items, staged.items());
    assert!(items >= committed.accepted, "an accepted reading is stored");
}

fn check_private(item: &Value, lane: Lane, text: &str) {
    let readings = item.get("sensor_readings").and_then(Value::as_array);
    let readings = readings.map_or(std::slice::from_ref(item), Vec::as_slice);
    for metadata in readings.iter().filter_map(|reading| reading.get("metadata")) {
        assert!(!has_key(metadata, &|key, _| key == "redacted"), "{text}");
        assert!(!has_key(metadata, &|key, _| key == "dropped"), "{text}");
        assert!(!has_key(metadata, &|key, value| key == "masked" && value != "***"), "{text}");
        assert!(lane == Lane::Local || !has_key(metadata, &|key, _| key == "local"), "{text}");
    }
}

/// Whether an object holds such a key, at any depth.
fn has_key(value: &Value, is_it: &dyn Fn(&str, &Value) -> bool) -> bool {
    match value {
        Value::Object(object) => object.iter().any(|(key, value)| is_it(key, value) || has_key(value, is_it)),
        Value::Array(items) => items.iter().any(|item| has_key(item, is_it)),
        _ => false,
    }
}

fn stages() -> Stages {
    thread_local! {
        static CONFIG: OnceCell<crate::config::Config> = const { OnceCell::new() };
    }
    CONFIG.with(|config| {
        let config = config.get_or_init(|| config_of(STAGES));
        Stages {
            firewall: Firewall::new(&config.privacy, HashKey::new(&[7; 32])),
            rules: Rules::new(&config.rules).expect("they compile"),
            windows: Windows::new(&config.windows),
            selection: crate::pipeline::selection::Selection::new(&[]),
            doors: Default::default(),
            deliver: true,
        }
    })
}

const STAGES: &str = "
[[rules]]
name = 'high'
condition_expr = 'ctx.value > 50 or ctx.metadata.get(\"k\", 0) == 7 or len(ctx.metadata) > 3'
severity = 'critical'
[[windows.definitions]]
name = 'minute'
sensor_name = '*'
[[windows.definitions]]
name = 'all'
window_type = 'rolling'
step_seconds = 10.0
aggregation = 'std'
[privacy]
redact_fields = ['*:redacted']
mask_fields = ['*:masked']
hash_fields = ['*:hashed']
drop_fields = ['*:dropped']
local_only = ['*:local']
[[privacy.rules]]
sensor = 'hidden*'
action = 'hash'
";
