//! The composition root: builds every part, connects them, runs, reloads and drains. The only place
//! that knows all of them.

mod assemble;
mod delivery;
mod front;
pub mod import;
mod once;
mod opening;
mod parts;
mod place;
mod reload;
mod run;
mod salvaged;
mod sources;
mod startup;
mod stop;
mod waiting;
mod wear;
mod witness;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;

pub use self::opening::privacy_key;
use self::place::Place;
use crate::config::{LoadOptions, Loaded};
use crate::lifecycle::blackbox::What;
use crate::{clock, logging};

/// Runs the agent until it is told to stop, or makes one pass with `once`.
///
/// # Errors
///
/// The agent cannot start, or a part it cannot be without failed.
pub fn start(loaded: Loaded, options: LoadOptions, once: bool) -> anyhow::Result<()> {
    let started_at = clock::since_boot();
    let log = logging::init(loaded.config.logging)?;
    for note in &loaded.notes {
        tracing::warn!(note, "a remark on the configuration");
    }
    // Held to the very end.
    let place = Arc::new(Place::new(&loaded, once));
    place.memory.tell();
    let blackbox = &place.blackbox;
    blackbox.record_panics();
    let result = block_on(loaded, options, once, Surroundings { log, started_at, place: place.clone() });
    match &result {
        Ok(()) => blackbox.record(What::Stopped, ""),
        // Its reason names devices.
        Err(_) if once => blackbox.record(What::Failed, "a device or the delivery failed"),
        Err(error) => blackbox.record(What::Failed, &witness::reason(error)),
    }
    result
}

/// What a start brings along.
struct Surroundings {
    log: logging::Handle,
    /// Boot clock.
    started_at: Duration,
    place: Arc<Place>,
}

fn block_on(
    loaded: Loaded,
    options: LoadOptions,
    once: bool,
    surroundings: Surroundings,
) -> anyhow::Result<()> {
    // One thread runs everything but the store; blocking look-ups (DNS, 1-Wire) get a few of their own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_stack_size(BLOCKING_STACK_BYTES)
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(async {
        if once {
            once::run(loaded.config, &surroundings.place).await
        } else {
            run::run(loaded, options, surroundings).await
        }
    });
    // A look-up that hangs must not hold up the end.
    runtime.shutdown_background();
    result
}

/// DNS look-ups and slow sensor files; each thread costs memory.
const BLOCKING_THREADS_MAX: usize = 4;
/// Enough for the resolver.
const BLOCKING_STACK_BYTES: usize = 512 * 1024;
