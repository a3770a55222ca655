//! How the agent is, at a glance: from its health page while it runs, else from the store and the black box.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::facts::{Agent, ServiceState, Store};
use crate::config::{Config, Loaded};
use crate::lifecycle::blackbox::{self, FILE_NAME, Previous, Record, What};
use crate::store::stats::Stats;

/// All of it; `null` is what is not known. Times are Unix seconds UTC.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Status {
    pub state: State,
    /// By its own word: `healthy`, `degraded` or `unhealthy`.
    pub health: Option<String>,
    /// Why it is not better, or cannot be told.
    pub reasons: Vec<String>,
    /// Of what runs, else of this program.
    pub version: String,
    pub pid: Option<u32>,
    /// When it was started.
    pub since: Option<f64>,
    /// What the service manager says, where it was asked.
    pub service: Option<Service>,
    /// The one that is live, else the one that a start would take.
    pub config_file: String,
    /// `time`, whether it was `applied`, and the `reason` if not; since the last start.
    pub last_reload: Value,
    pub sources: Vec<Source>,
    /// The last commit; of an agent that is stopped the newest item's own time.
    pub last_stored_time: Option<f64>,
    pub backlog: Backlog,
    pub delivery: Delivery,
    pub store: StoreStatus,
    pub clock: Option<Clock>,
    /// How the run before the present one ended, or the last one.
    pub previous_run: Option<Previously>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    #[default]
    Stopped,
    /// It takes nothing in yet, or no more.
    Starting,
    Running,
    /// Its process is there, and its health page does not answer.
    Unseen,
    /// No health page answers, and this user cannot see whether its process is there.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Service {
    pub active: String,
    pub result: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Source {
    pub name: String,
    pub kind: String,
    pub state: String,
    pub readings: u64,
    pub last_error: Option<String>,
}

