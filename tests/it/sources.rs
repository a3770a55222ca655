//! Sources without a network: programs, files, simulated sensors, the board.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::harness::cloud::Cloud;
use crate::harness::daemon::{Daemon, EAGER_STORE, Home};
use crate::harness::{stored, write};

#[tokio::test]
async fn a_program_that_prints_json_lines_is_a_source_and_dies_with_the_daemon() {
    let cloud = Cloud::start().await;
    let script = r#"echo $$$$ >child.pid
        echo '{"sensor_name":"m1","value":230.5,"unit":"V","timestamp":1717156800}'
        echo "noise" >&2
        echo 21.5
        echo 'not a reading'
        exec sleep 1000"#;
    let home = Home::new(&format!("{}{}{EAGER_STORE}", exec("meter", script), cloud.section()));
    let daemon = home.start().await;
    let items = cloud.until_items(2).await;
    let expected = json!({"sensor_name": "m1", "timestamp": 1_717_156_800.0, "value": 230.5, "unit": "V", "metadata": {}});
    assert_eq!(items[0], expected);
    assert_eq!(
        (&items[1]["sensor_name"], &items[1]["value"], &items[1]["unit"]),
        (&json!("meter"), &json!(21.5), &json!("W"))
    );
    daemon.health_shows("the third line is refused", |health| health["refused"]["malformed"] == 1).await;
    let child = std::fs::read_to_string(home.path("child.pid")).unwrap();
    let child = PathBuf::from("/proc").join(child.trim());
    assert!(is_alive(&child));
    daemon.stop().await;
    assert!(!is_alive(&child), "the program outlived the daemon");
}

#[tokio::test]
async fn a_program_that_ends_is_started_again_alone() {
    let cloud = Cloud::start().await;
    let script = "echo 1 >>starts; wc -l <starts; exit 3";
    let steady = exec("steady", "while :; do echo 100; sleep 0.05; done");
    let home = Home::new(&format!("{}{steady}{}{EAGER_STORE}", exec("flaky", script), cloud.section()));
    let daemon = home.start().await;
    cloud.until_values(&[1, 2, 100]).await;
    let health = daemon.health().await;
    let source = |name: &str| {
        let sources = health["ingest"]["sources"].as_array().unwrap();
        sources.iter().find(|source| source["name"] == name).unwrap().clone()
    };
    assert_eq!(source("flaky")["state"], "failed");
    assert!(source("flaky")["last_error"].to_string().contains("exit status: 3"), "{health}");
    assert_eq!((&source("steady")["state"], &source("steady")["restarts"]), (&json!("connected"), &json!(0)));
    daemon.stop().await;
}

#[tokio::test]
async fn files_are_replayed_whole_and_in_order() {
    let cloud = Cloud::start().await;
    let home = Home::new("");
    let json_lines: String = (0..1500)
        .map(|value| {
            format!("{{\"sensor_name\":\"j\",\"timestamp\":{},\"value\":{value}}}\n", 1_717_156_800 + value)
        })
        .collect();
    write(&home.path("a.jsonl"), &json_lines);
    let csv = "sensor_name,timestamp,value\nc,2024-05-31T12:00:00Z,1\nc,1717156801000,2\nc,1717156802,3\nc,soon,4\n";
    write(&home.path("b.csv"), csv);
    let device = |name: &str, file: &str| {
        let path = home.path(file).display().to_string();
        format!(
            "[[sensors.devices]]\nname = '{name}'\ningest_type = 'file_replay'\nunit = 'K'\npath = '{path}'\n"
        )
    };
    home.configure(&format!(
        "{}{}{}{EAGER_STORE}",
        device("a", "a.jsonl"),
        device("b", "b.csv"),
        cloud.section()
    ));
    let daemon = home.start().await;
    let items = cloud.until_items(1503).await;
    let of = |name: &str| -> Vec<_> {
        let items = items.iter().filter(|item| item["sensor_name"] == name);
        items.map(|item| (item["timestamp"].as_f64().unwrap(), item["value"].as_f64().unwrap())).collect()
    };
    assert!(
        of("j").into_iter().eq((0..1500).map(|value| (1_717_156_800.0 + f64::from(value), f64::from(value))))
    );
    assert_eq!(of("c"), [(1_717_156_800.0, 1.0), (1_717_156_801.0, 2.0), (1_717_156_802.0, 3.0)]);
    let finished = |health: &Value| {
        health["ingest"]["sources"].as_array().unwrap().iter().all(|s| s["state"] == "finished")
    };
    let health = daemon.health_shows("both files are finished", finished).await;
    assert_eq!(
        (&health["status"], &health["refused"]["malformed"]),
        (&json!("healthy"), &json!(1)),
        "{health}"
    );
    daemon.stop().await;
}

