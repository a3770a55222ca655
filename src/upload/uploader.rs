//! The uploader itself: [`run`] as a service, [`once`] for a single pass.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::backoff::{Backoff, Limits};
use super::decide::Blame;
use super::delivery::{Conclusion, Delivery, Next};
use super::flush::{Ask, Flush};
use super::pace::Pace;
use super::phase::Phase;
use super::step_back::StepBack;
use super::{Queue, QueueClosed, Settings, Status, Surroundings};
use crate::clock;
use crate::lifecycle::hang;
use crate::lifecycle::watchdog::Progress;
use crate::store::{AVOID_MAX, FrozenBatch, Pending, Want};

/// Delivers what `queue` holds until `stop` is cancelled.
///
/// A change of `settings` takes effect between two requests, and ends a wait; so does a change of the
/// certificate and credential files. An attempt that is under way at `stop` gets a short grace and is
/// abandoned then; its batch stays frozen.
///
/// # Errors
///
/// [`QueueClosed`]: the store is gone, so there is nothing left to do.
pub async fn run<Q: Queue>(
    queue: Q,
    settings: watch::Receiver<Settings>,
    surroundings: Surroundings,
    status: Arc<Status>,
    progress: Arc<Progress>,
    stop: CancellationToken,
) -> Result<(), QueueClosed> {
    let current = settings.borrow().clone();
    let now = Instant::now();
    let mut uploader = Uploader {
        pending: queue.pending(),
        current,
        settings,
        delivery: Delivery::new(queue, status, &surroundings),
        flush: Flush::new(Phase::new(&surroundings.device_id, now)),
        pace: Pace::new(now),
        backoff: Backoff::default(),
        backlog_backoff: Backoff::default(),
        backlog_at: now,
        steps: StepBack::default(),
        progress,
        stop,
    };
    let mut mode = Mode::Idle;
    loop {
        mode = match mode {
            Mode::Idle => uploader.idle().await?,
            Mode::Sending(batch) => uploader.send(&batch).await?,
            Mode::Waiting(until) => uploader.wait(until, false).await,
            Mode::WaitingForClock(until) => uploader.wait(until, true).await,
            Mode::Stopped => {
                uploader.delivery.remember(true).await?;
                uploader.progress.idle();
                return Ok(());
            }
        };
    }
}

/// Makes one attempt at each batch that waits, full or not, until nothing is left or one fails.
///
/// # Errors
///
/// Why delivery did not go on, or how many items the endpoint refused; for a person to read. What
/// was not delivered stays in the store.
pub async fn once<Q: Queue>(
    queue: Q,
    settings: &Settings,
    surroundings: &Surroundings,
    status: Arc<Status>,
    stop: CancellationToken,
) -> Result<(), String> {
    if !settings.enabled {
        return Ok(());
    }
    let mut delivery = Delivery::new(queue, status, surroundings);
    // Of this pass alone: nobody watches it.
    let progress = Progress::default();
    let mut refused: u64 = 0;
    let gone = |error: QueueClosed| error.to_string();
    loop {
        let held = delivery.keep_account(settings);
        let want = Want { held, ..Want::new(settings.batch_size, settings.batch_bytes_max, true) };
        let Some(batch) = delivery.queue.next_batch(want).await.map_err(gone)? else { break };
        let attempt = tokio::select! {
            attempt = delivery.attempt(settings, &batch, &progress) => attempt,
            () = stop.cancelled() => return Err("delivery was stopped; what is left stays in the store".to_owned()),
        };
        delivery.remember(true).await.map_err(gone)?;
        match delivery.conclude(&batch, attempt.decision).await.map_err(gone)? {
            Conclusion::Settled { refused: items, .. } => refused += items,
            Conclusion::Later { reason, .. } => return Err(reason),
        }
    }
    if refused == 0 {
        return Ok(());
    }
    Err(format!("items refused by the endpoint: {refused}; they are set aside in the store with the reason"))
}

enum Mode {
    /// Nothing to send, or not yet.
    Idle,
    Sending(FrozenBatch),
    /// The endpoint is left alone until then.
    Waiting(Instant),
    WaitingForClock(Instant),
    Stopped,
}

struct Uploader<Q> {
    delivery: Delivery<Q>,
    settings: watch::Receiver<Settings>,
    /// The settings that are in force, which a change replaces between two requests.
    current: Settings,
    pending: watch::Receiver<Pending>,
    flush: Flush,
    /// Of backlog, which waits for `backlog_at` besides.
    pace: Pace,
    /// Of the endpoint as a whole.
    backoff: Backoff,
    backlog_backoff: Backoff,
    backlog_at: Instant,
    steps: StepBack,
    progress: Arc<Progress>,
    stop: CancellationToken,
}

