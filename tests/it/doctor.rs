//! `doctor` and `status` beside a real agent, a real broker and a real endpoint, and without them.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::broker::{Access, Broker, Options};
use crate::harness::cloud::Cloud;
use crate::harness::daemon::{EAGER_STORE, Home};
use crate::harness::endpoint::Pki;
use crate::harness::process::{finished, free_port};
use crate::harness::{until, write};

const SIMULATOR: &str =
    "[[sensors.devices]]\nname = 'boiler'\ningest_type = 'simulator'\ninterval_seconds = 0.01\n";

/// Runs the agent with these arguments behind the configuration; its exit code and what it printed.
async fn run(home: &Home, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = home.command();
    // Its proxies are none of the test's.
    for name in ["HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"] {
        command.env_remove(name);
    }
    command.args(["--config", "config.toml"]).args(arguments);
    let (code, out, error) = finished(&mut command).await;
    (code, out + &error)
}

/// What the doctor found, by the name of the check.
async fn doctor(home: &Home) -> BTreeMap<String, Value> {
    let (_, text) = run(home, &["doctor", "--json"]).await;
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let checks = report["checks"].as_array().unwrap().iter();
    checks.map(|check| (check["name"].as_str().unwrap().to_owned(), check.clone())).collect()
}

fn assert_level(checks: &BTreeMap<String, Value>, name: &str, level: &str) {
    assert_eq!(checks[name]["level"], level, "{name}: {}", checks[name]);
}

fn mqtt(broker: &Broker, more: &str) -> String {
    format!(
        "[ingest.mqtt]\nhost = 'localhost'\nport = {}\nbackoff_min_seconds = 0.05\nbackoff_max_seconds = 0.1\n{more}\n\
         [[sensors.devices]]\nname = 'plant'\ningest_type = 'mqtt'\ntopic = 'plant/#'\n",
        broker.port
    )
}

/// A configuration that puts the health page where the daemon of `home` has it.
fn at_health(home: &Home, config: &str) {
    home.configure(&format!("{config}[health]\nport = {}\n", home.health_address().port()));
}

/// Names, sizes and times of what is in a folder.
fn listing(folder: &Path) -> Vec<(String, u64, std::time::SystemTime)> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let mut found: Vec<_> = entries
        .map(|entry| {
            let about = entry.metadata().unwrap();
            (entry.file_name().into_string().unwrap(), about.len(), about.modified().unwrap())
        })
        .collect();
    found.sort();
    found
}

#[tokio::test]
async fn an_agent_that_works_is_found_so_and_nothing_is_delivered_for_it() {
    let cloud = Cloud::start().await;
    let pki = Pki::named("broker authority");
    let broker = Broker::start(Options { access: Access::Tls(&pki), ..Options::default() }).await;
    let tls = format!("tls = true\nca_file = '{}'", pki.ca_file().display());
    let home = Home::new("");
    at_health(&home, &format!("{}{}", mqtt(&broker, &tls), cloud.section()));
    let checks = doctor(&home).await;
    for name in ["configuration", "name_resolution", "connection", "endpoint", "broker", "broker_certificate"]
    {
        assert_level(&checks, name, "ok");
    }
    assert_level(&checks, "agent", "not_applicable");
    assert!(checks["endpoint"]["found"].as_str().unwrap().contains("405"), "{}", checks["endpoint"]);
    assert!(cloud.endpoint.receiver.arrivals().is_empty(), "it delivered something");
    assert!(!home.state_dir().exists(), "it made something");

    let daemon = home.start().await;
    daemon
        .health_shows("the broker is there", |health| health["ingest"]["adapters_connected"][0] == "mqtt")
        .await;
    let checks = doctor(&home).await;
    for name in ["agent", "store", "client_id", "black_box", "broker", "endpoint"] {
        assert_level(&checks, name, "ok");
    }
    daemon.stop().await;
    let before = listing(&home.state_dir());
    assert_level(&doctor(&home).await, "store", "ok");
    assert_eq!(listing(&home.state_dir()), before, "looking changes nothing");
}

