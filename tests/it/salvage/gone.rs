//! A database that vanishes while the daemon runs on it.

use std::path::Path;

use serde_json::Value;

use super::{PER_POST, POSTS, Site, errors, is_gap, salvages};
use crate::harness::daemon::{Daemon, exchange};
use crate::harness::endpoint::receiver::behaviour::Behaviour;

/// The database and what lies beside it.
const FILES: [&str; 3] = ["edge_store.db", "edge_store.db-wal", "edge_store.db-shm"];

fn move_all(from: &Path, to: &Path, names: &[&str]) {
    for name in names {
        std::fs::rename(from.join(name), to.join(name)).unwrap();
    }
}

async fn store_id(site: &Site) -> String {
    let mut command = site.home.command();
    let stats = command.args(["store", "stats", "--json", "--config", "config.toml"]).output().await.unwrap();
    let stats: Value = serde_json::from_slice(&stats.stdout).unwrap();
    stats["store_id"].as_str().unwrap().to_owned()
}

/// A post that is not answered with 200, and the end it brings about.
async fn ends_at_the_next_post(site: &Site, daemon: &mut Daemon) {
    let body = r#"{"sensor_name": "s", "value": 1}"#;
    let request = format!(
        "POST /ingest HTTP/1.1\r\nHost: test\r\nConnection: close\r\nAuthorization: Bearer door-token\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    // Instead of an answer the connection may be cut.
    let (answer, exit) = tokio::join!(exchange(site.door.address, &request), daemon.wait_exit());
    assert!(!answer.is_ok_and(|(status, _)| status == 200), "it was acknowledged");
    assert_eq!(exit.code, Some(1), "{}", daemon.log());
    assert!(daemon.log().contains("is gone: "), "{}", daemon.log());
}

/// The next start is ready, tells that the store `id` is gone, and the one after it has nothing to tell.
async fn is_declared_once(site: &Site, id: &str) {
    let daemon = site.home.start().await;
    assert_eq!(errors(&daemon), 1, "{}", daemon.log());
    let salvage = &daemon.health().await["store"]["salvage"];
    assert_eq!(salvage["is_uncertain"], true, "{salvage}");
    site.cloud.behave(Behaviour::default());
    let is_told = |item: &Value| is_gap(item, "salvage_unknown") && item["metadata"]["store_id"] == id;
    site.cloud.until_item("the gap", is_told).await;
    site.door.open(&daemon).await;
    site.post(POSTS).await;
    site.cloud.until_values(&[POSTS * PER_POST]).await;
    daemon.stop().await;
    let told = site.cloud.items().iter().filter(|item| is_told(item)).count();
    let daemon = site.home.start().await;
    assert_eq!(errors(&daemon), 0, "{}", daemon.log());
    daemon.stop().await;
    assert_eq!(site.cloud.items().iter().filter(|item| is_told(item)).count(), told);
    assert_eq!(salvages(&site.home).await.len(), 1);
}

#[tokio::test]
async fn a_database_that_was_deleted_is_declared_and_a_new_one_is_used() {
    let site = Site::with_backlog().await;
    let mut daemon = site.home.start().await;
    site.door.open(&daemon).await;
    let id = store_id(&site).await;
    FILES.iter().for_each(|name| std::fs::remove_file(site.home.state_dir().join(name)).unwrap());
    ends_at_the_next_post(&site, &mut daemon).await;
    is_declared_once(&site, &id).await;
    assert!(site.quarantined().is_empty(), "there was nothing to move aside");
}

#[tokio::test]
async fn of_a_database_that_was_deleted_without_its_wal_what_that_holds_is_salvaged() {
    let site = Site::with_backlog().await;
    let mut daemon = site.home.start().await;
    site.door.open(&daemon).await;
    let id = store_id(&site).await;
    site.post(POSTS + 1).await;
    std::fs::remove_file(site.home.state_dir().join(FILES[0])).unwrap();
    ends_at_the_next_post(&site, &mut daemon).await;
    is_declared_once(&site, &id).await;
    assert_eq!(site.quarantined(), ["000001"]);
}

#[tokio::test]
async fn a_database_that_took_the_place_of_another_is_used_as_it_is() {
    let site = Site::with_backlog().await;
    let aside = tempfile::TempDir::new_in(site.home.path(".")).unwrap();
    move_all(&site.home.state_dir(), aside.path(), &FILES[..1]);
    let mut daemon = site.home.start().await;
    site.door.open(&daemon).await;
    let id = store_id(&site).await;
    move_all(aside.path(), &site.home.state_dir(), &FILES[..1]);
    ends_at_the_next_post(&site, &mut daemon).await;
    // Its log, which lay beside the other one then, was not taken for that one's.
    is_declared_once(&site, &id).await;
    site.cloud.until_values(&(0..POSTS * PER_POST).collect::<Vec<_>>()).await;
    assert_eq!(site.quarantined(), ["000001"]);
}

#[tokio::test]
async fn a_database_that_is_back_at_the_next_start_has_lost_nothing() {
    let site = Site::with_backlog().await;
    let aside = tempfile::TempDir::new_in(site.home.path(".")).unwrap();
    let mut daemon = site.home.start().await;
    site.door.open(&daemon).await;
    move_all(&site.home.state_dir(), aside.path(), &FILES);
    ends_at_the_next_post(&site, &mut daemon).await;
    move_all(aside.path(), &site.home.state_dir(), &FILES);
    let daemon = site.home.start().await;
    daemon.says("the database was gone and is back: nothing is lost").await;
    site.cloud.behave(Behaviour::default());
    site.cloud.until_values(&(0..POSTS * PER_POST).collect::<Vec<_>>()).await;
    assert!(!site.cloud.items().iter().any(|item| item["rule_name"] == "pyvorin.gap"));
    daemon.stop().await;
}
