//! Rules: a condition over each reading, and the event it fires. A rule that cannot judge a reading
//! never keeps another from judging it.

mod cooldown;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use cooldown::Cooldowns;

use crate::clock;
use crate::pipeline::expr::{CompileError, Context, EvalError, Expression};
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
}

/// All rules, and what they remember of earlier readings.
#[derive(Debug)]
pub struct Rules {
    rules: Vec<Rule>,
    cooldowns: Cooldowns,
}

/// One rule, ready to judge.
#[derive(Debug)]
pub struct Rule {
    settings: Settings,
    condition: Expression,
    message: String,
    counters: Arc<Counters>,
    trouble: Option<Trouble>,
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
        let cooldowns = Cooldowns::new(rules.len(), COOLDOWN_ENTRIES_MAX);
        Ok(Self { rules, cooldowns })
    }

    /// With the fires of so many pairs of rule and sensor remembered at most, also after a reload.
    pub fn remembering(mut self, entries_max: usize) -> Self {
        self.cooldowns.limit(entries_max);
        self
    }

    /// Goes on where `old` stopped: counters stay with their rule's name, cooldowns with rules whose
    /// settings did not change. Call it before anyone asks for [`Self::counters`].
    pub fn carry_over(&mut self, old: Self) {
        let Self { rules: old_rules, cooldowns: old_cooldowns } = old;
        let unchanged: Vec<Option<usize>> = old_rules
            .iter()
            .map(|old| self.rules.iter().position(|rule| rule.settings == old.settings))
            .collect();
        self.cooldowns.carry_over(old_cooldowns, &unchanged);
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

    /// Judges one reading by all rules in their order, and calls back for each that fires. It does
    /// not wait. The reading's numbers are finite and its metadata is a JSON object; `stamped` says that
    /// its time is the agent's own.
    pub fn evaluate(&mut self, reading: Reading<'_>, stamped: bool, fired: &mut impl FnMut(Fired<'_>)) {
        let ctx = Context::new(reading);
        for (index, rule) in self.rules.iter_mut().enumerate() {
            let verdict = rule.condition.is_true(&ctx);
            rule.note(&verdict);
            if verdict != Ok(true) {
                continue;
            }
            let cooldown = rule.settings.cooldown;
            if self.cooldowns.permits(index, reading.sensor_name, reading.timestamp, cooldown, stamped) {
                rule.counters.events.fetch_add(1, Relaxed);
                fired(Fired { rule, reading });
            }
        }
    }

    /// Goes along when the wall clock is set by `moved` seconds: cooldowns on the agent's own time last as
    /// long as they would have.
    pub fn clock_moved(&mut self, moved: f64) {
        self.cooldowns.clock_moved(moved);
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
        Self { settings, condition, message, counters: Arc::default(), trouble: None }
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
/// A rule counts as recovered after this long without an error.
const TROUBLE_QUIET_MIN: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(name: &str, condition_expr: &str, cooldown_seconds: u64) -> Settings {
        Settings {
            name: name.to_owned(),
            condition_expr: condition_expr.to_owned(),
            severity: Severity::Warning,
            cooldown: Duration::from_secs(cooldown_seconds),
            message: None,
        }
    }

    fn reading(sensor_name: &str, timestamp: f64, value: f64) -> Reading<'_> {
        Reading { sensor_name, timestamp, value, unit: "C", metadata: "{}" }
    }

    fn fires(rules: &mut Rules, reading: Reading<'_>) -> Vec<String> {
        let mut names = Vec::new();
        rules.evaluate(reading, false, &mut |fired| names.push(fired.rule.name().to_owned()));
        names
    }

    fn count(rules: &Rules, name: &str) -> (u64, u64) {
        let (_, counters) = rules.counters().find(|(rule, _)| *rule == name).unwrap();
        (counters.events.load(Relaxed), counters.evaluation_errors.load(Relaxed))
    }

    #[test]
    fn rules_fire_in_order_with_the_reading_and_the_default_message() {
        let warm = settings("warm", "ctx.value > 20", 0);
        let hot = Settings { message: Some("hot!".to_owned()), ..settings("hot", "ctx.value > 80", 0) };
        let mut rules = Rules::new(&[warm, hot]).unwrap();
        let mut seen = Vec::new();
        rules.evaluate(reading("oven", 10.0, 90.0), false, &mut |fired| {
            assert_eq!(fired.reading.sensor_name, "oven");
            assert_eq!(fired.rule.severity(), Severity::Warning);
            seen.push(fired.rule.message().to_owned());
        });
        assert_eq!(seen, ["Rule 'warm' fired", "hot!"]);
        assert_eq!(fires(&mut rules, reading("oven", 11.0, 30.0)), ["warm"]);
        assert_eq!(count(&rules, "warm"), (2, 0));
        assert_eq!(count(&rules, "hot"), (1, 0));
    }

    #[test]
    fn a_cooldown_holds_for_its_own_sensor_and_rule_only() {
        let all = [settings("a", "ctx.value > 0", 60), settings("b", "ctx.value > 0", 10)];
        let mut rules = Rules::new(&all).unwrap();
        assert_eq!(fires(&mut rules, reading("x", 1000.0, 1.0)), ["a", "b"]);
        assert_eq!(fires(&mut rules, reading("y", 1001.0, 1.0)), ["a", "b"]);
        assert_eq!(fires(&mut rules, reading("x", 1010.0, 1.0)), ["b"]);
        assert_eq!(fires(&mut rules, reading("x", 1059.9, 1.0)), ["b"]);
        assert_eq!(fires(&mut rules, reading("x", 1060.0, 1.0)), ["a"]);
    }

    #[test]
    fn an_error_is_counted_and_stops_neither_other_rules_nor_later_readings() {
        let all = [settings("deep", "ctx.metadata['k'] > 1", 0), settings("plain", "True", 0)];
        let mut rules = Rules::new(&all).unwrap();
        assert_eq!(fires(&mut rules, reading("x", 1.0, 1.0)), ["plain"]);
        assert_eq!(count(&rules, "deep"), (0, 1));
        let with_key = Reading { metadata: r#"{"k":2}"#, ..reading("x", 2.0, 1.0) };
        assert_eq!(fires(&mut rules, with_key), ["deep", "plain"]);
        let broken = Reading { metadata: "{", ..reading("x", 3.0, 1.0) };
        assert_eq!(fires(&mut rules, broken), ["plain"]);
        assert_eq!(count(&rules, "deep"), (1, 2));
    }

    #[test]
    fn all_conditions_that_do_not_compile_are_named_at_once() {
        let all = [settings("a", "ctx.value >", 0), settings("b", "True", 0), settings("c", "open('x')", 0)];
        let refused = Rules::new(&all).unwrap_err();
        let text = refused.to_string();
        assert_eq!(refused.problems.iter().map(|problem| problem.index).collect::<Vec<_>>(), [0, 2]);
        assert!(text.contains("rules[0].condition_expr of 'a': column 12: expected a value"), "{text}");
        assert!(text.contains("of 'c': column 1: 'open' is not available"), "{text}");
    }

    #[test]
    fn a_reload_keeps_cooldowns_of_unchanged_rules_and_counters_of_all() {
        let before = [settings("same", "ctx.value > 0", 60), settings("changed", "ctx.value > 0", 60)];
        let mut old = Rules::new(&before).unwrap();
        assert_eq!(fires(&mut old, reading("x", 1000.0, 1.0)).len(), 2);

        let after = [settings("new", "True", 0), settings("changed", "ctx.value > 0", 50), before[0].clone()];
        let mut rules = Rules::new(&after).unwrap();
        rules.carry_over(old);
        assert_eq!(fires(&mut rules, reading("x", 1030.0, 1.0)), ["new", "changed"]);
        assert_eq!(fires(&mut rules, reading("x", 1060.0, 1.0)), ["new", "same"]);
        assert_eq!(count(&rules, "changed"), (2, 0));
        assert_eq!(count(&rules, "same"), (2, 0));
    }

    #[test]
    fn trouble_begins_once_and_ends_once_however_readings_alternate() {
        let mut trouble = None;
        let at = Duration::from_secs;
        assert!(Trouble::met(&mut trouble, at(100)));
        for second in 101..110 {
            assert_eq!(Trouble::absent(&mut trouble, at(second)), None);
            assert!(!Trouble::met(&mut trouble, at(second)));
        }
        assert_eq!(Trouble::absent(&mut trouble, at(168)), None);
        let ended = Trouble::absent(&mut trouble, at(169));
        assert_eq!(ended, Some(Trouble { since: at(100), last: at(109), errors: 10 }));
        assert_eq!(trouble, None);
    }

    #[test]
    fn rules_can_move_between_threads() {
        fn require_send<T: Send>() {}
        require_send::<Rules>();
    }
}
