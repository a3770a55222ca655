//! `mqtt`: subscribes to topics of a broker and acknowledges a message after its commit.
//!
//! MQTT 5, because it lets the client say how many unacknowledged messages it takes; brokers default
//! to 20, which would make every commit a small one.

mod known;
pub(crate) mod payload;
pub mod probe;
mod resume;
mod session;
mod socket;

use std::sync::Arc;
use std::time::Duration;

use rumqttc::mqttbytes::{QoS, valid_filter};
use rumqttc::{MqttOptions, TlsConfiguration, Transport};

use self::known::Known;
use self::payload::Route;
use super::{Device, Error, Intake, State};
use crate::config::section::{Secret, Section};
use crate::tls;

pub const RUNS_ONCE: bool = false;

/// Where the broker of all devices is configured.
pub const SECTION: &str = "ingest.mqtt";

pub const SAMPLE: &str = r#"[ingest.mqtt]
host = "localhost"
# port = 1883            # 8883 with tls
# client_id = "..."      # default: pyvorin-<device id>
# username = "edge"
# password = "${credential:mqtt_password}"
# tls = true
# ca_file = "/etc/pyvorin-edge/broker-ca.pem"

[[sensors.devices]]
name = "plant"
ingest_type = "mqtt"
topic = "plant/+/temperature"
unit = "C"
"#;

/// One connection to one broker, and the devices that share it.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    host: String,
    port: u16,
    client_id: Option<String>,
    username: Option<String>,
    password: Option<Secret>,
    keep_alive: Duration,
    session_expiry: Duration,
    receive_maximum: u16,
    tls: Option<tls::Files>,
    backoff_min: Duration,
    backoff_max: Duration,
    topics: Vec<Topic>,
}

/// A subscription, and how its payloads are read.
#[derive(Clone, Debug, PartialEq)]
struct Topic {
    device: String,
    filter: String,
    qos: QoS,
    unit: String,
    sensor_name_from: NameFrom,
}

/// Where the sensor's name comes from when the payload does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum NameFrom {
    #[default]
    Topic,
    /// The part of the topic behind the last slash.
    LastLevel,
    Device,
}

impl Source {
    /// Reads `[ingest.mqtt]` and its devices: one source, or none without devices.
    pub fn read(shared: &mut Section<'_>, devices: Vec<Device<'_>>) -> Vec<Self> {
        let default_qos = read_qos(shared, 1);
        let mut source = Self::read_connection(shared);
        for mut device in devices {
            let filter = device.section.required_string("topic", "a topic filter such as plant/+/temperature");
            if !filter.is_empty() && !valid_filter(&filter) {
                device.section.refuse(
                    "topic",
                    format_args!("'{filter}' is not a valid topic filter; + stands for one whole level, # for the rest at the end"),
                );
            }
            let names = [("topic", NameFrom::Topic), ("last_level", NameFrom::LastLevel), ("device", NameFrom::Device)];
            source.topics.push(Topic {
                filter,
                qos: read_qos(&mut device.section, default_qos as i64),
                sensor_name_from: device.section.choice("sensor_name_from", NameFrom::Topic, &names),
                device: device.name,
                unit: device.unit,
            });
        }
        if source.topics.is_empty() { Vec::new() } else { vec![source] }
    }

