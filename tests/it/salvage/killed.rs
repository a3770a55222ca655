//! SIGKILL at random moments of a salvage: the next start begins anew or finishes, nothing comes twice, and the
//! damaged files are whole.
//!
//! `PYV_SEED` repeats a run's moments as far as they are the test's own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pyvorin_edge::store::{self, DATABASE_FILE, Lane, Outcome, Staged, Want};
use rusqlite::{Connection, OpenFlags};
use rustix::process::Signal;
use tokio::time::sleep;

use super::{blackbox, harm, quarantine, salvages};
use crate::harness::daemon::Home;
use crate::harness::{soon, until};

#[tokio::test]
async fn a_salvage_that_is_killed_again_and_again_comes_to_its_end_and_accounts_for_everything() {
    let seed = std::env::var("PYV_SEED").map_or(1, |seed| seed.parse().unwrap());
    println!("PYV_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let home = Home::new("");
    let truth = fill(&home.state_dir(), &mut random).await;
    let database = harm::database(&home);
    DAMAGED.iter().for_each(|block| harm::flip_block(&database, *block));
    harm::flip_header(&database);
    let damaged = std::fs::read(&database).unwrap();
    println!("{} bytes", damaged.len());

    let building = home.state_dir().join("edge_store.salvaging");
    let mut unfinished = 0;
    for _ in 0..KILLS {
        let mut daemon = home.spawn();
        let is_under_way = async || (building.exists() || !salvages(&home).await.is_empty()).then_some(());
        until("the salvage begins", is_under_way).await;
        // The moment of the kill is what is tested, not something that is waited for.
        sleep(Duration::from_millis(random.u64(..300))).await;
        daemon.signal(Signal::KILL);
        assert_eq!(daemon.wait_exit().await.code, None, "it ended by itself:\n{}", daemon.log());
        unfinished += u32::from(building.exists());
    }
    println!("{unfinished} of {KILLS} kills left it unfinished; {:?}", salvages(&home).await);
    assert!(unfinished > 0, "no kill came while it was under way");
    home.start().await.stop().await;
    assert!(!building.exists());
    assert!(blackbox(&home).await.iter().any(|record| record["what"] == "salvaged"));
    assert_eq!(quarantine::folders(&home.state_dir()), ["000001"]);
    let kept = std::fs::read(home.state_dir().join("quarantine/000001").join(DATABASE_FILE)).unwrap();
    assert!(kept == damaged, "the damaged database is not as it was");
    account(&home.state_dir(), &truth).await;
}

/// Fills a store with what is not delivered; returns the items, of which the first has number 1.
async fn fill(state_dir: &Path, random: &mut fastrand::Rng) -> Vec<String> {
    std::fs::create_dir(state_dir).unwrap();
    let (store, end) = store::open(settings(state_dir), Arc::default()).unwrap();
    let mut items = Vec::new();
    for _ in 0..BLOCKS {
        let mut staged = Staged::default();
        for _ in 0..PER_BLOCK {
            let noise: String = (0..NOISE_BYTES).map(|_| random.alphanumeric()).collect();
            let item = format!("{}-{noise}", items.len() + 1);
            staged.push(Lane::Telemetry, 1.0, |out| out.extend_from_slice(item.as_bytes()));
            items.push(item);
        }
        store.append(staged).await.unwrap();
        store.ping().await.unwrap();
    }
    drop(store);
    soon("the store closes", end).await.unwrap().unwrap();
    items
}

/// Every item is still to be delivered, once and as it was, or declared lost, once: those of the blocks that were
/// damaged, and no others.
async fn account(state_dir: &Path, truth: &[String]) {
    let mut found: BTreeMap<u64, u32> = BTreeMap::new();
    let (store, end) = store::open(settings(state_dir), Arc::default()).unwrap();
    while let Some(batch) = store.next_batch(Want::new(1000, 1 << 20, true)).await.unwrap() {
        let text = std::str::from_utf8(&batch.items).unwrap();
        for (number, item) in (batch.key.first..).zip(text.split(',')) {
            assert_eq!(Some(item), truth.get(number as usize - 1).map(String::as_str));
            *found.entry(number).or_default() += 1;
        }
        store.settle(batch.key, Outcome::Delivered).await.unwrap();
    }
    drop(store);
    soon("the store closes", end).await.unwrap().unwrap();
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let db = Connection::open_with_flags(state_dir.join(DATABASE_FILE), flags).unwrap();
    let mut select = db.prepare("SELECT first, last FROM gap").unwrap();
    let rows = select.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))).unwrap();
    let gaps: Vec<_> =
        rows.map(|row| row.unwrap()).map(|(a, b)| (a.unsigned_abs(), b.unsigned_abs())).collect();
    let of_block = |block: &usize| {
        let first = block * PER_BLOCK + 1;
        (first as u64, (first + PER_BLOCK - 1) as u64)
    };
    assert_eq!(gaps, DAMAGED.iter().map(of_block).collect::<Vec<_>>());
    for (first, last) in gaps {
        (first..=last).for_each(|number| *found.entry(number).or_default() += 1);
    }
    assert!(found.into_iter().eq((1..=truth.len() as u64).map(|number| (number, 1))));
}

fn settings(state_dir: &Path) -> store::Settings {
    store::Settings { size_bytes_max: 256 << 20, ..quarantine::settings(state_dir) }
}

const KILLS: u32 = 8;
const DAMAGED: [usize; 3] = [7, 100, 198];
/// About 20 MB.
const BLOCKS: usize = 200;
const PER_BLOCK: usize = 100;
const NOISE_BYTES: usize = 1300;
