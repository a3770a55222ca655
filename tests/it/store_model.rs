//! The store against a model: random histories of what sources and uploader do, restarts included,
//! after which every item must be accounted for and every batch id must stand for one content.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use pyvorin_edge::lifecycle::watchdog::Progress;
use pyvorin_edge::reading::Committed;
use pyvorin_edge::store::{
    self, BatchKey, Budget, DATABASE_FILE, Error, FrozenBatch, Lane, Outcome, Settings, Staged, Store, Ttl,
    Want,
};
use rusqlite::OpenFlags;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::harness::soon;

/// Where an item is, as far as the outside knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Pending,
    Delivered,
    SetAside,
    /// Never to be delivered.
    Local,
}

struct Opened {
    store: Store,
    end: oneshot::Receiver<Result<(), Error>>,
}

impl Opened {
    fn at(folder: &Path, size_bytes_max: u64) -> Self {
        let state_dir = folder.to_owned();
        let settings = Settings {
            state_dir,
            size_bytes_max,
            quarantine_bytes_max: 1 << 30,
            commit_interval: Duration::from_secs(1),
            budget: Budget::default(),
            ttl: Ttl::default(),
        };
        let (store, end) = store::open(settings, Arc::new(Progress::default())).unwrap();
        Self { store, end }
    }
}

/// One history: the store, and what must be true of it.
struct History {
    random: fastrand::Rng,
    folder: TempDir,
    size_bytes_max: u64,
    store_id: String,
    opened: Option<Opened>,
    /// By number of the item, which is its text too.
    places: Vec<Place>,
    /// Which sequence number of which lane each item was seen at.
    seen_at: HashMap<(Lane, u64), usize>,
    contents: HashMap<String, FrozenBatch>,
    /// Frozen and not settled, the latest answer last.
    under_way: Vec<FrozenBatch>,
    /// Retention's, summed over restarts, which start its counters anew.
    dropped: u64,
    local_dropped: bool,
}

impl History {
    fn new(seed: u64, size_bytes_max: u64) -> Self {
        let folder = TempDir::new().unwrap();
        let opened = Opened::at(folder.path(), size_bytes_max);
        Self {
            random: fastrand::Rng::with_seed(seed),
            folder,
            size_bytes_max,
            store_id: opened.store.id().to_owned(),
            opened: Some(opened),
            places: Vec::new(),
            seen_at: HashMap::new(),
            contents: HashMap::new(),
            under_way: Vec::new(),
            dropped: 0,
            local_dropped: false,
        }
    }

    fn store(&self) -> &Store {
        &self.opened.as_ref().unwrap().store
    }

    async fn step(&mut self) {
        match self.random.u32(..100) {
            0..40 => self.append().await,
            40..65 => self.next_batch().await,
            65..92 => self.settle().await,
            92..95 => self.settle_what_is_not_there().await,
            _ => self.reopen().await,
        }
    }

    async fn append(&mut self) {
        let mut staged = Staged::default();
        let padding = if self.size_bytes_max < GENEROUS { 300 } else { 3 };
        for _ in 0..self.random.u32(1..40) {
            let lane = Lane::ALL[self.random.usize(..Lane::ALL.len())];
            let number = self.places.len();
            self.places.push(if lane == Lane::Local { Place::Local } else { Place::Pending });
            let length = self.random.usize(..=padding);
            let noise: String = (0..length).map(|_| self.random.alphanumeric()).collect();
            staged.push(lane, 1.0, |out| out.extend_from_slice(format!("{number} {noise}").as_bytes()));
        }
        let (sender, receipt) = oneshot::channel();
        let committed = Committed { accepted: staged.items(), refused: 0 };
        staged.answer(sender, committed);
        self.store().append(staged).await.unwrap();
        if self.random.bool() {
            assert_eq!(soon("the commit", receipt).await.unwrap(), committed);
        }
    }

