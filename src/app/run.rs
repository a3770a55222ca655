//! The run loop: start, run until told to stop or until a part fails, drain.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::net::TcpListener;
use tokio::sync::oneshot::{self, error::RecvError};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::Surroundings;
use super::parts::Parts;
use super::reload::Reloader;
use super::witness::{self, Watched};
use crate::clock;
use crate::config::Config;
use crate::config::{LoadOptions, Loaded};
use crate::health::host::Host;
use crate::health::server;
use crate::health::view::{Phase, View};
use crate::health::wear::{REMEMBERED_AS, Wear};
use crate::lifecycle::blackbox::What;
use crate::lifecycle::listen_fds::take_listeners;
use crate::lifecycle::signals::Signals;
use crate::lifecycle::supervisor::{Supervisor, TaskEnd};
use crate::lifecycle::systemd::{self, Notifier};
use crate::lifecycle::watchdog::{Progress, Watchdog};
use crate::store::{self, Store};
use crate::{pipeline, upload};

/// From the request to stop to the end, whatever hangs.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(8);
/// Of that, what the sources and the pipeline get before delivery is told to end too.
const INTAKE_DEADLINE: Duration = Duration::from_secs(5);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
///
/// The agent cannot start, or a part it cannot be without failed.
pub async fn run(loaded: Loaded, options: LoadOptions, surroundings: Surroundings<'_>) -> anyhow::Result<()> {
    let Surroundings { log, started_at, blackbox, previous } = surroundings;
    let config = loaded.config.clone();
    let signals = Signals::install().context("cannot handle signals")?;
    let notifier = Notifier::from_env();
    let (intake, egress) = (CancellationToken::new(), CancellationToken::new());
    let (mut inbound, mut outbound) = (Supervisor::default(), Supervisor::default());

    let parts = Parts::build(&config, &mut inbound, intake.clone()).await?;
    let (phase, phase_receiver) = watch::channel(Phase::Starting("its sources"));
    let delivery = Arc::new(upload::Status::default());
    let upload_progress = Arc::new(Progress::default());
    let mut checks = parts.progress.to_vec();
    checks.push(("uploader", upload_progress.clone()));
    let waiting: Vec<_> =
        checks.iter().filter(|(stage, _)| *stage != "store").map(|(_, progress)| progress.clone()).collect();
    let watchdog = Watchdog::new(notifier.clone(), systemd::watchdog_interval(), checks.clone());
    let (cloud, cloud_receiver) = watch::channel(config.cloud.clone());

    let Parts { store, mut store_end, sources, plans, counters, privacy_counters, progress: _ } = parts;
    let mut reloader =
        Reloader::new(loaded, options, log, notifier.clone(), sources, plans, cloud, store.clone());
    reloader.start_sources(&mut inbound);
    let remembered = store.recalled(REMEMBERED_AS);
    let wear = Arc::new(Wear::new(config.wear, remembered, counters.clone(), clock::since_boot()));
    let taken_in = counters.clone();
    let view = Arc::new(View {
        started_at,
        phase: phase_receiver,
        configured: reloader.configured(),
        verdict: watchdog.verdict.subscribe(),
        pipeline: counters,
        privacy: privacy_counters,
        store: store.counters().clone(),
        delivery: delivery.clone(),
        previous,
        wear: wear.clone(),
        host: Host::new(config.store.state_dir.clone()),
    });
    let watched = Watched {
        checks: checks.clone(),
        verdict: watchdog.verdict.subscribe(),
        store: store.counters().clone(),
        delivery: delivery.clone(),
        configured: reloader.configured(),
    };
    let account = super::wear::run(wear, store.clone(), egress.clone());
    outbound.spawn("flash wear", async {
        account.await;
        anyhow::Ok(())
    });
    let witness = witness::run(blackbox.clone(), watched, egress.clone());
    outbound.spawn("black box", async {
        witness.await;
        anyhow::Ok(())
    });
    outbound.spawn(
        "uploader",
        upload::run(
            store.clone(),
            cloud_receiver,
            super::delivery::surroundings(&config, &store),
            delivery,
            upload_progress,
            egress.clone(),
        ),
    );
    spawn_health(&mut outbound, &config, view, egress.clone())?;
    let pinged = store.clone();
    let watch_over = watchdog.run(move || answers(pinged.clone(), waiting.clone()), egress.clone());
    outbound.spawn("watchdog", async {
        watch_over.await;
        anyhow::Ok(())
    });
    drop(store);

    phase.send_replace(Phase::Running);
    notifier.ready(&reloader.status());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        state_dir = %config.store.state_dir.display(),
        "the agent is ready"
    );
    blackbox.record(What::Ready, "");
    let stop = CancellationToken::new();
    let reload = Notify::new();
    let mut handle_signals = std::pin::pin!(signals.run(stop.clone(), &reload, |code| {
        blackbox.record(What::Stopped, "at once, on a second request");
        std::process::exit(code)
    }));
    let failure = loop {
        tokio::select! {
            () = &mut handle_signals => {}
            () = stop.cancelled() => break None,
            // A disk in trouble can hold up a reload; a request to stop does not wait for it.
            () = reload.notified() => tokio::select! {
                applied = reloader.reload(&mut inbound) => match applied {
                    Ok(()) => blackbox.record(What::Reloaded, ""),
                    Err(error) => blackbox.record(What::ReloadRefused, &witness::refusal(&error)),
                },
                () = &mut handle_signals => {}
                () = stop.cancelled() => break None,
            },
            end = inbound.next_end() => if let Some(error) = early_end(end) { break Some(error) },
            end = outbound.next_end() => if let Some(error) = early_end(end) { break Some(error) },
            end = &mut store_end => break Some(store_ended(end).err().unwrap_or_else(|| anyhow!("the store ended early"))),
        }
    };

    let why = failure.as_ref().map_or_else(|| "on request".to_owned(), witness::reason);
    blackbox.record(What::Stopping, &format!("{why}; {}", witness::stages(&checks)));
    phase.send_replace(Phase::Stopping);
    notifier.stopping("stopping: finishing what was accepted");
    // After a failure the store may have ended already, and its end is received only once.
    let awaited = failure.is_none().then_some(store_end);
    let drained = async {
        intake.cancel();
        drop(reloader);
        drain(&mut inbound, &mut outbound, &egress, awaited, &taken_in).await
    };
    // Signals are still served: a second one ends the process at once.
    let drained = tokio::select! {
        drained = drained => drained,
        () = &mut handle_signals => Ok(()),
    };
    match failure {
        Some(error) => Err(error),
        None => drained.inspect(|()| tracing::info!("the agent has stopped")),
    }
}

