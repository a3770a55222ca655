//! What rules remember, after a restart: readings and results that were judged before are judged once more, in which
//! nothing fires; what did fire is known from the events that are stored.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::composite::{Composites, Moment};
use super::state::Silence;
use super::{Judged, Rules, Settings, TIMESTAMP_PRECISION_SECONDS};
use crate::pipeline::expr::Expression;
use crate::pipeline::window;
use crate::reading::Reading;

/// How far back from the newest reading rules remember.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Each reading counts so far: a condition that has to hold, rules that have to hold together.
    pub each: Duration,
    /// The last of each sensor or rule does: what was there before, when something fired, when a sensor was heard.
    pub last: Duration,
}

/// An event that is stored: a rule has fired.
#[derive(Clone, Copy, Debug)]
pub struct Fire<'a> {
    pub rule: &'a str,
    /// Of its reading.
    pub sensor: &'a str,
    /// Unix seconds, of the event and of its reading.
    pub timestamp: f64,
    pub about: f64,
    /// The agent stamped it in this boot.
    pub stamped: bool,
}

/// What is stored as it came in.
#[derive(Clone, Copy, Debug)]
pub struct Sight {
    pub metadata: bool,
    pub unit: bool,
}

/// Rules while they are told what was before.
pub struct Recall {
    rules: Rules,
    /// Of each rule, whether judging once more tells anything.
    judges: Vec<bool>,
    numbers: HashMap<String, usize>,
    sight: Sight,
    /// False where they tell nothing, and once there are some that must not be remembered.
    takes_readings: bool,
    /// Rule, and sensor and time of the reading, of every event of the present commit.
    fires: HashSet<(usize, u64)>,
}

impl Rules {
    /// How far back goes what they remember; nothing without a rule that remembers.
    pub fn reach(&self) -> Reach {
        let mut reach = Reach::default();
        for rule in &self.rules {
            let Settings { hold, cooldown, silent, composite, .. } = &rule.settings;
            let within = composite.as_ref().map_or(Duration::ZERO, |composite| composite.within);
            reach.each = reach.each.max(*hold).max(within);
            let last = (*cooldown).max(silent.unwrap_or_default());
            let at_least = if rule.remembers() { LAST_MIN } else { Duration::ZERO };
            reach.last = reach.last.max(last).max(at_least);
        }
        Reach { last: reach.last.max(reach.each), ..reach }
    }

    /// The same rules, without anything they know.
    pub fn begun_anew(&self) -> Self {
        let settings: Vec<_> = self.rules.iter().map(|rule| rule.settings.clone()).collect();
        match Self::new(&settings) {
            Ok(rules) => rules.remembering(self.cooldowns.entries_max(), self.state_bytes_max),
            // They did compile.
            Err(_) => Self::default(),
        }
    }

    /// Goes on from here, at `since_boot` seconds on the boot clock.
    pub fn resume(&mut self, since_boot: f64) {
        self.listens_since = since_boot;
    }
}

impl Recall {
    /// Rules that look at what is not in `sight` begin anew.
    pub fn new(mut rules: Rules, sight: Sight) -> Self {
        let Rules { rules: all, composites, .. } = &mut rules;
        let mut judges = Vec::with_capacity(all.len());
        let mut takes_readings = false;
        for (index, rule) in all.iter_mut().enumerate() {
            rule.is_muted = true;
            let is_asked_for = composites.ask_for(index);
            let sees = (sight.metadata || !rule.asks_for(Expression::uses_metadata))
                && (sight.unit || !rule.asks_for(Expression::uses_unit));
            takes_readings |= sees && (rule.remembers() || is_asked_for);
            // The reading before is remembered for all of them without asking any.
            judges.push(sees && (rule.slot.is_some() || is_asked_for));
        }
        let numbers = all.iter().enumerate().map(|(index, rule)| (rule.name().to_owned(), index)).collect();
        let fires = HashSet::new();
        Self { rules, judges, numbers, sight, takes_readings, fires }
    }

    /// Whether readings tell it anything.
    pub fn takes_readings(&self) -> bool {
        self.takes_readings
    }

    /// Whether the events of the rule of this name tell it anything.
    pub fn takes_events(&self, rule: &str) -> bool {
        self.numbers.get(rule).is_some_and(|index| {
            let Settings { cooldown, silent, clear_expr, .. } = &self.rules.rules[*index].settings;
            !cooldown.is_zero() || silent.is_some() || clear_expr.is_some()
        })
    }

    /// Forgets what readings told, and takes none any more. When rules fired is kept.
    pub fn forget_readings(&mut self) {
        self.takes_readings = false;
        self.rules.states.clear();
        self.rules.composites.clear();
    }

