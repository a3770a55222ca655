//! The body of `/health`: the documented keys, and some more.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde::Serialize;

use super::delivery;
use super::host::Sample;
use super::memory::Memory;
use super::view::{Assessment, Configured, Phase, Reload, View, state_name};
use super::wear::Written;
use crate::action;
use crate::adapter::{self, State};
use crate::lifecycle::blackbox::Previous;
use crate::pipeline::window::WindowCounts;
use crate::reading::{Priority, Refusal};
use crate::store::Trouble;

/// The whole body. `now` is in Unix seconds UTC, `since_boot` the boot clock.
#[derive(Serialize)]
pub(super) struct Report {
    status: &'static str,
    reasons: Vec<String>,
    timestamp: f64,
    metrics: Metrics,
    agent: Agent,
    windows: Windows,
    cloud: Cloud,
    privacy: Privacy,
    ingest: Ingest,
    actions: Vec<Action>,
    store: Store,
    clock: Clock,
    refused: BTreeMap<&'static str, u64>,
    wear: Wear,
    memory: Memory,
}

#[derive(Serialize)]
struct Metrics {
    cpu_percent: f64,
    ram_percent: f64,
    disk_percent: f64,
    /// 0 where the board has no sensor: dashboards of the Python agent expect a number.
    thermal_celsius: f64,
    uptime_seconds: f64,
    timestamp: f64,
}

#[derive(Serialize)]
struct Agent {
    running: bool,
    buffer_count: u64,
    readings_processed: u64,
    events_triggered: u64,
    windows_emitted: u64,
    readings_suppressed: u64,
    rule_errors: u64,
    version: &'static str,
    config_file: String,
    last_reload: Option<Reload>,
    previous_run: Option<Previous>,
}

/// Since the start.
#[derive(Serialize)]
struct Windows {
    restarts: u64,
    readings_left_out: u64,
    readings_rebuilt: u64,
    by_window: BTreeMap<Box<str>, Window>,
}

#[derive(Serialize)]
struct Window {
    out_of_order: u64,
    too_late: u64,
}

#[derive(Serialize)]
struct Cloud {
    queue_depth: u64,
    /// Unix seconds UTC of the last delivery; 0 before the first.
    last_flush_time: f64,
    messages_sent_today: u64,
    endpoint: String,
    enabled: bool,
    /// The same in words.
    delivery: &'static str,
    trouble: Option<String>,
    backlog_batches_per_second: f64,
    stuck_batches: usize,
    wire_bytes: u64,
    budget: delivery::Budget,
    certificate_days: delivery::DaysLeft,
}

#[derive(Serialize)]
struct Privacy {
    enabled: bool,
    rules_active: usize,
    fields_redacted: Vec<String>,
    fields_hashed: Vec<String>,
    /// In words, and with why.
    leaves_device: &'static str,
}

#[derive(Serialize)]
struct Ingest {
    /// Kinds of which a source is connected.
    adapters_connected: Vec<&'static str>,
    devices_configured: usize,
    sources: Vec<Source>,
}

#[derive(Serialize)]
struct Source {
    name: String,
    kind: &'static str,
    state: &'static str,
    last_error: Option<String>,
    readings: u64,
    restarts: u64,
}

/// What became of the events of one action.
#[derive(Serialize)]
struct Action {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    waiting: u64,
    #[serde(flatten)]
    counts: BTreeMap<&'static str, u64>,
    last_error: Option<String>,
}

/// Flash wear: bytes that the kernel wrote for this process, whole pages.
#[derive(Serialize)]
struct Wear {
    today: WrittenIn,
    day_before: WrittenIn,
    since_store_was_made: WrittenIn,
    gb_per_year: Option<f64>,
    over_budget: bool,
}

#[derive(Serialize)]
struct WrittenIn {
    written_bytes: u64,
    accepted_bytes: u64,
    running_seconds: f64,
    amplification: Option<f64>,
}

