//! `store import`: what a Python agent still holds is taken over once, exactly.

use std::path::Path;

use rusqlite::{Connection, params};
use serde_json::{Value, json};

use crate::harness::cloud::Cloud;
use crate::harness::daemon::Home;
use crate::harness::process::finished;
use crate::harness::{stored, write};

/// The schema of the Python agent, to the letter.
const SCHEMA: &str =
    "CREATE TABLE IF NOT EXISTS sync_queue (id INTEGER PRIMARY KEY AUTOINCREMENT, payload TEXT NOT NULL,
  priority INTEGER NOT NULL, created_at REAL NOT NULL, ttl_seconds INTEGER NOT NULL,
  retry_count INTEGER NOT NULL DEFAULT 0, next_retry_at REAL NOT NULL DEFAULT 0);";

fn queue(home: &Home) -> Connection {
    #[expect(clippy::disallowed_methods, reason = "the database of another program")]
    let db = Connection::open(home.path("sync_queue.db")).unwrap();
    db.execute_batch(SCHEMA).unwrap();
    db
}

fn hold(db: &Connection, priority: i64, payload: &str) {
    db.execute(
        "INSERT INTO sync_queue (payload, priority, created_at, ttl_seconds, retry_count)
         VALUES (?1, ?2, 1717156800.25, 3600, 7)",
        params![payload, priority],
    )
    .unwrap();
}

/// As Python's json.dumps writes it.
fn reading(name: &str, value: u64) -> String {
    format!(
        r#"{{"sensor_name": "{name}", "timestamp": 1717156800.5, "value": {value}.0, "unit": "C", "metadata": {{"site": "a b"}}}}"#
    )
}

async fn import(home: &Home, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = home.command();
    finished(command.args(["store", "import", "sync_queue.db", "--config", "config.toml"]).args(arguments))
        .await
}

fn values(items: &[Value]) -> Vec<u64> {
    items.iter().map(|item| item["value"].as_f64().unwrap() as u64).collect()
}

#[tokio::test]
async fn every_item_is_delivered_once_by_priority_and_as_it_was_written() {
    let cloud = Cloud::start().await;
    let home = Home::new(&cloud.section());
    let db = queue(&home);
    let event = r#"{"rule_name": "hot", "timestamp": 1717156801.0, "severity": "critical", "message": "Rule 'hot' fired",
        "sensor_readings": [{"sensor_name": "a", "timestamp": 1717156801.0, "value": 90.0, "unit": "C", "metadata": {}}], "metadata": {}}"#;
    db.execute_batch("BEGIN").unwrap();
    for number in 0..600 {
        hold(&db, 3, &reading("a", number));
    }
    db.execute_batch("COMMIT").unwrap();
    hold(&db, 1, event);
    hold(&db, 4, &reading("log", 7));

    let (code, out, error) = import(&home, &["--dry-run", "--json"]).await;
    assert_eq!(code, Some(0), "{error}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&report["found"], &report["queued"]), (&json!(602), &json!([1, 0, 600, 1])));
    assert!(stored::items(&home.state_dir(), &stored::OUTBOUND).is_empty(), "a dry run stores nothing");

    let (code, out, error) = import(&home, &[]).await;
    assert_eq!(code, Some(0), "{error}");
    assert!(out.contains("602"), "{out}");
    let (code, out, _) = import(&home, &["--json"]).await;
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["already"], &report["queued"]), (Some(0), &json!(602), &json!([0, 0, 0, 0])));
    // The other agent went on for a moment.
    hold(&db, 3, &reading("a", 600));
    let (code, ..) = import(&home, &[]).await;
    assert_eq!(code, Some(0));

    let (exit, log) = home.once().await;
    assert_eq!(exit.code, Some(0), "{log}");
    let items = cloud.items();
    assert_eq!(items[0], serde_json::from_str::<Value>(event).unwrap(), "the most urgent goes first");
    let (logs, telemetry): (Vec<_>, Vec<_>) =
        items[1..].iter().cloned().partition(|item| item["sensor_name"] == json!("log"));
    assert_eq!(values(&telemetry), (0..=600).collect::<Vec<_>>());
    assert_eq!(telemetry[0], serde_json::from_str::<Value>(&reading("a", 0)).unwrap());
    assert_eq!(values(&logs), [7]);
    let left: i64 = db.query_row("SELECT count(*) FROM sync_queue", [], |row| row.get(0)).unwrap();
    assert_eq!(left, 603, "the other queue is only read");
}

#[tokio::test]
async fn rows_that_are_no_items_are_named_and_stay_where_they_are() {
    let cloud = Cloud::start().await;
    let home = Home::new(&cloud.section());
    let db = queue(&home);
    hold(&db, 3, &reading("a", 1));
    hold(&db, 3, "not json");
    hold(&db, 9, &reading("a", 2));
    hold(&db, 3, &format!("{{\"sensor_name\":\"{}\"}}", "x".repeat(300_000)));
    let (code, out, _) = import(&home, &[]).await;
    assert_eq!(code, Some(1), "{out}");
    for said in ["2: is not a JSON object", "3: has a priority", "4: has no text, or too much"] {
        assert!(out.contains(said), "{said}: {out}");
    }
    assert_eq!(values(&stored::items(&home.state_dir(), &stored::OUTBOUND)), [1]);
}

#[tokio::test]
async fn what_cannot_be_imported_says_why_and_changes_nothing() {
    let home = Home::new("");
    queue(&home);
    let (code, _, error) = import(&home, &[]).await;
    assert_eq!(code, Some(1));
    assert!(error.contains("cloud.enabled is false"), "{error}");

    let cloud = Cloud::start().await;
    home.configure(&cloud.section());
    write(
        &home.path("sync_queue.db"),
        "no database at all, but long enough to be looked at as if it were one.",
    );
    let (code, _, error) = import(&home, &[]).await;
    assert_eq!(code, Some(1));
    assert!(error.contains("sync_queue.db"), "{error}");

    std::fs::remove_file(home.path("sync_queue.db")).unwrap();
    queue(&home);
    let daemon = home.start().await;
    let (code, _, error) = import(&home, &[]).await;
    assert_eq!(code, Some(1));
    assert!(error.contains("another pyv-edge-agent"), "{error}");
    daemon.stop().await;
    assert!(Path::exists(&home.path("sync_queue.db")));
}
