//! A real life of a store, and copies of its files at a stop in order and at one that was not.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pyvorin_edge::store::{
    self, DATABASE_FILE, Error, FrozenBatch, Lane, Outcome, Settings, Staged, Store, Want,
};
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::harness::soon;

/// The database and what lies beside it.
#[derive(Clone, Default)]
pub struct Files {
    pub database: Option<Vec<u8>>,
    pub wal: Option<Vec<u8>>,
    pub shm: Option<Vec<u8>>,
}

impl Files {
    fn of(folder: &Path) -> Self {
        let read = |suffix: &str| std::fs::read(folder.join(format!("{DATABASE_FILE}{suffix}"))).ok();
        Self { database: read(""), wal: read("-wal"), shm: read("-shm") }
    }

    pub fn put(&self, folder: &Path) {
        for (suffix, bytes) in [("", &self.database), ("-wal", &self.wal), ("-shm", &self.shm)] {
            let Some(bytes) = bytes else { continue };
            std::io::Write::write_all(
                &mut std::fs::File::create(folder.join(format!("{DATABASE_FILE}{suffix}"))).unwrap(),
                bytes,
            )
            .unwrap();
        }
    }
}

/// What is true of a store at the moment its files were copied.
#[derive(Clone, Default)]
pub struct Truth {
    pub store_id: String,
    /// By lane: the items, of which the first has number 1.
    pub items: HashMap<Lane, Vec<String>>,
    /// Delivered or set aside.
    pub settled: HashMap<Lane, Vec<(u64, u64)>>,
    /// Every batch that was ever handed out.
    pub batches: HashMap<String, FrozenBatch>,
}

impl Truth {
    pub fn is_settled(&self, lane: Lane, number: u64) -> bool {
        self.settled.get(&lane).is_some_and(|spans| spans.iter().any(|(a, b)| (*a..=*b).contains(&number)))
    }
}

/// Copies of one life.
pub struct Life {
    /// While it ran.
    pub running: Arc<(Files, Truth)>,
    /// After a stop in order.
    pub stopped: Arc<(Files, Truth)>,
}

pub struct Opened {
    pub store: Store,
    pub end: oneshot::Receiver<Result<(), Error>>,
}

impl Opened {
    pub fn at(folder: &Path, size_bytes_max: u64) -> Result<Self, Error> {
        let settings = Settings {
            state_dir: folder.to_owned(),
            size_bytes_max,
            quarantine_bytes_max: 1 << 30,
            commit_interval: Duration::from_secs(1),
            budget: store::Budget::default(),
            ttl: store::Ttl::default(),
        };
        let (store, end) = store::open(settings, Arc::default())?;
        Ok(Self { store, end })
    }

    pub async fn close(self) -> Result<(), Error> {
        drop(self.store);
        soon("the store closes", self.end).await.unwrap()
    }
}

/// On a file system in memory where there is one: these tests are about bytes, not about disks.
pub fn folder() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}

impl Life {
    pub async fn live() -> Self {
        let folder = folder();
        let mut random = fastrand::Rng::with_seed(4711);
        let mut truth = Truth::default();
        // History that goes again leaves free pages.
        let opened = Opened::at(folder.path(), 300 * 1024).unwrap();
        truth.store_id = opened.store.id().to_owned();
        for round in 0..40 {
            append(&opened.store, &mut truth, &mut random, if round % 4 == 0 { 9000 } else { 500 }).await;
            deliver(&opened.store, &mut truth, 3, Lane::Telemetry).await;
        }
        while deliver(&opened.store, &mut truth, 50, Lane::Logs).await {}
        opened.close().await.unwrap();
        let opened = Opened::at(folder.path(), 1 << 30).unwrap();
        for round in 0..60 {
            append(&opened.store, &mut truth, &mut random, if round % 8 == 0 { 6000 } else { 300 }).await;
            if round % 3 == 0 {
                deliver(&opened.store, &mut truth, 7, Lane::Telemetry).await;
            }
        }
        // Batches that are under way.
        for lane in [Lane::Critical, Lane::Telemetry] {
            freeze(&opened.store, &mut truth, lane).await;
        }
        opened.store.ping().await.unwrap();
        let running = Arc::new((Files::of(folder.path()), truth.clone()));
        opened.close().await.unwrap();
        Self { running, stopped: Arc::new((Files::of(folder.path()), truth)) }
    }
}

const LANES: [Lane; 4] = [Lane::Critical, Lane::Telemetry, Lane::Logs, Lane::Local];
const WANT: Want = Want::new(20, 1 << 20, true);

async fn append(store: &Store, truth: &mut Truth, random: &mut fastrand::Rng, length: usize) {
    let mut staged = Staged::default();
    for lane in LANES {
        for _ in 0..random.u32(1..6) {
            let items = truth.items.entry(lane).or_default();
            let noise: String = (0..random.usize(1..length)).map(|_| random.alphanumeric()).collect();
            let item = format!("{}-{} {noise}", lane as u8, items.len() + 1);
            staged.push(lane, 1.0, |out| out.extend_from_slice(item.as_bytes()));
            items.push(item);
        }
    }
    let (sender, receipt) = oneshot::channel();
    staged.answer(sender, pyvorin_edge::reading::Committed { accepted: 1, refused: 0 });
    store.append(staged).await.unwrap();
    soon("the commit", receipt).await.unwrap();
}

/// Delivers up to `count` batches of lanes up to `lane`; false when there was none.
async fn deliver(store: &Store, truth: &mut Truth, count: usize, lane: Lane) -> bool {
    for done in 0..count {
        let Some(batch) = store.next_batch(WANT).await.unwrap() else { return done > 0 };
        truth.batches.insert(batch.batch_id.clone(), batch.clone());
        if batch.key.lane > lane {
            return done > 0;
        }
        let outcome = match batch.key.first % 7 {
            0 => Outcome::DeadLetter { reason: "no".to_owned() },
            _ => Outcome::Delivered,
        };
        store.settle(batch.key, outcome).await.unwrap();
        truth.settled.entry(batch.key.lane).or_default().push((batch.key.first, batch.key.last));
    }
    true
}

/// Freezes a batch of `lane`, for which more urgent ones are delivered.
async fn freeze(store: &Store, truth: &mut Truth, lane: Lane) {
    while let Some(batch) = store.next_batch(WANT).await.unwrap() {
        truth.batches.insert(batch.batch_id.clone(), batch.clone());
        if batch.key.lane == lane {
            return;
        }
        store.settle(batch.key, Outcome::Delivered).await.unwrap();
        truth.settled.entry(batch.key.lane).or_default().push((batch.key.first, batch.key.last));
    }
}
