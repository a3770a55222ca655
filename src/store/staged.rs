//! What waits for its commit: encoded items by lane, and the receipts of their sources.

use std::fmt;

use crate::lifecycle::memory::Share;
use crate::privacy::Filtered;
use crate::reading::{Committed, Receipt, Refusal};

use super::gap::Report;
use super::refused::Refused;
use super::{ClockNews, Digest, Lane};

/// Items on their way to one commit.
#[derive(Debug, Default)]
pub struct Staged {
    pub(super) lanes: [LaneText; 7],
    receipts: Vec<(Receipt, Committed)>,
    /// What begins once all of this is durable.
    afterwards: Vec<Afterwards>,
    /// Of the memory for what is on its way; given back with the receipts.
    share: Option<Share>,
    /// Rows of another program's queue that these items were.
    pub(super) imported: Vec<Digest>,
    refused: Refused,
    /// What the privacy firewall did.
    filtered: Filtered,
    /// How the clock stands behind all these items, when that changed.
    pub(super) news: Option<ClockNews>,
    /// How sources know the messages again that these items came in.
    messages: Vec<u8>,
}

/// Called once, by the store thread: it must not wait.
struct Afterwards(Box<dyn FnOnce() + Send>);

impl fmt::Debug for Afterwards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Afterwards")
    }
}

/// Items of one lane: one line of JSON each.
#[derive(Debug, Default)]
pub(super) struct LaneText {
    pub lines: Vec<u8>,
    pub count: u32,
    /// Of the items' own timestamps, Unix seconds.
    pub time_min: f64,
    pub time_max: f64,
    /// Some items bear times that may be put right later.
    pub provisional: bool,
    /// How sources know the messages again that items of this commit came in.
    pub messages: Vec<u8>,
}

/// What becomes one block.
#[derive(Debug)]
pub(super) struct Piece<'t> {
    pub lines: &'t [u8],
    pub count: u32,
    pub messages: &'t [u8],
}

impl LaneText {
    /// Adds an item; see [`Staged::push`].
    pub fn push(&mut self, timestamp: f64, write: impl FnOnce(&mut Vec<u8>)) {
        if self.count == 0 {
            (self.time_min, self.time_max) = (timestamp, timestamp);
        }
        self.time_min = self.time_min.min(timestamp);
        self.time_max = self.time_max.max(timestamp);
        self.count += 1;
        write(&mut self.lines);
        self.lines.push(b'\n');
    }

    /// The lines, cut where one ends into pieces of at most `bytes_max` bytes, a longer line alone. The first
    /// has the messages.
    pub fn pieces(&self, bytes_max: usize) -> impl Iterator<Item = Piece<'_>> {
        let mut rest = self.lines.as_slice();
        let mut rest_count = self.count;
        let mut messages = self.messages.as_slice();
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let messages = std::mem::take(&mut messages);
            if rest.len() <= bytes_max {
                return Some(Piece { lines: std::mem::take(&mut rest), count: rest_count, messages });
            }
            let is_break = |byte: &u8| *byte == b'\n';
            let last = rest[..bytes_max].iter().rposition(is_break);
            let end = last.or_else(|| rest.iter().position(is_break)).map_or(rest.len(), |at| at + 1);
            let (piece, behind) = rest.split_at(end);
            let lines = piece.iter().filter(|byte| is_break(byte)).count();
            let count = u32::try_from(lines).expect("no more than there are items");
            (rest, rest_count) = (behind, rest_count - count);
            Some(Piece { lines: piece, count, messages })
        })
    }
}

impl Staged {
    /// Adds an item. `write` appends its JSON text, which holds no line break; `timestamp` is the
    /// item's own.
    pub fn push(&mut self, lane: Lane, timestamp: f64, write: impl FnOnce(&mut Vec<u8>)) {
        self.lanes[lane.index()].push(timestamp, write);
    }

    /// Notes that the item just pushed to `lane` bears a provisional time.
    pub fn note_provisional(&mut self, lane: Lane) {
        self.lanes[lane.index()].provisional = true;
    }

    /// Tells the store how the clock stands, behind all items so far.
    pub fn tell(&mut self, news: ClockNews) {
        self.news = Some(news);
    }

    /// Has `receipt` told after the commit.
    pub fn answer(&mut self, receipt: Receipt, committed: Committed) {
        self.receipts.push((receipt, committed));
    }

    /// Has `begin` called after the commit, behind all receipts; it must not wait. It is dropped when there is none.
    pub fn after_commit(&mut self, begin: impl FnOnce() + Send + 'static) {
        self.afterwards.push(Afterwards(Box::new(begin)));
    }

    /// Keeps `share` until all of this is committed.
    pub fn occupy(&mut self, share: Share) {
        match &mut self.share {
            Some(ours) => ours.join(share),
            None => self.share = Some(share),
        }
    }

    /// Keeps, in the same commit, how a source knows the messages again that items came in; see
    /// [`Batch::messages`](crate::reading::Batch::messages).
    pub fn came_in(&mut self, messages: &[u8]) {
        self.messages.extend_from_slice(messages);
    }

    /// Notes, in the same commit, that the row of another program's queue named `digest` is taken over.
    pub fn imports(&mut self, digest: Digest) {
        self.imported.push(digest);
    }

