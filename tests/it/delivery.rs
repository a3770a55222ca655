//! Delivery by the real daemon to an endpoint that is away, slow, or picky.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::cloud::Cloud;
use crate::harness::daemon::{EAGER_STORE, Home, cloud};
use crate::harness::endpoint::receiver::behaviour::{Behaviour, Times};
use crate::harness::endpoint::{Endpoint, Pki};
use crate::harness::process::free_port;
use crate::harness::stored;
use crate::http_ingest::Door;

#[tokio::test]
async fn a_backlog_and_what_comes_meanwhile_arrive_once_the_endpoint_is_there() {
    let (pki, door, port) = (Pki::new(), Door::new(), free_port());
    let away = Endpoint::start_at(port, &pki, Behaviour::default()).await;
    let section = cloud(&away, &pki);
    away.stop().await;
    let home = Home::new(&format!("{}batch_size = 100\n{}{EAGER_STORE}", section, door.section()));
    let mut daemon = home.start().await;
    door.open(&daemon).await;
    door.post_values(0..700).await;
    let troubled = |health: &serde_json::Value| health["cloud"]["trouble"].is_string();
    let health = daemon.health_shows("delivery is in trouble", troubled).await;
    assert_eq!((&health["status"], &health["cloud"]["queue_depth"]), (&json!("degraded"), &json!(700)));
    let trouble = health["cloud"]["trouble"].to_string();
    assert!(trouble.contains("refused"), "{trouble}");
    // The backlog outlives the process.
    daemon.signal(Signal::KILL);
    daemon.wait_exit().await;
    let daemon = home.start().await;
    door.open(&daemon).await;
    door.post_values(700..800).await;
    let endpoint = Endpoint::start_at(port, &pki, Behaviour::default()).await;
    door.post_values(800..900).await;
    endpoint.totals("everything arrives", |totals| totals.items == 900).await;
    assert!(endpoint.values_as_floats().into_iter().eq((0..900).map(f64::from)), "once, and in order");
    let settled =
        |health: &serde_json::Value| health["cloud"]["queue_depth"] == 0 && health["status"] == "healthy";
    let health = daemon.health_shows("nothing waits any more", settled).await;
    assert_eq!(health["cloud"]["messages_sent_today"], 900);
    let log = daemon.stop().await;
    assert!(!log.contains("test-key"), "{log}");
}

#[tokio::test]
async fn answers_429_500_and_none_at_all_are_retried_with_the_same_bytes() {
    let behaviour = Behaviour {
        status_sequence: [429, 500, 503, 408].into(),
        close_midway: Times::Left(2),
        retry_after: Some("0".to_owned()),
        ..Behaviour::default()
    };
    let (cloud, door) = (Cloud::behaving(behaviour).await, Door::new());
    let home = Home::new(&format!("{}{}{EAGER_STORE}", door.section(), cloud.section()));
    let daemon = home.start().await;
    door.open(&daemon).await;
    door.post_values(0..10).await;
    let totals = cloud.endpoint.totals("it arrives at last", |totals| totals.items == 10).await;
    assert_eq!((totals.differing, totals.duplicates, totals.batches), (0, 0, 1));
    assert_eq!(totals.refused, 6);
    daemon.stop().await;
}

#[tokio::test]
async fn one_bad_item_is_set_aside_and_all_others_arrive() {
    let behaviour = Behaviour {
        reject_item: Some("\"value\":13.0".to_owned()),
        refusal_text: Some("no thirteens".to_owned()),
        ..Behaviour::default()
    };
    let (cloud, door) = (Cloud::behaving(behaviour).await, Door::new());
    let home = Home::new(&format!("{}{}{EAGER_STORE}", door.section(), cloud.section()));
    let daemon = home.start().await;
    door.open(&daemon).await;
    door.post_values(0..50).await;
    let expected: Vec<_> = (0..50).filter(|value| *value != 13).collect();
    cloud.until_values(&expected).await;
    let settled = |health: &serde_json::Value| {
        health["store"]["dead_letters"] == 1 && health["cloud"]["queue_depth"] == 0
    };
    daemon.health_shows("it is set aside, and nothing else waits", settled).await;
    daemon.stop().await;
    let dead = stored::dead_letters(&home.state_dir());
    assert_eq!(dead.len(), 1);
    assert!(dead[0].0.contains("400") && dead[0].0.contains("no thirteens"), "{}", dead[0].0);
    assert_eq!(dead[0].1["value"], 13.0);
    assert_eq!(cloud.items().len(), 49);
}

