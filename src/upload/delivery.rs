//! One attempt, from the batch to its record in the store and in the budget; the same for both ways to run.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::budget::Account;
use super::decide::{Answer, Blame, Decision, Fault, Refusals, decide};
use super::report::Report;
use super::transport::{Posted, Transport};
use super::wire::Wire;
use super::{BUDGET_FACT, Queue, QueueClosed, Settings, Status, Surroundings};
use crate::clock;
use crate::lifecycle::watchdog::Progress;
use crate::store::{FrozenBatch, Outcome};

pub struct Delivery<Q> {
    pub queue: Q,
    pub transport: Transport,
    pub refusals: Refusals,
    pub report: Report,
    pub clock_is_set: fn() -> bool,
    wire: Arc<Wire>,
    account: Account,
    /// What was remembered of the account, and when.
    remembered: (String, Option<Instant>),
}

/// How an attempt ended, before anything is done about it.
pub struct Attempt {
    pub decision: Decision,
    pub latency: Duration,
}

pub enum Conclusion {
    /// The endpoint did its part: so many items left the queue, and so many of them refused.
    Settled { left: u64, refused: u64 },
    /// The batch stays as it is.
    Later { reason: String, next: Next },
}

/// What a batch that stays has to wait for.
pub enum Next {
    /// Its turn after a backoff; whose fault it is taken for.
    Backoff(Blame),
    /// What the endpoint asked for in `Retry-After`.
    Asked(Duration),
    /// A person.
    Slowest,
    Clock,
}

impl Next {
    /// The kind of trouble, for the log.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Backoff(Blame::Endpoint) => "endpoint",
            Self::Backoff(Blame::Batch) => "batch",
            Self::Backoff(Blame::Pace) => "pace",
            Self::Asked(_) => "retry_after",
            Self::Slowest => HELD,
            Self::Clock => "clock",
        }
    }
}

/// The kind of trouble in which a person has to act.
pub const HELD: &str = "held";

impl<Q: Queue> Delivery<Q> {
    pub fn new(queue: Q, status: Arc<Status>, surroundings: &Surroundings) -> Self {
        let wire = Arc::new(Wire::default());
        let account = Account::recall(surroundings.budget_fact.as_deref());
        Self {
            queue,
            transport: Transport::new(surroundings.proxies.clone(), wire.clone()),
            refusals: Refusals::default(),
            report: Report::new(status),
            clock_is_set: surroundings.clock_is_set,
            wire,
            remembered: (account.to_text(), None),
            account,
        }
    }

    /// Posts the batch. Nothing is recorded yet, so the call may be dropped.
    pub async fn attempt(
        &mut self,
        settings: &Settings,
        batch: &FrozenBatch,
        progress: &Progress,
    ) -> Attempt {
        let limit = settings.timeout + ATTEMPT_SLACK;
        let wire = self.wire.clone();
        let posted = {
            let post = timeout(limit, self.transport.post(settings, batch));
            tokio::pin!(post);
            let mut tick = interval(TICK_EVERY);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    posted = &mut post => break posted,
                    _ = tick.tick() => {
                        // Waiting for an answer is progress, because the timeout ends it.
                        progress.moved(clock::since_boot());
                        self.report.status.wire_bytes.store(wire.sample(), Relaxed);
                    }
                }
            }
        };
        let posted = posted.unwrap_or_else(|_| Posted {
            answer: Answer::Failed {
                reason: format!("an attempt did not end within {limit:?}"),
                fault: Fault::Unanswered,
            },
            body_bytes: 0,
            latency: limit,
        });
        self.report.sent(posted.body_bytes, self.transport.certificates);
        self.keep_account(settings);
        let clock_is_set = (self.clock_is_set)();
        let decision = decide(&posted.answer, batch.key.count(), self.refusals, clock_is_set);
        self.refusals.note(&decision);
        Attempt { decision, latency: posted.latency }
    }

    /// Carries the decision out: first in the store, then in what is shown. What stays is shown by
    /// whoever decides what it waits for.
    pub async fn conclude(
        &mut self,
        batch: &FrozenBatch,
        decision: Decision,
    ) -> Result<Conclusion, QueueClosed> {
        let items = batch.key.count();
        Ok(match decision {
            Decision::Delivered => {
                self.queue.settle(&batch.key, Outcome::Delivered).await?;
                self.report.delivered(items);
                Conclusion::Settled { left: items, refused: 0 }
            }
            Decision::Split => {
                self.queue.settle(&batch.key, Outcome::Split).await?;
                self.report.split(batch);
                Conclusion::Settled { left: 0, refused: 0 }
            }
            Decision::DeadLetter { reason } => {
                self.queue.settle(&batch.key, Outcome::DeadLetter { reason }).await?;
                self.report.dead_letter(batch, Instant::now());
                Conclusion::Settled { left: items, refused: items }
            }
            Decision::Retry { reason, after: Some(wait), .. } => {
                Conclusion::Later { reason, next: Next::Asked(wait) }
            }
            Decision::Retry { reason, blame, .. } => Conclusion::Later { reason, next: Next::Backoff(blame) },
            Decision::Hold { reason } => Conclusion::Later { reason, next: Next::Slowest },
            Decision::WaitForClock { reason } => Conclusion::Later { reason, next: Next::Clock },
        })
    }

    /// Brings the budget up to date; returns the lanes that wait for the next month.
    pub fn keep_account(&mut self, settings: &Settings) -> [bool; 4] {
        let wire_bytes = self.wire.sample();
        self.report.status.wire_bytes.store(wire_bytes, Relaxed);
        let now = (self.clock_is_set)().then(clock::unix_seconds);
        self.account.note(wire_bytes, clock::since_boot(), now, &settings.budget);
        let state = self.account.state(now, &settings.budget);
        self.report.budget(state);
        state.held
    }

    /// Has the store keep what was used, seldom enough to cost nothing; always with `finally`.
    pub async fn remember(&mut self, finally: bool) -> Result<(), QueueClosed> {
        let (text, at) = &self.remembered;
        let is_time = at.is_none_or(|at| at.elapsed() >= REMEMBER_EVERY);
        let now = self.account.to_text();
        if *text == now || !(is_time || finally) {
            return Ok(());
        }
        self.queue.remember(BUDGET_FACT, now.clone()).await?;
        self.remembered = (now, Some(Instant::now()));
        Ok(())
    }
}

/// Beside the request's own timeout: reading certificate files and compressing.
const ATTEMPT_SLACK: Duration = Duration::from_secs(10);
/// How often an attempt under way shows that it is watched, and what it has cost.
const TICK_EVERY: Duration = Duration::from_secs(1);
/// What a crash may take from the account is what went over the line in this time.
const REMEMBER_EVERY: Duration = Duration::from_secs(60);
