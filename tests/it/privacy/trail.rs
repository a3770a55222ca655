//! The audit trail of the real daemon, and the commands that read it.

use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::{records, run, verify, write_to};
use crate::harness::cloud::Cloud;
use crate::harness::daemon::{Daemon, EAGER_STORE, Home};
use crate::harness::{stored, write};
use crate::http_ingest::Door;

const POLICY: &str = "[privacy]\nredact_fields = ['*:name']\nhash_fields = ['*:email']\nlocal_only = ['*:room']\n\
    [privacy.record]\ncontroller = 'ACME Ltd, 1 Main Street'\npurpose = 'climate control'\n";

fn config(cloud: &Cloud, door: &Door, more: &str) -> String {
    format!("{}{more}{}{EAGER_STORE}", door.section(), cloud.section())
}

async fn reload(daemon: &mut Daemon) -> String {
    let lines = daemon.lines_so_far();
    daemon.signal(Signal::HUP);
    daemon.says_any_after(lines, &["reloaded", "the reload was refused"]).await
}

/// A store with a few batches delivered and all policies in the trail.
async fn delivered(more: &str) -> (Home, Daemon, Cloud, Door) {
    let (cloud, door) = (Cloud::start().await, Door::new());
    let home = Home::new(&config(&cloud, &door, more));
    let daemon = home.start().await;
    door.open(&daemon).await;
    for value in 0..5 {
        let reading = json!({"sensor_name": "hall", "value": value,
            "metadata": {"name": "ann", "email": "a@b", "room": {"of": "ann"}, "floor": 2}});
        assert_eq!(door.post(&reading.to_string()).await.0, 200);
        cloud.until_values(&[value]).await;
    }
    (home, daemon, cloud, door)
}

#[tokio::test]
async fn every_batch_that_arrived_is_in_the_trail_and_it_holds_through_kills() {
    let (home, mut daemon, cloud, door) = delivered(POLICY).await;
    for round in 0..3 {
        daemon.signal(Signal::KILL);
        daemon.wait_exit().await;
        let (code, said) = verify(&home).await;
        assert_eq!(code, Some(0), "{said}");
        daemon = home.start().await;
        door.open(&daemon).await;
        door.post_values([100 + round]).await;
        cloud.until_values(&[100 + round]).await;
    }
    daemon.stop().await;
    let records = records(&home.state_dir());
    for arrival in cloud.endpoint.receiver.arrivals() {
        let of_it = |(_, details): &&(String, Value)| details["batch_id"] == arrival.idempotency_key;
        let found: Vec<_> = records.iter().filter(of_it).collect();
        assert_eq!(found.len(), 1, "{}: {records:?}", arrival.idempotency_key);
        assert_eq!(found[0].1["count"], arrival.items);
    }
    let loads = records.iter().filter(|(action, _)| action == "policy_loaded").count();
    assert_eq!(loads, 4, "one for each start");
    let filtered: u64 = records
        .iter()
        .map(|(_, details)| details["filtered"]["rules"]["redact_fields[0]"].as_u64().unwrap_or(0))
        .sum();
    assert_eq!(filtered, 5);
}

