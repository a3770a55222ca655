//! `store stats`, `export` and `purge`, on the database of an agent that runs and of one that is stopped.

use serde_json::{Value, json};

use crate::harness::cloud::Cloud;
use crate::harness::daemon::Home;
use crate::harness::endpoint::receiver::behaviour::Behaviour;
use crate::harness::process::finished;

const SOURCES: &str = "[[sensors.devices]]\nname = 'boiler'\ningest_type = 'simulator'\nunit = 'C'\n\
    [[sensors.devices]]\nname = 'pump'\ningest_type = 'simulator'\n\
    [[rules]]\nname = 'hot'\ncondition_expr = \"ctx.sensor_name == 'boiler'\"\nseverity = 'critical'\n";

async fn store(home: &Home, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = home.command();
    finished(command.arg("store").args(arguments).args(["--config", "config.toml"])).await
}

async fn json(home: &Home, arguments: &[&str]) -> Value {
    let (code, out, error) = store(home, arguments).await;
    assert_eq!(code, Some(0), "{error}");
    serde_json::from_str(&out).unwrap()
}

async fn exported(home: &Home, arguments: &[&str]) -> Vec<Value> {
    let (code, out, error) = store(home, &[&["export"], arguments].concat()).await;
    assert_eq!(code, Some(0), "{error}");
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn lane<'v>(lanes: &'v Value, name: &str) -> &'v Value {
    lanes.as_array().unwrap().iter().find(|lane| lane["name"] == name).unwrap()
}

/// Three passes with nobody to deliver to.
async fn with_backlog(cloud: &Cloud) -> Home {
    cloud.behave(Behaviour { fail: Some(503), ..Behaviour::default() });
    let home = Home::new(&format!("{SOURCES}{}", cloud.section()));
    for _ in 0..3 {
        let (exit, log) = home.once().await;
        assert_eq!(exit.code, Some(1), "{log}");
    }
    home
}

#[tokio::test]
async fn what_is_stored_can_be_counted_and_printed_while_the_agent_runs() {
    let cloud = Cloud::start().await;
    let home = with_backlog(&cloud).await;
    let daemon = home.start().await;
    let stats = json(&home, &["stats", "--json"]).await;
    assert!(lane(&stats["lanes"], "TELEMETRY")["undelivered"].as_u64() >= Some(6), "{stats}");
    assert!(lane(&stats["lanes"], "CRITICAL")["undelivered"].as_u64() >= Some(3), "{stats}");
    let (code, out, _) = store(&home, &["stats"]).await;
    assert!(code == Some(0) && out.contains("TELEMETRY") && out.contains("no gaps"), "{out}");

    let pump = exported(&home, &["--sensor", "pu*", "--undelivered"]).await;
    assert!(pump.len() >= 3 && pump.iter().all(|item| item["sensor_name"] == "pump"), "{pump:?}");
    let events = exported(&home, &["--lane", "critical"]).await;
    assert!(events.len() >= 3 && events.iter().all(|item| item["rule_name"] == "hot"), "{events:?}");
    assert!(exported(&home, &["--until", "2001-01-01T00:00:00Z"]).await.is_empty());
    assert!(exported(&home, &["--since", "1h", "--sensor", "boiler"]).await.len() >= 6);
    let (_, csv, _) = store(&home, &["export", "--format", "csv", "--lane", "telemetry"]).await;
    let mut rows = csv.lines();
    assert!(rows.next().unwrap().starts_with("lane,sequence,timestamp,sensor_name,value,unit,metadata"));
    assert!(rows.next().unwrap().starts_with("TELEMETRY,1,"), "{csv}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_purge_says_first_what_would_go_and_declares_what_was_not_delivered() {
    let cloud = Cloud::start().await;
    let home = with_backlog(&cloud).await;
    // A batch that was begun stays whole: everything of the first pass is in one.
    let plan = json(&home, &["purge", "--undelivered", "--dry-run", "--json"]).await;
    let planned = lane(&plan, "TELEMETRY").clone();
    assert!(planned["undelivered"].as_u64() > Some(0), "{plan}");
    let kept = json(&home, &["purge", "--dry-run", "--json"]).await;
    assert_eq!(lane(&kept, "TELEMETRY")["items"], json!(0), "nothing was delivered, so nothing goes");

    let daemon = home.start().await;
    let (code, _, error) = store(&home, &["purge", "--undelivered"]).await;
    assert!(code == Some(1) && error.contains("another pyv-edge-agent"), "{error}");
    daemon.stop().await;

    let before = exported(&home, &["--undelivered"]).await.len() as u64;
    let purged = json(&home, &["purge", "--undelivered", "--json"]).await;
    let gone: u64 = purged.as_array().unwrap().iter().map(|lane| lane["undelivered"].as_u64().unwrap()).sum();
    let stats = json(&home, &["stats", "--json"]).await;
    assert_eq!(stats["gaps"], json!([{"reason": "purged", "items": gone, "records": 2}]), "{stats}");
    assert_eq!(exported(&home, &["--undelivered"]).await.len() as u64, before - gone);
    assert_eq!(json(&home, &["check", "--json"]).await["findings"], json!([]));

    cloud.behave(Behaviour::default());
    let (exit, log) = home.once().await;
    assert_eq!(exit.code, Some(0), "{log}");
    assert_eq!(cloud.endpoint.receiver.totals().borrow().differing, 0);
    let told = cloud.items().iter().filter(|item| item["metadata"]["reason"] == "purged").count();
    assert_eq!(told, 2, "the cloud is told of the gap in each lane");
}
