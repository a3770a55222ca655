//! Reads the settings of every stage out of the merged tree.

use std::path::PathBuf;
use std::time::Duration;

use super::Config;
use super::actions;
use super::cloud::cloud;
use super::delivery::delivery;
use super::firewall::privacy;
use super::problem::Problems;
use super::rules::{rules, windows};
use super::section::Section;
use super::tree::Node;
use crate::logging::{Format, Level};
use crate::{adapter, clock, health, logging, store};

/// Reads all of `root`, where every key that nobody asks for is a problem. What is returned is
/// usable only while there are no problems; `notes` gains what is allowed but worth a warning.
pub fn read(root: &Node, state_dir: PathBuf, problems: &Problems, notes: &mut Vec<String>) -> Config {
    let whole = root;
    let mut root = Section::new(String::new(), Some(root), problems);
    let mut agent = root.section("agent");
    let mut sensors = root.section("sensors");
    let device_id = device_id(&mut agent);
    let clock = clock(&mut agent);
    let (store, wear) = store(&mut root, given(agent.string("state_dir")).map_or(state_dir, PathBuf::from));
    let poll_interval = sensors.seconds("poll_interval_seconds", 5.0, 0.05..=86_400.0);
    let (devices, sources) = sources(&mut root, &mut sensors, problems);
    let windows = windows(&mut root);
    let cloud = cloud(&mut root, notes);
    let shared = actions::Shared::of(whole, cloud.proxy.clone());
    let actions = actions::actions(&mut root, &shared, notes);
    Config {
        device_id,
        clock,
        poll_interval,
        devices,
        sources,
        rules: rules(&mut root, &windows, &actions),
        windows,
        delivery: delivery(&mut root),
        actions,
        cloud,
        privacy: privacy(&mut root),
        store,
        wear,
        health: health(&mut root),
        logging: logging(&mut root),
    }
}

/// A string that is not empty. Empty is how `${NAME:-}` says "not given".
pub fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// Reads a name that stands in messages, events and file formats.
pub fn bounded_name(section: &Section<'_>, key: &str, name: &str) {
    if name.len() > NAME_BYTES_MAX {
        section.refuse(key, format_args!("is {} bytes long; give at most {NAME_BYTES_MAX}", name.len()));
    } else if name.contains(char::is_control) {
        section.refuse(key, "contains a control character; give printable text");
    }
}

fn device_id(agent: &mut Section<'_>) -> Option<String> {
    let device_id = given(agent.string("device_id"))?;
    bounded_name(agent, "device_id", &device_id);
    Some(device_id)
}

/// Whose word on the clock counts, and how long the first readings of a boot wait for it.
fn clock(agent: &mut Section<'_>) -> clock::Settings {
    let wait = clock::Settings::default().wait.as_secs_f64();
    clock::Settings {
        trusted: agent.choice("clock", false, &[("kernel", false), ("trusted", true)]),
        wait: agent.seconds("clock_wait_seconds", wait, 0.0..=86_400.0),
    }
}

/// The number of devices, and the sources that serve them.
fn sources(
    root: &mut Section<'_>,
    sensors: &mut Section<'_>,
    problems: &Problems,
) -> (usize, Vec<adapter::Source>) {
    let mut devices = sensors.list("devices");
    if devices.len() > DEVICES_MAX {
        sensors.refuse("devices", format_args!("{} devices; give at most {DEVICES_MAX}", devices.len()));
        devices.drain(DEVICES_MAX..).for_each(|mut device| device.ignore_rest());
    }
    (devices.len(), adapter::read_sources(&mut root.section("ingest"), devices, problems))
}

fn store(root: &mut Section<'_>, state_dir: PathBuf) -> (store::Settings, health::wear::Settings) {
    let mut section = root.section("store");
    let size_max_mb: u64 = section.count("size_max_mb", 256, 1..=1_048_576);
    let quarantine_default = 2 * size_max_mb.cast_signed();
    let quarantine_max_mb: u64 = section.count("quarantine_max_mb", quarantine_default, 0..=2_097_152);
    let store = store::Settings {
        state_dir,
        size_bytes_max: size_max_mb * MIB,
        quarantine_bytes_max: quarantine_max_mb * MIB,
        commit_interval: section.seconds("commit_interval_seconds", 1.0, 0.01..=60.0),
        budget: store::Budget {
            history_bytes_max: section
                .has("history_max_mb")
                .then(|| section.count::<u64>("history_max_mb", 0, 0..=1_048_576) * MIB),
            free_bytes_min: section.count::<u64>("free_min_mb", 64, 0..=1_048_576) * MIB,
            free_inodes_min: section.count("free_inodes_min", 1000, 0..=1_000_000_000),
        },
        ttl: ttl(section.section("ttl_seconds")),
    };
    let interval = store.commit_interval.as_secs_f64();
    let interval_max = section.optional_float("commit_interval_max_seconds", 0.01..=3600.0);
    if interval_max.is_some_and(|longest| longest < interval) {
        section.refuse(
            "commit_interval_max_seconds",
            format_args!("is less than commit_interval_seconds, {interval}; it is what that may grow to"),
        );
    }
    let wear = health::wear::Settings {
        bytes_per_day: section
            .optional_float("write_mb_per_day", 1.0..=1_048_576.0)
            .map(|mebibytes| mebibytes * 1024.0 * 1024.0),
        commit_interval_max: std::time::Duration::from_secs_f64(
            interval_max.unwrap_or(COMMIT_INTERVAL_MAX_SECONDS.max(interval)),
        ),
    };
    (store, wear)
}

/// Keys by priority; what has none waits for ever.
fn ttl(mut section: Section<'_>) -> store::Ttl {
    let mut of = |key| section.optional_float(key, 1.0..=1e9).map(Duration::from_secs_f64);
    store::Ttl { by_priority: ["critical", "anomaly", "telemetry", "logs"].map(&mut of) }
}

fn health(root: &mut Section<'_>) -> health::Settings {
    let mut section = root.section("health");
    let bind = section.string("bind").unwrap_or_else(|| HEALTH_BIND.to_owned());
    health::Settings {
        enabled: section.bool("enabled", true),
        bind: bind.parse().unwrap_or_else(|_| {
            section.refuse(
                "bind",
                format_args!("'{bind}' is not an IP address; give one such as {HEALTH_BIND}"),
            );
            std::net::Ipv4Addr::LOCALHOST.into()
        }),
        port: section.count("port", 8080, 0..=65_535),
    }
}

fn logging(root: &mut Section<'_>) -> logging::Settings {
    let mut section = root.section("logging");
    let levels = [
        ("error", Level::Error),
        ("warn", Level::Warn),
        ("info", Level::Info),
        ("debug", Level::Debug),
        ("trace", Level::Trace),
        // What the Python agent called it.
        ("warning", Level::Warn),
    ];
    let formats = [("text", Format::Text), ("json", Format::Json)];
    logging::Settings {
        level: section.choice("level", Level::default(), &levels),
        format: section.choice("format", Format::default(), &formats),
    }
}

/// Of a device, rule or window.
const NAME_BYTES_MAX: usize = 256;
const DEVICES_MAX: usize = 4096;
const COMMIT_INTERVAL_MAX_SECONDS: f64 = 10.0;
const MIB: u64 = 1024 * 1024;
const HEALTH_BIND: &str = "127.0.0.1";
