//! The store: readings, events and the delivery queue in one SQLite file that one thread owns.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::reading::{Committed, Priority, Receipt};

/// Where an item goes: one lane per priority, and one that is never delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Lane {
    Critical = 1,
    Anomaly = 2,
    Telemetry = 3,
    Logs = 4,
    /// Stays on the device.
    Local = 5,
}

impl Lane {
    pub const ALL: [Self; 5] = [Self::Critical, Self::Anomaly, Self::Telemetry, Self::Logs, Self::Local];

    pub fn index(self) -> usize {
        self as usize - 1
    }
}

impl From<Priority> for Lane {
    fn from(priority: Priority) -> Self {
        match priority {
            Priority::Critical => Self::Critical,
            Priority::Anomaly => Self::Anomaly,
            Priority::Telemetry => Self::Telemetry,
            Priority::Logs => Self::Logs,
        }
    }
}

/// `[store]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The folder of `edge_store.db`.
    pub state_dir: PathBuf,
    /// Most bytes the database may use; the oldest goes first when it is reached.
    pub size_bytes_max: u64,
    /// The longest an accepted reading waits for its commit.
    pub commit_interval: Duration,
}

/// A range of one lane that is sent as one request, for ever under one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchKey {
    pub lane: Lane,
    pub first: u64,
    pub last: u64,
}

impl BatchKey {
    pub fn count(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// A frozen batch, as the uploader gets it.
#[derive(Clone, Debug, PartialEq)]
pub struct FrozenBatch {
    pub key: BatchKey,
    /// The same on every attempt and after every restart.
    pub batch_id: String,
    /// Unix seconds when it was frozen; part of the body, so it never changes either.
    pub timestamp: f64,
    /// The items as JSON, separated by commas.
    pub items: Vec<u8>,
}

/// What the store is asked for next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Want {
    pub items_max: u32,
    pub bytes_max: u32,
    /// Take what is there, even when it does not fill a batch.
    pub partial: bool,
}

/// How an attempt ended, for the batch it was about.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Delivered,
    /// Freeze its two halves instead, and never the whole again.
    Split,
    /// Set it aside with the reason; it is not retried.
    DeadLetter {
        reason: String,
    },
}
