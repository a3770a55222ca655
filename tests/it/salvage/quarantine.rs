//! What is kept of the damaged databases.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pyvorin_edge::store::{self, Budget, DATABASE_FILE, Lane, Settings, Staged, Ttl};
use tempfile::TempDir;

use super::harm;
use crate::harness::soon;

/// The folders of the quarantine, in order.
pub fn folders(state_dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(state_dir.join("quarantine"));
    let names = entries.into_iter().flatten().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

pub fn settings(state_dir: &Path) -> Settings {
    Settings {
        state_dir: state_dir.to_owned(),
        size_bytes_max: 1 << 20,
        quarantine_bytes_max: 1 << 30,
        commit_interval: Duration::from_secs(1),
        budget: Budget::default(),
        ttl: Ttl::default(),
    }
}

/// Opens the store, lets it take in an item and closes it; then damages it.
async fn life_and_harm(settings: &Settings) {
    let (store, end) = store::open(settings.clone(), Arc::default()).unwrap();
    let mut staged = Staged::default();
    staged.push(Lane::Telemetry, 1.0, |out| out.extend_from_slice(b"{}"));
    store.append(staged).await.unwrap();
    drop(store);
    soon("the store closes", end).await.unwrap().unwrap();
    harm::flip_header(&settings.state_dir.join(DATABASE_FILE));
}

async fn harmed(times: u32, change: impl Fn(&mut Settings, u64)) -> Vec<String> {
    let folder = TempDir::new().unwrap();
    let mut settings = settings(folder.path());
    life_and_harm(&settings).await;
    change(&mut settings, std::fs::metadata(folder.path().join(DATABASE_FILE)).unwrap().len());
    for _ in 0..times {
        life_and_harm(&settings).await;
    }
    folders(folder.path())
}

#[tokio::test]
async fn the_newest_three_damaged_databases_are_kept() {
    assert_eq!(harmed(2, |_, _| {}).await, ["000001", "000002"]);
    assert_eq!(harmed(5, |_, _| {}).await, ["000003", "000004", "000005"]);
}

#[tokio::test]
async fn the_quarantine_keeps_within_its_bytes() {
    let two = |settings: &mut Settings, bytes: u64| settings.quarantine_bytes_max = bytes * 5 / 2;
    assert_eq!(harmed(5, two).await, ["000004", "000005"]);
    assert!(harmed(1, |settings, _| settings.quarantine_bytes_max = 0).await.is_empty());
}

#[tokio::test]
async fn the_quarantine_gives_way_when_the_disk_is_short() {
    // A quarter of it is to be free, which no disk has.
    let all = |settings: &mut Settings, _: u64| settings.size_bytes_max = u64::MAX / 2;
    assert!(harmed(2, all).await.is_empty());
}
