//! Rules on a running agent.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::cloud::Cloud;
use crate::harness::daemon::{EAGER_STORE, Home};
use crate::harness::process::finished;
use crate::harness::{stored, until};
use crate::http_ingest::Door;
use crate::sources::exec;

#[tokio::test]
async fn a_sensor_that_goes_silent_is_told_of_without_any_reading_coming() {
    let cloud = Cloud::start().await;
    let rules = "[[rules]]\nname = 'gone'\nsilent_seconds = 1\nseverity = 'critical'\n\
        condition_expr = \"ctx.sensor_name == 'meter'\"\n";
    let home =
        Home::new(&format!("{}{rules}{}", exec("meter", "echo 1; echo 2; exec sleep 60"), cloud.section()));
    let daemon = home.start().await;
    let events = async || -> Option<Vec<Value>> {
        let items = cloud.items();
        let events: Vec<_> = items.iter().filter(|item| item["rule_name"] == "gone").cloned().collect();
        (!events.is_empty()).then_some(events)
    };
    let events = until("the event of the silent sensor", events).await;
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["sensor_readings"][0]["value"], 2.0);
    let silent = events[0]["metadata"]["silent_seconds"].as_f64().unwrap();
    assert!((1.0..10.0).contains(&silent), "{silent}");
    daemon.stop().await;
}

/// Rules of every kind that remembers something.
const KEPT: &str = "[[rules]]\nname = 'cooled'\ncondition_expr = 'ctx.value > 70'\ncooldown_seconds = 5\n\
    [[rules]]\nname = 'held'\ncondition_expr = 'ctx.value > 20'\nfor_seconds = 2\ncooldown_seconds = 3\n\
    [[rules]]\nname = 'jump'\ncondition_expr = 'prev.value is not None and ctx.value - prev.value > 50'\n\
    [[rules]]\nname = 'latched'\ncondition_expr = 'ctx.value > 80'\nclear_expr = 'ctx.value < 20'\n\
    [[rules]]\nname = 'both'\nall_of = ['cooled', 'jump']\nwithin_seconds = 3\ngroup_by = 'prefix'\ncooldown_seconds = 2\n\
    [[rules]]\nname = 'wide'\nwindow = 'w'\ncondition_expr = 'win.max - win.min > 40'\n\
    [windows.w]\nsensor_name = 'plant*'\nduration_seconds = 2\n";

/// So many parts of a load of three sensors, the same each time, with times of their own from `start` on.
fn load(start: f64, parts: u32) -> Vec<String> {
    let mut random = fastrand::Rng::with_seed(4);
    let mut part = |part: u32| {
        let reading = |step: u32| {
            let time = start + f64::from(part * 30 + step) / 10.0;
            let value = (random.f64() * 1000.0).round() / 10.0;
            json!({"sensor_name": format!("plant/{}", step % 3), "timestamp": time, "value": value, "unit": "C"})
        };
        json!((0..30).map(reading).collect::<Vec<_>>()).to_string()
    };
    (0..parts).map(&mut part).collect()
}

/// Rule, sensor and time of every event of [`KEPT`] that is stored, in order of their times.
fn events(home: &Home) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let items = stored::items(&home.state_dir(), &stored::LOCAL);
    let of_kept = |item: &&Value| item["rule_name"].is_string() && item["rule_name"] != "other";
    let event = |item: &Value| {
        let sensor = text(&item["sensor_readings"][0]["sensor_name"]);
        (item["timestamp"].to_string(), text(&item["rule_name"]), sensor)
    };
    let mut events: Vec<_> = items.iter().filter(of_kept).map(event).collect();
    events.sort();
    events
}

