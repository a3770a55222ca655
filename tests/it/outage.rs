//! A long outage on a small store: what is kept, what is thinned, what it takes on the disk, and that the
//! file shrinks again. The suite runs a small one; `PYVORIN_OUTAGE=full cargo nextest run --release outage`
//! runs 30 days of 100 sensors every five seconds on 64 MB.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use pyvorin_edge::lifecycle::watchdog::Progress;
use pyvorin_edge::store::{
    self, Budget, DATABASE_FILE, FrozenBatch, Lane, Outcome, Settings, Staged, Store, Ttl, Want,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::clocks::Moved;

struct Outage {
    size_bytes_max: u64,
    sensors: u32,
    seconds: u64,
}

const SMALL: Outage = Outage { size_bytes_max: 1 << 20, sensors: 10, seconds: 36 * 3600 };
const FULL: Outage = Outage { size_bytes_max: 64 << 20, sensors: 100, seconds: 30 * 86_400 };
const POLL_SECONDS: u64 = 5;
const COMMIT_SECONDS: u64 = 60;
const START: f64 = 1_800_000_000.0;

#[tokio::test]
async fn a_long_outage_thins_telemetry_loses_no_sensor_and_gives_the_room_back() {
    let outage = if std::env::var("PYVORIN_OUTAGE").is_ok_and(|size| size == "full") { FULL } else { SMALL };
    let folder = TempDir::new_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" }).unwrap();
    let clocks = Arc::new(Moved::at(START));
    let settings = Settings {
        state_dir: folder.path().to_owned(),
        size_bytes_max: outage.size_bytes_max,
        quarantine_bytes_max: 1 << 30,
        commit_interval: Duration::from_secs(COMMIT_SECONDS),
        budget: Budget { free_bytes_min: 0, ..Budget::default() },
        ttl: Ttl::default(),
    };
    let (store, end) = store::open_with(settings, Arc::new(Progress::default()), clocks.clone()).unwrap();
    store.report_gaps(true);
    let (peak_bytes, critical) = fill(&store, &outage, &clocks, folder.path()).await;
    let counters = store.counters().clone();
    let pending = counters.pending();
    println!(
        "after the outage: {} bytes on the disk at most, pending {pending:?}, gaps {:?}, days left {:?} and {:?}",
        peak_bytes,
        counters.gaps().filter(|(_, count)| *count > 0).collect::<Vec<_>>(),
        counters.days_before_thinning.get(),
        counters.days_before_dropping.get(),
    );
    assert!(peak_bytes <= outage.size_bytes_max, "{peak_bytes} bytes");
    let received = drain(&store, &clocks).await;
    check(&received, &outage, critical, &counters);
    // Delivered history goes down to its share, and the file with it.
    for _ in 0..2000 {
        clocks.pass(Duration::from_secs(11));
        store.ping().await.unwrap();
    }
    let bytes = on_disk(folder.path());
    println!("after the drain: {bytes} bytes on the disk");
    assert!(bytes <= outage.size_bytes_max / 3 * 2, "{bytes} bytes");
    drop(store);
    end.await.unwrap().unwrap();
}

/// Stores readings for the whole outage; returns the most bytes that were on the disk, and how many critical
/// events there were.
async fn fill(store: &Store, outage: &Outage, clocks: &Moved, folder: &Path) -> (u64, u64) {
    let mut random = fastrand::Rng::with_seed(1);
    let mut values: Vec<f64> = (0..outage.sensors).map(|_| random.f64() * 100.0).collect();
    let (mut peak, mut critical, mut second) = (0, 0, 0);
    let mut text = String::new();
    let mut asked = false;
    while second < outage.seconds {
        let mut staged = Staged::default();
        for _ in 0..COMMIT_SECONDS / POLL_SECONDS {
            for (sensor, value) in values.iter_mut().enumerate() {
                *value += (random.f64() - 0.5) * 0.5;
                let timestamp = START + second as f64 + random.f64() * 0.1;
                text.clear();
                write!(
                    text,
                    r#"{{"sensor_name":"plant/{sensor}/temperature","timestamp":{timestamp:.3},"value":{value:.2},"unit":"C","metadata":{{}}}}"#
                )
                .unwrap();
                staged.push(Lane::Telemetry, timestamp, |out| out.extend_from_slice(text.as_bytes()));
            }
            second += POLL_SECONDS;
        }
        if second % 3600 == 0 {
            let event = format!(
                r#"{{"rule_name":"overheat","timestamp":{second},"severity":"critical","message":"{critical}","sensor_readings":[],"metadata":{{}}}}"#
            );
            staged.push(Lane::Critical, START + second as f64, |out| out.extend_from_slice(event.as_bytes()));
            critical += 1;
        }
        clocks.pass(Duration::from_secs(COMMIT_SECONDS));
        store.append(staged).await.unwrap();
        store.ping().await.unwrap();
        if !std::mem::replace(&mut asked, true) {
            // The uploader asked once before the network went; that batch is frozen all the time.
            store.next_batch(Want::new(500, 1 << 19, true)).await.unwrap();
        }
        peak = peak.max(on_disk(folder));
    }
    (peak, critical)
}

/// Delivers everything.
async fn drain(store: &Store, clocks: &Moved) -> Vec<FrozenBatch> {
    let mut received = Vec::new();
    for _ in 0..5 {
        while let Some(batch) = store.next_batch(Want::new(2000, 1 << 19, true)).await.unwrap() {
            store.settle(batch.key, Outcome::Delivered).await.unwrap();
            received.push(batch);
        }
        // Reports of the last gaps come a while later.
        clocks.pass(Duration::from_secs(7200));
        store.ping().await.unwrap();
        store.ping().await.unwrap();
    }
    received
}

fn check(received: &[FrozenBatch], outage: &Outage, critical: u64, counters: &store::Counters) {
    let mut seen: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut hours: BTreeMap<String, BTreeSet<i64>> = BTreeMap::new();
    let mut summarised = 0;
    let (mut told, mut numbers) = (BTreeMap::<(String, i64), u64>::new(), BTreeMap::<i64, u64>::new());
    for batch in received {
        *numbers.entry(batch.key.lane as i64).or_default() += batch.key.count();
        for item in serde_json::from_slice::<Vec<Value>>(&[b"[", &batch.items[..], b"]"].concat()).unwrap() {
            *seen.entry(batch.key.lane.name()).or_default() += 1;
            let metadata = &item["metadata"];
            if item["rule_name"] == store::GAP_RULE {
                let key =
                    (metadata["reason"].as_str().unwrap().to_owned(), metadata["lane"].as_i64().unwrap());
                *told.entry(key).or_default() += metadata["count"].as_u64().unwrap();
            } else if let Some(sensor) = item["sensor_name"].as_str() {
                summarised += metadata["count"].as_u64().unwrap_or(1);
                let from = metadata["from"].as_f64().or(item["timestamp"].as_f64()).unwrap();
                hours.entry(sensor.to_owned()).or_default().insert((from / 3600.0).floor() as i64);
            }
        }
    }
    println!("received {seen:?}, standing for {summarised} readings; told {told:?}");
    assert_eq!(seen["CRITICAL"], critical);
    assert_eq!(hours.len(), outage.sensors as usize, "a sensor is wholly lost");
    let produced = u64::from(outage.sensors) * outage.seconds / POLL_SECONDS;
    assert!(
        counters.gaps().any(|(reason, count)| reason == "thinned" && count > 0),
        "nothing had to be thinned"
    );
    let dropped: u64 = counters.dropped.iter().map(|dropped| dropped.load(Relaxed)).sum();
    if dropped == 0 {
        assert_eq!(summarised, produced, "every reading is there or in a summary");
        let hour_count = outage.seconds as usize / 3600;
        assert!(hours.values().all(|hours| hours.len() >= hour_count), "an hour of a sensor is lost");
    }
    // Everything that was produced in telemetry was delivered or told.
    let told_of =
        |lane: i64| told.iter().filter(|((_, of), _)| *of == lane).map(|(_, count)| count).sum::<u64>();
    assert_eq!(numbers.get(&3).copied().unwrap_or(0) + told_of(3), produced);
    assert_eq!(told.values().sum::<u64>(), counters.gaps().map(|(_, count)| count).sum::<u64>());
}

/// Bytes of the database and its write-ahead log.
fn on_disk(folder: &Path) -> u64 {
    let length = |name: String| std::fs::metadata(folder.join(name)).map_or(0, |file| file.len());
    length(DATABASE_FILE.to_owned()) + length(format!("{DATABASE_FILE}-wal"))
}
