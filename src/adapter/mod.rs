//! Sources of readings: one file per `ingest_type`, one word in the list below.
//!
//! An adapter turns its configuration into [`Source`]s and runs each until it is told to stop. What
//! restarts it, what counts its readings and what makes it wait when the store is slow is [`Intake`].

pub mod json;
pub mod lines;
#[cfg(test)]
pub mod test_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::section::{Problems, Section, nearest};
use crate::lifecycle::memory::{Memory, Share};
use crate::reading::{BATCH_MEMORY_BYTES, Batch};

macro_rules! adapters {
    ($($kind:ident => $variant:ident,)*) => {
        $(pub mod $kind;)*

        /// Every `ingest_type`.
        pub const KINDS: &[&str] = &[$(stringify!($kind)),*];

        /// A configured source of readings.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Source {
            $($variant($kind::Source),)*
        }

        impl Source {
            /// The `ingest_type`.
            pub fn kind(&self) -> &'static str {
                match self { $(Self::$variant(_) => stringify!($kind),)* }
            }

            /// Unique among the sources of one configuration, and stable across reloads.
            pub fn name(&self) -> String {
                match self { $(Self::$variant(source) => source.name(),)* }
            }

            /// Whether `--once` runs it: it then reads every device once and returns.
            pub fn runs_once(&self) -> bool {
                match self { $(Self::$variant(_) => $kind::RUNS_ONCE,)* }
            }

            /// Feeds `intake` until it stops or the source ends or fails.
            ///
            /// # Errors
            ///
            /// The source cannot go on; the supervisor restarts it with backoff.
            pub async fn run(&self, intake: &Intake) -> Result<(), Error> {
                match self { $(Self::$variant(source) => source.run(intake).await,)* }
            }
        }

        /// Reads `sensors.devices` and the `[ingest.<type>]` tables they share.
        pub fn read_sources(ingest: &mut Section<'_>, devices: Vec<Section<'_>>, problems: &Problems) -> Vec<Source> {
            let mut sources = Vec::new();
            let mut devices = Device::read_all(devices, problems);
            $({
                let mut shared = ingest.section(stringify!($kind));
                let of_kind: Vec<_> = devices.extract_if(.., |device| device.ingest_type == stringify!($kind)).collect();
                sources.extend($kind::Source::read(&mut shared, of_kind).into_iter().map(Source::$variant));
            })*
            sources
        }
    };
}

adapters! {
    simulator => Simulator,
    mqtt => Mqtt,
    http => Http,
    file_replay => FileReplay,
    system => System,
    exec => Exec,
}

/// One entry of `sensors.devices`: the keys that all adapters share, and the rest still to be read.
pub struct Device<'a> {
    pub name: String,
    pub ingest_type: String,
    pub sensor_type: String,
    pub unit: String,
    pub section: Section<'a>,
}

impl<'a> Device<'a> {
    fn read_all(sections: Vec<Section<'a>>, _problems: &Problems) -> Vec<Self> {
        let mut devices: Vec<Self> = Vec::with_capacity(sections.len());
        for mut section in sections {
            let name = section.required_string("name", "the sensor's name");
            let ingest_type = section.required_string("ingest_type", &KINDS.join(", "));
            let sensor_type = section.string("sensor_type").unwrap_or_default();
            let unit = section.string("unit").unwrap_or_default();
            if !ingest_type.is_empty() && !KINDS.contains(&ingest_type.as_str()) {
                let hint = nearest(&ingest_type, KINDS.iter().copied());
                section.refuse(
                    "ingest_type",
                    format_args!("'{ingest_type}' is not known{hint}; give {}", KINDS.join(", ")),
                );
                // Its other keys cannot be judged.
                section.ignore_rest();
                continue;
            }
            if !name.is_empty() && devices.iter().any(|other| other.name == name) {
                section
                    .refuse("name", format_args!("'{name}' is taken by an earlier device; names are unique"));
            }
            devices.push(Self { name, ingest_type, sensor_type, unit, section });
        }
        devices
    }
}

/// Why a source cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pipeline is gone: the agent is stopping, or it failed.
    #[error("the pipeline is closed")]
    Closed,
    /// A device, broker, file or child process failed.
    #[error("{0}")]
    Failed(String),
}

/// How far a source has come; the numbers are what `/metrics` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    Starting = 0,
    Connected = 1,
    /// It lost its device or broker and tries again by itself.
    Reconnecting = 2,
    /// It failed and the supervisor waits before it starts it again.
    Failed = 3,
    /// It came to its end, as a replayed file does.
    Finished = 4,
}