#[tokio::test]
async fn fifty_reloads_under_load_lose_no_event_and_repeat_none() {
    let parts = load(1_717_156_800.0, 50);
    let mut runs = Vec::new();
    for is_reloaded in [false, true] {
        let door = Door::new();
        let config = |limit: usize| {
            let other = format!("[[rules]]\nname = 'other'\ncondition_expr = 'ctx.value > {limit}'\n");
            // It comes and goes in front of the others, which get other numbers by that.
            let other = if limit.is_multiple_of(3) { String::new() } else { other };
            format!("{}{other}{KEPT}{EAGER_STORE}", door.section())
        };
        let home = Home::new(&config(0));
        let mut daemon = home.start().await;
        door.open(&daemon).await;
        for (number, part) in (1..).zip(&parts) {
            let posted = async { assert_eq!(door.post(part).await.0, 200) };
            if !is_reloaded {
                posted.await;
                continue;
            }
            home.configure(&config(number));
            let lines = daemon.lines_so_far();
            daemon.signal(Signal::HUP);
            let (outcome, ()) =
                tokio::join!(daemon.says_any_after(lines, &["reloaded", "the reload was refused"]), posted);
            assert!(outcome.contains("rules_changed=true"), "{outcome}");
        }
        daemon.stop().await;
        runs.push(events(&home));
    }
    for name in ["cooled", "held", "jump", "latched", "both", "wide"] {
        assert!(runs[0].iter().filter(|(_, rule, _)| rule == name).count() > 5, "{name}: {:?}", runs[0]);
    }
    assert_eq!(runs[0], runs[1]);
}

/// Has `rules test` look at what the daemon of `home` stored, and returns what it prints as JSON.
async fn test_rules(home: &Home, more: &[&str]) -> Value {
    let mut command = home.command();
    command.args(["rules", "test", "--json", "--limit", "3", "--running"]).arg(home.config_file()).args(more);
    let (code, out, error) = finished(&mut command).await;
    assert_eq!(code, Some(0), "{error}");
    serde_json::from_str(&out).unwrap()
}

#[tokio::test]
async fn rules_are_tried_on_what_a_running_agent_stored_and_the_present_ones_fire_what_they_fired() {
    let (cloud, door) = (Cloud::start().await, Door::new());
    let privacy = "[privacy]\nlocal_only = ['plant/1', 'plant/2:note']\n";
    let config = format!("{}{KEPT}{privacy}{EAGER_STORE}", door.section());
    let home = Home::new(&format!("{config}{}", cloud.section()));
    let daemon = home.start().await;
    door.open(&daemon).await;
    let start = pyvorin_edge::clock::unix_seconds().floor() - 3600.0;
    for part in load(start, 20) {
        // What leaves of a note differs from what stays, so that it is stored twice.
        assert_eq!(door.post(&part.replace("\"unit\"", "\"metadata\":{\"note\":1},\"unit\"")).await.0, 200);
    }
    let live = |name: &str| {
        let tables: Vec<_> = stored::OUTBOUND.into_iter().chain(stored::LOCAL).collect();
        let items = stored::items(&home.state_dir(), &tables);
        let mut seen: Vec<_> = items
            .iter()
            .filter(|item| item["rule_name"] == name)
            .map(|item| format!("{} {}", item["timestamp"], item["sensor_readings"][0]["sensor_name"]))
            .collect();
        seen.sort();
        seen.len() as u64
    };
    let found = test_rules(&home, &["--last", "2h"]).await;
    assert_eq!(found["readings"], 600);
    for rule in found["rules"].as_array().unwrap() {
        let name = rule["name"].as_str().unwrap();
        let count = rule["events"].as_u64().unwrap();
        assert!(count > 3, "{rule}");
        assert_eq!(count, live(name), "{name}");
    }
    assert_eq!(test_rules(&home, &["--last", "10m"]).await["readings"], 0);

    let new = home.path("new.toml");
    let changed = KEPT
        .replace("ctx.value > 70", "ctx.value > 75")
        .replace("name = 'jump'", "name = 'leap'")
        .replace("'jump'", "'leap'");
    std::io::Write::write_all(&mut std::fs::File::create(&new).unwrap(), changed.as_bytes()).unwrap();
    let new = new.to_str().unwrap();
    let found = test_rules(&home, &["--last", "2h", "--config", new]).await;
    let rule = |name: &str| {
        let rules = found["rules"].as_array().unwrap();
        rules.iter().find(|rule| rule["name"] == name).unwrap().clone()
    };
    let count = |name: &str, key: &str| rule(name)[key].as_u64().unwrap();
    assert_eq!((rule("held")["change"].as_str(), count("held", "only_old")), (Some("same"), 0));
    assert_eq!((count("jump", "new"), rule("jump")["change"].as_str()), (0, Some("gone")));
    assert_eq!((count("leap", "only_new"), rule("leap")["change"].as_str()), (live("jump"), Some("new")));
    let cooled = rule("cooled");
    assert_eq!(cooled["change"], "changed");
    let same = count("cooled", "old") - count("cooled", "only_old");
    assert_eq!(count("cooled", "new"), same + count("cooled", "only_new"), "{cooled}");
    assert!(count("cooled", "only_old") > 0, "{cooled}");
    let only_new = &found["only_new"];
    assert_eq!(only_new["newest"].as_array().unwrap().len(), 3);
    let all: u64 =
        found["rules"].as_array().unwrap().iter().filter_map(|rule| rule["only_new"].as_u64()).sum();
    assert_eq!(only_new["count"], all);
    let health = daemon.health().await;
    assert_eq!(health["status"], "healthy", "{health}");
    daemon.stop().await;
}