#[derive(Serialize)]
struct Store {
    pending: BTreeMap<&'static str, u64>,
    dropped: BTreeMap<&'static str, u64>,
    /// Why commits wait, while they do.
    trouble: Option<&'static str>,
    dead_letters: u64,
    /// The last salvage of a damaged database.
    salvage: Option<crate::store::salvage::Summary>,
    /// Items that will not be delivered, by reason, in the life of the store.
    gaps: BTreeMap<&'static str, u64>,
    items_stored: u64,
    commits: u64,
    commit_bytes: u64,
    size_bytes: u64,
    allowed_bytes: u64,
    /// Without any delivery, at the rate of the last day; null before it is known.
    days_before_thinning: Option<f64>,
    days_before_dropping: Option<f64>,
    last_commit_time: Option<f64>,
    oldest_pending_time: Option<f64>,
}

#[derive(Serialize)]
struct Clock {
    synchronised: bool,
    /// Who says so: `kernel`, `trusted`, `held_over` or `none`.
    source: &'static str,
    /// How long it has been so.
    lasting_seconds: f64,
    provisional_items: u64,
    corrected_items: u64,
    inferred_items: u64,
}

impl Report {
    pub(super) fn new(view: &View, found: Assessment, host: &Sample, since_boot: Duration, now: f64) -> Self {
        let configured = view.configured.borrow();
        Self {
            status: found.status.name(),
            reasons: found.reasons,
            timestamp: now,
            metrics: Metrics {
                cpu_percent: host.cpu_percent,
                ram_percent: host.ram_percent,
                disk_percent: host.disk_percent,
                thermal_celsius: host.thermal_celsius.unwrap_or(0.0),
                uptime_seconds: view.uptime(since_boot).as_secs_f64(),
                timestamp: now,
            },
            agent: Agent::new(view, &configured),
            windows: Windows::new(view),
            cloud: Cloud::new(view, &configured, now),
            privacy: Privacy {
                enabled: configured.privacy.enabled,
                rules_active: configured.privacy.rules_active,
                fields_redacted: configured.privacy.fields_redacted.clone(),
                fields_hashed: configured.privacy.fields_hashed.clone(),
                leaves_device: leaves_device(&configured),
            },
            ingest: Ingest::new(&configured),
            actions: configured.actions.iter().map(|action| Action::new(action)).collect(),
            store: Store::new(view),
            clock: Clock::new(view, since_boot),
            refused: Refusal::ALL.map(|reason| (reason.name(), view.pipeline.refused(reason))).into(),
            wear: Wear::new(view, since_boot, now),
            memory: Memory::new(&view.memory),
        }
    }
}

impl Action {
    fn new(status: &action::Status) -> Self {
        Self {
            name: status.name.clone(),
            kind: status.kind,
            waiting: status.waiting.load(Relaxed),
            counts: status.counts().into(),
            last_error: status.trouble(),
        }
    }
}

/// Consent is one switch: `cloud.enabled`.
fn leaves_device(configured: &Configured) -> &'static str {
    match (configured.cloud_enabled, configured.privacy.enabled, configured.privacy.rules_active) {
        (false, ..) => "nothing: delivery is disabled",
        (true, true, 1..) => "what the policy lets through",
        (true, true, 0) => "everything: the policy has no rules",
        (true, false, _) => "everything: the firewall is off",
    }
}

impl Agent {
    fn new(view: &View, configured: &Configured) -> Self {
        Self {
            running: *view.phase.borrow() == Phase::Running,
            buffer_count: view.pipeline.buffer_count.load(Relaxed),
            readings_processed: view.pipeline.readings_processed.load(Relaxed),
            events_triggered: view.pipeline.events_triggered.load(Relaxed),
            windows_emitted: view.pipeline.windows_emitted.load(Relaxed),
            readings_suppressed: view.pipeline.readings_suppressed.load(Relaxed),
            rule_errors: view.pipeline.rule_errors.load(Relaxed),
            version: env!("CARGO_PKG_VERSION"),
            config_file: configured.config_file.clone(),
            last_reload: configured.last_reload.clone(),
            previous_run: view.previous.clone(),
        }
    }
}