#[tokio::test]
async fn what_is_altered_removed_or_cut_off_is_found_also_by_the_lines_of_the_readme() {
    let (home, daemon, _cloud, _door) = delivered(POLICY).await;
    daemon.stop().await;
    let copy = |name: &str| {
        let folder = home.path(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::copy(home.state_dir().join("edge_store.db"), folder.join("edge_store.db")).unwrap();
        folder
    };
    let (code, said) = verify(&home).await;
    assert_eq!(code, Some(0), "{said}");
    let whole = copy("whole");
    assert!(python(&whole.join("edge_store.db")), "the lines of the README find nothing in a whole trail");
    let head = said.lines().find_map(|line| line.strip_prefix("the newest is ")?.rsplit(' ').next()).unwrap();
    let expect = ["privacy", "verify", "whole", "--expect", head];
    assert_eq!(run(&home, &expect).await.0, Some(0));
    assert_eq!(run(&home, &["privacy", "verify", "whole", "--expect", "00"]).await.0, Some(1));

    for (name, sql, is_seen_by_python) in [
        (
            "altered",
            "UPDATE privacy_audit SET details = replace(details, '\"count\":1', '\"count\":2') WHERE id = 3",
            true,
        ),
        ("removed", "DELETE FROM privacy_audit WHERE id = 3", true),
        ("beheaded", "DELETE FROM privacy_audit WHERE id = 1", true),
        (
            "swapped",
            "UPDATE privacy_audit SET id = 99 WHERE id = 2; UPDATE privacy_audit SET id = 2 WHERE id = 3; UPDATE privacy_audit SET id = 3 WHERE id = 99",
            true,
        ),
        ("moved", "UPDATE privacy_audit SET timestamp = timestamp - 1 WHERE id = 2", true),
        ("cut", "DELETE FROM privacy_audit WHERE id > 4", false),
    ] {
        let folder = copy(name);
        write_to(&folder, sql);
        let (code, said, error) = run(&home, &["privacy", "verify", name]).await;
        assert_eq!(code, Some(1), "{name}: {said}{error}");
        assert!(said.contains("DOES NOT HOLD"), "{said}");
        let (_, json, _) = run(&home, &["privacy", "verify", name, "--json"]).await;
        let json: Value = serde_json::from_str(&json).unwrap();
        assert!(!json["broken"].as_array().unwrap().is_empty(), "{json}");
        assert_eq!(python(&folder.join("edge_store.db")), !is_seen_by_python, "{name}");
    }
}

/// Whether the lines of Python in the README find the trail whole.
fn python(database: &std::path::Path) -> bool {
    let readme = include_str!("../../../README.md");
    let lines = readme
        .split("```python\n")
        .nth(1)
        .expect("the README has lines of Python")
        .split("```")
        .next()
        .unwrap();
    assert!(lines.lines().count() <= 15, "they are as few as is promised");
    let output = Command::new("python3")
        .args(["-c", lines])
        .arg(database)
        .stdin(Stdio::null())
        .output()
        .expect("python3 runs; install it with: apt-get install python3");
    assert!(output.status.success() || String::from_utf8_lossy(&output.stderr).contains("AssertionError"));
    output.status.success()
}

#[tokio::test]
async fn a_report_says_what_left_and_what_was_filtered_by_which_rule() {
    let (home, daemon, _cloud, _door) = delivered(POLICY).await;
    daemon.stop().await;
    let (code, text, error) = run(&home, &["privacy", "report", "--config", "config.toml"]).await;
    assert_eq!(code, Some(0), "{error}");
    for part in [
        "ACME Ltd, 1 Main Street",
        "not given: privacy.record.contact",
        "Left the device: 5 items in",
        "redact_fields: *:name",
    ] {
        assert!(text.contains(part), "'{part}' is not in\n{text}");
    }
    let (_, json, _) =
        run(&home, &["privacy", "report", "--config", "config.toml", "--since", "1h", "--json"]).await;
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(report["total"]["readings"], json!({"redacted": 5, "hashed": 5, "local_only": 5}));
    assert_eq!(report["total"]["rules"]["hash_fields: *:email"], 5);
    assert_eq!(report["policies"][0]["delivery"], true);
    let arguments =
        ["privacy", "report", "--config", "config.toml", "--since", "2100-01-01T00:00:00Z", "--json"];
    let report: Value = serde_json::from_str(&run(&home, &arguments).await.1).unwrap();
    assert_eq!((&report["total"]["items"], &report["policies"].as_array().unwrap().len()), (&json!(0), &1));
}

#[tokio::test]
async fn explain_tells_of_stored_readings_and_events_what_leaves_under_this_and_under_another_policy() {
    let rule = "[[rules]]\nname = 'full'\ncondition_expr = 'ctx.value == 4'\nseverity = 'critical'\n";
    let (home, daemon, _cloud, _door) = delivered(&format!("{POLICY}{rule}")).await;
    let explain = |config: &'static str| {
        let home = &home;
        async move {
            let arguments = ["privacy", "explain", "--config", config, "--sensor", "ha*", "--json"];
            let (code, out, error) = run(home, &arguments).await;
            assert_eq!((code, error.as_str()), (Some(0), ""));
            serde_json::from_str::<Value>(&out).unwrap()
        }
    };
    let all = explain("config.toml").await;
    let reading = &all["readings"][0];
    assert_eq!((&all["readings"].as_array().unwrap().len(), &reading["lane"]), (&1, &json!("LOCAL")));
    let field = |reading: &Value, name: &str| {
        reading["fields"].as_array().unwrap().iter().find(|field| field["field"] == name).cloned()
    };
    let room = field(reading, "metadata.room").unwrap();
    assert_eq!((&room["leaves"], &room["rule"]), (&Value::Null, &json!("local_only: *:room")));
    assert_eq!(room["stored"], json!({"of": "ann"}));
    let email = field(reading, "metadata.email").unwrap();
    assert_eq!(email["stored"], email["leaves"], "it was hashed before it was stored");
    assert_eq!(field(reading, "metadata.name"), None, "what is redacted is not stored either");
    assert_eq!(field(reading, "metadata.floor").unwrap()["action"], "allow");

    let event = &all["events"][0];
    let told =
        (all["events"].as_array().unwrap().len(), &event["rule_name"], &event["action"], &event["lane"]);
    assert_eq!(told, (1, &json!("full"), &json!("allow"), &json!("CRITICAL")));
    let value = field(event, "sensor_readings[0].value").unwrap();
    assert_eq!((&value["leaves"], field(event, "sensor_readings[0].metadata.room")), (&json!(4.0), None));

    let state_dir = home.state_dir().display().to_string();
    write(
        &home.path("new.toml"),
        &format!(
            "[agent]\nstate_dir = '{state_dir}'\n[privacy]\nmask_fields = ['room.of']\ndrop_fields = ['floor']\n"
        ),
    );
    let all = explain("new.toml").await;
    assert_eq!(
        (&all["delivery"], &all["readings"][0]["rule"]),
        (&json!(false), &json!("drop_fields: floor"))
    );
    let event = &all["events"][0];
    assert_eq!((&event["action"], &event["rule"]), (&json!("drop"), &json!("drop_fields: floor")));
    let (_, text, _) = run(&home, &["privacy", "explain", "--config", "config.toml"]).await;
    assert!(text.contains("leaves the device") && !text.contains('\u{1b}'), "{text}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_key_that_is_rotated_holds_from_the_reload_on_and_its_id_is_in_the_trail() {
    let (home, mut daemon, cloud, door) = delivered(POLICY).await;
    let email = |items: Vec<Value>| items.last().unwrap()["metadata"]["email"].clone();
    let before = email(cloud.items());
    let (code, said, error) = run(&home, &["privacy", "rotate-key", "--config", "config.toml"]).await;
    assert_eq!(code, Some(0), "{said}{error}");
    let post = async |value: u32| {
        let reading = json!({"sensor_name": "hall", "value": value, "metadata": {"email": "a@b"}});
        door.post(&reading.to_string()).await;
        cloud.until_values(&[value]).await;
        email(cloud.items())
    };
    assert_eq!(post(50).await, before, "not before the reload");
    let outcome = reload(&mut daemon).await;
    assert!(outcome.contains("key_changed=true"), "{outcome}");
    assert_ne!(post(51).await, before);
    assert!(reload(&mut daemon).await.contains("nothing changed"));
    daemon.stop().await;
    let loads: Vec<_> =
        records(&home.state_dir()).into_iter().filter(|(action, _)| action == "policy_loaded").collect();
    assert_eq!(loads.len(), 2, "one for each load, none for a reload without a change");
    let id = |index: usize| loads[index].1["key_id"].as_str().unwrap().to_owned();
    assert!(said.contains(&id(0)) && said.contains(&id(1)), "{said}: {loads:?}");
    assert_eq!(loads[0].1["policy_hash"], loads[1].1["policy_hash"]);
    assert_eq!(verify(&home).await.0, Some(0));
}

#[tokio::test]
async fn what_was_taken_in_while_delivery_was_disabled_never_leaves() {
    let (cloud, door) = (Cloud::start().await, Door::new());
    let stages = "[[rules]]\nname = 'silent'\ncondition_expr = 'True'\nseverity = 'critical'\nsilent_seconds = 1.0\n\
        [[windows.definitions]]\nname = 'long'\nsensor_name = '*'\nduration_seconds = 2.0\n";
    let off = |more: &str| {
        let section = cloud.section().replace("enabled = true", "enabled = false");
        format!("{}{more}{section}{EAGER_STORE}", door.section())
    };
    let home = Home::new(&off(stages));
    let mut daemon = home.start().await;
    door.open(&daemon).await;
    let health = daemon.health().await;
    assert_eq!(health["privacy"]["leaves_device"], "nothing: delivery is disabled");
    assert_eq!(health["cloud"]["delivery"], "disabled: nothing leaves the device");
    for value in 0..20 {
        door.post(&json!({"sensor_name": "private", "value": value}).to_string()).await;
    }
    door.post(r#"{"sensor_name": "private-refused", "value": "none"}"#).await;
    home.configure(&config(&cloud, &door, stages));
    reload(&mut daemon).await;
    assert_eq!(daemon.health().await["cloud"]["delivery"], "enabled");
    door.open(&daemon).await;
    door.post(r#"{"sensor_name": "public", "value": 77}"#).await;
    let silent = |item: &Value| item["rule_name"] == "silent" && item.to_string().contains("public");
    cloud.until_item("silence after the switch is told", silent).await;
    // Another start looks at what an earlier one left.
    daemon.stop().await;
    let daemon = home.start().await;
    door.open(&daemon).await;
    door.post(r#"{"sensor_name": "public", "value": 78}"#).await;
    cloud.until_values(&[77, 78]).await;
    daemon.stop().await;
    let arrived = format!("{:?}", cloud.endpoint.receiver.arrivals());
    assert!(arrived.contains("public") && !arrived.contains("private"), "{arrived}");
    let local = stored::items(&home.state_dir(), &stored::LOCAL);
    assert!(local.iter().filter(|item| item["sensor_name"] == "private").count() >= 20);
    let delivery: Vec<_> = records(&home.state_dir())
        .into_iter()
        .filter(|(action, _)| action == "policy_loaded")
        .map(|(_, details)| details["delivery"].clone())
        .collect();
    assert_eq!(delivery, [json!(false), json!(true), json!(true)]);
}