#[tokio::test]
async fn a_batch_whose_answer_was_lost_with_the_process_is_repeated_under_its_key() {
    let lost = Behaviour { accept_then_reset: Times::Always(true), ..Behaviour::default() };
    let (cloud, door) = (Cloud::behaving(lost).await, Door::new());
    let home = Home::new(&format!("{}{}{EAGER_STORE}", door.section(), cloud.section()));
    let mut daemon = home.start().await;
    door.open(&daemon).await;
    door.post_values(0..20).await;
    cloud.endpoint.totals("it was sent", |totals| totals.batches >= 1).await;
    daemon.signal(Signal::KILL);
    daemon.wait_exit().await;
    // What is new must not grow into the batch that is repeated.
    cloud.behave(Behaviour::default());
    let daemon = home.start().await;
    door.open(&daemon).await;
    door.post_values(20..30).await;
    cloud.until_values(&(0..30).collect::<Vec<_>>()).await;
    let totals = cloud.endpoint.totals("it is repeated", |totals| totals.duplicates >= 1).await;
    assert_eq!((totals.differing, totals.items), (0, 30));
    let keys: BTreeSet<_> =
        cloud.endpoint.receiver.arrivals().iter().map(|arrival| arrival.idempotency_key.clone()).collect();
    let prefix = keys.first().unwrap().rsplitn(4, '-').last().unwrap().to_owned();
    assert!(keys.iter().all(|key| key.starts_with(&prefix)), "one device, one prefix: {keys:?}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_wrong_key_sets_nothing_aside_and_says_what_to_do() {
    let (cloud, door) =
        (Cloud::behaving(Behaviour { fail: Some(401), ..Behaviour::default() }).await, Door::new());
    let home = Home::new(&format!("{}{}{EAGER_STORE}", door.section(), cloud.section()));
    let daemon = home.start().await;
    door.open(&daemon).await;
    door.post_values([1]).await;
    let troubled =
        |health: &serde_json::Value| health["cloud"]["trouble"].to_string().contains("cloud.api_key");
    let health = daemon.health_shows("the cure is named", troubled).await;
    assert_eq!((&health["store"]["dead_letters"], &health["cloud"]["queue_depth"]), (&json!(0), &json!(1)));
    cloud.behave(Behaviour::default());
    cloud.until_values(&[1]).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_key_file_that_is_replaced_needs_no_reload_and_the_page_tells_of_budget_and_certificates() {
    let behaviour = Behaviour { authorization: Some("Bearer right".to_owned()), ..Behaviour::default() };
    let (cloud, door) = (Cloud::behaving(behaviour).await, Door::new());
    let file = cloud.pki.write("api_key", "wrong\n");
    let from_file = format!("api_key = '${{file:{}}}'\nmonthly_mb_max = 1000", file.display());
    let section = cloud.section().replace("api_key = 'test-key'", &from_file);
    let home = Home::new(&format!("{}{section}{EAGER_STORE}", door.section()));
    let daemon = home.start().await;
    door.open(&daemon).await;
    door.post_values([1]).await;
    let troubled =
        |health: &serde_json::Value| health["cloud"]["trouble"].to_string().contains("cloud.api_key");
    daemon.health_shows("the cure is named", troubled).await;
    cloud.pki.write("api_key", "right\n");
    cloud.until_values(&[1]).await;
    let well = |health: &serde_json::Value| health["cloud"]["queue_depth"] == 0;
    let health = daemon.health_shows("it is delivered", well).await;
    let cloud_page = &health["cloud"];
    assert!(cloud_page["budget"]["used_bytes"].as_u64().unwrap() > 1000, "{cloud_page}");
    assert_eq!(cloud_page["budget"]["limit_bytes"], 1_000_000_000);
    assert!(cloud_page["certificate_days"]["server"].as_f64().unwrap() > 14.0, "{cloud_page}");
    let (_, metrics) = daemon.get("/metrics").await;
    for name in ["delivery_month_used_bytes", "delivery_lane_held", "certificate_days_left"] {
        assert!(metrics.contains(&format!("\npyvorin_edge_{name}")), "{name} is missing");
    }
    daemon.stop().await;
}
