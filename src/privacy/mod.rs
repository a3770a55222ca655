//! The privacy firewall: what leaves the device, what stays on it, and what is never kept.

pub mod audit;

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

/// What is done; the stricter is the greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    Allow,
    Hash,
    Mask,
    LocalOnly,
    Redact,
    Drop,
}

/// `key`, or `sensor:key`: patterns with `*` and `?`.
///
/// Without a colon the pattern is held against metadata keys and against sensor names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldPattern(pub String);
