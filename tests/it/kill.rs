//! SIGKILL at random moments: what a source was told is durable is delivered or still queued.
//!
//! `PYV_KILLS` is the number of kills, for a long run; `PYV_SEED` repeats a run's moments as far as
//! they are the test's own.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rumqttc::mqttbytes::QoS;
use rustix::process::Signal;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::harness::broker::{Broker, Options, Persistence};
use super::harness::census::{Received, StoreReader};
use super::harness::daemon::{Daemon, Home, cloud, exchange};
use super::harness::endpoint::receiver::behaviour::{Behaviour, Times};
use super::harness::endpoint::{Endpoint, Pki};
use super::harness::process::free_port;
use super::harness::publisher::Publisher;
use super::harness::{soon, until};

#[tokio::test]
async fn nothing_the_broker_acknowledged_is_lost_when_the_daemon_is_killed() {
    let mut site = Site::new().await;
    let broker = Broker::start(Options {
        persistence: Persistence::Off,
        max_queued_messages: 10_000_000,
        logs_packets: false,
        ..Options::default()
    })
    .await;
    let source = format!(
        "[ingest.mqtt]\nhost = '127.0.0.1'\nport = {}\nclient_id = 'agent'\nbackoff_min_seconds = 0.02\n\
         [[sensors.devices]]\nname = 'n'\ningest_type = 'mqtt'\ntopic = 'n/#'\n",
        broker.port
    );
    let home = Home::new(&site.config(&source, 0.05));
    // The session begins with the first subscription: before that, nothing is kept for the daemon.
    let mut daemon = home.start().await;
    broker.says("n/#").await;

    let (allowance, allowed) = watch::channel(0);
    let mut publishing = JoinSet::new();
    publishing.spawn(publish(Publisher::new(&broker), allowed));
    let kills = kills(50);
    for kill in 1..=kills {
        allowance.send_replace(kill * PER_KILL);
        site.kill_soon(&home, &source, &mut daemon).await;
    }
    drop(allowance);
    let mut acknowledged = publishing.join_next().await.unwrap().unwrap();
    let published = kills * PER_KILL;

    // With the endpoint down, everything must be there: with the endpoint or in the queue.
    site.endpoint.receiver.behave(Behaviour { fail: Some(503), ..Behaviour::default() });
    // The broker keeps the order, so behind this one nothing is left with it.
    let last = published;
    Publisher::new(&broker).publish("n/last", last.to_string(), QoS::AtLeastOnce).await;
    acknowledged.insert(last);
    site.stored(&home, last).await;
    site.account("mqtt", kills, published + 1, &acknowledged, (&home, &source), daemon).await;
}

#[tokio::test]
async fn nothing_answered_with_200_is_lost_when_the_daemon_is_killed() {
    let mut site = Site::new().await;
    let port = free_port();
    let source =
        format!("[ingest.http]\nport = {port}\n[[sensors.devices]]\nname = 'n'\ningest_type = 'http'\n");
    let home = Home::new(&site.config(&source, 0.05));
    let mut daemon = home.start().await;
    let (stop, stopped) = watch::channel(false);
    let mut posting = JoinSet::new();
    for client in 0..CLIENTS {
        posting.spawn(post(client, port, stopped.clone()));
    }
    let kills = kills(20);
    for _ in 1..=kills {
        site.kill_soon(&home, &source, &mut daemon).await;
    }
    stop.send_replace(true);
    let mut acknowledged = BTreeSet::new();
    let mut posted = 0;
    while let Some(client) = posting.join_next().await {
        let (numbers, sent) = client.unwrap();
        acknowledged.extend(numbers);
        posted += sent;
    }
    assert!(!acknowledged.is_empty(), "no request was ever answered with 200");
    site.endpoint.receiver.behave(Behaviour { fail: Some(503), ..Behaviour::default() });
    site.account("http", kills, posted, &acknowledged, (&home, &source), daemon).await;
}

/// Where everything arrives, and the chance that rules over it.
struct Site {
    random: fastrand::Rng,
    pki: Pki,
    endpoint: Endpoint,
    received: Arc<Mutex<Received>>,
    /// In this life of the daemon.
    connectivity: Connectivity,
}

