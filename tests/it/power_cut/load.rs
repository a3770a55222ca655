//! What the daemon is fed with while its disk is recorded, and who was told what when: every acknowledgement
//! and every arrival is noted with the length that the write log had then.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rumqttc::mqttbytes::QoS;
use tokio::sync::watch;

use crate::harness::daemon::exchange;
use crate::harness::endpoint::receiver::Listener;
use crate::harness::endpoint::receiver::ledger::Arrival;
use crate::harness::publisher::Publisher;
use crate::harness::soon;

use super::write_log;

/// Numbers of MQTT begin here, those of HTTP at 0.
const MQTT_FIRST: u64 = 1 << 32;
const CLIENTS: u64 = 3;
const IN_FLIGHT: u64 = 50;
/// Between bursts of messages: the broker is faster than the disk.
const BURST_INTERVAL: Duration = Duration::from_millis(40);

/// Numbers, and the length of the log when their source was told that they are stored.
pub type Acknowledged = BTreeMap<u64, usize>;

/// Posts numbers, each as another sensor's, which no thinning puts together, until told to stop; returns those that were answered with 200.
pub async fn post(client: u64, port: u16, log: File, stopped: watch::Receiver<bool>) -> Acknowledged {
    let mut acknowledged = BTreeMap::new();
    let mut sent = 0;
    while !*stopped.borrow() {
        let numbers: Vec<u64> =
            (sent..sent + 1 + sent % 20).map(|number| number * CLIENTS + client).collect();
        sent += numbers.len() as u64;
        let line = |number: &u64| {
            format!(
                "{{\"sensor_name\":\"h{number}\",\"value\":{number},\"metadata\":{{\"n\":\"{}\"}}}}\n",
                noise()
            )
        };
        let body: String = numbers.iter().map(line).collect();
        let request = format!(
            "POST /ingest HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        match soon("an answer or its end", exchange(([127, 0, 0, 1], port).into(), &request)).await {
            Ok((200, answer)) => {
                assert!(answer.contains(&format!("\"accepted\":{}", numbers.len())), "{answer}");
                let length = write_log::length(&log);
                acknowledged.extend(numbers.into_iter().map(|number| (number, length)));
            }
            // While it is down or waits for its disk, a moment of rest.
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    acknowledged
}

/// The clients of [`post`].
pub fn clients() -> std::ops::Range<u64> {
    0..CLIENTS
}

/// Publishes numbers at QoS 1, each on a topic of its own, until told to stop.
pub async fn publish(publisher: Publisher, stopped: watch::Receiver<bool>) {
    for burst in 0.. {
        if *stopped.borrow() {
            return;
        }
        let first = MQTT_FIRST + burst * IN_FLIGHT;
        let messages = (first..first + IN_FLIGHT).map(|number| {
            (format!("n/{number}"), format!("{{\"sensor_name\":\"n{number}\",\"value\":{number}}}"))
        });
        publisher.publish_all(messages, QoS::AtLeastOnce).await;
        tokio::time::sleep(BURST_INTERVAL).await;
    }
}

/// Follows the broker's log until it ends; returns the numbers that the daemon acknowledged with a PUBACK.
pub async fn pubacks(
    mut lines: watch::Receiver<Vec<String>>,
    log: File,
    mut stopped: watch::Receiver<bool>,
) -> Acknowledged {
    let mut acknowledged = BTreeMap::new();
    let mut number_of: HashMap<String, u64> = HashMap::new();
    let mut read = 0;
    loop {
        {
            let lines = lines.borrow_and_update();
            let length = write_log::length(&log);
            for line in &lines[read..] {
                if let Some((_, rest)) = line.split_once("Sending PUBLISH to agent (") {
                    let mut fields = rest.split(", ");
                    let id = fields.nth(3).unwrap().trim_start_matches('m').to_owned();
                    let topic = fields.next().unwrap().trim_matches('\'');
                    number_of.insert(id, topic.trim_start_matches("n/").parse().unwrap());
                } else if let Some((_, rest)) = line.split_once("Received PUBACK from agent (Mid: ") {
                    let id = rest.split(',').next().unwrap();
                    acknowledged.insert(number_of[id], length);
                }
            }
            read = lines.len();
        }
        tokio::select! {
            changed = lines.changed() => if changed.is_err() { return acknowledged },
            _ = stopped.wait_for(|stopped| *stopped) => return acknowledged,
        }
    }
}

/// What the endpoint saw.
#[derive(Default)]
pub struct Ledger {
    arrivals: Vec<Seen>,
}

struct Seen {
    batch_id: String,
    body: Vec<u8>,
    numbers: Vec<u64>,
    accepted: bool,
    /// Of the log, when it came.
    length: usize,
}

impl Ledger {
    /// A ledger, and what fills it; `log` is asked for its length, or 0.
    pub fn watch(log: Option<File>) -> (Arc<Mutex<Self>>, Listener) {
        let ledger: Arc<Mutex<Self>> = Arc::default();
        let filled = Arc::clone(&ledger);
        let listener = move |arrival: &Arrival| {
            let length = log.as_ref().map_or(0, write_log::length);
            filled.lock().unwrap().arrivals.push(Seen::new(arrival, length));
        };
        (ledger, Box::new(listener))
    }

    /// What was taken before the log was longer than `cut`.
    pub fn delivered(&self, cut: usize) -> impl Iterator<Item = u64> {
        let seen = self.arrivals.iter().filter(move |seen| seen.accepted && seen.length <= cut);
        seen.flat_map(|seen| seen.numbers.iter().copied())
    }

    /// Ids that came with two contents, here or in `earlier` up to `cut`.
    pub fn differing(&self, earlier: &Self, cut: usize) -> Vec<String> {
        let mut contents = HashMap::new();
        let before = earlier.arrivals.iter().filter(|seen| seen.length <= cut);
        let all = before.chain(&self.arrivals);
        all.filter(|seen| *contents.entry(&seen.batch_id).or_insert(&seen.body) != &seen.body)
            .map(|seen| seen.batch_id.clone())
            .collect()
    }

    pub fn requests(&self) -> usize {
        self.arrivals.len()
    }
}

impl Seen {
    fn new(arrival: &Arrival, length: usize) -> Self {
        let body: serde_json::Value = serde_json::from_str(&arrival.body).unwrap();
        let numbers = body["items"].as_array().unwrap().iter().filter_map(|item| item["value"].as_f64());
        Self {
            batch_id: arrival.idempotency_key.clone(),
            body: ring::digest::digest(&ring::digest::SHA256, arrival.body.as_bytes()).as_ref().to_vec(),
            numbers: numbers.map(|number| number as u64).collect(),
            accepted: arrival.accepted,
            length,
        }
    }
}

/// What does not compress, so that the store fills.
fn noise() -> String {
    std::iter::repeat_with(fastrand::alphanumeric).take(100).collect()
}
