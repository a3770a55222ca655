//! Memory: what 100,000 sensors cost, and whether the agent lives within a small control group at full load while the
//! endpoint takes batches and never answers.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::agent::{Agent, Wiring};
use super::cgroup::Cgroup;
use super::children::{free_port, publish};
use super::flood::Flood;
use super::probe::Usage;
use super::report::Report;
use super::scenarios::{Bench, mb};
use super::server::Receiver;
use super::server::behaviour::Behaviour;

impl Bench {
    /// Each part of it for `seconds`, the last under a limit of `limit_mib`.
    pub fn memory(&self, report: &mut Report, seconds: u64, limit_mib: u64) -> Result<()> {
        let length = Duration::from_secs(seconds);
        let behaviour = Behaviour { delay_seconds: NEVER.as_secs_f64(), ..Behaviour::default() };
        let _hanging = self.endpoint.switch_on_with(Receiver::new(behaviour, None))?;
        let mut agent = self.memory_agent("memory-steady", &[], None)?;
        std::thread::sleep(SETTLE);
        let idle = agent.memory()?;
        report.add("PSS idle, before the first reading", mb(idle.pss_bytes), "MB");
        report.add("anonymous memory idle", mb(idle.anonymous_bytes), "MB");
        let publisher = publish(&self.broker, STEADY_RATE * seconds, STEADY_RATE as f64, SENSORS)?;
        let peak = Peak::over(&mut agent, length)?;
        peak.report(report, "at 1,000/s, 100,000 sensors");
        publisher.finish("the publisher", length)?;
        agent.stop()?;

        self.full_load(report, length, None)?;
        self.full_load(report, length, Some(limit_mib))
    }

    fn full_load(&self, report: &mut Report, length: Duration, limit_mib: Option<u64>) -> Result<()> {
        let cgroup = limit_mib.map(|mib| Cgroup::with_limit(mib << 20)).transpose()?;
        let what = limit_mib.map_or("full load".to_owned(), |mib| format!("full load, limit of {mib} MiB"));
        let words = cgroup.as_ref().map(Cgroup::words);
        let words: Vec<&Path> = words.iter().flatten().map(PathBuf::as_path).collect();
        let port = free_port()?;
        let mut agent = self.memory_agent(&what.replace([' ', ','], "-"), &words, Some(port))?;
        let before = agent.usage()?;
        let started = Instant::now();
        // More than can be taken in: it is ended with the measurement.
        let publisher = publish(&self.broker, u64::MAX, 0.0, SENSORS)?;
        let flood = Flood::start(port, CONNECTIONS, SENSORS, BODY_BYTES);
        let peak = Peak::over(&mut agent, length)?;
        drop(publisher);
        let (acknowledged, put_off) = flood.stop();
        let seconds = started.elapsed().as_secs_f64();
        peak.report(report, &what);
        if let Some(cgroup) = &cgroup {
            let counts = cgroup.counts()?;
            report.add(format!("most charged, {what}"), mb(counts.peak_bytes), "MB");
            report.add(format!("limit met, {what}"), counts.limit_hits as f64, "times");
            report.add_aimed(format!("OOM kills, {what}"), counts.oom_kills as f64, "kills", 0.0);
        }
        report.add_aimed(format!("ended early, {what}"), f64::from(u8::from(!agent.is_running())), "", 0.0);
        if !agent.is_running() {
            eprintln!("the agent said: {}", agent.said());
            return Ok(());
        }
        let stored = agent.metrics()?.sum("items_stored_total");
        let used: Usage = agent.usage()?.since(before);
        report.add(format!("stored, {what}"), stored as f64 / seconds, "items/s");
        report.add(format!("CPU, {what}"), used.cpu.as_secs_f64() * 100_000.0 / stored as f64, "s/100k");
        report.add(format!("over HTTP, {what}"), acknowledged as f64 / seconds, "readings/s");
        report.add(format!("bodies put off, {what}"), put_off as f64, "bodies");
        fs::copy(agent.log(), self.folder.join("last.log")).ok();
        agent.stop()
    }

    fn memory_agent(&self, name: &str, words: &[&Path], ingest_port: Option<u16>) -> Result<Agent> {
        let command: Vec<_> = words.iter().copied().chain([self.agent.as_path()]).collect();
        let wiring = Wiring { ingest_port, ..self.wiring() };
        Agent::start(&command, &self.folder.join(name), &wiring, STAGES)
    }
}

/// The most that was seen.
#[derive(Default)]
struct Peak {
    pss_bytes: u64,
    anonymous_bytes: u64,
    at_end_bytes: u64,
}

impl Peak {
    fn over(agent: &mut Agent, length: Duration) -> Result<Self> {
        let (mut peak, end) = (Self::default(), Instant::now() + length);
        while Instant::now() < end && agent.is_running() {
            if let Ok(now) = agent.memory() {
                peak.pss_bytes = peak.pss_bytes.max(now.pss_bytes);
                peak.anonymous_bytes = peak.anonymous_bytes.max(now.anonymous_bytes);
                peak.at_end_bytes = now.pss_bytes;
            }
            std::thread::sleep(SAMPLE_EVERY);
        }
        Ok(peak)
    }

    fn report(&self, report: &mut Report, what: &str) {
        report.add(format!("PSS peak, {what}"), mb(self.pss_bytes), "MB");
        report.add(format!("anonymous memory peak, {what}"), mb(self.anonymous_bytes), "MB");
        report.add(format!("PSS at the end, {what}"), mb(self.at_end_bytes), "MB");
    }
}

const SENSORS: u32 = 100_000;
const STEADY_RATE: u64 = 1000;
const CONNECTIONS: u32 = 8;
const BODY_BYTES: usize = 1_000_000;
/// Longer than anything waits.
const NEVER: Duration = Duration::from_secs(86_400);
const SETTLE: Duration = Duration::from_secs(2);
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
/// Every stage that knows sensors has to know all of them.
const STAGES: &str = r#"
[[windows.definitions]]
name = "minute"
sensor_name = "*"
duration_seconds = 60.0
aggregation = "mean"
[[windows.definitions]]
name = "quarter"
sensor_name = "*"
duration_seconds = 900.0
step_seconds = 60.0
window_type = "rolling"
aggregation = "max"
[[rules]]
name = "warm"
condition_expr = "ctx.value > 20.5"
cooldown_seconds = 3600.0
[privacy]
rules = [{ sensor = "*-7", action = "hash" }]
"#;
