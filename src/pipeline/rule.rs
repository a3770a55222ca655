//! Rules: a condition over each reading, and the event it fires.

use std::time::Duration;

use crate::reading::Severity;

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
