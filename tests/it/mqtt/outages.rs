//! Brokers that go and come back, and an agent that does.

use rumqttc::mqttbytes::QoS;

use super::config;
use super::relay::Relay;
use crate::harness::broker::{Broker, Options, Persistence};
use crate::harness::cloud::Cloud;
use crate::harness::daemon::Home;
use crate::harness::publisher::Publisher;
use crate::harness::until;

#[tokio::test]
async fn nothing_acknowledged_is_lost_while_the_broker_restarts() {
    let cloud = Cloud::start().await;
    let mut broker = Broker::start(Options::default()).await;
    let home = Home::new(&config(&broker, "", "p", &cloud));
    let daemon = home.start().await;
    broker.says("Sending SUBACK").await;
    let publisher = Publisher::new(&broker);
    publish(&publisher, 0..200).await;
    broker.stop().await;
    // These wait in the publisher, and reach a broker to which the agent may not be back yet.
    tokio::join!(publish(&publisher, 200..400), broker.start_again());
    publish(&publisher, 400..600).await;
    cloud.until_values(&(0..600).collect::<Vec<_>>()).await;
    daemon.health_shows("it is healthy again", |health| health["status"] == "healthy").await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_broker_that_forgot_the_session_is_subscribed_to_anew() {
    let cloud = Cloud::start().await;
    let mut broker = Broker::start(Options { persistence: Persistence::Off, ..Options::default() }).await;
    let home = Home::new(&config(&broker, "", "p", &cloud));
    let daemon = home.start().await;
    broker.says("Sending SUBACK").await;
    for round in 0..2 {
        let publisher = Publisher::new(&broker);
        publish(&publisher, round * 10..round * 10 + 10).await;
        cloud.until_values(&(round * 10..round * 10 + 10).collect::<Vec<_>>()).await;
        broker.restart().await;
        broker.says("Sending SUBACK").await;
    }
    publish(&Publisher::new(&broker), 100..101).await;
    cloud.until_values(&[100]).await;
    let log = daemon.stop().await;
    assert_eq!(log.matches("session_kept=false").count(), 3, "{log}");
}

#[tokio::test]
async fn a_broker_that_is_killed_and_has_saved_its_state_goes_on_with_the_session() {
    let cloud = Cloud::start().await;
    let mut broker =
        Broker::start(Options { persistence: Persistence::EachChange, ..Options::default() }).await;
    let home = Home::new(&config(&broker, "", "p", &cloud));
    let daemon = home.start().await;
    broker.says("Sending SUBACK").await;
    publish(&Publisher::new(&broker), 0..50).await;
    cloud.until_values(&(0..50).collect::<Vec<_>>()).await;
    broker.kill().await;
    broker.start_again().await;
    publish(&Publisher::new(&broker), 50..100).await;
    cloud.until_values(&(0..100).collect::<Vec<_>>()).await;
    let log = daemon.stop().await;
    assert_eq!(log.matches("session_kept=true").count(), 1, "{log}");
}

#[tokio::test]
async fn messages_of_qos_2_arrive_exactly_once_however_often_the_agent_stops() {
    let (cloud, broker) = (Cloud::start().await, Broker::start(Options::default()).await);
    let home = Home::new(&config(&broker, "", "p", &cloud));
    let daemon = home.start().await;
    broker.says("Sending SUBACK").await;
    daemon.stop().await;
    let publisher = Publisher::new(&broker);
    for round in 0..4 {
        // The agent stops in the middle of the handshakes.
        let messages = (round * 200..round * 200 + 200).map(|value| ("p".to_owned(), value.to_string()));
        let published = publisher.publish_all(messages, QoS::ExactlyOnce);
        let stopped = async {
            let daemon = home.start().await;
            cloud.endpoint.totals("some arrive", |totals| totals.items > round * 200).await;
            daemon.stop().await;
        };
        let (acknowledged, ()) = tokio::join!(published, stopped);
        assert!(acknowledged.iter().all(|acknowledged| *acknowledged));
    }
    let daemon = home.start().await;
    cloud.until_values(&(0..800).collect::<Vec<_>>()).await;
    daemon.health_shows("it is connected", |health| health["status"] == "healthy").await;
    let log = daemon.stop().await;
    assert!(!log.contains("WARN"), "{log}");
    let mut values = cloud.endpoint.values_as_floats();
    values.sort_by(f64::total_cmp);
    assert!(values.into_iter().eq((0..800).map(f64::from)), "each once");
}

#[tokio::test]
async fn a_message_that_is_sent_again_after_the_line_was_cut_is_stored_once() {
    for qos in [QoS::AtLeastOnce, QoS::ExactlyOnce] {
        let (cloud, broker) = (Cloud::start().await, Broker::start(Options::default()).await);
        let relay = Relay::to(broker.port, 1).await;
        let (direct, cut) = (format!("port = {}", broker.port), format!("port = {}", relay.port));
        let home = Home::new(&config(&broker, "", "p", &cloud).replace(&direct, &cut));
        let daemon = home.start().await;
        broker.says("Sending SUBACK").await;
        let messages = (0..5000).map(|value| ("p".to_owned(), value.to_string()));
        let acknowledged = Publisher::new(&broker).publish_all(messages, qos).await;
        assert!(acknowledged.iter().all(|acknowledged| *acknowledged));
        cloud.until_items(5000).await;
        daemon.stop().await;
        let sent = broker.log().matches("Sending PUBLISH to pyvorin").count();
        assert!(sent > 5000, "nothing was sent again: {sent}");
        let mut values = cloud.endpoint.values_as_floats();
        values.sort_by(f64::total_cmp);
        assert!(values.into_iter().eq((0..5000).map(f64::from)), "each once");
    }
}

#[tokio::test]
async fn a_retained_message_arrives_once_per_subscription_and_not_at_each_reconnect() {
    let cloud = Cloud::start().await;
    let mut broker = Broker::start(Options::default()).await;
    let publisher = Publisher::new(&broker);
    publisher.retain("p", "1").await;
    let home = Home::new(&config(&broker, "", "p", &cloud));
    let daemon = home.start().await;
    cloud.until_values(&[1]).await;
    broker.restart().await;
    broker.says("Sending SUBACK").await;
    publish(&publisher, 2..3).await;
    cloud.until_values(&[2]).await;
    daemon.stop().await;
    assert_eq!(cloud.endpoint.values_as_floats(), [1.0, 2.0]);
}

#[tokio::test]
async fn what_is_published_while_the_agent_is_stopped_arrives_after_its_start() {
    let (cloud, broker) = (Cloud::start().await, Broker::start(Options::default()).await);
    let home = Home::new(&config(&broker, "", "p", &cloud));
    let daemon = home.start().await;
    broker.says("Sending SUBACK").await;
    let publisher = Publisher::new(&broker);
    publish(&publisher, 0..50).await;
    daemon.stop().await;
    // More than the broker has under way at once.
    publish(&publisher, 50..3050).await;
    let daemon = home.start().await;
    cloud.until_items(3050).await;
    cloud.until_values(&(0..3050).collect::<Vec<_>>()).await;
    let log = daemon.stop().await;
    assert!(log.contains("session_kept=true"), "{log}");
    let names: Vec<_> = client_ids(&broker.log());
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(names[0] == names[1] && names[0].starts_with("pyvorin-"), "{names:?}");
    assert_eq!(cloud.endpoint.receiver.totals().borrow().items, 3050, "an orderly stop makes no duplicates");
}

#[tokio::test]
async fn a_broker_that_is_away_at_the_start_is_waited_for() {
    let cloud = Cloud::start().await;
    let mut broker = Broker::start(Options::default()).await;
    let home = Home::new(&config(&broker, "", "p", &cloud));
    broker.stop().await;
    let daemon = home.start().await;
    let reconnects = |health: &serde_json::Value| health["ingest"]["sources"][0]["state"] == "reconnecting";
    let health = daemon.health_shows("it looks for the broker", reconnects).await;
    let error = health["ingest"]["sources"][0]["last_error"].to_string();
    assert!(error.contains("refused"), "{error}");
    broker.start_again().await;
    broker.says("Sending SUBACK").await;
    publish(&Publisher::new(&broker), 1..2).await;
    cloud.until_values(&[1]).await;
    daemon.stop().await;
}

#[tokio::test]
async fn an_agent_that_stops_while_its_broker_is_away_ends_in_order() {
    let cloud = Cloud::start().await;
    let mut broker = Broker::start(Options::default()).await;
    let home = Home::new(&config(&broker, "", "p", &cloud));
    let daemon = home.start().await;
    broker.says("Sending SUBACK").await;
    broker.kill().await;
    daemon.says("no connection to the broker").await;
    daemon.stop().await;
}

/// Publishes the numbers of `values` at QoS 1 until each is acknowledged.
async fn publish(publisher: &Publisher, values: std::ops::Range<u32>) {
    let mut left: Vec<u32> = values.collect();
    while !left.is_empty() {
        let messages = left.iter().map(|value| ("p".to_owned(), value.to_string()));
        let acknowledged = publisher.publish_all(messages, QoS::AtLeastOnce).await;
        let mut acknowledged = acknowledged.into_iter();
        left.retain(|_| !acknowledged.next().unwrap());
    }
}

/// Of the agent's connections, oldest first.
fn client_ids(log: &str) -> Vec<String> {
    let connected = log.lines().filter(|line| line.contains("New client connected"));
    let names = connected.filter_map(|line| line.split(" as ").nth(1)?.split(' ').next().map(str::to_owned));
    names.filter(|name| !name.starts_with("publisher-")).collect()
}

#[tokio::test]
async fn a_topic_that_is_no_longer_configured_is_counted_and_unsubscribed_from_the_kept_session() {
    let (cloud, broker) = (Cloud::start().await, Broker::start(Options::default()).await);
    let home = Home::new(&config(&broker, "", "old/+/#", &cloud));
    let daemon = home.start().await;
    broker.says("Sending SUBACK").await;
    daemon.stop().await;
    home.configure(&config(&broker, "", "p", &cloud));
    let daemon = home.start().await;
    daemon.says("mqtt: connected").await;
    let publisher = Publisher::new(&broker);
    let refused = |health: &serde_json::Value| health["refused"]["not_configured"].as_u64().unwrap();
    until("the broker has forgotten the old topic", async || {
        publisher.publish("old/a/b", "1", QoS::AtLeastOnce).await;
        broker.log().contains("Sending UNSUBACK").then_some(())
    })
    .await;
    daemon.health_shows("it is counted", |health| refused(health) > 0).await;
    publisher.publish("old/a/b", "1", QoS::AtLeastOnce).await;
    publish(&publisher, 7..8).await;
    cloud.until_values(&[7]).await;
    let before = refused(&daemon.health().await);
    publisher.publish("old/a/b", "1", QoS::AtLeastOnce).await;
    publish(&publisher, 8..9).await;
    cloud.until_values(&[8]).await;
    assert_eq!(refused(&daemon.health().await), before, "it still comes");
    let log = daemon.stop().await;
    assert!(log.contains("no device is configured for"), "{log}");
}
