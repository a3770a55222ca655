//! The store against real files: order, freezing, restarts, retention.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::oneshot;

use super::*;
use crate::lifecycle::watchdog::Progress;
use crate::reading::Committed;

const WANT: Want = Want::new(10, 1 << 20, true);

struct Opened {
    store: Store,
    end: oneshot::Receiver<Result<(), Error>>,
}

impl Opened {
    fn at(dir: &Path) -> Self {
        Self::with_size(dir, 1 << 30)
    }

    fn with_size(dir: &Path, size_bytes_max: u64) -> Self {
        let (store, end) = open(settings(dir, size_bytes_max), Arc::new(Progress::default())).expect("opens");
        Self { store, end }
    }

    async fn append(&self, lane: Lane, items: impl IntoIterator<Item = String>) -> Committed {
        let mut staged = Staged::default();
        for item in items {
            staged.push(lane, 1.0, |out| out.extend_from_slice(item.as_bytes()));
        }
        let (sender, receipt) = oneshot::channel();
        let committed = Committed { accepted: staged.items(), refused: 0 };
        staged.answer(sender, committed);
        self.store.append(staged).await.expect("open");
        receipt.await.expect("committed")
    }

    async fn next(&self) -> Option<FrozenBatch> {
        self.store.next_batch(WANT).await.expect("open")
    }

    async fn close(self) {
        drop(self.store);
        self.end.await.expect("the thread answers").expect("no failure");
    }
}

/// Of a store in `dir`, and all else as it is without a configuration.
pub(crate) fn settings(dir: &Path, size_bytes_max: u64) -> Settings {
    Settings {
        state_dir: dir.to_owned(),
        size_bytes_max,
        quarantine_bytes_max: 1 << 30,
        commit_interval: Duration::from_secs(1),
        budget: Budget::default(),
        ttl: Ttl::default(),
    }
}

fn items(range: std::ops::Range<u32>) -> impl Iterator<Item = String> {
    range.map(|number| number.to_string())
}

fn text(batch: &FrozenBatch) -> &str {
    std::str::from_utf8(&batch.items).unwrap()
}

#[tokio::test]
async fn items_leave_in_the_order_they_came_in_batches_of_the_wanted_size() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Opened::at(dir.path());
    assert_eq!(opened.append(Lane::Telemetry, items(0..7)).await.accepted, 7);
    opened.append(Lane::Telemetry, items(7..14)).await;
    let first = opened.next().await.unwrap();
    assert_eq!(text(&first), "0,1,2,3,4,5,6,7,8,9");
    opened.store.settle(first.key, Outcome::Delivered).await.unwrap();
    let second = opened.next().await.unwrap();
    assert_eq!(text(&second), "10,11,12,13");
    assert_eq!((second.key.first, second.key.last), (11, 14));
    opened.store.settle(second.key, Outcome::Delivered).await.unwrap();
    assert_eq!(opened.next().await, None);
    assert_eq!(opened.store.counters().pending().total(), 0);
    opened.close().await;
}

#[tokio::test]
async fn a_frozen_batch_is_the_same_after_more_data_and_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Opened::at(dir.path());
    opened.append(Lane::Telemetry, items(0..3)).await;
    let frozen = opened.next().await.unwrap();
    opened.append(Lane::Telemetry, items(3..6)).await;
    assert_eq!(opened.next().await.unwrap(), frozen);
    let id = opened.store.id().to_owned();
    opened.close().await;

    let reopened = Opened::at(dir.path());
    assert_eq!(reopened.store.id(), id);
    assert_eq!(reopened.next().await.unwrap(), frozen);
    reopened.close().await;
}

#[tokio::test]
async fn a_partial_batch_waits_unless_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Opened::at(dir.path());
    opened.append(Lane::Telemetry, items(0..3)).await;
    let want = Want { partial: false, ..WANT };
    assert_eq!(opened.store.next_batch(want).await.unwrap(), None);
    opened.append(Lane::Critical, items(50..51)).await;
    assert_eq!(text(&opened.store.next_batch(want).await.unwrap().unwrap()), "50");
    opened.close().await;
}

#[tokio::test]
async fn the_most_urgent_lane_goes_first_even_before_a_frozen_batch() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Opened::at(dir.path());
    opened.append(Lane::Telemetry, items(0..3)).await;
    opened.next().await.unwrap();
    opened.append(Lane::Logs, items(20..21)).await;
    opened.append(Lane::Critical, items(10..11)).await;
    let mut order = Vec::new();
    while let Some(batch) = opened.next().await {
        order.push(text(&batch).to_owned());
        opened.store.settle(batch.key, Outcome::Delivered).await.unwrap();
    }
    assert_eq!(order, ["10", "0,1,2", "20"]);
    opened.close().await;
}

