//! A start whose disk is in trouble is held and not ended: it says why, takes nothing in, and goes on by itself.

use std::fs::{DirBuilder, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::faults;
use crate::harness::cloud::Cloud;
use crate::harness::daemon::{Daemon, EAGER_STORE, Home};
use crate::harness::mounts::Mount;
use crate::harness::{stored, write};
use crate::http_ingest::Door;

const SIMULATOR: &str =
    "[[sensors.devices]]\nname = 'a'\ningest_type = 'simulator'\ninterval_seconds = 0.01\n";
const BEGINS: &str = "the store cannot be opened yet";
const ENDS: &str = "the store can be opened";
/// What a stop of a start that waits may take.
const STOP_MAX: Duration = Duration::from_secs(2);

/// An agent that takes readings by HTTP and delivers them.
struct Agent {
    cloud: Cloud,
    door: Door,
    home: Home,
}

impl Agent {
    async fn new() -> Self {
        let (cloud, door) = (Cloud::start().await, Door::new());
        let home = Home::new(&format!("{}{}{EAGER_STORE}free_min_mb = 0\n", door.section(), cloud.section()));
        Self { cloud, door, home }
    }

    /// Starts it, and waits until it is held.
    async fn start_held(&self, trouble: &str, status: (&str, u16), reason: &str) -> Daemon {
        let daemon = self.home.start().await;
        let ready = daemon.notified("READY=1").await;
        assert!(ready.contains("STATUS=waits for the store and tries again: "), "{ready}");
        let health = daemon.health_shows("it is held", |health| health["store"]["trouble"] == trouble).await;
        assert_eq!(health["status"], status.0, "{health}");
        assert_eq!(daemon.get("/health").await.0, status.1);
        let reasons = health["reasons"].to_string();
        assert!(reasons.contains("agent: starting, waits for the store: "), "{reasons}");
        assert!(reasons.contains(reason), "{reasons}");
        assert_eq!(health["agent"]["running"], false);
        assert_eq!((daemon.get("/readyz").await.0, daemon.get("/livez").await.0), (503, 200));
        // A client is refused, and keeps what it has.
        TcpStream::connect(self.door.address).await.unwrap_err();
        daemon
    }

    /// Waits until it runs, and stores and delivers what is posted then.
    async fn goes_on(&self, daemon: Daemon) {
        daemon.says(ENDS).await;
        daemon.notified("STATUS=running: ").await;
        self.door.open(&daemon).await;
        self.door.post_values([7]).await;
        self.cloud.until_values(&[7]).await;
        let well = |health: &Value| health["status"] == "healthy" && health["cloud"]["queue_depth"] == 0;
        let health = daemon.health_shows("it is well", well).await;
        assert_eq!(health["store"]["trouble"], Value::Null);
        let log = daemon.stop().await;
        assert_eq!((log.matches(BEGINS).count(), log.matches(ENDS).count()), (1, 1), "{log}");
        assert!(log.matches("the black box cannot be opened").count() <= 1, "{log}");
        assert_eq!(stored::values(&self.home.state_dir(), &stored::OUTBOUND).last(), Some(&7.0));
    }
}

/// Another program in the middle of writing.
fn locked(home: &Home) -> Connection {
    let path = home.state_dir().join("edge_store.db");
    let other = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
    other.execute_batch("BEGIN EXCLUSIVE").unwrap();
    other
}

fn make_folder(path: &Path) {
    DirBuilder::new().recursive(true).create(path).unwrap();
}

#[tokio::test]
async fn a_read_only_disk_holds_the_start_of_an_agent_that_ran_before() {
    let Agent { cloud, door, home } = Agent::new().await;
    let agent = Agent { cloud, door, home: home.env("WATCHDOG_USEC", "2000000") };
    let daemon = agent.home.start().await;
    agent.door.open(&daemon).await;
    agent.door.post_values([1]).await;
    daemon.stop().await;
    let disk = Mount::itself(&agent.home.state_dir());
    disk.make_read_only();
    let daemon = agent.start_held("read_only", ("unhealthy", 503), "Read-only file system").await;
    daemon.notified_times("WATCHDOG=1", 3).await;
    disk.make_writable();
    agent.cloud.until_values(&[1]).await;
    agent.goes_on(daemon).await;
}

#[tokio::test]
async fn a_full_disk_holds_the_first_start() {
    let agent = Agent::new().await;
    make_folder(&agent.home.state_dir());
    let _disk = Mount::tmpfs(&agent.home.state_dir(), 8 << 20);
    let filler = agent.home.state_dir().join("filler");
    let mut file = File::create(&filler).unwrap();
    while file.write_all(&[1; 4096]).is_ok() {}
    drop(file);
    let daemon = agent.start_held("full", ("degraded", 200), "No space left on device").await;
    std::fs::remove_file(filler).unwrap();
    agent.goes_on(daemon).await;
}

#[tokio::test]
async fn a_database_that_another_program_holds_holds_the_start() {
    let agent = Agent::new().await;
    agent.home.start().await.stop().await;
    let other = locked(&agent.home);
    let daemon = agent.start_held("locked", ("degraded", 200), "database is locked").await;
    other.execute_batch("ROLLBACK").unwrap();
    drop(other);
    agent.goes_on(daemon).await;
}

#[tokio::test]
async fn a_disk_that_is_mounted_late_is_waited_for() {
    let agent = Agent::new().await;
    let (outer, mountpoint) = (agent.home.path("state"), agent.home.path("state/disk"));
    make_folder(&mountpoint);
    write(
        &agent.home.path("conf.d/10-late.toml"),
        &format!("[agent]\nstate_dir = '{}'\n", mountpoint.join("of_agent").display()),
    );
    let root = Mount::itself(&outer);
    root.make_read_only();
    let daemon = agent.start_held("read_only", ("unhealthy", 503), "of_agent").await;
    let _disk = Mount::tmpfs(&mountpoint, 8 << 20);
    daemon.says(ENDS).await;
    agent.door.open(&daemon).await;
    agent.door.post_values([7]).await;
    agent.cloud.until_values(&[7]).await;
    assert!(mountpoint.join("of_agent/edge_store.db").exists());
    daemon.stop().await;
}

#[tokio::test]
async fn what_is_mounted_over_a_locked_directory_is_locked_too() {
    let agent = Agent::new().await;
    make_folder(&agent.home.state_dir());
    let _small = Mount::tmpfs(&agent.home.state_dir(), 64 << 10);
    let daemon = agent.start_held("full", ("degraded", 200), "").await;
    let _disk = Mount::tmpfs(&agent.home.state_dir(), 8 << 20);
    daemon.says(ENDS).await;
    let mut second = agent.home.command();
    let output = second.arg("--config").arg(agent.home.config_file()).output().await.unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains(&format!("(pid {})", daemon.pid())), "{error}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_directory_without_permission_is_waited_for() {
    let Agent { cloud, door, home } = Agent::new().await;
    // Root without its capabilities is a user like any other.
    let plain = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"];
    let is_root = rustix::process::geteuid().is_root();
    let agent = Agent { cloud, door, home: if is_root { home.under(&plain) } else { home } };
    make_folder(&agent.home.state_dir());
    let set_mode =
        |mode| std::fs::set_permissions(agent.home.state_dir(), Permissions::from_mode(mode)).unwrap();
    set_mode(0o500);
    let daemon = agent.start_held("read_only", ("unhealthy", 503), "Permission denied").await;
    set_mode(0o700);
    agent.goes_on(daemon).await;
}

#[tokio::test]
async fn a_disk_that_fails_for_a_while_is_waited_for() {
    let Agent { cloud, door, home } = Agent::new().await;
    let shim = faults::compile(&home.path("."));
    let text = |name: &str| home.path(name).display().to_string();
    let (state_dir, numbers, calls) = (text("state"), text("numbers"), text("calls"));
    let home = home
        .env("LD_PRELOAD", &shim.display().to_string())
        .env("PYV_FAULT_DIR", &state_dir)
        .env("PYV_FAULT_STATE", &numbers)
        .env("PYV_FAULT_LOG", &calls)
        .env("PYV_FAULT_AT", "1")
        .env("PYV_FAULT_AS", "EIO")
        .env("PYV_FAULT_MS", "1500");
    let agent = Agent { cloud, door, home };
    let daemon = agent.home.start().await;
    let line = daemon.says(BEGINS).await;
    assert!(line.contains("failing") && line.contains("Input/output error"), "{line}");
    agent.goes_on(daemon).await;
}

#[tokio::test]
async fn sigterm_ends_a_start_that_waits_at_once() {
    let agent = Agent::new().await;
    make_folder(&agent.home.state_dir());
    let disk = Mount::itself(&agent.home.state_dir());
    disk.make_read_only();
    let mut daemon = agent.start_held("read_only", ("unhealthy", 503), "").await;
    daemon.signal(Signal::TERM);
    let exit = daemon.wait_exit().await;
    assert_eq!(exit.code, Some(0), "{}", daemon.log());
    assert!(exit.elapsed < STOP_MAX, "{:?}", exit.elapsed);
    daemon.notified("STOPPING=1").await;
}

#[tokio::test]
async fn a_first_attempt_that_takes_long_shows_on_the_health_page_and_sigterm_ends_it_at_once() {
    let home = Home::new(SIMULATOR);
    home.start().await.stop().await;
    let other = locked(&home);
    let mut daemon = home.spawn();
    // SQLite waits five seconds for the other program before it gives up.
    let health = daemon.health().await;
    assert_eq!((&health["status"], &health["agent"]["running"]), (&json!("degraded"), &json!(false)));
    assert_eq!(health["reasons"], json!(["agent: starting, waits for the store"]));
    daemon.signal(Signal::TERM);
    let exit = daemon.wait_exit().await;
    assert_eq!(exit.code, Some(0), "{}", daemon.log());
    assert!(exit.elapsed < STOP_MAX, "{:?}", exit.elapsed);
    assert!(
        daemon.notifications().iter().all(|told| !told.contains("READY")),
        "{:?}",
        daemon.notifications()
    );
    drop(other);
    home.start().await.stop().await;
}

#[tokio::test]
async fn sighup_loads_the_configuration_for_the_start_that_waits() {
    let agent = Agent::new().await;
    make_folder(&agent.home.state_dir());
    let disk = Mount::itself(&agent.home.state_dir());
    disk.make_read_only();
    let mut daemon = agent.start_held("read_only", ("unhealthy", 503), "").await;
    let config = std::fs::read_to_string(agent.home.config_file()).unwrap();
    agent.home.configure(&format!("{config}[health]\nenabled = false\n"));
    daemon.signal(Signal::HUP);
    daemon.says("the reload was refused").await;
    let refused = daemon.notified("the last reload was refused").await;
    assert!(refused.contains("READY=1") && refused.contains("STATUS=waits for the store"), "{refused}");
    agent.home.configure(&format!("{config}{SIMULATOR}"));
    daemon.signal(Signal::HUP);
    daemon.notified_times("RELOADING=1", 2).await;
    let two = |health: &Value| health["ingest"]["devices_configured"] == 2;
    daemon.health_shows("the new configuration is there", two).await;
    disk.make_writable();
    daemon.signal(Signal::HUP);
    daemon
        .health_shows("both sources run", |health| {
            health["ingest"]["adapters_connected"] == json!(["http", "simulator"])
        })
        .await;
    daemon.stop().await;
}

#[tokio::test]
async fn what_a_person_has_to_put_right_ends_the_start() {
    let newer = "PRAGMA user_version = 99; UPDATE meta SET value = '99' WHERE key = 'schema_version'";
    for (sql, reason) in
        [(newer, "has schema version 99"), ("CREATE TABLE theirs (x)", "is the database of another program")]
    {
        let home = Home::new(SIMULATOR);
        make_folder(&home.state_dir());
        let path = home.state_dir().join("edge_store.db");
        if sql == newer {
            home.start().await.stop().await;
        }
        let db = Connection::open_with_flags(&path, OpenFlags::default()).unwrap();
        db.execute_batch(sql).unwrap();
        drop(db);
        let mut daemon = home.spawn();
        assert_eq!(daemon.wait_exit().await.code, Some(1), "{}", daemon.log());
        assert!(daemon.log().contains(reason), "{}", daemon.log());
        let told = daemon.notifications();
        assert!(
            told.len() == 1 && told[0].starts_with("STATUS=not running: ") && told[0].contains(reason),
            "{told:?}"
        );
    }
}

#[tokio::test]
async fn one_pass_fails_at_once_with_the_reason() {
    let home = Home::new(SIMULATOR);
    make_folder(&home.state_dir());
    let disk = Mount::itself(&home.state_dir());
    disk.make_read_only();
    let (exit, log) = home.once().await;
    assert_eq!(exit.code, Some(1), "{log}");
    assert!(log.contains("Read-only file system"), "{log}");
    assert!(exit.elapsed < Duration::from_secs(5), "{:?}", exit.elapsed);
}
