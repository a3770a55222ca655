//! What a window makes of the readings of one span: once, for its result, its metadata and the rules that judge it.

use serde::{Deserialize, Serialize};

/// The aggregates of one span, all of them finite. In metadata and to a condition, as `win`, under these names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Values {
    /// Unix seconds UTC, in the readings' own time; the first instant of the span.
    pub start: f64,
    /// Unix seconds UTC; the first instant after the span.
    pub end: f64,
    pub mean: f64,
    pub max: f64,
    pub min: f64,
    /// Population standard deviation.
    pub std: f64,
    pub sum: f64,
    /// At least 1 in a result.
    pub count: u64,
}
