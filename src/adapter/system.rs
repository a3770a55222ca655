//! The board itself as a sensor: load, memory, disks, and whatever the kernel shows of thermal zones,
//! hwmon chips, 1-Wire thermometers and IIO devices.
//!
//! Works on any Linux; sensors are looked for at every reading, so they may come and go.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use self::sample::{Health, Sample};
use super::{Device, Error, Intake, State};
use crate::config::section::{Section, nearest};
use crate::reading::Batch;

mod bus;
mod proc;
mod sample;

pub const RUNS_ONCE: bool = true;

pub const SAMPLE: &str = r#"
[[sensors.devices]]
name = "board"
ingest_type = "system"
# cpu, memory, disk, thermal, hwmon, w1, iio, load, uptime, network or all
sensor_type = "all"
# The mount point whose space is measured.
path = "/"
"#;

/// Every device of this board.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    devices: Vec<Watched>,
}

/// One device: a part of the board, read under the name it has in the configuration.
#[derive(Clone, Debug, PartialEq)]
struct Watched {
    name: String,
    kind: Kind,
    /// Where `proc` and `sys` are: `/`, but in tests.
    root: PathBuf,
    /// The mount point for [`Kind::Disk`].
    mount: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Cpu,
    Memory,
    Disk,
    Thermal,
    Hwmon,
    W1,
    Iio,
    Load,
    Uptime,
    Network,
    All,
}

impl Source {
    pub fn read(shared: &mut Section<'_>, devices: Vec<Device<'_>>) -> Vec<Self> {
        let root = shared.path("root").unwrap_or_else(|| PathBuf::from("/"));
        if devices.is_empty() {
            return Vec::new();
        }
        vec![Self { devices: devices.into_iter().map(|device| Watched::read(device, &root)).collect() }]
    }

    pub fn name(&self) -> String {
        "system".to_owned()
    }

    /// Reads everything at each poll. 1-Wire thermometers take 0.75 s each, so they have a rhythm of
    /// their own and hold up nothing else.
    ///
    /// # Errors
    ///
    /// In `--once` mode also when a device gave nothing.
    pub async fn run(&self, intake: &Intake) -> Result<(), Error> {
        intake.status.set(State::Connected);
        let part = |slow| self.poll(Sampler::new(&self.devices, slow), intake);
        if intake.once {
            // Both to the end: what one can read is not lost because the other fails.
            let (fast, slow) = tokio::join!(part(false), part(true));
            return fast.and(slow);
        }
        tokio::try_join!(part(false), part(true)).map(|_| ())
    }

    async fn poll(&self, mut sampler: Sampler, intake: &Intake) -> Result<(), Error> {
        if sampler.devices.is_empty() {
            return Ok(());
        }
        let mut ticks = interval(intake.poll_interval.max(INTERVAL_MIN));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = intake.stop.cancelled() => return Ok(()),
            }
            // Beside the runtime's thread: a bus may answer late, or never.
            let read = tokio::task::spawn_blocking(move || {
                let (batch, silent) = sampler.read();
                (sampler, batch, silent)
            });
            let (returned, batch, silent) = tokio::select! {
                read = read => read.map_err(|error| Error::Failed(format!("reading ended: {error}; it starts again")))?,
                () = intake.stop.cancelled() => return Ok(()),
            };
            sampler = returned;
            intake.send(batch).await?;
            if intake.once {
                return match silent.is_empty() {
                    true => Ok(()),
                    false => Err(Error::Failed(format!("{}: no value could be read", silent.join(", ")))),
                };
            }
        }
    }
}

