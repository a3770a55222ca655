//! What becomes of a message: its reading, or its refusal.

use rumqttc::mqttbytes::QoS;
use serde_json::json;

use super::config;
use crate::harness::broker::{Broker, Options};
use crate::harness::cloud::Cloud;
use crate::harness::daemon::{Daemon, EAGER_STORE, Home};
use crate::harness::publisher::Publisher;

const EVERY_QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

#[tokio::test]
async fn readings_of_every_quality_of_service_arrive_as_documented() {
    let (cloud, broker) = (Cloud::start().await, Broker::start(Options::default()).await);
    let home = Home::new(&config(&broker, "", "plant/+/temperature", &cloud));
    let daemon = home.start().await;
    broker.says("Sending SUBACK").await;
    let publisher = Publisher::new(&broker);
    let reading = |value: u32| {
        json!({"sensor_name": "boiler", "timestamp": 1_717_156_800.5 + f64::from(value), "value": f64::from(value) + 0.5,
               "unit": "K", "metadata": {"site": "north", "depth": {"level": 2}}})
    };
    for (value, qos) in EVERY_QOS.into_iter().enumerate() {
        let payload = reading(u32::try_from(value).unwrap()).to_string();
        publisher.publish("plant/7/temperature", payload, qos).await;
    }
    assert_eq!(cloud.until_items(3).await, [reading(0), reading(1), reading(2)]);
    let arrivals = cloud.endpoint.receiver.arrivals();
    let first = &arrivals[0];
    assert_eq!(first.authorization.as_deref(), Some("Bearer test-key"));
    assert_eq!(first.user_agent.as_deref(), Some(concat!("Pyvorin-Edge/", env!("CARGO_PKG_VERSION"))));
    let health =
        daemon.health_shows("it counts them", |health| health["agent"]["readings_processed"] == 3).await;
    assert_eq!(health["ingest"]["adapters_connected"], json!(["mqtt"]));
    daemon.stop().await;
}

#[tokio::test]
async fn a_bare_number_is_named_by_its_topic_and_measured_in_the_device_s_unit() {
    let (cloud, broker) = (Cloud::start().await, Broker::start(Options::default()).await);
    let more = "\n[[sensors.devices]]\nname = 'hall'\ningest_type = 'mqtt'\ntopic = 'hall/#'\nunit = '%'\n\
                sensor_name_from = 'last_level'\n\
                [[sensors.devices]]\nname = 'door'\ningest_type = 'mqtt'\ntopic = 'door'\nsensor_name_from = 'device'\n";
    let home = Home::new(&config(&broker, more, "plant/+/temperature", &cloud));
    let daemon = home.start().await;
    broker.says("Sending SUBACK").await;
    let publisher = Publisher::new(&broker);
    for (topic, payload) in [
        ("plant/7/temperature", "21.5"),
        ("hall/east/2/humidity", " 40 "),
        ("hall", "41"),
        ("door", "true"),
        ("plant/7/8/temperature", "99"),
    ] {
        publisher.publish(topic, payload, QoS::AtLeastOnce).await;
    }
    // In the same session messages come in order, so what was not asked for would be here by then.
    publisher.publish("plant/end/temperature", "-1", QoS::AtLeastOnce).await;
    let items = cloud.until_items(5).await;
    let short: Vec<_> = items
        .iter()
        .map(|item| (item["sensor_name"].as_str().unwrap(), &item["value"], &item["unit"]))
        .collect();
    let expected = [
        ("plant/7/temperature", &json!(21.5), &json!("C")),
        ("humidity", &json!(40.0), &json!("%")),
        ("hall", &json!(41.0), &json!("%")),
        ("door", &json!(1.0), &json!("")),
        ("plant/end/temperature", &json!(-1.0), &json!("C")),
    ];
    assert_eq!(short, expected);
    daemon.stop().await;
}

#[tokio::test]
async fn poison_is_counted_by_reason_and_holds_nothing_up() {
    // One message at a time: a poisonous one that is not acknowledged would block all others.
    let broker = Broker::start(Options { max_inflight_messages: 1, ..Options::default() }).await;
    let cloud = Cloud::start().await;
    let home = Home::new(&config(&broker, "", "p/#", &cloud));
    let daemon = home.start().await;
    broker.says("Sending SUBACK").await;
    let publisher = Publisher::new(&broker);
    let long_name = format!(r#"{{"sensor_name":"{}","value":1}}"#, "n".repeat(300));
    let deep = format!(r#"{{"value":1,"metadata":{}1{}}}"#, r#"{"a":"#.repeat(5000), "}".repeat(5000));
    let poison: [&[u8]; 11] = [
        b"{\"value\":",
        b"warm",
        b"\xff\xfe\x00",
        b"1 2",
        b"{\"sensor_name\":\"s\"}",
        b"{\"value\":\"12\"}",
        b"NaN",
        b"1e999",
        b"{\"value\":1,\"timestamp\":5}",
        long_name.as_bytes(),
        deep.as_bytes(),
    ];
    for payload in poison {
        publisher.publish("p/s", payload, QoS::AtLeastOnce).await;
    }
    publisher.publish("p/s", "7", QoS::AtLeastOnce).await;
    assert_eq!(cloud.until_items(1).await[0]["value"], 7.0);
    let health = refused_is(&daemon, poison.len() as u64).await;
    for reason in ["malformed", "incomplete", "not_finite", "time", "size"] {
        assert!(health["refused"][reason].as_u64() > Some(0), "{reason}: {}", health["refused"]);
    }
    assert_eq!(cloud.items().len(), 1);
    assert_eq!(health["status"], "healthy", "{health}");
    let log = daemon.stop().await;
    assert!(!log.contains("warm"), "a payload is in the log:\n{log}");
}

#[tokio::test]
async fn a_message_too_large_for_the_agent_costs_the_others_nothing() {
    let (cloud, broker) = (Cloud::start().await, Broker::start(Options::default()).await);
    let home = Home::new(&config(&broker, "", "p/#", &cloud));
    let daemon = home.start().await;
    broker.says("Sending SUBACK").await;
    let publisher = Publisher::new(&broker);
    publisher.publish("p/s", "1", QoS::AtLeastOnce).await;
    publisher.publish("p/s", vec![b'9'; 400 * 1024], QoS::AtLeastOnce).await;
    publisher.publish("p/s", "2", QoS::AtLeastOnce).await;
    cloud.until_values(&[1, 2]).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_message_may_carry_many_readings() {
    let (cloud, broker) = (Cloud::start().await, Broker::start(Options::default()).await);
    let home = Home::new(&config(&broker, "", "p/#", &cloud).replace(EAGER_STORE, ""));
    let daemon = home.start().await;
    broker.says("Sending SUBACK").await;
    let publisher = Publisher::new(&broker);
    let readings: Vec<_> =
        (0..3000).map(|value| json!({"sensor_name": format!("s{}", value % 7), "value": value})).collect();
    publisher.publish("p/many", json!(readings).to_string(), QoS::AtLeastOnce).await;
    let items = cloud.until_items(3000).await;
    let values: Vec<_> = items.iter().map(|item| item["value"].as_f64().unwrap()).collect();
    assert!(values.iter().copied().eq((0..3000).map(f64::from)), "in order and whole");
    daemon.stop().await;
}

async fn refused_is(daemon: &Daemon, count: u64) -> serde_json::Value {
    let sum = |health: &serde_json::Value| -> u64 {
        health["refused"].as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum()
    };
    daemon.health_shows(&format!("{count} refusals"), |health| sum(health) == count).await
}
