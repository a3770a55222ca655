//! The end: what was taken in is stored, and nothing is waited for longer than its deadline.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::sync::oneshot::{self, error::RecvError};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::lifecycle::supervisor::{Supervisor, TaskEnd};
use crate::{pipeline, store};

/// From the request to stop to the end, whatever hangs.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(8);
/// Of that, what the sources and the pipeline get before delivery is told to end too.
const INTAKE_DEADLINE: Duration = Duration::from_secs(5);

/// Everything that runs, in the two halves in which it ends.
#[derive(Default)]
pub struct Tasks {
    /// Sources and pipeline.
    pub inbound: Supervisor,
    /// Delivery and all that looks on.
    pub outbound: Supervisor,
    /// End the one and the other.
    pub intake: CancellationToken,
    pub egress: CancellationToken,
}

impl Tasks {
    /// Waits for the first end of a task that the agent cannot be without. Cancel-safe.
    pub async fn failed(&mut self) -> anyhow::Error {
        loop {
            let end = tokio::select! {
                end = self.inbound.next_end() => end,
                end = self.outbound.next_end() => end,
            };
            if let Some(error) = early_end(end) {
                return error;
            }
        }
    }

    /// Waits for the tasks and the store to end once the intake is cancelled, at most [`DRAIN_DEADLINE`].
    pub async fn drain(
        &mut self,
        store_end: Option<oneshot::Receiver<Result<(), store::Error>>>,
        taken_in: &pipeline::Counters,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + DRAIN_DEADLINE;
        let mut late = self.inbound.drain(INTAKE_DEADLINE).await;
        if late.iter().any(|task| task == "pipeline") {
            // The store takes nothing: a disk that is full or fails.
            let items = taken_in.buffer_count.load(Relaxed);
            tracing::error!(
                items,
                "the pipeline could not hand over what it had taken in; nothing of it was acknowledged"
            );
        }
        self.egress.cancel();
        late.extend(self.outbound.drain(deadline.saturating_duration_since(Instant::now())).await);
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
}

/// What the end of the store thread means.
pub fn store_ended(end: Result<Result<(), store::Error>, RecvError>) -> anyhow::Result<()> {
    match end {
        Ok(result) => result.context("the store failed"),
        Err(_) => Err(anyhow!("the store thread panicked")),
    }
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
