use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::lifecycle::watchdog::Progress;
use crate::pipeline::rule::Rules;
use crate::pipeline::selection::Selection;
use crate::pipeline::window::{Aggregation, Kind, Settings};
use crate::pipeline::{Counters, Stages, Standing};
use crate::privacy::{FieldPattern, SensorRule};
use crate::reading::Batch;
use crate::store::export::Fields;
use crate::store::tests::settings;
use crate::store::{DATABASE_FILE, Lane, Staged, open};

fn window(name: &str, sensor: Option<&str>, duration: u64, step: u64) -> Settings {
    Settings {
        name: name.to_owned(),
        sensor_name: sensor.map(str::to_owned),
        duration: Duration::from_secs(duration),
        step: Duration::from_secs(step),
        kind: Kind::Rolling,
        aggregation: Aggregation::Mean,
        allowed_lateness: Duration::from_secs(5),
        percentile: Some(50.0),
        half_life: Some(Duration::from_secs(10)),
    }
}

fn past(folder: &Path, privacy: privacy::Settings) -> Past {
    Past {
        database: folder.join(DATABASE_FILE),
        privacy,
        key: HashKey::new(&[7; 32]),
        delivers: true,
        stop: CancellationToken::new(),
    }
}

fn stages(windows: Windows, privacy: &privacy::Settings) -> Stages {
    Stages {
        firewall: Firewall::new(privacy, HashKey::new(&[7; 32])),
        rules: Rules::new(&[]).unwrap(),
        windows,
        selection: Selection::new(&[]),
        doors: Default::default(),
        deliver: true,
    }
}

/// 2024-05-31T12:00:00Z.
const T: f64 = 1_717_156_800.0;
const BOOT: &str = "this";

fn standing(now: f64) -> Standing<'static> {
    Standing { boot: BOOT, offset: T - 1000.0, now, is_synchronised: true }
}

/// Counts of all results that are stored, by window, sensor and end; of one that is there twice the test fails.
fn results(folder: &Path) -> BTreeMap<(String, String, i64), u64> {
    let everything = Reach { running: Duration::from_secs(1 << 30), items_max: 1 << 30, bytes_max: 1 << 40 };
    let mut results = BTreeMap::new();
    recent(&folder.join(DATABASE_FILE), everything, |item, _| {
        let metadata: serde_json::Value = serde_json::from_str(item.fields.metadata.unwrap().get()).unwrap();
        if let Some(window) = metadata["window"].as_str() {
            let end = item.fields.timestamp as i64;
            let key = (window.to_owned(), item.fields.sensor().to_owned(), end);
            let count = metadata["count"].as_u64().unwrap();
            assert_eq!(results.insert(key.clone(), count), None, "{key:?} was emitted twice");
        }
        true
    })
    .unwrap();
    results
}

