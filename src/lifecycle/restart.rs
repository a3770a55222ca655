//! Restarts one task that failed or panicked, with exponential backoff and jitter, without touching
//! any other.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::supervisor::{Failure, panic_message, text};

/// How long a failed task waits before it starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartPolicy {
    /// The shortest wait. Never undercut by the jitter, so that a task that fails at once cannot spin.
    pub min: Duration,
    /// The longest wait.
    pub max: Duration,
    /// A run that lasted this long counts as recovered: the next failure waits like the first.
    pub reset_after: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            min: Duration::from_secs(1),
            max: Duration::from_secs(60),
            reset_after: Duration::from_secs(60),
        }
    }
}

impl RestartPolicy {
    /// The wait after `failures` failures in a row (from 1 on): anywhere between `min` and twice
    /// `min`, doubling with each further failure up to `max`. `random` is in 0.0..1.0 and spreads
    /// sources that lost the same broker over the whole range.
    pub fn delay(&self, failures: u32, random: f64) -> Duration {
        let ceiling = self.min.saturating_mul(2_u32.saturating_pow(failures.max(1))).min(self.max);
        self.min + ceiling.saturating_sub(self.min).mul_f64(random.clamp(0.0, 1.0))
    }
}

/// Runs `factory`'s futures one after another until one returns `Ok` or `stop` is cancelled.
pub(super) async fn run_restarting<M, F, E>(
    name: &str,
    mut factory: M,
    policy: RestartPolicy,
    stop: &CancellationToken,
    mut on_restart: impl FnMut(&Failure, Duration),
) where
    M: FnMut() -> F,
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Display,
{
    let mut failures = 0;
    while !stop.is_cancelled() {
        let Err(failure) = run_once(name, &mut factory, policy.reset_after, &mut failures).await else {
            return;
        };
        if stop.is_cancelled() {
            return;
        }
        failures += 1;
        let delay = policy.delay(failures, fastrand::f64());
        // The first of a series only: a source whose device is gone for a week is one line.
        if failures == 1 {
            tracing::warn!(task = name, error = %failure, delay_seconds = delay.as_secs_f64(),
                "a task failed; it restarts with backoff until it recovers");
        }
        on_restart(&failure, delay);
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(delay) => {}
        }
    }
}

/// One run, in a task of its own so that its panic ends there. Clears `failures` once it has lasted.
async fn run_once<F, E>(
    name: &str,
    factory: &mut impl FnMut() -> F,
    reset_after: Duration,
    failures: &mut u32,
) -> Result<(), Failure>
where
    F: Future<Output = Result<(), E>> + Send + 'static,
    E: Display,
{
    // What the factory leaves half done is dropped with its future; the next run starts anew.
    let future = catch_unwind(AssertUnwindSafe(factory))
        .map_err(|payload| Failure::Panic(panic_message(&*payload)))?;
    let mut run = JoinSet::new();
    run.spawn(async move { future.await.map_err(|error| Failure::Error(text(&error))) });
    let recovered_at = Instant::now() + reset_after;
    loop {
        tokio::select! {
            ended = run.join_next() => {
                return ended.expect("one task was spawned").unwrap_or_else(|error| Err(error.into()));
            }
            () = tokio::time::sleep_until(recovered_at), if *failures > 0 => {
                tracing::info!(task = name, failures = *failures, "a task recovered");
                *failures = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::supervisor::Supervisor;
    use super::*;

    const POLICY: RestartPolicy = RestartPolicy {
        min: Duration::from_secs(1),
        max: Duration::from_secs(16),
        reset_after: Duration::from_secs(60),
    };

    #[test]
    fn the_backoff_doubles_up_to_its_limit_and_never_undercuts_the_shortest_wait() {
        let longest: Vec<_> = (1..=6).map(|failures| POLICY.delay(failures, 1.0).as_secs()).collect();
        assert_eq!(longest, [2, 4, 8, 16, 16, 16]);
        assert!((0..=u32::MAX).step_by(1 << 26).all(|failures| POLICY.delay(failures, 0.0) == POLICY.min));
        assert_eq!(POLICY.delay(u32::MAX, 1.0), POLICY.max);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panicking_task_restarts_alone() {
        let mut supervisor = Supervisor::default();
        let stop = CancellationToken::new();
        let failures = Arc::new(Mutex::new(Vec::new()));
        let seen = failures.clone();
        let mut runs = 0;
        supervisor.spawn("neighbour", std::future::pending::<Result<(), String>>());
        supervisor.spawn_restarting(
            "flaky",
            move || {
                runs += 1;
                async move {
                    match runs {
                        1 => panic!("bad frame"),
                        2 => Err("refused"),
                        _ => Ok(()),
                    }
                }
            },
            POLICY,
            stop,
            move |failure, _| seen.lock().unwrap().push(failure.clone()),
        );
        let end = supervisor.next_end().await;
        assert_eq!((&*end.name, &end.result, end.essential), ("flaky", &Ok(()), false));
        let expected = [Failure::Panic("bad frame".to_owned()), Failure::Error("refused".to_owned())];
        assert_eq!(*failures.lock().unwrap(), expected);
        assert_eq!(supervisor.drain(Duration::from_secs(1)).await, ["neighbour"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_factory_that_panics_is_a_failed_run_and_not_the_end() {
        let mut supervisor = Supervisor::default();
        let mut runs = 0;
        let factory = move || {
            runs += 1;
            assert!(runs > 1, "first run");
            async { Ok::<(), String>(()) }
        };
        supervisor.spawn_restarting("maker", factory, POLICY, CancellationToken::new(), |_, _| {});
        assert_eq!(supervisor.next_end().await.result, Ok(()));
    }

    /// The waits of a task whose run number `n` lasts `lasts(n)` before it fails.
    async fn waits(runs_max: u32, lasts: fn(u32) -> Duration) -> Vec<Duration> {
        let waits = Arc::new(Mutex::new(Vec::new()));
        let seen = waits.clone();
        let mut runs = 0;
        let factory = move || {
            runs += 1;
            async move {
                sleep(lasts(runs)).await;
                if runs < runs_max { Err("gone") } else { Ok(()) }
            }
        };
        let mut supervisor = Supervisor::default();
        supervisor.spawn_restarting("s", factory, POLICY, CancellationToken::new(), move |_, delay| {
            seen.lock().unwrap().push(delay);
        });
        supervisor.next_end().await;
        let waits = waits.lock().unwrap();
        waits.clone()
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_grows_with_each_failure_and_resets_after_a_run_that_lasted() {
        let lasts = |run| Duration::from_secs(if run == 5 { 61 } else { 1 });
        let waits = waits(6, lasts).await;
        let ceilings = [2, 4, 8, 16, 2];
        assert_eq!(waits.len(), ceilings.len());
        for (wait, ceiling) in waits.iter().zip(ceilings) {
            assert!((POLICY.min..=Duration::from_secs(ceiling)).contains(wait), "{waits:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_task_ends_as_soon_as_it_is_told_to_stop() {
        let mut supervisor = Supervisor::default();
        let stop = CancellationToken::new();
        let on_restart = {
            let stop = stop.clone();
            move |_: &Failure, _| stop.cancel()
        };
        supervisor.spawn_restarting("s", || async { Err("down") }, POLICY, stop, on_restart);
        let started = Instant::now();
        assert_eq!(supervisor.next_end().await.result, Ok(()));
        assert_eq!(started.elapsed(), Duration::ZERO);
    }
}
