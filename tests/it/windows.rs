//! Windows on a running agent: open spans outlive it, and what is late is counted.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::daemon::{Daemon, EAGER_STORE, Home};
use crate::harness::{stored, until};
use crate::http_ingest::Door;

const WINDOWS: &str = "[windows.minute]\nsensor_name = 'b*'\nduration_seconds = 60\npercentile = 50\n\
                       [windows.all]\nduration_seconds = 60\naggregation = 'rate'\n";
/// 2024-05-31T12:00:00Z, which begins a minute.
const T: u32 = 1_717_156_800;

/// An agent with a door for readings, which can be ended and started again.
struct Site {
    door: Door,
    home: Home,
}

impl Site {
    fn new() -> Self {
        let door = Door::new();
        let home = Home::new(&format!("{}{WINDOWS}{EAGER_STORE}", door.section()));
        Self { door, home }
    }

    async fn start(&self) -> Daemon {
        let daemon = self.home.start().await;
        self.door.open(&daemon).await;
        daemon
    }

    /// Readings of the boiler at these seconds, their value being the second. They are committed when this returns.
    async fn post(&self, seconds: &[u32]) {
        let of = |second: &u32| json!({"sensor_name": "boiler", "timestamp": T + second, "value": second});
        let readings: Vec<_> = seconds.iter().map(of).collect();
        assert_eq!(self.door.post(&json!(readings).to_string()).await.0, 200);
    }

    /// The results of `window` that are stored, in the order of their ends: end and count.
    fn results(&self, window: &str) -> Vec<(u32, u64)> {
        let items = stored::items(&self.home.state_dir(), &stored::LOCAL);
        let of_window = items.iter().filter(|item| item["metadata"]["window"] == window);
        let row = |item: &Value| {
            let end = item["timestamp"].as_f64().unwrap() as u32;
            (end - T, item["metadata"]["count"].as_u64().unwrap())
        };
        let mut results: Vec<_> = of_window.map(row).collect();
        results.sort_unstable();
        results
    }

    async fn until_results(&self, window: &str, expected: &[(u32, u64)]) {
        let all = async || (self.results(window).len() >= expected.len()).then_some(());
        until("the results are stored", all).await;
        assert_eq!(self.results(window), expected, "{window}");
    }
}

#[tokio::test]
async fn a_window_covers_all_lives_of_an_agent_that_is_killed_and_stopped_within_it() {
    let site = Site::new();
    let mut daemon = site.start().await;
    site.post(&[1, 2, 3]).await;
    daemon.signal(Signal::KILL);
    daemon.wait_exit().await;

    let daemon = site.start().await;
    daemon.health_shows("three readings", |health| health["windows"]["readings_rebuilt"] == 3).await;
    site.post(&[20, 21]).await;
    daemon.stop().await;
    assert_eq!(site.results("minute"), [], "what is open gives no result");

    let mut daemon = site.start().await;
    site.post(&[40, 65, 66]).await;
    site.until_results("minute", &[(60, 6)]).await;
    site.until_results("all", &[(60, 6)]).await;
    let items = stored::items(&site.home.state_dir(), &stored::LOCAL);
    let result = items.iter().find(|item| item["metadata"]["window"] == "minute").unwrap();
    let metadata = &result["metadata"];
    assert_eq!(
        (&metadata["first"], &metadata["last"], &metadata["rate"]),
        (&json!(1.0), &json!(40.0), &json!(1.0))
    );
    assert_eq!((&metadata["percentile"], metadata.get("ewma")), (&json!(11.5), None));
    daemon.signal(Signal::KILL);
    daemon.wait_exit().await;

    // What was emitted in an earlier life is not emitted again, and nothing of it is in the next span.
    let daemon = site.start().await;
    site.post(&[70, 125]).await;
    site.until_results("minute", &[(60, 6), (120, 3)]).await;
    site.until_results("all", &[(60, 6), (120, 3)]).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_result_that_the_wall_clock_ended_is_not_repeated_by_the_next_start() {
    let site = Site::new();
    let mut daemon = site.start().await;
    site.post(&[58, 59]).await;
    // A reading's second and the grace, on the sensor's own time.
    site.until_results("minute", &[(60, 2)]).await;
    daemon.signal(Signal::KILL);
    daemon.wait_exit().await;
    let daemon = site.start().await;
    // Later than the span waited; then what ends a span of its own.
    site.post(&[30]).await;
    site.post(&[61, 125]).await;
    site.until_results("minute", &[(60, 2), (120, 1)]).await;
    let is_counted = |health: &Value| health["windows"]["by_window"]["minute"]["too_late"] == 1;
    daemon.health_shows("the late reading", is_counted).await;
    daemon.stop().await;
}

#[tokio::test]
async fn late_readings_are_counted_by_window_and_stored_all_the_same() {
    let site = Site::new();
    let daemon = site.start().await;
    site.post(&[50, 64, 59, 66, 58]).await;
    let is_counted = |health: &Value| {
        let counts = |window: &str| health["windows"]["by_window"][window].clone();
        let expected = json!({"out_of_order": 1, "too_late": 1});
        counts("minute") == expected && counts("all") == expected
    };
    daemon.health_shows("one of each", is_counted).await;
    let (_, metrics) = daemon.get("/metrics").await;
    for line in [
        "pyvorin_edge_window_readings_out_of_order_total{window=\"minute\"} 1",
        "pyvorin_edge_window_readings_too_late_total{window=\"all\"} 1",
        "pyvorin_edge_window_readings_left_out_total 0",
    ] {
        assert!(metrics.contains(line), "{line} in {metrics}");
    }
    assert_eq!(site.results("minute"), [(60, 2)]);
    daemon.stop().await;
    let readings = stored::items(&site.home.state_dir(), &stored::LOCAL);
    assert_eq!(readings.iter().filter(|item| item["metadata"] == json!({})).count(), 5);
}
