//! One short life of the daemon during which one call on its files fails.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinError;

use crate::harness::daemon::{Daemon, EAGER_STORE, Home, exchange};
use crate::harness::endpoint::Endpoint;
use crate::harness::endpoint::receiver::behaviour::Behaviour;
use crate::harness::process::free_port;
use crate::harness::{stored, until};

/// Which call fails, and how.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Counted from 1 over the whole life; 0 for none.
    pub at: usize,
    /// As the shim takes it.
    pub kind: &'static str,
    /// Every call fails for so long after it.
    pub millis: u64,
}

pub const NONE: Fault = Fault { at: 0, kind: "EIO", millis: 0 };

/// What the daemon lives through.
#[derive(Clone, Copy, Debug)]
pub enum Scene<'s> {
    /// A new store: commits, a batch delivered, an item set aside, a reload, a stop, another start.
    New,
    /// A store that was left by a killed daemon and is full: retention, and the rest but the reload.
    Full(&'s Path),
}

/// A call of the daemon on its files.
#[derive(Clone, Debug)]
pub struct Call {
    pub operation: String,
    pub file: String,
    pub failed: bool,
}

/// What became of it.
#[derive(Debug, Default)]
pub struct Story {
    pub calls: Vec<Call>,
    /// It said that the disk is in trouble, and that it works again: while it ran, and at a start.
    pub waited: bool,
    pub held: bool,
    /// Everything that must not be.
    pub violations: Vec<String>,
}

impl Story {
    /// Of a life whose test panicked.
    pub fn failed(error: JoinError) -> Self {
        let panic = error.into_panic();
        let said = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        Self { violations: vec![said], ..Self::default() }
    }
}

/// Lives through `scene` with `fault`, and looks at what is left.
pub async fn live(shim: &Path, scene: Scene<'_>, fault: Fault) -> Story {
    let place = TempDir::new().unwrap();
    let endpoint = Endpoint::start_plain(Behaviour {
        // The event that tells of the gap names the sensor too, and is taken.
        reject_item: Some("\"sensor_name\":\"poison\"".to_owned()),
        ..Behaviour::default()
    })
    .await;
    let mut life = Life::new(shim, place.path(), scene, fault, &endpoint);
    life.run(scene).await;
    life.account(&endpoint);
    life.story.calls = read_calls(&place.path().join("calls"));
    life.story
}

struct Life {
    home: Home,
    ingest: u16,
    config: String,
    /// Of readings that were answered with 200.
    acknowledged: BTreeSet<u32>,
    /// Of the next reading.
    next: u32,
    story: Story,
}

impl Life {
    fn new(shim: &Path, place: &Path, scene: Scene<'_>, fault: Fault, endpoint: &Endpoint) -> Self {
        let ingest = free_port();
        let config = format!(
            "[cloud]\nenabled = true\nendpoint = '{}'\nflush_interval_seconds = 0.05\n\
             backoff_min_seconds = 0.1\nbackoff_max_seconds = 0.3\n\
             [ingest.http]\nport = {ingest}\ntimeout_seconds = 0.5\n\
             [[sensors.devices]]\nname = 'gateway'\ningest_type = 'http'\n{EAGER_STORE}size_max_mb = 1\n",
            endpoint.url
        );
        let home = Home::new(&config);
        if let Scene::Full(template) = scene {
            copy(template, &home.state_dir());
        }
        let text = |path: PathBuf| path.display().to_string();
        let state_dir = text(home.state_dir());
        let home = home
            .env("LD_PRELOAD", &text(shim.to_owned()))
            .env("PYV_FAULT_DIR", &state_dir)
            .env("PYV_FAULT_STATE", &text(place.join("numbers")))
            .env("PYV_FAULT_LOG", &text(place.join("calls")))
            .env("PYV_FAULT_AT", &fault.at.to_string())
            .env("PYV_FAULT_AS", fault.kind)
            .env("PYV_FAULT_MS", &fault.millis.to_string());
        Self { home, ingest, config, acknowledged: BTreeSet::new(), next: 0, story: Story::default() }
    }

