//! The measurements, one function each.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::agent::{Agent, Wiring};
use super::children::{Broker, publish};
use super::endpoint::Endpoint;
use super::probe::Usage;
use super::report::Report;

/// What every measurement needs.
pub struct Bench {
    /// Stripped, as it is shipped.
    pub agent: PathBuf,
    /// With the names of its functions, when it was built with them.
    pub agent_with_symbols: PathBuf,
    pub broker: Broker,
    pub endpoint: Endpoint,
    /// Each measurement has a folder in it, on the disk that is to be measured.
    pub folder: PathBuf,
    pub size: Size,
}

/// How much is measured.
pub struct Size {
    pub starts: usize,
    /// Readings queued in all, after each step of the outage.
    pub backlogs: &'static [u64],
    pub online: u64,
    pub steady_seconds: u64,
    pub idle_seconds: u64,
    pub instructions: u64,
}

impl Size {
    pub const FULL: Self = Self {
        starts: 15,
        backlogs: &[100_000, 1_000_000, 10_000_000],
        online: 300_000,
        steady_seconds: 60,
        idle_seconds: 20,
        instructions: 50_000,
    };
    /// For CI: half a minute.
    pub const QUICK: Self = Self {
        starts: 3,
        backlogs: &[20_000, 100_000],
        online: 50_000,
        steady_seconds: 8,
        idle_seconds: 3,
        instructions: 10_000,
    };
}

impl Bench {
    /// Size of the binary as it is shipped.
    pub fn binary(&self, report: &mut Report) -> Result<()> {
        report.add("release binary, stripped", mb(fs::metadata(&self.agent)?.len()), "MB");
        Ok(())
    }

    /// Time from exec to READY with an empty store, and what the agent is when nothing happens.
    pub fn start(&self, report: &mut Report) -> Result<()> {
        let mut millis = Vec::with_capacity(self.size.starts);
        for turn in 0..self.size.starts {
            let agent = self.agent_in(&format!("start-{turn}"))?;
            millis.push(agent.ready.as_secs_f64() * 1000.0);
            agent.stop()?;
        }
        millis.sort_by(f64::total_cmp);
        report.add_aimed(
            "exec to READY, new store, median",
            millis[millis.len() / 2],
            "ms",
            READY_MILLIS_MAX,
        );
        report.add("exec to READY, new store, slowest", millis[millis.len() - 1], "ms");

        let agent = self.agent_in("idle")?;
        settle();
        let before = agent.usage()?;
        std::thread::sleep(Duration::from_secs(self.size.idle_seconds));
        let used = agent.usage()?.since(before);
        report.add_aimed("PSS idle, before the first reading", mb(agent.pss_bytes()?), "MB", IDLE_MB_MAX);
        report.add("CPU idle", used.cpu.as_secs_f64() * 1000.0 / self.size.idle_seconds as f64, "ms/s");
        agent.stop()
    }

    /// The endpoint is down while readings come at full speed; then the agent is started again, the
    /// endpoint comes up and takes the backlog.
    pub fn outage(&self, report: &mut Report) -> Result<()> {
        let agent = self.agent_in("outage")?;
        let before = agent.usage()?;
        let (mut queued, mut publishing, mut peak) = (0, Duration::ZERO, 0);
        for &backlog in self.size.backlogs {
            let started = Instant::now();
            let publisher = publish(&self.broker, backlog - queued, 0.0, SENSORS)?;
            let step_peak = agent.wait_stored(backlog, LOAD_MAX)?;
            publishing += started.elapsed();
            publisher.finish("the publisher", LOAD_MAX)?;
            settle();
            report.add(format!("PSS peak on the way to {backlog} queued"), mb(step_peak), "MB");
            report.add(format!("PSS at rest with {backlog} queued"), mb(agent.pss_bytes()?), "MB");
            (queued, peak) = (backlog, peak.max(step_peak));
        }
        let used = agent.usage()?.since(before);
        let commits = agent.commits()?;
        report.add_aimed("PSS peak, endpoint down", mb(peak), "MB", PEAK_MB_MAX);
        report.add_at_least(
            "rate at full speed, endpoint down",
            queued as f64 / publishing.as_secs_f64(),
            "readings/s",
            RATE_MIN,
        );
        report.add_aimed(
            "CPU at full speed, endpoint down",
            cpu_per_100k(used, queued),
            "s/100k",
            FULL_SPEED_MAX,
        );
        report.add_aimed(
            "written at full speed, endpoint down",
            per_reading(used, queued),
            "B/reading",
            WRITTEN_MAX,
        );
        report.add("readings per commit at full speed", queued as f64 / commits as f64, "readings");
        agent.stop()?;
        let file = fs::metadata(self.folder.join("outage").join("edge_store.db"))?.len();
        report.add("database", file as f64 / queued as f64, "B/reading");

        let agent = self.agent_in("outage")?;
        report.add_aimed(
            format!("exec to READY with {queued} queued"),
            agent.ready.as_secs_f64() * 1000.0,
            "ms",
            READY_MILLIS_MAX,
        );
        settle();
        report.add_aimed(
            format!("PSS at rest, started with {queued} queued"),
            mb(agent.pss_bytes()?),
            "MB",
            IDLE_MB_MAX,
        );
        self.drain(report, &agent, queued)?;
        agent.stop()
    }

