//! The Pyvorin edge agent: takes in sensor readings, evaluates windows and rules, applies a privacy
//! firewall, stores durably in SQLite and delivers over HTTPS.
//!
//! The library is what the binary `pyv-edge-agent` is made of; it is split off so that tests can drive
//! the real parts. It promises no stable interface to other programs.
//!
//! # The rooms
//!
//! Data moves one way: [`adapter`] → [`pipeline`] → [`store`] → [`upload`]. Stages do not import each
//! other sideways; they meet in [`app`], and nobody but `app` sees [`config`] as a whole.
//!
//! | room | what it does |
//! |---|---|
//! | [`adapter`] | sources of readings, one file per `ingest_type` |
//! | [`pipeline`] | limits, privacy, [rules](pipeline::rule), [windows](pipeline::window), what to commit when |
//! | [`pipeline::expr`] | the Python expressions of rules |
//! | [`action`] | what an event starts besides: a program, a webhook, a message to a broker |
//! | [`privacy`] | what leaves the device, what stays on it, what is never kept; the audit chain |
//! | [`store`] | the thread that owns SQLite; frozen ranges; retention |
//! | [`upload`] | delivery: decisions, backoff, transport |
//! | [`health`] | `/health`, `/livez`, `/readyz`, `/metrics` |
//! | [`lifecycle`] | signals, systemd, supervision, restarts, the watchdog, memory, the lock, the black box |
//! | [`config`] | files into values that are all usable, or every problem at once |
//! | [`app`] | builds, connects, runs, reloads and drains all of them |
//! | [`doctor`] | looks at the device and the service around the agent, and says what mends them |
//! | [`support`] | the support bundle, and what is taken out of it |
//! | [`cli`] | the command line and its exit codes |
//! | [`reading`] | what moves through: readings in batches, priorities, receipts |
//! | [`clock`], [`logging`], [`tls`] | the only place that reads the time; the log; TLS of clients |
//!
//! # What always holds
//!
//! - **Acknowledge after commit.** A source that can acknowledge does so when the receipt of its batch
//!   is sent ([`reading::Committed`]), which is after the commit, with `synchronous = FULL`. A receipt
//!   that is dropped means: not stored.
//! - **Batches are frozen ranges.** What is to be sent is fixed as `first..=last` of one lane and written
//!   down before its first attempt ([`store::BatchKey`]), so a retry or a restart sends the same bytes
//!   under the same id. Sequence numbers are never used twice, and retention never takes a part of a
//!   frozen batch.
//! - **One thread owns SQLite.** Everyone else sends it commands and awaits its answer; what queued during
//!   one sync shares the next commit.
//! - **Nothing leaves without a record.** A batch is in the audit trail in the commit that freezes it
//!   ([`store::trail`], [`privacy::chain`]).
//! - **Privacy before storage.** The firewall judges a reading before anything else keeps it. What is
//!   dropped is not written, not judged by rules, not counted in windows.
//! - **Time is the boot clock's.** What the agent stamps is on it; wall time is made of that, marked while
//!   the clock is not synchronised ([`clock::mark`]), and put right in the store afterwards. A frozen batch
//!   stays as it is.
//! - **Stop by starvation.** Sources stop, and each later stage ends when its input closes.
//! - **A reload is a transaction.** Everything is loaded, checked and built, then replaced; a failure
//!   keeps what runs.
//! - **A watchdog tied to progress.** It is fed only while each stage moves, which it does each second unless it
//!   waits for the store, and the store answers. A thread of its own watches the runtime.
//!
//! # Bounds
//!
//! | what | bound | when it is reached |
//! |---|---|---|
//! | sources to commit | 16 MiB, 256 batches before the pipeline | the source waits, and the device behind it |
//! | one batch | 1,024 readings or 256 KiB of text | it is handed on |
//! | pipeline to store | 64 commands, 512 KiB staged, within the 16 MiB | the pipeline waits |
//! | uploader to store | the same 64 commands | the uploader waits |
//! | store to uploader | a watch, latest wins | – |
//! | store on disk | `store.size_max_mb` | delivered history goes, then telemetry is thinned, then the oldest goes |
//! | damaged databases | 3, `store.quarantine_max_mb` | the oldest goes, sooner when the disk is short |
//! | refused by the endpoint and set aside | 10,000 items | the oldest goes |
//! | batches that step back | 16 | the one that failed longest ago gets its turn |
//! | MQTT | `receive_maximum` unacknowledged messages of 256 KiB at most | the broker waits |
//! | HTTP ingest | `connections_max` connections, 16 bodies, 16 MiB at twice their size | 503, or the sender waits |
//! | one reading | name 256, unit 32, metadata 4,096 bytes | it is refused and counted |
//! | one expression | 4,096 bytes, 1,024 nodes, 50,000 steps | it is refused, or counts as an error |
//! | windows | 20,480 pairs of window and sensor, 77,824 panes | further sensors are left out and counted |
//! | what windows and rules are rebuilt from | 1,000,000 readings, 256 MiB, 5 s, of which rules have 2.5 | the newest; after the time they begin anew |
//! | what rules look back for besides, for the last of a sensor | an hour or what they ask for, 250,000 readings | the newest |
//! | what rules remember of sensors | 2 MiB | the sensor heard longest ago is forgotten, and counted |
//! | actions | 16; 256 events for each and 512 KiB for all | the event goes without its action, which is counted |
//! | one action | `timeout_seconds`, 5 attempts; 2 s once the agent stops | it is ended, with all it started |
//! | privacy | 1,024 patterns in each list, decisions for 4,096 sensors and 128 KiB of keys | refused; forgotten and made anew |
//! | audit trail | 8,192 records, or one for each 32 KiB of `store.size_max_mb` | the oldest quarter is folded into a checkpoint |
//! | health server | 16 connections | an idle one gives way |
//! | black box | 64 KiB: 126 records and two signs of life | the oldest record goes |
//! | attempts to open the store at the start | every 60 s at most, for ever | the health page says why |
//! | the doctor | 8 s for each peer, all at once | the check says that there was no answer |
//! | support bundle | 2,000 lines and 2 MiB of the journal | the rest is left out |
//! | drain at the end | 8 s | it ends all the same and names who was late |
//!
//! Where memory is small, these shrink with it: [`lifecycle::memory`] plans them by the limit that holds.
//!
//! # What is deliberately absent
//!
//! - **Unbounded channels and detached tasks.** Every task has a name and a supervisor.
//! - **A second runtime thread.** One thread runs everything but SQLite and blocking look-ups; the boards
//!   have better uses for the others.
//! - **Falling back to memory.** While the disk takes nothing, sources wait, and so does a start; only a database
//!   that is damaged or gone ends the process, so that the next start looks at it.
//! - **Retries that forget.** Nothing is given up by time or count; only an item that the endpoint refuses
//!   by itself is set aside.
//! - **Redirects and OpenSSL.** The endpoint is the one that is configured; TLS is rustls with ring.
//! - **A custom allocator.** jemalloc aborts on the 16 KiB pages of a Raspberry Pi 5.

#![allow(
    rustdoc::private_intra_doc_links,
    reason = "the readers work on it: cargo doc --document-private-items"
)]

pub mod action;
pub mod adapter;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod doctor;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod health;
pub mod lifecycle;
pub mod logging;
pub mod pipeline;
pub mod privacy;
#[cfg(test)]
mod python;
pub mod reading;
pub mod store;
pub mod support;
pub mod tls;
pub mod upload;
