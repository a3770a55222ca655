//! A private mosquitto, and a plant that publishes to it.

use std::convert::Infallible;
use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use pyvorin_edge::clock;
use rumqttc::{AsyncClient, MqttOptions, PublishOptions};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::folder::Folder;
use crate::process::{Process, command};

/// Starts mosquitto for this machine only and waits until it takes connections.
pub async fn start(
    mosquitto: &Path,
    folder: &Folder,
    port: u16,
) -> Result<Process, Box<dyn Error + Send + Sync>> {
    let config = folder.path.join("mosquitto.conf");
    folder.log("mosquitto.conf")?.write_all(CONFIG.replace("PORT", &port.to_string()).as_bytes())?;
    let mut command = command(mosquitto);
    command.arg("-c").arg(&config);
    let mut broker = Process::start("mosquitto", command, folder.log("mosquitto.log")?)?;
    for _ in 0..CONNECTS_MAX {
        tokio::select! {
            ended = broker.ended() => {
                return Err(format!("mosquitto ended ({}); see {}/mosquitto.log", ended?, folder.path.display()).into());
            }
            () = sleep(CONNECT_INTERVAL) => {}
        }
        if TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            return Ok(broker);
        }
    }
    Err("mosquitto takes no connections".into())
}

/// Publishes a few readings a second; never ends. The broker's end only stops the flow.
pub async fn publish(port: u16) -> Infallible {
    let mut options = MqttOptions::new("demonstration-plant", ("127.0.0.1", port));
    options.set_keep_alive(30);
    let (client, mut event_loop) = AsyncClient::builder(options).capacity(64).build();
    let mut ticks = interval(PUBLISH_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut count: u64 = 0;
    loop {
        tokio::select! {
            event = event_loop.poll() => if event.is_err() { sleep(RECONNECT).await },
            _ = ticks.tick() => {
                count += 1;
                let line = count % LINES + 1;
                let payload = if count.is_multiple_of(BROKEN_EVERY) { "{broken".to_owned() } else { reading(line) };
                let topic = format!("plant/line{line}/temperature");
                // Full while the broker is away: what a sensor measures then is not kept.
                client.try_publish(topic, payload, PublishOptions::at_least_once()).ok();
            }
        }
    }
}

fn reading(line: u64) -> String {
    let value = 20.0 + line as f64 + fastrand::f64();
    let value = (value * 100.0).round() / 100.0;
    json!({"value": value, "timestamp": clock::unix_seconds(), "metadata": {"shift": 2, "operator": "A. Person"}})
        .to_string()
}

/// Without the limits that make mosquitto drop messages: 20 in flight and 1000 queued by default.
const CONFIG: &str = "listener PORT 127.0.0.1
allow_anonymous true
persistence false
max_inflight_messages 0
max_queued_messages 100000
log_dest stderr
";
const CONNECTS_MAX: u32 = 100;
const CONNECT_INTERVAL: Duration = Duration::from_millis(50);
const PUBLISH_INTERVAL: Duration = Duration::from_millis(200);
const RECONNECT: Duration = Duration::from_secs(1);
const LINES: u64 = 3;
const BROKEN_EVERY: u64 = 40;
