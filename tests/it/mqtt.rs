//! Readings from a real broker through the real daemon to a real endpoint.

use rumqttc::mqttbytes::QoS;

use super::harness::broker::{Broker, Options};
use super::harness::daemon::{EAGER_STORE, Home, cloud};
use super::harness::endpoint::receiver::behaviour::Behaviour;
use super::harness::endpoint::{Endpoint, Pki};
use super::harness::publisher::Publisher;

#[tokio::test]
async fn readings_of_every_quality_of_service_arrive() {
    let pki = Pki::new();
    let endpoint = Endpoint::start(&pki, Behaviour::default()).await;
    let broker = Broker::start(Options::default()).await;
    let config = format!(
        "[ingest.mqtt]\nhost = '127.0.0.1'\nport = {}\n[[sensors.devices]]\nname = 'plant'\ningest_type = 'mqtt'\n\
         topic = 'plant/+/temperature'\nunit = 'C'\nqos = 2\n{}{EAGER_STORE}",
        broker.port,
        cloud(&endpoint, &pki)
    );
    let home = Home::new(&config);
    let daemon = home.start().await;
    broker.says("Received SUBSCRIBE").await;
    let publisher = Publisher::new(&broker);
    for (value, qos) in [(1, QoS::AtMostOnce), (2, QoS::AtLeastOnce), (3, QoS::ExactlyOnce)] {
        publisher.publish("plant/7/temperature", value.to_string(), qos).await;
    }
    endpoint.totals("three readings", |totals| totals.items == 3).await;
    println!("{}", daemon.health().await);
    println!("{:?}", endpoint.receiver.arrivals());
    println!("{:?}", daemon.notifications());
    println!("{}", daemon.stop().await);
}
