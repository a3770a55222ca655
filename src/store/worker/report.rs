//! Tells the cloud of gaps: rows of the ledger become events in the lane of anomalies. The event is written
//! in the transaction that marks its rows, so each is told once, and from there on it is delivered like any
//! other item.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;

use super::Worker;
use crate::clock::mark::{self, Mark};
use crate::reading::Severity;
use crate::store::gap::{self, Gap, Key, Reason, Report, Told};
use crate::store::names::{NAMES_MAX, Names};
use crate::store::refused::Refused;
use crate::store::staged::LaneText;
use crate::store::{Error, Lane, trouble};

/// `rule_name` of the events that tell of gaps.
pub const GAP_RULE: &str = "pyvorin.gap";
/// How such an event begins.
const GAP_ITEM: &[u8] = b"{\"rule_name\":\"pyvorin.gap\",";
/// A gap is told so long after it began or was last told: it may still grow.
const REPORT_WAIT: Duration = Duration::from_secs(60);
/// While it grows on and on the wait doubles, up to this.
const REPORT_WAIT_MAX: Duration = Duration::from_secs(3600);
/// Refusals wait so long for a commit that takes them along, then for any.
const REFUSALS_WAIT: Duration = Duration::from_secs(60);
/// Without any commit for so long they make one.
const REFUSALS_WAIT_MAX: Duration = Duration::from_secs(3600);
/// Between two looks at what is due.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What has been told, and what waits for it.
#[derive(Debug, Default)]
pub struct Reporter {
    /// The ledger may hold rows that are not reported.
    may_be_due: bool,
    /// It was not looked at yet: what an earlier process left does not grow any more.
    inherits: bool,
    /// Its totals are to be shown anew.
    pub ledger_changed: bool,
    /// Boot clock; since when refusals wait.
    refused_since: Option<Duration>,
    looked_at: Option<Duration>,
    keys: Vec<Known>,
}

/// A kind of gap. All instants are of the boot clock.
#[derive(Debug)]
struct Known {
    key: Key,
    /// When a row was first seen that is not told.
    seen_at: Option<Duration>,
    told_at: Option<Duration>,
    wait: Duration,
    /// Number of the event that told of it last.
    event: u64,
}

impl Reporter {
    /// Before the ledger was looked at.
    pub fn unknown() -> Self {
        Self { may_be_due: true, inherits: true, ledger_changed: true, ..Self::default() }
    }

    fn ledger_grew(&mut self) {
        (self.may_be_due, self.ledger_changed) = (true, true);
    }

    fn known(&mut self, key: &Key) -> &mut Known {
        let at = self.keys.iter().position(|known| known.key == *key).unwrap_or_else(|| {
            let fresh = Known { key: key.clone(), seen_at: None, told_at: None, wait: REPORT_WAIT, event: 0 };
            self.keys.push(fresh);
            self.keys.len() - 1
        });
        &mut self.keys[at]
    }
}

impl Known {
    /// Whether it is to be told at `now`; notes that it waits.
    fn is_due(&mut self, now: Duration) -> bool {
        let seen_at = *self.seen_at.get_or_insert(now);
        now.saturating_sub(seen_at) >= self.wait
    }

    fn told(&mut self, now: Duration, event: u64) {
        let goes_on = self.told_at.is_some_and(|told| now.saturating_sub(told) < self.wait * 2 + REPORT_WAIT);
        self.wait = if goes_on { (self.wait * 2).min(REPORT_WAIT_MAX) } else { REPORT_WAIT };
        (self.seen_at, self.told_at, self.event) = (None, Some(now), event);
    }
}

impl Worker {
    /// Notes what is lost of a lane, inside the transaction that loses it: the numbers of `parts`, which lie
    /// in `items`, one a line from number `first` on.
    pub(super) fn note_lost(
        &mut self,
        reason: Reason,
        lane: Lane,
        parts: &[(u64, u64)],
        (first, items): (u64, &[u8]),
        time: Option<(f64, f64)>,
    ) -> Result<(), Error> {
        for &(from, last) in parts {
            let mut sensors = Names::default();
            let mut reports = 0;
            let skipped = usize::try_from(from - first).unwrap_or(usize::MAX);
            let count = last - from + 1;
            let taken = usize::try_from(count).unwrap_or(usize::MAX);
            for line in items.split(|byte| *byte == b'\n').skip(skipped).take(taken) {
                if lane == Lane::Anomaly && line.starts_with(GAP_ITEM) {
                    reports += 1;
                }
                sensors.add_of(line);
                if sensors.is_full() && lane != Lane::Anomaly {
                    break;
                }
            }
            let gap = Gap {
                reason,
                store_id: self.store_id.to_string(),
                lane: Some(lane),
                span: Some((from, last)),
                count,
                time,
                sensors: sensors.into_vec(),
            };
            let report = if reports == count { Report::Never } else { Report::Due };
            self.record_gap(&gap, report)?;
        }
        Ok(())
    }

    /// Notes `gap`, inside the transaction that loses it.
    pub(super) fn record_gap(&mut self, gap: &Gap, report: Report) -> Result<(), Error> {
        self.reporter.ledger_grew();
        gap::record_as(&self.db, gap, self.clocks.unix_seconds(), report)
    }

