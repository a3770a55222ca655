//! The daemon's life as the service manager sees it: ready, alive, stopping, ended.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::cloud::Cloud;
use crate::harness::daemon::{EAGER_STORE, Home, exchange};
use crate::harness::endpoint::receiver::behaviour::Behaviour;
use crate::harness::process::free_port;
use crate::harness::{soon, stored, until};
use crate::http_ingest::Door;
use crate::sources::exec;

const SIMULATOR: &str =
    "[[sensors.devices]]\nname = 'a'\ningest_type = 'simulator'\ninterval_seconds = 0.01\n";

/// It ignores SIGTERM, and so does what it becomes; an orphan of it ends by itself.
const DEAF: &str = "trap \"\" TERM; echo 1; exec sleep 15";

/// The agent's own bound on its stop.
const STOP_MAX: Duration = Duration::from_secs(10);

#[tokio::test]
async fn the_service_manager_is_told_why_a_start_failed() {
    let home = Home::new("[health]\nprot = 1\n");
    let mut daemon = home.spawn();
    assert_eq!(daemon.wait_exit().await.code, Some(78));
    let status = daemon.notified("STATUS=not running: ").await;
    assert!(status.contains("health.prot"), "{status}");
}

#[tokio::test]
async fn a_socket_that_nobody_will_serve_is_warned_of() {
    let home = Home::new("health.enabled = false\n");
    let daemon = home.start().await;
    daemon.says("systemctl disable --now pyvorin-edge.socket").await;
}

#[tokio::test]
async fn the_service_manager_is_told_of_start_life_and_stop_in_this_order() {
    let home = Home::new(SIMULATOR).env("WATCHDOG_USEC", "400000");
    let mut daemon = home.start().await;
    let ready = daemon.notified("READY=1").await;
    assert!(ready.contains("STATUS=running: 1 sources, 0 rules, delivery off"), "{ready}");
    assert_eq!(daemon.health().await["agent"]["running"], true);
    daemon.notified_times("WATCHDOG=1", 4).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit().await.code, Some(0));
    let stopping = daemon.notified("STOPPING=1").await;
    assert!(stopping.contains("STATUS=stopping"), "{stopping}");
    let all = daemon.notifications();
    assert!(all[0].starts_with("READY=1"), "{all:?}");
    let place = all.iter().position(|message| message.contains("STOPPING=1")).unwrap();
    assert!(all[..place].iter().filter(|message| message.contains("WATCHDOG=1")).count() >= 4, "{all:?}");
}

#[tokio::test]
async fn without_a_service_manager_the_daemon_runs_and_binds_its_health_port_itself() {
    let port = free_port();
    let home = Home::new(&format!("[health]\nport = {port}\n{SIMULATOR}"));
    let daemon = home.spawn_without_socket(port);
    daemon.says("the agent is ready").await;
    let answer = until("the health page is there", async || {
        exchange(
            ([127, 0, 0, 1], port).into(),
            "GET /health HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n",
        )
        .await
        .ok()
    });
    assert_eq!(answer.await.0, 200);
    assert_eq!(daemon.get("/readyz").await.0, 200);
    assert_eq!(daemon.get("/livez").await.0, 200);
    let (_, metrics) = daemon.get("/metrics").await;
    assert!(metrics.contains("# TYPE ") && metrics.contains("pyvorin"), "{metrics}");
    daemon.stop().await;
}

#[tokio::test]
async fn the_health_page_can_be_had_before_the_service_manager_is_told_ready() {
    let home = Home::new(&format!("[health]\nport = 0\n{SIMULATOR}"));
    let daemon = home.spawn_without_socket(0);
    daemon.says("the agent is ready").await;
    let log = daemon.log();
    let place = |text| log.find(text).unwrap_or_else(|| panic!("'{text}' is not in\n{log}"));
    assert!(place("the health server listens") < place("the agent is ready"), "{log}");
    daemon.stop().await;
}

#[tokio::test]
async fn with_port_0_the_log_says_where_the_health_page_is() {
    let home = Home::new(&format!("[health]\nport = 0\n{SIMULATOR}"));
    let daemon = home.spawn_without_socket(0);
    let line = daemon.says("the health server listens").await;
    let address = line.split("address=127.0.0.1:").nth(1).expect("an address").split_whitespace().next();
    let port: u16 = address.unwrap().parse().unwrap();
    let request = "GET /health HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
    assert_eq!(exchange(([127, 0, 0, 1], port).into(), request).await.unwrap().0, 200);
    daemon.stop().await;
}

#[tokio::test]
async fn sigterm_with_a_hanging_endpoint_ends_within_the_bound_and_loses_nothing() {
    let cloud = Cloud::behaving(Behaviour { delay_seconds: 60.0, ..Behaviour::default() }).await;
    let door = Door::new();
    // The default commit interval, so that something is always on its way to the store.
    let home = Home::new(&format!("{}{}", door.section(), cloud.section()));
    let mut daemon = home.start().await;
    door.open(&daemon).await;
    door.post_values(0..100).await;
    cloud.endpoint.totals("a request hangs", |totals| totals.connections > 0).await;
    door.post_values(100..200).await;
    daemon.signal(Signal::TERM);
    let exit = daemon.wait_exit().await;
    assert_eq!(exit.code, Some(0), "{}", daemon.log());
    assert!(exit.elapsed < STOP_MAX, "{:?}", exit.elapsed);
    let values = stored::values(&home.state_dir(), &stored::OUTBOUND);
    assert!(values.into_iter().eq((0..200).map(f64::from)));
    cloud.behave(Behaviour::default());
    let daemon = home.start().await;
    cloud.until_values(&(0..200).collect::<Vec<_>>()).await;
    assert_eq!(cloud.endpoint.receiver.totals().borrow().differing, 0);
    daemon.stop().await;
}

