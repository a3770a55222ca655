//! The second half of a start: every part is built on the open store and connected with the others.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::front::Front;
use super::opening::Opened;
use super::parts::{self, Parts};
use super::place::Place;
use super::reload::Reloader;
use super::stop::{Tasks, store_ended};
use super::witness::{self, Watched};
use crate::config::{LoadOptions, Loaded};
use crate::health::view::View;
use crate::health::wear::{REMEMBERED_AS, Wear};
use crate::lifecycle::blackbox::What;
use crate::lifecycle::memory::{self, Memory};
use crate::lifecycle::sentinel::Sentinel;
use crate::lifecycle::systemd;
use crate::lifecycle::watchdog::{Check, Progress, Watchdog};
use crate::store::{self, Store};
use crate::{clock, logging, pipeline, upload};

/// What the run loop deals with; the rest are tasks.
pub struct Agent {
    pub reloader: Reloader,
    /// Resolves when the store thread has ended.
    pub store_end: oneshot::Receiver<Result<(), store::Error>>,
    store_counters: Arc<store::Counters>,
    /// Every stage.
    pub checks: Vec<Check>,
    /// Where a service manager waits for pings.
    _sentinel: Option<Sentinel>,
    pub taken_in: Arc<pipeline::Counters>,
}

impl Agent {
    /// Why the store failed, where another part learnt first that it is closed; else `error`, which is that part's.
    pub async fn reason_of(&mut self, error: anyhow::Error) -> anyhow::Error {
        if !self.store_counters.has_failed() {
            return error;
        }
        match timeout(STORE_REASON_WAIT, &mut self.store_end).await {
            Ok(end) => store_ended(end).err().unwrap_or(error),
            Err(_) => error,
        }
    }
}

/// For a store that failed to say why: it notes that for the next start before.
const STORE_REASON_WAIT: Duration = Duration::from_secs(2);

/// What [`connect`] is given.
pub struct Material<'m> {
    pub loaded: Loaded,
    pub options: LoadOptions,
    pub log: logging::Handle,
    pub place: &'m Place,
    pub front: &'m Front,
    pub opened: Opened,
}

/// Starts everything under `tasks`.
///
/// # Errors
///
/// A part cannot be built.
pub async fn connect(material: Material<'_>, tasks: &mut Tasks) -> anyhow::Result<Agent> {
    let Material { loaded, options, log, place, front, opened } = material;
    let config = loaded.config.clone();
    let (previous, key) = (opened.previous.clone(), opened.key.clone());
    let (inbound, intake) = (&mut tasks.inbound, tasks.intake.clone());
    let (actions, doors) =
        parts::actions(&config, &opened.store, place, &mut tasks.outbound, tasks.egress.clone());
    let parts = Parts::build(&config, opened, inbound, intake, place, doors).await?;
    let delivery = Arc::new(upload::Status::default());
    let upload_progress = Arc::new(Progress::default());
    let mut checks = parts.progress.to_vec();
    checks.push(("uploader", upload_progress.clone()));
    checks.push(("health server", front.serving.clone()));
    let (cloud, cloud_receiver) = watch::channel(config.cloud.clone());

    let Parts { store, store_end, sources, plans, counters, privacy_counters, progress: _ } = parts;
    let mut reloader =
        Reloader::new(loaded, key, options, log, front, sources, actions, plans, cloud, store.clone());
    reloader.start_sources(&mut tasks.inbound);
    let remembered = store.recalled(REMEMBERED_AS);
    let wear = Arc::new(Wear::new(config.wear, remembered, counters.clone(), clock::since_boot()));
    let watchdog = Watchdog::new(front.notifier.clone(), systemd::watchdog_interval(), checks.clone());
    let watched = Watched {
        checks: checks.clone(),
        verdict: watchdog.verdict.subscribe(),
        store: store.counters().clone(),
        delivery: delivery.clone(),
        configured: front.configured.subscribe(),
        memory: place.memory.status.clone(),
    };
    front.show(View {
        verdict: watchdog.verdict.subscribe(),
        pipeline: counters.clone(),
        privacy: privacy_counters,
        store: store.counters().clone(),
        delivery: delivery.clone(),
        previous,
        wear: wear.clone(),
        ..front.view()
    });
    let device = super::delivery::surroundings(&config, &store);
    tasks.outbound.spawn(
        "uploader",
        upload::run(store.clone(), cloud_receiver, device, delivery, upload_progress, tasks.egress.clone()),
    );
    let store_counters = store.counters().clone();
    govern(tasks, store.clone(), counters.clone(), place);
    look_on(tasks, wear, store.clone(), place, watched);
    let sentinel = systemd::watchdog_interval()
        .map(|interval| watch_the_runtime(interval, watchdog.beat.clone(), checks.clone(), place))
        .transpose()
        .context("cannot start the thread that watches the runtime")?;
    watch_over(tasks, watchdog, store, &checks);
    Ok(Agent { reloader, store_end, store_counters, checks, _sentinel: sentinel, taken_in: counters })
}

