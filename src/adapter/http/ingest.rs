//! The readings of one request, from its text to their commit.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use super::super::Intake;
use super::super::json::{self, Defaults, Items, SyntaxError};
use crate::clock;
use crate::reading::{Batch, Committed, Refusal};

/// What became of the readings.
#[derive(Default)]
pub(super) struct Tally {
    /// Durable now.
    pub accepted: u32,
    /// All that were sent, whatever became of them.
    pub total: u32,
    /// Not readable as readings, by [`Refusal`].
    pub unreadable: [u32; Refusal::ALL.len()],
}

/// Why nothing can be said of the readings.
pub(super) enum Failure {
    /// There is no JSON in the text.
    Syntax(SyntaxError),
    /// Some may be durable and some not: they have to be sent again.
    NotStored,
}

impl Tally {
    pub(super) fn refused(&self) -> u32 {
        self.total.saturating_sub(self.accepted)
    }

    /// Those that were readable, but break a limit or a policy.
    pub(super) fn refused_later(&self) -> u32 {
        self.refused().saturating_sub(self.unreadable.iter().sum())
    }
}

/// Hands the readings of `text` on in batches, and waits until all are committed. While the pipeline is
/// full it waits, so the caller sets the limit.
///
/// # Errors
///
/// [`Failure`]
pub(super) async fn ingest(
    text: &str,
    units: &BTreeMap<String, String>,
    intake: &Intake,
) -> Result<Tally, Failure> {
    let timestamp = clock::boot_seconds();
    let defaults = Defaults { sensor_name: None, unit: "", units: Some(units), timestamp, origin: "http" };
    let mut request = Pending { intake, batch: Batch::default(), receipts: Vec::new(), tally: Tally::default() };
    let mut found = false;
    let mut first_error = None;
    let mut errors = 0;
    for item in Items::new(text) {
        match item {
            Ok(item) => {
                found = true;
                json::push_reading(&mut request.batch, item, &defaults);
            }
            // Whether it was JSON at all is known only at the end.
            Err(error) => {
                first_error.get_or_insert(error);
                errors += 1;
            }
        }
        if request.batch.is_full() {
            request.send().await?;
        }
    }
    if let (false, Some(error)) = (found, first_error) {
        return Err(Failure::Syntax(error));
    }
    for _ in 0..errors {
        request.batch.refuse(Refusal::Malformed, defaults.origin);
        if request.batch.is_full() {
            request.send().await?;
        }
    }
    request.send().await?;
    request.committed().await
}

struct Pending<'a> {
    intake: &'a Intake,
    batch: Batch,
    /// One for each batch; the size of the body bounds their number.
    receipts: Vec<oneshot::Receiver<Committed>>,
    tally: Tally,
}

impl Pending<'_> {
    async fn send(&mut self) -> Result<(), Failure> {
        let mut batch = std::mem::take(&mut self.batch);
        if batch.is_empty() {
            return Ok(());
        }
        self.tally.total += u32::try_from(batch.len()).unwrap_or(u32::MAX);
        for (reason, _) in batch.refusals() {
            self.tally.unreadable[reason as usize] += 1;
        }
        // Refusals alone are counted, not stored: there is no commit to wait for.
        if batch.readings().len() > 0 {
            let (receipt, committed) = oneshot::channel();
            batch.receipt = Some(receipt);
            batch.urgent = true;
            self.receipts.push(committed);
        }
        self.intake.send(batch).await.map_err(|_| Failure::NotStored)
    }

    async fn committed(mut self) -> Result<Tally, Failure> {
        for receipt in self.receipts {
            let committed = receipt.await.map_err(|_| Failure::NotStored)?;
            self.tally.accepted += committed.accepted;
        }
        Ok(self.tally)
    }
}
