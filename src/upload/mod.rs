//! Delivery: takes frozen batches from the store and sends them until the endpoint has them.

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crate::config::section::Secret;

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
    /// Trusted instead of the system's roots: PEM.
    pub ca_file: Option<PathBuf>,
    /// Client certificate chain and key: PEM, both or neither.
    pub client_certificate_file: Option<PathBuf>,
    pub client_key_file: Option<PathBuf>,
    /// First and longest wait between attempts.
    pub backoff_min: Duration,
    pub backoff_max: Duration,
}

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
    /// Items delivered since midnight UTC of `day`, in days since 1970.
    pub items_today: u64,
    pub day: u64,
}