impl Watched {
    fn read(mut device: Device<'_>, shared_root: &Path) -> Self {
        let section = &mut device.section;
        let kind = KINDS.iter().find(|(name, _)| *name == device.sensor_type);
        if kind.is_none() && !device.sensor_type.is_empty() {
            let names: Vec<_> = KINDS.iter().map(|(name, _)| *name).collect();
            let hint = nearest(&device.sensor_type, names.iter().copied());
            let message = format!("'{}' is not known{hint}; give {}", device.sensor_type, names.join(", "));
            section.refuse("sensor_type", message);
        }
        Self {
            kind: kind.map_or(Kind::All, |(_, kind)| *kind),
            root: section.path("root").unwrap_or_else(|| shared_root.to_owned()),
            mount: section.path("path").unwrap_or_else(|| PathBuf::from("/")),
            name: device.name,
        }
    }

    fn shows(&self, kind: Kind) -> bool {
        self.kind == kind || self.kind == Kind::All
    }

    /// `path`, which begins with `/`, under the root.
    fn rooted(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

/// Reads the devices of one rhythm, and remembers what has to outlive a reading.
struct Sampler {
    slow: bool,
    devices: Vec<(Watched, Option<proc::CpuTimes>)>,
    health: Health,
}

impl Sampler {
    fn new(devices: &[Watched], slow: bool) -> Self {
        let has_part = |device: &&Watched| if slow { device.shows(Kind::W1) } else { device.kind != Kind::W1 };
        let devices = devices.iter().filter(has_part).map(|device| (device.clone(), None)).collect();
        Self { slow, devices, health: Health::default() }
    }

    /// One reading of everything, and the names of the devices that gave none. It may block.
    fn read(&mut self) -> (Batch, Vec<String>) {
        let mut batch = Batch::default();
        let mut silent = Vec::new();
        for (device, cpu) in &mut self.devices {
            let before = batch.readings().len();
            let mut sample = Sample::new(&mut batch, &device.name, &mut self.health);
            if self.slow {
                bus::w1(&mut sample, &device.root.join("sys/bus/w1/devices"));
            } else {
                read_fast(&mut sample, device, cpu);
            }
            // A board without thermometers is still a board.
            let needed = !(self.slow && device.kind == Kind::All);
            if needed && batch.readings().len() == before {
                silent.push(device.name.clone());
            }
            self.health.note_device(&device.name, !needed || batch.readings().len() > before);
        }
        self.health.end_round();
        (batch, silent)
    }
}

fn read_fast(sample: &mut Sample<'_>, device: &Watched, cpu: &mut Option<proc::CpuTimes>) {
    let root = &device.root;
    if device.shows(Kind::Cpu) {
        proc::cpu(sample, &root.join("proc/stat"), cpu);
    }
    if device.shows(Kind::Memory) {
        proc::memory(sample, &root.join("proc/meminfo"));
    }
    if device.shows(Kind::Disk) {
        proc::disk(sample, &device.rooted(&device.mount));
    }
    if device.shows(Kind::Load) {
        proc::load(sample, &root.join("proc/loadavg"));
    }
    if device.shows(Kind::Uptime) {
        proc::uptime(sample, &root.join("proc/uptime"));
    }
    if device.shows(Kind::Network) {
        proc::network(sample, &root.join("proc/net/dev"));
    }
    if device.shows(Kind::Thermal) {
        bus::thermal(sample, &root.join("sys/class/thermal"));
    }
    if device.shows(Kind::Hwmon) {
        bus::hwmon(sample, &root.join("sys/class/hwmon"));
    }
    if device.shows(Kind::Iio) {
        bus::iio(sample, &root.join("sys/bus/iio/devices"));
    }
}

const KINDS: [(&str, Kind); 11] = [
    ("cpu", Kind::Cpu),
    ("memory", Kind::Memory),
    ("disk", Kind::Disk),
    ("thermal", Kind::Thermal),
    ("hwmon", Kind::Hwmon),
    ("w1", Kind::W1),
    ("iio", Kind::Iio),
    ("load", Kind::Load),
    ("uptime", Kind::Uptime),
    ("network", Kind::Network),
    ("all", Kind::All),
];
const INTERVAL_MIN: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests;
