//! A watchdog tied to progress: a stage is alive while it moves or has nothing to do, and the store
//! while it answers.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::systemd::Notifier;
use crate::clock;

/// The stamp of one stage. Written by the stage, read by the watchdog.
#[derive(Debug, Default)]
pub struct Progress {
    /// Boot-clock milliseconds of the last stamp; 0 while the stage is idle by right.
    stamp: AtomicU64,
}

impl Progress {
    /// The stage has work and moved just now. `since_boot` is the boot clock.
    pub fn moved(&self, since_boot: Duration) {
        self.stamp.store(millis(since_boot).max(1), Relaxed);
    }

    /// The stage waits for input, or for a timer of its own.
    pub fn idle(&self) {
        self.stamp.store(0, Relaxed);
    }

    /// How long the stage has had work without moving; `None` while it is idle.
    pub fn stuck_for(&self, since_boot: Duration) -> Option<Duration> {
        match self.stamp.load(Relaxed) {
            0 => None,
            stamp => Some(Duration::from_millis(millis(since_boot).saturating_sub(stamp))),
        }
    }
}

/// A stage's name and its stamp.
pub type Check = (&'static str, Arc<Progress>);

/// Whether a restart is the cure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    #[default]
    Alive,
    /// This stage has not moved for longer than half the interval.
    Stuck { stage: &'static str, stuck_for: Duration },
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Alive => f.write_str("ok"),
            Self::Stuck { stage, stuck_for } => {
                write!(f, "{stage} has not moved for {} s", stuck_for.as_secs())
            }
        }
    }
}

/// What the watchdog watches, and whom it tells.
#[derive(Debug)]
pub struct Watchdog {
    pub notifier: Notifier,
    /// Pings go out at a quarter of this. A stage that stands still for longer than half of it is stuck, so that
    /// there is time left to say which.
    pub interval: Duration,
    pub checks: Vec<Check>,
    /// Moves with each look, for [`super::sentinel`].
    pub beat: Arc<Progress>,
    /// For the health page.
    pub verdict: watch::Sender<Verdict>,
}

impl Watchdog {
    /// The service manager's interval, or [`INTERVAL_DEFAULT`] where there is none: the verdict then
    /// still serves the health page.
    pub fn new(notifier: Notifier, interval: Option<Duration>, checks: Vec<Check>) -> Self {
        let interval = interval.unwrap_or(INTERVAL_DEFAULT);
        Self { notifier, interval, checks, beat: Arc::default(), verdict: watch::Sender::default() }
    }

    /// Pings the service manager until `stop`, but only while no stage is stuck and `ping_store`
    /// answers true. What is stuck is logged once when it begins and once when it ends.
    pub async fn run<F: Future<Output = bool>>(self, ping_store: impl Fn() -> F, stop: CancellationToken) {
        let store = Progress::default();
        let mut current = Verdict::Alive;
        let mut watch = pin!(async {
            loop {
                self.beat.moved(clock::since_boot());
                let answered = self.ask(&ping_store, &store).await;
                let verdict = judge(&self.checks, &store, clock::since_boot(), self.interval);
                self.announce(current, verdict);
                current = verdict;
                if answered && verdict == Verdict::Alive {
                    self.notifier.watchdog();
                    sleep(self.interval / 4).await;
                } else {
                    // Up to half an interval is gone already: what recovers now must be in time.
                    sleep(self.interval / 8).await;
                }
            }
        });
        tokio::select! {
            () = stop.cancelled() => {}
            () = &mut watch => {}
        }
        self.beat.idle();
    }

    /// Whether the store answered in time. Its stamp stays at the first ping it left open.
    async fn ask<F: Future<Output = bool>>(&self, ping_store: &impl Fn() -> F, store: &Progress) -> bool {
        if store.stuck_for(Duration::ZERO).is_none() {
            store.moved(clock::since_boot());
        }
        let answered = matches!(timeout(self.interval / 4, ping_store()).await, Ok(true));
        if answered {
            store.idle();
        }
        answered
    }

    fn announce(&self, before: Verdict, now: Verdict) {
        match (before, now) {
            (Verdict::Alive, Verdict::Stuck { stage, stuck_for }) => {
                tracing::error!(
                    stage,
                    stuck_for_seconds = stuck_for.as_secs(),
                    "a stage is stuck; the service manager is no longer pinged and will restart the agent"
                );
                self.notifier.status(&format!("stuck: {now}"));
            }
            (Verdict::Stuck { stage, stuck_for }, Verdict::Alive) => {
                tracing::info!(stage, stuck_for_seconds = stuck_for.as_secs(), "a stuck stage moves again");
                self.notifier.status("running");
            }
            _ => {}
        }
        self.verdict.send_replace(now);
    }
}