#[tokio::test]
async fn after_a_restart_live_data_goes_before_the_backlog() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Opened::at(dir.path());
    opened.append(Lane::Telemetry, items(0..25)).await;
    opened.close().await;

    let reopened = Opened::at(dir.path());
    let backlog = reopened.next().await.unwrap();
    assert_eq!(text(&backlog), "0,1,2,3,4,5,6,7,8,9");
    reopened.append(Lane::Telemetry, items(100..110)).await;
    reopened.store.settle(backlog.key, Outcome::Delivered).await.unwrap();
    assert!(text(&reopened.next().await.unwrap()).starts_with("100,"));
    reopened.close().await;
}

#[tokio::test]
async fn a_local_item_is_in_no_batch() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Opened::at(dir.path());
    opened.append(Lane::Local, items(0..3)).await;
    assert_eq!(opened.next().await, None);
    assert_eq!(opened.store.counters().pending().total(), 0);
    opened.close().await;
}

#[tokio::test]
async fn a_split_batch_is_sent_as_its_halves_until_the_bad_item_is_alone() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Opened::at(dir.path());
    opened.append(Lane::Telemetry, items(0..5)).await;
    let mut delivered = Vec::new();
    while let Some(batch) = opened.next().await {
        let outcome = match (text(&batch).split(',').any(|item| item == "3"), batch.key.count()) {
            (false, _) => {
                delivered.push(text(&batch).to_owned());
                Outcome::Delivered
            }
            (true, 1) => Outcome::DeadLetter { reason: "400".to_owned() },
            (true, _) => Outcome::Split,
        };
        opened.store.settle(batch.key, outcome).await.unwrap();
    }
    assert_eq!(delivered, ["0,1", "2", "4"]);
    assert_eq!(opened.store.counters().dead_letters.load(Relaxed), 1);
    opened.close().await;
    let db = rusqlite::Connection::open_with_flags(
        dir.path().join(DATABASE_FILE),
        rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY,
    )
    .unwrap();
    let set_aside: (i64, String, Vec<u8>) = db
        .query_row("SELECT sequence, reason, item FROM dead_letter", [], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })
        .unwrap();
    assert_eq!(set_aside, (4, "400".to_owned(), b"3".to_vec()));
}

#[tokio::test]
async fn a_batch_stays_below_its_bytes_but_holds_at_least_one_item() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Opened::at(dir.path());
    opened.append(Lane::Telemetry, ["aaaaaaaaaa", "bbbb", "cccc"].map(str::to_owned)).await;
    let want = Want::new(10, 10, true);
    let mut batches = Vec::new();
    while let Some(batch) = opened.store.next_batch(want).await.unwrap() {
        batches.push(text(&batch).to_owned());
        opened.store.settle(batch.key, Outcome::Delivered).await.unwrap();
    }
    assert_eq!(batches, ["aaaaaaaaaa", "bbbb,cccc"]);
    opened.close().await;
}

#[tokio::test]
async fn retention_keeps_the_size_and_counts_what_it_drops() {
    let dir = tempfile::tempdir().unwrap();
    let size_bytes_max = 512 * 1024;
    let opened = Opened::with_size(dir.path(), size_bytes_max);
    let mut random = fastrand::Rng::with_seed(1);
    let mut noise = |_| (0..1000).map(|_| random.alphanumeric()).collect::<String>();
    for _ in 0..30 {
        opened.append(Lane::Logs, (0..50).map(&mut noise)).await;
    }
    opened.store.ping().await.unwrap();
    let counters = opened.store.counters().clone();
    assert!(counters.store_bytes.load(Relaxed) <= size_bytes_max);
    let dropped = counters.dropped[Lane::Logs.priority_index()].load(Relaxed);
    assert!(dropped > 0);
    assert_eq!(counters.pending().total() + dropped, 30 * 50);
    opened.close().await;
}

