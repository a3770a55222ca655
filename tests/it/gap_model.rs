//! Every number is accounted for: over generated histories of what sources, uploader, clocks and restarts
//! do, produced = delivered + queued + declared gaps, as exact sets of numbers, lane by lane.
//!
//! The suite runs [`HISTORIES`] of them; `PYVORIN_HISTORIES=10000 cargo nextest run gap_model` runs more.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use pyvorin_edge::lifecycle::watchdog::Progress;
use pyvorin_edge::reading::Refusal;
use pyvorin_edge::store::{
    self, Budget, DATABASE_FILE, Error, FrozenBatch, GAP_RULE, Lane, Outcome, Settings, Staged, Store, Ttl,
    Want,
};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::harness::clocks::Moved;
use crate::harness::soon;

type Numbers = BTreeSet<u64>;

/// One history: the store, and what must be true of it.
struct History {
    random: fastrand::Rng,
    folder: TempDir,
    settings: Settings,
    clocks: Arc<Moved>,
    opened: Option<(Store, oneshot::Receiver<Result<(), Error>>)>,
    /// Items are this large, so that a small store fills.
    padding: usize,
    now: f64,
    delivered: BTreeMap<u8, Numbers>,
    set_aside: BTreeMap<u8, Numbers>,
    /// Spans that were delivered as reports, by reason and lane.
    told: BTreeMap<(String, i64), Numbers>,
    refused: u64,
    under_way: Vec<FrozenBatch>,
}

