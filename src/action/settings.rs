//! Actions, as configured.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use rumqttc::mqttbytes::QoS;
use url::Url;

// The client of the broker is the one of the sources, and that of webhooks the one of delivery: one way to enter a
// broker, one way through a proxy.
use crate::adapter::mqtt::Source as Broker;
use crate::config::section::Secret;
use crate::tls;
use crate::upload::Proxy;

/// One action.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub name: String,
    pub kind: Kind,
    /// Of one attempt.
    pub timeout: Duration,
    /// How often an event is tried, 1 to [`ATTEMPTS_MAX`].
    pub attempts: u32,
    /// Nothing is sent away from the device while delivery is off.
    pub with_delivery_only: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Command(Command),
    Webhook(Webhook),
    Mqtt(Mqtt),
}

/// A program, which gets the event on its standard input. Nothing of an event is ever among its arguments.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// An absolute path.
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub working_dir: Option<PathBuf>,
    /// All it gets besides `PATH`; hidden, because passwords are handed on this way.
    pub environment: Vec<(String, Secret)>,
}

/// A request with the event as its body.
#[derive(Clone, Debug, PartialEq)]
pub struct Webhook {
    /// An `http://` or `https://` URL; hidden, because many hold a token.
    pub url: Secret,
    pub headers: Vec<(String, Secret)>,
    pub tls: tls::Files,
    pub proxy: Proxy,
}

/// A message with the event as its payload.
#[derive(Clone, Debug, PartialEq)]
pub struct Mqtt {
    pub broker: Broker,
    /// The section of the configuration that the broker stands in.
    pub section: String,
    /// With `{rule}` and `{sensor}` in it.
    pub topic: String,
    pub qos: QoS,
    pub retain: bool,
}

impl Settings {
    /// Whether the event leaves the device by it.
    pub fn leaves_device(&self) -> bool {
        match &self.kind {
            Kind::Command(_) => false,
            Kind::Webhook(webhook) => Url::parse(webhook.url.reveal()).map_or(true, |url| !is_loopback(&url)),
            Kind::Mqtt(mqtt) => !is_this_device(mqtt.broker.broker().0),
        }
    }
}

impl Kind {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Command(_) => "command",
            Self::Webhook(_) => "webhook",
            Self::Mqtt(_) => "mqtt",
        }
    }
}

/// Whether a URL leads to this device itself.
pub fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(is_this_device)
}

fn is_this_device(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || address.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// More would keep an event for longer than anybody waits for an alarm.
pub const ATTEMPTS_MAX: i64 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_this_device() {
        for (host, is_here) in [
            ("localhost", true),
            ("LocalHost", true),
            ("127.0.0.1", true),
            ("127.8.0.1", true),
            ("[::1]", true),
            ("localhost.example.com", false),
            ("10.0.0.1", false),
            ("[::]", false),
        ] {
            assert_eq!(is_loopback(&Url::parse(&format!("http://{host}:1/x")).unwrap()), is_here, "{host}");
        }
    }
}