impl Windows {
    fn new(view: &View) -> Self {
        let shown = view.pipeline.windows();
        let window = |WindowCounts { out_of_order, too_late }| Window { out_of_order, too_late };
        Self {
            restarts: shown.restarts,
            readings_left_out: shown.left_out,
            readings_rebuilt: view.pipeline.windows_rebuilt_readings.load(Relaxed),
            by_window: shown.by_window.into_iter().map(|(name, counts)| (name, window(counts))).collect(),
        }
    }
}

impl Cloud {
    fn new(view: &View, configured: &Configured, now: f64) -> Self {
        let last = view.last_delivery();
        // The count belongs to its day: without a delivery since midnight nothing was sent today.
        let is_today = last.day == (now / SECONDS_PER_DAY) as u64;
        Self {
            queue_depth: view.store.pending().total(),
            last_flush_time: last.delivered_at,
            messages_sent_today: if is_today { last.items_today } else { 0 },
            endpoint: without_credentials(&configured.endpoint),
            enabled: configured.cloud_enabled,
            delivery: if configured.cloud_enabled {
                "enabled"
            } else {
                "disabled: nothing leaves the device"
            },
            trouble: last.trouble,
            backlog_batches_per_second: last.backlog_rate,
            stuck_batches: last.stuck.map_or(0, |(count, _)| count),
            wire_bytes: view.delivery.wire_bytes.load(Relaxed),
            budget: delivery::Budget::new(&last.budget),
            certificate_days: delivery::DaysLeft::new(&last.certificates, now),
        }
    }
}

impl Ingest {
    fn new(configured: &Configured) -> Self {
        let mut adapters_connected: Vec<_> = configured
            .sources
            .iter()
            .filter(|source| source.state() == State::Connected)
            .map(|source| source.kind)
            .collect();
        adapters_connected.sort_unstable();
        adapters_connected.dedup();
        Self {
            adapters_connected,
            devices_configured: configured.devices,
            sources: configured.sources.iter().map(|source| Source::new(source)).collect(),
        }
    }
}

impl Source {
    fn new(source: &adapter::Status) -> Self {
        Self {
            name: source.name.clone(),
            kind: source.kind,
            state: state_name(source.state()),
            last_error: source.last_error(),
            readings: source.readings.load(Relaxed),
            restarts: source.restarts.load(Relaxed),
        }
    }
}

impl Wear {
    fn new(view: &View, since_boot: Duration, now: f64) -> Self {
        let account = view.wear.look(now, since_boot);
        let written = |written: &Written| WrittenIn {
            written_bytes: written.bytes,
            accepted_bytes: written.accepted_bytes,
            running_seconds: written.seconds,
            amplification: written.amplification(),
        };
        Self {
            today: written(&account.today),
            day_before: written(&account.day_before),
            since_store_was_made: written(&account.total),
            gb_per_year: account.bytes_per_year().map(|bytes| bytes / 1e9),
            over_budget: view.pipeline.is_over_budget.load(Relaxed),
        }
    }
}

impl Clock {
    fn new(view: &View, since_boot: Duration) -> Self {
        let (clock, store) = (&view.pipeline.clock, &view.store);
        Self {
            synchronised: clock.is_synchronised(),
            source: clock.source(),
            lasting_seconds: clock.lasting(since_boot).as_secs_f64(),
            provisional_items: store.provisional.load(Relaxed),
            corrected_items: store.corrected.load(Relaxed),
            inferred_items: store.inferred.load(Relaxed),
        }
    }
}

impl Store {
    fn new(view: &View) -> Self {
        let store = &*view.store;
        let by_lane = |counts: &[std::sync::atomic::AtomicU64; 4]| {
            Priority::ALL.iter().zip(counts).map(|(lane, count)| (lane.name(), count.load(Relaxed))).collect()
        };
        Self {
            pending: by_lane(&store.pending),
            dropped: by_lane(&store.dropped),
            trouble: store.trouble().map(Trouble::name),
            dead_letters: store.dead_letters.load(Relaxed),
            salvage: store.salvage().cloned(),
            gaps: store.gaps().collect(),
            items_stored: store.items_stored.load(Relaxed),
            commits: store.commits.load(Relaxed),
            commit_bytes: store.commit_bytes.load(Relaxed),
            size_bytes: store.store_bytes.load(Relaxed),
            allowed_bytes: store.allowed_bytes.load(Relaxed),
            days_before_thinning: store.days_before_thinning.get(),
            days_before_dropping: store.days_before_dropping.get(),
            last_commit_time: store.last_commit_at.get(),
            oldest_pending_time: store.oldest_pending_at.get(),
        }
    }
}

