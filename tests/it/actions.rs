//! What events start: real webhooks over TLS, a real broker, real programs; and what happens when they hang.

mod command;
mod mqtt;
mod webhook;

use serde_json::{Value, json};

use crate::harness::daemon::{Daemon, EAGER_STORE, Home};
use crate::http_ingest::Door;

/// A daemon with one rule, whose events start `actions`, and the door for its readings.
async fn daemon(actions: &str, more: &str) -> (Daemon, Door, Home) {
    daemon_in(&[], actions, more).await
}

/// The same with `environment` besides.
async fn daemon_in(environment: &[(&str, &str)], actions: &str, more: &str) -> (Daemon, Door, Home) {
    let door = Door::new();
    let home = Home::new(&config(&door, actions, more));
    let home = environment.iter().fold(home, |home, (name, value)| home.env(name, value));
    let daemon = home.start().await;
    door.open(&daemon).await;
    (daemon, door, home)
}

fn config(door: &Door, actions: &str, more: &str) -> String {
    let names: Vec<_> = actions.lines().filter_map(|line| line.strip_prefix("name = ")).collect();
    let names = names.join(", ");
    format!(
        "{}[[rules]]\nname = 'hot'\ncondition_expr = 'ctx.value > 85.0'\nactions = [{names}]\n{actions}{more}{EAGER_STORE}",
        door.section()
    )
}

/// Takes a reading in that fires the rule.
async fn fire(door: &Door, sensor: &str, value: u32, metadata: Value) {
    let reading = json!({"sensor_name": sensor, "timestamp": 1_717_156_800, "value": value, "unit": "C", "metadata": metadata});
    assert_eq!(door.post(&reading.to_string()).await.0, 200);
}

/// Waits until so many events of the first action ended so.
async fn outcome(daemon: &Daemon, outcome: &str, count: u64) -> Value {
    let what = format!("{count} events are {outcome}");
    daemon.health_shows(&what, |health| health["actions"][0][outcome] == count).await
}

#[tokio::test]
async fn what_may_not_leave_the_device_reaches_no_webhook_and_a_program_only_without_its_reading() {
    let (hook, folder) = (webhook::Hook::start(204).await, tempfile::tempdir().unwrap());
    let program = command::program(folder.path(), "cat >>\"$1\"");
    let out = folder.path().join("out");
    let actions = format!(
        "{}[[actions]]\nname = 'run'\ntype = 'command'\ncommand = ['{}', '{}']\n",
        hook.action(""),
        program.display(),
        out.display()
    );
    let privacy = "[privacy]\nredact_fields = ['operator']\nlocal_only = ['bedroom', 'oven:gps']\nhash_fields = ['badge']\n";
    let (daemon, door, _home) = daemon(&actions, privacy).await;
    fire(&door, "bedroom", 90, json!({})).await;
    fire(&door, "oven", 91, json!({"operator": "ann", "gps": [1, 2], "badge": "b-7", "line": "a"})).await;
    outcome(&daemon, "succeeded", 1).await;
    let health =
        daemon.health_shows("the program ran", |health| health["actions"][1]["succeeded"] == 2).await;
    assert_eq!(health["actions"][0]["withheld"], 1);
    let bodies = hook.bodies();
    assert_eq!(bodies.len(), 1);
    let metadata = &bodies[0]["sensor_readings"][0]["metadata"];
    assert_eq!(metadata["line"], "a");
    assert_eq!(metadata["badge"].as_str().map(str::len), Some(32), "{metadata}");
    let seen = std::fs::read_to_string(out).unwrap();
    for private in ["ann", "gps", "b-7", "bedroom", "90.0"] {
        assert!(!seen.contains(private) && !bodies[0].to_string().contains(private), "{private} in {seen}");
    }
    let first: Value = serde_json::from_str(seen.lines().next().unwrap()).unwrap();
    assert_eq!((&first["rule_name"], &first["sensor_readings"]), (&json!("hot"), &json!([])));
    daemon.stop().await;
}

