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
        self.enter(name.into(), value, unit, None);
    }

    /// Adds a figure that should not exceed `aim_max`.
    pub fn add_aimed(&mut self, name: impl Into<String>, value: f64, unit: &'static str, aim_max: f64) {
        self.enter(name.into(), value, unit, Some(aim_max));
    }

    fn enter(&mut self, name: String, value: f64, unit: &'static str, aim_max: Option<f64>) {
        eprintln!("{name}: {} {unit}", readable(value));
        self.figures.push(Figure { name, value, unit, aim_max });
    }

    /// Whether every aim was met.
    pub fn is_met(&self) -> bool {
        self.figures.iter().all(|figure| figure.aim_max.is_none_or(|max| figure.value <= max))
    }

    /// In Markdown.
    pub fn table(&self) -> String {
        let mut table = format!(
            "{}; {}; pyv-edge-agent {}; state on {}\n\n| figure | value | unit | aim |\n|---|---:|---|---|\n",
            self.date, self.machine, self.version, self.file_system
        );
        for Figure { name, value, unit, aim_max } in &self.figures {
            let aim = match aim_max {
                None => String::new(),
                Some(max) if value <= max => format!("<= {max}: met"),
                Some(max) => format!("<= {max}: **missed**"),
            };
            table += &format!("| {name} | {} | {unit} | {aim} |\n", readable(*value));
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
