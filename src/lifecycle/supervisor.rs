//! Every task of the agent, by name. A task that ends early ends the process, but for sources: they
//! restart alone (see [`super::restart`]).
//!
//! Tasks live in a `JoinSet`, so none can outlive the supervisor or end unseen; that is why nothing
//! here or elsewhere needs `tokio::spawn`.

use std::any::Any;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Display;
use std::time::Duration;

use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::restart::{RestartPolicy, run_restarting};

/// Why a task ended other than by returning `Ok`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    Error(String),
    #[error("panicked: {0}")]
    Panic(String),
    /// It was told to end and did not in time.
    #[error("was aborted")]
    Aborted,
}

/// A task came to its end.
#[derive(Debug, PartialEq, Eq)]
pub struct TaskEnd {
    pub name: Cow<'static, str>,
    pub result: Result<(), Failure>,
    /// The agent cannot go on without this task; false for those that restart alone.
    pub essential: bool,
}

/// Runs and watches the tasks. Dropping it aborts what still runs.
#[derive(Debug, Default)]
pub struct Supervisor {
    tasks: JoinSet<Result<(), Failure>>,
    names: HashMap<Id, Entry>,
}

#[derive(Debug)]
struct Entry {
    name: Cow<'static, str>,
    essential: bool,
}

/// A restarting task, for whoever has to wait for its end before it starts a successor.
#[derive(Debug)]
pub struct Running {
    abort: AbortHandle,
    ended: CancellationToken,
}

impl Supervisor {
    /// Starts a task that the agent cannot be without: any end of it shows in [`Self::next_end`].
    pub fn spawn<F, E>(&mut self, name: impl Into<Cow<'static, str>>, task: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        self.start(
            name.into(),
            true,
            async move { task.await.map_err(|error| Failure::Error(text(&error))) },
        );
    }

    /// Starts a task that may fail or panic and is then started again with `policy`'s backoff, until
    /// it returns `Ok` or `stop` is cancelled. `factory` makes each run; `on_restart` is told why the
    /// last one ended and how long the next waits.
    ///
    /// Cancelling `stop` does not abort a run: the run has to watch that token, or one above it.
    pub fn spawn_restarting<M, F, E>(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        factory: M,
        policy: RestartPolicy,
        stop: CancellationToken,
        on_restart: impl FnMut(&Failure, Duration) + Send + 'static,
    ) -> Running
    where
        M: FnMut() -> F + Send + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Display,
    {
        let name = name.into();
        let ended = CancellationToken::new();
        let on_end = ended.clone().drop_guard();
        let own_name = name.clone();
        let abort = self.start(name, false, async move {
            // Held, so that an abort and a panic are ends too.
            let _on_end = on_end;
            run_restarting(&own_name, factory, policy, &stop, on_restart).await;
            Ok(())
        });
        Running { abort, ended }
    }

    fn start<F>(&mut self, name: Cow<'static, str>, essential: bool, task: F) -> AbortHandle
    where
        F: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let handle = self.tasks.spawn(task);
        self.names.insert(handle.id(), Entry { name, essential });
        handle
    }

    /// Waits for the next end of any task; for ever while there is none. Cancel-safe.
    pub async fn next_end(&mut self) -> TaskEnd {
        match self.join_next().await {
            Some(end) => end,
            None => std::future::pending().await,
        }
    }

    /// Waits until every task has ended. After `deadline` it aborts those that have not, and returns
    /// their names in alphabetical order. The caller cancels the tasks' tokens first.
    pub async fn drain(&mut self, deadline: Duration) -> Vec<Cow<'static, str>> {
        let deadline = Instant::now() + deadline;
        while let Ok(Some(end)) = timeout_at(deadline, self.join_next()).await {
            if let Err(failure) = end.result {
                tracing::warn!(task = %end.name, error = %failure, "a task failed while the agent stops");
            }
        }
        let mut late: Vec<_> = self.names.drain().map(|(_, entry)| entry.name).collect();
        late.sort();
        if !late.is_empty() {
            // An aborted task ends at its next await; one that blocks the thread is not waited for.
            timeout(ABORT_WAIT_MAX, self.tasks.shutdown()).await.ok();
        }
        late
    }

    async fn join_next(&mut self) -> Option<TaskEnd> {
        let (id, result) = match self.tasks.join_next_with_id().await? {
            Ok((id, result)) => (id, result),
            Err(error) => (error.id(), Err(Failure::from(error))),
        };
        let Entry { name, essential } =
            self.names.remove(&id).expect("every task is entered when it is started");
        Some(TaskEnd { name, result, essential })
    }
}

