//! The ledger of gaps against a real store, with clocks that the test moves.

use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::oneshot;

use super::tests::settings;
use super::*;
use crate::clock::Clocks;
use crate::lifecycle::watchdog::Progress;
use crate::reading::Refusal;

const WANT: Want = Want::new(100, 1 << 20, true);

/// Clocks that stand still until they are moved.
#[derive(Debug)]
struct Moved(Mutex<(f64, Duration)>);

impl Clocks for Moved {
    fn unix_seconds(&self) -> f64 {
        self.0.lock().unwrap().0
    }

    fn since_boot(&self) -> Duration {
        self.0.lock().unwrap().1
    }

    fn boot_id(&self) -> String {
        "a".to_owned()
    }
}

struct Opened {
    store: Store,
    end: oneshot::Receiver<Result<(), Error>>,
    clocks: Arc<Moved>,
}

impl Opened {
    fn at(dir: &Path, size_bytes_max: u64) -> Self {
        Self::with(dir, size_bytes_max, Ttl::default())
    }

    fn with(dir: &Path, size_bytes_max: u64, ttl: Ttl) -> Self {
        let settings = Settings { ttl, ..settings(dir, size_bytes_max) };
        let clocks = Arc::new(Moved(Mutex::new((1_800_000_000.0, Duration::from_secs(1000)))));
        let (store, end) = open_with(settings, Arc::new(Progress::default()), clocks.clone()).unwrap();
        store.report_gaps(true);
        Self { store, end, clocks }
    }

    async fn append(&self, lane: Lane, items: impl IntoIterator<Item = String>) {
        let mut staged = Staged::default();
        for item in items {
            staged.push(lane, 1.0, |out| out.extend_from_slice(item.as_bytes()));
        }
        self.store.append(staged).await.unwrap();
    }

    async fn next(&self) -> Option<FrozenBatch> {
        self.store.next_batch(WANT).await.unwrap()
    }

    /// Sets the next batch aside.
    async fn refuse_next(&self) -> BatchKey {
        let key = self.next().await.unwrap().key;
        let outcome = Outcome::DeadLetter { reason: "400".to_owned() };
        self.store.settle(key, outcome).await.unwrap();
        key
    }

    /// Has the store notice what is there, lets so much time pass, and has it look at what is due.
    async fn pass(&self, time: Duration) {
        for time in [LOOK, LOOK, time] {
            self.clocks.0.lock().unwrap().1 += time;
            // It looks behind its answer, so the second one says that it has.
            self.store.ping().await.unwrap();
            self.store.ping().await.unwrap();
        }
    }

    async fn close(self) {
        drop(self.store);
        self.end.await.unwrap().unwrap();
    }
}

fn reading(sensor: &str) -> String {
    format!(r#"{{"sensor_name":"{sensor}","timestamp":1.0,"value":1.0,"unit":"","metadata":{{}}}}"#)
}

fn noise(seed: u64) -> impl Iterator<Item = String> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..50).map(move |_| {
        let noise: String = (0..1000).map(|_| random.alphanumeric()).collect();
        format!(r#"{{"sensor_name":"boiler","timestamp":1.0,"value":1.0,"unit":"{noise}","metadata":{{}}}}"#)
    })
}

fn event(batch: &FrozenBatch) -> Value {
    serde_json::from_slice(&batch.items).unwrap()
}

