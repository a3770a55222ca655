//! Rules and windows of a configuration, held against readings that came in before: what they would have fired.

use super::rule::{Judged, Refused, Rules, Settings};
use super::window::{self, WindowResult, Windows};
use crate::privacy::{self, Action, Firewall, HashKey};
use crate::reading::{Reading, Severity};

/// One configuration at work on history.
pub struct Replay {
    rules: Rules,
    windows: Windows,
    /// Only asked which sensors are kept out of windows over all.
    firewall: Firewall,
}

/// An event that would have been.
#[derive(Clone, Copy, Debug)]
pub struct Would<'a> {
    pub rule: &'a str,
    pub severity: Severity,
    pub sensor: &'a str,
    /// Unix seconds.
    pub timestamp: f64,
    pub value: f64,
}

impl Replay {
    /// # Errors
    ///
    /// A condition does not compile.
    pub fn new(
        rules: &[Settings],
        windows: &[window::Settings],
        privacy: &privacy::Settings,
    ) -> Result<Self, Refused> {
        Ok(Self {
            rules: Rules::new(rules)?,
            windows: Windows::new(windows),
            firewall: Firewall::new(privacy, HashKey::new(&[0; 32])),
        })
    }

    /// Whether time has to pass for anything to happen.
    pub fn waits(&self) -> bool {
        !self.windows.is_empty() || self.rules.wait_for_silence()
    }

    /// Lets it be `now`, Unix seconds: windows end, and sensors are silent. To be called once a second of what is
    /// replayed, the first time before any reading.
    pub fn tick(&mut self, now: f64, would: &mut impl FnMut(Would<'_>)) {
        let Self { rules, windows, .. } = self;
        windows.flush(now, &mut |result| judge_result(rules, &result, now, would));
        rules.silences(now, now, &mut |silent| {
            let (rule, reading) = (silent.rule, silent.reading);
            would(Would { timestamp: now, ..Would::of(rule.name(), rule.severity(), reading) });
        });
    }

    /// Takes a reading that arrives at `now`, as the pipeline does.
    pub fn take(&mut self, reading: Reading<'_>, now: f64, would: &mut impl FnMut(Would<'_>)) {
        let Self { rules, windows, firewall } = self;
        let judged = Judged { reading, stamped: false, since_boot: now, leaves: true };
        rules.evaluate(judged, &mut |fired| {
            would(Would::of(fired.rule.name(), fired.rule.severity(), reading));
        });
        if !windows.is_empty() {
            let pooled = firewall.sensor_action(reading.sensor_name) == Action::Allow;
            windows.add(reading, pooled, false, &mut |result| judge_result(rules, &result, now, would));
        }
    }
}

impl<'a> Would<'a> {
    fn of(rule: &'a str, severity: Severity, reading: Reading<'a>) -> Self {
        let Reading { sensor_name: sensor, timestamp, value, .. } = reading;
        Self { rule, severity, sensor, timestamp, value }
    }
}

fn judge_result(rules: &mut Rules, result: &WindowResult<'_>, now: f64, would: &mut impl FnMut(Would<'_>)) {
    let reading = Reading {
        sensor_name: result.sensor_name,
        timestamp: result.values.end,
        value: result.value,
        unit: result.unit,
        // A condition over a result has all of that as win.
        metadata: "{}",
    };
    let judged = Judged { reading, stamped: false, since_boot: now, leaves: true };
    rules.evaluate_result(&result.window.name, result.values, judged, &mut |fired| {
        would(Would::of(fired.rule.name(), fired.rule.severity(), reading));
    });
}