impl Running {
    /// Waits for the end of a task whose token has been cancelled, at most `patience`; then aborts
    /// it. False when it had to.
    pub async fn ended_within(self, patience: Duration) -> bool {
        if timeout(patience, self.ended.cancelled()).await.is_ok() {
            return true;
        }
        self.abort.abort();
        timeout(ABORT_WAIT_MAX, self.ended.cancelled()).await.ok();
        false
    }
}

impl From<JoinError> for Failure {
    fn from(error: JoinError) -> Self {
        match error.try_into_panic() {
            Ok(payload) => Self::Panic(panic_message(&*payload)),
            Err(_) => Self::Aborted,
        }
    }
}

/// What a panic said, bounded; `panic!` carries a string, other payloads have nothing to show.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    let message = payload
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    crate::reading::clip(message, FAILURE_BYTES_MAX).to_owned()
}

/// The whole chain of causes where the type shows it so (`anyhow` does), bounded.
pub(super) fn text(error: &impl Display) -> String {
    crate::reading::clip(&format!("{error:#}"), FAILURE_BYTES_MAX).to_owned()
}

/// An error's text may quote what a device sent.
const FAILURE_BYTES_MAX: usize = 1024;

/// How long an aborted task may take to be gone.
const ABORT_WAIT_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_essential_task_that_ends_is_reported_with_its_name_and_reason() {
        let mut supervisor = Supervisor::default();
        supervisor.spawn("steady", std::future::pending::<Result<(), String>>());
        supervisor.spawn("store", async { Err("disk gone") });
        let end = supervisor.next_end().await;
        assert_eq!(end.name, "store");
        assert_eq!(end.result, Err(Failure::Error("disk gone".to_owned())));
        assert!(end.essential);
    }

    #[tokio::test]
    async fn a_panic_of_an_essential_task_is_an_end_with_its_message() {
        let mut supervisor = Supervisor::default();
        supervisor.spawn(format!("pipeline-{}", 1), async {
            if true {
                panic!("index {} out of bounds", 7);
            }
            Ok::<(), String>(())
        });
        let end = supervisor.next_end().await;
        assert_eq!(end.name, "pipeline-1");
        assert_eq!(end.result, Err(Failure::Panic("index 7 out of bounds".to_owned())));
    }

    #[tokio::test(start_paused = true)]
    async fn drain_names_who_is_late_and_aborts_it() {
        let mut supervisor = Supervisor::default();
        let stop = CancellationToken::new();
        let dropped = CancellationToken::new();
        let token = stop.clone();
        supervisor.spawn("prompt", async move {
            token.cancelled().await;
            Ok::<(), String>(())
        });
        let guard = dropped.clone().drop_guard();
        supervisor.spawn("uploader", async move {
            let _guard = guard;
            std::future::pending::<Result<(), String>>().await
        });
        stop.cancel();
        let started = Instant::now();
        assert_eq!(supervisor.drain(Duration::from_secs(10)).await, ["uploader"]);
        assert_eq!(started.elapsed(), Duration::from_secs(10));
        assert!(dropped.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn drain_returns_at_once_when_everybody_has_ended() {
        let mut supervisor = Supervisor::default();
        supervisor.spawn("a", async { Ok::<(), String>(()) });
        supervisor.spawn("b", async { Err("late failure") });
        let started = Instant::now();
        assert!(supervisor.drain(Duration::from_secs(10)).await.is_empty());
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_does_not_stop_is_aborted_before_its_successor_starts() {
        let mut supervisor = Supervisor::default();
        let running = supervisor.spawn_restarting(
            "deaf",
            std::future::pending::<Result<(), String>>,
            RestartPolicy::default(),
            CancellationToken::new(),
            |_, _| {},
        );
        assert!(!running.ended_within(Duration::from_secs(2)).await);
        let end = supervisor.next_end().await;
        assert_eq!((end.result, end.essential), (Err(Failure::Aborted), false));
    }
}
