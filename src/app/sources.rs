//! The running sources: started, restarted by the supervisor, stopped one by one on a reload.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::adapter::{Intake, Messages, Source, State, Status};
use crate::lifecycle::memory::Memory;
use crate::lifecycle::restart::RestartPolicy;
use crate::lifecycle::supervisor::{Running, Supervisor};
use crate::reading::Batch;

/// A source that is told to stop by a reload has this long before it is aborted.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// What every source is connected to.
pub struct Sources {
    /// Goes with this struct, so that the pipeline ends once the last source has.
    batches: mpsc::Sender<Batch>,
    memory: Memory,
    intake: CancellationToken,
    device_id: String,
    messages: Messages,
    running: Vec<RunningSource>,
}

struct RunningSource {
    name: String,
    stop: CancellationToken,
    running: Running,
    status: Arc<Status>,
}

impl Sources {
    pub fn new(
        batches: mpsc::Sender<Batch>,
        memory: Memory,
        intake: CancellationToken,
        device_id: String,
        messages: Messages,
    ) -> Self {
        Self { batches, memory, intake, device_id, messages, running: Vec::new() }
    }

    /// Starts a source under the supervisor, which restarts it alone when it fails.
    pub fn start(&mut self, supervisor: &mut Supervisor, source: &Source, poll_interval: Duration) {
        let name = source.name();
        let status = Arc::new(Status::new(name.clone(), source.kind()));
        let stop = self.intake.child_token();
        let intake = Arc::new(self.intake(status.clone(), stop.clone(), poll_interval, false));
        let source = Arc::new(source.clone());
        let factory = move || {
            let (source, intake) = (source.clone(), intake.clone());
            async move { source.run(&intake).await }
        };
        let restarted = status.clone();
        let on_restart = move |failure: &crate::lifecycle::supervisor::Failure, _wait: Duration| {
            restarted.set(State::Failed);
            restarted.set_error(failure.to_string());
            restarted.restarts.fetch_add(1, Relaxed);
        };
        let policy = RestartPolicy::default();
        let task = format!("source {name}");
        let running = supervisor.spawn_restarting(task, factory, policy, stop.clone(), on_restart);
        self.running.push(RunningSource { name, stop, running, status });
    }

    /// Stops the named sources; one that does not end in time is aborted and named in the log.
    pub async fn stop(&mut self, names: &[String]) {
        let (stopping, running): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.running).into_iter().partition(|source| names.contains(&source.name));
        self.running = running;
        for source in &stopping {
            source.stop.cancel();
        }
        for source in stopping {
            if !source.running.ended_within(STOP_PATIENCE).await {
                tracing::warn!(source = source.name, "a source did not stop in time and was aborted");
            }
        }
    }

    pub fn statuses(&self) -> Vec<Arc<Status>> {
        self.running.iter().map(|source| source.status.clone()).collect()
    }

    /// What a source needs for one pass of `--once`.
    pub fn single_pass(&self, source: &Source, poll_interval: Duration) -> Intake {
        let status = Arc::new(Status::new(source.name(), source.kind()));
        self.intake(status, self.intake.child_token(), poll_interval, true)
    }

    fn intake(
        &self,
        status: Arc<Status>,
        stop: CancellationToken,
        poll_interval: Duration,
        once: bool,
    ) -> Intake {
        Intake {
            batches: self.batches.clone(),
            memory: self.memory.clone(),
            stop,
            status,
            poll_interval,
            once,
            device_id: self.device_id.clone(),
            messages: self.messages.clone(),
        }
    }
}
