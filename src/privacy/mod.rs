//! The privacy firewall: what leaves the device, what stays on it, and what is never kept.
//!
//! It stands between a source and everything else, so that what it removes never touches the disk.

mod action;
pub mod audit;
mod counters;
mod fields;
mod firewall;
mod key;
pub mod pattern;
mod policy;

pub use action::Action;
pub use counters::Counters;
pub use firewall::{Firewall, Verdict};
pub use key::{HashKey, KeyError};

/// `[privacy]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    pub enabled: bool,
    /// By sensor name; the first that matches decides.
    pub rules: Vec<SensorRule>,
    pub redact_fields: Vec<FieldPattern>,
    pub mask_fields: Vec<FieldPattern>,
    pub hash_fields: Vec<FieldPattern>,
    pub drop_fields: Vec<FieldPattern>,
    pub local_only: Vec<FieldPattern>,
}

/// A pattern over sensor names (`*`, `?`) and what is done with the readings of those sensors.
#[derive(Clone, Debug, PartialEq)]
pub struct SensorRule {
    pub sensor: String,
    pub action: Action,
}

/// `key`, or `sensor:key`: patterns with `*` and `?`.
///
/// Without a colon the pattern is held against metadata keys and against sensor names. The last
/// colon is the one that divides, so a colon inside a metadata key is written `?`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldPattern(pub String);

impl FieldPattern {
    /// The sensor pattern, when there is one, and the key pattern.
    pub fn parts(&self) -> (Option<&str>, &str) {
        match self.0.rsplit_once(':') {
            Some((sensor, key)) => (Some(sensor), key),
            None => (None, &self.0),
        }
    }
}

impl Settings {
    /// Looks for what could not protect anything.
    ///
    /// # Errors
    /// The first pattern that is empty or too long, or a number of patterns above the limit, as a
    /// message that begins with the key below `privacy`.
    pub fn check(&self) -> Result<(), String> {
        let patterns =
            self.rules.len() + self.field_lists().iter().map(|(_, _, list)| list.len()).sum::<usize>();
        if patterns > PATTERNS_MAX {
            return Err(format!("rules: {patterns} rules and field patterns; give at most {PATTERNS_MAX}"));
        }
        for (index, rule) in self.rules.iter().enumerate() {
            check_pattern(&rule.sensor).map_err(|message| format!("rules[{index}].sensor: {message}"))?;
        }
        for (name, _, list) in self.field_lists() {
            for (index, pattern) in list.iter().enumerate() {
                let (sensor, key) = pattern.parts();
                sensor
                    .map_or(Ok(()), check_pattern)
                    .and_then(|()| check_pattern(key))
                    .map_err(|message| format!("{name}[{index}]: {message}"))?;
            }
        }
        Ok(())
    }

    /// How many rules and field patterns are in force; none while the firewall is off.
    pub fn rules_active(&self) -> usize {
        if !self.enabled {
            return 0;
        }
        self.rules.len() + self.field_lists().iter().map(|(_, _, list)| list.len()).sum::<usize>()
    }

    /// `redact_fields` as written, for the health page.
    pub fn fields_redacted(&self) -> impl Iterator<Item = &str> {
        self.redact_fields.iter().map(|pattern| pattern.0.as_str())
    }

    /// `hash_fields` as written, for the health page.
    pub fn fields_hashed(&self) -> impl Iterator<Item = &str> {
        self.hash_fields.iter().map(|pattern| pattern.0.as_str())
    }

    /// The lists of the field engine with their key and what they do.
    fn field_lists(&self) -> [(&'static str, Action, &[FieldPattern]); 5] {
        [
            ("redact_fields", Action::Redact, &self.redact_fields),
            ("mask_fields", Action::Mask, &self.mask_fields),
            ("hash_fields", Action::Hash, &self.hash_fields),
            ("drop_fields", Action::Drop, &self.drop_fields),
            ("local_only", Action::LocalOnly, &self.local_only),
        ]
    }
}

fn check_pattern(pattern: &str) -> Result<(), String> {
    match pattern.len() {
        0 => Err("an empty pattern matches nothing; give a name, or '*' for all".to_owned()),
        1..=PATTERN_BYTES_MAX => Ok(()),
        bytes => Err(format!("a pattern of {bytes} bytes; give at most {PATTERN_BYTES_MAX}")),
    }
}

/// Most rules and field patterns together. Each new sensor is held against all of them.
pub const PATTERNS_MAX: usize = 1024;
/// Longest pattern in bytes, as long as the longest sensor name.
pub const PATTERN_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(list: &[&str]) -> Vec<FieldPattern> {
        list.iter().map(|text| FieldPattern((*text).to_owned())).collect()
    }

    #[test]
    fn a_field_pattern_is_divided_at_its_last_colon() {
        assert_eq!(FieldPattern("gps".into()).parts(), (None, "gps"));
        assert_eq!(FieldPattern("cam:gps".into()).parts(), (Some("cam"), "gps"));
        assert_eq!(FieldPattern("aa:bb:gps".into()).parts(), (Some("aa:bb"), "gps"));
    }

    #[test]
    fn a_pattern_that_protects_nothing_is_refused_by_its_key() {
        let settings = Settings { mask_fields: patterns(&["ok", "cam:"]), ..Settings::default() };
        assert!(settings.check().unwrap_err().starts_with("mask_fields[1]: "));
        let rule = SensorRule { sensor: String::new(), action: Action::Drop };
        let settings = Settings { rules: vec![rule], ..Settings::default() };
        assert!(settings.check().unwrap_err().starts_with("rules[0].sensor: "));
        let settings = Settings { drop_fields: patterns(&["x"; PATTERNS_MAX + 1]), ..Settings::default() };
        assert!(settings.check().is_err());
        let settings = Settings { drop_fields: patterns(&["gps", "cam*:?"]), ..Settings::default() };
        assert_eq!(settings.check(), Ok(()));
    }

    #[test]
    fn a_firewall_that_is_off_has_no_active_rules() {
        let mut settings = Settings { redact_fields: patterns(&["a", "b"]), ..Settings::default() };
        assert_eq!(settings.rules_active(), 0);
        settings.enabled = true;
        assert_eq!(settings.rules_active(), 2);
        assert_eq!(settings.fields_redacted().collect::<Vec<_>>(), ["a", "b"]);
    }
}
