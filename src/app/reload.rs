//! Reload as a transaction: load, check and build everything, then replace what changed. A failure
//! keeps the running configuration.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use tokio::sync::{mpsc, watch};

use super::front::Front;
use super::opening::hash_key;
use super::parts::{plan, policy_loaded};
use super::sources::Sources;
use super::stop::Tasks;
use super::witness::refusal;
use crate::action::{self, Actions, Doors};
use crate::adapter;
use crate::clock;
use crate::config::{Config, LoadOptions, Loaded, ReloadPlan, diff, load};
use crate::health::view::{Configured, PrivacySummary, Reload};
use crate::lifecycle::outcome::Outcomes;
use crate::lifecycle::supervisor::Supervisor;
use crate::lifecycle::systemd::Notifier;
use crate::pipeline::Plan;
use crate::privacy::HashKey;
use crate::store::Store;
use crate::{logging, upload};

/// The configuration that runs, and everything that a new one reaches.
pub struct Reloader {
    running: Loaded,
    /// Of hashes.
    key: HashKey,
    options: LoadOptions,
    log: logging::Handle,
    notifier: Notifier,
    sources: Sources,
    actions: Actions,
    plans: mpsc::Sender<Plan>,
    cloud: watch::Sender<upload::Settings>,
    store: Store,
    configured: watch::Sender<Configured>,
    outcomes: Outcomes,
    last: Option<Reload>,
}

impl Reloader {
    #[expect(clippy::too_many_arguments, reason = "one of each, handed over once")]
    pub fn new(
        running: Loaded,
        key: HashKey,
        options: LoadOptions,
        log: logging::Handle,
        front: &Front,
        sources: Sources,
        actions: Actions,
        plans: mpsc::Sender<Plan>,
        cloud: watch::Sender<upload::Settings>,
        store: Store,
    ) -> Self {
        let (notifier, configured) = (front.notifier.clone(), front.configured.clone());
        let outcomes = outcomes(&running);
        let last = None;
        Self {
            running,
            key,
            options,
            log,
            notifier,
            sources,
            actions,
            plans,
            cloud,
            store,
            configured,
            outcomes,
            last,
        }
    }

    /// The STATUS line of `systemctl status`.
    pub fn status(&self) -> String {
        let Loaded { config, files, .. } = &self.running;
        let delivery = if config.cloud.enabled { "on" } else { "off" };
        let (sources, rules) = (config.sources.len(), config.rules.len());
        let refused = match &self.last {
            Some(Reload { applied: false, .. }) => "; the last reload was refused",
            _ => "",
        };
        let files = names(files);
        format!("running: {sources} sources, {rules} rules, delivery {delivery}; from {files}{refused}")
    }

    /// Starts every configured source.
    pub fn start_sources(&mut self, supervisor: &mut Supervisor) {
        let config = &self.running.config;
        for source in &config.sources {
            self.sources.start(supervisor, source, config.poll_interval);
        }
        self.publish();
    }

    /// Loads the configuration anew and applies what changed, or keeps the running one and says why in
    /// the log. The error is for the black box.
    pub async fn reload(&mut self, tasks: &mut Tasks) -> anyhow::Result<()> {
        self.notifier.reloading();
        let applied = self.apply(tasks).await;
        self.last = Some(note(&mut self.outcomes, &applied));
        self.publish();
        self.notifier.ready(&self.status());
        applied
    }

