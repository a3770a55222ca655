//! The soak: readings at ten times the expected rate, with an endpoint, a broker and a configuration that
//! change all the time and a store that is too small for the longest outage. Afterwards memory must have
//! stayed flat, the files bounded, and every counter must agree with what was published and what arrived.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::Signal;

use super::agent::Agent;
use super::children::publish;
use super::endpoint::Up;
use super::report::Report;
use super::scenarios::{Bench, SENSORS, mb};
use super::server::Receiver;
use super::server::behaviour::{Behaviour, Times};

impl Bench {
    /// Runs for `minutes`; `seed` repeats the order of what goes wrong.
    pub fn soak(&self, report: &mut Report, minutes: u64, seed: u64) -> Result<()> {
        let length = Duration::from_secs(minutes * 60);
        let count = RATE * length.as_secs();
        let agent = self.agent_with("soak", STORE)?;
        // One for all phases, so that a batch that is sent again after one of them is known.
        let receiver = Receiver::new(Behaviour::default(), None);
        let publisher = publish(&self.broker, count, RATE as f64, SENSORS)?;
        let watched = self.flap(&agent, &receiver, length, seed)?;

        // Now everything is well: what is left is delivered, and then the counters must agree.
        receiver.behave(Behaviour::default());
        let up = self.endpoint.switch_on_with(receiver.clone())?;
        publisher.finish("the publisher", length)?;
        agent
            .wait_for(DRAIN_MAX, |page| {
                page.sum("readings_processed_total") >= count && page.sum("pending_items") == 0
            })
            .context("not everything was taken in and delivered")?;
        let page = agent.metrics()?;
        drop(up);
        agent.stop()?;
        let totals = *receiver.totals().borrow();
        watched.report(report);
        report.add("published", count as f64, "readings");
        report.add("batches that arrived again", totals.duplicates as f64, "batches");
        report.add_aimed("batch ids with two contents", totals.differing as f64, "batches", 0.0);
        let sum = |name: &str| page.sum(name) as f64;
        report.add("taken in", sum("readings_processed_total"), "readings");
        // What was refused was never stored.
        let gaps = page.sum_without("gap_items_total", Some("reason=\"refused")) as f64;
        report.add("declared as gaps", gaps, "items");
        report.add("summaries and reports", sum("items_made_total"), "items");
        let missing = count.saturating_sub(page.sum("readings_processed_total"));
        report.add_aimed("published and not taken in", missing as f64, "readings", 0.0);
        let drift = sum("items_delivered_total") - totals.items as f64;
        report.add_aimed("drift: counted as delivered against arrived", drift.abs(), "items", 0.0);
        let stored = sum("items_stored_total") + sum("items_made_total");
        let drift = stored - sum("items_delivered_total") - gaps;
        report.add_aimed("drift: stored against delivered and declared", drift.abs(), "items", 0.0);
        Ok(())
    }

    /// Lets things go wrong until `length` has passed, and watches.
    fn flap(&self, agent: &Agent, receiver: &Arc<Receiver>, length: Duration, seed: u64) -> Result<Watched> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut watched = Watched::default();
        let started = Instant::now();
        let mut up: Option<Up> = None;
        let (mut phase_at, mut broker_at, mut reload_at) =
            (started, started + BROKER_EVERY, started + RELOAD_EVERY);
        let mut outage_at = Some(started + length / 2);
        while started.elapsed() < length {
            let now = Instant::now();
            if now >= phase_at {
                up = None;
                let mut lasts = Duration::from_secs(random.u64(1..30));
                if outage_at.is_some_and(|at| now >= at) {
                    // Longer than the store can hold raw.
                    (outage_at, lasts) = (None, length / 8);
                } else if let Some(behaviour) = phase(&mut random) {
                    receiver.behave(behaviour);
                    up = Some(self.endpoint.switch_on_with(receiver.clone())?);
                }
                phase_at = now + lasts;
                watched.phases += 1;
            }
            if now >= broker_at {
                // As when a cable is pulled: the connections stay open.
                self.broker.signal(Signal::STOP)?;
                std::thread::sleep(Duration::from_millis(random.u64(500..8000)));
                self.broker.signal(Signal::CONT)?;
                broker_at = now + BROKER_EVERY;
            }
            if now >= reload_at {
                agent.signal(Signal::HUP)?;
                reload_at = now + RELOAD_EVERY;
                watched.reloads += 1;
            }
            std::thread::sleep(SAMPLE_EVERY);
            watched.sample(started.elapsed(), agent, &self.folder.join("soak"))?;
        }
        drop(up);
        Ok(watched)
    }
}

