//! Thins telemetry: the oldest blocks of a lane become summaries in the next coarser one, in one commit that
//! also declares the numbers of what was summarised as a gap.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::Worker;
use crate::clock::mark;
use crate::store::block::{self, Head};
use crate::store::gap::{self, Gap, Reason};
use crate::store::staged::LaneText;
use crate::store::thin::{Groups, Span};
use crate::store::{Error, Lane};

/// Of blocks in one pass: bounds its time and its commit.
const PASS_BLOCKS_MAX: usize = 512;
/// JSON in one pass, in bytes; one block may be larger.
const PASS_BYTES_MAX: u64 = 1024 * 1024;

impl Worker {
    /// Thins the oldest of `lane`, in a commit of its own: up to an end of a span where there is one, else as
    /// much as one pass may. False when there is nothing to thin.
    pub(super) fn thin(&mut self, lane: Lane) -> Result<bool, Error> {
        let (coarser, span) = match lane {
            Lane::Telemetry => (Lane::Minute, Span::Minute),
            Lane::Minute => (Lane::Quarter, Span::Quarter),
            _ => return Ok(false),
        };
        let Some((first, end)) = self.pass(lane, span)? else { return Ok(false) };
        self.begin_trim()?;
        let mut parts: Vec<(u64, u64)> = Vec::new();
        let mut groups = Groups::new(span);
        let mut kept = LaneText::default();
        let mut time: Option<(f64, f64)> = None;
        let mut next = first;
        while next < end && !groups.is_full() {
            let Some(head) = block::head_of(&self.db, lane, next)? else { break };
            let given_up = self.queue.give_up(&self.db, lane, head.first, head.end())?;
            // What cannot be read cannot be summarised: its numbers are declared like the others.
            let lines = match block::at_or_after(&self.db, &mut self.codec, lane, next) {
                Ok(block) => block.map(|block| block.lines).unwrap_or_default(),
                Err(Error::Damaged { .. }) => Vec::new(),
                Err(error) => return Err(error),
            };
            let known = time.unwrap_or((head.time_min, head.time_max));
            time = Some((known.0.min(head.time_min), known.1.max(head.time_max)));
            for (sequence, line) in (head.first..head.end()).zip(lines.split(|byte| *byte == b'\n')) {
                let is_given_up = given_up.iter().any(|(from, last)| (*from..=*last).contains(&sequence));
                if is_given_up && !groups.add(line) {
                    kept.provisional |= std::str::from_utf8(line).is_ok_and(mark::is_marked);
                    kept.push(head.time_min, |out| out.extend_from_slice(line));
                }
            }
            for (from, last) in given_up {
                match parts.last_mut().filter(|part| part.1 + 1 == from) {
                    Some(part) => part.1 = last,
                    None => parts.push((from, last)),
                }
            }
            next = head.end();
        }
        block::delete_within(&self.db, lane, first, next)?;
        self.spans.deleted(&self.db, lane, next)?;
        let names = groups.names();
        self.insert_summaries(groups, coarser)?;
        // An event is kept as it is, where it goes last.
        self.insert_own(Lane::Anomaly, &kept)?;
        for (from, last) in parts {
            let gap = Gap {
                reason: Reason::Thinned,
                store_id: self.store_id.to_string(),
                lane: Some(lane),
                span: Some((from, last)),
                count: last - from + 1,
                time,
                sensors: names.as_slice().to_vec(),
            };
            self.record_gap(&gap, gap::Report::Due)?;
        }
        self.commit()?;
        self.publish()?;
        Ok(true)
    }

    /// First number of the oldest blocks that can be thinned together, and the one behind their last.
    fn pass(&self, lane: Lane, span: Span) -> Result<Option<(u64, u64)>, Error> {
        let Some(Head { first, .. }) = self.oldest_undelivered(lane)? else { return Ok(None) };
        let (mut end, mut boundary) = (first, None);
        let (mut blocks, mut bytes) = (0, 0);
        let mut newest = i64::MIN;
        block::each(&self.db, lane, first, |head| {
            let is_free = self.queue.frozen_until(lane, head.first, head.end()).is_none();
            if head.first != end && blocks > 0 || !is_free {
                return ControlFlow::Break(());
            }
            if blocks > 0 && span.number(head.time_min) > newest {
                boundary = Some(head.first);
            }
            if blocks > 0 && (blocks >= PASS_BLOCKS_MAX || bytes + head.raw_bytes > PASS_BYTES_MAX) {
                return ControlFlow::Break(());
            }
            blocks += 1;
            bytes += head.raw_bytes;
            newest = newest.max(span.number(head.time_max));
            end = head.end();
            ControlFlow::Continue(())
        })?;
        let end = boundary.unwrap_or(end);
        Ok((end > first).then_some((first, end)))
    }

    /// Writes the summaries, a block for each quarter of an hour, so that those can be thinned apart.
    fn insert_summaries(&mut self, groups: Groups, lane: Lane) -> Result<(), Error> {
        let mut text = LaneText::default();
        let mut quarter = None;
        let mut failed = Ok(());
        let this_boot = self.clocks.boot_id();
        groups.finish(|line, time, boot| {
            let of_line = Some(Span::Quarter.number(time));
            if failed.is_ok() && lane == Lane::Minute && quarter.is_some() && quarter != of_line {
                failed = self.insert_own(lane, &std::mem::take(&mut text));
            }
            quarter = of_line;
            // Those of an earlier boot keep their mark, and the receiver can put them right.
            text.provisional |= boot == Some(this_boot.as_str());
            text.push(time, |out| out.extend_from_slice(line));
        });
        failed?;
        self.insert_own(lane, &text)
    }

    /// Appends items of the agent's own making, inside the caller's transaction.
    pub(super) fn insert_own(&mut self, lane: Lane, text: &LaneText) -> Result<(), Error> {
        self.made += u64::from(text.count);
        self.insert_text(lane, text, self.clocks.since_boot())
    }

    /// Appends items, inside the caller's transaction.
    pub(super) fn insert_text(
        &mut self,
        lane: Lane,
        text: &LaneText,
        since_boot: Duration,
    ) -> Result<(), Error> {
        let at = self.boot.at(since_boot);
        if text.provisional {
            self.spans.note(&self.db, lane, self.boot.number, self.queue.next_sequence(lane))?;
        }
        for piece in text.pieces(self.hold.block_bytes_max) {
            let first = self.queue.next_sequence(lane);
            let count = piece.count;
            let bytes = block::insert(&self.db, &mut self.codec, lane, first, text, piece, at)?;
            self.queue.appended(lane, count, since_boot);
            self.counters.commit_bytes.fetch_add(bytes, Relaxed);
            self.measure.wrote(lane, bytes, count);
        }
        Ok(())
    }
}
