//! One window of one sensor: panes in a ring, and the spans over them that end one after another.
//!
//! A span ends when the newest reading, less the lateness that is allowed, has come to its end. Its aggregate comes
//! from two stacks, where it has several panes, see [`Stacks`].

use super::extras::Extras;
use super::settings::{Settings, Shape};
use super::stacks::Stacks;
use super::stats::Stats;

/// The state of one window of one sensor. Panes are numbered from the epoch.
pub(super) struct Series {
    /// Index of the window this is of.
    pub(super) plan: u32,
    /// Readings in a row that came too late.
    late_run: u32,
    /// Where the next span ends: it covers the `panes` panes before this one. `None` before the first reading.
    next_end: Option<i64>,
    /// Time of the newest reading, and the newest pane with one: that of the other, but after the clock was set.
    newest_us: i64,
    newest: i64,
    ring: Box<[Pane]>,
    /// Of a window with more than one pane.
    stacks: Option<Box<Stacks>>,
    extras: Option<Box<Extras>>,
}

#[derive(Clone, Copy)]
pub(super) struct Pane {
    /// Which pane the slot holds; another number than the one asked for means that one is empty.
    number: i64,
    stats: Stats,
}

/// What became of a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    InTime,
    /// Older than the newest, in time for the spans still open.
    OutOfOrder,
    /// Every span it belongs to has ended: left out.
    TooLate,
    /// So far back that the sensor's clock must have been set: begun anew, the open spans are lost.
    Restarted,
}

/// A span that has ended, in microseconds since the epoch. It holds a reading at least.
pub(super) struct Span {
    pub(super) start_us: i64,
    pub(super) end_us: i64,
    pub(super) stats: Stats,
    pub(super) percentile: Option<f64>,
    pub(super) ewma: Option<f64>,
}

/// A window that has passed its check.
pub(super) struct Plan {
    pub(super) settings: Settings,
    pub(super) shape: Shape,
}

impl Plan {
    pub(super) fn of(settings: &Settings) -> Option<Self> {
        let shape = Shape::of(settings).ok()?;
        Some(Self { settings: settings.clone(), shape })
    }

    /// The length of a span.
    pub(super) fn duration_us(&self) -> i64 {
        self.shape.panes * self.shape.pane_us
    }

    /// What a sensor's state of it takes in memory, in panes: percentiles and weighted means count as some more.
    pub(super) fn weight(&self) -> usize {
        let slots = slots(&self.shape);
        slots + Extras::bytes(&self.settings, slots).div_ceil(size_of::<Pane>())
    }
}

impl Series {
    pub(super) fn new(index: usize, plan: &Plan) -> Self {
        let slots = slots(&plan.shape);
        Self {
            plan: u32::try_from(index).expect("windows are few"),
            late_run: 0,
            next_end: None,
            newest_us: i64::MIN,
            newest: i64::MIN,
            ring: vec![Pane { number: i64::MIN, stats: Stats::EMPTY }; slots].into(),
            stacks: Stacks::new(plan.shape.panes),
            extras: Extras::new(&plan.settings, slots),
        }
    }

    /// Takes a reading and first emits the spans that it shows to have ended. A span without readings is not
    /// emitted, so the work is bounded by the number of panes, however far the time jumps.
    pub(super) fn add(&mut self, plan: &Plan, time_us: i64, value: f64, emit: &mut impl FnMut(Span)) -> Fate {
        let shape = &plan.shape;
        let pane = shape.pane_of(time_us);
        let Some(next_end) = self.next_end else {
            self.begin(plan, time_us, value);
            return Fate::InTime;
        };
        let oldest = next_end - shape.panes;
        if pane < oldest {
            self.late_run += 1;
            let behind_us = (oldest - pane).saturating_mul(shape.pane_us);
            if behind_us <= FAR_BEHIND_US && self.late_run < LATE_RUN_MAX {
                return Fate::TooLate;
            }
            self.restart();
            self.begin(plan, time_us, value);
            return Fate::Restarted;
        }
        self.late_run = 0;
        let fate = if time_us < self.newest_us { Fate::OutOfOrder } else { Fate::InTime };
        let until_us = time_us - shape.lateness_us;
        self.close_until(plan, until_us, emit);
        if self.next_end.is_some_and(|end| end * shape.pane_us <= until_us) {
            // Nothing was read for a while: on to the first span that can still have readings.
            self.next_end = Some(shape.end_after(until_us));
            self.unmerge();
        }
        self.put(plan, time_us, value);
        fate
    }

    /// Emits the spans with readings that end at or before `until_us`.
    pub(super) fn close_until(&mut self, plan: &Plan, until_us: i64, emit: &mut impl FnMut(Span)) {
        while let Some(end) = self.next_end {
            if end * plan.shape.pane_us > until_us || !self.holds_readings(plan, end) {
                return;
            }
            self.close(plan, end, emit);
        }
    }

    /// Takes the spans up to the end at `end_us` for emitted, without emitting them.
    pub(super) fn was_emitted(&mut self, plan: &Plan, end_us: i64) {
        let next_end = plan.shape.end_after(end_us);
        if self.next_end.is_none_or(|end| end < next_end) {
            self.next_end = Some(next_end);
            self.unmerge();
        }
    }

