//! The privacy firewall: what leaves the device, what stays on it, and what is never kept.
//!
//! It stands between a source and everything else, so that what it removes never touches the disk.

mod action;
pub mod audit;
pub mod chain;
mod counters;
pub mod explain;
mod fields;
mod filtered;
mod firewall;
mod key;
mod keys;
pub mod pattern;
mod policy;
pub mod sums;

pub use action::Action;
pub use counters::Counters;
pub use filtered::{Filtered, OTHERS, Part, PolicyId, RuleId};
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
    pub record: Record,
}

/// `[privacy.record]`: what a record of processing activities (GDPR, Article 30) says besides what the audit trail
/// knows. In the order of [`Record::KEYS`]; `None` where nothing is given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Record(pub [Option<String>; 9]);

impl Record {
    pub const KEYS: [&str; 9] = [
        "controller",
        "contact",
        "purpose",
        "categories_of_data_subjects",
        "categories_of_data",
        "recipients",
        "transfers",
        "retention",
        "security_measures",
    ];

    /// Every key with its text.
    pub fn texts(&self) -> impl Iterator<Item = (&'static str, Option<&str>)> {
        Self::KEYS.into_iter().zip(self.0.iter().map(Option::as_deref))
    }
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
///
/// A key is met at any depth, and what is done to it is done to everything in it. A key pattern with a dot
/// is also held against the key with those it stands in, `gps.lat`, from any depth on; lists add nothing.
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

    /// Whether it is about the unit of readings as well.
    pub fn names_unit(&self) -> bool {
        self.parts().1 == policy::UNIT
    }
}

impl Settings {
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
    fn a_firewall_that_is_off_has_no_active_rules() {
        let mut settings = Settings { redact_fields: patterns(&["a", "b"]), ..Settings::default() };
        assert_eq!(settings.rules_active(), 0);
        settings.enabled = true;
        assert_eq!(settings.rules_active(), 2);
        assert_eq!(settings.fields_redacted().collect::<Vec<_>>(), ["a", "b"]);
    }
}
