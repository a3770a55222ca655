//! Puts provisional times right once the clock of their boot is known: what the store holds in small
//! commits beside its other work, and what is about to be frozen before that. A frozen batch stays byte
//! for byte what it is; its marks let the receiver put it right.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::Worker;
use crate::clock::mark::{self, Correction, Quality};
use crate::store::block::{self, Block};
use crate::store::boot::{self, Standing};
use crate::store::infer::{self, Life};
use crate::store::provisional::{Span, Spans};
use crate::store::{ClockNews, Error, Lane};

/// A pass ends once it has read so much JSON, in bytes: others wait for its commit.
const PASS_BYTES_MAX: usize = 1024 * 1024;
/// What a step of a pass counts for at least, in bytes: those that find nothing cost time too.
const STEP_BYTES_MIN: usize = 4096;
/// Blocks of one boot and lane that are searched for what sources say of the time.
const EVIDENCE_BLOCKS_MAX: usize = 32;

impl Worker {
    /// Reads what is known of boots and of provisional times, after a rollback.
    pub(super) fn load_clock(&mut self) -> Result<(), Error> {
        self.spans = Spans::load(&self.db)?;
        self.corrections = boot::corrections(&self.db)?;
        Ok(())
    }

    /// Notes how the clock stands, behind everything that was stamped before.
    pub(super) fn note_clock(&mut self, news: ClockNews) -> Result<(), Error> {
        self.clock = Some(news);
        let number = self.boot.number;
        if !news.is_synchronised {
            // Once this boot was synchronised, that is the better guide.
            if !self.corrections.contains_key(&number) {
                self.begin()?;
                boot::note_offset(&self.db, number, news.offset, Standing::Provisional)?;
            }
            return Ok(());
        }
        self.begin()?;
        let shown = boot::shown_offset(&self.db, number)?;
        boot::note_offset(&self.db, number, news.offset, Standing::Synchronised)?;
        self.spans.close(&self.db, self.queue.next_sequences(), |_| true)?;
        self.infer(shown.map(|shown| news.offset - shown))?;
        self.corrections = boot::corrections(&self.db)?;
        Ok(())
    }

    /// Wall time at `since_boot` of this boot, as well as it is known.
    pub(super) fn wall(&self, since_boot: Duration) -> f64 {
        match self.clock {
            Some(news) => since_boot.as_secs_f64() + news.offset,
            None => self.clocks.unix_seconds(),
        }
    }

    /// Whether `lane` waits for the first synchronisation of this boot. What is critical never does.
    pub(super) fn is_held(&self, lane: Lane, since_boot: Duration) -> bool {
        let is_early = self.clock.is_none_or(|news| !news.is_synchronised && since_boot < news.wait_until);
        lane != Lane::Critical && is_early && self.spans.are_in(lane)
    }

    /// Whether [`Self::correct_some`] has anything to do.
    pub(super) fn has_corrections_due(&self) -> bool {
        self.due().is_some()
    }

    /// Puts some of the times right that are known by now, in a commit of its own.
    pub(super) fn correct_some(&mut self) -> Result<(), Error> {
        let mut bytes = 0;
        self.begin()?;
        while bytes < PASS_BYTES_MAX
            && let Some(span) = self.due()
        {
            bytes += STEP_BYTES_MIN + self.correct_first(span)?;
        }
        self.commit()?;
        if !self.has_corrections_due() {
            tracing::info!("every provisional time that can be is put right");
        }
        self.publish()
    }

    /// Puts right what is about to be frozen, inside the caller's transaction.
    pub(super) fn correct_before_freezing(&mut self, lane: Lane, first: u64, last: u64) -> Result<(), Error> {
        let is_meant = |span: &&Span| {
            let end = span.last.filter(|_| self.corrections.contains_key(&span.boot));
            span.lane == lane && span.first <= last && end.is_some_and(|end| end >= first)
        };
        let spans: Vec<Span> = self.spans.iter().filter(is_meant).copied().collect();
        for span in spans {
            let end = span.last.map_or(last, |end| end.min(last));
            let mut at = first.max(span.first);
            while at <= end {
                let block = block::at_or_after(&self.db, &mut self.codec, lane, at)?;
                let Some(block) = block.filter(|block| block.first <= end) else { break };
                if self.queue.frozen_until(lane, block.first, block.last() + 1).is_none() {
                    self.rewrite(lane, span.boot, &block)?;
                }
                at = block.last() + 1;
            }
        }
        Ok(())
    }

    /// A range that can be put right now.
    fn due(&self) -> Option<Span> {
        let is_due = |span: &&Span| {
            let last = span.last.filter(|_| self.corrections.contains_key(&span.boot));
            last.is_some_and(|last| {
                !span.waits || self.queue.frozen_until(span.lane, span.first, last + 1).is_none()
            })
        };
        self.spans.iter().find(is_due).copied()
    }

