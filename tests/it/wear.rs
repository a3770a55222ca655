//! Flash wear as the agent measures it, against the kernel's own account of the process.

use crate::harness::daemon::{Daemon, Home};
use crate::harness::until;

/// Fast enough that a budget of 1 MiB a day is spent by the start alone.
const SIMULATOR: &str =
    "[[sensors.devices]]\nname = 'a'\ningest_type = 'simulator'\ninterval_seconds = 0.01\n";

fn written_bytes(daemon: &Daemon) -> u64 {
    let io = std::fs::read_to_string(format!("/proc/{}/io", daemon.pid())).unwrap();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).unwrap().parse().unwrap()
}

#[tokio::test]
async fn what_the_agent_measures_is_what_the_kernel_counts_and_survives_a_restart() {
    let home = Home::new(&format!("{SIMULATOR}[store]\ncommit_interval_seconds = 0.1\n"));
    let mut before = 0;
    for _ in 0..2 {
        let daemon = home.start().await;
        crate::sources::processed(&daemon, 100).await;
        let least = written_bytes(&daemon);
        let health = daemon.health().await;
        let most = written_bytes(&daemon);
        let wear = &health["wear"];
        let written = wear["since_store_was_made"]["written_bytes"].as_u64().unwrap();
        assert!(
            (least..=most).contains(&(written - before)),
            "{least} to {most}, and {before} before: {wear}"
        );
        assert!(wear["today"]["amplification"].as_f64().unwrap() > 0.0, "{wear}");
        let (_, metrics) = daemon.get("/metrics").await;
        assert!(metrics.contains(&format!("pyvorin_edge_written_bytes_total {written}\n")), "{metrics}");
        before = written;
        let log = daemon.stop().await;
        assert!(!log.contains("ERROR"), "{log}");
        // The stop writes too, and what it wrote before its last look is remembered.
        before = remembered(&home).max(before);
    }
}

fn remembered(home: &Home) -> u64 {
    let db = rusqlite::Connection::open_with_flags(
        home.state_dir().join("edge_store.db"),
        rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY,
    )
    .unwrap();
    let sql = "SELECT value FROM meta WHERE key = 'wear'";
    let text: String = db.query_row(sql, [], |row| row.get(0)).unwrap();
    serde_json::from_str::<serde_json::Value>(&text).unwrap()["total"]["bytes"].as_u64().unwrap()
}

#[tokio::test]
async fn a_day_that_ended_is_told_once() {
    let home = Home::new(SIMULATOR);
    home.start().await.stop().await;
    let db = rusqlite::Connection::open_with_flags(
        home.state_dir().join("edge_store.db"),
        rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE,
    )
    .unwrap();
    let day = r#"{"bytes":4096000,"accepted_bytes":1000,"seconds":3600.0}"#;
    let account = format!(r#"{{"day":1,"today":{day},"day_before":{day},"total":{day}}}"#);
    db.execute("UPDATE meta SET value = ?1 WHERE key = 'wear'", [account]).unwrap();
    drop(db);
    let daemon = home.start().await;
    let line = daemon.says("what was written to flash in a day").await;
    assert!(line.contains("bytes=4096000") && line.contains("amplification=4096"), "{line}");
    assert_eq!(daemon.health().await["wear"]["day_before"]["written_bytes"], 4_096_000);
    let log = daemon.stop().await;
    assert_eq!(log.matches("what was written to flash in a day").count(), 1, "{log}");
}

#[tokio::test]
async fn beyond_the_budget_commits_become_rarer_up_to_their_bound() {
    let store =
        "[store]\ncommit_interval_seconds = 0.05\nwrite_mb_per_day = 1\ncommit_interval_max_seconds = 600\n";
    let home = Home::new(&format!("{SIMULATOR}{store}"));
    let daemon = home.start().await;
    let is_over = |health: &serde_json::Value| health["wear"]["over_budget"] == true;
    daemon.health_shows("the budget is spent", is_over).await;
    let waiting = until("readings are gathered", async || {
        daemon.health().await["agent"]["buffer_count"].as_u64().filter(|count| *count >= 100)
    });
    assert!(waiting.await >= 100);
    // Nothing that was taken in is lost for it.
    let processed = daemon.health().await["agent"]["readings_processed"].as_u64().unwrap();
    daemon.stop().await;
    let stored = crate::harness::stored::items(&home.state_dir(), &crate::harness::stored::LOCAL).len();
    assert!(stored as u64 >= processed, "{stored} of {processed}");
}
