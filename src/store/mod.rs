//! The store: readings, events and the delivery queue in one SQLite file that one thread owns.
//!
//! Items are stored as they will be sent: JSON lines, compressed in blocks, one block per lane and
//! commit. Every item of a lane has a sequence number that is never used again. What is to be
//! delivered is a set of ranges of those numbers, and a batch is such a range, written down
//! ("frozen") before its first attempt, so that a retry sends the same bytes under the same id.

pub mod alive;
pub(crate) mod block;
mod boot;
mod budget;
pub mod check;
pub(crate) mod columns;
pub mod consent;
mod counters;
pub mod export;
pub mod follow;
mod gap;
pub mod history;
mod imported;
mod infer;
pub mod inspect;
mod measure;
mod messages;
mod names;
mod open;
mod provisional;
pub mod purge;
mod quarantine;
mod queue;
pub mod recent;
mod refused;
pub mod repair;
mod retention;
pub mod salvage;
pub(crate) mod schema;
mod staged;
pub mod stats;
mod thin;
pub mod trail;
mod trouble;
mod verify;
mod worker;

#[cfg(test)]
mod gap_tests;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod trail_tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use crate::reading::Priority;

pub use block::lines as block_lines;
pub use budget::{Budget, Room as DiskRoom, Ttl};
pub use counters::{Counters, UnixTime};
pub use gap::Reason as GapReason;
pub use imported::Digest;
pub use staged::Staged;
pub use trouble::Trouble;
pub use worker::{GAP_RULE, Hold, open, open_watched, open_with};

/// The file inside the state directory.
pub const DATABASE_FILE: &str = "edge_store.db";

/// `[store]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// The folder of [`DATABASE_FILE`].
    pub state_dir: PathBuf,
    /// Most bytes of the database and its write-ahead log on the disk.
    pub size_bytes_max: u64,
    /// Most bytes that damaged databases may keep; the oldest goes first.
    pub quarantine_bytes_max: u64,
    /// The longest an accepted reading waits for its commit.
    pub commit_interval: Duration,
    pub budget: Budget,
    pub ttl: Ttl,
}

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
    /// Telemetry that was thinned to minutes, because the store was short of room.
    Minute = 6,
    /// Telemetry that was thinned to quarter hours.
    Quarter = 7,
}

impl Lane {
    pub const ALL: [Self; 7] = [
        Self::Critical,
        Self::Anomaly,
        Self::Telemetry,
        Self::Logs,
        Self::Local,
        Self::Minute,
        Self::Quarter,
    ];
    /// Those that are delivered, most urgent first.
    pub const DELIVERED: [Self; 6] =
        [Self::Critical, Self::Anomaly, Self::Telemetry, Self::Minute, Self::Quarter, Self::Logs];
    /// Those that are delivered, in the order in which they give up what was not delivered.
    const GIVING: [Self; 6] =
        [Self::Logs, Self::Quarter, Self::Minute, Self::Telemetry, Self::Anomaly, Self::Critical];

    /// From 0, for tables indexed by lane.
    pub fn index(self) -> usize {
        self as usize - 1
    }

    /// Index into what is kept by priority, in the order of [`Priority::ALL`]; thinned telemetry is telemetry.
    pub fn priority_index(self) -> usize {
        match self {
            Self::Critical => 0,
            Self::Anomaly => 1,
            Self::Telemetry | Self::Minute | Self::Quarter | Self::Local => 2,
            Self::Logs => 3,
        }
    }

    /// Whether its items are sent at once instead of waiting for a batch to fill.
    pub fn is_urgent(self) -> bool {
        matches!(self, Self::Critical | Self::Anomaly)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Critical => "CRITICAL",
            Self::Anomaly => "ANOMALY",
            Self::Telemetry => "TELEMETRY",
            Self::Logs => "LOGS",
            Self::Local => "LOCAL",
            Self::Minute => "MINUTE",
            Self::Quarter => "QUARTER",
        }
    }

    /// The table of its blocks.
    fn table(self) -> &'static str {
        block::TABLES[self.index()]
    }

    fn from_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| *lane as i64 == number)
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

/// A range of one lane that is sent as one request, for ever under one id. Both ends are included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    /// It was backlog when it was frozen: live data goes first.
    pub backlog: bool,
}

/// What the uploader asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Want {
    pub items_max: u32,
    pub bytes_max: u32,
    /// Take what is there, even when it does not fill a batch.
    pub partial: bool,
    /// Live data alone: the turn of backlog has not come.
    pub live_only: bool,
    /// Lanes that stay here, in the order of [`Priority::ALL`].
    pub held: [bool; 4],
    /// Frozen batches that step back behind all others: as if they were not there.
    pub avoid: [Option<BatchKey>; AVOID_MAX],
}