#[tokio::test]
async fn sigint_stops_in_order_and_commits_what_was_counted() {
    let home = Home::new(&format!("{SIMULATOR}[store]\ncommit_interval_seconds = 30.0\n"));
    let mut daemon = home.start().await;
    crate::sources::processed(&daemon, 20).await;
    daemon.signal(Signal::INT);
    let exit = daemon.wait_exit().await;
    assert_eq!(exit.code, Some(0), "{}", daemon.log());
    assert!(exit.elapsed < STOP_MAX, "{:?}", exit.elapsed);
    assert!(stored::items(&home.state_dir(), &stored::LOCAL).len() >= 20);
    assert!(daemon.log().contains("SIGINT"), "{}", daemon.log());
}

#[tokio::test]
async fn a_second_request_to_stop_ends_the_daemon_at_once() {
    // The first stop takes its time.
    let deaf = exec("deaf", DEAF);
    let home = Home::new(&deaf);
    let mut daemon = home.start().await;
    crate::sources::processed(&daemon, 1).await;
    daemon.signal(Signal::TERM);
    daemon.says("the agent stops on request").await;
    daemon.signal(Signal::TERM);
    let exit = daemon.wait_exit().await;
    assert_eq!(exit.code, Some(143), "{}", daemon.log());
    assert!(exit.elapsed < Duration::from_secs(1), "{:?}", exit.elapsed);
}

#[tokio::test]
async fn a_program_that_will_not_end_does_not_keep_the_daemon_beyond_its_bound() {
    let deaf = exec("deaf", DEAF);
    let home = Home::new(&deaf);
    let mut daemon = home.start().await;
    crate::sources::processed(&daemon, 1).await;
    daemon.signal(Signal::TERM);
    let exit = daemon.wait_exit().await;
    assert_eq!(exit.code, Some(0), "{}", daemon.log());
    assert!(exit.elapsed < STOP_MAX, "{:?}", exit.elapsed);
    assert_eq!(stored::values(&home.state_dir(), &stored::LOCAL), [1.0]);
}

#[tokio::test]
async fn a_second_daemon_on_the_same_state_directory_is_refused_and_the_first_runs_on() {
    let home = Home::new(SIMULATOR);
    let first = home.start().await;
    let mut second = home.command();
    second.arg("--config").arg(home.config_file());
    let output = soon("the second ends", second.output()).await.unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    let pid = format!("(pid {})", first.pid());
    assert!(error.contains(&pid) && error.contains(&home.state_dir().display().to_string()), "{error}");
    assert_eq!(first.health().await["status"], "healthy");
    first.stop().await;
}

#[tokio::test]
async fn a_question_that_comes_before_the_daemon_is_answered_after_its_start() {
    let home = Home::new(SIMULATOR);
    let question = "GET /livez HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
    for _ in 0..2 {
        // The socket is listened on before the agent starts, and across its crashes.
        let asked = exchange(home.health_address(), question);
        let (answer, mut daemon) = tokio::join!(asked, home.start());
        assert_eq!(answer.unwrap().0, 200);
        daemon.signal(Signal::KILL);
        daemon.wait_exit().await;
    }
}

#[tokio::test]
async fn a_killed_daemon_starts_again_on_its_store_with_everything_committed() {
    let (door, cloud) = (Door::new(), Cloud::start().await);
    let home = Home::new(&format!("{}{}{EAGER_STORE}", door.section(), cloud.section()));
    for round in 0..3 {
        let mut daemon = home.start().await;
        door.open(&daemon).await;
        door.post_values(round * 10..round * 10 + 10).await;
        daemon.signal(Signal::KILL);
        assert_eq!(daemon.wait_exit().await.code, None);
    }
    let daemon = home.start().await;
    cloud.until_values(&(0..30).collect::<Vec<_>>()).await;
    let health = daemon.health_shows("all is delivered", |health| health["cloud"]["queue_depth"] == 0).await;
    assert_eq!(health["status"], json!("healthy"), "{health}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_state_directory_that_cannot_be_used_fails_the_start_by_name() {
    let home = Home::new(SIMULATOR);
    crate::harness::write(&home.state_dir(), "a file where a directory belongs");
    let mut daemon = home.spawn();
    let exit = daemon.wait_exit().await;
    assert_eq!(exit.code, Some(1));
    assert!(daemon.log().contains(&home.state_dir().display().to_string()), "{}", daemon.log());
    let told = daemon.notified("STATUS=not running: ").await;
    assert!(told.contains(&home.state_dir().display().to_string()), "{told}");
    assert_eq!(daemon.notifications().len(), 1, "{:?}", daemon.notifications());
}
