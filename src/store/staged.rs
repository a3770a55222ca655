//! What waits for its commit: encoded items by lane, and the receipts of their sources.

use crate::reading::{Committed, Receipt};

use super::Lane;

/// Items on their way to one commit.
#[derive(Debug, Default)]
pub struct Staged {
    pub(super) lanes: [LaneText; 5],
    receipts: Vec<(Receipt, Committed)>,
}

/// Items of one lane: one line of JSON each.
#[derive(Debug, Default)]
pub(super) struct LaneText {
    pub lines: Vec<u8>,
    pub count: u32,
    /// Of the items' own timestamps, Unix seconds.
    pub time_min: f64,
    pub time_max: f64,
}

impl Staged {
    /// Adds an item. `write` appends its JSON text, which holds no line break; `timestamp` is the
    /// item's own.
    pub fn push(&mut self, lane: Lane, timestamp: f64, write: impl FnOnce(&mut Vec<u8>)) {
        let text = &mut self.lanes[lane.index()];
        if text.count == 0 {
            (text.time_min, text.time_max) = (timestamp, timestamp);
        }
        text.time_min = text.time_min.min(timestamp);
        text.time_max = text.time_max.max(timestamp);
        text.count += 1;
        write(&mut text.lines);
        text.lines.push(b'\n');
    }

    /// Has `receipt` told after the commit.
    pub fn answer(&mut self, receipt: Receipt, committed: Committed) {
        self.receipts.push((receipt, committed));
    }

    /// Bytes of JSON that wait.
    pub fn size_bytes(&self) -> usize {
        self.lanes.iter().map(|lane| lane.lines.len()).sum()
    }

    pub fn items(&self) -> u32 {
        self.lanes.iter().map(|lane| lane.count).sum()
    }

    /// Whether a source waits for this commit.
    pub fn is_awaited(&self) -> bool {
        !self.receipts.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        self.items() == 0 && self.receipts.is_empty()
    }

    /// Takes over everything of `other`, behind what is here.
    pub(super) fn absorb(&mut self, other: Self) {
        for (ours, theirs) in self.lanes.iter_mut().zip(other.lanes) {
            if theirs.count == 0 {
                continue;
            }
            if ours.count == 0 {
                *ours = theirs;
                continue;
            }
            ours.time_min = ours.time_min.min(theirs.time_min);
            ours.time_max = ours.time_max.max(theirs.time_max);
            ours.count += theirs.count;
            ours.lines.extend_from_slice(&theirs.lines);
        }
        self.receipts.extend(other.receipts);
    }

    /// Tells every source that its batch is durable.
    pub(super) fn confirm(self) {
        for (receipt, committed) in self.receipts {
            // A source that stopped listening has nothing to acknowledge any more.
            receipt.send(committed).ok();
        }
    }
}