impl History {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let folder = TempDir::new_in(fast_folder()).unwrap();
        let is_small = random.u32(..3) == 0;
        let mut by_priority = [None; 4];
        if random.bool() {
            by_priority =
                std::array::from_fn(|_| random.bool().then(|| Duration::from_secs(random.u64(60..2000))));
        }
        let settings = Settings {
            state_dir: folder.path().to_owned(),
            size_bytes_max: if is_small { random.u64(160..320) * 1024 } else { 1 << 30 },
            quarantine_bytes_max: 1 << 30,
            commit_interval: Duration::from_secs(1),
            budget: Budget { history_bytes_max: is_small.then_some(64 * 1024), ..Budget::default() },
            ttl: Ttl { by_priority },
        };
        let now = 1_800_000_000.0;
        let mut history = Self {
            random,
            folder,
            settings,
            clocks: Arc::new(Moved::at(now)),
            opened: None,
            padding: if is_small { 700 } else { 4 },
            now,
            delivered: BTreeMap::new(),
            set_aside: BTreeMap::new(),
            told: BTreeMap::new(),
            refused: 0,
            under_way: Vec::new(),
        };
        history.open();
        history
    }

    fn open(&mut self) {
        let progress = Arc::new(Progress::default());
        let opened = store::open_with(self.settings.clone(), progress, self.clocks.clone()).unwrap();
        opened.0.report_gaps(true);
        self.opened = Some(opened);
    }

    fn store(&self) -> &Store {
        &self.opened.as_ref().unwrap().0
    }

    async fn step(&mut self) {
        match self.random.u32(..100) {
            0..35 => self.append().await,
            35..55 => self.next_batch().await,
            55..75 => self.settle().await,
            75..92 => self.pass().await,
            92..95 => self.refuse().await,
            _ => {
                self.close().await;
                self.open();
            }
        }
    }

    async fn append(&mut self) {
        let mut staged = Staged::default();
        for _ in 0..self.random.u32(1..30) {
            let lane = match self.random.u32(..10) {
                0 => Lane::Critical,
                1 => Lane::Logs,
                2 => Lane::Local,
                _ => Lane::Telemetry,
            };
            self.now += self.random.f64() * 20.0;
            let (sensor, value) = (self.random.u32(..5), self.random.u32(..100));
            let padding: String =
                (0..self.random.usize(..=self.padding)).map(|_| self.random.alphanumeric()).collect();
            let timestamp = self.now;
            let item = if self.random.u32(..20) == 0 {
                format!(
                    r#"{{"rule_name":"r","timestamp":{timestamp},"severity":"info","message":"{padding}","sensor_readings":[],"metadata":{{}}}}"#
                )
            } else {
                format!(
                    r#"{{"sensor_name":"s{sensor}","timestamp":{timestamp},"value":{value},"unit":"C","metadata":{{"note":"{padding}"}}}}"#
                )
            };
            staged.push(lane, timestamp, |out| out.extend_from_slice(item.as_bytes()));
        }
        self.store().append(staged).await.unwrap();
    }

    async fn next_batch(&mut self) {
        let want = Want::new(self.random.u32(1..=30), 1 << 20, self.random.u32(..4) > 0);
        let Some(batch) = self.store().next_batch(want).await.unwrap() else { return };
        assert_eq!(items(&batch).len() as u64, batch.key.count());
        if !self.under_way.contains(&batch) {
            self.under_way.push(batch);
        }
    }

    async fn settle(&mut self) {
        if self.under_way.is_empty() {
            return;
        }
        let batch = self.under_way.swap_remove(self.random.usize(..self.under_way.len()));
        match self.random.u32(..10) {
            0..6 => self.deliver(batch).await,
            6..8 => {
                let outcome = Outcome::DeadLetter { reason: "400".to_owned() };
                self.store().settle(batch.key, outcome).await.unwrap();
                let set_aside = self.set_aside.entry(batch.key.lane as u8).or_default();
                set_aside.extend(batch.key.first..=batch.key.last);
            }
            _ if batch.key.count() > 1 => {
                self.store().settle(batch.key, Outcome::Split).await.unwrap();
            }
            _ => self.under_way.push(batch),
        }
    }

    async fn deliver(&mut self, batch: FrozenBatch) {
        self.store().settle(batch.key, Outcome::Delivered).await.unwrap();
        let delivered = self.delivered.entry(batch.key.lane as u8).or_default();
        for number in batch.key.first..=batch.key.last {
            assert!(delivered.insert(number), "{number} of {:?} was delivered twice", batch.key.lane);
        }
        for item in items(&batch).into_iter().filter(|item| item["rule_name"] == GAP_RULE) {
            let told = &item["metadata"];
            let Some(lane) = told["lane"].as_i64() else { continue };
            let key = (told["reason"].as_str().unwrap().to_owned(), lane);
            let known = self.told.entry(key).or_default();
            for span in told["spans"].as_array().unwrap() {
                for number in span[0].as_u64().unwrap()..=span[1].as_u64().unwrap() {
                    assert!(known.insert(number), "{number} was told twice: {item}");
                }
            }
        }
    }

    /// Time passes; the wall clock may jump by years.
    async fn pass(&mut self) {
        if self.random.u32(..4) == 0 {
            self.clocks.jump((self.random.f64() - 0.5) * 20.0 * 31_557_600.0);
        }
        self.clocks.pass(Duration::from_secs(self.random.u64(..400)));
        self.store().ping().await.unwrap();
    }

    async fn refuse(&mut self) {
        let mut staged = Staged::default();
        for _ in 0..self.random.u64(1..5) {
            staged.refuse(*self.random.choice(&Refusal::ALL).unwrap(), "s1", self.now);
            self.refused += 1;
        }
        self.store().append(staged).await.unwrap();
    }

    /// Closes the store, and accounts for every number that it ever gave out.
    async fn close(&mut self) {
        let (store, end) = self.opened.take().unwrap();
        drop(store);
        soon("the store closes", end).await.unwrap().unwrap();
        let ledger = Ledger::read(self.folder.path());
        for lane in Lane::DELIVERED {
            let lane = lane as u8;
            let nothing = Numbers::new();
            let delivered = self.delivered.get(&lane).unwrap_or(&nothing);
            let queued = &ledger.queued[&lane];
            let mut gaps = Numbers::new();
            for ((reason, of_lane), numbers) in &ledger.gaps {
                if *of_lane != i64::from(lane) {
                    continue;
                }
                for number in numbers {
                    assert!(gaps.insert(*number), "{number} of lane {lane} is in two gaps, one of {reason}");
                }
            }
            let set_aside = self.set_aside.get(&lane).unwrap_or(&nothing);
            let declared = ledger.gaps.get(&("dead_letter".to_owned(), i64::from(lane))).unwrap_or(&nothing);
            assert_eq!(declared, set_aside, "set aside in lane {lane}");
            let mut all = Numbers::new();
            for (what, numbers) in [("delivered", delivered), ("queued", queued), ("declared", &gaps)] {
                for number in numbers {
                    assert!(all.insert(*number), "{number} of lane {lane} is {what} and something else too");
                }
            }
            assert_eq!(all, (1..ledger.next[&lane]).collect(), "produced in lane {lane}");
        }
        for (key, told) in &self.told {
            assert!(told.is_subset(&ledger.gaps[key]), "told and not in the ledger: {key:?}");
        }
        assert_eq!(ledger.refused, self.refused);
    }

    async fn finish(mut self) -> BTreeMap<String, u64> {
        let mut rounds = 0;
        while let Some(batch) = self.store().next_batch(Want::new(50, 1 << 20, true)).await.unwrap() {
            self.deliver(batch).await;
            rounds += 1;
            assert!(rounds < 10_000, "gaps make gaps without end");
        }
        self.close().await;
        let mut totals: BTreeMap<String, u64> = BTreeMap::new();
        for ((reason, _), numbers) in Ledger::read(self.folder.path()).gaps {
            *totals.entry(reason).or_default() += numbers.len() as u64;
        }
        totals.insert(
            "delivered".to_owned(),
            self.delivered.values().map(|numbers| numbers.len() as u64).sum(),
        );
        totals.insert("told".to_owned(), self.told.values().map(|numbers| numbers.len() as u64).sum());
        totals
    }
}