/// Longer than between two looks at what is due.
const LOOK: Duration = Duration::from_secs(2);
const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn what_retention_drops_is_told_to_the_cloud_once() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Opened::at(dir.path(), 512 * 1024);
    for seed in 0..30 {
        opened.append(Lane::Logs, noise(seed)).await;
    }
    opened.pass(LOOK).await;
    assert_eq!(opened.store.counters().pending().items[1], 0, "it may still grow");
    opened.pass(MINUTE).await;
    let dropped = opened.store.counters().dropped[Lane::Logs.priority_index()].load(Relaxed);
    let batch = opened.next().await.unwrap();
    assert_eq!(batch.key.lane, Lane::Anomaly);
    let event = event(&batch);
    assert_eq!((&event["rule_name"], &event["severity"]), (&GAP_RULE.into(), &"warning".into()));
    let told = &event["metadata"];
    assert_eq!(told["reason"], "retention");
    assert_eq!(told["store_id"], opened.store.id());
    assert_eq!(told["lane"], 4);
    assert_eq!(told["count"], dropped);
    assert_eq!(told["spans"], serde_json::json!([[1, dropped]]));
    assert_eq!(told["sensors"], serde_json::json!(["boiler"]));
    opened.store.settle(batch.key, Outcome::Delivered).await.unwrap();
    opened.pass(MINUTE * 10).await;
    assert_eq!(opened.store.counters().pending().items[1], 0, "told once");
    let gaps: std::collections::BTreeMap<_, _> = opened.store.counters().gaps().collect();
    assert_eq!(gaps["retention"], dropped);
    opened.close().await;
}

#[tokio::test]
async fn while_a_report_waits_the_gap_grows_and_is_told_when_it_is_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Opened::at(dir.path(), 1 << 30);
    opened.append(Lane::Telemetry, (0..3).map(|n| reading(&format!("s{n}")))).await;
    opened.refuse_next().await;
    opened.pass(LOOK).await;
    opened.pass(MINUTE).await;
    let first = opened.next().await.unwrap();
    assert_eq!(event(&first)["metadata"]["sensors"], serde_json::json!(["s0", "s1", "s2"]));
    for _ in 0..20 {
        opened.append(Lane::Critical, [reading("c")]).await;
        opened.refuse_next().await;
        opened.append(Lane::Telemetry, [reading("t")]).await;
        opened.pass(MINUTE).await;
    }
    // Another lane is another kind of gap, and was told beside it, once.
    assert_eq!(opened.store.counters().pending().items[1], 2);
    opened.close().await;
}

#[tokio::test]
async fn a_report_that_is_lost_itself_is_in_the_ledger_and_is_not_reported_again() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Opened::at(dir.path(), 1 << 30);
    opened.append(Lane::Telemetry, [reading("s")]).await;
    opened.refuse_next().await;
    opened.pass(LOOK).await;
    opened.pass(MINUTE).await;
    assert_eq!(opened.refuse_next().await.lane, Lane::Anomaly);
    for _ in 0..10 {
        opened.pass(MINUTE * 100).await;
    }
    assert_eq!(opened.store.counters().pending().total(), 0);
    let gaps: std::collections::BTreeMap<_, _> = opened.store.counters().gaps().collect();
    assert_eq!(gaps["dead_letter"], 2);
    opened.close().await;
}

#[tokio::test]
async fn nothing_is_reported_where_nothing_is_delivered_and_all_of_it_later() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Opened::at(dir.path(), 1 << 30);
    opened.append(Lane::Telemetry, [reading("s")]).await;
    opened.refuse_next().await;
    opened.store.report_gaps(false);
    opened.pass(MINUTE * 10).await;
    opened.close().await;
    let opened = Opened::at(dir.path(), 1 << 30);
    assert_eq!(opened.store.counters().pending().total(), 0);
    let gaps: std::collections::BTreeMap<_, _> = opened.store.counters().gaps().collect();
    assert_eq!(gaps["dead_letter"], 1, "the ledger outlives a restart");
    opened.pass(LOOK).await;
    opened.pass(MINUTE).await;
    assert_eq!(event(&opened.next().await.unwrap())["metadata"]["spans"], serde_json::json!([[1, 1]]));
    opened.close().await;
}

