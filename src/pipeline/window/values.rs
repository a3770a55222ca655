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
    /// Of the reading with the earliest and of that with the latest time; of those with the same time, the one that
    /// came first and the one that came last.
    pub first: f64,
    pub last: f64,
    /// From `first` to `last`, per second between them; `None` when they have the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// Where the window asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percentile: Option<f64>,
    /// Where the window asks for it: the mean of the span, in which a reading counts half as much for each half-life
    /// that it is older than the newest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ewma: Option<f64>,
}
