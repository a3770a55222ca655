//! Refused input that waits for its place in the ledger. It never had numbers, so it is counted by reason.

use super::gap::{Gap, Reason, Report};
use super::names::Names;
use crate::reading::Refusal;

/// Counts by reason; allocates only when something is refused.
#[derive(Debug, Default)]
pub struct Refused(Vec<Count>);

#[derive(Debug)]
struct Count {
    reason: Refusal,
    report: Report,
    count: u64,
    /// Of the wall clock when it was refused, Unix seconds.
    time: (f64, f64),
    sensors: Names,
}

impl Refused {
    /// Counts one refusal. `sensor` is empty where it is not known or not to be shown; `now` is the wall
    /// clock, Unix seconds.
    pub fn add(&mut self, reason: Refusal, sensor: &str, now: f64, report: Report) {
        let count = self.of(reason, report, now);
        count.count += 1;
        count.time = (count.time.0.min(now), count.time.1.max(now));
        count.sensors.add(sensor);
    }

    pub fn absorb(&mut self, other: Self) {
        for theirs in other.0 {
            let ours = self.of(theirs.reason, theirs.report, theirs.time.0);
            ours.count += theirs.count;
            ours.time = (ours.time.0.min(theirs.time.0), ours.time.1.max(theirs.time.1));
            ours.sensors.absorb(&theirs.sensors);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As rows of the ledger.
    pub fn gaps(&self, store_id: &str) -> impl Iterator<Item = (Gap, Report)> {
        self.0.iter().map(|count| {
            let gap = Gap {
                reason: Reason::Refused(count.reason),
                store_id: store_id.to_owned(),
                lane: None,
                span: None,
                count: count.count,
                time: Some(count.time),
                sensors: count.sensors.as_slice().to_vec(),
            };
            (gap, count.report)
        })
    }

    fn of(&mut self, reason: Refusal, report: Report, now: f64) -> &mut Count {
        let is_it = |count: &Count| (count.reason, count.report) == (reason, report);
        let at = self.0.iter().position(is_it).unwrap_or_else(|| {
            self.0.push(Count { reason, report, count: 0, time: (now, now), sensors: Names::default() });
            self.0.len() - 1
        });
        &mut self.0[at]
    }
}
