//! One `[[windows]]` entry, and the panes its spans are cut into.

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
    /// How long after its end a span is still open, in the readings' own time.
    pub allowed_lateness: Duration,
    /// Which percentile of a span is computed, 0 to 100.
    pub percentile: Option<f64>,
    /// By which age a reading counts half in the weighted mean, where that is computed.
    pub half_life: Option<Duration>,
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
    First,
    Last,
    /// Change per second from the first reading to the last.
    Rate,
    Percentile,
    /// Mean weighted by age.
    Ewma,
}

impl Aggregation {
    /// As the configuration writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Max => "max",
            Self::Min => "min",
            Self::Std => "std",
            Self::Sum => "sum",
            Self::Count => "count",
            Self::First => "first",
            Self::Last => "last",
            Self::Rate => "rate",
            Self::Percentile => "percentile",
            Self::Ewma => "ewma",
        }
    }
}

impl Settings {
    /// The lateness that is allowed where none is given: 5 seconds, and no more than a step.
    pub fn usual_lateness(step: Duration) -> Duration {
        step.min(LATENESS_USUAL)
    }

    /// Looks for what cannot be computed here, or not in bounded memory.
    ///
    /// # Errors
    /// The first problem, as a message that begins with the key of the window's table.
    pub fn check(&self) -> Result<(), String> {
        Shape::of(self).map(|_| ())
    }
}

/// How a window's time is cut. A pane is the longest stretch that both duration and step are
/// multiples of, so every span is whole panes and each pane is aggregated once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) pane_us: i64,
    /// Panes of one span, at least 1.
    pub(super) panes: i64,
    /// Panes from one result to the next, at least 1.
    pub(super) step: i64,
    pub(super) lateness_us: i64,
}

impl Shape {
    pub(super) fn of(settings: &Settings) -> Result<Self, String> {
        let Settings { duration, step, allowed_lateness, .. } = settings;
        let (duration_s, step_s) = (duration.as_secs_f64(), step.as_secs_f64());
        if settings.sensor_name.as_deref() == Some("") {
            return Err("sensor_name: is empty; give a pattern, or leave it out for all sensors".to_owned());
        }
        if *duration > DURATION_MAX {
            let max = DURATION_MAX.as_secs();
            return Err(format!("duration_seconds: {duration_s} is out of range; give at most {max}"));
        }
        if settings.kind == Kind::Tumbling && step != duration {
            return Err(format!(
                "step_seconds: {step_s} where a tumbling window has its duration of {duration_s}; leave it out, \
                 or make the window rolling"
            ));
        }
        if *step < STEP_MIN || step > duration {
            return Err(format!(
                "step_seconds: {step_s} is out of range; give {} to the duration of {duration_s}",
                STEP_MIN.as_secs_f64()
            ));
        }
        let (duration_us, step_us) = (whole_micros(*duration), whole_micros(*step));
        let pane_us = greatest_common_divisor(duration_us, step_us);
        let panes = duration_us / pane_us;
        if panes > PANES_PER_WINDOW_MAX {
            return Err(format!(
                "step_seconds: {step_s} cuts {duration_s} seconds into {panes} panes, at most \
                 {PANES_PER_WINDOW_MAX} are kept; give a step that divides the duration into fewer parts"
            ));
        }
        let lateness_us = whole_micros((*allowed_lateness).min(DURATION_MAX));
        let shape = Self { pane_us, panes, step: step_us / pane_us, lateness_us };
        let late_panes = shape.slots() - panes;
        if late_panes > PANES_PER_WINDOW_MAX {
            return Err(format!(
                "allowed_lateness_seconds: {} is {late_panes} panes of {} s, at most {PANES_PER_WINDOW_MAX} are kept; \
                 give less",
                allowed_lateness.as_secs_f64(),
                pane_us as f64 / 1e6
            ));
        }
        if settings.percentile.is_some() && shape.slots() > PERCENTILE_PANES_MAX {
            return Err(format!(
                "percentile: is computed of at most {PERCENTILE_PANES_MAX} panes, and duration, step and lateness make \
                 {} of this window; give a longer step",
                shape.slots()
            ));
        }
        Ok(shape)
    }