/// What the governor reaches.
struct Governed {
    store: Store,
    pipeline: Arc<pipeline::Counters>,
}

impl memory::Parts for Governed {
    fn shed(&self) {
        self.pipeline.is_short_of_memory.store(true, Relaxed);
        self.store.shed();
    }

    fn relieved(&self) {
        self.pipeline.is_short_of_memory.store(false, Relaxed);
    }
}

/// Starts what holds the process to its memory plan.
fn govern(tasks: &mut Tasks, store: Store, pipeline: Arc<pipeline::Counters>, place: &Place) {
    let Memory { plan, status, flight, .. } = place.memory.clone();
    let governor = memory::run(plan, flight, status, Governed { store, pipeline }, tasks.egress.clone());
    tasks.outbound.spawn("memory governor", async {
        governor.await;
        anyhow::Ok(())
    });
}

/// Starts what only looks on and writes down.
fn look_on(tasks: &mut Tasks, wear: Arc<Wear>, store: Store, place: &Place, watched: Watched) {
    let account = super::wear::run(wear, store, tasks.egress.clone());
    tasks.outbound.spawn("flash wear", async {
        account.await;
        anyhow::Ok(())
    });
    let witness = witness::run(place.blackbox.clone(), watched, tasks.egress.clone());
    tasks.outbound.spawn("black box", async {
        witness.await;
        anyhow::Ok(())
    });
}

fn watch_over(tasks: &mut Tasks, watchdog: Watchdog, store: Store, checks: &[Check]) {
    let waiting: Vec<_> =
        checks.iter().filter(|(stage, _)| *stage != "store").map(|(_, progress)| progress.clone()).collect();
    let watch = watchdog.run(move || answers(store.clone(), waiting.clone()), tasks.egress.clone());
    tasks.outbound.spawn("watchdog", async {
        watch.await;
        anyhow::Ok(())
    });
}

fn watch_the_runtime(
    interval: Duration,
    beat: Arc<Progress>,
    checks: Vec<Check>,
    place: &Place,
) -> io::Result<Sentinel> {
    let blackbox = place.blackbox.clone();
    Sentinel::start(beat, interval, move |stuck_for| {
        let seconds = stuck_for.as_secs();
        let stages = witness::stages(&checks);
        blackbox.record(What::Stuck, &format!("the runtime has not moved for {seconds} s; {stages}"));
        tracing::error!(
            stage = "runtime",
            stuck_for_seconds = seconds,
            stages,
            "the runtime stands still; the service manager is no longer pinged and will restart the agent"
        );
    })
}

/// A disk in trouble is waited out, so a store that tries again counts as alive while it moves, and so do
/// the stages that wait for the store: a restart would mend no disk, and lose what they hold.
async fn answers(store: Store, waiting: Vec<Arc<Progress>>) -> bool {
    if store.counters().trouble().is_some() {
        waiting.iter().for_each(|stage| stage.idle());
        return true;
    }
    store.ping().await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stage_that_waits_for_a_disk_in_trouble_is_not_stuck() {
        let dir = tempfile::tempdir().unwrap();
        let settings = store::tests::settings(dir.path(), 1 << 20);
        let (store, _end) = store::open(settings, Arc::default()).unwrap();
        let uploader = Arc::new(Progress::default());
        uploader.moved(Duration::from_secs(1));
        assert!(answers(store.clone(), vec![uploader.clone()]).await);
        assert!(uploader.stuck_for(Duration::from_secs(100)).is_some());
        store.counters().set_trouble(Some(store::Trouble::Failing));
        assert!(answers(store, vec![uploader.clone()]).await);
        assert_eq!(uploader.stuck_for(Duration::from_secs(100)), None);
    }
}
