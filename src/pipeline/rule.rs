//! Rules: a condition over each reading, over each result of a window, over a sensor that went silent, or over other
//! rules, and the event it fires. A rule that cannot judge a reading never keeps another from judging it.

mod composite;
mod cooldown;
mod judge;
pub mod recall;
mod settings;
mod state;
mod trouble;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

pub use judge::{Counters, Rule};
pub use settings::{Composite, GroupBy, Settings, cycles};

use composite::{Composites, Moment};
use cooldown::Cooldowns;
use state::{Silence, States};

use crate::pipeline::expr::{CompileError, Context, Expression};
use crate::pipeline::window;
use crate::reading::Reading;

/// All rules, and what they remember of earlier readings.
#[derive(Debug)]
pub struct Rules {
    rules: Vec<Rule>,
    cooldowns: Cooldowns,
    states: States,
    composites: Composites,
    /// Of the two together.
    state_bytes_max: usize,
    /// Whether a reading changes what is remembered of its sensor.
    readings_have_state: bool,
    /// Whether any rule waits for silence, or judges windows.
    has_silent: bool,
    has_windows: bool,
    /// When this run began to listen, in seconds on the boot clock; what was heard before is from an earlier one.
    listens_since: f64,
}

/// A rule that fired, and the reading it fired on.
#[derive(Clone, Copy, Debug)]
pub struct Fired<'a> {
    pub rule: &'a Rule,
    /// Of a rule over rules, the one that completed it.
    pub reading: Reading<'a>,
    /// It may leave the device as far as the reading does: a rule over rules can rest on others that may not.
    pub leaves: bool,
}

/// A reading, and what is known of it besides.
#[derive(Clone, Copy, Debug)]
pub struct Judged<'a> {
    pub reading: Reading<'a>,
    /// Its time is the agent's own.
    pub stamped: bool,
    /// Its arrival, in seconds on the boot clock.
    pub since_boot: f64,
    /// Privacy lets something of it leave the device.
    pub leaves: bool,
}

/// A rule that fired because a sensor went silent.
#[derive(Clone, Copy, Debug)]
pub struct Silent<'a> {
    pub rule: &'a Rule,
    /// The last one, as it came in.
    pub reading: Reading<'a>,
    /// The agent stamped it.
    pub stamped: bool,
    /// Since it arrived, in seconds on the boot clock.
    pub seconds: f64,
    /// As of [`Fired`].
    pub leaves: bool,
}

/// Every rule whose condition does not compile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.describe())]
pub struct Refused {
    pub problems: Vec<Problem>,
}

/// A condition that does not compile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Of the rule in the settings, from 0.
    pub index: usize,
    pub name: String,
    pub error: CompileError,
}

impl Rules {
    /// Compiles all conditions; nothing is remembered yet.
    ///
    /// # Errors
    /// All problems at once. The caller keeps the rules it has.
    pub fn new(settings: &[Settings]) -> Result<Self, Refused> {
        let mut rules = Vec::with_capacity(settings.len());
        let mut problems = Vec::new();
        for (index, settings) in settings.iter().enumerate() {
            let clear = settings.clear_expr.as_deref().map(Expression::compile).transpose();
            match (Expression::compile(&settings.condition_expr), clear) {
                (Ok(condition), Ok(clear)) => rules.push(Rule::new(settings.clone(), condition, clear)),
                (Err(error), _) | (_, Err(error)) => {
                    problems.push(Problem { index, name: settings.name.clone(), error });
                }
            }
        }
        if !problems.is_empty() {
            return Err(Refused { problems });
        }
        Ok(Self::of(rules, settings))
    }