    /// Panes that are kept: those of one span, and those that begin while it still waits.
    pub(super) fn slots(&self) -> i64 {
        let late_panes = self.lateness_us / self.pane_us + i64::from(self.lateness_us % self.pane_us > 0);
        self.panes + late_panes
    }

    /// The first end of a span after `time_us`, as the number of the pane that begins there; ends are the multiples
    /// of the step since the epoch.
    pub(super) fn end_after(&self, time_us: i64) -> i64 {
        (self.pane_of(time_us).div_euclid(self.step) + 1) * self.step
    }

    pub(super) fn pane_of(&self, time_us: i64) -> i64 {
        time_us.div_euclid(self.pane_us)
    }
}

/// Below a microsecond, timestamps in floating seconds say nothing.
fn whole_micros(duration: Duration) -> i64 {
    i64::try_from((duration.as_nanos() + 500) / 1000).expect("durations are limited to a year or so")
}

fn greatest_common_divisor(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// A year and some.
const DURATION_MAX: Duration = Duration::from_secs(400 * 86_400);
const STEP_MIN: Duration = Duration::from_millis(1);
/// What sources on one network are late by, and the time that a span without a next reading waits for the wall clock.
const LATENESS_USUAL: Duration = Duration::from_secs(5);
/// Most panes of one span of one sensor, and most of its lateness, about 190 bytes each.
const PANES_PER_WINDOW_MAX: i64 = 1024;
/// Those of which percentiles are computed take about a KiB more each.
const PERCENTILE_PANES_MAX: i64 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(kind: Kind, duration: f64, step: f64) -> Result<Shape, String> {
        late_shape(kind, duration, step, 0.0)
    }

    fn late_shape(kind: Kind, duration: f64, step: f64, lateness: f64) -> Result<Shape, String> {
        Shape::of(&Settings {
            name: "w".to_owned(),
            sensor_name: None,
            duration: Duration::from_secs_f64(duration),
            step: Duration::from_secs_f64(step),
            kind,
            aggregation: Aggregation::Mean,
            allowed_lateness: Duration::from_secs_f64(lateness),
            percentile: None,
            half_life: None,
        })
    }

    #[test]
    fn a_pane_divides_duration_and_step() {
        let cut = |pane_us, panes, step| Ok(Shape { pane_us, panes, step, lateness_us: 0 });
        assert_eq!(shape(Kind::Tumbling, 60.0, 60.0), cut(60_000_000, 1, 1));
        assert_eq!(shape(Kind::Rolling, 60.0, 5.0), cut(5_000_000, 12, 1));
        assert_eq!(shape(Kind::Rolling, 10.0, 4.0), cut(2_000_000, 5, 2));
        assert_eq!(shape(Kind::Rolling, 0.3, 0.1), cut(100_000, 3, 1));
    }

    #[test]
    fn lateness_takes_the_panes_that_begin_while_a_span_waits() {
        let slots = |duration, step, lateness| {
            late_shape(Kind::Rolling, duration, step, lateness).map(|shape| shape.slots())
        };
        assert_eq!(slots(60.0, 60.0, 0.0), Ok(1));
        assert_eq!(slots(60.0, 60.0, 5.0), Ok(2));
        assert_eq!(slots(60.0, 5.0, 5.0), Ok(13));
        assert_eq!(slots(60.0, 5.0, 5.1), Ok(14));
        assert!(slots(1.0, 1.0, 3600.0).unwrap_err().starts_with("allowed_lateness_seconds"));
    }

    #[test]
    fn a_window_that_cannot_be_kept_is_refused_by_its_key() {
        for (kind, duration, step, key) in [
            (Kind::Rolling, 3600.0, 1.0, "step_seconds"),
            (Kind::Rolling, 60.0, 61.0, "step_seconds"),
            (Kind::Rolling, 60.0, 0.0, "step_seconds"),
            (Kind::Rolling, 100.0, 0.0305, "step_seconds"),
            (Kind::Tumbling, 60.0, 5.0, "step_seconds"),
            (Kind::Tumbling, 0.0, 0.0, "step_seconds"),
            (Kind::Tumbling, 1e9, 1e9, "duration_seconds"),
        ] {
            let message = shape(kind, duration, step).unwrap_err();
            assert!(message.starts_with(key), "{message}");
        }
    }
}