/// What the database says when nobody uses it.
struct Ledger {
    gaps: BTreeMap<(String, i64), Numbers>,
    queued: BTreeMap<u8, Numbers>,
    next: BTreeMap<u8, u64>,
    refused: u64,
}

impl Ledger {
    fn read(folder: &Path) -> Self {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let db = Connection::open_with_flags(folder.join(DATABASE_FILE), flags).unwrap();
        let mut ledger =
            Self { gaps: BTreeMap::new(), queued: BTreeMap::new(), next: BTreeMap::new(), refused: 0 };
        for lane in Lane::DELIVERED {
            let table = format!("block_{}", lane.name().to_lowercase());
            let stored = format!("SELECT coalesce(max(first + count), 1) FROM {table}");
            let stored: i64 = db.query_row(&stored, [], |row| row.get(0)).unwrap();
            let noted = "SELECT coalesce(max(next_sequence), 1) FROM lane WHERE lane = ?1";
            let noted: i64 = db.query_row(noted, [lane as i64], |row| row.get(0)).unwrap();
            ledger.next.insert(lane as u8, stored.max(noted).unsigned_abs());
            ledger.queued.insert(lane as u8, Numbers::new());
        }
        let mut pending = db.prepare("SELECT lane, first, last FROM pending").unwrap();
        let mut rows = pending.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let lane: u8 = row.get(0).unwrap();
            let first = row.get::<_, i64>(1).unwrap().unsigned_abs();
            let end = row
                .get::<_, Option<i64>>(2)
                .unwrap()
                .map_or(ledger.next[&lane], |last| last.unsigned_abs() + 1);
            for number in first..end {
                assert!(ledger.queued.get_mut(&lane).unwrap().insert(number), "{number} is queued twice");
            }
        }
        let mut gaps = db.prepare("SELECT reason, lane, first, last, count FROM gap").unwrap();
        let mut rows = gaps.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            let count = row.get::<_, i64>(4).unwrap().unsigned_abs();
            let Some(lane) = row.get::<_, Option<i64>>(1).unwrap() else {
                ledger.refused += count;
                continue;
            };
            let span =
                row.get::<_, i64>(2).unwrap().unsigned_abs()..=row.get::<_, i64>(3).unwrap().unsigned_abs();
            assert_eq!(span.clone().count() as u64, count);
            let numbers = ledger.gaps.entry((row.get(0).unwrap(), lane)).or_default();
            for number in span {
                assert!(numbers.insert(number), "{number} is in the ledger twice");
            }
        }
        ledger
    }
}

fn items(batch: &FrozenBatch) -> Vec<Value> {
    serde_json::from_slice(&[b"[", &batch.items[..], b"]"].concat()).unwrap()
}

/// Where a sync costs nothing: power is not cut here.
fn fast_folder() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

#[test]
fn every_number_is_delivered_or_queued_or_a_declared_gap() {
    let histories = std::env::var("PYVORIN_HISTORIES").map_or(HISTORIES, |count| count.parse().unwrap());
    let next = AtomicU64::new(0);
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let mut totals: BTreeMap<String, u64> = BTreeMap::new();
        loop {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= histories {
                return totals;
            }
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                runtime.block_on(async {
                    let mut history = History::new(seed);
                    for _ in 0..STEPS {
                        history.step().await;
                    }
                    history.finish().await
                })
            }));
            let Ok(found) = outcome else { panic!("the history of seed {seed} failed") };
            for (what, count) in found {
                *totals.entry(what).or_default() += count;
            }
        }
    };
    let totals = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(run)).collect();
        let mut totals: BTreeMap<String, u64> = BTreeMap::new();
        for thread in threads {
            for (what, count) in thread.join().unwrap() {
                *totals.entry(what).or_default() += count;
            }
        }
        totals
    });
    println!("{histories} histories: {totals:?}");
    for reason in ["retention", "dead_letter", "ttl", "thinned", "delivered", "told"] {
        assert!(totals.get(reason).is_some_and(|count| *count > 0), "nothing was {reason}: {totals:?}");
    }
}

const HISTORIES: u64 = 300;
const STEPS: usize = 24;
const AT_ONCE: usize = 4;