    fn of(mut rules: Vec<Rule>, settings: &[Settings]) -> Self {
        let mut slots = 0;
        for rule in &mut rules {
            let settings = &rule.settings;
            if rule.keeps_previous()
                || rule.clear.is_some()
                || !settings.hold.is_zero()
                || settings.silent.is_some()
            {
                rule.slot = Some(slots);
                slots += 1;
            }
        }
        let mut all = Self {
            cooldowns: Cooldowns::new(rules.len(), COOLDOWN_ENTRIES_MAX),
            states: States::new(slots, STATE_BYTES_MAX),
            composites: Composites::new(settings),
            state_bytes_max: STATE_BYTES_MAX,
            readings_have_state: rules.iter().any(|rule| rule.remembers() && rule.is_of_readings()),
            has_silent: rules.iter().any(|rule| rule.settings.silent.is_some()),
            has_windows: rules.iter().any(|rule| rule.settings.window.is_some()),
            listens_since: 0.0,
            rules,
        };
        all.share(STATE_BYTES_MAX);
        all
    }

    /// With the fires of so many pairs of rule and sensor remembered at most, and so many bytes of what rules
    /// remember of sensors, also after a reload.
    pub fn remembering(mut self, entries_max: usize, state_bytes_max: usize) -> Self {
        self.cooldowns.limit(entries_max);
        self.share(state_bytes_max);
        self
    }

    /// Divides the room for what is remembered of sensors.
    fn share(&mut self, state_bytes_max: usize) {
        let of_groups = if self.composites.is_empty() { 0 } else { state_bytes_max / COMPOSITES_SHARE };
        self.composites.limit(of_groups);
        self.states.limit(state_bytes_max - of_groups);
        self.state_bytes_max = state_bytes_max;
    }

    /// Forgets what is remembered of readings. Cooldowns stay.
    pub fn forget_readings(&mut self) {
        self.states.clear();
    }

    /// Goes on where `old` stopped: counters stay with their rule's name; cooldowns and what is remembered of
    /// sensors stay with rules whose settings did not change. Call it before anyone asks for [`Self::counters`].
    pub fn carry_over(&mut self, old: Self) {
        let Self { rules: old_rules, cooldowns: old_cooldowns, states: old_states, .. } = old;
        let (old_composites, state_bytes_max) = (old.composites, old.state_bytes_max);
        self.listens_since = old.listens_since;
        let unchanged: Vec<Option<usize>> = old_rules
            .iter()
            .map(|old| self.rules.iter().position(|rule| rule.settings == old.settings))
            .collect();
        self.cooldowns.carry_over(old_cooldowns, &unchanged);
        let pairs = old_rules.iter().zip(&unchanged);
        let kept = pairs.filter_map(|(old, now)| Some((old.slot?, self.rules[(*now)?].slot?)));
        self.states.carry_over(old_states, &kept.collect::<Vec<_>>());
        if !self.rules.iter().any(Rule::remembers) {
            self.states.clear();
        }
        self.composites.carry_over(old_composites, &unchanged);
        self.share(state_bytes_max);
        for (old, now) in old_rules.into_iter().zip(unchanged) {
            if let Some(rule) = self.rules.iter_mut().find(|rule| rule.name() == old.name()) {
                rule.counters = old.counters;
            }
            // A changed condition is no longer the one that was in trouble.
            if let Some(now) = now {
                self.rules[now].trouble = old.trouble;
            }
        }
    }