/// What the endpoint does next; `None`: nobody listens.
fn phase(random: &mut fastrand::Rng) -> Option<Behaviour> {
    let good = Behaviour::default();
    Some(match random.u32(..10) {
        0..2 => return None,
        2 => Behaviour { fail: Some(503), retry_after: Some("1".to_owned()), ..good },
        3 => Behaviour { rate_limit: Some(3), retry_after: Some("1".to_owned()), ..good },
        4 => Behaviour { delay_seconds: 1.5, ..good },
        5 => Behaviour { fail_every: Some(2), ..good },
        6 => Behaviour { accept_then_reset: Times::Left(5), ..good },
        7 => Behaviour { close_midway: Times::Always(true), ..good },
        _ => good,
    })
}

/// What was seen from outside.
#[derive(Default)]
struct Watched {
    /// Seconds since the start, and the memory then in bytes.
    memory: Vec<(f64, f64)>,
    files_bytes_max: u64,
    phases: u64,
    reloads: u64,
}

impl Watched {
    fn sample(&mut self, at: Duration, agent: &Agent, state_dir: &Path) -> Result<()> {
        self.memory.push((at.as_secs_f64(), agent.pss_bytes()? as f64));
        let size = |name: &str| fs::metadata(state_dir.join(name)).map_or(0, |file| file.len());
        self.files_bytes_max = self.files_bytes_max.max(size("edge_store.db") + size("edge_store.db-wal"));
        Ok(())
    }

    fn report(&self, report: &mut Report) {
        // The first tenth warms up: caches fill, the allocator finds its size.
        let settled = &self.memory[self.memory.len() / 10..];
        let peak = settled.iter().map(|(_, bytes)| *bytes).fold(0.0, f64::max);
        report.add("phases of the endpoint", self.phases as f64, "phases");
        report.add("reloads", self.reloads as f64, "reloads");
        report.add("PSS, mean", mean(settled) / 1e6, "MB");
        report.add_aimed("PSS, peak", peak / 1e6, "MB", PSS_MB_MAX);
        report.add_aimed("PSS, growth by its trend", slope(settled) * 3600.0 / 1e6, "MB/h", GROWTH_MB_MAX);
        report.add_aimed(
            "database and write-ahead log, largest",
            mb(self.files_bytes_max),
            "MB",
            STORE_MB * 1.048_576,
        );
    }
}

fn mean(samples: &[(f64, f64)]) -> f64 {
    samples.iter().map(|(_, value)| value).sum::<f64>() / samples.len() as f64
}

/// Of the line through `samples` by least squares.
fn slope(samples: &[(f64, f64)]) -> f64 {
    let centre = samples.iter().map(|(at, _)| at).sum::<f64>() / samples.len() as f64;
    let level = mean(samples);
    let (mut covariance, mut variance) = (0.0, 0.0);
    for (at, value) in samples {
        covariance += (at - centre) * (value - level);
        variance += (at - centre) * (at - centre);
    }
    if variance > 0.0 { covariance / variance } else { 0.0 }
}

/// A busy plant room sends a hundred readings a second; this is ten times that.
const RATE: u64 = 1000;
/// Of the store; the long outage brings more.
const STORE_MB: f64 = 3.0;
const STORE: &str = "[store]\nsize_max_mb = 3\n";
const BROKER_EVERY: Duration = Duration::from_secs(97);
const RELOAD_EVERY: Duration = Duration::from_secs(61);
const SAMPLE_EVERY: Duration = Duration::from_secs(1);
const DRAIN_MAX: Duration = Duration::from_secs(600);
const PSS_MB_MAX: f64 = 16.0;
const GROWTH_MB_MAX: f64 = 0.5;
