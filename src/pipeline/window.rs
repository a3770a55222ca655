//! Windows: aggregates of a sensor's readings over a span of event time.

use std::time::Duration;

/// One window, as configured.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub name: String,
    /// A pattern with `*` and `?`, each matching sensor having a window of its own; `None` puts the
    /// readings of all sensors into one.
    pub sensor_name: Option<String>,
    pub duration: Duration,
    /// From one result to the next; the duration when none is given.
    pub step: Duration,
    pub kind: Kind,
    pub aggregation: Aggregation,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    Rolling,
    #[default]
    Tumbling,
}

/// Which aggregate becomes the result's `value`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Aggregation {
    #[default]
    Mean,
    Max,
    Min,
    /// Population standard deviation.
    Std,
    Sum,
    Count,
}
