//! Durable first, then acknowledged: read from a trace of the daemon's system calls, because a kill
//! cannot tell a synced file from one that only the kernel has.

use rumqttc::mqttbytes::QoS;

use super::harness::broker::{Broker, Options};
use super::harness::daemon::{Home, exchange};
use super::harness::process::free_port;
use super::harness::publisher::Publisher;
use super::harness::trace::{Call, STRACE, calls, is_complete, require_strace};
use super::harness::{soon, until};

#[tokio::test]
async fn the_log_of_the_database_is_synced_before_anything_is_acknowledged() {
    require_strace();
    let broker = Broker::start(Options::default()).await;
    let port = free_port();
    let config = format!(
        "[ingest.mqtt]\nhost = '127.0.0.1'\nport = {}\n[ingest.http]\nport = {port}\n\
         [[sensors.devices]]\nname = 'm'\ningest_type = 'mqtt'\ntopic = 'n/#'\nqos = 2\n\
         [[sensors.devices]]\nname = 'h'\ningest_type = 'http'\n\
         [store]\ncommit_interval_seconds = 0.05\n",
        broker.port
    );
    let trace_file = tempfile::NamedTempFile::new().unwrap();
    let mut command = STRACE.to_vec();
    let trace_path = trace_file.path().display().to_string();
    command.push(&trace_path);
    // Without delivery nothing else makes commits, so a sync belongs to what came in.
    let home = Home::new(&config).under(&command);
    let daemon = home.start().await;
    broker.says("Received SUBSCRIBE").await;

    let publisher = Publisher::new(&broker);
    publisher.publish("n/first", reading(FIRST), QoS::AtLeastOnce).await;
    broker.says("Received PUBACK").await;
    publisher.publish("n/second", reading(SECOND), QoS::ExactlyOnce).await;
    broker.says("Received PUBREC").await;
    let body = reading(THIRD);
    let request = format!(
        "POST /ingest HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let (status, _) = soon("an answer", exchange(([127, 0, 0, 1], port).into(), &request)).await.unwrap();
    assert_eq!(status, 200);
    daemon.stop().await;

    let trace = until("the trace is complete", async || {
        std::fs::read_to_string(trace_file.path()).ok().filter(|trace| is_complete(trace))
    })
    .await;
    let calls = calls(&trace);
    let to_broker = |call: &Call| call.target.ends_with(&format!("->127.0.0.1:{}]", broker.port));
    let to_client = |call: &Call| call.target.contains(&format!("[127.0.0.1:{port}->"));
    let syncs = [
        synced_before(&calls, FIRST, |call| to_broker(call) && packets(&call.bytes).contains(&PUBACK)),
        synced_before(&calls, SECOND, |call| to_broker(call) && packets(&call.bytes).contains(&PUBREC)),
        synced_before(&calls, THIRD, |call| to_client(call) && call.bytes.starts_with(b"HTTP/1.1 200")),
    ];
    assert!(syncs.is_sorted_by(|a, b| a < b), "each has a sync of its own: lines {syncs:?}");
}

/// Looks for the receipt of `marker`, a write to the database's log, its sync, and the answer, each
/// ended before the next begins. Returns the line of the sync.
fn synced_before(calls: &[Call], marker: &str, is_answer: impl Fn(&Call) -> bool) -> usize {
    let is_input = |call: &&Call| INPUT.contains(&call.name.as_str()) && contains(&call.bytes, marker);
    let receipt = calls.iter().find(is_input).unwrap_or_else(|| panic!("{marker} was never received"));
    let is_output = |call: &&Call| OUTPUT.contains(&call.name.as_str()) && call.begun > receipt.ended;
    let answer = calls.iter().filter(is_output).find(|call| is_answer(call));
    let answer = answer.unwrap_or_else(|| panic!("{marker} was never acknowledged"));
    let between = |call: &&Call| call.begun > receipt.ended && call.ended < answer.begun && call.result >= 0;
    let on_log = |call: &&Call| call.target.ends_with("/edge_store.db-wal");
    let mut log = calls.iter().filter(between).filter(on_log);
    let write = log.find(|call| call.name == "pwrite64");
    let write = write.unwrap_or_else(|| panic!("{marker} was acknowledged and never written"));
    let sync =
        log.rfind(|call| matches!(call.name.as_str(), "fdatasync" | "fsync") && call.begun > write.ended);
    let sync = sync.unwrap_or_else(|| panic!("{marker} was acknowledged before its sync"));
    let later = calls.iter().filter(between).filter(on_log).filter(|call| call.ended > sync.ended);
    assert_eq!(later.count(), 0, "something written for {marker} was not synced");
    println!(
        "{marker}: received at line {}, written {}, synced {}, acknowledged {}",
        receipt.ended, write.begun, sync.ended, answer.begun
    );
    sync.ended
}

/// The types of the MQTT packets in `bytes`: the upper half of their first byte.
fn packets(mut bytes: &[u8]) -> Vec<u8> {
    let mut types = Vec::new();
    while let Some((first, rest)) = bytes.split_first() {
        types.push(first >> 4);
        let mut length = 0;
        let mut length_bytes = 0;
        for byte in rest.iter().take(4) {
            length |= usize::from(byte & 0x7f) << (7 * length_bytes);
            length_bytes += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        bytes = rest.get(length_bytes + length..).unwrap_or_default();
    }
    types
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

fn reading(sensor_name: &str) -> String {
    format!(r#"{{"sensor_name":"{sensor_name}","value":1.5}}"#)
}

const FIRST: &str = "quality-of-service-1";
const SECOND: &str = "quality-of-service-2";
const THIRD: &str = "posted";
const PUBACK: u8 = 4;
const PUBREC: u8 = 5;
const INPUT: [&str; 4] = ["read", "readv", "recvfrom", "recvmsg"];
const OUTPUT: [&str; 4] = ["write", "writev", "sendto", "sendmsg"];