    /// Judges one reading by all rules for readings in their order, and calls back for each that fires; rules over
    /// rules come last. It does not wait. The reading's numbers are finite and its metadata is a JSON object.
    pub fn evaluate(&mut self, judged: Judged<'_>, fired: &mut impl FnMut(Fired<'_>)) {
        let reading = judged.reading;
        self.judge_reading(
            judged,
            judged,
            |_| true,
            |rule, index, holds, cooldowns| holds && rule.fire(index, judged, cooldowns, fired),
        );
        self.judge_composites(Moment::of(judged), &mut |rule, leaves| {
            fired(Fired { rule, reading, leaves });
        });
    }

    /// Lets the rules for readings that `judges` names by their numbers judge one. `fires` says of each that has not
    /// fired, and which holds or not, whether it fires on this one. `heard` is the reading as a silence will tell of it.
    fn judge_reading(
        &mut self,
        judged: Judged<'_>,
        heard: Judged<'_>,
        judges: impl Fn(usize) -> bool,
        mut fires: impl FnMut(&Rule, usize, bool, &mut Cooldowns) -> bool,
    ) {
        let reading = judged.reading;
        let Self { rules, cooldowns, states, composites, readings_have_state, .. } = self;
        let mut sensor = readings_have_state.then(|| states.of(reading.sensor_name));
        let mut is_awaited = false;
        let mut ctx = Context::new(reading);
        ctx.set_previous(sensor.as_ref().and_then(|sensor| sensor.previous()));
        let is_asked = |(index, rule): &(usize, &mut Rule)| rule.is_of_readings() && judges(*index);
        for (index, rule) in rules.iter_mut().enumerate().filter(is_asked) {
            let slot = rule.slot.and_then(|slot| sensor.as_mut()?.slots.get_mut(slot));
            if rule.settings.silent.is_some() {
                is_awaited |= rule.judge(&mut ctx, judged, slot);
            } else if rule
                .judge_to_fire(&mut ctx, judged, slot, |rule, holds| fires(rule, index, holds, cooldowns))
            {
                composites.note(index);
            }
        }
        if let Some(sensor) = sensor {
            sensor.remember(reading, judged.stamped);
            // What nobody asks for need not be kept.
            let is_kept = is_awaited || sensor.heard.is_some();
            let grown = if is_kept { sensor.hear(heard) } else { 0 };
            states.settle(grown);
        }
    }

    /// Judges the result of the window of this name by the rules for it, as [`Self::evaluate`] does a reading;
    /// `judged` is what carries it.
    pub fn evaluate_result(
        &mut self,
        window: &str,
        values: window::Values,
        judged: Judged<'_>,
        fired: &mut impl FnMut(Fired<'_>),
    ) {
        if !self.has_windows {
            return;
        }
        let reading = judged.reading;
        self.judge_result(
            window,
            values,
            judged,
            |_| true,
            |rule, index, holds, cooldowns| holds && rule.fire(index, judged, cooldowns, fired),
        );
        self.judge_composites(Moment::of(judged), &mut |rule, leaves| {
            fired(Fired { rule, reading, leaves });
        });
    }

    /// As [`Self::judge_reading`], for the result of a window.
    fn judge_result(
        &mut self,
        window: &str,
        values: window::Values,
        judged: Judged<'_>,
        judges: impl Fn(usize) -> bool,
        mut fires: impl FnMut(&Rule, usize, bool, &mut Cooldowns) -> bool,
    ) {
        let Self { rules, cooldowns, states, composites, .. } = self;
        let reading = judged.reading;
        let mut ctx = Context::new(reading).with_window(values);
        let is_asked = |(index, rule): &(usize, &mut Rule)| {
            rule.settings.window.as_deref() == Some(window) && judges(*index)
        };
        for (index, rule) in rules.iter_mut().enumerate().filter(is_asked) {
            let slot = rule.slot.and_then(|slot| states.of(reading.sensor_name).slots.get_mut(slot));
            if rule.judge_to_fire(&mut ctx, judged, slot, |rule, holds| fires(rule, index, holds, cooldowns))
            {
                composites.note(index);
            }
        }
        states.settle(0);
    }

    /// Calls back for each sensor and rule whose silence has lasted long enough, once per silence. To be called
    /// each second. `since_boot` is the boot clock in seconds, `now` the wall clock in Unix seconds UTC, on which
    /// the cooldown goes.
    pub fn silences(&mut self, since_boot: f64, now: f64, fired: &mut impl FnMut(Silent<'_>)) {
        if !self.has_silent {
            return;
        }
        let Self { rules, cooldowns, states, composites, listens_since, .. } = self;
        // Whoever sends still has to find the agent after a start.
        let listened = since_boot - *listens_since;
        for (name, sensor) in states.iter_mut() {
            let Some(heard) = &sensor.heard else { continue };
            let (seconds, leaves) = (since_boot - heard.at, heard.leaves);
            let moment = Moment { sensor: name, timestamp: now, stamped: true, leaves };
            let told = |rule, leaves| Silent {
                rule,
                reading: heard.reading(name),
                stamped: heard.stamped,
                seconds,
                leaves,
            };
            for (index, rule) in rules.iter().enumerate() {
                let Some(slot) = rule.slot.and_then(|slot| sensor.slots.get_mut(slot)) else { continue };
                let is_over = rule.settings.silent.is_some_and(|silent| {
                    seconds >= silent.as_secs_f64() && listened >= silent.min(LISTENS_MIN).as_secs_f64()
                });
                if !is_over || slot.silence == Silence::Unasked {
                    continue;
                }
                if slot.silence == Silence::Told {
                    composites.goes_on(index, moment);
                    continue;
                }
                slot.silence = Silence::Told;
                composites.note(index);
                if cooldowns.permits(index, name, now, rule.settings.cooldown, true) {
                    rule.counters.events.fetch_add(1, Relaxed);
                    fired(told(rule, true));
                }
            }
            composites.judge(moment, &mut |holds| {
                if let Some(rule) = rules[holds.rule].fires_for(holds, moment, cooldowns) {
                    fired(told(rule, holds.leaves));
                }
            });
        }
    }

    /// Asks the rules over rules about what was noted.
    fn judge_composites(&mut self, moment: Moment<'_>, fired: &mut impl FnMut(&Rule, bool)) {
        let Self { rules, cooldowns, composites, .. } = self;
        composites.judge(moment, &mut |holds| {
            if let Some(rule) = rules[holds.rule].fires_for(holds, moment, cooldowns) {
                fired(rule, holds.leaves);
            }
        });
    }

    /// Goes along when the wall clock is set by `moved` seconds: cooldowns on the agent's own time last as
    /// long as they would have.
    pub fn clock_moved(&mut self, moved: f64) {
        self.cooldowns.clock_moved(moved);
        self.states.clock_moved(moved);
        self.composites.clock_moved(moved);
    }

    /// Each rule's name and its counters, which stay current until the next reload.
    pub fn counters(&self) -> impl ExactSizeIterator<Item = (&str, &Arc<Counters>)> {
        self.rules.iter().map(|rule| (rule.name(), &rule.counters))
    }

    /// How often the oldest cooldown was forgotten because there were too many; its sensor may then
    /// have fired early. Counted since the agent started.
    pub fn cooldown_evictions(&self) -> &Arc<AtomicU64> {
        self.cooldowns.evictions()
    }

    /// How many sensors were forgotten because there was no room for what is remembered of them: a condition
    /// that held begins anew, and a silence is not noticed. Counted since the agent started.
    pub fn state_evictions(&self) -> &Arc<AtomicU64> {
        self.states.evictions()
    }

    /// Whether anything fires because time passes.
    pub fn wait_for_silence(&self) -> bool {
        self.has_silent
    }

    pub fn len(&self) -> usize {
        self.rules.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self::of(Vec::new(), &[])
    }
}

impl Refused {
    fn describe(&self) -> String {
        let problems = self.problems.iter().map(|problem| {
            format!("rules[{}].condition_expr of '{}': {}", problem.index, problem.name, problem.error)
        });
        problems.collect::<Vec<_>>().join("; ")
    }
}

/// Sensors and rules together whose last fire is remembered.
pub const COOLDOWN_ENTRIES_MAX: usize = 4096;
/// What rules may remember of sensors, in bytes.
pub const STATE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// How long the agent listens before it takes a sensor for silent that it heard before a restart.
const LISTENS_MIN: Duration = Duration::from_secs(30);
/// Rules over rules have such a part of it, where there are any.
const COMPOSITES_SHARE: usize = 4;
/// Timestamps of this century are floats with a step of a quarter microsecond: two that are meant to
/// be a cooldown apart may lie a little closer.
const TIMESTAMP_PRECISION_SECONDS: f64 = 1e-6;

#[cfg(test)]
mod tests;
