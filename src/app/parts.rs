//! The parts that both ways of running build on an open store: stages, pipeline, sources.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::opening::Opened;
use super::place::Place;
use super::salvaged;
use super::sources::Sources;
use crate::action::{self, Actions, Doors};
use crate::adapter::Messages;
use crate::clock;
use crate::clock::mark::{self, Mark};
use crate::config::Config;
use crate::lifecycle::supervisor::Supervisor;
use crate::lifecycle::watchdog::Progress;
use crate::pipeline::rule::Rules;
use crate::pipeline::selection::Selection;
use crate::pipeline::window::{Room, Windows};
use crate::pipeline::{self, Counters, Plan, Stages};
use crate::privacy::{self, Firewall, HashKey, audit};
use crate::store::{self, AuditEntry, Hold, Store};
use crate::upload::proxy::Environment;

/// Batches that wait for the pipeline. When it is full the sources wait, and so do the devices.
const BATCHES_MAX: usize = 256;

/// The agent up to its queue: what is taken in is stored.
pub struct Parts {
    pub store: Store,
    /// Resolves when the store thread has ended.
    pub store_end: oneshot::Receiver<Result<(), store::Error>>,
    pub sources: Sources,
    /// New stages for the pipeline, after a reload.
    pub plans: mpsc::Sender<Plan>,
    pub counters: Arc<Counters>,
    pub privacy_counters: Arc<privacy::Counters>,
    /// Of the pipeline and the store, for the watchdog.
    pub progress: [(&'static str, Arc<Progress>); 2],
}

impl Parts {
    /// Starts the pipeline under `supervisor`. `intake` ends the sources.
    ///
    /// # Errors
    ///
    /// A rule cannot be built, or the store failed.
    pub async fn build(
        config: &Config,
        opened: Opened,
        supervisor: &mut Supervisor,
        intake: CancellationToken,
        place: &Place,
        doors: Doors,
    ) -> anyhow::Result<Self> {
        let (memory, blackbox) = (&place.memory, &place.blackbox);
        let Opened { store, store_end, store_progress, key, previous: _ } = opened;
        salvaged::tell(&store, blackbox).await;
        store.report_gaps(config.cloud.enabled);
        let bounds = &memory.plan;
        let hold = Hold {
            group_bytes_max: bounds.group_bytes,
            block_bytes_max: bounds.block_bytes,
            page_cache_bytes: bounds.page_cache_bytes,
            delivery_bytes_max: bounds.delivery_bytes,
        };
        store.hold(hold).await?;
        let past = pipeline::Past {
            database: config.store.state_dir.join(store::DATABASE_FILE),
            privacy: config.privacy.clone(),
            key: key.clone(),
            delivers: config.cloud.enabled,
            stop: intake.clone(),
        };
        let loaded = policy_loaded(config, &key);
        let firewall = Firewall::new(&config.privacy, key.clone()).remembering(bounds.decisions);
        let privacy_counters = firewall.counters();
        let plan = plan(config, key, doors)?;
        let room = Room { states_max: bounds.window_states, panes_max: bounds.window_panes };
        let stages = Stages {
            firewall,
            rules: plan.rules.remembering(bounds.cooldowns, bounds.rule_state_bytes),
            windows: plan.windows.within(room),
            selection: plan.selection.remembering(bounds.cooldowns),
            doors: plan.doors,
            deliver: plan.deliver,
        };
        store.audit(loaded).await?;

        let (batches, receiver) = mpsc::channel(BATCHES_MAX);
        // One reload at a time.
        let (plans, plan_receiver) = mpsc::channel(1);
        let counters = Arc::new(Counters::default());
        let progress = Arc::new(Progress::default());
        let wiring = pipeline::Wiring {
            batches: receiver,
            plans: plan_receiver,
            store: store.clone(),
            past,
            counters: counters.clone(),
            progress: progress.clone(),
            commit_interval: config.store.commit_interval,
            commit_interval_max: config.wear.commit_interval_max,
            clock: config.clock,
            staged_bytes_max: bounds.staged_bytes,
        };
        supervisor.spawn("pipeline", pipeline::run(stages, wiring));
        let device_id = device_id(config, &store);
        Ok(Self {
            sources: Sources::new(
                batches,
                memory.clone(),
                intake,
                device_id,
                Messages::new(store.messages()),
            ),
            store,
            store_end,
            plans,
            counters,
            privacy_counters,
            progress: [("pipeline", progress), ("store", store_progress)],
        })
    }
}

/// How this device is called: the configured name, else the id of its store.
pub fn device_id(config: &Config, store: &Store) -> String {
    config.device_id.clone().unwrap_or_else(|| store.id().to_owned())
}

/// The actions of `config` under `supervisor`, and the doors to them; `stop` ends those that hang.
pub fn actions(
    config: &Config,
    store: &Store,
    place: &Place,
    supervisor: &mut Supervisor,
    stop: CancellationToken,
) -> (Actions, Doors) {
    let surroundings =
        action::Surroundings { device_id: device_id(config, store), proxies: Environment::of_process() };
    let mut actions = Actions::new(surroundings, place.memory.plan.action_bytes, stop);
    let doors = actions.replace(supervisor, &config.actions);
    (actions, doors)
}

/// What a configuration means for the pipeline, built whole before anything is replaced.
pub fn plan(config: &Config, key: HashKey, doors: Doors) -> anyhow::Result<Plan> {
    Ok(Plan {
        rules: Rules::new(&config.rules)?,
        windows: Windows::new(&config.windows),
        selection: Selection::new(&config.delivery),
        privacy: config.privacy.clone(),
        doors,
        key,
        deliver: config.cloud.enabled,
    })
}

/// The audit record of a policy that takes effect, with the key of hashes by its id and whether anything is
/// delivered. The chain cannot be put right afterwards, so a time that is provisional is marked as such in it.
pub fn policy_loaded(config: &Config, key: &HashKey) -> AuditEntry {
    let mut details = config.privacy.audit_details();
    details["key_id"] = key.id().into();
    details["delivery"] = config.cloud.enabled.into();
    if !config.clock.trusted && !clock::is_synchronised() {
        let mark = Mark { boot: &clock::boot_id(), boot_time: clock::boot_seconds() };
        details[mark::KEY] = mark::provisional(mark);
    }
    AuditEntry { action: audit::POLICY_LOADED.to_owned(), details, timestamp: clock::unix_seconds() }
}
