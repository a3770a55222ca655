//! `query`, `tail` and `rules eval`: what is stored, and what a condition makes of it.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::harness::daemon::Home;
use crate::harness::process::finished;
use crate::harness::soon;

const SOURCES: &str = "[sensors]\npoll_interval_seconds = 0.2\n\
    [[sensors.devices]]\nname = 'boiler'\ningest_type = 'simulator'\nunit = 'C'\n\
    [[sensors.devices]]\nname = 'pump'\ningest_type = 'simulator'\n\
    [[rules]]\nname = 'hot'\ncondition_expr = \"ctx.sensor_name == 'boiler'\"\nseverity = 'critical'\n";

async fn run(home: &Home, arguments: &[&str]) -> (Option<i32>, String, String) {
    finished(home.command().args(arguments)).await
}

#[tokio::test]
async fn tail_prints_what_a_running_agent_commits_and_ends_with_its_reader() {
    let home = Home::new(SOURCES);
    let daemon = home.start().await;
    let mut command = home.command();
    command.args(["tail", "--config", "config.toml", "-n", "0", "--sensor", "pu*", "--format", "jsonl"]);
    let mut tail = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let mut times = Vec::new();
    for _ in 0..12 {
        let line = soon("a line of what is new", lines.next_line()).await.unwrap().unwrap();
        let item: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(item["sensor_name"], "pump");
        times.push(item["timestamp"].as_f64().unwrap());
    }
    assert!(times.windows(2).all(|pair| pair[0] < pair[1]), "each once, in order: {times:?}");
    drop(lines);
    assert!(soon("tail ends", tail.wait()).await.unwrap().success());

    let arguments = ["tail", "--config", "config.toml", "-n", "3", "--count", "5", "--rule", "ho*"];
    let (code, out, error) = run(&home, &arguments).await;
    assert_eq!((code, out.lines().count()), (Some(0), 6), "{out}{error}");
    assert!(out.starts_with("time ") && out.contains("critical hot: Rule 'hot' fired"), "{out}");
    daemon.stop().await;
}

#[tokio::test]
async fn query_prints_the_newest_in_order_and_says_how_many_it_left_out() {
    let home = Home::new(SOURCES);
    for _ in 0..3 {
        assert_eq!(home.once().await.0.code, Some(0));
    }
    let query = |rest: &'static [&'static str]| {
        let home = &home;
        async move { run(home, &[&["query", "--config", "config.toml"], rest].concat()).await }
    };
    let (code, out, error) = query(&["--sensor", "boiler", "--format", "jsonl"]).await;
    assert_eq!((code, out.lines().count(), error.as_str()), (Some(0), 6, ""), "{out}");
    let (code, out, error) = query(&["--sensor", "pump", "--limit", "2"]).await;
    assert_eq!((code, out.lines().count()), (Some(0), 3), "{out}");
    assert!(error.contains("1 older items were left out"), "{error}");
    assert!(!out.contains('\u{1b}'), "no colour where there is no terminal");
    let (_, out, _) = query(&["--rule", "*", "--format", "csv"]).await;
    assert_eq!(out.lines().filter(|line| line.contains(",hot,critical,")).count(), 3, "{out}");
    let (_, out, _) = query(&["--until", "2001-01-01T00:00:00Z", "--since", "0"]).await;
    assert_eq!(out, "time  lane  sensor  value  unit  about\n");
    let (code, _, error) = run(&home, &["query", "nowhere.db"]).await;
    assert!(code == Some(1) && error.contains("nowhere.db"), "{error}");
}

#[tokio::test]
async fn a_condition_is_tried_without_a_configuration() {
    let home = Home::new("");
    let eval = |expression: &'static str| {
        let home = &home;
        async move {
            run(home, &["rules", "eval", expression, "--reading", r#"{"value": 90, "unit": "C"}"#]).await
        }
    };
    let (code, out, _) = eval("ctx.value > 85.0 and ctx.unit == 'C'").await;
    assert_eq!((code, out.as_str()), (Some(0), "True\na rule with this condition fires\n"));
    let (code, out, _) = eval("-ctx.value < 0 and None").await;
    assert_eq!((code, out.as_str()), (Some(0), "None\na rule with this condition does not fire\n"));
    let (code, out, error) = eval("ctx.value > limit").await;
    assert_eq!((code, out.as_str()), (Some(1), ""));
    assert!(error.contains("column 13: 'limit' is not available"), "{error}");
    assert!(!home.state_dir().exists());
}
