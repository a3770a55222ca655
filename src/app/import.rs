//! Takes over what a Python agent still holds in its `sync_queue.db`, each row once.

mod item;
mod queue_file;

use std::path::Path;

use anyhow::{Context, bail};
use serde::Serialize;
use tokio::sync::oneshot;

use self::item::{Taken, take_over};
use self::queue_file::{QueueFile, QueueRow};
use super::opening::hash_key;
use super::parts::policy_loaded;
use super::stop::store_ended;
use crate::config::Config;
use crate::lifecycle::lock::StateLock;
use crate::privacy::Firewall;
use crate::reading::{Committed, Priority};
use crate::store::{self, Staged, Store};

/// What came of an import.
#[derive(Debug, Default, Serialize)]
pub struct Imported {
    /// Items that the other agent holds.
    pub found: u64,
    /// Queued for delivery now, by priority: CRITICAL, ANOMALY, TELEMETRY, LOGS.
    pub queued: [u64; 4],
    /// Kept on the device by the privacy policy.
    pub kept_local: u64,
    /// Dropped by the privacy policy.
    pub dropped: u64,
    /// Taken over by an earlier import.
    pub already: u64,
    /// Not taken over: they stay where they are.
    pub refused: u64,
    /// The first of those, with the reason.
    pub refusals: Vec<Refused>,
}

/// A row that was not taken over.
#[derive(Debug, Serialize)]
pub struct Refused {
    pub id: i64,
    pub reason: &'static str,
}

/// Stores every row of `source` that was not taken over before, in commits of some hundred rows that hold
/// the items and the fact that they were taken. Interrupted at any moment, it can be started again. With
/// `is_dry_run` nothing is stored. `source` is only read.
///
/// # Errors
///
/// The agent runs, delivery is off, or one of the two databases cannot be used. What was committed until
/// then stays taken over.
pub async fn import(config: &Config, source: &Path, is_dry_run: bool) -> anyhow::Result<Imported> {
    if !config.cloud.enabled {
        bail!(
            "cloud.enabled is false: nothing that is stored meanwhile is ever delivered; set it to true, then \
             import"
        );
    }
    let queue = QueueFile::open(source)?;
    let state_dir = &config.store.state_dir;
    let _lock = StateLock::take(state_dir)?;
    let (store, store_end) = store::open(config.store.clone(), std::sync::Arc::default())
        .with_context(|| format!("cannot open the store in {}", state_dir.display()))?;
    let key = hash_key(state_dir)?;
    if !is_dry_run {
        store.audit(policy_loaded(config, &key)).await?;
    }
    let firewall = Firewall::new(&config.privacy, key);
    let imported = Imported { found: queue.len()?, ..Imported::default() };
    let mut import = Import { store, firewall, imported, is_dry_run };
    let mut after = i64::MIN;
    loop {
        let rows = queue.rows(after)?;
        let Some(last) = rows.last() else { break };
        after = last.id;
        import.take(rows).await?;
    }
    let Import { store, imported, .. } = import;
    drop(store);
    store_ended(store_end.await)?;
    Ok(imported)
}

struct Import {
    store: Store,
    firewall: Firewall,
    imported: Imported,
    is_dry_run: bool,
}

impl Import {
    /// Takes `rows` over in one commit.
    async fn take(&mut self, rows: Vec<QueueRow>) -> anyhow::Result<()> {
        let digests = rows.iter().map(|row| row.digest).collect();
        let known = self.store.imported(digests).await?;
        let mut staged = Staged::default();
        for (row, is_known) in rows.into_iter().zip(known) {
            if is_known {
                self.imported.already += 1;
                continue;
            }
            match self.stage(&mut staged, &row) {
                Ok(()) => staged.imports(row.digest),
                Err(reason) => self.refuse(row.id, reason),
            }
        }
        if self.is_dry_run {
            return Ok(());
        }
        self.firewall.tell(staged.filtered());
        let (receipt, committed) = oneshot::channel();
        staged.answer(receipt, Committed::default());
        self.store.append(staged).await?;
        committed.await.context("the store failed")?;
        Ok(())
    }

    fn stage(&mut self, staged: &mut Staged, row: &QueueRow) -> Result<(), &'static str> {
        let priority = row.priority.ok_or("has a priority that is none of 1 to 4")?;
        let payload = row.payload.as_deref().ok_or("has no text, or too much of it, for a payload")?;
        match take_over(staged, &mut self.firewall, priority, payload)? {
            Taken::Queued => self.imported.queued[priority as usize - Priority::Critical as usize] += 1,
            Taken::KeptLocal => self.imported.kept_local += 1,
            Taken::Dropped => self.imported.dropped += 1,
        }
        Ok(())
    }

    fn refuse(&mut self, id: i64, reason: &'static str) {
        self.imported.refused += 1;
        if self.imported.refusals.len() < REFUSALS_MAX {
            self.imported.refusals.push(Refused { id, reason });
        }
    }
}

/// Refused rows that are named one by one.
const REFUSALS_MAX: usize = 20;
