use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::*;
use crate::lifecycle::watchdog::Progress;
use crate::pipeline::rule;
use crate::pipeline::stages::tests::stages;
use crate::pipeline::window::{Aggregation, Kind, Settings};
use crate::pipeline::{Counters, Standing};
use crate::privacy::{Action, FieldPattern, SensorRule};
use crate::reading::{Batch, Reading, Severity};
use crate::store::export::{Fields, Item};
use crate::store::tests::settings;
use crate::store::{AuditEntry, DATABASE_FILE, Lane, Staged, open};

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

/// 2024-05-31T12:00:00Z.
const T: f64 = 1_717_156_800.0;
const BOOT: &str = "this";

fn standing(now: f64) -> Standing<'static> {
    Standing { boot: BOOT, offset: T - 1000.0, now, is_synchronised: true }
}

/// Counts of all results that are stored, by window, sensor and end, and 1 for each event, by rule, sensor and time; of
/// one that is there twice the test fails.
fn derived(folder: &Path) -> BTreeMap<(String, String, i64), u64> {
    let everything = Reach { running: Duration::from_secs(1 << 30), items_max: 1 << 30, bytes_max: 1 << 40 };
    let mut derived = BTreeMap::new();
    recent(&folder.join(DATABASE_FILE), &[everything], |item, _| {
        let metadata: serde_json::Value = serde_json::from_str(item.fields.metadata.unwrap().get()).unwrap();
        let sensor = item.fields.sensor().to_owned();
        let time = (item.fields.timestamp * 1000.0).round() as i64;
        let (key, count) = if let Some(window) = metadata["window"].as_str() {
            ((window.to_owned(), sensor, time), metadata["count"].as_u64().unwrap())
        } else if let Some(rule) = &item.fields.rule_name {
            ((rule.to_string(), sensor, time), 1)
        } else {
            return true;
        };
        assert_eq!(derived.insert(key.clone(), count), None, "{key:?} is there twice");
        true
    })
    .unwrap();
    derived
}

/// A rule of each kind that remembers something of readings, results or other rules.
fn all_rules() -> Vec<rule::Settings> {
    let rule = |name: &str, expr: &str| rule::Settings {
        name: name.to_owned(),
        condition_expr: expr.to_owned(),
        ..rule::Settings::default()
    };
    let seconds = Duration::from_secs;
    let composite = rule::Composite {
        all_of: vec!["held".to_owned(), "latched".to_owned()],
        none_of: vec!["jump".to_owned()],
        within: seconds(8),
        group_by: rule::GroupBy::Sensor,
        ..rule::Composite::default()
    };
    vec![
        rule::Settings {
            cooldown: seconds(15),
            severity: Severity::Critical,
            ..rule("cooled", "ctx.value > 0.5")
        },
        rule::Settings { hold: seconds(5), cooldown: seconds(3), ..rule("held", "ctx.value > 0.3") },
        rule("jump", "prev.value is not None and ctx.value - prev.value > 0.6"),
        rule::Settings {
            clear_expr: Some("ctx.value < 0.3".to_owned()),
            severity: Severity::Warning,
            ..rule("latched", "ctx.value > 0.6")
        },
        rule::Settings { composite: Some(composite), cooldown: seconds(4), ..rule("both", "True") },
        rule::Settings {
            window: Some("rolling".to_owned()),
            hold: seconds(10),
            ..rule("wide", "win.max > 0.7 and (prev.value is None or prev.value > 0.3)")
        },
        rule::Settings {
            hold: seconds(3),
            ..rule("gps", "ctx.metadata.get('gps', 0) == 1 and ctx.value > 0.2")
        },
    ]
}

/// Takes in what `random` says for 200 s, a commit each second, and is killed at the seconds `kills`.
async fn live(
    folder: &Path,
    mut random: fastrand::Rng,
    kills: &[u32],
) -> BTreeMap<(String, String, i64), u64> {
    let definitions = [
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
    let kept = || Kept { windows: Windows::new(&definitions), rules: Rules::new(&all_rules()).unwrap() };
    let counters = Counters::default();
    let Kept { windows, rules } = kept();
    let mut running = stages(rules, windows, &privacy);
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
            let (Kept { mut windows, rules }, _) = rebuild(past, kept(), clock).await;
            windows.resume(now);
            running = stages(rules, windows, &privacy);
        }
        let mut staged = Staged::default();
        running.tick(&standing(now), &mut staged, &counters);
        let mut batch = Batch::default();
        for number in 0..random.u32(..5) {
            let sensor_name = ["s0", "s1", "s2", "x"][random.usize(..4)];
            // The last ones go silent, so that the wall clock has to end their spans.
            if second > 100 && random.bool() || second > 150 {
                continue;
            }
            // Late ones too, but never two with the same time: an event is known by that.
            let apart = f64::from(number) / 10.0 + f64::from(second % 7) / 100.0;
            let timestamp = now - f64::from(random.u32(..4)) + apart;
            // How readings that are stored twice lie among those that are not only their times tell, and some are late.
            let is_stored_twice = ["s2", "x"].contains(&sensor_name);
            let metadata = if is_stored_twice { r#"{"gps":1}"# } else { "{}" };
            batch.push(Reading { sensor_name, timestamp, value: random.f64(), unit: "C", metadata });
        }
        running.take_in(&batch, &standing(now), &mut staged, &counters);
        store.append(staged).await.unwrap();
        store.ping().await.unwrap();
        // Two commits within a millisecond of the store's clock would count as one.
        std::thread::sleep(Duration::from_millis(2));
    }
    // Whatever is still open ends.
    let mut staged = Staged::default();
    running.tick(&standing(T + 10_000.0), &mut staged, &counters);
    store.append(staged).await.unwrap();
    drop(store);
    end.await.unwrap().unwrap();
    derived(folder)
}