/// Takes in what `random` says for 200 s, a commit each second, and is killed at the seconds `kills`.
async fn live(
    folder: &Path,
    mut random: fastrand::Rng,
    kills: &[u32],
) -> BTreeMap<(String, String, i64), u64> {
    let windows = [
        window("minute", Some("*"), 60, 60),
        window("rolling", Some("s*"), 20, 5),
        window("all", None, 30, 30),
    ];
    let privacy = privacy::Settings {
        enabled: true,
        rules: vec![SensorRule { sensor: "s1".to_owned(), action: Action::LocalOnly }],
        local_only: vec![FieldPattern("gps".to_owned())],
        ..privacy::Settings::default()
    };
    let counters = Counters::default();
    let mut running = stages(Windows::new(&windows), &privacy);
    running.windows.resume(T);
    let (mut store, mut end) = open(settings(folder, 1 << 30), Arc::new(Progress::default())).unwrap();
    for second in 0..200 {
        let now = T + f64::from(second);
        if kills.contains(&second) {
            drop(store);
            end.await.unwrap().unwrap();
            (store, end) = open(settings(folder, 1 << 30), Arc::new(Progress::default())).unwrap();
            let clock = Clock { boot: BOOT.to_owned(), offset: T - 1000.0 };
            let past = past(folder, privacy.clone());
            let (mut windows, _) = rebuild(past, Windows::new(&windows), clock).await;
            windows.resume(now);
            running = stages(windows, &privacy);
        }
        let mut staged = Staged::default();
        running.tick(&standing(now), &mut staged, &counters);
        let mut batch = Batch::default();
        for _ in 0..random.u32(..5) {
            let sensor_name = ["s0", "s1", "s2", "x"][random.usize(..4)];
            // The last ones go silent, so that the wall clock has to end their spans.
            if second > 100 && random.bool() || second > 150 {
                continue;
            }
            let timestamp = now - f64::from(random.u32(..4));
            let metadata = ["{}", r#"{"gps":1}"#][random.usize(..2)];
            batch.push(Reading { sensor_name, timestamp, value: random.f64(), unit: "C", metadata });
        }
        running.take_in(&batch, &standing(now), &mut staged, &counters);
        store.append(staged).await.unwrap();
        store.ping().await.unwrap();
    }
    // Whatever is still open ends.
    let mut staged = Staged::default();
    running.tick(&standing(T + 10_000.0), &mut staged, &counters);
    store.append(staged).await.unwrap();
    drop(store);
    end.await.unwrap().unwrap();
    results(folder)
}

#[tokio::test]
async fn results_are_the_same_however_often_the_agent_is_killed() {
    for seed in 0..4 {
        let random = fastrand::Rng::with_seed(seed);
        let undisturbed = live(tempfile::tempdir().unwrap().path(), random.clone(), &[]).await;
        assert!(undisturbed.len() > 100 && undisturbed.keys().any(|(_, sensor, _)| sensor == "*"));
        let mut moments = fastrand::Rng::with_seed(seed + 100);
        let kills: Vec<u32> = (0..12).map(|_| moments.u32(1..200)).collect();
        let killed = live(tempfile::tempdir().unwrap().path(), random, &kills).await;
        assert_eq!(killed, undisturbed, "seed {seed}, killed at {kills:?}");
    }
}

/// What a rebuilt window over each sensor and one over all hold of these items: sensor and count.
fn rebuilt(privacy: privacy::Settings, items: &[String]) -> Vec<(String, u64)> {
    let mut windows = Windows::new(&[window("w", Some("*"), 60, 60), window("all", None, 60, 60)]);
    let mut judge = Judge::new(&past(Path::new("none"), privacy));
    let clock = Clock { boot: BOOT.to_owned(), offset: T };
    for text in items {
        let fields: Fields<'_> = serde_json::from_str(text).unwrap();
        judge.take(&Item { lane: Lane::Telemetry, sequence: 1, text, fields }, &clock, &mut windows);
    }
    judge.note_emitted(&mut windows);
    windows.resume(T);
    let mut results = Vec::new();
    windows.flush(T + 1000.0, &mut |result| {
        results.push((result.sensor_name.to_owned(), result.values.count));
    });
    results.sort();
    results
}

fn item(sensor: &str, seconds: f64, metadata: &str) -> String {
    let timestamp = T + seconds;
    format!(
        r#"{{"sensor_name":"{sensor}","timestamp":{timestamp:?},"value":1.0,"unit":"","metadata":{metadata}}}"#
    )
}

fn held(expected: &[(&str, u64)]) -> Vec<(String, u64)> {
    expected.iter().map(|(sensor, count)| ((*sensor).to_owned(), *count)).collect()
}

#[test]
fn results_and_events_are_no_readings_but_what_looks_a_little_like_them_is() {
    let result = |window: &str| {
        let (start, end) = (T - 60.0, T);
        format!(r#"{{"window":"{window}","aggregation":"mean","start":{start:?},"end":{end:?},"count":3}}"#)
    };
    let event = format!(
        r#"{{"rule_name":"r","timestamp":{T:?},"severity":"info","message":"","sensor_readings":[{}],"metadata":{{}}}}"#,
        item("a", 1.0, "{}")
    );
    let items = [
        item("a", 0.0, &result("gone")),
        item("a", -1.0, "{}"),
        item("a", 0.0, &result("w")),
        item("a", 1.0, r#"{"window":"open"}"#),
        item("a", 2.0, r#"{"window":7,"start":1,"end":"x"}"#),
        item("a", 3.0, "[]"),
        event,
    ];
    // The span before was emitted for "w", and not for the window over all.
    assert_eq!(rebuilt(privacy::Settings::default(), &items), held(&[("*", 1), ("*", 3), ("a", 3)]));
}

#[test]
fn what_privacy_has_made_unknowable_is_left_out() {
    let privacy = privacy::Settings {
        enabled: true,
        rules: [
            ("h*", Action::Hash),
            ("local", Action::LocalOnly),
            ("mask", Action::Mask),
            ("d", Action::Drop),
        ]
        .map(|(sensor, action)| SensorRule { sensor: sensor.to_owned(), action })
        .to_vec(),
        redact_fields: vec![FieldPattern("odd:start".to_owned()), FieldPattern("*:operator".to_owned())],
        ..privacy::Settings::default()
    };
    let items = [
        item("0123456789abcdef0123456789abcdef", 0.0, "{}"),
        item("mask", 0.0, r#"{"privacy":"masked"}"#),
        item("d", 0.0, "{}"),
        // Its results could not be told from readings.
        item("odd", 0.0, "{}"),
        item("local", 0.0, "{}"),
        item("plain", 0.0, r#"{"line":2}"#),
    ];
    assert_eq!(rebuilt(privacy, &items), held(&[("*", 1), ("local", 1), ("plain", 1)]));
}

#[test]
fn stamps_of_this_boot_are_put_on_its_clock_and_of_another_left_out_until_it_is_known() {
    let clock = |quality: &str, boot: &str, boot_time: f64| {
        format!(r#"{{"_clock":{{"quality":"{quality}","boot_time":{boot_time:?},"boot":"{boot}"}}}}"#)
    };
    let items = [
        item("mine", -1e9, &clock("provisional", BOOT, 5.0)),
        item("mine", 6.0, "{}"),
        item("other", 3.0, &clock("provisional", "before", 5.0)),
        item("known", 3.0, &clock("inferred", "before", 5.0)),
    ];
    assert_eq!(rebuilt(privacy::Settings::default(), &items), held(&[("*", 3), ("known", 1), ("mine", 2)]));
}

#[tokio::test]
async fn an_agent_that_is_told_to_stop_does_not_read_on() {
    let folder = tempfile::tempdir().unwrap();
    let (store, end) = open(settings(folder.path(), 1 << 30), Arc::new(Progress::default())).unwrap();
    let mut staged = Staged::default();
    for second in 0..600 {
        let text = item("a", f64::from(second) / 10.0, "{}");
        staged.push(Lane::Telemetry, T, |out| out.extend_from_slice(text.as_bytes()));
    }
    store.append(staged).await.unwrap();
    drop(store);
    end.await.unwrap().unwrap();
    for (is_stopping, expected) in [(false, 600), (true, 0)] {
        let past = past(folder.path(), privacy::Settings::default());
        if is_stopping {
            past.stop.cancel();
        }
        let windows = Windows::new(&[window("w", Some("*"), 60, 60)]);
        let clock = Clock { boot: BOOT.to_owned(), offset: T };
        assert_eq!(rebuild(past, windows, clock).await.1, expected);
    }
}

#[tokio::test]
async fn without_a_store_that_can_be_read_windows_begin_anew() {
    let folder = tempfile::tempdir().unwrap();
    let windows = Windows::new(&[window("w", Some("*"), 60, 60)]);
    let clock = Clock { boot: BOOT.to_owned(), offset: T };
    let (windows, readings) =
        rebuild(past(folder.path(), privacy::Settings::default()), windows, clock).await;
    assert!(!windows.is_empty() && readings == 0);
}