    /// Notes an event of the commit whose readings come next.
    pub fn will_fire(&mut self, fire: Fire<'_>) {
        if let Some(index) = self.numbers.get(fire.rule)
            && self.rules.rules[*index].clear.is_some()
        {
            self.fires.insert((*index, digest(fire.sensor, fire.about)));
        }
    }

    /// Takes a reading that was judged before. Its `since_boot` is on any clock of seconds on which [`Self::finish`] is
    /// told the end.
    pub fn reading(&mut self, judged: Judged<'_>) {
        if !self.takes_readings {
            return;
        }
        let Reading { sensor_name, timestamp, .. } = judged.reading;
        // What was hashed must not be hashed again when the event of a silence has it.
        let metadata = if self.sight.metadata { judged.reading.metadata } else { "{}" };
        let unit = if self.sight.unit { judged.reading.unit } else { "" };
        let heard = Judged { reading: Reading { unit, metadata, ..judged.reading }, ..judged };
        let Self { rules, judges, fires, .. } = self;
        rules.judge_reading(
            judged,
            heard,
            |index| judges[index],
            |rule, index, _, _| {
                rule.clear.is_some() && fires.contains(&(index, digest(sensor_name, timestamp)))
            },
        );
        hold_together(&mut rules.composites, Moment::of(judged));
    }

    /// Takes the result of a window that was judged before.
    pub fn result(&mut self, window: &str, values: window::Values, judged: Judged<'_>) {
        if !self.takes_readings || !self.rules.has_windows {
            return;
        }
        let Reading { sensor_name, timestamp, .. } = judged.reading;
        let Self { rules, judges, fires, .. } = self;
        rules.judge_result(
            window,
            values,
            judged,
            |index| judges[index],
            |rule, index, _, _| {
                rule.clear.is_some() && fires.contains(&(index, digest(sensor_name, timestamp)))
            },
        );
        hold_together(&mut rules.composites, Moment::of(judged));
    }

    /// Takes an event, behind the readings of its commit.
    pub fn fired(&mut self, fire: Fire<'_>) {
        let Some(index) = self.numbers.get(fire.rule).copied() else { return };
        let Rules { rules, cooldowns, states, composites, .. } = &mut self.rules;
        let Fire { sensor, timestamp, about, stamped, .. } = fire;
        let Settings { cooldown, silent, composite, .. } = &rules[index].settings;
        if !cooldown.is_zero() {
            let group = composite.as_ref().map_or(sensor, |composite| composite.group_by.of(sensor));
            cooldowns.note(index, group, timestamp, stamped);
        }
        if silent.is_none() {
            return;
        }
        let Some(known) = states.known(sensor) else { return };
        // Unless something has come since.
        let Some(heard) = &known.heard else { return };
        let is_last = (heard.reading(sensor).timestamp - about).abs() < TIMESTAMP_PRECISION_SECONDS;
        let leaves = heard.leaves;
        let Some(slot) = rules[index].slot.and_then(|slot| known.slots.get_mut(slot)) else { return };
        if is_last && slot.silence == Silence::Awaited {
            slot.silence = Silence::Told;
            composites.note(index);
            hold_together(composites, Moment { sensor, timestamp, stamped, leaves });
        }
    }

    /// The commit has ended.
    pub fn next_commit(&mut self) {
        self.fires.clear();
    }

    /// The rules, at `since_boot` seconds on the boot clock. The run before ended at `end` on the clock of the
    /// arrivals: since then nobody listened, so that nobody was silent.
    pub fn finish(self, since_boot: f64, end: f64) -> Rules {
        let mut rules = self.rules;
        rules.rules.iter_mut().for_each(|rule| rule.is_muted = false);
        for (_, sensor) in rules.states.iter_mut() {
            if let Some(heard) = &mut sensor.heard {
                heard.at = since_boot - (end - heard.at).max(0.0);
            }
        }
        rules.cooldowns.evictions().store(0, Relaxed);
        rules.states.evictions().store(0, Relaxed);
        rules
    }
}

/// Lets rules over rules see what was noted, and fires none of them.
fn hold_together(composites: &mut Composites, moment: Moment<'_>) {
    composites.judge(moment, &mut |_| {});
}

fn digest(sensor: &str, timestamp: f64) -> u64 {
    let mut hasher = DefaultHasher::new();
    (sensor, timestamp.to_bits()).hash(&mut hasher);
    hasher.finish()
}

/// The least that is looked back for what a sensor sent last: some send seldom.
const LAST_MIN: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests;