    async fn apply(&mut self, tasks: &mut Tasks) -> anyhow::Result<()> {
        // It may have been rotated.
        let key = hash_key(&self.running.config.store.state_dir)?;
        let running = &self.running.config;
        let Successor { loaded, changes, mut plan } = Successor::load(running, &self.options, key.clone())?;
        let new = &loaded.config;
        let key_changed = key != self.key;
        if changes.is_empty() && !key_changed {
            tracing::info!("reloaded: nothing changed");
            return Ok(());
        }
        // Nothing fails from here on but the agent itself.
        // Who looks at the record wants to see as well since when hashes are others and whether anything leaves.
        if changes.privacy_changed || key_changed || new.cloud.enabled != self.running.config.cloud.enabled {
            self.store.audit(policy_loaded(new, &key)).await?;
        }
        plan.doors = self.actions.replace(&mut tasks.outbound, &new.actions);
        self.plans.send(plan).await.ok().context("the pipeline is gone")?;
        self.sources.stop(&changes.sources_stopped).await;
        for source in &new.sources {
            if changes.sources_started.contains(&source.name()) {
                self.sources.start(&mut tasks.inbound, source, new.poll_interval);
            }
        }
        self.store.report_gaps(new.cloud.enabled);
        self.cloud.send_replace(new.cloud.clone());
        self.log.reload(new.logging);
        tracing::info!(
            sources_started = changes.sources_started.len(),
            sources_stopped = changes.sources_stopped.len(),
            rules_changed = changes.rules_changed,
            windows_changed = changes.windows_changed,
            delivery_changed = changes.delivery_changed,
            actions_changed = changes.actions_changed,
            privacy_changed = changes.privacy_changed,
            key_changed,
            cloud_changed = changes.cloud_changed,
            "reloaded"
        );
        (self.running, self.key) = (loaded, key);
        Ok(())
    }

    fn publish(&self) {
        let configured = configured(&self.running, self.sources.statuses(), self.actions.statuses());
        self.configured.send_replace(Configured { last_reload: self.last.clone(), ..configured });
    }
}

/// Where this process leaves what came of its reloads.
pub fn outcomes(loaded: &Loaded) -> Outcomes {
    let runtime_dirs = std::env::var("RUNTIME_DIRECTORY").ok();
    Outcomes::new(runtime_dirs.as_deref(), &loaded.config.store.state_dir)
}

/// Tells the log, whoever waits for the outcome, and the health page what came of a reload.
pub fn note(outcomes: &mut Outcomes, applied: &anyhow::Result<()>) -> Reload {
    let reason = applied.as_ref().err().map(|error| format!("{error:#}"));
    if let Some(error) = &reason {
        tracing::error!(error, "the reload was refused; the old configuration runs on");
    }
    if let Err(error) = outcomes.note(reason.as_deref()) {
        tracing::warn!(%error, "what came of the reload cannot be noted; who waits for it is not answered");
    }
    let reason = applied.as_ref().err().map(refusal);
    Reload { time: clock::unix_seconds(), applied: reason.is_none(), reason }
}

/// The main file, and how many are merged over it.
fn names(files: &[PathBuf]) -> String {
    let Some(main) = files.first() else { return "without a file".to_owned() };
    match files.len() - 1 {
        0 => main.display().to_string(),
        more => format!("{} and {more} more", main.display()),
    }
}

/// A configuration that can take the place of the one that runs.
pub struct Successor {
    pub loaded: Loaded,
    pub changes: ReloadPlan,
    pub plan: Plan,
}

impl Successor {
    /// Loads the configuration anew, and builds of it what can fail. `key` is that of hashes.
    ///
    /// # Errors
    ///
    /// Something in it is wrong, or cannot change while the agent runs.
    pub fn load(running: &Config, options: &LoadOptions, key: HashKey) -> anyhow::Result<Self> {
        let loaded = load(options)?;
        let changes = diff(running, &loaded.config);
        if !changes.refused.is_empty() {
            bail!("{} cannot change while the agent runs; restart it", changes.refused.join(", "));
        }
        // Its doors are opened when it is applied.
        let plan = plan(&loaded.config, key, Doors::default())?;
        Ok(Self { loaded, changes, plan })
    }
}

/// What the health page shows of a configuration.
pub fn configured(
    loaded: &Loaded,
    sources: Vec<Arc<adapter::Status>>,
    actions: Vec<Arc<action::Status>>,
) -> Configured {
    let Loaded { config, files, .. } = loaded;
    let owned = |patterns: &mut dyn Iterator<Item = &str>| patterns.map(str::to_owned).collect();
    Configured {
        last_reload: None,
        config_file: files.first().map(|file| file.display().to_string()).unwrap_or_default(),
        devices: config.devices,
        sources,
        actions,
        cloud_enabled: config.cloud.enabled,
        endpoint: config.cloud.endpoint.clone(),
        privacy: PrivacySummary {
            enabled: config.privacy.enabled,
            rules_active: config.privacy.rules_active(),
            fields_redacted: owned(&mut config.privacy.fields_redacted()),
            fields_hashed: owned(&mut config.privacy.fields_hashed()),
        },
    }
}