/// How the endpoint can be reached.
#[derive(Clone, Copy, PartialEq)]
enum Connectivity {
    /// It answers, well or badly.
    Up,
    /// Nobody listens.
    Down,
    /// It answers now and then.
    Flapping,
}

impl Site {
    async fn new() -> Self {
        let seed = std::env::var("PYV_SEED").map_or(1, |seed| seed.parse().unwrap());
        println!("PYV_SEED={seed}");
        let pki = Pki::new();
        let (received, told) = Received::watch();
        let endpoint = Endpoint::start_watched(&pki, told).await;
        let random = fastrand::Rng::with_seed(seed);
        Self { random, pki, endpoint, received, connectivity: Connectivity::Up }
    }

    fn config(&self, source: &str, commit_interval_seconds: f64) -> String {
        let mut cloud = cloud(&self.endpoint, &self.pki);
        if self.connectivity == Connectivity::Down {
            // Nobody listens on the port of tcpmux.
            cloud = cloud.replace(&self.endpoint.url, "https://127.0.0.1:1/ingest");
        }
        format!(
            "{cloud}batch_size = 100\n[logging]\nlevel = 'warn'\n{source}\
             [store]\ncommit_interval_seconds = {commit_interval_seconds}\n"
        )
    }

    /// Lets the daemon run for a random time, kills it, and starts it again, perhaps with another
    /// commit interval and with an endpoint that misbehaves in another way, flaps or is not there.
    async fn kill_soon(&mut self, home: &Home, source: &str, daemon: &mut Daemon) {
        if self.random.u32(..4) > 0 {
            daemon.ready().await;
        }
        // The moment of the kill is what is tested, not something that is waited for.
        let mut left = self.random.u64(5..300);
        while self.connectivity == Connectivity::Flapping && left > FLAP_MILLIS {
            let fail = self.random.bool().then_some(503);
            self.endpoint.receiver.behave(Behaviour { fail, ..Behaviour::default() });
            sleep(Duration::from_millis(FLAP_MILLIS)).await;
            left -= FLAP_MILLIS;
        }
        sleep(Duration::from_millis(left)).await;
        daemon.signal(Signal::KILL);
        let exit = daemon.wait_exit().await;
        assert_eq!(exit.code, None, "it ended by itself:\n{}", daemon.log());
        let intervals = [0.01, 0.05, 0.2, 1.0];
        let interval = intervals[self.random.usize(..intervals.len())];
        self.connectivity = match self.random.u32(..6) {
            0 => Connectivity::Down,
            1 | 2 => Connectivity::Flapping,
            _ => Connectivity::Up,
        };
        home.configure(&self.config(source, interval));
        let misbehaviour = self.misbehaviour();
        self.endpoint.receiver.behave(misbehaviour);
        *daemon = home.spawn();
    }

    fn misbehaviour(&mut self) -> Behaviour {
        let good = Behaviour::default();
        match self.random.u32(..6) {
            0 => Behaviour { fail_every: Some(2), ..good },
            1 => Behaviour { accept_then_reset: Times::Left(3), ..good },
            2 => Behaviour { accept_then_reset: Times::Left(1), fail_every: Some(3), ..good },
            3 => Behaviour { close_midway: Times::Always(true), ..good },
            4 => Behaviour { delay_seconds: 0.03, ..good },
            _ => good,
        }
    }

    /// Waits until `number` is stored; for as long as the store grows.
    async fn stored(&self, home: &Home, number: u64) {
        let mut store = StoreReader::open(&home.state_dir());
        while !store.stored.contains_key(&number) {
            until("the store takes in more", async || (store.read_on() > 0).then_some(())).await;
        }
    }