#[tokio::test]
async fn a_frozen_batch_stays_whole_and_does_not_keep_retention_from_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let size_bytes_max = 512 * 1024;
    let opened = Opened::with_size(dir.path(), size_bytes_max);
    let mut random = fastrand::Rng::with_seed(2);
    let mut noise = |_| (0..1000).map(|_| random.alphanumeric()).collect::<String>();
    opened.append(Lane::Logs, (0..50).map(&mut noise)).await;
    // The endpoint is down: the oldest batch is frozen and waits, and more comes in.
    let frozen = opened.next().await.unwrap();
    for _ in 0..40 {
        opened.append(Lane::Logs, (0..50).map(&mut noise)).await;
    }
    opened.store.ping().await.unwrap();
    let counters = opened.store.counters().clone();
    assert!(counters.store_bytes.load(Relaxed) <= size_bytes_max);
    let dropped = counters.dropped[Lane::Logs.priority_index()].load(Relaxed);
    assert_eq!(counters.pending().total() + dropped, 41 * 50);
    assert_eq!(opened.next().await.unwrap(), frozen);

    let mut items = 0;
    while let Some(batch) = opened.next().await {
        items += text(&batch).split(',').count() as u64;
        opened.store.settle(batch.key, Outcome::Delivered).await.unwrap();
    }
    assert_eq!(items + dropped, 41 * 50);
    opened.close().await;
}

#[tokio::test]
async fn an_outcome_that_comes_twice_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Opened::at(dir.path());
    opened.append(Lane::Telemetry, items(0..1)).await;
    let key = opened.next().await.unwrap().key;
    for _ in 0..2 {
        let outcome = Outcome::DeadLetter { reason: "400".to_owned() };
        opened.store.settle(key, outcome).await.unwrap();
    }
    assert_eq!(opened.next().await, None);
    assert_eq!(opened.store.counters().dead_letters.load(Relaxed), 1);
    opened.close().await;
}

#[tokio::test]
async fn sequence_numbers_are_not_reused_when_a_lane_was_emptied() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Opened::with_size(dir.path(), 1);
    opened.append(Lane::Telemetry, items(0..10)).await;
    opened.store.ping().await.unwrap();
    assert_eq!(opened.store.counters().pending().total(), 0, "everything was dropped");
    opened.close().await;

    let reopened = Opened::at(dir.path());
    reopened.append(Lane::Telemetry, items(0..1)).await;
    assert_eq!(reopened.next().await.unwrap().key.first, 11);
    reopened.close().await;
}

#[tokio::test]
async fn a_commit_larger_than_a_block_is_read_back_whole() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Opened::at(dir.path());
    let count: u32 = 6_000;
    // 6 MB in one commit: as much as 64 batches of a request or one message can bring.
    opened.append(Lane::Telemetry, (0..count).map(|number| format!("{number:01000}"))).await;
    let mut next = 0;
    while let Some(batch) = opened.store.next_batch(Want { items_max: 700, ..WANT }).await.unwrap() {
        for item in text(&batch).split(',') {
            assert_eq!(item.parse(), Ok(next));
            next += 1;
        }
        opened.store.settle(batch.key, Outcome::Delivered).await.unwrap();
    }
    assert_eq!(next, count);
    opened.close().await;
}

#[test]
fn a_database_of_a_newer_agent_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(DATABASE_FILE);
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE | rusqlite::OpenFlags::SQLITE_OPEN_CREATE;
    let db = rusqlite::Connection::open_with_flags(&path, flags).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    let error = open(settings(dir.path(), 1 << 20), Arc::new(Progress::default())).expect_err("refused");
    assert!(error.to_string().contains("schema version 99"), "{error}");
}