#[tokio::test]
async fn results_and_events_are_the_same_however_often_the_agent_is_killed() {
    for seed in 0..4 {
        let random = fastrand::Rng::with_seed(seed);
        let undisturbed = live(tempfile::tempdir().unwrap().path(), random.clone(), &[]).await;
        assert!(undisturbed.len() > 100 && undisturbed.keys().any(|(_, sensor, _)| sensor == "*"));
        for rule in all_rules() {
            let events = undisturbed.keys().filter(|(name, ..)| *name == rule.name).count();
            assert!(events > 2, "{}: {events}", rule.name);
        }
        let mut moments = fastrand::Rng::with_seed(seed + 100);
        let kills: Vec<u32> = (0..12).map(|_| moments.u32(1..200)).collect();
        let killed = live(tempfile::tempdir().unwrap().path(), random, &kills).await;
        let (mut missed, mut more) = (undisturbed.clone(), killed);
        missed.retain(|key, count| more.get(key) != Some(count));
        more.retain(|key, count| undisturbed.get(key) != Some(count));
        assert!(
            missed.is_empty() && more.is_empty(),
            "seed {seed}, killed at {kills:?}: {missed:?}, {more:?}"
        );
    }
}

/// What a rebuilt window over each sensor and one over all hold of these items: sensor and count.
fn rebuilt(privacy: privacy::Settings, items: &[String]) -> Vec<(String, u64)> {
    let windows = Windows::new(&[window("w", Some("*"), 60, 60), window("all", None, 60, 60)]);
    let mut rebuilt = Rebuilt {
        windows: Some(windows),
        recall: Recall::new(Rules::default(), Sight { metadata: true, unit: true }),
    };
    let mut judge = Judge::new(&past(Path::new("none"), privacy));
    let clock = Clock { boot: BOOT.to_owned(), offset: T };
    for text in items {
        let fields: Fields<'_> = serde_json::from_str(text).unwrap();
        judge.take(&Item { lane: Lane::Telemetry, sequence: 1, text, fields }, &clock, &mut rebuilt);
    }
    judge.end_commit(&mut rebuilt);
    let mut windows = rebuilt.windows.unwrap();
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
        let kept = Kept { windows: Windows::new(&[window("w", Some("*"), 60, 60)]), rules: Rules::default() };
        let clock = Clock { boot: BOOT.to_owned(), offset: T };
        assert_eq!(rebuild(past, kept, clock).await.1, expected);
    }
}

#[tokio::test]
async fn what_came_in_while_nothing_was_to_leave_is_in_no_window_and_no_rule_that_may_leave() {
    let all = [rule::Settings { name: "gone".to_owned(), ..all_rules().remove(2) }];
    for (was_on, delivers, expected) in [(true, true, 2), (false, true, 0), (false, false, 2)] {
        let folder = tempfile::tempdir().unwrap();
        let (store, end) = open(settings(folder.path(), 1 << 30), Arc::new(Progress::default())).unwrap();
        for delivery in [was_on, delivers] {
            let details = serde_json::json!({"delivery": delivery});
            let action = privacy::audit::POLICY_LOADED.to_owned();
            let timestamp = clock::unix_seconds();
            store.audit(AuditEntry { action, details, timestamp }).await.unwrap();
            let mut staged = Staged::default();
            let text = item("a", f64::from(u8::from(delivery)), "{}");
            staged.push(Lane::Local, T, |out| out.extend_from_slice(text.as_bytes()));
            store.append(staged).await.unwrap();
        }
        drop(store);
        end.await.unwrap().unwrap();
        let past = Past { delivers, ..past(folder.path(), privacy::Settings::default()) };
        let windows = Windows::new(&[window("w", Some("*"), 60, 60)]);
        let kept = Kept { windows, rules: Rules::new(&all).unwrap() };
        let clock = Clock { boot: BOOT.to_owned(), offset: T };
        let mut kept = rebuild(past, kept, clock).await.0;
        kept.windows.resume(T);
        let mut count = 0;
        kept.windows.flush(T + 1000.0, &mut |result| count += result.values.count);
        assert_eq!(count, expected, "{was_on} {delivers}");
        let reading = Reading { sensor_name: "a", timestamp: T + 9.0, value: 9.0, unit: "", metadata: "{}" };
        let judged = rule::Judged { reading, stamped: false, since_boot: 0.0, leaves: true };
        let mut fired = 0;
        kept.rules.evaluate(judged, &mut |_| fired += 1);
        assert_eq!(fired, u32::from(expected > 0), "{was_on} {delivers}: prev is known");
    }
}

#[tokio::test]
async fn without_a_store_that_can_be_read_windows_and_rules_begin_anew() {
    let folder = tempfile::tempdir().unwrap();
    let kept = Kept {
        windows: Windows::new(&[window("w", Some("*"), 60, 60)]),
        rules: Rules::new(&all_rules()).unwrap(),
    };
    let clock = Clock { boot: BOOT.to_owned(), offset: T };
    let (kept, readings) = rebuild(past(folder.path(), privacy::Settings::default()), kept, clock).await;
    assert!(!kept.windows.is_empty() && kept.rules.len() == all_rules().len() && readings == 0);
}
