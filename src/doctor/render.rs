//! A report for people: a line for each check, and below it what it means and what mends it.

use std::io::IsTerminal;

use super::{Check, Level, Report};

/// The text; `colour` marks the levels as a terminal does.
pub fn text(report: &Report, colour: bool) -> String {
    let on = report.board.as_ref().map_or_else(String::new, |board| format!(", on {board}"));
    let mut out = format!("pyv-edge-agent {}, as {}{on}\n\n", report.version, report.user);
    let width = report.checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    for check in &report.checks {
        out.push_str(&line(check, width, colour));
    }
    out.push_str(&format!("\n{}\n", summary(&report.checks)));
    out
}

fn line(check: &Check, width: usize, colour: bool) -> String {
    let word = format!("{:LEVEL_WIDTH$}", word(check.level));
    let word = if colour { format!("\x1b[{}m{word}\x1b[0m", code(check.level)) } else { word };
    let mut out = format!("{word}  {:width$}  {}\n", check.name, check.found);
    for (label, text) in [("means", &check.means), ("mend", &check.mend)] {
        if !text.is_empty() {
            out.push_str(&format!("{:LEVEL_WIDTH$}    {label:5}  {text}\n", ""));
        }
    }
    out
}

fn summary(checks: &[Check]) -> String {
    let count = |level| checks.iter().filter(|check| check.level == level).count();
    let number = |level, one: &str, many: &str| {
        let number = count(level);
        format!("{number} {}", if number == 1 { one } else { many })
    };
    format!(
        "{}, {}, {} ok, {} unknown, {} not applicable",
        number(Level::Error, "error", "errors"),
        number(Level::Warning, "warning", "warnings"),
        count(Level::Ok),
        count(Level::Unknown),
        count(Level::NotApplicable)
    )
}

/// Whether standard output is a terminal that wants colours (no-color.org).
pub fn wants_colour() -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    std::io::stdout().is_terminal()
        && !is_set("NO_COLOR")
        && std::env::var_os("TERM").is_none_or(|terminal| terminal != "dumb")
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Ok => "ok",
        Level::NotApplicable => "-",
        Level::Unknown => "unknown",
        Level::Warning => "warning",
        Level::Error => "error",
    }
}

/// Of ANSI.
fn code(level: Level) -> u8 {
    match level {
        Level::Ok => 32,
        Level::NotApplicable | Level::Unknown => 2,
        Level::Warning => 33,
        Level::Error => 31,
    }
}

const LEVEL_WIDTH: usize = 7;
