//! The window of unacknowledged messages never stays full, and a stop leaves none behind.

use rumqttc::mqttbytes::QoS;

use super::harness::broker::{Broker, Options};
use super::harness::daemon::{Home, cloud};
use super::harness::endpoint::receiver::behaviour::Behaviour;
use super::harness::endpoint::{Endpoint, Pki};
use super::harness::publisher::Publisher;

const WINDOW: usize = 8;

fn config(broker: &Broker, endpoint: &Endpoint, pki: &Pki, commit_interval_seconds: f64) -> String {
    format!(
        "[ingest.mqtt]\nhost = '127.0.0.1'\nport = {}\nreceive_maximum = {WINDOW}\n[[sensors.devices]]\n\
         name = 'n'\ningest_type = 'mqtt'\ntopic = 'n/#'\n{}\
         [store]\ncommit_interval_seconds = {commit_interval_seconds}\n",
        broker.port,
        cloud(endpoint, pki)
    )
}

#[tokio::test]
async fn messages_without_a_reading_do_not_fill_the_window() {
    let pki = Pki::new();
    let endpoint = Endpoint::start(&pki, Behaviour::default()).await;
    let broker = Broker::start(Options::default()).await;
    let home = Home::new(&config(&broker, &endpoint, &pki, 0.02));
    let daemon = home.start().await;
    broker.says("Received SUBSCRIBE").await;
    let publisher = Publisher::new(&broker);
    let empty = |_| ("n/empty".to_owned(), "[]".to_owned());
    publisher.publish_all((0..3 * WINDOW).map(empty), QoS::AtLeastOnce).await;
    publisher.publish("n/full", "1", QoS::AtLeastOnce).await;
    endpoint.totals("the reading behind them", |totals| totals.items == 1).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_stop_commits_and_acknowledges_what_waits_for_a_long_interval() {
    let pki = Pki::new();
    let endpoint = Endpoint::start(&pki, Behaviour::default()).await;
    let broker = Broker::start(Options::default()).await;
    let home = Home::new(&config(&broker, &endpoint, &pki, 60.0));
    let daemon = home.start().await;
    broker.says("Received SUBSCRIBE").await;
    Publisher::new(&broker).publish("n/1", "1", QoS::AtLeastOnce).await;
    daemon.health_shows("the message has come", |health| health["agent"]["buffer_count"] == 1).await;
    daemon.stop().await;
    broker.says("Received PUBACK").await;
    assert!(endpoint.values_as_floats().len() <= 1);
}
