//! Actions: what an event starts besides being stored and delivered: a message to a broker, a request to a webhook,
//! or a program.
//!
//! The pipeline hands an event over at a [`Door`], which never waits; the store opens it once the event is
//! committed. Behind it each action has a queue and a task of its own, so that one that hangs holds up no other.

pub mod command;
pub mod door;
mod mqtt;
mod runner;
mod set;
pub mod settings;
mod webhook;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use tokio::sync::OwnedSemaphorePermit;

pub use door::{Door, Doors, Occasion};
pub use set::{Actions, Surroundings};
pub use settings::{Kind, Settings};
pub use webhook::header;

/// An event on its way to one action.
#[derive(Debug)]
pub struct Due {
    /// The event as JSON, as it may leave the device.
    event: Vec<u8>,
    /// The name of its sensor, as it may leave the device; empty where nothing of that may.
    sensor: String,
    rule: String,
    /// Of the memory for all that waits.
    _room: OwnedSemaphorePermit,
}

/// Why an attempt did not succeed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    TimedOut,
    /// In words without a secret or anything of the event, and whether another attempt may help.
    Failed {
        reason: String,
        is_passing: bool,
    },
}

impl Failure {
    /// One that another attempt may get past.
    fn passing(reason: impl Into<String>) -> Self {
        Self::Failed { reason: reason.into(), is_passing: true }
    }

    fn lasting(reason: impl Into<String>) -> Self {
        Self::Failed { reason: reason.into(), is_passing: false }
    }
}

/// What an action has done since the agent started; a reload does not reset it.
#[derive(Debug, Default)]
pub struct Status {
    pub name: String,
    pub kind: &'static str,
    /// Events it began with; each of them ends as one of the following three.
    pub started: AtomicU64,
    pub succeeded: AtomicU64,
    pub failed: AtomicU64,
    pub timed_out: AtomicU64,
    /// Events it never began with: its queue was full, or the agent stopped.
    pub dropped: AtomicU64,
    /// Events of which nothing may leave the device.
    pub withheld: AtomicU64,
    /// Events that wait, now.
    pub waiting: AtomicU64,
    /// Its queue was full, and has not been empty since; that was logged.
    is_full: AtomicBool,
    /// A lock, because it is text; taken once per event.
    trouble: Mutex<Option<String>>,
}

impl Status {
    /// Why the last event failed; `None` when it did not. Never a secret or anything of an event.
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_trouble(&self, trouble: Option<String>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Every counter with its name, in the order of an event's life.
    pub fn counts(&self) -> [(&'static str, u64); 6] {
        [
            ("started", &self.started),
            ("succeeded", &self.succeeded),
            ("failed", &self.failed),
            ("timed_out", &self.timed_out),
            ("dropped", &self.dropped),
            ("withheld", &self.withheld),
        ]
        .map(|(name, count)| (name, count.load(Relaxed)))
    }
}