#[tokio::test]
async fn two_stores_have_two_ids_whatever_the_time_since_boot() {
    let ids = [0, 1].map(|_| {
        let dir = tempfile::tempdir().unwrap();
        // What two devices of one image may have in common.
        fastrand::seed(7);
        Opened::at(dir.path()).store.id().to_owned()
    });
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn history_goes_before_an_older_backlog() {
    let dir = tempfile::tempdir().unwrap();
    let size_bytes_max = 512 * 1024;
    let mut random = fastrand::Rng::with_seed(3);
    let mut noise = |_| (0..1000).map(|_| random.alphanumeric()).collect::<String>();
    let opened = Opened::with_size(dir.path(), size_bytes_max);
    opened.append(Lane::Telemetry, (0..105).map(&mut noise)).await;
    opened.close().await;
    let opened = Opened::with_size(dir.path(), size_bytes_max);
    let backlog = opened.next().await.unwrap();
    assert_eq!(backlog.key.first, 1);
    opened.store.settle(backlog.key, Outcome::Delivered).await.unwrap();
    // Newer data is delivered before the rest of the backlog, and is history behind it from then on.
    for _ in 0..100 {
        opened.append(Lane::Telemetry, (0..10).map(&mut noise)).await;
        let batch = opened.next().await.unwrap();
        assert!(batch.key.first > 105);
        opened.store.settle(batch.key, Outcome::Delivered).await.unwrap();
    }
    opened.store.ping().await.unwrap();
    let counters = opened.store.counters().clone();
    assert!(counters.store_bytes.load(Relaxed) <= size_bytes_max);
    assert_eq!(counters.dropped[Lane::Telemetry.index()].load(Relaxed), 0);
    assert_eq!(counters.pending().total(), 95);
    opened.close().await;
}

#[tokio::test]
async fn what_was_set_aside_is_bounded_and_the_oldest_goes_first() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Opened::at(dir.path());
    let want = Want { items_max: 6000, ..WANT };
    for start in [0, 6000] {
        opened.append(Lane::Logs, items(start..start + 6000)).await;
        let batch = opened.store.next_batch(want).await.unwrap().unwrap();
        assert_eq!(batch.key.count(), 6000);
        let outcome = Outcome::DeadLetter { reason: "no".to_owned() };
        opened.store.settle(batch.key, outcome).await.unwrap();
    }
    opened.store.ping().await.unwrap();
    let counted = opened.store.counters().dead_letters.load(Relaxed);
    opened.close().await;
    let reopened = Opened::at(dir.path());
    assert_eq!((counted, reopened.store.counters().dead_letters.load(Relaxed)), (10_000, 10_000));
    reopened.close().await;
}

#[test]
fn a_database_of_another_program_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(DATABASE_FILE);
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE | rusqlite::OpenFlags::SQLITE_OPEN_CREATE;
    let db = rusqlite::Connection::open_with_flags(&path, flags).unwrap();
    db.execute_batch("CREATE TABLE sync_queue (id INTEGER); INSERT INTO sync_queue VALUES (1)").unwrap();
    drop(db);
    let error = open(settings(dir.path(), 1 << 20), Arc::new(Progress::default())).expect_err("refused");
    assert!(error.to_string().contains("another program"), "{error}");
    let db = rusqlite::Connection::open_with_flags(&path, flags).unwrap();
    assert_eq!(db.query_row("SELECT count(*) FROM sync_queue", [], |row| row.get(0)), Ok(1_i64));
}

#[tokio::test]
async fn what_is_remembered_is_recalled_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Opened::at(dir.path());
    assert_eq!(opened.store.recalled("used"), None);
    opened.store.remember("used", "1".to_owned()).await.unwrap();
    opened.store.remember("used", "2".to_owned()).await.unwrap();
    opened.close().await;
    let opened = Opened::at(dir.path());
    assert_eq!(opened.store.recalled("used"), Some("2"));
    opened.close().await;
}

#[tokio::test]
async fn a_store_of_schema_version_2_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Opened::at(dir.path());
    opened.append(Lane::Telemetry, ["1".to_owned()]).await;
    opened.close().await;
    #[expect(clippy::disallowed_methods, reason = "a database of an older agent")]
    let db = rusqlite::Connection::open(dir.path().join(DATABASE_FILE)).unwrap();
    for lane in Lane::ALL {
        db.execute_batch(&format!("ALTER TABLE {} DROP COLUMN messages", lane.table())).unwrap();
    }
    db.pragma_update(None, "user_version", 2).unwrap();
    drop(db);
    let opened = Opened::at(dir.path());
    opened.append(Lane::Telemetry, ["2".to_owned()]).await;
    assert_eq!(opened.next().await.unwrap().items, b"1,2");
    opened.close().await;
}

#[tokio::test]
async fn a_store_of_schema_version_1_is_taken_over_whole() {
    let dir = tempfile::tempdir().unwrap();
    #[expect(clippy::disallowed_methods, reason = "a database of an older agent")]
    let db = rusqlite::Connection::open(dir.path().join(DATABASE_FILE)).unwrap();
    db.execute_batch(include_str!("schema_1.sql")).unwrap();
    drop(db);
    let opened = Opened::at(dir.path());
    assert_eq!(opened.store.id(), "0123456789abcdef");
    opened.append(Lane::Telemetry, ["4".to_owned()]).await;
    let batch = opened.next().await.unwrap();
    let id = format!("pyv-0123456789abcdef-3-1-2-{:x}", (batch.timestamp * 1e6) as u64);
    assert_eq!(batch.batch_id, id);
    assert_eq!(batch.items, b"1,2", "frozen by the older agent");
    opened.store.settle(batch.key, Outcome::Delivered).await.unwrap();
    assert_eq!(opened.next().await.unwrap().items, b"3,4");
    opened.close().await;
}
