//! The other processes of a measurement: a mosquitto and the publisher.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

/// Ends with its owner.
pub struct Owned(pub Child);

impl Drop for Owned {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Owned {
    /// # Errors
    ///
    /// It failed, or did not end within `limit`.
    pub fn finish(mut self, what: &str, limit: Duration) -> Result<()> {
        let end = Instant::now() + limit;
        loop {
            match self.0.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("{what} ended with {status}"),
                None if Instant::now() >= end => bail!("{what} did not end within {limit:?}"),
                None => std::thread::sleep(POLL),
            }
        }
    }
}

/// A broker that forgets everything and holds nothing back.
pub struct Broker {
    process: Owned,
    pub port: u16,
}

impl Broker {
    pub fn start(folder: &Path) -> Result<Self> {
        let port = free_port()?;
        let config = folder.join("mosquitto.conf");
        write(
            &config,
            &format!(
                "listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nlog_type error\n\
                 max_inflight_messages 0\nmax_queued_messages 0\n"
            ),
        )?;
        let process = Command::new("mosquitto").arg("-c").arg(&config).stdin(Stdio::null()).spawn();
        let process = match process {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                bail!("mosquitto is not installed or not in PATH; install it: sudo apt-get install mosquitto")
            }
            process => Owned(process.context("cannot start mosquitto")?),
        };
        let mut broker = Self { process, port };
        let end = Instant::now() + START_MAX;
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if let Some(status) = broker.process.0.try_wait()? {
                bail!("mosquitto ended with {status}; its configuration is {}", config.display());
            }
            if Instant::now() >= end {
                bail!("mosquitto does not listen on port {port} after {START_MAX:?}");
            }
            std::thread::sleep(POLL);
        }
        Ok(broker)
    }
}

impl Broker {
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill_process(Pid::from_child(&self.process.0), signal).context("cannot signal mosquitto")
    }
}

/// Starts the publisher that lies beside this program; `rate` 0 is full speed.
pub fn publish(broker: &Broker, count: u64, rate: f64, sensors: u32) -> Result<Owned> {
    let program = std::env::current_exe()?.with_file_name("publish");
    let process = Command::new(&program)
        .args([
            "--port",
            &broker.port.to_string(),
            "--count",
            &count.to_string(),
            "--rate",
            &rate.to_string(),
            "--sensors",
            &sensors.to_string(),
        ])
        // Each run has other values.
        .args(["--seed", &fastrand::u32(..).to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| {
            format!("cannot start {}; build it: cargo build --release --example publish", program.display())
        })?;
    Ok(Owned(process))
}

/// A port that was free a moment ago.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

pub fn write(path: &Path, text: &str) -> Result<()> {
    File::create(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

const START_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