    /// Keeps what was refused until it is due.
    pub(super) fn take_refused(&mut self, refused: Refused) {
        if !refused.is_empty() {
            self.refused.absorb(refused);
            self.reporter.refused_since.get_or_insert(self.clocks.since_boot());
        }
    }

    /// Writes what was refused into the ledger when it has waited long enough; `at_once` at the end. Inside
    /// the caller's transaction; the counts go once that is committed.
    pub(super) fn note_refused(&mut self, at_once: bool) -> Result<bool, Error> {
        if self.refused.is_empty() {
            return Ok(false);
        }
        let now = self.clocks.since_boot();
        let since = *self.reporter.refused_since.get_or_insert(now);
        if !at_once && now.saturating_sub(since) < REFUSALS_WAIT {
            return Ok(false);
        }
        self.begin()?;
        for (gap, report) in self.refused.gaps(&self.store_id) {
            gap::record_as(&self.db, &gap, self.clocks.unix_seconds(), report)?;
        }
        Ok(true)
    }

    /// Forgets the refusals that are committed now.
    pub(super) fn refused_are_noted(&mut self) {
        self.refused = Refused::default();
        self.reporter.refused_since = None;
        self.reporter.ledger_grew();
    }

    /// [`Self::report_gaps`], but what finds no room on the disk waits.
    pub(super) fn report(&mut self, at_once: bool) -> Result<(), Error> {
        match self.report_gaps(at_once) {
            Err(error) if trouble::leaves_connection_whole(&error) => self.roll_back(),
            result => result,
        }
    }

    /// Commits the reports that are due; with `at_once` all of them. Where nothing is delivered none is made,
    /// and none while the one before still waits for its delivery: the row grows meanwhile.
    fn report_gaps(&mut self, at_once: bool) -> Result<(), Error> {
        let now = self.clocks.since_boot();
        let looked_at = self.reporter.looked_at;
        if !at_once && looked_at.is_some_and(|at| now.saturating_sub(at) < LOOK_INTERVAL) {
            return Ok(());
        }
        let refused_since = self.reporter.refused_since;
        let has_waited = refused_since.is_some_and(|since| now.saturating_sub(since) >= REFUSALS_WAIT_MAX);
        if (at_once || has_waited) && self.note_refused(true)? {
            self.commit()?;
            self.refused_are_noted();
        }
        if !self.reporter.may_be_due || !self.reports.load(Relaxed) {
            return Ok(());
        }
        self.reporter.looked_at = Some(now);
        let keys = gap::unreported(&self.db)?;
        self.reporter.may_be_due = !keys.is_empty();
        let at_once = std::mem::take(&mut self.reporter.inherits) || at_once;
        for key in keys {
            let known = self.reporter.known(&key);
            let is_due = known.is_due(now) || at_once;
            let event = known.event;
            if !is_due || self.queue.is_pending(Lane::Anomaly, event) {
                continue;
            }
            self.begin()?;
            let told = gap::take(&self.db, &key)?;
            let event = self.tell(&key, &told)?;
            self.commit()?;
            self.reporter.known(&key).told(now, event);
        }
        self.publish()
    }

    /// Appends the event, inside the transaction; returns its number.
    fn tell(&mut self, key: &Key, told: &Told) -> Result<u64, Error> {
        let since_boot = self.clocks.since_boot();
        let now = self.wall(since_boot);
        let boot = self.clocks.boot_id();
        let is_provisional = self.clock.is_some_and(|news| !news.is_synchronised);
        let mark = is_provisional.then(|| Mark { boot: &boot, boot_time: since_boot.as_secs_f64() });
        let mut text = LaneText { provisional: is_provisional, ..LaneText::default() };
        text.push(now, |out| write(out, key, told, now, mark));
        let first = self.queue.next_sequence(Lane::Anomaly);
        self.insert_own(Lane::Anomaly, &text)?;
        Ok(first)
    }
}

/// Appends the event, without a line break.
fn write(out: &mut Vec<u8>, key: &Key, told: &Told, now: f64, mark: Option<Mark<'_>>) {
    let message = format!("{} items will not be delivered: {}", told.count, Reason::text(&key.reason));
    let metadata = Metadata {
        reason: &key.reason,
        store_id: &key.store_id,
        lane: key.lane,
        spans: &told.spans,
        count: told.count,
        time_min: told.time.map(|(min, _)| min),
        time_max: told.time.map(|(_, max)| max),
        sensors: told.sensors.as_slice(),
        more_sensors: told.sensors.as_slice().len() >= NAMES_MAX,
    };
    let event = GapEvent {
        rule_name: GAP_RULE,
        timestamp: now,
        severity: Severity::Warning.name(),
        message: &message,
        sensor_readings: [],
        metadata: mark::with_mark(&metadata, mark),
    };
    serde_json::to_writer(out, &event).expect("strings and finite numbers always encode");
}

#[derive(Serialize)]
struct GapEvent<'a> {
    rule_name: &'a str,
    timestamp: f64,
    severity: &'a str,
    message: &'a str,
    sensor_readings: [(); 0],
    metadata: Box<RawValue>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    reason: &'a str,
    store_id: &'a str,
    lane: Option<i64>,
    spans: &'a [(u64, u64)],
    count: u64,
    time_min: Option<f64>,
    time_max: Option<f64>,
    sensors: &'a [String],
    more_sensors: bool,
}
