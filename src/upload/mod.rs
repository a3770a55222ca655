//! Delivery: takes frozen batches from the store and sends them until the endpoint has them.
//!
//! What to do with an answer is decided in [`decide`], how long to wait in [`backoff`], when a
//! batch that is not full may go in [`flush`], at which part of the interval in [`phase`], how fast backlog
//! goes in [`pace`], which batch lets others pass in [`step_back`], what the month still allows in [`budget`]:
//! all pure. [`transport`] holds the connection, and [`run`] and [`once`] put them together.

pub mod backoff;
pub mod budget;
pub(crate) mod connect;
pub mod decide;
mod delivery;
pub mod encode;
pub mod flush;
mod http_date;
pub(crate) mod message;
pub mod pace;
pub mod phase;
pub mod probe;
pub mod proxy;
mod report;
pub(crate) mod stamp;
pub mod step_back;
mod tcp_info;
pub mod transport;
pub(crate) mod trouble;
mod uploader;
pub mod wire;

use std::future::Future;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::config::section::Secret;
use crate::store::{BatchKey, FrozenBatch, Outcome, Pending, Want};
use crate::tls;

pub use budget::Budget;
pub use proxy::Proxy;
pub use uploader::{once, run};

/// `[cloud]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub enabled: bool,
    /// An `http://` or `https://` URL.
    pub endpoint: String,
    pub api_key: Option<Secret>,
    /// Most items in one request.
    pub batch_size: u32,
    /// Most bytes of JSON in one request, before compression.
    pub batch_bytes_max: u32,
    /// Of one request, from connecting to the last byte of the answer.
    pub timeout: Duration,
    /// How long telemetry may wait for a batch to fill. CRITICAL and ANOMALY never wait.
    pub flush_interval: Duration,
    pub compression: Compression,
    pub tls: tls::Files,
    /// First and longest wait between attempts.
    pub backoff_min: Duration,
    pub backoff_max: Duration,
    pub proxy: Proxy,
    pub budget: Budget,
}

/// What the uploader is told of where it runs.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Unique in the fleet: gives this device its turn.
    pub device_id: String,
    /// The proxies of the system.
    pub proxies: proxy::Environment,
    /// Whether the wall clock can be believed.
    pub clock_is_set: fn() -> bool,
    /// What an earlier run remembered under [`BUDGET_FACT`].
    pub budget_fact: Option<String>,
}

/// Under which the uploader remembers what the month has used.
pub const BUDGET_FACT: &str = "delivery_bytes";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    #[default]
    None,
    Gzip,
    Zstd,
}

/// What the uploader shows of itself. Written by the uploader alone.
#[derive(Debug, Default)]
pub struct Status {
    pub batches_delivered: AtomicU64,
    pub items_delivered: AtomicU64,
    /// Attempts that did not end in a delivery.
    pub attempts_failed: AtomicU64,
    /// Bytes of request bodies that were sent, retries included.
    pub body_bytes_sent: AtomicU64,
    /// Everything on the line in both directions, since start.
    pub wire_bytes: AtomicU64,
    /// Refusals that only slowed the backlog down.
    pub throttled: AtomicU64,
    pub dead_letters: AtomicU64,
    /// A lock, because these belong together and one is text; taken once per attempt.
    pub last: Mutex<Last>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Last {
    /// Unix seconds of the last delivery; 0 before the first.
    pub delivered_at: f64,
    /// Why delivery does not go on; `None` while it does. Never a secret or a payload.
    pub trouble: Option<String>,
    /// How many batches fail again and again while others are taken, and why the last of them did.
    pub stuck: Option<(usize, String)>,
    /// Batches of backlog a second that go out at most.
    pub backlog_rate: f64,
    pub budget: budget::Use,
    pub certificates: Certificates,
    /// Items delivered since midnight UTC of `day`, in days since 1970.
    pub items_today: u64,
    pub day: u64,
}

/// When the certificates of delivery expire, in Unix seconds; `None` where there is none, or where it is not
/// known yet.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Certificates {
    /// What this device shows.
    pub client: Option<f64>,
    /// The first to expire in `cloud.ca_file`.
    pub authority: Option<f64>,
    /// What the server showed at the last connection.
    pub server: Option<f64>,
}

impl Certificates {
    /// Each with its name.
    pub fn all(&self) -> [(&'static str, Option<f64>); 3] {
        [("client", self.client), ("authority", self.authority), ("server", self.server)]
    }
}

impl Status {
    /// A copy of what belongs together.
    pub fn last(&self) -> Last {
        self.lock().clone()
    }

    /// Items delivered since the UTC midnight before `unix_seconds`; 0 when the last delivery was
    /// on an earlier day.
    pub fn items_today(&self, unix_seconds: f64) -> u64 {
        let last = self.lock();
        if last.day == day_of(unix_seconds) { last.items_today } else { 0 }
    }

    fn lock(&self) -> MutexGuard<'_, Last> {
        // Nothing panics while it is held, and each field is whole by itself.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The store as the uploader sees it.
///
/// Its futures are `Send`, so that a named task can carry the uploader; an implementation may
/// write them as `async fn`.
pub trait Queue: Send + Sync {
    /// The batch to send next, or `None` while `want` allows none. Live data comes before backlog, then
    /// the lower lane before the higher, and in a lane batches that are frozen already before new ones. It is
    /// asked before each attempt, so a batch that failed is returned again until it is settled.
    fn next_batch(&self, want: Want)
    -> impl Future<Output = Result<Option<FrozenBatch>, QueueClosed>> + Send;

    /// Records how the attempt at `key` ended. Durable no later than the next batch is frozen; when
    /// it is lost before that, the same batch is sent again under the same key.
    fn settle(
        &self,
        key: &BatchKey,
        outcome: Outcome,
    ) -> impl Future<Output = Result<(), QueueClosed>> + Send;

    /// Keeps a fact for the next start; it makes no commit of its own.
    fn remember(
        &self,
        key: &'static str,
        value: String,
    ) -> impl Future<Output = Result<(), QueueClosed>> + Send;

    /// What waits for delivery; the latest value wins, and it changes after each commit that
    /// matters here. `next_batch` can see an item no later than this counts it.
    fn pending(&self) -> watch::Receiver<Pending>;
}

/// The store is gone: the agent is stopping, or it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store is closed; delivery ends")]
pub struct QueueClosed;

fn day_of(unix_seconds: f64) -> u64 {
    const DAY_SECONDS: f64 = 86_400.0;
    // Saturates: a clock before 1970 counts as its first day.
    (unix_seconds / DAY_SECONDS) as u64
}

#[cfg(test)]
fn test_settings() -> Settings {
    Settings {
        enabled: true,
        endpoint: "https://localhost/".to_owned(),
        api_key: Some(Secret::new("k-123".to_owned())),
        batch_size: 10,
        batch_bytes_max: 1024,
        timeout: Duration::from_secs(30),
        flush_interval: Duration::from_secs(30),
        compression: Compression::None,
        tls: tls::Files::default(),
        backoff_min: Duration::from_secs(1),
        backoff_max: Duration::from_secs(300),
        proxy: Proxy::None,
        budget: Budget::default(),
    }
}
