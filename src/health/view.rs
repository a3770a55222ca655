//! Everything the health server may look at, and what it makes of it: healthy, degraded, unhealthy.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::watch;

use super::delivery;
use super::host::{Host, Sample};
use super::wear::Wear;
use crate::adapter::{self, State};
use crate::lifecycle::blackbox::Previous;
use crate::lifecycle::memory::{Memory, State as MemoryState};
use crate::lifecycle::watchdog::Verdict;
use crate::store::Trouble;
use crate::{action, clock, pipeline, privacy, store, upload};

/// How far the agent's life has come. Readiness follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// With what it waits for.
    Starting(&'static str),
    /// With what it waits for, and why: it cannot start until somebody or time puts that right.
    Held(&'static str, String),
    /// The store is open and readings are taken in.
    Running,
    Stopping,
}

/// What a reload may change.
#[derive(Clone, Debug, Default)]
pub struct Configured {
    pub config_file: String,
    /// `None` before the first reload.
    pub last_reload: Option<Reload>,
    /// Entries of `sensors.devices`.
    pub devices: usize,
    pub sources: Vec<Arc<adapter::Status>>,
    pub actions: Vec<Arc<action::Status>>,
    pub cloud_enabled: bool,
    /// As configured; credentials in it are not shown.
    pub endpoint: String,
    pub privacy: PrivacySummary,
}

/// What came of a reload.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reload {
    /// Unix seconds UTC.
    pub time: f64,
    pub applied: bool,
    /// Why not, without what stands in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What the privacy firewall does, without saying to what values.
#[derive(Clone, Debug, Default)]
pub struct PrivacySummary {
    pub enabled: bool,
    /// Sensor rules and field patterns together.
    pub rules_active: usize,
    /// Patterns, as configured.
    pub fields_redacted: Vec<String>,
    pub fields_hashed: Vec<String>,
}

/// What the health server is handed.
#[derive(Clone, Debug)]
pub struct View {
    /// Boot clock.
    pub started_at: Duration,
    pub phase: watch::Receiver<Phase>,
    pub configured: watch::Receiver<Configured>,
    /// Of the watchdog.
    pub verdict: watch::Receiver<Verdict>,
    pub pipeline: Arc<pipeline::Counters>,
    pub privacy: Arc<privacy::Counters>,
    pub store: Arc<store::Counters>,
    pub delivery: Arc<upload::Status>,
    /// How the run before this one ended; `None` for the first.
    pub previous: Option<Previous>,
    pub wear: Arc<Wear>,
    pub host: Arc<Host>,
    pub memory: Memory,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Status {
    Healthy,
    Degraded,
    Unhealthy,
}

impl Status {
    pub(super) const ALL: [Self; 3] = [Self::Healthy, Self::Degraded, Self::Unhealthy];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// The status, and every reason why it is not better.
#[derive(Debug)]
pub(super) struct Assessment {
    pub(super) status: Status,
    pub(super) reasons: Vec<String>,
}

impl Assessment {
    fn worsen(&mut self, status: Status, reason: String) {
        self.status = self.status.max(status);
        if self.reasons.len() < REASONS_MAX {
            self.reasons.push(reason);
        }
    }
}

impl View {
    /// What a restart may cure makes the agent unhealthy, and a disk that cannot be written. Being offline
    /// never does: the store is there for that.
    pub(super) fn assess(&self, host: &Sample) -> Assessment {
        let mut found = Assessment { status: Status::Healthy, reasons: Vec::new() };
        let verdict = *self.verdict.borrow();
        if verdict != Verdict::Alive {
            found.worsen(Status::Unhealthy, format!("watchdog: {verdict}"));
        }
        match &*self.phase.borrow() {
            Phase::Starting(waits_for) => {
                found.worsen(Status::Degraded, format!("agent: starting, waits for {waits_for}"));
            }
            Phase::Held(waits_for, reason) => {
                let reason = format!("agent: starting, waits for {waits_for}: {reason}");
                found.worsen(Status::Degraded, reason);
            }
            Phase::Running => {}
            Phase::Stopping => found.worsen(Status::Degraded, "agent: stopping".to_owned()),
        }
        if let Some(trouble) = self.store.trouble() {
            let status = match trouble {
                // These may pass by themselves.
                Trouble::Full | Trouble::Locked => Status::Degraded,
                Trouble::ReadOnly | Trouble::Failing => Status::Unhealthy,
            };
            found.worsen(status, format!("store: {}", trouble.reason()));
        }
        if self.store.short_of_inodes.load(Relaxed) {
            found.worsen(Status::Degraded, "store: its file system has few inodes left".to_owned());
        }
        if self.memory.status.state() == MemoryState::Slowing {
            found.worsen(Status::Degraded, "memory: above its plan, sources wait for their turn".to_owned());
        }
        let configured = self.configured.borrow();
        if configured.cloud_enabled {
            let last = self.last_delivery();
            let others = delivery::reasons(&last, clock::unix_seconds());
            let trouble = last.trouble.map(|trouble| format!("delivery: {trouble}"));
            for reason in trouble.into_iter().chain(others) {
                found.worsen(Status::Degraded, reason);
            }
        }
        if host.disk_percent >= DISK_PERCENT_MAX {
            let percent = host.disk_percent;
            found.worsen(
                Status::Degraded,
                format!("disk: {percent:.0} % of the state directory's disk is used"),
            );
        }
        if let Some(celsius) = host.thermal_celsius.filter(|celsius| *celsius >= THERMAL_CELSIUS_MAX) {
            found.worsen(Status::Degraded, format!("thermal: {celsius:.0} °C, the board slows down"));
        }
        for source in &configured.sources {
            let state = source.state();
            if matches!(state, State::Reconnecting | State::Failed) {
                let error = source.last_error().unwrap_or_else(|| "no reason known".to_owned());
                let (name, state) = (&source.name, state_name(state));
                found.worsen(Status::Degraded, format!("source {name}: {state}: {error}"));
            }
        }
        for action in &configured.actions {
            if let Some(trouble) = action.trouble() {
                found.worsen(Status::Degraded, format!("action {}: {trouble}", action.name));
            }
        }
        found
    }

    /// Why the agent is not ready.
    pub(super) fn unready(&self) -> Option<String> {
        match &*self.phase.borrow() {
            Phase::Starting(waits_for) => Some(format!("starting, waits for {waits_for}")),
            Phase::Held(waits_for, reason) => Some(format!("starting, waits for {waits_for}: {reason}")),
            Phase::Running => self.store.trouble().map(|trouble| format!("store: {}", trouble.reason())),
            Phase::Stopping => Some("stopping".to_owned()),
        }
    }

    pub(super) fn last_delivery(&self) -> upload::Last {
        self.delivery.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// `since_boot` is the boot clock.
    pub(super) fn uptime(&self, since_boot: Duration) -> Duration {
        since_boot.saturating_sub(self.started_at)
    }
}

pub(super) fn state_name(state: State) -> &'static str {
    match state {
        State::Starting => "starting",
        State::Connected => "connected",
        State::Reconnecting => "reconnecting",
        State::Failed => "failed",
        State::Finished => "finished",
    }
}

/// A page with hundreds of sources down is read by its first lines.
const REASONS_MAX: usize = 32;

/// Above this the store has little room left to grow into.
const DISK_PERCENT_MAX: f64 = 95.0;

/// A Raspberry Pi begins to throttle at 80 °C.
const THERMAL_CELSIUS_MAX: f64 = 80.0;

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::health::wear;

    pub(in crate::health) struct Agent {
        pub(in crate::health) view: View,
        pub(in crate::health) phase: watch::Sender<Phase>,
        pub(in crate::health) configured: watch::Sender<Configured>,
        pub(in crate::health) verdict: watch::Sender<Verdict>,
    }

    /// A running agent with one connected source.
    pub(in crate::health) fn agent() -> Agent {
        let source = Arc::new(adapter::Status::new("bench".to_owned(), "simulator"));
        source.set(State::Connected);
        let phase = watch::Sender::new(Phase::Running);
        let configured = watch::Sender::new(Configured {
            config_file: "/etc/agent.toml".to_owned(),
            last_reload: None,
            devices: 1,
            sources: vec![source],
            actions: Vec::new(),
            cloud_enabled: true,
            endpoint: "https://api.example.com/v1/ingest".to_owned(),
            privacy: PrivacySummary { enabled: true, ..Default::default() },
        });
        let verdict = watch::Sender::default();
        let settings = wear::Settings { bytes_per_day: None, commit_interval_max: Duration::from_secs(10) };
        let view = View {
            started_at: Duration::from_secs(100),
            phase: phase.subscribe(),
            configured: configured.subscribe(),
            verdict: verdict.subscribe(),
            pipeline: Arc::default(),
            privacy: Arc::default(),
            store: Arc::default(),
            delivery: Arc::default(),
            previous: None,
            wear: Arc::new(Wear::new(settings, None, Arc::default(), Duration::ZERO)),
            host: Arc::new(Host::new("/".into())),
            memory: Memory::default(),
        };
        Agent { view, phase, configured, verdict }
    }

    fn assess(agent: &Agent) -> (Status, Vec<String>) {
        let Assessment { status, reasons } = agent.view.assess(&Sample::default());
        (status, reasons)
    }

    #[test]
    fn an_agent_that_runs_is_healthy_without_reasons() {
        assert_eq!(assess(&agent()), (Status::Healthy, vec![]));
    }

    #[test]
    fn being_offline_degrades_and_never_makes_unhealthy() {
        let agent = agent();
        agent.view.delivery.last.lock().unwrap().trouble = Some("connection refused".to_owned());
        assert_eq!(assess(&agent), (Status::Degraded, vec!["delivery: connection refused".to_owned()]));
        agent.configured.send_modify(|configured| configured.cloud_enabled = false);
        assert_eq!(assess(&agent).0, Status::Healthy);
    }

    #[test]
    fn a_stuck_stage_makes_unhealthy_and_is_named() {
        let agent = agent();
        let stuck = Verdict::Stuck { stage: "pipeline", stuck_for: Duration::from_secs(61) };
        agent.verdict.send_replace(stuck);
        let reasons = vec!["watchdog: pipeline has not moved for 61 s".to_owned()];
        assert_eq!(assess(&agent), (Status::Unhealthy, reasons));
    }

    #[test]
    fn a_failed_source_degrades_with_its_last_error() {
        let agent = agent();
        let source = agent.view.configured.borrow().sources[0].clone();
        source.set(State::Failed);
        source.set_error("no such device".to_owned());
        assert_eq!(
            assess(&agent),
            (Status::Degraded, vec!["source bench: failed: no such device".to_owned()])
        );
        source.set(State::Finished);
        assert_eq!(assess(&agent).0, Status::Healthy);
    }

    #[test]
    fn a_full_disk_and_a_hot_board_degrade() {
        let sample = Sample { disk_percent: 97.0, thermal_celsius: Some(85.0), ..Default::default() };
        let found = agent().view.assess(&sample);
        assert_eq!((found.status, found.reasons.len()), (Status::Degraded, 2));
    }

    #[test]
    fn a_disk_in_trouble_is_named_and_takes_the_readiness_with_it() {
        let agent = agent();
        for (trouble, status) in [(Trouble::Full, Status::Degraded), (Trouble::ReadOnly, Status::Unhealthy)] {
            agent.view.store.set_trouble(Some(trouble));
            let reason = format!("store: {}", trouble.reason());
            assert_eq!(assess(&agent), (status, vec![reason.clone()]));
            assert_eq!(agent.view.unready(), Some(reason));
        }
        agent.view.store.set_trouble(None);
        assert_eq!((assess(&agent).0, agent.view.unready()), (Status::Healthy, None));
    }

    #[test]
    fn memory_above_its_plan_degrades_while_it_lasts() {
        let agent = agent();
        agent.view.memory.status.set(MemoryState::Slowing);
        let reasons = vec!["memory: above its plan, sources wait for their turn".to_owned()];
        assert_eq!(assess(&agent), (Status::Degraded, reasons));
        agent.view.memory.status.set(MemoryState::Shedding);
        assert_eq!(assess(&agent).0, Status::Healthy);
    }

    #[test]
    fn an_agent_that_starts_or_stops_is_degraded_and_not_ready() {
        let agent = agent();
        assert_eq!(agent.view.unready(), None);
        agent.phase.send_replace(Phase::Starting("the store"));
        assert_eq!(agent.view.unready().unwrap(), "starting, waits for the store");
        assert_eq!(assess(&agent).0, Status::Degraded);
        agent.phase.send_replace(Phase::Held("the store", "no such disk".to_owned()));
        assert_eq!(agent.view.unready().unwrap(), "starting, waits for the store: no such disk");
        let reason = "agent: starting, waits for the store: no such disk".to_owned();
        assert_eq!(assess(&agent), (Status::Degraded, vec![reason]));
        agent.phase.send_replace(Phase::Stopping);
        assert_eq!(agent.view.unready().unwrap(), "stopping");
    }
}
