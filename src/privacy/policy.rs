//! The policy in compiled form: which actions apply to a sensor, and which key patterns to its
//! metadata. Pure; the firewall keeps the answers per sensor, and [`super::keys`] those per key.

use super::action::Actions;
use super::pattern::matches;
use super::{Action, RuleId, SensorRule, Settings};

/// Both engines of the firewall.
pub(super) struct Policy {
    rules: Vec<SensorRule>,
    fields: Vec<FieldRule>,
}

struct FieldRule {
    /// `None` is a bare pattern: any sensor's keys, and the names of sensors.
    sensor: Option<String>,
    key: String,
    /// Of a pattern with a dot: the same behind any other keys, `*.` before it.
    below: Option<String>,
    action: Action,
}

/// What the policy means for one sensor.
#[derive(Debug)]
pub(super) struct Decision {
    /// What is done to the reading as a whole.
    pub(super) sensor: Actions,
    /// The first rule that demands each action, in the order of [`Action::ALL`].
    pub(super) by: [Option<RuleId>; 6],
    /// Which of the field rules its metadata keys are held against.
    pub(super) fields: Box<[u32]>,
}

impl Decision {
    fn add(&mut self, action: Action, rule: RuleId) {
        self.sensor.add(action);
        self.by[action as usize].get_or_insert(rule);
    }

    /// The rule behind the strictest action; none allows everything.
    pub(super) fn rule(&self) -> Option<RuleId> {
        self.by[self.sensor.strictest() as usize]
    }
}

/// What the policy means for one metadata key.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct KeyDecision {
    pub(super) actions: Actions,
    /// The first rule that demands the strictest of them.
    pub(super) rule: Option<RuleId>,
}

impl KeyDecision {
    fn add(&mut self, action: Action, rule: RuleId) {
        if self.rule.is_none() || action > self.actions.strictest() {
            self.rule = Some(rule);
        }
        self.actions.add(action);
    }
}

impl Policy {
    /// A firewall that is off has an empty policy.
    pub(super) fn new(settings: &Settings) -> Self {
        if !settings.enabled {
            return Self { rules: Vec::new(), fields: Vec::new() };
        }
        let lists = settings.field_lists().into_iter();
        let fields = lists.flat_map(|(_, action, list)| {
            list.iter().map(move |pattern| {
                let (sensor, key) = pattern.parts();
                let below = key.contains('.').then(|| format!("*.{key}"));
                FieldRule { sensor: sensor.map(str::to_owned), key: key.to_owned(), below, action }
            })
        });
        Self { rules: settings.rules.clone(), fields: fields.collect() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.fields.is_empty()
    }

    pub(super) fn decide(&self, sensor_name: &str) -> Decision {
        let mut decision = Decision { sensor: Actions::default(), by: [None; 6], fields: Box::default() };
        if let Some(index) = self.rules.iter().position(|rule| matches(&rule.sensor, sensor_name)) {
            decision.add(self.rules[index].action, RuleId::of(index));
        }
        let mut fields = Vec::new();
        for (rule, index) in self.fields.iter().zip(0..) {
            match &rule.sensor {
                None => {
                    fields.push(index);
                    if matches(&rule.key, sensor_name) {
                        decision.add(rule.action, self.field_id(index));
                    }
                }
                Some(pattern) if matches(pattern, sensor_name) => fields.push(index),
                Some(_) => {}
            }
        }
        Decision { fields: fields.into(), ..decision }
    }

    /// Whether some rule of `fields` looks at the keys that a key stands in.
    pub(super) fn looks_at_paths(&self, fields: &[u32]) -> bool {
        self.fields_of(fields).any(|(rule, _)| rule.below.is_some())
    }

    /// What is done to the metadata key `name`, by the field rules `fields` of a decision. `path` is the key with
    /// those it stands in before it, joined by dots; a pattern that has a dot is held against every end of that.
    pub(super) fn key(&self, fields: &[u32], path: &str, name: &str) -> KeyDecision {
        let mut decision = KeyDecision::default();
        for (rule, index) in self.fields_of(fields) {
            let is_path = |below: &String| matches(&rule.key, path) || matches(below, path);
            if !matches(&rule.key, name) && !rule.below.as_ref().is_some_and(is_path) {
                continue;
            }
            decision.add(rule.action, self.field_id(index));
        }
        decision
    }

    /// What is done to the unit of a reading: by field rules whose key is [`UNIT`] itself. It is free text of the source,
    /// but what a wildcard means by every key is not meant to take it away.
    pub(super) fn unit(&self, fields: &[u32]) -> KeyDecision {
        let mut decision = KeyDecision::default();
        for (rule, index) in self.fields_of(fields).filter(|(rule, _)| rule.key == UNIT) {
            decision.add(rule.action, self.field_id(index));
        }
        decision
    }

    fn fields_of(&self, fields: &[u32]) -> impl Iterator<Item = (&FieldRule, u32)> {
        fields.iter().filter_map(|index| Some((self.fields.get(*index as usize)?, *index)))
    }

    fn field_id(&self, index: u32) -> RuleId {
        RuleId::of(self.rules.len() + index as usize)
    }
}

/// How field rules name the unit of a reading.
pub(super) const UNIT: &str = "unit";

#[cfg(test)]
mod tests {
    use super::super::FieldPattern;
    use super::*;

