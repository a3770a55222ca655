//! The composition root: builds every part, connects them, runs, reloads and drains. The only place
//! that knows all of them.

mod delivery;
pub mod import;
mod once;
mod parts;
mod reload;
mod run;
mod sources;
mod wear;
mod witness;

use anyhow::Context;

use crate::config::{LoadOptions, Loaded};
use crate::lifecycle::blackbox::{Blackbox, Previous, What};
use crate::lifecycle::lock::StateLock;
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
    let state_dir = &loaded.config.store.state_dir;
    // Held to the very end: the last that is written is the black box.
    let _lock = StateLock::take(state_dir)?;
    let blackbox = Blackbox::default();
    let previous = blackbox.open(state_dir);
    begin(&blackbox, previous.as_ref(), &loaded, once);
    let result =
        block_on(loaded, options, once, Surroundings { log, started_at, blackbox: &blackbox, previous });
    match &result {
        Ok(()) => blackbox.record(What::Stopped, ""),
        // Its reason names devices.
        Err(_) if once => blackbox.record(What::Failed, "a device or the delivery failed"),
        Err(error) => blackbox.record(What::Failed, &witness::reason(error)),
    }
    result
}

/// What the start found out before anything runs.
struct Surroundings<'b> {
    log: logging::Handle,
    /// Boot clock.
    started_at: std::time::Duration,
    blackbox: &'b Blackbox,
    previous: Option<Previous>,
}

fn begin(blackbox: &Blackbox, previous: Option<&Previous>, loaded: &Loaded, once: bool) {
    let file = loaded.files.first().map(|file| file.display().to_string()).unwrap_or_default();
    let pass = if once { ", one pass" } else { "" };
    blackbox.record(What::Start, &format!("version {}, {file}{pass}", env!("CARGO_PKG_VERSION")));
    blackbox.record_panics();
    if let Some(previous) = previous.filter(|previous| !previous.is_clean()) {
        tracing::warn!(
            last_seen = previous.last_seen,
            reason = previous.detail,
            "the run before this one did not end on request"
        );
    }
}

fn block_on(
    loaded: Loaded,
    options: LoadOptions,
    once: bool,
    surroundings: Surroundings<'_>,
) -> anyhow::Result<()> {
    // One thread runs everything but the store; blocking look-ups (DNS, 1-Wire) get a few of their own.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_stack_size(BLOCKING_STACK_BYTES)
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(async {
        if once { once::run(loaded.config).await } else { run::run(loaded, options, surroundings).await }
    });
    // A look-up that hangs must not hold up the end.
    runtime.shutdown_background();
    result
}

/// DNS look-ups and slow sensor files; each thread costs memory.
const BLOCKING_THREADS_MAX: usize = 4;
/// Enough for the resolver.
const BLOCKING_STACK_BYTES: usize = 512 * 1024;