    fn drain(&self, report: &mut Report, agent: &Agent, queued: u64) -> Result<()> {
        let before = agent.usage()?;
        let mut peak = 0;
        let mut sample = || peak = peak.max(agent.pss_bytes().unwrap_or(0));
        let up = self.endpoint.switch_on()?;
        up.wait(queued, LOAD_MAX, &mut sample)?;
        // From the first batch on: before it the agent waits for its backoff to end.
        let (first, (last, _)) = up.first().zip(up.reached(queued)).context("the endpoint took nothing")?;
        let seconds = last.duration_since(first).as_secs_f64();
        settle();
        let used = agent.usage()?.since(before);
        report.add_at_least("drain after the outage", queued as f64 / seconds, "readings/s", RATE_MIN);
        report.add("CPU of the drain", cpu_per_100k(used, queued), "s/100k");
        report.add("written by the drain", per_reading(used, queued), "B/reading");
        report.add_aimed("PSS peak of the drain", mb(peak), "MB", PEAK_MB_MAX);
        Ok(())
    }

    /// Full speed, with an endpoint that takes everything at once.
    pub fn online(&self, report: &mut Report) -> Result<()> {
        let up = self.endpoint.switch_on()?;
        let agent = self.agent_in("online")?;
        let (before, count) = (agent.usage()?, self.size.online);
        let started = Instant::now();
        let publisher = publish(&self.broker, count, 0.0, SENSORS)?;
        let mut peak = agent.wait_stored(count, LOAD_MAX)?;
        let stored = started.elapsed().as_secs_f64();
        publisher.finish("the publisher", LOAD_MAX)?;
        up.wait(count, LOAD_MAX, || peak = peak.max(agent.pss_bytes().unwrap_or(0)))?;
        // The last batch is not full and waits for the flush interval, which is no matter of speed.
        let (at, delivered) = up.reached(count / 100 * 99).context("the endpoint took nothing")?;
        let delivery = at.duration_since(started).as_secs_f64();
        settle();
        let used = agent.usage()?.since(before);
        report.add("rate at full speed, endpoint up, stored", count as f64 / stored, "readings/s");
        report.add("rate at full speed, endpoint up, delivered", delivered as f64 / delivery, "readings/s");
        report.add("CPU at full speed, endpoint up", cpu_per_100k(used, count), "s/100k");
        report.add("written at full speed, endpoint up", per_reading(used, count), "B/reading");
        report.add_aimed("PSS peak, endpoint up", mb(peak), "MB", PEAK_MB_MAX);
        agent.stop()
    }