    async fn next_batch(&mut self) {
        let bytes_max = if self.random.bool() { 1 << 20 } else { self.random.u32(1..400) };
        let mut want = Want::new(self.random.u32(1..=30), bytes_max, self.random.u32(..4) > 0);
        want.live_only = self.random.u32(..4) == 0;
        want.held = std::array::from_fn(|_| self.random.u32(..8) == 0);
        for (place, batch) in want.avoid.iter_mut().zip(&self.under_way) {
            *place = self.random.bool().then_some(batch.key);
        }
        let Some(batch) = self.store().next_batch(want).await.unwrap() else { return };
        assert!(!want.held[batch.key.lane.priority_index()] && !want.avoid.contains(&Some(batch.key)));
        assert!(!(want.live_only && batch.backlog));
        self.check(&batch);
        if !self.under_way.contains(&batch) {
            self.under_way.push(batch);
        }
    }

    fn check(&mut self, batch: &FrozenBatch) {
        let BatchKey { lane, first, last } = batch.key;
        let micros = (batch.timestamp * 1e6) as u64;
        assert_eq!(batch.batch_id, format!("pyv-{}-{}-{first}-{last}-{micros:x}", self.store_id, lane as u8));
        let known = self.contents.entry(batch.batch_id.clone()).or_insert_with(|| batch.clone());
        assert_eq!(known, batch, "an id stands for two contents");
        let numbers = numbers(batch);
        assert_eq!(numbers.len() as u64, batch.key.count());
        for (sequence, number) in (first..=last).zip(numbers) {
            assert_eq!(self.places[number], Place::Pending, "item {number} comes again in {batch:?}");
            let known = *self.seen_at.entry((lane, sequence)).or_insert(number);
            assert_eq!(known, number, "sequence number {sequence} of {lane:?} was used twice");
        }
    }

    async fn settle(&mut self) {
        if self.under_way.is_empty() {
            return;
        }
        let batch = self.under_way.swap_remove(self.random.usize(..self.under_way.len()));
        let place = match self.random.u32(..10) {
            0..6 => Place::Delivered,
            6..8 => Place::SetAside,
            _ => Place::Pending,
        };
        let outcome = match place {
            Place::Delivered => Outcome::Delivered,
            Place::SetAside => Outcome::DeadLetter { reason: "400".to_owned() },
            _ if batch.key.count() > 1 => Outcome::Split,
            _ => return self.under_way.push(batch),
        };
        self.store().settle(batch.key, outcome).await.unwrap();
        for number in numbers(&batch) {
            self.places[number] = place;
        }
    }

    /// An outcome that comes twice, or for a batch that never was, changes nothing.
    async fn settle_what_is_not_there(&mut self) {
        let known = self.contents.values().map(|batch| batch.key);
        let mut keys: Vec<_> =
            known.filter(|key| self.under_way.iter().all(|batch| batch.key != *key)).collect();
        keys.sort_by_key(|key| (key.lane, key.first, key.last));
        let Some(key) = self.random.choice(keys) else { return };
        for outcome in
            [Outcome::Split, Outcome::DeadLetter { reason: "twice".to_owned() }, Outcome::Delivered]
        {
            self.store().settle(key, outcome).await.unwrap();
        }
    }

    async fn reopen(&mut self) {
        self.close().await;
        let opened = Opened::at(self.folder.path(), self.size_bytes_max);
        assert_eq!(opened.store.id(), self.store_id);
        self.opened = Some(opened);
    }

    async fn close(&mut self) {
        let Opened { store, end } = self.opened.take().unwrap();
        let counters = store.counters().clone();
        drop(store);
        soon("the store closes", end).await.unwrap().unwrap();
        self.dropped += counters.dropped.iter().map(|dropped| dropped.load(Relaxed)).sum::<u64>();
        self.local_dropped |= self.size_bytes_max < GENEROUS;
    }

