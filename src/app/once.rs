//! `--once`: one whole pass, for cron, for tests and for trying a configuration.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::delivery::surroundings;
use super::opening;
use super::parts::{Parts, actions};
use super::place::Place;
use super::stop::{DRAIN_DEADLINE, store_ended};
use crate::config::Config;
use crate::lifecycle::signals::Signals;
use crate::lifecycle::supervisor::Supervisor;
use crate::lifecycle::systemd::Notifier;
use crate::store::alive::{Alive, EXTENSION};
use crate::upload;

/// For the store to commit what was read.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(30);

/// For the actions that events of the pass started.
const ACTIONS_PATIENCE: Duration = Duration::from_secs(60);

/// Reads every polled device once, commits, makes one delivery attempt of what is pending.
///
/// # Errors
///
/// The store cannot be opened; or a device or the delivery failed, and what was read is stored all the same.
pub async fn run(mut config: Config, place: &Place) -> anyhow::Result<()> {
    // One pass does not wait for the clock.
    config.clock.wait = Duration::ZERO;
    let stop = CancellationToken::new();
    let signals = Signals::install().context("cannot handle signals")?;
    let notifier = Notifier::from_env();
    let alive = Alive::new(move || notifier.extend_timeout(EXTENSION));
    let opened = opening::open(place, config.store.clone(), &alive)?;
    let (mut supervisor, mut acting) = (Supervisor::default(), Supervisor::default());
    // They end when the pipeline has, and all is done that it started.
    let (_, doors) = actions(&config, &opened.store, place, &mut acting, stop.clone());
    let Parts { store, store_end, sources, plans, counters: _, privacy_counters: _, progress: _ } =
        Parts::build(&config, opened, &mut supervisor, stop.clone(), place, doors).await?;
    drop(plans);

    let mut failures = Vec::new();
    let pass = async {
        for source in &config.sources {
            if !source.runs_once() {
                tracing::info!(source = source.name(), "left out: it is not polled, others send to it");
                continue;
            }
            let intake = sources.single_pass(source, config.poll_interval);
            if let Err(error) = source.run(&intake).await {
                failures.push(format!("source {}: {error}", source.name()));
            }
        }
        drop(sources);
        // It ends when the last source is gone and everything is handed to the store.
        let end = supervisor.next_end().await;
        end.result.with_context(|| format!("the {} failed", end.name))?;
        tokio::time::timeout(COMMIT_TIMEOUT, store.ping())
            .await
            .context("the store did not commit in time")??;
        let status = Arc::new(upload::Status::default());
        let surroundings = surroundings(&config, &store);
        if let Err(reason) = upload::once(store, &config.cloud, &surroundings, status, stop.clone()).await {
            failures.push(format!("delivery: {reason}"));
        }
        acting.drain(ACTIONS_PATIENCE).await;
        anyhow::Ok(())
    };
    let reload = Notify::new();
    let end = async {
        pass.await?;
        store_ended(store_end.await)
    };
    let cut_short = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN_DEADLINE).await;
    };
    tokio::select! {
        result = end => result?,
        () = cut_short => bail!("stopped on request before the pass was complete"),
        () = signals.run(stop.clone(), &reload, |code| std::process::exit(code)) => {}
    }
    if !failures.is_empty() {
        bail!("{}", failures.join("; "));
    }
    Ok(())
}
