//! The store thread: works off commands in groups, one commit for each group.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, watch};

use crate::clock::Clocks;
use crate::clock::mark::Correction;
use crate::lifecycle::hang;
use crate::lifecycle::watchdog::Progress;

use super::block::{self, Codec};
use super::boot::Boot;
use super::budget::Allowance;
use super::gap::{self, Reason};
use super::measure::Measure;
use super::open::{empty_log, end_use};
use super::provisional::Spans;
use super::queue::Queue;
use super::refused::Refused;
use super::{ClockNews, Command, Counters, Error, FrozenBatch, Lane, Pending, Settings, imported, schema};

mod apply;
mod files;
mod group;
mod hold;
mod outlast;
mod report;
mod restamp;
mod room;
mod start;
mod thin;
mod trail;
mod trim;

use files::Files;
use group::{Attempted, Group, Mark};
pub use hold::Hold;
use outlast::Outage;
pub use report::GAP_RULE;
use report::Reporter;
pub(super) use start::next_sequences;
pub use start::{open, open_watched, open_with};
use trail::Trail;

/// Commands that wait for the thread; more make the callers wait.
const COMMANDS_MAX: usize = 64;

struct Worker {
    db: Connection,
    files: Files,
    codec: Codec,
    hold: Hold,
    queue: Queue,
    boot: Boot,
    trail: Trail,
    /// Rows changed up to the last commit: one that changed nothing writes nothing.
    changes: u64,
    /// The lowest undelivered sequence number of each lane, and the time of its block.
    lowest_pending: [(u64, f64); Lane::ALL.len()],
    store_id: Arc<str>,
    settings: Settings,
    counters: Arc<Counters>,
    pending: watch::Sender<Pending>,
    progress: Arc<Progress>,
    outage: Outage,
    clocks: Arc<dyn Clocks>,
    /// Refused input that is not in the ledger yet.
    refused: Refused,
    reporter: Reporter,
    /// Whether gaps are reported.
    reports: Arc<AtomicBool>,
    spans: Spans,
    /// By the number of the boot.
    corrections: BTreeMap<i64, Correction>,
    /// The latest; `None` before the first.
    clock: Option<ClockNews>,
    /// Items of the agent's own making that are not committed yet.
    made: u64,
    /// The size of a page; a database keeps it for life.
    page_bytes: u64,
    /// Bytes of pages in use, as of the last commit.
    used: u64,
    allowance: Allowance,
    /// Boot clock.
    looked_around_at: Option<Duration>,
    measure: Measure,
    /// Telemetry is being thinned, and that was said.
    thins: bool,
    /// The file is being made smaller.
    shrinks: bool,
    /// Batches of other lanes since logs wait.
    batches_before_logs: u32,
}

impl Worker {
    fn run(mut self, mut commands: mpsc::Receiver<Command>) -> Result<(), Error> {
        // What a killed agent left may be cached and not on the disk, see `schema::reopen`. A reader in the
        // log is no reason to wait: that danger needs a sync that failed, an end and a power cut after it.
        if self.outlast(&commands, |worker| empty_log(&worker.db))?.is_none() {
            report_lost(0, commands);
            return Ok(());
        }
        while let Some(command) = self.next_command(&mut commands)? {
            self.progress.moved(self.clocks.since_boot());
            hang::block("store");
            let mut group = Group::default();
            group.add(command);
            for _ in 1..COMMANDS_MAX {
                if group.is_full(self.hold) {
                    break;
                }
                let Ok(command) = commands.try_recv() else { break };
                group.add(command);
            }
            let (hold, sheds) = (group.hold.take(), group.sheds);
            let lost = match self.work_off(group, &commands)? {
                None if self.outlast(&commands, |worker| worker.adapt(hold, sheds))?.is_none() => Some(0),
                None if self.outlast(&commands, Self::look_after)?.is_none() => Some(0),
                lost => lost,
            };
            if let Some(lost) = lost {
                report_lost(lost, commands);
                return Ok(());
            }
            self.progress.idle();
        }
        let closed = self.outlast(&commands, |worker| {
            worker.report(true)?;
            worker.begin()?;
            worker.note_filtered(true)?;
            worker.boot.note_last(&worker.db, worker.clocks.since_boot())?;
            end_use(&worker.db)?;
            worker.commit()?;
            schema::close_tidily(&worker.db)
        })?;
        if closed.is_none() {
            report_lost(0, commands);
        }
        self.db.close().map_err(|(_, source)| Error::Sqlite { what: "cannot close the database", source })
    }