#[tokio::test]
async fn a_simulator_gives_the_same_values_at_each_start() {
    let config = format!(
        "[[sensors.devices]]\nname = 'boiler'\ningest_type = 'simulator'\nsensor_type = 'temperature'\nseed = 7\n\
         interval_seconds = 0.02\nnoise_std = 2.0\n{EAGER_STORE}"
    );
    let mut runs = Vec::new();
    for _ in 0..2 {
        let home = Home::new(&config);
        let daemon = home.start().await;
        processed(&daemon, 10).await;
        daemon.stop().await;
        runs.push(stored::values(&home.state_dir(), &stored::LOCAL));
    }
    assert_eq!(runs[0][..10], runs[1][..10]);
    assert_ne!(runs[0][0], runs[0][1], "noise");
}

#[tokio::test]
async fn the_board_is_read_as_it_lies_under_its_root() {
    let cloud = Cloud::start().await;
    let home = Home::new("");
    let board = home.path("board");
    lay_out(&board, "sys/class/thermal/thermal_zone0/type", "cpu-thermal\n");
    lay_out(&board, "sys/class/thermal/thermal_zone0/temp", "48312\n");
    lay_out(&board, "sys/bus/w1/devices/28-0316a2/temperature", "21437\n");
    lay_out(&board, "proc/loadavg", "0.50 1.25 2.00 1/100 999\n");
    home.configure(&format!(
        "[sensors]\npoll_interval_seconds = 0.05\n[ingest.system]\nroot = '{}'\n\
         [[sensors.devices]]\nname = 'board'\ningest_type = 'system'\nsensor_type = 'all'\n{}{EAGER_STORE}",
        board.display(),
        cloud.section()
    ));
    let daemon = home.start().await;
    for (name, value, unit) in [
        ("board.thermal.cpu-thermal", 48.312, "C"),
        ("board.w1.28-0316a2", 21.437, "C"),
        ("board.load_5m", 1.25, ""),
    ] {
        let item = cloud.until_item(name, |item| item["sensor_name"] == name).await;
        assert_eq!((&item["value"], &item["unit"]), (&json!(value), &json!(unit)));
    }
    lay_out(&board, "sys/class/thermal/thermal_zone0/temp", "50000\n");
    cloud.until_item("a later temperature", |item| item["value"] == 50.0).await;
    daemon.stop().await;
}

/// A device of type `exec` that runs `script`.
pub fn exec(name: &str, script: &str) -> String {
    format!(
        "[[sensors.devices]]\nname = '{name}'\ningest_type = 'exec'\nunit = 'W'\ncommand = ['sh', '-c', '''{script}''']\n"
    )
}

pub async fn processed(daemon: &Daemon, count: u64) {
    let enough = |health: &Value| health["agent"]["readings_processed"].as_u64() >= Some(count);
    daemon.health_shows(&format!("{count} readings are processed"), enough).await;
}

/// Whether the process of this folder under /proc runs; one that nobody has waited for does not.
fn is_alive(process: &Path) -> bool {
    let stat = std::fs::read_to_string(process.join("stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
    state.is_some_and(|state| state != 'Z' && state != 'X')
}

fn lay_out(board: &Path, path: &str, content: &str) {
    let path = board.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    write(&path, content);
}