#[tokio::test]
async fn refused_input_is_told_by_reason_and_makes_no_commit_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Opened::at(dir.path(), 1 << 30);
    let mut staged = Staged::default();
    for (reason, sensor) in [(Refusal::Time, "kitchen"), (Refusal::Time, "cellar"), (Refusal::Privacy, "")] {
        staged.refuse(reason, sensor, 1_800_000_000.0);
    }
    opened.store.append(staged).await.unwrap();
    opened.pass(LOOK).await;
    opened.pass(MINUTE).await;
    assert_eq!(opened.store.counters().commits.load(Relaxed), 0);
    opened.append(Lane::Local, [reading("s")]).await;
    opened.pass(LOOK).await;
    opened.pass(LOOK).await;
    opened.pass(MINUTE).await;
    let mut told = Vec::new();
    while let Some(batch) = opened.next().await {
        for item in serde_json::from_slice::<Vec<Value>>(&[b"[", &batch.items[..], b"]"].concat()).unwrap() {
            let metadata = &item["metadata"];
            told.push((
                metadata["reason"].as_str().unwrap().to_owned(),
                metadata["count"].clone(),
                metadata["sensors"].clone(),
            ));
        }
        opened.store.settle(batch.key, Outcome::Delivered).await.unwrap();
    }
    told.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(
        told,
        [
            ("refused_privacy".to_owned(), 1.into(), serde_json::json!([])),
            ("refused_time".to_owned(), 2.into(), serde_json::json!(["kitchen", "cellar"]))
        ]
    );
    opened.close().await;
}

#[tokio::test]
async fn at_the_end_what_was_refused_is_noted_and_told() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Opened::at(dir.path(), 1 << 30);
    let mut staged = Staged::default();
    staged.refuse(Refusal::Malformed, "gateway", 1_800_000_000.0);
    opened.store.append(staged).await.unwrap();
    opened.close().await;
    let opened = Opened::at(dir.path(), 1 << 30);
    assert_eq!(event(&opened.next().await.unwrap())["metadata"]["reason"], "refused_malformed");
    opened.close().await;
}

fn gaps(opened: &Opened) -> std::collections::BTreeMap<&'static str, u64> {
    opened.store.counters().gaps().filter(|(_, count)| *count > 0).collect()
}

const TTL: Ttl = Ttl { by_priority: [None, None, Some(Duration::from_secs(3600)), None] };

#[tokio::test]
async fn what_waits_longer_than_its_lane_allows_expires_and_is_declared() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Opened::with(dir.path(), 1 << 30, TTL);
    opened.append(Lane::Telemetry, (0..4).map(|_| reading("frozen"))).await;
    let frozen = opened.next().await.unwrap();
    opened.append(Lane::Telemetry, (0..5).map(|_| reading("old"))).await;
    opened.append(Lane::Logs, [reading("for ever")]).await;
    opened.pass(MINUTE * 59).await;
    opened.append(Lane::Telemetry, [reading("new")]).await;
    assert_eq!(gaps(&opened), [].into());
    opened.pass(MINUTE * 2).await;
    opened.pass(MINUTE / 2).await;
    assert_eq!(gaps(&opened), [("ttl", 5)].into());
    assert_eq!(
        opened.store.counters().pending().items,
        [0, 0, 5, 1],
        "the frozen batch stays, and what is new"
    );
    assert_eq!(opened.next().await.unwrap(), frozen);
    opened.close().await;
}

#[tokio::test]
async fn a_wall_clock_that_jumps_by_years_expires_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = Opened::with(dir.path(), 1 << 30, TTL);
    for years in [30.0, -60.0, 45.0] {
        opened.append(Lane::Telemetry, [reading("s")]).await;
        opened.clocks.0.lock().unwrap().0 += years * 31_557_600.0;
        opened.pass(MINUTE / 2).await;
        opened.close().await;
        opened = Opened::with(dir.path(), 1 << 30, TTL);
        opened.pass(MINUTE / 2).await;
    }
    assert_eq!(gaps(&opened), [].into());
    assert_eq!(opened.store.counters().pending().total(), 3);
    opened.close().await;
}

#[tokio::test]
async fn logs_are_not_starved_by_telemetry_that_never_ends() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Opened::at(dir.path(), 1 << 30);
    opened.append(Lane::Logs, [reading("log")]).await;
    for round in 0..20 {
        opened.append(Lane::Telemetry, (0..100).map(|_| reading("s"))).await;
        let batch = opened.next().await.unwrap();
        if batch.key.lane == Lane::Logs {
            assert!(round >= 10, "and telemetry has most of it");
            return opened.close().await;
        }
        opened.store.settle(batch.key, Outcome::Delivered).await.unwrap();
    }
    panic!("logs were starved");
}
