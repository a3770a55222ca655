//! What a reload has to do: the difference between two configurations.

use super::Config;
use crate::adapter::Source;

/// The steps from one configuration to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReloadPlan {
    /// Names of the sources to start. One that changed stands here and in `sources_stopped`; when
    /// the poll interval changed that is every source.
    pub sources_started: Vec<String>,
    pub sources_stopped: Vec<String>,
    pub rules_changed: bool,
    pub actions_changed: bool,
    pub windows_changed: bool,
    pub delivery_changed: bool,
    pub privacy_changed: bool,
    pub cloud_changed: bool,
    pub logging_changed: bool,
    /// Keys that changed but cannot while the agent runs. When there is one, apply nothing and run
    /// on with the old configuration.
    pub refused: Vec<&'static str>,
}

impl ReloadPlan {
    /// Whether nothing at all differs.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Compares what runs with what was loaded.
pub fn diff(old: &Config, new: &Config) -> ReloadPlan {
    let same_interval = old.poll_interval == new.poll_interval;
    let not_among = |sources: &[Source], others: &[Source]| {
        let is_kept = |source: &&Source| same_interval && others.contains(source);
        sources.iter().filter(|source| !is_kept(source)).map(Source::name).collect()
    };
    ReloadPlan {
        sources_started: not_among(&new.sources, &old.sources),
        sources_stopped: not_among(&old.sources, &new.sources),
        rules_changed: old.rules != new.rules,
        actions_changed: old.actions != new.actions,
        windows_changed: old.windows != new.windows,
        delivery_changed: old.delivery != new.delivery,
        privacy_changed: old.privacy != new.privacy,
        cloud_changed: old.cloud != new.cloud,
        logging_changed: old.logging != new.logging,
        refused: refused(old, new),
    }
}

/// `None` for the default, which follows `store.size_max_mb`.
fn quarantine(config: &Config) -> Option<u64> {
    let store = &config.store;
    Some(store.quarantine_bytes_max).filter(|bytes| *bytes != 2 * store.size_bytes_max)
}

fn refused(old: &Config, new: &Config) -> Vec<&'static str> {
    let changes = [
        ("agent.device_id", old.device_id != new.device_id),
        ("agent.state_dir", old.store.state_dir != new.store.state_dir),
        ("agent.clock", old.clock.trusted != new.clock.trusted),
        ("agent.clock_wait_seconds", old.clock.wait != new.clock.wait),
        ("store.size_max_mb", old.store.size_bytes_max != new.store.size_bytes_max),
        ("store.quarantine_max_mb", quarantine(old) != quarantine(new)),
        ("store.commit_interval_seconds", old.store.commit_interval != new.store.commit_interval),
        ("store.commit_interval_max_seconds", old.wear.commit_interval_max != new.wear.commit_interval_max),
        ("store.write_mb_per_day", old.wear.bytes_per_day != new.wear.bytes_per_day),
        ("store.history_max_mb", old.store.budget.history_bytes_max != new.store.budget.history_bytes_max),
        ("store.free_min_mb", old.store.budget.free_bytes_min != new.store.budget.free_bytes_min),
        ("store.free_inodes_min", old.store.budget.free_inodes_min != new.store.budget.free_inodes_min),
        ("store.ttl_seconds", old.store.ttl != new.store.ttl),
        ("health.enabled", old.health.enabled != new.health.enabled),
        ("health.bind", old.health.bind != new.health.bind),
        ("health.port", old.health.port != new.health.port),
    ];
    changes.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
}