#[tokio::test]
async fn rules_fire_what_they_would_have_however_often_the_agent_is_killed() {
    let parts = load(1_717_156_800.0, 24);
    let mut runs = Vec::new();
    for is_killed in [false, true] {
        let door = Door::new();
        let home = Home::new(&format!("{}{KEPT}{EAGER_STORE}", door.section()));
        let mut daemon = home.start().await;
        door.open(&daemon).await;
        for (number, part) in parts.iter().enumerate() {
            if is_killed && number % 3 == 2 {
                daemon.signal(Signal::KILL);
                daemon.wait_exit().await;
                daemon = home.start().await;
                door.open(&daemon).await;
            }
            assert_eq!(door.post(part).await.0, 200);
        }
        daemon.stop().await;
        runs.push(events(&home));
    }
    for name in ["cooled", "held", "jump", "latched", "both", "wide"] {
        assert!(runs[0].iter().filter(|(_, rule, _)| rule == name).count() > 3, "{name}: {:?}", runs[0]);
    }
    assert_eq!(runs[0], runs[1]);
}

#[tokio::test]
async fn a_sensor_that_goes_silent_while_the_agent_is_away_is_told_of_once() {
    let door = Door::new();
    let rule = "[[rules]]\nname = 'gone'\nsilent_seconds = 1\nseverity = 'critical'\n";
    let home = Home::new(&format!("{}{rule}{EAGER_STORE}", door.section()));
    let silent = |sensor: &str| {
        let items = stored::items(&home.state_dir(), &stored::LOCAL);
        let is_of_it = |item: &&Value| {
            item["rule_name"] == "gone" && item["sensor_readings"][0]["sensor_name"] == sensor
        };
        items.iter().filter(is_of_it).cloned().collect::<Vec<_>>()
    };
    let told = async |sensor: &str| {
        let is_there = async || silent(sensor).first().cloned();
        until("the silence is told", is_there).await
    };
    let reading = |sensor: &str| json!({"sensor_name": sensor, "value": 7}).to_string();
    let mut daemon = home.start().await;
    door.open(&daemon).await;
    assert_eq!(door.post(&reading("meter")).await.0, 200);
    daemon.signal(Signal::KILL);
    daemon.wait_exit().await;
    assert_eq!(silent("meter"), Vec::<Value>::new());

    let started = pyvorin_edge::clock::unix_seconds();
    let mut daemon = home.start().await;
    let event = told("meter").await;
    assert_eq!(event["sensor_readings"][0]["value"], 7.0);
    // It is listened for as long anew, and the time away is no silence.
    let seconds = event["metadata"]["silent_seconds"].as_f64().unwrap();
    assert!(
        event["timestamp"].as_f64().unwrap() >= started + 1.0 && (1.0..10.0).contains(&seconds),
        "{event}"
    );
    daemon.signal(Signal::KILL);
    daemon.wait_exit().await;

    let daemon = home.start().await;
    door.open(&daemon).await;
    assert_eq!(door.post(&reading("other")).await.0, 200);
    told("other").await;
    assert_eq!(silent("meter").len(), 1, "{:?}", silent("meter"));
    assert_eq!(door.post(&reading("meter")).await.0, 200);
    let again = async || (silent("meter").len() == 2).then_some(());
    until("its next silence is told", again).await;
    daemon.stop().await;
}
