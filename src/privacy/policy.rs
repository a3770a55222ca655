//! The policy in compiled form: which actions apply to a sensor, and which key patterns to its
//! metadata. Pure; the firewall keeps the answers per sensor.

use super::action::Actions;
use super::pattern::matches;
use super::{Action, SensorRule, Settings};

/// Both engines of the firewall.
pub(super) struct Policy {
    rules: Vec<SensorRule>,
    fields: Vec<FieldRule>,
}

struct FieldRule {
    /// `None` is a bare pattern: any sensor's keys, and the names of sensors.
    sensor: Option<String>,
    key: String,
    action: Action,
}

/// What the policy means for one sensor.
#[derive(Debug)]
pub(super) struct Decision {
    /// What is done to the reading as a whole.
    pub(super) sensor: Actions,
    /// Which of the field rules its metadata keys are held against.
    pub(super) fields: Box<[u32]>,
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
                FieldRule { sensor: sensor.map(str::to_owned), key: key.to_owned(), action }
            })
        });
        Self { rules: settings.rules.clone(), fields: fields.collect() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.fields.is_empty()
    }

    pub(super) fn decide(&self, sensor_name: &str) -> Decision {
        let mut sensor = Actions::default();
        if let Some(rule) = self.rules.iter().find(|rule| matches(&rule.sensor, sensor_name)) {
            sensor.add(rule.action);
        }
        let mut fields = Vec::new();
        for (rule, index) in self.fields.iter().zip(0..) {
            match &rule.sensor {
                None => {
                    fields.push(index);
                    if matches(&rule.key, sensor_name) {
                        sensor.add(rule.action);
                    }
                }
                Some(pattern) if matches(pattern, sensor_name) => fields.push(index),
                Some(_) => {}
            }
        }
        Decision { sensor, fields: fields.into() }
    }

    /// What is done to the metadata key `key`, by the field rules `fields` of a decision.
    pub(super) fn key_actions(&self, fields: &[u32], key: &str) -> Actions {
        let mut actions = Actions::default();
        for rule in fields.iter().filter_map(|index| self.fields.get(*index as usize)) {
            if matches(&rule.key, key) {
                actions.add(rule.action);
            }
        }
        actions
    }
}

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
        assert_eq!(policy.key_actions(&decision.fields, "gps").strictest(), Action::Redact);
    }

    #[test]
    fn a_pattern_with_a_sensor_is_about_keys_of_that_sensor_only() {
        let policy = policy(&[], &["cam*:gps"], &[]);
        assert_eq!(policy.decide("gps").sensor.strictest(), Action::Allow);
        assert!(policy.decide("door").fields.is_empty());
        let decision = policy.decide("cam7");
        assert_eq!(decision.sensor.strictest(), Action::Allow);
        assert_eq!(policy.key_actions(&decision.fields, "gps").strictest(), Action::Redact);
        assert_eq!(policy.key_actions(&decision.fields, "GPS").strictest(), Action::Allow);
    }
}
