//! The figures, as a table for people and as JSON for programs.

use serde::Serialize;

/// One measured number.
#[derive(Debug, Serialize)]
pub struct Figure {
    pub name: String,
    pub value: f64,
    pub unit: &'static str,
    /// What it should not exceed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aim_max: Option<f64>,
    /// What it should reach.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aim_min: Option<f64>,
}

impl Figure {
    fn is_met(&self) -> bool {
        self.aim_max.is_none_or(|max| self.value <= max) && self.aim_min.is_none_or(|min| self.value >= min)
    }

    fn aim(&self) -> String {
        let (sign, bound) = match (self.aim_max, self.aim_min) {
            (Some(max), _) => ("<=", max),
            (_, Some(min)) => (">=", min),
            _ => return String::new(),
        };
        format!("{sign} {bound}: {}", if self.is_met() { "met" } else { "**missed**" })
    }
}

/// Everything that was measured, and on what.
#[derive(Debug, Serialize)]
pub struct Report {
    pub machine: String,
    pub file_system: String,
    pub date: String,
    pub version: &'static str,
    pub figures: Vec<Figure>,
}

impl Report {
    pub fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.enter(Figure { name: name.into(), value, unit, aim_max: None, aim_min: None });
    }

    /// Adds a figure that should not exceed `aim_max`.
    pub fn add_aimed(&mut self, name: impl Into<String>, value: f64, unit: &'static str, aim_max: f64) {
        self.enter(Figure { name: name.into(), value, unit, aim_max: Some(aim_max), aim_min: None });
    }

    /// Adds a figure that should reach `aim_min`.
    pub fn add_at_least(&mut self, name: impl Into<String>, value: f64, unit: &'static str, aim_min: f64) {
        self.enter(Figure { name: name.into(), value, unit, aim_max: None, aim_min: Some(aim_min) });
    }

    fn enter(&mut self, figure: Figure) {
        eprintln!("{}: {} {}", figure.name, readable(figure.value), figure.unit);
        self.figures.push(figure);
    }

    /// Whether every aim was met.
    pub fn is_met(&self) -> bool {
        self.figures.iter().all(Figure::is_met)
    }

    /// In Markdown.
    pub fn table(&self) -> String {
        let mut table = format!(
            "{}; {}; pyv-edge-agent {}; state on {}\n\n| figure | value | unit | aim |\n|---|---:|---|---|\n",
            self.date, self.machine, self.version, self.file_system
        );
        for figure in &self.figures {
            let Figure { name, value, unit, .. } = figure;
            table += &format!("| {name} | {} | {unit} | {} |\n", readable(*value), figure.aim());
        }
        table
    }
}

fn readable(value: f64) -> String {
    match value.abs() {
        1000.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}