/// What a source shows of itself to the health page.
#[derive(Debug)]
pub struct Status {
    pub name: String,
    pub kind: &'static str,
    state: AtomicU8,
    /// Readings handed to the pipeline since start.
    pub readings: AtomicU64,
    /// Starts after the first.
    pub restarts: AtomicU64,
    /// A lock, because a message is not one word; taken only when the state changes or is shown.
    last_error: Mutex<Option<String>>,
}

impl Status {
    pub fn new(name: String, kind: &'static str) -> Self {
        Self {
            name,
            kind,
            state: AtomicU8::new(State::Starting as u8),
            readings: AtomicU64::new(0),
            restarts: AtomicU64::new(0),
            last_error: Mutex::new(None),
        }
    }

    pub fn state(&self) -> State {
        match self.state.load(Relaxed) {
            0 => State::Starting,
            1 => State::Connected,
            2 => State::Reconnecting,
            3 => State::Failed,
            _ => State::Finished,
        }
    }

    pub fn set(&self, state: State) {
        self.state.store(state as u8, Relaxed);
    }

    pub fn last_error(&self) -> Option<String> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_error(&self, message: String) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
    }
}

/// Where a source puts its readings, and what it needs to know of the house.
pub struct Intake {
    /// Bounded: when it is full the source waits, and so does the device behind it.
    pub batches: mpsc::Sender<Batch>,
    /// Bounds the bytes of all batches from here to their commit, without room for which the source waits too, and
    /// those of all HTTP bodies.
    pub memory: Memory,
    /// Cancelled when the source is to stop taking in.
    pub stop: CancellationToken,
    pub status: Arc<Status>,
    /// Between two readings of a polled device.
    pub poll_interval: Duration,
    /// Read every device once, then return.
    pub once: bool,
    /// Stable for this device, for client ids.
    pub device_id: String,
    pub messages: Messages,
}

/// How a source knows messages again, see [`Batch::messages`]: at first what the store has of them, later what the
/// source left when it ended, for the one that follows.
#[derive(Clone, Debug, Default)]
pub struct Messages {
    /// A lock, because sources are tasks; taken when one starts and when it ends.
    lists: Arc<Mutex<Vec<u8>>>,
}

impl Messages {
    pub fn new(lists: &[u8]) -> Self {
        Self { lists: Arc::new(Mutex::new(lists.to_vec())) }
    }

    /// What is there; nothing stays.
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.lists.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn put(&self, lists: Vec<u8>) {
        *self.lists.lock().unwrap_or_else(PoisonError::into_inner) = lists;
    }
}

impl Intake {
    /// Hands a batch on; waits while the pipeline is full. An empty batch goes nowhere.
    ///
    /// Cancel-safe, but a cancelled call loses the batch: do not acknowledge it.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] when the pipeline is gone: end.
    pub async fn send(&self, batch: Batch) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        self.count(&batch);
        self.place().await?.put(batch);
        Ok(())
    }

    /// Waits for a place for one batch. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] when the pipeline is gone: end.
    pub async fn place(&self) -> Result<Place<'_>, Error> {
        let permit = self.batches.reserve().await.map_err(|_| Error::Closed)?;
        Ok(Place { permit, share: self.memory.flight.take(BATCH_MEMORY_BYTES).await })
    }

    /// Counts a batch that is about to be handed on.
    pub fn count(&self, batch: &Batch) {
        self.status.readings.fetch_add(batch.readings().len() as u64, Relaxed);
    }

    /// The same intake for another part of its source.
    pub fn share(&self) -> Self {
        Self {
            batches: self.batches.clone(),
            memory: self.memory.clone(),
            stop: self.stop.clone(),
            status: self.status.clone(),
            poll_interval: self.poll_interval,
            once: self.once,
            device_id: self.device_id.clone(),
            messages: self.messages.clone(),
        }
    }

    /// Waits for `duration`; false when the source is to stop instead.
    pub async fn pause(&self, duration: Duration) -> bool {
        tokio::select! {
            () = self.stop.cancelled() => false,
            () = tokio::time::sleep(duration) => true,
        }
    }
}

/// Room for one batch on its way to the pipeline.
pub struct Place<'i> {
    permit: mpsc::Permit<'i, Batch>,
    share: Share,
}

impl Place<'_> {
    /// Hands the batch on.
    pub fn put(self, mut batch: Batch) {
        let Self { permit, mut share } = self;
        share.fit(batch.memory_bytes());
        batch.share = Some(share);
        permit.send(batch);
    }
}
