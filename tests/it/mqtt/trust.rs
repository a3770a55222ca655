//! Who may speak with whom: passwords, private authorities, client certificates.

use rumqttc::mqttbytes::QoS;
use serde_json::Value;

use super::config;
use crate::harness::broker::{Access, Broker, Options};
use crate::harness::cloud::Cloud;
use crate::harness::daemon::{Daemon, Home};
use crate::harness::endpoint::Pki;
use crate::harness::publisher::Publisher;

#[tokio::test]
async fn a_wrong_password_shows_in_health_and_once_it_is_right_readings_flow() {
    let cloud = Cloud::start().await;
    let mut broker = Broker::start(with(Access::Password("right"))).await;
    let home = Home::new(&config(&broker, "username = 'edge'\npassword = 'wrong'", "p", &cloud));
    let daemon = home.start().await;
    let error = reconnecting(&daemon).await;
    assert!(error.contains("NotAuthorized") || error.contains("not authorized"), "{error}");
    broker.set_password("wrong").await;
    arrives(&broker, &cloud, &daemon).await;
    let health = daemon.health().await;
    assert_eq!(health["status"], "healthy", "{health}");
    let log = daemon.stop().await;
    let warnings = log.lines().filter(|line| line.contains("no connection to the broker")).count();
    assert_eq!(warnings, 1, "a lasting condition is logged once:\n{log}");
    assert!(!log.contains("'wrong'") && !log.contains("\"wrong\""), "{log}");
}

#[tokio::test]
async fn a_password_file_that_is_replaced_is_read_before_the_next_connection() {
    let cloud = Cloud::start().await;
    let broker = Broker::start(with(Access::Password("right"))).await;
    let file = cloud.pki.write("mqtt_password", "wrong\n");
    let more = format!("username = 'edge'\npassword = '${{file:{}}}'", file.display());
    let home = Home::new(&config(&broker, &more, "p", &cloud));
    let daemon = home.start().await;
    reconnecting(&daemon).await;
    cloud.pki.write("mqtt_password", "right\n");
    arrives(&broker, &cloud, &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_client_certificate_that_is_replaced_is_read_before_the_next_connection() {
    let (cloud, pki, others) = (Cloud::start().await, Pki::new(), Pki::named("others"));
    let broker = Broker::start(with(Access::MutualTls(&pki))).await;
    let (certificate, key) = others.client_files();
    let more = format!(
        "{}client_certificate_file = '{}'\nclient_key_file = '{}'",
        tls(&pki),
        certificate.display(),
        key.display()
    );
    let home = Home::new(&config(&broker, &more, "p", &cloud));
    let daemon = home.start().await;
    reconnecting(&daemon).await;
    let (new_certificate, new_key) = pki.client_files();
    std::fs::copy(new_key, key).unwrap();
    std::fs::copy(new_certificate, certificate).unwrap();
    arrives(&broker, &cloud, &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_broker_of_a_private_authority_is_trusted_through_its_ca_file() {
    let (cloud, pki) = (Cloud::start().await, Pki::new());
    let broker = Broker::start(with(Access::Tls(&pki))).await;
    let home = Home::new(&config(&broker, &tls(&pki), "p", &cloud));
    let daemon = home.start().await;
    arrives(&broker, &cloud, &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_broker_of_another_authority_is_refused_with_the_reason_in_health() {
    let (cloud, pki, other) = (Cloud::start().await, Pki::new(), Pki::named("another authority"));
    let broker = Broker::start(with(Access::Tls(&pki))).await;
    let home = Home::new(&config(&broker, &tls(&other), "p", &cloud));
    let daemon = home.start().await;
    let error = reconnecting(&daemon).await;
    assert!(error.contains("UnknownIssuer") || error.contains("BadSignature"), "{error}");
    assert!(error.contains("certificate"), "{error}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_missing_ca_file_is_named_in_health_and_mends_when_it_comes() {
    let (cloud, pki) = (Cloud::start().await, Pki::new());
    let broker = Broker::start(with(Access::Tls(&pki))).await;
    let late = cloud.pki.ca_file().with_file_name("late.pem");
    let more = format!("tls = true\nca_file = '{}'", late.display());
    let home = Home::new(&config(&broker, &more, "p", &cloud));
    let daemon = home.start().await;
    let error = reconnecting(&daemon).await;
    assert!(error.contains("late.pem") && error.contains("No such file"), "{error}");
    std::fs::copy(pki.ca_file(), &late).unwrap();
    arrives(&broker, &cloud, &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_broker_that_asks_for_a_certificate_gets_one() {
    let (cloud, pki) = (Cloud::start().await, Pki::new());
    let broker = Broker::start(with(Access::MutualTls(&pki))).await;
    let (certificate, key) = pki.client_files();
    let more = format!(
        "{}client_certificate_file = '{}'\nclient_key_file = '{}'",
        tls(&pki),
        certificate.display(),
        key.display()
    );
    let home = Home::new(&config(&broker, &more, "p", &cloud));
    let daemon = home.start().await;
    arrives(&broker, &cloud, &daemon).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_broker_that_asks_for_a_certificate_in_vain_says_so_in_health() {
    let (cloud, pki) = (Cloud::start().await, Pki::new());
    let broker = Broker::start(with(Access::MutualTls(&pki))).await;
    let home = Home::new(&config(&broker, &tls(&pki), "p", &cloud));
    let daemon = home.start().await;
    let error = reconnecting(&daemon).await;
    assert!(error.contains("CertificateRequired") || error.contains("certificate required"), "{error}");
    daemon.stop().await;
}

fn with(access: Access<'_>) -> Options<'_> {
    Options { access, ..Options::default() }
}

fn tls(pki: &Pki) -> String {
    format!("tls = true\nca_file = '{}'\n", pki.ca_file().display())
}

async fn arrives(broker: &Broker, cloud: &Cloud, daemon: &Daemon) {
    daemon.health_shows("mqtt is connected", |health| source(health)["state"] == "connected").await;
    broker.says("Sending SUBACK").await;
    Publisher::new(broker).publish("p", "1", QoS::AtLeastOnce).await;
    cloud.until_values(&[1]).await;
}

/// Waits until the broker was tried in vain, and returns why.
async fn reconnecting(daemon: &Daemon) -> String {
    let health =
        daemon.health_shows("mqtt reconnects", |health| source(health)["state"] == "reconnecting").await;
    assert_eq!(health["status"], "degraded");
    let reasons = health["reasons"].to_string();
    assert!(reasons.contains("source mqtt: reconnecting"), "{reasons}");
    source(&health)["last_error"].as_str().unwrap().to_owned()
}

fn source(health: &Value) -> &Value {
    &health["ingest"]["sources"][0]
}