    /// Delivers the rest, and accounts for every item.
    async fn finish(mut self) -> BTreeMap<&'static str, usize> {
        let want = Want::new(50, 1 << 20, true);
        while let Some(batch) = self.store().next_batch(want).await.unwrap() {
            self.check(&batch);
            self.store().settle(batch.key, Outcome::Delivered).await.unwrap();
            for number in numbers(&batch) {
                self.places[number] = Place::Delivered;
            }
        }
        self.store().ping().await.unwrap();
        assert_eq!(self.store().counters().pending().total(), 0);
        self.close().await;
        let count = |place| self.places.iter().filter(|at| **at == place).count();
        // What is neither delivered nor set aside was counted when it was dropped.
        assert_eq!(count(Place::Pending) as u64, self.dropped);
        let db = rusqlite::Connection::open_with_flags(
            self.folder.path().join(DATABASE_FILE),
            OpenFlags::SQLITE_OPEN_READ_ONLY,
        )
        .unwrap();
        let mut select = db.prepare("SELECT item FROM dead_letter ORDER BY id").unwrap();
        let set_aside = select.query_map([], |row| row.get::<_, Vec<u8>>(0)).unwrap();
        let mut set_aside: Vec<_> = set_aside.map(|item| number(&item.unwrap())).collect();
        set_aside.sort_unstable();
        let expected = (0..self.places.len()).filter(|number| self.places[*number] == Place::SetAside);
        assert_eq!(set_aside, expected.collect::<Vec<_>>());
        let local: Option<i64> =
            db.query_row("SELECT sum(count) FROM block_local", [], |row| row.get(0)).unwrap();
        if !self.local_dropped {
            assert_eq!(local.unwrap_or(0) as usize, count(Place::Local));
        }
        BTreeMap::from([
            ("delivered", count(Place::Delivered)),
            ("set aside", set_aside.len()),
            ("dropped", count(Place::Pending)),
            ("batch ids", self.contents.len()),
        ])
    }
}

/// The numbers of the items in `batch`.
fn numbers(batch: &FrozenBatch) -> Vec<usize> {
    batch.items.split(|byte| *byte == b',').map(number).collect()
}

fn number(item: &[u8]) -> usize {
    std::str::from_utf8(item).unwrap().split(' ').next().unwrap().parse().unwrap()
}

async fn histories(seeds: Range<u64>, size_bytes_max: u64) -> BTreeMap<&'static str, usize> {
    let mut totals = BTreeMap::new();
    let count = seeds.end - seeds.start;
    // Most of the time goes by waiting for the disk, so several wait at once.
    let mut under_way = JoinSet::new();
    for seed in seeds {
        if under_way.len() == AT_ONCE {
            add(&mut totals, under_way.join_next().await.unwrap().unwrap());
        }
        under_way.spawn(async move {
            println!("history of seed {seed}, at most {size_bytes_max} bytes");
            let mut history = History::new(seed, size_bytes_max);
            for _ in 0..STEPS {
                history.step().await;
            }
            history.finish().await
        });
    }
    while let Some(counts) = under_way.join_next().await {
        add(&mut totals, counts.unwrap());
    }
    println!("{count} histories: {totals:?}");
    totals
}

fn add(totals: &mut BTreeMap<&'static str, usize>, counts: BTreeMap<&'static str, usize>) {
    for (name, value) in counts {
        *totals.entry(name).or_default() += value;
    }
}

#[tokio::test]
async fn every_item_is_delivered_once_or_set_aside() {
    histories(0..200, GENEROUS).await;
}

#[tokio::test]
async fn every_item_is_delivered_once_or_set_aside_or_counted_as_dropped() {
    let totals = histories(1000..1120, 192 * 1024).await;
    assert!(totals["dropped"] > 0, "retention had nothing to do");
}

const STEPS: usize = 40;
const AT_ONCE: usize = 8;
/// Retention never runs.
const GENEROUS: u64 = 1 << 30;
