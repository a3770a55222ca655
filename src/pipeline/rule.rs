//! Rules: a condition over each reading, over each result of a window, or over a sensor that went silent, and the
//! event it fires. A rule that cannot judge a reading never keeps another from judging it.

mod cooldown;
mod state;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use cooldown::Cooldowns;
use state::{Silence, Slot, States};

use crate::clock;
use crate::pipeline::expr::{CompileError, Context, EvalError, Expression, WindowValues};
use crate::reading::{Reading, Severity};

/// One rule, as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub name: String,
    pub condition_expr: String,
    pub severity: Severity,
    /// Least time between two fires of one sensor, on the readings' own time.
    pub cooldown: Duration,
    /// `Rule '<name>' fired` when none is given.
    pub message: Option<String>,
    /// How long the condition has to hold before it fires, on the readings' own time.
    pub hold: Duration,
    /// Fires when nothing came from a sensor for so long, on the boot clock, instead of on a reading; the
    /// condition says of its last reading whether it is meant.
    pub silent: Option<Duration>,
    /// Judges the results of this window instead of readings.
    pub window: Option<String>,
}

/// All rules, and what they remember of earlier readings.
#[derive(Debug)]
pub struct Rules {
    rules: Vec<Rule>,
    cooldowns: Cooldowns,
    states: States,
    /// Whether a reading changes what is remembered of its sensor.
    readings_have_state: bool,
    /// Whether any rule waits for silence, or judges windows.
    has_silent: bool,
    has_windows: bool,
}

/// One rule, ready to judge.
#[derive(Debug)]
pub struct Rule {
    settings: Settings,
    condition: Expression,
    message: String,
    counters: Arc<Counters>,
    trouble: Option<Trouble>,
    /// Its place in what is remembered of a sensor; none when it needs no memory.
    slot: Option<usize>,
    uses_previous: bool,
}

/// What a rule has done since the agent started; reloads do not reset it.
#[derive(Debug, Default)]
pub struct Counters {
    /// Events fired.
    pub events: AtomicU64,
    /// Readings the condition could not judge.
    pub evaluation_errors: AtomicU64,
}

