//! The run loop: start, run until told to stop or until a part fails, drain.

use std::pin::{Pin, pin};
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::Surroundings;
use super::assemble::{Agent, Material, connect};
use super::front::Front;
use super::startup::Startup;
use super::stop::{Tasks, store_ended};
use super::witness;
use crate::config::{LoadOptions, Loaded};
use crate::health::view::Phase;
use crate::lifecycle::blackbox::{Blackbox, What};
use crate::lifecycle::signals::Signals;

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
///
/// The agent cannot start until a person has put something right, or a part it cannot be without failed.
pub async fn run(loaded: Loaded, options: LoadOptions, surroundings: Surroundings) -> anyhow::Result<()> {
    let Surroundings { log, started_at, place } = surroundings;
    let blackbox = &place.blackbox;
    let signals = Signals::install().context("cannot handle signals")?;
    let (stop, reload) = (CancellationToken::new(), Notify::new());
    let mut signals = pin!(signals.run(stop.clone(), &reload, |code| {
        blackbox.record(What::Stopped, "at once, on a second request");
        std::process::exit(code)
    }));
    let mut tasks = Tasks::default();
    let (front, watchdog) = Front::new(&loaded, place.memory.clone(), started_at);

    let mut startup = Startup {
        loaded,
        options: &options,
        log: &log,
        place: &place,
        front: &front,
        stop: &stop,
        reload: &reload,
    };
    let Some(opened) = startup.until_open(watchdog, &mut tasks, signals.as_mut()).await? else {
        stop_early(&front, &mut tasks, blackbox).await;
        return Ok(());
    };
    let loaded = startup.loaded;
    let state_dir = loaded.config.store.state_dir.clone();
    front.phase.send_replace(Phase::Starting("its sources"));
    let material = Material { loaded, options, log, place: &place, front: &front, opened };
    let mut agent = connect(material, &mut tasks).await?;

    front.phase.send_replace(Phase::Running);
    // First, so that who waits for READY finds it recorded.
    blackbox.record(What::Ready, "");
    front.notifier.ready(&agent.reloader.status());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        state_dir = %state_dir.display(),
        "the agent is ready"
    );
    let requests = Requests { stop: &stop, reload: &reload };
    let failure = requests.serve(&mut agent, &mut tasks, signals.as_mut(), blackbox).await;
    end(agent, failure, &front, &mut tasks, signals, blackbox).await
}

/// What a running agent is asked for.
struct Requests<'r> {
    stop: &'r CancellationToken,
    reload: &'r Notify,
}

impl Requests<'_> {
    /// Serves them until the agent is to stop; with an error when a part failed.
    async fn serve(
        &self,
        agent: &mut Agent,
        tasks: &mut Tasks,
        mut signals: Pin<&mut impl Future<Output = ()>>,
        blackbox: &Blackbox,
    ) -> Option<anyhow::Error> {
        loop {
            tokio::select! {
                () = signals.as_mut() => {}
                () = self.stop.cancelled() => return None,
                // A disk in trouble can hold up a reload; a request to stop does not wait for it.
                () = self.reload.notified() => tokio::select! {
                    applied = agent.reloader.reload(tasks) => match applied {
                        Ok(()) => blackbox.record(What::Reloaded, ""),
                        Err(error) => blackbox.record(What::ReloadRefused, &witness::refusal(&error)),
                    },
                    () = signals.as_mut() => {}
                    () = self.stop.cancelled() => return None,
                },
                error = tasks.failed() => return Some(agent.reason_of(error).await),
                end = &mut agent.store_end => {
                    return Some(store_ended(end).err().unwrap_or_else(|| anyhow!("the store ended early")));
                }
            }
        }
    }
}

/// Ends a start that waits for the store: nothing was taken in.
async fn stop_early(front: &Front, tasks: &mut Tasks, blackbox: &Blackbox) {
    blackbox.record(What::Stopping, "on request, before the store was open");
    front.phase.send_replace(Phase::Stopping);
    front.notifier.stopping("stopping before the start was complete");
    tasks.egress.cancel();
    tasks.outbound.drain(EARLY_DEADLINE).await;
    tracing::info!("the agent has stopped");
}

/// Ends a running agent: what was accepted is stored, and what is late is named.
async fn end(
    agent: Agent,
    failure: Option<anyhow::Error>,
    front: &Front,
    tasks: &mut Tasks,
    signals: Pin<&mut impl Future<Output = ()>>,
    blackbox: &Blackbox,
) -> anyhow::Result<()> {
    let Agent { reloader, store_end, checks, taken_in, .. } = agent;
    let why = failure.as_ref().map_or_else(|| "on request".to_owned(), witness::reason);
    blackbox.record(What::Stopping, &format!("{why}; {}", witness::stages(&checks)));
    front.phase.send_replace(Phase::Stopping);
    front.notifier.stopping("stopping: finishing what was accepted");
    // After a failure the store may have ended already, and its end is received only once.
    let awaited = failure.is_none().then_some(store_end);
    let drained = async {
        tasks.intake.cancel();
        drop(reloader);
        tasks.drain(awaited, &taken_in).await
    };
    // Signals are still served: a second one ends the process at once.
    let drained = tokio::select! {
        drained = drained => drained,
        () = signals => Ok(()),
    };
    match failure {
        Some(error) => Err(error),
        None => drained.inspect(|()| tracing::info!("the agent has stopped")),
    }
}

/// For the health server, all that runs by then.
const EARLY_DEADLINE: Duration = Duration::from_secs(1);
