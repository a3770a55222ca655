//! `store repair`, with the agent stopped.

use std::collections::BTreeMap;

use rustix::process::Signal;
use serde_json::Value;

use super::{PER_POST, POSTS, Site, harm};
use crate::harness::process::finished;

async fn repair(site: &Site, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = site.home.command();
    command.args(["store", "repair", "--config", "config.toml"]).args(arguments);
    let (code, out, error) = finished(&mut command).await;
    (code, out + &error)
}

/// Every file of the state directory and of the folders in it, with its bytes.
fn files(site: &Site) -> BTreeMap<String, Vec<u8>> {
    let mut folders = vec![site.home.state_dir()];
    let mut files = BTreeMap::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                // It names the process that holds it.
                false if path.ends_with("lock") => {}
                false => drop(files.insert(path.display().to_string(), std::fs::read(&path).unwrap())),
            }
        }
    }
    files
}

fn has_row(table: &str, words: &str) -> bool {
    table.lines().any(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") == words)
}

#[tokio::test]
async fn a_repair_says_first_what_would_be_kept_and_lost_and_then_does_it() {
    let site = Site::with_backlog().await;
    let kept = PER_POST * (POSTS - 1);
    assert_eq!(repair(&site, &[]).await.0, Some(0), "nothing is wrong yet");
    harm::flip_block(&harm::database(&site.home), 2);

    let before = files(&site);
    let (code, text) = repair(&site, &["--dry-run"]).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(has_row(&text, &format!("kept {kept}")) && has_row(&text, &format!("lost {PER_POST}")), "{text}");
    assert!(text.contains("a dry run: nothing was changed"), "{text}");
    let (code, text) = repair(&site, &["--dry-run", "--json"]).await;
    let would: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &would["salvaged"]["items_lost"]), (Some(1), &Value::from(PER_POST)), "{text}");
    assert!(files(&site) == before, "a dry run changed a file");

    let (code, text) = repair(&site, &[]).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(has_row(&text, &format!("of these to be delivered {kept}")), "{text}");
    assert!(text.contains("quarantine/000001"), "{text}");
    let (code, text) = repair(&site, &[]).await;
    assert!(code == Some(0) && text.contains("nothing is wrong"), "{text}");
    assert_eq!(repair(&site, &["--json"]).await, (Some(0), "\"whole\"\n".to_owned()));

    // The next start tells of it as of its own.
    let daemon = site.home.start().await;
    daemon.says("the database was damaged and has been salvaged").await;
    site.delivers((0..POSTS).filter(|post| *post != 2), u64::from(PER_POST)).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_repair_for_programs_says_what_was_kept_and_lost() {
    let site = Site::with_backlog().await;
    harm::flip_block(&harm::database(&site.home), 2);
    let (code, text) = repair(&site, &["--json"]).await;
    let done: Value = serde_json::from_str(&text).unwrap();
    let salvaged = &done["salvaged"];
    assert_eq!(code, Some(0), "{text}");
    assert_eq!((&salvaged["items_lost"], &salvaged["blocks_lost"]), (&PER_POST.into(), &1.into()), "{text}");
    assert_eq!(salvaged["folder"], "quarantine/000001", "{text}");
}

#[tokio::test]
async fn a_log_that_is_gone_after_a_crash_is_seen_by_a_repair_as_by_a_start() {
    let site = Site::with_backlog().await;
    let mut daemon = site.home.start().await;
    site.door.open(&daemon).await;
    site.post(POSTS).await;
    daemon.signal(Signal::KILL);
    daemon.wait_exit().await;
    for name in ["edge_store.db-wal", "edge_store.db-shm"] {
        std::fs::remove_file(site.home.state_dir().join(name)).unwrap();
    }
    let (code, text) = repair(&site, &["--dry-run"]).await;
    assert!(code == Some(1) && text.contains("the WAL is gone"), "{text}");
    let daemon = site.home.start().await;
    assert!(daemon.says("has been salvaged").await.contains("the WAL is gone"));
    daemon.stop().await;
}

#[tokio::test]
async fn a_running_agents_database_is_not_repaired() {
    let site = Site::with_backlog().await;
    let daemon = site.home.start().await;
    let (code, text) = repair(&site, &[]).await;
    assert!(code == Some(1) && text.contains("another pyv-edge-agent"), "{text}");
    daemon.stop().await;
}
