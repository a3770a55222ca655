//! Asks a broker whether it lets this agent in, under another client id and without a session: the agent's own
//! connection is not touched.

use std::time::Duration;

use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{AsyncClient, Event, MqttOptions, NetworkOptions};
use tokio::time::timeout;

use super::Source;

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Probed {
    pub host: String,
    pub port: u16,
    pub is_encrypted: bool,
    /// Why it was not let in, in words without a secret.
    pub failure: Option<String>,
}

/// Connects to the broker of `source` and leaves again; done within `limit`, but for what the disk takes.
pub async fn probe(source: &Source, limit: Duration) -> Probed {
    let ended = timeout(limit, enter(source, limit)).await;
    let failure = ended.unwrap_or_else(|_| Err("no answer in time".to_owned())).err();
    Probed { host: source.host.clone(), port: source.port, is_encrypted: source.tls.is_some(), failure }
}

async fn enter(source: &Source, limit: Duration) -> Result<(), String> {
    let client_id = format!("pyvorin-doctor-{:016x}", fastrand::u64(..));
    let mut options = MqttOptions::new(client_id, (source.host.as_str(), source.port));
    options.set_clean_start(true).set_session_expiry_interval(Some(0)).set_keep_alive(KEEP_ALIVE_SECONDS);
    let mut network = NetworkOptions::new();
    network.set_connection_timeout(limit.as_secs().max(1));
    options.set_network_options(network);
    source.introduce(&mut options, super::SECTION)?;
    let (client, mut event_loop) = AsyncClient::builder(options).capacity(REQUESTS_MAX).build();
    loop {
        match event_loop.poll().await {
            Ok(Event::Incoming(Packet::ConnAck(_))) => break,
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    // It was let in; how it leaves changes nothing about that.
    if client.try_disconnect().is_ok() {
        timeout(FAREWELL_MAX, async { while event_loop.poll().await.is_ok() {} }).await.ok();
    }
    Ok(())
}

const KEEP_ALIVE_SECONDS: u16 = 30;
const REQUESTS_MAX: usize = 4;
const FAREWELL_MAX: Duration = Duration::from_millis(500);
