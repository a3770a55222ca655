//! Logs: text or JSON on standard error; under systemd entries for journald with priority and fields.
//!
//! Level and format change while the agent runs. At `trace` the libraries speak too, and what they
//! say may quote requests; at every other level only their warnings and errors pass.

mod format;
mod journal;
mod pace;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};

use tracing::level_filters::LevelFilter;
use tracing::{Dispatch, Metadata, Subscriber};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;

use self::journal::Journal;
use self::pace::Paces;
use crate::lifecycle::supervisor::panic_message;

/// `[logging]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    pub level: Level,
    pub format: Format,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Level {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// Changes what is logged and how, from now on.
#[derive(Clone, Debug)]
pub struct Handle(Arc<Shared>);

impl Handle {
    /// Takes effect with the next line.
    pub fn reload(&self, settings: Settings) {
        self.0.set(settings);
        // Which call sites are silent is cached by tracing.
        tracing::callsite::rebuild_interest_cache();
    }
}

/// The process has a log already.
#[derive(Debug, thiserror::Error)]
#[error("the log is set up a second time in one process; it is set up once, at start")]
pub struct AlreadySet;

/// Sends the log to standard error, and panics to the log.
///
/// # Errors
///
/// [`AlreadySet`]: a mistake in this program.
pub fn init(settings: Settings) -> Result<Handle, AlreadySet> {
    let output = Output::of_stderr();
    let journal = (output.to == To::JournalByLine).then(Journal::connect).and_then(Result::ok);
    let set = |dispatch: Dispatch| tracing::dispatcher::set_global_default(dispatch).map_err(|_| AlreadySet);
    let handle = match journal {
        Some(journal) => {
            let (subscriber, handle) = subscriber(settings, output.natively(), move || journal.clone());
            set(subscriber.into()).map(|()| handle)
        }
        None => {
            let (subscriber, handle) = subscriber(settings, output, io::stderr);
            set(subscriber.into()).map(|()| handle)
        }
    }?;
    std::panic::set_hook(Box::new(|panic| {
        let message = panic_message(panic.payload());
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(message_of_panic = message, place, "a task panicked");
    }));
    Ok(handle)
}

/// Who reads the log, as far as it decides how a line looks.
#[derive(Clone, Debug, Default)]
struct Output {
    to: To,
    colour: bool,
    /// What journald calls us.
    identifier: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum To {
    #[default]
    Elsewhere,
    /// journald, by standard error: it wants `<priority>` in front, and stamps lines itself.
    JournalByLine,
    /// journald, by its own protocol.
    Journal,
}

impl Output {
    fn of_stderr() -> Self {
        let stream = std::env::var("JOURNAL_STREAM").ok();
        let journal = rustix::fs::fstat(io::stderr())
            .is_ok_and(|stat| is_journal(stream.as_deref(), stat.st_dev, stat.st_ino));
        // https://no-color.org: present and not empty.
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let to = if journal { To::JournalByLine } else { To::Elsewhere };
        let colour = !journal && !plain && io::stderr().is_terminal();
        Self { to, colour, identifier: String::new() }
    }

    /// The same, by the protocol of journald.
    fn natively(self) -> Self {
        // Where it cannot be read, journald still knows the unit.
        let cgroup = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        Self { to: To::Journal, identifier: journal::identifier(&cgroup), ..self }
    }
}

/// Whether `JOURNAL_STREAM` (`device:inode`, systemd.exec(5)) names the file that we write to; it
/// may be inherited by a process whose stderr goes elsewhere.
fn is_journal(stream: Option<&str>, device: u64, inode: u64) -> bool {
    let parts = stream.and_then(|stream| stream.split_once(':'));
    parts.is_some_and(|(dev, ino)| dev.parse() == Ok(device) && ino.parse() == Ok(inode))
}

fn subscriber<W>(settings: Settings, output: Output, writer: W) -> (impl Subscriber + Send + Sync, Handle)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let shared = Arc::new(Shared::new(settings));
    let lines = tracing_subscriber::fmt::layer()
        .fmt_fields(format::Fields)
        .event_format(format::Lines { shared: shared.clone(), output })
        .with_writer(writer)
        // It would report a failed write with eprintln!, which panics when stderr is gone.
        .log_internal_errors(false);
    (Registry::default().with(lines).with(Levels(shared.clone())), Handle(shared))
}

/// The settings in force. Atomics, because every thread that logs reads them.
#[derive(Debug)]
struct Shared {
    level: AtomicU8,
    json: AtomicBool,
    paces: Paces,
}

impl Shared {
    fn new(settings: Settings) -> Self {
        let shared = Self { level: AtomicU8::new(0), json: AtomicBool::new(false), paces: Paces::default() };
        shared.set(settings);
        shared
    }

    fn set(&self, settings: Settings) {
        self.level.store(settings.level as u8, Relaxed);
        self.json.store(settings.format == Format::Json, Relaxed);
    }

    fn level(&self) -> LevelFilter {
        match self.level.load(Relaxed) {
            0 => LevelFilter::ERROR,
            1 => LevelFilter::WARN,
            2 => LevelFilter::INFO,
            3 => LevelFilter::DEBUG,
            _ => LevelFilter::TRACE,
        }
    }
}

/// Lets through what the level allows; of other crates only warnings, unless everything is wanted.
#[derive(Debug)]
struct Levels(Arc<Shared>);

impl<S: Subscriber> Layer<S> for Levels {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        let level = self.0.level();
        let own = OWN_TARGETS.iter().any(|own| metadata.target().starts_with(own));
        let level = if own || level == LevelFilter::TRACE { level } else { level.min(LevelFilter::WARN) };
        *metadata.level() <= level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.0.level())
    }
}

/// Library and binary.
const OWN_TARGETS: [&str; 2] = ["pyvorin_edge", "pyv_edge_agent"];

#[cfg(test)]
mod tests;