impl<Q: Queue> Uploader<Q> {
    /// Waits until there is a batch to send.
    async fn idle(&mut self) -> Result<Mode, QueueClosed> {
        loop {
            if self.stop.is_cancelled() {
                return Ok(Mode::Stopped);
            }
            self.take_settings();
            self.delivery.transport.close_idle();
            let mut due = None;
            if self.current.enabled {
                match self.look().await? {
                    Look::Batch(batch) => return Ok(Mode::Sending(batch)),
                    Look::Again(at) => due = at,
                }
            } else {
                self.delivery.report.switched_off();
            }
            let mut due = pin!(until(due));
            let mut tick = interval(LOOK_EVERY);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                hang::point("uploader").await;
                tokio::select! {
                    () = self.stop.cancelled() => break,
                    () = changed(&mut self.settings) => break,
                    open = self.pending.changed() => {
                        open.map_err(|_| QueueClosed)?;
                        break;
                    }
                    () = &mut due => break,
                    _ = tick.tick() => self.progress.moved(clock::since_boot()),
                }
            }
        }
    }

    /// Asks the store for a batch, if it is time to.
    async fn look(&mut self) -> Result<Look, QueueClosed> {
        let now = Instant::now();
        let held = self.delivery.keep_account(&self.current);
        let pending = self.pending.borrow_and_update().without(held);
        let interval = self.current.flush_interval;
        let mut due = match self.flush.ask(now, pending, self.current.batch_size, interval) {
            Ask::Now { partial } => {
                self.progress.moved(clock::since_boot());
                let backlog_at = self.pace.next_at(now).max(self.backlog_at);
                let live_only = backlog_at > now;
                if let Some(batch) = self.next_batch(partial, live_only, held).await? {
                    return Ok(Look::Batch(batch));
                }
                if live_only {
                    Some(backlog_at.min(now + LIVE_LOOK))
                } else {
                    let steps_due = self.steps.next_due(now);
                    let due = self.flush.nothing_there(now, pending, partial, interval);
                    due.into_iter().chain(steps_due).min()
                }
            }
            Ask::Until(instant) => Some(instant),
            Ask::WhenChanged => None,
        };
        if held.contains(&true) {
            // The next month comes without a sign.
            due = Some(due.unwrap_or(now + HELD_LOOK).min(now + HELD_LOOK));
        }
        Ok(Look::Again(due))
    }

    async fn next_batch(
        &mut self,
        partial: bool,
        live_only: bool,
        held: [bool; 4],
    ) -> Result<Option<FrozenBatch>, QueueClosed> {
        let now = Instant::now();
        let whatever = Want::new(self.current.batch_size, self.current.batch_bytes_max, partial);
        let want = Want { live_only, held, avoid: self.steps.avoid(now), ..whatever };
        let found = self.delivery.queue.next_batch(want).await?;
        if found.is_some() || want.avoid[0].is_none() {
            return Ok(found);
        }
        // After a failure the endpoint may be what is wrong: then the same batch is as good as any.
        let is_doubtful = self.backoff.failures() + self.backlog_backoff.failures() > 0;
        let avoid = if is_doubtful { [None; AVOID_MAX] } else { self.steps.avoid_alone(now) };
        if avoid == want.avoid {
            Ok(None)
        } else {
            self.delivery.queue.next_batch(Want { avoid, ..want }).await
        }
    }

    /// Makes one attempt and records how it ended.
    async fn send(&mut self, batch: &FrozenBatch) -> Result<Mode, QueueClosed> {
        self.flush.attempted();
        if batch.backlog {
            self.pace.sent(Instant::now());
        }
        let attempt = tokio::select! {
            attempt = self.delivery.attempt(&self.current, batch, &self.progress) => attempt,
            () = grace(&self.stop) => return Ok(Mode::Stopped),
        };
        self.progress.moved(clock::since_boot());
        self.delivery.remember(false).await?;
        let concluded = self.delivery.conclude(batch, attempt.decision).await?;
        let now = Instant::now();
        let mode = match concluded {
            Conclusion::Settled { left, .. } => {
                self.backoff.reset();
                if batch.backlog {
                    self.pace.accepted(now, attempt.latency);
                    self.backlog_backoff.reset();
                }
                self.steps.succeeded(batch, now);
                self.flush.settled(left);
                Mode::Idle
            }
            Conclusion::Later { reason, next } => self.later(batch, reason, next, now),
        };
        self.delivery.report.backlog_rate(self.pace.rate());
        self.delivery.report.stuck(self.steps.stuck());
        Ok(mode)
    }

    /// What happens after a failure: who waits for how long.
    fn later(&mut self, batch: &FrozenBatch, reason: String, next: Next, now: Instant) -> Mode {
        let limits = Limits { min: self.current.backoff_min, max: self.current.backoff_max };
        let random = fastrand::f64();
        let report = &mut self.delivery.report;
        match next {
            Next::Clock => {
                report.waits_for_clock(&reason);
                return Mode::WaitingForClock(now + CLOCK_RETRY.mul_f64(0.5 + random / 2.0));
            }
            Next::Backoff(Blame::Batch) => {
                let alone = self.steps.failed(batch, now, limits, random);
                if alone > 0 {
                    // Others are taken, so nobody else waits for this one.
                    report.stepped_back(batch, reason, alone);
                    return Mode::Idle;
                }
            }
            Next::Backoff(_) | Next::Asked(_) | Next::Slowest => {}
        }
        if batch.backlog && matches!(next, Next::Asked(_) | Next::Backoff(Blame::Batch | Blame::Pace)) {
            self.pace.refused(now);
        }
        let is_throttled = batch.backlog && matches!(next, Next::Backoff(Blame::Pace));
        if is_throttled && self.backlog_backoff.failures() < THROTTLED_MAX {
            report.throttled();
        } else {
            report.failed(&batch.batch_id, reason, next.kind(), now);
        }
        match next {
            Next::Backoff(Blame::Batch | Blame::Pace) if batch.backlog => {
                // Live data tries for itself.
                self.backlog_at = now + self.backlog_backoff.retry(limits, random);
                Mode::Idle
            }
            Next::Backoff(_) => Mode::Waiting(now + self.backoff.retry(limits, random)),
            Next::Asked(wait) => Mode::Waiting(now + self.backoff.retry_after(wait, limits, random)),
            Next::Slowest | Next::Clock => Mode::Waiting(now + self.backoff.hold(limits, random)),
        }
    }

    /// Leaves the endpoint alone until then, or until something changed that may help.
    async fn wait(&mut self, until: Instant, for_clock: bool) -> Mode {
        let mut tick = interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return Mode::Stopped,
                () = sleep_until(until) => return Mode::Idle,
                () = changed(&mut self.settings) => return Mode::Idle,
                _ = tick.tick() => {
                    self.progress.moved(clock::since_boot());
                    if for_clock && (self.delivery.clock_is_set)() {
                        return Mode::Idle;
                    }
                    if self.delivery.transport.files_changed(&self.current) {
                        self.backoff.reset();
                        return Mode::Idle;
                    }
                }
            }
        }
    }

    fn take_settings(&mut self) {
        let newest = self.settings.borrow_and_update();
        if *newest != self.current {
            self.current = newest.clone();
            // A person did something: what failed before may work now.
            self.backoff.reset();
            self.backlog_backoff.reset();
            self.backlog_at = Instant::now();
            self.steps.clear();
            self.delivery.refusals.reset();
        }
    }
}

/// What asking came to.
enum Look {
    Batch(FrozenBatch),
    /// Nothing now; look again then, or at a change.
    Again(Option<Instant>),
}

/// Resolves a short while after `stop`.
async fn grace(stop: &CancellationToken) {
    stop.cancelled().await;
    sleep(GRACE).await;
}

/// Resolves at a change; never when there can be none any more, which is how tests and a stopping
/// agent leave it.
async fn changed(settings: &mut watch::Receiver<Settings>) {
    if settings.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// What an attempt under way gets at stop.
const GRACE: Duration = Duration::from_secs(1);
/// While backlog waits for its turn, live data becomes ready by time alone.
const LIVE_LOOK: Duration = Duration::from_secs(1);
/// How long a new month can go unnoticed.
const HELD_LOOK: Duration = Duration::from_secs(60);
/// In a wait: at the files and the clock.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two attempts while the clock is not set.
const CLOCK_RETRY: Duration = Duration::from_secs(5);
/// Answers of 429 to backlog in a row that only slow it down; more are trouble.
const THROTTLED_MAX: u32 = 5;