/// What waits for delivery.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Backlog {
    pub items: u64,
    pub by_lane: BTreeMap<String, u64>,
    pub oldest_time: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Delivery {
    pub enabled: bool,
    pub endpoint: String,
    pub last_time: Option<f64>,
    pub trouble: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct StoreStatus {
    pub trouble: Option<String>,
    pub size_bytes: Option<u64>,
    pub allowed_bytes: Option<u64>,
    pub days_before_thinning: Option<f64>,
    pub days_before_dropping: Option<f64>,
    pub dead_letters: Option<u64>,
    /// Items that will not be delivered, by reason.
    pub gaps: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Clock {
    pub synchronised: bool,
    pub source: String,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Previously {
    pub end: String,
    pub detail: String,
    pub last_seen: f64,
}

/// What the black box tells of an agent that does not run.
#[derive(Debug, Default)]
pub struct Remembered {
    pub last_run: Option<Previous>,
    /// The last start or reload that took effect, or the refusal after it.
    pub reload: Option<Record>,
}

impl Remembered {
    /// Reads the black box of `state_dir`; nothing where there is none.
    pub fn read(state_dir: &Path) -> Self {
        let path = state_dir.join(FILE_NAME);
        let is_reload = |record: &Record| matches!(record.what, What::Reloaded | What::ReloadRefused);
        let records = blackbox::read(&path).unwrap_or_default();
        let last_run = records.iter().rev().take_while(|record| record.what != What::Start);
        Self {
            reload: last_run.into_iter().find(|record| is_reload(record)).cloned(),
            last_run: blackbox::last_run(&path).ok().flatten(),
        }
    }
}

/// Puts it together: what the health page says where there is one, else what lies in the state directory.
pub fn status(
    loaded: &Loaded,
    agent: &Agent,
    store: &Store,
    remembered: Remembered,
    service: Option<&ServiceState>,
) -> Status {
    let mut status = match &agent.health {
        Some(Ok(health)) => of_page(health),
        health => of_store(loaded, agent, store, remembered, health.as_ref()),
    };
    status.pid = agent.pid;
    status.service =
        service.map(|service| Service { active: service.active.clone(), result: service.result.clone() });
    status
}

fn of_page(page: &Value) -> Status {
    let at = |pointer: &str| page.pointer(pointer).unwrap_or(&Value::Null);
    let text = |pointer: &str| at(pointer).as_str().map(str::to_owned);
    let number = |pointer: &str| at(pointer).as_f64();
    let whole = |pointer: &str| at(pointer).as_u64();
    let list = |pointer: &str| at(pointer).as_array().into_iter().flatten();
    let is_running = at("/agent/running").as_bool() == Some(true);
    Status {
        state: if is_running { State::Running } else { State::Starting },
        health: text("/status"),
        reasons: list("/reasons").filter_map(|reason| Some(reason.as_str()?.to_owned())).collect(),
        version: text("/agent/version").unwrap_or_default(),
        since: number("/timestamp").zip(number("/metrics/uptime_seconds")).map(|(now, up)| now - up),
        config_file: text("/agent/config_file").unwrap_or_default(),
        last_reload: at("/agent/last_reload").clone(),
        sources: list("/ingest/sources").map(source).collect(),
        last_stored_time: number("/store/last_commit_time"),
        backlog: Backlog {
            items: whole("/cloud/queue_depth").unwrap_or(0),
            by_lane: counts(at("/store/pending")),
            oldest_time: number("/store/oldest_pending_time"),
        },
        delivery: Delivery {
            enabled: at("/cloud/enabled").as_bool() == Some(true),
            endpoint: text("/cloud/endpoint").unwrap_or_default(),
            last_time: number("/cloud/last_flush_time").filter(|time| *time > 0.0),
            trouble: text("/cloud/trouble"),
        },
        store: StoreStatus {
            trouble: text("/store/trouble"),
            size_bytes: whole("/store/size_bytes"),
            allowed_bytes: whole("/store/allowed_bytes"),
            days_before_thinning: number("/store/days_before_thinning"),
            days_before_dropping: number("/store/days_before_dropping"),
            dead_letters: whole("/store/dead_letters"),
            gaps: counts(at("/store/gaps")),
        },
        clock: at("/clock/synchronised")
            .as_bool()
            .map(|synchronised| Clock { synchronised, source: text("/clock/source").unwrap_or_default() }),
        previous_run: text("/agent/previous_run/end").map(|end| Previously {
            end,
            detail: text("/agent/previous_run/detail").unwrap_or_default(),
            last_seen: number("/agent/previous_run/last_seen").unwrap_or(0.0),
        }),
        ..Status::default()
    }
}

fn source(source: &Value) -> Source {
    let text = |key: &str| source[key].as_str().map(str::to_owned);
    Source {
        name: text("name").unwrap_or_default(),
        kind: text("kind").unwrap_or_default(),
        state: text("state").unwrap_or_default(),
        readings: source["readings"].as_u64().unwrap_or(0),
        last_error: text("last_error"),
    }
}

fn counts(table: &Value) -> BTreeMap<String, u64> {
    let members = table.as_object().into_iter().flatten();
    members.filter_map(|(name, count)| Some((name.clone(), count.as_u64()?))).collect()
}

fn of_store(
    loaded: &Loaded,
    agent: &Agent,
    store: &Store,
    remembered: Remembered,
    page: Option<&Result<Value, String>>,
) -> Status {
    let settings = &loaded.config;
    let mut reasons = Vec::new();
    // Nobody there is what a stopped agent looks like.
    if let (Some(_), Some(Err(error))) = (agent.pid, page) {
        reasons.push(format!("health page: {error}"));
    }
    let stats = match &store.stats {
        Some(Ok(stats)) => Some(stats),
        Some(Err(error)) => {
            reasons.push(format!("store: {error}"));
            None
        }
        None => None,
    };
    if store.is_hidden {
        reasons.push("store: this user may not look into the state directory; run it as root".to_owned());
    }
    let mut status = Status {
        state: match agent.pid {
            Some(_) => State::Unseen,
            None if store.is_hidden => State::Unknown,
            None => State::Stopped,
        },
        reasons,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        config_file: loaded.files.first().map(|file| file.display().to_string()).unwrap_or_default(),
        last_reload: last_reload(remembered.reload.as_ref()),
        delivery: Delivery {
            enabled: settings.cloud.enabled,
            endpoint: crate::health::without_credentials(&settings.cloud.endpoint),
            ..Delivery::default()
        },
        previous_run: remembered.last_run.filter(|_| agent.pid.is_none()).map(previously),
        ..Status::default()
    };
    if let Some(stats) = stats {
        fill(&mut status, stats, settings);
    }
    status
}

fn fill(status: &mut Status, stats: &Stats, settings: &Config) {
    let lanes = &stats.lanes;
    status.last_stored_time = lanes.iter().filter_map(|lane| lane.newest).max_by(f64::total_cmp);
    status.backlog = Backlog {
        items: lanes.iter().map(|lane| lane.undelivered).sum(),
        by_lane: lanes.iter().map(|lane| (lane.name.to_owned(), lane.undelivered)).collect(),
        oldest_time: lanes.iter().filter_map(|lane| lane.oldest_undelivered).min_by(f64::total_cmp),
    };
    status.store = StoreStatus {
        size_bytes: Some(stats.database_bytes + stats.wal_bytes),
        allowed_bytes: Some(settings.store.size_bytes_max),
        dead_letters: Some(stats.dead_letters),
        gaps: stats.gaps.iter().map(|gap| (gap.reason.clone(), gap.items)).collect(),
        ..StoreStatus::default()
    };
}

fn last_reload(record: Option<&Record>) -> Value {
    let Some(record) = record else { return Value::Null };
    let applied = record.what == What::Reloaded;
    let reason = (!applied).then_some(&record.detail);
    serde_json::json!({"time": record.unix_ms as f64 / 1000.0, "applied": applied, "reason": reason})
}

fn previously(run: Previous) -> Previously {
    let end = serde_json::to_value(run.end).ok().and_then(|end| Some(end.as_str()?.to_owned()));
    Previously { end: end.unwrap_or_default(), detail: run.detail, last_seen: run.last_seen }
}
