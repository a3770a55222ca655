//! The power goes at random moments, and with it what the disk had not flushed: what a source was told is
//! durable is delivered or stored, and the store opens every time.
//!
//! The daemon runs under load on a disk that notes every write. Afterwards, for each cut, an image is made of
//! what was certain by then and a random part of the rest, and the daemon is started on it.
//!
//! `PYV_CUTS` is the number of cuts; `PYV_SEED` repeats the choice of them, but not the recording. It mounts
//! file systems: run `scripts/test-power-cut`.

mod disk;
mod load;
mod write_log;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use disk::{Disk, Mount};
use load::{Acknowledged, Ledger};
use write_log::WriteLog;

use crate::harness::broker::{Broker, Options, Persistence};
use crate::harness::daemon::{Daemon, Home};
use crate::harness::endpoint::Endpoint;
use crate::harness::endpoint::receiver::behaviour::{Behaviour, Times};
use crate::harness::process::free_port;
use crate::harness::publisher::Publisher;
use crate::harness::until;

#[tokio::test]
#[ignore = "it mounts file systems: scripts/test-power-cut"]
async fn nothing_acknowledged_is_lost_when_the_power_goes() {
    let seed = std::env::var("PYV_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    let cuts: usize = std::env::var("PYV_CUTS").map_or(20, |cuts| cuts.parse().unwrap());
    println!("PYV_SEED={seed} PYV_CUTS={cuts}");
    let mut random = fastrand::Rng::with_seed(seed);
    let folder = TempDir::new().unwrap();
    let recording = record(folder.path(), &mut random).await;
    let log = WriteLog::read(&recording.log);
    println!(
        "recorded: {} writes and flushes; acknowledged: {} by HTTP, {} by MQTT; {} requests at the endpoint",
        log.entries.len(),
        recording.http.len(),
        recording.mqtt.len(),
        recording.ledger.lock().unwrap().requests()
    );
    assert!(!recording.http.is_empty() && !recording.mqtt.is_empty(), "nothing was acknowledged");

    let image = folder.path().join("certain.img");
    let certain = disk::copy(&recording.before, &image);
    let home = Home::new("");
    let mut table = Table::new(&recording.phases, log.entries.len());
    let mut settled = 0;
    for cut in choose(&recording, &log, cuts, &mut random) {
        let flushed = log.settle(&certain, settled, cut);
        settled = settled.max(flushed);
        let torn = folder.path().join("cut.img");
        let left = disk::copy(&image, &torn);
        log.scatter(&left, flushed, cut, &mut random);
        drop(left);
        let kept = folder.path().join("kept.img");
        std::fs::copy(&torn, &kept).unwrap();
        let found = recover(&home, &torn, &recording, cut).await;
        table.enter(cut, cut - flushed, &found);
        if !found.violations.is_empty() {
            let kept_at = keep(&kept);
            table.print();
            panic!(
                "cut behind {cut} of {} entries, PYV_SEED={seed}: {:#?}; the image is {}",
                log.entries.len(),
                found.violations,
                kept_at.display()
            );
        }
    }
    table.print();
}

/// Everything that is known of a run of the daemon on the recording disk.
struct Recording {
    before: PathBuf,
    log: PathBuf,
    http: Acknowledged,
    mqtt: Acknowledged,
    ledger: Arc<Mutex<Ledger>>,
    /// What happened from which entry of the log on.
    phases: Vec<(&'static str, usize)>,
}

async fn record(folder: &Path, random: &mut fastrand::Rng) -> Recording {
    let broker = Broker::start(Options { persistence: Persistence::Off, ..Options::default() }).await;
    let port = free_port();
    let home = Home::new("");
    let disk = Disk::start(folder, &home.state_dir()).await;
    let (ledger, told) = Ledger::watch(Some(disk.log()));
    let endpoint = Endpoint::start_plain_watched(told).await;
    home.configure(&config(&endpoint, &broker, port));

    let (stop, stopped) = watch::channel(false);
    let mut posting = JoinSet::new();
    let mut daemon = home.start().await;
    broker.says("n/#").await;
    for client in load::clients() {
        posting.spawn(load::post(client, port, disk.log(), stopped.clone()));
    }
    let mut background = JoinSet::new();
    background.spawn(load::publish(Publisher::new(&broker), stopped.clone()));
    let (stop_reading, read_on) = watch::channel(false);
    let mut reading = JoinSet::new();
    reading.spawn(load::pubacks(broker.lines(), disk.log(), read_on));

    let mut phases = vec![("first start", 0)];
    for phase in PHASES {
        phases.push((phase.name(), disk.length()));
        endpoint.receiver.behave(phase.behaviour());
        match phase {
            Phase::Killed => {
                sleep(Duration::from_millis(random.u64(100..600))).await;
                daemon.signal(Signal::KILL);
                daemon.wait_exit().await;
                daemon = home.start().await;
            }
            Phase::Full => fill(&home.state_dir(), &daemon).await,
            Phase::Up | Phase::Down | Phase::Flapping => {}
        }
        sleep(PHASE).await;
    }
    phases.push(("stop", disk.length()));
    stop.send_replace(true);
    daemon.stop().await;
    let mut http = Acknowledged::new();
    while let Some(client) = posting.join_next().await {
        http.extend(client.unwrap());
    }
    background.join_next().await;
    stop_reading.send_replace(true);
    let mqtt = reading.join_next().await.unwrap().unwrap();
    let (before, log) = disk.stop().await;
    Recording { before, log, http, mqtt, ledger, phases }
}

/// Leaves no room on the daemon's disk for a while. It may notice, or make do with what history gives up.
async fn fill(state_dir: &Path, daemon: &Daemon) {
    let ballast = state_dir.join("ballast");
    let mut file = std::fs::File::create(&ballast).unwrap();
    // To the last block: what is left after a large write that fails goes to smaller ones.
    for size in [1 << 20, 1 << 16, 1 << 12] {
        while std::io::Write::write_all(&mut file, &vec![1; size]).is_ok() {}
    }
    sleep(PHASE).await;
    drop(file);
    std::fs::remove_file(&ballast).unwrap();
    until("the disk works again", async || {
        let log = daemon.log();
        let times = |text: &str| log.matches(text).count();
        (times("ERROR the disk takes nothing") == times("the disk works again")).then_some(())
    })
    .await;
}

/// What happens while the disk is recorded.
#[derive(Clone, Copy)]
enum Phase {
    Up,
    Down,
    Flapping,
    Killed,
    Full,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Up => "endpoint up",
            Self::Down => "endpoint down",
            Self::Flapping => "endpoint flapping",
            Self::Killed => "agent killed and started",
            Self::Full => "disk full, then not",
        }
    }

    fn behaviour(self) -> Behaviour {
        let good = Behaviour::default();
        match self {
            Self::Up => good,
            Self::Down => Behaviour { fail: Some(503), ..good },
            Self::Flapping => Behaviour { fail_every: Some(3), accept_then_reset: Times::Left(2), ..good },
            Self::Killed | Self::Full => Behaviour { fail_every: Some(2), ..good },
        }
    }
}

