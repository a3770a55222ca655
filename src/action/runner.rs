//! One action at work: an event after the other, each within its time, and an end within that of a stop.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::set::Surroundings;
use super::{Due, Failure, Kind, Settings, Status, command, mqtt, webhook};

/// An action and what it keeps between events.
pub struct Runner {
    settings: Settings,
    surroundings: Surroundings,
    status: Arc<Status>,
    stop: CancellationToken,
    webhook: webhook::Client,
    broker: Option<mqtt::Session>,
    /// Events that failed since the last that did not.
    failures: u64,
}

impl Runner {
    pub fn new(
        settings: Settings,
        surroundings: Surroundings,
        status: Arc<Status>,
        stop: CancellationToken,
    ) -> Self {
        let webhook = webhook::Client::default();
        Self { settings, surroundings, status, stop, webhook, broker: None, failures: 0 }
    }

    /// Works until nobody holds the door any more and all is done, or, once the agent stops, for [`STOP_PATIENCE`].
    pub async fn run(&mut self, due: &mut mpsc::Receiver<Due>) {
        let stop = self.stop.clone();
        let mut overdue = pin!(async move {
            stop.cancelled().await;
            sleep(STOP_PATIENCE).await;
        });
        loop {
            let next = tokio::select! {
                next = due.recv() => next,
                () = &mut overdue => None,
            };
            let Some(next) = next else { break };
            self.status.waiting.fetch_sub(1, Relaxed);
            self.status.started.fetch_add(1, Relaxed);
            let began = Instant::now();
            let ended = tokio::select! {
                ended = self.perform(&next) => Some(ended),
                () = &mut overdue => None,
            };
            let is_overdue = ended.is_none();
            let ended =
                ended.unwrap_or_else(|| Err(Failure::lasting("the agent stopped before it was done")));
            self.note(&next, began.elapsed(), ended);
            if is_overdue {
                break;
            }
            if due.is_empty() {
                self.rest().await;
            }
        }
        due.close();
        let mut left = 0;
        while due.try_recv().is_ok() {
            self.status.waiting.fetch_sub(1, Relaxed);
            self.status.dropped.fetch_add(1, Relaxed);
            left += 1;
        }
        if left > 0 {
            tracing::warn!(
                action = self.settings.name,
                events = left,
                "the agent stopped before an action came to them"
            );
        }
    }

    /// Tries until it succeeds, there is no sense in it, or it was tried as often as configured.
    async fn perform(&mut self, due: &Due) -> Result<(), Failure> {
        // The same on every attempt.
        let key = format!("pyv-action-{:032x}", fastrand::u128(..));
        for attempt in 1.. {
            let ended = self.attempt(due, &key).await;
            let may_help = match &ended {
                Ok(()) => false,
                Err(Failure::TimedOut) => true,
                Err(Failure::Failed { is_passing, .. }) => *is_passing,
            };
            if !may_help || attempt >= self.settings.attempts {
                return ended;
            }
            // Full jitter: a fleet whose alarms go off together must not come back in step.
            let wait = RETRY_WAIT.saturating_mul(1 << (attempt - 1).min(8));
            sleep(wait.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        }
        Ok(())
    }

    async fn attempt(&mut self, due: &Due, key: &str) -> Result<(), Failure> {
        let limit = self.settings.timeout;
        match &self.settings.kind {
            Kind::Command(settings) => command::run(settings, &due.event, limit, &self.settings.name).await,
            Kind::Webhook(settings) => {
                let deadline = Instant::now() + limit;
                self.webhook.post(settings, &self.surroundings.proxies, (&due.event, key), deadline).await
            }
            Kind::Mqtt(settings) => {
                let id = format!("pyvorin-{}-{}", self.surroundings.device_id, self.settings.name);
                let topic = mqtt::topic(&settings.topic, &due.rule, &due.sensor);
                let published = mqtt::publish(&mut self.broker, settings, id, topic, due.event.clone());
                tokio::time::timeout(limit, published).await.unwrap_or_else(|_| {
                    self.broker = None;
                    Err(Failure::TimedOut)
                })
            }
        }
    }

    /// Lets go of what is not needed while no event waits.
    async fn rest(&mut self) {
        if let Some(broker) = self.broker.take() {
            broker.leave().await;
        }
        let Status { name, is_full, .. } = &*self.status;
        if is_full.swap(false, Relaxed) {
            let dropped = self.status.dropped.load(Relaxed);
            tracing::info!(action = name, dropped, "an action keeps up again");
        }
    }

    fn note(&mut self, due: &Due, took: Duration, ended: Result<(), Failure>) {
        let (action, rule) = (self.settings.name.as_str(), due.rule.as_str());
        let seconds = took.as_secs_f64();
        let reason = match ended {
            Ok(()) => {
                self.status.succeeded.fetch_add(1, Relaxed);
                self.status.set_trouble(None);
                let failures = std::mem::take(&mut self.failures);
                tracing::info!(action, rule, seconds, failed_before = failures, "an action is done");
                return;
            }
            Err(Failure::TimedOut) => {
                self.status.timed_out.fetch_add(1, Relaxed);
                format!("not done within {:?}", self.settings.timeout)
            }
            Err(Failure::Failed { reason, .. }) => {
                self.status.failed.fetch_add(1, Relaxed);
                reason
            }
        };
        // Told once until it succeeds again.
        if self.failures == 0 {
            tracing::warn!(action, rule, seconds, error = reason, "an action failed");
        } else {
            tracing::debug!(action, rule, seconds, error = reason, "an action failed again");
        }
        self.failures += 1;
        self.status.set_trouble(Some(reason));
    }
}

/// Before the second attempt, and twice as long before each further one.
const RETRY_WAIT: Duration = Duration::from_secs(1);
/// What runs and waits when the agent stops has this long; within what a drain leaves to it.
const STOP_PATIENCE: Duration = Duration::from_secs(2);
