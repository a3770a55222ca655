//! The black box across the ends that an agent can come to, and the command that reads it.

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::cloud::Cloud;
use crate::harness::daemon::{EAGER_STORE, Home};
use crate::harness::endpoint::receiver::behaviour::Behaviour;
use crate::harness::process::finished;
use crate::harness::{until, write};

const SIMULATOR: &str =
    "[[sensors.devices]]\nname = 'secret_lab'\ningest_type = 'simulator'\ninterval_seconds = 0.01\n";

/// What `blackbox` prints with these arguments.
async fn print(home: &Home, arguments: &[&str]) -> String {
    let mut command = home.command();
    let (code, out, error) = finished(command.arg("blackbox").args(arguments)).await;
    assert_eq!(code, Some(0), "{error}");
    out
}

async fn records(home: &Home) -> Vec<Value> {
    let text = print(home, &["--config", "config.toml", "--json"]).await;
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn whats(home: &Home) -> Vec<String> {
    records(home).await.iter().map(|record| record["what"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_killed_run_is_told_from_one_that_was_stopped() {
    let home = Home::new(SIMULATOR);
    let mut daemon = home.start().await;
    assert_eq!(daemon.health().await["agent"]["previous_run"], Value::Null);
    daemon.signal(Signal::KILL);
    daemon.wait_exit().await;

    let daemon = home.start().await;
    let line = daemon.says("the run before this one did not end on request").await;
    assert!(line.contains("ended without a word in this boot: killed; last: ready"), "{line}");
    assert_eq!(daemon.health().await["agent"]["previous_run"]["end"], "killed");
    daemon.stop().await;

    let daemon = home.start().await;
    assert_eq!(daemon.health().await["agent"]["previous_run"]["end"], "stopped");
    let log = daemon.stop().await;
    assert!(!log.contains("did not end on request"), "{log}");
    let run = ["start", "ready", "stopping", "stopped"].map(str::to_owned);
    assert_eq!(whats(&home).await, [&run[..2], &run, &run].concat());
    let stopping = &records(&home).await[4]["detail"];
    assert!(stopping.as_str().unwrap().contains("uploader moved"), "{stopping}");
}

#[tokio::test]
async fn a_failed_run_leaves_its_reason() {
    let home = Home::new(SIMULATOR);
    home.start().await.stop().await;
    write(&home.state_dir().join("edge_store.db"), "not a database, and long enough to say so.........");
    write(&home.state_dir().join("privacy.key"), "no key");
    let mut daemon = home.spawn();
    assert_eq!(daemon.wait_exit().await.code, Some(1));
    let last = records(&home).await.pop().unwrap();
    assert_eq!(last["what"], "failed", "{last}");
    assert!(!last["detail"].as_str().unwrap().is_empty(), "{last}");
}

#[tokio::test]
async fn the_conditions_of_a_run_are_recorded_without_names() {
    let cloud = Cloud::behaving(Behaviour { fail: Some(503), ..Behaviour::default() }).await;
    let config = format!("{SIMULATOR}{}{EAGER_STORE}", cloud.section());
    let home = Home::new(&config);
    let mut daemon = home.start().await;
    until("the trouble is recorded", async || {
        whats(&home).await.contains(&"begins".to_owned()).then_some(())
    })
    .await;
    cloud.behave(Behaviour::default());
    until("its end is recorded", async || whats(&home).await.contains(&"ends".to_owned()).then_some(()))
        .await;
    home.configure(&format!("{config}[health]\nenabled = false\n"));
    daemon.signal(Signal::HUP);
    daemon.says("the reload was refused").await;
    home.configure(&format!("{config}[[sensors.devices]]\nname = 'secret_lab'\n"));
    let lines = daemon.lines_so_far();
    daemon.signal(Signal::HUP);
    daemon.says_any_after(lines, &["the reload was refused"]).await;
    daemon.stop().await;
    let text = print(&home, &["--state-dir", home.state_dir().to_str().unwrap()]).await;
    for expected in
        ["delivery is in trouble: ", "health.enabled cannot change", "the configuration has 2 problems"]
    {
        assert!(text.contains(expected), "'{expected}' is not in\n{text}");
    }
    assert!(!text.contains("secret_lab"), "{text}");
}

#[tokio::test]
async fn a_copy_and_a_running_agents_file_read_the_same() {
    let home = Home::new(SIMULATOR);
    let daemon = home.start().await;
    let running = print(&home, &["--config", "config.toml"]).await;
    std::fs::copy(home.state_dir().join("blackbox"), home.path("copy")).unwrap();
    assert_eq!(print(&home, &["copy"]).await, running);
    assert!(running.lines().next().unwrap().starts_with("no  time (UTC)"), "{running}");
    let last = print(&home, &["copy", "--last", "1", "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&last).unwrap()["what"], "ready");
    daemon.stop().await;
}

#[tokio::test]
async fn a_black_box_that_cannot_be_had_does_not_keep_the_agent_from_running() {
    let home = Home::new(SIMULATOR);
    std::fs::create_dir_all(home.state_dir().join("blackbox")).unwrap();
    let daemon = home.start().await;
    daemon.says("the black box cannot be opened; the agent runs on without it").await;
    daemon.stop().await;
}
