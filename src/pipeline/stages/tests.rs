use std::time::Duration;

use super::*;
use crate::pipeline::rule;
use crate::privacy::{HashKey, SensorRule};
use crate::reading::Severity;
use crate::store::Lane;

/// These rules and windows behind this privacy, with delivery.
pub(in crate::pipeline) fn stages(rules: Rules, windows: Windows, privacy: &privacy::Settings) -> Stages {
    Stages {
        firewall: Firewall::new(privacy, HashKey::new(&[7; 32])),
        rules,
        windows,
        selection: Selection::new(&[]),
        doors: Doors::default(),
        deliver: true,
    }
}

#[test]
fn a_refusal_of_a_private_sensor_is_counted_without_its_name() {
    let rule = |sensor: &str, action| SensorRule { sensor: sensor.to_owned(), action };
    let settings = privacy::Settings {
        enabled: true,
        rules: vec![rule("badge-*", Action::Hash), rule("*-bedroom", Action::Drop)],
        ..privacy::Settings::default()
    };
    let mut stages = stages(Rules::new(&[]).unwrap(), Windows::new(&[]), &settings);
    let mut batch = Batch::default();
    let long = format!("{}-bedroom", "x".repeat(300));
    for sensor_name in ["badge-7", "door", &long] {
        batch.push(Reading { sensor_name, timestamp: 0.0, value: 1.0, unit: "", metadata: "{}" });
    }
    for sensor in ["the-bedroom", "door", &long] {
        batch.refuse(Refusal::Malformed, sensor);
    }
    let counters = Counters::default();
    let now = 1_800_000_000.0;
    let standing = Standing { boot: "b", offset: now, now, is_synchronised: true };
    let committed = stages.take_in(&batch, &standing, &mut Staged::default(), &counters);
    assert_eq!((committed.accepted, committed.refused), (0, 6));
    let names: Vec<_> = counters.refused_by_sensor().into_keys().collect();
    assert_eq!(names, ["", "door"]);
}

#[test]
fn the_event_of_a_rule_over_rules_stays_on_the_device_where_one_of_its_readings_does() {
    let plain = |name: &str, expr: &str| rule::Settings {
        name: name.to_owned(),
        condition_expr: expr.to_owned(),
        ..rule::Settings::default()
    };
    let composite = rule::Composite {
        all_of: vec!["open".to_owned(), "hot".to_owned()],
        within: Duration::from_secs(60),
        ..rule::Composite::default()
    };
    let over = rule::Settings { composite: Some(composite), ..plain("both", "True") };
    let all = [plain("open", "ctx.sensor_name[:4] == 'door'"), plain("hot", "ctx.value > 80"), over];
    let settings = privacy::Settings {
        enabled: true,
        local_only: vec![privacy::FieldPattern("door-private".to_owned())],
        ..privacy::Settings::default()
    };
    for (door, is_outbound) in [("door-private", false), ("door", true)] {
        let mut stages = stages(Rules::new(&all).unwrap(), Windows::new(&[]), &settings);
        let mut batch = Batch::default();
        let now = 1_800_000_000.0;
        for (sensor_name, value) in [(door, 1.0), ("oven", 90.0)] {
            batch.push(Reading { sensor_name, timestamp: now, value, unit: "", metadata: "{}" });
        }
        let standing = Standing { boot: "b", offset: now, now, is_synchronised: true };
        let mut staged = Staged::default();
        stages.take_in(&batch, &standing, &mut staged, &Counters::default());
        let holds = |lane: Lane| String::from_utf8_lossy(staged.lines(lane)).contains("both");
        assert_eq!((holds(Lane::Telemetry), holds(Lane::Local)), (is_outbound, !is_outbound), "{door}");
    }
}

#[test]
fn the_event_of_a_silent_sensor_is_what_privacy_makes_of_its_last_reading() {
    let settings = privacy::Settings {
        enabled: true,
        redact_fields: vec![privacy::FieldPattern("operator".to_owned())],
        local_only: vec![privacy::FieldPattern("gps".to_owned())],
        ..privacy::Settings::default()
    };
    let silent = rule::Settings {
        name: "silent".to_owned(),
        condition_expr: "True".to_owned(),
        severity: Severity::Critical,
        silent: Some(Duration::from_secs(60)),
        ..rule::Settings::default()
    };
    let mut stages = stages(Rules::new(&[silent]).unwrap(), Windows::new(&[]), &settings);
    let metadata = r#"{"operator":"ann","gps":[1,2],"line":"a"}"#;
    let mut batch = Batch::default();
    batch.push_stamped(Reading { sensor_name: "door", timestamp: 5.0, value: 1.0, unit: "C", metadata });
    let counters = Counters::default();
    let at =
        |since_boot: f64| Standing { boot: "b", offset: 1e9, now: 1e9 + since_boot, is_synchronised: false };
    let mut staged = Staged::default();
    stages.take_in(&batch, &at(6.0), &mut staged, &counters);
    let mut staged = Staged::default();
    stages.tick(&at(65.9), &mut staged, &counters);
    assert!(staged.is_empty());
    stages.tick(&at(66.5), &mut staged, &counters);
    assert!(staged.is_urgent());
    let text = String::from_utf8(staged.lines(Lane::Critical).to_vec()).unwrap();
    let event: serde_json::Value = serde_json::from_str(&text).unwrap();
    let clock =
        |boot_time| serde_json::json!({"quality": "provisional", "boot_time": boot_time, "boot": "b"});
    assert_eq!(
        event,
        serde_json::json!({
            "rule_name": "silent", "timestamp": 1_000_000_066.5, "severity": "critical",
            "message": "Rule 'silent' fired",
            "sensor_readings": [{
                "sensor_name": "door", "timestamp": 1_000_000_005.0, "value": 1.0, "unit": "C",
                "metadata": {"line": "a", "_clock": clock(5.0)},
            }],
            "metadata": {"silent_seconds": 60.5, "_clock": clock(66.5)},
        })
    );
    assert_eq!(counters.events_triggered.load(Relaxed), 1);
}