    async fn run(&mut self, scene: Scene<'_>) {
        for is_first in [true, false] {
            let Some(mut daemon) = self.start().await else { return };
            let pid = daemon.pid();
            let has_ended = tokio::select! {
                () = daemon.ended() => true,
                () = self.steps(scene, is_first, pid) => false,
            };
            if has_ended {
                let exit = daemon.wait_exit().await;
                self.violate(format!("it ended while running: {exit:?}: {}", last_words(&daemon)));
                return;
            }
            self.stop(daemon).await;
        }
    }

    async fn steps(&mut self, scene: Scene<'_>, is_first: bool, pid: i32) {
        if is_first {
            for count in [1, 2, 1] {
                self.post(count, "").await;
            }
            self.send(&json!({"sensor_name": "poison", "value": POISON})).await;
            match scene {
                Scene::New => self.reload(pid).await,
                Scene::Full(_) => self.fill().await,
            }
        }
        self.post(1, "").await;
        self.health("everything is delivered and well", |health| {
            // One, or several where an answer came too late and it was posted again.
            let (cloud, store) = (&health["cloud"], &health["store"]);
            cloud["queue_depth"] == 0
                && store["dead_letters"].as_u64() >= Some(1)
                && health["status"] == "healthy"
        })
        .await;
    }

    /// Another privacy policy, which is a record in the audit chain.
    async fn reload(&self, pid: i32) {
        self.home.configure(&format!("{}[privacy]\nredact_fields = ['serial']\n", self.config));
        kill_process(Pid::from_raw(pid).unwrap(), Signal::HUP).unwrap();
        self.health("the policy is in force", |health| health["privacy"]["rules_active"] == 1).await;
    }

    /// More than there is room for.
    async fn fill(&mut self) {
        for _ in 0..4 {
            self.post(16, &noise(4000)).await;
        }
    }

    /// Starts the daemon; `None` when it ended before it was ready.
    async fn start(&mut self) -> Option<Daemon> {
        let daemon = self.home.spawn();
        if daemon.is_ready().await {
            return Some(daemon);
        }
        self.violate(format!("a start failed: {}", last_words(&daemon)));
        None
    }

    async fn stop(&mut self, mut daemon: Daemon) {
        daemon.signal(Signal::TERM);
        let exit = daemon.wait_exit().await;
        if exit.code != Some(0) || exit.elapsed > STOP_MAX {
            self.violate(format!("it stopped with {exit:?}: {}", last_words(&daemon)));
        }
        let log = daemon.log();
        let begun = log.matches("the disk takes nothing").count();
        let ended = log.matches("the disk works again").count();
        let given_up = log.matches("stopped while the disk took nothing").count();
        self.story.waited |= begun > 0;
        if begun != ended + given_up {
            self.violate(format!("trouble began {begun} times and ended {ended} times:\n{log}"));
        }
        let held = log.matches("the store cannot be opened yet").count();
        let released = log.matches("the store can be opened").count();
        self.story.held |= held > 0;
        if held != released {
            self.violate(format!("the start was held {held} times and went on {released} times:\n{log}"));
        }
    }

    /// Posts readings until they are answered with 200.
    async fn post(&mut self, count: u32, text: &str) {
        let numbers = self.next..self.next + count;
        let reading = |number| json!({"sensor_name": "s", "value": number, "metadata": {"text": text}});
        self.send(&numbers.clone().map(reading).collect()).await;
        self.next = numbers.end;
        self.acknowledged.extend(numbers);
    }