/// The stage that has stood still the longest, when that is longer than half of `interval`.
fn judge(checks: &[Check], store: &Progress, since_boot: Duration, interval: Duration) -> Verdict {
    let stages = checks.iter().map(|(stage, progress)| (*stage, &**progress)).chain([("store", store)]);
    stages
        .filter_map(|(stage, progress)| Some((stage, progress.stuck_for(since_boot)?)))
        .filter(|(_, stuck_for)| *stuck_for > interval / 2)
        .max_by_key(|(_, stuck_for)| *stuck_for)
        .map_or(Verdict::Alive, |(stage, stuck_for)| Verdict::Stuck { stage, stuck_for })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Where no service manager asks: slow enough for a checkpoint on a tired SD card.
const INTERVAL_DEFAULT: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(30);

    fn check(stage: &'static str, moved_at: Option<u64>) -> Check {
        let progress = Progress::default();
        if let Some(seconds) = moved_at {
            progress.moved(Duration::from_secs(seconds));
        }
        (stage, Arc::new(progress))
    }

    fn verdict(checks: &[Check], now: u64) -> Verdict {
        judge(checks, &Progress::default(), Duration::from_secs(now), INTERVAL)
    }

    #[test]
    fn a_stage_is_alive_while_it_is_idle_or_moved_within_the_interval() {
        assert_eq!(verdict(&[], 1000), Verdict::Alive);
        assert_eq!(verdict(&[check("pipeline", None), check("uploader", Some(985))], 1000), Verdict::Alive);
        // A stamp from the future is no reason to kill anything.
        assert_eq!(verdict(&[check("pipeline", Some(2000))], 1000), Verdict::Alive);
    }

    #[test]
    fn the_stage_that_stands_still_the_longest_is_named() {
        let checks = [check("pipeline", Some(960)), check("uploader", Some(950)), check("rules", None)];
        let stuck_for = Duration::from_secs(50);
        assert_eq!(verdict(&checks, 1000), Verdict::Stuck { stage: "uploader", stuck_for });
        assert_eq!(verdict(&checks, 1000).to_string(), "uploader has not moved for 50 s");
    }

    #[test]
    fn a_store_that_leaves_a_ping_open_is_stuck_as_well() {
        let store = Progress::default();
        store.moved(Duration::from_secs(100));
        let now = Duration::from_secs(116);
        assert!(matches!(judge(&[], &store, now, INTERVAL), Verdict::Stuck { stage: "store", .. }));
    }

    struct Run {
        manager: UnixDatagram,
        _dir: tempfile::TempDir,
        tasks: tokio::task::JoinSet<()>,
    }

    impl Run {
        fn start(
            checks: Vec<Check>,
            store_answers: bool,
            interval: Duration,
        ) -> (Self, watch::Receiver<Verdict>) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("notify");
            let manager = UnixDatagram::bind(&path).unwrap();
            manager.set_nonblocking(true).unwrap();
            let notifier = Notifier::to(path.as_os_str()).unwrap();
            let watchdog = Watchdog::new(notifier, Some(interval), checks);
            let verdict = watchdog.verdict.subscribe();
            let mut tasks = tokio::task::JoinSet::new();
            tasks.spawn(watchdog.run(move || async move { store_answers }, CancellationToken::new()));
            (Self { manager, _dir: dir, tasks }, verdict)
        }

        /// Everything sent so far.
        fn pings(&self) -> usize {
            let mut buffer = [0; 512];
            std::iter::from_fn(|| self.manager.recv(&mut buffer).ok().map(|n| buffer[..n].to_vec()))
                .filter(|message| message == b"WATCHDOG=1\n")
                .count()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_manager_is_pinged_at_a_quarter_of_the_interval() {
        let (run, _verdict) = Run::start(vec![check("pipeline", None)], true, INTERVAL);
        // At 0, 7.5, 15 and 22.5 s.
        sleep(Duration::from_secs(29)).await;
        assert_eq!(run.pings(), 4);
        assert_eq!(run.tasks.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_stage_ends_the_pings_and_shows_in_the_verdict() {
        // The boot clock is real here, and a machine may have booted just now.
        let interval = Duration::from_secs(1);
        let progress = Arc::new(Progress::default());
        progress.moved(clock::since_boot() - interval * 2);
        let (run, mut verdict) = Run::start(vec![("pipeline", progress.clone())], true, interval);
        verdict
            .wait_for(|verdict| matches!(verdict, Verdict::Stuck { stage: "pipeline", .. }))
            .await
            .unwrap();
        sleep(interval).await;
        assert_eq!(run.pings(), 0);
        progress.idle();
        verdict.wait_for(|verdict| *verdict == Verdict::Alive).await.unwrap();
        sleep(interval / 4).await;
        assert_eq!(run.pings(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_does_not_answer_ends_the_pings() {
        let (run, _verdict) = Run::start(Vec::new(), false, INTERVAL);
        sleep(INTERVAL * 4).await;
        assert_eq!(run.pings(), 0);
    }
}
