//! What one reading goes through: validation, the privacy firewall, rules, windows, encoding.

use std::sync::atomic::Ordering::Relaxed;

use crate::clock::mark::{self, Mark};
use crate::privacy::{self, Action, Firewall, Verdict};
use crate::reading::{Batch, Committed, Reading, Refusal, Severity};
use crate::store::{Lane, Staged};

use super::rule::{Fired, Rules};
use super::window::{WindowResult, Windows};
use super::{Counters, Standing, encode, validate};

/// The configured stages, ready to run. Built whole before it replaces the running one.
pub struct Stages {
    pub firewall: Firewall,
    pub rules: Rules,
    pub windows: Windows,
    /// Whether anything leaves the device; without it everything goes to the local lane, and stays
    /// there when delivery is enabled later.
    pub deliver: bool,
}

/// What a reload brings: built whole, before anything is replaced.
pub struct Plan {
    pub rules: Rules,
    pub windows: Windows,
    pub privacy: privacy::Settings,
    pub deliver: bool,
}

impl Stages {
    /// Goes over to `plan`; cooldowns and windows whose settings are the same go on.
    pub fn reload(&mut self, plan: Plan) {
        self.firewall.reload(&plan.privacy);
        let rules = std::mem::replace(&mut self.rules, plan.rules);
        self.rules.carry_over(rules);
        let windows = std::mem::replace(&mut self.windows, plan.windows);
        self.windows.carry_over(windows);
        self.deliver = plan.deliver;
    }

    /// Goes along when the wall clock is set by `moved` seconds: what is open stays open, and what has to
    /// pass still has to.
    pub fn clock_moved(&mut self, moved: f64) {
        self.windows.clock_moved(moved);
        self.rules.clock_moved(moved);
    }

    /// Drops what is made anew when it is needed.
    pub fn shed(&mut self) {
        self.firewall.shed();
    }

    /// Takes every reading of `batch` through the stages and stages what comes out. The agent's own
    /// stamps become wall time by `standing`.
    pub fn take_in(
        &mut self,
        batch: &Batch,
        standing: &Standing<'_>,
        staged: &mut Staged,
        counters: &Counters,
    ) -> Committed {
        let mut committed = Committed::default();
        for (reason, sensor) in batch.refusals() {
            self.count_refusal(reason, sensor, standing.now, staged, counters);
            committed.refused += 1;
        }
        for (reading, stamped) in batch.rows() {
            let mark = if stamped { standing.mark(reading.timestamp) } else { None };
            let timestamp = if stamped { reading.timestamp + standing.offset } else { reading.timestamp };
            let reading = Reading { timestamp, ..reading };
            if let Some(reason) = validate::refusal(&reading, stamped, standing) {
                self.count_refusal(reason, reading.sensor_name, standing.now, staged, counters);
                committed.refused += 1;
                continue;
            }
            let metadata = mark::disarm(reading.metadata);
            let reading = Reading { metadata: &metadata, ..reading };
            if self.process(reading, Stamp { stamped, mark, standing }, staged, counters) {
                committed.accepted += 1;
            } else {
                // Without the name: what is private is on no page.
                counters.refuse(Refusal::Privacy, "");
                staged.refuse(Refusal::Privacy, "", standing.now);
                committed.refused += 1;
            }
        }
        counters.readings_processed.fetch_add(u64::from(committed.accepted), Relaxed);
        let errors = self.rules.counters().map(|(_, rule)| rule.evaluation_errors.load(Relaxed)).sum();
        counters.rule_errors.store(errors, Relaxed);
        committed
    }

    /// Counts under the sensor's name only where the privacy policy leaves that alone: the counts stand
    /// on the health page, and the cloud is told of them.
    fn count_refusal(
        &mut self,
        reason: Refusal,
        sensor: &str,
        now: f64,
        staged: &mut Staged,
        counters: &Counters,
    ) {
        let shown = if self.firewall.shows_name(sensor) { sensor } else { "" };
        counters.refuse(reason, shown);
        staged.refuse(reason, shown, now);
    }

    /// Emits the windows that ended, by the wall clock, without a reading to say so.
    pub fn tick(&mut self, standing: &Standing<'_>, staged: &mut Staged, counters: &Counters) {
        let Self { firewall, windows, deliver, .. } = self;
        if windows.is_empty() {
            return;
        }
        let mut emit =
            |result: WindowResult<'_>| emit_window(firewall, *deliver, &result, standing, staged, counters);
        windows.flush(standing.now, &mut emit);
    }

