//! Where the copies of a reading and of an event go: the lanes of the store, and the actions.

use crate::action::{Doors, Occasion};
use crate::clock::mark::Mark;
use crate::pipeline::encode;
use crate::pipeline::rule::Rule;
use crate::reading::{Reading, Severity};
use crate::store::{Lane, Staged};

/// Which event, besides its reading.
#[derive(Clone, Copy)]
pub(super) struct About<'a> {
    pub(super) rule: &'a Rule,
    /// Unix seconds UTC.
    pub(super) timestamp: f64,
    pub(super) metadata: &'a str,
    /// Of the event's own time.
    pub(super) mark: Option<Mark<'a>>,
}

impl<'a> About<'a> {
    /// Of a reading, at its time.
    pub(super) fn reading(rule: &'a Rule, timestamp: f64, mark: Option<Mark<'a>>) -> Self {
        Self { rule, timestamp, metadata: "{}", mark }
    }
}

/// What events start, whatever is selected of their sensor for delivery.
#[derive(Clone, Copy)]
pub(super) struct Acts<'a> {
    pub(super) doors: &'a Doors,
    /// Delivery is on.
    pub(super) delivers: bool,
}

/// Where the copies of one item go.
pub(super) struct Out<'a> {
    pub(super) staged: &'a mut Staged,
    pub(super) deliver: bool,
    pub(super) acts: Acts<'a>,
    pub(super) mark: Option<Mark<'a>>,
}

impl Out<'_> {
    /// Puts what may leave into the lane of telemetry, and what may not, or differs, into the local one.
    ///
    /// What leaves says how many readings of its sensor a deadband held back before it.
    pub(super) fn stage(
        &mut self,
        outbound: Option<Reading<'_>>,
        local: Option<Reading<'_>>,
        suppressed: u32,
    ) {
        // Without delivery one copy is enough: the fuller one.
        let outbound = if self.deliver || local.is_none() { outbound } else { None };
        let mark = self.mark;
        if let Some(reading) = outbound {
            let lane = if self.deliver { Lane::Telemetry } else { Lane::Local };
            let metadata = encode::with_suppressed(reading.metadata, suppressed);
            let reading = Reading { metadata: &metadata, ..reading };
            self.push(lane, reading.timestamp, |out| encode::reading(out, reading, mark));
        }
        if let Some(reading) = local {
            self.push(Lane::Local, reading.timestamp, |out| encode::reading(out, reading, mark));
        }
    }

    /// An event goes the way of the reading that fired it: it stays on the device when the reading does.
    pub(super) fn stage_event(
        &mut self,
        about: About<'_>,
        outbound: Option<Reading<'_>>,
        local: Option<Reading<'_>>,
    ) {
        let About { rule, timestamp, metadata, mark: event_mark } = about;
        let lane = match rule.severity() {
            Severity::Critical => Lane::Critical,
            Severity::Warning => Lane::Anomaly,
            Severity::Info => Lane::Telemetry,
        };
        let (lane, about) = match outbound {
            Some(reading) if self.deliver => (lane, Some(reading)),
            _ => (Lane::Local, local.or(outbound)),
        };
        let Some(about) = about else { return };
        let text = encode::EventText {
            rule_name: rule.name(),
            timestamp,
            severity: rule.severity(),
            message: rule.message(),
            metadata,
            mark: event_mark,
        };
        let mark = self.mark;
        self.push(lane, timestamp, |out| encode::event(out, text, Some(about), mark));
        if event_mark.is_some() && mark.is_none() {
            self.staged.note_provisional(lane);
        }
        self.start_actions(rule, text, outbound);
    }

    /// Keeps places for what the event starts; each gets what may leave the device, wherever it is.
    fn start_actions(&mut self, rule: &Rule, text: encode::EventText<'_>, outbound: Option<Reading<'_>>) {
        let (mark, Acts { doors, delivers }) = (self.mark, self.acts);
        let sensor = outbound.map(|reading| reading.sensor_name);
        let occasion = Occasion { rule: rule.name(), sensor, delivers };
        for door in rule.actions().iter().filter_map(|name| doors.get(name)) {
            let admitted = door.admit(occasion, |out| encode::event(out, text, outbound, mark));
            if let Some(admitted) = admitted {
                self.staged.after_commit(move || admitted.start());
            }
        }
    }

    fn push(&mut self, lane: Lane, timestamp: f64, write: impl FnOnce(&mut Vec<u8>)) {
        self.staged.push(lane, timestamp, write);
        if self.mark.is_some() {
            self.staged.note_provisional(lane);
        }
    }
}

/// The copies of a reading for an event that may not leave although the reading may, or of one that may.
pub(super) fn copies<'r>(
    leaves: bool,
    outbound: Option<Reading<'r>>,
    local: Option<Reading<'r>>,
) -> (Option<Reading<'r>>, Option<Reading<'r>>) {
    if leaves { (outbound, local) } else { (None, local.or(outbound)) }
}