fn config(endpoint: &Endpoint, broker: &Broker, port: u16) -> String {
    format!(
        "[cloud]\nenabled = true\nendpoint = '{}'\nbatch_size = 100\nflush_interval_seconds = 0.05\n\
         backoff_min_seconds = 0.1\nbackoff_max_seconds = 0.3\n[logging]\nlevel = 'info'\n\
         [ingest.mqtt]\nhost = '127.0.0.1'\nport = {}\nclient_id = 'agent'\nbackoff_min_seconds = 0.02\n\
         [ingest.http]\nport = {port}\ntimeout_seconds = 1\n\
         [[sensors.devices]]\nname = 'n'\ningest_type = 'mqtt'\ntopic = 'n/#'\n\
         [[sensors.devices]]\nname = 'h'\ningest_type = 'http'\n\
         [store]\ncommit_interval_seconds = 0.02\nsize_max_mb = 16\nfree_min_mb = 0\nfree_inodes_min = 0\n",
        endpoint.url, broker.port
    )
}

/// Where the power goes, in order: a third right at an acknowledgement, when the least is to spare; a third
/// right before a flush that much depends on; a third anywhere.
fn choose(recording: &Recording, log: &WriteLog, cuts: usize, random: &mut fastrand::Rng) -> Vec<usize> {
    let told: Vec<usize> = recording.http.values().chain(recording.mqtt.values()).copied().collect();
    let laden = log.before_laden_flushes();
    let mut chosen: Vec<_> = (0..cuts)
        .map(|index| match index % 3 {
            0 => told[random.usize(..told.len())],
            1 => laden[random.usize(..laden.len())],
            _ => random.usize(..=log.entries.len()),
        })
        .collect();
    chosen.sort_unstable();
    chosen
}

/// What a start after a cut came to.
#[derive(Default)]
struct Found {
    acknowledged: usize,
    delivered_before: usize,
    delivered_now: usize,
    violations: Vec<String>,
}

