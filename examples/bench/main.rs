//! Measures the release binary end to end: a real mosquitto, a publisher in a process of its own, an
//! HTTPS endpoint, and the kernel's own counts. `scripts/bench` builds and runs it.

mod agent;
mod cgroup;
mod children;
mod conditions;
mod endpoint;
mod flood;
mod judging;
mod memory;
mod probe;
mod report;
mod scenarios;
#[path = "../receiver/server.rs"]
#[expect(dead_code, reason = "the receiver can do more than take everything")]
mod server;
mod soak;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use clap::Parser;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use children::Broker;
use endpoint::Endpoint;
use report::Report;
use scenarios::{Bench, Size};

/// Measures the agent and prints a table; exits with 1 when --check is given and an aim is missed.
#[derive(Parser)]
struct Arguments {
    /// The binary to measure.
    #[arg(long, default_value = "target/release/pyv-edge-agent")]
    agent: PathBuf,
    /// Where the stores lie while they are measured; not a tmpfs, which writes nothing.
    #[arg(long, default_value = "target")]
    dir: PathBuf,
    /// Less than a minute, with coarser figures.
    #[arg(long)]
    quick: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    /// Fail when an aim is missed.
    #[arg(long)]
    check: bool,
    /// Only these: binary, start, outage, online, steady, judging, instructions.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Instead of the measurements: a load with everything flapping, for so many minutes.
    #[arg(long, value_name = "MINUTES")]
    soak: Option<u64>,
    /// Instead of the measurements: memory with 100,000 sensors, each part for so many seconds; wants root and a memory
    /// controller.
    #[arg(long, value_name = "SECONDS")]
    memory: Option<u64>,
    /// Of the control group in the last part of that.
    #[arg(long, value_name = "MIB", default_value_t = 32)]
    limit: u64,
    /// Of what goes wrong when in the soak.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Count instructions too, under valgrind: some minutes.
    #[arg(long)]
    instructions: bool,
    /// Leave the stores, logs and callgrind profiles where they are.
    #[arg(long)]
    keep: bool,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let agent = arguments.agent.canonicalize().with_context(|| {
        format!("no agent at {}; build it: cargo build --release", arguments.agent.display())
    })?;
    let dir =
        arguments.dir.canonicalize().with_context(|| format!("no folder {}", arguments.dir.display()))?;
    let mut folder = tempfile::Builder::new().prefix("bench-").tempdir_in(dir)?;
    folder.disable_cleanup(arguments.keep);
    let file_system = probe::file_system(folder.path());
    if file_system == "tmpfs" {
        eprintln!("{} is a tmpfs: written bytes will be 0; give --dir", folder.path().display());
    }
    let mut report = Report {
        machine: probe::machine(),
        file_system,
        date: OffsetDateTime::now_utc().replace_nanosecond(0)?.format(&Rfc3339)?,
        version: env!("CARGO_PKG_VERSION"),
        figures: Vec::new(),
    };
    let bench = Bench {
        agent: stripped(&agent, folder.path()),
        agent_with_symbols: agent,
        broker: Broker::start(folder.path())?,
        endpoint: Endpoint::new(&folder.path().join("tls"))?,
        folder: folder.path().to_owned(),
        size: if arguments.quick { Size::QUICK } else { Size::FULL },
    };
    run(&bench, &arguments, &mut report)?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}", report.table());
    }
    Ok(ExitCode::from(u8::from(arguments.check && !report.is_met())))
}

/// A stripped copy of `agent`, or itself where there is no `strip`: only the size differs then.
fn stripped(agent: &Path, folder: &Path) -> PathBuf {
    let copy = folder.join("pyv-edge-agent");
    let status = Command::new("strip").arg("-o").arg(&copy).arg(agent).status();
    if status.is_ok_and(|status| status.success()) { copy } else { agent.to_owned() }
}

fn run(bench: &Bench, arguments: &Arguments, report: &mut Report) -> Result<()> {
    if let Some(minutes) = arguments.soak {
        return bench.soak(report, minutes, arguments.seed);
    }
    if let Some(seconds) = arguments.memory {
        return bench.memory(report, seconds, arguments.limit);
    }
    let wants = |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|only| only == name);
    if wants("binary") {
        bench.binary(report)?;
    }
    if wants("start") {
        bench.start(report)?;
    }
    if wants("outage") {
        bench.outage(report)?;
    }
    if wants("online") {
        bench.online(report)?;
    }
    if wants("steady") {
        bench.steady(report, false)?;
        bench.steady(report, true)?;
    }
    if wants("judging") {
        bench.judging(report, bench.size.steady_seconds)?;
    }
    if arguments.instructions || arguments.only.iter().any(|only| only == "instructions") {
        bench.instructions(report)?;
    }
    Ok(())
}
