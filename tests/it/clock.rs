//! A real daemon whose clock is not set, is set, jumps and belongs to other boots: what it stamps arrives
//! once each, in order, and with the right time as soon as that can be known.

use serde_json::{Value, json};

use crate::harness::daemon::{Daemon, EAGER_STORE, Home};
use crate::harness::endpoint::Endpoint;
use crate::harness::endpoint::receiver::behaviour::Behaviour;
use crate::harness::fake_clock::{FakeClock, real_now};
use crate::harness::{stored, until};
use crate::http_ingest::Door;

const YEAR: f64 = 31_557_600.0;
const RULE: &str = "[[rules]]\nname = 'alarm'\ncondition_expr = 'ctx.value >= 1000'\nseverity = 'critical'\n";

/// A daemon that lives by `clock` and delivers without TLS, which has its own opinion of the time.
struct Board {
    clock: FakeClock,
    door: Door,
    endpoint: Endpoint,
    home: Home,
}

impl Board {
    async fn new(agent: &str, behaviour: Behaviour) -> Self {
        let (clock, door) = (FakeClock::new(), Door::new());
        let endpoint = Endpoint::start_plain(behaviour).await;
        let home = clock.home(&format!(
            "[agent]\n{agent}\n{}{RULE}[cloud]\nenabled = true\nendpoint = '{}'\n\
             flush_interval_seconds = 0.05\nbackoff_min_seconds = 0.1\nbackoff_max_seconds = 0.3\n{EAGER_STORE}",
            door.section(),
            endpoint.url
        ));
        Self { clock, door, endpoint, home }
    }

    async fn start(&self) -> Daemon {
        let daemon = self.home.start().await;
        self.door.open(&daemon).await;
        daemon
    }

    /// Has the daemon stamp a reading, and returns the time that is right for it.
    async fn stamp(&self, value: u32) -> f64 {
        self.door.post_values([value]).await;
        real_now()
    }

    async fn arrived(&self, count: usize) -> Vec<Value> {
        until(&format!("{count} items arrive"), async || {
            Some(self.endpoint.items()).filter(|items| items.len() >= count)
        })
        .await
    }

    /// What is stored once no time in it is provisional any more.
    async fn settled(&self) -> Vec<Value> {
        until("no stored time is provisional", async || {
            let items = stored::items(&self.home.state_dir(), &stored::OUTBOUND);
            items.iter().all(|item| quality(item) != "provisional").then_some(items)
        })
        .await
    }
}

fn quality(item: &Value) -> &str {
    item["metadata"]["_clock"]["quality"].as_str().unwrap_or("none")
}

fn values(items: &[Value]) -> Vec<f64> {
    items.iter().filter_map(|item| item["value"].as_f64()).collect()
}

fn assert_time(item: &Value, right: f64, within: f64) {
    let off = item["timestamp"].as_f64().unwrap() - right;
    assert!(off.abs() < within, "{item} is {off} s off");
}

async fn synchronised(daemon: &Daemon, is: bool) {
    daemon.health_shows("the clock is seen", |health| health["clock"]["synchronised"] == is).await;
}

#[tokio::test]
async fn what_was_stamped_before_the_clock_was_set_waits_and_arrives_right() {
    let board = Board::new("clock_wait_seconds = 3600", Behaviour::default()).await;
    let daemon = board.start().await;
    let mut right = vec![board.stamp(1).await, board.stamp(2).await];
    let health = daemon.health().await;
    assert_eq!(
        (&health["clock"]["synchronised"], &health["clock"]["source"]),
        (&json!(false), &json!("none"))
    );
    assert_eq!(health["clock"]["provisional_items"], 2);
    assert_eq!(health["refused"]["time"], 0);
    let stored = stored::items(&board.home.state_dir(), &stored::OUTBOUND);
    assert!(
        stored.iter().all(|item| quality(item) == "provisional" && item["timestamp"].as_f64().unwrap() < 1e6)
    );
    assert_eq!(stored[0]["metadata"]["_clock"]["boot"], "first");

    // What is critical does not wait for any clock.
    board.stamp(1000).await;
    let alarm = board.arrived(1).await.remove(0);
    assert_eq!((&alarm["rule_name"], quality(&alarm)), (&json!("alarm"), "provisional"));
    daemon.stop().await;

    let daemon = board.start().await;
    right.push(real_now());
    right.push(board.stamp(4).await);
    assert_eq!(board.endpoint.items().len(), 1);
    board.clock.synchronise();
    daemon.says("the clock is synchronised").await;
    right.push(board.stamp(5).await);
    let items = board.arrived(6).await;
    let readings = &items[1..];
    assert_eq!(values(readings), [1.0, 2.0, 1000.0, 4.0, 5.0]);
    for (reading, right) in readings.iter().zip(&right).filter(|(reading, _)| reading["value"] != 1000.0) {
        assert_time(reading, *right, 1.0);
    }
    let qualities: Vec<_> = readings.iter().map(quality).collect();
    assert_eq!(qualities, ["corrected", "corrected", "corrected", "corrected", "none"]);
    board.settled().await;
    let health =
        daemon.health_shows("all is corrected", |health| health["clock"]["provisional_items"] == 0).await;
    assert_eq!(health["clock"]["source"], "kernel");
    daemon.stop().await;
}

