//! What one reading goes through: validation, the privacy firewall, rules, windows, encoding.

mod out;

use std::sync::atomic::Ordering::Relaxed;

use out::{About, Acts, Out, copies};

use crate::action::Doors;
use crate::clock::mark::{self, Mark};
use crate::privacy::{self, Action, Firewall, Verdict};
use crate::reading::{Batch, Committed, Reading, Refusal};
use crate::store::Staged;

use super::rule::{Fired, Judged, Rules, Silent};
use super::selection::{Selected, Selection};
use super::window::{WindowResult, Windows};
use super::{Counters, Standing, encode, validate};

/// The configured stages, ready to run. Built whole before it replaces the running one.
pub struct Stages {
    pub firewall: Firewall,
    pub rules: Rules,
    pub windows: Windows,
    pub selection: Selection,
    /// The ways to the actions that rules name.
    pub doors: Doors,
    /// Whether anything leaves the device; without it everything goes to the local lane, and stays
    /// there when delivery is enabled later.
    pub deliver: bool,
}

/// What a reload brings: built whole, before anything is replaced.
pub struct Plan {
    pub rules: Rules,
    pub windows: Windows,
    pub selection: Selection,
    pub privacy: privacy::Settings,
    pub doors: Doors,
    /// Of hashes.
    pub key: privacy::HashKey,
    pub deliver: bool,
}

impl Stages {
    /// Goes over to `plan`; cooldowns and windows whose settings are the same go on.
    pub fn reload(&mut self, plan: Plan) {
        self.firewall.reload(&plan.privacy, plan.key);
        // What was taken in while nothing was to leave does not leave later in a window or as a last reading.
        let forgets = plan.deliver && !self.deliver;
        let mut rules = std::mem::replace(&mut self.rules, plan.rules);
        if forgets {
            rules.forget_readings();
        }
        self.rules.carry_over(rules);
        let windows = std::mem::replace(&mut self.windows, plan.windows);
        if forgets {
            self.windows.begin_anew(&windows);
        } else {
            self.windows.carry_over(windows);
        }
        self.selection.reload(plan.selection);
        (self.doors, self.deliver) = (plan.doors, plan.deliver);
    }

    /// Goes along when the wall clock is set by `moved` seconds: what is open stays open, and what has to
    /// pass still has to.
    pub fn clock_moved(&mut self, moved: f64) {
        self.windows.clock_moved(moved);
        self.rules.clock_moved(moved);
        self.selection.clock_moved(moved);
    }