#[tokio::test]
async fn what_is_wrong_with_endpoint_and_broker_is_told_apart() {
    let cloud = Cloud::start().await;
    let broker = Broker::start(Options { access: Access::Password("right"), ..Options::default() }).await;
    let wrong = mqtt(&broker, "username = 'edge'\npassword = 'wrong-4711'");
    let section = cloud.section();
    let untrusted = section.lines().filter(|line| !line.starts_with("ca_file")).collect::<Vec<_>>();
    let home = Home::new(&format!("{wrong}{}\n", untrusted.join("\n")));
    let (code, text) = run(&home, &["doctor"]).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(!text.contains("4711") && !text.contains("test-key"), "{text}");
    let checks = doctor(&home).await;
    assert_level(&checks, "connection", "error");
    assert!(
        checks["connection"]["found"].as_str().unwrap().contains("certificate"),
        "{}",
        checks["connection"]
    );
    assert!(checks["connection"]["mend"].as_str().unwrap().contains("ca_file"), "{}", checks["connection"]);
    assert_level(&checks, "endpoint", "unknown");
    assert_level(&checks, "broker", "error");
    assert!(checks["broker"]["mend"].as_str().unwrap().contains("password"), "{}", checks["broker"]);

    let port = free_port();
    home.configure(&format!(
        "[cloud]\nenabled = true\nendpoint = 'http://127.0.0.1:{port}/'\n[ingest.mqtt]\nhost = 'no-such-host.invalid'\n\
         [[sensors.devices]]\nname = 'plant'\ningest_type = 'mqtt'\ntopic = 'a'\n"
    ));
    let checks = doctor(&home).await;
    assert!(checks["connection"]["found"].as_str().unwrap().contains("refused"), "{}", checks["connection"]);
    assert_level(&checks, "broker", "error");
}

#[tokio::test]
async fn peers_that_keep_silent_hold_it_up_for_a_bounded_time() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let home = Home::new(&format!(
        "[cloud]\nenabled = true\nendpoint = 'https://127.0.0.1:{port}/'\n[health]\nport = {port}\n[ingest.mqtt]\nport = {port}\n\
         [[sensors.devices]]\nname = 'plant'\ningest_type = 'mqtt'\ntopic = 'a'\n"
    ));
    let began = Instant::now();
    let checks = doctor(&home).await;
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    assert_level(&checks, "connection", "error");
    assert_level(&checks, "broker", "error");
}

#[tokio::test]
async fn its_exit_code_goes_by_the_worst_it_found() {
    let home = Home::new("[cloud]\nenabled = true\nendpoint = ''\n");
    let (code, text) = run(&home, &["doctor"]).await;
    assert_eq!(code, Some(78), "{text}");
    assert!(text.contains("error    configuration") && text.contains("disk_space"), "{text}");
    // A system without a clock that is set is nothing but warnings.
    home.configure("[agent]\nclock = 'trusted'\n");
    let root = home.path("root");
    std::fs::create_dir_all(root.join("proc/self")).unwrap();
    std::fs::create_dir_all(root.join("run/systemd/system")).unwrap();
    write(&root.join("proc/self/mounts"), "/dev/root / ext4 rw 0 0\n");
    let root = root.display().to_string();
    let (code, text) = run(&home, &["doctor", "--root", &root]).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("warning  journal"), "{text}");
    let (code, _) = run(&home, &["doctor", "--strict", "--root", &root]).await;
    assert_eq!(code, Some(1));
    let (code, _) = run(&home, &["doctor", "--unit"]).await;
    assert_eq!(code, Some(2));
}

#[tokio::test]
async fn credentials_are_found_where_the_unit_takes_them_from() {
    let home = Home::new(
        "[cloud]\napi_key = '${credential:api_key}'\nca_file = '${CREDENTIALS_DIRECTORY}/ca.pem'\n",
    );
    let root = home.path("root");
    for folder in ["etc/systemd/system", "etc/credstore"] {
        std::fs::create_dir_all(root.join(folder)).unwrap();
    }
    write(
        &root.join("etc/systemd/system/pyvorin-edge.service"),
        "[Service]\nUser=root\nLoadCredential=api_key:pyvorin-edge.api_key\n",
    );
    write(&root.join("etc/credstore/pyvorin-edge.api_key"), "k-4711\n");
    let (_, text) = run(&home, &["doctor", "--root", root.to_str().unwrap()]).await;
    assert!(text.contains("ok       configuration "), "{text}");
    assert!(!text.contains("4711"), "{text}");
    let (_, text) = run(&home, &["doctor", "--root", home.path("nowhere").to_str().unwrap()]).await;
    assert!(text.contains("error    configuration ") && text.contains("LoadCredential="), "{text}");
}