#[tokio::test]
async fn ten_thousand_events_before_an_action_that_hangs_are_stored_and_cost_no_memory() {
    let hook = webhook::Hook::hanging().await;
    let (daemon, door, home) = daemon(&hook.action("timeout_seconds = 60\n"), "").await;
    let before = daemon.health().await["memory"]["used_bytes"].as_u64().unwrap();
    for round in 0..20 {
        let readings: Vec<_> =
            (0..500).map(|value| json!({"sensor_name": "s", "value": 1000 + round * 500 + value})).collect();
        assert_eq!(door.post(&json!(readings).to_string()).await.0, 200);
    }
    let health =
        daemon.health_shows("all fired", |health| health["agent"]["events_triggered"] == 10_000).await;
    let action = &health["actions"][0];
    // One is being worked on, and the queue is full.
    assert_eq!((&action["started"], &action["waiting"]), (&json!(1), &json!(256)), "{action}");
    assert_eq!(action["dropped"], 10_000 - 257);
    let grown = health["memory"]["used_bytes"].as_u64().unwrap().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes more");
    let stored = crate::harness::stored::items(&home.state_dir(), &crate::harness::stored::LOCAL);
    assert_eq!(stored.iter().filter(|item| item["rule_name"] == "hot").count(), 10_000);
    let (_, metrics) = daemon.get("/metrics").await;
    let dropped =
        "pyvorin_edge_action_events_total{action=\"hook\",type=\"webhook\",outcome=\"dropped\"} 9743";
    assert!(metrics.contains(dropped), "{metrics}");
    let log = daemon.stop().await;
    assert_eq!(log.matches("an action cannot keep up").count(), 1, "{log}");
    assert!(log.contains("the agent stopped before an action came to them"), "{log}");
}

#[tokio::test]
async fn a_reload_brings_new_actions_and_lets_running_ones_finish() {
    let folder = tempfile::tempdir().unwrap();
    let gate = folder.path().join("gate");
    let slow = command::program(folder.path(), "cat >/dev/null; read line <\"$1\"; echo done >\"$1.out\"");
    assert!(std::process::Command::new("mkfifo").arg(&gate).status().unwrap().success());
    let action = |name: &str, arguments: &str| {
        format!(
            "[[actions]]\nname = '{name}'\ntype = 'command'\ntimeout_seconds = 60\ncommand = [{arguments}]\n"
        )
    };
    let old = action("slow", &format!("'{}', '{}'", slow.display(), gate.display()));
    let (mut daemon, door, home) = daemon(&old, "").await;
    fire(&door, "oven", 90, json!({})).await;
    outcome(&daemon, "started", 1).await;
    home.configure(&config(&door, &action("quick", "'/bin/true'"), ""));
    let lines = daemon.lines_so_far();
    daemon.signal(rustix::process::Signal::HUP);
    let outcome = daemon.says_any_after(lines, &["reloaded", "refused"]).await;
    assert!(outcome.contains("actions_changed=true"), "{outcome}");
    fire(&door, "oven", 91, json!({})).await;
    let quick =
        |health: &Value| health["actions"][0]["name"] == "quick" && health["actions"][0]["succeeded"] == 1;
    daemon.health_shows("the new one ran", quick).await;
    tokio::fs::write(&gate, "go\n").await.unwrap();
    let finished = daemon.says("an action is done action=slow").await;
    assert!(finished.contains("rule=hot"), "{finished}");
    assert!(folder.path().join("gate.out").exists());
    daemon.stop().await;
}

#[tokio::test]
async fn one_pass_waits_for_what_its_events_started() {
    let hook = webhook::Hook::start(204).await;
    let door = Door::new();
    let device = "[[sensors.devices]]\nname = 'oven'\ningest_type = 'simulator'\nbaseline = 100.0\nmin_value = 90.0\nmax_value = 110.0\n";
    let home = Home::new(&config(&door, &hook.action(""), "").replace(&door.section(), device));
    let mut command = home.command();
    let (code, _, said) =
        crate::harness::process::finished(command.args(["--once", "--config"]).arg(home.config_file())).await;
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(hook.bodies().len(), 1, "{said}");
}
