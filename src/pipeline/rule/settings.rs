//! Rules, as configured.

use std::time::Duration;

use crate::reading::Severity;

/// One rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    pub name: String,
    pub condition_expr: String,
    pub severity: Severity,
    /// Least time between two fires of one sensor, on the readings' own time.
    pub cooldown: Duration,
    /// `Rule '<name>' fired` when none is given.
    pub message: Option<String>,
    /// How long the condition has to hold before it fires, on the readings' own time.
    pub hold: Duration,
    /// Once it fired for a sensor it does not again before this is true on a reading of it.
    pub clear_expr: Option<String>,
    /// Fires when nothing came from a sensor for so long, on the boot clock, instead of on a reading; the
    /// condition says of its last reading whether it is meant.
    pub silent: Option<Duration>,
    /// Judges the results of this window instead of readings.
    pub window: Option<String>,
    /// Judges other rules instead of readings; the condition is not asked then.
    pub composite: Option<Composite>,
    /// Names of the actions that its events start.
    pub actions: Vec<String>,
}

/// Which other rules have to hold together, by their names. One list of the first two is not empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Composite {
    pub all_of: Vec<String>,
    pub any_of: Vec<String>,
    pub none_of: Vec<String>,
    /// How long it counts that a rule held, on the readings' own time.
    pub within: Duration,
    pub group_by: GroupBy,
}

/// Which sensors belong together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum GroupBy {
    #[default]
    All,
    /// Those whose names are the same up to the last dot or slash.
    Prefix,
    Sensor,
}

impl Composite {
    /// Every rule it judges, in the order of the lists.
    pub fn members(&self) -> impl Iterator<Item = &str> {
        self.all_of.iter().chain(&self.any_of).chain(&self.none_of).map(String::as_str)
    }
}

impl GroupBy {
    /// The group of a sensor.
    pub(super) fn of(self, sensor: &str) -> &str {
        match self {
            Self::All => "",
            Self::Prefix => sensor.rfind(['.', '/']).map_or(sensor, |at| &sensor[..at]),
            Self::Sensor => sensor,
        }
    }
}

/// The rules of `all` that depend on themselves, each with the way back to it: `a, b, a`. Names that nobody
/// has lead nowhere.
pub fn cycles(all: &[Settings]) -> Vec<(usize, String)> {
    let find = |name: &str| all.iter().position(|rule| rule.name == name);
    let next: Vec<Vec<usize>> = all
        .iter()
        .map(|rule| rule.composite.iter().flat_map(Composite::members).filter_map(find).collect())
        .collect();
    let mut cycles = Vec::new();
    for start in (0..all.len()).filter(|start| !next[*start].is_empty()) {
        // The first way to each rule that is reached.
        let mut from: Vec<Option<usize>> = vec![None; all.len()];
        let mut open = vec![start];
        while let Some(at) = open.pop() {
            for &to in &next[at] {
                if from[to].is_none() {
                    from[to] = Some(at);
                    open.push(to);
                }
            }
        }
        let Some(mut at) = from[start] else { continue };
        let mut way = vec![all[start].name.as_str()];
        while at != start {
            way.push(&all[at].name);
            at = from[at].unwrap_or(start);
        }
        way.push(&all[start].name);
        way.reverse();
        cycles.push((start, way.join(", ")));
    }
    cycles
}