/// Waits for the tasks and the store to end once the intake is cancelled, at most [`DRAIN_DEADLINE`].
async fn drain(
    inbound: &mut Supervisor,
    outbound: &mut Supervisor,
    egress: &CancellationToken,
    store_end: Option<oneshot::Receiver<Result<(), store::Error>>>,
    taken_in: &pipeline::Counters,
) -> anyhow::Result<()> {
    let deadline = Instant::now() + DRAIN_DEADLINE;
    let mut late = inbound.drain(INTAKE_DEADLINE).await;
    if late.iter().any(|task| task == "pipeline") {
        // The store takes nothing: a disk that is full or fails.
        let items = taken_in.buffer_count.load(Relaxed);
        tracing::error!(
            items,
            "the pipeline could not hand over what it had taken in; nothing of it was acknowledged"
        );
    }
    egress.cancel();
    late.extend(outbound.drain(deadline.saturating_duration_since(Instant::now())).await);
    if !late.is_empty() {
        tracing::warn!(tasks = late.join(", "), "tasks did not end in time and were aborted");
    }
    let Some(store_end) = store_end else { return Ok(()) };
    match timeout_at(deadline, store_end).await {
        Ok(end) => store_ended(end),
        Err(_) => {
            // Stopped as asked all the same: what was acknowledged is safe, what was not is lost.
            tracing::error!("the store did not close in time, what waited for its commit is lost");
            Ok(())
        }
    }
}

/// What the end of the store thread means.
pub fn store_ended(end: Result<Result<(), store::Error>, RecvError>) -> anyhow::Result<()> {
    match end {
        Ok(result) => result.context("the store failed"),
        Err(_) => Err(anyhow!("the store thread panicked")),
    }
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

fn early_end(end: TaskEnd) -> Option<anyhow::Error> {
    if !end.essential {
        return None;
    }
    Some(match end.result {
        Err(failure) => anyhow::Error::new(failure).context(format!("the {} failed", end.name)),
        Ok(()) => anyhow!("the {} ended early", end.name),
    })
}

/// Serves on the socket that systemd holds open, or binds one as configured.
fn spawn_health(
    supervisor: &mut Supervisor,
    config: &Config,
    view: Arc<View>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut handed_over = take_listeners()?;
    if !config.health.enabled {
        return Ok(());
    }
    let settings = config.health.clone();
    let listener = handed_over.pop().map(|named| TcpListener::from_std(named.listener)).transpose()?;
    supervisor.spawn("health server", async move {
        let listener = match listener {
            Some(listener) => Some(listener),
            None => server::bind_retrying(&settings, &stop).await,
        };
        if let Some(listener) = listener {
            server::serve(listener, view, stop).await;
        }
        anyhow::Ok(())
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stage_that_waits_for_a_disk_in_trouble_is_not_stuck() {
        let dir = tempfile::tempdir().unwrap();
        let settings = store::Settings {
            state_dir: dir.path().to_owned(),
            size_bytes_max: 1 << 20,
            quarantine_bytes_max: 1 << 30,
            commit_interval: Duration::from_secs(1),
            budget: store::Budget::default(),
            ttl: store::Ttl::default(),
        };
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
