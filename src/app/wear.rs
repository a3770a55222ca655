//! Keeps the account of flash wear: looks now and then, has the store remember it, and logs each day.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::health::wear::{REMEMBERED_AS, Wear};
use crate::store::Store;

/// Also how long it takes until commits follow the budget.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// So many looks from one time the store is told to the next: its page is written each time.
const LOOKS_PER_REMEMBER: u32 = 30;

/// Runs until `stop`. A killed agent forgets what it wrote in the last five minutes.
pub async fn run(wear: Arc<Wear>, store: Store, stop: CancellationToken) {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for look in 1_u32.. {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = looks.tick() => {}
        }
        let account = wear.look(clock::unix_seconds(), clock::since_boot());
        if let Some((day, written)) = wear.take_ended() {
            tracing::info!(
                day,
                bytes = written.bytes,
                hours = written.seconds / 3600.0,
                amplification = written.amplification(),
                gb_per_year = account.bytes_per_year().map(|bytes| bytes / 1e9),
                "what was written to flash in a day"
            );
        }
        if look % LOOKS_PER_REMEMBER == 0 && store.remember(REMEMBERED_AS, wear.to_remember()).await.is_err()
        {
            return;
        }
    }
    wear.look(clock::unix_seconds(), clock::since_boot());
    // A store that failed remembers nothing; the agent is ending with it.
    store.remember(REMEMBERED_AS, wear.to_remember()).await.ok();
}