/// Batches that can step back at a time.
pub const AVOID_MAX: usize = 16;

impl Want {
    /// Anything that is there, of every lane.
    pub const fn new(items_max: u32, bytes_max: u32, partial: bool) -> Self {
        Self { items_max, bytes_max, partial, live_only: false, held: [false; 4], avoid: [None; AVOID_MAX] }
    }
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

/// How the agent's clock stands, for the items behind those that come with it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClockNews {
    /// What is stamped from here on is right.
    pub is_synchronised: bool,
    /// Unix seconds minus boot clock, as stamps are given.
    pub offset: f64,
    /// Boot clock: until then provisional items wait for a synchronisation before they are delivered.
    pub wait_until: Duration,
}

/// What waits for delivery.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// Undelivered items by priority, in the order of [`Priority::ALL`].
    pub items: [u64; 4],
}

impl Pending {
    pub fn total(&self) -> u64 {
        self.items.iter().sum()
    }

    /// Whether something waits that is sent at once.
    pub fn is_urgent(&self) -> bool {
        self.items[0] + self.items[1] > 0
    }

    /// Without the lanes that are held.
    pub fn without(&self, held: [bool; 4]) -> Self {
        Self { items: std::array::from_fn(|lane| if held[lane] { 0 } else { self.items[lane] }) }
    }
}

/// The store does not answer any more: it failed or was closed.
#[derive(Debug, thiserror::Error)]
#[error("the store is closed")]
pub struct Closed;