    /// False when the privacy firewall drops the reading; then nothing is derived from it either.
    fn process(
        &mut self,
        reading: Reading<'_>,
        Stamp { stamped, mark, standing }: Stamp<'_>,
        staged: &mut Staged,
        counters: &Counters,
    ) -> bool {
        let Self { firewall, rules, windows, deliver } = self;
        let deliver = *deliver;
        let has_windows = !windows.is_empty();
        // What is not plain to everybody is not mixed into a window over all sensors either.
        let pooled = has_windows && firewall.sensor_action(reading.sensor_name) == Action::Allow;
        let Verdict::Keep { outbound, local } = firewall.judge(reading) else { return false };
        let mut out = Out { staged, deliver, mark };
        out.stage(outbound, local);
        rules.evaluate(reading, stamped, &mut |fired: Fired<'_>| {
            counters.events_triggered.fetch_add(1, Relaxed);
            out.stage_event(fired, outbound, local, reading.timestamp);
        });
        if has_windows {
            windows.add(reading, pooled, stamped, &mut |result| {
                emit_window(firewall, deliver, &result, standing, staged, counters)
            });
        }
        true
    }
}

/// Whose time a reading has, and the mark it gets for it.
#[derive(Clone, Copy)]
struct Stamp<'a> {
    stamped: bool,
    mark: Option<Mark<'a>>,
    standing: &'a Standing<'a>,
}

/// Where the copies of one item go.
struct Out<'a> {
    staged: &'a mut Staged,
    deliver: bool,
    mark: Option<Mark<'a>>,
}

impl Out<'_> {
    /// Puts what may leave into the lane of telemetry, and what may not, or differs, into the local one.
    fn stage(&mut self, outbound: Option<Reading<'_>>, local: Option<Reading<'_>>) {
        // Without delivery one copy is enough: the fuller one.
        let outbound = if self.deliver || local.is_none() { outbound } else { None };
        let mark = self.mark;
        if let Some(reading) = outbound {
            let lane = if self.deliver { Lane::Telemetry } else { Lane::Local };
            self.push(lane, reading.timestamp, |out| encode::reading(out, reading, mark));
        }
        if let Some(reading) = local {
            self.push(Lane::Local, reading.timestamp, |out| encode::reading(out, reading, mark));
        }
    }

    /// An event goes the way of the reading that fired it: it stays on the device when the reading does.
    fn stage_event(
        &mut self,
        fired: Fired<'_>,
        outbound: Option<Reading<'_>>,
        local: Option<Reading<'_>>,
        timestamp: f64,
    ) {
        let lane = match fired.rule.severity() {
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
            rule_name: fired.rule.name(),
            timestamp,
            severity: fired.rule.severity(),
            message: fired.rule.message(),
        };
        let mark = self.mark;
        self.push(lane, timestamp, |out| encode::event(out, text, about, mark));
    }

    fn push(&mut self, lane: Lane, timestamp: f64, write: impl FnOnce(&mut Vec<u8>)) {
        self.staged.push(lane, timestamp, write);
        if self.mark.is_some() {
            self.staged.note_provisional(lane);
        }
    }
}

/// A window's result travels as a reading of its sensor, so that the sensor's privacy holds for it.
fn emit_window(
    firewall: &mut Firewall,
    deliver: bool,
    result: &WindowResult<'_>,
    standing: &Standing<'_>,
    staged: &mut Staged,
    counters: &Counters,
) {
    let metadata = encode::window_metadata(result);
    let reading = Reading {
        sensor_name: result.sensor_name,
        timestamp: result.end,
        value: result.value(),
        unit: result.unit,
        metadata: &metadata,
    };
    counters.windows_emitted.fetch_add(1, Relaxed);
    if let Verdict::Keep { outbound, local } = firewall.judge(reading) {
        // The end of a span of the agent's own time stands as far from the wall clock as that does.
        let mark = if result.stamped { standing.mark(result.end - standing.offset) } else { None };
        Out { staged, deliver, mark }.stage(outbound, local);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::privacy::{HashKey, SensorRule};

    #[test]
    fn a_refusal_of_a_private_sensor_is_counted_without_its_name() {
        let rule = |sensor: &str, action| SensorRule { sensor: sensor.to_owned(), action };
        let settings = privacy::Settings {
            enabled: true,
            rules: vec![rule("badge-*", Action::Hash), rule("*-bedroom", Action::Drop)],
            ..privacy::Settings::default()
        };
        let mut stages = Stages {
            firewall: Firewall::new(&settings, HashKey::new(&[7; 32])),
            rules: Rules::new(&[]).unwrap(),
            windows: Windows::new(&[]),
            deliver: true,
        };
        let mut batch = Batch::default();
        let long = format!("{}-bedroom", "x".repeat(300));
        for sensor_name in ["badge-7", "door", &long] {
            batch.push(Reading { sensor_name, timestamp: 0.0, value: 1.0, unit: "", metadata: "{}" });
        }
        for sensor in ["the-bedroom", "door", &long] {
            batch.refuse(Refusal::Malformed, sensor);
        }
        let counters = Counters::default();
        let now = 1_800_000_000.0;
        let standing = Standing { boot: "b", offset: now, now, is_synchronised: true };
        let committed = stages.take_in(&batch, &standing, &mut Staged::default(), &counters);
        assert_eq!((committed.accepted, committed.refused), (0, 6));
        let names: Vec<_> = counters.refused_by_sensor().into_keys().collect();
        assert_eq!(names, ["", "door"]);
    }
}