    /// Puts the first block of `span` right and goes on to the next; returns the bytes of JSON it held.
    fn correct_first(&mut self, span: Span) -> Result<usize, Error> {
        let last = span.last.unwrap_or(u64::MAX);
        let head = block::head_from(&self.db, span.lane, span.first)?;
        let Some(head) = head.filter(|head| head.first <= last) else {
            self.spans.forget(&self.db, span)?;
            return Ok(0);
        };
        let (first, next) = (head.first, head.end());
        if !span.waits && self.queue.frozen_until(span.lane, first, next).is_some() {
            self.spans.advance(&self.db, span, next, Some((first, next - 1)))?;
            return Ok(0);
        }
        let bytes = match block::at_or_after(&self.db, &mut self.codec, span.lane, first) {
            Ok(Some(block)) => {
                self.rewrite(span.lane, span.boot, &block)?;
                block.lines.len()
            }
            Ok(None) => 0,
            Err(error @ Error::Damaged { .. }) => {
                tracing::warn!(lane = ?span.lane, first, %error, "a block cannot be read: its times stay as they are");
                0
            }
            Err(error) => return Err(error),
        };
        self.spans.advance(&self.db, span, next, None)?;
        Ok(bytes)
    }

    fn rewrite(&mut self, lane: Lane, boot: i64, block: &Block) -> Result<(), Error> {
        let Some(correction) = self.corrections.get(&boot) else { return Ok(()) };
        let Some(better) = corrected(&block.lines, correction) else { return Ok(()) };
        block::replace(&self.db, &mut self.codec, lane, block.first, &better.lines, better.time)?;
        let counter = match correction.quality {
            Quality::Corrected => &self.counters.corrected,
            Quality::Inferred { .. } => &self.counters.inferred,
        };
        counter.fetch_add(better.items, Relaxed);
        Ok(())
    }

    /// Works out when earlier boots began, where that is needed. `jump` is how far this boot's own clock
    /// was off, in seconds.
    fn infer(&mut self, jump: Option<f64>) -> Result<(), Error> {
        let needed =
            |span: &Span| span.boot != self.boot.number && !self.corrections.contains_key(&span.boot);
        let spans: Vec<Span> = self.spans.iter().filter(|span| needed(span)).copied().collect();
        if spans.is_empty() {
            return Ok(());
        }
        let (numbers, mut lives): (Vec<i64>, Vec<Life>) = boot::lives(&self.db)?.into_iter().unzip();
        for span in &spans {
            if let Some(index) = numbers.iter().position(|number| *number == span.boot) {
                let evidence = self.evidence(*span)?;
                lives[index].evidence.extend(evidence);
            }
        }
        for (number, found) in numbers.into_iter().zip(infer::infer(&lives, jump)) {
            let Some(found) = found else { continue };
            tracing::info!(
                boot = number,
                began = found.offset,
                uncertainty_seconds = found.uncertainty,
                "the time of an earlier boot is inferred"
            );
            boot::note_offset(&self.db, number, found.offset, Standing::Inferred(found.uncertainty))?;
        }
        Ok(())
    }

    /// Offsets that `span`'s boot cannot be below, by the times that sources gave: what was taken before
    /// its commit.
    fn evidence(&mut self, span: Span) -> Result<Vec<f64>, Error> {
        let mut evidence = Vec::new();
        let mut at = span.first;
        for _ in 0..EVIDENCE_BLOCKS_MAX {
            let Some(head) = block::head_from(&self.db, span.lane, at)? else { break };
            if span.last.is_some_and(|last| head.first > last) {
                break;
            }
            at = head.end();
            let committed = head.at.millis as f64 / 1e3;
            match block::at_or_after(&self.db, &mut self.codec, span.lane, head.first) {
                Ok(Some(block)) => {
                    let times = own_times(&block.lines).max_by(f64::total_cmp);
                    evidence.extend(times.map(|time| time - committed));
                }
                Ok(None) | Err(Error::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(evidence)
    }
}

/// The lines of a block with some times put right.
struct Better {
    lines: Vec<u8>,
    items: u64,
    /// Of all items, the earliest and the latest.
    time: (f64, f64),
}

/// `None` when nothing in `lines` is for `correction`.
fn corrected(lines: &[u8], correction: &Correction) -> Option<Better> {
    let mut better =
        Better { lines: Vec::with_capacity(lines.len()), items: 0, time: (f64::INFINITY, f64::NEG_INFINITY) };
    for line in lines.split_inclusive(|byte| *byte == b'\n') {
        let start = better.lines.len();
        let text = std::str::from_utf8(line).unwrap_or_default().trim_end_matches('\n');
        if mark::correct(&mut better.lines, text, correction) {
            better.lines.push(b'\n');
            better.items += 1;
        } else {
            better.lines.extend_from_slice(line);
        }
        let written = std::str::from_utf8(&better.lines[start..]).unwrap_or_default();
        if let Some(time) = mark::timestamp(written) {
            better.time = (better.time.0.min(time), better.time.1.max(time));
        }
    }
    (better.items > 0).then_some(better)
}

/// The times in `lines` that are not the agent's.
fn own_times(lines: &[u8]) -> impl Iterator<Item = f64> {
    let lines = std::str::from_utf8(lines).unwrap_or_default().lines();
    lines.filter(|line| !mark::is_marked(line)).filter_map(mark::timestamp)
}

#[cfg(test)]
mod tests;
