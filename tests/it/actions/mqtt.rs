//! Messages: a real mosquitto, also while it is away.

use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{AsyncClient, Event, MqttOptions};
use serde_json::{Value, json};

use super::{daemon, fire, outcome};
use crate::harness::broker::{Access, Broker, Options};
use crate::harness::endpoint::Pki;
use crate::harness::soon;

fn action(broker: &Broker, more: &str) -> String {
    format!(
        "[[actions]]\nname = 'alarm'\ntype = 'mqtt'\ntopic = 'alarms/{{rule}}/{{sensor}}'\nretain = true\n\
         host = 'localhost'\nport = {}\n{more}",
        broker.port
    )
}

/// The first message that the broker has for `filter`: topic, payload, and whether it was kept.
async fn received(broker: &Broker, filter: &str) -> (String, Value, bool) {
    let mut options = MqttOptions::new("subscriber", ("127.0.0.1", broker.publish_port));
    options.set_clean_start(true);
    let (client, mut event_loop) = AsyncClient::builder(options).capacity(10).build();
    client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
    let message = async {
        loop {
            if let Event::Incoming(Packet::Publish(publish)) = event_loop.poll().await.unwrap() {
                return publish;
            }
        }
    };
    let publish = soon("a message comes", message).await;
    let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
    (topic, serde_json::from_slice(&publish.payload).unwrap(), publish.retain)
}

#[tokio::test]
async fn an_event_is_published_under_a_topic_of_its_own() {
    let pki = Pki::new();
    let broker = Broker::start(Options { access: Access::Tls(&pki), ..Options::default() }).await;
    let tls = format!("tls = true\nca_file = '{}'\n", pki.ca_file().display());
    let (daemon, door, _home) = daemon(&action(&broker, &tls), "").await;
    fire(&door, "hall/+/oven#", 90, json!({})).await;
    outcome(&daemon, "succeeded", 1).await;
    let (topic, event, is_kept) = received(&broker, "alarms/#").await;
    assert_eq!((topic.as_str(), is_kept), ("alarms/hot/hall___oven_", true));
    assert_eq!((&event["rule_name"], &event["sensor_readings"][0]["value"]), (&json!("hot"), &json!(90.0)));
    daemon.stop().await;
}

#[tokio::test]
async fn a_broker_that_is_away_is_tried_again_and_what_was_given_up_is_counted() {
    let mut broker = Broker::start(Options::default()).await;
    let more = "timeout_seconds = 5\nattempts = 1\n";
    let (daemon, door, _home) = daemon(&action(&broker, more), "").await;
    broker.stop().await;
    fire(&door, "oven", 90, json!({})).await;
    let health = outcome(&daemon, "failed", 1).await;
    let error = health["actions"][0]["last_error"].as_str().unwrap();
    assert!(error.contains("no broker"), "{error}");
    broker.start_again().await;
    fire(&door, "oven", 91, json!({})).await;
    let health = outcome(&daemon, "succeeded", 1).await;
    assert_eq!(health["actions"][0]["last_error"], Value::Null);
    daemon.stop().await;
}

#[tokio::test]
async fn a_burst_goes_over_one_connection_in_order() {
    let broker = Broker::start(Options::default()).await;
    let (daemon, door, _home) = daemon(&action(&broker, "qos = 2\n"), "").await;
    let readings: Vec<_> =
        (0..100).map(|value| json!({"sensor_name": "oven", "value": 100 + value})).collect();
    assert_eq!(door.post(&json!(readings).to_string()).await.0, 200);
    outcome(&daemon, "succeeded", 100).await;
    let connections = broker.log().matches("New client connected").count();
    assert!(connections < 20, "{connections} connections");
    let (_, last, _) = received(&broker, "alarms/hot/oven").await;
    assert_eq!(last["sensor_readings"][0]["value"], 199.0);
    daemon.stop().await;
}
