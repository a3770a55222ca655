//! Provisional times in a real database: held, put right, and left alone where a batch is frozen.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::oneshot;

use super::*;
use crate::clock;
use crate::clock::mark::Mark;
use crate::lifecycle::watchdog::Progress;
use crate::reading::Committed;
use crate::store::tests::settings;
use crate::store::{FrozenBatch, Outcome, Staged, Store, Want, open};

const RIGHT: f64 = 1_800_000_000.0;

struct Opened {
    store: Store,
    end: oneshot::Receiver<Result<(), Error>>,
}

impl Opened {
    fn at(dir: &Path) -> Self {
        let (store, end) = open(settings(dir, 1 << 30), Arc::new(Progress::default())).unwrap();
        Self { store, end }
    }

    /// Stores a provisional item for each of `boot_times`, in one block.
    async fn stamp(&self, lane: Lane, boot_times: impl IntoIterator<Item = u32>) {
        let mut staged = Staged::default();
        let boot = clock::boot_id();
        for boot_time in boot_times {
            let boot_time = f64::from(boot_time);
            staged.push(lane, boot_time, |out| {
                out.extend_from_slice(format!("{{\"timestamp\":{boot_time:?},\"metadata\":").as_bytes());
                mark::append(out, "{}", Some(Mark { boot: &boot, boot_time }));
                out.push(b'}');
            });
            staged.note_provisional(lane);
        }
        let (sender, receipt) = oneshot::channel();
        staged.answer(sender, Committed::default());
        self.store.append(staged).await.unwrap();
        receipt.await.unwrap();
    }

    async fn tell(&self, is_synchronised: bool, offset: f64, wait_until: Duration) {
        let mut staged = Staged::default();
        staged.tell(ClockNews { is_synchronised, offset, wait_until });
        self.store.append(staged).await.unwrap();
        self.store.ping().await.unwrap();
    }

    async fn next(&self, items_max: u32) -> Option<FrozenBatch> {
        self.store.next_batch(Want::new(items_max, 1 << 20, true)).await.unwrap()
    }

    async fn delivered(&self, batch: &FrozenBatch) {
        self.store.settle(batch.key, Outcome::Delivered).await.unwrap();
    }

    /// Waits until nothing is provisional; the store does it while nobody asks for anything.
    async fn is_put_right(&self) {
        let counters = self.store.counters();
        let done = async {
            while counters.provisional.load(Relaxed) > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), done).await.expect("it is put right");
    }

    async fn close(self) {
        drop(self.store);
        self.end.await.unwrap().unwrap();
    }
}

fn times(batch: &FrozenBatch) -> Vec<f64> {
    let text = std::str::from_utf8(&batch.items).unwrap();
    let items: Vec<Value> = serde_json::from_str(&format!("[{text}]")).unwrap();
    items.iter().map(|item| item["timestamp"].as_f64().unwrap()).collect()
}

#[tokio::test]
async fn a_lane_with_provisional_times_waits_until_they_are_right_and_no_longer() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Opened::at(dir.path());
    opened.stamp(Lane::Telemetry, 1..4).await;
    assert_eq!(opened.next(10).await, None, "nobody said how the clock stands");
    opened.tell(false, 0.0, Duration::MAX).await;
    assert_eq!(opened.next(10).await, None);
    opened.stamp(Lane::Critical, 1..2).await;
    let alarm = opened.next(10).await.unwrap();
    assert_eq!((alarm.key.lane, times(&alarm)), (Lane::Critical, vec![1.0]));
    opened.delivered(&alarm).await;
    opened.tell(true, RIGHT, Duration::ZERO).await;
    let batch = opened.next(10).await.unwrap();
    assert_eq!(times(&batch), [RIGHT + 1.0, RIGHT + 2.0, RIGHT + 3.0]);
    opened.close().await;

    let dir = tempfile::tempdir().unwrap();
    let opened = Opened::at(dir.path());
    opened.stamp(Lane::Telemetry, 1..4).await;
    opened.tell(false, 0.0, Duration::ZERO).await;
    assert_eq!(times(&opened.next(10).await.unwrap()), [1.0, 2.0, 3.0]);
    opened.close().await;
}

#[tokio::test]
async fn a_frozen_batch_stays_and_its_block_is_put_right_once_it_is_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Opened::at(dir.path());
    opened.tell(false, 0.0, Duration::ZERO).await;
    opened.stamp(Lane::Telemetry, 1..7).await;
    opened.stamp(Lane::Telemetry, 7..9).await;
    let frozen = opened.next(4).await.unwrap();
    opened.tell(true, RIGHT, Duration::ZERO).await;
    assert_eq!(opened.next(4).await.unwrap(), frozen);
    let first_life = opened.store.counters().clone();
    opened.close().await;

    // The ranges are found again after a restart.
    let opened = Opened::at(dir.path());
    assert_eq!(opened.store.clock_offset(), Some(RIGHT));
    opened.tell(true, RIGHT, Duration::ZERO).await;
    assert_eq!(opened.next(4).await.unwrap(), frozen);
    opened.delivered(&frozen).await;
    let rest = opened.next(4).await.unwrap();
    assert_eq!(times(&rest), [5.0, 6.0, 7.0, 8.0].map(|time| RIGHT + time));
    opened.delivered(&rest).await;
    opened.tell(true, RIGHT, Duration::ZERO).await;
    opened.is_put_right().await;
    // The block behind the batch may be put right before the restart.
    let corrected = [&first_life, opened.store.counters()].map(|counters| counters.corrected.load(Relaxed));
    assert_eq!(corrected.iter().sum::<u64>(), 8, "{corrected:?}");
    opened.close().await;
}

#[tokio::test]
async fn every_block_is_put_right_in_small_commits_and_nothing_is_done_twice() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Opened::at(dir.path());
    for block in 0..40 {
        opened.stamp(Lane::Local, block * 1000..(block + 1) * 1000).await;
    }
    let commits = opened.store.counters().commits.load(Relaxed);
    opened.tell(true, RIGHT, Duration::ZERO).await;
    opened.is_put_right().await;
    let counters = opened.store.counters();
    assert_eq!(counters.corrected.load(Relaxed), 40_000);
    assert!(counters.commits.load(Relaxed) - commits >= 3);
    // A second spell in the same boot.
    opened.tell(false, RIGHT, Duration::ZERO).await;
    opened.stamp(Lane::Local, 0..10).await;
    opened.tell(true, RIGHT + 1.0, Duration::ZERO).await;
    opened.is_put_right().await;
    assert_eq!(counters.corrected.load(Relaxed), 40_010);
    opened.close().await;
}
