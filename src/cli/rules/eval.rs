//! `rules eval`: one condition, one reading.

use anyhow::{Context as _, anyhow, bail};

use crate::adapter::json::{Defaults, push_reading};
use crate::cli::EXIT_OK;
use crate::clock;
use crate::pipeline::expr::{Context, Expression, Previous};
use crate::reading::{Batch, Reading};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The condition, as condition_expr has it
    #[arg(value_name = "EXPRESSION", allow_hyphen_values = true)]
    expression: String,
    /// The reading as JSON; value has to be there, sensor_name is 'sensor' and timestamp now when they are not
    #[arg(long, value_name = "JSON")]
    reading: String,
    /// The reading before, for prev: its value and timestamp
    #[arg(long, value_name = "JSON")]
    prev: Option<String>,
    /// The result of a window, for win: its mean, max, min, std, sum, count, first, last, start and end, 0 where left out; rate, percentile and ewma, None where left out
    #[arg(long, value_name = "JSON")]
    win: Option<String>,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<u8> {
    print!("{}", text(arguments)?);
    Ok(EXIT_OK)
}

fn text(arguments: &Arguments) -> anyhow::Result<String> {
    let Arguments { expression: text, reading, prev, win } = arguments;
    let expression =
        Expression::compile(text).map_err(|error| pointed(text, error.column, &error.to_string()))?;
    let batch = read(reading).context("--reading")?;
    let mut ctx = Context::new(only(&batch)?);
    if let Some(win) = win {
        ctx = ctx.with_window(serde_json::from_str(win).context("--win")?);
    }
    if let Some(prev) = prev {
        let batch = read(prev).context("--prev")?;
        let Reading { value, timestamp, .. } = only(&batch)?;
        ctx.set_previous(Some(Previous { value, timestamp }));
    }
    let value = expression.evaluate(&ctx).map_err(|error| {
        let said = format!("column {}: {}: {}", error.column, error.class.name(), error.message);
        pointed(text, usize::from(error.column), &said)
    })?;
    let verdict = if value.is_true() { "fires" } else { "does not fire" };
    Ok(format!("{value}\na rule with this condition {verdict}\n"))
}

fn read(text: &str) -> anyhow::Result<Batch> {
    let mut batch = Batch::default();
    let defaults = Defaults {
        sensor_name: Some("sensor"),
        unit: "",
        units: None,
        timestamp: clock::unix_seconds(),
        origin: "",
    };
    push_reading(&mut batch, text, &defaults);
    if let Some((reason, _)) = batch.refusals().next() {
        bail!(
            "the reading is refused as {}; give a JSON object such as {{\"value\": 71.5, \"unit\": \"C\"}}",
            reason.name()
        );
    }
    Ok(batch)
}

fn only(batch: &Batch) -> anyhow::Result<Reading<'_>> {
    batch.readings().next().ok_or_else(|| anyhow!("there is no reading"))
}

/// What is wrong, and below it the expression with a mark under the column, where it stands on one line.
fn pointed(text: &str, column: usize, said: &str) -> anyhow::Error {
    if text.contains(char::is_control) {
        return anyhow!("{said}");
    }
    anyhow!("{said}\n  {text}\n  {:>column$}", '^')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(expression: &str, reading: &str) -> String {
        let [expression, reading] = [expression, reading].map(str::to_owned);
        let (prev, win) =
            (Some(r#"{"value": 80}"#.to_owned()), Some(r#"{"max": 99.5, "count": 3}"#.to_owned()));
        let arguments = Arguments { expression, reading, prev, win };
        text(&arguments).unwrap_or_else(|error| format!("{error:#}\n"))
    }

    #[test]
    fn a_person_is_told_the_value_or_where_it_fails() {
        let reading = r#"{"value": 90, "unit": "C", "metadata": {"line": "a"}}"#;
        let all = [
            said("ctx.value > 85.0 and ctx.unit == 'C'", reading),
            said("ctx.metadata.get('line')", reading),
            said("ctx.value - 90", reading),
            said("ctx.value - prev.value, win.max, win.count", reading),
            said("win.median", reading),
            said("prev", reading),
            said("ctx.value >", reading),
            said("ctx.value > 1 or open('x')", reading),
            said("ctx.value > 1 and ctx.metadata['room'] == 3", reading),
            said("ctx.value", r#"{"unit": "C"}"#),
            said("ctx.value", "90"),
            said("ctx.timestamp == 1717156800.0", r#"{"value": 1, "timestamp": "2024-05-31T12:00:00Z"}"#),
        ];
        insta::assert_snapshot!(all.concat());
    }
}