/// A rule that fired, and the reading it fired on.
#[derive(Clone, Copy, Debug)]
pub struct Fired<'a> {
    pub rule: &'a Rule,
    pub reading: Reading<'a>,
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
            match Expression::compile(&settings.condition_expr) {
                Ok(condition) => rules.push(Rule::new(settings.clone(), condition)),
                Err(error) => problems.push(Problem { index, name: settings.name.clone(), error }),
            }
        }
        if !problems.is_empty() {
            return Err(Refused { problems });
        }
        let mut slots = 0;
        for rule in &mut rules {
            let settings = &rule.settings;
            if rule.uses_previous || !settings.hold.is_zero() || settings.silent.is_some() {
                rule.slot = Some(slots);
                slots += 1;
            }
        }
        let of_reading = |rule: &Rule| rule.settings.window.is_none();
        Ok(Self {
            cooldowns: Cooldowns::new(rules.len(), COOLDOWN_ENTRIES_MAX),
            states: States::new(slots, STATE_BYTES_MAX),
            readings_have_state: rules.iter().any(|rule| rule.slot.is_some() && of_reading(rule)),
            has_silent: rules.iter().any(|rule| rule.settings.silent.is_some()),
            has_windows: !rules.iter().all(of_reading),
            rules,
        })
    }

    /// With the fires of so many pairs of rule and sensor remembered at most, and so many bytes of what rules
    /// remember of sensors, also after a reload.
    pub fn remembering(mut self, entries_max: usize, state_bytes_max: usize) -> Self {
        self.cooldowns.limit(entries_max);
        self.states.limit(state_bytes_max);
        self
    }

    /// Forgets what is remembered of readings. Cooldowns stay.
    pub fn forget_readings(&mut self) {
        self.states.clear();
    }

    /// Goes on where `old` stopped: counters stay with their rule's name; cooldowns and what is remembered of
    /// sensors stay with rules whose settings did not change. Call it before anyone asks for [`Self::counters`].
    pub fn carry_over(&mut self, old: Self) {
        let Self { rules: old_rules, cooldowns: old_cooldowns, states: old_states, .. } = old;
        let unchanged: Vec<Option<usize>> = old_rules
            .iter()
            .map(|old| self.rules.iter().position(|rule| rule.settings == old.settings))
            .collect();
        self.cooldowns.carry_over(old_cooldowns, &unchanged);
        let pairs = old_rules.iter().zip(&unchanged);
        let kept = pairs.filter_map(|(old, now)| Some((old.slot?, self.rules[(*now)?].slot?)));
        self.states.carry_over(old_states, &kept.collect::<Vec<_>>());
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

    /// Judges one reading by all rules for readings in their order, and calls back for each that fires. It does
    /// not wait. The reading's numbers are finite and its metadata is a JSON object; `stamped` says that
    /// its time is the agent's own. `since_boot` is its arrival, in seconds on the boot clock.
    pub fn evaluate(
        &mut self,
        reading: Reading<'_>,
        stamped: bool,
        since_boot: f64,
        fired: &mut impl FnMut(Fired<'_>),
    ) {
        let Self { rules, cooldowns, states, readings_have_state, .. } = self;
        let mut sensor = readings_have_state.then(|| states.of(reading.sensor_name));
        let mut is_awaited = false;
        let mut ctx = Context::new(reading);
        for (index, rule) in rules.iter_mut().enumerate() {
            if rule.settings.window.is_some() {
                continue;
            }
            let slot = rule.slot.and_then(|slot| sensor.as_mut()?.slots.get_mut(slot));
            let holds = rule.judge(&mut ctx, reading, stamped, slot);
            if rule.settings.silent.is_some() {
                is_awaited |= holds;
            } else if holds {
                rule.fire(index, reading, stamped, cooldowns, fired);
            }
        }
        if let Some(sensor) = sensor {
            // What nobody asks for need not be kept.
            let is_kept = is_awaited || sensor.heard.is_some();
            let grown = if is_kept { sensor.hear(reading, stamped, since_boot) } else { 0 };
            states.settle(grown);
        }
    }

    /// Judges the result of the window of this name by the rules for it, as [`Self::evaluate`] does a reading;
    /// `reading` is what carries it.
    pub fn evaluate_result(
        &mut self,
        window: &str,
        values: WindowValues,
        reading: Reading<'_>,
        stamped: bool,
        fired: &mut impl FnMut(Fired<'_>),
    ) {
        if !self.has_windows {
            return;
        }
        let Self { rules, cooldowns, states, .. } = self;
        let mut ctx = Context::new(reading).with_window(values);
        for (index, rule) in rules.iter_mut().enumerate() {
            if rule.settings.window.as_deref() != Some(window) {
                continue;
            }
            let slot = rule.slot.and_then(|slot| states.of(reading.sensor_name).slots.get_mut(slot));
            if rule.judge(&mut ctx, reading, stamped, slot) {
                rule.fire(index, reading, stamped, cooldowns, fired);
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
        let Self { rules, cooldowns, states, .. } = self;
        for (name, sensor) in states.iter_mut() {
            let Some(heard) = &sensor.heard else { continue };
            let seconds = since_boot - heard.at;
            for (index, rule) in rules.iter().enumerate() {
                let Some(slot) = rule.slot.and_then(|slot| sensor.slots.get_mut(slot)) else { continue };
                let is_over = rule.settings.silent.is_some_and(|silent| seconds >= silent.as_secs_f64());
                if !is_over || slot.silence != Silence::Awaited {
                    continue;
                }
                slot.silence = Silence::Told;
                if cooldowns.permits(index, name, now, rule.settings.cooldown, true) {
                    rule.counters.events.fetch_add(1, Relaxed);
                    fired(Silent { rule, reading: heard.reading(name), stamped: heard.stamped, seconds });
                }
            }
        }
    }

    /// Goes along when the wall clock is set by `moved` seconds: cooldowns on the agent's own time last as
    /// long as they would have.
    pub fn clock_moved(&mut self, moved: f64) {
        self.cooldowns.clock_moved(moved);
        self.states.clock_moved(moved);
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

    pub fn len(&self) -> usize {
        self.rules.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

impl Rule {
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    pub fn severity(&self) -> Severity {
        self.settings.severity
    }

    /// The configured message, or `Rule '<name>' fired`.
    pub fn message(&self) -> &str {
        &self.message
    }

    fn new(settings: Settings, condition: Expression) -> Self {
        let message = match &settings.message {
            Some(message) => message.clone(),
            None => format!("Rule '{}' fired", settings.name),
        };
        let uses_previous = condition.uses_previous();
        Self {
            settings,
            condition,
            message,
            counters: Arc::default(),
            trouble: None,
            slot: None,
            uses_previous,
        }
    }

    /// Whether the condition is true, and has been for long enough. For silence: whether that is waited for.
    fn judge(
        &mut self,
        ctx: &mut Context<'_>,
        reading: Reading<'_>,
        stamped: bool,
        slot: Option<&mut Slot>,
    ) -> bool {
        if self.uses_previous {
            ctx.set_previous(slot.as_ref().and_then(|slot| slot.previous));
        }
        let verdict = self.condition.is_true(ctx);
        self.note(&verdict);
        let is_true = verdict == Ok(true);
        let Some(slot) = slot else { return is_true };
        if self.uses_previous {
            slot.remember(reading, stamped);
        }
        if self.settings.silent.is_some() {
            slot.silence = if is_true { Silence::Awaited } else { Silence::Unasked };
        }
        if self.settings.hold.is_zero() {
            return is_true;
        }
        slot.holds(is_true, reading.timestamp, self.settings.hold, stamped)
    }

    fn fire(
        &self,
        index: usize,
        reading: Reading<'_>,
        stamped: bool,
        cooldowns: &mut Cooldowns,
        fired: &mut impl FnMut(Fired<'_>),
    ) {
        let Settings { cooldown, .. } = self.settings;
        if cooldowns.permits(index, reading.sensor_name, reading.timestamp, cooldown, stamped) {
            self.counters.events.fetch_add(1, Relaxed);
            fired(Fired { rule: self, reading });
        }
    }

    /// Counts an error, and logs when errors begin and when they have ended.
    fn note(&mut self, verdict: &Result<bool, EvalError>) {
        if let Err(error) = verdict {
            self.counters.evaluation_errors.fetch_add(1, Relaxed);
            let now = clock::since_boot();
            if Trouble::met(&mut self.trouble, now) {
                tracing::warn!(
                    rule = self.name(),
                    error_kind = error.class.name(),
                    column = error.column,
                    reason = %error.message,
                    "rule cannot judge a reading; its other readings and other rules go on"
                );
            }
        } else if self.trouble.is_some()
            && let Some(ended) = Trouble::absent(&mut self.trouble, clock::since_boot())
        {
            tracing::info!(
                rule = self.name(),
                errors = ended.errors,
                duration_seconds = (ended.last - ended.since).as_secs(),
                "rule judges all readings again"
            );
        }
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

/// A spell of errors of one rule, on the time since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Trouble {
    since: Duration,
    last: Duration,
    errors: u64,
}

impl Trouble {
    /// Notes an error, and says whether it is the first of a spell.
    fn met(trouble: &mut Option<Self>, now: Duration) -> bool {
        match trouble {
            Some(trouble) => {
                trouble.last = now;
                trouble.errors += 1;
                false
            }
            None => {
                *trouble = Some(Self { since: now, last: now, errors: 1 });
                true
            }
        }
    }

    /// Notes a reading without an error, and gives the spell that this ends.
    fn absent(trouble: &mut Option<Self>, now: Duration) -> Option<Self> {
        // Of two sensors often only one lacks what the condition asks for: the rule is not well
        // again with each reading of the other.
        trouble.take_if(|trouble| now.saturating_sub(trouble.last) >= TROUBLE_QUIET_MIN)
    }
}

/// Sensors and rules together whose last fire is remembered.
pub const COOLDOWN_ENTRIES_MAX: usize = 4096;
/// What rules may remember of sensors, in bytes.
pub const STATE_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Timestamps of this century are floats with a step of a quarter microsecond: two that are meant to
/// be a cooldown apart may lie a little closer.
const TIMESTAMP_PRECISION_SECONDS: f64 = 1e-6;
/// A rule counts as recovered after this long without an error.
const TROUBLE_QUIET_MIN: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
