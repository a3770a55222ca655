//! What happens to a reading between its source and the store: it is validated, judged by the privacy
//! firewall, held against windows and rules, encoded, and gathered for the next commit.

mod counters;
pub mod encode;
pub mod expr;
mod gather;
pub mod rebuild;
pub mod replay;
pub mod rule;
pub mod selection;
mod stages;
mod timekeeper;
pub(crate) mod validate;
pub mod window;

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

pub use self::counters::{Counters, WindowsShown};
use self::gather::Gather;
use self::rebuild::Kept;
pub use self::rebuild::Past;
pub use self::stages::{Plan, Stages};
pub use self::timekeeper::Standing;
use self::timekeeper::Timekeeper;
use self::window::Windows;
use crate::clock;
use crate::lifecycle::hang;
use crate::lifecycle::watchdog::Progress;
use crate::reading::Batch;
use crate::store::{Closed, Staged, Store};

/// How often windows are looked at that no reading ends, and what the kernel says of the clock.
const TICK: Duration = Duration::from_secs(1);
/// Batches taken in before the store and the timers get their turn.
const BATCHES_PER_TURN_MAX: usize = 64;

/// What the pipeline is connected to.
pub struct Wiring {
    /// Bounded; it ends when every source is gone, and then so does the pipeline.
    pub batches: mpsc::Receiver<Batch>,
    /// After a reload.
    pub plans: mpsc::Receiver<Plan>,
    pub store: Store,
    /// What windows that were open at the end of the run before, and what rules remember, are rebuilt from.
    pub past: Past,
    pub counters: Arc<Counters>,
    pub progress: Arc<Progress>,
    /// The longest an accepted reading waits for its commit.
    pub commit_interval: Duration,
    /// The same for readings that nobody awaits, while [`Counters::is_over_budget`].
    pub commit_interval_max: Duration,
    pub clock: clock::Settings,
    /// JSON that waits for a commit, in bytes; more is committed at once.
    pub staged_bytes_max: usize,
}

/// Runs until every source is gone and what they sent is handed to the store.
///
/// # Errors
///
/// The store is closed; what was not committed is not acknowledged.
pub async fn run(mut stages: Stages, wiring: Wiring) -> Result<(), Closed> {
    let Wiring {
        mut batches,
        mut plans,
        store,
        past,
        counters,
        progress,
        commit_interval,
        commit_interval_max,
        clock,
        staged_bytes_max,
    } = wiring;
    let mut staged = Staged::default();
    let mut keeper = Timekeeper::new(clock, store.clock_offset(), &counters);
    // The store delivers nothing provisional before it knows how the clock stands.
    keeper.look(false, &mut stages, &mut staged, &counters);
    store.append(std::mem::take(&mut staged)).await?;
    resume(&mut stages, past, &keeper.standing(), &counters).await;
    let mut gather = Gather::new(commit_interval, commit_interval_max, staged_bytes_max);
    // Reset only when it has fired: setting a timer for every arrival would cost more than the
    // readings do.
    let mut timer = pin!(tokio::time::sleep(Duration::ZERO));
    let mut armed = false;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let now = Instant::now();
        let due = gather.due(counters.is_over_budget.load(Relaxed));
        let is_due = due.is_some_and(|due| due <= now);
        if let Some(due) = due.filter(|due| !is_due && (!armed || *due < timer.deadline())) {
            timer.as_mut().reset(due);
            armed = true;
        }
        if !is_due {
            // At each turn, and the tick brings one a second. Only while it waits for the store there is none.
            progress.moved(clock::since_boot());
        }
        hang::point("pipeline").await;
        hang::block("runtime");
        counters.buffer_count.store(u64::from(staged.items()), Relaxed);
        tokio::select! {
            biased;
            permit = store.reserve(), if is_due => {
                permit?.append(std::mem::take(&mut staged));
                gather.committed(Instant::now());
            }
            batch = batches.recv(), if !is_due => {
                let Some(batch) = batch else { break };
                keeper.look(false, &mut stages, &mut staged, &counters);
                take_in(batch, &keeper.standing(), &mut stages, &mut staged, &mut gather, &counters);
                for _ in 1..BATCHES_PER_TURN_MAX {
                    if gather.is_full() {
                        break;
                    }
                    let Ok(batch) = batches.try_recv() else { break };
                    take_in(batch, &keeper.standing(), &mut stages, &mut staged, &mut gather, &counters);
                }
            }
            () = &mut timer, if armed => armed = false,
            Some(plan) = plans.recv() => stages.reload(plan),
            _ = tick.tick() => {
                keeper.look(true, &mut stages, &mut staged, &counters);
                let is_short = counters.is_short_of_memory.load(Relaxed);
                gather.set_staged_bytes_max(if is_short { staged_bytes_max / 4 } else { staged_bytes_max });
                if is_short {
                    stages.shed();
                }
                // While the store takes nothing, windows wait like everything else.
                if !gather.is_full() {
                    stages.tick(&keeper.standing(), &mut staged, &counters);
                }
                if !staged.is_empty() {
                    gather.arrived(0, false, staged.size_bytes(), Instant::now());
                }
                if staged.is_urgent() {
                    gather.holds_urgent();
                }
            }
        }
    }
    if !staged.is_empty() {
        store.append(staged).await?;
    }
    progress.idle();
    Ok(())
}

/// Sources wait meanwhile, for 5 seconds at most.
async fn resume(stages: &mut Stages, past: Past, standing: &Standing<'_>, counters: &Counters) {
    let clock = rebuild::Clock { boot: standing.boot.to_owned(), offset: standing.offset };
    let windows = std::mem::replace(&mut stages.windows, Windows::new(&[]));
    let kept = Kept { windows, rules: std::mem::take(&mut stages.rules) };
    let (mut kept, readings) = rebuild::rebuild(past, kept, clock).await;
    kept.windows.resume(standing.now);
    kept.rules.resume(clock::boot_seconds());
    counters.windows_rebuilt_readings.store(readings, Relaxed);
    counters.show_windows(&kept.windows);
    (stages.windows, stages.rules) = (kept.windows, kept.rules);
}

fn take_in(
    mut batch: Batch,
    standing: &Standing<'_>,
    stages: &mut Stages,
    staged: &mut Staged,
    gather: &mut Gather,
    counters: &Counters,
) {
    let bytes_before = staged.size_bytes();
    let committed = stages.take_in(&batch, standing, staged, counters);
    let size_bytes = staged.size_bytes();
    counters.accepted_bytes.fetch_add((size_bytes - bytes_before) as u64, Relaxed);
    let mut awaited = 0;
    if let Some(mut share) = batch.share.take() {
        // From here on what is staged takes the room of the batch.
        share.fit(size_bytes - bytes_before);
        staged.occupy(share);
    }
    staged.came_in(&batch.messages);
    if let Some(receipt) = batch.receipt.take() {
        awaited = committed.accepted + committed.refused;
        staged.answer(receipt, committed);
    }
    gather.arrived(awaited, batch.urgent, size_bytes, Instant::now());
    if staged.is_urgent() {
        gather.holds_urgent();
    }
}