    fn adapt(&mut self, hold: Option<Hold>, sheds: bool) -> Result<(), Error> {
        if let Some(hold) = hold {
            self.set_hold(hold)?;
        }
        if sheds { self.shed() } else { Ok(()) }
    }

    /// What is done between two groups: reports of gaps, an audit trail that is too long, and a file that is
    /// larger than it has to be.
    fn look_after(&mut self) -> Result<(), Error> {
        self.report(false)?;
        self.look_after_trail()?;
        self.shrink()
    }

    /// The next command; while there is none, times that can be are put right.
    fn next_command(&mut self, commands: &mut mpsc::Receiver<Command>) -> Result<Option<Command>, Error> {
        while self.has_corrections_due() {
            match commands.try_recv() {
                Ok(command) => return Ok(Some(command)),
                Err(TryRecvError::Disconnected) => return Ok(None),
                Err(TryRecvError::Empty) => {}
            }
            if self.outlast(commands, Self::correct_some)?.is_none() {
                return Ok(None);
            }
        }
        Ok(commands.blocking_recv())
    }

    /// Applies and commits `group`, outlasting what the disk does, then answers. Returns how many items are
    /// not stored when the agent stops before they could be.
    fn work_off(
        &mut self,
        mut group: Group,
        commands: &mpsc::Receiver<Command>,
    ) -> Result<Option<u64>, Error> {
        let items = u64::from(group.staged.items());
        let text_bytes = group.staged.size_bytes();
        // Once, whatever comes of the attempts: it stays until a record of it is committed.
        self.take_filtered(group.staged.filtered());
        let attempt = |worker: &mut Self| {
            worker.make_room(text_bytes)?;
            let batch = worker.apply(&mut group)?;
            worker.look_for_file()?;
            Ok(batch)
        };
        let Some(batch) = self.outlast(commands, attempt)? else {
            return Ok(Some(items));
        };
        self.take_refused(group.staged.take_refused());
        self.counters.items_stored.fetch_add(items, Relaxed);
        // What is shown comes before the answers. When it fails they are true all the same.
        let mut shown = Some(self.publish());
        group.staged.confirm();
        if let Some((_, reply)) = group.wanted {
            // An uploader that stopped waiting finds the batch frozen next time.
            reply.send(batch).ok();
        }
        for ping in group.pings {
            // A watchdog that gave up waiting has drawn its own conclusion.
            ping.send(()).ok();
        }
        let kept = self.outlast(commands, |worker| shown.take().unwrap_or_else(|| worker.publish()))?;
        for (digests, reply) in group.asked {
            let known = self.outlast(commands, |worker| imported::known(&worker.db, &digests))?;
            // Who stopped waiting imports nothing, and who gets no answer neither.
            known.map(|known| reply.send(known).ok());
        }
        Ok(if kept.is_some() { None } else { Some(0) })
    }