    /// Drops what is made anew when it is needed.
    pub fn shed(&mut self) {
        self.firewall.shed();
        self.selection.shed();
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
                self.note_refusal(Refusal::Privacy, "", standing.now, staged, counters);
                committed.refused += 1;
            }
        }
        self.firewall.tell(staged.filtered());
        counters.readings_processed.fetch_add(u64::from(committed.accepted), Relaxed);
        let errors = self.rules.counters().map(|(_, rule)| rule.evaluation_errors.load(Relaxed)).sum();
        counters.rule_errors.store(errors, Relaxed);
        counters.rule_states_forgotten.store(self.rules.state_evictions().load(Relaxed), Relaxed);
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
        self.note_refusal(reason, shown, now, staged, counters);
    }

    fn note_refusal(&self, reason: Refusal, shown: &str, now: f64, staged: &mut Staged, counters: &Counters) {
        counters.refuse(reason, shown);
        if self.deliver {
            staged.refuse(reason, shown, now);
        } else {
            staged.refuse_untold(reason, shown, now);
        }
    }

    /// Emits the windows that ended, by the wall clock, without a reading to say so, and the events of sensors
    /// that went silent.
    pub fn tick(&mut self, standing: &Standing<'_>, staged: &mut Staged, counters: &Counters) {
        let Self { firewall, rules, windows, selection, doors, deliver } = self;
        let acts = Acts { doors, delivers: *deliver };
        let mut results =
            Results { firewall, rules, selection, deliver: *deliver, acts, standing, staged, counters };
        if !windows.is_empty() {
            windows.flush(standing.now, &mut |result| results.emit(&result));
        }
        counters.show_windows(windows);
        rules.silences(standing.now - standing.offset, standing.now, &mut |silent| {
            let deliver = *deliver && selection.of(silent.reading.sensor_name).events;
            emit_silence(firewall, (deliver, acts), &silent, standing, staged, counters);
        });
        firewall.tell(staged.filtered());
    }

    /// False when the privacy firewall drops the reading; then nothing is derived from it either.
    fn process(
        &mut self,
        reading: Reading<'_>,
        Stamp { stamped, mark, standing }: Stamp<'_>,
        staged: &mut Staged,
        counters: &Counters,
    ) -> bool {
        let Self { firewall, rules, windows, selection, doors, deliver } = self;
        let deliver = *deliver;
        let acts = Acts { doors, delivers: deliver };
        let has_windows = !windows.is_empty();
        // What is not plain to everybody is not mixed into a window over all sensors either.
        let pooled = has_windows && firewall.sensor_action(reading.sensor_name) == Action::Allow;
        let Verdict::Keep { outbound, local } = firewall.judge(reading) else { return false };
        let selected = if deliver { selection.reading(reading, stamped) } else { Selected::ALL };
        counters.readings_suppressed.fetch_add(u64::from(!selected.reading), Relaxed);
        let mut out = Out { staged, deliver: deliver && selected.reading, acts, mark };
        out.stage(outbound, local, selected.suppressed);
        out.deliver = deliver && selected.events;
        let since_boot = standing.now - standing.offset;
        let judged = Judged { reading, stamped, since_boot, leaves: outbound.is_some() };
        rules.evaluate(judged, &mut |fired: Fired<'_>| {
            counters.events_triggered.fetch_add(1, Relaxed);
            let (outbound, local) = copies(fired.leaves, outbound, local);
            out.stage_event(About::reading(fired.rule, reading.timestamp, mark), outbound, local);
        });
        if has_windows {
            let mut results =
                Results { firewall, rules, selection, deliver, acts, standing, staged, counters };
            windows.add(reading, pooled, stamped, &mut |result| results.emit(&result));
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

/// What the results of windows pass through.
struct Results<'a, 's> {
    firewall: &'a mut Firewall,
    rules: &'a mut Rules,
    selection: &'a mut Selection,
    deliver: bool,
    acts: Acts<'a>,
    standing: &'a Standing<'s>,
    staged: &'a mut Staged,
    counters: &'a Counters,
}

impl Results<'_, '_> {
    /// A window's result travels as a reading of its sensor, so that the sensor's privacy holds for it.
    fn emit(&mut self, result: &WindowResult<'_>) {
        let Self { firewall, rules, selection, deliver, acts, standing, staged, counters } = self;
        let metadata = encode::window_metadata(result);
        let end = result.values.end;
        let reading = Reading {
            sensor_name: result.sensor_name,
            timestamp: end,
            value: result.value,
            unit: result.unit,
            metadata: &metadata,
        };
        counters.windows_emitted.fetch_add(1, Relaxed);
        let Verdict::Keep { outbound, local } = firewall.judge(reading) else { return };
        // The end of a span of the agent's own time stands as far from the wall clock as that does.
        let mark = if result.stamped { standing.mark(end - standing.offset) } else { None };
        let selected = selection.of(result.sensor_name);
        let mut out = Out { staged, deliver: *deliver && selected.windows, acts: *acts, mark };
        out.stage(outbound, local, 0);
        out.deliver = *deliver && selected.events;
        let judged = Judged { reading, stamped: result.stamped, since_boot: 0.0, leaves: outbound.is_some() };
        rules.evaluate_result(&result.window.name, result.values, judged, &mut |fired| {
            counters.events_triggered.fetch_add(1, Relaxed);
            let (outbound, local) = copies(fired.leaves, outbound, local);
            out.stage_event(About::reading(fired.rule, reading.timestamp, mark), outbound, local);
        });
    }
}

/// The event of a sensor that went silent carries its last reading, as privacy leaves that now.
fn emit_silence(
    firewall: &mut Firewall,
    (deliver, acts): (bool, Acts<'_>),
    silent: &Silent<'_>,
    standing: &Standing<'_>,
    staged: &mut Staged,
    counters: &Counters,
) {
    let Silent { rule, reading, stamped, seconds, leaves } = *silent;
    let Verdict::Keep { outbound, local } = firewall.judge(reading) else { return };
    let (outbound, local) = copies(leaves, outbound, local);
    counters.events_triggered.fetch_add(1, Relaxed);
    let mark = if stamped { standing.mark(reading.timestamp - standing.offset) } else { None };
    let metadata = encode::silence_metadata(seconds);
    let about = About {
        rule,
        timestamp: standing.now,
        metadata: &metadata,
        mark: standing.mark(standing.now - standing.offset),
    };
    Out { staged, deliver, acts, mark }.stage_event(about, outbound, local);
}

#[cfg(test)]
pub(super) mod tests;