    async fn send(&self, body: &Value) {
        let body = body.to_string();
        let request = format!(
            "POST /ingest HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let address = ([127, 0, 0, 1], self.ingest).into();
        until("a POST is answered with 200", async || {
            exchange(address, &request).await.ok().filter(|(status, _)| *status == 200)
        })
        .await;
    }

    async fn health(&self, what: &str, is: impl Fn(&Value) -> bool) {
        let request = "GET /health HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
        let mut last = String::new();
        let found = async {
            loop {
                if let Ok((_, body)) = exchange(self.home.health_address(), request).await {
                    last = body;
                    if serde_json::from_str(&last).is_ok_and(|health| is(&health)) {
                        return;
                    }
                }
                tokio::time::sleep(ASK_INTERVAL).await;
            }
        };
        if tokio::time::timeout(PATIENCE, found).await.is_err() {
            panic!("within {PATIENCE:?} it did not happen: {what}; the health page: {last}");
        }
    }

    /// Everything that was acknowledged has arrived or was set aside, and the database is whole.
    fn account(&mut self, endpoint: &Endpoint) {
        if !self.story.violations.is_empty() {
            return;
        }
        let arrived: BTreeSet<u32> = endpoint.values_as_floats().iter().map(|value| *value as u32).collect();
        let lost: Vec<_> = self.acknowledged.difference(&arrived).collect();
        if !lost.is_empty() {
            self.violate(format!("lost: {lost:?}"));
        }
        if endpoint.receiver.totals().borrow().differing > 0 {
            self.violate("a batch id came with two contents".to_owned());
        }
        let state_dir = self.home.state_dir();
        if !stored::dead_letters(&state_dir).iter().any(|(_, item)| item["value"] == f64::from(POISON)) {
            self.violate("what the endpoint refused was not set aside".to_owned());
        }
        let path = state_dir.join("edge_store.db");
        let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        let found: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
        if found != "ok" {
            self.violate(format!("the database: {found}"));
        }
        let trail = crate::privacy::broken(&state_dir);
        if !trail.is_empty() {
            self.violate(format!("the audit trail: {trail:?}"));
        }
    }

    fn violate(&mut self, violation: String) {
        self.story.violations.push(violation);
    }
}

/// The state directory of a daemon that was killed with a store that is nearly as large as it may be, full of
/// what never leaves the device.
pub async fn full_state() -> TempDir {
    let port = free_port();
    let home = Home::new(&format!(
        "[ingest.http]\nport = {port}\n[[sensors.devices]]\nname = 'gateway'\ningest_type = 'http'\n\
         {EAGER_STORE}size_max_mb = 1\n"
    ));
    let mut daemon = home.start().await;
    let mut life = Life {
        ingest: port,
        config: String::new(),
        acknowledged: BTreeSet::new(),
        next: 10_000,
        story: Story::default(),
        home,
    };
    // Half as much again as it may be.
    for _ in 0..48 {
        life.post(8, &noise(4000)).await;
    }
    daemon.signal(Signal::KILL);
    daemon.wait_exit().await;
    let folder = TempDir::new().unwrap();
    copy(&life.home.state_dir(), folder.path());
    folder
}

/// What does not compress.
fn noise(length: usize) -> String {
    std::iter::repeat_with(fastrand::alphanumeric).take(length).collect()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

fn last_words(daemon: &Daemon) -> String {
    daemon.log().lines().last().unwrap_or_default().to_owned()
}

fn read_calls(log: &Path) -> Vec<Call> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let call = |line: &str| {
        let mut words = line.split(' ').skip(1).map(str::to_owned);
        Some(Call { operation: words.next()?, file: words.next()?, failed: words.next().is_some() })
    };
    text.lines().filter_map(call).collect()
}

const POISON: u32 = 4_000_000;
/// The agent's own bound on its stop.
const STOP_MAX: Duration = Duration::from_secs(10);
const ASK_INTERVAL: Duration = Duration::from_millis(20);
/// Longer than the longest wait between two attempts of the store.
const PATIENCE: Duration = Duration::from_secs(40);