/// Why the store cannot be opened or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "the bundled SQLite is {found}; {needed} or later is needed because older ones can corrupt a WAL database"
    )]
    OldSqlite { found: String, needed: &'static str },
    #[error("{path} has schema version {found}, this agent knows up to {known}; install the newer agent again or move the file away", path = path.display())]
    NewerSchema { path: PathBuf, found: i64, known: i64 },
    #[error("{path} is the database of another program; move it away, and this agent makes its own", path = path.display())]
    Foreign { path: PathBuf },
    #[error("{what} {path}", path = path.display())]
    Io { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{what}")]
    Sqlite { what: &'static str, source: rusqlite::Error },
    #[error("{what} is damaged: {detail}")]
    Damaged { what: &'static str, detail: String },
    /// While the agent ran on it.
    #[error("the database of store {store_id} is gone: {detail}")]
    Gone { store_id: String, detail: &'static str },
}

/// A record to be, for the privacy audit chain.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditEntry {
    pub action: String,
    pub details: serde_json::Value,
    /// Unix seconds.
    pub timestamp: f64,
}

/// What the store thread is asked to do. It answers after the commit that makes the answer true.
#[derive(Debug)]
enum Command {
    Append(Box<Staged>),
    NextBatch(Box<Want>, oneshot::Sender<Option<FrozenBatch>>),
    Settle(BatchKey, Outcome),
    Audit(AuditEntry),
    Remember(&'static str, String),
    Imported(Vec<Digest>, oneshot::Sender<Vec<bool>>),
    Ping(oneshot::Sender<()>),
    Hold(Hold),
    Shed,
}

/// Room for one [`Store::append`].
#[derive(Debug)]
pub struct Slot<'s>(mpsc::Permit<'s, Command>);

impl Slot<'_> {
    /// Hands over what is to be committed; the receipts inside are told after the commit.
    pub fn append(self, staged: Staged) {
        self.0.send(Command::Append(Box::new(staged)));
    }
}

/// The way to the store thread. When its queue is full, callers wait: that is the back-pressure
/// that reaches the devices.
#[derive(Clone, Debug)]
pub struct Store {
    commands: mpsc::Sender<Command>,
    pending: watch::Receiver<Pending>,
    counters: Arc<Counters>,
    /// Random, made with the database: the start of every batch id.
    id: Arc<str>,
    /// Of this boot.
    clock_offset: Option<f64>,
    /// What was remembered before this start.
    recalled: Arc<BTreeMap<String, String>>,
    /// Of the newest commits before this start.
    messages: Arc<[u8]>,
    /// Whether gaps are reported.
    reports: Arc<AtomicBool>,
}

impl Store {
    /// Unique to this database, stable for its life.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// What waits for delivery, as of the last commit.
    pub fn pending(&self) -> watch::Receiver<Pending> {
        self.pending.clone()
    }

    /// Hands over what is to be committed; the receipts inside are told after the commit. Waits
    /// while the queue of commands is full.
    ///
    /// # Errors
    ///
    /// [`Closed`]: nothing was stored, the receipts are dropped.
    pub async fn append(&self, staged: Staged) -> Result<(), Closed> {
        self.send(Command::Append(Box::new(staged))).await
    }

    /// Waits for room in the queue of commands, so that what is appended can still grow meanwhile.
    ///
    /// # Errors
    ///
    /// [`Closed`].
    pub async fn reserve(&self) -> Result<Slot<'_>, Closed> {
        self.commands.reserve().await.map(Slot).map_err(|_| Closed)
    }

    /// The batch to send next: live data before backlog, and of each the most urgent lane first; in a lane
    /// one that was frozen before, else a new one. A new one is durable when this returns.
    ///
    /// # Errors
    ///
    /// [`Closed`]: the agent is stopping.
    pub async fn next_batch(&self, want: Want) -> Result<Option<FrozenBatch>, Closed> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::NextBatch(Box::new(want), reply)).await?;
        answer.await.map_err(|_| Closed)
    }

    /// Records how an attempt ended. Durable no later than the next answer of [`Self::next_batch`];
    /// lost before that, the batch is sent again under the same id.
    ///
    /// # Errors
    ///
    /// [`Closed`]: the agent is stopping.
    pub async fn settle(&self, key: BatchKey, outcome: Outcome) -> Result<(), Closed> {
        self.send(Command::Settle(key, outcome)).await
    }

    /// Appends to the privacy audit chain.
    ///
    /// # Errors
    ///
    /// [`Closed`]: the agent is stopping.
    pub async fn audit(&self, entry: AuditEntry) -> Result<(), Closed> {
        self.send(Command::Audit(entry)).await
    }

    /// Keeps a small fact under `key` in place of the one before. It makes no commit of its own: durable
    /// with the next one, at the latest when the store is closed.
    ///
    /// # Errors
    ///
    /// [`Closed`]: the agent is stopping.
    pub async fn remember(&self, key: &'static str, value: String) -> Result<(), Closed> {
        self.send(Command::Remember(key, value)).await
    }

    /// Unix seconds minus boot clock, when this boot was synchronised before the store was opened.
    pub fn clock_offset(&self) -> Option<f64> {
        self.clock_offset
    }

    /// What was remembered under `key` when the store was opened.
    pub fn recalled(&self, key: &str) -> Option<&str> {
        self.recalled.get(key).map(String::as_str)
    }

    /// How sources know the messages again that the newest items came in, as of the opening: what came with
    /// their batches, the oldest first; see [`Batch::messages`](crate::reading::Batch::messages).
    pub fn messages(&self) -> &[u8] {
        &self.messages
    }

    /// Which rows of another program's queue were taken over before.
    ///
    /// # Errors
    ///
    /// [`Closed`]: the store failed or was closed.
    pub async fn imported(&self, digests: Vec<Digest>) -> Result<Vec<bool>, Closed> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Imported(digests, reply)).await?;
        answer.await.map_err(|_| Closed)
    }

    /// Whether the cloud is told of gaps, from now on: only where anything is delivered. Off until it is
    /// switched on; the ledger is kept either way.
    pub fn report_gaps(&self, on: bool) {
        self.reports.store(on, Relaxed);
        // Wakes the thread, which then looks at what an earlier process left; a full channel does that too.
        let (reply, _) = oneshot::channel();
        self.commands.try_send(Command::Ping(reply)).ok();
    }

    /// Returns once the store thread has worked off everything that was queued before.
    ///
    /// # Errors
    ///
    /// [`Closed`]: the store failed or was closed.
    pub async fn ping(&self) -> Result<(), Closed> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Ping(reply)).await?;
        answer.await.map_err(|_| Closed)
    }

    /// Has the thread hold no more than this from here on.
    ///
    /// # Errors
    ///
    /// [`Closed`]: the store failed or was closed.
    pub async fn hold(&self, hold: Hold) -> Result<(), Closed> {
        self.send(Command::Hold(hold)).await
    }

    /// Asks the thread to drop what it caches. It does so with its next work; a thread that is behind is not asked.
    pub fn shed(&self) {
        // It is asked again as long as memory is short.
        self.commands.try_send(Command::Shed).ok();
    }

    async fn send(&self, command: Command) -> Result<(), Closed> {
        self.commands.send(command).await.map_err(|_| Closed)
    }
}
