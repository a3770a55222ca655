//! Which batch the store gives out next: live data first, and nothing that is told to wait.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pyvorin_edge::lifecycle::watchdog::Progress;
use pyvorin_edge::store::{self, Budget, FrozenBatch, Lane, Outcome, Settings, Staged, Store, Ttl, Want};
use tempfile::TempDir;
use tokio::sync::oneshot;

struct Opened {
    store: Store,
    end: oneshot::Receiver<Result<(), store::Error>>,
}

impl Opened {
    fn at(dir: &Path) -> Self {
        let settings = Settings {
            state_dir: dir.to_owned(),
            size_bytes_max: 1 << 30,
            quarantine_bytes_max: 1 << 30,
            commit_interval: Duration::from_secs(1),
            budget: Budget::default(),
            ttl: Ttl::default(),
        };
        let (store, end) = store::open(settings, Arc::new(Progress::default())).unwrap();
        Self { store, end }
    }

    /// With ten batches of what an earlier run left.
    async fn with_backlog(folder: &TempDir, lane: Lane) -> Self {
        let before = Self::at(folder.path());
        before.append(lane, 0..100).await;
        before.close().await;
        Self::at(folder.path())
    }

    async fn append(&self, lane: Lane, values: std::ops::Range<u32>) {
        let mut staged = Staged::default();
        for value in values {
            staged.push(lane, 1.0, |out| out.extend_from_slice(value.to_string().as_bytes()));
        }
        self.store.append(staged).await.unwrap();
    }

    async fn next(&self, want: Want) -> Option<FrozenBatch> {
        self.store.next_batch(want).await.unwrap()
    }

    async fn close(self) {
        drop(self.store);
        self.end.await.unwrap().unwrap();
    }
}

/// The value of the first item.
fn first(batch: Option<&FrozenBatch>) -> &str {
    batch.map_or("nothing", |batch| std::str::from_utf8(&batch.items).unwrap().split(',').next().unwrap())
}

#[tokio::test]
async fn a_frozen_batch_of_backlog_does_not_stand_before_live_data_of_its_lane() {
    let folder = TempDir::new().unwrap();
    let opened = Opened::with_backlog(&folder, Lane::Telemetry).await;
    let refused = opened.next(WANT).await;
    assert_eq!((first(refused.as_ref()), refused.as_ref().unwrap().backlog), ("0", true));
    opened.append(Lane::Telemetry, 200..210).await;
    let live = opened.next(WANT).await;
    assert_eq!((first(live.as_ref()), live.as_ref().unwrap().backlog), ("200", false));
    opened.store.settle(live.unwrap().key, Outcome::Delivered).await.unwrap();
    assert_eq!(opened.next(WANT).await, refused);
    // And so it is after the next restart.
    opened.close().await;
    let opened = Opened::at(folder.path());
    opened.append(Lane::Telemetry, 300..310).await;
    assert_eq!(first(opened.next(WANT).await.as_ref()), "300");
    opened.close().await;
}

#[tokio::test]
async fn the_halves_of_a_batch_of_backlog_are_backlog() {
    let folder = TempDir::new().unwrap();
    let opened = Opened::with_backlog(&folder, Lane::Telemetry).await;
    let whole = opened.next(WANT).await.unwrap();
    opened.store.settle(whole.key, Outcome::Split).await.unwrap();
    assert_eq!(opened.next(Want { live_only: true, ..WANT }).await, None);
    let half = opened.next(WANT).await.unwrap();
    assert_eq!((half.key.count(), half.backlog), (5, true));
    opened.close().await;
}

#[tokio::test]
async fn live_data_of_every_lane_goes_before_the_backlog_of_any() {
    let folder = TempDir::new().unwrap();
    let opened = Opened::with_backlog(&folder, Lane::Critical).await;
    assert_eq!(first(opened.next(WANT).await.as_ref()), "0");
    opened.append(Lane::Logs, 200..210).await;
    assert_eq!(first(opened.next(WANT).await.as_ref()), "200");
    opened.close().await;
}

#[tokio::test]
async fn backlog_waits_while_live_data_alone_is_wanted() {
    let folder = TempDir::new().unwrap();
    let opened = Opened::with_backlog(&folder, Lane::Telemetry).await;
    let live_only = Want { live_only: true, ..WANT };
    assert_eq!(opened.next(live_only).await, None);
    opened.append(Lane::Telemetry, 200..210).await;
    assert_eq!(first(opened.next(live_only).await.as_ref()), "200");
    opened.close().await;
}

#[tokio::test]
async fn a_batch_that_steps_back_keeps_its_id_and_lets_others_pass() {
    let folder = TempDir::new().unwrap();
    let opened = Opened::at(folder.path());
    opened.append(Lane::Telemetry, 0..20).await;
    let poison = opened.next(WANT).await;
    let mut want = WANT;
    want.avoid[0] = Some(poison.as_ref().unwrap().key);
    let other = opened.next(want).await;
    assert_eq!(first(other.as_ref()), "10");
    opened.store.settle(other.unwrap().key, Outcome::Delivered).await.unwrap();
    assert_eq!(opened.next(want).await, None);
    assert_eq!(opened.next(WANT).await, poison);
    opened.close().await;
}

#[tokio::test]
async fn a_held_lane_stays_here_and_no_other() {
    let folder = TempDir::new().unwrap();
    let opened = Opened::at(folder.path());
    opened.append(Lane::Telemetry, 0..10).await;
    opened.append(Lane::Logs, 50..60).await;
    let held = Want { held: [false, false, true, false], ..WANT };
    assert_eq!(first(opened.next(held).await.as_ref()), "50");
    assert_eq!(first(opened.next(WANT).await.as_ref()), "0");
    // Frozen or not.
    let held = Want { held: [false, false, true, true], ..WANT };
    assert_eq!(opened.next(held).await, None);
    opened.close().await;
}

const WANT: Want = Want::new(10, 1 << 20, true);