    fn apply(&mut self, group: &mut Group) -> Result<Option<FrozenBatch>, Error> {
        if let Some(attempted) = group.attempted.take_if(|attempted| attempted.mark == self.mark()) {
            // The commit that failed is in the database that was opened again, and is durable there.
            group.forget_stored();
            if attempted.notes_refused {
                self.refused_are_noted();
            }
        }
        group.staged.place_messages();
        let at = self.clocks.since_boot();
        for lane in Lane::ALL {
            self.append(lane, group, at)?;
        }
        self.note_imported(group)?;
        if let Some(news) = group.staged.news {
            self.note_clock(news)?;
        }
        for (key, outcome) in &group.settled {
            self.settle(*key, outcome)?;
        }
        for entry in &group.audits {
            self.audit(entry)?;
        }
        for (key, value) in &group.facts {
            self.remember(key, value)?;
        }
        let batch = match &group.wanted {
            Some((want, _)) => self.next_batch(want)?,
            None => None,
        };
        if !group.needs_commit() {
            self.outage.carry(group.uncommitted());
            return Ok(batch);
        }
        let noted = self.note_refused(false)?;
        self.note_filtered(false)?;
        if group.staged.items() > 0 || !group.audits.is_empty() {
            group.attempted = Some(Attempted { mark: self.mark(), notes_refused: noted });
        }
        self.commit()?;
        if noted {
            self.refused_are_noted();
        }
        Ok(batch)
    }

    fn mark(&self) -> Mark {
        Mark { next_sequences: self.queue.next_sequences(), audit_hash: self.trail.hash.clone() }
    }

    fn begin(&mut self) -> Result<(), Error> {
        if self.db.is_autocommit() {
            self.db
                .execute_batch("BEGIN IMMEDIATE")
                .map_err(|source| Error::Sqlite { what: "cannot begin a transaction", source })?;
        }
        Ok(())
    }

    fn commit(&mut self) -> Result<(), Error> {
        if self.db.is_autocommit() {
            return Ok(());
        }
        self.db.execute_batch("COMMIT").map_err(|source| Error::Sqlite { what: "cannot commit", source })?;
        self.outage.committed();
        self.trail.committed();
        self.counters.items_made.fetch_add(std::mem::take(&mut self.made), Relaxed);
        let changes = self.db.total_changes();
        if std::mem::replace(&mut self.changes, changes) != changes {
            self.counters.commits.fetch_add(1, Relaxed);
            self.counters.last_commit_at.set(Some(self.clocks.unix_seconds()));
        }
        Ok(())
    }

    /// When the oldest undelivered item was taken, as far as its block tells.
    fn oldest_pending(&mut self) -> Result<Option<f64>, Error> {
        let mut oldest: Option<f64> = None;
        for lane in Lane::DELIVERED {
            let Some(lowest) = self.queue.lowest(lane) else { continue };
            let known = &mut self.lowest_pending[lane.index()];
            if known.0 != lowest {
                *known = (lowest, block::time_of(&self.db, lane, lowest)?);
            }
            oldest = Some(oldest.map_or(known.1, |time| time.min(known.1)));
        }
        Ok(oldest)
    }

    /// Shows the state after a commit to the uploader and the health page.
    fn publish(&mut self) -> Result<(), Error> {
        let pending = self.queue.pending();
        for (counter, items) in self.counters.pending.iter().zip(pending.items) {
            counter.store(items, Relaxed);
        }
        self.pending.send_if_modified(|known| std::mem::replace(known, pending) != pending);
        self.counters.provisional.store(self.spans.items(self.queue.next_sequences()), Relaxed);
        self.publish_size()?;
        if self.reporter.ledger_changed {
            self.reporter.ledger_changed = false;
            for (name, count) in gap::totals(&self.db)? {
                // A reason of a newer agent is in the ledger, and has no counter here.
                if let Some(index) = Reason::ALL.iter().position(|reason| reason.name() == name) {
                    self.counters.gaps[index].store(count, Relaxed);
                }
            }
        }
        let oldest = self.oldest_pending()?;
        self.counters.oldest_pending_at.set(oldest);
        Ok(())
    }
}

/// Says what the end of the agent leaves behind: the group that could not be stored, and what waited.
fn report_lost(mut items: u64, mut commands: mpsc::Receiver<Command>) {
    while let Ok(command) = commands.try_recv() {
        if let Command::Append(staged) = command {
            items += u64::from(staged.items());
        }
    }
    if items == 0 {
        tracing::warn!("stopped while the disk took nothing: what was taken in is stored");
        return;
    }
    tracing::error!(
        items,
        "stopped while the disk took nothing: these were not acknowledged, and are lost unless their source sends them again"
    );
}