    fn policy(rules: &[(&str, Action)], redact: &[&str], drop: &[&str]) -> Policy {
        let list = |texts: &[&str]| texts.iter().map(|text| FieldPattern((*text).to_owned())).collect();
        let rule =
            |(sensor, action): &(&str, Action)| SensorRule { sensor: (*sensor).to_owned(), action: *action };
        Policy::new(&Settings {
            enabled: true,
            rules: rules.iter().map(rule).collect(),
            redact_fields: list(redact),
            drop_fields: list(drop),
            ..Settings::default()
        })
    }

    /// What is done to a key at the top.
    fn key(policy: &Policy, decision: &Decision, name: &str) -> Action {
        policy.key(&decision.fields, name, name).actions.strictest()
    }

    #[test]
    fn a_pattern_with_a_dot_is_held_against_every_end_of_the_path() {
        let policy = policy(&[], &["gps.lat", "car:*.owner.name"], &[]);
        let on = |sensor: &str, path: &str| {
            let name = path.rsplit('/').next().unwrap();
            let fields = policy.decide(sensor).fields;
            policy.key(&fields, &path.replace('/', "."), name).actions.strictest()
        };
        for path in ["gps/lat", "car/gps/lat", "gps.lat", "a.gps.lat", "x/gps.lat"] {
            assert_eq!(on("s", path), Action::Redact, "{path}");
        }
        for path in ["lat", "gps", "mygps/lat", "gps/latitude", "lat/gps", "gps/x/lat"] {
            assert_eq!(on("s", path), Action::Allow, "{path}");
        }
        assert_eq!(on("car", "x/owner/name"), Action::Redact);
        assert_eq!(on("bus", "x/owner/name"), Action::Allow);
    }

    #[test]
    fn the_rule_that_decides_is_the_first_of_the_strictest() {
        let policy = policy(&[("cam", Action::Mask)], &["g*", "gps"], &["gp?"]);
        let decision = policy.decide("cam");
        assert_eq!(decision.rule(), Some(RuleId::of(0)));
        // Of the lists that of redact_fields comes first.
        let of = |name| policy.key(&decision.fields, name, name).rule;
        assert_eq!((of("gps"), of("gas"), of("x")), (Some(RuleId::of(3)), Some(RuleId::of(1)), None));
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let policy = policy(&[("cam-1", Action::Allow), ("cam-*", Action::Drop)], &[], &[]);
        assert_eq!(policy.decide("cam-1").sensor.strictest(), Action::Allow);
        assert_eq!(policy.decide("cam-2").sensor.strictest(), Action::Drop);
        assert_eq!(policy.decide("door").sensor.strictest(), Action::Allow);
    }

    #[test]
    fn an_explicit_allow_does_not_weaken_the_field_engine() {
        let policy = policy(&[("cam", Action::Allow)], &["cam:gps"], &["cam"]);
        let decision = policy.decide("cam");
        assert_eq!(decision.sensor.strictest(), Action::Drop);
        assert_eq!(key(&policy, &decision, "gps"), Action::Redact);
    }

    #[test]
    fn a_pattern_with_a_sensor_is_about_keys_of_that_sensor_only() {
        let policy = policy(&[], &["cam*:gps"], &[]);
        assert_eq!(policy.decide("gps").sensor.strictest(), Action::Allow);
        assert!(policy.decide("door").fields.is_empty());
        let decision = policy.decide("cam7");
        assert_eq!(decision.sensor.strictest(), Action::Allow);
        assert_eq!(key(&policy, &decision, "gps"), Action::Redact);
        assert_eq!(key(&policy, &decision, "GPS"), Action::Allow);
    }
}