/// Starts the daemon on `image`, has it deliver all it has, and looks for what was acknowledged.
async fn recover(home: &Home, image: &Path, recording: &Recording, cut: usize) -> Found {
    let mut found = Found::default();
    let (ledger, told) = Ledger::watch(None);
    let endpoint = Endpoint::start_plain_watched(told).await;
    home.configure(&format!(
        "[cloud]\nenabled = true\nendpoint = '{}'\nbatch_size = 1000\n[store]\nsize_max_mb = 16\nfree_min_mb = 0\nfree_inodes_min = 0\n",
        endpoint.url
    ));
    let mount = Mount::new(image, &home.state_dir());
    // Cut while the disk was full: it still is, and the daemon would wait for room.
    std::fs::remove_file(home.state_dir().join("ballast")).ok();
    let (exit, log) = home.once().await;
    if exit.code != Some(0) {
        found.violations.push(format!("it did not run: {exit:?}\n{log}"));
        return found;
    }
    let checked = quick_check(&home.state_dir());
    if checked != "ok" {
        found.violations.push(format!("quick_check: {checked}"));
    }
    let trail = crate::privacy::broken(&home.state_dir());
    if !trail.is_empty() {
        found.violations.push(format!("the audit trail: {trail:?}"));
    }
    drop(mount);
    let (before, now) = (recording.ledger.lock().unwrap(), ledger.lock().unwrap());
    let delivered_before: BTreeSet<u64> = before.delivered(cut).collect();
    let delivered_now: BTreeSet<u64> = now.delivered(0).collect();
    let told = recording.http.iter().chain(&recording.mqtt).filter(|(_, length)| **length <= cut);
    let acknowledged: Vec<u64> = told.map(|(number, _)| *number).collect();
    let is_lost = |number: &&u64| !delivered_before.contains(number) && !delivered_now.contains(number);
    let lost: Vec<_> = acknowledged.iter().filter(is_lost).collect();
    if !lost.is_empty() {
        found.violations.push(format!(
            "{} acknowledged readings are lost, such as {:?}\n{log}",
            lost.len(),
            &lost[..lost.len().min(20)]
        ));
    }
    let differing = now.differing(&before, cut);
    if !differing.is_empty() {
        found.violations.push(format!("batch ids with two contents: {differing:?}"));
    }
    found.acknowledged = acknowledged.len();
    found.delivered_before = delivered_before.len();
    found.delivered_now = delivered_now.len();
    found
}

fn quick_check(state_dir: &Path) -> String {
    let path = state_dir.join("edge_store.db");
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    db.query_row("PRAGMA quick_check", [], |row| row.get(0)).unwrap()
}

/// Keeps `image` where the next build does not remove it.
fn keep(image: &Path) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let kept = folder.join("power-cut.img");
    std::fs::copy(image, &kept).unwrap();
    kept
}

/// What was found, by what happened when the power went.
struct Table {
    rows: Vec<Row>,
}

#[derive(Default)]
struct Row {
    phase: &'static str,
    begin: usize,
    entries: usize,
    cuts: usize,
    uncertain: usize,
    uncertain_most: usize,
    checked: usize,
    delivered_now: usize,
    violations: usize,
}

impl Table {
    fn new(phases: &[(&'static str, usize)], entries: usize) -> Self {
        let ends = phases.iter().skip(1).map(|(_, begin)| *begin).chain([entries]);
        let row = |((phase, begin), end): (&(&'static str, usize), usize)| Row {
            phase,
            begin: *begin,
            entries: end - begin,
            ..Row::default()
        };
        Self { rows: phases.iter().zip(ends).map(row).collect() }
    }

    fn enter(&mut self, cut: usize, uncertain: usize, found: &Found) {
        let row = self.rows.iter_mut().rfind(|row| row.begin <= cut).expect("the first begins at 0");
        row.cuts += 1;
        row.uncertain += uncertain;
        row.uncertain_most = row.uncertain_most.max(uncertain);
        row.checked += found.acknowledged;
        row.delivered_now += found.delivered_now;
        row.violations += found.violations.len();
    }

    fn print(&self) {
        println!(
            "| while | log entries | cuts | unflushed writes, mean | most | acknowledged, checked | delivered after the cut | violations |"
        );
        println!("|---|---:|---:|---:|---:|---:|---:|---:|");
        for row in &self.rows {
            let Row {
                phase,
                begin: _,
                entries,
                cuts,
                uncertain,
                uncertain_most,
                checked,
                delivered_now,
                violations,
            } = row;
            let mean = *uncertain as f64 / (*cuts).max(1) as f64;
            println!(
                "| {phase} | {entries} | {cuts} | {mean:.1} | {uncertain_most} | {checked} | {delivered_now} | {violations} |"
            );
        }
        let sum = |of: fn(&Row) -> usize| self.rows.iter().map(of).sum::<usize>();
        println!(
            "| all | {} | {} | | | {} | {} | {} |",
            sum(|row| row.entries),
            sum(|row| row.cuts),
            sum(|row| row.checked),
            sum(|row| row.delivered_now),
            sum(|row| row.violations)
        );
    }
}

const PHASES: [Phase; 12] = [
    Phase::Up,
    Phase::Down,
    Phase::Flapping,
    Phase::Killed,
    Phase::Up,
    Phase::Full,
    Phase::Down,
    Phase::Killed,
    Phase::Flapping,
    Phase::Full,
    Phase::Killed,
    Phase::Up,
];
/// At least so long each.
const PHASE: Duration = Duration::from_millis(900);