/// The URL without user, password, query and fragment: any of them may hold a key.
pub fn without_credentials(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

const SECONDS_PER_DAY: f64 = 86_400.0;

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::view::tests::{Agent as TestAgent, agent};
    use super::*;

    const NOW: f64 = 1_717_156_800.5;

    fn report(agent: &TestAgent) -> Value {
        let sample = Sample { cpu_percent: 12.5, ..Default::default() };
        let found = agent.view.assess(&sample);
        let report = Report::new(&agent.view, found, &sample, Duration::from_secs(160), NOW);
        serde_json::to_value(report).unwrap()
    }

    /// Every key of `documented` is in `actual`, with a value of the same type.
    fn assert_has(actual: &Value, documented: &Value, path: &str) {
        let Value::Object(keys) = documented else {
            let same = std::mem::discriminant(actual) == std::mem::discriminant(documented);
            assert!(same, "{path}: {actual} where {documented} is documented");
            return;
        };
        for (key, documented) in keys {
            let path = format!("{path}.{key}");
            assert_has(actual.get(key).unwrap_or_else(|| panic!("{path} is missing")), documented, &path);
        }
    }

    #[test]
    fn every_documented_key_is_there_with_its_type() {
        let documented = json!({"status":"healthy","timestamp":0.0,
            "metrics":{"cpu_percent":0.0,"ram_percent":0.0,"disk_percent":0.0,"thermal_celsius":0.0,
                "uptime_seconds":0.0,"timestamp":0.0},
            "agent":{"running":true,"buffer_count":0,"readings_processed":0,"events_triggered":0},
            "cloud":{"queue_depth":0,"last_flush_time":0.0,"messages_sent_today":0,"endpoint":"https://..."},
            "privacy":{"enabled":true,"rules_active":0,"fields_redacted":[],"fields_hashed":[]},
            "ingest":{"adapters_connected":["simulator"],"devices_configured":1}});
        let report = report(&agent());
        assert_has(&report, &documented, "");
        assert_eq!(report["ingest"]["adapters_connected"], json!(["simulator"]));
        assert_eq!(report["metrics"]["uptime_seconds"], json!(60.0));
        assert_eq!(report["reasons"], json!([]));
    }

    #[test]
    fn the_queue_is_as_deep_as_all_lanes_together() {
        let agent = agent();
        agent.view.store.pending[0].store(2, Relaxed);
        agent.view.store.pending[3].store(40, Relaxed);
        let report = report(&agent);
        assert_eq!(report["cloud"]["queue_depth"], 42);
        assert_eq!(report["store"]["pending"]["LOGS"], 40);
    }

    #[test]
    fn what_was_sent_yesterday_is_not_counted_today() {
        let agent = agent();
        let today = (NOW / SECONDS_PER_DAY) as u64;
        for (day, sent) in [(today, 7), (today - 1, 0)] {
            let mut last = agent.view.delivery.last.lock().unwrap();
            (last.day, last.items_today) = (day, 7);
            drop(last);
            assert_eq!(report(&agent)["cloud"]["messages_sent_today"], sent);
        }
    }

    #[test]
    fn credentials_in_the_endpoint_are_not_shown() {
        for (endpoint, shown) in [
            (
                "https://u:p@ss@api.example.com:8443/v1/in@gest?key=1",
                "https://api.example.com:8443/v1/in@gest",
            ),
            ("https://api.example.com#k", "https://api.example.com"),
            ("https://u:p@api.example.com", "https://api.example.com"),
            ("", ""),
        ] {
            assert_eq!(without_credentials(endpoint), shown);
        }
    }
}
