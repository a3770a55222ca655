//! `--once`: one pass, and an exit code that says how it went.

use serde_json::json;

use crate::harness::cloud::Cloud;
use crate::harness::daemon::Home;
use crate::harness::endpoint::receiver::behaviour::Behaviour;
use crate::harness::stored;

const SIMULATORS: &str = "[[sensors.devices]]\nname = 'a'\ningest_type = 'simulator'\nunit = 'C'\n\
                          [[sensors.devices]]\nname = 'b'\ningest_type = 'simulator'\n";

#[tokio::test]
async fn one_pass_reads_each_device_once_delivers_and_exits_with_0() {
    let cloud = Cloud::start().await;
    let home = Home::new(&format!("{SIMULATORS}{}", cloud.section()));
    let (exit, log) = home.once().await;
    assert_eq!(exit.code, Some(0), "{log}");
    let names: Vec<_> = cloud.items().iter().map(|item| item["sensor_name"].clone()).collect();
    assert_eq!(names, ["a", "b"]);
    let (exit, log) = home.once().await;
    assert_eq!(exit.code, Some(0), "{log}");
    assert_eq!(cloud.items().len(), 4, "the second pass delivers its own readings alone");
    assert_eq!(cloud.endpoint.receiver.totals().borrow().duplicates, 0);
}

#[tokio::test]
async fn an_endpoint_that_is_down_fails_the_pass_and_the_next_one_delivers_both() {
    let cloud = Cloud::behaving(Behaviour { fail: Some(503), ..Behaviour::default() }).await;
    let home = Home::new(&format!("{SIMULATORS}{}", cloud.section()));
    let (exit, log) = home.once().await;
    assert_eq!(exit.code, Some(1), "{log}");
    assert!(log.contains("delivery: ") && log.contains("503"), "{log}");
    assert_eq!(stored::items(&home.state_dir(), &stored::OUTBOUND).len(), 2, "stored all the same");
    cloud.behave(Behaviour::default());
    let (exit, log) = home.once().await;
    assert_eq!(exit.code, Some(0), "{log}");
    assert_eq!(cloud.items().len(), 4);
}

#[tokio::test]
async fn a_device_that_is_missing_fails_the_pass_by_name_and_holds_up_no_other() {
    let cloud = Cloud::start().await;
    let missing = "[[sensors.devices]]\nname = 'tape'\ningest_type = 'file_replay'\npath = 'nowhere.jsonl'\n\
                   [[sensors.devices]]\nname = 'probe'\ningest_type = 'system'\nsensor_type = 'thermal'\nroot = 'empty'\n";
    let home = Home::new(&format!("{SIMULATORS}{missing}{}", cloud.section()));
    let (exit, log) = home.once().await;
    assert_eq!(exit.code, Some(1), "{log}");
    assert!(log.contains("tape") && log.contains("nowhere.jsonl") && log.contains("probe"), "{log}");
    assert_eq!(cloud.items().len(), 2, "the others are read and delivered");
}

#[tokio::test]
async fn a_pass_without_delivery_stores_and_evaluates() {
    let rule = "[[rules]]\nname = 'always'\ncondition_expr = 'True'\nseverity = 'critical'\n";
    let home = Home::new(&format!("{SIMULATORS}{rule}"));
    let (exit, log) = home.once().await;
    assert_eq!(exit.code, Some(0), "{log}");
    let items = stored::items(&home.state_dir(), &stored::LOCAL);
    let events = items.iter().filter(|item| item["rule_name"] == json!("always")).count();
    assert_eq!((items.len(), events), (4, 2));
}

#[tokio::test]
async fn a_pass_beside_a_running_daemon_is_refused() {
    let home = Home::new(SIMULATORS);
    let daemon = home.start().await;
    let (exit, log) = home.once().await;
    assert_eq!(exit.code, Some(1), "{log}");
    assert!(log.contains(&format!("(pid {})", daemon.pid())), "{log}");
    daemon.stop().await;
}