    /// Counts input that was refused, for the ledger of gaps. `sensor` is empty where it is not known or not
    /// to be shown; `now` is the wall clock, Unix seconds.
    pub fn refuse(&mut self, reason: Refusal, sensor: &str, now: f64) {
        self.refused.add(reason, sensor, now, Report::Due);
    }

    /// The same while nothing is to leave the device: the cloud is not told of it later either.
    pub fn refuse_untold(&mut self, reason: Refusal, sensor: &str, now: f64) {
        self.refused.add(reason, sensor, now, Report::Never);
    }

    /// What goes into `lane`, each item with its line break.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn lines(&self, lane: Lane) -> &[u8] {
        &self.lanes[lane.index()].lines
    }

    /// Bytes of JSON that wait.
    pub fn size_bytes(&self) -> usize {
        self.lanes.iter().map(|lane| lane.lines.len()).sum()
    }

    pub fn items(&self) -> u32 {
        self.lanes.iter().map(|lane| lane.count).sum()
    }

    /// Whether it holds what is sent at once.
    pub fn is_urgent(&self) -> bool {
        Lane::ALL.into_iter().any(|lane| lane.is_urgent() && self.lanes[lane.index()].count > 0)
    }

    /// Whether a source waits for this commit.
    pub fn is_awaited(&self) -> bool {
        !self.receipts.is_empty()
    }

    pub fn is_empty(&self) -> bool {
        self.items() == 0 && self.receipts.is_empty() && self.refused.is_empty() && self.news.is_none()
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
            ours.provisional |= theirs.provisional;
            ours.messages.extend_from_slice(&theirs.messages);
            ours.lines.extend_from_slice(&theirs.lines);
        }
        self.receipts.extend(other.receipts);
        self.afterwards.extend(other.afterwards);
        if let Some(share) = other.share {
            self.occupy(share);
        }
        self.imported.extend(other.imported);
        self.messages.extend_from_slice(&other.messages);
        self.news = other.news.or(self.news);
        self.refused.absorb(other.refused);
        self.filtered.absorb(&mut { other.filtered });
    }

    /// What the privacy firewall did, for the audit trail; alone it makes no commit.
    pub fn filtered(&mut self) -> &mut Filtered {
        &mut self.filtered
    }

    /// Has the messages stored with the first items. Those without any item are known to nobody: they would be
    /// refused again.
    pub(super) fn place_messages(&mut self) {
        let messages = std::mem::take(&mut self.messages);
        if let Some(lane) = self.lanes.iter_mut().find(|lane| lane.count > 0) {
            lane.messages.extend_from_slice(&messages);
        }
    }

    /// What was refused; nothing stays.
    pub(super) fn take_refused(&mut self) -> Refused {
        std::mem::take(&mut self.refused)
    }

    /// Forgets the items, which are durable, and keeps the receipts.
    pub(super) fn forget_items(&mut self) {
        self.lanes = Default::default();
        self.imported.clear();
    }

    /// Tells every source that its batch is durable.
    pub(super) fn confirm(self) {
        for (receipt, committed) in self.receipts {
            // A source that stopped listening has nothing to acknowledge any more.
            receipt.send(committed).ok();
        }
        self.afterwards.into_iter().for_each(|Afterwards(begin)| begin());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lifecycle::memory::Allotment;

    #[tokio::test]
    async fn room_is_given_back_after_the_commit_and_not_before() {
        let whole = Allotment::new(10 * 1024);
        let (mut staged, mut behind) = (Staged::default(), Staged::default());
        staged.occupy(whole.take(2048).await);
        behind.occupy(whole.take(1024).await);
        behind.occupy(whole.take(1024).await);
        staged.absorb(behind);
        // A retry after a disk in trouble.
        staged.forget_items();
        assert_eq!(whole.used_bytes(), 4096);
        staged.confirm();
        assert_eq!(whole.used_bytes(), 0);
    }

    #[test]
    fn pieces_hold_every_line_once_and_whole() {
        let mut staged = Staged::default();
        for length in [3, 0, 9, 1, 4, 4, 30, 2] {
            staged.push(Lane::Logs, 1.0, |out| out.resize(out.len() + length, b'x'));
        }
        staged.came_in(b"m");
        staged.place_messages();
        let text = &staged.lanes[Lane::Logs.index()];
        for bytes_max in 1..80 {
            let pieces: Vec<_> = text.pieces(bytes_max).collect();
            let whole: Vec<u8> = pieces.iter().flat_map(|piece| piece.lines.iter().copied()).collect();
            assert_eq!(whole, text.lines, "{bytes_max}");
            assert_eq!(pieces.iter().map(|piece| piece.count).sum::<u32>(), 8);
            assert_eq!(pieces[0].messages, b"m");
            assert!(pieces[1..].iter().all(|piece| piece.messages.is_empty()));
            for Piece { lines, count, .. } in pieces {
                assert!(lines.ends_with(b"\n") && (lines.len() <= bytes_max || count == 1));
                assert_eq!(lines.split(|byte| *byte == b'\n').count() - 1, count as usize);
            }
        }
    }
}