#[tokio::test]
async fn jumps_of_years_in_both_directions_lose_nothing_and_reorder_nothing() {
    let board = Board::new("", Behaviour::default()).await;
    board.clock.synchronise();
    let daemon = board.start().await;
    synchronised(&daemon, true).await;
    let mut right = vec![board.stamp(1).await];
    for (value, years) in [(2, 20.0), (3, -30.0), (4, 12.0)] {
        board.clock.set(real_now() + years * YEAR, false);
        synchronised(&daemon, false).await;
        right.push(board.stamp(value).await);
    }
    board.clock.synchronise();
    synchronised(&daemon, true).await;
    right.push(board.stamp(5).await);
    let items = board.arrived(5).await;
    assert_eq!(values(&items), [1.0, 2.0, 3.0, 4.0, 5.0]);
    for (item, right) in items.iter().zip(&right) {
        // It was right before, and the boot clock goes on.
        assert_time(item, *right, 1.0);
    }
    let qualities: Vec<_> = items.iter().map(quality).collect();
    assert_eq!(qualities, ["none", "provisional", "provisional", "provisional", "none"]);
    let stored = board.settled().await;
    assert_eq!(values(&stored), values(&items));
    daemon.stop().await;
}

#[tokio::test]
async fn a_boot_that_never_saw_the_right_time_is_inferred_from_the_next() {
    let mut board = Board::new("clock_wait_seconds = 3600", Behaviour::default()).await;
    let daemon = board.start().await;
    let first = board.stamp(1).await;
    // A sensor with a clock of its own tells what time it is.
    let of_source = json!({"sensor_name": "s", "value": 2, "timestamp": real_now()}).to_string();
    assert_eq!(board.door.post(&of_source).await.0, 200);
    daemon.stop().await;

    board.clock.boot("second", 12.0);
    let daemon = board.start().await;
    let third = board.stamp(3).await;
    board.clock.synchronise();
    let items = board.arrived(3).await;
    assert_eq!(values(&items), [1.0, 2.0, 3.0]);
    let qualities: Vec<_> = items.iter().map(quality).collect();
    assert_eq!(qualities, ["inferred", "none", "corrected"]);
    assert_eq!(items[0]["metadata"]["_clock"]["boot"], "first");
    assert!(items[0]["metadata"]["_clock"]["uncertainty_seconds"].as_f64().unwrap() <= 60.0);
    assert_time(&items[0], first, 5.0);
    assert_time(&items[2], third, 1.0);
    assert!(items[0]["timestamp"].as_f64().unwrap() < board.clock.began());
    daemon.stop().await;
}

#[tokio::test]
async fn a_batch_that_was_tried_stays_as_it_is_when_the_clock_is_set() {
    let failing = Behaviour { fail: Some(503), ..Behaviour::default() };
    let board = Board::new("clock_wait_seconds = 0", failing).await;
    let daemon = board.start().await;
    board.stamp(1).await;
    board.endpoint.totals("it is tried", |totals| totals.requests > 0).await;
    board.clock.synchronise();
    daemon.says("the clock is synchronised").await;
    board.endpoint.receiver.behave(Behaviour::default());
    let items = board.arrived(1).await;
    assert_eq!(quality(&items[0]), "provisional");
    let offset = board.clock.began();
    assert_time(&items[0], 12.0, 60.0);
    // What the receiver needs to put it right stands there.
    let boot_time = items[0]["metadata"]["_clock"]["boot_time"].as_f64().unwrap();
    assert!((offset + boot_time - real_now()).abs() < 20.0);
    assert!(board.endpoint.receiver.arrivals().iter().all(|arrival| !arrival.differs));
    board.settled().await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_clock_that_is_trusted_gives_no_marks() {
    let board = Board::new("clock = 'trusted'", Behaviour::default()).await;
    board.clock.set(real_now(), false);
    let daemon = board.start().await;
    let right = board.stamp(1).await;
    let items = board.arrived(1).await;
    assert_time(&items[0], right, 1.0);
    assert_eq!(quality(&items[0]), "none");
    assert_eq!(daemon.health().await["clock"]["source"], "trusted");
    daemon.stop().await;
}
