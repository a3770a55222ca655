//! Publishes readings to an MQTT broker as fast as it takes them, or at a steady rate. A process of
//! its own, so that what it costs is not counted as the agent's.
//!
//! `cargo run --release --example publish -- --port 1883 --count 100000 --rate 500`

mod load;

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, NetworkOptions, PublishOptions};

use load::Load;

/// Publishes readings of 100 sensors to the topics bench/000 to bench/099.
#[derive(Parser)]
struct Arguments {
    #[arg(long, default_value = "127.0.0.1")]
    host: String,
    #[arg(long, default_value_t = 1883)]
    port: u16,
    /// Readings to publish.
    #[arg(long, default_value_t = 100_000)]
    count: u64,
    /// Readings per second; 0 is as fast as the broker takes them.
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// Unacknowledged messages under way.
    #[arg(long, default_value_t = 1000)]
    window: u16,
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=1))]
    qos: u8,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Distinct names of sensors.
    #[arg(long, default_value_t = load::SENSORS)]
    sensors: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut options = MqttOptions::new(
        format!("publish-{}", std::process::id()),
        (arguments.host.as_str(), arguments.port),
    );
    options
        .set_outgoing_inflight_upper_limit(arguments.window)
        .set_max_request_batch(256)
        .set_read_batch_size(128);
    // Or a steady rate would leave in bursts, as the broker's delayed acknowledgements allow.
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    options.set_network_options(network);
    let (client, events) = AsyncClient::builder(options).capacity(REQUESTS_MAX).build();
    let started = Instant::now();
    let acknowledged = if arguments.qos == 0 { 0 } else { arguments.count };
    // The end of the publishing is not the end of the work: the broker has to have it all.
    let ((), ()) =
        tokio::try_join!(publish(client.clone(), &arguments), drive(client, events, acknowledged))?;
    let seconds = started.elapsed().as_secs_f64();
    println!("{} readings in {seconds:.3} s, {:.0}/s", arguments.count, arguments.count as f64 / seconds);
    Ok(())
}

async fn publish(client: AsyncClient, arguments: &Arguments) -> anyhow::Result<()> {
    let options = if arguments.qos == 0 {
        PublishOptions::new(QoS::AtMostOnce)
    } else {
        PublishOptions::new(QoS::AtLeastOnce)
    };
    let mut load = Load::new(arguments.seed, arguments.sensors.max(1));
    let started = Instant::now();
    for index in 0..arguments.count {
        if arguments.rate > 0.0 {
            let due = started + Duration::from_secs_f64(index as f64 / arguments.rate);
            if due > Instant::now() {
                tokio::time::sleep_until(due.into()).await;
            }
        }
        let message = load.next(unix_seconds());
        client
            .publish(message.topic, message.payload.as_bytes().to_vec(), options.clone())
            .await
            .context("the connection is gone")?;
    }
    if arguments.qos == 0 { client.disconnect().await.context("the connection is gone") } else { Ok(()) }
}

/// Runs the connection: until so many messages are acknowledged, or, with 0, until it is closed.
async fn drive(client: AsyncClient, mut events: EventLoop, acknowledged: u64) -> anyhow::Result<()> {
    let mut left = acknowledged;
    loop {
        match events.poll().await {
            Ok(Event::Incoming(Packet::PubAck(_))) => {
                left = left.saturating_sub(1);
                if left == 0 {
                    client.try_disconnect().context("the connection is gone")?;
                }
            }
            Ok(Event::Outgoing(rumqttc::Outgoing::Disconnect)) => return Ok(()),
            Ok(_) => {}
            Err(error) => bail!("no connection to the broker: {error}"),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a program of its own, without the agent's clock")]
fn unix_seconds() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

/// Messages that wait for the connection; the publishing waits when there are more.
const REQUESTS_MAX: usize = 256;
