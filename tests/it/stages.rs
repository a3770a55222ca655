//! Rules, windows and the privacy firewall, from a reading at the door to what leaves the device.

use serde_json::{Value, json};

use crate::harness::cloud::Cloud;
use crate::harness::daemon::{EAGER_STORE, Home};
use crate::harness::endpoint::receiver::behaviour::Behaviour;
use crate::harness::stored;
use crate::http_ingest::Door;

const RULES: &str = "[[rules]]\nname = 'hot'\ncondition_expr = 'ctx.value > 85.0 and ctx.unit == \"C\"'\n\
                     severity = 'critical'\ncooldown_seconds = 60.0\n\
                     [[rules]]\nname = 'odd'\ncondition_expr = 'ctx.metadata.get(\"odd\", False)'\n\
                     severity = 'warning'\nmessage = 'an odd one'\n";

#[tokio::test]
async fn events_arrive_as_documented_and_before_the_telemetry_that_waited_longer() {
    let cloud = Cloud::behaving(Behaviour { fail: Some(503), ..Behaviour::default() }).await;
    let door = Door::new();
    let home = Home::new(&format!("{}{RULES}{}{EAGER_STORE}", door.section(), cloud.section()));
    let daemon = home.start().await;
    door.open(&daemon).await;
    let reading = |timestamp: u32, value: f64, metadata: Value| json!({"sensor_name": "boiler", "timestamp": f64::from(timestamp), "value": value, "unit": "C", "metadata": metadata});
    let start = 1_717_156_800;
    let readings = [
        reading(start, 20.0, json!({})),
        reading(start + 1, 90.0, json!({})),
        reading(start + 2, 21.0, json!({"odd": true})),
        // Within the cooldown, on the readings' own time, and then behind it.
        reading(start + 59, 91.0, json!({})),
        reading(start + 61, 92.0, json!({})),
    ];
    assert_eq!(door.post(&json!(readings).to_string()).await.0, 200);
    cloud.endpoint.totals("it is refused", |totals| totals.refused > 0).await;
    cloud.behave(Behaviour::default());
    let items = cloud.until_items(8).await;
    let hot = |about: &Value| {
        json!({"rule_name": "hot", "timestamp": about["timestamp"], "severity": "critical",
               "message": "Rule 'hot' fired", "sensor_readings": [about], "metadata": {}})
    };
    let odd = json!({"rule_name": "odd", "timestamp": readings[2]["timestamp"], "severity": "warning",
                     "message": "an odd one", "sensor_readings": [readings[2]], "metadata": {}});
    assert_eq!(items[..3], [hot(&readings[1]), hot(&readings[4]), odd]);
    assert_eq!(items[3..], readings);
    let health = daemon.health().await;
    assert_eq!(health["agent"]["events_triggered"], 3);
    daemon.stop().await;
}

#[tokio::test]
async fn a_window_arrives_as_a_reading_with_its_aggregates() {
    let (cloud, door) = (Cloud::start().await, Door::new());
    let window = "[windows.minute]\nsensor_name = 'boiler'\nduration_seconds = 60\naggregation = 'max'\n";
    let home = Home::new(&format!("{}{window}{}{EAGER_STORE}", door.section(), cloud.section()));
    let daemon = home.start().await;
    door.open(&daemon).await;
    // 2024-05-31T12:00:00Z begins a minute; the last reading is the 5 s past its end that it waits.
    let values = [(0, 10.0), (20, 20.0), (40, 60.0), (65, 1.0)];
    let readings: Vec<_> = values
        .iter()
        .map(|(second, value)| json!({"sensor_name": "boiler", "timestamp": 1_717_156_800 + second, "value": value, "unit": "C"}))
        .collect();
    assert_eq!(door.post(&json!(readings).to_string()).await.0, 200);
    let result = cloud.until_item("a window", |item| item["metadata"]["window"] == "minute").await;
    assert_eq!(
        (&result["sensor_name"], &result["value"], &result["unit"]),
        (&json!("boiler"), &json!(60.0), &json!("C"))
    );
    assert_eq!(result["timestamp"], 1_717_156_860.0);
    let aggregates = &result["metadata"];
    for (key, value) in [("mean", 30.0), ("max", 60.0), ("min", 10.0), ("sum", 90.0), ("count", 3.0)] {
        assert_eq!(aggregates[key].as_f64(), Some(value), "{key} of {aggregates}");
    }
    // Of the population: sqrt((400 + 100 + 900) / 3).
    assert!((aggregates["std"].as_f64().unwrap() - 21.602_468_994_693).abs() < 1e-9, "{aggregates}");
    daemon.stop().await;
}

const PRIVACY: &str = "[privacy]\nredact_fields = ['gps']\nmask_fields = ['phone']\nhash_fields = ['badge']\n\
                       drop_fields = ['secret_*']\nlocal_only = ['door*', 'boiler:note']\n\
                       [[privacy.rules]]\nsensor = 'mic*'\naction = 'drop'\n";