#[tokio::test]
async fn two_agents_with_one_client_id_are_found_out() {
    let broker = Broker::start(Options::default()).await;
    let config = mqtt(&broker, "client_id = 'twin'");
    let (one, two) = (Home::new(""), Home::new(""));
    at_health(&one, &config);
    at_health(&two, &config);
    let (first, second) = (one.start().await, two.start().await);
    until("it is found out", async || (doctor(&one).await["client_id"]["level"] == "error").then_some(()))
        .await;
    first.stop().await;
    second.stop().await;
}

/// What `status --json` says.
async fn status(home: &Home) -> (Option<i32>, Value) {
    let (code, text) = run(home, &["status", "--json"]).await;
    (code, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
}

#[tokio::test]
async fn status_tells_of_a_running_agent_and_of_one_that_was_killed() {
    let cloud = Cloud::start().await;
    let home = Home::new("");
    at_health(&home, &format!("{SIMULATOR}{}{EAGER_STORE}", cloud.section()));
    let (code, stopped) = status(&home).await;
    assert_eq!((code, &stopped["state"]), (Some(3), &Value::from("stopped")), "{stopped}");
    assert_eq!(stopped["previous_run"], Value::Null);

    let mut daemon = home.start().await;
    cloud.until_items(10).await;
    let (code, running) = status(&home).await;
    assert_eq!((code, &running["state"]), (Some(0), &Value::from("running")), "{running}");
    assert_eq!((&running["health"], &running["pid"]), (&Value::from("healthy"), &Value::from(daemon.pid())));
    assert_eq!(running["sources"][0]["name"], "simulator");
    assert_eq!(running["sources"][0]["state"], "connected");
    assert!(running["delivery"]["last_time"].as_f64().unwrap() > 1e9, "{running}");
    let (_, text) = run(&home, &["status"]).await;
    for part in [
        ": running, healthy, since 20",
        "backlog",
        "delivery       https://",
        "simulator  simulator  connected",
    ] {
        assert!(text.contains(part), "'{part}' is not in\n{text}");
    }
    daemon.signal(rustix::process::Signal::KILL);
    daemon.wait_exit().await;
    let (code, killed) = status(&home).await;
    assert_eq!((code, &killed["state"]), (Some(3), &Value::from("stopped")), "{killed}");
    assert_eq!(killed["previous_run"]["end"], "killed", "{killed}");
    assert!(killed["last_stored_time"].as_f64().unwrap() > 1e9, "{killed}");
}

#[tokio::test]
async fn what_waits_in_a_stopped_store_is_told_with_its_age() {
    let down = free_port();
    let home = Home::new("");
    let config = format!(
        "{SIMULATOR}{EAGER_STORE}[cloud]\nenabled = true\nendpoint = 'http://127.0.0.1:{down}/v1?key=hunter2'\n"
    );
    at_health(&home, &config);
    let daemon = home.start().await;
    daemon.health_shows("something waits", |health| health["cloud"]["queue_depth"].as_u64() > Some(20)).await;
    daemon.stop().await;
    let (code, stopped) = status(&home).await;
    assert_eq!(code, Some(3));
    assert!(stopped["backlog"]["items"].as_u64() > Some(20), "{stopped}");
    let (oldest, newest) = (&stopped["backlog"]["oldest_time"], &stopped["last_stored_time"]);
    assert!(oldest.as_f64().unwrap() < newest.as_f64().unwrap(), "{stopped}");
    assert_eq!(stopped["previous_run"]["end"], "stopped");
    assert!(!stopped.to_string().contains("hunter2"), "{stopped}");
}

#[tokio::test]
async fn an_agent_without_a_health_page_is_seen_by_its_lock() {
    let home = Home::new(&format!("{SIMULATOR}[health]\nenabled = false\n"));
    let daemon = home.start().await;
    let (code, seen) = status(&home).await;
    assert_eq!((code, &seen["state"]), (Some(0), &Value::from("unseen")), "{seen}");
    assert_eq!(seen["pid"], daemon.pid());
    daemon.stop().await;
}
