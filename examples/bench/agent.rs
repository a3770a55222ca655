//! The agent under measurement: started with a configuration of its own, asked by its own health
//! page, stopped as systemd does it.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::children::{Owned, free_port, write};
use super::probe::{Memory, Usage, memory};

/// What the agent is connected to.
pub struct Wiring<'w> {
    pub broker_port: u16,
    pub endpoint: &'w str,
    pub ca_file: &'w Path,
    /// Of an HTTP ingest, where one is wanted.
    pub ingest_port: Option<u16>,
}

/// A running agent.
pub struct Agent {
    process: Owned,
    health_port: u16,
    log: PathBuf,
    /// From exec to the READY that the service manager gets.
    pub ready: Duration,
}

impl Agent {
    /// Starts `command` (the agent's binary, or a tool that runs it) with its state in `folder`, and
    /// waits for READY and for the broker. `sections` are added to its configuration.
    pub fn start(command: &[&Path], folder: &Path, wiring: &Wiring<'_>, sections: &str) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let health_port = free_port()?;
        let config = folder.join("bench.toml");
        write(&config, &(configuration(folder, health_port, wiring) + sections))?;
        let name = format!("pyvorin-bench-{}-{}", std::process::id(), fastrand::u64(..));
        let notifications = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        notifications.set_read_timeout(Some(SAMPLE_EVERY))?;
        let log = folder.join("agent.log");
        let (program, arguments) = command.split_first().context("no agent to start")?;
        let mut command = Command::new(program);
        command.args(arguments).arg("--config").arg(&config);
        command
            .env("NOTIFY_SOCKET", format!("@{name}"))
            .env_remove("STATE_DIRECTORY")
            .env_remove("CREDENTIALS_DIRECTORY")
            // A captured backtrace maps the whole binary.
            .env_remove("RUST_BACKTRACE");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
        let started = Instant::now();
        let process = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        let mut agent = Self { process: Owned(process), health_port, log, ready: Duration::ZERO };
        agent.wait_ready(&notifications, started + READY_MAX)?;
        agent.ready = started.elapsed();
        agent
            .wait(CONNECT_MAX, || {}, |page| page.0.contains(CONNECTED))
            .context("no connection to the broker")?;
        // The subscription follows the connection.
        std::thread::sleep(SUBSCRIBE);
        Ok(agent)
    }

    fn wait_ready(&mut self, notifications: &UnixDatagram, end: Instant) -> Result<()> {
        let mut message = [0; 1024];
        loop {
            match notifications.recv(&mut message) {
                Ok(length) if message[..length].starts_with(b"READY=1") => return Ok(()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            if let Some(status) = self.process.0.try_wait()? {
                bail!("the agent ended with {status} before READY; it said: {}", self.said());
            }
            if Instant::now() >= end {
                bail!("no READY within {READY_MAX:?}; the agent said: {}", self.said());
            }
        }
    }

    /// The end of its log, which goes with the folder.
    pub fn said(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&log[log.len().saturating_sub(SAID_BYTES_MAX)..]).into_owned()
    }

    pub fn usage(&self) -> Result<Usage> {
        Usage::of(self.process.0.id())
    }

    pub fn pss_bytes(&self) -> Result<u64> {
        Ok(self.memory()?.pss_bytes)
    }

    pub fn memory(&self) -> Result<Memory> {
        memory(self.process.0.id())
    }

    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.process.0.try_wait(), Ok(None))
    }

    /// Commits since its start.
    pub fn commits(&self) -> Result<u64> {
        Ok(self.metrics()?.sum("commits_total"))
    }

    /// Waits until so many items are committed; the result is the peak of the memory meanwhile.
    pub fn wait_stored(&self, items: u64, limit: Duration) -> Result<u64> {
        let mut peak = self.pss_bytes()?;
        let sample = || peak = peak.max(self.pss_bytes().unwrap_or(0));
        self.wait(limit, sample, |page| page.sum("items_stored_total") >= items)
            .with_context(|| format!("{items} readings were not stored"))?;
        Ok(peak)
    }

    /// Waits until the metrics are as `done` says.
    pub fn wait_for(&self, limit: Duration, done: impl Fn(&Metrics) -> bool) -> Result<()> {
        self.wait(limit, || {}, done)
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.process.0), signal).context("cannot signal the agent")
    }

    /// Asks for SIGTERM's drain and waits for its end.
    pub fn stop(self) -> Result<()> {
        self.signal(Signal::TERM)?;
        self.process.finish("the agent", STOP_MAX)
    }

    /// Samples every 100 ms, and reads the metrics rarely, because that is work of the agent.
    fn wait(&self, limit: Duration, mut sample: impl FnMut(), done: impl Fn(&Metrics) -> bool) -> Result<()> {
        let end = Instant::now() + limit;
        for turn in 0_u32.. {
            if turn.is_multiple_of(TURNS_PER_PAGE) && self.metrics().is_ok_and(|page| done(&page)) {
                break;
            }
            if Instant::now() >= end {
                bail!("waited for {limit:?}; the agent said: {}", self.said());
            }
            sample();
            std::thread::sleep(SAMPLE_EVERY);
        }
        Ok(())
    }

    pub fn metrics(&self) -> Result<Metrics> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.health_port))?;
        stream.set_read_timeout(Some(PAGE_MAX))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut page = String::new();
        stream.take(PAGE_BYTES_MAX).read_to_string(&mut page)?;
        Ok(Metrics(page))
    }
}

