//! SIGHUP: all of a good file, nothing of a bad one.

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::cloud::Cloud;
use crate::harness::daemon::{Daemon, EAGER_STORE, Home};
use crate::harness::process::finished;
use crate::harness::stored;
use crate::http_ingest::Door;
use crate::sources::exec;

const RULE: &str = "[[rules]]\nname = 'hot'\ncondition_expr = 'ctx.value > 85.0'\nseverity = 'critical'\n";

fn ticking(name: &str, value: u32) -> String {
    exec(name, &format!("while :; do echo {value}; sleep 0.02; done"))
}

/// Sends SIGHUP, and returns the line that says what came of it.
async fn reload(daemon: &mut Daemon) -> String {
    let lines = daemon.lines_so_far();
    daemon.signal(Signal::HUP);
    daemon.says_any_after(lines, &["reloaded", "the reload was refused"]).await
}

/// Has `reload` ask, and returns its exit code and what it said.
async fn ask(home: &Home) -> (Option<i32>, String) {
    let mut command = home.command();
    let state_dir = home.state_dir();
    let (code, _, error) = finished(command.arg("reload").arg("--state-dir").arg(state_dir)).await;
    (code, error)
}

fn sources(health: &Value) -> Vec<&str> {
    let sources = health["ingest"]["sources"].as_array().unwrap();
    sources.iter().map(|source| source["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_good_file_starts_what_is_new_stops_what_is_gone_and_leaves_the_rest_alone() {
    let (cloud, door) = (Cloud::start().await, Door::new());
    let rest = format!("{}{EAGER_STORE}", cloud.section());
    let home = Home::new(&format!("{}{}{rest}", door.section(), ticking("old", 1)));
    let mut daemon = home.start().await;
    door.open(&daemon).await;
    door.post_values([90]).await;
    cloud.until_values(&[1, 90]).await;

    home.configure(&format!("{}{}{RULE}{rest}", door.section(), ticking("new", 2)));
    let outcome = reload(&mut daemon).await;
    assert!(outcome.contains("sources_started=1") && outcome.contains("sources_stopped=1"), "{outcome}");
    assert!(outcome.contains("rules_changed=true") && outcome.contains("cloud_changed=false"), "{outcome}");
    door.post_values([91]).await;
    cloud.until_values(&[2, 91]).await;
    let event = cloud.until_item("the new rule fires", |item| item["rule_name"] == "hot").await;
    assert_eq!(event["sensor_readings"][0]["value"], 91.0);
    let health = daemon.health().await;
    assert_eq!(sources(&health), ["http", "new"]);
    assert_eq!(health["ingest"]["sources"][0]["restarts"], 0);
    // What the stopped source gave last may still be under way, but no more than that.
    let ones =
        || stored::values(&home.state_dir(), &stored::OUTBOUND).iter().filter(|value| **value == 1.0).count();
    let before = ones();
    let processed = health["agent"]["readings_processed"].as_u64().unwrap();
    crate::sources::processed(&daemon, processed + 20).await;
    assert_eq!(ones(), before);
    daemon.notified("RELOADING=1").await;
    daemon.notified_times("READY=1", 2).await;
    daemon.stop().await;
}

#[tokio::test]
async fn who_asks_for_a_reload_hears_what_came_of_it() {
    let door = Door::new();
    let home = Home::new(&format!("{}{RULE}", door.section()));
    let daemon = home.start().await;
    assert_eq!(ask(&home).await, (Some(0), String::new()));
    home.configure("[[rules]]\nname = 'broken'\ncondition_expr = 'ctx.value >'\n[cloud]\nenabeld = true\n");
    let (code, errors) = ask(&home).await;
    assert_eq!(code, Some(78), "{errors}");
    assert!(errors.contains("config.toml:3") && errors.contains("did you mean 'enabled'"), "{errors}");
    home.configure(&format!("{}{RULE}[store]\nsize_max_mb = 512\n", door.section()));
    let (code, errors) = ask(&home).await;
    assert_eq!(code, Some(78), "{errors}");
    assert!(errors.contains("store.size_max_mb cannot change while the agent runs"), "{errors}");
    let last = &daemon.health().await["agent"]["last_reload"];
    assert_eq!(last["applied"], false);
    assert!(last["reason"].as_str().unwrap().contains("store.size_max_mb"), "{last}");
    home.configure(&door.section());
    assert_eq!(ask(&home).await.0, Some(0));
    assert_eq!(daemon.health().await["agent"]["last_reload"]["applied"], true);
    daemon.stop().await;
    let (code, errors) = ask(&home).await;
    assert_eq!(code, Some(1));
    assert!(errors.contains("no agent runs on"), "{errors}");
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_every_problem_is_in_the_log() {
    let door = Door::new();
    let home = Home::new(&format!("{}{RULE}", door.section()));
    let mut daemon = home.start().await;
    door.open(&daemon).await;
    home.configure("[[rules]]\nname = 'broken'\ncondition_expr = 'ctx.value >'\n[cloud]\nenabeld = true\n");
    let outcome = reload(&mut daemon).await;
    assert!(outcome.contains("the reload was refused") && outcome.contains("ERROR"), "{outcome}");
    assert!(outcome.contains("config.toml:3") && outcome.contains("did you mean 'enabled'"), "{outcome}");
    let refused = daemon.notified_times("READY=1", 2).await;
    assert!(refused.contains("the last reload was refused"), "{refused}");
    door.post_values([99]).await;
    daemon.health_shows("the old rule fires", |health| health["agent"]["events_triggered"] == 1).await;
    // A bad file at SIGHUP is no obstacle to the next, good one.
    home.configure(&door.section());
    let outcome = reload(&mut daemon).await;
    assert!(outcome.contains("rules_changed=true"), "{outcome}");
    let ready = daemon.notified_times("READY=1", 3).await;
    assert!(!ready.contains("refused"), "{ready}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_key_that_needs_a_restart_is_refused_by_name_and_nothing_else_of_its_file_is_taken() {
    let door = Door::new();
    let home = Home::new(&format!("{}[store]\nsize_max_mb = 64\n", door.section()));
    let mut daemon = home.start().await;
    door.open(&daemon).await;
    home.configure(&format!("{}{RULE}[store]\nsize_max_mb = 32\n[health]\nport = 9999\n", door.section()));
    let outcome = reload(&mut daemon).await;
    assert!(outcome.contains("store.size_max_mb, health.port cannot change"), "{outcome}");
    assert!(outcome.contains("restart"), "{outcome}");
    door.post_values([99]).await;
    assert_eq!(daemon.health().await["agent"]["events_triggered"], 0);
    daemon.stop().await;
}

#[tokio::test]
async fn an_endpoint_that_moved_gets_what_waited_for_the_old_one() {
    let (old, new, door) = (Cloud::start().await, Cloud::start().await, Door::new());
    let refusing =
        crate::harness::endpoint::receiver::behaviour::Behaviour { fail: Some(500), ..Default::default() };
    old.behave(refusing);
    let slow = "backoff_max_seconds = 3600.0\n";
    let config = |cloud: &Cloud| {
        format!(
            "{}{}{EAGER_STORE}",
            cloud.section().replace("backoff_max_seconds = 0.3\n", slow),
            door.section()
        )
    };
    let home = Home::new(&config(&old));
    let mut daemon = home.start().await;
    door.open(&daemon).await;
    door.post_values(0..10).await;
    old.endpoint.totals("the old one refuses", |totals| totals.refused >= 2).await;
    home.configure(&config(&new));
    let outcome = reload(&mut daemon).await;
    assert!(outcome.contains("cloud_changed=true") && outcome.contains("sources_started=0"), "{outcome}");
    new.until_values(&(0..10).collect::<Vec<_>>()).await;
    assert!(daemon.health().await["cloud"]["endpoint"].as_str().unwrap() == new.endpoint.url);
    daemon.stop().await;
}

#[tokio::test]
async fn nothing_accepted_is_lost_by_reloads_in_full_flow() {
    let (cloud, door) = (Cloud::start().await, Door::new());
    let config = |round: u32| {
        format!("{}{}{}{EAGER_STORE}", door.section(), ticking("ticker", 100_000 + round), cloud.section())
    };
    let home = Home::new(&config(0));
    let mut daemon = home.start().await;
    door.open(&daemon).await;
    for round in 1..=5 {
        home.configure(&config(round));
        let values = round * 100..round * 100 + 100;
        let (_, outcome) = tokio::join!(door.post_values(values), reload(&mut daemon));
        assert!(outcome.contains("sources_started=1"), "{outcome}");
    }
    cloud.until_values(&(100..600).chain([100_005]).collect::<Vec<_>>()).await;
    daemon.stop().await;
}

#[tokio::test]
async fn two_hundred_reloads_under_load_lose_nothing_and_repeat_nothing() {
    let (cloud, door) = (Cloud::start().await, Door::new());
    let config = |limit: u32| {
        let rule = format!("[[rules]]\nname = 'r'\ncondition_expr = 'ctx.value > {limit}000000'\n");
        format!("{}{rule}{}{EAGER_STORE}", door.section(), cloud.section())
    };
    let home = Home::new(&config(0));
    let mut daemon = home.start().await;
    door.open(&daemon).await;
    for round in 1..=200_u32 {
        let is_good = round % 2 == 0;
        home.configure(&if is_good { config(round) } else { "[cloud]\nenabeld = 1\n".to_owned() });
        let values = round * 5..round * 5 + 5;
        let (_, outcome) = tokio::join!(door.post_values(values), reload(&mut daemon));
        let expected = if is_good { "rules_changed=true" } else { "did you mean 'enabled'" };
        assert!(outcome.contains(expected), "round {round}: {outcome}");
    }
    let values: Vec<_> = (5..1005).collect();
    cloud.until_values(&values).await;
    daemon.stop().await;
    let mut delivered: Vec<_> = cloud.items().iter().filter_map(|item| item["value"].as_f64()).collect();
    delivered.sort_by(f64::total_cmp);
    assert_eq!(delivered, values.into_iter().map(f64::from).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_unchanged_file_changes_nothing() {
    let home = Home::new(&ticking("a", 1));
    let mut daemon = home.start().await;
    let outcome = reload(&mut daemon).await;
    assert!(outcome.contains("nothing changed"), "{outcome}");
    assert_eq!(daemon.health().await["ingest"]["sources"][0]["restarts"], 0);
    daemon.stop().await;
}
