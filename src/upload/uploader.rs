//! The uploader itself: [`run`] as a service, [`once`] for a single pass.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::backoff::{Backoff, Limits};
use super::decide::{Answer, Decision, Refusals, decide};
use super::flush::{Ask, Flush};
use super::report::Report;
use super::transport::{Posted, Transport};
use super::{Queue, QueueClosed, Settings, Status};
use crate::clock;
use crate::lifecycle::watchdog::Progress;
use crate::store::{FrozenBatch, Outcome, Pending, Want};

/// Delivers what `queue` holds until `stop` is cancelled.
///
/// A change of `settings` takes effect between two requests, and ends a wait. An attempt that is
/// under way at `stop` gets a short grace and is abandoned then; its batch stays frozen.
///
/// # Errors
///
/// [`QueueClosed`]: the store is gone, so there is nothing left to do.
pub async fn run<Q: Queue>(
    queue: Q,
    settings: watch::Receiver<Settings>,
    status: Arc<Status>,
    progress: Arc<Progress>,
    stop: CancellationToken,
) -> Result<(), QueueClosed> {
    let current = settings.borrow().clone();
    let mut uploader = Uploader {
        pending: queue.pending(),
        current,
        settings,
        delivery: Delivery {
            queue,
            transport: Transport::default(),
            refusals: Refusals::default(),
            report: Report::new(status),
        },
        flush: Flush::default(),
        backoff: Backoff::default(),
        progress,
        stop,
    };
    let mut mode = Mode::Idle;
    loop {
        mode = match mode {
            Mode::Idle => uploader.idle().await?,
            Mode::Sending(batch) => uploader.send(&batch).await?,
            Mode::BackingOff(wait) => uploader.back_off(wait).await,
            Mode::Stopped => {
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
    status: Arc<Status>,
    stop: CancellationToken,
) -> Result<(), String> {
    if !settings.enabled {
        return Ok(());
    }
    let mut delivery = Delivery {
        queue,
        transport: Transport::default(),
        refusals: Refusals::default(),
        report: Report::new(status),
    };
    // Of this pass alone: nobody watches it.
    let progress = Progress::default();
    let mut refused: u64 = 0;
    while let Some(batch) =
        delivery.queue.next_batch(want(settings, true)).await.map_err(|error| error.to_string())?
    {
        let decision = tokio::select! {
            decision = delivery.attempt(settings, &batch, &progress) => decision,
            () = stop.cancelled() => return Err("delivery was stopped; what is left stays in the store".to_owned()),
        };
        match delivery.conclude(&batch, decision).await.map_err(|error| error.to_string())? {
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
    BackingOff(Duration),
    Stopped,
}

struct Uploader<Q> {
    delivery: Delivery<Q>,
    settings: watch::Receiver<Settings>,
    /// The settings that are in force, which a change replaces between two requests.
    current: Settings,
    pending: watch::Receiver<Pending>,
    flush: Flush,
    backoff: Backoff,
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
            let mut due = None;
            if self.current.enabled {
                let pending = *self.pending.borrow_and_update();
                let interval = self.current.flush_interval;
                match self.flush.ask(Instant::now(), pending, self.current.batch_size, interval) {
                    Ask::Now { partial } => {
                        self.progress.moved(clock::since_boot());
                        if let Some(batch) =
                            self.delivery.queue.next_batch(want(&self.current, partial)).await?
                        {
                            return Ok(Mode::Sending(batch));
                        }
                        due = self.flush.nothing_there(Instant::now(), pending, partial, interval);
                    }
                    Ask::Until(instant) => due = Some(instant),
                    Ask::WhenChanged => {}
                }
            } else {
                self.delivery.report.switched_off();
            }
            self.progress.idle();
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = changed(&mut self.settings) => {}
                open = self.pending.changed() => open.map_err(|_| QueueClosed)?,
                () = until(due) => {}
            }
        }
    }

    /// Makes one attempt and records how it ended.
    async fn send(&mut self, batch: &FrozenBatch) -> Result<Mode, QueueClosed> {
        self.flush.attempted();
        let decision = tokio::select! {
            decision = self.delivery.attempt(&self.current, batch, &self.progress) => decision,
            () = grace(&self.stop) => return Ok(Mode::Stopped),
        };
        self.progress.moved(clock::since_boot());
        match self.delivery.conclude(batch, decision).await? {
            Conclusion::Settled { left, .. } => {
                self.backoff.reset();
                self.flush.settled(left);
                Ok(Mode::Idle)
            }
            Conclusion::Later { pace, .. } => {
                let limits = Limits { min: self.current.backoff_min, max: self.current.backoff_max };
                let random = fastrand::f64();
                Ok(Mode::BackingOff(match pace {
                    Pace::Backoff => self.backoff.retry(limits, random),
                    Pace::Asked(wait) => self.backoff.retry_after(wait, limits, random),
                    Pace::Slowest => self.backoff.hold(limits, random),
                }))
            }
        }
    }

    async fn back_off(&mut self, wait: Duration) -> Mode {
        self.progress.idle();
        tokio::select! {
            () = self.stop.cancelled() => Mode::Stopped,
            () = sleep(wait) => Mode::Idle,
            () = changed(&mut self.settings) => Mode::Idle,
        }
    }

    fn take_settings(&mut self) {
        let newest = self.settings.borrow_and_update();
        if *newest != self.current {
            self.current = newest.clone();
            // A person did something: what failed before may work now.
            self.backoff.reset();
            self.delivery.refusals.reset();
        }
    }
}

/// One attempt, from the batch to its record in the store; the same for both ways to run.
struct Delivery<Q> {
    queue: Q,
    transport: Transport,
    refusals: Refusals,
    report: Report,
}

enum Conclusion {
    /// The endpoint did its part: so many items left the queue, and so many of them refused.
    Settled { left: u64, refused: u64 },
    /// The batch stays as it is.
    Later { reason: String, pace: Pace },
}

enum Pace {
    Backoff,
    /// By the endpoint's `Retry-After`.
    Asked(Duration),
    Slowest,
}

impl<Q: Queue> Delivery<Q> {
    /// Posts the batch. Nothing is recorded yet, so the call may be dropped.
    async fn attempt(&mut self, settings: &Settings, batch: &FrozenBatch, progress: &Progress) -> Decision {
        let limit = settings.timeout + ATTEMPT_SLACK;
        let post = timeout(limit, self.transport.post(settings, batch));
        tokio::pin!(post);
        let mut stamp = interval(STAMP_EVERY);
        stamp.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let posted = loop {
            tokio::select! {
                posted = &mut post => break posted,
                // Waiting for an answer is progress, because the timeout ends it.
                _ = stamp.tick() => progress.moved(clock::since_boot()),
            }
        };
        let posted = posted.unwrap_or_else(|_| Posted {
            answer: Answer::Failed { reason: format!("an attempt did not end within {limit:?}") },
            body_bytes: 0,
        });
        self.report.sent(posted.body_bytes);
        let decision = decide(&posted.answer, batch.key.count(), self.refusals);
        self.refusals.note(&decision);
        decision
    }

    /// Carries the decision out: first in the store, then in what is shown.
    async fn conclude(&mut self, batch: &FrozenBatch, decision: Decision) -> Result<Conclusion, QueueClosed> {
        let items = batch.key.count();
        let (reason, pace, held) = match decision {
            Decision::Delivered => {
                self.queue.settle(&batch.key, Outcome::Delivered).await?;
                self.report.delivered(items);
                return Ok(Conclusion::Settled { left: items, refused: 0 });
            }
            Decision::Split => {
                self.queue.settle(&batch.key, Outcome::Split).await?;
                self.report.split(batch);
                return Ok(Conclusion::Settled { left: 0, refused: 0 });
            }
            Decision::DeadLetter { reason } => {
                self.queue.settle(&batch.key, Outcome::DeadLetter { reason }).await?;
                self.report.dead_letter(batch, Instant::now());
                return Ok(Conclusion::Settled { left: items, refused: items });
            }
            Decision::Retry { reason, after } => (reason, after.map_or(Pace::Backoff, Pace::Asked), false),
            Decision::Hold { reason } => (reason, Pace::Slowest, true),
        };
        self.report.failed(reason.clone(), held, Instant::now());
        Ok(Conclusion::Later { reason, pace })
    }
}

fn want(settings: &Settings, partial: bool) -> Want {
    Want::new(settings.batch_size, settings.batch_bytes_max, partial)
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
/// Beside the request's own timeout: reading certificate files and compressing.
const ATTEMPT_SLACK: Duration = Duration::from_secs(10);
/// How often an attempt under way shows that it is watched.
const STAMP_EVERY: Duration = Duration::from_secs(5);