/// A page of the agent's metrics.
pub struct Metrics(String);

impl Metrics {
    /// Of all series of `name`, whatever their labels.
    pub fn sum(&self, name: &str) -> u64 {
        self.sum_without(name, None)
    }

    /// The same without those whose labels hold `excepted`.
    pub fn sum_without(&self, name: &str, excepted: Option<&str>) -> u64 {
        let lines = self.0.lines().filter_map(|line| line.strip_prefix(PREFIX)?.strip_prefix(name));
        let lines = lines.filter(|rest| excepted.is_none_or(|excepted| !rest.contains(excepted)));
        let values =
            lines.filter(|rest| rest.starts_with([' ', '{'])).filter_map(|rest| rest.rsplit_once(' '));
        values.filter_map(|(_, value)| value.trim().parse::<u64>().ok()).sum()
    }
}

/// Everything that is not wiring is the default, so that the figures are those of a default agent. But
/// the broker is to keep no session, or it would queue every later load for an agent that is gone.
fn configuration(folder: &Path, health_port: u16, wiring: &Wiring<'_>) -> String {
    let Wiring { broker_port, endpoint, ca_file, ingest_port } = wiring;
    let (device, section) = match ingest_port {
        Some(port) => {
            (r#", { name = "gateway", ingest_type = "http" }"#, format!("[ingest.http]\nport = {port}\n"))
        }
        None => ("", String::new()),
    };
    format!(
        r#"[agent]
state_dir = "{state_dir}"
[sensors]
devices = [{{ name = "bench", ingest_type = "mqtt", topic = "bench/+" }}{device}]
[ingest.mqtt]
host = "127.0.0.1"
port = {broker_port}
session_expiry_seconds = 0
[cloud]
enabled = true
endpoint = "{endpoint}"
api_key = "bench"
ca_file = "{ca_file}"
backoff_max_seconds = 1.0
[health]
port = {health_port}
{section}"#,
        state_dir = folder.display(),
        ca_file = ca_file.display(),
    )
}

const PREFIX: &str = "pyvorin_edge_";
const CONNECTED: &str = r#"source_state{source="mqtt",kind="mqtt",state="connected"} 1"#;
/// Also under valgrind.
const READY_MAX: Duration = Duration::from_secs(60);
const CONNECT_MAX: Duration = Duration::from_secs(30);
const SUBSCRIBE: Duration = Duration::from_millis(500);
const STOP_MAX: Duration = Duration::from_secs(60);
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
/// A page costs the agent a fraction of a millisecond.
const TURNS_PER_PAGE: u32 = 3;
const SAID_BYTES_MAX: usize = 2000;
/// At full load on a busy machine.
const PAGE_MAX: Duration = Duration::from_secs(30);
const PAGE_BYTES_MAX: u64 = 4 * 1024 * 1024;