    /// Reads how to reach a broker and enter it; there are no topics.
    pub fn read_connection(shared: &mut Section<'_>) -> Self {
        let tls_enabled = shared.bool("tls", false);
        let files = tls::Files::read(shared);
        if !tls_enabled && files != tls::Files::default() {
            shared.refuse("tls", "is not true, but certificate files are given; set it to true");
        }
        let source = Self {
            host: shared.string("host").unwrap_or_else(|| "localhost".to_owned()),
            port: shared.count("port", if tls_enabled { 8883 } else { 1883 }, 1..=65535),
            client_id: shared.string("client_id"),
            username: shared.string("username"),
            password: shared.secret("password"),
            keep_alive: shared.seconds("keep_alive_seconds", 30.0, 5.0..=3600.0),
            session_expiry: shared.seconds("session_expiry_seconds", 30.0 * 86400.0, 0.0..=4_294_967_294.0),
            receive_maximum: shared.count("receive_maximum", 2000, 1..=65535),
            tls: tls_enabled.then_some(files),
            backoff_min: shared.seconds("backoff_min_seconds", 0.5, 0.01..=3600.0),
            backoff_max: shared.seconds("backoff_max_seconds", 60.0, 0.01..=86400.0),
            topics: Vec::new(),
        };
        if source.password.is_some() && source.username.is_none() {
            shared.missing("username", "the user whose password is given");
        }
        source
    }

    pub fn name(&self) -> String {
        "mqtt".to_owned()
    }

    /// Host and port.
    pub fn broker(&self) -> (&str, u16) {
        (&self.host, self.port)
    }

    /// The files of its TLS; `None` when nothing is encrypted.
    pub fn tls(&self) -> Option<&tls::Files> {
        self.tls.as_ref()
    }

    pub fn password(&self) -> Option<&Secret> {
        self.password.as_ref()
    }

    /// How every connection enters: with the credentials and certificates that stand in their files now, which may have
    /// been replaced; `section` is where they are configured. The error names what cannot be read or used.
    pub(crate) fn introduce(&self, options: &mut MqttOptions, section: &str) -> Result<(), String> {
        match (&self.username, &self.password) {
            (Some(username), Some(password)) => {
                let password =
                    password.read_again().map_err(|fault| format!("{section}.password: {fault}"))?;
                options.set_credentials(username.clone(), password.reveal().to_owned());
            }
            (Some(username), None) => {
                options.set_username(username.clone());
            }
            (None, _) => {}
        }
        if let Some(files) = &self.tls {
            let config =
                tls::client_config(files, true).map_err(|error| error.in_section(section))?;
            options.set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(Arc::new(config))));
        }
        Ok(())
    }

    fn client_id(&self, intake: &Intake) -> String {
        self.client_id.clone().unwrap_or_else(|| format!("pyvorin-{}", intake.device_id))
    }

    /// Keeps a connection to the broker; returns when told to stop, or when a batch was not stored.
    pub async fn run(&self, intake: &Intake) -> Result<(), Error> {
        let client_id = self.client_id(intake);
        let session = (client_id.as_str(), self.host.as_str(), self.port);
        let mut known = Known::new(session, &intake.messages.take());
        let ended = self.keep_connected(intake, &mut known).await;
        intake.messages.put(known.save());
        ended
    }

    async fn keep_connected(&self, intake: &Intake, known: &mut Known) -> Result<(), Error> {
        let route = Route::new(self);
        let mut failures = 0;
        loop {
            let error = match session::run(self, intake, &route, known, &mut failures).await {
                Ok(()) => return Ok(()),
                Err(session::Error::Fatal(error)) => return Err(error),
                Err(session::Error::Connection(message)) => message,
            };
            failures += 1;
            if failures == 1 {
                tracing::warn!(broker = %self.host, port = self.port, %error, "mqtt: no connection to the broker; trying again");
            }
            intake.status.set(State::Reconnecting);
            intake.status.set_error(error);
            if !intake.pause(self.backoff(failures)).await {
                return Ok(());
            }
        }
    }

    /// Full jitter: a fleet that lost its broker must not come back in step.
    fn backoff(&self, failures: u32) -> Duration {
        let ceiling = self.backoff_min.saturating_mul(1 << failures.min(16)).min(self.backoff_max);
        self.backoff_min.max(ceiling.mul_f64(fastrand::f64()))
    }
}

fn read_qos(section: &mut Section<'_>, default: i64) -> QoS {
    match section.integer("qos", default, 0..=2) {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}