#[tokio::test]
async fn nothing_that_privacy_forbids_leaves_the_device() {
    let (cloud, door) = (Cloud::start().await, Door::new());
    let always = "[[rules]]\nname = 'always'\ncondition_expr = 'True'\nseverity = 'critical'\n";
    let home = Home::new(&format!("{}{always}{PRIVACY}{}{EAGER_STORE}", door.section(), cloud.section()));
    let daemon = home.start().await;
    door.open(&daemon).await;
    let metadata =
        json!({"gps": "N52-E13", "phone": "0170-555", "badge": "b-4711", "note": "keep-me", "site": "north"});
    let readings = json!([
        {"sensor_name": "boiler", "value": 1, "metadata": metadata},
        {"sensor_name": "mic1", "value": 2},
        {"sensor_name": "boiler", "value": 3, "metadata": {"secret_plan": "x-plan"}},
        {"sensor_name": "door_7", "value": 4},
        {"sensor_name": "boiler", "value": 5},
    ]);
    let (status, answer) = door.post(&readings.to_string()).await;
    assert_eq!((status, &answer["accepted"], &answer["refused"]), (200, &json!(3), &json!(2)), "{answer}");
    // Two readings and their events; the door's stay.
    let items = cloud.until_items(4).await;
    let boiler = items.iter().find(|item| item["value"] == 1.0).unwrap();
    assert_eq!(boiler["metadata"].get("gps"), None);
    assert_eq!(boiler["metadata"].get("note"), None);
    assert_eq!(boiler["metadata"]["site"], "north");
    let health = daemon.health().await;
    assert_eq!(health["privacy"]["fields_redacted"], json!(["gps"]));
    assert_eq!(health["refused"]["privacy"], 2);
    let log = daemon.stop().await;

    let sent: String =
        cloud.endpoint.receiver.arrivals().iter().map(|arrival| arrival.body.clone()).collect();
    for forbidden in ["N52-E13", "0170-555", "b-4711", "keep-me", "mic1", "x-plan", "secret_plan", "door_7"] {
        assert!(!sent.contains(forbidden), "'{forbidden}' was sent: {sent}");
        assert!(!log.contains(forbidden), "'{forbidden}' was logged: {log}");
    }
    let local = json!(stored::items(&home.state_dir(), &stored::LOCAL)).to_string();
    assert!(local.contains("door_7") && local.contains("keep-me"), "{local}");
    let all = format!("{local}{}", json!(stored::items(&home.state_dir(), &stored::OUTBOUND)));
    for forbidden in ["N52-E13", "0170-555", "b-4711", "mic1", "x-plan"] {
        assert!(!all.contains(forbidden), "'{forbidden}' was stored: {all}");
    }
}

#[tokio::test]
async fn what_is_sent_of_a_sensor_is_chosen_and_the_rest_stays_on_the_device() {
    let (cloud, door) = (Cloud::start().await, Door::new());
    let choice = "[[policies.delivery]]\nsensor = 'boiler'\ndeadband = 0.5\nheartbeat_seconds = 60\n\
                  [[policies.delivery]]\nsensor = 'pump*'\nsend = ['windows']\n\
                  [windows.minute]\nsensor_name = 'pump*'\nduration_seconds = 60\naggregation = 'max'\n";
    let configuration = format!("{}{RULES}{choice}{}{EAGER_STORE}", door.section(), cloud.section());
    let home = Home::new(&configuration);
    let daemon = home.start().await;
    door.open(&daemon).await;
    let start = 1_717_156_800;
    let reading = |sensor: &str, after: u32, value: f64, metadata: Value| json!({"sensor_name": sensor, "timestamp": f64::from(start + after), "value": value, "unit": "C", "metadata": metadata});
    let sent = [
        reading("boiler", 0, 20.0, json!({"_suppressed": 99})),
        reading("boiler", 10, 20.4, json!({})),
        reading("boiler", 20, 19.6, json!({})),
        reading("boiler", 30, 21.0, json!({"line": "a"})),
        reading("pump 1", 31, 90.0, json!({"odd": true})),
        reading("boiler", 40, 21.0, json!({})),
        reading("boiler", 90, 21.0, json!({})),
        reading("pump 1", 91, 3.0, json!({})),
        reading("other", 92, 1.0, json!({})),
    ];
    assert_eq!(door.post(&json!(sent).to_string()).await.0, 200);
    let items = cloud.until_items(5).await;
    let (windows, readings): (Vec<_>, Vec<_>) =
        items.into_iter().partition(|item| item["metadata"]["window"] == "minute");
    assert_eq!(
        json!(readings),
        json!([
            reading("boiler", 0, 20.0, json!({"_source_suppressed": 99})),
            reading("boiler", 30, 21.0, json!({"line": "a", "_suppressed": 2})),
            reading("boiler", 90, 21.0, json!({"_suppressed": 1})),
            reading("other", 92, 1.0, json!({})),
        ])
    );
    assert_eq!((windows.len(), &windows[0]["value"]), (1, &json!(90.0)));
    let health = daemon.health().await;
    assert_eq!(health["agent"]["readings_suppressed"], 5);
    assert_eq!(health["agent"]["events_triggered"], 2);
    daemon.stop().await;
    let stored = stored::items(&home.state_dir(), &["block_local"]);
    let sensors: Vec<_> = stored.iter().map(|item| item["sensor_name"].as_str().unwrap_or("event")).collect();
    assert_eq!(sensors, ["boiler", "boiler", "pump 1", "event", "event", "boiler", "pump 1"]);
}

#[tokio::test]
async fn what_is_taken_in_without_delivery_stays_when_delivery_is_enabled_later() {
    let (cloud, door) = (Cloud::start().await, Door::new());
    let home = Home::new(&door.section());
    let daemon = home.start().await;
    door.open(&daemon).await;
    door.post_values([1]).await;
    daemon.stop().await;
    home.configure(&format!("{}{}{EAGER_STORE}", door.section(), cloud.section()));
    let daemon = home.start().await;
    door.open(&daemon).await;
    door.post_values([2]).await;
    cloud.until_values(&[2]).await;
    daemon.stop().await;
    assert_eq!(cloud.endpoint.values_as_floats(), [2.0]);
}