    /// Stops the daemon with the endpoint down, and looks for every number of `acknowledged`; then
    /// lets it deliver the rest, and looks again.
    async fn account(
        &mut self,
        what: &str,
        kills: u64,
        published: u64,
        acknowledged: &BTreeSet<u64>,
        (home, source): (&Home, &str),
        daemon: Daemon,
    ) {
        daemon.ready().await;
        daemon.stop().await;
        self.connectivity = Connectivity::Up;
        let mut store = StoreReader::open(&home.state_dir());
        store.read_on();
        let pending = store.pending();
        let lost = |kept: &dyn Fn(u64) -> bool| -> Vec<u64> {
            acknowledged.iter().copied().filter(|number| !kept(*number)).collect()
        };
        let lost_down = {
            let received = self.received.lock().unwrap();
            lost(&|number| received.has(number) || pending.contains(&number))
        };
        self.endpoint.receiver.behave(Behaviour::default());
        home.configure(&self.config(source, 0.05));
        let daemon = home.start().await;
        let mut depth = u64::MAX;
        while depth > 0 {
            depth = until("the queue shrinks", async || {
                let now = daemon.health().await["cloud"]["queue_depth"].as_u64().unwrap();
                (now < depth).then_some(now)
            })
            .await;
        }
        daemon.stop().await;
        let received = self.received.lock().unwrap();
        let lost_up = lost(&|number| received.has(number));
        let totals = *self.endpoint.receiver.totals().borrow();
        println!(
            "{what}: {kills} kills, {published} published, {} acknowledged, {} stored, {} received in {} \
             batches, {} queued before the endpoint came back; duplicates: {} stored, {} received in another \
             batch, {} batches sent again; {} differing; lost: {}, then {}",
            acknowledged.len(),
            store.stored.len(),
            received.batches_of.len(),
            received.keys(),
            pending.len(),
            store.repeated(),
            received.repeated(),
            totals.duplicates,
            received.differing.len(),
            lost_down.len(),
            lost_up.len()
        );
        assert_eq!(received.differing, Vec::<String>::new(), "an id came with two contents");
        assert_eq!(lost_down, Vec::<u64>::new(), "neither received nor queued");
        assert_eq!(lost_up, Vec::<u64>::new(), "not received");
        assert_eq!(store.repeated(), 0, "what was sent again was stored again");
        assert_eq!(received.repeated(), 0, "an item was in two batches");
    }
}

/// Publishes numbers below what is allowed until nothing more will be; returns the acknowledged ones.
async fn publish(publisher: Publisher, mut allowed: watch::Receiver<u64>) -> BTreeSet<u64> {
    let mut acknowledged = BTreeSet::new();
    let mut next = 0;
    loop {
        let allowance = *allowed.borrow_and_update();
        if next == allowance {
            if allowed.changed().await.is_err() {
                return acknowledged;
            }
            continue;
        }
        let numbers = next..(next + IN_FLIGHT).min(allowance);
        next = numbers.end;
        let messages = numbers.clone().map(|number| (format!("n/{}", number % 7), number.to_string()));
        let settled = publisher.publish_all(messages, QoS::AtLeastOnce).await;
        acknowledged.extend(numbers.zip(settled).filter(|(_, settled)| *settled).map(|(number, _)| number));
    }
}

/// Posts numbers of its own until it is told to stop; returns those that were answered with 200, and how
/// many were sent.
async fn post(client: u64, port: u16, stopped: watch::Receiver<bool>) -> (Vec<u64>, u64) {
    let mut acknowledged = Vec::new();
    let mut sent = 0;
    while !*stopped.borrow() {
        let numbers = sent..sent + 1 + sent % 10;
        sent = numbers.end;
        let numbers: Vec<u64> = numbers.map(|number| number * CLIENTS + client).collect();
        let lines = numbers.iter().map(|number| format!("{{\"sensor_name\":\"n\",\"value\":{number}}}\n"));
        let body: String = lines.collect();
        let request = format!(
            "POST /ingest HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = soon("an answer or its end", exchange(([127, 0, 0, 1], port).into(), &request)).await;
        match answer {
            Ok((200, answer)) => {
                assert!(answer.contains(&format!("\"accepted\":{}", numbers.len())), "{answer}");
                acknowledged.extend(numbers);
            }
            // While it is down, a moment of rest: the machine is small.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                sleep(Duration::from_millis(5)).await;
            }
            _ => {}
        }
    }
    (acknowledged, sent)
}

fn kills(usual: u64) -> u64 {
    std::env::var("PYV_KILLS").map_or(usual, |kills| kills.parse().unwrap())
}

/// Readings that are published for each kill.
const PER_KILL: u64 = 500;
/// Published before an acknowledgement is waited for.
const IN_FLIGHT: u64 = 100;
/// Between two moods of an endpoint that flaps.
const FLAP_MILLIS: u64 = 15;
/// That post at the same time.
const CLIENTS: u64 = 4;