    /// Goes along when the clock of the readings is set by `moved_us`: the span that the newest lies in becomes the one
    /// at its new time, and earlier ones follow.
    pub(super) fn clock_moved(&mut self, plan: &Plan, moved_us: i64) {
        let Some(next_end) = self.next_end else { return };
        if self.newest_us == i64::MIN {
            // There are no readings to take along.
            return self.restart();
        }
        let Shape { pane_us, step, .. } = plan.shape;
        let step_us = step * pane_us;
        let steps = (self.newest_us + moved_us).div_euclid(step_us) - self.newest_us.div_euclid(step_us);
        let panes = steps * step;
        self.next_end = Some(next_end + panes);
        self.newest_us += moved_us;
        self.newest += panes;
        self.unmerge();
        let mut from = vec![None; self.ring.len()];
        let mut ring = vec![Pane { number: i64::MIN, stats: Stats::EMPTY }; self.ring.len()];
        for (slot, pane) in self.ring.iter().enumerate().filter(|(_, pane)| pane.number != i64::MIN) {
            let number = pane.number + panes;
            let to = self.slot(number);
            let mut stats = pane.stats;
            // By as much as it was set: what is between two readings stays what it was.
            stats.clock_moved(moved_us);
            ring[to] = Pane { number, stats };
            from[to] = Some(slot);
        }
        self.ring = ring.into();
        if let Some(extras) = &mut self.extras {
            extras.rearrange(&from, moved_us);
        }
    }

    /// Forgets all readings.
    pub(super) fn restart(&mut self) {
        self.next_end = None;
        (self.newest_us, self.newest) = (i64::MIN, i64::MIN);
        self.unmerge();
        self.late_run = 0;
        // Numbers of a time that is yet to come must not be taken for panes of it.
        self.ring.fill(Pane { number: i64::MIN, stats: Stats::EMPTY });
    }

    /// The same state as that of window `plan`.
    pub(super) fn of_plan(self, plan: u32) -> Self {
        Self { plan, ..self }
    }

    /// Whether the span that ends at `end`, or a later one, has any reading.
    fn holds_readings(&self, plan: &Plan, end: i64) -> bool {
        self.newest >= end - plan.shape.panes
    }

    fn begin(&mut self, plan: &Plan, time_us: i64, value: f64) {
        self.next_end = Some(plan.shape.end_after(time_us - plan.shape.lateness_us));
        self.put(plan, time_us, value);
    }

    fn close(&mut self, plan: &Plan, end: i64, emit: &mut impl FnMut(Span)) {
        let Shape { pane_us, panes, step, .. } = plan.shape;
        let first = end - panes;
        let ring = &self.ring;
        let merge = |number: i64, into: &mut Stats| {
            let held = &ring[slot_of(number, ring.len())];
            if held.number == number {
                into.merge(&held.stats);
            }
        };
        let stats = match &mut self.stacks {
            Some(stacks) => stacks.aggregate(first..end, merge),
            None => {
                let mut stats = Stats::EMPTY;
                merge(first, &mut stats);
                stats
            }
        };
        self.next_end = Some(end + step);
        if stats.count == 0 {
            return;
        }
        let (percentile, ewma) = self.extras.as_ref().map_or((None, None), |extras| {
            let slots = (first..end).filter(|number| ring[slot_of(*number, ring.len())].number == *number);
            extras.of(&plan.settings, slots.map(|number| slot_of(number, ring.len())))
        });
        emit(Span { start_us: first * pane_us, end_us: end * pane_us, stats, percentile, ewma });
    }

    fn put(&mut self, plan: &Plan, time_us: i64, value: f64) {
        let pane = plan.shape.pane_of(time_us);
        let slot = self.slot(pane);
        let held = &mut self.ring[slot];
        let is_new = held.number != pane;
        if is_new {
            *held = Pane { number: pane, stats: Stats::EMPTY };
        }
        held.stats.add(time_us, value);
        if let Some(extras) = &mut self.extras {
            if is_new {
                extras.clear(slot);
            }
            extras.add(&plan.settings, slot, time_us, value);
        }
        self.newest_us = self.newest_us.max(time_us);
        self.newest = self.newest.max(pane);
        if let Some(stacks) = &mut self.stacks {
            stacks.changed(pane);
        }
    }

    fn unmerge(&mut self) {
        if let Some(stacks) = &mut self.stacks {
            stacks.forget();
        }
    }

    fn slot(&self, pane: i64) -> usize {
        slot_of(pane, self.ring.len())
    }
}

/// Where pane `number` lies in a ring of `slots`.
fn slot_of(number: i64, slots: usize) -> usize {
    usize::try_from(number.rem_euclid(slots as i64)).expect("a remainder is not negative")
}

fn slots(shape: &Shape) -> usize {
    usize::try_from(shape.slots()).expect("a checked window has few panes")
}

/// A reading this far behind the open span means that a clock was set back, not that it is late.
pub(super) const FAR_BEHIND_US: i64 = 86_400_000_000;
/// So many readings in a row that are too late mean the same.
pub(super) const LATE_RUN_MAX: u32 = 16;

#[cfg(test)]
mod tests;