    /// 500 readings a second, evenly spaced.
    pub fn steady(&self, report: &mut Report, online: bool) -> Result<()> {
        let what = if online { "endpoint up" } else { "endpoint down" };
        let up = if online { Some(self.endpoint.switch_on()?) } else { None };
        let agent = self.agent_in(&format!("steady {what}").replace(' ', "-"))?;
        settle();
        let count = STEADY_RATE * self.size.steady_seconds;
        let (before, commits) = (agent.usage()?, agent.commits()?);
        // Nobody asks for its metrics meanwhile: at this rate that would show.
        let limit = Duration::from_secs(self.size.steady_seconds) + LOAD_MAX;
        publish(&self.broker, count, STEADY_RATE as f64, SENSORS)?.finish("the publisher", limit)?;
        agent.wait_stored(count, LOAD_MAX)?;
        if let Some(up) = &up {
            up.wait(count, LOAD_MAX, || {})?;
        }
        let used = agent.usage()?.since(before);
        let commits = agent.commits()? - commits;
        report.add_aimed(format!("CPU at 500/s, {what}"), cpu_per_100k(used, count), "s/100k", STEADY_MAX);
        let written = per_reading(used, count);
        if online {
            report.add(format!("written at 500/s, {what}"), written, "B/reading");
        } else {
            report.add_aimed(format!("written at 500/s, {what}"), written, "B/reading", WRITTEN_MAX);
        }
        report.add(
            format!("commits at 500/s, {what}"),
            commits as f64 / self.size.steady_seconds as f64,
            "1/s",
        );
        report.add(format!("PSS after it, {what}"), mb(agent.pss_bytes()?), "MB");
        agent.stop()
    }

    /// Instructions in user space per reading, which do not depend on what else the machine does.
    /// Those of a start and stop without readings are taken off.
    pub fn instructions(&self, report: &mut Report) -> Result<()> {
        let base = self.callgrind("instructions-base", 0)?;
        let count = self.size.instructions;
        let loaded = self.callgrind("instructions", count)?;
        report.add("instructions of a start and stop", base as f64 / 1e6, "million");
        report.add(
            "instructions at full speed, endpoint down",
            (loaded.saturating_sub(base)) as f64 / count as f64,
            "1/reading",
        );
        Ok(())
    }

    fn callgrind(&self, name: &str, count: u64) -> Result<u64> {
        let out = self.folder.join(format!("{name}.callgrind"));
        let option = PathBuf::from(format!("--callgrind-out-file={}", out.display()));
        let command =
            [Path::new("valgrind"), Path::new("--tool=callgrind"), &option, &self.agent_with_symbols];
        let agent = Agent::start(&command, &self.folder.join(name), &self.wiring(), "")
            .context("is valgrind installed? sudo apt-get install valgrind")?;
        if count > 0 {
            let publisher = publish(&self.broker, count, 0.0, SENSORS)?;
            agent.wait_stored(count, LOAD_MAX)?;
            publisher.finish("the publisher", LOAD_MAX)?;
        }
        agent.stop()?;
        let profile = fs::read_to_string(&out).with_context(|| format!("no profile in {}", out.display()))?;
        let totals = profile.lines().find_map(|line| line.strip_prefix("totals: "));
        totals.and_then(|totals| totals.trim().parse().ok()).context("callgrind wrote no totals")
    }

    fn agent_in(&self, name: &str) -> Result<Agent> {
        self.agent_with(name, "")
    }

    /// With further sections in its configuration.
    pub fn agent_with(&self, name: &str, sections: &str) -> Result<Agent> {
        Agent::start(&[&self.agent], &self.folder.join(name), &self.wiring(), sections)
    }

    pub fn wiring(&self) -> Wiring<'_> {
        Wiring {
            broker_port: self.broker.port,
            endpoint: &self.endpoint.url,
            ca_file: &self.endpoint.ca_file,
            ingest_port: None,
        }
    }
}

/// Lets the last commit, the last acknowledgements and the allocator's work end.
fn settle() {
    std::thread::sleep(Duration::from_secs(2));
}

pub fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn cpu_per_100k(used: Usage, readings: u64) -> f64 {
    used.cpu.as_secs_f64() * 100_000.0 / readings as f64
}

fn per_reading(used: Usage, readings: u64) -> f64 {
    used.written_bytes as f64 / readings as f64
}

/// Distinct names, unless their number is what matters.
pub const SENSORS: u32 = 100;
const STEADY_RATE: u64 = 500;
/// For a whole load to be stored or delivered.
pub const LOAD_MAX: Duration = Duration::from_secs(900);

/// The aims: what a board with one core and an SD card can bear.
const FULL_SPEED_MAX: f64 = 0.6;
const STEADY_MAX: f64 = 2.0;
const IDLE_MB_MAX: f64 = 4.5;
const PEAK_MB_MAX: f64 = 16.0;
const RATE_MIN: f64 = 50_000.0;
const WRITTEN_MAX: f64 = 60.0;
const READY_MILLIS_MAX: f64 = 50.0;
