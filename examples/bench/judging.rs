//! What windows and rules cost: 100 rules and 20 windows over 1,000 sensors at 20,000 readings a second, beside the same
//! load without any.

use std::fmt::Write;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::children::publish;
use super::conditions::condition;
use super::report::Report;
use super::scenarios::{Bench, LOAD_MAX, mb};

impl Bench {
    /// Each load for `seconds`, evenly spaced.
    pub fn judging(&self, report: &mut Report, seconds: u64) -> Result<()> {
        let (plain, plain_memory) = self.judged(report, "without windows and rules", "", seconds)?;
        let what = format!("{RULES} rules, {WINDOWS} windows");
        let (judged, memory) = self.judged(report, &what, &sections(), seconds)?;
        report.add_aimed(format!("CPU, {what}"), judged, "s/s", CORES_MAX);
        report.add("CPU of windows and rules", (judged - plain) / RATE as f64 * 1e6, "us/reading");
        let grown = memory.saturating_sub(plain_memory);
        // More than their state, which tests/allocations counts: their results wait in buffers, and the allocator keeps those.
        report.add("anonymous memory of windows and rules", mb(grown), "MB");
        Ok(())
    }

    /// CPU seconds a second, and anonymous memory at the end.
    fn judged(&self, report: &mut Report, what: &str, sections: &str, seconds: u64) -> Result<(f64, u64)> {
        let agent = self.agent_with(&what.replace([' ', ','], "-"), sections)?;
        let (before, count, started) = (agent.usage()?, RATE * seconds, Instant::now());
        publish(&self.broker, count, RATE as f64, SENSORS)?.finish("the publisher", LOAD_MAX)?;
        let published = started.elapsed().as_secs_f64();
        // Results are items too: readings alone are counted elsewhere.
        agent.wait_for(LOAD_MAX, |page| page.sum("readings_processed_total") >= count)?;
        let used = agent.usage()?.since(before);
        report.add(format!("rate, {what}"), count as f64 / published, "readings/s");
        report.add(
            format!("{what}: windows emitted"),
            agent.metrics()?.sum("windows_emitted_total") as f64,
            "results",
        );
        report.add(
            format!("{what}: events"),
            agent.metrics()?.sum("events_triggered_total") as f64,
            "events",
        );
        std::thread::sleep(Duration::from_secs(2));
        let memory = agent.memory()?;
        report.add(format!("PSS, {what}"), mb(memory.pss_bytes), "MB");
        report.add(format!("anonymous memory, {what}"), mb(memory.anonymous_bytes), "MB");
        agent.stop()?;
        Ok((used.cpu.as_secs_f64() * RATE as f64 / count as f64, memory.anonymous_bytes))
    }
}

/// Conditions that hardly ever hold, and windows over every sensor.
fn sections() -> String {
    let mut text = String::new();
    for number in 0..WINDOWS {
        let (seconds, aggregation) =
            (10 + 5 * number, ["mean", "max", "min", "std", "sum"][number as usize % 5]);
        write!(
            text,
            "[[windows.definitions]]\nname = 'w{number}'\nsensor_name = '*'\nduration_seconds = {seconds}\n\
             aggregation = '{aggregation}'\n"
        )
        .expect("writing to a string cannot fail");
    }
    for number in 0..RULES {
        let condition = condition(number);
        write!(
            text,
            "[[rules]]\nname = 'r{number}'\ncondition_expr = \"{condition}\"\ncooldown_seconds = 60\n"
        )
        .expect("writing to a string cannot fail");
    }
    text
}

const RATE: u64 = 20_000;
const SENSORS: u32 = 1000;
const RULES: u32 = 100;
const WINDOWS: u32 = 20;
const CORES_MAX: f64 = 1.0;
